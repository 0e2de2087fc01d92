//! Whose frames are believed.
//!
//! Decides by cluster, incarnation, process and membership what a frame may
//! do: be acted on, raise the term, or be turned away. Knows nothing of what
//! the messages do then.

use super::peer::Peer;
use super::{Gate, Node, Stance};
use crate::ids::{ClusterId, Incarnation, NodeId, Url};
use crate::io::{Event, FrameRefusal, Outbox, Output, Route, StepDownReason};
use crate::message::{Envelope, Message, Refused};
use crate::planted;
use crate::time::Now;

/// BLAKE3 over the sorted seats, each ended by a line feed, first 16 bytes.
pub(super) fn seats_digest(seats: &[Url]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for seat in seats {
        hasher.update(seat.as_str().as_bytes());
        hasher.update(b"\n");
    }
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(bytes)
}

impl Node {
    pub(super) fn on_received(&mut self, now: Now, route: Route, envelope: Envelope, out: &mut Outbox) {
        if envelope.from == self.config.id {
            self.on_own_name(now, route, envelope, out);
            return;
        }
        if !self.same_cluster(now, &route, &envelope, out) {
            return;
        }
        if !self.note_peer(now, &route, &envelope) {
            self.refuse_frame(&envelope, FrameRefusal::OldProcess, out);
            // Late echoes may have proven the processes in the wrong order. If
            // this one lives, it says so to a ping of now.
            if matches!(envelope.message, Message::Ping(_)) {
                self.ping_back(now, &envelope.from, route, out);
            }
            return;
        }
        if envelope.term > self.hard.term && self.may_raise(now, &envelope) {
            self.adopt_term(now, envelope.term, out);
        }
        self.dispatch(now, route, envelope, out);
    }

    fn dispatch(&mut self, now: Now, route: Route, envelope: Envelope, out: &mut Outbox) {
        let Envelope { cluster, from, incarnation, nonce, term, config, message, .. } = envelope;
        let who = Sender { cluster, id: from, incarnation, nonce, term, config, route };
        match message {
            Message::Ping(ping) => self.on_ping(now, &who, ping, out),
            Message::Pong { echo, standing } => self.on_pong(now, &who, echo, standing, out),
            Message::Append(append) => self.on_append(now, &who, append, out),
            Message::Appended(appended) => self.on_appended(now, &who, appended, out),
            Message::PreVote { last, term } => self.on_pre_vote(now, &who, last, term, out),
            Message::PreVoted { term, granted } => {
                self.on_pre_voted(now, &who, term, granted, out);
            }
            Message::Vote { last, transfer } => self.on_vote(now, &who, last, transfer, out),
            Message::Voted { granted } => self.on_voted(now, &who, granted, out),
            Message::AskTransfer => self.on_ask_transfer(now, &who, out),
            Message::TimeoutNow => self.on_timeout_now(now, &who, out),
            Message::NeedSnapshot { at_least, from } => {
                self.on_need_snapshot(now, &who, at_least, from, out);
            }
            Message::Refused(refused) => self.on_refused(now, &who, refused, out),
        }
    }

    /// A frame in this node's own name: its own, come back; a late one of a
    /// process before it; or another live process (G6).
    fn on_own_name(&mut self, now: Now, route: Route, envelope: Envelope, out: &mut Outbox) {
        let own = envelope.nonce == self.nonce && envelope.incarnation == self.hard.incarnation;
        let pong = match &envelope.message {
            Message::Ping(ping) if !own => {
                // Lets the other one find out, and find it out ourselves.
                let standing = self.own_standing(now);
                self.send(route.clone(), Gate::HardState, Message::Pong { echo: ping.sent, standing }, out);
                self.ping_back(now, &envelope.from, route.clone(), out);
                None
            }
            Message::Pong { echo, .. } if !own => Some(*echo),
            _ => None,
        };
        // The same process under its former incarnation is no other process.
        let other = envelope.nonce != self.nonce;
        if other && pong.is_some_and(|echo| self.pings.contains(&echo)) {
            // It answered a ping of this very process: both live now.
            out.push(Output::Event(Event::DuplicateId { id: self.config.id.clone() }));
            let refused = Refused::DuplicateId {
                nonce: envelope.nonce,
                incarnation: envelope.incarnation,
                other: self.hard.incarnation,
            };
            self.send(route, Gate::HardState, Message::Refused(refused), out);
            self.mark_duplicate(now, out);
            return;
        }
        self.refuse_frame(&envelope, FrameRefusal::OwnId, out);
    }

