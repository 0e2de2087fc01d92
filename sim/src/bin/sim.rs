//! Runs seeds, or one plan, and says how to repeat what failed.
//!
//! Decides nothing about a run: it counts them, catches their panics, and
//! compares fresh processes.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use base_ha_sim::batch::{self, Outcome};
use base_ha_sim::plan::Plan;
use base_ha_sim::points::{self, Mutant};
use base_ha_sim::shell::{self, plan::ShellPlan};
use base_ha_sim::trace::TraceMode;
use clap::Parser;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Deterministic simulation of base-ha: the core alone, or whole nodes.
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
    /// Stop the shell's log and store at every operation on their disk, instead
    /// of running seeds: crashes, errors, flipped bits.
    #[arg(long)]
    crash_points: bool,
    /// Only this scenario of the crash points.
    #[arg(long, requires = "crash_points")]
    only: Option<String>,
    /// Only the crash point before this operation.
    #[arg(long, requires = "only")]
    at: Option<u64>,
    /// One crash point in so many.
    #[arg(long, requires = "crash_points", default_value_t = 1)]
    every: u64,
    /// Which of so many: 0, 1, ...
    #[arg(long, requires = "every", default_value_t = 0)]
    offset: u64,
    /// Plant a mistake that the crash points must find.
    #[arg(long, requires = "crash_points")]
    mistake: Option<Mutant>,
    /// Threads; a seed's run does not depend on it.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Whole nodes on turmoil, with SQLite and HTTP, instead of the core alone.
    #[arg(long)]
    shell: bool,
    /// Break one rule after the other and see which property notices.
    #[arg(long, requires = "shell")]
    hunt: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.shell {
        return shell(&arguments);
    }
    if arguments.crash_points {
        return crash_points(&arguments);
    }
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
            return print_plan(&plan);
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
        return twice(from, runs, &[]);
    }
    let batch = batch::run(from, runs, arguments.threads);
    println!("{batch}");
    // A short batch need not have seen every fault.
    let complete = runs < 400 || batch.counts.missing().is_empty();
    if batch.failures.is_empty() && complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn crash_points(arguments: &Arguments) -> ExitCode {
    let report = points::run(&points::Options {
        every: arguments.every.max(1),
        offset: arguments.offset,
        only: arguments.only.clone(),
        at: arguments.at,
        threads: arguments.threads as u64,
        mutant: arguments.mistake,
    });
    println!("{report}");
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The same for whole nodes.
fn shell(arguments: &Arguments) -> ExitCode {
    let plan = match (&arguments.plan, arguments.seed) {
        (Some(path), _) => match read_plan::<ShellPlan>(path) {
            Ok(plan) => Some((plan, format!("--shell --plan {}", path.display()))),
            Err(error) => {
                println!("{}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        },
        (None, Some(seed)) => Some((ShellPlan::from_seed(seed), format!("--shell --seed {seed}"))),
        (None, None) => None,
    };
    let (from, runs) = arguments.seed.map_or((arguments.from, arguments.runs), |seed| (seed, 1));
    match plan {
        _ if arguments.hunt => {
            let (table, all) = shell::mutant::hunt(from, runs, arguments.threads);
            println!("{table}");
            if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        _ if arguments.twice => twice(from, runs, &["--shell"]),
        Some((plan, _)) if arguments.print_plan => print_plan(&plan),
        Some((plan, name)) => report(shell::batch::run_caught(&plan, mode(arguments), None), &name),
        None => {
            let batch = shell::batch::run(from, runs, arguments.threads);
            println!("{}", batch.report("--shell ", shell::batch::REQUIRED));
            let complete = runs < 200 || batch.counts.missing_of(shell::batch::REQUIRED).is_empty();
            if batch.failures.is_empty() && complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

fn read_plan<P: serde::de::DeserializeOwned>(path: &PathBuf) -> Result<P, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

fn print_plan(plan: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string_pretty(plan) {
        Ok(text) => println!("{text}"),
        Err(error) => println!("{error}"),
    }
    ExitCode::SUCCESS
}

fn mode(arguments: &Arguments) -> TraceMode {
    match (arguments.trace, arguments.hash) {
        (true, _) => TraceMode::Print,
        (false, true) => TraceMode::Hash,
        (false, false) => TraceMode::Off,
    }
}

fn one(plan: &Plan, arguments: &Arguments, name: &str) -> ExitCode {
    report(batch::run_caught(plan, mode(arguments)), name)
}

fn report(outcome: Outcome, name: &str) -> ExitCode {
    match outcome {
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
fn hash_of(seed: u64, how: &[&str]) -> Result<String, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new(this)
        .args(how)
        .args(["--seed", &seed.to_string(), "--hash"])
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.trim().is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(text)
}

fn twice(from: u64, runs: u64, how: &[&str]) -> ExitCode {
    let mut differing = 0;
    for seed in from..from + runs {
        match (hash_of(seed, how), hash_of(seed, how)) {
            (Ok(first), Ok(second)) if first == second => {}
            (Ok(_), Ok(_)) => {
                differing += 1;
                let how = how.join(" ");
                println!(
                    "DIFFERS: seed {seed}\nrepeat: cargo run --release -p base-ha-sim -- {how} --seed {seed} --twice"
                );
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
