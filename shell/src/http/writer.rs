//! Where the writer is, for a request that needs it.
//!
//! Decides whether a request runs here, goes elsewhere, waits, or is given up.
//! Only the node's view counts: no message's body or header ever names a place
//! to send a request to (B6).

use super::forward::Hop;
use super::server::Conn;
use crate::api::View;
use crate::env::Env;
use crate::error::ApiError;
use base_ha_core::ids::{Term, Url};
use base_ha_core::io::Refusal;
use serde_json::json;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// How long to wait before asking again where nothing announces a change: a
/// refused connection, or a store that knows more than the view.
const PAUSE: Duration = Duration::from_millis(25);

/// Where a request may be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// This node writes.
    Here(Term),
    /// That one does, in that term.
    There(Url, Term),
}

/// Looks for the writer until `wait_timeout` has passed.
pub(crate) struct Seek<'a, E: Env> {
    conn: &'a Conn<E>,
    hop: Option<&'a Hop>,
    view: watch::Receiver<Arc<View>>,
    until: Instant,
    /// Rings at `until`; made when there is something to wait for.
    bound: Option<Pin<Box<Sleep>>>,
}

impl<'a, E: Env> Seek<'a, E> {
    /// `hop` is set for a request that another node passed on: it is never
    /// passed on again (B17).
    pub(crate) fn new(conn: &'a Conn<E>, hop: Option<&'a Hop>) -> Self {
        let app = &conn.app;
        Self { conn, hop, view: app.view.clone(), until: Instant::now() + app.config.limits.wait_timeout, bound: None }
    }

    /// The next place to try.
    ///
    /// # Errors
    /// 503 `no_writer` when the time is up; 421 `not_writer` for a passed-on
    /// request that this node isn't the writer for. Either way the request
    /// was certainly not carried out.
    pub(crate) async fn next(&mut self) -> Result<Place, ApiError> {
        loop {
            let view = self.view.borrow_and_update().clone();
            let own = &self.conn.app.config.core.id;
            let term = view.pin.term;
            match (self.hop, &view.pin.writer) {
                // Whoever passed it on lives in an earlier term.
                (Some(hop), _) if hop.term < term => return Err(not_writer(&view)),
                (Some(hop), _) if hop.term > term => (),
                (_, Some((id, _))) if id == own && view.pin.writable => return Ok(Place::Here(term)),
                (_, Some((id, _))) if id == own => (),
                (Some(_), Some(_)) => return Err(not_writer(&view)),
                (None, Some((_, url))) => return Ok(Place::There(url.clone(), term)),
                (_, None) => (),
            }
            tokio::select! {
                biased;
                changed = self.view.changed() => changed.map_err(|_| self.ended(&view))?,
                () = self.bound.get_or_insert_with(|| Box::pin(sleep_until(self.until))) => return Err(self.give_up(&view)),
            }
        }
    }

    /// Waits a moment, or until the view changes, before the next try.
    ///
    /// # Errors
    /// As [`Seek::next`], when the time is up.
    pub(crate) async fn pause(&mut self) -> Result<(), ApiError> {
        tokio::select! {
            biased;
            () = self.bound.get_or_insert_with(|| Box::pin(sleep_until(self.until))) => {
                let view = self.view.borrow().clone();
                Err(self.give_up(&view))
            }
            changed = self.view.changed() => {
                let view = self.view.borrow().clone();
                changed.map_err(|_| self.ended(&view))
            }
            () = sleep(PAUSE) => Ok(()),
        }
    }

    /// Time that the writer had the request counts for nothing here: it may
    /// have been asleep, and there is another one now.
    pub(crate) fn extend(&mut self, by: Duration) {
        self.until += by;
        if let Some(bound) = &mut self.bound {
            bound.as_mut().reset(self.until);
        }
    }

    /// The node loop is gone. A request that was passed on goes back, so that
    /// the hand-over of a stopping writer refuses nothing.
    pub(crate) fn ended(&self, view: &View) -> ApiError {
        if self.hop.is_some() { not_writer(view) } else { stopping() }
    }

    fn give_up(&self, view: &View) -> ApiError {
        if self.hop.is_some() {
            return not_writer(view);
        }
        let waited = self.conn.app.config.limits.wait_timeout;
        let text = format!("no writer could be reached within {waited:?}; nothing was done");
        let (term, writer) = view.shown();
        let data = json!({ "term": term.0, "writer": writer.map(|(id, _)| id.as_str()) });
        ApiError::new(503, "no_writer", text).with_data(data).retry_after(1)
    }
}

/// 421: this node doesn't write in the term that the request belongs to.
pub(crate) fn not_writer(view: &View) -> ApiError {
    let (term, writer) = view.shown();
    let (id, url) = (writer.map(|(id, _)| id.as_str()), writer.map(|(_, url)| url.as_str()));
    let text = Refusal::NotWriter { writer: writer.cloned(), term }.to_string();
    ApiError::new(421, "not_writer", format!("this node is not the writer: {text}; nothing was done"))
        .with_data(json!({ "term": term.0, "node_id": id, "leader_url": url }))
}

/// 503: this node is about to end.
pub(crate) fn stopping() -> ApiError {
    ApiError::new(503, "stopping", "this node is stopping; nothing was done").retry_after(1)
}
