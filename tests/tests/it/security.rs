//! What is closed, and stays closed.

use base_ha_tests::node::{Node, TOKEN, free_port};
use base_ha_tests::wait::holds;
use base_ha_tests::{Cluster, eventually};
use serde_json::json;
use std::time::Duration;

fn refused_at_start(environment: &[(&str, &str)], reason: &str) {
    let home = tempfile::tempdir().expect("a directory");
    let mut node = Node::new("node-1", free_port(), home.path().join("node-1"));
    for (name, value) in environment {
        node.set(name, value);
    }
    let status = node.start_to_end();
    assert_eq!(status.code(), Some(2), "{}", node.log_text());
    assert!(node.log_text().contains(reason), "{reason:?} is missing in: {}", node.log_text());
    assert!(!node.dir.exists(), "a node that is refused leaves nothing behind");
}

#[test]
fn a_node_that_would_be_open_does_not_start() {
    refused_at_start(
        &[("BASE_HTTP", "0.0.0.0:18090"), ("BASE_LOCAL_TARGET", "http://127.0.0.1:18090")],
        "beyond loopback",
    );
    refused_at_start(&[("BASE_PEERS", "http://127.0.0.1:1")], "pose as one of them");
    refused_at_start(&[("BASE_QUORUM", "none")], "needs merging");
    refused_at_start(&[("BASE_SUPERUSER_EMAIL", "a@example.org")], "no user administration");
}

/// A seat with another secret is no peer; the two with the right one go on.
#[test]
fn a_wrong_secret_keeps_a_node_out() {
    let mut cluster = Cluster::new(3);
    cluster[2].set("BASE_CLUSTER_SECRET", "another-secret-another-secret");
    for n in 0..3 {
        cluster.start(n);
    }
    cluster.wait_writer_among(&[0, 1]);
    cluster[0].sql("CREATE TABLE t(n)");
    std::thread::sleep(Duration::from_secs(1));
    let view = cluster[2].status().expect("it answers");
    assert_eq!(view.writer, None, "{view:?}");
    assert!(cluster[2].local_rows("SELECT * FROM t").is_err());
    assert!(cluster.nodes().iter().any(|node| node.log_text().contains("secret")), "{}", cluster[2].log_tail(5));
}

/// Rotation without a pause: the new secret is accepted, then used, then the
/// only one.
#[test]
fn the_cluster_secret_is_rotated_node_by_node() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n)");
    let old = base_ha_tests::node::SECRET;
    let new = "fresh-secret-fresh-secret";
    let mut written = 0;
    for secrets in [format!("{old},{new}"), format!("{new},{old}"), new.to_string()] {
        for n in 0..3 {
            cluster[n].set("BASE_CLUSTER_SECRET", &secrets);
            cluster[n].stop();
            cluster.start(n);
            cluster[n].wait_ready();
            cluster[n].sql(&format!("INSERT INTO t VALUES({written})"));
            written += 1;
        }
    }
    assert_eq!(cluster.converged("SELECT count(*) FROM t"), json!([[written]]));
}

/// G16: who may do what with which token.
#[test]
fn authz_matrix() {
    let mut cluster = Cluster::new(1);
    cluster.set("BASE_TOKEN", TOKEN);
    cluster.start_all();
    let bare = cluster[0].client().with_token(None);
    let bearer = format!("Bearer {TOKEN}");
    let sql = json!({"sql": "SELECT 1"}).to_string();
    let ask = |method: &str, path: &str, authorization: Option<&str>| {
        let headers: Vec<(&str, &str)> = authorization.map(|value| ("Authorization", value)).into_iter().collect();
        let body = if method == "POST" { sql.as_bytes() } else { b"" };
        bare.request(method, path, &headers, body).expect("an answer").status
    };
    for (method, path) in [("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/_ha/leader")] {
        assert_eq!(ask(method, path, None), 200, "{path} needs no token");
    }
    let closed = [
        ("POST", "/query"),
        ("POST", "/"),
        ("GET", "/download"),
        ("GET", "/metrics"),
        ("GET", "/_ha/status"),
        ("GET", "/_ha/peers"),
        ("GET", "/_ha/members"),
        ("POST", "/_ha/transfer"),
        ("POST", "/_ha/stepdown"),
    ];
    for (method, path) in closed {
        for wrong in
            [None, Some(""), Some("Bearer "), Some("Bearer wrong-token-wrong-token"), Some("Basic dGVzdDp0ZXN0")]
        {
            assert_eq!(ask(method, path, wrong), 401, "{method} {path} with {wrong:?}");
        }
    }
    assert_eq!(ask("POST", "/query", Some(&bearer)), 200);
    assert_eq!(ask("POST", "/query", Some(TOKEN)), 200, "the bare token is accepted too");
    assert_eq!(ask("GET", "/metrics", Some(&bearer)), 200);
}

