//! Clients: they write where they may, read everywhere, and name every request.
//!
//! Decides what they ask for and when.

use crate::clock::TrueTime;
use crate::cluster::{Cluster, Event, OpenGroup};
use crate::plan::WorkloadPlan;
use crate::prng::Prng;
use crate::report::Failure;
use base_ha_core::changeset::{RequestId, TableShape};
use base_ha_core::hlc::Hlc;
use base_ha_core::io::{CallId, Input, ProposalId};
use base_ha_core::wire::{ChangeSetWriter, ValueRef};
use bytes::Bytes;

/// The clients' state.
pub(crate) struct Workload {
    plan: WorkloadPlan,
    prng: Prng,
    capture: ChangeSetWriter,
    shape: TableShape,
    next_request: u64,
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
                columns: vec!["serial".into(), "noise".into(), "ballast".into()],
                key: vec![0],
                has_rowid: true,
            },
            next_request: 0,
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

    /// One group: every request inserts a row of its own.
    fn group(&mut self) -> (ProposalId, Vec<Bytes>) {
        self.next_proposal += 1;
        let requests = self.prng.within(1..=self.plan.group_max);
        let payloads = (0..requests)
            .map(|_| {
                self.next_request += 1;
                let serial = self.next_request as i64;
                let noise = self.prng.bits() as i64;
                let table = self.capture.table(1, &self.shape);
                let weight = self.prng.within(0..=self.plan.row_bytes_max) as usize;
                self.ballast.resize(weight, 0);
                let row = [ValueRef::Integer(serial), ValueRef::Integer(noise), ValueRef::Blob(&self.ballast)];
                self.capture.push_insert(table, serial, row);
                self.capture
                    .finish(RequestId(u128::from(self.next_request)), Hlc::default(), "main")
                    .expect("a small change-set")
            })
            .collect();
        (self.next_proposal, payloads)
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
        if read {
            return self.read_at(any);
        }
        // Mostly the client knows who writes; at times it tries elsewhere.
        let host = match self.writer() {
            Some(host) if !stray => host,
            Some(_) | None => any,
        };
        self.write_at(host)
    }

    fn read_at(&mut self, host: usize) -> Result<(), Failure> {
        if self.hosts[host].process.is_none() {
            return Ok(());
        }
        let id = self.workload.next_call();
        let acked = self.oracles.survival.furthest();
        self.oracles.reads.began(host, id, acked);
        self.give_now(host, Input::ReadIndex { id })
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
        let (id, payloads) = self.workload.group();
        process.group = Some(OpenGroup { id, logged: None });
        let boot = process.boot;
        let us = self.workload.prng.within(1..=self.workload.plan.execute_us_max);
        let input = Box::new(Input::Propose { id, payloads });
        self.at(self.now.plus_us(us), Event::Give { host, boot, input });
        Ok(())
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
