//! The cluster as seen from outside, orders to it, copies of its data.

use super::rig::{node, position};
use base_ha_core::ids::{ClusterId, ConfigVersion, NodeId, Seq, Term};
use base_ha_core::io::{AdminCommand, AdminOutcome, Part, Unfit};
use serde_json::json;
use std::time::Duration;
use tokio::time::sleep;

#[tokio::test]
async fn leader_and_peers_have_the_original_shape() {
    let (b, a) = (node("base-10", |_| ()).await, node("base-9", |_| ()).await);
    a.believes(Some(&b), 12, &[&a, &b]);
    let reply = a.get("/_ha/leader").await;
    let json = reply.json();
    assert_eq!(
        (&json["leader_url"], &json["node_id"], &json["term"]),
        (&json!(b.url.as_str()), &json!("base-10"), &json!(12))
    );
    assert!(json["lease_expires"].as_str().unwrap().starts_with("20"));
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!((reply.header("x-base-leader"), reply.header("x-base-term")), (b.url.as_str(), "12"));
    assert_eq!(a.ask("POST", "/_ha/leader", &[], "").await.status, 405);
    let head = a.ask("HEAD", "/_ha/leader", &[], "").await;
    assert_eq!((head.status, head.bytes().len(), head.header("x-base-term")), (200, 0, "12"));

    let json = a.get("/_ha/peers").await.json();
    let peers: Vec<_> = json.as_array().unwrap().iter().map(|peer| (&peer["node_id"], &peer["ordinal"])).collect();
    assert_eq!(peers, [(&json!("base-9"), &json!(9)), (&json!("base-10"), &json!(10))]);
    assert_eq!((&json[0]["target"], &json[0]["up"]), (&json!(a.url.as_str()), &json!(true)));
    assert!(json[1]["last_seen"].as_str().unwrap().starts_with("20"));
}

#[tokio::test]
async fn every_answer_names_the_writer_once_it_is_known() {
    let (a, b) = (node("a", |c| c.token = Some(crate::config::Secret::new("t"))).await, node("b", |_| ()).await);
    assert_eq!(a.get("/healthz").await.header("x-base-term"), "");
    a.believes(Some(&b), 3, &[&a, &b]);
    for uri in ["/healthz", "/readyz", "/query", "/nothing", "/_ha/peer", "/metrics"] {
        let reply = a.get(uri).await;
        assert_eq!((reply.header("x-base-leader"), reply.header("x-base-term")), (b.url.as_str(), "3"), "{uri}");
    }
    a.believes(Some(&a), 4, &[&a, &b]);
    assert_eq!(a.get("/healthz").await.header("x-base-leader"), a.url.as_str());
}

#[tokio::test]
async fn a_node_says_why_it_is_not_ready() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    let codes = async || -> (u16, Vec<String>) {
        let reply = a.get("/readyz").await;
        let json = reply.json();
        let reasons = json["reasons"].as_array().unwrap();
        let codes = reasons.iter().map(|reason| reason["code"].as_str().unwrap().to_owned()).collect();
        (reply.status, codes)
    };
    let not = |codes: &[&str]| (503, codes.iter().map(ToString::to_string).collect());
    assert_eq!(codes().await, not(&["starting"]));
    a.believes(Some(&b), 1, &[&a, &b]);
    assert_eq!(codes().await, (200, vec![]));
    a.status(|view, _| view.commit = Seq(5));
    assert_eq!(codes().await, not(&["lag"]));
    // What this node knows to be committed is not all there is: the writer is
    // heard to be further.
    a.status(|view, status| {
        view.commit = Seq(0);
        status.peers.iter_mut().filter(|peer| peer.id.as_ref() == Some(&b.id)).for_each(|peer| peer.applied = Seq(5));
    });
    assert_eq!(codes().await, not(&["lag"]));
    a.status(|view, status| {
        view.commit = Seq(5);
        status.peers.iter_mut().for_each(|peer| peer.applied = Seq(0));
    });
    // Behind by no more than a moment is not behind.
    let (ready, ()) = tokio::join!(codes(), async {
        sleep(Duration::from_millis(50)).await;
        a.applied.send_replace(position(5, 1));
    });
    assert_eq!(ready.0, 200);
    a.status(|_, status| status.peers.iter_mut().for_each(|peer| peer.up = peer.id == Some(status.id.clone())));
    assert_eq!(codes().await, not(&["writer_silent", "no_quorum"]));
    a.status(|_, status| status.unfit = Some(Unfit::Quarantined));
    assert_eq!(codes().await, not(&["diverged", "writer_silent", "no_quorum"]));
    a.believes(None, 2, &[&a, &b]);
    a.status(|view, _| view.stopping = true);
    assert_eq!(codes().await, not(&["stopping", "no_writer"]));
    a.publish(Some((a.id.clone(), a.url.clone())), 2, false, &[&a, &b]);
    assert_eq!(codes().await, not(&["not_writable"]));
    a.status(|_, status| (status.part, status.cluster) = (Part::Unborn, ClusterId::NONE));
    assert_eq!(codes().await, not(&["unborn"]));
    a.believes(Some(&b), 3, &[&a, &b]);
    a.status(|view, _| view.taken = view.taken.before(Duration::from_secs(60)));
    assert_eq!(codes().await, not(&["stalled"]));
    assert_eq!(a.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn status_shows_the_cluster() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    assert_eq!(a.get("/_ha/status").await.json()["state"], "starting");
    a.applied.send_replace(position(3, 1));
    a.believes(Some(&b), 1, &[&a, &b]);
    let json = a.get("/_ha/status").await.json();
    for (field, value) in [
        ("node_id", json!("a")),
        ("role", json!("follower")),
        ("term", json!(1)),
        ("writer", json!({ "node_id": "b", "url": b.url.as_str() })),
        ("applied", json!(3)),
        ("lag", json!(0)),
        ("state", json!("ready")),
        ("quorum", json!(2)),
    ] {
        assert_eq!(json[field], value, "{field}");
    }
    let own = json["members"].as_array().unwrap().iter().find(|member| member["self"] == true).unwrap();
    assert_eq!((&own["node_id"], &own["applied"], &own["writer"]), (&json!("a"), &json!(3), &json!(false)));
}

