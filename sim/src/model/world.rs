//! Three machines, what is on its way between them, and what was ever true.
//!
//! Decides what an action does: it gives production nodes their inputs, keeps
//! their disks as the simulator does, and notes the first promise that is
//! broken. Knows nothing of how the space of worlds is searched.

use super::canon::{self, Dial};
use crate::data::Content;
use crate::disk::{Disk, DiskOp};
use base_ha_core::config::Config;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{BootNonce, ClusterId, ConfigVersion, Hash as Digest, Incarnation, Lineage, NodeId};
use base_ha_core::ids::{Seq, StreamId, Term, Url};
use base_ha_core::io::{Boot, Event, HardState, Input, Output, Record, Route, StepDownReason};
use base_ha_core::member::{Member, Membership, QuorumMode, Role};
use base_ha_core::message::{AppendResult, Envelope, Message, Refused};
use base_ha_core::node::Node;
use base_ha_core::position::Position;
use base_ha_core::time::{MonoTime, Now, WallTime};
use base_ha_core::wire::encode_membership;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// How many machines there are, voters all of them.
pub(super) const MACHINES: usize = 3;

/// What may happen next. Where a disk is named slow, what the turn asks for
/// stays under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// The message at this place is received.
    Deliver {
        /// Which message.
        at: usize,
        /// The receiver's disk stalls.
        slow: bool,
    },
    /// It is received, and stays under way.
    Repeat(usize),
    /// A machine's oldest record is durable.
    Persisted(usize),
    /// A heartbeat passes, and what is under way is lost. Every process notices.
    Tick {
        /// Who does not notice.
        lags: Option<usize>,
        /// The message that is not lost.
        late: Option<usize>,
    },
    /// A machine that lagged notices what is due.
    Wake(usize),
    /// A client writes at a machine that may write.
    Propose {
        /// Which machine.
        at: usize,
        /// Its disk stalls.
        slow: bool,
    },
    /// A process dies with so many of its records durable, and starts anew.
    Crash(usize, usize),
}

/// What must hold in every world.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Promise {
    /// R1: two machines never may write, or read, at one moment.
    OnePermit,
    /// R2: one writer in a term.
    OneWriter,
    /// R2: a disk votes once in a term, also after a crash.
    OneVote,
    /// R2: term and vote are durable before they are spoken of.
    DurableVote,
    /// R3, R11: what is acknowledged is durable.
    DurableAck,
    /// R3: what is committed is on a quorum of disks.
    DurableCommit,
    /// R2: whoever becomes writer has all that is committed.
    Complete,
    /// R2: what is committed in one place is one entry.
    OneHistory,
    /// R2: logs that agree in an entry agree before it.
    Matching,
    /// The core's own assertions, and that no crash is taken for a lost disk.
    Sound,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::OnePermit,
        Self::OneWriter,
        Self::OneVote,
        Self::DurableVote,
        Self::DurableAck,
        Self::DurableCommit,
        Self::Complete,
        Self::OneHistory,
        Self::Matching,
        Self::Sound,
    ];

    /// In words.
    pub fn what(self) -> &'static str {
        match self {
            Self::OnePermit => "one permit at a time",
            Self::OneWriter => "one writer per term",
            Self::OneVote => "one vote per term",
            Self::DurableVote => "a vote is durable before it is given",
            Self::DurableAck => "what is acknowledged is durable",
            Self::DurableCommit => "a commit is on a quorum of disks",
            Self::Complete => "a writer has all that is committed",
            Self::OneHistory => "committed logs are equal",
            Self::Matching => "logs that agree in an entry agree before it",
            Self::Sound => "assertions hold",
        }
    }
}

/// How a disk lies. With a lie the search must find a broken promise: that is
/// how it is known to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lie {
    /// Not at all.
    #[default]
    None,
    /// Entries are called durable before they are.
    Entries,
    /// A process that starts anew finds that more time has passed than did: it
    /// waits for no promise that it may have given.
    Silence,
}

/// Where a search starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// A founded cluster whose processes have started a lease ago: nobody has
    /// promised anything, and an election is due.
    Rest,
    /// It has a writer, whose first entry is committed everywhere.
    Writing,
    /// That one's lease is over, the last machine lacks an entry that is
    /// committed, and the next election is due.
    Behind,
}

