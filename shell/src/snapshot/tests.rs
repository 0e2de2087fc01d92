//! Copies that arrive, and copies that must not be believed.
#![allow(clippy::result_large_err, reason = "a worker that has ended gives the job back")]

use super::fetch::{Failure, Fetcher, Readers, receive_file};
use super::record::{self, Kind};
use super::serve::{Server, Source};
use super::{BLOCK, Header};
use crate::api::{Installed, LogJob, NodeEvent, StoreJob};
use crate::app::NodeHandle;
use crate::bus::auth::Keyring;
use crate::bus::direct::DirectBus;
use crate::bus::handshake::{Identity, Purpose, Session, accept, connect};
use crate::bus::tests::no_view;
use crate::config::{Config, Secret};
use crate::driver::{FetchOrder, PauseApply};
use crate::env::Env;
use crate::env::real::RealEnv;
use crate::env::{Work as _, WorkerHandle};
use crate::error::ApiError;
use crate::store::backup::{Copied, TempFile};
use crate::tls::Dialler;
use base_ha_core::ids::{ClusterId, ConfigVersion, ContentHash, Hash, Lineage, NodeId, Seq, Term, Url};
use base_ha_core::io::Input;
use base_ha_core::member::{Membership, QuorumMode};
use base_ha_core::position::Position;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

const AT: Position = Position { seq: Seq(42), term: Term(3), hash: Hash([5; 32]) };

struct Given {
    dir: PathBuf,
    bytes: Vec<u8>,
    fit: Result<ClusterId, String>,
    takes: Duration,
}

impl Source for Given {
    fn copy(&self) -> Pin<Box<dyn Future<Output = Result<Copied, ApiError>> + Send>> {
        let (dir, bytes, takes) = (self.dir.clone(), self.bytes.clone(), self.takes);
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            let file = TempFile::create(&crate::env::files::real(), &dir).expect("created");
            std::fs::write(file.path(), &bytes).expect("written");
            Ok(Copied { file, position: AT, bytes: bytes.len() as u64, hash: hash(&bytes) })
        })
    }

    fn fit(&self) -> Result<ClusterId, String> {
        self.fit.clone()
    }
}

fn hash(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

fn given(bytes: Vec<u8>) -> Given {
    Given { dir: PathBuf::new(), bytes, fit: Ok(ClusterId(9)), takes: Duration::ZERO }
}

/// Bytes that compress a little, several blocks of them.
fn content() -> Vec<u8> {
    let mut random = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; 3 * BLOCK + 12_345];
    random.fill(&mut bytes);
    bytes[BLOCK..2 * BLOCK].fill(7);
    bytes
}

async fn opened() -> ((DuplexStream, Session), (DuplexStream, Session)) {
    let (mut a, mut b) = duplex(64 << 10);
    let keys = Keyring::new(&[Secret::new("s")]);
    let who = |name: &str| Identity {
        id: NodeId::new(name).expect("legal"),
        cluster: ClusterId(9),
        url: format!("http://{name}:1"),
    };
    let (near, far) = (who("a"), who("b"));
    let (client, server) = tokio::join!(
        connect(&mut a, &keys, &near, Purpose::Snapshot, [1; 32]),
        accept(&mut b, &keys, &far, Purpose::Snapshot, [2; 32], &|_| Ok(()))
    );
    ((a, client.expect("opened")), (b, server.expect("opened")))
}

async fn transfer(mut source: Given, at_least: u64) -> (tempfile::TempDir, PathBuf, Result<Header, String>) {
    let dir = tempfile::tempdir().expect("a directory");
    source.dir = dir.path().to_owned();
    let to = dir.path().join("received");
    std::fs::write(&to, b"").expect("written");
    let ((mut a, mut client), (mut b, mut session)) = opened().await;
    let server = Server::new(RealEnv, Arc::new(source), Arc::default());
    let serving = tokio::spawn(async move { server.serve(&mut b, &mut session).await });
    let result = receive_file(&RealEnv, &mut a, &mut client, at_least, &to).await;
    serving.await.expect("no panic");
    (dir, to, result)
}

