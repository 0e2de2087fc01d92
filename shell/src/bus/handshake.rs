//! The exchange that opens a connection between nodes.
//!
//! Decides whether both ends know the cluster secret and belong together.
//!
//! ```text
//!  client                                        server
//!    hello:   version, purpose, nonce, who  ───▶
//!         ◀───  welcome: version, verdict, nonce, who
//!    proof that the client knows the secret ───▶
//!         ◀───  verdict, proof that the server knows it
//! ```
//!
//! The client proves first: whoever merely connects to a server learns nothing
//! with which a secret could be guessed. Both nonces are in every proof and
//! key, so nothing that was recorded once is of use in another exchange.
//! Knows nothing of what the connection is for.

use super::auth::{Key, Keyring, Seal, Side, transcript};
use base_ha_core::ids::{ClusterId, NodeId};
use std::fmt;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How a hello and a welcome begin.
const MAGIC: [u8; 4] = *b"bHA\xd1";
/// The version of the exchange and of the records that follow.
pub const VERSION: u8 = 1;
/// Longest URL in a hello.
const URL_MAX: usize = base_ha_core::ids::Url::LENGTH_MAX;

/// What a connection is for; sealed into its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Purpose {
    /// Frames, both ways.
    Frames = 0,
    /// One snapshot, from server to client.
    Snapshot = 1,
}

/// Who is speaking.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its name.
    pub id: NodeId,
    /// Its cluster, [`ClusterId::NONE`] before birth.
    pub cluster: ClusterId,
    /// Where it is reached; empty in a welcome.
    pub url: String,
}

/// An opened connection's secrets, and who is at its other end.
pub struct Session {
    /// Who is at the other end.
    pub peer: Identity,
    /// Seals what this end sends.
    pub send: Seal,
    /// Checks what the other end sends.
    pub receive: Seal,
}

/// Why a connection was not opened.
#[derive(Debug)]
pub enum Refused {
    /// The other side speaks something else.
    Protocol,
    /// The other side speaks another version.
    Version(u8),
    /// The other side wants something that this end does not offer.
    Purpose(u8),
    /// The other side does not know the cluster secret.
    Secret,
    /// The other side's certificate is not that of who it says it is.
    Certificate(String),
    /// The other side belongs to another cluster.
    OtherCluster(ClusterId),
    /// The other side refused, and says why.
    ByPeer(Verdict),
    /// It took too long.
    Timeout,
    /// The connection broke.
    Io(io::Error),
}

/// What one end tells the other about why it ends the exchange. It is not
/// authenticated: good for a log line and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Verdict {
    /// Go on.
    Fine = 0,
    /// Unknown version.
    Version = 1,
    /// Unknown purpose.
    Purpose = 2,
    /// Another cluster.
    OtherCluster = 3,
    /// Wrong secret.
    Secret = 4,
    /// A certificate of somebody else.
    Certificate = 5,
    /// Anything else.
    Other = 255,
}

