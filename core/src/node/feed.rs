//! Feeding followers: live shipping and catch-up are one path.
//!
//! Decides what each follower is sent next: entries from memory, entries read
//! from the log, a piece of a large one, a bare heartbeat, or word that it needs a snapshot. Knows
//! nothing of what makes an entry committed.

use super::parts::Parts;
use super::progress::{Feed, Offers, Progress};
use super::{Gate, Node, Stance};
use crate::entry::Entry;
use crate::ids::{Incarnation, NodeId, Seq, Url};
use crate::io::{Event, LoadId, Outbox, Output};
use crate::log::weight;
use crate::member::Role;
use crate::message::{Append, Message, Refused};
use crate::planted;
use crate::position::Position;
use crate::time::Now;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

impl Node {
    /// Sends every follower what it lacks and may be sent.
    pub(super) fn feed_all(&mut self, now: Now, out: &mut Outbox) {
        let Stance::Writer(writer) = &mut self.stance else {
            return;
        };
        let renews = !writer.handover.as_ref().is_some_and(|h| h.sent);
        let mut followers = core::mem::take(&mut writer.progress);
        for (id, progress) in &mut followers {
            self.feed(now, id, progress, renews, out);
        }
        if let Stance::Writer(writer) = &mut self.stance {
            writer.progress = followers;
        }
    }

    fn feed(&mut self, now: Now, id: &NodeId, progress: &mut Progress, renews: bool, out: &mut Outbox) {
        let last = self.log.last();
        let mut sent = false;
        if progress.amnesiac.is_some() {
            // Told until it comes back as somebody else: word may be lost.
            if core::mem::take(&mut progress.due) {
                let acknowledged = progress.matched;
                let refused = Message::Refused(Refused::Amnesia { incarnation: progress.incarnation, acknowledged });
                self.tell(id, Gate::HardState, refused, out);
            }
            return;
        }
        self.urge_snapshot(now, id, progress, out);
        while progress.free() && progress.next <= last.seq {
            let prev_seq = Seq(progress.next.0 - 1);
            if prev_seq < self.log.base().seq {
                progress.feed = Feed::Snapshot;
                out.push(Output::Event(Event::SnapshotNeeded { id: id.clone() }));
                self.urge_snapshot(now, id, progress, out);
                break;
            }
            if self.parts_of_next(progress) {
                self.ship_part(now, id, progress, renews, out);
                sent = true;
                continue;
            }
            let prev = self.log.position(prev_seq);
            let bytes_max = self.config.sizes.append_max.min(progress.room());
            let entries = self.log.entries(progress.next, last.seq, bytes_max);
            let (Some(prev), Some(entries)) = (prev, entries) else {
                if progress.load.is_none() {
                    self.load_for(id, progress, out);
                }
                break;
            };
            sent |= self.ship_run(now, id, progress, (prev, entries), renews, out);
        }
        // While probing only what it surely has is worth telling it about.
        let reach = match progress.feed {
            Feed::Replicate => Seq(progress.next.0 - 1),
            Feed::Probe { .. } | Feed::Snapshot => progress.matched,
        };
        if progress.due || (!sent && progress.told < self.commit.min(reach)) {
            // A bare one renews the lease and moves the commit index. One a
            // heartbeat goes out whatever was sent: entries are answered once
            // they are on the disk, and a slow one must not cost the lease. If
            // the point before the next entry has left memory the last one
            // serves: the answer says what is missing, which is known already.
            let known = self.log.position(Seq(progress.next.0 - 1));
            self.ship(now, id, progress, (known.unwrap_or(last), Vec::new()), renews, out);
        }
        progress.due = false;
    }

    /// Whether the follower's next entry travels in pieces that are at hand.
    fn parts_of_next(&self, progress: &mut Progress) -> bool {
        let next = progress.next;
        let at_hand = progress.parts.as_ref().is_some_and(|parts| {
            // A truncated log may hold another entry there by now.
            parts.seq() == next && self.log.position(next).is_none_or(|known| known == parts.position())
        });
        if !at_hand && progress.parts.as_ref().is_some_and(|parts| parts.seq() >= next) {
            progress.parts = None;
        }
        at_hand
    }

