//! Reads: what they must contain, and where they run.
//!
//! Decides by level (DESIGN 4). A read that can't be answered here goes to the
//! writer; it is never answered with something older.

use super::forward::{self, Hop};
use super::options::Level;
use super::query::{self, Query};
use super::respond::{self, Answer, STALENESS};
use super::server::Conn;
use super::writer::{Place, Seek, not_writer};
use super::{session, write};
use crate::api::View;
use crate::config::Forward;
use crate::env::Env;
use crate::error::ApiError;
use crate::sqljson;
use crate::store::read::{ReadAnswer, ReadError, ReadRequest};
use base_ha_core::ids::{ClusterId, Seq, Url};
use base_ha_core::io::{Part, Unfit};
use hyper::Response;
use hyper::header::HeaderValue;
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::time::timeout;

pub(crate) async fn answer<E: Env>(conn: &Conn<E>, mut query: Query) -> Answer {
    match query.options.level {
        Level::Local => {
            let view = conn.app.view.borrow().clone();
            serves(&view, Level::Local)?;
            match run(conn, &mut query, None).await {
                Ok(answer) => Ok(respond(conn, &query, &view, answer)),
                Err(ReadError::Sql(error)) => Err(error),
                Err(ReadError::NotReadOnly) => as_write(conn, query).await,
                Err(ReadError::Behind { .. }) => Err(lacks(&view, query.session.at_least)),
                Err(ReadError::Forked) => Err(session::forked(&query.session)),
            }
        }
        Level::Session => session(conn, query).await,
        Level::Linearizable => linearizable(conn, query).await,
    }
}

async fn session<E: Env>(conn: &Conn<E>, mut query: Query) -> Answer {
    if serves(&conn.app.view.borrow(), Level::Session).is_ok() {
        if is_given_up(conn, &query) {
            return Err(session::forked(&query.session));
        }
        // The other half of the time is the writer's, if it comes to that.
        let wait = conn.app.config.limits.wait_timeout / 2;
        if reach(conn, query.session.at_least, wait).await? {
            query = match here(conn, query).await {
                ControlFlow::Break(answer) => return answer,
                ControlFlow::Continue(query) => query,
            };
        }
    }
    elsewhere(conn, query).await
}

/// Answers with what the session has seen; gives the query back if the data has
/// not got that far.
async fn here<E: Env>(conn: &Conn<E>, mut query: Query) -> ControlFlow<Answer, Query> {
    let view = conn.app.view.borrow().clone();
    let at_least = query.session.at_least;
    ControlFlow::Break(match run(conn, &mut query, Some(at_least)).await {
        Ok(answer) => Ok(respond(conn, &query, &view, answer)),
        Err(ReadError::Sql(error)) => Err(error),
        Err(ReadError::NotReadOnly) => as_write(conn, query).await,
        Err(ReadError::Forked) => Err(session::forked(&query.session)),
        // A snapshot is being put in place of the data just now.
        Err(ReadError::Behind { .. }) => return ControlFlow::Continue(query),
    })
}

/// Whether this node is the writer, and knows that what the session has seen
/// was given up.
fn is_given_up<E: Env>(conn: &Conn<E>, query: &Query) -> bool {
    query.session.is_given_up(&conn.app.view.borrow(), conn.app.applied.borrow().seq)
}

async fn linearizable<E: Env>(conn: &Conn<E>, mut query: Query) -> Answer {
    let wait = conn.app.config.limits.wait_timeout;
    let hop = query.hop;
    let id = write::mint(conn);
    let mut seek = Seek::new(conn, hop.as_ref());
    loop {
        match seek.next().await? {
            Place::There(url, term) => {
                if let Some(response) = pass(conn, &query, &url, Hop { term, id }).await? {
                    return Ok(response);
                }
            }
            Place::Here(term) => {
                // Confirmed by a majority, so that no later writer can have
                // acknowledged anything when this request came in.
                if let Ok(Ok(at)) = timeout(wait, conn.app.node.read_index()).await {
                    if is_given_up(conn, &query) {
                        return Err(session::forked(&query.session));
                    }
                    let at_least = at.max(query.session.at_least);
                    if !reach(conn, at_least, wait).await? {
                        return Err(lacks(&conn.app.view.borrow(), at_least));
                    }
                    let answer = match run(conn, &mut query, Some(at_least)).await {
                        Ok(answer) => answer,
                        Err(ReadError::Sql(error)) => return Err(error),
                        Err(ReadError::NotReadOnly) => return as_write(conn, query).await,
                        Err(ReadError::Behind { .. }) => return Err(lacks(&conn.app.view.borrow(), at_least)),
                        Err(ReadError::Forked) => return Err(session::forked(&query.session)),
                    };
                    let view = conn.app.view.borrow().clone();
                    // R1: checked after the read as well, before the answer.
                    if view.pin.writable && view.pin.term == term {
                        return Ok(respond(conn, &query, &view, answer));
                    }
                }
            }
        }
        seek.pause().await?;
    }
}

