//! R2, O11: who writes was elected: its candidacy followed a pre-vote majority
//! or the writer's own call, and a quorum of the voters, each with the disk that
//! the membership names, voted for it in that very term.

use super::Verdict;
use base_ha_core::ids::{Incarnation, NodeId, Term};
use base_ha_core::member::Membership;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that was said about candidates, by term.
#[derive(Debug, Default)]
pub struct Mandate {
    pre_votes: BTreeMap<(Term, NodeId), BTreeSet<Incarnation>>,
    votes: BTreeMap<(Term, NodeId), BTreeSet<Incarnation>>,
    called: BTreeSet<(Term, NodeId)>,
}

/// Who stands.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub id: &'a NodeId,
    /// Its disk.
    pub incarnation: Incarnation,
    /// The membership that it counts by.
    pub membership: &'a Membership,
}

impl Mandate {
    /// `voter` says that it would vote for `candidate` in `term`.
    pub fn pre_voted(&mut self, term: Term, candidate: &NodeId, voter: Incarnation) {
        self.pre_votes.entry((term, candidate.clone())).or_default().insert(voter);
    }

    /// `voter` votes for `candidate` in `term`.
    pub fn voted(&mut self, term: Term, candidate: &NodeId, voter: Incarnation) {
        self.votes.entry((term, candidate.clone())).or_default().insert(voter);
    }

    /// The writer of `term` tells `heir` to stand in the next one.
    pub fn called(&mut self, term: Term, heir: &NodeId) {
        self.called.insert((term.next(), heir.clone()));
    }

    /// Somebody asks for votes in `term`, `called` if it claims that the writer
    /// told it to.
    ///
    /// # Errors
    /// If no writer did, or no majority said that it would get them.
    pub fn stands(&self, term: Term, who: Candidate<'_>, called: bool) -> Verdict {
        if called {
            return match self.called.contains(&(term, who.id.clone())) {
                true => Ok(()),
                false => Err(format!("{} says it was told to stand in term {term}, and was not", who.id)),
            };
        }
        self.reached("pre-votes", &self.pre_votes, term, who)
    }

    /// Somebody became writer of `term`.
    ///
    /// # Errors
    /// If no quorum voted for it.
    pub fn won(&self, term: Term, who: Candidate<'_>) -> Verdict {
        self.reached("votes", &self.votes, term, who)
    }

    fn reached(
        &self,
        what: &str,
        said: &BTreeMap<(Term, NodeId), BTreeSet<Incarnation>>,
        term: Term,
        who: Candidate<'_>,
    ) -> Verdict {
        let none = BTreeSet::new();
        let said = said.get(&(term, who.id.clone())).unwrap_or(&none);
        let counted = (who.membership.voters())
            .filter_map(|m| m.identity.as_ref())
            .filter(|(id, incarnation)| {
                // Its own word is not sent to anyone.
                if id == who.id { *incarnation == who.incarnation } else { said.contains(incarnation) }
            })
            .count();
        if counted >= who.membership.quorum() {
            return Ok(());
        }
        Err(format!("{} has {counted} {what} in term {term}, {} are needed", who.id, who.membership.quorum()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{id, three};
    use super::*;

    #[test]
    fn a_writer_without_a_quorum_of_votes_is_rejected() {
        let mut oracle = Mandate::default();
        let (n0, membership) = (id("n0"), three());
        let who = Candidate { id: &n0, incarnation: Incarnation(0), membership: &membership };
        assert!(oracle.won(Term(4), who).is_err(), "only its own");
        oracle.voted(Term(3), &n0, Incarnation(1));
        assert!(oracle.won(Term(4), who).is_err(), "a vote of another term");
        oracle.voted(Term(4), &n0, Incarnation(9));
        assert!(oracle.won(Term(4), who).is_err(), "a vote of another disk");
        oracle.voted(Term(4), &n0, Incarnation(2));
        assert!(oracle.won(Term(4), who).is_ok());
        let new_disk = Candidate { incarnation: Incarnation(7), ..who };
        assert!(oracle.won(Term(4), new_disk).is_err(), "its own disk is no voter");
    }

    #[test]
    fn a_candidacy_out_of_nowhere_is_rejected() {
        let mut oracle = Mandate::default();
        let (n0, membership) = (id("n0"), three());
        let who = Candidate { id: &n0, incarnation: Incarnation(0), membership: &membership };
        assert!(oracle.stands(Term(4), who, false).is_err());
        oracle.pre_voted(Term(4), &n0, Incarnation(1));
        assert!(oracle.stands(Term(4), who, false).is_ok());
        assert!(oracle.stands(Term(4), who, true).is_err(), "nobody told it");
        oracle.called(Term(3), &n0);
        assert!(oracle.stands(Term(4), who, true).is_ok());
    }
}
