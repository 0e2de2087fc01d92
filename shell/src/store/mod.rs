//! `data.db`: the state that the log's entries add up to.
//!
//! Write side: one worker owns the one write connection. Its path for a client's
//! write is `worker` (jobs) → `group` (who shares a transaction) → `execute`
//! (one request in a savepoint) → `capture` (row events → change-set, content
//! hash), and back through `group` once the entries are committed. On a replica,
//! and after any doubt, the same entries come in through `apply`.
//!
//! | file | decides |
//! |---|---|
//! | `worker` | the order of things, and when the connection must not be used |
//! | `group`, `linger`, `requests` | who shares a transaction, what each is answered, what is a repetition |
//! | `execute`, `problem` | what of one request is kept; what a client is told otherwise |
//! | `capture`, `guard` | what changed; what SQL may do |
//! | `apply` | how an entry becomes rows |
//! | `hash`, `schema` | what equal data is; what the tables are |
//! | `open`, `install` | what makes a file ours; how one replaces another |
//! | `sys` | SQLite's C interface; the only unsafe code |
//! | `schema_sql`, `bind`, `sqlerror` | shared with the read side |

mod apply;
pub mod backup;
pub mod bind;
mod capture;
pub mod classify;
mod execute;
mod group;
mod guard;
mod hash;
mod install;
mod linger;
mod open;
pub mod policy;
mod problem;
pub mod read;
mod requests;
mod schema;
pub mod schema_sql;
pub mod sqlerror;
mod sys;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use install::UNFINISHED;
pub use install::recount;
pub(crate) use install::verify;
pub use open::{FORMAT, data_file, read_position};
pub use worker::{Interrupt, StoreWorker};

use crate::api::NodeEvent;
use crate::config::Limits;
use crate::env::Env;
use crate::env::files::settle;
use crate::error::ApiError;
use crate::metrics::StoreStats;
use base_ha_core::hlc::HybridClock;
use base_ha_core::ids::{ContentHash, Seq};
use base_ha_core::io::Pin;
use base_ha_core::member::Membership;
use base_ha_core::position::Position;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A store that was opened: what it contains, and the worker to start.
pub struct Opened<E: Env> {
    /// To be given to [`Env::worker`].
    pub worker: StoreWorker<E>,
    /// What `data.db` contains.
    pub position: Position,
    /// Its content's hash.
    pub content: ContentHash,
    /// The membership as of there, and the entry that made it.
    pub membership: Option<(Seq, Membership)>,
    /// Moved after every COMMIT.
    pub applied: watch::Receiver<Position>,
    /// Stops a running group.
    pub interrupt: Interrupt,
    /// What the worker counts.
    pub stats: Arc<StoreStats>,
}

/// Opens `data.db` in `dir`, or makes it. `out` is told what the node loop has
/// to know; it must not block.
///
/// # Errors
/// Why the file cannot be used: `data_corrupt`, `data_newer`, `data_foreign`,
/// `sqlite_too_old`, `disk_error`, ... Nothing was changed then.
pub fn open<E: Env>(
    env: E,
    dir: &Path,
    limits: &Limits,
    out: impl Fn(NodeEvent) + Send + Sync + 'static,
) -> Result<Opened<E>, ApiError> {
    let interrupt = Interrupt::default();
    let clock = env.clone();
    let ctx = Rc::new(capture::Ctx::new(interrupt.0.clone(), Box::new(move || clock.now().mono)));
    let file = data_file(dir);
    let wal = install::beside(&file, "-wal");
    settle(&*env.files(), &wal).map_err(|e| install::io_error("settle", &wal, &e))?;
    let engine = open::Engine::open(&file, ctx)?;
    let (position, membership) = (engine.applied, engine.membership.clone());
    let (sender, applied) = watch::channel(position);
    let time = env.clone();
    let stats: Arc<StoreStats> = Arc::default();
    let inner = worker::Inner {
        // Stamps of change-sets only have to go up; their distance from other
        // nodes' clocks is the core's business.
        clock: HybridClock::new(engine.hlc, Duration::MAX),
        recent: engine.recent(),
        engine: Some(engine),
        waiting: VecDeque::new(),
        group: None,
        group_time: group::TIME_MAX,
        linger: linger::Linger::default(),
        lingers: false,
        backlog: VecDeque::new(),
        next_proposal: 0,
        durable: Seq(0),
        all: Seq(0),
        all_waiting: BTreeMap::new(),
        now: Box::new(move || time.now()),
        out: Box::new(out),
        applied: sender,
        untold: None,
        interrupt: interrupt.clone(),
        queue_max: limits.write_queue_max,
        pin: Pin::default(),
        fence: None,
        checkpoints: Vec::new(),
        file,
        files: env.files(),
        stats: stats.clone(),
        weighed: None,
    };
    let content = inner.content();
    // SAFETY: the context's only `Rc`s and all statements are inside `inner`,
    // which gives none of them out; what `now` and `out` hold is Send.
    let inner = unsafe { sys::Whole::new(inner) };
    Ok(Opened { worker: StoreWorker::new(env, inner), position, content, membership, applied, interrupt, stats })
}
