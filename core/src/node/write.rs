//! The writer: proposals, the commit rule, the lease, linearizable reads.
//!
//! Decides what is committed (a quorum's durable acknowledgements of an entry
//! of this very term) and whether a permit holds. Knows nothing of how
//! followers are fed.

use super::identity::Sender;
use super::pace::Pace;
use super::progress::{Progress, Proposal, Read, Writer};
use super::{Node, Stance};
use crate::entry::{Entry, EntryKind};
use crate::ids::{NodeId, Seq, Url};
use crate::io::{
    AdminOutcome, CallId, Event, FrameRefusal, Outbox, Output, ProposalId, Record, Refusal, StepDownReason, WritePermit,
};
use crate::lease;
use crate::member::{Member, Membership, Role};
use crate::message::{AppendResult, Appended, Message, Refused};
use crate::planted;
use crate::quorum;
use crate::time::{MonoTime, Now};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

impl Node {
    /// A node with a slow disk asks for the pin again after so many of the
    /// longest tenures: ten minutes by default.
    const SLOW_TENURES: u32 = 20;

    pub(super) fn become_writer(&mut self, now: Now, out: &mut Outbox) {
        let own = (self.config.id.clone(), self.hard.incarnation);
        assert_eq!(self.hard.voted_for, Some(own), "a writer has its own vote");
        self.tries = 0;
        self.writer = Some(self.config.id.clone());
        self.promise = None;
        out.push(Output::Event(Event::BecameWriter { term: self.hard.term }));
        let founds = self.unborn() && self.memberships.is_empty();
        let mut payloads = Vec::new();
        if founds {
            payloads.push((EntryKind::Config, self.charter()));
        }
        payloads.push((EntryKind::Noop, Bytes::new()));
        self.stance = Stance::Writer(Box::new(Writer {
            term: self.hard.term,
            since: self.stamp(now),
            noop: Seq(self.log.last().seq.0 + payloads.len() as u64),
            progress: BTreeMap::new(),
            proposals: VecDeque::new(),
            reads: Vec::new(),
            orders: Vec::new(),
            handover: None,
            handover_again: now.mono,
            lease_floor: now.mono,
            told: (Seq(0), Seq(0), Seq(0)),
            loads: BTreeMap::new(),
            suspect: false,
            pace: Pace::new(now.mono),
            quicker: None,
            held_up: None,
        }));
        self.append_own(now, payloads, out);
        self.sync_progress(now);
    }

    /// Appends entries of this writer's term; they are shipped while they are
    /// being written, but its own word counts only once they are durable.
    pub(super) fn append_own(&mut self, now: Now, payloads: Vec<(EntryKind, Bytes)>, out: &mut Outbox) {
        let mut entries: Vec<Entry> = Vec::with_capacity(payloads.len());
        let mut prev = self.log.last();
        for (kind, payload) in payloads {
            let mut hlc = self.hlc.tick(now.wall);
            if planted!(self.config, StampsFall) {
                hlc = crate::hlc::Hlc::new(now.wall.0, 0);
            }
            let entry = Entry::following(&prev, self.stream(), self.hard.term, hlc, kind, payload);
            prev = entry.position();
            entries.push(entry);
        }
        let record = Record::Append { keep: None, entries: entries.clone() };
        self.disk.persist(record, prev.seq, out);
        if let Stance::Writer(writer) = &mut self.stance {
            writer.pace.order(prev.seq, now.mono);
        }
        for entry in entries {
            self.append_to_view(entry, out);
        }
    }

    pub(super) fn on_propose(&mut self, now: Now, id: ProposalId, payloads: Vec<Bytes>, out: &mut Outbox) {
        let sound = payloads.iter().all(|p| p.len() <= Entry::PAYLOAD_MAX);
        let refusal = match self.write_permit(now) {
            Ok(_) if sound => None,
            // More than an entry holds: the store should have refused it
            // before.
            Ok(_) => Some(Refusal::Unfit),
            Err(refusal) => Some(refusal),
        };
        if let Some(refusal) = refusal {
            out.push(Output::ProposalRefused { id, refusal });
            return;
        }
        let first = self.log.last().seq.next();
        if payloads.is_empty() {
            // Nothing to log; it was asked whether this node still writes.
            let last = self.log.last();
            out.push(Output::Proposed { id, first, last });
            return;
        }
        let payloads = payloads.into_iter().map(|p| (EntryKind::Data, p)).collect();
        self.append_own(now, payloads, out);
        let last = self.log.last();
        if let Stance::Writer(writer) = &mut self.stance {
            writer.proposals.push_back(Proposal { id, last: last.seq });
        }
        out.push(Output::Proposed { id, first, last });
    }

