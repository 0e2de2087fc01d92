//! One request, run inside the open transaction.
//!
//! Decides what of a request is kept: everything or nothing, in a savepoint and
//! a change-set of its own, checked so that its entry can be applied by itself.
//! Knows nothing of groups, entries or answers beyond the body.

use super::bind::{Binder, Places};
use super::capture::{Rows, Stop};
use super::guard::{Caller, Ddl, Info};
use super::hash;
use super::open::Engine;
use super::problem;
use super::schema::{Table, quoted};
use super::sys::{Failure, Stmt};
use crate::api::{Statement, WriteRequest};
use crate::error::ApiError;
use crate::sqljson::ResultWriter;
use base_ha_core::changeset::Value;
use base_ha_core::entry::Entry;
use base_ha_core::hlc::Hlc;
use base_ha_core::wire::ValueRef;
use bytes::Bytes;
use rusqlite::ffi;
use std::rc::Rc;

/// A client's statement, kept for the next time.
pub(super) struct Prepared {
    stmt: Stmt,
    info: Info,
    /// Bytes of the text that it took.
    consumed: usize,
    /// AUTOINCREMENT tables into which it may insert.
    counters: Vec<String>,
}

/// Longer texts are prepared each time: they are imports, not traffic.
const CACHED_TEXT_MAX: usize = 8 << 10;

/// Statements kept; with more in use than that, all are prepared anew.
const CACHED_MAX: usize = 512;

/// A request that went through; still inside the transaction.
pub(super) struct Done {
    /// Its answer.
    pub(super) body: Bytes,
    /// Its change-set, if it changed anything.
    pub(super) payload: Option<Bytes>,
}

/// Why a request did not go through. Nothing of it is left.
pub(super) enum Ended {
    /// It failed; the transaction goes on without it.
    Failed(ApiError),
    /// The transaction went with it: OR ROLLBACK, RAISE(ROLLBACK), an
    /// interrupt, a full disk, no memory.
    Lost(ApiError),
    /// The node loop wants the connection back; the request is untouched.
    Interrupted,
}

/// Why a statement of a request failed.
enum Trouble {
    /// SQLite said so.
    Sqlite(Failure, Option<String>),
    /// Anything else.
    Other(ApiError),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Sqlite(failure, None)
    }
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

impl Places for Stmt {
    fn parameter_count(&self) -> usize {
        Self::parameter_count(self)
    }

    fn parameter_name(&self, index: usize) -> Option<&str> {
        Self::parameter_name(self, index)
    }

    fn put(&mut self, index: usize, value: &Value) -> Result<(), ApiError> {
        self.bind(index, ValueRef::from(value)).map_err(|f| problem::of_statement(&f, None, None))
    }
}

