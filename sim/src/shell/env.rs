//! The world of one simulated host: sockets of turmoil, its own clocks,
//! entropy from the seed, workers inline.
//!
//! Decides how long blocking work takes and what both clocks show. Knows
//! nothing of what a node does with them: the shell's `run` takes this where
//! production takes `RealEnv`.
//!
//! No thread is ever started. A worker is a task of its host's runtime, which
//! waits for as long as its disk is slow and then does its work at once.

use super::mutant::Mutant;
use super::plan::ShellDiskPlan;
use super::record::Recorder;
use super::stream::{Connections, Stream};
use crate::clock::{Clock, TrueTime};
use crate::prng::Prng;
use crate::vfs::VirtualDisk;
use base_ha::env::files::Drive;
use base_ha::env::{Env, Patience, Work, WorkerHandle};
use base_ha_core::time::Now;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// One machine, as long as the run: what survives its process.
pub struct Machine {
    /// Its name, which is its address as well.
    pub name: String,
    recorder: Recorder,
    clock: Mutex<Clock>,
    entropy: Mutex<Prng>,
    delays: Mutex<Delays>,
    /// True time when the step began that runs now, in nanoseconds.
    step: AtomicU64,
    /// What its process is shown as true time while it stands still, or 0.
    frozen: AtomicU64,
    /// Its process has ended: what its tasks still say is heard by nobody.
    dead: AtomicBool,
    disk: Mutex<VirtualDisk>,
    connections: Connections,
    mutant: Option<Mutant>,
}

/// How long blocking work takes.
struct Delays {
    prng: Prng,
    /// The longest ordinary delay, in milliseconds; 0 for none at all.
    max_ms: u64,
    /// Calls in 1/1000 that stall for 50-1000 ms.
    stall_pm: u32,
    /// Everything takes so much longer, in milliseconds.
    extra_ms: u64,
}

impl Machine {
    /// A machine whose chance comes from `seed` and its name.
    pub fn new(
        name: &str,
        seed: u64,
        clock: Clock,
        disk: VirtualDisk,
        plan: &ShellDiskPlan,
        recorder: Recorder,
        mutant: Option<Mutant>,
    ) -> Self {
        let (disk_ms_max, stall_pm) = (plan.delay_ms_max, plan.stall_pm);
        let prng = |what: &str| Prng::named(seed, &format!("{what} of {name}"));
        let delays = Delays { prng: prng("disk delays"), max_ms: disk_ms_max, stall_pm, extra_ms: 0 };
        Self {
            name: name.to_owned(),
            recorder,
            clock: Mutex::new(clock),
            entropy: Mutex::new(prng("entropy")),
            delays: Mutex::new(delays),
            step: AtomicU64::new(0),
            frozen: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            disk: Mutex::new(disk),
            connections: Connections::default(),
            mutant,
        }
    }

    /// Its disk.
    pub fn disk(&self) -> VirtualDisk {
        lock(&self.disk).clone()
    }

    /// It gets another disk.
    pub fn replace_disk(&self, disk: VirtualDisk) {
        *lock(&self.disk) = disk;
    }

    /// What is broken in this run on purpose.
    pub fn mutant(&self) -> Option<Mutant> {
        self.mutant
    }

    /// A step of the simulation begins.
    pub fn begin_step(&self, at: TrueTime) {
        self.step.store(at.0, Ordering::Relaxed);
    }

    /// True time, as far as this host's runtime has come in this step.
    pub fn true_now(&self) -> TrueTime {
        let begun = self.step.load(Ordering::Relaxed);
        // What runs while a host is being torn down has no clock of turmoil's
        // any more, or one that has nothing to do with the run.
        let fresh = turmoil::sim_elapsed().and_then(|elapsed| u64::try_from(elapsed.as_nanos()).ok());
        TrueTime(fresh.map_or(begun, |ns| ns.clamp(begun, begun + TICK_NS)))
    }

    /// Its process stands still from now on: whatever it asks, it is `at`.
    pub fn freeze(&self, at: TrueTime) {
        self.frozen.store(at.0, Ordering::Relaxed);
    }

    /// Its process goes on.
    pub fn thaw(&self) {
        self.frozen.store(0, Ordering::Relaxed);
    }

    /// Its process has ended, or a new one begins.
    pub fn set_dead(&self, dead: bool) {
        self.dead.store(dead, Ordering::Relaxed);
    }

    /// Whether its process has ended or was killed.
    pub fn has_ended(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// What its process has open.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Whether its process has ended, be it in the middle of an operation on
    /// its disk.
    pub fn is_dead(&self) -> bool {
        self.has_ended() || !lock(&self.disk).is_up()
    }

    /// Its clocks, to change them.
    pub fn clock(&self) -> MutexGuard<'_, Clock> {
        lock(&self.clock)
    }

    /// Blocking work takes so much longer from now on, in milliseconds.
    pub fn slow_down(&self, extra_ms: u64) {
        lock(&self.delays).extra_ms = extra_ms;
    }

    /// Blocking work stalls no more.
    pub fn calm(&self) {
        let mut delays = lock(&self.delays);
        delays.stall_pm = 0;
        delays.extra_ms = 0;
    }

    fn delay(&self) -> Duration {
        let mut delays = lock(&self.delays);
        let Delays { prng, max_ms, stall_pm, extra_ms } = &mut *delays;
        let stall = prng.chance(*stall_pm);
        let usual = prng.within(0..=*max_ms);
        let ms = *extra_ms + if stall { prng.within(50..=1000) } else { usual };
        drop(delays);
        if stall {
            self.recorder.count("disk_stalled");
        }
        Duration::from_millis(ms)
    }

