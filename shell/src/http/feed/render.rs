//! Committed entries as the change feed tells them.
//!
//! Decides the shape of a line: one a transaction, or one a row in Debezium's
//! envelope (CONTRACTS 3), and what a filter leaves out. Knows nothing of
//! connections; what it writes it writes change by change, so that a large
//! transaction needs no room of its own.

use crate::http::changes::{self, Tables, or_null, put, rows, table_of};
use crate::http::respond::rfc3339;
use crate::sqljson::write_string;
use base_ha_core::changeset::{Change, ChangeSet};
use base_ha_core::hlc::Hlc;
use base_ha_core::ids::{Seq, Term};
use base_ha_core::time::WallTime;

/// How lines are set apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A line of JSON each, `application/x-ndjson`.
    Ndjson,
    /// Server-sent events, `text/event-stream`.
    Events,
}

/// What a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Envelope {
    /// A transaction, whole.
    Transaction,
    /// A row, as Debezium would.
    Debezium,
}

/// What a reader asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) format: Format,
    pub(super) envelope: Envelope,
    pub(super) tables: Tables,
}

/// An entry's place, beside its changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) seq: Seq,
    pub(super) term: Term,
    pub(super) hlc: Hlc,
    /// Names the database and its history, the same on every node.
    pub(super) source: &'a str,
    /// The token of this entry.
    pub(super) position: &'a str,
    /// The token of what was told before it: where to go on from while only a
    /// part of this entry is taken.
    pub(super) before: &'a str,
}

/// Tells one entry, step by step.
pub(super) struct Telling<'a> {
    style: &'a Style,
    place: Place<'a>,
    set: &'a ChangeSet,
    /// The changes that are told.
    told: Vec<&'a Change>,
    next: usize,
}

impl<'a> Telling<'a> {
    /// Nothing if nothing of it is to be told.
    pub(super) fn new(style: &'a Style, place: Place<'a>, set: &'a ChangeSet) -> Option<Self> {
        let is_told = |change: &&Change| match table_of(set, change) {
            Some(shape) => style.tables.has(&shape.name),
            None => match change {
                Change::Sequence { table, .. } => style.envelope == Envelope::Transaction && style.tables.has(table),
                // Which tables a schema statement is about, the reader knows.
                _ => style.envelope == Envelope::Transaction,
            },
        };
        let told: Vec<&Change> = set.changes.iter().filter(is_told).collect();
        (!told.is_empty()).then_some(Self { style, place, set, told, next: 0 })
    }

    /// Writes the next change, and what stands before the first and after the
    /// last; false once all is written.
    pub(super) fn step(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(&change) = self.told.get(self.next) else { return false };
        let (first, last) = (self.next == 0, self.next + 1 == self.told.len());
        self.next += 1;
        match self.style.envelope {
            Envelope::Transaction => {
                if first {
                    open(out, self.style.format, "transaction", Some(self.place.position));
                    self.head(out);
                } else {
                    out.push(b',');
                }
                changes::write(out, self.set, change);
                if last {
                    out.extend_from_slice(b"],\"position\":");
                    write_string(out, self.place.position);
                    out.push(b'}');
                    close(out, self.style.format);
                }
            }
            Envelope::Debezium => {
                // Whoever stops reading between two rows is told all of the
                // transaction again.
                let position = if last { self.place.position } else { self.place.before };
                open(out, self.style.format, "change", Some(position));
                self.debezium(out, change, position);
                close(out, self.style.format);
            }
        }
        true
    }

    fn head(&self, out: &mut Vec<u8>) {
        let Place { seq, term, hlc, .. } = self.place;
        let time = rfc3339(WallTime(hlc.millis()));
        put(
            out,
            format_args!(
                "{{\"seq\":{seq},\"term\":{term},\"time\":\"{time}\",\"request\":\"{:032x}\",\"database\":",
                self.set.request.0
            ),
        );
        write_string(out, &self.set.database);
        out.extend_from_slice(b",\"changes\":[");
    }

