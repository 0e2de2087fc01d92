//! Giving a copy of `data.db` away.
//!
//! Decides who gets one: a peer that knows the secret, a few at a time, if this
//! node's data is as far as asked for and not in doubt.

use super::record::{self, Kind};
use super::{BLOCK, Header};
use crate::bus::handshake::Session;
use crate::env::Env;
use crate::env::files::{File, Files, Mode};
use crate::error::ApiError;
use crate::metrics::Stats;
use crate::store::backup::Copied;
use base_ha_core::ids::{ClusterId, Hash, Seq};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Copies given away at a time: each costs disk and network.
pub const SERVING_MAX: usize = 2;
/// How hard to compress: the fastest, for the network is usually faster than
/// anything above it.
const LEVEL: i32 = 1;

/// Makes copies of this node's data.
pub trait Source: Send + Sync + 'static {
    /// Makes a consistent copy in a file of its own.
    fn copy(&self) -> Pin<Box<dyn Future<Output = Result<Copied, ApiError>> + Send>>;

    /// This node's cluster, or why its data is not to be given away.
    ///
    /// # Errors
    /// A text for the peer.
    fn fit(&self) -> Result<ClusterId, String>;
}

/// Gives copies away.
#[derive(Clone)]
pub struct Server<E: Env> {
    env: E,
    source: Arc<dyn Source>,
    room: Arc<Semaphore>,
    stats: Arc<Stats>,
}

impl<E: Env> Server<E> {
    /// A server of copies that `source` makes.
    pub fn new(env: E, source: Arc<dyn Source>, stats: Arc<Stats>) -> Self {
        Self { env, source, room: Arc::new(Semaphore::new(SERVING_MAX)), stats }
    }

    /// Serves one opened connection.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S, session: &mut Session) {
        let peer = session.peer.id.clone();
        match self.give(stream, session).await {
            Ok(header) => {
                self.stats.peer.snapshots_sent.add(1);
                tracing::info!(%peer, seq = header.position.seq.0, bytes = header.size, "gave a snapshot");
            }
            Err(reason) => {
                tracing::warn!(%peer, reason, "gave no snapshot");
                // Best effort: the peer sees the end of the connection anyway.
                let _ = record::send(stream, &mut session.send, Kind::Refusal, reason.as_bytes()).await;
            }
        }
    }

    async fn give<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        session: &mut Session,
    ) -> Result<Header, String> {
        let (kind, request) = record::receive(stream, &mut session.receive).await?;
        let at_least = match (kind, <[u8; 8]>::try_from(request.as_slice())) {
            (Kind::Request, Ok(seq)) => Seq(u64::from_le_bytes(seq)),
            _ => return Err("a request was expected".to_owned()),
        };
        let cluster = self.source.fit()?;
        let Ok(_room) = self.room.try_acquire() else {
            return Err(format!("{SERVING_MAX} snapshots are being served already: try again later"));
        };
        let copied = self.make(stream, session).await?;
        if copied.position.seq < at_least {
            let applied = copied.position.seq;
            return Err(format!("this node has applied {applied} and {at_least} is wanted: try again later"));
        }
        let header = Header { cluster, position: copied.position, size: copied.bytes, hash: copied.hash };
        self.stream_file(stream, session, copied.file.path(), header).await?;
        Ok(header)
    }

    /// Makes the copy; tells the peer once a second that it is being made.
    async fn make<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        session: &mut Session,
    ) -> Result<Copied, String> {
        let mut copying = self.source.copy();
        loop {
            match timeout(Duration::from_secs(1), &mut copying).await {
                Ok(made) => return made.map_err(|e| format!("the copy could not be made: {e}")),
                Err(_) => record::send(stream, &mut session.send, Kind::Working, &[]).await?,
            }
        }
    }

    async fn stream_file<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        session: &mut Session,
        file: &Path,
        header: Header,
    ) -> Result<(), String> {
        let unreadable = |e: std::io::Error| format!("the copy could not be read: {e}");
        let (files, path) = (self.env.files(), file.to_owned());
        let mut reader = self.env.blocking(move || Reader::open(&*files, &path)).await.map_err(unreadable)?;
        record::send(stream, &mut session.send, Kind::Header, &header.encode()).await?;
        loop {
            let (back, block) = self
                .env
                .blocking(move || {
                    let block = reader.block();
                    (reader, block)
                })
                .await;
            reader = back;
            match block.map_err(unreadable)? {
                Some(block) => record::send(stream, &mut session.send, Kind::Block, &block).await?,
                None => break,
            }
        }
        let hash = Hash(*reader.hasher.finalize().as_bytes());
        if (reader.read, hash) != (header.size, header.hash) {
            return Err("the copy is not what was written: the disk damaged it".to_owned());
        }
        record::send(stream, &mut session.send, Kind::End, &[]).await
    }
}

/// Reads and compresses the file, block by block.
struct Reader {
    file: Box<dyn File>,
    compressor: zstd::bulk::Compressor<'static>,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    read: u64,
}

impl Reader {
    fn open(files: &dyn Files, path: &Path) -> std::io::Result<Self> {
        let file = files.open(path, Mode::Read)?;
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        Ok(Self { file, compressor, hasher: blake3::Hasher::new(), buffer: vec![0; BLOCK], read: 0 })
    }

    /// The next block's payload; `None` at the end.
    fn block(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.file.read_at(&mut self.buffer[filled..], self.read + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        let bytes = &self.buffer[..filled];
        if bytes.is_empty() {
            return Ok(None);
        }
        self.hasher.update(bytes);
        self.read += filled as u64;
        let mut payload = (filled as u32).to_le_bytes().to_vec();
        payload.extend_from_slice(&self.compressor.compress(bytes)?);
        Ok(Some(payload))
    }
}