/// How the machines of a world are set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Setup {
    /// What their disks lie about.
    pub lie: Lie,
    /// The rule that their nodes break.
    #[cfg(base_ha_mutants)]
    pub mutant: Option<base_ha_core::mutant::Mutant>,
}

impl Setup {
    /// The same with disks that lie so.
    #[must_use]
    pub fn lying(mut self, lie: Lie) -> Self {
        self.lie = lie;
        self
    }
}

/// A message under way.
#[derive(Clone, Debug)]
struct Flying {
    from: usize,
    /// The process that said it: where an answer goes.
    by: u64,
    to: usize,
    /// The process that it answers, if it is an answer.
    boot: Option<u64>,
    envelope: Envelope,
    /// Without its send time, or the one that it answers.
    hash: u64,
    /// That, and by whose clock.
    stamp: (usize, u64),
}

/// A machine: its disk, its process.
#[derive(Clone)]
struct Machine {
    boot: u64,
    node: Node,
    disk: Disk,
    /// How many of the records under way its process believes to be durable.
    believed: usize,
    /// The highest term that it has heard of.
    term: Term,
    /// The process failed an assertion.
    dead: bool,
    hash: u64,
    /// The send times that it knows, in order.
    stamps: Vec<u64>,
}

/// What was ever true, for promises that outlive their makers.
#[derive(Clone, Debug, Default, Hash)]
struct History {
    /// Who became writer in which term.
    writers: BTreeMap<Term, usize>,
    /// For whom each disk voted in which term.
    votes: BTreeMap<(usize, Term), NodeId>,
    /// What is committed, from the first entry on.
    committed: Vec<(Term, Digest)>,
    /// An uncommitted entry was dropped.
    truncated: bool,
    /// The last entries of a crashed process were lost.
    lost_records: bool,
    /// A writer whom no quorum answered stepped down.
    lease_ended: bool,
    /// The first promise that did not hold.
    broken: Option<(Promise, String)>,
}

/// One state of the world.
#[derive(Clone)]
pub struct World {
    machines: [Arc<Machine>; MACHINES],
    /// In no order: worlds that differ in it alone are one.
    flying: Vec<Arc<Flying>>,
    history: Arc<History>,
    ticks: u64,
    /// What each kind of mishap was done, by [`Mishap`].
    done: [u8; Mishap::KINDS],
    setup: Setup,
}

/// What is bounded, each kind for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mishap {
    /// [`Action::Repeat`].
    Repeat,
    /// [`Action::Crash`].
    Crash,
    /// [`Action::Tick`].
    Tick,
    /// A process that lags.
    Lag,
    /// A message that is late.
    Late,
    /// A disk that stalls.
    Stall,
    /// [`Action::Propose`].
    Propose,
}

impl Mishap {
    const KINDS: usize = 7;
}

const TICK_NS: u64 = 500_000_000;
/// Clocks start here, apart from each other so that none can be taken for
/// another's.
const CLOCK_START_NS: u64 = 1_000_000_000_000;

fn url_of(machine: usize) -> Url {
    Url::new(&format!("http://n{machine}:1"))
}

fn id_of(machine: usize) -> NodeId {
    NodeId::new(&format!("n{machine}")).expect("a legal name")
}

fn config_of(machine: usize, setup: Setup) -> Config {
    let mut config = Config::new(id_of(machine), url_of(machine), (0..MACHINES).map(url_of).collect());
    config.lease = config.heartbeat * 2;
    config.jitter = false;
    #[cfg(base_ha_mutants)]
    {
        config.mutant = setup.mutant;
    }
    let _ = setup;
    config
}

fn dial_of(machine: usize) -> Dial {
    Dial { start: CLOCK_START_NS * (machine as u64 + 1), tick: TICK_NS }
}

