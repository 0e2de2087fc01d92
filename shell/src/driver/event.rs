//! Log lines and counters for what the core reports.
//!
//! Decides how loud each is: changes of pin and membership are INFO, what an
//! operator must look at is WARN or ERROR, the rest DEBUG.

use base_ha_core::ids::NodeId;
use base_ha_core::io::Event;
use base_ha_core::time::Now;
use std::sync::atomic::{AtomicU64, Ordering};

/// What happened to this node, for metrics. All numbers only grow.
#[derive(Debug, Default)]
pub struct NodeCounters {
    /// Times this node campaigned.
    pub campaigns: AtomicU64,
    /// Times this node was elected.
    pub elected: AtomicU64,
    /// Times this node stepped down as writer.
    pub stepped_down: AtomicU64,
    /// Hand-overs begun.
    pub transfers: AtomicU64,
    /// Hand-overs not taken up.
    pub transfers_failed: AtomicU64,
    /// Changes of the membership.
    pub membership_changes: AtomicU64,
    /// Entries dropped from the log because they were never committed.
    pub entries_dropped: AtomicU64,
    /// Frames that the core refused.
    pub frames_refused: AtomicU64,
    /// Times content hashes differed.
    pub diverged: AtomicU64,
    /// Times a peer fell silent.
    pub peers_lost: AtomicU64,
}

impl NodeCounters {
    /// Every counter with its name, for metrics and tests.
    pub fn read(&self) -> [(&'static str, u64); 10] {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        [
            ("campaigns", get(&self.campaigns)),
            ("elected", get(&self.elected)),
            ("stepped_down", get(&self.stepped_down)),
            ("transfers", get(&self.transfers)),
            ("transfers_failed", get(&self.transfers_failed)),
            ("membership_changes", get(&self.membership_changes)),
            ("entries_dropped", get(&self.entries_dropped)),
            ("frames_refused", get(&self.frames_refused)),
            ("diverged", get(&self.diverged)),
            ("peers_lost", get(&self.peers_lost)),
        ]
    }
}

/// Logs and counts one event.
pub fn report(node: &NodeId, now: Now, event: &Event, counters: &NodeCounters) {
    let add = |c: &AtomicU64, by: u64| {
        c.fetch_add(by, Ordering::Relaxed);
    };
    let at = now.mono;
    match event {
        Event::Joined { cluster } => tracing::info!(%node, ?at, %cluster, "in a cluster"),
        Event::BecameFollower { term } => tracing::info!(%node, ?at, term = term.0, "follower"),
        Event::BecamePreCandidate { term } => tracing::debug!(%node, ?at, term = term.0, "asks for an election"),
        Event::BecameCandidate { term } => {
            add(&counters.campaigns, 1);
            tracing::info!(%node, ?at, term = term.0, "campaigns");
        }
        Event::BecameWriter { term } => {
            add(&counters.elected, 1);
            tracing::info!(%node, ?at, term = term.0, "elected writer");
        }
        Event::SteppedDown { term, reason } => {
            add(&counters.stepped_down, 1);
            tracing::info!(%node, ?at, term = term.0, ?reason, "stepped down");
        }
        Event::TransferStarted { to } => {
            add(&counters.transfers, 1);
            tracing::info!(%node, ?at, %to, "hands the pin over");
        }
        Event::TransferFailed { to } => {
            add(&counters.transfers_failed, 1);
            tracing::warn!(%node, ?at, %to, "the pin was not taken over");
        }
        Event::MembershipChanged { version } => {
            add(&counters.membership_changes, 1);
            tracing::info!(%node, ?at, version = version.0, "membership changed");
        }
        Event::LogTruncated { keep, dropped } => {
            add(&counters.entries_dropped, *dropped);
            tracing::warn!(%node, ?at, keep = keep.0, dropped, "uncommitted entries went to the orphan file");
        }
        Event::FrameRefused { from, reason } => {
            add(&counters.frames_refused, 1);
            tracing::debug!(%node, ?at, %from, ?reason, "frame refused");
        }
        Event::DuplicateId { id } => {
            tracing::error!(%node, ?at, %id, "two live processes have this node id: give each node its own BASE_NODE_ID");
        }
        Event::Amnesia { incarnation } => {
            tracing::error!(%node, ?at, %incarnation, "this disk forgot what it had acknowledged: it joins anew, as a learner");
        }
        Event::Diverged { node: whose, at: seq } => {
            add(&counters.diverged, 1);
            tracing::error!(%node, ?at, %whose, seq = seq.0, "content differs from the majority's");
        }
        Event::DivergedWithoutMajority { at: seq } => {
            add(&counters.diverged, 1);
            tracing::error!(%node, ?at, seq = seq.0, "contents differ and no majority says which is right: nothing is re-seeded");
        }
        Event::PeerUp { id, up: true } => tracing::info!(%node, ?at, peer = %id, "peer is up"),
        Event::PeerUp { id, up: false } => {
            add(&counters.peers_lost, 1);
            tracing::warn!(%node, ?at, peer = %id, "peer is silent");
        }
        Event::ClockSkew { id, ms } => tracing::warn!(%node, ?at, peer = %id, ms, "a peer's wall clock is far off"),
        Event::SnapshotNeeded { id } => {
            tracing::info!(%node, ?at, peer = %id, "a peer lags beyond the log: it gets a snapshot");
        }
        Event::SeatsDiffer { id } => {
            tracing::error!(%node, ?at, peer = %id, "this peer was given another list of peers: no cluster is founded");
        }
    }
}
