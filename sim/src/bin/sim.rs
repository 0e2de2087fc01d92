//! Runs seeds, or one plan, and says how to repeat what failed.
//!
//! Decides nothing about a run: it counts them, compares fresh processes, and
//! writes down what is to be looked at.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

#[cfg(base_ha_mutants)]
use base_ha_core::mutant::Mutant;
use base_ha_sim::batch::{self, Batch, Outcome};
#[cfg(base_ha_mutants)]
use base_ha_sim::model::try_all;
use base_ha_sim::model::{Scope, explore};
#[cfg(base_ha_mutants)]
use base_ha_sim::mutants;
use base_ha_sim::plan::Plan;
use base_ha_sim::plan_file::PlanFile;
use base_ha_sim::points;
use base_ha_sim::report::REQUIRED;
use base_ha_sim::shell::{self, plan::ShellPlan};
use base_ha_sim::shrink::Shrinker;
use base_ha_sim::spread::spread;
use base_ha_sim::trace::TraceMode;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

/// Deterministic simulation of base-ha's core.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Run so many seeds; 1000 unless told.
    #[arg(long)]
    runs: Option<u64>,
    /// Begin with this seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this plan, a file as --print-plan writes it.
    #[arg(long, conflicts_with = "seed")]
    plan: Option<PathBuf>,
    /// Print the seed's plan and stop.
    #[arg(long, requires = "seed")]
    print_plan: bool,
    /// Print every input and output of every node.
    #[arg(long)]
    trace: bool,
    /// Print what happened, a line an event and a column a node.
    #[arg(long)]
    timeline: bool,
    /// Write what happened to this file, a page for a browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Leave out of a failing plan whatever does not matter, and write the rest
    /// to a file.
    #[arg(long)]
    shrink: bool,
    /// How many runs --shrink may take.
    #[arg(long, default_value_t = 2000)]
    tries: u64,
    /// Run seeds until told to stop, and say every 10 s how it goes.
    #[arg(long)]
    soak: bool,
    /// Print the hash of the full trace, of each seed.
    #[arg(long)]
    hash: bool,
    /// With --hash: the last seed first.
    #[arg(long, requires = "hash")]
    backwards: bool,
    /// Run the seeds in two fresh processes, in one of them backwards and on
    /// --threads threads, and compare their full traces.
    #[arg(long)]
    twice: bool,
    /// Try every planted mutant on up to --runs seeds each (400 unless told).
    #[cfg(base_ha_mutants)]
    #[arg(long)]
    mutants: bool,
    /// Break this rule in the run, or try this mutant only.
    #[cfg(base_ha_mutants)]
    #[arg(long, value_parser = |name: &str| Mutant::named(name).ok_or("no such mutant"))]
    mutant: Option<Mutant>,
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
    mistake: Option<points::Mutant>,
    /// Try every order of events at small size instead of seeds; with --mutants,
    /// with one rule broken after the other.
    #[arg(long, conflicts_with_all = ["seed", "plan"])]
    model: bool,
    /// Give up each search of --model after so many seconds.
    #[arg(long, default_value_t = 3600)]
    model_seconds: u64,
    /// Threads; a seed's run does not depend on it.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Whole nodes on turmoil, with SQLite and HTTP, instead of the core alone.
    #[arg(long)]
    shell: bool,
    /// Break one rule of the shell after the other and see which property notices.
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
    if arguments.model {
        return model(&arguments);
    }
    #[cfg(base_ha_mutants)]
    if arguments.mutants {
        return try_mutants(&arguments);
    }
    if let Some(path) = &arguments.plan {
        return match PlanFile::read(path) {
            Ok(file) => one(file.plan, &arguments, &format!("--plan {}", path.display())),
            Err(error) => {
                println!("{}: {error}", path.display());
                ExitCode::FAILURE
            }
        };
    }
    let (from, runs) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.from, arguments.runs.unwrap_or(1000)),
    };
    if arguments.twice {
        return twice(from, runs, &[], arguments.threads);
    }
    match arguments.seed {
        Some(seed) => return one(Plan::from_seed(seed), &arguments, &format!("--seed {seed}")),
        None if arguments.hash => {
            return hashes(from, runs, &arguments, |seed, mode| batch::run_caught(&Plan::from_seed(seed), mode));
        }
        None if arguments.soak => return soak(from, arguments.threads),
        None => {}
    }
    let batch = batch::run(from, runs, arguments.threads);
    println!("{batch}");
    // A short batch need not have seen every fault.
    let complete = runs < 400 || batch.counts.missing().is_empty();
    if batch.failures.is_empty() && complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Searches every scope there is.
