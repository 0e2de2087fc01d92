//! What a start finds on disk, and the re-founding of a lost cluster.
//!
//! Decides what is amnesia, what an interrupted step is completed to, and what
//! is set aside. Knows nothing of `data.db` beyond what its caller says.

use super::entries::{Entries, Meta};
use super::hard_state::{HardStateFile, decode_state, encode_state};
use super::lock::DataDir;
use super::worker::{LogWorker, Out, decode_intent};
use super::{LogError, LogLimits, LogStats, orphans};
use crate::api::NodeEvent;
use crate::env::Env;
use crate::env::files::settle;
use crate::error::ApiError;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::HybridClock;
use base_ha_core::ids::{ClusterId, ContentHash, Incarnation, Lineage, NodeId, Seq, StreamId, Term, Url};
use base_ha_core::io::{HardState, Recovered};
use base_ha_core::member::{Member, Membership, Role};
use base_ha_core::position::Position;
use base_ha_core::wire;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A log that was opened and is not yet at work.
pub struct OpenedLog<E: Env> {
    env: E,
    dir: DataDir,
    hard: HardStateFile,
    entries: Entries,
    limits: LogLimits,
    out: Out,
    stats: Arc<LogStats>,
    fresh: bool,
    settled: Seq,
}

/// What [`OpenedLog::refound`] did, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefoundSummary {
    /// The cluster that was lost.
    pub old_cluster: ClusterId,
    /// The cluster that begins here.
    pub new_cluster: ClusterId,
    /// Its history's number; older tokens answer 409.
    pub lineage: Lineage,
    /// This node's new incarnation.
    pub incarnation: Incarnation,
    /// The term from which it goes on.
    pub term: Term,
    /// Where the old log ended: everything up to here counts as committed.
    pub kept: Position,
    /// What `data.db` contains of it; the rest is applied at the next start.
    pub applied: Position,
    /// The entry that founds the new cluster.
    pub founded: Position,
    /// Members of the old cluster that are not in the new one. None of them
    /// may ever be started with its old directory again.
    pub left_behind: Vec<Member>,
}

/// From where a lost `data.db` can be had again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// This node's own log holds everything since the beginning.
    Log,
    /// Other members hold copies.
    Members,
}

/// How much of the newest log is read back whole at the start.
const VERIFY_BYTES: u64 = 16 << 20;

/// Opens the data directory, making it if it is missing, and reads what the
/// log says. `out` gets the worker's events.
///
/// A `log.db` that can't be read is set aside under another name and replaced
/// by an empty one that remembers the amnesia; it is never mended.
///
/// # Errors
/// `data_dir_unwritable`, `data_dir_locked`, `data_dir_newer`,
/// `data_dir_unknown`, `hard_state_damaged`, `hard_state_missing`,
/// `log_failed`, `disk_full`.
pub fn open<E: Env>(
    env: E,
    dir: &Path,
    limits: LogLimits,
    out: impl Fn(NodeEvent) + Send + Sync + 'static,
) -> Result<OpenedLog<E>, ApiError> {
    let dir = DataDir::open(env.files(), dir)?;
    let (log_path, hard_path) = (dir.join("log.db"), dir.join("hard_state"));
    // What is read below was perhaps only ever in the system's memory: names
    // too, of files that a killed process had just made or moved.
    for name in ["hard_state", "log.db-wal"] {
        settle(dir.files(), &dir.join(name)).map_err(|e| dir.unwritable(&e))?;
    }
    dir.sync()?;
    // A directory is made in the order FORMAT, log.db, hard_state: with a hard
    // state it is complete.
    let fresh = !dir.holds("hard_state")?;
    let hard = if fresh { None } else { Some(HardStateFile::open(dir.files(), &hard_path)?) };
    let known = hard.as_ref().map(|h| h.state().incarnation);
    let mut opened = if dir.holds("log.db")? {
        Entries::open(&log_path)
    } else if known.is_none() {
        create(&dir, &env, None)
    } else {
        Err(LogError::Damaged("log.db is gone".into()))
    };
    if let (Err(LogError::Damaged(what)), Some(incarnation)) = (&opened, known) {
        set_aside(&dir, &env, what)?;
        opened = create(&dir, &env, Some(incarnation));
    }
    let mut entries = opened?;
    let mut hard = match hard {
        Some(hard) => hard,
        None if entries.end() != Position::START => {
            return Err(ApiError::new(
                500,
                "hard_state_missing",
                format!(
                    "{} is gone although log.db holds entries, so this node no longer knows for whom it voted; \
                     nothing was changed. Move the whole data directory away and start again: the node joins as a \
                     new one",
                    hard_path.display()
                ),
            ));
        }
        None => {
            let state = HardState { incarnation: Incarnation(random(&env)), ..HardState::default() };
            let hard = HardStateFile::create(dir.files(), &hard_path, state).map_err(|e| dir.unwritable(&e))?;
            dir.sync()?;
            hard
        }
    };
    if let Some(bytes) = entries.meta(Meta::Refound)? {
        // `refound` was interrupted after its transaction: go on from there.
        let state = decode_state(&bytes).ok_or_else(|| LogError::Damaged("its re-founding cannot be read".into()))?;
        hard.store(state).map_err(|e| dir.unwritable(&e))?;
        entries.set_meta(Meta::Refound, None)?;
    }
    let stats = Arc::new(LogStats::default());
    Ok(OpenedLog { env, dir, hard, entries, limits, out: Box::new(out), stats, fresh, settled: Seq(0) })
}

