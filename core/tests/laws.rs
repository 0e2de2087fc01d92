//! The laws of the pure functions that decide who may write: counting, the
//! order of candidates, the lease's arithmetic; each against the plainest
//! possible account of what it means.

use base_ha_core::ids::NodeId;
use base_ha_core::pin::{Contender, rank};
use base_ha_core::time::MonoTime;
use base_ha_core::{lease, quorum};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

proptest! {
    /// By definition: the highest value that so many have reached.
    #[test]
    fn reached_is_the_highest_value_that_a_quorum_has(values in vec(0u64..12, 1..9), quorum in 1usize..9) {
        let by_count = |at: u64| values.iter().filter(|v| **v >= at).count();
        let expected = (0..12).rev().find(|at| by_count(*at) >= quorum && values.contains(at));
        prop_assert_eq!(quorum::reached(&mut values.clone(), quorum), expected);
    }

    /// Whoever falls back cannot advance anybody, and order says nothing.
    #[test]
    fn reached_is_monotonic_and_symmetric(
        values in vec(0u64..100, 1..9), at: prop::sample::Index, less in 0u64..100, turn: prop::sample::Index,
    ) {
        let quorum = quorum::majority(values.len());
        let whole = quorum::reached(&mut values.clone(), quorum);
        let mut lowered = values.clone();
        let slot = &mut lowered[at.index(values.len())];
        *slot = slot.saturating_sub(less);
        prop_assert!(quorum::reached(&mut lowered, quorum) <= whole);
        let mut turned = values.clone();
        turned.rotate_left(turn.index(values.len()));
        prop_assert_eq!(quorum::reached(&mut turned, quorum), whole);
    }

    /// What a majority has and what another majority has was had by one voter
    /// at least: the commit rule and the vote rule meet there.
    #[test]
    fn two_majorities_have_a_voter_in_common(voters in 1usize..=64, first: u64, second: u64) {
        let (a, b) = (chosen(voters, first), chosen(voters, second));
        prop_assert_eq!(a.len(), quorum::majority(voters));
        prop_assert!(a.iter().any(|voter| b.contains(voter)));
        prop_assert!(quorum::majority(voters) <= voters, "all together are one");
    }

    /// Each voter has a rank of its own, from 0 on: no two wait equally long.
    /// The fit come before the unfit, and lower names before higher ones.
    #[test]
    fn ranks_are_an_order_of_all_voters(voters in prop::collection::btree_map("[a-z0-9-]{1,3}", any::<bool>(), 1..9)) {
        let ids: Vec<(NodeId, bool)> =
            voters.iter().map(|(text, fit)| (NodeId::new(text).expect("legal"), *fit)).collect();
        let contender = |(id, eligible): &(NodeId, bool)| (id.clone(), *eligible);
        let mut by_rank = BTreeMap::new();
        for me in &ids {
            let others: Vec<_> = ids.iter().filter(|other| other.0 != me.0).map(contender).collect();
            let others = others.iter().map(|(id, eligible)| Contender { id, eligible: *eligible });
            by_rank.insert(rank(Contender { id: &me.0, eligible: me.1 }, others), contender(me));
        }
        prop_assert_eq!(by_rank.keys().copied().collect::<Vec<_>>(), (0..ids.len() as u32).collect::<Vec<_>>());
        let order: Vec<_> = by_rank.into_values().map(|(id, fit)| (!fit, id)).collect();
        prop_assert!(order.is_sorted(), "{order:?}");
    }
}

/// A majority of `voters`, drawn by a number.
fn chosen(voters: usize, mut draw: u64) -> Vec<usize> {
    let mut all: Vec<usize> = (0..voters).collect();
    let mut out = Vec::new();
    while out.len() < quorum::majority(voters) {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        out.push(all.swap_remove((draw >> 33) as usize % all.len()));
    }
    out
}

const MS: f64 = 1e6;
/// A clock keeps a rate for so long, in true time.
const SEGMENT: f64 = 40.0 * MS;

/// A clock whose rate is another one every while, always within the bound.
/// Times are in nanoseconds since the true start.
#[derive(Clone, Debug)]
struct Rates(Vec<f64>);

impl Rates {
    fn rate(&self, segment: usize) -> f64 {
        1.0 + self.0[segment % self.0.len()]
    }

    /// What it shows at a true moment.
    fn shows(&self, at: f64) -> f64 {
        let whole = (at / SEGMENT) as usize;
        let before: f64 = (0..whole).map(|n| self.rate(n) * SEGMENT).sum();
        before + self.rate(whole) * (at - whole as f64 * SEGMENT)
    }

    /// The true moment at which it shows `mono`.
    fn when(&self, mono: f64) -> f64 {
        let (mut segment, mut shown) = (0, 0.0);
        loop {
            let next = shown + self.rate(segment) * SEGMENT;
            if next > mono {
                return segment as f64 * SEGMENT + (mono - shown) / self.rate(segment);
            }
            (segment, shown) = (segment + 1, next);
        }
    }
}

