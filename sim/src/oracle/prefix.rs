//! O4: committed logs are equal wherever both have an entry, and what a
//! process knows to be committed never shrinks.

use super::Verdict;
use base_ha_core::entry::Entry;
use base_ha_core::ids::{Hash, Seq};

/// The one committed log.
#[derive(Debug, Default)]
pub struct PrefixEquality {
    /// By place, from 1; `None` where nobody said so yet.
    committed: Vec<Option<Hash>>,
}

impl PrefixEquality {
    /// A node was told to apply `entry`. Says whether that is news.
    ///
    /// # Errors
    /// If another entry was committed in its place.
    pub fn committed(&mut self, entry: &Entry) -> Result<bool, String> {
        let index = entry.seq.0 as usize;
        if self.committed.len() <= index {
            self.committed.resize(index + 1, None);
        }
        match self.committed[index] {
            None => {
                self.committed[index] = Some(entry.hash);
                Ok(true)
            }
            Some(hash) if hash == entry.hash => Ok(false),
            Some(hash) => Err(format!(
                "entry {} is committed as {hash:?} and as {:?} of term {}",
                entry.seq, entry.hash, entry.term
            )),
        }
    }

    /// A node drops everything after `keep` from its log, where `known` was
    /// committed to its knowledge.
    ///
    /// # Errors
    /// If that drops a committed entry.
    pub fn truncated(&self, keep: Seq, known: Seq) -> Verdict {
        if keep >= known {
            return Ok(());
        }
        Err(format!("{known} is committed, the log is cut after {keep}"))
    }

    /// The last committed entry.
    pub fn last(&self) -> Seq {
        Seq(self.committed.len().saturating_sub(1) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::entry::EntryKind;
    use base_ha_core::hlc::Hlc;
    use base_ha_core::ids::{StreamId, Term};
    use base_ha_core::position::Position;
    use bytes::Bytes;

    fn first(term: u64) -> Entry {
        Entry::following(&Position::START, StreamId::SHARED, Term(term), Hlc::default(), EntryKind::Noop, Bytes::new())
    }

    #[test]
    fn two_entries_in_one_place_are_rejected() {
        let mut oracle = PrefixEquality::default();
        assert_eq!(oracle.committed(&first(1)), Ok(true));
        assert_eq!(oracle.committed(&first(1)), Ok(false));
        assert!(oracle.committed(&first(2)).is_err());
        assert_eq!(oracle.last(), Seq(1));
    }

    #[test]
    fn dropping_a_committed_entry_is_rejected() {
        let oracle = PrefixEquality::default();
        assert!(oracle.truncated(Seq(5), Seq(5)).is_ok());
        assert!(oracle.truncated(Seq(4), Seq(5)).is_err());
    }
}
