//! Read or write: what a text of SQL is, as SQLite itself sees it.
//!
//! Decides from a compiled statement, never from the text's first word:
//! `sqlite3_stmt_readonly`, `sqlite3_stmt_isexplain` and the actions that the
//! authorizer was asked about (`policy`). Knows nothing of who writes.
//!
//! A text that can't be compiled here for want of a table or column is taken
//! for a write: an earlier statement of the request may create the table, or
//! this replica may lag. The writer, who runs it, tells what is wrong with it.
//! Text that no schema could make valid is refused here.

use super::policy::Gate;
use super::sqlerror;
use crate::error::ApiError;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Connection, Statement, ffi};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

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

/// What one text is, and what was learnt from running it.
#[derive(Debug)]
pub(super) enum Known {
    /// All its statements read.
    Read {
        /// It holds exactly one statement.
        single: bool,
        /// How often in a row it held up a runtime thread for too long.
        strikes: AtomicU8,
    },
    /// At least one of them may write.
    Write,
}

/// Strikes after which a text is slow. More than one, because a thread that
/// the system put aside for a moment looks like a slow statement: calling a
/// busy node's hottest read slow would send all of them to a few threads.
const STRIKES: u8 = 3;

impl Known {
    /// Whether to run it elsewhere than on a runtime thread from the start.
    pub(super) fn is_slow(&self) -> bool {
        self.strikes().is_some_and(|strikes| strikes.load(Ordering::Relaxed) >= STRIKES)
    }

    /// It took too long by the clock.
    pub(super) fn strike(&self) {
        if let Some(strikes) = self.strikes() {
            // Two that come at once may count as one: it is a hint.
            strikes.store(strikes.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        }
    }

    /// It did too much, whatever the clock says.
    pub(super) fn is_found_slow(&self) {
        self.set(STRIKES);
    }

    /// It was quick.
    pub(super) fn is_found_quick(&self) {
        self.set(0);
    }

    fn set(&self, now: u8) {
        // Mostly it is so already: reading does not take the line from other
        // processors.
        if let Some(strikes) = self.strikes()
            && strikes.load(Ordering::Relaxed) != now
        {
            strikes.store(now, Ordering::Relaxed);
        }
    }

    fn strikes(&self) -> Option<&AtomicU8> {
        match self {
            Self::Read { strikes, .. } => Some(strikes),
            Self::Write => None,
        }
    }
}

/// What a text turned out to be.
pub(super) enum Found {
    /// For good: no change of schema turns a reading statement into a writing
    /// one, so it may be remembered.
    Known(Known),
    /// As things stand here; ask again next time.
    WriteForNow,
    /// It runs nowhere.
    Refused(ApiError),
}

/// Compiles the statements of `sql` on a reading connection and says what they
/// are. Nothing is run.
pub(super) fn classify_text(connection: &Connection, gate: &Gate, sql: &str) -> Found {
    if sql.as_bytes().contains(&0) {
        return Found::Refused(ApiError::new(400, "bad_sql", "The SQL text holds a NUL character."));
    }
    gate.forget();
    gate.take_seen();
    let mut batch = Batch::new(connection, sql);
    let mut statements = 0_usize;
    let mut writes = false;
    loop {
        match batch.next() {
            Ok(Some(statement)) => {
                statements += 1;
                match classify_statement(&statement, gate) {
                    Ok(write) => writes |= write,
                    Err(error) => return Found::Refused(error),
                }
            }
            Ok(None) => break,
            Err(error) => return unprepared(&sqlerror::in_text(error, sql), gate),
        }
    }
    if statements == 0 {
        return Found::Refused(ApiError::new(400, "no_queries", "no queries found: the SQL text holds no statement"));
    }
    Found::Known(if writes { Known::Write } else { Known::Read { single: statements == 1, strikes: AtomicU8::new(0) } })
}

/// Whether a compiled statement writes.
fn classify_statement(statement: &Statement<'_>, gate: &Gate) -> Result<bool, ApiError> {
    let seen = gate.take_seen();
    // EXPLAIN DELETE calls itself a write, and only tells.
    if statement.is_explain() != 0 {
        return Ok(false);
    }
    // What a pragma calls itself says nothing: `PRAGMA journal_mode` claims to
    // write, others that set something claim to read.
    if seen.pragma_write {
        return Ok(true);
    }
    if seen.pragma_read && !seen.beside_pragmas {
        return Ok(false);
    }
    if statement.readonly() {
        return Ok(false);
    }
    if !seen.anything {
        // Of all statements that write, VACUUM alone asks the authorizer
        // nothing. It would renumber the rows of tables without a key on this
        // node only, and VACUUM INTO writes a file anywhere.
        return Err(ApiError::new(
            403,
            "forbidden_sql",
            "This SQL is refused: VACUUM is not available, it would rearrange the file of one node only.",
        ));
    }
    Ok(true)
}

fn unprepared(error: &rusqlite::Error, gate: &Gate) -> Found {
    if gate.has_denied() {
        return Found::Refused(gate.explain(error));
    }
    match sqlerror::code(error) {
        ffi::SQLITE_AUTH | ffi::SQLITE_TOOBIG => Found::Refused(gate.explain(error)),
        ffi::SQLITE_ERROR if is_grammar(error) => Found::Refused(gate.explain(error)),
        _ => Found::WriteForNow,
    }
}

/// Whether SQLite's parser gave up, which it does in three ways only. A
/// message that a table's name makes look like one of them costs nothing: the
/// statement could not be compiled either way.
fn is_grammar(error: &rusqlite::Error) -> bool {
    let said = match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.as_str(),
        rusqlite::Error::SqliteFailure(_, Some(msg)) => msg.as_str(),
        _ => return false,
    };
    said.ends_with(": syntax error") || said.starts_with("unrecognized token") || said == "incomplete input"
}

