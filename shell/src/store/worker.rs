//! The worker that owns `data.db`: jobs in, events out.
//!
//! Decides in which order things happen on the one write connection, and when
//! it must not be used. Knows nothing of SQL; waits for nobody.

use super::apply::{Halt, halt};
use super::group::{Group, Waiting, follows};
use super::install;
use super::linger::Linger;
use super::open::{Engine, Role};
use super::problem;
use super::requests::Recent;
use super::sys::Whole;
use crate::api::{NodeEvent, Organ, Rejected, StoreJob, WriteError, WriteRequest};
use crate::env::files::Drive;
use crate::env::{Env, Patience, Work};
use crate::error::ApiError;
use crate::metrics::StoreStats;
use base_ha_core::entry::Entry;
use base_ha_core::hlc::HybridClock;
use base_ha_core::ids::{ContentHash, Seq};
use base_ha_core::io::{Pin, Refusal, StoreHealth};
use base_ha_core::position::Position;
use base_ha_core::time::{MonoTime, Now};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Stops the group that is being run, so that the write connection is free at
/// once: for the node loop, just before it tells the store of a pin that is
/// not writable. Requests that had not been proposed are handed back.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(pub(super) Arc<AtomicBool>);

impl Interrupt {
    /// Stops it. Lasts until the next [`StoreJob::Pin`].
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// `data.db` and everything that waits for it.
pub struct StoreWorker<E: Env> {
    env: E,
    pub(super) inner: Whole<Inner>,
}

impl<E: Env> StoreWorker<E> {
    pub(super) fn new(env: E, inner: Whole<Inner>) -> Self {
        Self { env, inner }
    }
}

impl<E: Env> Work<StoreJob> for StoreWorker<E> {
    fn run(&mut self, jobs: &mut VecDeque<StoreJob>) {
        while let Some(job) = jobs.pop_front() {
            match job {
                StoreJob::Scrub { reply } => {
                    // Reads every row: on a connection and thread of its own.
                    let path = self.inner.path();
                    let scrub = self.env.worker("scrub", install::Scrub { path });
                    if let Err(reply) = scrub.send(reply) {
                        let _ = reply.send(Err(ApiError::new(500, "scrub_failed", "The scrub could not be started.")));
                    }
                }
                job => self.inner.take(job),
            }
        }
        self.inner.count_waiting();
        self.inner.advance();
        self.inner.count_waiting();
    }

    /// While a group waits to be committed, further requests and notices of
    /// progress could only be put aside.
    fn patience(&self) -> Patience {
        let inner = &self.inner;
        // Somebody waits for the very news.
        let heeds = !inner.all_waiting.is_empty() || inner.group.as_ref().is_some_and(Group::awaits_own_log);
        if inner.lingers {
            // The time may be over since: then it is called at once.
            let (jobs, time) = inner.pause().unwrap_or((1, Duration::ZERO));
            return Patience { jobs: if heeds { 1 } else { jobs }, time: Some(time) };
        }
        if inner.group.is_some() && !heeds { Patience::DEAF } else { Patience::NONE }
    }
}

/// Why the connection is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    /// No room, or someone else holds the write lock; tried again now and then.
    Stuck {
        /// When it was tried last.
        tried: MonoTime,
    },
    /// An entry could not be applied, the file is not what it should be, or
    /// the disk fails: only a new file mends it.
    Stopped,
}

/// How long a disk that is full is left alone.
const STUCK_RETRY: Duration = Duration::from_secs(1);

/// How often the files' size is looked at, for metrics.
const WEIGH_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Inner {
    /// `None` once closed.
    pub(super) engine: Option<Engine>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) group: Option<Group>,
    /// A group takes no more requests after so long.
    pub(super) group_time: Duration,
    pub(super) linger: Linger,
    /// The next group is put off: the worker is to be called for it.
    pub(super) lingers: bool,
    /// Committed entries that are not applied yet.
    pub(super) backlog: VecDeque<Entry>,
    pub(super) recent: Recent,
    pub(super) clock: HybridClock,
    pub(super) next_proposal: u64,
    /// Durable in this node's log.
    pub(super) durable: Seq,
    /// Durable on every voter.
    pub(super) all: Seq,
    pub(super) all_waiting: BTreeMap<Seq, Vec<oneshot::Sender<()>>>,
    pub(super) now: Box<dyn Fn() -> Now>,
    pub(super) out: Box<dyn Fn(NodeEvent)>,
    pub(super) applied: watch::Sender<Position>,
    /// The node loop has yet to hear of the last COMMIT.
    pub(super) untold: Option<(Position, ContentHash)>,
    pub(super) interrupt: Interrupt,
    pub(super) queue_max: usize,
    pub(super) pin: Pin,
    pub(super) fence: Option<Fence>,
    pub(super) checkpoints: Vec<oneshot::Sender<Result<Position, ApiError>>>,
    pub(super) file: std::path::PathBuf,
    /// The disk that it is on.
    pub(super) files: Drive,
    pub(super) stats: Arc<StoreStats>,
    /// When the files' size was looked at last.
    pub(super) weighed: Option<MonoTime>,
}

