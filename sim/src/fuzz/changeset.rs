//! A change-set from bytes to rows.
//!
//! Decides that a replica takes an entry whole or not at all, and that what it
//! holds afterwards is what it says it holds.

use super::replica::Replica;
use super::wire::sealed;
use base_ha_core::wire::{decode_changeset, encode_changeset};
use bytes::Bytes;

/// A change-set: decoded, encoded again, and applied to a database that holds
/// a few rows of every kind of table.
///
/// # Panics
/// If a promise of the codec or of the store does not hold.
pub fn changeset(data: &[u8]) {
    let Some((how, body)) = data.split_first() else { return };
    let payload = if how % 2 == 0 { Bytes::copy_from_slice(body) } else { sealed(*b"bHA\xd1", 1, body) };
    match decode_changeset(payload.clone()) {
        Ok(set) => {
            assert_eq!(encode_changeset(&set), payload, "a change-set that is not written like this was read");
            if let Ok(undo) = set.inverse() {
                let again = undo.inverse().expect("row changes only");
                assert_eq!(again.changes, set.changes, "the inverse of the inverse is something else");
            }
        }
        // The store decodes as it goes: what the codec refuses is tried on a
        // database now and then only, for that is slow.
        Err(_) if how % 16 >= 2 => return,
        Err(_) => {}
    }
    applied(payload);
}

/// Whether it was applied.
fn applied(payload: Bytes) -> bool {
    let mut replica = Replica::filled();
    let (before, content) = (replica.position, replica.content);
    let entry = replica.entry(payload);
    replica.apply(entry.clone());
    let done = replica.position != before;
    if done {
        assert_eq!(replica.position, entry.position(), "the position is that of no entry");
    } else {
        assert_eq!(replica.content, content, "an entry that was refused changed the content hash");
    }
    let said = (replica.position, replica.content);
    // A fresh process reads what is there; and a count of the rows agrees.
    let replica = replica.reopened();
    assert_eq!((replica.position, replica.content), said, "what it said is not what is there");
    assert_eq!(replica.recount(), said.1, "the running content hash is not that of the rows");
    done
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_sound_change_set_is_applied_and_a_cut_one_is_not() {
        let payload = encode_changeset(&samples::rows());
        assert!(applied(payload.clone()));
        assert!(!applied(payload.slice(..payload.len() - 1)));
    }
}
