//! The peers of this node, over HTTP/1.1 upgraded to frames.
//!
//! Decides when to dial, how long to wait before the next attempt, and how many
//! may come in. Each node dials every URL that it is told to send to; answers
//! go back along the connection on which the question came. Peer URLs come
//! from the core, which has them from settings and membership only.

use super::auth::Keyring;
use super::handshake::{self, Identity, Purpose, Refused, Session};
use super::link::{self, Ended, Queue, Timing};
use super::{Bus, BusCounters};
use crate::api::View;
use crate::app::NodeHandle;
use crate::config::Config;
use crate::env::Env;
use crate::error::ApiError;
use crate::http::client::authority;
use crate::metrics::Stats;
use crate::tls::member::{Certificate, Known};
use crate::tls::stream::Shown;
use crate::tls::{Dialler, Tls};
use base_ha_core::ids::{ClusterId, NodeId, Url};
use base_ha_core::io::Route;
use base_ha_core::message::Envelope;
use base_ha_core::time::MonoTime;
use base_ha_core::wire::encode_frame;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

/// What the `Upgrade` header says.
pub const PROTOCOL: &str = "base-ha/1";
/// The path of the frames' connection.
pub const PEER_PATH: &str = "/_ha/peer";
/// Connections that other nodes may have open to this one: several from each
/// of the most members there can be.
const INBOUND_MAX: usize = 256;
/// First wait after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest wait after a failure.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A URL that nothing was sent to for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Bytes of an answer that says why there is no connection.
const REFUSAL_BYTES_MAX: usize = 4 << 10;
/// The same failure is logged again after so long.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// Frames to and from the peers of this node.
pub struct DirectBus<E: Env>(Arc<Inner<E>>);

impl<E: Env> Clone for DirectBus<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<E: Env> {
    env: E,
    dialler: Dialler<E>,
    id: NodeId,
    url: Url,
    seats: Vec<Url>,
    keys: Keyring,
    /// Peers prove the cluster secret; if not, their certificates are all there
    /// is.
    secret: bool,
    /// Who the members are.
    view: watch::Receiver<Arc<View>>,
    timing: Timing,
    node: NodeHandle,
    counters: Arc<BusCounters>,
    inbound_room: Arc<Semaphore>,
    conn_next: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cluster: ClusterId,
    closed: bool,
    /// Whom this node dials.
    peers: BTreeMap<Url, Arc<Peer>>,
    /// Who dialled this node.
    inbound: BTreeMap<u64, Arc<Queue>>,
}

struct Peer {
    url: Url,
    queue: Arc<Queue>,
    /// It seems to be there: do not wait for the next attempt.
    nudge: Notify,
}

impl<E: Env> Bus for DirectBus<E> {
    fn send(&self, route: &Route, envelope: &Envelope) {
        let queue = match route {
            Route::Url(url) => self.peer(url),
            Route::Conn(id) => self.0.lock().inbound.get(id).cloned(),
        };
        let sent = queue.is_some_and(|queue| queue.push(encode_frame(envelope)));
        if !sent {
            self.0.counters.stats.peer.frames_dropped.add(1);
        }
    }

    fn joined(&self, cluster: ClusterId) {
        self.0.lock().cluster = cluster;
    }

    fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        for peer in std::mem::take(&mut state.peers).into_values() {
            peer.queue.close();
            peer.nudge.notify_one();
        }
        for queue in std::mem::take(&mut state.inbound).into_values() {
            queue.close();
        }
    }
}

impl<E: Env> Inner<E> {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn me(&self) -> Identity {
        Identity { id: self.id.clone(), cluster: self.lock().cluster, url: self.url.as_str().to_owned() }
    }

    fn nonce(&self) -> [u8; 32] {
        let mut nonce = [0; 32];
        self.env.entropy(&mut nonce);
        nonce
    }
}

