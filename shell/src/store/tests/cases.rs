//! What a request leaves behind when it fails, what SQL may do, what an entry
//! that does not fit does.

use super::*;
use base_ha_core::changeset::{Change, ChangeSet, TableShape};
use base_ha_core::wire::{decode_changeset, encode_changeset};

fn set(tables: Vec<TableShape>, changes: Vec<Change>) -> Bytes {
    encode_changeset(&ChangeSet {
        request: RequestId(9),
        hlc: Hlc(1),
        database: "main".into(),
        tables,
        changes,
        stored_answer: None,
    })
}

fn shape(name: &str, columns: &[&str]) -> TableShape {
    TableShape {
        name: name.into(),
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        key: Vec::new(),
        has_rowid: true,
    }
}

#[test]
fn the_place_of_an_error_counts_from_the_start_of_the_whole_text() {
    let mut pair = Pair::new();
    // The writer compiles one statement after the other: the table is there.
    let sql = "CREATE TABLE t(a);  INSERT INTO t SELECT é FROM t";
    let error = pair.try_write(vec![text(sql)]).expect_err("no such column");
    assert_eq!((error.status, error.code), (400, "bad_sql"));
    let place = error.data.expect("particulars")["offset"].as_u64().expect("a place");
    assert_eq!(place as usize, sql.find('é').expect("there"));
    pair.check();
}

#[test]
fn failed_statement_not_replicated() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a UNIQUE, b CHECK(b < 10))");
    pair.write("INSERT INTO t VALUES(1, 1)");
    let entries = pair.log.len();
    for sql in [
        "INSERT INTO t VALUES(2, 2), (3, 3), (1, 1)",
        "INSERT OR FAIL INTO t VALUES(2, 2), (3, 3), (1, 1)",
        "INSERT OR ABORT INTO t VALUES(2, 2), (3, 99)",
        "INSERT INTO t VALUES(2, 2); INSERT INTO t VALUES(1, 1)",
        "INSERT INTO t VALUES(2, 2); SELECT nothing",
        "UPDATE t SET b = 5; UPDATE t SET b = 50",
        "CREATE TABLE u(x); INSERT INTO u VALUES(1); INSERT INTO nowhere VALUES(1)",
        "ALTER TABLE t ADD COLUMN c; INSERT INTO t VALUES(2, 2, 2); DROP TABLE nowhere",
    ] {
        pair.fails(sql);
        assert_eq!(pair.log.len(), entries, "{sql} left an entry");
        pair.check();
    }
    let body = pair.write("INSERT OR IGNORE INTO t VALUES(2, 2), (1, 1), (3, 3)");
    assert!(body.contains("[[2,"), "{body}");
    pair.check();
    // After a failed schema change the next statements see the old schema.
    pair.write("INSERT INTO t VALUES(4, 4)");
    pair.check();
}

#[test]
fn triggers_once() {
    let mut pair = Pair::new();
    pair.write(
        "CREATE TABLE t(a INTEGER PRIMARY KEY, n DEFAULT 0); CREATE TABLE log(what);
         CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO log VALUES('i' || new.a); UPDATE t SET n = n + 1 WHERE a = new.a; END;
         CREATE TRIGGER u BEFORE UPDATE ON t BEGIN INSERT INTO log VALUES('u' || new.a); END;
         CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO log VALUES('d' || old.a); END",
    );
    pair.write("INSERT INTO t(a) VALUES(1), (2)");
    pair.write("UPDATE t SET n = 10 WHERE a = 1");
    pair.write("DELETE FROM t WHERE a = 2");
    pair.write("INSERT OR REPLACE INTO t(a) VALUES(1)");
    pair.check();
    let log = pair.write("SELECT group_concat(what) FROM log");
    assert!(log.contains("i1,u1,i2,u2,u1,d2,i1,u1"), "{log}");
}

#[test]
fn foreign_keys_act_on_the_writer_only() {
    let mut pair = Pair::new();
    pair.write(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE);
         CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE);
         CREATE TABLE n(p REFERENCES p(u) ON DELETE SET NULL ON UPDATE SET DEFAULT)",
    );
    pair.write("INSERT INTO p VALUES(1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO c VALUES(1, 1), (2, 2), (3, 3); INSERT INTO n VALUES('a'), ('b'), ('c')");
    pair.write("DELETE FROM p WHERE id = 1");
    pair.write("UPDATE p SET id = 20 WHERE id = 2");
    pair.write("UPDATE p SET u = 'x' WHERE id = 20");
    pair.check();
    assert_eq!(pair.fails("INSERT INTO c VALUES(9, 9)"), "constraint_foreign_key");
    pair.write("INSERT OR REPLACE INTO p VALUES(3, 'again')");
    pair.check();
}

