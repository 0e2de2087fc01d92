//! A node's durable half on a simulated disk: the shell's log and store workers,
//! and a driver of a few lines that plays a sole voter.
//!
//! Decides the order that production's driver and core decide: an entry is
//! durable in the log before it is ordered to be committed. Everything that is
//! asked and promised goes into the diary.

use super::diary::{Diary, Found, Note};
use super::print::{self, Reference};
use super::world::World;
use crate::vfs::{Fate, VirtualDisk};
use base_ha::api::{
    Ack, LogJob, NodeEvent, Organ, Params, SqlLimits, Statement, StoreJob, WriteAnswer, WriteError, WriteRequest,
};
use base_ha::config::Limits;
use base_ha::env::files::{Drive, Mode};
use base_ha::env::{Env, Work};
use base_ha::log::{LogLimits, LogWorker};
use base_ha::run::disk::{Disk, Place};
use base_ha::store::backup::TempFile;
use base_ha::store::{StoreWorker, data_file};
use base_ha_core::changeset::RequestId;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{ClusterId, ConfigVersion, Incarnation, Lineage, NodeId, Seq, StreamId, Term, Url};
use base_ha_core::io::{HardState, PersistId, Pin, ProposalId, Record, Recovered, StoreHealth};
use base_ha_core::member::{Member, Membership, QuorumMode, Role};
use base_ha_core::position::Position;
use base_ha_core::wire::{self, decode_changeset};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Why a script does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The process ended, as one does whose disk fails. The reason it gave.
    Ended(String),
    /// The node did what it must not.
    Wrong(String),
}

pub(super) type Step = Result<(), Stopped>;

/// The node, its disk, and what is known of both.
pub(super) struct Rig {
    pub(super) disk: VirtualDisk,
    pub(super) diary: Diary,
    reference: Reference,
    node: Option<Node>,
    lives: u64,
    /// No faults are planned: every write must succeed.
    pub(super) strict: bool,
    /// A planted mistake: entries are committed before the log has synced them.
    pub(super) hasty: bool,
    /// How much log is kept.
    pub(super) limits: LogLimits,
    /// A fault struck while a process ended in order: it ends then in any case.
    pub(super) failed_closing: bool,
}

struct Node {
    world: World,
    log: LogWorker<World>,
    store: StoreWorker<World>,
    events: Events,
    tmp: PathBuf,
    term: Term,
    hard: HardState,
    /// Where the log began.
    base: Position,
    /// The last entry asked for.
    end: Position,
    /// Entries since the start that may still be ordered.
    tail: Vec<Entry>,
    ordered: Seq,
    /// The last entry that the log confirmed.
    durable: Seq,
    next: PersistId,
    unconfirmed: VecDeque<Unconfirmed>,
    fatal: Option<String>,
    full: BTreeSet<&'static str>,
}

/// A record that the log has not confirmed.
struct Unconfirmed {
    id: PersistId,
    /// The log's last entry once it is confirmed.
    end: Option<Seq>,
    /// The group whose entries it holds.
    proposal: Option<ProposalId>,
}

/// Events with the number of the disk's next operation when they were said.
type Events = Arc<Mutex<VecDeque<(u64, NodeEvent)>>>;

type Answer = oneshot::Receiver<Result<WriteAnswer, WriteError>>;

/// Where the node's data is.
pub(super) fn dir(disk: &VirtualDisk) -> PathBuf {
    disk.root().join("node")
}

fn place<'a>(dir: &'a std::path::Path, limits: LogLimits, store: &'a Limits) -> Place<'a> {
    Place { dir, log: limits, store, witness: false }
}

/// Log limits under which nothing is trimmed.
pub(super) const KEEP_ALL: LogLimits = LogLimits { bytes_max: 1 << 30, age_max: Duration::from_secs(1 << 30) };

/// How often the store may want to wait after one job.
const WAITS_MAX: u32 = 100;

impl Rig {
    pub(super) fn new(disk: VirtualDisk, diary: Diary) -> Self {
        let reference = Reference::new(&diary.history);
        Self {
            disk,
            diary,
            reference,
            node: None,
            lives: 0,
            strict: true,
            hasty: false,
            limits: KEEP_ALL,
            failed_closing: false,
        }
    }

