//! The core's orders, carried out in order.
//!
//! Decides which party each goes to, and what is told to whom now and then. What
//! is ordered is the core's business, when the loop's.

use super::fetch::{FetchOrder, PauseApply};
use super::{Call, Driver, Ended, Task, apply, upkeep};
use crate::api::{LogJob, StoreJob};
use crate::bus::Bus;
use crate::env::{Env, WorkerHandle};
use base_ha_core::ids::Url;
use base_ha_core::io::{Event, Output, Pin, Record, Route};
use base_ha_core::message::Envelope;
use base_ha_core::position::Position;
use base_ha_core::time::Now;
use tokio::sync::oneshot;

impl<E: Env, B: Bus> Driver<E, B> {
    /// Carries out the core's orders, in order.
    pub(super) fn carry_out(&mut self, now: Now) {
        let mut outbox = std::mem::take(&mut self.outbox);
        for output in outbox.drain(..) {
            self.carry_out_one(now, output);
        }
        // Keeps its room for the next turn.
        self.outbox = outbox;
    }

    fn carry_out_one(&mut self, now: Now, output: Output) {
        match output {
            Output::Persist { id, record } => {
                if let Record::HardState(hard) = &record
                    && hard.cluster != self.cluster
                {
                    self.cluster = hard.cluster;
                    self.bus.joined(hard.cluster);
                }
                self.tell_log(LogJob::Persist { id, record });
            }
            Output::Send { route, envelope } => self.send(&route, &envelope),
            Output::Apply { from, through, entries } => {
                self.publisher.committed(through);
                if self.store.is_some()
                    && let Err(at) = self.pump.order(from, through, entries)
                {
                    // Told once the outputs at hand are carried out: the core is
                    // not stepped in between.
                    self.halted_at = Some(at);
                }
            }
            Output::LoadLog { id, from, through, bytes_max } => {
                self.tell_log(LogJob::Load { id, from, through, bytes_max });
            }
            Output::FetchSnapshot { from, at_least, reseed } => self.fetch_snapshot(from, at_least, reseed),
            Output::Proposed { id, first, last } => self.mention_to_store(StoreJob::Proposed { id, first, last }),
            Output::ProposalRefused { id, refusal } => self.tell_store(StoreJob::Refused { id, refusal }),
            Output::ProposalUnknown { id } => self.tell_store(StoreJob::Unknown { id }),
            Output::Progress { durable, committed, all } => {
                self.publisher.committed(committed);
                self.mention_to_store(StoreJob::Progress { durable, all });
            }
            Output::ReadReady { id, at } => {
                if let Some(Call::Read(reply)) = self.calls.remove(&id) {
                    let _ = reply.send(Ok(at));
                }
            }
            Output::ReadRefused { id, refusal } => {
                if let Some(Call::Read(reply)) = self.calls.remove(&id) {
                    let _ = reply.send(Err(refusal));
                }
            }
            Output::AdminDone { id, outcome } => {
                tracing::info!(node = %self.id, ?outcome, "administrator's order ended");
                if let Some(Call::Admin(reply)) = self.calls.remove(&id) {
                    let _ = reply.send(outcome);
                }
            }
            Output::Pin(pin) => self.on_pin(pin),
            Output::Event(event) => {
                if matches!(event, Event::MembershipChanged { .. }) {
                    self.publisher.renew();
                }
                self.reporter.report(&self.id, now, &event, &self.stats.peer);
            }
            Output::Stopped => self.ended = Some(Ended::Stopped),
        }
    }

    fn send(&self, route: &Route, envelope: &Envelope) {
        self.bus.send(route, envelope);
    }

