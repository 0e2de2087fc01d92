//! Committed entries, brought into `data.db` exactly.
//!
//! Decides how each change becomes one statement that must change exactly one
//! row, and what stops a replica. Triggers, foreign-key actions and CHECKs are
//! off: what they did on the writer is in the entries. An entry that cannot be
//! applied takes its whole batch with it and is never skipped. Knows nothing of
//! where entries come from.

use super::capture::Rows;
use super::execute::{is_corrupt, is_full};
use super::guard::{Caller, Info};
use super::open::{Engine, Role};
use super::requests::Recent;
use super::schema::{Table, quoted};
use super::sys::{Failure, Stmt};
use base_ha_core::changeset::{Change, RequestId, Value};
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::ids::Seq;
use base_ha_core::member::Membership;
use base_ha_core::position::Position;
use base_ha_core::wire::{ChangeSetReader, ValueRef, decode_membership};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

/// Entries of one batch: the readers' view moves on that often.
const BATCH_ENTRIES_MAX: usize = 1024;

/// Bytes of one batch.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Statements kept; a schema with more shapes of updates prepares them anew.
const CACHED_MAX: usize = 1024;

/// Why a batch was not applied. Nothing of it was.
#[derive(Debug)]
pub(super) enum Halt {
    /// This entry contradicts the data: the replica stops here.
    Entry {
        /// Which.
        at: Seq,
        /// In words.
        why: String,
    },
    /// No room, or someone else holds the write lock; to be tried again.
    Stuck(String),
    /// The file is damaged or was written by someone else.
    Damaged(String),
    /// The disk fails: the process must end.
    Fatal(String),
}

/// Prepared statements by table shape, kind and changed columns.
#[derive(Default)]
pub(super) struct ApplyCache {
    statements: HashMap<(u64, Kind, u128), Stmt>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Insert,
    Update,
    Delete,
}

/// Why one entry failed.
enum Fault {
    Sqlite(Failure),
    Entry(String),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Sqlite(failure)
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Entry(why)
    }
}

impl Engine {
    /// Applies entries from the front of `backlog`, as many as one transaction
    /// should hold, and removes them. The first must follow what is applied.
    ///
    /// # Errors
    /// [`Halt`]; entries before the one that failed were applied.
    pub(super) fn apply_batch(&mut self, backlog: &mut VecDeque<Entry>, recent: &mut Recent) -> Result<(), Halt> {
        let mut size = 0;
        let fits = |entry: &&Entry| {
            let first = size == 0;
            size += entry.payload.len() + 64;
            first || size <= BATCH_BYTES_MAX
        };
        let count = backlog.iter().take(BATCH_ENTRIES_MAX).take_while(fits).count();
        match self.apply_first(backlog, count, recent) {
            Ok(()) => Ok(()),
            Err((0, halt)) => Err(halt),
            Err((good, halt)) => {
                // What comes before the bad one is sound, and readers may wait
                // for it.
                self.apply_first(backlog, good, recent).map_err(|(_, halt)| halt)?;
                Err(halt)
            }
        }
    }

    fn apply_first(
        &mut self,
        backlog: &mut VecDeque<Entry>,
        count: usize,
        recent: &mut Recent,
    ) -> Result<(), (usize, Halt)> {
        let Some(last) = count.checked_sub(1).and_then(|n| backlog.get(n)) else {
            return Ok(());
        };
        let end = last.position();
        let hlc = backlog.iter().take(count).fold(self.hlc, |highest, e| highest.max(e.hlc));
        // An own no-op or a change of members does not need the replica's
        // settings: a writer need not reopen for it.
        if backlog.iter().take(count).any(|e| e.kind == EntryKind::Data) {
            self.become_role(Role::Replica).map_err(|f| (0, halt(&f, self.applied.seq)))?;
        }
        self.begin().map_err(|f| (0, halt(&f, self.applied.seq)))?;
        let mut membership: Option<(Seq, Membership)> = None;
        let mut done: Vec<(Position, RequestId)> = Vec::with_capacity(count);
        for (n, entry) in backlog.iter().take(count).enumerate() {
            let outcome = self.apply_entry(entry, &mut membership, &mut done);
            if let Err(fault) = outcome {
                let at = entry.seq;
                self.rollback();
                let halt = match fault {
                    Fault::Sqlite(failure) => halt(&failure, at),
                    Fault::Entry(why) => Halt::Entry { at, why },
                };
                return Err((n, halt));
            }
        }
        let written = (|| {
            if let Some((seq, membership)) = &membership {
                self.write_membership(*seq, membership)?;
            }
            self.write_terms(backlog.iter().take(count))?;
            self.write_recent(&done)?;
            self.write_position(end, hlc)?;
            self.commit(end, hlc)
        })();
        if let Err(failure) = written {
            self.rollback();
            let failed = match self.ctx.take_poison() {
                Some(why) => Halt::Entry { at: end.seq, why },
                None => commit_halt(&failure),
            };
            return Err((0, failed));
        }
        if membership.is_some() {
            self.membership = membership;
        }
        backlog.drain(..count);
        for (position, id) in done {
            recent.note(id, position);
        }
        Ok(())
    }

