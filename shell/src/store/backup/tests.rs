//! Copies of a real file beside a real writer.

use super::super::schema_sql;
use super::*;
use crate::env::files::{RealFiles, real};
use rusqlite::params;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn create(path: &Path) -> Connection {
    let writer = Connection::open(path).expect("opens");
    writer.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").expect("valid");
    writer.execute_batch(schema_sql::CREATE).expect("valid");
    writer
        .execute_batch(
            "CREATE TABLE x(n); INSERT INTO x VALUES (0); CREATE TABLE filler(b);
             WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i LIMIT 2000)
             INSERT INTO filler SELECT randomblob(9000) FROM i;
             INSERT INTO _ha_meta VALUES ('secret', 'a-stored-answer');",
        )
        .expect("valid");
    set(&writer, 1);
    writer
}

fn set(writer: &Connection, seq: i64) {
    writer.execute("UPDATE x SET n = ?1", [seq]).expect("valid");
    writer
        .execute(
            "INSERT INTO _ha_position(stream, seq, term, hash, content) VALUES (zeroblob(16), ?1, 3, ?2, zeroblob(16))
             ON CONFLICT DO UPDATE SET seq = excluded.seq",
            params![seq, [4_u8; 32]],
        )
        .expect("valid");
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .filter(|name| !name.starts_with("data.db"))
        .collect();
    names.sort();
    names
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_copy_beside_a_busy_writer_is_one_snapshot_and_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data.db");
    create(&path);
    let stop = Arc::new(AtomicBool::new(false));
    let (seen, source) = (Arc::clone(&stop), path.clone());
    let busy = std::thread::spawn(move || {
        let writer = Connection::open(source).expect("opens");
        writer.execute_batch("PRAGMA synchronous = OFF").expect("valid");
        let mut seq = 1;
        while !seen.load(Ordering::Relaxed) {
            seq += 1;
            writer.execute_batch("BEGIN IMMEDIATE").expect("valid");
            set(&writer, seq);
            writer.execute_batch("COMMIT").expect("valid");
        }
        seq
    });
    let mut reports = Vec::new();
    let copied = copy(&real(), &path, dir.path(), Contents::Whole, |p| {
        reports.push(p);
        // Commits happen between any two steps.
        std::thread::sleep(std::time::Duration::from_millis(2));
        ControlFlow::Continue(())
    })
    .expect("copied");
    stop.store(true, Ordering::Relaxed);
    let written = busy.join().expect("wrote");
    assert!(written > 10, "the writer was held up");
    assert!(reports.len() >= 3 && reports.windows(2).all(|w| w[0].done < w[1].done), "{reports:?}");
    let last = reports.last().expect("reports");
    assert_eq!((last.done, copied.bytes), (last.pages, last.pages * last.page_size));

    assert_eq!(verify(&RealFiles, copied.file.path(), &copied.hash).expect("sound"), copied.position);
    assert_eq!((copied.position.term.0, copied.position.hash), (3, Hash([4; 32])));
    let installed = dir.path().join("installed.db");
    copied.file.keep(&installed).expect("renamed");
    assert_eq!(names(dir.path()), ["installed.db"], "nothing else is left");
    let n: i64 =
        Connection::open(&installed).and_then(|c| c.query_row("SELECT n FROM x", [], |row| row.get(0))).expect("reads");
    assert_eq!(u64::try_from(n).expect("positive"), copied.position.seq.0);
}

#[test]
fn a_users_copy_is_one_plain_file_without_the_nodes_own_tables() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data.db");
    let _writer = create(&path);
    let copied = copy(&real(), &path, dir.path(), Contents::Users, go_on).expect("copied");
    assert_eq!(copied.position.seq.0, 1);
    let bytes = std::fs::read(copied.file.path()).expect("reads");
    assert_eq!(&bytes[18..20], &[1, 1], "rollback-journal mode");
    assert_eq!(Hash(*blake3::hash(&bytes).as_bytes()), copied.hash);
    assert!(!bytes.windows(15).any(|w| w == b"a-stored-answer"), "what was deleted is still in the file");
    let whole = copy(&real(), &path, dir.path(), Contents::Whole, go_on).expect("copied");
    let bytes = std::fs::read(whole.file.path()).expect("reads");
    assert!(bytes.windows(15).any(|w| w == b"a-stored-answer"), "the check above would see it");
    let connection = Connection::open(copied.file.path()).expect("opens");
    let tables: String = connection
        .query_row("SELECT group_concat(name, ' ') FROM sqlite_master WHERE type = 'table'", [], |row| row.get(0))
        .expect("reads");
    assert_eq!(tables, "x filler");
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("reads");
    assert_eq!(check, "ok");
}

#[test]
fn a_copy_that_is_dropped_or_stopped_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data.db");
    let _writer = create(&path);
    let copied = copy(&real(), &path, dir.path(), Contents::Whole, go_on).expect("copied");
    assert_eq!(names(dir.path()).len(), 1);
    drop(copied);
    assert_eq!(names(dir.path()), [""; 0]);
    let error = copy(&real(), &path, dir.path(), Contents::Whole, |_| ControlFlow::Break(())).expect_err("stopped");
    assert_eq!((error.status, error.code), (503, "cancelled"));
    assert_eq!(names(dir.path()), [""; 0]);
    let error = copy(&real(), &dir.path().join("none.db"), dir.path(), Contents::Whole, go_on).expect_err("no source");
    assert_eq!(error.status, 500);
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn leftovers_are_swept_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let left = TempFile::create(&real(), dir.path()).expect("created").into_path();
    let mut beside = left.clone().into_os_string();
    beside.push("-wal");
    std::fs::write(&beside, b"").expect("written");
    std::fs::write(dir.path().join("log.db"), b"").expect("written");
    assert_eq!(sweep(&RealFiles, dir.path()).expect("swept"), 2);
    assert_eq!(names(dir.path()), ["log.db"]);
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data.db");
    let _writer = create(&path);
    let copied = copy(&real(), &path, dir.path(), Contents::Whole, go_on).expect("copied");
    let mut bytes = std::fs::read(copied.file.path()).expect("reads");
    // A flipped bit is found by the hash.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(copied.file.path(), &bytes).expect("written");
    let error = verify(&RealFiles, copied.file.path(), &copied.hash).expect_err("damaged");
    assert_eq!((error.status, error.code), (422, "snapshot_damaged"));
    // A sender whose own file is damaged sends the right hash of it.
    for byte in &mut bytes[4096..8192] {
        *byte = 0x5a;
    }
    std::fs::write(copied.file.path(), &bytes).expect("written");
    let hash = Hash(*blake3::hash(&bytes).as_bytes());
    let error = verify(&RealFiles, copied.file.path(), &hash).expect_err("damaged");
    assert_eq!((error.status, error.code), (422, "snapshot_damaged"));
    assert_eq!(names(dir.path()).len(), 1, "checking leaves nothing beside the file");
}

#[test]
fn a_full_disk_is_told_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = check_space(&RealFiles, dir.path(), u64::MAX / 2).expect_err("no disk is that large");
    assert_eq!((error.status, error.code), (503, "no_space"));
    assert!(check_space(&RealFiles, dir.path(), 1).is_ok());
}

#[cfg(unix)]
#[test]
fn a_copy_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let file = TempFile::create(&real(), dir.path()).expect("created");
    assert_eq!(std::fs::metadata(file.path()).expect("exists").permissions().mode() & 0o777, 0o600);
}
