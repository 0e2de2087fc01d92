//! What goes wrong, and the end of it.
//!
//! Decides how each fault of a plan takes effect, and refuses those that no
//! cluster could survive: disks are wiped only while the rest holds a quorum.

use super::strike::Strike;
use super::{Cluster, Disk, Event};
use crate::clock::TrueTime;
use crate::plan::{Fault, Moment, Target};
use crate::report::Failure;
use base_ha_core::ids::ClusterId;
use base_ha_core::io::{AdminCommand, CallId, Input, MemberRef, StoreHealth};
use base_ha_core::member::{Membership, Role};

impl Cluster {
    /// A fault of the plan happens.
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Failure> {
        if self.healed {
            return Ok(());
        }
        if self.copied.is_some() {
            self.counts.add("fault_forgone_beside_copy");
            return Ok(());
        }
        self.trace.line(self.now, &"", format_args!("!! {fault:?}"));
        self.record(|at, line| line.fault(at, self.writer(), &fault));
        match fault {
            Fault::Partition { mask, ms } => {
                self.cut(ms, |a, b| (mask >> a) & 1 != (mask >> b) & 1);
                self.counts.add("partition_symmetric");
            }
            Fault::Isolate { target, ms } => {
                let writer = self.writer();
                if let Some(host) = self.resolve(target) {
                    self.cut(ms, |a, b| (a == host) != (b == host));
                    if writer == Some(host) && self.hosts.len() > 1 {
                        self.counts.add("writer_isolated");
                    }
                }
            }
            Fault::OneWay { target, deaf, ms } => {
                if let Some(host) = self.resolve(target) {
                    self.cut(ms, |from, to| if deaf { to == host } else { from == host });
                    self.counts.add("partition_one_way");
                }
            }
            Fault::Bridge { mask, bridge, ms } => {
                self.cut(ms, |a, b| a != bridge && b != bridge && (mask >> a) & 1 != (mask >> b) & 1);
                self.counts.add("partition_bridge");
            }
            Fault::Flapping { mask, period_ms, times } => {
                for n in 0..times {
                    let at = self.now.plus_ms(2 * n * period_ms);
                    self.at(at, Event::Fault(Fault::Partition { mask, ms: period_ms }));
                }
                self.counts.add("partition_flapping");
            }
            Fault::Crash { target, power, at, down_ms } => self.arm(target, at, Strike::Crash { power, down_ms }),
            Fault::SyncError { target, after, down_ms } => {
                self.arm(target, Moment::Durable(after), Strike::SyncError { down_ms });
            }
            Fault::Blackout { down_ms } => {
                self.counts.add("blackout");
                for host in 0..self.hosts.len() {
                    if self.hosts[host].process.is_some() {
                        let apart = self.fault_prng.within(0..=2000);
                        self.crash(host, true, down_ms + apart);
                    }
                }
            }
            Fault::Pause { target, at, ms } => self.arm(target, at, Strike::Pause { ms }),
            Fault::ClockRate { host, ppm } => {
                let within = ppm.unsigned_abs() <= u64::from(self.plan.rho_ppm);
                self.hosts[host].clock.set_rate(self.now, ppm);
                self.rates_in_bound &= within;
                self.counts.add(if within { "clock_rate_within_bound" } else { "clock_rate_outside_bound" });
                if self.hosts[host].process.as_ref().is_some_and(|p| !p.paused) {
                    self.schedule_wake(host);
                }
            }
            Fault::WallJump { host, ms } => {
                self.hosts[host].clock.jump(ms);
                self.counts.add(match ms.unsigned_abs() {
                    0..3_600_000 => "wall_jump",
                    3_600_000..31_536_000_000 => "wall_jump_hours",
                    _ => "wall_jump_years",
                });
            }
            Fault::Wipe { target, down_ms } => self.wipe(target, down_ms),
            Fault::Trim { host } => {
                if self.hosts[host].process.as_ref().is_some_and(|p| !p.paused) {
                    self.hosts[host].disk.checkpoint();
                    let through = self.hosts[host].disk.checkpointed();
                    self.trim(host, through)?;
                }
            }
            Fault::DiskFull { target, ms } => {
                if let Some(host) = self.resolve(target) {
                    self.hosts[host].disk_full = true;
                    self.counts.add("disk_full");
                    self.at(self.now.plus_ms(ms), Event::DiskWell { host });
                    self.give_now(host, Input::Health(StoreHealth::Full))?;
                }
            }
            Fault::SlowDisk { target, ms, sync_us } => {
                if let Some(host) = self.resolve(target) {
                    self.hosts[host].slow = (self.now.plus_ms(ms), sync_us);
                    self.counts.add("disk_slow");
                }
            }
            Fault::Shutdown { target, down_ms } => {
                if let Some(host) = self.resolve_running(target) {
                    self.shut_down(host, down_ms)?;
                }
            }
            Fault::Transfer { to } => {
                let to = to.map(|host| self.hosts[host].id.clone());
                self.order("transfer_done", AdminCommand::Transfer { to })?;
            }
            Fault::StepDown => self.order("step_down_done", AdminCommand::StepDown)?,
            Fault::AddMember { host, learner } => {
                // To add a member under an address that it has moved to is to
                // make two of one: its address is to be set instead.
                let elsewhere = self
                    .membership
                    .as_ref()
                    .is_some_and(|(_, m)| m.get(&self.hosts[host].id).is_some_and(|m| m.url != self.hosts[host].url));
                if self.membership.is_some() && !self.wiped_just_now() && !self.any_ill() && !elsewhere {
                    let role = match (learner, self.hosts[host].config.witness) {
                        (_, true) => Role::Witness,
                        (true, false) => Role::Learner,
                        (false, false) => Role::Voter,
                    };
                    let url = self.hosts[host].url.clone();
                    if self.hosts[host].process.is_none() {
                        self.schedule_start(host, 0);
                    }
                    self.order("member_added", AdminCommand::AddMember { url, role })?;
                }
            }
            Fault::RestartRest { ms, down_ms } => self.restart_rest(ms, down_ms),
            Fault::Damage { target } => self.damage(target),
            Fault::Quarantine { target } => self.quarantine(target)?,
            Fault::ApplyHalt { target, ms } => self.halt_apply(target, ms)?,
            Fault::TailLoss { target, down_ms, share_pm } => self.lose_tail(target, down_ms, share_pm),
            Fault::Move { host, down_ms, ordered } => self.relocate(host, down_ms, ordered)?,
            Fault::Twin { ms, .. } => self.start_twin(ms),
            Fault::Copy { ms, .. } => self.start_copy(ms),
            Fault::Rollback { host, age_ms, down_ms } => {
                let image = Box::new(self.hosts[host].disk.image());
                self.at(self.now.plus_ms(age_ms), Event::RollBack { host, image, down_ms });
            }
            Fault::Rot { target, at_pm, restart_ms } => self.rot(target, at_pm, restart_ms),
            Fault::Upgrade { host, down_ms, hasty } => {
                if self.hosts[host].process.is_some() {
                    self.stop(host, false);
                    self.hosts[host].reads_next = true;
                    self.hosts[host].writes_next = hasty;
                    self.counts.add("upgraded");
                    self.schedule_start(host, down_ms);
                }
            }
            Fault::RemoveMember { .. } if self.wiped_just_now() || self.any_ill() => {
                self.counts.add("member_order_forgone");
            }
            Fault::RemoveMember { host } => {
                let member = MemberRef::Id(self.hosts[host].id.clone());
                self.order("member_removed", AdminCommand::RemoveMember { member })?;
            }
        }
        Ok(())
    }

