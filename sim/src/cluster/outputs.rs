//! What a node's outputs cause.
//!
//! Decides nothing for the node: it carries out orders as a driver does, and
//! shows each to the oracles.

use super::{Cluster, DiskOp, Event, OpenGroup};
use crate::network::Frame;
use crate::oracle::change::{self, Standing};
use crate::oracle::mandate::Candidate;
use crate::oracle::promise::Counted;
use crate::oracle::{Verdict, speech};
use crate::report::Failure;
use crate::timeline::Said;
use crate::version;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::ids::{Seq, Term};
use base_ha_core::io::{AdminOutcome, Event as NodeEvent, Output, Part, Record, Route, StepDownReason};
use base_ha_core::member::Membership;
use base_ha_core::message::{AppendResult, Envelope, Message};
use base_ha_core::planted;
use base_ha_core::position::Position;
use base_ha_core::wire::{decode_frame, decode_membership, encode_frame};

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
                    Some(group) if group.id == id => {
                        group.logged = Some((first, last));
                        if planted!(self.plan, AnswerBeforeCommit) {
                            let group = group.clone();
                            return self.answer(&group);
                        }
                    }
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
                let group = self.close_group(host, id)?;
                group.requests.into_iter().try_for_each(|request| self.write_refused(request))
            }
            Output::ProposalUnknown { id } => {
                self.counts.add("outcome_unknown");
                let group = self.close_group(host, id)?;
                self.unanswered(Some(group), []);
                Ok(())
            }
            Output::Progress { .. } => Ok(()),
            Output::ReadReady { id, at } => self.read_ready(host, id, at),
            Output::ReadRefused { id, .. } => {
                self.read_refused(host, id);
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
                let machine = &mut self.hosts[host];
                let now = machine.clock.now(self.now).mono;
                if let Some(process) = &mut machine.process {
                    process.incarnation = hard.incarnation;
                    process.term = hard.term;
                    let votes = hard.voted_for.is_some() && hard.voted_for != machine.disk.hard.voted_for;
                    let verdict = if votes { process.ills.votes(now, machine.config.lease) } else { Ok(()) };
                    self.verdict("R8 a name that runs twice does not vote", verdict)?;
                }
            }
            Record::Append { keep: Some(keep), .. } => {
                let known = self.hosts[host].process.as_ref().map_or(Seq(0), |p| p.ordered);
                self.counts.add("log_truncated");
                self.verdict("O4 a committed entry is never dropped", self.oracles.prefix.truncated(*keep, known))?;
            }
            Record::Append { keep: None, .. } => {}
        }
        if let Record::Append { entries, .. } = &record {
            self.check_change(host, entries)?;
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
        let copies = self.net.send(now_us, frame, &mut self.counts);
        self.record(|at, line| {
            if copies.is_empty() {
                line.said(at, None, said(host, to, envelope));
            }
            for (delay_us, copy) in &copies {
                // A late replay says something else than what is sent now.
                let known = decode_frame(copy.bytes.clone());
                let said = match &known {
                    Ok(envelope) => said(copy.from, copy.to, envelope),
                    Err(error) => Said { detail: format!("damaged: {error:?}"), ..said(host, to, envelope) },
                };
                line.said(at, Some(at.plus_us(*delay_us)), said);
            }
        });
        for (delay_us, copy) in copies {
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
                self.verdict("O1 one writer per term", verdict)?;
                self.check_said(host, append.commit)
            }
            Message::PreVoted { term, granted: true } => {
                self.oracles.mandate.pre_voted(*term, &self.hosts[to].id, who);
                Ok(())
            }
            Message::Vote { transfer, .. } => self.check_candidacy(host, term, *transfer),
            Message::TimeoutNow => self.check_handover(host, to, term),
            Message::Appended(appended) => match appended.result {
                AppendResult::Durable { matched } => {
                    self.oracles.backing.acked(term, who, matched);
                    self.verdict(
                        "R11 an acked entry is durable",
                        speech::ack_is_durable(&self.hosts[host].disk.log, matched),
                    )
                }
                AppendResult::Mismatch { .. } | AppendResult::Partial { .. } => Ok(()),
            },
            Message::Voted { granted: true } => self.check_vote(host, to, term, envelope),
            Message::Ping(_)
            | Message::Pong { .. }
            | Message::PreVote { .. }
            | Message::PreVoted { granted: false, .. }
            | Message::Voted { granted: false }
            | Message::AskTransfer
            | Message::NeedSnapshot { .. }
            | Message::Refused(_) => Ok(()),
        }
    }

    fn check_vote(&mut self, host: usize, to: usize, term: Term, envelope: &Envelope) -> Result<(), Failure> {
        let candidate = self.hosts[to].id.clone();
        let who = envelope.incarnation;
        self.counts.add("vote_granted");
        self.oracles.mandate.voted(term, &candidate, who);
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
        let writing = process.writing.is_some();
        if !writing && through > process.told {
            return complain(format!(
                "host {host}: {through} is applied, its writers have proven {} to be committed",
                process.told
            ));
        }
        let term = self.hosts[host].disk.hard.term;
        let last = &entries[entries.len() - 1];
        if writing && through > process.told && last.term != term {
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
            if news {
                let verdict = self.oracles.stamps.committed(entry);
                self.verdict("R9 stamps rise along the log", verdict)?;
            }
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
        if process.writing.is_none() {
            // What a follower is told is compared with what was proven to it.
            return Ok(());
        }
        let status = process.node.status(machine.clock.now(self.now));
        if status.part != Part::Writer || last.term != status.pin.term {
            return Ok(());
        }
        self.verdict("O8 a commit is on a quorum of disks", self.on_a_quorum(&last.position(), &status.membership))
    }

    fn on_a_quorum(&self, at: &Position, membership: &Membership) -> Verdict {
        let voters = membership.voters().filter_map(|m| m.identity.as_ref());
        let disks = voters.filter_map(|(id, incarnation)| {
            (self.hosts.iter().filter(|h| h.id == *id))
                .flat_map(|owner| std::iter::once(&owner.disk).chain(&owner.graveyard))
                .filter(|disk| disk.hard.incarnation == *incarnation)
                .map(|disk| &disk.log)
                // Of a disk that was put back, what it is now may hold the entry
                // and the longer log that it was may not (seed 219043436).
                .find(|log| log.holds(at))
        });
        speech::commit_is_on_a_quorum(at, membership.quorum(), disks)
    }

    /// The same when it tells others, which may be before it applies it: worth
    /// the disks of the membership in force, or of the one before it, by which
    /// it may have been counted.
    fn check_said(&mut self, host: usize, commit: Seq) -> Result<(), Failure> {
        let machine = &mut self.hosts[host];
        let Some(process) = machine.process.as_mut().filter(|p| commit > p.said) else {
            return Ok(());
        };
        process.said = commit;
        let term = process.term;
        let Some(at) = machine.disk.seen.position(commit).filter(|at| at.term == term) else {
            return Ok(());
        };
        let verdict = match &self.hosts[host].process {
            Some(process) => self.on_a_quorum(&at, process.node.membership()),
            None => Ok(()),
        };
        let before = || self.membership.as_ref().map(|(_, before)| self.on_a_quorum(&at, before));
        let verdict = verdict.or_else(|detail| before().unwrap_or(Err(detail)));
        self.verdict("O8 a commit is on a quorum of disks", verdict)?;
        let Some(process) = &self.hosts[host].process else {
            return Ok(());
        };
        let own = process.incarnation;
        let acks = &self.oracles.backing;
        let verdict = acks.uphold(&at, own, process.node.membership());
        let before = || self.membership.as_ref().map(|(_, before)| acks.uphold(&at, own, before));
        let verdict = verdict.or_else(|detail| before().unwrap_or(Err(detail)));
        self.verdict("R3 a commit rests on acks of its own term", verdict)
    }

    /// A client is told that `at` is done.
    pub(super) fn check_ack(&self, at: &Position) -> Result<(), Failure> {
        // Known to be committed: the writer's own order to apply was looked at.
        if self.oracles.prefix.last() >= at.seq {
            return Ok(());
        }
        Err(self.failure("O8 an ack is worth a commit", format!("{} is acknowledged, nobody committed it", at.seq)))
    }

    /// Memberships follow each other one by one.
    fn check_change(&self, host: usize, entries: &[Entry]) -> Result<(), Failure> {
        let Some(change) = entries.iter().find(|e| e.kind == EntryKind::Config) else {
            return Ok(());
        };
        let machine = &self.hosts[host];
        let Some(process) = machine.process.as_ref().filter(|p| p.writing.is_some()) else {
            return Ok(());
        };
        let next = decode_membership(change.payload.clone());
        let next = next.map_err(|e| self.failure("a membership decodes", e.to_string()))?;
        let log = &machine.disk.seen;
        let logged = log.entries.iter().rev().find(|e| e.kind == EntryKind::Config);
        let logged = logged.and_then(|e| Some((e.seq, decode_membership(e.payload.clone()).ok()?)));
        let applied = machine.disk.data.membership.as_ref();
        let before = logged.as_ref().map(|(seq, m)| (*seq, m)).or(applied.map(|(seq, m)| (*seq, &**m)));
        let commit = process.node.status(machine.clock.now(self.now)).commit;
        let commit_term = log.position(commit).map(|p| p.term);
        let standing = Standing { term: change.term, commit, commit_term, before };
        self.verdict("R10 one membership change at a time", change::is_one_step(&standing, &next))
    }

    fn check_candidacy(&self, host: usize, term: Term, called: bool) -> Result<(), Failure> {
        let machine = &self.hosts[host];
        let Some(process) = &machine.process else {
            return Ok(());
        };
        let who =
            Candidate { id: &machine.id, incarnation: process.incarnation, membership: process.node.membership() };
        self.verdict("R2 a candidacy follows a pre-vote or a call", self.oracles.mandate.stands(term, who, called))
    }

    fn check_handover(&mut self, host: usize, to: usize, term: Term) -> Result<(), Failure> {
        let (machine, heir) = (&self.hosts[host], &self.hosts[to]);
        self.oracles.mandate.called(term, &heir.id);
        let Some(process) = &machine.process else {
            return Ok(());
        };
        let known = process.node.membership().admits(&heir.id, heir.disk.hard.incarnation) && heir.amnesiac.is_none();
        if !known {
            // Its disk was lost meanwhile.
            return Ok(());
        }
        // What is committed is answered, by whoever writes next if need be.
        let committed = self.oracles.prefix.last();
        let open = process.group.as_ref().and_then(|g| g.logged).is_some_and(|(_, last)| last.seq > committed);
        let verdict = self.oracles.handover.called(host, term, &machine.disk.seen.last(), open, &heir.disk.log);
        self.verdict("R6 a successor has everything", verdict)
    }

    fn check_election(&self, host: usize, term: Term) -> Result<(), Failure> {
        let machine = &self.hosts[host];
        let Some(process) = &machine.process else {
            return Ok(());
        };
        let who =
            Candidate { id: &machine.id, incarnation: process.incarnation, membership: process.node.membership() };
        self.verdict("O11 a writer has a quorum's votes", self.oracles.mandate.won(term, who))?;
        let own = speech::vote_is_durable(&machine.disk.hard, term, &machine.id);
        self.verdict("R2 a candidate's own vote is durable before it counts", own)
    }

    fn node_event(&mut self, host: usize, event: &NodeEvent) -> Result<(), Failure> {
        self.record(|at, line| line.note(at, Some(host), "event", format!("{event:?}")));
        let machine = &mut self.hosts[host];
        let now = machine.clock.now(self.now).mono;
        if let (NodeEvent::DuplicateId { id }, Some(process)) = (event, &mut machine.process)
            && *id == machine.id
        {
            process.ills.runs_twice(now);
        }
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
                self.check_election(host, *term)?;
                if self.last_writer.is_some_and(|last| last != who) {
                    self.counts.add("failover");
                }
                self.last_writer = Some(who);
                if let Some(process) = &mut self.hosts[host].process {
                    process.writing = Some(now);
                }
            }
            NodeEvent::SteppedDown { reason, .. } => {
                self.counts.add(match reason {
                    StepDownReason::QuorumLost => "lease_lost",
                    StepDownReason::HandedOver => "handed_over",
                    StepDownReason::SlowDisk => "slow_writer_stepped_down",
                    _ => "stepped_down",
                });
                if let Some(process) = &mut self.hosts[host].process {
                    process.writing = None;
                    process.found_slow |= *reason == StepDownReason::SlowDisk;
                }
            }
            NodeEvent::FrameRefused { .. } => self.counts.add("frame_refused_by_node"),
            NodeEvent::SnapshotNeeded { .. } => self.counts.add("snapshot_needed"),
            NodeEvent::TransferFailed { .. } => self.counts.add("transfer_failed"),
            NodeEvent::TransferStarted { .. } => self.counts.add("transfer_started"),
            NodeEvent::SlowDisk { .. } => {
                self.counts.add("disk_slow_noticed");
                if let Some(process) = &mut self.hosts[host].process {
                    process.found_slow = true;
                }
            }
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

    fn close_group(&mut self, host: usize, id: u64) -> Result<OpenGroup, Failure> {
        match self.hosts[host].process.as_mut().and_then(|p| p.group.take()) {
            Some(group) if group.id == id => Ok(group),
            other => {
                Err(self.failure("a proposal is answered once", format!("host {host}: {id} ends, open is {other:?}")))
            }
        }
    }
}

