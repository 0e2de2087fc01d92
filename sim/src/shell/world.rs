//! The simulated world of a run: machines, links, time.
//!
//! Decides how a fault takes effect and when it ends, and refuses those that no
//! cluster could survive. Knows the plan and what the observer sees, and no
//! node's inside.

use super::client::{Client, Shared};
use super::env::{Machine, TICK, lock};
use super::links::Links;
use super::log::{Heard, Listener};
use super::mutant::Mutant;
use super::node::NodeHost;
use super::plan::{ShellDiskPlan, ShellFault, ShellPlan};
use super::record::Recorder;
use super::watch::{self, Board};
use crate::clock::{Clock, TrueTime};
use crate::plan::Target;
use crate::prng::Prng;
use crate::report::Failure;
use crate::trace::TraceMode;
use crate::vfs::{self, Fate, Harm, VirtualDisk};
use base_ha::config::{Config, Secret};
use base_ha::token::Keys;
use base_ha_core::ids::{NodeId, Url};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::mpsc;

/// What peers prove to each other.
const SECRET: &str = "of the simulated cluster";
/// What clients show.
const TOKEN: &str = "of the simulated clients";
/// Where every node listens.
const PORT: u16 = 8090;
/// Turmoil's limit, never reached.
const LONG: Duration = Duration::from_secs(3600);
/// What SQLite takes for the wall clock at the start, in milliseconds.
const WALL_START_MS: u64 = 1_750_000_000_000;
/// How soon a process that ended is started again.
const RESTART_MS: u64 = 500;
/// How long an order waits at most for a writer, and travels to it.
const ORDER_MS: u64 = 5_000;

/// Something that happens at a moment.
enum Due {
    /// A fault of the plan.
    Fault(ShellFault),
    /// A cut ends.
    Restore(u64),
    /// A machine that was down starts.
    Start(usize),
    /// A process that stood still goes on.
    Resume(usize),
    /// A slow link is as fast as others.
    FastLink(usize),
    /// A slow disk is as fast as before.
    FastDisk(usize),
    /// A full disk has room again.
    Room(usize),
}

/// What a machine's process is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Running,
    Paused,
    /// It was asked to stop, and is to be away for so long, in milliseconds;
    /// for ever, if the run ends.
    Stopping(Option<u64>),
    Down,
}

