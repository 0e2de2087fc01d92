//! O2: nothing is said under a term by a node that accepted a higher one, and
//! a disk votes once in a term (R2), restarts included.

use super::Verdict;
use base_ha_core::ids::{Incarnation, NodeId, Term};
use std::collections::BTreeMap;

/// The highest term each disk has spoken under, and its votes.
#[derive(Debug, Default)]
pub struct TermFence {
    highest: BTreeMap<Incarnation, Term>,
    votes: BTreeMap<(Incarnation, Term), NodeId>,
}

impl TermFence {
    /// A node would let a group run under `term`.
    ///
    /// # Errors
    /// If it spoke under a higher one before.
    pub fn holds(&self, who: Incarnation, term: Term) -> Verdict {
        match self.highest.get(&who) {
            Some(highest) if term < *highest => Err(format!("{who:?} may write under term {term} after {highest}")),
            Some(_) | None => Ok(()),
        }
    }

    /// A node says something under `term`.
    ///
    /// # Errors
    /// If it spoke under a higher one before.
    pub fn spoke(&mut self, who: Incarnation, term: Term) -> Verdict {
        let highest = self.highest.entry(who).or_default();
        if term < *highest {
            return Err(format!("{who:?} speaks under term {term} after {highest}"));
        }
        *highest = term;
        Ok(())
    }

    /// A disk was put back to when its term was this: what it said since is as
    /// good as unsaid.
    pub fn rolled_back(&mut self, who: Incarnation, term: Term) {
        self.highest.insert(who, term);
        self.votes.retain(|(voter, at), _| *voter != who || *at < term);
    }

    /// A disk gave its vote.
    ///
    /// # Errors
    /// If it gave it to another in the same term.
    pub fn voted(&mut self, who: Incarnation, term: Term, candidate: &NodeId) -> Verdict {
        let first = self.votes.entry((who, term)).or_insert_with(|| candidate.clone());
        if first == candidate {
            return Ok(());
        }
        Err(format!("{who:?} votes for {candidate} after {first} in term {term}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_term_is_rejected() {
        let mut oracle = TermFence::default();
        assert!(oracle.spoke(Incarnation(1), Term(4)).is_ok());
        assert!(oracle.spoke(Incarnation(2), Term(3)).is_ok());
        assert!(oracle.spoke(Incarnation(1), Term(3)).is_err());
        assert!(oracle.holds(Incarnation(1), Term(3)).is_err());
        assert!(oracle.holds(Incarnation(1), Term(4)).is_ok());
    }

    #[test]
    fn a_disk_that_was_put_back_starts_from_there() {
        let mut oracle = TermFence::default();
        assert!(oracle.spoke(Incarnation(1), Term(4)).is_ok());
        oracle.rolled_back(Incarnation(1), Term(2));
        assert!(oracle.spoke(Incarnation(1), Term(3)).is_ok());
        assert!(oracle.spoke(Incarnation(1), Term(2)).is_err());
    }

    #[test]
    fn a_second_vote_in_a_term_is_rejected() {
        let mut oracle = TermFence::default();
        let id = |text| NodeId::new(text).expect("legal");
        assert!(oracle.voted(Incarnation(1), Term(4), &id("a")).is_ok());
        assert!(oracle.voted(Incarnation(1), Term(4), &id("a")).is_ok());
        assert!(oracle.voted(Incarnation(2), Term(4), &id("b")).is_ok());
        assert!(oracle.voted(Incarnation(1), Term(4), &id("b")).is_err());
    }
}
