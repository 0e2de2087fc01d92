//! What SQL from users may reach, and the settings of a connection that runs it.
//!
//! Decides which of SQLite's actions are refused, for readers and for the
//! writer alike. Knows nothing of whether a statement reads or writes
//! (`classify`) and of what it changed.

use super::schema_sql::is_own;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The longest text, blob or row, in bytes.
pub const LENGTH_MAX: i32 = 64 << 20;
/// The longest SQL text, in bytes.
pub const SQL_LENGTH_MAX: i32 = 1_000_000;

/// What to do with an action that SQLite asks about while it compiles (or, for
/// `pragma_*()` tables, runs) a user's statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// It may.
    Allow,
    /// It may, and it reads: a pragma that SQLite may call a write.
    PragmaRead,
    /// It may, and it writes: a pragma that SQLite may call a read.
    PragmaWrite,
    /// It may not, for this reason.
    Deny(Cow<'static, str>),
}

/// Rules on one action. The writer's authorizer asks this as well.
pub fn rule(context: &AuthContext<'_>) -> Ruling {
    const OWN: &str = "tables named _ha_* belong to the node";
    const TEMP: &str = "temporary tables, views, triggers and indexes are not replicated and not available";
    const TRANSACTION: &str = "send the statements of a transaction as one array; BEGIN, COMMIT, ROLLBACK, SAVEPOINT and RELEASE are not available";
    match context.action {
        AuthAction::Attach { .. } | AuthAction::Detach { .. } => {
            Ruling::Deny("ATTACH, DETACH and VACUUM are not available".into())
        }
        AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => Ruling::Deny(TRANSACTION.into()),
        AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::DropTempIndex { .. }
        | AuthAction::DropTempTable { .. }
        | AuthAction::DropTempTrigger { .. }
        | AuthAction::DropTempView { .. } => Ruling::Deny(TEMP.into()),
        AuthAction::CreateVtable { .. } if context.database_name == Some("temp") => Ruling::Deny(TEMP.into()),
        AuthAction::Pragma { pragma_name, pragma_value } => match pragma(pragma_name, pragma_value) {
            Pragma::Tells => Ruling::PragmaRead,
            Pragma::Sets => Ruling::PragmaWrite,
            Pragma::AboutOwn => Ruling::Deny(OWN.into()),
            Pragma::Unavailable => Ruling::Deny(unavailable(pragma_name, pragma_value).into()),
        },
        AuthAction::Function { function_name } => {
            let denied = ["load_extension", "fts3_tokenizer"];
            if denied.iter().any(|name| name.eq_ignore_ascii_case(function_name)) {
                Ruling::Deny("load_extension() and fts3_tokenizer() are not available".into())
            } else {
                Ruling::Allow
            }
        }
        AuthAction::Read { table_name: name, .. }
        | AuthAction::Insert { table_name: name }
        | AuthAction::Update { table_name: name, .. }
        | AuthAction::Delete { table_name: name }
        | AuthAction::CreateTable { table_name: name }
        | AuthAction::DropTable { table_name: name }
        | AuthAction::AlterTable { table_name: name, .. }
        | AuthAction::CreateVtable { table_name: name, .. }
        | AuthAction::DropVtable { table_name: name, .. }
        | AuthAction::CreateView { view_name: name }
        | AuthAction::DropView { view_name: name } => {
            if is_own(name) {
                Ruling::Deny(OWN.into())
            } else {
                Ruling::Allow
            }
        }
        AuthAction::CreateIndex { index_name: name, table_name }
        | AuthAction::DropIndex { index_name: name, table_name }
        | AuthAction::CreateTrigger { trigger_name: name, table_name }
        | AuthAction::DropTrigger { trigger_name: name, table_name } => {
            if is_own(name) || is_own(table_name) {
                Ruling::Deny(OWN.into())
            } else {
                Ruling::Allow
            }
        }
        // A plain ANALYZE or REINDEX goes through all tables, these included;
        // it tells and changes nothing in them.
        AuthAction::Analyze { .. } | AuthAction::Reindex { .. } => Ruling::Allow,
        AuthAction::Select | AuthAction::Recursive => Ruling::Allow,
        // An action that this library does not know is one nobody has judged.
        _ => Ruling::Deny("this action of SQLite is not known here".into()),
    }
}

/// Pragmas whose argument says what to look at.
const PRAGMAS_ABOUT: [&str; 15] = [
    "collation_list",
    "compile_options",
    "foreign_key_check",
    "foreign_key_list",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "module_list",
    "pragma_list",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Pragmas that tell a setting when they have no argument. Not among them is
/// `database_list`: it tells where the files lie.
const PRAGMAS_ASKING: [&str; 13] = [
    "application_id",
    "auto_vacuum",
    // Full-text tables ask this one themselves, on behalf of whoever uses them.
    "data_version",
    "defer_foreign_keys",
    "encoding",
    "foreign_keys",
    "freelist_count",
    "journal_mode",
    "page_count",
    "page_size",
    "recursive_triggers",
    "schema_version",
    "user_version",
];

/// Pragmas that change what is replicated, or this one transaction.
const PRAGMAS_SETTING: [&str; 3] = ["application_id", "defer_foreign_keys", "user_version"];

/// What a pragma is, to readers and to the writer alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pragma {
    /// It changes nothing.
    Tells,
    /// It changes what is replicated, or this one transaction.
    Sets,
    /// It asks about the node's own tables.
    AboutOwn,
    /// It is for nobody.
    Unavailable,
}

