//! Change-sets: exact values, capture with marks, hostile bytes, inverses.

use crate::make;
use base_ha_core::changeset::{Change, ChangeSet, NotInvertible, RequestId, StoredAnswer, TableShape, Value};
use base_ha_core::entry::Entry;
use base_ha_core::hlc::Hlc;
use base_ha_core::wire::{ChangeSetReader, ChangeSetWriter, DecodeError, ValueRef, decode_changeset, encode_changeset};
use bytes::Bytes;
use proptest::prelude::*;

proptest! {
    #[test]
    fn every_changeset_is_read_back(set in make::changeset()) {
        prop_assert_eq!(decode_changeset(encode_changeset(&set)), Ok(set));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(decode_changeset(Bytes::from(bytes)).is_err());
    }

    #[test]
    fn tampered_and_resealed_bytes_never_panic(
        set in make::changeset(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encode_changeset(&set).to_vec();
        let at = 9 + at.index(bytes.len() - 9);
        bytes[at] = byte;
        let bytes = reseal(bytes);
        if let Ok(read) = decode_changeset(bytes.clone()) {
            prop_assert_eq!(encode_changeset(&read), bytes);
        }
    }

    #[test]
    fn truncation_is_rejected(set in make::changeset(), cut in any::<prop::sample::Index>()) {
        let bytes = encode_changeset(&set);
        let cut = cut.index(bytes.len());
        prop_assert!(decode_changeset(bytes.slice(..cut)).is_err());
        if cut >= 9 {
            // Also where the checksum was made to fit.
            prop_assert!(decode_changeset(reseal(bytes[..cut].to_vec())).is_err());
        }
    }

    #[test]
    fn the_inverse_of_the_inverse_is_the_changeset(set in make::row_changeset()) {
        let inverse = set.inverse().expect("row changes only");
        prop_assert_eq!(inverse.changes.len(), set.changes.len());
        prop_assert_eq!(inverse.inverse(), Ok(set));
    }

    /// Rolling back to a mark leaves the very bytes that would have been
    /// written had nothing happened since.
    #[test]
    fn what_was_taken_back_leaves_no_trace(
        kept in make::changeset(),
        undone in make::changeset(),
        after in make::changeset(),
    ) {
        let mut with = ChangeSetWriter::new();
        let mut without = ChangeSetWriter::new();
        replay(&mut with, &kept, 0);
        let mark = with.mark();
        replay(&mut with, &undone, 1000);
        with.truncate(mark);
        replay(&mut with, &after, 2000);
        replay(&mut without, &kept, 0);
        replay(&mut without, &after, 2000);
        prop_assert_eq!(with.changes(), without.changes());
        prop_assert_eq!(
            with.finish(RequestId(1), Hlc(2), "main"),
            without.finish(RequestId(1), Hlc(2), "main")
        );
    }
}

/// Puts the right checksum on bytes of the change-set form.
pub(crate) fn reseal(mut bytes: Vec<u8>) -> Bytes {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[4..5]);
    hasher.update(&bytes[9..]);
    bytes[5..9].copy_from_slice(&hasher.finalize().to_le_bytes());
    Bytes::from(bytes)
}

/// Captures `set` again, row by row; its tables are named from `base` on.
fn replay(writer: &mut ChangeSetWriter, set: &ChangeSet, base: u64) {
    let index =
        |writer: &mut ChangeSetWriter, table: u32| writer.table(base + u64::from(table), &set.tables[table as usize]);
    for change in &set.changes {
        match change {
            Change::Insert { table, rowid, new } => {
                let table = index(writer, *table);
                writer.push_insert(table, *rowid, new.iter().map(ValueRef::from));
            }
            Change::Update { table, old_rowid, new_rowid, old, new } => {
                let table = index(writer, *table);
                writer.push_update(
                    table,
                    *old_rowid,
                    *new_rowid,
                    old.iter().map(ValueRef::from),
                    new.iter().map(|v| v.as_ref().map(ValueRef::from)),
                );
            }
            Change::Delete { table, rowid, old } => {
                let table = index(writer, *table);
                writer.push_delete(table, *rowid, old.iter().map(ValueRef::from));
            }
            Change::Ddl { sql, epoch } => writer.push_ddl(sql, *epoch),
            Change::Sequence { table, value } => writer.push_sequence(table, *value),
            Change::UserVersion(version) => writer.push_user_version(*version),
            Change::ApplicationId(id) => writer.push_application_id(*id),
        }
    }
}

fn table(name: &str, columns: &[&str], key: &[u16], has_rowid: bool) -> TableShape {
    TableShape {
        name: name.into(),
        columns: columns.iter().map(|c| (*c).into()).collect(),
        key: key.to_vec(),
        has_rowid,
    }
}

