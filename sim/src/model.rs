//! Every order of events, at small size: the election, lease and commit rules
//! explored exhaustively with `stateright` over production nodes.
//!
//! Decides what may happen next and what must hold; what happening means for
//! the machines is in `world`. A run of the simulator is one path through chance;
//! this is all paths, for three voters, few terms, few entries and few mishaps.
//!
//! What is abstracted, and why nothing is lost by it:
//!
//! * A message that is dropped is one that is not delivered. Each may be delivered
//!   until the next tick, in any order; of what is then still under way all is
//!   lost but what is late, a number of messages that is bounded. One that is
//!   repeated may be so once more for each repetition. An answer that its
//!   receiver has no use for any more, whatever comes, is forgotten.
//! * Time passes in ticks of one heartbeat, two to a lease; all clocks keep the
//!   same rate (what rates do is `core::lease`'s test and the simulator's chance).
//!   At a tick every process notices what is due, except those that lag: they
//!   notice at the next thing that happens to them. Chance adds nothing to waits.
//! * A disk is done at once, except where it stalls: then what a turn asked for,
//!   and all that is asked for after it, stays under way until each record is
//!   said to be durable. A crash keeps any prefix of what is under way, and takes
//!   `data.db` back to the start.
//! * A process that dies starts anew at once: one that stays away is one that
//!   nothing is delivered to, and whose silence is over later.
//! * Pings are lost, and with them the preference for the lowest id: they decide
//!   nothing in elections and commits. Frames are not encoded; the codec has tests
//!   of its own. Snapshots, membership changes and hand-overs are the simulator's.
//!
//! * A send time counts by its order among others (`canon`).
//!
//! Two worlds are one if their nodes, disks, messages and histories hash alike:
//! 64 bits, so that of a million worlds one is taken for another with a chance of
//! one in forty million. Nothing else is left out: there is no symmetry between
//! the machines, whose names have an order.

mod canon;
mod check;
#[cfg(base_ha_mutants)]
mod mutants;
mod world;

pub use check::{Bounds, Found, Scope, Sometimes, explore};
#[cfg(base_ha_mutants)]
pub use mutants::{Trial, try_all};
pub use world::{Action, Lie, Mishap, Promise, Setup, Start, World};
