//! Clusters whose every byte is encrypted, and who is kept out of them.

use base_ha::cli::client::Client;
use base_ha::cli::trust::Trust;
use base_ha_tests::certs::{Ca, LONG, TlsCluster};
use base_ha_tests::node::{Node, SECRET, free_port};
use base_ha_tests::wait::holds;
use base_ha_tests::{binary, eventually};
use serde_json::json;
use std::process::Command;
use std::time::Duration;

/// Founding, forwarding, reading one's own writes, failing over and joining by
/// snapshot, with certificates instead of a secret.
#[test]
fn a_cluster_over_mutual_tls_founds_writes_and_fails_over() {
    let mut tls = TlsCluster::new(3);
    let cluster = &mut tls.cluster;
    cluster.start_all();
    let writer = cluster.wait_writer();
    let other = (writer + 1) % 3;
    cluster[other].sql("CREATE TABLE t(n)");
    let answer = cluster[other].post(&json!({"sql": "INSERT INTO t VALUES(1)"})).expect("an answer");
    assert_eq!(answer.status, 200, "passed on: {}", answer.text());
    let token = answer.header("x-base-txseq").expect("a token").to_owned();
    let read = json!({"sql": "SELECT n FROM t"}).to_string();
    for node in cluster.nodes() {
        let headers = [("Content-Type", "application/json"), ("X-Base-Txseq", token.as_str())];
        let answer = node.client().request("POST", "/query", &headers, read.as_bytes()).expect("an answer");
        assert_eq!(answer.json()["rows"], json!([[1]]), "{}: a session is known at every node", node.name);
    }
    let leader = cluster[other].client().get("/_ha/leader").expect("an answer").json();
    assert_eq!(leader["leader_url"], json!(cluster[writer].url()));

    cluster[writer].kill();
    let rest: Vec<usize> = (0..3).filter(|n| *n != writer).collect();
    cluster.wait_writer_among(&rest);
    cluster[other].sql("INSERT INTO t VALUES(2)");
    // It comes back without its disk: what it gets, it gets over TLS too.
    cluster[writer].wipe();
    cluster.start(writer);
    cluster[writer].wait_ready();
    assert_eq!(cluster.converged("SELECT n FROM t ORDER BY n"), json!([[1], [2]]));
    assert!(cluster[writer].log_text().contains("connected to peer"));
}

/// Nodes that the others must not believe, next to two that go on.
#[test]
fn who_has_no_certificate_of_the_cluster_is_no_peer() {
    let mut tls = TlsCluster::new(3);
    let stranger = Ca::new(tls.dir(), "stranger");
    let foreign = stranger.sign("foreign", &["127.0.0.1"], LONG);
    let cluster = &mut tls.cluster;
    cluster[2].use_certificate(&foreign);
    cluster[2].set("BASE_TLS_CA", &stranger.file().display().to_string());
    for n in 0..3 {
        cluster.start(n);
    }
    cluster.wait_writer_among(&[0, 1]);
    cluster[0].sql("CREATE TABLE t(n)");
    eventually("both sides say why", || {
        let (inside, outside) = (cluster[0].log_text(), cluster[2].log_text());
        holds(inside.contains("refused a connection"), inside)?;
        holds(outside.contains("was not signed by the CA"), outside)
    });
    assert_eq!(cluster[2].status().expect("it answers").writer, None);
    assert!(cluster[2].local_rows("SELECT * FROM t").is_err());
}

