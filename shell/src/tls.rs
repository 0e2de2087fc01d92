//! TLS, for clients and between nodes, on one port.
//!
//! Decides which connections are encrypted, and what a node shows and demands
//! on them. It wraps the environment's streams, so that it is the same code in
//! every world. Who may say what over a connection is decided elsewhere: the
//! clients' token by `http::guard`, the cluster secret by `bus::handshake`.
//!
//! | file | its noun |
//! |---|---|
//! | `material` | the PEM files: certificate, key, the cluster's CA, and whether they are fit |
//! | `stream` | a connection, plain or encrypted, either way |
//! | `member` | whom a peer's certificate may speak for |
//! | `upkeep` | files that were replaced, certificates that expire |

pub mod material;
pub mod member;
pub mod stream;
pub mod upkeep;

#[cfg(test)]
pub(crate) mod tests;

use crate::config::TlsFiles;
use crate::env::Env;
use crate::error::ApiError;
use crate::http::client::authority;
use base_ha_core::ids::Url;
use base_ha_core::time::MonoTime;
use material::{Clock, Identity, Material};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use stream::Stream;

/// A refused connection is logged again after so long: whoever scans ports
/// must not fill the log.
const LOG_AGAIN: Duration = Duration::from_secs(10);

/// What this node shows and demands, shared by all who accept and connect. Its
/// files may be replaced while it runs: a connection is made with what they
/// held when it was opened.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: TlsFiles,
    /// The host of this node's own URL.
    host: String,
    clock: Arc<Clock>,
    state: Mutex<State>,
}

struct State {
    /// In use.
    identity: Arc<Identity>,
    /// Hash of the files as last read, in use or not.
    seen: blake3::Hash,
    /// When a refused connection was last logged.
    logged: Option<MonoTime>,
}

/// What came of reading the files again.
#[derive(Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// They are what they were.
    Same,
    /// They changed and are in use.
    Renewed,
    /// They changed and are of no use, for this reason; what was in use stays.
    Unfit(String),
}

impl Tls {
    /// Reads the files and checks that they are fit for a node at `url`.
    ///
    /// # Errors
    /// `tls_unfit`, with the file and what is wrong with it.
    pub fn open<E: Env>(env: &E, files: &TlsFiles, url: &Url) -> Result<Self, ApiError> {
        let unfit = |reason: String| ApiError::new(500, "tls_unfit", reason);
        let host = host_of(url).map_err(unfit)?;
        let clock = Arc::new(Clock::of(env.clone()));
        let material = Material::read(files).map_err(unfit)?;
        let identity = Arc::new(Identity::new(files, &material, &host, &clock).map_err(unfit)?);
        let state = Mutex::new(State { identity, seen: material.hash(), logged: None });
        Ok(Self(Arc::new(Inner { files: files.clone(), host, clock, state })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can leave the state half changed.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in use.
    pub fn identity(&self) -> Arc<Identity> {
        self.lock().identity.clone()
    }

    /// Whether peers must show a certificate of the cluster's CA.
    pub fn is_mutual(&self) -> bool {
        self.0.files.ca.is_some()
    }

    /// Reads the files again; blocks. Files that are being replaced one after
    /// the other may not fit each other for a moment: what was in use stays.
    pub fn reload(&self) -> Reloaded {
        let material = match Material::read(&self.0.files) {
            Ok(material) => material,
            Err(reason) => return Reloaded::Unfit(reason),
        };
        let hash = material.hash();
        if self.lock().seen == hash {
            return Reloaded::Same;
        }
        let made = Identity::new(&self.0.files, &material, &self.0.host, &self.0.clock);
        let mut state = self.lock();
        state.seen = hash;
        match made {
            Ok(identity) => {
                state.identity = Arc::new(identity);
                Reloaded::Renewed
            }
            Err(reason) => Reloaded::Unfit(reason),
        }
    }

    /// Whether a refused connection is worth a line of the log again.
    pub(crate) fn is_news(&self, now: MonoTime) -> bool {
        let mut state = self.lock();
        let news = state.logged.is_none_or(|at| now.since(at) >= LOG_AGAIN);
        if news {
            state.logged = Some(now);
        }
        news
    }
}

/// Connects to other nodes as this node's settings demand.
#[derive(Clone)]
pub struct Dialler<E: Env> {
    env: E,
    tls: Option<Tls>,
}

impl<E: Env> Dialler<E> {
    /// One that encrypts if `tls` is given.
    pub fn new(env: E, tls: Option<Tls>) -> Self {
        Self { env, tls }
    }

    /// The world that it connects through.
    pub fn env(&self) -> &E {
        &self.env
    }

    /// This node's TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Connects to the node at `url`, by TLS if this node has it. The caller
    /// bounds how long it may take.
    ///
    /// # Errors
    /// What the system says; that the other node's certificate is not its own;
    /// that the URL asks for TLS and this node has none.
    pub async fn connect(&self, url: &Url) -> io::Result<Stream<E::Stream>> {
        let refused = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let place = authority(url).map_err(|bad| refused(format!("{url}: {bad}")))?;
        match &self.tls {
            // Also where the membership's URL is one from before: a cluster that
            // is moved to TLS is stopped, and started with it.
            Some(tls) => stream::connect(tls, &host_of(url).map_err(refused)?, self.env.connect(place).await?).await,
            None if is_tls(url) => {
                Err(refused(format!("{url} needs TLS, and this node has no certificate: set BASE_TLS_CERT")))
            }
            None => Ok(Stream::Plain(self.env.connect(place).await?)),
        }
    }
}

/// Whether a URL asks for TLS.
pub fn is_tls(url: &Url) -> bool {
    url.as_str().starts_with("https://")
}

/// The host of a node's URL: a name or an address, without brackets.
///
/// # Errors
/// The URL has none, in words.
pub fn host_of(url: &Url) -> Result<String, String> {
    let place = authority(url).map_err(|bad| format!("{url}: {bad}"))?;
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}
