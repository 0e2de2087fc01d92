//! How a run ended.
//!
//! Decides what is counted and how a failure reads. A fault is counted where
//! it took effect, not where it was planned.

use crate::clock::TrueTime;
use std::collections::BTreeMap;
use std::fmt;

/// How often things really happened, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// It happened once more.
    pub fn add(&mut self, what: &str) {
        if let Some(count) = self.0.get_mut(what) {
            *count += 1;
        } else {
            self.0.insert(what.to_owned(), 1);
        }
    }

    /// How often it happened.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what.clone()).or_default() += count;
        }
    }

    /// All counts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, count)| (what.as_str(), *count))
    }

    /// Those of [`REQUIRED`] that never happened: a batch of a few hundred
    /// seeds in which one is missing has not tested what it claims.
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing_of(REQUIRED)
    }

    /// Those of `required` that never happened.
    pub fn missing_of(&self, required: &[&'static str]) -> Vec<&'static str> {
        required.iter().copied().filter(|what| self.get(what) == 0).collect()
    }
}

/// What every batch must have seen.
pub const REQUIRED: &[&str] = &[
    "ack",
    "admin_done",
    "amnesia_noticed",
    "apply_halted",
    "blackout",
    "clock_rate_outside_bound",
    "clock_rate_within_bound",
    "core_healed_first",
    "crash_between_append_and_commit",
    "crash_mid_persist",
    "crash_power",
    "crash_process",
    "crash_unsynced_record_lost",
    "crash_with_fsync_unheard",
    "damage_noticed",
    "data_damaged",
    "disk_full",
    "disk_slow",
    "disk_slow_noticed",
    "disk_rolled_back",
    "disk_wiped",
    "entry_in_parts",
    "failover",
    "frame_clogged",
    "frame_cut",
    "frame_cut_one_way",
    "frame_damaged",
    "frame_lost",
    "frame_queued",
    "frame_of_next_version_read",
    "frame_of_next_version_refused",
    "frame_repeated",
    "frame_replayed_late",
    "fsync_failed",
    "fsync_slowed",
    "log_rotten",
    "log_tail_lost",
    "handed_over",
    "lease_lost",
    "log_trimmed",
    "log_truncated",
    "member_added",
    "member_removed",
    "membership_changed_beside_cuts",
    "moved",
    "outcome_unknown",
    "partition_bridge",
    "partition_flapping",
    "partition_one_way",
    "partition_symmetric",
    "pause_between_append_and_commit",
    "pause_beyond_lease",
    "pause_mid_turn",
    "pause_with_fsync_unheard",
    "pause_writer_beyond_lease",
    "read_linearizable",
    "read_local_current",
    "read_awaited",
    "read_leased",
    "read_session",
    "request_found_done",
    "request_repeated",
    "rest_restarted_beside_writer",
    "rot_found_at_start",
    "shutdown_graceful",
    "slow_writer_stepped_down",
    "snapshot_installed",
    "store_quarantined",
    "transfer_done",
    "twin_noticed",
    "wall_jump",
    "wall_jump_hours",
    "wall_jump_years",
    "writer_isolated",
];

/// A property did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub property: &'static str,
    /// When.
    pub at: TrueTime,
    /// What contradicts it.
    pub detail: String,
}

impl Failure {
    /// The property of a run that ended with a panic: the core asserts, and so
    /// does the simulated driver.
    pub const ASSERTION: &'static str = "an assertion holds";
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}: {}", self.property, self.at, self.detail)
    }
}

/// A run that held.
#[derive(Clone, Debug)]
pub struct Report {
    /// What happened in it.
    pub counts: Counts,
    /// How long it was, in true time.
    pub simulated: TrueTime,
    /// How many inputs its nodes took.
    pub steps: u64,
    /// The trace's hash and number of lines; of no meaning with tracing off.
    pub trace: (u64, u64),
}