/// Gives a request back untouched.
pub(super) fn refuse(request: WriteRequest, refusal: Refusal) {
    let rejected = Box::new(Rejected { statements: request.statements });
    let _ = request.reply.send(Err(WriteError::Refused(refusal, rejected)));
}

fn closed() -> ApiError {
    ApiError::new(503, "stopping", "This node is stopping.")
}

impl Inner {
    fn path(&self) -> std::path::PathBuf {
        self.file.clone()
    }

    /// Why a request cannot run here now, if it cannot.
    fn refusal(&self) -> Option<Refusal> {
        if self.engine.is_none() {
            return Some(Refusal::Stopping);
        }
        if self.fence.is_some() {
            return Some(Refusal::Unfit);
        }
        let pin = &self.pin;
        (!pin.writable).then(|| Refusal::NotWriter { writer: pin.writer.clone(), term: pin.term })
    }

    fn take(&mut self, job: StoreJob) {
        match job {
            StoreJob::Write(request) => match self.refusal() {
                Some(refusal) => refuse(request, refusal),
                None if self.waiting.len() >= self.queue_max => {
                    let error = ApiError::new(503, "overloaded", "Too many writes are waiting; nothing was done.");
                    let _ = request.reply.send(Err(WriteError::Sql(error.retry_after(1))));
                }
                None => self.waiting.push_back(Waiting { request, alone: false }),
            },
            StoreJob::Pin(pin) => self.take_pin(pin),
            StoreJob::Proposed { id, first, last } => self.proposed(id, first, last),
            StoreJob::Refused { id, refusal } => {
                if let Some(group) = self.end_group(id) {
                    self.hand_back(group, &refusal);
                }
            }
            StoreJob::Unknown { id } => {
                if let Some(group) = self.end_group(id) {
                    self.give_up(group, Refusal::NotReady);
                }
            }
            StoreJob::Apply { entries } => self.take_entries(entries),
            StoreJob::Progress { durable, all } => {
                self.durable = self.durable.max(durable);
                self.all = self.all.max(all);
                self.answer_local();
                let later = self.all_waiting.split_off(&self.all.next());
                for done in std::mem::replace(&mut self.all_waiting, later).into_values().flatten() {
                    let _ = done.send(());
                }
            }
            StoreJob::Tick => {
                self.weigh();
                self.look_for_strangers();
            }
            StoreJob::Checkpoint { reply } => self.checkpoints.push(reply),
            StoreJob::Install { file, reply } => {
                self.abandon_group();
                let result = self.install(&file);
                let _ = reply.send(result);
            }
            StoreJob::Scrub { reply } => {
                let _ = reply.send(Err(closed()));
            }
            StoreJob::Close { reply } => {
                self.close();
                let _ = reply.send(());
            }
        }
    }

    fn take_pin(&mut self, pin: Pin) {
        self.interrupt.0.store(false, Ordering::Release);
        self.pin = pin;
        // A group that was proposed waits for its fate, pin or no pin.
        self.refuse_waiting();
        if self.pin.writable
            && self.group.is_none()
            && self.backlog.is_empty()
            && self.fence.is_none()
            && let Some(engine) = &mut self.engine
            && let Err(failure) = engine.become_role(Role::Writer)
        {
            // Tried again, and answered for, by the first group.
            tracing::warn!(%failure, "the write connection could not be reopened yet");
        }
    }

    fn refuse_waiting(&mut self) {
        if let Some(refusal) = self.refusal() {
            for waiting in self.waiting.drain(..) {
                refuse(waiting.request, refusal.clone());
            }
        }
    }

    /// Takes the group of that proposal off the connection, rolled back.
    fn end_group(&mut self, id: u64) -> Option<Group> {
        if self.group.as_ref().is_none_or(|g| g.id() != id) {
            return None;
        }
        if let Some(engine) = &mut self.engine {
            engine.rollback();
        }
        self.group.take()
    }

