//! The shell's own files on a simulated disk.
//!
//! Decides nothing: it translates the shell's [`Files`] into the disk's
//! operations, and the disk's troubles into the system's errors.

use super::disk::{Boot, MOUNT, OpenId, Trouble, VirtualDisk};
use super::image::{FileId, Op};
use base_ha::env::files::{File, Files, Mode};
use std::io;
use std::path::Path;

/// The disk, as one process sees it. Dead once the process is.
#[derive(Clone, Debug)]
pub struct SimFiles {
    disk: VirtualDisk,
    boot: Boot,
}

/// An open file.
#[derive(Debug)]
struct SimFile {
    disk: VirtualDisk,
    boot: Boot,
    file: FileId,
    id: OpenId,
    writable: bool,
}

impl From<Trouble> for io::Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Dead => Self::other("the process that opened this is dead"),
            // The errors that the system gives, kind and text included.
            Trouble::Io => rustix::io::Errno::IO.into(),
            Trouble::Full => rustix::io::Errno::NOSPC.into(),
            Trouble::Missing => rustix::io::Errno::NOENT.into(),
            Trouble::Exists => rustix::io::Errno::EXIST.into(),
        }
    }
}

impl SimFiles {
    pub(super) fn new(disk: VirtualDisk, boot: Boot) -> Self {
        Self { disk, boot }
    }

    fn path(&self, path: &Path) -> io::Result<String> {
        let text = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        // What lies above the mount point exists and is never written.
        if Path::new(MOUNT).starts_with(path) {
            return Ok(String::new());
        }
        match VirtualDisk::find(text) {
            Some((disk, path)) if disk.root() == self.disk.root() => Ok(path),
            Some(_) | None => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{text} is not on this machine's disk")))
            }
        }
    }
}

impl Files for SimFiles {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn File>> {
        let path = self.path(path)?;
        let make = matches!(mode, Mode::Make | Mode::Empty | Mode::New);
        let (file, id, made) = self.disk.open(self.boot, &path, make)?;
        let opened = SimFile { disk: self.disk.clone(), boot: self.boot, file, id, writable: mode != Mode::Read };
        match mode {
            Mode::New if !made => Err(Trouble::Exists.into()),
            Mode::Empty if !made => opened.set_len(0).map(|()| Box::new(opened) as Box<dyn File>),
            _ => Ok(Box::new(opened)),
        }
    }

    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        let path = self.path(path)?;
        let state = self.disk.read(self.boot)?;
        if state.image.is_dir(&path) {
            return Ok(Some(0));
        }
        Ok(state.image.file(&path).and_then(|file| state.image.bytes(file)).map(|bytes| bytes.len() as u64))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let op = Op::Rename { from: self.path(from)?, to: self.path(to)? };
        Ok(self.disk.change(self.boot, op).map(drop)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = self.path(path)?;
        Ok(self.disk.change(self.boot, Op::Remove { path }).map(drop)?)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let path = self.path(path)?;
        Ok(self.disk.change(self.boot, Op::MakeDir { path }).map(drop)?)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = self.path(path)?;
        Ok(self.disk.change(self.boot, Op::SyncDir { path }).map(drop)?)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = self.path(path)?;
        let state = self.disk.read(self.boot)?;
        if state.image.is_dir(&path) { Ok(state.image.list(&path)) } else { Err(Trouble::Missing.into()) }
    }

    fn room(&self, _: &Path) -> io::Result<u64> {
        Ok(self.disk.read(self.boot)?.room())
    }
}

impl SimFile {
    fn write(&self, op: Op) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(self.disk.change(self.boot, op).map(drop)?)
    }
}

impl File for SimFile {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let state = self.disk.read(self.boot)?;
        let bytes = state.image.bytes(self.file).unwrap_or_default();
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let n = into.len().min(bytes.len() - from);
        into[..n].copy_from_slice(&bytes[from..from + n]);
        Ok(n)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write(Op::Write { file: self.file, at, bytes: bytes.into() })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write(Op::Cut { file: self.file, len })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(self.disk.change(self.boot, Op::Sync { file: self.file }).map(drop)?)
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.disk.read(self.boot)?;
        Ok(state.locks.entry(self.file).or_default().take_whole(self.id))
    }

    fn unlock(&self) {
        if let Some(locks) = self.disk.state().locks.get_mut(&self.file) {
            locks.give_whole(self.id);
        }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.close(self.boot, self.file, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{Fate, Fault, Harm};
    use base_ha::env::files::{make_dirs, place, read_text};

    fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
        result.expect_err("refused").kind()
    }

    #[test]
    fn the_shells_files_live_as_long_as_their_process() {
        let disk = VirtualDisk::new("files-live");
        let dir = disk.root().join("data");
        let files = disk.files();
        make_dirs(&files, &dir).expect("made");
        place(&files, &dir.join("a"), &dir.join("a.new"), b"text").expect("written");
        let lock = files.open(&dir.join("lock"), Mode::Make).expect("opened");
        assert!(lock.try_lock().expect("told"));
        let second = files.open(&dir.join("lock"), Mode::Make).expect("opened");
        assert!(!second.try_lock().expect("told"));
        disk.crash(Fate::Lost);
        assert!(lock.try_lock().is_err() && files.size(&dir).is_err(), "dead");
        disk.start();
        let files = disk.files();
        assert_eq!(read_text(&files, &dir.join("a")).expect("read"), "text");
        assert_eq!(files.list(&dir).expect("listed"), ["a"], "the lock file's name was not durable");
        lock.write_all_at(b"x", 0).expect_err("still dead");
        let again = files.open(&dir.join("lock"), Mode::Make).expect("opened");
        assert!(again.try_lock().expect("told"), "a dead process holds no lock");
    }

    #[test]
    fn errors_are_those_of_the_system() {
        let disk = VirtualDisk::new("files-errors");
        let files = disk.files();
        let path = disk.root().join("a");
        assert_eq!(kind(files.open(&path, Mode::Read)), io::ErrorKind::NotFound);
        assert_eq!(kind(files.remove(&path)), io::ErrorKind::NotFound);
        let file = files.open(&path, Mode::New).expect("made");
        assert_eq!(kind(files.open(&path, Mode::New)), io::ErrorKind::AlreadyExists);
        disk.set_quota(Some(disk.used() + 4));
        assert_eq!(kind(file.write_all_at(&[1; 100], 0)), io::ErrorKind::StorageFull);
        disk.set_quota(None);
        file.write_all_at(&[1; 100], 0).expect("there is room again");
        disk.inject(Fault { at: disk.ops(), harm: Harm::Io, lasting: false, reads: false });
        assert!(file.sync_all().is_err());
        file.sync_all().expect("claims to have worked");
        assert_eq!((disk.hits(), disk.refused()), (1, 1));
        files.sync_dir(&disk.root()).expect("synced");
        disk.crash(Fate::Lost);
        disk.start();
        assert_eq!(disk.files().size(&path).expect("told"), Some(0), "the failed sync saved nothing, nor did the next");
    }
}
