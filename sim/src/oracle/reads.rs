//! A linearizable read sees everything that was acknowledged before it began.

use super::Verdict;
use base_ha_core::ids::Seq;
use base_ha_core::io::CallId;
use std::collections::BTreeMap;

/// Reads under way, and what had been acknowledged when each began.
#[derive(Debug, Default)]
pub struct CurrentReads {
    begun: BTreeMap<(usize, CallId), Seq>,
}

impl CurrentReads {
    /// A read begins at a host, where `acked` was the furthest ack anywhere.
    pub fn began(&mut self, host: usize, id: CallId, acked: Seq) {
        self.begun.insert((host, id), acked);
    }

    /// A read may run once `at` is applied.
    ///
    /// # Errors
    /// If it would miss something acknowledged before it began, or was never
    /// asked for.
    pub fn ready(&mut self, host: usize, id: CallId, at: Seq) -> Verdict {
        match self.begun.remove(&(host, id)) {
            Some(acked) if at >= acked => Ok(()),
            Some(acked) => Err(format!("host {host} reads at {at}, {acked} was acknowledged before")),
            None => Err(format!("host {host} answers read {id}, which nobody asked for")),
        }
    }

    /// A read was refused.
    pub fn refused(&mut self, host: usize, id: CallId) {
        self.begun.remove(&(host, id));
    }

    /// A host says that its applied state is current at this moment.
    ///
    /// # Errors
    /// If it lacks something acknowledged.
    pub fn local(&self, host: usize, applied: Seq, acked: Seq) -> Verdict {
        if applied >= acked {
            return Ok(());
        }
        Err(format!("host {host} would read locally at {applied}, {acked} is acknowledged"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_read_is_rejected() {
        let mut oracle = CurrentReads::default();
        oracle.began(1, 7, Seq(5));
        oracle.began(1, 8, Seq(5));
        assert!(oracle.ready(1, 7, Seq(5)).is_ok());
        assert!(oracle.ready(1, 8, Seq(4)).is_err());
        assert!(oracle.ready(1, 9, Seq(9)).is_err(), "nobody asked");
        assert!(oracle.local(1, Seq(5), Seq(5)).is_ok());
        assert!(oracle.local(1, Seq(4), Seq(5)).is_err());
    }
}
