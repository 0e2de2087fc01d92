//! Sound inputs: what a fuzzer starts from, and what proves that a target lets
//! anything through.
//!
//! Decides the rows that databases under test hold. The committed corpus is
//! these and what a fuzzer made of them.

use base_ha::snapshot::Header;
use base_ha_core::changeset::{Change, ChangeSet, RequestId, StoredAnswer, TableShape, Value};
use base_ha_core::entry::{Entry, EntryKind};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{
    BootNonce, ClusterId, ConfigVersion, ContentHash, Hash, Incarnation, Lineage, NodeId, Seq, StreamId, Term, Url,
};
use base_ha_core::member::{Member, Membership, QuorumMode, Role};
use base_ha_core::message::{Append, AppendResult, Appended, Envelope, Message, Part, Ping, Refused};
use base_ha_core::position::Position;
use base_ha_core::time::MonoTime;
use base_ha_core::token::Token;
use base_ha_core::wire::{FRAME_HEAD, encode_changeset, encode_entry, encode_frame, encode_membership};
use bytes::Bytes;

/// The tables of databases under test: one of each kind that is captured and
/// applied in a way of its own.
const SCHEMA: &[&str] = &[
    "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT, b REAL DEFAULT 1.5)",
    "CREATE TABLE k(a TEXT, b BLOB, v, PRIMARY KEY(b, a)) WITHOUT ROWID",
    "CREATE TABLE u(a INT UNIQUE, b TEXT NOT NULL DEFAULT 'x', g INT GENERATED ALWAYS AS (a + 1) STORED)",
    "CREATE TABLE child(t INTEGER REFERENCES t(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)",
    "CREATE INDEX t_a ON t(a) WHERE b > 0",
    "CREATE TRIGGER t_u AFTER INSERT ON t BEGIN INSERT OR IGNORE INTO u(a, b) VALUES(new.id, 'by trigger'); END",
    "CREATE VIEW both AS SELECT a FROM t UNION ALL SELECT a FROM k",
    "CREATE VIRTUAL TABLE f USING fts5(body)",
];

/// The change-sets that make such a database, in order.
pub(super) fn template() -> Vec<ChangeSet> {
    let ddl = |(n, sql): (usize, &&str)| {
        let changes = vec![Change::Ddl { sql: (*sql).to_owned(), epoch: n as u64 + 1 }];
        ChangeSet { request: RequestId(n as u128 + 1), changes, ..empty() }
    };
    SCHEMA.iter().enumerate().map(ddl).chain([filling()]).collect()
}

fn empty() -> ChangeSet {
    ChangeSet { database: "main".to_owned(), ..ChangeSet::default() }
}

fn text(text: &'static str) -> Value {
    Value::Text(Bytes::from_static(text.as_bytes()))
}

fn shapes() -> Vec<TableShape> {
    let shape = |name: &str, columns: &[&str], key: &[u16], has_rowid| TableShape {
        name: name.to_owned(),
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        key: key.to_vec(),
        has_rowid,
    };
    vec![
        shape("t", &["id", "a", "b"], &[0], true),
        shape("k", &["a", "b", "v"], &[1, 0], false),
        shape("u", &["a", "b"], &[], true),
        shape("child", &["t"], &[], true),
    ]
}

fn filling() -> ChangeSet {
    let insert = |table, rowid, new| Change::Insert { table, rowid, new };
    let changes = vec![
        insert(0, 1, vec![Value::Integer(1), text("one"), Value::Real(-0.0)]),
        insert(0, 2, vec![Value::Integer(2), Value::Null, Value::Real(f64::INFINITY)]),
        insert(1, 0, vec![text("a"), Value::Blob(Bytes::from_static(&[0, 255])), Value::Integer(i64::MIN)]),
        insert(2, 1, vec![Value::Integer(7), text("x")]),
        insert(3, 1, vec![Value::Integer(1)]),
        Change::Sequence { table: "t".to_owned(), value: Some(5) },
        Change::UserVersion(3),
    ];
    ChangeSet { request: RequestId(1 << 64), tables: shapes(), changes, ..empty() }
}

