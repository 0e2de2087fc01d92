//! The node: a total function from inputs to outputs.
//!
//! Decides by dispatch only; the computing is in the modules below it. Knows
//! no clock, disk or socket.
//!
//! | file | its noun |
//! |---|---|
//! | `durable` | what waits for which record |
//! | `peer` | another node's processes and liveness |
//! | `identity` | whose frames are believed, and whose term |
//! | `pulse` | pings, and what they prove |
//! | `birth` | how a cluster is founded or joined |
//! | `election` | pre-votes, votes, campaigns |
//! | `follow` | appends taken, the commit index, what is applied |
//! | `write` | the writer: proposals, commit rule, lease, reads |
//! | `feed`, `progress` | what each follower is sent next |
//! | `pace` | whether a writer's own disk holds everybody up |
//! | `parts` | an entry that is too large for one frame |
//! | `window` | how much may be under way to a follower |
//! | `transfer` | handing the pin over |
//! | `change` | membership changes and admission |
//! | `health` | the store, content hashes, quarantine |
//! | `report` | status, pin and invariants |

mod birth;
mod change;
mod durable;
mod election;
mod feed;
mod follow;
mod health;
mod identity;
mod pace;
mod parts;
mod peer;
mod progress;
mod pulse;
mod report;
mod transfer;
mod window;
mod write;

use crate::config::Config;
use crate::hlc::HybridClock;
use crate::ids::{BootNonce, ClusterId, ConfigVersion, Incarnation, NodeId, Seq, StreamId, Term, Url};
use crate::io::{Boot, Event, HardState, Input, Outbox, Output, Pin, Record, Refusal, Route, Status, WritePermit};
use crate::log::Log;
use crate::member::Membership;
use crate::message::{Envelope, Message};
use crate::planted;
use crate::position::Position;
use crate::prng::Prng;
use crate::time::{MonoTime, Now};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use durable::{Disk, Gate};
use election::Campaign;
use health::Health;
use parts::Assembly;
use peer::Peer;
use progress::Writer;

/// Why a node wants to be woken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Timer {
    /// To ping everyone and, as writer, to renew the lease.
    Heartbeat,
    /// To found a cluster with the seats that were heard.
    Birth,
    /// To campaign, the promised lease being over.
    Election,
    /// To give up a campaign that was not answered.
    Campaign,
    /// To step down, a quorum having been silent for a lease.
    Quorum,
    /// To give up a hand-over.
    Handover,
    /// To stop although the pin could not be handed over.
    Stop,
}

/// What a node is doing about the term.
#[derive(Clone, Debug, Hash)]
enum Stance {
    Follower,
    PreCandidate(Campaign),
    Candidate(Campaign),
    Writer(alloc::boxed::Box<Writer>),
}

/// A follower's word to a writer: no vote for others until then.
#[derive(Clone, Debug, Hash)]
struct Promise {
    to: NodeId,
    until: MonoTime,
}

/// One node. A copy of it goes on in the same way if it is given the same: a
/// model checker explores what may come next from copies, and knows by their
/// hash where it has been.
#[derive(Clone, Hash)]
pub struct Node {
    config: Config,
    seats_digest: u128,
    nonce: BootNonce,
    prng: Prng,

    last_step: MonoTime,
    /// The last send time given out; each is given out once.
    last_stamp: MonoTime,

    hard: HardState,
    /// The highest term that is on the disk.
    durable_term: Term,
    disk: Disk,
    log: Log,
    /// What is there of an entry that comes in pieces.
    assembly: Option<Assembly>,
    /// Durable in the log up to here.
    durable: Seq,
    commit: Seq,
    /// Ordered to be applied up to here.
    ordered: Seq,
    applied: Position,
    hlc: HybridClock,

    /// The memberships in the log: the last committed one and all after it.
    memberships: Vec<(Seq, Membership)>,
    /// Before birth: the seats as far as they were heard. After it, if the log
    /// is still empty: nobody.
    provisional: Membership,
    /// Where else a joining node may find its cluster.
    hints: Vec<Url>,

