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

pub mod apply;
pub mod event;
pub mod health;
pub mod publish;
pub mod upkeep;

#[cfg(test)]
mod tests;

use crate::api::{Installed, LogJob, NodeEvent, Organ, StoreJob, View};
use crate::bus::Bus;
use crate::config::Config;
use crate::env::{Env, WorkerHandle};
use crate::error::ApiError;
use crate::metrics::Stats;
use apply::ApplyPump;
use base_ha_core::entry::Entry;
use base_ha_core::ids::{ClusterId, ContentHash, NodeId, Seq, Url};
use base_ha_core::io::{
    AdminOutcome, Boot, CallId, Event, Input, Outbox, Output, Pin, Record, Refusal, Route, StoreHealth,
};
use base_ha_core::message::Envelope;
use base_ha_core::node::Node;
use base_ha_core::position::Position;
use base_ha_core::time::{MonoTime, Now};
use health::Health;
use publish::Publisher;
use std::collections::BTreeMap;
use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Sleep;
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

/// A snapshot that the core wants.
pub struct FetchOrder {
    /// From whom.
    pub from: Url,
    /// What it must contain.
    pub at_least: Position,
    /// The log is whole; only `data.db` is replaced.
    pub reseed: bool,
    /// To be asked right before `data.db` is replaced.
    pub pause: PauseApply,
}

/// Stops the flow of entries to the store until the snapshot's end is told:
/// entries ordered for the old `data.db` must not reach the new one.
#[derive(Clone)]
pub struct PauseApply(mpsc::UnboundedSender<Task>);

impl PauseApply {
    /// Returns once no entry is sent to the store any more.
    ///
    /// # Errors
    /// If the node loop has ended.
    pub async fn pause(&self) -> Result<(), crate::app::Gone> {
        let (reply, done) = oneshot::channel();
        self.0.send(Task::Pause(reply)).map_err(|_| crate::app::Gone)?;
        done.await.map_err(|_| crate::app::Gone)
    }

    /// The old `data.db` is in place and whole after all: entries go on to it.
    pub fn resume(&self) {
        // If the loop has ended, nothing goes on.
        let _ = self.0.send(Task::Resume);
    }
}

#[cfg(test)]
impl PauseApply {
    /// A loop that does what it is asked to, and what it was asked last: to
    /// pause (true) or to resume.
    pub(crate) fn obliging() -> (Self, watch::Receiver<Option<bool>>) {
        let (sender, mut tasks) = mpsc::unbounded_channel();
        let (asked, last) = watch::channel(None);
        tokio::spawn(async move {
            while let Some(task) = tasks.recv().await {
                if let Task::Pause(reply) = task {
                    asked.send_replace(Some(true));
                    let _ = reply.send(());
                } else {
                    asked.send_replace(Some(false));
                }
            }
        });
        (Self(sender), last)
    }
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
            NodeEvent::Status { reply } => {
                // Whoever asked may have gone: nobody is missed.
                let _ = reply.send(Box::new(self.node.status(now)));
            }
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

    /// Carries out the core's orders, in order.
    fn carry_out(&mut self, now: Now) {
        let mut outbox = std::mem::take(&mut self.outbox);
        for output in outbox.drain(..) {
            self.carry_out_one(now, output);
        }
        // Keeps its room for the next turn.
        self.outbox = outbox;
    }

    fn carry_out_one(&mut self, now: Now, output: Output) {
        match output {
            Output::Persist { id, record } => {
                if let Record::HardState(hard) = &record
                    && hard.cluster != self.cluster
                {
                    self.cluster = hard.cluster;
                    self.bus.joined(hard.cluster);
                }
                self.tell_log(LogJob::Persist { id, record });
            }
            Output::Send { route, envelope } => self.send(&route, &envelope),
            Output::Apply { from, through, entries } => {
                self.publisher.committed(through);
                if self.store.is_some()
                    && let Err(at) = self.pump.order(from, through, entries)
                {
                    // Told once the outputs at hand are carried out: the core is
                    // not stepped in between.
                    self.halted_at = Some(at);
                }
            }
            Output::LoadLog { id, from, through, bytes_max } => {
                self.tell_log(LogJob::Load { id, from, through, bytes_max });
            }
            Output::FetchSnapshot { from, at_least, reseed } => self.fetch_snapshot(from, at_least, reseed),
            Output::Proposed { id, first, last } => self.mention_to_store(StoreJob::Proposed { id, first, last }),
            Output::ProposalRefused { id, refusal } => self.tell_store(StoreJob::Refused { id, refusal }),
            Output::ProposalUnknown { id } => self.tell_store(StoreJob::Unknown { id }),
            Output::Progress { durable, committed, all } => {
                self.publisher.committed(committed);
                self.mention_to_store(StoreJob::Progress { durable, all });
            }
            Output::ReadReady { id, at } => {
                if let Some(Call::Read(reply)) = self.calls.remove(&id) {
                    let _ = reply.send(Ok(at));
                }
            }
            Output::ReadRefused { id, refusal } => {
                if let Some(Call::Read(reply)) = self.calls.remove(&id) {
                    let _ = reply.send(Err(refusal));
                }
            }
            Output::AdminDone { id, outcome } => {
                tracing::info!(node = %self.id, ?outcome, "administrator's order ended");
                if let Some(Call::Admin(reply)) = self.calls.remove(&id) {
                    let _ = reply.send(outcome);
                }
            }
            Output::Pin(pin) => self.on_pin(pin),
            Output::Event(event) => {
                if matches!(event, Event::MembershipChanged { .. }) {
                    self.publisher.renew();
                }
                event::report(&self.id, now, &event, &self.stats.peer);
            }
            Output::Stopped => self.ended = Some(Ended::Stopped),
        }
    }

