//! What was captured can be taken back: the inverse of a change-set, applied on
//! a replica, restores what was there before, row by row and hash by hash.

use super::*;
use base_ha_core::wire::{decode_changeset, encode_changeset};
use proptest::prelude::*;

const SCHEMA: &str = "CREATE TABLE a(k INTEGER PRIMARY KEY, v);
    CREATE TABLE b(k, v UNIQUE, w DEFAULT 'w');
    CREATE TABLE c(v, k TEXT, n, g AS (v || k), PRIMARY KEY(k, n)) WITHOUT ROWID;
    CREATE TABLE parent(k INTEGER PRIMARY KEY, v);
    CREATE TABLE child(k, v REFERENCES parent(k) ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE seen(what);
    CREATE TRIGGER a_i AFTER INSERT ON a BEGIN INSERT INTO seen VALUES(new.k); END;
    CREATE TRIGGER a_d AFTER DELETE ON a BEGIN DELETE FROM seen WHERE what = old.k; END";

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("NULL".to_owned()),
        (0i64..6).prop_map(|n| n.to_string()),
        Just("9223372036854775807".to_owned()),
        Just("-9223372036854775808".to_owned()),
        (0u8..4).prop_map(|n| format!("{n}.5")),
        Just("-0.0".to_owned()),
        Just("9e999".to_owned()),
        "[a-c]{0,2}".prop_map(|text| format!("'{text}'")),
        Just("CAST(x'c328' AS TEXT)".to_owned()),
        Just("x''".to_owned()),
        (0u8..3).prop_map(|n| format!("x'{n:02x}'")),
        Just("zeroblob(3000)".to_owned()),
    ]
}

fn statement() -> impl Strategy<Value = String> {
    let conflict = prop_oneof![3 => Just(""), 1 => Just("OR REPLACE"), 1 => Just("OR IGNORE")];
    (0..9u8, conflict, 0..4i64, value(), value()).prop_map(|(kind, conflict, n, v, w)| match kind {
        0 => format!("INSERT {conflict} INTO a VALUES({n}, {v}), ({n} + 9, {w})"),
        1 => format!("INSERT {conflict} INTO b(k, v) VALUES({v}, {w})"),
        2 => format!("INSERT {conflict} INTO c(v, k, n) VALUES({v}, 'k{n}', {n})"),
        3 => format!("INSERT {conflict} INTO parent VALUES({n}, {v}); INSERT INTO child VALUES({w}, {n})"),
        4 => format!("UPDATE {conflict} a SET k = k + {n}, v = {v} WHERE k < 9"),
        5 => format!("UPDATE {conflict} c SET k = k || 'x', v = {v} WHERE n = {n}"),
        6 => format!("UPDATE {conflict} parent SET k = k + 7 WHERE k = {n}"),
        7 => format!("DELETE FROM parent WHERE k = {n}; DELETE FROM b WHERE k IS {v}"),
        _ => format!("DELETE FROM a WHERE k = {n}; DELETE FROM c WHERE n = {n}"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_inverse_of_what_was_captured_restores_what_was_there(
        statements in prop::collection::vec(statement(), 1..14),
    ) {
        let mut pair = Pair::new();
        pair.write(SCHEMA);
        let base = pair.log.len();
        for sql in &statements {
            let _ = pair.try_write(vec![text(sql)]);
        }
        pair.check();
        // A third store takes the same entries, and then each one back.
        let mut mirror = Store::open();
        mirror.apply(&pair.log[..base]);
        let (empty, mut before) = (dump(&mirror.file()), Vec::new());
        for entry in &pair.log[base..] {
            before.push(mirror.content);
            mirror.apply(std::slice::from_ref(entry));
        }
        prop_assert_eq!(mirror.content, pair.replica.content);
        for (n, (entry, content)) in pair.log[base..].iter().zip(before).enumerate().rev() {
            let mut undo = decode_changeset(entry.payload.clone()).expect("captured").inverse().expect("rows only");
            // An undoing is a request of its own.
            undo.request = RequestId(1 << 64 | n as u128);
            let hlc = Hlc(entry.hlc.0 + (1 << 40));
            let payload = encode_changeset(&undo);
            let at = mirror.position;
            mirror.apply(&[Entry::following(&at, StreamId::SHARED, Term(1), hlc, EntryKind::Data, payload)]);
            prop_assert_eq!(&mirror.health, &[], "the mirror complains of {:?}", undo);
            prop_assert_eq!(mirror.content, content, "after taking back entry {}", n);
        }
        prop_assert_eq!(dump(&mirror.file()), empty);
    }
}
