//! `GET /_ha/changes`: what was committed, as it is committed.
//!
//! Decides where a feed begins, how fast it goes and when it ends. It tells what
//! this node's data contains and nothing that may still be lost; the log is its
//! queue, so a slow reader costs one batch of memory, and one that falls behind
//! what the log still holds is told where it stood. What a line looks like is
//! `render`'s business.

mod render;

use super::changes::Tables;
use super::read;
use super::respond::{Answer, Body};
use super::server::Conn;
use super::session::{self, Session};
use crate::api::{LogJob, View};
use crate::app::App;
use crate::env::Env;
use crate::error::ApiError;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::ids::{ClusterId, Lineage, Seq, StreamId, Term};
use base_ha_core::token::Token;
use base_ha_core::wire::{decode_changeset, decode_membership};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use render::{Envelope, Format, Place, Style, Telling};
use serde_json::json;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

/// What a browser's `EventSource` sends when it comes back.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells proxies not to hold lines back.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Bytes of the log read at once.
const BATCH_BYTES: usize = 256 << 10;
/// Bytes handed over at once; one such piece waits for a reader at most.
const PIECE_BYTES: usize = 64 << 10;
/// Between two looks at the log: under load, many transactions share one.
const PACE: Duration = Duration::from_millis(20);
/// How often a feed that has nothing to tell says where it is.
const PROGRESS: Duration = Duration::from_secs(15);
/// Names of tables in one filter.
const TABLES_MAX: usize = 256;

/// What a request asks for.
#[derive(Debug, PartialEq)]
struct Wish {
    /// The text of `since` or `Last-Event-ID`.
    since: Option<String>,
    /// Go on after what there is now.
    follow: bool,
    style: Style,
}

impl Wish {
    /// # Errors
    /// 400 `bad_option`: what is misspelt is refused, not ignored.
    fn read(query: Option<&str>, headers: &HeaderMap) -> Result<Self, ApiError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let events = text(header::ACCEPT).is_some_and(|kinds| kinds.contains("text/event-stream"));
        let format = if events { Format::Events } else { Format::Ndjson };
        let style = Style { format, envelope: Envelope::Transaction, tables: Tables::default() };
        let mut wish = Self { since: None, follow: true, style };
        let bad = |name: &str, value: &str, legal: &str| {
            ApiError::new(400, "bad_option", format!("{name} is {value:?}; it may be {legal}"))
        };
        for (name, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
            match (&*name, &*value) {
                ("since", _) => wish.since = Some(value.into_owned()),
                ("table", "") => return Err(bad("table", "", "names of tables, separated by commas")),
                ("table", _) => wish.style.tables.0.extend(value.split(',').map(str::to_owned)),
                ("follow", "true" | "1" | "") => wish.follow = true,
                ("follow", "false" | "0") => wish.follow = false,
                ("follow", _) => return Err(bad("follow", &value, "true or false")),
                ("format", "ndjson") => wish.style.format = Format::Ndjson,
                ("format", "sse") => wish.style.format = Format::Events,
                ("format", _) => return Err(bad("format", &value, "ndjson or sse")),
                ("envelope", "transaction") => wish.style.envelope = Envelope::Transaction,
                ("envelope", "debezium") => wish.style.envelope = Envelope::Debezium,
                ("envelope", _) => return Err(bad("envelope", &value, "transaction or debezium")),
                _ => {
                    let text = format!("there is no {name}; there are since, table, follow, format and envelope");
                    return Err(ApiError::new(400, "bad_option", text));
                }
            }
        }
        if wish.style.tables.0.len() > TABLES_MAX {
            return Err(ApiError::new(400, "bad_option", format!("a filter names at most {TABLES_MAX} tables")));
        }
        // An EventSource that comes back sends its first URL again, and where it
        // was beside it.
        if let Some(last) = text(LAST_EVENT_ID).filter(|last| !last.is_empty()) {
            wish.since = Some(last.to_owned());
        }
        Ok(wish)
    }
}

