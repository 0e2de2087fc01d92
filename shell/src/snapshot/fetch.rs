//! Getting a copy of `data.db` from another node and putting it in place.
//!
//! Decides whether the bytes are what the other node says they are, and in
//! which order log and store learn of them.

use super::record::{self, Kind};
use super::{BLOCK, Header, SNAPSHOT_PATH};
use crate::api::{LogJob, NodeEvent, StoreJob};
use crate::app::NodeHandle;
use crate::bus::direct::DirectBus;
use crate::bus::handshake::{Purpose, Session};
use crate::driver::{FetchOrder, installed_input};
use crate::env::files::{File, Files, Mode};
use crate::env::real::panic_text;
use crate::env::{Env, WorkerHandle};
use crate::error::ApiError;
use crate::store::UNFINISHED;
use crate::store::backup::TempFile;
use base_ha_core::ids::{ClusterId, Hash};
use base_ha_core::io::Input;
use base_ha_core::time::MonoTime;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

/// First wait after a failure; doubles with each.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest wait after a failure.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Fetches and installs snapshots, one at a time.
pub struct Fetcher<E: Env> {
    /// The world.
    pub env: E,
    /// The data directory.
    pub dir: PathBuf,
    /// Reaches the other node.
    pub bus: DirectBus<E>,
    /// The log worker.
    pub log: WorkerHandle<LogJob>,
    /// The store worker, and who else has `data.db` open; a witness has none
    /// of it, and only begins its log anew where a copy says that it may.
    pub data: Option<(WorkerHandle<StoreJob>, Arc<dyn Readers>)>,
    /// Told when all is done.
    pub node: NodeHandle,
    /// Failures since the last success.
    pub failures: AtomicU32,
}

/// Those who have `data.db` open to read it.
pub trait Readers: Send + Sync + 'static {
    /// The file is about to be replaced: let go of it, and do not open it. A
    /// reader that opens it while its write-ahead log is of the other file
    /// would read neither.
    fn close(&self);

    /// The file may be opened again.
    fn open(&self);
}

/// Closes readers for as long as it lives, however the install ends.
struct Closed<'a>(&'a dyn Readers);

