//! Arbitrary values of everything that has bytes.

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
use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Numbers at which encodings change their length, and others.
pub(crate) fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(127),
        Just(128),
        Just((1 << 53) + 1),
        Just(u64::MAX),
        (0u32..64).prop_map(|shift| 1 << shift),
        any::<u64>(),
    ]
}

fn blob() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        1 => Just(Bytes::new()),
        1 => (120usize..140).prop_map(|n| Bytes::from(vec![0xc3; n])),
    ]
}

pub(crate) fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        prop_oneof![Just(i64::MIN), Just(i64::MAX), Just((1 << 53) + 1), Just(-1), any::<i64>()]
            .prop_map(Value::Integer),
        any::<u64>().prop_map(|bits| Value::Real(f64::from_bits(bits))),
        prop_oneof![Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0), Just(f64::NAN)].prop_map(Value::Real),
        blob().prop_map(Value::Text),
        blob().prop_map(Value::Blob),
    ]
}

fn shape() -> impl Strategy<Value = TableShape> {
    (any::<String>(), vec(any::<String>(), 1..6), any::<bool>()).prop_flat_map(|(name, columns, has_rowid)| {
        let n = columns.len() as u16;
        vec(0..n, 0..4).prop_map(move |key| TableShape { name: name.clone(), columns: columns.clone(), key, has_rowid })
    })
}

/// A row change of one of `tables`.
fn row_change(tables: Vec<TableShape>) -> impl Strategy<Value = Change> {
    (0..tables.len(), any::<i64>(), any::<i64>(), 0..3).prop_flat_map(move |(table, old_rowid, new_rowid, kind)| {
        let n = tables[table].columns.len();
        let table = table as u32;
        (vec(value(), n), vec(option::of(value()), n)).prop_map(move |(row, new)| match kind {
            0 => Change::Insert { table, rowid: new_rowid, new: row },
            1 => Change::Update { table, old_rowid, new_rowid, old: row, new },
            _ => Change::Delete { table, rowid: old_rowid, old: row },
        })
    })
}

fn other_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<String>(), number()).prop_map(|(sql, epoch)| Change::Ddl { sql, epoch }),
        (any::<String>(), option::of(any::<i64>())).prop_map(|(table, value)| Change::Sequence { table, value }),
        any::<i32>().prop_map(Change::UserVersion),
        any::<i32>().prop_map(Change::ApplicationId),
    ]
}

fn stored_answer() -> impl Strategy<Value = StoredAnswer> {
    (any::<String>(), any::<[u8; 16]>(), option::of(blob())).prop_map(|(key, body_digest, answer)| StoredAnswer {
        key,
        body_digest,
        answer,
    })
}

fn changeset_of(
    changes: impl Fn(Vec<TableShape>) -> BoxedStrategy<Change> + 'static,
) -> impl Strategy<Value = ChangeSet> {
    vec(shape(), 1..4)
        .prop_flat_map(move |tables| {
            (
                any::<u128>(),
                any::<u64>(),
                any::<String>(),
                vec(changes(tables.clone()), 0..8),
                option::of(stored_answer()),
                Just(tables),
            )
        })
        .prop_map(|(request, hlc, database, changes, stored_answer, tables)| ChangeSet {
            request: RequestId(request),
            hlc: Hlc(hlc),
            database,
            tables,
            changes,
            stored_answer,
        })
}

/// Any change-set.
pub(crate) fn changeset() -> impl Strategy<Value = ChangeSet> {
    changeset_of(|tables| prop_oneof![3 => row_change(tables), 1 => other_change()].boxed())
}

/// A change-set of row changes only.
pub(crate) fn row_changeset() -> impl Strategy<Value = ChangeSet> {
    changeset_of(|tables| row_change(tables).boxed())
}

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

pub(crate) fn position() -> impl Strategy<Value = Position> {
    (number(), number(), hash()).prop_map(|(seq, term, hash)| Position { seq: Seq(seq), term: Term(term), hash })
}

pub(crate) fn node_id() -> impl Strategy<Value = NodeId> {
    "[A-Za-z0-9._-]{1,64}".prop_map(|text| NodeId::new(&text).expect("legal by construction"))
}

fn url() -> impl Strategy<Value = Url> {
    "https?://([a-z0-9.-]{1,20}|\\[[0-9a-f:]{2,20}\\])(:[0-9]{1,5})?".prop_map(|text| Url::new(&text))
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![Just(EntryKind::Noop), Just(EntryKind::Config), Just(EntryKind::Data)];
    ((any::<u128>(), number(), number(), any::<u64>()), (kind, hash(), hash(), blob())).prop_map(
        |((stream, seq, term, hlc), (kind, prev_hash, hash, payload))| Entry {
            stream: StreamId(stream),
            seq: Seq(seq),
            term: Term(term),
            hlc: Hlc(hlc),
            kind,
            prev_hash,
            hash,
            payload,
        },
    )
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Learner), Just(Role::Voter), Just(Role::Witness)]
}

