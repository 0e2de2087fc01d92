//! `log.db`: the entries, where they begin, and what else must change in the
//! same transaction.
//!
//! Decides tables, transactions and what counts as damage. Knows nothing of
//! jobs, of the hard state, or of when to trim.
//!
//! An entry's key is its stream's number in the top bits and its seq below:
//! the shared stream has number 0, so there the key is the seq and appending
//! goes to the right edge of one B-tree. A row's fixed-size columns come before
//! the payload: positions are read without touching overflow pages.

use super::LogError;
use super::hard_state::{decode_position, encode_position};
use super::orphans;
use crate::env::files::{Files, Mode};
use crate::wal;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{Hash, Incarnation, Seq, StreamId, Term};
use base_ha_core::position::Position;
use base_ha_core::time::WallTime;
use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One `Append` record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    /// The last entry to keep, if any are to be forgotten.
    pub(super) keep: Option<Seq>,
    /// What follows.
    pub(super) entries: &'a [Entry],
}

/// A membership as it lies in the log: the entry that made it, and its bytes.
pub(super) type RawMembership = (Seq, Bytes);

/// The open log.
#[derive(Debug)]
pub(super) struct Entries {
    conn: Connection,
    /// Pages in the WAL, as of the last commit.
    wal_pages: Arc<AtomicU64>,
    base: Position,
    end: Position,
    /// The highest stamp that the log held at `end`.
    hlc: Hlc,
}

/// A named value in `meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meta {
    /// The incarnation that can no longer answer for its votes and acks.
    AmnesiaOf,
    /// The position of a snapshot that is about to replace `data.db`.
    InstallIntent,
    /// The hard state of a re-founded cluster, not yet in its file.
    Refound,
}

impl Meta {
    fn key(self) -> &'static str {
        match self {
            Self::AmnesiaOf => "amnesia_of",
            Self::InstallIntent => "install_intent",
            Self::Refound => "refound",
        }
    }
}

const SCHEMA: &str = "
    CREATE TABLE streams (
        number INTEGER PRIMARY KEY,
        stream BLOB NOT NULL UNIQUE,
        base BLOB NOT NULL,             -- the position before the first entry
        base_hlc INTEGER NOT NULL,      -- no entry up to there had a higher stamp
        member_seq INTEGER,             -- the last membership up to the base
        member BLOB
    );
    CREATE TABLE entries (
        at INTEGER PRIMARY KEY,
        term INTEGER NOT NULL,
        hlc INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        prev_hash BLOB NOT NULL,
        hash BLOB NOT NULL,
        payload BLOB NOT NULL
    );
    CREATE INDEX configs ON entries (at) WHERE kind = 1;
    CREATE TABLE terms (first INTEGER PRIMARY KEY, term INTEGER NOT NULL);
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE orphans (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        stream BLOB NOT NULL,
        seq INTEGER NOT NULL,
        term INTEGER NOT NULL,
        hlc INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        prev_hash BLOB NOT NULL,
        hash BLOB NOT NULL,
        payload BLOB NOT NULL,
        forgotten INTEGER NOT NULL      -- wall clock, milliseconds
    );
";

/// `bhaL`, so that `file` and a person can tell what it is.
const APPLICATION_ID: i32 = 0x6268_614c;
const VERSION: i32 = 1;

/// The columns that [`read_entry`] wants.
const COLUMNS: &str = "at, term, hlc, kind, prev_hash, hash, payload";

