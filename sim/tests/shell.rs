//! A small share of the simulation of whole nodes, in every `cargo test`.

use base_ha_sim::batch::Outcome;
use base_ha_sim::plan::Target;
use base_ha_sim::shell::batch::{self, run_caught};
use base_ha_sim::shell::plan::{ShellFault, ShellFaultAt, ShellPlan};
use base_ha_sim::trace::TraceMode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Few: each is about twenty seconds of three nodes. CI runs hundreds.
const SEEDS: u64 = 8;

#[test]
fn a_batch_of_seeds_holds() {
    let batch = batch::run(0, SEEDS, 2);
    println!("{}", batch.report("--shell ", &[]));
    assert!(batch.failures.is_empty(), "see above for how to repeat");
    for what in ["write_register", "write_transfer", "read_linearizable", "read_session"] {
        assert!(batch.counts.get(what) > 0, "{what} never happened");
    }
}

/// Alone, then in the other order beside a thread that runs other seeds: nothing
/// that the process counts, draws or names for all its threads shows in a run.
#[test]
fn a_seed_runs_the_same_way_twice() {
    // With crashes of both kinds, and schema changes among them.
    const SAME: [u64; 4] = [3, 7, 9, 11];
    let run = |seed: u64| match run_caught(&ShellPlan::from_seed(seed), TraceMode::Hash, None) {
        Outcome::Held(report) => (report.trace, report.counts),
        Outcome::Failed(detail) => panic!("seed {seed}: {detail}"),
    };
    let alone = SAME.map(run);
    let done = AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 100.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                // Whether it holds is tried elsewhere.
                let _ = run_caught(&ShellPlan::from_seed(seed), TraceMode::Off, None);
            }
        });
        let mut beside: Vec<_> = SAME.iter().rev().map(|seed| run(*seed)).collect();
        done.store(true, Ordering::Relaxed);
        beside.reverse();
        beside
    });
    for ((seed, (trace, counts)), (again, counts_again)) in SAME.iter().zip(&alone).zip(&beside) {
        assert!(trace.1 > 1000, "seed {seed}: a trace of {} lines", trace.1);
        assert_eq!(trace, again, "seed {seed}");
        assert!(counts.iter().eq(counts_again.iter()), "seed {seed}");
    }
    let crashes: u64 = alone.iter().map(|(_, counts)| counts.get("crash_process") + counts.get("crash_power")).sum();
    assert!(crashes > 0, "a process that is torn down is what differed first");
}

/// The checkers of progress have a case that they must reject as well: disks on
/// which everything takes an hour.
#[test]
fn a_cluster_that_cannot_progress_is_rejected() {
    let mut plan = ShellPlan::from_seed(1);
    plan.faults.clear();
    plan.chaos_ms = 100;
    plan.disk.delay_ms_max = 3_600_000;
    let Outcome::Failed(failure) = run_caught(&plan, TraceMode::Off, None) else {
        panic!("nothing can be durable in time");
    };
    assert!(failure.property.starts_with("L1"), "{failure}");
}

/// A crash takes effect: whoever wrote is another one afterwards.
#[test]
fn a_writer_that_dies_is_replaced() {
    let mut plan = ShellPlan::from_seed(1);
    (plan.nodes, plan.witness) = (3, None);
    plan.clocks.resize(3, plan.clocks[0].clone());
    plan.faults = vec![ShellFaultAt {
        at_ms: 4000,
        fault: ShellFault::Crash { target: Target::Writer, power: true, down_ms: 60_000 },
    }];
    plan.chaos_ms = 10_000;
    match run_caught(&plan, TraceMode::Off, None) {
        Outcome::Held(report) => assert_eq!((report.counts.get("crash_writer"), report.counts.get("failover")), (1, 1)),
        Outcome::Failed(detail) => panic!("{detail}"),
    }
}
