//! O1: at most one writer per term (R2), whatever clocks do.

use super::Verdict;
use base_ha_core::ids::{Incarnation, Term};
use std::collections::BTreeMap;

/// Who wrote in which term.
#[derive(Debug, Default)]
pub struct OneWriterPerTerm {
    writers: BTreeMap<Term, Incarnation>,
}

impl OneWriterPerTerm {
    /// Somebody acts as writer of `term`: ships entries, or became writer.
    ///
    /// # Errors
    /// If another one did.
    pub fn acted(&mut self, term: Term, who: Incarnation) -> Verdict {
        let first = *self.writers.entry(term).or_insert(who);
        if first == who {
            return Ok(());
        }
        Err(format!("{first:?} and {who:?} both write in term {term}"))
    }

    /// How many terms had a writer.
    pub fn terms(&self) -> usize {
        self.writers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_of_a_term_is_rejected() {
        let mut oracle = OneWriterPerTerm::default();
        assert!(oracle.acted(Term(1), Incarnation(1)).is_ok());
        assert!(oracle.acted(Term(2), Incarnation(2)).is_ok());
        assert!(oracle.acted(Term(1), Incarnation(1)).is_ok());
        assert!(oracle.acted(Term(2), Incarnation(1)).is_err());
    }
}
