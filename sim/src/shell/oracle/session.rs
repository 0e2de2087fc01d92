//! O7: read your writes, monotonic reads, and tokens that never decrease, for
//! each client that presents its token.

use super::{History, Ledger};
use crate::oracle::Verdict;
use crate::shell::history::{Level, Outcome, Step};

/// Each client's steps, in order.
///
/// # Errors
/// The first read that shows less than its session had seen.
pub fn never_back(history: &History, ledger: &Ledger) -> Verdict {
    for (client, steps) in history.sessions.iter().enumerate() {
        // What the session has seen: an entry of the ledger.
        let mut seen = 0;
        for step in steps {
            match *step {
                Step::Wrote(at) => {
                    let op = &history.ops[at];
                    // Under ack=local it may be lost, and with it what the
                    // session is to see.
                    if op.durable && matches!(op.outcome, Outcome::Acked { .. }) {
                        seen = seen.max(ledger.place(op.id).unwrap_or(0));
                    }
                }
                Step::Read(at) => {
                    let read = &history.reads[at];
                    if read.seq < read.presented {
                        return Err(format!(
                            "client {client} presented position {} and was given {} at {:?}",
                            read.presented, read.seq, read.ended
                        ));
                    }
                    if read.level == Level::Local {
                        continue;
                    }
                    if read.last < seen {
                        return Err(format!(
                            "client {client} had seen entry {seen} of the ledger; a {} read at {:?} showed {}",
                            read.level.name(),
                            read.started,
                            read.last
                        ));
                    }
                    seen = seen.max(read.last);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_session_that_goes_back_is_rejected() {
        let ledger = Ledger::new(vec![0, 1, 2, 3]);
        let mut history = fixture::written(4);
        fixture::read(&mut history, Level::Session, 100, 3);
        assert!(never_back(&history, &ledger).is_ok());
        fixture::read(&mut history, Level::Local, 110, 1);
        assert!(never_back(&history, &ledger).is_ok(), "a local read may be old");
        fixture::read(&mut history, Level::Session, 120, 2);
        assert!(never_back(&history, &ledger).is_err());
    }

    #[test]
    fn a_session_that_misses_its_own_write_or_loses_its_token_is_rejected() {
        let ledger = Ledger::new(vec![0, 1, 2, 3]);
        let mut history = fixture::written(4);
        fixture::read(&mut history, Level::Session, 100, 2);
        assert!(never_back(&history, &ledger).is_err());
        let mut history = fixture::written(2);
        fixture::read(&mut history, Level::Session, 100, 1);
        history.reads[0].presented = 40;
        assert!(never_back(&history, &ledger).is_err());
    }
}
