//! Breakage on purpose: each oracle must find its own.
//!
//! Decides what is broken; `env`, `stream`, `client` and the disk break it, on
//! the way between a client and the node's code or between that and the disk. So
//! the node behaves as one would that lacks the rule, and its code stays whole.

use super::batch;
use super::plan::ShellPlan;
use crate::batch::Outcome;
use crate::spread::spread;
use crate::trace::TraceMode;
use std::fmt::Write;

/// One rule that nodes are made to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An fsync does nothing.
    FsyncIsNoOp,
    /// Sessions' tokens are ignored.
    TokenIgnored,
    /// Keys of repeated requests are ignored.
    KeyIgnored,
    /// A linearizable read is served like a local one.
    LinearizableIsLocal,
    /// A write is answered when the writer alone has it.
    AnsweredBeforeMajority,
    /// Two requests get one id, now and then.
    IdsRepeat,
}

/// All of them.
pub const ALL: [Mutant; 6] = [
    Mutant::FsyncIsNoOp,
    Mutant::TokenIgnored,
    Mutant::KeyIgnored,
    Mutant::LinearizableIsLocal,
    Mutant::AnsweredBeforeMajority,
    Mutant::IdsRepeat,
];

/// Which mutant; the seed that caught it, and how.
type Row = (usize, Option<(u64, String)>);

/// Runs each mutant over seeds from `from` until one is caught, at most `runs`;
/// a table of what caught it, and whether all were.
pub fn hunt(from: u64, runs: u64, threads: usize) -> (String, bool) {
    let mut text = String::new();
    let mut all = true;
    let mut rows = spread(ALL.len() as u64, threads, None, |rows: &mut Vec<Row>, n| {
        let at = n as usize;
        let caught = (from..from + runs).find_map(|seed| {
            match batch::run_caught(&ShellPlan::from_seed(seed), TraceMode::Off, Some(ALL[at])) {
                Outcome::Held(_) => None,
                Outcome::Failed(failure) => Some((seed, failure.to_string())),
            }
        });
        rows.push((at, caught));
    })
    .concat();
    rows.sort_by_key(|(at, _)| *at);
    for (at, caught) in rows {
        let name = format!("{:?}", ALL[at]);
        match caught {
            Some((seed, detail)) => {
                let first = detail.lines().next().unwrap_or_default();
                let _ = writeln!(text, "{name:<24} {:>4} seeds, caught in {seed}: {first}", seed - from + 1);
            }
            None => {
                all = false;
                let _ = writeln!(text, "{name:<24} NOT CAUGHT in {runs} seeds from {from}");
            }
        }
    }
    (text, all)
}