/// The same value as `sqljson` takes it.
fn sql_value(value: ValueRef<'_>) -> rusqlite::types::ValueRef<'_> {
    use rusqlite::types::ValueRef as Sql;
    match value {
        ValueRef::Null => Sql::Null,
        ValueRef::Integer(number) => Sql::Integer(number),
        ValueRef::Real(number) => Sql::Real(number),
        ValueRef::Text(bytes) => Sql::Text(bytes),
        ValueRef::Blob(bytes) => Sql::Blob(bytes),
    }
}

impl Engine {
    /// Runs a request in a savepoint.
    ///
    /// # Errors
    /// [`Ended`]: what became of it and of the transaction.
    pub(super) fn run_request(&mut self, request: &WriteRequest, hlc: Hlc) -> Result<Done, Ended> {
        self.ctx.caller.set(Caller::Store);
        if let Err(failure) = self.own.savepoint.run() {
            return Err(Ended::Lost(problem::storage("start a request", &failure)));
        }
        self.conn.reset_last_insert_rowid();
        {
            let mut capture = self.ctx.capture.borrow_mut();
            capture.set.clear();
            capture.counters.clear();
            capture.rows = Rows::Log;
            capture.cut = false;
        }
        let epoch = self.epoch;
        self.ctx.stopped.set(None);
        self.ctx.deadline.set(Some(request.limits.deadline));
        let mut run = Running { counters: Vec::new(), defers: false };
        let result = self.run_statements(request, &mut run);
        self.ctx.deadline.set(None);
        self.ctx.caller.set(Caller::Store);
        let result = result.and_then(|body| {
            // The transaction may be gone although the statement succeeded?
            // SQLite says no; the check costs nothing.
            let payload = self.close_request(request, hlc, &body, &run)?;
            Ok(Done { body, payload })
        });
        if run.defers && self.conn.in_transaction() {
            // Stays on until COMMIT otherwise, for every request of the group.
            if let Err(failure) = self.conn.sql().execute_batch("PRAGMA defer_foreign_keys = OFF") {
                tracing::warn!(%failure, "defer_foreign_keys stays on until the group's COMMIT");
            }
        }
        let (result, alive) = match result {
            // A result is kept only if the savepoint can be released.
            Ok(done) if self.conn.in_transaction() => match self.own.release.run() {
                Ok(()) => (Ok(done), true),
                Err(failure) => (Err(Trouble::from(failure)), false),
            },
            Ok(_) => {
                let gone = ApiError::new(500, "transaction_lost", "The transaction ended; nothing was done.");
                (Err(Trouble::Other(gone)), false)
            }
            Err(trouble) => {
                let alive =
                    self.conn.in_transaction() && self.own.rollback_to.run().is_ok() && self.own.release.run().is_ok();
                (Err(trouble), alive)
            }
        };
        let mut capture = self.ctx.capture.borrow_mut();
        capture.rows = Rows::Hash;
        match result {
            Ok(done) => {
                capture.sums.keep_request();
                Ok(done)
            }
            Err(trouble) => {
                capture.sums.drop_request();
                capture.set.clear();
                capture.cut = false;
                drop(capture);
                self.counters.clear();
                if self.epoch != epoch || self.schema_is_stale() {
                    self.epoch = epoch;
                    self.schema_was_rolled_back();
                }
                let stopped = self.ctx.stopped.take();
                if stopped == Some(Stop::Interrupt) {
                    return Err(Ended::Interrupted);
                }
                let error = match trouble {
                    Trouble::Sqlite(failure, denied) => problem::of_statement(&failure, denied.as_deref(), stopped),
                    Trouble::Other(error) => error,
                };
                Err(if alive { Ended::Failed(error) } else { Ended::Lost(error) })
            }
        }
    }

    fn schema_is_stale(&mut self) -> bool {
        self.own.schema_version.integer().ok().flatten() != Some(self.schema_version)
    }

    fn run_statements(&mut self, request: &WriteRequest, run: &mut Running) -> Result<Bytes, Trouble> {
        let limits = &request.limits;
        let mut results = ResultWriter::new(request.many, limits.rows_max, limits.answer_bytes_max);
        for statement in &request.statements {
            self.run_text(statement, &mut results, limits.statements_max, run)?;
        }
        if results.is_empty() {
            return Err(ApiError::new(400, "bad_sql", "The request holds no statement.").into());
        }
        Ok(results.finish())
    }

    /// Runs every statement of a text.
    fn run_text(
        &mut self,
        statement: &Statement,
        results: &mut ResultWriter,
        statements_max: usize,
        run: &mut Running,
    ) -> Result<(), Trouble> {
        if statement.sql.contains('\0') {
            return Err(ApiError::new(400, "bad_sql", "The SQL text holds a NUL character.").into());
        }
        let before = results.results();
        let mut binder = Binder::new(&statement.params)?;
        let mut rest = statement.sql.as_str();
        while !rest.is_empty() {
            self.ctx.caller.set(Caller::User);
            let (key, mut prepared) = match self.cache.remove_entry(rest) {
                Some((key, prepared)) => (Some(key), prepared),
                None => match self.prepare(rest, statement.sql.len() - rest.len())? {
                    Some(prepared) => (None, prepared),
                    None => break, // blanks and comments to the end
                },
            };
            if results.results() >= statements_max {
                let text = format!("A request may hold {statements_max} statements.");
                return Err(ApiError::new(413, "too_many_statements", text).into());
            }
            let outcome = binder
                .bind(&mut prepared.stmt)
                .map_err(Trouble::from)
                .and_then(|()| self.run_prepared(&mut prepared, results, run));
            prepared.stmt.reset();
            let text = rest;
            rest = &rest[prepared.consumed..];
            let changed_schema = outcome?;
            if !changed_schema && rest.is_empty() && text.len() <= CACHED_TEXT_MAX {
                prepared.stmt.clear();
                if self.cache.len() >= CACHED_MAX {
                    self.cache.clear();
                }
                self.cache.insert(key.unwrap_or_else(|| text.to_owned()), prepared);
            }
        }
        binder.finish()?;
        if results.results() == before {
            return Err(ApiError::new(400, "bad_sql", "There is no statement in the text.").into());
        }
        Ok(())
    }

    /// Compiles the first statement of `sql`, before which so many bytes of the
    /// client's text stand.
    fn prepare(&mut self, sql: &str, before: usize) -> Result<Option<Prepared>, Trouble> {
        *self.ctx.info.borrow_mut() = Info::default();
        let result = self.conn.prepare(sql);
        let mut info = self.ctx.info.take();
        let (stmt, consumed) = match result {
            Ok((Some(stmt), consumed)) => (stmt, consumed),
            Ok((None, _)) => return Ok(None),
            Err(failure) => {
                let at = self.conn.error_offset().map(|offset| before + offset);
                return Err(match info.denied.take() {
                    None => Trouble::Other(problem::uncompiled(&failure, at)),
                    denied => Trouble::Sqlite(failure, denied),
                });
            }
        };
        if stmt.is_explain() {
            info = Info::default(); // it would, but does not
        }
        if let (None, Some(table)) = (&info.ddl, &info.writes_internal) {
            let why = format!("the table {table} is SQLite's own and cannot be written");
            return Err(ApiError::new(403, "forbidden_sql", why).into());
        }
        let capture = self.ctx.capture.borrow();
        let counters = info
            .inserts
            .iter()
            .filter(|name| capture.schema.find(name).is_some_and(|t| t.autoincrement))
            .cloned()
            .collect();
        Ok(Some(Prepared { stmt, info, consumed, counters }))
    }

    /// Runs one statement to its end; says whether it changed the schema.
    fn run_prepared(
        &mut self,
        prepared: &mut Prepared,
        results: &mut ResultWriter,
        run: &mut Running,
    ) -> Result<bool, Trouble> {
        let Prepared { stmt, info, counters, .. } = prepared;
        let by_module = match &info.ddl {
            Some(kind) => self.ctx.capture.borrow().is_by_module(kind),
            None => false,
        };
        if by_module {
            // Rows that other virtual tables hold back would be written during
            // this statement, and ignored with its own.
            self.flush_virtual()?;
            self.ctx.caller.set(Caller::User);
            self.ctx.capture.borrow_mut().rows = Rows::Ignore;
        }
        let stepped = Self::step_through(&self.conn, stmt, info, results);
        self.ctx.capture.borrow_mut().rows = Rows::Log;
        stepped?;
        run.defers |= info.defers_foreign_keys;
        for name in counters.iter() {
            if !run.counters.contains(name) {
                run.counters.push(name.clone());
            }
        }
        let too_large = {
            let capture = self.ctx.capture.borrow();
            capture.set.size() > Entry::PAYLOAD_MAX
        };
        if too_large {
            return Err(problem::too_large().into());
        }
        if info.sets_user_version || info.sets_application_id {
            self.ctx.caller.set(Caller::Store);
            let read = |name: &str| -> Result<i32, Failure> {
                let mut pragma = self.conn.prepare_one(&format!("PRAGMA main.{name}"))?;
                // SQLite keeps 32 bits of either.
                Ok(pragma.integer()?.unwrap_or(0) as i32)
            };
            if info.sets_user_version {
                let version = read("user_version")?;
                self.ctx.capture.borrow_mut().set.push_user_version(version);
            }
            if info.sets_application_id {
                let id = read("application_id")?;
                self.ctx.capture.borrow_mut().set.push_application_id(id);
            }
        }
        match &info.ddl {
            Some(kind) => self.after_ddl(kind, stmt),
            None => Ok(false),
        }
    }

    fn step_through(
        conn: &super::sys::Conn<super::capture::Ctx>,
        stmt: &mut Stmt,
        info: &Info,
        results: &mut ResultWriter,
    ) -> Result<(), Trouble> {
        let columns = stmt.column_count();
        if columns == 0 {
            while stmt.step()? {}
            // What a schema statement leaves in changes() is an older one's.
            let changed = if info.writes && info.ddl.is_none() { conn.changes() } else { 0 };
            results.written(i64::try_from(changed).unwrap_or(i64::MAX), conn.last_insert_rowid());
            return Ok(());
        }
        // Executing first: a re-prepare may change the columns' names.
        let mut more = stmt.step()?;
        results.begin((0..columns).map(|n| stmt.column_name(n)));
        while more {
            results.values((0..columns).map(|n| sql_value(stmt.column(n))))?;
            more = stmt.step()?;
        }
        Ok(())
    }

    /// Brings the picture of the schema up to date and logs the statement,
    /// after the row events that it caused itself.
    fn after_ddl(&mut self, kind: &Ddl, stmt: &mut Stmt) -> Result<bool, Trouble> {
        self.ctx.caller.set(Caller::Store);
        stmt.reset();
        let version = self.own.schema_version.integer()?.unwrap_or(0);
        let changed = version != self.schema_version;
        if !changed && *kind != Ddl::Analyze {
            return Ok(false); // IF NOT EXISTS, REINDEX
        }
        match kind {
            Ddl::CreateView(name) => self.refuse_own_in(&format!("SELECT * FROM main.{}", quoted(name)))?,
            Ddl::CreateTrigger(table) => self.refuse_own_in_triggers(table)?,
            Ddl::CreateTable(_)
            | Ddl::CreateVirtual
            | Ddl::DropVirtual
            | Ddl::AlterTable(_)
            | Ddl::Analyze
            | Ddl::Reindex
            | Ddl::Other => {}
        }
        self.schema_version = version;
        self.epoch += 1;
        let sql = match kind {
            Ddl::CreateTable(name) => self.stored_sql(name)?,
            Ddl::CreateVirtual
            | Ddl::DropVirtual
            | Ddl::AlterTable(_)
            | Ddl::CreateView(_)
            | Ddl::CreateTrigger(_)
            | Ddl::Analyze
            | Ddl::Reindex
            | Ddl::Other => stmt.text().to_owned(),
        };
        self.ctx.capture.borrow_mut().set.push_ddl(&sql, self.epoch);
        let created = self.reload_schema()?;
        if let Ddl::CreateTable(_) = kind {
            // AS SELECT: SQLite does not report its rows.
            for table in created {
                self.log_all_rows(&table)?;
            }
        }
        self.cache.clear();
        Ok(true)
    }

    /// Refuses what was just made if `usage`, a use of it, would reach the
    /// node's own tables. SQLite looks into a view or trigger only when it is
    /// used, which is refused as well; but then the view is of no use to
    /// anybody, and the trigger stops every write to its table.
    fn refuse_own_in(&self, usage: &str) -> Result<(), Trouble> {
        self.ctx.caller.set(Caller::User);
        *self.ctx.info.borrow_mut() = Info::default();
        let compiled = self.conn.prepare(usage);
        let denied = self.ctx.info.take().denied;
        self.ctx.caller.set(Caller::Store);
        match (compiled, denied) {
            (Err(failure), Some(why)) => Err(Trouble::Sqlite(failure, Some(why))),
            // One that does not compile for another reason is SQLite's to
            // allow: what it needs may be made later.
            (Ok(_) | Err(_), _) => Ok(()),
        }
    }

    fn refuse_own_in_triggers(&self, table: &str) -> Result<(), Trouble> {
        let table = quoted(table);
        self.refuse_own_in(&format!("INSERT INTO main.{table} DEFAULT VALUES"))?;
        self.refuse_own_in(&format!("DELETE FROM main.{table}"))?;
        let Ok(all) = self.conn.prepare_one(&format!("SELECT * FROM main.{table}")) else {
            return Ok(()); // a view of what is not there yet
        };
        // Each column by itself: a trigger may be for one, and a generated one
        // cannot be set.
        (0..all.column_count()).try_for_each(|n| {
            let column = quoted(all.column_name(n));
            self.refuse_own_in(&format!("UPDATE main.{table} SET {column} = NULL"))
        })
    }

    /// The text under which SQLite keeps a table: of CREATE TABLE .. AS SELECT
    /// the columns, without the SELECT and its parameters.
    fn stored_sql(&mut self, name: &str) -> Result<String, Trouble> {
        let mut find = self
            .conn
            .prepare_one("SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE")?;
        find.bind(1, ValueRef::Text(name.as_bytes()))?;
        find.step()?;
        match find.column(0) {
            ValueRef::Text(sql) => Ok(String::from_utf8_lossy(sql).into_owned()),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => {
                Err(ApiError::new(500, "sqlite", format!("The new table {name} is not in the schema.")).into())
            }
        }
    }

    /// Reads the schema again and brings the sums of the tables that it
    /// changed up to date; gives the new tables.
    pub(super) fn reload_schema(&mut self) -> Result<Vec<Rc<Table>>, ApiError> {
        let failed = |failure: Failure| problem::of_statement(&failure, None, self.ctx.stopped.get());
        let mut capture = self.ctx.capture.borrow_mut();
        let capture = &mut *capture;
        capture.forget_last();
        let difference = capture.schema.reload(&self.conn, &mut capture.sums).map_err(failed)?;
        if let Some(name) = difference.own_name {
            let why = format!("{name}: names that begin with _ha_ are reserved");
            return Err(ApiError::new(403, "forbidden_sql", why));
        }
        if let Some(name) = difference.unaddressable {
            return Err(ApiError::new(
                422,
                "unsupported_schema",
                format!(
                    "The table {name} has columns named rowid, _rowid_ and oid and no INTEGER PRIMARY KEY: its rows \
                     cannot be replicated."
                ),
            ));
        }
        for sum in difference.dropped {
            capture.sums.set(sum, 0);
        }
        for table in difference.created.iter().chain(&difference.rehash) {
            let sum = hash::table(&self.conn, table).map_err(failed)?;
            capture.sums.set(table.sum, sum);
        }
        Ok(difference.created)
    }

    fn log_all_rows(&mut self, table: &Table) -> Result<(), Trouble> {
        let mut rows = self.conn.prepare_one(&table.scan_sql())?;
        while rows.step()? {
            let rowid = match rows.column(0) {
                ValueRef::Integer(rowid) => rowid,
                ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => 0,
            };
            let mut capture = self.ctx.capture.borrow_mut();
            let index = capture.set.table(table.id, &table.shape);
            let values = (0..table.columns.len()).map(|n| rows.column(n + 1));
            capture.set.push_insert(index, rowid, values);
            if capture.set.size() > Entry::PAYLOAD_MAX {
                return Err(problem::too_large().into());
            }
        }
        Ok(())
    }

    /// Everything that must be true of a request before the next one begins:
    /// its entry has to stand by itself.
    fn close_request(
        &mut self,
        request: &WriteRequest,
        hlc: Hlc,
        body: &Bytes,
        run: &Running,
    ) -> Result<Option<Bytes>, Trouble> {
        self.flush_virtual()?;
        // A violation that a later request would heal is one all the same:
        // this request's entry may be the last that is committed.
        if self.conn.deferred_violation() {
            return Err(problem::deferred().into());
        }
        self.read_counters(run)?;
        let mut capture = self.ctx.capture.borrow_mut();
        capture.cut = true;
        if let Some(why) = self.ctx.take_poison() {
            let text = format!("The changes could not be captured ({why}); nothing was done.");
            return Err(ApiError::new(500, "capture_failed", text).into());
        }
        // That it changed nothing is an answer too: under a key it is logged, so
        // that every later writer gives the same one.
        if capture.set.is_empty() && request.idempotency_key.is_none() {
            capture.set.clear();
            return Ok(None);
        }
        if let Some(key) = &request.idempotency_key {
            capture.set.set_answer(key.clone(), request.body_digest, body.clone());
        }
        match capture.set.finish(request.id, hlc, "main") {
            Ok(payload) => Ok(Some(payload)),
            Err(_) => Err(problem::too_large().into()),
        }
    }

    /// Virtual tables hold rows back until a savepoint: they must fall into
    /// this request and not into the next, or into COMMIT.
    fn flush_virtual(&mut self) -> Result<(), Failure> {
        let has_virtual = self.ctx.capture.borrow().schema.has_virtual();
        if has_virtual {
            self.ctx.caller.set(Caller::Store);
            self.own.flush.run()?;
            self.own.flush_release.run()?;
        }
        Ok(())
    }

    /// Reads the counters of AUTOINCREMENT tables back: an ignored insert moves
    /// one without a row event.
    fn read_counters(&mut self, run: &Running) -> Result<(), Failure> {
        let mut names = run.counters.clone();
        {
            let mut capture = self.ctx.capture.borrow_mut();
            names.append(&mut capture.counters);
        }
        if names.is_empty() {
            return Ok(());
        }
        names.sort_unstable();
        names.dedup();
        for name in names {
            let get = &mut self.sequence()?.get;
            get.bind(1, ValueRef::Text(name.as_bytes()))?;
            let value = get.integer()?;
            if self.counters.get(&name) != Some(&value) {
                self.ctx.capture.borrow_mut().set.push_sequence(&name, value);
                self.counters.insert(name, value);
            }
        }
        Ok(())
    }
}

/// What is remembered while a request's statements run.
struct Running {
    counters: Vec<String>,
    defers: bool,
}

/// Whether a failure means that the file is damaged.
pub(super) fn is_corrupt(failure: &Failure) -> bool {
    matches!(failure.primary(), ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB)
}

/// Whether a failure means that there is no room.
pub(super) fn is_full(failure: &Failure) -> bool {
    failure.primary() == ffi::SQLITE_FULL
}
