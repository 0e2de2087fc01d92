//! Many runs: counted, timed, their panics caught.
//!
//! Decides how a failing seed is reported: with the one line that repeats it.

use crate::clock::TrueTime;
use crate::phases;
use crate::plan::Plan;
use crate::report::{Counts, Failure, REQUIRED, Report};
use crate::spread::spread;
use crate::timeline::Timeline;
use crate::trace::TraceMode;
use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How one run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Every property held.
    Held(Report),
    /// One did not, or the core's own assertions did not.
    Failed(Failure),
}

/// Runs a plan; a panic is a failure like any other.
pub fn run_caught(plan: &Plan, mode: TraceMode) -> Outcome {
    caught(|| phases::run(plan, mode))
}

/// The same, with what happened.
pub fn follow_caught(plan: &Plan, title: &str) -> (Outcome, Timeline) {
    let line = Arc::new(Mutex::new(Timeline { title: title.to_owned(), ..Timeline::default() }));
    let outcome = caught(|| phases::follow(plan, TraceMode::Off, Some(line.clone())));
    let mut line = line.lock().map(|line| line.clone()).unwrap_or_else(|poisoned| poisoned.into_inner().clone());
    match &outcome {
        Outcome::Failed(failure) if failure.property == Failure::ASSERTION => {
            let at = line.notes.iter().map(|note| note.at).chain(line.said.iter().map(|said| said.at)).max();
            line.note(TrueTime(at.unwrap_or(0) * 1000), None, "failed", failure.to_string());
        }
        Outcome::Failed(_) | Outcome::Held(_) => {}
    }
    (outcome, line)
}

fn caught(run: impl FnOnce() -> Result<Report, Failure>) -> Outcome {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(report)) => Outcome::Held(report),
        Ok(Err(failure)) => Outcome::Failed(failure),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let detail = text.unwrap_or_default();
            Outcome::Failed(Failure { property: Failure::ASSERTION, at: TrueTime(0), detail })
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
    run_until(from, runs, threads, None)
}

/// The same, but begins no run after `until`. The seeds that ran are the first
/// of them.
pub fn run_until(from: u64, runs: u64, threads: usize, until: Option<Instant>) -> Batch {
    let started = Instant::now();
    let parts = spread(runs, threads, until, |batch: &mut Batch, n| {
        let seed = from + n;
        batch.take(seed, run_caught(&Plan::from_seed(seed), TraceMode::Off));
    });
    Batch::merge(parts, started.elapsed())
}

impl Batch {
    /// All parts as one, which took so long.
    pub fn merge(parts: Vec<Self>, took: Duration) -> Self {
        let mut batch = Self { took, ..Self::default() };
        for part in parts {
            batch.add(Self { took: Duration::ZERO, ..part });
        }
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
            Outcome::Failed(failure) => self.failures.push((seed, failure.to_string())),
        }
    }
}

impl Batch {
    /// Takes another batch's runs in.
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.counts.merge(&other.counts);
        self.failures.extend(other.failures);
        self.failures.sort();
        self.steps += other.steps;
        self.simulated_s += other.simulated_s;
        self.took += other.took;
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
            "{} seeds, {} failed, {} steps, {} simulated seconds in {seconds:.1} s: {:.1} seeds and {:.0} simulated seconds a second",
            self.runs,
            self.failures.len(),
            self.steps,
            self.simulated_s,
            self.runs as f64 / seconds,
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
