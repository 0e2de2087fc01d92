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
/// and the content's hash there (16 bytes, big-endian). It changes in the same
/// SQLite transaction as the rows.
pub const CREATE: &str = "
CREATE TABLE IF NOT EXISTS _ha_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _ha_position(
    stream BLOB PRIMARY KEY, seq INTEGER NOT NULL, term INTEGER NOT NULL,
    hash BLOB NOT NULL, content BLOB NOT NULL
) WITHOUT ROWID;
";

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
