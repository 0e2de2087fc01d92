//! Every kind of statement, and what SQLite is to say of it.

use super::super::policy::harden;
use super::super::schema_sql;
use super::*;
use rusqlite::OpenFlags;

#[derive(Debug, PartialEq, Clone, Copy)]
enum Kind {
    Read,
    Write,
    /// Write for now: not to be remembered.
    Later,
    Refused(u16, &'static str),
}
use Kind::{Later, Read, Refused, Write};

const FORBIDDEN: Kind = Refused(403, "forbidden_sql");
const BAD: Kind = Refused(400, "bad_sql");

const TABLE: &[(&str, Kind)] = &[
    ("SELECT 1", Read),
    ("  \n\t SELECT * FROM t", Read),
    ("-- a comment\nSELECT * FROM t", Read),
    ("/* DELETE */ SELECT * FROM t;", Read),
    ("SELECT * FROM t; -- and that is all", Read),
    (";;SELECT 1;;", Read),
    ("VALUES (1), (2)", Read),
    ("WITH x AS (SELECT 1) SELECT * FROM x", Read),
    ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5) SELECT i FROM n", Read),
    ("SELECT * FROM v", Read),
    ("SELECT * FROM f WHERE f MATCH 'x'", Read),
    ("SELECT count(*) FROM sqlite_master", Read),
    ("SELECT 1; SELECT 2", Read),
    ("EXPLAIN DELETE FROM t", Read),
    ("EXPLAIN QUERY PLAN UPDATE t SET b = 1", Read),
    ("PRAGMA table_info(t)", Read),
    ("PRAGMA main.table_info = t", Read),
    ("SELECT * FROM pragma_table_info('t')", Read),
    ("PRAGMA user_version", Read),
    ("PRAGMA journal_mode", Read),
    ("PRAGMA integrity_check(5)", Read),
    ("PRAGMA data_version", Read),
    ("SELECT * FROM f WHERE f MATCH 'x'", Read),
    ("INSERT INTO f VALUES ('x')", Write),
    ("INSERT INTO f(f) VALUES ('optimize')", Write),
    ("INSERT INTO t VALUES (1, 2)", Write),
    ("insert into t values (?, ?) returning a", Write),
    ("/* SELECT */ REPLACE INTO t VALUES (1, 2)", Write),
    ("WITH x AS (SELECT 1) INSERT INTO t SELECT 1, 2 FROM x", Write),
    ("WITH x AS (SELECT 1) DELETE FROM t", Write),
    ("UPDATE t SET b = 1 WHERE 0", Write),
    ("DELETE FROM t", Write),
    ("SELECT 1; DELETE FROM t", Write),
    ("DELETE FROM t; SELECT 1", Write),
    ("CREATE TABLE u(a)", Write),
    ("CREATE TABLE IF NOT EXISTS u AS SELECT * FROM t", Write),
    ("CREATE INDEX i ON t(b)", Write),
    ("CREATE VIEW w AS SELECT 1", Write),
    ("CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; SELECT 1; END", Write),
    ("CREATE VIRTUAL TABLE g USING fts5(x)", Write),
    ("DROP TABLE t", Write),
    ("ALTER TABLE t ADD COLUMN c", Write),
    ("ALTER TABLE t RENAME TO u", Write),
    ("REINDEX t", Write),
    ("ANALYZE", Write),
    ("INSERT INTO f4 VALUES ('x')", Write),
    ("INSERT INTO f VALUES ('x')", Write),
    ("SELECT * FROM f WHERE f MATCH 'x'", Read),
    ("PRAGMA user_version = 5", Write),
    ("PRAGMA user_version = ''", Write),
    ("PRAGMA application_id(7)", Write),
    ("PRAGMA defer_foreign_keys = on", Write),
    ("EXPLAIN PRAGMA user_version = 5", Read),
    ("INSERT INTO nowhere VALUES (1)", Later),
    ("SELECT * FROM nowhere", Later),
    ("SELECT absent FROM t", Later),
    ("CREATE TABLE u(a); INSERT INTO u VALUES (1)", Later),
    ("ATTACH 'x.db' AS x", FORBIDDEN),
    ("EXPLAIN ATTACH 'x.db' AS x", FORBIDDEN),
    ("DETACH x", FORBIDDEN),
    ("VACUUM", FORBIDDEN),
    ("VACUUM INTO '/tmp/x.db'", FORBIDDEN),
    ("BEGIN", FORBIDDEN),
    ("BEGIN IMMEDIATE", FORBIDDEN),
    ("COMMIT", FORBIDDEN),
    ("ROLLBACK", FORBIDDEN),
    ("SAVEPOINT s", FORBIDDEN),
    ("RELEASE s", FORBIDDEN),
    ("ROLLBACK TO s", FORBIDDEN),
    ("SELECT 1; COMMIT; SELECT 1", FORBIDDEN),
    ("PRAGMA foreign_keys = off", FORBIDDEN),
    ("/**/PRAGMA journal_mode = DELETE", FORBIDDEN),
    ("PRAGMA writable_schema = 1", FORBIDDEN),
    ("PRAGMA query_only = 0", FORBIDDEN),
    ("PRAGMA schema_version = 1", FORBIDDEN),
    ("PRAGMA journal_mode = ''", FORBIDDEN),
    ("PRAGMA database_list", FORBIDDEN),
    ("PRAGMA cache_size", FORBIDDEN),
    ("PRAGMA data_version = 1", FORBIDDEN),
    ("PRAGMA table_info(_ha_meta)", FORBIDDEN),
    ("PRAGMA wal_checkpoint", FORBIDDEN),
    ("PRAGMA temp_store_directory = '/tmp'", FORBIDDEN),
    ("PRAGMA no_such_pragma", FORBIDDEN),
    ("CREATE TEMP TABLE x(a)", FORBIDDEN),
    ("CREATE TEMPORARY VIEW x AS SELECT 1", FORBIDDEN),
    ("CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END", FORBIDDEN),
    ("CREATE VIRTUAL TABLE temp.x USING fts5(a)", FORBIDDEN),
    ("SELECT * FROM _ha_meta", FORBIDDEN),
    ("SELECT count(*) FROM \"_HA_META\"", FORBIDDEN),
    ("SELECT 1 FROM t WHERE EXISTS (SELECT 1 FROM main._ha_position)", FORBIDDEN),
    ("SELECT * FROM spy", FORBIDDEN),
    ("UPDATE _ha_meta SET value = 1", FORBIDDEN),
    ("INSERT INTO t SELECT key, value FROM _ha_meta", FORBIDDEN),
    ("DROP TABLE _ha_meta", FORBIDDEN),
    ("CREATE TABLE _ha_mine(a)", FORBIDDEN),
    ("CREATE INDEX i ON _ha_meta(value)", FORBIDDEN),
    ("CREATE TRIGGER g AFTER INSERT ON _ha_meta BEGIN SELECT 1; END", FORBIDDEN),
    ("ALTER TABLE _ha_meta ADD COLUMN c", FORBIDDEN),
    ("SELECT fts3_tokenizer('simple')", FORBIDDEN),
    ("SELEC 1", BAD),
    ("SELECT 1; SELEC 2", BAD),
    ("SELECT 'open", BAD),
    ("SELECT (", BAD),
    ("SELECT 1\0; DELETE FROM t", BAD),
    ("", Refused(400, "no_queries")),
    (" ; -- nothing", Refused(400, "no_queries")),
];

