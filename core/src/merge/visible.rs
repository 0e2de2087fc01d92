//! Which rows are seen where not all of them can be.
//!
//! Decides it from the whole set of rows: of rows that claim one UNIQUE value
//! the latest is seen, and a row whose parent is not seen is not seen. A row
//! that is not seen is kept; it is back when the value is released, or the
//! parent is. Nothing is decided by order of arrival: to delete the loser when
//! it comes makes A(u=1), B(u=1), B'(u=2) end without A on a node that hears
//! them in this order, and with A on one that hears B' first.
//!
//! This is the definition. Whoever keeps it up to date row by row must come to
//! the same.

use super::Stamp;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use bytes::Bytes;

/// A value that only one row may have, or a row that others point to: the
/// index's or the parent table's number, and the key's canonical bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Claim {
    /// Which index, or which table.
    pub of: u32,
    /// The value.
    pub key: Bytes,
}

/// What one live row needs in order to be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// The latest stamp in it: who claims a value last has it.
    pub stamp: Stamp,
    /// UNIQUE values it claims; none where a column of the index is NULL.
    pub unique: Vec<Claim>,
    /// Rows that must be seen; none where a column of the key is NULL.
    pub parents: Vec<Claim>,
}

/// The rows that are seen, of all live ones by their own table and key.
pub fn visible(rows: &BTreeMap<Claim, Claims>) -> BTreeSet<Claim> {
    let mut candidates: BTreeSet<&Claim> = rows.keys().collect();
    loop {
        let seen = unique(rows, &candidates);
        let orphans = orphans(rows, &seen);
        if orphans.is_empty() {
            return seen.into_iter().cloned().collect();
        }
        // An orphan claims nothing: it may have kept another row's value. That
        // row may then take a parent's value from it, so it is asked again; the
        // set shrinks, and this ends.
        candidates.retain(|row| !orphans.contains(row));
    }
}

/// The latest first, each that finds its values free.
fn unique<'a>(rows: &'a BTreeMap<Claim, Claims>, candidates: &BTreeSet<&'a Claim>) -> BTreeSet<&'a Claim> {
    let mut order: Vec<(&Stamp, &Claim)> =
        candidates.iter().filter_map(|row| Some((&rows.get(*row)?.stamp, *row))).collect();
    // Rows of one entry have one stamp; their keys order them.
    order.sort_unstable_by(|a, b| b.cmp(a));
    let mut taken: BTreeSet<&Claim> = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (_, row) in order {
        let Some(claims) = rows.get(row) else { continue };
        if claims.unique.iter().any(|claim| taken.contains(claim)) {
            continue;
        }
        taken.extend(&claims.unique);
        seen.insert(row);
    }
    seen
}

/// Rows whose parent is not seen, and theirs in turn. Rows that point to each
/// other hold each other up.
fn orphans<'a>(rows: &'a BTreeMap<Claim, Claims>, seen: &BTreeSet<&'a Claim>) -> BTreeSet<&'a Claim> {
    let mut orphans = BTreeSet::new();
    loop {
        let before = orphans.len();
        for row in seen {
            let parents = rows.get(*row).map(|claims| claims.parents.as_slice()).unwrap_or_default();
            if parents.iter().any(|parent| !seen.contains(parent) || orphans.contains(parent)) {
                orphans.insert(*row);
            }
        }
        if orphans.len() == before {
            return orphans;
        }
    }
}
