//! What a node says is durable, is durable (R2, R11): a vote, an acked entry,
//! the writer's own vote, a commit on a quorum.

use super::Verdict;
use crate::disk::Log;
use base_ha_core::ids::{Incarnation, NodeId, Seq, Term};
use base_ha_core::io::HardState;
use base_ha_core::position::Position;

/// A vote for `candidate` in `term` is being said.
///
/// # Errors
/// If a crash now would forget it.
pub fn vote_is_durable(hard: &HardState, term: Term, candidate: &NodeId) -> Verdict {
    let remembered =
        hard.term > term || hard.term == term && hard.voted_for.as_ref().is_some_and(|(id, _)| id == candidate);
    if remembered {
        return Ok(());
    }
    Err(format!(
        "a vote for {candidate} in term {term} is said, on disk is term {} and {:?}",
        hard.term, hard.voted_for
    ))
}

/// "My log is durable up to here" is being said.
///
/// # Errors
/// If it is not.
pub fn ack_is_durable(log: &Log, matched: Seq) -> Verdict {
    if log.last().seq >= matched {
        return Ok(());
    }
    Err(format!("entry {matched} is acked, on disk is {}", log.last().seq))
}

/// Anything is being said under `term` by this disk.
///
/// # Errors
/// If a crash now would forget the term, or that it belongs to this disk.
pub fn term_is_durable(hard: &HardState, who: Incarnation, term: Term) -> Verdict {
    if hard.incarnation == who && hard.term >= term {
        return Ok(());
    }
    Err(format!("{who:?} speaks under term {term}, on disk are {:?} and term {}", hard.incarnation, hard.term))
}

/// A writer says that `at` is committed by a quorum of `needed` voters.
///
/// # Errors
/// If fewer of their disks ever held it.
pub fn commit_is_on_a_quorum<'a>(at: &Position, needed: usize, voters: impl Iterator<Item = &'a Log>) -> Verdict {
    let holders = voters.filter(|log| log.holds(at)).count();
    if holders >= needed {
        return Ok(());
    }
    Err(format!("entry {} of term {} is committed on {holders} disks, {needed} are needed", at.seq, at.term))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::entry::{Entry, EntryKind};
    use base_ha_core::hlc::Hlc;
    use base_ha_core::ids::StreamId;
    use bytes::Bytes;

    fn log(n: u64) -> Log {
        let mut log = Log::default();
        for _ in 0..n {
            let entry =
                Entry::following(&log.last(), StreamId::SHARED, Term(1), Hlc::default(), EntryKind::Noop, Bytes::new());
            log.entries.push_back(entry);
        }
        log
    }

    #[test]
    fn a_vote_that_a_crash_would_forget_is_rejected() {
        let a = NodeId::new("a").expect("legal");
        let b = NodeId::new("b").expect("legal");
        let hard = HardState { term: Term(2), voted_for: Some((a.clone(), Incarnation(1))), ..HardState::default() };
        assert!(vote_is_durable(&hard, Term(2), &a).is_ok());
        assert!(vote_is_durable(&hard, Term(2), &b).is_err());
        assert!(vote_is_durable(&hard, Term(3), &a).is_err());
        assert!(term_is_durable(&hard, Incarnation(0), Term(2)).is_ok());
        assert!(term_is_durable(&hard, Incarnation(0), Term(3)).is_err());
        assert!(term_is_durable(&hard, Incarnation(9), Term(2)).is_err());
    }

    #[test]
    fn an_ack_beyond_the_disk_is_rejected() {
        assert!(ack_is_durable(&log(3), Seq(3)).is_ok());
        assert!(ack_is_durable(&log(3), Seq(4)).is_err());
    }

    #[test]
    fn a_commit_short_of_a_quorum_is_rejected() {
        let logs = [log(3), log(2), log(3)];
        let third = log(3).last();
        assert!(commit_is_on_a_quorum(&third, 2, logs.iter()).is_ok());
        assert!(commit_is_on_a_quorum(&third, 3, logs.iter()).is_err());
        let other = Position { hash: base_ha_core::ids::Hash([1; 32]), ..third };
        assert!(commit_is_on_a_quorum(&other, 1, logs.iter()).is_err());
    }
}
