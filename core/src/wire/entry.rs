//! A log entry as bytes, inside a frame and as a record of its own.
//!
//! Decides the order of its fields. Whether its hash is its own and it
//! follows the entry before it is for [`Entry::follows`].

use super::buffer::{Reader, Writer};
use super::error::DecodeError;
use super::sealed::Seal;
use crate::entry::{Entry, EntryKind};
use crate::hlc::Hlc;
use crate::ids::{Seq, StreamId, Term};
use bytes::Bytes;

const SEAL: Seal = Seal { magic: *b"bHA\xe1", version: 1 };

/// What an entry takes beside its payload, in bytes, at most.
pub const ENTRY_OVERHEAD_MAX: usize = 16 + 10 + 10 + 8 + 1 + 32 + 32 + 10;

/// The fewest bytes of an entry.
pub(super) const ENTRY_MIN: usize = 16 + 1 + 1 + 8 + 1 + 32 + 32 + 1;

/// Writes one entry as a record that stands alone.
pub fn encode_entry(entry: &Entry) -> Bytes {
    let mut out = SEAL.begin(ENTRY_OVERHEAD_MAX + entry.payload.len());
    write_entry(&mut out, entry);
    SEAL.finish(out)
}

/// Reads what [`encode_entry`] wrote; the payload shares `record`'s memory.
///
/// # Errors
/// [`DecodeError`]. The chained hash is not checked here.
pub fn decode_entry(record: Bytes) -> Result<Entry, DecodeError> {
    let mut input = Reader::new(SEAL.open(&record)?);
    let entry = read_entry(&mut input)?;
    input.end()?;
    Ok(entry)
}

pub(super) fn write_entry(out: &mut Writer, entry: &Entry) {
    out.u128(entry.stream.0);
    out.varint(entry.seq.0);
    out.varint(entry.term.0);
    out.u64(entry.hlc.0);
    out.u8(entry.kind as u8);
    out.hash(&entry.prev_hash);
    out.hash(&entry.hash);
    out.bytes(&entry.payload);
}

pub(super) fn read_entry(input: &mut Reader) -> Result<Entry, DecodeError> {
    Ok(Entry {
        stream: StreamId(input.u128()?),
        seq: Seq(input.varint()?),
        term: Term(input.varint()?),
        hlc: Hlc(input.u64()?),
        kind: match input.u8()? {
            0 => EntryKind::Noop,
            1 => EntryKind::Config,
            2 => EntryKind::Data,
            got => {
                return Err(DecodeError::BadTag { what: "entry kind", got });
            }
        },
        prev_hash: input.hash()?,
        hash: input.hash()?,
        payload: input.bytes("payload", Entry::PAYLOAD_MAX)?,
    })
}