#[test]
fn redelivery_idempotent() {
    let mut pair = Pair::new();
    pair.write(
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p ON DELETE CASCADE); CREATE TABLE k(a)",
    );
    pair.write("INSERT INTO p VALUES(1); INSERT INTO c VALUES(1), (1); INSERT INTO k VALUES(1)");
    let log = pair.log.clone();
    pair.replica.apply(&log);
    pair.replica.apply(&log[1..]);
    pair.writer.apply(&log);
    pair.check();
}

#[test]
fn gap_blocks() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    pair.write("INSERT INTO t VALUES(1)");
    pair.write("INSERT INTO t VALUES(2)");
    let mut late = Store::open();
    late.apply(&pair.log[..1]);
    late.apply(&pair.log[2..]);
    assert_eq!(late.position, pair.log[0].position(), "an entry was applied over a gap");
    late.apply(&pair.log[1..]);
    assert_eq!(late.position, pair.last());
    assert_eq!(late.content, pair.writer.content);
}

#[test]
fn position_in_same_tx() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    for n in 0..20 {
        pair.write(&format!("INSERT INTO t VALUES({n})"));
        if n % 5 == 0 {
            pair.replica = std::mem::replace(&mut pair.replica, Store::open()).reopen();
        }
        let conn = rusqlite::Connection::open(pair.replica.file()).expect("opens");
        let rows: i64 = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("counted");
        let position = super::super::read_position(&conn).expect("a position");
        assert_eq!((position, rows), (pair.last(), n + 1));
    }
    pair.check();
}

/// B13: an entry names its stream, and its changes their database. What is for
/// another one is not applied here, not even where its rows would fit.
#[test]
fn changes_carry_database_id() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    pair.write("INSERT INTO t VALUES(1)");
    for entry in &pair.log {
        assert_eq!(entry.stream, StreamId::SHARED);
        let decoded = decode_changeset(entry.payload.clone()).expect("a change-set");
        assert_eq!(decoded.database, "main");
    }
    let rows = vec![Change::Insert { table: 0, rowid: 2, new: vec![Value::Integer(2)] }];
    let mut elsewhere = decode_changeset(set(vec![shape("t", &["a"])], rows)).expect("a change-set");
    elsewhere.database = "auxiliary".into();
    let other = pair.entry(EntryKind::Data, encode_changeset(&elsewhere));
    let before = dump(&pair.replica.file());
    pair.replica.apply(std::slice::from_ref(&other));
    assert_eq!(pair.replica.health, [StoreHealth::ApplyHalted { at: other.seq }]);
    assert_eq!(dump(&pair.replica.file()), before);
}

#[test]
fn poison_message_fails_health() {
    let rows = vec![Value::Integer(1)];
    let bad: Vec<Bytes> = vec![
        Bytes::from_static(b"not a change-set"),
        set(vec![shape("nowhere", &["a"])], vec![Change::Insert { table: 0, rowid: 1, new: rows.clone() }]),
        set(
            vec![shape("t", &["a", "b"])],
            vec![Change::Insert { table: 0, rowid: 1, new: vec![Value::Null, Value::Null] }],
        ),
        set(vec![shape("t", &["a"])], vec![Change::Insert { table: 0, rowid: 1, new: rows.clone() }]),
        set(vec![shape("t", &["a"])], vec![Change::Delete { table: 0, rowid: 77, old: rows.clone() }]),
        set(vec![], vec![Change::Ddl { sql: "DROP TABLE nowhere".into(), epoch: 2 }]),
        set(vec![], vec![Change::Ddl { sql: "CREATE TABLE x(a)".into(), epoch: 7 }]),
        set(vec![], vec![Change::Ddl { sql: "CREATE TABLE x(a); DROP TABLE t".into(), epoch: 2 }]),
        set(vec![], vec![Change::Ddl { sql: "DELETE FROM t".into(), epoch: 2 }]),
        set(vec![], vec![Change::Ddl { sql: "ATTACH 'x' AS y".into(), epoch: 2 }]),
        set(vec![], vec![Change::Ddl { sql: "DROP TABLE _ha_meta".into(), epoch: 2 }]),
        set(vec![], vec![Change::Ddl { sql: " -- nothing".into(), epoch: 2 }]),
        set(
            vec![shape("_ha_meta", &["key", "value"])],
            vec![Change::Delete { table: 0, rowid: 1, old: vec![Value::Null, Value::Null] }],
        ),
    ];
    for (n, payload) in bad.into_iter().enumerate() {
        let mut pair = Pair::new();
        pair.write("CREATE TABLE t(a)");
        pair.write("INSERT INTO t(rowid, a) VALUES(1, 1)");
        let before = dump(&pair.replica.file());
        let good = pair.entry(EntryKind::Noop, Bytes::new());
        pair.log.push(good.clone());
        let poison = pair.entry(EntryKind::Data, payload);
        pair.log.push(poison.clone());
        let after = pair.entry(EntryKind::Noop, Bytes::new());
        pair.replica.apply(&[good.clone(), poison.clone(), after.clone()]);
        assert_eq!(pair.replica.health, [StoreHealth::ApplyHalted { at: poison.seq }], "case {n}");
        assert_eq!(pair.replica.position, good.position(), "case {n}: what came before it was not applied");
        assert_eq!(dump(&pair.replica.file()), before, "case {n}: something was applied in part");
        // Neither again, nor over it.
        pair.replica.apply(&[poison.clone(), after]);
        assert_eq!(pair.replica.position, good.position());
        // Nor after a restart: it halts again and does not crash.
        pair.replica = std::mem::replace(&mut pair.replica, Store::open()).reopen();
        pair.replica.apply(std::slice::from_ref(&poison));
        assert_eq!(pair.replica.health, [StoreHealth::ApplyHalted { at: poison.seq }], "case {n}");
    }
}

