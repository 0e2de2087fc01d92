//! Deterministic simulation of base-ha: the core alone, and whole nodes.
//!
//! Production [`base_ha_core::node::Node`]s on a virtual network, disk and
//! clocks; messages travel as the real codec's bytes. A seed makes a
//! [`plan::Plan`], the plan makes the run, the run is checked while it happens.
//!
//! # Replaying
//!
//! A failure ends with the line that repeats it:
//!
//! ```text
//! cargo run --release -p base-ha-sim -- --seed 4711 --trace
//! ```
//!
//! # The phases of a run
//!
//! Chaos: the plan's faults and workload. Heal: every fault ends, every machine
//! starts. Converge: one writer, everybody caught up, the pin where it belongs.
//! Serve: requests are acknowledged again. Scan: all data equal. Converging and
//! serving have a time limit; what misses it fails with the reason.
//!
//! # Where things are
//!
//! | file | its noun |
//! |---|---|
//! | `prng`, `plan`, `plan_file` | chance; a run as data, and as a file |
//! | `network`, `disk`, `clock`, `data`, `version` | the virtual world |
//! | `cluster`, `queue` | machines, processes; what happens next |
//! | `workload`, `clients` | who asks for what, and what it makes of the answers |
//! | `oracle` | what must hold |
//! | `phases` | a run from start to end |
//! | `trace`, `timeline`, `report` | what is said about it |
//! | `shrink` | a smaller plan that fails the same way |
//! | `fuzz` | bodies of the fuzz targets, for the shell's decoders too |
//! | `model` | all orders of events at small size |
//! | `points` | every point at which that disk can fail |
//! | `vfs` | a disk under the real shell and the real SQLite |
//! | [`shell`] | whole nodes with SQLite and HTTP, on turmoil: a simulation of its own |

pub mod batch;
mod clients;
pub mod clock;
pub mod cluster;
pub mod data;
pub mod disk;
pub mod fuzz;
pub mod model;
#[cfg(base_ha_mutants)]
pub mod mutants;
pub mod network;
pub mod oracle;
pub mod phases;
pub mod plan;
pub mod plan_file;
pub mod points;
pub mod prng;
pub mod queue;
pub mod report;
pub mod shell;
pub mod shrink;
pub mod spread;
pub mod timeline;
pub mod trace;
pub mod version;
pub mod vfs;
mod workload;
