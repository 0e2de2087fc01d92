//! The hybrid logical clock: stamps that never go back, near wall time.
//!
//! Decides the next stamp and which remote stamps are believed. Knows no
//! clock; the wall time comes in (Kulkarni et al. 2014, section 3).

use crate::time::WallTime;
use core::fmt;
use core::time::Duration;

/// A stamp: 48 bits of wall milliseconds, 16 bits of counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Builds a stamp from its parts; milliseconds beyond 48 bits saturate.
    pub fn new(millis: u64, counter: u16) -> Self {
        Self(millis.min((1 << 48) - 1) << 16 | u64::from(counter))
    }

    /// The wall-clock part, in milliseconds since 1970.
    pub fn millis(self) -> u64 {
        self.0 >> 16
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.millis(), self.0 & 0xffff)
    }
}

/// A remote stamp lies further ahead than the skew bound allows; it was not
/// adopted (R9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockSkew {
    /// How far ahead of the local wall clock, in milliseconds.
    pub ahead_ms: u64,
}

/// One node's clock.
#[derive(Clone, Debug, Hash)]
pub struct HybridClock {
    last: Hlc,
    skew_max: Duration,
}

impl HybridClock {
    /// Starts at `floor`, the highest stamp known from disk.
    pub fn new(floor: Hlc, skew_max: Duration) -> Self {
        Self { last: floor, skew_max }
    }

    /// The next stamp: above every stamp given or seen so far.
    pub fn tick(&mut self, wall: WallTime) -> Hlc {
        // The counter's overflow carries into the milliseconds: a clock that
        // stands still cannot make two equal stamps.
        self.last = Hlc::new(wall.0, 0).max(Hlc(self.last.0.saturating_add(1)));
        self.last
    }

    /// Takes note of a stamp made elsewhere.
    ///
    /// # Errors
    /// [`ClockSkew`] if it is too far ahead; the clock is unchanged then.
    pub fn observe(&mut self, remote: Hlc, wall: WallTime) -> Result<(), ClockSkew> {
        let ahead_ms = remote.millis().saturating_sub(wall.0);
        if u128::from(ahead_ms) > self.skew_max.as_millis() {
            return Err(ClockSkew { ahead_ms });
        }
        self.last = self.last.max(remote);
        Ok(())
    }

    /// Takes note of a stamp that is already in the log, however far ahead:
    /// entries of one stream must not go back in time.
    pub fn raise(&mut self, floor: Hlc) {
        self.last = self.last.max(floor);
    }

    /// The highest stamp so far.
    pub fn last(&self) -> Hlc {
        self.last
    }
}
