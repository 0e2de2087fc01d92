//! One machine's simulated disk, as processes reach it.
//!
//! Decides which operation meets which fault, and which handles are dead. What a
//! crash leaves of the bytes is `image`'s business; SQLite and the shell come in
//! through `sqlite` and `files`.
//!
//! Every operation has a number: those that change the disk are counted by one
//! counter, reads by another. Faults are addressed by these numbers, so a run is
//! repeated by repeating its operations.

use super::image::{Fate, FileId, Image, Op};
use super::locks::{Locks, Shared};
use super::thread::space;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A machine's disk. Clones are the same disk; it goes with the last of them.
#[derive(Clone, Debug)]
pub struct VirtualDisk(Arc<Inner>);

/// Where all simulated disks seem to be mounted: no path of the real machine.
pub const MOUNT: &str = "/base-ha-simulated";

/// The disks of this process, by whose they are and by name.
static DISKS: Mutex<BTreeMap<(u64, String), Weak<Inner>>> = Mutex::new(BTreeMap::new());

pub(super) struct Inner {
    name: String,
    state: Mutex<State>,
    /// Called before each operation, without the lock held.
    hook: Mutex<Option<Arc<Hook>>>,
}

/// Told what is about to be done on the disk.
type Hook = dyn Fn(&Request) + Send + Sync;

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtualDisk").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is about to be done, for whoever makes a disk slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The change with this number.
    Change(u64, &'static str),
    /// The read with this number.
    Read(u64),
}

/// What goes wrong at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// EIO. A write may have been done in part; what a sync was to save is lost
    /// for good (see [`Op::FailSync`]).
    Io,
    /// ENOSPC, if the operation makes the disk fuller; part of a write may have
    /// been done. Otherwise nothing happens.
    Full,
    /// It is said to have been done and was not.
    Lie,
    /// A write goes to the place 4 KiB further on.
    Misdirect,
    /// The process dies just before it: from then on nothing works.
    Die,
}

/// A planned fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The number of the operation that it hits.
    pub at: u64,
    /// What happens.
    pub harm: Harm,
    /// It hits every later operation as well.
    pub lasting: bool,
    /// `at` counts reads; only [`Harm::Io`] and [`Harm::Die`] make sense then.
    pub reads: bool,
}

/// Why an operation did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The process that asked is no more.
    Dead,
    /// EIO.
    Io,
    /// ENOSPC.
    Full,
    /// There is nothing of that name.
    Missing,
    /// There is something of that name.
    Exists,
}

/// The life of one process on the machine: what it opened dies with it.
pub(super) type Boot = u64;
/// One opening of a file.
pub(super) type OpenId = u64;

pub(super) struct State {
    pub(super) image: Image,
    boot: Boot,
    up: bool,
    ops: u64,
    reads: u64,
    faults: Vec<Fault>,
    hits: u64,
    refused: u64,
    quota: Option<u64>,
    lying: bool,
    trace: Option<Vec<Op>>,
    opened: BTreeMap<FileId, u64>,
    next_open: OpenId,
    pub(super) locks: BTreeMap<FileId, Locks>,
    pub(super) shared: BTreeMap<FileId, Arc<Shared>>,
}

impl VirtualDisk {
    /// An empty disk. SQLite and [`VirtualDisk::files`] find it below
    /// [`VirtualDisk::root`]: on every thread, or on this one only if a run has
    /// it for itself (see [`super::ThreadOfRun`]).
    ///
    /// # Panics
    /// If a disk of that name exists, or the name is no file name.
    pub fn new(name: &str) -> Self {
        Self::with_image(name, Image::new())
    }

    /// A disk with that content.
    ///
    /// # Panics
    /// As [`VirtualDisk::new`].
    pub fn with_image(name: &str, image: Image) -> Self {
        super::sqlite::register();
        assert!(!name.is_empty() && !name.contains('/'), "{name:?} names no disk");
        let state = State {
            image,
            boot: 1,
            up: true,
            ops: 0,
            reads: 0,
            faults: Vec::new(),
            hits: 0,
            refused: 0,
            quota: None,
            lying: false,
            trace: None,
            opened: BTreeMap::new(),
            next_open: 1,
            locks: BTreeMap::new(),
            shared: BTreeMap::new(),
        };
        let inner = Arc::new(Inner { name: name.to_owned(), state: Mutex::new(state), hook: Mutex::new(None) });
        let mut disks = lock(&DISKS);
        disks.retain(|_, disk| disk.strong_count() > 0);
        let before = disks.insert((space(), name.to_owned()), Arc::downgrade(&inner));
        assert!(before.is_none(), "two disks are called {name}");
        Self(inner)
    }

    /// Its root directory.
    pub fn root(&self) -> PathBuf {
        Path::new(MOUNT).join(&self.0.name)
    }

    /// The process that is started now sees the disk through this. It works
    /// until the next [`VirtualDisk::crash`].
    pub fn files(&self) -> super::files::SimFiles {
        super::files::SimFiles::new(self.clone(), self.state().boot)
    }