    /// Ships entries as far as they fit into one frame; the first one that does
    /// not is made ready to go in pieces. False if nothing was sent.
    fn ship_run(
        &mut self,
        now: Now,
        id: &NodeId,
        progress: &mut Progress,
        (prev, mut entries): (Position, Vec<Entry>),
        renews: bool,
        out: &mut Outbox,
    ) -> bool {
        let piece = self.config.sizes.piece;
        match entries.iter().position(|entry| entry.payload.len() > piece) {
            Some(0) => {
                progress.parts = Some(Parts::new(prev, entries.swap_remove(0), piece));
                return false;
            }
            Some(fit) => entries.truncate(fit),
            None => {}
        }
        self.ship(now, id, progress, (prev, entries), renews, out);
        true
    }

    fn ship_part(&mut self, now: Now, id: &NodeId, progress: &mut Progress, renews: bool, out: &mut Outbox) {
        let sent = self.stamp(now);
        let Some(parts) = &mut progress.parts else {
            return;
        };
        let (part, end) = parts.next();
        let (prev, all) = (parts.prev, parts.is_sent());
        progress.sent_part(prev.seq, end, all, part.bytes.len(), sent);
        progress.told = progress.told.max(self.commit.min(prev.seq));
        let append = Append {
            sent: Some(sent),
            prev,
            entries: Vec::new(),
            commit: self.commit,
            renews,
            part: Some(Box::new(part)),
        };
        self.tell(id, Gate::HardState, Message::Append(append), out);
    }

    fn ship(
        &mut self,
        now: Now,
        id: &NodeId,
        progress: &mut Progress,
        (prev, entries): (Position, Vec<Entry>),
        renews: bool,
        out: &mut Outbox,
    ) {
        let sent = (!entries.is_empty() || self.wants_answer(now, progress)).then(|| self.stamp(now));
        match (sent, entries.last()) {
            (Some(sent), Some(entry)) => {
                let bytes = entries.iter().map(weight).sum();
                progress.sent(entry.seq, bytes, sent);
            }
            (Some(sent), None) => progress.asked(sent),
            (None, _) if planted!(self.config, UnansweredRenewsLease) => progress.acked = Some(now.mono),
            (None, _) => {}
        }
        // The follower believes the commit index no further than this reaches.
        let reach = Seq(prev.seq.0 + entries.len() as u64);
        progress.told = progress.told.max(self.commit.min(reach));
        let append = Append { sent, prev, entries, commit: self.commit, renews, part: None };
        self.tell(id, Gate::HardState, Message::Append(append), out);
    }

    /// Whether an append without entries is to be answered. Under writes every
    /// group has one that only moves the commit index, and the answers to the
    /// entries say all that its answer would: the lease, liveness and the window
    /// go by them as long as they come often enough.
    fn wants_answer(&self, now: Now, progress: &Progress) -> bool {
        let recent = progress.acked.is_some_and(|at| now.mono.since(at) <= self.config.heartbeat / 2);
        let fed = matches!(progress.feed, Feed::Replicate);
        if planted!(self.config, HeartbeatUnanswered) {
            return !fed;
        }
        progress.due || !recent || !fed
    }

    fn load_for(&mut self, id: &NodeId, progress: &mut Progress, out: &mut Outbox) {
        self.next_load += 1;
        let load = self.next_load;
        progress.load = Some(load);
        if let Stance::Writer(writer) = &mut self.stance {
            writer.loads.insert(load, (id.clone(), progress.next));
        }
        out.push(Output::LoadLog {
            id: load,
            from: progress.next,
            through: self.log.last().seq,
            bytes_max: self.config.sizes.append_max,
        });
    }

