//! A whole `data.db` at a time: putting one in place, and checking one.
//!
//! Decides when a file may replace ours, and in which order files are moved and
//! removed so that a crash at any point leaves one whole database. Where the
//! file came from it does not know.

use super::apply::Halt;
use super::capture::Ctx;
use super::hash;
use super::open::{Engine, check_format, read_membership, read_state};
use super::problem;
use super::schema::Schema;
use super::sys::{Action, Conn, Failure, Hooks, RowEvent, Verdict};
use super::worker::Inner;
use crate::api::{Installed, NodeEvent, Organ};
use crate::env::Work;
use crate::env::files::{Files, Mode, exists, parent};
use crate::error::ApiError;
use base_ha_core::ids::ContentHash;
use base_ha_core::io::StoreHealth;
use rusqlite::config::DbConfig;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::sync::oneshot;

/// Callbacks of a connection that only looks.
struct Looking;

impl Hooks for Looking {
    fn row(&self, _: &RowEvent<'_>) {}
    fn may_commit(&self) -> bool {
        true
    }
    fn judge(&self, _: Action<'_>) -> Verdict {
        Verdict::Allow
    }
    fn should_stop(&self) -> bool {
        false
    }
    fn poison(&self, _: &str) {}
}

fn look_at(path: &Path) -> Result<Conn<Looking>, ApiError> {
    let failed = |f: Failure| problem::storage(&format!("open {}", path.display()), &f);
    let conn = Conn::open(path, Rc::new(Looking)).map_err(failed)?;
    conn.sql()
        .execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0;")
        .and_then(|()| conn.sql().set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true))
        .map_err(|e| failed(e.into()))?;
    Ok(conn)
}

/// The hash of all rows, computed from nothing, and the one that is stored,
/// both as of one moment.
fn recompute(conn: &Conn<Looking>) -> Result<(ContentHash, ContentHash), ApiError> {
    let failed = |f: Failure| problem::storage("read the rows", &f);
    let sql = conn.sql();
    sql.execute_batch("BEGIN").map_err(|e| failed(e.into()))?;
    let result = (|| {
        let stored = read_state(sql).map_err(|e| failed(e.into()))?.content;
        let (mut schema, mut sums) = (Schema::default(), hash::Sums::default());
        schema.reload(conn, &mut sums).map_err(failed)?;
        let mut total = 0u128;
        for table in schema.tables() {
            total = total.wrapping_add(hash::table(conn, table).map_err(failed)?);
        }
        Ok((ContentHash(total), stored))
    })();
    // Only a read transaction: nothing can be lost by failing to end it.
    let _ = sql.execute_batch("ROLLBACK");
    result
}

/// Recomputes the content hash from a read snapshot: a worker of its own.
pub(super) struct Scrub {
    pub(super) path: PathBuf,
}

type ScrubReply = oneshot::Sender<Result<(ContentHash, ContentHash), ApiError>>;

impl Work<ScrubReply> for Scrub {
    fn run(&mut self, jobs: &mut VecDeque<ScrubReply>) {
        while let Some(reply) = jobs.pop_front() {
            let _ = reply.send(recount(&self.path));
        }
    }
}

/// Counts the content hash of a `data.db` anew from its rows; and the one that
/// is stored in it.
///
/// # Errors
/// Why it cannot be read.
pub fn recount(file: &Path) -> Result<(ContentHash, ContentHash), ApiError> {
    recompute(&look_at(file)?)
}

/// Checks that a file is a whole database of ours and equals its own hash.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn verify(files: &dyn Files, file: &Path) -> Result<Installed, ApiError> {
    if !exists(files, file).map_err(|e| io_error("look at", file, &e))? {
        return Err(ApiError::new(500, "snapshot_missing", format!("There is no file {}.", file.display())));
    }
    let conn = look_at(file)?;
    let failed = |e: rusqlite::Error| problem::storage("check the snapshot", &e.into());
    let sound: String = conn.sql().query_row("PRAGMA main.quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if sound != "ok" {
        return Err(ApiError::new(500, "data_corrupt", format!("The snapshot is damaged: {sound}.")));
    }
    if !check_format(conn.sql())? {
        return Err(ApiError::new(500, "data_corrupt", "The snapshot is empty."));
    }
    let state = read_state(conn.sql()).map_err(failed)?;
    let Some((_, membership)) = read_membership(conn.sql())? else {
        return Err(ApiError::new(500, "data_corrupt", "The snapshot names no members."));
    };
    let (computed, stored) = recompute(&conn)?;
    if computed != stored {
        return Err(ApiError::new(500, "data_corrupt", "The snapshot's rows do not have its content hash."));
    }
    // The header asks for WAL: whatever opening left in it goes into the file,
    // and nothing but the file is moved.
    let (busy, frames, moved): (i64, i64, i64) = conn
        .sql()
        .query_row("PRAGMA main.wal_checkpoint(TRUNCATE)", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .map_err(failed)?;
    if busy != 0 || frames != moved {
        return Err(ApiError::new(500, "snapshot_busy", "The snapshot is open elsewhere."));
    }
    drop(conn);
    remove(files, &beside(file, "-wal"))?;
    remove(files, &beside(file, "-shm"))?;
    Ok(Installed { position: state.position, membership, content: stored, hlc: state.hlc })
}

