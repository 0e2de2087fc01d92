//! A machine's disk: what is durable, and what only seems to be.
//!
//! Decides what a crash leaves. Records are made durable in the order in which
//! they were asked for, each after a while of its own; a crash keeps a prefix
//! of those under way. `data.db` is synced less often than the log: a power cut
//! takes it back to any commit since its last checkpoint.

use crate::data::{Content, Data};
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::ids::{Incarnation, Seq};
use base_ha_core::io::{HardState, PersistId, Record, Recovered};
use base_ha_core::position::Position;
use base_ha_core::wire::decode_membership;
use std::collections::VecDeque;

/// A log: what follows `base`.
#[derive(Clone, Debug, Default, Hash)]
pub struct Log {
    /// The point before the first entry.
    pub base: Position,
    /// The entries, without a gap.
    pub entries: VecDeque<Entry>,
}

impl Log {
    /// The last point.
    pub fn last(&self) -> Position {
        self.entries.back().map_or(self.base, Entry::position)
    }

    /// The entry at `seq`.
    pub fn get(&self, seq: Seq) -> Option<&Entry> {
        let index = seq.0.checked_sub(self.base.seq.0 + 1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The point at `seq`, the base included.
    pub fn position(&self, seq: Seq) -> Option<Position> {
        if seq == self.base.seq {
            return Some(self.base);
        }
        self.get(seq).map(Entry::position)
    }

    /// Whether the entry at `at` is in it, or lies before its base.
    pub fn holds(&self, at: &Position) -> bool {
        at.seq < self.base.seq || self.position(at.seq).is_some_and(|p| p.hash == at.hash)
    }

    fn keep(&mut self, through: Seq) {
        assert!(through >= self.base.seq, "truncation to {through} below the log's base {}", self.base.seq);
        self.entries.truncate((through.0 - self.base.seq.0) as usize);
    }

    fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            let last = self.last();
            let follows = entry.seq.0 == last.seq.0 + 1 && entry.prev_hash == last.hash && entry.term >= last.term;
            assert!(follows, "entry {} does not follow {last:?}", entry.seq);
            self.entries.push_back(entry.clone());
        }
    }

    fn trim(&mut self, through: Seq) {
        while self.base.seq < through {
            let Some(entry) = self.entries.pop_front() else {
                return;
            };
            self.base = entry.position();
        }
    }
}

/// Something on its way to the disk.
#[derive(Clone, Debug, Hash)]
pub enum DiskOp {
    /// A record of the node.
    Record {
        /// Its name.
        id: PersistId,
        /// What it says.
        record: Record,
    },
    /// A snapshot that replaces `data.db`, and the log if that does not reach
    /// it.
    Install {
        /// What it contains.
        data: Data,
        /// The log now starts where it ends; known once it is done.
        log_reset: bool,
        /// The log was trimmed beyond it meanwhile: nothing was replaced.
        too_old: bool,
    },
}

/// One machine's disk.
#[derive(Clone, Debug, Default, Hash)]
pub struct Disk {
    /// The hard state that a crash leaves.
    pub hard: HardState,
    /// The log that a crash leaves.
    pub log: Log,
    /// The log as its own process reads it: everything asked for so far.
    pub seen: Log,
    /// `data.db` as its own process reads it.
    pub data: Data,
    /// Every state of `data.db` since the last checkpoint, which is the first.
    commits: Vec<Data>,
    pending: VecDeque<DiskOp>,
    /// An entry that can no longer be read.
    rotten: Option<Seq>,
    /// The incarnation whose log was set aside.
    forgot: Option<Incarnation>,
}

/// What a crash does to records under way beyond a prefix of them: the hard
/// state and the log are two files.
#[derive(Clone, Copy, Debug)]
pub struct Unsynced {
    /// It is the hard state that is ahead, not the log.
    pub hard_state: bool,
    /// So many more of its records are durable.
    pub records: usize,
    /// If the log is ahead, how much of its next record is there, in 1/1000.
    pub torn_pm: u32,
}

/// What became of records under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leftover {
    /// One is durable and one before it is not.
    pub reordered: bool,
    /// A part of one is durable.
    pub torn: bool,
}

impl Disk {
    /// Takes note of something to be made durable.
    pub fn request(&mut self, op: DiskOp) {
        match &op {
            DiskOp::Record { record: Record::Append { keep, entries }, .. } => {
                if let Some(keep) = keep {
                    self.seen.keep(*keep);
                }
                // Here each entry comes in; from now on it cannot change.
                for entry in entries {
                    assert_eq!(entry.hash, entry.compute_hash(), "the hash of entry {}", entry.seq);
                }
                self.seen.append(entries);
            }
            DiskOp::Record { record: Record::HardState(_), .. } => {}
            // The node knows nothing of it before it is done.
            DiskOp::Install { .. } => {}
        }
        self.pending.push_back(op);
    }

