//! One sealed record of a snapshot's connection.
//!
//! Decides its bytes: kind (1), length (4), payload, seal (16).

use crate::bus::auth::{SEAL, Seal};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// The longest payload: one block that does not compress, and what surrounds
/// it.
pub const PAYLOAD_MAX: usize = super::BLOCK + (64 << 10);
/// How long the other side may be silent, or take nothing.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// What the copy must contain: the least seq, 8 bytes.
    Request = 0,
    /// The copy is being made.
    Working = 1,
    /// A [`super::Header`].
    Header = 2,
    /// Bytes of the file: their number (4), then compressed.
    Block = 3,
    /// That was all of it.
    End = 4,
    /// Why there is no copy: a text.
    Refusal = 5,
}

impl Kind {
    fn read(byte: u8) -> Option<Self> {
        [Self::Request, Self::Working, Self::Header, Self::Block, Self::End, Self::Refusal]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Sends one record.
///
/// # Errors
/// A text for the log.
pub async fn send<W: AsyncWrite + Unpin>(
    to: &mut W,
    seal: &mut Seal,
    kind: Kind,
    payload: &[u8],
) -> Result<(), String> {
    assert!(payload.len() <= PAYLOAD_MAX, "a record of {} bytes", payload.len());
    let mut head = [kind as u8, 0, 0, 0, 0];
    head[1..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let mark = seal.next(&[&head, payload]);
    let sending = async {
        to.write_all(&head).await?;
        to.write_all(payload).await?;
        to.write_all(&mark).await?;
        to.flush().await
    };
    match timeout(SILENCE_MAX, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("the connection broke: {error}")),
        Err(_) => Err(format!("the other side took nothing for {SILENCE_MAX:?}")),
    }
}

/// Receives one record.
///
/// # Errors
/// A text for the log.
pub async fn receive<R: AsyncRead + Unpin>(from: &mut R, seal: &mut Seal) -> Result<(Kind, Vec<u8>), String> {
    let receiving = async {
        let broke = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "the other side ended before it was done".to_owned(),
            _ => format!("the connection broke: {error}"),
        };
        let mut head = [0; 5];
        from.read_exact(&mut head).await.map_err(broke)?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > PAYLOAD_MAX {
            return Err(format!("a record of {length} bytes is beyond the bound of {PAYLOAD_MAX}"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await.map_err(broke)?;
        let mut mark = [0; SEAL];
        from.read_exact(&mut mark).await.map_err(broke)?;
        if !seal.matches(&[&head, &payload], &mark) {
            return Err("a record's seal does not match: bytes were changed, repeated or left out".to_owned());
        }
        let kind = Kind::read(head[0]).ok_or_else(|| format!("a record of unknown kind {}", head[0]))?;
        Ok((kind, payload))
    };
    match timeout(SILENCE_MAX, receiving).await {
        Ok(result) => result,
        Err(_) => Err(format!("the other side was silent for {SILENCE_MAX:?}")),
    }
}
