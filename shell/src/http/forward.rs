//! Passing a request on to the writer.
//!
//! Decides what goes over the wire and who may claim that a request was passed
//! on. Which node is the writer is `writer`'s business.
//!
//! A passed-on request carries `X-Base-Forwarded: <node>;<term>;<stamp>;<mac>`. The
//! MAC is keyed with the cluster secret and covers the method, the URI, the body,
//! the term, the stamp and the request's id, so that only members can make a
//! request skip a hop or choose its id, and each stamp is taken once (`replay`). Sending one again is harmless: it has the same id.

use super::client::ClientError;
use super::replay::{Admitted, Replay, Stamp};
use super::respond::{Body, REQUEST_ID};
use super::server::Conn;
use super::writer::not_writer;
use crate::api::View;
use crate::config::Secret;
use crate::env::Env;
use crate::error::ApiError;
use base_ha_core::changeset::RequestId;
use base_ha_core::ids::{Term, Url};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

/// Says who passed a request on, and in which term.
pub const FORWARDED: HeaderName = HeaderName::from_static("x-base-forwarded");

/// Headers that concern one connection only (RFC 9110 7.6.1), and `Host`,
/// `Content-Length` and `Expect`, which are made anew.
const HOP_BY_HOP: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::EXPECT,
];

/// How long an answer of a writer that was replaced is still waited for.
const REPLACED_GRACE: Duration = Duration::from_secs(1);

/// Signs and checks what nodes pass on to each other; without keys where there
/// is neither a cluster secret nor mutual TLS, and no one to pass anything on
/// to.
pub struct Keys {
    keys: Vec<[u8; 32]>,
    /// Only a member's certificate makes a signature count.
    mutual: bool,
    /// This process, as its stamps name it; drawn when first needed.
    process: OnceLock<u64>,
    /// The last number given out.
    number: AtomicU64,
    /// What was passed on to this node.
    replay: Mutex<Replay>,
}

/// A request that another node passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The term in which it took this node for the writer.
    pub(crate) term: Term,
    /// The request's id.
    pub(crate) id: RequestId,
}

impl Keys {
    /// The first secret signs, all check. With `mutual` TLS the certificate of
    /// the connection proves the same: it is demanded beside the secret, or
    /// instead of it, when the key is one that everybody knows.
    pub fn new(secrets: &[Secret], mutual: bool) -> Self {
        let key =
            |secret: &str| blake3::derive_key("base-ha 2026-11 request passed on to the writer", secret.as_bytes());
        let mut keys: Vec<_> = secrets.iter().map(|secret| key(secret.expose())).collect();
        if keys.is_empty() && mutual {
            keys.push(key(""));
        }
        Self { keys, mutual, process: OnceLock::new(), number: AtomicU64::new(0), replay: Mutex::default() }
    }

