//! What SQL on the write connection may do, and what a statement is.
//!
//! Decides by SQLite's authorizer, which sees what a statement would do however
//! it is spelt, never by its text. Also notes, statement by statement, what the
//! capture has to know: schema changes, counters, pragmas. Knows nothing of
//! rows. (What pragmas are there for, readers and writer alike, is in `policy`.)

use super::policy::{self, Pragma};
use super::schema::has_prefix;
use super::schema_sql::is_own;
use super::sys::{Action, Verdict};
use rusqlite::ffi;

/// On whose behalf a statement is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The store's own statements: everything is allowed.
    Store,
    /// A client.
    User,
    /// A schema statement from the log: what a client may do to the schema,
    /// nothing else.
    Log,
}

/// A schema statement's kind, as far as capture treats it in its own way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ddl {
    /// `CREATE TABLE`, with or without `AS SELECT`.
    CreateTable(String),
    /// `CREATE VIRTUAL TABLE`: its module writes rows of its own, on each node.
    CreateVirtual,
    /// `DROP` of a virtual table.
    DropVirtual,
    /// `ALTER TABLE`.
    AlterTable(String),
    /// `ANALYZE`.
    Analyze,
    /// `REINDEX`: changes nothing that anyone can see.
    Reindex,
    /// `CREATE VIEW`.
    CreateView(String),
    /// `CREATE TRIGGER`, on that table or view.
    CreateTrigger(String),
    /// Indexes, and `DROP` of whatever is no virtual table.
    Other,
}

/// What a statement does, as the authorizer heard it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// It changes the schema.
    pub(super) ddl: Option<Ddl>,
    /// Tables into which it, its triggers or its foreign keys insert.
    pub(super) inserts: Vec<String>,
    /// Whether any table of a client is written.
    pub(super) writes: bool,
    /// It sets `user_version`.
    pub(super) sets_user_version: bool,
    /// It sets `application_id`.
    pub(super) sets_application_id: bool,
    /// It touches `defer_foreign_keys`.
    pub(super) defers_foreign_keys: bool,
    /// `sqlite_stat*` or another table that only SQLite writes.
    pub(super) writes_internal: Option<String>,
    /// Why it was denied.
    pub(super) denied: Option<String>,
}

/// Functions that reach outside the database.
const FUNCTIONS_DENIED: [&str; 2] = ["load_extension", "fts3_tokenizer"];

/// Judges one action and notes what is to be known of it.
pub(super) fn judge(caller: Caller, info: &mut Info, action: Action<'_>) -> Verdict {
    if caller == Caller::Store {
        return Verdict::Allow;
    }
    if matches!(action.code, ffi::SQLITE_ANALYZE | ffi::SQLITE_REINDEX) && is_own(action.first) {
        // A bare ANALYZE or REINDEX means every table but ours.
        return Verdict::LeaveOut;
    }
    match refusal(caller, info, action) {
        None => Verdict::Allow,
        Some(why) => {
            info.denied.get_or_insert(why);
            Verdict::Deny
        }
    }
}

