//! Where a node listens, where it and its peers are reached, and by what.
//!
//! Decides which addresses and URLs are legal, that all of a cluster speak TLS
//! or none, and what is too open to start with. What else a setting may be is
//! the parent's business.

use super::Reader;
use crate::config::{Config, TlsFiles};
use crate::tls::is_tls;
use base_ha_core::ids::Url;
use std::net::IpAddr;
use std::path::PathBuf;

impl Reader<'_> {
    /// The TLS files, `Some(None)` if none is named. What is in them is read at
    /// the start.
    pub(super) fn tls(&mut self) -> Option<Option<TlsFiles>> {
        let path = |name| self.sources.get(name).map(|raw| PathBuf::from(raw.text));
        match (path("tls-cert"), path("tls-key"), path("tls-ca")) {
            (Some(cert), Some(key), ca) => Some(Some(TlsFiles { cert, key, ca })),
            (None, None, None) => Some(None),
            (cert, key, _) => {
                let missing = if cert.is_none() { "tls-cert" } else { "tls-key" };
                let given = match (&cert, &key) {
                    (Some(_), _) => "BASE_TLS_CERT",
                    (_, Some(_)) => "BASE_TLS_KEY",
                    _ => "BASE_TLS_CA",
                };
                self.fault(
                    missing,
                    format!("{given} is set and this is not"),
                    "a node with TLS has a certificate and its key: set both",
                );
                None
            }
        }
    }

    pub(super) fn own_url(&mut self, http: Option<&String>, tls: bool) -> Option<Url> {
        if self.sources.is_set("local-target") {
            return self.parsed("local-target", "write http://host:port or https://host:port", member_url);
        }
        let http = http?;
        let (host, _) = http.rsplit_once(':')?;
        if is_unspecified(host) {
            let problem = format!("the node listens on every address ({http}), so its own URL can't be known");
            self.fault("local-target", problem, "set it to the URL at which peers and clients reach this node");
            return None;
        }
        let scheme = if tls { "https" } else { "http" };
        Some(Url::new(&format!("{scheme}://{}", http.to_ascii_lowercase())))
    }

    pub(super) fn seats(&mut self) -> Option<Vec<Url>> {
        let Some(raw) = self.sources.get("peers") else { return Some(Vec::new()) };
        let mut seats = Vec::new();
        for item in raw.text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match member_url(item) {
                Ok(url) => seats.push(url),
                Err(problem) => {
                    self.fault("peers", format!("{item:?}: {problem}"), "write http://host:port,http://host:port,...");
                    return None;
                }
            }
        }
        Some(seats)
    }

    pub(super) fn hosts(&mut self) -> Option<Vec<String>> {
        let Some(raw) = self.sources.get("allowed-hosts") else { return Some(Vec::new()) };
        let mut hosts = Vec::new();
        for item in raw.text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match host_name(item) {
                Ok(host) => hosts.push(host),
                Err(problem) => {
                    self.fault(
                        "allowed-hosts",
                        format!("{item:?}: {problem}"),
                        "write name or name:port, e.g. db.example.com",
                    );
                    return None;
                }
            }
        }
        Some(hosts)
    }

    /// One port speaks one language: all of a cluster's URLs, or none, ask for
    /// TLS.
    pub(super) fn check_schemes(&mut self, config: &Config) {
        let core = &config.core;
        let tls = config.tls.is_some();
        let spoken = if tls { "https://" } else { "http://" };
        let set_up = "set BASE_TLS_CERT, BASE_TLS_KEY and BASE_TLS_CA on every node";
        let mend = |wrong: &Url| match tls {
            true => {
                format!("write https:// on every node, here instead of {wrong}; without TLS, leave BASE_TLS_CERT unset")
            }
            false => format!("write http:// on every node, here instead of {wrong}; for TLS, {set_up}"),
        };
        if is_tls(&core.url) != tls {
            let problem = format!("{} is not spoken here: this node speaks {spoken}", core.url);
            self.fault("local-target", problem, mend(&core.url));
        } else if let Some(other) = core.seats.iter().find(|seat| is_tls(seat) != tls) {
            let problem = format!("{other} and this node's own URL, {}, are of two kinds", core.url);
            self.fault("peers", problem, mend(other));
        }
        if core.seats.len() > 1 && config.tls.as_ref().is_some_and(|files| files.ca.is_none()) {
            self.fault(
                "tls-ca",
                "there are peers, and no CA to know their certificates by",
                "name the file of the CA that signed the nodes' certificates",
            );
        }
    }

    /// Closed by default: no peer is believed without a secret or a certificate.
    pub(super) fn check_closed(&mut self, config: &Config) {
        let peers = config.core.seats.len() > 1;
        if peers && config.cluster_secrets.is_empty() && config.tls.is_none() {
            self.fault(
                "cluster-secret",
                "there are peers and no secret, so anybody who reaches this port could pose as one of them",
                "set the same secret on every node, BASE_CLUSTER_SECRET or BASE_CLUSTER_SECRET_FILE, or have them show certificates: BASE_TLS_CERT, BASE_TLS_KEY, BASE_TLS_CA",
            );
        }
    }

    /// Without a token: looked at first, for it is what matters most.
    pub(super) fn check_open(&mut self, http: &str) {
        if !is_loopback(http) {
            self.fault(
                "token",
                format!("the node would listen beyond loopback ({http}) and let anybody read and write"),
                "set BASE_TOKEN or BASE_TOKEN_FILE, or listen on 127.0.0.1",
            );
        }
    }
}

