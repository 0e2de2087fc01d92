//! Pre-votes, votes and campaigns (Raft 5.2, 5.4.1, 9.6).
//!
//! Decides who may stand, who gets this node's vote and when it campaigns.
//! Knows nothing of entries beyond the position of the last one.

use super::identity::Sender;
use super::{Gate, Node, Stance};
use crate::ids::{Incarnation, NodeId, Term};
use crate::io::{Event, FrameRefusal, Outbox, Output};
use crate::member::Role;
use crate::message::{Message, Refused};
use crate::pin::{self, Contender};
use crate::planted;
use crate::position::Position;
use crate::time::{MonoTime, Now};
use alloc::collections::BTreeSet;
use core::time::Duration;

/// A candidacy under way.
#[derive(Clone, Debug, Hash)]
pub(super) struct Campaign {
    /// When it is given up.
    pub(super) until: MonoTime,
    pub(super) granted: BTreeSet<(NodeId, Incarnation)>,
}

impl Node {
    /// Sets the next candidacy after `base` by rank: the lowest eligible id
    /// first, who may not hold the pin last.
    pub(super) fn arm_election(&mut self, base: MonoTime) {
        let fit = self.eligible(base);
        let me = Contender { id: &self.config.id, eligible: fit };
        let others = self.membership().voters().filter_map(|member| {
            let id = member.id()?;
            let gone = self.writer.as_ref() == Some(id);
            let standing = self.peers.get(id).and_then(|p| p.standing.as_ref());
            (*id != self.config.id && !gone)
                .then(|| Contender { id, eligible: member.role == Role::Voter && standing.is_none_or(|s| s.eligible) })
        });
        let rank = pin::rank(me, others);
        let mut wait = pin::STEP * rank + self.jitter(pin::STEP);
        if !fit {
            // A caretaker stands only when nobody else has for a while.
            wait += self.config.heartbeat;
        }
        if self.tries > 0 {
            // Two that collided part ways.
            let spread = pin::STEP * (1 << self.tries.min(4));
            wait += pin::STEP + self.jitter(spread);
        }
        self.election_at = base.after(wait);
    }

    /// Whether this node could ever stand in the membership as it is.
    pub(super) fn may_campaign_ever(&self) -> bool {
        !self.unborn() && self.voter_until_settled() && self.stop_by.is_none() && self.static_writer_allows()
    }

    fn static_writer_allows(&self) -> bool {
        self.config.static_writer.as_ref().is_none_or(|url| *url == self.config.url)
    }

    /// Whether nothing about this node keeps it from standing now.
    pub(super) fn may_stand(&self, now: Now) -> bool {
        self.voter_until_settled()
            && self.static_writer_allows()
            && self.stop_by.is_none()
            && !self.health.full
            // A writer's own first entry would not fit the log that a snapshot
            // is about to replace.
            && !self.health.fetching_log
            && !self.health.duplicate(now.mono)
            && now.mono >= self.abstain_until
            && now.mono >= self.silent_until
            && !self.promised_to_other(now, &self.config.id)
    }

    /// Whether the vote is promised to somebody else, or might be (R1).
    pub(super) fn promised_to_other(&self, now: Now, candidate: &NodeId) -> bool {
        if planted!(self.config, PromiseForgotten) {
            return false;
        }
        if now.mono < self.silent_until {
            return true;
        }
        if let Stance::Writer(writer) = &self.stance {
            return *candidate != self.config.id && self.lease_end(writer, now).is_some_and(|end| now.mono < end);
        }
        self.promise.as_ref().is_some_and(|p| p.to != *candidate && now.mono < p.until)
    }

    pub(super) fn tick_election(&mut self, now: Now, out: &mut Outbox) {
        match &self.stance {
            Stance::Follower => {
                if now.mono < self.election_at || !self.may_campaign_ever() {
                    return;
                }
                if self.may_stand(now) {
                    self.start_pre_vote(now, out);
                } else {
                    let promised = self.promise.as_ref().map_or(now.mono, |p| p.until);
                    let free = promised.max(self.abstain_until).max(self.silent_until);
                    self.arm_election(free.max(now.mono.after(pin::STEP)));
                }
            }
            Stance::PreCandidate(campaign) | Stance::Candidate(campaign) => {
                if now.mono >= campaign.until {
                    self.fail_campaign(now);
                }
            }
            Stance::Writer(_) => {}
        }
    }

