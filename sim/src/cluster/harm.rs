//! Harm that outlives its moment: damaged data, a log without its tail, a new
//! address, a second process under one name.
//!
//! Decides what each does to a machine, and forgoes what no cluster could
//! survive: one machine's data is damaged at a time and only beside a healthy
//! majority, and a log loses its tail only where a whole disk could be lost.

use super::{Cluster, Event};
use crate::plan::{Fault, Target};
use crate::report::Failure;
use base_ha_core::entry::EntryKind;
use base_ha_core::ids::{ClusterId, Incarnation, NodeId, Seq, Url};
use base_ha_core::io::{AdminCommand, Input, Part, StoreHealth};
use base_ha_core::member::{Membership, Role};
use base_ha_core::wire::decode_membership;

impl Cluster {
    /// The writer is cut off and everybody else starts anew.
    pub(super) fn restart_rest(&mut self, ms: u64, down_ms: u64) {
        let Some(writer) = self.writer().filter(|_| self.hosts.len() > 1) else {
            return;
        };
        self.cut(ms, |a, b| (a == writer) != (b == writer));
        self.counts.add("rest_restarted_beside_writer");
        for host in (0..self.hosts.len()).filter(|host| *host != writer) {
            if self.hosts[host].process.is_some() {
                self.crash(host, false, down_ms);
            }
        }
    }

    /// Somebody's data is damaged, or known to be unusable.
    pub(super) fn any_ill(&self) -> bool {
        self.hosts
            .iter()
            .any(|h| h.disk.data.damaged || h.disk.is_rotten() || h.process.as_ref().is_some_and(|p| p.quarantined))
    }

    /// The machine, if the data of all others could restore its own: `healthy`
    /// voters that store data must be there beside it.
    fn may_fall_ill(&self, target: Target, healthy: usize) -> Option<usize> {
        let host = self.resolve_running(target)?;
        let (_, membership) = self.membership.as_ref()?;
        let beside = (membership.members.iter())
            .filter(|m| m.role == Role::Voter && m.id().is_some_and(|id| *id != self.hosts[host].id))
            .count();
        // A voter with a new disk has nothing to compare yet, and one whose log
        // lost its tail will be one (seed 122860423 of the generator then: while
        // it was down, the data of the only other complete node went bad).
        let whole = membership.members.iter().all(|m| {
            m.identity.as_ref().and_then(|(id, n)| self.host_named(id, *n).map(|host| (host, n))).is_some_and(
                |(host, n)| {
                    let machine = &self.hosts[host];
                    machine.keeps(*n) && (m.role != Role::Voter || machine.disk.data.membership.is_some())
                },
            )
        });
        let fits = beside >= healthy
            && whole
            && !self.hosts[host].config.witness
            && !self.any_ill()
            && self.membership_under_way().is_empty()
            && self.hosts[host].disk.data.membership.is_some();
        fits.then_some(host)
    }

    /// `data.db` changes by itself. Two healthy voters are a majority of three,
    /// and whoever else votes is healthy too.
    pub(super) fn damage(&mut self, target: Target) {
        let Some(host) = self.may_fall_ill(target, 2) else {
            self.counts.add("harm_forgone");
            return;
        };
        self.hosts[host].disk.data.damage();
        self.harmed.insert(self.hosts[host].id.clone());
        self.counts.add("data_damaged");
    }

    /// The store's own check fails.
    pub(super) fn quarantine(&mut self, target: Target) -> Result<(), Failure> {
        let Some(host) = self.may_fall_ill(target, 1) else {
            self.counts.add("harm_forgone");
            return Ok(());
        };
        if let Some(process) = &mut self.hosts[host].process {
            process.quarantined = true;
        }
        self.counts.add("store_quarantined");
        self.give_now(host, Input::Health(StoreHealth::Quarantined))
    }

    /// The store cannot apply the next entry.
    pub(super) fn halt_apply(&mut self, target: Target, ms: u64) -> Result<(), Failure> {
        let Some(host) = self.resolve_running(target) else {
            return Ok(());
        };
        let at = self.hosts[host].disk.data.applied.seq.next();
        let Some(process) = self.hosts[host].process.as_mut().filter(|p| !p.halted) else {
            return Ok(());
        };
        process.halted = true;
        let boot = process.boot;
        self.counts.add("apply_halted");
        self.at(self.now.plus_ms(ms), Event::ApplyWell { host, boot });
        self.give_now(host, Input::Health(StoreHealth::ApplyHalted { at }))
    }

    /// The store could apply again. A halt lasts as long as its process (room
    /// on the disk says nothing of it): it ends with a new copy of the data or
    /// with a restart.
    pub(super) fn apply_well(&mut self, host: usize, boot: u64) {
        let halted = self.hosts[host].process.as_ref().is_some_and(|p| p.boot == boot && p.halted);
        if halted {
            self.stop(host, false);
            self.schedule_start(host, 10);
        }
    }