    fn apply_entry(
        &mut self,
        entry: &Entry,
        membership: &mut Option<(Seq, Membership)>,
        done: &mut Vec<(Position, RequestId)>,
    ) -> Result<(), Fault> {
        match entry.kind {
            EntryKind::Noop => Ok(()),
            EntryKind::Config => {
                let decoded = decode_membership(entry.payload.clone())
                    .map_err(|e| Fault::Entry(format!("the membership cannot be read: {e}")))?;
                *membership = Some((entry.seq, decoded));
                Ok(())
            }
            EntryKind::Data => {
                done.push((entry.position(), self.apply_changes(entry)?));
                Ok(())
            }
        }
    }

    /// Applies one change-set; says which request it is of.
    fn apply_changes(&mut self, entry: &Entry) -> Result<RequestId, Fault> {
        let bad = |e| Fault::Entry(format!("the change-set cannot be read: {e}"));
        self.ctx.caller.set(Caller::Store);
        let mut reader = ChangeSetReader::new(entry.payload.clone()).map_err(bad)?;
        let request = reader.request();
        if reader.database() != "main" {
            return Err(Fault::Entry(format!("the change-set is for the database {:?}", reader.database())));
        }
        let mut tables: Vec<Option<Rc<Table>>> = vec![None; reader.tables().len()];
        while let Some(change) = reader.next_change().map_err(bad)? {
            match &change {
                Change::Insert { table, .. } | Change::Update { table, .. } | Change::Delete { table, .. } => {
                    let n = *table as usize;
                    let table = match &tables[n] {
                        Some(table) => table.clone(),
                        None => {
                            let found = self.resolve(&reader.tables()[n])?;
                            tables[n] = Some(found.clone());
                            found
                        }
                    };
                    self.apply_row(&table, &change)?;
                }
                Change::Ddl { sql, epoch } => {
                    self.apply_ddl(sql, *epoch)?;
                    tables.iter_mut().for_each(|t| *t = None);
                }
                Change::Sequence { table, value } => self.apply_counter(table, *value)?,
                Change::UserVersion(number) => self.set_pragma("user_version", *number)?,
                Change::ApplicationId(number) => self.set_pragma("application_id", *number)?,
            }
        }
        if let Some(stored) = reader.end().map_err(bad)? {
            let answer = stored.answer.as_deref();
            self.remember(&stored.key, &stored.body_digest, answer, entry.position(), entry.hlc)?;
        }
        let mut capture = self.ctx.capture.borrow_mut();
        capture.counters.clear();
        capture.sums.keep_request();
        drop(capture);
        match self.ctx.take_poison() {
            None => Ok(request),
            Some(why) => Err(Fault::Entry(why)),
        }
    }

    /// This database's table of exactly the shape that the writer had.
    fn resolve(&self, shape: &base_ha_core::changeset::TableShape) -> Result<Rc<Table>, Fault> {
        let capture = self.ctx.capture.borrow();
        match capture.schema.table(&shape.name) {
            Some(table) if table.shape == *shape => Ok(table.clone()),
            Some(_) => Err(Fault::Entry(format!("the table {:?} has another shape here", shape.name))),
            None => Err(Fault::Entry(format!("there is no table {:?} here", shape.name))),
        }
    }