/// The cluster's CA signs others as well: they are no members.
#[test]
fn a_certificate_for_another_host_is_no_members() {
    let mut tls = TlsCluster::new(3);
    let cluster = &mut tls.cluster;
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n)");
    // A fourth node at localhost, whose certificate is made for that name: no
    // seat of theirs, and no secret by which it could be admitted.
    let files = tls.ca.sign("fourth", &["localhost"], LONG);
    let fourth = cluster.add_tls("fourth", "localhost", &files);
    cluster.start(fourth);
    eventually("they say why", || {
        let log = cluster[0].log_text() + &cluster[1].log_text() + &cluster[2].log_text();
        holds(log.contains("add it first by base-ha cluster add https://localhost"), log)
    });
    assert_eq!(cluster[fourth].status().expect("it answers").writer, None);
    // An administrator's order lets it in.
    let url = cluster[fourth].env["BASE_LOCAL_TARGET"].clone();
    let answer = cluster[0].client().post("/_ha/members", &json!({ "url": url })).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    cluster[fourth].wait_ready();
    cluster[fourth].sql("INSERT INTO t VALUES(1)");
}

/// Who speaks in clear, who believes another CA, who shows nothing.
#[test]
fn clients_of_a_node_with_tls() {
    let mut tls = TlsCluster::new(1);
    let stranger = Ca::new(tls.dir(), "stranger");
    let cluster = &mut tls.cluster;
    cluster.start_all();
    let node = &cluster[0];
    node.sql("CREATE TABLE t(n)");

    let clear = Client::new(&node.url().replace("https://", "http://")).expect("a URL");
    let answer = clear.post("/query", &json!({"sql": "INSERT INTO t VALUES(1)"})).expect("an answer");
    assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("tls_only")), "{}", answer.text());
    let trusting = |trust: Trust| Client::new(&node.url()).expect("a URL").with_trust(trust).get("/healthz");
    let error = trusting(Trust::File(stranger.file())).expect_err("not believed").to_string();
    assert!(error.contains("was not signed by the CA that is trusted here"), "{error}");
    assert!(trusting(Trust::Machine).is_err());
    assert_eq!(trusting(Trust::Anybody).expect("an answer").status, 200);
    let other = Client::new(&node.url().replace("127.0.0.1", "localhost")).expect("a URL");
    let error = other.with_trust(Trust::File(tls.ca.file())).get("/healthz").expect_err("another host").to_string();
    assert!(error.contains("is not made for the host"), "{error}");
    // Peers must show what clients need not.
    let answer = node.client().request("GET", "/_ha/peer", &[("Connection", "upgrade"), ("Upgrade", "base-ha/1")], b"");
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("peer_certificate")), "{}", answer.text());
    assert_eq!(node.sql("SELECT count(*) FROM t")["rows"], json!([[0]]), "nobody wrote");
}

/// The commands reach nodes over TLS, each other member included.
#[test]
fn the_commands_speak_tls() {
    let mut tls = TlsCluster::new(3);
    let cluster = &mut tls.cluster;
    cluster.start_all();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary::path());
        command.args(arguments).args(["--url", &cluster[1].url()]);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BASE_") {
                command.env_remove(name);
            }
        }
        let output = command.output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    };
    let ca = tls.ca.file().display().to_string();
    let (fine, said) = run(&["status", "--ca", &ca]);
    assert!(fine && said.contains("all 3 voters are up"), "{said}");
    assert_eq!(said.matches("https://127.0.0.1:").count(), 3, "{said}");
    assert!(!said.contains("down"), "{said}");
    let (fine, said) = run(&["sql", "--insecure", "CREATE TABLE t(n)"]);
    assert!(fine, "{said}");
    let (fine, said) = run(&["cluster", "members", "--ca", &ca]);
    assert!(fine && said.contains("node-3"), "{said}");
    let (fine, said) = run(&["cluster", "add", "http://127.0.0.1:1", "--ca", &ca]);
    assert!(!fine && said.contains("this cluster speaks https://"), "{said}");
    let (fine, said) = run(&["status"]);
    assert!(!fine && said.contains("--ca"), "{said}");
    assert!(!said.contains("nothing answers") && !said.contains("is a node running"), "somebody is there: {said}");
}

