//! `data.db`: its own tables, its settings, and the connection that writes it.
//!
//! Decides what makes a file ours, how a connection is set up for a writer and
//! for a replica, and when everything is safely in the main file. Knows nothing
//! of what is executed or applied on it.

use super::apply::ApplyCache;
use super::capture::{Ctx, Rows};
use super::execute::Prepared;
use super::guard::Caller;
use super::problem;
use super::schema_sql;
use super::sys::{Conn, Failure, Stmt};
use crate::error::ApiError;
use crate::wal;
use base_ha_core::entry::Entry;
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{ContentHash, Hash, Seq, Term};
use base_ha_core::member::Membership;
use base_ha_core::position::Position;
use base_ha_core::wire::{ValueRef, decode_membership, encode_membership};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OptionalExtension};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The format of the shell's own tables. A file with a higher one was written
/// by a newer release and is refused.
pub const FORMAT: i64 = 1;

/// SQLite before 3.51.3 can lose or corrupt a WAL when it is reset
/// (sqlite.org/wal.html, "the WAL-reset bug").
const SQLITE_OLDEST: i32 = 3_051_003;

/// What a connection is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Clients' statements: triggers and foreign keys act, the authorizer and
    /// SQLite's defensive settings hold.
    Writer,
    /// Entries from the log: everything that the writer's statements caused
    /// is in them, so nothing acts by itself.
    Replica,
}

/// The store's own statements that run once a group or request.
pub(super) struct Own {
    pub(super) begin: Stmt,
    pub(super) commit: Stmt,
    pub(super) rollback: Stmt,
    pub(super) savepoint: Stmt,
    pub(super) release: Stmt,
    pub(super) rollback_to: Stmt,
    pub(super) flush: Stmt,
    pub(super) flush_release: Stmt,
    pub(super) schema_version: Stmt,
    pub(super) data_version: Stmt,
    pub(super) set_position: Stmt,
    pub(super) set_sum: Stmt,
    pub(super) drop_sum: Stmt,
    pub(super) set_request: Stmt,
    pub(super) get_request: Stmt,
    pub(super) expire_requests: Stmt,
    pub(super) set_term: Stmt,
    pub(super) set_recent: Stmt,
    pub(super) drop_recent: Stmt,
}

/// The store's own statements on `sqlite_sequence`, which SQLite makes with
/// the first AUTOINCREMENT table.
pub(super) struct Sequence {
    pub(super) get: Stmt,
    pub(super) update: Stmt,
    pub(super) insert: Stmt,
    pub(super) delete: Stmt,
}

/// `data.db` and the one connection that writes it.
pub(super) struct Engine {
    // Statements come before the connection: they are dropped first, and
    // SQLite does not close a connection that has any.
    pub(super) own: Own,
    /// Prepared when first needed.
    sequence: Option<Sequence>,
    pub(super) cache: HashMap<String, Prepared>,
    pub(super) apply: ApplyCache,
    pub(super) conn: Conn<Ctx>,
    pub(super) ctx: Rc<Ctx>,
    pub(super) role: Role,
    pub(super) path: PathBuf,
    /// What the file contains, committed.
    pub(super) applied: Position,
    /// The highest stamp applied.
    pub(super) hlc: Hlc,
    pub(super) membership: Option<(Seq, Membership)>,
    /// DDL changes ever made, with those of the open transaction.
    pub(super) epoch: u64,
    pub(super) epoch_committed: u64,
    /// SQLite's own count of schema changes, as last looked at.
    pub(super) schema_version: i64,
    /// Moves when another connection commits.
    data_version: i64,
    /// Counters of AUTOINCREMENT tables as every node has them.
    pub(super) counters: BTreeMap<String, Option<i64>>,
    /// The highest position that is certainly in the main file.
    pub(super) safe: Position,
    /// Pages in the write-ahead log, as of the last COMMIT.
    wal_pages: Arc<AtomicU64>,
}

/// Pages in the write-ahead log after which they go into the main file. The
/// store does that itself: SQLite's own checkpoints swallow a failed fsync and
/// try it again later (R11).
const WAL_PAGES: u64 = 4000;

