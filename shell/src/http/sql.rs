//! What HTTP asks of this node's data, behind a seam.
//!
//! Decides nothing. Tests put a scripted store behind it.

use super::Later;
use crate::api::Statement;
use crate::error::ApiError;
use base_ha_core::position::Position;
use std::path::Path;

pub use crate::store::classify::Class;
pub use crate::store::read::{ReadAnswer, ReadError, ReadRequest};

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

    /// Writes a consistent, verified copy to `to`, which doesn't exist yet, and
    /// says what it contains.
    ///
    /// # Errors
    /// What the disk or SQLite says; then there is no such file.
    fn copy<'a>(&'a self, to: &'a Path) -> Later<'a, Result<Position, ApiError>>;
}
