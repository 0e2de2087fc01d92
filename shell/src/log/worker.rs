//! The log worker: carries out [`LogJob`]s in order.
//!
//! Decides what shares a transaction, when a record counts as durable, and
//! what becomes of errors. Knows nothing of elections or of `data.db`.
//!
//! # A full disk
//! Nothing of the failed transaction is on disk and nothing of it is
//! confirmed. The record stays at the head of the queue, every later one waits
//! behind it, [`NodeEvent::LogFull`] is reported once, and it is tried again
//! with back-off whenever a job comes in ([`LogJob::Tick`] at the latest).
//! Reads and trims go on meanwhile: trimming is what makes room. That there is
//! room again is reported when the record is durable.

use super::entries::{Change, Entries, Meta};
use super::hard_state::{HardStateFile, decode_position, encode_position};
use super::lock::DataDir;
use super::{LogError, LogLimits, LogStats, orphans, retention};
use crate::api::{LogJob, NodeEvent, Organ};
use crate::env::{Env, Work};
use crate::error::ApiError;
use base_ha_core::entry::Entry;
use base_ha_core::ids::Seq;
use base_ha_core::io::{HardState, PersistId, Record, StoreHealth};
use base_ha_core::member::Membership;
use base_ha_core::position::Position;
use base_ha_core::time::MonoTime;
use base_ha_core::wire;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Owns `log.db` and the hard state. Made by
/// [`super::OpenedLog::into_worker`].
pub struct LogWorker<E: Env> {
    env: E,
    /// Held to the end: it is the lock. `entries` is closed before it.
    entries: Option<Entries>,
    hard: HardStateFile,
    limits: LogLimits,
    out: Out,
    stats: Arc<LogStats>,
    /// Records not yet durable, oldest first.
    pending: VecDeque<(PersistId, Record)>,
    full: Option<Full>,
    /// Where an unfinished trim may go on to.
    trim_below: Seq,
    /// What a snapshot contains for certain: entries up to here are never
    /// orphans.
    settled: Seq,
    /// What an fsynced checkpoint of `data.db` contains, as trims have said.
    checkpointed: Seq,
    /// The incarnation has amnesia: its high-water mark is evidence and stays.
    amnesia: bool,
    noted: MonoTime,
    /// A write failed: nothing is written or confirmed any more.
    failed: bool,
    /// Given up once closed: whoever was told so may open the directory at once.
    dir: Option<DataDir>,
}

/// Where events go.
pub(super) type Out = Box<dyn Fn(NodeEvent) + Send + Sync>;

/// The disk is full since the last try.
#[derive(Clone, Copy, Debug)]
struct Full {
    again: MonoTime,
    wait: Duration,
}

/// Bytes of payload in one transaction: the WAL must hold them all before it
/// can be checkpointed.
const TRANSACTION_BYTES: usize = 16 << 20;

/// Pages in the WAL after which it is checkpointed. Measured with 16 entries of
/// 250 bytes a transaction: at 250 pages the checkpoints show in the p99 (0.95
/// ms, else 0.2); above 1,000 the p99 stays and only the longest wait grows
/// (4-8 ms, 35-55 ms at 16,000).
const CHECKPOINT_PAGES: u64 = 1000;

/// How often the high-water mark is noted, at most.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// And after how many entries at the latest.
const NOTE_ENTRIES: u64 = 1000;

const FULL_WAIT_MIN: Duration = Duration::from_millis(250);
const FULL_WAIT_MAX: Duration = Duration::from_secs(5);

impl<E: Env> Work<LogJob> for LogWorker<E> {
    fn run(&mut self, jobs: &mut VecDeque<LogJob>) {
        while let Some(job) = jobs.pop_front() {
            if let LogJob::Persist { id, record } = job {
                // Everything that queued up behind the last fsync shares the
                // next one.
                if !self.failed {
                    self.pending.push_back((id, record));
                }
                continue;
            }
            self.flush();
            self.carry_out(job);
        }
        self.flush();
        self.tend();
    }
}

impl<E: Env> LogWorker<E> {
    #[expect(clippy::too_many_arguments, reason = "called once, from recovery, which has exactly these")]
    pub(super) fn new(
        env: E,
        dir: DataDir,
        hard: HardStateFile,
        entries: Entries,
        limits: LogLimits,
        out: Out,
        stats: Arc<LogStats>,
        settled: Seq,
        amnesia: bool,
    ) -> Self {
        let noted = env.now().mono;
        Self {
            env,
            entries: Some(entries),
            hard,
            limits,
            out,
            stats,
            pending: VecDeque::new(),
            full: None,
            trim_below: Seq(0),
            settled,
            checkpointed: Seq(0),
            amnesia,
            noted,
            failed: false,
            dir: Some(dir),
        }
    }

