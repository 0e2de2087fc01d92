//! Many runs: counted, timed, their panics caught.
//!
//! Decides how a failing seed is reported: with the one line that repeats it.

use crate::phases;
use crate::plan::Plan;
use crate::report::{Counts, REQUIRED, Report};
use crate::trace::TraceMode;
use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How one run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Every property held.
    Held(Report),
    /// One did not, or the core's own assertions did not.
    Failed(String),
}

/// Runs a plan; a panic is a failure like any other.
pub fn run_caught(plan: &Plan, mode: TraceMode) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| phases::run(plan, mode))) {
        Ok(Ok(report)) => Outcome::Held(report),
        Ok(Err(failure)) => Outcome::Failed(failure.to_string()),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Outcome::Failed(format!("panic: {}", text.unwrap_or_default()))
        }
    }
}

/// Many runs.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// How many.
    pub runs: u64,
    /// What happened in all of them.
    pub counts: Counts,
    /// Seeds that failed, in order, and how.
    pub failures: Vec<(u64, String)>,
    /// Inputs that all nodes took.
    pub steps: u64,
    /// Simulated seconds.
    pub simulated_s: u64,
    /// How long it took.
    pub took: Duration,
}

/// Runs the seeds from `from` on, on so many threads.
pub fn run(from: u64, runs: u64, threads: usize) -> Batch {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let parts: Vec<Batch> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(|| work(from, runs, &next))).collect();
        workers.into_iter().map(|w| w.join().expect("a worker catches its runs' panics")).collect()
    });
    Batch::merge(parts, started.elapsed())
}

impl Batch {
    /// All parts as one, which took so long.
    pub fn merge(parts: Vec<Self>, took: Duration) -> Self {
        let mut batch = Self { took, ..Self::default() };
        for part in parts {
            batch.runs += part.runs;
            batch.counts.merge(&part.counts);
            batch.failures.extend(part.failures);
            batch.steps += part.steps;
            batch.simulated_s += part.simulated_s;
        }
        batch.failures.sort();
        batch
    }

    /// Takes in how one seed's run ended.
    pub fn take(&mut self, seed: u64, outcome: Outcome) {
        self.runs += 1;
        match outcome {
            Outcome::Held(report) => {
                self.counts.merge(&report.counts);
                self.steps += report.steps;
                self.simulated_s += report.simulated.0 / 1_000_000_000;
            }
            Outcome::Failed(detail) => self.failures.push((seed, detail)),
        }
    }
}

fn work(from: u64, runs: u64, next: &AtomicU64) -> Batch {
    let mut batch = Batch::default();
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= runs {
            return batch;
        }
        let seed = from + n;
        batch.take(seed, run_caught(&Plan::from_seed(seed), TraceMode::Off));
    }
}

impl Batch {
    /// What is said of it: `how` comes before the seed in the line that repeats
    /// a failure, `required` is what must have happened.
    pub fn report(&self, how: &str, required: &[&'static str]) -> String {
        let mut text = String::new();
        for (what, count) in self.counts.iter() {
            let _ = writeln!(text, "{what:<28} {count}");
        }
        for (seed, detail) in &self.failures {
            let _ = writeln!(
                text,
                "FAILED: seed {seed}: {detail}\nrepeat: cargo run --release -p base-ha-sim -- {how}--seed {seed}"
            );
        }
        let missing = self.counts.missing_of(required);
        if !missing.is_empty() {
            let _ = writeln!(text, "never happened: {}", missing.join(", "));
        }
        let seconds = self.took.as_secs_f64().max(1e-9);
        let _ = write!(
            text,
            "{} seeds, {} failed, {} steps, {} simulated seconds in {seconds:.1} s: {:.0} simulated seconds a second",
            self.runs,
            self.failures.len(),
            self.steps,
            self.simulated_s,
            self.simulated_s as f64 / seconds
        );
        text
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report("", REQUIRED))
    }
}
