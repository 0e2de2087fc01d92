//! Nodes whose store and loop do what a test says.

use crate::api::{NodeEvent, StoreJob, Turn, View, WriteAnswer, WriteError, WriteRequest};
use crate::api::{Rejected, Statement};
use crate::app::{App, NodeHandle};
use crate::config::{Config, Secret};
use crate::env::real::RealEnv;
use crate::env::{Env, WorkerHandle};
use crate::error::ApiError;
use crate::http::{Body, Later, PeerEndpoint, Sql, State, serve};
use crate::metrics::Stats;
use crate::store::backup::{Contents, Copied, TempFile};
use crate::store::classify::Class;
use crate::store::read::{ReadAnswer, ReadError, ReadRequest};
use crate::tls::Dialler;
use crate::token::Presented;
use base_ha_core::ids::{
    BootNonce, ClusterId, ConfigVersion, Hash, Incarnation, Lineage, NodeId, Seq, StreamId, Term, Url,
};
use base_ha_core::io::{AdminCommand, AdminOutcome, Part, PeerStatus, Pin, Refusal, Status};
use base_ha_core::member::{Member, Membership, QuorumMode, Role};
use base_ha_core::position::Position;
use base_ha_core::token::Token;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

/// Longer than anything here may take: what would hang fails instead.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const CLUSTER: ClusterId = ClusterId(0xc1);

/// What the store does with a write.
#[derive(Clone, Debug)]
pub(super) enum Script {
    /// Commits it.
    Commit,
    /// Commits it; not every voter ever confirms.
    CommitNeverAll,
    /// Says that this node does not write.
    Refuse,
    /// Keeps it.
    Keep,
    /// Has no time for it.
    Wait,
    /// Logs it and loses sight of it.
    Lose,
    /// An error of SQL.
    Fail(ApiError),
}

/// What a store was asked to do.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) id: u128,
    pub(super) key: Option<String>,
    pub(super) digest: [u8; 16],
    pub(super) sql: String,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) url: Url,
    pub(super) app: Arc<App<RealEnv>>,
    pub(super) view: watch::Sender<Arc<View>>,
    pub(super) applied: Arc<watch::Sender<Position>>,
    pub(super) script: Arc<Mutex<Script>>,
    pub(super) writes: Arc<Mutex<Vec<Seen>>>,
    /// What waits in the store, with [`Script::Wait`].
    pub(super) waiting: Arc<Mutex<Vec<Arc<Turn>>>>,
    pub(super) orders: Arc<Mutex<Vec<AdminCommand>>>,
    pub(super) outcome: Arc<Mutex<AdminOutcome>>,
    pub(super) read_index: Arc<Mutex<Result<Seq, Refusal>>>,
    pub(super) data: Arc<Data>,
    pub(super) shutdown: watch::Sender<bool>,
    pub(super) served: tokio::task::JoinHandle<()>,
    pub(super) dir: tempfile::TempDir,
}

/// The data of a node: its position, and rows of any size.
pub(super) struct Data {
    applied: Arc<watch::Sender<Position>>,
    pub(super) rows: Mutex<Bytes>,
    pub(super) reads: AtomicU64,
    /// The first entry of each term; every token fits if there are none.
    pub(super) terms: Mutex<Vec<(u64, u64)>>,
    /// If set, a read waits for it.
    pub(super) gate: Mutex<Option<Arc<Notify>>>,
}

impl Sql for Data {
    fn classify(&self, statements: &[Statement]) -> Result<Class, ApiError> {
        Ok(match statements[0].sql.split(' ').next() {
            Some("select") => Class::Read,
            Some("nonsense") => Class::Refused(ApiError::new(400, "bad_sql", "that is no SQL")),
            _ => Class::Write,
        })
    }

    fn contains(&self, seq: Seq, term: Term) -> Result<bool, ApiError> {
        let terms = self.terms.lock().unwrap();
        let made = terms.iter().rfind(|(first, _)| *first <= seq.0);
        Ok(seq > self.applied.borrow().seq || made.is_none_or(|(_, made)| *made == term.0))
    }