    pub(super) fn on_log_loaded(
        &mut self,
        now: Now,
        load: LoadId,
        prev: Position,
        entries: Vec<Entry>,
        out: &mut Outbox,
    ) {
        let Stance::Writer(writer) = &mut self.stance else {
            return;
        };
        let Some((id, from)) = writer.loads.remove(&load) else {
            return;
        };
        let renews = !writer.handover.as_ref().is_some_and(|h| h.sent);
        let Some(mut progress) = writer.progress.remove(&id) else {
            return;
        };
        if progress.load == Some(load) {
            progress.load = None;
            let wanted = progress.next == from && progress.free();
            if wanted && self.is_own_log(from, prev, &entries) {
                if entries.is_empty() {
                    // Gone or unreadable here: the data has it.
                    progress.feed = Feed::Snapshot;
                    out.push(Output::Event(Event::SnapshotNeeded { id: id.clone() }));
                } else {
                    self.ship_run(now, &id, &mut progress, (prev, entries), renews, out);
                }
            }
        }
        if let Stance::Writer(writer) = &mut self.stance {
            writer.progress.insert(id, progress);
        }
    }

    /// Whether what was read is what this log holds there: contiguous, and
    /// agreeing with whatever is known in memory.
    fn is_own_log(&self, from: Seq, prev: Position, entries: &[Entry]) -> bool {
        if entries.is_empty() {
            return true;
        }
        let mut before = prev;
        for entry in entries {
            let known = self.log.position(entry.seq);
            let chained = entry.seq.0 == before.seq.0 + 1 && entry.prev_hash == before.hash;
            if !chained
                || self.log.term(entry.seq) != Some(entry.term)
                || known.is_some_and(|known| known != entry.position())
            {
                return false;
            }
            before = entry.position();
        }
        prev.seq.next() == from && self.log.position(prev.seq).is_none_or(|known| known == prev)
    }

    /// Tells a follower that is beyond the log to fetch a snapshot; again and
    /// again, ever more slowly, until its reports move.
    fn urge_snapshot(&mut self, now: Now, id: &NodeId, progress: &mut Progress, out: &mut Outbox) {
        if progress.feed != Feed::Snapshot {
            return;
        }
        // Who is away is not asked, and begins anew when it is back: else it
        // would be asked at the slowest pace then, and by turns (seed 300003194
        // of the simulator: once in 16 s, each second time for damaged data).
        if !self.alive(id, progress.incarnation, now.mono) {
            progress.offers.made = 0;
            return;
        }
        if now.mono < progress.offers.again {
            return;
        }
        // Each source in its turn: a damaged one, asked first, must not cost more
        // than a few leases.
        let turn = progress.offers.made;
        let pause = self.config.heartbeat * 2 * (1 << turn.min(2));
        progress.offers = Offers { made: turn.saturating_add(1), again: now.mono.after(pause) };
        let at_least = self.log.base();
        let sources = self.snapshot_sources(now, id);
        if let Some(from) = sources.get(turn as usize % sources.len().max(1)).cloned() {
            let message = Message::NeedSnapshot { at_least, from };
            self.tell(id, Gate::HardState, message, out);
        }
    }

    /// Who serves a snapshot: healthy followers that are caught up, or this
    /// node. What differs, whoever is right, must not spread to one more, which
    /// could make a majority of it; so those come last. But they do come: a copy
    /// whose rows do not say what its hash says is refused by whoever receives
    /// it, and if that is this node's, one more node is needed to tell so.
    fn snapshot_sources(&self, now: Now, except: &NodeId) -> Vec<Url> {
        let base = self.log.base().seq;
        let (mut sources, mut differing) = (Vec::new(), Vec::new());
        for member in &self.membership().members {
            let Some((id, incarnation)) = &member.identity else {
                continue;
            };
            let standing = self.peers.get(id).and_then(|p| p.standing.as_ref());
            let fit = member.role == Role::Voter
                && id != except
                && *id != self.config.id
                && self.alive(id, *incarnation, now.mono);
            let Some(standing) =
                standing.filter(|s| fit && s.eligible && s.applied >= base && s.applied >= self.commit_floor())
            else {
                continue;
            };
            let agrees = self.content_agrees(&standing.contents);
            if agrees { &mut sources } else { &mut differing }.push(member.url.clone());
        }
        let own = self.stores_data().then(|| self.config.url.clone());
        if !self.health.quarantined {
            sources.extend(own.clone());
        }
        sources.append(&mut differing);
        // Its own rows may still say what their hash says.
        if self.health.quarantined {
            sources.extend(own);
        }
        sources
    }

