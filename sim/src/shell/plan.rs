//! A run of whole nodes as data: what clients do, and what goes wrong when.
//!
//! Decides, from a seed, the cluster, the workload and the faults. A plan can be
//! printed, edited and run again; running one draws nothing from its seed but
//! the small fates (a message's latency, a disk's delay, a client's next act).

use crate::plan::{ClockPlan, Target};
use crate::prng::Prng;
use serde::{Deserialize, Serialize};

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShellPlan {
    /// Where the small fates come from.
    pub seed: u64,
    /// Machines with a node, all of them seats at birth.
    pub nodes: usize,
    /// Which of them is a witness, if any.
    pub witness: Option<usize>,
    /// `BASE_HEARTBEAT`, in milliseconds; the lease is three of them.
    pub heartbeat_ms: u64,
    /// Each machine's clock at the start.
    pub clocks: Vec<ClockPlan>,
    /// The network while faults last.
    pub net: ShellNetPlan,
    /// The disks while faults last.
    pub disk: ShellDiskPlan,
    /// The clients.
    pub workload: ShellWorkloadPlan,
    /// How long faults last, in milliseconds.
    pub chaos_ms: u64,
    /// The faults, in order of time.
    pub faults: Vec<ShellFaultAt>,
}

/// The network while faults last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShellNetPlan {
    /// The shortest delay, in milliseconds.
    pub latency_ms_min: u64,
    /// The longest delay, in milliseconds.
    pub latency_ms_max: u64,
    /// Segments in 1/1,000,000 with which everything that is under way between
    /// two machines is lost: their connections hang from then on.
    pub loss_ppm: u32,
}

/// How slow the disks are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShellDiskPlan {
    /// The longest ordinary delay of blocking work, in milliseconds.
    pub delay_ms_max: u64,
    /// Blocking calls in 1/1000 that stall for 50-1000 ms.
    pub stall_pm: u32,
    /// `BASE_LOG_MAX_BYTES`: a small one makes nodes that were away need a
    /// snapshot.
    pub log_bytes_max: u64,
}

/// What clients do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShellWorkloadPlan {
    /// How many.
    pub clients: usize,
    /// The longest pause between two acts of a client, in milliseconds.
    pub pause_ms_max: u64,
    /// Reads in 1/1000 of all acts.
    pub read_pm: u32,
    /// Writes in 1/1000 that ask for `X-Base-Ack: local`, and as many for `all`.
    pub ack_pm: u32,
    /// Writes in 1/1000 that change the schema.
    pub ddl_pm: u32,
    /// The longest text of an item, in bytes.
    pub body_bytes_max: u64,
    /// Writes in 1/1000 that are sent under an `Idempotency-Key`.
    pub key_pm: u32,
}

/// One fault and its moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShellFaultAt {
    /// When, in milliseconds from the start.
    pub at_ms: u64,
    /// What.
    pub fault: ShellFault,
}

