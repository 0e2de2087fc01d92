//! What a node keeps in memory of its log.
//!
//! Decides which entries stay in memory and what is known of the others: the
//! positions of a long tail, and where the term changes over the whole log.
//! Knows nothing of disks, commit rules or peers.

use crate::entry::Entry;
use crate::ids::{Hash, Seq, Term};
use crate::io::Recovered;
use crate::position::Position;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The view of one stream's log.
#[derive(Clone, Debug, Hash)]
pub struct Log {
    /// The point before the first entry.
    base: Position,
    last: Position,
    /// The points of a contiguous tail that ends at `last`.
    points: VecDeque<Position>,
    /// A contiguous run of whole entries that ends at `last`.
    ring: VecDeque<Entry>,
    ring_bytes: usize,
    /// Where the term changes, as (first seq, term), over the whole log.
    terms: Vec<(Seq, Term)>,
}

impl Log {
    /// The view of what was found on disk.
    ///
    /// # Panics
    /// If the tail is not contiguous: the driver read its own disk wrongly, and
    /// to go on would be to vote on a lie.
    pub fn recover(base: Position, tail: &[Position], terms: &[(Seq, Term)]) -> Self {
        let contiguous = tail.windows(2).all(|w| w[1].seq.0 == w[0].seq.0 + 1 && w[1].term >= w[0].term);
        assert!(contiguous, "the recovered log tail has a gap or its terms fall");
        let mut log = Self {
            base,
            last: tail.last().copied().unwrap_or(base),
            points: tail.iter().copied().filter(|p| p.seq > base.seq).collect(),
            ring: VecDeque::new(),
            ring_bytes: 0,
            terms: terms.to_vec(),
        };
        assert!(log.last.seq >= base.seq, "the recovered log ends before it starts");
        let rising = log.terms.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1);
        assert!(rising, "the recovered term changes are out of order");
        // A tail without its runs (a driver may leave them to us where they
        // would say nothing new) is completed.
        for point in log.points.clone() {
            log.note_term(point.seq, point.term);
        }
        log
    }

    /// The last entry's position.
    pub fn last(&self) -> Position {
        self.last
    }

    /// The point before the first entry.
    pub fn base(&self) -> Position {
        self.base
    }

    /// The position of the entry at `seq`, if it is known in memory.
    pub fn position(&self, seq: Seq) -> Option<Position> {
        if seq == self.base.seq {
            return Some(self.base);
        }
        let first = self.points.front()?.seq;
        let index = usize::try_from(seq.0.checked_sub(first.0)?).ok()?;
        self.points.get(index).copied()
    }

    /// The term of the entry at `seq`; known over the whole log.
    pub fn term(&self, seq: Seq) -> Option<Term> {
        if seq == self.base.seq {
            return Some(self.base.term);
        }
        if seq < self.base.seq || seq > self.last.seq {
            return None;
        }
        if let Some(point) = self.position(seq) {
            return Some(point.term);
        }
        let after = self.terms.partition_point(|(first, _)| *first <= seq);
        after.checked_sub(1).map(|n| self.terms[n].1)
    }

    /// The last entry at or below `seq` whose term is at most `term`; the base
    /// if there is none. Both sides of a long divergence step over whole terms
    /// with it, so that a common point is found in few rounds.
    pub fn last_not_above(&self, seq: Seq, term: Term) -> Seq {
        let seq = seq.min(self.last.seq);
        if seq <= self.base.seq {
            return self.base.seq;
        }
        if self.term(seq).is_some_and(|t| t <= term) {
            return seq;
        }
        let after = self.terms.partition_point(|(_, t)| *t <= term);
        match self.terms.get(after) {
            Some((first, _)) => Seq(first.0 - 1).clamp(self.base.seq, seq),
            None => seq,
        }
    }

    /// Adds the next entry.
    ///
    /// # Panics
    /// If it does not follow the last one: the caller checks first.
    pub fn append(&mut self, entry: Entry) {
        assert!(
            entry.seq.0 == self.last.seq.0 + 1 && entry.prev_hash == self.last.hash && entry.term >= self.last.term,
            "entry {} does not follow {}",
            entry.seq,
            self.last.seq
        );
        self.last = entry.position();
        self.points.push_back(self.last);
        self.note_term(entry.seq, entry.term);
        self.ring_bytes += weight(&entry);
        self.ring.push_back(entry);
    }

    /// Forgets every entry after `keep`; returns how many.
    ///
    /// # Panics
    /// If the point at `keep` is not in memory: everything not yet committed is.
    pub fn truncate(&mut self, keep: Seq) -> u64 {
        if keep >= self.last.seq {
            return 0;
        }
        let kept = self.position(keep).expect("the points of all uncommitted entries are in memory");
        let dropped = self.last.seq.0 - keep.0;
        while self.points.back().is_some_and(|p| p.seq > keep) {
            self.points.pop_back();
        }
        while self.ring.back().is_some_and(|e| e.seq > keep) {
            if let Some(entry) = self.ring.pop_back() {
                self.ring_bytes -= weight(&entry);
            }
        }
        while self.terms.last().is_some_and(|(first, _)| *first > keep) {
            self.terms.pop();
        }
        self.last = kept;
        dropped
    }

    /// Starts anew after `position`, as a snapshot does.
    pub fn reset(&mut self, position: Position) {
        *self = Self::recover(position, &[], &[]);
    }

    /// Takes note that the entries up to and including `base` are gone.
    pub fn trim(&mut self, base: Position) {
        if base.seq <= self.base.seq || base.seq > self.last.seq {
            return;
        }
        while self.points.front().is_some_and(|p| p.seq <= base.seq) {
            self.points.pop_front();
        }
        while self.ring.front().is_some_and(|e| e.seq <= base.seq) {
            self.pop_oldest();
        }
        // The run that the base lies in goes on after it.
        let runs = self.terms.partition_point(|(first, _)| *first <= base.seq);
        if runs > 1 {
            self.terms.drain(..runs - 1);
        }
        self.base = base;
    }

    /// Lets go of whole entries beyond `memory_max` bytes, and of points beyond
    /// theirs, but of nothing above `settled`.
    pub fn evict(&mut self, settled: Seq, memory_max: usize) {
        while self.ring_bytes > memory_max && self.ring.front().is_some_and(|e| e.seq <= settled) {
            self.pop_oldest();
        }
        while self.points.len() > 2 * Recovered::TAIL_MAX && self.points.front().is_some_and(|p| p.seq < settled) {
            self.points.pop_front();
        }
    }

    /// The entries from `from` through `through`, at most about `bytes_max` but
    /// at least one; `None` if the first is not in memory.
    pub fn entries(&self, from: Seq, through: Seq, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.ring.front()?.seq;
        let index = usize::try_from(from.0.checked_sub(first.0)?).ok()?;
        if index >= self.ring.len() {
            return None;
        }
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.ring.range(index..) {
            bytes += weight(entry);
            if entry.seq > through || (bytes > bytes_max && !entries.is_empty()) {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }

    /// The first entry that is wholly in memory.
    pub fn ring_first(&self) -> Option<Seq> {
        self.ring.front().map(|e| e.seq)
    }

    /// Asserts what must hold, in constant time.
    pub fn check(&self) {
        assert!(self.base.seq <= self.last.seq, "log ends before its base");
        if let Some(point) = self.points.back() {
            assert_eq!(*point, self.last, "the tail does not end at the last entry");
        } else {
            assert_eq!(self.base, self.last, "a log without points is empty");
        }
        if let Some(entry) = self.ring.back() {
            assert_eq!(entry.position(), self.last, "the ring does not end at the last entry");
        }
    }

    /// Asserts the whole hash chain in memory.
    pub fn check_deep(&self) {
        self.check();
        let mut before: Option<Hash> = None;
        for entry in &self.ring {
            assert!(before.is_none_or(|hash| hash == entry.prev_hash), "broken hash chain");
            assert_eq!(self.position(entry.seq), Some(entry.position()));
            assert_eq!(self.term(entry.seq), Some(entry.term));
            before = Some(entry.hash);
        }
        let rising = self.terms.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1);
        assert!(rising, "terms fall along the log");
    }

    fn pop_oldest(&mut self) {
        if let Some(entry) = self.ring.pop_front() {
            self.ring_bytes -= weight(&entry);
        }
    }

    fn note_term(&mut self, seq: Seq, term: Term) {
        let known = match self.terms.last() {
            Some((_, t)) => *t >= term,
            None => false,
        };
        if !known {
            self.terms.push((seq, term));
        }
    }
}

