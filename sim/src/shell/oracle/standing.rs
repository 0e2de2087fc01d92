//! O1 and R2, B5, from `GET /_ha/status`: at most one node says of itself that
//! it may write in a term; no disk's term falls.
//!
//! A status may be old when it is heard. It names its term, so its age does not
//! matter.
//!
//! A status shows a term that is on the node's disk, not one that it has only
//! heard of: with a slow or a full disk it would come back from a crash in the
//! one before (seeds 20050 and 30051 of their day).

use crate::oracle::writer::OneWriterPerTerm;
use base_ha_core::ids::{Incarnation, Term};
use serde_json::Value;
use std::collections::BTreeMap;

/// What statuses have said so far.
#[derive(Default)]
pub struct Standings {
    writers: OneWriterPerTerm,
    /// By disk, the highest term that was shown.
    shown: BTreeMap<u128, u64>,
    broken: Option<(&'static str, String)>,
}

impl Standings {
    /// Node `node` answered this.
    pub fn heard(&mut self, node: usize, status: &Value) {
        // Before its first view it knows nothing yet.
        let Some(disk) = status["incarnation"].as_str().and_then(|text| u128::from_str_radix(text, 16).ok()) else {
            return;
        };
        let term = status["term"].as_u64().unwrap_or(0);
        if status["writable"] == true
            && let Err(detail) = self.writers.acted(Term(term), Incarnation(disk))
        {
            self.broken.get_or_insert(("O1 one writer a term", detail));
        }
        let shown = self.shown.entry(disk).or_default();
        if term < *shown {
            let detail = format!("node {node} was in term {shown} and is in {term}");
            self.broken.get_or_insert(("R2 no term falls", detail));
        }
        *shown = term.max(*shown);
    }

    /// How many terms had a writer.
    pub fn terms(&self) -> usize {
        self.writers.terms()
    }

    /// What contradicted what was said before, told once.
    pub fn take_broken(&mut self) -> Option<(&'static str, String)> {
        self.broken.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(disk: &str, term: u64, writable: bool) -> Value {
        json!({ "incarnation": disk, "term": term, "writable": writable })
    }

    #[test]
    fn a_second_writer_of_a_term_is_rejected_however_late_it_is_heard() {
        let mut standings = Standings::default();
        standings.heard(0, &status("0a", 3, true));
        standings.heard(1, &status("0b", 4, true));
        assert_eq!(standings.take_broken(), None);
        standings.heard(2, &status("0c", 4, true));
        assert_eq!(standings.take_broken().expect("two writers").0, "O1 one writer a term");
    }

    #[test]
    fn a_term_that_falls_is_rejected() {
        let mut standings = Standings::default();
        standings.heard(0, &status("0a", 3, false));
        standings.heard(0, &status("0b", 1, false));
        assert_eq!(standings.take_broken(), None, "another disk begins anew");
        standings.heard(0, &status("0a", 2, false));
        assert_eq!(standings.take_broken().expect("a fallen term").0, "R2 no term falls");
    }
}
