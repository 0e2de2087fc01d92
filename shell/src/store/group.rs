//! A group: requests that share one transaction and one fsync.
//!
//! Decides which requests go together, when a group closes, and what each is
//! answered when the group's fate is known. The transaction stays open in
//! between, without waiting for anyone. Knows nothing of how SQL runs.

use super::apply::{Halt, commit_halt, halt};
use super::execute::Ended;
use super::open::Role;
use super::problem;
use super::requests::Repeated;
use super::worker::{Inner, refuse};
use crate::api::{Ack, NodeEvent, WriteAnswer, WriteError, WriteRequest};
use crate::error::ApiError;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::ids::Seq;
use base_ha_core::io::{ProposalId, Refusal};
use base_ha_core::member::Membership;
use base_ha_core::position::Position;
use base_ha_core::time::MonoTime;
use base_ha_core::wire::decode_membership;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::oneshot;

/// Requests in a group.
pub(super) const REQUESTS_MAX: usize = 256;

/// Bytes of change-sets in a group.
const BYTES_MAX: usize = 1 << 20;

/// Execution time of a group, unless a test plays another.
pub(super) const TIME_MAX: Duration = Duration::from_millis(5);

/// A request that waits for its turn.
pub(super) struct Waiting {
    pub(super) request: WriteRequest,
    /// It ended a transaction that others shared: it gets one of its own.
    pub(super) alone: bool,
}

/// A request that ran.
struct Member {
    waiting: Waiting,
    /// Taken when it was answered before COMMIT ([`Ack::Local`]).
    answered: bool,
    result: Result<Bytes, ApiError>,
    /// Which of the group's entries is its own.
    entry: Option<u64>,
}

/// The group whose transaction is open.
pub(super) struct Group {
    id: ProposalId,
    members: Vec<Member>,
    payloads: u64,
    /// Its entries' places, once they have them.
    range: Option<(Seq, Position)>,
    begun: MonoTime,
}

impl Group {
    /// The proposal.
    pub(super) fn id(&self) -> ProposalId {
        self.id
    }

    /// Its entries' places.
    pub(super) fn range(&self) -> Option<(Seq, Position)> {
        self.range
    }

    /// Whether a request is to be answered as soon as this node's own log has
    /// it.
    pub(super) fn awaits_own_log(&self) -> bool {
        self.members.iter().any(|m| !m.answered && m.entry.is_some() && m.waiting.request.ack == Ack::Local)
    }
}

impl Inner {
    /// Runs waiting requests as one group and proposes what they changed.
    /// Returns with a group open, or with progress made, or fenced.
    pub(super) fn run_group(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let begun = engine.become_role(Role::Writer).and_then(|()| engine.begin());
        if let Err(failure) = begun {
            let at = engine.applied.seq.next();
            self.fence(match halt(&failure, at) {
                // No entry is to blame here.
                Halt::Entry { why, .. } => Halt::Fatal(format!("no transaction could be begun: {why}")),
                other => other,
            });
            return;
        }
        self.clock.raise(engine.hlc);
        self.linger.begun(self.waiting.len());
        let started = (self.now)();
        let mut now = started;
        let mut members: Vec<Member> = Vec::with_capacity(self.waiting.len().min(REQUESTS_MAX));
        let mut payloads: Vec<Bytes> = Vec::with_capacity(members.capacity());
        let (mut ids, mut bytes) = (BTreeSet::new(), 0);
        while let Some(mut next) = self.waiting.pop_front() {
            let full =
                members.len() >= REQUESTS_MAX || bytes >= BYTES_MAX || now.mono.since(started.mono) >= self.group_time;
            // A repetition of a request of this very group waits until that
            // one's fate is known.
            let repeats = !ids.insert(next.request.id);
            if !members.is_empty() && (full || next.alone || repeats) {
                self.waiting.push_front(next);
                break;
            }
            if next.request.reply.is_closed() || !next.request.turn.take() {
                continue; // nobody waits for it any more, and nothing was done
            }
            if now.mono >= next.request.limits.deadline {
                let error =
                    ApiError::new(503, "overloaded", "The request waited too long for its turn; nothing was done.");
                let _ = next.request.reply.send(Err(WriteError::Sql(error.retry_after(1))));
                continue;
            }
            match engine.repeated(&next.request, &self.recent) {
                Ok(None) => {}
                Ok(Some(Repeated::Answer(body, position))) => {
                    let answer = WriteAnswer { body, position, replayed: true, all: None };
                    let _ = next.request.reply.send(Ok(answer));
                    continue;
                }
                Ok(Some(Repeated::Reused(error))) => {
                    let _ = next.request.reply.send(Err(WriteError::Sql(error)));
                    continue;
                }
                Err(failure) => {
                    let error = problem::storage("look the key up", &failure);
                    let _ = next.request.reply.send(Err(WriteError::Sql(error)));
                    continue;
                }
            }
            let alone = next.alone;
            let hlc = self.clock.tick(now.wall);
            match engine.run_request(&next.request, hlc) {
                Ok(done) => {
                    let entry = done.payload.map(|payload| {
                        bytes += payload.len();
                        payloads.push(payload);
                        payloads.len() as u64 - 1
                    });
                    members.push(Member { waiting: next, answered: false, result: Ok(done.body), entry });
                }
                Err(Ended::Failed(error)) => {
                    members.push(Member { waiting: next, answered: false, result: Err(error), entry: None });
                }
                Err(Ended::Interrupted) => {
                    engine.rollback();
                    next.request.turn.give_back();
                    self.waiting.push_front(next);
                    self.requeue(members);
                    return;
                }
                Err(Ended::Lost(error)) => {
                    engine.rollback();
                    let full = error.code == "disk_full";
                    // Its error may have come of a neighbour that is gone
                    // now: it is believed only of a request that was alone.
                    if members.is_empty() || alone || full || error.code == "statement_timeout" {
                        self.requeue(members);
                        let guilty = Member { waiting: next, answered: false, result: Err(error), entry: None };
                        self.confirm(started.mono, vec![guilty]);
                    } else {
                        next.alone = true;
                        next.request.turn.give_back();
                        self.waiting.push_front(next);
                        self.requeue(members);
                    }
                    return;
                }
            }
            if alone {
                break;
            }
            now = (self.now)();
        }
        if payloads.is_empty() {
            // Nothing changed: there is nothing to commit.
            engine.rollback();
            if !members.is_empty() {
                self.confirm(started.mono, members);
            }
            return;
        }
        self.propose(started.mono, members, payloads);
    }

