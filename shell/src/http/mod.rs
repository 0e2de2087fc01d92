//! HTTP: SQL, tokens, forwarding, administration, health.
//!
//! Decides what each request may do and where it is done: here, or at the
//! writer. It holds no state that outlives a request but keys, limits and kept
//! connections ([`State`]); who writes comes from `App::view`, what the data
//! contains from `App::applied`.
//!
//! | file | its noun |
//! |---|---|
//! | `server`, `meter` | connections: their loop, limits, deadlines |
//! | `route` | which handler a request belongs to |
//! | `guard` | credentials, and requests of foreign web pages |
//! | `options` | what a SQL request asks for beside its SQL |
//! | `query`, `read`, `write` | SQL, and where it runs |
//! | `session` | tokens: what a client has seen, and what it is given |
//! | `forward`, `replay`, `client` | passing a request on to the writer, once |
//! | `ha`, `admin`, `health` | the cluster as seen from outside |
//! | `copies`, `kept` | whole copies of the data, and those that stay |
//! | `feed`, `changes` | what was committed, as it is committed |
//! | `conflicts` | what was written and never committed |
//! | `respond`, `body` | answers and bodies |
//! | `sql` | what this module asks of the store's readers |

mod admin;
mod body;
mod changes;
pub mod client;
mod conflicts;
mod copies;
mod feed;
mod forward;
mod guard;
mod ha;
mod health;
mod kept;
mod meter;
mod options;
mod query;
mod read;
mod replay;
mod respond;
mod route;
mod server;
mod session;
mod sql;
mod write;
mod writer;

#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::env::Env;
use crate::tls::{Dialler, Tls};
use crate::token;
use client::Client;
use hyper::body::Incoming;
use hyper::{Request, Response};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::Semaphore;

pub use forward::{FORWARDED, Keys as ForwardKeys};
pub(crate) use respond::date_time;
pub(crate) use respond::error as refusal;
pub use respond::{Body, LEADER, REPLAYED, REQUEST_ID, STALENESS, TERM, TXSEQ};
pub use route::Route;
pub use server::serve;
pub use sql::{LocalData, Sql};

/// A future behind a pointer: the price of a seam that tests stand behind.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Answers peers. It checks their credentials itself: the cluster's secret,
/// not the clients' token.
pub trait PeerEndpoint: Send + Sync + 'static {
    /// `GET /_ha/peer`: the request is to be upgraded
    /// ([`hyper::upgrade::on`]) and the connection is the endpoint's from then
    /// on, its deadlines included.
    fn peer(&self, request: Request<Incoming>) -> Later<'static, Response<Body>>;

    /// `GET /_ha/snapshot`: the database as it is, for a member that joins or
    /// is repaired.
    fn snapshot(&self, request: Request<Incoming>) -> Later<'static, Response<Body>>;
}

/// What HTTP tasks share among themselves.
pub struct State<E: Env> {
    /// Seals and opens session tokens.
    pub tokens: token::Keys,
    /// Signs and checks what nodes pass on to each other.
    pub forward: ForwardKeys,
    /// Reaches the other nodes.
    pub client: Client<E>,
    /// BLAKE3 of `BASE_TOKEN`: digests are compared, so that not even the
    /// token's length shows in the time it takes.
    bearer: Option<blake3::Hash>,
    /// One permit a write that the store holds.
    writes: Arc<Semaphore>,
    /// One permit a read that waits for its session's position.
    waiters: Semaphore,
    /// One permit a copy of the data being made: each costs a whole pass over
    /// the file, and disk space.
    copies: Arc<Semaphore>,
    /// One permit a change feed.
    feeds: Arc<Semaphore>,
}

impl<E: Env> State<E> {
    /// Sessions that may wait at once.
    const WAITERS_MAX: usize = 1_024;
    /// Copies of the data that may be made at once.
    const COPIES_MAX: usize = 2;
    /// Change feeds at once: each holds a batch of the log in memory.
    const FEEDS_MAX: usize = 64;

    /// Derives keys and limits from the settings. `own_key` is the data
    /// directory's ([`token::own_key`]); it is used where a node is alone:
    /// there is neither a cluster secret nor mutual TLS.
    pub fn new(dialler: Dialler<E>, config: &Config, own_key: [u8; 32]) -> Self {
        let mutual = dialler.tls().is_some_and(Tls::is_mutual);
        Self {
            tokens: match mutual {
                true => token::Keys::with_mutual_tls(&config.cluster_secrets),
                false => token::Keys::new(&config.cluster_secrets, own_key),
            },
            forward: ForwardKeys::new(&config.cluster_secrets, mutual),
            client: Client::new(dialler),
            bearer: config.token.as_ref().map(|token| blake3::hash(token.expose().as_bytes())),
            writes: Arc::new(Semaphore::new(config.limits.write_queue_max)),
            waiters: Semaphore::new(Self::WAITERS_MAX),
            copies: Arc::new(Semaphore::new(Self::COPIES_MAX)),
            feeds: Arc::new(Semaphore::new(Self::FEEDS_MAX)),
        }
    }
}