    /// Starts a process on what is on the disk.
    pub(super) fn start(&mut self) -> Step {
        self.lives += 1;
        let world = World::new(&self.disk, self.lives);
        let events = Events::default();
        let told = {
            let (events, disk) = (events.clone(), self.disk.clone());
            move |event| {
                // What a process says after its end nobody hears.
                if disk.is_up() {
                    events.lock().unwrap_or_else(PoisonError::into_inner).push_back((disk.ops(), event));
                }
            }
        };
        let (dir, limits) = (dir(&self.disk), Limits::default());
        let opened = Disk::open(&world, &place(&dir, self.limits, &limits), told);
        let opened = opened.map_err(|error| self.ended(&format!("no start: {error}")))?;
        let recovered = opened.recovered.clone();
        let fresh = opened.log.fresh();
        let store = opened.store.expect("not a witness");
        let log = opened.log.into_worker().map_err(|error| self.ended(&format!("no start: {error}")))?;
        let mut node = Node {
            world,
            log,
            store: store.worker,
            events,
            tmp: opened.tmp,
            term: recovered.hard.term,
            hard: recovered.hard.clone(),
            base: recovered.log_base,
            end: recovered.tail.last().copied().unwrap_or(recovered.log_base),
            tail: Vec::new(),
            ordered: recovered.applied.seq,
            durable: recovered.tail.last().map_or(recovered.log_base.seq, |p| p.seq),
            next: 0,
            unconfirmed: VecDeque::new(),
            fatal: None,
            full: BTreeSet::new(),
        };
        let (found, entries) = node.found(&self.disk, fresh, &recovered).map_err(|why| self.ended(&why))?;
        node.tail = entries;
        self.node = Some(node);
        self.diary.note(self.disk.ops(), Note::Found(Box::new(found)));
        self.pin(true)
    }

    fn ended(&self, why: &str) -> Stopped {
        if self.strict { Stopped::Wrong(why.to_owned()) } else { Stopped::Ended(why.to_owned()) }
    }

    /// Ends the process without a word, and the machine with it unless the fate
    /// is [`Fate::Kept`].
    pub(super) fn crash(&mut self, fate: Fate) {
        self.disk.crash(fate);
        self.node = None;
        self.disk.start();
    }

    /// Ends the process in order.
    pub(super) fn close(&mut self) -> Step {
        let before = self.disk.hits();
        let node = self.node()?;
        let (reply, _) = oneshot::channel();
        node.store.run(&mut VecDeque::from([StoreJob::Close { reply }]));
        let (reply, _) = oneshot::channel();
        node.log.run(&mut VecDeque::from([LogJob::Close { reply }]));
        self.failed_closing |= self.disk.hits() > before;
        self.pump()?;
        self.node = None;
        Ok(())
    }

    fn node(&mut self) -> Result<&mut Node, Stopped> {
        self.node.as_mut().ok_or(Stopped::Ended("there is no process".into()))
    }

    fn log_jobs(&mut self, jobs: impl IntoIterator<Item = LogJob>) -> Step {
        self.node()?.log.run(&mut jobs.into_iter().collect());
        self.pump()
    }

    fn store_jobs(&mut self, jobs: impl IntoIterator<Item = StoreJob>) -> Step {
        self.node()?.store.run(&mut jobs.into_iter().collect());
        self.pump()?;
        self.wait_out()
    }

    /// Lets the time pass that the store wants to wait: for the clients that it
    /// has just answered, before it begins the next group.
    fn wait_out(&mut self) -> Step {
        for _ in 0..WAITS_MAX {
            let node = self.node()?;
            let Some(time) = node.store.patience().time else { return Ok(()) };
            node.world.pass(time);
            node.store.run(&mut VecDeque::new());
            self.pump()?;
        }
        Err(Stopped::Wrong(format!("the store waits for more than {WAITS_MAX} times its patience")))
    }

    /// The node is the writer, or is not.
    pub(super) fn pin(&mut self, writable: bool) -> Step {
        let term = self.node()?.term;
        self.store_jobs([StoreJob::Pin(Pin { term, durable: term, writer: None, writable })])
    }

