//! Requests that belong to another node.

use super::rig::{Script, node, node_with, position, trap};
use crate::api::Statement;
use crate::config::Forward;
use crate::error::ApiError;
use crate::http::{Later, Sql};
use crate::store::backup::{Contents, Copied};
use crate::store::classify::Class;
use crate::store::read::{ReadAnswer, ReadError, ReadRequest};
use base_ha_core::ids::{NodeId, Seq, Term};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

const INSERT: &str = "insert into t values (1)";

#[tokio::test]
async fn a_write_at_any_node_reaches_the_writer_once() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 3, &[&a, &b]);
    b.believes(Some(&a), 3, &[&a, &b]);
    let reply = b.query("/query", INSERT, &[("idempotency-key", "order-1")]).await;
    assert_eq!((reply.status, reply.bytes()), (200, &b"[1,1]"[..]));
    assert_eq!(reply.header("x-base-leader"), a.url.as_str());
    assert_eq!(reply.header("x-base-term"), "3");
    assert_eq!(reply.seq(&b), 1);
    let (at_a, at_b) = (a.writes(), b.writes());
    assert_eq!((at_a.len(), at_b.len()), (1, 0));
    // The same key at another node is the same request.
    a.query("/query", INSERT, &[("idempotency-key", "order-1")]).await;
    assert_eq!(a.writes()[1].id, at_a[0].id);
    assert_eq!(a.writes()[1].digest, at_a[0].digest);
    assert_eq!(at_a[0].key.as_deref(), Some("order-1"));
    assert_eq!(reply.header("x-base-request-id"), format!("{:032x}", at_a[0].id));
}

/// B3: the pin moves while the request is on its way. It is carried out exactly
/// once, or refused; never answered with nothing done.
#[tokio::test]
async fn leadership_flip_mid_request() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    // a takes b for the writer; b, in the next term, takes a for it.
    a.believes(Some(&b), 1, &[&a, &b]);
    b.believes(Some(&a), 2, &[&a, &b]);
    let (reply, ()) = tokio::join!(a.query("/query", INSERT, &[]), async {
        sleep(Duration::from_millis(100)).await;
        assert!(a.writes().is_empty(), "not the writer yet");
        a.believes(Some(&a), 2, &[&a, &b]);
    });
    assert_eq!((reply.status, reply.bytes()), (200, &b"[1,1]"[..]));
    assert_eq!((a.writes().len(), b.writes().len()), (1, 0));

    // a's view says that it writes, and its store knows better.
    a.script(Script::Refuse);
    let (reply, ()) = tokio::join!(a.query("/query", INSERT, &[]), async {
        sleep(Duration::from_millis(100)).await;
        b.believes(Some(&b), 3, &[&a, &b]);
        a.believes(Some(&b), 3, &[&a, &b]);
    });
    assert_eq!((reply.status, reply.bytes()), (200, &b"[1,1]"[..]));
    assert_eq!(b.writes().len(), 1);
    // What was refused had the same name, so that a store that did log it
    // would have known it again.
    assert!(a.writes()[1..].iter().all(|seen| seen.id == b.writes()[0].id && seen.sql == INSERT));

    // It moves and nobody has it: refused, not dropped.
    a.believes(None, 4, &[&a, &b]);
    let reply = a.query("/query", INSERT, &[]).await;
    assert_eq!(reply.outcome(), (503, "no_writer".to_owned()));
    assert_eq!(reply.header("retry-after"), "1");
    assert_eq!(b.writes().len(), 1);
}

#[tokio::test]
async fn a_421_is_tried_again_when_the_view_has_caught_up() {
    let (a, b, c) = (node("a", |_| ()).await, node("b", |_| ()).await, node("c", |_| ()).await);
    let all = [&a, &b, &c];
    a.believes(Some(&b), 1, &all);
    b.believes(Some(&c), 2, &all);
    c.believes(Some(&c), 2, &all);
    let (reply, ()) = tokio::join!(a.query("/query", INSERT, &[]), async {
        sleep(Duration::from_millis(80)).await;
        a.believes(Some(&c), 2, &all);
    });
    assert_eq!(reply.status, 200);
    assert_eq!((a.writes().len(), b.writes().len(), c.writes().len()), (0, 0, 1));
}