/// A reading connection to a database with one of everything.
fn reader() -> (tempfile::TempDir, Connection, Arc<Gate>) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data.db");
    let writer = Connection::open(&path).expect("opens");
    writer
        .execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE t(a, b); CREATE INDEX tb ON t(b); CREATE VIEW v AS SELECT a FROM t;
             CREATE VIRTUAL TABLE f USING fts5(x);
             CREATE VIRTUAL TABLE f4 USING fts4(x); CREATE VIEW spy AS SELECT * FROM _ha_meta;",
        )
        .expect("valid");
    writer.execute_batch(schema_sql::CREATE).expect("valid");
    let mut connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("opens");
    harden(&connection).expect("hardened");
    let gate = Gate::install(&mut connection).expect("installed");
    (dir, connection, gate)
}

fn kind(found: &Found) -> Kind {
    match found {
        Found::Known(Known::Read { .. }) => Read,
        Found::Known(Known::Write) => Write,
        Found::WriteForNow => Later,
        Found::Refused(error) => Refused(error.status, error.code),
    }
}

#[test]
fn every_kind_of_statement_is_what_sqlite_says() {
    let (_dir, connection, gate) = reader();
    for (sql, expected) in TABLE {
        assert_eq!(kind(&classify_text(&connection, &gate, sql)), *expected, "{sql}");
    }
}

