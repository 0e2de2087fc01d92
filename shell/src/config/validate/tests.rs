//! The validator, by example: what is set, and what it says.

use super::*;
use crate::config::sources::Given;

const SECRET: &str = "0123456789abcdef";

fn settle_env(environment: &[(&str, &str)]) -> Result<Settled, String> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut environment: Vec<(String, String)> =
        environment.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect();
    if !environment.iter().any(|(n, _)| n == "BASE_DIR") {
        environment.push(("BASE_DIR".into(), dir.path().display().to_string()));
    }
    let joined = |faults: Vec<Fault>| faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n");
    let sources = Sources::gather(Given { environment, ..Given::default() }).map_err(joined)?;
    settle(&sources).map_err(joined)
}

#[track_caller]
fn refused(environment: &[(&str, &str)], parts: &[&str]) {
    let text = settle_env(environment).expect_err("this must be refused");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn nothing_set_is_a_cluster_of_one_on_loopback() {
    let settled = settle_env(&[]).expect("legal");
    let c = settled.config;
    assert_eq!(c.http, "127.0.0.1:8090");
    assert_eq!(c.core.url.as_str(), "http://127.0.0.1:8090");
    assert_eq!(c.core.id.as_str(), "127.0.0.1-8090");
    assert_eq!(c.core.seats, vec![c.core.url.clone()]);
    assert_eq!((c.core.heartbeat, c.core.lease), (Duration::from_millis(500), Duration::from_millis(1500)));
    assert_eq!(c.ack, Ack::Majority);
    assert!(c.token.is_none() && c.cluster_secrets.is_empty());
    assert!(settled.warnings.is_empty(), "{:?}", settled.warnings);
}

#[test]
fn the_tables_defaults_are_the_codes_defaults() {
    let c = settle_env(&[]).expect("legal").config;
    let plain = Config::new(c.core.id.clone(), c.core.url.clone(), vec![], c.http.clone(), c.dir.clone());
    assert_eq!(format!("{plain:?}"), format!("{c:?}"));
}

#[test]
fn a_whole_cluster_is_read() {
    let settled = settle_env(&[
        ("BASE_HTTP", "10.0.0.1:9000"),
        ("BASE_NODE_ID", "base-0"),
        ("BASE_PEERS", "http://10.0.0.1:9000/, http://10.0.0.2:9000,http://10.0.0.3:9000"),
        ("BASE_CLUSTER_SECRET", "new-secret-new-secret, old-secret-old-secret"),
        ("BASE_TOKEN", "tttttttttttttttt"),
        ("BASE_HEARTBEAT", "100ms"),
        ("BASE_ACK", "ALL"),
        ("BASE_FORWARD", "redirect"),
        ("BASE_ADMIT", "manual"),
        ("BASE_STATIC_WRITER", "http://10.0.0.2:9000"),
        ("BASE_LOG_MAX_BYTES", "64MiB"),
    ])
    .expect("legal");
    let c = settled.config;
    assert_eq!(c.core.seats.len(), 3);
    assert_eq!(c.core.lease, Duration::from_millis(300));
    assert_eq!(c.cluster_secrets.len(), 2);
    assert_eq!(c.cluster_secrets[1].expose(), "old-secret-old-secret");
    assert_eq!((c.ack, c.forward, c.core.admit_auto), (Ack::All, Forward::Redirect, false));
    assert_eq!(c.log_bytes_max, 64 << 20);
    assert!(settled.warnings.iter().any(|w| w.contains("SQL and tokens travel in clear")), "{:?}", settled.warnings);
}

#[test]
fn allowed_hosts_are_names_and_nothing_else() {
    let hosts = |text: &str| settle_env(&[("BASE_ALLOWED_HOSTS", text)]).expect("legal").config.allowed_hosts;
    assert_eq!(hosts("DB.example.com, lb:8443,,[2001:DB8::1]:80"), ["db.example.com", "lb:8443", "[2001:db8::1]:80"]);
    for (text, why) in [
        ("https://db.example.com", "a URL"),
        ("db.example.com/", "a URL"),
        ("*.example.com", "patterns"),
        ("*", "patterns"),
        ("2001:db8::1", "IPv6 stands in brackets"),
        ("lb:0", "port"),
        ("lb:x", "port"),
        ("a b", "not a name"),
        (":80", "not a name"),
    ] {
        refused(&[("BASE_ALLOWED_HOSTS", text)], &["BASE_ALLOWED_HOSTS", why, "mend: "]);
    }
}

#[test]
fn values_are_refused_with_name_place_value_and_mend() {
    refused(&[("BASE_HEARTBEAT", "500")], &["BASE_HEARTBEAT = \"500\" (environment)", "needs a unit", "mend: "]);
    refused(&[("BASE_HEARTBEAT", "1ms")], &["between 10 ms and 60 s"]);
    refused(&[("BASE_LEASE", "600ms")], &["BASE_LEASE = \"600ms\"", "two heartbeats", "mend: use 1s or more"]);
    refused(&[("BASE_HTTP", "8090")], &["BASE_HTTP", "no port"]);
    refused(&[("BASE_HTTP", "127.0.0.1:0")], &["port 0"]);
    refused(&[("BASE_NODE_ID", "a b")], &["BASE_NODE_ID", "byte 0x20"]);
    refused(&[("BASE_ACK", "most")], &["mend: use local or majority or all"]);
    refused(&[("BASE_WITNESS", "maybe")], &["BASE_WITNESS"]);
    refused(&[("BASE_MAX_ROWS", "-1")], &["BASE_MAX_ROWS"]);
    refused(&[("BASE_MAX_BODY", "1GiB")], &["BASE_MAX_BODY", "64 MiB"]);
    refused(&[("BASE_LOG_LEVEL", "base_ha=loud=very")], &["BASE_LOG_LEVEL"]);
    refused(&[("BASE_LOG_LEVEL", "loud")], &["BASE_LOG_LEVEL", "loud", "is no level"]);
    refused(&[("BASE_LOG_LEVEL", "info,loud")], &["BASE_LOG_LEVEL", "is no level"]);
    assert!(settle_env(&[("BASE_LOG_LEVEL", "warn,base_ha::bus=debug")]).is_ok());
    refused(
        &[("BASE_PEERS", "https://a:1"), ("BASE_CLUSTER_SECRET", SECRET)],
        &["BASE_PEERS", "https://a:1 and this node's own URL", "are of two kinds", "for TLS, set BASE_TLS_CERT"],
    );
    refused(&[("BASE_PEERS", "http://a:1/path"), ("BASE_CLUSTER_SECRET", SECRET)], &["neither user, path nor query"]);
    refused(&[("BASE_PEERS", "a:1"), ("BASE_CLUSTER_SECRET", SECRET)], &["begins with neither http:// nor https://"]);
    refused(&[("BASE_STATIC_WRITER", "http://b:1")], &["BASE_STATIC_WRITER", "one of the seats"]);
    refused(&[("BASE_WITNESS", "true")], &["BASE_WITNESS", "a witness stores no data"]);
    // Two faults are told at once.
    refused(&[("BASE_ACK", "most"), ("BASE_MAX_ROWS", "x")], &["BASE_ACK", "BASE_MAX_ROWS"]);
}

#[test]
fn tls_is_all_or_nothing() {
    const CERT: (&str, &str) = ("BASE_TLS_CERT", "c.pem");
    const KEY: (&str, &str) = ("BASE_TLS_KEY", "k.pem");
    const CA: (&str, &str) = ("BASE_TLS_CA", "ca.pem");
    refused(&[CERT], &["BASE_TLS_KEY", "BASE_TLS_CERT is set and this is not"]);
    refused(&[KEY], &["BASE_TLS_CERT", "BASE_TLS_KEY is set and this is not"]);
    refused(&[CA], &["BASE_TLS_CERT", "BASE_TLS_CA is set and this is not"]);
    let mixed = ("BASE_PEERS", "https://a:1,http://b:1");
    refused(&[CERT, KEY, CA, mixed], &["BASE_PEERS", "http://b:1 and this node's own URL", "write https://"]);
    refused(&[CERT, KEY, ("BASE_PEERS", "https://a:1")], &["BASE_TLS_CA", "no CA to know their certificates by"]);
    refused(&[CERT, KEY, ("BASE_LOCAL_TARGET", "http://a:1")], &["BASE_LOCAL_TARGET", "speaks https://"]);
    refused(&[("BASE_LOCAL_TARGET", "https://a:1")], &["BASE_LOCAL_TARGET", "speaks http://"]);

    // A certificate of the cluster's CA stands for the secret.
    let settled = settle_env(&[CERT, KEY, CA, ("BASE_PEERS", "https://a:1")]).expect("legal");
    assert_eq!(settled.config.core.url.as_str(), "https://127.0.0.1:8090");
    assert_eq!(settled.config.tls.and_then(|files| files.ca), Some("ca.pem".into()));
    let beyond = [CERT, KEY, ("BASE_HTTP", "10.0.0.1:1"), ("BASE_TOKEN", "tttttttttttttttt")];
    let settled = settle_env(&beyond).expect("legal");
    assert!(!settled.warnings.iter().any(|w| w.contains("in clear")), "{:?}", settled.warnings);
}

#[test]
fn parts_of_later_versions_are_refused_with_the_reason() {
    refused(&[("BASE_QUORUM", "none")], &["BASE_QUORUM = \"none\"", "needs merging", "use `majority`"]);
    refused(&[("BASE_WRITERS", "any")], &["BASE_WRITERS = \"any\"", "needs merging"]);
    refused(&[("BASE_CONSENSUS", "pubsub")], &["broker is not in this version"]);
    refused(&[("BASE_QUORUM", "two")], &["this value is not known"]);
    refused(&[("BASE_SUPERUSER_EMAIL", "a@b.c")], &["BASE_SUPERUSER_EMAIL", "no user administration"]);
    let text = settle_env(&[("BASE_SUPERUSER_PASSWORD", "hunter2hunter2")]).expect_err("refused");
    assert!(text.contains("no user administration") && !text.contains("hunter2"), "{text}");
}

#[test]
fn nothing_starts_open() {
    refused(
        &[("BASE_PEERS", "http://127.0.0.1:8091")],
        &["--cluster-secret / BASE_CLUSTER_SECRET", "pose as one of them"],
    );
    refused(&[("BASE_HTTP", "192.0.2.1:8090")], &["--token / BASE_TOKEN", "beyond loopback"]);
    refused(&[("BASE_HTTP", "example.org:8090")], &["beyond loopback"]);
    // What would leave it open comes first, whatever else is missing.
    let text = settle_env(&[("BASE_HTTP", "0.0.0.0:8090")]).expect_err("open");
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is missing in {text}"));
    assert!(at("beyond loopback") < at("BASE_LOCAL_TARGET"), "{text}");
    refused(
        &[("BASE_HTTP", "0.0.0.0:8090"), ("BASE_TOKEN", SECRET)],
        &["BASE_LOCAL_TARGET", "its own URL can't be known"],
    );
    refused(&[("BASE_TOKEN", "short")], &["BASE_TOKEN = \"***\"", "at least 16 bytes"]);
    refused(&[("BASE_TOKEN", "tttttttttttttttt tttt")], &["blanks"]);
    refused(&[("BASE_CLUSTER_SECRET", "0123456789abcdef,")], &["at least 16 bytes"]);
    let three = format!("{SECRET},{SECRET},{SECRET}");
    refused(&[("BASE_CLUSTER_SECRET", &three)], &["more than two secrets"]);
    for local in ["localhost:8090", "127.0.0.2:8090", "[::1]:8090"] {
        assert!(settle_env(&[("BASE_HTTP", local)]).is_ok(), "{local}");
    }
}

#[test]
fn secrets_come_from_files_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).expect("writable");
    let file = file.display().to_string();
    let settled = settle_env(&[("BASE_CLUSTER_SECRET_FILE", &file), ("BASE_TOKEN_FILE", &file)]).expect("legal");
    assert_eq!(settled.config.token, Some(Secret::new(SECRET)));
    assert_eq!(settled.config.cluster_secrets, vec![Secret::new(SECRET)]);
    refused(&[("BASE_TOKEN_FILE", &file), ("BASE_TOKEN", SECRET)], &["both this and BASE_TOKEN are set"]);
    refused(&[("BASE_TOKEN_FILE", "/nonexistent/secret")], &["BASE_TOKEN_FILE", "can't be read"]);
}