    pub(super) fn on_appended(&mut self, now: Now, who: &Sender, appended: Appended, out: &mut Outbox) {
        let (last, last_stamp) = (self.log.last().seq, self.last_stamp);
        let heartbeat = self.config.heartbeat;
        let Stance::Writer(writer) = &mut self.stance else {
            return;
        };
        let echo = appended.echo;
        if who.term != writer.term || echo < writer.since || echo > last_stamp {
            return;
        }
        let Some(progress) = writer.progress.get_mut(&who.id) else {
            self.refuse(who, FrameRefusal::NotAMember, out);
            return;
        };
        if progress.incarnation != who.incarnation {
            self.refuse(who, FrameRefusal::OtherIncarnation, out);
            return;
        }
        if progress.amnesiac.is_some() {
            return;
        }
        match appended.result {
            AppendResult::Durable { matched } if matched > last => {
                self.refuse(who, FrameRefusal::Contradiction, out);
                return;
            }
            AppendResult::Durable { matched } => {
                progress.acked = progress.acked.max(Some(echo));
                if planted!(self.config, LeaseFromReceipt) {
                    progress.acked = Some(now.mono);
                }
                progress.applied = progress.applied.max(appended.applied);
                let stored = progress.answered(echo, now.mono, heartbeat, false);
                progress.matched(matched, last_stamp);
                if let Some(took) = stored {
                    writer.pace.other(&who.id, took);
                }
            }
            AppendResult::Partial { seq, bytes } => {
                progress.acked = progress.acked.max(Some(echo));
                progress.applied = progress.applied.max(appended.applied);
                progress.answered(echo, now.mono, heartbeat, true);
                progress.has_part(seq, bytes, echo, last_stamp);
            }
            AppendResult::Mismatch { hint, last: theirs } => {
                if theirs < progress.matched && echo > progress.matched_at {
                    // In one term an acknowledged entry cannot go away, except
                    // with its disk. This answers something sent after the
                    // acknowledgement came in: one sent before it may have
                    // overtaken the entry itself.
                    progress.amnesiac = Some(last_stamp);
                    let acknowledged = progress.matched;
                    let refused =
                        Message::Refused(Refused::Amnesia { incarnation: progress.incarnation, acknowledged });
                    self.send(who.route.clone(), super::Gate::HardState, refused, out);
                    return;
                }
                progress.acked = progress.acked.max(Some(echo));
                if hint.seq >= progress.matched && echo > progress.matched_at {
                    self.step_back(&who.id, hint);
                }
            }
        }
        self.hear(who, echo);
        self.advance_commit_as_writer(now, out);
        self.answer_reads(now, out);
    }

    /// The commit rule: an entry of this term that q voters have made durable,
    /// this node among them, and with it everything before (Raft 5.4.2).
    pub(super) fn advance_commit_as_writer(&mut self, now: Now, out: &mut Outbox) {
        let Stance::Writer(writer) = &self.stance else {
            return;
        };
        let mut matches = [Seq(0); Membership::MEMBERS_MAX];
        let voters = self.membership().voters();
        let learners = self.membership().members.iter();
        let learners = learners.filter(|m| planted!(self.config, LearnerCounted) && !m.votes());
        let matches = gather(&mut matches, voters.chain(learners).map(|m| self.matched_by(writer, m)));
        let all = matches.iter().min().copied().unwrap_or_default();
        let mut reached = quorum::reached(matches, self.quorum()).unwrap_or_default();
        if !planted!(self.config, WriterCountsUnsynced) {
            reached = reached.min(self.durable);
        }
        let own_term = self.term_of(reached) == Some(writer.term) || planted!(self.config, CommitOldTerm);
        let stalled =
            planted!(self.config, StallAfterLeaderChange) && self.term_of(self.commit.next()) != Some(writer.term);
        if reached > self.commit && own_term && !stalled {
            self.raise_commit(reached, out);
        }
        let told = (self.durable, self.commit, all);
        let commit = self.commit;
        let Stance::Writer(writer) = &mut self.stance else {
            return;
        };
        while writer.proposals.front().is_some_and(|p| p.last <= commit) {
            writer.proposals.pop_front();
        }
        let mut done = Vec::new();
        writer.orders.retain(|(id, seq)| {
            if *seq <= commit {
                done.push(*id);
            }
            *seq > commit
        });
        for id in done {
            out.push(Output::AdminDone { id, outcome: AdminOutcome::Done });
        }
        if writer.told != told {
            writer.told = told;
            let (durable, committed, all) = told;
            out.push(Output::Progress { durable, committed, all });
        }
        self.answer_reads(now, out);
    }

