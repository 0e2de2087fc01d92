//! Requests that come twice.
//!
//! Decides when a request is a repetition and what it is told. Keys that
//! clients chose are kept in `data.db` with their answers; ids that nodes
//! minted are kept in memory, a bounded number of them. Knows nothing of SQL.

use super::open::Engine;
use super::sys::Failure;
use crate::api::WriteRequest;
use crate::error::ApiError;
use base_ha_core::changeset::{ChangeSet, RequestId};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{Hash, Seq, Term};
use base_ha_core::position::Position;
use base_ha_core::wire::ValueRef;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};

/// How long a key is remembered, by the stamps of entries.
const KEY_AGE_MS: u64 = 24 * 3600 * 1000;

/// How many minted ids are remembered: at 50,000 writes a second a third of a
/// second, more than a node waits before it sends a request again elsewhere.
const RECENT_MAX: usize = 16_384;

/// The ids of recent entries.
#[derive(Default)]
pub(super) struct Recent {
    positions: HashMap<u128, Position>,
    order: VecDeque<u128>,
}

impl Recent {
    /// Remembers an entry's request.
    pub(super) fn note(&mut self, id: RequestId, position: Position) {
        if self.positions.insert(id.0, position).is_none() {
            self.order.push_back(id.0);
        }
        if self.order.len() > RECENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.positions.remove(&oldest);
        }
    }

    /// Where that request was done.
    pub(super) fn find(&self, id: RequestId) -> Option<Position> {
        self.positions.get(&id.0).copied()
    }

    /// Forgets all: the history is another one.
    pub(super) fn clear(&mut self) {
        self.positions.clear();
        self.order.clear();
    }
}

/// What a repetition is told.
pub(super) enum Repeated {
    /// What the first one was told.
    Answer(Bytes, Position),
    /// The key stood for another body.
    Reused(ApiError),
}

/// The answer of a repetition whose first answer was not kept: larger than
/// 64 KiB, or asked for without a key.
fn position_only(position: Position) -> Bytes {
    Bytes::from(format!("{{\"replayed\":true,\"position\":{}}}", position.seq))
}

impl Engine {
    /// What is known of an earlier request with this one's key.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn repeated(&mut self, request: &WriteRequest, recent: &Recent) -> Result<Option<Repeated>, Failure> {
        let Some(key) = &request.idempotency_key else {
            return Ok(recent.find(request.id).map(|at| Repeated::Answer(position_only(at), at)));
        };
        let oldest = self.hlc.millis().saturating_sub(KEY_AGE_MS);
        let find = &mut self.own.get_request;
        find.bind(1, ValueRef::Text(key.as_bytes()))?;
        let found = find.step()?.then(|| {
            let number = |n| match find.column(n) {
                ValueRef::Integer(number) => number as u64,
                _ => 0,
            };
            let bytes = |n| match find.column(n) {
                ValueRef::Blob(bytes) => Some(bytes.to_vec()),
                _ => None,
            };
            let mut hash = [0u8; 32];
            if let Some(stored) = bytes(3)
                && stored.len() == hash.len()
            {
                hash.copy_from_slice(&stored);
            }
            let position = Position { seq: Seq(number(1)), term: Term(number(2)), hash: Hash(hash) };
            (bytes(0), position, Hlc(number(4)), bytes(5))
        });
        find.reset();
        Ok(match found {
            Some((_, _, hlc, _)) if hlc.millis() < oldest => None,
            Some((Some(digest), position, _, answer)) if digest == request.body_digest => {
                Some(Repeated::Answer(answer.map_or_else(|| position_only(position), Bytes::from), position))
            }
            Some(_) => Some(Repeated::Reused(ApiError::new(
                422,
                "idempotency_key_reused",
                "This Idempotency-Key was used with another body; nothing was done.",
            ))),
            // A key that a node gave out with an unknown outcome is the id of a
            // request that came without one, and is found under no key: done
            // again, the request would be done twice.
            None if *key == format!("{:032x}", request.id.0) => {
                recent.find(request.id).map(|at| Repeated::Answer(position_only(at), at))
            }
            None => None,
        })
    }

    /// Stores a key with its answer in the open transaction.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn remember(
        &mut self,
        key: &str,
        digest: &[u8; 16],
        answer: Option<&[u8]>,
        position: Position,
        hlc: Hlc,
    ) -> Result<(), Failure> {
        let answer = answer.filter(|a| a.len() <= ChangeSet::ANSWER_MAX);
        self.own.set_request.run_with(&[
            ValueRef::Text(key.as_bytes()),
            ValueRef::Blob(digest),
            ValueRef::Integer(position.seq.0 as i64),
            ValueRef::Integer(position.term.0 as i64),
            ValueRef::Blob(&position.hash.0),
            ValueRef::Integer(hlc.0 as i64),
            answer.map_or(ValueRef::Null, ValueRef::Blob),
        ])?;
        // Now and then the oldest go: each node by the stamps in the log, so
        // all forget the same keys.
        if position.seq.0.is_multiple_of(256) {
            let oldest = Hlc::new(hlc.millis().saturating_sub(KEY_AGE_MS), 0);
            self.own.expire_requests.run_with(&[ValueRef::Integer(oldest.0 as i64)])?;
        }
        Ok(())
    }
}