    fn debezium(&self, out: &mut Vec<u8>, change: &Change, position: &str) {
        let Some(shape) = table_of(self.set, change) else { return };
        let (before, after) = rows(change);
        let op = match (&before, &after) {
            (None, _) => 'c',
            (_, None) => 'd',
            _ => 'u',
        };
        out.extend_from_slice(b"{\"schema\":null,\"payload\":{\"before\":");
        or_null(out, shape, before);
        out.extend_from_slice(b",\"after\":");
        or_null(out, shape, after);
        let Place { seq, term, hlc, source, .. } = self.place;
        let ns = u128::from(hlc.millis()) * 1_000_000;
        out.extend_from_slice(b",\"source\":{\"version\":\"0.10.0\",\"connector\":\"go-ha-connector\",\"name\":");
        write_string(out, source);
        put(out, format_args!(",\"server_id\":{term},\"ts_ns\":{ns},\"db\":"));
        write_string(out, &self.set.database);
        out.extend_from_slice(b",\"table\":");
        write_string(out, &shape.name);
        put(
            out,
            format_args!("}},\"op\":\"{op}\",\"ts_ns\":{ns}}},\"transaction\":{{\"id\":\"{seq}\"}},\"position\":"),
        );
        write_string(out, position);
        out.push(b'}');
    }
}

/// A line that tells of no change: everything up to `position` was told.
pub(super) fn progress(out: &mut Vec<u8>, format: Format, seq: Seq, position: &str) {
    open(out, format, "position", Some(position));
    put(out, format_args!("{{\"seq\":{seq},\"position\":"));
    write_string(out, position);
    out.push(b'}');
    close(out, format);
}

/// The last line of a feed that this node ends: why, and where to go on.
pub(super) fn end(out: &mut Vec<u8>, format: Format, code: &str, message: &str, position: &str) {
    open(out, format, "end", Some(position));
    out.extend_from_slice(b"{\"end\":{\"code\":");
    write_string(out, code);
    out.extend_from_slice(b",\"message\":");
    write_string(out, message);
    out.extend_from_slice(b"},\"position\":");
    write_string(out, position);
    out.push(b'}');
    close(out, format);
}

fn open(out: &mut Vec<u8>, format: Format, event: &str, id: Option<&str>) {
    if format == Format::Events {
        if let Some(id) = id {
            put(out, format_args!("id: {id}\n"));
        }
        put(out, format_args!("event: {event}\ndata: "));
    }
}

