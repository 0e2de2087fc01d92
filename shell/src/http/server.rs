//! Connections: accepting them, bounding them, ending them.
//!
//! Decides how many there are and how long each may take. What is asked on
//! them is `route`'s business. An own loop because deadlines for heads, idle
//! connections and unread answers are needed, and a drain at the end.

use super::meter::{Meter, Metered, Watch};
use super::respond::{self, Body, LEADER, TERM};
use super::route::{self, Route};
use super::session::TokenCache;
use crate::app::App;
use crate::env::Env;
use crate::error::ApiError;
use crate::tls::member::Known;
use crate::tls::stream::{self, NotAccepted, Shown};
use base_ha_core::changeset::RequestId;
use base_ha_core::ids::{Term, Url};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Connections beyond the clients' limit, for peers, requests of peers'
/// clients and health checks only: clients that take every connection must not
/// cost the cluster its heartbeats.
const RESERVED: u64 = 256;
/// How long a stopping node still reads requests. Closing an idle connection at
/// once would meet a request that is on its way, and whoever sent that one can't
/// know that it was not done: each is answered instead, with `Connection: close`.
const LINGER: Duration = Duration::from_millis(250);
/// How long open requests have to end at a graceful stop.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// One connection, as the handlers see it.
pub(crate) struct Conn<E: Env> {
    pub(crate) app: Arc<App<E>>,
    pub(crate) meter: Arc<Meter>,
    /// What the other end has shown of itself.
    pub(crate) shown: Shown,
    /// It is beyond the clients' limit.
    reserved: bool,
    /// The node stops: this connection's next answer is its last.
    last: AtomicBool,
    cache: Mutex<Cache>,
}

/// What is made once for many requests of a connection. One connection
/// has one request at a time, so its lock is never waited for.
#[derive(Default)]
pub(crate) struct Cache {
    term: Option<(Term, HeaderValue)>,
    leader: Option<(Url, HeaderValue)>,
    /// The `Host` that was found to be legal.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) token: Option<TokenCache>,
    /// Random ids for the next writes.
    pub(crate) ids: Vec<RequestId>,
}

impl<E: Env> Conn<E> {
    pub(crate) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns clients away that came in beyond their limit.
    pub(crate) fn admit(&self, route: Route) -> Result<(), ApiError> {
        let always = matches!(route, Route::Peer | Route::Snapshot | Route::Healthz | Route::Readyz | Route::Metrics);
        if !self.reserved || always {
            return Ok(());
        }
        self.app.stats.http.connections_shed.add(1);
        let max = self.app.config.limits.connections_max;
        Err(ApiError::new(503, "overloaded", format!("this node has {max} connections open")).retry_after(1))
    }

    /// Whether the other end has shown a member's or a seat's certificate.
    pub(crate) fn is_member(&self) -> bool {
        let view = self.app.view.borrow().clone();
        let membership = view.status.as_ref().map(|status| &status.membership);
        let known = Known { membership, seats: &self.app.config.core.seats };
        self.shown.certificate.as_ref().is_some_and(|certificate| known.has(certificate))
    }

