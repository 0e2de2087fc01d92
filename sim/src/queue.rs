//! What happens next: the queue of a discrete-event simulation.
//!
//! Decides the order: by moment, and within one moment in the order in which
//! things were put in. Knows nothing of what they are.

use crate::clock::TrueTime;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// What is going to happen, each at its moment. Events are moved about inside:
/// an `E` ought to be small.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Scheduled<E>>,
    /// How many were ever put in.
    next: u64,
}

#[derive(Debug)]
struct Scheduled<E> {
    at: TrueTime,
    number: u64,
    event: E,
}

impl<E> Scheduled<E> {
    fn key(&self) -> (TrueTime, u64) {
        (self.at, self.number)
    }
}

// The heap gives its greatest first: the earliest is the greatest here.
impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), next: 0 }
    }
}

impl<E> Queue<E> {
    /// Puts an event in.
    pub fn put(&mut self, at: TrueTime, event: E) {
        let number = self.next;
        self.next += 1;
        self.heap.push(Scheduled { at, number, event });
    }

    /// Takes the next event out, if it happens at `until` or before.
    pub fn take(&mut self, until: TrueTime) -> Option<(TrueTime, E)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|next| (next.at, next.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prng::Prng;

    #[test]
    fn events_come_out_by_moment_and_then_in_the_order_they_were_put_in() {
        let mut prng = Prng::named(1, "queue");
        let mut queue = Queue::default();
        let mut expected: Vec<(u64, u64)> = (0..1000).map(|n| (prng.below(50), n)).collect();
        for (at, n) in &expected {
            queue.put(TrueTime(*at), *n);
        }
        expected.sort_unstable();
        let early: Vec<_> = std::iter::from_fn(|| queue.take(TrueTime(24))).map(|(at, n)| (at.0, n)).collect();
        assert!(early.iter().all(|(at, _)| *at < 25), "nothing before its time");
        let late: Vec<_> = std::iter::from_fn(|| queue.take(TrueTime(99))).map(|(at, n)| (at.0, n)).collect();
        assert_eq!([early, late].concat(), expected);
    }
}
