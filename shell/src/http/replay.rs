//! Requests that were passed on already.
//!
//! Decides whether a request that a member signed has come before: whoever
//! reads along can send it again. No clock is asked. A signed request holds in
//! one term, and so at one writer, in one process: each member numbers what it
//! passes on, and the writer remembers which numbers came in its term.

use base_ha_core::ids::Term;
use std::collections::BTreeMap;

/// What one process of a member has passed on, as it numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Drawn when the process started.
    pub(crate) process: u64,
    /// Counted from 1.
    pub(crate) number: u64,
}

/// Numbers this far below the highest one are taken for seen: more than a
/// member can have under way.
const WINDOW: u64 = 16_384;
const WORDS: usize = (WINDOW / 64) as usize;
/// Processes of members that may pass something on in one term; each costs 2
/// KiB. Only members can add one, by a restart.
const PROCESSES_MAX: usize = 1_024;

/// Whether a passed-on request is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It has not come before.
    First,
    /// It has, or so many have that it is taken for one that has.
    Seen,
    /// Its term is over: the writer is to be looked for anew.
    Over,
}

/// What came in this term.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    term: Term,
    seen: BTreeMap<u64, Seen>,
}

/// One process's numbers.
#[derive(Debug)]
struct Seen {
    highest: u64,
    /// One bit a number, in a circle.
    bits: Box<[u64; WORDS]>,
}

impl Replay {
    /// Whether this is the first time in its term.
    pub(crate) fn admit(&mut self, term: Term, stamp: Stamp) -> Admitted {
        if term < self.term {
            return Admitted::Over;
        }
        if term > self.term {
            self.term = term;
            self.seen.clear();
        }
        let full = self.seen.len() >= PROCESSES_MAX && !self.seen.contains_key(&stamp.process);
        match !full && self.seen.entry(stamp.process).or_default().admit(stamp.number) {
            true => Admitted::First,
            false => Admitted::Seen,
        }
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self { highest: 0, bits: Box::new([0; WORDS]) }
    }
}

impl Seen {
    fn admit(&mut self, number: u64) -> bool {
        if number == 0 || number.saturating_add(WINDOW) <= self.highest {
            return false;
        }
        // What the window moves over is forgotten: its places are free.
        if number.saturating_sub(self.highest) >= WINDOW {
            self.bits.fill(0);
            self.highest = number;
        }
        while self.highest < number {
            self.highest += 1;
            let (word, bit) = self.word(self.highest);
            *word &= !bit;
        }
        let (word, bit) = self.word(number);
        let first = *word & bit == 0;
        *word |= bit;
        first
    }

    fn word(&mut self, number: u64) -> (&mut u64, u64) {
        let place = (number % WINDOW) as usize;
        (&mut self.bits[place / 64], 1 << (place % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(process: u64, number: u64) -> Stamp {
        Stamp { process, number }
    }

    fn first(replay: &mut Replay, term: Term, stamp: Stamp) -> bool {
        replay.admit(term, stamp) == Admitted::First
    }

    #[test]
    fn each_number_comes_once_in_any_order() {
        let mut replay = Replay::default();
        for number in [3, 1, 2, 900, 40, 899, 16_000] {
            assert!(first(&mut replay, Term(1), stamp(7, number)), "{number}");
        }
        for number in [3, 1, 2, 900, 40, 899, 16_000, 0] {
            assert!(!first(&mut replay, Term(1), stamp(7, number)), "{number} again");
        }
        assert!(first(&mut replay, Term(1), stamp(8, 3)), "another process's");
    }

    #[test]
    fn what_left_the_window_is_taken_for_seen() {
        let mut replay = Replay::default();
        for number in 1..100_000 {
            assert!(first(&mut replay, Term(1), stamp(7, number)));
        }
        for number in [1, 50_000, 83_000, 99_000, 99_999] {
            assert!(!first(&mut replay, Term(1), stamp(7, number)), "{number} again");
        }
        // A jump leaves nothing of the old circle behind.
        assert!(first(&mut replay, Term(1), stamp(7, 1 << 40)));
        assert!(first(&mut replay, Term(1), stamp(7, (1 << 40) - 5)));
        assert!(!first(&mut replay, Term(1), stamp(7, 99_999)));
        assert!(first(&mut replay, Term(1), stamp(7, u64::MAX)));
        assert!(!first(&mut replay, Term(1), stamp(7, u64::MAX)));
    }

    #[test]
    fn a_term_begins_anew_and_the_last_one_is_over() {
        let mut replay = Replay::default();
        assert!(first(&mut replay, Term(4), stamp(7, 5)));
        assert!(first(&mut replay, Term(5), stamp(7, 5)));
        assert_eq!(replay.admit(Term(4), stamp(7, 6)), Admitted::Over);
        assert!(!first(&mut replay, Term(5), stamp(7, 5)));
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut replay = Replay::default();
        let admitted = (0..5_000).filter(|process| first(&mut replay, Term(1), stamp(*process, 1))).count();
        assert_eq!(admitted, PROCESSES_MAX);
        assert!(first(&mut replay, Term(1), stamp(3, 2)), "those that are known go on");
    }
}
