//! Reads against a real file with a real writer beside them.

use super::*;
use crate::api::Params;
use crate::env::{Work, WorkerHandle};
use crate::store::schema_sql;
use base_ha_core::changeset::Value;
use base_ha_core::time::{Now, WallTime};
use rusqlite::{Connection, params};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

/// A world that has clocks and threads, and nothing else.
#[derive(Clone)]
struct TestEnv {
    start: Instant,
}

impl Env for TestEnv {
    type Stream = tokio::io::DuplexStream;
    type Listener = ();

    fn now(&self) -> Now {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).expect("not that old");
        Now { mono: MonoTime(nanos), wall: WallTime(0) }
    }

    fn entropy(&self, out: &mut [u8]) {
        out.fill(0);
    }

    async fn bind(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn local_address(&self, (): &()) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn accept(&self, (): &mut ()) -> io::Result<(Self::Stream, SocketAddr)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn connect(&self, _: &str) -> io::Result<Self::Stream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn worker<J: Send + 'static, W: Work<J>>(&self, _: &'static str, _: W) -> WorkerHandle<J> {
        WorkerHandle::new(Err)
    }

    fn blocking<R: Send + 'static>(&self, call: impl FnOnce() -> R + Send + 'static) -> impl Future<Output = R> + Send {
        let task = tokio::task::spawn_blocking(call);
        async move { task.await.expect("the call does not panic") }
    }

    fn die(&self, reason: &str) -> ! {
        panic!("{reason}")
    }
}

struct Case {
    dir: tempfile::TempDir,
    env: TestEnv,
    writer: Connection,
    reads: Reads<TestEnv>,
}

impl Case {
    fn path(&self) -> PathBuf {
        self.dir.path().join("data.db")
    }

    fn new(size: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("data.db");
        let writer = create(&path, 0);
        let env = TestEnv { start: Instant::now() };
        let reads = Reads::open(env.clone(), &path, size, Arc::default()).expect("opens");
        Self { dir, env, writer, reads }
    }

    fn request(&self, sql: &str, params: Params) -> ReadRequest {
        ReadRequest {
            statements: vec![Statement { sql: sql.into(), params }],
            many: false,
            limits: SqlLimits {
                statements_max: 10,
                rows_max: 1_000,
                answer_bytes_max: 16 << 20,
                deadline: self.env.now().mono.after(Duration::from_secs(20)),
            },
            at_least: None,
            seen: None,
        }
    }

    async fn read(&self, sql: &str) -> Result<String, ReadError> {
        self.reads.run(self.request(sql, Params::None)).await.map(|answer| text(&answer))
    }

