//! The node: a total function from inputs to outputs.
//!
//! Decides by dispatch only; the computing is in the modules below it.

use crate::io::{Boot, Input, Outbox, Refusal, Status, WritePermit};
use crate::time::{MonoTime, Now};

/// Why a node wants to be woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    /// To campaign.
    Election,
}

/// One node.
pub struct Node {
    boot: Boot,
}

impl Node {
    /// Starts a node from what its disk says; the first outputs (it may need a
    /// new incarnation to be durable) go to `out`.
    pub fn recover(boot: Boot, now: Now, out: &mut Outbox) -> Self {
        let _ = (now, out);
        Self { boot }
    }

    /// Takes one input. Total: it never fails, blocks or panics on input.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Outbox) {
        let _ = (now, input, out);
    }

    /// When to wake it, and why.
    pub fn deadline(&self) -> Option<(MonoTime, Timer)> {
        None
    }

    /// Whether a group may run now.
    ///
    /// # Errors
    /// [`Refusal`] says what to do instead.
    pub fn may_write(&self, now: Now) -> Result<WritePermit, Refusal> {
        let _ = now;
        Err(Refusal::Unborn)
    }

    /// Whether what this node has applied is certainly current at `now`: ask
    /// before and after a local linearizable read.
    ///
    /// # Errors
    /// [`Refusal`] says what to do instead.
    pub fn may_read(&self, now: Now) -> Result<WritePermit, Refusal> {
        self.may_write(now)
    }

    /// Everything a person or a metric wants to know.
    pub fn status(&self, now: Now) -> Status {
        let _ = (now, &self.boot);
        unimplemented!("replaced by the consensus core")
    }

    /// Asserts every invariant, in release too.
    pub fn check(&self) {}
}