    fn apply_row(&mut self, table: &Table, change: &Change) -> Result<(), Fault> {
        let (kind, mask) = match change {
            Change::Insert { .. } => (Kind::Insert, 0),
            Change::Delete { .. } => (Kind::Delete, 0),
            Change::Update { old_rowid, new_rowid, new, .. } => {
                let moved = u128::from(old_rowid != new_rowid);
                let mask = new
                    .iter()
                    .take(127)
                    .enumerate()
                    .fold(moved, |mask, (n, v)| mask | u128::from(v.is_some()) << (n + 1));
                if mask == 0 && new.iter().all(Option::is_none) {
                    return Ok(()); // every value stayed what it was
                }
                (Kind::Update, mask)
            }
            Change::Ddl { .. } | Change::Sequence { .. } | Change::UserVersion(_) | Change::ApplicationId(_) => {
                return Ok(());
            }
        };
        // Only the first 127 columns are told apart by the mask.
        let cacheable = table.columns.len() < 127;
        let cache = &mut self.apply.statements;
        let key = (table.id, kind, mask);
        let mut owned;
        let statement = if cacheable {
            if !cache.contains_key(&key) {
                if cache.len() >= CACHED_MAX {
                    cache.clear();
                }
                let sql = row_sql(table, change)?;
                cache.insert(key, self.conn.prepare_one(&sql)?);
            }
            cache.get_mut(&key).ok_or_else(|| Fault::Entry("a statement is missing".into()))?
        } else {
            owned = self.conn.prepare_one(&row_sql(table, change)?)?;
            &mut owned
        };
        bind_row(statement, table, change)?;
        statement.run()?;
        match self.conn.changes() {
            1 => Ok(()),
            n => Err(Fault::Entry(format!("a change of {:?} met {n} rows instead of one", table.shape.name))),
        }
    }

    fn apply_ddl(&mut self, sql: &str, epoch: u64) -> Result<(), Fault> {
        if epoch != self.epoch + 1 {
            return Err(Fault::Entry(format!("schema change {epoch} follows {} here", self.epoch)));
        }
        *self.ctx.info.borrow_mut() = Info::default();
        self.ctx.caller.set(Caller::Log);
        let prepared = self.conn.prepare(sql);
        let info = self.ctx.info.take();
        let (Some(mut statement), consumed) = prepared? else {
            return Err(Fault::Entry("a schema change without a statement".into()));
        };
        let Some(kind) = info.ddl else {
            return Err(Fault::Entry(format!("not a schema statement: {sql}")));
        };
        let one = matches!(self.conn.prepare(&sql[consumed..]), Ok((None, _)));
        if !one {
            return Err(Fault::Entry("a schema change of several statements".into()));
        }
        {
            let mut capture = self.ctx.capture.borrow_mut();
            let by_module = capture.is_by_module(&kind);
            capture.rows = if by_module { Rows::Ignore } else { Rows::Hash };
        }
        let result = statement.run();
        drop(statement);
        self.ctx.capture.borrow_mut().rows = Rows::Hash;
        self.ctx.caller.set(Caller::Store);
        result?;
        self.epoch = epoch;
        self.reload_schema().map_err(|e| Fault::Entry(e.message))?;
        self.schema_version = self.own.schema_version.integer()?.unwrap_or(0);
        self.apply = ApplyCache::default();
        Ok(())
    }

    fn apply_counter(&mut self, table: &str, value: Option<i64>) -> Result<(), Fault> {
        let name = ValueRef::Text(table.as_bytes());
        let Some(value) = value else {
            return Ok(self.sequence()?.delete.run_with(&[name])?);
        };
        let value = ValueRef::Integer(value);
        self.sequence()?.update.run_with(&[name, value])?;
        if self.conn.changes() == 0 {
            self.sequence()?.insert.run_with(&[name, value])?;
        }
        Ok(())
    }

    fn set_pragma(&mut self, name: &str, number: i32) -> Result<(), Fault> {
        Ok(self.conn.prepare_one(&format!("PRAGMA main.{name} = {number}"))?.run()?)
    }
}

/// What a failure outside COMMIT means for the replica, at entry `at`.
pub(super) fn halt(failure: &Failure, at: Seq) -> Halt {
    use rusqlite::ffi;
    if failure.code == super::open::FOREIGN_WRITE || is_corrupt(failure) {
        return Halt::Damaged(failure.to_string());
    }
    match failure.primary() {
        ffi::SQLITE_FULL | ffi::SQLITE_BUSY => Halt::Stuck(failure.to_string()),
        ffi::SQLITE_IOERR | ffi::SQLITE_NOMEM | ffi::SQLITE_CANTOPEN => Halt::Fatal(failure.to_string()),
        _ => Halt::Entry { at, why: failure.to_string() },
    }
}

