//! The primitives: numbers, texts and bytes, in and out.
//!
//! Decides their spelling: varints are LEB128 in the shortest form, signed
//! numbers are zigzagged first, fixed numbers are little-endian, bytes are
//! preceded by their length as a varint. Knows no message.

use super::error::DecodeError;
use crate::ids::{Hash, NodeId, Url};
use alloc::vec::Vec;
use bytes::Bytes;

/// Appends values to a buffer; writing never fails.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// A yes or no.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.bytes.push(u8::from(value));
    }

    /// Four bytes, little-endian.
    #[inline]
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes, little-endian.
    #[inline]
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Sixteen bytes, little-endian.
    #[inline]
    pub fn u128(&mut self, value: u128) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A number in 1-10 bytes.
    #[inline]
    pub fn varint(&mut self, mut value: u64) {
        // Nearly every number in a change-set is below 128.
        while value >= 0x80 {
            self.bytes.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A signed number in 1-10 bytes, short when near zero.
    #[inline]
    pub fn zigzag(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    /// A count or length.
    #[inline]
    pub fn count(&mut self, value: usize) {
        self.varint(value as u64);
    }

    /// Bytes, as they are, without a length.
    #[inline]
    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    /// Bytes after their length.
    #[inline]
    pub fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.bytes.extend_from_slice(value);
    }

    /// A digest.
    #[inline]
    pub fn hash(&mut self, value: &Hash) {
        self.bytes.extend_from_slice(&value.0);
    }

    /// How much was written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was written.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.bytes)
    }
}

/// Takes values off a buffer. Bytes come out as slices that share the input's
/// memory.
#[derive(Clone, Debug)]
pub struct Reader {
    input: Bytes,
    at: usize,
}

impl Reader {
    /// Reads `input` from its start.
    pub fn new(input: Bytes) -> Self {
        Self { input, at: 0 }
    }

    /// How many bytes are left.
    #[inline]
    pub fn left(&self) -> usize {
        self.input.len() - self.at
    }

    #[inline]
    fn take(&mut self, n: usize) -> Result<&[u8], DecodeError> {
        if self.left() < n {
            return Err(DecodeError::Truncated);
        }
        let start = self.at;
        self.at += n;
        Ok(&self.input[start..self.at])
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], here and in all the others.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    /// A yes or no.
    ///
    /// # Errors
    /// [`DecodeError::BadTag`] for anything but 0 and 1.
    #[inline]
    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            got => Err(DecodeError::BadTag { what, got }),
        }
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// When too few are left.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// When too few are left.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Sixteen bytes, little-endian.
    ///
    /// # Errors
    /// When too few are left.
    #[inline]
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A number in 1-10 bytes.
    ///
    /// # Errors
    /// [`DecodeError::BadNumber`] beyond 64 bits or with needless zeros: a
    /// second spelling of a number would be a second spelling of a message.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        for shift in (7..=63).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && byte > 1 {
                return Err(DecodeError::BadNumber);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return match byte {
                    0 => Err(DecodeError::BadNumber),
                    _ => Ok(value),
                };
            }
        }
        Err(DecodeError::BadNumber)
    }

    /// A signed number in 1-10 bytes.
    ///
    /// # Errors
    /// As [`Reader::varint`].
    #[inline]
    pub fn zigzag(&mut self) -> Result<i64, DecodeError> {
        let raw = self.varint()?;
        Ok(((raw >> 1) as i64) ^ -((raw & 1) as i64))
    }

    /// A count of items that take at least `size_min` bytes each.
    ///
    /// # Errors
    /// [`DecodeError::Bound`] if it exceeds `max`, or so many cannot follow:
    /// a caller may reserve memory for what is returned.
    pub fn count(&mut self, what: &'static str, size_min: usize, max: usize) -> Result<usize, DecodeError> {
        let got = self.varint()?;
        let max = max.min(self.left() / size_min.max(1)) as u64;
        if got > max {
            return Err(DecodeError::Bound { what, got, max });
        }
        Ok(got as usize)
    }

    /// Bytes after their length, sharing the input's memory.
    ///
    /// # Errors
    /// [`DecodeError::Bound`] if they are longer than `max` or than the rest.
    #[inline]
    pub fn bytes(&mut self, what: &'static str, max: usize) -> Result<Bytes, DecodeError> {
        let n = self.count(what, 1, max)?;
        let start = self.at;
        self.at += n;
        Ok(self.input.slice(start..self.at))
    }

    /// A text after its length.
    ///
    /// # Errors
    /// As [`Reader::bytes`], and [`DecodeError::BadText`] if it is not UTF-8.
    pub fn text(&mut self, what: &'static str, max: usize) -> Result<&str, DecodeError> {
        let n = self.count(what, 1, max)?;
        let bytes = self.take(n)?;
        core::str::from_utf8(bytes).map_err(|_| DecodeError::BadText { what })
    }

    /// A digest.
    ///
    /// # Errors
    /// When too few bytes are left.
    pub fn hash(&mut self) -> Result<Hash, DecodeError> {
        Ok(Hash(self.array()?))
    }

    /// Sixteen bytes as they are.
    ///
    /// # Errors
    /// When too few are left.
    pub fn digest16(&mut self) -> Result<[u8; 16], DecodeError> {
        self.array()
    }

    /// A node's name, checked again.
    ///
    /// # Errors
    /// [`DecodeError::BadText`].
    pub fn node_id(&mut self) -> Result<NodeId, DecodeError> {
        let what = "node id";
        NodeId::new(self.text(what, NodeId::LENGTH_MAX)?).map_err(|_| DecodeError::BadText { what })
    }

    /// A member's address, checked again: `scheme://authority`, graphic ASCII,
    /// no path, query, fragment or user part.
    ///
    /// # Errors
    /// [`DecodeError::BadText`].
    pub fn url(&mut self) -> Result<Url, DecodeError> {
        let what = "url";
        let text = self.text(what, Url::LENGTH_MAX)?;
        if !is_url(text) {
            return Err(DecodeError::BadText { what });
        }
        Ok(Url::new(text))
    }

    /// Everything was read.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`] if not.
    pub fn end(&self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes { left }),
        }
    }
}

/// Whether `text` is an address that this codec passes on: `scheme://authority`
/// in graphic ASCII, no path, query, fragment or user part. An order that names
/// any other must be refused before it is logged: nobody could read it.
pub fn is_url(text: &str) -> bool {
    let authority_is_legal = |authority: &str| {
        !authority.is_empty() && authority.bytes().all(|b| b.is_ascii_graphic() && !b"/\\?#@".contains(&b))
    };
    let scheme_is_legal = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    text.len() <= Url::LENGTH_MAX
        && text
            .split_once("://")
            .is_some_and(|(scheme, authority)| scheme_is_legal(scheme) && authority_is_legal(authority))
}