fn rates(ppm: u32) -> impl Strategy<Value = Rates> {
    let rho = f64::from(ppm) / 1e6;
    // At the bound more often than anywhere within it.
    vec(prop_oneof![Just(-rho), Just(rho), (-1.0..=1.0f64).prop_map(move |part| part * rho)], 1..12).prop_map(Rates)
}

/// One renewal as it happens in true time. Of a quorum's voters each has taken
/// an append that the writer sent, and promises its vote to nobody else for a
/// lease by its own clock.
#[derive(Clone, Debug)]
struct Renewal {
    voters: usize,
    writer: Rates,
    followers: Vec<(Rates, Vec<(f64, f64)>)>,
}

fn renewal(ppm: u32) -> impl Strategy<Value = Renewal> {
    // Each of its appends: when it was sent, and how long it was under way.
    let appends = vec((0.0..900.0f64, 0.0..2000.0f64), 0..5);
    (1usize..=7).prop_flat_map(move |voters| (rates(ppm), vec((rates(ppm), appends.clone()), voters - 1))).prop_map(
        |(writer, followers)| Renewal {
            voters: followers.len() + 1,
            writer,
            followers: followers
                .into_iter()
                .map(|(rates, appends)| (rates, appends.into_iter().map(|(at, late)| (at * MS, late * MS)).collect()))
                .collect(),
        },
    )
}

impl Renewal {
    /// How many of the voters could elect another just before the writer's lease
    /// is over, as it stands at the true moment `at`, `end` computing when that
    /// is; `None` if it has none then. What arrives later is taken to be lost.
    fn free_before_the_end(&self, at: f64, lease: Duration, end: impl Fn(MonoTime) -> MonoTime) -> Option<usize> {
        let received = |appends: &[(f64, f64)]| -> Vec<(f64, f64)> {
            appends.iter().copied().filter(|(sent, late)| sent + late <= at).collect()
        };
        // The newest own send time that each answered; it itself answers always.
        let mut answered = vec![u64::MAX];
        for (_, appends) in &self.followers {
            let newest = received(appends).iter().map(|(sent, _)| self.writer.shows(*sent) as u64).max();
            answered.push(newest.unwrap_or(0));
        }
        let sent =
            quorum::reached(&mut answered, quorum::majority(self.voters)).filter(|at| *at > 0 && *at < u64::MAX)?;
        let over = self.writer.when(end(MonoTime(sent)).0 as f64);
        if over <= at {
            return None;
        }
        let lease = lease.as_nanos() as f64;
        let free = self.followers.iter().filter(|(rates, appends)| {
            // Promised anew by each append, for a lease from its receipt.
            received(appends).iter().all(|(sent, late)| rates.when(rates.shows(sent + late) + lease) < over)
        });
        Some(free.count())
    }
}

const RHO_PPM: u32 = 20_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// R1 in true time, with clocks that change their rate within the bound and
    /// appends that arrive whenever they like, in any order: as long as the
    /// writer believes in its lease, too few voters are free to elect another.
    #[test]
    fn while_a_lease_holds_no_majority_is_free(
        renewal in renewal(RHO_PPM), lease_ms in 100u64..3000, at_ms in 0.0..4000.0f64,
    ) {
        let lease = Duration::from_millis(lease_ms);
        if let Some(free) = renewal.free_before_the_end(at_ms * MS, lease, |sent| lease::end(sent, lease, RHO_PPM)) {
            prop_assert!(free < quorum::majority(renewal.voters), "{free} of {} are free", renewal.voters);
        }
    }

    #[test]
    fn a_later_answer_never_ends_a_lease_earlier(sent in any::<u64>(), later in any::<u64>(), lease_ms in 20u64..60_000, ppm in 0u32..2_000_000) {
        let lease = Duration::from_millis(lease_ms);
        let end = |at: u64| lease::end(MonoTime(at), lease, ppm);
        prop_assert!(end(sent) <= end(sent.saturating_add(later)));
        // Whoever trusts clocks less holds it for a shorter time.
        prop_assert!(lease::end(MonoTime(sent), lease, ppm.saturating_add(1000)) <= end(sent));
        prop_assert!(end(sent).0 - sent <= lease.as_nanos() as u64);
    }
}

/// The model above has a case that it must reject: a lease counted in full, with
/// a writer whose clock is slow and followers whose clocks are fast.
#[test]
fn a_lease_without_its_margin_leaves_a_majority_free() {
    let rho = f64::from(RHO_PPM) / 1e6;
    let renewal = Renewal {
        voters: 3,
        writer: Rates(vec![-rho]),
        followers: vec![(Rates(vec![rho]), vec![(100.0 * MS, 0.0)]), (Rates(vec![rho]), vec![(100.0 * MS, 0.0)])],
    };
    let lease = Duration::from_millis(1500);
    assert_eq!(renewal.free_before_the_end(200.0 * MS, lease, |sent| lease::end(sent, lease, RHO_PPM)), Some(0));
    assert_eq!(renewal.free_before_the_end(200.0 * MS, lease, |sent| sent.after(lease)), Some(2));
}