fn refusal(caller: Caller, info: &mut Info, action: Action<'_>) -> Option<String> {
    let Action { code, first, second, second_given, database } = action;
    match code {
        ffi::SQLITE_READ => own(first),
        ffi::SQLITE_SELECT | ffi::SQLITE_RECURSIVE => None,
        ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE => {
            note_write(info, code, first);
            own(first)
        }
        ffi::SQLITE_FUNCTION => FUNCTIONS_DENIED
            .iter()
            .any(|f| f.eq_ignore_ascii_case(second))
            .then(|| format!("the function {second}() is not allowed")),
        ffi::SQLITE_TRANSACTION | ffi::SQLITE_SAVEPOINT => Some(
            "BEGIN, COMMIT, ROLLBACK and savepoints are not allowed: a request is one transaction; \
             send an array of statements"
                .into(),
        ),
        ffi::SQLITE_ATTACH | ffi::SQLITE_DETACH => Some("ATTACH and DETACH are not allowed".into()),
        ffi::SQLITE_PRAGMA => pragma(caller, info, first, second_given.then_some(second)),
        ffi::SQLITE_CREATE_TEMP_INDEX
        | ffi::SQLITE_CREATE_TEMP_TABLE
        | ffi::SQLITE_CREATE_TEMP_TRIGGER
        | ffi::SQLITE_CREATE_TEMP_VIEW
        | ffi::SQLITE_DROP_TEMP_INDEX
        | ffi::SQLITE_DROP_TEMP_TABLE
        | ffi::SQLITE_DROP_TEMP_TRIGGER
        | ffi::SQLITE_DROP_TEMP_VIEW => Some("temporary objects are not allowed: requests share one connection".into()),
        // ANALYZE makes its own tables first.
        ffi::SQLITE_CREATE_TABLE if has_prefix(first, "sqlite_stat") => schema(info, Ddl::Analyze, database, "", ""),
        ffi::SQLITE_CREATE_TABLE if has_prefix(first, "sqlite_") => None,
        ffi::SQLITE_CREATE_TABLE => schema(info, Ddl::CreateTable(first.to_owned()), database, first, ""),
        ffi::SQLITE_CREATE_VTABLE => schema(info, Ddl::CreateVirtual, database, first, ""),
        ffi::SQLITE_DROP_VTABLE => schema(info, Ddl::DropVirtual, database, first, ""),
        ffi::SQLITE_ALTER_TABLE => schema(info, Ddl::AlterTable(second.to_owned()), first, second, ""),
        ffi::SQLITE_ANALYZE => schema(info, Ddl::Analyze, database, first, ""),
        ffi::SQLITE_REINDEX => schema(info, Ddl::Reindex, database, first, ""),
        ffi::SQLITE_CREATE_VIEW => schema(info, Ddl::CreateView(first.to_owned()), database, first, second),
        ffi::SQLITE_CREATE_TRIGGER => schema(info, Ddl::CreateTrigger(second.to_owned()), database, first, second),
        ffi::SQLITE_CREATE_INDEX
        | ffi::SQLITE_DROP_INDEX
        | ffi::SQLITE_DROP_TABLE
        | ffi::SQLITE_DROP_TRIGGER
        | ffi::SQLITE_DROP_VIEW => schema(info, Ddl::Other, database, first, second),
        other => Some(format!("an action of kind {other} is not allowed")),
    }
}

fn own(name: &str) -> Option<String> {
    is_own(name).then(|| format!("{name} belongs to the server: names that begin with _ha_ are reserved"))
}

fn note_write(info: &mut Info, code: i32, table: &str) {
    if has_prefix(table, "sqlite_") {
        // Schema statements write the schema table and the counters on their
        // own; what is not one and writes these is refused after preparing.
        if !table.eq_ignore_ascii_case("sqlite_sequence") {
            info.writes_internal.get_or_insert_with(|| table.to_owned());
        } else {
            info.writes = true;
        }
        return;
    }
    info.writes = true;
    if code == ffi::SQLITE_INSERT && !info.inserts.iter().any(|t| t == table) {
        info.inserts.push(table.to_owned());
    }
}

fn schema(info: &mut Info, kind: Ddl, database: &str, first: &str, second: &str) -> Option<String> {
    // The first is what was written: CREATE INDEX goes on to REINDEX.
    info.ddl.get_or_insert(kind);
    if database.eq_ignore_ascii_case("temp") {
        return Some("temporary objects are not allowed: requests share one connection".into());
    }
    own(first).or_else(|| own(second))
}

fn pragma(caller: Caller, info: &mut Info, name: &str, argument: Option<&str>) -> Option<String> {
    let is = |pragma: &str| name.eq_ignore_ascii_case(pragma);
    match policy::pragma(name, argument) {
        Pragma::Tells => None,
        Pragma::AboutOwn => own(argument.unwrap_or_default()),
        // Schema statements from the log set nothing.
        Pragma::Sets if caller == Caller::User => {
            info.sets_user_version |= is("user_version");
            info.sets_application_id |= is("application_id");
            info.defers_foreign_keys |= is("defer_foreign_keys");
            None
        }
        Pragma::Sets | Pragma::Unavailable => Some(match argument {
            Some(argument) => format!("PRAGMA {name} = {argument} is not allowed"),
            None => format!("PRAGMA {name} is not allowed"),
        }),
    }
}
