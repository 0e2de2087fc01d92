//! `/_ha`: the cluster as this node sees it.
//!
//! Decides how it is shown (CONTRACTS 1). Nothing that is sent here ever
//! changes who is alive, who writes or where requests go: that is said by
//! peers only, over their own authenticated connection (B6).

use super::body;
use super::health::{self, Reason};
use super::respond::{self, Answer, Body, LEADER, TERM, rfc3339};
use super::server::Conn;
use crate::api::View;
use crate::app::Gone;
use crate::env::Env;
use crate::error::ApiError;
use base_ha_core::ids::{NodeId, Seq, Url};
use base_ha_core::io::{Part, PeerStatus, Status};
use base_ha_core::member::{Member, Role};
use base_ha_core::time::{MonoTime, Now, WallTime};
use hyper::Request;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::timeout;

/// What the original answers for a moment that it doesn't know.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Bytes of a `/_ha/heartbeat` (CONTRACTS 1).
const HEARTBEAT_BYTES_MAX: usize = 4096;

/// The picture, of after a pause. A process that stood still wakes with what it
/// believed before, a lease that is over among it, and its node loop is not
/// always the first to run (B2). One that never runs is told of by the age.
async fn fresh<E: Env>(conn: &Conn<E>) -> Arc<View> {
    let app = &conn.app;
    let lease = app.config.core.lease;
    let mut views = app.view.clone();
    let old = |view: &Arc<View>| view.status.is_some() && app.env.now().mono.since(view.taken) > lease;
    let is_old = old(&views.borrow());
    if is_old {
        let _newer = timeout(lease, views.wait_for(|view| !old(view))).await;
    }
    views.borrow_and_update().clone()
}

/// The picture, made now: every figure of it is of one moment. If the node loop
/// stands still for a heartbeat, the last one, whose age tells.
async fn renewed<E: Env>(conn: &Conn<E>) -> Arc<View> {
    match timeout(conn.app.config.core.heartbeat, conn.app.node.renew()).await {
        Ok(Ok(())) => conn.app.view.borrow().clone(),
        Ok(Err(Gone)) | Err(_) => fresh(conn).await,
    }
}

/// `GET /_ha/leader`.
pub(crate) async fn leader<E: Env>(conn: &Conn<E>) -> Response<Body> {
    let app = &conn.app;
    let view = fresh(conn).await;
    let (term, writer) = view.shown();
    let (id, url) = writer.map_or(("", ""), |(id, url)| (id.as_str(), url.as_str()));
    let expires = lease_end(&view, app.config.core.lease, app.env.now());
    let mut response = respond::json_now(&json!({
        "leader_url": url,
        "node_id": id,
        "term": term.0,
        "lease_expires": expires.map_or(NEVER.to_owned(), rfc3339),
    }));
    response.headers_mut().insert(TERM, HeaderValue::from(term.0));
    response.headers_mut().insert(LEADER, respond::value(url));
    response
}

/// When the writer's lease ends: exactly at the writer; elsewhere when it would
/// end if the writer fell silent now.
fn lease_end(view: &View, lease: std::time::Duration, now: Now) -> Option<WallTime> {
    let status = view.status.as_ref()?;
    let (writer, _) = view.shown().1?;
    let end = match status.lease_until {
        Some(until) if *writer == status.id => until,
        _ => peer(status, writer)?.heard?.after(lease),
    };
    Some(wall(end, now))
}

/// A moment of this boot's clock by the wall clock.
fn wall(at: MonoTime, now: Now) -> WallTime {
    let ms = |from: MonoTime, to: MonoTime| u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX);
    WallTime(now.wall.0.saturating_add(ms(now.mono, at)).saturating_sub(ms(at, now.mono)))
}

fn peer<'a>(status: &'a Status, id: &NodeId) -> Option<&'a PeerStatus> {
    status.peers.iter().find(|peer| peer.id.as_ref() == Some(id))
}

/// `GET /_ha/peers`: this node too; sorted by ordinal, then name.
pub(crate) fn peers<E: Env>(conn: &Conn<E>) -> Response<Body> {
    let (view, now) = (conn.app.view.borrow().clone(), conn.app.env.now());
    let Some(status) = &view.status else { return respond::json_now(&json!([])) };
    let mut peers: Vec<&PeerStatus> = status.peers.iter().collect();
    peers.sort_by_key(|peer| (peer.id.as_ref().map_or(-1, NodeId::ordinal), peer.id.clone()));
    let shown: Vec<Value> = peers
        .into_iter()
        .map(|peer| {
            json!({
                "node_id": peer.id.as_ref().map_or("", |id| id.as_str()),
                "target": peer.url.as_str(),
                "up": peer.up,
                "ordinal": peer.id.as_ref().map_or(-1, NodeId::ordinal),
                "last_seen": last_seen(status, peer, now),
            })
        })
        .collect();
    respond::json_now(&Value::Array(shown))
}

fn last_seen(status: &Status, peer: &PeerStatus, now: Now) -> String {
    if peer.id.as_ref() == Some(&status.id) {
        return rfc3339(now.wall);
    }
    peer.heard.map_or(NEVER.to_owned(), |at| rfc3339(wall(at, now)))
}

