//! What a node promised and was asked, and when.
//!
//! Decides what a crash at any point may and may not have taken. Kept outside
//! the node; knows nothing of files.

use super::print::Print;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::ids::{Hash, Seq};
use base_ha_core::io::{HardState, Record};
use base_ha_core::position::Position;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One event between the node and its world.
#[derive(Clone, Debug)]
pub(super) enum Note {
    /// A record was given to the log; it may be on disk from now on.
    Asked(Record),
    /// The oldest record that was not confirmed is, now: it is on disk.
    Durable,
    /// These were given to the store as committed: they may be in `data.db`.
    Ordered(Seq),
    /// The log says that it begins after this.
    Trimmed(Position),
    /// A snapshot that ends there may replace `data.db` and the log.
    Installing(Position),
    /// It has, the log included.
    Reset(Position),
    /// A start found this, and the node goes by it.
    Found(Box<Found>),
}

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) fresh: bool,
    pub(super) amnesia: bool,
    pub(super) hard: HardState,
    pub(super) base: Position,
    pub(super) log: Vec<(Position, EntryKind)>,
    pub(super) orphans: BTreeSet<[u8; 32]>,
    pub(super) store: Position,
    /// Rows of `data.db`.
    pub(super) print: Print,
}

/// Everything that was said, with the number of the disk's next operation.
#[derive(Clone, Default)]
pub(super) struct Diary {
    start: Expect,
    notes: Vec<(u64, Note)>,
    /// The statements of every request, by its id.
    pub(super) requests: BTreeMap<u128, Vec<String>>,
    /// Every entry that was ever made.
    pub(super) known: BTreeMap<[u8; 32], Entry>,
    /// What was committed, in order.
    pub(super) history: Vec<String>,
    /// The rows that are right at each committed entry.
    pub(super) prints: BTreeMap<Seq, (Hash, Print)>,
}

/// What must be on disk, and what may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Expect {
    /// The directory was complete once.
    made: bool,
    hard: Option<HardState>,
    maybe_hard: Vec<HardState>,
    base: Position,
    log: Vec<(Position, EntryKind)>,
    /// Entries that were forgotten durably: they must be kept aside.
    cut: Vec<Position>,
    asked: VecDeque<Record>,
    ordered: Seq,
    installing: Option<Position>,
}

impl Diary {
    pub(super) fn note(&mut self, at: u64, note: Note) {
        if let Note::Asked(Record::Append { entries, .. }) = &note {
            self.known.extend(entries.iter().map(|e| (e.hash.0, e.clone())));
        }
        self.notes.push((at, note));
    }

    /// What must hold if the process stopped before operation `k`.
    pub(super) fn before(&self, k: u64) -> Expect {
        let mut expect = self.start.clone();
        for (_, note) in self.notes.iter().filter(|(at, _)| *at <= k) {
            expect.take(note);
        }
        expect
    }

    /// A diary of the same history that begins with `start`.
    pub(super) fn fork(&self, start: &Expect) -> Self {
        Self { start: start.clone(), notes: Vec::new(), ..self.clone() }
    }

    /// Begins anew with what holds now, at operation 0 of another disk.
    pub(super) fn rebase(&mut self) {
        self.start = self.before(u64::MAX);
        self.notes.clear();
    }

    /// What the last start found.
    pub(super) fn found(&self) -> Option<&Found> {
        self.notes.iter().rev().find_map(|(_, note)| match note {
            Note::Found(found) => Some(&**found),
            _ => None,
        })
    }

    /// Learns of what another node of the same history committed.
    pub(super) fn learn(&mut self, other: &Self) {
        self.known.extend(other.known.iter().map(|(k, v)| (*k, v.clone())));
        self.requests.extend(other.requests.iter().map(|(k, v)| (*k, v.clone())));
        self.prints.extend(other.prints.iter().map(|(k, v)| (*k, v.clone())));
    }
}

