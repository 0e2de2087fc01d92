//! Machines, their processes, and the queue of what happens next.
//!
//! Decides the order of events and what a process is given. What its outputs
//! cause is in `outputs`, what its driver does by itself in `driver`, what goes
//! wrong in `faults`, `harm` and `strike`.

mod driver;
mod faults;
mod harm;
mod outputs;
mod strike;

use crate::clients::{Read, Request};
use crate::clock::{Clock, TrueTime};
use crate::data::Contents;
use crate::disk::{Disk, DiskOp, Unsynced};
use crate::network::{Frame, Network};
use crate::oracle::fitness::{self, Ills};
use crate::oracle::lease;
use crate::oracle::{Oracles, Verdict};
use crate::plan::{Fault, Plan};
use crate::prng::Prng;
use crate::queue::Queue;
use crate::report::{Counts, Failure};
use crate::timeline::{Standing, Timeline};
use crate::trace::{Trace, TraceMode};
use crate::version;
use crate::workload::Workload;
use base_ha_core::config::{Config, Sizes};
use base_ha_core::entry::Entry;
use base_ha_core::ids::{BootNonce, Hash, Incarnation, NodeId, Seq, Term, Url};
use base_ha_core::io::{Boot, CallId, Input, Output, Part, Pin, ProposalId, Record, Route, StoreHealth, WritePermit};
use base_ha_core::member::Membership;
use base_ha_core::message::{Envelope, Message};
use base_ha_core::node::Node;
use base_ha_core::planted;
use base_ha_core::position::Position;
use base_ha_core::time::{MonoTime, Now};
use base_ha_core::wire::{DecodeError, FRAME_VERSION, decode_frame};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A frame reaches a machine.
    Arrive(Frame),
    /// A machine's oldest disk operation is done.
    DiskDone { host: usize, boot: u64 },
    /// A process's deadline.
    Wake { host: usize, boot: u64, at: TrueTime },
    /// A process's driver finished something.
    Give { host: usize, boot: u64, input: Box<Input> },
    /// A process's store applies what is next.
    ApplyNext { host: usize, boot: u64 },
    /// A snapshot that was asked for arrives, or not.
    Snapshot { host: usize, boot: u64, from: Url, at_least: Seq, reseed: bool },
    /// A process looks whether its log may be trimmed.
    TrimCheck { host: usize },
    /// A client acts.
    Client,
    /// Something goes wrong.
    Fault(Fault),
    /// Links that a fault had cut are whole again.
    Mend(Vec<(usize, usize)>),
    /// A process that stood still goes on.
    Resume { host: usize, boot: u64 },
    /// A machine starts its process.
    Start { host: usize },
    /// A full disk has room again.
    DiskWell { host: usize },
    /// A store that could not apply can again.
    ApplyWell { host: usize, boot: u64 },
    /// Two machines of one name have run long enough.
    TwinDue,
    /// A disk is put back to this image.
    RollBack { host: usize, image: Box<Disk>, down_ms: u64 },
    /// A graceful stop must be over.
    StopDue { host: usize, boot: u64 },
}

/// A group whose transaction is open in the writer's store.
#[derive(Clone, Debug)]
pub(crate) struct OpenGroup {
    pub(crate) id: ProposalId,
    /// Where its entries were put, once they were.
    pub(crate) logged: Option<(Seq, Position)>,
    /// Whose they are, in order.
    pub(crate) requests: Vec<Request>,
}