fn model(arguments: &Arguments) -> ExitCode {
    let limit = Duration::from_secs(arguments.model_seconds);
    #[cfg(base_ha_mutants)]
    if arguments.mutants {
        std::panic::set_hook(Box::new(|_| {}));
        let trials = try_all(arguments.threads, limit);
        trials.iter().for_each(|trial| println!("{trial}"));
        let caught = trials.iter().all(|trial| trial.caught.is_some());
        return if caught { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut sound = true;
    for scope in Scope::all() {
        let found = explore(scope, arguments.threads, limit);
        println!("{found}");
        sound &= found.holds();
    }
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

/// One rule broken at a time; fails if the oracles let one pass.
#[cfg(base_ha_mutants)]
fn try_mutants(arguments: &Arguments) -> ExitCode {
    // Caught panics are part of the table.
    std::panic::set_hook(Box::new(|_| {}));
    let only = arguments.mutant.map(|mutant| [mutant]);
    let mutants = only.as_ref().map_or(Mutant::ALL, |only| only);
    let trials = mutants::run(mutants, arguments.from, arguments.runs.unwrap_or(400), arguments.threads);
    println!("{trials}");
    for mutant in trials.survivors() {
        println!("NOT CAUGHT: {mutant:?}: {}", mutant.what());
    }
    if trials.survivors().next().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One plan, looked at as the arguments want.
fn one(plan: Plan, arguments: &Arguments, name: &str) -> ExitCode {
    #[cfg(base_ha_mutants)]
    let plan = Plan { mutant: arguments.mutant, ..plan };
    #[cfg(base_ha_mutants)]
    let name = &arguments.mutant.map_or(name.to_owned(), |mutant| format!("{name} --mutant {mutant:?}"));
    if arguments.print_plan {
        println!("{}", PlanFile::new(&plan, "nothing yet").text());
        return ExitCode::SUCCESS;
    }
    if arguments.shrink {
        return shrink(&plan, arguments, name);
    }
    if arguments.timeline || arguments.html.is_some() {
        return show(&plan, arguments, name);
    }
    ended(&batch::run_caught(&plan, mode(arguments)), name)
}

fn mode(arguments: &Arguments) -> TraceMode {
    match (arguments.trace, arguments.hash) {
        (true, _) => TraceMode::Print,
        (false, true) => TraceMode::Hash,
        (false, false) => TraceMode::Off,
    }
}

/// The same for whole nodes, whose plans are not shrunk.
fn shell(arguments: &Arguments) -> ExitCode {
    let plan = match (&arguments.plan, arguments.seed) {
        (Some(path), _) => match read_shell_plan(path) {
            Ok(plan) => Some((plan, format!("--shell --plan {}", path.display()))),
            Err(error) => {
                println!("{}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        },
        (None, Some(seed)) => Some((ShellPlan::from_seed(seed), format!("--shell --seed {seed}"))),
        (None, None) => None,
    };
    let (from, runs) = arguments.seed.map_or((arguments.from, arguments.runs.unwrap_or(1000)), |seed| (seed, 1));
    match plan {
        _ if arguments.hunt => {
            let (table, all) = shell::mutant::hunt(from, runs, arguments.threads);
            println!("{table}");
            if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        _ if arguments.twice => twice(from, runs, &["--shell"], arguments.threads),
        Some((plan, _)) if arguments.print_plan => {
            println!("{}", serde_json::to_string_pretty(&plan).expect("a plan is plain data"));
            ExitCode::SUCCESS
        }
        Some((plan, name)) => ended(&shell::batch::run_caught(&plan, mode(arguments), None), &name),
        None if arguments.hash => hashes(from, runs, arguments, |seed, mode| {
            shell::batch::run_caught(&ShellPlan::from_seed(seed), mode, None)
        }),
        None => {
            let batch = shell::batch::run(from, runs, arguments.threads);
            println!("{}", batch.report("--shell ", shell::batch::REQUIRED));
            let complete = runs < 200 || batch.counts.missing_of(shell::batch::REQUIRED).is_empty();
            if batch.failures.is_empty() && complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

fn read_shell_plan(path: &Path) -> Result<ShellPlan, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

fn ended(outcome: &Outcome, name: &str) -> ExitCode {
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
        Outcome::Failed(failure) => {
            println!("FAILED: {failure}\nrepeat: cargo run --release -p base-ha-sim -- {name}");
            ExitCode::FAILURE
        }
    }
}

/// A run to look at.
fn show(plan: &Plan, arguments: &Arguments, name: &str) -> ExitCode {
    let (outcome, line) = batch::follow_caught(plan, name);
    if arguments.timeline {
        print!("{}", line.text());
    }
    if let Some(path) = &arguments.html {
        let written = line.html().map_err(std::io::Error::from).and_then(|page| std::fs::write(path, page));
        match written {
            Ok(()) => println!("look: {}", path.display()),
            Err(error) => {
                println!("{}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
    }
    ended(&outcome, name)
}

fn shrink(plan: &Plan, arguments: &Arguments, name: &str) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let told =
        |tried: u64, plan: &Plan| println!("{tried:>6} runs: {} faults, {} ms", plan.faults.len(), plan.chaos_ms);
    let Some(shrinker) = Shrinker::new(plan, told) else {
        println!("held: {name}; there is nothing to shrink");
        return ExitCode::FAILURE;
    };
    let (small, failure, tried) = shrinker.run(arguments.tries);
    let path = match &arguments.plan {
        Some(path) => path.with_extension("small.json"),
        None => Path::new(&format!("seed-{}.json", plan.seed)).to_owned(),
    };
    println!("{} of {} faults are left after {tried} runs", small.faults.len(), plan.faults.len());
    if let Err(error) = PlanFile::new(&small, failure.to_string()).write(&path) {
        println!("{}: {error}", path.display());
    }
    println!("FAILED: {failure}\nrepeat: cargo run --release -p base-ha-sim -- --plan {}", path.display());
    ExitCode::FAILURE
}

/// Runs until it is killed.
fn soak(from: u64, threads: usize) -> ExitCode {
    const TOLD_EVERY: Duration = Duration::from_secs(10);
    let mut all = Batch::default();
    let mut told = 0;
    loop {
        all.add(batch::run_until(from + all.runs, u64::MAX - from, threads, Some(Instant::now() + TOLD_EVERY)));
        for (seed, detail) in all.failures.iter().skip(told) {
            println!("FAILED: seed {seed}: {detail}\nrepeat: cargo run --release -p base-ha-sim -- --seed {seed}");
        }
        told = all.failures.len();
        let missing = all.counts.missing();
        let seconds = all.took.as_secs_f64().max(1e-9);
        println!(
            "{:.0} s: {} seeds from {from} on, {:.1} a second, {:.1} simulated hours, {} failed, {} of {} marks{}{}",
            seconds,
            all.runs,
            all.runs as f64 / seconds,
            all.simulated_s as f64 / 3600.0,
            all.failures.len(),
            REQUIRED.len() - missing.len(),
            REQUIRED.len(),
            if missing.is_empty() { "" } else { ", not yet: " },
            missing.join(", ")
        );
    }
}

/// What tells two runs of a seed apart, a line a seed. With --trace, and on one
/// thread, all of what happened comes before it.
fn hashes(from: u64, runs: u64, arguments: &Arguments, run: impl Fn(u64, TraceMode) -> Outcome + Sync) -> ExitCode {
    let mode = mode(arguments);
    let threads = if arguments.trace { 1 } else { arguments.threads };
    let mut lines = spread(runs, threads, None, |lines: &mut Vec<(u64, String)>, n| {
        let seed = if arguments.backwards { from + runs - 1 - n } else { from + n };
        lines.push(match run(seed, mode) {
            Outcome::Held(report) => (seed, format!("{:016x} of {} lines", report.trace.0, report.trace.1)),
            Outcome::Failed(failure) => (seed, format!("{failure:?}")),
        });
    })
    .concat();
    lines.sort();
    for (seed, line) in lines {
        println!("{seed} {line}");
    }
    ExitCode::SUCCESS
}

fn twice(from: u64, runs: u64, how: &[&str], threads: usize) -> ExitCode {
    let fresh = |beside: &[&str]| {
        let this = std::env::current_exe()?;
        let (from, runs) = (from.to_string(), runs.to_string());
        Command::new(this).args(how).args(["--hash", "--from", &from, "--runs", &runs]).args(beside).output()
    };
    let threads = threads.to_string();
    let outputs = std::thread::scope(|scope| {
        let both = [
            scope.spawn(|| fresh(&["--threads", "1"])),
            scope.spawn(|| fresh(&["--threads", &threads, "--backwards"])),
        ];
        both.map(|one| one.join().expect("starting a process does not panic"))
    });
    // A panic's message names its thread: only what is said on purpose counts.
    let texts = outputs.map(|output: std::io::Result<Output>| match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    });
    let [first, second] = texts.each_ref().map(|text| text.lines().collect::<Vec<_>>());
    let mut differing = u64::from(first.len() as u64 != runs || second.len() as u64 != runs);
    if differing > 0 {
        println!("{} and {} lines for {runs} seeds:\n{}", first.len(), second.len(), texts[0]);
    }
    for (seed, (first, second)) in (from..).zip(first.iter().zip(&second)).filter(|(_, (a, b))| a != b) {
        differing += 1;
        let how = how.join(" ");
        println!(
            "DIFFERS: {first}
     and {second}
repeat: cargo run --release -p base-ha-sim -- {how} --seed {seed} --twice"
        );
    }
    println!("{runs} seeds twice in fresh processes, once backwards on {threads} threads, {differing} differ");
    if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