pub(crate) fn membership() -> impl Strategy<Value = Membership> {
    let member = (url(), option::of((node_id(), any::<u128>())), role(), option::of(role())).prop_map(
        |(url, identity, role, target)| Member {
            url,
            identity: identity.map(|(id, n)| (id, Incarnation(n))),
            role,
            target,
        },
    );
    let mode = prop_oneof![Just(QuorumMode::Majority), Just(QuorumMode::None)];
    (number(), any::<u128>(), mode, number(), vec(member, 0..=Membership::MEMBERS_MAX)).prop_map(
        |(version, cluster, mode, lineage, mut members)| {
            members.sort_by(|a, b| a.url.cmp(&b.url));
            members.dedup_by(|a, b| a.url == b.url);
            Membership {
                version: ConfigVersion(version),
                cluster: ClusterId(cluster),
                mode,
                lineage: Lineage(lineage),
                members,
            }
        },
    )
}

fn ping() -> impl Strategy<Value = Ping> {
    (
        (number(), url(), position(), number(), number()),
        (any::<bool>(), option::of(node_id()), any::<bool>()),
        vec((number(), any::<u128>()), 0..5),
        number(),
    )
        .prop_map(|((sent, url, last, commit, applied), (eligible, writer, witness), contents, wall_ms)| Ping {
            sent: MonoTime(sent),
            url,
            last,
            commit: Seq(commit),
            applied: Seq(applied),
            eligible,
            writer,
            witness,
            contents: contents.into_iter().map(|(seq, hash)| (Seq(seq), ContentHash(hash))).collect(),
            wall_ms,
        })
}

fn refused() -> impl Strategy<Value = Refused> {
    prop_oneof![
        any::<u128>().prop_map(|c| Refused::OtherCluster { cluster: ClusterId(c) }),
        membership().prop_map(|membership| Refused::Born { membership }),
        Just(Refused::StaleTerm),
        any::<(u64, u128, u128)>().prop_map(|(nonce, incarnation, other)| Refused::DuplicateId {
            nonce: BootNonce(nonce),
            incarnation: Incarnation(incarnation),
            other: Incarnation(other),
        }),
        (any::<u128>(), number())
            .prop_map(|(id, n)| Refused::Amnesia { incarnation: Incarnation(id), acknowledged: Seq(n) }),
        Just(Refused::NotAMember),
        (number(), any::<u128>(), hash()).prop_map(|(at, expected, hash)| Refused::Diverged {
            at: Seq(at),
            expected: ContentHash(expected),
            hash,
        }),
    ]
}

fn append_result() -> impl Strategy<Value = AppendResult> {
    prop_oneof![
        number().prop_map(|n| AppendResult::Durable { matched: Seq(n) }),
        (position(), number()).prop_map(|(hint, last)| AppendResult::Mismatch { hint, last: Seq(last) }),
        (number(), 0..=Entry::PAYLOAD_MAX).prop_map(|(n, bytes)| AppendResult::Partial { seq: Seq(n), bytes }),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    (entry(), 0..1_000_000usize, 0..1_000_000usize).prop_map(|(entry, offset, after)| {
        let bytes = entry.payload.clone();
        let length = offset + bytes.len() + after;
        Part { head: Entry { payload: Bytes::new(), ..entry }, length, offset, bytes }
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        ping().prop_map(Message::Ping),
        (number(), ping()).prop_map(|(echo, standing)| Message::Pong { echo: MonoTime(echo), standing }),
        (number(), position(), vec(entry(), 0..4), number(), any::<bool>(), option::of(part())).prop_map(
            |(sent, prev, entries, commit, renews, part)| Message::Append(Append {
                sent: Some(MonoTime(sent)).filter(|sent| *sent > MonoTime(0)),
                prev,
                entries,
                commit: Seq(commit),
                renews,
                part: part.map(Box::new),
            })
        ),
        (number(), append_result(), number()).prop_map(|(echo, result, applied)| {
            Message::Appended(Appended { echo: MonoTime(echo), result, applied: Seq(applied) })
        }),
        (position(), number()).prop_map(|(last, term)| Message::PreVote { last, term: Term(term) }),
        (number(), any::<bool>()).prop_map(|(term, granted)| Message::PreVoted { term: Term(term), granted }),
        (position(), any::<bool>()).prop_map(|(last, transfer)| Message::Vote { last, transfer }),
        any::<bool>().prop_map(|granted| Message::Voted { granted }),
        Just(Message::AskTransfer),
        Just(Message::TimeoutNow),
        (position(), url()).prop_map(|(at_least, from)| Message::NeedSnapshot { at_least, from }),
        refused().prop_map(Message::Refused),
    ]
}

/// Any envelope.
pub(crate) fn envelope() -> impl Strategy<Value = Envelope> {
    ((any::<u128>(), any::<u128>(), node_id(), any::<u128>()), (number(), number(), number()), message()).prop_map(
        |((cluster, seats, from, incarnation), (nonce, term, config), message)| Envelope {
            cluster: ClusterId(cluster),
            seats,
            from,
            incarnation: Incarnation(incarnation),
            nonce: BootNonce(nonce),
            term: Term(term),
            config: ConfigVersion(config),
            message,
        },
    )
}
