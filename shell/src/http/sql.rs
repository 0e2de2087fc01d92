//! What HTTP asks of SQLite, behind a seam.
//!
//! Decides nothing. Tests put a scripted store behind it.

use super::Later;
use crate::api::{SqlLimits, Statement};
use crate::error::ApiError;
use base_ha_core::position::Position;
use bytes::Bytes;
use std::path::Path;

/// A request's body, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// What is to be run.
    pub statements: Vec<Statement>,
    /// The body was an array: answer `{"results":[..]}`.
    pub many: bool,
}

/// Whether statements may run on any node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every statement only reads.
    Read,
    /// At least one may write, or can't be prepared yet because an earlier one
    /// makes what it needs.
    Write,
}

/// What a read came to.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The JSON body.
    pub body: Bytes,
    /// Where in the log the rows were read: both come from one read
    /// transaction.
    pub position: Position,
}

/// This node's data, as readers see it.
pub trait Sql: Send + Sync + 'static {
    /// Reads a request's body.
    ///
    /// # Errors
    /// 400, 413 or 422: what is wrong with it.
    fn parse(&self, body: &[u8]) -> Result<Parsed, ApiError>;

    /// Asks SQLite whether the statements read or write.
    ///
    /// # Errors
    /// What SQLite says of the first statement that it can't prepare.
    fn classify<'a>(&'a self, statements: &'a [Statement]) -> Later<'a, Result<Kind, ApiError>>;

    /// Runs statements that only read, in one read transaction.
    ///
    /// # Errors
    /// What SQLite says, or a limit that was passed.
    fn run<'a>(&'a self, parsed: &'a Parsed, limits: SqlLimits) -> Later<'a, Result<Rows, ApiError>>;

    /// Writes a consistent, verified copy to `to`, which doesn't exist yet, and
    /// says what it contains.
    ///
    /// # Errors
    /// What the disk or SQLite says; then there is no such file.
    fn copy<'a>(&'a self, to: &'a Path) -> Later<'a, Result<Position, ApiError>>;
}
