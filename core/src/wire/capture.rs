//! Writing a change-set while its request runs.
//!
//! Decides how row events become bytes without a copy of the row in between,
//! and how they are taken back when a statement fails or a savepoint is rolled
//! back. What was changed, the caller knows; reading it back is `changeset`'s
//! business.

use super::buffer::Writer;
use super::changeset::{SEAL, op, value};
use crate::changeset::{RequestId, StoredAnswer, TableShape};
use crate::entry::Entry;
use crate::hlc::Hlc;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

/// A SQLite value that is borrowed, from SQLite itself at best.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// An IEEE double.
    Real(f64),
    /// Text as stored, valid UTF-8 or not.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

/// A point in a request to which [`ChangeSetWriter::truncate`] goes back.
/// Good for the request in which it was taken, as long as nothing before it is
/// taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    changes_len: usize,
    changes: usize,
    tables_len: usize,
    tables: usize,
}

/// A change-set beyond [`Entry::PAYLOAD_MAX`]: the request is refused with 413
/// and rolled back; nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLarge {
    /// Its size.
    pub bytes: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the transaction's changes take {} bytes, {} are allowed", self.bytes, Entry::PAYLOAD_MAX)
    }
}

impl core::error::Error for TooLarge {}

/// Writes the change-sets of one connection, one request after the other;
/// buffers are kept from request to request.
///
/// # Panics
/// Its methods panic on a caller that contradicts itself: a table index that
/// was not given out (or was taken back), a row with another number of values
/// than its table has stored columns, a mark from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct ChangeSetWriter {
    changes: Writer,
    change_count: usize,
    tables: Writer,
    /// Per table of the dictionary: the caller's name for its shape, and how
    /// many values a row has.
    shapes: Vec<(u64, usize)>,
    index: BTreeMap<u64, u32>,
    answer: Option<StoredAnswer>,
}

impl ChangeSetWriter {
    /// Buffers larger than this are given back after their request.
    const KEPT_MAX: usize = 1 << 20;

    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The index of a table in this request's dictionary, which it enters when
    /// it is first asked for. `shape_id` is the caller's name for this very
    /// shape: a table that was altered has another one.
    ///
    /// An index is good until a [`ChangeSetWriter::truncate`] to a mark from
    /// before: ask again for each row, it is cheap.
    pub fn table(&mut self, shape_id: u64, shape: &TableShape) -> u32 {
        // Row after row goes to the same table.
        if let Some((last, _)) = self.shapes.last()
            && *last == shape_id
        {
            return self.shapes.len() as u32 - 1;
        }
        if let Some(index) = self.index.get(&shape_id) {
            return *index;
        }
        let index = self.shapes.len() as u32;
        write_shape(&mut self.tables, shape);
        self.shapes.push((shape_id, shape.columns.len()));
        self.index.insert(shape_id, index);
        index
    }

