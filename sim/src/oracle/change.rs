//! R10: memberships change one member at a time, each change after the one
//! before it and after an entry of the writer's own term are committed.

use super::Verdict;
use base_ha_core::ids::{Seq, Term};
use base_ha_core::member::Membership;

/// What a writer knows when it proposes a membership.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Its term.
    pub term: Term,
    /// Its commit index.
    pub commit: Seq,
    /// The term of the entry there; none at birth.
    pub commit_term: Option<Term>,
    /// The latest membership in its log, and where; none at birth.
    pub before: Option<(Seq, &'a Membership)>,
}

/// A writer appends `next`.
///
/// # Errors
/// If something before it is not settled, or more than one member differs.
pub fn is_one_step(at: &Standing<'_>, next: &Membership) -> Verdict {
    let Some((seq, before)) = at.before else {
        // The founding entry.
        return Ok(());
    };
    if seq > at.commit {
        return Err(format!("membership {} is proposed, {} at {seq} is not committed", next.version, before.version));
    }
    if at.commit_term != Some(at.term) {
        return Err(format!(
            "membership {} is proposed in term {} before anything of it is committed",
            next.version, at.term
        ));
    }
    if next.version != before.version.next() || next.cluster != before.cluster {
        return Err(format!("membership {} follows {}", next.version, before.version));
    }
    let gone = before.members.iter().filter(|m| !next.members.contains(m)).count();
    let come = next.members.iter().filter(|m| !before.members.contains(m)).count();
    if gone.max(come) <= 1 {
        return Ok(());
    }
    Err(format!("membership {} differs from {} in {gone} and {come} members", next.version, before.version))
}

#[cfg(test)]
mod tests {
    use super::super::test::three;
    use super::*;
    use base_ha_core::ids::ConfigVersion;
    use base_ha_core::member::Role;

    fn next(change: impl Fn(&mut Membership)) -> Membership {
        let mut membership = three();
        membership.version = ConfigVersion(membership.version.0 + 1);
        change(&mut membership);
        membership
    }

    #[test]
    fn changes_that_overlap_come_early_or_are_two_are_rejected() {
        let before = three();
        let at =
            Standing { term: Term(3), commit: Seq(9), commit_term: Some(Term(3)), before: Some((Seq(9), &before)) };
        let one = next(|m| m.members.truncate(2));
        assert!(is_one_step(&at, &one).is_ok());
        assert!(is_one_step(&Standing { commit: Seq(8), ..at }, &one).is_err(), "the one before is not committed");
        assert!(is_one_step(&Standing { commit_term: Some(Term(2)), ..at }, &one).is_err(), "nothing of its term is");
        assert!(is_one_step(&at, &next(|m| m.members.truncate(1))).is_err(), "two leave");
        let two = next(|m| m.members.iter_mut().take(2).for_each(|m| m.role = Role::Learner));
        assert!(is_one_step(&at, &two).is_err(), "two change");
        assert!(is_one_step(&at, &before).is_err(), "no new version");
        assert!(is_one_step(&Standing { before: None, ..at }, &before).is_ok(), "birth");
    }
}
