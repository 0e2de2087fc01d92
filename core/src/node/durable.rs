//! The durability gate: what waits for which record.
//!
//! Decides when a held-back message may leave. Knows nothing of what the
//! messages mean.

use crate::ids::{Seq, Term};
use crate::io::{Output, PersistId, Record};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// What a message must wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gate {
    /// The hard state: every message speaks in the name of a term.
    HardState,
    /// The log as well: votes and acknowledgements speak of its end.
    Log,
}

#[derive(Clone, Debug, Hash)]
enum What {
    HardState { term: Term },
    Log { through: Seq },
}

#[derive(Clone, Debug, Hash)]
struct Pending {
    id: PersistId,
    what: What,
    then: Vec<Output>,
}

/// What a finished record brought.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// The log is durable up to here, if it moved.
    pub(super) log: Option<Seq>,
    /// A hard state of this term became durable.
    pub(super) hard: Option<Term>,
    /// What may leave now.
    pub(super) released: Vec<Output>,
}

/// Records on their way to the disk, oldest first.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Disk {
    last_id: PersistId,
    pending: VecDeque<Pending>,
    held: usize,
}

impl Disk {
    /// More messages than this are not held back: a stalled disk must not fill
    /// the memory, and a message may always be lost.
    const HELD_MAX: usize = 4096;

    /// Orders a record to be made durable.
    pub(super) fn persist(&mut self, record: Record, through: Seq, out: &mut Vec<Output>) {
        self.last_id += 1;
        let what = match &record {
            Record::HardState(hard) => What::HardState { term: hard.term },
            Record::Append { .. } => What::Log { through },
        };
        // Of a truncated suffix, no earlier record's completion may speak.
        if let Record::Append { keep: Some(keep), .. } = &record {
            self.forget_after(*keep);
        }
        self.pending.push_back(Pending { id: self.last_id, what, then: Vec::new() });
        out.push(Output::Persist { id: self.last_id, record });
    }

    /// Emits `output` now, or once what `gate` names is durable.
    pub(super) fn after(&mut self, gate: Gate, output: Output, out: &mut Vec<Output>) {
        let last = match gate {
            Gate::Log => self.pending.back_mut(),
            Gate::HardState => self.pending.iter_mut().rev().find(|p| matches!(p.what, What::HardState { .. })),
        };
        match last {
            None => out.push(output),
            Some(pending) if self.held < Self::HELD_MAX => {
                pending.then.push(output);
                self.held += 1;
            }
            Some(_) => {}
        }
    }

    /// Everything up to `id` is durable.
    pub(super) fn finish(&mut self, id: PersistId) -> Finished {
        let mut finished = Finished::default();
        while self.pending.front().is_some_and(|p| p.id <= id) {
            let Some(pending) = self.pending.pop_front() else {
                break;
            };
            match pending.what {
                What::HardState { term } => finished.hard = Some(term),
                What::Log { through } => finished.log = Some(through),
            }
            self.held -= pending.then.len();
            finished.released.extend(pending.then);
        }
        finished
    }

    /// Entries after `keep` are gone: records under way bring the log no
    /// further than that.
    pub(super) fn forget_after(&mut self, keep: Seq) {
        for pending in &mut self.pending {
            if let What::Log { through } = &mut pending.what {
                *through = (*through).min(keep);
            }
        }
    }

    /// A hard state is on its way.
    pub(super) fn hard_pending(&self) -> bool {
        self.pending.iter().any(|p| matches!(p.what, What::HardState { .. }))
    }

    /// Entries are on their way.
    pub(super) fn log_pending(&self) -> bool {
        self.pending.iter().any(|p| matches!(p.what, What::Log { .. }))
    }

    /// How many records are on their way, and how many messages wait for them.
    pub(super) fn burden(&self) -> (usize, usize) {
        (self.pending.len(), self.held)
    }

    pub(super) fn check(&self) {
        assert!(self.held <= Self::HELD_MAX, "{} messages are held back", self.held);
        let mut before = 0;
        for pending in &self.pending {
            assert!(pending.id > before, "held-back records are out of order");
            before = pending.id;
        }
        assert!(before <= self.last_id, "a record was never ordered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::HardState;
    use alloc::vec;

    fn append(keep: Option<Seq>) -> Record {
        Record::Append { keep, entries: vec![] }
    }

    #[test]
    fn a_message_waits_for_what_it_names() {
        let (mut disk, mut out) = (Disk::default(), vec![]);
        disk.after(Gate::Log, Output::Stopped, &mut out);
        assert_eq!(out.len(), 1, "nothing is under way");
        out.clear();
        disk.persist(Record::HardState(HardState { term: Term(4), ..HardState::default() }), Seq(0), &mut out);
        disk.persist(append(None), Seq(5), &mut out);
        out.clear();
        disk.after(Gate::HardState, Output::Stopped, &mut out);
        disk.after(Gate::Log, Output::Stopped, &mut out);
        assert!(out.is_empty());
        let first = disk.finish(1);
        assert_eq!((first.hard, first.log), (Some(Term(4)), None));
        assert_eq!(first.released.len(), 1);
        let second = disk.finish(2);
        assert_eq!((second.log, second.released.len()), (Some(Seq(5)), 1));
    }

    #[test]
    fn a_truncated_suffix_never_becomes_durable() {
        let (mut disk, mut out) = (Disk::default(), vec![]);
        disk.persist(append(None), Seq(8), &mut out);
        disk.persist(append(Some(Seq(6))), Seq(9), &mut out);
        assert_eq!(disk.finish(1).log, Some(Seq(6)));
        assert_eq!(disk.finish(9).log, Some(Seq(9)));
    }
}
