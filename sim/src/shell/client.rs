//! A client: real HTTP, over the shell's own client, from a host of its own.
//!
//! Decides what it does next and what an answer means for what it knows. It
//! believes what the README promises, no more: 4xx and 503 are certainly not
//! done, 504 and silence are unknown, 200 is done.

use super::env::{Machine, SimEnv, lock};
use super::history::{Fork, ForkCode, History, Level, Op, OpId, Outcome, Param, Seen, Sql, Step};
use super::mutant::Mutant;
use super::plan::ShellWorkloadPlan;
use super::record::Recorder;
use super::schema;
use crate::clock::TrueTime;
use crate::prng::Prng;
use base_ha::http::client::Client as Http;
use base_ha::tls::Dialler;
use base_ha::token::{Keys, Presented};
use base_ha_core::ids::Url;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// What all clients share.
pub struct Shared {
    /// The record.
    pub history: Mutex<History>,
    /// The tables are there.
    pub set_up: AtomicBool,
    /// No new act begins.
    pub stop: AtomicBool,
    /// Clients that have ended.
    pub ended: AtomicUsize,
    /// Opens tokens.
    pub keys: Keys,
    /// What clients show.
    pub token: String,
    /// Where nodes are.
    pub nodes: Vec<Url>,
    /// Who was named the writer of each term, by any answer's headers.
    pub leaders: Mutex<BTreeMap<u64, String>>,
    /// What was said that no node may say: a property's name and the detail.
    pub broken: Mutex<Option<(&'static str, String)>>,
}

impl Shared {
    /// An answer contradicts what is promised of every answer.
    fn breaks(&self, property: &'static str, detail: String) {
        lock(&self.broken).get_or_insert((property, detail));
    }

    /// O1: an answer's headers name the writer of a term, the same everywhere.
    fn named(&self, leader: Option<&str>, term: Option<&str>) {
        let (Some(leader), Some(term)) = (leader, term.and_then(|term| term.parse().ok())) else { return };
        let mut leaders = lock(&self.leaders);
        let known = leaders.entry(term).or_insert_with(|| leader.to_owned());
        if known != leader {
            let detail = format!("{known} and {leader} are both named the writer of term {term}");
            self.breaks("O1 one writer a term", detail);
        }
    }
}

/// An answer.
struct Answer {
    status: u16,
    body: Value,
    /// Its token's position.
    seq: Option<u64>,
    /// Its token, to be presented again.
    token: Option<String>,
    request_id: Option<String>,
    replayed: bool,
}

/// Why there is none.
enum Silence {
    /// It certainly was not sent.
    Unsent,
    /// It may have been carried out.
    Sent,
}

/// One client.
pub struct Client {
    index: usize,
    shared: Arc<Shared>,
    machine: Arc<Machine>,
    http: Http<SimEnv>,
    prng: Prng,
    plan: ShellWorkloadPlan,
    recorder: Recorder,
    /// The latest token that it was given.
    session: Option<Held>,
}

/// A token that a client keeps.
struct Held {
    token: String,
    /// Its position.
    seq: u64,
    /// The write whose acknowledgement brought it; none if a read did that saw
    /// later rows.
    from: Option<OpId>,
}

/// How often a write is sent.
const TRIES: u32 = 6;

impl Client {
    /// A client on `machine` whose acts follow from `seed`.
    pub fn new(index: usize, machine: Arc<Machine>, seed: u64, plan: ShellWorkloadPlan, shared: Arc<Shared>) -> Self {
        Self {
            index,
            http: Http::new(Dialler::new(SimEnv::new(machine.clone()), None)),
            prng: Prng::named(seed, &format!("client {index}")),
            recorder: machine.recorder().clone(),
            shared,
            machine,
            plan,
            session: None,
        }
    }

