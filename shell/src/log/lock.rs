//! The data directory: made once, marked with its version, held by one process.
//!
//! Decides its permissions, its version and who may use it. Knows nothing of
//! what the files in it hold.

use crate::env::files::{self, Drive, File, Files, Mode, parent};
use crate::error::ApiError;
use std::io;
use std::path::{Path, PathBuf};

/// A data directory that this process alone uses for as long as this value
/// lives.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    files: Drive,
    /// Holds the lock; the kernel drops it with the process, however it ends.
    lock: Box<dyn File>,
}

impl DataDir {
    /// The version this program writes.
    pub(super) const FORMAT: u32 = 1;

    /// Makes the directory if it is missing, locks it and checks its version.
    ///
    /// # Errors
    /// `data_dir_unwritable`, `data_dir_locked` (names the other process),
    /// `data_dir_newer`, `data_dir_unknown`.
    pub(super) fn open(files: Drive, path: &Path) -> Result<Self, ApiError> {
        let unwritable = |error: io::Error| unwritable(path, &error);
        files::make_dirs(&*files, path).map_err(unwritable)?;
        let lock = files.open(&path.join("lock"), Mode::Make).map_err(unwritable)?;
        if !lock.try_lock().map_err(unwritable)? {
            // Whoever holds the lock may not have written its pid yet.
            let pid = files::read_text(&*files, &path.join("lock")).unwrap_or_default();
            return Err(locked(path, pid.trim()));
        }
        // The pid is for people; the lock itself is the kernel's.
        lock.set_len(0).map_err(unwritable)?;
        lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0).map_err(unwritable)?;
        let dir = Self { path: path.to_owned(), files, lock };
        dir.check_format()?;
        Ok(dir)
    }

    /// A file in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes renames and new names in it durable.
    pub(super) fn sync(&self) -> Result<(), ApiError> {
        self.files.sync_dir(&self.path).map_err(|e| unwritable(&self.path, &e))
    }

    /// The disk that it is on.
    pub(super) fn files(&self) -> &dyn Files {
        &*self.files
    }

    /// Whether there is a file of that name in it.
    ///
    /// # Errors
    /// `data_dir_unwritable` if that could not be told. Nothing may be made in
    /// the place of a file that merely could not be seen.
    pub(super) fn holds(&self, name: &str) -> Result<bool, ApiError> {
        files::exists(self.files(), &self.join(name)).map_err(|e| self.unwritable(&e))
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
            while files::exists(self.files(), &to).map_err(|e| self.unwritable(&e))? {
                n += 1;
                to = self.join(&format!("{stem}.damaged-{mark}.{n}{suffix}"));
            }
            match self.files.rename(&from, &to) {
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
        let text = match files::read_text(self.files(), &name) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.holds("hard_state")? || self.holds("log.db")? {
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
        self.sync_above()?;
        let text = format!("base-ha {}\n", Self::FORMAT);
        let placed = files::place(self.files(), &self.join("FORMAT"), &self.join("FORMAT.new"), text.as_bytes());
        placed.map_err(|e| self.unwritable(&e))
    }

    /// Makes the directory's own name durable, and those above it. Whoever made
    /// them may have been killed before it could: they are there, and a power
    /// cut takes them away, votes and all (crash point `birth`, before the first
    /// sync). With a FORMAT file this has been done.
    fn sync_above(&self) -> Result<(), ApiError> {
        let mut dir = self.path.as_path();
        loop {
            let above = parent(dir);
            match self.files.sync_dir(above) {
                // A directory that may not even be listed was not made by this
                // user just now.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && dir != self.path => return Ok(()),
                synced => synced.map_err(|e| self.unwritable(&e))?,
            }
            if above == dir || above == Path::new(".") || above.parent().is_none() {
                return Ok(());
            }
            dir = above;
        }
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
        self.lock.unlock();
    }
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