impl<E: Env> OpenedLog<E> {
    /// Whether the directory was made just now: an empty disk, however it is
    /// named.
    pub fn fresh(&self) -> bool {
        self.fresh
    }

    /// The hard state as found.
    pub fn hard_state(&self) -> &HardState {
        self.hard.state()
    }

    /// The point before the log's first entry: what a witness passes as its
    /// store's position.
    pub fn base(&self) -> Position {
        self.entries.base()
    }

    /// The last entry; the base if there is none.
    pub fn end(&self) -> Position {
        self.entries.end()
    }

    /// The log's counters, shared with the worker.
    pub fn stats(&self) -> Arc<LogStats> {
        self.stats.clone()
    }

    /// From where `data.db` can be had again if it is lost; `None` if from
    /// nowhere, and it must not be replaced. What was committed is not at
    /// stake: it is in the log of a majority.
    ///
    /// # Errors
    /// `log_failed`, `log_damaged`.
    pub fn replacement(&self) -> Result<Option<Replacement>, ApiError> {
        let (base, end) = (self.entries.base(), self.entries.end());
        if end == Position::START {
            return Ok(None);
        }
        if base == Position::START && !self.amnesia()? {
            return Ok(Some(Replacement::Log));
        }
        let known = match self.entries.configs_after(Seq(0))?.pop() {
            Some(newest) => Some(newest),
            None => self.entries.base_membership()?,
        };
        let Some((seq, bytes)) = known else { return Ok(None) };
        let own = self.hard.state().incarnation;
        let other = |m: &Member| m.identity.as_ref().is_some_and(|(_, of)| *of != own) && m.role != Role::Witness;
        let others = decode(seq, bytes)?.members.iter().any(other);
        Ok(others.then_some(Replacement::Members))
    }

    /// Puts a `data.db` that can't be used out of the way.
    ///
    /// # Errors
    /// `data_dir_unwritable`.
    pub fn set_data_aside(&self) -> Result<Vec<String>, ApiError> {
        self.dir.set_aside("data.db", self.env.now().wall.0)
    }

    /// Holds the log against what `data.db` contains, completes an interrupted
    /// snapshot, decides on amnesia, and reads what the core starts from.
    ///
    /// After amnesia the log agrees with the store again: if it did not reach
    /// the store's position, it restarts there. The fact itself stays on disk
    /// until a hard state with another incarnation is written.
    ///
    /// # Errors
    /// `log_failed`, `disk_full`: the start must be given up. `log_damaged`
    /// only if the fresh log that replaced a damaged one is damaged again.
    pub fn recovered(
        &mut self,
        store_position: Position,
        store_content: ContentHash,
        store_membership: Option<(Seq, Membership)>,
    ) -> Result<Recovered, ApiError> {
        self.settled = store_position.seq;
        let read = match self
            .reconcile(store_position, store_membership.as_ref())
            .and_then(|()| self.read(store_position, store_membership.as_ref()))
        {
            Err(LogError::Damaged(what)) => {
                self.replace(&what)?;
                self.reconcile(store_position, store_membership.as_ref())?;
                self.read(store_position, store_membership.as_ref())?
            }
            other => other?,
        };
        let (orphans, orphan_bytes) = orphans::count(self.entries.connection())?;
        let stats = &self.stats;
        stats.first.store(self.entries.base().seq.0 + 1, Ordering::Relaxed);
        stats.last.store(self.entries.end().seq.0, Ordering::Relaxed);
        stats.bytes.store(self.entries.bytes_used()?, Ordering::Relaxed);
        stats.orphans.store(orphans, Ordering::Relaxed);
        stats.orphan_bytes.store(orphan_bytes, Ordering::Relaxed);
        Ok(Recovered { content: store_content, ..read })
    }

    /// Puts the log to work. Call [`OpenedLog::recovered`] first.
    ///
    /// # Errors
    /// `log_failed` if the log can't be read.
    pub fn into_worker(self) -> Result<LogWorker<E>, ApiError> {
        let amnesia = self.amnesia()?;
        Ok(LogWorker::new(
            self.env,
            self.dir,
            self.hard,
            self.entries,
            self.limits,
            self.out,
            self.stats,
            self.settled,
            amnesia,
        ))
    }

