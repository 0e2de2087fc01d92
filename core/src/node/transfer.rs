//! Handing the pin over (R6, Raft 3.10).
//!
//! Decides to whom, when, and what a hand-over that fails means. A preferred
//! node never takes the pin: it asks, the writer drains, gives up its lease for
//! the rest of the term and tells the other to stand. Knows nothing of how
//! votes are counted.

use super::identity::Sender;
use super::progress::{Handover, Why, Writer};
use super::{Gate, Node, Stance};
use crate::ids::NodeId;
use crate::io::{AdminOutcome, CallId, Event, Outbox, Output, StepDownReason};
use crate::member::{Member, Role};
use crate::message::Message;
use crate::planted;
use crate::time::Now;
use core::cmp::Reverse;

impl Node {
    /// Once a heartbeat a preferred follower asks for the pin.
    pub(super) fn ask_for_pin(&mut self, now: Now, out: &mut Outbox) {
        if planted!(self.config, NoPreference) {
            return;
        }
        let Some(writer) = self.writer.clone() else {
            return;
        };
        let preferred = match &self.config.static_writer {
            Some(url) => *url == self.config.url,
            None => self.config.id < writer || self.is_witness(&writer),
        };
        let asks = matches!(self.stance, Stance::Follower)
            && writer != self.config.id
            && preferred
            && self.may_ask(now)
            && self.applied.seq >= self.commit_floor()
            && self.commit == self.ordered;
        if asks {
            self.tell(&writer, Gate::HardState, Message::AskTransfer, out);
        }
    }

    fn may_ask(&self, now: Now) -> bool {
        let voter = self.membership().get(&self.config.id).is_some_and(|m| m.role == Role::Voter);
        voter
            && self.is_voter()
            && self.eligible(now.mono)
            && now.mono >= self.abstain_until
            && now.mono >= self.silent_until
            && now.mono >= self.health.slow_until
            && self.stop_by.is_none()
    }

    fn is_witness(&self, id: &NodeId) -> bool {
        self.membership().get(id).is_some_and(|m| m.role == Role::Witness)
    }

    pub(super) fn on_ask_transfer(&mut self, now: Now, who: &Sender, out: &mut Outbox) {
        let Stance::Writer(writer) = &self.stance else {
            return;
        };
        let preferred = match &self.config.static_writer {
            Some(url) => self.membership().get(&who.id).is_some_and(|m| m.url == *url),
            None => who.id < self.config.id || !self.stores_data(),
        };
        let voter = self.membership().is_voter(&who.id, who.incarnation);
        if who.term != writer.term || !preferred || !voter {
            return;
        }
        let tenured = now.mono.since(writer.since) >= self.tenure_now(now) || !self.stores_data();
        let ready = tenured && self.may_start_handover(writer, now);
        if let Some(peer) = self.peers.get_mut(&who.id) {
            peer.asked = Some(now.mono);
        }
        if !ready {
            return;
        }
        if let Some(heir) = self.most_preferred(now) {
            self.start_handover(now, heir, Why::Preference, out);
        }
    }

    /// Of those that ask for the pin, the one that nobody else would take it
    /// from again: with n0 and n1 asking n2, a hand-over to n1 because its
    /// question came first would be followed by a second one to n0.
    fn most_preferred(&self, now: Now) -> Option<NodeId> {
        let Stance::Writer(writer) = &self.stance else {
            return None;
        };
        // Each asks once a heartbeat; one question may be lost.
        let patience = self.config.heartbeat * 2;
        let asks = |id: &&NodeId| {
            let asked = self.peers.get(*id).and_then(|peer| peer.asked);
            asked.is_some_and(|at| now.mono.since(at) <= patience)
        };
        self.heirs(writer, now).map(|(id, _)| id).filter(asks).min().cloned()
    }

    fn may_start_handover(&self, writer: &Writer, now: Now) -> bool {
        writer.handover.is_none() && self.commit >= writer.noop && now.mono >= writer.handover_again
    }

    /// Whether a member may be handed the pin: a voter with data that is alive,
    /// fit, nearly caught up, and whose content does not differ.
    fn can_take_pin(&self, writer: &Writer, id: &NodeId, now: Now) -> bool {
        let Some(member) = self.membership().get(id) else {
            return false;
        };
        let Some((_, incarnation)) = &member.identity else {
            return false;
        };
        let peer = self.peers.get(id);
        let standing = peer.and_then(|p| p.standing.as_ref());
        member.role == Role::Voter
            && *id != self.config.id
            && self.alive(id, *incarnation, now.mono)
            && standing.is_some_and(|s| s.eligible && self.content_agrees(&s.contents))
            && self.matched_by(writer, member) >= self.commit_floor()
    }