    fn run(&self, request: ReadRequest) -> Later<'_, Result<ReadAnswer, ReadError>> {
        Box::pin(async move {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let position = *self.applied.borrow();
            if let Some((seq, term)) = request.seen
                && !self.contains(seq, term)?
            {
                return Err(ReadError::Forked);
            }
            let gate = self.gate.lock().unwrap().clone();
            if let Some(gate) = gate {
                gate.notified().await;
            }
            Ok(ReadAnswer { body: self.rows.lock().unwrap().clone(), position })
        })
    }

    fn copy(&self, dir: PathBuf, _: Contents) -> Later<'_, Result<Copied, ApiError>> {
        Box::pin(async move {
            let file = TempFile::create(&crate::env::files::real(), &dir).unwrap();
            let rows = self.rows.lock().unwrap().clone();
            std::fs::write(file.path(), &rows).unwrap();
            let hash = Hash(*blake3::hash(&rows).as_bytes());
            Ok(Copied { file, position: *self.applied.borrow(), bytes: rows.len() as u64, hash })
        })
    }
}

/// A peer endpoint that says that it was reached.
struct Peers;

impl PeerEndpoint for Peers {
    fn peer(&self, _: Request<Incoming>) -> Later<'static, Response<Body>> {
        Box::pin(async { Response::new(Body::whole("peer")) })
    }

    fn snapshot(&self, _: Request<Incoming>) -> Later<'static, Response<Body>> {
        Box::pin(async { Response::new(Body::whole("snapshot")) })
    }
}

pub(super) fn position(seq: u64, term: u64) -> Position {
    Position { seq: Seq(seq), term: Term(term), ..Position::START }
}

/// A node on a free port. `set` changes its settings.
pub(super) async fn node(id: &str, set: impl FnOnce(&mut Config)) -> Node {
    node_with(id, set, |_| None).await
}

/// A node whose data is `real`, if that gives any for its directory.
pub(super) async fn node_with(
    id: &str,
    set: impl FnOnce(&mut Config),
    real: impl FnOnce(&Path) -> Option<Arc<dyn Sql>>,
) -> Node {
    let env = RealEnv;
    let listener = env.bind("127.0.0.1:0").await.unwrap();
    let http = env.local_address(&listener).unwrap().to_string();
    let (id, url) = (NodeId::new(id).unwrap(), Url::new(&format!("http://{http}")));
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(id.clone(), url.clone(), vec![], http, dir.path().to_owned());
    config.cluster_secrets = vec![Secret::new("the cluster's secret")];
    config.limits.wait_timeout = Duration::from_millis(400);
    config.limits.ack_timeout = Duration::from_millis(600);
    config.limits.statement_timeout = Duration::from_millis(300);
    set(&mut config);

    let (view, seen_view) = watch::channel(Arc::new(View::default()));
    let (applied, seen_applied) = watch::channel(position(0, 0));
    let applied = Arc::new(applied);
    let data = Arc::new(Data {
        applied: applied.clone(),
        rows: Mutex::new(Bytes::from_static(br#"{"columns":["x"],"rows":[[1]]}"#)),
        reads: AtomicU64::new(0),
        terms: Mutex::new(Vec::new()),
        gate: Mutex::new(None),
    });
    let script = Arc::new(Mutex::new(Script::Commit));
    let writes = Arc::new(Mutex::new(Vec::new()));
    let orders = Arc::new(Mutex::new(Vec::new()));
    let outcome = Arc::new(Mutex::new(AdminOutcome::Done));
    let read_index = Arc::new(Mutex::new(Ok(Seq(0))));
    let waiting = Arc::new(Mutex::new(Vec::new()));
    let store = store(script.clone(), writes.clone(), waiting.clone(), applied.clone(), seen_view.clone());
    let node = node_loop(orders.clone(), outcome.clone(), read_index.clone(), seen_view.clone());
    let app = Arc::new(App {
        env,
        http: State::new(Dialler::new(env, None), &config, [3; 32]),
        config: Arc::new(config),
        view: seen_view,
        applied: seen_applied,
        node,
        store,
        log: WorkerHandle::new(Err),
        sql: real(dir.path()).unwrap_or_else(|| data.clone()),
        peer: Arc::new(Peers),
        stats: Arc::new(Stats::default()),
    });
    let (shutdown, stop) = watch::channel(false);
    let served = tokio::spawn(serve(app.clone(), listener, stop));
    Node {
        id,
        url,
        app,
        view,
        applied,
        script,
        writes,
        waiting,
        orders,
        outcome,
        read_index,
        data,
        shutdown,
        served,
        dir,
    }
}

fn store(
    script: Arc<Mutex<Script>>,
    writes: Arc<Mutex<Vec<Seen>>>,
    waiting: Arc<Mutex<Vec<Arc<Turn>>>>,
    applied: Arc<watch::Sender<Position>>,
    view: watch::Receiver<Arc<View>>,
) -> WorkerHandle<StoreJob> {
    let (send, mut jobs) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(job) = jobs.recv().await {
            let StoreJob::Write(request) = job else { continue };
            let WriteRequest { id, idempotency_key, body_digest, statements, reply, turn, .. } = request;
            let sql = statements[0].sql.clone();
            writes.lock().unwrap().push(Seen { id: id.0, key: idempotency_key, digest: body_digest, sql });
            let script = script.lock().unwrap().clone();
            if matches!(script, Script::Wait) {
                waiting.lock().unwrap().push(turn);
            } else {
                assert!(turn.take(), "given up before its turn");
            }
            let term = view.borrow().pin.term;
            let commit = || {
                let seq = applied.borrow().seq.next();
                let position = Position { seq, term, ..Position::START };
                applied.send_replace(position);
                WriteAnswer { body: format!("[1,{seq}]").into(), position, replayed: false, all: None }
            };
            let refusal = Refusal::NotWriter { writer: None, term };
            let result = match script {
                Script::Commit => Ok(commit()),
                Script::CommitNeverAll => {
                    let (never, all) = tokio::sync::oneshot::channel();
                    let answer = WriteAnswer { all: Some(all), ..commit() };
                    std::mem::forget(never);
                    Ok(answer)
                }
                Script::Refuse => Err(WriteError::Refused(refusal, Box::new(Rejected { statements }))),
                Script::Keep | Script::Wait => {
                    kept.push(reply);
                    continue;
                }
                Script::Lose => Err(WriteError::Unknown),
                Script::Fail(error) => Err(WriteError::Sql(error)),
            };
            let _ = reply.send(result);
        }
    });
    // A store never ends before its node does.
    worker(send)
}