#[test]
fn a_directory_keeps_its_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().display().to_string();
    identity::keep(&crate::env::files::RealFiles, dir.path(), &NodeId::new("base-7").expect("legal"))
        .expect("writable");
    let settled = settle_env(&[("BASE_DIR", &path)]).expect("legal");
    assert_eq!(settled.config.core.id.as_str(), "base-7");
    refused(&[("BASE_DIR", &path), ("BASE_NODE_ID", "base-8")], &["belongs to the node base-7", "mend: use base-7"]);
}

#[test]
fn two_nodes_are_told_of_the_witness() {
    let settled =
        settle_env(&[("BASE_PEERS", "http://127.0.0.1:8091"), ("BASE_CLUSTER_SECRET", SECRET)]).expect("legal");
    assert!(settled.notes.iter().any(|n| n.contains("BASE_WITNESS=true")), "{:?}", settled.notes);
}

#[test]
fn a_secret_on_the_command_line_is_warned_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let flags = vec![("token", SECRET.to_string()), ("dir", dir.path().display().to_string())];
    let sources = Sources::gather(Given { flags, ..Given::default() }).expect("legal");
    let settled = settle(&sources).expect("legal");
    assert!(settled.warnings[0].contains("--token on the command line"), "{:?}", settled.warnings);
    assert!(!format!("{:?}", settled.config).contains(SECRET), "secrets are never printed");
}
