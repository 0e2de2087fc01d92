//! The lease's arithmetic (RELIABILITY R1).
//!
//! Decides until when a writer may count on its followers' promises. Knows
//! nothing of messages.
//!
//! A follower promises for `L` on its own clock from receipt, so for at least
//! `L/(1+rho)` in true time after the send. The writer's clock passes at most
//! `X/(1-rho)` true time while it shows `X`. Hence `E = s + L(1-rho)/(1+rho) -
//! epsilon` ends first, where `s` is the newest *own* send time that a quorum
//! has answered. Never count from receipt of the answer, nor from another
//! node's clock.

use crate::time::{MonoTime, nanos};
use core::time::Duration;

/// The margin: 10 ms or a tenth of the lease, whichever is more.
pub fn margin(lease: Duration) -> Duration {
    (lease / 10).max(Duration::from_millis(10))
}

/// When a lease ends that a quorum renewed at `sent` by the writer's clock.
pub fn end(sent: MonoTime, lease: Duration, clock_rate_ppm: u32) -> MonoTime {
    let ppm = u128::from(clock_rate_ppm.min(999_999));
    let scaled = u128::from(nanos(lease)) * (1_000_000 - ppm) / (1_000_000 + ppm);
    let length = u64::try_from(scaled).unwrap_or(u64::MAX);
    let usable = length.saturating_sub(nanos(margin(lease)));
    MonoTime(sent.0.saturating_add(usable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_r1() {
        let end = end(MonoTime(0), Duration::from_millis(1500), 10_000);
        assert_eq!(end.0 / 1_000_000, 1320);
    }

    proptest! {
        /// Whatever the two clocks do within rho, the writer's lease is over
        /// before the follower's promise, in true time.
        #[test]
        fn the_lease_ends_before_any_promise(
            lease_ms in 20u64..10_000,
            ppm in 0u32..50_000,
            writer_rate in -1.0f64..=1.0,
            follower_rate in -1.0f64..=1.0,
            delay_us in 0u64..5_000_000,
        ) {
            let rho = f64::from(ppm) / 1e6;
            let lease = Duration::from_millis(lease_ms);
            // True time 0: the writer sends; its clock shows 0.
            let own = end(MonoTime(0), lease, ppm).0 as f64;
            let writer_stops = own / (1.0 + rho * writer_rate);
            let follower_free = delay_us as f64 * 1e3
                + lease.as_nanos() as f64 / (1.0 + rho * follower_rate);
            prop_assert!(writer_stops <= follower_free + 1.0);
        }

        /// The checker above can fail: counted from receipt, it does.
        #[test]
        fn counting_from_the_answer_would_overlap(lease_ms in 100u64..10_000) {
            let lease = Duration::from_millis(lease_ms);
            let answered = MonoTime(nanos(lease));
            prop_assert!(end(answered, lease, 10_000).0 > nanos(lease));
        }
    }
}