    fn resolve(&self, target: Target) -> Option<usize> {
        match target {
            Target::Host(host) => Some(host),
            Target::Writer => self.writer(),
        }
    }

    pub(super) fn resolve_running(&self, target: Target) -> Option<usize> {
        self.resolve(target).filter(|host| self.hosts[*host].process.is_some())
    }

    /// Cuts every directed link that `which` names, for so long.
    pub(super) fn cut(&mut self, ms: u64, which: impl Fn(usize, usize) -> bool) {
        let hosts = self.hosts.len();
        let mut links = Vec::new();
        for from in 0..hosts {
            for to in 0..hosts {
                if from != to && which(from, to) {
                    self.net.cut(from, to, true);
                    links.push((from, to));
                }
            }
        }
        self.at(self.now.plus_ms(ms), Event::Mend(links));
    }

    /// A process dies and its machine starts it again later.
    pub(super) fn crash(&mut self, host: usize, power: bool, down_ms: u64) {
        self.counts.add(if power { "crash_power" } else { "crash_process" });
        self.stop(host, power);
        self.schedule_start(host, down_ms);
    }

    /// A process that stood still goes on: what came in meanwhile waits in its
    /// sockets, and is read before or after it looks at the clock.
    pub(super) fn resume(&mut self, host: usize, boot: u64) -> Result<(), Failure> {
        if self.process_of(host, boot).is_none() {
            return Ok(());
        }
        let Some(process) = &mut self.hosts[host].process else {
            return Ok(());
        };
        process.paused = false;
        process.wake_at = None;
        let inbox = std::mem::take(&mut process.inbox);
        let mut held = std::mem::take(&mut process.held);
        self.carry_out(host, boot, &mut held)?;
        if self.fault_prng.chance(500) {
            self.give(host, boot, Input::Deadline)?;
        }
        for input in inbox {
            self.give(host, boot, input)?;
        }
        self.give(host, boot, Input::Deadline)
    }