/// The disk of a machine in a cluster that was founded and is at rest: the
/// founding entry and its writer's own first one are committed and applied.
fn disk_of(machine: usize) -> Disk {
    let incarnation = |n: usize| Incarnation(n as u128 + 1);
    let membership = Membership {
        version: ConfigVersion(1),
        cluster: ClusterId(7),
        mode: QuorumMode::Majority,
        lineage: Lineage(1),
        members: (0..MACHINES)
            .map(|n| Member {
                url: url_of(n),
                identity: Some((id_of(n), incarnation(n))),
                role: Role::Voter,
                target: None,
            })
            .collect(),
    };
    let entry = |prev: &Position, hlc, kind, payload| {
        Entry::following(prev, StreamId::SHARED, Term(1), Hlc(hlc), kind, payload)
    };
    let charter = entry(&Position::START, 1, EntryKind::Config, encode_membership(&membership));
    let first = entry(&charter.position(), 2, EntryKind::Noop, Bytes::new());
    let hard = HardState {
        cluster: membership.cluster,
        incarnation: incarnation(machine),
        term: Term(1),
        voted_for: Some((id_of(0), incarnation(0))),
        high_water: Position::START,
    };
    let mut disk = Disk::default();
    let entries = vec![charter, first];
    disk.request(DiskOp::Record { id: 1, record: Record::Append { keep: None, entries: entries.clone() } });
    disk.request(DiskOp::Record { id: 2, record: Record::HardState(hard) });
    disk.process_ended(2, None);
    for entry in &entries {
        disk.apply(entry, &Content::of(entry));
    }
    disk.checkpoint();
    disk
}

fn now_of(machine: usize, ticks: u64) -> Now {
    let start = CLOCK_START_NS * (machine as u64 + 1);
    Now { mono: MonoTime(start + ticks * TICK_NS), wall: WallTime(1_750_000_000_000) }
}

impl Machine {
    /// Starts a process on the disk as it is.
    fn boot(machine: usize, disk: Disk, ticks: u64, boot: u64, setup: Setup) -> (Self, Vec<Output>) {
        let mut out = Vec::new();
        let recovered = disk.recover();
        let term = recovered.hard.term;
        let mut began = now_of(machine, ticks);
        let config = config_of(machine, setup);
        if setup.lie == Lie::Silence {
            // A process that believes to have slept since long ago.
            began.mono = began.mono.before(config.lease * 2);
        }
        let boot_of =
            Boot { config, seed: [machine as u8 + 1; 32], nonce: BootNonce(boot * 10 + machine as u64), recovered };
        let node = Node::recover(boot_of, began, &mut out);
        (Self { boot, node, disk, believed: 0, term, dead: false, hash: 0, stamps: Vec::new() }, out)
    }

    fn sum_up(&mut self, n: usize) {
        let what = (self.boot, &self.node, &self.disk, self.believed, self.dead);
        (self.hash, self.stamps) = canon::summed_up(&what, dial_of(n));
    }
}

impl World {
    /// A founded cluster whose processes have started a lease ago: nobody has
    /// promised anything, and everybody's election is due.
    fn at_rest(setup: Setup) -> Self {
        let mut outputs = Vec::new();
        let honest = setup.lying(Lie::None);
        let machines = std::array::from_fn(|n| {
            let (mut machine, out) = Machine::boot(n, disk_of(n), 0, 1, honest);
            machine.sum_up(n);
            outputs.push((n, out));
            Arc::new(machine)
        });
        let committed = machines[0].disk.log.entries.iter().map(|e| (e.term, e.hash)).collect();
        let history = Arc::new(History { committed, ..History::default() });
        let done = [0; Mishap::KINDS];
        let mut world = Self { machines, flying: Vec::new(), history, ticks: 0, done, setup: honest };
        for (n, out) in outputs {
            let mut machine = (*world.machines[n]).clone();
            world.carry_out(n, &mut machine, out);
            world.put_back(n, machine);
        }
        world.tick_without(None);
        world
    }

    /// The same a little later: a node was elected, and everything that followed
    /// from it has happened.
    fn writing(setup: Setup, ticks: u64) -> Self {
        let mut world = Self::at_rest(setup);
        (0..ticks).for_each(|_| world.tick_without(None));
        world
    }

