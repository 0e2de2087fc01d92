//! Points in a log, and which points a reader has seen.
//!
//! Decides what "the same point" and "at least as far" mean. Knows nothing of
//! who holds the entries.

use crate::ids::{Hash, Seq, StreamId, Term};
use alloc::collections::BTreeMap;

/// One point of one stream: the entry there, by number, term and chained hash.
/// Two logs that agree at a point agree on everything before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Position {
    /// The entry's place.
    pub seq: Seq,
    /// The term in which it was made.
    pub term: Term,
    /// Its hash, chained over all before it.
    pub hash: Hash,
}

impl Position {
    /// Before the first entry.
    pub const START: Self = Self { seq: Seq(0), term: Term(0), hash: Hash::ZERO };

    /// Whether a log that ends here is at least as complete as one that ends
    /// at `other`: the vote rule of Raft 5.4.1.
    pub fn covers(&self, other: &Self) -> bool {
        (self.term, self.seq) >= (other.term, other.seq)
    }
}

/// What has been applied, or seen, per stream: contiguous up to each number.
/// In `majority` it holds the one shared stream.
pub type Positions = BTreeMap<StreamId, Seq>;

/// Whether everything in `wanted` is in `held`.
pub fn covers(held: &Positions, wanted: &Positions) -> bool {
    wanted.iter().all(|(stream, seq)| held.get(stream).copied().unwrap_or_default() >= *seq)
}
