//! `POST /query` and `POST /`: SQL.
//!
//! Decides whether a request is a read or a write. What follows from that is
//! in `read` and `write`.

use super::forward::{self, Hop};
use super::options::{Level, Options};
use super::respond::Answer;
use super::server::Conn;
use super::session::Session;
use super::{body, read, write};
use crate::api::SqlLimits;
use crate::env::Env;
use crate::sqljson::{self, Parsed};
use crate::store::classify::Class;
use base_ha_core::time::MonoTime;
use hyper::Request;
use hyper::body::Incoming;
use hyper::http::request::Parts;

/// A SQL request that was read in.
pub(crate) struct Query {
    pub(crate) head: Parts,
    pub(crate) body: bytes::Bytes,
    pub(crate) parsed: Parsed,
    pub(crate) options: Options,
    pub(crate) session: Session,
    /// Set if another node passed it on.
    pub(crate) hop: Option<Hop>,
    /// When all of it had come in.
    pub(crate) arrived: MonoTime,
}

pub(crate) async fn answer<E: Env>(conn: &Conn<E>, request: Request<Incoming>) -> Answer {
    let app = &conn.app;
    let (head, body) = request.into_parts();
    let options = Options::read(head.uri.query(), &head.headers, &app.config)?;
    let body = body::collect(&conn.meter, &head.headers, body, app.config.limits.body_bytes_max).await?;
    let arrived = app.env.now().mono;
    let hop = forward::check(conn, &head, &body)?;
    let view = app.view.borrow().clone();
    let session = Session::read(conn, &head.headers, &view)?;
    let parsed = sqljson::parse_request(&body, app.config.limits.statements_max)?;
    let class = app.sql.classify(&parsed.statements);
    let query = Query { head, body, parsed, options, session, hop, arrived };
    match class {
        Ok(Class::Read) => read::answer(conn, query).await,
        Ok(Class::Write) => write::answer(conn, query).await,
        Ok(Class::Refused(error)) => Err(error),
        // This node has no data to ask, as a witness or one that is repaired.
        Err(error) if query.options.level == Level::Local => Err(error),
        // It may be a write: it gets one id, and once it has left it is not
        // sent again. Passed on as a read, an INSERT whose answer got lost
        // would be carried out twice.
        Err(_) => write::answer(conn, query).await,
    }
}

/// The bounds on a request whose time counts from `from`.
pub(crate) fn limits<E: Env>(conn: &Conn<E>, from: MonoTime) -> SqlLimits {
    let limits = &conn.app.config.limits;
    SqlLimits {
        statements_max: limits.statements_max,
        rows_max: limits.rows_max,
        answer_bytes_max: limits.answer_bytes_max,
        deadline: from.after(limits.statement_timeout),
    }
}