    /// The numbers it keeps.
    pub fn stats(&self) -> Arc<LogStats> {
        self.stats.clone()
    }

    /// The log's own connection, to do to it what a disk would.
    #[cfg(test)]
    pub(super) fn connection(&self) -> Option<&rusqlite::Connection> {
        self.entries.as_ref().map(Entries::connection)
    }

    fn carry_out(&mut self, job: LogJob) {
        match job {
            LogJob::Persist { .. } => unreachable!("records are taken by `run`"),
            LogJob::Load { id, from, through, bytes_max } => {
                let (prev, entries) = match self.load_or_shorten(from, through, bytes_max) {
                    Ok(read) => read,
                    Err(error) => {
                        self.unreadable(error);
                        (Position::START, Vec::new())
                    }
                };
                (self.out)(NodeEvent::Loaded { id, prev, entries });
            }
            LogJob::LoadForApply { from, through, bytes_max, reply } => {
                let read = match self.load_or_shorten(from, through, bytes_max) {
                    Ok((_, entries)) if entries.is_empty() => Err(ApiError::new(
                        500,
                        "log_range_gone",
                        format!("the log does not hold entry {from}; a snapshot is needed"),
                    )),
                    Ok((_, entries)) => Ok(entries),
                    Err(error) => {
                        self.unreadable(error.clone());
                        Err(error.into())
                    }
                };
                let _ = reply.send(read);
            }
            LogJob::Trim { below } => {
                self.trim_below = self.trim_below.max(below);
                self.checkpointed = self.checkpointed.max(Seq(below.0.saturating_sub(1)));
                self.settled = self.settled.max(self.checkpointed);
            }
            LogJob::BeginInstall { position, keep_log, reply } => {
                let intent = encode_intent(&position, self.settled);
                let done = self
                    .may_install(position, keep_log)
                    .and_then(|()| self.write(|entries| entries.set_meta(Meta::InstallIntent, Some(&intent))));
                let _ = reply.send(done);
            }
            LogJob::FinishInstall { position, membership, reply } => {
                let done = self.finish_install(position, &membership);
                let _ = reply.send(done);
            }
            LogJob::ForgetInstall => {
                // What stays would only be looked at, and dropped, by a start.
                if let Err(error) = self.write(|log| log.set_meta(Meta::InstallIntent, None)) {
                    tracing::warn!(%error, "the intent to install a snapshot could not be taken back");
                }
            }
            LogJob::Tick => {}
            LogJob::Orphans { after, bytes_max, reply } => {
                let listed = self
                    .open_entries()
                    .and_then(|entries| orphans::list(entries.connection(), after, bytes_max).map_err(ApiError::from));
                let _ = reply.send(listed);
            }
            LogJob::ReleaseOrphan { id, reply } => {
                let done = self.write(|entries| orphans::release(entries.connection(), id));
                self.count_orphans();
                let _ = reply.send(done);
            }
            LogJob::Close { reply } => {
                self.close();
                let _ = reply.send(());
            }
        }
    }

    /// Makes pending records durable, in order, and says so.
    fn flush(&mut self) {
        if self.full.is_some_and(|full| self.env.now().mono < full.again) {
            return;
        }
        while !self.pending.is_empty() && !self.failed {
            let done = match self.pending.front() {
                Some((_, Record::HardState(state))) => {
                    let state = state.clone();
                    self.store_hard_state(state).map(|()| 1)
                }
                Some((_, Record::Append { .. })) => self.append_pending(),
                None => return,
            };
            match done {
                Ok(count) => {
                    let last = self.pending[count - 1].0;
                    self.pending.drain(..count);
                    // Said before anything else is begun: whoever waits for
                    // this fsync must not wait for the next one.
                    (self.out)(NodeEvent::Persisted(last));
                    self.leave_full();
                }
                Err(LogError::Full) => return self.enter_full(),
                Err(error) => return self.fail(&error),
            }
        }
    }

