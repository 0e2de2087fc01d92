//! What clients are told while things go wrong.

use base_ha_tests::Cluster;
use base_ha_tests::eventually;
use base_ha_tests::load::{self, Load};
use base_ha_tests::wait::holds;
use serde_json::json;
use std::time::Duration;

/// R4, R7: a write that was acknowledged by its writer's disk alone is lost with
/// that writer. Whoever saw it is told so at every node, before and after the
/// new history has grown beyond it, and is never shown other rows instead.
#[test]
fn a_session_that_saw_a_lost_write_is_told_so_everywhere() {
    let mut cluster = Cluster::cuttable(3);
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n INTEGER)");
    cluster.converged("SELECT count(*) FROM t");
    let old = cluster.wait_writer();
    cluster.isolate(old);
    let local = [("Content-Type", "application/json"), ("X-Base-Ack", "local")];
    let lost = json!({"sql": "INSERT INTO t VALUES(1)"}).to_string();
    let answer = cluster[old].client().request("POST", "/query", &local, lost.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let token = answer.header("x-base-txseq").expect("a token").to_owned();
    cluster[old].kill();
    let left: Vec<usize> = (0..3).filter(|n| *n != old).collect();
    cluster.wait_writer_among(&left);
    // Only now: what the cut held back waits on the way, and would be believed
    // for as long as the others are in the old writer's term.
    assert!(cluster.held_back() > 0, "the write was on its way");
    cluster.heal();
    let shown = [("Content-Type", "application/json"), ("X-Base-Txseq", token.as_str())];
    let select = json!({"sql": "SELECT n FROM t"}).to_string();
    let forked = |n: usize| {
        let answer = cluster[n].client().request("POST", "/query", &shown, select.as_bytes());
        let answer = answer.map_err(|error| error.to_string())?;
        // A node that has just learnt of its writer may still say "wait".
        let code = answer.json()["code"].as_str().unwrap_or("none").to_owned();
        assert_ne!(answer.status, 200, "{} answers with rows: {}", cluster[n].name, answer.text());
        holds((answer.status, code.as_str()) == (409, "session_forked"), answer.text())
    };
    left.iter().for_each(|n| eventually("it is told so", || forked(*n)));
    for n in 2..12 {
        cluster[left[0]].sql(&format!("INSERT INTO t VALUES({n})"));
    }
    left.iter().for_each(|n| eventually("it is told so later as well", || forked(*n)));
    cluster.start(old);
    cluster[old].wait_ready();
    let told = |n: usize| {
        let answer = cluster[n].client().request("POST", "/query", &shown, select.as_bytes()).expect("an answer");
        (answer.status, answer.json()["code"].as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(told(old), (409, "session_forked".to_owned()));
    assert_eq!(cluster.converged("SELECT min(n), count(*) FROM t"), json!([[2, 10]]));

    // It is lost to the history and not to its operator (R7).
    let client = cluster[old].client();
    let get = |path: &str| client.get(path).expect("an answer").json();
    let listed = get("/_ha/conflicts");
    let rows = json!([{"op": "insert", "table": "t", "key": [], "rowid": 1, "new": {"n": 1}}]);
    assert_eq!(
        (&listed["total"], &listed["more"], &listed["conflicts"][0]["changes"]),
        (&json!(1), &json!(false), &rows)
    );
    let id = listed["conflicts"][0]["id"].as_u64().expect("a number");
    assert_eq!(get("/_ha/conflicts?table=other")["conflicts"], json!([]));
    assert_eq!(get(&format!("/_ha/conflicts?after={id}"))["conflicts"], json!([]));
    assert_eq!(get("/_ha/status")["conflicts"], json!(1));
    assert_eq!(cluster[left[0]].client().get("/_ha/conflicts").expect("an answer").json()["total"], json!(0));
    let dismiss = || client.post(&format!("/_ha/conflicts/{id}/dismiss"), &json!({})).expect("an answer");
    assert_eq!((dismiss().status, dismiss().status), (200, 404));
    assert_eq!(get("/_ha/conflicts"), json!({"total": 0, "conflicts": [], "after": 0, "more": false}));
}

/// One connection writes. A statement that holds it for four leases costs no
/// lease; who waits behind it is told so in time, reads go on, and when it is
/// over so do writes.
#[test]
fn a_long_statement_keeps_others_waiting_and_costs_no_lease() {
    let mut cluster = Cluster::new(3);
    cluster.set("BASE_WAIT_TIMEOUT", "500ms");
    cluster.set("BASE_STATEMENT_TIMEOUT", "6s");
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n INTEGER)");
    let writer = cluster.wait_writer();
    let term = cluster[writer].status().expect("it answers").term;
    let client = cluster[writer].client().with_timeout(Duration::from_secs(60));
    let endless = "INSERT INTO t WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n
                   WHERE i < 0";
    let long = std::thread::spawn(move || client.post("/query", &json!({ "sql": endless })).expect("an answer"));
    let mut done = 0;
    for n in 0..3 {
        eventually("others are told that the writer is busy", || {
            let answer = cluster[n].post(&json!({"sql": "INSERT INTO t VALUES(1)"})).map_err(|e| e.to_string())?;
            done += i64::from(answer.status == 200);
            let busy = answer.status == 503 && answer.json()["code"] == "writer_busy";
            assert!(!busy || answer.header("retry-after") == Some("1"));
            holds(busy, answer.text())
        });
        assert!(cluster[n].local_rows("SELECT count(*) FROM t").is_ok(), "reads go on");
    }
    let answer = long.join().expect("no panic");
    assert_eq!((answer.status, answer.json()["code"].as_str()), (408, Some("statement_timeout")));
    cluster[(writer + 1) % 3].sql("INSERT INTO t VALUES(2)");
    assert_eq!(cluster.converged("SELECT count(*) FROM t"), json!([[done + 1]]));
    for node in cluster.nodes() {
        assert_eq!(node.status().expect("it answers").term, term, "{} saw an election", node.name);
    }
}

/// B8, `202_means_durable`: an accepted write is on the disks of a majority when
/// its client is told. Every process dies at that moment, and it is there.
#[test]
fn accepted_means_durable_202() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n INTEGER)");
    for n in 0..4 {
        let answer = cluster[n % 3].post(&json!({"sql": format!("INSERT INTO t VALUES({n})")})).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        cluster.nodes_mut().iter_mut().for_each(|node| node.kill());
        // One of them may not have had it yet: any two others do.
        let away = n % 3;
        for node in (0..3).filter(|node| *node != away) {
            cluster.nodes_mut()[node].start();
        }
        for node in (0..3).filter(|node| *node != away) {
            cluster.nodes_mut()[node].wait_alive();
            cluster[node].wait_ready();
        }
        assert_eq!(cluster.converged("SELECT count(*), max(n) FROM t"), json!([[n + 1, n]]));
        cluster.start(away);
        cluster[away].wait_ready();
    }
}

