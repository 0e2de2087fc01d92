//! Log lines and counters for what the core reports.
//!
//! Decides how loud each is: changes of pin and membership are INFO, what an
//! operator must look at is WARN or ERROR, the rest DEBUG.

use crate::metrics::PeerStats;
use base_ha_core::ids::NodeId;
use base_ha_core::io::Event;
use base_ha_core::time::{MonoTime, Now};
use std::time::Duration;

/// How often what lasts is said again.
const AGAIN: Duration = Duration::from_secs(60);

/// Logs and counts.
#[derive(Default)]
pub(super) struct Reporter {
    /// When it was last said that nobody knows whose content is right. The core
    /// finds it anew with every report of a follower.
    undecided: Option<MonoTime>,
}

impl Reporter {
    /// Logs and counts one event.
    pub(super) fn report(&mut self, node: &NodeId, now: Now, event: &Event, stats: &PeerStats) {
        if let Event::DivergedWithoutMajority { .. } = event {
            stats.divergences.add(1);
            if self.undecided.is_some_and(|said| now.mono.since(said) < AGAIN) {
                return;
            }
            self.undecided = Some(now.mono);
        }
        report(node, now, event, stats);
    }
}

fn report(node: &NodeId, now: Now, event: &Event, stats: &PeerStats) {
    let at = now.mono;
    match event {
        Event::Joined { cluster } => tracing::info!(%node, ?at, %cluster, "in a cluster"),
        Event::BecameFollower { term } => tracing::info!(%node, ?at, term = term.0, "follower"),
        Event::BecamePreCandidate { term } => tracing::debug!(%node, ?at, term = term.0, "asks for an election"),
        Event::BecameCandidate { term } => {
            tracing::info!(%node, ?at, term = term.0, "campaigns");
        }
        Event::BecameWriter { term } => {
            stats.elections_won.add(1);
            tracing::info!(%node, ?at, term = term.0, "elected writer");
        }
        Event::SteppedDown { term, reason } => {
            stats.stepped_down.add(1);
            tracing::info!(%node, ?at, term = term.0, ?reason, "stepped down");
        }
        Event::TransferStarted { to } => {
            tracing::info!(%node, ?at, %to, "hands the pin over");
        }
        Event::TransferFailed { to } => {
            tracing::warn!(%node, ?at, %to, "the pin was not taken over");
        }
        Event::MembershipChanged { version } => {
            tracing::info!(%node, ?at, version = version.0, "membership changed");
        }
        Event::LogTruncated { keep, dropped } => {
            tracing::warn!(%node, ?at, keep = keep.0, dropped, "entries that were never committed left the log: GET /_ha/conflicts of this node lists them");
        }
        Event::FrameRefused { from, reason } => {
            stats.frames_refused.add(1);
            tracing::debug!(%node, ?at, %from, ?reason, "frame refused");
        }
        Event::DuplicateId { id } => {
            tracing::error!(%node, ?at, %id, "two live processes have this node id: give each node its own BASE_NODE_ID");
        }
        Event::Amnesia { incarnation } => {
            tracing::error!(%node, ?at, %incarnation, "this disk forgot what it had acknowledged: it joins anew, as a learner");
        }
        Event::Diverged { node: whose, at: seq } => {
            stats.divergences.add(1);
            tracing::error!(%node, ?at, %whose, seq = seq.0, "content differs from the majority's");
        }
        Event::DivergedWithoutMajority { at: seq } => {
            tracing::error!(%node, ?at, seq = seq.0, "contents differ and no majority says which is right: nothing is re-seeded");
        }
        Event::PeerUp { id, up: true } => tracing::info!(%node, ?at, peer = %id, "peer is up"),
        Event::PeerUp { id, up: false } => {
            tracing::warn!(%node, ?at, peer = %id, "peer is silent");
        }
        Event::ClockSkew { id, ms } => tracing::warn!(%node, ?at, peer = %id, ms, "a peer's wall clock is far off"),
        Event::SnapshotNeeded { id } => {
            tracing::info!(%node, ?at, peer = %id, "a peer lags beyond the log: it gets a snapshot");
        }
        Event::SlowDisk { ms, best_ms } => {
            tracing::warn!(%node, ?at, ms, best_ms, "this writer's disk makes every write slow: another node is to write");
        }
        Event::SeatsDiffer { id } => {
            tracing::error!(%node, ?at, peer = %id, "this peer was given another list of peers: no cluster is founded");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::ids::{Seq, Term};
    use base_ha_core::io::StepDownReason;

    #[test]
    fn what_an_operator_must_look_at_is_counted() {
        let (node, stats) = (NodeId::new("n").expect("legal"), PeerStats::default());
        let mut reporter = Reporter::default();
        for event in [
            Event::Diverged { node: node.clone(), at: Seq(1) },
            Event::DivergedWithoutMajority { at: Seq(1) },
            Event::BecameWriter { term: Term(1) },
            Event::SteppedDown { term: Term(1), reason: StepDownReason::Unfit },
        ] {
            reporter.report(&node, Now::default(), &event, &stats);
        }
        let counted = (stats.divergences.get(), stats.elections_won.get(), stats.stepped_down.get());
        assert_eq!(counted, (2, 1, 1));
    }

    #[test]
    fn what_lasts_is_counted_each_time_and_said_once_a_minute() {
        let (node, stats, mut reporter) = (NodeId::new("n").expect("legal"), PeerStats::default(), Reporter::default());
        let mut said = Vec::new();
        for seconds in [0, 1, 59, 60, 61] {
            let now = Now { mono: MonoTime(seconds * 1_000_000_000), ..Now::default() };
            reporter.report(&node, now, &Event::DivergedWithoutMajority { at: Seq(1) }, &stats);
            if reporter.undecided == Some(now.mono) {
                said.push(seconds);
            }
        }
        assert_eq!((said, stats.divergences.get()), (vec![0, 60], 5));
    }
}