/// A running process: a node and its driver's state.
pub(crate) struct Process {
    pub(crate) node: Node,
    pub(crate) boot: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) pin: Pin,
    pub(crate) group: Option<OpenGroup>,
    /// Ordered to be applied up to here.
    pub(crate) ordered: Seq,
    queue: VecDeque<Entry>,
    /// It found its own disk slow: it leaves the pin to others for a long time.
    pub(crate) found_slow: bool,
    applying: bool,
    wake_at: Option<TrueTime>,
    paused: bool,
    inbox: VecDeque<Input>,
    /// What its last turn said and has not done yet.
    held: Vec<Output>,
    orders: BTreeMap<CallId, &'static str>,
    fetching: bool,
    pub(crate) stopping: bool,
    /// It became writer by its own clock then and has not stepped down.
    writing: Option<MonoTime>,
    /// The term that it last ordered to be made durable.
    term: Term,
    /// The furthest commit index that it has told others as writer.
    said: Seq,
    /// The end of the lease that was looked at last.
    lease_seen: MonoTime,
    /// What it was told of its own fitness.
    ills: Ills,
    /// When it last took a turn, by its own clock.
    last_turn: MonoTime,
    /// It stood still, and what it was told before counts for nothing.
    woke: MonoTime,
    /// Linearizable reads that it has not let go yet.
    pub(crate) reads: BTreeMap<CallId, Read>,
    /// Reads that wait until so much is applied.
    pub(crate) waiting: Vec<(Seq, Read)>,
    /// The furthest commit index that a writer has proven to it.
    told: Seq,
    /// Its store cannot apply at present.
    halted: bool,
    /// Its store distrusts its own data.
    pub(crate) quarantined: bool,
    /// When the fsync under way is done, and when the one after it is, which
    /// takes everything that was asked for meanwhile.
    disk_busy_until: TrueTime,
    disk_next_until: TrueTime,
}

impl Process {
    /// Whether it stands still at present.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }
}

/// One machine.
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) url: Url,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    /// Disks that were lost: what they held once counted.
    graveyard: Vec<Disk>,
    pub(crate) process: Option<Process>,
    boots: u64,
    /// It was started at least once.
    pub(crate) used: bool,
    /// A start is already in the queue.
    starting: bool,
    /// What strikes its process, and when.
    armed: Option<strike::Armed>,
    disk_full: bool,
    /// Until when each fsync takes at least so many microseconds.
    slow: (TrueTime, u64),
    /// Its program reads the next version of the frames, and writes it.
    reads_next: bool,
    writes_next: bool,
    /// The incarnation that lost its log's tail.
    amnesiac: Option<Incarnation>,
    /// How often it was moved.
    moves: u64,
    /// It is switched off for good.
    pub(crate) retired: bool,
    /// After a graceful stop it starts again so much later.
    restart_ms: u64,
}

impl Host {
    /// Whether this machine's disk is that very one, and has lost nothing that
    /// its node may not know of yet.
    fn keeps(&self, incarnation: Incarnation) -> bool {
        self.disk.hard.incarnation == incarnation && self.amnesiac != Some(incarnation)
    }

    /// Whether its process found its disk slow.
    pub(crate) fn found_slow(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.found_slow)
    }
}

/// The whole world of one run.
pub(crate) struct Cluster {
    pub(crate) plan: Plan,
    pub(crate) now: TrueTime,
    queue: Queue<Event>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) net: Network,
    pub(crate) oracles: Oracles,
    contents: Contents,
    pub(crate) counts: Counts,
    pub(crate) trace: Trace,
    /// Where what happens is kept, if somebody wants to look at it.
    pub(crate) timeline: Option<Arc<Mutex<Timeline>>>,
    pub(crate) workload: Workload,
    pub(crate) steps: u64,
    disk_prng: Prng,
    fault_prng: Prng,
    boot_prng: Prng,
    /// Every clock has kept within the bound so far.
    pub(crate) rates_in_bound: bool,
    pub(crate) healed: bool,
    pub(crate) last_writer: Option<Incarnation>,
    /// The latest committed membership.
    pub(crate) membership: Option<(Seq, Arc<Membership>)>,
    /// Whose data was damaged at some time.
    harmed: BTreeSet<NodeId>,
    /// When a disk was lost last.
    wiped_at: Option<TrueTime>,
    /// The disk that two machines have: nothing else goes wrong beside it.
    copied: Option<Incarnation>,
    /// Answer routes: the machine and process at the other end.
    conns: Vec<(usize, u64)>,
    conn_of: BTreeMap<(usize, u64), u64>,
    out: Vec<Output>,
}

