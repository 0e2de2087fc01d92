//! Committed entries on their way to the store.
//!
//! Decides what is sent when: in order, without gaps, and never more than a
//! bounded number of bytes that the store has not finished. What is not in
//! memory is read from the log in batches. Knows nothing of what entries say.

use crate::error::ApiError;
use base_ha_core::entry::Entry;
use base_ha_core::ids::Seq;
use std::collections::VecDeque;

/// Bytes with the store at a time; one batch always may be.
const IN_FLIGHT_MAX: usize = 16 << 20;
/// Bytes kept in memory behind what is with the store; beyond it entries are
/// forgotten and read from the log when their turn comes.
const WAITING_MAX: usize = 16 << 20;
/// Bytes read from the log at a time.
const LOAD_BYTES: usize = 4 << 20;
/// What an entry weighs beyond its payload.
const ENTRY_BYTES: usize = 128;

/// The flow of entries to the store.
#[derive(Debug)]
pub struct ApplyPump {
    /// Ordered by the core and not sent yet: contiguous segments.
    waiting: VecDeque<Segment>,
    /// Bytes in those segments that hold entries.
    waiting_bytes: usize,
    /// Sent and not applied: last entry and bytes of each batch.
    in_flight: VecDeque<(Seq, usize)>,
    in_flight_bytes: usize,
    /// The last entry sent to the store, or that it had before.
    sent: Seq,
    /// A read from the log is under way; false if its result is not wanted any
    /// more.
    loading: Option<bool>,
    paused: bool,
    /// An entry cannot be had: nothing more is sent.
    halted: bool,
    /// Bytes that the store has finished, ever.
    taken_bytes: u64,
}

#[derive(Debug)]
enum Segment {
    InMemory(Vec<Entry>),
    InLog { from: Seq, through: Seq },
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Give these to the store.
    Send(Vec<Entry>),
    /// Read these from the log, then call [`ApplyPump::loaded`].
    Load {
        /// The first wanted.
        from: Seq,
        /// The last wanted.
        through: Seq,
        /// Stop after so many bytes.
        bytes_max: usize,
    },
}

fn weight(entries: &[Entry]) -> usize {
    entries.iter().map(|e| e.payload.len() + ENTRY_BYTES).sum()
}

