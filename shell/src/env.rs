//! The world: network, clocks, entropy, and where blocking work runs.
//!
//! One of the two seams behind which the simulator stands (the other is
//! `bus::Bus`). Nothing else in this crate opens a socket, reads a
//! clock or draws a random number.

pub mod real;

use base_ha_core::time::Now;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::io::{AsyncRead, AsyncWrite};

/// The world, real or simulated. Chosen by type parameter, never by feature.
pub trait Env: Clone + Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// A listening socket.
    type Listener: Send + 'static;

    /// Reads both clocks: CLOCK_BOOTTIME and the wall clock.
    fn now(&self) -> Now;

    /// Fills `out` with random bytes fit for secrets.
    fn entropy(&self, out: &mut [u8]);

    /// Listens on `host:port`.
    fn bind(&self, address: &str) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// The address that a listener got.
    ///
    /// # Errors
    /// What the system says.
    fn local_address(&self, listener: &Self::Listener) -> io::Result<SocketAddr>;

    /// Waits for a connection.
    fn accept(
        &self,
        listener: &mut Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Connects to `host:port`.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Starts a worker that owns blocking state, such as a SQLite connection:
    /// a thread of its own in the real world, inline in the simulated one.
    fn worker<J: Send + 'static, W: Work<J>>(&self, name: &'static str, work: W) -> WorkerHandle<J>;

    /// Runs one blocking call elsewhere than on the runtime's threads.
    fn blocking<R: Send + 'static>(&self, call: impl FnOnce() -> R + Send + 'static) -> impl Future<Output = R> + Send;

    /// Watches a loop that must not stall (RELIABILITY 7.6). `turn` is odd while
    /// the loop works and even while it waits. A world whose time stands still
    /// while code runs has nothing to watch.
    fn watchdog(&self, turn: Arc<AtomicU64>) {
        let _ = turn;
    }
}

/// A worker's body.
pub trait Work<J>: Send + 'static {
    /// Takes what it likes from `jobs`: what it left before, then everything
    /// that has come in since, oldest first.
    ///
    /// It is called when a job has come in since it was last called, and once
    /// more, without one, whenever it returned with fewer jobs than it was
    /// given and left some. So a worker that takes a few at a time gets through
    /// all of them, and one that leaves jobs until another job releases them
    /// costs nothing while it waits. It is never called with an empty queue.
    ///
    /// When the last handle is dropped, it is called until it leaves its queue
    /// unchanged, then the worker ends and what is left is dropped.
    fn run(&mut self, jobs: &mut VecDeque<J>);
}

/// Sends jobs to a worker. They arrive in order and are never dropped while
/// the worker lives; whoever sends bounds how many are under way.
pub struct WorkerHandle<J> {
    send: Arc<dyn Fn(J) -> Result<(), J> + Send + Sync>,
}

impl<J> WorkerHandle<J> {
    /// Wraps a channel's sending half.
    pub fn new(send: impl Fn(J) -> Result<(), J> + Send + Sync + 'static) -> Self {
        Self { send: Arc::new(send) }
    }

    /// Hands over a job.
    ///
    /// # Errors
    /// The job, if the worker has ended.
    pub fn send(&self, job: J) -> Result<(), J> {
        (self.send)(job)
    }
}

impl<J> Clone for WorkerHandle<J> {
    fn clone(&self) -> Self {
        Self { send: self.send.clone() }
    }
}
