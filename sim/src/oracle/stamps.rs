//! R9: stamps rise along the committed log, whatever wall clocks do.

use super::Verdict;
use base_ha_core::entry::Entry;
use base_ha_core::hlc::Hlc;

/// The stamp at each place of the committed log.
#[derive(Debug, Default)]
pub struct RisingStamps {
    stamps: Vec<Option<Hlc>>,
}

impl RisingStamps {
    /// An entry is committed.
    ///
    /// # Errors
    /// If the one before it has no lower stamp, or the one after it no higher.
    pub fn committed(&mut self, entry: &Entry) -> Verdict {
        let index = entry.seq.0 as usize;
        if self.stamps.len() < index + 2 {
            self.stamps.resize(index + 2, None);
        }
        self.stamps[index] = Some(entry.hlc);
        let before = index.checked_sub(1).and_then(|n| self.stamps[n]);
        if before.is_some_and(|before| before >= entry.hlc) || self.stamps[index + 1].is_some_and(|n| n <= entry.hlc) {
            return Err(format!("entry {} is stamped {:?} after {before:?}", entry.seq, entry.hlc));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::entry::EntryKind;
    use base_ha_core::ids::{StreamId, Term};
    use base_ha_core::position::Position;
    use bytes::Bytes;

    #[test]
    fn a_stamp_that_does_not_rise_is_rejected() {
        let after = |prev: &Position, hlc| {
            Entry::following(prev, StreamId::SHARED, Term(1), Hlc(hlc), EntryKind::Noop, Bytes::new())
        };
        let one = after(&Position::START, 5);
        let mut oracle = RisingStamps::default();
        assert!(oracle.committed(&one).is_ok());
        assert!(oracle.committed(&after(&one.position(), 6)).is_ok());
        assert!(oracle.committed(&after(&one.position(), 5)).is_err());
        assert!(oracle.committed(&after(&Position::START, 7)).is_err(), "the next one is known");
    }
}
