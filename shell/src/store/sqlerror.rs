//! What SQLite complains about, as a client is told it.
//!
//! Decides code, status and advice for each of SQLite's result codes. Whether
//! anything was changed is the caller's to say.

use crate::error::ApiError;
use rusqlite::ffi;
use serde_json::json;

/// The client's view of an error from SQLite.
///
/// | SQLite | status, code |
/// |---|---|
/// | constraints | 409 `constraint_unique`, `_primary_key`, `_foreign_key`, `_check`, `_not_null`, `_trigger`, `constraint` |
/// | STRICT type, MISMATCH, RANGE | 422 `bad_value` |
/// | ERROR (syntax, no such table, ...) | 400 `bad_sql`, with `data.offset` in bytes of the whole text where it is known |
/// | AUTH | 403 `forbidden_sql` |
/// | READONLY | 403 `read_only` |
/// | TOOBIG | 413 `too_big` |
/// | INTERRUPT | 408 `statement_timeout` |
/// | BUSY, LOCKED, SCHEMA | 503 `busy`, try again in a second |
/// | NOMEM | 503 `out_of_memory` |
/// | FULL | 503 `disk_full` |
/// | CORRUPT, NOTADB | 500 `data_corrupt` |
/// | IOERR, CANTOPEN, PERM | 500 `disk_error` |
/// | anything else | 500 `sqlite` |
///
/// `data.sqlite` is SQLite's extended result code.
pub fn api_error(error: &rusqlite::Error) -> ApiError {
    match error {
        rusqlite::Error::SqliteFailure(code, message) => {
            let message = message.as_deref().filter(|m| !m.is_empty());
            from_code(code.extended_code, message, None)
        }
        rusqlite::Error::SqlInputError { error, msg, offset, .. } => {
            from_code(error.extended_code, Some(msg), u32::try_from(*offset).ok())
        }
        rusqlite::Error::NulError(_) => ApiError::new(400, "bad_sql", "The SQL text holds a NUL character."),
        rusqlite::Error::ToSqlConversionFailure(why) => ApiError::new(422, "bad_value", format!("{why}.")),
        other => ApiError::new(500, "sqlite", format!("SQLite: {other}.")),
    }
}

/// SQLite's primary result code; `SQLITE_ERROR` for what is not SQLite's.
pub fn code(error: &rusqlite::Error) -> i32 {
    match error {
        rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. } => {
            error.extended_code & 0xff
        }
        _ => ffi::SQLITE_ERROR,
    }
}

/// Whether SQLite stopped because it was told to.
pub fn is_interrupt(error: &rusqlite::Error) -> bool {
    code(error) == ffi::SQLITE_INTERRUPT
}

/// Whether another connection was in the way and trying again may help.
pub fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(code(error), ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED)
}

/// An error of one statement of `text`, its place counted from the start of the
/// whole text.
pub fn in_text(error: rusqlite::Error, text: &str) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqlInputError { error, msg, sql, offset } => {
            // SQLite was given the rest of the text, without blanks at its ends.
            let before = text.trim_end().strip_suffix(sql.trim_end()).map_or(0, str::len);
            let offset = i32::try_from(before).unwrap_or(0).saturating_add(offset);
            rusqlite::Error::SqlInputError { error, msg, sql, offset }
        }
        other => other,
    }
}

/// `extended` is SQLite's extended result code, `message` its words.
fn from_code(extended: i32, message: Option<&str>, offset: Option<u32>) -> ApiError {
    let said = message.map_or_else(|| ffi::code_to_str(extended).to_owned(), str::to_owned);
    let (status, code, text) = match extended & 0xff {
        ffi::SQLITE_CONSTRAINT => return constraint(extended, said),
        ffi::SQLITE_ERROR => (400, "bad_sql", said),
        ffi::SQLITE_MISMATCH | ffi::SQLITE_RANGE => (422, "bad_value", said),
        ffi::SQLITE_AUTH => (403, "forbidden_sql", format!("This SQL is not allowed here: {said}.")),
        ffi::SQLITE_READONLY => {
            (403, "read_only", "This statement changes data, and the database is open for reading only.".into())
        }
        ffi::SQLITE_TOOBIG => {
            (413, "too_big", format!("{said}: a text, a blob, a row or the statement itself exceeds the limit."))
        }
        ffi::SQLITE_INTERRUPT | ffi::SQLITE_ABORT => {
            (408, "statement_timeout", "The statement ran longer than allowed and was interrupted.".into())
        }
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_SCHEMA => {
            (503, "busy", format!("The database is busy ({said}); try again."))
        }
        ffi::SQLITE_NOMEM => (503, "out_of_memory", "SQLite ran out of memory for this statement.".into()),
        ffi::SQLITE_FULL => (503, "disk_full", "The disk of this node is full.".into()),
        ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => {
            (500, "data_corrupt", format!("The database file of this node is damaged: {said}."))
        }
        ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM => {
            (500, "disk_error", format!("This node can't read or write its database file: {said}."))
        }
        _ => (500, "sqlite", format!("SQLite: {said}.")),
    };
    let data = match offset {
        Some(offset) => json!({ "sqlite": extended, "offset": offset }),
        None => json!({ "sqlite": extended }),
    };
    let error = ApiError::new(status, code, text).with_data(data);
    if status == 503 { error.retry_after(1) } else { error }
}

