//! A membership as the payload of a log entry.
//!
//! Decides its bytes, version and bounds. Knows nothing of frames.
//!
//! Layout, little-endian: version byte 1, config version u64, cluster u128,
//! mode u8, lineage u64, member count u8, then per member: URL length u16 and
//! bytes, role u8, target u8 (255 = none), identity length u8 (0 = none) and
//! bytes, then the incarnation u128 if there is an identity.

use crate::ids::{ClusterId, ConfigVersion, Incarnation, Lineage, NodeId, Url};
use crate::member::{Member, Membership, QuorumMode, Role};
use alloc::vec::Vec;
use bytes::Bytes;

const VERSION: u8 = 1;
const NO_TARGET: u8 = 255;

/// Writes a membership.
pub fn encode(membership: &Membership) -> Bytes {
    assert!(
        membership.members.len() <= Membership::MEMBERS_MAX,
        "a membership beyond its bound must never be logged"
    );
    let mut out = Vec::with_capacity(64 + membership.members.len() * 64);
    out.push(VERSION);
    out.extend_from_slice(&membership.version.0.to_le_bytes());
    out.extend_from_slice(&membership.cluster.0.to_le_bytes());
    out.push(membership.mode as u8);
    out.extend_from_slice(&membership.lineage.0.to_le_bytes());
    out.push(membership.members.len() as u8);
    for member in &membership.members {
        let url = member.url.as_str().as_bytes();
        let length = u16::try_from(url.len()).expect("URLs have at most 512 bytes");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(url);
        out.push(member.role as u8);
        out.push(member.target.map_or(NO_TARGET, |role| role as u8));
        match &member.identity {
            None => out.push(0),
            Some((id, incarnation)) => {
                out.push(id.as_str().len() as u8);
                out.extend_from_slice(id.as_str().as_bytes());
                out.extend_from_slice(&incarnation.0.to_le_bytes());
            }
        }
    }
    Bytes::from(out)
}

/// Reads what [`encode`] wrote; `None` for anything else, trailing bytes,
/// unknown versions and repeated members included.
pub fn decode(bytes: &[u8]) -> Option<Membership> {
    let mut rest = bytes;
    if take::<1>(&mut rest)? != [VERSION] {
        return None;
    }
    let version = ConfigVersion(u64::from_le_bytes(take(&mut rest)?));
    let cluster = ClusterId(u128::from_le_bytes(take(&mut rest)?));
    let mode = match take::<1>(&mut rest)? {
        [0] => QuorumMode::Majority,
        [1] => QuorumMode::None,
        _ => return None,
    };
    let lineage = Lineage(u64::from_le_bytes(take(&mut rest)?));
    let [count] = take::<1>(&mut rest)?;
    if usize::from(count) > Membership::MEMBERS_MAX {
        return None;
    }
    let mut members: Vec<Member> = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let length = usize::from(u16::from_le_bytes(take(&mut rest)?));
        if length > Url::LENGTH_MAX {
            return None;
        }
        let url = Url::new(core::str::from_utf8(slice(&mut rest, length)?).ok()?);
        let [role] = take::<1>(&mut rest)?;
        let [target] = take::<1>(&mut rest)?;
        let [length] = take::<1>(&mut rest)?;
        let identity = if length == 0 {
            None
        } else {
            let text = core::str::from_utf8(slice(&mut rest, usize::from(length))?).ok()?;
            let id = NodeId::new(text).ok()?;
            Some((id, Incarnation(u128::from_le_bytes(take(&mut rest)?))))
        };
        let target = if target == NO_TARGET {
            None
        } else {
            Some(role_of(target)?)
        };
        let id = identity.as_ref().map(|(id, _)| id);
        if members
            .iter()
            .any(|m| m.url == url || (id.is_some() && m.id() == id))
        {
            return None;
        }
        members.push(Member {
            url,
            identity,
            role: role_of(role)?,
            target,
        });
    }
    rest.is_empty().then_some(Membership {
        version,
        cluster,
        mode,
        lineage,
        members,
    })
}

fn role_of(byte: u8) -> Option<Role> {
    match byte {
        0 => Some(Role::Learner),
        1 => Some(Role::Voter),
        2 => Some(Role::Witness),
        _ => None,
    }
}

fn slice<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    slice(rest, N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn sample() -> Membership {
        Membership {
            version: ConfigVersion(3),
            cluster: ClusterId(77),
            mode: QuorumMode::Majority,
            lineage: Lineage(1),
            members: vec![
                Member {
                    url: Url::new("http://a"),
                    identity: Some((NodeId::new("a").expect("legal"), Incarnation(5))),
                    role: Role::Voter,
                    target: None,
                },
                Member {
                    url: Url::new("http://b"),
                    identity: None,
                    role: Role::Learner,
                    target: Some(Role::Witness),
                },
            ],
        }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        assert_eq!(decode(&encode(&sample())), Some(sample()));
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_refused() {
        let whole = encode(&sample());
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length]), None);
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert_eq!(decode(&longer), None);
    }

    #[test]
    fn a_repeated_member_is_refused() {
        let mut twice = sample();
        twice.members[1] = twice.members[0].clone();
        assert_eq!(decode(&encode(&twice)), None);
    }
}