    fn on_pin(&mut self, pin: Pin) {
        let before = self.publisher.pin();
        let as_before = Pin { durable: before.durable, ..pin.clone() };
        if as_before == *before {
            // Its term reached the disk, which is news for those who ask only.
            self.publisher.set_pin(pin);
            return;
        }
        let demoted = self.publisher.pin().writable && !pin.writable;
        tracing::info!(
            node = %self.id,
            term = pin.term.0,
            writer = pin.writer.as_ref().map(|(id, _)| id.as_str()),
            writable = pin.writable,
            "{}",
            match &pin.writer {
                Some(_) if pin.writable => "this node may write",
                Some(_) => "the writer is known",
                None => "no writer is known",
            }
        );
        if demoted && let Some(store) = &self.store {
            // Before the job: a group that runs ends, and the next thing that
            // the store looks at is this pin.
            (store.interrupt)();
        }
        self.tell_store(StoreJob::Pin(pin.clone()));
        self.publisher.set_pin(pin);
    }

    fn fetch_snapshot(&mut self, from: Url, at_least: Position, reseed: bool) {
        if std::mem::replace(&mut self.fetching, true) {
            tracing::debug!(node = %self.id, "a snapshot is being fetched already");
            return;
        }
        tracing::info!(node = %self.id, %from, at_least = at_least.seq.0, reseed, "fetching a snapshot");
        (self.fetch)(FetchOrder { from, at_least, reseed, pause: PauseApply(self.task_sender.clone()) });
    }

    /// Gives the store what there is room for, and the log orders to read what
    /// is not in memory.
    pub(super) fn feed_store(&mut self) {
        loop {
            match self.pump.next() {
                Some(apply::Step::Send(entries)) => self.tell_store(StoreJob::Apply { entries }),
                Some(apply::Step::Load { from, through, bytes_max }) => {
                    let (reply, loaded) = oneshot::channel();
                    self.tell_log(LogJob::LoadForApply { from, through, bytes_max, reply });
                    self.errand(loaded, Task::LoadedForApply);
                }
                None => return,
            }
        }
    }

    /// Does what is due now and then.
    pub(super) fn look_after(&mut self, now: Now) {
        match self.upkeep.tick(now.mono, self.pump.taken_bytes()) {
            Some(upkeep::Chore::Checkpoint) => {
                let (reply, done) = oneshot::channel();
                self.tell_store(StoreJob::Checkpoint { reply });
                self.errand(done, Task::Checkpointed);
            }
            Some(upkeep::Chore::Trim) => {
                let below = self.node.status(now).trimmable;
                if let Some(below) = self.upkeep.trim(below) {
                    self.tell_log(LogJob::Trim { below });
                }
            }
            Some(upkeep::Chore::Scrub) => {
                let (reply, done) = oneshot::channel();
                self.tell_store(StoreJob::Scrub { reply });
                self.errand(done, Task::Scrubbed);
            }
            None => {}
        }
    }

    /// Waits for an answer outside the loop. A dropped answer means that the
    /// worker has ended, which is fatal by itself.
    fn errand<T: Send + 'static>(&self, answer: oneshot::Receiver<T>, task: fn(T) -> Task) {
        let sender = self.task_sender.clone();
        tokio::spawn(async move {
            if let Ok(result) = answer.await {
                // If the loop has ended, nobody needs to know.
                let _ = sender.send(task(result));
            }
        });
    }

    pub(super) fn tell_log(&mut self, job: LogJob) {
        if self.log.send(job).is_err() && self.ended.is_none() {
            self.fatal("the log worker has ended");
        }
    }

    pub(super) fn tell_store(&mut self, job: StoreJob) {
        self.give_store(job, WorkerHandle::send);
    }

    /// As [`Driver::tell_store`], for what matters only with what follows.
    fn mention_to_store(&mut self, job: StoreJob) {
        self.give_store(job, WorkerHandle::send_quiet);
    }

    fn give_store(&mut self, job: StoreJob, give: impl Fn(&WorkerHandle<StoreJob>, StoreJob) -> Result<(), StoreJob>) {
        let Some(store) = &self.store else { return };
        if give(&store.worker, job).is_err() && self.ended.is_none() {
            self.fatal("the store worker has ended");
        }
    }
}