    /// The log comes back without its tail: a bit flip in a write-ahead log
    /// silently drops what follows it.
    pub(super) fn lose_tail(&mut self, target: Target, down_ms: u64, share_pm: u32) {
        let Some(host) = self.resolve_running(target) else {
            return;
        };
        let disk = &self.hosts[host].disk;
        let noticed = disk.log.base.seq < disk.hard.high_water.seq.max(disk.data.applied.seq);
        if !noticed || !self.can_lose(host) {
            self.counts.add("harm_forgone");
            return;
        }
        self.stop(host, false);
        let machine = &mut self.hosts[host];
        machine.graveyard.push(machine.disk.clone());
        machine.amnesiac = Some(machine.disk.hard.incarnation);
        machine.disk.lose_tail(share_pm);
        self.wiped_at = Some(self.now);
        self.counts.add("log_tail_lost");
        self.schedule_start(host, down_ms);
    }

    /// The machine is somewhere else from now on. One machine of a run moves:
    /// two that do not know of each other's new address find each other only
    /// when an administrator sets it.
    pub(super) fn relocate(&mut self, host: usize, down_ms: u64, ordered: bool) -> Result<(), Failure> {
        let seats = self.plan.seats;
        let moved = self.hosts.iter().filter(|h| h.moves > 0).count();
        let machine = &self.hosts[host];
        let may = machine.moves > 0 || moved == 0;
        // A seat that was never heard is known by its address alone.
        let known = self.membership.as_ref().is_some_and(|(_, m)| m.get(&machine.id).is_some());
        if !may || !known || machine.disk.hard.cluster == ClusterId::NONE || machine.process.is_none() || seats < 2 {
            self.counts.add("harm_forgone");
            return Ok(());
        }
        let id = machine.id.clone();
        let url = Url::new(&format!("http://{id}:{}", machine.moves + 2));
        self.stop(host, false);
        let machine = &mut self.hosts[host];
        machine.moves += 1;
        machine.url = url.clone();
        machine.config.url = url.clone();
        self.schedule_start(host, down_ms);
        self.counts.add("moved");
        if ordered { self.order("url_set", AdminCommand::SetUrl { id, url }) } else { Ok(()) }
    }

    /// A second machine starts under a member's name, once in a run.
    pub(super) fn start_twin(&mut self, ms: u64) {
        let twin = self.plan.hosts();
        let Some(id) = self.hosts.get(twin).filter(|h| !h.used).map(|h| h.id.clone()) else {
            return;
        };
        // In a seat that nobody has taken yet the twin would be the first.
        if self.membership.as_ref().is_none_or(|(_, m)| m.get(&id).is_none()) {
            return;
        }
        self.counts.add("twin_started");
        self.schedule_start(twin, 0);
        self.at(self.now.plus_ms(ms), Event::TwinDue);
    }

    /// One of two of a name is switched off for good: the one that is not a
    /// member. While a change is under way nobody can say which that is.
    pub(super) fn twin_due(&mut self) {
        let twin = self.plan.hosts();
        if self.hosts.iter().any(|h| h.retired) {
            return;
        }
        let Some(original) = (0..twin).find(|host| self.hosts[*host].id == self.hosts[twin].id) else {
            return;
        };
        if self.copied.is_some() {
            // Either will do: one of them has acknowledged what the other lacks.
            let off = if self.fault_prng.chance(500) { twin } else { original };
            self.counts.add("copy_ended");
            self.stop(off, true);
            self.hosts[off].retired = true;
            return;
        }
        let under_way = self.membership_under_way();
        let admitted = |m: &Membership| m.admits(&self.hosts[twin].id, self.hosts[twin].disk.hard.incarnation);
        if !under_way.is_empty() && !self.healed {
            self.at(self.now.plus_ms(200), Event::TwinDue);
            return;
        }
        let won = self.membership.as_ref().is_some_and(|(_, m)| admitted(m));
        let off = if won { original } else { twin };
        self.counts.add(if won { "twin_admitted" } else { "twin_ended" });
        self.stop(off, true);
        self.hosts[off].retired = true;
    }

    /// A second machine starts with a copy of a member's disk. Until both are
    /// noticed either may speak for the disk, and what one of them acknowledges
    /// the other does not have: a cluster survives that only where they meet at
    /// once and nothing else happens.
    pub(super) fn start_copy(&mut self, ms: u64) {
        let copy = self.plan.hosts();
        let Some(id) = self.hosts.get(copy).filter(|h| !h.used).map(|h| h.id.clone()) else {
            return;
        };
        let Some(original) = (0..copy).find(|host| self.hosts[*host].id == id) else {
            return;
        };
        let well = |h: &super::Host| h.process.as_ref().is_some_and(|p| !p.paused && !p.stopping) || !h.used;
        let member =
            (self.membership.as_ref()).is_some_and(|(_, m)| m.admits(&id, self.hosts[original].disk.hard.incarnation));
        // The copy is at another address than the disk's node: two of them that
        // moved find each other only when somebody tells them.
        if self.hosts.iter().any(|h| h.moves > 0) {
            self.counts.add("harm_forgone");
            return;
        }
        // Of one voter, or two, the copy is a second writer.
        let three = self.membership.as_ref().is_some_and(|(_, m)| m.voters().count() > 2);
        let calm = member
            && three
            && !self.net.is_cut()
            && self.hosts.iter().all(well)
            && !self.any_ill()
            && self.membership_under_way().is_empty();
        if !calm {
            let again = Event::Fault(Fault::Copy { host: original, ms });
            self.at(self.now.plus_ms(100), again);
            return;
        }
        self.counts.add("disk_copied");
        self.net.heal();
        self.hosts.iter_mut().for_each(|machine| machine.armed = None);
        let image = self.hosts[original].disk.image();
        let incarnation = image.hard.incarnation;
        self.copied = Some(incarnation);
        self.hosts[original].amnesiac = Some(incarnation);
        self.hosts[copy].amnesiac = Some(incarnation);
        self.hosts[copy].disk = image;
        self.schedule_start(copy, 0);
        self.at(self.now.plus_ms(ms.max(self.plan.lease_ms())), Event::TwinDue);
    }