    /// Whether nothing is known against another's content; a node that is
    /// itself in quarantine is no measure.
    pub(super) fn content_agrees(&self, contents: &[(crate::ids::Seq, crate::ids::ContentHash)]) -> bool {
        self.health.quarantined || !self.health.samples.differ(contents)
    }

    /// Who could take the pin.
    pub(super) fn heirs<'a>(&'a self, writer: &'a Writer, now: Now) -> impl Iterator<Item = (&'a NodeId, &'a Member)> {
        let voters = self.membership().voters().filter_map(|member| Some((member.id()?, member)));
        voters.filter(move |(id, _)| self.can_take_pin(writer, id, now))
    }

    /// The one with the most, the lowest id among equals.
    fn best_heir(&self, writer: &Writer, now: Now) -> Option<NodeId> {
        let most = |(id, member): &(&NodeId, &Member)| (self.matched_by(writer, member), Reverse((*id).clone()));
        self.heirs(writer, now).max_by_key(most).map(|(id, _)| id.clone())
    }

    pub(super) fn start_handover(&mut self, now: Now, to: NodeId, why: Why, out: &mut Outbox) {
        let patience = self.config.heartbeat * 2;
        if let Stance::Writer(writer) = &mut self.stance {
            out.push(Output::Event(Event::TransferStarted { to: to.clone() }));
            let until = now.mono.after(patience);
            writer.handover = Some(Handover { to, why, until, sent: false });
        }
    }

    /// The membership without this node is committed.
    pub(super) fn removed(&self) -> bool {
        !self.is_voter() && self.membership_settled()
    }

    /// Whether nobody could take the pin from this writer now.
    pub(super) fn no_heir(&self, now: Now) -> bool {
        match &self.stance {
            Stance::Writer(writer) => writer.handover.is_none() && self.best_heir(writer, now).is_none(),
            Stance::Follower | Stance::PreCandidate(_) | Stance::Candidate(_) => true,
        }
    }

    /// Whether something about this writer calls for another one, and why.
    fn wants_heir(&self) -> Option<Why> {
        if self.stop_by.is_some() {
            return Some(Why::Stopping);
        }
        if self.health.full || self.health.quarantined || self.health.halted.is_some() {
            return Some(Why::Unfit);
        }
        if self.removed() {
            return Some(Why::Unfit);
        }
        (!self.stores_data()).then_some(Why::Preference)
    }

    pub(super) fn tick_handover(&mut self, now: Now, out: &mut Outbox) {
        let Stance::Writer(writer) = &self.stance else {
            return;
        };
        let Some(handover) = &writer.handover else {
            if !self.may_start_handover(writer, now) {
                return;
            }
            let next = match (self.wants_heir(), &writer.quicker) {
                (Some(why), _) => self.best_heir(writer, now).map(|heir| (heir, why)),
                // Nobody else: with another slow disk nothing were gained.
                (None, Some(id)) => self.can_take_pin(writer, id, now).then(|| (id.clone(), Why::Slow)),
                (None, None) => None,
            };
            if let Some((heir, why)) = next {
                self.start_handover(now, heir, why, out);
                self.tick_handover(now, out);
            }
            return;
        };
        let to = handover.to.clone();
        if handover.sent {
            if now.mono >= handover.until {
                // Without a lease the term is of no more use.
                self.step_down(now, StepDownReason::TransferUntaken, out);
            }
            return;
        }
        let last = self.log.last().seq;
        let matched = self.membership().get(&to).map(|member| self.matched_by(writer, member)).unwrap_or_default();
        let drained = writer.proposals.is_empty() && self.commit == last && matched == last
            || planted!(self.config, HandoverWithoutMatch);
        if drained {
            let until = now.mono.after(self.config.lease);
            if let Stance::Writer(writer) = &mut self.stance {
                if let Some(handover) = &mut writer.handover {
                    handover.sent = true;
                    handover.until = until;
                }
                writer.progress.values_mut().for_each(|p| p.due = true);
            }
            self.tell(&to, Gate::Log, Message::TimeoutNow, out);
        } else if now.mono >= handover.until {
            self.abort_handover(now, out);
        }
    }

    /// The other did not catch up in time: go on writing.
    fn abort_handover(&mut self, now: Now, out: &mut Outbox) {
        let again = now.mono.after(self.config.lease);
        if let Stance::Writer(writer) = &mut self.stance {
            writer.handover_again = again;
            if let Some(handover) = writer.handover.take() {
                if let Why::Ordered(id) = handover.why {
                    out.push(Output::AdminDone { id, outcome: AdminOutcome::TimedOut });
                }
                out.push(Output::Event(Event::TransferFailed { to: handover.to }));
            }
        }
    }

    /// The writer has stepped down with a hand-over under way.
    pub(super) fn end_handover(&mut self, writer: &Writer, taken: bool, out: &mut Outbox) {
        let Some(handover) = &writer.handover else {
            return;
        };
        if let Why::Ordered(id) = handover.why {
            let outcome = if taken { AdminOutcome::Done } else { AdminOutcome::TimedOut };
            out.push(Output::AdminDone { id, outcome });
        }
        if !taken {
            out.push(Output::Event(Event::TransferFailed { to: handover.to.clone() }));
        }
    }

    /// Tenure doubles with each hand-over that follows another one quickly.
    pub(super) fn note_transfer(&mut self, now: Now) {
        self.tenure = (self.tenure_now(now) * 2).min(self.config.tenure_max);
        self.transferred = Some(now.mono);
    }

    /// How long to write before handing over to a preferred node: as short as
    /// configured again after a quiet time.
    fn tenure_now(&self, now: Now) -> core::time::Duration {
        let quiet = self.config.tenure_max * 2;
        match self.transferred {
            Some(at) if now.mono.since(at) < quiet => self.tenure,
            _ => self.config.tenure_min,
        }
    }

    pub(super) fn on_timeout_now(&mut self, now: Now, who: &Sender, out: &mut Outbox) {
        let from_writer = who.term == self.hard.term && self.writer.as_ref() == Some(&who.id);
        let able = self.is_voter()
            && self.eligible(now.mono)
            && self.stop_by.is_none()
            && matches!(self.stance, Stance::Follower);
        if from_writer && able {
            self.campaign(now, true, out);
        }
    }

    pub(super) fn order_transfer(&mut self, now: Now, id: CallId, to: Option<NodeId>, out: &mut Outbox) {
        let Stance::Writer(writer) = &self.stance else {
            let outcome = AdminOutcome::NotWriter(self.not_writer());
            out.push(Output::AdminDone { id, outcome });
            return;
        };
        let heir = match to {
            Some(to) if to == self.config.id => Err(AdminOutcome::NothingToDo),
            Some(to) if self.membership().get(&to).is_none() => Err(AdminOutcome::UnknownMember),
            Some(to) if self.can_take_pin(writer, &to, now) => Ok(to),
            Some(_) => Err(AdminOutcome::NotEligible),
            None => self.best_heir(writer, now).ok_or(AdminOutcome::NotEligible),
        };
        let busy = writer.handover.is_some() || self.commit < writer.noop;
        match heir {
            Err(outcome) => out.push(Output::AdminDone { id, outcome }),
            Ok(_) if busy => out.push(Output::AdminDone { id, outcome: AdminOutcome::Busy }),
            // Preference comes back: the lowest id asks again after a tenure.
            Ok(heir) => self.start_handover(now, heir, Why::Ordered(id), out),
        }
    }

    pub(super) fn order_step_down(&mut self, now: Now, id: CallId, out: &mut Outbox) {
        if matches!(self.stance, Stance::Writer(_)) {
            // A little longer than the promises that others gave it.
            self.abstain_until = now.mono.after(self.config.lease + self.config.heartbeat);
            self.step_down(now, StepDownReason::Ordered, out);
            out.push(Output::AdminDone { id, outcome: AdminOutcome::Done });
        } else {
            let outcome = AdminOutcome::NotWriter(self.not_writer());
            out.push(Output::AdminDone { id, outcome });
        }
    }

    pub(super) fn on_shutdown(&mut self, now: Now) {
        if self.stop_by.is_none() {
            self.stop_by = Some(now.mono.after(self.config.lease * 2));
        }
    }

    /// Stops once there is nothing to hand over, or nobody takes it.
    pub(super) fn tick_stop(&mut self, now: Now, out: &mut Outbox) {
        let Some(by) = self.stop_by.filter(|_| !self.stopped) else {
            return;
        };
        let alone = match &self.stance {
            Stance::Writer(writer) => {
                writer.handover.is_none() && writer.proposals.is_empty() && self.best_heir(writer, now).is_none()
            }
            Stance::Follower => true,
            Stance::PreCandidate(_) | Stance::Candidate(_) => {
                self.stance = Stance::Follower;
                true
            }
        };
        if alone || now.mono >= by {
            self.step_down(now, StepDownReason::Stopping, out);
            self.stopped = true;
            out.push(Output::Stopped);
        }
    }
}
