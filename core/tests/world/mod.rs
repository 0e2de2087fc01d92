//! A small world for scripted stories: nodes, an in-memory network and disks,
//! one virtual clock. Every step is checked against the promises that must
//! hold always: one writer a term, one permit at a time, one history.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use base_ha_core::config::Config;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::*;
use base_ha_core::io::*;
use base_ha_core::member::Membership;
use base_ha_core::message::{Envelope, Message};
use base_ha_core::node::Node;
use base_ha_core::position::Position;
use base_ha_core::prng::Prng;
use base_ha_core::time::{MonoTime, Now, WallTime};
use base_ha_core::wire::{decode_membership, encode_frame};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub const MS: u64 = 1_000_000;
/// Frames reach whatever process runs when they arrive.
const ANY_LIFE: u64 = u64::MAX;

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Image {
    pub hard: HardState,
    pub base: Position,
    pub log: Vec<Entry>,
    pub applied: Position,
    pub content: u128,
    pub membership: Option<(Seq, Membership)>,
    pub data: Vec<Bytes>,
}

pub struct Host {
    pub config: Config,
    pub node: Option<Node>,
    pub disk: Image,
    pub life: u64,
    pub paused: bool,
    pub backlog: Vec<Input>,
    pub disk_stalled: bool,
    pub stalled: Vec<(PersistId, Record)>,
    pub disk_free_at: u64,
    /// How long an fsync takes.
    pub fsync: u64,
    pub apply_free_at: u64,
    pub events: Vec<(u64, Event)>,
    pub pin: Pin,
    pub outputs: Vec<Output>,
    pub wall_offset: i64,
    /// Adds to the content's hash: a silent difference in the data.
    pub rot: u128,
    /// Whoever receives a copy of its data refuses it.
    pub spoiled: bool,
    pub wake_at: u64,
    /// The clock's rate error, in parts per million.
    pub ppm: i64,
}

enum What {
    Input(Input),
    Persisted(PersistId, Record),
    Apply { through: Seq },
    Load { id: LoadId, from: Seq, through: Seq },
    Fetch { from: Url, at_least: Position, reseed: bool },
    Wake,
}

pub struct World {
    pub now: u64,
    serial: u64,
    queue: BTreeMap<(u64, u64), (usize, u64, What)>,
    pub hosts: Vec<Host>,
    /// Directed links that lose everything.
    pub cut: BTreeSet<(usize, usize)>,
    pub latency: u64,
    /// How long a snapshot takes to arrive.
    pub fetch: u64,
    /// What each directed link carries, in bytes per ms; anything at once if none.
    pub bandwidth: Option<u64>,
    /// When each link has carried what it was given.
    link_free_at: BTreeMap<(usize, usize), u64>,
    pub committed: BTreeMap<Seq, Hash>,
    pub writers: BTreeMap<Term, NodeId>,
    pub sent: u64,
    pub nonces: u64,
    pub conns: Vec<(usize, usize)>,
    pub drop: Option<fn(&Envelope) -> bool>,
    /// Loses, delays, repeats and reorders frames at random.
    pub chaos: Option<Prng>,
    /// Proposals by name, and where their entries went.
    pub open: Vec<(usize, u64, ProposalId, Seq)>,
    pub acked: Vec<String>,
    pub steps: u64,
}

