//! Frames between nodes, at most once.
//!
//! Decides how nodes reach each other and whose bytes are believed. Knows
//! nothing of what frames say: a lost one is the core's business, and none is
//! ever sent twice.
//!
//! | file | its noun |
//! |---|---|
//! | `auth` | the cluster secret: proofs, session keys, the seal on every record |
//! | `handshake` | the exchange that opens a connection |
//! | `link` | an open connection: queue, reader, writer |
//! | `direct` | the peers of this node, dialled and accepted over HTTP |

pub mod auth;
pub mod direct;
pub mod handshake;
pub mod link;

#[cfg(test)]
pub(crate) mod tests;

use crate::metrics::{Count, Stats};
use base_ha_core::ids::ClusterId;
use base_ha_core::io::Route;
use base_ha_core::message::Envelope;
use std::sync::Arc;

/// Carries frames to other nodes. What comes in reaches the node loop as
/// [`crate::api::NodeEvent::Frame`].
pub trait Bus: Clone + Send + Sync + 'static {
    /// Sends a frame, or loses it: at most once, never blocking.
    fn send(&self, route: &Route, envelope: &Envelope);

    /// This node now belongs to that cluster: peers of another are refused.
    fn joined(&self, cluster: ClusterId);

    /// Drops all connections and accepts no more.
    fn close(&self);
}

/// What happened on the way. All numbers only grow. What a scrape shows of it
/// is in [`Stats::peer`]; the rest says in more detail why something was
/// refused.
#[derive(Debug, Default)]
pub struct BusCounters {
    pub(crate) stats: Arc<Stats>,
    /// Bytes of frames handed to a connection.
    pub bytes_sent: Count,
    /// Bytes of frames that came in and were believed.
    pub bytes_received: Count,
    /// Connections opened, either way.
    pub connected: Count,
    /// Attempts to reach a peer that failed.
    pub dial_failed: Count,
    /// Connections refused: the other side does not know the cluster secret.
    pub refused_secret: Count,
    /// Connections refused: the other side's certificate is not that of who it
    /// says it is, or there is none.
    pub refused_certificate: Count,
    /// Connections refused: the other side belongs to another cluster.
    pub refused_cluster: Count,
    /// Connections refused: an unknown version or not this protocol at all.
    pub refused_protocol: Count,
    /// Connections refused: too slow, or gone before they were open.
    pub refused_timeout: Count,
    /// Connections refused: too many.
    pub refused_full: Count,
    /// Connections ended: a record's seal did not match (changed, repeated or
    /// reordered bytes).
    pub bad_seal: Count,
    /// Connections ended: bytes that are not a frame (truncated, too long, an
    /// unknown version).
    pub bad_frame: Count,
}

impl BusCounters {
    /// Counters whose totals go to `stats`.
    pub fn new(stats: Arc<Stats>) -> Self {
        Self { stats, ..Self::default() }
    }

    /// Counts something that was not believed.
    pub(crate) fn refuse(&self, why: &Count) {
        why.add(1);
        self.stats.peer.frames_refused.add(1);
    }

    /// Every counter with its name, for tests.
    #[cfg(test)]
    pub(crate) fn read(&self) -> [(&'static str, u64); 15] {
        [
            ("frames_sent", self.stats.peer.frames_sent.get()),
            ("frames_received", self.stats.peer.frames_received.get()),
            ("frames_dropped", self.stats.peer.frames_dropped.get()),
            ("bytes_sent", self.bytes_sent.get()),
            ("bytes_received", self.bytes_received.get()),
            ("connected", self.connected.get()),
            ("dial_failed", self.dial_failed.get()),
            ("refused_secret", self.refused_secret.get()),
            ("refused_certificate", self.refused_certificate.get()),
            ("refused_cluster", self.refused_cluster.get()),
            ("refused_protocol", self.refused_protocol.get()),
            ("refused_timeout", self.refused_timeout.get()),
            ("refused_full", self.refused_full.get()),
            ("bad_seal", self.bad_seal.get()),
            ("bad_frame", self.bad_frame.get()),
        ]
    }
}
