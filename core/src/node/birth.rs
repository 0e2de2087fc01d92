//! How a cluster is founded, and how an empty node joins one.
//!
//! Decides when a majority of equal, empty seats is there and who of them goes
//! first. Founding itself is an ordinary election over the static seats and an
//! ordinary commit: until its founding entry is committed a node is unborn and
//! may still follow another founder.

use super::identity::Sender;
use super::{Gate, Node, Stance};
use crate::ids::{ClusterId, ConfigVersion, Lineage, Seq};
use crate::io::{Event, Outbox, Output, Record, StepDownReason};
use crate::member::{Member, Membership, Role};
use crate::message::{Envelope, Message, Ping};
use crate::planted;
use crate::time::{MonoTime, Now};
use crate::wire::encode_membership;
use alloc::vec::Vec;
use bytes::Bytes;

impl Node {
    /// Before birth: the seats, with this node in its own. After it: nobody,
    /// until the log says who.
    pub(super) fn seat_self(&mut self) {
        if !self.unborn() {
            self.provisional.members.clear();
            return;
        }
        let me = (self.config.id.clone(), self.hard.incarnation);
        let own_role = if self.config.witness { Role::Witness } else { Role::Voter };
        let known = core::mem::take(&mut self.provisional.members);
        self.provisional.members = self
            .config
            .seats
            .iter()
            .filter(|url| {
                let alone = self.config.bootstrap || planted!(self.config, ElectsItselfAtBirth);
                !alone || **url == self.config.url
            })
            .map(|url| {
                let own = *url == self.config.url;
                let known = known.iter().find(|m| m.url == *url);
                Member {
                    url: url.clone(),
                    identity: if own { Some(me.clone()) } else { known.and_then(|m| m.identity.clone()) },
                    role: if own { own_role } else { known.map_or(Role::Voter, |m| m.role) },
                    target: None,
                }
            })
            .collect();
    }

    /// Seats that were given another list found nothing with this one.
    pub(super) fn same_seats(&mut self, now: Now, envelope: &Envelope, out: &mut Outbox) -> bool {
        if envelope.seats == self.seats_digest {
            return true;
        }
        let news = self.health.seats_differ.is_none_or(|at| now.mono.since(at) >= self.config.heartbeat);
        if news {
            self.health.seats_differ = Some(now.mono);
            out.push(Output::Event(Event::SeatsDiffer { id: envelope.from.clone() }));
        }
        false
    }

    /// An unborn seat has proven to be alive: it is that node on that disk.
    pub(super) fn learn_seat(&mut self, who: &Sender, standing: &Ping) {
        if !self.unborn() || who.cluster != ClusterId::NONE || standing.url == self.config.url {
            return;
        }
        let identity = Some((who.id.clone(), who.incarnation));
        // A name sits in one seat only, its last one.
        for member in &mut self.provisional.members {
            if member.id() == Some(&who.id) && member.url != standing.url {
                member.identity = None;
            }
        }
        let seat = self.provisional.members.iter_mut().find(|m| m.url == standing.url);
        if let Some(seat) = seat {
            seat.identity = identity;
            seat.role = if standing.witness { Role::Witness } else { Role::Voter };
        }
    }

    /// When this node would campaign for the first time, if nothing changes.
    pub(super) fn birth_at(&self) -> Option<MonoTime> {
        self.birth_since.map(|at| at.max(self.election_at))
    }

    pub(super) fn tick_birth(&mut self, now: Now, out: &mut Outbox) {
        let due = self.birth_due(now);
        self.birth_since = match (due, self.birth_since) {
            (None, _) => None,
            // The wait counts from when it began, and gets shorter when the
            // last seat is heard.
            (Some(wait), None) => Some(now.mono.after(wait)),
            (Some(wait), Some(at)) => Some(at.min(now.mono.after(wait))),
        };
        if self.birth_at().is_some_and(|at| now.mono >= at) {
            self.start_pre_vote(now, out);
        }
    }