impl ApplyPump {
    /// The flow to a store that has everything up to `applied`.
    pub fn new(applied: Seq) -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            sent: applied,
            loading: None,
            paused: false,
            halted: false,
            taken_bytes: 0,
        }
    }

    /// Takes an order of the core: `from` to `through`, of which `entries` are
    /// in memory and end at `through`.
    ///
    /// # Errors
    /// The first entry that would be left out: `data.db` ends before what the
    /// log still has, as after a restored backup of `data.db` alone. Nothing
    /// more is sent then.
    pub fn order(&mut self, from: Seq, through: Seq, entries: Vec<Entry>) -> Result<(), Seq> {
        assert!(from <= through, "an order to apply nothing: {from} to {through}");
        if self.halted {
            return Ok(());
        }
        let expected = self.ordered().next();
        assert!(from >= expected, "{from} is ordered again; {expected} comes next");
        if from > expected {
            self.halted = true;
            return Err(expected);
        }
        let in_memory_from = entries.first().map_or(through.next(), |e| e.seq);
        assert!(in_memory_from >= from, "entries from {in_memory_from} for an order from {from}");
        if in_memory_from > from {
            self.in_log(from, Seq(in_memory_from.0 - 1));
        }
        let Some(last) = entries.last() else { return Ok(()) };
        assert_eq!(last.seq, through, "the entries in memory end where the order does");
        let bytes = weight(&entries);
        if self.waiting_bytes + bytes > WAITING_MAX && !self.waiting.is_empty() {
            self.in_log(in_memory_from, through);
        } else {
            self.waiting_bytes += bytes;
            self.waiting.push_back(Segment::InMemory(entries));
        }
        Ok(())
    }

    fn in_log(&mut self, from: Seq, through: Seq) {
        match self.waiting.back_mut() {
            Some(Segment::InLog { through: end, .. }) if end.next() == from => *end = through,
            _ => self.waiting.push_back(Segment::InLog { from, through }),
        }
    }

    /// The last entry ordered so far.
    fn ordered(&self) -> Seq {
        match self.waiting.back() {
            Some(Segment::InMemory(entries)) => entries.last().map_or(self.sent, |e| e.seq),
            Some(Segment::InLog { through, .. }) => *through,
            None => self.sent,
        }
    }

    /// What to do next, if there is room for it. To be called until `None`.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Step> {
        if self.paused || self.halted || self.in_flight_bytes >= IN_FLIGHT_MAX {
            return None;
        }
        match self.waiting.front()? {
            Segment::InMemory(_) => {
                let Some(Segment::InMemory(entries)) = self.waiting.pop_front() else { return None };
                self.waiting_bytes -= weight(&entries);
                Some(self.send(entries))
            }
            Segment::InLog { .. } if self.loading.is_some() => None,
            Segment::InLog { from, through } => {
                self.loading = Some(true);
                Some(Step::Load { from: *from, through: *through, bytes_max: LOAD_BYTES })
            }
        }
    }

    fn send(&mut self, entries: Vec<Entry>) -> Step {
        let first = entries.first().map_or(Seq(0), |e| e.seq);
        assert_eq!(first, self.sent.next(), "the store gets entries in order");
        let bytes = weight(&entries);
        self.sent = entries.last().map_or(self.sent, |e| e.seq);
        self.in_flight.push_back((self.sent, bytes));
        self.in_flight_bytes += bytes;
        Step::Send(entries)
    }

    /// Takes what was read from the log, as the next thing in memory.
    ///
    /// # Errors
    /// The entry that cannot be had: committed, and not readable. Nothing more
    /// is sent then.
    pub fn loaded(&mut self, result: Result<Vec<Entry>, ApiError>) -> Result<(), Seq> {
        let wanted = self.loading.take().unwrap_or(false);
        let Some(Segment::InLog { from, through }) = self.waiting.front() else { return Ok(()) };
        if !wanted {
            return Ok(());
        }
        let (from, through) = (*from, *through);
        let entries = match result {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(%error, from = from.0, "committed entries cannot be read from the log");
                Vec::new()
            }
        };
        let contiguous = entries.iter().zip(from.0..=through.0).all(|(e, seq)| e.seq.0 == seq);
        let last = entries.last().map_or(Seq(0), |e| e.seq);
        if entries.is_empty() || !contiguous || last > through {
            self.halted = true;
            return Err(from);
        }
        self.waiting.pop_front();
        if last < through {
            self.waiting.push_front(Segment::InLog { from: last.next(), through });
        }
        self.waiting_bytes += weight(&entries);
        self.waiting.push_front(Segment::InMemory(entries));
        Ok(())
    }

    /// The store has everything up to `seq`.
    pub fn applied(&mut self, seq: Seq) {
        while let Some((last, bytes)) = self.in_flight.front().copied()
            && last <= seq
        {
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
            self.taken_bytes += bytes as u64;
        }
    }

    /// Sends nothing until [`ApplyPump::restart`] or [`ApplyPump::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Goes on after a pause that came to nothing.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// A snapshot brought the store to `applied`: everything ordered before is
    /// void, the core orders anew.
    pub fn restart(&mut self, applied: Seq) {
        let loading = self.loading.map(|_| false);
        let taken_bytes = self.taken_bytes + self.in_flight_bytes as u64;
        *self = Self { loading, taken_bytes, ..Self::new(applied) };
    }

    /// Bytes that the store has finished since the start.
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::entry::EntryKind;
    use base_ha_core::hlc::Hlc;
    use base_ha_core::ids::{StreamId, Term};
    use base_ha_core::position::Position;
    use bytes::Bytes;

    fn entries(from: u64, through: u64, bytes: usize) -> Vec<Entry> {
        (from..=through)
            .map(|seq| {
                let prev = Position { seq: Seq(seq - 1), ..Position::START };
                let payload = Bytes::from(vec![0; bytes]);
                Entry::following(&prev, StreamId::SHARED, Term(1), Hlc(0), EntryKind::Data, payload)
            })
            .collect()
    }

    fn seqs(step: Option<Step>) -> (u64, u64) {
        match step {
            Some(Step::Send(entries)) => (entries[0].seq.0, entries[entries.len() - 1].seq.0),
            other => panic!("not a batch for the store: {other:?}"),
        }
    }

    #[test]
    fn what_is_missing_in_memory_is_read_first() {
        let mut pump = ApplyPump::new(Seq(4));
        pump.order(Seq(5), Seq(9), entries(8, 9, 10)).expect("in order");
        assert_eq!(pump.next(), Some(Step::Load { from: Seq(5), through: Seq(7), bytes_max: LOAD_BYTES }));
        assert_eq!(pump.next(), None, "one read at a time, and nothing overtakes it");
        pump.loaded(Ok(entries(5, 6, 10))).expect("fine");
        assert_eq!(seqs(pump.next()), (5, 6));
        assert_eq!(pump.next(), Some(Step::Load { from: Seq(7), through: Seq(7), bytes_max: LOAD_BYTES }));
        pump.loaded(Ok(entries(7, 7, 10))).expect("fine");
        assert_eq!(seqs(pump.next()), (7, 7));
        assert_eq!(seqs(pump.next()), (8, 9));
        assert_eq!(pump.next(), None);
    }

    #[test]
    fn the_store_holds_a_bounded_number_of_bytes() {
        let mut pump = ApplyPump::new(Seq(0));
        for n in 1..=5 {
            pump.order(Seq(n), Seq(n), entries(n, n, 6 << 20)).expect("in order");
        }
        assert_eq!(seqs(pump.next()), (1, 1));
        assert_eq!(seqs(pump.next()), (2, 2));
        assert_eq!(pump.waiting_bytes, 0, "the third did not fit in memory any more");
        pump.applied(Seq(2));
        assert_eq!(pump.next(), Some(Step::Load { from: Seq(3), through: Seq(5), bytes_max: LOAD_BYTES }));
        assert_eq!(pump.taken_bytes(), 2 * ((6 << 20) + ENTRY_BYTES as u64));
    }

    #[test]
    fn an_entry_larger_than_the_bound_goes_alone() {
        let mut pump = ApplyPump::new(Seq(0));
        pump.order(Seq(1), Seq(1), entries(1, 1, IN_FLIGHT_MAX * 2)).expect("in order");
        pump.order(Seq(2), Seq(2), entries(2, 2, 1)).expect("in order");
        assert_eq!(seqs(pump.next()), (1, 1));
        assert_eq!(pump.next(), None);
        pump.applied(Seq(1));
        pump.loaded(Ok(Vec::new())).expect("nothing was asked for");
        assert!(pump.next().is_some());
    }

    #[test]
    fn unreadable_entries_halt_and_never_skip() {
        for result in [Ok(Vec::new()), Ok(entries(6, 6, 1)), Err(ApiError::new(500, "log", "gone"))] {
            let mut pump = ApplyPump::new(Seq(4));
            pump.order(Seq(5), Seq(6), Vec::new()).expect("in order");
            assert!(matches!(pump.next(), Some(Step::Load { .. })));
            assert_eq!(pump.loaded(result), Err(Seq(5)));
            assert_eq!(pump.next(), None);
        }
    }

    #[test]
    fn a_snapshot_voids_what_was_ordered_before() {
        let mut pump = ApplyPump::new(Seq(4));
        pump.order(Seq(5), Seq(9), Vec::new()).expect("in order");
        assert!(matches!(pump.next(), Some(Step::Load { .. })));
        pump.pause();
        assert_eq!(pump.next(), None);
        pump.restart(Seq(20));
        pump.order(Seq(21), Seq(22), Vec::new()).expect("in order");
        assert_eq!(pump.next(), None, "the old read is still under way");
        pump.loaded(Ok(entries(5, 9, 1))).expect("void");
        assert_eq!(pump.next(), Some(Step::Load { from: Seq(21), through: Seq(22), bytes_max: LOAD_BYTES }));
    }

    #[test]
    fn a_gap_in_the_orders_halts() {
        let mut pump = ApplyPump::new(Seq(4));
        assert_eq!(pump.order(Seq(6), Seq(6), Vec::new()), Err(Seq(5)));
        assert_eq!(pump.order(Seq(7), Seq(7), Vec::new()), Ok(()), "said once");
        assert_eq!(pump.next(), None, "it stays halted");
        pump.restart(Seq(6));
        assert_eq!(pump.order(Seq(7), Seq(7), Vec::new()), Ok(()));
    }

    #[test]
    #[should_panic(expected = "ordered again")]
    fn nothing_is_ordered_twice() {
        let _ = ApplyPump::new(Seq(4)).order(Seq(4), Seq(5), Vec::new());
    }
}
