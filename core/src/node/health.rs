//! Whether this node is fit: its store, its data, its name.
//!
//! Decides what makes it unfit and when that passes, and who is right when
//! content hashes differ: a majority at the same position, nobody else. Knows
//! nothing of elections.

use super::identity::Sender;
use super::{Gate, Node, Stance};
use crate::ids::{ClusterId, ContentHash, Hash, NodeId, Seq, Url};
use crate::io::{Event, Outbox, Output, Route, StoreHealth, Unfit};
use crate::member::Role;
use crate::message::{Message, Refused};
use crate::position::Position;
use crate::time::{MonoTime, Now};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

/// Content hashes at positions that others are likely to have as well. The
/// positions are kept whole: the log may be trimmed beyond all of them.
#[derive(Clone, Debug, Hash)]
pub(super) struct Samples {
    latest: (Position, ContentHash),
    ring: VecDeque<(Position, ContentHash)>,
}

impl Samples {
    const EVERY: u64 = 64;
    const KEPT: usize = 64;
    const TOLD: usize = 15;

    pub(super) fn note(&mut self, at: Position, content: ContentHash) {
        self.latest = (at, content);
        if at.seq.0.is_multiple_of(Self::EVERY) {
            if self.ring.len() == Self::KEPT {
                self.ring.pop_front();
            }
            self.ring.push_back((at, content));
        }
    }

    /// The data was replaced.
    pub(super) fn restart(&mut self, at: Position, content: ContentHash) {
        self.ring.clear();
        self.note(at, content);
    }

    /// What is told to others, and compared with what they tell; the newest last.
    fn told(&self) -> impl DoubleEndedIterator<Item = (Position, ContentHash)> {
        let skip = self.ring.len().saturating_sub(Self::TOLD);
        let latest = (self.latest.0.seq > Seq(0) && self.ring.back() != Some(&self.latest)).then_some(self.latest);
        self.ring.iter().skip(skip).copied().chain(latest)
    }

    /// The same, as it is told.
    pub(super) fn recent(&self) -> Vec<(Seq, ContentHash)> {
        let mut recent = Vec::with_capacity(Self::TOLD + 1);
        recent.extend(self.told().map(|(at, content)| (at.seq, content)));
        recent
    }

    /// What was here at `seq`, and at which entry.
    fn at(&self, seq: Seq) -> Option<(Hash, ContentHash)> {
        let (at, content) = self.latest;
        if at.seq == seq && seq > Seq(0) {
            return Some((at.hash, content));
        }
        self.ring.iter().find(|(at, _)| at.seq == seq).map(|(at, content)| (at.hash, *content))
    }

    /// Whether any of `others` differs from what was here at the same place.
    pub(super) fn differ(&self, others: &[(Seq, ContentHash)]) -> bool {
        others.iter().any(|(seq, content)| self.at(*seq).is_some_and(|(_, own)| own != *content))
    }
}

/// What keeps a node from serving.
#[derive(Clone, Debug, Hash)]
pub(super) struct Health {
    pub(super) full: bool,
    /// It gave the pin up over its slow disk, which has not caught up yet.
    pub(super) slow: bool,
    pub(super) halted: Option<Seq>,
    pub(super) quarantined: bool,
    /// Its disk made every write slow: it does not want the pin before this.
    pub(super) slow_until: MonoTime,
    pub(super) duplicate_until: MonoTime,
    pub(super) other_cluster: Option<(ClusterId, MonoTime)>,
    pub(super) seats_differ: Option<MonoTime>,
    pub(super) not_a_member: Option<MonoTime>,
    /// When somebody who is no peer was last pinged back.
    pub(super) stranger_pinged_back: Option<MonoTime>,
    /// A snapshot is being fetched since then.
    pub(super) fetching: Option<MonoTime>,
    /// That snapshot may replace the log as well: no re-seed.
    pub(super) fetching_log: bool,
    /// When an append that did not fit was last answered meanwhile.
    missing_answered: MonoTime,
    fetch_again: MonoTime,
    /// Fetches in a row that failed.
    pub(super) failed_fetches: usize,
    /// A snapshot that the writer called for while a re-seed was under way.
    pub(super) called_for: Option<(Position, Url)>,
    pub(super) samples: Samples,
}

impl Health {
    pub(super) fn new(applied: Position, content: ContentHash) -> Self {
        Self {
            full: false,
            slow: false,
            halted: None,
            quarantined: false,
            slow_until: MonoTime(0),
            duplicate_until: MonoTime(0),
            other_cluster: None,
            seats_differ: None,
            not_a_member: None,
            stranger_pinged_back: None,
            fetching: None,
            fetching_log: false,
            missing_answered: MonoTime(0),
            fetch_again: MonoTime(0),
            failed_fetches: 0,
            called_for: None,
            samples: Samples { latest: (applied, content), ring: VecDeque::new() },
        }
    }

