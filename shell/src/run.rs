//! Assembles a node and runs it.
//!
//! Decides the order of starting and stopping. Production and the simulator
//! call the same [`run`].
//!
//! Starting: listen, then read the disk (whoever asks meanwhile is told so),
//! then the workers, the bus, HTTP, the node loop. Stopping: hand the pin over,
//! let requests end, close the store, then the log, which `data.db` may still
//! need.
//!
//! | file | its noun |
//! |---|---|
//! | `starting` | what is answered before there is a node |
//! | `disk` | what a start finds, opened and reconciled |
//! | `data` | `data.db` as HTTP and peers see it, and its absence at a witness |
//! | `peers` | the peers' connections, as HTTP hands them over |

mod data;
pub mod disk;
mod peers;
mod starting;

#[cfg(test)]
mod tests;

use crate::api::{LogJob, NodeEvent, StoreJob, View};
use crate::app::{App, NodeHandle};
use crate::bus::Bus;
use crate::bus::direct::DirectBus;
use crate::config::Config;
use crate::driver::{Driver, Ended, FetchOrder, Parts, StoreSide};
use crate::env::real::{RealEnv, die, panic_text};
use crate::env::{Env, Home, WorkerHandle};
use crate::error::ApiError;
use crate::http;
use crate::http::Sql;
use crate::log;
use crate::metrics::Stats;
use crate::snapshot::fetch::{Fetcher, Readers};
use crate::snapshot::serve::Server;
use crate::store;
use crate::store::read::Reads;
use crate::tls::{self, Dialler, Tls};
use base_ha_core::ids::BootNonce;
use base_ha_core::io::Boot;
use base_ha_core::position::Position;
use data::{Data, Given, NoData};
use disk::{Disk, Place};
use peers::Peers;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// How long a graceful stop of the node may take; the core gives up a
/// hand-over long before.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How long closing the store or the log may take.
const CLOSE_MAX: Duration = Duration::from_secs(30);
/// Connections that reads use.
const READERS: usize = 8;

/// Runs a node until `shutdown` resolves, then stops it gracefully.
///
/// # Errors
/// Why it could not start, or had to end. Nothing was acknowledged that is not
/// on disk.
pub async fn run<E: Env>(env: E, config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), ApiError> {
    let config = Arc::new(config);
    let tls = config.tls.as_ref().map(|files| Tls::open(&env, files, &config.core.url)).transpose()?;
    let mut listener = env
        .bind(&config.http)
        .await
        .map_err(|e| ApiError::new(500, "cannot_listen", format!("cannot listen on {}: {e}", config.http)))?;
    // From here on connections are answered.
    let (sender, inbox) = mpsc::unbounded_channel();
    let node = NodeHandle::new(sender);
    let opening = {
        let (env_inside, config, node) = (env.clone(), config.clone(), node.clone());
        env.blocking(move || {
            let place = Place {
                dir: &config.dir,
                log: log::LogLimits::of(&config),
                store: &config.limits,
                witness: config.core.witness,
            };
            // If the loop has ended, so does the process.
            Disk::open(&env_inside, &place, move |event| {
                let _ = node.tell(event);
            })
        })
    };
    let disk = starting::serve_until(&env, tls.as_ref(), &mut listener, opening).await?;
    let running = Running::start(env, tls, config, node, inbox, disk, listener)?;
    running.until(shutdown).await
}

