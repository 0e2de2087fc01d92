//! How many bytes may be under way to one follower.
//!
//! Decides it from how long answers take: what waits on the way stands before
//! the next heartbeat, and a lease must not end because of it. Knows nothing of
//! what is sent.

use crate::config::Sizes;
use crate::time::MonoTime;
use core::time::Duration;

/// What an answer says of the way.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Answer {
    /// The window was well used: a quick answer says that there is more room.
    /// On an idle way every answer is quick.
    pub(super) full: bool,
    /// The other end waited for no disk: a late answer was held up on the way.
    pub(super) at_once: bool,
}

/// The room on the way to one follower.
#[derive(Clone, Debug, Hash)]
pub(super) struct Window {
    bytes: usize,
    /// What it begins with and never falls below.
    min: usize,
    max: usize,
    /// Answers to what was sent before this say how it was under another
    /// window: they change nothing.
    since: MonoTime,
}

impl Window {
    pub(super) fn new(sizes: &Sizes) -> Self {
        let (min, max) = (sizes.piece, sizes.window_max.max(sizes.piece));
        Self { bytes: min, min, max, since: MonoTime(0) }
    }

    /// So many bytes may be under way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Something that was sent at `sent` was answered, at `now`.
    pub(super) fn answered(&mut self, sent: MonoTime, now: MonoTime, heartbeat: Duration, answer: Answer) {
        if sent < self.since {
            return;
        }
        let took = now.since(sent);
        if took < heartbeat / 4 && answer.full && self.bytes < self.max {
            self.set(self.bytes * 2, now);
        } else if took > heartbeat / 2 && answer.at_once {
            self.set(self.bytes / 2, now);
        }
    }

    /// Something that would have been answered at once was not within a
    /// heartbeat.
    pub(super) fn unanswered(&mut self, now: MonoTime) {
        self.set(self.bytes / 2, now);
    }

    fn set(&mut self, bytes: usize, now: MonoTime) {
        self.bytes = bytes.clamp(self.min, self.max);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(100);
    const ENTRIES: Answer = Answer { full: true, at_once: false };
    const PIECE: Answer = Answer { full: true, at_once: true };
    const BEAT: Answer = Answer { full: false, at_once: true };

    fn wide() -> Window {
        let mut window = Window::new(&Sizes::default());
        for n in 0..10 {
            window.answered(at(n * 10), at(n * 10 + 5), HEARTBEAT, ENTRIES);
        }
        window
    }

    fn at(ms: u64) -> MonoTime {
        MonoTime(0).after(Duration::from_millis(ms))
    }

    #[test]
    fn it_grows_while_answers_are_quick_and_shrinks_when_they_are_late() {
        let mut window = wide();
        assert_eq!(window.bytes(), window.max);
        for n in 1..20 {
            window.answered(at(n * 1000), at(n * 1000 + 60), HEARTBEAT, PIECE);
        }
        assert_eq!(window.bytes(), window.min);
    }

    #[test]
    fn one_full_way_shrinks_it_once() {
        let mut window = wide();
        let before = window.bytes();
        // Ten pieces were sent into the same queue.
        for n in 0..10 {
            window.answered(at(200 + n), at(300 + n), HEARTBEAT, PIECE);
        }
        assert_eq!(window.bytes(), before / 2);
    }

    #[test]
    fn a_slow_disk_is_not_a_slow_way() {
        let mut window = wide();
        let before = window.bytes();
        window.answered(at(200), at(900), HEARTBEAT, ENTRIES);
        assert_eq!(window.bytes(), before);
        window.unanswered(at(1000));
        assert_eq!(window.bytes(), before / 2);
    }

    #[test]
    fn an_idle_way_says_nothing_of_its_width() {
        let mut window = Window::new(&Sizes::default());
        for n in 0..10 {
            window.answered(at(n * 100), at(n * 100 + 1), HEARTBEAT, BEAT);
        }
        assert_eq!(window.bytes(), window.min);
    }
}
