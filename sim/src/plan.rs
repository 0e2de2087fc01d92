//! A run as data: what the clients do, and what goes wrong when.
//!
//! Decides, from a seed, the cluster, the workload and the faults. A plan can be
//! printed, edited and run again; running one draws nothing from its seed but
//! the small fates (a frame's delay, a record's fsync).

use crate::prng::Prng;
use serde::{Deserialize, Serialize};

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Where the small fates come from.
    pub seed: u64,
    /// Machines that are seats at birth.
    pub seats: usize,
    /// Machines that may be added later.
    pub spares: usize,
    /// Which seat is a witness, if any.
    pub witness: Option<usize>,
    /// `BASE_HEARTBEAT`, in milliseconds; the lease is three of them.
    pub heartbeat_ms: u64,
    /// The bound on clock rates that the nodes are told, in parts per million.
    pub rho_ppm: u32,
    /// Each machine's clock at the start.
    pub clocks: Vec<ClockPlan>,
    /// The network while faults last.
    pub net: NetPlan,
    /// The disks.
    pub disk: DiskPlan,
    /// The clients.
    pub workload: WorkloadPlan,
    /// What travels and stays in memory at once is so many times smaller than in
    /// a real node: rows that are as much smaller take the same ways, in parts,
    /// through windows, out of memory, and cost less to run.
    pub sizes_by: usize,
    /// How long faults last, in milliseconds.
    pub chaos_ms: u64,
    /// The faults, in order of time.
    pub faults: Vec<FaultAt>,
    /// The rule that every node of this run breaks.
    #[cfg(base_ha_mutants)]
    #[serde(skip)]
    pub mutant: Option<base_ha_core::mutant::Mutant>,
}

/// One machine's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockPlan {
    /// What the monotonic clock shows at the start, in milliseconds.
    pub mono_ms: u64,
    /// How far its rate is off, in parts per million.
    pub rate_ppm: i64,
    /// How far the wall clock is off, in milliseconds.
    pub wall_ms: i64,
}

/// The network while faults last; probabilities in 1/1000 of all frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetPlan {
    /// The shortest delay, in microseconds.
    pub delay_us_min: u64,
    /// The longest delay, in microseconds.
    pub delay_us_max: u64,
    /// Lost.
    pub loss_pm: u32,
    /// Delivered twice.
    pub duplicate_pm: u32,
    /// Damaged on the way.
    pub corrupt_pm: u32,
    /// Held up for 0.1-5 s.
    pub clog_pm: u32,
    /// Followed by some much older frame.
    pub replay_pm: u32,
    /// What each line carries in each direction, in kbit/s: a frame takes the
    /// longer the larger it is, and waits for those before it. 0 for as much as
    /// there is.
    #[serde(default)]
    pub line_kbit: u64,
}

impl Default for NetPlan {
    fn default() -> Self {
        Self {
            delay_us_min: 100,
            delay_us_max: 2000,
            loss_pm: 0,
            duplicate_pm: 0,
            corrupt_pm: 0,
            clog_pm: 0,
            replay_pm: 0,
            line_kbit: 0,
        }
    }
}

/// How slow the disks are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskPlan {
    /// The fastest fsync, in microseconds.
    pub sync_us_min: u64,
    /// The slowest ordinary fsync, in microseconds.
    pub sync_us_max: u64,
    /// Fsyncs in 1/1000 that stall for 50-1000 ms.
    pub stall_pm: u32,
}

/// What clients do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadPlan {
    /// A client acts this often, in microseconds on average.
    pub every_us: u64,
    /// Linearizable reads in 1/1000 of all acts.
    pub read_pm: u32,
    /// The most requests in one group.
    pub group_max: u64,
    /// Rows are up to so many bytes heavier than they need be.
    pub row_bytes_max: u64,
    /// The longest execution between permit and proposal, in microseconds.
    pub execute_us_max: u64,
    /// How often a node checks whether its log may be trimmed, in milliseconds;
    /// 0 for never.
    pub trim_every_ms: u64,
}

