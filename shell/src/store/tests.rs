//! A store beside a replica of it, driven by their jobs alone.
//!
//! The node between them is played here: it gives proposals their places in a
//! log and says when they are committed.

mod cases;
mod file;
mod groups;
mod inverse;
mod random;
mod types;

use super::open;
use crate::api::{
    Ack, NodeEvent, Organ, Params, SqlLimits, Statement, StoreJob, WriteAnswer, WriteError, WriteRequest,
};
use crate::config::Limits;
use crate::env::real::RealEnv;
use crate::env::{Env, Work};
use crate::error::ApiError;
use base_ha_core::changeset::{RequestId, Value};
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{ContentHash, Seq, StreamId, Term};
use base_ha_core::io::{Pin, ProposalId, StoreHealth};
use base_ha_core::position::Position;
use bytes::Bytes;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::oneshot;

type Reply = oneshot::Receiver<Result<WriteAnswer, WriteError>>;

/// One store and what it told the node loop.
struct Store {
    worker: super::StoreWorker<RealEnv>,
    events: mpsc::Receiver<NodeEvent>,
    position: Position,
    content: ContentHash,
    health: Vec<StoreHealth>,
    proposals: VecDeque<(ProposalId, Vec<Bytes>)>,
    fatal: Vec<String>,
    interrupt: super::Interrupt,
    stats: std::sync::Arc<crate::metrics::StoreStats>,
    dir: tempfile::TempDir,
}

impl Store {
    fn open() -> Self {
        Self::open_in(tempfile::tempdir().expect("a directory"))
    }

    fn open_in(dir: tempfile::TempDir) -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let (send, events) = mpsc::channel();
        let limits = Limits::default();
        let opened = open(RealEnv, dir.path(), &limits, move |event| {
            let _ = send.send(event);
        });
        let mut opened = opened.expect("the store opens");
        // However slow the machine: what is sent together runs together.
        opened.worker.inner.group_time = Duration::from_secs(3600);
        Self {
            worker: opened.worker,
            events,
            position: opened.position,
            content: opened.content,
            health: Vec::new(),
            proposals: VecDeque::new(),
            fatal: Vec::new(),
            interrupt: opened.interrupt,
            stats: opened.stats,
            dir,
        }
    }

    /// Closes as a process that dies would, without a word, and opens again.
    fn reopen(self) -> Self {
        let Self { worker, dir, .. } = self;
        drop(worker);
        Self::open_in(dir)
    }

    fn jobs(&mut self, jobs: impl IntoIterator<Item = StoreJob>) {
        let mut jobs: VecDeque<_> = jobs.into_iter().collect();
        self.worker.run(&mut jobs);
        assert!(jobs.is_empty(), "the worker left jobs");
        while let Some(time) = self.worker.patience().time {
            std::thread::sleep(time);
            self.worker.run(&mut jobs);
        }
        self.hear();
    }

    /// Takes what the worker has said.
    fn hear(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                NodeEvent::Propose { id, payloads } => self.proposals.push_back((id, payloads)),
                NodeEvent::Applied { position, content } => {
                    self.position = position;
                    self.content = content;
                }
                NodeEvent::Health(Organ::Store, health) => self.health.push(health),
                NodeEvent::Fatal(why) => self.fatal.push(why),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn pin(&mut self, term: u64, writable: bool) {
        self.jobs([StoreJob::Pin(Pin { term: Term(term), durable: Term(term), writer: None, writable })]);
    }

    fn apply(&mut self, entries: &[Entry]) {
        self.jobs([StoreJob::Apply { entries: entries.to_vec() }]);
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("data.db")
    }

    fn scrub(&mut self) -> (ContentHash, ContentHash) {
        // The job itself starts a worker, which needs a runtime; its body does not.
        let (reply, mut answer) = oneshot::channel();
        super::install::Scrub { path: self.file() }.run(&mut VecDeque::from([reply]));
        answer.try_recv().expect("answered").expect("scrubbed")
    }
}

/// A writer, a replica, and the log between them.
struct Pair {
    writer: Store,
    replica: Store,
    log: Vec<Entry>,
    requests: u128,
}

fn text(sql: &str) -> Statement {
    Statement { sql: sql.to_owned(), params: Params::None }
}

fn with(sql: &str, values: Vec<Value>) -> Statement {
    Statement { sql: sql.to_owned(), params: Params::Positional(values) }
}

