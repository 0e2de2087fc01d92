//! What a node's outputs cause.
//!
//! Decides nothing for the node: it carries out orders as a driver does, and
//! shows each to the oracles.

use super::{Cluster, DiskOp, Event, OpenGroup};
use crate::network::Frame;
use crate::oracle::promise::Counted;
use crate::oracle::speech;
use crate::report::Failure;
use crate::version;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::ids::{Seq, Term};
use base_ha_core::io::{AdminOutcome, Event as NodeEvent, Output, Part, Record, Route, StepDownReason};
use base_ha_core::message::{AppendResult, Envelope, Message};
use base_ha_core::wire::encode_frame;

impl Cluster {
    /// Carries out one output.
    pub(super) fn output(&mut self, host: usize, output: Output) -> Result<(), Failure> {
        let Some(process) = &mut self.hosts[host].process else {
            return Ok(());
        };
        let boot = process.boot;
        match output {
            Output::Persist { id, record } => self.persist(host, id, record),
            Output::Send { route, envelope } => self.send(host, &route, &envelope),
            Output::Apply { from, through, entries } => self.order_apply(host, from, through, &entries),
            Output::LoadLog { id, from, through, bytes_max } => self.load(host, id, from, through, bytes_max),
            Output::FetchSnapshot { from, at_least, reseed } => {
                self.fetch(host, from, at_least.seq, reseed);
                Ok(())
            }
            Output::Proposed { id, first, last } => {
                match &mut process.group {
                    Some(group) if group.id == id => group.logged = Some((first, last)),
                    Some(_) | None => {
                        return Err(self.failure(
                            "a proposal is answered once",
                            format!("host {host}: proposal {id} is not the open one"),
                        ));
                    }
                }
                Ok(())
            }
            Output::ProposalRefused { id, .. } => {
                self.counts.add("proposal_refused");
                self.close_group(host, id)
            }
            Output::ProposalUnknown { id } => {
                self.counts.add("outcome_unknown");
                self.close_group(host, id)
            }
            Output::Progress { .. } => Ok(()),
            Output::ReadReady { id, at } => {
                self.counts.add("read_linearizable");
                let verdict = self.oracles.reads.ready(host, id, at);
                if !self.rates_in_bound {
                    // A writer with a lease answers at once: such a read is as
                    // current as clocks are within the bound (R4).
                    return Ok(());
                }
                self.verdict("a linearizable read is current", verdict)
            }
            Output::ReadRefused { id, .. } => {
                self.oracles.reads.refused(host, id);
                Ok(())
            }
            Output::AdminDone { id, outcome } => {
                let order = process.orders.remove(&id);
                self.counts.add("admin_answered");
                if let (Some(order), AdminOutcome::Done) = (order, outcome) {
                    self.counts.add("admin_done");
                    self.counts.add(order);
                }
                Ok(())
            }
            Output::Pin(pin) => {
                process.pin = pin;
                Ok(())
            }
            Output::Event(event) => self.node_event(host, &event),
            Output::Stopped => {
                if process.boot == boot && process.stopping {
                    self.counts.add("shutdown_graceful");
                }
                let again = self.hosts[host].restart_ms;
                self.stop(host, false);
                self.schedule_start(host, again);
                Ok(())
            }
        }
    }

    fn persist(&mut self, host: usize, id: u64, record: Record) -> Result<(), Failure> {
        match &record {
            Record::HardState(hard) => {
                if let Some(process) = &mut self.hosts[host].process {
                    process.incarnation = hard.incarnation;
                }
            }
            Record::Append { keep: Some(keep), .. } => {
                let known = self.hosts[host].process.as_ref().map_or(Seq(0), |p| p.ordered);
                self.counts.add("log_truncated");
                self.verdict("O4 a committed entry is never dropped", self.oracles.prefix.truncated(*keep, known))?;
            }
            Record::Append { keep: None, .. } => {}
        }
        self.write_out(host, DiskOp::Record { id, record });
        self.record_requested(host);
        Ok(())
    }

