//! Runs seeds, or one plan, and says how to repeat what failed.
//!
//! Decides nothing about a run: it counts them, catches their panics, and
//! compares fresh processes.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use base_ha_sim::batch::{self, Outcome};
use base_ha_sim::plan::Plan;
use base_ha_sim::trace::TraceMode;
use clap::Parser;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Deterministic simulation of base-ha's core.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 1000)]
    runs: u64,
    /// Begin with this seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this plan, a JSON file as --print-plan writes it.
    #[arg(long, conflicts_with = "seed")]
    plan: Option<PathBuf>,
    /// Print the seed's plan and stop.
    #[arg(long, requires = "seed")]
    print_plan: bool,
    /// Print every input and output of every node.
    #[arg(long)]
    trace: bool,
    /// Print the hash of the full trace.
    #[arg(long)]
    hash: bool,
    /// Run each seed in two fresh processes and compare their full traces.
    #[arg(long)]
    twice: bool,
    /// Threads; a seed's run does not depend on it.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.plan {
        return match read_plan(path) {
            Ok(plan) => one(&plan, &arguments, &format!("--plan {}", path.display())),
            Err(error) => {
                println!("{}: {error}", path.display());
                ExitCode::FAILURE
            }
        };
    }
    if let Some(seed) = arguments.seed {
        let plan = Plan::from_seed(seed);
        if arguments.print_plan {
            match serde_json::to_string_pretty(&plan) {
                Ok(text) => println!("{text}"),
                Err(error) => println!("{error}"),
            }
            return ExitCode::SUCCESS;
        }
        if !arguments.twice {
            return one(&plan, &arguments, &format!("--seed {seed}"));
        }
    }
    let (from, runs) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.from, arguments.runs),
    };
    if arguments.twice {
        return twice(from, runs);
    }
    let batch = batch::run(from, runs, arguments.threads);
    println!("{batch}");
    // A short batch need not have seen every fault.
    let complete = runs < 400 || batch.counts.missing().is_empty();
    if batch.failures.is_empty() && complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read_plan(path: &PathBuf) -> Result<Plan, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

fn one(plan: &Plan, arguments: &Arguments, name: &str) -> ExitCode {
    let mode = match (arguments.trace, arguments.hash) {
        (true, _) => TraceMode::Print,
        (false, true) => TraceMode::Hash,
        (false, false) => TraceMode::Off,
    };
    match batch::run_caught(plan, mode) {
        Outcome::Held(report) => {
            for (what, count) in report.counts.iter() {
                println!("{what:<28} {count}");
            }
            let (hash, lines) = report.trace;
            println!("trace {hash:016x} of {lines} lines");
            println!("held: {name}, {} steps, {:?} simulated", report.steps, report.simulated);
            ExitCode::SUCCESS
        }
        Outcome::Failed(detail) => {
            println!("FAILED: {detail}\nrepeat: cargo run --release -p base-ha-sim -- {name}");
            ExitCode::FAILURE
        }
    }
}

/// The last line that tells two runs apart, from a fresh process.
fn hash_of(seed: u64) -> Result<String, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let output =
        Command::new(this).args(["--seed", &seed.to_string(), "--hash"]).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.trim().is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(text)
}

fn twice(from: u64, runs: u64) -> ExitCode {
    let mut differing = 0;
    for seed in from..from + runs {
        match (hash_of(seed), hash_of(seed)) {
            (Ok(first), Ok(second)) if first == second => {}
            (Ok(_), Ok(_)) => {
                differing += 1;
                println!("DIFFERS: seed {seed}\nrepeat: cargo run --release -p base-ha-sim -- --seed {seed} --twice");
            }
            (Err(error), _) | (_, Err(error)) => {
                differing += 1;
                println!("seed {seed}: {error}");
            }
        }
    }
    println!("{runs} seeds twice in fresh processes, {differing} differ");
    if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
