//! Whole nodes in one process, over real sockets and disks.

use super::run;
use crate::config::{Config, Secret};
use crate::env::real::RealEnv;
use crate::error::ApiError;
use base_ha_core::ids::{NodeId, Url};
use serde_json::{Value, json};
use std::path::Path;
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

/// Addresses that nobody uses.
async fn addresses(n: usize) -> Vec<String> {
    let mut held = Vec::new();
    for _ in 0..n {
        held.push(TcpListener::bind("127.0.0.1:0").await.expect("bind"));
    }
    held.iter().map(|l| l.local_addr().expect("bound").to_string()).collect()
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
            let (_, answer) = sql(address, "/query?level=local", query).await;
            if answer["rows"] == wanted {
                return;
            }
            last = answer;
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
    let node = start(config(0, &addresses, dir.path()));
    ready(&node.address).await;
    assert_eq!(sql(&node.address, "/query", "CREATE TABLE t(a)").await.0, 200);
    assert_eq!(sql(&node.address, "/query", "INSERT INTO t VALUES (1), (2)").await.0, 200);
    node.stop().await;
    let node = start(config(0, &addresses, dir.path()));
    ready(&node.address).await;
    let (status, answer) = sql(&node.address, "/query", "SELECT a FROM t ORDER BY a").await;
    assert_eq!((status, &answer["rows"]), (200, &json!([[1], [2]])));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_converge() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(3).await;
    let nodes: Vec<Running> = (0..3).map(|n| start(config(n, &addresses, dir.path()))).collect();
    for node in &nodes {
        ready(&node.address).await;
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
