//! Sessions: what a client has seen, and what it is given to show next time.
//!
//! Decides what a presented token asks for, and which token an answer carries:
//! never a lower one than was presented.

use super::respond::TXSEQ;
use super::server::Conn;
use crate::api::View;
use crate::env::Env;
use crate::error::ApiError;
use crate::token::Presented;
use base_ha_core::ids::{ClusterId, Lineage, Seq, StreamId, Term};
use base_ha_core::position::Positions;
use base_ha_core::token::Token;
use hyper::HeaderMap;
use hyper::header::{self, HeaderValue};
use serde_json::json;

/// The cookie's name (CONTRACTS 1).
const COOKIE: &str = "_txseq";

/// What takes the cookie back.
pub(super) const NO_COOKIE: &str = "_txseq=; Path=/; Max-Age=0";

/// What a session has seen, checked against the cluster as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Session {
    /// Reads must contain at least this.
    pub(crate) at_least: Seq,
    /// The term of that entry, if the token says; and that it proves it.
    sealed: Option<Term>,
}

/// A token's headers, made once for all answers at one position.
pub(crate) struct TokenCache {
    cluster: ClusterId,
    lineage: Lineage,
    term: Term,
    seq: Seq,
    header: HeaderValue,
    cookie: HeaderValue,
}

impl Session {
    /// Reads the header, or else the cookie: the header is the more deliberate,
    /// and browsers send a cookie to every port of a host.
    ///
    /// # Errors
    /// 400 `bad_token`; 409 `token_other_lineage` if it is of another cluster
    /// or history, where its position names something else.
    pub(crate) fn read<E: Env>(conn: &Conn<E>, headers: &HeaderMap, view: &View) -> Result<Self, ApiError> {
        let bad = |text: &str| ApiError::new(400, "bad_token", text);
        let text = match headers.get(TXSEQ) {
            Some(value) => Some(value.to_str().map_err(|_| bad("the session token is not text"))?),
            None => cookie(headers),
        };
        text.map_or(Ok(Self::default()), |text| Self::of(conn, text, view))
    }

    /// Reads a token, or a bare position.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub(crate) fn of<E: Env>(conn: &Conn<E>, text: &str, view: &View) -> Result<Self, ApiError> {
        let bad = |text: &str| ApiError::new(400, "bad_token", text);
        let token = match conn.app.http.tokens.open(text).map_err(|reason| bad(&reason.to_string()))? {
            Presented::Bare(seq) => return Ok(Self { at_least: seq, sealed: None }),
            Presented::Sealed(token) => token,
        };
        let Some(status) = &view.status else {
            return Err(starting());
        };
        let (cluster, lineage) = (status.membership.cluster, status.membership.lineage);
        // Of a cluster whose first entry was never committed a node knows the
        // membership and is no member: another may have been founded since (seed
        // 520000700 of the simulated nodes).
        let unborn = status.cluster == ClusterId::NONE || cluster == ClusterId::NONE;
        if unborn || token.lineage > lineage && token.cluster == cluster {
            // Behind the token's maker: this node will learn of it.
            return Err(starting());
        }
        if token.cluster != cluster || token.lineage != lineage {
            let text = "the session token is of another history of this data, where its position meant something \
                        else: start a new session";
            return Err(ApiError::new(409, "token_other_lineage", text).with_data(json!({
                "cluster": cluster.to_string(),
                "lineage": lineage.0,
            })));
        }
        let at_least = token.positions.get(&status.stream).copied().unwrap_or_default();
        Ok(Self { at_least, sealed: Some(token.term) })
    }

    /// The entry that a sealed token proves to have been seen, and its term.
    pub(crate) fn seen(&self) -> Option<(Seq, Term)> {
        self.sealed.map(|term| (self.at_least, term))
    }

    /// Whether this node, being the writer, knows that what the session has
    /// seen was given up: everything of older terms that was kept is applied
    /// here, and this is not.
    pub(crate) fn is_given_up(&self, view: &View, applied: Seq) -> bool {
        view.pin.writable && self.seen().is_some_and(|(seq, term)| term < view.pin.term && seq > applied)
    }

    /// Adds the token of `seq` in `term` to an answer, or of what was presented
    /// if that is later (a `local` read may be behind its session).
    pub(crate) fn seal<E: Env>(&self, conn: &Conn<E>, view: &View, seq: Seq, term: Term, headers: &mut HeaderMap) {
        let Some(status) = &view.status else { return };
        let (cluster, lineage) = (status.membership.cluster, status.membership.lineage);
        if cluster == ClusterId::NONE {
            return;
        }
        // A bare number proves nothing; sealing it would make it proof.
        let (seq, term) = match self.sealed {
            Some(sealed) if self.at_least > seq => (self.at_least, sealed),
            _ => (seq, term),
        };
        let mut cache = conn.cache();
        let same = |made: &TokenCache| {
            made.seq == seq && made.term == term && made.cluster == cluster && made.lineage == lineage
        };
        if !cache.token.as_ref().is_some_and(same) {
            cache.token = TokenCache::make(conn, cluster, lineage, term, seq, status.stream);
        }
        if let Some(made) = &cache.token {
            headers.insert(TXSEQ, made.header.clone());
            headers.insert(header::SET_COOKIE, made.cookie.clone());
        }
    }
}

impl TokenCache {
    fn make<E: Env>(
        conn: &Conn<E>,
        cluster: ClusterId,
        lineage: Lineage,
        term: Term,
        seq: Seq,
        stream: StreamId,
    ) -> Option<Self> {
        let positions: Positions = [(stream, seq)].into();
        let token = Token { cluster, lineage, term, positions };
        // One stream always fits.
        let text = conn.app.http.tokens.seal(&token).ok()?;
        let secure = if conn.app.config.tls.is_some() { "; Secure" } else { "" };
        let cookie = format!("{COOKIE}={text}; Path=/; Max-Age=300; HttpOnly; SameSite=Lax{secure}");
        let (header, cookie) = (HeaderValue::try_from(text).ok()?, HeaderValue::try_from(cookie).ok()?);
        Some(Self { cluster, lineage, term, seq, header, cookie })
    }
}

/// The value of the cookie `_txseq`.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    pairs.flat_map(|value| value.split(';')).find_map(|pair| match pair.trim().split_once('=') {
        Some((COOKIE, value)) => Some(value.trim_matches('"')),
        _ => None,
    })
}

/// 409: the session has seen an entry that was given up with its writer, before
/// a majority had it (`X-Base-Ack: local`). Nothing is newer than that, only
/// different.
pub(crate) fn forked(session: &Session) -> ApiError {
    let at = session.at_least;
    let text = format!(
        "the session has seen a write, at position {at}, that was lost with its writer: what the data holds there now is \
         another one. Look at what is there, and start a new session"
    );
    ApiError::new(409, "session_forked", text).with_data(json!({ "position": at.0 }))
}

/// This node doesn't know its cluster yet.
pub(crate) fn starting() -> ApiError {
    ApiError::new(503, "starting", "this node has not heard from its cluster yet").retry_after(1)
}
