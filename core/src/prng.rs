//! The core's own random numbers: jitter, a new incarnation, a cluster's name.
//!
//! Decides nothing; the same seed gives the same numbers for ever, on every
//! machine, so that a simulated run can be replayed. Knows no entropy source.

use core::time::Duration;

/// Xoshiro256++ (Blackman and Vigna 2019). Not for secrets.
#[derive(Clone, Debug, Hash)]
pub struct Prng {
    state: [u64; 4],
}

impl Prng {
    /// Starts from 256 bits; all zeros, which the generator could not leave,
    /// are replaced by a constant.
    pub fn new(seed: [u8; 32]) -> Self {
        let mut state = [0u64; 4];
        for (word, bytes) in state.iter_mut().zip(seed.chunks_exact(8)) {
            for (n, byte) in bytes.iter().enumerate() {
                *word |= u64::from(*byte) << (8 * n);
            }
        }
        if state == [0; 4] {
            state = [0x9e37_79b9_7f4a_7c15, 1, 2, 3];
        }
        let mut prng = Self { state };
        // Seeds that differ in few bits start out alike; some turns part them.
        for _ in 0..8 {
            prng.next_u64();
        }
        prng
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// 128 random bits that are not all zero: zero means "none" in every id.
    pub fn id(&mut self) -> u128 {
        loop {
            let id = u128::from(self.next_u64()) << 64 | u128::from(self.next_u64());
            if id != 0 {
                return id;
            }
        }
    }

    /// Evenly between nothing and `max`, inclusive.
    pub fn jitter(&mut self, max: Duration) -> Duration {
        let nanos = crate::time::nanos(max);
        // The slight bias of a remainder does not matter for jitter.
        Duration::from_nanos(self.next_u64() % nanos.saturating_add(1).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut a, mut b) = (Prng::new([7; 32]), Prng::new([7; 32]));
        let mut c = Prng::new([8; 32]);
        assert!((0..100).all(|_| a.next_u64() == b.next_u64()));
        assert_ne!(a.next_u64(), c.next_u64());
    }

    #[test]
    fn jitter_stays_within_its_bound() {
        let mut prng = Prng::new([0; 32]);
        let max = Duration::from_millis(50);
        assert!((0..1000).all(|_| prng.jitter(max) <= max));
        assert_eq!(prng.jitter(Duration::ZERO), Duration::ZERO);
    }
}
