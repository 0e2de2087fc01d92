//! Linearizability of the registers that clients write and read (acks
//! `majority`, reads `linearizable`), from what clients saw alone: neither
//! positions nor terms are looked at.
//!
//! Every write writes a value of its own, for which the question has an exact
//! answer in n log n (Gibbons and Korach 1997, section 4.2): a value's *zone*
//! reaches from the first answer to the last question of its write and reads. It
//! is *forward* if the answer comes first; then every order has the value in the
//! register for all of it. A history is linearizable exactly if no read answers
//! before its write is asked for, no two forward zones meet, and no backward zone
//! lies within a forward one.

use super::Verdict;
use crate::clock::TrueTime;
use std::collections::BTreeMap;

/// Something that a client did to one register.
#[derive(Clone, Copy, Debug)]
struct Op {
    asked: TrueTime,
    /// Never, for a write whose outcome is unknown.
    answered: TrueTime,
    read: bool,
}

/// What all clients did.
#[derive(Debug, Default)]
pub struct Registers {
    /// By register and value. The value 0 is there from the start.
    history: BTreeMap<(usize, i64), Vec<Op>>,
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    value: i64,
    first_answer: TrueTime,
    last_question: TrueTime,
}

impl Registers {
    /// A client asked for a write, and nothing is known of it yet.
    pub fn asked(&mut self, register: usize, value: i64, at: TrueTime) {
        let ops = self.history.entry((register, value)).or_default();
        // Asked for again it is the same write.
        if !ops.iter().any(|op| !op.read) {
            ops.push(Op { asked: at, answered: TrueTime(u64::MAX), read: false });
        }
    }

    /// A write is done.
    pub fn done(&mut self, register: usize, value: i64, at: TrueTime) {
        let ops = self.history.entry((register, value)).or_default();
        if let Some(write) = ops.iter_mut().find(|op| !op.read) {
            write.answered = write.answered.min(at);
        }
    }

    /// A read was answered.
    pub fn read(&mut self, register: usize, value: i64, asked: TrueTime, answered: TrueTime) {
        self.history.entry((register, value)).or_default().push(Op { asked, answered, read: true });
    }

    /// Whether an order exists that explains it all.
    ///
    /// # Errors
    /// Names two values, or the read, for which none does.
    pub fn linearizable(&self) -> Verdict {
        let mut zones: BTreeMap<usize, Vec<Zone>> = BTreeMap::new();
        for ((register, value), ops) in &self.history {
            let reads = || ops.iter().filter(|op| op.read);
            let written = match ops.iter().find(|op| !op.read) {
                Some(write) => *write,
                None if *value == 0 => Op { asked: TrueTime(0), answered: TrueTime(0), read: false },
                None => return Err(format!("register {register} is read as {value}, which nobody wrote")),
            };
            if let Some(read) = reads().find(|read| read.answered < written.asked) {
                return Err(format!(
                    "register {register} is read as {value} at {:?}, asked for at {:?}",
                    read.answered, written.asked
                ));
            }
            let zone = Zone {
                value: *value,
                first_answer: reads().map(|op| op.answered).fold(written.answered, TrueTime::min),
                last_question: reads().map(|op| op.asked).fold(written.asked, TrueTime::max),
            };
            zones.entry(*register).or_default().push(zone);
        }
        zones.iter().try_for_each(|(register, zones)| agree(*register, zones))
    }
}