#[test]
fn apply_never_panics() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    pair.write("INSERT INTO t VALUES(1, 'x'), (2, 'y'); UPDATE t SET b = 'z' WHERE a = 1; DELETE FROM t WHERE a = 2");
    let payload = pair.log[1].payload.clone();
    assert!(decode_changeset(payload.clone()).is_ok());
    let create = pair.log[0].clone();
    let mut before = Store::open();
    before.apply(std::slice::from_ref(&create));
    let content = before.content;
    // Every byte changed, every cut: the checksum catches most, and what has a
    // right checksum (re-sealed below) must still not pass in part.
    for n in 0..payload.len() {
        let mut bytes = payload.to_vec();
        bytes[n] ^= 0x55;
        for bytes in [bytes, payload[..n].to_vec()] {
            let hlc = Hlc(1 << 20);
            let entry =
                Entry::following(&create.position(), StreamId::SHARED, Term(1), hlc, EntryKind::Data, bytes.into());
            let mut jobs = VecDeque::from([StoreJob::Apply { entries: vec![entry] }]);
            before.worker.run(&mut jobs);
            before.jobs([]);
            assert_eq!((before.position, before.content), (create.position(), content));
            if before.health.pop().is_some() {
                before = before.reopen();
            }
        }
    }
    let set = decode_changeset(payload).expect("a change-set");
    for n in 0..set.changes.len() {
        let mut broken = set.clone();
        broken.changes.remove(n);
        broken.changes.reverse();
        let bytes = encode_changeset(&broken);
        let hlc = Hlc(1 << 20);
        let entry = Entry::following(&create.position(), StreamId::SHARED, Term(1), hlc, EntryKind::Data, bytes);
        before.apply(std::slice::from_ref(&entry));
        assert_eq!(before.health.pop(), Some(StoreHealth::ApplyHalted { at: entry.seq }));
        before = before.reopen();
        assert_eq!(before.content, content);
    }
}

