//! The node loop: the single owner of the core's `Node`.
//!
//! Decides the order in which things that happened reach the core and in which
//! the core's orders are carried out. It blocks on nothing: what takes time
//! is another party's business (log worker, store worker, peers, snapshot
//! task), and its end comes back as an event. Knows nothing of SQL, HTTP or
//! sockets.
//!
//! | file | its noun |
//! |---|---|
//! | `apply` | committed entries on their way to the store, in order, bounded |
//! | `publish` | the view that HTTP tasks see |
//! | `upkeep` | checkpoints, trimming, scrubbing: what is due now and then |
//! | `health` | how log and store fare, together |
//! | `event` | log lines and counters for what the core reports |
//! | `carry` | the core's orders, carried out |
//! | `fetch` | snapshots, as the loop has them fetched |
//! | `alarm` | the loop's timer |

mod alarm;
pub mod apply;
mod carry;
mod event;
mod fetch;
pub mod health;
pub mod publish;
pub mod upkeep;

#[cfg(test)]
mod tests;

use crate::api::{LogJob, NodeEvent, Organ, StoreJob, View};
use crate::bus::Bus;
use crate::config::Config;
use crate::env::{Env, WorkerHandle};
use crate::error::ApiError;
use crate::metrics::Stats;
use alarm::Alarm;
use apply::ApplyPump;
use base_ha_core::entry::Entry;
use base_ha_core::ids::{ClusterId, ContentHash, NodeId, Seq};
use base_ha_core::io::{AdminOutcome, Boot, CallId, Input, Outbox, Refusal, StoreHealth};
use base_ha_core::node::Node;
use base_ha_core::position::Position;
use base_ha_core::time::{MonoTime, Now};
use event::Reporter;
pub use fetch::{FetchOrder, PauseApply, installed_input};
use health::Health;
use publish::Publisher;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot, watch};
use upkeep::Upkeep;

/// Events taken in one turn before what they led to is carried out.
const EVENTS_PER_TURN: usize = 512;

/// What the loop is made from.
pub struct Parts<E: Env, B: Bus> {
    /// The world.
    pub env: E,
    /// The settings.
    pub config: Arc<Config>,
    /// What the core starts from.
    pub boot: Boot,
    /// Frames to others.
    pub bus: B,
    /// What happened.
    pub inbox: mpsc::UnboundedReceiver<NodeEvent>,
    /// The log worker.
    pub log: WorkerHandle<LogJob>,
    /// The store worker; a witness has none.
    pub store: Option<StoreSide>,
    /// Where the view goes.
    pub view: watch::Sender<Arc<View>>,
    /// Starts fetching a snapshot; its end comes back as
    /// [`NodeEvent::Core`].
    pub fetch: Box<dyn Fn(FetchOrder) + Send + Sync>,
    /// What is counted.
    pub stats: Arc<Stats>,
}

/// The store as the loop sees it.
pub struct StoreSide {
    /// Its worker.
    pub worker: WorkerHandle<StoreJob>,
    /// Interrupts the SQL that is running, from any thread.
    pub interrupt: Arc<dyn Fn() + Send + Sync>,
}

/// What the loop's own errands come back with.
enum Task {
    /// Entries for the store were read from the log.
    LoadedForApply(Result<Vec<Entry>, ApiError>),
    /// `data.db` is on disk up to here.
    Checkpointed(Result<Position, ApiError>),
    /// The content hash was recomputed: from the rows, and as it was kept.
    Scrubbed(Result<(ContentHash, ContentHash), ApiError>),
    /// A snapshot is about to replace `data.db`.
    Pause(oneshot::Sender<()>),
    /// It was not replaced.
    Resume,
}

/// Why the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// A graceful stop is done.
    Stopped,
    /// The process must end at once, nothing more may be acknowledged.
    Fatal(String),
}

enum Call {
    Read(oneshot::Sender<Result<Seq, Refusal>>),
    Admin(oneshot::Sender<AdminOutcome>),
}

/// The node loop; see the module's text.
pub struct Driver<E: Env, B: Bus> {
    env: E,
    id: NodeId,
    node: Node,
    outbox: Outbox,
    bus: B,
    cluster: ClusterId,
    inbox: mpsc::UnboundedReceiver<NodeEvent>,
    tasks: mpsc::UnboundedReceiver<Task>,
    task_sender: mpsc::UnboundedSender<Task>,
    log: WorkerHandle<LogJob>,
    store: Option<StoreSide>,
    pump: ApplyPump,
    health: Health,
    publisher: Publisher,
    reporter: Reporter,
    upkeep: Upkeep,
    calls: BTreeMap<CallId, Call>,
    call_next: CallId,
    fetch: Box<dyn Fn(FetchOrder) + Send + Sync>,
    fetching: bool,
    stats: Arc<Stats>,
    turn: Arc<AtomicU64>,
    /// An order could not be followed: see [`ApplyPump::order`].
    halted_at: Option<Seq>,
    ended: Option<Ended>,
}