fn watch_wal(conn: &mut Conn<Ctx>, pages: &Arc<AtomicU64>) -> Result<(), Failure> {
    let pages = pages.clone();
    conn.sql_mut().wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, n: std::ffi::c_int| {
        pages.store(u64::try_from(n).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(())
}

/// The file of that name in a data directory.
pub fn data_file(dir: &Path) -> PathBuf {
    dir.join("data.db")
}

/// The position of `data.db` as of the reader's transaction.
///
/// # Errors
/// A storage error, e.g. for a file that is not ours.
pub fn read_position(conn: &Connection) -> Result<Position, ApiError> {
    let stored = read_state(conn).map_err(|e| problem::storage("read the position", &e.into()))?;
    Ok(stored.position)
}

/// What `_ha_position` holds.
pub(super) struct State {
    pub(super) position: Position,
    pub(super) content: ContentHash,
    pub(super) hlc: Hlc,
    epoch: u64,
}

pub(super) fn read_state(conn: &Connection) -> rusqlite::Result<State> {
    let mut statement = conn.prepare_cached(
        "SELECT seq, term, hash, content, hlc, epoch FROM main._ha_position WHERE stream = zeroblob(16)",
    )?;
    statement.query_row([], |row| {
        let number = |n| row.get::<_, i64>(n).map(|v| v as u64);
        Ok(State {
            position: Position { seq: Seq(number(0)?), term: Term(number(1)?), hash: Hash(row.get::<_, [u8; 32]>(2)?) },
            content: ContentHash(u128::from_be_bytes(row.get(3)?)),
            hlc: Hlc(number(4)?),
            epoch: number(5)?,
        })
    })
}

/// The membership that `data.db` was last told, and the entry that told it.
pub(super) fn read_membership(conn: &Connection) -> Result<Option<(Seq, Membership)>, ApiError> {
    let failed = |e: rusqlite::Error| problem::storage("read the membership", &e.into());
    let row: Option<Vec<u8>> = conn
        .query_row("SELECT value FROM main._ha_meta WHERE key = 'membership'", [], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    let Some(bytes) = row else { return Ok(None) };
    let seq: i64 = conn
        .query_row("SELECT value FROM main._ha_meta WHERE key = 'membership_seq'", [], |row| row.get(0))
        .map_err(failed)?;
    let membership = decode_membership(bytes.into())
        .map_err(|e| ApiError::new(500, "data_corrupt", format!("the membership in data.db is unreadable: {e}")))?;
    Ok(Some((Seq(seq as u64), membership)))
}

/// Whether a file is ours and of a format that this release understands;
/// `false` for one that is empty.
pub(super) fn check_format(conn: &Connection) -> Result<bool, ApiError> {
    let failed = |e: rusqlite::Error| {
        let failure = Failure::from(e);
        problem::storage("read data.db", &failure)
    };
    let names: Vec<String> = conn
        .prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table'")
        .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
        .map_err(failed)?;
    if names.is_empty() {
        return Ok(false);
    }
    if !names.iter().any(|n| n == schema_sql::OWN[0]) {
        return Err(ApiError::new(
            500,
            "data_foreign",
            "data.db is a SQLite database, but not one of this server: import it through SQL instead of placing it here",
        ));
    }
    let format: i64 =
        conn.query_row("SELECT value FROM main._ha_meta WHERE key = 'format'", [], |row| row.get(0)).map_err(failed)?;
    if format > FORMAT {
        return Err(ApiError::new(
            500,
            "data_newer",
            format!(
                "data.db has format {format}, this release understands up to {FORMAT}: it was written by a newer \
                 release; start that one, nothing was changed"
            ),
        ));
    }
    if format < 1 || !schema_sql::OWN[..schema_sql::OWN_TABLES].iter().all(|own| names.iter().any(|n| n == own)) {
        return Err(ApiError::new(500, "data_corrupt", "data.db lacks tables of its own"));
    }
    Ok(true)
}

/// Sets a connection up.
fn configure(conn: &Conn<Ctx>, role: Role) -> Result<(), Failure> {
    let sql = conn.sql();
    // The change of mode is a transaction of its own, which the commit hook has
    // to let through; a veto would only show in the mode that is in force after.
    conn.hooks().commit_ordered.set(true);
    let changed = wal::enter(sql);
    conn.hooks().commit_ordered.set(false);
    changed?;
    sql.execute_batch(
        "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864;
         PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON;
         PRAGMA busy_timeout = 2000;",
    )?;
    let writer = role == Role::Writer;
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        // Without it the last connection to close deletes the WAL by its
        // name, which after an install may be another database's.
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, writer),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, writer),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, writer),
    ] {
        if sql.set_db_config(setting, on)? != on {
            let message = format!("SQLite refused the setting {setting:?}");
            return Err(Failure { code: rusqlite::ffi::SQLITE_ERROR, message });
        }
    }
    if writer {
        // RELIABILITY 6.7. A replica keeps SQLite's own bounds: what the
        // writer accepted must not fail there.
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_LENGTH, 64 << 20),
            (Limit::SQLITE_LIMIT_SQL_LENGTH, 1_000_000),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
        ] {
            sql.set_limit(limit, value)?;
        }
    } else {
        sql.execute_batch("PRAGMA ignore_check_constraints = ON")?;
    }
    Ok(())
}