    fn send(&mut self, host: usize, route: &Route, envelope: &Envelope) -> Result<(), Failure> {
        let (to, only_boot) = match route {
            Route::Url(url) => match self.hosts.iter().position(|h| h.url == *url) {
                Some(to) => (to, None),
                None => {
                    self.counts.add("frame_to_nowhere");
                    return Ok(());
                }
            },
            Route::Conn(conn) => {
                let (to, boot) = self.conns[*conn as usize];
                (to, Some(boot))
            }
        };
        self.check_speech(host, to, envelope)?;
        if only_boot.is_some_and(|boot| self.process_of(to, boot).is_none()) {
            // The connection's other end is gone.
            self.counts.add("conn_gone");
            return Ok(());
        }
        let Some(process) = &self.hosts[host].process else {
            return Ok(());
        };
        let mut bytes = encode_frame(envelope);
        if self.hosts[host].writes_next {
            bytes = version::raise(&bytes);
        }
        let frame = Frame { from: host, boot: process.boot, to, bytes };
        let now_us = self.now.0 / 1000;
        for (delay_us, copy) in self.net.send(now_us, frame, &mut self.counts) {
            self.at(self.now.plus_us(delay_us), Event::Arrive(copy));
        }
        Ok(())
    }

    /// Everything that a node says passes here.
    fn check_speech(&mut self, host: usize, to: usize, envelope: &Envelope) -> Result<(), Failure> {
        let (who, term) = (envelope.incarnation, envelope.term);
        let disk = &self.hosts[host].disk;
        self.verdict(
            "R2 the term is durable before it is spoken under",
            speech::term_is_durable(&disk.hard, who, term),
        )?;
        if self.copied != Some(who) {
            let verdict = self.oracles.fence.spoke(who, term);
            self.verdict("O2 terms never fall", verdict)?;
        }
        match &envelope.message {
            Message::Append(append) => {
                if append.part.is_some() {
                    self.counts.add("entry_in_parts");
                }
                let verdict = self.oracles.writer.acted(term, who);
                self.verdict("O1 one writer per term", verdict)
            }
            Message::Appended(appended) => match appended.result {
                AppendResult::Durable { matched } => self.verdict(
                    "R11 an acked entry is durable",
                    speech::ack_is_durable(&self.hosts[host].disk.log, matched),
                ),
                AppendResult::Mismatch { .. } | AppendResult::Partial { .. } => Ok(()),
            },
            Message::Voted { granted: true } => self.check_vote(host, to, term, envelope),
            Message::Ping(_)
            | Message::Pong { .. }
            | Message::PreVote { .. }
            | Message::PreVoted { .. }
            | Message::Vote { .. }
            | Message::Voted { granted: false }
            | Message::AskTransfer
            | Message::TimeoutNow
            | Message::NeedSnapshot { .. }
            | Message::Refused(_) => Ok(()),
        }
    }

    fn check_vote(&mut self, host: usize, to: usize, term: Term, envelope: &Envelope) -> Result<(), Failure> {
        let candidate = self.hosts[to].id.clone();
        let who = envelope.incarnation;
        self.counts.add("vote_granted");
        let verdict = self.oracles.fence.voted(who, term, &candidate);
        self.verdict("O11 one vote per disk and term", verdict)?;
        self.verdict(
            "R2 a vote is durable before it is given",
            speech::vote_is_durable(&self.hosts[host].disk.hard, term, &candidate),
        )?;
        if !self.rates_in_bound {
            return Ok(());
        }
        for other in (0..self.hosts.len()).filter(|other| *other != to && *other != host) {
            let Some(lease) = self.oracles.permit.of(other) else {
                continue;
            };
            let machine = &self.hosts[other];
            let Some(process) = &machine.process else {
                continue;
            };
            let now = machine.clock.now(self.now);
            let membership = process.node.status(now).membership;
            let counted = Counted {
                others: (membership.voters())
                    .filter_map(|m| m.identity.as_ref())
                    .filter(|(id, _)| *id != machine.id)
                    .map(|(_, incarnation)| *incarnation)
                    .collect(),
                quorum: membership.quorum(),
            };
            let verdict = (self.oracles.promise).granted(other, lease, now.mono, who, &counted);
            self.verdict("R1 a vote waits for the lease it upholds", verdict)?;
        }
        Ok(())
    }

