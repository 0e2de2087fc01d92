//! What is asked of whom, and when: groups of writes, reads, silence.
//!
//! Decides the moments and the machines. What a client asks for and makes of the
//! answer is in `clients`.

use crate::clients::{Clients, Request};
use crate::clock::TrueTime;
use crate::cluster::{Cluster, Event, OpenGroup};
use crate::plan::WorkloadPlan;
use crate::prng::Prng;
use crate::report::Failure;
use base_ha_core::changeset::TableShape;
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::Seq;
use base_ha_core::io::{CallId, Input, ProposalId};
use base_ha_core::planted;
use base_ha_core::wire::{ChangeSetWriter, ValueRef};
use bytes::Bytes;

/// The clients' state.
pub(crate) struct Workload {
    plan: WorkloadPlan,
    pub(crate) prng: Prng,
    capture: ChangeSetWriter,
    shape: TableShape,
    pub(crate) clients: Clients,
    next_proposal: ProposalId,
    next_call: CallId,
    silent: bool,
    /// What makes rows heavy.
    ballast: Vec<u8>,
}

impl Workload {
    /// Clients that have asked for nothing yet.
    pub(crate) fn new(plan: WorkloadPlan, prng: Prng) -> Self {
        Self {
            plan,
            prng,
            capture: ChangeSetWriter::new(),
            shape: TableShape {
                name: "t".into(),
                columns: vec!["value".into(), "register".into(), "noise".into(), "ballast".into()],
                key: vec![0],
                has_rowid: true,
            },
            clients: Clients::default(),
            next_proposal: 0,
            next_call: 0,
            silent: false,
            ballast: Vec::new(),
        }
    }

    /// A name for a call.
    pub(crate) fn next_call(&mut self) -> CallId {
        self.next_call += 1;
        self.next_call
    }

    /// Takes the name of a proposal.
    fn next_proposal(&mut self) -> ProposalId {
        self.next_proposal += 1;
        self.next_proposal
    }

    /// A request's change-set: it inserts a row that says which register it
    /// writes, and what.
    fn payload(&mut self, request: &Request) -> Bytes {
        let noise = self.prng.bits() as i64;
        let weight = self.prng.within(0..=self.plan.row_bytes_max) as usize;
        self.ballast.resize(weight, 0);
        let row = [
            ValueRef::Integer(request.value),
            ValueRef::Integer(request.register as i64),
            ValueRef::Integer(noise),
            ValueRef::Blob(&self.ballast),
        ];
        let table = self.capture.table(1, &self.shape);
        self.capture.push_insert(table, request.value, row);
        self.capture.finish(request.id(), Hlc::default(), "main").expect("a small change-set")
    }
}

impl Cluster {
    /// A client acts, and comes back later.
    pub(crate) fn client_acts(&mut self) -> Result<(), Failure> {
        if self.workload.silent {
            return Ok(());
        }
        let every = self.workload.plan.every_us;
        let next = self.workload.prng.within(1..=2 * every);
        self.at(self.now.plus_us(next), Event::Client);
        let any = self.workload.prng.index(self.hosts.len());
        let read = self.workload.prng.chance(self.workload.plan.read_pm);
        let stray = self.workload.prng.chance(100);
        let session = self.workload.prng.chance(400);
        self.forget_waiting();
        // Mostly the client knows who writes; at times it tries elsewhere.
        let host = match self.writer() {
            Some(host) if !stray => host,
            Some(_) | None => any,
        };
        match (read, session) {
            (true, true) => self.read_at(any, false),
            (true, false) => self.read_at(host, true),
            (false, _) => self.write_at(host),
        }
    }

    /// Runs one group at a machine, if it may write: the permit is asked for
    /// first, the entries are proposed after the execution, when the permit
    /// may be gone.
    fn write_at(&mut self, host: usize) -> Result<(), Failure> {
        let machine = &mut self.hosts[host];
        let now = machine.clock.now(self.now);
        let Some(process) = &mut machine.process else {
            return Ok(());
        };
        if process.is_paused() || process.group.is_some() || process.node.may_write(now).is_err() {
            return Ok(());
        }
        let boot = process.boot;
        let (mut requests, mut payloads) = (Vec::new(), Vec::new());
        for _ in 0..self.workload.prng.within(1..=self.workload.plan.group_max) {
            let Some((request, again)) = self.workload.clients.next_request(&mut self.workload.prng) else {
                break;
            };
            self.write_asked(request, again);
            if let Some(at) = self.found_done(host, &request) {
                self.counts.add("request_found_done");
                self.write_done(request, at, true)?;
                continue;
            }
            payloads.push(self.workload.payload(&request));
            requests.push(request);
        }
        if requests.is_empty() {
            return Ok(());
        }
        let id = self.workload.next_proposal();
        if let Some(process) = &mut self.hosts[host].process {
            process.group = Some(OpenGroup { id, logged: None, requests });
        }
        let us = self.workload.prng.within(1..=self.workload.plan.execute_us_max);
        let input = Box::new(Input::Propose { id, payloads });
        self.at(self.now.plus_us(us), Event::Give { host, boot, input });
        Ok(())
    }

    /// A store looks up a request's key before it runs it: its data says that it
    /// is done, and where.
    fn found_done(&self, host: usize, request: &Request) -> Option<Seq> {
        let known = self.hosts[host].disk.data.sessions[request.client] >= request.number;
        (known && !planted!(self.plan, RequestRunsTwice)).then(|| self.oracles.outcome.place(request.id())).flatten()
    }

    /// Clients ask for nothing any more.
    pub(crate) fn stop_clients(&mut self) {
        self.workload.silent = true;
    }

    /// When faults end, clients become patient: one act each 50 ms.
    pub(crate) fn calm_clients(&mut self) {
        self.workload.plan.every_us = self.workload.plan.every_us.max(50_000);
    }

    /// The moment some milliseconds from now.
    pub(crate) fn in_ms(&self, ms: u64) -> TrueTime {
        self.now.plus_ms(ms)
    }
}
