//! R3: a commit rests on acknowledgements of its own term. One of an older term
//! says nothing of what a disk holds now, and neither does anything else that a
//! node says of the end of its log.

use super::Verdict;
use base_ha_core::ids::{Incarnation, Seq, Term};
use base_ha_core::member::Membership;
use base_ha_core::position::Position;
use std::collections::BTreeMap;

/// How far each disk has acknowledged the log, under each term.
#[derive(Debug, Default)]
pub struct SameTermAcks {
    matched: BTreeMap<(Term, Incarnation), Seq>,
}

impl SameTermAcks {
    /// A disk acknowledges the log up to `matched` to the writer of `term`.
    pub fn acked(&mut self, term: Term, who: Incarnation, matched: Seq) {
        let furthest = self.matched.entry((term, who)).or_default();
        *furthest = matched.max(*furthest);
    }

    /// The writer of `at.term`, whose own disk is `own`, says that `at` is
    /// committed.
    ///
    /// # Errors
    /// If fewer voters than a quorum, itself among them, have acknowledged it to
    /// it.
    pub fn uphold(&self, at: &Position, own: Incarnation, membership: &Membership) -> Verdict {
        let acked = |who: &Incarnation| self.matched.get(&(at.term, *who)).is_some_and(|matched| *matched >= at.seq);
        let voters = membership.voters().filter_map(|m| m.identity.as_ref());
        let holders = voters.filter(|(_, who)| *who == own || acked(who)).count();
        if holders >= membership.quorum() {
            return Ok(());
        }
        Err(format!(
            "entry {} of term {} is called committed on {holders} acknowledgements, {} are needed",
            at.seq,
            at.term,
            membership.quorum()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{log, three};
    use super::*;

    #[test]
    fn acknowledgements_of_another_term_or_disk_are_rejected() {
        let (mut oracle, membership) = (SameTermAcks::default(), three());
        let at = log(&[1, 2, 2]).last();
        let upheld = |oracle: &SameTermAcks| oracle.uphold(&at, Incarnation(0), &membership).is_ok();
        assert!(!upheld(&oracle), "only its own");
        oracle.acked(Term(1), Incarnation(1), Seq(9));
        assert!(!upheld(&oracle), "of another term");
        oracle.acked(Term(2), Incarnation(7), Seq(9));
        assert!(!upheld(&oracle), "of no voter");
        oracle.acked(Term(2), Incarnation(1), Seq(2));
        assert!(!upheld(&oracle), "not so far");
        oracle.acked(Term(2), Incarnation(1), Seq(3));
        oracle.acked(Term(2), Incarnation(1), Seq(1));
        assert!(upheld(&oracle));
    }
}
