//! Every fuzz target over its committed corpus.
//!
//! A newly found input is put into `fuzz/corpus/<target>`, whatever it was
//! found by, and stays there.

use base_ha_sim::fuzz::{TARGETS, samples};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[test]
fn every_input_of_the_corpus_keeps_what_is_promised() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut failed = Vec::new();
    for (name, body) in TARGETS {
        let dir = corpus.join(name);
        let mut inputs: Vec<_> = std::fs::read_dir(&dir)
            .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
            .map(|file| file.expect("an entry of the folder").path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in inputs {
            let bytes = std::fs::read(&input).expect("a file of the corpus");
            if catch_unwind(AssertUnwindSafe(|| body(&bytes))).is_err() {
                failed.push(format!("{name}: {}", input.display()));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_target_has_samples_and_holds_them() {
    let samples = samples();
    let named = |names: &mut dyn Iterator<Item = &'static str>| names.collect::<Vec<_>>();
    assert_eq!(named(&mut samples.iter().map(|s| s.0)), named(&mut TARGETS.iter().map(|t| t.0)));
    for ((_, inputs), (_, body)) in samples.iter().zip(TARGETS) {
        assert!(!inputs.is_empty());
        inputs.iter().for_each(|input| body(input));
    }
}