    pub(super) fn duplicate(&self, now: MonoTime) -> bool {
        now < self.duplicate_until
    }

    /// At most one such answer a `pause`.
    pub(super) fn may_answer_missing(&mut self, now: MonoTime, pause: Duration) -> bool {
        let may = now.since(self.missing_answered) >= pause;
        if may {
            self.missing_answered = now;
        }
        may
    }

    pub(super) fn may_fetch(&self, now: MonoTime) -> bool {
        self.fetching.is_none() && now >= self.fetch_again
    }
}

impl Node {
    /// Whether this node may be handed the pin.
    pub(super) fn eligible(&self, now: MonoTime) -> bool {
        self.stores_data()
            && !self.health.full
            && !self.health.slow
            && self.health.halted.is_none()
            && !self.health.quarantined
            && !self.health.fetching_log
            && !self.health.duplicate(now)
            && self.stop_by.is_none()
    }

    pub(super) fn unfit(&self, now: MonoTime) -> Option<Unfit> {
        let recent = |at: MonoTime| now.since(at) < self.config.lease * 2;
        if self.health.duplicate(now) {
            return Some(Unfit::DuplicateId);
        }
        if self.health.quarantined {
            return Some(Unfit::Quarantined);
        }
        if let Some(at) = self.health.halted {
            return Some(Unfit::ApplyHalted { at });
        }
        if self.health.full {
            return Some(Unfit::DiskFull);
        }
        if self.writer.is_none() {
            match self.health.other_cluster {
                Some((cluster, at)) if recent(at) => return Some(Unfit::OtherCluster { cluster }),
                _ => {}
            }
        }
        if self.unborn() && self.health.seats_differ.is_some_and(recent) {
            return Some(Unfit::SeatsDiffer);
        }
        let member = self.membership().admits(&self.config.id, self.hard.incarnation);
        let turned_away = self.health.not_a_member.is_some_and(recent);
        let removed = !self.memberships.is_empty() && self.membership_settled();
        (!member && (turned_away || removed && !self.known_by_name())).then_some(Unfit::NotAMember)
    }

    /// Its name is in the membership, if under another incarnation: it waits
    /// to be admitted again.
    fn known_by_name(&self) -> bool {
        self.membership().get(&self.config.id).is_some()
    }

    pub(super) fn on_health(&mut self, now: Now, health: StoreHealth, out: &mut Outbox) {
        match health {
            // There is room again. What could not be applied still cannot:
            // only a new copy of the data mends that.
            StoreHealth::Well => self.health.full = false,
            StoreHealth::Full => self.health.full = true,
            StoreHealth::ApplyHalted { at } => self.health.halted = Some(at),
            StoreHealth::Quarantined => self.health.quarantined = true,
        }
        self.fetch_reseed(now, out);
    }

    /// Once a heartbeat: what a follower or a writer has to see to.
    pub(super) fn on_heartbeat(&mut self, now: Now, out: &mut Outbox) {
        if matches!(self.stance, Stance::Writer(_)) {
            self.refresh_followers(now);
            self.compare_contents(now, out);
            self.admit_waiting(now, out);
            self.watch_own_disk(now, out);
        } else {
            self.fetch_reseed(now, out);
            self.ask_for_pin(now, out);
        }
    }

    /// Replaces quarantined data from the writer's, or from somebody else's
    /// where that fails; its log stays.
    fn fetch_reseed(&mut self, now: Now, out: &mut Outbox) {
        let Some((writer, url)) = self.known_writer().filter(|(id, _)| **id != self.config.id) else {
            return;
        };
        if !self.health.quarantined || !self.stores_data() || !self.health.may_fetch(now.mono) {
            return;
        }
        let at_least = self.log.base();
        let mut sources = alloc::vec![url.clone()];
        for member in &self.membership().members {
            let Some((id, incarnation)) = member.identity.as_ref().filter(|_| member.role == Role::Voter) else {
                continue;
            };
            let standing = self.peers.get(id).and_then(|p| p.standing.as_ref());
            let whole = standing.is_some_and(|s| s.eligible && s.applied >= at_least.seq);
            if whole && id != writer && *id != self.config.id && self.alive(id, *incarnation, now.mono) {
                sources.push(member.url.clone());
            }
        }
        let from = sources.swap_remove(self.health.failed_fetches % sources.len());
        self.health.fetching = Some(now.mono);
        self.health.fetching_log = false;
        out.push(Output::FetchSnapshot { from, at_least, reseed: true });
    }

