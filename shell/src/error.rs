//! What a client is told when something was not done.
//!
//! Decides codes and statuses. Every error that reaches a client is one of
//! these: `{code, message, status, data}`.

use serde::Serialize;
use std::fmt;

/// An error with a code that programs can rely on.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct ApiError {
    /// For programs, e.g. `constraint_unique`.
    pub code: &'static str,
    /// For people: what happened, what changed, what to do.
    pub message: String,
    /// The HTTP status.
    pub status: u16,
    /// Particulars, by code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    /// Seconds after which to try again, sent as `Retry-After`.
    #[serde(skip)]
    pub retry_after: Option<u32>,
}

impl ApiError {
    /// An error without particulars.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status, data: None, retry_after: None }
    }

    /// Adds particulars.
    #[must_use]
    pub fn with_data(mut self, data: serde_json::Value) -> Self {
        self.data = Some(data);
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for ApiError {}
