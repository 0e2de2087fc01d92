//! Files and directories: what of the world survives a crash.
//!
//! Decides which calls reach a disk, so that a simulated disk can stand behind
//! them and lose what was not fsynced. SQLite's own files go through its VFS
//! and not through here; both must lead to the same disk. Knows nothing of what
//! is in the files.

use rustix::fs::{FlockOperation, flock};
use std::fmt::Debug;
use std::fs;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// A disk, as one process sees it. Every call may block.
pub trait Files: Debug + Send + Sync + 'static {
    /// Opens a file. What is made is readable by its owner only.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn File>>;

    /// Bytes of the file, or 0 for a directory; `None` if there is nothing of
    /// that name.
    ///
    /// # Errors
    /// That it could not be told: not that there is nothing.
    fn size(&self, path: &Path) -> io::Result<Option<u64>>;

    /// Gives a file another name on the same disk, replacing what has it.
    /// Durable after [`Files::sync_dir`] of both directories.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away. Durable after [`Files::sync_dir`].
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::NotFound`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes one directory, for its owner only; its parent must exist.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::AlreadyExists`].
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes names in the directory durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidData`] for a name that is
    /// no text.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Bytes that this user may still write below the directory.
    ///
    /// # Errors
    /// What the system says.
    fn room(&self, path: &Path) -> io::Result<u64>;
}

/// An open file. It is closed, and its lock given up, when it is dropped.
pub trait File: Debug + Send + Sync {
    /// Reads what there is from `at` on, up to the length of `into`; 0 at the
    /// end.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What the system says. Part of it may be written.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Cuts or extends it.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes its bytes durable, with as much of the rest as reading them takes.
    ///
    /// # Errors
    /// What the system says. It must not be tried again (R11).
    fn sync_data(&self) -> io::Result<()>;

    /// Makes its bytes and everything else of it durable, but not its name.
    ///
    /// # Errors
    /// What the system says. It must not be tried again (R11).
    fn sync_all(&self) -> io::Result<()>;

    /// Locks it against every other opening of it; false if another has the
    /// lock.
    ///
    /// # Errors
    /// What the system says.
    fn try_lock(&self) -> io::Result<bool>;

    /// Gives the lock up.
    fn unlock(&self);
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To read what is there.
    Read,
    /// To read and write what is there.
    Write,
    /// To read and write; made if it is missing.
    Make,
    /// To read and write; made, or emptied.
    Empty,
    /// To read and write; it must not exist.
    New,
}

/// Whether something has that name.
///
/// # Errors
/// That it could not be told.
pub fn exists(files: &dyn Files, path: &Path) -> io::Result<bool> {
    Ok(files.size(path)?.is_some())
}

/// Reads a whole file.
///
/// # Errors
/// What the system says.
pub fn read(files: &dyn Files, path: &Path) -> io::Result<Vec<u8>> {
    let file = files.open(path, Mode::Read)?;
    let (mut bytes, mut block) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let n = file.read_at(&mut block, bytes.len() as u64)?;
        if n == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&block[..n]);
    }
}

/// Reads a whole file of text.
///
/// # Errors
/// What the system says; [`io::ErrorKind::InvalidData`] for what is no text.
pub fn read_text(files: &dyn Files, path: &Path) -> io::Result<String> {
    String::from_utf8(read(files, path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes a file by way of `beside`, so that a crash at any point leaves the
/// old one, or none, or the whole new one; durable when this returns.
///
/// # Errors
/// What the system says.
pub fn place(files: &dyn Files, path: &Path, beside: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = files.open(beside, Mode::Empty)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    files.rename(beside, path)?;
    files.sync_dir(parent(path))
}

/// Makes a file durable as it is read, if there is one.
///
/// A process that goes by what an earlier one wrote must not go by the system's
/// memory: killed between a write and its fsync, the earlier process left bytes
/// that a power cut takes back after this one has acknowledged them. Where it
/// ended because the fsync failed, the system may take those bytes for written
/// and let every later fsync succeed; so they are written again, in place, then
/// fsynced.
///
/// # Errors
/// What the system says.
pub fn settle(files: &dyn Files, path: &Path) -> io::Result<()> {
    let file = match files.open(path, Mode::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let (mut block, mut at) = (vec![0; 1 << 20], 0);
    loop {
        let n = file.read_at(&mut block, at)?;
        if n == 0 {
            return file.sync_all();
        }
        file.write_all_at(&block[..n], at)?;
        at += n as u64;
    }
}

/// Makes a directory and those above it that are missing; durable when this
/// returns.
///
/// # Errors
/// What the system says.
pub fn make_dirs(files: &dyn Files, path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || exists(files, path)? {
        return Ok(());
    }
    make_dirs(files, parent(path))?;
    match files.make_dir(path) {
        // Made by somebody else meanwhile, who need not have synced it.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Each level: without it a power cut could take the whole directory away
    // again after votes were cast from it.
    files.sync_dir(parent(path))
}

/// The directory that a path is in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Path::new("."),
        Some(dir) => dir,
        None => path,
    }
}

/// A disk that several parties of a process share. A type of its own because
/// futures that hold a bare `Arc<dyn ..>` are not seen to be `Send`.
#[derive(Clone, Debug)]
pub struct Drive(Arc<dyn Files>);

impl Drive {
    /// Shares a disk.
    pub fn new(files: impl Files) -> Self {
        Self(Arc::new(files))
    }
}

impl Deref for Drive {
    type Target = dyn Files;

    fn deref(&self) -> &dyn Files {
        &*self.0
    }
}

/// This machine's disks.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

/// [`RealFiles`], to be shared.
pub fn real() -> Drive {
    Drive::new(RealFiles)
}

impl Files for RealFiles {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn File>> {
        let mut options = fs::File::options();
        options.read(true).write(mode != Mode::Read).mode(0o600);
        match mode {
            Mode::Read | Mode::Write => {}
            Mode::Make => drop(options.create(true).truncate(false)),
            Mode::Empty => drop(options.create(true).truncate(true)),
            Mode::New => drop(options.create_new(true)),
        }
        Ok(Box::new(options.open(path)?))
    }

    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        match fs::metadata(path) {
            Ok(found) => Ok(Some(if found.is_dir() { 0 } else { found.len() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let no_text = |_| io::Error::new(io::ErrorKind::InvalidData, "a name that is no text");
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().into_string().map_err(no_text)?);
        }
        names.sort();
        Ok(names)
    }

    fn room(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl File for fs::File {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fs::File::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        fs::File::sync_all(self)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match flock(self, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn unlock(&self) {
        // Closing would do, were it not for a child process that another thread
        // is just starting: until its exec it shares the lock, and whoever opens
        // the file next would find it taken by this very process.
        let _ = flock(self, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_looked_at_is_not_one_that_is_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        assert!(!exists(&RealFiles, &file).expect("told"));
        place(&RealFiles, &file, &dir.path().join("file.new"), b"text").expect("written");
        assert_eq!(RealFiles.size(&file).expect("told"), Some(4));
        assert_eq!(read_text(&RealFiles, &file).expect("read"), "text");
        // Below a file there can be nothing, and the system says so in its own way.
        assert!(exists(&RealFiles, &file.join("below")).is_err());
        assert_eq!(RealFiles.list(dir.path()).expect("listed"), ["file"]);
    }

    #[test]
    fn directories_are_made_at_every_level() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("a/b/c");
        make_dirs(&RealFiles, &deep).expect("made");
        make_dirs(&RealFiles, &deep).expect("there");
        assert!(deep.is_dir());
    }

    #[test]
    fn a_lock_is_held_by_one_opening() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || RealFiles.open(&dir.path().join("lock"), Mode::Make).expect("opened");
        let (one, two) = (open(), open());
        assert!(one.try_lock().expect("told") && !two.try_lock().expect("told"));
        one.unlock();
        assert!(two.try_lock().expect("told"));
    }
}
