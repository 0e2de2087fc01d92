//! Files that are fit and files that aren't, connections both ways, and whom a
//! certificate may speak for.

use super::material::{Clock, Identity, Material};
use super::member::{Certificate, Known};
use super::stream::{NotAccepted, accept};
use super::{Dialler, Reloaded, Tls};
use crate::config::TlsFiles;
use crate::env::Env;
use crate::env::real::RealEnv;
use base_ha_core::ids::{ClusterId, ConfigVersion, Incarnation, Lineage, NodeId, Url};
use base_ha_core::member::{Member, Membership, QuorumMode, Role};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params(host: &str) -> CertificateParams {
    CertificateParams::new(vec![host.to_owned()]).unwrap()
}

/// The files of a node: signed by `signer`, to be believed by `trusted`.
fn files(dir: &Path, params: &CertificateParams, signer: &Ca, trusted: Option<&Ca>) -> TlsFiles {
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, signer).unwrap();
    let write = |name: &str, text: String| -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        cert: write("cert.pem", cert.pem()),
        key: write("key.pem", key.serialize_pem()),
        ca: trusted.map(|ca| write("ca.pem", ca.pem())),
    }
}

fn check(files: &TlsFiles, host: &str) -> Result<Identity, String> {
    Identity::new(files, &Material::read(files)?, host, &Arc::new(Clock::of(RealEnv)))
}

#[test]
fn files_that_peers_would_not_believe_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (ca("ours"), ca("other"));
    let refused = |files: &TlsFiles, host: &str, parts: &[&str]| {
        let reason = check(files, host).expect_err("these are not fit");
        for part in parts {
            assert!(reason.contains(part), "{part:?} is missing in {reason}");
        }
    };
    let fine = files(dir.path(), &params("127.0.0.1"), &ours, Some(&ours));
    assert!(check(&fine, "127.0.0.1").is_ok());
    refused(&fine, "10.0.0.1", &["BASE_TLS_CERT", "is not made for 10.0.0.1", "subjectAltName"]);

    let foreign = files(dir.path(), &params("127.0.0.1"), &other, Some(&ours));
    refused(&foreign, "127.0.0.1", &["BASE_TLS_CERT", "was not signed by a CA in", "ca.pem"]);
    // Without a CA there is nobody who has to believe it but clients.
    let alone = files(dir.path(), &params("127.0.0.1"), &other, None);
    assert!(check(&alone, "10.0.0.1").is_ok());

    let mut old = params("127.0.0.1");
    (old.not_before, old.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    refused(&files(dir.path(), &old, &ours, Some(&ours)), "127.0.0.1", &["expired on 2021-01-01 00:00:00 UTC"]);
    let mut early = params("127.0.0.1");
    early.not_before = date_time_ymd(2190, 1, 1);
    refused(&files(dir.path(), &early, &ours, Some(&ours)), "127.0.0.1", &["not valid before 2190-01-01"]);
    let mut server = params("127.0.0.1");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    refused(&files(dir.path(), &server, &ours, Some(&ours)), "127.0.0.1", &["serverAuth and clientAuth"]);

    let good = files(dir.path(), &params("127.0.0.1"), &ours, Some(&ours));
    fs::write(&good.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    refused(&good, "127.0.0.1", &["BASE_TLS_KEY", "is not the key of"]);
    fs::write(&good.key, "nothing").unwrap();
    refused(&good, "127.0.0.1", &["BASE_TLS_KEY", "holds no private key"]);
    fs::write(&good.cert, "nothing").unwrap();
    refused(&good, "127.0.0.1", &["BASE_TLS_CERT", "holds no certificate"]);
    fs::remove_file(&good.cert).unwrap();
    refused(&good, "127.0.0.1", &["BASE_TLS_CERT", "can't be read"]);
}

#[test]
fn replaced_files_are_used_and_unfit_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let ours = ca("ours");
    let first = files(dir.path(), &params("127.0.0.1"), &ours, Some(&ours));
    let tls = Tls::open(&RealEnv, &first, &Url::new("https://127.0.0.1:1")).unwrap();
    let before = tls.identity();
    assert_eq!(tls.reload(), Reloaded::Same);
    files(dir.path(), &params("10.0.0.1"), &ours, Some(&ours));
    assert!(matches!(tls.reload(), Reloaded::Unfit(reason) if reason.contains("not made for 127.0.0.1")));
    assert!(Arc::ptr_eq(&before, &tls.identity()), "what was in use stays");
    let mut until = params("127.0.0.1");
    until.not_after = date_time_ymd(2100, 1, 1);
    files(dir.path(), &until, &ours, Some(&ours));
    assert_eq!(tls.reload(), Reloaded::Renewed);
    assert_eq!(tls.identity().expires.0, 4_102_444_800_000);
}

