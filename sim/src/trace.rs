//! What happened, as a hash, as lines, or not at all.
//!
//! Decides how a run is recorded. Every input and output of every node passes
//! here, so two runs with equal hashes were the same run.

use crate::clock::TrueTime;
use std::fmt::{self, Write};

/// How a run is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TraceMode {
    /// Not at all.
    #[default]
    Off,
    /// As a 64-bit hash of every line.
    Hash,
    /// As lines on standard output, and as the hash.
    Print,
}

/// The record of one run.
#[derive(Debug)]
pub struct Trace {
    mode: TraceMode,
    hash: u64,
    lines: u64,
    buffer: String,
}

impl Trace {
    /// An empty record.
    pub fn new(mode: TraceMode) -> Self {
        Self { mode, hash: 0xcbf2_9ce4_8422_2325, lines: 0, buffer: String::new() }
    }

    /// Records one line: when, who, what.
    pub fn line(&mut self, at: TrueTime, who: &dyn fmt::Display, what: fmt::Arguments<'_>) {
        if self.mode == TraceMode::Off {
            return;
        }
        self.buffer.clear();
        let _ = write!(self.buffer, "{at:?} {who:<6} {what}");
        for byte in self.buffer.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if self.mode == TraceMode::Print {
            print_line(&self.buffer);
        }
    }

    /// The hash of all lines so far, and how many they are.
    pub fn hash(&self) -> (u64, u64) {
        (self.hash, self.lines)
    }
}

#[expect(clippy::print_stdout, reason = "the timeline was asked for")]
fn print_line(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_moment_is_another_hash() {
        let hash = |ns| {
            let mut trace = Trace::new(TraceMode::Hash);
            trace.line(TrueTime(ns), &"n1", format_args!("x"));
            trace.hash()
        };
        assert_eq!(hash(1000), hash(1000));
        assert_ne!(hash(1000), hash(2000));
        assert_eq!(hash(1000).1, 1);
    }
}
