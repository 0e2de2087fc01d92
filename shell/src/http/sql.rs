//! What HTTP asks of this node's data, behind a seam.
//!
//! Decides nothing. [`LocalData`] is the real thing; tests put a scripted
//! store in its place.

use super::Later;
use crate::api::Statement;
use crate::env::Env;
use crate::error::ApiError;
use crate::store::backup::{self, Contents, Copied};
use crate::store::classify::Class;
use crate::store::read::{ReadAnswer, ReadError, ReadRequest, Reads};
use base_ha_core::ids::{Seq, Term};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// This node's data, as readers see it.
pub trait Sql: Send + Sync + 'static {
    /// Asks SQLite what the statements are.
    ///
    /// # Errors
    /// 500 if there is no data to ask.
    fn classify(&self, statements: &[Statement]) -> Result<Class, ApiError>;

    /// Runs statements that only read, in one read transaction.
    ///
    /// # Errors
    /// [`ReadError`].
    fn run(&self, request: ReadRequest) -> Later<'_, Result<ReadAnswer, ReadError>>;

    /// Whether the data holds entry `seq` as it was made in `term`; an entry that
    /// is not there yet is not contradicted.
    ///
    /// # Errors
    /// If the data can't be asked.
    fn contains(&self, seq: Seq, term: Term) -> Result<bool, ApiError>;

    /// Makes a consistent copy in a file of its own in `dir`; one that holds
    /// everything is verified too.
    ///
    /// # Errors
    /// What the disk or SQLite says; then no file is left.
    fn copy(&self, dir: PathBuf, contents: Contents) -> Later<'_, Result<Copied, ApiError>>;
}

/// The `data.db` of this node.
pub struct LocalData<E: Env> {
    env: E,
    reads: Reads<E>,
    path: PathBuf,
}

impl<E: Env> LocalData<E> {
    /// `path` is the file that `reads` was opened on.
    pub fn new(env: E, reads: Reads<E>, path: PathBuf) -> Self {
        Self { env, reads, path }
    }
}

impl<E: Env> Sql for LocalData<E> {
    fn classify(&self, statements: &[Statement]) -> Result<Class, ApiError> {
        self.reads.classify(statements)
    }

    fn run(&self, request: ReadRequest) -> Later<'_, Result<ReadAnswer, ReadError>> {
        Box::pin(self.reads.run(request))
    }

    fn contains(&self, seq: Seq, term: Term) -> Result<bool, ApiError> {
        self.reads.contains(seq, term)
    }

    fn copy(&self, dir: PathBuf, contents: Contents) -> Later<'_, Result<Copied, ApiError>> {
        let (files, path) = (self.env.files(), self.path.clone());
        // If nobody waits for it any more, the copy is finished, and its file
        // removed with the result.
        Box::pin(self.env.blocking(move || {
            let copied = backup::copy(&files, &path, &dir, contents, |_| ControlFlow::Continue(()))?;
            if contents == Contents::Whole {
                backup::verify(&*files, copied.file.path(), &copied.hash)?;
            }
            Ok(copied)
        }))
    }
}