    /// The process dies, and with any fate but [`Fate::Kept`] the machine:
    /// everything that was open is dead, and until [`VirtualDisk::start`]
    /// nothing can be opened. What the old process still does while it is torn
    /// down reaches nothing.
    pub fn crash(&self, fate: Fate) {
        let mut state = self.state();
        state.boot += 1;
        state.up = false;
        state.locks.clear();
        state.shared.clear();
        state.opened.clear();
        state.image.crash(fate);
    }

    /// The machine is up again; a process may be started.
    pub fn start(&self) {
        self.state().up = true;
    }

    /// Whether the machine runs: not after [`VirtualDisk::crash`], nor after
    /// [`Harm::Die`].
    pub fn is_up(&self) -> bool {
        self.state().up
    }

    /// Plans a fault.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Plans no more faults, and ends lasting ones.
    pub fn forgive(&self) {
        self.state().faults.clear();
    }

    /// How many operations met a planned fault.
    pub fn hits(&self) -> u64 {
        self.state().hits
    }

    /// How many operations found the disk full, by its quota.
    pub fn refused(&self) -> u64 {
        self.state().refused
    }

    /// Bytes that fit on it; `None` for any number.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.state().quota = bytes;
    }

    /// Bytes on it.
    pub fn used(&self) -> u64 {
        self.state().image.used()
    }

    /// From now on syncs do nothing and claim success: the disk that the
    /// checker must find out.
    pub fn lie_about_syncs(&self, lie: bool) {
        self.state().lying = lie;
    }

    /// Changes so far.
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    /// Keeps every change from now on, for [`VirtualDisk::take_trace`].
    pub fn record(&self) {
        self.state().trace = Some(Vec::new());
    }

    /// The changes since [`VirtualDisk::record`].
    pub fn take_trace(&self) -> Vec<Op> {
        self.state().trace.take().unwrap_or_default()
    }

    /// Its content, durable and not.
    pub fn image(&self) -> Image {
        self.state().image.clone()
    }

    /// Flips one bit of a file at rest.
    ///
    /// # Panics
    /// If there is no such bit.
    pub fn flip(&self, path: &str, bit: u64) {
        self.state().image.flip(path, bit);
    }

    /// Calls `hook` before each operation, from the thread that asks; `None`
    /// for nobody.
    pub fn on_request(&self, hook: Option<Arc<Hook>>) {
        *lock(&self.0.hook) = hook;
    }

    /// The disk and the path on it that a full path leads to.
    pub(super) fn find(path: &str) -> Option<(Self, String)> {
        let rest = path.strip_prefix(MOUNT)?.strip_prefix('/')?;
        let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
        let disk = lock(&DISKS).get(&(space(), name.to_owned())).and_then(Weak::upgrade)?;
        Some((Self(disk), path.trim_end_matches('/').to_owned()))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// The life of the process that asks now.
    pub(super) fn boot(&self) -> Result<Boot, Trouble> {
        let state = self.state();
        if state.up { Ok(state.boot) } else { Err(Trouble::Dead) }
    }

    /// Carries out a change, or what the faults make of it.
    pub(super) fn change(&self, boot: Boot, op: Op) -> Result<FileId, Trouble> {
        let hook = lock(&self.0.hook).clone();
        if let Some(hook) = hook {
            hook(&Request::Change(self.state().ops, op.kind()));
        }
        self.state().change(boot, op)
    }

    /// Counts a read, and fails it if that is planned.
    pub(super) fn read(&self, boot: Boot) -> Result<MutexGuard<'_, State>, Trouble> {
        let hook = lock(&self.0.hook).clone();
        if let Some(hook) = hook {
            hook(&Request::Read(self.state().reads));
        }
        let mut state = self.state();
        state.alive(boot)?;
        let number = state.reads;
        state.reads += 1;
        match state.harm(number, true) {
            Some(Harm::Io) => Err(Trouble::Io),
            Some(Harm::Die) => {
                state.up = false;
                Err(Trouble::Dead)
            }
            Some(Harm::Full | Harm::Lie | Harm::Misdirect) | None => Ok(state),
        }
    }

    /// Opens a file, making it if `make`; also says whether it was made.
    pub(super) fn open(&self, boot: Boot, path: &str, make: bool) -> Result<(FileId, OpenId, bool), Trouble> {
        let (found, is_dir) = {
            let state = self.state();
            state.alive(boot)?;
            (state.image.file(path), state.image.is_dir(path))
        };
        if is_dir {
            return Err(Trouble::Exists);
        }
        let (file, made) = match found {
            Some(file) => (file, false),
            None if make => (self.change(boot, Op::Create { path: path.to_owned() })?, true),
            None => return Err(Trouble::Missing),
        };
        let mut state = self.state();
        let id = state.next_open;
        state.next_open += 1;
        *state.opened.entry(file).or_default() += 1;
        Ok((file, id, made))
    }

    /// Closes what was opened. A dead process's closing changes nothing.
    pub(super) fn close(&self, boot: Boot, file: FileId, id: OpenId) {
        let mut state = self.state();
        if state.boot != boot {
            return;
        }
        if let Some(locks) = state.locks.get_mut(&file) {
            locks.forget(id);
        }
        let left = state.opened.get_mut(&file).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            state.opened.remove(&file);
            state.locks.remove(&file);
            state.shared.remove(&file);
            state.collect(file);
        }
    }
}