/// `POST /_ha/heartbeat`: answered in the original's shape and otherwise
/// ignored.
pub(crate) async fn heartbeat<E: Env>(conn: &Conn<E>, request: Request<Incoming>) -> Answer {
    #[derive(serde::Deserialize)]
    struct Heartbeat {
        node_id: String,
        target: String,
    }
    let (head, body) = request.into_parts();
    let body = body::collect(&conn.meter, &head.headers, body, HEARTBEAT_BYTES_MAX).await?;
    let bad = |text: String| ApiError::new(400, "bad_json", text);
    let said: Heartbeat = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    NodeId::new(&said.node_id).map_err(|error| bad(error.to_string()))?;
    tracing::debug!(node = said.node_id, target = said.target, "a heartbeat of the original; it counts for nothing");
    let own = &conn.app.config.core;
    Ok(respond::json_now(&json!({ "node_id": own.id.as_str(), "target": own.url.as_str() })))
}

/// `/_ha/replicate` of the original.
pub(crate) fn not_supported() -> ApiError {
    let text = "replication by single change-sets is not served: members replicate over /_ha/peer";
    ApiError::new(501, "not_supported", text)
}

/// `GET /_ha/members`: the membership in force.
pub(crate) fn members<E: Env>(conn: &Conn<E>) -> Response<Body> {
    let view = conn.app.view.borrow().clone();
    let Some(status) = &view.status else { return respond::json_now(&json!({ "version": 0, "members": [] })) };
    let shown: Vec<Value> = status.membership.members.iter().map(member).collect();
    respond::json_now(&json!({
        "cluster": status.membership.cluster.to_string(),
        "version": status.membership.version.0,
        "members": shown,
    }))
}

fn member(member: &Member) -> Value {
    json!({
        "node_id": member.id().map(NodeId::as_str),
        "incarnation": member.identity.as_ref().map(|(_, incarnation)| incarnation.to_string()),
        "url": member.url.as_str(),
        "role": role_name(member.role),
        "target": member.target.map(role_name),
    })
}

/// `GET /_ha/status`: everything a person or the command line wants to know.
///
/// `state` is `ready`, or the code of the first reason why not (as `/readyz`
/// lists them). Positions are entry numbers; `lag` is in entries; `age_ms` is
/// how old the picture is: 0 unless the node loop stands still. What is said of
/// other members is what they last reported.
pub(crate) async fn status<E: Env>(conn: &Conn<E>) -> Response<Body> {
    let app = &conn.app;
    let view = renewed(conn).await;
    let (now, applied) = (app.env.now(), app.applied.borrow().seq);
    let reasons = health::reasons(&view, applied, &app.config.core, now.mono);
    let (term, writer) = view.shown();
    let mut shown = json!({
        "node_id": app.config.core.id.as_str(),
        "url": app.config.core.url.as_str(),
        "term": term.0,
        "writer": writer.map(|(id, url)| json!({ "node_id": id.as_str(), "url": url.as_str() })),
        "writable": view.pin.writable,
        "commit": view.commit.0,
        "applied": applied.0,
        "lag": view.commit.0.saturating_sub(applied.0),
        "state": reasons.first().map_or("ready", |reason| reason.code),
        "reasons": reasons.iter().map(Reason::json).collect::<Vec<_>>(),
        "stopping": view.stopping,
        "conflicts": app.stats.log.orphans(),
        "role": "starting",
        "members": [],
    });
    if let (Some(status), Some(fields)) = (&view.status, shown.as_object_mut()) {
        let more = of_status(status, applied, writer, now, view.taken);
        if let Value::Object(more) = more {
            fields.extend(more);
        }
    }
    respond::json_now(&shown)
}

fn of_status(status: &Status, applied_here: Seq, writer: Option<&(NodeId, Url)>, now: Now, taken: MonoTime) -> Value {
    let members: Vec<Value> = status
        .peers
        .iter()
        .map(|peer| {
            let own = peer.id.as_ref() == Some(&status.id);
            // This node's own figures are better known than by report.
            let own_last = status.last.seq.max(applied_here);
            let (last, applied) = if own { (own_last, applied_here) } else { (peer.last, peer.applied) };
            json!({
                "node_id": peer.id.as_ref().map(NodeId::as_str),
                "url": peer.url.as_str(),
                "role": role_name(peer.role),
                "writer": writer.is_some_and(|(id, _)| peer.id.as_ref() == Some(id)),
                "self": own,
                "up": own || peer.up,
                "last": last.0,
                "applied": applied.0,
                "lag": status.commit.0.saturating_sub(applied.0),
                "last_seen": last_seen(status, peer, now),
            })
        })
        .collect();
    json!({
        "role": part_name(status.part),
        "cluster": status.cluster.to_string(),
        "lineage": status.membership.lineage.0,
        "incarnation": status.incarnation.to_string(),
        "log": { "first": status.log_first.0, "last": status.last.seq.0, "last_term": status.last.term.0 },
        "membership_version": status.membership.version.0,
        "voters": status.membership.voters().count(),
        "quorum": status.membership.quorum(),
        "unfit": status.unfit.as_ref().map(ToString::to_string),
        "age_ms": u64::try_from(now.mono.since(taken).as_millis()).unwrap_or(u64::MAX),
        "members": members,
    })
}

pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Learner => "learner",
        Role::Voter => "voter",
        Role::Witness => "witness",
    }
}

fn part_name(part: Part) -> &'static str {
    match part {
        Part::Unborn => "unborn",
        Part::Learner => "learner",
        Part::Follower => "follower",
        Part::Witness => "witness",
        Part::PreCandidate | Part::Candidate => "candidate",
        Part::Writer => "writer",
    }
}