    /// Carries out the appends at the head of the queue in one transaction;
    /// answers how many records that were.
    fn append_pending(&mut self) -> Result<usize, LogError> {
        let started = self.env.now();
        let (mut changes, mut bytes, mut count, mut keep_min) = (Vec::new(), 0usize, 0u64, None::<Seq>);
        for (_, record) in &self.pending {
            let Record::Append { keep, entries } = record else { break };
            let more: usize = entries.iter().map(|e: &Entry| e.payload.len()).sum();
            if !changes.is_empty() && bytes + more > TRANSACTION_BYTES {
                break;
            }
            bytes += more;
            count += entries.len() as u64;
            keep_min = keep.map_or(keep_min, |keep| Some(keep_min.map_or(keep, |min| min.min(keep))));
            changes.push(Change { keep: *keep, entries });
        }
        let log = self.entries.as_mut().ok_or_else(closed)?;
        if let Some(keep) = keep_min.filter(|keep| *keep < self.hard.state().high_water.seq) {
            // First the mark, then the cut: a crash between them would
            // otherwise leave a log that ends below its mark, which is what
            // amnesia looks like.
            let kept = log.position(keep)?.ok_or_else(|| LogError::Damaged(format!("entry {keep} is missing")))?;
            let lowered = HardState { high_water: kept, ..self.hard.state().clone() };
            if !self.amnesia {
                self.hard.store(lowered).map_err(|e| LogError::Failed(format!("hard state: {e}")))?;
            }
        }
        let before = log.end();
        log.append(&changes, started.wall)?;
        let taken = changes.len();
        let forgot = keep_min.is_some_and(|keep| keep < before.seq);
        let stats = &self.stats;
        stats.fsync_seconds.observe_time(self.env.now().mono.since(started.mono));
        stats.fsync_entries.observe(count);
        stats.entries_appended.fetch_add(count, Ordering::Relaxed);
        stats.bytes_appended.fetch_add(bytes as u64, Ordering::Relaxed);
        stats.last.store(log.end().seq.0, Ordering::Relaxed);
        if forgot {
            self.count_orphans();
        }
        Ok(taken)
    }

    fn store_hard_state(&mut self, wanted: HardState) -> Result<(), LogError> {
        let log = self.entries.as_ref().ok_or_else(closed)?;
        let same = wanted.incarnation == self.hard.state().incarnation;
        let amnesia = self.amnesia && same;
        // The mark is this worker's to keep: what it has made durable. An
        // amnesiac's mark is the evidence until the incarnation is gone.
        let high_water = if amnesia { self.hard.state().high_water } else { log.end() };
        self.hard
            .store(HardState { high_water, ..wanted })
            .map_err(|e| LogError::Failed(format!("hard state: {e}")))?;
        self.amnesia = amnesia;
        Ok(())
    }

    /// What is due when no job waits: checkpoint, trim, high-water mark.
    fn tend(&mut self) {
        if self.failed || self.entries.is_none() {
            return;
        }
        if let Err(error) = self.checkpoint().and_then(|()| self.trim_chunk()).and_then(|()| self.note_high_water()) {
            match error {
                LogError::Full => self.enter_full(),
                error @ (LogError::Damaged(_) | LogError::Failed(_)) => self.fail(&error),
            }
        }
    }

    fn checkpoint(&mut self) -> Result<(), LogError> {
        let now = self.env.now().mono;
        let Some(log) = self.entries.as_mut() else { return Ok(()) };
        let retry = self.full.is_some_and(|full| now >= full.again) && self.pending.is_empty();
        if log.wal_pages() < CHECKPOINT_PAGES && !retry {
            return Ok(());
        }
        if self.full.is_some() && !retry {
            return Ok(());
        }
        log.checkpoint()?;
        self.stats.bytes.store(log.bytes_used()?, Ordering::Relaxed);
        if retry {
            self.leave_full();
        }
        Ok(())
    }

    /// Deletes one chunk; the rest waits for the next run, behind the appends
    /// that came in meanwhile.
    fn trim_chunk(&mut self) -> Result<(), LogError> {
        let Some(log) = self.entries.as_mut() else { return Ok(()) };
        let below = self.trim_below.min(log.end().seq.next());
        if below <= log.base().seq.next() {
            return Ok(());
        }
        let oldest = log.oldest(below, retention::CHUNK_ENTRIES)?;
        let Some(through) = retention::cut(&oldest, log.bytes_used()?, &self.limits, self.env.now().wall) else {
            // Kept by size and age: looked at again at the next Trim.
            self.trim_below = Seq(0);
            return Ok(());
        };
        log.trim(through)?;
        let base = log.base();
        self.stats.first.store(base.seq.0 + 1, Ordering::Relaxed);
        self.stats.bytes.store(log.bytes_used()?, Ordering::Relaxed);
        (self.out)(NodeEvent::Trimmed { first: base.seq.next(), base });
        Ok(())
    }

