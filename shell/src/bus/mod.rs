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

use base_ha_core::ids::ClusterId;
use base_ha_core::io::Route;
use base_ha_core::message::Envelope;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// What happened on the way, for metrics. All numbers only grow.
#[derive(Debug, Default)]
pub struct BusCounters {
    /// Frames handed to a connection.
    pub frames_sent: AtomicU64,
    /// Bytes of those frames.
    pub bytes_sent: AtomicU64,
    /// Frames that came in and were believed.
    pub frames_received: AtomicU64,
    /// Bytes of those frames.
    pub bytes_received: AtomicU64,
    /// Frames dropped because a queue was full or nobody was connected.
    pub frames_dropped: AtomicU64,
    /// Connections opened, either way.
    pub connected: AtomicU64,
    /// Attempts to reach a peer that failed.
    pub dial_failed: AtomicU64,
    /// Connections refused: the other side does not know the cluster secret.
    pub refused_secret: AtomicU64,
    /// Connections refused: the other side belongs to another cluster.
    pub refused_cluster: AtomicU64,
    /// Connections refused: an unknown version or not this protocol at all.
    pub refused_protocol: AtomicU64,
    /// Connections refused or ended: too slow, or gone.
    pub refused_timeout: AtomicU64,
    /// Connections refused: too many.
    pub refused_full: AtomicU64,
    /// Connections ended: a record's seal did not match (changed, repeated or
    /// reordered bytes).
    pub bad_seal: AtomicU64,
    /// Connections ended: bytes that are not a frame (truncated, too long, an
    /// unknown version).
    pub bad_frame: AtomicU64,
}

impl BusCounters {
    pub(crate) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// Every counter with its name, for metrics and tests.
    pub fn read(&self) -> [(&'static str, u64); 14] {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        [
            ("frames_sent", get(&self.frames_sent)),
            ("bytes_sent", get(&self.bytes_sent)),
            ("frames_received", get(&self.frames_received)),
            ("bytes_received", get(&self.bytes_received)),
            ("frames_dropped", get(&self.frames_dropped)),
            ("connected", get(&self.connected)),
            ("dial_failed", get(&self.dial_failed)),
            ("refused_secret", get(&self.refused_secret)),
            ("refused_cluster", get(&self.refused_cluster)),
            ("refused_protocol", get(&self.refused_protocol)),
            ("refused_timeout", get(&self.refused_timeout)),
            ("refused_full", get(&self.refused_full)),
            ("bad_seal", get(&self.bad_seal)),
            ("bad_frame", get(&self.bad_frame)),
        ]
    }
}
