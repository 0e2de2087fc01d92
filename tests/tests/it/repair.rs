//! Nodes that come late, come back, or come back damaged.

use base_ha_tests::load::{self, Load};
use base_ha_tests::wait::holds;
use base_ha_tests::{Cluster, eventually, skipped};
use serde_json::json;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

fn urls(cluster: &Cluster) -> Vec<String> {
    cluster.nodes().iter().map(|node| node.url()).collect()
}

fn audit(cluster: &Cluster, written: &[u64]) {
    let rows = cluster.converged(load::ROWS);
    let counter = cluster.converged(load::COUNTER);
    load::audit(written, &rows, &counter);
}

/// An empty node joins by snapshot while writes go on, as a learner: only an
/// order makes a stranger a voter.
#[test]
fn an_empty_node_joins_while_writes_go_on() {
    let mut cluster = Cluster::new(3);
    // So little log that a newcomer can't do without a snapshot.
    cluster.set("BASE_LOG_MAX_BYTES", "16KiB");
    cluster.start_all();
    cluster[0].sql(load::SCHEMA);
    cluster[0].sql("CREATE TABLE bulk(n INTEGER PRIMARY KEY, x BLOB)");
    for n in 0..20 {
        cluster[0].sql(&format!("INSERT INTO bulk VALUES({n}, randomblob(20000))"));
    }
    let work = Load::start(&urls(&cluster), 2);
    let fourth = cluster.add("node-4");
    cluster.start(fourth);
    cluster[fourth].wait_ready();
    let (written, _) = work.finish();
    audit(&cluster, &written);
    assert_eq!(cluster.converged("SELECT count(*), sum(length(x)) FROM bulk"), json!([[20, 400_000]]));
    let role = |cluster: &Cluster| {
        let members = cluster[0].status().map(|view| view.members).unwrap_or_default();
        members.into_iter().find(|m| m.id.as_deref() == Some("node-4")).map(|m| m.role)
    };
    assert_eq!(role(&cluster).as_deref(), Some("learner"));
    let promote = json!({"url": cluster[fourth].url(), "role": "voter"});
    let answer = cluster[1].client().post("/_ha/members", &promote).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("it is a voter", || holds(role(&cluster).as_deref() == Some("voter"), format!("{:?}", role(&cluster))));
}

/// A node that was away catches up by the log.
#[test]
fn an_absent_node_catches_up() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql(load::SCHEMA);
    cluster.converged(load::COUNTER);
    cluster[2].kill();
    let work = Load::start(&[cluster[0].url(), cluster[1].url()], 2);
    eventually("much is written meanwhile", || holds(work.acked() > 200, work.acked().to_string()));
    cluster.start(2);
    let (written, _) = work.finish();
    audit(&cluster, &written);
}

/// B4: the lowest id returns with an empty disk: a learner first, never the
/// writer of nothing.
#[test]
fn lowest_id_returns_empty() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql(load::SCHEMA);
    let work = Load::start(&[cluster[1].url(), cluster[2].url()], 2);
    eventually("something is written", || holds(work.acked() > 50, work.acked().to_string()));
    cluster[0].kill();
    cluster.wait_writer_among(&[1, 2]);
    cluster[0].wipe();
    cluster.start(0);
    cluster[0].wait_ready();
    let (written, _) = work.finish();
    audit(&cluster, &written);
    eventually("it is a voter again", || {
        let view = cluster[1].status()?;
        let role = view.members.iter().find(|m| m.id.as_deref() == Some("node-1")).map(|m| m.role.clone());
        holds(role.as_deref() == Some("voter"), format!("{role:?}"))
    });
}

/// A member that moved to another address is found there.
#[test]
fn a_moved_member_is_found_at_its_new_url() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n)");
    cluster[2].stop();
    let url = cluster.moves(2);
    cluster.start(2);
    eventually("the cluster knows the new address", || {
        let view = cluster[0].status()?;
        let at = view.members.iter().find(|m| m.id.as_deref() == Some("node-3")).map(|m| m.url.clone());
        holds(at.as_ref() == Some(&url), format!("{at:?}"))
    });
    cluster[2].sql("INSERT INTO t VALUES(1)");
    assert_eq!(cluster.converged("SELECT n FROM t"), json!([[1]]));
}

/// A directory of a later version is not touched.
#[test]
fn a_data_directory_of_a_newer_version_is_refused() {
    let mut cluster = Cluster::new(1);
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n)");
    cluster[0].stop();
    let format = cluster[0].dir.join("FORMAT");
    let text = fs::read_to_string(&format).expect("a version");
    let version: u32 = text.trim().trim_start_matches("base-ha ").parse().expect("a number");
    fs::write(&format, format!("base-ha {}\n", version + 1)).expect("writable");
    let status = cluster[0].start_to_end();
    assert!(!status.success());
    let said = cluster[0].log_text();
    assert!(said.contains(&format!("has format {}", version + 1)), "{}", cluster[0].log_tail(5));
    fs::write(&format, text).expect("writable");
    cluster.start(0);
    cluster[0].wait_ready();
    cluster[0].sql("SELECT n FROM t");
}

