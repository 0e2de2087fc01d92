//! `/healthz`, `/readyz`, `/metrics`.
//!
//! Decides when a node is ready: when it knows a writer, hears from it, and
//! has applied what is known to be committed. If it isn't, every reason is
//! named.

use super::respond::{self, Answer, Body};
use super::server::Conn;
use crate::api::View;
use crate::env::Env;
use crate::error::ApiError;
use crate::metrics::{self, Moment};
use base_ha_core::config::Config;
use base_ha_core::ids::Seq;
use base_ha_core::io::{Part, Unfit};
use base_ha_core::time::MonoTime;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// What a node under load may need to apply what was just committed: behind by
/// no more than this is not behind.
const CATCH_UP: Duration = Duration::from_millis(250);
/// A picture of the node older than so many heartbeats means that its loop is
/// stuck: one refreshes it.
const STALLED_HEARTBEATS: u32 = 8;

/// Why a node isn't ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    /// For programs.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: String,
}

impl Reason {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "code": self.code, "message": self.message })
    }
}

/// `GET /healthz`: the process answers.
pub(crate) fn alive() -> Response<Body> {
    respond::json_now(&json!({ "status": "ok" }))
}

/// `GET /readyz`.
pub(crate) async fn ready<E: Env>(conn: &Conn<E>) -> Response<Body> {
    let app = &conn.app;
    let view = app.view.borrow().clone();
    // Wait for what was committed when the question came: judged against a
    // commit index that moves on, a node under load would never be ready.
    let mut applied = app.applied.clone();
    let wanted = wanted(&view);
    let _ = timeout(CATCH_UP, applied.wait_for(|position| position.seq >= wanted)).await;
    let reasons = reasons(&view, app.applied.borrow().seq, &app.config.core, app.env.now().mono);
    let mut response = respond::json_now(&json!({
        "ready": reasons.is_empty(),
        "reasons": reasons.iter().map(Reason::json).collect::<Vec<_>>(),
    }));
    if !reasons.is_empty() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// What a node that is caught up has applied: all that is known here to be
/// committed, and what the writer had applied when it was last heard. A node
/// that is beyond the reach of the writer's log knows the first from its own
/// past only.
fn wanted(view: &View) -> Seq {
    let writer = view.pin.writer.as_ref().map(|(id, _)| id);
    let peers = view.status.iter().flat_map(|status| &status.peers);
    let theirs = peers.filter(|peer| writer.is_some() && peer.id.as_ref() == writer).map(|peer| peer.applied).max();
    view.commit.max(theirs.unwrap_or_default())
}

/// Every reason why a node isn't ready; the gravest first.
pub(crate) fn reasons(view: &View, applied: Seq, config: &Config, now: MonoTime) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if view.stopping {
        reasons.push(Reason::new("stopping", "this node is stopping"));
    }
    let Some(status) = &view.status else {
        reasons.push(Reason::new("starting", "this node is starting"));
        return reasons;
    };
    let age = now.since(view.taken);
    if age > config.heartbeat * STALLED_HEARTBEATS {
        reasons.push(Reason::new("stalled", format!("the node's loop has said nothing for {age:?}")));
    }
    if let Some(unfit) = &status.unfit {
        reasons.push(Reason::new(unfit_code(unfit), unfit.to_string()));
    }
    if status.part == Part::Unborn {
        let text = "there is no cluster yet: a majority of the seats has not been heard from";
        reasons.push(Reason::new("unborn", text));
        return reasons;
    }
    match &view.pin.writer {
        None => reasons.push(Reason::new("no_writer", format!("no writer is known in term {}", view.shown().0))),
        Some((id, _)) if *id == status.id && !view.pin.writable => {
            reasons.push(Reason::new("not_writable", "this node is the writer and may not write yet, or no more"));
        }
        Some((id, _)) if *id != status.id => {
            let silent = status.peers.iter().any(|peer| peer.id.as_ref() == Some(id) && !peer.up);
            if silent {
                reasons.push(Reason::new("writer_silent", format!("the writer, {id}, has not been heard in time")));
            }
        }
        Some(_) => (),
    }
    let votes = |peer: &&base_ha_core::io::PeerStatus| peer.role != base_ha_core::member::Role::Learner;
    let up = |peer: &&base_ha_core::io::PeerStatus| peer.up || peer.id.as_ref() == Some(&status.id);
    let (heard, quorum) = (status.peers.iter().filter(votes).filter(up).count(), status.membership.quorum());
    if heard < quorum {
        let text = format!("{heard} voters are heard, {quorum} are needed");
        reasons.push(Reason::new("no_quorum", text));
    }
    let wanted = wanted(view);
    if status.part != Part::Witness && applied < wanted {
        let lag = wanted.0 - applied.0;
        reasons.push(Reason::new("lag", format!("{lag} committed entries are not applied yet")));
    }
    reasons
}

fn unfit_code(unfit: &Unfit) -> &'static str {
    match unfit {
        Unfit::DuplicateId => "duplicate_id",
        Unfit::Quarantined => "diverged",
        Unfit::ApplyHalted { .. } => "apply_halted",
        Unfit::DiskFull => "disk_full",
        Unfit::OtherCluster { .. } => "other_cluster",
        Unfit::SeatsDiffer => "seats_differ",
        Unfit::NotAMember => "not_a_member",
    }
}

/// `GET /metrics`.
pub(crate) fn metrics<E: Env>(conn: &Conn<E>) -> Answer {
    let app = &conn.app;
    let (view, applied) = (app.view.borrow().clone(), app.applied.borrow().seq);
    let moment = Moment { view, applied, now: app.env.now() };
    let text = metrics::scrape(&app.stats, moment)
        .map_err(|_| ApiError::new(500, "internal", "the metrics could not be written"))?;
    let mut response = respond::text(text);
    let format = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    Ok(response)
}
