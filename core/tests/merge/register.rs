//! One row, many writers: any order, any repetition, the same row.

use base_ha_core::changeset::Value;
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{NodeId, Seq, StreamId};
use base_ha_core::merge::{Contradiction, Dot, Register, Rule, Stamp, Version};
use base_ha_core::position::Positions;
use proptest::prelude::*;

const COLUMNS: usize = 2;

fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).expect("legal")
}

/// A node of a model: what it has applied, its clock, its register.
#[derive(Clone, Default)]
struct Peer {
    applied: Positions,
    clock: u64,
    register: Register,
}

/// What a history does next.
#[derive(Clone, Debug)]
enum Act {
    /// This node changes these columns (one bit each), or deletes the row.
    Write { by: usize, mask: u8, value: i64, delete: bool },
    /// This node hears the next entry of that one.
    Hear { by: usize, of: usize },
}

/// Runs a history in which entries are heard in the order of their streams and
/// after what their writers had applied; returns all versions made.
fn history(nodes: usize, acts: &[Act], rule: &Rule) -> Vec<Version> {
    let mut peers = vec![Peer::default(); nodes];
    let mut streams: Vec<Vec<Version>> = vec![Vec::new(); nodes];
    for act in acts {
        match *act {
            Act::Write { by, mask, value, delete } => {
                let by = by % nodes;
                let peer = &mut peers[by];
                peer.clock += 1;
                let stamp = Stamp { hlc: Hlc(peer.clock), node: node(by) };
                let held = peer.register.seen(rule).and_then(|seen| seen.row);
                let fresh = vec![(stamp.clone(), Value::Null); COLUMNS];
                let mut row = held.unwrap_or(fresh);
                for (n, column) in row.iter_mut().enumerate() {
                    if mask & (1 << n) != 0 {
                        *column = (stamp.clone(), Value::Integer(value));
                    }
                }
                let stream = StreamId(by as u128);
                let seq = peer.applied.get(&stream).copied().unwrap_or_default().next();
                let dot = Dot { stream, seq };
                let row = (!delete).then_some(row);
                let version = Version { dot, after: peer.applied.clone(), stamp, row };
                peer.applied.insert(stream, seq);
                peer.register.join(version.clone()).expect("no contradiction");
                assert_eq!(peer.register.versions().len(), 1, "who has seen everything replaces everything");
                streams[by].push(version);
            }
            Act::Hear { by, of } => {
                let (by, of) = (by % nodes, of % nodes);
                let stream = StreamId(of as u128);
                let next = peers[by].applied.get(&stream).copied().unwrap_or_default();
                let Some(version) = streams[of].get(next.0 as usize) else { continue };
                let ready = version.after.iter().all(|(stream, seq)| {
                    *stream == version.dot.stream || peers[by].applied.get(stream).copied().unwrap_or_default() >= *seq
                });
                if ready {
                    let peer = &mut peers[by];
                    peer.applied.insert(stream, version.dot.seq);
                    peer.clock = peer.clock.max(version.stamp.hlc.0);
                    peer.register.join(version.clone()).expect("no contradiction");
                }
            }
        }
    }
    streams.concat()
}

fn joined<'a>(versions: impl IntoIterator<Item = &'a Version>) -> Register {
    let mut register = Register::default();
    for version in versions {
        register.join(version.clone()).expect("no contradiction");
    }
    register
}

fn rules() -> [Rule; 3] {
    [Rule::Latest, Rule::LatestField, Rule::Origin(vec![node(2), node(0)])]
}

/// Calls `check` with every order of `items`.
fn permutations<T: Clone>(items: &mut Vec<T>, at: usize, check: &mut impl FnMut(&[T])) {
    if at == items.len() {
        return check(items);
    }
    for n in at..items.len() {
        items.swap(at, n);
        permutations(items, at + 1, check);
        items.swap(at, n);
    }
}

