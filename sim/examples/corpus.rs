//! Writes the sound inputs of every fuzz target into `fuzz/corpus`, where they
//! are missing: what a fuzzer starts from.

use base_ha_sim::fuzz::samples;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, inputs) in samples() {
        let dir = corpus.join(target);
        std::fs::create_dir_all(&dir)?;
        for (n, input) in inputs.iter().enumerate() {
            std::fs::write(dir.join(format!("sample-{n:02}")), input)?;
        }
    }
    Ok(())
}
