//! Clients: sessions that write registers, read them back, and ask again.
//!
//! Decides what each asks for and what it believes of the answers. A client has
//! one thing under way at a time; what it is told goes to the oracles of
//! histories, which know nothing of positions unless a token bears them.

use crate::clock::TrueTime;
use crate::cluster::{Cluster, OpenGroup};
use crate::data::{CLIENTS, REGISTERS};
use crate::prng::Prng;
use crate::report::Failure;
use base_ha_core::changeset::RequestId;
use base_ha_core::ids::Seq;
use base_ha_core::io::{CallId, Input};
use base_ha_core::planted;
use base_ha_core::time::MonoTime;

/// A write of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) client: usize,
    /// Numbers of one client rise.
    pub(crate) number: u64,
    pub(crate) register: usize,
    /// Never written by any other request.
    pub(crate) value: i64,
}

impl Request {
    /// Its idempotency key.
    pub(crate) fn id(&self) -> RequestId {
        RequestId((self.client as u128 + 1) << 64 | u128::from(self.number))
    }

    /// The client and number in a key that [`Request::id`] made.
    pub(crate) fn of(id: RequestId) -> Option<(usize, u64)> {
        let client = usize::try_from(id.0 >> 64).ok()?.checked_sub(1).filter(|client| *client < CLIENTS)?;
        Some((client, id.0 as u64))
    }
}

/// A read of one register under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) client: usize,
    register: usize,
    asked: TrueTime,
    /// What the node's own clock showed when it was asked.
    pub(crate) mono: MonoTime,
    /// All that is true now is to be seen; otherwise what the session has seen.
    linearizable: bool,
}

/// One client.
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    busy: bool,
    number: u64,
    /// Its last request, if nothing is known of it: it may be asked again.
    again: Option<Request>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    clients: [Client; CLIENTS],
    next_value: i64,
}

impl Clients {
    fn idle(&self, prng: &mut Prng) -> Option<usize> {
        let first = prng.index(CLIENTS);
        (0..CLIENTS).map(|n| (first + n) % CLIENTS).find(|client| !self.clients[*client].busy)
    }

    /// What some idle client asks for next: something new, or what it got no
    /// answer to. True if it is asked again.
    pub(crate) fn next_request(&mut self, prng: &mut Prng) -> Option<(Request, bool)> {
        let (n, again) = (self.idle(prng)?, prng.chance(700));
        let register = prng.index(REGISTERS);
        let client = &mut self.clients[n];
        client.busy = true;
        if let Some(request) = client.again.take().filter(|_| again) {
            return Some((request, true));
        }
        client.number += 1;
        self.next_value += 1;
        Some((Request { client: n, number: client.number, register, value: self.next_value }, false))
    }

    /// Its answer came, or it waits no longer.
    fn free(&mut self, client: usize, again: Option<Request>) {
        self.clients[client].busy = false;
        self.clients[client].again = again;
    }
}

/// How long a client waits for data that contains what its session has seen.
const PATIENCE_MS: u64 = 5000;

impl Cluster {
    /// A client asks for a write.
    pub(crate) fn write_asked(&mut self, request: Request, again: bool) {
        if again {
            self.counts.add("request_repeated");
        }
        self.oracles.outcome.asked(request.id());
        self.oracles.registers.asked(request.register, request.value, self.now);
    }

    /// A client is told that its write is done as the entry at `at`; `again` if
    /// it was found done.
    pub(crate) fn write_done(&mut self, request: Request, at: Seq, again: bool) -> Result<(), Failure> {
        self.workload.clients.free(request.client, None);
        let verdict = self.oracles.outcome.done(request.id(), at);
        self.verdict("O9 an answer means what it says", verdict)?;
        self.oracles.registers.done(request.register, request.value, self.now);
        let verdict = self.oracles.sessions.wrote(request.client, at, again);
        self.verdict("O7 a session never goes back in time", verdict)
    }

    /// A client is told that its write is certainly not done.
    pub(crate) fn write_refused(&mut self, request: Request) -> Result<(), Failure> {
        self.workload.clients.free(request.client, Some(request));
        let verdict = self.oracles.outcome.refused(request.id());
        self.verdict("O9 an answer means what it says", verdict)
    }

    /// A client is told that nothing is known of its write, or nothing at all.
    pub(crate) fn write_unknown(&mut self, request: Request) {
        self.workload.clients.free(request.client, Some(request));
        self.oracles.outcome.unknown(request.id());
    }

    /// Nobody answers what a process was asked.
    pub(crate) fn unanswered(&mut self, group: Option<OpenGroup>, reads: impl IntoIterator<Item = Read>) {
        for request in group.into_iter().flat_map(|group| group.requests) {
            self.write_unknown(request);
        }
        for read in reads {
            self.workload.clients.free(read.client, None);
        }
    }

