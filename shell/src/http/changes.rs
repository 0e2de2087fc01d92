//! What a request changed, as JSON.
//!
//! Decides how one change looks, to change feeds and in the list of forgotten
//! writes alike. Values are written as answers to SQL write them.

use crate::sqljson::{write_string, write_value};
use base_ha_core::changeset::{Change, ChangeSet, TableShape, Value};
use rusqlite::types::ValueRef;
use std::io::Write as _;

/// Which rows are told: those of these tables, by SQLite's rules for names; all
/// if there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tables(pub(super) Vec<String>);

impl Tables {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|table| table.eq_ignore_ascii_case(name))
    }
}

/// Writes formatted text.
pub(super) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Memory takes everything.
    let _ = out.write_fmt(text);
}

/// Writes a change as an object.
pub(crate) fn write(out: &mut Vec<u8>, set: &ChangeSet, change: &Change) {
    let Some(shape) = table_of(set, change) else { return other(out, change) };
    let (op, rowids) = match change {
        Change::Insert { rowid, .. } => ("insert", (None, Some(*rowid))),
        Change::Update { old_rowid, new_rowid, .. } => ("update", (Some(*old_rowid), Some(*new_rowid))),
        _ => ("delete", (rowid_of(change), None)),
    };
    put(out, format_args!("{{\"op\":\"{op}\",\"table\":"));
    write_string(out, &shape.name);
    out.extend_from_slice(b",\"key\":[");
    for (n, column) in shape.key.iter().filter_map(|&at| shape.columns.get(usize::from(at))).enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write_string(out, column);
    }
    out.push(b']');
    if shape.has_rowid {
        match rowids {
            (Some(old), Some(new)) if old != new => {
                put(out, format_args!(",\"old_rowid\":{old},\"rowid\":{new}"));
            }
            (_, Some(rowid)) | (Some(rowid), None) => put(out, format_args!(",\"rowid\":{rowid}")),
            (None, None) => (),
        }
    }
    let (before, after) = rows(change);
    for (name, row) in [(&b",\"old\":"[..], before), (b",\"new\":", after)] {
        if let Some(row) = row {
            out.extend_from_slice(name);
            object(out, shape, row);
        }
    }
    out.push(b'}');
}

/// What is no row.
fn other(out: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Ddl { sql, .. } => {
            out.extend_from_slice(b"{\"op\":\"schema\",\"sql\":");
            write_string(out, sql);
        }
        Change::Sequence { table, value } => {
            out.extend_from_slice(b"{\"op\":\"sequence\",\"table\":");
            write_string(out, table);
            match value {
                Some(value) => put(out, format_args!(",\"value\":{value}")),
                None => out.extend_from_slice(b",\"value\":null"),
            }
        }
        Change::UserVersion(value) => put(out, format_args!("{{\"op\":\"user_version\",\"value\":{value}")),
        Change::ApplicationId(value) => put(out, format_args!("{{\"op\":\"application_id\",\"value\":{value}")),
        // A row of a table that the change-set does not describe: decoding
        // refuses such a set.
        Change::Insert { .. } | Change::Update { .. } | Change::Delete { .. } => {
            out.extend_from_slice(b"{\"op\":\"unknown\"");
        }
    }
    out.push(b'}');
}

/// The table of a row's change; nothing for other changes.
pub(super) fn table_of<'a>(set: &'a ChangeSet, change: &Change) -> Option<&'a TableShape> {
    let at = match change {
        Change::Insert { table, .. } | Change::Update { table, .. } | Change::Delete { table, .. } => *table,
        Change::Ddl { .. } | Change::Sequence { .. } | Change::UserVersion(_) | Change::ApplicationId(_) => {
            return None;
        }
    };
    set.tables.get(usize::try_from(at).ok()?)
}

fn rowid_of(change: &Change) -> Option<i64> {
    match change {
        Change::Delete { rowid, .. } => Some(*rowid),
        _ => None,
    }
}

pub(super) type Row<'a> = Vec<&'a Value>;

/// A row before and after its change.
pub(super) fn rows(change: &Change) -> (Option<Row<'_>>, Option<Row<'_>>) {
    match change {
        Change::Insert { new, .. } => (None, Some(new.iter().collect())),
        Change::Update { old, new, .. } => {
            let after = old.iter().zip(new).map(|(old, new)| new.as_ref().unwrap_or(old)).collect();
            (Some(old.iter().collect()), Some(after))
        }
        Change::Delete { old, .. } => (Some(old.iter().collect()), None),
        Change::Ddl { .. } | Change::Sequence { .. } | Change::UserVersion(_) | Change::ApplicationId(_) => {
            (None, None)
        }
    }
}

pub(super) fn or_null(out: &mut Vec<u8>, shape: &TableShape, row: Option<Row<'_>>) {
    match row {
        Some(row) => object(out, shape, row),
        None => out.extend_from_slice(b"null"),
    }
}

fn object(out: &mut Vec<u8>, shape: &TableShape, row: Row<'_>) {
    out.push(b'{');
    for (n, (column, value)) in shape.columns.iter().zip(row).enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write_string(out, column);
        out.push(b':');
        write_value(
            out,
            match value {
                Value::Null => ValueRef::Null,
                Value::Integer(n) => ValueRef::Integer(*n),
                Value::Real(real) => ValueRef::Real(*real),
                Value::Text(text) => ValueRef::Text(text),
                Value::Blob(blob) => ValueRef::Blob(blob),
            },
        );
    }
    out.push(b'}');
}
