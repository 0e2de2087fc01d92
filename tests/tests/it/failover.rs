//! Writers that die, hang, are cut off or are asked to go.

use base_ha_tests::load::{self, Load};
use base_ha_tests::wait::holds;
use base_ha_tests::{Cluster, eventually};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const KILLS: usize = 50;

fn urls(cluster: &Cluster) -> Vec<String> {
    cluster.nodes().iter().map(|node| node.url()).collect()
}

fn audit(cluster: &Cluster, written: &[u64]) {
    let rows = cluster.converged(load::ROWS);
    let counter = cluster.converged(load::COUNTER);
    load::audit(written, &rows, &counter);
}

/// Waits until the clients have got on by `n` writes.
fn progress(work: &Load, n: u64) {
    let from = work.acked();
    eventually("writes go on", || holds(work.acked() >= from + n, format!("{} since {from}", work.acked())));
}

/// The main promise: kill -9 the writer 50 times while clients write, and
/// every acknowledged write is there, once.
#[test]
fn no_acknowledged_write_is_lost_by_50_kills() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql(load::SCHEMA);
    let work = Load::start(&urls(&cluster), 4);
    let mut terms = Vec::new();
    for _ in 0..KILLS {
        let writer = cluster.wait_writer();
        terms.push(cluster[writer].status().map(|view| view.term).unwrap_or_default());
        // Under load: the kill hits writes under way.
        progress(&work, 5);
        cluster[writer].kill();
        let left: Vec<usize> = (0..3).filter(|n| *n != writer).collect();
        cluster.wait_writer_among(&left);
        cluster.start(writer);
    }
    progress(&work, 20);
    let (written, tally) = work.finish();
    audit(&cluster, &written);
    assert!(terms.windows(2).all(|pair| pair[0] < pair[1]), "each kill cost a term: {terms:?}");
    let disturbed = tally.refused.load(Ordering::Relaxed) + tally.unknown.load(Ordering::Relaxed);
    assert!(disturbed > 0, "{KILLS} kills and no client noticed: were there any?");
    println!(
        "acknowledged {}, refused {}, unknown {}",
        tally.acked.load(Ordering::Relaxed),
        tally.refused.load(Ordering::Relaxed),
        tally.unknown.load(Ordering::Relaxed)
    );
}

/// B2: a writer that was paused beyond its lease wakes up as no writer.
#[test]
fn pause_beyond_lease_is_not_writer() {
    let cluster = Cluster::started(3);
    cluster[0].sql(load::SCHEMA);
    let work = Load::start(&urls(&cluster), 2);
    for _ in 0..3 {
        let writer = cluster.wait_writer();
        let term = cluster[writer].status().expect("it answers").term;
        cluster[writer].pause();
        let left: Vec<usize> = (0..3).filter(|n| *n != writer).collect();
        let next = cluster.wait_writer_among(&left);
        cluster[writer].resume();
        // Whatever it answers first, it is not as the writer of its old term.
        let view = eventually("the paused node answers", || cluster[writer].status());
        assert!(view.part != "writer" || view.term > term, "{view:?}");
        let answer = cluster[writer].client().get("/_ha/leader").expect("an answer");
        let seen: u64 = answer.header("x-base-term").expect("a term").parse().expect("a number");
        assert!(seen >= term);
        assert_ne!(next, writer);
    }
    let (written, _) = work.finish();
    audit(&cluster, &written);
}

/// A cut-off writer acknowledges nothing more, the others go on, and after
/// the cut all is one again.
#[test]
fn a_writer_cut_off_acknowledges_nothing() {
    let mut cluster = Cluster::cuttable(3);
    cluster.start_all();
    cluster[0].sql(load::SCHEMA);
    let writer = cluster.wait_writer();
    let left: Vec<usize> = (0..3).filter(|n| *n != writer).collect();
    cluster.isolate(writer);
    let answer = cluster[writer].post(&json!({"sql": "INSERT INTO counter VALUES(2, 0)"})).expect("an answer");
    assert!(matches!(answer.status, 503 | 504), "HTTP {}: {}", answer.status, answer.text());
    let next = cluster.wait_writer_among(&left);
    cluster[next].sql("INSERT INTO numbered VALUES(0, 1)");
    cluster[next].sql("UPDATE counter SET n = n + 1 WHERE id = 1");
    assert!(cluster.held_back() > 0, "the cut held nothing back: it was none");
    cluster.heal();
    audit(&cluster, &[1]);
}

