//! Pings: who is alive, and what everybody says of itself.
//!
//! Decides whom to ping and what an echo proves. Knows nothing of votes; being
//! heard never makes anybody writer.

use super::identity::Sender;
use super::peer::Proof;
use super::{Gate, Node};
use crate::ids::{Incarnation, NodeId, Url};
use crate::io::{Event, FrameRefusal, Outbox, Output, Route};
use crate::message::{Message, Ping, Refused};
use crate::planted;
use crate::time::{MonoTime, Now};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

impl Node {
    pub(super) const PINGS_MAX: usize = 128;

    /// Pings everyone there is, and reports who fell silent.
    pub(super) fn pulse(&mut self, now: Now, out: &mut Outbox) {
        let ping = self.new_ping(now);
        let mut targets: BTreeSet<Url> = self.config.seats.iter().cloned().collect();
        for (_, membership) in &self.memberships {
            targets.extend(membership.members.iter().map(|m| m.url.clone()));
        }
        targets.extend(self.hints.iter().cloned());
        targets.remove(&self.config.url);
        let since = now.mono.before(self.config.lease);
        let strangers: Vec<Route> = self
            .peers
            .values()
            .filter(|p| !targets.contains(&p.url) && p.heard.is_some_and(|at| at >= since))
            .map(|p| p.route.clone())
            .collect();
        for url in targets {
            self.send(Route::Url(url), Gate::HardState, Message::Ping(ping.clone()), out);
        }
        for route in strangers {
            self.send(route, Gate::HardState, Message::Ping(ping.clone()), out);
        }
        self.report_liveness(now, out);
    }

    /// Pings along the way that a frame came, unless that was done just now:
    /// a process that is not yet proven alive is soon.
    pub(super) fn ping_back(&mut self, now: Now, to: &NodeId, route: Route, out: &mut Outbox) {
        // All that are no peers share one turn, this node's own name in
        // another process among them: two that each ping back at once would
        // never end, and begin anew with every heartbeat.
        let pause = self.config.heartbeat / 4;
        let last = match self.peers.get_mut(to) {
            Some(peer) => &mut peer.pinged_back,
            None => &mut self.health.stranger_pinged_back,
        };
        if last.is_some_and(|at| now.mono.since(at) < pause) {
            return;
        }
        *last = Some(now.mono);
        let ping = self.new_ping(now);
        self.send(route, Gate::HardState, Message::Ping(ping), out);
    }

    fn new_ping(&mut self, now: Now) -> Ping {
        let ping = self.own_standing(now);
        if self.pings.len() == Self::PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back(ping.sent);
        ping
    }

    /// What this node says of itself.
    pub(super) fn own_standing(&mut self, now: Now) -> Ping {
        let last = self.log.position(self.durable).unwrap_or(self.log.base());
        Ping {
            sent: self.stamp(now),
            url: self.config.url.clone(),
            last,
            commit: self.commit,
            applied: self.applied.seq,
            eligible: self.eligible(now.mono),
            writer: self.writer.clone(),
            witness: self.config.witness,
            contents: self.health.samples.recent(),
            wall_ms: now.wall.0,
        }
    }

    pub(super) fn on_ping(&mut self, now: Now, who: &Sender, ping: Ping, out: &mut Outbox) {
        let (echo, claimed) = (ping.sent, ping.last.seq);
        let peer = self.peers.get(&who.id);
        let proven = peer.and_then(|p| p.processes.current());
        let heard = peer.and_then(|p| p.heard);
        if proven.is_none() || proven == Some(who.nonce) {
            self.take_standing(now, who, ping, out);
        }
        if planted!(self.config, PingsRenewLease)
            && let super::Stance::Writer(writer) = &mut self.stance
            && let Some(progress) = writer.progress.get_mut(&who.id)
        {
            progress.acked = progress.acked.max(Some(now.mono));
        }
        if planted!(self.config, PingsCountAsAcks)
            && let super::Stance::Writer(writer) = &mut self.stance
            && let Some(progress) = writer.progress.get_mut(&who.id)
        {
            progress.matched(claimed.min(self.log.last().seq), now.mono);
        }
        let standing = self.own_standing(now);
        let pong = Message::Pong { echo, standing };
        self.send(who.route.clone(), Gate::HardState, pong, out);
        // One that fell silent and is not where the membership says it is gets
        // no other ping: its own address answers nobody.
        let silent = heard.is_none_or(|at| now.mono.since(at) >= self.config.lease);
        if proven != Some(who.nonce) || silent {
            self.ping_back(now, &who.id, who.route.clone(), out);
        }
    }

