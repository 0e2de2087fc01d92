//! O7: in one session a client reads its own writes, never goes back in time,
//! and writes after what it has read; what it reads is what was committed.

use super::Verdict;
use base_ha_core::ids::Seq;
use std::collections::BTreeMap;

/// What each session has seen, and what was committed where.
#[derive(Debug, Default)]
pub struct Sessions {
    /// A session's token: the furthest position that an answer bore.
    tokens: BTreeMap<usize, Seq>,
    /// By register: each committed write's place and value, in order.
    committed: BTreeMap<usize, Vec<(Seq, i64)>>,
}

impl Sessions {
    /// What a client presents with its next request.
    pub fn token(&self, client: usize) -> Seq {
        self.tokens.get(&client).copied().unwrap_or_default()
    }

    /// Somebody applies a write of a register, in the order of the log or again.
    pub fn applied(&mut self, register: usize, at: Seq, value: i64) {
        let writes = self.committed.entry(register).or_default();
        if writes.last().is_none_or(|(last, _)| *last < at) {
            writes.push((at, value));
        }
    }

    /// A client's write is done as the entry at `at`; `again` if it was done
    /// long before and only now answered.
    ///
    /// # Errors
    /// If it does not follow what its session has seen.
    pub fn wrote(&mut self, client: usize, at: Seq, again: bool) -> Verdict {
        let token = self.tokens.entry(client).or_default();
        if at <= *token && !again {
            return Err(format!("client {client} has seen {token}, its write is done as {at}"));
        }
        *token = at.max(*token);
        Ok(())
    }

    /// A client's read is answered, from data that contains everything up to
    /// `at`.
    ///
    /// # Errors
    /// If its session has seen more, or the answer is not what is committed.
    pub fn read(&mut self, client: usize, at: Seq, register: usize, value: i64) -> Verdict {
        let token = self.tokens.entry(client).or_default();
        if at < *token {
            return Err(format!("client {client} has seen {token} and is answered from {at}"));
        }
        *token = at;
        let writes = self.committed.get(&register).map_or(&[][..], Vec::as_slice);
        let before = writes.partition_point(|(place, _)| *place <= at);
        let there = before.checked_sub(1).map_or(0, |n| writes[n].1);
        if value == there {
            return Ok(());
        }
        Err(format!("register {register} is read as {value} at {at}, committed there is {there}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_back_in_time_is_rejected() {
        let mut oracle = Sessions::default();
        oracle.applied(0, Seq(3), 7);
        assert!(oracle.read(1, Seq(5), 0, 7).is_ok());
        assert_eq!(oracle.token(1), Seq(5));
        assert!(oracle.read(2, Seq(2), 0, 0).is_ok(), "another session");
        assert!(oracle.read(1, Seq(4), 0, 7).is_err());
    }

    #[test]
    fn not_to_read_ones_own_write_is_rejected() {
        let mut oracle = Sessions::default();
        assert!(oracle.wrote(1, Seq(6), false).is_ok());
        assert!(oracle.read(1, Seq(5), 0, 0).is_err());
        assert!(oracle.read(1, Seq(6), 0, 0).is_ok());
    }

    #[test]
    fn a_write_before_what_was_read_is_rejected() {
        let mut oracle = Sessions::default();
        assert!(oracle.read(1, Seq(6), 0, 0).is_ok());
        assert!(oracle.wrote(1, Seq(5), false).is_err());
        assert!(oracle.wrote(1, Seq(5), true).is_ok(), "a repeated answer");
        assert_eq!(oracle.token(1), Seq(6));
    }

    #[test]
    fn an_answer_that_was_never_committed_is_rejected() {
        let mut oracle = Sessions::default();
        oracle.applied(0, Seq(3), 7);
        oracle.applied(0, Seq(5), 8);
        oracle.applied(0, Seq(3), 7);
        assert!(oracle.read(1, Seq(4), 0, 7).is_ok());
        assert!(oracle.read(1, Seq(5), 0, 7).is_err());
        assert!(oracle.read(1, Seq(5), 1, 7).is_err(), "another register");
    }
}