    fn abandon_group(&mut self) {
        if let Some(id) = self.group.as_ref().map(Group::id)
            && let Some(group) = self.end_group(id)
        {
            self.give_up(group, Refusal::NotReady);
        }
    }

    fn take_entries(&mut self, entries: Vec<Entry>) {
        let Some(engine) = &self.engine else { return };
        if self.fence == Some(Fence::Stopped) {
            return; // never skipped, never applied on top of a hole
        }
        for entry in entries {
            let next = self.backlog.back().map_or(engine.applied.seq, |e| e.seq).next();
            match entry.seq.cmp(&next) {
                std::cmp::Ordering::Less => {} // delivered again
                std::cmp::Ordering::Equal => self.backlog.push_back(entry),
                std::cmp::Ordering::Greater => {
                    tracing::error!(seq = entry.seq.0, expected = next.0, "entries are missing; these are not taken");
                    return;
                }
            }
        }
    }

    /// Does what can be done now: commit before anything else, then apply, then
    /// the next group.
    fn advance(&mut self) {
        self.retry_stuck();
        self.lingers = false;
        while self.fence.is_none() && self.engine.is_some() {
            if !self.backlog.is_empty() {
                match &self.group {
                    None => self.apply(),
                    Some(group) => {
                        let through = self.backlog.back().map(|e| e.seq);
                        match group.range() {
                            Some((_, last)) if through >= Some(last.seq) => self.commit_group(),
                            // Its own entries are not all there, or it is not
                            // known yet which they are.
                            Some(_) | None => break,
                        }
                    }
                }
            } else if self.group.is_none() && !self.waiting.is_empty() && !self.interrupt.0.load(Ordering::Acquire) {
                self.lingers = self.pause().is_some();
                if self.lingers {
                    break;
                }
                // Between two groups: under load there is no other time, and
                // the log is not trimmed before.
                self.checkpoint();
                if self.fence.is_none() {
                    self.run_group();
                }
            } else {
                break;
            }
        }
        if !self.lingers {
            self.tell_loop();
        }
        if self.group.is_none() {
            self.checkpoint();
        }
    }

    /// How many more requests the next group waits for, and how long, if it
    /// does.
    fn pause(&self) -> Option<(usize, Duration)> {
        self.linger.pause((self.now)().mono, self.waiting.len())
    }

    fn apply(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        if !follows(engine.applied, self.backlog.front()) {
            let at = engine.applied.seq.next();
            let why = "the entry does not follow what was applied".to_owned();
            return self.fence(Halt::Entry { at, why });
        }
        let before = engine.applied;
        let result = engine.apply_batch(&mut self.backlog, &mut self.recent);
        let applied = engine.applied.seq.0.saturating_sub(before.seq.0);
        if applied > 0 {
            self.stats.applied_entries.add(applied);
            self.stats.apply_entries.observe(applied);
            self.publish();
        }
        if let Err(halt) = result {
            self.fence(halt);
        }
    }

    fn count_waiting(&self) {
        self.stats.queue.set((self.waiting.len() + self.backlog.len()) as u64);
    }

    /// A node without traffic serves reads as well: what another process wrote
    /// must not wait for the next entry to be noticed. An open group looked
    /// when it began, and holds the write lock.
    fn look_for_strangers(&mut self) {
        if self.fence.is_some() || self.group.is_some() {
            return;
        }
        let Some(engine) = &mut self.engine else { return };
        if let Err(failure) = engine.check_foreign_write() {
            let at = engine.applied.seq.next();
            match halt(&failure, at) {
                Halt::Damaged(why) => self.fence(Halt::Damaged(why)),
                // Nothing is tried here that would tell more.
                other => tracing::debug!(?other, "whether another process wrote could not be seen"),
            }
        }
    }

    /// Looks how large the files are.
    fn weigh(&mut self) {
        let now = (self.now)().mono;
        if self.weighed.is_some_and(|at| now.since(at) < WEIGH_EVERY) {
            return;
        }
        self.weighed = Some(now);
        let mut wal = self.file.clone().into_os_string();
        wal.push("-wal");
        // A file that is not there has no bytes.
        let size = |path: &std::path::Path| self.files.size(path).ok().flatten().unwrap_or(0);
        self.stats.bytes.set(size(&self.file) + size(wal.as_ref()));
    }

