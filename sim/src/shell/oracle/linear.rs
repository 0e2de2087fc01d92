//! R4: a linearizable read contains every write that was acknowledged before it
//! was asked, and everything that a linearizable read had shown by then.
//!
//! With the order of writes known, and each read one moment of it, that and
//! [`super::order::real_time`] is all of linearizability.

use super::{History, Ledger};
use crate::clock::TrueTime;
use crate::oracle::Verdict;
use crate::shell::history::{Level, Outcome};

/// Every linearizable read.
///
/// # Errors
/// The first that shows too little, or what was not yet sent.
pub fn current(history: &History, ledger: &Ledger) -> Verdict {
    // What is known, and since when: an entry of the ledger.
    let writes = history.ops.iter().filter(|op| op.durable && matches!(op.outcome, Outcome::Acked { .. }));
    let mut known: Vec<(TrueTime, i64, String)> = writes
        .filter_map(|op| Some((op.ended, ledger.place(op.id)?, format!("op {} was acknowledged", op.id))))
        .collect();
    let reads: Vec<_> = history.reads.iter().filter(|read| read.level == Level::Linearizable).collect();
    known.extend(reads.iter().map(|read| (read.ended, read.last, format!("client {} had read it", read.client))));
    known.sort();
    let mut asked = reads;
    asked.sort_by_key(|read| read.started);
    let (mut next, mut latest) = (0, 0);
    let mut why = String::new();
    for read in asked {
        while let Some((_, place, how)) = known.get(next).filter(|(since, ..)| *since < read.started) {
            if *place > latest {
                (latest, why) = (*place, how.clone());
            }
            next += 1;
        }
        if read.last < latest {
            return Err(format!(
                "a linearizable read by client {} at {:?} shows entry {}, and {latest} was known before: {why}",
                read.client, read.started, read.last
            ));
        }
        let shown = usize::try_from(read.last - 1).ok().and_then(|at| ledger.ops.get(at));
        if let Some(op) = shown.and_then(|op| usize::try_from(*op).ok()).and_then(|at| history.ops.get(at))
            && op.started > read.ended
        {
            return Err(format!("a read at {:?} shows op {}, sent at {:?}", read.ended, op.id, op.started));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_stale_linearizable_read_is_rejected() {
        let ledger = Ledger::new(vec![0, 1, 2, 3]);
        let mut history = fixture::written(4);
        fixture::read(&mut history, Level::Linearizable, 26, 2);
        assert!(current(&history, &ledger).is_ok());
        fixture::read(&mut history, Level::Linearizable, 32, 2);
        assert!(current(&history, &ledger).is_ok(), "write 3 is under way");
        fixture::read(&mut history, Level::Linearizable, 36, 2);
        assert!(current(&history, &ledger).is_err(), "write 3 was acknowledged at 35");
    }

    #[test]
    fn a_read_that_goes_behind_another_is_rejected_even_of_an_unanswered_write() {
        let ledger = Ledger::new(vec![0, 1, 2, 3]);
        let mut history = fixture::written(4);
        history.ops[3].outcome = Outcome::Unknown;
        fixture::read(&mut history, Level::Linearizable, 40, 3);
        fixture::read(&mut history, Level::Linearizable, 50, 2);
        assert!(current(&history, &ledger).is_err());
    }

    #[test]
    fn a_read_of_the_future_is_rejected() {
        let ledger = Ledger::new(vec![0, 1, 2, 3]);
        let mut history = fixture::written(4);
        fixture::read(&mut history, Level::Linearizable, 1, 3);
        assert!(current(&history, &ledger).is_err());
    }
}
