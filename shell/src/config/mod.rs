//! A node's validated settings, as the rest of the shell reads them.
//!
//! Decides their types and defaults in code. [`settings`] is the one table of
//! names and texts, [`sources`] finds out what was set where, [`validate`]
//! turns texts into a [`Config`] or says what is wrong with them.

pub mod file;
pub mod identity;
pub mod settings;
pub mod sources;
pub mod units;
pub mod validate;

use crate::api::Ack;
use base_ha_core::ids::{NodeId, Url};
use std::path::PathBuf;
use std::time::Duration;

/// A node's validated settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The core's share.
    pub core: base_ha_core::config::Config,
    /// `--http` / `BASE_HTTP`: where to listen, `host:port`.
    pub http: String,
    /// `--dir` / `BASE_DIR`.
    pub dir: PathBuf,
    /// `BASE_CLUSTER_SECRET`: the first signs, all verify (two during
    /// rotation). Empty only with no peers, or with mutual TLS.
    pub cluster_secrets: Vec<Secret>,
    /// `BASE_TOKEN`: bearer token for SQL and administration.
    pub token: Option<Secret>,
    /// `BASE_TLS_CERT`, `BASE_TLS_KEY`, `BASE_TLS_CA`: everything on this port
    /// is encrypted.
    pub tls: Option<TlsFiles>,
    /// `BASE_ACK`.
    pub ack: Ack,
    /// `BASE_FORWARD`.
    pub forward: Forward,
    /// `BASE_ALLOWED_HOSTS`: names, in lower case, under which clients reach
    /// this node beside the members' addresses; one without a port is meant
    /// with any.
    pub allowed_hosts: Vec<String>,
    /// Bounds on what comes in.
    pub limits: Limits,
    /// How much log is kept for peers that lag.
    pub log_bytes_max: u64,
    /// How long log is kept for peers that lag.
    pub log_age_max: Duration,
    /// `BASE_LOG_LEVEL` / `BASE_LOG_FORMAT`.
    pub logging: Logging,
}

/// Where a node's TLS files are, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Its certificate, those that lead to the CA after it.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The cluster's CA: peers prove themselves by certificates that it signed.
    pub ca: Option<PathBuf>,
}

/// How the process speaks of itself, on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// A level, or `target=level,..` directives.
    pub filter: String,
    /// For people or for programs.
    pub format: LogFormat,
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

impl Default for Logging {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Text }
    }
}

/// What a node does with a write when it is not the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Passes it on to the writer (default).
    Proxy,
    /// Answers 307 with the full URI.
    Redirect,
}

/// Bounds on what comes in and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request's body, which is never compressed; 10 MiB.
    pub body_bytes_max: usize,
    /// Bytes of an answer; 64 MiB.
    pub answer_bytes_max: usize,
    /// Statements in a request; 1,000.
    pub statements_max: usize,
    /// Rows of a result; 100,000.
    pub rows_max: usize,
    /// How long a request's SQL may run; 30 s.
    pub statement_timeout: Duration,
    /// How long a write waits for a writer during an election or hand-over,
    /// and a read for its session's position; 5 s.
    pub wait_timeout: Duration,
    /// How long a write waits for its acknowledgement, beyond its
    /// `statement_timeout`; 15 s.
    pub ack_timeout: Duration,
    /// Open client connections; 4,096.
    pub connections_max: usize,
    /// Writes that wait for the store; 8,192.
    pub write_queue_max: usize,
    /// Time for a request's header; 10 s.
    pub header_timeout: Duration,
    /// Oldest read transaction, so that the WAL can shrink; 60 s.
    pub read_age_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 10 << 20,
            answer_bytes_max: 64 << 20,
            statements_max: 1_000,
            rows_max: 100_000,
            statement_timeout: Duration::from_secs(30),
            wait_timeout: Duration::from_secs(5),
            ack_timeout: Duration::from_secs(15),
            connections_max: 4_096,
            write_queue_max: 8_192,
            header_timeout: Duration::from_secs(10),
            read_age_max: Duration::from_secs(60),
        }
    }
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for comparing and keying only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Config {
    /// Settings for one node on loopback, all else at its default.
    pub fn new(id: NodeId, url: Url, seats: Vec<Url>, http: String, dir: PathBuf) -> Self {
        Self {
            core: base_ha_core::config::Config::new(id, url, seats),
            http,
            dir,
            cluster_secrets: Vec::new(),
            token: None,
            tls: None,
            ack: Ack::default(),
            forward: Forward::Proxy,
            allowed_hosts: Vec::new(),
            limits: Limits::default(),
            log_bytes_max: 1 << 30,
            log_age_max: Duration::from_secs(72 * 3600),
            logging: Logging::default(),
        }
    }
}
