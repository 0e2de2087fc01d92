//! O3: what was acknowledged by a majority is in every node's data at the end.
//! O8 and DESIGN 2: 4xx and 503 mean certainly not done. O5: a request is done
//! once, however often it was sent.

use super::{History, Ledger};
use crate::oracle::Verdict;
use crate::shell::history::Outcome;
use std::collections::BTreeSet;

/// O3.
///
/// # Errors
/// The first acknowledged write that is missing.
pub fn acknowledged_survives(history: &History, ledger: &Ledger) -> Verdict {
    for op in &history.ops {
        if let Outcome::Acked { seq } = op.outcome
            && op.durable
            && ledger.place(op.id).is_none()
        {
            return Err(format!("op {} of client {} was acknowledged at position {seq} and is gone", op.id, op.client));
        }
    }
    Ok(())
}

/// Certainly not done means not done.
///
/// # Errors
/// The first write that was done all the same.
pub fn refused_is_not_done(history: &History, ledger: &Ledger) -> Verdict {
    for op in &history.ops {
        if let (Outcome::NotDone { code }, Some(place)) = (&op.outcome, ledger.place(op.id)) {
            return Err(format!("op {} was refused ({code}), and is the {place}th of the ledger", op.id));
        }
    }
    Ok(())
}

/// O5.
///
/// # Errors
/// A write that was done twice, or that nobody sent.
pub fn done_once(history: &History, ledger: &Ledger) -> Verdict {
    let mut done = BTreeSet::new();
    for op in &ledger.ops {
        if usize::try_from(*op).map_or(true, |at| at >= history.ops.len()) {
            return Err(format!("op {op} was sent by nobody"));
        }
        if !done.insert(op) {
            return Err(format!("op {op} was done twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_lost_acknowledged_write_is_rejected() {
        let mut history = fixture::written(3);
        assert!(acknowledged_survives(&history, &Ledger::new(vec![0, 1, 2])).is_ok());
        assert!(acknowledged_survives(&history, &Ledger::new(vec![0, 1])).is_err());
        history.ops[2].durable = false;
        assert!(acknowledged_survives(&history, &Ledger::new(vec![0, 1])).is_ok(), "ack=local may be lost");
    }

    #[test]
    fn a_refused_write_that_was_done_is_rejected() {
        let mut history = fixture::written(3);
        history.ops[2].outcome = Outcome::NotDone { code: "no_writer".to_owned() };
        assert!(refused_is_not_done(&history, &Ledger::new(vec![0, 1])).is_ok());
        assert!(refused_is_not_done(&history, &Ledger::new(vec![0, 1, 2])).is_err());
        history.ops[2].outcome = Outcome::Unknown;
        assert!(refused_is_not_done(&history, &Ledger::new(vec![0, 1, 2])).is_ok());
    }

    #[test]
    fn a_write_done_twice_or_by_nobody_is_rejected() {
        let history = fixture::written(3);
        assert!(done_once(&history, &Ledger::new(vec![0, 1, 2])).is_ok());
        assert!(done_once(&history, &Ledger::new(vec![0, 1, 2, 1])).is_err());
        assert!(done_once(&history, &Ledger::new(vec![0, 1, 2, 3])).is_err());
    }
}