/// B15: what peers say to each other is not for clients.
#[test]
fn ha_endpoints_need_auth() {
    let cluster = Cluster::started(3);
    let client = cluster[0].client();
    for path in ["/_ha/peer", "/_ha/snapshot"] {
        let answer = client.get(path).expect("an answer");
        assert!((400..500).contains(&answer.status), "{path}: HTTP {}", answer.status);
    }
}

/// B6: anybody could become "writer" by a heartbeat.
#[test]
fn forged_heartbeat_rejected() {
    let cluster = Cluster::started(3);
    let leader =
        |cluster: &Cluster| cluster[1].client().get("/_ha/leader").expect("an answer").json()["node_id"].clone();
    let before = leader(&cluster);
    let forged = json!({"node_id": "!", "target": "http://evil.example:1"});
    for node in cluster.nodes() {
        let _whatever = node.client().post("/_ha/heartbeat", &forged).expect("an answer");
    }
    let lowest = json!({"node_id": "a", "target": "http://127.0.0.1:1"});
    for node in cluster.nodes() {
        let _whatever = node.client().post("/_ha/heartbeat", &lowest).expect("an answer");
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(leader(&cluster), before);
    let peers = cluster[0].client().get("/_ha/peers").expect("an answer").json();
    assert_eq!(peers.as_array().map(Vec::len), Some(3), "{peers}");
    cluster[1].sql("CREATE TABLE t(n)");
}

/// A web page of another origin makes a browser send requests to loopback.
#[test]
fn foreign_origins_are_refused() {
    let cluster = Cluster::started(1);
    let client = cluster[0].client();
    let body = json!({"sql": "CREATE TABLE evil(n)"}).to_string();
    let own = cluster[0].url();
    let ask = |headers: &[(&str, &str)]| {
        client.request("POST", "/query", headers, body.as_bytes()).expect("an answer").status
    };
    assert_eq!(ask(&[("Origin", "http://evil.example")]), 403);
    assert_eq!(ask(&[("Origin", "null")]), 403);
    assert_eq!(ask(&[("Sec-Fetch-Site", "cross-site")]), 403);
    assert_eq!(ask(&[("Host", "evil.example")]), 403, "a name that was bound to 127.0.0.1");
    let tables = cluster[0].sql("SELECT count(*) FROM sqlite_schema WHERE name = 'evil'");
    assert_eq!(tables["rows"], json!([[0]]), "nothing was done");
    assert_eq!(ask(&[("Origin", &own)]), 200, "the node's own pages may");
}

/// SQL that reaches for files, the log's own tables or the machine.
#[test]
fn sql_stays_in_its_database() {
    let cluster = Cluster::started(1);
    let elsewhere = cluster[0].dir.join("elsewhere.db").display().to_string();
    for sql in [
        format!("ATTACH '{elsewhere}' AS x"),
        format!("VACUUM INTO '{elsewhere}'"),
        "SELECT load_extension('x')".into(),
        "SELECT * FROM _ha_meta".into(),
        "CREATE TABLE _ha_mine(n)".into(),
        "PRAGMA writable_schema = ON".into(),
        "PRAGMA journal_mode = DELETE".into(),
        "BEGIN".into(),
        "COMMIT".into(),
    ] {
        let answer = cluster[0].post(&json!({ "sql": sql })).expect("an answer");
        assert!((400..500).contains(&answer.status), "{sql}: HTTP {}: {}", answer.status, answer.text());
        let code = answer.json()["code"].as_str().map(str::len);
        assert!(code.is_some_and(|length| length > 0), "{sql}: an error has a code: {}", answer.text());
    }
    assert!(!std::path::Path::new(&elsewhere).exists());
    cluster[0].sql("CREATE TABLE fine(n)");
}

/// Bodies beyond the limit are refused before they are read.
#[test]
fn oversized_bodies_are_refused() {
    let mut cluster = Cluster::new(1);
    cluster.set("BASE_MAX_BODY", "64KiB");
    cluster.start_all();
    let body = json!({"sql": format!("SELECT '{}'", "x".repeat(100_000))});
    let answer = cluster[0].post(&body).expect("an answer");
    assert_eq!(answer.status, 413, "{}", answer.text());
    eventually("the node goes on", || {
        let answer = cluster[0].client().get("/healthz").map_err(|error| error.to_string())?;
        holds(answer.status == 200, answer.text())
    });
}