    /// How long a candidate is given: longer after each one that failed, since
    /// three fsyncs (its own, and two of a voter) may take more than a
    /// heartbeat, and then none would ever end well.
    fn campaign_time(&self) -> Duration {
        self.config.heartbeat * (1 + self.tries.min(7))
    }

    /// A wait that differs from node to node, `max` at most.
    fn jitter(&mut self, max: Duration) -> Duration {
        if self.config.jitter { self.prng.jitter(max) } else { Duration::ZERO }
    }

    fn fail_campaign(&mut self, now: Now) {
        self.stance = Stance::Follower;
        self.tries = self.tries.saturating_add(1);
        self.arm_election(now.mono);
    }

    /// Asks whether a vote would be granted; changes nothing anywhere.
    pub(super) fn start_pre_vote(&mut self, now: Now, out: &mut Outbox) {
        self.writer = None;
        if self.sole_voter() || planted!(self.config, NoPreVote) {
            self.campaign(now, planted!(self.config, PromiseOverridden), out);
            return;
        }
        let term = self.hard.term.next();
        let until = now.mono.after(self.campaign_time() / 2 + self.jitter(pin::STEP));
        self.stance = Stance::PreCandidate(Campaign { until, granted: BTreeSet::new() });
        out.push(Output::Event(Event::BecamePreCandidate { term }));
        let last = self.log.last();
        self.tell_voters(&Message::PreVote { last, term }, out);
    }

    /// Takes the next term, votes for itself and asks for votes; the frames
    /// leave once that is durable.
    pub(super) fn campaign(&mut self, now: Now, transfer: bool, out: &mut Outbox) {
        self.hard.term = self.hard.term.next();
        self.hard.voted_for = Some((self.config.id.clone(), self.hard.incarnation));
        self.writer = None;
        self.persist_hard(out);
        let until = now.mono.after(self.campaign_time() + self.jitter(pin::STEP));
        self.stance = Stance::Candidate(Campaign { until, granted: BTreeSet::new() });
        out.push(Output::Event(Event::BecameCandidate { term: self.hard.term }));
        let last = self.log.last();
        let transfer = transfer || planted!(self.config, PromiseOverridden);
        self.tell_voters(&Message::Vote { last, transfer }, out);
    }

    pub(super) fn on_pre_vote(&mut self, now: Now, who: &Sender, last: Position, term: Term, out: &mut Outbox) {
        if !self.may_vote_for(who) {
            self.turn_away(now, who, out);
            return;
        }
        let granted = term > self.hard.term
            && (last.covers(&self.log.last()) || planted!(self.config, VoteWithoutLogCheck))
            && !self.promised_to_other(now, &who.id)
            && !self.health.duplicate(now.mono)
            && !matches!(self.stance, Stance::Writer(_));
        self.send(who.route.clone(), Gate::HardState, Message::PreVoted { term, granted }, out);
    }

    pub(super) fn on_pre_voted(&mut self, now: Now, who: &Sender, term: Term, granted: bool, out: &mut Outbox) {
        let next = self.hard.term.next();
        let Stance::PreCandidate(campaign) = &mut self.stance else {
            return;
        };
        if !granted || term != next {
            return;
        }
        campaign.granted.insert((who.id.clone(), who.incarnation));
        let Stance::PreCandidate(campaign) = &self.stance else {
            return;
        };
        // One that was removed and must stand again counts itself for nothing.
        let votes = self.votes_of(campaign) + usize::from(self.is_voter());
        if votes >= self.quorum() && self.may_stand(now) {
            self.campaign(now, false, out);
        }
    }