#[test]
fn sql_that_reaches_elsewhere_is_refused() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let entries = pair.log.len();
    for sql in [
        "SELECT * FROM _ha_position",
        "SELECT (SELECT seq FROM main._HA_position)",
        "UPDATE _ha_position SET seq = 0",
        "DELETE FROM _ha_requests",
        "INSERT INTO _ha_meta VALUES('x', 'y')",
        "DROP TABLE _ha_meta",
        "ALTER TABLE _ha_meta ADD COLUMN x",
        "CREATE TABLE _ha_mine(a)",
        "CREATE INDEX _ha_i ON t(a)",
        "CREATE INDEX i ON _ha_meta(value)",
        "CREATE VIEW _Ha_v AS SELECT 1",
        "ALTER TABLE t RENAME TO _ha_stolen",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN DELETE FROM _ha_meta; END; INSERT INTO t VALUES(1)",
        "CREATE VIEW v AS SELECT * FROM _ha_meta; SELECT * FROM v",
        "CREATE VIEW v AS SELECT * FROM _ha_meta",
        "CREATE VIEW v(x) AS SELECT 1 WHERE EXISTS (SELECT 1 FROM main._HA_position)",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN DELETE FROM _ha_meta; END",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO t SELECT seq FROM _ha_position; END",
        "CREATE TRIGGER tr BEFORE DELETE ON t BEGIN SELECT count(*) FROM _ha_requests; END",
        "CREATE TRIGGER tr AFTER UPDATE OF a ON t WHEN EXISTS (SELECT 1 FROM _ha_sums) BEGIN SELECT 1; END",
        "CREATE VIEW v AS SELECT a FROM t;
         CREATE TRIGGER tr INSTEAD OF INSERT ON v BEGIN INSERT INTO t SELECT seq FROM _ha_position; END",
        "CREATE TABLE fine(a); ALTER TABLE fine RENAME TO _ha_stolen",
        "CREATE VIRTUAL TABLE _ha_fts USING fts5(a)",
        "PRAGMA table_info(_ha_meta)",
        "SELECT * FROM pragma_table_xinfo('_ha_meta')",
        "ATTACH 'other.db' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "END",
        "SAVEPOINT x",
        "RELEASE _ha_request",
        "ROLLBACK TO _ha_request",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA journal_mode = ''",
        "PRAGMA foreign_keys = ''",
        "PRAGMA database_list",
        "SELECT * FROM pragma_database_list",
        "PRAGMA cache_size",
        "PRAGMA data_version = 1",
        "PRAGMA synchronous = OFF",
        "PRAGMA foreign_keys = OFF",
        "PRAGMA writable_schema = ON",
        "PRAGMA query_only = ON",
        "PRAGMA wal_checkpoint",
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA recursive_triggers = ON",
        "PRAGMA schema_version = 1",
        "/* hidden */ PRAGMA mmap_size = 1",
        "CREATE TEMP TABLE x(a)",
        "CREATE TABLE temp.x(a)",
        "CREATE TEMP VIEW x AS SELECT 1",
        "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
        "SELECT load_extension('x')",
        "SELECT fts3_tokenizer('simple')",
        "INSERT INTO sqlite_stat1 VALUES('t', NULL, '1')",
    ] {
        let code = pair.fails(sql);
        let missing = sql.contains("stat1") || sql.contains("load_extension");
        assert!(code == "forbidden_sql" || (missing && code == "bad_sql"), "{sql}: {code}");
        assert_eq!(pair.log.len(), entries, "{sql}");
    }
    pair.write("ANALYZE; INSERT INTO t VALUES(1); ANALYZE");
    assert_eq!(pair.fails("DELETE FROM sqlite_stat1"), "forbidden_sql");
    for sql in ["VACUUM", "VACUUM INTO 'x.db'", "UPDATE sqlite_schema SET sql = 'x'", "INSERT INTO t VALUES(1)\0"] {
        assert_eq!(pair.fails(sql), "bad_sql", "{sql}");
    }
    for sql in ["", "  ", "-- nothing", ";", "; ;"] {
        assert_eq!(pair.fails(sql), "bad_sql", "{sql:?}");
    }
    assert_eq!(
        pair.fails("CREATE TABLE bad(rowid, _rowid_, oid)"),
        "unsupported_schema",
        "rows that cannot be addressed"
    );
    for sql in [
        "PRAGMA user_version",
        "PRAGMA journal_mode",
        "PRAGMA auto_vacuum",
        "PRAGMA table_info(t)",
        "CREATE VIEW later AS SELECT * FROM not_there_yet",
        "CREATE TRIGGER fine AFTER UPDATE ON t BEGIN INSERT INTO t VALUES(new.a); END",
        "DROP TRIGGER fine",
        "DROP VIEW later",
        "PRAGMA foreign_key_check",
        "EXPLAIN DROP TABLE t",
        "EXPLAIN QUERY PLAN SELECT * FROM t",
    ] {
        pair.write(sql);
    }
    pair.check();
}

#[test]
fn a_request_sees_nothing_of_the_one_before() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p)");
    let mut answers = pair.send_all(vec![
        vec![text("INSERT INTO p VALUES(7)")],
        vec![text("SELECT last_insert_rowid()")],
        vec![text("PRAGMA defer_foreign_keys = ON; INSERT INTO c VALUES(8); INSERT INTO p VALUES(8)")],
        vec![text("INSERT INTO c VALUES(9)")],
    ]);
    pair.settle();
    assert!(told(&mut answers[1]).expect("ran").contains("[[0]]"));
    told(&mut answers[2]).expect("deferred and healed");
    // Deferring was the other request's wish: this one fails at once.
    assert_eq!(told(&mut answers[3]).expect_err("no parent").code, "constraint_foreign_key");
    pair.check();
}

#[test]
fn a_deferred_violation_that_another_request_would_hide() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)");
    let mut answers = pair.send_all(vec![
        vec![text("INSERT INTO c VALUES(1)")],
        vec![text("INSERT INTO p VALUES(1)")],
        vec![text("INSERT INTO c VALUES(2); INSERT INTO p VALUES(2)")],
    ]);
    assert_eq!(pair.writer.proposals[0].1.len(), 2);
    pair.settle();
    assert_eq!(told(&mut answers[0]).expect_err("left open").code, "constraint_foreign_key");
    told(&mut answers[1]).expect("fine");
    told(&mut answers[2]).expect("healed itself");
    pair.check();
}