fn agree(register: usize, zones: &[Zone]) -> Verdict {
    let clash = |outer: &Zone, inner: &Zone| {
        Err(format!(
            "register {register}: {} is there from {:?} to {:?}, {} is too at {:?}",
            outer.value, outer.first_answer, outer.last_question, inner.value, inner.first_answer
        ))
    };
    let is_forward = |zone: &Zone| zone.first_answer < zone.last_question;
    let mut forward: Vec<Zone> = zones.iter().copied().filter(is_forward).collect();
    forward.sort_by_key(|zone| zone.first_answer);
    for pair in forward.windows(2) {
        if pair[1].first_answer < pair[0].last_question {
            return clash(&pair[0], &pair[1]);
        }
    }
    for inner in zones.iter().filter(|zone| !is_forward(zone)) {
        // The start's value is there before whatever is asked for first.
        let is_before = |outer: &Zone| {
            outer.first_answer < inner.last_question || outer.value == 0 && outer.first_answer == TrueTime(0)
        };
        let before = forward.partition_point(is_before);
        if let Some(outer) = before.checked_sub(1).map(|n| &forward[n])
            && inner.first_answer < outer.last_question
        {
            return clash(outer, inner);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(t: u64) -> TrueTime {
        TrueTime(t)
    }

    fn written(writes: &[(i64, u64, u64)]) -> Registers {
        let mut oracle = Registers::default();
        for (value, asked, answered) in writes {
            oracle.asked(0, *value, at(*asked));
            oracle.done(0, *value, at(*answered));
        }
        oracle
    }

    #[test]
    fn a_read_of_what_was_overwritten_is_rejected() {
        let mut oracle = written(&[(1, 0, 1), (2, 2, 3)]);
        assert!(oracle.linearizable().is_ok());
        oracle.read(0, 2, at(4), at(5));
        assert!(oracle.linearizable().is_ok());
        oracle.read(0, 1, at(6), at(7));
        assert!(oracle.linearizable().is_err());
    }

    #[test]
    fn a_read_of_the_start_after_a_write_is_rejected() {
        let mut oracle = written(&[(1, 0, 2)]);
        oracle.read(0, 0, at(1), at(3));
        assert!(oracle.linearizable().is_ok(), "both at once");
        oracle.read(0, 0, at(3), at(4));
        assert!(oracle.linearizable().is_err());
    }

    #[test]
    fn new_then_old_is_rejected_even_while_the_write_is_under_way() {
        let mut oracle = Registers::default();
        oracle.asked(0, 1, at(0));
        oracle.read(0, 1, at(1), at(2));
        assert!(oracle.linearizable().is_ok(), "an unknown outcome may be done");
        oracle.read(0, 0, at(3), at(4));
        assert!(oracle.linearizable().is_err());
    }

    #[test]
    fn a_read_from_the_future_or_of_nothing_is_rejected() {
        let mut oracle = written(&[(1, 5, 6)]);
        oracle.read(0, 1, at(3), at(4));
        assert!(oracle.linearizable().is_err());
        let mut oracle = Registers::default();
        oracle.read(0, 7, at(3), at(4));
        assert!(oracle.linearizable().is_err());
    }

    /// Every order of the operations, tried one after the other.
    fn by_trying(ops: &[(i64, u64, u64, bool)]) -> bool {
        fn place(left: &[(i64, u64, u64, bool)], value: i64) -> bool {
            left.is_empty()
                || (0..left.len()).any(|n| {
                    let op = left[n];
                    let first = left.iter().all(|other| other.2 >= op.1);
                    let mut rest = left.to_vec();
                    rest.remove(n);
                    first && if op.3 { op.0 == value && place(&rest, value) } else { place(&rest, op.0) }
                })
        }
        place(ops, 0)
    }

    proptest! {
        /// The zones say what trying every order says.
        #[test]
        fn zones_agree_with_trying_every_order(
            writes in proptest::collection::vec((0u64..12, 0u64..6), 1..4),
            reads in proptest::collection::vec((0i64..4, 0u64..12, 0u64..6), 0..4),
        ) {
            let mut oracle = Registers::default();
            let mut ops = Vec::new();
            for (n, (asked, took)) in writes.iter().enumerate() {
                let value = n as i64 + 1;
                oracle.asked(0, value, at(*asked));
                oracle.done(0, value, at(asked + took));
                ops.push((value, *asked, asked + took, false));
            }
            for (value, asked, took) in reads {
                let value = value.min(writes.len() as i64);
                oracle.read(0, value, at(asked), at(asked + took));
                ops.push((value, asked, asked + took, true));
            }
            prop_assert_eq!(oracle.linearizable().is_ok(), by_trying(&ops), "{:?}", ops);
        }
    }
}