/// Something that goes wrong, or that an administrator orders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ShellFault {
    /// The machines of `mask` and the others do not reach each other.
    Partition {
        /// One bit a machine.
        mask: u32,
        /// For how long.
        ms: u64,
    },
    /// One machine reaches no other, and perhaps no client.
    Isolate {
        /// Which.
        target: Target,
        /// Clients don't reach it either.
        clients: bool,
        /// For how long.
        ms: u64,
    },
    /// One machine is heard but hears no other, or the reverse.
    OneWay {
        /// Which.
        target: Target,
        /// It hears nobody; otherwise it is not heard.
        deaf: bool,
        /// For how long.
        ms: u64,
    },
    /// The machines of `mask` and the others reach each other only through one.
    Bridge {
        /// One bit a machine.
        mask: u32,
        /// The one that everybody reaches.
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
    /// What one machine sends and is sent takes longer.
    SlowLink {
        /// Which.
        target: Target,
        /// The delay, in milliseconds.
        latency_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// The process, or the machine, dies.
    Crash {
        /// Which.
        target: Target,
        /// The power goes: nobody is told, by no closed connection either.
        power: bool,
        /// For how long.
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
        /// For how long.
        ms: u64,
    },
    /// Blocking work of one machine takes longer.
    SlowDisk {
        /// Which.
        target: Target,
        /// By so much, in milliseconds.
        extra_ms: u64,
        /// For how long.
        ms: u64,
    },
    /// The disk has no more room, for a while.
    DiskFull {
        /// Whose.
        target: Target,
        /// Bytes that still fit.
        room: u64,
        /// For how long.
        ms: u64,
    },
    /// One operation on the disk fails with EIO: the process ends, or says so.
    DiskError {
        /// Whose.
        target: Target,
        /// Which of the operations that come.
        after: u64,
    },
    /// The machine dies at one operation on its disk.
    CrashAt {
        /// Which.
        target: Target,
        /// Which of the operations that come.
        after: u64,
        /// For how long it is away.
        down_ms: u64,
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
    /// A graceful stop, and a start later.
    Shutdown {
        /// Whose.
        target: Target,
        /// For how long.
        down_ms: u64,
    },
    /// A node is told, by an administrator, to have the pin handed over to this
    /// machine or to the best.
    Transfer {
        /// To whom.
        to: Option<usize>,
    },
    /// A node is told to have the writer step down.
    StepDown,
    /// A node is told to have this member removed. It comes back by itself, as
    /// a learner, and is made a voter again when faults end.
    RemoveMember {
        /// Which.
        host: usize,
    },
}

/// What seeds draw from.
const KINDS: u64 = 20;

impl ShellPlan {
    /// The plan of a seed. Each kind of fault is switched off in about half of
    /// all seeds: some bugs hide behind other faults.
    pub fn from_seed(seed: u64) -> Self {
        let mut cluster = Prng::named(seed, "shell cluster");
        let mut swarm = Prng::named(seed, "shell swarm");
        let mut work = Prng::named(seed, "shell workload plan");
        let nodes = [3, 3, 3, 3, 3, 3, 5, 1][cluster.index(8)];
        let witness = (nodes == 3 && cluster.chance(150)).then(|| cluster.index(nodes));
        let clocks = (0..nodes)
            .map(|_| ClockPlan {
                mono_ms: cluster.within(0..=1_000_000_000),
                rate_ppm: signed(&mut cluster, RATE_PPM),
                wall_ms: signed(&mut cluster, 100),
            })
            .collect();
        let mut on = |pm: u32, drawn: u64| if swarm.chance(pm) { drawn } else { 0 };
        let latency_ms_min = cluster.within(0..=5);
        let mut plan = Self {
            seed,
            nodes,
            witness,
            heartbeat_ms: [100, 200, 500][cluster.index(3)],
            clocks,
            net: ShellNetPlan {
                latency_ms_min,
                latency_ms_max: latency_ms_min + cluster.within(1..=60),
                loss_ppm: on(400, cluster.within(1..=3000)) as u32,
            },
            disk: ShellDiskPlan {
                delay_ms_max: on(700, cluster.within(1..=20)),
                stall_pm: on(300, cluster.within(1..=20)) as u32,
                log_bytes_max: if on(400, 1) == 1 { 16 << 10 } else { 1 << 30 },
            },
            workload: ShellWorkloadPlan {
                clients: work.within(2..=4) as usize,
                pause_ms_max: work.within(20..=400),
                read_pm: work.within(200..=600) as u32,
                ack_pm: on(500, work.within(20..=200)) as u32,
                ddl_pm: on(600, work.within(10..=60)) as u32,
                body_bytes_max: if on(300, 1) == 1 { work.within(1_000..=200_000) } else { 200 },
                key_pm: [0, 500, 900, 1000][work.index(4)],
            },
            chaos_ms: cluster.within(6_000..=14_000),
            faults: Vec::new(),
        };
        plan.draw_faults(&mut swarm);
        plan
    }

    /// How long the nodes are told that a lease lasts, in milliseconds.
    pub fn lease_ms(&self) -> u64 {
        self.heartbeat_ms * 3
    }

    /// The rates of all clocks stay within the bound that the nodes are told.
    pub fn rates_in_bound(&self) -> bool {
        let legal = |ppm: i64| ppm.unsigned_abs() <= RATE_PPM;
        self.clocks.iter().all(|clock| legal(clock.rate_ppm))
            && self.faults.iter().all(|at| match at.fault {
                ShellFault::ClockRate { ppm, .. } => legal(ppm),
                _ => true,
            })
    }

    fn draw_faults(&mut self, swarm: &mut Prng) {
        let mut prng = Prng::named(self.seed, "shell faults");
        let kinds: Vec<u64> = (0..KINDS).filter(|_| swarm.chance(450)).collect();
        if kinds.is_empty() {
            return;
        }
        let gap_ms = prng.within(200..=3000);
        // Founding has its faults too, in some seeds.
        let mut at_ms = if prng.chance(300) { prng.within(0..=500) } else { prng.within(2000..=4000) };
        while at_ms < self.chaos_ms {
            let kind = kinds[prng.index(kinds.len())];
            let fault = self.draw_fault(kind, &mut prng);
            self.faults.push(ShellFaultAt { at_ms, fault });
            at_ms += prng.within(1..=2 * gap_ms);
        }
    }

    fn draw_fault(&self, kind: u64, prng: &mut Prng) -> ShellFault {
        let host = prng.index(self.nodes);
        let target = if prng.chance(500) { Target::Writer } else { Target::Host(host) };
        let mask = prng.within(1..=(1 << self.nodes) - 1) as u32;
        let lease = self.lease_ms();
        let ms = match prng.below(4) {
            0 => prng.within(10..=lease),
            1 | 2 => prng.within(lease..=lease * 4),
            _ => prng.within(lease * 4..=lease * 10),
        };
        match kind {
            0 => ShellFault::Partition { mask, ms },
            1 => ShellFault::Isolate { target, clients: prng.chance(300), ms },
            2 => ShellFault::OneWay { target, deaf: prng.chance(500), ms },
            3 => ShellFault::Bridge { mask, bridge: host, ms },
            4 => ShellFault::Flapping { mask, period_ms: prng.within(50..=1000), times: prng.within(2..=6) },
            5 => ShellFault::SlowLink { target, latency_ms: prng.within(20..=lease), ms },
            6 => {
                let power = prng.chance(500);
                // Often back before anybody noticed: what it had promised must
                // still hold.
                let down_ms = if prng.chance(500) { prng.within(10..=self.heartbeat_ms) } else { ms };
                ShellFault::Crash { target, power, down_ms }
            }
            7 => ShellFault::Blackout { down_ms: ms },
            8 => ShellFault::Pause { target, ms },
            9 => ShellFault::SlowDisk { target, extra_ms: prng.within(10..=lease), ms },
            10 => ShellFault::ClockRate { host, ppm: signed(prng, RATE_PPM) },
            11 => ShellFault::ClockRate { host, ppm: signed(prng, 300_000) },
            12 => ShellFault::WallJump { host, ms: signed(prng, 10_000_000) },
            13 => ShellFault::Wipe { target, down_ms: ms },
            14 => ShellFault::Shutdown { target, down_ms: ms },
            15 => {
                if prng.chance(700) {
                    ShellFault::Transfer { to: prng.chance(700).then_some(host) }
                } else {
                    ShellFault::StepDown
                }
            }
            16 => ShellFault::RemoveMember { host },
            17 => ShellFault::DiskFull { target, room: prng.within(0..=20_000), ms },
            18 => ShellFault::DiskError { target, after: prng.within(0..=60) },
            _ => ShellFault::CrashAt { target, after: prng.within(0..=100), down_ms: ms },
        }
    }
}

/// The bound on clock rates that nodes are told by default, in parts per million.
const RATE_PPM: u64 = 10_000;

fn signed(prng: &mut Prng, max: u64) -> i64 {
    prng.within(0..=2 * max) as i64 - max as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_being_written_down() {
        for seed in 0..50 {
            let plan = ShellPlan::from_seed(seed);
            let text = serde_json::to_string(&plan).expect("a plan is plain data");
            let read: ShellPlan = serde_json::from_str(&text).expect("what was written");
            assert_eq!(read, plan);
        }
    }

    #[test]
    fn each_kind_of_fault_is_off_in_some_seeds_and_on_in_others() {
        let plans: Vec<ShellPlan> = (0..200).map(ShellPlan::from_seed).collect();
        let with =
            |test: fn(&ShellFault) -> bool| plans.iter().filter(|p| p.faults.iter().any(|f| test(&f.fault))).count();
        for count in [
            with(|f| matches!(f, ShellFault::Wipe { .. })),
            with(|f| matches!(f, ShellFault::Pause { .. })),
            with(|f| matches!(f, ShellFault::RemoveMember { .. })),
            plans.iter().filter(|p| p.net.loss_ppm > 0).count(),
        ] {
            assert!((20..180).contains(&count), "{count} of 200");
        }
    }
}