    /// A little later still: one machine has heard nothing since the last tick,
    /// and lacks what was written and committed since; and then nobody has heard
    /// anything for a tick.
    fn behind(setup: Setup) -> Self {
        let mut world = Self::writing(setup, 2);
        let last = MACHINES - 1;
        world.tick_without(Some(last));
        if let Some(at) = (0..MACHINES).find(|n| world.may_write(*n)) {
            world.take(Action::Propose { at, slow: false });
        }
        world.deliver_without(Some(last));
        world.take(Action::Tick { lags: None, late: None });
        world
    }

    /// Where a search starts.
    pub fn start(start: Start, setup: Setup) -> Self {
        let mut world = match start {
            Start::Rest => Self::at_rest(setup),
            Start::Writing => Self::writing(setup, 3),
            Start::Behind => Self::behind(setup),
        };
        world.setup = setup;
        world.done = [0; Mishap::KINDS];
        let elected = (0..MACHINES).any(|n| world.may_write(n));
        let broken = world.broken_promise().is_some();
        assert!(elected || broken || start != Start::Writing, "an election without mishaps ends with a writer");
        world
    }

    /// A tick, and everything that follows from it, but for one machine's part.
    fn tick_without(&mut self, without: Option<usize>) {
        self.take(Action::Tick { lags: None, late: None });
        self.deliver_without(without);
    }

    fn deliver_without(&mut self, without: Option<usize>) {
        for round in 0.. {
            assert!(round < 1000, "what a tick brings has an end");
            let at = self.flying.iter().position(|m| Some(m.to) != without && Some(m.from) != without);
            match at {
                Some(at) => self.take(Action::Deliver { at, slow: false }),
                None => break,
            };
        }
    }

    /// Carries out an action. False if its disk was to stall and had nothing to
    /// do: nothing of its own happened then.
    pub fn take(&mut self, action: Action) -> bool {
        let mut happened = true;
        match action {
            Action::Deliver { at, slow } => {
                let message = self.flying.swap_remove(at);
                happened = self.deliver(&message, slow);
            }
            Action::Repeat(at) => {
                self.count(Mishap::Repeat);
                let message = self.flying[at].clone();
                self.deliver(&message, false);
            }
            Action::Persisted(n) => {
                let mut machine = (*self.machines[n]).clone();
                self.complete(n, &mut machine);
                self.put_back(n, machine);
            }
            Action::Tick { lags, late } => {
                self.count(Mishap::Tick);
                if lags.is_some() {
                    self.count(Mishap::Lag);
                }
                if late.is_some() {
                    self.count(Mishap::Late);
                }
                self.ticks += 1;
                let late = late.map(|at| self.flying.swap_remove(at));
                self.flying = late.into_iter().collect();
                for n in (0..MACHINES).filter(|n| Some(*n) != lags) {
                    self.give(n, Input::Deadline, false);
                }
            }
            Action::Wake(n) => {
                self.give(n, Input::Deadline, false);
            }
            Action::Propose { at, slow } => {
                self.count(Mishap::Propose);
                let number = u64::from(self.done(Mishap::Propose));
                let input = Input::Propose { id: number, payloads: vec![proposal(number)] };
                happened = self.give(at, input, slow);
            }
            Action::Crash(n, kept) => {
                self.count(Mishap::Crash);
                self.crash(n, kept);
            }
        }
        self.look();
        happened
    }

    fn count(&mut self, mishap: Mishap) {
        self.done[mishap as usize] += 1;
    }

    /// How often that was done.
    pub fn done(&self, mishap: Mishap) -> u8 {
        self.done[mishap as usize]
    }

    fn now(&self, n: usize) -> Now {
        now_of(n, self.ticks)
    }

    fn deliver(&mut self, message: &Flying, slow: bool) -> bool {
        let route = Route::Conn(message.by * 10 + message.from as u64);
        self.give(message.to, Input::Received { route, envelope: message.envelope.clone() }, slow)
    }

