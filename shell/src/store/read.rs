//! Reads: rows and the position they belong to, out of one snapshot.
//!
//! Decides where a read runs and when it is stopped. Knows nothing of who
//! writes, of HTTP, or of whether the node is fresh enough: the caller names
//! the position it needs ([`ReadRequest::at_least`]).
//!
//! A read runs first on the thread it came in on, for a point read takes less
//! time than a hop to another thread. It has [`FAST_STEPS`] steps of SQLite's
//! machine, [`FAST_TIME`] and [`FAST_BYTES`] there; whatever exceeds one of them is
//! stopped and run again by `Env::blocking`, under its real deadline, at most
//! as many at once as the pool is large. A text that was slow goes there
//! directly until it is quick again.
//!
//! Connections are opened when needed and kept when idle, up to the pool's
//! size. Each belongs to a generation: when `data.db` is replaced, connections
//! of the old generation still hold the old file and are closed, not reused.

mod connection;

use self::connection::{Brake, Mode, Reader, Stop};
use super::backup;
use super::classify::{Cache, Class, Entry, Known, classify_text};
use super::sqlerror;
use crate::api::{SqlLimits, Statement};
use crate::env::Env;
use crate::error::ApiError;
use base_ha_core::ids::{Seq, Term};
use base_ha_core::position::Position;
use base_ha_core::time::MonoTime;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

pub use self::connection::open_plain;
pub(super) use self::connection::position;

/// Steps of SQLite's machine that a read has on a runtime thread.
pub const FAST_STEPS: u32 = 20_000;
/// How long a read may hold up a runtime thread, as far as SQLite lets itself
/// be stopped.
pub const FAST_TIME: Duration = Duration::from_millis(2);
/// Bytes of answer that a read may write on a runtime thread.
pub const FAST_BYTES: usize = 1 << 20;
/// Slow reads that may wait for their turn, for each that may run.
const WAITING_PER_SLOT: usize = 16;

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
    /// An entry that the client has seen, and the term in which it was made: a
    /// snapshot that has another one there is of another history.
    pub seen: Option<(Seq, Term)>,
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
    /// The snapshot contains another entry where the client has seen one: what
    /// it saw was given up, and this is not newer but different.
    Forked,
    /// A statement may write: it belongs to the writer.
    NotReadOnly,
    /// A client's error, or a node that can't read now.
    Sql(ApiError),
}

impl From<ApiError> for ReadError {
    fn from(error: ApiError) -> Self {
        Self::Sql(error)
    }
}

/// How reads have gone since the start.
#[derive(Debug, Default)]
pub struct ReadStats {
    /// Answered on the thread they came in on.
    pub fast: AtomicU64,
    /// Answered by `Env::blocking`.
    pub slow: AtomicU64,
    /// Stopped on the fast path and run again.
    pub moved: AtomicU64,
    /// Stopped at their deadline.
    pub timed_out: AtomicU64,
    /// Refused because too many slow ones waited.
    pub shed: AtomicU64,
    /// Connections opened.
    pub opened: AtomicU64,
}

/// The readers of `data.db`. Clones share one pool.
pub struct Reads<E: Env>(Arc<Inner<E>>);

impl<E: Env> Clone for Reads<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<E> {
    env: E,
    path: PathBuf,
    size: usize,
    idle: Mutex<Vec<Reader>>,
    generation: AtomicU64,
    quarantined: AtomicBool,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    cache: Cache,
    stats: Arc<ReadStats>,
}

