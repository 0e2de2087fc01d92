//! Counting: what a majority of the voters has reached.
//!
//! Decides how silence counts (as nothing). Knows nothing of who is asked.

/// The highest value that at least `quorum` of the voters have reached, given
/// one value per voter (silent voters included, at their lowest). Sorts
/// `values`. `None` if there are fewer voters than that.
pub fn reached<T: Ord + Copy>(values: &mut [T], quorum: usize) -> Option<T> {
    assert!(quorum > 0, "a quorum of nobody would let anyone decide");
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(quorum - 1).copied()
}

/// How many of `voters` make a majority.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_once_a_majority_has_it() {
        assert_eq!(reached(&mut [5, 0, 0], 2), Some(0));
        assert_eq!(reached(&mut [5, 3, 0], 2), Some(3));
        assert_eq!(reached(&mut [5, 5, 1, 9, 0], 3), Some(5));
        assert_eq!(reached(&mut [4], 1), Some(4));
        assert_eq!(reached::<u64>(&mut [], 1), None);
    }

    /// G7: a quorum is never one of many.
    #[test]
    fn quorum_never_one_of_many() {
        assert_eq!(majority(1), 1);
        for voters in 2..=64 {
            assert!(majority(voters) > 1);
            assert!(2 * majority(voters) > voters, "two majorities must meet");
            let mut one_ahead = alloc::vec![0; voters];
            one_ahead[0] = 9;
            assert_eq!(reached(&mut one_ahead, majority(voters)), Some(0));
        }
    }
}