/// One fault and its moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultAt {
    /// When, in milliseconds from the start.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// Which machine: resolved when the fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// This one.
    Host(usize),
    /// Whichever may write at that moment; none if nobody may.
    Writer,
}

/// Something that goes wrong, or that an administrator orders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fault {
    /// The machines of `mask` and the others do not hear each other.
    Partition {
        /// One bit a machine.
        mask: u32,
        /// For how long.
        ms: u64,
    },
    /// One machine hears nobody and is heard by nobody.
    Isolate {
        /// Which.
        target: Target,
        /// For how long.
        ms: u64,
    },
    /// One machine is heard but hears nobody, or the reverse.
    OneWay {
        /// Which.
        target: Target,
        /// It hears nobody; otherwise it is not heard.
        deaf: bool,
        /// For how long.
        ms: u64,
    },
    /// The machines of `mask` and the others hear each other only through one.
    Bridge {
        /// One bit a machine.
        mask: u32,
        /// The one that everybody hears.
        bridge: usize,
        /// For how long.
        ms: u64,
    },
    /// A partition that comes and goes.
    Flapping {
        /// One bit a machine.
        mask: u32,
        /// How long it lasts, and how long it is away.
        period_ms: u64,
        /// How often it comes.
        times: u64,
    },
    /// The process, or the machine, dies.
    Crash {
        /// Which.
        target: Target,
        /// The power goes: unsynced commits of `data.db` are lost too.
        power: bool,
        /// When.
        at: Moment,
        /// For how long.
        down_ms: u64,
    },
    /// An fsync fails: the process ends over it, and whether the record is on
    /// the disk nobody knows.
    SyncError {
        /// Whose.
        target: Target,
        /// So many fsyncs go well before.
        after: u32,
        /// For how long it is away.
        down_ms: u64,
    },
    /// Every machine loses its power at once.
    Blackout {
        /// For how long.
        down_ms: u64,
    },
    /// The process stands still; the world does not.
    Pause {
        /// Which.
        target: Target,
        /// When.
        at: Moment,
        /// For how long.
        ms: u64,
    },
    /// The monotonic clock changes its rate.
    ClockRate {
        /// Whose.
        host: usize,
        /// To this, in parts per million off true.
        ppm: i64,
    },
    /// The wall clock jumps.
    WallJump {
        /// Whose.
        host: usize,
        /// By this, in milliseconds.
        ms: i64,
    },
    /// The machine comes back with an empty disk under its old name.
    Wipe {
        /// Which.
        target: Target,
        /// For how long it is away.
        down_ms: u64,
    },
    /// The log is trimmed to the last checkpoint, whoever still needs it.
    Trim {
        /// Whose.
        host: usize,
    },
    /// The disk is full for a while.
    DiskFull {
        /// Whose.
        target: Target,
        /// For how long.
        ms: u64,
    },
    /// Every fsync takes long, for a while.
    SlowDisk {
        /// Whose.
        target: Target,
        /// For how long.
        ms: u64,
        /// How long each takes at least, in microseconds.
        sync_us: u64,
    },
    /// A graceful stop, and a start later.
    Shutdown {
        /// Whose.
        target: Target,
        /// For how long.
        down_ms: u64,
    },
    /// The writer is told to hand over, to this machine or to the best.
    Transfer {
        /// To whom.
        to: Option<usize>,
    },
    /// The writer is told to step down.
    StepDown,
    /// The writer is told to make this machine a member.
    AddMember {
        /// Which.
        host: usize,
        /// As a learner, not as a voter.
        learner: bool,
    },
    /// The writer is told to remove this member.
    RemoveMember {
        /// Which.
        host: usize,
    },
    /// The writer is cut off, and everybody else starts anew at that moment:
    /// what they promised is in no process's memory any more.
    RestartRest {
        /// For how long the writer is cut off.
        ms: u64,
        /// For how long the others are down.
        down_ms: u64,
    },
    /// `data.db` of one machine silently holds something else than it should.
    Damage {
        /// Whose.
        target: Target,
    },
    /// The store finds something wrong with its own data.
    Quarantine {
        /// Whose.
        target: Target,
    },
    /// The store cannot apply what comes next, for a while.
    ApplyHalt {
        /// Whose.
        target: Target,
        /// For how long.
        ms: u64,
    },
    /// The log comes back without its tail, which the high-water mark or
    /// `data.db` still tells of.
    TailLoss {
        /// Whose.
        target: Target,
        /// For how long it is away.
        down_ms: u64,
        /// How much of what may go goes, in 1/1000.
        share_pm: u32,
    },
    /// The machine comes back at another address.
    Move {
        /// Which.
        host: usize,
        /// For how long it is away.
        down_ms: u64,
        /// An administrator says so to the writer; otherwise it is found out.
        ordered: bool,
    },
    /// Another machine, with an empty disk, is started under this one's name.
    Twin {
        /// Whose.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// Another machine is started with a copy of this one's disk. What no two
    /// processes of one disk survive is left out: from then on nothing else goes
    /// wrong.
    Copy {
        /// Whose.
        host: usize,
        /// For how long.
        ms: u64,
    },
    /// The disk is put back to what it was some time before.
    Rollback {
        /// Whose.
        host: usize,
        /// How old it then is, in milliseconds.
        age_ms: u64,
        /// For how long the machine is away.
        down_ms: u64,
    },
    /// An entry in the log can no longer be read.
    Rot {
        /// Whose.
        target: Target,
        /// How far into the log, in 1/1000.
        at_pm: u32,
        /// The machine starts anew, for the start to find it, after so long;
        /// otherwise whoever reads it does.
        restart_ms: Option<u64>,
    },
    /// The machine comes back with a program that also reads the next version
    /// of the frames.
    Upgrade {
        /// Which.
        host: usize,
        /// For how long it is away.
        down_ms: u64,
        /// It writes that version too, whoever can read it.
        hasty: bool,
    },
}

