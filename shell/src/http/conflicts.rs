//! `/_ha/conflicts`: writes that this node's log once held and the cluster's
//! history does not (R7).
//!
//! Decides how they are listed, and that they are let go one by one, by order
//! only. Each is the suffix of a writer that was deposed before a majority had
//! it: its client was told that the outcome is unknown, or asked for no more than
//! `X-Base-Ack: local`, and may have sent it again. So it is shown, with the id
//! of its request, and never done anew by itself.

use super::changes::{self, Tables, put};
use super::respond::{self, Answer, rfc3339};
use super::server::Conn;
use crate::api::LogJob;
use crate::env::Env;
use crate::error::ApiError;
use crate::log::Orphan;
use crate::sqljson::write_string;
use base_ha_core::changeset::{Change, ChangeSet};
use base_ha_core::entry::EntryKind;
use base_ha_core::time::WallTime;
use base_ha_core::wire::decode_changeset;
use hyper::Method;
use serde_json::json;
use tokio::sync::oneshot;

/// How many are listed unless more are asked for.
const LIMIT: usize = 100;
/// How many are listed at most.
const LIMIT_MAX: usize = 1_000;
/// Payloads read from the log at once; the first is read however large it is.
const BATCH_BYTES: usize = 1 << 20;
/// Where a list ends although there are more: whoever reads on does so by
/// `after`.
const LIST_BYTES: usize = 8 << 20;

/// What part of the list is wanted.
#[derive(Debug, PartialEq)]
struct Wish {
    after: u64,
    limit: usize,
    tables: Tables,
}

impl Wish {
    fn read(query: Option<&str>) -> Result<Self, ApiError> {
        let mut wish = Self { after: 0, limit: LIMIT, tables: Tables::default() };
        for (name, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
            let number = || {
                let legal = |_| ApiError::new(400, "bad_option", format!("{name} is {value:?}; it may be a number"));
                value.parse::<u64>().map_err(legal)
            };
            match &*name {
                "after" => wish.after = number()?,
                "limit" => wish.limit = usize::try_from(number()?).unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX),
                "table" => wish.tables.0.extend(value.split(',').map(str::to_owned)),
                _ => {
                    let text = format!("there is no {name}; there are after, limit and table");
                    return Err(ApiError::new(400, "bad_option", text));
                }
            }
        }
        Ok(wish)
    }
}

/// `GET /_ha/conflicts`, oldest first.
pub(crate) async fn list<E: Env>(conn: &Conn<E>, query: Option<&str>) -> Answer {
    let wish = Wish::read(query)?;
    let mut out = Vec::new();
    put(&mut out, format_args!("{{\"total\":{},\"conflicts\":[", conn.app.stats.log.orphans()));
    let (mut after, mut listed, mut more) = (wish.after, 0, false);
    'all: loop {
        let orphans = ask(conn, |reply| LogJob::Orphans { after, bytes_max: BATCH_BYTES, reply }).await?;
        if orphans.is_empty() {
            break;
        }
        for orphan in orphans {
            if listed == wish.limit || out.len() >= LIST_BYTES {
                more = true;
                break 'all;
            }
            after = orphan.id;
            if write(&mut out, &orphan, &wish.tables, listed > 0) {
                listed += 1;
            }
        }
    }
    out.extend_from_slice(b"],\"after\":");
    // Where to go on: past those that the filter left out as well.
    put(&mut out, format_args!("{after},\"more\":{more}}}"));
    let mut response = respond::json(out);
    response.headers_mut().insert(hyper::header::CACHE_CONTROL, respond::NO_STORE);
    Ok(response)
}

/// Writes one; false if the filter leaves it out.
fn write(out: &mut Vec<u8>, orphan: &Orphan, tables: &Tables, comma: bool) -> bool {
    let entry = &orphan.entry;
    let set = match entry.kind {
        EntryKind::Data => decode_changeset(entry.payload.clone()).ok(),
        EntryKind::Noop | EntryKind::Config => None,
    };
    let is_about = |set: &ChangeSet| {
        let mut rows = set.changes.iter().filter_map(|change| changes::table_of(set, change));
        set.changes.iter().any(|change| matches!(change, Change::Ddl { .. }))
            || rows.any(|shape| tables.has(&shape.name))
    };
    if !tables.0.is_empty() && !set.as_ref().is_some_and(is_about) {
        return false;
    }
    if comma {
        out.push(b',');
    }
    let time = rfc3339(WallTime(entry.hlc.millis()));
    put(out, format_args!("{{\"id\":{},\"seq\":{},\"term\":{}", orphan.id, entry.seq, entry.term));
    put(out, format_args!(",\"time\":\"{time}\",\"forgotten\":\"{}\"", rfc3339(orphan.forgotten)));
    match set {
        Some(set) => {
            put(out, format_args!(",\"request\":\"{:032x}\",\"database\":", set.request.0));
            write_string(out, &set.database);
            out.extend_from_slice(b",\"changes\":[");
            for (n, change) in set.changes.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                changes::write(out, &set, change);
            }
            out.extend_from_slice(b"]}");
        }
        // A change of the membership, which an administrator ordered and was
        // told of.
        None => out.extend_from_slice(b",\"changes\":[]}"),
    }
    true
}

/// `POST /_ha/conflicts/{id}/dismiss`.
pub(crate) async fn order<E: Env>(conn: &Conn<E>, path: &str, method: &Method) -> Answer {
    let below = path.strip_prefix("/_ha/conflicts/").unwrap_or_default();
    let id = match below.split_once('/') {
        Some((id, "dismiss")) => id,
        _ => return Err(ApiError::new(404, "not_found", format!("there is nothing at {path}"))),
    };
    if method != Method::POST {
        return Err(ApiError::new(405, "method_not_allowed", format!("{method} is not possible here, only POST")));
    }
    let unknown = || ApiError::new(404, "unknown_conflict", format!("this node lists no conflict {id:?}"));
    let id: u64 = id.parse().map_err(|_| unknown())?;
    match ask(conn, |reply| LogJob::ReleaseOrphan { id, reply }).await? {
        true => {
            tracing::info!(node = %conn.app.config.core.id, id, "a forgotten write was dismissed by order");
            Ok(respond::json_now(&json!({ "dismissed": id })))
        }
        false => Err(unknown()),
    }
}

async fn ask<E: Env, T>(
    conn: &Conn<E>,
    job: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> LogJob,
) -> Result<T, ApiError> {
    let stopping = || ApiError::new(503, "stopping", "this node is stopping").retry_after(1);
    let (reply, answer) = oneshot::channel();
    conn.app.log.send(job(reply)).map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_understood_or_refused() {
        let wish = Wish::read(Some("after=7&limit=5000&table=a,b")).unwrap();
        assert_eq!((wish.after, wish.limit, wish.tables.0.len()), (7, LIMIT_MAX, 2));
        for wrong in ["after=x", "limit=-1", "tables=a"] {
            assert_eq!(Wish::read(Some(wrong)).unwrap_err().code, "bad_option", "{wrong}");
        }
    }
}
