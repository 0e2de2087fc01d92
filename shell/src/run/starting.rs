//! What is answered before there is a node.
//!
//! Decides that a start never looks like a dead machine: the port answers at
//! once, `/healthz` says that the process lives, everything else is told to
//! come back.

use crate::env::Env;
use crate::error::ApiError;
use crate::http::{Body, refusal};
use crate::tls::{Tls, stream};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections at a time; more are closed.
const CONNECTIONS_MAX: usize = 256;
/// How long one may take.
const CONNECTION_MAX: Duration = Duration::from_secs(5);

/// Answers connections until `opening` is done. Those that are still open then
/// get their answer; each has one.
pub(super) async fn serve_until<E: Env, T>(
    env: &E,
    tls: Option<&Tls>,
    listener: &mut E::Listener,
    opening: impl Future<Output = T>,
) -> T {
    let mut opening = pin!(opening);
    let mut open = JoinSet::new();
    let result = loop {
        tokio::select! {
            biased;
            result = &mut opening => break result,
            Some(_) = open.join_next() => {}
            accepted = env.accept(listener) => match accepted {
                Ok((stream, _)) if open.len() < CONNECTIONS_MAX => {
                    open.spawn(timeout(CONNECTION_MAX, answer(tls.cloned(), stream)));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    };
    open.detach_all();
    result
}

async fn answer<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static>(tls: Option<Tls>, stream: S) {
    let stream = match stream::accept(tls.as_ref(), stream).await {
        Ok((stream, _)) => stream,
        Err(refused) => return tracing::debug!(reason = %refused, "refused a connection"),
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .auto_date_header(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service_fn(reply));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn reply(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(if request.uri().path() == "/healthz" {
        Response::new(Body::whole("{\"status\":\"ok\"}"))
    } else {
        refusal(&ApiError::new(503, "starting", "this node is starting").retry_after(1))
    })
}
