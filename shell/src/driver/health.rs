//! How log and store fare, together.
//!
//! Decides what the core is told. It knows one state of health, and its `Well`
//! ends all that was bad before: told by the log it would hide a store that is
//! full still. So each one's ailments are kept here, and `Well` is passed on
//! when nothing is left of any.

use crate::api::Organ;
use base_ha_core::ids::Seq;
use base_ha_core::io::StoreHealth;

/// What is wrong, by whom.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Health {
    log_full: bool,
    store_full: bool,
    /// The entry that could not be applied.
    halted: Option<Seq>,
}

impl Health {
    /// One of them said how it fares; what the core is to be told, in order.
    pub fn heard(&mut self, organ: Organ, health: StoreHealth) -> Vec<StoreHealth> {
        let full = match organ {
            Organ::Log => &mut self.log_full,
            Organ::Store => &mut self.store_full,
        };
        match health {
            StoreHealth::Full => *full = true,
            StoreHealth::ApplyHalted { at } => self.halted = Some(at),
            // The core keeps that one until another copy is in place.
            StoreHealth::Quarantined => {}
            StoreHealth::Well => {
                *full = false;
                let healed = match organ {
                    Organ::Log => false,
                    Organ::Store => self.halted.take().is_some(),
                };
                return self.after_well(healed);
            }
        }
        vec![health]
    }

    /// Another `data.db` is in place: what could not be applied to the old one
    /// is in it. The core knows by itself.
    pub fn replaced(&mut self) {
        self.halted = None;
    }

    fn after_well(&self, healed: bool) -> Vec<StoreHealth> {
        let still_full = self.log_full || self.store_full;
        if still_full && !healed {
            // The core believes all that still holds.
            return Vec::new();
        }
        let full = still_full.then_some(StoreHealth::Full);
        let halted = self.halted.map(|at| StoreHealth::ApplyHalted { at });
        [Some(StoreHealth::Well), full, halted].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StoreHealth::{ApplyHalted, Full, Quarantined, Well};

    #[test]
    fn the_logs_room_does_not_hide_a_store_that_is_full() {
        for (first, second) in [(Organ::Log, Organ::Store), (Organ::Store, Organ::Log)] {
            let mut health = Health::default();
            assert_eq!(health.heard(first, Full), [Full]);
            assert_eq!(health.heard(second, Full), [Full]);
            assert_eq!(health.heard(first, Well), [], "{second:?} is full still");
            assert_eq!(health.heard(second, Well), [Well]);
            assert_eq!(health, Health::default());
        }
    }

    #[test]
    fn a_halted_store_is_not_mended_by_the_log() {
        let mut health = Health::default();
        let halted = ApplyHalted { at: Seq(7) };
        assert_eq!(health.heard(Organ::Store, halted), [halted]);
        assert_eq!(health.heard(Organ::Log, Full), [Full]);
        assert_eq!(health.heard(Organ::Log, Well), [Well, halted]);
        health.replaced();
        assert_eq!(health, Health::default());
    }

    #[test]
    fn a_store_that_is_mended_leaves_the_log_full() {
        let mut health = Health::default();
        health.heard(Organ::Store, ApplyHalted { at: Seq(7) });
        health.heard(Organ::Log, Full);
        assert_eq!(health.heard(Organ::Store, Well), [Well, Full]);
        assert_eq!(health.heard(Organ::Store, Quarantined), [Quarantined]);
    }
}
