//! The search: which actions are open, how far it goes, what it looks for.
//!
//! Decides the bounds. Within them every order of every action is tried.

use super::world::{Action, Lie, MACHINES, Mishap, Promise, Setup, Start, World};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// How often each kind of thing may happen in one history.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The highest term; the founding one is 1.
    pub terms: u64,
    /// Heartbeats that pass.
    pub ticks: u8,
    /// Writes of clients.
    pub proposals: u8,
    /// Messages that are received again.
    pub repeats: u8,
    /// Processes that die and start anew.
    pub crashes: u8,
    /// Processes that do not notice a tick.
    pub lags: u8,
    /// Messages that are not lost at a tick.
    pub lates: u8,
    /// Turns whose records stay under way.
    pub stalls: u8,
}

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// What it is called.
    pub name: &'static str,
    /// How far.
    pub bounds: Bounds,
    /// From where.
    pub start: Start,
    /// How its machines are set up.
    pub setup: Setup,
    /// What must have happened in some history.
    pub sometimes: &'static [Sometimes],
}

/// What happens in some histories and not in others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sometimes {
    /// An election ends with a writer.
    Elected,
    /// Another one is elected, in another term.
    Succeeded,
    /// What a client wrote is committed.
    Committed,
    /// A writer of a later term commits an entry of its own.
    CommittedLater,
    /// A writer's lease ends.
    LeaseEnded,
    /// An entry gives way to another writer's.
    Truncated,
    /// A crash takes records that were not durable.
    LostRecords,
    /// A client may write.
    Writable,
}

impl Sometimes {
    const ALL: [(&'static str, Self); 8] = [
        ("sometimes an election ends", Self::Elected),
        ("sometimes a second writer is elected", Self::Succeeded),
        ("sometimes a write is committed", Self::Committed),
        ("sometimes a later writer commits", Self::CommittedLater),
        ("sometimes a lease ends", Self::LeaseEnded),
        ("sometimes an entry gives way to another writer's", Self::Truncated),
        ("sometimes a crash takes records that were not durable", Self::LostRecords),
        ("sometimes a client may write", Self::Writable),
    ];

    fn happened(self, scope: &Scope, world: &World) -> bool {
        // The founding entry and its writer's first one; the first writer's here.
        let (entries, terms, writers) = match scope.start {
            Start::Rest => (2, 1, 0),
            Start::Writing => (3, 2, 1),
            Start::Behind => (4, 2, 1),
        };
        match self {
            Self::Elected => world.elections() > writers,
            Self::Succeeded => world.elections() > writers + 1,
            Self::Committed => world.done(Mishap::Propose) > 0 && world.committed() > entries,
            Self::CommittedLater => world.committed_terms() > terms,
            Self::LeaseEnded => world.lease_ended(),
            Self::Truncated => world.truncated(),
            Self::LostRecords => world.lost_records(),
            Self::Writable => (0..MACHINES).any(|n| world.may_write(n)),
        }
    }
}

impl Scope {
    const NONE: Bounds =
        Bounds { terms: 2, ticks: 0, proposals: 0, repeats: 0, crashes: 0, lags: 0, lates: 0, stalls: 0 };

    fn new(name: &'static str, start: Start, bounds: Bounds, sometimes: &'static [Sometimes]) -> Self {
        Self { name, bounds, start, setup: Setup::default(), sometimes }
    }