    /// What happened is told to it.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }
}

/// How much simulated time a step of turmoil is.
pub const TICK: Duration = Duration::from_millis(10);
const TICK_NS: u64 = 10_000_000;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The world as one host's process sees it.
#[derive(Clone)]
pub struct SimEnv(Arc<Machine>);

impl SimEnv {
    /// The world of a process on `machine`.
    pub fn new(machine: Arc<Machine>) -> Self {
        Self(machine)
    }
}

impl Env for SimEnv {
    type Stream = Stream;
    type Listener = turmoil::net::TcpListener;

    fn now(&self) -> Now {
        let at = match self.0.frozen.load(Ordering::Relaxed) {
            0 => self.0.true_now(),
            frozen => TrueTime(frozen),
        };
        lock(&self.0.clock).now(at)
    }

    fn entropy(&self, out: &mut [u8]) {
        let mut prng = lock(&self.0.entropy);
        if self.0.mutant == Some(Mutant::IdsRepeat) && out.len() == 16 {
            // Ids are the only thing of that size.
            out.fill(prng.below(8) as u8);
            return;
        }
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&prng.bits().to_le_bytes()[..chunk.len()]);
        }
    }

    fn files(&self) -> Drive {
        Drive::new(self.0.disk().files())
    }

    async fn bind(&self, address: &str) -> io::Result<turmoil::net::TcpListener> {
        turmoil::net::TcpListener::bind(address.to_owned()).await
    }

    fn local_address(&self, listener: &turmoil::net::TcpListener) -> io::Result<SocketAddr> {
        listener.local_addr()
    }

    async fn accept(&self, listener: &mut turmoil::net::TcpListener) -> io::Result<(Stream, SocketAddr)> {
        let (stream, peer) = listener.accept().await?;
        Ok((Stream::new(stream, self.0.clone(), false), peer))
    }

    async fn connect(&self, address: &str) -> io::Result<Stream> {
        let stream = turmoil::net::TcpStream::connect(address.to_owned()).await?;
        Ok(Stream::new(stream, self.0.clone(), true))
    }

    fn worker<J: Send + 'static, W: Work<J>>(&self, _name: &'static str, work: W) -> WorkerHandle<J> {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(work_loop(self.0.clone(), receiver, work));
        WorkerHandle::with_quiet(move |job, quiet| {
            sender.send((job, quiet)).map_err(|mpsc::error::SendError((job, _))| job)
        })
    }

    fn blocking<R: Send + 'static>(&self, call: impl FnOnce() -> R + Send + 'static) -> impl Future<Output = R> + Send {
        let machine = self.0.clone();
        // A task: what blocks goes on when whoever waited for it goes away.
        let task = tokio::spawn(async move {
            sleep(machine.delay()).await;
            call()
        });
        async move {
            match task.await {
                Ok(result) => result,
                Err(error) if error.is_cancelled() => std::future::pending().await,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    fn die(&self, reason: &str) -> ! {
        // What contains a run reports it; no other run of this process ends.
        panic!("{} died: {reason}", self.0.name)
    }
}

/// Jobs that have come in and were not taken yet.
struct Inbox<J> {
    receiver: mpsc::UnboundedReceiver<(J, bool)>,
    jobs: VecDeque<J>,
    /// One of them is not quiet.
    loud: bool,
    /// The last handle was dropped.
    closed: bool,
}

impl<J> Inbox<J> {
    fn put(&mut self, came: Option<(J, bool)>) {
        match came {
            Some((job, quiet)) => {
                self.jobs.push_back(job);
                self.loud |= !quiet;
            }
            None => self.closed = true,
        }
    }

    /// Takes in what is there.
    fn look(&mut self) {
        loop {
            match self.receiver.try_recv() {
                Ok(came) => self.put(Some(came)),
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => return self.put(None),
            }
        }
    }

    /// Waits until there is something that wakes a worker of this patience, or
    /// its time is over.
    async fn wait(&mut self, patience: Patience) {
        self.look();
        let rest = async {
            match patience.time {
                Some(time) => sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(rest);
        while !self.closed && !self.loud && self.jobs.len() < patience.jobs {
            tokio::select! {
                biased;
                came = self.receiver.recv() => self.put(came),
                () = &mut rest => return,
            }
            self.look();
        }
    }
}

/// A worker's life, by the rules of [`Work::run`].
async fn work_loop<J: Send + 'static, W: Work<J>>(
    machine: Arc<Machine>,
    receiver: mpsc::UnboundedReceiver<(J, bool)>,
    mut work: W,
) {
    let mut inbox = Inbox { receiver, jobs: VecDeque::new(), loud: false, closed: false };
    let mut jobs = VecDeque::new();
    let mut again = false;
    loop {
        let patience = work.patience();
        if !again {
            inbox.wait(patience).await;
        }
        sleep(machine.delay()).await;
        // What came in meanwhile is taken with the rest, as by a thread that
        // was held up.
        inbox.look();
        inbox.loud = false;
        let fresh = !inbox.jobs.is_empty();
        jobs.append(&mut inbox.jobs);
        let idle = jobs.is_empty() && (inbox.closed || patience.time.is_none());
        if idle || inbox.closed && !again && !fresh {
            if inbox.closed {
                return;
            }
            again = false;
            continue;
        }
        let given = jobs.len();
        work.run(&mut jobs);
        again = jobs.len() < given && !jobs.is_empty();
    }
}
