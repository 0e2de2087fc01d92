//! Nodes that talk over loopback, and others that try to.

use super::auth::{Keyring, Seal};
use super::direct::{DirectBus, PEER_PATH, PROTOCOL, switching_protocols};
use super::handshake::{Identity, Purpose, Refused, Session, Verdict, accept, connect};
use super::{Bus, BusCounters};
use crate::api::{NodeEvent, View};
use crate::app::NodeHandle;
use crate::config::{Config, Secret};
use crate::env::Env;
use crate::env::real::RealEnv;
use crate::tls::Dialler;
use base_ha_core::ids::{BootNonce, ClusterId, ConfigVersion, Incarnation, NodeId, Term, Url};
use base_ha_core::io::Route;
use base_ha_core::message::{Envelope, Message};
use base_ha_core::wire::encode_frame;
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// A node's bus behind a real socket.
pub(crate) struct Station {
    pub(crate) bus: DirectBus<RealEnv>,
    pub(crate) url: Url,
    pub(crate) address: String,
    listening: tokio::task::JoinHandle<()>,
    inbox: mpsc::UnboundedReceiver<NodeEvent>,
}

/// A view in which nothing is known yet.
pub(crate) fn no_view() -> watch::Receiver<Arc<View>> {
    watch::channel(Arc::default()).1
}

pub(crate) async fn station(name: &str, secrets: &[&str]) -> Station {
    let listener = RealEnv.bind("127.0.0.1:0").await.expect("bind");
    station_on(name, secrets, listener).await
}

async fn station_on(name: &str, secrets: &[&str], listener: TcpListener) -> Station {
    let address = listener.local_addr().expect("bound").to_string();
    let url = Url::new(&format!("http://{address}"));
    let id = NodeId::new(name).expect("legal");
    let mut config = Config::new(id, url.clone(), Vec::new(), address.clone(), "unused".into());
    config.core.lease = Duration::from_millis(800);
    config.cluster_secrets = secrets.iter().map(|s| Secret::new(*s)).collect();
    let (sender, inbox) = mpsc::unbounded_channel();
    let bus = DirectBus::new(Dialler::new(RealEnv, None), &config, NodeHandle::new(sender), Arc::default(), no_view());
    let listening = tokio::spawn(listen(listener, bus.clone()));
    Station { bus, url, address, listening, inbox }
}