/// Runs a node on this machine until SIGTERM or SIGINT; a second signal ends
/// it at once.
///
/// # Errors
/// As [`run`].
pub fn run_blocking(config: Config) -> Result<(), ApiError> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One may be held up by a read that turns out slow.
        .worker_threads(cores.max(2))
        .enable_all()
        .build()
        .map_err(|e| ApiError::new(500, "no_runtime", format!("the system gives no threads: {e}")))?;
    let result = runtime.block_on(async {
        let mut signals = Signals::new()?;
        // In a task of its own: what `block_on` runs itself is not moved
        // between threads.
        let stop = async move {
            signals.next().await;
            tokio::spawn(async move {
                signals.next().await;
                tracing::warn!("second signal: ending at once");
                std::process::exit(130);
            });
        };
        match tokio::spawn(run(RealEnv, config, stop)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => die(&format!("the node panicked: {}", panic_text(&*panic))),
                Err(error) => die(&format!("the node's task ended: {error}")),
            },
        }
    });
    // Whatever still runs is of no use: all that matters is on disk.
    runtime.shutdown_background();
    result
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, ApiError> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |e| ApiError::new(500, "no_signals", format!("signals cannot be received: {e}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A node at work.
struct Running<E: Env> {
    env: E,
    config: Arc<Config>,
    node: NodeHandle,
    bus: DirectBus<E>,
    log: WorkerHandle<LogJob>,
    store: Option<WorkerHandle<StoreJob>>,
    loop_ended: tokio::task::JoinHandle<Ended>,
    http_stop: watch::Sender<bool>,
    http: tokio::task::JoinHandle<()>,
    /// Looks after the TLS files.
    upkeep: Option<tokio::task::JoinHandle<()>>,
    /// Where the loop runs, for as long as this lives.
    _home: Home,
}

impl<E: Env> Running<E> {
    fn start(
        env: E,
        tls: Option<Tls>,
        config: Arc<Config>,
        node: NodeHandle,
        inbox: mpsc::UnboundedReceiver<NodeEvent>,
        disk: Disk<E>,
        listener: E::Listener,
    ) -> Result<Self, ApiError> {
        let Disk { log, store, recovered, own_key, tmp } = disk;
        let mut stats = Stats { log: log.stats(), ..Stats::default() };
        if let Some(store) = &store {
            stats.store = store.stats.clone();
        }
        let stats = Arc::new(stats);
        let home =
            env.home().map_err(|e| ApiError::new(500, "no_runtime", format!("the system gives no thread: {e}")))?;
        let log = env.worker("log", log.into_worker()?);
        let (view_sender, view) = watch::channel(Arc::new(View::default()));
        let dialler = Dialler::new(env.clone(), tls.clone());
        let bus = DirectBus::new(dialler.clone(), &config, node.clone(), stats.clone(), view.clone());
        let upkeep = tls.map(|tls| tokio::spawn(tls::upkeep::run(env.clone(), tls, stats.clone())));

        let file = store::data_file(&config.dir);
        let given = match store {
            Some(opened) => {
                let reads = Reads::open(env.clone(), &file, READERS, stats.reads.clone())?;
                let interrupt = opened.interrupt;
                Some(Given {
                    worker: env.worker("store", opened.worker),
                    applied: opened.applied,
                    interrupt: Arc::new(move || interrupt.raise()),
                    data: Arc::new(Data::new(env.clone(), file, tmp.clone(), reads, view.clone())),
                })
            }
            None => None,
        };
        let snapshots = given.as_ref().map(|g| Server::new(env.clone(), g.data.clone(), stats.clone()));
        let fetch = fetcher(&env, &bus, &log, given.as_ref(), &node, tmp);
        let (nothing, no_data) = watch::channel(Position::START);
        let app = Arc::new(App {
            env: env.clone(),
            config: config.clone(),
            view,
            applied: given.as_ref().map_or(no_data, |g| g.applied.clone()),
            node: node.clone(),
            store: given.as_ref().map_or_else(|| WorkerHandle::new(Err), |g| g.worker.clone()),
            log: log.clone(),
            sql: given.as_ref().map_or_else(|| Arc::new(NoData(nothing)) as Arc<dyn Sql>, |g| Arc::new(g.data.local())),
            peer: Arc::new(Peers { bus: bus.clone(), snapshots, home: home.handle().clone() }),
            http: http::State::new(dialler, &config, own_key),
            stats: stats.clone(),
        });
        let (http_stop, stop) = watch::channel(false);
        let http = tokio::spawn(http::serve(app, listener, stop));

        let mut seed = [0; 32];
        env.entropy(&mut seed);
        let mut nonce = [0; 8];
        env.entropy(&mut nonce);
        let boot = Boot { config: config.core.clone(), seed, nonce: BootNonce(u64::from_le_bytes(nonce)), recovered };
        let store = given.as_ref().map(|g| g.worker.clone());
        let driver = Driver::new(Parts {
            env: env.clone(),
            config: config.clone(),
            boot,
            bus: bus.clone(),
            inbox,
            log: log.clone(),
            store: given.map(|g| StoreSide { worker: g.worker, interrupt: g.interrupt }),
            view: view_sender,
            fetch,
            stats,
        });
        tracing::info!(node = %config.core.id, url = %config.core.url, http = config.http, "started");
        let loop_ended = home.handle().spawn(driver.run());
        Ok(Self { env, config, node, bus, log, store, loop_ended, http_stop, http, upkeep, _home: home })
    }

    /// Runs until told to stop, or until the loop ends by itself.
    async fn until(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ApiError> {
        tokio::select! {
            biased;
            ended = &mut self.loop_ended => return self.ended(ended).await,
            () = shutdown => {}
        }
        // If it has ended meanwhile, that is what the next line finds.
        let _ = self.node.tell(NodeEvent::Shutdown);
        match timeout(STOP_MAX, &mut self.loop_ended).await {
            Ok(ended) => self.ended(ended).await,
            Err(_) => {
                tracing::warn!(node = %self.config.core.id, "the node did not stop within {STOP_MAX:?}; closing");
                self.loop_ended.abort();
                self.close().await;
                Ok(())
            }
        }
    }

    async fn ended(self, ended: Result<Ended, tokio::task::JoinError>) -> Result<(), ApiError> {
        match ended {
            Ok(Ended::Stopped) => {
                self.close().await;
                Ok(())
            }
            // At once, and nothing is closed: closing writes, and what can be
            // believed now is what is on disk already.
            Ok(Ended::Fatal(reason)) => Err(ApiError::new(500, "fatal", reason)),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => self.env.die(&format!("the node loop panicked: {}", panic_text(&*panic))),
                Err(error) => Err(ApiError::new(500, "fatal", format!("the node loop ended: {error}"))),
            },
        }
    }

    /// Lets requests end, then closes the files.
    async fn close(self) {
        let id = &self.config.core.id;
        // If nobody listens, HTTP has ended already.
        let _ = self.http_stop.send(true);
        if let Err(error) = self.http.await {
            tracing::warn!(node = %id, %error, "HTTP did not end well");
        }
        if let Some(store) = &self.store {
            close(id.as_str(), "store", |reply| store.send(StoreJob::Close { reply }).is_ok()).await;
        }
        // After the store: until its last checkpoint it needs the log.
        close(id.as_str(), "log", |reply| self.log.send(LogJob::Close { reply }).is_ok()).await;
        self.bus.close();
        if let Some(upkeep) = self.upkeep {
            upkeep.abort();
        }
        tracing::info!(node = %id, "stopped");
    }
}

async fn close(node: &str, what: &str, send: impl FnOnce(oneshot::Sender<()>) -> bool) {
    let (reply, closed) = oneshot::channel();
    if !send(reply) || !matches!(timeout(CLOSE_MAX, closed).await, Ok(Ok(()))) {
        tracing::warn!(node, what, "it was not closed; the next start recovers it");
    }
}

/// What the loop calls to fetch a snapshot.
fn fetcher<E: Env>(
    env: &E,
    bus: &DirectBus<E>,
    log: &WorkerHandle<LogJob>,
    given: Option<&Given<E>>,
    node: &NodeHandle,
    tmp: PathBuf,
) -> Box<dyn Fn(FetchOrder) + Send + Sync> {
    let fetcher = Arc::new(Fetcher {
        env: env.clone(),
        dir: tmp,
        bus: bus.clone(),
        log: log.clone(),
        data: given.map(|g| (g.worker.clone(), g.data.clone() as Arc<dyn Readers>)),
        node: node.clone(),
        failures: Default::default(),
    });
    // Not where the node loop runs: unpacking and hashing take their time.
    let here = tokio::runtime::Handle::current();
    Box::new(move |order| drop(here.spawn(fetcher.clone().run(order))))
}
