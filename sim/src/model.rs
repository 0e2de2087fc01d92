//! Every order of events, at small size: the election, lease and commit rules
//! explored exhaustively with `stateright` over production nodes.
//!
//! Decides what may happen next and what must hold; what happening means for
//! the machines is in `world`. A run of the simulator is one path through chance;
//! this is all paths, for three voters, few terms, few entries and few mishaps.
//!
//! What is abstracted: pings are lost (they decide nothing in elections and
//! commits but whom to prefer), a message that is never delivered is one that
//! was dropped, and time passes only in leaps. A leap is longer than every
//! promise, so leases expire at any moment, of one machine at a time: what is
//! checked here holds whatever clocks do. Frames are not encoded; the codec has
//! tests of its own.

mod check;
mod world;

pub use check::{Bounds, Found, Scope, explore};
pub use world::{Action, Lie, World};
