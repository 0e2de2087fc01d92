//! Writes: where they run, and what their client is told.
//!
//! Decides between "certainly not done" (4xx, 503), "done" and "unknown" (504).
//! The line between the first and the last is whether the request has left:
//! into the store's log, or over the wire to the writer.

use super::forward::{self, Hop, id_value};
use super::options;
use super::query::{self, Query};
use super::respond::{self, Answer, REPLAYED, REQUEST_ID};
use super::server::Conn;
use super::writer::{Place, Seek, not_writer, stopping};
use crate::api::{Ack, Statement, StoreJob, Turn, WriteAnswer, WriteError, WriteRequest};
use crate::config::Forward;
use crate::env::Env;
use crate::error::ApiError;
use crate::metrics::Stats;
use crate::sqljson;
use base_ha_core::changeset::RequestId;
use hyper::header::HeaderValue;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

/// Ids drawn at a time: each draw is a system call, which takes as long as the
/// rest of the id's life.
const IDS_DRAWN: usize = 16;

pub(crate) async fn answer<E: Env>(conn: &Conn<E>, mut query: Query) -> Answer {
    // One id for all tries: whatever happens, the request is one request.
    let id = match (&query.hop, &query.options.key) {
        (Some(hop), _) => hop.id,
        (None, Some(key)) => options::request_id(key),
        (None, None) => mint(conn),
    };
    let mut result = attempt(conn, &mut query, id).await;
    let response = match &mut result {
        Ok(response) => response,
        Err(error) => {
            let mut response = respond::error(error);
            if error.status == 504 {
                response.headers_mut().insert(REQUEST_ID, id_value(id));
            }
            return Ok(response);
        }
    };
    if !response.headers().contains_key(REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, id_value(id));
    }
    result
}

async fn attempt<E: Env>(conn: &Conn<E>, query: &mut Query, id: RequestId) -> Answer {
    let hop = query.hop;
    let mut seek = Seek::new(conn, hop.as_ref());
    loop {
        match seek.next().await? {
            Place::Here(_) => {
                let statements = std::mem::take(&mut query.parsed.statements);
                match submit(conn, query, id, statements).await? {
                    Submitted::Answered(answer) => return committed(conn, query, id, answer).await,
                    // The store knew more than the view did: nothing was done.
                    Submitted::Refused => {
                        query.parsed = sqljson::parse_request(&query.body, conn.app.config.limits.statements_max)?;
                    }
                }
            }
            Place::There(..) if query.options.local => return Err(not_writer(&conn.app.view.borrow())),
            Place::There(url, _) if query.options.forward == Forward::Redirect => {
                return Ok(forward::redirect(&url, &query.head));
            }
            Place::There(url, term) => {
                let hop = Hop { term, id };
                let limit = pass_limit(conn, query.options.ack);
                let left = conn.app.env.now().mono;
                let passed = forward::pass(conn, &url, hop, &query.head, &query.body, limit).await;
                seek.extend(conn.app.env.now().mono.since(left));
                match passed {
                    // Certainly not done there: its view or this one is late.
                    Ok(response) if response.status() == 421 => (),
                    Ok(response) => return Ok(forward::answer(response)),
                    Err(lost) if lost.sent => {
                        let text = format!("the request had left for the writer at {url} when it fell silent: {lost}");
                        return Err(unknown(id, &text));
                    }
                    Err(unsent) => tracing::debug!(%url, reason = %unsent, "the writer could not be reached"),
                }
            }
        }
        seek.pause().await?;
    }
}

/// How long the writer may take: to find out that it is the writer, to run the
/// SQL, to have it acknowledged, and some for the wire.
fn pass_limit<E: Env>(conn: &Conn<E>, ack: Ack) -> Duration {
    let limits = &conn.app.config.limits;
    let acks = if ack == Ack::All { 2 } else { 1 };
    limits.wait_timeout + limits.statement_timeout + limits.ack_timeout * acks + Duration::from_secs(1)
}

enum Submitted {
    Answered(WriteAnswer),
    Refused,
}

