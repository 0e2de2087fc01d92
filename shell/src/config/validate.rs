//! The one validator: texts in, a [`Config`] or every [`Fault`] out.
//!
//! Decides what a legal value is and which values fit together. Where a value
//! came from is `sources`' business; `places` decides on addresses and URLs, and
//! what is too open to start with.

mod places;

pub use places::{is_loopback, member_url};

use super::settings::setting_named;
use super::sources::{Fault, Sources};
use super::units::{self, show_duration};
use super::{Config, Forward, Limits, LogFormat, Logging, Secret, identity};
use crate::api::Ack;
use crate::env::files::RealFiles;
use base_ha_core::config::ConfigError;
use base_ha_core::ids::{NodeId, Url};
use base_ha_core::member::QuorumMode;
use places::listen_address;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The shortest cluster secret and token, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;

/// A legal configuration, and what its owner should know about it.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The settings.
    pub config: Config,
    /// What is legal and probably not meant.
    pub warnings: Vec<String>,
    /// What is meant and worth knowing.
    pub notes: Vec<String>,
}

/// Interprets what was set. Reads the secret files and the kept node id;
/// writes nothing.
///
/// # Errors
/// Every fault found; faults of several settings together only once each of
/// them is legal by itself.
pub fn settle(sources: &Sources) -> Result<Settled, Vec<Fault>> {
    let mut reader = Reader { sources, faults: Vec::new(), warnings: sources.warnings.clone(), notes: Vec::new() };
    match reader.settle() {
        Some(config) if reader.faults.is_empty() => {
            Ok(Settled { config, warnings: reader.warnings, notes: reader.notes })
        }
        _ => Err(reader.faults),
    }
}