    fn order_apply(&mut self, host: usize, from: Seq, through: Seq, given: &[Entry]) -> Result<(), Failure> {
        let machine = &self.hosts[host];
        let Some(process) = &machine.process else {
            return Ok(());
        };
        let boot = process.boot;
        let complain = |detail: String| Err(self.failure("O4 what is applied", detail));
        if from.0 != process.ordered.0 + 1 || through < from {
            return complain(format!("host {host}: {from}..={through} is ordered after {}", process.ordered));
        }
        if machine.disk.log.last().seq < through {
            return complain(format!(
                "host {host}: {through} is to be applied, its disk ends at {}",
                machine.disk.log.last().seq
            ));
        }
        let mut entries = Vec::new();
        for seq in from.0..=through.0 {
            match machine.disk.seen.get(Seq(seq)) {
                Some(entry) => entries.push(entry.clone()),
                None => return complain(format!("host {host}: {seq} is not in its log")),
            }
        }
        let in_memory = given.len();
        let read_through = Seq(through.0.saturating_sub(in_memory as u64));
        if machine.disk.unreadable(from, read_through) {
            self.counts.add("rot_found_at_read");
            self.crash(host, false, 10);
            return Ok(());
        }
        if in_memory > entries.len() || given != &entries[entries.len() - in_memory..] {
            return complain(format!("host {host}: what is given for {from}..={through} is not in its log"));
        }
        if let Some(OpenGroup { logged: Some((first, last)), .. }) = &process.group {
            for entry in &entries {
                let foreign = entry.seq < *first && entry.kind == EntryKind::Data;
                let replaced = entry.seq == last.seq && entry.hash != last.hash;
                if foreign || replaced {
                    return complain(format!(
                        "host {host}: {} is to be applied while the group {first}..={} is open",
                        entry.seq, last.seq
                    ));
                }
            }
        }
        if !process.writing && through > process.told {
            return complain(format!(
                "host {host}: {through} is applied, its writers have proven {} to be committed",
                process.told
            ));
        }
        let term = self.hosts[host].disk.hard.term;
        let last = &entries[entries.len() - 1];
        if process.writing && through > process.told && last.term != term {
            // Raft 5.4.2: such an entry may still be replaced, however many
            // have it.
            return complain(format!(
                "host {host}: {through} of term {} is committed by counting under term {term}",
                last.term
            ));
        }
        self.check_commit(host, &entries[entries.len() - 1])?;
        for entry in &entries {
            let news = self.oracles.prefix.committed(entry);
            let news = news.map_err(|d| self.failure("O4 committed logs are equal", d))?;
            if news && entry.kind == EntryKind::Config {
                let later = self.membership.as_ref().is_none_or(|(at, _)| *at < entry.seq);
                if let (true, Some(membership)) = (later, &self.contents.of(entry).membership) {
                    self.membership = Some((entry.seq, membership.clone()));
                }
            }
        }
        let Some(process) = &mut self.hosts[host].process else {
            return Ok(());
        };
        process.ordered = through;
        process.told = process.told.max(through);
        process.queue.extend(entries);
        if !process.applying {
            process.applying = true;
            let us = self.disk_prng.within(20..=2000);
            self.at(self.now.plus_us(us), Event::ApplyNext { host, boot });
        }
        Ok(())
    }

    /// A writer's word that something is committed is worth a quorum's disks.
    fn check_commit(&self, host: usize, last: &Entry) -> Result<(), Failure> {
        let machine = &self.hosts[host];
        let Some(process) = &machine.process else {
            return Ok(());
        };
        if !process.writing {
            // What a follower is told is compared with what was proven to it.
            return Ok(());
        }
        let status = process.node.status(machine.clock.now(self.now));
        if status.part != Part::Writer || last.term != status.pin.term {
            return Ok(());
        }
        let voters = status.membership.voters().filter_map(|m| m.identity.as_ref());
        let disks = voters.filter_map(|(id, incarnation)| {
            (self.hosts.iter().filter(|h| h.id == *id))
                .flat_map(|owner| std::iter::once(&owner.disk).chain(&owner.graveyard))
                .filter(|disk| disk.hard.incarnation == *incarnation)
                .map(|disk| &disk.log)
                .max_by_key(|log| log.last().seq)
        });
        self.verdict(
            "O8 a commit is on a quorum of disks",
            speech::commit_is_on_a_quorum(&last.position(), status.membership.quorum(), disks),
        )
    }