/// Has the writer answer a read that this node can't.
async fn elsewhere<E: Env>(conn: &Conn<E>, mut query: Query) -> Answer {
    let hop = query.hop;
    let id = write::mint(conn);
    let mut seek = Seek::new(conn, hop.as_ref());
    loop {
        match seek.next().await? {
            // There is no better place. This node may have become the writer
            // while the request waited: what it lacked then it has by now, or
            // knows to be given up (seed 190813387 of the simulated nodes).
            Place::Here(_) => {
                let view = conn.app.view.borrow().clone();
                serves(&view, Level::Session)?;
                if is_given_up(conn, &query) {
                    return Err(session::forked(&query.session));
                }
                let at_least = query.session.at_least;
                if conn.app.applied.borrow().seq < at_least {
                    return Err(lacks(&view, at_least));
                }
                // The first try took the statements with it.
                query.parsed = sqljson::parse_request(&query.body, conn.app.config.limits.statements_max)?;
                return match here(conn, query).await {
                    ControlFlow::Break(answer) => answer,
                    ControlFlow::Continue(_) => Err(lacks(&view, at_least)),
                };
            }
            Place::There(url, term) => {
                if let Some(response) = pass(conn, &query, &url, Hop { term, id }).await? {
                    return Ok(response);
                }
            }
        }
        seek.pause().await?;
    }
}

/// Passes a read on; `None` if it may be tried again. That a read's answer was
/// lost is no reason not to: it changed nothing. Should the writer, whose schema
/// may be newer, find that it writes after all, all tries have one id.
async fn pass<E: Env>(
    conn: &Conn<E>,
    query: &Query,
    to: &Url,
    hop: Hop,
) -> Result<Option<Response<respond::Body>>, ApiError> {
    if query.options.local {
        return Err(not_writer(&conn.app.view.borrow()));
    }
    if query.options.forward == Forward::Redirect {
        return Ok(Some(forward::redirect(to, &query.head)));
    }
    let limits = &conn.app.config.limits;
    let limit = limits.wait_timeout + limits.statement_timeout;
    match forward::pass(conn, to, hop, &query.head, &query.body, limit).await {
        Ok(response) if response.status() == 421 => Ok(None),
        Ok(response) => Ok(Some(forward::answer(response))),
        Err(lost) => {
            tracing::debug!(%to, reason = %lost, "a read that was passed on has no answer");
            Ok(None)
        }
    }
}

/// SQLite found that a statement writes after all: its meaning changed between
/// asking and running, by a change of the schema. Its statements went with the
/// read; they are read again.
async fn as_write<E: Env>(conn: &Conn<E>, mut query: Query) -> Answer {
    query.parsed = sqljson::parse_request(&query.body, conn.app.config.limits.statements_max)?;
    write::answer(conn, query).await
}

/// Runs it here. The statements stay with the query: a linearizable read may
/// have to run again.
async fn run<E: Env>(conn: &Conn<E>, query: &mut Query, at_least: Option<Seq>) -> Result<ReadAnswer, ReadError> {
    let statements = match query.options.level {
        Level::Linearizable => query.parsed.statements.clone(),
        Level::Local | Level::Session => std::mem::take(&mut query.parsed.statements),
    };
    let request = ReadRequest {
        statements,
        many: query.parsed.many,
        limits: query::limits(conn, conn.app.env.now().mono),
        at_least,
        seen: query.session.seen(),
    };
    let answer = conn.app.sql.run(request).await?;
    // No level ever answers with less than what was asked of it.
    match at_least {
        Some(seq) if answer.position.seq < seq => Err(ReadError::Behind { position: answer.position }),
        _ => Ok(answer),
    }
}

