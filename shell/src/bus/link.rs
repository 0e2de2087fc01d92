//! An open connection between two nodes: a bounded queue of frames to send, a
//! task that writes them and one that reads.
//!
//! Decides when a connection is dead, how much may wait, and in which pieces
//! bytes go out. Knows nothing of who dialled whom.
//!
//! On the wire a record is a frame of [`base_ha_core::wire`] followed by its
//! seal. An end that has had nothing to say for a while sends a *beat* (four
//! bytes and a seal): so silence means a dead connection and nothing else.

use super::BusCounters;
use super::auth::{SEAL, Seal};
use crate::api::NodeEvent;
use crate::app::NodeHandle;
use base_ha_core::ids::NodeId;
use base_ha_core::io::Route;
use base_ha_core::wire::{DecodeError, decode_frame, frame_length};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

/// Instead of a frame: "still here".
const BEAT: [u8; 4] = *b"bHA\xbe";
/// Frames that may wait for one connection.
const QUEUE_FRAMES: usize = 16_384;
/// Bytes that may wait for one connection, but one frame always may.
const QUEUE_BYTES: usize = 16 << 20;
/// Bytes that came in on one connection and that the node loop has not taken,
/// in KiB: beyond it the connection is read no further, so that the sender
/// slows down instead of this node's memory growing.
const CREDIT_KIB: u32 = 16 << 10;
/// Frames up to here are copied together, so that many go out in one call.
const COPY_MAX: usize = 64 << 10;
/// How much is copied together at most.
const BATCH_MAX: usize = 256 << 10;
/// A connection that carried nothing but beats for so many beats is not
/// needed: its member left, or the other direction is used.
const BEATS_MAX: u32 = 1_000;

/// How long things may take on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Silence, or a write that makes no progress, for so long is death: the
    /// lease, as nothing older than that is of use.
    pub silence_max: Duration,
    /// Say something at least this often.
    pub beat: Duration,
    /// An attempt to connect, handshake included.
    pub connect_max: Duration,
}

impl Timing {
    /// Timing for a cluster with this lease.
    pub fn of_lease(lease: Duration) -> Self {
        Self { silence_max: lease, beat: lease / 4, connect_max: lease.max(Duration::from_secs(1)) }
    }
}

/// Frames that wait for a connection. At most once: what does not fit is
/// dropped and counted.
pub(crate) struct Queue {
    inner: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// How many were ever put in.
    pushed: u64,
    closed: bool,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::default(), arrived: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that holds this lock can leave the queue half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a frame in; false if there is no room.
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        let mut waiting = self.lock();
        waiting.pushed += 1;
        let full = waiting.frames.len() >= QUEUE_FRAMES
            || (waiting.bytes + frame.len() > QUEUE_BYTES && !waiting.frames.is_empty());
        if full || waiting.closed {
            return false;
        }
        waiting.bytes += frame.len();
        waiting.frames.push_back(frame);
        drop(waiting);
        self.arrived.notify_one();
        true
    }

    /// How many frames were ever offered.
    pub(crate) fn pushed(&self) -> u64 {
        self.lock().pushed
    }

    /// Drops what waits; says how many.
    pub(crate) fn clear(&self) -> u64 {
        let mut waiting = self.lock();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.frames).len() as u64
    }

    /// Takes no more and ends the writer.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Moves what waits to `into`, about `BATCH_MAX` bytes; false once closed.
    fn take(&self, into: &mut Vec<Bytes>) -> bool {
        let mut waiting = self.lock();
        let mut bytes = 0;
        while bytes < BATCH_MAX {
            let Some(frame) = waiting.frames.pop_front() else { break };
            bytes += frame.len();
            waiting.bytes -= frame.len();
            into.push(frame);
        }
        !waiting.closed
    }

    /// Waits until there may be something to take.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Nothing came, or nothing went out, for too long.
    Silent,
    /// The other end closed it between two records.
    Closed,
    /// The other end closed it within a record.
    Truncated,
    /// A seal did not match.
    Seal,
    /// Bytes that are no frame.
    Frame(DecodeError),
    /// A frame of another sender than the one that proved itself.
    Sender(NodeId),
    /// The system says so.
    Io(io::Error),
    /// Nobody has used it for long.
    Unused,
    /// This node is stopping.
    Stopping,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("it was silent for too long"),
            Self::Closed => f.write_str("the other end closed it"),
            Self::Truncated => f.write_str("the other end closed it within a record"),
            Self::Seal => f.write_str("a record's seal does not match: bytes were changed, repeated or left out"),
            Self::Frame(e) => write!(f, "a record is not a frame: {e}"),
            Self::Sender(id) => write!(f, "a frame says that it is from {id}, who is not at the other end"),
            Self::Io(e) => write!(f, "{e}"),
            Self::Unused => f.write_str("it is not used"),
            Self::Stopping => f.write_str("this node is stopping"),
        }
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads records until the connection ends; each frame goes to the node loop.
pub(crate) async fn read<R: AsyncRead + Unpin>(
    mut from: R,
    mut seal: Seal,
    peer: &NodeId,
    route: Route,
    node: NodeHandle,
    counters: &BusCounters,
    timing: Timing,
) -> Ended {
    let credit = Arc::new(Semaphore::new(CREDIT_KIB as usize));
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        loop {
            let length = if buffer.starts_with(&BEAT) {
                BEAT.len()
            } else {
                match frame_length(&buffer) {
                    Ok(Some(length)) => length,
                    Ok(None) => break,
                    // Too few bytes yet to tell a beat from a frame.
                    Err(_) if BEAT.starts_with(&buffer) => break,
                    Err(error) => return bad_frame(counters, error),
                }
            };
            if buffer.len() < length + SEAL {
                break;
            }
            let record = buffer.split_to(length).freeze();
            if !seal.matches(&[&record], &buffer[..SEAL]) {
                counters.refuse(&counters.bad_seal);
                return Ended::Seal;
            }
            buffer.advance(SEAL);
            if record == BEAT[..] {
                continue;
            }
            let envelope = match decode_frame(record) {
                Ok(envelope) => envelope,
                Err(error) => return bad_frame(counters, error),
            };
            // Who is at the other end was proven once, for the whole connection.
            if envelope.from != *peer {
                counters.refuse(&counters.bad_frame);
                return Ended::Sender(envelope.from);
            }
            counters.stats.peer.frames_received.add(1);
            counters.bytes_received.add(length as u64);
            let kib = u32::try_from(length / 1024 + 1).unwrap_or(CREDIT_KIB).min(CREDIT_KIB);
            let Ok(room) = credit.clone().acquire_many_owned(kib).await else { return Ended::Stopping };
            if node.tell(NodeEvent::Frame { route: route.clone(), envelope, room: Some(room) }).is_err() {
                return Ended::Stopping;
            }
        }
        // Room grows with what really comes in, not with what a length claims.
        buffer.reserve(16 << 10);
        match timeout(timing.silence_max, from.read_buf(&mut buffer)).await {
            Err(_) => return Ended::Silent,
            Ok(Err(error)) => return error.into(),
            Ok(Ok(0)) if buffer.is_empty() => return Ended::Closed,
            Ok(Ok(0)) => {
                counters.refuse(&counters.bad_frame);
                return Ended::Truncated;
            }
            Ok(Ok(_)) => {}
        }
    }
}