impl<'a> Closed<'a> {
    fn new(readers: &'a dyn Readers) -> Self {
        readers.close();
        Self(readers)
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Why an install did not happen, or what that means.
#[derive(Debug)]
pub(super) enum Failure {
    /// `data.db` is as it was.
    Harmless(String),
    /// Store and log no longer agree in this process: only a start, which
    /// reads both from disk, puts that right.
    Fatal(String),
}

impl<E: Env> Fetcher<E> {
    /// Carries out one order; its end reaches the node loop, a panic's too: how
    /// far an install got is then known to the disk only, and a loop that waits
    /// for an end that never comes would never fetch again.
    pub async fn run(self: Arc<Self>, order: FetchOrder) {
        let node = self.node.clone();
        if let Err(error) = tokio::spawn(self.carry_out(order)).await
            && error.is_panic()
        {
            let panic = error.into_panic();
            // If the loop has ended, so does the process.
            let _ = node.tell(NodeEvent::Fatal(format!("fetching a snapshot panicked: {}", panic_text(&*panic))));
        }
    }

    async fn carry_out(self: Arc<Self>, order: FetchOrder) {
        let event = match self.fetch_and_install(&order).await {
            Ok(input) => {
                self.failures.store(0, Ordering::Relaxed);
                NodeEvent::Core(Box::new(input))
            }
            Err(Failure::Harmless(reason)) => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
                let wait = (BACKOFF_MIN * (1 << failures)).min(BACKOFF_MAX);
                tracing::warn!(from = %order.from, reason, again_in = ?wait, "no snapshot");
                // Not after the wait: the data is as it was, and readers may
                // wait for what is committed meanwhile.
                order.pause.resume();
                // The core asks again as soon as it is told: waiting here keeps
                // a node that cannot be helped from hammering the others.
                tokio::time::sleep(wait).await;
                NodeEvent::Core(Box::new(Input::SnapshotFailed))
            }
            Err(Failure::Fatal(reason)) => NodeEvent::Fatal(reason),
        };
        // If the loop has ended, so does the process.
        let _ = self.node.tell(event);
    }

    async fn fetch_and_install(&self, order: &FetchOrder) -> Result<Input, Failure> {
        let (files, dir) = (self.env.files(), self.dir.clone());
        let made = self.env.blocking(move || TempFile::create(&files, &dir)).await;
        let file = made.map_err(|e| Failure::Harmless(unwritable(e)))?;
        let header = self.fetch(order, file.path()).await.map_err(Failure::Harmless)?;
        self.install(order, header, file).await
    }

    async fn fetch(&self, order: &FetchOrder, to: &Path) -> Result<Header, String> {
        let (mut stream, mut session) = self.bus.dial(&order.from, SNAPSHOT_PATH, Purpose::Snapshot).await?;
        let header = receive_file(&self.env, &mut stream, &mut session, order.at_least.seq.0, to).await?;
        if session.peer.cluster != ClusterId::NONE && header.cluster != session.peer.cluster {
            return Err(format!("a snapshot of another cluster ({})", header.cluster));
        }
        Ok(header)
    }

    /// Puts the received file in place.
    pub(super) async fn install(&self, order: &FetchOrder, header: Header, file: TempFile) -> Result<Input, Failure> {
        let gone = |_| Failure::Harmless("this node is stopping".to_owned());
        let Some((store, readers)) = &self.data else {
            return self.begin_log(header, file).await;
        };
        order.pause.pause().await.map_err(|_| Failure::Harmless("this node is stopping".to_owned()))?;

        // First the log notes what is about to happen: a crash right after the
        // file was moved leaves a log that ends below `data.db`, which would
        // be taken for amnesia.
        let (reply, noted) = oneshot::channel();
        let job = LogJob::BeginInstall { position: header.position, keep_log: order.reseed, reply };
        self.log.send(job).map_err(|_| Failure::Harmless("the log worker has ended".to_owned()))?;
        flatten(noted.await.map_err(gone)?).map_err(Failure::Harmless)?;

        let closed = Closed::new(&**readers);
        let (reply, installed) = oneshot::channel();
        let job = StoreJob::Install { file: file.path().to_owned(), reply };
        store.send(job).map_err(|_| Failure::Harmless("the store worker has ended".to_owned()))?;
        let installed = match installed.await.map_err(gone)? {
            Ok(installed) => installed,
            Err(error) if error.code == UNFINISHED => return Err(Failure::Fatal(error.to_string())),
            Err(error) => {
                // The intent must not outlive what it was for: a later start
                // would take it for an install that a crash interrupted. If the
                // log worker has ended, so does the process.
                let _ = self.log.send(LogJob::ForgetInstall);
                return Err(Failure::Harmless(error.to_string()));
            }
        };
        // The store has moved it.
        file.into_path();
        if installed.position != header.position {
            return Err(Failure::Fatal(format!(
                "a snapshot said to contain {:?} contains {:?}",
                header.position, installed.position
            )));
        }

        let (reply, finished) = oneshot::channel();
        let job =
            LogJob::FinishInstall { position: installed.position, membership: installed.membership.clone(), reply };
        let half =
            |reason: String| Failure::Fatal(format!("a snapshot was installed and the log could not follow: {reason}"));
        self.log.send(job).map_err(|_| half("its worker has ended".to_owned()))?;
        let answer = finished.await.map_err(|_| half("its worker has ended".to_owned()))?;
        let log_reset = flatten(answer).map_err(half)?;
        drop(closed);
        Ok(installed_input(installed, log_reset))
    }

    /// A witness lacks entries that no log holds any more: its log begins anew
    /// at a copy's position, under the membership as of there. The copy itself
    /// is of no more use.
    async fn begin_log(&self, header: Header, file: TempFile) -> Result<Input, Failure> {
        let harmless = |error: ApiError| Failure::Harmless(error.to_string());
        let files = self.env.files();
        let (file, seen) = self
            .env
            .blocking(move || {
                let seen = crate::store::verify(&*files, file.path());
                (file, seen)
            })
            .await;
        drop(file);
        let seen = seen.map_err(harmless)?;
        if seen.position != header.position {
            return Err(Failure::Harmless("the copy does not contain what was said".to_owned()));
        }
        let (reply, finished) = oneshot::channel();
        let job = LogJob::FinishInstall { position: seen.position, membership: seen.membership.clone(), reply };
        self.log.send(job).map_err(|_| Failure::Harmless("the log worker has ended".to_owned()))?;
        let answer = finished.await.map_err(|_| Failure::Harmless("this node is stopping".to_owned()))?;
        // Whatever it could not write it has not done, or it ends the process.
        let log_reset = answer.map_err(harmless)?;
        Ok(installed_input(seen, log_reset))
    }
}

fn flatten<T>(result: Result<T, ApiError>) -> Result<T, String> {
    result.map_err(|e| e.to_string())
}

/// Asks for a copy with at least `at_least`, receives it into the file `to`,
/// which exists, and fsyncs it.
///
/// # Errors
/// A text for the log; the file is of no use then.
pub async fn receive_file<E: Env, S: AsyncRead + AsyncWrite + Unpin>(
    env: &E,
    stream: &mut S,
    session: &mut Session,
    at_least: u64,
    to: &Path,
) -> Result<Header, String> {
    record::send(stream, &mut session.send, Kind::Request, &at_least.to_le_bytes()).await?;
    let mut incoming: Option<(Header, Writer)> = None;
    let mut progress = Progress::new(env.now().mono);
    loop {
        let (kind, payload) = record::receive(stream, &mut session.receive).await?;
        match (kind, incoming.take()) {
            (Kind::Working, none @ None) => incoming = none,
            (Kind::Refusal, _) => {
                // It comes from elsewhere: one line of a log, and no more.
                let text: String =
                    String::from_utf8_lossy(&payload).chars().take(300).filter(|c| !c.is_control()).collect();
                return Err(format!("the other node says: {text}"));
            }
            (Kind::Header, None) => {
                let header = Header::decode(&payload)?;
                if header.position.seq.0 < at_least {
                    return Err(format!("it contains {} and {at_least} is wanted", header.position.seq));
                }
                let (files, path) = (env.files(), to.to_owned());
                let writer = env.blocking(move || Writer::create(&*files, &path)).await.map_err(unwritable)?;
                incoming = Some((header, writer));
            }
            (Kind::Block, Some((header, mut writer))) => {
                let size = header.size;
                let (back, result) = env
                    .blocking(move || {
                        let result = writer.block(&payload, size);
                        (writer, result)
                    })
                    .await;
                result?;
                progress.look(env.now().mono, back.written, size);
                incoming = Some((header, back));
            }
            (Kind::End, Some((header, writer))) => {
                env.blocking(move || writer.finish(header.size, header.hash)).await?;
                return Ok(header);
            }
            (kind, _) => return Err(format!("a record of kind {kind:?} out of turn")),
        }
    }
}

fn unwritable(error: std::io::Error) -> String {
    format!("the copy could not be written: {error}")
}

/// Decompresses and writes the file, block by block.
struct Writer {
    file: Box<dyn File>,
    decompressor: zstd::bulk::Decompressor<'static>,
    hasher: blake3::Hasher,
    written: u64,
}

impl Writer {
    fn create(files: &dyn Files, path: &Path) -> std::io::Result<Self> {
        let file = files.open(path, Mode::Empty)?;
        let decompressor = zstd::bulk::Decompressor::new()?;
        Ok(Self { file, decompressor, hasher: blake3::Hasher::new(), written: 0 })
    }