/// A point in a process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// Between two turns.
    Now,
    /// In the middle of a turn: a record was just handed to the disk, after so
    /// many others; what else the turn said has not left.
    Requested(u32),
    /// A record is durable, after so many others, and the process has not been
    /// told.
    Durable(u32),
}

impl Plan {
    /// The plan of a seed. Each kind of fault is switched off in about half of
    /// all seeds: some bugs hide behind other faults.
    pub fn from_seed(seed: u64) -> Self {
        let (mut plan, mut swarm) = Self::drawn(seed);
        plan.draw_faults(&mut swarm);
        plan
    }

    /// The plan of a seed with no faults but the network's and the disks' own.
    pub fn calm(seed: u64) -> Self {
        Self::drawn(seed).0
    }

    /// Adds a fault of the `kind`-th kind (they are numbered in a circle), its
    /// particulars drawn from `choice`. Faults are added in order of time.
    pub fn add_fault(&mut self, at_ms: u64, kind: usize, choice: u64) {
        let kind = ALL_KINDS[kind % ALL_KINDS.len()];
        let fault = self.draw_fault(kind, &mut Prng::named(choice, "one fault"));
        self.faults.push(FaultAt { at_ms, fault });
    }

    fn drawn(seed: u64) -> (Self, Prng) {
        let mut cluster = Prng::named(seed, "cluster");
        let mut swarm = Prng::named(seed, "swarm");
        let mut net = Prng::named(seed, "net plan");
        let mut work = Prng::named(seed, "workload plan");
        let seats = [1, 2, 3, 3, 3, 3, 3, 4, 5, 5][cluster.index(10)];
        let spares = if swarm.chance(300) { 1 } else { 0 };
        let witness = (seats > 1 && cluster.chance(200)).then(|| cluster.index(seats));
        let hosts = seats + spares;
        let rho_ppm = 10_000;
        let clocks = (0..hosts)
            .map(|_| ClockPlan {
                mono_ms: cluster.within(0..=1_000_000_000),
                rate_ppm: cluster.within(0..=2 * u64::from(rho_ppm)) as i64 - i64::from(rho_ppm),
                wall_ms: cluster.within(0..=200) as i64 - 100,
            })
            .collect();
        let delay_us_min = net.within(50..=2000);
        let mut pm = |max: u64| {
            let on = swarm.chance(400);
            let drawn = net.within(1..=max) as u32;
            if on { drawn } else { 0 }
        };
        let net_plan = NetPlan {
            loss_pm: pm(300),
            duplicate_pm: pm(500),
            corrupt_pm: pm(50),
            clog_pm: pm(20),
            replay_pm: pm(500),
            delay_us_min,
            delay_us_max: delay_us_min + net.within(100..=200_000) * net.within(1..=1000) / 1000,
            line_kbit: draw_line(seed),
        };
        let chaos_ms = cluster.within(40_000..=70_000);
        let plan = Self {
            seed,
            seats,
            spares,
            witness,
            heartbeat_ms: draw_heartbeat(cluster.index(4), seats),
            rho_ppm,
            clocks,
            net: net_plan,
            disk: DiskPlan {
                sync_us_min: 50,
                sync_us_max: cluster.within(500..=20_000),
                stall_pm: if swarm.chance(300) { cluster.within(1..=30) as u32 } else { 0 },
            },
            workload: WorkloadPlan {
                every_us: work.within(10_000..=200_000),
                read_pm: work.within(50..=400) as u32,
                group_max: work.within(1..=4),
                row_bytes_max: if swarm.chance(100) { work.within(50_000..=400_000) / SIZES_BY } else { 0 },
                execute_us_max: work.within(10..=5000),
                trim_every_ms: if swarm.chance(400) { work.within(300..=3000) } else { 0 },
            },
            sizes_by: SIZES_BY as usize,
            chaos_ms,
            faults: Vec::new(),
            #[cfg(base_ha_mutants)]
            mutant: None,
        };
        (plan, swarm)
    }