/// A run.
pub struct World {
    plan: ShellPlan,
    sim: turmoil::Sim<'static>,
    /// True time.
    pub now: TrueTime,
    now_shared: Arc<AtomicU64>,
    nodes: Vec<NodeHost>,
    life: Vec<Life>,
    /// When a disk was lost last.
    wiped_at: Option<TrueTime>,
    /// When the removal of a member was ordered last.
    removal_at: Option<TrueTime>,
    others: Vec<Arc<Machine>>,
    links: Links,
    due: Vec<(TrueTime, u64, Due)>,
    due_next: u64,
    /// What is told by all.
    pub recorder: Recorder,
    heard: Heard,
    /// Which processes found their disk slow, and so ask for the pin only after
    /// a time that no run lasts.
    found_slow: Vec<bool>,
    /// What clients share.
    pub shared: Arc<Shared>,
    board: Arc<Mutex<Board>>,
    orders: mpsc::UnboundedSender<Order>,
    prng: Prng,
    healed: bool,
    _listener: tracing::subscriber::DefaultGuard,
    /// Fates of what was not synced.
    fates: Prng,
    /// How often a machine's disk was replaced.
    disks: Vec<u64>,
    /// A disk that gave trouble, or may: its node may say so, and end.
    troubled: Vec<bool>,
    /// Disks with a fault before them, how many operations had met one by then,
    /// and what is counted if one more does.
    troubles: Vec<(VirtualDisk, u64, &'static str)>,
    /// How long a machine that dies at an operation is to be away.
    doomed: Vec<Option<u64>>,
    mutant: Option<Mutant>,
    /// The last to go: what is torn down above still asks SQLite.
    _thread: vfs::ThreadOfRun,
}

/// The first disk of a machine, or one that replaced it.
fn new_disk(machine: &str, replaced: u64) -> VirtualDisk {
    VirtualDisk::new(&format!("{machine}-{replaced}"))
}

struct Order {
    node: usize,
    method: &'static str,
    path: String,
    body: String,
    what: &'static str,
}

fn name(node: usize) -> String {
    format!("node-{node}")
}

impl World {
    /// The world of a plan, at its beginning.
    pub fn new(plan: ShellPlan, mode: TraceMode, mutant: Option<Mutant>) -> Self {
        let recorder = Recorder::new(mode);
        let heard = Heard::default();
        let now_shared = Arc::new(AtomicU64::new(0));
        let listener =
            tracing::subscriber::set_default(Listener::new(recorder.clone(), heard.clone(), now_shared.clone()));
        let thread = vfs::ThreadOfRun::enter(plan.seed);
        let mut sim = turmoil::Builder::new()
            .epoch(UNIX_EPOCH + Duration::from_secs(1_750_000_000))
            .rng_seed(plan.seed)
            .tick_duration(TICK)
            .simulation_duration(LONG)
            .tcp_capacity(4096)
            .min_message_latency(Duration::from_millis(plan.net.latency_ms_min))
            .max_message_latency(Duration::from_millis(plan.net.latency_ms_max))
            .build();
        let urls: Vec<Url> = (0..plan.nodes).map(|n| Url::new(&format!("http://{}:{PORT}", name(n)))).collect();
        let nodes: Vec<NodeHost> = (0..plan.nodes)
            .map(|n| {
                let clock = &plan.clocks[n];
                let clock = Clock::new(clock.mono_ms * 1_000_000, clock.rate_ppm, clock.wall_ms);
                let disk = new_disk(&name(n), 0);
                disk.lie_about_syncs(mutant == Some(Mutant::FsyncIsNoOp));
                let machine = Machine::new(&name(n), plan.seed, clock, disk, &plan.disk, recorder.clone(), mutant);
                NodeHost::new(Arc::new(machine), config(&plan, n, &urls))
            })
            .collect();
        for node in &nodes {
            let host = node.clone();
            sim.host(node.machine().name.as_str(), move || host.clone().process());
        }
        let shared = Arc::new(Shared {
            history: Mutex::default(),
            set_up: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            ended: AtomicUsize::new(0),
            keys: Keys::new(&[Secret::new(SECRET)], [0; 32]),
            token: TOKEN.to_owned(),
            nodes: urls,
            leaders: Mutex::default(),
            broken: Mutex::new(None),
        });
        let board = Arc::new(Mutex::new(Board::new(plan.nodes)));
        let mut others = Vec::new();
        let mut other = |name: &str| {
            let (clock, disk) = (Clock::new(0, 0, 0), new_disk(name, 0));
            let quick = ShellDiskPlan { delay_ms_max: 0, stall_pm: 0, log_bytes_max: 0 };
            let machine = Arc::new(Machine::new(name, plan.seed, clock, disk, &quick, recorder.clone(), mutant));
            others.push(machine.clone());
            machine
        };
        for index in 0..plan.workload.clients {
            let machine = other(&format!("client-{index}"));
            let client = Client::new(index, machine.clone(), plan.seed, plan.workload.clone(), shared.clone());
            sim.client(machine.name.as_str(), async move {
                client.run().await;
                Ok(())
            });
        }
        let observer = other("observer");
        let (orders, mut ordered) = mpsc::unbounded_channel::<Order>();
        let (shared_inside, board_inside, count) = (shared.clone(), board.clone(), plan.nodes);
        sim.client(observer.name.as_str(), {
            let observer = observer.clone();
            async move {
                for index in 0..count {
                    tokio::spawn(watch::watch(index, observer.clone(), shared_inside.clone(), board_inside.clone()));
                }
                while let Some(Order { node, method, path, body, what }) = ordered.recv().await {
                    let (machine, shared) = (observer.clone(), shared_inside.clone());
                    tokio::spawn(watch::order(machine, shared, node, method, path, body, what));
                }
                Ok(())
            }
        });
        let everybody: Vec<String> =
            (0..plan.nodes).map(name).chain(others.iter().map(|machine| machine.name.clone())).collect();
        let mut world = Self {
            life: vec![Life::Running; plan.nodes],
            links: Links::new(everybody),
            prng: Prng::named(plan.seed, "shell orders"),
            sim,
            now: TrueTime(0),
            now_shared,
            nodes,
            wiped_at: None,
            removal_at: None,
            others,
            due: Vec::new(),
            due_next: 0,
            recorder,
            heard,
            found_slow: vec![false; plan.nodes],
            shared,
            board,
            orders,
            healed: false,
            _listener: listener,
            fates: Prng::named(plan.seed, "shell fates of unsynced writes"),
            disks: vec![0; plan.nodes],
            troubled: vec![false; plan.nodes],
            troubles: Vec::new(),
            doomed: vec![None; plan.nodes],
            mutant,
            _thread: thread,
            plan,
        };
        if world.plan.net.loss_ppm > 0 {
            world.sim.set_fail_rate(f64::from(world.plan.net.loss_ppm) / 1e6);
            // The observer's links lose nothing.
            for node in 0..world.plan.nodes {
                world.sim.set_link_fail_rate("observer", name(node), 0.0);
            }
        }
        for fault in world.plan.faults.clone() {
            world.at(TrueTime::from_ms(fault.at_ms), Due::Fault(fault.fault));
        }
        world
    }

