//! A whole `data.db` on its way from one node to another.
//!
//! Decides how a copy travels: over a connection of its own that was opened
//! like any other between nodes (`bus::handshake`, so no clock has to agree and
//! nothing can be replayed), in sealed records, compressed in blocks of
//! bounded size, its hash announced and checked. Knows nothing of what
//! is in the file; whoever installs it checks that.
//!
//! ```text
//!  client                              server
//!    Request: what it must contain ──▶
//!        ◀── Working, once a second while the copy is made
//!        ◀── Header: cluster, position, size, BLAKE3 of the file
//!        ◀── Block: compressed on its own, up to 1 MiB    (many)
//!        ◀── End
//!        ◀── or Refusal, a text, at any point
//! ```
//!
//! A crash at any point leaves the old `data.db` or the new one: the file is
//! received under another name, fsynced, and moved into place by the store;
//! the log notes before and after (`LogJob::BeginInstall`, `FinishInstall`).
//!
//! | file | its noun |
//! |---|---|
//! | `record` | one sealed record |
//! | `serve` | giving a copy away |
//! | `fetch` | getting one, and putting it in place |

pub mod fetch;
pub mod record;
pub mod serve;

use base_ha_core::ids::{ClusterId, Hash, Seq, Term};
use base_ha_core::position::Position;

/// The path of the connection.
pub const SNAPSHOT_PATH: &str = "/_ha/snapshot";
/// Bytes of the file in one block.
pub const BLOCK: usize = 1 << 20;
const MAGIC: [u8; 4] = *b"bHAs";
const VERSION: u8 = 1;

/// What a copy is, said before it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose.
    pub cluster: ClusterId,
    /// What it contains.
    pub position: Position,
    /// Bytes of the file.
    pub size: u64,
    /// BLAKE3 of the file.
    pub hash: Hash,
}

impl Header {
    const LENGTH: usize = 4 + 1 + 16 + 8 + 8 + 32 + 8 + 32;

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LENGTH);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&self.cluster.0.to_le_bytes());
        out.extend_from_slice(&self.position.seq.0.to_le_bytes());
        out.extend_from_slice(&self.position.term.0.to_le_bytes());
        out.extend_from_slice(&self.position.hash.0);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.hash.0);
        out
    }

    /// Reads what [`Header::encode`] wrote.
    ///
    /// # Errors
    /// A text for the log.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (magic, rest) = bytes.split_at_checked(5).ok_or("a snapshot's header is too short")?;
        if magic[..4] != MAGIC {
            return Err("this is not a snapshot's header".to_owned());
        }
        if magic[4] != VERSION {
            return Err(format!("snapshot version {} is not understood here, only {VERSION}", magic[4]));
        }
        if rest.len() != Self::LENGTH - 5 {
            return Err(format!("a snapshot's header has {} bytes, not {}", bytes.len(), Self::LENGTH));
        }
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&rest[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&rest[..16]);
        let hash = |at: usize| {
            let mut hash = [0; 32];
            hash.copy_from_slice(&rest[at..at + 32]);
            Hash(hash)
        };
        Ok(Self {
            cluster: ClusterId(u128::from_le_bytes(cluster)),
            position: Position { seq: Seq(number(16)), term: Term(number(24)), hash: hash(32) },
            size: number(64),
            hash: hash(72),
        })
    }
}

#[cfg(test)]
mod tests;