    /// A machine loses its disk, if the others can do without it.
    fn wipe(&mut self, target: Target, down_ms: u64) {
        let Some(host) = self.resolve(target) else {
            return;
        };
        if !self.can_lose(host) {
            self.counts.add("disk_wipe_forgone");
            return;
        }
        self.counts.add("disk_wiped");
        self.wiped_at = Some(self.now);
        self.stop(host, true);
        let lost = std::mem::take(&mut self.hosts[host].disk);
        self.hosts[host].graveyard.push(lost);
        self.schedule_start(host, down_ms);
    }

    /// Whether a disk was lost so recently that nobody can know it. To remove
    /// another voter then leaves fewer intact disks than a quorum, which no
    /// cluster survives; once the silence is noticed, the core refuses it.
    fn wiped_just_now(&self) -> bool {
        let noticed_ms = self.plan.lease_ms() * 3;
        self.wiped_at.is_some_and(|at| self.now < at.plus_ms(noticed_ms))
    }

    /// Whether every membership that may be in force keeps a quorum of intact
    /// disks without this one.
    pub(super) fn can_lose(&self, host: usize) -> bool {
        let Some((_, membership)) = &self.membership else {
            return false;
        };
        // Seats that know of no cluster found one as soon as they are a
        // majority: those that know must be more than the rest can outvote.
        let seats = self.plan.seats;
        let born = (0..seats).filter(|seat| *seat != host && self.hosts[*seat].disk.hard.cluster != ClusterId::NONE);
        let refounded = seats - born.count() > seats / 2 && host < seats;
        // Beside damaged data there may be no majority left to tell.
        if refounded || self.any_ill() {
            return false;
        }
        let intact = |membership: &Membership| {
            let left = membership
                .voters()
                .filter_map(|m| m.identity.as_ref())
                .filter(|(id, incarnation)| {
                    self.hosts.iter().enumerate().any(|(other, machine)| {
                        other != host
                            && machine.id == *id
                            && machine.keeps(*incarnation)
                            && !machine.disk.is_rotten()
                            && !machine.retired
                    })
                })
                .count();
            left >= membership.quorum()
        };
        // A learner that was heard just now may be made a voter after it is lost
        // (seed 340000536 of its day).
        let promoted = || {
            let mut next = Membership::clone(membership);
            for member in next.members.iter_mut().filter(|m| m.id() == Some(&self.hosts[host].id)) {
                member.role = member.target.unwrap_or(member.role);
            }
            next
        };
        intact(membership)
            && intact(&promoted())
            && self.membership_under_way().iter().all(intact)
            && self.data_is_elsewhere(host)
    }

    /// Whether another machine than this one has whole data; witnesses have none.
    fn data_is_elsewhere(&self, host: usize) -> bool {
        self.hosts.iter().enumerate().any(|(other, machine)| {
            let incarnation = machine.disk.hard.incarnation;
            let voter = self.membership.as_ref().is_some_and(|(_, m)| m.is_voter(&machine.id, incarnation));
            other != host && !machine.config.witness && !machine.retired && voter && machine.disk.data_is_whole()
        })
    }

    /// Starts a graceful stop; the machine starts again later.
    pub(crate) fn shut_down(&mut self, host: usize, down_ms: u64) -> Result<(), Failure> {
        self.hosts[host].restart_ms = down_ms;
        let Some(process) = &mut self.hosts[host].process else {
            return Ok(());
        };
        if process.paused || process.stopping {
            return Ok(());
        }
        process.stopping = true;
        let boot = process.boot;
        self.at(self.now.plus_ms(60_000), Event::StopDue { host, boot });
        self.give(host, boot, Input::Shutdown)
    }

