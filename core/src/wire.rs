//! Bytes: everything that crosses the wire, or is a payload in the log.
//!
//! Decides how facts are written and which bytes are believed. Every outer
//! form opens with a magic and a version and carries a CRC-32, every count is
//! checked against the bytes that are left before anything is reserved, and
//! numbers have exactly one spelling: bytes that decode, encode back to
//! themselves. Knows nothing of who sends or stores them.
//!
//! | form | file | checked by |
//! |---|---|---|
//! | frame: one [`crate::message::Envelope`] | `frame`, `message` | CRC-32, and BLAKE3 per entry |
//! | log record: one [`crate::entry::Entry`] | `entry` | CRC-32, and BLAKE3 by [`crate::entry::Entry::follows`] |
//! | membership: payload of a `Config` entry | `membership` | CRC-32, BLAKE3 of its entry |
//! | change-set: payload of a `Data` entry | `changeset`, `capture` | CRC-32, BLAKE3 of its entry |
//!
//! A field that is added to a message is written and read at its end, and the
//! form's version goes up: an old node refuses the new bytes whole.

mod buffer;
mod capture;
mod changeset;
mod entry;
mod error;
mod frame;
mod membership;
mod message;
mod sealed;

pub use buffer::{Reader, Writer, is_url};
pub use capture::{ChangeSetWriter, Mark, TooLarge, ValueRef};
pub use changeset::{ChangeSetReader, decode_changeset, encode_changeset};
pub use entry::{ENTRY_OVERHEAD_MAX, decode_entry, encode_entry};
pub use error::DecodeError;
pub use frame::{BODY_MAX, FRAME_HEAD, FRAME_VERSION, decode_frame, encode_frame, frame_length};
pub use membership::{decode_membership, encode_membership};
