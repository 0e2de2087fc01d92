//! O6 and O9: the data of every node is what a single SQLite holds that runs
//! the ledger's writes in the ledger's order, and nothing else: no write half
//! done, none twice, none missing.
//!
//! Also L4: every file passes SQLite's own checks.

use super::{History, Ledger};
use crate::shell::history::{Param, Sql};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params_from_iter};
use std::fmt::Write;
use std::path::Path;

/// A node's data, opened for reading.
///
/// # Errors
/// What SQLite says.
pub fn open(path: &Path) -> Result<Connection, String> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|e| format!("{}: {e}", path.display()))
}

/// The ledger of a node's data.
///
/// # Errors
/// What SQLite says, or a hole in it.
pub fn ledger(data: &Connection) -> Result<Ledger, String> {
    let read = || -> rusqlite::Result<Vec<(i64, i64)>> {
        let mut statement = data.prepare("SELECT n, op FROM ledger ORDER BY n")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let rows = read().map_err(|e| e.to_string())?;
    for (at, (n, op)) in rows.iter().enumerate() {
        if *n != at as i64 + 1 {
            return Err(format!("op {op} is number {n} of the ledger, in place {}", at + 1));
        }
    }
    Ok(Ledger::new(rows.into_iter().map(|(_, op)| op).collect()))
}

/// What SQLite itself finds wrong with a file.
///
/// # Errors
/// The first of it.
pub fn sound(data: &Connection) -> Result<(), String> {
    let text: String = data.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(|e| e.to_string())?;
    if text != "ok" {
        return Err(format!("integrity_check: {text}"));
    }
    let mut statement = data.prepare("PRAGMA foreign_key_check").map_err(|e| e.to_string())?;
    let broken = statement.exists([]).map_err(|e| e.to_string())?;
    if broken { Err("foreign_key_check found a row".to_owned()) } else { Ok(()) }
}

/// A single SQLite that has run the ledger's writes.
///
/// # Errors
/// A write of the ledger that can't be run in its place.
pub fn reference(history: &History, ledger: &Ledger) -> Result<Connection, String> {
    let data = Connection::open_in_memory().map_err(|e| e.to_string())?;
    data.execute_batch("PRAGMA foreign_keys = ON").map_err(|e| e.to_string())?;
    for op in &ledger.ops {
        let sent = usize::try_from(*op).ok().and_then(|at| history.ops.get(at));
        let op = sent.ok_or_else(|| format!("op {op} was sent by nobody"))?;
        run(&data, &op.statements).map_err(|e| format!("op {} can't be done in its place: {e}", op.id))?;
    }
    Ok(data)
}

fn run(data: &Connection, statements: &[Sql]) -> rusqlite::Result<()> {
    let transaction = data.unchecked_transaction()?;
    for sql in statements {
        let mut statement = transaction.prepare_cached(&sql.text)?;
        let values = sql.params.iter().map(|param| -> Box<dyn rusqlite::ToSql> {
            match param {
                Param::Int(n) => Box::new(*n),
                Param::Text(text) => Box::new(text.clone()),
            }
        });
        statement.execute(params_from_iter(values))?;
    }
    transaction.commit()
}

/// All that users see of a database, as text: schema, rows in order of their
/// keys, counters of AUTOINCREMENT.
///
/// # Errors
/// What SQLite says.
pub fn dump(data: &Connection) -> Result<String, String> {
    let read = || -> rusqlite::Result<String> {
        let mut text = String::new();
        let mut schema = data.prepare(
            "SELECT type, name, coalesce(sql, '') FROM sqlite_schema
             WHERE name NOT LIKE '\\_ha\\_%' ESCAPE '\\' AND tbl_name NOT LIKE '\\_ha\\_%' ESCAPE '\\'
             AND name NOT LIKE 'sqlite\\_autoindex%' ESCAPE '\\' ORDER BY type, name",
        )?;
        let mut rows = schema.query([])?;
        let mut tables = Vec::new();
        while let Some(row) = rows.next()? {
            let (kind, name, sql): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let _ = writeln!(text, "{kind} {name}: {sql}");
            if kind == "table" {
                tables.push(name);
            }
        }
        for table in tables {
            let _ = writeln!(text, "rows of {table}");
            let filter = if table == "sqlite_sequence" {
                "WHERE name NOT LIKE '\\_ha\\_%' ESCAPE '\\' ORDER BY name"
            } else {
                "ORDER BY rowid"
            };
            let mut statement = data.prepare(&format!("SELECT rowid, * FROM \"{table}\" {filter}"))?;
            let columns = statement.column_count();
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                for column in 0..columns {
                    if column == 0 && table == "sqlite_sequence" {
                        continue;
                    }
                    let _ = match row.get_ref(column)? {
                        ValueRef::Null => write!(text, "null "),
                        ValueRef::Integer(n) => write!(text, "{n} "),
                        ValueRef::Real(x) => write!(text, "{:016x} ", x.to_bits()),
                        ValueRef::Text(bytes) => write!(text, "t{} ", String::from_utf8_lossy(bytes)),
                        ValueRef::Blob(bytes) => write!(text, "b{bytes:?} "),
                    };
                }
                text.push('\n');
            }
        }
        Ok(text)
    };
    read().map_err(|e| e.to_string())
}

