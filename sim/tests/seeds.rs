//! A small share of the simulation, in every `cargo test`.

use base_ha_sim::batch::{self, Outcome, run_caught};
use base_ha_sim::plan::{NetPlan, Plan};
use base_ha_sim::trace::TraceMode;

/// Enough to see every kind of fault take effect; the rest is for CI, which runs
/// thousands.
const SEEDS: u64 = 400;

#[test]
fn a_batch_of_seeds_holds_and_sees_every_fault() {
    let batch = batch::run(0, SEEDS, 2);
    println!("{batch}");
    assert!(batch.failures.is_empty(), "see above for how to repeat");
    assert_eq!(batch.counts.missing(), [""; 0], "faults that never happened");
}

#[test]
fn a_seed_runs_the_same_way_twice() {
    for seed in [3, 5, 8] {
        let plan = Plan::from_seed(seed);
        let run = || match run_caught(&plan, TraceMode::Hash) {
            Outcome::Held(report) => report.trace,
            Outcome::Failed(detail) => panic!("seed {seed}: {detail}"),
        };
        let (first, second) = (run(), run());
        assert!(first.1 > 100, "a trace of {} lines", first.1);
        assert_eq!(first, second, "seed {seed}");
    }
}

/// Rows of up to 400 KB on lines that take 0.6 s for one: heartbeats pass between
/// the parts, and no writer steps down.
#[test]
fn a_narrow_line_costs_no_writer_its_lease() {
    let mut plan = Plan::from_seed(1);
    (plan.seats, plan.spares, plan.witness) = (3, 0, None);
    plan.clocks = vec![plan.clocks[0].clone(); 3];
    plan.faults.clear();
    plan.net = NetPlan { line_kbit: 5_000, ..NetPlan::default() };
    (plan.heartbeat_ms, plan.sizes_by) = (500, 1);
    plan.disk.stall_pm = 0;
    (plan.workload.every_us, plan.workload.row_bytes_max) = (300_000, 400_000);
    match run_caught(&plan, TraceMode::Off) {
        Outcome::Held(report) => {
            assert!(report.counts.get("frame_queued") > 100 && report.counts.get("entry_in_parts") > 100);
            assert_eq!(report.counts.get("stepped_down"), 0);
        }
        Outcome::Failed(detail) => panic!("{detail}"),
    }
}

/// The checker of progress has a case that it must reject as well: disks that
/// take an hour to sync, so that nothing can be promised.
#[test]
fn a_cluster_that_cannot_progress_is_rejected() {
    let mut plan = Plan::from_seed(1);
    plan.faults.clear();
    plan.disk.sync_us_min = 3_600_000_000;
    plan.disk.sync_us_max = 3_600_000_000;
    let Outcome::Failed(failure) = run_caught(&plan, TraceMode::Off) else {
        panic!("nothing can be durable in time");
    };
    assert!(failure.property.starts_with("L1"), "{failure}");
}
