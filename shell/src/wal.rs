//! A database's change to a write-ahead log.
//!
//! Decides only that it has happened when it is said to have.

use rusqlite::{Connection, ffi};

/// Puts `main` into WAL mode, if it is not.
///
/// The pragma's first step answers with the new mode; only its last one commits
/// the change to the file's header. Whoever takes the answer and stops there
/// misses the error, and goes on with a write-ahead log that the next start does
/// not look at: all that was fsynced into it is lost (crash point `birth`, EIO
/// at the sync of the journal).
///
/// # Errors
/// What SQLite says; `SQLITE_CANTOPEN` where the file system cannot have one.
pub(crate) fn enter(conn: &Connection) -> rusqlite::Result<()> {
    let mut statement = conn.prepare("PRAGMA main.journal_mode = WAL")?;
    let mut rows = statement.query([])?;
    let mut mode = String::new();
    while let Some(row) = rows.next()? {
        mode = row.get(0)?;
    }
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    let text = format!("the file system does not support SQLite's write-ahead log (journal mode {mode})");
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CANTOPEN), Some(text)))
}
