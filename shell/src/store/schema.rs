//! The tables as capture, hash and apply need to know them.
//!
//! Decides which columns are stored, what tells rows apart, how a rowid is
//! spelt, what a column's default is, and what a schema statement changed.
//! Knows nothing of rows.

use super::hash;
use super::schema_sql::{OWN, is_own};
use super::sys::{Conn, Failure, Hooks, is_name};
use base_ha_core::changeset::{TableShape, Value};
use base_ha_core::wire::ValueRef;
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Whether a name starts so, without regard to case.
pub(super) fn has_prefix(name: &str, prefix: &str) -> bool {
    name.as_bytes().get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// A name as SQL: quoted, quotes doubled.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A stored column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    /// Its place among all columns, generated ones included: how the
    /// pre-update hook counts.
    pub(super) declared: usize,
    /// Part of the primary key: hashed even at its default.
    pub(super) is_key: bool,
    /// Its affinity is REAL: an integer in a record stands for a real.
    is_real: bool,
    /// Its declared default if that is a literal, else NULL.
    default: Value,
}

impl Column {
    /// The value as a SELECT would show it.
    #[inline]
    pub(super) fn exact<'a>(&self, value: ValueRef<'a>) -> ValueRef<'a> {
        match value {
            ValueRef::Integer(number) if self.is_real => ValueRef::Real(number as f64),
            value => value,
        }
    }

    /// Whether a value is the column's default, bit for bit.
    #[inline]
    pub(super) fn is_default(&self, value: ValueRef<'_>) -> bool {
        same(ValueRef::from(&self.default), value)
    }
}

/// Whether two values are the same, bit for bit.
#[inline]
pub(super) fn same(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    match (a, b) {
        (ValueRef::Null, ValueRef::Null) => true,
        (ValueRef::Integer(a), ValueRef::Integer(b)) => a == b,
        (ValueRef::Real(a), ValueRef::Real(b)) => a.to_bits() == b.to_bits(),
        (ValueRef::Text(a), ValueRef::Text(b)) | (ValueRef::Blob(a), ValueRef::Blob(b)) => a == b,
        _ => false,
    }
}

/// An ordinary table.
#[derive(Debug)]
pub(super) struct Table {
    /// Names this very shape within this process; an altered table has another.
    pub(super) id: u64,
    /// Its sum's number.
    pub(super) sum: u32,
    /// What the log says of it.
    pub(super) shape: TableShape,
    /// Its stored columns, in declared order.
    pub(super) columns: Vec<Column>,
    /// `AUTOINCREMENT`.
    pub(super) autoincrement: bool,
    /// The stored column that is the rowid, if one is.
    pub(super) rowid_column: Option<usize>,
    /// How its rowid is spelt: the first of `rowid`, `_rowid_`, `oid` that no
    /// column took. `None` for `WITHOUT ROWID`, or if all three are taken.
    pub(super) rowid_name: Option<&'static str>,
    /// What its rows' hashes begin with.
    pub(super) hash_prefix: Vec<u8>,
    sql: String,
}

impl Table {
    /// Its rows: rowid (0 where there is none), then the stored columns.
    pub(super) fn scan_sql(&self) -> String {
        let columns: Vec<_> = self.shape.columns.iter().map(|c| quoted(c)).collect();
        let rowid = match (self.rowid_column, self.rowid_name) {
            (Some(n), _) => columns[n].clone(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "0".to_owned(),
        };
        let list = columns.join(", ");
        format!("SELECT {rowid}, {list} FROM main.{} NOT INDEXED", quoted(&self.shape.name))
    }

    /// Whether its rows can be found again on another node.
    fn is_addressable(&self) -> bool {
        !self.shape.has_rowid || self.rowid_column.is_some() || self.rowid_name.is_some()
    }

    /// Whether rows hash as they did in `old`, but for columns added at the end.
    fn hashes_like(&self, old: &Self) -> bool {
        let n = old.columns.len();
        let alike = |(a, b): (&Column, &Column)| (a.is_key, a.is_real, &a.default) == (b.is_key, b.is_real, &b.default);
        let names = |t: &Self| t.shape.columns.iter().take(n).cloned().collect::<Vec<_>>();
        let renamed_at_most = self.columns.len() == n || names(self) == names(old);
        self.shape.has_rowid == old.shape.has_rowid
            && self.shape.key == old.shape.key
            && self.columns.len() >= n
            && renamed_at_most
            && old.columns.iter().zip(&self.columns).all(alike)
    }
}

/// All ordinary tables of `main`, as of a schema version.
#[derive(Debug, Default)]
pub(super) struct Schema {
    tables: BTreeMap<String, Rc<Table>>,
    virtuals: BTreeSet<String>,
    next_id: u64,
}

/// What a schema statement did to the tables.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Those that are new.
    pub(super) created: Vec<Rc<Table>>,
    /// Those whose rows hash otherwise now.
    pub(super) rehash: Vec<Rc<Table>>,
    /// The sums of those that are gone.
    pub(super) dropped: Vec<u32>,
    /// A name that only the shell may use.
    pub(super) own_name: Option<String>,
    /// A table whose rows could not be named in a change-set.
    pub(super) unaddressable: Option<String>,
}

