//! O5: entries are applied in order and once, and a request is committed at
//! one place only.

use super::Verdict;
use base_ha_core::changeset::RequestId;
use base_ha_core::entry::Entry;
use base_ha_core::ids::Seq;
use base_ha_core::position::Position;
use std::collections::BTreeMap;

/// Where each request was committed.
#[derive(Debug, Default)]
pub struct AppliedOnce {
    places: BTreeMap<RequestId, Seq>,
}

impl AppliedOnce {
    /// A node that has applied everything up to `applied` applies `entry`,
    /// which carries `request`.
    ///
    /// # Errors
    /// If it is not the next one, or the request was committed elsewhere too.
    pub fn applied(&mut self, applied: &Position, entry: &Entry, request: Option<RequestId>) -> Verdict {
        if entry.seq.0 != applied.seq.0 + 1 || entry.prev_hash != applied.hash {
            return Err(format!("entry {} is applied after {}", entry.seq, applied.seq));
        }
        if let Some(request) = request {
            let first = *self.places.entry(request).or_insert(entry.seq);
            if first != entry.seq {
                return Err(format!("{request:?} is applied at {first} and at {}", entry.seq));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::entry::EntryKind;
    use base_ha_core::hlc::Hlc;
    use base_ha_core::ids::{StreamId, Term};
    use bytes::Bytes;

    fn after(prev: &Position) -> Entry {
        Entry::following(prev, StreamId::SHARED, Term(1), Hlc::default(), EntryKind::Data, Bytes::new())
    }

    #[test]
    fn gaps_repeats_and_strangers_are_rejected() {
        let mut oracle = AppliedOnce::default();
        let one = after(&Position::START);
        let two = after(&one.position());
        assert!(oracle.applied(&Position::START, &one, None).is_ok());
        assert!(oracle.applied(&one.position(), &two, None).is_ok());
        assert!(oracle.applied(&one.position(), &one, None).is_err());
        assert!(oracle.applied(&Position::START, &two, None).is_err());
        let stranger = Position { hash: base_ha_core::ids::Hash([1; 32]), ..one.position() };
        assert!(oracle.applied(&stranger, &two, None).is_err());
    }

    #[test]
    fn a_request_in_two_places_is_rejected() {
        let mut oracle = AppliedOnce::default();
        let one = after(&Position::START);
        let two = after(&one.position());
        let request = Some(RequestId(7));
        assert!(oracle.applied(&Position::START, &one, request).is_ok());
        // Another node, the same place.
        assert!(oracle.applied(&Position::START, &one, request).is_ok());
        assert!(oracle.applied(&one.position(), &two, request).is_err());
    }
}
