//! Following: appends taken, the commit index, what is applied.
//!
//! Decides whether entries fit the log, what is answered and what may be
//! applied. Nothing at or below the commit index is ever dropped. Knows
//! nothing of how a writer chooses what to send.

use super::durable::Gate;
use super::identity::Sender;
use super::parts::{Assembled, Assembly};
use super::{Node, Promise, Stance};
use crate::entry::{Entry, EntryKind};
use crate::ids::{ContentHash, Incarnation, Seq, Term};
use crate::io::{Event, FrameRefusal, Outbox, Output, Record, StepDownReason};
use crate::member::Membership;
use crate::message::{Append, AppendResult, Appended, Message, Part, Refused};
use crate::planted;
use crate::position::Position;
use crate::time::Now;
use crate::wire::decode_membership;
use alloc::vec;
use alloc::vec::Vec;

impl Node {
    pub(super) fn on_append(&mut self, now: Now, who: &Sender, mut append: Append, out: &mut Outbox) {
        let taken = who.term >= self.hard.term || planted!(self.config, LowerTermAccepted);
        if !taken {
            let refused = Message::Refused(Refused::StaleTerm);
            self.send(who.route.clone(), Gate::HardState, refused, out);
            return;
        }
        assert!(
            who.term == self.hard.term || planted!(self.config, LowerTermAccepted),
            "a higher term was adopted before this"
        );
        let other = self.writer.as_ref().is_some_and(|known| *known != who.id);
        if other || matches!(self.stance, Stance::Writer(_)) {
            // Two writers of one term: a cloned disk or worse. Believe neither.
            // An entry that was acknowledged to one of them must not give way
            // to the other's.
            self.refuse(who, FrameRefusal::Contradiction, out);
            return;
        }
        self.follow(now, who, append.renews);
        if self.health.fetching_log {
            // The snapshot may be in place, and the log start anew at it,
            // before this node is told: an entry that is appended now would
            // follow one that is no longer there.
            append.entries.clear();
            append.part = None;
        }
        if let Some(part) = append.part.take()
            && let Some(bytes) = self.take_part(&mut append, *part)
        {
            // In memory only, which is all that is said: at once.
            let result = AppendResult::Partial { seq: append.prev.seq.next(), bytes };
            self.raise_commit(append.commit.min(append.prev.seq), out);
            self.answer(who, &append, Gate::HardState, result, out);
            return;
        }
        let result = match self.take_entries(&append, out) {
            Ok(result) => result,
            Err(reason) => {
                self.refuse(who, reason, out);
                return;
            }
        };
        let (matched, fresh) = match result {
            Taken::Matched { matched, fresh } => (matched, fresh),
            Taken::Missing(result) => {
                // While a snapshot is fetched, each such answer would make the
                // writer send the same entries again: its lease needs one every
                // now and then, not one a round trip.
                if !self.health.fetching_log || self.health.may_answer_missing(now.mono, self.config.heartbeat / 2) {
                    self.answer(who, &append, Gate::Log, result, out);
                }
                return;
            }
        };
        let mut commit = append.commit.min(matched);
        if planted!(self.config, CommitBeyondMatched) {
            commit = append.commit.min(self.log.last().seq);
        }
        if planted!(self.config, CommitToLogEnd) {
            commit = self.log.last().seq;
        }
        self.raise_commit(commit, out);
        // New entries are acknowledged when durable. A bare heartbeat is
        // answered at once with what is durable already: a slow disk must not
        // cost the writer its lease.
        let (gate, matched) = match fresh {
            true if planted!(self.config, AckBeforeFsync) => (Gate::HardState, matched),
            true => (Gate::Log, matched),
            false if planted!(self.config, HeartbeatAcksUnsynced) => (Gate::HardState, matched),
            false => (Gate::HardState, matched.min(self.durable)),
        };
        self.answer(who, &append, gate, AppendResult::Durable { matched }, out);
    }

    /// Takes a piece of the entry after `append.prev`: how much of it is there,
    /// or nothing if the append is to be taken like any other, with the whole
    /// entry if this was the last piece.
    fn take_part(&mut self, append: &mut Append, part: Part) -> Option<usize> {
        let seq = append.prev.seq.next();
        let head = part.head.position();
        if part.head.seq != seq || !matches!(self.find_prev(append.prev), Ok(None)) {
            // What is wrong with it is said as of a bare one.
            return None;
        }
        if self.log.position(seq) == Some(head) {
            // It is there: the same as being asked for the point after it.
            append.prev = head;
            return None;
        }
        if seq <= self.commit {
            return None;
        }
        match Assembly::take(&mut self.assembly, part) {
            Assembled::Partial(bytes) => Some(bytes),
            Assembled::Whole(entry) => {
                append.entries.push(entry);
                None
            }
        }
    }

    /// Answers if an answer is wanted.
    fn answer(&mut self, who: &Sender, append: &Append, gate: Gate, result: AppendResult, out: &mut Outbox) {
        let Some(echo) = append.sent else {
            return;
        };
        let message = Message::Appended(Appended { echo, result, applied: self.applied.seq });
        self.send(who.route.clone(), gate, message, out);
    }