fn constraint(extended: i32, said: String) -> ApiError {
    let code = match extended {
        ffi::SQLITE_CONSTRAINT_UNIQUE => "constraint_unique",
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => "constraint_primary_key",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "constraint_foreign_key",
        ffi::SQLITE_CONSTRAINT_CHECK => "constraint_check",
        ffi::SQLITE_CONSTRAINT_NOTNULL => "constraint_not_null",
        ffi::SQLITE_CONSTRAINT_TRIGGER => "constraint_trigger",
        ffi::SQLITE_CONSTRAINT_DATATYPE => {
            return ApiError::new(422, "bad_value", said).with_data(json!({ "sqlite": extended }));
        }
        _ => "constraint",
    };
    ApiError::new(409, code, said).with_data(json!({ "sqlite": extended }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn failing(sql: &str) -> ApiError {
        let connection = Connection::open_in_memory().expect("memory");
        connection
            .execute_batch(
                "CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE, n NOT NULL DEFAULT 0, c CHECK (c < 10));
                 CREATE TABLE k(a PRIMARY KEY, b) WITHOUT ROWID;
                 CREATE TABLE f(p REFERENCES p(id));
                 CREATE TABLE s(i INTEGER) STRICT;
                 CREATE TRIGGER t BEFORE DELETE ON p BEGIN SELECT RAISE(ABORT, 'not this one'); END;
                 INSERT INTO p(id, u) VALUES (1, 1); INSERT INTO k VALUES (1, 1);",
            )
            .expect("valid");
        api_error(&connection.execute_batch(sql).expect_err(sql))
    }

    #[test]
    fn every_kind_has_its_code() {
        for (sql, status, code, part) in [
            ("INSERT INTO p(u) VALUES (1)", 409, "constraint_unique", "p.u"),
            ("INSERT INTO p(id) VALUES (1)", 409, "constraint_primary_key", "p.id"),
            ("INSERT INTO k VALUES (1, 2)", 409, "constraint_primary_key", "k.a"),
            ("INSERT INTO f VALUES (7)", 409, "constraint_foreign_key", "FOREIGN KEY"),
            ("INSERT INTO p(c) VALUES (11)", 409, "constraint_check", "c < 10"),
            ("INSERT INTO p(n) VALUES (NULL)", 409, "constraint_not_null", "p.n"),
            ("DELETE FROM p", 409, "constraint_trigger", "not this one"),
            ("INSERT INTO s VALUES ('x')", 422, "bad_value", "INTEGER"),
            ("INSERT INTO p(id) VALUES ('x')", 422, "bad_value", "mismatch"),
            ("SELEC 1", 400, "bad_sql", "SELEC"),
            ("SELECT * FROM nowhere", 400, "bad_sql", "nowhere"),
            ("SELECT abs(-9223372036854775807 - 1)", 400, "bad_sql", "overflow"),
            ("SELECT zeroblob(2147483648)", 413, "too_big", "too big"),
        ] {
            let error = failing(sql);
            assert_eq!((error.status, error.code), (status, code), "{sql}: {error}");
            assert!(error.message.contains(part), "{sql}: {error}");
        }
    }

    #[test]
    fn the_place_of_a_syntax_error_is_told() {
        let connection = Connection::open_in_memory().expect("memory");
        let error = api_error(&connection.prepare("SELECT 1 FROM FROM t").expect_err("invalid"));
        assert_eq!(error.data.expect("particulars")["offset"], 14);
    }

    #[test]
    fn an_interrupted_statement_is_a_timeout() {
        let mut connection = Connection::open_in_memory().expect("memory");
        connection.progress_handler(1, Some(|| true)).expect("installed");
        let error = connection.query_row("SELECT 1", [], |_| Ok(())).expect_err("interrupted");
        assert!(is_interrupt(&error));
        assert_eq!((api_error(&error).status, api_error(&error).code), (408, "statement_timeout"));
    }

    #[test]
    fn a_held_lock_is_busy_and_says_when_to_try_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");
        let one = Connection::open(&path).expect("opens");
        one.execute_batch("CREATE TABLE t(a); BEGIN IMMEDIATE").expect("valid");
        let two = Connection::open(&path).expect("opens");
        two.busy_timeout(std::time::Duration::ZERO).expect("set");
        let error = two.execute_batch("BEGIN IMMEDIATE").expect_err("locked");
        assert!(is_busy(&error));
        assert_eq!((api_error(&error).status, api_error(&error).retry_after), (503, Some(1)));
    }
}
