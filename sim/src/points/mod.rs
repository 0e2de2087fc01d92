//! Every point at which a node's disk can fail, one after the other.
//!
//! The shell's own log and store, recovered by the code that a start runs, on a
//! simulated disk ([`crate::vfs`]). A scenario is lived through once and its
//! operations on the disk are kept; then it is stopped before each of them. What
//! a crash leaves follows from the operations before it, so nothing is run
//! again to stop it elsewhere.
//!
//! * **Crash**: nothing unsynced survives; all of it does; it does up to the
//!   middle of a write; any of it does. Then a start, a power cut right after
//!   it, another start, and life goes on.
//! * **Error**: the operation fails instead (EIO; ENOSPC where it needs room),
//!   the script goes on as far as the node does, then comes a crash.
//! * **Rot**: one bit of what lies there is flipped.
//!
//! What must hold is in the diary: what was confirmed to be durable is, nothing
//! is in `data.db` that was not committed, its rows are those of a plain SQLite
//! at the position it names, nobody has amnesia whose disk kept its word.
//!
//! | file | its noun |
//! |---|---|
//! | `script` | the scenarios |
//! | `rig` | the node: log, store, and a driver of a few lines |
//! | `world` | its clock and chance |
//! | `diary` | promises, and whether they were kept |
//! | `print` | rows, and which are right |
//! | `sweep` | the points |
//! | `report` | what it came to |

mod diary;
mod print;
mod report;
mod rig;
mod script;
mod sweep;
mod world;

pub use report::{Failure, Report};
pub use sweep::{Mutant, Options, run};

#[cfg(test)]
mod tests {
    use super::*;

    /// A share of the points; `--crash-points` tries all of them.
    #[test]
    fn a_sample_of_the_points_holds() {
        let report = run(&Options { every: 23, ..Options::default() });
        assert!(report.failures.is_empty(), "{report}");
        assert!(report.points > 50 && report.nested > 10, "{report}");
        assert!(report.errors_ended > 10 && report.errors_survived > 10, "{report}");
    }

    /// The checker sees a disk that lies, and a commit that comes too early.
    #[test]
    fn planted_mistakes_are_found() {
        for mutant in [Mutant::NoSync, Mutant::CommitFirst] {
            let only = Some("writes".to_owned());
            let report = run(&Options { every: 7, only, mutant: Some(mutant), ..Options::default() });
            assert!(!report.failures.is_empty(), "{mutant:?} was not found: {report}");
        }
    }
}
