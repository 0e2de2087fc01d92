//! Membership changes, ordered or admitted (R8, R10).
//!
//! Decides which change is proposed next: one at a time, effective when it is
//! appended, none before the last one and an entry of this term are committed.
//! Knows nothing of how entries are shipped.

use super::progress::{Feed, Writer};
use super::{Gate, Node, Stance};
use crate::entry::EntryKind;
use crate::ids::{NodeId, Seq, Url};
use crate::io::{AdminCommand, AdminOutcome, CallId, MemberRef, Outbox, Output};
use crate::member::{Member, Membership, Role};
use crate::message::{Message, Refused};
use crate::planted;
use crate::time::Now;
use crate::wire::{encode_membership, is_url};
use alloc::vec;
use alloc::vec::Vec;

impl Node {
    /// The latest membership is committed.
    pub(super) fn membership_settled(&self) -> bool {
        self.memberships.last().is_some_and(|(seq, _)| *seq <= self.commit)
    }

    fn may_change(&self, writer: &Writer) -> bool {
        let settled = self.membership_settled() || planted!(self.config, ChangesOverlap);
        let own = self.commit >= writer.noop || planted!(self.config, ChangeBeforeOwnEntry);
        settled && own && writer.handover.is_none() && self.is_voter()
    }

    pub(super) fn on_admin(&mut self, now: Now, id: CallId, command: AdminCommand, out: &mut Outbox) {
        let change = match command {
            AdminCommand::Transfer { to } => return self.order_transfer(now, id, to, out),
            AdminCommand::StepDown => return self.order_step_down(now, id, out),
            AdminCommand::AddMember { url, role } => self.with_member(&url, role),
            AdminCommand::RemoveMember { member } => self.without_member(&member),
            AdminCommand::SetUrl { id, url } => self.with_url(&id, &url),
        };
        let Stance::Writer(writer) = &self.stance else {
            let outcome = AdminOutcome::NotWriter(self.not_writer());
            out.push(Output::AdminDone { id, outcome });
            return;
        };
        match change {
            Err(outcome) => out.push(Output::AdminDone { id, outcome }),
            Ok(_) if !self.may_change(writer) => {
                out.push(Output::AdminDone { id, outcome: AdminOutcome::Busy });
            }
            Ok(members) if !self.has_live_quorum(&members, now) => {
                out.push(Output::AdminDone { id, outcome: AdminOutcome::NoQuorum });
            }
            Ok(members) => {
                self.propose_members(now, members, out);
                let seq = self.log.last().seq;
                if let Stance::Writer(writer) = &mut self.stance {
                    writer.orders.push((id, seq));
                }
            }
        }
    }

    /// Whether a quorum of `members` was heard within the lease. A change is in
    /// force as soon as it is appended: one whose quorum is not there could
    /// neither be committed nor taken back.
    fn has_live_quorum(&self, members: &[Member], now: Now) -> bool {
        let voters = || members.iter().filter(|m| m.votes());
        let live = voters()
            .filter_map(|m| m.identity.as_ref())
            .filter(|(id, incarnation)| *id == self.config.id || self.alive(id, *incarnation, now.mono))
            .count();
        live > voters().count() / 2
    }

    fn with_member(&self, url: &Url, role: Role) -> Result<Vec<Member>, AdminOutcome> {
        let mut members = self.membership().members.clone();
        let target = Some(role).filter(|role| *role != Role::Learner);
        if !is_url(url.as_str()) {
            return Err(AdminOutcome::NotEligible);
        }
        let Some(member) = members.iter_mut().find(|m| m.url == *url) else {
            if members.len() >= Membership::MEMBERS_MAX {
                return Err(AdminOutcome::NotEligible);
            }
            members.push(Member { url: url.clone(), identity: None, role: Role::Learner, target });
            return Ok(members);
        };
        match (member.role, role) {
            (Role::Learner, _) if member.target == target => Err(AdminOutcome::NothingToDo),
            (Role::Learner, _) => {
                member.target = target;
                Ok(members)
            }
            (now, wanted) if now == wanted => Err(AdminOutcome::NothingToDo),
            (Role::Voter | Role::Witness, Role::Learner) => {
                member.role = Role::Learner;
                member.target = None;
                keeps_data(members)
            }
            // One that stores data cannot become one that does not, or the
            // reverse, without a new start: remove it first.
            (Role::Voter | Role::Witness, _) => Err(AdminOutcome::NotEligible),
        }
    }

