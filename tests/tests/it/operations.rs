//! Settings and orders of an operator, each tried on real nodes.

use base_ha_tests::wait::holds;
use base_ha_tests::{Cluster, eventually};
use serde_json::{Value, json};

fn order(cluster: &Cluster, n: usize, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let headers = [("Content-Type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = cluster[n].client().request(method, path, &headers, body.as_bytes()).expect("an answer");
    (answer.status, answer.json())
}

fn role(cluster: &Cluster, asked: usize, name: &str) -> Option<String> {
    let members = cluster[asked].status().map(|view| view.members).unwrap_or_default();
    members.into_iter().find(|member| member.id.as_deref() == Some(name)).map(|member| member.role)
}

/// `BASE_ADMIT=manual`: a new disk under an old name is let in by orders only.
#[test]
fn a_new_disk_waits_for_an_order_where_admission_is_manual() {
    let mut cluster = Cluster::new(3);
    cluster.set("BASE_ADMIT", "manual");
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n)");
    cluster[2].kill();
    cluster[2].wipe();
    cluster.start(2);
    eventually("it says that it is no member, and what makes it one", || {
        let view = cluster[2].status()?;
        holds(view.reasons.iter().any(|why| why.contains("base-ha cluster add")), format!("{:?}", view.reasons))
    });
    cluster[0].sql("INSERT INTO t VALUES(1)");
    assert_eq!(role(&cluster, 0, "node-3").as_deref(), Some("voter"), "its old disk's seat is still there");
    let url = cluster[2].url();
    assert_eq!(order(&cluster, 0, "DELETE", "/_ha/members/node-3", &Value::Null).0, 200);
    assert_eq!(order(&cluster, 1, "POST", "/_ha/members", &json!({ "url": url })).0, 200);
    cluster[2].wait_ready();
    eventually("it votes again", || holds(role(&cluster, 0, "node-3").as_deref() == Some("voter"), "not yet"));
    assert_eq!(cluster.converged("SELECT n FROM t"), json!([[1]]));
}

/// `BASE_BOOTSTRAP`: one seat founds alone, those that come later learn.
#[test]
fn a_bootstrapped_node_founds_alone() {
    let mut cluster = Cluster::new(3);
    cluster[1].set("BASE_BOOTSTRAP", "true");
    cluster.start(1);
    cluster[1].wait_ready();
    cluster[1].sql("CREATE TABLE t(n)");
    cluster.start(0);
    cluster.start(2);
    for n in [0, 2] {
        cluster[n].wait_ready();
    }
    cluster[0].sql("INSERT INTO t VALUES(1)");
    assert_eq!(cluster.converged("SELECT n FROM t"), json!([[1]]));
    assert_eq!(role(&cluster, 0, "node-3").as_deref(), Some("learner"), "no voter without an order");
    // The setting left in place does no harm at the next start.
    let before = cluster[1].status().expect("a status").cluster;
    cluster.restart(1);
    cluster[1].wait_ready();
    assert_eq!(cluster[1].status().expect("a status").cluster, before);
}

/// `BASE_STATIC_WRITER`: nobody else ever writes, whatever its name.
#[test]
fn only_the_static_writer_writes() {
    let mut cluster = Cluster::new(3);
    let url = cluster[2].url();
    cluster.set("BASE_STATIC_WRITER", &url);
    cluster.set("BASE_WAIT_TIMEOUT", "1s");
    cluster.start_all();
    assert_eq!(cluster.wait_writer(), 2);
    cluster[0].sql("CREATE TABLE t(n)");
    cluster[2].kill();
    eventually("it is missed", || {
        let view = cluster[0].status()?;
        holds(!view.reasons.is_empty(), format!("{view:?}"))
    });
    let answer = cluster[0].post(&json!({"sql": "INSERT INTO t VALUES(1)"})).expect("an answer");
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("no_writer")), "{}", answer.text());
    let moved = order(&cluster, 0, "POST", "/_ha/transfer", &json!({"to": "node-1"}));
    assert_ne!(moved.0, 200, "{moved:?}");
    cluster.start(2);
    assert_eq!(cluster.wait_writer(), 2);
    eventually("it writes again", || {
        let answer = cluster[1].post(&json!({"sql": "INSERT INTO t VALUES(2)"})).map_err(|error| error.to_string())?;
        holds(answer.status == 200, answer.text())
    });
    assert_eq!(cluster.converged("SELECT n FROM t"), json!([[2]]));
}