/// Hands a write to the store and waits for what comes of it.
async fn submit<E: Env>(
    conn: &Conn<E>,
    query: &Query,
    id: RequestId,
    statements: Vec<Statement>,
) -> Result<Submitted, ApiError> {
    assert!(!statements.is_empty(), "a write without statements would be answered with nothing done");
    let app = &conn.app;
    let Ok(permit) = app.http.writes.clone().try_acquire_owned() else {
        let max = app.config.limits.write_queue_max;
        let text = format!("{max} writes wait already; nothing was done");
        return Err(ApiError::new(503, "overloaded", text).retry_after(1));
    };
    let mut body_digest = [0; 16];
    if query.options.key.is_some() {
        body_digest.copy_from_slice(&blake3::hash(&query.body).as_bytes()[..16]);
    }
    let (reply, answer) = oneshot::channel();
    let turn = Arc::new(Turn::default());
    let limits = query::limits(conn, query.arrived);
    // The SQL may run until its deadline; only what comes after is the wait
    // for others. A shorter bound would call unknown what is still running.
    let answered_by = limits.deadline.after(app.config.limits.ack_timeout);
    let request = WriteRequest {
        id,
        idempotency_key: query.options.key.clone(),
        body_digest,
        statements,
        many: query.parsed.many,
        ack: query.options.ack,
        limits,
        turn: turn.clone(),
        reply,
    };
    if app.store.send_quiet(StoreJob::Write(request)).is_err() {
        return Err(if query.hop.is_some() { not_writer(&app.view.borrow()) } else { stopping() });
    }
    let mut held = Held::new(answer, permit, app.stats.clone());
    let patience = app.config.limits.wait_timeout;
    if let Ok(early) = timeout(patience, held.answer()).await {
        return answered(early, id);
    }
    // One connection writes, and another request's SQL runs on it, or a whole
    // queue is before this one.
    if turn.give_up() {
        let text = format!("the writer was busy with other requests for {patience:?}; nothing was done");
        return Err(ApiError::new(503, "writer_busy", text).retry_after(1));
    }
    let bound = answered_by.since(app.env.now().mono);
    match timeout(bound, held.answer()).await {
        Ok(late) => answered(late, id),
        Err(_) => Err(unknown(id, &format!("the write was not acknowledged within {:?}", patience + bound))),
    }
}

/// What the store's word means, `None` if it ended without one.
fn answered(result: Option<Result<WriteAnswer, WriteError>>, id: RequestId) -> Result<Submitted, ApiError> {
    match result {
        None | Some(Err(WriteError::Unknown)) => {
            Err(unknown(id, "the write was logged, and this node will not learn what became of it"))
        }
        Some(Ok(answer)) => Ok(Submitted::Answered(answer)),
        Some(Err(WriteError::Sql(error))) => Err(error),
        Some(Err(WriteError::Refused(..))) => Ok(Submitted::Refused),
    }
}

/// The answer to a write that was committed.
async fn committed<E: Env>(conn: &Conn<E>, query: &Query, id: RequestId, answer: WriteAnswer) -> Answer {
    let position = answer.position;
    let mut response = respond::json(answer.body);
    if let Some(all) = answer.all {
        let bound = conn.app.config.limits.ack_timeout;
        if !matches!(timeout(bound, all).await, Ok(Ok(()))) {
            let text = format!("the write is committed; not every voter confirmed it within {bound:?}");
            let error = ApiError::new(504, "ack_timeout", text).with_data(json!({
                "committed": true,
                "position": position.seq.0,
                "request_id": format!("{:032x}", id.0),
            }));
            response = respond::error(&error);
        }
    }
    let view = conn.app.view.borrow().clone();
    let headers = response.headers_mut();
    // A session whose entry was given up stays with it: a token of this write
    // would hide from its next read that what it saw is lost.
    let lost = |(seq, term)| term < position.term && !matches!(conn.app.sql.contains(seq, term), Ok(true));
    let (seq, term) = query.session.seen().filter(|seen| lost(*seen)).unwrap_or((position.seq, position.term));
    query.session.seal(conn, &view, seq, term, headers);
    if answer.replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    headers.insert(REQUEST_ID, id_value(id));
    Ok(response)
}

/// Draws an id for a request that has none.
pub(crate) fn mint<E: Env>(conn: &Conn<E>) -> RequestId {
    let mut cache = conn.cache();
    if let Some(id) = cache.ids.pop() {
        return id;
    }
    let mut drawn = [[0; 16]; IDS_DRAWN];
    conn.app.env.entropy(drawn.as_flattened_mut());
    let [id, rest @ ..] = drawn.map(|id| RequestId(u128::from_le_bytes(id)));
    cache.ids.extend(rest);
    id
}

/// 504: it may have been done or not, and may still be.
pub(crate) fn unknown(id: RequestId, why: &str) -> ApiError {
    let id = format!("{:032x}", id.0);
    let text = format!("{why}: it may or may not be done. Send it again with Idempotency-Key: {id} to find out");
    ApiError::new(504, "outcome_unknown", text).with_data(json!({ "request_id": id }))
}

/// A write that the store holds, and its permit: they go together even if the
/// client goes away first, or clients that come and go could fill the store.
struct Held {
    inner: Option<(oneshot::Receiver<Result<WriteAnswer, WriteError>>, OwnedSemaphorePermit)>,
    stats: Arc<Stats>,
}

impl Held {
    fn new(
        answer: oneshot::Receiver<Result<WriteAnswer, WriteError>>,
        permit: OwnedSemaphorePermit,
        stats: Arc<Stats>,
    ) -> Self {
        stats.http.writes_waiting.up();
        Self { inner: Some((answer, permit)), stats }
    }

    /// What came of it; `None` if the store ended without a word.
    async fn answer(&mut self) -> Option<Result<WriteAnswer, WriteError>> {
        let (answer, _) = self.inner.as_mut()?;
        let result = answer.await.ok();
        self.inner = None;
        self.stats.http.writes_waiting.down();
        result
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some((answer, permit)) = self.inner.take() else { return };
        let stats = self.stats.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = answer.await;
                drop(permit);
                stats.http.writes_waiting.down();
            });
        }
    }
}
