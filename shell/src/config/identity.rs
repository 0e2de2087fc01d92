//! This node's name: given, or made once and kept in the data directory.
//!
//! Decides the name only. The incarnation, which says whether the disk is
//! still the same, is the log's business.

use crate::env::files::{self, Files};
use base_ha_core::ids::{NodeId, Url};
use std::io;
use std::path::Path;

/// The file in the data directory that keeps the name.
pub const FILE: &str = "node_id";

/// The name that a data directory was given, if it has one.
///
/// # Errors
/// The file can't be read, or doesn't hold a name.
pub fn kept(files: &dyn Files, dir: &Path) -> io::Result<Option<NodeId>> {
    match files::read_text(files, &dir.join(FILE)) {
        Ok(text) => NodeId::new(text.trim())
            .map(Some)
            .map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A name made from a URL: host and port, other bytes as dashes. Two members
/// have two URLs, hence two names; and a node whose disk was lost gets its old
/// name back, under which it is admitted again.
pub fn derived(url: &Url) -> NodeId {
    let place = url.as_str().split_once("://").map_or(url.as_str(), |(_, place)| place);
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = place.chars().map(legal).collect();
    let name = name.trim_matches('-');
    // The tail holds the port, which tells nodes of one host apart.
    let tail = &name[name.len().saturating_sub(NodeId::LENGTH_MAX)..];
    NodeId::new(tail).expect("1-64 legal bytes: a URL has a host and every other byte was replaced")
}

/// Writes the name into the data directory, which must exist, unless it is
/// there already. A crash in between leaves no name or the whole name.
///
/// # Errors
/// What the system says.
pub fn keep(files: &dyn Files, dir: &Path, id: &NodeId) -> io::Result<()> {
    if kept(files, dir)?.as_ref() == Some(id) {
        return Ok(());
    }
    let fresh = dir.join(format!("{FILE}.{}.new", std::process::id()));
    files::place(files, &dir.join(FILE), &fresh, format!("{id}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::files::RealFiles;

    #[test]
    fn names_are_derived_from_urls() {
        let name = |url: &str| derived(&Url::new(url)).to_string();
        assert_eq!(name("http://127.0.0.1:8090"), "127.0.0.1-8090");
        assert_eq!(name("http://[::1]:8090"), "1--8090");
        assert_eq!(name("http://base-0.base.default.svc:8090"), "base-0.base.default.svc-8090");
        let long = format!("http://{}.example:8091", "a".repeat(80));
        assert_eq!(name(&long).len(), 64);
        assert!(name(&long).ends_with("8091"));
    }

    #[test]
    fn a_name_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(kept(&RealFiles, dir.path()).expect("readable"), None);
        let id = NodeId::new("base-0").expect("legal");
        keep(&RealFiles, dir.path(), &id).expect("writable");
        keep(&RealFiles, dir.path(), &id).expect("writable");
        assert_eq!(kept(&RealFiles, dir.path()).expect("readable"), Some(id));
        std::fs::write(dir.path().join(FILE), "no good\n").expect("writable");
        assert!(kept(&RealFiles, dir.path()).is_err());
    }
}