impl<E: Env> Reads<E> {
    /// Opens the pool on an existing `data.db` that has the tables of
    /// `schema_sql`. `size` bounds idle connections and concurrent slow reads.
    ///
    /// # Errors
    /// 500 if the file can't be opened.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn open(env: E, path: &Path, size: usize, stats: Arc<ReadStats>) -> Result<Self, ApiError> {
        assert!(size > 0, "a pool without connections answers nothing");
        let reads = Self(Arc::new(Inner {
            env,
            path: path.to_owned(),
            size,
            idle: Mutex::new(Vec::new()),
            generation: AtomicU64::new(0),
            quarantined: AtomicBool::new(false),
            slots: Arc::new(Semaphore::new(size)),
            waiting: AtomicUsize::new(0),
            cache: Cache::default(),
            stats,
        }));
        let first = reads.take()?;
        reads.give(first);
        Ok(reads)
    }

    /// How reads have gone.
    pub fn stats(&self) -> &ReadStats {
        &self.0.stats
    }

    /// `data.db` was replaced, or is about to be: no connection that was open
    /// until now is used for another read.
    pub fn invalidate(&self) {
        // First the generation: a read that ends in between gives its
        // connection back under the old number and it is closed.
        self.0.generation.fetch_add(1, Ordering::SeqCst);
        let old = std::mem::take(&mut *self.idle());
        drop(old);
    }

    /// Refuses reads from now on (`true`), or serves them again. Reads that
    /// run already end as they would have.
    pub fn quarantine(&self, on: bool) {
        self.0.quarantined.store(on, Ordering::SeqCst);
    }

    /// Whether reads are refused.
    pub fn is_quarantined(&self) -> bool {
        self.0.quarantined.load(Ordering::SeqCst)
    }

    /// Says what a request is. Texts that came lately cost a look-up.
    ///
    /// # Errors
    /// 500 if `data.db` can't be opened.
    pub fn classify(&self, statements: &[Statement]) -> Result<Class, ApiError> {
        let mut class = Class::Read;
        for statement in statements {
            match self.look_up(&statement.sql)? {
                Entry::Known(known) => {
                    if matches!(*known, Known::Write) {
                        class = Class::Write;
                    }
                }
                Entry::Refused(error) => return Ok(Class::Refused(error)),
            }
        }
        Ok(class)
    }

    /// Runs a read.
    ///
    /// # Errors
    /// [`ReadError`]; as [`ReadError::Sql`] also 408 `statement_timeout`, 503
    /// `too_many_reads`, 503 `quarantined`.
    pub async fn run(&self, request: ReadRequest) -> Result<ReadAnswer, ReadError> {
        self.fit()?;
        let mut known = Vec::with_capacity(request.statements.len());
        for statement in &request.statements {
            match self.look_up(&statement.sql)? {
                Entry::Known(text) if matches!(*text, Known::Read { .. }) => known.push(text),
                Entry::Known(_) => return Err(ReadError::NotReadOnly),
                Entry::Refused(error) => return Err(ReadError::Sql(error)),
            }
        }
        let started = self.0.env.now().mono;
        if !known.iter().any(|text| text.is_slow()) {
            match self.run_here(&request, &known, started)? {
                Some(answer) => return Ok(answer),
                None => self.0.stats.moved.fetch_add(1, Ordering::Relaxed),
            };
        }
        self.run_elsewhere(request, known).await
    }

    /// Copies the data into a new file in `dir` (see [`backup::copy`]). A caller
    /// that goes away stops the copy.
    ///
    /// # Errors
    /// What [`backup::copy`] says; 503 `quarantined`.
    pub async fn copy(&self, dir: PathBuf, contents: backup::Contents) -> Result<backup::Copied, ApiError> {
        self.fit()?;
        let gone = Gone(Arc::new(AtomicBool::new(false)));
        let files = self.0.env.files();
        let (source, seen) = (self.0.path.clone(), Arc::clone(&gone.0));
        let call = move || {
            backup::copy(&files, &source, &dir, contents, |_| {
                if seen.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        };
        self.0.env.blocking(call).await
    }

    /// Whether the data holds entry `seq` as it was made in `term`. An entry
    /// that is not there yet is not contradicted.
    ///
    /// # Errors
    /// 500 if `data.db` can't be read.
    pub fn contains(&self, seq: Seq, term: Term) -> Result<bool, ApiError> {
        let reader = self.take()?;
        let contained = reader.contains(seq, term);
        self.give(reader);
        contained.map_err(|e| sqlerror::api_error(&e))
    }

    fn fit(&self) -> Result<(), ApiError> {
        if !self.is_quarantined() {
            return Ok(());
        }
        Err(ApiError::new(
            503,
            "quarantined",
            "This node's data differs from its peers' and is being replaced; ask another node.",
        )
        .retry_after(1))
    }

    /// On this thread; `None` if it took too long.
    fn run_here(
        &self,
        request: &ReadRequest,
        known: &[Arc<Known>],
        started: MonoTime,
    ) -> Result<Option<ReadAnswer>, ReadError> {
        let mut reader = self.take()?;
        let result = reader.run(request, known, Mode::Fast { until: started.after(FAST_TIME) });
        match result {
            Ok(answer) => {
                self.give(reader);
                // Some steps, such as counting a table, can't be stopped: only
                // the clock tells that they held this thread up.
                let held_up = self.0.env.now().mono.since(started) > FAST_TIME;
                known.iter().for_each(|text| if held_up { text.strike() } else { text.is_found_quick() });
                self.0.stats.fast.fetch_add(1, Ordering::Relaxed);
                Ok(Some(answer))
            }
            Err(Stop::Budget { certain }) => {
                self.give(reader);
                known.iter().for_each(|text| if certain { text.is_found_slow() } else { text.strike() });
                Ok(None)
            }
            Err(Stop::Busy) => {
                self.give(reader);
                Ok(None)
            }
            Err(Stop::Error(error)) => Err(self.ended(reader, error)),
        }
    }

    /// Through `Env::blocking`, one of a bounded number.
    async fn run_elsewhere(&self, request: ReadRequest, known: Vec<Arc<Known>>) -> Result<ReadAnswer, ReadError> {
        let deadline = request.limits.deadline;
        let left = deadline.since(self.0.env.now().mono);
        let permit = {
            let _place = self.queue()?;
            match tokio::time::timeout(left, Arc::clone(&self.0.slots).acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => return Err(self.shed()),
            }
        };
        let mut reader = self.take()?;
        // A client that goes away takes its read with it, and with the read
        // its connection: the closure's result is dropped unseen.
        let mut stopper = Stopper { brake: reader.brake(), armed: true };
        let env = self.0.env.clone();
        let work = self.0.env.blocking(move || {
            let started = env.now().mono;
            let result = reader.run(&request, &known, Mode::Slow);
            if result.is_ok() {
                let quick = reader.was_quick() && env.now().mono.since(started) < FAST_TIME / 2;
                known.iter().for_each(|text| if quick { text.is_found_quick() } else { text.is_found_slow() });
            }
            drop(permit);
            (reader, result)
        });
        let mut work = std::pin::pin!(work);
        let left = deadline.since(self.0.env.now().mono);
        let (reader, result) = tokio::select! {
            biased;
            done = &mut work => done,
            () = tokio::time::sleep(left) => {
                // The progress handler stops most statements; this stops the
                // steps during which it is not called, such as a count.
                stopper.stop();
                work.await
            }
        };
        // From here on the connection may serve another read.
        stopper.disarm();
        match result {
            Ok(answer) => {
                self.give(reader);
                self.0.stats.slow.fetch_add(1, Ordering::Relaxed);
                Ok(answer)
            }
            Err(Stop::Budget { .. } | Stop::Busy) => {
                self.give(reader);
                Err(ReadError::Sql(
                    ApiError::new(503, "busy", "The database was busy for too long; try again.").retry_after(1),
                ))
            }
            Err(Stop::Error(error)) => Err(self.ended(reader, error)),
        }
    }

    /// After a read that failed: keeps the connection if it was the SQL's
    /// fault.
    fn ended(&self, reader: Reader, error: ReadError) -> ReadError {
        match &error {
            ReadError::Sql(told) if told.code == "statement_timeout" => {
                self.0.stats.timed_out.fetch_add(1, Ordering::Relaxed);
            }
            ReadError::Sql(told) if told.status >= 500 => {}
            ReadError::Sql(_) | ReadError::Behind { .. } | ReadError::Forked | ReadError::NotReadOnly => {
                self.give(reader)
            }
        }
        error
    }

    fn queue(&self) -> Result<Place<'_>, ReadError> {
        let place = Place(&self.0.waiting);
        if self.0.waiting.fetch_add(1, Ordering::Relaxed) >= self.0.size * WAITING_PER_SLOT {
            return Err(self.shed());
        }
        Ok(place)
    }

    fn shed(&self) -> ReadError {
        self.0.stats.shed.fetch_add(1, Ordering::Relaxed);
        ReadError::Sql(
            ApiError::new(
                503,
                "too_many_reads",
                "Too many long reads are waiting on this node; nothing was read. Try again or ask another node.",
            )
            .retry_after(1),
        )
    }

    fn look_up(&self, sql: &str) -> Result<Entry, ApiError> {
        self.0.cache.get(sql, || {
            let reader = self.take()?;
            let found = classify_text(reader.connection(), reader.gate(), sql);
            self.give(reader);
            Ok(found)
        })
    }

    fn take(&self) -> Result<Reader, ApiError> {
        let generation = self.0.generation.load(Ordering::SeqCst);
        let idle = self.idle().pop();
        match idle {
            Some(reader) if reader.generation() == generation => Ok(reader),
            Some(_) | None => {
                self.0.stats.opened.fetch_add(1, Ordering::Relaxed);
                Reader::open(&self.0.env, &self.0.path, generation)
            }
        }
    }

    fn give(&self, reader: Reader) {
        let mut idle = self.idle();
        // Under the lock: `invalidate` moves the number before it takes the
        // lock to empty the list, so an old connection can't slip in behind.
        if reader.generation() == self.0.generation.load(Ordering::SeqCst) && idle.len() < self.0.size {
            idle.push(reader);
        } else {
            drop(idle);
            drop(reader);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a copy that nobody waits for it any more.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A place among the slow reads that wait.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Stops a read whose time is up or whose caller is gone.
struct Stopper {
    brake: Brake,
    armed: bool,
}

impl Stopper {
    fn stop(&self) {
        self.brake.pull();
    }

    /// The read has ended.
    fn disarm(&mut self) {
        self.armed = false;
        self.brake.release();
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        if self.armed {
            self.stop();
        }
    }
}

#[cfg(test)]
mod tests;