    fn note_high_water(&mut self) -> Result<(), LogError> {
        let Some(log) = self.entries.as_ref() else { return Ok(()) };
        let now = self.env.now().mono;
        let (end, noted) = (log.end(), self.hard.state().high_water.seq);
        let due = now.since(self.noted) >= NOTE_EVERY || end.seq.0 >= noted.0 + NOTE_ENTRIES;
        if self.amnesia || end.seq <= noted || !due {
            return Ok(());
        }
        self.noted = now;
        self.stats.bytes.store(log.bytes_used()?, Ordering::Relaxed);
        self.hard.note_high_water(end).map_err(|e| LogError::Failed(format!("hard state: {e}")))
    }

    fn load(&self, from: Seq, through: Seq, bytes_max: usize) -> Result<(Position, Vec<Entry>), LogError> {
        let log = self.entries.as_ref().ok_or_else(closed)?;
        // Records that wait for space may change what comes after this: it is
        // not the log any more, or not yet.
        let stable = self.pending.iter().filter_map(|(_, record)| match record {
            Record::Append { keep, entries } => keep.or_else(|| entries.first().map(|e| Seq(e.seq.0 - 1))),
            Record::HardState(_) => None,
        });
        let through = stable.fold(through, Seq::min);
        if through < from {
            return Ok((log.base(), Vec::new()));
        }
        log.load(from, through, bytes_max)
    }

    /// Reads; on damage below what `data.db` durably contains, gives that part
    /// of the log up. It was a courtesy to peers that lag, and they get a
    /// snapshot instead; what this node answers for lies after it.
    fn load_or_shorten(
        &mut self,
        from: Seq,
        through: Seq,
        bytes_max: usize,
    ) -> Result<(Position, Vec<Entry>), LogError> {
        let read = self.load(from, through, bytes_max);
        let (Err(LogError::Damaged(what)), Some(log)) = (&read, self.entries.as_mut()) else { return read };
        let safe = self.checkpointed.min(log.end().seq);
        if safe <= log.base().seq || self.failed {
            return read;
        }
        tracing::error!(what, through = %safe, "the log is damaged where data.db has it all: that part is given up");
        log.trim(safe)?;
        let base = log.base();
        self.stats.first.store(base.seq.0 + 1, Ordering::Relaxed);
        (self.out)(NodeEvent::Trimmed { first: base.seq.next(), base });
        self.load(from, through, bytes_max)
    }

    /// What was written can't be read back: this node can no longer stand by
    /// what it acknowledged. Nothing is cut out; the fact is noted and the
    /// process ends, and its next start is that of an amnesiac.
    fn unreadable(&mut self, error: LogError) {
        if let (LogError::Damaged(_), Some(log), false) = (&error, self.entries.as_mut(), self.failed) {
            let incarnation = self.hard.state().incarnation;
            if let Err(error) = log.set_meta(Meta::AmnesiaOf, Some(&incarnation.0.to_le_bytes())) {
                tracing::error!(%error, "the log's damage could not be noted in it");
            }
            self.amnesia = true;
        }
        self.fail(&error);
    }

    /// Whether a snapshot fits this log: asked before anything is replaced, for
    /// afterwards there is no way back.
    fn may_install(&mut self, position: Position, keep_log: bool) -> Result<(), ApiError> {
        let log = self.open_entries()?;
        if position.seq < log.base().seq {
            return Err(too_old(position, log.base()));
        }
        if keep_log && !log.contains(&position)? {
            return Err(ApiError::new(
                409,
                "snapshot_ahead",
                format!("the snapshot ends at {} and this log does not hold that yet", position.seq),
            ));
        }
        Ok(())
    }

    fn finish_install(&mut self, position: Position, membership: &Membership) -> Result<bool, ApiError> {
        let wall = self.env.now().wall;
        let settled = self.settled.min(position.seq);
        let log = self.open_entries()?;
        if position.seq < log.base().seq {
            return Err(too_old(position, log.base()));
        }
        if log.contains(&position)? {
            self.write(|log| log.set_meta(Meta::InstallIntent, None))?;
            self.settled = position.seq;
            return Ok(false);
        }
        if !self.amnesia && self.hard.state().high_water.seq >= position.seq {
            // Before the cut, as in `append_pending`.
            let lowered = HardState { high_water: Position::START, ..self.hard.state().clone() };
            if let Err(error) = self.hard.store(lowered) {
                let error = LogError::Failed(format!("hard state: {error}"));
                self.fail(&error);
                return Err(error.into());
            }
        }
        let raw = (position.seq, wire::encode_membership(membership));
        self.write(|log| log.reset(position, Some(&raw), None, settled, wall))?;
        self.settled = position.seq;
        self.stats.first.store(position.seq.0 + 1, Ordering::Relaxed);
        self.stats.last.store(position.seq.0, Ordering::Relaxed);
        self.count_orphans();
        Ok(true)
    }