    /// Makes this node alone the founder of a new cluster that goes on with
    /// its data: a new `ClusterId`, the lineage plus one, a new incarnation, a
    /// new term, and one `Config` entry after the end of the log. Everything in
    /// this log counts as committed from then on; what only others held is
    /// lost, which is why a person must ask for it.
    ///
    /// It is one transaction of `log.db`; a crash leaves the old cluster or the
    /// new one. The log is closed afterwards.
    ///
    /// # Errors
    /// `nothing_to_refound` if the directory never belonged to a cluster;
    /// otherwise as for [`OpenedLog::recovered`].
    pub fn refound(
        mut self,
        node: &NodeId,
        url: &Url,
        store_position: Position,
        store_membership: Option<(Seq, Membership)>,
    ) -> Result<RefoundSummary, ApiError> {
        let found = self.recovered(store_position, ContentHash::default(), store_membership)?;
        let Some((_, old)) = found.memberships.last().cloned() else {
            return Err(ApiError::new(
                409,
                "nothing_to_refound",
                "this data directory never belonged to a cluster; start the node instead",
            ));
        };
        let kept = self.entries.end();
        let incarnation = Incarnation(random(&self.env));
        let term = found.hard.term.max(kept.term).next();
        let membership = Membership {
            version: old.version.next(),
            cluster: ClusterId(random(&self.env)),
            mode: old.mode,
            lineage: old.lineage.next(),
            members: vec![Member {
                url: url.clone(),
                identity: Some((node.clone(), incarnation)),
                role: Role::Voter,
                target: None,
            }],
        };
        // Its stamp only has to follow the log's; how far ahead that is does
        // not matter here.
        let hlc = HybridClock::new(found.hlc, Duration::MAX).tick(self.env.now().wall);
        let payload = wire::encode_membership(&membership);
        let entry = Entry::following(&kept, StreamId::SHARED, term, hlc, EntryKind::Config, payload);
        let hard = HardState {
            cluster: membership.cluster,
            incarnation,
            term,
            voted_for: Some((node.clone(), incarnation)),
            high_water: entry.position(),
        };
        self.entries.refound(&entry, &encode_state(&hard))?;
        self.hard.store(hard).map_err(|e| self.dir.unwritable(&e))?;
        self.entries.set_meta(Meta::Refound, None)?;
        tracing::warn!(
            old = %old.cluster, new = %membership.cluster, kept = %kept.seq,
            "a new cluster was founded from this node's data; members of the old one must not come back"
        );
        let left_behind = old.members.into_iter().filter(|m| m.id() != Some(node)).collect();
        self.entries.close()?;
        Ok(RefoundSummary {
            old_cluster: old.cluster,
            new_cluster: membership.cluster,
            lineage: membership.lineage,
            incarnation,
            term,
            kept,
            applied: store_position,
            founded: entry.position(),
            left_behind,
        })
    }

    fn amnesia(&self) -> Result<bool, LogError> {
        let of = self.entries.meta(Meta::AmnesiaOf)?;
        Ok(of.is_some_and(|of| of == self.hard.state().incarnation.0.to_le_bytes()))
    }

    /// Brings log and store to one story.
    fn reconcile(&mut self, store: Position, membership: Option<&(Seq, Membership)>) -> Result<(), LogError> {
        let incarnation = self.hard.state().incarnation;
        let membership = membership.map(|(seq, m)| (*seq, wire::encode_membership(m)));
        let wall = self.env.now().wall;
        if let Some(intent) = self.entries.meta(Meta::InstallIntent)? {
            let (intent, settled) =
                decode_intent(&intent).ok_or_else(|| LogError::Damaged("its install intent cannot be read".into()))?;
            if intent == store && !self.entries.contains(&store)? && store.seq > self.entries.base().seq {
                // The crash came after `data.db` was replaced and before the
                // log was told: finish that.
                tracing::info!(at = %store.seq, "finishing the installation of a snapshot");
                self.lower_mark(store)?;
                self.entries.reset(store, membership.as_ref(), None, settled, wall)?;
            } else {
                // `data.db` is still the old one, or the log reaches there.
                self.entries.set_meta(Meta::InstallIntent, None)?;
            }
        }
        let mark = self.hard.state().high_water;
        let (base, end) = (self.entries.base(), self.entries.end());
        let forgot = |point: &Position| -> Result<bool, LogError> {
            Ok(point.seq >= base.seq && !self.entries.contains(point)?)
        };
        let (below_mark, below_store) = (forgot(&mark)?, forgot(&store)?);
        if (below_mark || below_store) && !self.amnesia()? {
            tracing::error!(
                log = ?end, high_water = ?mark, applied = ?store,
                "the log ends below what it once held: this node takes a new incarnation and learns again"
            );
            self.entries.set_meta(Meta::AmnesiaOf, Some(&incarnation.0.to_le_bytes()))?;
        }
        if below_store {
            // What lies up to the last common point is in `data.db`; which of
            // the rest is, can't be told.
            let orphans_after = if end.seq < store.seq { end.seq } else { Seq(store.seq.0.saturating_sub(1)) };
            self.entries.reset(store, membership.as_ref(), Some(incarnation), orphans_after, wall)?;
        }
        Ok(())
    }

