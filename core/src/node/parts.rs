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
    /// Up to here it was sent.
    sent: usize,
    /// Up to here the follower has it in memory.
    taken: usize,
    /// When `taken` last changed: what was sent before speaks of an older one.
    taken_at: MonoTime,
}

impl Parts {
    /// A longer payload travels in pieces of this size: on a line of 1 Mbit/s
    /// one passes within half a second.
    pub(super) const SIZE: usize = 64 << 10;

    /// Whether this entry travels in pieces.
    pub(super) fn needed(entry: &Entry) -> bool {
        entry.payload.len() > Self::SIZE
    }

    pub(super) fn new(prev: Position, entry: Entry) -> Self {
        Self { prev, entry, sent: 0, taken: 0, taken_at: MonoTime(0) }
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
        let end = (self.sent + Self::SIZE).min(length);
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
        let whole = entry(Parts::SIZE * 2 + 7, 3);
        let mut parts = Parts::new(Position::START, whole.clone());
        let mut slot = None;
        let (first, end) = parts.next();
        assert_eq!(end, Parts::SIZE);
        let (second, _) = parts.next();
        assert_eq!(partial(Assembly::take(&mut slot, second.clone())), 0, "the first is missing");
        assert_eq!(partial(Assembly::take(&mut slot, first.clone())), Parts::SIZE);
        assert_eq!(partial(Assembly::take(&mut slot, first)), Parts::SIZE, "again");
        assert_eq!(partial(Assembly::take(&mut slot, second)), Parts::SIZE * 2);
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
        let mut parts = Parts::new(Position::START, entry(Parts::SIZE * 2, 1));
        assert_eq!(partial(Assembly::take(&mut slot, parts.next().0)), Parts::SIZE);
        let mut others = Parts::new(Position::START, entry(Parts::SIZE * 2, 2));
        assert_eq!(partial(Assembly::take(&mut slot, others.next().0)), Parts::SIZE);
        assert_eq!(partial(Assembly::take(&mut slot, parts.next().0)), 0, "its first piece is gone");
    }

    #[test]
    fn a_late_answer_takes_nothing_back_and_a_new_process_does() {
        let mut parts = Parts::new(Position::START, entry(Parts::SIZE * 4, 1));
        parts.next();
        parts.next();
        assert!(parts.taken(Parts::SIZE * 2, MonoTime(2), MonoTime(10)));
        assert!(parts.taken(Parts::SIZE, MonoTime(1), MonoTime(11)), "said before");
        parts.rewind();
        assert_eq!(parts.next().0.offset, Parts::SIZE * 2);
        assert!(!parts.taken(0, MonoTime(12), MonoTime(13)), "it lost what it had");
        parts.rewind();
        assert_eq!(parts.next().0.offset, 0);
    }
}
