//! What the dependencies may be: their licences, where they come from, and
//! that none is asked for in whatever version there is. `deny.toml` says what
//! is allowed; this holds the lock file against it wherever tests run, also
//! where cargo-deny is not installed.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).args(["metadata", "--format-version", "1", "--locked"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = command.output().expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What `deny.toml` allows.
fn allowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(workspace().join("deny.toml")).expect("deny.toml");
    let table: toml::Table = text.parse().expect("TOML");
    let list = table["licenses"]["allow"].as_array().expect("a list");
    list.iter().map(|licence| licence.as_str().expect("a text").to_owned()).collect()
}

/// Whether an SPDX expression can be met by allowed licences alone. `A/B` is
/// the older way to write `A OR B`; OR binds less than AND, WITH most.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at, allowed);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any_of(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return allowed.contains(&format!("{word} WITH {exception}"));
    }
    allowed.contains(*word)
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let allowed: BTreeSet<String> = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for fine in ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "MIT AND ISC", "(GPL-3.0 OR MIT) AND ISC"] {
        assert!(is_met(fine, &allowed), "{fine}");
    }
    assert!(is_met("Apache-2.0 WITH LLVM-exception OR GPL-3.0", &allowed));
    for bad in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT OR ISC)", "(MIT", "Apache-2.0", "MIT ISC", "GPL-3.0 OR MIT AND X"]
    {
        assert!(!is_met(bad, &allowed), "{bad}");
    }
}

#[test]
fn dependencies_are_what_deny_toml_allows() {
    let (metadata, allowed) = (metadata(), allowed());
    let mut faults = Vec::new();
    let mut foreign = 0;
    for package in metadata["packages"].as_array().expect("packages") {
        let name =
            format!("{} {}", package["name"].as_str().unwrap_or("?"), package["version"].as_str().unwrap_or("?"));
        let licence = package["license"].as_str().unwrap_or_default();
        if !is_met(licence, &allowed) {
            faults.push(format!("{name}: the licence {licence:?} is not allowed by deny.toml"));
        }
        match package["source"].as_str() {
            Some(CRATES_IO) => foreign += 1,
            Some(other) => faults.push(format!("{name}: comes from {other}")),
            // Of this workspace: what it asks for is looked at, too.
            None => {
                for dependency in package["dependencies"].as_array().into_iter().flatten() {
                    let own = dependency["path"].is_string();
                    if dependency["req"] == "*" && !own {
                        faults.push(format!("{name}: asks for any version of {}", dependency["name"]));
                    }
                }
            }
        }
    }
    assert!(foreign > 50, "only {foreign} dependencies were looked at");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
