//! The state machine that stands in for `data.db`.
//!
//! Decides what "content" means here: a running hash over every payload in
//! order, so that two contents are equal exactly when the same entries were
//! applied in the same order. Knows nothing of disks.

use crate::clients::Request;
use base_ha_core::changeset::{Change, ChangeSet, RequestId, Value};
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{ContentHash, Hash, Seq};
use base_ha_core::member::Membership;
use base_ha_core::position::Position;
use base_ha_core::wire::{decode_changeset, decode_membership};
use std::sync::Arc;

/// How many registers clients share.
pub const REGISTERS: usize = 4;

/// How many clients there are.
pub const CLIENTS: usize = 8;

/// What an entry says, once its payload is read.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// The client's request that it carries.
    pub request: Option<RequestId>,
    /// The register that the request writes, and what.
    pub write: Option<(usize, i64)>,
    /// The numbers that it inserts, in order.
    pub numbers: Vec<i64>,
    /// The membership that it brings.
    pub membership: Option<Arc<Membership>>,
}

impl Content {
    /// Reads an entry's payload.
    ///
    /// # Panics
    /// If it does not decode: a node or the workload encoded it.
    pub fn of(entry: &Entry) -> Self {
        match entry.kind {
            EntryKind::Noop => Self::default(),
            EntryKind::Config => {
                let membership = decode_membership(entry.payload.clone()).expect("a membership that a node encoded");
                Self { membership: Some(Arc::new(membership)), ..Self::default() }
            }
            EntryKind::Data => {
                let set = decode_changeset(entry.payload.clone()).expect("a change-set that the workload encoded");
                let inserted = set.changes.iter().flat_map(|change| match change {
                    Change::Insert { new, .. } => new.as_slice(),
                    _ => &[],
                });
                let numbers = inserted.filter_map(|value| match value {
                    Value::Integer(number) => Some(*number),
                    _ => None,
                });
                let numbers = numbers.collect();
                Self { request: Some(set.request), write: write_of(&set), numbers, membership: None }
            }
        }
    }
}

/// What entries say, read once for all machines that apply them.
#[derive(Debug, Default)]
pub struct Contents {
    /// By place in the log, with the entry's hash: should two be applied in one
    /// place after all, each says its own.
    read: Vec<Option<(Hash, Arc<Content>)>>,
}

impl Contents {
    /// What `entry` says.
    ///
    /// # Panics
    /// As [`Content::of`].
    pub fn of(&mut self, entry: &Entry) -> Arc<Content> {
        let index = entry.seq.0 as usize;
        if self.read.len() <= index {
            self.read.resize(index + 1, None);
        }
        match &self.read[index] {
            Some((hash, content)) if *hash == entry.hash => content.clone(),
            _ => {
                let content = Arc::new(Content::of(entry));
                self.read[index] = Some((entry.hash, content.clone()));
                content
            }
        }
    }
}

/// The content of one `data.db`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Data {
    /// Everything up to here is in it.
    pub applied: Position,
    /// The running hash.
    pub content: ContentHash,
    /// The membership as of `applied`, and its entry.
    pub membership: Option<(Seq, Arc<Membership>)>,
    /// The highest stamp applied.
    pub hlc: Hlc,
    /// What clients last wrote into each register.
    pub registers: [i64; REGISTERS],
    /// The last request of each client that is in it.
    pub sessions: [u64; CLIENTS],
    /// It holds something else than the log says; only the simulator knows.
    pub damaged: bool,
}

impl Data {
    /// Applies the entry that follows, which says `content`.
    ///
    /// # Panics
    /// If it does not follow: order is the oracle's business, which looks first.
    pub fn apply(&mut self, entry: &Entry, content: &Content) {
        let follows = entry.seq.0 == self.applied.seq.0 + 1 && entry.prev_hash == self.applied.hash;
        assert!(follows, "entry {} applied after {:?}", entry.seq, self.applied);
        if let Some(membership) = &content.membership {
            self.membership = Some((entry.seq, membership.clone()));
        }
        for number in &content.numbers {
            self.fold(*number);
        }
        if let Some((client, number)) = content.request.and_then(Request::of) {
            self.sessions[client] = self.sessions[client].max(number);
        }
        if let Some((register, value)) = content.write {
            self.registers[register] = value;
        }
        self.hlc = self.hlc.max(entry.hlc);
        self.applied = entry.position();
    }

    /// Silently changes what it holds.
    pub fn damage(&mut self) {
        self.content = ContentHash(!self.content.0);
        self.damaged = true;
    }

    fn fold(&mut self, number: i64) {
        const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
        let mixed = self.content.0 ^ u128::from(number as u64);
        self.content = ContentHash(mixed.wrapping_add(1).wrapping_mul(PRIME));
    }
}

/// The register that a request of the workload writes, and what.
fn write_of(set: &ChangeSet) -> Option<(usize, i64)> {
    let Some(Change::Insert { new, .. }) = set.changes.first() else {
        return None;
    };
    match new.as_slice() {
        [Value::Integer(value), Value::Integer(register), ..] => {
            Some((usize::try_from(*register).ok().filter(|register| *register < REGISTERS)?, *value))
        }
        _ => None,
    }
}