#[tokio::test]
async fn orders_are_carried_out_at_the_writer() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    b.believes(Some(&a), 1, &[&a, &b]);
    let reply = b.ask("POST", "/_ha/transfer", &[], r#"{"to":"b"}"#).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "changed": true, "version": 1 })));
    let transfer = AdminCommand::Transfer { to: Some(NodeId::new("b").unwrap()) };
    assert_eq!(*a.orders.lock().unwrap(), [transfer]);
    assert!(b.orders.lock().unwrap().is_empty());
    for (outcome, status, code) in [
        (AdminOutcome::Busy, 409, "busy"),
        (AdminOutcome::UnknownMember, 404, "unknown_member"),
        (AdminOutcome::NotEligible, 409, "not_eligible"),
        (AdminOutcome::LastVoter, 409, "last_voter"),
        (AdminOutcome::TimedOut, 504, "outcome_unknown"),
        (AdminOutcome::NotWriter(base_ha_core::io::Refusal::NotReady), 503, "no_writer"),
    ] {
        *a.outcome.lock().unwrap() = outcome.clone();
        let reply = a.ask("DELETE", "/_ha/members/b", &[], "").await;
        assert_eq!(reply.outcome(), (status, code.to_owned()), "{outcome:?}");
    }
    *a.outcome.lock().unwrap() = AdminOutcome::NothingToDo;
    assert_eq!(a.ask("POST", "/_ha/stepdown", &[], "").await.json()["changed"], false);
}