/// Reads `host:port`, the host perhaps a bracketed IPv6 address.
pub(super) fn listen_address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
    if host.is_empty() || host.contains(['/', '@', ' ']) || (host.contains(':') && !host.starts_with('[')) {
        return Err("its host is not a name or address (IPv6 stands in brackets)".into());
    }
    match port.parse::<u16>() {
        Ok(0) => Err("port 0 would be a different one at every start, and peers could not find it".into()),
        Ok(_) => Ok(text.to_string()),
        Err(_) => Err("its port is not a number from 1 to 65535".into()),
    }
}

/// Reads `name`, `name:port`, or an address, IPv6 in brackets: what a `Host`
/// header may say.
fn host_name(text: &str) -> Result<String, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if text.contains("://") || text.contains('/') {
        return Err("it is a URL and not a host".into());
    }
    if host.contains('*') {
        return Err("patterns are not understood; name each host".into());
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let legal = match bracketed {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    if !legal {
        return Err("its host is not a name or address (IPv6 stands in brackets)".into());
    }
    if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err("its port is not a number from 1 to 65535".into());
    }
    Ok(text.to_ascii_lowercase())
}

/// Reads the URL of a member: `http://host:port` or `https://host:port`,
/// nothing more.
///
/// # Errors
/// What is wrong with it, in words.
pub fn member_url(text: &str) -> Result<Url, String> {
    let text = text.trim().trim_end_matches('/').to_ascii_lowercase();
    let place = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let place = place.ok_or("it begins with neither http:// nor https://")?;
    if place.contains(['/', '?', '#', '@']) {
        return Err("a member's URL has neither user, path nor query".into());
    }
    listen_address(place)?;
    if is_unspecified(place.rsplit_once(':').map_or(place, |(host, _)| host)) {
        return Err("this address means \"every address\" and leads nowhere".into());
    }
    if text.len() > Url::LENGTH_MAX {
        return Err(format!("it has more than {} bytes", Url::LENGTH_MAX));
    }
    Ok(Url::new(&text))
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_unspecified(host: &str) -> bool {
    address(host).is_some_and(|a| a.is_unspecified())
}

/// Whether only this machine can reach a listening address `host:port`. A name
/// other than `localhost` counts as beyond: what it means may change.
pub fn is_loopback(http: &str) -> bool {
    let host = http.rsplit_once(':').map_or(http, |(host, _)| host);
    host.eq_ignore_ascii_case("localhost") || address(host).is_some_and(|a| a.is_loopback())
}
