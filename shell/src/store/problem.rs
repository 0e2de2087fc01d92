//! Why a statement or the file failed, in a client's words.
//!
//! Decides what the store knows beyond SQLite's code: what was denied, and why
//! a statement was stopped. Every one of these means "certainly not done". The
//! codes themselves are `sqlerror`'s.

use super::capture::Stop;
use super::sqlerror;
use super::sys::Failure;
use crate::error::ApiError;
use rusqlite::ffi;

/// What a client is told of a statement that failed.
pub(super) fn of_statement(failure: &Failure, denied: Option<&str>, stopped: Option<Stop>) -> ApiError {
    match (failure.primary(), denied, stopped) {
        (ffi::SQLITE_AUTH | ffi::SQLITE_ERROR, Some(why), _) => ApiError::new(403, "forbidden_sql", why),
        (ffi::SQLITE_INTERRUPT, _, Some(Stop::TooLarge)) => too_large(),
        (ffi::SQLITE_INTERRUPT, _, Some(Stop::Interrupt)) => {
            ApiError::new(503, "interrupted", "The writer is changing; nothing was done.").retry_after(1)
        }
        _ => translated(failure),
    }
}

/// What a client is told of a statement that could not be compiled, because of
/// what stands at that byte of its text, if SQLite knows.
pub(super) fn uncompiled(failure: &Failure, at: Option<usize>) -> ApiError {
    let mut error = translated(failure);
    if let (Some(at), Some(serde_json::Value::Object(data))) = (at, &mut error.data) {
        data.insert("offset".to_owned(), at.into());
    }
    error
}

/// A transaction beyond the largest entry.
pub(super) fn too_large() -> ApiError {
    ApiError::new(413, "transaction_too_large", "The changes of one transaction may take 64 MiB; nothing was done.")
}

/// The file or the disk does not do what it should.
pub(super) fn storage(what: &str, failure: &Failure) -> ApiError {
    let error = match failure.primary() {
        // The store's own statements are right: a table that is missing, or a
        // file format that SQLite does not know, is the file's fault.
        ffi::SQLITE_ERROR => ApiError::new(500, "data_corrupt", failure.message.as_str()),
        _ => translated(failure),
    };
    ApiError { message: format!("Could not {what}: {}", error.message), status: 500, ..error }
}

fn translated(failure: &Failure) -> ApiError {
    let error = rusqlite::Error::SqliteFailure(ffi::Error::new(failure.code), Some(failure.message.clone()));
    sqlerror::api_error(&error)
}

/// A request left foreign keys open that were to hold at its end.
pub(super) fn deferred() -> ApiError {
    ApiError::new(409, "constraint_foreign_key", "FOREIGN KEY constraint failed at the end of the transaction")
}
