//! Who is preferred as writer: the lowest id, as an order of candidacy only.
//!
//! Decides how long each candidate waits. Preference is never authority (R6):
//! votes decide. Knows nothing of who has which entries.

use crate::ids::NodeId;
use core::time::Duration;

/// The wait between two ranks.
pub const STEP: Duration = Duration::from_millis(50);

/// A voter as its rank sees it.
#[derive(Clone, Copy, Debug)]
pub struct Contender<'a> {
    /// Its name.
    pub id: &'a NodeId,
    /// It may hold the pin: stores data, is fit, and is not known to be gone.
    pub eligible: bool,
}

/// How many others go first: among the eligible the lower ids; before one that
/// is not eligible, everybody else that is.
pub fn rank<'a>(me: Contender<'_>, others: impl Iterator<Item = Contender<'a>>) -> u32 {
    let mut rank = 0;
    for other in others {
        let first = match (other.eligible, me.eligible) {
            (true, true) | (false, false) => other.id < me.id,
            (true, false) => true,
            (false, true) => false,
        };
        rank += u32::from(first);
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        NodeId::new(text).expect("legal")
    }

    #[test]
    fn lower_ids_go_first_and_the_ineligible_last() {
        let (a, b, c) = (id("a"), id("b"), id("c"));
        let of = |id, eligible| Contender { id, eligible };
        assert_eq!(rank(of(&a, true), [of(&b, true), of(&c, true)].into_iter()), 0);
        assert_eq!(rank(of(&c, true), [of(&a, true), of(&b, true)].into_iter()), 2);
        assert_eq!(rank(of(&c, true), [of(&a, false), of(&b, true)].into_iter()), 1);
        assert_eq!(rank(of(&a, false), [of(&b, true), of(&c, true)].into_iter()), 2);
    }
}
