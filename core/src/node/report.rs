//! What a node says of itself: status, pin, and that its invariants hold.
//!
//! Decides nothing that another file acts on.

use super::progress::Progress;
use super::{Node, Stance};
use crate::ids::Seq;
use crate::io::{Burden, Outbox, Output, Part, PeerStatus, Pin, Status};
use crate::member::Role;
use crate::time::Now;
use alloc::vec::Vec;

impl Node {
    /// Sends [`Output::Pin`] when it changed.
    pub(super) fn report_pin(&mut self, now: Now, out: &mut Outbox) {
        // On every turn, and mostly nothing changed: compared before copied.
        let writer = self.known_writer();
        let same_writer = writer == self.pin.writer.as_ref().map(|(id, url)| (id, url));
        let same_term = self.pin.term == self.hard.term && self.pin.durable == self.durable_term;
        if same_writer && same_term && self.pin.writable == self.writable(now) {
            return;
        }
        self.pin = self.current_pin(now);
        out.push(Output::Pin(self.pin.clone()));
    }

    fn current_pin(&self, now: Now) -> Pin {
        let writer = self.known_writer().map(|(id, url)| (id.clone(), url.clone()));
        Pin { term: self.hard.term, durable: self.durable_term, writer, writable: self.writable(now) }
    }

    fn writable(&self, now: Now) -> bool {
        match &self.stance {
            Stance::Writer(writer) => {
                self.ready(writer)
                    && self.eligible(now.mono)
                    && !self.unborn()
                    && !writer.handover.as_ref().is_some_and(|h| h.sent)
            }
            Stance::Follower | Stance::PreCandidate(_) | Stance::Candidate(_) => false,
        }
    }

    pub(super) fn part(&self) -> Part {
        match &self.stance {
            Stance::Writer(_) => Part::Writer,
            Stance::PreCandidate(_) => Part::PreCandidate,
            Stance::Candidate(_) => Part::Candidate,
            Stance::Follower if self.unborn() => Part::Unborn,
            Stance::Follower if !self.is_voter() => Part::Learner,
            Stance::Follower if !self.stores_data() => Part::Witness,
            Stance::Follower => Part::Follower,
        }
    }

    pub(super) fn report_status(&self, now: Now) -> Status {
        let lease_until = match &self.stance {
            Stance::Writer(writer) => self.lease_end(writer, now),
            Stance::Follower | Stance::PreCandidate(_) | Stance::Candidate(_) => None,
        };
        let membership = self.membership().clone();
        let peers: Vec<PeerStatus> = membership
            .members
            .iter()
            .map(|member| {
                let mut status = PeerStatus {
                    id: member.id().cloned(),
                    url: member.url.clone(),
                    role: member.role,
                    up: false,
                    heard: None,
                    last: Seq(0),
                    applied: Seq(0),
                };
                let (own_id, own_incarnation) = self.own_identity();
                if let Some((id, incarnation)) = &member.identity {
                    if id == own_id && *incarnation == own_incarnation {
                        status.up = true;
                        status.heard = Some(now.mono);
                        status.last = self.log.last().seq;
                        status.applied = self.applied.seq;
                    } else if let Some(peer) = self.peers.get(id) {
                        status.up = self.alive(id, *incarnation, now.mono);
                        status.heard = peer.heard;
                        status.last = peer.standing.as_ref().map_or(Seq(0), |s| s.last.seq);
                        status.applied = peer.standing.as_ref().map_or(Seq(0), |s| s.applied);
                    }
                }
                status
            })
            .collect();
        let mut trimmable = self.commit.min(self.log_floor_of_members(now));
        if self.stores_data() {
            trimmable = trimmable.min(self.applied.seq);
        }
        Status {
            id: self.config.id.clone(),
            url: self.config.url.clone(),
            incarnation: self.hard.incarnation,
            nonce: self.nonce,
            cluster: self.hard.cluster,
            stream: self.stream(),
            part: self.part(),
            pin: self.current_pin(now),
            lease_until,
            log_first: self.log.base().seq.next(),
            last: self.log.last(),
            commit: self.commit,
            applied: self.applied.seq,
            membership,
            peers,
            unfit: self.unfit(now.mono),
            trimmable,
        }
    }

    pub(super) fn report_burden(&self) -> Burden {
        let (records, held) = self.disk.burden();
        let mut burden =
            Burden { records, held, peers: self.peers.len(), pings: self.pings.len(), ..Burden::default() };
        if let Stance::Writer(writer) = &self.stance {
            burden.flights = writer.progress.values().map(Progress::flights).sum();
            burden.loads = writer.loads.len();
            burden.proposals = writer.proposals.len();
            burden.reads = writer.reads.len();
            burden.orders = writer.orders.len();
            burden.handovers = usize::from(writer.handover.is_some());
        }
        burden
    }

    pub(super) fn check_shallow(&self) {
        assert!(self.peers.len() <= Self::PEERS_MAX, "{} ids are remembered", self.peers.len());
        assert!(self.pings.len() <= Self::PINGS_MAX, "{} pings are remembered", self.pings.len());
        let last = self.log.last();
        self.log.check();
        self.disk.check();
        assert!(self.commit <= last.seq, "committed {} beyond the log's end {}", self.commit, last.seq);
        assert!(self.commit >= self.log.base().seq, "the log was trimmed beyond the commit index");
        assert!(self.durable <= last.seq, "durable {} beyond the log's end {}", self.durable, last.seq);
        assert!(self.applied.seq <= self.ordered, "applied {} was never ordered", self.applied.seq);
        assert!(last.term <= self.hard.term, "an entry of a term not heard of");
        assert!(
            self.durable == last.seq || self.disk.log_pending(),
            "entries that are neither durable nor on their way"
        );
        assert!(self.memberships.windows(2).all(|w| w[0].0 < w[1].0), "memberships out of order");
        assert!(self.memberships.last().is_none_or(|(seq, _)| *seq <= last.seq), "a membership beyond the log's end");
        match &self.stance {
            Stance::Writer(writer) => {
                let voted = self.hard.voted_for.as_ref();
                assert_eq!(writer.term, self.hard.term, "a writer of another term");
                assert!(
                    voted.is_some_and(|(id, inc)| *id == self.config.id && *inc == self.hard.incarnation),
                    "a writer that did not vote for itself"
                );
                assert!(writer.noop <= last.seq, "a writer without its own entry");
                for progress in writer.progress.values() {
                    assert!(progress.matched <= last.seq, "a follower ahead of its writer");
                    assert!(progress.matched < progress.next, "sending what is there already");
                    assert!(progress.flights() <= Progress::FLIGHTS_MAX, "{} appends under way", progress.flights());
                }
                let mut before = self.commit;
                for proposal in &writer.proposals {
                    assert!(proposal.last > before, "a settled proposal is still open");
                    before = proposal.last;
                }
            }
            Stance::Candidate(_) => {
                let voted = self.hard.voted_for.as_ref();
                assert!(voted.is_some_and(|(id, _)| *id == self.config.id), "a candidate that did not vote for itself");
            }
            Stance::Follower | Stance::PreCandidate(_) => {}
        }
    }

    /// Asserts what costs more than a turn is worth: the hash chain and the
    /// terms over all that is in memory.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check_deep(&self) {
        self.check_shallow();
        self.log.check_deep();
        assert!(
            self.membership().members.iter().filter(|m| m.role == Role::Voter).count() > 0
                || self.membership().members.is_empty()
                || self.unborn(),
            "a membership without a voter that stores data"
        );
    }
}
