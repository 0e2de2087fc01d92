//! What equal rows are, without any code of the node's.
//!
//! Decides how a database's content is summed up, and what it should be: a plain
//! SQLite in memory runs the same statements in the order of their commits.

use base_ha_core::position::Position;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// Rows and schema of the user's tables, as text: short enough here, and a
/// difference can be read.
pub(super) type Print = String;

/// Reads a node's `data.db` beside it: the position that it names, and its rows,
/// both as of one moment.
pub(super) fn of_file(path: &Path) -> Result<(Position, Print), String> {
    let conn = open(path)?;
    conn.execute_batch("BEGIN").map_err(|e| e.to_string())?;
    let at = base_ha::store::read_position(&conn).map_err(|e| e.to_string())?;
    Ok((at, of(&conn).map_err(|e| e.to_string())?))
}

/// What SQLite says of the whole file's structure.
pub(super) fn integrity(path: &Path) -> Result<(), String> {
    let said: String =
        open(path)?.query_row("PRAGMA integrity_check(3)", [], |row| row.get(0)).map_err(|e| e.to_string())?;
    if said == "ok" { Ok(()) } else { Err(said) }
}

fn open(path: &Path) -> Result<Connection, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(|e| e.to_string())?;
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(|e| e.to_string())?;
    Ok(conn)
}

fn of(conn: &Connection) -> rusqlite::Result<Print> {
    use std::fmt::Write as _;
    let mut out = String::new();
    let mut objects = conn.prepare(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_schema
         WHERE name NOT LIKE '\\_ha\\_%' ESCAPE '\\' AND tbl_name NOT LIKE '\\_ha\\_%' ESCAPE '\\'
           AND name NOT LIKE 'docs\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
         ORDER BY 1, 2",
    )?;
    let rows = objects.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let objects: Vec<(String, String, String)> = rows.collect::<rusqlite::Result<_>>()?;
    for (kind, name, sql) in &objects {
        let _ = writeln!(out, "{sql}");
        if kind != "table" {
            continue;
        }
        let mut statement = conn.prepare(&format!("SELECT * FROM \"{name}\""))?;
        let columns = statement.column_count();
        let mut lines = Vec::new();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut line = String::new();
            for column in 0..columns {
                let _ = match row.get_ref(column)? {
                    ValueRef::Null => write!(line, "null|"),
                    ValueRef::Integer(n) => write!(line, "i{n}|"),
                    ValueRef::Real(n) => write!(line, "r{:x}|", n.to_bits()),
                    ValueRef::Text(text) => write!(line, "t{}|", String::from_utf8_lossy(text)),
                    ValueRef::Blob(bytes) if bytes.len() > 64 => {
                        write!(line, "b{}:{:08x}|", bytes.len(), crc32fast::hash(bytes))
                    }
                    ValueRef::Blob(bytes) => write!(line, "b{bytes:02x?}|"),
                };
            }
            lines.push(line);
        }
        lines.sort();
        for line in lines {
            let _ = writeln!(out, "  {line}");
        }
    }
    // An index of its own must find what the table holds.
    if objects.iter().any(|(_, name, _)| name == "docs") {
        let found: i64 = conn.query_row("SELECT count(*) FROM docs WHERE docs MATCH 'word'", [], |row| row.get(0))?;
        let _ = writeln!(out, "{found} documents with the word");
    }
    Ok(out)
}

/// A single SQLite that runs what the node committed.
pub(super) struct Reference(Connection);

impl Reference {
    /// One that has run `history`.
    pub(super) fn new(history: &[String]) -> Self {
        let conn = Connection::open_in_memory().expect("memory is there");
        conn.execute_batch("PRAGMA foreign_keys = ON").expect("a known setting");
        let reference = Self(conn);
        reference.run(history);
        reference
    }

    /// Runs one request's statements as a transaction.
    pub(super) fn run(&self, statements: &[String]) {
        for sql in statements {
            self.0.execute_batch(sql).expect("the node ran it, so it runs");
        }
    }

    /// What it holds.
    pub(super) fn print(&self) -> Print {
        of(&self.0).expect("memory is readable")
    }
}
