//! What clients did and were told.
//!
//! Decides nothing: a record, in the words of the promise, that the oracles
//! read when the run has ended.

use crate::clock::TrueTime;

/// A write's number; its rows carry it. 0 is the set-up.
pub type OpId = i64;

/// One statement with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Sql {
    /// Its text.
    pub text: String,
    /// What is bound, in order.
    pub params: Vec<Param>,
}

/// A value that is bound.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// An integer.
    Int(i64),
    /// A text.
    Text(String),
}

/// A write.
#[derive(Clone, Debug)]
pub struct Op {
    /// Its number.
    pub id: OpId,
    /// Who sent it.
    pub client: usize,
    /// Its statements: one transaction.
    pub statements: Vec<Sql>,
    /// Which register it sets, if one.
    pub register: Option<i64>,
    /// The level asked for is not `local`: an answer means a majority has it.
    pub durable: bool,
    /// When it was sent first.
    pub started: TrueTime,
    /// When the client knew, or gave up.
    pub ended: TrueTime,
    /// What it was told in the end.
    pub outcome: Outcome,
}

/// What a client knows of its write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Open,
    /// Done, at this position in the log.
    Acked {
        /// The entry's number, as the token says.
        seq: u64,
    },
    /// Certainly not done, by every answer that came.
    NotDone {
        /// The last answer's code.
        code: String,
    },
    /// Not known.
    Unknown,
}

/// How new a read was asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Whatever the node has.
    Local,
    /// What its session has seen.
    Session,
    /// What was acknowledged before.
    Linearizable,
}

impl Level {
    /// As in `?level=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Session => "session",
            Self::Linearizable => "linearizable",
        }
    }
}

/// A read that was answered.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Who asked.
    pub client: usize,
    /// Which level.
    pub level: Level,
    /// The position of the token that was presented; 0 for none.
    pub presented: u64,
    /// When it was asked.
    pub started: TrueTime,
    /// When the answer was there.
    pub ended: TrueTime,
    /// The position of the token that came with the answer.
    pub seq: u64,
    /// Which register.
    pub register: i64,
    /// The write that set it, as its row says.
    pub op: OpId,
    /// The highest number in the ledger.
    pub last: i64,
    /// How many rows the ledger has.
    pub rows: i64,
    /// The sum of all accounts.
    pub sum: i64,
}

/// A read that was told that its session is of another history.
#[derive(Clone, Debug)]
pub struct Fork {
    /// Who asked.
    pub client: usize,
    /// What it was told.
    pub code: ForkCode,
    /// The position of the token that was presented; 0 for none.
    pub presented: u64,
    /// The write whose acknowledgement brought that token; none if a read that
    /// saw later rows did.
    pub from: Option<OpId>,
    /// When it was told.
    pub at: TrueTime,
}

/// The two kinds of 409 that a token of this cluster can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkCode {
    /// `session_forked`: what it saw was lost.
    Forked,
    /// `token_ahead`: no majority has what it saw.
    Ahead,
}

/// Everything that one client's session went through, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The write of that index was acknowledged.
    Wrote(usize),
    /// The read of that index was answered.
    Read(usize),
    /// The session ended, and a new one began.
    Anew,
}

/// The record of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Writes; an op's id is its index.
    pub ops: Vec<Op>,
    /// Reads that were answered.
    pub reads: Vec<Seen>,
    /// Reads that were told that their session is of another history.
    pub forks: Vec<Fork>,
    /// What each client went through, by client.
    pub sessions: Vec<Vec<Step>>,
}

impl History {
    /// Notes a client's next step.
    pub fn step(&mut self, client: usize, step: Step) {
        if self.sessions.len() <= client {
            self.sessions.resize(client + 1, Vec::new());
        }
        self.sessions[client].push(step);
    }
}
