//! The only source of chance: streams of numbers named after their use.
//!
//! Decides every random choice of a run. One seed gives each concern a stream
//! of its own, so that a fault which draws one number more does not change
//! what the network does.

use std::ops::RangeInclusive;

/// A stream of numbers (xoshiro256**, seeded through SplitMix64).
#[derive(Clone, Debug)]
pub struct Prng {
    state: [u64; 4],
}

impl Prng {
    /// The stream called `name` of `seed`.
    pub fn named(seed: u64, name: &str) -> Self {
        // FNV-1a of the name keeps the streams of one seed apart.
        let mut mix = 0xcbf2_9ce4_8422_2325u64;
        for byte in name.bytes() {
            mix = (mix ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut state = [0; 4];
        let mut z = seed ^ mix.rotate_left(17);
        for slot in &mut state {
            z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = z;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *slot = x ^ (x >> 31);
        }
        Self { state }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.state;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a choice among nothing");
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number within `range`.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        match (high - low).checked_add(1) {
            Some(width) => low + self.below(width),
            None => self.bits(),
        }
    }

    /// An index below `count`, which must not be 0.
    pub fn index(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }

    /// True in `per_mille` of 1000 cases. A number is drawn in any case.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }

    /// 32 random bytes, to seed a node.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        for chunk in out.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.bits().to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_the_same_stream_again_and_another_name_another() {
        let draw = |seed, name| {
            let mut prng = Prng::named(seed, name);
            [prng.bits(), prng.bits(), prng.bits()]
        };
        assert_eq!(draw(1, "net"), draw(1, "net"));
        assert_ne!(draw(1, "net"), draw(1, "disk"));
        assert_ne!(draw(1, "net"), draw(2, "net"));
    }

    #[test]
    fn choices_stay_within_their_bounds_and_reach_them() {
        let mut prng = Prng::named(7, "test");
        let drawn: Vec<u64> = (0..1000).map(|_| prng.within(3..=5)).collect();
        assert!(drawn.iter().all(|n| (3..=5).contains(n)));
        assert!((3..=5).all(|n| drawn.contains(&n)));
        assert!(!(0..1000).any(|_| prng.chance(0)));
        assert!((0..1000).all(|_| prng.chance(1000)));
    }
}
