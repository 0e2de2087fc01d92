//! How much CPU a write costs in the store, on the writer and on a replica.
//!
//! Plays the node between the two: everything that is proposed is committed at
//! once. Prints microseconds of this thread's CPU time per request, fsyncs of
//! SQLite's checkpoints included, those of the log not. Run it optimised:
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo run -p base-ha --example store_rate`.

use base_ha::api::{Ack, NodeEvent, Params, SqlLimits, Statement, StoreJob, WriteRequest};
use base_ha::config::Limits;
use base_ha::env::real::RealEnv;
use base_ha::env::{Env, Work};
use base_ha::store;
use base_ha_core::changeset::{RequestId, Value};
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{StreamId, Term};
use base_ha_core::io::Pin;
use base_ha_core::position::Position;
use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::oneshot;

const GROUPS: u64 = 800;
const GROUP: u64 = 64;

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

struct Node {
    worker: store::StoreWorker<RealEnv>,
    events: mpsc::Receiver<NodeEvent>,
}

fn node(dir: &std::path::Path) -> Result<Node, base_ha::error::ApiError> {
    let (send, events) = mpsc::channel();
    let opened = store::open(RealEnv, dir, &Limits::default(), move |event| {
        let _ = send.send(event);
    })?;
    Ok(Node { worker: opened.worker, events })
}

fn request(id: u64, sql: &str, params: Vec<Value>) -> (StoreJob, oneshot::Receiver<Answer>) {
    let (reply, answer) = oneshot::channel();
    let statement = Statement { sql: sql.to_owned(), params: Params::Positional(params) };
    let limits = SqlLimits {
        statements_max: 1,
        rows_max: 1,
        answer_bytes_max: 1 << 20,
        deadline: RealEnv.now().mono.after(Duration::from_secs(60)),
    };
    let request = WriteRequest {
        id: RequestId(u128::from(id) | 1 << 100),
        idempotency_key: None,
        body_digest: [0; 16],
        statements: vec![statement],
        many: false,
        ack: Ack::Majority,
        limits,
        turn: Default::default(),
        reply,
    };
    (StoreJob::Write(request), answer)
}

type Answer = Result<base_ha::api::WriteAnswer, base_ha::api::WriteError>;

#[allow(clippy::print_stdout)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dirs = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (mut writer, mut replica) = (node(dirs.0.path())?, node(dirs.1.path())?);
    let mut last = Position::START;
    let (mut id, mut lost) = (0, 0u64);
    writer.worker.run(&mut VecDeque::from([StoreJob::Pin(Pin {
        term: Term(1),
        durable: Term(1),
        writer: None,
        writable: true,
    })]));
    let mut run = |name: &str, groups: u64, size: u64, sql: &str, params: &dyn Fn(u64) -> Vec<Value>| {
        let (mut on_writer, mut on_replica) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..groups {
            let (mut jobs, mut answers) = (VecDeque::new(), Vec::new());
            for _ in 0..size {
                id += 1;
                let (job, answer) = request(id, sql, params(id));
                jobs.push_back(job);
                answers.push(answer);
            }
            let start = cpu();
            writer.worker.run(&mut jobs);
            on_writer += cpu() - start;
            while let Ok(event) = writer.events.try_recv() {
                let NodeEvent::Propose { id, payloads } = event else { continue };
                let mut entries = Vec::new();
                for payload in payloads {
                    let hlc = Hlc(last.seq.0);
                    let entry = Entry::following(&last, StreamId::SHARED, Term(1), hlc, EntryKind::Data, payload);
                    last = entry.position();
                    entries.push(entry);
                }
                let first = entries[0].seq;
                let copy = entries.clone();
                let mut jobs =
                    VecDeque::from([StoreJob::Proposed { id, first, last }, StoreJob::Apply { entries: copy }]);
                let start = cpu();
                writer.worker.run(&mut jobs);
                on_writer += cpu() - start;
                let start = cpu();
                replica.worker.run(&mut VecDeque::from([StoreJob::Apply { entries }]));
                on_replica += cpu() - start;
            }
            lost += answers.into_iter().map(|mut a| u64::from(!matches!(a.try_recv(), Ok(Ok(_))))).sum::<u64>();
        }
        let per = |d: Duration| d.as_secs_f64() * 1e6 / (groups * size) as f64;
        println!("{name:<34} {:>6.2} us writer  {:>6.2} us replica", per(on_writer), per(on_replica));
    };
    let text = |n: u64| Value::Text(format!("some text of an ordinary length {n}").into_bytes().into());
    let number = |n: u64| Value::Integer(n as i64);
    run("create", 1, 1, "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c REAL)", &|_| vec![]);
    run("create index", 1, 1, "CREATE INDEX t_b ON t(b)", &|_| vec![]);
    run("create plain", 1, 1, "CREATE TABLE kv(k INTEGER PRIMARY KEY, v TEXT)", &|_| vec![]);
    let insert = "INSERT INTO t(a, b, c) VALUES(?, ?, 1.5)";
    run("insert, 64 a group, 1 index", GROUPS, GROUP, insert, &|n| vec![text(n), number(n)]);
    run("insert, 256 a group, 1 index", GROUPS / 4, 256, insert, &|n| vec![text(n), number(n)]);
    let kv = "INSERT INTO kv(v) VALUES(?)";
    run("insert, 64 a group, no index", GROUPS, GROUP, kv, &|n| vec![text(n)]);
    run("insert, alone, no index", GROUPS, 1, kv, &|n| vec![text(n)]);
    run("update, 64 a group", GROUPS, GROUP, "UPDATE kv SET v = ? WHERE k = ?", &|n| {
        vec![text(n), number(n % 50_000 + 1)]
    });
    run("delete, 64 a group", GROUPS / 2, GROUP, "DELETE FROM kv WHERE k = ?", &|n| vec![number(n % 50_000)]);
    if lost > 0 {
        return Err(format!("{lost} requests failed").into());
    }
    Ok(())
}