    /// Carries on with what the workers said, until they say nothing more.
    fn pump(&mut self) -> Step {
        loop {
            let node = self.node.as_mut().ok_or(Stopped::Ended("there is no process".into()))?;
            let event = node.events.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((at, event)) = event else { break };
            match event {
                NodeEvent::Persisted(id) => {
                    let count = node.unconfirmed.iter().take_while(|record| record.id <= id).count();
                    let confirmed: Vec<_> = node.unconfirmed.drain(..count).collect();
                    node.durable = confirmed.iter().filter_map(|record| record.end).next_back().unwrap_or(node.durable);
                    confirmed.iter().for_each(|_| self.diary.note(at, Note::Durable));
                    for record in confirmed.into_iter().filter(|record| record.proposal.is_some()) {
                        if let (Some(last), false) = (record.end, self.hasty) {
                            self.order(record.proposal, last)?;
                        }
                    }
                }
                NodeEvent::Propose { id, payloads } if payloads.is_empty() => {
                    let (first, last) = (node.end.seq.next(), node.end);
                    node.store.run(&mut VecDeque::from([StoreJob::Proposed { id, first, last }]));
                }
                NodeEvent::Propose { id, payloads } => {
                    let entries = node.entries(EntryKind::Data, payloads);
                    self.append_for(None, entries, Some(id))?;
                }
                NodeEvent::Trimmed { base, .. } => self.diary.note(at, Note::Trimmed(base)),
                NodeEvent::Health(organ, health) => {
                    let name = match organ {
                        Organ::Log => "log",
                        Organ::Store => "store",
                    };
                    match health {
                        StoreHealth::Well => drop(node.full.remove(name)),
                        StoreHealth::Full => drop(node.full.insert(name)),
                        StoreHealth::ApplyHalted { .. } | StoreHealth::Quarantined => {
                            return Err(self.ended(&format!("the {name} is {health:?}")));
                        }
                    }
                }
                NodeEvent::Fatal(why) => node.fatal = Some(why),
                NodeEvent::Applied { .. } => {}
                other => return Err(Stopped::Wrong(format!("nobody asked for {other:?}"))),
            }
        }
        match self.node()?.fatal.clone() {
            Some(why) => Err(self.ended(&why)),
            None if !self.disk.is_up() => Err(Stopped::Ended("the disk is gone".into())),
            None => Ok(()),
        }
    }

    /// Gives the log a record.
    fn persist(&mut self, record: Record, end: Option<Seq>, proposal: Option<ProposalId>) -> Step {
        self.diary.note(self.disk.ops(), Note::Asked(record.clone()));
        let node = self.node()?;
        node.next += 1;
        let id = node.next;
        node.unconfirmed.push_back(Unconfirmed { id, end, proposal });
        self.log_jobs([LogJob::Persist { id, record }])
    }

    fn append_for(&mut self, keep: Option<Seq>, entries: Vec<Entry>, proposal: Option<ProposalId>) -> Step {
        let hasty = self.hasty;
        let node = self.node()?;
        if let Some(keep) = keep {
            node.tail.retain(|entry| entry.seq <= keep);
            // What takes the place of a durable entry is not durable yet.
            node.durable = node.durable.min(keep);
        }
        node.tail.extend(entries.iter().cloned());
        let last = node.tail.last().map_or(node.end, Entry::position);
        node.end = last;
        if let Some(proposal) = proposal.filter(|_| hasty) {
            self.order(Some(proposal), last.seq)?;
        }
        self.persist(Record::Append { keep, entries }, Some(last.seq), proposal)
    }

    /// Orders everything up to `through` to be committed.
    fn order(&mut self, proposal: Option<ProposalId>, through: Seq) -> Step {
        let at = self.disk.ops();
        let node = self.node.as_mut().ok_or(Stopped::Ended("there is no process".into()))?;
        let entries: Vec<Entry> =
            node.tail.iter().filter(|e| e.seq > node.ordered && e.seq <= through).cloned().collect();
        let Some(last) = entries.last().map(Entry::position) else { return Ok(()) };
        node.ordered = through;
        for entry in &entries {
            if entry.kind == EntryKind::Data {
                let set = decode_changeset(entry.payload.clone()).expect("the store made it");
                let statements = &self.diary.requests[&set.request.0];
                self.reference.run(statements);
                self.diary.history.extend(statements.iter().cloned());
            }
            self.diary.prints.insert(entry.seq, (entry.hash, self.reference.print()));
        }
        self.diary.note(at, Note::Ordered(through));
        let mut jobs = Vec::new();
        if let Some(id) = proposal {
            let first = entries.iter().rfind(|e| e.kind != EntryKind::Data).map_or(entries[0].seq, |e| e.seq.next());
            jobs.push(StoreJob::Proposed { id, first, last });
        }
        jobs.push(StoreJob::Progress { durable: through, all: Seq(0) });
        jobs.push(StoreJob::Apply { entries });
        self.store_jobs(jobs)
    }

