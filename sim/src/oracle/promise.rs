//! The lease promise: a vote that is granted, in true time, before the end of
//! a lease which was computed from that voter's own ack is a failure, whether
//! or not two writers came of it (DESIGN 8).

use super::Verdict;
use base_ha_core::ids::{Incarnation, Term};
use base_ha_core::io::WritePermit;
use base_ha_core::time::MonoTime;
use std::collections::BTreeMap;

/// Which acks reached which writer.
#[derive(Debug, Default)]
pub struct LeasePromise {
    /// By writing host: its term, and each acker's newest echoed send time.
    acks: BTreeMap<usize, (Term, BTreeMap<Incarnation, MonoTime>)>,
}

/// How a lease's end follows from the send time that was acked (R1).
#[derive(Clone, Copy, Debug)]
pub struct LeaseRule {
    /// L, in nanoseconds.
    pub lease_ns: u64,
    /// The bound on clock rates, in parts per million.
    pub rho_ppm: u32,
}

impl LeaseRule {
    /// The latest end that an ack of something sent at `sent` supports; the
    /// writer's own margin only shortens it.
    fn end(&self, sent: MonoTime) -> MonoTime {
        let rho = u128::from(self.rho_ppm);
        let length = u128::from(self.lease_ns) * (1_000_000 - rho) / (1_000_000 + rho);
        MonoTime(sent.0 + length as u64)
    }
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

    /// A host's process ended: its lease ended with it.
    pub fn ended(&mut self, writer: usize) {
        self.acks.remove(&writer);
    }

    /// A vote was granted to another than `writer`, which holds `lease` and
    /// whose clock shows `mono`.
    ///
    /// # Errors
    /// If the lease is still valid and needs this voter's ack: that ack's send
    /// time is not older than the one the lease was computed from. An ack that
    /// came too early to support so late an end is not one of the quorum's.
    pub fn granted(
        &self,
        writer: usize,
        lease: &WritePermit,
        mono: MonoTime,
        voter: Incarnation,
        rule: LeaseRule,
    ) -> Verdict {
        if mono >= lease.until {
            return Ok(());
        }
        let Some((term, acks)) = self.acks.get(&writer) else {
            return Ok(());
        };
        let supports = *term == lease.term && acks.get(&voter).is_some_and(|sent| rule.end(*sent) >= lease.until);
        if supports {
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

    const RULE: LeaseRule = LeaseRule { lease_ns: 1000, rho_ppm: 0 };

    fn lease(until: u64) -> WritePermit {
        WritePermit { term: Term(3), until: MonoTime(until) }
    }

    #[test]
    fn a_vote_within_the_own_promise_is_rejected() {
        let mut oracle = LeasePromise::default();
        let (a, b) = (Incarnation(1), Incarnation(2));
        oracle.acked(0, Term(3), a, MonoTime(100));
        let granted = |mono, voter, until| oracle.granted(0, &lease(until), MonoTime(mono), voter, RULE);
        assert!(granted(500, a, 1050).is_err());
        assert!(granted(1050, a, 1050).is_ok(), "the lease is over");
        assert!(granted(500, b, 1050).is_ok(), "it never acked");
        assert!(granted(500, a, 1200).is_ok(), "others uphold this one");
    }

    #[test]
    fn acks_of_an_older_term_uphold_nothing() {
        let mut oracle = LeasePromise::default();
        oracle.acked(0, Term(2), Incarnation(1), MonoTime(100));
        oracle.acked(0, Term(3), Incarnation(2), MonoTime(200));
        let granted = oracle.granted(0, &lease(1000), MonoTime(300), Incarnation(1), RULE);
        assert!(granted.is_ok());
    }
}
