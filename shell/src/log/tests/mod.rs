//! A log under test: a world that stands still, a worker driven by hand, and
//! copies of the directory as a crash would leave it.

mod crash;
mod disk;
mod faults;
mod install;
mod measure;
mod random;
mod start;

use super::{LogLimits, LogWorker, OpenedLog, open};
use crate::api::{LogJob, NodeEvent};
use crate::env::{Env, Work, WorkerHandle};
use crate::error::ApiError;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{
    ClusterId, ConfigVersion, ContentHash, Incarnation, Lineage, NodeId, Seq, StreamId, Term, Url,
};
use base_ha_core::io::{HardState, PersistId, Record, Recovered};
use base_ha_core::member::{Member, Membership, QuorumMode, Role};
use base_ha_core::position::Position;
use base_ha_core::time::{MonoTime, Now, WallTime};
use base_ha_core::wire;
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

/// A world whose clocks move when told to. It has no network.
#[derive(Clone)]
struct Still {
    millis: Arc<AtomicU64>,
    drawn: Arc<AtomicU64>,
}

impl Still {
    fn new() -> Self {
        Self { millis: Arc::new(AtomicU64::new(1_000_000)), drawn: Arc::new(AtomicU64::new(1)) }
    }

    fn pass(&self, by: Duration) {
        self.millis.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Env for Still {
    type Stream = tokio::io::DuplexStream;
    type Listener = ();

    fn now(&self) -> Now {
        let millis = self.millis.load(Ordering::Relaxed);
        Now { mono: MonoTime(millis * 1_000_000), wall: WallTime(millis) }
    }

    fn entropy(&self, out: &mut [u8]) {
        let n = self.drawn.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        let digest = blake3::hash(&n);
        out.copy_from_slice(&digest.as_bytes()[..out.len()]);
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
            work.lock().expect("not poisoned").run(&mut VecDeque::from([job]));
            Ok(())
        })
    }

    fn blocking<R: Send + 'static>(&self, call: impl FnOnce() -> R + Send + 'static) -> impl Future<Output = R> + Send {
        std::future::ready(call())
    }

    fn die(&self, reason: &str) -> ! {
        panic!("{reason}")
    }
}

const LIMITS: LogLimits = LogLimits { bytes_max: 1 << 30, age_max: Duration::from_secs(3600) };

type Events = Arc<Mutex<Vec<NodeEvent>>>;

/// A node's log at work.
struct Log {
    env: Still,
    path: PathBuf,
    worker: LogWorker<Still>,
    events: Events,
    id: PersistId,
}

fn opened(env: &Still, path: &Path) -> Result<(OpenedLog<Still>, Events), ApiError> {
    let events = Events::default();
    let sink = events.clone();
    let log = open(env.clone(), path, LIMITS, move |event| sink.lock().expect("not poisoned").push(event))?;
    Ok((log, events))
}

/// What a start finds if `data.db` contains `store`.
fn recover(env: &Still, path: &Path, store: Position) -> Recovered {
    opened(env, path).expect("opens").0.recovered(store, ContentHash(1), None).expect("recovers")
}

impl Log {
    fn start(env: &Still, path: &Path, store: Position) -> (Self, Recovered) {
        Self::start_with(env, path, store, None, LIMITS)
    }

    fn start_with(
        env: &Still,
        path: &Path,
        store: Position,
        membership: Option<(Seq, Membership)>,
        limits: LogLimits,
    ) -> (Self, Recovered) {
        let events = Events::default();
        let sink = events.clone();
        let mut log = open(env.clone(), path, limits, move |event| sink.lock().expect("not poisoned").push(event))
            .expect("opens");
        let found = log.recovered(store, ContentHash(1), membership).expect("recovers");
        let worker = log.into_worker().expect("starts");
        (Self { env: env.clone(), path: path.to_owned(), worker, events, id: 0 }, found)
    }

    fn run(&mut self, jobs: impl IntoIterator<Item = LogJob>) {
        let mut jobs: VecDeque<LogJob> = jobs.into_iter().collect();
        self.worker.run(&mut jobs);
        assert!(jobs.is_empty());
    }