/// Sends jobs to a task.
fn worker<J: Send + 'static>(send: mpsc::UnboundedSender<J>) -> WorkerHandle<J> {
    WorkerHandle::new(move |job| send.send(job).map_err(|error| error.0))
}

fn node_loop(
    orders: Arc<Mutex<Vec<AdminCommand>>>,
    outcome: Arc<Mutex<AdminOutcome>>,
    read_index: Arc<Mutex<Result<Seq, Refusal>>>,
    view: watch::Receiver<Arc<View>>,
) -> NodeHandle {
    let (send, mut events) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event {
                NodeEvent::ReadIndex { reply } => {
                    let _ = reply.send(read_index.lock().unwrap().clone());
                }
                // Whoever publishes here is the loop: it has answered once
                // it has said something of now.
                NodeEvent::Renew { reply } => {
                    let mut views = view.clone();
                    tokio::spawn(async move {
                        let is_new = |view: &Arc<View>| {
                            view.status.is_none() || RealEnv.now().mono.since(view.taken) < Duration::from_secs(30)
                        };
                        if views.wait_for(is_new).await.is_ok() {
                            let _ = reply.send(());
                        }
                    });
                }
                NodeEvent::Admin { command, reply } => {
                    orders.lock().unwrap().push(command);
                    let _ = reply.send(outcome.lock().unwrap().clone());
                }
                _ => (),
            }
        }
    });
    NodeHandle::new(send)
}

impl Node {
    /// Publishes what this node believes: who writes in `term`, among `all`.
    pub(super) fn believes(&self, writer: Option<&Node>, term: u64, all: &[&Node]) {
        let writable = writer.is_some_and(|writer| writer.id == self.id);
        self.publish(writer.map(|node| (node.id.clone(), node.url.clone())), term, writable, all);
    }

