//! Change-sets as bytes: reading them, whole or one change at a time.
//!
//! Decides the layout: request, stamp, database, the dictionary of tables, the
//! changes, the stored answer. A row's number of values is not written: it is
//! its table's. Whether the tables are those of this database is for whoever
//! applies it.

use super::buffer::{Reader, Writer};
use super::capture::{ChangeSetWriter, ValueRef};
use super::error::DecodeError;
use super::sealed::Seal;
use crate::changeset::{Change, ChangeSet, RequestId, StoredAnswer, TableShape, Value};
use crate::entry::Entry;
use crate::hlc::Hlc;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

pub(super) const SEAL: Seal = Seal { magic: *b"bHA\xd1", version: 1 };

/// Tags of operations.
pub(super) mod op {
    pub(in super::super) const INSERT: u8 = 0;
    pub(in super::super) const UPDATE: u8 = 1;
    pub(in super::super) const DELETE: u8 = 2;
    pub(in super::super) const DDL: u8 = 3;
    pub(in super::super) const SEQUENCE: u8 = 4;
    pub(in super::super) const USER_VERSION: u8 = 5;
    pub(in super::super) const APPLICATION_ID: u8 = 6;
}

/// Tags of values.
pub(super) mod value {
    pub(in super::super) const NULL: u8 = 0;
    pub(in super::super) const INTEGER: u8 = 1;
    pub(in super::super) const REAL: u8 = 2;
    pub(in super::super) const TEXT: u8 = 3;
    pub(in super::super) const BLOB: u8 = 4;
    /// Only among an update's new values.
    pub(in super::super) const UNCHANGED: u8 = 5;
}

/// SQLite's own bound on columns (SQLITE_MAX_COLUMN cannot be set higher).
const COLUMNS_MAX: usize = 32767;

/// An empty name, the kind, no columns, no key.
const TABLE_MIN: usize = 4;

/// A tag and one number.
const CHANGE_MIN: usize = 2;

/// Writes a change-set that exists as a value; the capture of a running
/// request uses [`ChangeSetWriter`]. An answer beyond [`ChangeSet::ANSWER_MAX`]
/// is left out. The size is not bounded here.
///
/// # Panics
/// If a change contradicts `tables`: see [`ChangeSetWriter`].
pub fn encode_changeset(set: &ChangeSet) -> Bytes {
    let mut writer = ChangeSetWriter::new();
    for (id, shape) in set.tables.iter().enumerate() {
        writer.table(id as u64, shape);
    }
    for change in &set.changes {
        push(&mut writer, change);
    }
    if let Some(stored) = &set.stored_answer {
        writer.set_stored_answer(stored.clone());
    }
    writer.finish_unbounded(set.request, set.hlc, &set.database)
}

fn push(writer: &mut ChangeSetWriter, change: &Change) {
    match change {
        Change::Insert { table, rowid, new } => {
            writer.push_insert(*table, *rowid, new.iter().map(ValueRef::from));
        }
        Change::Update { table, old_rowid, new_rowid, old, new } => writer.push_update(
            *table,
            *old_rowid,
            *new_rowid,
            old.iter().map(ValueRef::from),
            new.iter().map(|v| v.as_ref().map(ValueRef::from)),
        ),
        Change::Delete { table, rowid, old } => {
            writer.push_delete(*table, *rowid, old.iter().map(ValueRef::from));
        }
        Change::Ddl { sql, epoch } => writer.push_ddl(sql, *epoch),
        Change::Sequence { table, value } => writer.push_sequence(table, *value),
        Change::UserVersion(version) => writer.push_user_version(*version),
        Change::ApplicationId(id) => writer.push_application_id(*id),
    }
}

impl<'a> From<&'a Value> for ValueRef<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(number) => Self::Integer(*number),
            Value::Real(number) => Self::Real(*number),
            Value::Text(bytes) => Self::Text(bytes),
            Value::Blob(bytes) => Self::Blob(bytes),
        }
    }
}

/// Reads a whole change-set; texts and blobs share `payload`'s memory.
///
/// # Errors
/// [`DecodeError`]; nothing may be applied then.
pub fn decode_changeset(payload: Bytes) -> Result<ChangeSet, DecodeError> {
    let mut reader = ChangeSetReader::new(payload)?;
    // A change takes some fifty times its shortest spelling in memory: what is
    // reserved at once is bounded by what ordinary changes take.
    let mut changes = Vec::with_capacity(reader.left.min(reader.input.left() / 16 + 1));
    while let Some(change) = reader.next_change()? {
        changes.push(change);
    }
    let (head, stored_answer) = reader.finish()?;
    Ok(ChangeSet {
        request: head.request,
        hlc: head.hlc,
        database: head.database,
        tables: head.tables,
        changes,
        stored_answer,
    })
}

