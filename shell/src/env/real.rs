//! The real world: sockets, clocks and entropy of this machine, one thread a
//! worker.
//!
//! Decides how a worker waits and what its panic means. Knows nothing of what
//! workers do.

use super::{Env, Home, Patience, Work, WorkerHandle};
use base_ha_core::time::{MonoTime, Now, WallTime};
use rustix::net::sockopt;
use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// This machine. Must be used inside a tokio runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealEnv;

impl Env for RealEnv {
    type Stream = TcpStream;
    type Listener = TcpListener;

    fn now(&self) -> Now {
        // CLOCK_BOOTTIME goes on while the machine sleeps; std's Instant does
        // not, and a lease would seem to last longer than it does (R1).
        let mono = clock_gettime(ClockId::Boottime);
        let wall = clock_gettime(ClockId::Realtime);
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        Now {
            mono: MonoTime(unsigned(mono.tv_sec) * 1_000_000_000 + unsigned(mono.tv_nsec)),
            wall: WallTime(unsigned(wall.tv_sec) * 1_000 + unsigned(wall.tv_nsec) / 1_000_000),
        }
    }

    fn entropy(&self, out: &mut [u8]) {
        if let Err(error) = getrandom::fill(out) {
            // Without randomness every nonce and secret would be guessable.
            die(&format!("the system gives no random bytes: {error}"));
        }
    }

    async fn bind(&self, address: &str) -> io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    fn local_address(&self, listener: &TcpListener) -> io::Result<SocketAddr> {
        listener.local_addr()
    }

    async fn accept(&self, listener: &mut TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = listener.accept().await?;
        tune(&stream)?;
        Ok((stream, peer))
    }

    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        tune(&stream)?;
        Ok(stream)
    }

    fn worker<J: Send + 'static, W: Work<J>>(&self, name: &'static str, work: W) -> WorkerHandle<J> {
        let mailbox = Arc::new(Mailbox::new());
        let inside = mailbox.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work_loop(name, &inside, work));
        if let Err(error) = thread {
            die(&format!("the system gives no thread for worker {name}: {error}"));
        }
        let sender = Sender(mailbox);
        WorkerHandle::with_quiet(move |job, quiet| sender.0.put(job, quiet))
    }

    async fn blocking<R: Send + 'static>(&self, call: impl FnOnce() -> R + Send + 'static) -> R {
        match tokio::task::spawn_blocking(call).await {
            Ok(result) => result,
            // The runtime is being shut down: whoever waits for this is dropped
            // with it, so this never returns and nobody misses it.
            Err(error) if error.is_cancelled() => std::future::pending().await,
            Err(error) => die(&format!("a blocking call failed: {error}")),
        }
    }

    fn home(&self) -> io::Result<Home> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("node".to_owned()).spawn(move || {
            // Ends when the sender is dropped; nobody sends.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Home::apart(handle, stop))
    }

    async fn told_to_reload(&self) {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::hangup()) {
            Ok(mut hangups) => {
                hangups.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "SIGHUP cannot be received");
                std::future::pending().await
            }
        }
    }

    fn watchdog(&self, turn: Arc<AtomicU64>) {
        let weak = Arc::downgrade(&turn);
        drop(turn);
        let spawned = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut watch = Watch::default();
            while let Some(turn) = weak.upgrade() {
                match watch.look(turn.load(Ordering::Relaxed)) {
                    Verdict::Fine => {}
                    Verdict::Slow(looks) => {
                        tracing::warn!(seconds = looks, "the node loop has been in one turn for too long");
                    }
                    Verdict::Stuck => die("the node loop is stuck: it was in one turn for more than 5 s"),
                }
                drop(turn);
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        if let Err(error) = spawned {
            die(&format!("the system gives no thread for the watchdog: {error}"));
        }
    }

    fn die(&self, reason: &str) -> ! {
        die(reason)
    }
}