    /// A disk is put back to an old image of itself. Nothing on it tells of
    /// that: what its node acknowledged and voted since is unsaid. A cluster
    /// survives it where everybody else has all of that.
    pub(super) fn roll_back(&mut self, host: usize, image: super::Disk, down_ms: u64) {
        if self.healed || self.copied.is_some() {
            return;
        }
        let machine = &self.hosts[host];
        let now = &machine.disk;
        let (last, term) = (now.log.last(), now.hard.term);
        let same = image.hard.incarnation == now.hard.incarnation && image.hard.cluster == now.hard.cluster;
        let news = last.seq > image.log.last().seq || term > image.hard.term;
        let others = |m: &Membership| {
            m.voters().filter_map(|m| m.identity.as_ref()).filter(|(id, _)| *id != machine.id).all(|(id, n)| {
                self.host_named(id, *n).is_some_and(|other| {
                    let (other, disk) = (&self.hosts[other], &self.hosts[other].disk);
                    let stands = other.process.as_ref().is_some_and(|p| {
                        let part = p.node.status(other.clock.now(self.now)).part;
                        matches!(part, Part::Candidate | Part::PreCandidate)
                    });
                    disk.hard.incarnation == *n && disk.hard.term >= term && disk.log.holds(&last) && !stands
                })
            })
        };
        let settled = self.membership_under_way().is_empty();
        let safe = settled && self.membership.as_ref().is_some_and(|(_, m)| others(m));
        let fits = machine.process.is_some()
            && now.hard.cluster != ClusterId::NONE
            && image.hard.cluster != ClusterId::NONE
            && self.plan.seats > 1;
        // Who was the only voter then needs nobody's vote to write again, though
        // others know better (seed 190822159 of its day).
        let sole = |m: &Membership| m.quorum() < 2;
        let logged = image.log.entries.iter().filter(|e| e.kind == EntryKind::Config);
        let alone = image.data.membership.as_ref().is_some_and(|(_, m)| sole(m))
            || logged.filter_map(|e| decode_membership(e.payload.clone()).ok()).any(|m| sole(&m));
        if !same || !news || !fits || !safe || alone || !self.can_lose(host) {
            self.counts.add("harm_forgone");
            return;
        }
        self.stop(host, true);
        self.oracles.fence.rolled_back(image.hard.incarnation, image.hard.term);
        let machine = &mut self.hosts[host];
        machine.amnesiac = Some(image.hard.incarnation);
        let lost = std::mem::replace(&mut machine.disk, image);
        machine.graveyard.push(lost);
        self.wiped_at = Some(self.now);
        self.counts.add("disk_rolled_back");
        self.schedule_start(host, down_ms);
    }

    /// An entry in the log goes bad. Where it is found the whole log may go, so
    /// the others must be able to do without it.
    pub(super) fn rot(&mut self, target: Target, at_pm: u32, restart_ms: Option<u64>) {
        let Some(host) = self.resolve_running(target) else {
            return;
        };
        if !self.can_lose(host) || self.hosts[host].disk.rot(at_pm).is_none() {
            self.counts.add("harm_forgone");
            return;
        }
        self.counts.add("log_rotten");
        if let Some(ms) = restart_ms {
            self.stop(host, false);
            self.schedule_start(host, ms);
        }
    }

    /// Memberships in some log that are not known to be committed.
    pub(crate) fn membership_under_way(&self) -> Vec<Membership> {
        let committed = self.membership.as_ref().map_or(Seq(0), |(seq, _)| *seq);
        (self.hosts.iter().filter(|h| !h.retired))
            .flat_map(|h| h.disk.seen.entries.iter().rev().take_while(move |e| e.seq > committed))
            .filter(|e| e.kind == EntryKind::Config)
            .filter_map(|e| decode_membership(e.payload.clone()).ok())
            .collect()
    }

    /// The machine of a member: the one with that very disk, or else whoever
    /// bears the name and is not switched off.
    pub(crate) fn host_named(&self, id: &NodeId, incarnation: Incarnation) -> Option<usize> {
        let of_name = || (0..self.hosts.len()).filter(|h| self.hosts[*h].id == *id && !self.hosts[*h].retired);
        of_name().find(|h| self.hosts[*h].disk.hard.incarnation == incarnation).or_else(|| of_name().next())
    }
}
