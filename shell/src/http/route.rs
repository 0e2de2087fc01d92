//! Which handler a request belongs to.
//!
//! Decides paths and methods. What a handler does with the request is its own
//! business.

use super::guard::{self, Needs};
use super::respond::{self, Answer, Body};
use super::server::Conn;
use super::{admin, conflicts, copies, feed, ha, health, query};
use crate::env::Env;
use crate::error::ApiError;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;

/// A path, for counting and deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Route {
    /// `/`: SQL, and a page for people.
    Root,
    /// `/query`.
    Query,
    /// `/download`.
    Download,
    /// `/snapshot`.
    Copies,
    /// `/databases`.
    Databases,
    /// `/databases/{id}`, and what the original has below it.
    Database,
    /// `/healthz`.
    Healthz,
    /// `/readyz`.
    Readyz,
    /// `/metrics`.
    Metrics,
    /// `/_ha/leader`.
    Leader,
    /// `/_ha/peers`.
    Peers,
    /// `/_ha/heartbeat`.
    Heartbeat,
    /// `/_ha/replicate` and below: of the original, not served.
    Replicate,
    /// `/_ha/peer`.
    Peer,
    /// `/_ha/snapshot`.
    Snapshot,
    /// `/_ha/status`.
    Status,
    /// `/_ha/changes`.
    Changes,
    /// `/_ha/conflicts`.
    Conflicts,
    /// `/_ha/conflicts/{id}/dismiss`.
    Conflict,
    /// `/_ha/members`.
    Members,
    /// `/_ha/members/remove`.
    MemberRemove,
    /// `/_ha/members/{id}`.
    Member,
    /// `/_ha/members/{id}/url`.
    MemberUrl,
    /// `/_ha/transfer`.
    Transfer,
    /// `/_ha/stepdown`.
    Stepdown,
    /// Anything else.
    Unknown,
}

impl Route {
    /// All of them, in order.
    pub const ALL: [Self; 26] = [
        Self::Root,
        Self::Query,
        Self::Download,
        Self::Copies,
        Self::Databases,
        Self::Database,
        Self::Healthz,
        Self::Readyz,
        Self::Metrics,
        Self::Leader,
        Self::Peers,
        Self::Heartbeat,
        Self::Replicate,
        Self::Peer,
        Self::Snapshot,
        Self::Status,
        Self::Changes,
        Self::Conflicts,
        Self::Conflict,
        Self::Members,
        Self::MemberRemove,
        Self::Member,
        Self::MemberUrl,
        Self::Transfer,
        Self::Stepdown,
        Self::Unknown,
    ];

