//! Every kind of value, table and schema statement, from writer to replica.

use super::*;

fn blob(bytes: &[u8]) -> Value {
    Value::Blob(Bytes::copy_from_slice(bytes))
}

fn string(bytes: &[u8]) -> Value {
    Value::Text(Bytes::copy_from_slice(bytes))
}

fn all_values() -> Vec<Value> {
    vec![
        Value::Null,
        Value::Integer(0),
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX),
        Value::Integer((1 << 53) + 1),
        Value::Real(0.0),
        Value::Real(-0.0),
        Value::Real(1.0),
        Value::Real(0.1),
        Value::Real(f64::INFINITY),
        Value::Real(f64::NEG_INFINITY),
        Value::Real(f64::MIN_POSITIVE),
        string(b""),
        string("h\u{e9} \u{1f600}".as_bytes()),
        string(b"\xff\xfe invalid"),
        string(b"12"),
        blob(b""),
        blob(b"\x00\x01\xff"),
        blob(&vec![7; 100_000]),
    ]
}

#[test]
fn type_matrix_roundtrip() {
    let mut pair = Pair::new();
    for columns in [
        "k INTEGER PRIMARY KEY, v",
        "k PRIMARY KEY, v INTEGER",
        "k TEXT PRIMARY KEY, v TEXT, w REAL DEFAULT 1.5",
        "k, v NUMERIC",
        "k BLOB, v REAL",
        "k INT, v ANY, PRIMARY KEY(k)",
    ] {
        pair.write(&format!("CREATE TABLE t({columns})"));
        for (n, value) in all_values().into_iter().enumerate() {
            let n = Value::Integer(n as i64);
            pair.write_with("INSERT INTO t(k, v) VALUES(?, ?)", vec![n.clone(), value.clone()]);
            pair.check();
            pair.write_with("UPDATE t SET v = 'other' WHERE k = ?", vec![n.clone()]);
            pair.write_with("UPDATE t SET v = ? WHERE k = ?", vec![value, n]);
        }
        pair.check();
        pair.write("DELETE FROM t WHERE rowid % 3 = 0");
        pair.write("DELETE FROM t");
        pair.check();
        assert_eq!(pair.writer.content, ContentHash(0), "an empty database hashes to nothing");
        pair.write("DROP TABLE t");
    }
    pair.check();
}

#[test]
fn keys_of_every_type_find_their_rows() {
    let mut pair = Pair::new();
    for create in [
        "CREATE TABLE t(k PRIMARY KEY, v) WITHOUT ROWID",
        "CREATE TABLE t(k PRIMARY KEY, v)",
        "CREATE TABLE t(k UNIQUE, v)",
    ] {
        pair.write(create);
        for value in all_values() {
            if create.contains("WITHOUT") && value == Value::Null {
                continue;
            }
            let again = value.clone();
            let _ = pair.try_write(vec![with("INSERT INTO t VALUES(?, 1)", vec![value])]);
            pair.write_with("UPDATE t SET v = v + 1 WHERE k IS ?", vec![again]);
            pair.check();
        }
        pair.write("DELETE FROM t");
        pair.check();
        pair.write("DROP TABLE t");
    }
}