/// What an entry costs in memory, and on the wire.
pub fn weight(entry: &Entry) -> usize {
    entry.payload.len() + 160
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;
    use crate::hlc::Hlc;
    use crate::ids::StreamId;
    use bytes::Bytes;

    fn push(log: &mut Log, term: u64) {
        let entry = Entry::following(
            &log.last(),
            StreamId::SHARED,
            Term(term),
            Hlc(1),
            EntryKind::Data,
            Bytes::from_static(b"x"),
        );
        log.append(entry);
    }

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::recover(Position::START, &[], &[]);
        terms.iter().for_each(|t| push(&mut log, *t));
        log.check_deep();
        log
    }

    #[test]
    fn knows_terms_over_the_whole_log() {
        let log = log(&[1, 1, 3, 3, 5]);
        assert_eq!(log.term(Seq(2)), Some(Term(1)));
        assert_eq!(log.term(Seq(5)), Some(Term(5)));
        assert_eq!(log.term(Seq(6)), None);
        assert_eq!(log.last_not_above(Seq(5), Term(4)), Seq(4));
        assert_eq!(log.last_not_above(Seq(5), Term(2)), Seq(2));
        assert_eq!(log.last_not_above(Seq(9), Term(9)), Seq(5));
        assert_eq!(log.last_not_above(Seq(5), Term(0)), Seq(0));
    }

    #[test]
    fn truncation_and_trimming_keep_it_whole() {
        let mut log = log(&[1, 1, 2, 2, 3]);
        assert_eq!(log.truncate(Seq(3)), 2);
        push(&mut log, 4);
        log.check_deep();
        let base = log.position(Seq(2)).expect("known");
        log.trim(base);
        log.check_deep();
        assert_eq!(log.base(), base);
        assert_eq!(log.term(Seq(3)), Some(Term(2)));
        assert_eq!(log.position(Seq(1)), None);
        assert!(log.entries(Seq(2), Seq(4), 1 << 20).is_none());
        assert_eq!(log.entries(Seq(3), Seq(4), 1).expect("in memory").len(), 1);
    }
}
