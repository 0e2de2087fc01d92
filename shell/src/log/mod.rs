//! The durable log of a node and its hard state.
//!
//! Decides how both lie on disk, when they are durable, what is kept, and what
//! a start finds. Knows nothing of who asked, of elections, or of what the
//! entries mean; only that `Config` entries hold memberships.
//!
//! A data directory holds, besides the store's `data.db`:
//!
//! | file | what it is |
//! |---|---|
//! | `FORMAT` | the directory's version; a newer one is refused |
//! | `lock` | held by the one process that uses the directory, with its pid |
//! | `hard_state` | term, vote, incarnation, high-water mark: two slots, checksummed |
//! | `log.db` | SQLite (WAL, `synchronous=FULL`): entries, base, orphans |
//! | `log.db.damaged-*` | a log that could not be read, set aside for the operator |
//!
//! # What is promised
//!
//! * [`crate::api::NodeEvent::Persisted`] is said after the fsync that covers
//!   the record, never before.
//! * A failed fsync is never tried again: the kernel may have dropped the pages
//!   and call the second try a success (R11). The process ends.
//! * A full disk is not a failed fsync: the transaction was rolled back whole,
//!   nothing was confirmed, and it is tried again when space may have returned.
//! * A log that ends below what it certainly reached, or that cannot be read,
//!   is amnesia. Nothing is guessed and nothing in the middle is cut out: the
//!   fact is noted durably under the directory's incarnation and stays until a
//!   hard state with another incarnation is written.
//!
//! | file | its noun |
//! |---|---|
//! | `lock` | the data directory |
//! | `hard_state` | the two-slot file |
//! | `entries` | `log.db` |
//! | `orphans` | forgotten entries, kept for an operator |
//! | `retention` | how much log is kept |
//! | `recover` | what a start finds, and `recover --new-cluster` |
//! | `worker` | the thread that carries out [`crate::api::LogJob`]s |

mod entries;
mod hard_state;
mod lock;
mod orphans;
mod recover;
mod retention;
mod worker;

#[cfg(test)]
mod tests;

pub use orphans::Orphan;
pub use recover::{OpenedLog, RefoundSummary, Replacement, open};
pub use worker::LogWorker;

use crate::error::ApiError;
use crate::metrics::Spread;
use base_ha_core::ids::Seq;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How much log is kept for peers that lag, beyond what safety needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of `log.db` in use above which old entries go.
    pub bytes_max: u64,
    /// Age, by an entry's own stamp, above which it goes.
    pub age_max: Duration,
}

impl LogLimits {
    /// The limits that a configuration asks for.
    pub fn of(config: &crate::config::Config) -> Self {
        Self { bytes_max: config.log_bytes_max, age_max: config.log_age_max }
    }
}

/// Counters of the log, for metrics; written by the log worker only, readable
/// at any time.
#[derive(Debug)]
pub struct LogStats {
    /// Time that each appending transaction took, fsync included.
    pub fsync_seconds: Spread,
    /// Entries in each of them.
    pub fsync_entries: Spread,
    first: AtomicU64,
    last: AtomicU64,
    bytes: AtomicU64,
    entries_appended: AtomicU64,
    bytes_appended: AtomicU64,
    orphans: AtomicU64,
    orphan_bytes: AtomicU64,
}

impl Default for LogStats {
    fn default() -> Self {
        Self {
            fsync_seconds: Spread::from(50),
            fsync_entries: Spread::from(1),
            first: AtomicU64::default(),
            last: AtomicU64::default(),
            bytes: AtomicU64::default(),
            entries_appended: AtomicU64::default(),
            bytes_appended: AtomicU64::default(),
            orphans: AtomicU64::default(),
            orphan_bytes: AtomicU64::default(),
        }
    }
}

impl LogStats {
    /// The first entry in the log; one after the base if there is none.
    pub fn first(&self) -> Seq {
        Seq(self.first.load(Ordering::Relaxed))
    }

    /// The last entry in the log; the base if there is none.
    pub fn last(&self) -> Seq {
        Seq(self.last.load(Ordering::Relaxed))
    }

    /// Bytes of `log.db` in use, orphans included, as of about a second ago.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Entries made durable since the start.
    pub fn entries_appended(&self) -> u64 {
        self.entries_appended.load(Ordering::Relaxed)
    }

    /// Bytes of payload made durable since the start.
    pub fn bytes_appended(&self) -> u64 {
        self.bytes_appended.load(Ordering::Relaxed)
    }

    /// Appending transactions since the start; each ended with an fsync.
    pub fn syncs(&self) -> u64 {
        self.fsync_seconds.count()
    }

    /// Forgotten entries that wait for an operator or the journal.
    pub fn orphans(&self) -> u64 {
        self.orphans.load(Ordering::Relaxed)
    }

    /// Their payloads, in bytes.
    pub fn orphan_bytes(&self) -> u64 {
        self.orphan_bytes.load(Ordering::Relaxed)
    }
}

/// Why something on `log.db` did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LogError {
    /// No space: the transaction was rolled back whole.
    Full,
    /// The file contradicts itself; says how.
    Damaged(String),
    /// Anything else. What reached the disk is not known.
    Failed(String),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("no space left for the log"),
            Self::Damaged(what) => write!(f, "the log is damaged: {what}"),
            Self::Failed(what) => write!(f, "the log could not be read or written: {what}"),
        }
    }
}

impl From<rusqlite::Error> for LogError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        let (status, code) = match error {
            LogError::Full => (507, "disk_full"),
            LogError::Damaged(_) => (500, "log_damaged"),
            LogError::Failed(_) => (500, "log_failed"),
        };
        Self::new(status, code, error.to_string())
    }
}
