//! When two worlds are one: hashes in which the exact moment of sending does not
//! show, but in which order things were sent.
//!
//! Decides what of a time matters. A node gives each message a send time of its
//! own, a nanosecond apart within one reading of its clock; what it does depends
//! on their order alone. So a send time counts as its rank among those that the
//! node still knows, and that of a message under way by where it lies between
//! those.

use std::hash::{Hash, Hasher};

/// Send times lie so little after the reading of the clock that they began with.
const SPREAD_NS: u64 = 1_000_000;

/// The clock of one machine, as its send times show it.
#[derive(Clone, Copy)]
pub(super) struct Dial {
    /// What it shows at the start.
    pub(super) start: u64,
    /// How long a tick is.
    pub(super) tick: u64,
}

impl Dial {
    /// Whether a number can be nothing but a send time after the first of a tick.
    fn is_stamp(self, number: u64) -> bool {
        let Some(since) = number.checked_sub(self.start) else {
            return false;
        };
        since < self.tick * 1000 && (1..SPREAD_NS).contains(&(since % self.tick))
    }
}

/// Folds numbers by multiplication, as `foldhash` and `wyhash` do.
#[derive(Clone, Copy)]
struct Fold(u64);

impl Fold {
    fn add(&mut self, number: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let product =
            u128::from(self.0 ^ number ^ ODD) * u128::from(0xd6e8_feb8_6659_fd93_u64 ^ self.0.rotate_left(29));
        self.0 = (product as u64 ^ (product >> 64) as u64).wrapping_add(number.rotate_left(17));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.add(bytes.len() as u64);
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.add(u64::from_le_bytes(*chunk));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last));
    }
}

/// Collects the send times in what is hashed.
struct Collect {
    dial: Dial,
    stamps: Vec<u64>,
}

impl Hasher for Collect {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u8(&mut self, _: u8) {}

    fn write_u64(&mut self, number: u64) {
        if self.dial.is_stamp(number) {
            self.stamps.push(number);
        }
    }
}

/// Hashes, with send times as ranks.
struct Ranked<'a> {
    dial: Dial,
    stamps: &'a [u64],
    fold: Fold,
}

impl Hasher for Ranked<'_> {
    fn finish(&self) -> u64 {
        let mut fold = self.fold;
        fold.add(1);
        fold.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.fold.bytes(bytes);
    }

    fn write_u8(&mut self, number: u8) {
        self.fold.add(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        if !self.dial.is_stamp(number) {
            return self.fold.add(number);
        }
        let since = number - self.dial.start;
        let rank = self.stamps.partition_point(|stamp| *stamp < number);
        self.fold.add(u64::MAX - since / self.dial.tick);
        self.fold.add(rank as u64);
    }

    fn write_usize(&mut self, number: usize) {
        self.fold.add(number as u64);
    }
}

/// The hash of what a machine is, and the send times that it knows, in order.
pub(super) fn summed_up(what: &impl Hash, dial: Dial) -> (u64, Vec<u64>) {
    let mut collect = Collect { dial, stamps: Vec::new() };
    what.hash(&mut collect);
    let mut stamps = collect.stamps;
    stamps.sort_unstable();
    stamps.dedup();
    (ranked(what, dial, &stamps), stamps)
}

/// The hash of something with a machine's send times by their ranks among these.
pub(super) fn ranked(what: &impl Hash, dial: Dial, stamps: &[u64]) -> u64 {
    let mut ranked = Ranked { dial, stamps, fold: Fold(0) };
    what.hash(&mut ranked);
    ranked.finish()
}

/// Where a send time lies between those that its machine knows: even where it
/// equals one, odd between two.
pub(super) fn place(stamp: u64, stamps: &[u64]) -> u64 {
    let below = stamps.partition_point(|known| *known < stamp);
    let known = stamps.get(below) == Some(&stamp);
    2 * below as u64 + u64::from(!known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIAL: Dial = Dial { start: 1 << 40, tick: 500_000_000 };

    #[test]
    fn the_order_of_send_times_counts_and_their_distance_does_not() {
        let at = |ns: u64| DIAL.start + DIAL.tick * 3 + ns;
        let of = |times: [u64; 3]| summed_up(&times.map(std::num::Wrapping), DIAL).0;
        assert_eq!(of([at(1), at(2), at(7)]), of([at(3), at(4), at(5)]));
        assert_ne!(of([at(1), at(2), at(7)]), of([at(2), at(1), at(7)]));
        assert_ne!(of([at(0), at(2), at(7)]), of([at(1), at(2), at(7)]), "the clock's own reading is no rank");
        assert_ne!(of([at(1), at(2), at(7)]), of([at(1), at(2), at(7) + DIAL.tick]), "the tick counts");
    }

    #[test]
    fn a_message_lies_where_its_send_time_does() {
        let known = [10, 20, 30];
        assert_eq!([5, 10, 15, 30, 35].map(|stamp| place(stamp, &known)), [1, 0, 3, 4, 7]);
    }
}
