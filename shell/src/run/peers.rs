//! The peers' connections, as HTTP hands them over.
//!
//! Decides nothing: who may talk is `bus::handshake`'s business.

use crate::bus::direct::{DirectBus, switching_protocols};
use crate::bus::handshake::Purpose;
use crate::env::Env;
use crate::error::ApiError;
use crate::http::{Body, Later, PeerEndpoint, refusal};
use crate::snapshot::serve::Server;
use hyper::body::Incoming;
use hyper::{Request, Response};

pub(super) struct Peers<E: Env> {
    pub(super) bus: DirectBus<E>,
    /// None at a witness.
    pub(super) snapshots: Option<Server<E>>,
    /// Where the node loop runs: frames are read and answered there.
    pub(super) home: tokio::runtime::Handle,
}

impl<E: Env> PeerEndpoint for Peers<E> {
    fn peer(&self, mut request: Request<Incoming>) -> Later<'static, Response<Body>> {
        let response = match self.bus.accept_upgrade(&mut request) {
            Ok(inbound) => {
                self.home.spawn(self.bus.clone().serve_frames(inbound));
                switching_protocols(Body::empty())
            }
            Err(error) => refusal(&error),
        };
        Box::pin(std::future::ready(response))
    }

    fn snapshot(&self, mut request: Request<Incoming>) -> Later<'static, Response<Body>> {
        let response = match (&self.snapshots, self.bus.accept_upgrade(&mut request)) {
            (_, Err(error)) => refusal(&error),
            (None, Ok(_)) => refusal(&ApiError::new(503, "witness", "this node is a witness: it has no data")),
            (Some(server), Ok(inbound)) => {
                let (bus, server) = (self.bus.clone(), server.clone());
                tokio::spawn(async move {
                    if let Some((mut stream, mut session, _room)) = bus.open(inbound, Purpose::Snapshot).await {
                        server.serve(&mut stream, &mut session).await;
                    }
                });
                switching_protocols(Body::empty())
            }
        };
        Box::pin(std::future::ready(response))
    }
}