    pub(super) fn on_pong(&mut self, now: Now, who: &Sender, echo: MonoTime, standing: Ping, out: &mut Outbox) {
        if !self.pings.contains(&echo) {
            // An echo of another life of this node, or of nothing.
            return;
        }
        let Some(peer) = self.peers.get_mut(&who.id) else {
            return;
        };
        let other = peer.incarnation;
        let proof = peer.processes.prove(who.nonce, echo, now.mono);
        match proof {
            Proof::Current => {}
            Proof::Old => {
                self.refuse(who, FrameRefusal::OldProcess, out);
                return;
            }
            Proof::Duplicate => {
                let refused = Refused::DuplicateId { nonce: who.nonce, incarnation: who.incarnation, other };
                out.push(Output::Event(Event::DuplicateId { id: who.id.clone() }));
                self.send(who.route.clone(), Gate::HardState, Message::Refused(refused), out);
                return;
            }
        }
        let Some(peer) = self.peers.get_mut(&who.id) else {
            return;
        };
        if peer.incarnation != who.incarnation {
            peer.incarnation = who.incarnation;
            peer.first_seen = now.mono;
            peer.standing = None;
        }
        peer.hear(echo);
        peer.route = who.route.clone();
        self.learn_seat(who, &standing);
        self.clear_amnesia(&who.id, echo, &standing);
        self.take_standing(now, who, standing, out);
        self.on_standing_as_writer(now, &who.id, out);
    }

    /// Two machines had copies of one disk: what one of them acknowledged the
    /// other was seen to lack. The one that is left, and answers a later ping,
    /// says that its log reaches as far: it is fed again from the beginning, and
    /// counts for what it then acknowledges. One that really forgot says less,
    /// unless late appends brought it there before it heard of that.
    fn clear_amnesia(&mut self, id: &NodeId, echo: MonoTime, standing: &Ping) {
        let sizes = self.config.sizes;
        if let super::Stance::Writer(writer) = &mut self.stance
            && let Some(progress) = writer.progress.get_mut(id)
            && progress.amnesiac.is_some_and(|seen| echo > seen)
            && standing.last.seq >= progress.matched
        {
            *progress = super::progress::Progress::new(progress.incarnation, standing.last.seq.next(), &sizes);
        }
    }

    fn take_standing(&mut self, now: Now, who: &Sender, ping: Ping, out: &mut Outbox) {
        let Some(peer) = self.peers.get_mut(&who.id) else {
            return;
        };
        // Clocks start anew with each process: only one's own are compared.
        let newer = peer.standing.as_ref().is_none_or(|s| s.sent <= ping.sent) || peer.standing_of != who.nonce;
        if !newer {
            return;
        }
        peer.standing_of = who.nonce;
        if peer.processes.current().is_none() && peer.incarnation != who.incarnation {
            peer.incarnation = who.incarnation;
            peer.first_seen = now.mono;
        }
        peer.url = ping.url.clone();
        peer.config = who.config;
        peer.cluster = who.cluster;
        let ahead = ping.wall_ms.abs_diff(now.wall.0);
        let skewed = u128::from(ahead) > self.config.skew_max.as_millis() + 1000;
        if skewed && !peer.skewed {
            out.push(Output::Event(Event::ClockSkew { id: who.id.clone(), ms: ahead }));
        }
        peer.skewed = skewed;
        peer.standing = Some(ping);
    }

    /// Whether that incarnation was certainly alive within the last lease.
    pub(super) fn alive(&self, id: &NodeId, incarnation: Incarnation, now: MonoTime) -> bool {
        self.peers.get(id).is_some_and(|p| {
            p.incarnation == incarnation && p.heard.is_some_and(|at| now.since(at) < self.config.lease)
        })
    }

    /// Takes note that a member's very process acted on a message of ours that
    /// was sent at `at`.
    pub(super) fn hear(&mut self, who: &Sender, at: MonoTime) {
        if let Some(peer) = self.peers.get_mut(&who.id)
            && peer.incarnation == who.incarnation
        {
            peer.hear(at);
        }
    }

    fn report_liveness(&mut self, now: Now, out: &mut Outbox) {
        for (id, peer) in &mut self.peers {
            let up = peer.heard.is_some_and(|at| now.mono.since(at) < self.config.lease);
            if up != peer.up {
                peer.up = up;
                out.push(Output::Event(Event::PeerUp { id: id.clone(), up }));
            }
        }
    }
}