impl<E: Env, B: Bus> Driver<E, B> {
    /// Recovers the node from what its disk says.
    pub fn new(parts: Parts<E, B>) -> Self {
        let Parts { env, config, boot, bus, inbox, log, store, view, fetch, stats } = parts;
        let now = env.now();
        let cluster = boot.recovered.hard.cluster;
        let applied = boot.recovered.applied;
        let mut outbox = Outbox::new();
        let node = Node::recover(boot, now, &mut outbox);
        bus.joined(cluster);
        let (task_sender, tasks) = mpsc::unbounded_channel();
        let turn = Arc::new(AtomicU64::new(0));
        env.watchdog(turn.clone());
        let upkeep = Upkeep::new(&env, now.mono, applied, store.is_some());
        Self {
            env,
            id: config.core.id.clone(),
            node,
            outbox,
            bus,
            cluster,
            inbox,
            tasks,
            task_sender,
            log,
            store,
            pump: ApplyPump::new(applied.seq),
            health: Health::default(),
            publisher: Publisher::new(view, config.core.heartbeat),
            reporter: Reporter::default(),
            upkeep,
            calls: BTreeMap::new(),
            call_next: 1,
            fetch,
            fetching: false,
            stats,
            turn,
            halted_at: None,
            ended: None,
        }
    }

    /// Runs until the node has stopped or must not go on.
    pub async fn run(mut self) -> Ended {
        let mut alarm = Alarm::default();
        // The first turn carries out what recovery asked for.
        let mut first: Option<Happened> = None;
        loop {
            self.take_turn(first.take());
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            alarm.set(self.env.now().mono, self.wake_at());
            // Timers first: a flood of events must not starve them. The inbox
            // last: the loop's own errands are few, and waited for.
            first = tokio::select! {
                biased;
                () = alarm.ring() => None,
                task = self.tasks.recv() => task.map(Happened::Task),
                event = self.inbox.recv() => match event {
                    Some(event) => Some(Happened::Event(event)),
                    // Every handle is gone: nobody is left to serve.
                    None => return Ended::Stopped,
                },
            };
        }
    }

    /// When to take a turn even if nothing happens.
    fn wake_at(&self) -> MonoTime {
        let own = self.publisher.due().min(self.upkeep.due());
        self.node.deadline().map_or(own, |(at, _)| at.min(own))
    }