    /// Takes one block. What it claims to hold is bounded before anything is
    /// reserved.
    fn block(&mut self, payload: &[u8], size: u64) -> Result<(), String> {
        let (length, packed) = payload.split_at_checked(4).ok_or("a block is too short")?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if length > BLOCK || self.written + length as u64 > size {
            return Err(format!("a block of {length} bytes is beyond the bound, or beyond the file's end"));
        }
        let bytes = self.decompressor.decompress(packed, length).map_err(|e| format!("a block is damaged: {e}"))?;
        if bytes.len() != length {
            return Err(format!("a block has {} bytes and not {length}", bytes.len()));
        }
        self.hasher.update(&bytes);
        self.file.write_all_at(&bytes, self.written).map_err(unwritable)?;
        self.written += length as u64;
        Ok(())
    }

    /// Checks the whole, and makes it durable.
    fn finish(self, size: u64, hash: Hash) -> Result<(), String> {
        if self.written != size {
            return Err(format!("it ended after {} of {size} bytes", self.written));
        }
        if Hash(*self.hasher.finalize().as_bytes()) != hash {
            return Err("its hash is not the one that was announced: it was damaged".to_owned());
        }
        self.file.sync_all().map_err(unwritable)
    }
}

/// One log line a second for what takes long.
struct Progress {
    began: MonoTime,
    logged: MonoTime,
}

impl Progress {
    fn new(now: MonoTime) -> Self {
        Self { began: now, logged: now }
    }

    fn look(&mut self, now: MonoTime, written: u64, size: u64) {
        if now.since(self.logged) < Duration::from_secs(1) {
            return;
        }
        self.logged = now;
        let seconds = now.since(self.began).as_secs_f64();
        let percent = written.saturating_mul(100) / size.max(1);
        let mib_per_s = written as f64 / seconds / f64::from(1 << 20);
        tracing::info!(bytes = written, of = size, percent, mib_per_s, "receiving a snapshot");
    }
}
