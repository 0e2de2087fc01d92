//! A small HTTP/1.1 client: what nodes ask each other, and the command line
//! asks nodes.
//!
//! Decides when a connection is reused, and whether a request that failed may
//! have been seen by the other side: everything about 503 or 504 rests on
//! [`ClientError::sent`].

use crate::env::Env;
use crate::tls::Dialler;
use base_ha_core::ids::Url;
use base_ha_core::time::MonoTime;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A connection idle for longer is not used again: well below the 60 s after
/// which the other side closes it, so that the two rarely cross on the wire.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Connections kept per node.
const KEPT_MAX: usize = 256;

/// Makes requests to nodes, keeping connections for the next one.
pub struct Client<E: Env> {
    dialler: Dialler<E>,
    kept: Mutex<BTreeMap<String, Vec<Kept>>>,
}

struct Kept {
    sender: SendRequest<Full<Bytes>>,
    since: MonoTime,
}

/// A request without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientError {
    /// The other side may have seen the whole request: its outcome is unknown.
    /// False means that it certainly was not carried out.
    pub sent: bool,
    /// What happened.
    pub reason: String,
}

/// Why a text is not the URL of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadUrl {
    /// It starts with neither `http://` nor `https://`.
    Scheme,
    /// No host, or one with characters that no host has.
    Host,
    /// No port, or one that is not 1-65535.
    Port,
    /// Something follows the port.
    Path,
    /// Longer than [`Url::LENGTH_MAX`].
    TooLong,
}

/// The `host:port` of a node's URL.
///
/// # Errors
/// [`BadUrl`] says what is wrong with it.
pub fn authority(url: &Url) -> Result<&str, BadUrl> {
    let text = url.as_str();
    if text.len() > Url::LENGTH_MAX {
        return Err(BadUrl::TooLong);
    }
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or(BadUrl::Scheme)?;
    if authority.contains(['/', '?', '#']) {
        return Err(BadUrl::Path);
    }
    let (host, port) = authority.rsplit_once(':').ok_or(BadUrl::Port)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let legal = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    if !legal {
        return Err(BadUrl::Host);
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(authority),
        _ => Err(BadUrl::Port),
    }
}

impl<E: Env> Client<E> {
    /// A client that connects through `dialler`.
    pub fn new(dialler: Dialler<E>) -> Self {
        Self { dialler, kept: Mutex::new(BTreeMap::new()) }
    }

    /// What it connects through.
    pub(crate) fn dialler(&self) -> &Dialler<E> {
        &self.dialler
    }

    /// Sends `request` to the node at `base` and waits for the answer's head;
    /// the caller bounds how long. The request's URI is path and query only;
    /// `Host` is set here.
    ///
    /// # Errors
    /// [`ClientError`], which says whether the request may have been seen.
    pub async fn request(
        &self,
        base: &Url,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let to = authority(base).map_err(|bad| ClientError::unsent(format!("{base}: {bad}")))?;
        let host = HeaderValue::from_str(to).map_err(|bad| ClientError::unsent(bad.to_string()))?;
        request.headers_mut().insert(header::HOST, host);
        loop {
            let kept = self.take(base);
            let reused = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.dial(base).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(base, sender);
                    return Ok(response);
                }
                Err(mut failed) => match failed.take_message() {
                    // A kept connection had been closed meanwhile, and not a
                    // byte of this request left: take another.
                    Some(whole) if reused => request = whole,
                    Some(_) => return Err(ClientError::unsent(failed.into_error().to_string())),
                    None => return Err(ClientError { sent: true, reason: failed.into_error().to_string() }),
                },
            }
        }
    }

    /// Opens a connection of its own to the node at `base`, e.g. to be
    /// upgraded; it lives as long as its sender.
    ///
    /// # Errors
    /// [`ClientError`], never with `sent`.
    pub async fn dial(&self, base: &Url) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let to = authority(base).map_err(|bad| ClientError::unsent(format!("{base}: {bad}")))?;
        let stream = match tokio::time::timeout(CONNECT_MAX, self.dialler.connect(base)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(ClientError::unsent(format!("{to}: {error}"))),
            Err(_) => return Err(ClientError::unsent(format!("{to}: no connection within {CONNECT_MAX:?}"))),
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(1 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ClientError::unsent(format!("{to}: {error}")))?;
        tokio::spawn(async move {
            // Its errors reach whoever waits for an answer on it.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    /// A kept connection that is ready for a request; drops those that are
    /// closed or too old on the way.
    fn take(&self, base: &Url) -> Option<SendRequest<Full<Bytes>>> {
        let now = self.dialler.env().now().mono;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let list = kept.get_mut(base.as_str())?;
        let mut at = list.len();
        while at > 0 {
            at -= 1;
            let one = &list[at];
            if one.sender.is_closed() || now.since(one.since) > IDLE_MAX {
                list.swap_remove(at);
            } else if one.sender.is_ready() {
                return Some(list.swap_remove(at).sender);
            }
        }
        None
    }

    /// Keeps a connection; it becomes ready once its answer has been read.
    fn keep(&self, base: &Url, sender: SendRequest<Full<Bytes>>) {
        let since = self.dialler.env().now().mono;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let list = kept.entry(base.as_str().to_owned()).or_default();
        if list.len() < KEPT_MAX {
            list.push(Kept { sender, since });
        }
    }
}

impl ClientError {
    fn unsent(reason: String) -> Self {
        Self { sent: false, reason }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ClientError {}

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "a node's URL starts with http:// or https://",
            Self::Host => "the URL has no legal host",
            Self::Port => "the URL needs a port, 1-65535",
            Self::Path => "a node's URL ends after its port",
            Self::TooLong => "the URL is longer than 512 bytes",
        })
    }
}

impl std::error::Error for BadUrl {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_urls_are_scheme_host_and_port() {
        assert_eq!(authority(&Url::new("http://127.0.0.1:8090/")), Ok("127.0.0.1:8090"));
        assert_eq!(authority(&Url::new("http://[::1]:80")), Ok("[::1]:80"));
        assert_eq!(authority(&Url::new("http://base-0.base:8090")), Ok("base-0.base:8090"));
        assert_eq!(authority(&Url::new("https://a:1")), Ok("a:1"));
        assert_eq!(authority(&Url::new("ftp://a:1")), Err(BadUrl::Scheme));
        assert_eq!(authority(&Url::new("http://a")), Err(BadUrl::Port));
        assert_eq!(authority(&Url::new("http://a:0")), Err(BadUrl::Port));
        assert_eq!(authority(&Url::new("http://user@a:1")), Err(BadUrl::Host));
        assert_eq!(authority(&Url::new("http://a:1/x")), Err(BadUrl::Path));
        assert_eq!(authority(&Url::new("http://:1")), Err(BadUrl::Host));
    }
}