impl Expect {
    fn take(&mut self, note: &Note) {
        match note {
            Note::Asked(record) => {
                if let Record::HardState(state) = record {
                    self.maybe_hard.push(state.clone());
                }
                self.asked.push_back(record.clone());
            }
            Note::Durable => match self.asked.pop_front() {
                Some(Record::HardState(state)) => {
                    self.hard = Some(state);
                    let still = self.asked.iter().filter(|r| matches!(r, Record::HardState(_))).count();
                    self.maybe_hard.drain(..self.maybe_hard.len() - still);
                }
                Some(Record::Append { keep, entries }) => {
                    if let Some(keep) = keep {
                        let kept = self.log.iter().take_while(|(p, _)| p.seq <= keep).count();
                        let gone = self.log.drain(kept..).filter(|(_, kind)| *kind != EntryKind::Noop);
                        self.cut.extend(gone.map(|(p, _)| p));
                    }
                    self.log.extend(entries.iter().map(|e| (e.position(), e.kind)));
                }
                None => panic!("a confirmation without a record"),
            },
            Note::Ordered(seq) => self.ordered = self.ordered.max(*seq),
            Note::Trimmed(base) => {
                self.base = *base;
                self.log.retain(|(p, _)| p.seq > base.seq);
            }
            Note::Installing(position) => {
                self.installing = Some(*position);
                self.ordered = self.ordered.max(position.seq);
            }
            Note::Reset(position) => {
                self.installing = None;
                self.base = *position;
                self.log.clear();
            }
            Note::Found(found) => {
                self.made = true;
                self.hard = Some(found.hard.clone());
                self.maybe_hard.clear();
                self.asked.clear();
                self.installing = None;
                self.base = found.base;
                self.log = found.log.clone();
            }
        }
    }

    /// Whether nothing was ever committed.
    pub(super) fn is_new(&self) -> bool {
        self.ordered == Seq(0)
    }

    /// Holds a start against what was promised.
    ///
    /// # Errors
    /// Which promise is broken.
    pub(super) fn check(&self, diary: &Diary, found: &Found) -> Result<(), String> {
        if found.amnesia {
            return Err("amnesia, though the disk kept what it had synced".into());
        }
        if self.made && found.fresh {
            return Err("the directory is taken for a new one".into());
        }
        self.check_hard(found)?;
        self.check_log(diary, found)?;
        self.check_store(diary, found)
    }

    fn check_hard(&self, found: &Found) -> Result<(), String> {
        let Some(hard) = &self.hard else { return Ok(()) };
        let same = |a: &HardState| {
            (a.cluster, a.incarnation, a.term, &a.voted_for)
                == (found.hard.cluster, found.hard.incarnation, found.hard.term, &found.hard.voted_for)
        };
        if same(hard) || self.maybe_hard.iter().any(same) {
            return Ok(());
        }
        Err(format!("the hard state is {:?}; durable was {hard:?}, asked {:?}", found.hard, self.maybe_hard))
    }

    fn check_log(&self, diary: &Diary, found: &Found) -> Result<(), String> {
        let there: BTreeSet<[u8; 32]> = found.log.iter().map(|(p, _)| p.hash.0).collect();
        let keep = self.asked.iter().filter_map(|record| match record {
            Record::Append { keep, .. } => *keep,
            Record::HardState(_) => None,
        });
        let keep = keep.min().unwrap_or(Seq(u64::MAX));
        for (position, kind) in &self.log {
            let in_data = position.seq <= found.base.seq && position.seq <= found.store.seq;
            let aside = position.seq > keep && (*kind == EntryKind::Noop || found.orphans.contains(&position.hash.0));
            if !there.contains(&position.hash.0) && !in_data && !aside {
                return Err(format!(
                    "entry {position:?} was durable; the log holds {:?} to {:?}, data.db {:?}",
                    found.base,
                    found.log.last().map(|(p, _)| *p),
                    found.store
                ));
            }
        }
        for position in &self.cut {
            if !there.contains(&position.hash.0) && !found.orphans.contains(&position.hash.0) {
                return Err(format!("entry {position:?} was cut off and is not among the forgotten ones"));
            }
        }
        if let Some((position, _)) = found.log.iter().find(|(p, _)| !diary.known.contains_key(&p.hash.0)) {
            return Err(format!("entry {position:?} was never made"));
        }
        if found.base.seq > found.store.seq {
            return Err(format!("the log begins after {:?} and data.db ends at {:?}", found.base, found.store));
        }
        Ok(())
    }

    fn check_store(&self, diary: &Diary, found: &Found) -> Result<(), String> {
        if found.store.seq > self.ordered {
            return Err(format!("data.db contains {:?}; only {} was committed", found.store, self.ordered));
        }
        diary.check_print(found.store, &found.print)
    }
}

impl Diary {
    /// Whether these were the rows at some time.
    pub(super) fn knows_rows(&self, print: &Print) -> bool {
        print.is_empty() || self.prints.values().any(|(_, right)| right == print)
    }

