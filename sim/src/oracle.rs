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

pub mod content;
pub mod fence;
pub mod order;
pub mod permit;
pub mod prefix;
pub mod promise;
pub mod reads;
pub mod speech;
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
}