impl Schema {
    /// The ordinary table of exactly that name.
    #[inline]
    pub(super) fn table(&self, name: &str) -> Option<&Rc<Table>> {
        self.tables.get(name)
    }

    /// The ordinary table of that name, without regard to case.
    pub(super) fn find(&self, name: &str) -> Option<&Rc<Table>> {
        self.tables.get(name).or_else(|| self.tables.values().find(|t| t.shape.name.eq_ignore_ascii_case(name)))
    }

    /// Whether there are virtual tables: only they hold rows back until a
    /// savepoint.
    pub(super) fn has_virtual(&self) -> bool {
        !self.virtuals.is_empty()
    }

    /// Whether that name is a virtual table's.
    pub(super) fn is_virtual(&self, name: &str) -> bool {
        self.virtuals.iter().any(|v| v.eq_ignore_ascii_case(name))
    }

    /// Every table, by name.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Rc<Table>> {
        self.tables.values()
    }

    /// Reads the schema again and says what changed. Tables whose SQL text is
    /// what it was are not looked at.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn reload<H: Hooks>(&mut self, conn: &Conn<H>, sums: &mut hash::Sums) -> Result<Difference, Failure> {
        let mut found = BTreeMap::new();
        let mut virtuals = BTreeSet::new();
        let mut difference = Difference::default();
        let mut master = conn.prepare_one("SELECT type, name, rootpage, sql FROM main.sqlite_schema")?;
        while master.step()? {
            let (kind, name) = (string(master.column(0)), string(master.column(1)));
            if is_own(&name) && !OWN.contains(&name.as_str()) {
                difference.own_name = Some(name.clone());
            }
            if kind != "table" || is_own(&name) || has_prefix(&name, "sqlite_") {
                continue;
            }
            if matches!(master.column(2), ValueRef::Integer(0)) {
                virtuals.insert(name);
            } else {
                found.insert(name, string(master.column(3)));
            }
        }
        drop(master);
        let mut tables = BTreeMap::new();
        for (name, sql) in found {
            let old = self.tables.remove(&name);
            if let Some(old) = &old
                && old.sql == sql
            {
                tables.insert(name, old.clone());
                continue;
            }
            self.next_id += 1;
            let table = Rc::new(describe(conn, &name, sql, self.next_id, sums.id(&name))?);
            if !table.is_addressable() {
                difference.unaddressable = Some(name.clone());
            }
            match old {
                None => difference.created.push(table.clone()),
                Some(old) if !table.hashes_like(&old) => difference.rehash.push(table.clone()),
                Some(_) => {}
            }
            tables.insert(name, table);
        }
        difference.dropped = self.tables.values().map(|t| t.sum).collect();
        self.tables = tables;
        self.virtuals = virtuals;
        Ok(difference)
    }
}

fn string(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => String::new(),
    }
}