#[test]
fn tables_of_every_shape() {
    let mut pair = Pair::new();
    for create in [
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b, c DEFAULT 'x')",
        "CREATE TABLE t(a INTEGER PRIMARY KEY DESC, b, c)",
        "CREATE TABLE t(a, b, c)",
        "CREATE TABLE t(a PRIMARY KEY, b, c)",
        "CREATE TABLE t(a, b, c, PRIMARY KEY(c, a))",
        "CREATE TABLE t(a, b, c, PRIMARY KEY(b, a)) WITHOUT ROWID",
        "CREATE TABLE t(c, b, a PRIMARY KEY) WITHOUT ROWID",
        "CREATE TABLE t(a INT PRIMARY KEY, b TEXT, c REAL) STRICT",
        "CREATE TABLE t(a INT PRIMARY KEY, b ANY, c ANY) STRICT, WITHOUT ROWID",
        "CREATE TABLE t(g AS (a + 1), a PRIMARY KEY, h AS (b || 'x') STORED, b, c, i AS (c) VIRTUAL)",
        "CREATE TABLE t(g AS (a + 1), a PRIMARY KEY, h AS (b || 'x') STORED, b, c) WITHOUT ROWID",
        "CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b, c)",
        "CREATE TABLE t(rowid, a PRIMARY KEY, b, c)",
        "CREATE TABLE t(rowid, _rowid_, oid, a INTEGER PRIMARY KEY, b, c)",
        "CREATE TABLE t(rowid, _ROWID_, a, b, c)",
    ] {
        pair.write(create);
        pair.write("CREATE INDEX i ON t(b)");
        pair.write("CREATE UNIQUE INDEX u ON t(c)");
        for sql in [
            "INSERT INTO t(a, b, c) VALUES(1, 'b1', 1), (2, 'b2', 2), (3, 'b3', 3)",
            "UPDATE t SET b = 'changed' WHERE a = 2",
            "UPDATE t SET a = a + 10",
            "UPDATE t SET a = 50, b = 'both' WHERE a = 11",
            "UPDATE t SET b = b",
            "INSERT OR REPLACE INTO t(a, b, c) VALUES(50, 'again', 7)",
            "INSERT OR REPLACE INTO t(a, b, c) VALUES(60, 'evicts two', 2)",
            "UPDATE OR REPLACE t SET c = 7 WHERE a = 60",
            "INSERT INTO t(a, b, c) VALUES(60, 'u', 9) ON CONFLICT DO UPDATE SET b = 'upsert'",
            "INSERT OR IGNORE INTO t(a, b, c) VALUES(99, 'no', 7), (100, 'yes', 8)",
            "DELETE FROM t WHERE a = 13",
            "INSERT INTO t(a, b, c) SELECT a + 1000, b || ' copy', c + 1000 FROM t",
            "DELETE FROM t",
            "INSERT INTO t(a, b, c) VALUES(5, 'end', 5)",
        ] {
            pair.try_write(vec![text(sql)]).unwrap_or_else(|e| panic!("{create}: {sql}: {e}"));
            pair.check();
        }
        pair.write("DROP TABLE t");
        pair.check();
    }
}

#[test]
fn rowids_that_change_and_keys_that_are_null() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(k PRIMARY KEY, v)");
    pair.write("INSERT INTO t VALUES(NULL, 1), (NULL, 2), ('x', 3)");
    pair.write("UPDATE t SET rowid = rowid + 100");
    pair.write("UPDATE t SET v = v * 10 WHERE v = 2");
    pair.write("DELETE FROM t WHERE v = 1");
    pair.check();
}

#[test]
fn schema_statements() {
    let mut pair = Pair::new();
    for sql in [
        "CREATE TABLE IF NOT EXISTS p(id INTEGER PRIMARY KEY, name TEXT NOT NULL, n REAL DEFAULT 2)",
        "INSERT INTO p(name) VALUES('a'), ('b'), ('c')",
        "INSERT INTO p(name, n) VALUES('d', 7), ('e', NULL)",
        "CREATE TABLE IF NOT EXISTS p(other)",
        "CREATE INDEX p_name ON p(name COLLATE NOCASE) WHERE n > 1",
        "ALTER TABLE p ADD COLUMN extra TEXT DEFAULT 'none'",
        "ALTER TABLE p ADD COLUMN g AS (n * 2)",
        "ALTER TABLE p ADD COLUMN late INTEGER DEFAULT 5",
        "UPDATE p SET late = late + 1 WHERE id = 1",
        "UPDATE p SET extra = 'some' WHERE id = 2",
        "ALTER TABLE p RENAME COLUMN extra TO more",
        "ALTER TABLE p RENAME TO people",
        "UPDATE people SET name = upper(name)",
        "DROP INDEX p_name",
        "ALTER TABLE people DROP COLUMN more",
        "ALTER TABLE people DROP COLUMN g",
        "INSERT INTO people(name) VALUES('f')",
        "CREATE VIEW v AS SELECT name FROM people WHERE n > 1",
        "CREATE TABLE log(what)",
        "CREATE TRIGGER tr AFTER INSERT ON people BEGIN INSERT INTO log VALUES(new.name); END",
        "CREATE TRIGGER vi INSTEAD OF INSERT ON v BEGIN INSERT INTO people(name) VALUES(new.name); END",
        "INSERT INTO v VALUES('through a view')",
        "CREATE TABLE copy AS SELECT id, name, random() AS r FROM people",
        "CREATE TABLE empty AS SELECT * FROM people WHERE 0",
        "INSERT INTO copy(name) VALUES('x')",
        "DROP TRIGGER tr",
        "DROP VIEW v",
        "ANALYZE",
        "REINDEX",
        "PRAGMA user_version = 42",
        "PRAGMA application_id = -7",
        "PRAGMA application_id = ''",
        "DROP TABLE people",
        "CREATE TABLE people(id)",
        "INSERT INTO people VALUES(1)",
    ] {
        pair.write(sql);
        pair.check();
    }
    pair.try_write(vec![with("CREATE TABLE params AS SELECT ? AS a, ? AS b", vec![blob(b"\x01"), Value::Real(0.1)])])
        .expect("parameters in CREATE TABLE AS");
    pair.check();
    // Several in one request, rows in between.
    pair.write(
        "CREATE TABLE m(a); INSERT INTO m VALUES(1); ALTER TABLE m ADD COLUMN b DEFAULT 3; INSERT INTO m VALUES(2, 4);
         CREATE TABLE gone(x); INSERT INTO gone VALUES(1); DROP TABLE gone; -- and that is all",
    );
    pair.check();
    assert_eq!(pair.log.len(), pair.log.iter().filter(|e| e.kind == EntryKind::Data).count());
}

