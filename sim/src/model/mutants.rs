//! Rules broken on purpose, in the search: which promise notices, and after how
//! many states.
//!
//! Decides which of them a search of elections, leases and commits must notice.

use super::check::{Found, Scope, explore};
use super::world::Setup;
use base_ha_core::mutant::Mutant;
use std::fmt;
use std::time::Duration;

/// What became of one mutant.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Which.
    pub mutant: Mutant,
    /// What caught it, if anything did.
    pub caught: Option<Found>,
    /// How many states were seen until then.
    pub states: usize,
}

/// Those that must be noticed.
const MUTANTS: &[Mutant] = &[
    Mutant::QuorumMinusOne,
    Mutant::AckBeforeFsync,
    Mutant::WriterCountsUnsynced,
    Mutant::VoteBeforeFsync,
    Mutant::OwnVoteBeforeFsync,
    Mutant::VoteInRamOnly,
    Mutant::TermInRamOnly,
    Mutant::VoteWithoutLogCheck,
    Mutant::PromiseForgotten,
    Mutant::NoSilence,
    Mutant::LeaseTooLong,
    Mutant::LeaseFromReceipt,
    Mutant::LeaseFromAnyAnswer,
];

/// Searches every scope with one rule broken after the other.
pub fn try_all(threads: usize, limit: Duration) -> Vec<Trial> {
    MUTANTS.iter().map(|mutant| try_one(*mutant, threads, limit)).collect()
}

fn try_one(mutant: Mutant, threads: usize, limit: Duration) -> Trial {
    let setup = Setup { mutant: Some(mutant), ..Setup::default() };
    let mut states = 0;
    for scope in Scope::all() {
        let found = explore(scope.with(setup), threads, limit);
        states += found.states;
        if found.broken.is_some() {
            return Trial { mutant, caught: Some(found), states };
        }
    }
    Trial { mutant, caught: None, states }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mutant, what, states) = (self.mutant, self.mutant.what(), self.states);
        match self.caught.as_ref().and_then(|found| Some((found.name, found.broken.as_ref()?))) {
            Some((scope, (promise, _, actions))) => {
                let (promise, actions) = (promise.what(), actions.len());
                write!(f, "| `{mutant:?}` | {what} | {promise} | {scope} | {actions} | {states} |")
            }
            None => write!(f, "| `{mutant:?}` | {what} | NOT CAUGHT | | | {states} |"),
        }
    }
}
