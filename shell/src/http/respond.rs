//! Answers: their bodies, headers and errors.
//!
//! Decides how an [`ApiError`] looks on the wire and which headers every
//! answer of a kind has. Knows nothing of what led to the answer.

use super::session::NO_COOKIE;
use crate::error::ApiError;
use base_ha_core::time::WallTime;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

/// The writer's URL, on every answer once it is known.
pub const LEADER: HeaderName = HeaderName::from_static("x-base-leader");
/// The term in which it writes.
pub const TERM: HeaderName = HeaderName::from_static("x-base-term");
/// The session's token: the value of the cookie `_txseq`.
pub const TXSEQ: HeaderName = HeaderName::from_static("x-base-txseq");
/// How old what was read may be, in milliseconds.
pub const STALENESS: HeaderName = HeaderName::from_static("x-base-staleness-ms");
/// Names a write for good: to be sent as `Idempotency-Key` when its outcome is
/// unknown.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-base-request-id");
/// The answer is that of an earlier request with the same key.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Headers of an answer to SQL.
const HEADERS: usize = 8;

/// How long another node may pause in the middle of an answer that is passed
/// on, before the client is cut off instead of left hanging (G15).
const STALL_MAX: Duration = Duration::from_secs(30);

/// An answer, or the error that becomes one.
pub(crate) type Answer = Result<Response<Body>, ApiError>;

/// An answer's body.
pub enum Body {
    /// Held in memory; `None` once sent, or empty.
    Whole(Option<Bytes>),
    /// Another node's, passed on as it comes in.
    Passed(Box<Passed>),
    /// Made piece by piece; an error cuts the connection, so that a client
    /// never takes a truncated answer for a whole one.
    Pieces(mpsc::Receiver<io::Result<Bytes>>),
}

/// Another node's body, with a bound on how long it may pause.
pub struct Passed {
    body: Incoming,
    stall: Pin<Box<Sleep>>,
}

impl Body {
    /// Nothing.
    pub fn empty() -> Self {
        Self::Whole(None)
    }

    /// These bytes.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }

    /// Another node's answer.
    pub fn passed(body: Incoming) -> Self {
        Self::Passed(Box::new(Passed { body, stall: Box::pin(sleep(STALL_MAX)) }))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => write!(f, "Whole({})", bytes.as_ref().map_or(0, Bytes::len)),
            Self::Passed(_) => f.write_str("Passed"),
            Self::Pieces(_) => f.write_str("Pieces"),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Passed(passed) => match Pin::new(&mut passed.body).poll_frame(cx) {
                Poll::Ready(frame) => {
                    let next = Instant::now() + STALL_MAX;
                    passed.stall.as_mut().reset(next);
                    Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
                }
                Poll::Pending => {
                    ready!(passed.stall.as_mut().poll(cx));
                    Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
                }
            },
            Self::Pieces(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Passed(passed) => passed.body.is_end_stream(),
            Self::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Passed(passed) => passed.body.size_hint(),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// 200 with a JSON body.
pub(crate) fn json(body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    // All that an answer to SQL has, at once: the table would grow twice.
    response.headers_mut().reserve(HEADERS);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// 200 with a JSON value that no cache may keep: state of this moment.
pub(crate) fn json_now(value: &serde_json::Value) -> Response<Body> {
    let mut response = json(value.to_string());
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response
}

/// 200 with a text.
pub(crate) fn text(body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response
}

/// An error as JSON, with the headers that its status asks for.
pub(crate) fn error(error: &ApiError) -> Response<Body> {
    let body = serde_json::to_vec(error).unwrap_or_else(|_| br#"{"code":"internal"}"#.to_vec());
    let mut response = json(body);
    *response.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    if let Some(seconds) = error.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    // Browsers send a cookie to every port of a host, and go on with it: one
    // that this cluster can't use would lock them out until it expires.
    if matches!(error.code, "bad_token" | "token_other_lineage" | "session_forked") {
        headers.insert(header::SET_COOKIE, HeaderValue::from_static(NO_COOKIE));
    }
    if error.status == 401 {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"base-ha\""));
    }
    response
}

/// A header value from text that this program made; empty if it is no header
/// value after all.
pub(crate) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A moment's parts in UTC, by the proleptic Gregorian calendar.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    second: u64,
    milli: u64,
}

impl Civil {
    /// Days are counted from 0000-03-01, so that the leap day is a year's last.
    fn of(at: WallTime) -> Self {
        let (seconds, milli) = (at.0 / 1000, at.0 % 1000);
        let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Self { year, month, day, second, milli }
    }

    fn clock(&self) -> (u64, u64, u64) {
        (self.second / 3600, self.second / 60 % 60, self.second % 60)
    }
}

/// A moment as RFC 3339 with milliseconds.
pub(crate) fn rfc3339(at: WallTime) -> String {
    let civil = Civil::of(at);
    let (h, m, s) = civil.clock();
    format!("{:04}-{:02}-{:02}T{h:02}:{m:02}:{s:02}.{:03}Z", civil.year, civil.month, civil.day, civil.milli)
}

/// A moment as `YYYY-MM-DD HH:MM:SS`, for the names of copies (CONTRACTS 2).
pub(crate) fn date_time(at: WallTime) -> String {
    let civil = Civil::of(at);
    let (h, m, s) = civil.clock();
    format!("{:04}-{:02}-{:02} {h:02}:{m:02}:{s:02}", civil.year, civil.month, civil.day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(rfc3339(WallTime(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(WallTime(951_827_696_007)), "2000-02-29T12:34:56.007Z");
        assert_eq!(date_time(WallTime(1_767_225_599_999)), "2025-12-31 23:59:59");
        assert_eq!(date_time(WallTime(4_102_444_800_000)), "2100-01-01 00:00:00");
    }
}
