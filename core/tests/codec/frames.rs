//! Frames, log records and memberships.

use crate::make;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{ClusterId, Incarnation, NodeId, Seq, StreamId, Term, Url};
use base_ha_core::member::{Member, Membership, QuorumMode, Role};
use base_ha_core::message::{Append, Envelope, Message, Part};
use base_ha_core::position::Position;
use base_ha_core::time::MonoTime;
use base_ha_core::wire::{
    BODY_MAX, DecodeError, FRAME_HEAD, Reader, Writer, decode_entry, decode_frame, decode_membership, encode_entry,
    encode_frame, encode_membership, frame_length,
};
use bytes::Bytes;
use proptest::prelude::*;

proptest! {
    #[test]
    fn every_message_is_read_back(envelope in make::envelope()) {
        let frame = encode_frame(&envelope);
        prop_assert_eq!(frame_length(&frame), Ok(Some(frame.len())));
        prop_assert_eq!(decode_frame(frame), Ok(envelope));
    }

    #[test]
    fn every_entry_is_read_back(entry in make::entry()) {
        prop_assert_eq!(decode_entry(encode_entry(&entry)), Ok(entry));
    }

    #[test]
    fn every_membership_is_read_back(membership in make::membership()) {
        prop_assert_eq!(decode_membership(encode_membership(&membership)), Ok(membership));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = frame_length(&bytes);
        let bytes = Bytes::from(bytes);
        prop_assert!(decode_frame(bytes.clone()).is_err());
        prop_assert!(decode_entry(bytes.clone()).is_err());
        prop_assert!(decode_membership(bytes).is_err());
    }

    /// Behind a right checksum as well: a peer with a bug has one.
    #[test]
    fn a_body_that_was_tampered_with_and_resealed_never_panics(
        envelope in make::envelope(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let frame = encode_frame(&envelope);
        let whole = &frame[FRAME_HEAD..];
        let cut = cut.index(whole.len());
        // No body is the start of another.
        prop_assert!(decode_frame(seal(&whole[..cut])).is_err());
        let mut body = whole.to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        for body in [&body[..], &body[..cut]] {
            if let Ok(read) = decode_frame(seal(body)) {
                // What is believed has one spelling only.
                prop_assert_eq!(encode_frame(&read), seal(body));
            }
        }
    }

    #[test]
    fn numbers_are_read_back(unsigned in make::number(), signed in any::<i64>()) {
        let mut out = Writer::default();
        out.varint(unsigned);
        out.zigzag(signed);
        let mut input = Reader::new(out.into_bytes());
        prop_assert_eq!(input.varint(), Ok(unsigned));
        prop_assert_eq!(input.zigzag(), Ok(signed));
        prop_assert_eq!(input.end(), Ok(()));
    }
}

/// A frame around `body` whose checksum is right.
pub(crate) fn seal(body: &[u8]) -> Bytes {
    let mut frame = sample_frame()[..5].to_vec();
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[4..]);
    hasher.update(body);
    frame.extend_from_slice(&hasher.finalize().to_le_bytes());
    frame.extend_from_slice(body);
    Bytes::from(frame)
}

fn sample_envelope(payload: &[u8]) -> Envelope {
    let entry = Entry::following(
        &Position::START,
        StreamId::SHARED,
        Term(3),
        Hlc::new(1_700_000_000_000, 7),
        EntryKind::Data,
        Bytes::copy_from_slice(payload),
    );
    Envelope {
        cluster: ClusterId(7),
        seats: 0,
        from: NodeId::new("base-0").expect("legal"),
        incarnation: Incarnation(99),
        nonce: Default::default(),
        term: Term(3),
        config: Default::default(),
        message: Message::Append(Append {
            sent: Some(MonoTime(5)),
            prev: Position::START,
            entries: vec![entry],
            commit: Seq(0),
            renews: true,
            part: None,
        }),
    }
}

fn sample_frame() -> Bytes {
    encode_frame(&sample_envelope(b"what happened"))
}

#[test]
fn every_single_bit_flip_is_rejected() {
    let frame = sample_frame();
    for bit in 0..frame.len() * 8 {
        let mut flipped = frame.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_frame(Bytes::from(flipped)).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_extension_is_rejected() {
    let frame = sample_frame();
    for n in 0..frame.len() {
        assert_eq!(decode_frame(frame.slice(..n)), Err(DecodeError::Truncated), "{n} bytes");
    }
    let mut longer = frame.to_vec();
    longer.push(0);
    assert_eq!(decode_frame(Bytes::from(longer)), Err(DecodeError::TrailingBytes { left: 1 }));
}

#[test]
fn an_unknown_version_is_named() {
    let mut frame = sample_frame().to_vec();
    frame[4] = 3;
    let refusal = DecodeError::UnknownVersion { got: 3, supported: 2 };
    assert_eq!(frame_length(&frame), Err(refusal));
    assert_eq!(decode_frame(Bytes::from(frame)), Err(refusal));
    assert!(refusal.to_string().contains("newer release"));
}

#[test]
fn a_stream_is_cut_into_frames_as_bytes_arrive() {
    let frame = sample_frame();
    for n in 0..9 {
        assert_eq!(frame_length(&frame[..n]), Ok(None), "{n} bytes");
    }
    assert_eq!(frame_length(&frame[..9]), Ok(Some(frame.len())));
    // A stranger is known by its first byte.
    assert_eq!(frame_length(b"G"), Err(DecodeError::BadMagic));
}

#[test]
fn a_length_beyond_the_bound_is_refused_before_anything_is_reserved() {
    let mut head = sample_frame()[..9].to_vec();
    head[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        frame_length(&head),
        Err(DecodeError::Bound { what: "frame", got: u64::from(u32::MAX), max: BODY_MAX as u64 })
    );
}

#[test]
fn a_count_that_cannot_follow_is_refused_before_anything_is_reserved() {
    let mut envelope = sample_envelope(b"");
    if let Message::Append(append) = &mut envelope.message {
        append.entries.clear();
    }
    // After the count of entries comes only that there is no part: claim 2^28
    // of them.
    let frame = encode_frame(&envelope);
    let mut body = frame[FRAME_HEAD..].to_vec();
    assert_eq!((body.pop(), body.pop()), (Some(0), Some(0)));
    body.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x01]);
    assert_eq!(decode_frame(seal(&body)), Err(DecodeError::Bound { what: "entries", got: 1 << 28, max: 0 }));
}

