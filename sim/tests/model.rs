//! A small share of the model checking, in every `cargo test`.

use base_ha_sim::model::{Lie, Promise, Scope, explore};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);

#[test]
fn every_order_of_a_failover_keeps_every_promise() {
    for scope in Scope::small() {
        let found = explore(scope, 2, LIMIT);
        println!("{found}");
        assert!(found.holds(), "see above");
        assert!(found.states > 500, "{} states are no search", found.states);
    }
}

/// The search has cases in which it must find something: disks that lie.
#[test]
fn a_disk_that_lies_is_found_out() {
    for (lie, promise) in [(Lie::Entries, Promise::DurableAck), (Lie::Silence, Promise::OnePermit)] {
        let found = explore(Scope::lying(lie), 2, LIMIT);
        println!("{found}");
        let (broken, _, actions) = found.broken.expect("a lie breaks a promise");
        assert_eq!(broken, promise, "{lie:?}");
        assert!(actions.len() > 2, "it takes more than {actions:?}");
    }
}