    fn node_event(&mut self, host: usize, event: &NodeEvent) -> Result<(), Failure> {
        let machine = &self.hosts[host];
        let Some(process) = &machine.process else {
            return Ok(());
        };
        match event {
            NodeEvent::BecameWriter { term } => {
                let who = process.incarnation;
                self.verdict(
                    "O3 what was acknowledged survives",
                    self.oracles.survival.became_writer(*term, &machine.disk.seen),
                )?;
                let verdict = self.oracles.writer.acted(*term, who);
                self.verdict("O1 one writer per term", verdict)?;
                if self.last_writer.is_some_and(|last| last != who) {
                    self.counts.add("failover");
                }
                self.last_writer = Some(who);
                if let Some(process) = &mut self.hosts[host].process {
                    process.writing = true;
                }
            }
            NodeEvent::SteppedDown { reason, .. } => {
                self.counts.add("stepped_down");
                if *reason == StepDownReason::SlowDisk {
                    self.counts.add("slow_writer_stepped_down");
                }
                if let Some(process) = &mut self.hosts[host].process {
                    process.writing = false;
                }
            }
            NodeEvent::FrameRefused { .. } => self.counts.add("frame_refused_by_node"),
            NodeEvent::SnapshotNeeded { .. } => self.counts.add("snapshot_needed"),
            NodeEvent::TransferFailed { .. } => self.counts.add("transfer_failed"),
            NodeEvent::TransferStarted { .. } => self.counts.add("transfer_started"),
            NodeEvent::SlowDisk { .. } => self.counts.add("disk_slow_noticed"),
            NodeEvent::ClockSkew { .. } => self.counts.add("clock_skew_seen"),
            NodeEvent::Joined { .. } => self.counts.add("joined"),
            NodeEvent::MembershipChanged { .. } => {
                self.counts.add("membership_changed");
                if self.net.is_cut() {
                    self.counts.add("membership_changed_beside_cuts");
                }
            }
            NodeEvent::Diverged { node, at } => {
                if !self.harmed.contains(node) {
                    return Err(self
                        .failure("equal data is never called different", format!("{node} is said to differ at {at}")));
                }
                self.counts.add("damage_noticed");
            }
            NodeEvent::DivergedWithoutMajority { .. } if !self.harmed.is_empty() => {
                self.counts.add("damage_noticed_without_majority");
            }
            NodeEvent::DivergedWithoutMajority { at } => {
                return Err(self
                    .failure("equal data is never called different", format!("contents are said to differ at {at}")));
            }
            NodeEvent::DuplicateId { id }
                if self.hosts.get(self.plan.hosts()).is_some_and(|t| t.used && t.id == *id) =>
            {
                self.counts.add("twin_noticed");
            }
            NodeEvent::DuplicateId { id } => {
                return Err(self.failure("one process is never taken for two", format!("{id} is said to run twice")));
            }
            // Until its log has come as far as its data it is found out again
            // at each start.
            NodeEvent::Amnesia { .. }
                if machine.amnesiac == Some(machine.disk.hard.incarnation)
                    || machine.amnesiac.is_some() && machine.disk.log.last().seq < machine.disk.data.applied.seq =>
            {
                self.hosts[host].amnesiac = Some(self.hosts[host].disk.hard.incarnation);
                self.counts.add("amnesia_noticed");
            }
            NodeEvent::Amnesia { .. } => {
                return Err(self
                    .failure("a crash is never taken for a lost disk", format!("host {host} took a new incarnation")));
            }
            NodeEvent::BecameFollower { .. }
            | NodeEvent::BecamePreCandidate { .. }
            | NodeEvent::BecameCandidate { .. }
            | NodeEvent::LogTruncated { .. }
            | NodeEvent::PeerUp { .. }
            | NodeEvent::SeatsDiffer { .. } => {}
        }
        Ok(())
    }

    fn close_group(&mut self, host: usize, id: u64) -> Result<(), Failure> {
        let Some(process) = &mut self.hosts[host].process else {
            return Ok(());
        };
        match process.group.take() {
            Some(group) if group.id == id => Ok(()),
            other => {
                Err(self.failure("a proposal is answered once", format!("host {host}: {id} ends, open is {other:?}")))
            }
        }
    }
}
