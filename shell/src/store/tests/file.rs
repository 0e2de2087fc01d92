//! The file itself: opening, losing, replacing, checking it.

use super::*;
use base_ha_core::ids::{ClusterId, ConfigVersion, Lineage, Url};
use base_ha_core::member::{Member, Membership, QuorumMode, Role};
use base_ha_core::wire::encode_membership;
use rusqlite::Connection;
use std::fs;

fn refused(dir: &Path) -> ApiError {
    match open(RealEnv, dir, &Limits::default(), |_| {}) {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

fn membership() -> Membership {
    Membership {
        version: ConfigVersion(3),
        cluster: ClusterId(7),
        mode: QuorumMode::Majority,
        lineage: Lineage(1),
        members: vec![Member { url: Url::new("http://a:1"), identity: None, role: Role::Voter, target: None }],
    }
}

/// A pair with a membership and a row.
fn founded() -> Pair {
    let mut pair = Pair::new();
    let config = pair.entry(EntryKind::Config, encode_membership(&membership()));
    pair.log.push(config.clone());
    pair.writer.apply(std::slice::from_ref(&config));
    pair.replica.apply(&[config]);
    pair.write("CREATE TABLE t(a)");
    pair.write("INSERT INTO t VALUES(1), (2)");
    pair
}

/// A copy of a store's file, as a snapshot would bring it.
fn snapshot(store: &mut Store, to: &Path) {
    let (reply, mut answer) = oneshot::channel();
    store.jobs([StoreJob::Checkpoint { reply }]);
    assert_eq!(answer.try_recv().expect("answered").expect("done"), store.position);
    fs::copy(store.file(), to).expect("copied");
}

fn install(store: &mut Store, file: &Path) -> Result<crate::api::Installed, ApiError> {
    let (reply, mut answer) = oneshot::channel();
    store.jobs([StoreJob::Install { file: file.to_owned(), reply }]);
    answer.try_recv().expect("answered")
}

#[test]
fn a_corrupt_file_is_refused() {
    for damage in [0usize, 40, 4096] {
        let mut pair = founded();
        let (reply, _answer) = oneshot::channel();
        pair.writer.jobs([StoreJob::Close { reply }]);
        let file = pair.writer.file();
        let mut bytes = fs::read(&file).expect("read");
        bytes[damage..damage + 60].fill(0xa5);
        fs::write(&file, bytes).expect("written");
        let error = refused(pair.writer.dir.path());
        assert_eq!(error.code, "data_corrupt", "{error}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("data.db"), b"this is no database, however long it may be").expect("written");
    assert_eq!(refused(dir.path()).code, "data_corrupt");
}

#[test]
fn a_hash_that_is_not_the_sum_of_the_tables_is_refused() {
    let mut pair = founded();
    let (reply, _answer) = oneshot::channel();
    pair.writer.jobs([StoreJob::Close { reply }]);
    Connection::open(pair.writer.file()).expect("opens").execute_batch("DELETE FROM _ha_sums").expect("deleted");
    assert_eq!(refused(pair.writer.dir.path()).code, "data_corrupt");
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let pair = founded();
    let Store { worker, dir, .. } = pair.writer;
    drop(worker);
    let conn = Connection::open(dir.path().join("data.db")).expect("opens");
    conn.execute_batch("UPDATE _ha_meta SET value = 99 WHERE key = 'format'").expect("changed");
    drop(conn);
    let before = fs::read(dir.path().join("data.db")).expect("read");
    let error = refused(dir.path());
    assert_eq!(error.code, "data_newer");
    assert!(error.message.contains("newer release"), "{error}");
    assert_eq!(fs::read(dir.path().join("data.db")).expect("read"), before);
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("data.db");
    Connection::open(&file).expect("opens").execute_batch("CREATE TABLE mine(a)").expect("made");
    let before = fs::read(&file).expect("read");
    assert_eq!(refused(dir.path()).code, "data_foreign");
    assert_eq!(fs::read(&file).expect("read"), before);
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    assert_eq!(refused(Path::new("/nonexistent/directory")).code, "disk_error");
}

#[test]
fn what_was_committed_is_there_after_a_crash_and_nothing_else() {
    let mut pair = founded();
    let mut open_group = pair.send(vec![text("INSERT INTO t VALUES(3)")]);
    let (position, content) = (pair.writer.position, pair.writer.content);
    pair.writer = std::mem::replace(&mut pair.writer, Store::open()).reopen();
    assert!(matches!(open_group.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    assert_eq!((pair.writer.position, pair.writer.content), (position, content));
    assert_eq!(dump(&pair.writer.file()), dump(&pair.replica.file()));
    let dir = tempfile::tempdir().expect("a directory");
    fs::copy(pair.writer.file(), dir.path().join("data.db")).expect("copied");
    let opened = open(RealEnv, pair.writer.dir.path(), &Limits::default(), |_| {}).expect("opens");
    assert_eq!(opened.membership, Some((Seq(1), membership())));
    drop(opened);
    pair.writer.pin(2, true);
    pair.write("INSERT INTO t VALUES(4)");
    pair.check();
}

#[test]
fn a_foreign_write_fences_the_node() {
    let mut pair = founded();
    let conn = Connection::open(pair.writer.file()).expect("opens");
    conn.execute_batch("INSERT INTO t VALUES(99)").expect("written");
    let mut reply = pair.send(vec![text("INSERT INTO t VALUES(3)")]);
    assert_eq!(pair.writer.health, [StoreHealth::Quarantined]);
    assert!(matches!(reply.try_recv(), Ok(Err(WriteError::Refused(base_ha_core::io::Refusal::Unfit, _)))));
    let conn = Connection::open(pair.replica.file()).expect("opens");
    conn.execute_batch("INSERT INTO t VALUES(99)").expect("written");
    let next = pair.entry(EntryKind::Noop, Bytes::new());
    pair.replica.apply(&[next]);
    assert_eq!(pair.replica.health, [StoreHealth::Quarantined]);
    // And the scrub sees what was done.
    let (computed, stored) = pair.replica.scrub();
    assert_ne!(computed, stored);
    // A new copy mends it.
    let mut healthy = Store::open();
    healthy.apply(&pair.log);
    let copy = healthy.dir.path().join("copy.db");
    snapshot(&mut healthy, &copy);
    install(&mut pair.writer, &copy).expect("installed");
    assert_eq!(pair.writer.health, [StoreHealth::Quarantined, StoreHealth::Well]);
    pair.replica = healthy;
    pair.write("INSERT INTO t VALUES(3)");
    pair.writer.health.clear();
    pair.check();
}

#[test]
fn a_foreign_write_is_noticed_without_traffic() {
    let mut pair = founded();
    for store in [&mut pair.writer, &mut pair.replica] {
        store.jobs([StoreJob::Tick]);
        assert_eq!(store.health, [], "the own transactions are no strangers'");
        let conn = Connection::open(store.file()).expect("opens");
        conn.execute_batch("INSERT INTO t VALUES(99)").expect("written");
        store.jobs([StoreJob::Tick, StoreJob::Tick]);
        assert_eq!(store.health, [StoreHealth::Quarantined]);
    }
}

#[test]
fn a_snapshot_replaces_everything() {
    let mut pair = founded();
    let copy = pair.replica.dir.path().join("copy.db");
    snapshot(&mut pair.replica, &copy);
    let mut late = Store::open();
    // It has something of its own, in its write-ahead log, that must not
    // survive, and a reader that looks on.
    let noop = Entry::following(&Position::START, StreamId::SHARED, Term(1), Hlc(1), EntryKind::Noop, Bytes::new());
    late.apply(&[noop]);
    let installed = install(&mut late, &copy).expect("installed");
    assert_eq!((installed.position, installed.content), (pair.last(), pair.replica.content));
    assert_eq!(installed.membership, membership());
    assert_eq!((late.position, late.content), (pair.last(), pair.replica.content));
    assert!(!copy.exists());
    pair.replica = late;
    pair.write("INSERT INTO t VALUES(3)");
    pair.check();
    pair.replica = std::mem::replace(&mut pair.replica, Store::open()).reopen();
    pair.check();
}

#[test]
fn a_damaged_snapshot_changes_nothing() {
    let mut pair = founded();
    for n in 0..20 {
        pair.write(&format!("INSERT INTO t VALUES('needle' || hex(randomblob(400 + {n})))"));
    }
    let copy = pair.replica.dir.path().join("copy.db");
    let before = pair.writer.position;
    let mut cases: Vec<Vec<u8>> = Vec::new();
    snapshot(&mut pair.replica, &copy);
    let whole = fs::read(&copy).expect("read");
    cases.push(Vec::new());
    cases.push(whole[..whole.len() / 2].to_vec());
    // Its head, a page's head, and rows: what lies unused in a page may be
    // anything, and only the hash of the file's bytes on their way sees it.
    // A row that moved to another page may have left a copy of itself behind:
    // only one that is there once is certainly the row.
    let found = |start: &[u8]| whole.windows(start.len()).filter(|w| *w == start).count();
    let rows: Vec<usize> = (0..whole.len() - 46)
        .filter(|at| whole[*at..].starts_with(b"needle") && found(&whole[*at..*at + 46]) == 1)
        .collect();
    assert!(rows.len() > 2, "{} rows are in one place only", rows.len());
    for place in [0, 100, rows[0], rows[rows.len() / 2] + 3, rows[rows.len() - 1] + 400] {
        let mut bytes = whole.clone();
        bytes[place] ^= 0xff;
        cases.push(bytes);
    }
    for (n, bytes) in cases.into_iter().enumerate() {
        fs::write(&copy, &bytes).expect("written");
        let error = install(&mut pair.writer, &copy).err();
        assert!(error.is_some_and(|e| e.status == 500), "case {n} was installed");
    }
    assert!(install(&mut pair.writer, Path::new("/nowhere/copy.db")).is_err());
    assert_eq!(pair.writer.position, before);
    pair.write("INSERT INTO t VALUES(3)");
    pair.check();
}

#[test]
fn a_reader_holds_a_checkpoint_back_and_it_says_so() {
    let mut pair = founded();
    let checkpoint = |store: &mut Store| {
        let (reply, mut answer) = oneshot::channel();
        store.jobs([StoreJob::Checkpoint { reply }]);
        answer.try_recv().expect("answered").expect("done")
    };
    let safe = checkpoint(&mut pair.writer);
    assert_eq!(safe, pair.last());
    let reader = Connection::open(pair.writer.file()).expect("opens");
    reader.execute_batch("BEGIN; SELECT * FROM t").expect("reads");
    pair.write("INSERT INTO t VALUES(3)");
    assert_eq!(checkpoint(&mut pair.writer), safe, "the reader's pages are still needed");
    reader.execute_batch("COMMIT").expect("ends");
    assert_eq!(checkpoint(&mut pair.writer), pair.last());
    // What it says is in the main file, is: a copy of that file alone has it.
    let dir = tempfile::tempdir().expect("a directory");
    fs::copy(pair.writer.file(), dir.path().join("data.db")).expect("copied");
    let copy = Store::open_in(dir);
    assert_eq!((copy.position, copy.content), (pair.last(), pair.writer.content));
}

#[test]
fn a_checkpoint_waits_for_the_open_group() {
    let mut pair = founded();
    let _open = pair.send(vec![text("INSERT INTO t VALUES(3)")]);
    let (reply, mut answer) = oneshot::channel();
    pair.writer.jobs([StoreJob::Checkpoint { reply }]);
    assert!(answer.try_recv().is_err());
    pair.settle();
    assert_eq!(answer.try_recv().expect("answered").expect("done"), pair.last());
}

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    let mut pair = founded();
    let full = |store: &mut Store, pages: i64| {
        let engine = store.worker.inner.engine.as_mut().expect("open");
        engine.ctx.caller.set(super::super::guard::Caller::Store);
        engine.conn.sql().query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).expect("set");
    };
    full(&mut pair.writer, 1);
    let mut reply = pair.send(vec![text("INSERT INTO t VALUES(zeroblob(100000))")]);
    pair.settle();
    assert_eq!(told(&mut reply).expect_err("no room").code, "disk_full");
    assert_eq!(pair.writer.health, [StoreHealth::Full]);
    let mut refused = pair.send(vec![text("INSERT INTO t VALUES(1)")]);
    assert!(matches!(refused.try_recv(), Ok(Err(WriteError::Refused(..)))));
    assert_eq!(dump(&pair.writer.file()), dump(&pair.replica.file()), "reads go on");
    full(&mut pair.writer, 1 << 30);
    std::thread::sleep(Duration::from_millis(1050));
    pair.writer.jobs([]);
    assert_eq!(pair.writer.health, [StoreHealth::Full, StoreHealth::Well]);
    pair.writer.health.clear();
    // A replica that fills up keeps the entry and applies it later.
    full(&mut pair.replica, 1);
    pair.write("INSERT INTO t VALUES(zeroblob(100000))");
    assert_eq!(pair.replica.health, [StoreHealth::Full]);
    full(&mut pair.replica, 1 << 30);
    std::thread::sleep(Duration::from_millis(1050));
    pair.replica.jobs([]);
    assert_eq!(pair.replica.health, [StoreHealth::Full, StoreHealth::Well]);
    pair.replica.health.clear();
    pair.check();
}

#[test]
fn closing_answers_everyone() {
    let mut pair = founded();
    let mut logged = pair.send(vec![text("INSERT INTO t VALUES(3)")]);
    let mut waiting = pair.send(vec![text("INSERT INTO t VALUES(4)")]);
    let (reply, mut done) = oneshot::channel();
    pair.writer.jobs([StoreJob::Close { reply }]);
    assert!(done.try_recv().is_ok());
    assert!(matches!(logged.try_recv(), Ok(Err(WriteError::Unknown))));
    assert!(matches!(waiting.try_recv(), Ok(Err(WriteError::Refused(base_ha_core::io::Refusal::Stopping, _)))));
    let mut late = pair.send(vec![text("INSERT INTO t VALUES(5)")]);
    assert!(matches!(late.try_recv(), Ok(Err(WriteError::Refused(base_ha_core::io::Refusal::Stopping, _)))));
}

#[test]
fn the_log_is_a_write_ahead_log() {
    let mut pair = founded();
    let wal = pair.writer.dir.path().join("data.db-wal");
    let before = fs::metadata(&wal).expect("there is one").len();
    pair.write("INSERT INTO t VALUES(3)");
    assert!(fs::metadata(&wal).expect("there is one").len() > before);
    let header = fs::read(pair.writer.file()).expect("read");
    assert_eq!(header[18..20], [2, 2]);
}

#[test]
fn a_lock_held_by_another_process_is_waited_out() {
    let mut pair = founded();
    let other = Connection::open(pair.writer.file()).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let mut refused = pair.send(vec![text("INSERT INTO t VALUES(3)")]);
    assert!(matches!(refused.try_recv(), Ok(Err(WriteError::Refused(..)))), "certainly not done");
    assert_eq!(pair.writer.health, [StoreHealth::Full]);
    assert!(pair.writer.fatal.is_empty());
    other.execute_batch("ROLLBACK").expect("released");
    std::thread::sleep(Duration::from_millis(1050));
    pair.writer.jobs([]);
    assert_eq!(pair.writer.health, [StoreHealth::Full, StoreHealth::Well]);
    pair.writer.health.clear();
    pair.write("INSERT INTO t VALUES(3)");
    pair.check();
}

#[test]
fn no_room_at_the_commit_loses_nothing() {
    let mut pair = founded();
    let (mut request, mut reply) = request(4000, vec![text("INSERT INTO t VALUES(3) RETURNING hex(zeroblob(30000))")]);
    request.idempotency_key = Some("large answer".into());
    pair.writer.jobs([StoreJob::Write(request)]);
    let limit = |store: &mut Store, pages: i64| {
        let engine = store.worker.inner.engine.as_mut().expect("open");
        engine.ctx.caller.set(super::super::guard::Caller::Store);
        engine.conn.sql().query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).expect("set");
    };
    limit(&mut pair.writer, 1);
    let mut waiting = pair.send(vec![text("INSERT INTO t VALUES(4)")]);
    pair.settle();
    assert!(matches!(reply.try_recv(), Ok(Err(WriteError::Unknown))), "it is committed in the log");
    assert!(matches!(waiting.try_recv(), Ok(Err(WriteError::Refused(..)))));
    assert_eq!(pair.writer.health, [StoreHealth::Full]);
    assert!(pair.writer.fatal.is_empty());
    assert_ne!(pair.writer.position, pair.last());
    limit(&mut pair.writer, 1 << 30);
    std::thread::sleep(Duration::from_millis(1050));
    pair.writer.jobs([]);
    assert_eq!(pair.writer.health, [StoreHealth::Full, StoreHealth::Well]);
    pair.writer.health.clear();
    pair.check();
    assert_eq!(pair.write("SELECT count(*) FROM t"), r#"{"columns":["count(*)"],"rows":[[3]]}"#);
}