    /// This node's id is in use elsewhere: it neither votes, campaigns nor
    /// writes until nobody has confirmed it for ten leases. Pings confirm it
    /// once a heartbeat while both live.
    pub(super) fn mark_duplicate(&mut self, now: Now, out: &mut Outbox) {
        if planted!(self.config, DuplicateIgnored) {
            return;
        }
        self.health.duplicate_until = now.mono.after(self.config.lease * 10);
        self.step_down(now, StepDownReason::Unfit, out);
    }

    /// Whether the frame speaks of this node's cluster, or of its birth.
    fn same_cluster(&mut self, now: Now, route: &Route, envelope: &Envelope, out: &mut Outbox) -> bool {
        let (mine, theirs) = (self.hard.cluster, envelope.cluster);
        if mine == theirs {
            return if mine == ClusterId::NONE { self.same_seats(now, envelope, out) } else { true };
        }
        if mine == ClusterId::NONE {
            // Somebody is born: the message itself says what follows from it.
            return match envelope.message {
                Message::Append(_) | Message::Refused(_) | Message::NeedSnapshot { .. } => true,
                Message::Ping(_) | Message::Pong { .. } | Message::Vote { .. } | Message::PreVote { .. } => true,
                Message::Appended(_)
                | Message::PreVoted { .. }
                | Message::Voted { .. }
                | Message::AskTransfer
                | Message::TimeoutNow => false,
            };
        }
        if theirs == ClusterId::NONE {
            // A founding seat that has not yet learned that its founding entry
            // is committed speaks as a member.
            if self.memberships.iter().any(|(_, m)| m.admits(&envelope.from, envelope.incarnation)) {
                return true;
            }
            match &envelope.message {
                Message::Ping(_) | Message::Pong { .. } => {
                    let membership = self.membership().clone();
                    if !membership.members.is_empty() {
                        let refused = Message::Refused(Refused::Born { membership });
                        self.send(route.clone(), Gate::HardState, refused, out);
                    }
                }
                _ => {}
            }
            return false;
        }
        self.refuse_frame(envelope, FrameRefusal::OtherCluster, out);
        match envelope.message {
            // Only a ping is answered: two refusals must not feed each other.
            Message::Ping(_) => {
                let refused = Refused::OtherCluster { cluster: mine };
                self.send(route.clone(), Gate::HardState, Message::Refused(refused), out);
            }
            Message::Refused(Refused::OtherCluster { cluster }) => {
                self.health.other_cluster = Some((cluster, now.mono));
            }
            _ => {}
        }
        false
    }

    /// Keeps the record of the sender; false if the frame is a late one of a
    /// process that has been succeeded.
    fn note_peer(&mut self, now: Now, route: &Route, envelope: &Envelope) -> bool {
        if let Some(peer) = self.peers.get_mut(&envelope.from) {
            if peer.processes.succeeded(envelope.nonce) {
                // Its pongs still count as evidence that two processes live.
                return matches!(envelope.message, Message::Pong { .. });
            }
            peer.route = route.clone();
            return true;
        }
        let url = match &envelope.message {
            _ if self.peers.len() >= Self::PEERS_MAX => return true,
            Message::Ping(ping) => ping.url.clone(),
            Message::Pong { standing, .. } => standing.url.clone(),
            // Only a standing says where a node is.
            _ => return true,
        };
        let peer = Peer::new(envelope.incarnation, url, route.clone(), now.mono);
        self.peers.insert(envelope.from.clone(), peer);
        true
    }

