//! A log entry and the chain that binds it to all before it.
//!
//! Decides what is hashed. Knows nothing of where entries are kept.

use crate::ids::{Hash, Seq, StreamId, Term};
use crate::position::Position;
use bytes::Bytes;

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A new writer's first entry of its term: nothing to apply, but once it is
    /// committed so is everything before it (Raft 5.4.2).
    Noop = 0,
    /// The whole new [`crate::member::Membership`], encoded.
    Config = 1,
    /// One request's change-set, encoded: see [`crate::changeset`].
    Data = 2,
}

/// One entry of a stream.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Entry {
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its place in that stream.
    pub seq: Seq,
    /// The term in which it was made; never changes, even when a later
    /// writer ships it.
    pub term: Term,
    /// When it was made, by the writer's hybrid logical clock.
    pub hlc: crate::hlc::Hlc,
    /// What it is for.
    pub kind: EntryKind,
    /// The hash of the entry before it.
    pub prev_hash: Hash,
    /// [`Entry::compute_hash`] of all the above and the payload.
    pub hash: Hash,
    /// What it carries, by `kind`.
    pub payload: Bytes,
}

impl Entry {
    /// The largest payload, in bytes: a transaction beyond it is refused with
    /// 413 before anything is appended.
    pub const PAYLOAD_MAX: usize = 64 << 20;

    /// Makes the entry that follows `prev`.
    pub fn following(
        prev: &Position,
        stream: StreamId,
        term: Term,
        hlc: crate::hlc::Hlc,
        kind: EntryKind,
        payload: Bytes,
    ) -> Self {
        let mut entry =
            Self { stream, seq: prev.seq.next(), term, hlc, kind, prev_hash: prev.hash, hash: Hash::ZERO, payload };
        entry.hash = entry.compute_hash();
        entry
    }

    /// BLAKE3 over every field but `hash` itself, fixed-width and little-endian,
    /// the payload last.
    pub fn compute_hash(&self) -> Hash {
        let mut head = [0u8; 16 + 8 + 8 + 8 + 1 + 32];
        head[..16].copy_from_slice(&self.stream.0.to_le_bytes());
        head[16..24].copy_from_slice(&self.seq.0.to_le_bytes());
        head[24..32].copy_from_slice(&self.term.0.to_le_bytes());
        head[32..40].copy_from_slice(&self.hlc.0.to_le_bytes());
        head[40] = self.kind as u8;
        head[41..].copy_from_slice(&self.prev_hash.0);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&head);
        hasher.update(&self.payload);
        Hash(*hasher.finalize().as_bytes())
    }

    /// The point of the log that this entry is.
    pub fn position(&self) -> Position {
        Position { seq: self.seq, term: self.term, hash: self.hash }
    }

    /// Whether this entry follows `prev` and its hash is its own.
    pub fn follows(&self, prev: &Position) -> bool {
        self.seq.0 == prev.seq.0 + 1
            && self.prev_hash == prev.hash
            && self.term >= prev.term
            && self.hash == self.compute_hash()
    }
}
