//! The seal of everything that is stored: magic, version, CRC-32, body.
//!
//! Decides when a body is handed to its decoder. Knows no body.

use super::buffer::Writer;
use super::error::DecodeError;
use bytes::Bytes;

/// Magic (4), version (1), CRC-32 over version and body (4).
pub(super) const HEAD: usize = 9;

/// One kind of sealed bytes.
pub(super) struct Seal {
    /// The first four bytes.
    pub(super) magic: [u8; 4],
    /// The version that is written, and the only one that is read.
    pub(super) version: u8,
}

impl Seal {
    /// Opens a buffer with room for `body` bytes and leaves space for the seal.
    pub(super) fn begin(&self, body: usize) -> Writer {
        let mut out = Writer::with_capacity(HEAD + body);
        out.raw(&self.magic);
        out.u8(self.version);
        out.u32(0);
        out
    }

    /// Writes the checksum of what followed [`Seal::begin`].
    pub(super) fn finish(&self, mut out: Writer) -> Bytes {
        let sum = checksum(self.version, &out.bytes[HEAD..]);
        out.bytes[5..HEAD].copy_from_slice(&sum.to_le_bytes());
        out.into_bytes()
    }

    /// Checks the seal; the body shares the input's memory.
    pub(super) fn open(&self, input: &Bytes) -> Result<Bytes, DecodeError> {
        let n = input.len().min(4);
        if input[..n] != self.magic[..n] {
            return Err(DecodeError::BadMagic);
        }
        if input.len() < HEAD {
            return Err(DecodeError::Truncated);
        }
        if input[4] != self.version {
            return Err(DecodeError::UnknownVersion { got: input[4], supported: self.version });
        }
        let stored = u32::from_le_bytes([input[5], input[6], input[7], input[8]]);
        if stored != checksum(self.version, &input[HEAD..]) {
            return Err(DecodeError::Checksum);
        }
        Ok(input.slice(HEAD..))
    }
}

fn checksum(version: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(body);
    hasher.finalize()
}