/// Two nodes: a write needs both, a read needs one.
#[test]
fn two_nodes_write_together_only() {
    let mut cluster = Cluster::new(2);
    cluster.set("BASE_WAIT_TIMEOUT", "1s");
    cluster.start_all();
    assert!(cluster[0].log_text().contains("two nodes: both must be up for a write"));
    cluster[1].sql("CREATE TABLE t(n)");
    cluster[1].sql("INSERT INTO t VALUES(1)");
    cluster.converged("SELECT n FROM t");
    let writer = cluster.wait_writer();
    let other = 1 - writer;
    cluster[writer].kill();
    eventually("the other one has noticed", || {
        let view = cluster[other].status()?;
        holds(!view.reasons.is_empty(), format!("{view:?}"))
    });
    let answer = cluster[other].post(&json!({"sql": "INSERT INTO t VALUES(2)"})).expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(cluster[other].local_rows("SELECT n FROM t"), Ok(json!([[1]])));
    cluster.start(writer);
    cluster.wait_writer();
    eventually("they write again", || {
        let answer =
            cluster[other].post(&json!({"sql": "INSERT INTO t VALUES(3)"})).map_err(|error| error.to_string())?;
        holds(answer.status == 200, answer.text())
    });
    assert_eq!(cluster.converged("SELECT n FROM t ORDER BY n"), json!([[1], [3]]));
}

/// `X-Base-Ack: all` with a voter that sleeps: committed, and said so.
#[test]
fn an_acknowledgement_of_all_that_does_not_come_is_no_lost_write() {
    let mut cluster = Cluster::new(3);
    cluster.set("BASE_ACK_TIMEOUT", "1s");
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n)");
    cluster.converged("SELECT n FROM t");
    let writer = cluster.wait_writer();
    let sleeper = (writer + 1) % 3;
    cluster[sleeper].pause();
    let headers = [("Content-Type", "application/json"), ("X-Base-Ack", "all")];
    let body = json!({"sql": "INSERT INTO t VALUES(1)"}).to_string();
    let answer = cluster[writer].client().request("POST", "/query", &headers, body.as_bytes()).expect("an answer");
    let said = answer.json();
    assert_eq!((answer.status, &said["code"]), (504, &json!("ack_timeout")), "{said}");
    assert_eq!(said["data"]["committed"], json!(true), "{said}");
    assert_eq!(cluster[writer].sql("SELECT n FROM t")["rows"], json!([[1]]));
    cluster[sleeper].resume();
    eventually("with all awake it is acknowledged", || {
        let body = json!({"sql": "INSERT INTO t SELECT 2 WHERE NOT EXISTS (SELECT 1 FROM t WHERE n = 2)"}).to_string();
        let answer = cluster[writer].client().request("POST", "/query", &headers, body.as_bytes());
        let answer = answer.map_err(|error| error.to_string())?;
        holds(answer.status == 200, answer.text())
    });
    assert_eq!(cluster.converged("SELECT n FROM t ORDER BY n"), json!([[1], [2]]));
}

/// A member with a new address where admission is manual: `set-url` says where.
#[test]
fn a_moved_member_is_found_by_order() {
    let mut cluster = Cluster::new(3);
    cluster.set("BASE_ADMIT", "manual");
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n)");
    cluster[2].stop();
    let url = cluster.moves(2);
    let path = "/_ha/members/node-3/url";
    let (status, said) = order(&cluster, 1, "POST", path, &json!({ "url": url }));
    assert_eq!((status, &said["changed"]), (200, &json!(true)), "{said}");
    let again = order(&cluster, 0, "POST", path, &json!({ "url": url }));
    assert_eq!((again.0, &again.1["changed"]), (200, &json!(false)), "{again:?}");
    assert_eq!(order(&cluster, 0, "POST", "/_ha/members/node-9/url", &json!({ "url": url })).0, 409);
    cluster.start(2);
    cluster[2].wait_ready();
    cluster[2].sql("INSERT INTO t VALUES(1)");
    assert_eq!(cluster.converged("SELECT n FROM t"), json!([[1]]));
    let members = cluster[0].status().expect("a status").members;
    assert!(members.iter().any(|member| member.url == url && member.id.as_deref() == Some("node-3")), "{members:?}");
}

/// The disk of the log lines is full, or nobody reads them any more: the node
/// goes on, and it is not the lines that a stop fails on.
#[test]
fn a_node_outlives_its_log() {
    let mut cluster = Cluster::new(1);
    cluster.nodes_mut()[0].log = "/dev/full".into();
    cluster.start_all();
    cluster[0].sql("CREATE TABLE t(n)");
    cluster[0].sql("INSERT INTO t VALUES(1)");
    let status = cluster.nodes_mut()[0].stop();
    assert!(status.success(), "{status}");
}