    fn propose(&mut self, begun: MonoTime, members: Vec<Member>, payloads: Vec<Bytes>) {
        self.next_proposal += 1;
        let id = self.next_proposal;
        self.group = Some(Group { id, members, payloads: payloads.len() as u64, range: None, begun });
        self.tell_loop();
        (self.out)(NodeEvent::Propose { id, payloads });
    }

    /// What requests that changed nothing are told, an error or "no rows",
    /// tells of the data all the same: a node that slept through its lease
    /// would tell of data that another writer has changed since. They are
    /// answered once the node loop has said that the pin is held now. The
    /// connection waits meanwhile, so that what they saw stays the latest.
    fn confirm(&mut self, begun: MonoTime, members: Vec<Member>) {
        self.propose(begun, members, Vec::new());
    }

    fn confirmed(&mut self) {
        let (Some(group), Some(engine)) = (self.group.take(), &self.engine) else { return };
        let position = engine.applied;
        let full = group.members.iter().any(|m| m.result.as_ref().is_err_and(|e| e.code == "disk_full"));
        for member in group.members {
            self.answer(member, position);
        }
        if full {
            self.check_room();
        }
    }

    /// Puts requests back in front, in order. Nothing of them is left.
    fn requeue(&mut self, members: Vec<Member>) {
        for member in members.into_iter().rev() {
            member.waiting.request.turn.give_back();
            self.waiting.push_front(member.waiting);
        }
    }

    /// The group's entries were given their places.
    pub(super) fn proposed(&mut self, id: ProposalId, first: Seq, last: Position) {
        let Some(group) = self.group.as_mut().filter(|g| g.id == id) else { return };
        if group.payloads == 0 {
            return self.confirmed();
        }
        assert!(
            last.seq.0.checked_sub(first.0).map(|n| n + 1) == Some(group.payloads),
            "a group of {} entries was given {first} to {}",
            group.payloads,
            last.seq
        );
        group.range = Some((first, last));
        self.answer_local();
    }

    /// Answers `ack=local` as far as this node's log is durable.
    pub(super) fn answer_local(&mut self) {
        let Some(group) = &mut self.group else { return };
        let Some((first, last)) = group.range else { return };
        for member in &mut group.members {
            let Some(n) = member.entry else { continue };
            if member.answered || member.waiting.request.ack != Ack::Local || first.0 + n > self.durable.0 {
                continue;
            }
            if let Ok(body) = &member.result {
                member.answered = true;
                let (sink, _) = oneshot::channel();
                let reply = std::mem::replace(&mut member.waiting.request.reply, sink);
                // The entry's own hash is known here only at COMMIT. The group's
                // end is a real point, and becomes visible at the same moment.
                let answer = WriteAnswer { body: body.clone(), position: last, replayed: false, all: None };
                let _ = reply.send(Ok(answer));
            }
        }
    }

