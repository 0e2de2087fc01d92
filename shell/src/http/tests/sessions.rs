//! Tokens and levels.

use super::rig::{CLUSTER, node, position};
use base_ha_core::ids::{ClusterId, Lineage, Seq, Term};
use base_ha_core::io::{Refusal, Unfit};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

const SELECT: &str = "select 1";

/// B16: what a session wrote at one node it reads at any other.
#[tokio::test]
async fn ryw_across_nodes() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    b.believes(Some(&a), 1, &[&a, &b]);
    let written = a.query("/query", "insert into t values (1)", &[]).await;
    let token = written.header("x-base-txseq").to_owned();
    assert_eq!(written.seq(&a), 1);

    // b has it after a moment: it waits, and answers itself.
    let shown = [("x-base-txseq", token.as_str())];
    let (reply, ()) = tokio::join!(b.query("/query", SELECT, &shown), async {
        sleep(Duration::from_millis(60)).await;
        assert_eq!(b.app.stats.http.reads_waiting.get(), 1);
        b.applied.send_replace(position(1, 1));
    });
    assert_eq!((reply.status, reply.seq(&b), a.reads(), b.reads()), (200, 1, 0, 1));

    // b doesn't get it: the writer answers, by header or cookie alike.
    b.applied.send_replace(position(0, 0));
    let cookie = format!("theme=dark; _txseq={token}");
    for header in [("x-base-txseq", token.as_str()), ("cookie", &cookie), ("x-base-txseq", "1")] {
        let (before_a, before_b) = (a.reads(), b.reads());
        let reply = b.query("/query", SELECT, &[header]).await;
        assert_eq!((reply.status, reply.seq(&b)), (200, 1), "{header:?}");
        assert_eq!((a.reads(), b.reads()), (before_a + 1, before_b));
    }
    // Reads give tokens too, so that no later read goes back.
    b.applied.send_replace(position(5, 1));
    let reply = b.query("/query", SELECT, &[("x-base-txseq", &token)]).await;
    assert_eq!(reply.seq(&b), 5);
    // A local read may be behind its session; its token is not.
    let ahead = b.token(9, |_| ());
    let reply = b.query("/query?level=local", SELECT, &[("x-base-txseq", &ahead)]).await;
    assert_eq!((reply.status, reply.seq(&b)), (200, 9));
    // A bare number proves nothing and is not sealed.
    let reply = b.query("/query?local=true", SELECT, &[("x-base-txseq", "9")]).await;
    assert_eq!((reply.status, reply.seq(&b)), (200, 5));
    // The header is the more deliberate of two.
    let both = [("x-base-txseq", token.as_str()), ("cookie", "_txseq=garbage!")];
    assert_eq!(b.query("/query", SELECT, &both).await.status, 200);
}

/// A node that becomes the writer while a read waits here for its session's
/// position has by then what was kept, and knows what was given up (seed
/// 190813387 of the simulated nodes: it went on to say that nobody had it).
#[tokio::test]
async fn who_becomes_the_writer_while_a_read_waits_answers_it() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    for (applied, outcome) in [(6, (200, "")), (4, (409, "session_forked"))] {
        b.applied.send_replace(position(3, 1));
        b.believes(None, 1, &[&a, &b]);
        let token = b.token(5, |_| ());
        let header = [("x-base-txseq", token.as_str())];
        let (reply, ()) = tokio::join!(b.query("/query", SELECT, &header), async {
            // Beyond the half of the time that is for waiting here.
            sleep(b.app.config.limits.wait_timeout * 3 / 4).await;
            b.applied.send_replace(position(applied, 2));
            b.believes(Some(&b), 2, &[&a, &b]);
        });
        assert_eq!(reply.outcome(), (outcome.0, outcome.1.to_owned()), "applied {applied}");
    }
    // What is committed and not applied will be: that is no reason to end a
    // session.
    b.status(|view, _| view.commit = Seq(9));
    let token = b.token(9, |token| token.term = Term(2));
    let reply = b.query("/query", SELECT, &[("x-base-txseq", &token)]).await;
    assert_eq!(reply.outcome(), (503, "behind".to_owned()));
}

