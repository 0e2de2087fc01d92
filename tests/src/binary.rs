//! The binary under test.
//!
//! Decides where it is and that it is up to date: Cargo makes a package's
//! binaries for its own tests only, and these tests are another package.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of `base-ha`, built once a process with the profile and target
/// directory of the tests themselves. `BASE_HA_TEST_BINARY` names another.
///
/// # Panics
/// If it can't be built.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("BASE_HA_TEST_BINARY") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    // target/<profile>/deps/it-0123456789abcdef
    let own = std::env::current_exe().expect("this test's path");
    let profile_dir = own.ancestors().nth(2).expect("tests run from target/<profile>/deps");
    let target_dir = profile_dir.parent().expect("a profile's directory lies in the target directory");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace).args(["build", "--quiet", "--package", "base-ha", "--bin", "base-ha"]);
    command.args(["--profile", profile]).arg("--target-dir").arg(target_dir);
    // What Cargo sets for this package would have others built again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR") {
            command.env_remove(name);
        }
    }
    let output = command.output().expect("cargo can be run");
    assert!(output.status.success(), "base-ha can't be built:\n{}", String::from_utf8_lossy(&output.stderr));
    profile_dir.join("base-ha")
}
