//! A consistent copy of `data.db` in a file of its own.
//!
//! Decides how a copy is made, checked and cleaned away. Knows nothing of
//! where it goes: to a peer ([`Contents::Whole`]) or to a user of `/download`
//! ([`Contents::Users`]).
//!
//! The source's connection holds one read transaction from the first page to
//! the last. SQLite starts a copy over whenever another connection commits,
//! unless the source reads from a transaction of its own; without one, a copy
//! beside a busy writer never ends. The writer is not held up; only the
//! write-ahead log can't shrink until the copy is done.
//!
//! All calls block: run them through `Env::blocking`.

use super::read::{open_plain, position};
use super::schema_sql::is_own;
use super::sqlerror;
use crate::env::files::{Drive, Files, Mode, parent};
use crate::error::ApiError;
use base_ha_core::ids::Hash;
use base_ha_core::position::Position;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// The file as it is, the node's own tables included, in WAL mode: what a
    /// peer installs.
    Whole,
    /// Without the node's own tables, whose pages are overwritten with zeros,
    /// and in rollback-journal mode: one file that any SQLite opens. It costs
    /// the writing of those pages once more.
    Users,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Pages copied.
    pub done: u64,
    /// Pages in all.
    pub pages: u64,
    /// Bytes of a page.
    pub page_size: u64,
}

/// A finished copy, fsynced.
#[derive(Debug)]
pub struct Copied {
    /// The file; it goes when this is dropped.
    pub file: TempFile,
    /// What it contains.
    pub position: Position,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub hash: Hash,
}

/// Pages between two reports of progress; 4 MiB of the usual size.
const PAGES_PER_STEP: i32 = 1_024;
/// What must stay free on the disk besides the copy, in bytes.
const RESERVE: u64 = 64 << 20;
/// How the names of unfinished files start.
const PREFIX: &str = "copy-";
/// And how they end.
const SUFFIX: &str = ".tmp";