    /// One turn: the clocks are read when it begins, and again for each event
    /// that is taken in it.
    fn take_turn(&mut self, first: Option<Happened>) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        let now = self.env.now();
        // Each turn looks at the deadline itself: the runtime's timer only
        // wakes the loop.
        if self.node.deadline().is_some_and(|(at, _)| at <= now.mono) {
            self.step(now, Input::Deadline);
        }
        match first {
            Some(Happened::Task(task)) => self.on_task(now, task),
            Some(Happened::Event(event)) => self.on_event(now, event),
            None => {}
        }
        for _ in 0..EVENTS_PER_TURN {
            if self.ended.is_some() {
                break;
            }
            let Ok(event) = self.inbox.try_recv() else { break };
            // Not the turn's moment: the process may have slept since, and this
            // have come in after. A lease that held then answers no read that
            // was asked now, and a promise counts from receipt, or a writer
            // would rely on one that is over (R1).
            self.on_event(self.env.now(), event);
        }
        while let Ok(task) = self.tasks.try_recv() {
            self.on_task(now, task);
        }
        if !matches!(self.ended, Some(Ended::Fatal(_))) {
            self.carry_out(now);
            if let Some(at) = self.halted_at.take() {
                self.on_health(now, Organ::Store, StoreHealth::ApplyHalted { at });
                self.carry_out(now);
            }
            self.feed_store();
            self.look_after(now);
            if self.publisher.flush(&self.node, now) {
                // As often as the status: often enough to catch a broken
                // invariant, too seldom to cost anything.
                self.node.check();
                // A full disk or a long trim may have left something over.
                self.tell_log(LogJob::Tick);
                self.tell_store(StoreJob::Tick);
            }
        }
        self.turn.fetch_add(1, Ordering::Relaxed);
        let took = self.env.now().mono.since(now.mono);
        if took.as_secs() >= 1 {
            tracing::warn!(node = %self.id, seconds = took.as_secs_f64(), "a turn of the node loop took too long");
        }
    }

    fn step(&mut self, now: Now, input: Input) {
        self.node.step(now, input, &mut self.outbox);
    }

    fn fatal(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(node = %self.id, reason, "this node cannot go on");
        self.ended = Some(Ended::Fatal(reason));
    }

    fn on_event(&mut self, now: Now, event: NodeEvent) {
        match event {
            NodeEvent::Frame { route, envelope, room } => {
                drop(room);
                self.step(now, Input::Received { route, envelope });
            }
            NodeEvent::Persisted(id) => self.step(now, Input::Persisted { id }),
            NodeEvent::Loaded { id, prev, entries } => self.step(now, Input::LogLoaded { id, prev, entries }),
            NodeEvent::Trimmed { first, base } => self.step(now, Input::LogTrimmed { first, base }),
            NodeEvent::Propose { id, payloads } => self.step(now, Input::Propose { id, payloads }),
            NodeEvent::Applied { position, content } => {
                self.pump.applied(position.seq);
                self.upkeep.applied(position);
                self.step(now, Input::Applied { position, content });
            }
            NodeEvent::Health(organ, health) => self.on_health(now, organ, health),
            NodeEvent::ReadIndex { reply } => {
                let id = self.new_call(Call::Read(reply));
                self.step(now, Input::ReadIndex { id });
            }
            NodeEvent::Admin { command, reply } => {
                tracing::info!(node = %self.id, ?command, "administrator's order");
                let id = self.new_call(Call::Admin(reply));
                self.step(now, Input::Admin { id, command });
            }
            NodeEvent::Renew { reply } => self.publisher.renew_for(reply),
            NodeEvent::Core(input) => self.on_core(now, *input),
            NodeEvent::Fatal(reason) => self.fatal(reason),
            NodeEvent::Shutdown => {
                tracing::info!(node = %self.id, "stopping");
                self.publisher.stopping();
                self.step(now, Input::Shutdown);
            }
        }
    }

    fn new_call(&mut self, call: Call) -> CallId {
        let id = self.call_next;
        self.call_next += 1;
        self.calls.insert(id, call);
        id
    }

    fn on_health(&mut self, now: Now, organ: Organ, health: StoreHealth) {
        match health {
            StoreHealth::Well => tracing::info!(node = %self.id, ?organ, "it is well"),
            StoreHealth::Full => {
                tracing::error!(node = %self.id, ?organ, "the disk is full: reads go on, writes hand over");
            }
            StoreHealth::ApplyHalted { at } => {
                tracing::error!(node = %self.id, at = at.0, "an entry could not be applied: this replica has halted");
            }
            StoreHealth::Quarantined => {
                tracing::error!(node = %self.id, "the data is not what the log says: reads stop, a re-seed is due");
            }
        }
        for told in self.health.heard(organ, health) {
            self.step(now, Input::Health(told));
        }
    }

    /// A snapshot's end, above all.
    fn on_core(&mut self, now: Now, input: Input) {
        match &input {
            Input::SnapshotInstalled { position, .. } => {
                self.fetching = false;
                self.health.replaced();
                self.pump.restart(position.seq);
                self.upkeep.applied(*position);
                self.stats.peer.snapshots_installed.add(1);
                tracing::info!(node = %self.id, seq = position.seq.0, "snapshot installed");
            }
            Input::SnapshotFailed => {
                self.fetching = false;
                self.stats.peer.snapshots_failed.add(1);
                // Whoever failed has said so already, before it waited; this is
                // for the one that was aborted.
                self.pump.resume();
            }
            _ => {}
        }
        self.step(now, input);
    }

    fn on_task(&mut self, now: Now, task: Task) {
        match task {
            Task::LoadedForApply(result) => {
                if let Err(at) = self.pump.loaded(result) {
                    self.on_health(now, Organ::Store, StoreHealth::ApplyHalted { at });
                }
            }
            Task::Checkpointed(result) => {
                let trimmable = self.node.status(now).trimmable;
                if let Some(below) = self.upkeep.checkpointed(result, trimmable) {
                    self.tell_log(LogJob::Trim { below });
                }
            }
            Task::Scrubbed(result) => {
                if self.upkeep.scrubbed(result, &self.id) {
                    self.on_health(now, Organ::Store, StoreHealth::Quarantined);
                }
            }
            Task::Resume => self.pump.resume(),
            Task::Pause(reply) => {
                self.pump.pause();
                // Whoever asked may have been aborted; then its end is told.
                let _ = reply.send(());
            }
        }
    }
}

enum Happened {
    Task(Task),
    Event(NodeEvent),
}
