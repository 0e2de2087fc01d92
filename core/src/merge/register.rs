//! One row's versions that nobody has replaced yet.
//!
//! Decides which versions still count and which of them is seen. A version
//! says what its writer had applied, so it is known what it replaces: not what
//! is older, but what its writer had seen. Two that had not seen each other
//! stand side by side until someone who saw both writes again; what is seen
//! meanwhile is a function of the set that is left. Knows one row only.
//!
//! Keeping only the winner would do for `lww`. It would not for a preferred
//! origin: let A be preferred to C and C to B, let B replace A's version and C
//! write beside both. Who hears A, B, C keeps C's; who hears C, A, B has let
//! C's go for A's when B's replaces that, and keeps B's. (Found by hand; it is
//! a test.)

use super::Stamp;
use crate::changeset::Value;
use crate::ids::{NodeId, Seq, StreamId};
use crate::position::Positions;
use alloc::vec::Vec;

/// The entry that brought a version: a writer's stream and the place in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dot {
    /// The writer's stream.
    pub stream: StreamId,
    /// The entry in it.
    pub seq: Seq,
}

/// What one entry says of one row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// Which entry says it.
    pub dot: Dot,
    /// What its writer had applied of every stream, its own included up to the
    /// entry before.
    pub after: Positions,
    /// When it was made.
    pub stamp: Stamp,
    /// The row's columns, each with the stamp of the write that last changed
    /// it; `None` if the row was deleted.
    pub row: Option<Vec<(Stamp, Value)>>,
}

/// How the version that is seen is chosen (`BASE_CONFLICT`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// `lww`: the latest version, whole.
    Latest,
    /// `lww-field`: of each column the latest value. A deletion hides the row
    /// unless some column was changed later.
    LatestField,
    /// `origin:<node,...>`: the version of the node that comes first in this
    /// list, then of those not in it; among equals the latest.
    Origin(Vec<NodeId>),
}

/// What is seen of a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Its columns, as in [`Version::row`]; `None` if it is deleted.
    pub row: Option<Vec<(Stamp, Value)>>,
    /// The latest stamp in it, or that of the deletion.
    pub stamp: Stamp,
    /// Versions of which something is not seen: what `_ha_conflicts` tells.
    pub lost: Vec<Dot>,
}

/// One entry, or one stamp, names two different things: whoever sent it must
/// be quarantined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contradiction {
    /// The entry that came later.
    pub dot: Dot,
}

/// The versions that count, by their entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Register {
    versions: Vec<Version>,
}

impl Version {
    /// Whether the writer of this version had seen that one.
    pub fn replaces(&self, other: &Self) -> bool {
        self.dot != other.dot && self.after.get(&other.dot.stream).is_some_and(|seq| *seq >= other.dot.seq)
    }
}

impl Register {
    /// Adds a version. Commutative, associative and idempotent, given that
    /// whoever had seen a version had seen what that one's writer had.
    /// True if anything changed.
    ///
    /// # Errors
    /// [`Contradiction`]; nothing has changed then.
    pub fn join(&mut self, version: Version) -> Result<bool, Contradiction> {
        for held in &self.versions {
            let same = held.dot == version.dot;
            if same && *held == version {
                return Ok(false);
            }
            if same || held.stamp == version.stamp {
                return Err(Contradiction { dot: version.dot });
            }
        }
        if self.versions.iter().any(|held| held.replaces(&version)) {
            return Ok(false);
        }
        self.versions.retain(|held| !version.replaces(held));
        let at = self.versions.partition_point(|held| held.dot < version.dot);
        self.versions.insert(at, version);
        Ok(true)
    }

    /// The versions side by side, by their entries.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// Whether somebody's write is not seen.
    pub fn is_contended(&self) -> bool {
        self.versions.len() > 1
    }

    /// What is seen; `None` where there is no version at all.
    pub fn seen(&self, rule: &Rule) -> Option<Seen> {
        match rule {
            Rule::Latest => self.whole(|version| (0, &version.stamp)),
            Rule::Origin(preferred) => self.whole(|version| {
                let rank = preferred.iter().position(|node| *node == version.stamp.node);
                (preferred.len() - rank.unwrap_or(preferred.len()), &version.stamp)
            }),
            Rule::LatestField => self.fields(),
        }
    }

    fn whole<'a>(&'a self, order: impl Fn(&'a Version) -> (usize, &'a Stamp)) -> Option<Seen> {
        let winner = self.versions.iter().max_by_key(|version| order(version))?;
        let lost = self.versions.iter().map(|v| v.dot).filter(|dot| *dot != winner.dot).collect();
        Some(Seen { row: winner.row.clone(), stamp: winner.stamp.clone(), lost })
    }

    fn fields(&self) -> Option<Seen> {
        let latest = self.versions.iter().map(|v| &v.stamp).max()?;
        let deleted = self.versions.iter().filter(|v| v.row.is_none()).map(|v| &v.stamp).max();
        let rows: Vec<&Vec<(Stamp, Value)>> = self.versions.iter().filter_map(|v| v.row.as_ref()).collect();
        // A version of an older schema has fewer columns; those it lacks are
        // said by nobody there.
        let width = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let merged: Vec<(Stamp, Value)> = (0..width)
            .filter_map(|n| rows.iter().filter_map(|row| row.get(n)).max_by_key(|(stamp, _)| stamp).cloned())
            .collect();
        let changed = merged.iter().map(|(stamp, _)| stamp).max();
        if changed.is_none() || deleted.is_some_and(|deleted| changed.is_some_and(|changed| deleted > changed)) {
            let stamp = deleted.unwrap_or(latest).clone();
            let lost = self.versions.iter().filter(|v| v.row.is_some()).map(|v| v.dot).collect();
            return Some(Seen { row: None, stamp, lost });
        }
        // A deletion that did not hide the row is lost, and so is a version of
        // which a column that it changed is not the one that is seen.
        let seen = |version: &Version| match &version.row {
            None => false,
            Some(row) => row.iter().zip(&merged).all(|(own, seen)| own.0 != version.stamp || own == seen),
        };
        let lost = self.versions.iter().filter(|v| !seen(v)).map(|v| v.dot).collect();
        Some(Seen { stamp: latest.clone(), row: Some(merged), lost })
    }
}
