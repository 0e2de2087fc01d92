//! UNIQUE values and foreign keys: the same rows, whatever came first.

use base_ha_core::hlc::Hlc;
use base_ha_core::ids::NodeId;
use base_ha_core::merge::{Claim, Claims, Stamp, visible};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn claim(of: u32, key: u8) -> Claim {
    Claim { of, key: Bytes::copy_from_slice(&[key]) }
}

fn stamp(hlc: u64) -> Stamp {
    Stamp { hlc: Hlc(hlc), node: NodeId::new("n").expect("legal") }
}

fn row(hlc: u64, unique: &[u8], parents: &[Claim]) -> Claims {
    let unique = unique.iter().map(|key| claim(9, *key)).collect();
    Claims { stamp: stamp(hlc), unique, parents: parents.to_vec() }
}

type Rows = BTreeMap<Claim, Claims>;

/// Writes in some order, each of which is the row's last if its stamp is.
fn after(writes: &[(u8, Claims)]) -> Rows {
    let mut rows = Rows::new();
    for (key, claims) in writes {
        let held = rows.entry(claim(0, *key)).or_insert_with(|| claims.clone());
        if claims.stamp > held.stamp {
            *held = claims.clone();
        }
    }
    rows
}

/// A(u=1), B(u=1), B'(u=2): A is seen in the end, in every order. To delete the
/// loser when it comes does not get there.
#[test]
fn a_loser_is_back_when_the_value_is_released() {
    let (a, b) = ((b'A', row(1, &[1], &[])), (b'B', row(2, &[1], &[])));
    let released = (b'B', row(3, &[2], &[]));
    let before = visible(&after(&[a.clone(), b.clone()]));
    assert_eq!(before, [claim(0, b'B')].into());
    let both: BTreeSet<Claim> = [claim(0, b'A'), claim(0, b'B')].into();
    let orders = [[&a, &b, &released], [&a, &released, &b], [&released, &b, &a], [&b, &a, &released]];
    let mut with_deletion = BTreeSet::new();
    for order in orders {
        let order: Vec<(u8, Claims)> = order.into_iter().cloned().collect();
        assert_eq!(visible(&after(&order)), both);
        // The shortcut: whatever loses is deleted at once.
        let mut left = Vec::new();
        for write in order {
            left.push(write);
            let seen = visible(&after(&left));
            left.retain(|(key, _)| seen.contains(&claim(0, *key)));
        }
        with_deletion.insert(visible(&after(&left)));
    }
    assert!(with_deletion.len() > 1, "the shortcut diverges");
}

#[test]
fn children_go_and_come_with_their_parent() {
    let parent = claim(0, b'P');
    let child = (b'C', row(5, &[], std::slice::from_ref(&parent)));
    let mut grandchild = row(6, &[1], &[claim(0, b'C')]);
    let loser = (b'L', row(1, &[1], &[]));
    let rows = |parent: bool, grandchild: &Claims| {
        let mut writes = vec![child.clone(), (b'G', grandchild.clone()), loser.clone()];
        if parent {
            writes.push((b'P', row(2, &[], &[])));
        }
        visible(&after(&writes))
    };
    // With the parent everybody is seen but the loser of the value.
    assert_eq!(rows(true, &grandchild), [claim(0, b'C'), claim(0, b'G'), parent.clone()].into());
    // Without it the grandchild goes too, and releases its value.
    assert_eq!(rows(false, &grandchild), [claim(0, b'L')].into());
    // Rows that point to each other hold each other up.
    grandchild.parents = vec![claim(0, b'G')];
    assert_eq!(rows(false, &grandchild), [claim(0, b'G')].into());
}

fn any_rows() -> impl Strategy<Value = Rows> {
    let parent = prop_oneof![3 => Just(None), 1 => (0u8..8).prop_map(Some)];
    let one = (0u64..12, prop::collection::vec(0u8..4, 0..2), parent);
    prop::collection::btree_map(0u8..8, one, 0..8).prop_map(|rows| {
        let claims = |(hlc, unique, parent): (u64, Vec<u8>, Option<u8>)| {
            row(hlc, &unique, parent.map(|key| claim(0, key)).as_slice())
        };
        rows.into_iter().map(|(key, spec)| (claim(0, key), claims(spec))).collect()
    })
}

proptest! {
    /// What is seen can stand in a database: no value twice, no child without
    /// its parent.
    #[test]
    fn what_is_seen_breaks_no_constraint(rows in any_rows()) {
        let seen = visible(&rows);
        let mut taken = BTreeSet::new();
        for key in &seen {
            let claims = &rows[key];
            let unique: BTreeSet<&Claim> = claims.unique.iter().collect();
            prop_assert!(unique.into_iter().all(|claim| taken.insert(claim)), "a value is there twice");
            prop_assert!(claims.parents.iter().all(|parent| seen.contains(parent)), "a child has no parent");
        }
    }

    /// No row is hidden without a reason.
    #[test]
    fn without_constraints_everything_is_seen(rows in any_rows()) {
        let free: Rows = (rows.into_iter()).map(|(key, claims)| (key, row(claims.stamp.hlc.0, &[], &[]))).collect();
        prop_assert_eq!(visible(&free).len(), free.len());
    }

    /// Where nobody points to anybody, a hidden row's value is held by a later
    /// one that is seen.
    #[test]
    fn a_value_goes_to_whoever_claimed_it_last(mut rows in any_rows()) {
        rows.values_mut().for_each(|claims| claims.parents.clear());
        let seen = visible(&rows);
        for (key, claims) in rows.iter().filter(|(key, _)| !seen.contains(*key)) {
            let holder = rows.iter().find(|(other, theirs)| {
                seen.contains(*other)
                    && (&theirs.stamp, *other) > (&claims.stamp, key)
                    && theirs.unique.iter().any(|claim| claims.unique.contains(claim))
            });
            prop_assert!(holder.is_some(), "{:?} is hidden by nobody", key);
        }
    }
}
