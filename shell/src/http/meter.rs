//! A connection's progress, so that a slow one can be told from a busy one.
//!
//! Decides when a connection has been idle, slow or stuck for too long. It
//! does so by looking now and then at counters that the connection moves:
//! a timer set anew for every request would cost more than the request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a connection may wait for its next request.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Time for a whole body to come in (RELIABILITY 6.4).
const BODY_MAX: Duration = Duration::from_secs(30);
/// How long a client may take nothing of an answer that it asked for.
const STUCK_MAX: Duration = Duration::from_secs(30);

/// A request's head is awaited.
const HEAD: u8 = 0;
/// A request's body is awaited.
const BODY: u8 = 1;
/// A request is being answered.
const BUSY: u8 = 2;

/// What a connection has done so far.
#[derive(Debug)]
pub(crate) struct Meter {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// `bytes_in` when the last request's answer was ready; [`u64::MAX`] before
    /// the first, whose head is due from the start.
    settled: AtomicU64,
    /// What the connection is at: one of the constants below.
    phase: AtomicU8,
    /// The last write found the socket full.
    full: AtomicBool,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            settled: AtomicU64::new(u64::MAX),
            phase: AtomicU8::new(HEAD),
            full: AtomicBool::new(false),
        }
    }
}

impl Meter {
    /// All of a request that is awaited has come in.
    pub(crate) fn begin(&self) {
        self.phase.store(BUSY, Relaxed);
    }

    /// Its body is awaited, until [`Meter::begin`] is called again.
    pub(crate) fn body(&self) {
        self.phase.store(BODY, Relaxed);
    }

    /// Its answer is ready to be written.
    pub(crate) fn end(&self) {
        self.settled.store(self.bytes_in.load(Relaxed), Relaxed);
        self.phase.store(HEAD, Relaxed);
    }
}

/// Looks at a [`Meter`] at regular intervals.
#[derive(Debug)]
pub(crate) struct Watch {
    /// How often [`Watch::overdue`] is to be called.
    pub(crate) every: Duration,
    header_max: Duration,
    was: (u64, u64),
    idle: Duration,
    header: Duration,
    body: Duration,
    stuck: Duration,
}

impl Watch {
    /// `header_max` is the time for a request's head.
    pub(crate) fn new(header_max: Duration) -> Self {
        let every = (header_max / 4).clamp(Duration::from_millis(20), Duration::from_secs(5));
        let zero = Duration::ZERO;
        Self { every, header_max, was: (0, 0), idle: zero, header: zero, body: zero, stuck: zero }
    }

    /// Whether the connection is to be closed.
    pub(crate) fn overdue(&mut self, meter: &Meter) -> bool {
        let (bytes_in, bytes_out) = (meter.bytes_in.load(Relaxed), meter.bytes_out.load(Relaxed));
        let settled = meter.settled.load(Relaxed);
        let wrote = bytes_out != self.was.1;
        let add = |to: &mut Duration, if_so: bool| *to = if if_so { *to + self.every } else { Duration::ZERO };
        let (phase, full) = (meter.phase.load(Relaxed), meter.full.load(Relaxed));
        let awaited = phase == HEAD && !full && !wrote;
        add(&mut self.stuck, full && !wrote);
        add(&mut self.body, phase == BODY);
        // What has come in since the last answer is the next request's head. It
        // counts as one head however slowly its bytes trickle in.
        add(&mut self.header, awaited && bytes_in != settled);
        add(&mut self.idle, awaited && bytes_in == settled);
        self.was = (bytes_in, bytes_out);
        self.stuck >= STUCK_MAX || self.body >= BODY_MAX || self.header >= self.header_max || self.idle >= IDLE_MAX
    }
}

/// A stream that moves a [`Meter`].
pub(crate) struct Metered<S> {
    pub(crate) stream: S,
    pub(crate) meter: Arc<Meter>,
}

impl<S> Metered<S> {
    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.meter.full.store(result.is_pending(), Relaxed);
        if let Poll::Ready(Ok(n)) = &result {
            self.meter.bytes_out.fetch_add(*n as u64, Relaxed);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.meter.bytes_in.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(watch: &mut Watch, meter: &Meter, at_most: Duration, mut each: impl FnMut(&Meter)) -> Option<Duration> {
        let mut passed = Duration::ZERO;
        while passed < at_most {
            each(meter);
            passed += watch.every;
            if watch.overdue(meter) {
                return Some(passed);
            }
        }
        None
    }

    #[test]
    fn a_trickling_head_is_cut_off_in_time_and_a_busy_connection_is_not() {
        let header_max = Duration::from_secs(10);
        let meter = Meter::default();
        let trickle = |meter: &Meter| {
            meter.bytes_in.fetch_add(1, Relaxed);
        };
        assert_eq!(ticks(&mut Watch::new(header_max), &meter, IDLE_MAX * 2, |_| ()), Some(header_max));
        assert_eq!(ticks(&mut Watch::new(header_max), &meter, IDLE_MAX * 2, trickle), Some(header_max));

        meter.body();
        assert_eq!(ticks(&mut Watch::new(header_max), &meter, IDLE_MAX * 2, trickle), Some(BODY_MAX));
        meter.begin();
        assert_eq!(ticks(&mut Watch::new(header_max), &meter, IDLE_MAX * 10, trickle), None);
        meter.end();
        assert_eq!(ticks(&mut Watch::new(header_max), &meter, IDLE_MAX * 2, |_| ()), Some(IDLE_MAX));
    }

    #[test]
    fn who_does_not_take_the_answer_is_cut_off_and_who_takes_it_slowly_is_not() {
        let meter = Meter::default();
        meter.full.store(true, Relaxed);
        let slowly = |meter: &Meter| {
            meter.bytes_out.fetch_add(1, Relaxed);
        };
        let header_max = Duration::from_secs(10);
        assert_eq!(ticks(&mut Watch::new(header_max), &meter, IDLE_MAX * 4, slowly), None);
        let meter = Meter::default();
        meter.full.store(true, Relaxed);
        assert_eq!(ticks(&mut Watch::new(header_max), &meter, IDLE_MAX * 4, |_| ()), Some(STUCK_MAX));
    }
}