/// Answers `GET /_ha/changes`.
pub(crate) async fn answer<E: Env>(conn: &Conn<E>, request: &Request<Incoming>) -> Answer {
    let app = &conn.app;
    let wish = Wish::read(request.uri().query(), request.headers())?;
    let view = app.view.borrow().clone();
    read::serves(&view, super::options::Level::Local)?;
    let Ok(permit) = app.http.feeds.clone().try_acquire_owned() else {
        let text = format!("this node sends {} change feeds already", super::State::<E>::FEEDS_MAX);
        return Err(ApiError::new(503, "overloaded", text).retry_after(5));
    };
    let (at, term) = begin(conn, &wish, &view).await?;
    let now = *app.applied.borrow();
    let pending = match now.seq > at {
        true => match load(app, at.next(), now.seq).await {
            Ok(entries) => entries,
            Err(gone) => return Err(gone.at(app, at).await),
        },
        false => Vec::new(),
    };
    let Some(status) = &view.status else { return Err(session::starting()) };
    let membership = &status.membership;
    let feed = Feed {
        app: app.clone(),
        applied: app.applied.clone(),
        cluster: membership.cluster,
        lineage: membership.lineage,
        stream: status.stream,
        source: membership.cluster.to_string(),
        style: wish.style.clone(),
        at,
        term,
        until: (!wish.follow).then_some(now.seq),
        out: Vec::new(),
        _permit: permit,
    };
    let (send, pieces) = mpsc::channel(1);
    tokio::spawn(feed.run(pending, send));
    let mut response = Response::new(Body::Pieces(pieces));
    let kind = match wish.style.format {
        Format::Ndjson => "application/x-ndjson",
        Format::Events => "text/event-stream",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(UNBUFFERED, HeaderValue::from_static("no"));
    Ok(response)
}

/// Where the feed begins: after this entry, of this term.
async fn begin<E: Env>(conn: &Conn<E>, wish: &Wish, view: &View) -> Result<(Seq, Term), ApiError> {
    let app = &conn.app;
    let Some(since) = &wish.since else {
        let now = *app.applied.borrow();
        return Ok((now.seq, now.term));
    };
    let session = Session::of(conn, since, view)?;
    let at = session.at_least;
    if session.is_given_up(view, app.applied.borrow().seq) {
        return Err(session::forked(&session));
    }
    if !read::reach(conn, at, app.config.limits.wait_timeout).await? {
        let view = app.view.borrow().clone();
        if view.pin.writable {
            return Err(read::lacks(&view, at));
        }
        let text = format!("this node has not reached position {at} yet");
        return Err(ApiError::new(503, "behind", text).retry_after(1));
    }
    // The log may have been cut right behind it: then nothing is compared.
    let found =
        if at > Seq(0) { load(app, at, at).await.ok().and_then(|entries| entries.into_iter().next()) } else { None };
    match (found, session.seen()) {
        (Some(entry), Some((_, term))) if entry.term != term => Err(session::forked(&session)),
        (Some(entry), _) => Ok((at, entry.term)),
        (None, seen) => Ok((at, seen.map_or(Term(0), |(_, term)| term))),
    }
}

/// What comes next is no longer in the log, or can't be read.
struct Gone(ApiError);

impl Gone {
    async fn at<E: Env>(self, app: &App<E>, at: Seq) -> ApiError {
        // The log was cut a moment ago, it may be: later than the view was made.
        let _at_worst_an_older_one = timeout(app.config.core.heartbeat, app.node.renew()).await;
        let first = app.view.borrow().status.as_ref().map_or(Seq(0), |status| status.log_first);
        let Self(error) = self;
        if error.code != "log_range_gone" {
            return error;
        }
        let text = format!(
            "what came after position {at} is no longer in this node's log: take a copy by GET /download, whose \
             X-Sequence says its position, and go on from there"
        );
        ApiError::new(410, "changes_gone", text).with_data(json!({ "since": at.0, "first": first.0 }))
    }
}

/// Reads committed entries, as many as are good at once.
async fn load<E: Env>(app: &App<E>, from: Seq, through: Seq) -> Result<Vec<Entry>, Gone> {
    let (reply, entries) = oneshot::channel();
    let ended = || Gone(ApiError::new(503, "stopping", "this node is stopping").retry_after(1));
    let job = LogJob::LoadForApply { from, through, bytes_max: BATCH_BYTES, reply };
    app.log.send(job).map_err(|_| ended())?;
    match entries.await {
        Ok(Ok(entries)) if entries.first().is_some_and(|entry| entry.seq == from) => Ok(entries),
        Ok(Ok(_)) => Err(Gone(ApiError::new(500, "log_range_gone", format!("the log does not hold entry {from}")))),
        Ok(Err(error)) => Err(Gone(error)),
        Err(_) => Err(ended()),
    }
}

/// The reader has gone.
struct Left;

type Pieces = mpsc::Sender<io::Result<Bytes>>;

/// A feed under way.
struct Feed<E: Env> {
    app: Arc<App<E>>,
    applied: watch::Receiver<base_ha_core::position::Position>,
    cluster: ClusterId,
    lineage: Lineage,
    stream: StreamId,
    source: String,
    style: Style,
    /// Everything up to here was told.
    at: Seq,
    term: Term,
    /// Where it ends; never if nothing is said.
    until: Option<Seq>,
    out: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl<E: Env> Feed<E> {
    async fn run(mut self, pending: Vec<Entry>, send: Pieces) {
        self.app.stats.http.feeds.up();
        // Whoever has left needs no last word.
        let _ = self.serve(pending, &send).await;
        self.app.stats.http.feeds.down();
    }

    async fn serve(&mut self, mut batch: Vec<Entry>, send: &Pieces) -> Result<(), Left> {
        loop {
            for entry in batch.drain(..) {
                if self.until.is_some_and(|until| entry.seq > until) {
                    break;
                }
                self.tell(&entry, send).await?;
            }
            if self.until.is_some_and(|until| self.at >= until) {
                let position = self.token(self.at, self.term);
                render::progress(&mut self.out, self.style.format, self.at, &position);
                return self.flush(send).await;
            }
            self.flush(send).await?;
            let now = self.applied.borrow_and_update().seq;
            if now > self.at {
                match load(&self.app, self.at.next(), now).await {
                    Ok(entries) => batch = entries,
                    Err(gone) => return self.end(&gone.at(&self.app, self.at).await, send).await,
                }
                continue;
            }
            if !self.wait(send).await? {
                let why = ApiError::new(503, "stopping", "this node is stopping: go on at another one");
                return self.end(&why, send).await;
            }
        }
    }

    /// Waits for something new; says now and then that there is nothing. False
    /// if the node is about to stop.
    async fn wait(&mut self, send: &Pieces) -> Result<bool, Left> {
        let mut view = self.app.view.clone();
        loop {
            let progress = tokio::select! {
                biased;
                () = send.closed() => return Err(Left),
                stopping = view.wait_for(|view| view.stopping) => {
                    drop(stopping);
                    return Ok(false);
                }
                moved = self.applied.changed() => match moved {
                    Ok(()) => false,
                    Err(_) => return Ok(false),
                },
                () = sleep(PROGRESS) => true,
            };
            if !progress {
                sleep(PACE).await;
                return Ok(true);
            }
            let position = self.token(self.at, self.term);
            render::progress(&mut self.out, self.style.format, self.at, &position);
            self.flush(send).await?;
        }
    }

    async fn tell(&mut self, entry: &Entry, send: &Pieces) -> Result<(), Left> {
        if entry.kind == EntryKind::Data {
            let set = match decode_changeset(entry.payload.clone()) {
                Ok(set) => set,
                Err(error) => {
                    // It was applied here, so it could be read then.
                    tracing::error!(seq = entry.seq.0, %error, "a committed entry can't be read for a change feed");
                    let why = ApiError::new(
                        500,
                        "log_damaged",
                        "an entry of this node's log can't be read: go on at another node",
                    );
                    self.end(&why, send).await?;
                    return Err(Left);
                }
            };
            let (before, position) = (self.token(self.at, self.term), self.token(entry.seq, entry.term));
            let style = self.style.clone();
            let place = Place {
                seq: entry.seq,
                term: entry.term,
                hlc: entry.hlc,
                source: &self.source.clone(),
                position: &position,
                before: &before,
            };
            if let Some(mut telling) = Telling::new(&style, place, &set) {
                while telling.step(&mut self.out) {
                    if self.out.len() >= PIECE_BYTES {
                        self.flush(send).await?;
                    }
                }
                self.app.stats.http.feed_transactions.add(1);
            }
        }
        // A history that begins anew does so by a membership.
        if entry.kind == EntryKind::Config
            && let Ok(membership) = decode_membership(entry.payload.clone())
        {
            self.lineage = membership.lineage;
        }
        (self.at, self.term) = (entry.seq, entry.term);
        Ok(())
    }

    /// The last line, and the end.
    async fn end(&mut self, why: &ApiError, send: &Pieces) -> Result<(), Left> {
        let position = self.token(self.at, self.term);
        render::end(&mut self.out, self.style.format, why.code, &why.message, &position);
        self.flush(send).await
    }

    /// Hands over what was written, and waits for as long as the reader takes. One
    /// that takes nothing has its connection closed (`meter`), in the middle of a
    /// line if need be: it goes on from the last position that it has seen.
    async fn flush(&mut self, send: &Pieces) -> Result<(), Left> {
        if self.out.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.out));
        send.send(Ok(piece)).await.map_err(|_| Left)
    }

    /// The position that a reader goes on from, at any node.
    fn token(&self, seq: Seq, term: Term) -> String {
        let token =
            Token { cluster: self.cluster, lineage: self.lineage, term, positions: [(self.stream, seq)].into() };
        // One stream always fits.
        self.app.http.tokens.seal(&token).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, headers: &[(HeaderName, &'static str)]) -> Result<Wish, ApiError> {
        let headers = headers.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect();
        Wish::read(Some(query), &headers)
    }

    #[test]
    fn a_wish_is_understood_or_refused() {
        let plain = read("", &[]).unwrap();
        assert_eq!((plain.since, plain.follow, plain.style.format), (None, true, Format::Ndjson));
        let wish = read("since=7&table=a,b&table=c%26d&follow=false&format=sse&envelope=debezium", &[]).unwrap();
        assert_eq!(wish.style.tables.0, ["a", "b", "c&d"]);
        assert_eq!((wish.style.format, wish.style.envelope, wish.follow), (Format::Events, Envelope::Debezium, false));
        for wrong in ["follow=no", "format=xml", "envelope=x", "table=", "tables=a", "Since=1"] {
            assert_eq!(read(wrong, &[]).unwrap_err().code, "bad_option", "{wrong}");
        }
        let many = format!("table={}", vec!["t"; TABLES_MAX + 1].join(","));
        assert_eq!(read(&many, &[]).unwrap_err().code, "bad_option");
    }

    #[test]
    fn an_event_source_goes_on_where_it_was() {
        let headers = [(header::ACCEPT, "text/event-stream"), (LAST_EVENT_ID, "12")];
        let wish = read("since=3", &headers).unwrap();
        assert_eq!((wish.since.as_deref(), wish.style.format), (Some("12"), Format::Events));
    }
}