/// A connection from a node with `dialling` files to one with `accepting`.
async fn meet(dialling: TlsFiles, accepting: TlsFiles) -> (Result<bool, String>, Result<(), String>) {
    let env = RealEnv;
    let mut listener = env.bind("127.0.0.1:0").await.unwrap();
    let url = Url::new(&format!("https://{}", listener.local_addr().unwrap()));
    let tls = Tls::open(&env, &accepting, &url).unwrap();
    let dialler = Dialler::new(env, Some(Tls::open(&env, &dialling, &url).unwrap()));
    let accepting = async {
        let (stream, _) = env.accept(&mut listener).await.unwrap();
        let (mut stream, shown) = accept(Some(&tls), stream).await.map_err(|error| error.to_string())?;
        stream.write_all(b"hi").await.unwrap();
        stream.flush().await.unwrap();
        Ok(shown.certificate.is_some_and(|certificate| certificate.is_for(&url)) && shown.modern)
    };
    let dialled = async {
        let mut stream = dialler.connect(&url).await.map_err(|error| error.to_string())?;
        let mut said = [0; 2];
        // A server's refusal of a certificate is heard here (TLS 1.3).
        stream.read_exact(&mut said).await.map_err(|error| super::stream::explain(&error))?;
        assert_eq!(&said, b"hi");
        Ok(())
    };
    tokio::join!(accepting, dialled)
}

#[tokio::test]
async fn both_ends_prove_themselves_or_nothing_is_said() {
    let (ours, other) = (ca("ours"), ca("other"));
    let dir = || tempfile::tempdir().unwrap();
    let (a, b, c) = (dir(), dir(), dir());
    let one = files(a.path(), &params("127.0.0.1"), &ours, Some(&ours));
    let two = files(b.path(), &params("127.0.0.1"), &ours, Some(&ours));
    assert_eq!(meet(one.clone(), two.clone()).await, (Ok(true), Ok(())));

    let stranger = files(c.path(), &params("127.0.0.1"), &other, Some(&other));
    let (accepted, dialled) = meet(stranger.clone(), two).await;
    assert!(accepted.is_err() && dialled.unwrap_err().contains("was not signed by the CA that is trusted here"));
    let (accepted, dialled) = meet(one, stranger).await;
    assert!(accepted.is_err() && dialled.is_err());
}

#[tokio::test]
async fn http_in_clear_is_told_that_this_port_speaks_tls() {
    let dir = tempfile::tempdir().unwrap();
    let ours = ca("ours");
    let node = files(dir.path(), &params("127.0.0.1"), &ours, None);
    let tls = Tls::open(&RealEnv, &node, &Url::new("https://127.0.0.1:1")).unwrap();
    let (mut near, far) = tokio::io::duplex(4096);
    let refused = tokio::spawn(async move { accept(Some(&tls), far).await.err() });
    near.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("tls_only"), "{answer}");
    assert!(matches!(refused.await.unwrap(), Some(NotAccepted::Clear)));
}

#[test]
fn a_certificate_speaks_for_its_own_member_only() {
    let ours = ca("ours");
    let shown = |host: &str| {
        let key = KeyPair::generate().unwrap();
        Certificate::new(params(host).signed_by(&key, &ours).unwrap().der())
    };
    let id = |name: &str| NodeId::new(name).unwrap();
    let member = |name: &str, host: &str| Member {
        identity: Some((id(name), Incarnation(1))),
        target: None,
        url: Url::new(&format!("https://{host}:1")),
        role: Role::Voter,
    };
    let membership = Membership {
        version: ConfigVersion(1),
        cluster: ClusterId(1),
        lineage: Lineage(0),
        mode: QuorumMode::Majority,
        members: vec![member("a", "host-a"), member("b", "host-b")],
    };
    let seats = [Url::new("https://host-a:1"), Url::new("https://host-s:1")];
    let known = Known { membership: Some(&membership), seats: &seats };
    let admit =
        |host: &str, name: &str, url: &str, secret: bool| known.admit(&shown(host), &id(name), &Url::new(url), secret);
    assert_eq!(admit("host-a", "a", "https://host-a:1", false), Ok(()));
    assert_eq!(admit("host-b", "n", "https://host-b:1", false), Ok(()), "a new name at a member's place");
    assert!(admit("host-s", "s", "https://host-s:1", false).is_err(), "a seat that is no member");
    let unborn = Known { membership: None, seats: &seats };
    assert_eq!(unborn.admit(&shown("host-s"), &id("s"), &seats[1], false), Ok(()));
    assert!(unborn.has(&shown("host-s")) && !unborn.has(&shown("host-b")));
    let why = |result: Result<(), String>| result.expect_err("must be refused");
    assert!(why(admit("host-b", "a", "https://host-a:1", false)).contains("not made for that host"));
    assert!(why(admit("host-b", "a", "https://host-b:1", false)).contains("base-ha cluster set-url a"), "b poses as a");
    assert!(why(admit("host-x", "x", "https://host-x:1", false)).contains("base-ha cluster add"), "a stranger");
    assert_eq!(admit("host-x", "x", "https://host-x:1", true), Ok(()), "a stranger with the secret");
    assert!(why(admit("host-x", "a", "https://host-a:1", true)).contains("not made for that host"));
    assert!(known.has(&shown("host-b")) && !known.has(&shown("host-s")));
}
