//! What one request changed, as data: exact values, row by row.
//!
//! Decides the model and, in `wire`, its bytes. Knows nothing of SQLite
//! beyond its five storage classes; it is captured and applied by the shell.

use crate::hlc::Hlc;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// A SQLite value, exactly.
#[derive(Clone, Debug)]
pub enum Value {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// An IEEE double, compared by its bits: -0.0 and 0.0 differ.
    Real(f64),
    /// Text as stored, valid UTF-8 or not.
    Text(Bytes),
    /// Bytes.
    Blob(Bytes),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Real(a), Self::Real(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) | (Self::Blob(a), Self::Blob(b)) => a == b,
            (Self::Null | Self::Integer(_) | Self::Real(_) | Self::Text(_) | Self::Blob(_), _) => false,
        }
    }
}

impl Eq for Value {}

/// A table's shape as the writer saw it: columns in declared order, generated
/// ones left out. A replica whose table differs refuses the entry whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableShape {
    /// The table's name.
    pub name: String,
    /// The stored columns' names, in declared order.
    pub columns: Vec<String>,
    /// Indexes into `columns` of the primary key, in key order; empty for a
    /// table whose rows are told apart by rowid alone.
    pub key: Vec<u16>,
    /// False for `WITHOUT ROWID`.
    pub has_rowid: bool,
}

/// One operation of a change-set, in the order in which it happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A row appeared.
    Insert {
        /// Index into [`ChangeSet::tables`].
        table: u32,
        /// Its rowid; 0 for `WITHOUT ROWID`.
        rowid: i64,
        /// Its stored columns.
        new: Vec<Value>,
    },
    /// A row changed; every column's old and new value.
    Update {
        /// Index into [`ChangeSet::tables`].
        table: u32,
        /// Its rowid before; 0 for `WITHOUT ROWID`.
        old_rowid: i64,
        /// Its rowid after.
        new_rowid: i64,
        /// Its stored columns before.
        old: Vec<Value>,
        /// Its stored columns after; `None` where nothing changed.
        new: Vec<Option<Value>>,
    },
    /// A row went away.
    Delete {
        /// Index into [`ChangeSet::tables`].
        table: u32,
        /// Its rowid; 0 for `WITHOUT ROWID`.
        rowid: i64,
        /// Its stored columns.
        old: Vec<Value>,
    },
    /// A schema statement, ordered after the row events of its own statement.
    Ddl {
        /// The statement as it was run, parameters bound as literals.
        sql: String,
        /// The schema's epoch after it: the number of DDL changes ever made.
        epoch: u64,
    },
    /// The counter of an `AUTOINCREMENT` table, read back after an INSERT:
    /// ignored inserts move it without a row event.
    Sequence {
        /// The table's name.
        table: String,
        /// `sqlite_sequence.seq`; `None` if the row is gone.
        value: Option<i64>,
    },
    /// `PRAGMA user_version` was set.
    UserVersion(i32),
    /// `PRAGMA application_id` was set.
    ApplicationId(i32),
}

/// 128 bits that name one request for good, minted by the node that a client
/// talked to, or derived from its `Idempotency-Key`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RequestId(pub u128);

/// What a client that repeats its `Idempotency-Key` is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredAnswer {
    /// The key as sent.
    pub key: String,
    /// BLAKE3 of the request's body, first 16 bytes: another body under the
    /// same key answers 422.
    pub body_digest: [u8; 16],
    /// The answer; `None` if it was larger than 64 KiB.
    pub answer: Option<Bytes>,
}

/// One request's effects: the payload of an [`crate::entry::EntryKind::Data`]
/// entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChangeSet {
    /// The request.
    pub request: RequestId,
    /// When it ran, by the writer's clock.
    pub hlc: Hlc,
    /// The database; `"main"` today, named so that a second one is an addition.
    pub database: String,
    /// The tables that `changes` refers to.
    pub tables: Vec<TableShape>,
    /// What happened, in order.
    pub changes: Vec<Change>,
    /// Kept for a repeated `Idempotency-Key`.
    pub stored_answer: Option<StoredAnswer>,
}

impl ChangeSet {
    /// The longest answer that is stored for a repeated key, in bytes.
    pub const ANSWER_MAX: usize = 64 << 10;

    /// The changes that undo this one, in reverse order; for row changes the
    /// inverse of the inverse is the change-set itself. Request, stamp and
    /// stored answer are the caller's to replace.
    ///
    /// # Errors
    /// [`NotInvertible`] at the first change that says nothing of what was
    /// there before: a schema statement, a counter, a pragma.
    pub fn inverse(&self) -> Result<Self, NotInvertible> {
        let changes = self
            .changes
            .iter()
            .enumerate()
            .rev()
            .map(|(at, change)| change.inverse().ok_or(NotInvertible { at }))
            .collect::<Result<_, _>>()?;
        Ok(Self { changes, ..self.clone() })
    }
}

/// A change-set that cannot be undone by row changes alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotInvertible {
    /// The index of the change that has no inverse.
    pub at: usize,
}

impl Change {
    /// The change that undoes this row change; `None` for any other.
    fn inverse(&self) -> Option<Self> {
        match self {
            Self::Insert { table, rowid, new } => Some(Self::Delete { table: *table, rowid: *rowid, old: new.clone() }),
            Self::Delete { table, rowid, old } => Some(Self::Insert { table: *table, rowid: *rowid, new: old.clone() }),
            Self::Update { table, old_rowid, new_rowid, old, new } => Some(Self::Update {
                table: *table,
                old_rowid: *new_rowid,
                new_rowid: *old_rowid,
                old: (old.iter().zip(new)).map(|(was, is)| is.as_ref().unwrap_or(was).clone()).collect(),
                new: (old.iter().zip(new)).map(|(was, is)| is.as_ref().map(|_| was.clone())).collect(),
            }),
            Self::Ddl { .. } | Self::Sequence { .. } | Self::UserVersion(_) | Self::ApplicationId(_) => None,
        }
    }
}