    /// Whether these are the rows of that position.
    ///
    /// # Errors
    /// How they differ.
    pub(super) fn check_print(&self, at: Position, print: &Print) -> Result<(), String> {
        if at == Position::START {
            return if print.is_empty() { Ok(()) } else { Err(format!("rows before the first entry: {print}")) };
        }
        let Some((hash, right)) = self.prints.get(&at.seq) else {
            return Err(format!("data.db contains {at:?}, which nobody committed"));
        };
        if *hash != at.hash {
            return Err(format!("data.db contains {at:?}; committed there was {hash}"));
        }
        if print == right {
            return Ok(());
        }
        let differing = print.lines().zip(right.lines()).find(|(a, b)| a != b);
        Err(format!("data.db at {at:?} has other rows, first {differing:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::hlc::Hlc;
    use base_ha_core::ids::{StreamId, Term};

    fn entry(prev: &Position, term: u64) -> Entry {
        Entry::following(prev, StreamId::SHARED, Term(term), Hlc(1), EntryKind::Data, bytes::Bytes::new())
    }

    /// A diary in which entry 1 is durable and committed, 2 is durable, and 3 was
    /// only asked for.
    fn diary() -> (Diary, [Entry; 3], Found) {
        let one = entry(&Position::START, 1);
        let two = entry(&one.position(), 1);
        let three = entry(&two.position(), 1);
        let mut diary = Diary::default();
        let hard = HardState { term: Term(1), ..HardState::default() };
        diary.note(0, Note::Asked(Record::HardState(hard.clone())));
        diary.note(1, Note::Durable);
        for entry in [&one, &two, &three] {
            diary.note(2, Note::Asked(Record::Append { keep: None, entries: vec![entry.clone()] }));
        }
        diary.note(5, Note::Durable);
        diary.note(5, Note::Ordered(Seq(1)));
        diary.note(6, Note::Durable);
        diary.prints.insert(Seq(1), (one.hash, "rows".into()));
        let found = Found {
            hard,
            log: [&one, &two].map(|e| (e.position(), e.kind)).to_vec(),
            store: one.position(),
            print: "rows".into(),
            ..Found::default()
        };
        (diary, [one, two, three], found)
    }

    #[test]
    fn what_was_promised_and_what_was_only_asked_for_may_be_found() {
        let (diary, [_, _, three], found) = diary();
        let expect = diary.before(10);
        assert_eq!(expect.check(&diary, &found), Ok(()));
        let mut more = found.clone();
        more.log.push((three.position(), three.kind));
        assert_eq!(expect.check(&diary, &more), Ok(()));
        let mut less = found;
        less.log.pop();
        assert!(expect.check(&diary, &less).is_err(), "entry 2 was confirmed at 6");
        assert_eq!(diary.before(5).check(&diary, &less), Ok(()), "and not before");
    }

    #[test]
    fn every_broken_promise_is_seen() {
        let (diary, [_, two, _], found) = diary();
        let expect = diary.before(10);
        let broken = |change: &dyn Fn(&mut Found)| {
            let mut found = found.clone();
            change(&mut found);
            expect.check(&diary, &found).expect_err("must be seen")
        };
        broken(&|f| f.amnesia = true);
        broken(&|f| f.hard.term = Term(0));
        broken(&|f| f.log.clear());
        broken(&|f| f.store = two.position());
        broken(&|f| f.print = "other rows".into());
        broken(&|f| f.log.push((entry(&two.position(), 9).position(), EntryKind::Data)));
        broken(&|f| f.base = two.position());
        broken(&|f| f.store.hash = Hash([9; 32]));
    }

    #[test]
    fn a_forgotten_entry_is_kept_aside() {
        let (mut diary, [one, two, _], mut found) = diary();
        let other = entry(&one.position(), 2);
        diary.note(7, Note::Durable);
        diary.note(8, Note::Asked(Record::Append { keep: Some(Seq(1)), entries: vec![other.clone()] }));
        diary.note(9, Note::Durable);
        let expect = diary.before(10);
        found.log = [&one, &other].map(|e| (e.position(), e.kind)).to_vec();
        assert!(expect.check(&diary, &found).is_err());
        found.orphans =
            diary.known.values().filter(|e| e.seq >= two.seq && e.term == Term(1)).map(|e| e.hash.0).collect();
        assert_eq!(expect.check(&diary, &found), Ok(()));
    }

    #[test]
    fn a_directory_that_was_complete_is_not_new() {
        let (mut diary, _, found) = diary();
        diary.note(11, Note::Found(Box::new(found.clone())));
        diary.rebase();
        let expect = diary.before(0);
        assert_eq!(expect.check(&diary, &found), Ok(()));
        assert!(expect.check(&diary, &Found { fresh: true, ..found }).is_err());
    }
}