/// B7: what is asked of this node under `/_ha` is answered by it.
#[tokio::test]
async fn ha_routes_bypass_forwarding() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    let (url, elsewhere) = trap(|_, _| async {}).await;
    a.publish(Some((NodeId::new("z").unwrap(), url)), 1, false, &[&a, &b]);
    let heartbeat = r#"{"node_id":"b","target":"http://127.0.0.1:1"}"#;
    for (method, uri, body, status) in [
        ("GET", "/_ha/leader", "", 200),
        ("GET", "/_ha/peers", "", 200),
        ("GET", "/_ha/status", "", 200),
        ("GET", "/_ha/members", "", 200),
        ("POST", "/_ha/heartbeat", heartbeat, 200),
        ("POST", "/_ha/replicate", "{}", 501),
        ("GET", "/_ha/replicate/log?since=0", "", 501),
        ("GET", "/_ha/peer", "", 200),
        ("GET", "/_ha/snapshot", "", 200),
        ("POST", "/_ha/snapshot", "", 200),
        ("GET", "/healthz", "", 200),
    ] {
        assert_eq!(a.ask(method, uri, &[], body).await.status, status, "{method} {uri}");
    }
    assert_eq!(a.get("/_ha/peer").await.bytes(), b"peer");
    assert_eq!(elsewhere.load(Ordering::SeqCst), 0);
    assert_eq!(a.app.stats.http.forwarded.get(), 0);
}

/// B6: a heartbeat of the original changes nothing, least of all where
/// requests and credentials go.
#[tokio::test]
async fn forged_heartbeat_rejected() {
    let token = |config: &mut crate::config::Config| config.token = Some(crate::config::Secret::new("sesame"));
    let (a, b) = (node("b", token).await, node("c", token).await);
    a.believes(Some(&b), 5, &[&a, &b]);
    b.believes(Some(&b), 5, &[&a, &b]);
    let (evil, reached) = trap(|_, _| async {}).await;
    let leader = async || {
        let json = a.get("/_ha/leader").await.json();
        (json["leader_url"].clone(), json["node_id"].clone(), json["term"].clone())
    };
    let before = (leader().await, a.view.borrow().clone());
    let auth = ("authorization", "Bearer sesame");
    let forged = format!(r#"{{"node_id":"a","target":"{evil}"}}"#);
    assert_eq!(a.ask("POST", "/_ha/heartbeat", &[], forged.clone()).await.status, 401);
    for _ in 0..10 {
        let reply = a.ask("POST", "/_ha/heartbeat", &[auth], forged.clone()).await;
        assert_eq!(reply.json(), serde_json::json!({ "node_id": "b", "target": a.url.as_str() }));
    }
    for (body, status) in [
        (r#"{"node_id":"!","target":"http://evil:1"}"#.to_owned(), 400),
        ("{".to_owned(), 400),
        (format!(r#"{{"node_id":"a","target":"{}"}}"#, "x".repeat(4096)), 413),
    ] {
        assert_eq!(a.ask("POST", "/_ha/heartbeat", &[auth], body).await.status, status);
    }
    let reply = a.query("/query", INSERT, &[auth]).await;
    assert_eq!((reply.status, b.writes().len()), (200, 1));
    // Headers that name a leader move nothing either.
    let named = [auth, ("x-base-leader", evil.as_str()), ("x-base-term", "99"), ("x-forwarded-host", evil.as_str())];
    assert_eq!(a.query("/query", INSERT, &named).await.status, 200);
    assert_eq!(b.writes().len(), 2);
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    assert_eq!(leader().await, before.0);
    assert!(std::sync::Arc::ptr_eq(&before.1, &a.view.borrow().clone()));
}

/// B17: two nodes that take each other for the writer.
#[tokio::test]
async fn forward_hop_limit() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&b), 7, &[&a, &b]);
    b.believes(Some(&a), 7, &[&a, &b]);
    let reply = a.query("/query", INSERT, &[]).await;
    assert_eq!(reply.outcome(), (503, "no_writer".to_owned()));
    assert!(a.app.stats.http.forwarded.get() >= 1);
    assert_eq!(b.app.stats.http.forwarded.get(), 0, "what was passed on is not passed on again");
    assert_eq!((a.writes().len(), b.writes().len()), (0, 0));
    let read = a.query("/query?level=linearizable", "select 1", &[]).await;
    assert_eq!(read.outcome(), (503, "no_writer".to_owned()));
    assert_eq!(b.app.stats.http.forwarded.get(), 0);

    // Only a member can claim to have passed a request on.
    let forged = [("x-base-forwarded", "a;7;00"), ("x-base-request-id", "0123456789abcdef0123456789abcdef")];
    assert_eq!(b.query("/query", INSERT, &forged).await.outcome(), (403, "forged_forward".to_owned()));
    // And an id without that claim counts for nothing.
    b.believes(Some(&b), 8, &[&a, &b]);
    let reply = b.query("/query", INSERT, &forged[1..]).await;
    assert_eq!(reply.status, 200);
    assert_ne!(reply.header("x-base-request-id"), forged[1].1);
}

/// G8: neither the request nor the answer loses a byte on the way.
#[tokio::test]
async fn forward_large_body() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    b.believes(Some(&a), 1, &[&a, &b]);
    let body = serde_json::json!({ "sql": "insert into t values (?)", "params": ["x".repeat(9 << 20)] }).to_string();
    // The body's digest goes with a key.
    let reply = b.ask("POST", "/query", &[("idempotency-key", "large")], body.clone()).await;
    assert_eq!(reply.status, 200);
    assert_eq!(a.writes()[0].digest, blake3::hash(body.as_bytes()).as_bytes()[..16]);

    let rows = Bytes::from(vec![b' '; 48 << 20]);
    *a.data.rows.lock().unwrap() = rows.clone();
    let reply = b.query("/query?level=linearizable", "select 1", &[]).await;
    assert_eq!((reply.status, reply.bytes().len()), (200, rows.len()));
    assert_eq!(a.reads(), 1);
}

