//! O1b: at most one node holds a valid permit at any true moment, as long as
//! clock rates stay within the bound that the nodes were told (R1).

use super::Verdict;
use base_ha_core::io::WritePermit;
use base_ha_core::time::MonoTime;
use std::collections::BTreeMap;

/// Who holds which permit. A permit that its holder was given stays valid by
/// its clock until it ends, or until the holder itself says otherwise: a
/// process that stands still goes on believing in it.
#[derive(Debug, Default)]
pub struct OnePermitAtATime {
    held: BTreeMap<usize, WritePermit>,
}

impl OnePermitAtATime {
    /// A node was asked whether it may write. `mono` tells what another node's
    /// clock shows at this true moment.
    ///
    /// # Errors
    /// If another node's permit is valid now.
    pub fn asked(&mut self, host: usize, permit: Option<WritePermit>, mono: impl Fn(usize) -> MonoTime) -> Verdict {
        let Some(permit) = permit else {
            self.held.remove(&host);
            return Ok(());
        };
        self.held.insert(host, permit);
        for (other, theirs) in &self.held {
            if *other != host && mono(*other) < theirs.until {
                return Err(format!(
                    "host {host} may write in term {} while host {other} may in term {} until {:?}, its clock showing {:?}",
                    permit.term,
                    theirs.term,
                    theirs.until,
                    mono(*other)
                ));
            }
        }
        Ok(())
    }

    /// The process ended, and what it believed with it.
    pub fn ended(&mut self, host: usize) {
        self.held.remove(&host);
    }

    /// The permit that a host was last given, if any.
    pub fn of(&self, host: usize) -> Option<&WritePermit> {
        self.held.get(&host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::ids::Term;

    fn permit(term: u64, until: u64) -> Option<WritePermit> {
        Some(WritePermit { term: Term(term), until: MonoTime(until) })
    }

    #[test]
    fn overlapping_permits_are_rejected() {
        let mut oracle = OnePermitAtATime::default();
        let at = |t| move |_| MonoTime(t);
        assert!(oracle.asked(0, permit(1, 100), at(50)).is_ok());
        assert!(oracle.asked(1, permit(2, 300), at(99)).is_err());
    }

    #[test]
    fn a_permit_that_ended_was_given_up_or_died_is_no_overlap() {
        let mut oracle = OnePermitAtATime::default();
        let at = |t| move |_| MonoTime(t);
        assert!(oracle.asked(0, permit(1, 100), at(50)).is_ok());
        assert!(oracle.asked(1, permit(2, 300), at(100)).is_ok());
        assert!(oracle.asked(1, None, at(110)).is_ok());
        assert!(oracle.asked(0, permit(3, 400), at(120)).is_ok());
        oracle.ended(0);
        assert!(oracle.asked(1, permit(4, 500), at(130)).is_ok());
    }
}