    /// Names what this process passes on next.
    fn stamp<E: Env>(&self, env: &E) -> Stamp {
        let process = *self.process.get_or_init(|| {
            let mut drawn = [0; 8];
            env.entropy(&mut drawn);
            u64::from_le_bytes(drawn)
        });
        Stamp { process, number: self.number.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// The `X-Base-Forwarded` of a request.
    fn sign(&self, node: &str, hop: Hop, stamp: Stamp, head: &Parts, body: &[u8]) -> Option<HeaderValue> {
        let mac = mac(self.keys.first()?, node, hop, stamp, head, body).to_hex();
        HeaderValue::try_from(format!("{node};{};{:x}.{};{mac}", hop.term, stamp.process, stamp.number)).ok()
    }

    /// What `X-Base-Forwarded` says, if a member said it.
    fn check(&self, head: &Parts, body: &[u8]) -> Option<(Hop, Stamp)> {
        let text = head.headers.get(FORWARDED)?.to_str().ok()?;
        let mut parts = text.splitn(4, ';');
        let (node, term, stamp, shown) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let (process, number) = stamp.split_once('.')?;
        let stamp = Stamp { process: u64::from_str_radix(process, 16).ok()?, number: number.parse().ok()? };
        let shown = blake3::Hash::from_hex(shown).ok()?;
        let id = head.headers.get(REQUEST_ID)?.to_str().ok()?;
        let hop = Hop { term: Term(term.parse().ok()?), id: parse_id(id)? };
        let made =
            |key: &[u8; 32]| bool::from(mac(key, node, hop, stamp, head, body).as_bytes().ct_eq(shown.as_bytes()));
        self.keys.iter().any(made).then_some((hop, stamp))
    }
}

/// Every part is preceded by its length: no two requests hash alike.
fn mac(key: &[u8; 32], node: &str, hop: Hop, stamp: Stamp, head: &Parts, body: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    let uri = head.uri.path_and_query().map_or("", |uri| uri.as_str());
    for part in [node.as_bytes(), head.method.as_str().as_bytes(), uri.as_bytes(), body] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    for number in [hop.term.0, stamp.process, stamp.number] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&hop.id.0.to_le_bytes());
    hasher.finalize()
}

/// Finds out whether a request was passed on by a member, for the first time.
///
/// # Errors
/// 403 if it claims so and no member signed it, or it has come before; 421 if
/// it is of a term that is over.
pub(crate) fn check<E: Env>(conn: &Conn<E>, head: &Parts, body: &[u8]) -> Result<Option<Hop>, ApiError> {
    if !head.headers.contains_key(FORWARDED) {
        return Ok(None);
    }
    let keys = &conn.app.http.forward;
    match keys.check(head, body) {
        Some((hop, stamp)) if !keys.mutual || conn.is_member() => {
            // Nothing that holds this lock can leave the window half moved.
            let admitted = keys.replay.lock().unwrap_or_else(PoisonError::into_inner).admit(hop.term, stamp);
            match admitted {
                Admitted::First => Ok(Some(hop)),
                Admitted::Over => Err(not_writer(&conn.app.view.borrow())),
                Admitted::Seen => {
                    let text = "this passed-on request has come before: somebody sent it again";
                    Err(ApiError::new(403, "replayed_forward", text))
                }
            }
        }
        _ => Err(ApiError::new(403, "forged_forward", "X-Base-Forwarded was not signed by a member")),
    }
}

/// Sends a request to the writer of `term` at `to` and waits at most `limit`
/// for the answer's head.
pub(crate) async fn pass<E: Env>(
    conn: &Conn<E>,
    to: &Url,
    hop: Hop,
    head: &Parts,
    body: &Bytes,
    limit: Duration,
) -> Result<Response<Incoming>, ClientError> {
    let app = &conn.app;
    let unsent = |reason: &str| ClientError { sent: false, reason: reason.to_owned() };
    let stamp = app.http.forward.stamp(&app.env);
    let signed = app.http.forward.sign(app.config.core.id.as_str(), hop, stamp, head, body);
    let signed =
        signed.ok_or_else(|| unsent("there is neither a cluster secret nor mutual TLS to pass a request on with"))?;
    let uri = head.uri.path_and_query().map_or("/", |uri| uri.as_str());
    let mut request = Request::builder().method(head.method.clone()).uri(uri);
    if let Some(headers) = request.headers_mut() {
        *headers = end_to_end(&head.headers);
        // Checked here, where the browser sent them; the writer has another
        // address.
        headers.remove(header::ORIGIN);
        headers.remove("sec-fetch-site");
        headers.insert(FORWARDED, signed);
        headers.insert(REQUEST_ID, id_value(hop.id));
    }
    let request = request.body(Full::new(body.clone())).map_err(|bad| unsent(&bad.to_string()))?;
    app.stats.http.forwarded.add(1);
    let late = |reason: String| ClientError { sent: true, reason };
    tokio::select! {
        biased;
        result = app.http.client.request(to, request) => result,
        () = tokio::time::sleep(limit) => Err(late(format!("no answer within {limit:?}"))),
        () = replaced(app.view.clone(), hop.term) => {
            Err(late(format!("it no longer writes, and did not answer within {REPLACED_GRACE:?} of that")))
        }
    }
}

/// Ends a while after another node has become the writer. A frozen machine
/// closes no connection: without this, whoever asked it would wait for all of
/// the limit while the cluster has long gone on.
async fn replaced(mut view: watch::Receiver<Arc<View>>, term: Term) {
    if view.wait_for(|view| view.pin.term > term && view.pin.writer.is_some()).await.is_err() {
        // This node's loop has ended; it learns nothing more.
        std::future::pending::<()>().await;
    }
    // What the old one has committed may still be on its way.
    tokio::time::sleep(REPLACED_GRACE).await;
}

/// The writer's answer, as this node gives it to the client.
pub(crate) fn answer(response: Response<Incoming>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    head.headers = end_to_end(&head.headers);
    Response::from_parts(head, Body::passed(body))
}

/// 307 to the same URI at the writer.
pub(crate) fn redirect(to: &Url, head: &Parts) -> Response<Body> {
    let uri = head.uri.path_and_query().map_or("/", |uri| uri.as_str());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(location) = HeaderValue::try_from(format!("{to}{uri}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The headers that concern more than one connection.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for value in headers.get_all(header::CONNECTION) {
        for name in value.to_str().unwrap_or("").split(',') {
            kept.remove(name.trim());
        }
    }
    for name in HOP_BY_HOP {
        kept.remove(name);
    }
    kept.remove(FORWARDED);
    kept
}

/// A request's id as a header.
pub(crate) fn id_value(id: RequestId) -> HeaderValue {
    super::respond::value(&format!("{:032x}", id.0))
}

fn parse_id(text: &str) -> Option<RequestId> {
    if text.len() != 32 {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(RequestId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str) -> Parts {
        Request::post(uri).body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_a_member_can_say_that_a_request_was_passed_on() {
        let keys = Keys::new(&[Secret::new("new"), Secret::new("old")], false);
        let hop = Hop { term: Term(3), id: RequestId(7) };
        let stamp = Stamp { process: 0xfeed, number: 12 };
        let said = Some((hop, stamp));
        let mut request = head("/query?a=b");
        request.headers.insert(REQUEST_ID, id_value(hop.id));
        request.headers.insert(FORWARDED, keys.sign("base-1", hop, stamp, &request, b"body").unwrap());
        assert_eq!(keys.check(&request, b"body"), said);
        assert_eq!(keys.check(&request, b"other"), None);
        assert_eq!(Keys::new(&[Secret::new("wrong")], false).check(&request, b"body"), None);
        assert_eq!(Keys::new(&[], false).check(&request, b"body"), None);
        assert_eq!(Keys::new(&[], true).check(&request, b"body"), None);

        let mut other = request.clone();
        other.uri = "/query?a=c".parse().unwrap();
        assert_eq!(keys.check(&other, b"body"), None);
        let mut other = request.clone();
        other.headers.insert(REQUEST_ID, id_value(RequestId(8)));
        assert_eq!(keys.check(&other, b"body"), None);
        let mut other = request.clone();
        for (from, to) in [(";3;", ";4;"), (".12;", ".13;"), (";feed.", ";feee.")] {
            let text = request.headers[FORWARDED].to_str().unwrap().replacen(from, to, 1);
            other.headers.insert(FORWARDED, text.parse().unwrap());
            assert_eq!(keys.check(&other, b"body"), None, "{text}");
        }

        let old = Keys::new(&[Secret::new("old")], false);
        request.headers.insert(FORWARDED, old.sign("base-1", hop, stamp, &request, b"body").unwrap());
        assert_eq!(keys.check(&request, b"body"), said);
    }

    #[test]
    fn headers_of_one_connection_are_not_passed_on() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close, X-Private"));
        headers.insert("x-private", HeaderValue::from_static("1"));
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        headers.insert(FORWARDED, HeaderValue::from_static("base-9;1;00"));
        headers.insert("x-base-ack", HeaderValue::from_static("all"));
        let kept = end_to_end(&headers);
        assert_eq!(kept.len(), 1);
        assert!(kept.contains_key("x-base-ack"));
    }
}
