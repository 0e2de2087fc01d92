//! Whether a writer's own disk holds everybody up.
//!
//! Decides it from the best that each disk did in a while: a disk whose every
//! fsync is slow is slow, one that stalls at times is not. Its entries are
//! committed no sooner than it has them itself, so a writer with a slow disk
//! makes every write slow, where another would not. Knows nothing of who could
//! take the pin.

use crate::ids::{NodeId, Seq};
use crate::time::MonoTime;
use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;

/// How quickly a writer's entries reach the disks.
#[derive(Clone, Debug, Hash)]
pub(super) struct Pace {
    /// Own appends under way: the last entry of each, and since when.
    ordered: VecDeque<(Seq, MonoTime)>,
    began: MonoTime,
    own: Option<Duration>,
    others: BTreeMap<NodeId, Duration>,
    /// So many times in a row the own disk was much the slowest.
    slow: u32,
}

/// What a writer's slow disk did, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) struct Slow {
    /// Its quickest append.
    pub(super) own: Duration,
    /// The quickest of another node's, the way there and back included.
    pub(super) best: Duration,
}

impl Pace {
    /// The own disk is slow if it takes more than so many times as long as
    /// another's, the way there included.
    const TIMES: u32 = 4;
    /// So often in a row, before the pin goes elsewhere because of it.
    const PERIODS: u32 = 3;

    pub(super) fn new(now: MonoTime) -> Self {
        Self { ordered: VecDeque::new(), began: now, own: None, others: BTreeMap::new(), slow: 0 }
    }

    /// Entries up to `through` are given to the own disk.
    pub(super) fn order(&mut self, through: Seq, now: MonoTime) {
        self.ordered.push_back((through, now));
    }

    /// The own disk has everything up to `through`.
    pub(super) fn own(&mut self, through: Seq, now: MonoTime) {
        while self.ordered.front().is_some_and(|(seq, _)| *seq <= through) {
            if let Some((_, at)) = self.ordered.pop_front() {
                let took = now.since(at);
                self.own = Some(self.own.map_or(took, |best| best.min(took)));
            }
        }
    }

    /// Another one said, so long after it was sent an entry, that it has it.
    pub(super) fn other(&mut self, id: &NodeId, took: Duration) {
        match self.others.get_mut(id) {
            Some(best) => *best = took.min(*best),
            None => {
                self.others.insert(id.clone(), took);
            }
        }
    }

    /// Once a `period`: whether the own disk has been much the slowest for long
    /// enough, and slower than `floor`, below which nobody minds.
    pub(super) fn judge(&mut self, now: MonoTime, period: Duration, floor: Duration) -> Option<Slow> {
        if now.since(self.began) < period {
            return None;
        }
        // What has been under way for long counts although it has no end yet.
        let open = self.ordered.front().map(|(_, at)| now.since(*at)).filter(|age| *age >= period);
        let own = self.own.or(open);
        let best = self.others.values().min().copied();
        self.began = now;
        self.own = None;
        self.others.clear();
        let (Some(own), Some(best)) = (own, best) else {
            // Nothing was written: nothing is known, and nothing is slow.
            self.slow = 0;
            return None;
        };
        if own <= floor || own <= best * Self::TIMES {
            self.slow = 0;
            return None;
        }
        self.slow += 1;
        if self.slow < Self::PERIODS {
            return None;
        }
        self.slow = 0;
        Some(Slow { own, best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(1500);
    const FLOOR: Duration = Duration::from_millis(125);

    fn at(ms: u64) -> MonoTime {
        MonoTime(0).after(Duration::from_millis(ms))
    }

    /// Plays periods in each of which the own disk takes `own` ms at best, and
    /// another's `other` ms; says after how many it is found slow.
    fn play(own: &[u64], other: u64) -> Option<usize> {
        let mut pace = Pace::new(at(0));
        let id = NodeId::new("b").expect("legal");
        own.iter().enumerate().position(|(n, own)| {
            let began = n as u64 * 1500;
            for (i, more) in [40, 0, 900].into_iter().enumerate() {
                pace.order(Seq(i as u64), at(began));
                pace.own(Seq(i as u64), at(began + own + more));
                pace.other(&id, Duration::from_millis(other + more));
            }
            pace.judge(at(began + 1500), PERIOD, FLOOR).is_some()
        })
    }

    #[test]
    fn a_disk_that_is_always_much_slower_is_slow() {
        assert_eq!(play(&[200, 200, 200, 200], 5), Some(2));
        assert_eq!(play(&[200, 200, 5, 200, 200, 200], 5), Some(5), "once it was quick");
    }

    #[test]
    fn others_that_are_slow_as_well_or_a_disk_that_is_quick_enough_are_no_reason() {
        assert_eq!(play(&[200; 9], 60), None);
        assert_eq!(play(&[120; 9], 1), None);
    }

    #[test]
    fn a_disk_that_never_answers_is_slow() {
        let mut pace = Pace::new(at(0));
        let id = NodeId::new("b").expect("legal");
        pace.order(Seq(1), at(0));
        let found = (1..9).position(|n| {
            pace.other(&id, Duration::from_millis(3));
            pace.judge(at(n * 1500), PERIOD, FLOOR).is_some()
        });
        assert_eq!(found, Some(2));
    }

    #[test]
    fn an_idle_writer_is_not_judged() {
        let mut pace = Pace::new(at(0));
        assert!((1..9).all(|n| pace.judge(at(n * 1500), PERIOD, FLOOR).is_none()));
    }
}