    /// Appends a no-op or a membership.
    pub(super) fn append(&mut self, kind: EntryKind) -> Step {
        let node = self.node()?;
        let payload = match kind {
            EntryKind::Config => wire::encode_membership(&membership(&node.hard)),
            EntryKind::Noop | EntryKind::Data => Bytes::new(),
        };
        let entries = node.entries(kind, vec![payload]);
        self.append_for(None, entries, None)
    }

    /// Appends what another writer's log holds after `keep`: here, large or
    /// small no-ops of a term that is never committed, or is.
    pub(super) fn append_foreign(&mut self, keep: Option<Seq>, count: u64, payload: usize) -> Step {
        let node = self.node()?;
        let prev = match keep {
            Some(keep) => node.tail.iter().find(|e| e.seq == keep).map_or(node.end, Entry::position),
            None => node.end,
        };
        node.end = prev;
        let payloads = (0..count).map(|n| Bytes::from(vec![n as u8; payload])).collect();
        // Not Data: nothing of it could be applied, and nothing of it ever is.
        let entries = node.entries(EntryKind::Data, payloads);
        self.append_for(keep, entries, None)
    }

    /// Orders everything that is durable in the log to be committed.
    pub(super) fn commit_all(&mut self) -> Step {
        let node = self.node()?;
        let through = node.end.seq.min(node.durable);
        self.order(None, through)
    }

    /// A new term, voted for itself.
    pub(super) fn vote(&mut self, term: u64) -> Step {
        let node = self.node()?;
        node.term = Term(term);
        node.hard.cluster = ClusterId(7);
        node.hard.term = Term(term);
        node.hard.voted_for = Some((node_id(), node.hard.incarnation));
        let state = node.hard.clone();
        self.persist(Record::HardState(state), None, None)?;
        self.pin(true)
    }

    /// A new term, no vote.
    pub(super) fn hear_term(&mut self, term: u64) -> Step {
        let node = self.node()?;
        node.term = Term(term);
        node.hard.term = Term(term);
        node.hard.voted_for = None;
        let state = node.hard.clone();
        self.persist(Record::HardState(state), None, None)
    }

    /// A term of its own, and the no-op with which a writer begins.
    ///
    /// What was never committed gives way to it.
    pub(super) fn lead(&mut self, term: u64) -> Step {
        self.vote(term)?;
        let node = self.node()?;
        let ordered = node.ordered;
        let keep = (node.end.seq > ordered).then_some(ordered);
        if let Some(keep) = keep {
            node.end = node.tail.iter().find(|e| e.seq == keep).map_or(node.base, Entry::position);
        }
        let entries = node.entries(EntryKind::Noop, vec![Bytes::new()]);
        self.append_for(keep, entries, None)?;
        self.commit_all()
    }

    /// The last entry that was ordered to be committed.
    pub(super) fn committed(&self) -> Seq {
        self.node.as_ref().map_or(Seq(0), |node| node.ordered)
    }

