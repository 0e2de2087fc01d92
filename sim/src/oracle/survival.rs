//! O3: what was acknowledged is in the log of every later writer.

use super::Verdict;
use crate::disk::Log;
use base_ha_core::ids::{Seq, Term};
use base_ha_core::position::Position;
use std::collections::BTreeMap;

/// The furthest acknowledged entry of each term: the chain of hashes stands for
/// all before it.
#[derive(Debug, Default)]
pub struct AckedSurvival {
    by_term: BTreeMap<Term, Position>,
    furthest: Seq,
    acks: u64,
}

impl AckedSurvival {
    /// A client was told that its request is done, as this entry, by the
    /// writer of the entry's own term.
    pub fn acked(&mut self, at: Position) {
        self.acks += 1;
        self.furthest = self.furthest.max(at.seq);
        let last = self.by_term.entry(at.term).or_insert(at);
        if at.seq > last.seq {
            *last = at;
        }
    }

    /// A node became writer of `term` with this log. What was acknowledged
    /// under a higher term is not for it to have: votes may come late.
    ///
    /// # Errors
    /// If what was acknowledged before its term is not in it.
    pub fn became_writer(&self, term: Term, log: &Log) -> Verdict {
        let Some((_, acked)) = self.by_term.range(..=term).next_back() else {
            return Ok(());
        };
        if log.holds(acked) {
            return Ok(());
        }
        Err(format!(
            "entry {} of term {} was acknowledged and is not in the log of the writer of term {term}, which ends at {} of term {}",
            acked.seq,
            acked.term,
            log.last().seq,
            log.last().term
        ))
    }

    /// The furthest acknowledged entry.
    pub fn furthest(&self) -> Seq {
        self.furthest
    }

    /// How many requests were acknowledged.
    pub fn acks(&self) -> u64 {
        self.acks
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::log;
    use super::*;

    #[test]
    fn a_writer_without_an_acked_entry_is_rejected() {
        let mut oracle = AckedSurvival::default();
        assert!(oracle.became_writer(Term(1), &log(&[])).is_ok());
        oracle.acked(log(&[1, 1]).last());
        assert!(oracle.became_writer(Term(2), &log(&[1, 1, 2])).is_ok());
        assert!(oracle.became_writer(Term(2), &log(&[1])).is_err(), "shorter");
        assert!(oracle.became_writer(Term(3), &log(&[1, 2, 2])).is_err(), "another entry in its place");
    }

    #[test]
    fn a_writer_whose_votes_came_late_need_not_know_higher_terms() {
        let mut oracle = AckedSurvival::default();
        oracle.acked(log(&[1, 1]).last());
        oracle.acked(log(&[1, 1, 6]).last());
        assert!(oracle.became_writer(Term(5), &log(&[1, 1])).is_ok());
        assert!(oracle.became_writer(Term(5), &log(&[1])).is_err());
        assert!(oracle.became_writer(Term(7), &log(&[1, 1])).is_err());
    }
}
