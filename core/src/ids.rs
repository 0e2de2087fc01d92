//! Names and numbers that have a meaning of their own.
//!
//! Decides how each is written and which values are legal. Knows nothing of
//! what they are used for.

use alloc::string::String;
use alloc::sync::Arc;
use core::{fmt, hash};

/// The name of a node: `BASE_NODE_ID`, 1-64 of `[A-Za-z0-9._-]`.
///
/// Names are ordered bytewise; the writer pin prefers the lowest.
#[derive(Clone, Eq, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

impl PartialEq for NodeId {
    /// The names of one cluster differ mostly in their last byte, and are
    /// compared several times for each frame.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().last() == other.0.as_bytes().last() && self.0 == other.0
    }
}

impl hash::Hash for NodeId {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Why a text is not a [`NodeId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadNodeId {
    /// Empty, or longer than 64 bytes.
    Length(usize),
    /// Holds a byte outside `[A-Za-z0-9._-]`.
    Byte(u8),
}

impl NodeId {
    /// The longest legal name, in bytes.
    pub const LENGTH_MAX: usize = 64;

    /// Checks `text` and makes it a name.
    ///
    /// # Errors
    /// [`BadNodeId`] says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, BadNodeId> {
        if text.is_empty() || text.len() > Self::LENGTH_MAX {
            return Err(BadNodeId::Length(text.len()));
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if let Some(byte) = text.bytes().find(|b| !legal(*b)) {
            return Err(BadNodeId::Byte(byte));
        }
        Ok(Self(Arc::from(text)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number after the last `-`, or -1: `/_ha/peers` sorts by it
    /// (CONTRACTS 1).
    pub fn ordinal(&self) -> i64 {
        match self.0.rsplit_once('-') {
            Some((_, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().unwrap_or(-1)
            }
            _ => -1,
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for BadNodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(n) => write!(f, "a node id has 1-64 bytes, this has {n}"),
            Self::Byte(b) => write!(f, "a node id is made of [A-Za-z0-9._-], not of byte 0x{b:02x}"),
        }
    }
}

impl core::error::Error for BadNodeId {}

/// Where a member is reached: `scheme://host:port`, no path, no trailing slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url(Arc<str>);

impl Url {
    /// The longest legal URL, in bytes.
    pub const LENGTH_MAX: usize = 512;

    /// Takes a URL that the configuration, the codec or an administrator's
    /// order has already checked; strips a trailing slash.
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text.trim_end_matches('/')))
    }

    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! hex_u128 {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:08x}", self.0 >> 96)
            }
        }

        impl $name {
            /// Reads what `Display` wrote.
            pub fn parse(text: &str) -> Option<Self> {
                if text.len() != 32 {
                    return None;
                }
                u128::from_str_radix(text, 16).ok().map(Self)
            }
        }
    };
}

hex_u128! {
    /// 128 random bits written when a data directory is made. The same node id
    /// with another incarnation is a stranger: it forgot its votes (R8).
    Incarnation
}

hex_u128! {
    /// Names a cluster for good; zero means "none yet".
    ClusterId
}

hex_u128! {
    /// Names a stream of entries: [`StreamId::SHARED`] in `majority`, the
    /// writing incarnation in the merging modes.
    StreamId
}

impl ClusterId {
    /// No cluster yet.
    pub const NONE: Self = Self(0);
}

impl StreamId {
    /// The one stream of the `majority` mode.
    pub const SHARED: Self = Self(0);
}

macro_rules! counter {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            ///
            /// # Panics
            /// At 2^64 - 1, which no running system reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("counter exhausted"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter! {
    /// An election's number. At most one node is writer of a term (R2).
    Term
}

counter! {
    /// An entry's place in its stream, from 1; 0 is "before the first".
    Seq
}

counter! {
    /// The version of the membership; each logged change adds one.
    ConfigVersion
}

counter! {
    /// Drawn at every process start: two live nonces of one id are two
    /// processes that claim to be the same node.
    BootNonce
}

counter! {
    /// Counts re-foundings of a cluster's history (`recover --new-cluster`,
    /// a change of mode). A token of another lineage answers 409.
    Lineage
}

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash "before the first entry".
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The hash of a database's whole content at a position: the sum modulo 2^128
/// of its rows' hashes, so that it can be kept up to date row by row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ContentHash(pub u128);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

/// Joins texts for messages; here so that callers need no `std`.
pub fn join<T: fmt::Display>(items: impl IntoIterator<Item = T>, separator: &str) -> String {
    use fmt::Write;
    let mut out = String::new();
    for (n, item) in items.into_iter().enumerate() {
        if n > 0 {
            out.push_str(separator);
        }
        let _ = write!(out, "{item}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_checked() {
        assert!(NodeId::new("base-0.eu_1").is_ok());
        assert_eq!(NodeId::new(""), Err(BadNodeId::Length(0)));
        assert_eq!(NodeId::new("a b"), Err(BadNodeId::Byte(b' ')));
        assert_eq!(NodeId::new(&"x".repeat(65)), Err(BadNodeId::Length(65)));
    }

    #[test]
    fn the_ordinal_is_the_number_after_the_last_dash() {
        let ordinal = |t: &str| NodeId::new(t).expect("legal").ordinal();
        assert_eq!(ordinal("base-0"), 0);
        assert_eq!(ordinal("base-eu-12"), 12);
        assert_eq!(ordinal("base"), -1);
        assert_eq!(ordinal("base-x1"), -1);
        assert_eq!(ordinal("base-"), -1);
    }

    #[test]
    fn ids_read_back_what_they_print() {
        use alloc::string::ToString;
        let id = ClusterId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(ClusterId::parse(&id.to_string()), Some(id));
        assert_eq!(ClusterId::parse("12"), None);
    }
}
