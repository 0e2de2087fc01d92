//! The algebra of positions.

use crate::make;
use base_ha_core::ids::{Seq, StreamId, Term};
use base_ha_core::position::{Position, Positions, covers};
use proptest::prelude::*;

fn positions() -> impl Strategy<Value = Positions> {
    prop::collection::btree_map((0u128..4).prop_map(StreamId), (0u64..4).prop_map(Seq), 0..4)
}

fn small_position() -> impl Strategy<Value = Position> {
    (0u64..4, 0u64..4).prop_map(|(seq, term)| Position { seq: Seq(seq), term: Term(term), ..Position::START })
}

/// The least positions that cover both.
fn join(a: &Positions, b: &Positions) -> Positions {
    let mut out = a.clone();
    for (stream, seq) in b {
        let held = out.entry(*stream).or_default();
        *held = (*held).max(*seq);
    }
    out
}

proptest! {
    #[test]
    fn covering_is_reflexive_and_transitive(
        a in positions(), b in positions(), c in positions(),
    ) {
        prop_assert!(covers(&a, &a));
        if covers(&a, &b) && covers(&b, &c) {
            prop_assert!(covers(&a, &c));
        }
    }

    #[test]
    fn a_join_is_the_least_that_covers_both(
        a in positions(), b in positions(), c in positions(),
    ) {
        let both = join(&a, &b);
        prop_assert!(covers(&both, &a) && covers(&both, &b));
        prop_assert_eq!(covers(&c, &both), covers(&c, &a) && covers(&c, &b));
    }

    #[test]
    fn more_is_covered_by_nothing_that_lacks_it(a in positions(), stream in 0u128..4) {
        let mut further = a.clone();
        let seq = further.entry(StreamId(stream)).or_default();
        *seq = seq.next();
        prop_assert!(covers(&further, &a));
        prop_assert!(!covers(&a, &further));
    }

    #[test]
    fn nothing_wanted_is_always_held(a in positions()) {
        prop_assert!(covers(&a, &Positions::new()));
    }

    /// Votes need a total order: of two logs, one is at least as complete.
    #[test]
    fn the_vote_rule_orders_all_logs(
        a in small_position(), b in small_position(), c in small_position(),
    ) {
        prop_assert!(a.covers(&b) || b.covers(&a));
        if a.covers(&b) && b.covers(&c) {
            prop_assert!(a.covers(&c));
        }
        if a.term > b.term {
            prop_assert!(!b.covers(&a), "a higher last term wins whatever the lengths");
        }
    }

    #[test]
    fn everything_covers_the_start(a in make::position()) {
        prop_assert!(a.covers(&Position::START));
    }
}

#[test]
fn a_stream_at_zero_asks_for_nothing() {
    let wanted = Positions::from([(StreamId(7), Seq(0))]);
    assert!(covers(&Positions::new(), &wanted));
}
