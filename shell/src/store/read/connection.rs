//! One reading connection.
//!
//! Decides its settings, how a read is run on it and what stops the read.

use super::{FAST_BYTES, FAST_STEPS, ReadAnswer, ReadError, ReadRequest};
use crate::api::SqlLimits;
use crate::env::Env;
use crate::error::ApiError;
use crate::sqljson::ResultWriter;
use crate::store::bind::Binder;
use crate::store::classify::Known;
use crate::store::policy::{Gate, harden};
use crate::store::sqlerror;
use base_ha_core::ids::{Hash, Seq, StreamId, Term};
use base_ha_core::position::Position;
use base_ha_core::time::MonoTime;
use rusqlite::config::DbConfig;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Connection, InterruptHandle, OpenFlags, OptionalExtension, Statement, StatementStatus};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// SQLite's machine reports after so many steps.
const STEPS_PER_TICK: u32 = 1_000;
/// Pages that a connection keeps, in KiB; the file system keeps the rest.
const CACHE_KIB: i64 = 1_024;
/// Compiled statements that a connection keeps.
const STATEMENTS_KEPT: usize = 64;
/// The longest text whose compiled form is kept, in bytes: 64 forms of a
/// megabyte of SQL each would be the larger part of the node.
const KEPT_LENGTH_MAX: usize = 4 << 10;
/// How long a slow read waits for a lock. Readers of a write-ahead log wait
/// for nobody but its recovery.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the applied position of the shared stream, whose id is 16 zeros. The
/// join makes it one row in any case, and the row keeps the snapshot open until
/// the statement is reset. The id is no parameter: SQLite would look at its
/// value while it simplifies the join, and compile the statement again each
/// time that it is bound, which takes as long as a point read.
pub(super) const POSITION: &str =
    "SELECT p.seq, p.term, p.hash FROM (SELECT 1) LEFT JOIN _ha_position AS p ON p.stream = zeroblob(16)";
const _: () = assert!(StreamId::SHARED.0 == 0);

/// Opens `path` for reading by the node itself: no authorizer, no limits.
///
/// # Errors
/// What SQLite says.
pub fn open_plain(path: &Path) -> rusqlite::Result<Connection> {
    // Without SQLITE_OPEN_URI: a path is a path, whatever it looks like.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // The last connection to close deletes the write-ahead log by its name,
    // which after an install may be another database's.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(connection)
}

/// Reads the applied position of the shared stream in the transaction that is
/// open on `connection`, if one is.
///
/// # Errors
/// What SQLite says.
pub(in crate::store) fn position(connection: &Connection) -> rusqlite::Result<Position> {
    connection.prepare_cached(POSITION)?.query_row([], position_of)
}

fn position_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Position> {
    let Some(seq) = row.get::<_, Option<i64>>(0)? else {
        return Ok(Position::START);
    };
    // Sequence numbers and terms are counted from 0 and stay far below 2^63.
    let number = |n: i64, column| u64::try_from(n).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, n));
    Ok(Position {
        seq: Seq(number(seq, 0)?),
        term: Term(number(row.get(1)?, 1)?),
        hash: Hash(row.get::<_, [u8; 32]>(2)?),
    })
}

/// Which term the entry at or before `?1` was made in.
const TERM: &str = "SELECT term FROM _ha_terms WHERE first <= ?1 ORDER BY first DESC LIMIT 1";

/// Whether the data at `position`, which is not before `seq`, holds that entry as
/// it was made in `term`. A term has one writer, whose log never changes under
/// it: with an entry of a term everything before it in that term is there as
/// well. So only a token of an older term than the data's costs a look-up.
fn has(connection: &Connection, position: Position, seq: Seq, term: Term) -> rusqlite::Result<bool> {
    if seq == Seq(0) || term == position.term {
        return Ok(true);
    }
    if term > position.term {
        return Ok(false);
    }
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let made: Option<i64> = connection.prepare_cached(TERM)?.query_row([number(seq.0)], |row| row.get(0)).optional()?;
    Ok(made == Some(number(term.0)))
}