    /// One write outside the queue of records; behind it, so refused while
    /// that waits for space.
    fn write<T>(&mut self, body: impl FnOnce(&mut Entries) -> Result<T, LogError>) -> Result<T, ApiError> {
        if !self.pending.is_empty() {
            return Err(LogError::Full.into());
        }
        let done = body(self.open_entries()?);
        match &done {
            Ok(_) => {}
            Err(LogError::Full) => self.enter_full(),
            Err(error @ (LogError::Damaged(_) | LogError::Failed(_))) => self.fail(error),
        }
        done.map_err(ApiError::from)
    }

    fn open_entries(&mut self) -> Result<&mut Entries, ApiError> {
        if self.failed {
            return Err(LogError::Failed("an earlier write failed; the process is ending".into()).into());
        }
        self.entries.as_mut().ok_or_else(|| closed().into())
    }

    fn count_orphans(&self) {
        let Some(log) = self.entries.as_ref() else { return };
        match orphans::count(log.connection()) {
            Ok((count, bytes)) => {
                self.stats.orphans.store(count, Ordering::Relaxed);
                self.stats.orphan_bytes.store(bytes, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "forgotten entries could not be counted"),
        }
    }

    fn enter_full(&mut self) {
        let wait = self.full.map_or(FULL_WAIT_MIN, |full| (full.wait * 2).min(FULL_WAIT_MAX));
        if self.full.is_none() {
            tracing::error!("no space left for the log: nothing is acknowledged until there is");
            (self.out)(NodeEvent::Health(Organ::Log, StoreHealth::Full));
        }
        self.full = Some(Full { again: self.env.now().mono.after(wait), wait });
    }

    fn leave_full(&mut self) {
        if self.full.take().is_some() {
            tracing::info!("there is space for the log again");
            (self.out)(NodeEvent::Health(Organ::Log, StoreHealth::Well));
        }
    }

    fn fail(&mut self, error: &LogError) {
        if self.failed {
            return;
        }
        self.failed = true;
        self.pending.clear();
        if let Some(log) = self.entries.as_ref() {
            log.abandon();
        }
        tracing::error!(%error, "the log failed; the process must end");
        (self.out)(NodeEvent::Fatal(error.to_string()));
    }

    fn close(&mut self) {
        let Some(log) = self.entries.take() else { return };
        self.pending.clear();
        let end = log.end();
        // A clean close leaves an exact mark. Not after a failure: what reached
        // the disk is not known then.
        if !self.failed && !self.amnesia && self.hard.state().high_water != end {
            let state = HardState { high_water: end, ..self.hard.state().clone() };
            if let Err(error) = self.hard.store(state) {
                tracing::warn!(%error, "the high-water mark could not be noted");
            }
        }
        if let Err(error) = log.close() {
            tracing::warn!(%error, "the log was not closed cleanly; it is whole all the same");
        }
        // What comes in now is neither written nor confirmed, and no failure.
        self.failed = true;
        // After the last write: from here on another process may write.
        self.dir = None;
    }
}

/// An install's intent: what the snapshot contains, and up to where the log is
/// known to be in `data.db`, which a crash would otherwise make forgotten.
fn encode_intent(position: &Position, settled: Seq) -> Vec<u8> {
    [&encode_position(position)[..], &settled.0.to_le_bytes()].concat()
}

/// Reads what [`encode_intent`] wrote.
pub(super) fn decode_intent(bytes: &[u8]) -> Option<(Position, Seq)> {
    let (position, settled) = bytes.split_first_chunk::<48>()?;
    Some((decode_position(position)?, Seq(u64::from_le_bytes(settled.try_into().ok()?))))
}

fn too_old(position: Position, base: Position) -> ApiError {
    ApiError::new(
        409,
        "snapshot_too_old",
        format!(
            "the snapshot ends at {} and this log begins after {}: what lies between is nowhere here",
            position.seq, base.seq
        ),
    )
}

fn closed() -> LogError {
    LogError::Failed("the log is closed".into())
}
