//! From a plan that fails to a small one that fails the same way.
//!
//! Decides what is left out, by trying: faults in ever smaller blocks (delta
//! debugging, Zeller 2002), then what the network, the disks and the clients do,
//! then machines and time. A smaller plan counts only if the same property
//! fails; for an assertion, the same one.

use crate::batch::{Outcome, run_caught};
use crate::plan::{FaultAt, NetPlan, Plan};
use crate::report::Failure;
use crate::trace::TraceMode;

/// A search under way.
#[derive(Debug)]
pub struct Shrinker<P> {
    plan: Plan,
    failure: Failure,
    tried: u64,
    progress: P,
}

/// What a failure is the same by: an assertion's text is cut where it begins to
/// name places and terms.
fn kind(failure: &Failure) -> (&'static str, &str) {
    let text = match failure.property {
        Failure::ASSERTION => failure.detail.split(|c: char| c.is_ascii_digit()).next().unwrap_or(""),
        _ => "",
    };
    (failure.property, text)
}

impl<P: FnMut(u64, &Plan)> Shrinker<P> {
    /// Begins with a plan; `progress` is told of each smaller one, and after how
    /// many tries. `None` if the plan does not fail.
    pub fn new(plan: &Plan, progress: P) -> Option<Self> {
        match run_caught(plan, TraceMode::Off) {
            Outcome::Held(_) => None,
            Outcome::Failed(failure) => Some(Self { plan: plan.clone(), failure, tried: 1, progress }),
        }
    }

    /// Searches until nothing more can be left out, or `tries` runs are over.
    /// Gives the smallest plan found, how it fails, and how many runs it took.
    pub fn run(mut self, tries: u64) -> (Plan, Failure, u64) {
        loop {
            let before = self.plan.clone();
            self.fewer_faults(tries);
            self.simpler_world(tries);
            if self.plan == before || self.tried >= tries {
                return (self.plan, self.failure, self.tried);
            }
        }
    }

    /// Takes `smaller` if it fails the same way.
    fn take(&mut self, smaller: Plan, tries: u64) -> bool {
        if smaller == self.plan || self.tried >= tries {
            return false;
        }
        self.tried += 1;
        match run_caught(&smaller, TraceMode::Off) {
            Outcome::Failed(failure) if kind(&failure) == kind(&self.failure) => {
                (self.plan, self.failure) = (smaller, failure);
                (self.progress)(self.tried, &self.plan);
                true
            }
            Outcome::Failed(_) | Outcome::Held(_) => false,
        }
    }

    fn fewer_faults(&mut self, tries: u64) {
        let mut block = self.plan.faults.len();
        while block > 0 {
            let mut from = 0;
            while from < self.plan.faults.len() {
                let mut smaller = self.plan.clone();
                let to = (from + block).min(smaller.faults.len());
                smaller.faults.drain(from..to);
                if !self.take(smaller, tries) {
                    from += block;
                }
            }
            block /= 2;
        }
    }

    fn simpler_world(&mut self, tries: u64) {
        let last_ms = |faults: &[FaultAt]| faults.iter().map(|f| f.at_ms).max().unwrap_or(0);
        let changes: [fn(&mut Plan); 12] = [
            |p| p.net = NetPlan::default(),
            |p| p.net.loss_pm = 0,
            |p| p.net.duplicate_pm = 0,
            |p| p.net.corrupt_pm = 0,
            |p| p.net.clog_pm = 0,
            |p| p.net.replay_pm = 0,
            |p| p.disk.stall_pm = 0,
            |p| p.disk.sync_us_max = p.disk.sync_us_min.max(500),
            |p| p.clocks.iter_mut().for_each(|c| (c.mono_ms, c.rate_ppm, c.wall_ms) = (1000, 0, 0)),
            |p| p.workload.trim_every_ms = 0,
            |p| (p.workload.group_max, p.workload.row_bytes_max) = (1, 0),
            |p| (p.workload.read_pm, p.workload.every_us) = (0, p.workload.every_us.max(100_000)),
        ];
        for change in changes {
            let mut smaller = self.plan.clone();
            change(&mut smaller);
            self.take(smaller, tries);
        }
        // The chaos may end with its last fault, or with the failure.
        for ms in [last_ms(&self.plan.faults) + 1, self.failure.at.0 / 1_000_000 + 1] {
            let mut smaller = self.plan.clone();
            smaller.chaos_ms = smaller.chaos_ms.min(ms);
            self.take(smaller, tries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Disks that never sync make any plan fail; nothing else in it matters.
    #[test]
    fn what_does_not_matter_is_left_out_and_the_failure_stays() {
        let mut plan = Plan::from_seed(2);
        (plan.disk.sync_us_min, plan.disk.sync_us_max) = (3_600_000_000, 3_600_000_000);
        plan.chaos_ms = 1000;
        plan.faults.truncate(6);
        assert!(plan.faults.len() > 2, "a plan with something to leave out");
        let mut told = 0;
        let shrinker = Shrinker::new(&plan, |_, _| told += 1).expect("it fails");
        let (small, failure, tried) = shrinker.run(60);
        assert!(small.faults.is_empty(), "{small:?}");
        assert_eq!(small.net, NetPlan::default());
        assert_eq!(small.disk.sync_us_min, 3_600_000_000, "what makes it fail");
        assert!(failure.property.starts_with("L1") && tried > 2 && told > 0);
    }

    #[test]
    fn a_plan_that_holds_is_not_shrunk() {
        let mut plan = Plan::from_seed(2);
        plan.faults.clear();
        plan.chaos_ms = 1000;
        assert!(Shrinker::new(&plan, |_, _| {}).is_none());
    }
}
