//! The observer: asks every node for its status, all the time, over links that
//! no fault touches.
//!
//! Decides nothing about a run; the world asks it who writes and whether all
//! have come to rest. What statuses contradict, it notes.

use super::client::Shared;
use super::env::{Machine, SimEnv, lock};
use super::oracle::standing::Standings;
use crate::clock::TrueTime;
use base_ha::http::client::Client as Http;
use base_ha::tls::Dialler;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// What is known of the nodes.
pub struct Board {
    /// Each node's last status, as long as it answers.
    pub status: Vec<Option<Value>>,
    /// When each was asked for it.
    pub asked: Vec<TrueTime>,
    /// The number of each node's process.
    pub lives: Vec<u64>,
    /// What statuses said before, and what contradicts it.
    pub standings: Standings,
}

impl Board {
    /// Nothing is known of `nodes` nodes.
    pub fn new(nodes: usize) -> Self {
        Self {
            status: vec![None; nodes],
            asked: vec![TrueTime(0); nodes],
            lives: vec![1; nodes],
            standings: Standings::default(),
        }
    }

    /// Every status answers a question of `since` or later: what is known is not
    /// from before that.
    pub fn is_fresh(&self, since: TrueTime) -> bool {
        self.asked.iter().all(|asked| *asked >= since)
    }

    /// The node that says it may write, if one does.
    pub fn writer(&self) -> Option<usize> {
        self.status.iter().position(|status| status.as_ref().is_some_and(|s| s["writable"] == true))
    }
}

/// How often each node is asked.
const EVERY: Duration = Duration::from_millis(50);

/// Asks node `index` until the run ends.
pub async fn watch(index: usize, machine: Arc<Machine>, shared: Arc<Shared>, board: Arc<Mutex<Board>>) {
    let http = Http::new(Dialler::new(SimEnv::new(machine.clone()), None));
    loop {
        sleep(EVERY).await;
        let asked = machine.true_now();
        let life = lock(&board).lives[index];
        let request = Request::get("/_ha/status")
            .header("authorization", format!("Bearer {}", shared.token))
            .body(Full::new(Bytes::new()))
            .expect("legal headers");
        let asking = async {
            let response = http.request(&shared.nodes[index], request).await.ok()?;
            if response.status() != 200 {
                return None;
            }
            let body = response.into_body().collect().await.ok()?.to_bytes();
            serde_json::from_slice::<Value>(&body).ok()
        };
        let status = timeout(Duration::from_millis(500), asking).await.ok().flatten();
        let mut board = lock(&board);
        // Asked of one process and heard in the life of another: whose it is
        // cannot be told.
        if let Some(status) = status.as_ref().filter(|_| board.lives[index] == life) {
            board.standings.heard(index, status);
        }
        board.status[index] = status;
        board.asked[index] = asked;
    }
}

/// Gives an order through `node`; its outcome is for the counts.
pub async fn order(
    machine: Arc<Machine>,
    shared: Arc<Shared>,
    node: usize,
    method: &'static str,
    path: String,
    body: String,
    what: &'static str,
) {
    let http = Http::new(Dialler::new(SimEnv::new(machine.clone()), None));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {}", shared.token))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .expect("legal headers");
    let answer = timeout(Duration::from_secs(40), http.request(&shared.nodes[node], request)).await;
    let status = match answer {
        Ok(Ok(response)) => response.status().as_u16(),
        Ok(Err(_)) | Err(_) => 0,
    };
    let recorder = machine.recorder();
    recorder.line(machine.true_now(), &machine.name, format_args!("order {what}: {status}"));
    recorder.count(&format!("order_{what}{}", if status == 200 { "" } else { "_refused" }));
}