impl Cluster {
    /// The world at a plan's start: every seat's machine is about to start.
    pub(crate) fn new(plan: Plan, mode: TraceMode) -> Self {
        let url_of = |n: usize| Url::new(&format!("http://n{n}:1"));
        let seats: Vec<Url> = (0..plan.seats).map(url_of).collect();
        let heartbeat = Duration::from_millis(plan.heartbeat_ms);
        let hosts: Vec<Host> = (0..plan.hosts())
            .map(|n| (n, url_of(n)))
            // The twin's machine stands elsewhere and has its original's settings.
            .chain(plan.twin().map(|n| (n, Url::new("http://twin:1"))))
            .map(|(n, url)| {
                let id = NodeId::new(&format!("n{n}")).expect("a legal name");
                let mut config = Config::new(id.clone(), url.clone(), seats.clone());
                config.heartbeat = heartbeat;
                config.lease = heartbeat * 3;
                config.clock_rate_ppm = plan.rho_ppm;
                config.tenure_min = config.lease * 2;
                config.tenure_max = config.lease * 8;
                config.sizes = Sizes::default().scaled_down(plan.sizes_by.max(1));
                config.witness = plan.witness == Some(n);
                #[cfg(base_ha_mutants)]
                {
                    config.mutant = plan.mutant;
                }
                config.validate().expect("a plan's settings fit together");
                let clock = &plan.clocks[n];
                Host {
                    id,
                    url,
                    config,
                    clock: Clock::new(clock.mono_ms * 1_000_000, clock.rate_ppm, clock.wall_ms),
                    disk: Disk::default(),
                    graveyard: Vec::new(),
                    process: None,
                    boots: 0,
                    used: false,
                    starting: false,
                    armed: None,
                    disk_full: false,
                    slow: (TrueTime::default(), 0),
                    reads_next: false,
                    writes_next: false,
                    amnesiac: None,
                    moves: 0,
                    retired: false,
                    restart_ms: 0,
                }
            })
            .collect();
        let prng = |name| Prng::named(plan.seed, name);
        let mut cluster = Self {
            now: TrueTime(0),
            queue: Queue::default(),
            net: Network::new(plan.net.clone(), hosts.len(), prng("net")),
            hosts,
            oracles: Oracles::default(),
            contents: Contents::default(),
            counts: Counts::default(),
            trace: Trace::new(mode),
            timeline: None,
            workload: Workload::new(plan.workload.clone(), prng("workload")),
            steps: 0,
            disk_prng: prng("disk"),
            fault_prng: prng("fault fates"),
            boot_prng: prng("boot"),
            rates_in_bound: true,
            healed: false,
            last_writer: None,
            membership: None,
            harmed: BTreeSet::new(),
            wiped_at: None,
            copied: None,
            conns: Vec::new(),
            conn_of: BTreeMap::new(),
            out: Vec::new(),
            plan,
        };
        for host in 0..cluster.plan.seats {
            let after = cluster.boot_prng.within(0..=1500);
            cluster.schedule_start(host, after);
        }
        for fault in std::mem::take(&mut cluster.plan.faults) {
            let at = TrueTime::from_ms(fault.at_ms);
            cluster.at(at, Event::Fault(fault.fault.clone()));
            cluster.plan.faults.push(fault);
        }
        if cluster.plan.workload.trim_every_ms > 0 {
            for host in 0..cluster.hosts.len() {
                cluster.at(TrueTime::from_ms(500), Event::TrimCheck { host });
            }
        }
        cluster.at(TrueTime(0), Event::Client);
        cluster
    }

    /// Puts an event into the queue; events of one moment keep their order.
    pub(crate) fn at(&mut self, at: TrueTime, event: Event) {
        self.queue.put(at.max(self.now), event);
    }

