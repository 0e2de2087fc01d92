//! The network between machines.
//!
//! Decides each frame's fate: which links are cut, what is lost, delayed,
//! repeated, replayed much later, or damaged. Frames are bytes here.

use crate::plan::NetPlan;
use crate::prng::Prng;
use crate::report::Counts;
use bytes::Bytes;

/// A frame under way.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The sending machine.
    pub from: usize,
    /// Which of its processes sent it.
    pub boot: u64,
    /// The receiving machine.
    pub to: usize,
    /// The bytes.
    pub bytes: Bytes,
}

/// The network's state.
#[derive(Debug)]
pub struct Network {
    plan: NetPlan,
    hosts: usize,
    /// How many faults cut each directed link at present.
    cuts: Vec<u32>,
    /// When each directed line has carried what it was given, in microseconds.
    /// Once healed: when the last frame arrives.
    free_us: Vec<u64>,
    /// Frames arrive in the order in which they were sent.
    ordered: bool,
    prng: Prng,
    /// Frames kept for a late replay.
    kept: Vec<Frame>,
}

/// How many frames are kept for a late replay.
const KEPT_MAX: usize = 64;

/// How many frames in 1000 take the place of one that was kept before: late is
/// some seconds late, and at times as late as the run is long.
const KEPT_ANEW_PM: u32 = 100;

impl Network {
    /// A whole network of so many machines.
    pub fn new(plan: NetPlan, hosts: usize, prng: Prng) -> Self {
        Self {
            plan,
            hosts,
            cuts: vec![0; hosts * hosts],
            free_us: vec![0; hosts * hosts],
            ordered: false,
            prng,
            kept: Vec::new(),
        }
    }

    /// Cuts or mends the link from one machine to another, in that direction.
    /// A link is whole again when every cut of it was mended.
    pub fn cut(&mut self, from: usize, to: usize, cut: bool) {
        let link = &mut self.cuts[from * self.hosts + to];
        *link = if cut { *link + 1 } else { link.saturating_sub(1) };
    }

    /// Cuts the links between these machines and all others until everything is
    /// healed, whatever is mended meanwhile.
    pub fn part(&mut self, from_others: &[usize]) {
        for a in 0..self.hosts {
            for b in 0..self.hosts {
                if from_others.contains(&a) != from_others.contains(&b) {
                    self.cuts[a * self.hosts + b] = u32::MAX / 2;
                }
            }
        }
    }

