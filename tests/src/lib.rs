//! The harness of the end-to-end tests: real processes of the real binary, on
//! real files and sockets, killed by real signals.
//!
//! A test makes a [`Cluster`], does something to it, and waits with
//! [`eventually`] for what must come. Nothing here measures time: a wait ends
//! as soon as it can and fails only at a deadline far beyond what a loaded
//! machine needs. When a test fails, the tail of each node's log is printed.
//!
//! Tests that need what a plain machine lacks (root, say) print one SKIPPED
//! line through [`skipped`]; with `BASE_HA_TEST_REQUIRE=all` that is a failure.

pub mod binary;
pub mod certs;
pub mod cluster;
pub mod load;
pub mod node;
pub mod proxy;
pub mod wait;

pub use cluster::Cluster;
pub use node::Node;
pub use wait::eventually;

/// Says that a test could not run here, and why. The test then returns.
///
/// # Panics
/// If `BASE_HA_TEST_REQUIRE=all`: whoever set it has everything installed.
pub fn skipped(test: &str, why: &str) {
    let strict = std::env::var("BASE_HA_TEST_REQUIRE").is_ok_and(|value| value == "all");
    assert!(!strict, "{test} would be skipped ({why}) and BASE_HA_TEST_REQUIRE=all forbids that");
    // Straight to standard error: the test runner hides what passing tests print.
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}
