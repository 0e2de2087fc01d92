//! A connection between simulated hosts, looked at from one end.
//!
//! Decides what is recorded of it, what a dead process's connections carry,
//! which is nothing, and in which order they are closed. Knows nothing of what
//! the bytes mean.

use super::env::{Machine, lock};
use super::mutant::Mutant;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

/// What a machine's process has open. Clones share it.
///
/// A process that ends closes its connections in the order in which it opened
/// them. Left to its tasks they would be closed in the order in which the
/// runtime drops these, which follows from numbers that it counts for the whole
/// process of the simulation.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<Opened>>);

#[derive(Default)]
struct Opened {
    next: u64,
    open: BTreeMap<u64, Socket>,
}

/// Turmoil's end; `None` once it is closed.
type Socket = Arc<Mutex<Option<TcpStream>>>;

impl Connections {
    fn add(&self, inner: TcpStream) -> (u64, Socket) {
        let socket = Arc::new(Mutex::new(Some(inner)));
        let mut opened = lock(&self.0);
        let id = opened.next;
        opened.next += 1;
        opened.open.insert(id, socket.clone());
        (id, socket)
    }

    /// Closes all of them, oldest first.
    pub fn close(&self) {
        let open = std::mem::take(&mut lock(&self.0).open);
        for socket in open.values() {
            drop(lock(socket).take());
        }
    }
}

/// One end of a connection.
pub struct Stream {
    id: u64,
    socket: Socket,
    machine: Arc<Machine>,
    /// `host:port` of both ends, for the record.
    label: String,
    /// This machine dialled; otherwise it was dialled.
    dialled: bool,
}

impl Stream {
    /// An end on `machine`, which dialled or was dialled.
    pub(super) fn new(inner: TcpStream, machine: Arc<Machine>, dialled: bool) -> Self {
        let port = |address: io::Result<std::net::SocketAddr>| address.map_or(0, |a| a.port());
        let peer = inner.peer_addr().ok().and_then(|a| turmoil::reverse_lookup(a.ip())).unwrap_or_default();
        let local = port(inner.local_addr());
        let remote = port(inner.peer_addr());
        let arrow = if dialled { "->" } else { "<-" };
        let label = format!("{local}{arrow}{peer}:{remote}");
        let (id, socket) = machine.connections().add(inner);
        Self { id, socket, machine, label, dialled }
    }

    fn record(&self, what: &str, bytes: &[u8]) {
        let recorder = self.machine.recorder();
        if recorder.is_on() {
            let mut hash = 0xcbf2_9ce4_8422_2325_u64;
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
            recorder.line(
                self.machine.true_now(),
                &self.machine.name,
                format_args!("{what} {} {} bytes {hash:016x}", self.label, bytes.len()),
            );
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let connections = self.machine.connections();
        if self.machine.has_ended() {
            connections.close();
        } else if !self.machine.is_dead() {
            lock(&connections.0).open.remove(&self.id);
        }
        // Otherwise its machine died in the middle of what it did: nobody is
        // told, and what it had open goes when it is torn down.
    }
}

/// Makes a request ask for less than it did, for a mutant.
fn mutate(mutant: Option<Mutant>, bytes: &mut [u8]) {
    let (what, with): (&[u8], &[u8]) = match mutant {
        Some(Mutant::TokenIgnored) => (b"x-base-txseq", b"x-ignored-tx"),
        Some(Mutant::KeyIgnored) => (b"idempotency-key", b"x-ignored-thing"),
        Some(Mutant::LinearizableIsLocal) => (b"level=linearizable", b"level=local&xxxxxx"),
        _ => return,
    };
    for at in 0..bytes.len().saturating_sub(what.len() - 1) {
        if bytes[at..].starts_with(what) {
            bytes[at..at + what.len()].copy_from_slice(with);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.machine.is_dead() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = match &mut *lock(&this.socket) {
            Some(inner) => Pin::new(inner).poll_read(cx, buf),
            None => return Poll::Pending,
        };
        match &read {
            Poll::Ready(Ok(())) => {
                if !this.dialled {
                    mutate(this.machine.mutant(), &mut buf.filled_mut()[before..]);
                }
                this.record("read", &buf.filled()[before..]);
            }
            Poll::Ready(Err(error)) => this.record(&format!("read {}", error.kind()), &[]),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.machine.is_dead() {
            return Poll::Pending;
        }
        let written = match &mut *lock(&this.socket) {
            Some(inner) => Pin::new(inner).poll_write(cx, bytes),
            None => return Poll::Pending,
        };
        match &written {
            Poll::Ready(Ok(n)) => this.record("write", &bytes[..*n]),
            Poll::Ready(Err(error)) => this.record(&format!("write {}", error.kind()), &[]),
            Poll::Pending => {}
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *lock(&self.socket) {
            Some(inner) => Pin::new(inner).poll_flush(cx),
            None => Poll::Pending,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *lock(&self.socket) {
            Some(inner) => Pin::new(inner).poll_shutdown(cx),
            None => Poll::Pending,
        }
    }
}