/// What comes before the changes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Head {
    request: RequestId,
    hlc: Hlc,
    database: String,
    tables: Vec<TableShape>,
}

/// Reads a change-set one change at a time: memory stays near the payload's
/// size however many changes it holds. The checksum has been verified before
/// the first one, the spelling of a later one has not: apply inside a
/// transaction, and commit after [`ChangeSetReader::end`].
#[derive(Clone, Debug)]
pub struct ChangeSetReader {
    input: Reader,
    head: Head,
    left: usize,
}

impl ChangeSetReader {
    /// Checks the seal and reads what comes before the changes.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn new(payload: Bytes) -> Result<Self, DecodeError> {
        if payload.len() > Entry::PAYLOAD_MAX {
            return Err(DecodeError::Bound {
                what: "change-set",
                got: payload.len() as u64,
                max: Entry::PAYLOAD_MAX as u64,
            });
        }
        let mut input = Reader::new(SEAL.open(&payload)?);
        let request = RequestId(input.u128()?);
        let hlc = Hlc(input.u64()?);
        let database = String::from(input.text("database", Entry::PAYLOAD_MAX)?);
        let count = input.count("tables", TABLE_MIN, u32::MAX as usize)?;
        let mut tables = Vec::with_capacity(count.min(256));
        for _ in 0..count {
            tables.push(read_shape(&mut input)?);
        }
        let left = input.count("changes", CHANGE_MIN, usize::MAX)?;
        Ok(Self { input, head: Head { request, hlc, database, tables }, left })
    }

    /// The request.
    pub fn request(&self) -> RequestId {
        self.head.request
    }

    /// When it ran, by the writer's clock.
    pub fn hlc(&self) -> Hlc {
        self.head.hlc
    }

    /// The database.
    pub fn database(&self) -> &str {
        &self.head.database
    }

    /// The tables that changes refer to.
    pub fn tables(&self) -> &[TableShape] {
        &self.head.tables
    }

    /// How many changes are still to come.
    pub fn changes_left(&self) -> usize {
        self.left
    }

    /// The next change; `None` after the last.
    ///
    /// # Errors
    /// [`DecodeError`]; what was read before must not be committed.
    pub fn next_change(&mut self) -> Result<Option<Change>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let input = &mut self.input;
        Ok(Some(match input.u8()? {
            op::INSERT => {
                let (table, columns) = table_of(input, &self.head.tables)?;
                Change::Insert { table, rowid: input.zigzag()?, new: read_row(input, columns)? }
            }
            op::UPDATE => {
                let (table, columns) = table_of(input, &self.head.tables)?;
                Change::Update {
                    table,
                    old_rowid: input.zigzag()?,
                    new_rowid: input.zigzag()?,
                    old: read_row(input, columns)?,
                    new: read_new_row(input, columns)?,
                }
            }
            op::DELETE => {
                let (table, columns) = table_of(input, &self.head.tables)?;
                Change::Delete { table, rowid: input.zigzag()?, old: read_row(input, columns)? }
            }
            op::DDL => {
                let epoch = input.varint()?;
                let sql = String::from(input.text("statement", Entry::PAYLOAD_MAX)?);
                Change::Ddl { sql, epoch }
            }
            op::SEQUENCE => Change::Sequence {
                table: String::from(input.text("table name", Entry::PAYLOAD_MAX)?),
                value: if input.bool("sequence")? { Some(input.zigzag()?) } else { None },
            },
            op::USER_VERSION => Change::UserVersion(read_i32(input)?),
            op::APPLICATION_ID => Change::ApplicationId(read_i32(input)?),
            got => {
                return Err(DecodeError::BadTag { what: "operation", got });
            }
        }))
    }

    /// Reads the stored answer, after the last change, and checks that
    /// nothing follows.
    ///
    /// # Errors
    /// [`DecodeError`]; nothing may be committed then.
    ///
    /// # Panics
    /// If changes are left.
    pub fn end(self) -> Result<Option<StoredAnswer>, DecodeError> {
        self.finish().map(|(_, answer)| answer)
    }

    fn finish(mut self) -> Result<(Head, Option<StoredAnswer>), DecodeError> {
        assert!(self.left == 0, "{} changes were not read", self.left);
        let answer = read_answer(&mut self.input)?;
        self.input.end()?;
        Ok((self.head, answer))
    }
}

