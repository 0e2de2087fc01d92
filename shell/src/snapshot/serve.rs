//! Giving a copy of `data.db` away.
//!
//! Decides who gets one: a peer that knows the secret, a few at a time, if this
//! node's data is as far as asked for and not in doubt.

use super::record::{self, Kind};
use super::{BLOCK, Header, TempFile};
use crate::bus::handshake::Session;
use crate::env::Env;
use crate::error::ApiError;
use base_ha_core::ids::{ClusterId, Seq};
use base_ha_core::position::Position;
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
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
    /// Writes a consistent copy to `to`, which does not exist yet, and says
    /// what it contains.
    fn copy(&self, to: PathBuf) -> Pin<Box<dyn Future<Output = Result<Position, ApiError>> + Send>>;

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
    dir: Arc<Path>,
    source: Arc<dyn Source>,
    room: Arc<Semaphore>,
}

impl<E: Env> Server<E> {
    /// A server whose copies are made in `dir`.
    pub fn new(env: E, dir: &Path, source: Arc<dyn Source>) -> Self {
        Self { env, dir: dir.into(), source, room: Arc::new(Semaphore::new(SERVING_MAX)) }
    }

    /// Serves one opened connection.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S, session: &mut Session) {
        let peer = session.peer.id.clone();
        match self.give(stream, session).await {
            Ok(header) => {
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
        let mut random = [0; 8];
        self.env.entropy(&mut random);
        let file = TempFile::name(&self.dir, u64::from_le_bytes(random));
        let position = self.make(stream, session, &file).await?;
        if position.seq < at_least {
            return Err(format!("this node has applied {} and {at_least} is wanted: try again later", position.seq));
        }
        self.stream_file(stream, session, &file, cluster, position).await
    }

    /// Makes the copy; tells the peer once a second that it is being made.
    async fn make<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        session: &mut Session,
        file: &TempFile,
    ) -> Result<Position, String> {
        let mut copying = self.source.copy(file.path().to_owned());
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
        file: &TempFile,
        cluster: ClusterId,
        position: Position,
    ) -> Result<Header, String> {
        let unreadable = |e: std::io::Error| format!("the copy could not be read: {e}");
        let path = file.path().to_owned();
        let opened = self.env.blocking(move || Reader::open(&path)).await;
        let (mut reader, size) = opened.map_err(unreadable)?;
        let header = Header { cluster, position, size };
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
        if reader.read != size {
            return Err(format!("the copy changed while it was sent: {} bytes of {size}", reader.read));
        }
        record::send(stream, &mut session.send, Kind::End, reader.hasher.finalize().as_bytes()).await?;
        Ok(header)
    }
}

/// Reads and compresses the file, block by block.
struct Reader {
    file: std::fs::File,
    compressor: zstd::bulk::Compressor<'static>,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    read: u64,
}

impl Reader {
    fn open(path: &Path) -> std::io::Result<(Self, u64)> {
        let file = std::fs::File::open(path)?;
        let size = file.metadata()?.len();
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        let reader = Self { file, compressor, hasher: blake3::Hasher::new(), buffer: Vec::new(), read: 0 };
        Ok((reader, size))
    }

    /// The next block's payload; `None` at the end.
    fn block(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        self.buffer.clear();
        (&mut self.file).take(BLOCK as u64).read_to_end(&mut self.buffer)?;
        if self.buffer.is_empty() {
            return Ok(None);
        }
        self.hasher.update(&self.buffer);
        self.read += self.buffer.len() as u64;
        let mut payload = (self.buffer.len() as u32).to_le_bytes().to_vec();
        payload.extend_from_slice(&self.compressor.compress(&self.buffer)?);
        Ok(Some(payload))
    }
}
