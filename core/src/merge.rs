//! Merging: what rows are when several nodes wrote them without asking each
//! other (DESIGN 3).
//!
//! Decides as functions of a *set* of versions. Whatever order they come in,
//! however often, and whoever passes them on, the same set gives the same rows:
//! that is all that convergence is. Knows nothing of SQLite, of who may write
//! and of how entries travel.
//!
//! | file | its noun |
//! |---|---|
//! | `register` | the versions of one row that nobody replaced yet, and which of them is seen |
//! | `visible` | which rows are seen where only some of them can be: UNIQUE and foreign keys |
//! | `window` | which stamps must still be remembered |
//!
//! Only the mode without a quorum and that of many writers merge; `majority`
//! never does: there the log alone says what a row is.

mod register;
mod visible;
mod window;

pub use register::{Contradiction, Dot, Register, Rule, Seen, Version};
pub use visible::{Claim, Claims, visible};
pub use window::Window;

use crate::hlc::Hlc;
use crate::ids::NodeId;
use core::fmt;

/// When a version was made, and by whom: a total order, in which what was made
/// with knowledge of something comes after it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The writer's hybrid clock; alone, it may be equal on two nodes.
    pub hlc: Hlc,
    /// The writer: breaks the tie.
    pub node: NodeId,
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.hlc, self.node)
    }
}
