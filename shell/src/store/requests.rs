//! Requests that come twice.
//!
//! Decides when a request is a repetition and what it is told. Keys that
//! clients chose are kept in `data.db` with their answers. So are ids that nodes
//! minted, without answers and a bounded number of them; the last are in memory
//! as well. Both change in the transaction of the rows, on every node: the next
//! writer, and this one after a restart, knows the same repetitions. Knows
//! nothing of SQL.

use super::guard::Caller;
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

/// How many minted ids are in memory: those that a passed-on request which
/// comes twice may have.
const RECENT_MAX: usize = 16_384;

/// How many minted ids are in `data.db`, in 4 MiB: at 5,000 writes a second most
/// of a minute, after which a client has been told that its outcome is unknown
/// and asks by the id that it was given.
const KEPT_MAX: u64 = 1 << 18;

/// Ids that are no longer kept go when so many entries have come.
const DROP_EVERY: u64 = 256;

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
    /// Writes into the open transaction which requests its entries are of, in
    /// order.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn write_recent(&mut self, done: &[(Position, RequestId)]) -> Result<(), Failure> {
        self.ctx.caller.set(Caller::Store);
        let follows =
            |a: &(Position, RequestId), b: &(Position, RequestId)| a.0.seq.next() == b.0.seq && a.0.term == b.0.term;
        for run in done.chunk_by(follows) {
            let Some((first, _)) = run.first() else { continue };
            let ids: Vec<u8> = run.iter().flat_map(|(_, id)| id.0.to_le_bytes()).collect();
            let (seq, term) = (first.seq.0 as i64, first.term.0 as i64);
            self.own.set_recent.run_with(&[ValueRef::Integer(seq), ValueRef::Integer(term), ValueRef::Blob(&ids)])?;
        }
        if let (Some((first, _)), Some((last, _))) = (done.first(), done.last())
            && first.seq.0 / DROP_EVERY != (last.seq.0 + 1) / DROP_EVERY
        {
            let oldest = last.seq.0.saturating_sub(KEPT_MAX) as i64;
            self.own.drop_recent.run_with(&[ValueRef::Integer(oldest)])?;
        }
        Ok(())
    }

    /// The last ids that the file holds.
    pub(super) fn recent(&self) -> Recent {
        let mut found = Vec::new();
        let read = self.each_recent(|position, id| {
            found.push((position, id));
            found.len() < RECENT_MAX
        });
        if let Err(failure) = read {
            // Each is looked up again when it is asked for, and that may fail.
            tracing::warn!(%failure, "the ids of recent requests could not be read");
        }
        let mut recent = Recent::default();
        for (position, id) in found.into_iter().rev() {
            recent.note(id, position);
        }
        recent
    }

    /// Where the file says that a request was done. It looks through all that
    /// are kept: only a client that asks by an id that it was given costs that.
    fn find_kept(&self, wanted: RequestId) -> Result<Option<Position>, Failure> {
        let mut found = None;
        self.each_recent(|position, id| {
            if id == wanted {
                found = Some(position);
            }
            found.is_none()
        })?;
        Ok(found)
    }

    /// Calls `look` with each id that is kept, the last one first, until it has
    /// seen enough. Of its entry's hash nothing is kept.
    fn each_recent(&self, mut look: impl FnMut(Position, RequestId) -> bool) -> Result<(), Failure> {
        self.ctx.caller.set(Caller::Store);
        let mut all =
            self.conn.sql().prepare_cached("SELECT first, term, ids FROM main._ha_recent ORDER BY first DESC")?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let (first, term): (i64, i64) = (row.get(0)?, row.get(1)?);
            let ids = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
            let (ids, _) = ids.as_chunks::<16>();
            for (n, id) in ids.iter().enumerate().rev() {
                let seq = Seq(first as u64 + n as u64);
                let position = Position { seq, term: Term(term as u64), hash: Hash::ZERO };
                if !look(position, RequestId(u128::from_le_bytes(*id))) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What is known of an earlier request with this one's key, or id.
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
            // An id that a node gave out with an unknown outcome: that request
            // came without a key.
            None if *key == format!("{:032x}", request.id.0) => {
                let known = match recent.find(request.id) {
                    None => self.find_kept(request.id)?,
                    found => found,
                };
                known.map(|at| Repeated::Answer(position_only(at), at))
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
