//! Administration: members, transfer, step-down.
//!
//! Decides how an order is written and how its outcome is told. Whether it may
//! be carried out is the core's decision, at the writer, where orders given
//! elsewhere are passed on to.

use super::client::authority;
use super::forward::{self, Hop};
use super::respond::{self, Answer};
use super::route::Route;
use super::server::Conn;
use super::writer::{Place, Seek, stopping};
use super::{body, write};
use crate::api::View;
use crate::env::Env;
use crate::error::ApiError;
use crate::tls::is_tls;
use base_ha_core::ids::{NodeId, Url};
use base_ha_core::io::{AdminCommand, AdminOutcome, MemberRef};
use base_ha_core::member::Role;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of an order.
const ORDER_BYTES_MAX: usize = 4096;
/// How long an order may take: a hand-over drains the writer first.
const ORDER_TIME_MAX: Duration = Duration::from_secs(30);

/// The fields of every order; which are needed depends on the route.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Order {
    url: Option<String>,
    role: Option<String>,
    node_id: Option<String>,
    to: Option<String>,
}

pub(crate) async fn answer<E: Env>(conn: &Conn<E>, route: Route, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let body = body::collect(&conn.meter, &head.headers, body, ORDER_BYTES_MAX).await?;
    let hop = forward::check(conn, &head, &body)?;
    let command = command(route, head.uri.path(), &body)?;
    if let AdminCommand::AddMember { url, .. } | AdminCommand::SetUrl { url, .. } = &command
        && is_tls(url) != conn.app.config.tls.is_some()
    {
        let spoken = if is_tls(url) { "http://" } else { "https://" };
        return Err(bad(&format!("url is {:?}, and this cluster speaks {spoken}", url.as_str())));
    }
    let id = hop.map_or_else(|| write::mint(conn), |hop| hop.id);
    let mut seek = Seek::new(conn, hop.as_ref());
    loop {
        match seek.next().await? {
            Place::Here(_) => {
                if let Some(done) = carry_out(conn, &command).await? {
                    return Ok(seen(conn, &done).await);
                }
            }
            Place::There(url, term) => {
                let limit = ORDER_TIME_MAX + conn.app.config.limits.wait_timeout;
                match forward::pass(conn, &url, Hop { term, id }, &head, &body, limit).await {
                    Ok(response) if response.status() == 421 => (),
                    Ok(response) if response.status() == 200 => {
                        let body = Limited::new(response.into_body(), ORDER_BYTES_MAX).collect().await;
                        let body = body.map_err(|error| unknown(&error.to_string()))?.to_bytes();
                        let done = serde_json::from_slice(&body).map_err(|error| unknown(&error.to_string()))?;
                        return Ok(seen(conn, &done).await);
                    }
                    Ok(response) => return Ok(forward::answer(response)),
                    Err(lost) if lost.sent => return Err(unknown(&lost.reason)),
                    Err(unsent) => tracing::debug!(%url, reason = %unsent, "the writer could not be reached"),
                }
            }
        }
        seek.pause().await?;
    }
}

/// The answer to an order that was carried out, once this node has heard of
/// what it changed: whoever asks here next is not shown what was before. It is
/// done all the same if that takes too long.
async fn seen<E: Env>(conn: &Conn<E>, done: &serde_json::Value) -> Response<respond::Body> {
    let wanted = done["version"].as_u64().unwrap_or(0);
    let mut view = conn.app.view.clone();
    let knows = |view: &Arc<View>| view.status.as_ref().is_some_and(|s| s.membership.version.0 >= wanted);
    if timeout(conn.app.config.limits.wait_timeout, view.wait_for(knows)).await.is_err() {
        tracing::warn!(wanted, "an order was carried out, and this node has not heard of it yet");
    }
    respond::json_now(done)
}

/// Has the core carry an order out; `None` if this node is not the writer
/// after all.
async fn carry_out<E: Env>(conn: &Conn<E>, command: &AdminCommand) -> Result<Option<serde_json::Value>, ApiError> {
    let outcome = match timeout(ORDER_TIME_MAX, conn.app.node.admin(command.clone())).await {
        Err(_) => AdminOutcome::TimedOut,
        Ok(Err(crate::app::Gone)) => return Err(stopping()),
        Ok(Ok(outcome)) => outcome,
    };
    let conflict = |code, text: &str| Err(ApiError::new(409, code, text));
    match outcome {
        AdminOutcome::Done => Ok(Some(json!({ "changed": true, "version": version(conn).await }))),
        AdminOutcome::NothingToDo => {
            let version = version(conn).await;
            Ok(Some(json!({ "changed": false, "message": "it is so already", "version": version })))
        }
        AdminOutcome::NotWriter(_) => Ok(None),
        AdminOutcome::Busy => {
            let text = "another change of the membership or pin is under way; nothing was done";
            Err(ApiError::new(409, "busy", text).retry_after(1))
        }
        AdminOutcome::UnknownMember => {
            let text = format!("there is no member {}; GET /_ha/members names them", about(command));
            Err(ApiError::new(404, "unknown_member", text))
        }
        AdminOutcome::NotEligible => {
            conflict("not_eligible", "that member cannot take the pin: it is behind, silent, a witness or a learner")
        }
        AdminOutcome::LastVoter => conflict("last_voter", "no voter that stores data would be left"),
        AdminOutcome::NoQuorum => conflict(
            "no_quorum",
            "too few voters of the resulting membership answer: mend or remove the silent ones first",
        ),
        AdminOutcome::TimedOut => Err(unknown("it was not done in time")),
    }
}