/// A COMMIT failed: for lack of room it is tried again, for anything else the
/// disk can no longer be believed (R11).
pub(super) fn commit_halt(failure: &Failure) -> Halt {
    match failure {
        f if is_full(f) => Halt::Stuck(f.to_string()),
        f => Halt::Fatal(format!("COMMIT failed: {f}")),
    }
}

fn row_sql(table: &Table, change: &Change) -> Result<String, Fault> {
    let name = quoted(&table.shape.name);
    let columns: Vec<String> = table.shape.columns.iter().map(|c| quoted(c)).collect();
    let rowid = match (table.rowid_column, table.rowid_name) {
        (Some(_), _) => None,
        (None, Some(spelling)) => Some(spelling),
        (None, None) if !table.shape.has_rowid => None,
        (None, None) => return Err(Fault::Entry(format!("the rows of {name} cannot be addressed"))),
    };
    let mut place = 0;
    let mut next = || {
        place += 1;
        format!("?{place}")
    };
    Ok(match change {
        Change::Insert { .. } => {
            let names: Vec<&str> = rowid.into_iter().chain(columns.iter().map(String::as_str)).collect();
            let places: Vec<String> = names.iter().map(|_| next()).collect();
            format!("INSERT INTO main.{name}({}) VALUES({})", names.join(", "), places.join(", "))
        }
        Change::Update { old_rowid, new_rowid, new, .. } => {
            let moved = rowid.filter(|_| old_rowid != new_rowid);
            let changed = columns.iter().zip(new).filter(|(_, v)| v.is_some()).map(|(c, _)| c.as_str());
            let sets: Vec<String> = moved.into_iter().chain(changed).map(|c| format!("{c} = {}", next())).collect();
            let found = where_sql(table, rowid, &columns, &mut next);
            format!("UPDATE main.{name} SET {} WHERE {found}", sets.join(", "))
        }
        Change::Delete { .. } => {
            format!("DELETE FROM main.{name} WHERE {}", where_sql(table, rowid, &columns, &mut next))
        }
        Change::Ddl { .. } | Change::Sequence { .. } | Change::UserVersion(_) | Change::ApplicationId(_) => {
            return Err(Fault::Entry("not a row change".into()));
        }
    })
}

/// The row itself: its rowid where it has one, and its key. A key column of a
/// rowid table may be NULL, and IS finds NULL.
fn where_sql(table: &Table, rowid: Option<&str>, columns: &[String], next: &mut impl FnMut() -> String) -> String {
    let equals = if table.shape.has_rowid && table.rowid_column.is_none() { "IS" } else { "=" };
    let rowid = rowid.map(|spelling| format!("{spelling} = {}", next()));
    let mut conditions: Vec<String> = rowid.into_iter().collect();
    for column in &table.shape.key {
        conditions.push(format!("{} {equals} {}", columns[usize::from(*column)], next()));
    }
    conditions.join(" AND ")
}

/// Binds in the order in which [`row_sql`] numbers its places.
fn bind_row(statement: &mut Stmt, table: &Table, change: &Change) -> Result<(), Fault> {
    let separate_rowid = table.shape.has_rowid && table.rowid_column.is_none();
    let mut place = 0;
    let mut put = |value: ValueRef<'_>| -> Result<(), Failure> {
        place += 1;
        statement.bind(place, value)
    };
    let find = |put: &mut dyn FnMut(ValueRef<'_>) -> Result<(), Failure>, rowid: i64, old: &[Value]| {
        if separate_rowid {
            put(ValueRef::Integer(rowid))?;
        }
        table.shape.key.iter().try_for_each(|column| put(ValueRef::from(&old[usize::from(*column)])))
    };
    match change {
        Change::Insert { rowid, new, .. } => {
            if separate_rowid {
                put(ValueRef::Integer(*rowid))?;
            }
            for value in new {
                put(ValueRef::from(value))?;
            }
        }
        Change::Update { old_rowid, new_rowid, old, new, .. } => {
            if separate_rowid && old_rowid != new_rowid {
                put(ValueRef::Integer(*new_rowid))?;
            }
            for value in new.iter().flatten() {
                put(ValueRef::from(value))?;
            }
            find(&mut put, *old_rowid, old)?;
        }
        Change::Delete { rowid, old, .. } => find(&mut put, *rowid, old)?,
        Change::Ddl { .. } | Change::Sequence { .. } | Change::UserVersion(_) | Change::ApplicationId(_) => {}
    }
    Ok(())
}