    /// A row appeared. `rowid` is 0 for `WITHOUT ROWID`; `new` are its stored
    /// columns in declared order.
    #[inline]
    pub fn push_insert<'a>(&mut self, table: u32, rowid: i64, new: impl IntoIterator<Item = ValueRef<'a>>) {
        self.begin(op::INSERT, table);
        self.changes.zigzag(rowid);
        self.row(table, new);
    }

    /// A row changed. `new` is `None` where the value stayed as it was, bit
    /// for bit.
    #[inline]
    pub fn push_update<'a>(
        &mut self,
        table: u32,
        old_rowid: i64,
        new_rowid: i64,
        old: impl IntoIterator<Item = ValueRef<'a>>,
        new: impl IntoIterator<Item = Option<ValueRef<'a>>>,
    ) {
        self.begin(op::UPDATE, table);
        self.changes.zigzag(old_rowid);
        self.changes.zigzag(new_rowid);
        self.row(table, old);
        let mut count = 0;
        for item in new {
            match item {
                Some(item) => write_value(&mut self.changes, item),
                None => self.changes.u8(value::UNCHANGED),
            }
            count += 1;
        }
        self.expect_arity(table, count);
    }

    /// A row went away.
    #[inline]
    pub fn push_delete<'a>(&mut self, table: u32, rowid: i64, old: impl IntoIterator<Item = ValueRef<'a>>) {
        self.begin(op::DELETE, table);
        self.changes.zigzag(rowid);
        self.row(table, old);
    }

    /// A schema statement ran; call it after the row events of that statement.
    pub fn push_ddl(&mut self, sql: &str, epoch: u64) {
        self.change_count += 1;
        self.changes.u8(op::DDL);
        self.changes.varint(epoch);
        self.changes.bytes(sql.as_bytes());
    }

    /// The counter of an `AUTOINCREMENT` table, read back.
    pub fn push_sequence(&mut self, table: &str, counter: Option<i64>) {
        self.change_count += 1;
        self.changes.u8(op::SEQUENCE);
        self.changes.bytes(table.as_bytes());
        self.changes.bool(counter.is_some());
        if let Some(counter) = counter {
            self.changes.zigzag(counter);
        }
    }

    /// `PRAGMA user_version` was set.
    pub fn push_user_version(&mut self, version: i32) {
        self.change_count += 1;
        self.changes.u8(op::USER_VERSION);
        self.changes.zigzag(i64::from(version));
    }

    /// `PRAGMA application_id` was set.
    pub fn push_application_id(&mut self, id: i32) {
        self.change_count += 1;
        self.changes.u8(op::APPLICATION_ID);
        self.changes.zigzag(i64::from(id));
    }

    /// What a repeated key is told. An answer longer than
    /// [`crate::changeset::ChangeSet::ANSWER_MAX`] is left out, its key is kept.
    pub fn set_answer(&mut self, key: String, body_digest: [u8; 16], answer: Bytes) {
        self.answer = Some(StoredAnswer { key, body_digest, answer: Some(answer) });
    }

    pub(super) fn set_stored_answer(&mut self, stored: StoredAnswer) {
        self.answer = Some(stored);
    }

    /// Where the request is now.
    pub fn mark(&self) -> Mark {
        Mark {
            changes_len: self.changes.len(),
            changes: self.change_count,
            tables_len: self.tables.len(),
            tables: self.shapes.len(),
        }
    }

    /// Takes back everything since `mark`: a statement failed, or a savepoint
    /// was rolled back. Tables that were first met since then leave the
    /// dictionary as well: one that was created in between does not exist on
    /// any replica.
    pub fn truncate(&mut self, mark: Mark) {
        assert!(
            mark.changes_len <= self.changes.len()
                && mark.changes <= self.change_count
                && mark.tables_len <= self.tables.len()
                && mark.tables <= self.shapes.len(),
            "a mark that lies ahead of the request"
        );
        self.changes.bytes.truncate(mark.changes_len);
        self.change_count = mark.changes;
        self.tables.bytes.truncate(mark.tables_len);
        for (shape_id, _) in self.shapes.drain(mark.tables..) {
            self.index.remove(&shape_id);
        }
    }

    /// Forgets the request.
    pub fn clear(&mut self) {
        for buffer in [&mut self.changes, &mut self.tables] {
            buffer.bytes.clear();
            buffer.bytes.shrink_to(Self::KEPT_MAX);
        }
        self.change_count = 0;
        self.shapes.clear();
        self.index.clear();
        self.answer = None;
    }

    /// How many changes are in it.
    pub fn changes(&self) -> usize {
        self.change_count
    }

    /// Whether nothing changed; an answer may have been set all the same.
    pub fn is_empty(&self) -> bool {
        self.change_count == 0
    }

    /// How many bytes it takes so far, to within the seal and the answer: a
    /// request beyond [`Entry::PAYLOAD_MAX`] can be stopped while it runs.
    pub fn size(&self) -> usize {
        self.changes.len() + self.tables.len()
    }

    /// The request's change-set; the writer is empty afterwards, whatever comes
    /// back.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn finish(&mut self, request: RequestId, hlc: Hlc, database: &str) -> Result<Bytes, TooLarge> {
        let payload = self.finish_unbounded(request, hlc, database);
        match payload.len() {
            bytes if bytes > Entry::PAYLOAD_MAX => Err(TooLarge { bytes }),
            _ => Ok(payload),
        }
    }

    pub(super) fn finish_unbounded(&mut self, request: RequestId, hlc: Hlc, database: &str) -> Bytes {
        let answer = self.answer.take();
        let answer_len = answer.as_ref().map_or(0, |a| a.key.len() + a.answer.as_ref().map_or(0, Bytes::len));
        let mut out = SEAL.begin(self.size() + database.len() + answer_len + 96);
        out.u128(request.0);
        out.u64(hlc.0);
        out.bytes(database.as_bytes());
        out.count(self.shapes.len());
        out.raw(&self.tables.bytes);
        out.count(self.change_count);
        out.raw(&self.changes.bytes);
        super::changeset::write_answer(&mut out, answer.as_ref());
        self.clear();
        SEAL.finish(out)
    }

    #[inline]
    fn begin(&mut self, op: u8, table: u32) {
        assert!((table as usize) < self.shapes.len(), "table {table} is not in this request's dictionary");
        self.change_count += 1;
        self.changes.u8(op);
        self.changes.varint(u64::from(table));
    }

    #[inline]
    fn row<'a>(&mut self, table: u32, values: impl IntoIterator<Item = ValueRef<'a>>) {
        let mut count = 0;
        for item in values {
            write_value(&mut self.changes, item);
            count += 1;
        }
        self.expect_arity(table, count);
    }

    #[inline]
    fn expect_arity(&self, table: u32, count: usize) {
        let columns = self.shapes[table as usize].1;
        assert!(count == columns, "a row of {count} values in a table of {columns} stored columns");
    }
}

fn write_shape(out: &mut Writer, shape: &TableShape) {
    out.bytes(shape.name.as_bytes());
    out.bool(shape.has_rowid);
    out.count(shape.columns.len());
    for column in &shape.columns {
        out.bytes(column.as_bytes());
    }
    out.count(shape.key.len());
    for column in &shape.key {
        out.varint(u64::from(*column));
    }
}

#[inline]
fn write_value(out: &mut Writer, item: ValueRef<'_>) {
    match item {
        ValueRef::Null => out.u8(value::NULL),
        ValueRef::Integer(number) => {
            out.u8(value::INTEGER);
            out.zigzag(number);
        }
        ValueRef::Real(number) => {
            out.u8(value::REAL);
            out.u64(number.to_bits());
        }
        ValueRef::Text(bytes) => {
            out.u8(value::TEXT);
            out.bytes(bytes);
        }
        ValueRef::Blob(bytes) => {
            out.u8(value::BLOB);
            out.bytes(bytes);
        }
    }
}
