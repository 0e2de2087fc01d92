//! A store of the shell between two inputs of a fuzzer.
//!
//! Decides how it is opened, fed and looked at; which inputs are sound is for
//! the targets.

use super::samples;
use base_ha::api::{Ack, NodeEvent, SqlLimits, Statement, StoreJob, WriteAnswer, WriteError, WriteRequest};
use base_ha::config::Limits;
use base_ha::env::real::RealEnv;
use base_ha::env::{Env, Work};
use base_ha::store;
use base_ha_core::changeset::RequestId;
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{ContentHash, StreamId, Term};
use base_ha_core::io::{Pin, ProposalId};
use base_ha_core::position::Position;
use base_ha_core::wire::encode_changeset;
use bytes::Bytes;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the SQL of an input may run, longer than any that is of interest.
const SQL_MAX: Duration = Duration::from_millis(200);

pub(super) struct Replica {
    worker: store::StoreWorker<RealEnv>,
    events: mpsc::Receiver<NodeEvent>,
    /// What it says it contains.
    pub(super) position: Position,
    /// And its hash.
    pub(super) content: ContentHash,
    proposals: VecDeque<(ProposalId, Vec<Bytes>)>,
    dir: tempfile::TempDir,
}

thread_local! {
    /// A database that was filled once.
    static TEMPLATE: tempfile::TempDir = template();
}

impl Replica {
    /// A fresh copy of a database that holds a few rows of every kind of table.
    pub(super) fn filled() -> Self {
        let dir = scratch();
        let template = TEMPLATE.with(|template| template.path().to_owned());
        for file in std::fs::read_dir(template).expect("the template's directory") {
            let file = file.expect("an entry of it");
            std::fs::copy(file.path(), dir.path().join(file.file_name())).expect("a copy");
        }
        Self::open(dir)
    }

    fn open(dir: tempfile::TempDir) -> Self {
        let (send, events) = mpsc::channel();
        let opened = store::open(RealEnv, dir.path(), &Limits::default(), move |event| {
            // Nobody listens once the replica is dropped.
            let _ = send.send(event);
        });
        let opened = opened.expect("the store opens");
        Self {
            worker: opened.worker,
            events,
            position: opened.position,
            content: opened.content,
            proposals: VecDeque::new(),
            dir,
        }
    }

    /// Dies without a word and starts again.
    pub(super) fn reopened(self) -> Self {
        let Self { worker, dir, .. } = self;
        drop(worker);
        Self::open(dir)
    }

    /// The content hash, counted anew from the rows.
    pub(super) fn recount(&self) -> ContentHash {
        store::recount(&store::data_file(self.dir.path())).expect("the rows can be counted").0
    }

    /// The entry that would bring `payload` next.
    pub(super) fn entry(&self, payload: Bytes) -> Entry {
        let hlc = Hlc(self.position.seq.0 + 1);
        Entry::following(&self.position, StreamId::SHARED, Term(1), hlc, EntryKind::Data, payload)
    }

    /// Is told that an entry is committed.
    pub(super) fn apply(&mut self, entry: Entry) {
        self.jobs([StoreJob::Apply { entries: vec![entry] }]);
    }

    /// Runs a request as the writer, up to its answer; and what it logged.
    pub(super) fn write(
        &mut self,
        statements: Vec<Statement>,
        many: bool,
    ) -> (Option<Result<WriteAnswer, WriteError>>, Option<Entry>) {
        let (reply, mut answer) = oneshot::channel();
        let limits = SqlLimits {
            statements_max: 100,
            rows_max: 1000,
            answer_bytes_max: 1 << 20,
            deadline: RealEnv.now().mono.after(SQL_MAX),
        };
        let request = WriteRequest {
            id: RequestId(1 << 100),
            idempotency_key: None,
            body_digest: [0; 16],
            statements,
            many,
            ack: Ack::Majority,
            limits,
            turn: Default::default(),
            reply,
        };
        let pin = Pin { term: Term(1), durable: Term(1), writer: None, writable: true };
        self.jobs([StoreJob::Pin(pin), StoreJob::Write(request)]);
        let mut logged = None;
        while let Some((id, payloads)) = self.proposals.pop_front() {
            let entries: Vec<Entry> = payloads.into_iter().map(|payload| self.entry(payload)).collect();
            assert!(entries.len() <= 1, "one request is one entry");
            let first = self.position.seq.next();
            let last = entries.last().map_or(self.position, Entry::position);
            logged = entries.last().cloned().or(logged);
            self.jobs([StoreJob::Proposed { id, first, last }, StoreJob::Apply { entries }]);
        }
        (answer.try_recv().ok(), logged)
    }

    fn jobs(&mut self, jobs: impl IntoIterator<Item = StoreJob>) {
        let mut jobs: VecDeque<StoreJob> = jobs.into_iter().collect();
        self.worker.run(&mut jobs);
        while let Ok(event) = self.events.try_recv() {
            match event {
                NodeEvent::Applied { position, content } => (self.position, self.content) = (position, content),
                NodeEvent::Propose { id, payloads } => self.proposals.push_back((id, payloads)),
                NodeEvent::Fatal(why) => panic!("bad input ended the node: {why}"),
                _ => {}
            }
        }
    }
}

fn template() -> tempfile::TempDir {
    let mut replica = Replica::open(scratch());
    for set in samples::template() {
        let entry = replica.entry(encode_changeset(&set));
        replica.apply(entry.clone());
        assert_eq!(replica.position, entry.position(), "the template is sound: {set:?}");
    }
    let Replica { worker, dir, .. } = replica;
    drop(worker);
    dir
}

/// In memory where there is such a place: each input opens a database anew.
fn scratch() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory")
}
