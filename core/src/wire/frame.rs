//! The frame: one envelope on its way between two nodes.
//!
//! Decides where a frame ends and whether it arrived whole. What it says is
//! `message`'s business; who may say it, the transport's and the node's.

use super::buffer::{Reader, Writer};
use super::error::DecodeError;
use super::message::{read_envelope, write_envelope};
use crate::message::{Envelope, Message};
use bytes::Bytes;

const MAGIC: [u8; 4] = *b"bHA\xf1";
/// The version that is written, and the only one that is read.
pub const FRAME_VERSION: u8 = 2;

/// What comes before a frame's body, in bytes: magic (4), version (1), length
/// of the body (4), CRC-32 over version, length and body (4).
pub const FRAME_HEAD: usize = 13;

/// The longest body, in bytes: the most entries that one append carries, and
/// room for what surrounds them. A longer entry travels in parts.
pub const BODY_MAX: usize = 2 << 20;

/// Writes a frame.
///
/// # Panics
/// If its body is beyond [`BODY_MAX`]: whoever gathers entries for one append
/// bounds them, so that no receiver refuses what was sent.
pub fn encode_frame(envelope: &Envelope) -> Bytes {
    let payloads: usize = match &envelope.message {
        Message::Append(append) => {
            let entries: usize = append.entries.iter().map(|e| e.payload.len() + super::ENTRY_OVERHEAD_MAX).sum();
            entries + append.part.as_ref().map_or(0, |part| part.bytes.len() + super::ENTRY_OVERHEAD_MAX)
        }
        _ => 0,
    };
    let mut out = Writer::with_capacity(FRAME_HEAD + 512 + payloads);
    out.raw(&MAGIC);
    out.u8(FRAME_VERSION);
    out.u32(0);
    out.u32(0);
    write_envelope(&mut out, envelope);
    let length = out.len() - FRAME_HEAD;
    assert!(length <= BODY_MAX, "a frame of {length} bytes: appends are bounded before they are encoded");
    out.bytes[5..9].copy_from_slice(&(length as u32).to_le_bytes());
    let sum = checksum(&out.bytes);
    out.bytes[9..FRAME_HEAD].copy_from_slice(&sum.to_le_bytes());
    out.into_bytes()
}

/// How long the frame is that starts here, head included; `None` until enough
/// has arrived to tell. Nothing needs to be reserved before this says so.
///
/// # Errors
/// As soon as the bytes cannot be a frame: the connection is of no more use,
/// for the next frame's start is unknown.
pub fn frame_length(start: &[u8]) -> Result<Option<usize>, DecodeError> {
    let n = start.len().min(4);
    if start[..n] != MAGIC[..n] {
        return Err(DecodeError::BadMagic);
    }
    let Some(&got) = start.get(4) else {
        return Ok(None);
    };
    if got != FRAME_VERSION {
        return Err(DecodeError::UnknownVersion { got, supported: FRAME_VERSION });
    }
    let Some(length) = start.get(5..9) else {
        return Ok(None);
    };
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if length > BODY_MAX {
        return Err(DecodeError::Bound { what: "frame", got: length as u64, max: BODY_MAX as u64 });
    }
    Ok(Some(FRAME_HEAD + length))
}

/// Reads exactly one frame. Payloads of entries share `frame`'s memory.
///
/// # Errors
/// [`DecodeError`]; the frame is dropped whole.
pub fn decode_frame(frame: Bytes) -> Result<Envelope, DecodeError> {
    let length = frame_length(&frame)?.ok_or(DecodeError::Truncated)?;
    if frame.len() < length {
        return Err(DecodeError::Truncated);
    }
    if frame.len() > length {
        return Err(DecodeError::TrailingBytes { left: frame.len() - length });
    }
    let stored = u32::from_le_bytes([frame[9], frame[10], frame[11], frame[12]]);
    if stored != checksum(&frame) {
        return Err(DecodeError::Checksum);
    }
    let mut input = Reader::new(frame.slice(FRAME_HEAD..));
    let envelope = read_envelope(&mut input)?;
    input.end()?;
    Ok(envelope)
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[4..9]);
    hasher.update(&frame[FRAME_HEAD..]);
    hasher.finalize()
}
