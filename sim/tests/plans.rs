//! Plans that once failed, shrunk to what mattered: none fails any more.

use base_ha_sim::batch::{Outcome, run_caught};
use base_ha_sim::plan_file::PlanFile;
use base_ha_sim::trace::TraceMode;
use std::path::PathBuf;

#[test]
fn no_plan_that_once_failed_fails_again() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("plans");
    let entries = std::fs::read_dir(&folder).expect("the folder is part of the repository");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "nothing in {}", folder.display());
    for path in paths {
        let file = PlanFile::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!file.found.is_empty(), "{} says what it found", path.display());
        if let Outcome::Failed(failure) = run_caught(&file.plan, TraceMode::Off) {
            panic!(
                "{failure}\n{} found before: {}\nrepeat: cargo run --release -p base-ha-sim -- --plan {0}",
                path.display(),
                file.found
            );
        }
    }
}
