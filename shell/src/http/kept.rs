//! Copies of the data that stay, under `snapshots/`.
//!
//! Decides their names, and which is the newest. How a copy is made and sent is
//! `copies`' business; nobody but the operator deletes one.

use super::respond::date_time;
use crate::env::files::Files;
use base_ha_core::ids::Seq;
use base_ha_core::time::WallTime;
use std::io;
use std::path::{Path, PathBuf};

/// A copy's file name: when it was made, and what it contains. Colons and
/// blanks, which CONTRACTS 2 has in the name that is sent, are left to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// `YYYY-MM-DD HH:MM:SS`.
    made: String,
    pub(crate) seq: Seq,
}

impl Name {
    pub(crate) fn new(made: WallTime, seq: Seq) -> Self {
        Self { made: date_time(made), seq }
    }

    /// The name in the directory.
    pub(crate) fn file(&self) -> String {
        let stamp = self.made.replace(' ', "T").replace(':', "");
        format!("{stamp}_ha_snapshot_{}.db", self.seq)
    }

    /// The name under which it is sent (CONTRACTS 2).
    pub(crate) fn sent(&self) -> String {
        format!("{}_ha_snapshot_{}.db", self.made, self.seq)
    }

    /// Reads a name in the directory.
    fn read(file: &str) -> Option<Self> {
        let (stamp, seq) = file.strip_suffix(".db")?.split_once("_ha_snapshot_")?;
        let (date, time) = stamp.split_once('T')?;
        let digits = time.len() == 6 && time.bytes().all(|b| b.is_ascii_digit());
        let (h, rest) = time.split_at_checked(2).filter(|_| digits)?;
        let (m, s) = rest.split_at(2);
        let name = Self { made: format!("{date} {h}:{m}:{s}"), seq: Seq(seq.parse().ok()?) };
        // Whatever else somebody put there is none of ours.
        (name.file() == file).then_some(name)
    }
}

/// The copy that contains most, the newest of these; `None` if there is none.
/// Blocks.
///
/// # Errors
/// The directory can't be read.
pub(crate) fn newest(files: &dyn Files, dir: &Path) -> io::Result<Option<(PathBuf, Name)>> {
    let entries = match files.list(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut newest: Option<Name> = None;
    for entry in entries {
        let Some(name) = Name::read(&entry) else { continue };
        let better = |than: &Name| (name.seq, &name.made) > (than.seq, &than.made);
        if newest.as_ref().is_none_or(better) {
            newest = Some(name);
        }
    }
    Ok(newest.map(|name| (dir.join(name.file()), name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_copy_is_found_among_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let files = crate::env::files::real();
        assert_eq!(newest(&*files, &dir.path().join("snapshots")).unwrap(), None);
        let at = |seconds: u64, seq| Name::new(WallTime(seconds * 1_000), Seq(seq));
        assert_eq!(at(0, 7).file(), "1970-01-01T000000_ha_snapshot_7.db");
        assert_eq!(at(0, 7).sent(), "1970-01-01 00:00:00_ha_snapshot_7.db");
        for name in [at(90, 10), at(80, 12), at(70, 12), at(99, 9)] {
            std::fs::write(dir.path().join(name.file()), "").unwrap();
        }
        for other in ["2999-01-01T000000_ha_snapshot_99.db.tmp", "_ha_snapshot_99.db", "xTaaaaaa_ha_snapshot_99.db"] {
            std::fs::write(dir.path().join(other), "").unwrap();
        }
        let (path, name) = newest(&*files, dir.path()).unwrap().unwrap();
        assert_eq!(name, at(80, 12));
        assert!(path.exists());
    }
}
