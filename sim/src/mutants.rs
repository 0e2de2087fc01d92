//! Every planted mutant against fresh seeds: which property catches it, and
//! after how many.
//!
//! Decides nothing about a run. A mutant that no seed catches means that some
//! promise is not looked at, or that no plan leads there.

use crate::batch::{Outcome, run_caught};
use crate::plan::Plan;
use crate::report::Failure;
use crate::spread::spread;
use crate::trace::TraceMode;
use base_ha_core::mutant::Mutant;
use std::fmt;
use std::time::{Duration, Instant};

/// What became of one mutant.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Which.
    pub mutant: Mutant,
    /// The seed that caught it, the number of seeds up to it, and how.
    pub caught: Option<(u64, u64, Failure)>,
}

/// What became of all of them.
#[derive(Clone, Debug)]
pub struct Trials {
    /// One a mutant.
    pub trials: Vec<Trial>,
    /// How many seeds each had at most.
    pub runs: u64,
    /// How long it took.
    pub took: Duration,
}

/// The plan of a seed, with one rule broken on every node.
pub fn plan(seed: u64, mutant: Mutant) -> Plan {
    Plan { mutant: Some(mutant), ..Plan::from_seed(seed) }
}

/// Runs each of `mutants` over up to `runs` seeds from `from` on, on so many
/// threads.
pub fn run(mutants: &[Mutant], from: u64, runs: u64, threads: usize) -> Trials {
    let started = Instant::now();
    let mut trials = spread(mutants.len() as u64, threads, None, |trials: &mut Vec<Trial>, n| {
        let mutant = mutants[n as usize];
        trials.push(Trial { mutant, caught: try_one(mutant, from, runs) });
    })
    .concat();
    trials.sort_by_key(|trial| trial.mutant);
    Trials { trials, runs, took: started.elapsed() }
}

fn try_one(mutant: Mutant, from: u64, runs: u64) -> Option<(u64, u64, Failure)> {
    (from..from + runs).find_map(|seed| match run_caught(&plan(seed, mutant), TraceMode::Off) {
        Outcome::Held(_) => None,
        Outcome::Failed(failure) => Some((seed, seed - from + 1, failure)),
    })
}

impl Trials {
    /// Those that no seed caught.
    pub fn survivors(&self) -> impl Iterator<Item = Mutant> {
        self.trials.iter().filter(|t| t.caught.is_none()).map(|t| t.mutant)
    }
}

impl fmt::Display for Trials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| Mutant | What is broken | Caught by | Seeds | Seed |\n|---|---|---|---|---|")?;
        for Trial { mutant, caught } in &self.trials {
            let what = mutant.what();
            match caught {
                Some((seed, seeds, failure)) => {
                    let property = match failure.property {
                        Failure::ASSERTION => format!("assertion: {}", failure.detail.lines().next().unwrap_or("")),
                        property => property.to_owned(),
                    };
                    writeln!(f, "| `{mutant:?}` | {what} | {property} | {seeds} | {seed} |")?;
                }
                None => writeln!(f, "| `{mutant:?}` | {what} | NOT CAUGHT | {} | |", self.runs)?,
            }
        }
        let survivors = self.survivors().count();
        write!(f, "\n{} mutants, {survivors} not caught, in {:.1} s", self.trials.len(), self.took.as_secs_f64())
    }
}