    /// What a voter has made durable, by name and incarnation.
    pub(super) fn matched_by(&self, writer: &Writer, member: &Member) -> Seq {
        match &member.identity {
            Some((id, incarnation)) if *id == self.config.id => {
                if planted!(self.config, WriterCountsUnsynced) {
                    self.log.last().seq
                } else if *incarnation == self.hard.incarnation {
                    self.durable
                } else {
                    Seq(0)
                }
            }
            Some((id, incarnation)) => match writer.progress.get(id) {
                Some(p) if p.incarnation == *incarnation && p.amnesiac.is_none() => p.matched,
                Some(p) if planted!(self.config, StrangerCounted) => p.matched,
                _ => Seq(0),
            },
            None => Seq(0),
        }
    }

    /// The newest own send time that a quorum has answered, this node itself
    /// having answered at `now`.
    pub(super) fn quorum_answered(&self, writer: &Writer, now: MonoTime) -> Option<MonoTime> {
        let answered_by = |member: &Member| match &member.identity {
            Some((id, incarnation)) if *id == self.config.id => {
                if *incarnation == self.hard.incarnation {
                    now
                } else {
                    MonoTime(0)
                }
            }
            Some((id, incarnation)) => writer
                .progress
                .get(id)
                .filter(|p: &&Progress| p.incarnation == *incarnation && p.amnesiac.is_none())
                .and_then(|p| p.acked)
                .unwrap_or_default(),
            None => MonoTime(0),
        };
        let mut answered = [MonoTime(0); Membership::MEMBERS_MAX];
        let answered = gather(&mut answered, self.membership().voters().map(answered_by));
        let mut quorum = self.quorum();
        if planted!(self.config, LeaseFromAnyAnswer) {
            quorum = 1;
        }
        let at = quorum::reached(answered, quorum)?;
        (at > MonoTime(0)).then_some(at)
    }

    /// When the lease ends; `None` if none was ever held in this term, or it
    /// was given up (R1).
    pub(super) fn lease_end(&self, writer: &Writer, now: Now) -> Option<MonoTime> {
        if writer.handover.as_ref().is_some_and(|h| h.sent) && !planted!(self.config, LeaseAfterHandover) {
            return None;
        }
        // One that removes itself may leave a sole voter behind, which after a
        // restart waits for nobody's lease.
        if !self.is_voter() {
            return None;
        }
        let sent = self.quorum_answered(writer, now.mono)?;
        if sent < writer.lease_floor {
            return None;
        }
        let mut lease = self.config.lease;
        if planted!(self.config, LeaseTooLong) {
            lease = lease * 6 / 5;
        }
        Some(lease::end(sent, lease, self.config.clock_rate_ppm))
    }

    /// Once a heartbeat: a writer whose own disk alone keeps entries from being
    /// committed makes room for another. Its lease would go on for ever: the
    /// answers to its heartbeats do not wait for its disk.
    pub(super) fn watch_own_disk(&mut self, now: Now, out: &mut Outbox) {
        let Stance::Writer(writer) = &self.stance else {
            return;
        };
        let others = self.membership().voters().filter(|m| m.id() != Some(&self.config.id));
        let mut matches: Vec<Seq> = others.map(|member| self.matched_by(writer, member)).collect();
        let reached = quorum::reached(&mut matches, self.membership().quorum()).unwrap_or_default();
        let held_up = match writer.held_up {
            Some((seq, since)) if self.durable < seq => Some((seq, since)),
            _ => (reached > self.durable).then_some((reached, now.mono)),
        };
        let too_long = held_up.is_some_and(|(_, since)| now.mono.since(since) >= self.config.lease);
        if let Stance::Writer(writer) = &mut self.stance {
            writer.held_up = held_up;
        }
        if too_long {
            self.health.slow = true;
            // A disk that stalls again and again would take the pin back after
            // each tenure, and cost an election each time.
            self.leave_pin_to_others(now);
            self.step_down(now, StepDownReason::SlowDisk, out);
        }
    }

    /// When a quorum will have been silent for a lease.
    pub(super) fn quorum_lost_at(&self, writer: &Writer) -> Option<MonoTime> {
        if self.sole_voter() || planted!(self.config, QuorumLossIgnored) {
            return None;
        }
        let answered = self.quorum_answered(writer, self.last_step).unwrap_or_default();
        Some(answered.max(writer.since).after(self.config.lease))
    }