impl<E: Env> DirectBus<E> {
    /// A bus for this node, without connections yet. Frames that come in go to
    /// `node`; `view` says who the members are. Must be used inside a tokio
    /// runtime.
    pub fn new(
        dialler: Dialler<E>,
        config: &Config,
        node: NodeHandle,
        stats: Arc<Stats>,
        view: watch::Receiver<Arc<View>>,
    ) -> Self {
        Self(Arc::new(Inner {
            env: dialler.env().clone(),
            dialler,
            seats: config.core.seats.clone(),
            secret: !config.cluster_secrets.is_empty(),
            view,
            id: config.core.id.clone(),
            url: config.core.url.clone(),
            keys: Keyring::new(&config.cluster_secrets),
            timing: Timing::of_lease(config.core.lease),
            node,
            counters: Arc::new(BusCounters::new(stats)),
            inbound_room: Arc::new(Semaphore::new(INBOUND_MAX)),
            conn_next: AtomicU64::new(1),
            state: Mutex::default(),
        }))
    }

    /// What happened so far.
    pub fn counters(&self) -> Arc<BusCounters> {
        self.0.counters.clone()
    }

    /// The queue of a URL; dials it if nobody does yet. None once closed.
    fn peer(&self, url: &Url) -> Option<Arc<Queue>> {
        let mut state = self.0.lock();
        if state.closed {
            return None;
        }
        if let Some(peer) = state.peers.get(url) {
            return Some(peer.queue.clone());
        }
        let peer = Arc::new(Peer { url: url.clone(), queue: Arc::new(Queue::new()), nudge: Notify::new() });
        state.peers.insert(url.clone(), peer.clone());
        drop(state);
        let queue = peer.queue.clone();
        tokio::spawn(self.clone().keep_dialling(peer));
        Some(queue)
    }

