//! A node that knows that it is unfit does not write, one whose name runs twice
//! does not vote either (R8), and one that no quorum answers steps down.

use super::Verdict;
use base_ha_core::io::StoreHealth;
use base_ha_core::time::MonoTime;
use std::time::Duration;

/// What one process was told of itself.
#[derive(Clone, Debug, Default)]
pub struct Ills {
    full: bool,
    ill: bool,
    twice: Option<MonoTime>,
}

impl Ills {
    /// Its store says how it fares.
    pub fn told(&mut self, health: StoreHealth) {
        match health {
            StoreHealth::Well => self.full = false,
            StoreHealth::Full => self.full = true,
            StoreHealth::ApplyHalted { .. } | StoreHealth::Quarantined => self.ill = true,
        }
    }

    /// Its data was replaced.
    pub fn mended(&mut self) {
        self.ill = false;
    }

    /// It found out that its name runs twice.
    pub fn runs_twice(&mut self, now: MonoTime) {
        self.twice = Some(now);
    }

    /// It would let a group run.
    ///
    /// # Errors
    /// If it knows of something that stands against it.
    pub fn writes(&self, now: MonoTime, lease: Duration) -> Verdict {
        if self.full || self.ill {
            return Err(format!("it may write, its disk full: {}, its data unusable: {}", self.full, self.ill));
        }
        self.votes(now, lease)
    }

    /// It votes, or stands.
    ///
    /// # Errors
    /// If it found out within the last leases that its name runs twice.
    pub fn votes(&self, now: MonoTime, lease: Duration) -> Verdict {
        match self.twice {
            Some(at) if now.0 < at.after(lease * 5).0 => {
                Err(format!("it acts at {now:?}, at {at:?} it knew that its name runs twice"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A lease is said to hold that rests on answers to what was sent at `answered`,
/// by a process that last stood still until `woke`.
///
/// # Errors
/// If it was sent before that: what was promised may be long over, and by its
/// own clock alone nobody can tell how long it slept.
pub fn is_fresh(answered: Option<MonoTime>, woke: MonoTime) -> Verdict {
    match answered {
        Some(sent) if sent >= woke => Ok(()),
        sent => Err(format!("a lease rests on answers to what was sent at {sent:?}, it slept until {woke:?}")),
    }
}

/// A node still writes at `now`, where a quorum last answered something that it
/// sent at `answered`, or at its election.
///
/// # Errors
/// If that is more than two leases ago.
pub fn has_a_quorum(answered: MonoTime, now: MonoTime, lease: Duration) -> Verdict {
    if now < answered.after(lease * 2) {
        return Ok(());
    }
    Err(format!("it still writes at {now:?}, no quorum has answered anything since {answered:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_nanos(100);

    #[test]
    fn an_unfit_writer_is_rejected() {
        let mut ills = Ills::default();
        let at = MonoTime(1000);
        assert!(ills.writes(at, LEASE).is_ok());
        ills.told(StoreHealth::Full);
        assert!(ills.writes(at, LEASE).is_err());
        assert!(ills.votes(at, LEASE).is_ok());
        ills.told(StoreHealth::Well);
        assert!(ills.writes(at, LEASE).is_ok());
        ills.told(StoreHealth::Quarantined);
        ills.told(StoreHealth::Well);
        assert!(ills.writes(at, LEASE).is_err(), "room on the disk mends no data");
        ills.mended();
        assert!(ills.writes(at, LEASE).is_ok());
    }

    #[test]
    fn a_vote_under_a_name_that_runs_twice_is_rejected() {
        let mut ills = Ills::default();
        ills.runs_twice(MonoTime(1000));
        assert!(ills.votes(MonoTime(1400), LEASE).is_err());
        assert!(ills.writes(MonoTime(1400), LEASE).is_err());
        assert!(ills.votes(MonoTime(1600), LEASE).is_ok());
    }

    #[test]
    fn a_lease_from_before_a_pause_is_rejected() {
        assert!(is_fresh(Some(MonoTime(5)), MonoTime(5)).is_ok());
        assert!(is_fresh(Some(MonoTime(4)), MonoTime(5)).is_err());
        assert!(is_fresh(None, MonoTime(5)).is_err());
    }

    #[test]
    fn a_writer_that_nobody_answers_is_rejected() {
        assert!(has_a_quorum(MonoTime(1000), MonoTime(1199), LEASE).is_ok());
        assert!(has_a_quorum(MonoTime(1000), MonoTime(1200), LEASE).is_err());
    }
}