    /// An administrator turns to the writer, if there is one.
    pub(super) fn order(&mut self, counted: &'static str, command: AdminCommand) -> Result<(), Failure> {
        let Some(host) = self.writer() else {
            return Ok(());
        };
        let id: CallId = self.workload.next_call();
        if let Some(process) = &mut self.hosts[host].process {
            process.orders.insert(id, counted);
        }
        self.give_now(host, Input::Admin { id, command })
    }

    /// Every fault ends: links are whole, clocks right, machines up.
    pub(crate) fn heal(&mut self) -> Result<(), Failure> {
        self.end_faults();
        for host in 0..self.hosts.len() {
            self.heal_host(host)?;
        }
        Ok(())
    }

    /// Every fault ends for a bare majority of the voters, chosen at random; the
    /// others stay as they are, and are cut off. Says how large that majority is,
    /// if there is one that can be asked to go on by itself: whole disks, nothing
    /// ill, the membership settled, and no witness with a log that begins after
    /// the end of what stores data.
    pub(crate) fn heal_core(&mut self) -> Result<Option<usize>, Failure> {
        self.end_faults();
        let Some(core) = self.draw_core() else {
            self.counts.add("core_forgone");
            return Ok(None);
        };
        let size = core.len();
        self.counts.add("core_healed_first");
        self.trace.line(self.now, &"", format_args!("!! only {core:?} go on"));
        self.net.part(&core);
        for host in core {
            self.heal_host(host)?;
        }
        Ok(Some(size))
    }

    fn draw_core(&mut self) -> Option<Vec<usize>> {
        let (_, membership) = self.membership.clone()?;
        if self.any_ill() || !self.membership_under_way().is_empty() {
            return None;
        }
        let mut voters: Vec<usize> = (membership.voters().filter_map(|m| m.identity.as_ref()))
            .filter_map(|(id, incarnation)| {
                let host = self.host_named(id, *incarnation)?;
                self.hosts[host].keeps(*incarnation).then_some(host)
            })
            .collect();
        let mut core = Vec::new();
        while core.len() < membership.quorum() {
            if voters.is_empty() {
                return None;
            }
            core.push(voters.swap_remove(self.fault_prng.index(voters.len())));
        }
        let disks = || core.iter().map(|host| (&self.hosts[*host].config, &self.hosts[*host].disk));
        let data = || disks().filter(|(config, _)| !config.witness).map(|(_, disk)| disk);
        let shortest = data().map(|disk| disk.log.last().seq).min()?;
        let sound = data().all(Disk::data_is_whole)
            && disks().all(|(config, disk)| !config.witness || disk.log.base.seq <= shortest);
        sound.then_some(core)
    }

    /// No fault begins any more, and the network is whole.
    fn end_faults(&mut self) {
        self.healed = true;
        self.trace.line(self.now, &"", format_args!("!! heal"));
        self.record(|at, line| line.note(at, None, "heal", "every fault ends".to_owned()));
        self.net.heal();
        let twin = self.plan.hosts();
        if self.hosts.get(twin).is_some_and(|h| h.used) && !self.hosts.iter().any(|h| h.retired) {
            self.twin_due();
        }
        self.plan.disk.stall_pm = 0;
    }

    fn heal_host(&mut self, host: usize) -> Result<(), Failure> {
        let machine = &mut self.hosts[host];
        machine.clock.set_rate(self.now, 0);
        machine.clock.set_wall_right();
        machine.armed = None;
        machine.disk_full = false;
        machine.slow = (TrueTime::default(), 0);
        machine.writes_next = false;
        if let Some(boot) = machine.process.as_ref().filter(|p| p.halted).map(|p| p.boot) {
            self.apply_well(host, boot);
        }
        let machine = &mut self.hosts[host];
        let boot = machine.process.as_ref().map(|p| (p.boot, p.paused));
        match boot {
            Some((boot, true)) => self.resume(host, boot)?,
            Some((_, false)) => self.schedule_wake(host),
            None if machine.used && !machine.retired => {
                // Whatever start is in the queue comes too late.
                machine.starting = false;
                self.schedule_start(host, 10);
            }
            None => {}
        }
        self.give_now(host, Input::Health(StoreHealth::Well))
    }
}
