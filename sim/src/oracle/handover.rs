//! R6: a hand-over names a successor that has everything, and whoever handed
//! over writes no more in that term.

use super::Verdict;
use crate::disk::Log;
use base_ha_core::ids::Term;
use base_ha_core::io::WritePermit;
use base_ha_core::position::Position;
use std::collections::BTreeMap;

/// Who has handed over, in which term.
#[derive(Debug, Default)]
pub struct HandOver {
    done: BTreeMap<usize, Term>,
}

impl HandOver {
    /// A host tells another to stand, where its own log ends at `last`, `open`
    /// if a group of its clients is still without an answer, and `heir` is what
    /// the other's disk holds.
    ///
    /// # Errors
    /// If the other lacks something.
    pub fn called(&mut self, host: usize, term: Term, last: &Position, open: bool, heir: &Log) -> Verdict {
        self.done.insert(host, term);
        if open {
            return Err(format!("host {host} hands over in term {term} with a group under way"));
        }
        if heir.holds(last) {
            return Ok(());
        }
        Err(format!(
            "host {host} hands over in term {term} at {}, its successor's log ends at {}",
            last.seq,
            heir.last().seq
        ))
    }

    /// A host would let a group run.
    ///
    /// # Errors
    /// If it has handed over in that term.
    pub fn holds(&self, host: usize, permit: &WritePermit) -> Verdict {
        match self.done.get(&host) {
            Some(term) if *term == permit.term => {
                Err(format!("host {host} may write in term {term}, which it has handed over"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The process ended, and what it had begun with it.
    pub fn ended(&mut self, host: usize) {
        self.done.remove(&host);
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::log;
    use super::*;
    use base_ha_core::time::MonoTime;

    #[test]
    fn a_successor_that_lacks_something_is_rejected() {
        let mut oracle = HandOver::default();
        let last = log(&[1, 1, 2]).last();
        assert!(oracle.called(0, Term(2), &last, false, &log(&[1, 1, 2])).is_ok());
        assert!(oracle.called(0, Term(2), &last, false, &log(&[1, 1])).is_err());
        assert!(oracle.called(0, Term(2), &last, true, &log(&[1, 1, 2])).is_err(), "clients still wait");
    }

    #[test]
    fn to_write_after_handing_over_is_rejected() {
        let mut oracle = HandOver::default();
        let permit = |term| WritePermit { term: Term(term), until: MonoTime(9) };
        assert!(oracle.holds(0, &permit(2)).is_ok());
        let _ = oracle.called(0, Term(2), &Position::START, false, &log(&[]));
        assert!(oracle.holds(0, &permit(2)).is_err());
        assert!(oracle.holds(0, &permit(3)).is_ok());
        oracle.ended(0);
        assert!(oracle.holds(0, &permit(2)).is_ok());
    }
}