/// How long a connection may be idle before the kernel asks whether the other
/// end is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// How often it asks then.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// How long sent bytes may lack an acknowledgement before the connection is
/// dead: otherwise the kernel goes on for a quarter of an hour.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// Sets what every connection needs.
fn tune(stream: &TcpStream) -> io::Result<()> {
    // Answers are written whole: waiting for more to send only adds delay.
    stream.set_nodelay(true)?;
    // A client whose machine or network vanished would hold its place for ever.
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
    let milliseconds = u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, milliseconds)?;
    Ok(())
}

/// What the watchdog saw last. It counts its own looks, not the clock: after a
/// pause of the whole process (a suspended machine, SIGSTOP) the clock has
/// jumped although the loop is not to blame.
#[derive(Default)]
struct Watch {
    turn: u64,
    looks: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Slow(u32),
    Stuck,
}

impl Watch {
    /// One look, a second after the one before.
    fn look(&mut self, turn: u64) -> Verdict {
        if turn != self.turn || turn.is_multiple_of(2) {
            *self = Self { turn, looks: 0 };
            return Verdict::Fine;
        }
        self.looks += 1;
        match self.looks {
            0..=5 => Verdict::Slow(self.looks),
            _ => Verdict::Stuck,
        }
    }
}

/// Ends the process: going on would break a promise. No destructor runs, for
/// none may be needed for correctness (a crash runs none either).
pub(crate) fn die(reason: &str) -> ! {
    tracing::error!(reason, "this node ends now");
    std::process::abort()
}

/// Jobs on their way to one worker. A lock and a condition variable instead of
/// a channel: the worker takes everything with one swap, and a sender makes a
/// system call only when the worker sleeps.
struct Mailbox<J> {
    inner: Mutex<Inbox<J>>,
    arrived: Condvar,
}

struct Inbox<J> {
    jobs: VecDeque<J>,
    asleep: bool,
    /// One of the jobs is not quiet.
    loud: bool,
    /// So many jobs wake the worker, quiet as they may be.
    enough: usize,
    /// The worker has ended.
    ended: bool,
    /// The last handle was dropped.
    closed: bool,
}

struct Sender<J>(Arc<Mailbox<J>>);

impl<J> Drop for Sender<J> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.arrived.notify_one();
    }
}

impl<J> Inbox<J> {
    fn worth_waking(&self) -> bool {
        self.loud || self.jobs.len() >= self.enough
    }
}