    /// Gives a process an input. False if its disk was to be `slow` and had
    /// nothing to do.
    fn give(&mut self, n: usize, input: Input, slow: bool) -> bool {
        let mut machine = (*self.machines[n]).clone();
        let before = machine.disk.pending();
        let idle = before == machine.believed;
        self.feed(n, &mut machine, input);
        let stalled = slow && machine.disk.pending() > before;
        if stalled && idle {
            self.count(Mishap::Stall);
        }
        while idle && !stalled && machine.disk.pending() > machine.believed && !machine.dead {
            self.complete(n, &mut machine);
        }
        self.put_back(n, machine);
        stalled == slow
    }

    /// The oldest record that the process was not told of is durable, or said to
    /// be; if there is none, one of which that was said.
    fn complete(&mut self, n: usize, machine: &mut Machine) {
        let op = if machine.believed == machine.disk.pending() {
            machine.believed = machine.believed.saturating_sub(1);
            machine.disk.complete();
            return;
        } else if self.setup.lie == Lie::Entries {
            machine.believed += 1;
            machine.disk.under_way(machine.believed - 1).cloned()
        } else {
            machine.disk.complete()
        };
        if let Some(DiskOp::Record { id, .. }) = op {
            self.feed(n, machine, Input::Persisted { id });
        }
    }

    fn crash(&mut self, n: usize, kept: usize) {
        let old = self.machines[n].clone();
        let mut disk = old.disk.clone();
        if kept < disk.pending() {
            self.note(|history| history.lost_records = true);
        }
        disk.process_ended(kept, None);
        disk.power_cut(usize::MAX);
        // What waited for an answer on its connections has nobody to go to.
        self.flying.retain(|message| message.to != n || message.boot.is_none());
        let ticks = self.ticks;
        let booted = catch_unwind(AssertUnwindSafe(|| Machine::boot(n, disk, ticks, old.boot + 1, self.setup)));
        let Ok((mut machine, out)) = booted else {
            return self.broken(Promise::Sound, format!("n{n} does not start"));
        };
        self.carry_out(n, &mut machine, out);
        self.put_back(n, machine);
        // What it asks for at its start is done at once.
        self.give(n, Input::Deadline, false);
    }

    fn put_back(&mut self, n: usize, mut machine: Machine) {
        machine.sum_up(n);
        self.machines[n] = Arc::new(machine);
        let idle = |message: &Flying| message.to == n && self.is_idle(n, &message.envelope);
        if self.flying.iter().any(|message| idle(message)) {
            let (machines, history) = (self.machines.clone(), self.history.clone());
            let beside = Self { machines, history, flying: Vec::new(), ..*self };
            self.flying.retain(|message| message.to != n || !beside.is_idle(n, &message.envelope));
        }
    }

    fn note(&mut self, what: impl FnOnce(&mut History)) {
        what(Arc::make_mut(&mut self.history));
    }

    fn broken(&mut self, promise: Promise, detail: String) {
        if self.history.broken.is_none() {
            self.note(|history| history.broken = Some((promise, detail)));
        }
    }

