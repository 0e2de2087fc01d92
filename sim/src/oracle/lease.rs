//! R1: a lease is over before any promise that upholds it, whatever the clocks
//! do within the bound. Checked as arithmetic whenever a lease is renewed, so
//! that one which is too long fails though nobody else came to write.

use super::Verdict;
use base_ha_core::io::WritePermit;
use base_ha_core::time::MonoTime;
use std::time::Duration;

/// The terms of a lease.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long a follower promises, on its own clock.
    pub lease: Duration,
    /// How far a clock's rate may be off, in parts per million.
    pub rate_ppm: u32,
}

/// `permit` is said to hold, where `sent` is the newest own send time that a
/// quorum has answered: the promises behind it were made no earlier.
///
/// # Errors
/// If the slowest writer's clock within the bound may still show less than the
/// permit's end when the fastest follower's shows the end of its promise; or if
/// there is no such answer.
pub fn ends_before_the_promises(permit: &WritePermit, sent: Option<MonoTime>, terms: Terms) -> Verdict {
    let Some(sent) = sent else {
        return Err(format!("a lease until {:?} in term {}, which no quorum upholds", permit.until, permit.term));
    };
    let length = u128::from(permit.until.0.saturating_sub(sent.0));
    let rate = u128::from(terms.rate_ppm);
    // length / (1 - rate) <= lease / (1 + rate), in whole numbers.
    let (mine, theirs) = (length * (1_000_000 + rate), terms.lease.as_nanos() * (1_000_000 - rate));
    if mine <= theirs {
        return Ok(());
    }
    Err(format!(
        "a lease until {:?} in term {}, upheld by answers to what was sent at {sent:?}, outlives promises of {:?}",
        permit.until, permit.term, terms.lease
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::ids::Term;

    const TERMS: Terms = Terms { lease: Duration::from_millis(1500), rate_ppm: 10_000 };

    fn until(ms: u64) -> WritePermit {
        WritePermit { term: Term(1), until: MonoTime(ms * 1_000_000) }
    }

    #[test]
    fn a_lease_that_outlives_a_promise_is_rejected() {
        let sent = Some(MonoTime(0));
        assert!(ends_before_the_promises(&until(1320), sent, TERMS).is_ok());
        assert!(ends_before_the_promises(&until(1470), sent, TERMS).is_ok(), "no margin, and still right");
        assert!(ends_before_the_promises(&until(1471), sent, TERMS).is_err());
        assert!(ends_before_the_promises(&until(1584), sent, TERMS).is_err(), "20 % too long");
        assert!(ends_before_the_promises(&until(10), None, TERMS).is_err(), "nobody answered");
    }
}