/// What a frame is, for who looks at the run.
fn said(from: usize, to: usize, envelope: &Envelope) -> Said {
    let (kind, detail) = match &envelope.message {
        Message::Ping(ping) => ("Ping", format!("log {}, applied {}", ping.last.seq, ping.applied)),
        Message::Pong { .. } => ("Pong", String::new()),
        Message::Append(append) => {
            let after = append.prev.seq;
            let entries = append.entries.len();
            let renews = if append.renews { "" } else { ", renews nothing" };
            ("Append", format!("{entries} entries after {after}, commit {}{renews}", append.commit))
        }
        Message::Appended(appended) => ("Appended", format!("{:?}, applied {}", appended.result, appended.applied)),
        Message::PreVote { last, term } => {
            ("PreVote", format!("for term {term}, log {} of term {}", last.seq, last.term))
        }
        Message::PreVoted { term, granted } => ("PreVoted", format!("for term {term}: {granted}")),
        Message::Vote { last, transfer } => {
            let called = if *transfer { ", called by the writer" } else { "" };
            ("Vote", format!("log {} of term {}{called}", last.seq, last.term))
        }
        Message::Voted { granted } => ("Voted", format!("{granted}")),
        Message::AskTransfer => ("AskTransfer", String::new()),
        Message::TimeoutNow => ("TimeoutNow", String::new()),
        Message::NeedSnapshot { at_least, from } => {
            ("NeedSnapshot", format!("of {} at least, from {from}", at_least.seq))
        }
        Message::Refused(refused) => ("Refused", format!("{refused:?}")),
    };
    Said { at: 0, from, to, arrives: None, kind, term: envelope.term.0, detail }
}