    /// How many machines there are.
    pub fn hosts(&self) -> usize {
        self.seats + self.spares
    }

    /// Whose name a second machine bears, if a fault ever starts it.
    pub fn twin(&self) -> Option<usize> {
        self.faults.iter().find_map(|fault| match fault.fault {
            Fault::Twin { host, .. } if self.seats > 2 => Some(host),
            Fault::Copy { host, .. } => Some(host),
            _ => None,
        })
    }

    /// How long the nodes are told that a lease lasts, in milliseconds.
    pub fn lease_ms(&self) -> u64 {
        self.heartbeat_ms * 3
    }

    fn draw_faults(&mut self, swarm: &mut Prng) {
        let mut prng = Prng::named(self.seed, "faults");
        // For plans that name it: the README says what it still finds.
        let share = |kind: FaultKind| if matches!(kind, FaultKind::Copy) { 0 } else { 450 };
        let kinds: Vec<FaultKind> = ALL_KINDS.iter().copied().filter(|kind| swarm.chance(share(*kind))).collect();
        if kinds.is_empty() {
            return;
        }
        let gap_ms = prng.within(150..=4000);
        let mut at_ms = prng.within(0..=3000);
        while at_ms < self.chaos_ms {
            let kind = kinds[prng.index(kinds.len())];
            let fault = self.draw_fault(kind, &mut prng);
            self.faults.push(FaultAt { at_ms, fault });
            at_ms += prng.within(1..=2 * gap_ms);
        }
    }

