//! What lies on a simulated disk, and what a crash leaves of it.
//!
//! Decides the adversary's freedom: which bytes and names are durable, and in
//! which ways those that are not may be lost, torn, or reach the disk in another
//! order. It allows what POSIX allows and common file systems do:
//!
//! * A write is durable after a sync of its file; before, each sector of it may
//!   be there or not, whatever became of earlier ones. Bytes outside a write
//!   never change (what SQLite calls power-safe overwrite).
//! * A name is durable after a sync of its directory, however often the file
//!   was synced. A rename within one directory is atomic; one between two is a
//!   new name and, some time, the loss of the old one.
//! * After a failed sync the bytes stay readable and no later sync saves them
//!   (R11; what Linux does).
//!
//! Knows nothing of who writes, of locks, or of errors.

use crate::prng::Prng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names a file for as long as it exists, under whatever path.
pub type FileId = u64;

/// Bytes that reach the medium together, or not at all.
const SECTOR: usize = 512;

/// One change of a disk. A disk's history is a list of these, and any prefix of
/// it can be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new, empty file.
    Create {
        /// Its path.
        path: String,
    },
    /// A new directory.
    MakeDir {
        /// Its path.
        path: String,
    },
    /// Bytes go into a file.
    Write {
        /// The file.
        file: FileId,
        /// Where.
        at: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// A file is cut or extended.
    Cut {
        /// The file.
        file: FileId,
        /// Its new length.
        len: u64,
    },
    /// A file's bytes become durable.
    Sync {
        /// The file.
        file: FileId,
    },
    /// A directory's names become durable.
    SyncDir {
        /// Its path.
        path: String,
    },
    /// A file gets another name, which replaces what had it.
    Rename {
        /// The old one.
        from: String,
        /// The new one.
        to: String,
    },
    /// A name goes away.
    Remove {
        /// The name.
        path: String,
    },
    /// A sync failed: the file's bytes stay readable, and no later sync saves
    /// what this one was to save.
    FailSync {
        /// The file.
        file: FileId,
    },
    /// What was asked was not done.
    Nothing,
}

impl Op {
    /// A word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::MakeDir { .. } => "mkdir",
            Self::Write { .. } => "write",
            Self::Cut { .. } => "truncate",
            Self::Sync { .. } => "sync",
            Self::SyncDir { .. } => "syncdir",
            Self::Rename { .. } => "rename",
            Self::Remove { .. } => "remove",
            Self::FailSync { .. } => "failed sync",
            Self::Nothing => "nothing",
        }
    }
}

/// What becomes of everything unsynced when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The process died and the machine did not: nothing is lost.
    Kept,
    /// All of it is lost.
    Lost,
    /// It reached the disk in order, up to the middle of some write.
    Torn(u64),
    /// Any of it reached the disk, in any order.
    Random(u64),
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(FileId),
}

/// A change of names that a sync of `dir` makes durable.
#[derive(Clone, Debug)]
struct NameChange {
    order: u64,
    dir: String,
    gone: Option<String>,
    made: Option<(String, Node)>,
}

/// A change of a file's bytes that a sync of it makes durable.
#[derive(Clone, Debug)]
struct Change {
    order: u64,
    what: Bytes,
}

#[derive(Clone, Debug)]
enum Bytes {
    Write(u64, Arc<[u8]>),
    Cut(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// As every process sees it.
    live: Arc<Vec<u8>>,
    /// As it certainly is on the medium.
    durable: Arc<Vec<u8>>,
    /// What separates the two, oldest first.
    pending: Vec<Change>,
}

/// A disk's content.
#[derive(Clone, Debug)]
pub struct Image {
    files: BTreeMap<FileId, Inode>,
    names: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<NameChange>,
    next: FileId,
    order: u64,
    used: u64,
}

impl Image {
    /// An empty disk. Paths on it are relative: its root is the empty path.
    pub fn new() -> Self {
        let names = BTreeMap::from([(String::new(), Node::Dir)]);
        Self { files: BTreeMap::new(), durable: names.clone(), names, pending: Vec::new(), next: 1, order: 0, used: 0 }
    }

    /// The file of that name.
    pub fn file(&self, path: &str) -> Option<FileId> {
        match self.names.get(path) {
            Some(Node::File(id)) => Some(*id),
            Some(Node::Dir) | None => None,
        }
    }

    /// Whether there is a directory of that name.
    pub fn is_dir(&self, path: &str) -> bool {
        self.names.get(path) == Some(&Node::Dir)
    }