    pub(super) fn on_snapshot_failed(&mut self, now: Now, out: &mut Outbox) {
        self.health.fetching = None;
        self.health.fetching_log = false;
        self.health.failed_fetches = self.health.failed_fetches.wrapping_add(1);
        self.health.fetch_again = now.mono.after(self.config.heartbeat);
        // A re-seed whose position the own log does not reach fails, and would
        // fail for ever where the log itself must be replaced first.
        if let Some((at_least, from)) = self.health.called_for.take()
            && at_least.seq > self.log.last().seq
            && !matches!(self.stance, Stance::Writer(_))
        {
            self.health.fetching = Some(now.mono);
            self.health.fetching_log = true;
            out.push(Output::FetchSnapshot { from, at_least, reseed: false });
        }
    }

    /// Contents were seen to differ: at the newest position where they do, the
    /// majority of the voters that store data is right.
    fn compare_contents(&mut self, now: Now, out: &mut Outbox) {
        let Stance::Writer(writer) = &mut self.stance else {
            return;
        };
        if !core::mem::take(&mut writer.suspect) {
            return;
        }
        let voters = self.membership().voters().filter(|m| m.role == Role::Voter).count();
        // At a position that somebody passed in the middle of a batch it has no
        // hash, and cannot be counted; at an older one it may have.
        let (mut newest, mut told) = (None, None);
        for (at, reports) in self.differing_reports(now) {
            newest = newest.or(Some(at.seq));
            let right = reports.iter().map(|r| r.content).find(|content| {
                let agreeing = reports.iter().filter(|r| r.voter && r.content == *content).count();
                agreeing >= crate::quorum::majority(voters)
            });
            if let Some(expected) = right {
                told = Some((at.seq, at.hash, expected, reports));
                break;
            }
        }
        let Some((at, hash, expected, reports)) = told else {
            out.extend(newest.map(|at| Output::Event(Event::DivergedWithoutMajority { at })));
            return;
        };
        for report in reports {
            if report.content == expected {
                continue;
            }
            out.push(Output::Event(Event::Diverged { node: report.id, at }));
            match report.route {
                None => self.health.quarantined = true,
                Some(route) => {
                    let refused = Refused::Diverged { at, expected, hash };
                    self.send(route, Gate::HardState, Message::Refused(refused), out);
                }
            }
        }
    }

    /// What everybody had at each position where somebody differs, the newest
    /// first.
    fn differing_reports(&self, now: Now) -> impl Iterator<Item = (Position, Vec<Report>)> {
        let reported = self.health.samples.told().rev().map(move |(at, content)| {
            let mut reports = Vec::new();
            if self.stores_data() {
                reports.push(Report { id: self.config.id.clone(), content, voter: self.is_voter(), route: None });
            }
            for member in &self.membership().members {
                let Some((id, incarnation)) = &member.identity else {
                    continue;
                };
                if !self.alive(id, *incarnation, now.mono) {
                    continue;
                }
                let standing = self.peers.get(id).and_then(|p| p.standing.as_ref());
                let theirs = standing.and_then(|s| s.contents.iter().find(|(seq, _)| *seq == at.seq));
                if let (Some((_, content)), Some(route)) = (theirs, self.route_to(id)) {
                    reports.push(Report {
                        id: id.clone(),
                        content: *content,
                        voter: member.role == Role::Voter,
                        route: Some(route),
                    });
                }
            }
            (at, reports)
        });
        reported.filter(|(_, reports)| reports.windows(2).any(|w| w[0].content != w[1].content))
    }

    pub(super) fn on_diverged(
        &mut self,
        now: Now,
        who: &Sender,
        at: Seq,
        expected: ContentHash,
        hash: Hash,
        out: &mut Outbox,
    ) {
        let from_writer = who.term == self.hard.term && self.writer.as_ref() == Some(&who.id);
        // Old news, from before a re-seed or about another history, is none.
        let differs = self.health.samples.at(at).is_some_and(|(entry, own)| entry == hash && own != expected);
        if from_writer && differs && !self.health.quarantined {
            self.health.quarantined = true;
            out.push(Output::Event(Event::Diverged { node: self.config.id.clone(), at }));
            self.fetch_reseed(now, out);
        }
    }
}

/// One node's content at a position; no route means this node.
struct Report {
    id: NodeId,
    content: ContentHash,
    voter: bool,
    route: Option<Route>,
}
