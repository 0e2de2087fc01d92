//! Entries that this node's log once held and holds no longer, though they may
//! be nowhere else.
//!
//! Decides what is kept of them. Whether one of them was committed after all
//! is not known here: its position and request id tell whoever reads it.

use super::LogError;
use super::entries::read_entry;
use base_ha_core::entry::Entry;
use base_ha_core::time::WallTime;
use rusqlite::{Connection, params};

/// A forgotten entry (R7): the suffix of a writer that was deposed before a
/// majority had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its number among the orphans; they are listed and released by it.
    pub id: u64,
    /// The entry as it was.
    pub entry: Entry,
    /// When it was forgotten.
    pub forgotten: WallTime,
}

/// Copies the entries with a key above `after`, in the caller's transaction.
/// No-ops are left out: there is nothing in them that anyone could miss.
pub(super) fn keep_after(conn: &Connection, after: i64, wall: WallTime) -> Result<(), LogError> {
    conn.prepare_cached(
        "INSERT INTO orphans (stream, seq, term, hlc, kind, prev_hash, hash, payload, forgotten)
         SELECT s.stream, at, term, hlc, kind, prev_hash, hash, payload, ?2
         FROM entries, streams AS s WHERE s.number = 0 AND at > ?1 AND kind <> 0 ORDER BY at",
    )?
    .execute(params![after, i64::try_from(wall.0).unwrap_or(i64::MAX)])?;
    Ok(())
}

/// How many there are, and the bytes of their payloads.
pub(super) fn count(conn: &Connection) -> Result<(u64, u64), LogError> {
    let (count, bytes): (i64, i64) =
        conn.query_row("SELECT count(*), coalesce(sum(length(payload)), 0) FROM orphans", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok((count.unsigned_abs(), bytes.unsigned_abs()))
}

/// Those after `after`, oldest first, as many as fit into `bytes_max` but at
/// least one.
pub(super) fn list(conn: &Connection, after: u64, bytes_max: usize) -> Result<Vec<Orphan>, LogError> {
    let mut statement = conn.prepare_cached(
        "SELECT seq, term, hlc, kind, prev_hash, hash, payload, id, forgotten FROM orphans
         WHERE id > ?1 ORDER BY id",
    )?;
    let mut rows = statement.query([i64::try_from(after).unwrap_or(i64::MAX)])?;
    let (mut out, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let entry = read_entry(row)??;
        bytes += entry.payload.len();
        if bytes > bytes_max && !out.is_empty() {
            break;
        }
        out.push(Orphan {
            id: row.get::<_, i64>(7)?.unsigned_abs(),
            entry,
            forgotten: WallTime(row.get::<_, i64>(8)?.unsigned_abs()),
        });
    }
    Ok(out)
}

/// Deletes one; false if there is none of that number.
pub(super) fn release(conn: &Connection, id: u64) -> Result<bool, LogError> {
    let Ok(id) = i64::try_from(id) else { return Ok(false) };
    Ok(conn.execute("DELETE FROM orphans WHERE id = ?1", [id])? > 0)
}