    /// Everything of the group is committed in the log: COMMIT and answer.
    pub(super) fn commit_group(&mut self) {
        let (Some(group), Some(engine)) = (self.group.take(), self.engine.as_mut()) else { return };
        let Some((first, last)) = group.range else {
            self.group = Some(group);
            return;
        };
        let count = self.backlog.iter().take_while(|e| e.seq <= last.seq).count();
        let entries: Vec<Entry> = self.backlog.iter().take(count).cloned().collect();
        let mine = entries.iter().filter(|e| e.seq >= first);
        // The chained hash of the last says that all of them are this group's.
        let same = entries.last().is_some_and(|e| e.position() == last)
            && entries.iter().all(|e| e.seq >= first || e.kind != EntryKind::Data)
            && mine.clone().all(|e| e.kind == EntryKind::Data)
            && follows(engine.applied, &entries);
        if !same {
            // Another writer's entries have taken their places: this group is
            // no more. What is committed is applied from the entries.
            engine.rollback();
            self.give_up(group, Refusal::NotReady);
            return;
        }
        let before = engine.applied;
        let hlc = entries.iter().fold(engine.hlc, |highest, e| highest.max(e.hlc));
        let mut membership: Option<(Seq, Membership)> = None;
        let written = (|| {
            for entry in entries.iter().filter(|e| e.kind == EntryKind::Config) {
                if let Ok(decoded) = decode_membership(entry.payload.clone()) {
                    engine.write_membership(entry.seq, &decoded)?;
                    membership = Some((entry.seq, decoded));
                }
            }
            let own: Vec<&Entry> = mine.collect();
            let mut done = Vec::with_capacity(own.len());
            for member in &group.members {
                let request = &member.waiting.request;
                if let Some(n) = member.entry {
                    done.push((own[n as usize].position(), request.id));
                }
                if let (Some(key), Some(n), Ok(body)) = (&request.idempotency_key, member.entry, &member.result) {
                    let entry = own[n as usize];
                    engine.remember(key, &request.body_digest, Some(body), entry.position(), entry.hlc)?;
                }
            }
            engine.write_terms(&entries)?;
            engine.write_recent(&done)?;
            engine.write_position(last, hlc)?;
            engine.commit(last, hlc)
        })();
        if let Err(failure) = written {
            engine.rollback();
            match engine.ctx.take_poison() {
                // The entries are committed all the same, and say exactly what
                // every other node will do.
                Some(why) => tracing::error!(why, "a group's COMMIT was vetoed; applying its entries instead"),
                None => self.fence(commit_halt(&failure)),
            }
            self.give_up(group, Refusal::NotReady);
            return;
        }
        if membership.is_some() {
            engine.membership = membership;
        }
        self.stats.group_requests.observe(group.members.len() as u64);
        self.stats.group_bytes.observe(entries.iter().filter(|e| e.seq >= first).map(|e| e.payload.len() as u64).sum());
        self.backlog.drain(..count);
        let mut at = entries.iter().rfind(|e| e.seq < first).map_or(before, Entry::position);
        let (answered, begun) = (group.members.len(), group.begun);
        for member in group.members {
            if let Some(n) = member.entry
                && let Some(entry) = entries.iter().find(|e| e.seq.0 == first.0 + n)
            {
                at = entry.position();
                self.recent.note(member.waiting.request.id, at);
            }
            self.answer(member, at);
        }
        self.publish_to_readers();
        let now = (self.now)().mono;
        self.linger.answered(now, now.since(begun), answered, self.waiting.len(), REQUESTS_MAX);
    }

    /// Answers a member whose group is over: COMMITted, or without entries.
    fn answer(&mut self, member: Member, position: Position) {
        if member.answered {
            return;
        }
        let request = member.waiting.request;
        let result = match member.result {
            Ok(body) => {
                let all = (request.ack == Ack::All && member.entry.is_some()).then(|| self.when_all(position.seq));
                Ok(WriteAnswer { body, position, replayed: false, all })
            }
            Err(error) => Err(WriteError::Sql(error)),
        };
        let _ = request.reply.send(result);
    }

    fn when_all(&mut self, seq: Seq) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        if seq <= self.all {
            let _ = done.send(());
        } else {
            self.all_waiting.entry(seq).or_default().push(done);
        }
        wait
    }

    /// The group was rolled back and its entries' fate is not known here: what
    /// was logged may still be committed, the rest is certainly not done.
    pub(super) fn give_up(&mut self, group: Group, refusal: Refusal) {
        self.stats.groups_rolled_back.add(1);
        for member in group.members {
            if member.answered {
                continue;
            }
            match member.entry {
                Some(_) => {
                    let _ = member.waiting.request.reply.send(Err(WriteError::Unknown));
                }
                None => refuse(member.waiting.request, refusal.clone()),
            }
        }
    }

    /// The group was refused before anything was logged.
    pub(super) fn hand_back(&mut self, group: Group, refusal: &Refusal) {
        for member in group.members {
            refuse(member.waiting.request, refusal.clone());
        }
    }
}

/// Whether entries follow `prev` and each other.
pub(super) fn follows<'a>(prev: Position, entries: impl IntoIterator<Item = &'a Entry>) -> bool {
    let mut prev = prev;
    entries.into_iter().all(|entry| {
        let ok = entry.seq == prev.seq.next() && entry.prev_hash == prev.hash && entry.term >= prev.term;
        prev = entry.position();
        ok
    })
}
