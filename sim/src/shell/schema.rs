//! The tables that clients work on, and the statements of each kind of write.
//!
//! Decides that every write leaves its number in the ledger, in its own
//! transaction: by a trigger where it is a single statement, by a statement of
//! its own where it is several. The ledger's order is then the order of
//! commits, and the whole data follows from it.

use super::history::{OpId, Param, Sql};
use crate::prng::Prng;

/// How many registers there are.
pub const REGISTERS: i64 = 4;
/// How many accounts there are.
pub const ACCOUNTS: i64 = 5;
/// What each account holds at first.
pub const BALANCE: i64 = 100;

/// Makes the tables; one transaction, sent as op 0.
pub fn set_up() -> Vec<Sql> {
    let mut texts: Vec<String> = [
        "CREATE TABLE ledger(n INTEGER PRIMARY KEY, op INTEGER NOT NULL)",
        "CREATE TABLE reg(k INTEGER PRIMARY KEY, v INTEGER NOT NULL, op INTEGER NOT NULL)",
        "CREATE TRIGGER reg_written AFTER UPDATE ON reg BEGIN INSERT INTO ledger(op) VALUES (new.op); END",
        "CREATE TABLE acct(id INTEGER PRIMARY KEY, v INTEGER NOT NULL CHECK (v >= 0))",
        "CREATE TABLE item(id INTEGER PRIMARY KEY AUTOINCREMENT, op INTEGER NOT NULL, body TEXT NOT NULL)",
        "CREATE TRIGGER item_added AFTER INSERT ON item BEGIN INSERT INTO ledger(op) VALUES (new.op); END",
        "CREATE TABLE note(id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES item(id) ON DELETE CASCADE, \
         body TEXT)",
        "CREATE TABLE pair(k INTEGER PRIMARY KEY, u INTEGER UNIQUE, op INTEGER NOT NULL) ",
    ]
    .map(str::to_owned)
    .to_vec();
    for k in 1..=REGISTERS {
        texts.push(format!("INSERT INTO reg VALUES ({k}, 0, 0)"));
    }
    for id in 1..=ACCOUNTS {
        texts.push(format!("INSERT INTO acct VALUES ({id}, {BALANCE})"));
    }
    texts.push("INSERT INTO ledger(n, op) VALUES (1, 0)".to_owned());
    texts.into_iter().map(|text| Sql { text, params: Vec::new() }).collect()
}

/// The statement that reads a register and, out of the same snapshot, what
/// tells which snapshot it is.
pub fn read(register: i64) -> Sql {
    Sql {
        text: "SELECT (SELECT op FROM reg WHERE k = ?1), (SELECT max(n) FROM ledger), \
               (SELECT count(*) FROM ledger), (SELECT sum(v) FROM acct)"
            .to_owned(),
        params: vec![Param::Int(register)],
    }
}

fn sql(text: &str, params: impl IntoIterator<Item = i64>) -> Sql {
    Sql { text: text.to_owned(), params: params.into_iter().map(Param::Int).collect() }
}

fn enter(op: OpId) -> Sql {
    sql("INSERT INTO ledger(op) VALUES (?1)", [op])
}

/// What a write is to do.
pub struct Work {
    /// Its name, for counting.
    pub kind: &'static str,
    /// Its statements.
    pub statements: Vec<Sql>,
    /// Which register it sets, if one.
    pub register: Option<i64>,
}

/// Draws a write.
pub fn draw(op: OpId, prng: &mut Prng, ddl_pm: u32, body_bytes_max: u64) -> Work {
    let register = prng.within(1..=REGISTERS as u64) as i64;
    if prng.chance(ddl_pm) {
        return change_schema(op, prng);
    }
    match prng.below(100) {
        0..=24 => Work {
            kind: "write_register",
            statements: vec![sql(
                "UPDATE reg SET v = ?1, op = ?2 WHERE k = ?3",
                [prng.below(1000) as i64, op, register],
            )],
            register: Some(register),
        },
        25..=44 => Work {
            kind: "write_increment",
            statements: vec![sql("UPDATE reg SET v = v + 1, op = ?1 WHERE k = ?2", [op, register])],
            register: Some(register),
        },
        45..=64 => {
            let from = prng.within(1..=ACCOUNTS as u64) as i64;
            let to = prng.within(1..=ACCOUNTS as u64) as i64;
            let sum = prng.within(1..=60) as i64;
            Work {
                kind: "write_transfer",
                statements: vec![
                    sql("UPDATE acct SET v = v - ?1 WHERE id = ?2", [sum, from]),
                    sql("UPDATE acct SET v = v + ?1 WHERE id = ?2", [sum, to]),
                    enter(op),
                ],
                register: None,
            }
        }
        65..=79 => {
            let length = prng.within(1..=body_bytes_max) as usize;
            let letter = char::from(b'a' + (op % 26) as u8);
            let body: String = std::iter::repeat_n(letter, length).collect();
            let mut item = sql("INSERT INTO item(op, body) VALUES (?1, ?2)", [op]);
            item.params.push(Param::Text(body));
            let note = prng.chance(400);
            let mut statements = vec![item];
            if note {
                statements.push(sql("INSERT INTO note(item, body) SELECT max(id), 'note' FROM item", []));
            }
            Work { kind: "write_item", statements, register: None }
        }
        80..=87 => Work {
            kind: "write_cascade",
            statements: vec![sql("DELETE FROM item WHERE id = (SELECT min(id) FROM item)", []), enter(op)],
            register: None,
        },
        88..=95 => Work {
            kind: "write_replace",
            statements: vec![
                sql("REPLACE INTO pair VALUES (?1, ?2, ?3)", [prng.below(8) as i64, prng.below(8) as i64, op]),
                enter(op),
            ],
            register: None,
        },
        _ => Work {
            // Its second statement violates a constraint: nothing of it may stay.
            kind: "write_refused",
            statements: vec![enter(op), sql("INSERT INTO note(item, body) VALUES (-1, 'orphan')", [])],
            register: None,
        },
    }
}

fn change_schema(op: OpId, prng: &mut Prng) -> Work {
    let text = match prng.below(4) {
        0 => format!("CREATE TABLE made_{op}(a INTEGER PRIMARY KEY, b TEXT DEFAULT 'b')"),
        1 => format!("ALTER TABLE note ADD COLUMN c_{op} TEXT DEFAULT 'c'"),
        2 => format!("CREATE INDEX item_{op} ON item(op, id)"),
        _ => format!("CREATE VIEW view_{op} AS SELECT count(*) AS n FROM item"),
    };
    Work { kind: "write_schema", statements: vec![sql(&text, []), enter(op)], register: None }
}