    /// What every test run searches.
    pub fn small() -> Vec<Self> {
        use Sometimes::{Committed, CommittedLater, Elected, LeaseEnded, LostRecords, Writable};
        use Start::{Behind, Rest, Writing};
        let none = Self::NONE;
        vec![
            Self::new(
                "an election",
                Rest,
                Bounds { ticks: 1, stalls: 1, ..none },
                &[Elected, CommittedLater, Writable],
            ),
            Self::new(
                "a write and a crash",
                Writing,
                Bounds { proposals: 1, crashes: 1, stalls: 1, ..none },
                &[Committed, LostRecords],
            ),
            Self::new("a lease that ends", Writing, Bounds { ticks: 3, ..none }, &[LeaseEnded]),
            Self::new(
                "a failover",
                Writing,
                Bounds { terms: 3, ticks: 2, lates: 1, ..none },
                &[Elected, CommittedLater, Writable],
            ),
            Self::new(
                "rivals, one of them behind",
                Behind,
                Bounds { terms: 3, ticks: 1, ..none },
                &[Elected, CommittedLater],
            ),
        ]
    }

    /// What the command line searches.
    pub fn all() -> Vec<Self> {
        use Start::{Rest, Writing};
        let none = Self::NONE;
        let later = &[Sometimes::Elected, Sometimes::CommittedLater];
        let mut scopes = Self::small();
        scopes.extend([
            Self::new("an election and a crash", Rest, Bounds { ticks: 1, crashes: 1, ..none }, later),
            Self::new("an election, one of them late", Rest, Bounds { ticks: 1, lags: 1, ..none }, later),
            Self::new("two tries at an election", Rest, Bounds { ticks: 2, ..none }, later),
            Self::new("a failover and a slow disk", Writing, Bounds { terms: 3, ticks: 2, stalls: 1, ..none }, later),
            Self::new("a failover, one of them late", Writing, Bounds { terms: 3, ticks: 2, lags: 1, ..none }, later),
            Self::new("a failover and a crash", Writing, Bounds { terms: 3, ticks: 2, crashes: 1, ..none }, later),
            Self::new(
                "a write, a repetition and a crash",
                Writing,
                Bounds { proposals: 1, repeats: 1, crashes: 1, stalls: 1, ..none },
                &[Sometimes::Committed, Sometimes::LostRecords],
            ),
        ]);
        scopes
    }

    /// Where a disk's lie must be found.
    pub fn lying(lie: Lie) -> Self {
        let bounds = match lie {
            Lie::None | Lie::Entries => Bounds { proposals: 1, ..Self::NONE },
            Lie::Silence => Bounds { terms: 3, ticks: 2, crashes: 1, ..Self::NONE },
        };
        Self::new("a disk that lies", Start::Writing, bounds, &[]).with(Setup::default().lying(lie))
    }