    /// Keeps a connection to one URL for as long as somebody sends to it.
    async fn keep_dialling(self, peer: Arc<Peer>) {
        let mut backoff = BACKOFF_MIN;
        let mut logged: Option<(String, MonoTime)> = None;
        let mut used = (peer.queue.pushed(), self.0.env.now().mono);
        loop {
            let started = self.0.env.now().mono;
            let lost = match self.dial(&peer.url, PEER_PATH, Purpose::Frames).await {
                Ok((stream, session)) => {
                    self.0.counters.connected.add(1);
                    tracing::info!(node = %self.0.id, peer = %session.peer.id, url = %peer.url, "connected to peer");
                    logged = None;
                    let ended = self.serve(stream, session, Route::Url(peer.url.clone()), &peer.queue).await;
                    (ended.to_string(), "the connection to a peer ended")
                }
                Err(reason) => {
                    self.0.counters.dial_failed.add(1);
                    (reason, "a peer is not reached")
                }
            };
            let (reason, what) = lost;
            // Nothing older than this attempt is worth sending later.
            self.0.counters.stats.peer.frames_dropped.add(peer.queue.clear());
            if peer.queue.is_closed() {
                return;
            }
            let now = self.0.env.now().mono;
            let repeated = logged.as_ref().is_some_and(|(r, at)| *r == reason && now.since(*at) < LOG_AGAIN);
            if !repeated {
                tracing::warn!(node = %self.0.id, url = %peer.url, reason, "{what}");
                logged = Some((reason, now));
            }
            let pushed = peer.queue.pushed();
            if pushed != used.0 {
                used = (pushed, now);
            } else if now.since(used.1) > FORGET_AFTER && self.forget(&peer, pushed) {
                return;
            }
            if now.since(started) > Duration::from_secs(1) {
                // It worked for a while: whatever ended it may be over at once.
                backoff = BACKOFF_MIN;
            }
            let _ = timeout(self.jittered(backoff), peer.nudge.notified()).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Forgets a peer unless somebody has sent to it meanwhile.
    fn forget(&self, peer: &Peer, pushed: u64) -> bool {
        let mut state = self.0.lock();
        let unused = peer.queue.pushed() == pushed;
        if unused {
            state.peers.remove(&peer.url);
        }
        unused
    }

    /// Between half of it and all of it: peers that lost each other at the same
    /// moment do not knock at the same moment for ever.
    fn jittered(&self, wait: Duration) -> Duration {
        let mut random = [0; 4];
        self.0.env.entropy(&mut random);
        wait / 2 + (wait / 2).mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
    }

    /// Dials a peer, upgrades the connection and proves who is who.
    ///
    /// # Errors
    /// A text for the log.
    pub async fn dial(&self, url: &Url, path: &str, purpose: Purpose) -> Result<(TokioIo<Upgraded>, Session), String> {
        let dialling = async {
            let address = authority(url).map_err(|bad| format!("{url}: {bad}"))?;
            let stream = self.0.dialler.connect(url).await.map_err(|e| format!("no connection: {e}"))?;
            let mut stream = TokioIo::new(upgrade(stream, address, path).await?);
            let session = handshake::connect(&mut stream, &self.0.keys, &self.0.me(), purpose, self.0.nonce())
                .await
                .map_err(|refused| self.count(refused).to_string())?;
            Ok((stream, session))
        };
        match timeout(self.0.timing.connect_max, dialling).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", self.0.timing.connect_max)),
        }
    }

    /// Takes over a connection that asked for [`PROTOCOL`]: prepares the 101.
    ///
    /// # Errors
    /// [`ApiError`] if this is not such a request, or too many are open.
    pub fn accept_upgrade(&self, request: &mut Request<Incoming>) -> Result<Inbound, ApiError> {
        let wanted = |name| request.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        let upgrade = wanted(UPGRADE).is_some_and(|v| v.eq_ignore_ascii_case(PROTOCOL));
        if !upgrade {
            return Err(ApiError::new(
                426,
                "upgrade_required",
                format!("this address is for other nodes: it needs `Upgrade: {PROTOCOL}`"),
            ));
        }
        let Shown { certificate, modern } = request.extensions().get().cloned().unwrap_or_default();
        if self.is_mutual() && !(certificate.is_some() && modern) {
            self.0.counters.refuse(&self.0.counters.refused_certificate);
            tracing::warn!(node = %self.0.id, "refused a peer connection: it showed no certificate, or not over TLS 1.3");
            let text = "peers show a certificate that the cluster's CA signed, over TLS 1.3: set BASE_TLS_CA there too";
            return Err(ApiError::new(403, "peer_certificate", text));
        }
        let Ok(room) = self.0.inbound_room.clone().try_acquire_owned() else {
            self.0.counters.refuse(&self.0.counters.refused_full);
            tracing::warn!(node = %self.0.id, "refused a peer: too many peer connections");
            return Err(ApiError::new(503, "too_many_peers", "too many peer connections").retry_after(1));
        };
        if self.0.lock().closed {
            return Err(ApiError::new(503, "stopping", "this node is stopping").retry_after(1));
        }
        Ok(Inbound { upgrade: hyper::upgrade::on(request), room, certificate })
    }

    fn is_mutual(&self) -> bool {
        self.0.dialler.tls().is_some_and(Tls::is_mutual)
    }

    /// Whether a certificate speaks for who the other end says it is.
    fn vouch(&self, certificate: Option<&Certificate>, peer: &Identity) -> Result<(), String> {
        if !self.is_mutual() {
            return Ok(());
        }
        let certificate = certificate.ok_or("it showed no certificate")?;
        let view = self.0.view.borrow().clone();
        let membership = view.status.as_ref().map(|status| &status.membership);
        let known = Known { membership, seats: &self.0.seats };
        known.admit(certificate, &peer.id, &Url::new(&peer.url), self.0.secret)
    }

    /// Serves frames on an accepted connection until it ends.
    pub async fn serve_frames(self, inbound: Inbound) {
        let Some((stream, session, _room)) = self.open(inbound, Purpose::Frames).await else { return };
        let id = self.0.conn_next.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::new());
        {
            let mut state = self.0.lock();
            if state.closed {
                return;
            }
            state.inbound.insert(id, queue.clone());
            // Whoever calls from there can be called there.
            if let Some(peer) = state.peers.get(&Url::new(&session.peer.url)) {
                peer.nudge.notify_one();
            }
        }
        let peer = session.peer.id.clone();
        tracing::info!(node = %self.0.id, %peer, url = session.peer.url, "peer connected");
        let ended = self.serve(stream, session, Route::Conn(id), &queue).await;
        self.0.lock().inbound.remove(&id);
        match ended {
            Ended::Closed | Ended::Unused | Ended::Stopping => {
                tracing::debug!(node = %self.0.id, %peer, %ended, "peer gone");
            }
            Ended::Silent | Ended::Truncated | Ended::Seal | Ended::Frame(_) | Ended::Sender(_) | Ended::Io(_) => {
                tracing::warn!(node = %self.0.id, %peer, reason = %ended, "peer connection ended");
            }
        }
    }

