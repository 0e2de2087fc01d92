//! Atomicity, as readers see it: every read, of whatever level, shows the data
//! as it was after some write and before the next.

use super::{History, Ledger};
use crate::oracle::Verdict;
use crate::shell::history::OpId;
use crate::shell::schema::{ACCOUNTS, BALANCE};

/// The register's writer, the ledger's end and the sum fit together.
///
/// # Errors
/// The first read that no moment of the data explains.
pub fn consistent(history: &History, ledger: &Ledger) -> Verdict {
    for read in &history.reads {
        let who = format!("a {} read by client {} at {:?}", read.level.name(), read.client, read.started);
        if read.sum != ACCOUNTS * BALANCE {
            return Err(format!("{who} found {} in all accounts", read.sum));
        }
        if read.rows != read.last {
            return Err(format!("{who} found {} rows in the ledger, the last is {}", read.rows, read.last));
        }
        let Some(before) = usize::try_from(read.last).ok().and_then(|last| ledger.ops.get(..last)) else {
            return Err(format!("{who} saw entry {} of the ledger, which ends at {}", read.last, ledger.ops.len()));
        };
        let sets = |op: &&OpId| {
            usize::try_from(**op)
                .ok()
                .and_then(|at| history.ops.get(at))
                .is_some_and(|op| op.register == Some(read.register))
        };
        let expected = before.iter().rev().find(sets).copied().unwrap_or(0);
        if read.op != expected {
            return Err(format!(
                "{who} saw register {} of op {} after entry {}, where op {expected} had set it",
                read.register, read.op, read.last
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::shell::history::Level;

    fn with(change: impl Fn(&mut crate::shell::history::Seen)) -> Verdict {
        let mut history = fixture::written(4);
        fixture::read(&mut history, Level::Local, 100, 2);
        change(&mut history.reads[0]);
        consistent(&history, &Ledger::new(vec![0, 1, 2, 3]))
    }

    #[test]
    fn reads_that_no_moment_explains_are_rejected() {
        assert!(with(|_| ()).is_ok());
        assert!(with(|read| read.sum -= 1).is_err(), "half a transfer");
        assert!(with(|read| read.rows -= 1).is_err(), "a hole in the ledger");
        assert!(with(|read| read.op = 1).is_err(), "a register older than the ledger");
        assert!(with(|read| (read.last, read.rows) = (9, 9)).is_err(), "a write that was undone later");
    }
}
