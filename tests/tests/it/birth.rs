//! How clusters come into the world, and what they are before.

use base_ha_tests::wait::{holds, within};
use base_ha_tests::{Cluster, eventually};
use serde_json::json;
use std::time::Duration;

/// B9: in the system that this one replaces no replica ever received a row.
#[test]
fn three_nodes_converge() {
    let cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(node TEXT, n INTEGER)");
    for (n, node) in cluster.nodes().iter().enumerate() {
        let result = node.sql(&format!("INSERT INTO t VALUES('{}', {n}) RETURNING n", node.name));
        assert_eq!(result["rows"], json!([[n]]));
    }
    let rows = cluster.converged("SELECT node, n FROM t ORDER BY n");
    assert_eq!(rows, json!([["node-1", 0], ["node-2", 1], ["node-3", 2]]));
}

/// B16: a session reads its own writes at any node, by the position it got.
#[test]
fn ryw_across_nodes() {
    let cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n INTEGER)");
    for n in 0..30 {
        let writer = &cluster[n % 3];
        let body = json!({"sql": "INSERT INTO t VALUES(?1)", "params": [n]});
        let written = writer.post(&body).expect("an answer");
        assert_eq!(written.status, 200, "{}", written.text());
        let position = written.header("x-base-txseq").expect("a write answers its position").to_string();
        let cookie = written.header("set-cookie").expect("a write sets the cookie");
        assert!(cookie.starts_with(&format!("_txseq={position};")), "{cookie}");
        let reader = &cluster[(n + 1) % 3];
        let body = json!({"sql": "SELECT count(*) FROM t"}).to_string();
        let read = reader
            .client()
            .request("POST", "/query", &[("X-Base-Txseq", &position)], body.as_bytes())
            .expect("an answer");
        assert_eq!(read.status, 200, "{}", read.text());
        assert_eq!(read.json()["rows"], json!([[n + 1]]), "write at {}, read at {}", writer.name, reader.name);
        assert!(read.header("x-base-txseq").is_some(), "a read answers a position as well");
    }
}

/// B1: a node alone among three seats never writes, however long it is alone.
#[test]
fn cold_start_no_quorum_no_writer() {
    let mut cluster = Cluster::new(3);
    cluster.start(0);
    // Twenty leases.
    std::thread::sleep(Duration::from_secs(6));
    let view = cluster[0].status().expect("it answers");
    assert_eq!(view.writer, None);
    assert_ne!(view.part, "writer");
    let ready = cluster[0].client().get("/readyz").expect("an answer");
    assert_eq!(ready.status, 503);
    let write = cluster[0].post(&json!({"sql": "CREATE TABLE t(n)"})).expect("an answer");
    assert_eq!(write.status, 503, "{}", write.text());
    assert!(write.header("retry-after").is_some(), "a 503 says when to come again");
    cluster.start(1);
    cluster.wait_writer();
    cluster[0].sql("CREATE TABLE t(n)");
}

#[test]
fn a_node_alone_writes_at_once() {
    let mut cluster = Cluster::new(1);
    cluster.nodes_mut()[0].env.remove("BASE_PEERS");
    cluster.nodes_mut()[0].env.remove("BASE_CLUSTER_SECRET");
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n); INSERT INTO t VALUES(1)");
    cluster.restart(0);
    cluster[0].wait_ready();
    assert_eq!(cluster[0].sql("SELECT n FROM t")["rows"], json!([[1]]));
}

/// B5: terms only grow, across every kind of restart.
#[test]
fn term_survives_restart() {
    let mut cluster = Cluster::started(3);
    let term = |cluster: &Cluster| {
        let answer = cluster[0].client().get("/_ha/leader").expect("an answer");
        let header: u64 = answer.header("x-base-term").expect("a term").parse().expect("a number");
        assert_eq!(answer.json()["term"].as_u64(), Some(header), "header and body agree");
        header
    };
    let mut last = term(&cluster);
    for _ in 0..3 {
        for node in cluster.nodes_mut() {
            node.kill();
        }
        cluster.start_all();
        cluster.wait_writer();
        let next = term(&cluster);
        assert!(next > last, "term {next} after {last}");
        last = next;
    }
}

/// Seats that belong to two clusters do not mix: the stranger says so and
/// keeps its own data.
#[test]
fn two_clusters_do_not_mix() {
    let cluster = {
        let cluster = Cluster::started(3);
        cluster[0].sql("CREATE TABLE ours(n)");
        cluster
    };
    let mut other = Cluster::new(1);
    other.start_all();
    other[0].sql("CREATE TABLE theirs(n); INSERT INTO theirs VALUES(7)");
    other[0].stop();
    let seats = format!("{},{}", cluster[0].env["BASE_PEERS"], other[0].url());
    other[0].set("BASE_PEERS", &seats);
    other.start(0);
    within(Duration::from_secs(20), "the stranger says where it belongs", || {
        let view = other[0].status()?;
        holds(view.unfit.is_some() || view.part == "writer", format!("{view:?}"))
    });
    assert!(other[0].local_rows("SELECT * FROM ours").is_err(), "nothing of the others came in");
    let rows = other[0].local_rows("SELECT n FROM theirs");
    assert!(rows.is_err() || rows == Ok(json!([[7]])), "its own data is as it was: {rows:?}");
    cluster[0].sql("INSERT INTO ours VALUES(1)");
    assert!(cluster[1].local_rows("SELECT * FROM theirs").is_err());
    let names: Vec<String> = cluster[0].status().expect("it answers").members.into_iter().map(|m| m.url).collect();
    assert!(!names.contains(&other[0].url()), "{names:?}");
}

/// G6: two live processes of one name.
#[test]
fn duplicate_node_name_refused() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n)");
    let twin = cluster.add("twin");
    cluster[twin].set("BASE_NODE_ID", "node-3");
    cluster[twin].start();
    eventually("somebody says that a name is there twice", || {
        let ended = cluster[twin].try_wait().is_some_and(|status| !status.success());
        let told = cluster.nodes().iter().any(|node| {
            let unfit = node.status().ok().and_then(|view| view.unfit);
            unfit.is_some_and(|why| why.contains("id"))
        });
        holds(ended || told, "nobody minds")
    });
    // Two honest voters are left: the cluster goes on.
    eventually("the cluster still writes", || {
        let answer = cluster[0].post(&json!({"sql": "INSERT INTO t VALUES(1)"})).map_err(|error| error.to_string())?;
        holds(answer.status == 200, answer.text())
    });
}
