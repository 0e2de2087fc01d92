//! What a write's client is told.

use super::rig::{Script, node, trap};
use crate::error::ApiError;
use base_ha_core::ids::{NodeId, Url};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::time::{sleep, timeout};

const INSERT: &str = "insert into t values (1)";

/// G8: what may have been done is never told as not done, and what was not
/// done never as unknown.
#[tokio::test]
async fn timeout_is_unknown() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    b.believes(Some(&a), 1, &[&a, &b]);
    let unknown = (504, "outcome_unknown".to_owned());
    for script in [Script::Keep, Script::Lose] {
        a.script(script);
        for at in [&a, &b] {
            let reply = at.query("/query", INSERT, &[]).await;
            assert_eq!(reply.outcome(), unknown);
            // Its id is what a retry is to be named by.
            let id = reply.json()["data"]["request_id"].as_str().unwrap().to_owned();
            assert_eq!(reply.header("x-base-request-id"), id);
            let first = a.writes().last().unwrap().id;
            let retried = b.query("/query", INSERT, &[("idempotency-key", &id)]).await;
            assert_eq!(retried.outcome(), unknown);
            assert_eq!(a.writes().last().unwrap().id, first);
        }
    }
    assert_eq!(a.app.stats.http.unknown.get(), 8, "its own answers, and those that the other passed on");
    // The body has left and the writer is gone.
    let (url, _) = trap(|mut stream, _| async move {
        let mut rest = [0; 64];
        let _ = timeout(Duration::from_millis(50), stream.read(&mut rest)).await;
    })
    .await;
    b.publish(Some((NodeId::new("x").unwrap(), url)), 2, false, &[&a, &b]);
    assert_eq!(b.query("/query", INSERT, &[]).await.outcome(), unknown);
    // The writer never answers.
    let (url, _) = trap(|stream, _| async move {
        sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    b.publish(Some((NodeId::new("x").unwrap(), url)), 2, false, &[&a, &b]);
    assert_eq!(b.query("/query", INSERT, &[]).await.outcome(), unknown);
    // Nobody listens there: certainly not done.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    b.publish(Some((NodeId::new("x").unwrap(), Url::new(&format!("http://{free}")))), 2, false, &[&a, &b]);
    assert_eq!(b.query("/query", INSERT, &[]).await.outcome(), (503, "no_writer".to_owned()));
}

/// One connection writes: whoever waits behind a long statement is told so in
/// time, and that nothing was done.
#[tokio::test]
async fn a_busy_writer_says_so_and_has_done_nothing() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    b.believes(Some(&a), 1, &[&a, &b]);
    a.script(Script::Wait);
    for at in [&a, &b] {
        let reply = at.query("/query", INSERT, &[]).await;
        assert_eq!(reply.outcome(), (503, "writer_busy".to_owned()), "at {}", at.id);
        assert_eq!(reply.header("retry-after"), "1");
    }
    for request in a.waiting.lock().unwrap().iter() {
        assert!(!request.take(), "given up: the store must not run it any more");
    }
    assert_eq!(a.waiting.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn committed_but_not_everywhere_says_so() {
    let a = node("a", |_| ()).await;
    a.believes(Some(&a), 1, &[&a]);
    a.script(Script::CommitNeverAll);
    let reply = a.query("/query?ack=all", INSERT, &[]).await;
    assert_eq!(reply.outcome(), (504, "ack_timeout".to_owned()));
    assert_eq!(reply.json()["data"]["committed"], true);
    assert_eq!(reply.seq(&a), 1);
}

/// G9: the token of a write is the position of that write, whatever others
/// wrote meanwhile.
#[tokio::test]
async fn token_is_mine() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 4, &[&a, &b]);
    b.believes(Some(&a), 4, &[&a, &b]);
    let one = |at: usize| {
        let node = [&a, &b][at % 2];
        async move {
            let reply = node.query("/query", INSERT, &[]).await;
            let written: Vec<u64> = serde_json::from_slice(reply.bytes()).unwrap();
            assert_eq!(reply.seq(node), written[1]);
            written[1]
        }
    };
    let mut seqs = Vec::new();
    for round in 0..10 {
        let (x, y, z, w) = tokio::join!(one(round), one(round + 1), one(round), one(round + 1));
        seqs.extend([x, y, z, w]);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=40).collect::<Vec<_>>());
}

