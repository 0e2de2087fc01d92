//! `data.db` as HTTP and peers see it, and its absence at a witness.
//!
//! Decides nothing about SQL: it joins the store's readers and copies to the
//! seams that ask for them.

use crate::api::{Statement, StoreJob, View};
use crate::env::{Env, WorkerHandle};
use crate::error::ApiError;
use crate::http::{Later, LocalData, Sql};
use crate::snapshot::fetch::Readers;
use crate::snapshot::serve::Source;
use crate::store::backup::{self, Contents, Copied};
use crate::store::classify::Class;
use crate::store::read::{ReadAnswer, ReadError, ReadRequest, Reads};
use base_ha_core::ids::{ClusterId, Seq, Term};
use base_ha_core::position::Position;
use std::future::Future;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;

/// The store, opened and at work.
pub(super) struct Given<E: Env> {
    pub(super) worker: WorkerHandle<StoreJob>,
    pub(super) applied: watch::Receiver<Position>,
    pub(super) interrupt: Arc<dyn Fn() + Send + Sync>,
    pub(super) data: Arc<Data<E>>,
}

/// `data.db`'s readers and copies.
pub(super) struct Data<E: Env> {
    env: E,
    file: PathBuf,
    tmp: PathBuf,
    reads: Reads<E>,
    view: watch::Receiver<Arc<View>>,
}

impl<E: Env> Data<E> {
    pub(super) fn new(env: E, file: PathBuf, tmp: PathBuf, reads: Reads<E>, view: watch::Receiver<Arc<View>>) -> Self {
        Self { env, file, tmp, reads, view }
    }

    /// What HTTP asks.
    pub(super) fn local(&self) -> LocalData<E> {
        LocalData::new(self.env.clone(), self.reads.clone(), self.file.clone())
    }
}

impl<E: Env> Source for Data<E> {
    fn copy(&self) -> Pin<Box<dyn Future<Output = Result<Copied, ApiError>> + Send>> {
        let (env, file, dir) = (self.env.clone(), self.file.clone(), self.tmp.clone());
        let files = env.files();
        Box::pin(async move {
            env.blocking(move || backup::copy(&files, &file, &dir, Contents::Whole, |_| ControlFlow::Continue(())))
                .await
        })
    }

    fn fit(&self) -> Result<ClusterId, String> {
        let view = self.view.borrow().clone();
        let status = view.status.as_ref().ok_or("this node is starting")?;
        if let Some(unfit) = &status.unfit {
            return Err(format!("this node's data is not given away: {unfit}"));
        }
        if status.cluster == ClusterId::NONE {
            return Err("this node has no cluster yet".to_owned());
        }
        Ok(status.cluster)
    }
}

impl<E: Env> Readers for Data<E> {
    fn close(&self) {
        self.reads.quarantine(true);
        self.reads.invalidate();
    }

    fn open(&self) {
        // What was opened meanwhile may be of either file.
        self.reads.invalidate();
        self.reads.quarantine(false);
    }
}

/// A witness: it has none. Holds the sender of a position that never moves, so
/// that whoever waits for it waits, and is not told that the node has ended.
pub(super) struct NoData(pub(super) watch::Sender<Position>);

impl NoData {
    fn error(&self) -> ApiError {
        let at = self.0.borrow().seq;
        debug_assert_eq!(at, Position::START.seq, "a witness applies nothing");
        ApiError::new(503, "witness", "This node is a witness: it has no data and serves no SQL; ask another node.")
    }
}

impl Sql for NoData {
    fn classify(&self, _: &[Statement]) -> Result<Class, ApiError> {
        Err(self.error())
    }

    fn run(&self, _: ReadRequest) -> Later<'_, Result<ReadAnswer, ReadError>> {
        Box::pin(std::future::ready(Err(ReadError::Sql(self.error()))))
    }

    fn contains(&self, _: Seq, _: Term) -> Result<bool, ApiError> {
        Err(self.error())
    }

    fn copy(&self, _: PathBuf, _: Contents) -> Later<'_, Result<Copied, ApiError>> {
        Box::pin(std::future::ready(Err(self.error())))
    }
}