impl Verdict {
    fn read(byte: u8) -> Self {
        match byte {
            0 => Self::Fine,
            1 => Self::Version,
            2 => Self::Purpose,
            3 => Self::OtherCluster,
            4 => Self::Secret,
            5 => Self::Certificate,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol => f.write_str("the other side does not speak the peer protocol"),
            Self::Version(v) => {
                write!(f, "the other side speaks version {v} of the peer protocol, this node version {VERSION}")
            }
            Self::Purpose(p) => write!(f, "the other side asks for something unknown ({p})"),
            Self::Secret => f.write_str("the other side does not know the cluster secret: check BASE_CLUSTER_SECRET"),
            Self::Certificate(why) => f.write_str(why),
            Self::OtherCluster(c) => write!(f, "the other side belongs to another cluster ({c})"),
            Self::ByPeer(Verdict::Secret) => {
                f.write_str("the other side says that this node's cluster secret is wrong: check BASE_CLUSTER_SECRET")
            }
            Self::ByPeer(Verdict::Certificate) => f.write_str(
                "the other side says that this node's certificate is not that of a member: its log names the reason",
            ),
            Self::ByPeer(Verdict::OtherCluster) => {
                f.write_str("the other side says that it belongs to another cluster")
            }
            Self::ByPeer(Verdict::Version) => write!(f, "the other side does not speak version {VERSION}"),
            Self::ByPeer(v) => write!(f, "the other side refused ({v:?})"),
            Self::Timeout => f.write_str("the other side took too long"),
            Self::Io(e) => write!(f, "the connection broke: {e}"),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The dialling end's part.
///
/// # Errors
/// [`Refused`]; the connection is of no use then.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    keys: &Keyring,
    me: &Identity,
    purpose: Purpose,
    nonce: [u8; 32],
) -> Result<Session, Refused> {
    let mut hello = Vec::with_capacity(128);
    hello.extend_from_slice(&MAGIC);
    hello.push(VERSION);
    hello.push(purpose as u8);
    hello.extend_from_slice(&nonce);
    write_identity(&mut hello, me);
    stream.write_all(&hello).await?;
    stream.flush().await?;

    let mut head = [0; 6];
    stream.read_exact(&mut head).await?;
    check_head(&head)?;
    match Verdict::read(head[5]) {
        Verdict::Fine => {}
        refusal => return Err(Refused::ByPeer(refusal)),
    }
    let (welcome, peer) = read_rest(stream, &head).await?;
    check_cluster(me, &peer)?;

    let said = transcript(&[&hello, &welcome]);
    let key = keys.first();
    stream.write_all(&key.proof(Side::Client, &said)).await?;
    stream.flush().await?;
    let mut end = [0; 33];
    stream.read_exact(&mut end[..1]).await?;
    match Verdict::read(end[0]) {
        Verdict::Fine => {}
        refusal => return Err(Refused::ByPeer(refusal)),
    }
    stream.read_exact(&mut end[1..]).await?;
    let mut proof = [0; 32];
    proof.copy_from_slice(&end[1..]);
    // The server answers with the very key that the client signed with.
    let only = Keyring::of(key);
    only.verify(Side::Server, &said, &proof).ok_or(Refused::Secret)?;
    Ok(session(key, &said, Side::Client, peer))
}

/// Whether the other end may be who it says it is, by what is known of the
/// connection.
pub type Vouch<'a> = dyn Fn(&Identity) -> Result<(), String> + Send + Sync + 'a;

/// The dialled end's part; `offers` is what this connection may be for.
///
/// # Errors
/// [`Refused`]; the other end was told, the connection is of no use.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    keys: &Keyring,
    me: &Identity,
    offers: Purpose,
    nonce: [u8; 32],
    vouch: &Vouch<'_>,
) -> Result<Session, Refused> {
    match accept_inner(stream, keys, me, offers, nonce, vouch).await {
        Ok(session) => Ok(session),
        Err((refused, told)) => {
            if let Some(verdict) = told {
                // Best effort: the refusal stands whether or not it is heard.
                let _ = stream.write_all(&verdict).await;
                let _ = stream.flush().await;
            }
            Err(refused)
        }
    }
}

type Told = (Refused, Option<Vec<u8>>);

async fn accept_inner<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    keys: &Keyring,
    me: &Identity,
    offers: Purpose,
    nonce: [u8; 32],
    vouch: &Vouch<'_>,
) -> Result<Session, Told> {
    let silent = |refused: Refused| (refused, None);
    let refuse = |refused: Refused, verdict: Verdict| {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[VERSION, verdict as u8]);
        (refused, Some(out))
    };
    let mut head = [0; 6];
    stream.read_exact(&mut head).await.map_err(|e| silent(e.into()))?;
    match check_head(&head) {
        Ok(()) => {}
        Err(Refused::Version(v)) => return Err(refuse(Refused::Version(v), Verdict::Version)),
        Err(other) => return Err(silent(other)),
    }
    if head[5] != offers as u8 {
        return Err(refuse(Refused::Purpose(head[5]), Verdict::Purpose));
    }
    let (hello, peer) = read_rest(stream, &head).await.map_err(silent)?;
    if let Err(refused) = check_cluster(me, &peer) {
        return Err(refuse(refused, Verdict::OtherCluster));
    }
    if let Err(why) = vouch(&peer) {
        return Err(refuse(Refused::Certificate(why), Verdict::Certificate));
    }
    let mut welcome = Vec::with_capacity(128);
    welcome.extend_from_slice(&MAGIC);
    welcome.extend_from_slice(&[VERSION, Verdict::Fine as u8]);
    welcome.extend_from_slice(&nonce);
    write_identity(&mut welcome, me);
    stream.write_all(&welcome).await.map_err(|e| silent(e.into()))?;
    stream.flush().await.map_err(|e| silent(e.into()))?;

    let said = transcript(&[&hello, &welcome]);
    let mut proof = [0; 32];
    stream.read_exact(&mut proof).await.map_err(|e| silent(e.into()))?;
    let Some(key) = keys.verify(Side::Client, &said, &proof) else {
        return Err((Refused::Secret, Some(vec![Verdict::Secret as u8])));
    };
    let mut end = vec![Verdict::Fine as u8];
    end.extend_from_slice(&key.proof(Side::Server, &said));
    stream.write_all(&end).await.map_err(|e| silent(e.into()))?;
    stream.flush().await.map_err(|e| silent(e.into()))?;
    Ok(session(key, &said, Side::Server, peer))
}