    /// The oldest thing under way is durable.
    pub fn complete(&mut self) -> Option<DiskOp> {
        let mut op = self.pending.pop_front()?;
        self.perform(&mut op);
        Some(op)
    }

    fn perform(&mut self, op: &mut DiskOp) {
        match op {
            DiskOp::Record { record: Record::HardState(hard), .. } => {
                self.hard = HardState { high_water: self.log.last(), ..hard.clone() };
            }
            DiskOp::Record { record: Record::Append { keep, entries }, .. } => {
                if let Some(keep) = keep {
                    self.log.keep(*keep);
                    // The mark goes down before the log does: otherwise a crash
                    // in between would look like amnesia.
                    if self.hard.high_water.seq > *keep {
                        self.hard.high_water = self.log.last();
                    }
                }
                self.log.append(entries);
            }
            DiskOp::Install { data, too_old, .. } if data.applied.seq < self.log.base.seq => *too_old = true,
            DiskOp::Install { data, log_reset, .. } => {
                *log_reset = self.log.position(data.applied.seq) != Some(data.applied);
                if *log_reset {
                    self.log = Log { base: data.applied, entries: VecDeque::new() };
                    self.seen = self.log.clone();
                    self.hard.high_water = data.applied;
                }
                self.data = data.clone();
                self.commits = vec![data.clone()];
            }
        }
    }

    /// Whether the oldest thing under way is a snapshot.
    pub fn installs_next(&self) -> bool {
        matches!(self.pending.front(), Some(DiskOp::Install { .. }))
    }

    /// The `n`-th thing under way, the oldest being the first.
    pub fn under_way(&self, n: usize) -> Option<&DiskOp> {
        self.pending.get(n)
    }

    /// How much is under way.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Applies one entry, which says `content`, to `data.db`.
    pub fn apply(&mut self, entry: &Entry, content: &Content) {
        if self.commits.is_empty() {
            self.commits.push(self.data.clone());
        }
        self.data.apply(entry, content);
        self.commits.push(self.data.clone());
    }

    /// An fsynced checkpoint of `data.db`.
    pub fn checkpoint(&mut self) {
        self.commits = vec![self.data.clone()];
    }

    /// What the last checkpoint contains.
    pub fn checkpointed(&self) -> Seq {
        self.commits.first().unwrap_or(&self.data).applied.seq
    }

    /// Deletes entries through `through` from the log; only what a checkpoint
    /// of `data.db` contains may go. Says whether anything went.
    pub fn trim(&mut self, through: Seq) -> bool {
        assert!(
            through <= self.checkpointed() && through <= self.log.last().seq,
            "trimming {through}, which is not safely in data.db"
        );
        let before = self.log.base.seq;
        self.log.trim(through);
        self.seen.trim(through);
        self.log.base.seq > before
    }

    /// The process ended: `kept` of the operations under way became durable,
    /// and of those after them what `beyond` says; the others never happened.
    pub fn process_ended(&mut self, kept: usize, beyond: Option<Unsynced>) -> Leftover {
        for _ in 0..kept.min(self.pending.len()) {
            self.complete();
        }
        let mut left = Leftover::default();
        if let Some(beyond) = beyond {
            self.keep_beyond(beyond, &mut left);
        }
        self.pending.clear();
        self.seen = self.log.clone();
        left
    }

    fn keep_beyond(&mut self, beyond: Unsynced, left: &mut Leftover) {
        let (mut records, mut passed) = (beyond.records, false);
        while let Some(mut op) = self.pending.pop_front() {
            match &mut op {
                DiskOp::Record { record: Record::HardState(_), .. } if beyond.hard_state => {}
                DiskOp::Record { record: Record::Append { .. }, .. } if !beyond.hard_state => {}
                DiskOp::Record { .. } => {
                    passed = true;
                    continue;
                }
                // It waits for everything before it.
                DiskOp::Install { .. } => return,
            }
            if records == 0 {
                if let DiskOp::Record { record: Record::Append { entries, .. }, .. } = &mut op {
                    let part = entries.len() * beyond.torn_pm as usize / 1000;
                    left.torn = part > 0 && part < entries.len();
                    if left.torn {
                        entries.truncate(part);
                        self.perform(&mut op);
                    }
                }
                return;
            }
            records -= 1;
            self.perform(&mut op);
            left.reordered |= passed;
        }
    }

