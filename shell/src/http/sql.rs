//! What HTTP asks of this node's data, behind a seam.
//!
//! Decides nothing. Tests put a scripted store behind it, and a witness has
//! none.

use super::Later;
use crate::api::Statement;
use crate::error::ApiError;
use crate::store::backup::{Contents, Copied};
use crate::store::classify::Class;
use crate::store::read::{ReadAnswer, ReadError, ReadRequest};
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

    /// Makes a consistent copy in a file of its own in `dir`; one that holds
    /// everything is verified too.
    ///
    /// # Errors
    /// What the disk or SQLite says; then no file is left.
    fn copy(&self, dir: PathBuf, contents: Contents) -> Later<'_, Result<Copied, ApiError>>;
}