    /// The sender is the writer of this term.
    fn follow(&mut self, now: Now, who: &Sender, renews: bool) {
        match self.stance {
            Stance::PreCandidate(_) | Stance::Candidate(_) => self.stance = Stance::Follower,
            Stance::Follower | Stance::Writer(_) => {}
        }
        self.writer = Some(who.id.clone());
        self.tries = 0;
        self.hear(who, now.mono);
        if renews {
            let until = now.mono.after(self.config.lease);
            self.promise = Some(Promise { to: who.id.clone(), until });
            self.arm_election(until);
        } else {
            // It hands over: its chosen successor comes first.
            self.election_at = self.election_at.max(now.mono.after(self.config.heartbeat));
        }
    }

    /// Checks and stores what fits.
    fn take_entries(&mut self, append: &Append, out: &mut Outbox) -> Result<Taken, FrameRefusal> {
        let mut before = append.prev;
        for entry in &append.entries {
            let sound = entry.follows(&before)
                && entry.stream == self.stream()
                && entry.term <= self.hard.term
                && (entry.kind != EntryKind::Config || decode_membership(entry.payload.clone()).is_ok());
            if !sound {
                return Err(FrameRefusal::Contradiction);
            }
            before = entry.position();
        }
        if let Some(missing) = self.find_prev(append.prev)? {
            return Ok(Taken::Missing(missing));
        }
        // What of it is new?
        let mut keep = None;
        let mut first_new = append.entries.len();
        for (n, entry) in append.entries.iter().enumerate() {
            if entry.seq > self.log.last().seq {
                first_new = n;
                break;
            }
            let held = self.log.position(entry.seq);
            if held.is_none_or(|held| held == entry.position()) {
                continue;
            }
            if entry.seq <= self.commit {
                return Err(FrameRefusal::Contradiction);
            }
            keep = Some(Seq(entry.seq.0 - 1));
            first_new = n;
            break;
        }
        let matched = before.seq;
        if planted!(self.config, TruncatesWithoutConflict) && keep.is_none() && matched < self.log.last().seq {
            keep = Some(matched);
            first_new = append.entries.len();
        }
        let new: Vec<Entry> = append.entries[first_new..].to_vec();
        let fresh = !new.is_empty();
        if let Some(keep) = keep {
            self.truncate_log(keep, new, out);
        } else if fresh {
            let through = before.seq;
            self.disk.persist(Record::Append { keep: None, entries: new.clone() }, through, out);
            for entry in new {
                self.append_to_view(entry, out);
            }
        }
        Ok(Taken::Matched { matched, fresh })
    }

    /// Whether the point before the entries is in the log; if not, what to
    /// answer.
    fn find_prev(&self, prev: Position) -> Result<Option<AppendResult>, FrameRefusal> {
        let last = self.log.last();
        let held = self.log.position(prev.seq);
        if held == Some(prev) || planted!(self.config, PrevNotChecked) && prev.seq <= last.seq {
            return Ok(None);
        }
        if prev.seq <= self.commit {
            // A point that is known and differs contradicts what was
            // committed. One that has left memory can be compared by term
            // only, and one below the log not at all; being committed, it is
            // the same in every writer's log.
            let term = self.log.term(prev.seq);
            let differs = held.is_some() || term.is_some_and(|term| term != prev.term);
            return if differs { Err(FrameRefusal::Contradiction) } else { Ok(None) };
        }
        let hint = if prev.seq > last.seq {
            last
        } else {
            let seq = self.log.last_not_above(Seq(prev.seq.0 - 1), prev.term).max(self.commit);
            self.log.position(seq).unwrap_or(last)
        };
        // Said once all of the log is durable: a lower end would contradict an
        // acknowledgement that waits for the same disk, and look like amnesia.
        Ok(Some(AppendResult::Mismatch { hint, last: last.seq }))
    }

    /// Adds an entry to the view; its record is already ordered.
    pub(super) fn append_to_view(&mut self, entry: Entry, out: &mut Outbox) {
        if !planted!(self.config, StampsFall) {
            self.hlc.raise(entry.hlc);
        }
        self.assembly = None;
        if entry.kind == EntryKind::Config
            && let Ok(membership) = decode_membership(entry.payload.clone())
        {
            out.push(Output::Event(Event::MembershipChanged { version: membership.version }));
            self.memberships.push((entry.seq, membership));
        }
        if entry.seq == self.applied.seq && entry.position() != self.applied {
            // After amnesia: the data holds something that the cluster never
            // committed at this place.
            self.health.quarantined = true;
        }
        self.log.append(entry);
    }

    /// Everything up to `commit` is committed; never taken back.
    pub(super) fn raise_commit(&mut self, commit: Seq, out: &mut Outbox) {
        if commit <= self.commit {
            return;
        }
        assert!(commit <= self.log.last().seq, "what is committed is in the log");
        self.commit = commit;
        self.settle_birth(out);
        self.settle_memberships();
        self.order_apply(out);
        self.log.evict(self.commit, self.config.sizes.memory_max);
    }