    /// Gives a node an input and carries out all that follows at once.
    fn feed(&mut self, n: usize, machine: &mut Machine, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            if machine.dead {
                return;
            }
            let mut out = Vec::new();
            let now = self.now(n);
            // A failed assertion of the core is a broken promise like any other.
            let stepped = catch_unwind(AssertUnwindSafe(|| machine.node.step(now, input, &mut out)));
            if stepped.is_err() {
                machine.dead = true;
                return self.broken(Promise::Sound, format!("n{n} fails an assertion"));
            }
            inputs.extend(self.carry_out(n, machine, out));
        }
    }

    /// Carries out what a node ordered; what is done at once comes back as the
    /// inputs that say so.
    fn carry_out(&mut self, n: usize, machine: &mut Machine, out: Vec<Output>) -> Vec<Input> {
        let mut inputs = Vec::new();
        for output in out {
            match output {
                Output::Persist { id, record } => {
                    if let Record::HardState(hard) = &record {
                        machine.term = machine.term.max(hard.term);
                    }
                    machine.disk.request(DiskOp::Record { id, record });
                }
                Output::Send { route, envelope } => self.send(n, machine, &route, envelope),
                Output::Apply { from, through, .. } => {
                    for seq in from.0..=through.0 {
                        self.apply(n, machine, Seq(seq));
                    }
                    let data = &machine.disk.data;
                    inputs.push(Input::Applied { position: data.applied, content: data.content });
                }
                Output::LoadLog { id, from, through, .. } => {
                    let log = &machine.disk.seen;
                    let prev = log.position(Seq(from.0 - 1)).unwrap_or(log.base);
                    let entries = (from.0..=through.0).filter_map(|seq| log.get(Seq(seq)).cloned()).collect();
                    inputs.push(Input::LogLoaded { id, prev, entries });
                }
                Output::Event(event) => self.event(n, machine, &event),
                // Nobody waits for these here; snapshots are never needed.
                Output::FetchSnapshot { .. }
                | Output::Proposed { .. }
                | Output::ProposalRefused { .. }
                | Output::ProposalUnknown { .. }
                | Output::Progress { .. }
                | Output::ReadReady { .. }
                | Output::ReadRefused { .. }
                | Output::AdminDone { .. }
                | Output::Pin(_)
                | Output::Stopped => {}
            }
        }
        inputs
    }

    fn send(&mut self, n: usize, machine: &Machine, route: &Route, envelope: Envelope) {
        let (to, boot) = match route {
            Route::Url(url) => ((0..MACHINES).find(|n| url_of(*n) == *url), None),
            Route::Conn(conn) => (Some((conn % 10) as usize), Some(conn / 10)),
        };
        let Some(to) = to else {
            return;
        };
        match &envelope.message {
            // No writer has been one for long enough to be asked for the pin.
            Message::Ping(_) | Message::Pong { .. } | Message::AskTransfer => return,
            Message::Voted { granted: true } => self.voted(n, machine, envelope.term, id_of(to)),
            Message::Vote { .. } => self.voted(n, machine, envelope.term, id_of(n)),
            Message::Appended(appended) => {
                if let AppendResult::Durable { matched } = appended.result
                    && machine.disk.log.last().seq < matched
                {
                    let detail = format!("n{n} acknowledges {matched} in term {}", envelope.term);
                    self.broken(Promise::DurableAck, detail);
                }
            }
            _ => {}
        }
        if boot.is_some_and(|boot| self.machines[to].boot != boot) || self.is_idle(to, &envelope) {
            return;
        }
        let by = machine.boot;
        let stamp = match &envelope.message {
            Message::Append(append) => (n, append.sent.map_or(0, |sent| sent.0)),
            Message::Appended(appended) => (to, appended.echo.0),
            _ => (n, 0),
        };
        let hash = canon::ranked(&(n, by, to, boot, &envelope), dial_of(stamp.0), &[]);
        self.flying.push(Arc::new(Flying { from: n, by, to, boot, envelope, hash, stamp }));
    }

    /// Whether an answer changes nothing, now or ever: its receiver is beyond
    /// what it asked for, and terms do not fall within a process.
    fn is_idle(&self, to: usize, envelope: &Envelope) -> bool {
        let term = self.machines[to].term;
        match envelope.message {
            Message::PreVoted { term: of, granted } => envelope.term <= term && (!granted || of <= term),
            Message::Voted { granted } => envelope.term <= term && (!granted || self.is_elected(to, envelope.term)),
            Message::Refused(Refused::StaleTerm) => envelope.term <= term,
            _ => false,
        }
    }

    /// Whether a machine has no use for another vote of that term.
    fn is_elected(&self, n: usize, term: Term) -> bool {
        self.machines[n].term > term || self.history.writers.contains_key(&term)
    }

    fn voted(&mut self, n: usize, machine: &Machine, term: Term, candidate: NodeId) {
        let other = self.history.votes.get(&(n, term)).filter(|given| **given != candidate);
        if other.is_some() {
            self.broken(Promise::OneVote, format!("n{n} votes twice in term {term}"));
        }
        let hard = &machine.disk.hard;
        let durable = hard.term == term && hard.voted_for.as_ref().is_some_and(|(id, _)| *id == candidate);
        // A vote of a term that is over is not in the hard state any more.
        if !durable && hard.term <= term && self.setup.lie == Lie::None {
            self.broken(Promise::DurableVote, format!("n{n} votes in term {term}"));
        }
        self.note(|history| {
            history.votes.insert((n, term), candidate);
        });
    }

    /// A node orders an entry to be applied: it is committed.
    fn apply(&mut self, n: usize, machine: &mut Machine, seq: Seq) {
        let Some(entry) = machine.disk.seen.get(seq).cloned() else {
            return self.broken(Promise::OneHistory, format!("n{n} applies {seq}, which it does not have"));
        };
        let index = (seq.0 - 1) as usize;
        match self.history.committed.get(index) {
            Some((_, hash)) if *hash == entry.hash => {}
            Some(_) => self.broken(Promise::OneHistory, format!("n{n} applies another {seq}")),
            None => {
                let disks = |other: usize| {
                    let disk = if other == n { &machine.disk } else { &self.machines[other].disk };
                    disk.log.holds(&entry.position())
                };
                let holders = (0..MACHINES).filter(|other| disks(*other)).count();
                if holders <= MACHINES / 2 {
                    self.broken(Promise::DurableCommit, format!("{seq} is on {holders}"));
                }
                self.note(|history| history.committed.push((entry.term, entry.hash)));
            }
        }
        let follows = entry.prev_hash == machine.disk.data.applied.hash;
        if machine.disk.data.applied.seq.next() == seq && follows {
            machine.disk.apply(&entry, &Content::of(&entry));
        }
    }

    fn event(&mut self, n: usize, machine: &Machine, event: &Event) {
        match event {
            Event::BecameWriter { term } => {
                let other = self.history.writers.get(term).filter(|other| **other != n);
                if other.is_some() {
                    self.broken(Promise::OneWriter, format!("n{n} and another in term {term}"));
                }
                self.note(|history| {
                    history.writers.insert(*term, n);
                });
                let hard = &machine.disk.hard;
                let own = hard.term == *term && hard.voted_for.as_ref().is_some_and(|(id, _)| *id == id_of(n));
                if !own && self.setup.lie == Lie::None {
                    self.broken(Promise::DurableVote, format!("n{n} counts its own vote in term {term}"));
                }
                let log = &machine.disk.seen;
                let lacks = self.history.committed.iter().enumerate().find(|(index, (_, hash))| {
                    log.position(Seq(*index as u64 + 1)).is_none_or(|held| held.hash != *hash)
                });
                if let Some((index, _)) = lacks {
                    self.broken(Promise::Complete, format!("the writer n{n} lacks {}", index + 1));
                }
            }
            Event::SteppedDown { reason: StepDownReason::QuorumLost, .. } => {
                self.note(|history| history.lease_ended = true);
            }
            Event::LogTruncated { .. } => self.note(|history| history.truncated = true),
            Event::Amnesia { .. } => self.broken(Promise::Sound, format!("n{n} takes a crash for a lost disk")),
            _ => {}
        }
    }

    /// What must hold between any two actions.
    fn look(&mut self) {
        for a in 0..MACHINES {
            for b in 0..a {
                let (left, right) = (&self.machines[a].disk.seen, &self.machines[b].disk.seen);
                let mut same = true;
                let mut wrong = None;
                for (l, r) in left.entries.iter().zip(&right.entries) {
                    let equal = l.hash == r.hash;
                    if l.term == r.term && !equal || equal && !same {
                        wrong = Some(l.seq);
                    }
                    same = equal;
                }
                if let Some(seq) = wrong {
                    self.broken(Promise::Matching, format!("n{a} and n{b} at {seq}"));
                }
            }
        }
        let permits = (0..MACHINES).filter(|n| self.may_read(*n)).count();
        if permits > 1 {
            self.broken(Promise::OnePermit, format!("{permits} at tick {}", self.ticks));
        }
    }

    fn may_read(&self, n: usize) -> bool {
        let machine = &self.machines[n];
        !machine.dead && machine.node.may_read(self.now(n)).is_ok()
    }

    /// How many messages are on their way.
    pub fn flying(&self) -> usize {
        self.flying.len()
    }

    /// Whether the message at `at` is the same as one before it.
    pub fn repeats(&self, at: usize) -> bool {
        let same = |other: &Flying| (other.hash, other.stamp) == (self.flying[at].hash, self.flying[at].stamp);
        self.flying[..at].iter().any(|other| same(other))
    }

    /// How many records a machine has under way, and how many of them its
    /// process was told of.
    pub fn pending(&self, n: usize) -> (usize, usize) {
        (self.machines[n].disk.pending(), self.machines[n].believed)
    }

    /// Whether a machine may write at this moment.
    pub fn may_write(&self, n: usize) -> bool {
        let machine = &self.machines[n];
        !machine.dead && machine.node.may_write(self.now(n)).is_ok()
    }

    /// Whether something is due on a machine that did not notice yet.
    pub fn is_due(&self, n: usize) -> bool {
        let machine = &self.machines[n];
        !machine.dead && machine.node.deadline().is_some_and(|(at, _)| at <= self.now(n).mono)
    }

    /// The highest term that any node has heard of.
    pub fn term(&self) -> Term {
        self.machines.iter().map(|machine| machine.term).max().unwrap_or_default()
    }

    /// The first promise that was broken on the way here.
    pub fn broken_promise(&self) -> Option<(Promise, &str)> {
        self.history.broken.as_ref().map(|(promise, detail)| (*promise, detail.as_str()))
    }

    /// Writers were elected in so many terms.
    pub fn elections(&self) -> usize {
        self.history.writers.len()
    }

    /// In how many terms the committed entries were made.
    pub fn committed_terms(&self) -> usize {
        let mut terms: Vec<Term> = self.history.committed.iter().map(|(term, _)| *term).collect();
        terms.dedup();
        terms.len()
    }

    /// How many entries are committed.
    pub fn committed(&self) -> usize {
        self.history.committed.len()
    }

    /// An uncommitted entry gave way to another writer's.
    pub fn truncated(&self) -> bool {
        self.history.truncated
    }

    /// A crash took records that were not durable.
    pub fn lost_records(&self) -> bool {
        self.history.lost_records
    }

    /// A writer's lease ended, because no quorum answered.
    pub fn lease_ended(&self) -> bool {
        self.history.lease_ended
    }
}