    fn draw_fault(&self, kind: FaultKind, prng: &mut Prng) -> Fault {
        let hosts = self.hosts();
        let host = prng.index(hosts);
        let target = if prng.chance(500) { Target::Writer } else { Target::Host(host) };
        let mask = prng.within(1..=(1 << hosts) - 1) as u32;
        let lease = self.lease_ms();
        // Mostly a few leases long, at times much longer or shorter.
        let ms = match prng.below(4) {
            0 => prng.within(1..=lease),
            1 | 2 => prng.within(lease..=lease * 5),
            _ => prng.within(lease * 5..=lease * 20),
        };
        match kind {
            FaultKind::Partition => Fault::Partition { mask, ms },
            FaultKind::Isolate => Fault::Isolate { target, ms },
            FaultKind::OneWay => Fault::OneWay { target, deaf: prng.chance(500), ms },
            FaultKind::Bridge => Fault::Bridge { mask, bridge: host, ms },
            FaultKind::Flapping => {
                Fault::Flapping { mask, period_ms: prng.within(50..=5000), times: prng.within(2..=8) }
            }
            FaultKind::Crash => {
                let (power, at) = (prng.chance(400), moment(prng));
                // Often back before anybody noticed: what it had promised must
                // still hold.
                let down_ms = if prng.chance(500) { prng.within(1..=self.heartbeat_ms) } else { ms };
                Fault::Crash { target, power, at, down_ms }
            }
            FaultKind::SyncError => {
                let after = prng.within(0..=3) as u32;
                Fault::SyncError { target, after, down_ms: prng.within(1..=ms) }
            }
            FaultKind::Blackout => Fault::Blackout { down_ms: ms },
            FaultKind::Pause => Fault::Pause { target, at: moment(prng), ms },
            FaultKind::RateWithin => Fault::ClockRate { host, ppm: signed(prng, u64::from(self.rho_ppm)) },
            FaultKind::RateOutside => Fault::ClockRate { host, ppm: signed(prng, 500_000) },
            FaultKind::WallJump => {
                let furthest = [1000, 3_600_000, 10 * 365 * 86_400_000][prng.index(3)];
                Fault::WallJump { host, ms: signed(prng, furthest) }
            }
            FaultKind::Wipe => Fault::Wipe { target, down_ms: ms },
            FaultKind::Trim => Fault::Trim { host },
            FaultKind::DiskFull => Fault::DiskFull { target, ms },
            // Long enough to be found slow, three leases and what comes before.
            FaultKind::SlowDisk => {
                // At times so slow that nothing is acknowledged meanwhile.
                let longest = if prng.chance(500) { lease } else { lease * 4 };
                let sync_us = prng.within(self.heartbeat_ms / 2..=longest) * 1000;
                Fault::SlowDisk { target, ms: ms.max(lease * 5), sync_us }
            }
            FaultKind::Shutdown => Fault::Shutdown { target, down_ms: ms },
            FaultKind::Transfer => Fault::Transfer { to: prng.chance(700).then_some(host) },
            FaultKind::StepDown => Fault::StepDown,
            FaultKind::AddMember => Fault::AddMember { host: hosts - 1, learner: prng.chance(300) },
            FaultKind::RemoveMember => Fault::RemoveMember { host },
            FaultKind::RestartRest => {
                Fault::RestartRest { ms: ms.max(lease), down_ms: prng.within(1..=self.heartbeat_ms / 4) }
            }
            FaultKind::Quarantine => Fault::Quarantine { target },
            FaultKind::Damage => Fault::Damage { target },
            FaultKind::TailLoss => Fault::TailLoss { target, down_ms: ms, share_pm: prng.within(0..=1000) as u32 },
            FaultKind::Move => Fault::Move { host, down_ms: ms, ordered: prng.chance(500) },
            FaultKind::ApplyHalt => Fault::ApplyHalt { target, ms },
            // Shorter than the silence after which it would be admitted.
            FaultKind::Twin => Fault::Twin { host, ms: prng.within(lease / 4..=lease / 2) },
            FaultKind::Copy => Fault::Copy { host, ms },
            FaultKind::Rollback => Fault::Rollback { host, age_ms: ms, down_ms: prng.within(1..=lease) },
            FaultKind::Rot => {
                let restart_ms = prng.chance(500).then(|| prng.within(0..=lease));
                Fault::Rot { target, at_pm: prng.within(0..=1000) as u32, restart_ms }
            }
            FaultKind::Upgrade => Fault::Upgrade { host, down_ms: prng.within(1..=lease), hasty: prng.chance(300) },
        }
    }
}