    /// Whether a frame's higher term is to be adopted (R2).
    fn may_raise(&self, now: Now, envelope: &Envelope) -> bool {
        match &envelope.message {
            // Elected by a majority of somebody's membership, perhaps a later
            // one than this node knows.
            Message::Append(_) => return true,
            // A follower that has promised its vote is not disturbed by a
            // candidate that does not hear the writer (Raft 6).
            Message::Vote { transfer, .. } => {
                if !transfer && self.promised_to_other(now, &envelope.from) {
                    return false;
                }
                if self.health.duplicate(now.mono) {
                    return false;
                }
            }
            _ => {}
        }
        self.may_be_member(&envelope.from, envelope.incarnation, envelope.config)
    }

    /// Whether the sender is a member as far as this node can know: by a
    /// membership that it holds, or by a later one that it does not.
    pub(super) fn may_be_member(
        &self,
        id: &NodeId,
        incarnation: Incarnation,
        config: crate::ids::ConfigVersion,
    ) -> bool {
        if self.memberships.is_empty() && !self.unborn() {
            return true;
        }
        config > self.membership().version
            || self.provisional.admits(id, incarnation)
            || self.memberships.iter().any(|(_, m)| m.admits(id, incarnation))
    }

    pub(super) fn refuse_frame(&self, envelope: &Envelope, reason: FrameRefusal, out: &mut Outbox) {
        out.push(Output::Event(Event::FrameRefused { from: envelope.from.clone(), reason }));
    }

    pub(super) fn refuse(&self, who: &Sender, reason: FrameRefusal, out: &mut Outbox) {
        out.push(Output::Event(Event::FrameRefused { from: who.id.clone(), reason }));
    }

    fn on_refused(&mut self, now: Now, who: &Sender, refused: Refused, out: &mut Outbox) {
        match refused {
            // The term in the envelope has done its work already.
            Refused::StaleTerm => {}
            Refused::OtherCluster { cluster } => {
                self.health.other_cluster = Some((cluster, now.mono));
            }
            Refused::Born { membership } => self.on_born(now, membership, out),
            // A process that is gone was meant, or one that came later under
            // this name. Where both live, each hears of its own.
            Refused::DuplicateId { nonce, incarnation, .. }
                if nonce != self.nonce || incarnation != self.hard.incarnation =>
            {
                self.refuse(who, FrameRefusal::OldProcess, out);
            }
            Refused::DuplicateId { .. } => {
                out.push(Output::Event(Event::DuplicateId { id: self.config.id.clone() }));
                self.mark_duplicate(now, out);
            }
            // Said of the incarnation before this one it comes late, or twice.
            Refused::Amnesia { incarnation, .. } if incarnation != self.hard.incarnation => {}
            Refused::Amnesia { acknowledged, .. } => {
                let from_writer = self.writer.as_ref() == Some(&who.id) && who.term == self.hard.term;
                if from_writer && self.log.last().seq < acknowledged {
                    self.take_new_incarnation(now, out);
                }
            }
            Refused::NotAMember => {
                if !self.membership().admits(&self.config.id, self.hard.incarnation) {
                    self.health.not_a_member = Some(now.mono);
                }
            }
            Refused::Diverged { at, expected, hash } => {
                self.on_diverged(now, who, at, expected, hash, out);
            }
        }
    }

    /// What this disk once acknowledged is gone: from now on it is a stranger.
    pub(super) fn take_new_incarnation(&mut self, now: Now, out: &mut Outbox) {
        self.step_down(now, StepDownReason::Removed, out);
        self.stance = Stance::Follower;
        self.hard.incarnation = Incarnation(self.prng.id());
        if planted!(self.config, SameDiskName) {
            self.hard.incarnation = Incarnation(seats_digest(core::slice::from_ref(&self.config.url)));
        }
        self.hard.high_water = Default::default();
        self.persist_hard(out);
        out.push(Output::Event(Event::Amnesia { incarnation: self.hard.incarnation }));
        self.seat_self();
    }
}

/// The head of a frame that passed the checks.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) cluster: ClusterId,
    pub(super) id: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) nonce: crate::ids::BootNonce,
    pub(super) term: crate::ids::Term,
    pub(super) config: crate::ids::ConfigVersion,
    pub(super) route: Route,
}