/// Where a read runs.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    /// On a runtime thread.
    Fast {
        /// Until when.
        until: MonoTime,
    },
    /// Elsewhere.
    Slow,
}

/// Why a read ended without an answer.
pub(super) enum Stop {
    /// It is too long for a runtime thread.
    Budget {
        /// By what it did; otherwise by the clock alone.
        certain: bool,
    },
    /// A lock was held.
    Busy,
    /// For good.
    Error(ReadError),
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self::Error(ReadError::Sql(error))
    }
}

/// What the progress handler goes by. Atomics because the connection moves
/// between threads; only the one that has it touches them, but for
/// `abandoned`.
#[derive(Default)]
struct Meter {
    /// Calls left, `u32::MAX` for any number.
    left: AtomicU32,
    /// Calls made.
    ticks: AtomicU32,
    /// Steps of statements that have ended.
    steps: AtomicU32,
    /// When to stop, in nanoseconds of the monotonic clock.
    until: AtomicU64,
    /// This handler stopped it: for its steps or for its time.
    tripped: AtomicU8,
    /// Nobody waits for it any more.
    abandoned: AtomicBool,
}

impl Meter {
    fn start(&self, left: u32, until: MonoTime) {
        self.left.store(left, Ordering::Relaxed);
        self.ticks.store(0, Ordering::Relaxed);
        self.steps.store(0, Ordering::Relaxed);
        self.until.store(until.0, Ordering::Relaxed);
        self.tripped.store(0, Ordering::Relaxed);
    }

    /// Whether to stop.
    fn tick(&self, now: impl FnOnce() -> MonoTime) -> bool {
        let ticks = self.ticks.load(Ordering::Relaxed).saturating_add(1);
        self.ticks.store(ticks, Ordering::Relaxed);
        let tripped = if ticks >= self.left.load(Ordering::Relaxed) {
            STEPS
        } else if self.abandoned.load(Ordering::Relaxed) || now().0 >= self.until.load(Ordering::Relaxed) {
            TIME
        } else {
            return false;
        };
        self.tripped.store(tripped, Ordering::Relaxed);
        true
    }

    /// Adds a statement's steps; all so far.
    fn add_steps(&self, steps: u32) -> u32 {
        let all = self.steps.load(Ordering::Relaxed).saturating_add(steps);
        self.steps.store(all, Ordering::Relaxed);
        all
    }

    fn tripped(&self) -> u8 {
        self.tripped.load(Ordering::Relaxed)
    }
}

/// [`Meter::tripped`]: it took more steps than it had.
const STEPS: u8 = 1;
/// [`Meter::tripped`]: its time was up, or nobody waited for it.
const TIME: u8 = 2;

/// Stops a connection's read from another thread.
pub(super) struct Brake {
    meter: Arc<Meter>,
    handle: InterruptHandle,
}

impl Brake {
    /// Stops what runs, or what is about to.
    pub(super) fn pull(&self) {
        // The flag first: an interrupt that comes before the first step is
        // forgotten by SQLite, one that the flag announces is not. The
        // interrupt too: during some steps nobody looks at the flag.
        self.meter.abandoned.store(true, Ordering::Relaxed);
        self.handle.interrupt();
    }

    /// The read has ended; the connection may serve another.
    pub(super) fn release(&self) {
        self.meter.abandoned.store(false, Ordering::Relaxed);
    }
}

/// A connection for users' reads.
pub(super) struct Reader {
    connection: Connection,
    gate: Arc<Gate>,
    meter: Arc<Meter>,
    generation: u64,
}

