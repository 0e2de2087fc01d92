//! Numbered pieces of work on several threads.
//!
//! Decides who does what: whoever is free takes the next number. What a piece
//! is, and what it comes to, is the caller's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Does the pieces `0..count` on so many threads, each with a result of its own
/// that `each` adds to; begins none after `until`. Those that were done are the
/// first of them.
///
/// # Panics
/// If `each` does.
pub fn spread<T: Default + Send>(
    count: u64,
    threads: usize,
    until: Option<Instant>,
    each: impl Fn(&mut T, u64) + Sync,
) -> Vec<T> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut done = T::default();
        while until.is_none_or(|until| Instant::now() < until) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                break;
            }
            each(&mut done, n);
        }
        done
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker catches what its runs panic with")).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_is_done_once_and_none_when_the_time_is_over() {
        let mut done: Vec<u64> = spread(100, 3, None, |done: &mut Vec<u64>, n| done.push(n)).concat();
        done.sort_unstable();
        assert_eq!(done, (0..100).collect::<Vec<_>>());
        let late = spread(100, 3, Some(Instant::now()), |done: &mut Vec<u64>, n| done.push(n)).concat();
        assert!(late.is_empty(), "{late:?}");
    }
}