    pub(super) fn publish(&self, writer: Option<(NodeId, Url)>, term: u64, writable: bool, all: &[&Node]) {
        let now = self.app.env.now().mono;
        let pin = Pin { term: Term(term), durable: Term(term), writer, writable };
        let mut nodes: Vec<&Node> = all.to_vec();
        nodes.sort_by(|a, b| a.url.cmp(&b.url));
        let identity = |node: &Node| Some((node.id.clone(), Incarnation(1)));
        let membership = Membership {
            version: ConfigVersion(1),
            cluster: CLUSTER,
            mode: QuorumMode::Majority,
            lineage: Lineage(1),
            members: nodes
                .iter()
                .map(|node| Member { url: node.url.clone(), identity: identity(node), role: Role::Voter, target: None })
                .collect(),
        };
        let peers = nodes
            .iter()
            .map(|node| PeerStatus {
                id: Some(node.id.clone()),
                url: node.url.clone(),
                role: Role::Voter,
                up: true,
                heard: Some(now),
                last: Seq(0),
                applied: Seq(0),
            })
            .collect();
        let commit = self.applied.borrow().seq;
        let status = Status {
            id: self.id.clone(),
            url: self.url.clone(),
            incarnation: Incarnation(1),
            nonce: BootNonce(1),
            cluster: CLUSTER,
            stream: StreamId::SHARED,
            part: if writable { Part::Writer } else { Part::Follower },
            pin: pin.clone(),
            lease_until: None,
            log_first: Seq(1),
            last: *self.applied.borrow(),
            commit,
            applied: commit,
            membership,
            peers,
            unfit: None,
            trimmable: Seq(0),
        };
        let status = Some(Arc::new(status));
        self.view.send_replace(Arc::new(View { pin, commit, status, taken: now, stopping: false }));
    }

    /// Changes the status it believes.
    pub(super) fn status(&self, change: impl FnOnce(&mut View, &mut Status)) {
        let mut view = View::clone(&self.view.borrow());
        let mut status = Status::clone(view.status.as_ref().unwrap());
        change(&mut view, &mut status);
        view.status = Some(Arc::new(status));
        self.view.send_replace(Arc::new(view));
    }

    pub(super) fn address(&self) -> &str {
        self.url.as_str().strip_prefix("http://").unwrap()
    }

    pub(super) fn script(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    pub(super) fn writes(&self) -> Vec<Seen> {
        self.writes.lock().unwrap().clone()
    }

    pub(super) fn reads(&self) -> u64 {
        self.data.reads.load(Ordering::SeqCst)
    }

    /// A token of this cluster.
    pub(super) fn token(&self, seq: u64, change: impl FnOnce(&mut Token)) -> String {
        let positions = [(StreamId::SHARED, Seq(seq))].into();
        let mut token = Token { cluster: CLUSTER, lineage: Lineage(1), term: Term(1), positions };
        change(&mut token);
        self.app.http.tokens.seal(&token).unwrap()
    }

    pub(super) async fn ask(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        timeout(PATIENCE, ask(self.address(), method, uri, headers, body.into())).await.expect("an answer in time")
    }

    pub(super) async fn get(&self, uri: &str) -> Reply {
        self.ask("GET", uri, &[], "").await
    }

    pub(super) async fn query(&self, uri: &str, sql: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask("POST", uri, headers, serde_json::json!({ "sql": sql }).to_string()).await
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// The body, or why it broke off.
    pub(super) body: Result<Bytes, String>,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.body.as_ref().expect("a whole body")
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(self.bytes()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or("").to_owned()
    }

    /// Status and code at once, for telling tables.
    pub(super) fn outcome(&self) -> (u16, String) {
        (self.status, if self.status >= 400 { self.code() } else { String::new() })
    }

    /// The position in its token; header and cookie must say the same.
    pub(super) fn seq(&self, node: &Node) -> u64 {
        let text = self.header("x-base-txseq");
        let cookie = self.header("set-cookie");
        assert_eq!(cookie, format!("_txseq={text}; Path=/; Max-Age=300; HttpOnly; SameSite=Lax"));
        match node.app.http.tokens.open(text) {
            Ok(Presented::Sealed(token)) => token.positions[&StreamId::SHARED].0,
            other => panic!("{text:?} is {other:?}"),
        }
    }
}

async fn ask(address: &str, method: &str, uri: &str, headers: &[(&str, &str)], body: Bytes) -> Reply {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut request = Request::builder().method(method).uri(uri);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", address);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).map_err(|error| format!("{error:?}"));
    Reply { status: head.status.as_u16(), headers: head.headers, body }
}

/// A URL where `behave` meets every connection after its head came in; and how
/// many there were.
pub(super) async fn trap<F>(behave: impl Fn(TcpStream, Vec<u8>) -> F + Send + 'static) -> (Url, Arc<AtomicU64>)
where
    F: Future<Output = ()> + Send + 'static,
{
    use tokio::io::AsyncReadExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::new(&format!("http://{}", listener.local_addr().unwrap()));
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut head = Vec::new();
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap() == 0 {
                    break;
                }
            }
            tokio::spawn(behave(stream, head));
        }
    });
    (url, count)
}