    /// Says on a stopping node's answers that nothing more is read here.
    pub(crate) fn announce_end(&self, response: &mut Response<Body>) {
        if self.last.load(Ordering::Relaxed) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Adds `X-Base-Leader` and `X-Base-Term`, unless another node's answer is
    /// passed on that has them already.
    pub(crate) fn name_leader(&self, response: &mut Response<Body>) {
        let view = self.app.view.borrow().clone();
        let (term, Some((_, url))) = view.shown() else { return };
        if response.headers().contains_key(TERM) {
            return;
        }
        let mut cache = self.cache();
        let term = match &cache.term {
            Some((of, value)) if *of == term => value.clone(),
            _ => {
                let value = HeaderValue::from(term.0);
                cache.term = Some((term, value.clone()));
                value
            }
        };
        let leader = match &cache.leader {
            Some((of, value)) if of == url => value.clone(),
            _ => {
                let value = respond::value(url.as_str());
                cache.leader = Some((url.clone(), value.clone()));
                value
            }
        };
        response.headers_mut().insert(TERM, term);
        response.headers_mut().insert(LEADER, leader);
    }
}

/// Serves connections of `listener` until `shutdown` turns true, then lets
/// open requests end for at most 10 s.
pub async fn serve<E: Env>(app: Arc<App<E>>, mut listener: E::Listener, mut shutdown: watch::Receiver<bool>) {
    let (alive, mut ended) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            biased;
            stop = shutdown.wait_for(|stop| *stop) => {
                // A sender that is gone means the same.
                drop(stop);
                break;
            }
            accepted = app.env.accept(&mut listener) => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: accepting at once again
                // would spin.
                tracing::warn!(%error, "could not accept a connection");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let open = app.stats.http.connections.get();
        let max = app.config.limits.connections_max as u64;
        if open >= max + RESERVED {
            app.stats.http.connections_shed.add(1);
            continue;
        }
        let open = Open::new(&app);
        let (shutdown, alive) = (shutdown.clone(), alive.clone());
        tokio::spawn(async move {
            if let Some((stream, shown)) = open_up(&open.app, stream, from).await {
                let conn = Arc::new(Conn {
                    app: open.app.clone(),
                    meter: Arc::default(),
                    shown,
                    reserved: open.before >= max,
                    last: AtomicBool::new(false),
                    cache: Mutex::default(),
                });
                connection(conn, stream, shutdown).await;
            }
            drop((open, alive));
        });
    }
    drop((alive, listener));
    if timeout(DRAIN_MAX, ended.recv()).await.is_err() {
        tracing::warn!("requests were still open {DRAIN_MAX:?} after the stop began; they are cut off");
    }
}

/// Counts a connection for as long as it lives.
struct Open<E: Env> {
    app: Arc<App<E>>,
    before: u64,
}

impl<E: Env> Open<E> {
    fn new(app: &Arc<App<E>>) -> Self {
        let before = app.stats.http.connections.get();
        app.stats.http.connections.up();
        Self { app: app.clone(), before }
    }
}

impl<E: Env> Drop for Open<E> {
    fn drop(&mut self) {
        self.app.stats.http.connections.down();
    }
}

/// Does what comes before the first request: the TLS handshake, if there is
/// one, in the time that a request's head may take.
async fn open_up<E: Env>(
    app: &App<E>,
    stream: E::Stream,
    from: SocketAddr,
) -> Option<(stream::Stream<E::Stream>, Shown)> {
    let tls = app.http.client.dialler().tls();
    let refused = match timeout(app.config.limits.header_timeout, stream::accept(tls, stream)).await {
        Ok(Ok(opened)) => return Some(opened),
        Ok(Err(NotAccepted::Nothing)) => return None,
        Ok(Err(refused)) => refused.to_string(),
        Err(_) => "its TLS handshake took too long".to_owned(),
    };
    app.stats.tls.refused.add(1);
    if tls.is_some_and(|tls| tls.is_news(app.env.now().mono)) {
        tracing::warn!(%from, reason = refused, "refused a connection");
    } else {
        tracing::debug!(%from, reason = refused, "refused a connection");
    }
    None
}

async fn connection<E: Env>(
    conn: Arc<Conn<E>>,
    stream: stream::Stream<E::Stream>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut watch = Watch::new(conn.app.config.limits.header_timeout);
    let mut look = interval(watch.every);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = Metered { stream, meter: conn.meter.clone() };
    let service = {
        let conn = conn.clone();
        service_fn(move |request| route::handle(conn.clone(), request))
    };
    let mut builder = http1::Builder::new();
    // The date costs a clock that isn't the environment's. Heads are timed by
    // the meter, so hyper needs no timer.
    builder.auto_date_header(false).header_read_timeout(None).max_header_size(HEAD_BYTES_MAX);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    look.tick().await;
    let mut stopping = false;
    let mut linger = pin!(sleep(Duration::ZERO));
    loop {
        tokio::select! {
            biased;
            ended = &mut serving => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            _ = shutdown.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                conn.last.store(true, Ordering::Relaxed);
                linger.set(sleep(LINGER));
            }
            () = &mut linger, if stopping && !linger.is_elapsed() => serving.as_mut().graceful_shutdown(),
            _ = look.tick() => {
                if watch.overdue(&conn.meter) {
                    conn.app.stats.http.connections_slow.add(1);
                    return;
                }
            }
        }
    }
}