    /// Whether a frame would pass in that direction.
    pub fn passes(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.hosts + to] == 0
    }

    /// Whether any link is cut.
    pub fn is_cut(&self) -> bool {
        self.cuts.iter().any(|cuts| *cuts > 0)
    }

    /// Mends every link, and loses, repeats, damages and overtakes nothing from
    /// now on: nodes are connected by streams.
    pub fn heal(&mut self) {
        self.cuts.fill(0);
        self.free_us.fill(0);
        self.ordered = true;
        self.kept.clear();
        self.plan = NetPlan {
            delay_us_min: self.plan.delay_us_min,
            delay_us_max: self.plan.delay_us_min + 2000,
            ..NetPlan::default()
        };
    }

    /// When copies of `frame`, sent at `now_us`, arrive, in microseconds from
    /// then, and as which bytes: none if it is lost.
    pub fn send(&mut self, now_us: u64, frame: Frame, counts: &mut Counts) -> Vec<(u64, Frame)> {
        // The same numbers are drawn whatever happens to the frame, so that one
        // cut link does not change every later fate.
        let lost = self.prng.chance(self.plan.loss_pm);
        let repeated = self.prng.chance(self.plan.duplicate_pm);
        let damaged = self.prng.chance(self.plan.corrupt_pm);
        let clogged = self.prng.chance(self.plan.clog_pm);
        let replayed = self.prng.chance(self.plan.replay_pm);
        let delay = self.delay();
        let second_delay = self.delay();
        if !self.passes(frame.from, frame.to) {
            counts.add("frame_cut");
            if self.passes(frame.to, frame.from) {
                counts.add("frame_cut_one_way");
            }
            return Vec::new();
        }
        let carried = self.carry(now_us, &frame, counts);
        if lost {
            counts.add("frame_lost");
            return Vec::new();
        }
        let (delay, second_delay) = (carried + delay, carried + second_delay);
        let mut out = Vec::with_capacity(3);
        if replayed && !self.kept.is_empty() {
            let index = self.prng.index(self.kept.len());
            counts.add("frame_replayed_late");
            out.push((second_delay, self.kept.swap_remove(index)));
        }
        if self.plan.replay_pm > 0 && self.kept.len() < KEPT_MAX {
            self.kept.push(frame.clone());
        } else if self.plan.replay_pm > 0 && self.prng.chance(KEPT_ANEW_PM) {
            let index = self.prng.index(KEPT_MAX);
            self.kept[index] = frame.clone();
        }
        if repeated {
            counts.add("frame_repeated");
            out.push((second_delay, frame.clone()));
        }
        let delay = if clogged {
            counts.add("frame_clogged");
            delay + self.prng.within(100_000..=5_000_000)
        } else {
            delay
        };
        let frame = if damaged {
            counts.add("frame_damaged");
            self.damage(frame)
        } else {
            frame
        };
        let delay = if self.ordered { self.in_order(now_us, &frame, delay) } else { delay };
        out.push((delay, frame));
        out
    }

    /// The delay of a frame that overtakes no other.
    fn in_order(&mut self, now_us: u64, frame: &Frame, delay: u64) -> u64 {
        let last = &mut self.free_us[frame.from * self.hosts + frame.to];
        *last = (now_us + delay).max(*last);
        *last - now_us
    }

    /// How long the line takes until it has carried a frame, behind all that it
    /// was given before. What is lost later was carried as well.
    fn carry(&mut self, now_us: u64, frame: &Frame, counts: &mut Counts) -> u64 {
        let kbit = self.plan.line_kbit;
        if kbit == 0 {
            return 0;
        }
        let free = &mut self.free_us[frame.from * self.hosts + frame.to];
        if *free > now_us {
            counts.add("frame_queued");
        }
        *free = now_us.max(*free) + frame.bytes.len() as u64 * 8 * 1000 / kbit;
        *free - now_us
    }

    fn delay(&mut self) -> u64 {
        let (min, max) = (self.plan.delay_us_min, self.plan.delay_us_max);
        // Mostly near the minimum, with a tail up to the maximum.
        let span = self.prng.within(0..=max - min);
        min + span * self.prng.below(1024) / 1024
    }

    fn damage(&mut self, frame: Frame) -> Frame {
        let mut bytes = frame.bytes.to_vec();
        if self.prng.chance(250) {
            bytes.truncate(self.prng.index(bytes.len()));
        } else {
            let bit = self.prng.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        Frame { bytes: Bytes::from(bytes), ..frame }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame { from: 0, boot: 1, to: 1, bytes: Bytes::from_static(b"0123456789") }
    }

    fn network(plan: NetPlan) -> Network {
        Network::new(plan, 2, Prng::named(1, "net"))
    }

    #[test]
    fn a_whole_network_delivers_each_frame_once_and_unchanged() {
        let mut counts = Counts::default();
        let mut net = network(NetPlan::default());
        let arrivals = net.send(0, frame(), &mut counts);
        assert_eq!(arrivals.len(), 1);
        assert_eq!(arrivals[0].1.bytes, frame().bytes);
        assert!(counts.iter().next().is_none());
    }

    #[test]
    fn a_cut_is_one_way_and_two_cuts_need_two_mends() {
        let mut net = network(NetPlan::default());
        net.cut(0, 1, true);
        net.cut(0, 1, true);
        assert!(!net.passes(0, 1) && net.passes(1, 0));
        net.cut(0, 1, false);
        assert!(!net.passes(0, 1));
        net.cut(0, 1, false);
        assert!(net.passes(0, 1));
    }

    #[test]
    fn a_narrow_line_carries_one_frame_after_the_other() {
        let mut counts = Counts::default();
        // Ten bytes take 80 ms.
        let mut net = network(NetPlan { line_kbit: 1, delay_us_min: 0, delay_us_max: 0, ..NetPlan::default() });
        let mut arrival = |now_us, frame| net.send(now_us, frame, &mut counts)[0].0;
        assert_eq!(arrival(0, frame()), 80_000);
        assert_eq!(arrival(30_000, frame()), 130_000, "behind the first");
        assert_eq!(arrival(30_000, Frame { from: 1, to: 0, ..frame() }), 80_000, "the other way is free");
        assert_eq!(arrival(500_000, frame()), 80_000, "by now it is free");
        assert_eq!(counts.get("frame_queued"), 1);
    }

    #[test]
    fn a_healed_network_keeps_the_order() {
        let mut counts = Counts::default();
        let mut net = network(NetPlan { delay_us_max: 9_000, ..NetPlan::default() });
        let mut arrivals = |net: &mut Network| -> Vec<u64> {
            (0..200)
                .flat_map(|at| net.send(at, frame(), &mut counts).into_iter().map(move |(delay, _)| at + delay))
                .collect()
        };
        assert!(!arrivals(&mut net).is_sorted());
        net.heal();
        assert!(arrivals(&mut net).is_sorted());
    }

    #[test]
    fn each_fault_is_counted_when_it_happens() {
        let mut counts = Counts::default();
        let mut net = network(NetPlan {
            loss_pm: 200,
            duplicate_pm: 200,
            corrupt_pm: 200,
            clog_pm: 200,
            replay_pm: 200,
            ..NetPlan::default()
        });
        let mut arrived = 0;
        for _ in 0..1000 {
            for (_, copy) in net.send(0, frame(), &mut counts) {
                arrived += usize::from(copy.bytes == frame().bytes);
            }
        }
        for fault in ["lost", "repeated", "damaged", "clogged", "replayed_late"] {
            assert!(counts.get(&format!("frame_{fault}")) > 100, "{fault}");
        }
        assert!(arrived > 500);
    }
}