fn bad_frame(counters: &BusCounters, error: DecodeError) -> Ended {
    counters.refuse(&counters.bad_frame);
    Ended::Frame(error)
}

/// Writes what the queue holds until the connection ends.
pub(crate) async fn write<W: AsyncWrite + Unpin>(
    mut to: W,
    mut seal: Seal,
    queue: &Queue,
    counters: &BusCounters,
    timing: Timing,
) -> Ended {
    let mut batch = Vec::new();
    let mut copied = Vec::with_capacity(16 << 10);
    let mut beats = 0;
    loop {
        if !queue.take(&mut batch) {
            let _ = to.shutdown().await;
            return Ended::Stopping;
        }
        if batch.is_empty() {
            if timeout(timing.beat, queue.arrived()).await.is_ok() {
                continue;
            }
            beats += 1;
            if beats > BEATS_MAX {
                return Ended::Unused;
            }
            copied.extend_from_slice(&BEAT);
            copied.extend_from_slice(&seal.next(&[&BEAT]));
        } else {
            beats = 0;
        }
        for frame in batch.drain(..) {
            counters.stats.peer.frames_sent.add(1);
            counters.bytes_sent.add(frame.len() as u64);
            let mark = seal.next(&[&frame]);
            if frame.len() > COPY_MAX {
                if let Err(ended) = write_all(&mut to, &copied, timing).await {
                    return ended;
                }
                copied.clear();
                if let Err(ended) = write_all(&mut to, &frame, timing).await {
                    return ended;
                }
            } else {
                copied.extend_from_slice(&frame);
            }
            copied.extend_from_slice(&mark);
        }
        if let Err(ended) = write_all(&mut to, &copied, timing).await {
            return ended;
        }
        copied.clear();
        if let Err(error) = to.flush().await {
            return error.into();
        }
    }
}

/// Writes everything; each step must make progress in time, however long the
/// whole takes.
async fn write_all<W: AsyncWrite + Unpin>(to: &mut W, mut bytes: &[u8], timing: Timing) -> Result<(), Ended> {
    while !bytes.is_empty() {
        match timeout(timing.silence_max, to.write(bytes)).await {
            Err(_) => return Err(Ended::Silent),
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(0)) => return Err(Ended::Closed),
            Ok(Ok(n)) => bytes = &bytes[n..],
        }
    }
    Ok(())
}
