//! The shell's own tables in `data.db`.
//!
//! Decides their schema only. Their names start with [`OWN_PREFIX`]; user SQL
//! can neither read nor change them (see `policy`).

/// What the names of the shell's own tables start with, in any case.
pub const OWN_PREFIX: &str = "_ha_";

/// Creates the shell's own tables where they are missing.
///
/// `_ha_meta`: one row a fact about this file. `_ha_position`: one row a
/// stream (16 bytes, big-endian): the last entry applied, its term and hash,
/// and the content's hash there (16 bytes, big-endian), the highest stamp and the
/// number of schema changes ever made. It changes in the same SQLite transaction
/// as the rows. `_ha_sums`: each table's share of the content's hash.
/// `_ha_requests`: what a repeated `Idempotency-Key` is told. `_ha_terms`: the
/// first entry of each term that left entries in this history, from the first
/// entry on: whether a session has seen this history or one that was given up.
/// `_ha_recent`: the ids (16 bytes each, little-endian) of the requests whose
/// entries are `first` and those after it, all of one term; the last ones only.
pub const CREATE: &str = "
CREATE TABLE IF NOT EXISTS _ha_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _ha_position(
    stream BLOB PRIMARY KEY, seq INTEGER NOT NULL, term INTEGER NOT NULL,
    hash BLOB NOT NULL, content BLOB NOT NULL,
    hlc INTEGER NOT NULL DEFAULT 0, epoch INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _ha_sums(name TEXT PRIMARY KEY, sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _ha_requests(
    key TEXT PRIMARY KEY, digest BLOB NOT NULL, seq INTEGER NOT NULL, term INTEGER NOT NULL,
    hash BLOB NOT NULL, hlc INTEGER NOT NULL, answer BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _ha_terms(first INTEGER PRIMARY KEY, term INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS _ha_recent(first INTEGER PRIMARY KEY, term INTEGER NOT NULL, ids BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS _ha_requests_by_age ON _ha_requests(hlc);
";

/// Every table and index that [`CREATE`] makes: anything else with their prefix
/// is an intruder.
pub const OWN: [&str; 7] =
    ["_ha_meta", "_ha_position", "_ha_sums", "_ha_requests", "_ha_terms", "_ha_recent", "_ha_requests_by_age"];

/// How many of [`OWN`] are tables.
pub const OWN_TABLES: usize = 6;

/// Whether `name` is one of the shell's own tables.
pub fn is_own(name: &str) -> bool {
    name.get(..OWN_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tables_are_told_by_prefix_in_any_case() {
        assert!(is_own("_ha_meta") && is_own("_HA_Meta") && is_own("_ha_"));
        assert!(!is_own("_ha") && !is_own("ha_meta") && !is_own("é_ha_") && !is_own("x_ha_meta"));
    }

    #[test]
    fn creating_twice_is_creating_once() {
        let connection = rusqlite::Connection::open_in_memory().expect("memory");
        connection.execute_batch(CREATE).expect("valid");
        connection.execute_batch(CREATE).expect("valid");
    }
}
