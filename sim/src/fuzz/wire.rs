//! Frames, log records and snapshot headers.
//!
//! Decides that whatever is believed is spelled as it would be written: there
//! is one spelling of a message, so nothing can hide in another.

use base_ha::snapshot::Header;
use base_ha_core::wire::{
    FRAME_HEAD, FRAME_VERSION, decode_entry, decode_frame, encode_entry, encode_frame, frame_length,
};
use bytes::Bytes;

/// A frame, as it comes from a peer.
///
/// # Panics
/// If a promise of the codec does not hold.
pub fn frame(data: &[u8]) {
    let Some((how, body)) = data.split_first() else { return };
    let bytes = if how % 2 == 0 { Bytes::copy_from_slice(body) } else { framed(body) };
    // Bytes arrive in pieces: what was said of a start holds for what follows.
    let mut said = None;
    for end in 0..=bytes.len().min(FRAME_HEAD) {
        match (frame_length(&bytes[..end]), said) {
            (Ok(Some(length)), Some(before)) => assert_eq!(length, before, "a frame's length changes as it arrives"),
            (Ok(Some(length)), None) => said = Some(length),
            (Ok(None), None) => {}
            (Ok(None), Some(_)) => panic!("a frame's length is forgotten as it arrives"),
            // The connection ends here.
            (Err(_), None) => return,
            (Err(error), Some(_)) => panic!("a frame's head was believed and is not any more: {error}"),
        }
    }
    if let Ok(envelope) = decode_frame(bytes.clone()) {
        assert_eq!(encode_frame(&envelope), bytes, "a frame that is not written like this was read");
    }
}

/// A record of the log.
///
/// # Panics
/// If a promise of the codec does not hold.
pub fn record(data: &[u8]) {
    let Some((how, body)) = data.split_first() else { return };
    let bytes = if how % 2 == 0 { Bytes::copy_from_slice(body) } else { sealed(*b"bHA\xe1", 1, body) };
    if let Ok(entry) = decode_entry(bytes.clone()) {
        assert_eq!(encode_entry(&entry), bytes, "a record that is not written like this was read");
    }
}

/// The header of a snapshot.
///
/// # Panics
/// If a promise of the codec does not hold.
pub fn snapshot_header(data: &[u8]) {
    if let Ok(header) = Header::decode(data) {
        assert_eq!(header.encode(), data, "a header that is not written like this was read");
    }
}

/// A frame around `body`: magic, version, length, CRC-32 over all of it but
/// the magic (see `wire::frame`).
fn framed(body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(FRAME_HEAD + body.len());
    out.extend_from_slice(b"bHA\xf1");
    out.push(FRAME_VERSION);
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    let sum = sum(&[&out[4..], body]);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(body);
    out.into()
}

/// The seal of everything that is stored, around `body` (see `wire::sealed`).
pub(super) fn sealed(magic: [u8; 4], version: u8, body: &[u8]) -> Bytes {
    let mut out = magic.to_vec();
    out.push(version);
    out.extend_from_slice(&sum(&[&[version], body]).to_le_bytes());
    out.extend_from_slice(body);
    out.into()
}

fn sum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    /// Were the heads made here not those of the codec, every input would be
    /// refused at the door and the targets would try nothing.
    #[test]
    fn what_is_framed_and_sealed_here_is_what_the_codec_writes() {
        for bytes in samples::frames() {
            assert_eq!(framed(&bytes[FRAME_HEAD..]), bytes);
        }
        let entry = samples::entry();
        let bytes = encode_entry(&entry);
        assert_eq!(sealed(*b"bHA\xe1", 1, &bytes[9..]), bytes);
        assert_eq!(decode_entry(bytes).expect("an entry"), entry);
    }
}
