//! The PEM files: this node's certificate and key, and the cluster's CA.
//!
//! Decides whether they are fit, and says which file isn't and why: what is
//! found here is found before a peer or client has to tell. Knows nothing of
//! connections.

use crate::config::TlsFiles;
use crate::env::Env;
use base_ha_core::time::WallTime;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};

/// The only protocol that is spoken inside.
const ALPN: &[u8] = b"http/1.1";
/// Bytes of a file that are read; a CA file of every public authority has
/// about 220 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The files' bytes, as they are now.
pub struct Material {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

impl Material {
    /// Reads the files; blocks.
    ///
    /// # Errors
    /// Which file can't be read, and why.
    pub fn read(files: &TlsFiles) -> Result<Self, String> {
        let read = |name: &str, path: &Path| {
            let size =
                std::fs::metadata(path).map_err(|e| format!("{name}: {} can't be read: {e}", path.display()))?.len();
            if size > FILE_BYTES_MAX {
                return Err(format!("{name}: {} has {size} bytes and is no PEM file of certificates", path.display()));
            }
            std::fs::read(path).map_err(|e| format!("{name}: {} can't be read: {e}", path.display()))
        };
        Ok(Self {
            cert: read("BASE_TLS_CERT", &files.cert)?,
            key: read("BASE_TLS_KEY", &files.key)?,
            ca: files.ca.as_deref().map(|ca| read("BASE_TLS_CA", ca)).transpose()?,
        })
    }

    /// Tells whether any of them changed.
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.cert, &self.key, self.ca.as_ref().unwrap_or(&Vec::new())] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

/// The environment's wall clock, as certificates are checked against it.
pub struct Clock(Box<dyn Fn() -> WallTime + Send + Sync>);

impl Clock {
    /// The clock of `env`.
    pub fn of<E: Env>(env: E) -> Self {
        Self(Box::new(move || env.now().wall))
    }

    pub(super) fn now(&self) -> WallTime {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now().0)))
    }
}

/// What a node's files amount to.
pub struct Identity {
    /// For connections that are accepted.
    pub(super) server: Arc<ServerConfig>,
    /// For connections to peers; none without a CA to know them by.
    pub(super) client: Option<Arc<ClientConfig>>,
    /// When the first of the certificates, the CA's included, expires.
    pub expires: WallTime,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity until {:?}", self.expires)
    }
}

impl Identity {
    /// Checks the files for a node that peers reach at `host`.
    ///
    /// # Errors
    /// The setting, the file, what is wrong with it and the mend.
    pub fn new(files: &TlsFiles, material: &Material, host: &str, clock: &Arc<Clock>) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let of_cert = format!("BASE_TLS_CERT: {}", files.cert.display());
        let of_key = format!("BASE_TLS_KEY: {}", files.key.display());
        let chain = certificates(&of_cert, &material.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&material.key)
            .map_err(|_| format!("{of_key} holds no private key (PEM: BEGIN PRIVATE KEY)"))?;
        let mut expires = WallTime(u64::MAX);
        for certificate in &chain {
            expires = expires.min(validity(&of_cert, certificate, clock.now())?);
        }