    /// Waits for the upgrade and the handshake of an accepted connection.
    pub async fn open(
        &self,
        inbound: Inbound,
        purpose: Purpose,
    ) -> Option<(TokioIo<Upgraded>, Session, OwnedSemaphorePermit)> {
        let Inbound { upgrade, room, certificate } = inbound;
        let vouch = |peer: &Identity| self.vouch(certificate.as_ref(), peer);
        let opening = async {
            let upgraded = upgrade.await.map_err(|e| Refused::Io(std::io::Error::other(e)))?;
            let mut stream = TokioIo::new(upgraded);
            let session =
                handshake::accept(&mut stream, &self.0.keys, &self.0.me(), purpose, self.0.nonce(), &vouch).await?;
            Ok((stream, session))
        };
        let refused = match timeout(self.0.timing.connect_max, opening).await {
            Ok(Ok((stream, session))) => {
                self.0.counters.connected.add(1);
                return Some((stream, session, room));
            }
            Ok(Err(refused)) => refused,
            Err(_) => Refused::Timeout,
        };
        let refused = self.count(refused);
        tracing::warn!(node = %self.0.id, reason = %refused, "refused a peer connection");
        None
    }

    /// Counts a refusal by its reason.
    fn count(&self, refused: Refused) -> Refused {
        let c = &self.0.counters;
        let counter = match &refused {
            Refused::Protocol | Refused::Version(_) | Refused::Purpose(_) => &c.refused_protocol,
            Refused::Secret => &c.refused_secret,
            Refused::Certificate(_) | Refused::ByPeer(handshake::Verdict::Certificate) => &c.refused_certificate,
            Refused::OtherCluster(_) => &c.refused_cluster,
            Refused::ByPeer(handshake::Verdict::Secret) => &c.refused_secret,
            Refused::ByPeer(handshake::Verdict::OtherCluster) => &c.refused_cluster,
            Refused::ByPeer(_) => &c.refused_protocol,
            Refused::Timeout | Refused::Io(_) => &c.refused_timeout,
        };
        c.refuse(counter);
        refused
    }

    /// Reads and writes until either way ends, then ends the other.
    async fn serve(&self, stream: TokioIo<Upgraded>, session: Session, route: Route, queue: &Arc<Queue>) -> Ended {
        let (from, to) = tokio::io::split(stream);
        let Session { send, receive, peer } = session;
        let (node, counters, timing) = (self.0.node.clone(), self.0.counters.clone(), self.0.timing);
        // A task of its own for reading: a long write must not keep answers
        // from being read, or two nodes that both write wait for each other.
        let reader = {
            let counters = counters.clone();
            tokio::spawn(async move { link::read(from, receive, &peer.id, route, node, &counters, timing).await })
        };
        let mut reader = AbortOnDrop(reader);
        tokio::select! {
            biased;
            ended = &mut reader.0 => ended.unwrap_or(Ended::Stopping),
            ended = link::write(to, send, queue, &counters, timing) => ended,
        }
    }
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An accepted connection that waits for its upgrade.
pub struct Inbound {
    upgrade: OnUpgrade,
    room: OwnedSemaphorePermit,
    certificate: Option<Certificate>,
}

/// The answer to a request whose upgrade was accepted.
pub fn switching_protocols<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

/// Asks for the upgrade.
async fn upgrade<S>(stream: S, address: &str, path: &str) -> Result<Upgraded, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("no HTTP: {e}"))?;
    // Ends with the upgrade, or when `sender` is dropped.
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    let request = Request::builder()
        .uri(path)
        .header(HOST, address)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("no request for {address}: {e}"))?;
    let mut response = sender.send_request(request).await.map_err(|e| format!("no HTTP answer: {e}"))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
        let said = body.map(|body| body.to_bytes()).unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
        // It comes from elsewhere: one line of a log, and no more.
        let said: String = said["message"].as_str().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
        return Err(format!("it answered {status} instead of switching protocols: {said}"));
    }
    hyper::upgrade::on(&mut response).await.map_err(|e| format!("no upgrade: {e}"))
}
