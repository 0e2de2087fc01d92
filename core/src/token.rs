//! The read token: what a session has seen, carried by the client.
//!
//! Decides its body's bytes and how a bare number is read. The 16-byte keyed
//! MAC that is appended to the body, and the base64url around both, belong to
//! the shell, which holds the key; nothing here may be believed before that
//! MAC was checked.

use crate::ids::{ClusterId, Lineage, Seq, StreamId, Term};
use crate::position::Positions;
use crate::wire::{DecodeError, Reader, Writer};
use bytes::Bytes;
use core::fmt;

const VERSION: u8 = 1;

/// What a session has seen (DESIGN 4).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Token {
    /// The cluster it was given out by.
    pub cluster: ClusterId,
    /// That cluster's history at the time; another one answers 409.
    pub lineage: Lineage,
    /// The term of the last entry seen: a fork at the same number is told
    /// apart by it.
    pub term: Term,
    /// Per stream, the last entry seen.
    pub positions: Positions,
}

/// A token that does not fit into a cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenTooLarge {
    /// How many streams it names.
    pub streams: usize,
}

/// A bare number that is no position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadPosition {
    /// The text is empty.
    Empty,
    /// The number is beyond 2^64 - 1.
    Overflow,
}

impl Token {
    /// The most streams a token names: with all numbers at their longest, body
    /// and MAC stay below [`Token::TEXT_MAX`] in base64url.
    pub const STREAMS_MAX: usize = 56;

    /// The longest token as text, in bytes; anything longer is refused unread.
    pub const TEXT_MAX: usize = 2048;

    /// The length of the MAC that the shell appends, in bytes.
    pub const MAC_LENGTH: usize = 16;

    /// Writes the body.
    ///
    /// # Errors
    /// [`TokenTooLarge`] beyond [`Token::STREAMS_MAX`] streams: leaving one out
    /// would let the session go back in time there.
    pub fn encode(&self) -> Result<Bytes, TokenTooLarge> {
        let streams = self.positions.len();
        if streams > Self::STREAMS_MAX {
            return Err(TokenTooLarge { streams });
        }
        let mut out = Writer::with_capacity(40 + 26 * streams);
        out.u8(VERSION);
        out.u128(self.cluster.0);
        out.varint(self.lineage.0);
        out.varint(self.term.0);
        out.count(streams);
        for (stream, seq) in &self.positions {
            out.u128(stream.0);
            out.varint(seq.0);
        }
        Ok(out.into_bytes())
    }

    /// Reads a body whose MAC was checked.
    ///
    /// # Errors
    /// [`DecodeError`]: made by another release, or not a body at all.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(body);
        let got = input.u8()?;
        if got != VERSION {
            return Err(DecodeError::UnknownVersion { got, supported: VERSION });
        }
        let cluster = ClusterId(input.u128()?);
        let lineage = Lineage(input.varint()?);
        let term = Term(input.varint()?);
        let count = input.count("streams", 17, Self::STREAMS_MAX)?;
        let mut positions = Positions::new();
        for _ in 0..count {
            let stream = StreamId(input.u128()?);
            let seq = Seq(input.varint()?);
            if positions.last_key_value().is_some_and(|(last, _)| *last >= stream) {
                return Err(DecodeError::Unordered { what: "streams" });
            }
            positions.insert(stream, seq);
        }
        input.end()?;
        Ok(Self { cluster, lineage, term, positions })
    }

    /// Reads `text` as a bare position of the current lineage's shared stream,
    /// as older clients send it. `Ok(None)` if it is not a number: then it is a
    /// sealed token, or nothing. The two cannot be confused: a body starts with
    /// its version, so a sealed token's first character is a letter.
    ///
    /// # Errors
    /// [`BadPosition`] if it is a number that no position can be, or empty.
    pub fn parse_bare(text: &str) -> Result<Option<Seq>, BadPosition> {
        if text.is_empty() {
            return Err(BadPosition::Empty);
        }
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(None);
        }
        let seq = text.parse().map_err(|_| BadPosition::Overflow)?;
        Ok(Some(Seq(seq)))
    }
}

impl fmt::Display for TokenTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a token names at most {} streams, not {}", Token::STREAMS_MAX, self.streams)
    }
}

impl core::error::Error for TokenTooLarge {}

impl fmt::Display for BadPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the position is empty",
            Self::Overflow => "the position is beyond 2^64 - 1",
        })
    }
}

impl core::error::Error for BadPosition {}
