//! How long the next group waits for the clients of the last one.
//!
//! A client that was just answered is likely to send its next write at once,
//! and a group costs every node the same whatever its size. Without a pause
//! the clients of a busy node fall into two halves that take turns: one is
//! answered while the other's group has already begun.
//!
//! Decides from what came back before: a pause that did not pay is not repeated
//! for a while, ever longer. Knows nothing of what the requests are.

use base_ha_core::time::MonoTime;
use std::time::Duration;

/// The longest pause.
const TIME_MAX: Duration = Duration::from_millis(2);
/// Groups that begin at once after pauses that did not pay.
const SKIP_MAX: u32 = 63;

/// The pause between two groups.
#[derive(Debug, Default)]
pub(super) struct Linger {
    /// Requests with which the group is complete; 0 if none is expected.
    expected: usize,
    /// Of these, how many have yet to come back.
    answered: usize,
    until: MonoTime,
    /// Groups that are to begin without a pause.
    skip: u32,
    /// How many that were the last time.
    skipped: u32,
}

impl Linger {
    /// A group that took `took` was answered now: `answered` clients may come
    /// back, `waiting` requests are there. Waiting for at most half of that
    /// time cannot cost more than it can gain: who comes in during the pause
    /// would wait for all of the next group otherwise.
    pub(super) fn answered(&mut self, now: MonoTime, took: Duration, answered: usize, waiting: usize, max: usize) {
        if self.skip > 0 {
            self.skip -= 1;
            self.expected = 0;
            return;
        }
        self.expected = (waiting + answered).min(max);
        self.answered = self.expected.saturating_sub(waiting);
        self.until = now.after((took / 2).min(TIME_MAX));
    }

    /// How many more requests, and how much longer, a group of `waiting` is to
    /// wait; `None` if it begins now.
    pub(super) fn pause(&self, now: MonoTime, waiting: usize) -> Option<(usize, Duration)> {
        let missing = self.expected.saturating_sub(waiting);
        (missing > 0 && now < self.until).then(|| (missing, self.until.since(now)))
    }

    /// The group begins, with `waiting` requests.
    pub(super) fn begun(&mut self, waiting: usize) {
        if self.expected == 0 {
            return;
        }
        let missing = self.expected.saturating_sub(waiting);
        if missing * 2 > self.answered {
            self.skipped = (self.skipped * 2 + 1).min(SKIP_MAX);
            self.skip = self.skipped;
        } else {
            self.skipped = 0;
        }
        self.expected = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(1);

    fn at(micros: u64) -> MonoTime {
        MonoTime(0).after(Duration::from_micros(micros))
    }

    #[test]
    fn a_group_waits_for_who_was_answered_and_not_too_long() {
        let mut linger = Linger::default();
        assert_eq!(linger.pause(at(0), 1), None, "nobody was answered yet");
        linger.answered(at(0), TOOK, 8, 8, 256);
        assert_eq!(linger.pause(at(100), 10), Some((6, Duration::from_micros(400))));
        assert_eq!(linger.pause(at(100), 16), None, "all are back");
        assert_eq!(linger.pause(at(500), 10), None, "half of the last group's time is over");
        linger.answered(at(0), Duration::from_secs(1), 8, 8, 256);
        assert_eq!(linger.pause(at(0), 10), Some((6, TIME_MAX)));
    }

    #[test]
    fn a_lone_client_never_waits() {
        let mut linger = Linger::default();
        linger.answered(at(0), TOOK, 1, 0, 256);
        assert_eq!(linger.pause(at(0), 1), None);
    }

    #[test]
    fn a_full_group_waits_for_nobody() {
        let mut linger = Linger::default();
        linger.answered(at(0), TOOK, 256, 300, 256);
        assert_eq!(linger.pause(at(0), 300), None);
        linger.begun(300);
        assert_eq!(linger.skip, 0, "nobody was missed");
    }

    #[test]
    fn pauses_that_do_not_pay_become_rare_and_return_when_they_do() {
        let mut linger = Linger::default();
        let mut paused = 0;
        for _ in 0..1000 {
            linger.answered(at(0), TOOK, 4, 1, 256);
            paused += u32::from(linger.pause(at(0), 1).is_some());
            linger.begun(1);
        }
        assert!((10..25).contains(&paused), "{paused} pauses for nobody");
        while linger.skip > 0 {
            linger.answered(at(0), TOOK, 4, 1, 256);
        }
        for _ in 0..10 {
            linger.answered(at(0), TOOK, 4, 1, 256);
            assert!(linger.pause(at(0), 1).is_some(), "they come back now");
            linger.begun(5);
        }
    }
}
