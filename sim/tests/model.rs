//! A small share of the model checking, in every `cargo test`.

use base_ha_sim::model::{Lie, Scope, explore};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn every_order_of_a_failover_keeps_every_promise() {
    for scope in Scope::small() {
        let found = explore(scope, 2, LIMIT);
        println!("{found}");
        assert!(found.broken.is_none(), "see above");
        assert!(found.complete, "the space is not exhausted");
        assert!(found.states > 1000, "{} states are no search", found.states);
    }
}

/// The search has cases in which it must find something: disks that lie.
#[test]
fn a_disk_that_lies_is_found_out() {
    for (lie, promise) in [
        (Lie::Entries, "a commit is on a quorum of disks"),
        (Lie::Vote, "one vote per term"),
        (Lie::Silence, "one permit at a time"),
    ] {
        let found = explore(Scope::lying(lie), 2, LIMIT);
        println!("{found}");
        let (broken, actions) = found.broken.expect("a lie breaks a promise");
        assert!(broken.starts_with(promise), "{lie:?} breaks: {broken}");
        assert!(actions.len() > 2, "it takes more than {actions:?}");
    }
}
