//! Bodies of the fuzz targets: hostile bytes for everything that takes bytes.
//!
//! Decides what must hold for any input. Each body is an ordinary function, so
//! that stable builds compile it and `cargo test` runs it over the committed
//! corpus; `fuzz/` only names them to libFuzzer. A body panics where a promise
//! is broken and returns where the input is merely bad.
//!
//! Checksums keep a fuzzer out: it does not guess a CRC. Where the bytes carry
//! one, the first byte of the input says whether the rest is taken as it is or
//! is a body that gets its head here.
//!
//! | file | its targets |
//! |---|---|
//! | `wire` | frames, log records, snapshot headers |
//! | `changeset` | a change-set, up to the rows that SQLite then holds |
//! | `texts` | tokens, bodies of SQL over HTTP, settings |
//! | `plan` | a plan of the simulator |
//! | `replica` | a store, filled, for the targets that need one |
//! | `samples` | sound inputs, from which a fuzzer starts |

mod changeset;
mod plan;
mod replica;
mod samples;
mod texts;
mod wire;

pub use changeset::changeset;
pub use plan::plan;
pub use samples::all as samples;
pub use texts::{config, sql_body, token};
pub use wire::{frame, record, snapshot_header};

/// A target: its name, which is also its corpus's folder, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("changeset", changeset),
    ("config", config),
    ("frame", frame),
    ("plan", plan),
    ("record", record),
    ("snapshot_header", snapshot_header),
    ("sql_body", sql_body),
    ("token", token),
];
