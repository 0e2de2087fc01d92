//! The loop's timer.
//!
//! Decides when the runtime's timer is set anew. Knows nothing of what is due.

use base_ha_core::time::MonoTime;
use std::pin::Pin;
use tokio::time::Sleep;

/// The runtime's timer for the loop. It is set anew only to ring earlier: most
/// turns move the deadline into the future, and a timer that rings too early
/// costs one empty turn where setting it each time would cost every turn.
#[derive(Default)]
pub(super) struct Alarm {
    at: Option<MonoTime>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    pub(super) fn set(&mut self, now: MonoTime, at: MonoTime) {
        if self.at.is_some_and(|set| set <= at) {
            return;
        }
        self.at = Some(at);
        let sleep = tokio::time::sleep(at.since(now));
        match &mut self.sleep {
            Some(old) => old.set(sleep),
            none => *none = Some(Box::pin(sleep)),
        }
    }

    pub(super) async fn ring(&mut self) {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().await,
            None => std::future::pending().await,
        }
        self.at = None;
        self.sleep = None;
    }
}
