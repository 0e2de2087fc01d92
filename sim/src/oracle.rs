//! What must hold, whatever goes wrong.
//!
//! Decides nothing: each file below keeps the little history that its property
//! needs, takes facts as they happen, and refuses the first that contradicts
//! it. They know the promise, not how the core keeps it.
//!
//! | file | property |
//! |---|---|
//! | `writer` | O1: at most one writer per term |
//! | `permit` | O1b: at most one valid permit at any true moment, clock rates within bound |
//! | `promise` | no vote before the end of a lease that was computed from that voter's ack |
//! | `fence` | O2: nothing is said under a term by a node that accepted a higher one; one vote per term |
//! | `speech` | what is said to be durable is durable |
//! | `survival` | O3: what was acknowledged is in the log of every later writer |
//! | `prefix` | O4: committed logs are equal; the commit index never falls |
//! | `order` | O5: entries are applied once, in order, each request once |
//! | `content` | O6: equal positions, equal content |
//! | `reads` | a linearizable read sees everything acknowledged before it |
//! | `backing` | R3: a commit rests on acknowledgements of its own term |
//! | `lease` | R1: a lease ends before the promises that uphold it |
//! | `mandate` | R2, O11: who stands was called for, who writes was elected |
//! | `handover` | R6: the successor has everything, the predecessor is silent |
//! | `change` | R10: one membership change at a time |
//! | `stamps` | R9: stamps rise along the log |
//! | `outcome` | O9: an answer means what it says |
//! | `registers` | what clients write and read has one order |
//! | `session` | O7: a session reads its writes and never goes back in time |
//! | `fitness` | R8: who is unfit does not write, whose name runs twice does not vote |

pub mod backing;
pub mod change;
pub mod content;
pub mod fence;
pub mod fitness;
pub mod handover;
pub mod lease;
pub mod mandate;
pub mod order;
pub mod outcome;
pub mod permit;
pub mod prefix;
pub mod promise;
pub mod reads;
pub mod registers;
pub mod session;
pub mod speech;
pub mod stamps;
pub mod survival;
pub mod writer;

/// What contradicts a property, in words.
pub type Verdict = Result<(), String>;

/// Every property's history.
#[derive(Debug, Default)]
pub struct Oracles {
    /// O1.
    pub writer: writer::OneWriterPerTerm,
    /// O1b.
    pub permit: permit::OnePermitAtATime,
    /// The lease promise.
    pub promise: promise::LeasePromise,
    /// O2.
    pub fence: fence::TermFence,
    /// O3.
    pub survival: survival::AckedSurvival,
    /// O4.
    pub prefix: prefix::PrefixEquality,
    /// O5.
    pub order: order::AppliedOnce,
    /// O6.
    pub content: content::ContentEquality,
    /// Linearizable reads.
    pub reads: reads::CurrentReads,
    /// R2, O11.
    pub mandate: mandate::Mandate,
    /// R6.
    pub handover: handover::HandOver,
    /// R9.
    pub stamps: stamps::RisingStamps,
    /// O9.
    pub outcome: outcome::Outcomes,
    /// Linearizability.
    pub registers: registers::Registers,
    /// O7.
    pub sessions: session::Sessions,
    /// R3.
    pub backing: backing::SameTermAcks,
}

/// What several oracles' tests need.
#[cfg(test)]
mod test {
    use crate::disk::Log;
    use base_ha_core::entry::{Entry, EntryKind};
    use base_ha_core::hlc::Hlc;
    use base_ha_core::ids::{ClusterId, ConfigVersion, Incarnation, Lineage, NodeId, StreamId, Term, Url};
    use base_ha_core::member::{Member, Membership, QuorumMode, Role};
    use bytes::Bytes;

    pub(super) fn id(text: &str) -> NodeId {
        NodeId::new(text).expect("legal")
    }

    /// A log with an entry of each of these terms.
    pub(super) fn log(terms: &[u64]) -> Log {
        let mut log = Log::default();
        for term in terms {
            let (prev, term) = (log.last(), Term(*term));
            log.entries.push_back(Entry::following(
                &prev,
                StreamId::SHARED,
                term,
                Hlc::default(),
                EntryKind::Noop,
                Bytes::new(),
            ));
        }
        log
    }

    /// Three voters: n0, n1, n2 on disks 0, 1, 2.
    pub(super) fn three() -> Membership {
        let voter = |n: u8| Member {
            url: Url::new(&format!("http://n{n}:1")),
            identity: Some((id(&format!("n{n}")), Incarnation(u128::from(n)))),
            role: Role::Voter,
            target: None,
        };
        Membership {
            version: ConfigVersion(1),
            cluster: ClusterId(1),
            mode: QuorumMode::Majority,
            lineage: Lineage(1),
            members: (0..3).map(voter).collect(),
        }
    }
}
