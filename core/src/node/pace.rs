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

/// What a writer's slow disk did, and who is quicker.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub(super) struct Slow {
    /// Whose disk is much quicker.
    pub(super) heir: NodeId,
    /// Its quickest append.
    pub(super) own: Duration,
    /// The heir's quickest, the way there and back included.
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

    /// Whether it is time to judge, which is once a `period`.
    pub(super) fn due(&self, now: MonoTime, period: Duration) -> bool {
        now.since(self.began) >= period
    }

    /// Whether the own disk has been much slower for long enough than that of
    /// somebody who could take the pin, and slower than `floor`, below which
    /// nobody minds. To be asked when [`Pace::due`]. Of two nodes with slow
    /// disks neither is the other's heir: the pin would fly between them.
    pub(super) fn judge(&mut self, now: MonoTime, period: Duration, floor: Duration, heirs: &[NodeId]) -> Option<Slow> {
        // What has been under way for long counts although it has no end yet.
        let open = self.ordered.front().map(|(_, at)| now.since(*at)).filter(|age| *age >= period);
        let own = self.own.or(open);
        let mut could = self.others.iter().filter(|(id, _)| heirs.contains(id));
        // The lowest id of those that are quick enough: who is preferred to the
        // heir would ask it for the pin.
        let quick = |took: Duration| own.is_some_and(|own| own > took * Self::TIMES);
        let best = could.find(|(_, took)| quick(**took)).map(|(id, took)| (id.clone(), *took));
        self.began = now;
        self.own = None;
        self.others.clear();
        let (Some(own), Some((heir, best))) = (own, best) else {
            // Nothing was written, or nobody is much quicker.
            self.slow = 0;
            return None;
        };
        if own <= floor {
            self.slow = 0;
            return None;
        }
        self.slow += 1;
        if self.slow < Self::PERIODS {
            return None;
        }
        self.slow = 0;
        Some(Slow { heir, own, best })
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
            pace.judge(at(began + 1500), PERIOD, FLOOR, core::slice::from_ref(&id)).is_some()
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
            pace.judge(at(n * 1500), PERIOD, FLOOR, core::slice::from_ref(&id)).is_some()
        });
        assert_eq!(found, Some(2));
    }

    #[test]
    fn an_idle_writer_is_not_judged() {
        let mut pace = Pace::new(at(0));
        let heirs = [NodeId::new("b").expect("legal")];
        assert!((1..9).all(|n| pace.judge(at(n * 1500), PERIOD, FLOOR, &heirs).is_none()));
    }

    #[test]
    fn who_cannot_take_the_pin_is_no_measure() {
        let mut pace = Pace::new(at(0));
        let [a, b, c] = ["a", "b", "c"].map(|id| NodeId::new(id).expect("legal"));
        let mut found = |heirs: &[NodeId]| {
            (0..3).find_map(|_| {
                let began = pace.began;
                pace.order(Seq(1), began);
                pace.own(Seq(1), began.after(Duration::from_millis(300)));
                for (id, took) in [(&a, 2), (&b, 90), (&c, 40)] {
                    pace.other(id, Duration::from_millis(took));
                }
                pace.judge(began.after(PERIOD), PERIOD, FLOOR, heirs).map(|slow| slow.heir)
            })
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(core::slice::from_ref(&b)), None, "it is slow as well");
        assert_eq!(found(&[b.clone(), c.clone()]), Some(c.clone()));
    }
}