    /// The mark must not name a point that the log is about to lose.
    fn lower_mark(&mut self, position: Position) -> Result<(), LogError> {
        if self.amnesia()? || self.hard.state().high_water.seq < position.seq {
            return Ok(());
        }
        let state = HardState { high_water: Position::START, ..self.hard.state().clone() };
        self.hard.store(state).map_err(|e| LogError::Failed(format!("hard state: {e}")))
    }

    fn read(&self, store: Position, membership: Option<&(Seq, Membership)>) -> Result<Recovered, LogError> {
        let log = &self.entries;
        let (base, end) = (log.base(), log.end());
        let tail_after = Seq(store.seq.0.saturating_sub(Recovered::TAIL_MAX as u64)).max(base.seq);
        let tail = log.positions_after(tail_after)?;
        let mut from = log.last_bytes(store.seq.max(base.seq), VERIFY_BYTES)?;
        while from <= end.seq {
            let (_, read) = log.load(from, end.seq, 1 << 20)?;
            from = read.last().map_or(end.seq, |entry| entry.seq).next();
        }
        let mut memberships = Vec::new();
        match membership {
            Some((seq, m)) => memberships.push((*seq, m.clone())),
            None => {
                if let Some((seq, bytes)) = log.base_membership()? {
                    memberships.push((seq, decode(seq, bytes)?));
                }
            }
        }
        let after = memberships.last().map_or(Seq(0), |(seq, _)| *seq);
        for (seq, bytes) in log.configs_after(after)? {
            memberships.push((seq, decode(seq, bytes)?));
        }
        Ok(Recovered {
            hard: self.hard.state().clone(),
            log_base: base,
            tail,
            terms: log.terms()?,
            applied: store,
            content: ContentHash::default(),
            memberships,
            hlc: log.hlc(),
            amnesia: self.amnesia()?,
        })
    }

    /// Sets a log aside whose damage showed only when it was read.
    fn replace(&mut self, what: &str) -> Result<(), ApiError> {
        // The old connection must be gone before its files are: closing it
        // checkpoints into them.
        let spare = self.dir.join("log.db.closing");
        Entries::create(self.dir.files(), &spare, None)?;
        let old = std::mem::replace(&mut self.entries, Entries::open(&spare)?);
        drop(old);
        set_aside(&self.dir, &self.env, what)?;
        let spare_log =
            std::mem::replace(&mut self.entries, create(&self.dir, &self.env, Some(self.hard.state().incarnation))?);
        drop(spare_log);
        self.dir.files().remove(&spare).map_err(|e| self.dir.unwritable(&e))
    }
}

fn decode(seq: Seq, bytes: bytes::Bytes) -> Result<Membership, LogError> {
    wire::decode_membership(bytes)
        .map_err(|error| LogError::Damaged(format!("the membership of entry {seq} cannot be read: {error}")))
}

fn create<E: Env>(dir: &DataDir, env: &E, amnesia_of: Option<Incarnation>) -> Result<Entries, LogError> {
    let path = dir.join("log.db");
    if dir.holds("log.db-wal").map_err(|e| LogError::Failed(e.message))? {
        // SQLite would play a WAL that lost its database into the new one.
        set_aside(dir, env, "a WAL without its database").map_err(|e| LogError::Failed(e.message))?;
    }
    Entries::create(dir.files(), &path, amnesia_of)?;
    dir.sync().map_err(|e| LogError::Failed(e.message))?;
    Entries::open(&path)
}

/// Renames what there is of `log.db`, for the operator.
fn set_aside<E: Env>(dir: &DataDir, env: &E, what: &str) -> Result<(), ApiError> {
    let moved = dir.set_aside("log.db", env.now().wall.0)?;
    tracing::error!(what, set_aside = ?moved, "the log is damaged: this node takes a new incarnation and learns again");
    Ok(())
}

fn random<E: Env>(env: &E) -> u128 {
    let mut bytes = [0; 16];
    env.entropy(&mut bytes);
    // Zero means "none" for a cluster; that it is drawn is not worth a branch
    // anywhere else.
    u128::from_le_bytes(bytes).max(1)
}
