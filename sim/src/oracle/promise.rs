//! The lease promise: a vote that is granted, in true time, before the end of
//! a lease which was computed from that voter's own ack is a failure, whether
//! or not two writers came of it (DESIGN 8).

use super::Verdict;
use base_ha_core::ids::{Incarnation, Term};
use base_ha_core::io::WritePermit;
use base_ha_core::member::Membership;
use base_ha_core::time::MonoTime;
use std::collections::BTreeMap;

/// Which acks reached which writer.
#[derive(Debug, Default)]
pub struct LeasePromise {
    /// By writing host: its term, and each acker's newest echoed send time.
    acks: BTreeMap<usize, (Term, BTreeMap<Incarnation, MonoTime>)>,
}

/// Who is counted for a writer's lease.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The voters of its membership, itself left out.
    pub others: Vec<Incarnation>,
    /// How many make a quorum, itself included.
    pub quorum: usize,
}

impl LeasePromise {
    /// An ack reached a host, under the term in which it was sent.
    pub fn acked(&mut self, writer: usize, term: Term, voter: Incarnation, echo: MonoTime) {
        let (known, acks) = self.acks.entry(writer).or_default();
        if *known < term {
            *known = term;
            acks.clear();
        }
        if *known == term {
            let newest = acks.entry(voter).or_default();
            *newest = (*newest).max(echo);
        }
    }

    /// The newest own send time that a quorum has answered to a writer, itself
    /// included; nothing if fewer have. What it answered may be older: every
    /// answer that reached it counts here.
    pub fn answered(&self, writer: usize, term: Term, membership: &Membership) -> Option<MonoTime> {
        let (of, acks) = self.acks.get(&writer)?;
        let mut sent: Vec<MonoTime> = (membership.voters())
            .filter_map(|m| m.identity.as_ref())
            .filter_map(|(_, incarnation)| acks.get(incarnation).copied())
            .filter(|_| *of == term)
            .collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        sent.get(membership.quorum().checked_sub(2)?).copied()
    }

    /// A host's process ended: its lease ended with it.
    pub fn ended(&mut self, writer: usize) {
        self.acks.remove(&writer);
    }

    /// A vote was granted to another than `writer`, which holds `lease` and
    /// whose clock shows `mono`.
    ///
    /// # Errors
    /// If the lease is still valid and rests on this voter's ack: so few others
    /// acked anything sent later that the quorum's oldest send time is not newer
    /// than what this one acked. How the end was computed from it is not asked.
    pub fn granted(
        &self,
        writer: usize,
        lease: &WritePermit,
        mono: MonoTime,
        voter: Incarnation,
        counted: &Counted,
    ) -> Verdict {
        if mono >= lease.until || !counted.others.contains(&voter) {
            return Ok(());
        }
        let Some((term, acks)) = self.acks.get(&writer) else {
            return Ok(());
        };
        let Some(own) = acks.get(&voter).filter(|_| *term == lease.term) else {
            return Ok(());
        };
        let newer = counted.others.iter().filter(|other| acks.get(other).is_some_and(|sent| sent > own)).count();
        if newer + 1 < counted.quorum {
            return Err(format!(
                "{voter:?} granted a vote while its ack upheld the lease of host {writer} in term {term} until {:?}, whose clock shows {mono:?}",
                lease.until
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(until: u64) -> WritePermit {
        WritePermit { term: Term(3), until: MonoTime(until) }
    }

    fn three() -> Counted {
        Counted { others: vec![Incarnation(1), Incarnation(2)], quorum: 2 }
    }

    #[test]
    fn a_vote_within_the_own_promise_is_rejected() {
        let mut oracle = LeasePromise::default();
        let (a, b) = (Incarnation(1), Incarnation(2));
        oracle.acked(0, Term(3), a, MonoTime(100));
        let granted =
            |oracle: &LeasePromise, mono, voter| oracle.granted(0, &lease(1050), MonoTime(mono), voter, &three());
        assert!(granted(&oracle, 500, a).is_err());
        assert!(granted(&oracle, 1050, a).is_ok(), "the lease is over");
        assert!(granted(&oracle, 500, b).is_ok(), "it never acked");
        assert!(granted(&oracle, 500, Incarnation(9)).is_ok(), "no voter");
        oracle.acked(0, Term(3), b, MonoTime(200));
        assert!(granted(&oracle, 500, a).is_ok(), "the other upholds it");
        assert!(granted(&oracle, 500, b).is_err());
    }

    #[test]
    fn acks_of_an_older_term_uphold_nothing() {
        let mut oracle = LeasePromise::default();
        oracle.acked(0, Term(2), Incarnation(1), MonoTime(100));
        oracle.acked(0, Term(3), Incarnation(2), MonoTime(200));
        let (lease, at) = (lease(1000), MonoTime(300));
        let granted = oracle.granted(0, &lease, at, Incarnation(1), &three());
        assert!(granted.is_ok());
    }
}