#[tokio::test]
async fn tokens_that_are_not_this_history_are_never_answered_with_rows() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    b.believes(Some(&a), 1, &[&a, &b]);
    let other_cluster = a.token(1, |token| token.cluster = ClusterId(CLUSTER.0 + 1));
    let old_lineage = a.token(1, |token| token.lineage = Lineage(0));
    let new_lineage = a.token(1, |token| token.lineage = Lineage(2));
    let mut forged = a.token(1, |_| ());
    forged.replace_range(30..31, if &forged[30..31] == "A" { "B" } else { "A" });
    let ahead = a.token(77, |_| ());
    let never = u64::MAX.to_string();
    let long = "A".repeat(2049);
    for (token, status, code) in [
        (other_cluster.as_str(), 409, "token_other_lineage"),
        (&old_lineage, 409, "token_other_lineage"),
        (&new_lineage, 503, "starting"),
        (&forged, 400, "bad_token"),
        ("!", 400, "bad_token"),
        (&long, 400, "bad_token"),
        ("18446744073709551616", 400, "bad_token"),
        (&ahead, 409, "token_ahead"),
        (&never, 409, "token_ahead"),
    ] {
        for at in [&a, &b] {
            let reply = at.query("/query", SELECT, &[("x-base-txseq", token)]).await;
            assert_eq!(reply.outcome(), (status, code.to_owned()), "{token} at {}", at.id);
            // A browser would come with the same cookie again.
            let ended = matches!(code, "bad_token" | "token_other_lineage");
            let cookie = if ended { "_txseq=; Path=/; Max-Age=0" } else { "" };
            assert_eq!(reply.header("set-cookie"), cookie, "{code}");
        }
    }
    assert_eq!((a.reads(), b.reads()), (0, 0));
}

/// R4, R7: a write that was acknowledged by its writer's disk alone is lost with
/// it. Whoever saw it is told so, everywhere, and never shown other rows as if
/// they were newer.
#[tokio::test]
async fn a_session_that_saw_a_lost_write_is_told_so_everywhere() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 2, &[&a, &b]);
    b.believes(Some(&a), 2, &[&a, &b]);
    let lost = a.token(5, |token| token.term = Term(1));
    let kept = a.token(3, |token| token.term = Term(1));
    for at in [&a, &b] {
        *at.data.terms.lock().unwrap() = vec![(1, 1), (4, 2)];
    }
    let forked = (409, "session_forked".to_owned());
    // The new history is shorter than what was seen, then as long, then longer.
    for applied in [4, 5, 9] {
        for at in [&a, &b] {
            at.applied.send_replace(position(applied, 2));
        }
        *a.read_index.lock().unwrap() = Ok(Seq(applied));
        for (at, uri) in [(&a, "/query"), (&b, "/query"), (&a, "/query?level=linearizable")] {
            let reply = at.query(uri, SELECT, &[("x-base-txseq", &lost)]).await;
            assert_eq!(reply.outcome(), forked, "{uri} at {}, applied {applied}", at.id);
            let reply = at.query(uri, SELECT, &[("x-base-txseq", &kept)]).await;
            assert_eq!(reply.outcome(), (200, String::new()), "{uri} at {}, applied {applied}", at.id);
        }
    }
    // A write goes through, and its answer does not cover the loss up.
    let reply = b.query("/query", "insert into t values (1)", &[("x-base-txseq", &lost)]).await;
    assert_eq!((reply.status, reply.seq(&b)), (200, 5));
    let shown = reply.header("x-base-txseq").to_owned();
    assert_eq!(b.query("/query", SELECT, &[("x-base-txseq", &shown)]).await.outcome(), forked);
    let reply = b.query("/query", "insert into t values (1)", &[("x-base-txseq", &kept)]).await;
    assert_eq!((reply.status, reply.seq(&b)), (200, 11));
}