    /// The data directory of a node.
    pub fn dir(&self, node: usize) -> std::path::PathBuf {
        self.nodes[node].dir()
    }

    /// Nodes that hold data.
    pub fn data_nodes(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.plan.nodes).filter(|n| self.plan.witness != Some(*n))
    }

    /// Whether this node's process found its disk slow.
    pub fn found_slow(&self, node: usize) -> bool {
        self.found_slow[node]
    }

    /// What the observer sees.
    pub fn board(&self) -> std::sync::MutexGuard<'_, Board> {
        lock(&self.board)
    }

    fn at(&mut self, at: TrueTime, due: Due) {
        self.due.push((at, self.due_next, due));
        self.due_next += 1;
    }

    fn after_ms(&mut self, ms: u64, due: Due) {
        self.at(self.now.plus_ms(ms), due);
    }

    /// A property does not hold.
    pub fn failure(&self, property: &'static str, detail: impl Into<String>) -> Failure {
        Failure { property, at: self.now, detail: detail.into() }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.recorder.line(self.now, &"", what);
    }

    /// One tick of everything.
    ///
    /// # Errors
    /// The first property that does not hold.
    pub fn step(&mut self) -> Result<(), Failure> {
        // First of all: what happens changes clocks, and what is torn down by it
        // reads them.
        for machine in self.nodes.iter().map(NodeHost::machine).chain(&self.others) {
            machine.begin_step(self.now);
        }
        self.now_shared.store(self.now.0, Ordering::Relaxed);
        vfs::set_wall_clock(Some(WALL_START_MS + self.now.0 / 1_000_000));
        self.happen();
        if let Err(error) = self.sim.step() {
            return Err(self.failure("the world goes on", error.to_string()));
        }
        self.now = self.now.plus_ns(u64::try_from(TICK.as_nanos()).unwrap_or(0));
        for host in self.heard.take_slow() {
            self.recorder.count("disk_slow_noticed");
            if let Some(node) = (0..self.plan.nodes).find(|node| name(*node) == host) {
                self.found_slow[node] = true;
            }
        }
        self.look_after_processes()?;
        let spared = |host: &str| (0..self.plan.nodes).any(|node| self.troubled[node] && name(node) == host);
        if let Some((host, text)) = self.heard.take_errors().into_iter().find(|(host, _)| !spared(host)) {
            return Err(self.failure("no ERROR line without cause", format!("{host}: {text}")));
        }
        if let Some((property, detail)) = lock(&self.shared.broken).take() {
            return Err(self.failure(property, detail));
        }
        if let Some((property, detail)) = self.board().standings.take_broken() {
            return Err(self.failure(property, detail));
        }
        Ok(())
    }

    /// Processes that ended by themselves.
    fn look_after_processes(&mut self) -> Result<(), Failure> {
        for node in 0..self.plan.nodes {
            if let Some(down_ms) = self.doomed[node]
                && !self.nodes[node].machine().disk().is_up()
            {
                // It died in the middle of what it did.
                self.doomed[node] = None;
                self.recorder.count("crash_at_an_operation");
                // What its tasks said of that is nobody's.
                self.nodes[node].take_ended();
                self.kill(node, true);
                self.after_ms(down_ms, Due::Start(node));
                continue;
            }
            let Some(ended) = self.nodes[node].take_ended() else { continue };
            self.note(format_args!("{} ended: {ended:?}", name(node)));
            match (self.life[node], ended) {
                (Life::Stopping(down_ms), Ok(())) => {
                    self.recorder.count("shutdown_graceful");
                    self.kill(node, false);
                    if let Some(ms) = down_ms {
                        self.after_ms(ms, Due::Start(node));
                    }
                }
                (_, Ok(())) => {
                    return Err(self.failure("a node runs until told to stop", format!("{} ended", name(node))));
                }
                (_, Err(_)) if self.troubled[node] => {
                    self.recorder.count("process_ended_by_its_disk");
                    self.kill(node, false);
                    self.after_ms(RESTART_MS, Due::Start(node));
                }
                (_, Err(reason)) => {
                    return Err(
                        self.failure("a node runs until told to stop", format!("{} ended: {reason}", name(node)))
                    );
                }
            }
        }
        Ok(())
    }

    /// What is due by now.
    fn happen(&mut self) {
        loop {
            let due = self.due.iter().enumerate().filter(|(_, (at, _, _))| *at <= self.now);
            let Some((first, _)) = due.min_by_key(|(_, (at, n, _))| (*at, *n)) else { break };
            let (_, _, due) = self.due.swap_remove(first);
            match due {
                Due::Fault(fault) if !self.healed => self.fault(fault),
                Due::Fault(_) => {}
                Due::Restore(cut) => self.links.restore(cut),
                Due::Start(node) => self.start(node),
                Due::Resume(node) => self.resume(node),
                Due::FastLink(node) => self.slow_link(node, None),
                Due::FastDisk(node) => self.nodes[node].machine().slow_down(0),
                Due::Room(node) => self.nodes[node].machine().disk().set_quota(None),
            }
        }
        self.links.apply(&mut self.sim, self.plan.net.loss_ppm > 0 && !self.healed);
    }

    fn resolve(&self, target: Target) -> Option<usize> {
        match target {
            Target::Host(host) => Some(host),
            Target::Writer => self.board().writer(),
        }
    }

    fn resolve_running(&self, target: Target) -> Option<usize> {
        self.resolve(target).filter(|node| self.life[*node] == Life::Running)
    }

    fn cut(&mut self, ms: u64, cuts: impl Fn(usize, usize) -> bool) {
        let cut = self.links.cut(cuts);
        self.after_ms(ms, Due::Restore(cut));
    }

    fn fault(&mut self, fault: ShellFault) {
        self.note(format_args!("!! {fault:?}"));
        let nodes = self.plan.nodes;
        let several = nodes > 1;
        let is_node = move |host: usize| host < nodes;
        match fault {
            ShellFault::Partition { mask, ms } => {
                let full = (1u32 << nodes) - 1;
                if mask != full {
                    self.cut(ms, |a, b| is_node(a) && is_node(b) && (mask >> a) & 1 != (mask >> b) & 1);
                    self.recorder.count("partition_symmetric");
                }
            }
            ShellFault::Isolate { target, clients, ms } => {
                if let Some(host) = self.resolve(target) {
                    let observer = nodes + self.plan.workload.clients;
                    self.cut(ms, |a, b| {
                        (a == host) != (b == host)
                            && (clients && a != observer && b != observer || is_node(a) && is_node(b))
                    });
                    self.recorder.count(if clients { "isolated_from_clients_too" } else { "isolated" });
                    if several && self.board().writer() == Some(host) {
                        self.recorder.count("writer_isolated");
                    }
                }
            }
            ShellFault::OneWay { target, deaf, ms } => {
                if let Some(host) = self.resolve(target).filter(|_| several) {
                    self.cut(ms, |from, to| {
                        is_node(from) && is_node(to) && if deaf { to == host } else { from == host }
                    });
                    self.recorder.count("partition_one_way");
                }
            }
            ShellFault::Bridge { mask, bridge, ms } => {
                if nodes > 2 {
                    self.cut(ms, |a, b| {
                        is_node(a) && is_node(b) && a != bridge && b != bridge && (mask >> a) & 1 != (mask >> b) & 1
                    });
                    self.recorder.count("partition_bridge");
                }
            }
            ShellFault::Flapping { mask, period_ms, times } => {
                for n in 0..times {
                    self.after_ms(2 * n * period_ms, Due::Fault(ShellFault::Partition { mask, ms: period_ms }));
                }
                self.recorder.count("partition_flapping");
            }
            ShellFault::SlowLink { target, latency_ms, ms } => {
                if let Some(host) = self.resolve(target).filter(|_| several) {
                    self.slow_link(host, Some(latency_ms));
                    self.after_ms(ms, Due::FastLink(host));
                    self.recorder.count("link_slow");
                }
            }
            ShellFault::Crash { target, power, down_ms } => {
                if let Some(host) = self.resolve_running(target) {
                    if self.board().writer() == Some(host) {
                        self.recorder.count("crash_writer");
                    }
                    self.kill(host, power);
                    self.after_ms(down_ms, Due::Start(host));
                    self.recorder.count(if power { "crash_power" } else { "crash_process" });
                }
            }
            ShellFault::Blackout { down_ms } => {
                for host in 0..nodes {
                    if self.life[host] == Life::Running {
                        self.kill(host, true);
                        let ms = down_ms + self.prng.within(0..=500);
                        self.after_ms(ms, Due::Start(host));
                    }
                }
                self.recorder.count("blackout");
            }
            ShellFault::Pause { target, ms } => {
                if let Some(host) = self.resolve_running(target) {
                    self.life[host] = Life::Paused;
                    self.nodes[host].machine().freeze(self.now);
                    self.links.hold(host, true);
                    self.after_ms(ms, Due::Resume(host));
                    self.recorder.count(if ms > self.plan.lease_ms() { "pause_beyond_lease" } else { "pause" });
                }
            }
            ShellFault::SlowDisk { target, extra_ms, ms } => {
                if let Some(host) = self.resolve(target) {
                    self.nodes[host].machine().slow_down(extra_ms);
                    self.after_ms(ms, Due::FastDisk(host));
                    self.recorder.count("disk_slow");
                }
            }
            ShellFault::DiskFull { target, room, ms } => {
                if let Some(host) = self.resolve_running(target) {
                    let disk = self.nodes[host].machine().disk();
                    disk.set_quota(Some(disk.used() + room));
                    self.trouble(host, "disk_full_hit");
                    self.after_ms(ms, Due::Room(host));
                }
            }
            ShellFault::DiskError { target, after } => {
                if let Some(host) = self.resolve_running(target) {
                    let disk = self.nodes[host].machine().disk();
                    let at = disk.ops() + after;
                    disk.inject(vfs::Fault { at, harm: Harm::Io, lasting: false, reads: false });
                    self.trouble(host, "disk_error_hit");
                }
            }
            ShellFault::CrashAt { target, after, down_ms } => {
                if let Some(host) = self.resolve_running(target) {
                    let disk = self.nodes[host].machine().disk();
                    let at = disk.ops() + after;
                    disk.inject(vfs::Fault { at, harm: Harm::Die, lasting: false, reads: false });
                    self.doomed[host] = Some(down_ms);
                    // Until it is seen that it died, its tasks meet a dead disk.
                    self.troubled[host] = true;
                }
            }
            ShellFault::ClockRate { host, ppm } => {
                let machine = self.nodes[host].machine();
                machine.clock().set_rate(self.now, ppm);
                self.recorder.count("clock_rate");
            }
            ShellFault::WallJump { host, ms } => {
                self.nodes[host].machine().clock().jump(ms);
                self.recorder.count("wall_jump");
            }
            ShellFault::Wipe { target, down_ms } => {
                if let Some(host) =
                    self.resolve_running(target).filter(|_| self.may_wipe() && !self.removal_under_way())
                {
                    self.kill(host, true);
                    self.wiped_at = Some(self.now);
                    self.disks[host] += 1;
                    let disk = new_disk(&name(host), self.disks[host]);
                    disk.lie_about_syncs(self.mutant == Some(Mutant::FsyncIsNoOp));
                    self.nodes[host].machine().replace_disk(disk);
                    self.after_ms(down_ms, Due::Start(host));
                    self.recorder.count("disk_wiped");
                }
            }
            ShellFault::Shutdown { target, down_ms } => {
                if let Some(host) = self.resolve_running(target) {
                    self.life[host] = Life::Stopping(Some(down_ms));
                    self.nodes[host].stop();
                }
            }
            ShellFault::Transfer { to } => {
                let body = to.map_or("{}".to_owned(), |to| format!("{{\"to\":\"{}\"}}", name(to)));
                self.order("POST", "/_ha/transfer".to_owned(), body, "transfer");
            }
            ShellFault::StepDown => self.order("POST", "/_ha/stepdown".to_owned(), "{}".to_owned(), "stepdown"),
            ShellFault::RemoveMember { .. } if self.wiped_just_now() => self.recorder.count("order_forgone"),
            ShellFault::RemoveMember { host } => {
                self.removal_at = Some(self.now);
                self.order("DELETE", format!("/_ha/members/{}", name(host)), String::new(), "remove");
            }
        }
    }

    fn order(&mut self, method: &'static str, path: String, body: String, what: &'static str) {
        let node = self.prng.index(self.plan.nodes);
        // The observer lives as long as the run.
        let _ = self.orders.send(Order { node, method, path, body, what });
    }

    /// A disk may be lost only while all the others are in order and know their
    /// cluster: what a majority has must stay on a quorum of intact disks, and
    /// empty seats must not outvote those that know. A disk that replaced a lost
    /// one is in order once its node votes again: until then it is a learner,
    /// although the member of its name is a voter (seed 520000408).
    fn may_wipe(&self) -> bool {
        let board = self.board();
        let version = |node: usize| board.status[node].as_ref().map(|status| &status["membership_version"]);
        let fit = |node: usize| {
            board.status[node].as_ref().is_some_and(|status| {
                let voters = status["members"].as_array().map_or(0, |members| {
                    members.iter().filter(|m| m["role"] != "learner" && m["node_id"].is_string()).count()
                });
                status["state"] == "ready"
                    && status["role"] != "learner"
                    && voters == self.plan.nodes
                    && version(node) == version(0)
            })
        };
        self.plan.nodes > 2 && (0..self.plan.nodes).all(fit)
    }

    /// Whether a removal may be on its way to the writer, who has yet to see that
    /// a quorum is there (seed 530000399). Once it is in the log, memberships
    /// tell.
    fn removal_under_way(&self) -> bool {
        let bound_ms = ORDER_MS + self.plan.lease_ms() * 3;
        self.removal_at.is_some_and(|at| self.now < at.plus_ms(bound_ms))
    }

    /// Whether a disk was lost so recently that nobody can know it. Of three
    /// voters one loses its disk, and before its silence is noticed another is
    /// removed: two are left to vote, one of them has forgotten, and the change
    /// is in force at the writer, where it can neither be committed nor taken
    /// back (seed 190813263). No cluster survives that; once the silence is
    /// noticed, the core refuses the removal.
    fn wiped_just_now(&self) -> bool {
        let noticed_ms = self.plan.lease_ms() * 3;
        self.wiped_at.is_some_and(|at| self.now < at.plus_ms(noticed_ms))
    }

    /// A disk is about to give trouble; whether it really did is counted when
    /// the run ends.
    fn trouble(&mut self, node: usize, what: &'static str) {
        self.troubled[node] = true;
        let disk = self.nodes[node].machine().disk();
        self.troubles.push((disk.clone(), disk.hits() + disk.refused(), what));
    }

    /// Counts the faults of disks that met an operation.
    pub fn count_troubles(&mut self) {
        for (disk, before, what) in std::mem::take(&mut self.troubles) {
            if disk.hits() + disk.refused() > before {
                self.recorder.count(what);
            }
        }
    }

    fn kill(&mut self, node: usize, power: bool) {
        let fate = match self.fates.below(4) {
            _ if !power => Fate::Kept,
            0 => Fate::Lost,
            1 => Fate::Torn(self.fates.bits()),
            _ => Fate::Random(self.fates.bits()),
        };
        let disk = self.nodes[node].machine().disk();
        // Before anything is torn down: what that would write is written by
        // nobody.
        disk.crash(fate);
        disk.forgive();
        self.doomed[node] = None;
        self.nodes[node].machine().set_dead(true);
        self.nodes[node].machine().thaw();
        self.links.hold(node, false);
        if power {
            // Nobody hears of it, not even by connections that are closed.
            self.links.silence(&mut self.sim, node);
        } else {
            self.links.apply(&mut self.sim, false);
        }
        self.sim.crash(name(node).as_str());
        // What no task had any more.
        self.nodes[node].machine().connections().close();
        if power {
            self.links.unsilence(&mut self.sim, node);
        }
        self.life[node] = Life::Down;
        self.board().status[node] = None;
    }

    fn start(&mut self, node: usize) {
        if self.life[node] == Life::Down {
            self.note(format_args!("{} starts", name(node)));
            self.nodes[node].machine().disk().start();
            self.sim.bounce(name(node).as_str());
            self.found_slow[node] = false;
            self.board().lives[node] += 1;
            self.life[node] = Life::Running;
        }
    }

    fn resume(&mut self, node: usize) {
        if self.life[node] == Life::Paused {
            self.note(format_args!("{} goes on", name(node)));
            self.nodes[node].machine().thaw();
            self.links.hold(node, false);
            self.life[node] = Life::Running;
        }
    }

    fn slow_link(&mut self, node: usize, latency_ms: Option<u64>) {
        let net = &self.plan.net;
        let (min, max) = latency_ms.map_or((net.latency_ms_min, net.latency_ms_max), |ms| (ms, ms));
        for other in (0..self.plan.nodes).filter(|other| *other != node) {
            // The first sets both ends of the range, the second its upper end.
            self.sim.set_link_latency(name(node), name(other), Duration::from_millis(min));
            self.sim.set_link_max_message_latency(name(node), name(other), Duration::from_millis(max));
        }
    }

    /// Every fault ends: links carry, disks are quick, clocks are nearly right,
    /// every machine runs.
    pub fn heal(&mut self) {
        self.note(format_args!("healed"));
        self.healed = true;
        self.sim.set_fail_rate(0.0);
        self.due.retain(|(_, _, due)| matches!(due, Due::Start(_)));
        self.links.heal();
        for node in 0..self.plan.nodes {
            self.resume(node);
            self.slow_link(node, None);
            let machine = self.nodes[node].machine().clone();
            machine.calm();
            machine.disk().set_quota(None);
            machine.disk().forgive();
            self.doomed[node] = None;
            machine.clock().set_rate(self.now, 0);
            machine.clock().set_wall_right();
        }
        self.links.apply(&mut self.sim, false);
        let down: Vec<usize> = (0..self.plan.nodes).filter(|node| self.life[*node] == Life::Down).collect();
        self.due.clear();
        for node in down {
            self.start(node);
        }
        for life in &mut self.life {
            if let Life::Stopping(down_ms) = life {
                *down_ms = Some(0);
            }
        }
    }

    /// Has a member that is a learner made a voter, as an administrator would.
    pub fn promote(&mut self, node: usize) {
        let role = if self.plan.witness == Some(node) { "witness" } else { "voter" };
        let body = format!("{{\"url\":\"{}\",\"role\":\"{role}\"}}", self.shared.nodes[node]);
        self.order("POST", "/_ha/members".to_owned(), body, "add");
    }

    /// Asks every node to stop, for good.
    pub fn stop_all(&mut self) {
        for node in 0..self.plan.nodes {
            self.life[node] = Life::Stopping(None);
            self.nodes[node].stop();
        }
    }

    /// The disks of stopped machines can be looked at.
    pub fn open_disks(&self) {
        for node in &self.nodes {
            node.machine().disk().start();
        }
    }

    /// Every node has stopped.
    pub fn all_down(&self) -> bool {
        self.life.iter().all(|life| *life == Life::Down)
    }

    /// The plan.
    pub fn plan(&self) -> &ShellPlan {
        &self.plan
    }
}

/// The settings of a node; where its directory is follows from its disk.
fn config(plan: &ShellPlan, node: usize, urls: &[Url]) -> Config {
    let id = NodeId::new(&name(node)).expect("a legal name");
    let mut config = Config::new(id, urls[node].clone(), urls.to_vec(), format!("0.0.0.0:{PORT}"), "data".into());
    config.core.witness = plan.witness == Some(node);
    config.core.heartbeat = Duration::from_millis(plan.heartbeat_ms);
    config.core.lease = Duration::from_millis(plan.lease_ms());
    config.core.tenure_min = config.core.lease * 3;
    config.core.tenure_max = config.core.lease * 12;
    config.cluster_secrets = vec![Secret::new(SECRET)];
    config.token = Some(Secret::new(TOKEN));
    config.log_bytes_max = plan.disk.log_bytes_max;
    // Short, so that a run is short: everything is waited for once at least.
    config.limits.wait_timeout = Duration::from_secs(2);
    config.limits.statement_timeout = Duration::from_secs(2);
    config.limits.ack_timeout = Duration::from_secs(3);
    config
}