    fn committed_own(&self, writer: &Writer) -> bool {
        self.commit >= writer.noop
    }

    /// Elected, its own entry committed and everything up to it applied.
    pub(super) fn ready(&self, writer: &Writer) -> bool {
        self.committed_own(writer) && self.applied.seq >= writer.noop && self.stores_data()
    }

    pub(super) fn write_permit(&self, now: Now) -> Result<WritePermit, Refusal> {
        if self.stop_by.is_some() {
            return Err(Refusal::Stopping);
        }
        let permit = self.read_permit(now)?;
        if self.health.full && !planted!(self.config, WritesWhileUnfit) {
            return Err(Refusal::Unfit);
        }
        if let Stance::Writer(writer) = &self.stance
            && writer.handover.is_some()
            && !planted!(self.config, LeaseAfterHandover)
        {
            return Err(Refusal::HandingOver);
        }
        Ok(permit)
    }

    pub(super) fn read_permit(&self, now: Now) -> Result<WritePermit, Refusal> {
        if self.unborn() {
            return Err(Refusal::Unborn);
        }
        let Stance::Writer(writer) = &self.stance else {
            return Err(self.not_writer());
        };
        let unfit = self.health.quarantined || self.health.halted.is_some();
        if self.health.duplicate(now.mono) || unfit && !planted!(self.config, WritesWhileUnfit) {
            return Err(Refusal::Unfit);
        }
        if !self.stores_data() {
            return Err(self.not_writer());
        }
        if !self.ready(writer) {
            return Err(Refusal::NotReady);
        }
        let handed = writer.handover.as_ref().is_some_and(|h| h.sent);
        if handed && !planted!(self.config, LeaseAfterHandover) {
            return Err(Refusal::HandingOver);
        }
        // Asked long after the last turn, this process was asleep: nothing it
        // believes is fresh (B2).
        if now.mono.since(self.last_step) > self.config.lease / 2 && !planted!(self.config, PauseNotNoticed) {
            return Err(Refusal::LeaseExpired);
        }
        match self.lease_end(writer, now) {
            Some(until) if now.mono < until => Ok(WritePermit { term: writer.term, until }),
            _ => Err(Refusal::LeaseExpired),
        }
    }

    pub(super) fn not_writer(&self) -> Refusal {
        let writer = self.known_writer().map(|(id, url)| (id.clone(), url.clone()));
        Refusal::NotWriter { writer, term: self.hard.term }
    }

    pub(super) fn on_read_index(&mut self, now: Now, id: CallId, out: &mut Outbox) {
        let since = self.stamp(now);
        let refusal = if self.unborn() {
            Some(Refusal::Unborn)
        } else if self.health.duplicate(now.mono) {
            Some(Refusal::Unfit)
        } else if self.stores_data() {
            None
        } else {
            Some(self.not_writer())
        };
        let not_writer = self.not_writer();
        match (&mut self.stance, refusal) {
            (Stance::Writer(writer), None) => {
                writer.reads.push(Read { id, since });
                self.answer_reads(now, out);
                if let Stance::Writer(writer) = &mut self.stance
                    && !writer.reads.is_empty()
                {
                    // Ask now: the answer must be to something sent later.
                    writer.progress.values_mut().for_each(|p| p.due = true);
                }
            }
            (_, Some(refusal)) => out.push(Output::ReadRefused { id, refusal }),
            (_, None) => out.push(Output::ReadRefused { id, refusal: not_writer }),
        }
    }

    /// Lets reads go whose proof is there: the lease, or a quorum's answer to
    /// something sent after the call; either way with an entry of this term
    /// committed, so that the commit index is not an old one.
    pub(super) fn answer_reads(&mut self, now: Now, out: &mut Outbox) {
        let Stance::Writer(writer) = &self.stance else {
            return;
        };
        let own = self.committed_own(writer) || planted!(self.config, ReadBeforeOwnEntry);
        if writer.reads.is_empty() || !own {
            return;
        }
        let mut leased = self.lease_end(writer, now).is_some_and(|end| now.mono < end);
        if planted!(self.config, ReadWithoutProof) {
            leased = true;
        }
        // Its own answer is always the newest.
        let own = MonoTime(self.last_stamp.0.saturating_add(1));
        let answered = self.quorum_answered(writer, own).unwrap_or_default();
        let mut at = self.commit;
        if planted!(self.config, ReadAtOldIndex) {
            at = Seq(at.0.saturating_sub(1));
        }
        if let Stance::Writer(writer) = &mut self.stance {
            writer.reads.retain(|read| {
                let proven = leased || answered > read.since;
                if proven {
                    out.push(Output::ReadReady { id: read.id, at });
                }
                !proven
            });
        }
    }

