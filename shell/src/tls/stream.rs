//! A connection, plain or encrypted, whichever end opened it.
//!
//! Decides how a connection is opened, and what who can't is told. Knows
//! nothing of HTTP but one answer: the one to who speaks it in clear.

use super::Tls;
use super::member::Certificate;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, ProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// The first byte of every TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;
/// Bytes of a request in clear that are read before it is answered: an answer
/// to who is still sending might be lost with the connection.
const CLEAR_BYTES_MAX: usize = 16 << 10;

/// A connection to or from this node.
pub enum Stream<S> {
    /// As the environment gave it.
    Plain(S),
    /// Encrypted, its first byte perhaps read already.
    Tls(Box<TlsStream<First<S>>>),
}

/// What the other end of an accepted connection has shown.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Its certificate, if it showed one that the cluster's CA signed.
    pub certificate: Option<Certificate>,
    /// The connection is good enough for peers: TLS 1.3.
    pub modern: bool,
}

/// Why a connection was not accepted.
#[derive(Debug)]
pub enum NotAccepted {
    /// It spoke in clear, and was told so.
    Clear,
    /// It closed without a word, as health checks of load balancers do.
    Nothing,
    /// TLS says no, or the system does.
    Failed(io::Error),
}

impl fmt::Display for NotAccepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("it speaks HTTP in clear, and this port speaks TLS only"),
            Self::Nothing => f.write_str("it closed the connection at once"),
            Self::Failed(error) => f.write_str(&explain(error)),
        }
    }
}

/// Accepts a connection; the caller bounds how long it may take.
///
/// # Errors
/// [`NotAccepted`]; the connection is over then.
pub async fn accept<S>(tls: Option<&Tls>, mut stream: S) -> Result<(Stream<S>, Shown), NotAccepted>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(tls) = tls else { return Ok((Stream::Plain(stream), Shown::default())) };
    let mut first = [0];
    match stream.read(&mut first).await {
        Ok(0) => return Err(NotAccepted::Nothing),
        Ok(_) if first[0] == HANDSHAKE => {}
        Ok(_) => {
            refuse_clear(stream).await;
            return Err(NotAccepted::Clear);
        }
        Err(error) => return Err(NotAccepted::Failed(error)),
    }
    let stream = First { byte: Some(first[0]), stream };
    let acceptor = TlsAcceptor::from(tls.identity().server.clone());
    let stream = acceptor.accept(stream).await.map_err(NotAccepted::Failed)?;
    let state = stream.get_ref().1;
    let shown = Shown {
        // Whatever is here was verified: rustls refuses what it can't.
        certificate: state.peer_certificates().and_then(<[_]>::first).map(Certificate::new),
        modern: state.protocol_version() == Some(ProtocolVersion::TLSv1_3),
    };
    Ok((Stream::Tls(Box::new(TlsStream::Server(stream))), shown))
}

/// Tells whoever speaks HTTP in clear what this port is. Nothing that it sent
/// is looked at.
async fn refuse_clear<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let body = r#"{"code":"tls_only","message":"this port speaks TLS only: use https://","status":400}"#;
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut rest = vec![0; CLEAR_BYTES_MAX];
    let _ = stream.read(&mut rest).await;
    // Best effort: it is refused whether or not it hears why.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Encrypts a connection to the peer at `host`, which must show a certificate
/// for it; shows this node's own.
///
/// # Errors
/// What TLS or the system says, with a mend where there is one.
pub async fn connect<S>(tls: &Tls, host: &str, stream: S) -> io::Result<Stream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let identity = tls.identity();
    let Some(client) = &identity.client else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no CA to know peers by: set BASE_TLS_CA"));
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = First { byte: None, stream };
    match TlsConnector::from(client.clone()).connect(name, stream).await {
        Ok(stream) => Ok(Stream::Tls(Box::new(TlsStream::Client(stream)))),
        Err(error) => Err(io::Error::new(error.kind(), explain(&error))),
    }
}

/// Whether it is TLS that failed, and not the connection below it.
pub fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Error>())
}

/// What an error of a TLS connection means, for who must mend it. Other errors
/// say what they say.
pub fn explain(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return error.to_string();
    };
    match tls {
        Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer => {
                "the other side's certificate was not signed by the CA that is trusted here (BASE_TLS_CA, --ca)".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the other side's certificate has expired".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the other side's certificate is not made for the host by which it was called".into()
            }
            _ => tls.to_string(),
        },
        Error::InvalidMessage(_) => "the other side does not speak TLS".into(),
        Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "the other side says that this side's certificate was not signed by its CA".into()
            }
            AlertDescription::CertificateExpired => {
                "the other side says that this side's certificate has expired".into()
            }
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion => {
                format!("the other side refuses this side's TLS ({alert:?})")
            }
            _ => tls.to_string(),
        },
        _ => tls.to_string(),
    }
}

/// A stream whose first byte may have been read already.
pub struct First<S> {
    byte: Option<u8>,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for First<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(byte) = self.byte.take()
        {
            buf.put_slice(&[byte]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for First<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