    /// Lets the world go on until `until`.
    ///
    /// # Errors
    /// The first property that does not hold.
    pub(crate) fn run_until(&mut self, until: TrueTime) -> Result<(), Failure> {
        while let Some((at, event)) = self.queue.take(until) {
            self.now = at;
            self.happen(event)?;
        }
        self.now = until;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Arrive(frame) => self.arrive(frame),
            Event::DiskDone { host, boot } => self.disk_done(host, boot),
            Event::Wake { host, boot, at } => {
                let due = self.process_of(host, boot).is_some_and(|p| p.wake_at == Some(at));
                if due {
                    if let Some(process) = &mut self.hosts[host].process {
                        process.wake_at = None;
                    }
                    self.give(host, boot, Input::Deadline)?;
                }
                Ok(())
            }
            Event::Give { host, boot, input } => self.give(host, boot, *input),
            Event::ApplyNext { host, boot } => self.apply_next(host, boot),
            Event::Snapshot { host, boot, from, at_least, reseed } => {
                self.snapshot_arrives(host, boot, &from, at_least, reseed)
            }
            Event::TrimCheck { host } => self.trim_check(host),
            Event::Client => self.client_acts(),
            Event::Fault(fault) => self.fault(fault),
            Event::Mend(links) => {
                for (from, to) in links {
                    self.net.cut(from, to, false);
                }
                Ok(())
            }
            Event::Resume { host, boot } => self.resume(host, boot),
            Event::Start { host } => self.start(host),
            Event::DiskWell { host } => {
                self.hosts[host].disk_full = false;
                self.give_now(host, Input::Health(StoreHealth::Well))
            }
            Event::ApplyWell { host, boot } => {
                self.apply_well(host, boot);
                Ok(())
            }
            Event::TwinDue => {
                self.twin_due();
                Ok(())
            }
            Event::RollBack { host, image, down_ms } => {
                self.roll_back(host, *image, down_ms);
                Ok(())
            }
            Event::StopDue { host, boot } => match self.process_of(host, boot) {
                Some(process) if process.stopping && !process.paused => {
                    Err(self.failure("L1 a graceful stop ends", format!("host {host} is still stopping")))
                }
                _ => Ok(()),
            },
        }
    }

    /// The process of a machine, if it is still that one.
    pub(crate) fn process_of(&self, host: usize, boot: u64) -> Option<&Process> {
        self.hosts[host].process.as_ref().filter(|p| p.boot == boot)
    }

    /// Gives a process an input, if it is still that process.
    pub(crate) fn give(&mut self, host: usize, boot: u64, input: Input) -> Result<(), Failure> {
        if self.process_of(host, boot).is_none() {
            return Ok(());
        }
        self.give_now(host, input)
    }

    /// Gives whatever process runs on a machine an input: at once, or when it
    /// goes on.
    pub(crate) fn give_now(&mut self, host: usize, input: Input) -> Result<(), Failure> {
        match &mut self.hosts[host].process {
            None => Ok(()),
            Some(process) if process.paused => {
                process.inbox.push_back(input);
                Ok(())
            }
            Some(_) => self.step(host, input),
        }
    }

    /// One turn of a process.
    fn step(&mut self, host: usize, input: Input) -> Result<(), Failure> {
        let at = self.now;
        let machine = &mut self.hosts[host];
        let now = machine.clock.now(at);
        let Some(process) = &mut machine.process else {
            return Ok(());
        };
        self.steps += 1;
        self.trace.line(at, &machine.id, format_args!("<- {input:?}"));
        if let Input::Received { envelope: Envelope { message: Message::Append(append), .. }, .. } = &input {
            // A part may be the last one of its entry.
            let entries = append.entries.len() as u64 + u64::from(append.part.is_some());
            let reach = Seq(append.prev.seq.0 + entries);
            process.told = process.told.max(append.commit.min(reach));
        }
        // R1: after a pause nothing that was believed before it is fresh.
        if now.mono.since(process.last_turn) > machine.config.lease / 2 {
            (process.woke, process.lease_seen) = (now.mono, MonoTime(0));
        }
        process.last_turn = process.last_turn.max(now.mono);
        let theirs = self.notice(host, &input);
        let Some(process) = &mut self.hosts[host].process else {
            return Ok(());
        };
        let mut out = std::mem::take(&mut self.out);
        // It asserts its own invariants at the end of each turn.
        process.node.step(now, input, &mut out);
        let boot = process.boot;
        let taken = |output: &Output| match output {
            Output::Persist { record: Record::Append { entries, .. }, .. } => {
                entries.iter().any(|entry| theirs.contains(&entry.hash))
            }
            _ => false,
        };
        if !theirs.is_empty() && out.iter().any(taken) {
            return Err(self.failure(
                "O2 a lower term's entries are refused",
                format!("host {host} takes entries of a writer whose term is over"),
            ));
        }
        self.carry_out(host, boot, &mut out)?;
        self.out = out;
        self.after_step(host)
    }

    /// Takes note of what an input says before its node acts on it. Gives the
    /// entries that it brings from a writer whose term is over. What else is due
    /// in that turn, an entry of its own among it, the node does all the same.
    fn notice(&mut self, host: usize, input: &Input) -> Vec<Hash> {
        let Some(process) = &mut self.hosts[host].process else {
            return Vec::new();
        };
        match input {
            Input::Received { envelope, .. } => match &envelope.message {
                Message::Append(append) if envelope.term < process.term => {
                    let part = append.part.iter().map(|part| part.head.hash);
                    return append.entries.iter().map(|entry| entry.hash).chain(part).collect();
                }
                Message::Appended(appended) => {
                    self.oracles.promise.acked(host, envelope.term, envelope.incarnation, appended.echo);
                }
                _ => {}
            },
            Input::Health(health) => process.ills.told(*health),
            Input::SnapshotInstalled { .. } => process.ills.mended(),
            _ => {}
        }
        Vec::new()
    }

    /// What holds of whoever writes, or would.
    fn check_writer(&mut self, host: usize, now: Now, write: Option<&WritePermit>) -> Result<(), Failure> {
        let machine = &mut self.hosts[host];
        let Some(process) = &mut machine.process else {
            return Ok(());
        };
        let renewed = write.is_some_and(|permit| permit.until != process.lease_seen);
        if process.writing.is_none() && !renewed {
            return Ok(());
        }
        let quorum = process.node.membership().quorum();
        let answered = match quorum {
            1 => Some(now.mono),
            _ => self.oracles.promise.answered(host, process.term, process.node.membership()),
        };
        let (lease, rate_ppm) = (machine.config.lease, machine.config.clock_rate_ppm);
        if let Some(permit) = write.filter(|_| renewed) {
            process.lease_seen = permit.until;
            let verdict = lease::ends_before_the_promises(permit, answered, lease::Terms { lease, rate_ppm });
            let unfit = process.ills.writes(now.mono, lease);
            let fresh = fitness::is_fresh(answered, process.woke);
            self.verdict("R1 a lease ends before its promises", verdict)?;
            self.verdict("R1 a lease from before a pause is none", fresh)?;
            self.verdict("R8 an unfit node does not write", unfit)?;
            return self.verdict("R6 who handed over writes no more", self.oracles.handover.holds(host, permit));
        }
        let Some(since) = process.writing else {
            return Ok(());
        };
        let verdict = fitness::has_a_quorum(answered.unwrap_or_default().max(since), now.mono, lease);
        self.verdict("R2 a writer without a quorum steps down", verdict)
    }

    /// A linearizable read is let go at `at`: by the lease, or by a quorum's
    /// answer to something sent since it was asked for; with an entry of the
    /// writer's own term committed.
    pub(crate) fn check_proof(&mut self, host: usize, read: &Read, at: Seq) -> Result<(), Failure> {
        let machine = &self.hosts[host];
        let now = machine.clock.now(self.now).mono;
        let Some(process) = &machine.process else {
            return Ok(());
        };
        let membership = process.node.membership();
        let answered = match membership.quorum() {
            1 => Some(now),
            _ => self.oracles.promise.answered(host, process.term, membership),
        };
        let terms = lease::Terms { lease: machine.config.lease, rate_ppm: machine.config.clock_rate_ppm };
        let asked_since = answered.is_some_and(|sent| sent >= read.mono);
        let verdict = match asked_since {
            true => Ok(()),
            false => {
                let leased = WritePermit { term: process.term, until: now };
                lease::ends_before_the_promises(&leased, answered, terms)
            }
        };
        let index = machine.disk.seen.position(at);
        let own = index.is_none_or(|index| index.term == process.term);
        let term = process.term;
        self.verdict("R4 a linearizable read has a proof", verdict)?;
        if own {
            return Ok(());
        }
        let detail = format!("host {host} lets a read go at {index:?} in term {term}");
        Err(self.failure("R4 a writer reads after its own first entry", detail))
    }

    /// What holds between any two turns.
    fn after_step(&mut self, host: usize) -> Result<(), Failure> {
        let at = self.now;
        self.record_standing(host);
        let machine = &self.hosts[host];
        let Some(process) = &machine.process else {
            return Ok(());
        };
        let now = machine.clock.now(at);
        let write = process.node.may_write(now).ok();
        // Whoever may write may read; others are asked.
        let read = write.is_some() || process.node.may_read(now).is_ok();
        let incarnation = process.incarnation;
        let applied = machine.disk.data.applied.seq;
        if let Some(permit) = &write {
            self.verdict("O2 terms never fall", self.oracles.fence.holds(incarnation, permit.term))?;
        }
        self.check_writer(host, now, write.as_ref())?;
        if self.rates_in_bound {
            let hosts = &self.hosts;
            let verdict = self.oracles.permit.asked(host, write, |other| hosts[other].clock.mono(at));
            self.verdict("O1b one permit at a time", verdict)?;
            if read {
                let acked = self.oracles.survival.furthest();
                self.counts.add("read_local_current");
                self.verdict(
                    "a local read that is called current is current",
                    self.oracles.reads.local(host, applied, acked),
                )?;
            }
        }
        self.schedule_wake(host);
        Ok(())
    }

    fn schedule_wake(&mut self, host: usize) {
        let at = self.now;
        let machine = &mut self.hosts[host];
        let Some(process) = &mut machine.process else {
            return;
        };
        let Some((deadline, _)) = process.node.deadline() else {
            process.wake_at = None;
            return;
        };
        // Timers are late by a little; a deadline in the past means "now".
        let due = machine.clock.when(deadline, at);
        let wake = due.plus_us(self.disk_prng.within(10..=500));
        if process.wake_at.is_some_and(|known| known >= due && known <= wake.plus_us(500)) {
            return;
        }
        process.wake_at = Some(wake);
        let boot = process.boot;
        self.at(wake, Event::Wake { host, boot, at: wake });
    }

    fn arrive(&mut self, frame: Frame) -> Result<(), Failure> {
        if !self.net.passes(frame.from, frame.to) {
            self.counts.add("frame_cut");
            self.record(|at, line| line.cut(frame.from, frame.to, at));
            return Ok(());
        }
        let mut bytes = frame.bytes;
        if self.hosts[frame.to].reads_next
            && let Some(lowered) = version::lower(&bytes, FRAME_VERSION)
        {
            self.counts.add("frame_of_next_version_read");
            bytes = lowered;
        }
        let envelope = match decode_frame(bytes) {
            Ok(envelope) => envelope,
            Err(DecodeError::UnknownVersion { .. }) => {
                self.counts.add("frame_of_next_version_refused");
                return Ok(());
            }
            Err(_) => {
                self.counts.add("frame_refused_by_codec");
                return Ok(());
            }
        };
        let conns = &mut self.conns;
        let conn = *self.conn_of.entry((frame.from, frame.boot)).or_insert_with(|| {
            conns.push((frame.from, frame.boot));
            conns.len() as u64 - 1
        });
        let input = Input::Received { route: Route::Conn(conn), envelope };
        self.give_now(frame.to, input)
    }

    fn disk_done(&mut self, host: usize, boot: u64) -> Result<(), Failure> {
        if self.process_of(host, boot).is_none() {
            return Ok(());
        }
        let paused = self.process_of(host, boot).is_some_and(|p| p.paused);
        if paused && self.hosts[host].disk.installs_next() {
            // The process itself puts it in place.
            self.at(self.now.plus_ms(5), Event::DiskDone { host, boot });
            return Ok(());
        }
        if !self.hosts[host].disk.installs_next() && self.sync_fails(host) {
            return Ok(());
        }
        let op = self.hosts[host].disk.complete().expect("each completion has its request");
        match op {
            DiskOp::Record { id, .. } => {
                self.record_durable(host);
                self.give(host, boot, Input::Persisted { id })
            }
            DiskOp::Install { too_old: true, .. } => self.snapshot_failed(host, boot),
            DiskOp::Install { data, log_reset, .. } => self.installed(host, boot, &data, log_reset),
        }
    }

    /// Puts an operation on its way to a machine's disk.
    fn write_out(&mut self, host: usize, op: DiskOp) {
        let plan = &self.plan.disk;
        let mut us = self.disk_prng.within(plan.sync_us_min..=plan.sync_us_max.max(plan.sync_us_min));
        if self.disk_prng.chance(plan.stall_pm) && !self.healed {
            us += self.disk_prng.within(50_000..=1_000_000);
        }
        let now = self.now;
        let lazy = planted!(self.hosts[host].config, FsyncDoesNothing);
        if let (true, DiskOp::Record { id, .. }, Some(process)) = (lazy, &op, &self.hosts[host].process) {
            let (boot, input) = (process.boot, Input::Persisted { id: *id });
            us += self.disk_prng.within(1000..=100_000);
            self.at(now.plus_us(10), Event::Give { host, boot, input: Box::new(input) });
        }
        let machine = &mut self.hosts[host];
        if now < machine.slow.0 && !self.healed {
            us = us.max(machine.slow.1);
            self.counts.add("fsync_slowed");
        }
        machine.disk.request(op);
        let Some(process) = &mut machine.process else {
            return;
        };
        // Group commit: what is asked for while the disk is busy shares the
        // fsync after the one under way.
        if now >= process.disk_busy_until {
            process.disk_busy_until = process.disk_next_until;
        }
        if now >= process.disk_busy_until {
            process.disk_busy_until = now.plus_us(us);
            process.disk_next_until = process.disk_busy_until;
        } else if process.disk_next_until == process.disk_busy_until {
            process.disk_next_until = process.disk_busy_until.plus_us(us);
        }
        let (at, boot) = (process.disk_next_until, process.boot);
        self.at(at, Event::DiskDone { host, boot });
    }

    /// Starts a machine's process some milliseconds from now.
    pub(crate) fn schedule_start(&mut self, host: usize, after_ms: u64) {
        if self.hosts[host].starting {
            return;
        }
        self.hosts[host].starting = true;
        self.at(self.now.plus_ms(after_ms), Event::Start { host });
    }

    fn start(&mut self, host: usize) -> Result<(), Failure> {
        let machine = &mut self.hosts[host];
        machine.starting = false;
        if machine.process.is_some() || machine.retired {
            return Ok(());
        }
        machine.boots += 1;
        machine.used = true;
        let before = machine.disk.is_rotten().then(|| machine.disk.image());
        if machine.disk.find_rot() {
            machine.graveyard.extend(before);
            machine.amnesiac = Some(machine.disk.hard.incarnation);
            self.counts.add("rot_found_at_start");
        }
        // A start syncs the write-ahead log of `data.db` before it reads it.
        machine.disk.checkpoint();
        let recovered = machine.disk.recover();
        let now = machine.clock.now(self.now);
        let boot = machine.boots;
        self.trace.line(self.now, &machine.id, format_args!("starts: {recovered:?}"));
        let started = format!(
            "starts with a log to {}, applied {}",
            recovered.tail.last().map_or(recovered.log_base.seq, |p| p.seq),
            recovered.applied.seq
        );
        let mut out = Vec::new();
        let (incarnation, ordered) = (recovered.hard.incarnation, recovered.applied.seq);
        let term = recovered.hard.term;
        let node = Node::recover(
            Boot {
                config: machine.config.clone(),
                seed: self.boot_prng.seed(),
                nonce: BootNonce(self.boot_prng.bits()),
                recovered,
            },
            now,
            &mut out,
        );
        node.check();
        machine.process = Some(Process {
            node,
            boot,
            incarnation,
            pin: Pin::default(),
            group: None,
            ordered,
            queue: VecDeque::new(),
            applying: false,
            wake_at: None,
            paused: false,
            inbox: VecDeque::new(),
            held: Vec::new(),
            orders: BTreeMap::new(),
            fetching: false,
            stopping: false,
            writing: None,
            found_slow: false,
            term,
            said: Seq(0),
            lease_seen: MonoTime(0),
            ills: Ills::default(),
            last_turn: now.mono,
            woke: now.mono,
            reads: BTreeMap::new(),
            waiting: Vec::new(),
            told: ordered,
            halted: false,
            quarantined: false,
            disk_busy_until: self.now,
            disk_next_until: self.now,
        });
        let full = machine.disk_full;
        self.record(|at, line| line.note(at, Some(host), "start", started));
        self.carry_out(host, boot, &mut out)?;
        if self.process_of(host, boot).is_none() {
            return Ok(());
        }
        if full {
            self.give(host, boot, Input::Health(StoreHealth::Full))?;
        }
        self.after_step(host)
    }

    /// Ends a machine's process. `power` takes unsynced commits as well.
    pub(crate) fn stop(&mut self, host: usize, power: bool) {
        let machine = &mut self.hosts[host];
        let Some(process) = machine.process.take() else {
            return;
        };
        machine.armed = None;
        let pending = machine.disk.pending();
        let kept = self.fault_prng.index(pending + 1);
        let fate = self.fault_prng.chance(800).then(|| Unsynced {
            hard_state: self.fault_prng.chance(500),
            records: self.fault_prng.index(4),
            torn_pm: self.fault_prng.within(0..=1000) as u32,
        });
        let left = machine.disk.process_ended(kept, fate);
        if kept < pending {
            self.counts.add("crash_unsynced_record_lost");
        }
        if left.reordered {
            self.counts.add("crash_unsynced_reordered");
        }
        if left.torn {
            self.counts.add("crash_unsynced_torn");
        }
        if power {
            let lost = self.fault_prng.index(machine.disk.unsynced_commits() + 1);
            machine.disk.power_cut(lost);
        }
        let waiting = process.waiting.into_iter().map(|(_, read)| read);
        self.unanswered(process.group, process.reads.into_values().chain(waiting));
        self.oracles.permit.ended(host);
        self.oracles.promise.ended(host);
        self.oracles.handover.ended(host);
        self.trace.line(self.now, &self.hosts[host].id, format_args!("ends, power {power}, kept {kept} of {pending}"));
        self.record(|at, line| {
            let power = if power { ", its power too" } else { "" };
            line.note(at, Some(host), "end", format!("ends{power}; {kept} of {pending} records under way are kept"));
        });
        self.record_standing(host);
    }

    /// Keeps something of what happens, if somebody wants to look at it.
    pub(crate) fn record(&self, keep: impl FnOnce(TrueTime, &mut Timeline)) {
        if let Some(Ok(mut line)) = self.timeline.as_ref().map(|line| line.lock()) {
            keep(self.now, &mut line);
        }
    }

    /// Keeps what a machine's node is now.
    fn record_standing(&self, host: usize) {
        self.record(|at, line| {
            let machine = &self.hosts[host];
            let standing = match &machine.process {
                None => Standing { part: "down", term: 0, commit: 0, applied: 0 },
                Some(process) => {
                    let status = process.node.status(machine.clock.now(at));
                    let (term, commit, applied) = (status.pin.term.0, status.commit.0, status.applied.0);
                    Standing { part: part_name(status.part), term, commit, applied }
                }
            };
            line.stands(at, host, standing);
        });
    }

    /// The machine that may write at this moment, as its process sees it.
    pub(crate) fn writer(&self) -> Option<usize> {
        (0..self.hosts.len())
            .find(|host| self.hosts[*host].process.as_ref().is_some_and(|p| p.pin.writable && !p.paused))
    }

    /// A property's failure at this moment.
    pub(crate) fn failure(&self, property: &'static str, detail: String) -> Failure {
        Failure { property, at: self.now, detail }
    }

    /// Turns an oracle's verdict into a failure of `property`.
    pub(crate) fn verdict(&self, property: &'static str, verdict: Verdict) -> Result<(), Failure> {
        verdict.map_err(|detail| self.failure(property, detail))
    }
}

fn part_name(part: Part) -> &'static str {
    match part {
        Part::Writer => "Writer",
        Part::Candidate => "Candidate",
        Part::PreCandidate => "PreCandidate",
        Part::Follower => "Follower",
        Part::Learner => "Learner",
        Part::Witness => "Witness",
        Part::Unborn => "Unborn",
    }
}