    /// The route of a path. `{id}` is a single part.
    pub fn of(path: &str) -> Self {
        match path {
            "/" => Self::Root,
            "/query" => Self::Query,
            "/download" => Self::Download,
            "/snapshot" => Self::Copies,
            "/databases" => Self::Databases,
            _ if path.starts_with("/databases/") => Self::Database,
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            _ => match path.strip_prefix("/_ha/") {
                Some("leader") => Self::Leader,
                Some("peers") => Self::Peers,
                Some("heartbeat") => Self::Heartbeat,
                Some("replicate" | "replicate/log") => Self::Replicate,
                Some("peer") => Self::Peer,
                Some("snapshot") => Self::Snapshot,
                Some("status") => Self::Status,
                Some("changes") => Self::Changes,
                Some("conflicts") => Self::Conflicts,
                Some(rest) if rest.starts_with("conflicts/") => Self::Conflict,
                Some("members") => Self::Members,
                Some("members/remove") => Self::MemberRemove,
                Some("transfer") => Self::Transfer,
                Some("stepdown") => Self::Stepdown,
                Some(rest) => match rest.strip_prefix("members/").map(|rest| rest.split_once('/')) {
                    Some(None) => Self::Member,
                    Some(Some((_, "url"))) => Self::MemberUrl,
                    _ => Self::Unknown,
                },
                None => Self::Unknown,
            },
        }
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Query => "query",
            Self::Download => "download",
            Self::Copies => "copies",
            Self::Databases => "databases",
            Self::Database => "database",
            Self::Healthz => "healthz",
            Self::Readyz => "readyz",
            Self::Metrics => "metrics",
            Self::Leader => "leader",
            Self::Peers => "peers",
            Self::Heartbeat => "heartbeat",
            Self::Replicate => "replicate",
            Self::Peer => "peer",
            Self::Snapshot => "snapshot",
            Self::Status => "status",
            Self::Changes => "changes",
            Self::Conflicts => "conflicts",
            Self::Conflict => "conflict",
            Self::Members => "members",
            Self::MemberRemove => "member_remove",
            Self::Member => "member",
            Self::MemberUrl => "member_url",
            Self::Transfer => "transfer",
            Self::Stepdown => "stepdown",
            Self::Unknown => "unknown",
        }
    }

    /// The methods it answers, for `Allow`.
    pub fn allow(self) -> &'static str {
        match self {
            Self::Root => "GET, HEAD, POST, OPTIONS",
            Self::Query
            | Self::Conflict
            | Self::Heartbeat
            | Self::MemberUrl
            | Self::MemberRemove
            | Self::Transfer
            | Self::Stepdown => "POST, OPTIONS",
            Self::Download | Self::Peer | Self::Changes | Self::Conflicts => "GET, OPTIONS",
            Self::Healthz | Self::Readyz | Self::Metrics | Self::Leader | Self::Peers | Self::Status => {
                "GET, HEAD, OPTIONS"
            }
            Self::Replicate | Self::Snapshot | Self::Members | Self::Copies | Self::Databases => "GET, POST, OPTIONS",
            Self::Database => "GET, POST, DELETE, OPTIONS",
            Self::Member => "DELETE, OPTIONS",
            Self::Unknown => "OPTIONS",
        }
    }

    /// What a client must show to be let in.
    pub(crate) fn needs(self, method: &Method) -> Needs {
        match self {
            Self::Healthz | Self::Readyz => Needs::Nothing,
            Self::Leader => Needs::NoForeigner,
            Self::Peer => Needs::PeerProof,
            Self::Snapshot if method == Method::GET => Needs::PeerProof,
            _ => Needs::Token,
        }
    }
}

/// Answers one request. It can't fail: an error is an answer too.
pub(crate) async fn handle<E: Env>(
    conn: Arc<Conn<E>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let app = &conn.app;
    let begun = app.env.now().mono;
    let route = Route::of(request.uri().path());
    conn.meter.begin();
    let mut response = match dispatch(&conn, route, request).await {
        Ok(response) => response,
        Err(error) => {
            let mut response = respond::error(&error);
            if error.status == 405 {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(route.allow()));
            }
            response
        }
    };
    conn.name_leader(&mut response);
    conn.announce_end(&mut response);
    if response.status() == StatusCode::GATEWAY_TIMEOUT {
        app.stats.http.unknown.add(1);
    }
    let took = app.env.now().mono.since(begun);
    app.stats.http.answered(route, response.status().as_u16(), took);
    conn.meter.end();
    Ok(response)
}

