//! Clients that write without pause and keep account of what they were told.
//!
//! Decides what may be repeated and what must be in the data at the end. Every
//! write carries an `Idempotency-Key`; an unknown outcome is repeated under
//! the same key until it is known, so that at the end each numbered row must
//! be there exactly once, and the shared counter must equal the number of
//! increments, whatever happened to the nodes.

use base_ha::cli::client::Client;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The tables that the clients write.
pub const SCHEMA: &str = "CREATE TABLE numbered(client INTEGER NOT NULL, n INTEGER NOT NULL);
    CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
    INSERT INTO counter VALUES(1, 0);";

/// What all clients together were told.
#[derive(Default)]
pub struct Tally {
    /// Writes acknowledged by 200.
    pub acked: AtomicU64,
    /// Answers "certainly not done": 503 and refused connections.
    pub refused: AtomicU64,
    /// Answers, or missing answers, that say nothing.
    pub unknown: AtomicU64,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<u64>>,
}

impl Load {
    /// Sets `clients` clients to work at these nodes, each at one after the
    /// other.
    pub fn start(urls: &[String], clients: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Tally::default());
        let clients = (0..clients)
            .map(|client| {
                let nodes: Vec<Client> = urls
                    .iter()
                    .map(|url| Client::new(url).expect("a legal URL").with_timeout(Duration::from_secs(20)))
                    .collect();
                let (stop, tally) = (stop.clone(), tally.clone());
                std::thread::spawn(move || work(client, &nodes, &stop, &tally))
            })
            .collect();
        Self { stop, tally, clients }
    }

    /// What the clients were told so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How many writes were acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.tally.acked.load(Ordering::Relaxed)
    }

    /// Stops the clients once each has got an answer to its last write, and
    /// says how many rows each wrote.
    ///
    /// # Panics
    /// If a client was told something that must not happen.
    pub fn finish(self) -> (Vec<u64>, Arc<Tally>) {
        self.stop.store(true, Ordering::Release);
        let written = self.clients.into_iter().map(|client| client.join().expect("a client that was told no nonsense"));
        (written.collect(), self.tally)
    }
}

fn work(client: u64, nodes: &[Client], stop: &AtomicBool, tally: &Tally) -> u64 {
    let mut n = 0;
    let mut at = client as usize;
    while !stop.load(Ordering::Acquire) {
        n += 1;
        let row = json!([
            {"sql": "INSERT INTO numbered VALUES(?1, ?2)", "params": [client, n]},
            {"sql": "UPDATE counter SET n = n + 1 WHERE id = 1"},
        ]);
        at = write(&format!("row-{client}-{n}"), &row, nodes, at, tally) + 1;
    }
    n
}

/// Repeats one write until it is acknowledged; answers which node did.
fn write(key: &str, body: &Value, nodes: &[Client], mut at: usize, tally: &Tally) -> usize {
    let body = body.to_string();
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let node = &nodes[at % nodes.len()];
        match node.request("POST", "/query", &headers, body.as_bytes()) {
            Ok(answer) if answer.status == 200 => {
                tally.acked.fetch_add(1, Ordering::Relaxed);
                return at;
            }
            Ok(answer) if matches!(answer.status, 503 | 421) => tally.refused.fetch_add(1, Ordering::Relaxed),
            Ok(answer) if answer.status == 504 => tally.unknown.fetch_add(1, Ordering::Relaxed),
            Ok(answer) => panic!("{}: {key}: HTTP {}: {}", node.url(), answer.status, answer.text()),
            Err(base_ha::cli::client::ClientError::Unreachable(..)) => tally.refused.fetch_add(1, Ordering::Relaxed),
            Err(_) => tally.unknown.fetch_add(1, Ordering::Relaxed),
        };
        assert!(Instant::now() < until, "{key} was not acknowledged within a minute");
        at += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Compares what must be there with what is: `written` rows of each client,
/// each once, and a counter of their sum.
///
/// # Panics
/// If a row is missing or there twice, or the counter differs.
#[track_caller]
pub fn audit(written: &[u64], rows: &Value, counter: &Value) {
    let total: u64 = written.iter().sum();
    let mut expected: Vec<Value> = Vec::new();
    for (client, count) in written.iter().enumerate() {
        // client, rows, distinct rows, highest
        if *count > 0 {
            expected.push(json!([client, count, count, count]));
        }
    }
    assert_eq!(*rows, Value::Array(expected), "rows by client: [client, rows, distinct rows, highest]");
    assert_eq!(*counter, json!([[total]]), "each acknowledged increment counts once");
}

/// The query whose rows [`audit`] expects.
pub const ROWS: &str =
    "SELECT client, count(*), count(DISTINCT n), max(n) FROM numbered GROUP BY client ORDER BY client";
/// The query whose rows [`audit`] expects as the counter.
pub const COUNTER: &str = "SELECT n FROM counter WHERE id = 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_accepts_what_is_right() {
        audit(&[2, 0, 1], &json!([[0, 2, 2, 2], [2, 1, 1, 1]]), &json!([[3]]));
    }

    #[test]
    #[should_panic(expected = "rows by client")]
    fn the_audit_rejects_a_lost_row() {
        audit(&[2], &json!([[0, 1, 1, 2]]), &json!([[2]]));
    }

    #[test]
    #[should_panic(expected = "rows by client")]
    fn the_audit_rejects_a_row_that_is_there_twice() {
        audit(&[2], &json!([[0, 3, 2, 2]]), &json!([[2]]));
    }

    #[test]
    #[should_panic(expected = "counts once")]
    fn the_audit_rejects_a_lost_increment() {
        audit(&[2], &json!([[0, 2, 2, 2]]), &json!([[1]]));
    }
}