struct Reader<'a> {
    sources: &'a Sources,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn settle(&mut self) -> Option<Config> {
        self.refuse_missing_parts();
        let http = self.parsed("http", "write host:port, e.g. 127.0.0.1:8090", listen_address);
        let dir = PathBuf::from(self.sources.get("dir")?.text);
        let token = self.secret("token", "token-file");
        if let (Some(http), Some(None)) = (&http, &token) {
            self.check_open(http);
        }
        let tls = self.tls();
        let url = self.own_url(http.as_ref(), matches!(tls, Some(Some(_))));
        let seats = self.seats();
        let cluster_secrets = self.secret("cluster-secret", "cluster-secret-file");
        let ack = self.choice("ack", &[("local", Ack::Local), ("majority", Ack::Majority), ("all", Ack::All)]);
        let forward = self.choice("forward", &[("proxy", Forward::Proxy), ("redirect", Forward::Redirect)]);
        let admit = self.choice("admit", &[("auto", true), ("manual", false)]);
        let witness = self.switch("witness");
        let bootstrap = self.switch("bootstrap");
        let heartbeat = self.duration("heartbeat");
        let lease = match self.sources.is_set("lease") {
            true => self.duration("lease"),
            false => heartbeat.map(|h| h * 3),
        };
        let static_writer = match self.sources.is_set("static-writer") {
            true => Some(self.parsed("static-writer", "write http://host:port or https://host:port", member_url)?),
            false => None,
        };
        let allowed_hosts = self.hosts();
        let limits = self.limits();
        let log_bytes_max = self.parsed("log-max-bytes", "e.g. 1GiB", units::size);
        let log_age_max = self.duration("log-max-age");
        let format = self.choice("log-format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
        let filter = self.parsed("log-level", "e.g. info, or base_ha=debug,info", log_filter);
        let id = self.node_id(&dir, url.as_ref());

        let (url, seats) = (url?, seats?);
        let mut config = Config::new(id?, url, seats, http?, dir);
        config.core.mode = QuorumMode::Majority;
        config.core.witness = witness?;
        config.core.bootstrap = bootstrap?;
        config.core.heartbeat = heartbeat?;
        config.core.lease = lease?;
        config.core.static_writer = static_writer;
        config.core.admit_auto = admit?;
        config.cluster_secrets = split_secrets(cluster_secrets?);
        config.token = token?.map(Secret::new);
        config.tls = tls?;
        config.ack = ack?;
        config.forward = forward?;
        config.allowed_hosts = allowed_hosts?;
        config.limits = limits?;
        config.log_bytes_max = log_bytes_max?;
        config.log_age_max = log_age_max?;
        config.logging = Logging { filter: filter?, format: format? };
        self.check_together(&config);
        self.check_schemes(&config);
        self.check_closed(&config);
        self.remark(&config);
        Some(config)
    }

    /// Names that scripts may set and that mean something this version does
    /// not do: refused with the reason, never ignored.
    fn refuse_missing_parts(&mut self) {
        let merging = "needs merging of concurrent writes, which this version does not have";
        for (name, only, why) in [
            ("consensus", "quasar", "campaigning through a broker is not in this version"),
            ("quorum", "majority", merging),
            ("writers", "pinned", merging),
        ] {
            let text = self.sources.get(name).map(|raw| raw.text).unwrap_or_default();
            if text == only {
                continue;
            }
            let known =
                matches!((name, text.as_str()), ("consensus", "pubsub") | ("quorum", "none") | ("writers", "any"));
            let problem = if known { format!("`{text}`: {why}") } else { "this value is not known".into() };
            self.fault(name, problem, format!("use `{only}`, or leave it unset"));
        }
        for name in ["superuser-email", "superuser-password"] {
            if self.sources.is_set(name) {
                self.fault(
                    name,
                    "this version has no user administration, so no superuser could be created",
                    "unset it; access is granted by BASE_TOKEN",
                );
            }
        }
    }

    /// The value of a secret, from itself or its file; `Some(None)` if unset.
    fn secret(&mut self, name: &'static str, file_name: &'static str) -> Option<Option<String>> {
        let from_file = self.sources.is_set(file_name);
        if from_file && self.sources.is_set(name) {
            self.fault(file_name, format!("both this and {} are set", setting_named(name).env()), "set one of them");
            return None;
        }
        let text = match self.sources.get(if from_file { file_name } else { name }) {
            None => return Some(None),
            Some(raw) if from_file => match std::fs::read_to_string(&raw.text) {
                Ok(text) => text.trim_end_matches(['\r', '\n']).to_string(),
                Err(error) => {
                    self.fault(file_name, format!("this file can't be read: {error}"), "name a readable text file");
                    return None;
                }
            },
            Some(raw) => raw.text,
        };
        let shown = if from_file { file_name } else { name };
        let several = name == "cluster-secret";
        let parts: Vec<&str> = if several { text.split(',').map(str::trim).collect() } else { vec![text.as_str()] };
        if parts.len() > 2 {
            self.fault(shown, "more than two secrets are given", "keep the new one and the old one");
            return None;
        }
        if parts.iter().any(|part| part.len() < SECRET_BYTES_MIN) {
            let problem = format!("a secret has at least {SECRET_BYTES_MIN} bytes");
            self.fault(shown, problem, "make one, e.g. by: openssl rand -hex 32");
            return None;
        }
        if parts.iter().any(|part| part.bytes().any(|b| !(0x21..0x7f).contains(&b))) {
            self.fault(
                shown,
                "it has blanks, control or non-ASCII characters",
                "make one, e.g. by: openssl rand -hex 32",
            );
            return None;
        }
        if !from_file && self.sources.get(name).is_some_and(|raw| raw.origin == super::sources::Origin::Flag) {
            self.warnings.push(format!(
                "{} on the command line can be read by every user of this machine: use {} or {}",
                setting_named(name).flag(),
                setting_named(name).env(),
                setting_named(file_name).flag()
            ));
        }
        Some(Some(text))
    }

    fn node_id(&mut self, dir: &Path, url: Option<&Url>) -> Option<NodeId> {
        let given = match self.sources.is_set("node-id") {
            true => Some(self.parsed("node-id", "e.g. base-0", |t| NodeId::new(t).map_err(|bad| bad.to_string()))?),
            false => None,
        };
        let kept = match identity::kept(&RealFiles, dir) {
            Ok(kept) => kept,
            Err(error) => {
                let file = dir.join(identity::FILE);
                self.fault("dir", format!("{} can't be read: {error}", file.display()), "mend or remove that file");
                return None;
            }
        };
        match (given, kept) {
            (Some(given), Some(kept)) if given != kept => {
                let problem = format!("the data in {} belongs to the node {kept}", dir.display());
                self.fault("node-id", problem, format!("use {kept}, or another directory"));
                None
            }
            (Some(id), _) | (None, Some(id)) => Some(id),
            (None, None) => url.map(identity::derived),
        }
    }

    fn limits(&mut self) -> Option<Limits> {
        let size = |reader: &mut Self, name| reader.parsed(name, "e.g. 10MiB", units::size).map(|n| n as usize);
        let count = |reader: &mut Self, name| reader.parsed(name, "write a whole number", units::count);
        let limits = (
            size(self, "max-body"),
            size(self, "max-answer"),
            count(self, "max-statements"),
            count(self, "max-rows"),
            self.duration("statement-timeout"),
            self.duration("wait-timeout"),
            self.duration("ack-timeout"),
            count(self, "max-connections"),
            count(self, "max-queue"),
            self.duration("header-timeout"),
            self.duration("max-read-age"),
        );
        let limits = Limits {
            body_bytes_max: limits.0?,
            answer_bytes_max: limits.1?,
            statements_max: limits.2?,
            rows_max: limits.3?,
            statement_timeout: limits.4?,
            wait_timeout: limits.5?,
            ack_timeout: limits.6?,
            connections_max: limits.7?,
            write_queue_max: limits.8?,
            header_timeout: limits.9?,
            read_age_max: limits.10?,
        };
        // A change-set over 64 MiB is refused before the append, so a larger
        // body could only fail later and dearer.
        if limits.body_bytes_max > 64 << 20 {
            self.fault("max-body", "a transaction over 64 MiB is refused anyway", "use 64MiB or less");
            return None;
        }
        Some(limits)
    }

    /// Settings that are legal each by itself and not together: the core's
    /// own rules, named by setting.
    fn check_together(&mut self, config: &Config) {
        let Err(error) = config.core.validate() else { return };
        let twice = show_duration(config.core.heartbeat * 2);
        let (name, mend) = match error {
            ConfigError::Heartbeat => ("heartbeat", "e.g. 500ms".into()),
            ConfigError::LeaseTooShort => ("lease", format!("use {twice} or more, or a shorter heartbeat")),
            ConfigError::UrlNotASeat | ConfigError::TooManySeats => ("peers", "name 64 URLs at most".into()),
            ConfigError::StaticWriterUnknown => ("static-writer", "use one of the URLs of BASE_PEERS".into()),
            ConfigError::WitnessCannotWrite => {
                ("witness", "give the witness peers that hold data, and none of the other two orders".into())
            }
            ConfigError::ModeNone => ("quorum", "use `majority`".into()),
        };
        self.fault(name, error.to_string(), mend);
    }

    fn remark(&mut self, config: &Config) {
        if !is_loopback(&config.http) && config.tls.is_none() {
            self.warnings.push(
                "there is no TLS on this port: SQL and tokens travel in clear; set BASE_TLS_CERT, or keep it on a private network or behind a TLS proxy"
                    .into(),
            );
        }
        match config.core.seats.len() {
            1 if !config.core.bootstrap => self.notes.push(
                "a cluster of one: a write is acknowledged once this disk has it; BASE_PEERS names more seats".into(),
            ),
            2 => self.notes.push(
                "two nodes: both must be up for a write; a third seat lets any one fail, and it may be a witness (BASE_WITNESS=true), which stores the log and votes but holds no data"
                    .into(),
            ),
            _ => {}
        }
        if config.core.bootstrap && config.core.seats.len() > 1 {
            self.warnings.push(
                "--bootstrap founds a cluster without asking the other seats: use it for the first start of one node only".into(),
            );
        }
    }

    fn fault(&mut self, name: &'static str, problem: impl Into<String>, mend: impl Into<String>) {
        self.faults.push(self.sources.fault(name, problem, mend));
    }

    fn parsed<T>(&mut self, name: &'static str, mend: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let raw = self.sources.get(name).unwrap_or_else(|| panic!("{name} has a value or was asked for only if set"));
        match read(raw.text.trim()) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.fault(name, problem, mend);
                None
            }
        }
    }

    fn duration(&mut self, name: &'static str) -> Option<Duration> {
        self.parsed(name, "write a number with a unit, e.g. 500ms, 1.5s, 2m or 72h", units::duration)
    }

    fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let all: Vec<&str> = choices.iter().map(|(text, _)| *text).collect();
        self.parsed(name, &format!("use {}", all.join(" or ")), |text| {
            let found = choices.iter().find(|(choice, _)| choice.eq_ignore_ascii_case(text));
            found.map(|(_, value)| *value).ok_or_else(|| "this value is not known".into())
        })
    }

    fn switch(&mut self, name: &'static str) -> Option<bool> {
        self.choice(name, &[("true", true), ("false", false), ("1", true), ("0", false), ("yes", true), ("no", false)])
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    // The filter's own reader takes a bare word that is no level for a target,
    // and a misspelt level would then silence everything else.
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let misspelt = |word: &&str| !word.contains(['=', '[']) && !LEVELS.iter().any(|l| l.eq_ignore_ascii_case(word));
    if let Some(word) = text.split(',').map(str::trim).find(misspelt) {
        return Err(format!("{word:?} is no level: error, warn, info, debug or trace; or write target=level"));
    }
    tracing_subscriber::EnvFilter::try_new(text).map(|_| text.to_string()).map_err(|error| error.to_string())
}

fn split_secrets(text: Option<String>) -> Vec<Secret> {
    text.iter().flat_map(|text| text.split(',')).map(|part| Secret::new(part.trim())).collect()
}

#[cfg(test)]
mod tests;