fn names(dir: &tempfile::TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path()).expect("a directory");
    entries.map(|e| e.expect("an entry").file_name().into_string().expect("a name")).collect()
}

#[tokio::test]
async fn a_copy_arrives_whole() {
    for bytes in [content(), Vec::new(), vec![1], vec![2; BLOCK]] {
        let (dir, to, result) = transfer(given(bytes.clone()), 42).await;
        let header = result.expect("received");
        assert_eq!(
            header,
            Header { cluster: ClusterId(9), position: AT, size: bytes.len() as u64, hash: hash(&bytes) }
        );
        assert!(std::fs::read(to).expect("a file") == bytes);
        assert_eq!(names(&dir), ["received"], "the server's own copy is gone");
    }
}

#[tokio::test]
async fn a_copy_that_takes_long_to_make_is_waited_for() {
    let source = Given { takes: Duration::from_millis(1_200), ..given(content()) };
    assert!(transfer(source, 0).await.2.is_ok());
}

#[tokio::test]
async fn a_copy_that_is_not_far_enough_is_not_given() {
    let (dir, _, result) = transfer(given(content()), 43).await;
    assert!(result.expect_err("refused").contains("43 is wanted"));
    assert_eq!(names(&dir), ["received"]);
}

#[tokio::test]
async fn a_node_in_doubt_gives_nothing() {
    let source = Given { fit: Err("its data is quarantined".to_owned()), ..given(content()) };
    let reason = transfer(source, 0).await.2.expect_err("refused");
    assert!(reason.contains("quarantined"), "{reason}");
}

/// Runs a transfer through a wire that does something to its bytes.
async fn tampered(mut tamper: impl FnMut(usize, &mut Vec<u8>) -> bool + Send + 'static) -> Result<Header, String> {
    let dir = tempfile::tempdir().expect("a directory");
    let ((mut a, mut client), (mut b, mut session)) = opened().await;
    let (near, mut far) = duplex(64 << 10);
    let (mut request_to, mut bytes_from) = (Vec::new(), 0);
    let source = Given { dir: dir.path().to_owned(), ..given(content()) };
    let server = Server::new(RealEnv, Arc::new(source), Arc::default());
    tokio::spawn(async move {
        let mut wire = near;
        server.serve(&mut wire, &mut session).await;
    });
    // The handshake's own pipe carries the client's side, a second one the
    // server's; this task is the wire between them.
    let wire = tokio::spawn(async move {
        let mut buffer = vec![0; 8192];
        loop {
            tokio::select! {
                n = b.read(&mut buffer) => {
                    let n = n.unwrap_or(0);
                    if n == 0 { return }
                    request_to.clear();
                    request_to.extend_from_slice(&buffer[..n]);
                    if far.write_all(&request_to).await.is_err() { return }
                    buffer.resize(8192, 0);
                }
                n = async { let mut piece = vec![0; 4096]; let n = far.read(&mut piece).await.unwrap_or(0); piece.truncate(n); piece } => {
                    let mut piece = n;
                    if piece.is_empty() { return }
                    let at = bytes_from;
                    bytes_from += piece.len();
                    let go_on = tamper(at, &mut piece);
                    if b.write_all(&piece).await.is_err() || !go_on { return }
                }
            }
        }
    });
    let to = TempFile::create(&crate::env::files::real(), dir.path()).expect("created");
    let result = receive_file(&RealEnv, &mut a, &mut client, 0, to.path()).await;
    wire.abort();
    result
}