impl<J> Mailbox<J> {
    fn new() -> Self {
        let inbox = Inbox { jobs: VecDeque::new(), asleep: false, loud: false, enough: 1, ended: false, closed: false };
        Self { inner: Mutex::new(inbox), arrived: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox<J>> {
        // Nothing that holds this lock can leave the inbox half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, job: J, quiet: bool) -> Result<(), J> {
        let mut inbox = self.lock();
        if inbox.ended {
            return Err(job);
        }
        inbox.jobs.push_back(job);
        inbox.loud |= !quiet;
        let wake = inbox.worth_waking() && std::mem::take(&mut inbox.asleep);
        drop(inbox);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Moves what has come in to the end of `jobs`; sleeps until there is
    /// something if `wait`, or more than that for a worker that is patient.
    /// False once the last handle is gone and nothing came.
    fn take(&self, jobs: &mut VecDeque<J>, wait: bool, patience: Patience) -> bool {
        let mut inbox = self.lock();
        inbox.enough = patience.jobs;
        while wait && !inbox.worth_waking() && !inbox.closed {
            inbox.asleep = true;
            let Some(time) = patience.time else {
                inbox = self.arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // Woken too early it says again for how long.
            (inbox, _) = self.arrived.wait_timeout(inbox, time).unwrap_or_else(PoisonError::into_inner);
            break;
        }
        inbox.asleep = false;
        inbox.loud = false;
        if inbox.jobs.is_empty() {
            return !inbox.closed;
        }
        if jobs.is_empty() {
            std::mem::swap(jobs, &mut inbox.jobs);
        } else {
            jobs.append(&mut inbox.jobs);
        }
        true
    }
}

fn work_loop<J, W: Work<J>>(name: &'static str, mailbox: &Mailbox<J>, mut work: W) {
    let body = AssertUnwindSafe(|| {
        let mut jobs = VecDeque::new();
        let mut again = false;
        loop {
            let patience = work.patience();
            let open = mailbox.take(&mut jobs, !again, patience);
            let idle = jobs.is_empty() && !(open && patience.time.is_some());
            if idle || !(open || again) {
                if open {
                    again = false;
                    continue;
                }
                mailbox.lock().ended = true;
                return;
            }
            let given = jobs.len();
            work.run(&mut jobs);
            again = jobs.len() < given && !jobs.is_empty();
        }
    });
    if let Err(panic) = catch_unwind(body) {
        // A worker that panicked may have done half of something: only what is
        // on disk can be trusted now, and recovery reads exactly that.
        die(&format!("worker {name} panicked: {}", panic_text(&*panic)));
    }
}

/// The text of a panic.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Record<F>(F);

    impl<F: FnMut(&mut VecDeque<u32>) + Send + 'static> Work<u32> for Record<F> {
        fn run(&mut self, jobs: &mut VecDeque<u32>) {
            (self.0)(jobs);
        }
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn both_ends_of_a_connection_find_out_that_the_other_is_gone() {
        let env = RealEnv;
        let mut listener = env.bind("127.0.0.1:0").await.expect("bound");
        let address = env.local_address(&listener).expect("bound").to_string();
        let (near, far) = tokio::join!(env.connect(&address), env.accept(&mut listener));
        for stream in [near.expect("connected"), far.expect("accepted").0] {
            assert!(stream.nodelay().expect("a socket"));
            assert!(sockopt::socket_keepalive(&stream).expect("a socket"));
            assert_eq!(sockopt::tcp_keepidle(&stream), Ok(KEEPALIVE_IDLE));
            assert_eq!(sockopt::tcp_keepintvl(&stream), Ok(KEEPALIVE_EVERY));
            assert_eq!(sockopt::tcp_user_timeout(&stream), Ok(60_000));
        }
    }

    #[test]
    fn a_worker_that_takes_one_at_a_time_gets_them_all_in_order() {
        let (seen, saw) = mpsc::channel();
        let worker = RealEnv.worker(
            "one",
            Record(move |jobs: &mut VecDeque<u32>| {
                let _ = seen.send(jobs.pop_front());
            }),
        );
        for n in 0..1000 {
            worker.send(n).expect("alive");
        }
        for n in 0..1000 {
            assert_eq!(saw.recv_timeout(PATIENCE), Ok(Some(n)));
        }
    }

    #[test]
    fn jobs_left_behind_are_seen_again_only_with_a_new_one() {
        let (seen, saw) = mpsc::channel();
        let worker = RealEnv.worker(
            "lazy",
            Record(move |jobs: &mut VecDeque<u32>| {
                let _ = seen.send(jobs.iter().copied().collect::<Vec<_>>());
                if jobs.back() == Some(&9) {
                    jobs.clear();
                }
            }),
        );
        worker.send(1).expect("alive");
        assert_eq!(saw.recv_timeout(PATIENCE), Ok(vec![1]));
        assert!(saw.recv_timeout(Duration::from_millis(50)).is_err(), "it was called without a new job");
        worker.send(9).expect("alive");
        assert_eq!(saw.recv_timeout(PATIENCE), Ok(vec![1, 9]));
    }

    struct Deaf(mpsc::Sender<Vec<u32>>);

    impl Work<u32> for Deaf {
        fn run(&mut self, jobs: &mut VecDeque<u32>) {
            let _ = self.0.send(jobs.drain(..).collect());
        }

        fn patience(&self) -> Patience {
            Patience::DEAF
        }
    }

    struct Waits(mpsc::Sender<Vec<u32>>, Patience);

    impl Work<u32> for Waits {
        fn run(&mut self, jobs: &mut VecDeque<u32>) {
            let _ = self.0.send(jobs.drain(..).collect());
        }

        fn patience(&self) -> Patience {
            self.1
        }
    }

    #[test]
    fn quiet_jobs_wait_for_a_loud_one_and_keep_their_place() {
        let (seen, saw) = mpsc::channel();
        let worker = RealEnv.worker("deaf", Deaf(seen));
        worker.send_quiet(1).expect("alive");
        worker.send_quiet(2).expect("alive");
        assert!(saw.recv_timeout(Duration::from_millis(50)).is_err(), "it was woken for quiet jobs");
        worker.send(3).expect("alive");
        assert_eq!(saw.recv_timeout(PATIENCE), Ok(vec![1, 2, 3]));
        worker.send_quiet(4).expect("alive");
        drop(worker);
        assert_eq!(saw.recv_timeout(PATIENCE), Ok(vec![4]), "quiet jobs are done before the end");
    }

    #[test]
    fn a_patient_worker_is_called_for_enough_jobs_or_when_its_time_is_over() {
        let (seen, saw) = mpsc::channel();
        let worker = RealEnv.worker("patient", Waits(seen, Patience { jobs: 3, time: Some(PATIENCE * 10) }));
        worker.send_quiet(1).expect("alive");
        worker.send_quiet(2).expect("alive");
        assert!(saw.recv_timeout(Duration::from_millis(50)).is_err(), "it was woken for two jobs");
        worker.send_quiet(3).expect("alive");
        assert_eq!(saw.recv_timeout(PATIENCE), Ok(vec![1, 2, 3]));
        drop(worker);

        let (seen, saw) = mpsc::channel();
        let brief = Patience { jobs: usize::MAX, time: Some(Duration::from_millis(1)) };
        let worker = RealEnv.worker("brief", Waits(seen, brief));
        assert_eq!(saw.recv_timeout(PATIENCE), Ok(vec![]), "it is called without a job");
        worker.send_quiet(1).expect("alive");
        let called: Vec<u32> = saw.iter().find(|jobs| !jobs.is_empty()).expect("it is called on and on");
        assert_eq!(called, [1]);
        drop(worker);
        assert!(saw.iter().all(|jobs| jobs.is_empty()), "it ends");
    }

    #[test]
    fn a_worker_ends_with_its_last_handle_and_does_what_was_sent_before() {
        let (seen, saw) = mpsc::channel();
        let worker = RealEnv.worker(
            "end",
            Record(move |jobs: &mut VecDeque<u32>| {
                let _ = seen.send(jobs.pop_front());
            }),
        );
        let other = worker.clone();
        drop(worker);
        for n in 0..3 {
            other.send(n).expect("alive");
        }
        drop(other);
        let got: Vec<_> = saw.iter().collect();
        assert_eq!(got, vec![Some(0), Some(1), Some(2)], "the channel closes when the worker is dropped");
    }

    #[test]
    fn a_worker_that_never_takes_its_jobs_ends_all_the_same() {
        let (seen, saw) = mpsc::channel();
        let worker = RealEnv.worker(
            "idle",
            Record(move |jobs: &mut VecDeque<u32>| {
                let _ = seen.send(jobs.len());
            }),
        );
        worker.send(1).expect("alive");
        drop(worker);
        assert!(saw.iter().count() >= 1);
    }

    #[test]
    fn the_watchdog_counts_looks_at_one_turn() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(1), Verdict::Fine, "a new turn");
        assert_eq!(watch.look(1), Verdict::Slow(1));
        assert_eq!(watch.look(3), Verdict::Fine, "it moved on");
        for _ in 0..20 {
            assert_eq!(watch.look(4), Verdict::Fine, "waiting is not working");
        }
        assert_eq!(watch.look(5), Verdict::Fine);
        for n in 1..=5 {
            assert_eq!(watch.look(5), Verdict::Slow(n));
        }
        assert_eq!(watch.look(5), Verdict::Stuck);
    }

    #[test]
    fn the_monotonic_clock_moves_and_the_wall_clock_is_of_this_century() {
        let first = RealEnv.now();
        std::thread::sleep(Duration::from_millis(2));
        let second = RealEnv.now();
        assert!(second.mono.since(first.mono) >= Duration::from_millis(2));
        assert!(second.wall.0 > 1_700_000_000_000);
    }
}
