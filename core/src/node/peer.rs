//! What is known of another node: its processes, its liveness, its standing.
//!
//! Decides who is alive and whether two processes claim one id. Knows nothing
//! of terms, votes or logs.

use crate::ids::{BootNonce, ClusterId, ConfigVersion, Incarnation, Url};
use crate::io::Route;
use crate::message::Ping;
use crate::time::MonoTime;
use alloc::vec::Vec;

/// One process that has proven to be alive by echoing a ping of ours.
#[derive(Clone, Debug, Hash)]
struct Process {
    nonce: BootNonce,
    /// It was alive before this moment: the earliest receipt of a proof.
    alive_before: MonoTime,
    /// It was alive after this moment: the latest ping that it echoed.
    alive_after: MonoTime,
    /// Others that were alive before this one was, each with a moment
    /// before which this one then was.
    succeeds: Vec<(BootNonce, MonoTime)>,
}

/// What a proof of life says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proof {
    /// The newest process, as far as one can tell.
    Current,
    /// One that has been succeeded.
    Old,
    /// Two processes take turns: both are alive.
    Duplicate,
}

/// The processes of one id. Their lifetimes are totally ordered when all is
/// well, so "A, then B, then A again" is a proof that two of them live.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Processes {
    known: Vec<Process>,
}

impl Processes {
    const KNOWN_MAX: usize = 8;

    /// Takes note that `nonce` echoed a ping that was sent at `sent` and whose
    /// echo came in at `now`.
    pub(super) fn prove(&mut self, nonce: BootNonce, sent: MonoTime, now: MonoTime) -> Proof {
        let mut earlier: Vec<(BootNonce, MonoTime)> =
            self.known.iter().filter(|p| p.nonce != nonce && p.alive_before < sent).map(|p| (p.nonce, now)).collect();
        let Some(index) = self.known.iter().position(|p| p.nonce == nonce) else {
            if self.known.len() == Self::KNOWN_MAX {
                self.known.remove(0);
            }
            self.known.push(Process { nonce, alive_before: now, alive_after: sent, succeeds: earlier });
            return self.standing(nonce);
        };
        // A, then B (which noted that A came first), then A again?
        let returned = self.known.iter().any(|other| {
            other.nonce != nonce && other.succeeds.iter().any(|(before, alive)| *before == nonce && *alive < sent)
        });
        if returned {
            // Start over, so that a duplicate that goes on is found again.
            for other in &mut self.known {
                other.succeeds.clear();
            }
            let process = &mut self.known[index];
            process.alive_before = now;
            process.alive_after = sent;
            // The other one's next proof convicts that one: an accusation
            // counts only for the process that it names.
            process.succeeds = earlier;
            return Proof::Duplicate;
        }
        let process = &mut self.known[index];
        process.alive_after = process.alive_after.max(sent);
        earlier.retain(|(nonce, _)| !process.succeeds.iter().any(|(n, _)| n == nonce));
        process.succeeds.extend(earlier);
        self.standing(nonce)
    }

    /// The newest process.
    pub(super) fn current(&self) -> Option<BootNonce> {
        self.known.iter().max_by_key(|p| p.alive_after).map(|p| p.nonce)
    }

    /// Whether another process is known to have come after `nonce`.
    pub(super) fn succeeded(&self, nonce: BootNonce) -> bool {
        self.known.iter().any(|p| p.nonce == nonce) && self.current() != Some(nonce)
    }

    fn standing(&self, nonce: BootNonce) -> Proof {
        if self.current() == Some(nonce) { Proof::Current } else { Proof::Old }
    }
}

/// Another node, by name.
#[derive(Clone, Debug, Hash)]
pub(super) struct Peer {
    /// The disk of its newest process.
    pub(super) incarnation: Incarnation,
    pub(super) processes: Processes,
    /// When it was certainly alive, at the latest.
    pub(super) heard: Option<MonoTime>,
    /// Whether it was reported up.
    pub(super) up: bool,
    /// What it last said of itself.
    pub(super) standing: Option<Ping>,
    pub(super) cluster: ClusterId,
    /// Which process said [`Peer::standing`].
    pub(super) standing_of: BootNonce,
    pub(super) config: ConfigVersion,
    /// Where it says it is.
    pub(super) url: Url,
    /// Where its last frame came from.
    pub(super) route: Route,
    /// When this incarnation was first heard of.
    pub(super) first_seen: MonoTime,
    /// When it last asked for the pin.
    pub(super) asked: Option<MonoTime>,
    /// When it was last pinged back.
    pub(super) pinged_back: Option<MonoTime>,
    /// When it was last turned away, so that refusals cannot become a storm.
    pub(super) refused: Option<MonoTime>,
    /// Its wall clock was reported to be off.
    pub(super) skewed: bool,
}

impl Peer {
    pub(super) fn new(incarnation: Incarnation, url: Url, route: Route, now: MonoTime) -> Self {
        Self {
            incarnation,
            processes: Processes::default(),
            heard: None,
            up: false,
            standing: None,
            cluster: ClusterId::NONE,
            standing_of: BootNonce(0),
            config: ConfigVersion(0),
            url,
            route,
            first_seen: now,
            asked: None,
            pinged_back: None,
            refused: None,
            skewed: false,
        }
    }

    /// Takes note that it was alive at `at`.
    pub(super) fn hear(&mut self, at: MonoTime) {
        self.heard = self.heard.max(Some(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BootNonce = BootNonce(1);
    const B: BootNonce = BootNonce(2);

    fn at(ms: u64) -> MonoTime {
        MonoTime(ms)
    }

    #[test]
    fn a_restart_is_no_duplicate_however_late_its_frames() {
        let mut of = Processes::default();
        assert_eq!(of.prove(A, at(10), at(12)), Proof::Current);
        // B's first echo overtakes A's last one.
        assert_eq!(of.prove(B, at(30), at(32)), Proof::Current);
        assert_eq!(of.prove(A, at(20), at(40)), Proof::Old);
        assert_eq!(of.prove(B, at(50), at(52)), Proof::Current);
        assert_eq!(of.prove(A, at(20), at(60)), Proof::Old);
        assert!(of.succeeded(A) && !of.succeeded(B));
    }

    #[test]
    fn taking_turns_is_a_duplicate_again_and_again() {
        let mut of = Processes::default();
        of.prove(A, at(10), at(12));
        of.prove(B, at(20), at(22));
        assert_eq!(of.prove(A, at(30), at(32)), Proof::Duplicate);
        let mut found = [0, 0];
        for n in 4..20u64 {
            let nonce = if n % 2 == 0 { B } else { A };
            let duplicate = of.prove(nonce, at(n * 10), at(n * 10 + 2)) == Proof::Duplicate;
            found[usize::from(nonce == B)] += u32::from(duplicate);
        }
        assert!(found.iter().all(|found| *found >= 3), "each is convicted: {found:?}");
    }
}