impl World {
    /// A message as it counts: what it says, and where its send time lies among
    /// those that its machine knows and those that are under way.
    fn place(&self, message: &Flying) -> (u64, u64, u64) {
        let (of, stamp) = message.stamp;
        let place = |stamp| canon::place(stamp, &self.machines[of].stamps);
        let here = place(stamp);
        let mut beside: Vec<u64> = (self.flying.iter().map(|other| other.stamp))
            .filter(|(machine, other)| *machine == of && *other < stamp && place(*other) == here)
            .map(|(_, other)| other)
            .collect();
        beside.sort_unstable();
        beside.dedup();
        (message.hash, here, beside.len() as u64)
    }
}

fn proposal(number: u64) -> Bytes {
    use base_ha_core::changeset::RequestId;
    use base_ha_core::wire::ChangeSetWriter;
    ChangeSetWriter::new()
        .finish(RequestId(u128::from(number)), Hlc::default(), "main")
        .expect("a change-set that changes nothing")
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for machine in &self.machines {
            state.write_u64(machine.hash);
        }
        let mut flying: Vec<_> = self.flying.iter().map(|message| self.place(message)).collect();
        flying.sort_unstable();
        for place in flying {
            state.write_u64(place.0);
            state.write_u64(place.1);
            state.write_u64(place.2);
        }
        self.history.hash(state);
        state.write_u64(self.ticks);
        state.write(&self.done);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        let hash = |world: &Self| canon::ranked(world, dial_of(0), &[]);
        hash(self) == hash(other)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tick {}", self.ticks)?;
        for (n, machine) in self.machines.iter().enumerate() {
            let status = machine.node.status(self.now(n));
            writeln!(
                f,
                "n{n}: {:?} of term {}, log {} of term {}, commit {}, {} records under way",
                status.part,
                status.pin.term,
                status.last.seq,
                status.last.term,
                status.commit,
                machine.disk.pending(),
            )?;
        }
        for message in &self.flying {
            writeln!(f, "  n{} to n{}: {:?}", message.from, message.to, message.envelope.message)?;
        }
        write!(f, "{:?}", self.history)
    }
}