    /// Orders to be applied what is committed and durable here: data that is
    /// ahead of its own log would look like amnesia after a crash.
    pub(super) fn order_apply(&mut self, out: &mut Outbox) {
        let mut through = self.commit.min(self.durable);
        if planted!(self.config, ApplyBeforeDurable) {
            through = self.commit;
        }
        if through <= self.ordered {
            return;
        }
        if self.stores_data() && self.ordered < self.log.base().seq {
            // What comes next is not in the log any more: never skipped, a
            // snapshot brings it.
            return;
        }
        let mut from = self.ordered.next();
        if planted!(self.config, EntrySkipped) && from < through {
            from = from.next();
        }
        if planted!(self.config, EntryAppliedTwice) && self.ordered > self.log.base().seq {
            from = self.ordered;
        }
        self.ordered = through;
        if !self.stores_data() {
            return;
        }
        let first = self.log.ring_first().map_or(from, |first| first.max(from));
        let entries = self.log.entries(first, through, usize::MAX).unwrap_or_default();
        out.push(Output::Apply { from, through, entries });
    }

    pub(super) fn on_applied(&mut self, position: Position, content: ContentHash) {
        // A driver that is ahead of what was ordered, or repeats itself, is
        // not believed.
        if position.seq <= self.applied.seq || position.seq > self.ordered {
            return;
        }
        self.applied = position;
        self.health.samples.note(position, content);
    }

    pub(super) fn on_log_trimmed(&mut self, first: Seq, base: Position) {
        let sound = first == base.seq.next()
            && base.seq <= self.commit
            && self.log.position(base.seq).is_none_or(|known| known == base);
        if sound {
            self.log.trim(base);
        }
    }

    pub(super) fn on_snapshot_installed(
        &mut self,
        now: Now,
        position: Position,
        membership: Membership,
        content: ContentHash,
        log_reset: bool,
        out: &mut Outbox,
    ) {
        self.health.fetching = None;
        self.health.fetching_log = false;
        self.health.called_for = None;
        self.health.failed_fetches = 0;
        if log_reset {
            // What a writer counts on is no longer there.
            self.step_down(now, StepDownReason::Unfit, out);
            self.stance = Stance::Follower;
        }
        if log_reset && position.term > self.hard.term {
            // Its source went on to follow a writer that this node has not
            // heard of. A term in the log is a term heard of.
            self.adopt_term(now, position.term, out);
        }
        let held = self.log.position(position.seq);
        if log_reset {
            // Entries that followed this very point are gone with the reset.
            // If they were acknowledged, this is amnesia.
            let lost =
                held == Some(position) && self.durable > position.seq || held.is_none() && position.seq < self.commit;
            self.log.reset(position);
            self.disk.forget_after(position.seq);
            self.durable = position.seq;
            self.memberships = vec![(position.seq, membership)];
            self.commit = position.seq;
            if lost {
                self.take_new_incarnation(now, out);
            }
        } else if held.is_some_and(|held| held != position) || position.seq > self.log.last().seq {
            // The log does not contain what the data now does.
            self.health.quarantined = true;
            return;
        }
        self.health.quarantined = false;
        self.health.halted = None;
        self.applied = position;
        self.ordered = position.seq;
        if self.stores_data() {
            self.health.samples.restart(position, content);
        }
        if position.seq > self.commit {
            self.raise_commit(position.seq, out);
        }
        self.settle_birth(out);
        self.settle_memberships();
        self.order_apply(out);
        if self.memberships.is_empty() {
            return;
        }
        // A voter in the membership it just learned stands like any other.
        if self.writer.is_none() {
            self.arm_election(now.mono.after(self.config.lease));
        }
    }

    pub(super) fn on_need_snapshot(
        &mut self,
        now: Now,
        who: &Sender,
        at_least: Position,
        from: crate::ids::Url,
        out: &mut Outbox,
    ) {
        let current = who.term == self.hard.term && self.writer.as_ref() == Some(&who.id);
        if !current || at_least.seq <= self.log.base().seq || self.log.position(at_least.seq) == Some(at_least) {
            return;
        }
        if self.health.may_fetch(now.mono) {
            self.health.fetching = Some(now.mono);
            self.health.fetching_log = true;
            out.push(Output::FetchSnapshot { from, at_least, reseed: false });
        } else if !self.health.fetching_log {
            self.health.called_for = Some((at_least, from));
        }
    }

    pub(super) fn term_of(&self, seq: Seq) -> Option<Term> {
        self.log.term(seq)
    }

    pub(super) fn own_identity(&self) -> (&crate::ids::NodeId, Incarnation) {
        (&self.config.id, self.hard.incarnation)
    }
}

/// What became of an append.
enum Taken {
    /// Its entries are in the log; `fresh` if some were not before.
    Matched { matched: Seq, fresh: bool },
    /// The point before them is not.
    Missing(AppendResult),
}
