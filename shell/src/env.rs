//! The world: network, clocks, entropy, disks, and where blocking work runs.
//!
//! One of the two seams behind which the simulator stands (the other is
//! `bus::Bus`). Nothing else in this crate opens a socket, reads a
//! clock, draws a random number, or touches a file that must survive a crash.

pub mod files;
pub mod real;

use base_ha_core::time::Now;
use files::Drive;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
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

    /// The disk that the data directory is on. SQLite reaches the same one
    /// through its default VFS.
    fn files(&self) -> Drive {
        files::real()
    }

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

    /// Where the node loop and the links to peers run: apart from clients'
    /// connections in the real world, so that a heartbeat or an acknowledgement
    /// never queues behind requests; with everything else in the simulated one.
    ///
    /// # Errors
    /// What the system says.
    fn home(&self) -> io::Result<Home> {
        Ok(Home::here())
    }

    /// Waits until whoever runs this process asks it to read its files again
    /// (SIGHUP). Never where nobody can ask.
    fn told_to_reload(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Watches a loop that must not stall (RELIABILITY 7.6). `turn` is odd while
    /// the loop works and even while it waits. A world whose time stands still
    /// while code runs has nothing to watch.
    fn watchdog(&self, turn: Arc<AtomicU64>) {
        let _ = turn;
    }

    /// Ends the process: going on would break a promise. No destructor runs, for
    /// none may be needed for correctness (a crash runs none either).
    fn die(&self, reason: &str) -> !;
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
    /// costs nothing while it waits. It is called with an empty queue only when
    /// its [`Patience`] has ended.
    ///
    /// When the last handle is dropped, it is called until it leaves its queue
    /// unchanged, then the worker ends and what is left is dropped.
    fn run(&mut self, jobs: &mut VecDeque<J>);

    /// For how much of what comes in by [`WorkerHandle::send_quiet`] it need not
    /// be woken, and for how long: asked each time before it goes to sleep. A
    /// worker that could do nothing with quiet jobs but put them aside is spared
    /// a wake-up for each.
    fn patience(&self) -> Patience {
        Patience::NONE
    }
}

/// What a sleeping worker is woken for, beside jobs that are not quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// So many jobs that wait, quiet ones among them.
    pub jobs: usize,
    /// So much time: it is called then, job or no job.
    pub time: Option<Duration>,
}

impl Patience {
    /// Woken for every job.
    pub const NONE: Self = Self { jobs: 1, time: None };
    /// Woken for no number of quiet jobs.
    pub const DEAF: Self = Self { jobs: usize::MAX, time: None };
}

/// A runtime to spawn on; see [`Env::home`].
pub struct Home {
    handle: tokio::runtime::Handle,
    /// Ends the runtime's thread when dropped.
    _stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Home {
    /// The runtime that this is called in.
    pub fn here() -> Self {
        Self { handle: tokio::runtime::Handle::current(), _stop: None }
    }

    /// A runtime of its own, which ends when `stop` is dropped.
    pub(crate) fn apart(handle: tokio::runtime::Handle, stop: tokio::sync::oneshot::Sender<()>) -> Self {
        Self { handle, _stop: Some(stop) }
    }

    /// To spawn on it.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        &self.handle
    }
}

/// Sends jobs to a worker. They arrive in order and are never dropped while
/// the worker lives; whoever sends bounds how many are under way.
pub struct WorkerHandle<J> {
    send: Arc<Deliver<J>>,
}

/// Delivers a job; the flag says that it is quiet.
type Deliver<J> = dyn Fn(J, bool) -> Result<(), J> + Send + Sync;

impl<J> WorkerHandle<J> {
    /// Wraps a channel's sending half.
    pub fn new(send: impl Fn(J) -> Result<(), J> + Send + Sync + 'static) -> Self {
        Self { send: Arc::new(move |job, _| send(job)) }
    }

    /// Wraps a channel's sending half that can tell quiet jobs from others.
    pub fn with_quiet(send: impl Fn(J, bool) -> Result<(), J> + Send + Sync + 'static) -> Self {
        Self { send: Arc::new(send) }
    }

    /// Hands over a job.
    ///
    /// # Errors
    /// The job, if the worker has ended.
    pub fn send(&self, job: J) -> Result<(), J> {
        (self.send)(job, false)
    }

    /// Hands over a job for which a [patient](Patience) worker need not be
    /// woken; its place in the order is the same.
    ///
    /// # Errors
    /// The job, if the worker has ended.
    pub fn send_quiet(&self, job: J) -> Result<(), J> {
        (self.send)(job, true)
    }
}

impl<J> Clone for WorkerHandle<J> {
    fn clone(&self) -> Self {
        Self { send: self.send.clone() }
    }
}
