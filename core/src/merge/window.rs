//! Which stamps must still be remembered.
//!
//! Decides when nothing older can come any more: once every member has been
//! heard, without a gap, to promise that it makes nothing at or below a stamp. That all members hold
//! an entry is not enough: one that holds it may have made an older one before,
//! which is still on its way, and whoever forgot the stamp takes that for news.
//! Knows nothing of rows.

use crate::hlc::Hlc;
use crate::ids::StreamId;
use alloc::collections::BTreeMap;

/// What every member's stream has promised, as far as it has come in without
/// a gap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Window {
    promised: BTreeMap<StreamId, Hlc>,
}

impl Window {
    /// A window that waits for every one of these streams.
    pub fn new(members: impl IntoIterator<Item = StreamId>) -> Self {
        Self { promised: members.into_iter().map(|stream| (stream, Hlc(0))).collect() }
    }

    /// A new member: it has promised nothing below what it was admitted at.
    pub fn admit(&mut self, stream: StreamId, at: Hlc) {
        self.promised.entry(stream).or_insert(at);
    }

    /// An administrator evicted a member: nobody waits for it any more. What it
    /// still has to say is refused, and made anew by the pinned writer.
    pub fn evict(&mut self, stream: StreamId) {
        self.promised.remove(&stream);
    }

    /// A member's stream has come in without a gap up to an entry or a heartbeat
    /// that promises to make nothing at or below `stamp` any more.
    pub fn promise(&mut self, stream: StreamId, stamp: Hlc) {
        if let Some(promised) = self.promised.get_mut(&stream) {
            *promised = stamp.max(*promised);
        }
    }

    /// Stamps up to here may be forgotten; nothing, while there are no members.
    pub fn cut(&self) -> Hlc {
        self.promised.values().min().copied().unwrap_or_default()
    }

    /// Who holds the cut, for the alarm: the member that promised least.
    pub fn slowest(&self) -> Option<StreamId> {
        self.promised.iter().min_by_key(|(stream, hlc)| (**hlc, **stream)).map(|(stream, _)| *stream)
    }
}