/// Two dumps are the same.
///
/// # Errors
/// The first line in which they differ.
pub fn equal(what: &str, found: &str, expected: &str) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let short = |line: &str| line.chars().take(200).collect::<String>();
    let mut lines = found.lines().zip(expected.lines());
    let detail = match lines.find(|(a, b)| a != b) {
        Some((a, b)) => format!("it has {:?} where {:?} is due", short(a), short(b)),
        None => format!("it has {} lines where {} are due", found.lines().count(), expected.lines().count()),
    };
    Err(format!("the data of {what} is not what its ledger amounts to: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::shell::schema;

    /// A history whose writes really set register 1.
    fn history() -> History {
        let mut history = fixture::written(4);
        history.ops[0].statements = schema::set_up();
        for (id, op) in history.ops.iter_mut().enumerate().skip(1) {
            let text = format!("UPDATE reg SET v = v * 2 + {id}, op = {id} WHERE k = 1");
            op.statements = vec![Sql { text, params: Vec::new() }];
        }
        history
    }

    fn dumped(ops: &[i64]) -> String {
        let data = reference(&history(), &Ledger::new(ops.to_vec())).expect("legal writes");
        sound(&data).expect("a sound file");
        assert_eq!(ledger(&data).expect("a ledger").ops, ops);
        dump(&data).expect("readable")
    }

    #[test]
    fn data_that_its_ledger_does_not_amount_to_is_rejected() {
        let whole = dumped(&[0, 1, 2, 3]);
        assert!(equal("a node", &whole, &dumped(&[0, 1, 2, 3])).is_ok());
        assert!(equal("a node", &dumped(&[0, 1, 2]), &whole).is_err(), "one write less");
        assert!(equal("a node", &dumped(&[0, 2, 1, 3]), &whole).is_err(), "another order");
        let half = reference(&history(), &Ledger::new(vec![0, 1, 2, 3])).expect("legal writes");
        half.execute("UPDATE acct SET v = v - 1 WHERE id = 1", []).expect("legal");
        assert!(equal("a node", &dump(&half).expect("readable"), &whole).is_err(), "half a transfer");
    }

    #[test]
    fn a_write_that_is_impossible_in_its_place_is_rejected() {
        let mut history = history();
        history.ops[2].statements = vec![Sql { text: "INSERT INTO acct VALUES (1, 1)".into(), params: Vec::new() }];
        assert!(reference(&history, &Ledger::new(vec![0, 1, 2])).is_err());
    }

    #[test]
    fn a_file_with_an_orphan_or_a_hole_is_rejected() {
        let data = reference(&history(), &Ledger::new(vec![0, 1])).expect("legal writes");
        data.execute_batch("PRAGMA foreign_keys = OFF; INSERT INTO note(item) VALUES (7)").expect("legal");
        assert!(sound(&data).is_err());
        data.execute("DELETE FROM ledger WHERE n = 1", []).expect("legal");
        assert!(ledger(&data).is_err());
    }
}