    pub(super) fn on_vote(&mut self, now: Now, who: &Sender, last: Position, transfer: bool, out: &mut Outbox) {
        if who.term < self.hard.term {
            self.send(who.route.clone(), Gate::HardState, Message::Refused(Refused::StaleTerm), out);
            return;
        }
        if !self.may_vote_for(who) {
            self.turn_away(now, who, out);
            return;
        }
        // A higher term was adopted before this, unless the vote is promised
        // or this node must not vote: then the candidate is not answered.
        if who.term > self.hard.term || self.health.duplicate(now.mono) {
            return;
        }
        if !transfer && self.promised_to_other(now, &who.id) {
            return;
        }
        let candidate = (who.id.clone(), who.incarnation);
        let free = match &self.hard.voted_for {
            None => matches!(self.stance, Stance::Follower | Stance::PreCandidate(_)) && self.writer.is_none(),
            Some(voted) => *voted == candidate,
        };
        let free = free || planted!(self.config, SecondVote);
        let covers = last.covers(&self.log.last()) || planted!(self.config, VoteWithoutLogCheck);
        let lowest = planted!(self.config, LowestAlwaysGetsVote)
            && self.membership().voters().filter_map(|m| m.id()).all(|id| who.id <= *id);
        let granted = free && covers || lowest;
        if granted && (self.hard.voted_for.is_none() || planted!(self.config, SecondVote)) {
            self.stance = Stance::Follower;
            self.hard.voted_for = Some(candidate);
            self.persist_hard(out);
            // Give it time to win before standing oneself.
            self.arm_election(now.mono.after(self.campaign_time()));
        }
        self.send(who.route.clone(), Gate::Log, Message::Voted { granted }, out);
    }

    pub(super) fn on_voted(&mut self, now: Now, who: &Sender, granted: bool, out: &mut Outbox) {
        let current = who.term == self.hard.term || planted!(self.config, StaleGrantCounts);
        if !current || !granted {
            return;
        }
        if let Stance::Candidate(campaign) = &mut self.stance {
            campaign.granted.insert((who.id.clone(), who.incarnation));
            self.count_votes(now, out);
        }
    }

    /// Becomes writer once a majority of the voters granted it, its own vote
    /// counting only when it is durable.
    pub(super) fn count_votes(&mut self, now: Now, out: &mut Outbox) {
        let Stance::Candidate(campaign) = &self.stance else {
            return;
        };
        if self.disk.hard_pending() && !planted!(self.config, OwnVoteBeforeFsync) {
            return;
        }
        let own = usize::from(self.is_voter());
        if self.votes_of(campaign) + own >= self.quorum() {
            self.become_writer(now, out);
        }
    }

    /// Votes of voters, by name and incarnation; a stranger's counts nothing.
    fn votes_of(&self, campaign: &Campaign) -> usize {
        let membership = self.membership();
        if planted!(self.config, StrangerCounted) {
            return campaign.granted.iter().filter(|(id, _)| membership.get(id).is_some()).count();
        }
        campaign.granted.iter().filter(|(id, incarnation)| membership.is_voter(id, *incarnation)).count()
    }

    /// Whether the candidate may be voted for as far as this node can know: a
    /// voter of a membership it holds, or of a later one that it does not.
    fn may_vote_for(&self, who: &Sender) -> bool {
        if self.memberships.is_empty() && !self.unborn() {
            return true;
        }
        who.config > self.membership().version
            || self.provisional.is_voter(&who.id, who.incarnation)
            || self.memberships.iter().any(|(_, m)| m.is_voter(&who.id, who.incarnation))
    }

    fn turn_away(&mut self, now: Now, who: &Sender, out: &mut Outbox) {
        let known = self.member_anywhere(&who.id).is_some();
        let reason = if known { FrameRefusal::OtherIncarnation } else { FrameRefusal::NotAMember };
        self.refuse(who, reason, out);
        if !known && self.may_refuse_again(now, &who.id) {
            let refused = Message::Refused(Refused::NotAMember);
            self.send(who.route.clone(), Gate::HardState, refused, out);
        }
    }

    /// At most one refusal a heartbeat to anyone.
    pub(super) fn may_refuse_again(&mut self, now: Now, id: &NodeId) -> bool {
        let pause = self.config.heartbeat;
        match self.peers.get_mut(id) {
            Some(peer) if peer.refused.is_some_and(|at| now.mono.since(at) < pause) => false,
            Some(peer) => {
                peer.refused = Some(now.mono);
                true
            }
            None => false,
        }
    }
}
