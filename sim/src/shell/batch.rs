//! Many runs of whole nodes, or one.
//!
//! Decides how a failing seed is reported: with the one line that repeats it.
//! Each run lives on one thread from start to end.

use super::mutant::Mutant;
use super::plan::ShellPlan;
use super::run;
use crate::batch::{Batch, Outcome};
use crate::clock::TrueTime;
use crate::report::Failure;
use crate::spread::spread;
use crate::trace::TraceMode;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Instant;

/// What every batch of a few hundred seeds must have seen.
pub const REQUIRED: &[&str] = &[
    "blackout",
    "clock_rate",
    "crash_power",
    "crash_process",
    "crash_at_an_operation",
    "crash_writer",
    "disk_error_hit",
    "disk_full_hit",
    "disk_slow",
    "disk_stalled",
    "disk_wiped",
    "failover",
    "isolated_from_clients_too",
    "link_slow",
    "order_add",
    "order_remove",
    "order_stepdown",
    "order_transfer",
    "partition_bridge",
    "partition_flapping",
    "partition_one_way",
    "partition_symmetric",
    "pause_beyond_lease",
    "read_linearizable",
    "read_local",
    "read_session",
    "shutdown_graceful",
    "wall_jump",
    "write_acked_when_repeated",
    "write_answered_again",
    "write_cascade",
    "write_increment",
    "write_item",
    "write_refused_4xx",
    "write_refused_503",
    "write_register",
    "write_replace",
    "write_schema",
    "write_transfer",
    "write_unknown",
    "write_unknown_504",
    "write_unanswered",
    "writer_isolated",
];

thread_local! {
    /// Where and why this thread panicked last: a panic in a task of a
    /// simulated host comes out of turmoil without its text.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a plan; a panic is a failure like any other.
pub fn run_caught(plan: &ShellPlan, mode: TraceMode, mutant: Option<Mutant>) -> Outcome {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let first = PANIC.with_borrow_mut(|panic| {
                let first = panic.is_none();
                panic.get_or_insert_with(|| info.to_string());
                first
            });
            if first {
                before(info);
            }
        }));
    });
    PANIC.set(None);
    match catch_unwind(AssertUnwindSafe(|| run::run(plan, mode, mutant))) {
        Ok(Ok(report)) => Outcome::Held(report),
        Ok(Err(failure)) => Outcome::Failed(failure),
        Err(_) => {
            let detail = PANIC.take().unwrap_or_default();
            Outcome::Failed(Failure { property: Failure::ASSERTION, at: TrueTime(0), detail })
        }
    }
}

/// Runs the seeds from `from` on, on so many threads.
pub fn run(from: u64, runs: u64, threads: usize) -> Batch {
    let started = Instant::now();
    let parts = spread(runs, threads, None, |batch: &mut Batch, n| {
        let seed = from + n;
        let outcome = run_caught(&ShellPlan::from_seed(seed), TraceMode::Off, None);
        if let Outcome::Failed(detail) = &outcome {
            // At once: whoever stops a long batch has seen what it found.
            eprintln!("seed {seed}: {detail}");
        }
        batch.take(seed, outcome);
    });
    Batch::merge(parts, started.elapsed())
}