/// G11: blobs became base64 text, integers beyond 2^53 were rounded, invalid
/// UTF-8 was replaced and NaN ended the process.
#[test]
fn type_matrix_roundtrip() {
    let values = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX),
        Value::Integer((1 << 53) + 1),
        Value::Integer(-1),
        Value::Integer(0),
        Value::Real(f64::INFINITY),
        Value::Real(f64::NEG_INFINITY),
        Value::Real(f64::from_bits(0x7ff8_dead_beef_0001)),
        Value::Real(f64::from_bits(0xfff0_0000_0000_0001)),
        Value::Real(-0.0),
        Value::Real(0.0),
        Value::Real(f64::MIN_POSITIVE / 2.0),
        Value::Text(Bytes::new()),
        Value::Text(Bytes::from_static("naïve \0 テキスト".as_bytes())),
        Value::Text(Bytes::from_static(b"\xff\xfe\xc3(")),
        Value::Blob(Bytes::new()),
        Value::Blob(Bytes::from_static(&[0, 1, 0xff])),
        Value::Blob(Bytes::from(vec![0xa5; 1 << 20])),
    ];
    for (n, a) in values.iter().enumerate() {
        for (m, b) in values.iter().enumerate() {
            assert_eq!(n == m, a == b, "the matrix holds no value twice");
        }
    }
    let mut changes = Vec::new();
    for value in &values {
        for other in &values {
            // Blobs of 1 MiB once, not 37 times.
            let large = |v: &Value| matches!(v, Value::Blob(b) if b.len() > 1000);
            if (large(value) || large(other)) && *other != Value::Null {
                continue;
            }
            changes.push(Change::Insert { table: 0, rowid: i64::MIN, new: vec![value.clone()] });
            changes.push(Change::Update {
                table: 0,
                old_rowid: i64::MAX,
                new_rowid: -7,
                old: vec![value.clone()],
                new: vec![Some(other.clone())],
            });
            // A key update of a table without rowids, its key in two columns.
            changes.push(Change::Update {
                table: 1,
                old_rowid: 0,
                new_rowid: 0,
                old: vec![value.clone(), other.clone(), Value::Null],
                new: vec![Some(other.clone()), None, Some(value.clone())],
            });
            changes.push(Change::Delete { table: 1, rowid: 0, old: vec![other.clone(), value.clone(), value.clone()] });
        }
    }
    let set = ChangeSet {
        request: RequestId(u128::MAX),
        hlc: Hlc(u64::MAX),
        database: "main".into(),
        tables: vec![table("t", &["x"], &[], true), table("two \"keys\"", &["a", "b", "ü"], &[2, 0], false)],
        changes,
        stored_answer: None,
    };
    assert_eq!(decode_changeset(encode_changeset(&set)), Ok(set));
}

fn sample() -> ChangeSet {
    ChangeSet {
        request: RequestId(5),
        hlc: Hlc(6),
        database: "main".into(),
        tables: vec![table("t", &["id", "v"], &[0], true)],
        changes: vec![Change::Insert {
            table: 0,
            rowid: 1,
            new: vec![Value::Integer(1), Value::Text(Bytes::from_static(b"x"))],
        }],
        stored_answer: None,
    }
}

#[test]
fn every_single_bit_flip_is_rejected() {
    let bytes = encode_changeset(&sample());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_changeset(Bytes::from(flipped)).is_err(), "bit {bit}");
    }
}

#[test]
fn an_unknown_version_is_named() {
    let mut bytes = encode_changeset(&sample()).to_vec();
    bytes[4] = 9;
    assert_eq!(decode_changeset(reseal(bytes)), Err(DecodeError::UnknownVersion { got: 9, supported: 1 }));
}

#[test]
fn a_table_that_is_not_in_the_dictionary_is_refused() {
    let mut bytes = encode_changeset(&sample()).to_vec();
    // ... insert, table 0, rowid 1, integer 1, text "x", no answer.
    let at = bytes.len() - 9;
    assert_eq!(bytes[at..at + 4], [0, 0, 2, 1]);
    bytes[at + 1] = 1;
    assert_eq!(decode_changeset(reseal(bytes)), Err(DecodeError::Bound { what: "table index", got: 1, max: 0 }));
}

