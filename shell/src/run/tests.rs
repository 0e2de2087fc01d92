//! Whole nodes in one process, over real sockets and disks.

mod feed;
mod metrics;

use super::run;
use crate::config::{Config, Secret};
use crate::env::real::RealEnv;
use crate::error::ApiError;
use base_ha_core::ids::{NodeId, Url};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    address: String,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ApiError>>,
}

/// Addresses that nobody uses, below the range from which the system takes
/// ports for connections: a node that restarts must find its port free.
async fn addresses(n: usize) -> Vec<String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + (std::process::id() % 180) as u16 * 100;
    let mut found = Vec::new();
    while found.len() < n {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).await.is_ok() {
            found.push(address);
        }
    }
    found
}

fn config(n: usize, addresses: &[String], dir: &Path) -> Config {
    let seats: Vec<Url> = addresses.iter().map(|a| Url::new(&format!("http://{a}"))).collect();
    let id = NodeId::new(&format!("node-{n}")).expect("legal");
    let mut config = Config::new(id, seats[n].clone(), seats, addresses[n].clone(), dir.join(format!("node-{n}")));
    config.core.heartbeat = Duration::from_millis(100);
    config.core.lease = Duration::from_millis(600);
    config.cluster_secrets = vec![Secret::new("of this test, long enough to be one")];
    config
}

fn start(config: Config) -> Running {
    let address = config.http.clone();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(run(RealEnv, config, async {
        let _ = stopped.await;
    }));
    Running { address, stop: Some(stop), task }
}

impl Running {
    /// Until the node knows a writer and is caught up.
    async fn ready(&mut self) {
        tokio::select! {
            biased;
            ended = &mut self.task => panic!("{} ended: {ended:?}", self.address),
            () = ready(&self.address) => {}
        }
    }

    async fn stop(mut self) {
        self.stop.take().expect("once").send(()).expect("alive");
        let ended = timeout(PATIENCE, self.task).await.expect("it stops in time");
        ended.expect("no panic").expect("no error");
    }
}

async fn request(address: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n")?.1.to_owned();
    Some((status, body))
}