/// Whoever gives an order here and then looks here sees what it changed.
#[tokio::test]
async fn an_order_is_answered_once_this_node_has_heard_of_it() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    b.believes(Some(&a), 1, &[&a, &b]);
    a.status(|_, status| status.membership.version = ConfigVersion(5));
    let order = b.ask("POST", "/_ha/members", &[], r#"{"url":"http://127.0.0.1:9"}"#);
    let (reply, ()) = tokio::join!(order, async {
        sleep(Duration::from_millis(100)).await;
        assert_eq!(a.orders.lock().unwrap().len(), 1, "it is carried out by now");
        b.status(|_, status| status.membership.version = ConfigVersion(5));
    });
    assert_eq!((reply.status, reply.json()), (200, json!({ "changed": true, "version": 5 })));
    assert_eq!(b.get("/_ha/members").await.json()["version"], 5);
    // It is done all the same if this node hears of it too late.
    a.status(|_, status| status.membership.version = ConfigVersion(6));
    let reply = b.ask("POST", "/_ha/members", &[], r#"{"url":"http://127.0.0.1:9"}"#).await;
    assert_eq!((reply.status, reply.json()["version"].as_u64()), (200, Some(6)));
    assert_eq!(b.get("/_ha/members").await.json()["version"], 5);
}

#[tokio::test]
async fn copies_are_whole_and_leave_nothing_behind() {
    let a = node("a", |_| ()).await;
    a.believes(Some(&a), 1, &[&a]);
    a.applied.send_replace(position(7, 1));
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    *a.data.rows.lock().unwrap() = data.clone().into();
    for (uri, headers) in [("/download", &[][..]), ("/", &[("accept", "application/octet-stream")][..])] {
        let reply = a.ask("GET", uri, headers, "").await;
        assert_eq!((reply.status, reply.header("x-sequence")), (200, "7"));
        assert_eq!(reply.header("content-type"), "application/octet-stream");
        let name = reply.header("content-disposition");
        assert!(name.starts_with("attachment; filename=20") && name.ends_with("_ha.db"), "{name}");
        assert_eq!(reply.header("content-length"), data.len().to_string());
        assert!(reply.bytes() == data);
    }
    let head = a.ask("HEAD", "/", &[("accept", "application/octet-stream")], "").await;
    assert!(head.header("content-type").starts_with("text/plain"));
    let page = a.get("/").await;
    assert!(page.header("content-type").starts_with("text/plain"));
    let left = || std::fs::read_dir(a.dir.path().join("tmp")).unwrap().count();
    for _ in 0..100 {
        if left() == 0 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left(), 0);

    let reply = a.ask("POST", "/_ha/snapshot", &[], "").await;
    assert_eq!((reply.status, reply.header("x-sequence")), (200, "7"));
    let kept = a.dir.path().join(reply.json()["file"].as_str().unwrap());
    assert!(std::fs::read(kept).unwrap() == data);
    assert_eq!(std::fs::read_dir(a.dir.path().join("snapshots")).unwrap().count(), 1);
}

#[tokio::test]
async fn metrics_are_served() {
    let a = node("a", |_| ()).await;
    a.believes(Some(&a), 6, &[&a]);
    a.query("/query", "insert into t values (1)", &[]).await;
    let text = String::from_utf8(a.get("/metrics").await.bytes().to_vec()).unwrap();
    for line in [
        "base_ha_term 6",
        "base_ha_is_writer 1",
        "base_ha_applied 1",
        r#"base_ha_http_requests_total{route="query",status="2xx"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

/// B2: a process that was paused wakes with what it believed before, and may be
/// asked before its node loop has run.
#[tokio::test]
async fn a_paused_node_does_not_say_that_it_writes() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    a.status(|view, _| view.taken = view.taken.before(Duration::from_secs(60)));
    let later = async {
        sleep(Duration::from_millis(200)).await;
        a.believes(Some(&b), 2, &[&a, &b]);
    };
    let (status, leader, ()) = tokio::join!(a.get("/_ha/status"), a.get("/_ha/leader"), later);
    assert_eq!((&status.json()["writable"], &status.json()["term"]), (&json!(false), &json!(2)));
    assert_eq!((leader.json()["node_id"].as_str(), leader.header("x-base-term")), (Some("b"), "2"));
}

/// B5: a term that is not on the disk would be taken back by a crash: it is
/// shown to nobody, and its writer in no other term. A node whose disk is full
/// stays like that for long, and passes requests on all the same.
#[tokio::test]
async fn a_term_is_shown_once_it_is_durable() {
    let (a, b) = (node("a", |_| ()).await, node("b", |_| ()).await);
    a.believes(Some(&b), 7, &[&a, &b]);
    b.believes(Some(&b), 7, &[&a, &b]);
    a.status(|view, _| view.pin.durable = Term(6));
    let leader = a.get("/_ha/leader").await;
    assert_eq!((leader.json()["term"].clone(), leader.header("x-base-term")), (json!(6), "6"));
    assert_eq!((leader.json()["leader_url"].clone(), leader.header("x-base-leader")), (json!(""), ""));
    let status = a.get("/_ha/status").await;
    assert_eq!((status.json()["term"].clone(), status.json()["writer"].clone()), (json!(6), json!(null)));
    assert_eq!((status.header("x-base-term"), status.header("x-base-leader")), ("", ""));
    // The writer's own answer names its own term.
    let written = a.query("/query", "insert into t values (1)", &[]).await;
    assert_eq!((written.status, written.header("x-base-term")), (200, "7"));
    assert_eq!(written.header("x-base-leader"), b.url.as_str());
    a.status(|view, _| view.pin.durable = Term(7));
    let status = a.get("/_ha/status").await;
    assert_eq!((status.json()["term"].clone(), status.header("x-base-leader")), (json!(7), b.url.as_str()));
}
