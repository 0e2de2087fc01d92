//! What all hosts of a run tell: counts, the trace, log lines.
//!
//! Decides nothing. One per run; hosts share it.

use super::env::lock;
use crate::clock::TrueTime;
use crate::report::Counts;
use crate::trace::{Trace, TraceMode};
use std::fmt;
use std::sync::{Arc, Mutex};

/// Where everything that happens is told. Clones share it.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    mode: TraceMode,
    trace: Mutex<Trace>,
    counts: Mutex<Counts>,
}

impl Recorder {
    /// An empty one.
    pub fn new(mode: TraceMode) -> Self {
        Self(Arc::new(Inner { mode, trace: Mutex::new(Trace::new(mode)), counts: Mutex::default() }))
    }

    /// Whether lines are recorded at all.
    pub fn is_on(&self) -> bool {
        self.0.mode != TraceMode::Off
    }

    /// Records a line.
    pub fn line(&self, at: TrueTime, who: &dyn fmt::Display, what: fmt::Arguments<'_>) {
        if self.is_on() {
            lock(&self.0.trace).line(at, who, what);
        }
    }

    /// Something happened that is counted.
    pub fn count(&self, what: &str) {
        lock(&self.0.counts).add(what);
    }

    /// How often it happened.
    pub fn counted(&self, what: &str) -> u64 {
        lock(&self.0.counts).get(what)
    }

    /// All counts so far.
    pub fn counts(&self) -> Counts {
        lock(&self.0.counts).clone()
    }

    /// The trace's hash and number of lines.
    pub fn hash(&self) -> (u64, u64) {
        lock(&self.0.trace).hash()
    }
}