fn table_of(input: &mut Reader, tables: &[TableShape]) -> Result<(u32, usize), DecodeError> {
    let got = input.varint()?;
    match usize::try_from(got).ok().and_then(|n| tables.get(n)) {
        Some(shape) => Ok((got as u32, shape.columns.len())),
        None => Err(DecodeError::Bound { what: "table index", got, max: (tables.len() as u64).saturating_sub(1) }),
    }
}

/// Each value takes at least one byte: so many can be reserved for as are left.
fn expect_values(input: &Reader, columns: usize) -> Result<(), DecodeError> {
    if input.left() < columns {
        return Err(DecodeError::Truncated);
    }
    Ok(())
}

fn read_row(input: &mut Reader, columns: usize) -> Result<Vec<Value>, DecodeError> {
    expect_values(input, columns)?;
    let mut row = Vec::with_capacity(columns);
    for _ in 0..columns {
        let tag = input.u8()?;
        row.push(read_value(input, tag)?);
    }
    Ok(row)
}

fn read_new_row(input: &mut Reader, columns: usize) -> Result<Vec<Option<Value>>, DecodeError> {
    expect_values(input, columns)?;
    let mut row = Vec::with_capacity(columns);
    for _ in 0..columns {
        row.push(match input.u8()? {
            value::UNCHANGED => None,
            tag => Some(read_value(input, tag)?),
        });
    }
    Ok(row)
}

fn read_value(input: &mut Reader, tag: u8) -> Result<Value, DecodeError> {
    Ok(match tag {
        value::NULL => Value::Null,
        value::INTEGER => Value::Integer(input.zigzag()?),
        value::REAL => Value::Real(f64::from_bits(input.u64()?)),
        value::TEXT => Value::Text(input.bytes("text", Entry::PAYLOAD_MAX)?),
        value::BLOB => Value::Blob(input.bytes("blob", Entry::PAYLOAD_MAX)?),
        got => return Err(DecodeError::BadTag { what: "value", got }),
    })
}

fn read_i32(input: &mut Reader) -> Result<i32, DecodeError> {
    i32::try_from(input.zigzag()?).map_err(|_| DecodeError::BadNumber)
}

fn read_shape(input: &mut Reader) -> Result<TableShape, DecodeError> {
    let name = String::from(input.text("table name", Entry::PAYLOAD_MAX)?);
    let has_rowid = input.bool("rowid")?;
    let count = input.count("columns", 1, COLUMNS_MAX)?;
    let mut columns = Vec::with_capacity(count.min(256));
    for _ in 0..count {
        columns.push(String::from(input.text("column name", Entry::PAYLOAD_MAX)?));
    }
    let keys = input.count("key columns", 1, COLUMNS_MAX)?;
    let mut key = Vec::with_capacity(keys);
    for _ in 0..keys {
        let got = input.varint()?;
        if got >= columns.len() as u64 {
            return Err(DecodeError::Bound { what: "key column", got, max: (columns.len() as u64).saturating_sub(1) });
        }
        key.push(got as u16);
    }
    Ok(TableShape { name, columns, key, has_rowid })
}

/// Tags of the stored answer.
const ANSWER_ABSENT: u8 = 0;
const ANSWER_WHOLE: u8 = 1;
const ANSWER_TOO_LONG: u8 = 2;

pub(super) fn write_answer(out: &mut Writer, stored: Option<&StoredAnswer>) {
    let Some(stored) = stored else {
        out.u8(ANSWER_ABSENT);
        return;
    };
    let answer = stored.answer.as_ref().filter(|a| a.len() <= ChangeSet::ANSWER_MAX);
    out.u8(match answer {
        Some(_) => ANSWER_WHOLE,
        None => ANSWER_TOO_LONG,
    });
    out.bytes(stored.key.as_bytes());
    out.raw(&stored.body_digest);
    if let Some(answer) = answer {
        out.bytes(answer);
    }
}

fn read_answer(input: &mut Reader) -> Result<Option<StoredAnswer>, DecodeError> {
    let whole = match input.u8()? {
        ANSWER_ABSENT => return Ok(None),
        ANSWER_WHOLE => true,
        ANSWER_TOO_LONG => false,
        got => {
            return Err(DecodeError::BadTag { what: "stored answer", got });
        }
    };
    Ok(Some(StoredAnswer {
        key: String::from(input.text("idempotency key", Entry::PAYLOAD_MAX)?),
        body_digest: input.digest16()?,
        answer: if whole { Some(input.bytes("stored answer", ChangeSet::ANSWER_MAX)?) } else { None },
    }))
}