impl Reader {
    /// Opens `path`; `generation` says which file that is.
    pub(super) fn open<E: Env>(env: &E, path: &Path, generation: u64) -> Result<Self, ApiError> {
        let told = |e: rusqlite::Error| sqlerror::api_error(&e);
        // While a snapshot replaces the file there is none for a moment.
        let mut connection = open_plain(path).map_err(|e| match told(e) {
            error if error.status < 500 => error,
            error => ApiError::new(503, "no_data", format!("This node's data can't be opened now: {}", error.message))
                .retry_after(1),
        })?;
        connection.busy_timeout(Duration::ZERO).map_err(told)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        harden(&connection).map_err(told)?;
        let gate = Gate::install(&mut connection).map_err(told)?;
        let meter = Arc::new(Meter::default());
        let (inside, env) = (Arc::clone(&meter), env.clone());
        let steps = i32::try_from(STEPS_PER_TICK).expect("a thousand");
        connection.progress_handler(steps, Some(move || inside.tick(|| env.now().mono))).map_err(told)?;
        Ok(Self { connection, gate, meter, generation })
    }

    pub(super) fn connection(&self) -> &Connection {
        self.meter.start(u32::MAX, MonoTime(u64::MAX));
        &self.connection
    }

    /// See [`super::Reads::contains`].
    pub(super) fn contains(&self, seq: Seq, term: Term) -> rusqlite::Result<bool> {
        self.meter.start(u32::MAX, MonoTime(u64::MAX));
        self.gate.set_open(true);
        let asked = position(&self.connection)
            .and_then(|at| if at.seq < seq { Ok(true) } else { has(&self.connection, at, seq, term) });
        self.gate.set_open(false);
        asked
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// What stops this connection's read from another thread.
    pub(super) fn brake(&self) -> Brake {
        Brake { meter: Arc::clone(&self.meter), handle: self.connection.get_interrupt_handle() }
    }

    /// Whether the last read would have fitted a runtime thread.
    pub(super) fn was_quick(&self) -> bool {
        self.meter.steps.load(Ordering::Relaxed) < FAST_STEPS / 2
    }

    /// Runs a read, position and rows from one snapshot.
    pub(super) fn run(&mut self, request: &ReadRequest, known: &[Arc<Known>], mode: Mode) -> Result<ReadAnswer, Stop> {
        let deadline = request.limits.deadline;
        match mode {
            Mode::Fast { until } => self.meter.start(FAST_STEPS / STEPS_PER_TICK, until.min(deadline)),
            Mode::Slow => {
                self.meter.start(u32::MAX, deadline);
                self.busy_timeout(BUSY_TIMEOUT)?;
            }
        }
        let result = self.run_in_snapshot(request, known, mode);
        self.gate.set_open(false);
        if matches!(mode, Mode::Slow) {
            self.busy_timeout(Duration::ZERO)?;
        }
        // Every statement is reset by now, and with the last one the snapshot
        // is gone: an open one would keep the log from being recycled.
        let open = self.connection.transaction_state(Some(rusqlite::MAIN_DB)).map_err(|e| sqlerror::api_error(&e))?;
        assert!(matches!(open, rusqlite::TransactionState::None), "a read left its snapshot open");
        result
    }

    fn busy_timeout(&self, time: Duration) -> Result<(), ApiError> {
        self.connection.busy_timeout(time).map_err(|e| sqlerror::api_error(&e))
    }

    fn run_in_snapshot(&self, request: &ReadRequest, known: &[Arc<Known>], mode: Mode) -> Result<ReadAnswer, Stop> {
        // The node's own statement may be compiled again when it is stepped:
        // the gate stays open until its row is here.
        self.gate.forget();
        self.gate.set_open(true);
        let stop = |e: rusqlite::Error| self.stop(&e, mode);
        let mut first = self.connection.prepare_cached(POSITION).map_err(stop)?;
        let mut rows = first.query([]).map_err(stop)?;
        let position = match rows.next().map_err(stop)? {
            Some(row) => position_of(row).map_err(stop)?,
            None => Position::START,
        };
        let forked = match request.seen {
            Some((seq, term)) if seq <= position.seq => !has(&self.connection, position, seq, term).map_err(stop)?,
            Some(_) | None => false,
        };
        self.gate.set_open(false);
        if forked {
            return Err(Stop::Error(ReadError::Forked));
        }
        if request.at_least.is_some_and(|least| position.seq < least) {
            return Err(Stop::Error(ReadError::Behind { position }));
        }
        let mut writer = ResultWriter::new(request.many, request.limits.rows_max, request.limits.answer_bytes_max);
        for (statement, text) in request.statements.iter().zip(known) {
            let mut binder = Binder::new(&statement.params)?;
            let single = matches!(**text, Known::Read { single: true, .. });
            if single && statement.sql.len() <= KEPT_LENGTH_MAX {
                let mut compiled = self.connection.prepare_cached(&statement.sql).map_err(stop)?;
                self.run_statement(&mut compiled, &mut binder, &mut writer, mode)?;
            } else {
                let mut batch = Batch::new(&self.connection, &statement.sql);
                let stop_in = |e| stop(sqlerror::in_text(e, &statement.sql));
                while let Some(mut compiled) = batch.next().map_err(stop_in)? {
                    check_results(&writer, &request.limits)?;
                    self.run_statement(&mut compiled, &mut binder, &mut writer, mode)?;
                }
            }
            binder.finish()?;
        }
        drop(rows);
        Ok(ReadAnswer { body: writer.finish(), position })
    }

    fn run_statement(
        &self,
        statement: &mut Statement<'_>,
        binder: &mut Binder<'_>,
        writer: &mut ResultWriter,
        mode: Mode,
    ) -> Result<(), Stop> {
        binder.bind(statement)?;
        let columns = statement.column_count();
        if columns == 0 {
            // A pragma that answers nothing, such as `foreign_key_check` of a
            // sound database, still has columns; what has none did nothing.
            writer.begin([]);
            statement.raw_execute().map_err(|e| self.stop(&e, mode))?;
            return Ok(());
        }
        let mut rows = statement.raw_query();
        let mut begun = false;
        loop {
            // The columns are asked for after the first step, which compiles
            // the statement again if the schema has changed.
            let row = rows.next().map_err(|e| self.stop(&e, mode))?;
            let Some(row) = row else { break };
            if !begun {
                begun = true;
                begin(writer, row.as_ref())?;
            }
            writer.row(row)?;
            if matches!(mode, Mode::Fast { .. }) && writer.len() > FAST_BYTES {
                return Err(Stop::Budget { certain: true });
            }
        }
        drop(rows);
        if !begun {
            begin(writer, statement)?;
        }
        // Statements that are too short for the progress handler add up. The
        // counter starts at 0 for the next run, so that it always ticks at
        // the same steps.
        let steps = u32::try_from(statement.reset_status(StatementStatus::VmStep)).unwrap_or(u32::MAX);
        if self.meter.add_steps(steps) > FAST_STEPS && matches!(mode, Mode::Fast { .. }) {
            return Err(Stop::Budget { certain: true });
        }
        Ok(())
    }

    fn stop(&self, error: &rusqlite::Error, mode: Mode) -> Stop {
        let tripped = self.meter.tripped();
        if sqlerror::is_interrupt(error) && tripped != 0 && matches!(mode, Mode::Fast { .. }) {
            return Stop::Budget { certain: tripped == STEPS };
        }
        if sqlerror::is_busy(error) {
            return Stop::Busy;
        }
        Stop::Error(ReadError::Sql(self.gate.explain(error)))
    }
}

fn begin(writer: &mut ResultWriter, statement: &Statement<'_>) -> Result<(), ApiError> {
    let mut bad = None;
    let names = (0..statement.column_count()).map_while(|n| match statement.column_name(n) {
        Ok(name) => Some(name),
        Err(error) => {
            bad = Some(sqlerror::api_error(&error));
            None
        }
    });
    writer.begin(names);
    match bad {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// One text can hold as many statements as its length allows; results are
/// counted as statements of a request are.
fn check_results(writer: &ResultWriter, limits: &SqlLimits) -> Result<(), ApiError> {
    if writer.results() < limits.statements_max {
        return Ok(());
    }
    Err(ApiError::new(
        413,
        "too_many_statements",
        format!("One request holds at most {} statements; nothing was done.", limits.statements_max),
    ))
}
