//! The content hash: one number that equal data has and unequal data has not.
//!
//! Decides what of a row is hashed (DESIGN 5): its table's name, its rowid
//! where it has one, its key, and every stored column that differs from its
//! declared default, each by its place and storage class; generated columns
//! are left out. So `ADD COLUMN` changes no row's hash. A table's hash is the
//! sum of its rows' modulo 2^128, the database's the sum of its tables'.
//!
//! Which tables count: all ordinary ones, the shadow tables of virtual tables
//! among them (they are replicated row by row and so are equal byte for byte).
//! Not counted: `_ha_*` (each node's own), `sqlite_sequence` (carried exactly,
//! but it changes without a row event) and `sqlite_stat*` (hints for the
//! planner, made by each node's own ANALYZE).

use super::schema::Table;
use super::sys::{Conn, Failure, Hooks};
use base_ha_core::ids::ContentHash;
use base_ha_core::wire::ValueRef;
use std::collections::BTreeMap;

/// A row's hash.
///
/// # Errors
/// The first one that `value` gives.
pub(super) fn row<'a, E>(
    table: &Table,
    rowid: i64,
    scratch: &mut Vec<u8>,
    mut value: impl FnMut(usize) -> Result<ValueRef<'a>, E>,
) -> Result<u128, E> {
    scratch.clear();
    scratch.extend_from_slice(&table.hash_prefix);
    if table.shape.has_rowid {
        scratch.extend_from_slice(&rowid.to_le_bytes());
    }
    for (place, column) in table.columns.iter().enumerate() {
        let value = column.exact(value(place)?);
        if !column.is_key && column.is_default(value) {
            continue;
        }
        scratch.extend_from_slice(&(place as u16).to_le_bytes());
        match value {
            ValueRef::Null => scratch.push(0),
            ValueRef::Integer(number) => {
                scratch.push(1);
                scratch.extend_from_slice(&number.to_le_bytes());
            }
            ValueRef::Real(number) => {
                scratch.push(2);
                scratch.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            ValueRef::Text(bytes) => sized(scratch, 3, bytes),
            ValueRef::Blob(bytes) => sized(scratch, 4, bytes),
        }
    }
    let digest = blake3::hash(scratch);
    let mut low = [0u8; 16];
    low.copy_from_slice(&digest.as_bytes()[..16]);
    Ok(u128::from_le_bytes(low))
}

fn sized(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The sum over a table's rows as they are now.
///
/// # Errors
/// What SQLite says.
pub(super) fn table<H: Hooks>(conn: &Conn<H>, table: &Table) -> Result<u128, Failure> {
    let mut rows = conn.prepare_one(&table.scan_sql())?;
    let mut sum = 0u128;
    let mut scratch = Vec::new();
    // The rowid comes first, or 0 where there is none.
    while rows.step()? {
        let rowid = match rows.column(0) {
            ValueRef::Integer(rowid) => rowid,
            ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => 0,
        };
        let hash = row(table, rowid, &mut scratch, |place| Ok::<_, Failure>(rows.column(place + 1)))?;
        sum = sum.wrapping_add(hash);
    }
    Ok(sum)
}

/// The tables' sums: what is committed, what the open group adds to it, and
/// what the running request adds to that.
#[derive(Default, Debug)]
pub(super) struct Sums {
    /// Numbers for names, given once and for good: a hook must not look up text.
    ids: BTreeMap<String, u32>,
    names: Vec<String>,
    base: Vec<u128>,
    group: Vec<(u32, u128)>,
    request: Vec<(u32, u128)>,
}

impl Sums {
    /// Starts from what is stored.
    pub(super) fn load(&mut self, stored: impl IntoIterator<Item = (String, u128)>) {
        self.base.iter_mut().for_each(|sum| *sum = 0);
        self.group.clear();
        self.request.clear();
        for (name, sum) in stored {
            let id = self.id(&name);
            self.base[id as usize] = sum;
        }
    }

    /// The number of a table's name.
    pub(super) fn id(&mut self, name: &str) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as u32;
        self.ids.insert(name.to_owned(), id);
        self.names.push(name.to_owned());
        self.base.push(0);
        id
    }

    /// Adds to a table's sum; the running request may take it back.
    #[inline]
    pub(super) fn add(&mut self, id: u32, delta: u128) {
        match self.request.iter_mut().find(|(table, _)| *table == id) {
            Some((_, sum)) => *sum = sum.wrapping_add(delta),
            None => self.request.push((id, delta)),
        }
    }

    /// A table's sum as of now.
    pub(super) fn now(&self, id: u32) -> u128 {
        let open = self.group.iter().chain(&self.request).filter(|(table, _)| *table == id);
        open.fold(self.base[id as usize], |sum, (_, delta)| sum.wrapping_add(*delta))
    }

    /// Makes a table's sum `sum`, whatever it was.
    pub(super) fn set(&mut self, id: u32, sum: u128) {
        let delta = sum.wrapping_sub(self.now(id));
        self.add(id, delta);
    }

    /// The request stays in the group.
    pub(super) fn keep_request(&mut self) {
        for n in 0..self.request.len() {
            let (id, delta) = self.request[n];
            match self.group.iter_mut().find(|(table, _)| *table == id) {
                Some((_, sum)) => *sum = sum.wrapping_add(delta),
                None => self.group.push((id, delta)),
            }
        }
        self.request.clear();
    }

    /// The request was rolled back.
    pub(super) fn drop_request(&mut self) {
        self.request.clear();
    }

    /// The transaction was rolled back.
    pub(super) fn drop_group(&mut self) {
        self.request.clear();
        self.group.clear();
    }

    /// The tables whose stored sum changes with this transaction.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&str, u128)> {
        self.group
            .iter()
            .filter(|(_, delta)| *delta != 0)
            .map(|(id, delta)| (self.names[*id as usize].as_str(), self.base[*id as usize].wrapping_add(*delta)))
    }

    /// The transaction was committed.
    pub(super) fn keep_group(&mut self) {
        assert!(self.request.is_empty(), "a transaction was committed with a request still open");
        for (id, delta) in self.group.drain(..) {
            let sum = &mut self.base[id as usize];
            *sum = sum.wrapping_add(delta);
        }
    }

    /// The database's hash with the open group.
    pub(super) fn content(&self) -> ContentHash {
        let base = self.base.iter().fold(0u128, |sum, table| sum.wrapping_add(*table));
        ContentHash(self.group.iter().fold(base, |sum, (_, delta)| sum.wrapping_add(*delta)))
    }
}
