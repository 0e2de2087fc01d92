//! O7: read your writes, monotonic reads, and tokens that never decrease, for
//! each client that presents its token. And who is told that its session is of
//! another history saw something that its writer alone had.

use super::{History, Ledger};
use crate::oracle::Verdict;
use crate::shell::history::{ForkCode, Level, Outcome, Step};

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
                Step::Anew => seen = 0,
            }
        }
    }
    Ok(())
}

/// R4: a session ends with 409 only if its token is that of a write which was
/// acknowledged under `X-Base-Ack: local`: everything else that a token can name
/// was committed by a majority. `session_forked` says that the write is lost, so
/// it is in no ledger. `token_ahead` says that no majority has it, and it may
/// still get there: its writer is asked while nobody acknowledges its entry,
/// and commits it a moment later.
///
/// # Errors
/// The first session that was told so and had lost nothing.
pub fn forked_with_cause(history: &History, ledger: &Ledger) -> Verdict {
    for fork in &history.forks {
        let op = fork.from.and_then(|op| history.ops.get(usize::try_from(op).ok()?));
        let local = op.filter(|op| !op.durable && op.outcome == Outcome::Acked { seq: fork.presented });
        let why = match local {
            None => "no majority was ever missing",
            Some(op) if fork.code == ForkCode::Forked && ledger.place(op.id).is_some() => "is not lost",
            Some(_) => continue,
        };
        return Err(format!(
            "client {} was told {:?} at {:?} of position {}, which {why}",
            fork.client, fork.code, fork.at, fork.presented
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::clock::TrueTime;
    use crate::shell::history::Fork;

    /// Write 3 was acknowledged under `ack=local`, and its session told so.
    fn forked(code: ForkCode) -> History {
        let mut history = fixture::written(4);
        history.ops[3].durable = false;
        history.forks.push(Fork { client: 0, code, presented: 13, from: Some(3), at: TrueTime::from_ms(100) });
        history.step(0, Step::Anew);
        fixture::read(&mut history, Level::Session, 110, 1);
        history
    }

    #[test]
    fn a_session_that_saw_a_lost_local_write_may_be_told_so_and_begins_anew() {
        let (lost, kept) = (Ledger::new(vec![0, 1, 2]), Ledger::new(vec![0, 1, 2, 3]));
        for code in [ForkCode::Forked, ForkCode::Ahead] {
            let history = forked(code);
            assert_eq!(forked_with_cause(&history, &lost), Ok(()));
            assert_eq!(never_back(&history, &lost), Ok(()));
        }
        assert_eq!(forked_with_cause(&forked(ForkCode::Ahead), &kept), Ok(()), "it got there later");
    }

    #[test]
    fn a_session_that_is_told_so_without_cause_is_rejected() {
        let (lost, kept) = (Ledger::new(vec![0, 1, 2]), Ledger::new(vec![0, 1, 2, 3]));
        assert!(forked_with_cause(&forked(ForkCode::Forked), &kept).is_err(), "it is there");
        for code in [ForkCode::Forked, ForkCode::Ahead] {
            let mut durable = forked(code);
            durable.ops[3].durable = true;
            assert!(forked_with_cause(&durable, &lost).is_err(), "a majority had it");
            let mut read = forked(code);
            read.forks[0].from = None;
            assert!(forked_with_cause(&read, &lost).is_err(), "who reads sees what a majority has");
            let mut other = forked(code);
            other.forks[0].presented = 14;
            assert!(forked_with_cause(&other, &lost).is_err(), "that write was at 13");
        }
    }

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