    /// Whether data and log together hold everything that was committed here: a
    /// log that begins after the end of what was applied does not bring it back.
    pub fn data_is_whole(&self) -> bool {
        self.data.membership.is_some() && self.data.applied.seq >= self.log.base.seq
    }

    /// An entry goes bad: so far into the log that starts after its base, in
    /// 1/1000. Says which, if there is any.
    pub fn rot(&mut self, at_pm: u32) -> Option<Seq> {
        let index = self.log.entries.len().checked_sub(1)? * at_pm.min(1000) as usize / 1000;
        self.rotten = self.log.entries.get(index).map(|e| e.seq);
        self.rotten
    }

    /// An entry went bad, and nobody has noticed.
    pub fn is_rotten(&self) -> bool {
        self.rotten.is_some()
    }

    /// Whether reading these would find what went bad.
    pub fn unreadable(&self, from: Seq, through: Seq) -> bool {
        self.rotten.is_some_and(|at| from <= at && at <= through && self.log.get(at).is_some())
    }

    /// A start reads the log: if something in it went bad, the log is set aside
    /// whole, and what this disk acknowledged with it. Says whether it was.
    pub fn find_rot(&mut self) -> bool {
        let found = self.rotten.take().is_some_and(|at| self.log.get(at).is_some());
        if found {
            self.log = Log { base: self.data.applied, entries: VecDeque::new() };
            self.seen = self.log.clone();
            self.forgot = Some(self.hard.incarnation);
        }
        found
    }

    /// The power went as well: `data.db` lost its last `lost` commits since the
    /// checkpoint, or as many as there were.
    pub fn power_cut(&mut self, lost: usize) {
        if let Some(kept) = self.commits.len().checked_sub(1) {
            self.commits.truncate(kept.saturating_sub(lost) + 1);
        }
        if let Some(data) = self.commits.last() {
            self.data = data.clone();
        }
    }

    /// The log lost its tail: at least what makes the high-water mark or
    /// `data.db` tell of it, and up to all of it.
    pub fn lose_tail(&mut self, share_pm: u32) {
        let told = self.hard.high_water.seq.max(self.data.applied.seq).min(self.log.last().seq.next());
        let span = told.0.saturating_sub(self.log.base.seq.0 + 1);
        let keep = self.log.base.seq.0 + span * u64::from(1000 - share_pm.min(1000)) / 1000;
        self.log.keep(Seq(keep));
        self.seen = self.log.clone();
    }

    /// What a copy of the disk would hold now.
    pub fn image(&self) -> Self {
        Self { seen: self.log.clone(), pending: VecDeque::new(), ..self.clone() }
    }

    /// How many commits of `data.db` a power cut could take.
    pub fn unsynced_commits(&self) -> usize {
        self.commits.len().saturating_sub(1)
    }

    /// What a new process reads.
    pub fn recover(&self) -> Recovered {
        assert!(self.pending.is_empty(), "recovery while another process runs");
        let applied = self.data.applied;
        let tail_from = applied.seq.0.saturating_sub(Recovered::TAIL_MAX as u64).max(self.log.base.seq.0);
        let mut terms: Vec<(Seq, _)> = Vec::new();
        for entry in &self.log.entries {
            if terms.last().is_none_or(|(_, term)| *term != entry.term) {
                terms.push((entry.seq, entry.term));
            }
        }
        let mut memberships = Vec::new();
        memberships.extend(self.data.membership.as_ref().map(|(seq, m)| (*seq, m.as_ref().clone())));
        for entry in &self.log.entries {
            if entry.kind == EntryKind::Config && entry.seq > applied.seq {
                let membership = decode_membership(entry.payload.clone()).expect("a membership that a node encoded");
                memberships.push((entry.seq, membership));
            }
        }
        let last = self.log.last().seq;
        Recovered {
            hard: self.hard.clone(),
            log_base: self.log.base,
            tail: (self.log.entries.iter()).filter(|e| e.seq.0 > tail_from).map(Entry::position).collect(),
            terms,
            applied,
            content: self.data.content,
            memberships,
            hlc: (self.log.entries.iter().map(|e| e.hlc).max()).unwrap_or_default().max(self.data.hlc),
            amnesia: last < applied.seq
                || last < self.hard.high_water.seq
                || self.forgot == Some(self.hard.incarnation),
        }
    }
}
