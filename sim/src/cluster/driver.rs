//! What a driver does by itself: it applies, reads and trims the log, and
//! fetches snapshots.
//!
//! Decides how long each takes.

use super::{Cluster, DiskOp, Event, OpenGroup};
use crate::data::Data;
use crate::report::Failure;
use base_ha_core::ids::{Seq, Url};
use base_ha_core::io::{Input, LoadId};
use base_ha_core::planted;
use base_ha_core::position::Position;

impl Cluster {
    /// The store applies some of what was ordered and says so.
    pub(super) fn apply_next(&mut self, host: usize, boot: u64) -> Result<(), Failure> {
        match self.process_of(host, boot) {
            None => return Ok(()),
            Some(process) if process.paused || process.halted => {
                // The store's thread stands still with the others.
                self.at(self.now.plus_ms(5), Event::ApplyNext { host, boot });
                return Ok(());
            }
            Some(_) => {}
        }
        let batch = self.disk_prng.within(1..=8);
        for _ in 0..batch {
            let machine = &mut self.hosts[host];
            let Some(entry) = machine.process.as_mut().and_then(|p| p.queue.pop_front()) else {
                break;
            };
            let applied = machine.disk.data.applied;
            let content = self.contents.of(&entry);
            let verdict = self.oracles.order.applied(&applied, &entry, content.request);
            self.verdict("O5 applied once and in order", verdict)?;
            if let (Some(request), Some((register, value))) = (content.request, content.write) {
                self.oracles.sessions.applied(register, entry.seq, value);
                let verdict = self.oracles.outcome.applied(request, entry.seq);
                self.verdict("O9 an answer means what it says", verdict)?;
            }
            let machine = &mut self.hosts[host];
            machine.disk.apply(&entry, &content);
            if !machine.disk.data.damaged {
                let verdict = self.oracles.content.reached(entry.seq, machine.disk.data.content);
                self.verdict("O6 equal positions, equal content", verdict)?;
            }
            self.commit_group(host, &entry.position())?;
        }
        let machine = &mut self.hosts[host];
        let data = &machine.disk.data;
        let (position, content) = (data.applied, data.content);
        let Some(process) = &mut machine.process else {
            return Ok(());
        };
        process.applying = !process.queue.is_empty();
        if process.applying {
            let us = self.disk_prng.within(20..=1000);
            self.at(self.now.plus_us(us), Event::ApplyNext { host, boot });
        }
        self.answer_waiting(host)?;
        self.give(host, boot, Input::Applied { position, content })
    }

    /// The open group's last entry is applied: its transaction is committed,
    /// its clients are told.
    fn commit_group(&mut self, host: usize, at: &Position) -> Result<(), Failure> {
        let Some(process) = &mut self.hosts[host].process else {
            return Ok(());
        };
        let whole = process.group.as_ref().and_then(|g| g.logged).is_some_and(|(_, last)| last == *at);
        match process.group.take_if(|_| whole) {
            Some(group) => self.answer(&group),
            None => Ok(()),
        }
    }

    /// The clients of a group are told that it is done.
    pub(super) fn answer(&mut self, group: &OpenGroup) -> Result<(), Failure> {
        let Some((first, last)) = group.logged else {
            return Ok(());
        };
        self.counts.add("ack");
        self.record(|at, line| {
            line.note(
                at,
                None,
                "ack",
                format!("{} requests are acknowledged, through {}", group.requests.len(), last.seq),
            );
        });
        self.oracles.survival.acked(last);
        for (n, request) in group.requests.iter().enumerate() {
            self.write_done(*request, Seq(first.0 + n as u64), false)?;
        }
        self.check_ack(&last)
    }

    /// Reads entries from the log.
    pub(super) fn load(
        &mut self,
        host: usize,
        id: LoadId,
        from: Seq,
        through: Seq,
        bytes_max: usize,
    ) -> Result<(), Failure> {
        if self.hosts[host].disk.unreadable(from, through) {
            // Where data.db has it all, that part of the log is given up;
            // otherwise the process cannot stand by what it acknowledged.
            let disk = &mut self.hosts[host].disk;
            let safe = disk.checkpointed().min(disk.log.last().seq);
            let trimmed = disk.trim(safe).then_some(disk.log.base);
            if disk.unreadable(from, through) {
                self.counts.add("rot_found_at_read");
                self.crash(host, false, 10);
                return Ok(());
            }
            self.counts.add("rot_given_up");
            if let (Some(base), Some(process)) = (trimmed, &self.hosts[host].process) {
                let (boot, first) = (process.boot, base.seq.next());
                self.at(self.now, Event::Give { host, boot, input: Box::new(Input::LogTrimmed { first, base }) });
            }
        }
        let machine = &self.hosts[host];
        let Some(process) = &machine.process else {
            return Ok(());
        };
        let boot = process.boot;
        let log = &machine.disk.seen;
        let prev = from.0.checked_sub(1).and_then(|seq| log.position(Seq(seq)));
        let mut entries = Vec::new();
        let mut bytes = 0;
        if prev.is_some() {
            for seq in from.0..=through.0 {
                let Some(entry) = log.get(Seq(seq)) else {
                    break;
                };
                bytes += entry.payload.len();
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(entry.clone());
            }
        }
        let input = Box::new(Input::LogLoaded { id, prev: prev.unwrap_or(log.base), entries });
        let us = self.disk_prng.within(20..=3000);
        self.at(self.now.plus_us(us), Event::Give { host, boot, input });
        Ok(())
    }

