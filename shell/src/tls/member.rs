//! Whom a peer's certificate may speak for.
//!
//! Decides who is let in by mutual TLS. A certificate names hosts; members and
//! seats have URLs: what joins them is that a member's certificate is made for
//! the host of its URL. So the CA may sign certificates for clients and other
//! services as well: none of them can pose as a member.
//!
//! | who says so | is let in if the certificate is made for |
//! |---|---|
//! | a member by its name | the host of that member's URL in the membership |
//! | somebody else, at a member's URL | the host of that URL |
//! | anybody who also proves the cluster secret | the host of the URL that it says is its own |
//!
//! Before a node knows any membership, the seats of its settings stand for it.
//! Members on one host can't be told apart by their certificates.
//!
//! The secret is what admits strangers and members that moved; where there is
//! none, an administrator's order does (`cluster add`, `cluster set-url`).

use super::host_of;
use base_ha_core::ids::{NodeId, Url};
use base_ha_core::member::{Member, Membership};
use std::fmt;
use std::sync::Arc;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;

/// A certificate that the cluster's CA signed.
#[derive(Clone)]
pub struct Certificate(Arc<CertificateDer<'static>>);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate of {} bytes", self.0.len())
    }
}

impl Certificate {
    /// Takes a certificate that was verified.
    pub(super) fn new(der: &CertificateDer<'_>) -> Self {
        Self(Arc::new(der.clone().into_owned()))
    }

    /// Whether it is made for the host of `url`, by a subjectAltName.
    pub fn is_for(&self, url: &Url) -> bool {
        let Ok(host) = host_of(url) else { return false };
        let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(&*self.0), ServerName::try_from(host)) else {
            return false;
        };
        verify_server_name(&parsed, &name).is_ok()
    }
}

/// Whom this node knows.
pub struct Known<'a> {
    /// The members, once there is a cluster.
    pub membership: Option<&'a Membership>,
    /// The seats of the settings, until then.
    pub seats: &'a [Url],
}

impl Known<'_> {
    fn members(&self) -> &[Member] {
        self.membership.map_or(&[], |membership| &membership.members)
    }

    fn urls(&self) -> impl Iterator<Item = &Url> {
        let seats = if self.members().is_empty() { self.seats } else { &[] };
        self.members().iter().map(|member| &member.url).chain(seats)
    }

    /// Whether a certificate is that of any member.
    pub fn has(&self, certificate: &Certificate) -> bool {
        self.urls().any(|url| certificate.is_for(url))
    }

    /// Lets a peer in that says it is `id` at `url`; `secret` if it must prove
    /// the cluster secret as well.
    ///
    /// # Errors
    /// Why not, for both ends' logs.
    pub fn admit(&self, certificate: &Certificate, id: &NodeId, url: &Url, secret: bool) -> Result<(), String> {
        if !certificate.is_for(url) {
            return Err(format!("{id} says that it is at {url}, and its certificate is not made for that host"));
        }
        if secret {
            return Ok(());
        }
        if let Some(member) = self.members().iter().find(|member| member.id() == Some(id)) {
            if certificate.is_for(&member.url) {
                return Ok(());
            }
            return Err(format!(
                "its certificate is not made for the host of {id}, a member at {}; if it moved, say so: base-ha cluster set-url {id} {url}",
                member.url
            ));
        }
        if self.urls().any(|known| certificate.is_for(known)) {
            return Ok(());
        }
        Err(format!("no member is at the host of {url}: add it first by base-ha cluster add {url}"))
    }
}
