//! An entry that is too large for one frame: in pieces on its way, and put
//! together again.
//!
//! Decides which piece comes next and which fits. A heartbeat passes between
//! two pieces, so that the largest entry costs no writer its lease. Knows
//! nothing of what an entry means; that the whole is what was sent is seen by
//! its hash.

use crate::entry::Entry;
use crate::ids::{Hash, Seq};
use crate::message::Part;
use crate::position::Position;
use crate::time::MonoTime;
use alloc::vec::Vec;
use bytes::Bytes;

/// An entry on its way to one follower.
#[derive(Clone, Debug, Hash)]
pub(super) struct Parts {
    /// The point before it.
    pub(super) prev: Position,
    entry: Entry,
    /// The size of a piece, in bytes.
    size: usize,
    /// Up to here it was sent.
    sent: usize,
    /// Up to here the follower has it in memory.
    taken: usize,
    /// When `taken` last changed: what was sent before speaks of an older one.
    taken_at: MonoTime,
}

impl Parts {
    /// An entry that is to travel in pieces of so many bytes.
    pub(super) fn new(prev: Position, entry: Entry, size: usize) -> Self {
        Self { prev, entry, size, sent: 0, taken: 0, taken_at: MonoTime(0) }
    }

    pub(super) fn seq(&self) -> Seq {
        self.entry.seq
    }

    pub(super) fn position(&self) -> Position {
        self.entry.position()
    }

    /// Everything was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.entry.payload.len()
    }

    /// Goes on after what the follower is known to have.
    pub(super) fn rewind(&mut self) {
        self.sent = self.taken;
    }

    /// The next piece, and where it ends. Once all was taken, an empty one.
    pub(super) fn next(&mut self) -> (Part, usize) {
        let length = self.entry.payload.len();
        let end = (self.sent + self.size).min(length);
        let head = Entry { payload: Bytes::new(), ..self.entry.clone() };
        let part = Part { head, length, offset: self.sent, bytes: self.entry.payload.slice(self.sent..end) };
        self.sent = end;
        (part, end)
    }

    /// The follower has the first `bytes`, said in answer to something that
    /// was sent at `echo`. False if it has less than it once had, and less
    /// than was counted on: what is under way to it is of no use then.
    pub(super) fn taken(&mut self, bytes: usize, echo: MonoTime, now: MonoTime) -> bool {
        let bytes = bytes.min(self.entry.payload.len());
        if bytes > self.taken {
            self.taken = bytes;
            self.taken_at = now;
            self.sent = self.sent.max(bytes);
        } else if bytes < self.taken && echo > self.taken_at {
            // Another process, or it made room for another entry.
            self.taken = bytes;
            self.taken_at = now;
            return false;
        }
        true
    }
}

/// An entry being put together. One at a time: the writer sends them in order.
#[derive(Clone, Debug, Hash)]
pub(super) struct Assembly {
    /// The entry's own hash tells it from any other at its place.
    hash: Hash,
    length: usize,
    bytes: Vec<u8>,
}

/// What became of a piece.
pub(super) enum Assembled {
    /// So many bytes are there.
    Partial(usize),
    /// That was the last one.
    Whole(Entry),
}

impl Assembly {
    /// Takes a piece that goes on where the last one ended; any other changes
    /// nothing. Room grows with what comes in, not with what a length claims.
    pub(super) fn take(slot: &mut Option<Self>, part: Part) -> Assembled {
        let Part { head, length, offset, bytes } = part;
        let same = slot.as_ref().is_some_and(|a| a.hash == head.hash && a.length == length);
        if !same {
            *slot = Some(Self { hash: head.hash, length, bytes: Vec::new() });
        }
        let Some(assembly) = slot else {
            return Assembled::Partial(0);
        };
        let have = assembly.bytes.len();
        // A repeated piece may end where a new one does.
        if offset <= have && offset + bytes.len() > have {
            assembly.bytes.extend_from_slice(&bytes[have - offset..]);
        }
        if assembly.bytes.len() < length {
            return Assembled::Partial(assembly.bytes.len());
        }
        let payload = slot.take().map(|a| Bytes::from(a.bytes)).unwrap_or_default();
        Assembled::Whole(Entry { payload, ..head })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;
    use crate::hlc::Hlc;
    use crate::ids::{StreamId, Term};
    use alloc::vec;

    const SIZE: usize = 64 << 10;

    fn entry(length: usize, fill: u8) -> Entry {
        let payload = Bytes::from(vec![fill; length]);
        Entry::following(&Position::START, StreamId::SHARED, Term(1), Hlc(1), EntryKind::Data, payload)
    }

    fn partial(assembled: Assembled) -> usize {
        match assembled {
            Assembled::Partial(bytes) => bytes,
            Assembled::Whole(entry) => panic!("entry {} is whole", entry.seq),
        }
    }

    #[test]
    fn pieces_make_the_entry_whole_whatever_is_repeated() {
        let whole = entry(SIZE * 2 + 7, 3);
        let mut parts = Parts::new(Position::START, whole.clone(), SIZE);
        let mut slot = None;
        let (first, end) = parts.next();
        assert_eq!(end, SIZE);
        let (second, _) = parts.next();
        assert_eq!(partial(Assembly::take(&mut slot, second.clone())), 0, "the first is missing");
        assert_eq!(partial(Assembly::take(&mut slot, first.clone())), SIZE);
        assert_eq!(partial(Assembly::take(&mut slot, first)), SIZE, "again");
        assert_eq!(partial(Assembly::take(&mut slot, second)), SIZE * 2);
        let (third, end) = parts.next();
        assert_eq!((end, parts.is_sent()), (whole.payload.len(), true));
        match Assembly::take(&mut slot, third) {
            Assembled::Whole(got) => assert_eq!(got, whole),
            Assembled::Partial(bytes) => panic!("{bytes} of {}", whole.payload.len()),
        }
        assert!(slot.is_none(), "nothing is kept of it");
        let (last, _) = parts.next();
        assert!(last.bytes.is_empty() && last.offset == last.length, "a question");
    }

    #[test]
    fn another_entry_at_the_same_place_starts_anew() {
        let mut slot = None;
        let mut parts = Parts::new(Position::START, entry(SIZE * 2, 1), SIZE);
        assert_eq!(partial(Assembly::take(&mut slot, parts.next().0)), SIZE);
        let mut others = Parts::new(Position::START, entry(SIZE * 2, 2), SIZE);
        assert_eq!(partial(Assembly::take(&mut slot, others.next().0)), SIZE);
        assert_eq!(partial(Assembly::take(&mut slot, parts.next().0)), 0, "its first piece is gone");
    }

    #[test]
    fn a_late_answer_takes_nothing_back_and_a_new_process_does() {
        let mut parts = Parts::new(Position::START, entry(SIZE * 4, 1), SIZE);
        parts.next();
        parts.next();
        assert!(parts.taken(SIZE * 2, MonoTime(2), MonoTime(10)));
        assert!(parts.taken(SIZE, MonoTime(1), MonoTime(11)), "said before");
        parts.rewind();
        assert_eq!(parts.next().0.offset, SIZE * 2);
        assert!(!parts.taken(0, MonoTime(12), MonoTime(13)), "it lost what it had");
        parts.rewind();
        assert_eq!(parts.next().0.offset, 0);
    }
}
