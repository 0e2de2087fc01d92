//! The view that HTTP tasks see.
//!
//! Decides how fresh it is: pin and commit as soon as a turn ends, the whole
//! status now and then, for making it costs more than a group of writes.

use crate::api::View;
use base_ha_core::ids::Seq;
use base_ha_core::io::Pin;
use base_ha_core::node::Node;
use base_ha_core::time::{MonoTime, Now};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Publishes the view.
pub struct Publisher {
    sender: watch::Sender<Arc<View>>,
    view: View,
    changed: bool,
    /// The pin moved: people and readiness want the whole status now.
    wants_status: bool,
    /// Who waits for the next status.
    waiting: Vec<oneshot::Sender<()>>,
    interval: Duration,
    due: MonoTime,
}

impl Publisher {
    /// Publishes to `sender`; the status is renewed once a heartbeat.
    pub fn new(sender: watch::Sender<Arc<View>>, heartbeat: Duration) -> Self {
        let view = View::default();
        let due = MonoTime(0);
        Self { sender, view, changed: true, wants_status: true, waiting: Vec::new(), interval: heartbeat, due }
    }

    /// Who writes, as last told.
    pub fn pin(&self) -> &Pin {
        &self.view.pin
    }

    /// Who writes changed.
    pub fn set_pin(&mut self, pin: Pin) {
        self.view.pin = pin;
        self.changed = true;
        self.wants_status = true;
    }

    /// The status says something else from now on.
    pub fn renew(&mut self) {
        self.wants_status = true;
    }

    /// As [`Publisher::renew`], for somebody who waits for it.
    pub fn renew_for(&mut self, reply: oneshot::Sender<()>) {
        self.wants_status = true;
        self.waiting.push(reply);
    }

    /// Everything up to here is committed.
    pub fn committed(&mut self, seq: Seq) {
        if seq > self.view.commit {
            self.view.commit = seq;
            self.changed = true;
        }
    }

    /// A graceful stop is under way.
    pub fn stopping(&mut self) {
        self.view.stopping = true;
        self.changed = true;
    }

    /// When the status is to be renewed.
    pub fn due(&self) -> MonoTime {
        self.due
    }

    /// Ends a turn: publishes what changed. True if the status was renewed.
    pub fn flush(&mut self, node: &Node, now: Now) -> bool {
        let renew = self.wants_status || self.due <= now.mono;
        if renew {
            let status = node.status(now);
            self.view.commit = self.view.commit.max(status.commit);
            self.view.status = Some(Arc::new(status));
            self.view.taken = now.mono;
            self.due = now.mono.after(self.interval);
            self.wants_status = false;
        }
        if renew || std::mem::take(&mut self.changed) {
            self.changed = false;
            self.sender.send_replace(Arc::new(self.view.clone()));
        }
        for reply in self.waiting.drain(..) {
            // Whoever asked may have gone: nobody is missed.
            let _ = reply.send(());
        }
        renew
    }
}
