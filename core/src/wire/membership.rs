//! The membership as bytes: the payload of a `Config` entry, and part of a
//! snapshot's head.
//!
//! Decides its layout and re-checks names, addresses and order. Which changes
//! are legal is the node's business.

use super::buffer::{Reader, Writer};
use super::error::DecodeError;
use super::sealed::Seal;
use crate::ids::{ClusterId, ConfigVersion, Incarnation, Lineage};
use crate::member::{Member, Membership, QuorumMode, Role};
use alloc::vec::Vec;
use bytes::Bytes;

const SEAL: Seal = Seal { magic: *b"bHA\xc1", version: 1 };

/// A URL of one byte, no identity, a role, no target.
const MEMBER_MIN: usize = 1 + 1 + 1 + 1;

/// The longest encoded membership, in bytes.
pub(super) const MEMBERSHIP_MAX: usize = 64 << 10;

/// Writes a membership.
pub fn encode_membership(membership: &Membership) -> Bytes {
    let mut out = SEAL.begin(64 + 96 * membership.members.len());
    out.varint(membership.version.0);
    out.u128(membership.cluster.0);
    out.u8(membership.mode as u8);
    out.varint(membership.lineage.0);
    out.count(membership.members.len());
    for member in &membership.members {
        write_member(&mut out, member);
    }
    SEAL.finish(out)
}

/// Reads a membership.
///
/// # Errors
/// [`DecodeError`]: also for more than [`Membership::MEMBERS_MAX`] members,
/// illegal names or addresses, or members that are not sorted by URL.
pub fn decode_membership(payload: Bytes) -> Result<Membership, DecodeError> {
    let mut input = Reader::new(SEAL.open(&payload)?);
    let version = ConfigVersion(input.varint()?);
    let cluster = ClusterId(input.u128()?);
    let mode = match input.u8()? {
        0 => QuorumMode::Majority,
        1 => QuorumMode::None,
        got => {
            return Err(DecodeError::BadTag { what: "quorum mode", got });
        }
    };
    let lineage = Lineage(input.varint()?);
    let count = input.count("members", MEMBER_MIN, Membership::MEMBERS_MAX)?;
    let mut members: Vec<Member> = Vec::with_capacity(count);
    for _ in 0..count {
        let member = read_member(&mut input)?;
        if members.last().is_some_and(|last| last.url >= member.url) {
            return Err(DecodeError::Unordered { what: "members" });
        }
        members.push(member);
    }
    input.end()?;
    Ok(Membership { version, cluster, mode, lineage, members })
}

fn write_member(out: &mut Writer, member: &Member) {
    out.bytes(member.url.as_str().as_bytes());
    match &member.identity {
        None => out.u8(0),
        Some((id, incarnation)) => {
            out.u8(1);
            out.bytes(id.as_str().as_bytes());
            out.u128(incarnation.0);
        }
    }
    out.u8(member.role as u8);
    // 0 is "none", so a role is written as one more than itself.
    out.u8(member.target.map_or(0, |role| role as u8 + 1));
}

fn read_member(input: &mut Reader) -> Result<Member, DecodeError> {
    let url = input.url()?;
    let identity = if input.bool("identity")? { Some((input.node_id()?, Incarnation(input.u128()?))) } else { None };
    let role = role(input.u8()?)?;
    let target = match input.u8()? {
        0 => None,
        tag => Some(self::role(tag - 1)?),
    };
    Ok(Member { url, identity, role, target })
}

fn role(tag: u8) -> Result<Role, DecodeError> {
    match tag {
        0 => Ok(Role::Learner),
        1 => Ok(Role::Voter),
        2 => Ok(Role::Witness),
        got => Err(DecodeError::BadTag { what: "role", got }),
    }
}