    fn persist(&mut self, record: Record) -> LogJob {
        self.id += 1;
        LogJob::Persist { id: self.id, record }
    }

    /// Appends and expects it to be confirmed.
    fn append(&mut self, keep: Option<u64>, entries: &[Entry]) {
        let record = Record::Append { keep: keep.map(Seq), entries: entries.to_vec() };
        let job = self.persist(record);
        self.run([job]);
        assert_eq!(self.persisted(), Some(self.id), "confirmed at once");
    }

    fn store(&mut self, state: HardState) {
        let job = self.persist(Record::HardState(state));
        self.run([job]);
        assert_eq!(self.persisted(), Some(self.id), "confirmed at once");
    }

    fn tick(&mut self, pass: Duration) {
        self.env.pass(pass);
        self.run([LogJob::Tick]);
    }

    /// The last confirmed id.
    fn persisted(&self) -> Option<PersistId> {
        self.events.lock().expect("not poisoned").iter().rev().find_map(|event| match event {
            NodeEvent::Persisted(id) => Some(*id),
            _ => None,
        })
    }

    fn fatal(&self) -> Option<String> {
        self.events.lock().expect("not poisoned").iter().find_map(|event| match event {
            NodeEvent::Fatal(why) => Some(why.clone()),
            _ => None,
        })
    }

    fn load(&mut self, from: u64, through: u64, bytes_max: usize) -> (Position, Vec<Entry>) {
        self.run([LogJob::Load { id: 77, from: Seq(from), through: Seq(through), bytes_max }]);
        match self.events.lock().expect("not poisoned").pop() {
            Some(NodeEvent::Loaded { id: 77, prev, entries }) => (prev, entries),
            Some(NodeEvent::Fatal(why)) => panic!("{why}"),
            other => panic!("{other:?}"),
        }
    }

    fn ask<R>(&mut self, job: impl FnOnce(oneshot::Sender<R>) -> LogJob) -> R {
        let (reply, mut answer) = oneshot::channel();
        self.run([job(reply)]);
        answer.try_recv().expect("answered at once")
    }

    fn close(mut self) {
        self.ask(|reply| LogJob::Close { reply });
    }

    /// The directory as a crash at this moment leaves it.
    fn crash_copy(&self) -> tempfile::TempDir {
        copy_of(&self.path)
    }
}

fn copy_of(path: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("temp dir");
    for file in std::fs::read_dir(path).expect("listed") {
        let file = file.expect("listed");
        std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("copied");
    }
    copy
}

/// Entries that follow `prev`.
fn chain(prev: Position, term: u64, count: u64) -> Vec<Entry> {
    chain_of(prev, term, count, |n| Bytes::from(format!("payload {n} of term {term}")))
}

fn chain_of(mut prev: Position, term: u64, count: u64, payload: impl Fn(u64) -> Bytes) -> Vec<Entry> {
    let mut out = Vec::new();
    for _ in 0..count {
        let seq = prev.seq.0 + 1;
        let hlc = Hlc::new(1_000_000 + seq, 0);
        let entry = Entry::following(&prev, StreamId::SHARED, Term(term), hlc, EntryKind::Data, payload(seq));
        prev = entry.position();
        out.push(entry);
    }
    out
}

fn config(prev: Position, term: u64, membership: &Membership) -> Entry {
    let payload = wire::encode_membership(membership);
    Entry::following(&prev, StreamId::SHARED, Term(term), Hlc::new(5, 5), EntryKind::Config, payload)
}

fn membership(version: u64) -> Membership {
    let member = |n: u128| Member {
        url: Url::new(&format!("http://127.0.0.1:809{n}")),
        identity: Some((NodeId::new(&format!("base-{n}")).expect("legal"), Incarnation(n + 100))),
        role: Role::Voter,
        target: None,
    };
    Membership {
        version: ConfigVersion(version),
        cluster: ClusterId(7),
        mode: QuorumMode::Majority,
        lineage: Lineage(1),
        members: vec![member(0), member(1), member(2)],
    }
}

fn ends(entries: &[Entry]) -> Position {
    entries.last().expect("not empty").position()
}

fn positions(entries: &[Entry]) -> Vec<Position> {
    entries.iter().map(Entry::position).collect()
}
