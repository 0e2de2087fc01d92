//! A request's body.
//!
//! Decides how much of it is taken in. How long that may take is watched over
//! by `meter`: a timer for each body would cost more than most bodies.

use super::meter::Meter;
use crate::error::ApiError;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::header;

/// Takes in a body of at most `max` bytes.
///
/// # Errors
/// 413 beyond that, before anything more is taken in; 415 if it is compressed,
/// which clients of this interface need not do: what is never inflated can't
/// be a bomb; 400 if it breaks off.
pub(crate) async fn collect(
    meter: &Meter,
    headers: &HeaderMap,
    mut body: Incoming,
    max: usize,
) -> Result<Bytes, ApiError> {
    let plain = |value: &header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get(header::CONTENT_ENCODING).is_some_and(|value| !plain(value)) {
        return Err(ApiError::new(415, "unsupported_encoding", "send the body uncompressed: no Content-Encoding"));
    }
    let too_large = || {
        ApiError::new(413, "body_too_large", format!("the body is larger than {max} bytes"))
            .with_data(serde_json::json!({ "bytes_max": max }))
    };
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    meter.body();
    let mut first = Bytes::new();
    let mut more: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::new(400, "body_broken_off", "the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        let have = more.as_ref().map_or(first.len(), BytesMut::len);
        if have + data.len() > max {
            meter.begin();
            return Err(too_large());
        }
        // Most bodies come in one piece, which then is not copied.
        match &mut more {
            Some(more) => more.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut joined = BytesMut::with_capacity((have + data.len()) * 2);
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                more = Some(joined);
            }
        }
    }
    meter.begin();
    Ok(more.map_or(first, BytesMut::freeze))
}