/// The code of an install that may or may not have replaced `data.db`: only a
/// start can tell. After every other error the file is as it was.
pub(crate) const UNFINISHED: &str = "install_unfinished";

pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(files: &dyn Files, file: &Path) -> Result<(), ApiError> {
    match files.remove(file) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("remove", file, &error)),
    }
}

pub(super) fn io_error(what: &str, file: &Path, error: &std::io::Error) -> ApiError {
    ApiError::new(500, "disk_error", format!("Could not {what} {}: {error}.", file.display()))
}

fn sync(files: &dyn Files, file: &Path) -> Result<(), ApiError> {
    files.open(file, Mode::Read).and_then(|f| f.sync_all()).map_err(|e| io_error("sync", file, &e))
}

fn sync_dir(files: &dyn Files, dir: &Path) -> Result<(), ApiError> {
    files.sync_dir(dir).map_err(|e| io_error("sync", dir, &e))
}

impl Inner {
    /// Replaces `data.db` by a verified file.
    ///
    /// The old write-ahead log must not meet the new file: SQLite would replay
    /// it. It is emptied into the old file and removed *before* the rename, so a
    /// crash in between leaves the old database whole, and one after it the new
    /// one. A reader that holds on to old pages delays this; it is bounded by
    /// the readers' maximum age.
    pub(super) fn install(&mut self, file: &Path) -> Result<Installed, ApiError> {
        let files = self.files.clone();
        let installed = verify(&*files, file)?;
        sync(&*files, file)?;
        let path = self.file.clone();
        if let Some(engine) = &mut self.engine {
            // A file that is damaged beyond a checkpoint is about to go anyway.
            if let Err(failure) = empty_wal(engine) {
                if !super::execute::is_corrupt(&failure) {
                    let error = problem::storage("empty the write-ahead log", &failure);
                    // An fsync that failed once may never be repeated (R11),
                    // and the next checkpoint would be just that (crash point
                    // `install`, EIO at a sync of `data.db`).
                    if error.code == "disk_error" {
                        self.fence(Halt::Fatal(error.to_string()));
                    }
                    return Err(error);
                }
                tracing::warn!(%failure, "the old data.db is damaged; replacing it");
            }
        }
        let ctx: Option<Rc<Ctx>> = self.engine.take().map(|engine| engine.ctx.clone());
        let Some(ctx) = ctx else {
            return Err(ApiError::new(503, "stopping", "This node is stopping."));
        };
        let moved = (|| {
            remove(&*files, &beside(&path, "-wal"))?;
            remove(&*files, &beside(&path, "-shm"))?;
            sync_dir(&*files, parent(&path))?;
            files.rename(file, &path).map_err(|e| io_error("move", file, &e))
        })();
        if let (Ok(()), Err(error)) = (&moved, sync_dir(&*files, parent(&path))) {
            // Which of the two files a power cut would leave can't be told, and
            // an fsync that failed is not tried again.
            (self.out)(NodeEvent::Fatal(format!("the directory of data.db could not be fsynced: {error}")));
            return Err(ApiError { code: UNFINISHED, ..error });
        }
        let reopened = Engine::open(&path, ctx);
        match (moved, reopened) {
            (Ok(()), Ok(engine)) => {
                let engine_recent = engine.recent();
                self.engine = Some(engine);
                self.backlog.clear();
                // What the old file knew is another history's.
                self.recent = engine_recent;
                if self.fence.take().is_some() {
                    (self.out)(NodeEvent::Health(Organ::Store, StoreHealth::Well));
                }
                self.publish();
                Ok(installed)
            }
            (moved, Ok(engine)) => {
                self.engine = Some(engine);
                Err(moved.err().unwrap_or_else(|| ApiError::new(500, "disk_error", "The move failed.")))
            }
            (_, Err(error)) => {
                // Without a file there is nothing this process can do.
                (self.out)(NodeEvent::Fatal(format!("data.db cannot be opened after an install: {error}")));
                Err(ApiError { code: UNFINISHED, ..error })
            }
        }
    }
}

fn empty_wal(engine: &mut Engine) -> Result<(), Failure> {
    let busy = || Failure { code: rusqlite::ffi::SQLITE_BUSY, message: "a reader holds on to the old pages".into() };
    // SQLite itself waits for readers as long as the busy timeout says.
    for _ in 0..3 {
        if engine.checkpoint()? == engine.applied {
            return Ok(());
        }
    }
    Err(busy())
}
