//! Snapshots, as the loop has them fetched.
//!
//! Decides what a fetch is told, and that no entry for the old `data.db` reaches
//! the new one. How a snapshot travels is `snapshot`'s business.

use super::Task;
use crate::api::Installed;
use base_ha_core::ids::Url;
use base_ha_core::io::Input;
use base_ha_core::position::Position;
use tokio::sync::{mpsc, oneshot};

/// A snapshot that the core wants.
pub struct FetchOrder {
    /// From whom.
    pub from: Url,
    /// What it must contain.
    pub at_least: Position,
    /// The log is whole; only `data.db` is replaced.
    pub reseed: bool,
    /// To be asked right before `data.db` is replaced.
    pub pause: PauseApply,
}

/// Stops the flow of entries to the store until the snapshot's end is told:
/// entries ordered for the old `data.db` must not reach the new one.
#[derive(Clone)]
pub struct PauseApply(pub(super) mpsc::UnboundedSender<Task>);

impl PauseApply {
    /// Returns once no entry is sent to the store any more.
    ///
    /// # Errors
    /// If the node loop has ended.
    pub async fn pause(&self) -> Result<(), crate::app::Gone> {
        let (reply, done) = oneshot::channel();
        self.0.send(Task::Pause(reply)).map_err(|_| crate::app::Gone)?;
        done.await.map_err(|_| crate::app::Gone)
    }

    /// The old `data.db` is in place and whole after all: entries go on to it.
    pub fn resume(&self) {
        // If the loop has ended, nothing goes on.
        let _ = self.0.send(Task::Resume);
    }
}

#[cfg(test)]
impl PauseApply {
    /// A loop that does what it is asked to, and what it was asked last: to
    /// pause (true) or to resume.
    pub(crate) fn obliging() -> (Self, tokio::sync::watch::Receiver<Option<bool>>) {
        let (sender, mut tasks) = mpsc::unbounded_channel();
        let (asked, last) = tokio::sync::watch::channel(None);
        tokio::spawn(async move {
            while let Some(task) = tasks.recv().await {
                if let Task::Pause(reply) = task {
                    asked.send_replace(Some(true));
                    let _ = reply.send(());
                } else {
                    asked.send_replace(Some(false));
                }
            }
        });
        (Self(sender), last)
    }
}

/// The input that tells the core of an installed snapshot.
pub fn installed_input(installed: Installed, log_reset: bool) -> Input {
    Input::SnapshotInstalled {
        position: installed.position,
        membership: installed.membership,
        content: installed.content,
        hlc: installed.hlc,
        log_reset,
    }
}