    stance: Stance,
    /// The writer of the current term, once heard.
    writer: Option<NodeId>,
    promise: Option<Promise>,
    /// After a restart old promises are unknown: no votes before this.
    silent_until: MonoTime,
    election_at: MonoTime,
    /// Campaigns in a row that failed.
    tries: u32,
    /// An administrator or a failed hand-over keeps it from campaigning.
    abstain_until: MonoTime,
    birth_since: Option<MonoTime>,

    peers: BTreeMap<NodeId, Peer>,
    heartbeat_at: MonoTime,
    /// Send times of recent pings: an echo of anything else proves nothing.
    pings: VecDeque<MonoTime>,

    health: Health,
    tenure: core::time::Duration,
    transferred: Option<MonoTime>,
    stop_by: Option<MonoTime>,
    stopped: bool,
    next_load: u64,
    pin: Pin,
}

impl Node {
    /// More ids than this are not remembered; strangers that come later are
    /// ignored until the node restarts.
    const PEERS_MAX: usize = 256;

    /// Starts a node from what its disk says; the first outputs (it may need a
    /// new incarnation to be durable) go to `out`.
    ///
    /// # Panics
    /// If what was read from the disk contradicts itself in a way that the
    /// driver must have caught (a tail with a gap, falling terms).
    pub fn recover(boot: Boot, now: Now, out: &mut Outbox) -> Self {
        let Boot { config, seed, nonce, recovered } = boot;
        let log = Log::recover(recovered.log_base, &recovered.tail, &recovered.terms);
        let mut prng = Prng::new(seed);
        let mut hard = recovered.hard;
        // A log that ends below what the data holds has lost acknowledged
        // entries; the high-water mark is the driver's to compare.
        let last = log.last().seq;
        let amnesia = recovered.amnesia || last < recovered.applied.seq;
        let fresh = hard.cluster == ClusterId::NONE && last == Seq(0) && hard.term == Term(0);
        let renew = amnesia || hard.incarnation == Incarnation::default();
        if renew {
            hard.incarnation = Incarnation(prng.id());
            if planted!(config, SameDiskName) {
                hard.incarnation = Incarnation(identity::seats_digest(core::slice::from_ref(&config.url)));
            }
            hard.high_water = Position::START;
        }
        // A term in the log is a term heard of, whatever the other file says.
        // What the log names is on the disk as well: every start goes by it.
        let durable_term = hard.term.max(log.last().term);
        let raised = hard.term < log.last().term;
        if raised {
            hard.term = log.last().term;
            hard.voted_for = None;
        }
        let mut commit = recovered.applied.seq.min(last).max(log.base().seq);
        if planted!(config, RecoveryAppliesAll) {
            commit = last;
        }
        let lease = config.lease;
        let mut node = Self {
            seats_digest: identity::seats_digest(&config.seats),
            provisional: Membership {
                version: ConfigVersion(0),
                cluster: ClusterId::NONE,
                mode: config.mode,
                lineage: Default::default(),
                members: Vec::new(),
            },
            hlc: HybridClock::new(recovered.hlc, config.skew_max),
            tenure: config.tenure_min,
            config,
            nonce,
            prng,
            last_step: now.mono,
            last_stamp: now.mono,
            hard,
            durable_term,
            disk: Disk::default(),
            log,
            assembly: None,
            durable: last,
            commit,
            ordered: recovered.applied.seq.max(commit),
            applied: recovered.applied,
            memberships: recovered.memberships,
            hints: Vec::new(),
            stance: Stance::Follower,
            writer: None,
            promise: None,
            silent_until: now.mono,
            election_at: now.mono,
            tries: 0,
            abstain_until: now.mono,
            birth_since: None,
            peers: BTreeMap::new(),
            heartbeat_at: now.mono,
            pings: VecDeque::new(),
            health: Health::new(recovered.applied, recovered.content),
            transferred: None,
            stop_by: None,
            stopped: false,
            next_load: 0,
            pin: Pin::default(),
        };
        if node.stores_data() {
            node.ordered = node.applied.seq;
        }
        node.memberships.retain(|(seq, _)| *seq <= last);
        // The founding entry may have reached the data before the hard state
        // named the cluster: a node with committed entries is born.
        node.settle_birth(out);
        node.settle_memberships();
        node.seat_self();
        // The data ends before the log begins: what lies between is nowhere
        // here, and only another copy of the data brings it back.
        if node.stores_data() && node.applied.seq < node.log.base().seq {
            node.health.quarantined = true;
        }
        if amnesia {
            out.push(Output::Event(Event::Amnesia { incarnation: node.hard.incarnation }));
        }
        if renew || raised {
            node.persist_hard(out);
        }
        // Promises are volatile: whoever may have given one keeps silent until
        // it would have run out. A fresh directory has promised nothing, and a
        // sole voter only to itself.
        if !fresh && !node.sole_voter() && !planted!(node.config, NoSilence) {
            node.silent_until = now.mono.after(lease);
        }
        if node.silent_until > now.mono {
            node.arm_election(node.silent_until);
        }
        node.report_pin(now, out);
        node
    }

