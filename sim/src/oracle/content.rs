//! O6: the same position has the same content on every node.

use super::Verdict;
use base_ha_core::ids::{ContentHash, Seq};

/// The content at each position.
#[derive(Debug, Default)]
pub struct ContentEquality {
    contents: Vec<Option<ContentHash>>,
}

impl ContentEquality {
    /// A node's data reached `at`.
    ///
    /// # Errors
    /// If another node had other content there.
    pub fn reached(&mut self, at: Seq, content: ContentHash) -> Verdict {
        let index = at.0 as usize;
        if self.contents.len() <= index {
            self.contents.resize(index + 1, None);
        }
        let first = *self.contents[index].get_or_insert(content);
        if first == content {
            return Ok(());
        }
        Err(format!("the content at {at} is {first:?} on one node and {content:?} on another"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_content_at_the_same_position_is_rejected() {
        let mut oracle = ContentEquality::default();
        assert!(oracle.reached(Seq(3), ContentHash(1)).is_ok());
        assert!(oracle.reached(Seq(3), ContentHash(1)).is_ok());
        assert!(oracle.reached(Seq(2), ContentHash(2)).is_ok());
        assert!(oracle.reached(Seq(3), ContentHash(2)).is_err());
    }
}