/// G15: a writer that breaks off in the middle of its answer.
#[tokio::test]
async fn stream_eof_no_hang() {
    let a = node("a", |_| ()).await;
    let (url, _) = trap(|mut stream, _| async move {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nContent-Type: application/json\r\n\r\n[1,";
        stream.write_all(head.as_bytes()).await.unwrap();
    })
    .await;
    a.publish(Some((NodeId::new("b").unwrap(), url)), 1, false, &[&a]);
    let begun = Instant::now();
    let reply = a.query("/query", INSERT, &[]).await;
    assert!(reply.body.is_err(), "a truncated answer must not look whole: {reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(a.writes().is_empty(), "a follower never runs what its writer did not answer");
    // The next request is not given the rest of that answer.
    let (url, _) = trap(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[1,2]").await.unwrap();
    })
    .await;
    a.publish(Some((NodeId::new("c").unwrap(), url)), 2, false, &[&a]);
    assert_eq!(a.query("/query", INSERT, &[]).await.bytes(), b"[1,2]");
}

/// A machine that freezes closes no connection: whoever asked it hears soon
/// after the cluster has gone on, not at the end of every limit.
#[tokio::test]
async fn a_frozen_writer_holds_nobody_once_it_is_replaced() {
    let (a, c) = (node("a", |_| ()).await, node("c", |_| ()).await);
    let (url, _) = trap(|stream, _| async move {
        sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    a.publish(Some((NodeId::new("b").unwrap(), url)), 1, false, &[&a, &c]);
    let begun = Instant::now();
    let (reply, ()) = tokio::join!(a.query("/query", INSERT, &[]), async {
        sleep(Duration::from_millis(100)).await;
        a.believes(Some(&c), 2, &[&a, &c]);
    });
    assert_eq!(reply.outcome(), (504, "outcome_unknown".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(c.writes().is_empty(), "what may have been done is not done again");
}

#[tokio::test]
async fn redirects_name_the_whole_uri() {
    let (a, b) = (node("a", |_| ()).await, node("b", |c| c.forward = Forward::Redirect).await);
    a.believes(Some(&b), 1, &[&a, &b]);
    b.believes(Some(&a), 1, &[&a, &b]);
    let reply = a.query("/query?forward=false&ack=local", INSERT, &[]).await;
    assert_eq!(reply.status, 307);
    assert_eq!(reply.header("location"), format!("{}/query?forward=false&ack=local", b.url));
    let reply = b.query("/", INSERT, &[]).await;
    assert_eq!((reply.status, reply.header("location")), (307, format!("{}/", a.url).as_str()));
    // Asked to, a node that redirects passes on.
    a.believes(Some(&a), 1, &[&a, &b]);
    assert_eq!(b.query("/query?forward=true", INSERT, &[]).await.status, 200);
    assert_eq!((a.writes().len(), b.writes().len()), (1, 0));
}

#[tokio::test]
async fn headers_of_one_connection_stay_there() {
    let a = node("a", |_| ()).await;
    let (seen, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let (url, _) = trap(move |mut stream, mut head| {
        let seen = seen.clone();
        async move {
            while !head.ends_with(b"}") {
                stream.read_buf(&mut head).await.unwrap();
            }
            seen.send(String::from_utf8(head).unwrap().to_lowercase()).unwrap();
            let answer = "HTTP/1.1 200 OK\r\nConnection: x-own\r\nX-Own: 1\r\nX-Kept: 2\r\nContent-Length: 2\r\n\r\n[]";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    a.publish(Some((NodeId::new("b").unwrap(), url.clone())), 1, false, &[&a]);
    let sent = [
        ("connection", "x-private"),
        ("x-private", "1"),
        ("te", "trailers"),
        ("x-base-ack", "local"),
        ("authorization", "Bearer t"),
        ("cookie", "_txseq=0"),
    ];
    let reply = a.query("/query", INSERT, &sent).await;
    let head = heads.recv().await.unwrap();
    for gone in ["x-private", "\r\nte:", a.address()] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    let host = format!("host: {}", url.as_str().strip_prefix("http://").unwrap());
    for kept in ["x-base-ack: local", "authorization: bearer t", "x-base-forwarded: a;1;", host.as_str()] {
        assert!(head.contains(kept), "{kept} not in {head}");
    }
    assert_eq!((reply.header("x-own"), reply.header("x-kept")), ("", "2"));
}

#[tokio::test]
async fn a_read_whose_answer_was_lost_is_tried_again() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    let (url, _) = trap(|stream, _| async move { drop(stream) }).await;
    b.believes(Some(&b), 2, &[&a, &b]);
    b.applied.send_replace(position(9, 2));
    a.publish(Some((NodeId::new("x").unwrap(), url)), 1, false, &[&a, &b]);
    let (reply, ()) = tokio::join!(a.query("/query?level=linearizable", "select 1", &[]), async {
        sleep(Duration::from_millis(100)).await;
        a.believes(Some(&b), 2, &[&a, &b]);
    });
    assert_eq!((reply.status, reply.seq(&a)), (200, 9));
}

/// A node without data cannot tell reads from writes.
struct Witness;

impl Sql for Witness {
    fn classify(&self, _: &[Statement]) -> Result<Class, ApiError> {
        Err(ApiError::new(503, "witness", "no data"))
    }

    fn run(&self, _: ReadRequest) -> Later<'_, Result<ReadAnswer, ReadError>> {
        panic!("a witness reads nothing")
    }

    fn contains(&self, _: Seq, _: Term) -> Result<bool, ApiError> {
        panic!("a witness has no data to ask")
    }

    fn copy(&self, _: PathBuf, _: Contents) -> Later<'_, Result<Copied, ApiError>> {
        panic!("a witness copies nothing")
    }
}

/// The writer takes the INSERT and dies before it answers; the next writer
/// must not be given it again.
#[tokio::test]
async fn a_write_through_a_node_without_data_is_sent_once() {
    let w = node_with("w", |_| (), |_| Some(Arc::new(Witness))).await;
    let b = node("b", |_| ()).await;
    b.believes(Some(&b), 2, &[&w, &b]);
    w.believes(Some(&b), 2, &[&w, &b]);
    assert_eq!(w.query("/query", INSERT, &[]).await.status, 200);
    assert_eq!(w.query("/query", "select 1", &[]).await.status, 200);
    assert_eq!(b.writes().len(), 1);

    let (url, _) = trap(|stream, _| async move { drop(stream) }).await;
    w.publish(Some((NodeId::new("x").unwrap(), url)), 1, false, &[&w, &b]);
    let (reply, ()) = tokio::join!(w.query("/query", INSERT, &[]), async {
        sleep(Duration::from_millis(100)).await;
        w.believes(Some(&b), 2, &[&w, &b]);
    });
    assert_eq!(reply.outcome(), (504, "outcome_unknown".to_owned()));
    assert_eq!(b.writes().len(), 1, "it was not sent again");
}

/// Whoever reads along can send a passed-on request again, and a later one under
/// its stamp: neither is carried out, also not without an id to tell it by.
#[tokio::test]
async fn a_passed_on_request_is_taken_once() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    let caught = Arc::new(Mutex::new(Vec::new()));
    let keep = caught.clone();
    let (url, _) = trap(move |stream, head| {
        keep.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
        async move { drop(stream) }
    })
    .await;
    b.publish(Some((NodeId::new("x").unwrap(), url)), 1, false, &[&a, &b]);
    assert_eq!(b.query("/query", INSERT, &[]).await.status, 504);
    let head = caught.lock().unwrap().concat();
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name)).expect("a header");
        line.split_once(": ").expect("a value").1.to_owned()
    };
    let (stamp, id) = (header("x-base-forwarded"), header("x-base-request-id"));
    let again = [("x-base-forwarded", stamp.as_str()), ("x-base-request-id", id.as_str())];
    assert_eq!(a.query("/query", INSERT, &again).await.status, 200, "it had not arrived");
    for _ in 0..2 {
        let reply = a.query("/query", INSERT, &again).await;
        assert_eq!(reply.outcome(), (403, "replayed_forward".to_owned()));
    }
    assert_eq!(a.writes().len(), 1);
    // In the next term it is nobody's any more.
    a.believes(Some(&a), 2, &[&a, &b]);
    assert_eq!(a.query("/query", INSERT, &again).await.status, 403);
    assert_eq!(a.writes().len(), 1);
}