/// Row changes that fit the filled database.
pub(super) fn rows() -> ChangeSet {
    let invalid = Value::Text(Bytes::from_static(&[0xff, b'x']));
    let old = vec![Value::Integer(1), text("one"), Value::Real(-0.0)];
    let changes = vec![
        Change::Insert { table: 0, rowid: 6, new: vec![Value::Integer(6), invalid, Value::Real(2.5)] },
        Change::Update { table: 0, old_rowid: 1, new_rowid: 9, old, new: vec![Some(Value::Integer(9)), None, None] },
        Change::Update {
            table: 1,
            old_rowid: 0,
            new_rowid: 0,
            old: vec![text("a"), Value::Blob(Bytes::from_static(&[0, 255])), Value::Integer(i64::MIN)],
            new: vec![None, None, Some(Value::Null)],
        },
        Change::Delete { table: 2, rowid: 1, old: vec![Value::Integer(7), text("x")] },
        Change::Sequence { table: "t".to_owned(), value: Some(9) },
    ];
    let stored = StoredAnswer {
        key: "a key".to_owned(),
        body_digest: [7; 16],
        answer: Some(Bytes::from_static(br#"{"columns":[],"rows":[]}"#)),
    };
    ChangeSet { request: RequestId(1 << 65), tables: shapes(), changes, stored_answer: Some(stored), ..empty() }
}

/// A schema change that fits it, with rows before and after.
fn schema_and_rows() -> ChangeSet {
    let mut tables = shapes();
    let mut wider = tables[2].clone();
    wider.columns.push("c".to_owned());
    tables.push(wider);
    let changes = vec![
        Change::Insert { table: 2, rowid: 2, new: vec![Value::Integer(8), text("y")] },
        Change::Ddl { sql: "ALTER TABLE u ADD COLUMN c DEFAULT 4".to_owned(), epoch: SCHEMA.len() as u64 + 1 },
        Change::Insert { table: 4, rowid: 3, new: vec![Value::Integer(9), text("z"), Value::Integer(4)] },
        Change::ApplicationId(-1),
    ];
    ChangeSet { request: RequestId(1 << 66), tables, changes, ..empty() }
}

fn membership() -> Membership {
    let member = |n: u8, role| Member {
        url: Url::new(&format!("http://127.0.0.1:809{n}")),
        identity: NodeId::new(&format!("base-{n}")).ok().map(|id| (id, Incarnation(u128::from(n) + 1))),
        role,
        target: None,
    };
    Membership {
        version: ConfigVersion(3),
        cluster: ClusterId(5),
        mode: QuorumMode::Majority,
        lineage: Lineage(1),
        members: vec![member(0, Role::Voter), member(1, Role::Voter), member(2, Role::Witness)],
    }
}

/// A log entry.
pub(super) fn entry() -> Entry {
    let payload = encode_changeset(&rows());
    Entry::following(&position(4), StreamId::SHARED, Term(2), Hlc::new(1_700_000_000_000, 3), EntryKind::Data, payload)
}

fn position(seq: u64) -> Position {
    Position { seq: Seq(seq), term: Term(1), hash: Hash([9; 32]) }
}

/// One frame of each kind of message.
pub(super) fn frames() -> Vec<Bytes> {
    let ping = || Ping {
        sent: MonoTime(1 << 40),
        url: Url::new("http://127.0.0.1:8090"),
        last: position(5),
        commit: Seq(4),
        applied: Seq(4),
        eligible: true,
        writer: NodeId::new("base-0").ok(),
        witness: false,
        contents: vec![(Seq(4), ContentHash(77))],
        wall_ms: 1_700_000_000_000,
    };
    let config = entry();
    let config = Entry::following(
        &config.position(),
        StreamId::SHARED,
        Term(2),
        Hlc(1 << 50),
        EntryKind::Config,
        encode_membership(&membership()),
    );
    let append = |sent, entries| {
        let (sent, part) = (Some(MonoTime(sent)).filter(|sent| *sent > MonoTime(0)), None);
        Message::Append(Append { sent, prev: position(4), entries, commit: Seq(4), renews: true, part })
    };
    let part = {
        let whole = entry();
        let (length, bytes) = (whole.payload.len(), whole.payload.slice(..whole.payload.len() / 2));
        let part = Part { head: Entry { payload: Bytes::new(), ..whole }, length, offset: 0, bytes };
        let (sent, prev) = (Some(MonoTime(3)), position(4));
        Message::Append(Append {
            sent,
            prev,
            entries: vec![],
            commit: Seq(4),
            renews: true,
            part: Some(Box::new(part)),
        })
    };
    let appended = |result| Message::Appended(Appended { echo: MonoTime(3), result, applied: Seq(4) });
    let messages = vec![
        Message::Ping(ping()),
        Message::Pong { echo: MonoTime(8), standing: ping() },
        append(3, vec![]),
        append(0, vec![]),
        append(3, vec![entry(), config]),
        appended(AppendResult::Durable { matched: Seq(6) }),
        appended(AppendResult::Mismatch { hint: position(3), last: Seq(3) }),
        Message::PreVote { last: position(5), term: Term(3) },
        Message::PreVoted { term: Term(3), granted: true },
        Message::Vote { last: position(5), transfer: false },
        Message::Voted { granted: true },
        Message::AskTransfer,
        Message::TimeoutNow,
        Message::NeedSnapshot { at_least: position(5), from: Url::new("http://127.0.0.1:8091") },
        Message::Refused(Refused::OtherCluster { cluster: ClusterId(6) }),
        Message::Refused(Refused::Born { membership: membership() }),
        Message::Refused(Refused::Amnesia { incarnation: Incarnation(5), acknowledged: Seq(9) }),
        Message::Refused(Refused::Diverged { at: Seq(4), expected: ContentHash(78), hash: Hash([9; 32]) }),
        part,
        appended(AppendResult::Partial { seq: Seq(5), bytes: 3 }),
    ];
    let envelope = |message| Envelope {
        cluster: ClusterId(5),
        seats: 11,
        from: NodeId::new("base-0").expect("a name"),
        incarnation: Incarnation(1),
        nonce: BootNonce(2),
        term: Term(2),
        config: ConfigVersion(3),
        message,
    };
    messages.into_iter().map(|message| encode_frame(&envelope(message))).collect()
}

const BODIES: &[&str] = &[
    r#"{"sql":"SELECT * FROM t"}"#,
    r#"{"sql":"INSERT INTO t(a, b) VALUES(?1, ?2) RETURNING id","params":["x",1.5]}"#,
    r#"{"sql":"UPDATE OR REPLACE u SET a = $a, b = :b","params":{"a":7,":b":{"$blob":"AP8="}}}"#,
    r#"[{"sql":"DELETE FROM t WHERE id = 1"},{"sql":"INSERT OR IGNORE INTO k VALUES('b', x'01', 1e300)"}]"#,
    r#"{"sql":"INSERT INTO f VALUES('some words'); SELECT count(*) FROM f WHERE f MATCH 'words'"}"#,
    r#"{"sql":"CREATE TABLE n AS SELECT ?1 AS a, id FROM t","params":[{"$real":"-inf"}]}"#,
    r#"{"sql":"ALTER TABLE u RENAME COLUMN b TO c; PRAGMA user_version = 9; DROP VIEW both"}"#,
    r#"{"sql":"INSERT INTO child VALUES(99)"}"#,
    r#"{"sql":"INSERT INTO t(id) VALUES(9223372036854775807); INSERT INTO t DEFAULT VALUES"}"#,
    r#"{"sql":"INSERT OR ROLLBACK INTO u(a) VALUES(7)"}"#,
    r#"{"sql":"ATTACH 'x' AS y"}"#,
    r#"{"sql":"SELECT * FROM _ha_meta","params":null}"#,
    r#"{"sql":"INSERT INTO t(a) VALUES(?)","params":[{"$text_base64":"/3g="}]}"#,
    r#"{"sql":"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 50) INSERT INTO u(a) SELECT n FROM c"}"#,
];

const CONFIGS: &[&str] = &[
    "",
    "http = \"127.0.0.1:8090\"\nnode_id = \"base-0\"\nheartbeat = \"500ms\"\nlease = \"1.5s\"\n",
    "peers = [\"http://127.0.0.1:8091\", \"http://127.0.0.1:8092\"]\nack = \"all\"\nmax_body = \"10MiB\"\n",
    "http = \"0.0.0.0:80\"\n",
    "lease = \"1ms\"\nheartbeat = 5\n",
    "qourum = \"none\"\n",
    "token = \"a token of more than sixteen bytes\"\nlog_level = \"base_ha=debug\"\nwitness = true\n",
];

/// Texts of settings files, some of them legal.
#[cfg(test)]
pub(super) fn configs() -> &'static [&'static str] {
    CONFIGS
}

/// Inputs of every target, by its name.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    // As a body, whose head the target makes; see the module's first page.
    let body = |bytes: &[u8], head: usize| [&[1], &bytes[head..]].concat();
    let whole = |bytes: &[u8]| [&[0], bytes].concat();
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let sets = template().into_iter().chain([rows(), schema_and_rows()]).map(|set| encode_changeset(&set));
    let positions = [(StreamId::SHARED, Seq(1 << 40)), (StreamId(1 << 100), Seq(3))].into();
    let token = Token { cluster: ClusterId(5), lineage: Lineage(1), term: Term(3), positions };
    let header = Header { cluster: ClusterId(5), position: position(9), size: 4096, hash: Hash([3; 32]) };
    let record = encode_entry(&entry());
    vec![
        ("changeset", sets.map(|bytes| body(&bytes, 9)).collect()),
        ("config", texts(CONFIGS)),
        ("frame", frames().iter().flat_map(|bytes| [whole(bytes), body(bytes, FRAME_HEAD)]).collect()),
        ("plan", (0..8u8).map(plan).collect()),
        ("record", vec![whole(&record), body(&record, 9)]),
        ("snapshot_header", vec![header.encode()]),
        ("sql_body", texts(BODIES)),
        ("token", vec![token.encode().expect("few streams").to_vec(), b"12345".to_vec(), b"AbCd_-".to_vec()]),
    ]
}

/// A seed and some faults of it.
fn plan(n: u8) -> Vec<u8> {
    let mut bytes = u64::from(n).to_le_bytes().to_vec();
    for fault in 0..n * 2 {
        bytes.extend_from_slice(&[40 + fault, fault.wrapping_mul(3).wrapping_add(n), n, fault, 1]);
    }
    bytes
}