fn respond<E: Env>(conn: &Conn<E>, query: &Query, view: &View, answer: ReadAnswer) -> Response<respond::Body> {
    let mut response = respond::json(answer.body);
    let headers = response.headers_mut();
    query.session.seal(conn, view, answer.position.seq, answer.position.term, headers);
    if let Some(age) = staleness(conn, view, answer.position.seq) {
        let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        headers.insert(STALENESS, if ms == 0 { HeaderValue::from_static("0") } else { HeaderValue::from(ms) });
    }
    response
}

/// How old what was read may be: nothing at the writer; at a node that has all
/// it knows to be committed, the time since it heard from the writer; unknown
/// at one that lags.
fn staleness<E: Env>(conn: &Conn<E>, view: &View, read: Seq) -> Option<Duration> {
    if view.pin.writable {
        return Some(Duration::ZERO);
    }
    let (status, (writer, _)) = (view.status.as_ref()?, view.pin.writer.as_ref()?);
    let heard = status.peers.iter().find(|peer| peer.id.as_ref() == Some(writer))?.heard?;
    (read >= view.commit).then(|| conn.app.env.now().mono.since(heard))
}

/// Whether this node may answer reads of that level at all.
pub(super) fn serves(view: &View, level: Level) -> Result<(), ApiError> {
    let Some(status) = &view.status else { return Err(session::starting()) };
    // Without a membership nothing was ever applied here, and there is no
    // history that an answer's token could name.
    if status.cluster == ClusterId::NONE || status.membership.cluster == ClusterId::NONE {
        return Err(session::starting());
    }
    let stale = level != Level::Local;
    let refused = match &status.unfit {
        None | Some(Unfit::DiskFull) => status.part == Part::Witness,
        // Right as far as it goes, and no further.
        Some(Unfit::ApplyHalted { .. } | Unfit::NotAMember | Unfit::SeatsDiffer) => stale,
        Some(Unfit::DuplicateId | Unfit::Quarantined | Unfit::OtherCluster { .. }) => true,
    };
    if !refused {
        return Ok(());
    }
    let why = match &status.unfit {
        Some(unfit) => unfit.to_string(),
        None => "it is a witness, which stores no data".to_owned(),
    };
    Err(ApiError::new(503, "unfit", format!("this node does not serve reads: {why}")).retry_after(5))
}

/// Waits until the data contains `seq`, for at most `bound`; says whether it
/// does.
///
/// # Errors
/// 503 `overloaded` if too many wait already: a wait that a client can ask for
/// at will must cost little.
pub(super) async fn reach<E: Env>(conn: &Conn<E>, seq: Seq, bound: Duration) -> Result<bool, ApiError> {
    let app = &conn.app;
    if app.applied.borrow().seq >= seq {
        return Ok(true);
    }
    let Ok(_permit) = app.http.waiters.try_acquire() else {
        return Err(ApiError::new(503, "overloaded", "too many reads wait for their session's position").retry_after(1));
    };
    app.stats.http.reads_waiting.up();
    let mut applied = app.applied.clone();
    let reached = timeout(bound, applied.wait_for(|position| position.seq >= seq)).await;
    app.stats.http.reads_waiting.down();
    Ok(matches!(reached, Ok(Ok(_))))
}

/// The writer's data does not reach so far. 503 if it will, for that much is
/// committed; else 409: the writer has everything that was ever acknowledged by
/// a majority, and this is not of it.
pub(super) fn lacks(view: &View, seq: Seq) -> ApiError {
    if seq <= view.commit {
        let text = format!("position {seq}, which the session has seen, is not applied here yet; nothing was read");
        return ApiError::new(503, "behind", text).retry_after(1);
    }
    let text = format!("the session has seen position {seq}, which this cluster has not reached: start a new session");
    ApiError::new(409, "token_ahead", text).with_data(serde_json::json!({ "position": seq.0 }))
}
