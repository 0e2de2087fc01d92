//! Locks between connections, and the memory that they share.
//!
//! Decides who may have which of SQLite's locks on a file, as its unix VFS
//! decides it between processes; and keeps the write-ahead log's index, which
//! there is a mapped file. Both end with the process.

use super::disk::{OpenId, lock};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::Mutex;

/// How much a connection has locked; ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    None,
    Shared,
    Reserved,
    Pending,
    Exclusive,
}

/// The locks on one file.
#[derive(Debug, Default)]
pub(super) struct Locks {
    shared: BTreeSet<OpenId>,
    reserved: Option<OpenId>,
    pending: Option<OpenId>,
    exclusive: Option<OpenId>,
    /// The shell's own kind, which has nothing to do with SQLite's.
    whole: Option<OpenId>,
}

impl Locks {
    /// Raises a lock from `from`; the level that is reached, and whether it is
    /// the one that was wanted.
    pub(super) fn raise(&mut self, who: OpenId, from: Level, to: Level) -> (Level, bool) {
        let other = |holder: Option<OpenId>| holder.is_some_and(|holder| holder != who);
        if from >= to {
            return (from, true);
        }
        match to {
            Level::None => (from, true),
            Level::Shared => {
                if other(self.pending) || other(self.exclusive) {
                    return (from, false);
                }
                self.shared.insert(who);
                (Level::Shared, true)
            }
            Level::Reserved => {
                if other(self.reserved) || other(self.pending) || other(self.exclusive) {
                    return (from, false);
                }
                self.reserved = Some(who);
                (Level::Reserved, true)
            }
            Level::Pending | Level::Exclusive => {
                if other(self.reserved) || other(self.pending) || other(self.exclusive) {
                    return (from, false);
                }
                self.pending = Some(who);
                if self.shared.iter().any(|holder| *holder != who) {
                    return (Level::Pending, false);
                }
                self.exclusive = Some(who);
                (Level::Exclusive, true)
            }
        }
    }

    /// Lowers a lock to [`Level::Shared`] or [`Level::None`].
    pub(super) fn lower(&mut self, who: OpenId, to: Level) {
        for holder in [&mut self.reserved, &mut self.pending, &mut self.exclusive] {
            if *holder == Some(who) {
                *holder = None;
            }
        }
        if to == Level::None {
            self.shared.remove(&who);
        }
    }

    /// Whether anybody is about to write.
    pub(super) fn reserved(&self) -> bool {
        self.reserved.is_some() || self.pending.is_some() || self.exclusive.is_some()
    }

    /// Takes the shell's lock.
    pub(super) fn take_whole(&mut self, who: OpenId) -> bool {
        let free = self.whole.is_none_or(|holder| holder == who);
        if free {
            self.whole = Some(who);
        }
        free
    }

    /// Gives the shell's lock up.
    pub(super) fn give_whole(&mut self, who: OpenId) {
        if self.whole == Some(who) {
            self.whole = None;
        }
    }

    /// Whoever it was has closed the file.
    pub(super) fn forget(&mut self, who: OpenId) {
        self.lower(who, Level::None);
        self.give_whole(who);
    }
}

/// SQLite's count of locks on the index.
const SLOTS: usize = 8;

/// The index of one write-ahead log, shared by its connections.
#[derive(Debug, Default)]
pub(super) struct Shared {
    inner: Mutex<SharedInner>,
}

#[derive(Debug, Default)]
struct SharedInner {
    regions: Vec<Region>,
    readers: [BTreeSet<OpenId>; SLOTS],
    writer: [Option<OpenId>; SLOTS],
}

impl Shared {
    /// The region with that number, `bytes` long and zeroed when it is new;
    /// `None` if there is none and `extend` is not set.
    pub(super) fn region(&self, number: usize, bytes: usize, extend: bool) -> Option<NonNull<u8>> {
        let mut inner = lock(&self.inner);
        if number >= inner.regions.len() && !extend {
            return None;
        }
        while inner.regions.len() <= number {
            inner.regions.push(Region::new(bytes));
        }
        let region = &inner.regions[number];
        assert_eq!(region.layout.size(), bytes, "all regions of an index are as long");
        Some(region.memory)
    }

    /// Takes slots, shared or not; false if another connection is in the way.
    pub(super) fn take(&self, who: OpenId, slots: std::ops::Range<usize>, exclusive: bool) -> bool {
        let mut inner = lock(&self.inner);
        for slot in slots.clone() {
            let written = inner.writer[slot].is_some_and(|holder| holder != who);
            let read = inner.readers[slot].iter().any(|holder| *holder != who);
            if written || exclusive && read {
                return false;
            }
        }
        for slot in slots {
            if exclusive {
                inner.writer[slot] = Some(who);
            } else {
                inner.readers[slot].insert(who);
            }
        }
        true
    }

    /// Gives slots up.
    pub(super) fn give(&self, who: OpenId, slots: std::ops::Range<usize>) {
        let mut inner = lock(&self.inner);
        for slot in slots {
            if inner.writer[slot] == Some(who) {
                inner.writer[slot] = None;
            }
            inner.readers[slot].remove(&who);
        }
    }

    /// Gives everything up.
    pub(super) fn forget(&self, who: OpenId) {
        self.give(who, 0..SLOTS);
    }
}

/// Memory at an address that does not change while SQLite may use it.
#[derive(Debug)]
struct Region {
    memory: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is plain memory. Rust code never reads or writes it; SQLite does,
// under the locks above and with its own barriers, as it does with a mapped file.
unsafe impl Send for Region {}

impl Region {
    fn new(bytes: usize) -> Self {
        assert!(bytes > 0, "an empty region");
        let layout = Layout::from_size_align(bytes, 64).expect("a region of some KiB");
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout));
        Self { memory, layout }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, once. Whoever was given the
        // address holds the `Shared` that owns this.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_waits_for_readers_and_keeps_new_ones_out() {
        let mut locks = Locks::default();
        assert_eq!(locks.raise(1, Level::None, Level::Shared), (Level::Shared, true));
        assert_eq!(locks.raise(2, Level::None, Level::Shared), (Level::Shared, true));
        assert_eq!(locks.raise(1, Level::Shared, Level::Reserved), (Level::Reserved, true));
        assert_eq!(locks.raise(2, Level::Shared, Level::Reserved), (Level::Shared, false));
        assert_eq!(locks.raise(1, Level::Reserved, Level::Exclusive), (Level::Pending, false));
        assert_eq!(locks.raise(3, Level::None, Level::Shared), (Level::None, false));
        locks.lower(2, Level::None);
        assert_eq!(locks.raise(1, Level::Pending, Level::Exclusive), (Level::Exclusive, true));
        assert!(locks.reserved());
        locks.forget(1);
        assert!(!locks.reserved());
        assert_eq!(locks.raise(3, Level::None, Level::Shared), (Level::Shared, true));
    }

    #[test]
    fn an_index_slot_has_one_writer_or_many_readers() {
        let shared = Shared::default();
        assert!(shared.take(1, 0..2, false) && shared.take(2, 1..2, false));
        assert!(!shared.take(3, 0..3, true));
        shared.give(1, 0..2);
        shared.forget(2);
        assert!(shared.take(3, 0..3, true));
        assert!(!shared.take(1, 2..3, false));
        let first = shared.region(0, 32768, true).expect("made");
        assert!(shared.region(1, 32768, false).is_none());
        shared.region(1, 32768, true).expect("made");
        assert_eq!(shared.region(0, 32768, false), Some(first), "it stays where it is");
    }
}