async fn listen(mut listener: TcpListener, bus: DirectBus<RealEnv>) {
    while let Ok((stream, _)) = RealEnv.accept(&mut listener).await {
        let bus = bus.clone();
        tokio::spawn(async move {
            let service = service_fn(move |mut request| {
                let bus = bus.clone();
                async move {
                    Ok::<_, Infallible>(match bus.accept_upgrade(&mut request) {
                        Ok(inbound) => {
                            tokio::spawn(bus.serve_frames(inbound));
                            switching_protocols(Full::<Bytes>::default())
                        }
                        Err(error) => {
                            let mut refusal = Response::new(Full::default());
                            *refusal.status_mut() = StatusCode::from_u16(error.status).expect("legal");
                            refusal
                        }
                    })
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
        });
    }
}

impl Station {
    async fn frame(&mut self) -> (Route, Envelope) {
        match timeout(PATIENCE, self.inbox.recv()).await.expect("a frame in time").expect("open") {
            NodeEvent::Frame { route, envelope, .. } => (route, envelope),
            other => panic!("not a frame: {other:?}"),
        }
    }

    async fn count(&self, name: &str) -> u64 {
        let (_, n) = self.bus.counters().read().into_iter().find(|(n, _)| *n == name).expect("such a counter");
        n
    }

    /// Waits until the counter says `n`, and then that nothing reached the node.
    async fn refused(&mut self, name: &str) {
        let counted = async {
            while self.count(name).await == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{name} was not counted"));
        assert!(self.inbox.try_recv().is_err(), "something reached the node");
        assert_eq!(self.count("frames_received").await, 0);
    }
}

fn envelope(from: &str, term: u64) -> Envelope {
    Envelope {
        cluster: ClusterId(7),
        seats: 0,
        from: NodeId::new(from).expect("legal"),
        incarnation: Incarnation(1),
        nonce: BootNonce(2),
        term: Term(term),
        config: ConfigVersion(1),
        message: Message::TimeoutNow,
    }
}

/// An upgraded connection on which nothing was said yet.
async fn raw(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request = format!("GET {PEER_PATH} HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

fn ring(secrets: &[&str]) -> Keyring {
    Keyring::new(&secrets.iter().map(|s| Secret::new(*s)).collect::<Vec<_>>())
}

fn stranger(cluster: u128) -> Identity {
    Identity { id: NodeId::new("stranger").expect("legal"), cluster: ClusterId(cluster), url: "http://x:1".to_owned() }
}

async fn knock(address: &str, secrets: &[&str], cluster: u128) -> Result<(TcpStream, Session), Refused> {
    let mut stream = raw(address).await;
    let session = connect(&mut stream, &ring(secrets), &stranger(cluster), Purpose::Frames, [9; 32]).await?;
    Ok((stream, session))
}

async fn admitted(address: &str) -> (TcpStream, Seal) {
    let (stream, session) = knock(address, &["s"], 0).await.expect("admitted");
    (stream, session.send)
}

fn sealed(seal: &mut Seal, frame: &[u8]) -> Vec<u8> {
    let mut record = frame.to_vec();
    record.extend_from_slice(&seal.next(&[frame]));
    record
}

/// The other end has closed the connection.
async fn closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let reading = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(reading.is_ok(), "the connection is still open");
}

#[tokio::test]
async fn frames_go_both_ways_and_answers_go_back() {
    let (a, mut b) = (station("a", &["s"]).await, station("b", &["s"]).await);
    let mut a = a;
    for n in 0..100 {
        a.bus.send(&Route::Url(b.url.clone()), &envelope("a", n));
    }
    let mut back = None;
    for n in 0..100 {
        let (route, got) = b.frame().await;
        assert_eq!(got, envelope("a", n), "in order");
        back = Some(route);
    }
    let back = back.expect("a route");
    assert!(matches!(back, Route::Conn(_)));
    b.bus.send(&back, &envelope("b", 1));
    assert_eq!(a.frame().await, (Route::Url(b.url.clone()), envelope("b", 1)));
    b.bus.send(&Route::Url(a.url.clone()), &envelope("b", 2));
    assert_eq!(a.frame().await.1, envelope("b", 2));
}

#[tokio::test]
async fn without_a_secret_the_same_code_runs() {
    let (a, mut b) = (station("a", &[]).await, station("b", &[]).await);
    a.bus.send(&Route::Url(b.url.clone()), &envelope("a", 1));
    assert_eq!(b.frame().await.1, envelope("a", 1));
}

#[tokio::test]
async fn a_secret_is_rotated_without_a_gap() {
    let (a, mut b) = (station("a", &["old", "new"]).await, station("b", &["new", "old"]).await);
    let mut a = a;
    a.bus.send(&Route::Url(b.url.clone()), &envelope("a", 1));
    assert_eq!(b.frame().await.1, envelope("a", 1));
    b.bus.send(&Route::Url(a.url.clone()), &envelope("b", 2));
    assert_eq!(a.frame().await.1, envelope("b", 2));
}

#[tokio::test]
async fn a_restarted_peer_is_found_again() {
    let (a, mut b) = (station("a", &["s"]).await, station("b", &["s"]).await);
    let url = Route::Url(b.url.clone());
    a.bus.send(&url, &envelope("a", 1));
    b.frame().await;
    let address = b.address.clone();
    b.listening.abort();
    b.bus.close();
    drop(b);
    let mut again = loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => break station_on("b", &["s"], listener).await,
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    };
    let sending = async {
        loop {
            a.bus.send(&url, &envelope("a", 2));
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = sending => {}
        got = again.frame() => assert_eq!(got.1, envelope("a", 2)),
    }
}

#[tokio::test]
async fn a_peer_that_comes_late_is_dialled_until_it_is_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let a = station("a", &["s"]).await;
    let url = Route::Url(Url::new(&format!("http://{address}")));
    for _ in 0..20 {
        a.bus.send(&url, &envelope("a", 1));
        sleep(Duration::from_millis(10)).await;
    }
    assert!(a.count("dial_failed").await > 0, "nobody was there");
    let mut b = station_on("b", &["s"], TcpListener::bind(address).await.expect("bind again")).await;
    let sending = async {
        loop {
            a.bus.send(&url, &envelope("a", 2));
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = sending => {}
        got = b.frame() => assert!(got.1.term.0 > 0),
    }
}

#[tokio::test]
async fn a_large_frame_and_many_small_ones_arrive_whole() {
    use base_ha_core::entry::{Entry, EntryKind};
    use base_ha_core::hlc::Hlc;
    use base_ha_core::ids::{Seq, StreamId};
    use base_ha_core::message::Append;
    use base_ha_core::position::Position;
    use base_ha_core::time::MonoTime;
    let (a, mut b) = (station("a", &["s"]).await, station("b", &["s"]).await);
    let payload = Bytes::from((0..2_000_000u32).map(|n| n as u8).collect::<Vec<_>>());
    let entry = Entry::following(&Position::START, StreamId::SHARED, Term(1), Hlc(1), EntryKind::Data, payload);
    let append = Append {
        sent: Some(MonoTime(1)),
        prev: Position::START,
        entries: vec![entry],
        commit: Seq(0),
        renews: true,
        part: None,
    };
    let large = Envelope { message: Message::Append(append), ..envelope("a", 1) };
    a.bus.send(&Route::Url(b.url.clone()), &large);
    a.bus.send(&Route::Url(b.url.clone()), &envelope("a", 2));
    assert!(b.frame().await.1 == large);
    assert_eq!(b.frame().await.1, envelope("a", 2));
}

#[tokio::test]
async fn a_silent_connection_is_dropped_and_a_beating_one_is_not() {
    let mut b = station("b", &["s"]).await;
    let (stream, _) = admitted(&b.address).await;
    // It reads the beats that b sends, and says nothing itself.
    closed(stream).await;
    let a = station("a", &["s"]).await;
    a.bus.send(&Route::Url(b.url.clone()), &envelope("a", 1));
    let (route, _) = b.frame().await;
    sleep(Duration::from_millis(2_000)).await;
    a.bus.send(&Route::Url(b.url.clone()), &envelope("a", 2));
    assert_eq!(b.frame().await.0, route, "the same connection, more than two leases later");
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let mut b = station("b", &["s"]).await;
    let refused = knock(&b.address, &["t"], 0).await.err().expect("refused");
    assert!(matches!(refused, Refused::ByPeer(Verdict::Secret)), "{refused}");
    b.refused("refused_secret").await;
    assert_eq!(b.bus.counters().stats.peer.frames_refused.get(), 1);
}

#[tokio::test]
async fn a_missing_secret_is_refused() {
    let mut b = station("b", &["s"]).await;
    let refused = knock(&b.address, &[], 0).await.err().expect("refused");
    assert!(matches!(refused, Refused::ByPeer(Verdict::Secret)), "{refused}");
    b.refused("refused_secret").await;
    // A node that has one refuses a server that has none, too.
    let open = station("open", &[]).await;
    b.bus.send(&Route::Url(open.url.clone()), &envelope("b", 1));
    let mut open = open;
    open.refused("refused_secret").await;
}

#[tokio::test]
async fn a_server_that_only_pretends_is_refused() {
    // It echoes the client's own proof: it knows no secret.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut hello = [0; 6 + 32 + 16 + 3];
        stream.read_exact(&mut hello).await.expect("hello");
        let texts = usize::from(hello[54]) + usize::from(u16::from_le_bytes([hello[55], hello[56]]));
        let mut rest = vec![0; texts];
        stream.read_exact(&mut rest).await.expect("texts");
        stream.write_all(&hello).await.expect("welcome");
        stream.write_all(&rest).await.expect("welcome");
        let mut end = [0; 33];
        stream.read_exact(&mut end[1..]).await.expect("proof");
        stream.write_all(&end).await.expect("end");
    });
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let refused =
        connect(&mut stream, &ring(&["s"]), &stranger(0), Purpose::Frames, [1; 32]).await.err().expect("refused");
    assert!(matches!(refused, Refused::Secret), "{refused}");
}

#[tokio::test]
async fn a_replayed_handshake_is_refused() {
    let mut b = station("b", &["s"]).await;
    // An onlooker records everything that a true peer says.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let onlooker = listener.local_addr().expect("bound").to_string();
    let target = b.address.clone();
    let recording = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("accept");
        let mut server = TcpStream::connect(&target).await.expect("connect");
        let (mut from_client, mut from_server) = ([0; 4096], [0; 4096]);
        let mut said = Vec::new();
        loop {
            tokio::select! {
                n = client.read(&mut from_client) => match n {
                    Ok(n) if n > 0 => {
                        said.extend_from_slice(&from_client[..n]);
                        let _ = server.write_all(&from_client[..n]).await;
                    }
                    _ => return said,
                },
                n = server.read(&mut from_server) => match n {
                    Ok(n) if n > 0 => { let _ = client.write_all(&from_server[..n]).await; }
                    _ => return said,
                },
            }
        }
    });
    let (mut stream, mut session) = knock(&onlooker, &["s"], 0).await.expect("a true peer is admitted");
    let frame = encode_frame(&envelope("stranger", 5));
    stream.write_all(&sealed(&mut session.send, &frame)).await.expect("write");
    assert_eq!(b.frame().await.1, envelope("stranger", 5));
    drop(stream);
    let said = recording.await.expect("recorded");
    assert!(said.len() > frame.len());

    let before = b.count("frames_received").await;
    let mut replay = TcpStream::connect(&b.address).await.expect("connect");
    replay.write_all(&said).await.expect("write");
    closed(replay).await;
    assert_eq!(b.count("refused_secret").await, 1, "the same words, another nonce");
    assert_eq!(b.count("frames_received").await, before);
    assert!(b.inbox.try_recv().is_err(), "something reached the node");
}

#[tokio::test]
async fn a_flipped_byte_is_refused() {
    let frame = encode_frame(&envelope("stranger", 5));
    // Each place of the record: in the head, the body and the seal.
    for (place, counter) in
        [(14, "bad_seal"), (frame.len() - 1, "bad_seal"), (frame.len() + 3, "bad_seal"), (0, "bad_frame")]
    {
        let mut b = station("b", &["s"]).await;
        let (mut stream, mut seal) = admitted(&b.address).await;
        let mut record = sealed(&mut seal, &frame);
        record[place] ^= 0x10;
        stream.write_all(&record).await.expect("write");
        closed(stream).await;
        b.refused(counter).await;
    }
}

#[tokio::test]
async fn a_repeated_frame_is_refused() {
    let mut b = station("b", &["s"]).await;
    let (mut stream, mut seal) = admitted(&b.address).await;
    let record = sealed(&mut seal, &encode_frame(&envelope("stranger", 5)));
    stream.write_all(&record).await.expect("write");
    stream.write_all(&record).await.expect("write");
    closed(stream).await;
    assert_eq!(b.frame().await.1, envelope("stranger", 5));
    assert!(b.inbox.try_recv().is_err(), "the repetition reached the node");
    assert_eq!(b.count("bad_seal").await, 1);
}

/// Whoever proved to be one node speaks for no other.
#[tokio::test]
async fn a_frame_of_another_sender_is_refused() {
    let mut b = station("b", &["s"]).await;
    let (mut stream, mut seal) = admitted(&b.address).await;
    stream.write_all(&sealed(&mut seal, &encode_frame(&envelope("a", 5)))).await.expect("write");
    closed(stream).await;
    b.refused("bad_frame").await;
}

/// A certificate that is not that of who is speaking: both ends say so.
#[tokio::test]
async fn who_is_not_vouched_for_is_told() {
    let (mut near, mut far) = tokio::io::duplex(1 << 16);
    let me = Identity { id: NodeId::new("b").expect("legal"), ..stranger(0) };
    let (keys, who) = (ring(&["s"]), stranger(0));
    let vouch = |peer: &Identity| Err(format!("{} is not at {}", peer.id, peer.url));
    let (dialled, accepted) = tokio::join!(
        connect(&mut near, &keys, &who, Purpose::Frames, [1; 32]),
        accept(&mut far, &keys, &me, Purpose::Frames, [2; 32], &vouch)
    );
    let said = accepted.err().expect("refused").to_string();
    assert_eq!(said, "stranger is not at http://x:1");
    assert!(matches!(dialled.err(), Some(Refused::ByPeer(Verdict::Certificate))));
}

#[tokio::test]
async fn a_truncated_frame_is_refused() {
    let mut b = station("b", &["s"]).await;
    let (mut stream, mut seal) = admitted(&b.address).await;
    let record = sealed(&mut seal, &encode_frame(&envelope("stranger", 5)));
    stream.write_all(&record[..record.len() - 20]).await.expect("write");
    stream.shutdown().await.expect("shutdown");
    closed(stream).await;
    b.refused("bad_frame").await;
}

#[tokio::test]
async fn an_unknown_wire_version_is_refused() {
    let mut b = station("b", &["s"]).await;
    let (mut stream, mut seal) = admitted(&b.address).await;
    let mut frame = encode_frame(&envelope("stranger", 5)).to_vec();
    frame[4] = 200;
    stream.write_all(&sealed(&mut seal, &frame)).await.expect("write");
    closed(stream).await;
    b.refused("bad_frame").await;
}

#[tokio::test]
async fn an_unknown_handshake_version_is_refused() {
    let mut b = station("b", &["s"]).await;
    let mut stream = raw(&b.address).await;
    stream.write_all(b"bHA\xd1\x63\x00").await.expect("write");
    let mut verdict = [0; 6];
    stream.read_exact(&mut verdict).await.expect("a verdict");
    assert_eq!(verdict[5], Verdict::Version as u8);
    b.refused("refused_protocol").await;
    let mut stream = raw(&b.address).await;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("write");
    closed(stream).await;
    assert_eq!(b.count("refused_protocol").await, 2);
}

#[tokio::test]
async fn an_oversized_length_is_refused() {
    let mut b = station("b", &["s"]).await;
    let (mut stream, mut seal) = admitted(&b.address).await;
    let mut frame = encode_frame(&envelope("stranger", 5)).to_vec();
    frame[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
    stream.write_all(&sealed(&mut seal, &frame)).await.expect("write");
    closed(stream).await;
    b.refused("bad_frame").await;
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let mut b = station("b", &["s"]).await;
    b.bus.joined(ClusterId(1));
    let refused = knock(&b.address, &["s"], 2).await.err().expect("refused");
    assert!(matches!(refused, Refused::ByPeer(Verdict::OtherCluster)), "{refused}");
    b.refused("refused_cluster").await;
    assert!(knock(&b.address, &["s"], 1).await.is_ok(), "its own");
    assert!(knock(&b.address, &["s"], 0).await.is_ok(), "none yet: the core decides");
}

#[tokio::test]
async fn a_peer_that_never_finishes_its_handshake_is_dropped() {
    let mut b = station("b", &["s"]).await;
    let stream = raw(&b.address).await;
    closed(stream).await;
    b.refused("refused_timeout").await;
}

#[tokio::test]
async fn a_request_without_upgrade_is_answered() {
    let b = station("b", &["s"]).await;
    let mut stream = TcpStream::connect(&b.address).await.expect("connect");
    stream.write_all(b"GET /_ha/peer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
}

#[tokio::test]
async fn what_cannot_be_sent_is_dropped_and_counted() {
    let a = station("a", &["s"]).await;
    a.bus.send(&Route::Conn(99), &envelope("a", 1));
    assert_eq!(a.count("frames_dropped").await, 1);
    let counters: Arc<BusCounters> = a.bus.counters();
    a.bus.close();
    a.bus.send(&Route::Url(a.url.clone()), &envelope("a", 1));
    assert_eq!(counters.read()[2], ("frames_dropped", 2));
}
