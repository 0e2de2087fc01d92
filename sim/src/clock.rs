//! True time, and the clocks that nodes read instead.
//!
//! Decides what a node's clocks show at a true moment: they run at their own
//! rate, and the wall clock jumps. Knows nothing of what is done with it.

use base_ha_core::time::{MonoTime, Now, WallTime};
use std::fmt;

/// A moment as nobody in the cluster can know it, in nanoseconds since the
/// run's start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct TrueTime(pub u64);

impl TrueTime {
    /// So many milliseconds after the start.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// This moment plus some nanoseconds.
    #[must_use]
    pub fn plus_ns(self, ns: u64) -> Self {
        Self(self.0 + ns)
    }

    /// This moment plus some microseconds.
    #[must_use]
    pub fn plus_us(self, us: u64) -> Self {
        Self(self.0 + us * 1000)
    }

    /// This moment plus some milliseconds.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0 + ms * 1_000_000)
    }
}

impl fmt::Debug for TrueTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:4}.{:06}s", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// What a wall clock shows at the run's start, in milliseconds since 1970.
const WALL_START_MS: i64 = 1_750_000_000_000;

/// One machine's clocks.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Since then the rate is what it is now.
    since: TrueTime,
    /// What the monotonic clock showed then.
    mono: u64,
    rate_ppm: i64,
    wall_offset_ms: i64,
}

impl Clock {
    /// A clock that shows `mono` nanoseconds at the start of the run.
    pub fn new(mono: u64, rate_ppm: i64, wall_offset_ms: i64) -> Self {
        Self { since: TrueTime(0), mono, rate_ppm, wall_offset_ms }
    }

    /// What both clocks show.
    pub fn now(&self, at: TrueTime) -> Now {
        let wall = WALL_START_MS + self.wall_offset_ms + (at.0 / 1_000_000) as i64;
        Now { mono: self.mono(at), wall: WallTime(u64::try_from(wall).unwrap_or(0)) }
    }

    /// What the monotonic clock shows.
    pub fn mono(&self, at: TrueTime) -> MonoTime {
        MonoTime(self.mono + scale(at.0.saturating_sub(self.since.0), 1_000_000 + self.rate_ppm, 1_000_000))
    }

    /// The first moment at which the monotonic clock shows `mono`, at its
    /// present rate; `at` if it does already.
    pub fn when(&self, mono: MonoTime, at: TrueTime) -> TrueTime {
        let ahead = mono.0.saturating_sub(self.mono(at).0);
        // One more nanosecond for each division that rounded down.
        let wait = scale(ahead, 1_000_000, 1_000_000 + self.rate_ppm);
        TrueTime(at.0.saturating_add(if ahead == 0 { 0 } else { wait + 2 }))
    }

    /// From `at` on it runs at another rate, in parts per million off true.
    pub fn set_rate(&mut self, at: TrueTime, rate_ppm: i64) {
        self.mono = self.mono(at).0;
        self.since = at;
        self.rate_ppm = rate_ppm;
    }

    /// The wall clock jumps.
    pub fn jump(&mut self, ms: i64) {
        self.wall_offset_ms += ms;
    }

    /// The wall clock is set right.
    pub fn set_wall_right(&mut self) {
        self.wall_offset_ms = 0;
    }
}

fn scale(ns: u64, numerator: i64, denominator: i64) -> u64 {
    let scaled = u128::from(ns) * u128::from(numerator.unsigned_abs()) / u128::from(denominator.unsigned_abs());
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_shows_more_and_is_woken_earlier() {
        let clock = Clock::new(5, 10_000, 0);
        assert_eq!(clock.mono(TrueTime(1_000_000)), MonoTime(1_010_005));
        let wake = clock.when(MonoTime(1_010_005), TrueTime(0));
        assert!(clock.mono(wake) >= MonoTime(1_010_005));
        assert!(wake <= TrueTime(1_000_010));
    }

    #[test]
    fn a_change_of_rate_never_turns_the_clock_back() {
        let mut clock = Clock::new(0, 200_000, 0);
        let before = clock.mono(TrueTime(1000));
        clock.set_rate(TrueTime(1000), -200_000);
        assert_eq!(clock.mono(TrueTime(1000)), before);
        assert!(clock.mono(TrueTime(2000)) > before);
    }

    #[test]
    fn a_wall_clock_jumps_and_the_monotonic_one_does_not() {
        let mut clock = Clock::new(0, 0, 0);
        let before = clock.now(TrueTime(0));
        clock.jump(-3_600_000);
        let after = clock.now(TrueTime(0));
        assert_eq!(before.mono, after.mono);
        assert_eq!(before.wall.0 - after.wall.0, 3_600_000);
    }
}