    /// All files' paths, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter(|(_, node)| **node != Node::Dir).map(|(path, _)| path.as_str())
    }

    /// The path of a file; the first, if it has several.
    pub fn path_of(&self, file: FileId) -> Option<&str> {
        self.names.iter().find(|(_, node)| **node == Node::File(file)).map(|(path, _)| path.as_str())
    }

    /// The names in a directory, in order.
    pub fn list(&self, dir: &str) -> Vec<String> {
        let below = |path: &&String| !path.is_empty() && dir_of(path) == dir;
        let name = |path: &String| path.rsplit_once('/').map_or(path.as_str(), |(_, name)| name).to_owned();
        self.names.keys().filter(below).map(name).collect()
    }

    /// A file's bytes.
    pub fn bytes(&self, file: FileId) -> Option<&[u8]> {
        self.files.get(&file).map(|inode| inode.live.as_slice())
    }

    /// Whether a crash would lose nothing.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.files.values().all(|inode| inode.pending.is_empty())
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// By how many bytes `op` makes the disk fuller.
    pub fn growth(&self, op: &Op) -> u64 {
        let len = |file| self.bytes(file).map_or(0, <[u8]>::len) as u64;
        match op {
            Op::Write { file, at, bytes } => (at + bytes.len() as u64).saturating_sub(len(*file)),
            Op::Cut { file, len: to } => to.saturating_sub(len(*file)),
            // A name takes a little of a directory's block.
            Op::Create { .. } | Op::MakeDir { .. } => 1,
            Op::Sync { .. } | Op::SyncDir { .. } | Op::Rename { .. } | Op::Remove { .. } => 0,
            Op::FailSync { .. } | Op::Nothing => 0,
        }
    }

    /// Carries out an operation that is possible; names the file that it made.
    ///
    /// # Panics
    /// If it is not possible: whoever calls has looked.
    pub fn apply(&mut self, op: &Op) -> FileId {
        self.order += 1;
        match op {
            Op::Create { path } => {
                let id = self.next;
                self.next += 1;
                self.files.insert(id, Inode::default());
                self.rename_entry(None, Some((path.clone(), Node::File(id))));
                return id;
            }
            Op::MakeDir { path } => self.rename_entry(None, Some((path.clone(), Node::Dir))),
            Op::Write { file, at, bytes } => self.change(*file, Bytes::Write(*at, bytes.clone())),
            Op::Cut { file, len } => self.change(*file, Bytes::Cut(*len)),
            Op::Sync { file } => {
                let inode = self.files.get_mut(file).expect("an open file exists");
                if !inode.pending.is_empty() {
                    let durable = Arc::make_mut(&mut inode.durable);
                    inode.pending.drain(..).for_each(|change| change.what.apply(durable));
                }
            }
            Op::SyncDir { path } => {
                let (synced, pending) = std::mem::take(&mut self.pending).into_iter().partition(|c| c.dir == *path);
                self.pending = pending;
                let synced: Vec<NameChange> = synced;
                synced.into_iter().for_each(|change| change.apply(&mut self.durable));
            }
            Op::Rename { from, to } => {
                let node = self.names[from];
                if dir_of(from) == dir_of(to) {
                    self.rename_entry(Some(from.clone()), Some((to.clone(), node)));
                } else {
                    self.rename_entry(None, Some((to.clone(), node)));
                    self.rename_entry(Some(from.clone()), None);
                }
            }
            Op::Remove { path } => self.rename_entry(Some(path.clone()), None),
            Op::FailSync { file } => self.files.get_mut(file).expect("an open file exists").pending.clear(),
            Op::Nothing => {}
        }
        0
    }

