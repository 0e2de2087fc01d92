//! Three machines, what is on its way between them, and what was ever true.
//!
//! Decides what an action does: it gives production nodes their inputs, keeps
//! their disks as the simulator does, and notes the first promise that is
//! broken. Knows nothing of how the space of worlds is searched.

use crate::data::Content;
use crate::disk::{Disk, DiskOp};
use base_ha_core::config::Config;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{BootNonce, ClusterId, ConfigVersion, Hash as Digest, Incarnation, Lineage, NodeId};
use base_ha_core::ids::{Seq, StreamId, Term, Url};
use base_ha_core::io::{Boot, Event, HardState, Input, Output, Part, Record, Route};
use base_ha_core::member::{Member, Membership, QuorumMode, Role};
use base_ha_core::message::{Envelope, Message};
use base_ha_core::node::Node;
use base_ha_core::position::Position;
use base_ha_core::time::{MonoTime, Now, WallTime};
use base_ha_core::wire::encode_membership;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// How many machines there are, voters all of them.
pub(super) const MACHINES: usize = 3;

/// What may happen next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// The message at this place is received.
    Deliver(usize),
    /// It is received, and stays under way.
    Repeat(usize),
    /// A machine's oldest record is durable.
    Persisted(usize),
    /// A machine's clock alone leaps beyond every promise.
    Expire(usize),
    /// A machine's clock passes a heartbeat.
    Beat(usize),
    /// Every clock passes a heartbeat; nobody has noticed yet.
    Leap,
    /// A machine notices what is due.
    Wake(usize),
    /// A client writes at a machine that may write.
    Propose(usize),
    /// A process dies with so many of its records durable, and starts anew.
    Crash(usize, usize),
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
    /// A crash forgets for whom a term's vote was given.
    Vote,
    /// A process that starts anew finds that more time has passed than did: it
    /// waits for no promise that it may have given.
    Silence,
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
    hash: u64,
}

/// A machine: its clock, its disk, its process.
#[derive(Clone)]
struct Machine {
    clock: u64,
    boot: u64,
    node: Node,
    disk: Disk,
    /// How many of the records under way its process believes to be durable.
    believed: usize,
    /// Whether it is writer, and of which term: as its status says.
    writes: bool,
    term: Term,
    hash: u64,
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
    /// The first promise that did not hold.
    broken: Option<String>,
}

/// One state of the world.
#[derive(Clone)]
pub struct World {
    machines: [Arc<Machine>; MACHINES],
    /// Sorted by hash, so that the order of sending is forgotten.
    flying: Vec<Arc<Flying>>,
    history: Arc<History>,
    proposals: u64,
    /// What each kind of mishap was done, by [`Mishap`].
    done: [u8; 6],
    lie: Lie,
}

/// What is bounded, each kind for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mishap {
    /// [`Action::Repeat`].
    Repeat,
    /// [`Action::Crash`].
    Crash,
    /// [`Action::Expire`].
    Expire,
    /// [`Action::Beat`].
    Beat,
    /// [`Action::Leap`].
    Leap,
    /// [`Action::Propose`].
    Propose,
}

const HEARTBEAT_NS: u64 = 500_000_000;
/// Clocks start here, apart from each other so that none can be taken for
/// another's.
const CLOCK_START_NS: u64 = 1_000_000_000_000;

fn url_of(machine: usize) -> Url {
    Url::new(&format!("http://n{machine}:1"))
}

fn id_of(machine: usize) -> NodeId {
    NodeId::new(&format!("n{machine}")).expect("a legal name")
}

fn config_of(machine: usize) -> Config {
    Config::new(id_of(machine), url_of(machine), (0..MACHINES).map(url_of).collect())
}

