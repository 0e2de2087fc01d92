//! Who is let in.
//!
//! Decides on credentials (DESIGN 7) and on requests that a web page of
//! another origin made a browser send. What peers show each other is checked
//! by the peer endpoint.

use super::client::authority;
use super::server::Conn;
use crate::env::Env;
use crate::error::ApiError;
use base_ha_core::ids::Url;
use hyper::Request;
use hyper::header::{self, HeaderName, HeaderValue};
use std::net::{IpAddr, Ipv4Addr};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a route asks of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Health: says nothing that is worth protecting, and is asked under
    /// whatever name a supervisor knows.
    Nothing,
    /// Open, but not to pages of other origins.
    NoForeigner,
    /// As above, and the clients' token if one is set.
    Token,
    /// The peer endpoint checks it.
    PeerProof,
}

/// Lets a request in, or says why not.
///
/// # Errors
/// 400 without a host, 401 without the token, 403 from a foreign page.
pub(crate) fn check<E: Env, B>(conn: &Conn<E>, needs: Needs, request: &Request<B>) -> Result<(), ApiError> {
    let stats = &conn.app.stats.http;
    if needs != Needs::Nothing && needs != Needs::PeerProof {
        foreigner(conn, request).inspect_err(|_| stats.foreign.add(1))?;
    }
    if needs == Needs::Token {
        token(conn, request).inspect_err(|_| stats.unauthorized.add(1))?;
    }
    Ok(())
}

fn token<E: Env, B>(conn: &Conn<E>, request: &Request<B>) -> Result<(), ApiError> {
    let Some(wanted) = &conn.app.http.bearer else { return Ok(()) };
    let refused = |text: &str| Err(ApiError::new(401, "unauthorized", text));
    let Some(shown) = request.headers().get(header::AUTHORIZATION) else {
        return refused("send Authorization: Bearer <BASE_TOKEN>");
    };
    let shown = shown.as_bytes();
    let shown = match shown.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
        _ => shown,
    };
    // blake3::Hash compares in constant time.
    if blake3::hash(shown) == *wanted { Ok(()) } else { refused("the token is not this cluster's") }
}

fn foreigner<E: Env, B>(conn: &Conn<E>, request: &Request<B>) -> Result<(), ApiError> {
    let headers = request.headers();
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(ApiError::new(400, "bad_host", "more than one Host header"));
    }
    let host = match (request.uri().authority(), headers.get(header::HOST)) {
        // What an absolute request line names is what counts (RFC 9112 3.2.2).
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).ok(),
        (None, host) => host.cloned(),
    };
    let Some(host) = host else {
        return Err(ApiError::new(400, "bad_host", "the request names no host"));
    };
    let known = conn.cache().host.as_ref() == Some(&host);
    if !known {
        let text = host.to_str().unwrap_or("");
        if !is_ours(conn, text) {
            let text = format!("{text:?} is neither loopback, nor a member's address, nor in BASE_ALLOWED_HOSTS");
            return Err(ApiError::new(403, "foreign_host", text));
        }
        conn.cache().host = Some(host.clone());
    }
    if headers.get(SEC_FETCH_SITE).is_some_and(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site")) {
        return Err(ApiError::new(403, "foreign_origin", "a page of another site sent this"));
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("");
        let from = origin.split_once("://").map(|(_, authority)| authority);
        let same = from.is_some_and(|from| from.as_bytes().eq_ignore_ascii_case(host.as_bytes()));
        if !same && !is_member(conn, origin) {
            let text = format!("a page of {origin:?} sent this, which is not served here");
            return Err(ApiError::new(403, "foreign_origin", text));
        }
    }
    Ok(())
}

/// Whether a `Host` is this node or cluster: loopback, a member's address, this
/// node's own, or one that the settings allow. A name that isn't, is how a page reaches a loopback node by
/// rebinding its own name's address.
fn is_ours<E: Env>(conn: &Conn<E>, host: &str) -> bool {
    let name = without_port(host);
    let config = &conn.app.config;
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    if name.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    // A node that listens on every address doesn't know them all; one that is
    // asked for by number wasn't reached by way of a rebound name.
    let everywhere = matches!(without_port(&config.http), "0.0.0.0" | "[::]" | "");
    if everywhere && address.is_some_and(|address| address != IpAddr::V4(Ipv4Addr::UNSPECIFIED)) {
        return true;
    }
    let allowed = |other: &String| other.eq_ignore_ascii_case(host) || other.eq_ignore_ascii_case(name);
    if config.allowed_hosts.iter().any(allowed) {
        return true;
    }
    let same = |other: &str| host.eq_ignore_ascii_case(other) || name.eq_ignore_ascii_case(without_port(other));
    let view = conn.app.view.borrow().clone();
    let members = view.status.iter().flat_map(|status| status.membership.members.iter().map(|member| &member.url));
    same(&config.http)
        || std::iter::once(&config.core.url)
            .chain(&config.core.seats)
            .chain(members)
            .any(|url| authority(url).is_ok_and(same))
}

/// Whether an `Origin` is exactly a member's URL.
fn is_member<E: Env>(conn: &Conn<E>, origin: &str) -> bool {
    let view = conn.app.view.borrow().clone();
    let is = |url: &Url| url.as_str().eq_ignore_ascii_case(origin);
    is(&conn.app.config.core.url)
        || view.status.as_ref().is_some_and(|status| status.membership.members.iter().any(|member| is(&member.url)))
}

/// The host of `host:port` or `host`; an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_no_part_of_the_host() {
        assert_eq!(without_port("a:80"), "a");
        assert_eq!(without_port("a"), "a");
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
    }
}
