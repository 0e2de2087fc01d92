//! The directory of a development cluster: what is kept from run to run.
//!
//! Decides names, ports and secrets, and which directory may be deleted.

use crate::env::files::{RealFiles, make_dirs};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file that says that a directory is one of these, and of what shape.
const SHAPE: &str = "dev-cluster";
const SECRET: &str = "cluster.secret";

/// A directory that this process owns.
pub(super) struct Home {
    dir: PathBuf,
    nodes: Vec<Place>,
    /// Held until the process ends.
    _lock: File,
}

/// One node's place.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) port: u16,
}

impl Home {
    /// Opens or makes the directory.
    ///
    /// # Errors
    /// In words: another process uses it, it is something else, it holds a
    /// cluster of another shape, or the system refuses.
    pub(super) fn open(dir: &Path, nodes: u16, port: u16, fresh: bool) -> Result<Self, String> {
        let explain = |error: io::Error| format!("the directory {} can't be used: {error}", dir.display());
        if fresh {
            clear(dir)?;
        }
        make_dirs(&RealFiles, dir).map_err(explain)?;
        // Children are run from wherever this process runs; a relative path
        // in their lines of help would be of no use elsewhere.
        let dir = dir.canonicalize().map_err(explain)?;
        let lock = File::create(dir.join("lock")).map_err(explain)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            format!("another `base-ha dev` uses {}\n    mend: stop it, or choose another --dir", dir.display())
        })?;
        let shape = format!("nodes {nodes}\nport {port}\n");
        match fs::read_to_string(dir.join(SHAPE)) {
            Ok(kept) if kept == shape => {}
            Ok(kept) => {
                let kept = kept.trim().replace('\n', ", ");
                return Err(format!(
                    "{} holds a cluster of another shape ({kept})\n    mend: start it with that shape, delete it by --fresh, or choose another --dir",
                    dir.display()
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_private(&dir.join(SECRET), &format!("{}\n", new_secret()?)).map_err(explain)?;
                // Last, so that a crash in between leaves no shape without a secret.
                write_private(&dir.join(SHAPE), &shape).map_err(explain)?;
            }
            Err(error) => return Err(explain(error)),
        }
        let nodes = (0..nodes).map(|n| Place { name: format!("node-{}", n + 1), port: port + n }).collect();
        Ok(Self { dir, nodes, _lock: lock })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn nodes(&self) -> &[Place] {
        &self.nodes
    }

    pub(super) fn secret_file(&self) -> PathBuf {
        self.dir.join(SECRET)
    }

    pub(super) fn data_dir(&self, place: &Place) -> PathBuf {
        self.dir.join(&place.name)
    }

    pub(super) fn log_file(&self, place: &Place) -> PathBuf {
        self.dir.join(format!("{}.log", place.name))
    }
}

impl Place {
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Deletes an earlier cluster, and nothing that isn't one.
fn clear(dir: &Path) -> Result<(), String> {
    let explain = |error: io::Error| format!("{} can't be deleted: {error}", dir.display());
    if !dir.exists() {
        return Ok(());
    }
    let empty = fs::read_dir(dir).map_err(explain)?.next().is_none();
    if empty {
        return Ok(());
    }
    if !dir.join(SHAPE).exists() {
        return Err(format!(
            "{} was not made by `base-ha dev`, so --fresh does not delete it\n    mend: choose another --dir",
            dir.display()
        ));
    }
    let lock = File::create(dir.join("lock")).map_err(explain)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| format!("another `base-ha dev` uses {}\n    mend: stop it first", dir.display()))?;
    fs::remove_dir_all(dir).map_err(explain)
}

fn new_secret() -> Result<String, String> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_shape_and_the_secret_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("dev");
        let home = Home::open(&path, 3, 9000, false).expect("made");
        let secret = fs::read_to_string(home.secret_file()).expect("a secret");
        assert_eq!(secret.trim().len(), 64);
        let mode = fs::metadata(home.secret_file()).expect("a secret").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Home::open(&path, 3, 9000, false).is_err_and(|e| e.contains("another `base-ha dev`")));
        drop(home);
        let home = Home::open(&path, 3, 9000, false).expect("kept");
        assert_eq!(fs::read_to_string(home.secret_file()).expect("a secret"), secret);
        assert_eq!(home.nodes()[2].url(), "http://127.0.0.1:9002");
        drop(home);
        assert!(Home::open(&path, 5, 9000, false).is_err_and(|e| e.contains("nodes 3, port 9000")));
        let home = Home::open(&path, 5, 9000, true).expect("made anew");
        assert_ne!(fs::read_to_string(home.secret_file()).expect("a secret"), secret);
    }

    #[test]
    fn fresh_deletes_nothing_that_is_not_its_own() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("thesis.txt"), "years of work").expect("writable");
        assert!(Home::open(dir.path(), 3, 9000, true).is_err_and(|e| e.contains("was not made by")));
        assert!(dir.path().join("thesis.txt").exists());
    }
}