#[tokio::test]
async fn linearizable_reads_are_the_writers() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    b.believes(Some(&a), 1, &[&a, &b]);
    a.applied.send_replace(position(3, 1));
    *a.read_index.lock().unwrap() = Ok(Seq(3));
    for at in [&a, &b] {
        let reply = at.query("/query?level=linearizable", SELECT, &[]).await;
        assert_eq!((reply.status, reply.seq(at), reply.header("x-base-staleness-ms")), (200, 3, "0"));
    }
    assert_eq!((a.reads(), b.reads()), (2, 0));

    // It waits for what the majority confirmed.
    *a.read_index.lock().unwrap() = Ok(Seq(4));
    let (reply, ()) = tokio::join!(a.query("/query?level=linearizable", SELECT, &[]), async {
        sleep(Duration::from_millis(60)).await;
        a.applied.send_replace(position(4, 1));
    });
    assert_eq!(reply.seq(&a), 4);

    // Without a majority there is no answer.
    *a.read_index.lock().unwrap() = Err(Refusal::LeaseExpired);
    for at in [&a, &b] {
        let reply = at.query("/query?level=linearizable", SELECT, &[]).await;
        assert!([421, 503].contains(&reply.status), "{reply:?}");
    }
}

/// R1: the pin is lost between the read and its answer.
#[tokio::test]
async fn a_linearizable_read_is_not_answered_by_a_writer_that_was() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    b.believes(Some(&b), 2, &[&a, &b]);
    b.applied.send_replace(position(6, 2));
    let gate = Arc::new(Notify::new());
    *a.data.gate.lock().unwrap() = Some(gate.clone());
    let (reply, ()) = tokio::join!(a.query("/query?level=linearizable", SELECT, &[]), async {
        sleep(Duration::from_millis(60)).await;
        assert_eq!(a.reads(), 1);
        a.believes(Some(&b), 2, &[&a, &b]);
        gate.notify_one();
    });
    assert_eq!((reply.status, reply.seq(&a), b.reads()), (200, 6, 1));
}

#[tokio::test]
async fn a_node_that_is_not_fit_does_not_read() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&b), 1, &[&a, &b]);
    b.believes(Some(&b), 1, &[&a, &b]);
    a.status(|_, status| status.unfit = Some(Unfit::Quarantined));
    assert_eq!(a.query("/query?level=local", SELECT, &[]).await.outcome(), (503, "unfit".to_owned()));
    assert_eq!((a.query("/query", SELECT, &[]).await.status, a.reads(), b.reads()), (200, 0, 1));
    a.status(|_, status| status.unfit = Some(Unfit::ApplyHalted { at: Seq(2) }));
    assert_eq!((a.query("/query?level=local", SELECT, &[]).await.status, a.reads()), (200, 1));
    assert_eq!((a.query("/query", SELECT, &[]).await.status, b.reads()), (200, 2));
    a.status(|_, status| status.unfit = Some(Unfit::DiskFull));
    assert_eq!((a.query("/query", SELECT, &[]).await.status, a.reads()), (200, 2));
}

#[tokio::test]
async fn a_read_says_how_old_it_may_be() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&b), 1, &[&a, &b]);
    sleep(Duration::from_millis(30)).await;
    let reply = a.query("/query", SELECT, &[]).await;
    assert!(reply.header("x-base-staleness-ms").parse::<u64>().unwrap() >= 30);
    a.status(|view, _| view.commit = Seq(8));
    assert_eq!(a.query("/query", SELECT, &[]).await.header("x-base-staleness-ms"), "");
}

/// A node that knows its cluster by name only, and no membership yet, could
/// name no history in its answer's token: it does not answer. It once did,
/// without one.
#[tokio::test]
async fn a_node_without_a_membership_reads_nothing() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&b), 1, &[&a, &b]);
    a.status(|_, status| status.membership.cluster = ClusterId::NONE);
    assert_eq!(a.query("/query?level=local", SELECT, &[]).await.outcome(), (503, "starting".to_owned()));
    // One that began to found a cluster which was never committed knows a
    // membership and belongs to none: it judges no token of the one that is.
    let token = b.token(1, |_| ());
    a.status(|_, status| {
        (status.cluster, status.membership.cluster) = (ClusterId::NONE, ClusterId(CLUSTER.0 + 1));
    });
    let reply = a.query("/query", SELECT, &[("x-base-txseq", &token)]).await;
    assert_eq!(reply.outcome(), (503, "starting".to_owned()));
    a.believes(Some(&b), 1, &[&a, &b]);
    let reply = a.query("/query?level=local", SELECT, &[]).await;
    assert_eq!((reply.status, reply.seq(&a)), (200, 0));
}