fn describe<H: Hooks>(conn: &Conn<H>, name: &str, sql: String, id: u64, sum: u32) -> Result<Table, Failure> {
    let mut list = conn.prepare_one("SELECT wr FROM pragma_table_list(?1) WHERE schema = 'main'")?;
    list.bind(1, ValueRef::Text(name.as_bytes()))?;
    let has_rowid = list.integer()? != Some(1);
    // A key that is the rowid itself has no index of its own.
    let mut indexes = conn.prepare_one("SELECT count(*) FROM pragma_index_list(?1, 'main') WHERE origin = 'pk'")?;
    indexes.bind(1, ValueRef::Text(name.as_bytes()))?;
    let key_has_index = indexes.integer()?.unwrap_or(0) > 0;

    let (mut names, mut columns, mut all_names) = (Vec::new(), Vec::new(), Vec::new());
    let mut key = Vec::new();
    let mut info = conn.prepare_one(
        "SELECT cid, name, type, dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
    )?;
    info.bind(1, ValueRef::Text(name.as_bytes()))?;
    while info.step()? {
        let number = |n| match info.column(n) {
            ValueRef::Integer(number) => number,
            ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => 0,
        };
        let (column, declared_type) = (string(info.column(1)), string(info.column(2)));
        all_names.push(column.to_ascii_lowercase());
        if matches!(number(5), 2 | 3) {
            continue; // generated: each node computes it
        }
        let pk = number(4);
        if pk > 0 {
            key.push((pk, columns.len() as u16));
        }
        let default = match info.column(3) {
            ValueRef::Text(text) => literal_default(&declared_type, &String::from_utf8_lossy(text)),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => Value::Null,
        };
        columns.push(Column {
            declared: usize::try_from(number(0)).unwrap_or_default(),
            is_key: pk > 0,
            is_real: is_real(&declared_type),
            default,
        });
        names.push(column);
    }
    drop(info);
    key.sort_unstable();
    let key: Vec<u16> = key.into_iter().map(|(_, column)| column).collect();
    let rowid_column = match key.as_slice() {
        [only] if has_rowid && !key_has_index => Some(usize::from(*only)),
        _ => None,
    };
    let free = |spelling: &&'static str| !all_names.iter().any(|n| n == *spelling);
    let rowid_name = if has_rowid { ["rowid", "_rowid_", "oid"].iter().find(|s| free(s)).copied() } else { None };
    let autoincrement = match rowid_column {
        Some(n) if is_name(name) && is_name(&names[n]) => {
            conn.sql().column_metadata(Some("main"), name, names[n].as_str())?.4
        }
        _ => false,
    };
    let mut hash_prefix = (name.len() as u64).to_le_bytes().to_vec();
    hash_prefix.extend_from_slice(name.as_bytes());
    let shape = TableShape { name: name.to_owned(), columns: names, key, has_rowid };
    Ok(Table { id, sum, shape, columns, autoincrement, rowid_column, rowid_name, hash_prefix, sql })
}

/// SQLite's rule for the REAL affinity (datatype3.html, 3.1): the first of the
/// groups that matches decides.
fn is_real(declared_type: &str) -> bool {
    let upper = declared_type.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|w| upper.contains(w));
    !has(&["INT"]) && !has(&["CHAR", "CLOB", "TEXT"]) && !has(&["BLOB"]) && has(&["REAL", "FLOA", "DOUB"])
}

/// What a column holds where nothing was given, if that is the same for every
/// row: SQLite itself evaluates the literal and applies the column's affinity,
/// in a database of its own.
fn literal_default(declared_type: &str, text: &str) -> Value {
    if !is_literal(text) {
        return Value::Null;
    }
    let evaluate = || -> rusqlite::Result<Value> {
        let scratch = Connection::open_in_memory()?;
        scratch.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        scratch.execute_batch(&format!(
            "CREATE TABLE t(a {declared_type} DEFAULT {text}, b); INSERT INTO t(b) VALUES(1);"
        ))?;
        scratch.query_row("SELECT a FROM t", [], |row| {
            use rusqlite::types::ValueRef as Sql;
            Ok(match row.get_ref(0)? {
                Sql::Null => Value::Null,
                Sql::Integer(number) => Value::Integer(number),
                Sql::Real(number) => Value::Real(number),
                Sql::Text(bytes) => Value::Text(bytes.to_vec().into()),
                Sql::Blob(bytes) => Value::Blob(bytes.to_vec().into()),
            })
        })
    };
    // What cannot be evaluated counts as no default, on every node alike.
    evaluate().unwrap_or(Value::Null)
}

/// Whether a default's text is one literal: a number, a string, a blob, a word
/// that means one. An expression may differ from row to row.
fn is_literal(text: &str) -> bool {
    let text = text.trim();
    let unsigned = text.strip_prefix(['+', '-']).map_or(text, str::trim_start);
    let mut bytes = unsigned.bytes();
    let quoted = |rest: &str| {
        // One string: inside it, quotes come in pairs.
        rest.len() >= 2
            && rest.starts_with('\'')
            && rest.ends_with('\'')
            && rest[1..rest.len() - 1].replace("''", "").bytes().all(|b| b != b'\'')
    };
    match bytes.next() {
        Some(b'\'') => quoted(unsigned),
        Some(b'x' | b'X') if unsigned.len() > 1 && unsigned.as_bytes()[1] == b'\'' => quoted(&unsigned[1..]),
        Some(b'0'..=b'9' | b'.') => {
            unsigned.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-' | b'_'))
        }
        _ => unsigned.eq_ignore_ascii_case("true") || unsigned.eq_ignore_ascii_case("false"),
    }
}