        let mut client = None;
        let mut verifier = WebPkiClientVerifier::no_client_auth();
        if let (Some(file), Some(bytes)) = (&files.ca, &material.ca) {
            let of_ca = format!("BASE_TLS_CA: {}", file.display());
            let mut roots = RootCertStore::empty();
            // A file may hold an old CA beside its successor: it is the last
            // one to expire that counts.
            let mut last = WallTime(0);
            for certificate in certificates(&of_ca, bytes)? {
                last = last.max(not_after(&of_ca, &certificate)?);
                roots.add(certificate).map_err(|e| format!("{of_ca}: a certificate in it can't be used: {e}"))?;
            }
            expires = expires.min(last);
            let roots = Arc::new(roots);
            let demand = both_ways(&roots, &provider, &chain, host, clock)
                .map_err(|error| format!("{of_cert} {}", unfit(&error, host, file)))?;
            verifier = demand;
            let mut config = ClientConfig::builder_with_details(provider.clone(), clock.clone())
                .with_protocol_versions(&[&TLS13])
                .map_err(|e| e.to_string())?
                .with_root_certificates(roots)
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(|e| no_pair(&of_key, files, &e))?;
            config.alpn_protocols = vec![ALPN.to_vec()];
            // Each connection proves anew who is at its ends: an expired or
            // exchanged certificate must not live on in a resumed session.
            config.resumption = Resumption::disabled();
            client = Some(Arc::new(config));
        }
        let mut server = ServerConfig::builder_with_details(provider, clock.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|e| e.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|e| no_pair(&of_key, files, &e))?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { server: Arc::new(server), client, expires })
    }
}

/// What is demanded of whoever shows a certificate; `chain` itself must stand
/// up to it, as server and as client, or no peer would believe this node.
fn both_ways(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    chain: &[CertificateDer<'static>],
    host: &str,
    clock: &Clock,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let now = UnixTime::since_unix_epoch(Duration::from_millis(clock.now().0));
    let general = |e: &dyn fmt::Display| Error::General(e.to_string());
    let client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| general(&e))?;
    let server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|e| general(&e))?;
    let name = ServerName::try_from(host).map_err(|e| general(&e))?;
    let (own, between) = chain.split_first().ok_or_else(|| general(&"it is empty"))?;
    server.verify_server_cert(own, between, &name, &[], now)?;
    client.verify_client_cert(own, between, now)?;
    Ok(client)
}

fn certificates(of: &str, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(format!("{of} holds no certificate (PEM: BEGIN CERTIFICATE)")),
    }
}

fn not_after(of: &str, certificate: &CertificateDer<'_>) -> Result<WallTime, String> {
    dates(of, certificate).map(|(_, until)| until)
}

/// From when until when a certificate is valid.
fn dates(of: &str, certificate: &CertificateDer<'_>) -> Result<(WallTime, WallTime), String> {
    let (_, read) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| format!("{of}: a certificate in it can't be read: {e}"))?;
    let ms = |seconds: i64| WallTime(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000));
    Ok((ms(read.validity().not_before.timestamp()), ms(read.validity().not_after.timestamp())))
}

/// When a certificate expires, which must not have happened.
fn validity(of: &str, certificate: &CertificateDer<'_>, now: WallTime) -> Result<WallTime, String> {
    let (from, until) = dates(of, certificate)?;
    let date = crate::http::date_time;
    if until < now {
        return Err(format!("{of} expired on {} UTC: replace it by a new one", date(until)));
    }
    if now < from {
        return Err(format!(
            "{of} is not valid before {} UTC, and the clock of this machine says {}",
            date(from),
            date(now)
        ));
    }
    Ok(until)
}

fn no_pair(of_key: &str, files: &TlsFiles, error: &Error) -> String {
    format!("{of_key} is not the key of {}, or of a kind that can't be used: {error}", files.cert.display())
}

/// Why a node's own certificate would not be believed by its peers.
fn unfit(error: &Error, host: &str, ca: &Path) -> String {
    let ca = ca.display();
    let Error::InvalidCertificate(reason) = error else { return format!("can't be used: {error}") };
    match reason {
        CertificateError::UnknownIssuer => format!("was not signed by a CA in {ca}, so no peer would believe it"),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
            "is not made for {host}, where peers reach this node: make one with that subjectAltName, or set BASE_LOCAL_TARGET"
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "must be good for both ends of a connection: make one with the extended key usages serverAuth and clientAuth, or with none".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("or the CA in {ca} that signed it has expired")
        }
        CertificateError::Other(_) => format!("can't be used: {error}; a CA's own certificate is not one of a node"),
        _ => format!("can't be used: {error}"),
    }
}