/// G15: a follower never writes by itself, however it is asked.
#[tokio::test]
async fn follower_write_refused() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&b), 2, &[&a, &b]);
    b.believes(Some(&b), 2, &[&a, &b]);
    for uri in ["/query?local=true", "/?local=true", "/query?local=true&level=linearizable"] {
        let reply = a.query(uri, INSERT, &[]).await;
        assert_eq!(reply.outcome(), (421, "not_writer".to_owned()), "{uri}");
        assert_eq!(reply.json()["data"]["leader_url"], b.url.as_str());
        assert_eq!(reply.json()["data"]["term"], 2);
    }
    // Nor when nobody else can: it waits, and says so.
    a.believes(None, 3, &[&a, &b]);
    assert_eq!(a.query("/query", INSERT, &[]).await.outcome(), (503, "no_writer".to_owned()));
    // Nor when it was elected and is not ready.
    a.publish(Some((a.id.clone(), a.url.clone())), 3, false, &[&a, &b]);
    assert_eq!(a.query("/query", INSERT, &[]).await.outcome(), (503, "no_writer".to_owned()));
    assert!(a.writes().is_empty() && b.writes().is_empty());
}

#[tokio::test]
async fn a_write_waits_for_a_writer_to_be_found() {
    let a = node("a", |_| ()).await;
    a.believes(None, 1, &[&a]);
    let (reply, ()) = tokio::join!(a.query("/query", INSERT, &[]), async {
        sleep(Duration::from_millis(150)).await;
        a.believes(Some(&a), 2, &[&a]);
    });
    assert_eq!((reply.status, reply.header("x-base-term")), (200, "2"));
}

#[tokio::test]
async fn errors_are_json_with_their_status() {
    let a = node("a", |_| ()).await;
    a.believes(Some(&a), 1, &[&a]);
    let constraint = ApiError::new(409, "constraint_unique", "UNIQUE constraint failed: t.x");
    a.script(Script::Fail(constraint.with_data(serde_json::json!({ "table": "t" }))));
    let reply = a.query("/query", INSERT, &[]).await;
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(
        reply.json(),
        serde_json::json!({
            "code": "constraint_unique",
            "message": "UNIQUE constraint failed: t.x",
            "status": 409,
            "data": { "table": "t" },
        })
    );
    for (uri, body, status) in [
        ("/query", "{", 400),
        ("/query", "", 400),
        ("/query", "[]", 400),
        ("/query?ack=most", r#"{"sql":"select 1"}"#, 400),
        ("/query", r#"{"sql":"nonsense"}"#, 400),
        ("/query", r#"{"sql":"insert into t values (?)","params":[18446744073709551616]}"#, 422),
        ("/nothing", "", 404),
        ("/download", "", 405),
    ] {
        let reply = a.ask("POST", uri, &[], body).await;
        assert_eq!(reply.status, status, "{uri} {body}");
        let json = reply.json();
        assert_eq!(json["status"], status);
        assert!(json["message"].as_str().is_some_and(|text| !text.is_empty()));
        assert!(!reply.code().is_empty());
    }
    assert_eq!(a.ask("PUT", "/query", &[], "").await.header("allow"), "POST, OPTIONS");
}

#[tokio::test]
async fn writes_that_wait_are_bounded_also_when_their_clients_leave() {
    let a = node("a", |config| {
        config.limits.write_queue_max = 2;
        config.limits.ack_timeout = Duration::from_secs(30);
    })
    .await;
    a.believes(Some(&a), 1, &[&a]);
    a.script(Script::Keep);
    for _ in 0..2 {
        let left = timeout(Duration::from_millis(200), a.query("/query", INSERT, &[])).await;
        assert!(left.is_err(), "the client went away first");
    }
    sleep(Duration::from_millis(100)).await;
    let reply = a.query("/query", INSERT, &[]).await;
    assert_eq!(reply.outcome(), (503, "overloaded".to_owned()));
    assert_eq!(reply.header("retry-after"), "1");
    assert_eq!(a.app.stats.http.writes_waiting.get(), 2);
    assert_eq!(a.writes().len(), 2);
    assert_eq!(a.reads() + a.data.reads.load(Ordering::SeqCst), 0);
}

/// SQL that may still run is not called unknown; what is waited for beyond it
/// is the acknowledgement alone. Both count from the arrival.
#[tokio::test]
async fn a_write_is_waited_for_as_long_as_it_may_run_and_be_acknowledged() {
    let a = node("a", |config| {
        config.limits.statement_timeout = Duration::from_millis(700);
        config.limits.ack_timeout = Duration::from_millis(100);
    })
    .await;
    let b = node("b", |config| config.limits = a.app.config.limits).await;
    a.believes(Some(&a), 1, &[&a, &b]);
    b.believes(Some(&a), 1, &[&a, &b]);
    a.script(Script::Keep);
    for at in [&a, &b] {
        let before = std::time::Instant::now();
        let reply = at.query("/query", INSERT, &[]).await;
        assert_eq!(reply.outcome(), (504, "outcome_unknown".to_owned()));
        assert!(before.elapsed() >= Duration::from_millis(790), "given up after {:?}", before.elapsed());
    }
}