    fn without_member(&self, which: &MemberRef) -> Result<Vec<Member>, AdminOutcome> {
        let mut members = self.membership().members.clone();
        let before = members.len();
        members.retain(|m| match which {
            MemberRef::Id(id) => m.id() != Some(id),
            MemberRef::Url(url) => m.url != *url,
        });
        if members.len() == before {
            return Err(AdminOutcome::UnknownMember);
        }
        keeps_data(members)
    }

    fn with_url(&self, id: &NodeId, url: &Url) -> Result<Vec<Member>, AdminOutcome> {
        let mut members = self.membership().members.clone();
        if !is_url(url.as_str()) {
            return Err(AdminOutcome::NotEligible);
        }
        let holder = members.iter().find(|m| m.url == *url).map(|m| m.id() == Some(id));
        match holder {
            Some(true) => return Err(AdminOutcome::NothingToDo),
            Some(false) => return Err(AdminOutcome::NotEligible),
            None => {}
        }
        let Some(member) = members.iter_mut().find(|m| m.id() == Some(id)) else {
            return Err(AdminOutcome::UnknownMember);
        };
        member.url = url.clone();
        Ok(members)
    }

    fn propose_members(&mut self, now: Now, mut members: Vec<Member>, out: &mut Outbox) {
        members.sort_by(|a, b| a.url.cmp(&b.url));
        let before = self.membership();
        let membership = Membership {
            version: before.version.next(),
            cluster: before.cluster,
            mode: before.mode,
            lineage: before.lineage,
            members,
        };
        let payload = encode_membership(&membership);
        self.append_own(now, vec![(EntryKind::Config, payload)], out);
        self.sync_progress(now);
    }

    /// A node's standing came in: it may be one to admit or to promote.
    pub(super) fn on_standing_as_writer(&mut self, now: Now, id: &NodeId, out: &mut Outbox) {
        let Some(peer) = self.peers.get(id) else {
            return;
        };
        let differs = peer.standing.as_ref().is_some_and(|s| self.health.samples.differ(&s.contents));
        if let Stance::Writer(writer) = &mut self.stance {
            writer.suspect |= differs;
            self.admit(now, id, out);
        }
    }

    /// Proposes the next change that this node's standing calls for, if any.
    fn admit(&mut self, now: Now, id: &NodeId, out: &mut Outbox) {
        let Stance::Writer(writer) = &self.stance else {
            return;
        };
        if !self.may_change(writer) || *id == self.config.id {
            return;
        }
        match self.admission(writer, id, now) {
            Admission::None => {}
            Admission::Change(members) => self.propose_members(now, members, out),
            Admission::Refuse => {
                let route = self.peers.get(id).map(|p| p.route.clone());
                if let Some(route) = route.filter(|_| self.may_refuse_again(now, id)) {
                    let refused = Message::Refused(Refused::NotAMember);
                    self.send(route, Gate::HardState, refused, out);
                }
            }
        }
    }

