//! Certificates for nodes under test.
//!
//! Decides what is in them. They are made anew for each test.

use crate::Cluster;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A CA and a directory for what it signs.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    name: String,
}

impl Ca {
    /// A new one; its own certificate is written to `dir`.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a CA");
        let ca = Self { issuer, dir: dir.to_owned(), name: name.to_owned() };
        fs::write(ca.file(), ca.issuer.pem()).expect("a writable directory");
        ca
    }

    /// The file of its own certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.join(format!("{}.pem", self.name))
    }

    /// Writes the files `NAME.crt` and `NAME.key` for these hosts; the
    /// certificate is valid from a day ago until `valid` from now, which is
    /// over already if it is none.
    ///
    /// # Panics
    /// If they can't be made.
    pub fn sign(&self, name: &str, hosts: &[&str], valid: Option<Duration>) -> (PathBuf, PathBuf) {
        const DAY: Duration = Duration::from_secs(24 * 3_600);
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("hosts");
        params.distinguished_name.push(DnType::CommonName, name);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + (now - DAY);
        params.not_after = epoch + valid.map_or(now - DAY / 2, |valid| now + valid);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let (cert_file, key_file) = (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        fs::write(&cert_file, certificate.pem()).expect("a writable directory");
        fs::write(&key_file, key.serialize_pem()).expect("a writable directory");
        (cert_file, key_file)
    }
}

/// How long certificates of tests are valid, where it does not matter.
pub const LONG: Option<Duration> = Some(Duration::from_secs(365 * 24 * 3_600));

/// A cluster that was not started yet, over mutual TLS and without a cluster
/// secret.
pub struct TlsCluster {
    /// The nodes.
    pub cluster: Cluster,
    /// Who signed their certificates.
    pub ca: Ca,
    home: tempfile::TempDir,
}

impl TlsCluster {
    /// Nodes whose certificates are made for 127.0.0.1.
    ///
    /// # Panics
    /// If there is no temporary directory.
    pub fn new(size: usize) -> Self {
        let home = tempfile::Builder::new().prefix("base-ha-tls-").tempdir().expect("a temporary directory");
        let ca = Ca::new(home.path(), "ca");
        let mut tls = Self { cluster: Cluster::new(size), ca, home };
        tls.encrypt();
        tls
    }

    /// A cluster as every other: [`TlsCluster::encrypt`] comes later.
    ///
    /// # Panics
    /// As [`TlsCluster::new`].
    pub fn plain(size: usize) -> Self {
        let mut tls = Self::new(size);
        tls.cluster = Cluster::new(size);
        tls
    }

    /// Has every node speak TLS from its next start on.
    ///
    /// # Panics
    /// If certificates can't be made.
    pub fn encrypt(&mut self) {
        for node in self.cluster.nodes_mut() {
            let files = self.ca.sign(&node.name, &["127.0.0.1"], LONG);
            node.env.remove("BASE_CLUSTER_SECRET");
            node.set("BASE_LOCAL_TARGET", &format!("https://127.0.0.1:{}", node.port));
            node.set("BASE_PEERS", &node.env["BASE_PEERS"].replace("http://", "https://"));
            node.use_certificate(&files);
            node.set("BASE_TLS_CA", &self.ca.file().display().to_string());
        }
    }

    /// The directory of the certificates.
    pub fn dir(&self) -> &Path {
        self.home.path()
    }
}