/// Rules on a pragma with this argument. An empty one is an argument:
/// `PRAGMA user_version = ''` sets it to zero.
pub(super) fn pragma(name: &str, value: Option<&str>) -> Pragma {
    let is_in = |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(name));
    if is_in(&PRAGMAS_ABOUT) {
        return if value.is_some_and(is_own) { Pragma::AboutOwn } else { Pragma::Tells };
    }
    match value {
        None if is_in(&PRAGMAS_ASKING) => Pragma::Tells,
        Some(_) if is_in(&PRAGMAS_SETTING) => Pragma::Sets,
        None | Some(_) => Pragma::Unavailable,
    }
}

/// Why a pragma is refused, by its name: a script that sets five at once is told
/// which one.
fn unavailable(name: &str, value: Option<&str>) -> String {
    let known = |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(name));
    if value.is_some() && known(&PRAGMAS_ASKING) {
        return format!("PRAGMA {name} can be asked and not set: this setting is the node's");
    }
    if value.is_none() && known(&PRAGMAS_SETTING) {
        return format!("PRAGMA {name} can be set and not asked");
    }
    format!("PRAGMA {name} is not available")
}

/// The settings of every connection that runs users' SQL.
///
/// # Errors
/// What SQLite says.
pub fn harden(connection: &Connection) -> rusqlite::Result<()> {
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
    ] {
        connection.set_db_config(setting, on)?;
    }
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, LENGTH_MAX),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_LENGTH_MAX),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
        (Limit::SQLITE_LIMIT_COLUMN, 2_000),
        (Limit::SQLITE_LIMIT_VDBE_OP, 5_000_000),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 10_000),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, most)?;
    }
    Ok(())
}

/// What a connection's authorizer has seen since it was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// A pragma that reads.
    pub pragma_read: bool,
    /// A pragma that writes.
    pub pragma_write: bool,
    /// Anything at all.
    pub anything: bool,
    /// Anything that is no pragma: full-text tables ask some themselves, so a
    /// statement with a pragma in it need not be one.
    pub beside_pragmas: bool,
}

const PRAGMA_READ: u8 = 1;
const PRAGMA_WRITE: u8 = 2;
const ANYTHING: u8 = 4;
const BESIDE: u8 = 8;

/// The authorizer of a reading connection: applies [`rule`], and remembers
/// what it saw. It is asked again whenever SQLite recompiles a statement, so
/// that a view that changed its meaning can't get around it.
#[derive(Debug, Default)]
pub struct Gate {
    /// The node's own statement is being compiled or run.
    open: AtomicBool,
    seen: AtomicU8,
    denied: Mutex<Option<Cow<'static, str>>>,
}

impl Gate {
    /// Installs the authorizer on `connection`.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn install(connection: &mut Connection) -> rusqlite::Result<Arc<Self>> {
        let gate = Arc::new(Self::default());
        let inside = Arc::clone(&gate);
        connection.authorizer(Some(move |context: AuthContext<'_>| inside.authorize(&context)))?;
        Ok(gate)
    }

    fn authorize(&self, context: &AuthContext<'_>) -> Authorization {
        // Only the thread that has the connection gets here; the atomics are
        // there because a connection moves between threads.
        if self.open.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        let bits = match rule(context) {
            Ruling::Allow => ANYTHING | BESIDE,
            Ruling::PragmaRead => ANYTHING | PRAGMA_READ,
            Ruling::PragmaWrite => ANYTHING | PRAGMA_WRITE,
            Ruling::Deny(why) => {
                self.denied.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
                return Authorization::Deny;
            }
        };
        self.seen.fetch_or(bits, Ordering::Relaxed);
        Authorization::Allow
    }

    /// Lets the node's own statements through (`true`) or not.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// Whether this gate is why the last statement failed. Ask before
    /// [`Gate::explain`], which forgets it.
    pub fn has_denied(&self) -> bool {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Before another request: what was denied to the last is not its fault.
    pub fn forget(&self) {
        *self.denied.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What was seen since the last call.
    pub fn take_seen(&self) -> Seen {
        let bits = self.seen.swap(0, Ordering::Relaxed);
        Seen {
            pragma_read: bits & PRAGMA_READ != 0,
            pragma_write: bits & PRAGMA_WRITE != 0,
            anything: bits != 0,
            beside_pragmas: bits & BESIDE != 0,
        }
    }

    /// `error` as a client is told it, with the reason if it was this gate
    /// that refused.
    pub fn explain(&self, error: &rusqlite::Error) -> crate::error::ApiError {
        let mut told = super::sqlerror::api_error(error);
        if let Some(why) = self.denied.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // SQLite calls a refused function a plain error.
            told.status = 403;
            told.code = "forbidden_sql";
            told.message = format!("This SQL is refused: {why}.");
        }
        told
    }
}
