//! What decoding reserves: never more than follows from what has arrived.
//!
//! An allocator that counts stands in for the usual one in this binary. It
//! counts each thread for itself, for tests run side by side.

use crate::{changesets, frames, make};
use base_ha_core::token::Token;
use base_ha_core::wire::{
    FRAME_HEAD, decode_changeset, decode_entry, decode_frame, decode_membership, encode_changeset, encode_entry,
    encode_frame, encode_membership,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is being torn down is not measured any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting
// allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was reserved at any moment during `work`, in bytes.
fn peak_of<T>(work: impl FnOnce() -> T) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    let kept = work();
    let peak = PEAK.get() - before;
    drop(kept);
    usize::try_from(peak).unwrap_or(0)
}

/// The bound: a byte that arrived may become one value, which is no larger than
/// this; and something for what there is but once.
fn bound(arrived: usize) -> usize {
    128 * arrived + 4096
}

fn within_bound(bytes: Bytes, decode: impl FnOnce(Bytes)) -> Result<(), TestCaseError> {
    let arrived = bytes.len();
    let peak = peak_of(|| decode(bytes));
    prop_assert!(peak <= bound(arrived), "{peak} bytes reserved for {arrived}");
    Ok(())
}

/// Bytes of `whole` replaced: by what claims to be the largest numbers, too.
fn mutated(whole: &[u8], changes: &[(prop::sample::Index, u8)], cut: prop::sample::Index) -> Vec<u8> {
    let mut body = whole.to_vec();
    if body.is_empty() {
        return body;
    }
    for (at, byte) in changes {
        let at = at.index(body.len());
        if byte.is_multiple_of(3) {
            let end = body.len().min(at + 9);
            body[at..end].fill(0xff);
            body[end - 1] = 0x01;
        } else {
            body[at] = *byte;
        }
    }
    body.truncate(body.len() - cut.index(body.len()) / 4);
    body
}

/// The same of what is sealed, past the seal.
fn resealed(whole: &[u8], changes: &[(prop::sample::Index, u8)], cut: prop::sample::Index) -> Bytes {
    let (head, body) = whole.split_at(9);
    changesets::reseal([head, &mutated(body, changes, cut)].concat())
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..6)
}

proptest! {
    #[test]
    fn a_frame_reserves_no_more_than_follows_from_its_length(
        envelope in make::envelope(), changes in changes(), cut: prop::sample::Index,
    ) {
        let body = mutated(&encode_frame(&envelope)[FRAME_HEAD..], &changes, cut);
        within_bound(frames::seal(&body), |frame| drop(decode_frame(frame)))?;
    }

    #[test]
    fn a_change_set_reserves_no_more_than_follows_from_its_length(
        set in make::changeset(), changes in changes(), cut: prop::sample::Index,
    ) {
        let bytes = resealed(&encode_changeset(&set), &changes, cut);
        within_bound(bytes, |bytes| drop(decode_changeset(bytes)))?;
    }

    #[test]
    fn an_entry_and_a_membership_reserve_no_more_than_follows_from_their_length(
        entry in make::entry(), membership in make::membership(), changes in changes(), cut: prop::sample::Index,
    ) {
        let bytes = resealed(&encode_entry(&entry), &changes, cut);
        within_bound(bytes, |bytes| drop(decode_entry(bytes)))?;
        let bytes = resealed(&encode_membership(&membership), &changes, cut);
        within_bound(bytes, |bytes| drop(decode_membership(bytes)))?;
    }

    #[test]
    fn arbitrary_bytes_reserve_no_more_than_follows_from_their_length(
        bytes in prop::collection::vec(prop_oneof![Just(0xffu8), Just(0x7f), any::<u8>()], 0..300),
    ) {
        within_bound(frames::seal(&bytes), |frame| drop(decode_frame(frame)))?;
        within_bound(Bytes::from(bytes), |bytes| drop(Token::decode(bytes)))?;
    }
}

/// The checker has a case that it must reject: a count that is believed.
#[test]
fn a_decoder_that_believes_a_count_is_found_out() {
    let frame = Bytes::from_static(&[0xff, 0xff, 0x03]);
    let claimed = 0xffff;
    let peak = peak_of(|| Vec::<u64>::with_capacity(claimed));
    assert!(peak > bound(frame.len()), "{peak}");
    // And what was let go again is counted as well, as long as it was held.
    let peak = peak_of(|| drop(Vec::<u64>::with_capacity(claimed)));
    assert!(peak > bound(frame.len()), "{peak}");
}