async fn dispatch<E: Env>(conn: &Conn<E>, route: Route, mut request: Request<Incoming>) -> Answer {
    let method = request.method().clone();
    conn.admit(route)?;
    guard::check(conn, route.needs(&method), &request)?;
    if method == Method::OPTIONS {
        return Ok(options(route));
    }
    if matches!(route, Route::Peer | Route::Snapshot) {
        request.extensions_mut().insert(conn.shown.clone());
    }
    let reads = method == Method::GET || method == Method::HEAD;
    match (route, &method) {
        (Route::Root | Route::Query, &Method::POST) => query::answer(conn, request).await,
        (Route::Root, _) if reads => copies::root(conn, &request).await,
        (Route::Download, &Method::GET) => copies::download(conn, &request).await,
        (Route::Copies, &Method::GET) => copies::newest(conn).await,
        (Route::Copies, &Method::POST) => copies::snapshot(conn).await,
        (Route::Databases, &Method::GET) => Ok(respond::json_now(&json!({ "databases": [DATABASE] }))),
        (Route::Databases, &Method::POST) => Err(one_database()),
        (Route::Database, _) => database(conn, request).await,
        (Route::Healthz, _) if reads => Ok(health::alive()),
        (Route::Readyz, _) if reads => Ok(health::ready(conn).await),
        (Route::Metrics, _) if reads => health::metrics(conn),
        (Route::Leader, _) if reads => Ok(ha::leader(conn).await),
        (Route::Peers, _) if reads => Ok(ha::peers(conn)),
        (Route::Heartbeat, &Method::POST) => ha::heartbeat(conn, request).await,
        (Route::Replicate, &Method::GET | &Method::POST) => Err(ha::not_supported()),
        (Route::Status, _) if reads => Ok(ha::status(conn).await),
        (Route::Changes, &Method::GET) => feed::answer(conn, &request).await,
        (Route::Conflicts, &Method::GET) => conflicts::list(conn, request.uri().query()).await,
        (Route::Conflict, _) => conflicts::order(conn, request.uri().path(), &method).await,
        (Route::Members, &Method::GET) => Ok(ha::members(conn)),
        (Route::Peer, &Method::GET) => Ok(conn.app.peer.peer(request).await),
        (Route::Snapshot, &Method::GET) => Ok(conn.app.peer.snapshot(request).await),
        (Route::Snapshot, &Method::POST) => copies::snapshot(conn).await,
        (Route::Members, &Method::POST)
        | (Route::Member, &Method::DELETE)
        | (Route::MemberRemove | Route::MemberUrl | Route::Transfer | Route::Stepdown, &Method::POST) => {
            admin::answer(conn, route, request).await
        }
        (Route::Unknown, _) => {
            let text = format!("there is nothing at {}", request.uri().path());
            Err(ApiError::new(404, "not_found", text))
        }
        _ => {
            let text = format!("{method} is not possible here, only {}", route.allow());
            Err(ApiError::new(405, "method_not_allowed", text))
        }
    }
}

/// The one database, under the name by which the original would list it.
const DATABASE: &str = "data.db";

/// `/databases/{id}` and below (CONTRACTS 2): the one database under its name.
async fn database<E: Env>(conn: &Conn<E>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().strip_prefix("/databases/").unwrap_or_default();
    let (id, below) = path.split_once('/').map_or((path, None), |(id, below)| (id, Some(below)));
    if id != DATABASE {
        return Err(ApiError::new(
            404,
            "unknown_database",
            format!("there is one database, {DATABASE}, and not {id:?}"),
        ));
    }
    match (below, request.method()) {
        (None, &Method::POST) => query::answer(conn, request).await,
        (None, &Method::GET) => copies::download(conn, &request).await,
        (None, &Method::DELETE) => Err(one_database()),
        (Some("snapshot"), &Method::GET) => copies::newest(conn).await,
        (Some("snapshot"), &Method::POST) => copies::snapshot(conn).await,
        (None | Some("snapshot"), method) => {
            let text = format!("{method} is not possible here, only {}", Route::Database.allow());
            Err(ApiError::new(405, "method_not_allowed", text))
        }
        (Some(below), _) => {
            let text = format!("{below:?} of a database is not served by this version");
            Err(ApiError::new(501, "not_supported", text))
        }
    }
}

fn one_database() -> ApiError {
    ApiError::new(501, "not_supported", "a cluster has one database: it can be neither added to nor removed")
}

/// No cross-origin headers: pages of other origins are not let in.
fn options(route: Route) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(route.allow()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_in_order_and_named_apart() {
        for (at, route) in Route::ALL.iter().enumerate() {
            assert_eq!(*route as usize, at);
        }
        let names: std::collections::BTreeSet<_> = Route::ALL.iter().map(|route| route.name()).collect();
        assert_eq!(names.len(), Route::ALL.len());
    }

    #[test]
    fn paths_are_matched_whole() {
        assert_eq!(Route::of("/_ha/members/base-1"), Route::Member);
        assert_eq!(Route::of("/_ha/members/base-1/url"), Route::MemberUrl);
        assert_eq!(Route::of("/_ha/members/base-1/url/x"), Route::Unknown);
        assert_eq!(Route::of("/_ha/members/remove"), Route::MemberRemove);
        assert_eq!(Route::of("/databases"), Route::Databases);
        assert_eq!(Route::of("/databases/data.db/snapshot"), Route::Database);
        assert_eq!(Route::of("/databasesx"), Route::Unknown);
        assert_eq!(Route::of("/_ha/leaderx"), Route::Unknown);
        assert_eq!(Route::of("/_ha"), Route::Unknown);
        assert_eq!(Route::of("/query/"), Route::Unknown);
        assert_eq!(Route::of(""), Route::Unknown);
    }
}
