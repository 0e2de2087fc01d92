//! How far one follower has come, as its writer sees it.
//!
//! Decides how much may be in flight. Knows nothing of the log's contents.

use super::pace::Pace;
use super::parts::Parts;
use super::window::{Answer, Window};
use crate::config::Sizes;
use crate::ids::{Incarnation, NodeId, Seq, Term};
use crate::io::{CallId, LoadId, ProposalId};
use crate::time::MonoTime;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

/// How a follower is being fed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) enum Feed {
    /// One append at a time, until a common point is found.
    Probe {
        /// One is under way.
        asked: bool,
    },
    /// A window of appends.
    Replicate,
    /// It needs a snapshot: see [`Progress::offers`].
    Snapshot,
}

/// What became of telling a follower to fetch a snapshot. Not a part of
/// [`Feed::Snapshot`]: where its log ends in a suffix in conflict it is probed
/// between two offers, and the turns of the sources, and the time that each is
/// given, go on all the same (simulator, seed 190815177 of its day: a damaged
/// source had every turn that counted).
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(super) struct Offers {
    /// How many there were.
    pub(super) made: u32,
    /// No other one before this.
    pub(super) again: MonoTime,
}

/// One append under way.
#[derive(Clone, Copy, Debug, Hash)]
struct Flight {
    /// It is there once the follower has this entry durably, and so many bytes
    /// of the next one in memory.
    through: (Seq, usize),
    bytes: usize,
    sent: MonoTime,
    /// The window was well used when it left.
    full: bool,
}

/// A bare append, which is answered without waiting for a disk.
#[derive(Clone, Copy, Debug, Hash)]
struct Asked {
    sent: MonoTime,
    /// The window was well used when it left.
    full: bool,
}

/// One follower.
#[derive(Clone, Debug, Hash)]
pub(super) struct Progress {
    /// The disk that acknowledged; another one starts from nothing.
    pub(super) incarnation: Incarnation,
    /// The next entry to send.
    pub(super) next: Seq,
    /// Durable there, and the same as here.
    pub(super) matched: Seq,
    /// When `matched` was last raised: what was sent later was received by a
    /// follower that had all of it.
    pub(super) matched_at: MonoTime,
    /// The newest own send time that it answered (R1's s for this node).
    pub(super) acked: Option<MonoTime>,
    pub(super) feed: Feed,
    flights: VecDeque<Flight>,
    flight_bytes: usize,
    window: Window,
    /// The entry at `next`, or just before it, if it travels in pieces.
    pub(super) parts: Option<Parts>,
    /// When it was last told something that it answers at once, if that was
    /// not answered yet.
    asked: Option<Asked>,
    /// Entries are being read from the log for it.
    pub(super) load: Option<LoadId>,
    /// The commit index it was last told.
    pub(super) told: Seq,
    /// A heartbeat is due.
    pub(super) due: bool,
    /// What its data contains.
    pub(super) applied: Seq,
    /// Snapshots that it was offered since it last moved.
    pub(super) offers: Offers,
    /// Seen to have forgotten what it had acknowledged, in an answer to what was
    /// sent then: it counts for nothing any more.
    pub(super) amnesiac: Option<MonoTime>,
}

impl Progress {
    pub(super) const FLIGHTS_MAX: usize = 64;

    pub(super) fn new(incarnation: Incarnation, next: Seq, sizes: &Sizes) -> Self {
        Self {
            incarnation,
            next,
            matched: Seq(0),
            matched_at: MonoTime(0),
            acked: None,
            feed: Feed::Probe { asked: false },
            flights: VecDeque::new(),
            flight_bytes: 0,
            window: Window::new(sizes),
            parts: None,
            asked: None,
            load: None,
            told: Seq(0),
            due: true,
            applied: Seq(0),
            offers: Offers::default(),
            amnesiac: None,
        }
    }

    /// Whether another append may be sent.
    pub(super) fn free(&self) -> bool {
        match self.feed {
            Feed::Probe { asked } => !asked,
            Feed::Replicate => self.flights.len() < Self::FLIGHTS_MAX && self.flight_bytes < self.window.bytes(),
            Feed::Snapshot => false,
        }
    }

    /// How many bytes of entries may be sent at once.
    pub(super) fn room(&self) -> usize {
        self.window.bytes()
    }

    /// Takes note that entries up to `last` were sent.
    pub(super) fn sent(&mut self, last: Seq, bytes: usize, sent: MonoTime) {
        if let Feed::Probe { asked } = &mut self.feed {
            *asked = true;
            return;
        }
        self.next = last.next();
        self.fly((last, 0), bytes, sent);
    }

    /// Takes note that a piece was sent which ends at `end` in the payload of
    /// the entry after `before`; `all` if that is where the payload ends.
    pub(super) fn sent_part(&mut self, before: Seq, end: usize, all: bool, bytes: usize, sent: MonoTime) {
        if let Feed::Probe { asked } = &mut self.feed {
            *asked = true;
            return;
        }
        if all {
            self.next = before.next().next();
        }
        self.fly((before, end), bytes, sent);
    }

    fn fly(&mut self, through: (Seq, usize), bytes: usize, sent: MonoTime) {
        self.flight_bytes += bytes;
        let full = self.full();
        self.flights.push_back(Flight { through, bytes, sent, full });
    }

    /// Whether so much is under way that how long it takes says something of
    /// the window.
    fn full(&self) -> bool {
        self.flight_bytes >= self.window.bytes() / 2
    }

    /// Takes note that it was told something that it answers at once.
    pub(super) fn asked(&mut self, sent: MonoTime) {
        let full = self.full();
        self.asked.get_or_insert(Asked { sent, full });
    }

