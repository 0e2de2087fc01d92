//! Who belongs to the cluster: a versioned value that lives in the log.
//!
//! Decides who votes, who serves SQL and how many make a quorum. Knows nothing
//! of who is alive.

use crate::ids::{ClusterId, ConfigVersion, Incarnation, Lineage, NodeId, Url};
use alloc::vec::Vec;

/// How writers are chosen and when an entry is committed; fixed at birth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum QuorumMode {
    /// One writer per term, committed by a majority of voters.
    Majority = 0,
    /// A writer on each side of a partition; merging (DESIGN 3).
    None = 1,
}

/// What a member may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Follows the log; counted in no quorum.
    Learner = 0,
    /// Votes, acknowledges, may become writer.
    Voter = 1,
    /// Votes and acknowledges like a voter and stores the log, but has no
    /// `data.db`, serves no SQL and never becomes writer.
    Witness = 2,
}

/// One seat.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Member {
    /// Where it is reached; unique in a membership.
    pub url: Url,
    /// Its name and incarnation; `None` for a seat that was listed at birth and
    /// has not been heard yet. It counts in the quorum's size and cannot vote.
    pub identity: Option<(NodeId, Incarnation)>,
    /// What it may do.
    pub role: Role,
    /// What it becomes once it has caught up and its hash is verified.
    pub target: Option<Role>,
}

/// The membership after one logged change.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Membership {
    /// Adds one with each change.
    pub version: ConfigVersion,
    /// The cluster's name.
    pub cluster: ClusterId,
    /// Its mode.
    pub mode: QuorumMode,
    /// Its history's number.
    pub lineage: Lineage,
    /// Its seats, sorted by URL.
    pub members: Vec<Member>,
}

impl Member {
    /// Whether it is counted in quorums.
    pub fn votes(&self) -> bool {
        match self.role {
            Role::Voter | Role::Witness => true,
            Role::Learner => false,
        }
    }

    /// Its name, once it was heard.
    pub fn id(&self) -> Option<&NodeId> {
        self.identity.as_ref().map(|(id, _)| id)
    }
}

impl Membership {
    /// The most members a cluster has; the codec refuses more.
    pub const MEMBERS_MAX: usize = 64;

    /// The seats counted in quorums, silent ones included.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.votes())
    }

    /// How many voters make a quorum: n/2 + 1.
    pub fn quorum(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// The member of that name.
    pub fn get(&self, id: &NodeId) -> Option<&Member> {
        self.members.iter().find(|m| m.id() == Some(id))
    }

    /// The member at that URL.
    pub fn at(&self, url: &Url) -> Option<&Member> {
        self.members.iter().find(|m| m.url == *url)
    }

    /// Whether that incarnation of that node is a member, in whatever role.
    pub fn admits(&self, id: &NodeId, incarnation: Incarnation) -> bool {
        self.members.iter().any(|m| m.identity.as_ref().is_some_and(|(i, n)| *n == incarnation && i == id))
    }

    /// Whether that incarnation of that node is counted in quorums.
    pub fn is_voter(&self, id: &NodeId, incarnation: Incarnation) -> bool {
        self.voters().any(|m| m.identity.as_ref().is_some_and(|(i, n)| *n == incarnation && i == id))
    }
}
