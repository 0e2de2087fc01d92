//! O1 and R2, B5, from `GET /_ha/status`: at most one node says of itself that
//! it may write in a term; no disk's term falls.
//!
//! A status may be old when it is heard. It names its term, so its age does not
//! matter.
//!
//! Nothing that a node promises depends on a status, and a status waits for no
//! disk: a node may show a term that it has heard of and not made durable, and
//! come back from a crash in the one before (seeds 20050 and 30051, with a full
//! and with a slow disk). That is counted, and open: B5 would have what clients
//! are told durable as well. What must hold: the term of a process never falls,
//! and no disk comes back in a term below one in which it wrote, for that rests
//! on its own durable vote.

use crate::oracle::writer::OneWriterPerTerm;
use base_ha_core::ids::{Incarnation, Term};
use serde_json::Value;
use std::collections::BTreeMap;

/// What statuses have said so far.
#[derive(Default)]
pub struct Standings {
    writers: OneWriterPerTerm,
    /// By disk and life of its node, the highest term that was shown.
    shown: BTreeMap<(u128, u64), u64>,
    /// By disk, the highest term in which it said that it may write.
    wrote: BTreeMap<u128, u64>,
    /// Lives of a disk that began below a term that an earlier one had shown.
    fell: u64,
    broken: Option<(&'static str, String)>,
}

impl Standings {
    /// Node `node` answered this in the life of its process with that number.
    pub fn heard(&mut self, node: usize, life: u64, status: &Value) {
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
        let first = !self.shown.contains_key(&(disk, life));
        let before = self.shown.range((disk, 0)..(disk, life)).map(|(_, term)| *term).max().unwrap_or(0);
        if first && term < before {
            self.fell += 1;
        }
        let shown = self.shown.entry((disk, life)).or_default();
        let wrote = self.wrote.entry(disk).or_default();
        let highest = (*shown).max(*wrote);
        if term < highest {
            let detail = format!("node {node} was in term {highest} and is in {term}");
            self.broken.get_or_insert(("R2 no term falls", detail));
        }
        *shown = term.max(*shown);
        if status["writable"] == true {
            *wrote = term.max(*wrote);
        }
    }

    /// How often a node came back below a term that it had shown.
    pub fn fell(&self) -> u64 {
        self.fell
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
        standings.heard(0, 1, &status("0a", 3, true));
        standings.heard(1, 1, &status("0b", 4, true));
        assert_eq!(standings.take_broken(), None);
        standings.heard(2, 1, &status("0c", 4, true));
        assert_eq!(standings.take_broken().expect("two writers").0, "O1 one writer a term");
    }

    #[test]
    fn a_term_that_falls_is_rejected() {
        let mut standings = Standings::default();
        standings.heard(0, 1, &status("0a", 3, false));
        standings.heard(0, 1, &status("0b", 1, false));
        assert_eq!(standings.take_broken(), None, "another disk begins anew");
        standings.heard(0, 1, &status("0a", 2, false));
        assert_eq!(standings.take_broken().expect("a fallen term").0, "R2 no term falls");
    }

    #[test]
    fn a_restart_below_a_term_that_wrote_is_rejected_and_below_one_that_was_shown_is_counted() {
        let mut standings = Standings::default();
        standings.heard(0, 1, &status("0a", 3, true));
        standings.heard(0, 1, &status("0a", 5, false));
        standings.heard(0, 2, &status("0a", 3, false));
        assert_eq!((standings.take_broken(), standings.fell()), (None, 1));
        standings.heard(0, 3, &status("0a", 2, false));
        assert_eq!(standings.take_broken().expect("a fallen term").0, "R2 no term falls");
    }
}