#[tokio::test]
async fn an_untouched_wire_is_fine() {
    assert!(tampered(|_, _| true).await.is_ok());
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_noticed() {
    for place in [7usize, 40, 5_000, 1_200_000, 2_000_000] {
        let result = tampered(move |at, piece| {
            if let Some(byte) = place.checked_sub(at).and_then(|n| piece.get_mut(n)) {
                *byte ^= 1;
            }
            true
        })
        .await;
        let reason = result.expect_err("noticed");
        assert!(reason.contains("seal") || reason.contains("bound"), "{place}: {reason}");
    }
}

#[tokio::test]
async fn a_cut_connection_is_no_copy() {
    let reason = tampered(|at, _| at < 1_500_000).await.expect_err("noticed");
    assert!(reason.contains("ended before"), "{reason}");
}

/// A server that knows the secret and says what it likes.
async fn lying(records: Vec<(Kind, Vec<u8>)>) -> Result<Header, String> {
    let dir = tempfile::tempdir().expect("a directory");
    let ((mut a, mut client), (mut b, mut session)) = opened().await;
    tokio::spawn(async move {
        let _ = record::receive(&mut b, &mut session.receive).await;
        for (kind, payload) in records {
            let _ = record::send(&mut b, &mut session.send, kind, &payload).await;
        }
    });
    let to = TempFile::create(&crate::env::files::real(), dir.path()).expect("created");
    receive_file(&RealEnv, &mut a, &mut client, 42, to.path()).await
}

fn header(size: u64, of: &[u8]) -> (Kind, Vec<u8>) {
    (Kind::Header, Header { cluster: ClusterId(9), position: AT, size, hash: hash(of) }.encode())
}

fn block(claimed: u32, bytes: &[u8]) -> (Kind, Vec<u8>) {
    let mut payload = claimed.to_le_bytes().to_vec();
    payload.extend_from_slice(&zstd::bulk::compress(bytes, 1).expect("compressed"));
    (Kind::Block, payload)
}

fn end() -> (Kind, Vec<u8>) {
    (Kind::End, Vec::new())
}

#[tokio::test]
async fn a_lying_server_is_not_believed() {
    assert!(lying(vec![header(3, b"abc"), block(3, b"abc"), end()]).await.is_ok(), "the truth is believed");
    let bomb = vec![0; 64 << 20];
    let other_version = {
        let (kind, mut bytes) = header(3, b"abc");
        bytes[4] = 9;
        (kind, bytes)
    };
    let behind =
        Header { cluster: ClusterId(9), position: Position { seq: Seq(41), ..AT }, size: 3, hash: AT.hash }.encode();
    let cases = [
        ("hash", vec![header(3, b"abd"), block(3, b"abc"), end()]),
        ("ended after", vec![header(4, b"abc"), block(3, b"abc"), end()]),
        ("bound", vec![header(2, b"abc"), block(3, b"abc"), end()]),
        ("bound", vec![header(u64::MAX, &bomb), block(u32::MAX, &bomb), end()]),
        ("damaged", vec![header(u64::MAX, &bomb), block(1_000, &bomb), end()]),
        ("and not", vec![header(9, b"abc"), block(9, b"abc"), end()]),
        ("damaged", vec![header(3, b"abc"), (Kind::Block, vec![3, 0, 0, 0, 1, 2, 3]), end()]),
        ("too short", vec![header(3, b"abc"), (Kind::Block, vec![3])]),
        ("version 9", vec![other_version]),
        ("too short", vec![(Kind::Header, vec![1])]),
        ("42 is wanted", vec![(Kind::Header, behind)]),
        ("out of turn", vec![block(3, b"abc")]),
        ("out of turn", vec![header(3, b"abc"), header(3, b"abc")]),
        ("out of turn", vec![(Kind::Request, Vec::new())]),
        ("hash", vec![header(0, b"abc"), end()]),
        ("bytes, not", vec![(Kind::Header, vec![b'b', b'H', b'A', b's', 1, 0])]),
        ("the other node says: no", vec![(Kind::Refusal, b"n\x1bo".to_vec())]),
        ("ended before", vec![header(3, b"abc")]),
    ];
    for (wanted, records) in cases {
        let reason = lying(records).await.expect_err(wanted);
        assert!(reason.contains(wanted), "{wanted}: {reason}");
    }
}

fn membership() -> Membership {
    Membership {
        version: ConfigVersion(1),
        cluster: ClusterId(9),
        mode: QuorumMode::Majority,
        lineage: Lineage(0),
        members: Vec::new(),
    }
}

struct Told(Arc<Mutex<Vec<&'static str>>>);

impl Readers for Told {
    fn close(&self) {
        self.0.lock().expect("fine").push("close");
    }

    fn open(&self) {
        self.0.lock().expect("fine").push("open");
    }
}

/// Installs a file with a log and a store that answer as told; returns what
/// happened and in which order.
async fn installed(
    begin: Result<(), ApiError>,
    install: Result<Position, ApiError>,
    finish: Result<bool, ApiError>,
) -> (Vec<&'static str>, Result<Input, Failure>, bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let order: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let told = order.clone();
    let answers = Mutex::new((Some(begin), Some(finish)));
    let log = WorkerHandle::new(move |job| {
        let mut answers = answers.lock().expect("fine");
        match job {
            LogJob::BeginInstall { position, reply, .. } => {
                assert_eq!(position, AT);
                told.lock().expect("fine").push("begin");
                let _ = reply.send(answers.0.take().expect("once"));
            }
            LogJob::FinishInstall { position, reply, .. } => {
                assert_eq!(position, AT);
                told.lock().expect("fine").push("finish");
                let _ = reply.send(answers.1.take().expect("once"));
            }
            LogJob::ForgetInstall => told.lock().expect("fine").push("forget"),
            other => return Err(other),
        }
        Ok(())
    });
    let told = order.clone();
    let install = Mutex::new(Some(install));
    let store = WorkerHandle::new(move |job| {
        let StoreJob::Install { file, reply } = job else { return Err(job) };
        assert!(file.exists());
        told.lock().expect("fine").push("install");
        let answer = install.lock().expect("fine").take().expect("once").map(|position| {
            std::fs::remove_file(&file).expect("moved");
            Installed { position, membership: membership(), content: ContentHash(1), hlc: Default::default() }
        });
        let _ = reply.send(answer);
        Ok(())
    });
    let (sender, _inbox) = mpsc::unbounded_channel();
    let node = NodeHandle::new(sender);
    let url = Url::new("http://127.0.0.1:1");
    let config =
        Config::new(NodeId::new("n").expect("legal"), url.clone(), Vec::new(), String::new(), dir.path().into());
    let told = order.clone();
    let fetcher = Fetcher {
        env: RealEnv,
        dir: dir.path().to_owned(),
        bus: DirectBus::new(Dialler::new(RealEnv, None), &config, node.clone(), Arc::default(), no_view()),
        log,
        data: Some((store, Arc::new(Told(told)))),
        node,
        failures: AtomicU32::new(0),
    };
    let file = TempFile::create(&crate::env::files::real(), dir.path()).expect("created");
    let path = file.path().to_owned();
    let (pause, _) = PauseApply::obliging();
    let fetch = FetchOrder { from: url, at_least: AT, reseed: false, pause };
    let header = Header { cluster: ClusterId(9), position: AT, size: 1, hash: AT.hash };
    let result = fetcher.install(&fetch, header, file).await;
    let order = order.lock().expect("fine").clone();
    (order, result, path.exists())
}

#[tokio::test]
async fn log_and_store_learn_of_a_snapshot_in_the_order_that_survives_a_crash() {
    let (order, result, left) = installed(Ok(()), Ok(AT), Ok(true)).await;
    assert_eq!(order, ["begin", "close", "install", "finish", "open"]);
    assert!(matches!(result, Ok(Input::SnapshotInstalled { position: AT, log_reset: true, .. })));
    assert!(!left);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_installed_leaves_no_file() {
    let error = || ApiError::new(507, "disk_full", "no space");
    let (order, result, left) = installed(Err(error()), Ok(AT), Ok(true)).await;
    assert_eq!(order, ["begin"]);
    assert!(matches!(result, Err(Failure::Harmless(_))) && !left);
    let (order, result, left) = installed(Ok(()), Err(error()), Ok(true)).await;
    assert_eq!(order, ["begin", "close", "install", "forget", "open"]);
    assert!(matches!(result, Err(Failure::Harmless(_))) && !left);
    // Whether the file was replaced can't be told: what was noted stays.
    let unfinished = ApiError::new(500, crate::store::UNFINISHED, "fsync failed");
    let (order, result, _) = installed(Ok(()), Err(unfinished), Ok(true)).await;
    assert_eq!(order, ["begin", "close", "install", "open"]);
    assert!(matches!(result, Err(Failure::Fatal(_))));
}

/// The loop waits for an end of every fetch: it gets one of a panic, too.
#[tokio::test]
async fn a_panic_while_fetching_ends_the_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let (sender, mut inbox) = mpsc::unbounded_channel();
    let node = NodeHandle::new(sender);
    let url = Url::new("http://127.0.0.1:1");
    let config =
        Config::new(NodeId::new("n").expect("legal"), url.clone(), Vec::new(), String::new(), dir.path().into());
    let fetcher = Arc::new(Fetcher {
        env: Panics,
        dir: dir.path().to_owned(),
        bus: DirectBus::new(Dialler::new(Panics, None), &config, node.clone(), Arc::default(), no_view()),
        log: WorkerHandle::new(Err),
        data: None,
        node,
        failures: AtomicU32::new(0),
    });
    let order = FetchOrder { from: url, at_least: AT, reseed: false, pause: PauseApply::obliging().0 };
    fetcher.run(order).await;
    let told = inbox.recv().await.expect("an end");
    assert!(matches!(told, NodeEvent::Fatal(reason) if reason.contains("no connection for a panic")));
}

/// The real world, but for a bug in its network.
#[derive(Clone, Copy)]
struct Panics;

impl Env for Panics {
    type Stream = tokio::net::TcpStream;
    type Listener = tokio::net::TcpListener;

    fn now(&self) -> base_ha_core::time::Now {
        RealEnv.now()
    }

    fn entropy(&self, out: &mut [u8]) {
        RealEnv.entropy(out);
    }

    async fn bind(&self, address: &str) -> std::io::Result<Self::Listener> {
        RealEnv.bind(address).await
    }

    fn local_address(&self, listener: &Self::Listener) -> std::io::Result<std::net::SocketAddr> {
        RealEnv.local_address(listener)
    }

    async fn accept(&self, listener: &mut Self::Listener) -> std::io::Result<(Self::Stream, std::net::SocketAddr)> {
        RealEnv.accept(listener).await
    }

    async fn connect(&self, _: &str) -> std::io::Result<Self::Stream> {
        panic!("no connection for a panic")
    }

    fn worker<J: Send + 'static, W: crate::env::Work<J>>(&self, name: &'static str, work: W) -> WorkerHandle<J> {
        RealEnv.worker(name, work)
    }

    async fn blocking<R: Send + 'static>(&self, call: impl FnOnce() -> R + Send + 'static) -> R {
        RealEnv.blocking(call).await
    }

    fn die(&self, reason: &str) -> ! {
        RealEnv.die(reason)
    }
}