    /// Runs requests that share a group; each must succeed where nothing is to
    /// fail.
    pub(super) fn write(&mut self, requests: &[&[&str]]) -> Step {
        let strict = self.strict;
        for answer in self.try_write(requests)? {
            match answer {
                Some(Err(error)) if strict => return Err(Stopped::Wrong(format!("a write failed: {error:?}"))),
                None if strict => return Err(Stopped::Wrong("a write was not answered".into())),
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    /// Runs requests that share a group; their answers, if they have one yet.
    pub(super) fn try_write(
        &mut self,
        requests: &[&[&str]],
    ) -> Result<Vec<Option<Result<WriteAnswer, WriteError>>>, Stopped> {
        let (mut jobs, mut answers) = (Vec::new(), Vec::new());
        for statements in requests {
            let (job, answer) = self.request(statements)?;
            jobs.push(job);
            answers.push(answer);
        }
        self.store_jobs(jobs)?;
        Ok(answers.iter_mut().map(|answer| answer.try_recv().ok()).collect())
    }

    fn request(&mut self, statements: &[&str]) -> Result<(StoreJob, Answer), Stopped> {
        let id = self.diary.requests.len() as u128 + 1;
        self.diary.requests.insert(id, statements.iter().map(|sql| (*sql).to_owned()).collect());
        let (reply, answer) = oneshot::channel();
        let statements: Vec<Statement> =
            statements.iter().map(|sql| Statement { sql: (*sql).to_owned(), params: Params::None }).collect();
        let limits = SqlLimits {
            statements_max: 100,
            rows_max: 100,
            answer_bytes_max: 1 << 20,
            deadline: self.node()?.world.now().mono.after(Duration::from_secs(30)),
        };
        let request = WriteRequest {
            id: RequestId(id),
            idempotency_key: id.is_multiple_of(3).then(|| format!("key {id}")),
            body_digest: [0; 16],
            many: statements.len() > 1,
            statements,
            ack: Ack::Majority,
            limits,
            turn: Default::default(),
            reply,
        };
        Ok((StoreJob::Write(request), answer))
    }

    /// Another writer takes over while a group waits: what it logged is rolled
    /// back in `data.db`, and cut off in the log.
    pub(super) fn depose(&mut self, request: &[&str], term: u64) -> Step {
        let before = self.node()?.end;
        // Nobody confirms: the entry stays in the log, uncommitted.
        self.hold_confirmations(request)?;
        self.hear_term(term)?;
        let node = self.node()?;
        node.end = before;
        let entries = node.entries(EntryKind::Noop, vec![Bytes::new()]);
        self.append_for(Some(before.seq), entries, None)?;
        self.commit_all()
    }

    /// Runs a request up to its entry in the log and no further.
    fn hold_confirmations(&mut self, request: &[&str]) -> Step {
        let (write, _answer) = self.request(request)?;
        let node = self.node()?;
        node.store.run(&mut VecDeque::from([write]));
        let proposed = {
            let mut events = node.events.lock().unwrap_or_else(PoisonError::into_inner);
            let at = events.iter().position(|(_, event)| matches!(event, NodeEvent::Propose { .. }));
            at.and_then(|at| events.remove(at))
        };
        let Some((_, NodeEvent::Propose { id, payloads })) = proposed else { return self.pump() };
        let entries = node.entries(EntryKind::Data, payloads);
        // None, if the request failed.
        let first = node.end.seq.next();
        let last = entries.last().map_or(node.end, Entry::position);
        if !entries.is_empty() {
            self.append_for(None, entries, None)?;
        }
        self.store_jobs([StoreJob::Proposed { id, first, last }])?;
        self.store_jobs([StoreJob::Unknown { id }])
    }

    /// Time passes; what waited for it is done.
    pub(super) fn settle(&mut self) -> Step {
        for _ in 0..6 {
            self.node()?.world.pass(Duration::from_secs(6));
            self.log_jobs([LogJob::Tick])?;
            self.store_jobs([StoreJob::Tick])?;
        }
        Ok(())
    }

    /// Moves `data.db`'s write-ahead log into the file, then trims the log as far
    /// as that allows.
    pub(super) fn checkpoint_and_trim(&mut self) -> Step {
        let (reply, mut answer) = oneshot::channel();
        self.store_jobs([StoreJob::Checkpoint { reply }])?;
        match answer.try_recv() {
            Ok(Ok(safe)) => self.log_jobs([LogJob::Trim { below: safe.seq.next() }]),
            Ok(Err(error)) if self.strict => Err(Stopped::Wrong(format!("no checkpoint: {error}"))),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Puts another node's copy in the place of `data.db`.
    pub(super) fn install(&mut self, copy: &Copy) -> Step {
        let strict = self.strict;
        let failed = |why: &dyn std::fmt::Debug| match strict {
            true => Err(Stopped::Wrong(format!("no install: {why:?}"))),
            false => Ok(()),
        };
        let node = self.node()?;
        let (drive, tmp) = (node.world.files(), node.tmp.clone());
        let file = match received(&drive, &tmp, &copy.bytes) {
            Ok(file) => file,
            Err(error) => return failed(&error),
        };
        self.diary.note(self.disk.ops(), Note::Installing(copy.position));
        let (reply, mut answer) = oneshot::channel();
        self.log_jobs([LogJob::BeginInstall { position: copy.position, keep_log: false, reply }])?;
        if let Ok(Err(error)) = answer.try_recv() {
            return failed(&error);
        }
        let (reply, mut answer) = oneshot::channel();
        self.store_jobs([StoreJob::Install { file: file.path().to_owned(), reply }])?;
        let installed = match answer.try_recv() {
            Ok(Ok(installed)) => installed,
            Ok(Err(error)) if error.code == "install_unfinished" => return Err(self.ended(&error.to_string())),
            other => {
                self.log_jobs([LogJob::ForgetInstall])?;
                return failed(&other);
            }
        };
        file.into_path();
        if installed.position != copy.position {
            return Err(Stopped::Wrong(format!("installed {:?} instead of {:?}", installed.position, copy.position)));
        }
        let (reply, mut answer) = oneshot::channel();
        let job =
            LogJob::FinishInstall { position: installed.position, membership: installed.membership.clone(), reply };
        self.log_jobs([job])?;
        match answer.try_recv() {
            Ok(Ok(true)) => {
                self.diary.note(self.disk.ops(), Note::Reset(copy.position));
                let node = self.node()?;
                node.end = copy.position;
                node.tail.clear();
            }
            Ok(Ok(false)) => {}
            // Store and log no longer agree in this process: it ends.
            other => return Err(self.ended(&format!("half an install: {other:?}"))),
        }
        self.node()?.ordered = copy.position.seq;
        // What the copy brought is history as well, from here on.
        self.diary.history.clone_from(&copy.history);
        self.reference = Reference::new(&self.diary.history);
        Ok(())
    }

    /// A copy for another node.
    pub(super) fn copy(&mut self) -> Result<Copy, Stopped> {
        let path = data_file(&dir(&self.disk));
        let history = self.diary.history.clone();
        let node = self.node()?;
        let (drive, tmp) = (node.world.files(), node.tmp.clone());
        let whole = base_ha::store::backup::Contents::Whole;
        let copied = base_ha::store::backup::copy(&drive, &path, &tmp, whole, |_| std::ops::ControlFlow::Continue(()));
        let copied = copied.map_err(|error| Stopped::Wrong(error.to_string()))?;
        let bytes = base_ha::env::files::read(&*drive, copied.file.path());
        let bytes = bytes.map_err(|error| Stopped::Wrong(error.to_string()))?;
        Ok(Copy { bytes, position: copied.position, history })
    }

    /// Whether the living process serves the rows that it should.
    ///
    /// # Errors
    /// How they differ.
    pub(super) fn check_live(&mut self) -> Result<(), String> {
        let path = data_file(&dir(&self.disk));
        match print::of_file(&path) {
            Ok((at, rows)) => self.diary.check_print(at, &rows),
            // An error is an answer too, where one was planned.
            Err(_) if !self.strict => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// Whether there is a process.
    pub(super) fn is_running(&self) -> bool {
        self.node.is_some()
    }

    /// What the last start found.
    pub(super) fn found(&self) -> Option<&Found> {
        self.diary.found()
    }

    /// Whether the disk is full, as log or store say.
    pub(super) fn says_full(&self) -> bool {
        self.node.as_ref().is_some_and(|node| !node.full.is_empty())
    }

    /// Commits what the log held at the start: a sole voter's log is committed
    /// as far as it is durable. Not what another writer's log was said to hold,
    /// which nobody could apply.
    pub(super) fn catch_up(&mut self) -> Step {
        let node = self.node()?;
        let ordered = node.ordered;
        let real = |e: &&Entry| {
            let request = decode_changeset(e.payload.clone()).map(|set| set.request.0);
            e.kind != EntryKind::Data || request.is_ok_and(|id| self.diary.requests.contains_key(&id))
        };
        let node = self.node.as_ref().ok_or(Stopped::Ended("there is no process".into()))?;
        let last = node.tail.iter().filter(|e| e.seq > ordered).take_while(real).last().map(|e| e.seq);
        self.diary.history = self.history_to(ordered);
        self.reference = Reference::new(&self.diary.history);
        match last {
            Some(last) => self.order(None, last),
            None => Ok(()),
        }
    }

    /// Life goes on: everything of the log that was committed is applied, then
    /// the node votes, writes and answers.
    pub(super) fn live(&mut self) -> Step {
        self.catch_up()?;
        self.check_live().map_err(Stopped::Wrong)?;
        let node = self.node()?;
        let term = node.term.max(node.end.term).0 + 1;
        self.lead(term)?;
        self.write(&[&["CREATE TABLE IF NOT EXISTS alive(n)", "INSERT INTO alive VALUES (1)"]])?;
        self.check_live().map_err(Stopped::Wrong)
    }

    /// The statements that lead to an entry.
    fn history_to(&self, through: Seq) -> Vec<String> {
        let mut out = Vec::new();
        for (seq, (hash, _)) in self.diary.prints.range(..=through) {
            let Some(entry) = self.diary.known.get(&hash.0).filter(|e| e.kind == EntryKind::Data) else { continue };
            let set = decode_changeset(entry.payload.clone()).expect("the store made it");
            debug_assert_eq!(*seq, entry.seq);
            out.extend(self.diary.requests[&set.request.0].iter().cloned());
        }
        out
    }
}

/// A copy of a `data.db`, on its way.
pub(super) struct Copy {
    bytes: Vec<u8>,
    position: Position,
    history: Vec<String>,
}

/// Receives a copy as `snapshot::fetch` does: under another name, then fsynced.
fn received(drive: &Drive, tmp: &std::path::Path, bytes: &[u8]) -> std::io::Result<TempFile> {
    let temp = TempFile::create(drive, tmp)?;
    let file = drive.open(temp.path(), Mode::Empty)?;
    for (n, block) in bytes.chunks(64 << 10).enumerate() {
        file.write_all_at(block, (n * (64 << 10)) as u64)?;
    }
    file.sync_all()?;
    Ok(temp)
}

impl Node {
    /// Entries that follow the end of the log.
    fn entries(&self, kind: EntryKind, payloads: Vec<Bytes>) -> Vec<Entry> {
        let mut prev = self.end;
        let mut out = Vec::new();
        for payload in payloads {
            let hlc = Hlc::new(self.world.now().wall.0 + prev.seq.0, 0);
            let entry = Entry::following(&prev, StreamId::SHARED, self.term, hlc, kind, payload);
            prev = entry.position();
            out.push(entry);
        }
        out
    }

    /// Everything that the start found, and the log's entries.
    fn found(&mut self, disk: &VirtualDisk, fresh: bool, recovered: &Recovered) -> Result<(Found, Vec<Entry>), String> {
        let mut entries = Vec::new();
        let mut from = recovered.log_base.seq.next();
        while from <= self.end.seq {
            let (reply, mut answer) = oneshot::channel();
            let job = LogJob::LoadForApply { from, through: self.end.seq, bytes_max: 1 << 20, reply };
            self.log.run(&mut VecDeque::from([job]));
            let read = answer.try_recv().map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            from = read.last().map_or(self.end.seq, |entry| entry.seq).next();
            entries.extend(read);
        }
        let mut prev = recovered.log_base;
        for entry in &entries {
            if !entry.follows(&prev) {
                return Err(format!("entry {:?} does not follow {prev:?}", entry.position()));
            }
            prev = entry.position();
        }
        let (reply, mut answer) = oneshot::channel();
        self.log.run(&mut VecDeque::from([LogJob::Orphans { after: 0, bytes_max: 1 << 30, reply }]));
        let orphans = answer.try_recv().map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let path = data_file(&dir(disk));
        let found = Found {
            fresh,
            amnesia: recovered.amnesia,
            hard: recovered.hard.clone(),
            base: recovered.log_base,
            log: entries.iter().map(|e| (e.position(), e.kind)).collect(),
            orphans: orphans.iter().map(|o| o.entry.hash.0).collect(),
            store: recovered.applied,
            print: print::of_file(&path)?.1,
        };
        Ok((found, entries))
    }
}

fn node_id() -> NodeId {
    NodeId::new("node").expect("legal")
}

fn membership(hard: &HardState) -> Membership {
    Membership {
        version: ConfigVersion(1),
        cluster: ClusterId(7),
        mode: QuorumMode::Majority,
        lineage: Lineage(1),
        members: vec![Member {
            url: Url::new("http://node:8090"),
            identity: Some((node_id(), Incarnation(hard.incarnation.0))),
            role: Role::Voter,
            target: None,
        }],
    }
}