#[test]
fn a_payload_shares_the_frames_memory() {
    let frame = encode_frame(&sample_envelope(&[7; 1000]));
    let whole = frame.as_ptr() as usize..frame.as_ptr() as usize + frame.len();
    let Ok(envelope) = decode_frame(frame.clone()) else {
        panic!("a valid frame");
    };
    let Message::Append(append) = envelope.message else {
        panic!("an append");
    };
    assert!(whole.contains(&(append.entries[0].payload.as_ptr() as usize)));
}

#[test]
fn a_part_beyond_its_payload_is_refused() {
    let part = |length, offset, bytes: &'static [u8]| {
        let mut envelope = sample_envelope(b"");
        if let Message::Append(append) = &mut envelope.message {
            let head = append.entries.remove(0);
            append.part = Some(Box::new(Part { head, length, offset, bytes: Bytes::from_static(bytes) }));
        }
        decode_frame(encode_frame(&envelope))
    };
    assert!(part(Entry::PAYLOAD_MAX, Entry::PAYLOAD_MAX - 3, b"end").is_ok());
    assert!(part(7, 7, b"").is_ok());
    let bound = |what, got, max| Err(DecodeError::Bound { what, got, max });
    let max = Entry::PAYLOAD_MAX as u64;
    assert_eq!(part(Entry::PAYLOAD_MAX + 1, 0, b"x"), bound("length of a payload", max + 1, max));
    assert_eq!(part(7, 8, b""), bound("offset of a part", 8, 7));
    assert_eq!(part(7, 5, b"end"), bound("part", 3, 2));
    let mut envelope = sample_envelope(b"whole");
    if let Message::Append(append) = &mut envelope.message {
        let head = append.entries.remove(0);
        append.part = Some(Box::new(Part { head, length: 5, offset: 0, bytes: Bytes::new() }));
    }
    assert_eq!(decode_frame(encode_frame(&envelope)), bound("payload of a part's head", 5, 0));
}

#[test]
fn numbers_have_one_spelling() {
    let read = |bytes: &'static [u8]| Reader::new(Bytes::from_static(bytes)).varint();
    assert_eq!(read(&[0x80, 0x00]), Err(DecodeError::BadNumber));
    assert_eq!(read(&[0xff; 11]), Err(DecodeError::BadNumber));
    let nines: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
    assert_eq!(Reader::new(Bytes::copy_from_slice(nines)).varint(), Err(DecodeError::BadNumber));
    assert_eq!(read(&[0x80]), Err(DecodeError::Truncated));
}

fn membership(urls: &[&str]) -> Membership {
    Membership {
        version: Default::default(),
        cluster: ClusterId(1),
        mode: QuorumMode::Majority,
        lineage: Default::default(),
        members: urls
            .iter()
            .map(|url| Member { url: Url::new(url), identity: None, role: Role::Voter, target: Some(Role::Witness) })
            .collect(),
    }
}

#[test]
fn a_membership_is_checked_again_on_arrival() {
    let read = |urls: &[&str]| decode_membership(encode_membership(&membership(urls)));
    assert!(read(&["http://a:1", "http://b:1"]).is_ok());
    let unordered = Err(DecodeError::Unordered { what: "members" });
    assert_eq!(read(&["http://b:1", "http://a:1"]), unordered);
    assert_eq!(read(&["http://a:1", "http://a:1"]), unordered);
    for bad in
        ["", "a:1", "http://", "://a", "http://a/b", "http://u@a", "http://a b", "http://a?x", "http://ä", "9p://a"]
    {
        assert_eq!(read(&[bad]), Err(DecodeError::BadText { what: "url" }), "{bad:?}");
    }
    let many: Vec<String> = (0..65).map(|n| format!("http://n{n:03}:1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(read(&many), Err(DecodeError::Bound { what: "members", got: 65, max: 64 }));
}

#[test]
fn a_stored_record_reports_every_single_bit_flip() {
    let Message::Append(append) = sample_envelope(b"kept").message else {
        panic!("an append");
    };
    for sealed in [encode_entry(&append.entries[0]), encode_membership(&membership(&["http://a:1"]))] {
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let flipped = Bytes::from(flipped);
            assert!(decode_entry(flipped.clone()).is_err(), "bit {bit}");
            assert!(decode_membership(flipped).is_err(), "bit {bit}");
        }
    }
}
