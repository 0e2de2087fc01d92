//! Whole copies of the data: `/download`, `/snapshot`, `POST /_ha/snapshot`,
//! and the page at `/`.
//!
//! Decides how they are sent. That a copy is consistent is
//! the store's business.

use super::kept::{self, Name};
use super::respond::{self, Answer, Body, date_time};
use super::server::Conn;
use crate::env::Env;
use crate::env::files::{File, Mode, make_dirs};
use crate::error::ApiError;
use crate::store::backup::{Contents, Copied};
use base_ha_core::ids::Seq;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// The position that a copy contains (CONTRACTS 2).
const SEQUENCE: HeaderName = HeaderName::from_static("x-sequence");
/// How much of a file is read at once.
const PIECE_BYTES: usize = 256 << 10;

/// `GET /`: the copy, as in the original, for who asks for bytes; a few words
/// for everyone else, because a browser that opens the address shouldn't find
/// a database in its downloads.
pub(crate) async fn root<E: Env>(conn: &Conn<E>, request: &Request<Incoming>) -> Answer {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let whole = request.method() == Method::GET;
    if whole && accept.split(',').any(|kind| kind.trim().starts_with("application/octet-stream")) {
        return download(conn, request).await;
    }
    let core = &conn.app.config.core;
    Ok(respond::text(format!(
        "base-ha, node {} at {}\n\n\
         POST /query        SQL: {{\"sql\": \"select 1\", \"params\": []}}, or an array of these as one transaction\n\
         GET  /_ha/status   the cluster as this node sees it\n\
         GET  /readyz       whether this node is ready, and if not, why\n\
         GET  /metrics      for Prometheus\n\
         GET  /download     a consistent copy of the data\n\
         GET  /_ha/changes  what was committed, as it is committed\n\
         POST /snapshot     a copy that this node keeps; GET sends the newest\n",
        core.id, core.url
    )))
}

/// `GET /download`.
pub(crate) async fn download<E: Env>(conn: &Conn<E>, _: &Request<Incoming>) -> Answer {
    let app = &conn.app;
    let (copy, permit) = make(conn, app.config.dir.join("tmp"), Contents::Users).await?;
    let path = copy.file.path().to_owned();
    let files = app.env.files();
    let file = app.env.blocking(move || files.open(&path, Mode::Read)).await.map_err(|error| disk(&error))?;
    let (seq, bytes) = (copy.position.seq, copy.bytes);
    let name = format!("{}_ha.db", date_time(app.env.now().wall));
    Ok(attachment(conn, file, bytes, seq, &name, (copy, permit)))
}

/// The answer that sends a file; `held` is let go when it is sent, or when
/// nobody takes it any more.
fn attachment<E: Env, H: Send + 'static>(
    conn: &Conn<E>,
    file: Box<dyn File>,
    bytes: u64,
    seq: Seq,
    name: &str,
    held: H,
) -> Response<Body> {
    let (send, pieces) = mpsc::channel(2);
    let env = conn.app.env.clone();
    tokio::spawn(async move { send_file(env, file, send, held).await });
    let mut response = Response::new(Body::Pieces(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(SEQUENCE, HeaderValue::from(seq.0));
    headers.insert(header::CONTENT_DISPOSITION, respond::value(&format!("attachment; filename={name}")));
    response
}

/// Reads a file and sends it piece by piece.
async fn send_file<E: Env, H>(env: E, file: Box<dyn File>, send: mpsc::Sender<io::Result<Bytes>>, held: H) {
    let mut file = Some(file);
    let mut sent = 0;
    while let Some(open) = file.take() {
        let read = move || {
            let mut piece = vec![0; PIECE_BYTES];
            let n = open.read_at(&mut piece, sent)?;
            piece.truncate(n);
            Ok((piece, open))
        };
        let piece: io::Result<(Vec<u8>, Box<dyn File>)> = env.blocking(read).await;
        match piece {
            Ok((piece, _)) if piece.is_empty() => break,
            Ok((piece, open)) => {
                sent += piece.len() as u64;
                if send.send(Ok(Bytes::from(piece))).await.is_err() {
                    break;
                }
                file = Some(open);
            }
            Err(error) => {
                // Whoever downloads must not take what there is for the whole.
                let _ = send.send(Err(error)).await;
            }
        }
    }
    drop(held);
}

/// `GET /snapshot`: the newest copy that this node keeps; the first one is
/// made for it.
pub(crate) async fn newest<E: Env>(conn: &Conn<E>) -> Answer {
    let app = &conn.app;
    if app.config.core.witness {
        return Err(ApiError::new(503, "witness", "this node is a witness: it has no data"));
    }
    let find = || {
        let (files, dir) = (app.env.files(), app.config.dir.join("snapshots"));
        app.env.blocking(move || {
            let Some((path, name)) = kept::newest(&*files, &dir)? else { return Ok(None) };
            let bytes = files.size(&path)?.unwrap_or_default();
            Ok(Some((files.open(&path, Mode::Read)?, bytes, name)))
        })
    };
    let failed = |error: io::Error| ApiError::new(500, "disk", format!("the kept copies can't be read: {error}"));
    let mut found = find().await.map_err(failed)?;
    if found.is_none() {
        snapshot(conn).await?;
        found = find().await.map_err(failed)?;
    }
    let Some((file, bytes, name)) = found else {
        return Err(failed(io::ErrorKind::NotFound.into()));
    };
    Ok(attachment(conn, file, bytes, name.seq, &name.sent(), ()))
}

/// `POST /snapshot` and `POST /_ha/snapshot`: a verified copy that stays, under
/// `snapshots/`. It holds the node's own tables as well.
pub(crate) async fn snapshot<E: Env>(conn: &Conn<E>) -> Answer {
    let app = &conn.app;
    let dir = app.config.dir.join("snapshots");
    let (copy, _permit) = make(conn, dir.clone(), Contents::Whole).await?;
    let (position, bytes, hash) = (copy.position, copy.bytes, copy.hash);
    let name = Name::new(app.env.now().wall, position.seq).file();
    let to = dir.join(&name);
    app.env.blocking(move || copy.file.keep(&to)).await.map_err(|error| disk(&error))?;
    let file = Path::new("snapshots").join(name);
    let mut response = respond::json_now(&json!({
        "sequence": position.seq.0,
        "term": position.term.0,
        "file": file.to_string_lossy(),
        "bytes": bytes,
        "blake3": hash.to_string(),
    }));
    response.headers_mut().insert(SEQUENCE, HeaderValue::from(position.seq.0));
    Ok(response)
}

/// Makes a copy in `dir`. The permit is held for as long as the copy is there.
async fn make<E: Env>(
    conn: &Conn<E>,
    dir: PathBuf,
    contents: Contents,
) -> Result<(Copied, OwnedSemaphorePermit), ApiError> {
    let app = &conn.app;
    let Ok(permit) = app.http.copies.clone().try_acquire_owned() else {
        return Err(ApiError::new(503, "overloaded", "two copies of the data are being made already").retry_after(5));
    };
    let (files, parent) = (app.env.files(), dir.clone());
    app.env.blocking(move || make_dirs(&*files, &parent)).await.map_err(|error| disk(&error))?;
    Ok((app.sql.copy(dir, contents).await?, permit))
}

fn disk(error: &io::Error) -> ApiError {
    ApiError::new(507, "disk", format!("the copy could not be written: {error}"))
}