fn request(id: u128, statements: Vec<Statement>) -> (WriteRequest, Reply) {
    let (reply, answer) = oneshot::channel();
    let many = statements.len() > 1;
    let limits = SqlLimits {
        statements_max: 1000,
        rows_max: 1000,
        answer_bytes_max: 1 << 20,
        deadline: RealEnv.now().mono.after(Duration::from_secs(30)),
    };
    let request = WriteRequest {
        id: RequestId(id),
        idempotency_key: None,
        body_digest: [0; 16],
        statements,
        many,
        ack: Ack::Majority,
        limits,
        turn: Default::default(),
        reply,
    };
    (request, answer)
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self { writer: Store::open(), replica: Store::open(), log: Vec::new(), requests: 0 };
        pair.writer.pin(1, true);
        pair
    }

    fn last(&self) -> Position {
        self.log.last().map(Entry::position).unwrap_or_default()
    }

    fn entry(&self, kind: EntryKind, payload: Bytes) -> Entry {
        let hlc = Hlc::new(1_700_000_000_000 + self.log.len() as u64, 0);
        Entry::following(&self.last(), StreamId::SHARED, Term(1), hlc, kind, payload)
    }

    /// Gives the oldest proposal its places.
    fn place(&mut self) -> (ProposalId, Vec<Entry>) {
        let (id, payloads) = self.writer.proposals.pop_front().expect("a proposal");
        let mut entries = Vec::new();
        for payload in payloads {
            let entry = self.entry(EntryKind::Data, payload);
            entries.push(entry.clone());
            self.log.push(entry);
        }
        (id, entries)
    }

    /// Commits everything that was proposed, on both stores.
    fn settle(&mut self) {
        while !self.writer.proposals.is_empty() {
            let (id, entries) = self.place();
            if entries.is_empty() {
                let (first, last) = (self.last().seq.next(), self.last());
                self.writer.jobs([StoreJob::Proposed { id, first, last }]);
                continue;
            }
            let (first, last) = (entries[0].seq, entries[entries.len() - 1].position());
            self.writer.jobs([
                StoreJob::Proposed { id, first, last },
                StoreJob::Progress { durable: last.seq, all: Seq(0) },
                StoreJob::Apply { entries: entries.clone() },
            ]);
            self.replica.apply(&entries);
        }
    }

    fn send(&mut self, statements: Vec<Statement>) -> Reply {
        self.requests += 1;
        let (request, answer) = request(self.requests, statements);
        self.writer.jobs([StoreJob::Write(request)]);
        answer
    }

    /// Several requests at once: one group.
    fn send_all(&mut self, requests: Vec<Vec<Statement>>) -> Vec<Reply> {
        let (mut jobs, mut replies) = (Vec::new(), Vec::new());
        for statements in requests {
            self.requests += 1;
            let (request, answer) = request(self.requests, statements);
            jobs.push(StoreJob::Write(request));
            replies.push(answer);
        }
        self.writer.jobs(jobs);
        replies
    }

    fn try_write(&mut self, statements: Vec<Statement>) -> Result<String, ApiError> {
        let mut answer = self.send(statements);
        self.settle();
        told(&mut answer)
    }

    fn write(&mut self, sql: &str) -> String {
        self.try_write(vec![text(sql)]).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    fn write_with(&mut self, sql: &str, values: Vec<Value>) -> String {
        self.try_write(vec![with(sql, values)]).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    fn fails(&mut self, sql: &str) -> &'static str {
        match self.try_write(vec![text(sql)]) {
            Err(error) => error.code,
            Ok(body) => panic!("{sql} went through: {body}"),
        }
    }

    /// Both contain the same, and say so.
    fn check(&mut self) {
        assert_eq!(self.replica.health, [], "the replica complains");
        assert_eq!(self.writer.health, [], "the writer complains");
        assert_eq!(self.writer.position, self.last());
        assert_eq!(self.replica.position, self.last());
        assert_eq!(dump(&self.writer.file()), dump(&self.replica.file()));
        assert_eq!(self.writer.content, self.replica.content, "the content hashes differ");
        for store in [&mut self.writer, &mut self.replica] {
            let content = store.content;
            assert_eq!(store.scrub(), (content, content), "the running hash is not that of the rows");
        }
    }
}

/// What a client was told.
fn told(answer: &mut Reply) -> Result<String, ApiError> {
    match answer.try_recv().expect("an answer") {
        Ok(answer) => Ok(String::from_utf8(answer.body.to_vec()).expect("UTF-8")),
        Err(WriteError::Sql(error)) => Err(error),
        Err(other) => panic!("{other:?}"),
    }
}

/// Everything a client can see of a database, as text.
fn dump(file: &Path) -> Vec<String> {
    let conn = rusqlite::Connection::open(file).expect("opens");
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    let mut lines = Vec::new();
    let strings = |sql: &str| -> Vec<String> {
        let mut statement = conn.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let rows = statement.query_map([], |row| row.get(0)).expect("runs");
        rows.map(|row| row.expect("a row")).collect()
    };
    lines.extend(strings(
        "SELECT concat_ws('|', type, name, tbl_name, sql) FROM sqlite_schema
         WHERE name NOT LIKE '\\_ha\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite_stat%' ORDER BY type, name",
    ));
    for table in strings(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')
         AND name NOT LIKE '\\_ha\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    ) {
        let columns = strings(&format!(
            "SELECT name FROM pragma_table_xinfo('{}') WHERE hidden IN (0, 2, 3)",
            table.replace('\'', "''")
        ));
        let name = super::schema::quoted(&table);
        let has_rowid = conn.prepare(&format!("SELECT rowid FROM {name}")).is_ok();
        let mut parts: Vec<String> = columns
            .iter()
            .map(|c| super::schema::quoted(c))
            .map(|c| format!("typeof({c}) || ':' || iif(typeof({c}) IN ('text', 'blob'), hex({c}), quote({c}))"))
            .collect();
        if has_rowid {
            parts.insert(0, "rowid".into());
        }
        let sql = format!("SELECT concat_ws(' ', {}) FROM {name} ORDER BY 1", parts.join(", "));
        lines.extend(strings(&sql).into_iter().map(|row| format!("{table}: {row}")));
    }
    let counted = strings("SELECT name FROM sqlite_schema WHERE name = 'sqlite_sequence'");
    if !counted.is_empty() {
        lines.extend(strings("SELECT 'sequence ' || name || ' ' || seq FROM sqlite_sequence ORDER BY name"));
    }
    for pragma in ["user_version", "application_id"] {
        let value: i64 = conn.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).expect("read");
        lines.push(format!("{pragma} {value}"));
    }
    let sound = strings("PRAGMA integrity_check");
    assert_eq!(sound, ["ok"]);
    lines
}