    /// A client reads at a machine, at the level that it wants.
    pub(crate) fn read_at(&mut self, host: usize, linearizable: bool) -> Result<(), Failure> {
        let machine = &self.hosts[host];
        let now = machine.clock.now(self.now);
        let Some(process) = machine.process.as_ref().filter(|_| !machine.config.witness) else {
            return Ok(());
        };
        let leased = linearizable && process.node.may_read(now).is_ok();
        let (paused, quarantined) = (process.is_paused(), process.quarantined);
        let prng = &mut self.workload.prng;
        let Some(client) = self.workload.clients.idle(prng) else {
            return Ok(());
        };
        let read = Read { client, register: prng.index(REGISTERS), asked: self.now, mono: now.mono, linearizable };
        if !linearizable {
            // Quarantine stops reads; a process that stands still answers nobody.
            if paused || quarantined {
                return Ok(());
            }
            self.workload.clients.clients[client].busy = true;
            let token = self.oracles.sessions.token(client);
            return self.read_once_applied(host, token, read);
        }
        if leased && !paused && self.workload.prng.chance(500) {
            self.counts.add("read_leased");
            self.workload.clients.clients[client].busy = true;
            return self.read_answered(host, read);
        }
        self.workload.clients.clients[client].busy = true;
        let id = self.workload.next_call();
        let acked = self.oracles.survival.furthest();
        self.oracles.reads.began(host, id, acked);
        if let Some(process) = &mut self.hosts[host].process {
            process.reads.insert(id, read);
        }
        self.give_now(host, Input::ReadIndex { id })
    }

    /// A node lets a read run once `at` is applied.
    pub(crate) fn read_ready(&mut self, host: usize, id: CallId, at: Seq) -> Result<(), Failure> {
        let verdict = self.oracles.reads.ready(host, id, at);
        // A writer with a lease answers at once: such a read is as current as
        // clocks are within the bound (R4).
        if self.rates_in_bound {
            self.verdict("R4 a linearizable read is current", verdict)?;
        }
        match self.hosts[host].process.as_mut().and_then(|p| p.reads.remove(&id)) {
            Some(read) => {
                self.check_proof(host, &read, at)?;
                self.read_once_applied(host, at, read)
            }
            None => Ok(()),
        }
    }

    /// A node refuses a read.
    pub(crate) fn read_refused(&mut self, host: usize, id: CallId) {
        self.oracles.reads.refused(host, id);
        if let Some(read) = self.hosts[host].process.as_mut().and_then(|p| p.reads.remove(&id)) {
            self.workload.clients.free(read.client, None);
        }
    }

    fn read_once_applied(&mut self, host: usize, at: Seq, read: Read) -> Result<(), Failure> {
        let there = self.hosts[host].disk.data.applied.seq >= at;
        if there || !read.linearizable && planted!(self.plan, SessionNotAwaited) {
            return self.read_answered(host, read);
        }
        self.counts.add("read_awaited");
        if let Some(process) = &mut self.hosts[host].process {
            process.waiting.push((at, read));
        }
        Ok(())
    }

    /// More is applied: who waited for it is answered.
    pub(crate) fn answer_waiting(&mut self, host: usize) -> Result<(), Failure> {
        let machine = &mut self.hosts[host];
        let applied = machine.disk.data.applied.seq;
        let Some(process) = machine.process.as_mut().filter(|p| !p.waiting.is_empty()) else {
            return Ok(());
        };
        let (now, waiting): (Vec<_>, Vec<_>) = process.waiting.drain(..).partition(|(at, _)| *at <= applied);
        process.waiting = waiting;
        now.into_iter().try_for_each(|(_, read)| self.read_answered(host, read))
    }

    /// Who has waited for too long goes elsewhere.
    pub(crate) fn forget_waiting(&mut self) {
        let long_ago = self.now.0.saturating_sub(PATIENCE_MS * 1_000_000);
        for machine in &mut self.hosts {
            let Some(process) = machine.process.as_mut().filter(|p| !p.waiting.is_empty()) else {
                continue;
            };
            process.waiting.retain(|(_, read)| {
                let patient = read.asked.0 > long_ago;
                if !patient {
                    self.workload.clients.free(read.client, None);
                }
                patient
            });
        }
    }

    fn read_answered(&mut self, host: usize, read: Read) -> Result<(), Failure> {
        self.workload.clients.free(read.client, None);
        let data = &self.hosts[host].disk.data;
        let (at, value) = (data.applied.seq, data.registers[read.register]);
        if read.linearizable {
            self.counts.add("read_linearizable");
            if self.rates_in_bound {
                self.oracles.registers.read(read.register, value, read.asked, self.now);
            }
        } else {
            self.counts.add("read_session");
        }
        let verdict = self.oracles.sessions.read(read.client, at, read.register, value);
        // A linearizable read under a lease whose clocks are out of bound may be
        // old, also for its own session.
        if read.linearizable && !self.rates_in_bound {
            return Ok(());
        }
        self.verdict("O7 a session never goes back in time", verdict)
    }

    /// All is still: one order of all writes and reads explains every answer.
    pub(crate) fn check_histories(&self) -> Result<(), Failure> {
        self.verdict("O9 an answer means what it says", self.oracles.outcome.settled())?;
        self.verdict("R4 registers are linearizable", self.oracles.registers.linearizable())
    }
}