/// A change feed that is taken up at whichever node answers, while writers are
/// killed, tells every row once and in the order of the data.
#[test]
fn a_change_feed_survives_kills() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql(load::SCHEMA);
    let urls: Vec<String> = cluster.nodes().iter().map(|node| node.url()).collect();
    let work = Load::start(&urls, 3);
    let mut told: Vec<(u64, u64)> = Vec::new();
    let mut since = "0".to_owned();
    let mut take = |cluster: &Cluster, n: usize| {
        let path = format!("/_ha/changes?follow=false&table=numbered&since={since}");
        let answer = cluster[n].client().get(&path).map_err(|error| error.to_string())?;
        // A node that has just come back may be behind, or still starting.
        holds(answer.status == 200, answer.text())?;
        for line in answer.text().lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            since = line["position"].as_str().expect("each line has one").to_owned();
            for change in line["changes"].as_array().into_iter().flatten().filter(|change| change["op"] == "insert") {
                let number = |name: &str| change["new"][name].as_u64().expect("a number");
                told.push((number("client"), number("n")));
            }
        }
        Ok(())
    };
    for round in 0..6 {
        let from = work.acked();
        eventually("writes go on", || holds(work.acked() >= from + 20, work.acked().to_string()));
        let writer = cluster.wait_writer();
        // Half of the time from the one that is about to die.
        let _a_node_that_cannot = take(&cluster, if round % 2 == 0 { writer } else { (writer + 1) % 3 });
        cluster[writer].kill();
        let other = (writer + 2) % 3;
        eventually("another node tells the rest", || take(&cluster, other));
        let left: Vec<usize> = (0..3).filter(|n| *n != writer).collect();
        cluster.wait_writer_among(&left);
        cluster.start(writer);
    }
    let (written, _) = work.finish();
    let rows = cluster.converged("SELECT client, n FROM numbered ORDER BY rowid");
    let rows: Vec<(u64, u64)> = serde_json::from_value(rows).expect("numbers");
    assert_eq!(rows.len() as u64, written.iter().sum::<u64>(), "every acknowledged row is there once");
    eventually("the last rows are told", || take(&cluster, 1));
    assert_eq!(told, rows);
}
