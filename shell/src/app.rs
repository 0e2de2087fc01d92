//! What every HTTP task holds: handles to the other parties of this process.
//!
//! Decides nothing; gives names to the channels.

use crate::api::{LogJob, NodeEvent, StoreJob, View};
use crate::config::Config;
use crate::env::{Env, WorkerHandle};
use crate::http::{PeerEndpoint, Sql, State};
use crate::metrics::Stats;
use base_ha_core::ids::Seq;
use base_ha_core::io::{AdminCommand, AdminOutcome, Refusal};
use base_ha_core::position::Position;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Handles to the node loop, the store and the view of both.
pub struct App<E: Env> {
    /// The world.
    pub env: E,
    /// The settings.
    pub config: Arc<Config>,
    /// Who writes, and the status, as last published.
    pub view: watch::Receiver<Arc<View>>,
    /// What `data.db` contains, moved after every COMMIT: readers that wait for
    /// a position wait here. Its token fields are in `view`.
    pub applied: watch::Receiver<Position>,
    /// The node loop.
    pub node: NodeHandle,
    /// The store worker.
    pub store: WorkerHandle<StoreJob>,
    /// The log worker, which change feeds read from.
    pub log: WorkerHandle<LogJob>,
    /// Parses, classifies and runs reads on this node's data.
    pub sql: Arc<dyn Sql>,
    /// Answers peers: frames and snapshots.
    pub peer: Arc<dyn PeerEndpoint>,
    /// What HTTP tasks share among themselves: keys, limits, the client.
    pub http: State<E>,
    /// What every party counts.
    pub stats: Arc<Stats>,
}

/// Talks to the node loop.
#[derive(Clone)]
pub struct NodeHandle {
    inbox: mpsc::UnboundedSender<NodeEvent>,
}

/// The node loop has ended: the process is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl NodeHandle {
    /// Wraps the loop's inbox. It is unbounded because its senders are
    /// bounded each by themselves: peers by their frame windows, clients by
    /// the connection limit, store and log by having one thing under way.
    pub fn new(inbox: mpsc::UnboundedSender<NodeEvent>) -> Self {
        Self { inbox }
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// [`Gone`] if the loop has ended.
    pub fn tell(&self, event: NodeEvent) -> Result<(), Gone> {
        self.inbox.send(event).map_err(|_| Gone)
    }

    /// Asks from which position on a linearizable read may run.
    ///
    /// # Errors
    /// [`Refusal`] if it may not run here.
    pub async fn read_index(&self) -> Result<Seq, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.tell(NodeEvent::ReadIndex { reply }).map_err(|Gone| Refusal::Stopping)?;
        answer.await.unwrap_or(Err(Refusal::Stopping))
    }

    /// Carries out an administrator's order.
    ///
    /// # Errors
    /// [`Gone`] if the loop has ended.
    pub async fn admin(&self, command: AdminCommand) -> Result<AdminOutcome, Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(NodeEvent::Admin { command, reply })?;
        answer.await.map_err(|_| Gone)
    }

    /// Has the whole view published anew, of one moment from now on.
    ///
    /// # Errors
    /// [`Gone`] if the loop has ended.
    pub async fn renew(&self) -> Result<(), Gone> {
        let (reply, answer) = oneshot::channel();
        self.tell(NodeEvent::Renew { reply })?;
        answer.await.map_err(|_| Gone)
    }
}