    async fn failing(&self, sql: &str) -> (u16, &'static str) {
        match self.read(sql).await {
            Err(ReadError::Sql(error)) => (error.status, error.code),
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn count(&self, which: impl Fn(&ReadStats) -> &AtomicU64) -> u64 {
        which(self.reads.stats()).load(Ordering::Relaxed)
    }
}

fn create(path: &Path, seq: u64) -> Connection {
    let writer = Connection::open(path).expect("opens");
    writer.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;").expect("valid");
    writer.execute_batch(schema_sql::CREATE).expect("valid");
    writer
        .execute_batch(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO t VALUES (1, 'one'), (2, 'two');",
        )
        .expect("valid");
    move_to(&writer, seq);
    writer
}

fn move_to(writer: &Connection, seq: u64) {
    writer
        .execute(
            "INSERT INTO _ha_position(stream, seq, term, hash, content) VALUES (zeroblob(16), ?1, 7, ?2, zeroblob(16))
             ON CONFLICT DO UPDATE SET seq = excluded.seq",
            params![i64::try_from(seq).expect("small"), [9_u8; 32]],
        )
        .expect("valid");
}

fn text(answer: &ReadAnswer) -> String {
    String::from_utf8(answer.body.to_vec()).expect("JSON is UTF-8")
}

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";

#[tokio::test]
async fn a_read_answers_rows_and_position() {
    let case = Case::new(2);
    move_to(&case.writer, 41);
    let request = case.request("SELECT * FROM t WHERE id = ?", Params::Positional(vec![Value::Integer(2)]));
    let answer = case.reads.run(request).await.expect("reads");
    assert_eq!(text(&answer), r#"{"columns":["id","name"],"rows":[[2,"two"]]}"#);
    assert_eq!((answer.position.seq, answer.position.term.0, answer.position.hash.0), (Seq(41), 7, [9; 32]));
    assert_eq!(case.count(|s| &s.fast), 1);
    assert_eq!(case.read("SELECT * FROM t WHERE 0").await.expect("reads"), r#"{"columns":["id","name"],"rows":[]}"#);
}

#[tokio::test]
async fn a_database_without_entries_is_at_the_start() {
    let case = Case::new(1);
    case.writer.execute_batch("DELETE FROM _ha_position").expect("valid");
    let answer = case.reads.run(case.request("SELECT 1", Params::None)).await.expect("reads");
    assert_eq!(answer.position, Position::START);
}

#[tokio::test]
async fn several_statements_answer_several_results() {
    let case = Case::new(1);
    let both =
        case.reads.run(case.request(
            "SELECT ?; -- and\nSELECT ? AS b;",
            Params::Positional(vec![Value::Integer(1), Value::Integer(2)]),
        ));
    assert_eq!(
        text(&both.await.expect("reads")),
        r#"{"results":[{"columns":["?"],"rows":[[1]]},{"columns":["b"],"rows":[[2]]}],"columns":["b"],"rows":[[2]]}"#
    );
    let mut many = case.request("SELECT 1 AS a", Params::None);
    many.statements
        .push(Statement { sql: "SELECT :x AS x".into(), params: Params::Named(vec![("x".into(), Value::Null)]) });
    many.many = true;
    assert_eq!(
        text(&case.reads.run(many).await.expect("reads")),
        r#"{"results":[{"columns":["a"],"rows":[[1]]},{"columns":["x"],"rows":[[null]]}]}"#
    );
    assert_eq!(case.failing(&"SELECT 1;".repeat(11)).await, (413, "too_many_statements"));
}

#[tokio::test]
async fn a_snapshot_that_is_too_old_says_how_old() {
    let case = Case::new(1);
    move_to(&case.writer, 5);
    let mut request = case.request("SELECT 1", Params::None);
    request.at_least = Some(Seq(6));
    match case.reads.run(request).await {
        Err(ReadError::Behind { position }) => assert_eq!(position.seq, Seq(5)),
        other => panic!("{other:?}"),
    }
    let mut request = case.request("SELECT 1", Params::None);
    request.at_least = Some(Seq(5));
    assert!(case.reads.run(request).await.is_ok());
}

#[tokio::test]
async fn the_place_of_an_error_counts_from_the_start_of_the_whole_text() {
    let case = Case::new(1);
    let text = "  SELECT 1;\n -- é\n SELECT 2 FROM; SELECT 3  ";
    match case.reads.classify(&[Statement { sql: text.into(), params: Params::None }]) {
        Ok(Class::Refused(error)) => {
            assert_eq!((error.status, error.code), (400, "bad_sql"));
            let place = error.data.expect("particulars")["offset"].as_u64().expect("a place");
            assert_eq!(place as usize, text.find("; SELECT 3").expect("there"));
        }
        other => panic!("{other:?}"),
    }
}

/// R4, R7: what the client has seen is in this history, or it is told so.
#[tokio::test]
async fn a_snapshot_of_another_history_is_told_from_a_late_one() {
    let case = Case::new(1);
    case.writer.execute_batch("INSERT INTO _ha_terms VALUES(1, 1), (4, 3), (9, 7)").expect("the node's own table");
    move_to(&case.writer, 12);
    let at = case.reads.run(case.request("SELECT 1", Params::None)).await.expect("reads").position;
    assert_eq!(at.seq, Seq(12));
    for (seq, term, here) in [
        (0, 0, true),
        (3, 1, true),
        (4, 3, true),
        (8, 3, true),
        (3, 3, false),
        (4, 1, false),
        (8, 2, false),
        (9, 3, false),
        (12, at.term.0, true),
        (12, at.term.0 + 1, false),
        // Not there yet: nothing is known of it.
        (13, 1, true),
    ] {
        let mut request = case.request("SELECT 1", Params::None);
        request.seen = Some((Seq(seq), Term(term)));
        match case.reads.run(request).await {
            Ok(_) => assert!(here, "{seq} of term {term} is not in this history"),
            Err(ReadError::Forked) => assert!(!here, "{seq} of term {term} is in this history"),
            other => panic!("{seq} of term {term}: {other:?}"),
        }
        assert_eq!(case.reads.contains(Seq(seq), Term(term)), Ok(here), "{seq} of term {term}");
    }
}

/// Rows and position must never be from two snapshots: a token that is newer
/// than the rows lets a client go back in time later.
#[tokio::test]
async fn token_is_mine() {
    let case = Case::new(2);
    let path = case.path();
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    case.writer.execute_batch("CREATE TABLE x(n); INSERT INTO x VALUES (0)").expect("valid");
    let busy = std::thread::spawn(move || {
        let writer = Connection::open(path).expect("opens");
        writer.execute_batch("PRAGMA synchronous = OFF").expect("valid");
        let mut seq = 0;
        while !seen.load(Ordering::Relaxed) {
            seq += 1;
            writer.execute_batch("BEGIN IMMEDIATE").expect("valid");
            writer.execute("UPDATE x SET n = ?1", [seq]).expect("valid");
            move_to(&writer, u64::try_from(seq).expect("positive"));
            writer.execute_batch("COMMIT").expect("valid");
        }
        seq
    });
    let mut moved = std::collections::BTreeSet::new();
    for n in 0..3_000 {
        let sql = if n % 2 == 0 { "SELECT n FROM x" } else { "SELECT 1; SELECT n FROM x" };
        let answer = case.reads.run(case.request(sql, Params::None)).await.expect("reads");
        let expected = format!(r#"],"rows":[[{}]]}}"#, answer.position.seq);
        assert!(text(&answer).ends_with(&expected), "{} at {}", text(&answer), answer.position.seq);
        moved.insert(answer.position.seq);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(busy.join().expect("wrote") > 0 && moved.len() > 1, "nothing was written meanwhile");
}

#[tokio::test]
async fn follower_write_refused() {
    let case = Case::new(1);
    for sql in ["DELETE FROM t", "INSERT INTO t VALUES (3, 'x') RETURNING id", "SELECT 1; DROP TABLE t"] {
        assert_eq!(case.read(sql).await, Err(ReadError::NotReadOnly), "{sql}");
        let statements = [Statement { sql: sql.into(), params: Params::None }];
        assert_eq!(case.reads.classify(&statements).expect("answers"), Class::Write);
    }
    // And if the classification were wrong, SQLite itself would refuse.
    let reader = case.reads.take().expect("opens");
    let error = reader.connection().execute("DELETE FROM t", []).expect_err("read-only");
    assert_eq!(crate::store::sqlerror::api_error(&error).code, "read_only");
    assert_eq!(case.read("SELECT count(*) AS n FROM t").await.expect("reads"), r#"{"columns":["n"],"rows":[[2]]}"#);
}

#[tokio::test]
async fn full_text_tables_can_be_read() {
    let case = Case::new(1);
    for module in ["fts4", "fts5"] {
        case.writer
            .execute_batch(&format!(
                "CREATE VIRTUAL TABLE {module} USING {module}(x); INSERT INTO {module} VALUES ('one two')"
            ))
            .expect("valid");
        for _ in 0..2 {
            let answer = case.read(&format!("SELECT x FROM {module} WHERE {module} MATCH 'two'")).await.expect("reads");
            assert!(answer.contains("one two"), "{answer}");
        }
        case.writer.execute_batch(&format!("INSERT INTO {module} VALUES ('two')")).expect("valid");
        let answer =
            case.read(&format!("SELECT count(*) FROM {module} WHERE {module} MATCH 'two'")).await.expect("reads");
        assert!(answer.contains("[[2]]"), "{answer}");
    }
}

#[tokio::test]
async fn errors_have_their_codes() {
    let case = Case::new(1);
    assert_eq!(case.failing("SELECT abs(-9223372036854775807 - 1)").await, (400, "bad_sql"));
    assert_eq!(case.failing("SELECT ?").await, (422, "missing_parameter"));
    assert_eq!(case.failing("SELECT * FROM _ha_meta").await, (403, "forbidden_sql"));
    assert_eq!(case.failing("SELECT value FROM pragma_database_list, json_each('[1]')").await, (403, "forbidden_sql"));
    assert_eq!(case.failing("SELECT * FROM pragma_index_list('_HA_requests')").await, (403, "forbidden_sql"));
    assert_eq!(case.failing("SELECT length(zeroblob(1000000000))").await, (413, "too_big"));
    assert_eq!(case.failing("COMMIT").await, (403, "forbidden_sql"));
}

#[tokio::test]
async fn a_view_that_changes_its_meaning_gets_nowhere() {
    let case = Case::new(1);
    case.writer.execute_batch("CREATE VIEW v AS SELECT 1 AS a").expect("valid");
    assert!(case.read("SELECT * FROM v").await.is_ok());
    case.writer.execute_batch("DROP VIEW v; CREATE VIEW v AS SELECT key FROM _ha_meta").expect("valid");
    assert_eq!(case.failing("SELECT * FROM v").await, (403, "forbidden_sql"));
}

#[tokio::test]
async fn a_changed_schema_is_seen_by_statements_that_were_kept() {
    let case = Case::new(1);
    let before = r#"{"columns":["id","name"],"rows":[[1,"one"]]}"#;
    assert_eq!(case.read("SELECT * FROM t LIMIT 1").await.expect("reads"), before);
    case.writer.execute_batch("ALTER TABLE t ADD COLUMN c DEFAULT 5").expect("valid");
    let after = r#"{"columns":["id","name","c"],"rows":[[1,"one",5]]}"#;
    assert_eq!(case.read("SELECT * FROM t LIMIT 1").await.expect("reads"), after);
    case.writer.execute_batch("DROP TABLE t").expect("valid");
    assert_eq!(case.failing("SELECT * FROM t LIMIT 1").await, (400, "bad_sql"));
}

#[tokio::test]
async fn a_long_read_leaves_the_runtime_and_is_stopped_at_its_deadline() {
    let case = Case::new(1);
    for round in 1..=2 {
        let mut request = case.request(ENDLESS, Params::None);
        request.limits.deadline = case.env.now().mono.after(Duration::from_millis(100));
        match case.reads.run(request).await {
            Err(ReadError::Sql(error)) => assert_eq!((error.status, error.code), (408, "statement_timeout")),
            other => panic!("{other:?}"),
        }
        assert_eq!(case.count(|s| &s.timed_out), round);
        assert_eq!(case.count(|s| &s.moved), 1, "a text that was slow does not try a runtime thread again");
    }
    assert!(case.read("SELECT 1").await.is_ok());
}

#[tokio::test]
async fn many_short_statements_are_one_long_read() {
    let case = Case::new(1);
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20) SELECT max(i) FROM n";
    let mut request = case.request(sql, Params::None);
    request.many = true;
    request.statements = vec![request.statements[0].clone(); 200];
    case.reads.run(request).await.expect("reads");
    assert_eq!((case.count(|s| &s.moved), case.count(|s| &s.slow)), (1, 1));
}

#[tokio::test]
async fn a_long_read_that_ends_is_answered() {
    let case = Case::new(1);
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT :top) SELECT max(i) AS m FROM n";
    let run = |top: i64| case.reads.run(case.request(sql, Params::Named(vec![("top".into(), Value::Integer(top))])));
    assert_eq!(text(&run(100_000).await.expect("reads")), r#"{"columns":["m"],"rows":[[100000]]}"#);
    assert_eq!((case.count(|s| &s.moved), case.count(|s| &s.slow)), (1, 1));
    // Quick once elsewhere, it is tried here again.
    run(1).await.expect("reads");
    assert_eq!((case.count(|s| &s.slow), case.count(|s| &s.fast)), (2, 0));
    run(1).await.expect("reads");
    assert_eq!(case.count(|s| &s.slow) + case.count(|s| &s.fast), 3);
    assert_eq!(case.count(|s| &s.moved), 1);
}

#[tokio::test]
async fn a_large_answer_leaves_the_runtime_and_limits_hold() {
    let case = Case::new(1);
    let answer = case.read("SELECT zeroblob(3000000)").await.expect("reads");
    assert!(answer.len() > 4_000_000);
    assert_eq!(case.count(|s| &s.moved), 1);
    assert_eq!(case.failing("SELECT zeroblob(30000000)").await, (413, "answer_too_large"));
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    assert_eq!(case.failing(rows).await, (413, "too_many_rows"));
}

#[tokio::test]
async fn too_many_long_reads_are_refused_and_the_rest_get_their_turn() {
    let case = Case::new(1);
    let reads = case.reads.clone();
    let endless = |millis| {
        let mut request = case.request(ENDLESS, Params::None);
        request.limits.deadline = case.env.now().mono.after(Duration::from_millis(millis));
        let reads = reads.clone();
        tokio::spawn(async move { reads.run(request).await })
    };
    let first = endless(300);
    while case.count(|s| &s.moved) == 0 || case.reads.0.slots.available_permits() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting: Vec<_> = (0..WAITING_PER_SLOT).map(|_| endless(400)).collect();
    while case.reads.0.waiting.load(Ordering::Relaxed) < WAITING_PER_SLOT {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(case.failing(ENDLESS).await, (503, "too_many_reads"));
    assert_eq!(case.count(|s| &s.shed), 1);
    // Meanwhile quick reads go on.
    assert!(case.read("SELECT 1").await.is_ok());
    assert!(matches!(first.await.expect("ran"), Err(ReadError::Sql(e)) if e.code == "statement_timeout"));
    for task in waiting {
        assert!(task.await.expect("ran").is_err());
    }
    assert_eq!(case.reads.0.waiting.load(Ordering::Relaxed), 0);
    assert_eq!(case.reads.0.slots.available_permits(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_read_with_it() {
    let case = Case::new(1);
    let request = case.request(ENDLESS, Params::None);
    let reads = case.reads.clone();
    let task = tokio::spawn(async move { reads.run(request).await });
    while case.reads.0.slots.available_permits() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    task.abort();
    let begun = Instant::now();
    while case.reads.0.slots.available_permits() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the read goes on without its client");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(case.read("SELECT 1").await.is_ok());
}

#[tokio::test]
async fn a_replaced_file_is_read_after_invalidation() {
    let case = Case::new(2);
    assert!(case.read("SELECT count(*) FROM t").await.expect("reads").contains("[[2]]"));
    let fresh = case.dir.path().join("fresh.db");
    let other = create(&fresh, 99);
    other.execute_batch("INSERT INTO t VALUES (3, 'three'); PRAGMA wal_checkpoint(TRUNCATE)").expect("valid");
    drop(other);
    let held = case.reads.take().expect("a connection");
    case.reads.quarantine(true);
    assert_eq!(case.failing("SELECT 1").await, (503, "quarantined"));
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(case.dir.path().join(format!("data.db{suffix}")));
    }
    std::fs::rename(&fresh, case.path()).expect("renamed");
    case.reads.invalidate();
    case.reads.quarantine(false);
    // One that was out meanwhile is not taken back.
    case.reads.give(held);
    for _ in 0..3 {
        let answer = case.reads.run(case.request("SELECT count(*) AS n FROM t", Params::None)).await.expect("reads");
        assert_eq!((text(&answer).as_str(), answer.position.seq), (r#"{"columns":["n"],"rows":[[3]]}"#, Seq(99)));
    }
}

#[tokio::test]
async fn a_missing_file_is_an_error_and_not_a_new_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data.db");
    let env = TestEnv { start: Instant::now() };
    let error = Reads::open(env, &path, 1, Arc::default()).err().expect("refused");
    assert_eq!((error.status, error.code), (503, "no_data"));
    assert!(!path.exists());
}

#[tokio::test]
async fn readers_do_not_keep_the_log_from_shrinking() {
    let case = Case::new(2);
    for n in 0..50 {
        case.writer.execute("INSERT INTO t(name) VALUES (?1)", [n]).expect("valid");
        case.read("SELECT count(*) FROM t").await.expect("reads");
        case.read("SELECT count(*) FROM t; SELECT 1").await.expect("reads");
    }
    let (busy, log): (i64, i64) = case
        .writer
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("valid");
    assert_eq!((busy, log), (0, 0));
}

#[tokio::test]
async fn a_copy_is_made_beside_reads_and_not_in_quarantine() {
    let case = Case::new(1);
    move_to(&case.writer, 12);
    let copied = case.reads.copy(case.dir.path().to_owned(), backup::Contents::Users).await.expect("copied");
    assert_eq!(copied.position.seq, Seq(12));
    let n: i64 = Connection::open(copied.file.path())
        .and_then(|c| c.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .expect("reads");
    assert_eq!(n, 2);
    case.reads.quarantine(true);
    let error = case.reads.copy(case.dir.path().to_owned(), backup::Contents::Whole).await.expect_err("refused");
    assert_eq!((error.status, error.code), (503, "quarantined"));
}

/// A statement that is compiled again for each run costs twice.
#[tokio::test]
async fn kept_statements_are_not_compiled_again() {
    let case = Case::new(1);
    let sql = "SELECT name FROM t WHERE id = ?";
    for n in 1..=20 {
        case.reads.run(case.request(sql, Params::Positional(vec![Value::Integer(n)]))).await.expect("reads");
    }
    let reader = case.reads.take().expect("a connection");
    reader.gate().set_open(true);
    for sql in [sql, connection::POSITION] {
        let statement = reader.connection().prepare_cached(sql).expect("kept");
        assert!(statement.get_status(rusqlite::StatementStatus::Run) > 1, "not the one that was kept: {sql}");
        assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0, "{sql}");
    }
}

/// Tells how long a point read takes; nothing depends on it.
#[tokio::test]
async fn how_long_a_point_read_takes() {
    let case = Case::new(2);
    let rounds = 20_000;
    let begun = Instant::now();
    for n in 0..rounds {
        let body = format!("{{\"sql\":\"SELECT id, name FROM t WHERE id = ?\",\"params\":[{}]}}", n % 2 + 1);
        let mut parsed = crate::sqljson::parse_request(&Bytes::from(body), 10).expect("well-formed");
        let mut request = case.request("", Params::None);
        std::mem::swap(&mut request.statements, &mut parsed.statements);
        assert_eq!(case.reads.classify(&request.statements).expect("answers"), Class::Read);
        case.reads.run(request).await.expect("reads");
    }
    println!("point read, parse to answer: {} ns", begun.elapsed().as_nanos() / rounds);
    assert_eq!(u128::from(case.count(|s| &s.fast) + case.count(|s| &s.slow)), rounds);
}
