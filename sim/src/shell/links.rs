//! Which machines reach which.
//!
//! Decides what each link of turmoil is set to, from all cuts and pauses that
//! are in force at once. Turmoil itself knows one state a link.

use std::collections::{BTreeMap, BTreeSet};
use turmoil::Sim;

/// All links.
pub struct Links {
    /// Everybody's name.
    names: Vec<String>,
    /// Directed pairs that each cut in force covers.
    cuts: BTreeMap<u64, BTreeSet<(usize, usize)>>,
    cut_next: u64,
    /// Whose links hold everything back.
    held: BTreeSet<usize>,
    /// What turmoil was told: directed pairs that carry nothing.
    blocked: BTreeSet<(usize, usize)>,
    /// What turmoil was told: pairs that hold everything back.
    holding: BTreeSet<(usize, usize)>,
}

impl Links {
    /// Links among `names`, all whole.
    pub fn new(names: Vec<String>) -> Self {
        Self {
            names,
            cuts: BTreeMap::new(),
            cut_next: 0,
            held: BTreeSet::new(),
            blocked: BTreeSet::new(),
            holding: BTreeSet::new(),
        }
    }

    /// Cuts the directed pairs for which `cuts` holds.
    pub fn cut(&mut self, cuts: impl Fn(usize, usize) -> bool) -> u64 {
        let count = self.names.len();
        let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        self.cuts.insert(self.cut_next, pairs.filter(|(a, b)| a != b && cuts(*a, *b)).collect());
        self.cut_next += 1;
        self.cut_next - 1
    }

    /// A cut ends.
    pub fn restore(&mut self, cut: u64) {
        self.cuts.remove(&cut);
    }

    /// What one machine sends and is sent waits, or goes on.
    pub fn hold(&mut self, host: usize, on: bool) {
        if on {
            self.held.insert(host);
        } else {
            self.held.remove(&host);
        }
    }

    /// Everything ends.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.held.clear();
    }

    /// Tells turmoil what has changed; all of it if its own losses may have
    /// overwritten what it was told.
    pub fn apply(&mut self, sim: &mut Sim<'_>, again: bool) {
        let count = self.names.len();
        let wanted: BTreeSet<(usize, usize)> = self.cuts.values().flatten().copied().collect();
        let as_told = wanted == self.blocked && self.held.is_empty() && self.holding.is_empty();
        if as_told && (wanted.is_empty() || !again) {
            return;
        }
        for a in 0..count {
            for b in a + 1..count {
                let (name_a, name_b) = (self.names[a].as_str(), self.names[b].as_str());
                let hold = self.held.contains(&a) || self.held.contains(&b);
                let holds = self.holding.contains(&(a, b));
                if hold && !holds {
                    // Held back, not cut: a cut that began before has taken
                    // what it takes.
                    sim.hold(name_a, name_b);
                    self.holding.insert((a, b));
                    self.blocked.remove(&(a, b));
                    self.blocked.remove(&(b, a));
                }
                if hold {
                    continue;
                }
                if holds {
                    sim.release(name_a, name_b);
                    self.holding.remove(&(a, b));
                }
                for (from, to) in [(a, b), (b, a)] {
                    let (name_from, name_to) = (self.names[from].as_str(), self.names[to].as_str());
                    match (wanted.contains(&(from, to)), self.blocked.contains(&(from, to))) {
                        (true, blocked) if !blocked || again => {
                            sim.partition_oneway(name_from, name_to);
                            self.blocked.insert((from, to));
                        }
                        (false, true) => {
                            sim.repair_oneway(name_from, name_to);
                            self.blocked.remove(&(from, to));
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// Nothing of what one machine says now is heard.
    pub fn silence(&mut self, sim: &mut Sim<'_>, host: usize) {
        for other in (0..self.names.len()).filter(|other| *other != host) {
            sim.partition(self.names[host].as_str(), self.names[other].as_str());
        }
    }

    /// The end of [`Links::silence`].
    pub fn unsilence(&mut self, sim: &mut Sim<'_>, host: usize) {
        for other in (0..self.names.len()).filter(|other| *other != host) {
            sim.repair(self.names[host].as_str(), self.names[other].as_str());
            self.blocked.remove(&(host, other));
            self.blocked.remove(&(other, host));
            self.holding.remove(&(host.min(other), host.max(other)));
        }
        self.apply(sim, true);
    }
}