impl State {
    fn alive(&self, boot: Boot) -> Result<(), Trouble> {
        if self.up && self.boot == boot { Ok(()) } else { Err(Trouble::Dead) }
    }

    fn harm(&mut self, number: u64, reads: bool) -> Option<Harm> {
        let hit = |f: &&Fault| f.reads == reads && (f.at == number || f.lasting && f.at < number);
        let harm = self.faults.iter().find(hit).map(|f| f.harm);
        self.hits += u64::from(harm.is_some_and(|harm| harm != Harm::Full));
        harm
    }

    fn change(&mut self, boot: Boot, op: Op) -> Result<FileId, Trouble> {
        self.alive(boot)?;
        let possible = match &op {
            Op::Create { path } | Op::MakeDir { path } => {
                let dir = super::image::dir_of(path);
                if self.image.file(path).is_some() || self.image.is_dir(path) {
                    Err(Trouble::Exists)
                } else if self.image.is_dir(dir) {
                    Ok(())
                } else {
                    Err(Trouble::Missing)
                }
            }
            Op::Rename { from: path, .. } | Op::Remove { path } => {
                self.image.file(path).map(drop).ok_or(Trouble::Missing)
            }
            Op::SyncDir { path } => {
                if self.image.is_dir(path) {
                    Ok(())
                } else {
                    Err(Trouble::Missing)
                }
            }
            Op::Write { .. } | Op::Cut { .. } | Op::Sync { .. } | Op::FailSync { .. } | Op::Nothing => Ok(()),
        };
        possible?;
        let number = self.ops;
        self.ops += 1;
        let growth = self.image.growth(&op);
        let beyond = self.quota.is_some_and(|quota| growth > 0 && self.image.used() + growth > quota);
        match self.harm(number, false) {
            Some(Harm::Die) => {
                self.up = false;
                return Err(Trouble::Dead);
            }
            Some(Harm::Io) => {
                let instead = match op {
                    Op::Sync { file } => Op::FailSync { file },
                    op => self.half(op),
                };
                self.done(instead);
                return Err(Trouble::Io);
            }
            Some(Harm::Full) if growth > 0 => {
                self.hits += 1;
                let instead = self.half(op);
                self.done(instead);
                return Err(Trouble::Full);
            }
            Some(Harm::Lie) => return Ok(self.done(Op::Nothing)),
            Some(Harm::Misdirect) => {
                if let Op::Write { file, at, bytes } = op {
                    return Ok(self.done(Op::Write { file, at: at + 4096, bytes }));
                }
            }
            Some(Harm::Full) | None => {}
        }
        if beyond {
            self.refused += 1;
            let instead = self.half(op);
            self.done(instead);
            return Err(Trouble::Full);
        }
        if self.lying && matches!(op, Op::Sync { .. } | Op::SyncDir { .. }) {
            return Ok(self.done(Op::Nothing));
        }
        Ok(self.done(op))
    }

    /// What is done of an operation that fails: half of a write, if there is
    /// room for it.
    fn half(&self, op: Op) -> Op {
        let Op::Write { file, at, bytes } = op else { return Op::Nothing };
        let part = Op::Write { file, at, bytes: bytes[..bytes.len() / 2].into() };
        let room = self.quota.is_none_or(|quota| self.image.used() + self.image.growth(&part) <= quota);
        if room { part } else { Op::Nothing }
    }

    /// Carries it out; the history has one entry for each number.
    fn done(&mut self, op: Op) -> FileId {
        let replaced = match &op {
            Op::Remove { path } | Op::Rename { to: path, .. } => self.image.file(path),
            _ => None,
        };
        let made = self.image.apply(&op);
        if let Some(trace) = &mut self.trace {
            trace.push(op);
        }
        if let Some(file) = replaced {
            self.collect(file);
        }
        made
    }

    /// Room for what nobody can reach any more. Not while a trace is kept: the
    /// history must be replayable as it is.
    fn collect(&mut self, file: FileId) {
        if self.trace.is_none() && !self.opened.contains_key(&file) {
            self.image.collect(file);
        }
    }

    /// Bytes that may still be written.
    pub(super) fn room(&self) -> u64 {
        self.quota.map_or(1 << 40, |quota| quota.saturating_sub(self.image.used()))
    }
}

/// A poisoned lock means that a check failed in the middle of a test; the disk
/// itself is whole.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