/// A new certificate is used without a restart; one that is not fit is not.
#[test]
fn certificates_are_exchanged_while_a_node_runs() {
    let mut tls = TlsCluster::new(1);
    let stranger = Ca::new(tls.dir(), "stranger");
    let soon = tls.ca.sign("node-1", &["127.0.0.1"], Some(Duration::from_secs(5 * 24 * 3_600)));
    let cluster = &mut tls.cluster;
    cluster[0].use_certificate(&soon);
    cluster.start_all();
    let log = cluster[0].log_text();
    assert!(log.contains("expires soon") && log.contains("days=4"), "{log}");
    let expires = || {
        let text = cluster[0].client().get("/metrics").expect("an answer").text();
        let line = text.lines().find_map(|line| line.strip_prefix("base_ha_tls_expires_timestamp_seconds "));
        line.expect("the metric").parse::<f64>().expect("a number")
    };
    let first = expires();

    let _unfit = stranger.sign("node-1", &["127.0.0.1"], LONG);
    cluster[0].hang_up();
    eventually("it says that the new one is not fit", || {
        let log = cluster[0].log_text();
        holds(log.contains("are not fit") && log.contains("was not signed by a CA"), log)
    });
    assert_eq!(expires(), first, "what was in use stays in use");
    let _renewed = tls.ca.sign("node-1", &["127.0.0.1"], LONG);
    cluster[0].hang_up();
    eventually("the new one is in use", || holds(expires() > first + 3e7, cluster[0].log_text()));
    assert!(cluster[0].log_text().contains("the TLS files changed: new connections use what they hold now"));
}

/// What can't work is refused at the start.
#[test]
fn unfit_files_are_refused_at_the_start() {
    let home = tempfile::tempdir().expect("a directory");
    let ca = Ca::new(home.path(), "ca");
    let start = |name: &str, hosts: &[&str], valid: Option<Duration>| {
        let mut node = Node::new(name, free_port(), home.path().join(name));
        node.use_certificate(&ca.sign(name, hosts, valid));
        node.set("BASE_TLS_CA", &ca.file().display().to_string());
        assert!(!node.start_to_end().success());
        node.log_text()
    };
    let said = start("expired", &["127.0.0.1"], None);
    assert!(said.contains("BASE_TLS_CERT") && said.contains("expired on"), "{said}");
    let said = start("elsewhere", &["example.org"], LONG);
    assert!(said.contains("is not made for 127.0.0.1, where peers reach this node"), "{said}");
}

/// A cluster that was founded in clear goes on over TLS: stopped, and started
/// with it.
#[test]
fn a_cluster_moves_to_tls() {
    let mut tls = TlsCluster::plain(3);
    tls.cluster.start_all();
    tls.cluster[0].sql("CREATE TABLE t(n)");
    for n in 0..3 {
        tls.cluster[n].stop();
    }
    tls.encrypt();
    let cluster = &mut tls.cluster;
    cluster.start_all();
    cluster[1].sql("INSERT INTO t VALUES(1)");
    eventually("the members' URLs follow", || {
        let view = cluster[2].status()?;
        holds(view.members.iter().all(|member| member.url.starts_with("https://")), format!("{:?}", view.members))
    });
    assert_eq!(cluster.converged("SELECT n FROM t"), json!([[1]]));
}

/// Certificates and the secret together: both are demanded.
#[test]
fn a_certificate_does_not_replace_a_secret_that_is_set() {
    let mut tls = TlsCluster::new(3);
    let cluster = &mut tls.cluster;
    cluster.set("BASE_CLUSTER_SECRET", SECRET);
    cluster[2].set("BASE_CLUSTER_SECRET", "another-secret-another-secret");
    for n in 0..3 {
        cluster.start(n);
    }
    cluster.wait_writer_among(&[0, 1]);
    eventually("the wrong secret is said", || {
        let log = cluster[2].log_text();
        holds(log.contains("cluster secret is wrong"), log)
    });
    assert_eq!(cluster[2].status().expect("it answers").writer, None);
}