    /// Takes one input. Total: it never fails, blocks or panics on input.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Outbox) {
        self.wake(now);
        match input {
            Input::Deadline => {}
            Input::Received { route, envelope } => self.on_received(now, route, envelope, out),
            Input::Persisted { id } => self.on_persisted(now, id, out),
            Input::Propose { id, payloads } => self.on_propose(now, id, payloads, out),
            Input::Applied { position, content } => self.on_applied(position, content),
            Input::LogLoaded { id, prev, entries } => self.on_log_loaded(now, id, prev, entries, out),
            Input::LogTrimmed { first, base } => self.on_log_trimmed(first, base),
            Input::SnapshotInstalled { position, membership, content, hlc, log_reset } => {
                // Entries that it never saw are in it: were this node to write
                // next, its stamps would go back in time.
                self.hlc.raise(hlc);
                self.on_snapshot_installed(now, position, membership, content, log_reset, out);
            }
            Input::SnapshotFailed => self.on_snapshot_failed(now, out),
            Input::ReadIndex { id } => self.on_read_index(now, id, out),
            Input::Admin { id, command } => self.on_admin(now, id, command, out),
            Input::Health(health) => self.on_health(now, health, out),
            Input::Shutdown => self.on_shutdown(now),
        }
        self.tick(now, out);
        self.feed_all(now, out);
        self.report_pin(now, out);
        self.check();
    }

    /// When to wake it, and why.
    pub fn deadline(&self) -> Option<(MonoTime, Timer)> {
        let mut next = (self.heartbeat_at, Timer::Heartbeat);
        let mut consider = |at: MonoTime, timer: Timer| next = next.min((at, timer));
        match &self.stance {
            Stance::Follower => {
                if let Some(at) = self.birth_at() {
                    consider(at, Timer::Birth);
                }
                if self.may_campaign_ever() {
                    consider(self.election_at, Timer::Election);
                }
            }
            Stance::PreCandidate(campaign) | Stance::Candidate(campaign) => {
                consider(campaign.until, Timer::Campaign);
            }
            Stance::Writer(writer) => {
                if let Some(at) = self.quorum_lost_at(writer) {
                    consider(at, Timer::Quorum);
                }
                if let Some(handover) = &writer.handover {
                    consider(handover.until, Timer::Handover);
                }
            }
        }
        if let Some(at) = self.stop_by.filter(|_| !self.stopped) {
            consider(at, Timer::Stop);
        }
        Some(next)
    }

    /// Whether a group may run now.
    ///
    /// # Errors
    /// [`Refusal`] says what to do instead.
    pub fn may_write(&self, now: Now) -> Result<WritePermit, Refusal> {
        self.write_permit(now)
    }

    /// Whether what this node has applied is certainly current at `now`: ask
    /// before and after a local linearizable read.
    ///
    /// # Errors
    /// [`Refusal`] says what to do instead.
    pub fn may_read(&self, now: Now) -> Result<WritePermit, Refusal> {
        self.read_permit(now)
    }

    /// Everything a person or a metric wants to know.
    pub fn status(&self, now: Now) -> Status {
        self.report_status(now)
    }

    /// What it keeps for the moment.
    pub fn burden(&self) -> crate::io::Burden {
        self.report_burden()
    }

    /// Asserts every invariant, in release too.
    ///
    /// # Panics
    /// If one does not hold: to go on would be to guess.
    pub fn check(&self) {
        self.check_shallow();
    }

    /// Notices a pause before anything else is believed.
    fn wake(&mut self, now: Now) {
        let paused = now.mono.since(self.last_step) > self.config.lease / 2 && !planted!(self.config, PauseNotNoticed);
        self.last_step = self.last_step.max(now.mono);
        if paused {
            // What queued up meanwhile may hold a renewal: look first (B2).
            let grace = now.mono.after(self.config.heartbeat / 2);
            self.election_at = self.election_at.max(grace);
            let floor = self.stamp(now);
            if let Stance::Writer(writer) = &mut self.stance {
                writer.lease_floor = floor;
            }
        }
    }

    /// Does what is due, whatever the input was: a lost or late
    /// [`Input::Deadline`] changes nothing but the moment.
    fn tick(&mut self, now: Now, out: &mut Outbox) {
        if now.mono >= self.heartbeat_at {
            self.heartbeat_at = now.mono.after(self.config.heartbeat);
            self.pulse(now, out);
            self.on_heartbeat(now, out);
        }
        self.tick_birth(now, out);
        self.tick_election(now, out);
        self.tick_writer(now, out);
        self.tick_stop(now, out);
    }

    fn on_persisted(&mut self, now: Now, id: crate::io::PersistId, out: &mut Outbox) {
        let finished = self.disk.finish(id);
        if let Some(through) = finished.log {
            self.durable = self.durable.max(through).min(self.log.last().seq);
            if let Stance::Writer(writer) = &mut self.stance {
                writer.pace.own(through, now.mono);
            }
            self.order_apply(out);
        }
        if let Some(term) = finished.hard {
            self.durable_term = self.durable_term.max(term);
        }
        if !self.disk.log_pending() {
            self.health.slow = false;
        }
        for output in finished.released {
            let stale = match &output {
                // Said in a term that is over: under the new one it must not
                // be heard from this node any more.
                // Nor does a candidacy that was given up while its record was
                // under way ask for anything: a vote that it got would be lost
                // to those who still stand (simulator, seed 219042297).
                Output::Send { envelope, .. } => {
                    let given_up = matches!(envelope.message, Message::Vote { .. })
                        && !matches!(self.stance, Stance::Candidate(_));
                    given_up || envelope.term != self.hard.term || envelope.incarnation != self.hard.incarnation
                }
                _ => false,
            };
            if !stale {
                out.push(output);
            }
        }
        self.count_votes(now, out);
        self.advance_commit_as_writer(now, out);
    }

    /// A send time, never given out before and never behind the clock.
    fn stamp(&mut self, now: Now) -> MonoTime {
        self.last_stamp = now.mono.max(MonoTime(self.last_stamp.0.saturating_add(1)));
        self.last_stamp
    }

    fn persist_hard(&mut self, out: &mut Outbox) {
        let mut hard = self.hard.clone();
        if planted!(self.config, VoteInRamOnly) {
            hard.voted_for = None;
        }
        if planted!(self.config, TermInRamOnly) {
            hard.term = Term(0);
        }
        self.disk.persist(Record::HardState(hard), Seq(0), out);
    }

    /// Takes over a higher term: whatever this node was, it follows now.
    fn adopt_term(&mut self, now: Now, term: Term, out: &mut Outbox) {
        assert!(term > self.hard.term, "a term never falls");
        self.step_down(now, crate::io::StepDownReason::HigherTerm, out);
        self.hard.term = term;
        self.hard.voted_for = None;
        self.writer = None;
        self.persist_hard(out);
        out.push(Output::Event(Event::BecameFollower { term }));
    }

    /// Sends to a member by name.
    fn tell(&mut self, to: &NodeId, gate: Gate, message: Message, out: &mut Outbox) {
        if let Some(route) = self.route_to(to) {
            self.send(route, gate, message, out);
        }
    }

    fn send(&mut self, route: Route, gate: Gate, message: Message, out: &mut Outbox) {
        let born = self.hard.cluster != ClusterId::NONE;
        let envelope = Envelope {
            cluster: self.hard.cluster,
            seats: if born { 0 } else { self.seats_digest },
            from: self.config.id.clone(),
            incarnation: self.hard.incarnation,
            nonce: self.nonce,
            term: self.hard.term,
            config: self.membership().version,
            message,
        };
        if planted!(self.config, VoteBeforeFsync) && envelope.message == (Message::Voted { granted: true }) {
            out.push(Output::Send { route, envelope });
            return;
        }
        self.disk.after(gate, Output::Send { route, envelope }, out);
    }

    /// Where a node is reached: at its member's address, or along the way its
    /// last frame came while it is not there (a moved or joining node).
    fn route_to(&self, id: &NodeId) -> Option<Route> {
        let peer = self.peers.get(id);
        match self.member_anywhere(id) {
            Some(member) => match peer {
                Some(peer) if peer.url != member.url => Some(peer.route.clone()),
                _ => Some(Route::Url(member.url.clone())),
            },
            None => peer.map(|p| p.route.clone()),
        }
    }

    /// The membership in force: the latest in the log, committed or not; before
    /// birth the seats as far as they were heard.
    pub fn membership(&self) -> &Membership {
        match self.memberships.last() {
            Some((_, membership)) => membership,
            None => &self.provisional,
        }
    }

    /// A member by name in any membership that is not settled yet.
    fn member_anywhere(&self, id: &NodeId) -> Option<&crate::member::Member> {
        let logged = self.memberships.iter().rev().find_map(|(_, m)| m.get(id));
        logged.or_else(|| self.provisional.get(id))
    }

    /// Drops the memberships that a later committed one has replaced.
    fn settle_memberships(&mut self) {
        let settled = self.memberships.iter().filter(|(seq, _)| *seq <= self.commit).count();
        if settled > 1 {
            self.memberships.drain(..settled - 1);
        }
    }

    fn unborn(&self) -> bool {
        self.hard.cluster == ClusterId::NONE
    }

    fn is_voter(&self) -> bool {
        self.membership().is_voter(&self.config.id, self.hard.incarnation)
    }

    /// A voter of the membership in force, or of one before it as long as that
    /// is not known to be committed: a writer that removes itself and dies
    /// may hold the only log that the others' votes can complete, so it must
    /// stand, counting itself for nothing (Raft 4.2.2).
    fn voter_until_settled(&self) -> bool {
        self.is_voter() || (self.memberships.iter()).any(|(_, m)| m.is_voter(&self.config.id, self.hard.incarnation))
    }

    /// How many voters of the membership in force make a quorum.
    fn quorum(&self) -> usize {
        let membership = self.membership();
        let voters = membership.voters().count();
        if planted!(self.config, QuorumMinusOne) {
            return membership.quorum().saturating_sub(1).max(1);
        }
        if planted!(self.config, QuorumOfListed) {
            return voters.div_ceil(2).max(1);
        }
        membership.quorum()
    }

    fn sole_voter(&self) -> bool {
        self.is_voter() && self.membership().voters().count() == 1
    }

    /// Witnesses store the log only.
    fn stores_data(&self) -> bool {
        let role = self.membership().get(&self.config.id).map(|m| m.role);
        !self.config.witness && role != Some(crate::member::Role::Witness)
    }

    fn stream(&self) -> StreamId {
        StreamId::SHARED
    }
}