    /// A heartbeat has passed: what should have been answered and was not was
    /// held up on the way.
    pub(super) fn wait_for_answer(&mut self, since: MonoTime, now: MonoTime) {
        if self.asked.is_some_and(|asked| asked.sent <= since) {
            self.window.unanswered(now);
            self.asked = None;
        }
    }

    /// It answered what was sent at `echo`. How long that took, if it had to
    /// bring entries to its disk for it.
    pub(super) fn answered(
        &mut self,
        echo: MonoTime,
        now: MonoTime,
        heartbeat: Duration,
        piece: bool,
    ) -> Option<Duration> {
        let flight = self.flights.iter().find(|flight| flight.sent == echo);
        let stored = flight.filter(|flight| !piece && flight.through.1 == 0).map(|_| now.since(echo));
        let asked = self.asked.filter(|asked| asked.sent == echo);
        let full = flight.is_some_and(|flight| flight.full) || asked.is_some_and(|asked| asked.full);
        if self.asked.is_some_and(|asked| asked.sent <= echo) {
            self.asked = None;
        }
        self.window.answered(echo, now, heartbeat, Answer { full, at_once: piece || asked.is_some() });
        stored
    }

    /// It has everything up to `matched`.
    pub(super) fn matched(&mut self, matched: Seq, now: MonoTime) {
        if matched > self.matched {
            self.matched = matched;
            self.matched_at = now;
            self.offers = Offers::default();
        }
        self.next = self.next.max(self.matched.next());
        if self.parts.as_ref().is_some_and(|parts| parts.seq() <= self.matched) {
            self.parts = None;
        }
        self.land((self.matched, 0));
    }

    /// It has everything before entry `seq`, and the first `bytes` of that
    /// one's payload in memory.
    pub(super) fn has_part(&mut self, seq: Seq, bytes: usize, echo: MonoTime, now: MonoTime) {
        let Some(parts) = self.parts.as_mut().filter(|parts| parts.seq() == seq) else {
            return;
        };
        if parts.taken(bytes, echo, now) {
            self.land((Seq(seq.0 - 1), bytes));
        } else {
            self.probe(seq);
        }
    }

    fn land(&mut self, there: (Seq, usize)) {
        while self.flights.front().is_some_and(|f| f.through <= there) {
            if let Some(flight) = self.flights.pop_front() {
                self.flight_bytes -= flight.bytes;
            }
        }
        match self.feed {
            Feed::Probe { .. } | Feed::Snapshot => self.feed = Feed::Replicate,
            Feed::Replicate => {}
        }
    }

    /// Starts over at `next`.
    pub(super) fn probe(&mut self, next: Seq) {
        self.next = next.max(self.matched.next());
        self.feed = Feed::Probe { asked: false };
        self.flights.clear();
        self.flight_bytes = 0;
        let next = self.next;
        match &mut self.parts {
            Some(parts) if parts.seq() == next => parts.rewind(),
            parts => *parts = None,
        }
    }

    /// How many appends are under way.
    pub(super) fn flights(&self) -> usize {
        self.flights.len()
    }

    /// When the oldest append under way was sent.
    pub(super) fn oldest_flight(&self) -> Option<MonoTime> {
        self.flights.front().map(|f| f.sent)
    }
}

/// A proposal whose entries are not all committed yet.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Proposal {
    pub(super) id: ProposalId,
    pub(super) last: Seq,
}

/// A read that waits for a proof that no one else is writer.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Read {
    pub(super) id: CallId,
    /// A quorum must answer an append that was sent after this.
    pub(super) since: MonoTime,
}

/// Why the pin is handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) enum Why {
    /// A preferred node asked, or this one is only a caretaker.
    Preference,
    /// An administrator's call.
    Ordered(CallId),
    /// This node's store cannot go on.
    Unfit,
    /// Its disk makes every write slow, and another's would not.
    Slow,
    /// This node stops.
    Stopping,
}

/// A hand-over under way.
#[derive(Clone, Debug, Hash)]
pub(super) struct Handover {
    pub(super) to: NodeId,
    pub(super) why: Why,
    pub(super) until: MonoTime,
    /// [`crate::message::Message::TimeoutNow`] is out: no lease in this term.
    pub(super) sent: bool,
}

/// What only a writer knows.
#[derive(Clone, Debug, Hash)]
pub(super) struct Writer {
    pub(super) term: Term,
    pub(super) since: MonoTime,
    /// Its own first entry; at birth the one after the founding entry.
    pub(super) noop: Seq,
    pub(super) progress: BTreeMap<NodeId, Progress>,
    pub(super) proposals: VecDeque<Proposal>,
    pub(super) reads: Vec<Read>,
    pub(super) orders: Vec<(CallId, Seq)>,
    pub(super) handover: Option<Handover>,
    /// No new hand-over before this.
    pub(super) handover_again: MonoTime,
    /// Only answers to appends sent after this renew the lease.
    pub(super) lease_floor: MonoTime,
    /// Its last words of progress.
    pub(super) told: (Seq, Seq, Seq),
    pub(super) loads: BTreeMap<LoadId, (NodeId, Seq)>,
    /// Content hashes were seen to differ.
    pub(super) suspect: bool,
    pub(super) pace: Pace,
    /// Whose disk is so much quicker that it is to have the pin.
    pub(super) quicker: Option<NodeId>,
    /// Durable on a quorum of others since then, and not on this node.
    pub(super) held_up: Option<(Seq, MonoTime)>,
}