fn session(key: Key, said: &[u8; 32], me: Side, peer: Identity) -> Session {
    let other = match me {
        Side::Client => Side::Server,
        Side::Server => Side::Client,
    };
    Session { peer, send: key.seal(me, said), receive: key.seal(other, said) }
}

fn check_head(head: &[u8; 6]) -> Result<(), Refused> {
    if head[..4] != MAGIC {
        return Err(Refused::Protocol);
    }
    if head[4] != VERSION {
        return Err(Refused::Version(head[4]));
    }
    Ok(())
}

/// Two known clusters must be one; "none yet" goes with all, for the core
/// decides about founding and joining.
fn check_cluster(me: &Identity, peer: &Identity) -> Result<(), Refused> {
    let foreign = me.cluster != ClusterId::NONE && peer.cluster != ClusterId::NONE && me.cluster != peer.cluster;
    if foreign { Err(Refused::OtherCluster(peer.cluster)) } else { Ok(()) }
}

fn write_identity(out: &mut Vec<u8>, who: &Identity) {
    assert!(who.url.len() <= URL_MAX, "own URL was checked by the configuration");
    out.extend_from_slice(&who.cluster.0.to_le_bytes());
    // A node id has at most 64 bytes, a URL at most 512.
    out.push(who.id.as_str().len() as u8);
    out.extend_from_slice(&(who.url.len() as u16).to_le_bytes());
    out.extend_from_slice(who.id.as_str().as_bytes());
    out.extend_from_slice(who.url.as_bytes());
}

/// Reads nonce and identity; returns the whole message for the transcript.
async fn read_rest<S: AsyncRead + Unpin>(stream: &mut S, head: &[u8; 6]) -> Result<(Vec<u8>, Identity), Refused> {
    const FIXED: usize = 32 + 16 + 1 + 2;
    let mut message = head.to_vec();
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).await?;
    message.extend_from_slice(&fixed);
    let mut cluster = [0; 16];
    cluster.copy_from_slice(&fixed[32..48]);
    let id_length = usize::from(fixed[48]);
    let url_length = usize::from(u16::from_le_bytes([fixed[49], fixed[50]]));
    if id_length > NodeId::LENGTH_MAX || url_length > URL_MAX {
        return Err(Refused::Protocol);
    }
    let mut texts = vec![0; id_length + url_length];
    stream.read_exact(&mut texts).await?;
    message.extend_from_slice(&texts);
    let texts = std::str::from_utf8(&texts).map_err(|_| Refused::Protocol)?;
    let (id, url) = texts.split_at_checked(id_length).ok_or(Refused::Protocol)?;
    let id = NodeId::new(id).map_err(|_| Refused::Protocol)?;
    let cluster = ClusterId(u128::from_le_bytes(cluster));
    Ok((message, Identity { id, cluster, url: url.to_owned() }))
}