pub fn id(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

pub fn url(n: usize) -> Url {
    Url::new(&format!("http://n{n}"))
}

impl Image {
    fn take(&mut self, record: Record) {
        match record {
            Record::HardState(hard) => self.hard = hard,
            Record::Append { keep, entries } => {
                if let Some(keep) = keep {
                    assert!(keep >= self.applied.seq, "an applied entry was dropped");
                    self.log.retain(|e| e.seq <= keep);
                }
                for entry in entries {
                    let last = self.log.last().map_or(self.base, Entry::position);
                    assert!(entry.follows(&last), "the log on disk would have a gap");
                    self.log.push(entry);
                }
            }
        }
    }
}

impl World {
    /// `seats` nodes that list each other, none started.
    pub fn new(seats: usize) -> Self {
        let mut world = Self {
            now: 1_000_000 * MS,
            serial: 0,
            queue: BTreeMap::new(),
            hosts: vec![],
            cut: BTreeSet::new(),
            latency: MS,
            fetch: 5 * MS,
            bandwidth: None,
            link_free_at: BTreeMap::new(),
            committed: BTreeMap::new(),
            writers: BTreeMap::new(),
            sent: 0,
            nonces: 0,
            conns: vec![],
            drop: None,
            chaos: None,
            open: vec![],
            acked: vec![],
            steps: 0,
        };
        for n in 0..seats {
            world.add(Config::new(id(n), url(n), (0..seats).map(url).collect()));
        }
        world
    }

    /// A born cluster with a writer.
    pub fn born(seats: usize) -> Self {
        let mut world = Self::new(seats);
        (0..seats).for_each(|n| world.start(n));
        world.until("a writer", |w| w.writable().is_some());
        world.run(200);
        world
    }

    pub fn add(&mut self, config: Config) -> usize {
        config.validate().unwrap();
        self.hosts.push(Host {
            config,
            node: None,
            disk: Image::default(),
            life: 0,
            paused: false,
            backlog: vec![],
            disk_stalled: false,
            stalled: vec![],
            disk_free_at: 0,
            fsync: MS / 2,
            apply_free_at: 0,
            events: vec![],
            pin: Pin::default(),
            outputs: vec![],
            wall_offset: 0,
            rot: 0,
            spoiled: false,
            wake_at: u64::MAX,
            ppm: 0,
        });
        self.hosts.len() - 1
    }

    fn clock(&self, n: usize) -> Now {
        // Each host's clock starts somewhere else and runs at its own rate.
        let ran = self.now as i128;
        let shown = ran + ran * i128::from(self.hosts[n].ppm) / 1_000_000;
        Now {
            mono: MonoTime(shown as u64 + 7_919 * MS * n as u64),
            wall: WallTime((self.now / MS).saturating_add_signed(self.hosts[n].wall_offset)),
        }
    }

    /// The true time at which a host's clock shows `at`, or just after.
    fn true_time(&self, n: usize, at: MonoTime) -> u64 {
        let shown = at.0.saturating_sub(7_919 * MS * n as u64) as i128;
        let ran = shown * 1_000_000 / (1_000_000 + i128::from(self.hosts[n].ppm));
        ran as u64 + 2
    }

    pub fn start(&mut self, n: usize) {
        self.nonces += 1;
        let now = self.clock(n);
        let nonce = BootNonce(self.nonces);
        let host = &mut self.hosts[n];
        assert!(host.node.is_none(), "host {n} runs already");
        host.life += 1;
        host.disk_free_at = self.now;
        host.wake_at = u64::MAX;
        host.apply_free_at = self.now;
        host.pin = Pin::default();
        let image = &host.disk;
        let mut terms: Vec<(Seq, Term)> = vec![];
        for entry in &image.log {
            if terms.last().is_none_or(|(_, t)| *t != entry.term) {
                terms.push((entry.seq, entry.term));
            }
        }
        let mut memberships: Vec<_> = image.membership.iter().cloned().collect();
        let after = memberships.first().map_or(Seq(0), |(seq, _)| *seq);
        for entry in image.log.iter().filter(|e| e.kind == EntryKind::Config && e.seq > after) {
            memberships.push((entry.seq, decode_membership(entry.payload.clone()).unwrap()));
        }
        let mut seed = [n as u8 + 1; 32];
        seed[1] = host.life as u8;
        let boot = Boot {
            config: host.config.clone(),
            seed,
            nonce,
            recovered: Recovered {
                hard: image.hard.clone(),
                log_base: image.base,
                tail: image.log.iter().map(Entry::position).collect(),
                terms,
                applied: image.applied,
                content: ContentHash(image.content),
                memberships,
                hlc: image.log.last().map_or(Hlc(0), |e| e.hlc),
                amnesia: false,
            },
        };
        let mut out = vec![];
        host.node = Some(Node::recover(boot, now, &mut out));
        self.carry_out(n, out);
        self.schedule_wake(n);
    }

    /// Loses everything that is not on disk. What was being written may have
    /// arrived there, in order, without anybody having been told.
    pub fn crash(&mut self, n: usize) {
        if let Some(chaos) = &mut self.chaos {
            let life = self.hosts[n].life;
            let mut arrive = chaos.next_u64() % 3;
            let keys: Vec<_> = self.queue.iter().filter(|(_, v)| v.0 == n && v.1 == life).map(|(k, _)| *k).collect();
            for key in keys {
                if arrive > 0 && matches!(self.queue[&key].2, What::Persisted(..)) {
                    arrive -= 1;
                    if let Some((_, _, What::Persisted(_, record))) = self.queue.remove(&key)
                        && !self.hosts[n].disk_stalled
                    {
                        self.hosts[n].disk.take(record);
                    }
                }
            }
        }
        let host = &mut self.hosts[n];
        host.node = None;
        host.life += 1;
        host.backlog.clear();
        host.stalled.clear();
        host.disk_stalled = false;
        host.paused = false;
    }

    pub fn pause(&mut self, n: usize) {
        self.hosts[n].paused = true;
    }

    pub fn resume(&mut self, n: usize) {
        self.hosts[n].paused = false;
        self.schedule_wake(n);
        for input in std::mem::take(&mut self.hosts[n].backlog) {
            self.step(n, input);
        }
    }

    /// Cuts both directions between a host and all others.
    pub fn isolate(&mut self, n: usize) {
        for m in 0..self.hosts.len() {
            self.cut.insert((n, m));
            self.cut.insert((m, n));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn at(&mut self, n: usize, input: Input) {
        self.step(n, input);
    }

    /// Runs for so many milliseconds.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.turn();
        }
        self.now = end;
    }

    /// Runs until `done`, for at most a minute; returns how many ms it took.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> u64 {
        let begin = self.now;
        while !done(self) {
            assert!(self.now < begin + 60_000 * MS, "a minute passed without {what}:\n{}", self.describe());
            self.turn();
        }
        (self.now - begin) / MS
    }

    fn turn(&mut self) {
        let Some(((at, _), (n, life, what))) = self.queue.pop_first() else {
            panic!("nothing left to happen");
        };
        self.now = self.now.max(at);
        let current = life == ANY_LIFE || self.hosts[n].life == life;
        if !current || self.hosts[n].node.is_none() {
            return;
        }
        match what {
            What::Input(input) => self.step(n, input),
            What::Wake => {
                if self.hosts[n].wake_at <= self.now {
                    self.hosts[n].wake_at = u64::MAX;
                    if !self.hosts[n].paused {
                        self.step(n, Input::Deadline);
                    }
                }
            }
            What::Persisted(id, record) => {
                if self.hosts[n].disk_stalled {
                    self.hosts[n].stalled.push((id, record));
                } else {
                    self.persisted(n, id, record);
                }
            }
            What::Apply { through } => self.apply(n, through),
            What::Load { id, from, through } => self.load(n, id, from, through),
            What::Fetch { from, at_least, reseed } => self.fetch(n, from, at_least, reseed),
        }
    }

    pub fn unstall(&mut self, n: usize) {
        self.hosts[n].disk_stalled = false;
        for (id, record) in std::mem::take(&mut self.hosts[n].stalled) {
            self.persisted(n, id, record);
        }
    }

    fn persisted(&mut self, n: usize, id: PersistId, record: Record) {
        self.hosts[n].disk.take(record);
        self.step(n, Input::Persisted { id });
    }

    fn apply(&mut self, n: usize, through: Seq) {
        let rot = self.hosts[n].rot;
        let image = &mut self.hosts[n].disk;
        let from = image.applied.seq;
        let entries: Vec<Entry> = image.log.iter().filter(|e| e.seq > from && e.seq <= through).cloned().collect();
        for entry in entries {
            assert_eq!(entry.seq.0, image.applied.seq.0 + 1, "a gap in what is applied");
            match entry.kind {
                EntryKind::Noop => {}
                EntryKind::Config => {
                    image.membership = Some((entry.seq, decode_membership(entry.payload.clone()).unwrap()));
                }
                EntryKind::Data => {
                    image.data.push(entry.payload.clone());
                    let bytes = blake3::hash(&entry.payload);
                    let mut half = [0; 16];
                    half.copy_from_slice(&bytes.as_bytes()[..16]);
                    image.content = image.content.wrapping_add(u128::from_le_bytes(half));
                    image.content = image.content.wrapping_add(rot);
                }
            }
            image.applied = entry.position();
            let known = self.committed.insert(entry.seq, entry.hash);
            assert!(known.is_none_or(|h| h == entry.hash), "two histories at {}", entry.seq);
        }
        let (position, content) = (image.applied, ContentHash(image.content));
        self.step(n, Input::Applied { position, content });
    }

    fn load(&mut self, n: usize, id: LoadId, from: Seq, through: Seq) {
        let image = &self.hosts[n].disk;
        let entries: Vec<Entry> =
            image.log.iter().filter(|e| e.seq >= from && e.seq <= through).take(16).cloned().collect();
        let before = Seq(from.0 - 1);
        let prev = image.log.iter().find(|e| e.seq == before).map(Entry::position);
        let prev = prev.unwrap_or(image.base);
        let entries = if entries.first().is_some_and(|e| e.seq == from) { entries } else { vec![] };
        self.step(n, Input::LogLoaded { id, prev, entries });
    }

    fn fetch(&mut self, n: usize, from: Url, at_least: Position, reseed: bool) {
        let life = self.hosts[n].life;
        let writing = |v: &(usize, u64, What)| v.0 == n && v.1 == life && matches!(v.2, What::Persisted(..));
        if !self.hosts[n].stalled.is_empty() || self.queue.values().any(writing) {
            // What was ordered before comes first.
            let again = What::Fetch { from, at_least, reseed };
            return self.push(self.now + 5 * MS, n, life, again);
        }
        let source = self.hosts.iter().position(|h| h.config.url == from && h.node.is_some() && !h.spoiled);
        let image = source.map(|s| self.hosts[s].disk.clone());
        let image = image.filter(|i| i.applied.seq >= at_least.seq && i.membership.is_some());
        let Some(image) = image else {
            return self.step(n, Input::SnapshotFailed);
        };
        let mine = &mut self.hosts[n].disk;
        let position = image.applied;
        let held = position == mine.base || mine.log.iter().any(|e| e.position() == position);
        if reseed && !held {
            return self.step(n, Input::SnapshotFailed);
        }
        if !held {
            mine.log.clear();
            mine.base = position;
        }
        mine.applied = position;
        mine.content = image.content;
        mine.data = image.data;
        mine.membership = image.membership.clone();
        let (_, membership) = image.membership.unwrap();
        let content = ContentHash(mine.content);
        let hlc = image.log.iter().filter(|e| e.seq <= position.seq).map(|e| e.hlc).max().unwrap_or(Hlc(0));
        self.step(n, Input::SnapshotInstalled { position, membership, content, hlc, log_reset: !held });
    }

    pub fn step(&mut self, n: usize, input: Input) {
        if self.hosts[n].paused {
            self.hosts[n].backlog.push(input);
            return;
        }
        let now = self.clock(n);
        let mut out = vec![];
        let Some(node) = self.hosts[n].node.as_mut() else {
            return;
        };
        node.step(now, input, &mut out);
        self.steps += 1;
        if self.chaos.is_none() || self.steps.is_multiple_of(64) {
            node.check_deep();
        }
        self.carry_out(n, out);
        self.schedule_wake(n);
        self.check_promises();
    }

    fn schedule_wake(&mut self, n: usize) {
        let Some((at, _)) = self.hosts[n].node.as_ref().and_then(Node::deadline) else {
            return;
        };
        let at = self.true_time(n, at).max(self.now + 1);
        let host = &mut self.hosts[n];
        if at < host.wake_at || host.wake_at <= self.now {
            host.wake_at = at;
            let life = host.life;
            self.push(at, n, life, What::Wake);
        }
    }

    fn push(&mut self, at: u64, n: usize, life: u64, what: What) {
        self.serial += 1;
        self.queue.insert((at, self.serial), (n, life, what));
    }

    fn carry_out(&mut self, n: usize, out: Vec<Output>) {
        for output in out {
            self.hosts[n].outputs.push(output.clone());
            let life = self.hosts[n].life;
            match output {
                Output::Persist { id, record } => {
                    let at = self.hosts[n].disk_free_at.max(self.now) + self.hosts[n].fsync;
                    self.hosts[n].disk_free_at = at;
                    self.push(at, n, life, What::Persisted(id, record));
                }
                Output::Send { route, envelope } => self.deliver(n, route, envelope),
                Output::Apply { through, .. } => {
                    let at = self.hosts[n].apply_free_at.max(self.now) + MS / 10;
                    self.hosts[n].apply_free_at = at;
                    self.push(at, n, life, What::Apply { through });
                }
                Output::LoadLog { id, from, through, .. } => {
                    self.push(self.now + MS / 2, n, life, What::Load { id, from, through });
                }
                Output::FetchSnapshot { from, at_least, reseed } => {
                    self.push(self.now + self.fetch, n, life, What::Fetch { from, at_least, reseed });
                }
                Output::Event(event) => {
                    if let Event::BecameWriter { term } = &event {
                        let me = self.hosts[n].config.id.clone();
                        // Before birth two halves of a wiped seat list might
                        // meet; these stories have none.
                        let other = self.writers.insert(*term, me.clone());
                        assert!(other.is_none_or(|o| o == me), "two writers of term {term}");
                    }
                    self.hosts[n].events.push((self.now, event));
                }
                Output::Pin(pin) => self.hosts[n].pin = pin,
                Output::Proposed { id, last, .. } => {
                    let life = self.hosts[n].life;
                    self.open.push((n, life, id, last.seq));
                }
                Output::ProposalUnknown { id } => self.open.retain(|o| o.2 != id),
                Output::Progress { committed, .. } => {
                    let life = self.hosts[n].life;
                    let acked = &mut self.acked;
                    self.open.retain(|(m, l, id, last)| {
                        let done = *m == n && *l == life && *last <= committed;
                        if done {
                            acked.push(format!("row {id}"));
                        }
                        !done
                    });
                }
                _ => {}
            }
        }
    }

    fn deliver(&mut self, n: usize, route: Route, envelope: Envelope) {
        self.sent += 1;
        let to: Vec<usize> = match route {
            Route::Url(url) => {
                let all = self.hosts.iter().enumerate();
                all.filter(|(_, h)| h.config.url == url).map(|(m, _)| m).take(1).collect()
            }
            Route::Conn(conn) => vec![self.conns[conn as usize].0],
        };
        if self.drop.is_some_and(|drop| drop(&envelope)) {
            return;
        }
        for m in to {
            if self.cut.contains(&(n, m)) {
                continue;
            }
            let conn = self.conns.iter().position(|c| *c == (n, m)).unwrap_or_else(|| {
                self.conns.push((n, m));
                self.conns.len() - 1
            });
            let route = Route::Conn(conn as u64);
            let input = Input::Received { route, envelope: envelope.clone() };
            let Some(chaos) = &mut self.chaos else {
                let carried = self.carry(n, m, &envelope);
                self.push(carried + self.latency, m, ANY_LIFE, What::Input(input));
                continue;
            };
            // Lost, or once or twice, soon or very late.
            let copies = match chaos.next_u64() % 100 {
                0..5 => 0,
                5..10 => 2,
                _ => 1,
            };
            let mut due = vec![];
            for _ in 0..copies {
                let late = match chaos.next_u64() % 200 {
                    0 => chaos.jitter(Duration::from_secs(20)),
                    1..20 => chaos.jitter(Duration::from_millis(300)),
                    _ => chaos.jitter(Duration::from_millis(10)),
                };
                let at = self.now + MS / 10 + late.as_nanos() as u64;
                due.push(at);
            }
            for at in due {
                self.push(at, m, ANY_LIFE, What::Input(input.clone()));
            }
        }
    }

    /// When a link has carried a frame behind all those before it.
    fn carry(&mut self, n: usize, m: usize, envelope: &Envelope) -> u64 {
        let Some(bandwidth) = self.bandwidth else {
            return self.now;
        };
        let length = encode_frame(envelope).len() as u64;
        let free = self.link_free_at.entry((n, m)).or_default();
        *free = self.now.max(*free) + length * MS / bandwidth;
        *free
    }

    fn check_promises(&self) {
        let permits = (0..self.hosts.len()).filter(|n| self.may_write(*n)).count();
        assert!(permits <= 1, "{permits} permits at once:\n{}", self.describe());
    }

    pub fn may_write(&self, n: usize) -> bool {
        let host = &self.hosts[n];
        host.node.as_ref().is_some_and(|node| node.may_write(self.clock(n)).is_ok())
    }

    pub fn writable(&self) -> Option<usize> {
        (0..self.hosts.len()).find(|n| !self.hosts[*n].paused && self.may_write(*n))
    }

    pub fn status(&self, n: usize) -> Status {
        self.hosts[n].node.as_ref().unwrap().status(self.clock(n))
    }

    pub fn write(&mut self, n: usize, text: &str) -> ProposalId {
        self.write_bytes(n, Bytes::from(text.to_owned()))
    }

    pub fn write_bytes(&mut self, n: usize, payload: Bytes) -> ProposalId {
        self.nonces += 1;
        let id = self.nonces;
        self.step(n, Input::Propose { id, payloads: vec![payload] });
        id
    }

    pub fn outcome(&self, n: usize, proposal: ProposalId) -> Option<Output> {
        self.hosts[n]
            .outputs
            .iter()
            .rev()
            .find(|o| match o {
                Output::Proposed { id, .. } | Output::ProposalRefused { id, .. } | Output::ProposalUnknown { id } => {
                    *id == proposal
                }
                _ => false,
            })
            .cloned()
    }

    pub fn holds(&self, n: usize, text: &str) -> bool {
        self.hosts[n].disk.data.iter().any(|d| d == text.as_bytes())
    }

    pub fn saw(&self, n: usize, matches: impl Fn(&Event) -> bool) -> bool {
        self.hosts[n].events.iter().any(|(_, e)| matches(e))
    }

    pub fn admin(&mut self, n: usize, command: AdminCommand) -> CallId {
        self.nonces += 1;
        let id = self.nonces;
        self.step(n, Input::Admin { id, command });
        id
    }

    pub fn done(&self, n: usize, call: CallId) -> Option<AdminOutcome> {
        self.hosts[n].outputs.iter().find_map(|o| match o {
            Output::AdminDone { id, outcome } if *id == call => Some(outcome.clone()),
            _ => None,
        })
    }

    /// Drops the first entries of a host's log, as the shell's retention does.
    pub fn trim(&mut self, n: usize, through: Seq) {
        let image = &mut self.hosts[n].disk;
        let held = image.log.iter().find(|e| e.seq == through).map(Entry::position);
        let (base, first) = (image.base.seq, image.log.first().map(|e| e.seq));
        let last = image.log.last().map(|e| e.seq);
        let base = held
            .unwrap_or_else(|| panic!("{through} is not in {base} {first:?}..{last:?} of {n}:\n{}", self.describe()));
        let image = &mut self.hosts[n].disk;
        image.log.retain(|e| e.seq > through);
        image.base = base;
        self.step(n, Input::LogTrimmed { first: through.next(), base });
    }

    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (n, host) in self.hosts.iter().enumerate() {
            let Some(_) = &host.node else {
                text += &format!("{n}: down\n");
                continue;
            };
            let s = self.status(n);
            text += &format!(
                "{n}: {:?} term {} last {} commit {} applied {} writer {:?} unfit {:?} v{} {:?}\n   {:?}\n",
                s.part,
                s.pin.term,
                s.last.seq,
                s.commit,
                s.applied,
                s.pin.writer,
                s.unfit,
                s.membership.version,
                s.membership.members.iter().map(|m| (m.id().cloned(), m.role)).collect::<Vec<_>>(),
                host.events.iter().rev().take(6).map(|(at, e)| (at / MS, e)).collect::<Vec<_>>(),
            );
        }
        text
    }
}

pub fn is_vote(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Vote { .. } | Message::PreVote { .. })
}

pub const LEASE: Duration = Duration::from_millis(1500);