impl Entries {
    /// Makes an empty log at `path`, whole or not at all; the caller fsyncs
    /// the directory.
    pub(super) fn create(files: &dyn Files, path: &Path, amnesia_of: Option<Incarnation>) -> Result<(), LogError> {
        let new = path.with_extension("new");
        let failed = |e: std::io::Error| LogError::Failed(format!("{}: {e}", new.display()));
        match files.remove(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        // SQLite gives its journal and WAL the permissions of the file it finds.
        drop(files.open(&new, Mode::New).map_err(failed)?);
        let conn = Connection::open(&new)?;
        conn.execute_batch("PRAGMA page_size = 4096; PRAGMA synchronous = FULL;")?;
        conn.execute_batch(&format!(
            "BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
        ))?;
        conn.execute(
            "INSERT INTO streams VALUES (0, ?1, ?2, 0, NULL, NULL)",
            params![StreamId::SHARED.0.to_le_bytes(), encode_position(&Position::START)],
        )?;
        if let Some(incarnation) = amnesia_of {
            conn.execute(
                "INSERT INTO meta VALUES (?1, ?2)",
                params![Meta::AmnesiaOf.key(), incarnation.0.to_le_bytes()],
            )?;
        }
        conn.close().map_err(|(_, e)| e)?;
        files.rename(&new, path).map_err(failed)
    }

    /// Opens the log and checks its ends.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if it is not a whole log.
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        let mut conn = Connection::open_with_flags(
            path,
            rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        // EXCLUSIVE before the first access: the WAL's index then lives in this
        // process's memory, and nothing else can write the file.
        conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE")?;
        wal::enter(&conn)?;
        conn.execute_batch(
            "PRAGMA synchronous = FULL;
             PRAGMA cache_size = -1024; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;
             PRAGMA cell_size_check = ON; PRAGMA journal_size_limit = 33554432;",
        )?;
        // Checkpoints are ours to run: SQLite's own ones swallow a failed
        // fsync and try it again later (R11).
        let wal_pages = Arc::new(AtomicU64::new(0));
        let pages = wal_pages.clone();
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, n: std::ffi::c_int| {
            pages.store(u64::try_from(n).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        conn.set_prepared_statement_cache_capacity(64);
        let version: i32 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version > VERSION {
            return Err(LogError::Failed(format!("log.db has version {version}, this program knows {VERSION}")));
        }
        let mut this = Self { conn, wal_pages, base: Position::START, end: Position::START, hlc: Hlc(0) };
        this.read_ends()?;
        Ok(this)
    }

    fn read_ends(&mut self) -> Result<(), LogError> {
        let base = self
            .conn
            .query_row("SELECT base, base_hlc FROM streams WHERE number = 0", [], |row| {
                Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?))
            })
            .optional()
            .map_err(missing_is_damage)?;
        let (base, base_hlc) = base.ok_or_else(|| LogError::Damaged("its base is gone".into()))?;
        self.base = decode_position(&base).ok_or_else(|| LogError::Damaged("its base is not a position".into()))?;
        let first: Option<i64> = self.conn.query_row("SELECT min(at) FROM entries", [], |row| row.get(0))?;
        if let Some(first) = first.filter(|first| *first != key(self.base.seq) + 1) {
            return Err(LogError::Damaged(format!("it begins at {first} and its base is {}", self.base.seq)));
        }
        let last = self
            .statement("SELECT at, term, hlc, hash FROM entries ORDER BY at DESC LIMIT 1")?
            .query_row([], |row| Ok((read_position(row, 3)?, Hlc(row.get::<_, i64>(2)? as u64))))
            .optional()?;
        let (end, hlc) = match last {
            Some((end, hlc)) => (end?, hlc),
            None => (self.base, Hlc(0)),
        };
        self.end = end;
        self.hlc = hlc.max(Hlc(base_hlc as u64));
        Ok(())
    }

    /// The point before the first entry.
    pub(super) fn base(&self) -> Position {
        self.base
    }

    /// The last entry; the base if there is none.
    pub(super) fn end(&self) -> Position {
        self.end
    }

    /// The highest stamp up to the end.
    pub(super) fn hlc(&self) -> Hlc {
        self.hlc
    }

    /// Carries out records in order, in one transaction; durable when this
    /// returns.
    ///
    /// # Errors
    /// On [`LogError::Full`] nothing was changed. After any other error what
    /// reached the disk is not known.
    ///
    /// # Panics
    /// If a record does not follow what is there: the core broke its promise,
    /// and writing on would break the chain.
    pub(super) fn append(&mut self, changes: &[Change<'_>], wall: WallTime) -> Result<(), LogError> {
        let (base, mut end, mut hlc) = (self.base, self.end, self.hlc);
        self.transaction(|this| {
            for change in changes {
                if let Some(keep) = change.keep.filter(|keep| *keep < end.seq) {
                    assert!(keep >= base.seq, "cannot keep {keep}: the log begins after {}", base.seq);
                    this.forget_after(keep, wall)?;
                    end = this.position_in(keep, base)?.ok_or_else(|| gap(keep))?;
                }
                let mut insert = this.statement("INSERT INTO entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
                for entry in change.entries {
                    assert_eq!(entry.stream, StreamId::SHARED, "one stream until the merging modes come");
                    assert!(entry.follows(&end), "entry {} of term {} does not follow {end:?}", entry.seq, entry.term);
                    insert.execute(params![
                        key(entry.seq),
                        entry.term.0 as i64,
                        entry.hlc.0 as i64,
                        entry.kind as u8,
                        entry.prev_hash.0,
                        entry.hash.0,
                        &entry.payload[..],
                    ])?;
                    if entry.term != end.term || end.seq == base.seq {
                        this.statement("INSERT OR REPLACE INTO terms VALUES (?1, ?2)")?
                            .execute(params![key(entry.seq), entry.term.0 as i64])?;
                    }
                    end = entry.position();
                    hlc = hlc.max(entry.hlc);
                }
            }
            Ok(())
        })?;
        self.end = end;
        self.hlc = hlc;
        Ok(())
    }

    /// The entry at `seq`, or the base; `None` outside.
    pub(super) fn position(&self, seq: Seq) -> Result<Option<Position>, LogError> {
        self.position_in(seq, self.base)
    }

    fn position_in(&self, seq: Seq, base: Position) -> Result<Option<Position>, LogError> {
        if seq == base.seq {
            return Ok(Some(base));
        }
        self.statement("SELECT at, term, hlc, hash FROM entries WHERE at = ?1")?
            .query_row([key(seq)], |row| read_position(row, 3))
            .optional()?
            .transpose()
    }

    /// Whether the log contains this very point.
    pub(super) fn contains(&self, position: &Position) -> Result<bool, LogError> {
        Ok(self.position(position.seq)?.is_some_and(|own| own == *position))
    }

    /// Reads entries `from..=through`, as many as fit into `bytes_max` but at
    /// least one, with the point before them. Empty if `from` is not there.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if what was read is not what was written.
    pub(super) fn load(&self, from: Seq, through: Seq, bytes_max: usize) -> Result<(Position, Vec<Entry>), LogError> {
        if from <= self.base.seq || from > self.end.seq {
            return Ok((self.base, Vec::new()));
        }
        let before = Seq(from.0 - 1);
        let prev = self.position(before)?.ok_or_else(|| gap(before))?;
        let through = through.min(self.end.seq);
        let mut statement =
            self.statement(&format!("SELECT {COLUMNS} FROM entries WHERE at BETWEEN ?1 AND ?2 ORDER BY at"))?;
        let mut rows = statement.query([key(from), key(through)])?;
        let (mut entries, mut bytes, mut last) = (Vec::new(), 0, prev);
        while let Some(row) = rows.next()? {
            let entry = read_entry(row)??;
            if !entry.follows(&last) {
                return Err(LogError::Damaged(format!("entry {} does not follow the one before it", entry.seq)));
            }
            bytes += entry.payload.len();
            if bytes > bytes_max && !entries.is_empty() {
                return Ok((prev, entries));
            }
            last = entry.position();
            entries.push(entry);
        }
        if last.seq < through {
            return Err(gap(last.seq.next()));
        }
        Ok((prev, entries))
    }

    /// Every position after `from`, with the chain between them checked; the
    /// payloads are not read.
    pub(super) fn positions_after(&self, from: Seq) -> Result<Vec<Position>, LogError> {
        let mut last = self.position(from)?.ok_or_else(|| gap(from))?;
        let count = self.end.seq.0.saturating_sub(from.0);
        let mut out = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let mut statement =
            self.statement("SELECT at, term, hlc, hash, prev_hash FROM entries WHERE at > ?1 ORDER BY at")?;
        let mut rows = statement.query([key(from)])?;
        while let Some(row) = rows.next()? {
            let position = read_position(row, 3)??;
            let prev_hash: Vec<u8> = row.get(4)?;
            if position.seq != last.seq.next() || prev_hash != last.hash.0 || position.term < last.term {
                return Err(LogError::Damaged(format!("entry {} does not follow the one before it", position.seq)));
            }
            out.push(position);
            last = position;
        }
        if last != self.end {
            return Err(gap(last.seq.next()));
        }
        Ok(out)
    }

    /// The first seq after `floor` from which on all payloads together have at
    /// most `bytes_max`.
    pub(super) fn last_bytes(&self, floor: Seq, bytes_max: u64) -> Result<Seq, LogError> {
        let mut statement = self.statement("SELECT at, length(payload) FROM entries WHERE at > ?1 ORDER BY at DESC")?;
        let mut rows = statement.query([key(floor)])?;
        let (mut from, mut bytes) = (self.end.seq.next(), 0u64);
        while let Some(row) = rows.next()? {
            bytes = bytes.saturating_add(row.get::<_, i64>(1)?.unsigned_abs() + 128);
            if bytes > bytes_max {
                break;
            }
            from = seq_of(row.get(0)?);
        }
        Ok(from)
    }

    /// Where the term changes, over the whole log.
    pub(super) fn terms(&self) -> Result<Vec<(Seq, Term)>, LogError> {
        let mut statement = self.statement("SELECT first, term FROM terms ORDER BY first")?;
        let rows = statement.query_map([], |row| {
            let first: i64 = row.get(0)?;
            Ok((seq_of(first), Term(row.get::<_, i64>(1)? as u64)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The `Config` entries after `after`.
    pub(super) fn configs_after(&self, after: Seq) -> Result<Vec<RawMembership>, LogError> {
        let mut statement = self
            .statement("SELECT at, payload FROM entries INDEXED BY configs WHERE kind = 1 AND at > ?1 ORDER BY at")?;
        let rows = statement
            .query_map([key(after)], |row| Ok((seq_of(row.get(0)?), Bytes::from(row.get::<_, Vec<u8>>(1)?))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The membership as of the base.
    pub(super) fn base_membership(&self) -> Result<Option<RawMembership>, LogError> {
        let row = self.conn.query_row("SELECT member_seq, member FROM streams WHERE number = 0", [], |row| {
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<Vec<u8>>>(1)?))
        })?;
        Ok(match row {
            (Some(at), Some(bytes)) => Some((seq_of(at), Bytes::from(bytes))),
            (None, _) | (_, None) => None,
        })
    }

    /// Restarts the log at `position`. Entries after `orphans_after` go to the
    /// orphans, the others are known to be in `data.db` or the snapshot.
    pub(super) fn reset(
        &mut self,
        position: Position,
        membership: Option<&RawMembership>,
        amnesia_of: Option<Incarnation>,
        orphans_after: Seq,
        wall: WallTime,
    ) -> Result<(), LogError> {
        let hlc = self.hlc;
        self.transaction(|this| {
            orphans::keep_after(&this.conn, key(orphans_after), wall)?;
            this.conn.execute("DELETE FROM entries", [])?;
            this.conn.execute("DELETE FROM terms", [])?;
            this.conn.execute(
                "UPDATE streams SET base = ?1, base_hlc = ?2 WHERE number = 0",
                params![encode_position(&position), hlc.0 as i64],
            )?;
            if let Some((seq, bytes)) = membership {
                this.conn.execute(
                    "UPDATE streams SET member_seq = ?1, member = ?2 WHERE number = 0",
                    params![key(*seq), &bytes[..]],
                )?;
            }
            if let Some(incarnation) = amnesia_of {
                this.put(Meta::AmnesiaOf, Some(&incarnation.0.to_le_bytes()))?;
            }
            this.put(Meta::InstallIntent, None)
        })?;
        self.base = position;
        self.end = position;
        Ok(())
    }

    /// What is deleted first: entries after the base and below `below`, with
    /// stamp and size, at most `count`.
    pub(super) fn oldest(&self, below: Seq, count: usize) -> Result<Vec<(Seq, Hlc, u64)>, LogError> {
        let mut statement =
            self.statement("SELECT at, hlc, length(payload) FROM entries WHERE at < ?1 ORDER BY at LIMIT ?2")?;
        let rows = statement.query_map([key(below), i64::try_from(count).unwrap_or(i64::MAX)], |row| {
            Ok((seq_of(row.get(0)?), Hlc(row.get::<_, i64>(1)? as u64), row.get::<_, i64>(2)?.unsigned_abs()))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Deletes everything up to `through` and moves the base there. It is
    /// durable with the next append: a power cut that takes it back only
    /// leaves more log than was thought.
    pub(super) fn trim(&mut self, through: Seq) -> Result<(), LogError> {
        assert!(through > self.base.seq && through <= self.end.seq, "nothing to trim up to {through}");
        self.conn.execute_batch("PRAGMA synchronous = NORMAL")?;
        let trimmed = self.transaction(|this| {
            let (base, hlc) = this
                .statement("SELECT at, term, hlc, hash FROM entries WHERE at = ?1")?
                .query_row([key(through)], |row| Ok((read_position(row, 3)?, row.get::<_, i64>(2)?)))
                .optional()?
                .ok_or_else(|| gap(through))?;
            let base = base?;
            let at = key(through);
            this.statement(
                "UPDATE streams SET member_seq = c.at, member = c.payload FROM
                 (SELECT at, payload FROM entries INDEXED BY configs WHERE kind = 1 AND at <= ?1
                  ORDER BY at DESC LIMIT 1) AS c WHERE number = 0",
            )?
            .execute([at])?;
            this.statement("UPDATE streams SET base = ?1, base_hlc = max(base_hlc, ?2) WHERE number = 0")?
                .execute(params![encode_position(&base), hlc])?;
            this.statement("DELETE FROM entries WHERE at <= ?1")?.execute([at])?;
            // The run that holds the first remaining entry stays, from there on.
            this.statement("DELETE FROM terms WHERE first < (SELECT max(first) FROM terms WHERE first <= ?1)")?
                .execute([at + 1])?;
            let left: bool = this.statement("SELECT EXISTS (SELECT 1 FROM entries)")?.query_row([], |r| r.get(0))?;
            if left {
                this.statement("UPDATE terms SET first = ?1 WHERE first < ?1")?.execute([at + 1])?;
            } else {
                this.statement("DELETE FROM terms")?.execute([])?;
            }
            Ok(base)
        });
        self.conn.execute_batch("PRAGMA synchronous = FULL")?;
        self.base = trimmed?;
        Ok(())
    }

    /// Bytes of the file in use.
    pub(super) fn bytes_used(&self) -> Result<u64, LogError> {
        let pragma = |name: &str| -> Result<u64, LogError> {
            let value: i64 = self.statement(&format!("PRAGMA {name}"))?.query_row([], |row| row.get(0))?;
            Ok(value.unsigned_abs())
        };
        Ok(pragma("page_count")?.saturating_sub(pragma("freelist_count")?) * pragma("page_size")?)
    }

    /// Pages in the WAL, as of the last commit.
    pub(super) fn wal_pages(&self) -> u64 {
        self.wal_pages.load(Ordering::Relaxed)
    }

    /// Copies the WAL into the database file and fsyncs it, so that the WAL's
    /// blocks are used again: overwriting them costs an fsync less than
    /// growing the file.
    ///
    /// # Errors
    /// Anything but [`LogError::Full`] must end the process (R11).
    pub(super) fn checkpoint(&mut self) -> Result<(), LogError> {
        // No reader is in the way: nothing else can open the file.
        self.statement("PRAGMA wal_checkpoint(PASSIVE)")?.query_row([], |_| Ok(()))?;
        self.wal_pages.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Reads a value of `meta`.
    pub(super) fn meta(&self, meta: Meta) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.statement("SELECT value FROM meta WHERE key = ?1")?.query_row([meta.key()], |r| r.get(0)).optional()?)
    }

    /// Writes or removes a value of `meta`, durably.
    pub(super) fn set_meta(&mut self, meta: Meta, value: Option<&[u8]>) -> Result<(), LogError> {
        self.transaction(|this| this.put(meta, value))
    }

    /// Appends `entry` and notes the hard state that goes with it, as one.
    pub(super) fn refound(&mut self, entry: &Entry, hard: &[u8]) -> Result<(), LogError> {
        let end = self.end;
        assert!(entry.follows(&end), "a re-founding entry follows the log");
        self.transaction(|this| {
            this.put(Meta::Refound, Some(hard))?;
            this.statement("INSERT INTO entries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
                key(entry.seq),
                entry.term.0 as i64,
                entry.hlc.0 as i64,
                entry.kind as u8,
                entry.prev_hash.0,
                entry.hash.0,
                &entry.payload[..],
            ])?;
            this.statement("INSERT OR REPLACE INTO terms VALUES (?1, ?2)")?
                .execute(params![key(entry.seq), entry.term.0 as i64])?;
            Ok(())
        })?;
        self.end = entry.position();
        self.hlc = self.hlc.max(entry.hlc);
        Ok(())
    }

    /// The connection, for the orphans' table.
    pub(super) fn connection(&self) -> &Connection {
        &self.conn
    }

    /// From now on closing writes nothing: after a failed fsync a second one
    /// may claim a success that it is not (R11).
    pub(super) fn abandon(&self) {
        if let Err(error) = self.conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        {
            tracing::warn!(%error, "closing the failed log may write to it");
        }
    }

    /// Closes the file; the WAL is checkpointed and removed.
    pub(super) fn close(self) -> Result<(), LogError> {
        self.conn.close().map_err(|(_, error)| LogError::from(error))
    }

    fn put(&self, meta: Meta, value: Option<&[u8]>) -> Result<(), LogError> {
        match value {
            Some(value) => {
                self.statement("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?.execute(params![meta.key(), value])?
            }
            None => self.statement("DELETE FROM meta WHERE key = ?1")?.execute([meta.key()])?,
        };
        Ok(())
    }

    fn forget_after(&self, keep: Seq, wall: WallTime) -> Result<(), LogError> {
        orphans::keep_after(&self.conn, key(keep), wall)?;
        self.statement("DELETE FROM entries WHERE at > ?1")?.execute([key(keep)])?;
        self.statement("DELETE FROM terms WHERE first > ?1")?.execute([key(keep)])?;
        Ok(())
    }

    fn statement(&self, sql: &str) -> Result<CachedStatement<'_>, LogError> {
        self.conn.prepare_cached(sql).map_err(missing_is_damage)
    }

    fn transaction<R>(&self, body: impl FnOnce(&Self) -> Result<R, LogError>) -> Result<R, LogError> {
        self.statement("BEGIN IMMEDIATE")?.execute([])?;
        let done = body(self).and_then(|result| {
            self.statement("COMMIT")?.execute([])?;
            Ok(result)
        });
        if done.is_err() && !self.conn.is_autocommit() {
            // Its own failure adds nothing: the first error is the answer, and
            // all but FULL end the process.
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        done
    }
}

/// The key of a seq of the shared stream.
pub(super) fn key(seq: Seq) -> i64 {
    assert!(seq.0 < 1 << 48, "the top 16 bits of a key are the stream's number");
    seq.0 as i64
}

/// The seq of a key of the shared stream.
pub(super) fn seq_of(key: i64) -> Seq {
    Seq(key as u64 & ((1 << 48) - 1))
}

/// Reads a row of [`COLUMNS`]. The outer error is SQLite's, the inner one says
/// that the row is not one that was written.
pub(super) fn read_entry(row: &Row<'_>) -> rusqlite::Result<Result<Entry, LogError>> {
    let seq = seq_of(row.get(0)?);
    let bad = || LogError::Damaged(format!("entry {seq} cannot be read"));
    let kind = match row.get::<_, i64>(3)? {
        0 => EntryKind::Noop,
        1 => EntryKind::Config,
        2 => EntryKind::Data,
        _ => return Ok(Err(bad())),
    };
    let hash = |column: usize| -> rusqlite::Result<Option<Hash>> {
        Ok(row.get_ref(column)?.as_blob().ok().and_then(|b| b.try_into().ok()).map(Hash))
    };
    let (Some(prev_hash), Some(own)) = (hash(4)?, hash(5)?) else { return Ok(Err(bad())) };
    let Ok(payload) = row.get_ref(6)?.as_blob() else { return Ok(Err(bad())) };
    Ok(Ok(Entry {
        stream: StreamId::SHARED,
        seq,
        term: Term(row.get::<_, i64>(1)? as u64),
        hlc: Hlc(row.get::<_, i64>(2)? as u64),
        kind,
        prev_hash,
        hash: own,
        payload: Bytes::copy_from_slice(payload),
    }))
}

/// Reads (at, term, .., hash).
fn read_position(row: &Row<'_>, hash: usize) -> rusqlite::Result<Result<Position, LogError>> {
    let seq = seq_of(row.get(0)?);
    let term = Term(row.get::<_, i64>(1)? as u64);
    let hash = row.get_ref(hash)?.as_blob().ok().and_then(|b| b.try_into().ok()).map(Hash);
    Ok(hash
        .map(|hash| Position { seq, term, hash })
        .ok_or_else(|| LogError::Damaged(format!("entry {seq} has no hash"))))
}

fn gap(seq: Seq) -> LogError {
    LogError::Damaged(format!("entry {seq} is missing"))
}

/// A log without its tables is not a log: SQLite takes a file of length zero
/// for a new database.
fn missing_is_damage(error: rusqlite::Error) -> LogError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::Unknown) => LogError::Damaged(error.to_string()),
        _ => error.into(),
    }
}