    /// Tells everyone what `data.db` contains now.
    pub(super) fn publish(&mut self) {
        self.publish_to_readers();
        self.tell_loop();
    }

    /// Tells those who wait for a position; the node loop is told with what it
    /// hears next from here. It has other things to do while a writer's groups
    /// follow each other.
    pub(super) fn publish_to_readers(&mut self) {
        let Some(engine) = &self.engine else { return };
        self.clock.raise(engine.hlc);
        self.applied.send_replace(engine.applied);
        self.untold = Some((engine.applied, engine.content()));
    }

    /// Tells the node loop what it was not told yet.
    pub(super) fn tell_loop(&mut self) {
        if let Some((position, content)) = self.untold.take() {
            (self.out)(NodeEvent::Applied { position, content });
        }
    }

    /// Stops using the connection and says why.
    pub(super) fn fence(&mut self, halt: Halt) {
        self.tell_loop();
        let (fence, event) = match halt {
            Halt::Stuck(why) => {
                tracing::error!(why, "data.db cannot be written: reads go on, writes do not");
                (Fence::Stuck { tried: (self.now)().mono }, NodeEvent::Health(Organ::Store, StoreHealth::Full))
            }
            Halt::Entry { at, why } => {
                tracing::error!(%at, why, "an entry cannot be applied: this replica has stopped");
                (Fence::Stopped, NodeEvent::Health(Organ::Store, StoreHealth::ApplyHalted { at }))
            }
            Halt::Damaged(why) => {
                tracing::error!(why, "data.db is not what it should be: this node needs a new copy");
                (Fence::Stopped, NodeEvent::Health(Organ::Store, StoreHealth::Quarantined))
            }
            Halt::Fatal(why) => {
                tracing::error!(why, "the disk can no longer be believed");
                (Fence::Stopped, NodeEvent::Fatal(why))
            }
        };
        self.fence = Some(fence);
        if fence == Fence::Stopped {
            self.backlog.clear();
        }
        self.refuse_waiting();
        (self.out)(event);
    }

    /// A request was told that the disk is full: is it?
    pub(super) fn check_room(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        if let Err(failure) = engine.probe_room() {
            self.fence(Halt::Stuck(failure.to_string()));
        }
    }

    /// Sees whether it can be written again.
    fn retry_stuck(&mut self) {
        let Some(Fence::Stuck { tried }) = self.fence else { return };
        let now = (self.now)().mono;
        let Some(engine) = &mut self.engine else { return };
        if now.since(tried) < STUCK_RETRY || self.group.is_some() {
            return;
        }
        match engine.probe_room() {
            Ok(()) => {
                self.fence = None;
                (self.out)(NodeEvent::Health(Organ::Store, StoreHealth::Well));
            }
            Err(_) => {
                self.fence = Some(Fence::Stuck { tried: now });
            }
        }
    }

    fn checkpoint(&mut self) {
        for reply in std::mem::take(&mut self.checkpoints) {
            let result = match &mut self.engine {
                None => Err(closed()),
                Some(engine) => engine.checkpoint().map_err(|f| problem::storage("checkpoint data.db", &f)),
            };
            let failed = result.as_ref().err().filter(|e| e.code == "disk_error").map(ToString::to_string);
            let _ = reply.send(result);
            // An fsync that failed once may never be repeated (R11).
            if let Some(why) = failed {
                self.fence(Halt::Fatal(why));
            }
        }
        let Some(engine) = self.engine.as_mut().filter(|_| self.fence.is_none()) else { return };
        if let Err(failure) = engine.spill() {
            let at = engine.applied.seq;
            match halt(&failure, at) {
                // A reader or another checkpoint is in the way: next time.
                Halt::Stuck(_) if failure.primary() == rusqlite::ffi::SQLITE_BUSY => {}
                Halt::Entry { why, .. } => self.fence(Halt::Fatal(why)),
                other => self.fence(other),
            }
        }
    }

    fn close(&mut self) {
        self.abandon_group();
        self.backlog.clear();
        self.checkpoint();
        if let Some(mut engine) = self.engine.take()
            && self.fence.is_none()
            && let Err(failure) = engine.checkpoint()
        {
            tracing::warn!(%failure, "the last checkpoint failed; the write-ahead log has everything");
        }
        self.refuse_waiting();
    }

    /// What the file contains, for the node's start.
    pub(super) fn content(&self) -> ContentHash {
        self.engine.as_ref().map(Engine::content).unwrap_or_default()
    }
}