/// Every history of four acts by three nodes, every order of what it made:
/// the tiny domain, whole.
#[test]
fn every_order_of_every_short_history_gives_the_same_row() {
    let mut acts = Vec::new();
    for by in 0..3 {
        acts.push(Act::Write { by, mask: 1 + (by as u8 & 1), value: by as i64, delete: false });
        acts.push(Act::Write { by, mask: 0, value: 0, delete: true });
        acts.push(Act::Hear { by, of: (by + 1) % 3 });
        acts.push(Act::Hear { by, of: (by + 2) % 3 });
    }
    let (mut histories, mut contended) = (0, 0);
    for a in &acts {
        for b in &acts {
            for c in &acts {
                for d in &acts {
                    for rule in rules() {
                        let history = [a.clone(), b.clone(), c.clone(), d.clone()];
                        let mut versions = history_of(&history, &rule);
                        let expected = joined(&versions);
                        contended += u32::from(expected.is_contended());
                        histories += 1;
                        permutations(&mut versions, 0, &mut |order| {
                            assert_eq!(joined(order), expected, "{history:?}");
                        });
                    }
                }
            }
        }
    }
    assert_eq!(histories, 12u32.pow(4) * 3);
    assert!(contended > 1000, "only {contended} histories had anything to merge");
}

fn history_of(acts: &[Act], rule: &Rule) -> Vec<Version> {
    history(3, acts, rule)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0usize..4, 0u8..4, any::<i8>(), prop::bool::weighted(0.2))
            .prop_map(|(by, mask, value, delete)| Act::Write { by, mask, value: value.into(), delete }),
        4 => (0usize..4, 0usize..4).prop_map(|(by, of)| Act::Hear { by, of }),
    ]
}

proptest! {
    /// Commutative, associative, idempotent: any permutation and repetition of
    /// any history's versions is the same register, and so is a join of parts
    /// that were joined before.
    #[test]
    fn any_permutation_and_duplication_gives_the_same_register(
        acts in prop::collection::vec(act(), 1..40),
        order in any::<prop::sample::Index>(),
        which in 0usize..3,
        shuffled in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
    ) {
        let rule = &rules()[which];
        let versions = history(4, &acts, rule);
        prop_assume!(!versions.is_empty());
        let expected = joined(&versions);
        // Some of them in any order and number, then all.
        let some = shuffled.iter().map(|index| index.get(&versions));
        let register = joined(some.chain(versions.iter().rev()));
        prop_assert_eq!(&register, &expected);
        // Two parts, each joined by itself.
        let at = order.index(versions.len());
        let (first, second) = (joined(&versions[..at]), joined(&versions[at..]));
        prop_assert_eq!(&joined(second.versions().iter().chain(first.versions())), &expected);
        prop_assert_eq!(register.seen(rule), expected.seen(rule));
    }

    /// The winner of `lww` dominates: no version that counts has a later stamp,
    /// and no version at all, for replacing takes knowledge and that a later
    /// stamp.
    #[test]
    fn what_lww_shows_has_the_latest_stamp_of_all(acts in prop::collection::vec(act(), 1..40)) {
        let versions = history(4, &acts, &Rule::Latest);
        if let Some(seen) = joined(&versions).seen(&Rule::Latest) {
            prop_assert_eq!(Some(&seen.stamp), versions.iter().map(|v| &v.stamp).max());
        }
    }

    /// No value is lost silently: each version that counts is seen, or named
    /// as lost.
    #[test]
    fn a_version_that_counts_is_seen_or_named(acts in prop::collection::vec(act(), 1..40), which in 0usize..3) {
        let rule = &rules()[which];
        let register = joined(&history(4, &acts, rule));
        let Some(seen) = register.seen(rule) else { return Ok(()) };
        for version in register.versions().iter().filter(|v| !seen.lost.contains(&v.dot)) {
            match (&version.row, &seen.row) {
                (None, None) => {}
                (Some(own), Some(shown)) => {
                    let changed = own.iter().zip(shown).filter(|(column, _)| column.0 == version.stamp);
                    prop_assert!(changed.into_iter().all(|(column, shown)| column == shown));
                }
                (own, shown) => prop_assert!(false, "{:?} is not seen in {:?} and not named", own, shown),
            }
        }
        prop_assert!(register.is_contended() || seen.lost.is_empty());
    }
}

fn version(by: usize, seq: u64, hlc: u64, after: &[(usize, u64)]) -> Version {
    let stamp = Stamp { hlc: Hlc(hlc), node: node(by) };
    let after = after.iter().map(|(n, seq)| (StreamId(*n as u128), Seq(*seq))).collect();
    let row = Some(vec![(stamp.clone(), Value::Integer(hlc as i64))]);
    Version { dot: Dot { stream: StreamId(by as u128), seq: Seq(seq) }, after, stamp, row }
}