    /// Asks another machine for a snapshot.
    pub(super) fn fetch(&mut self, host: usize, from: Url, at_least: Seq, reseed: bool) {
        let Some(process) = &mut self.hosts[host].process else {
            return;
        };
        if process.fetching {
            self.counts.add("snapshot_asked_again");
            return;
        }
        process.fetching = true;
        let boot = process.boot;
        let ms = self.disk_prng.within(5..=400);
        self.at(self.now.plus_ms(ms), Event::Snapshot { host, boot, from, at_least, reseed });
    }

    /// A snapshot was received, or could not be.
    pub(super) fn snapshot_arrives(
        &mut self,
        host: usize,
        boot: u64,
        from: &Url,
        at_least: Seq,
        reseed: bool,
    ) -> Result<(), Failure> {
        if self.process_of(host, boot).is_none() {
            return Ok(());
        }
        let data = self.snapshot_of(host, from, at_least);
        let machine = &self.hosts[host];
        // One that is older than what is here is of use only for a re-seed.
        let (seen, own) = (&machine.disk.seen, machine.disk.data.applied.seq);
        let data = data.filter(|d| match reseed {
            true => seen.position(d.applied.seq) == Some(d.applied),
            false => d.applied.seq > own,
        });
        let Some(mut data) = data else {
            return self.snapshot_failed(host, boot);
        };
        if planted!(self.hosts[host].config, SnapshotWithoutPosition) {
            data.applied = self.hosts[host].disk.data.applied;
        }
        let op = DiskOp::Install { data, log_reset: false, too_old: false };
        self.write_out(host, op);
        Ok(())
    }

    /// A snapshot could not be had, or was of no use.
    pub(super) fn snapshot_failed(&mut self, host: usize, boot: u64) -> Result<(), Failure> {
        if let Some(process) = &mut self.hosts[host].process {
            process.fetching = false;
        }
        self.counts.add("snapshot_failed");
        self.give(host, boot, Input::SnapshotFailed)
    }

    fn snapshot_of(&self, host: usize, from: &Url, at_least: Seq) -> Option<Data> {
        let source = self.hosts.iter().position(|h| h.url == *from)?;
        let up = self.hosts[source].process.as_ref().is_some_and(|p| !p.paused);
        let reachable = self.net.passes(host, source) && self.net.passes(source, host);
        let data = &self.hosts[source].disk.data;
        // A copy's hash is compared with what its rows say: a damaged one is
        // refused by whoever receives it.
        (up && reachable && !data.damaged && data.applied.seq >= at_least && data.membership.is_some())
            .then(|| data.clone())
    }

    /// A snapshot is in place and durable.
    pub(super) fn installed(&mut self, host: usize, boot: u64, data: &Data, log_reset: bool) -> Result<(), Failure> {
        self.counts.add("snapshot_installed");
        let Some(process) = &mut self.hosts[host].process else {
            return Ok(());
        };
        process.fetching = false;
        process.quarantined = false;
        process.halted = false;
        process.told = process.told.max(data.applied.seq);
        process.queue.clear();
        // What was committed and not yet applied is in the snapshot; its
        // transaction ends with the data that it was open on.
        let ended = process.group.as_ref().and_then(|g| g.logged).is_some_and(|(_, last)| last.seq <= data.applied.seq);
        let group = process.group.take_if(|_| ended);
        process.ordered = data.applied.seq;
        self.unanswered(group, []);
        self.answer_waiting(host)?;
        let Some((_, membership)) = &data.membership else {
            return Ok(());
        };
        let input = Input::SnapshotInstalled {
            position: data.applied,
            membership: membership.as_ref().clone(),
            content: data.content,
            hlc: data.hlc,
            log_reset,
        };
        self.give(host, boot, input)
    }

    /// Trims what the cluster no longer needs, as far as a checkpoint allows.
    pub(super) fn trim_check(&mut self, host: usize) -> Result<(), Failure> {
        let every = self.plan.workload.trim_every_ms;
        self.at(self.now.plus_ms(every), Event::TrimCheck { host });
        let machine = &mut self.hosts[host];
        let Some(process) = &machine.process else {
            return Ok(());
        };
        if process.paused {
            return Ok(());
        }
        let through = process.node.status(machine.clock.now(self.now)).trimmable;
        machine.disk.checkpoint();
        self.trim(host, through)
    }

    /// Trims the log to `through`, or to the last checkpoint if that is less.
    pub(super) fn trim(&mut self, host: usize, through: Seq) -> Result<(), Failure> {
        let machine = &mut self.hosts[host];
        let through = through.min(machine.disk.checkpointed()).min(machine.disk.log.last().seq);
        if machine.process.is_none() || !machine.disk.trim(through) {
            return Ok(());
        }
        self.counts.add("log_trimmed");
        let base = machine.disk.log.base;
        let first = base.seq.next();
        self.give_now(host, Input::LogTrimmed { first, base })
    }
}