/// The member that an order is about, as it was named.
fn about(command: &AdminCommand) -> String {
    match command {
        AdminCommand::RemoveMember { member: MemberRef::Id(id) }
        | AdminCommand::SetUrl { id, .. }
        | AdminCommand::Transfer { to: Some(id) } => id.to_string(),
        AdminCommand::RemoveMember { member: MemberRef::Url(url) } => url.to_string(),
        _ => "of that name".to_owned(),
    }
}

/// The version of the membership now; 0 if this node is about to end.
async fn version<E: Env>(conn: &Conn<E>) -> u64 {
    let renewed = conn.app.node.renew().await;
    let view = conn.app.view.borrow().clone();
    renewed.ok().and(view.status.as_ref()).map_or(0, |status| status.membership.version.0)
}

fn unknown(why: &str) -> ApiError {
    let text = format!("{why}: the order may or may not be carried out; see GET /_ha/members");
    ApiError::new(504, "outcome_unknown", text)
}

/// Reads an order.
fn command(route: Route, path: &str, body: &Bytes) -> Result<AdminCommand, ApiError> {
    let order: Order = if body.is_empty() {
        Order::default()
    } else {
        serde_json::from_slice(body).map_err(|error| ApiError::new(400, "bad_json", error.to_string()))?
    };
    let named = || path.strip_prefix("/_ha/members/").and_then(|rest| rest.split('/').next()).unwrap_or("");
    match route {
        Route::Members => Ok(AdminCommand::AddMember { url: url(order.url)?, role: role(order.role.as_deref())? }),
        Route::Member => Ok(AdminCommand::RemoveMember { member: MemberRef::Id(node(named())?) }),
        Route::MemberRemove => match (order.node_id, order.url) {
            (Some(id), None) => Ok(AdminCommand::RemoveMember { member: MemberRef::Id(node(&id)?) }),
            (None, Some(at)) => Ok(AdminCommand::RemoveMember { member: MemberRef::Url(url(Some(at))?) }),
            _ => Err(bad("name the member either by node_id or by url")),
        },
        Route::MemberUrl => Ok(AdminCommand::SetUrl { id: node(named())?, url: url(order.url)? }),
        Route::Transfer => Ok(AdminCommand::Transfer { to: order.to.as_deref().map(node).transpose()? }),
        Route::Stepdown => Ok(AdminCommand::StepDown),
        _ => Err(bad("this is no order")),
    }
}

fn url(text: Option<String>) -> Result<Url, ApiError> {
    let url = Url::new(&text.ok_or_else(|| bad("url is missing"))?);
    authority(&url).map_err(|error| bad(&format!("url is {:?}: {error}", url.as_str())))?;
    Ok(url)
}

fn node(text: &str) -> Result<NodeId, ApiError> {
    NodeId::new(text).map_err(|error| bad(&error.to_string()))
}

fn role(text: Option<&str>) -> Result<Role, ApiError> {
    match text {
        None | Some("voter") => Ok(Role::Voter),
        Some("learner") => Ok(Role::Learner),
        Some("witness") => Ok(Role::Witness),
        Some(other) => Err(bad(&format!("role is {other:?}; it may be voter, learner or witness"))),
    }
}

fn bad(text: &str) -> ApiError {
    ApiError::new(400, "bad_order", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(route: Route, path: &str, body: &str) -> Result<AdminCommand, ApiError> {
        command(route, path, &Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn orders_are_read_whole_or_refused() {
        let add = order(Route::Members, "/_ha/members", r#"{"url":"http://127.0.0.1:9","role":"witness"}"#);
        let expected = AdminCommand::AddMember { url: Url::new("http://127.0.0.1:9"), role: Role::Witness };
        assert_eq!(add.unwrap(), expected);
        let remove = order(Route::Member, "/_ha/members/base-2", "").unwrap();
        let id = NodeId::new("base-2").unwrap();
        assert_eq!(remove, AdminCommand::RemoveMember { member: MemberRef::Id(id.clone()) });
        let transfer = order(Route::Transfer, "/_ha/transfer", r#"{"to":"base-2"}"#).unwrap();
        assert_eq!(transfer, AdminCommand::Transfer { to: Some(id) });
        assert_eq!(order(Route::Transfer, "/_ha/transfer", "").unwrap(), AdminCommand::Transfer { to: None });
        for (route, body) in [
            (Route::Members, "{}"),
            (Route::Members, r#"{"url":"ftp://x:1"}"#),
            (Route::Members, r#"{"url":"http://x:1","role":"king"}"#),
            (Route::Members, r#"{"url":"http://x:1","rôle":"voter"}"#),
            (Route::MemberRemove, "{}"),
            (Route::MemberRemove, r#"{"node_id":"a","url":"http://x:1"}"#),
            (Route::Transfer, r#"{"to":"a b"}"#),
            (Route::Transfer, "["),
        ] {
            assert_eq!(order(route, "/_ha/members", body).unwrap_err().status, 400, "{body}");
        }
    }
}
