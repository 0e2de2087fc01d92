//! Administration: members, backups, and the cluster that is lost.

use base_ha_tests::wait::holds;
use base_ha_tests::{Cluster, binary, eventually};
use serde_json::json;
use std::process::{Command, Output};

fn base_ha(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary::path());
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BASE_") {
            command.env_remove(name);
        }
    }
    command.output().expect("the binary can be run")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_member_is_removed_and_a_witness_added() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n)");
    let url = cluster[0].url();
    let done = base_ha(&["cluster", "--url", &url, "remove", "node-3"]);
    assert!(done.status.success(), "{}", text(&done));
    cluster[2].kill();
    eventually("it is no member", || {
        let members = text(&base_ha(&["cluster", "--url", &url, "members"]));
        holds(members.contains("node-2") && !members.contains("node-3"), members)
    });
    let witness = cluster.add("witness");
    cluster[witness].set("BASE_WITNESS", "true");
    let at = cluster[witness].url();
    cluster.start(witness);
    let done = base_ha(&["cluster", "--url", &url, "add", &at, "--as", "witness"]);
    let admitted_already = text(&done).contains("already");
    assert!(done.status.success() || admitted_already, "{}", text(&done));
    eventually("the witness counts", || {
        let view = cluster[0].status()?;
        let role = view.members.iter().find(|m| m.url == at).map(|m| m.role.clone());
        holds(role.as_deref() == Some("witness"), format!("{role:?}"))
    });
    // Two data nodes and a witness: one data node may fail.
    let writer = cluster.wait_writer_among(&[0, 1]);
    cluster[writer].kill();
    let left = 1 - writer;
    eventually("the other data node writes", || {
        let answer =
            cluster[left].post(&json!({"sql": "INSERT INTO t VALUES(1)"})).map_err(|error| error.to_string())?;
        holds(answer.status == 200, answer.text())
    });
    assert_ne!(cluster[witness].status().map(|view| view.part), Ok("writer".to_string()));
    assert!(!cluster[witness].dir.join("data.db").exists(), "a witness holds no data");
}

#[test]
fn a_download_is_a_whole_database() {
    let cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n INTEGER PRIMARY KEY, x BLOB)");
    cluster[0].sql(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 500) INSERT INTO t SELECT n, randomblob(2000) FROM c");
    cluster.converged("SELECT count(*) FROM t");
    for node in cluster.nodes() {
        let answer = node.client().get("/download").expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let name = answer.header("content-disposition").unwrap_or_default();
        assert!(name.starts_with("attachment; filename="), "{name}");
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("copy.db");
        std::fs::write(&file, &answer.body).expect("writable");
        let copy = rusqlite::Connection::open(&file).expect("a database");
        let check: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a check");
        assert_eq!(check, "ok");
        let count: i64 = copy.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("a table");
        assert_eq!(count, 500);
    }
}

/// A majority is lost for good: the survivor becomes a new cluster, and the
/// old one's nodes are strangers to it.
#[test]
fn a_lost_majority_is_recovered_from() {
    let mut cluster = Cluster::started(3);
    cluster[0].sql("CREATE TABLE t(n); INSERT INTO t VALUES(1)");
    cluster.converged("SELECT n FROM t");
    let old = cluster[0].status().expect("it answers").cluster;
    for node in cluster.nodes_mut() {
        node.kill();
    }
    let dir = cluster[0].dir.display().to_string();
    let refused = base_ha(&["recover", "--dir", &dir]);
    assert!(!refused.status.success(), "it wants to be told that a new cluster is meant");
    let done = base_ha(&["recover", "--new-cluster", "--dir", &dir]);
    assert!(done.status.success(), "{}", text(&done));
    cluster[1].wipe();
    cluster.start(0);
    cluster[0].wait_ready();
    assert_eq!(cluster[0].sql("SELECT n FROM t")["rows"], json!([[1]]));
    cluster[0].sql("INSERT INTO t VALUES(2)");
    let new = cluster[0].status().expect("it answers").cluster;
    assert_ne!(new, old);
    // An empty node joins; one with the old cluster's data does not.
    cluster.start(1);
    cluster[1].wait_ready();
    cluster.start(2);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_ne!(cluster[2].status().map(|view| view.cluster), Ok(new));
    cluster[2].kill();
    assert_eq!(cluster.converged("SELECT n FROM t ORDER BY n"), json!([[1], [2]]));
}

#[test]
fn the_client_commands_say_what_a_person_wants() {
    let cluster = Cluster::started(3);
    let url = cluster[1].url();
    let created =
        base_ha(&["sql", "--url", &url, "CREATE TABLE t(n INTEGER, x TEXT)", "INSERT INTO t VALUES(1,'a'),(20,NULL)"]);
    assert!(created.status.success(), "{}", text(&created));
    let listed = base_ha(&["sql", "--url", &url, "SELECT * FROM t ORDER BY n"]);
    assert_eq!(text(&listed), " n  x\n 1  a\n20  NULL\n(2 rows)\n");
    let wrong = base_ha(&["sql", "--url", &url, "SELEC 1"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(wrong.stdout.is_empty() && text(&wrong).contains("syntax error"), "{}", text(&wrong));
    let status = base_ha(&["status", "--url", &url]);
    assert!(status.status.success(), "{}", text(&status));
    for part in ["cluster ", "all 3 voters are up", "node-1", "node-3", "writer", "follower"] {
        assert!(text(&status).contains(part), "{part:?} is missing in:\n{}", text(&status));
    }
    let json = base_ha(&["status", "--url", &url, "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(value["nodes"].as_array().map(Vec::len), Some(3));
}