    /// Close enough to the commit index to count as caught up.
    pub(super) fn commit_floor(&self) -> Seq {
        Seq(self.commit.0.saturating_sub(1024))
    }

    /// A follower lacks the point before what it was sent: go back to the last
    /// point that both may have, a whole term at a time.
    pub(super) fn step_back(&mut self, id: &NodeId, hint: Position) {
        let common = match self.log.term(hint.seq) {
            Some(term) if term == hint.term => hint.seq,
            _ => self.log.last_not_above(hint.seq, hint.term),
        };
        // A hint below the log: only a snapshot helps, which `next` shows.
        let next = if hint.seq < self.log.base().seq { hint.seq.next() } else { common.next() };
        if let Stance::Writer(writer) = &mut self.stance
            && let Some(progress) = writer.progress.get_mut(id)
        {
            let next = next.max(progress.matched.next());
            if progress.feed == Feed::Snapshot && Seq(next.0 - 1) < self.log.base().seq {
                return;
            }
            if progress.load.is_some() && progress.next == next {
                return;
            }
            progress.load = None;
            progress.probe(next);
        }
    }

    /// Once a heartbeat: everyone is due one, and what was lost on the way is
    /// sent again.
    pub(super) fn refresh_followers(&mut self, now: Now) {
        self.sync_progress(now);
        let stalled = now.mono.before(self.config.heartbeat * 2);
        let late = now.mono.before(self.config.heartbeat / 2);
        let stamp = self.last_stamp;
        if let Stance::Writer(writer) = &mut self.stance {
            for progress in writer.progress.values_mut() {
                progress.due = true;
                progress.wait_for_answer(late, stamp);
                match &mut progress.feed {
                    Feed::Probe { asked } => *asked = false,
                    Feed::Replicate => {
                        if progress.oldest_flight().is_some_and(|sent| sent < stalled) {
                            progress.probe(progress.matched.next());
                        }
                    }
                    Feed::Snapshot => {}
                }
            }
        }
    }

    /// The disk that a member has now, if it is alive: another one perhaps than
    /// the membership says.
    pub(super) fn disk_now(&self, id: &NodeId, member: Incarnation, now: Now) -> Incarnation {
        let current = self.peers.get(id).map(|p| p.incarnation);
        current.filter(|current| self.alive(id, *current, now.mono)).unwrap_or(member)
    }

    /// Makes the followers those of every membership not yet settled, each on
    /// the disk it has now.
    pub(super) fn sync_progress(&mut self, now: Now) {
        let mut wanted: BTreeMap<NodeId, Incarnation> = BTreeMap::new();
        for (_, membership) in &self.memberships {
            for (id, incarnation) in membership.members.iter().filter_map(|m| m.identity.as_ref()) {
                if *id != self.config.id {
                    wanted.insert(id.clone(), *incarnation);
                }
            }
        }
        for (id, incarnation) in &mut wanted {
            // A new disk under a known name is fed like a learner and counts
            // for nothing until a logged change says so.
            *incarnation = self.disk_now(id, *incarnation, now);
        }
        let (next, sizes) = (self.log.last().seq.next(), self.config.sizes);
        if let Stance::Writer(writer) = &mut self.stance {
            writer.progress.retain(|id, p| wanted.get(id) == Some(&p.incarnation));
            for (id, incarnation) in wanted {
                writer.progress.entry(id).or_insert_with(|| Progress::new(incarnation, next, &sizes));
            }
        }
    }
}