impl Own {
    fn prepare(conn: &Conn<Ctx>) -> Result<Self, Failure> {
        let one = |sql| conn.prepare_one(sql);
        Ok(Self {
            begin: one("BEGIN IMMEDIATE")?,
            commit: one("COMMIT")?,
            rollback: one("ROLLBACK")?,
            savepoint: one("SAVEPOINT _ha_request")?,
            release: one("RELEASE _ha_request")?,
            rollback_to: one("ROLLBACK TO _ha_request")?,
            flush: one("SAVEPOINT _ha_flush")?,
            flush_release: one("RELEASE _ha_flush")?,
            schema_version: one("PRAGMA main.schema_version")?,
            data_version: one("PRAGMA main.data_version")?,
            set_position: one("UPDATE main._ha_position SET seq = ?1, term = ?2, hash = ?3, content = ?4, \
                 hlc = ?5, epoch = ?6 WHERE stream = zeroblob(16)")?,
            set_sum: one("INSERT INTO main._ha_sums(name, sum) VALUES(?1, ?2) \
                 ON CONFLICT(name) DO UPDATE SET sum = excluded.sum")?,
            drop_sum: one("DELETE FROM main._ha_sums WHERE name = ?1")?,
            set_request: one("INSERT INTO main._ha_requests(key, digest, seq, term, hash, hlc, answer) \
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(key) DO UPDATE SET digest = excluded.digest, \
                 seq = excluded.seq, term = excluded.term, hash = excluded.hash, hlc = excluded.hlc, \
                 answer = excluded.answer")?,
            get_request: one("SELECT digest, seq, term, hash, hlc, answer FROM main._ha_requests WHERE key = ?1")?,
            expire_requests: one("DELETE FROM main._ha_requests WHERE key IN \
                 (SELECT key FROM main._ha_requests WHERE hlc < ?1 ORDER BY hlc LIMIT 1000)")?,
            set_term: one("INSERT INTO main._ha_terms(first, term) VALUES(?1, ?2)")?,
            set_recent: one("INSERT INTO main._ha_recent(first, term, ids) VALUES(?1, ?2, ?3)")?,
            drop_recent: one("DELETE FROM main._ha_recent WHERE first + length(ids) / 16 <= ?1")?,
        })
    }
}

impl Sequence {
    fn prepare(conn: &Conn<Ctx>) -> Result<Self, Failure> {
        let one = |sql| conn.prepare_one(sql);
        Ok(Self {
            get: one("SELECT seq FROM main.sqlite_sequence WHERE name = ?1")?,
            update: one("UPDATE main.sqlite_sequence SET seq = ?2 WHERE name = ?1")?,
            insert: one("INSERT INTO main.sqlite_sequence(name, seq) VALUES(?1, ?2)")?,
            delete: one("DELETE FROM main.sqlite_sequence WHERE name = ?1")?,
        })
    }
}

