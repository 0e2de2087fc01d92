//! A small share of the simulation of whole nodes, in every `cargo test`.

use base_ha_sim::batch::Outcome;
use base_ha_sim::plan::Target;
use base_ha_sim::shell::batch::{self, run_caught};
use base_ha_sim::shell::plan::{ShellFault, ShellFaultAt, ShellPlan};
use base_ha_sim::trace::TraceMode;

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

#[test]
#[ignore = "known to fail: two runs of one seed differ since nodes lie on simulated disks"]
fn a_seed_runs_the_same_way_twice() {
    let plan = ShellPlan::from_seed(3);
    let run = || match run_caught(&plan, TraceMode::Hash, None) {
        Outcome::Held(report) => report.trace,
        Outcome::Failed(detail) => panic!("{detail}"),
    };
    let (first, second) = (run(), run());
    assert!(first.1 > 1000, "a trace of {} lines", first.1);
    assert_eq!(first, second);
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