/// Copies `source` into a new file in `dir`. `progress` is called every few
/// MiB and may end it.
///
/// # Errors
/// 503 `no_space` before anything is written, 503 `cancelled`, 503 `busy`, 500
/// `disk_error`, 500 `data_corrupt`. No file is left then.
pub fn copy(
    files: &Drive,
    source: &Path,
    dir: &Path,
    contents: Contents,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Copied, ApiError> {
    let from = open_plain(source).map_err(|e| sqlerror::api_error(&e))?;
    // Deferred: reading the position opens the snapshot that the pages are
    // then taken from.
    from.execute_batch("BEGIN").map_err(|e| sqlerror::api_error(&e))?;
    let position = position(&from).map_err(|e| sqlerror::api_error(&e))?;
    let count = |name: &str| -> Result<u64, ApiError> {
        let n: i64 = from.pragma_query_value(None, name, |row| row.get(0)).map_err(|e| sqlerror::api_error(&e))?;
        Ok(u64::try_from(n).unwrap_or(0))
    };
    let page_size = count("page_size")?;
    check_space(&**files, dir, count("page_count")?.saturating_mul(page_size))?;

    let file = TempFile::create(files, dir).map_err(|e| disk_error(&e))?;
    let pages = |p: rusqlite::backup::Progress| {
        let number = |n: i32| u64::try_from(n).unwrap_or(0);
        Progress {
            done: number(p.pagecount).saturating_sub(number(p.remaining)),
            pages: number(p.pagecount),
            page_size,
        }
    };
    copy_pages(&from, file.path(), |p| progress(pages(p)))?;
    drop(from);
    if contents == Contents::Users {
        strip(file.path()).map_err(|e| sqlerror::api_error(&e))?;
    }
    let (bytes, hash) = sync_and_hash(&**files, file.path()).map_err(|e| disk_error(&e))?;
    Ok(Copied { file, position, bytes, hash })
}

fn copy_pages(
    from: &Connection,
    to: &Path,
    mut progress: impl FnMut(rusqlite::backup::Progress) -> ControlFlow<()>,
) -> Result<(), ApiError> {
    let told = |e: rusqlite::Error| sqlerror::api_error(&e);
    let mut into = open_private(to).map_err(told)?;
    // The file is worth nothing until it is whole, and is fsynced then.
    into.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").map_err(told)?;
    let backup = Backup::new(from, &mut into).map_err(told)?;
    loop {
        let step = backup.step(PAGES_PER_STEP).map_err(told)?;
        if progress(backup.progress()).is_break() {
            return Err(ApiError::new(503, "cancelled", "The copy was stopped before it was complete."));
        }
        match step {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ => {
                return Err(ApiError::new(503, "busy", "The database was locked while it was copied; try again.")
                    .retry_after(1));
            }
        }
    }
}

/// Drops the node's own tables.
fn strip(path: &Path) -> rusqlite::Result<()> {
    let connection = open_private(path)?;
    // First out of WAL mode, so that all of it is in this one file; and what
    // is deleted is overwritten, for stored answers are nobody else's.
    connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF")?;
    connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    let names: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    connection.execute_batch("BEGIN")?;
    for name in names.iter().filter(|name| is_own(name)) {
        connection.execute_batch(&format!("DROP TABLE \"{}\"", name.replace('"', "\"\"")))?;
    }
    connection.execute_batch("COMMIT")?;
    connection.close().map_err(|(_, error)| error)
}

/// Checks a file that claims to be a whole copy, before it replaces
/// `data.db`: its hash, then its structure. Returns what it contains.
///
/// # Errors
/// 422 `snapshot_damaged`; 500 `disk_error`.
pub fn verify(files: &dyn Files, path: &Path, hash: &Hash) -> Result<Position, ApiError> {
    let (_, actual) = sync_and_hash(files, path).map_err(|e| disk_error(&e))?;
    if actual != *hash {
        return Err(damaged(format!("its hash is {actual}, not {hash}")));
    }
    let checked = check(path);
    // Reading a file in WAL mode makes these; nothing is in them.
    remove_beside(files, path);
    checked
}

fn check(path: &Path) -> Result<Position, ApiError> {
    let bad = |e: rusqlite::Error| damaged(e.to_string());
    let connection = open_plain(path).map_err(bad)?;
    super::policy::harden(&connection).map_err(bad)?;
    connection.pragma_update(None, "cell_size_check", true).map_err(bad)?;
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(bad)?;
    if said != "ok" {
        return Err(damaged(said));
    }
    position(&connection).map_err(bad)
}

/// Deletes copies that a process which died left in `dir`; how many.
///
/// # Errors
/// What the system says.
pub fn sweep(files: &dyn Files, dir: &Path) -> io::Result<usize> {
    let mut swept = 0;
    for name in files.list(dir)? {
        if name.starts_with(PREFIX) && name.contains(SUFFIX) {
            files.remove(&dir.join(name))?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// A file that is removed when this is dropped, unless it was kept.
#[derive(Debug)]
pub struct TempFile {
    files: Drive,
    path: Option<PathBuf>,
}

impl TempFile {
    /// Makes an empty file in `dir` that only this user can read, with a name
    /// that [`sweep`] knows.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(files: &Drive, dir: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("{PREFIX}{}-{number}{SUFFIX}", std::process::id()));
            match files.open(&path, Mode::New) {
                Ok(_) => return Ok(Self { files: files.clone(), path: Some(path) }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.path.as_deref().expect("only keeping takes the path, and it consumes the file")
    }

    /// Renames it to `to` on the same file system, replacing what is there,
    /// and fsyncs the directory.
    ///
    /// # Errors
    /// What the system says; the file is removed then.
    pub fn keep(mut self, to: &Path) -> io::Result<()> {
        self.files.rename(self.path(), to)?;
        self.path = None;
        self.files.sync_dir(parent(to))
    }

    /// Leaves it where it is: somebody else looks after it.
    pub fn into_path(mut self) -> PathBuf {
        self.path.take().expect("only keeping takes the path, and it consumes the file")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = self.files.remove(&path);
            remove_beside(&*self.files, &path);
        }
    }
}

fn remove_beside(files: &dyn Files, path: &Path) {
    for suffix in ["-journal", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = files.remove(Path::new(&name));
    }
}

fn open_private(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn check_space(files: &dyn Files, dir: &Path, wanted: u64) -> Result<(), ApiError> {
    let free = files.room(dir).map_err(|e| disk_error(&e))?;
    if free >= wanted.saturating_add(RESERVE) {
        return Ok(());
    }
    Err(ApiError::new(
        503,
        "no_space",
        format!(
            "A copy takes {wanted} bytes and leaves {RESERVE} free; this node's disk has {free}. Nothing was written."
        ),
    )
    .retry_after(60))
}

fn sync_and_hash(files: &dyn Files, path: &Path) -> io::Result<(u64, Hash)> {
    let file = files.open(path, Mode::Write)?;
    file.sync_all()?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let read = file.read_at(&mut buffer, bytes)?;
        if read == 0 {
            return Ok((bytes, Hash(*hasher.finalize().as_bytes())));
        }
        hasher.update(&buffer[..read]);
        bytes += u64::try_from(read).expect("a buffer's length");
    }
}

fn disk_error(error: &io::Error) -> ApiError {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if full {
        ApiError::new(503, "no_space", "This node's disk is full.").retry_after(60)
    } else {
        ApiError::new(500, "disk_error", format!("This node can't write or read a copy of its database: {error}."))
    }
}

fn damaged(why: String) -> ApiError {
    ApiError::new(422, "snapshot_damaged", format!("The snapshot is damaged and was not installed: {why}."))
}

#[cfg(test)]
mod tests;
