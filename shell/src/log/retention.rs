//! How much log is kept beyond what safety needs.
//!
//! Decides which of the oldest entries go. Knows nothing of what peers lack:
//! one that needs more gets a snapshot.

use super::LogLimits;
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::Seq;
use base_ha_core::time::WallTime;

/// Entries looked at, and so at most deleted, in one transaction: few enough
/// that an append behind it waits for milliseconds.
pub(super) const CHUNK_ENTRIES: usize = 2048;

/// Bytes of payload deleted in one transaction, by the same measure; a single
/// larger entry goes alone.
const CHUNK_BYTES: u64 = 8 << 20;

/// What a row costs besides its payload.
const ROW_BYTES: u64 = 96;

/// The last of `oldest` that is to go now, if any: entries go while the log is
/// larger than its limit, or while they are older than theirs.
///
/// `used` is the size of the log in bytes, `oldest` its first entries in
/// order, each with stamp and payload size. A wall clock that jumps ahead
/// deletes no more than the caller's bound allows, which is what `data.db`
/// durably contains.
pub(super) fn cut(oldest: &[(Seq, Hlc, u64)], used: u64, limits: &LogLimits, now: WallTime) -> Option<Seq> {
    let age_max = u64::try_from(limits.age_max.as_millis()).unwrap_or(u64::MAX);
    let (mut last, mut freed) = (None, 0u64);
    for (seq, hlc, bytes) in oldest {
        let too_large = used.saturating_sub(freed) > limits.bytes_max;
        let too_old = hlc.millis().saturating_add(age_max) < now.0;
        if !(too_large || too_old) || (freed > 0 && freed + bytes > CHUNK_BYTES) {
            break;
        }
        freed += bytes + ROW_BYTES;
        last = Some(*seq);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn rows(count: u64, bytes: u64) -> Vec<(Seq, Hlc, u64)> {
        (1..=count).map(|n| (Seq(n), Hlc::new(n * 1000, 0), bytes)).collect()
    }

    const LIMITS: LogLimits = LogLimits { bytes_max: 10_000, age_max: Duration::from_secs(100) };

    #[test]
    fn nothing_goes_while_the_log_is_small_and_young() {
        assert_eq!(cut(&rows(5, 10), 9_000, &LIMITS, WallTime(50_000)), None);
        assert_eq!(cut(&[], 90_000, &LIMITS, WallTime(50_000)), None);
    }

    #[test]
    fn the_oldest_go_until_the_log_fits() {
        // Each frees 904 + 96 bytes; 2,500 are too many.
        assert_eq!(cut(&rows(9, 904), 12_500, &LIMITS, WallTime(0)), Some(Seq(3)));
    }

    #[test]
    fn the_aged_go_whatever_the_size() {
        assert_eq!(cut(&rows(9, 10), 0, &LIMITS, WallTime(104_500)), Some(Seq(4)));
    }

    #[test]
    fn one_transaction_deletes_a_bounded_number_of_bytes() {
        let large = rows(9, 5 << 20);
        assert_eq!(cut(&large, 1 << 40, &LIMITS, WallTime(0)), Some(Seq(1)));
        let huge = rows(2, 64 << 20);
        assert_eq!(cut(&huge, 1 << 40, &LIMITS, WallTime(0)), Some(Seq(1)), "a huge one goes alone");
    }
}