    /// The same from a setup of another kind.
    #[must_use]
    pub fn with(self, setup: Setup) -> Self {
        Self { setup, ..self }
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
    pub broken: Option<(Promise, String, Vec<Action>)>,
    /// What never happened in any history and ought to in some.
    pub never: Vec<Sometimes>,
    /// Everything within the bounds was seen.
    pub complete: bool,
    /// How long it took.
    pub took: Duration,
}

/// A property must be a function: one for each promise.
fn keeps<const N: usize>(_: &Scope, world: &World) -> bool {
    world.broken_promise().is_none_or(|(broken, _)| broken != Promise::ALL[N])
}

fn happened<const N: usize>(scope: &Scope, world: &World) -> bool {
    Sometimes::ALL[N].1.happened(scope, world)
}

impl Model for Scope {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::start(self.start, self.setup)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.broken_promise().is_some() {
            return;
        }
        let bounds = &self.bounds;
        let stalls = world.done(Mishap::Stall) < bounds.stalls;
        for at in (0..world.flying()).filter(|at| !world.repeats(*at)) {
            actions.push(Action::Deliver { at, slow: false });
            if stalls {
                actions.push(Action::Deliver { at, slow: true });
            }
            if world.done(Mishap::Repeat) < bounds.repeats {
                actions.push(Action::Repeat(at));
            }
        }
        if world.done(Mishap::Tick) < bounds.ticks {
            let lags = (0..MACHINES).filter(|_| world.done(Mishap::Lag) < bounds.lags).map(Some);
            let lags: Vec<_> = std::iter::once(None).chain(lags).collect();
            let lates = (0..world.flying()).filter(|at| world.done(Mishap::Late) < bounds.lates && !world.repeats(*at));
            for late in std::iter::once(None).chain(lates.map(Some)) {
                actions.extend(lags.iter().map(|lags| Action::Tick { lags: *lags, late }));
            }
        }
        for n in 0..MACHINES {
            let (pending, _) = world.pending(n);
            if pending > 0 {
                actions.push(Action::Persisted(n));
            }
            if bounds.lags > 0 && world.is_due(n) {
                actions.push(Action::Wake(n));
            }
            if world.done(Mishap::Propose) < bounds.proposals && world.may_write(n) {
                actions.push(Action::Propose { at: n, slow: false });
                if stalls {
                    actions.push(Action::Propose { at: n, slow: true });
                }
            }
            if world.done(Mishap::Crash) < bounds.crashes {
                actions.extend((0..=pending).map(|kept| Action::Crash(n, kept)));
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        world.take(action).then_some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.term().0 <= self.bounds.terms
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always: [fn(&Self, &World) -> bool; Promise::ALL.len()] = [
            keeps::<0>, keeps::<1>, keeps::<2>, keeps::<3>, keeps::<4>, keeps::<5>, keeps::<6>, keeps::<7>, keeps::<8>,
            keeps::<9>,
        ];
        let sometimes: [fn(&Self, &World) -> bool; Sometimes::ALL.len()] = [
            happened::<0>,
            happened::<1>,
            happened::<2>,
            happened::<3>,
            happened::<4>,
            happened::<5>,
            happened::<6>,
            happened::<7>,
        ];
        let always =
            Promise::ALL.into_iter().zip(always).map(|(promise, holds)| Property::always(promise.what(), holds));
        let names = Sometimes::ALL.into_iter().map(|(name, _)| name);
        always.chain(names.zip(sometimes).map(|(name, seen)| Property::sometimes(name, seen))).collect()
    }
}

/// Searches everything within the scope's bounds, on so many threads, but for
/// no longer than `limit`: breadth first, so that what it finds is the shortest
/// there is.
pub fn explore(scope: Scope, threads: usize, limit: Duration) -> Found {
    let started = Instant::now();
    let failures = HasDiscoveries::AnyFailures;
    let checker = scope.checker().threads(threads).finish_when(failures).timeout(limit).spawn_bfs().join();
    let found: BTreeMap<_, _> = checker.discoveries().into_iter().collect();
    let broken = Promise::ALL.into_iter().find_map(|promise| {
        let path = found.get(promise.what())?;
        let detail = path.last_state().broken_promise().map_or("", |(_, detail)| detail).to_owned();
        Some((promise, detail, path.clone().into_actions()))
    });
    let never = Sometimes::ALL
        .into_iter()
        .filter(|(name, sometimes)| scope.sometimes.contains(sometimes) && !found.contains_key(name));
    Found {
        name: scope.name,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        never: never.map(|(_, sometimes)| sometimes).collect(),
        complete: broken.is_none() && checker.is_done() && started.elapsed() < limit,
        broken,
        took: started.elapsed(),
    }
}

impl Found {
    /// Everything was searched, nothing was broken, and what ought to happen in
    /// some history did.
    pub fn holds(&self) -> bool {
        self.broken.is_none() && self.complete && self.never.is_empty()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = if self.complete { "all" } else { "NOT ALL" };
        write!(
            f,
            "{}: {} states, {extent} there are, histories of up to {} actions, {:.1} s",
            self.name,
            self.states,
            self.depth,
            self.took.as_secs_f64()
        )?;
        for never in &self.never {
            write!(f, "\n  NEVER: {never:?}")?;
        }
        if let Some((promise, detail, actions)) = &self.broken {
            write!(f, "\n  BROKEN: {}: {detail}, by", promise.what())?;
            for action in actions {
                write!(f, "\n    {action:?}")?;
            }
        }
        Ok(())
    }
}
