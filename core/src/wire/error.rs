//! Why bytes were not believed.
//!
//! Decides the words. Whoever meets one drops the bytes, or halts where they
//! come from its own log.

use core::fmt;

/// Why bytes do not decode. Nothing was taken from them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// They end too early.
    Truncated,
    /// They go on after the end.
    TrailingBytes {
        /// How many are left.
        left: usize,
    },
    /// They do not start as this form does.
    BadMagic,
    /// They were written by a newer version, or are damaged.
    UnknownVersion {
        /// The version they claim.
        got: u8,
        /// The newest version that is understood here.
        supported: u8,
    },
    /// The checksum does not match: they were changed on the way.
    Checksum,
    /// A length or count is beyond its bound.
    Bound {
        /// Of what.
        what: &'static str,
        /// The number found.
        got: u64,
        /// The largest legal one, or the largest that can follow here.
        max: u64,
    },
    /// A choice is none of the known ones.
    BadTag {
        /// Between what.
        what: &'static str,
        /// The byte found.
        got: u8,
    },
    /// A text is not UTF-8, or not legal as this kind of name.
    BadText {
        /// Which.
        what: &'static str,
    },
    /// A number overflows, or is not written in its shortest form.
    BadNumber,
    /// Items that must ascend without repetition do not.
    Unordered {
        /// Which.
        what: &'static str,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the bytes end too early"),
            Self::TrailingBytes { left } => write!(f, "{left} bytes follow after the end"),
            Self::BadMagic => f.write_str("the bytes are of another kind (bad magic)"),
            Self::UnknownVersion { got, supported } => write!(
                f,
                "format version {got} is not understood here, only {supported}: was it written by a newer release?"
            ),
            Self::Checksum => f.write_str("the checksum does not match: the bytes were damaged"),
            Self::Bound { what, got, max } => {
                write!(f, "{what}: {got} is beyond the bound of {max}")
            }
            Self::BadTag { what, got } => write!(f, "{what}: {got} is not a known choice"),
            Self::BadText { what } => write!(f, "{what}: the text is not legal"),
            Self::BadNumber => f.write_str("a number overflows or is not written in its shortest form"),
            Self::Unordered { what } => write!(f, "{what}: not in ascending order"),
        }
    }
}

impl core::error::Error for DecodeError {}
