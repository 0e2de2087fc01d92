//! What whole nodes must keep, as their clients see it.
//!
//! Decides nothing: each file below reads the record of a run and refuses what
//! contradicts its property. They know the promise, not how it is kept.
//!
//! | file | property |
//! |---|---|
//! | `standing` | O1: one writer a term; no term falls |
//! | `survival` | O3, O5, O8: acknowledged is there, refused is not, nothing twice |
//! | `order` | writes follow each other in true time as in the log |
//! | `snapshot` | every read is one moment of the data |
//! | `session` | O7, R4: a session never goes back, reads what it wrote, and ends with a cause |
//! | `linear` | linearizable reads contain what was known before them |
//! | `replay` | O6, O9: the data is what the ledger's writes amount to, on all nodes |

pub mod linear;
pub mod order;
pub mod replay;
pub mod session;
pub mod snapshot;
pub mod standing;
pub mod survival;

use super::history::{History, OpId};
use crate::oracle::Verdict;
use std::collections::BTreeMap;

/// The ledger as a node ended with it: which write was the n-th.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The writes in order of their commits.
    pub ops: Vec<OpId>,
    /// Where each is, counted from 1; the first place if it is there twice.
    place: BTreeMap<OpId, i64>,
}

impl Ledger {
    /// A ledger of these writes, the first of them numbered 1.
    pub fn new(ops: Vec<OpId>) -> Self {
        let mut place = BTreeMap::new();
        for (at, op) in ops.iter().enumerate() {
            place.entry(*op).or_insert(at as i64 + 1);
        }
        Self { ops, place }
    }

    /// The number of a write, if it was committed.
    pub fn place(&self, op: OpId) -> Option<i64> {
        self.place.get(&op).copied()
    }
}

/// A property's name, and its check of a whole run.
type Check = (&'static str, fn(&History, &Ledger) -> Verdict);

/// The property that rests on clocks.
pub const LINEAR: &str = "R4 linearizable reads are current";

/// Everything that is checked on the record of a whole run.
pub const CHECKS: &[Check] = &[
    ("O3 what was acknowledged survives", survival::acknowledged_survives),
    ("O8 what was refused was not done", survival::refused_is_not_done),
    ("O5 a write is done once", survival::done_once),
    ("writes follow each other", order::real_time),
    ("positions are the ledger's order", order::positions),
    ("a read is one moment of the data", snapshot::consistent),
    ("O7 a session never goes back", session::never_back),
    ("R4 a session ends with a cause", session::forked_with_cause),
    (LINEAR, linear::current),
];

/// Histories for the oracles' tests.
#[cfg(test)]
pub(crate) mod fixture {
    use super::super::history::{History, Level, Op, Outcome, Seen, Step};
    use crate::clock::TrueTime;

    /// A history of acknowledged writes to register 1, one every 10 ms, each
    /// taking 5 ms, the n-th at position n + 10; write 0 is the set-up.
    pub(crate) fn written(count: usize) -> History {
        let mut history = History::default();
        for n in 0..count {
            history.ops.push(Op {
                id: n as i64,
                client: 0,
                statements: Vec::new(),
                register: (n > 0).then_some(1),
                durable: true,
                started: TrueTime::from_ms(n as u64 * 10),
                ended: TrueTime::from_ms(n as u64 * 10 + 5),
                outcome: Outcome::Acked { seq: n as u64 + 10 },
            });
            history.step(0, Step::Wrote(n));
        }
        history
    }

    /// Adds a read by client 0 that saw the moment after write `op`.
    pub(crate) fn read(history: &mut History, level: Level, at_ms: u64, op: i64) {
        history.reads.push(Seen {
            client: 0,
            level,
            presented: 0,
            started: TrueTime::from_ms(at_ms),
            ended: TrueTime::from_ms(at_ms + 2),
            seq: op as u64 + 10,
            register: 1,
            op,
            last: op + 1,
            rows: op + 1,
            sum: super::super::schema::ACCOUNTS * super::super::schema::BALANCE,
        });
        let at = history.reads.len() - 1;
        history.step(0, Step::Read(at));
    }
}
