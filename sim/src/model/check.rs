//! The search: which actions are open, how far it goes, what it looks for.
//!
//! Decides the bounds. Within them every order of every action is tried.

use super::world::{Action, Lie, MACHINES, Mishap, World};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// How often each kind of thing may happen in one history.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Terms above the founding one.
    pub terms: u64,
    /// Writes of clients.
    pub proposals: u8,
    /// Messages that are received again.
    pub repeats: u8,
    /// Processes that die and start anew.
    pub crashes: u8,
    /// Times that a clock leaps beyond every promise.
    pub expiries: u8,
    /// Heartbeats of a writer.
    pub beats: u8,
    /// Times that every clock passes a heartbeat.
    pub leaps: u8,
}

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// What it is called.
    pub name: &'static str,
    /// How far.
    pub bounds: Bounds,
    /// From a cluster that has a writer, not from one at rest.
    pub writing: bool,
    /// What disks lie about.
    pub lie: Lie,
}

impl Scope {
    const NONE: Bounds = Bounds { terms: 1, proposals: 0, repeats: 0, crashes: 0, expiries: 0, beats: 0, leaps: 0 };

    /// What every test run searches.
    pub fn small() -> Vec<Self> {
        let of = |name, bounds, writing| Self { name, bounds, writing, lie: Lie::None };
        vec![
            of("an election", Bounds { expiries: 1, repeats: 1, ..Self::NONE }, false),
            of("a write and a crash", Bounds { proposals: 1, crashes: 1, ..Self::NONE }, true),
        ]
    }

    /// What the command line searches: up to two elections.
    pub fn all() -> Vec<Self> {
        let of = |name, bounds, writing| Self { name, bounds, writing, lie: Lie::None };
        let mut scopes = Self::small();
        scopes.extend([
            of("rival candidates", Bounds { expiries: 2, repeats: 1, ..Self::NONE }, false),
            of("a failover", Bounds { terms: 2, proposals: 1, expiries: 1, ..Self::NONE }, true),
            of(
                "a failover and a crash",
                Bounds { terms: 2, proposals: 1, expiries: 1, crashes: 1, ..Self::NONE },
                true,
            ),
            of("leases", Bounds { terms: 2, crashes: 1, leaps: 4, ..Self::NONE }, true),
        ]);
        scopes
    }

    /// Where a disk's lie must be found.
    pub fn lying(lie: Lie) -> Self {
        let (bounds, writing) = match lie {
            Lie::None | Lie::Entries => (Bounds { proposals: 1, ..Self::NONE }, true),
            Lie::Vote => (Bounds { crashes: 1, expiries: 3, ..Self::NONE }, false),
            Lie::Silence => (Bounds { terms: 2, crashes: 2, leaps: 1, ..Self::NONE }, true),
        };
        Self { name: "a disk that lies", bounds, writing, lie }
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What was searched.
    pub name: &'static str,
    /// Different states of the world.
    pub states: usize,
    /// The longest history.
    pub depth: usize,
    /// The first broken promise, and the actions that lead to it.
    pub broken: Option<(String, Vec<Action>)>,
    /// What never happened in any history and ought to in some.
    pub never: Vec<&'static str>,
    /// Everything within the bounds was seen.
    pub complete: bool,
    /// How long it took.
    pub took: Duration,
}

const PROMISES: &str = "every promise holds";
const SOMETIMES: [&str; 6] = [
    "sometimes a second writer is elected",
    "sometimes another machine takes over",
    "sometimes entries of two terms are committed after the founding one",
    "sometimes an entry gives way to another writer's",
    "sometimes a crash takes records that were not durable",
    "sometimes a client may write",
];

impl Model for Scope {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![if self.writing { World::writing(self.lie) } else { World::at_rest(self.lie) }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.promise_broken().is_some() {
            return;
        }
        let bounds = &self.bounds;
        for at in (0..world.flying()).filter(|at| !world.repeats(*at)) {
            actions.push(Action::Deliver(at));
            if world.done(Mishap::Repeat) < bounds.repeats {
                actions.push(Action::Repeat(at));
            }
        }
        if world.done(Mishap::Leap) < bounds.leaps {
            actions.push(Action::Leap);
        }
        for n in 0..MACHINES {
            let (pending, believed) = world.pending(n);
            if pending > believed {
                actions.push(Action::Persisted(n));
            }
            if world.done(Mishap::Expire) < bounds.expiries {
                actions.push(Action::Expire(n));
            }
            if world.done(Mishap::Beat) < bounds.beats && world.is_writer(n) {
                actions.push(Action::Beat(n));
            }
            if bounds.leaps > 0 && world.is_due(n) {
                actions.push(Action::Wake(n));
            }
            if world.done(Mishap::Propose) < bounds.proposals && world.may_write(n) {
                actions.push(Action::Propose(n));
            }
            if world.done(Mishap::Crash) < bounds.crashes {
                actions.extend((0..=pending).map(|kept| Action::Crash(n, kept)));
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        world.take(action);
        Some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.term().0 <= self.bounds.terms + 1
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(PROMISES, |_, world: &World| world.promise_broken().is_none()),
            Property::sometimes(SOMETIMES[0], |_, world: &World| world.elections() > 1),
            Property::sometimes(SOMETIMES[1], |_, world: &World| world.failed_over()),
            Property::sometimes(SOMETIMES[2], |_, world: &World| world.committed_terms() > 2),
            Property::sometimes(SOMETIMES[3], |_, world: &World| world.truncated()),
            Property::sometimes(SOMETIMES[4], |_, world: &World| world.lost_records()),
            Property::sometimes(SOMETIMES[5], |_, world: &World| (0..MACHINES).any(|n| world.may_write(n))),
        ]
    }
}

/// Searches everything within the scope's bounds, on so many threads, but for
/// no longer than `limit`.
pub fn explore(scope: Scope, threads: usize, limit: Duration) -> Found {
    let started = Instant::now();
    let failures = HasDiscoveries::AnyFailures;
    let builder = scope.checker().threads(threads).finish_when(failures).timeout(limit);
    // Breadth first, what it finds is the shortest there is; depth first, it needs
    // little memory.
    if scope.lie == Lie::None {
        sum_up(scope, &builder.spawn_dfs().join(), started, limit)
    } else {
        sum_up(scope, &builder.spawn_bfs().join(), started, limit)
    }
}

fn sum_up(scope: Scope, checker: &impl Checker<Scope>, started: Instant, limit: Duration) -> Found {
    let found: BTreeMap<_, _> = checker.discoveries().into_iter().collect();
    let broken = found.get(PROMISES).map(|path| {
        let promise = path.last_state().promise_broken().unwrap_or("unknown").to_owned();
        (promise, path.clone().into_actions())
    });
    Found {
        name: scope.name,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        never: SOMETIMES.into_iter().filter(|name| !found.contains_key(name)).collect(),
        complete: broken.is_none() && checker.is_done() && started.elapsed() < limit,
        broken,
        took: started.elapsed(),
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = if self.complete { "all" } else { "not all" };
        write!(
            f,
            "{}: {} states, {extent} there are, histories of up to {} actions, {:.1} s",
            self.name,
            self.states,
            self.depth,
            self.took.as_secs_f64()
        )?;
        for name in &self.never {
            write!(f, "\n  never: {name}")?;
        }
        if let Some((promise, actions)) = &self.broken {
            write!(f, "\n  BROKEN: {promise}, by")?;
            for action in actions {
                write!(f, "\n    {action:?}")?;
            }
        }
        Ok(())
    }
}
