//! What HTTP asks of this node's data, behind a seam.
//!
//! Decides nothing. Tests put a scripted store behind it.

use super::Later;
use crate::api::{SqlLimits, Statement};
use crate::error::ApiError;
use base_ha_core::ids::Seq;
use base_ha_core::position::Position;
use bytes::Bytes;
use std::path::Path;

/// What a request is.
#[derive(Debug, Clone, PartialEq)]
pub enum Class {
    /// Every statement reads: any node may run it.
    Read,
    /// At least one statement may write: the writer runs it.
    Write,
    /// It runs nowhere.
    Refused(ApiError),
}

/// A client's read.
#[derive(Debug)]
pub struct ReadRequest {
    /// What to run; every statement reads.
    pub statements: Vec<Statement>,
    /// The body was an array: answer `{"results":[..]}`.
    pub many: bool,
    /// Its bounds.
    pub limits: SqlLimits,
    /// The least that its snapshot must contain.
    pub at_least: Option<Seq>,
}

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadAnswer {
    /// The JSON body (see `sqljson`).
    pub body: Bytes,
    /// The snapshot that the rows are from.
    pub position: Position,
}

/// Why nothing was read.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadError {
    /// The snapshot does not contain what the client has seen: wait, or send
    /// the request to the writer.
    Behind {
        /// What it does contain.
        position: Position,
    },
    /// A statement may write: it belongs to the writer.
    NotReadOnly,
    /// A client's error, or a node that can't read now.
    Sql(ApiError),
}

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