impl Engine {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`ApiError`] with a code that says what is wrong with the file.
    pub(super) fn open(path: &Path, ctx: Rc<Ctx>) -> Result<Self, ApiError> {
        if rusqlite::version_number() < SQLITE_OLDEST {
            let version = rusqlite::version();
            let text = format!("SQLite {version} is too old: 3.51.3 or newer is needed (WAL-reset bug)");
            return Err(ApiError::new(500, "sqlite_too_old", text));
        }
        ctx.caller.set(Caller::Store);
        let failed = |failure: Failure| problem::storage(&format!("open {}", path.display()), &failure);
        let mut conn = Conn::open(path, ctx.clone()).map_err(failed)?;
        // Looked at before anything is changed, the journal mode included.
        let ours = check_format(conn.sql())?;
        configure(&conn, Role::Replica).map_err(failed)?;
        let wal_pages = Arc::default();
        watch_wal(&mut conn, &wal_pages).map_err(failed)?;
        if !ours {
            ctx.commit_ordered.set(true);
            let made = conn.sql().execute_batch(&format!(
                "BEGIN IMMEDIATE; {} INSERT INTO _ha_meta VALUES('format', {FORMAT});
                 INSERT INTO _ha_position VALUES(zeroblob(16), 0, 0, zeroblob(32), zeroblob(16), 0, 0); COMMIT;",
                schema_sql::CREATE
            ));
            ctx.commit_ordered.set(false);
            made.map_err(|e| failed(e.into()))?;
        }
        let own = Own::prepare(&conn).map_err(failed)?;
        let mut engine = Self {
            own,
            sequence: None,
            cache: HashMap::new(),
            apply: ApplyCache::default(),
            conn,
            ctx,
            role: Role::Replica,
            path: path.to_owned(),
            applied: Position::START,
            hlc: Hlc::default(),
            membership: None,
            epoch: 0,
            epoch_committed: 0,
            schema_version: 0,
            data_version: 0,
            counters: BTreeMap::new(),
            safe: Position::START,
            wal_pages,
        };
        engine.load()?;
        Ok(engine)
    }

    /// Reads everything that is remembered of the file from the file.
    fn load(&mut self) -> Result<(), ApiError> {
        let failed = |failure: Failure| problem::storage("read data.db", &failure);
        let state = read_state(self.conn.sql()).map_err(|e| failed(e.into()))?;
        self.applied = state.position;
        self.hlc = state.hlc;
        self.epoch = state.epoch;
        self.epoch_committed = state.epoch;
        self.membership = read_membership(self.conn.sql())?;
        let sums: Vec<(String, [u8; 16])> = self
            .conn
            .sql()
            .prepare("SELECT name, sum FROM main._ha_sums")
            .and_then(|mut s| s.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(|e| failed(e.into()))?;
        let mut capture = self.ctx.capture.borrow_mut();
        capture.rows = Rows::Hash;
        capture.cut = false;
        capture.forget_last();
        capture.sums.load(sums.into_iter().map(|(name, sum)| (name, u128::from_be_bytes(sum))));
        let capture = &mut *capture;
        capture.schema.reload(&self.conn, &mut capture.sums).map_err(failed)?;
        if capture.sums.content() != state.content {
            return Err(ApiError::new(
                500,
                "data_corrupt",
                "the content hash in data.db is not the sum of its tables'; the node must be re-seeded",
            ));
        }
        self.schema_version = self.own.schema_version.integer().map_err(failed)?.unwrap_or(0);
        self.data_version = self.own.data_version.integer().map_err(failed)?.unwrap_or(0);
        Ok(())
    }

    /// Reopens the connection for another role. Promotion needs it: a replica
    /// wrote the shadow tables of virtual tables behind their modules' backs,
    /// and the modules' caches of this connection are stale (their first write
    /// fails with "constraint failed").
    ///
    /// # Errors
    /// What SQLite says; the old connection stays in use.
    pub(super) fn become_role(&mut self, role: Role) -> Result<(), Failure> {
        if self.role == role {
            return Ok(());
        }
        assert!(!self.conn.in_transaction(), "a connection changes its role inside a transaction");
        // A foreign commit must not hide behind the new connection's fresh
        // count.
        self.check_foreign_write()?;
        self.ctx.caller.set(Caller::Store);
        let mut conn = Conn::open(&self.path, self.ctx.clone())?;
        configure(&conn, role)?;
        watch_wal(&mut conn, &self.wal_pages)?;
        let mut own = Own::prepare(&conn)?;
        let data_version = own.data_version.integer()?.unwrap_or(0);
        self.own = own;
        self.sequence = None;
        self.cache = HashMap::new();
        self.apply = ApplyCache::default();
        self.conn = conn;
        self.role = role;
        self.data_version = data_version;
        Ok(())
    }

    /// Fails if another connection committed to the file since it was opened.
    pub(super) fn check_foreign_write(&mut self) -> Result<(), Failure> {
        match self.own.data_version.integer()? == Some(self.data_version) {
            true => Ok(()),
            false => Err(Failure { code: FOREIGN_WRITE, message: "another process wrote data.db".to_owned() }),
        }
    }

    /// Starts the transaction of a group or batch.
    ///
    /// # Errors
    /// What SQLite says; [`FOREIGN_WRITE`]. No transaction is open then.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        self.ctx.caller.set(Caller::Store);
        // Poison of an earlier transaction went with it.
        self.ctx.take_poison();
        self.own.begin.run()?;
        // Looked at under the write lock: nobody can commit between this and
        // the own COMMIT.
        let result = self.check_foreign_write();
        if result.is_err() {
            self.rollback();
        }
        result
    }

    /// Ends the transaction, nothing done.
    pub(super) fn rollback(&mut self) {
        self.ctx.caller.set(Caller::Store);
        if self.conn.in_transaction() {
            // It cannot fail but for an I/O error while reading back; the
            // transaction is over all the same.
            if let Err(failure) = self.own.rollback.run() {
                tracing::warn!(%failure, "ROLLBACK failed");
            }
        }
        self.after_rollback();
    }

    /// Takes back what was remembered of a transaction that is no more.
    pub(super) fn after_rollback(&mut self) {
        self.counters.clear();
        let mut capture = self.ctx.capture.borrow_mut();
        capture.sums.drop_group();
        capture.set.clear();
        capture.cut = false;
        drop(capture);
        if self.epoch != self.epoch_committed {
            self.epoch = self.epoch_committed;
            self.schema_was_rolled_back();
        }
    }

    /// Brings the picture of the schema back in line after a schema statement
    /// was rolled back. The sums were taken back with the request.
    pub(super) fn schema_was_rolled_back(&mut self) {
        self.cache.clear();
        self.apply = ApplyCache::default();
        let reloaded = {
            let mut capture = self.ctx.capture.borrow_mut();
            let capture = &mut *capture;
            capture.forget_last();
            capture.schema.reload(&self.conn, &mut capture.sums)
        };
        let version = self.own.schema_version.integer();
        match (reloaded, version) {
            (Ok(_), Ok(version)) => self.schema_version = version.unwrap_or(0),
            // With a picture that may be wrong, nothing may be captured.
            (Err(failure), _) | (_, Err(failure)) => {
                use super::sys::Hooks;
                self.ctx.poison(&format!("the schema could not be read again: {failure}"));
            }
        }
    }

    /// Writes the position and the changed sums into the open transaction.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn write_position(&mut self, position: Position, hlc: Hlc) -> Result<ContentHash, Failure> {
        self.ctx.caller.set(Caller::Store);
        let (content, sums) = {
            let capture = self.ctx.capture.borrow();
            let sums: Vec<_> = capture
                .sums
                .changed()
                .map(|(name, sum)| (name.to_owned(), sum, capture.schema.table(name).is_some()))
                .collect();
            (capture.sums.content(), sums)
        };
        for (name, sum, exists) in sums {
            let name = ValueRef::Text(name.as_bytes());
            match exists {
                true => self.own.set_sum.run_with(&[name, ValueRef::Blob(&sum.to_be_bytes())])?,
                false => self.own.drop_sum.run_with(&[name])?,
            }
        }
        self.own.set_position.run_with(&[
            ValueRef::Integer(position.seq.0 as i64),
            ValueRef::Integer(position.term.0 as i64),
            ValueRef::Blob(&position.hash.0),
            ValueRef::Blob(&content.0.to_be_bytes()),
            ValueRef::Integer(hlc.0 as i64),
            ValueRef::Integer(self.epoch as i64),
        ])?;
        Ok(content)
    }

    /// Writes into the open transaction where the term changes among `entries`,
    /// which follow what is applied.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn write_terms<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) -> Result<(), Failure> {
        self.ctx.caller.set(Caller::Store);
        let mut term = self.applied.term;
        for entry in entries {
            if entry.term != term {
                term = entry.term;
                let (first, term) = (entry.seq.0 as i64, term.0 as i64);
                self.own.set_term.run_with(&[ValueRef::Integer(first), ValueRef::Integer(term)])?;
            }
        }
        Ok(())
    }

    /// Writes a membership into the open transaction.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn write_membership(&mut self, seq: Seq, membership: &Membership) -> Result<(), Failure> {
        self.ctx.caller.set(Caller::Store);
        let mut set = self.conn.prepare_one(
            "INSERT INTO main._ha_meta(key, value) VALUES(?1, ?2) \
             ON CONFLICT(key) DO UPDATE SET value = excluded.value",
        )?;
        let bytes = encode_membership(membership);
        set.run_with(&[ValueRef::Text(b"membership"), ValueRef::Blob(&bytes)])?;
        set.run_with(&[ValueRef::Text(b"membership_seq"), ValueRef::Integer(seq.0 as i64)])
    }

    /// Commits what the store has put together.
    ///
    /// # Errors
    /// What SQLite says; the transaction may still be open then.
    pub(super) fn commit(&mut self, position: Position, hlc: Hlc) -> Result<(), Failure> {
        self.ctx.caller.set(Caller::Store);
        self.ctx.commit_ordered.set(true);
        let result = self.own.commit.run();
        self.ctx.commit_ordered.set(false);
        result?;
        // Commit's return code, not the hook, is the truth.
        assert!(!self.conn.in_transaction(), "COMMIT succeeded and left the transaction open");
        self.applied = position;
        self.hlc = self.hlc.max(hlc);
        self.epoch_committed = self.epoch;
        let mut capture = self.ctx.capture.borrow_mut();
        capture.sums.keep_group();
        capture.cut = false;
        Ok(())
    }

    /// Sees whether there is room for a little more, by writing it and taking
    /// it back. SQLite says "full" of a disk and of an AUTOINCREMENT table
    /// whose rowids have run out alike.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn probe_room(&mut self) -> Result<(), Failure> {
        for sql in [
            "INSERT OR REPLACE INTO main._ha_meta(key, value) VALUES('room', zeroblob(65536))",
            "DELETE FROM main._ha_meta WHERE key = 'room'",
        ] {
            self.begin()?;
            let tried = self
                .conn
                .prepare_one(sql)
                .and_then(|mut statement| statement.run())
                .and_then(|()| self.commit(self.applied, self.hlc));
            if tried.is_err() {
                self.rollback();
                return tried;
            }
        }
        Ok(())
    }

    /// The statements on `sqlite_sequence`. To prepare one takes as long as an
    /// insert does, on every node.
    ///
    /// # Errors
    /// What SQLite says, as long as no table with AUTOINCREMENT was made.
    pub(super) fn sequence(&mut self) -> Result<&mut Sequence, Failure> {
        match &mut self.sequence {
            Some(prepared) => Ok(prepared),
            none => Ok(none.insert(Sequence::prepare(&self.conn)?)),
        }
    }

    /// The content's hash as committed, or with the open group.
    pub(super) fn content(&self) -> ContentHash {
        self.ctx.capture.borrow().sums.content()
    }

    /// Moves the write-ahead log into the main file, fsynced, and says which
    /// position is certainly there. A reader that holds on to old pages may
    /// keep part of it back; then it is the position of an earlier time.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn checkpoint(&mut self) -> Result<Position, Failure> {
        assert!(!self.conn.in_transaction(), "a checkpoint inside a transaction");
        self.ctx.caller.set(Caller::Store);
        let run = |mode: &str| {
            self.conn.sql().query_row(&format!("PRAGMA main.wal_checkpoint({mode})"), [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })
        };
        let (busy, ..) = run("TRUNCATE")?;
        let whole = busy == 0 || {
            // Every frame may be in the file although a reader keeps the log
            // from being cut.
            let (_, frames, moved) = run("PASSIVE")?;
            frames == moved
        };
        if whole {
            self.safe = self.applied;
        }
        Ok(self.safe)
    }

    /// Moves what can be moved of a large write-ahead log into the main file.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn spill(&mut self) -> Result<(), Failure> {
        if self.wal_pages.load(Ordering::Relaxed) < WAL_PAGES {
            return Ok(());
        }
        // Until the next COMMIT counts them again.
        self.wal_pages.store(0, Ordering::Relaxed);
        self.ctx.caller.set(Caller::Store);
        self.conn.sql().query_row("PRAGMA main.wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        Ok(())
    }
}

/// A failure of the store's own: `data_version` moved. Outside SQLite's range.
pub(super) const FOREIGN_WRITE: i32 = -1;