    fn admission(&self, writer: &Writer, id: &NodeId, now: Now) -> Admission {
        let Some(peer) = self.peers.get(id) else {
            return Admission::None;
        };
        let Some(standing) = peer.standing.as_ref() else {
            return Admission::None;
        };
        if !self.alive(id, peer.incarnation, now.mono) {
            return Admission::None;
        }
        let identity = Some((id.clone(), peer.incarnation));
        let mut members = self.membership().members.clone();
        let url_taken = members.iter().any(|m| m.url == peer.url && m.id() != Some(id));
        if let Some(member) = members.iter_mut().find(|m| m.id() == Some(id)) {
            let progress = writer.progress.get(id).filter(|p| p.incarnation == peer.incarnation);
            let caught_up = progress.is_some_and(|p| {
                p.matched >= self.commit
                    && p.feed == Feed::Replicate
                    && p.amnesiac.is_none()
                    && (standing.witness || standing.applied >= self.commit_floor())
            }) && !self.health.samples.differ(&standing.contents);
            if member.identity != identity {
                if !self.config.admit_auto {
                    return Admission::Refuse;
                }
                // The lost disk may have voted for another just before it
                // went. A quorum that does not contain it, answering in this
                // term something sent after the new disk was first seen,
                // proves that no such vote made a writer.
                let settled = self.quorum_answered(writer, now.mono).is_some_and(|at| at > peer.first_seen);
                // Were the old one alive, two processes would have been
                // noticed by now.
                let alone = now.mono.since(peer.first_seen) >= self.config.lease;
                if caught_up && settled && alone {
                    member.identity = identity;
                    if !url_taken {
                        member.url = peer.url.clone();
                    }
                    return Admission::Change(members);
                }
                return Admission::None;
            }
            if member.url != peer.url && !url_taken && self.config.admit_auto {
                member.url = peer.url.clone();
                return Admission::Change(members);
            }
            if let Some(role) = member.target.filter(|_| member.role == Role::Learner) {
                // What it is to become must be what it is.
                let fits = (role == Role::Witness) == standing.witness;
                if caught_up && fits {
                    member.role = role;
                    member.target = None;
                    return Admission::Change(members);
                }
            }
            return Admission::None;
        }
        if let Some(member) = members.iter_mut().find(|m| m.url == peer.url) {
            if member.identity.is_some() {
                return Admission::Refuse;
            }
            member.identity = identity;
            if member.role != Role::Learner {
                // Nobody has voted in this seat yet: it takes the part that its
                // node was configured for.
                member.role = if standing.witness { Role::Witness } else { Role::Voter };
            }
            return match keeps_data(members) {
                Ok(members) => Admission::Change(members),
                Err(_) => Admission::Refuse,
            };
        }
        // One that holds a membership has been a member and was removed; only
        // an order brings it back.
        let fresh = peer.config.0 == 0;
        if !self.config.admit_auto || !fresh || members.len() >= Membership::MEMBERS_MAX {
            return Admission::Refuse;
        }
        members.push(Member { url: peer.url.clone(), identity, role: Role::Learner, target: None });
        Admission::Change(members)
    }

    /// Once a heartbeat: whoever waits to be admitted or promoted.
    pub(super) fn admit_waiting(&mut self, now: Now, out: &mut Outbox) {
        let ids: Vec<NodeId> = self.peers.keys().cloned().collect();
        for id in ids {
            self.admit(now, &id, out);
        }
        self.correct_own_url(now, out);
    }

    /// A writer that was moved says so itself: nobody else admits it, and
    /// clients are sent to the address in the membership.
    fn correct_own_url(&mut self, now: Now, out: &mut Outbox) {
        let Stance::Writer(writer) = &self.stance else {
            return;
        };
        if !self.config.admit_auto || !self.may_change(writer) {
            return;
        }
        let (id, url) = (self.config.id.clone(), self.config.url.clone());
        if let Ok(members) = self.with_url(&id, &url) {
            self.propose_members(now, members, out);
        }
    }

    pub(super) fn log_floor_of_members(&self, now: Now) -> Seq {
        let mut floor = self.commit;
        for member in &self.membership().members {
            let Some((id, incarnation)) = &member.identity else {
                continue;
            };
            if *id == self.config.id {
                continue;
            }
            // A new disk under a known name is fed like the old one: were the
            // log trimmed beyond each snapshot that it installs, it would never
            // be admitted (simulator, seed 340000306 of its day).
            let incarnation = self.disk_now(id, *incarnation, now);
            let holds = match &self.stance {
                Stance::Writer(writer) => writer
                    .progress
                    .get(id)
                    .filter(|p| p.incarnation == incarnation)
                    .map(|p| p.matched)
                    .unwrap_or_default(),
                _ => self
                    .peers
                    .get(id)
                    .filter(|p| p.incarnation == incarnation)
                    .and_then(|p| p.standing.as_ref())
                    // Its log may end in a suffix that was never committed:
                    // that says nothing of what was committed in its place.
                    .map(|s| s.last.seq.min(s.commit))
                    .unwrap_or_default(),
            };
            // A witness is the last to let go: no data voter may be left
            // without an entry that only the witness still holds.
            let waits_for_all = !self.stores_data() && member.role == Role::Voter;
            if waits_for_all || self.alive(id, incarnation, now.mono) {
                floor = floor.min(holds);
            }
        }
        floor
    }
}

enum Admission {
    None,
    Change(Vec<Member>),
    Refuse,
}

/// Refuses a membership without a voter that stores data.
fn keeps_data(members: Vec<Member>) -> Result<Vec<Member>, AdminOutcome> {
    let any = members.iter().any(|m| m.role == Role::Voter && m.identity.is_some());
    if any { Ok(members) } else { Err(AdminOutcome::LastVoter) }
}
