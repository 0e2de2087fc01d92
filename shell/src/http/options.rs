//! What a SQL request asks for beside its SQL.
//!
//! Decides which settings are legal. A setting that isn't is refused, never
//! ignored: a misspelt `level` must not quietly read something older.

use crate::api::Ack;
use crate::config::{Config, Forward};
use crate::error::ApiError;
use base_ha_core::changeset::RequestId;
use hyper::HeaderMap;
use hyper::header::HeaderName;

const ACK: HeaderName = HeaderName::from_static("x-base-ack");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Bytes of an `Idempotency-Key`.
const KEY_MAX: usize = 255;

/// What a read is to contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Whatever this node has.
    Local,
    /// At least what the session has seen.
    Session,
    /// Everything that was acknowledged before the request came in.
    Linearizable,
}

/// A SQL request's settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    /// `?level=`, or `local` with `?local=true`.
    pub(crate) level: Level,
    /// `?local=true`: it runs on this node or not at all.
    pub(crate) local: bool,
    /// `?forward=false` or `BASE_FORWARD`.
    pub(crate) forward: Forward,
    /// `?ack=`, `X-Base-Ack` or `BASE_ACK`.
    pub(crate) ack: Ack,
    /// `Idempotency-Key`.
    pub(crate) key: Option<String>,
}

impl Options {
    /// Reads them from the query of the URI and the headers.
    ///
    /// # Errors
    /// 400 `bad_option`.
    pub(crate) fn read(query: Option<&str>, headers: &HeaderMap, config: &Config) -> Result<Self, ApiError> {
        let mut options =
            Self { level: Level::Session, local: false, forward: config.forward, ack: config.ack, key: None };
        if let Some(value) = headers.get(ACK) {
            options.ack = ack(value.to_str().unwrap_or(""))?;
        }
        if let Some(value) = headers.get(IDEMPOTENCY_KEY) {
            let key = value.to_str().unwrap_or("");
            if key.is_empty() || key.len() > KEY_MAX {
                return Err(bad("Idempotency-Key", key, "1-255 visible ASCII characters"));
            }
            options.key = Some(key.to_owned());
        }
        let mut level = None;
        for pair in query.unwrap_or("").split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "local" => options.local = flag(name, value)?,
                "forward" if flag(name, value)? => options.forward = Forward::Proxy,
                "forward" => options.forward = Forward::Redirect,
                "ack" => options.ack = ack(value)?,
                "level" => {
                    level = Some(match value {
                        "local" => Level::Local,
                        "session" => Level::Session,
                        "linearizable" => Level::Linearizable,
                        _ => return Err(bad(name, value, "local, session or linearizable")),
                    });
                }
                // Parameters of others, e.g. against caches.
                _ => (),
            }
        }
        options.level = level.unwrap_or(if options.local { Level::Local } else { Level::Session });
        Ok(options)
    }
}

/// The id of a request under a client's key. The key that a node gave out with
/// an unknown outcome is the id itself, in hexadecimal, so that a retry names
/// the same request.
pub(crate) fn request_id(key: &str) -> RequestId {
    let hex = key.len() == 32 && key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if let (true, Ok(id)) = (hex, u128::from_str_radix(key, 16)) {
        return RequestId(id);
    }
    let digest = blake3::derive_key("base-ha 2026-11 request id of an idempotency key", key.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    RequestId(u128::from_le_bytes(id))
}

fn ack(value: &str) -> Result<Ack, ApiError> {
    match value {
        "local" => Ok(Ack::Local),
        "majority" => Ok(Ack::Majority),
        "all" => Ok(Ack::All),
        _ => Err(bad("ack", value, "local, majority or all")),
    }
}

fn flag(name: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(bad(name, value, "true or false")),
    }
}

fn bad(name: &str, value: &str, legal: &str) -> ApiError {
    ApiError::new(400, "bad_option", format!("{name} is {value:?}; it may be {legal}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::ids::{NodeId, Url};

    fn read(query: &str) -> Result<Options, ApiError> {
        let id = NodeId::new("a").unwrap();
        let config = Config::new(id, Url::new("http://127.0.0.1:1"), vec![], "127.0.0.1:1".into(), ".".into());
        Options::read(Some(query), &HeaderMap::new(), &config)
    }

    #[test]
    fn a_setting_is_understood_or_refused() {
        assert_eq!(read("").unwrap().level, Level::Session);
        assert_eq!(read("local=true").unwrap().level, Level::Local);
        assert_eq!(read("local=true&level=session").unwrap().level, Level::Session);
        assert_eq!(read("forward=false").unwrap().forward, Forward::Redirect);
        assert_eq!(read("ack=all&_=17").unwrap().ack, Ack::All);
        for wrong in ["level=Session", "local=yes", "ack=two", "forward=no"] {
            assert_eq!(read(wrong).unwrap_err().code, "bad_option", "{wrong}");
        }
    }

    #[test]
    fn an_id_that_was_given_out_names_itself() {
        let text = format!("{:032x}", 0xabcd_u128);
        assert_eq!(request_id(&text), RequestId(0xabcd));
        assert_ne!(request_id("order-17"), request_id("order-18"));
        assert_ne!(request_id(&text.to_uppercase()), RequestId(0xabcd));
    }
}