/// What is known of texts that came lately. Bounded by count and by the
/// texts' length.
///
/// Two generations stand for "least recently used": when the young one is
/// full it becomes the old one, and what was not asked for since then goes.
#[derive(Debug, Default)]
pub(super) struct Cache(RwLock<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Box<str>, Arc<Known>>,
    old: HashMap<Box<str>, Arc<Known>>,
}

impl Cache {
    /// Texts of one generation.
    const TEXTS_MAX: usize = 1_024;
    /// The longest text that is remembered, in bytes.
    const LENGTH_MAX: usize = 4 << 10;

    /// What is known of `sql`, or else what `find` finds out.
    pub(super) fn get(&self, sql: &str, find: impl FnOnce() -> Result<Found, ApiError>) -> Result<Entry, ApiError> {
        {
            let generations = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = generations.young.get(sql) {
                return Ok(Entry::Known(Arc::clone(known)));
            }
        }
        let aged = self.0.write().unwrap_or_else(PoisonError::into_inner).old.remove(sql);
        let known = match aged {
            Some(known) => known,
            None => match find()? {
                Found::Known(known) => Arc::new(known),
                Found::WriteForNow => return Ok(Entry::Known(Arc::new(Known::Write))),
                Found::Refused(error) => return Ok(Entry::Refused(error)),
            },
        };
        if sql.len() <= Self::LENGTH_MAX {
            let mut generations = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if generations.young.len() >= Self::TEXTS_MAX {
                generations.old = std::mem::take(&mut generations.young);
            }
            generations.young.insert(sql.into(), Arc::clone(&known));
        }
        Ok(Entry::Known(known))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let generations = self.0.read().unwrap_or_else(PoisonError::into_inner);
        generations.young.len() + generations.old.len()
    }
}

/// What [`Cache::get`] gives.
pub(super) enum Entry {
    /// It runs.
    Known(Arc<Known>),
    /// It does not.
    Refused(ApiError),
}

#[cfg(test)]
mod tests;