#[test]
fn an_answer_beyond_its_bound_is_left_out_and_its_key_kept() {
    let stored =
        |n: usize| StoredAnswer { key: "k".into(), body_digest: [3; 16], answer: Some(Bytes::from(vec![b'a'; n])) };
    let read = |n: usize| {
        let set = ChangeSet { stored_answer: Some(stored(n)), ..sample() };
        decode_changeset(encode_changeset(&set)).expect("valid").stored_answer
    };
    assert_eq!(read(ChangeSet::ANSWER_MAX), Some(stored(ChangeSet::ANSWER_MAX)));
    assert_eq!(read(ChangeSet::ANSWER_MAX + 1), Some(StoredAnswer { answer: None, ..stored(0) }));
}

#[test]
fn a_table_created_in_a_savepoint_that_is_rolled_back_leaves_the_dictionary() {
    let mut writer = ChangeSetWriter::new();
    let kept = table("kept", &["a"], &[], true);
    let gone = table("gone", &["a", "b"], &[], true);
    let first = writer.table(1, &kept);
    writer.push_insert(first, 1, [ValueRef::Integer(1)]);
    let mark = writer.mark();
    writer.push_ddl("CREATE TABLE gone(a, b)", 1);
    let second = writer.table(2, &gone);
    writer.push_insert(second, 1, [ValueRef::Null, ValueRef::Real(-0.0)]);
    writer.truncate(mark);
    // The same index goes to whichever table comes next.
    assert_eq!(writer.table(3, &gone), second);
    writer.truncate(mark);
    writer.set_answer("key".into(), [1; 16], Bytes::from_static(b"{}"));
    let payload = writer.finish(RequestId(1), Hlc(1), "main").expect("not too large");
    let set = decode_changeset(payload).expect("valid");
    assert_eq!(set.tables, [kept]);
    assert_eq!(set.changes.len(), 1);
    assert_eq!(set.stored_answer.map(|s| s.answer), Some(Some(Bytes::from_static(b"{}"))));
    // The next request starts from nothing.
    assert!(writer.is_empty());
    assert_eq!(writer.size(), 0);
}

#[test]
fn a_transaction_beyond_the_bound_is_refused_and_the_writer_goes_on() {
    let mut writer = ChangeSetWriter::new();
    let shape = table("t", &["b"], &[], true);
    let half = vec![0; Entry::PAYLOAD_MAX / 2];
    for rowid in 0..2 {
        let t = writer.table(1, &shape);
        writer.push_insert(t, rowid, [ValueRef::Blob(&half)]);
    }
    assert!(writer.size() > Entry::PAYLOAD_MAX);
    let refused = writer.finish(RequestId(1), Hlc(1), "main");
    assert!(refused.is_err_and(|e| e.bytes > Entry::PAYLOAD_MAX));
    let t = writer.table(1, &shape);
    writer.push_insert(t, 1, [ValueRef::Blob(b"small")]);
    assert!(writer.finish(RequestId(2), Hlc(2), "main").is_ok());
}

#[test]
#[should_panic(expected = "a row of 1 values in a table of 2 stored columns")]
fn a_row_of_another_arity_is_a_bug_in_the_capture() {
    let mut writer = ChangeSetWriter::new();
    let t = writer.table(1, &table("t", &["a", "b"], &[], true));
    writer.push_insert(t, 1, [ValueRef::Null]);
}

#[test]
fn changes_are_read_one_at_a_time() {
    let set = sample();
    let mut reader = ChangeSetReader::new(encode_changeset(&set)).expect("valid");
    assert_eq!((reader.request(), reader.hlc(), reader.database()), (set.request, set.hlc, "main"));
    assert_eq!(reader.tables(), set.tables);
    assert_eq!(reader.changes_left(), 1);
    assert_eq!(reader.next_change(), Ok(set.changes.first().cloned()));
    assert_eq!(reader.next_change(), Ok(None));
    assert_eq!(reader.end(), Ok(None));
}

#[test]
fn a_schema_statement_has_no_inverse() {
    let mut set = sample();
    set.changes.push(Change::UserVersion(1));
    assert_eq!(set.inverse(), Err(NotInvertible { at: 1 }));
}

#[test]
fn an_inverse_runs_backwards() {
    let mut set = sample();
    set.changes.push(Change::Update {
        table: 0,
        old_rowid: 1,
        new_rowid: 9,
        old: vec![Value::Integer(1), Value::Null],
        new: vec![Some(Value::Integer(9)), None],
    });
    let inverse = set.inverse().expect("row changes only");
    assert_eq!(
        inverse.changes,
        [
            Change::Update {
                table: 0,
                old_rowid: 9,
                new_rowid: 1,
                old: vec![Value::Integer(9), Value::Null],
                new: vec![Some(Value::Integer(1)), None],
            },
            Change::Delete { table: 0, rowid: 1, old: vec![Value::Integer(1), Value::Text(Bytes::from_static(b"x"))] },
        ]
    );
}