async fn sql(address: &str, path: &str, sql: &str) -> (u16, Value) {
    let body = json!({ "sql": sql }).to_string();
    let answer = timeout(PATIENCE, request(address, "POST", path, &body)).await.expect("in time");
    let (status, body) = answer.expect("an answer");
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

/// Until the node knows a writer and is caught up.
async fn ready(address: &str) {
    let mut last = None;
    let waiting = async {
        loop {
            match request(address, "GET", "/readyz", "").await {
                Some((200, _)) => return,
                other => last = other,
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(PATIENCE, waiting).await.is_err() {
        panic!("{address} is not ready: {last:?}");
    }
}

async fn until_rows(address: &str, query: &str, wanted: Value) {
    let mut last = Value::Null;
    let waiting = async {
        loop {
            let body = json!({ "sql": query }).to_string();
            let answer = request(address, "POST", "/query?level=local", &body).await;
            last = answer.map_or(Value::Null, |(_, body)| serde_json::from_str(&body).unwrap_or_default());
            if last["rows"] == wanted {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(PATIENCE, waiting).await.is_err() {
        panic!("{address} says {last} and not {wanted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_writes_reads_and_finds_it_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(1).await;
    let mut node = start(config(0, &addresses, dir.path()));
    node.ready().await;
    assert_eq!(sql(&node.address, "/query", "CREATE TABLE t(a)").await.0, 200);
    assert_eq!(sql(&node.address, "/query", "INSERT INTO t VALUES (1), (2)").await.0, 200);
    node.stop().await;
    let mut node = start(config(0, &addresses, dir.path()));
    node.ready().await;
    let (status, answer) = sql(&node.address, "/query", "SELECT a FROM t ORDER BY a").await;
    assert_eq!((status, &answer["rows"]), (200, &json!([[1], [2]])));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_converge() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(3).await;
    let mut nodes: Vec<Running> = (0..3).map(|n| start(config(n, &addresses, dir.path()))).collect();
    for node in &mut nodes {
        node.ready().await;
    }
    // Writes at any node, reads at all.
    let (status, answer) = sql(&addresses[1], "/query", "CREATE TABLE t(a INTEGER PRIMARY KEY, b)").await;
    assert_eq!(status, 200, "{answer}");
    for n in 0..30usize {
        let (status, answer) = sql(&addresses[n % 3], "/query", &format!("INSERT INTO t VALUES ({n}, 'x')")).await;
        assert_eq!(status, 200, "{answer}");
    }
    for address in &addresses {
        until_rows(address, "SELECT count(*), sum(a) FROM t", json!([[30, 435]])).await;
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_writer_hands_over_and_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(3).await;
    let mut nodes: Vec<Option<Running>> = (0..3).map(|n| Some(start(config(n, &addresses, dir.path())))).collect();
    for address in &addresses {
        ready(address).await;
    }
    assert_eq!(sql(&addresses[0], "/query", "CREATE TABLE t(a)").await.0, 200);
    let (_, leader) = request(&addresses[0], "GET", "/_ha/leader", "").await.expect("an answer");
    let leader: Value = serde_json::from_str(&leader).expect("JSON");
    let writer = (0..3).find(|n| leader["node_id"] == format!("node-{n}")).expect("a writer");
    nodes[writer].take().expect("running").stop().await;
    let other = (writer + 1) % 3;
    let (status, answer) = sql(&addresses[other], "/query", "INSERT INTO t VALUES (1)").await;
    assert_eq!(status, 200, "{answer}");
    nodes[writer] = Some(start(config(writer, &addresses, dir.path())));
    ready(&addresses[writer]).await;
    until_rows(&addresses[writer], "SELECT a FROM t", json!([[1]])).await;
    for node in nodes.into_iter().flatten() {
        node.stop().await;
    }
}

/// A number of the node's `/_ha/status`.
async fn status(address: &str) -> Value {
    let (_, body) = request(address, "GET", "/_ha/status", "").await.expect("an answer");
    serde_json::from_str(&body).unwrap_or(Value::String(body))
}

/// Every figure of a status is of one moment, and of after the question: what was
/// answered is in the log that it tells of.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_of_now() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(1).await;
    let mut node = start(config(0, &addresses, dir.path()));
    node.ready().await;
    assert_eq!(sql(&addresses[0], "/query", "CREATE TABLE t(a)").await.0, 200);
    let mut before = status(&addresses[0]).await["commit"].as_u64().expect("a number");
    for n in 0..20 {
        assert_eq!(sql(&addresses[0], "/query", &format!("INSERT INTO t VALUES ({n})")).await.0, 200);
        let said = status(&addresses[0]).await;
        let at = said["commit"].as_u64().expect("a number");
        assert_eq!(at, before + 1, "{said}");
        let member = &said["members"][0];
        for same in [&said["log"]["last"], &said["applied"], &member["last"], &member["applied"]] {
            assert_eq!(same.as_u64(), Some(at), "{said}");
        }
        before = at;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_under_an_old_name_gets_a_snapshot_where_the_log_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(3).await;
    let small = |n: usize| {
        let mut config = config(n, &addresses, dir.path());
        config.log_bytes_max = 1 << 20;
        config
    };
    let mut nodes: Vec<Option<Running>> = (0..3).map(|n| Some(start(small(n)))).collect();
    for address in &addresses {
        ready(address).await;
    }
    assert_eq!(sql(&addresses[0], "/query", "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)").await.0, 200);
    nodes[2].take().expect("running").stop().await;
    std::fs::remove_dir_all(dir.path().join("node-2")).expect("removed");
    for n in 0..24 {
        let (status, answer) =
            sql(&addresses[n % 2], "/query", &format!("INSERT INTO t VALUES ({n}, randomblob(1000000))")).await;
        assert_eq!(status, 200, "{answer}");
    }
    // Checkpointed and trimmed: what the empty node needs is gone.
    let trimmed = async {
        loop {
            let both = [status(&addresses[0]).await, status(&addresses[1]).await];
            if both.iter().all(|s| s["log"]["first"].as_u64().is_some_and(|first| first > 5)) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    if timeout(PATIENCE, trimmed).await.is_err() {
        panic!("the log was not trimmed: {}", status(&addresses[0]).await);
    }
    nodes[2] = Some(start(small(2)));
    until_rows(&addresses[2], "SELECT count(*), sum(length(b)) FROM t", json!([[24, 24_000_000]])).await;
    ready(&addresses[2]).await;
    let count = async |n: usize, name: &str| {
        let (_, text) = request(&addresses[n], "GET", "/metrics", "").await.expect("an answer");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("base_ha_{name}_total ")));
        line.and_then(|number| number.parse::<u64>().ok()).expect("a number")
    };
    assert!(count(2, "snapshots_installed").await >= 1);
    assert!(count(0, "snapshots_sent").await + count(1, "snapshots_sent").await >= 1);
    // And it goes on with the log.
    assert_eq!(sql(&addresses[2], "/query", "INSERT INTO t VALUES (100, x'00')").await.0, 200);
    for address in &addresses {
        until_rows(address, "SELECT count(*) FROM t", json!([[25]])).await;
    }
    for node in nodes.into_iter().flatten() {
        node.stop().await;
    }
    // Nothing unfinished is left.
    for n in 0..3 {
        let left = std::fs::read_dir(dir.path().join(format!("node-{n}/tmp"))).expect("a directory");
        let left: Vec<_> = left.map(|e| e.expect("an entry").file_name()).collect();
        assert!(left.is_empty(), "node {n}: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_and_a_witness_survive_the_loss_of_a_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(3).await;
    let seat = |n: usize| {
        let mut config = config(n, &addresses, dir.path());
        config.core.witness = n == 2;
        config
    };
    let mut nodes: Vec<Option<Running>> = (0..3).map(|n| Some(start(seat(n)))).collect();
    for address in &addresses[..2] {
        ready(address).await;
    }
    assert_eq!(sql(&addresses[0], "/query", "CREATE TABLE t(a)").await.0, 200);
    // It has nothing of its own to read, and passes on what others have.
    let (code, answer) = sql(&addresses[2], "/query?level=local", "SELECT count(*) FROM t").await;
    assert!(code >= 400, "{answer}");
    let (code, answer) = sql(&addresses[2], "/query", "SELECT count(*) FROM t").await;
    assert_eq!((code, &answer["rows"]), (200, &json!([[0]])));
    nodes[0].take().expect("running").stop().await;
    let (code, answer) = sql(&addresses[1], "/query", "INSERT INTO t VALUES (1)").await;
    assert_eq!(code, 200, "{answer}");
    for node in nodes.into_iter().flatten() {
        node.stop().await;
    }
    assert!(!dir.path().join("node-2/data.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_plainly() {
    let dir = tempfile::tempdir().expect("a directory");
    let held = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addresses = vec![held.local_addr().expect("bound").to_string()];
    let error = run(RealEnv, config(0, &addresses, dir.path()), std::future::pending()).await.expect_err("refused");
    assert_eq!(error.code, "cannot_listen");
    assert!(error.message.contains(&addresses[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(2).await;
    let mut second = config(0, &addresses[..1], dir.path());
    let mut node = start(second.clone());
    node.ready().await;
    second.http = addresses[1].clone();
    let error = run(RealEnv, second, std::future::pending()).await.expect_err("refused");
    assert_eq!(error.code, "data_dir_locked");
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_is_starting_says_so() {
    use crate::env::Env;
    let mut listener = RealEnv.bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound").to_string();
    let (open, opening) = oneshot::channel();
    let starting = tokio::spawn(async move {
        let result = super::starting::serve_until(&RealEnv, None, &mut listener, opening).await;
        (listener, result)
    });
    assert_eq!(request(&address, "GET", "/healthz", "").await.expect("an answer").0, 200);
    let (status, body) = request(&address, "GET", "/readyz", "").await.expect("an answer");
    assert_eq!(status, 503);
    assert!(body.contains("\"starting\""), "{body}");
    assert_eq!(request(&address, "POST", "/query", "{}").await.expect("an answer").0, 503);
    open.send(()).expect("it waits");
    starting.await.expect("no panic").1.expect("opened");
}