fn hash_of(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
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

impl Machine {
    fn now(&self) -> Now {
        Now { mono: MonoTime(self.clock), wall: WallTime(1_750_000_000_000) }
    }

    /// Starts a process on the disk as it is.
    fn boot(machine: usize, disk: Disk, clock: u64, boot: u64, lie: Lie) -> (Self, Vec<Output>) {
        let mut out = Vec::new();
        let recovered = disk.recover();
        let first = Now { mono: MonoTime(clock), wall: WallTime(1_750_000_000_000) };
        // A process that believes to have slept since long ago.
        let began = match lie {
            Lie::Silence => Now { mono: first.mono.before(config_of(machine).lease * 2), ..first },
            Lie::None | Lie::Entries | Lie::Vote => first,
        };
        let boot_of = Boot {
            config: config_of(machine),
            seed: [machine as u8 + 1; 32],
            nonce: BootNonce(boot * 10 + machine as u64),
            recovered,
        };
        let node = Node::recover(boot_of, began, &mut out);
        (Self { clock, boot, node, disk, believed: 0, writes: false, term: Term(0), hash: 0 }, out)
    }

    /// Sums up what it has become.
    fn sum_up(&mut self) {
        let status = self.node.status(self.now());
        self.writes = status.part == Part::Writer;
        self.term = status.pin.term;
        self.hash = hash_of(&(self.clock, self.boot, &self.node, &self.disk, self.believed));
    }
}

impl World {
    /// A founded cluster whose processes have all just started.
    pub fn at_rest(lie: Lie) -> Self {
        let mut outputs = Vec::new();
        let machines = std::array::from_fn(|n| {
            let (mut machine, out) = Machine::boot(n, disk_of(n), CLOCK_START_NS * (n as u64 + 1), 1, lie);
            machine.sum_up();
            outputs.push((n, out));
            Arc::new(machine)
        });
        let disk: &Disk = &machines[0].disk;
        let committed = disk.log.entries.iter().map(|e| (e.term, e.hash)).collect();
        let history = Arc::new(History { committed, ..History::default() });
        let mut world = Self { machines, flying: Vec::new(), history, proposals: 0, done: [0; 6], lie };
        for (n, out) in outputs {
            let mut machine = (*world.machines[n]).clone();
            world.carry_out(n, &mut machine, out);
            world.put_back(n, machine);
        }
        world
    }

    /// The same a moment later: the lowest node was elected, and everything
    /// that followed from it has happened. All clocks show the same.
    pub fn writing(lie: Lie) -> Self {
        let mut world = Self::at_rest(lie);
        for n in 0..MACHINES {
            let mut machine = (*world.machines[n]).clone();
            machine.clock = CLOCK_START_NS * (MACHINES as u64 + 1);
            world.put_back(n, machine);
        }
        // It notices that time has passed; the others do so as it turns to them.
        world.take(Action::Wake(0));
        world.take(Action::Leap);
        world.take(Action::Wake(0));
        for round in 0.. {
            assert!(round < 1000, "an election without mishaps ends");
            let pending = (0..MACHINES).find(|n| world.machines[*n].disk.pending() > 0);
            match pending {
                Some(n) => world.take(Action::Persisted(n)),
                None if !world.flying.is_empty() => world.take(Action::Deliver(0)),
                None => break,
            }
        }
        world.done = [0; 6];
        world
    }

    /// Carries out an action.
    pub fn take(&mut self, action: Action) {
        match action {
            Action::Deliver(at) => {
                let message = self.flying.remove(at);
                self.deliver(&message);
            }
            Action::Repeat(at) => {
                self.count(Mishap::Repeat);
                let message = self.flying[at].clone();
                self.deliver(&message);
            }
            Action::Persisted(n) => self.persisted(n),
            Action::Expire(n) => {
                self.count(Mishap::Expire);
                let mut machine = (*self.machines[n]).clone();
                let lease_ns = machine_lease_ns(n);
                // After a pause it looks first for what has queued up, then acts.
                machine.clock += lease_ns * 4;
                self.feed(n, &mut machine, Input::Deadline);
                machine.clock += HEARTBEAT_NS;
                self.feed(n, &mut machine, Input::Deadline);
                self.put_back(n, machine);
            }
            Action::Beat(n) => {
                self.count(Mishap::Beat);
                let mut machine = (*self.machines[n]).clone();
                machine.clock += HEARTBEAT_NS + 1;
                self.feed(n, &mut machine, Input::Deadline);
                self.put_back(n, machine);
            }
            Action::Leap => {
                self.count(Mishap::Leap);
                for n in 0..MACHINES {
                    let mut machine = (*self.machines[n]).clone();
                    machine.clock += HEARTBEAT_NS + 1;
                    self.put_back(n, machine);
                }
            }
            Action::Wake(n) => {
                let mut machine = (*self.machines[n]).clone();
                self.feed(n, &mut machine, Input::Deadline);
                self.put_back(n, machine);
            }
            Action::Propose(n) => {
                self.count(Mishap::Propose);
                self.proposals += 1;
                let payload = proposal(self.proposals);
                let input = Input::Propose { id: self.proposals, payloads: vec![payload] };
                let mut machine = (*self.machines[n]).clone();
                self.feed(n, &mut machine, input);
                self.put_back(n, machine);
            }
            Action::Crash(n, kept) => {
                self.count(Mishap::Crash);
                self.crash(n, kept);
            }
        }
        self.look();
    }

    fn count(&mut self, mishap: Mishap) {
        self.done[mishap as usize] += 1;
    }

    /// How often that was done.
    pub fn done(&self, mishap: Mishap) -> u8 {
        self.done[mishap as usize]
    }

    fn deliver(&mut self, message: &Flying) {
        let n = message.to;
        let mut machine = (*self.machines[n]).clone();
        if message.boot.is_none_or(|boot| boot == machine.boot) {
            let route = Route::Conn(message.by * 10 + message.from as u64);
            let envelope = message.envelope.clone();
            self.feed(n, &mut machine, Input::Received { route, envelope });
            self.put_back(n, machine);
        }
    }

    fn persisted(&mut self, n: usize) {
        let mut machine = (*self.machines[n]).clone();
        let op = if self.lie == Lie::Entries {
            let op = machine.disk.under_way(machine.believed).cloned();
            machine.believed += 1;
            op
        } else {
            machine.disk.complete()
        };
        if let Some(DiskOp::Record { id, .. }) = op {
            self.feed(n, &mut machine, Input::Persisted { id });
        }
        self.put_back(n, machine);
    }

    fn crash(&mut self, n: usize, kept: usize) {
        let old = self.machines[n].clone();
        let mut disk = old.disk.clone();
        if kept < disk.pending() {
            self.note(|history| history.lost_records = true);
        }
        disk.process_ended(kept, None);
        if self.lie == Lie::Vote {
            disk.hard.voted_for = None;
        }
        let (mut machine, out) = Machine::boot(n, disk, old.clock, old.boot + 1, self.lie);
        self.carry_out(n, &mut machine, out);
        self.put_back(n, machine);
    }

    fn put_back(&mut self, n: usize, mut machine: Machine) {
        machine.sum_up();
        self.machines[n] = Arc::new(machine);
    }

    fn note(&mut self, what: impl FnOnce(&mut History)) {
        what(Arc::make_mut(&mut self.history));
    }

    fn broken(&mut self, promise: String) {
        if self.history.broken.is_none() {
            self.note(|history| history.broken = Some(promise));
        }
    }

    /// Gives a node an input and carries out all that follows at once.
    fn feed(&mut self, n: usize, machine: &mut Machine, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut out = Vec::new();
            let now = machine.now();
            // A failed assertion of the core is a broken promise like any other.
            let stepped = catch_unwind(AssertUnwindSafe(|| machine.node.step(now, input, &mut out)));
            if stepped.is_err() {
                self.broken("the core's own assertions hold".into());
                return;
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
                Output::Persist { id, record } => machine.disk.request(DiskOp::Record { id, record }),
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
            Message::Ping(_) | Message::Pong { .. } => return,
            Message::Voted { granted: true } => {
                let vote = (n, envelope.term);
                let candidate = id_of(to);
                let other = self.history.votes.get(&vote).filter(|given| **given != candidate);
                if other.is_some() {
                    self.broken(format!("one vote per term: n{n} votes twice in term {}", envelope.term));
                }
                self.note(|history| {
                    history.votes.insert(vote, candidate);
                });
                if machine.disk.hard.term < envelope.term && self.lie != Lie::Entries {
                    self.broken(format!("a vote is durable before it is given: n{n}, term {}", envelope.term));
                }
            }
            _ => {}
        }
        let by = machine.boot;
        let hash = hash_of(&(n, by, to, boot, &envelope));
        let at = self.flying.partition_point(|other| other.hash < hash);
        self.flying.insert(at, Arc::new(Flying { from: n, by, to, boot, envelope, hash }));
    }

    /// A node orders an entry to be applied: it is committed.
    fn apply(&mut self, n: usize, machine: &mut Machine, seq: Seq) {
        let Some(entry) = machine.disk.seen.get(seq).cloned() else {
            return self.broken(format!("n{n} applies {seq}, which it does not have"));
        };
        let index = (seq.0 - 1) as usize;
        match self.history.committed.get(index) {
            Some((_, hash)) if *hash == entry.hash => {}
            Some(_) => self.broken(format!("committed logs are equal: n{n} applies another {seq}")),
            None => {
                let disks = |other: usize| {
                    let disk = if other == n { &machine.disk } else { &self.machines[other].disk };
                    disk.log.holds(&entry.position())
                };
                let holders = (0..MACHINES).filter(|other| disks(*other)).count();
                if holders <= MACHINES / 2 {
                    self.broken(format!("a commit is on a quorum of disks: {seq} is on {holders}"));
                }
                self.note(|history| history.committed.push((entry.term, entry.hash)));
            }
        }
        if machine.disk.data.applied.seq < seq {
            machine.disk.apply(&entry, &Content::of(&entry));
            machine.disk.checkpoint();
        }
    }

    fn event(&mut self, n: usize, machine: &Machine, event: &Event) {
        match event {
            Event::BecameWriter { term } => {
                let other = self.history.writers.get(term).filter(|other| **other != n);
                if other.is_some() {
                    self.broken(format!("one writer per term: n{n} and another in term {term}"));
                }
                self.note(|history| {
                    history.writers.insert(*term, n);
                });
                let log = &machine.disk.seen;
                let lacks = self.history.committed.iter().enumerate().find(|(index, (_, hash))| {
                    log.position(Seq(*index as u64 + 1)).is_none_or(|held| held.hash != *hash)
                });
                if let Some((index, _)) = lacks {
                    self.broken(format!("what is committed is never lost: the writer n{n} lacks {}", index + 1));
                }
            }
            Event::LogTruncated { .. } => self.note(|history| history.truncated = true),
            Event::Amnesia { .. } => self.broken(format!("a crash is never taken for a lost disk: n{n}")),
            _ => {}
        }
    }

    /// What must hold between any two actions.
    fn look(&mut self) {
        // Log matching: entries of one place and term are one entry, and all
        // before them are.
        for a in 0..MACHINES {
            for b in 0..a {
                let (left, right) = (&self.machines[a].disk.seen, &self.machines[b].disk.seen);
                let pairs = left.entries.iter().zip(&right.entries);
                let mut same = true;
                let mut wrong = None;
                for (l, r) in pairs {
                    let equal = l.hash == r.hash;
                    if l.term == r.term && !equal || equal && !same {
                        wrong = Some(l.seq);
                    }
                    same = equal;
                }
                if let Some(seq) = wrong {
                    self.broken(format!("logs that agree in an entry agree before it: n{a} and n{b} at {seq}"));
                }
            }
        }
        let one_time = self.machines.iter().all(|m| m.clock == self.machines[0].clock);
        if one_time {
            // The lease's promise is about true time: clocks that leap alone
            // break its terms, not its arithmetic.
            let readers = self.machines.iter().filter(|m| m.node.may_read(m.now()).is_ok()).count();
            if readers > 1 {
                self.broken("one permit at a time".into());
            }
        }
    }

    /// What is on its way, by place.
    pub fn flying(&self) -> usize {
        self.flying.len()
    }

    /// Whether the message at `at` is the same as the one before it.
    pub fn repeats(&self, at: usize) -> bool {
        at > 0 && self.flying[at].hash == self.flying[at - 1].hash
    }

    /// How many records a machine has under way, and how many of them its
    /// process was told of.
    pub fn pending(&self, n: usize) -> (usize, usize) {
        (self.machines[n].disk.pending(), self.machines[n].believed)
    }

    /// Whether a machine may write at this moment.
    pub fn may_write(&self, n: usize) -> bool {
        let machine = &self.machines[n];
        machine.node.may_write(machine.now()).is_ok()
    }

    /// Whether a machine's process took over a term.
    pub fn is_writer(&self, n: usize) -> bool {
        self.machines[n].writes
    }

    /// Whether something is due on a machine.
    pub fn is_due(&self, n: usize) -> bool {
        let machine = &self.machines[n];
        machine.node.deadline().is_some_and(|(at, _)| at.0 <= machine.clock)
    }

    /// The highest term that any node has heard of.
    pub fn term(&self) -> Term {
        self.machines.iter().map(|m| m.term).max().unwrap_or_default()
    }

    /// The first promise that was broken on the way here.
    pub fn promise_broken(&self) -> Option<&str> {
        self.history.broken.as_deref()
    }

    /// Writers were elected in so many terms.
    pub fn elections(&self) -> usize {
        self.history.writers.len()
    }

    /// Different machines were writers.
    pub fn failed_over(&self) -> bool {
        let mut writers = self.history.writers.values();
        let first = writers.next();
        writers.any(|writer| Some(writer) != first)
    }

    /// In how many terms the committed entries were made.
    pub fn committed_terms(&self) -> usize {
        let mut terms: Vec<Term> = self.history.committed.iter().map(|(term, _)| *term).collect();
        terms.dedup();
        terms.len()
    }

    /// An uncommitted entry gave way to another writer's.
    pub fn truncated(&self) -> bool {
        self.history.truncated
    }

    /// A crash took records that were not durable.
    pub fn lost_records(&self) -> bool {
        self.history.lost_records
    }
}

fn machine_lease_ns(machine: usize) -> u64 {
    config_of(machine).lease.as_nanos() as u64
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
        state.write_usize(self.flying.len());
        for message in &self.flying {
            state.write_u64(message.hash);
        }
        self.history.hash(state);
        state.write_u64(self.proposals);
        state.write(&self.done);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        hash_of(self) == hash_of(other)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, machine) in self.machines.iter().enumerate() {
            let status = machine.node.status(machine.now());
            writeln!(
                f,
                "n{n}: {:?} of term {}, log {} of term {}, commit {}, {} records under way, clock {:?}",
                status.part,
                status.pin.term,
                status.last.seq,
                status.last.term,
                status.commit,
                machine.disk.pending(),
                MonoTime(machine.clock)
            )?;
        }
        for message in &self.flying {
            writeln!(f, "  n{} to n{}: {:?}", message.from, message.to, message.envelope.message)?;
        }
        write!(f, "{:?}", self.history)
    }
}
