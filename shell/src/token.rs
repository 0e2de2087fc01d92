//! The read token as clients carry it: its text, its MAC, its key.
//!
//! Decides which texts are believed. What a token means for a read is
//! [`crate::http`]'s business, and its body's bytes are the core's.

use crate::config::Secret;
use crate::env::{Env, files};
use base_ha_core::ids::Seq;
use base_ha_core::token::{Token, TokenTooLarge};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use std::fmt;
use std::io;
use std::path::Path;
use subtle::ConstantTimeEq as _;

/// Separates this use of the cluster secret from every other.
const CONTEXT: &str = "base-ha 2026-11 read token";

/// The keys of read tokens: the first seals, every one opens, so that a secret
/// can be rotated without ending any session.
#[derive(Clone)]
pub struct Keys {
    seal: [u8; 32],
    open: Vec<[u8; 32]>,
}

/// What a client presented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presented {
    /// A token that a node of this cluster gave out.
    Sealed(Token),
    /// A bare position of the current lineage, as older clients send it. It
    /// proves nothing: the client made it up or copied it.
    Bare(Seq),
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadToken {
    /// Longer than [`Token::TEXT_MAX`].
    TooLong,
    /// Neither a number nor base64url of a body and a MAC.
    Malformed,
    /// Its MAC was made with none of this cluster's secrets.
    Forged,
    /// Its MAC is right and its body is of a release that this one can't read.
    OtherRelease,
}

impl Keys {
    /// Keys derived from the cluster's secrets, so that every member opens
    /// what any member sealed; from `own` if there are none.
    pub fn new(secrets: &[Secret], own: [u8; 32]) -> Self {
        let mut open: Vec<[u8; 32]> =
            secrets.iter().map(|secret| blake3::derive_key(CONTEXT, secret.expose().as_bytes())).collect();
        if open.is_empty() {
            open.push(blake3::derive_key(CONTEXT, &own));
        }
        Self { seal: open[0], open }
    }

    /// Keys for members that know each other by mutual TLS. Without a secret
    /// all use the same key, which is no secret: a token then guards against
    /// mistakes only. Who forges one gains what a bare position, which every
    /// client may make up, gives: a read that waits for it.
    pub fn with_mutual_tls(secrets: &[Secret]) -> Self {
        Self::new(secrets, [0; 32])
    }

    /// Writes a token as text.
    ///
    /// # Errors
    /// [`TokenTooLarge`] if it names too many streams for a cookie.
    pub fn seal(&self, token: &Token) -> Result<String, TokenTooLarge> {
        let body = token.encode()?;
        let mac = blake3::keyed_hash(&self.seal, &body);
        let mut sealed = Vec::with_capacity(body.len() + Token::MAC_LENGTH);
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(&mac.as_bytes()[..Token::MAC_LENGTH]);
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Reads a token's text.
    ///
    /// # Errors
    /// [`BadToken`] says why it isn't believed.
    pub fn open(&self, text: &str) -> Result<Presented, BadToken> {
        if text.len() > Token::TEXT_MAX {
            return Err(BadToken::TooLong);
        }
        if let Some(seq) = Token::parse_bare(text).map_err(|_| BadToken::Malformed)? {
            return Ok(Presented::Bare(seq));
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadToken::Malformed)?;
        let at = sealed.len().checked_sub(Token::MAC_LENGTH).ok_or(BadToken::Malformed)?;
        let (body, mac) = sealed.split_at(at);
        let made_here = |key: &[u8; 32]| {
            let expected = blake3::keyed_hash(key, body);
            bool::from(expected.as_bytes()[..Token::MAC_LENGTH].ct_eq(mac))
        };
        if !self.open.iter().any(made_here) {
            return Err(BadToken::Forged);
        }
        let body = Bytes::copy_from_slice(body);
        Token::decode(body).map(Presented::Sealed).map_err(|_| BadToken::OtherRelease)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} that open)", self.open.len())
    }
}

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the session token is longer than 2048 bytes",
            Self::Malformed => "the session token is neither a number nor base64url of a body and its MAC",
            Self::Forged => "the session token was not made by this cluster",
            Self::OtherRelease => "the session token was made by a release that this one cannot read",
        })
    }
}

impl std::error::Error for BadToken {}

/// The data directory's own random key, made on first use: what tokens are
/// sealed with where there is no cluster secret, so that a restart ends no
/// session. Kept in `token.key`, readable by its owner only.
///
/// # Errors
/// What the file system says, or [`io::ErrorKind::InvalidData`] if the file
/// does not hold 32 bytes.
pub fn own_key<E: Env>(dir: &Path, env: &E) -> io::Result<[u8; 32]> {
    let (files, path) = (env.files(), dir.join("token.key"));
    match files::read(&*files, &path) {
        Ok(bytes) => bytes.try_into().map_err(|bytes: Vec<u8>| {
            let text = format!("{} holds {} bytes instead of 32: delete it", path.display(), bytes.len());
            io::Error::new(io::ErrorKind::InvalidData, text)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            env.entropy(&mut key);
            // By way of a rename: a crash in between must not leave a short key.
            files::place(&*files, &path, &dir.join("token.key.new"), &key)?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::ids::{ClusterId, Lineage, StreamId, Term};

    fn token(seq: u64) -> Token {
        let positions = [(StreamId::SHARED, Seq(seq))].into();
        Token { cluster: ClusterId(7), lineage: Lineage(1), term: Term(3), positions }
    }

    #[test]
    fn every_member_opens_what_any_member_sealed_also_during_rotation() {
        let old = Keys::new(&[Secret::new("old")], [0; 32]);
        let both = Keys::new(&[Secret::new("new"), Secret::new("old")], [1; 32]);
        let new = Keys::new(&[Secret::new("new")], [2; 32]);
        let by_old = old.seal(&token(5)).unwrap();
        let by_both = both.seal(&token(6)).unwrap();
        assert_eq!(both.open(&by_old), Ok(Presented::Sealed(token(5))));
        assert_eq!(new.open(&by_both), Ok(Presented::Sealed(token(6))));
        assert_eq!(new.open(&by_old), Err(BadToken::Forged));
    }

    #[test]
    fn no_bit_of_a_token_can_be_changed() {
        let keys = Keys::new(&[], [9; 32]);
        let text = keys.seal(&token(1 << 40)).unwrap();
        let sealed = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let opened = keys.open(&URL_SAFE_NO_PAD.encode(forged));
            assert!(matches!(opened, Err(BadToken::Forged)), "bit {bit}: {opened:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_believed_that_was_not_sealed(text in ".{0,80}|[A-Za-z0-9_-]{20,120}") {
            let opened = Keys::new(&[], [9; 32]).open(&text);
            proptest::prop_assert!(!matches!(opened, Ok(Presented::Sealed(_))));
        }
    }

    #[test]
    fn texts_that_are_no_tokens_are_refused() {
        let keys = Keys::new(&[], [9; 32]);
        assert_eq!(keys.open("42"), Ok(Presented::Bare(Seq(42))));
        assert_eq!(keys.open("18446744073709551615"), Ok(Presented::Bare(Seq(u64::MAX))));
        assert_eq!(keys.open("18446744073709551616"), Err(BadToken::Malformed));
        assert_eq!(keys.open(""), Err(BadToken::Malformed));
        assert_eq!(keys.open("AAAA"), Err(BadToken::Malformed));
        assert_eq!(keys.open("not base64!"), Err(BadToken::Malformed));
        assert_eq!(keys.open(&"A".repeat(Token::TEXT_MAX + 1)), Err(BadToken::TooLong));
    }
}
