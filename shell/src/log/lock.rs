//! The data directory: made once, marked with its version, held by one process.
//!
//! Decides its permissions, its version and who may use it. Knows nothing of
//! what the files in it hold.

use crate::error::ApiError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A data directory that this process alone uses for as long as this value
/// lives.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// Holds the lock; the kernel drops it with the process, however it ends.
    lock: File,
}

impl DataDir {
    /// The version this program writes.
    pub(super) const FORMAT: u32 = 1;

    /// Makes the directory if it is missing, locks it and checks its version.
    ///
    /// # Errors
    /// `data_dir_unwritable`, `data_dir_locked` (names the other process),
    /// `data_dir_newer`, `data_dir_unknown`.
    pub(super) fn open(path: &Path) -> Result<Self, ApiError> {
        let unwritable = |error: io::Error| unwritable(path, &error);
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unwritable)?;
            if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                // Without this a power cut could take the whole directory away
                // again after votes were cast from it.
                File::open(parent).and_then(|d| d.sync_all()).map_err(unwritable)?;
            }
        }
        let mut lock = private().read(true).write(true).open(path.join("lock")).map_err(unwritable)?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(unwritable(error.into()));
            }
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            return Err(locked(path, pid.trim()));
        }
        // The pid is for people; the lock itself is the kernel's.
        lock.set_len(0).map_err(unwritable)?;
        writeln!(lock, "{}", std::process::id()).map_err(unwritable)?;
        let dir = Self { path: path.to_owned(), lock };
        dir.check_format()?;
        Ok(dir)
    }

    /// A file in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes renames and new names in it durable.
    pub(super) fn sync(&self) -> Result<(), ApiError> {
        File::open(&self.path).and_then(|d| d.sync_all()).map_err(|e| unwritable(&self.path, &e))
    }

    /// Renames what there is of a database, its write-ahead log included, for
    /// the operator; says what the files are called now. `mark` is the moment
    /// in milliseconds.
    ///
    /// # Errors
    /// `data_dir_unwritable`.
    pub(super) fn set_aside(&self, stem: &str, mark: u64) -> Result<Vec<String>, ApiError> {
        let mut moved = Vec::new();
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let from = self.join(&format!("{stem}{suffix}"));
            let mut to = self.join(&format!("{stem}.damaged-{mark}{suffix}"));
            let mut n = 0;
            while to.exists() {
                n += 1;
                to = self.join(&format!("{stem}.damaged-{mark}.{n}{suffix}"));
            }
            match fs::rename(&from, &to) {
                Ok(()) => moved.push(to.display().to_string()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.unwritable(&error)),
            }
        }
        self.sync()?;
        Ok(moved)
    }

    /// The error for something in it that could not be read or written.
    pub(super) fn unwritable(&self, error: &io::Error) -> ApiError {
        unwritable(&self.path, error)
    }

    fn check_format(&self) -> Result<(), ApiError> {
        let name = self.join("FORMAT");
        let text = match fs::read_to_string(&name) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.join("hard_state").exists() || self.join("log.db").exists() {
                    return Err(self.unknown("it holds a node's files but no FORMAT file"));
                }
                return self.write_format();
            }
            Err(error) => return Err(self.unwritable(&error)),
        };
        let version = text.strip_prefix("base-ha ").and_then(|rest| rest.trim().parse::<u32>().ok());
        match version {
            Some(Self::FORMAT) => Ok(()),
            Some(newer) if newer > Self::FORMAT => Err(ApiError::new(
                500,
                "data_dir_newer",
                format!(
                    "{} has format {newer}, this program knows up to {}; nothing was changed. Start the newer \
                     program again, or give this one another --dir",
                    self.path.display(),
                    Self::FORMAT
                ),
            )),
            Some(_) | None => Err(self.unknown("its FORMAT file is not one that base-ha writes")),
        }
    }

    /// Written first of all and renamed into place: a directory with any other
    /// file of ours has it.
    fn write_format(&self) -> Result<(), ApiError> {
        let new = self.join("FORMAT.new");
        let write = || -> io::Result<()> {
            let mut file = private().write(true).truncate(true).open(&new)?;
            writeln!(file, "base-ha {}", Self::FORMAT)?;
            file.sync_all()?;
            fs::rename(&new, self.join("FORMAT"))
        };
        write().map_err(|e| self.unwritable(&e))?;
        self.sync()
    }

    fn unknown(&self, why: &str) -> ApiError {
        ApiError::new(
            500,
            "data_dir_unknown",
            format!("{} is not a data directory: {why}; nothing was changed. Give another --dir", self.path.display()),
        )
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Closing would do, were it not for a child process that another thread
        // is just starting: until its exec it shares the lock, and whoever opens
        // the directory next would find it taken by this very process.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Options that create files for their owner only.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

fn unwritable(path: &Path, error: &io::Error) -> ApiError {
    ApiError::new(
        500,
        "data_dir_unwritable",
        format!(
            "the data directory {} cannot be used: {error}. Make it writable for this user, or give another --dir \
             (BASE_DIR)",
            path.display()
        ),
    )
}

fn locked(path: &Path, pid: &str) -> ApiError {
    let who = if pid.is_empty() { "another process".to_owned() } else { format!("process {pid}") };
    ApiError::new(
        500,
        "data_dir_locked",
        format!(
            "the data directory {} is in use by {who}. Stop it first, or give this node its own --dir (BASE_DIR)",
            path.display()
        ),
    )
    .with_data(serde_json::json!({ "pid": pid.parse::<u32>().ok() }))
}