#[test]
fn dropping_a_parent_takes_its_children_along() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE p(id INTEGER PRIMARY KEY)");
    pair.write("CREATE TABLE c(p REFERENCES p ON DELETE CASCADE, v)");
    pair.write("INSERT INTO p VALUES(1), (2)");
    pair.write("INSERT INTO c VALUES(1, 'a'), (2, 'b'), (NULL, 'c')");
    pair.write("DROP TABLE p");
    pair.check();
    assert_eq!(pair.write("SELECT v FROM c"), r#"{"columns":["v"],"rows":[["c"]]}"#);
}

#[test]
fn adding_a_column_costs_no_hash() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    pair.write("INSERT INTO t VALUES(1), (2)");
    let before = pair.writer.content;
    for column in
        ["b", "c DEFAULT 5", "d TEXT DEFAULT 'it''s'", "e REAL DEFAULT -3", "f BLOB DEFAULT x'00ff'", "g AS (a)"]
    {
        pair.write(&format!("ALTER TABLE t ADD COLUMN {column}"));
        pair.check();
        assert_eq!(pair.writer.content, before, "{column}");
    }
    pair.write("UPDATE t SET c = 6 WHERE a = 1");
    assert_ne!(pair.writer.content, before);
    pair.write("UPDATE t SET c = 5 WHERE a = 1");
    assert_eq!(pair.writer.content, before);
    pair.check();
}

#[test]
fn weird_identifiers() {
    let mut pair = Pair::new();
    for name in ["a\"b", "select", "with space", "it's", "[x]", "`y`", "ü", "a;DROP TABLE t;--", "Ha_", "1"] {
        let quoted = super::super::schema::quoted(name);
        pair.write(&format!("CREATE TABLE {quoted}({quoted} PRIMARY KEY, \"order\" DEFAULT 'a\"b', \"x\"\"y\")"));
        pair.write(&format!("INSERT INTO {quoted}({quoted}) VALUES('1'), ('2')"));
        pair.write(&format!("UPDATE {quoted} SET \"x\"\"y\" = 'v', {quoted} = '3' WHERE {quoted} = '1'"));
        pair.write(&format!(
            "CREATE INDEX {} ON {quoted}(\"order\")",
            super::super::schema::quoted(&format!("i{name}"))
        ));
        pair.write(&format!("DELETE FROM {quoted} WHERE {quoted} = '2'"));
        pair.check();
    }
}