#[tokio::test]
async fn apply_goes_on_before_the_next_attempt_is_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let (sender, mut inbox) = mpsc::unbounded_channel();
    let node = NodeHandle::new(sender);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|held| held.local_addr()).expect("an address");
    let from = Url::new(&format!("http://{nobody}"));
    let config =
        Config::new(NodeId::new("n").expect("legal"), from.clone(), Vec::new(), String::new(), dir.path().into());
    let fetcher = Arc::new(Fetcher {
        env: RealEnv,
        dir: dir.path().to_owned(),
        bus: DirectBus::new(Dialler::new(RealEnv, None), &config, node.clone(), Arc::default(), no_view()),
        log: WorkerHandle::new(Err),
        data: Some((WorkerHandle::new(Err), Arc::new(Told(Arc::default())))),
        node,
        // As after many: the wait is the longest.
        failures: AtomicU32::new(16),
    });
    let (pause, mut asked) = PauseApply::obliging();
    let running = tokio::spawn(fetcher.run(FetchOrder { from, at_least: AT, reseed: false, pause }));
    asked.wait_for(|asked| *asked == Some(false)).await.expect("resumed");
    assert!(inbox.try_recv().is_err() && !running.is_finished(), "it waits before it says that it failed");
    running.abort();
}

#[tokio::test]
async fn half_an_install_ends_the_process() {
    let (order, result, _) = installed(Ok(()), Ok(AT), Err(ApiError::new(500, "log", "broken"))).await;
    assert_eq!(order, ["begin", "close", "install", "finish", "open"]);
    assert!(matches!(result, Err(Failure::Fatal(_))));
    let (_, result, _) = installed(Ok(()), Ok(Position { seq: Seq(41), ..AT }), Ok(true)).await;
    assert!(matches!(result, Err(Failure::Fatal(_))), "it is not what it said it was");
}

