//! Linearizable writes (RELIABILITY 1): a write that was answered before
//! another was sent comes before it. And the tokens' positions name the order
//! in which writes were committed.

use super::{History, Ledger};
use crate::oracle::Verdict;
use crate::shell::history::Outcome;
use std::collections::BTreeMap;

/// In true time as in the ledger.
///
/// # Errors
/// Two writes that are the wrong way round.
pub fn real_time(history: &History, ledger: &Ledger) -> Verdict {
    let placed = history.ops.iter().filter_map(|op| Some((op, ledger.place(op.id)?)));
    let mut answered: Vec<_> = placed.clone().filter(|(op, _)| matches!(op.outcome, Outcome::Acked { .. })).collect();
    answered.sort_by_key(|(op, _)| op.ended);
    let mut sent: Vec<_> = placed.collect();
    sent.sort_by_key(|(op, _)| op.started);
    // Of all that were answered before this one was sent, the last place.
    let (mut next, mut latest) = (0, None);
    for (op, place) in sent {
        while let Some((other, other_place)) = answered.get(next).filter(|(other, _)| other.ended < op.started) {
            if latest.is_none_or(|(_, highest)| *other_place > highest) {
                latest = Some((other.id, *other_place));
            }
            next += 1;
        }
        if let Some((other, highest)) = latest
            && highest > place
        {
            return Err(format!(
                "op {other} was answered before op {} was sent, and comes after it: {highest} and {place}",
                op.id
            ));
        }
    }
    Ok(())
}

/// By position as in the ledger, for writes and for the moments that reads saw.
///
/// # Errors
/// Two positions that are the wrong way round, or one that means two moments.
pub fn positions(history: &History, ledger: &Ledger) -> Verdict {
    // A write under ack=local may have lost its position to another.
    let writes = history.ops.iter().filter(|op| op.durable).filter_map(|op| match op.outcome {
        Outcome::Acked { seq } => Some((seq, ledger.place(op.id)?, format!("op {}", op.id))),
        _ => None,
    });
    // What a local read shows may be older than its session's token.
    let reads = history.reads.iter().filter(|read| read.seq > read.presented);
    let reads =
        reads.map(|read| (read.seq, read.last, format!("a read by client {} at {:?}", read.client, read.started)));
    let mut seen: BTreeMap<u64, (i64, String)> = BTreeMap::new();
    for (seq, place, who) in writes.chain(reads) {
        if let Some((other, whose)) = seen.insert(seq, (place, who.clone()))
            && other != place
        {
            return Err(format!("position {seq} is entry {other} of the ledger to {whose}, {place} to {who}"));
        }
    }
    let mut before: Option<(u64, i64, String)> = None;
    for (seq, (place, who)) in seen {
        if let Some((earlier, highest, whose)) = &before
            && *highest > place
        {
            return Err(format!(
                "position {earlier} of {whose} is entry {highest}, and {seq} of {who} is entry {place}"
            ));
        }
        before = Some((seq, place, who));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::clock::TrueTime;
    use crate::shell::history::Level;

    #[test]
    fn a_write_that_comes_after_a_later_one_is_rejected() {
        let mut history = fixture::written(4);
        assert!(real_time(&history, &Ledger::new(vec![0, 1, 2, 3])).is_ok());
        assert!(real_time(&history, &Ledger::new(vec![0, 2, 1, 3])).is_err());
        history.ops[1].ended = TrueTime::from_ms(30);
        assert!(real_time(&history, &Ledger::new(vec![0, 2, 1, 3])).is_ok(), "they were under way together");
    }

    #[test]
    fn positions_that_contradict_the_ledger_are_rejected() {
        let mut history = fixture::written(4);
        fixture::read(&mut history, Level::Session, 100, 2);
        assert!(positions(&history, &Ledger::new(vec![0, 1, 2, 3])).is_ok());
        assert!(positions(&history, &Ledger::new(vec![0, 1, 3, 2])).is_err());
        history.reads[0].last = 2;
        assert!(positions(&history, &Ledger::new(vec![0, 1, 2, 3])).is_err(), "one position, two moments");
    }
}
