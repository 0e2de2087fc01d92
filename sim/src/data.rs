//! The state machine that stands in for `data.db`.
//!
//! Decides what "content" means here: a running hash over every payload in
//! order, so that two contents are equal exactly when the same entries were
//! applied in the same order. Knows nothing of disks.

use crate::clients::Request;
use base_ha_core::changeset::{Change, ChangeSet, RequestId, Value};
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{ContentHash, Seq};
use base_ha_core::member::Membership;
use base_ha_core::position::Position;
use base_ha_core::wire::{decode_changeset, decode_membership};
use std::sync::Arc;

/// How many registers clients share.
pub const REGISTERS: usize = 4;

/// How many clients there are.
pub const CLIENTS: usize = 8;

/// The content of one `data.db`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Applies the entry that follows.
    ///
    /// # Panics
    /// If it does not follow: order is the oracle's business, which looks first.
    pub fn apply(&mut self, entry: &Entry) {
        assert!(entry.follows(&self.applied), "entry {} applied after {:?}", entry.seq, self.applied);
        match entry.kind {
            EntryKind::Noop => {}
            EntryKind::Config => {
                let membership = decode_membership(entry.payload.clone()).expect("a membership that a node encoded");
                self.membership = Some((entry.seq, Arc::new(membership)));
            }
            EntryKind::Data => {
                let set = decode_changeset(entry.payload.clone()).expect("a change-set that the workload encoded");
                for change in &set.changes {
                    if let Change::Insert { new, .. } = change {
                        self.fold(new);
                    }
                }
                if let Some((client, number)) = Request::of(set.request) {
                    self.sessions[client] = self.sessions[client].max(number);
                }
                if let Some((register, value)) = write_of(&set) {
                    self.registers[register] = value;
                }
            }
        }
        self.hlc = self.hlc.max(entry.hlc);
        self.applied = entry.position();
    }

    /// Silently changes what it holds.
    pub fn damage(&mut self) {
        self.content = ContentHash(!self.content.0);
        self.damaged = true;
    }

    fn fold(&mut self, row: &[Value]) {
        const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
        for value in row {
            if let Value::Integer(number) = value {
                self.content =
                    ContentHash((self.content.0 ^ u128::from(*number as u64)).wrapping_add(1).wrapping_mul(PRIME));
            }
        }
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

/// What an entry does for a client, if it is one of a client: its request, the
/// register that it writes, and the value.
pub fn write_in(entry: &Entry) -> Option<(RequestId, usize, i64)> {
    match entry.kind {
        EntryKind::Noop | EntryKind::Config => None,
        EntryKind::Data => {
            let set = decode_changeset(entry.payload.clone()).ok()?;
            let (register, value) = write_of(&set)?;
            Some((set.request, register, value))
        }
    }
}