/// A damaged data.db is never served from: the node makes it anew from its log,
/// by itself.
#[test]
fn a_corrupt_data_db_is_noticed() {
    assert!(!damaged("data.db"), "it was refused");
}

/// As above, for the log: the node is repaired from the others, or refuses to
/// start with the reason.
#[test]
fn a_corrupt_log_db_is_noticed() {
    damaged("log.db");
}

/// A damaged data.db whose beginnings no log holds is seeded anew by another
/// member's; log and hard state stay, so that the node goes on voting.
#[test]
fn a_corrupt_data_db_is_seeded_anew() {
    let mut cluster = Cluster::new(3);
    cluster.set("BASE_LOG_MAX_BYTES", "1MiB");
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n INTEGER PRIMARY KEY, x BLOB)");
    fill_until_cut(&cluster, 2);
    let rows = cluster.converged("SELECT count(*), sum(length(x)) FROM t");
    cluster[2].stop();
    scribble(&cluster[2].dir.join("data.db"));
    let seen = cluster[2].log_text().len();
    cluster.start(2);
    cluster[2].wait_ready();
    assert_eq!(cluster.converged("SELECT count(*), sum(length(x)) FROM t"), rows);
    let said = cluster[2].log_text()[seen..].to_owned();
    assert!(said.contains("data.db is damaged: it is made anew") && said.contains("another member"), "{said}");
    assert!(said.contains("snapshot installed") && !said.contains("takes a new incarnation"), "{said}");
    let aside = fs::read_dir(&cluster[2].dir).expect("a directory").flatten();
    assert!(aside.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("data.db.damaged-")));
}

/// A node alone has its log, as long as that goes back to the beginning; then
/// there is nothing to make a lost data.db from, and that is said.
#[test]
fn a_node_alone_makes_its_data_from_its_log_or_refuses() {
    let mut cluster = Cluster::new(1);
    cluster.set("BASE_LOG_MAX_BYTES", "1MiB");
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n INTEGER PRIMARY KEY, x BLOB)");
    cluster[0].sql("INSERT INTO t VALUES(0, randomblob(100000))");
    cluster[0].stop();
    scribble(&cluster[0].dir.join("data.db"));
    cluster.start(0);
    cluster[0].wait_ready();
    assert_eq!(cluster.converged("SELECT count(*), sum(length(x)) FROM t"), json!([[1, 100_000]]));

    fill_until_cut(&cluster, 0);
    cluster[0].stop();
    scribble(&cluster[0].dir.join("data.db"));
    let before = fs::read(cluster[0].dir.join("data.db")).expect("a file");
    assert!(!cluster[0].start_to_end().success());
    let said = cluster[0].log_text();
    assert!(said.contains("data_corrupt") && said.contains("restore a backup"), "{}", cluster[0].log_tail(5));
    assert!(fs::read(cluster[0].dir.join("data.db")).expect("a file") == before, "nothing was changed");
    // Nor is a lost one replaced by an empty one that says nothing.
    fs::remove_file(cluster[0].dir.join("data.db")).expect("a file");
    assert!(!cluster[0].start_to_end().success());
    assert!(cluster[0].log_text().contains("what lies between is nowhere"), "{}", cluster[0].log_tail(5));
}

/// Writes so much that a node's data.db is checkpointed and its log cut.
fn fill_until_cut(cluster: &Cluster, n: usize) {
    for row in 1..=48 {
        let body = json!({"sql": format!("INSERT OR REPLACE INTO t VALUES({row}, zeroblob(500000))")});
        eventually("the cluster writes", || {
            let answer = cluster[0].post(&body).map_err(|error| error.to_string())?;
            holds(answer.status == 200, answer.text())
        });
    }
    eventually("the log is cut", || {
        let text = cluster[n].client().get("/metrics").map_err(|error| error.to_string())?.text();
        let first = text.lines().find_map(|line| line.strip_prefix("base_ha_log_first ")).unwrap_or("1");
        holds(first != "1", first)
    });
}

/// Damages a file of a follower; whether it then refused to start.
fn damaged(file: &str) -> bool {
    let mut cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n INTEGER PRIMARY KEY, x BLOB)");
    cluster[0].sql(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200) INSERT INTO t SELECT n, randomblob(1000) FROM c",
    );
    let rows = cluster.converged("SELECT count(*), sum(n) FROM t");
    cluster[2].stop();
    scribble(&cluster[2].dir.join(file));
    cluster[2].start();
    let mut refused = false;
    eventually(&format!("a damaged {file} is refused or repaired"), || {
        if let Some(status) = cluster[2].try_wait() {
            assert!(!status.success(), "it ended without a word");
            refused = true;
            return Ok(());
        }
        let ready = cluster[2].client().get("/readyz").map_err(|error| error.to_string())?;
        holds(ready.status == 200, ready.text())
    });
    eprintln!("a damaged {file}: {}", if refused { "refused" } else { "repaired" });
    if refused {
        let text = cluster[2].log_text();
        assert!(text.contains(file) || text.contains("corrupt"), "{}", cluster[2].log_tail(5));
        // The mend is the documented one: an empty disk under the old name.
        cluster[2].wipe();
        cluster.start(2);
        cluster[2].wait_ready();
    }
    assert_eq!(cluster.converged("SELECT count(*), sum(n) FROM t"), rows);
    refused
}