    /// How long to let things settle before founding, if founding is possible.
    fn birth_due(&self, now: Now) -> Option<core::time::Duration> {
        if !self.unborn()
            || !matches!(self.stance, Stance::Follower)
            || !self.may_stand(now)
            || self.config.witness
            || self.health.seats_differ.is_some_and(|at| now.mono.since(at) < self.config.lease * 2)
        {
            return None;
        }
        let membership = self.membership();
        let (mut heard, mut before) = (0, 0);
        let mine = self.log.last();
        for member in membership.voters() {
            let Some((id, incarnation)) = &member.identity else {
                continue;
            };
            if *id == self.config.id {
                heard += u32::from(*incarnation == self.hard.incarnation);
                continue;
            }
            let peer = self.peers.get(id).filter(|p| p.cluster == ClusterId::NONE);
            if peer.is_none() || !self.alive(id, *incarnation, now.mono) {
                continue;
            }
            heard += 1;
            let theirs = peer.and_then(|p| p.standing.as_ref());
            let Some(theirs) = theirs.filter(|_| member.role == Role::Voter) else {
                continue;
            };
            // The longest log first, or its holder could never vote; then the
            // lowest id.
            let ahead = (theirs.last.term, theirs.last.seq) > (mine.term, mine.seq);
            let equal = (theirs.last.term, theirs.last.seq) == (mine.term, mine.seq);
            before += u32::from(ahead || equal && *id < self.config.id);
        }
        if (heard as usize) < self.quorum() {
            return None;
        }
        let all = heard as usize == membership.voters().count();
        let turn = self.config.heartbeat * 2;
        Some(turn * (before + u32::from(!all)))
    }

    /// The founding entry's membership: the seats as they were heard, under a
    /// new name.
    pub(super) fn charter(&mut self) -> Bytes {
        let membership = Membership {
            version: ConfigVersion(1),
            cluster: ClusterId(self.prng.id()),
            mode: self.config.mode,
            lineage: Lineage(1),
            members: self.provisional.members.clone(),
        };
        encode_membership(&membership)
    }

    /// The founding entry is committed: this is the cluster, for good.
    pub(super) fn settle_birth(&mut self, out: &mut Outbox) {
        if !self.unborn() || self.commit == Seq(0) {
            return;
        }
        let cluster = match self.memberships.first() {
            Some((_, membership)) => membership.cluster,
            None => return,
        };
        self.enter(cluster, out);
    }

    /// A seat says that the cluster exists: join it, with what this node has
    /// (nothing, or a founding entry that was never committed).
    pub(super) fn on_born(&mut self, now: Now, membership: Membership, out: &mut Outbox) {
        let cluster = membership.cluster;
        if !self.unborn() || cluster == ClusterId::NONE || self.config.bootstrap {
            return;
        }
        assert_eq!(self.commit, Seq(0), "a node with committed entries is born");
        let own = self.memberships.last().map(|(_, m)| m.cluster);
        if own.is_some_and(|own| own != cluster) {
            // It may be founding one itself, in a term that the other does not
            // know, or be known to it by no name that could raise its term.
            self.step_down(now, StepDownReason::Removed, out);
            self.stance = Stance::Follower;
            self.truncate_log(Seq(0), Vec::new(), out);
        }
        self.hints = membership.members.iter().map(|m| m.url.clone()).collect();
        self.enter(cluster, out);
    }

    pub(super) fn enter(&mut self, cluster: ClusterId, out: &mut Outbox) {
        self.hard.cluster = cluster;
        self.birth_since = None;
        self.health.seats_differ = None;
        self.seat_self();
        self.persist_hard(out);
        out.push(Output::Event(Event::Joined { cluster }));
        match self.stance {
            Stance::PreCandidate(_) | Stance::Candidate(_) => self.stance = Stance::Follower,
            Stance::Follower | Stance::Writer(_) => {}
        }
    }

    /// Drops the log after `keep` and appends `entries`, in one record.
    pub(super) fn truncate_log(&mut self, keep: Seq, entries: Vec<crate::entry::Entry>, out: &mut Outbox) {
        assert!(keep >= self.commit, "a committed entry is never dropped");
        let dropped = self.log.truncate(keep);
        self.durable = self.durable.min(keep);
        self.memberships.retain(|(seq, _)| *seq <= keep);
        let through = entries.last().map_or(keep, |e| e.seq);
        if dropped > 0 {
            out.push(Output::Event(Event::LogTruncated { keep, dropped }));
        }
        let record = Record::Append { keep: (dropped > 0).then_some(keep), entries: entries.clone() };
        self.disk.persist(record, through, out);
        for entry in entries {
            self.append_to_view(entry, out);
        }
    }

    pub(super) fn routes_of_voters(&self) -> Vec<crate::ids::NodeId> {
        self.membership().voters().filter_map(|m| m.id()).filter(|id| **id != self.config.id).cloned().collect()
    }

    pub(super) fn tell_voters(&mut self, message: &Message, out: &mut Outbox) {
        for id in self.routes_of_voters() {
            self.tell(&id, Gate::HardState, message.clone(), out);
        }
    }
}