/// A `data.db` that holds one entry, which names the members.
fn copied(dir: &std::path::Path) -> (TempFile, Position) {
    use base_ha_core::entry::{Entry, EntryKind};
    use base_ha_core::hlc::Hlc;
    use base_ha_core::ids::StreamId;
    let home = tempfile::tempdir().expect("a directory");
    let opened = crate::store::open(RealEnv, home.path(), &crate::config::Limits::default(), |_| ()).expect("opens");
    let payload = base_ha_core::wire::encode_membership(&membership());
    let entry = Entry::following(&Position::START, StreamId::SHARED, Term(1), Hlc(1), EntryKind::Config, payload);
    let mut worker = opened.worker;
    let (reply, _closed) = tokio::sync::oneshot::channel();
    let at = entry.position();
    worker.run(&mut [StoreJob::Apply { entries: vec![entry] }].into());
    worker.run(&mut [StoreJob::Close { reply }].into());
    let file = TempFile::create(&crate::env::files::real(), dir).expect("created");
    std::fs::copy(crate::store::data_file(home.path()), file.path()).expect("copied");
    (file, at)
}

/// Its peers' logs begin after the end of its own: a witness that was away for
/// long, or that joins an old cluster.
#[tokio::test]
async fn a_witness_begins_its_log_at_a_copy() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, at) = copied(dir.path());
    let path = file.path().to_owned();
    let log = WorkerHandle::new(move |job| {
        let LogJob::FinishInstall { position, membership: told, reply } = job else { return Err(job) };
        assert_eq!((position, told), (at, membership()));
        let _ = reply.send(Ok(true));
        Ok(())
    });
    let (sender, _inbox) = mpsc::unbounded_channel();
    let node = NodeHandle::new(sender);
    let url = Url::new("http://127.0.0.1:1");
    let config =
        Config::new(NodeId::new("n").expect("legal"), url.clone(), Vec::new(), String::new(), dir.path().into());
    let bus = DirectBus::new(Dialler::new(RealEnv, None), &config, node.clone(), Arc::default(), no_view());
    let fetcher =
        Fetcher { env: RealEnv, dir: dir.path().to_owned(), bus, log, data: None, node, failures: AtomicU32::new(0) };
    let order = FetchOrder { from: url, at_least: at, reseed: false, pause: PauseApply::obliging().0 };
    let header = Header { cluster: ClusterId(9), position: at, size: 1, hash: at.hash };
    let result = fetcher.install(&order, header, file).await;
    match result {
        Ok(Input::SnapshotInstalled { position, log_reset: true, .. }) if position == at => {}
        other => panic!("{other:?}"),
    }
    assert!(!path.exists(), "the copy is gone");
}