/// Overwrites every page but the first few with noise.
fn scribble(path: &Path) {
    // What is still in the write-ahead log would heal the damage.
    if let Ok(database) = rusqlite::Connection::open(path) {
        let _ = database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
    let size = fs::metadata(path).expect("a database").len();
    assert!(size > 8192, "{} is too small to be damaged in the middle", path.display());
    let mut file = File::options().write(true).open(path).expect("a database");
    file.seek(SeekFrom::Start(4096)).expect("a database");
    let noise: Vec<u8> = (0..size - 4096).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    file.write_all(&noise).expect("writable");
}

/// Somebody else writes into data.db: the node notices and stops serving it
/// as if it were the cluster's.
#[test]
fn a_foreign_write_is_noticed() {
    let cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n INTEGER PRIMARY KEY); INSERT INTO t VALUES(1)");
    cluster.converged("SELECT n FROM t");
    let follower = (0..3).find(|n| *n != cluster.wait_writer()).expect("two followers");
    let foreign = rusqlite::Connection::open(cluster[follower].dir.join("data.db")).expect("a database");
    foreign.busy_timeout(std::time::Duration::from_secs(5)).expect("a timeout");
    foreign.execute("INSERT INTO t VALUES(666)", []).expect("the file's owner may do that");
    drop(foreign);
    let mut n = 1;
    eventually("the foreign row is nowhere, and every node is well", || {
        n += 1;
        let answer = cluster[0]
            .post(&json!({"sql": format!("INSERT INTO t VALUES({n})")}))
            .map_err(|error| error.to_string())?;
        holds(answer.status == 200, answer.text())?;
        for node in cluster.nodes() {
            let rows = node.local_rows("SELECT count(*) FROM t WHERE n = 666");
            let fenced = node.status().map(|view| view.unfit.is_some()).unwrap_or(true);
            holds(fenced || rows == Ok(json!([[0]])), format!("{}: {rows:?}", node.name))?;
        }
        Ok(())
    });
}

/// A full disk stops writes, not reads; the rest of the cluster goes on.
#[test]
fn a_full_disk_is_survived() {
    full_disk("a_full_disk_is_survived", 2);
}

/// As above, where it is the writer's: somebody else writes until there is space
/// again, then the lowest name does.
#[test]
fn a_writer_with_a_full_disk_hands_over() {
    full_disk("a_writer_with_a_full_disk_hands_over", 0);
}

/// Writes more than node `full` has room for.
fn full_disk(name: &str, full: usize) {
    let mut cluster = Cluster::new(3);
    let small = cluster[full].dir.clone();
    fs::create_dir_all(&small).expect("a directory");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return skipped(name, "mounting a small tmpfs needs root");
    }
    let _unmount = Unmount(&small);
    cluster.start_all();
    assert_eq!(cluster.wait_writer(), 0, "the lowest name writes");
    cluster[0].sql("CREATE TABLE t(n INTEGER PRIMARY KEY, x BLOB)");
    for n in 0..60 {
        let body = json!({"sql": "INSERT INTO t VALUES(?1, randomblob(200000))", "params": [n]});
        eventually("the cluster writes", || {
            let answer = cluster[0].post(&body).map_err(|error| error.to_string())?;
            // A repetition of a write whose answer was lost.
            holds(matches!(answer.status, 200 | 409), answer.text())
        });
    }
    let others: Vec<usize> = (0..3).filter(|n| *n != full).collect();
    for &n in &others {
        assert_eq!(cluster[n].sql("SELECT count(*) FROM t")["rows"], json!([[60]]));
    }
    // 12 MB went into a cluster of which one node has 8 MB: that node says so,
    // answers from what it has, and does not pretend.
    eventually("the full node says so", || {
        let view = cluster[full].status()?;
        holds(view.reasons.iter().any(|why| why.contains("full")), format!("{:?}", view.reasons))
    });
    let behind = cluster[full].local_rows("SELECT count(*) FROM t").expect("reads go on");
    assert!(behind[0][0].as_u64().is_some_and(|n| n < 60), "8 MB hold no 12 MB: {behind}");
    cluster.wait_writer_among(&others);
    let enlarged = Command::new("mount").args(["-o", "remount,size=128m"]).arg(&small).status().expect("mount");
    assert!(enlarged.success());
    assert_eq!(cluster.converged("SELECT count(*) FROM t"), json!([[60]]), "with space it goes on by itself");
    cluster.wait_writer_among(&[0]);
    for node in cluster.nodes_mut() {
        node.kill();
    }
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}