    /// Flips one bit of a file at rest.
    ///
    /// # Panics
    /// If there is no such bit.
    pub fn flip(&mut self, path: &str, bit: u64) {
        let file = self.file(path).expect("a file to damage");
        let inode = self.files.get_mut(&file).expect("it is there");
        for bytes in [&mut inode.live, &mut inode.durable] {
            if let Some(byte) = Arc::make_mut(bytes).get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Forgets a file that has no name any more, nor can get one back.
    pub fn collect(&mut self, file: FileId) {
        let named = |node: &Node| *node == Node::File(file);
        let pending = self.pending.iter().any(|c| c.made.as_ref().is_some_and(|(_, node)| named(node)));
        if !pending
            && !self.names.values().any(named)
            && !self.durable.values().any(named)
            && let Some(inode) = self.files.remove(&file)
        {
            self.used -= inode.live.len() as u64;
        }
    }

    /// The power goes.
    pub fn crash(&mut self, fate: Fate) {
        let mut dice = match fate {
            // The page cache outlives the process; what a failed sync left
            // behind is in it as well.
            Fate::Kept => return,
            Fate::Lost => None,
            Fate::Torn(seed) | Fate::Random(seed) => Some(Prng::named(seed, "crash")),
        };
        let cut = match (&mut dice, fate) {
            (Some(dice), Fate::Torn(_)) => self.torn_at(dice),
            _ => 0,
        };
        let share = dice.as_mut().map_or(0, |dice| [125, 500, 875][dice.index(3)]);
        for change in std::mem::take(&mut self.pending) {
            let kept = match (&mut dice, fate) {
                (Some(dice), Fate::Random(_)) => dice.chance(share),
                (Some(_), Fate::Torn(_)) => change.order < cut,
                _ => false,
            };
            if kept {
                change.apply(&mut self.durable);
            }
        }
        // What lies in a directory that is not there is not there.
        let mut reached: BTreeMap<String, Node> = BTreeMap::new();
        for (path, node) in std::mem::take(&mut self.durable) {
            // A directory's path sorts before those of what is in it.
            if path.is_empty() || reached.get(dir_of(&path)) == Some(&Node::Dir) {
                reached.insert(path, node);
            }
        }
        self.durable = reached;
        for inode in self.files.values_mut() {
            let durable = Arc::make_mut(&mut inode.durable);
            for change in inode.pending.drain(..) {
                match (&mut dice, fate) {
                    (Some(dice), Fate::Random(_)) => change.what.apply_some(durable, dice, share),
                    (Some(_), Fate::Torn(_)) if change.order < cut => change.what.apply(durable),
                    (Some(dice), Fate::Torn(_)) if change.order == cut => change.what.apply_torn(durable, dice),
                    _ => {}
                }
            }
            inode.live = inode.durable.clone();
        }
        self.names = self.durable.clone();
        let kept: BTreeSet<FileId> = self.names.values().filter_map(|n| n.file()).collect();
        self.files.retain(|id, _| kept.contains(id));
        self.used = self.files.values().map(|inode| inode.live.len() as u64).sum();
    }

    /// A moment among those of the unsynced changes.
    fn torn_at(&self, dice: &mut Prng) -> u64 {
        let orders: Vec<u64> = self
            .files
            .values()
            .flat_map(|inode| inode.pending.iter().map(|change| change.order))
            .chain(self.pending.iter().map(|change| change.order))
            .collect();
        if orders.is_empty() { 0 } else { orders[dice.index(orders.len())] }
    }

    fn rename_entry(&mut self, gone: Option<String>, made: Option<(String, Node)>) {
        let path = made.as_ref().map(|(path, _)| path).or(gone.as_ref()).expect("a change of names has a name");
        let change = NameChange { order: self.order, dir: dir_of(path).to_owned(), gone, made };
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn change(&mut self, file: FileId, what: Bytes) {
        let inode = self.files.get_mut(&file).expect("an open file exists");
        let before = inode.live.len() as u64;
        what.apply(Arc::make_mut(&mut inode.live));
        self.used = self.used + inode.live.len() as u64 - before;
        inode.pending.push(Change { order: self.order, what });
    }
}

impl Node {
    fn file(&self) -> Option<FileId> {
        match self {
            Self::File(id) => Some(*id),
            Self::Dir => None,
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((made, node)) = &self.made {
            names.insert(made.clone(), *node);
        }
    }
}

impl Bytes {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => put(to, *at as usize, bytes),
            Self::Cut(len) => to.resize(*len as usize, 0),
        }
    }

    /// Some of its sectors, each for itself.
    fn apply_some(&self, to: &mut Vec<u8>, dice: &mut Prng, share: u32) {
        match self {
            Self::Write(at, bytes) => {
                let (mut from, at) = (0, *at as usize);
                while from < bytes.len() {
                    let end = bytes.len().min((at + from) / SECTOR * SECTOR + SECTOR - at);
                    if dice.chance(share) {
                        put(to, at + from, &bytes[from..end]);
                    }
                    from = end;
                }
            }
            Self::Cut(len) => {
                if dice.chance(share) {
                    to.resize(*len as usize, 0);
                }
            }
        }
    }

    /// Its beginning, up to any byte.
    fn apply_torn(&self, to: &mut Vec<u8>, dice: &mut Prng) {
        match self {
            Self::Write(at, bytes) => {
                let end = dice.index(bytes.len() + 1);
                // The length may be on the disk before the bytes are.
                if dice.chance(300) {
                    to.resize(to.len().max(*at as usize + bytes.len()), 0);
                }
                if end > 0 {
                    put(to, *at as usize, &bytes[..end]);
                }
            }
            Self::Cut(_) => {}
        }
    }
}

fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[at..end].copy_from_slice(bytes);
}

/// The directory that a path is in; empty for the root.
pub(super) fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: FileId, at: u64, bytes: &[u8]) -> Op {
        Op::Write { file, at, bytes: bytes.into() }
    }

    fn create(path: &str) -> Op {
        Op::Create { path: path.to_owned() }
    }

    fn sync_root() -> Op {
        Op::SyncDir { path: String::new() }
    }

    fn read(image: &Image, path: &str) -> Option<Vec<u8>> {
        image.file(path).and_then(|file| image.bytes(file)).map(<[u8]>::to_vec)
    }

    #[test]
    fn only_what_was_synced_survives_and_a_name_needs_its_directory() {
        let mut image = Image::new();
        let file = image.apply(&create("a"));
        image.apply(&write(file, 0, b"one"));
        image.apply(&Op::Sync { file });
        let mut lost = image.clone();
        lost.crash(Fate::Lost);
        assert_eq!(read(&lost, "a"), None, "its name was not durable");
        image.apply(&sync_root());
        image.apply(&write(file, 0, b"two"));
        let mut kept = image.clone();
        kept.crash(Fate::Kept);
        assert_eq!(read(&kept, "a").as_deref(), Some(&b"two"[..]));
        image.crash(Fate::Lost);
        assert_eq!(read(&image, "a").as_deref(), Some(&b"one"[..]));
    }

    #[test]
    fn a_rename_is_the_old_name_or_the_new_one_and_never_none() {
        let mut image = Image::new();
        let old = image.apply(&create("name"));
        image.apply(&write(old, 0, b"old"));
        image.apply(&Op::Sync { file: old });
        let new = image.apply(&create("name.new"));
        image.apply(&write(new, 0, b"new"));
        image.apply(&Op::Sync { file: new });
        image.apply(&sync_root());
        image.apply(&Op::Rename { from: "name.new".into(), to: "name".into() });
        let mut seen = BTreeSet::new();
        for seed in 0..40 {
            let mut crashed = image.clone();
            crashed.crash(Fate::Random(seed));
            seen.insert(read(&crashed, "name").expect("one of them"));
        }
        assert_eq!(seen, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
    }

    #[test]
    fn unsynced_sectors_survive_each_for_itself() {
        let mut image = Image::new();
        let file = image.apply(&create("a"));
        image.apply(&Op::Sync { file });
        image.apply(&sync_root());
        image.apply(&write(file, 0, &[1; 4 * SECTOR]));
        let (mut out_of_order, mut torn) = (false, false);
        for seed in 0..200 {
            let mut crashed = image.clone();
            crashed.crash(Fate::Random(seed));
            let bytes = read(&crashed, "a").expect("there");
            let there: Vec<bool> = bytes.chunks(SECTOR).map(|s| s == [1; SECTOR]).collect();
            out_of_order |= there.windows(2).any(|w| !w[0] && w[1]);
            let mut crashed = image.clone();
            crashed.crash(Fate::Torn(seed));
            torn |= !read(&crashed, "a").expect("there").len().is_multiple_of(SECTOR);
        }
        assert!(out_of_order && torn);
    }

    #[test]
    fn what_a_failed_sync_left_is_never_durable() {
        let mut image = Image::new();
        let file = image.apply(&create("a"));
        image.apply(&sync_root());
        image.apply(&write(file, 0, b"one"));
        image.apply(&Op::FailSync { file });
        assert_eq!(read(&image, "a").as_deref(), Some(&b"one"[..]), "readable");
        image.apply(&Op::Sync { file });
        image.crash(Fate::Lost);
        assert_eq!(read(&image, "a").as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_directory_that_is_lost_takes_along_what_is_in_it() {
        let mut image = Image::new();
        image.apply(&Op::MakeDir { path: "d".into() });
        let file = image.apply(&create("d/a"));
        image.apply(&write(file, 0, b"one"));
        image.apply(&Op::Sync { file });
        image.apply(&Op::SyncDir { path: "d".into() });
        let mut lost = image.clone();
        lost.crash(Fate::Lost);
        assert_eq!(lost.paths().count(), 0);
        image.apply(&sync_root());
        image.crash(Fate::Lost);
        assert_eq!(image.list("d"), ["a"]);
        assert_eq!(image.used(), 3);
    }
}