#[test]
fn a_refusal_says_why() {
    let (_dir, connection, gate) = reader();
    for (sql, part) in [
        ("BEGIN", "one array"),
        ("SELECT * FROM _ha_meta", "_ha_*"),
        ("CREATE TEMP TABLE x(a)", "temporary"),
        ("PRAGMA query_only = 0", "PRAGMA"),
        ("VACUUM", "VACUUM"),
        ("SELEC 1", "near \"SELEC\""),
    ] {
        match classify_text(&connection, &gate, sql) {
            Found::Refused(error) => assert!(error.message.contains(part), "{sql}: {error}"),
            found => panic!("{sql}: {:?}", kind(&found)),
        }
    }
}

#[test]
fn a_text_beyond_the_limit_is_too_big() {
    let (_dir, connection, gate) = reader();
    let sql = format!("SELECT '{}'", "x".repeat(2 << 20));
    assert_eq!(kind(&classify_text(&connection, &gate, &sql)), Refused(413, "too_big"));
}

#[test]
fn the_cache_remembers_and_stays_bounded() {
    let cache = Cache::default();
    let mut asked = 0;
    let mut get = |sql: &str| {
        let found = || {
            asked += 1;
            Ok(Found::Known(Known::Write))
        };
        assert!(matches!(cache.get(sql, found), Ok(Entry::Known(_))));
        asked
    };
    assert_eq!(get("hot"), 1);
    assert_eq!(get("hot"), 1);
    for n in 0..10 * Cache::TEXTS_MAX {
        get(&format!("cold {n}"));
        // What is asked for again and again is never dropped.
        get("hot");
    }
    assert_eq!(get("hot"), 1 + 10 * Cache::TEXTS_MAX);
    assert!(cache.len() <= 2 * Cache::TEXTS_MAX, "{}", cache.len());
    let long = "x".repeat(Cache::LENGTH_MAX + 1);
    let before = get(&long);
    assert_eq!(get(&long), before + 1, "long texts are not kept");
}

#[test]
fn what_depends_on_the_schema_is_not_remembered() {
    let cache = Cache::default();
    for _ in 0..2 {
        let mut asked = false;
        let entry = cache.get("SELECT * FROM later", || {
            asked = true;
            Ok(Found::WriteForNow)
        });
        assert!(asked && matches!(entry, Ok(Entry::Known(_))));
    }
    assert_eq!(cache.len(), 0);
}

#[test]
fn a_text_is_slow_by_what_it_did_or_by_the_clock_three_times_in_a_row() {
    let known = Known::Read { single: true, strikes: AtomicU8::new(0) };
    known.strike();
    known.strike();
    assert!(!known.is_slow());
    known.is_found_quick();
    known.strike();
    known.strike();
    assert!(!known.is_slow(), "not in a row");
    known.strike();
    assert!(known.is_slow());
    known.is_found_quick();
    assert!(!known.is_slow());
    known.is_found_slow();
    assert!(known.is_slow());
    assert!(!Known::Write.is_slow());
}
