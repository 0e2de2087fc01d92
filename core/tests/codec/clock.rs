//! The hybrid clock under wall clocks that jump.

use base_ha_core::hlc::{ClockSkew, Hlc, HybridClock};
use base_ha_core::time::WallTime;
use core::time::Duration;
use proptest::prelude::*;

const SKEW_MAX_MS: u64 = 500;

fn clock(floor: Hlc) -> HybridClock {
    HybridClock::new(floor, Duration::from_millis(SKEW_MAX_MS))
}

#[derive(Clone, Debug)]
enum Step {
    Tick,
    Observe(Hlc),
    Raise(Hlc),
}

fn step() -> impl Strategy<Value = Step> {
    let near = (0u64..4000, any::<u16>()).prop_map(|(ms, n)| Hlc::new(ms, n));
    prop_oneof![
        3 => Just(Step::Tick),
        1 => near.clone().prop_map(Step::Observe),
        1 => any::<u64>().prop_map(|bits| Step::Observe(Hlc(bits >> 4))),
        1 => near.prop_map(Step::Raise),
    ]
}

proptest! {
    /// The wall clock goes anywhere at each step, back to 1970 included.
    #[test]
    fn stamps_never_go_back(
        floor in (0u64..4000).prop_map(|ms| Hlc::new(ms, 0)),
        steps in prop::collection::vec((step(), 0u64..4000), 1..60),
    ) {
        let mut clock = clock(floor);
        let mut highest = floor;
        for (step, wall) in steps {
            let wall = WallTime(wall);
            match step {
                Step::Tick => {
                    let stamp = clock.tick(wall);
                    prop_assert!(stamp > highest, "{stamp:?} after {highest:?}");
                    prop_assert!(stamp.millis() >= wall.0);
                    highest = stamp;
                }
                Step::Observe(remote) => {
                    let before = clock.last();
                    let ahead_ms = remote.millis().saturating_sub(wall.0);
                    match clock.observe(remote, wall) {
                        Ok(()) => {
                            prop_assert!(ahead_ms <= SKEW_MAX_MS);
                            highest = highest.max(remote);
                        }
                        Err(refused) => {
                            prop_assert!(ahead_ms > SKEW_MAX_MS);
                            prop_assert_eq!(refused, ClockSkew { ahead_ms });
                            prop_assert_eq!(clock.last(), before);
                        }
                    }
                }
                Step::Raise(floor) => {
                    clock.raise(floor);
                    highest = highest.max(floor);
                }
            }
            prop_assert_eq!(clock.last(), highest);
        }
    }

    /// Near wall time: with wall clocks that only advance, a stamp is ahead by
    /// no more than the skew that was admitted, plus the counter's carries.
    #[test]
    fn stamps_stay_near_the_wall(
        steps in prop::collection::vec((step(), 0u64..50), 1..60),
    ) {
        let mut clock = clock(Hlc::default());
        let mut wall = WallTime(10_000);
        for (step, advance) in steps {
            wall.0 += advance;
            match step {
                Step::Tick => {
                    clock.tick(wall);
                }
                Step::Observe(remote) => {
                    let _ = clock.observe(remote, wall);
                }
                Step::Raise(_) => {}
            }
            prop_assert!(clock.last().millis() <= wall.0 + SKEW_MAX_MS + 1);
        }
    }
}

#[test]
fn a_clock_that_stands_still_carries_into_the_milliseconds() {
    let mut clock = clock(Hlc::new(1000, u16::MAX));
    assert_eq!(clock.tick(WallTime(1000)), Hlc::new(1001, 0));
}

#[test]
fn a_restart_goes_on_above_the_highest_stamp_on_disk() {
    let mut before = clock(Hlc::default());
    let last = before.tick(WallTime(9_000));
    // The wall clock was set back while the node was down.
    let mut after = clock(last);
    assert!(after.tick(WallTime(10)) > last);
}