#[test]
fn full_text_and_rtree_rows_fall_into_their_own_request() {
    let mut pair = Pair::new();
    pair.write("CREATE VIRTUAL TABLE f USING fts5(title, body)");
    pair.write("CREATE VIRTUAL TABLE r USING rtree(id, x0, x1)");
    pair.check();
    let mut answers = pair.send_all(vec![
        vec![text("INSERT INTO f VALUES('one', 'first words')")],
        vec![text("INSERT INTO f VALUES('two', 'second words')")],
        vec![text("INSERT INTO r VALUES(1, 0, 1), (2, 5, 6)")],
        vec![text("INSERT INTO f(nope) VALUES('x')")],
        vec![text("UPDATE f SET body = 'third words' WHERE title = 'one'")],
    ]);
    assert_eq!(pair.writer.proposals.len(), 1);
    assert_eq!(pair.writer.proposals[0].1.len(), 4, "one entry a request");
    // Each entry stands by itself: a replica that has only the first two is
    // a whole index of two documents.
    let (id, entries) = pair.place();
    pair.replica.apply(&entries[..2]);
    let conn = rusqlite::Connection::open(pair.replica.file()).expect("opens");
    let count: i64 = conn.query_row("SELECT count(*) FROM f('words')", [], |row| row.get(0)).expect("searched");
    assert_eq!(count, 2);
    conn.execute_batch("SAVEPOINT s; INSERT INTO f(f) VALUES('integrity-check'); ROLLBACK TO s; RELEASE s")
        .expect("a whole index");
    drop(conn);
    let (first, last) = (entries[0].seq, entries[3].position());
    pair.writer.jobs([StoreJob::Proposed { id, first, last }, StoreJob::Apply { entries: entries.clone() }]);
    pair.replica.apply(&entries[2..]);
    assert_eq!(told(&mut answers[3]).expect_err("no such column").code, "bad_sql");
    pair.check();
    pair.write("DELETE FROM f WHERE title = 'two'");
    pair.write("DELETE FROM r WHERE id = 1");
    pair.write("INSERT INTO f(f) VALUES('optimize')");
    pair.write("ALTER TABLE f RENAME TO g");
    pair.write("INSERT INTO g VALUES('three', 'words after renaming')");
    pair.check();
    // Rows that one module still holds back while another table is made.
    pair.write("INSERT INTO g VALUES('held', 'held back'); CREATE VIRTUAL TABLE h USING fts5(x); INSERT INTO h VALUES('y'); ALTER TABLE h RENAME TO h2; INSERT INTO g VALUES('held', 'held back again'); DROP TABLE h2");
    pair.check();
    pair.write("CREATE VIRTUAL TABLE old USING fts4(body)");
    let _ = pair.send_all(vec![
        vec![text("INSERT INTO old VALUES('a fourth module')")],
        vec![text("INSERT INTO old VALUES('holds back too'); SELECT 1")],
        vec![text("DELETE FROM old WHERE body MATCH 'fourth'")],
    ]);
    pair.settle();
    pair.check();
    pair.write("CREATE TABLE doc(id INTEGER PRIMARY KEY, body)");
    pair.write("CREATE VIRTUAL TABLE ext USING fts5(body, content=doc, content_rowid=id)");
    pair.write(
        "CREATE TRIGGER doc_i AFTER INSERT ON doc BEGIN INSERT INTO ext(rowid, body) VALUES(new.id, new.body); END",
    );
    pair.write("INSERT INTO doc(body) VALUES('external content'), ('more')");
    pair.check();
    // The replica becomes the writer: its connection must know its own index.
    let Pair { writer, replica, .. } = &mut pair;
    std::mem::swap(writer, replica);
    pair.writer.pin(1, true);
    pair.replica.pin(1, false);
    pair.write("INSERT INTO g VALUES('four', 'written by the new writer')");
    pair.write("INSERT INTO doc(body) VALUES('by the new writer')");
    let found = pair.write("SELECT title FROM g('writer')");
    assert_eq!(found, r#"{"columns":["title"],"rows":[["four"]]}"#);
    pair.check();
    pair.write("DROP TABLE g");
    pair.write("DROP TABLE r");
    pair.check();
}

#[test]
fn counters_move_without_rows() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, u UNIQUE)");
    pair.write("INSERT INTO t(u) VALUES('a')");
    pair.write("INSERT OR IGNORE INTO t(u) VALUES('a')");
    pair.check();
    pair.write("INSERT INTO t(u) VALUES('b'); DELETE FROM t WHERE u = 'b'");
    pair.check();
    pair.write("INSERT INTO t(id, u) VALUES(100, 'c')");
    pair.write("DELETE FROM t");
    pair.check();
    pair.write("UPDATE sqlite_sequence SET seq = 500 WHERE name = 't'");
    pair.check();
    pair.write("INSERT INTO t(u) VALUES('d')");
    pair.check();
    pair.write("DELETE FROM sqlite_sequence");
    pair.check();
    assert_eq!(pair.write("SELECT id FROM t"), r#"{"columns":["id"],"rows":[[501]]}"#);
}
