//! The world of a node under enumeration: a clock that stands still, chance from
//! a counter, workers that run where they are called, no network.

use crate::vfs::{VirtualDisk, set_wall_clock};
use base_ha::env::files::Drive;
use base_ha::env::{Env, Work, WorkerHandle};
use base_ha_core::time::{MonoTime, Now, WallTime};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Some moment of 2026, in milliseconds since 1970.
const EPOCH: u64 = 1_780_000_000_000;

/// What one process sees.
#[derive(Clone)]
pub(super) struct World {
    drive: Drive,
    /// Nanoseconds since 1970, by both clocks.
    nanos: Arc<AtomicU64>,
    drawn: Arc<AtomicU64>,
}

impl World {
    /// For a process that starts now. Its chance goes on where `drawn` ended:
    /// two processes of a machine never draw the same.
    pub(super) fn new(disk: &VirtualDisk, drawn: u64) -> Self {
        set_wall_clock(Some(EPOCH));
        Self {
            drive: Drive::new(disk.files()),
            nanos: Arc::new(AtomicU64::new(EPOCH * 1_000_000)),
            drawn: Arc::new(AtomicU64::new(drawn << 32)),
        }
    }

    pub(super) fn pass(&self, by: Duration) {
        self.nanos.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Env for World {
    type Stream = tokio::io::DuplexStream;
    type Listener = ();

    fn now(&self) -> Now {
        let nanos = self.nanos.load(Ordering::Relaxed);
        Now { mono: MonoTime(nanos), wall: WallTime(nanos / 1_000_000) }
    }

    fn entropy(&self, out: &mut [u8]) {
        let mut random = crate::prng::Prng::named(self.drawn.fetch_add(1, Ordering::Relaxed), "entropy");
        out.fill_with(|| random.bits() as u8);
    }

    fn die(&self, reason: &str) -> ! {
        panic!("died: {reason}")
    }

    fn files(&self) -> Drive {
        self.drive.clone()
    }

    async fn bind(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn local_address(&self, (): &()) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn accept(&self, (): &mut ()) -> io::Result<(Self::Stream, SocketAddr)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn connect(&self, _: &str) -> io::Result<Self::Stream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn worker<J: Send + 'static, W: Work<J>>(&self, _: &'static str, work: W) -> WorkerHandle<J> {
        let work = Mutex::new(work);
        WorkerHandle::new(move |job| {
            work.lock().unwrap_or_else(PoisonError::into_inner).run(&mut VecDeque::from([job]));
            Ok(())
        })
    }

    fn blocking<R: Send + 'static>(&self, call: impl FnOnce() -> R + Send + 'static) -> impl Future<Output = R> + Send {
        std::future::ready(call())
    }
}