    /// Stops being writer, candidate or pre-candidate within the term.
    pub(super) fn step_down(&mut self, now: Now, reason: StepDownReason, out: &mut Outbox) {
        let stance = core::mem::replace(&mut self.stance, Stance::Follower);
        let Stance::Writer(writer) = stance else {
            return;
        };
        let handed_over = writer.handover.as_ref().is_some_and(|h| h.sent) && reason == StepDownReason::HigherTerm;
        let reason = if handed_over { StepDownReason::HandedOver } else { reason };
        if handed_over {
            self.note_transfer(now);
        }
        let term = writer.term;
        out.push(Output::Event(Event::SteppedDown { term, reason }));
        self.writer = None;
        let refusal = self.not_writer();
        for proposal in &writer.proposals {
            if planted!(self.config, UnknownCalledRefused) {
                out.push(Output::ProposalRefused { id: proposal.id, refusal: refusal.clone() });
                continue;
            }
            out.push(Output::ProposalUnknown { id: proposal.id });
        }
        for read in &writer.reads {
            out.push(Output::ReadRefused { id: read.id, refusal: refusal.clone() });
        }
        for (id, _) in &writer.orders {
            out.push(Output::AdminDone { id: *id, outcome: AdminOutcome::TimedOut });
        }
        self.end_handover(&writer, handed_over, out);
        // Whoever was just deposed leaves the next election to the others for
        // a moment: they have not promised anything to it.
        self.arm_election(now.mono.after(self.config.heartbeat));
    }

    /// Who writes, if that is known and stores data.
    pub(super) fn known_writer(&self) -> Option<(&NodeId, &Url)> {
        let id = self.writer.as_ref()?;
        if *id == self.config.id {
            return self.stores_data().then_some((id, &self.config.url));
        }
        match self.member_anywhere(id) {
            Some(member) => (member.role != Role::Witness).then_some((id, &member.url)),
            None => self.peers.get(id).map(|peer| (id, &peer.url)),
        }
    }

    /// What a writer does on every turn.
    pub(super) fn tick_writer(&mut self, now: Now, out: &mut Outbox) {
        let Stance::Writer(writer) = &self.stance else {
            return;
        };
        if self.quorum_lost_at(writer).is_some_and(|at| now.mono >= at) {
            self.step_down(now, StepDownReason::QuorumLost, out);
            return;
        }
        if self.removed() && self.no_heir(now) {
            self.step_down(now, StepDownReason::Removed, out);
            return;
        }
        self.tick_pace(now, out);
        self.tick_handover(now, out);
    }

    /// Once a lease: a disk that makes every write slow is reason to hand over.
    /// The node does not ask for the pin again for a good while: nothing says
    /// that its disk has become quicker.
    fn tick_pace(&mut self, now: Now, out: &mut Outbox) {
        let floor = self.config.heartbeat / 4;
        let Stance::Writer(writer) = &self.stance else {
            return;
        };
        if !writer.pace.due(now.mono, self.config.lease) {
            return;
        }
        let heirs: Vec<NodeId> = match self.config.static_writer {
            Some(_) => Vec::new(),
            None => self.heirs(writer, now).map(|(id, _)| id.clone()).collect(),
        };
        let Stance::Writer(writer) = &mut self.stance else {
            return;
        };
        let Some(slow) = writer.pace.judge(now.mono, self.config.lease, floor, &heirs) else {
            return;
        };
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        out.push(Output::Event(Event::SlowDisk { ms: ms(slow.own), best_ms: ms(slow.best) }));
        writer.quicker = Some(slow.heir);
        self.leave_pin_to_others(now);
    }

    /// Does not ask for the pin for a good while: its disk was found slow.
    fn leave_pin_to_others(&mut self, now: Now) {
        self.health.slow_until = now.mono.after(self.config.tenure_max * Self::SLOW_TENURES);
    }
}

/// Puts one value for each voter into `room`; a membership has no more.
fn gather<T>(room: &mut [T; Membership::MEMBERS_MAX], values: impl Iterator<Item = T>) -> &mut [T] {
    let mut count = 0;
    for value in values {
        room[count] = value;
        count += 1;
    }
    &mut room[..count]
}