fn close(out: &mut Vec<u8>, format: Format) {
    out.extend_from_slice(if format == Format::Events { b"\n\n" } else { b"\n" });
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::changeset::{RequestId, TableShape, Value};
    use bytes::Bytes;
    use serde_json::{Value as Json, json};

    fn shape(name: &str, has_rowid: bool) -> TableShape {
        TableShape { name: name.into(), columns: vec!["id".into(), "x".into()], key: vec![0], has_rowid }
    }

    fn set() -> ChangeSet {
        let text = |text: &'static str| Value::Text(Bytes::from_static(text.as_bytes()));
        ChangeSet {
            request: RequestId(0xab),
            database: "main".into(),
            tables: vec![shape("a\"b", true), shape("w", false)],
            changes: vec![
                Change::Ddl { sql: "CREATE TABLE w(id PRIMARY KEY, x) WITHOUT ROWID".into(), epoch: 1 },
                Change::Insert { table: 0, rowid: 7, new: vec![Value::Integer(i64::MIN), Value::Real(-0.0)] },
                Change::Update {
                    table: 0,
                    old_rowid: 7,
                    new_rowid: 8,
                    old: vec![Value::Integer(7), text("old\n")],
                    new: vec![Some(Value::Integer(8)), None],
                },
                Change::Delete {
                    table: 1,
                    rowid: 0,
                    old: vec![Value::Blob(Bytes::from_static(&[0, 255])), Value::Text(Bytes::from_static(&[0xff]))],
                },
                Change::Sequence { table: "w".into(), value: None },
                Change::UserVersion(-1),
            ],
            ..ChangeSet::default()
        }
    }

    fn told(format: Format, envelope: Envelope, tables: &[&str]) -> String {
        let style = Style { format, envelope, tables: Tables(tables.iter().map(ToString::to_string).collect()) };
        let (seq, term, hlc) = (Seq(5), Term(2), Hlc::new(1_000, 3));
        let place = Place { seq, term, hlc, source: "c0ffee", position: "here", before: "there" };
        let set = set();
        let mut out = Vec::new();
        if let Some(mut telling) = Telling::new(&style, place, &set) {
            while telling.step(&mut out) {}
        }
        String::from_utf8(out).unwrap()
    }

    fn lines(text: &str) -> Vec<Json> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_transaction_is_one_line_with_exact_values() {
        let lines = lines(&told(Format::Ndjson, Envelope::Transaction, &[]));
        let changes = json!([
            {"op": "schema", "sql": "CREATE TABLE w(id PRIMARY KEY, x) WITHOUT ROWID"},
            {"op": "insert", "table": "a\"b", "key": ["id"], "rowid": 7, "new": {"id": i64::MIN, "x": -0.0}},
            {"op": "update", "table": "a\"b", "key": ["id"], "old_rowid": 7, "rowid": 8,
             "old": {"id": 7, "x": "old\n"}, "new": {"id": 8, "x": "old\n"}},
            {"op": "delete", "table": "w", "key": ["id"],
             "old": {"id": {"$blob": "AP8="}, "x": {"$text_base64": "/w=="}}},
            {"op": "sequence", "table": "w", "value": null},
            {"op": "user_version", "value": -1},
        ]);
        let whole = json!({
            "seq": 5, "term": 2, "time": "1970-01-01T00:00:01.000Z", "request": format!("{:032x}", 0xab),
            "database": "main", "changes": changes, "position": "here",
        });
        assert_eq!(lines, [whole]);
        assert!(told(Format::Ndjson, Envelope::Transaction, &[]).contains("\"x\":-0.0"), "the sign is kept");
    }

    #[test]
    fn a_filter_keeps_rows_of_its_tables_and_the_schema() {
        let lines = lines(&told(Format::Ndjson, Envelope::Transaction, &["W"]));
        let ops: Vec<&str> = lines[0]["changes"].as_array().unwrap().iter().filter_map(|c| c["op"].as_str()).collect();
        assert_eq!(ops, ["schema", "delete", "sequence", "user_version"]);
        assert_eq!(told(Format::Ndjson, Envelope::Debezium, &["other"]), "", "nothing of it is told");
    }

    #[test]
    fn rows_are_told_as_debezium_does_and_only_the_last_moves_the_position() {
        let lines = lines(&told(Format::Ndjson, Envelope::Debezium, &[]));
        let seen: Vec<_> = lines.iter().map(|l| (l["payload"]["op"].clone(), l["position"].clone())).collect();
        assert_eq!(seen, [(json!("c"), json!("there")), (json!("u"), json!("there")), (json!("d"), json!("here")),]);
        assert_eq!(lines[1]["payload"]["before"], json!({"id": 7, "x": "old\n"}));
        assert_eq!(lines[1]["payload"]["after"], json!({"id": 8, "x": "old\n"}));
        assert_eq!((&lines[0]["payload"]["before"], &lines[2]["payload"]["after"]), (&Json::Null, &Json::Null));
        let source = json!({"version": "0.10.0", "connector": "go-ha-connector", "name": "c0ffee", "server_id": 2,
                            "ts_ns": 1_000_000_000_u64, "db": "main", "table": "w"});
        assert_eq!((&lines[2]["payload"]["source"], &lines[2]["transaction"]["id"]), (&source, &json!("5")));
    }

    #[test]
    fn events_carry_the_position_as_their_id() {
        let text = told(Format::Events, Envelope::Transaction, &[]);
        assert!(
            text.starts_with("id: here\nevent: transaction\ndata: {\"seq\":5,") && text.ends_with("}\n\n"),
            "{text}"
        );
        assert_eq!(text.matches('\n').count(), 4, "data is one line");
        let mut out = Vec::new();
        progress(&mut out, Format::Events, Seq(9), "p");
        end(&mut out, Format::Ndjson, "stopping", "bye", "q");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "id: p\nevent: position\ndata: {\"seq\":9,\"position\":\"p\"}\n\n\
             {\"end\":{\"code\":\"stopping\",\"message\":\"bye\"},\"position\":\"q\"}\n"
        );
    }
}