/// The reason why more than the winner is kept: A is preferred to C, C to B;
/// B replaces A's version, C writes beside both. Keeping the winner alone, the
/// two orders end differently.
#[test]
fn a_preferred_origin_needs_more_than_the_winner() {
    let rule = Rule::Origin(vec![node(0), node(2), node(1)]);
    let (a, c) = (version(0, 1, 1, &[]), version(2, 1, 2, &[]));
    let b = version(1, 1, 3, &[(0, 1)]);
    let right = joined([&a, &b, &c]).seen(&rule).expect("seen");
    assert_eq!(right.stamp, c.stamp);
    assert_eq!(joined([&c, &a, &b]).seen(&rule), Some(right));
    let winner_only = |versions: [&Version; 3]| {
        let mut kept: Option<Version> = None;
        for version in versions {
            let mut two = Register::default();
            for one in kept.iter().chain([version]) {
                two.join(one.clone()).expect("no contradiction");
            }
            let seen = two.seen(&rule).expect("seen");
            kept = two.versions().iter().find(|v| v.stamp == seen.stamp).cloned();
        }
        kept.expect("one").stamp
    };
    assert_ne!(winner_only([&a, &b, &c]), winner_only([&c, &a, &b]), "the shortcut diverges");
}

/// G1: concurrent updates of one row end alike on both nodes, in the order
/// of their stamps and not of their arrival.
#[test]
fn concurrent_update_converges() {
    let (first, second) = (version(0, 1, 10, &[]), version(1, 1, 11, &[]));
    let at_a = joined([&first, &second]).seen(&Rule::Latest).expect("seen");
    let at_b = joined([&second, &first]).seen(&Rule::Latest).expect("seen");
    assert_eq!(at_a, at_b);
    assert_eq!(at_a.stamp, second.stamp);
    assert_eq!(at_a.lost, [first.dot]);
}

/// Equal clocks: the node breaks the tie, and not whoever comes first.
#[test]
fn equal_clocks_are_told_apart_by_node() {
    let (low, high) = (version(0, 1, 10, &[]), version(1, 1, 10, &[]));
    for order in [[&low, &high], [&high, &low]] {
        assert_eq!(joined(order).seen(&Rule::Latest).expect("seen").stamp, high.stamp);
    }
}

/// Equal stamps mean equal bytes; where they don't, nothing is merged.
#[test]
fn one_stamp_for_two_things_is_refused() {
    let one = version(0, 1, 10, &[]);
    let mut register = joined([&one]);
    let mut other = one.clone();
    other.row = None;
    assert_eq!(register.join(other), Err(Contradiction { dot: one.dot }));
    let mut moved = one.clone();
    moved.dot.seq = Seq(2);
    assert_eq!(register.join(moved.clone()), Err(Contradiction { dot: moved.dot }));
    assert_eq!(register, joined([&one]));
}

/// Fields: two nodes change two columns, and both changes are seen; a deletion
/// gives way to a later change only.
#[test]
fn fields_merge_and_a_deletion_yields_to_later_changes_only() {
    let both = |acts: &[Act]| joined(&history(3, acts, &Rule::LatestField)).seen(&Rule::LatestField).expect("seen");
    let write = |by, mask, value| Act::Write { by, mask, value, delete: false };
    let delete = |by| Act::Write { by, mask: 0, value: 0, delete: true };
    let start = [write(0, 3, 1), Act::Hear { by: 1, of: 0 }, Act::Hear { by: 2, of: 0 }];
    let merged = both(&[&start[..], &[write(1, 1, 5), write(2, 2, 6)]].concat());
    let values: Vec<Value> = merged.row.expect("a row").into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, [Value::Integer(5), Value::Integer(6)]);
    assert!(merged.lost.is_empty(), "both are seen");
    // The deletion by the later node name has the later stamp at equal clocks.
    let gone = both(&[&start[..], &[write(1, 1, 5), delete(2)]].concat());
    assert_eq!((gone.row, gone.lost.len()), (None, 1));
    let stays = both(&[&start[..], &[delete(1), write(2, 1, 5)]].concat());
    assert!(stays.row.is_some() && stays.lost.len() == 1);
}