    /// Acts until told to stop.
    pub async fn run(mut self) {
        if self.index == 0 {
            self.set_up().await;
        }
        while !self.shared.stop.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(self.prng.within(1..=self.plan.pause_ms_max))).await;
            if !self.shared.set_up.load(Ordering::Relaxed) || self.shared.stop.load(Ordering::Relaxed) {
                continue;
            }
            if self.prng.chance(self.plan.read_pm) {
                self.read().await;
            } else {
                self.write().await;
            }
        }
        self.shared.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> TrueTime {
        self.machine.true_now()
    }

    /// Makes the tables, however long it takes: one request under one key.
    async fn set_up(&mut self) {
        let now = self.now();
        let statements = schema::set_up();
        let op = Op {
            id: 0,
            client: 0,
            statements: statements.clone(),
            register: None,
            durable: true,
            started: now,
            ended: now,
            outcome: Outcome::Open,
        };
        lock(&self.shared.history).ops.push(op);
        loop {
            let node = self.prng.index(self.shared.nodes.len());
            let request = self.write_request(&statements, Some("the set-up"), None);
            if let Ok(answer) = self.send(node, request, Duration::from_secs(5)).await
                && answer.status == 200
            {
                self.acked(0, &answer);
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        self.shared.set_up.store(true, Ordering::Relaxed);
    }

    async fn write(&mut self) {
        let now = self.now();
        let (id, work) = {
            let mut history = lock(&self.shared.history);
            let id = history.ops.len() as OpId;
            let work = schema::draw(id, &mut self.prng, self.plan.ddl_pm, self.plan.body_bytes_max);
            (id, {
                let ack = self.prng.below(1000) as u32;
                let pm = self.plan.ack_pm;
                let level = if ack < pm {
                    Some("local")
                } else if ack < 2 * pm {
                    Some("all")
                } else {
                    None
                };
                history.ops.push(Op {
                    id,
                    client: self.index,
                    statements: work.statements.clone(),
                    register: work.register,
                    durable: level != Some("local"),
                    started: now,
                    ended: now,
                    outcome: Outcome::Open,
                });
                (work, level)
            })
        };
        let (work, level) = work;
        let mut key = self.prng.chance(self.plan.key_pm).then(|| format!("op-{id}"));
        let mut uncertain = false;
        let mut code = String::new();
        for attempt in 0..TRIES {
            let node = self.prng.index(self.shared.nodes.len());
            let limit = Duration::from_millis(self.prng.within(300..=9_000));
            let request = self.write_request(&work.statements, key.as_deref(), level);
            let came = self.send(node, request, limit).await;
            self.recorder.line(
                self.now(),
                &self.machine.name,
                format_args!(
                    "op {id} ({}) at node {node}, key {key:?}, within {limit:?}: {}",
                    work.kind,
                    match &came {
                        Ok(answer) => format!("{} {}", answer.status, answer.body["code"]),
                        Err(Silence::Unsent) => "not sent".to_owned(),
                        Err(Silence::Sent) => "silence".to_owned(),
                    }
                ),
            );
            match came {
                Ok(answer) => {
                    let said = answer.body["code"].as_str().unwrap_or_default().to_owned();
                    match answer.status {
                        200 => {
                            self.recorder.count(work.kind);
                            if attempt > 0 {
                                self.recorder.count("write_acked_when_repeated");
                            }
                            if answer.replayed {
                                self.recorder.count("write_answered_again");
                            }
                            self.acked(id, &answer);
                            return;
                        }
                        504 if answer.body["data"]["committed"] == json!(true) => {
                            self.recorder.count("write_committed_not_on_all");
                            self.acked(id, &answer);
                            return;
                        }
                        504 => {
                            self.recorder.count("write_unknown_504");
                            uncertain = true;
                            // Its own id names it, if the client gave it no key.
                            key = key.or(answer.request_id);
                        }
                        503 => {
                            self.recorder.count("write_refused_503");
                            code = said;
                        }
                        400..=499 => {
                            self.recorder.count("write_refused_4xx");
                            if !matches!(answer.status, 409 | 408 | 421) {
                                let what = format!("op {id} was answered {} {}", answer.status, answer.body);
                                self.shared.breaks("answers are of the kinds that requests deserve", what);
                            }
                            code = said;
                            break;
                        }
                        other => {
                            let what = format!("op {id} was answered {other} {}", answer.body);
                            self.shared.breaks("answers are of the kinds that requests deserve", what);
                            uncertain = true;
                        }
                    }
                }
                Err(Silence::Unsent) => code = "unsent".to_owned(),
                Err(Silence::Sent) => {
                    self.recorder.count("write_unanswered");
                    uncertain = true;
                }
            }
            // Sent twice without a key it may be done twice: then its client
            // must live with not knowing.
            if uncertain && key.is_none() {
                break;
            }
            sleep(Duration::from_millis(self.prng.within(20..=500))).await;
        }
        let outcome = if uncertain { Outcome::Unknown } else { Outcome::NotDone { code } };
        self.recorder.count(if uncertain { "write_unknown" } else { "write_not_done" });
        self.close(id, outcome);
    }

    fn close(&mut self, id: OpId, outcome: Outcome) {
        self.recorder.line(self.now(), &self.machine.name, format_args!("op {id}: {outcome:?}"));
        let now = self.now();
        let mut history = lock(&self.shared.history);
        let op = &mut history.ops[id as usize];
        op.ended = now;
        op.outcome = outcome;
    }

    fn acked(&mut self, id: OpId, answer: &Answer) {
        let Some(seq) = answer.seq else {
            self.shared.breaks("every answer carries a token", format!("op {id} was answered without one"));
            return;
        };
        self.keep(answer, Some(id));
        self.close(id, Outcome::Acked { seq });
        lock(&self.shared.history).step(self.index, Step::Wrote(id as usize));
    }

    /// Keeps the answer's token if it is later than the one that is kept. A
    /// read that saw nothing later gives back the token that it was shown: that
    /// one comes from where it came from.
    fn keep(&mut self, answer: &Answer, wrote: Option<OpId>) {
        let (Some(token), Some(seq)) = (&answer.token, answer.seq) else { return };
        let from = match &self.session {
            Some(held) if held.seq > seq => return,
            Some(held) if held.seq == seq => wrote.or(held.from),
            Some(_) | None => wrote,
        };
        self.session = Some(Held { token: token.clone(), seq, from });
    }

    async fn read(&mut self) {
        let level = match self.prng.below(10) {
            0..=2 => Level::Local,
            3..=6 => Level::Session,
            _ => Level::Linearizable,
        };
        let register = self.prng.within(1..=schema::REGISTERS as u64) as i64;
        let node = self.prng.index(self.shared.nodes.len());
        let started = self.now();
        let presented = self.session.as_ref().map_or(0, |held| held.seq);
        let body = statement(&schema::read(register));
        let uri = format!("/query?level={}", level.name());
        let mut request = Request::post(uri).header("content-type", "application/json");
        if let Some(held) = &self.session {
            request = request.header("x-base-txseq", &held.token);
        }
        let request = self.finish(request, body.to_string());
        let answer = match self.send(node, request, Duration::from_secs(6)).await {
            Ok(answer) => answer,
            Err(_) => return self.recorder.count("read_unanswered"),
        };
        if answer.status != 200 {
            self.recorder.count(&format!("read_refused_{}", answer.status));
            let fork = match answer.body["code"].as_str() {
                Some("session_forked") => Some(ForkCode::Forked),
                Some("token_ahead") => Some(ForkCode::Ahead),
                _ => None,
            };
            if let Some(code) = fork.filter(|_| answer.status == 409) {
                return self.forked(code, presented);
            }
            // No table yet at a node that is behind its session's start.
            let early = answer.status == 400 && level == Level::Local;
            if !early && !matches!(answer.status, 503 | 504 | 408 | 421) {
                let what =
                    format!("a {} read at node {node} was answered {} {}", level.name(), answer.status, answer.body);
                self.shared.breaks("answers are of the kinds that requests deserve", what);
            }
            return;
        }
        let row = &answer.body["rows"][0];
        let number = |at: usize| row[at].as_i64();
        let (Some(op), Some(last), Some(rows), Some(sum), Some(seq)) =
            (number(0), number(1), number(2), number(3), answer.seq)
        else {
            return self.shared.breaks("an answer means what it says", format!("a read was answered {}", answer.body));
        };
        self.recorder.count(&format!("read_{}", level.name()));
        self.keep(&answer, None);
        let ended = self.now();
        self.recorder.line(
            ended,
            &self.machine.name,
            format_args!(
                "read {} at node {node}: register {register} of op {op}, last {last}, seq {seq}",
                level.name()
            ),
        );
        let seen = Seen { client: self.index, level, presented, started, ended, seq, register, op, last, rows, sum };
        let mut history = lock(&self.shared.history);
        history.reads.push(seen);
        let at = history.reads.len() - 1;
        history.step(self.index, Step::Read(at));
    }

    /// Told that its session is of another history, it begins a new one. Whether
    /// that was true is known when the run has ended.
    fn forked(&mut self, code: ForkCode, presented: u64) {
        let at = self.now();
        self.recorder.line(at, &self.machine.name, format_args!("{code:?} at position {presented}"));
        self.recorder.count("session_forked");
        let from = self.session.take().and_then(|held| held.from);
        let mut history = lock(&self.shared.history);
        history.forks.push(Fork { client: self.index, code, presented, from, at });
        history.step(self.index, Step::Anew);
    }

    fn write_request(&self, statements: &[Sql], key: Option<&str>, ack: Option<&str>) -> Request<Full<Bytes>> {
        let body = match statements {
            [one] => statement(one),
            many => Value::Array(many.iter().map(statement).collect()),
        };
        let mut request = Request::post("/query").header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let ack = if self.machine.mutant() == Some(Mutant::AnsweredBeforeMajority) { Some("local") } else { ack };
        if let Some(ack) = ack {
            request = request.header("x-base-ack", ack);
        }
        // No token: the answer's would be the later of the two, and what is
        // wanted of it is the write's own position.
        self.finish(request, body.to_string())
    }

    fn finish(&self, request: hyper::http::request::Builder, body: String) -> Request<Full<Bytes>> {
        request
            .header("authorization", format!("Bearer {}", self.shared.token))
            .body(Full::new(Bytes::from(body)))
            .expect("legal headers")
    }

    async fn send(&self, node: usize, request: Request<Full<Bytes>>, limit: Duration) -> Result<Answer, Silence> {
        let url = &self.shared.nodes[node];
        let asking = async {
            let response = self.http.request(url, request).await.map_err(|error| match error.sent {
                true => Silence::Sent,
                false => Silence::Unsent,
            })?;
            let (head, body) = response.into_parts();
            // An answer that breaks off says nothing: its head may be of a
            // request that was done.
            let body = body.collect().await.map_err(|_| Silence::Sent)?.to_bytes();
            let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            self.shared.named(text("x-base-leader").as_deref(), text("x-base-term").as_deref());
            let token = text("x-base-txseq");
            let seq = token.as_ref().and_then(|token| match self.shared.keys.open(token) {
                Ok(Presented::Sealed(token)) => token.positions.values().next().map(|seq| seq.0),
                Ok(Presented::Bare(_)) | Err(_) => {
                    self.shared.breaks("tokens are sealed by the cluster", format!("{token:?} is not"));
                    None
                }
            });
            Ok(Answer {
                status: head.status.as_u16(),
                body: serde_json::from_slice(&body).unwrap_or(Value::Null),
                seq,
                token,
                request_id: text("x-base-request-id"),
                replayed: head.headers.contains_key("idempotency-replayed"),
            })
        };
        match timeout(limit, asking).await {
            Ok(result) => result,
            Err(_) => Err(Silence::Sent),
        }
    }
}

/// A statement as a request's body has it.
fn statement(sql: &Sql) -> Value {
    let params: Vec<Value> = sql
        .params
        .iter()
        .map(|param| match param {
            Param::Int(n) => json!(n),
            Param::Text(text) => json!(text),
        })
        .collect();
    json!({ "sql": sql.text, "params": params })
}