    fn send(&self, route: &Route, envelope: &Envelope) {
        self.bus.send(route, envelope);
    }

    fn on_pin(&mut self, pin: Pin) {
        let demoted = self.publisher.pin().writable && !pin.writable;
        tracing::info!(
            node = %self.id,
            term = pin.term.0,
            writer = pin.writer.as_ref().map(|(id, _)| id.as_str()),
            writable = pin.writable,
            "{}",
            match &pin.writer {
                Some(_) if pin.writable => "this node may write",
                Some(_) => "the writer is known",
                None => "no writer is known",
            }
        );
        if demoted && let Some(store) = &self.store {
            // Before the job: a group that runs ends, and the next thing that
            // the store looks at is this pin.
            (store.interrupt)();
        }
        self.tell_store(StoreJob::Pin(pin.clone()));
        self.publisher.set_pin(pin);
    }

    fn fetch_snapshot(&mut self, from: Url, at_least: Position, reseed: bool) {
        if std::mem::replace(&mut self.fetching, true) {
            tracing::debug!(node = %self.id, "a snapshot is being fetched already");
            return;
        }
        tracing::info!(node = %self.id, %from, at_least = at_least.seq.0, reseed, "fetching a snapshot");
        (self.fetch)(FetchOrder { from, at_least, reseed, pause: PauseApply(self.task_sender.clone()) });
    }

    /// Gives the store what there is room for, and the log orders to read what
    /// is not in memory.
    fn feed_store(&mut self) {
        loop {
            match self.pump.next() {
                Some(apply::Step::Send(entries)) => self.tell_store(StoreJob::Apply { entries }),
                Some(apply::Step::Load { from, through, bytes_max }) => {
                    let (reply, loaded) = oneshot::channel();
                    self.tell_log(LogJob::LoadForApply { from, through, bytes_max, reply });
                    self.errand(loaded, Task::LoadedForApply);
                }
                None => return,
            }
        }
    }

    /// Does what is due now and then.
    fn look_after(&mut self, now: Now) {
        match self.upkeep.tick(now.mono, self.pump.taken_bytes()) {
            Some(upkeep::Chore::Checkpoint) => {
                let (reply, done) = oneshot::channel();
                self.tell_store(StoreJob::Checkpoint { reply });
                self.errand(done, Task::Checkpointed);
            }
            Some(upkeep::Chore::Trim) => {
                let below = self.node.status(now).trimmable;
                if let Some(below) = self.upkeep.trim(below) {
                    self.tell_log(LogJob::Trim { below });
                }
            }
            Some(upkeep::Chore::Scrub) => {
                let (reply, done) = oneshot::channel();
                self.tell_store(StoreJob::Scrub { reply });
                self.errand(done, Task::Scrubbed);
            }
            None => {}
        }
    }

    /// Waits for an answer outside the loop. A dropped answer means that the
    /// worker has ended, which is fatal by itself.
    fn errand<T: Send + 'static>(&self, answer: oneshot::Receiver<T>, task: fn(T) -> Task) {
        let sender = self.task_sender.clone();
        tokio::spawn(async move {
            if let Ok(result) = answer.await {
                // If the loop has ended, nobody needs to know.
                let _ = sender.send(task(result));
            }
        });
    }

    fn tell_log(&mut self, job: LogJob) {
        if self.log.send(job).is_err() && self.ended.is_none() {
            self.fatal("the log worker has ended");
        }
    }

    fn tell_store(&mut self, job: StoreJob) {
        self.give_store(job, WorkerHandle::send);
    }

    /// As [`Driver::tell_store`], for what matters only with what follows.
    fn mention_to_store(&mut self, job: StoreJob) {
        self.give_store(job, WorkerHandle::send_quiet);
    }

    fn give_store(&mut self, job: StoreJob, give: impl Fn(&WorkerHandle<StoreJob>, StoreJob) -> Result<(), StoreJob>) {
        let Some(store) = &self.store else { return };
        if give(&store.worker, job).is_err() && self.ended.is_none() {
            self.fatal("the store worker has ended");
        }
    }
}

enum Happened {
    Task(Task),
    Event(NodeEvent),
}

/// The runtime's timer for the loop. It is set anew only to ring earlier: most
/// turns move the deadline into the future, and a timer that rings too early
/// costs one empty turn where setting it each time would cost every turn.
#[derive(Default)]
struct Alarm {
    at: Option<MonoTime>,
    sleep: Option<Pinned<Box<Sleep>>>,
}

impl Alarm {
    fn set(&mut self, now: MonoTime, at: MonoTime) {
        if self.at.is_some_and(|set| set <= at) {
            return;
        }
        self.at = Some(at);
        let sleep = tokio::time::sleep(at.since(now));
        match &mut self.sleep {
            Some(old) => old.set(sleep),
            none => *none = Some(Box::pin(sleep)),
        }
    }

    async fn ring(&mut self) {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().await,
            None => std::future::pending().await,
        }
        self.at = None;
        self.sleep = None;
    }
}

/// The input that tells the core of an installed snapshot.
pub fn installed_input(installed: Installed, log_reset: bool) -> Input {
    Input::SnapshotInstalled {
        position: installed.position,
        membership: installed.membership,
        content: installed.content,
        hlc: installed.hlc,
        log_reset,
    }
}