/// Everybody pings everybody, once a heartbeat: where there are many it comes less
/// often, so that a run's events are not mostly pings.
fn draw_heartbeat(drawn: usize, seats: usize) -> u64 {
    if seats > 3 { [200, 200, 500, 500][drawn] } else { [50, 100, 200, 500][drawn] }
}

/// How much smaller than in a real node everything is that has a size.
const SIZES_BY: u64 = 16;

/// Mostly a line that is no bound; else one between what a lease needs at least
/// and a fast one. It is narrower by as much as what it carries is smaller, but
/// for pings and votes, which have the size that they have.
fn draw_line(seed: u64) -> u64 {
    let mut prng = Prng::named(seed, "line plan");
    if prng.chance(200) { (prng.within(2..=10).pow(2) * 1000 / SIZES_BY).max(500) } else { 0 }
}

fn signed(prng: &mut Prng, max: u64) -> i64 {
    prng.within(0..=2 * max) as i64 - max as i64
}

fn moment(prng: &mut Prng) -> Moment {
    let after = prng.within(0..=3) as u32;
    match prng.below(3) {
        0 => Moment::Now,
        1 => Moment::Requested(after),
        _ => Moment::Durable(after),
    }
}

#[derive(Clone, Copy)]
enum FaultKind {
    Partition,
    Isolate,
    OneWay,
    Bridge,
    Flapping,
    Crash,
    Blackout,
    Pause,
    RateWithin,
    RateOutside,
    WallJump,
    Wipe,
    Trim,
    DiskFull,
    Shutdown,
    Transfer,
    StepDown,
    AddMember,
    RemoveMember,
    RestartRest,
    Quarantine,
    ApplyHalt,
    Twin,
    Damage,
    TailLoss,
    Move,
    Copy,
    SlowDisk,
    SyncError,
    Upgrade,
    Rot,
    Rollback,
}

/// What seeds draw from.
const ALL_KINDS: [FaultKind; 32] = [
    FaultKind::Partition,
    FaultKind::Isolate,
    FaultKind::OneWay,
    FaultKind::Bridge,
    FaultKind::Flapping,
    FaultKind::Crash,
    FaultKind::Blackout,
    FaultKind::Pause,
    FaultKind::RateWithin,
    FaultKind::RateOutside,
    FaultKind::WallJump,
    FaultKind::Wipe,
    FaultKind::Trim,
    FaultKind::DiskFull,
    FaultKind::Shutdown,
    FaultKind::Transfer,
    FaultKind::StepDown,
    FaultKind::AddMember,
    FaultKind::RemoveMember,
    FaultKind::RestartRest,
    FaultKind::Quarantine,
    FaultKind::ApplyHalt,
    FaultKind::Twin,
    FaultKind::Damage,
    FaultKind::TailLoss,
    FaultKind::Move,
    FaultKind::Copy,
    FaultKind::Rollback,
    FaultKind::Rot,
    FaultKind::Upgrade,
    FaultKind::SyncError,
    FaultKind::SlowDisk,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_being_written_down() {
        for seed in 0..50 {
            let plan = Plan::from_seed(seed);
            let text = serde_json::to_string(&plan).expect("a plan is plain data");
            let read: Plan = serde_json::from_str(&text).expect("what was written");
            assert_eq!(read, plan);
        }
    }

    #[test]
    fn each_kind_of_fault_is_off_in_some_seeds_and_on_in_others() {
        let plans: Vec<Plan> = (0..200).map(Plan::from_seed).collect();
        let with = |test: fn(&Fault) -> bool| plans.iter().filter(|p| p.faults.iter().any(|f| test(&f.fault))).count();
        for count in [
            with(|f| matches!(f, Fault::Wipe { .. })),
            with(|f| matches!(f, Fault::Bridge { .. })),
            with(|f| matches!(f, Fault::RemoveMember { .. })),
            plans.iter().filter(|p| p.net.loss_pm > 0).count(),
            plans.iter().filter(|p| p.net.line_kbit > 0).count(),
        ] {
            assert!((20..180).contains(&count), "{count} of 200");
        }
    }
}