/// R6: a hand-over under load refuses nothing.
#[test]
fn a_hand_over_refuses_nothing() {
    let cluster = Cluster::started(3);
    cluster[0].sql(load::SCHEMA);
    let work = Load::start(&urls(&cluster), 3);
    let mut moves = 0;
    for _ in 0..6 {
        let writer = cluster.wait_writer();
        let to = &cluster[(writer + 1) % 3].name;
        progress(&work, 5);
        let answer = cluster[0].client().post("/_ha/transfer", &json!({ "to": to })).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        eventually("the pin has moved", || {
            let view = cluster[(writer + 1) % 3].status()?;
            // The preference for the lowest id may have moved it on already.
            holds(view.writer.is_some() && view.writer.as_ref() != Some(&cluster[writer].name), format!("{view:?}"))
        });
        moves += 1;
        progress(&work, 5);
    }
    let (written, tally) = work.finish();
    assert_eq!(moves, 6);
    assert_eq!(tally.refused.load(Ordering::Relaxed), 0, "a hand-over refuses nothing");
    assert_eq!(tally.unknown.load(Ordering::Relaxed), 0, "and leaves nothing in doubt");
    audit(&cluster, &written);
}

/// SIGTERM hands the pin over first; clients of the other nodes notice nothing.
#[test]
fn a_graceful_stop_hands_the_pin_over() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql(load::SCHEMA);
    let writer = cluster.wait_writer();
    let left: Vec<usize> = (0..3).filter(|n| *n != writer).collect();
    let others: Vec<String> = left.iter().map(|n| cluster[*n].url()).collect();
    let work = Load::start(&others, 2);
    progress(&work, 10);
    let status = cluster[writer].stop();
    assert!(status.success(), "{status}");
    cluster.wait_writer_among(&left);
    progress(&work, 10);
    let (written, tally) = work.finish();
    assert_eq!(tally.refused.load(Ordering::Relaxed), 0, "a graceful stop refuses nothing");
    cluster.start(writer);
    audit(&cluster, &written);
}

/// R6: the lowest name is preferred, and comes back by asking, not by seizing.
#[test]
fn the_lowest_name_gets_the_pin_back() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql(load::SCHEMA);
    cluster[0].kill();
    cluster.wait_writer_among(&[1, 2]);
    cluster.start(0);
    // What it refuses while it starts is no matter of the hand-over.
    cluster[0].wait_ready();
    let work = Load::start(&urls(&cluster), 2);
    eventually("node-1 writes again", || {
        let view = cluster[0].status()?;
        holds(view.part == "writer", format!("{view:?}"))
    });
    let (written, tally) = work.finish();
    assert_eq!(tally.refused.load(Ordering::Relaxed), 0, "the hand-over back refuses nothing");
    audit(&cluster, &written);
}

/// Reads go on without a quorum; writes are refused with the reason.
#[test]
fn without_a_quorum_reads_go_on_and_writes_are_refused() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n); INSERT INTO t VALUES(1)");
    cluster.converged("SELECT n FROM t");
    cluster[0].kill();
    cluster[1].kill();
    eventually("the last node notices", || {
        let answer = cluster[2].client().get("/readyz").map_err(|error| error.to_string())?;
        holds(answer.status == 503, answer.text())
    });
    assert_eq!(cluster[2].local_rows("SELECT n FROM t"), Ok(json!([[1]])));
    let answer = cluster[2].post(&json!({"sql": "INSERT INTO t VALUES(2)"})).expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    std::thread::sleep(Duration::from_millis(100));
    cluster.start(0);
    cluster.start(1);
    cluster.wait_writer();
    assert_eq!(cluster.converged("SELECT n FROM t"), json!([[1]]), "what was refused was not done");
}

/// A transaction of 40 MB at 64 Mbit/s is on its way for more than three leases.
/// Heartbeats pass between its parts: the writer stays, and others write as soon
/// as it is through.
#[test]
fn a_large_write_on_a_slow_line_costs_no_writer_its_lease() {
    const RATE: u64 = 8_000_000;
    let mut cluster = Cluster::cuttable(3);
    cluster.start_all();
    cluster[0].sql("CREATE TABLE big(n INTEGER PRIMARY KEY, x BLOB NOT NULL)");
    let writer = cluster.wait_writer();
    let term = cluster[writer].status().expect("it answers").term;
    cluster.narrow(RATE);
    let begun = Instant::now();
    let insert = "INSERT INTO big(x) WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 40)
                  SELECT randomblob(1000000) FROM n";
    let client = cluster[writer].client().with_timeout(Duration::from_secs(60));
    let answer = client.post("/query", &json!({ "sql": insert })).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let took = begun.elapsed();
    cluster[(writer + 1) % 3].sql("INSERT INTO big(x) VALUES(zeroblob(3))");
    assert_eq!(cluster.converged("SELECT count(*), sum(length(x)) FROM big"), json!([[41, 40_000_003]]));
    assert!(took >= Duration::from_secs(5), "{took:?}: the line was no bound");
    assert!(cluster.slowed() >= 80_000_000, "{} bytes to two followers", cluster.slowed());
    assert_eq!(cluster.wait_writer(), writer);
    for node in cluster.nodes() {
        assert_eq!(node.status().expect("it answers").term, term, "{} saw an election", node.name);
    }
}
