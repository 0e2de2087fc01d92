//! O9: an answer means what it says. "Done" is in the log at that place, "not
//! done" never happens unless it is asked for again, "not known" is either.

use super::Verdict;
use base_ha_core::changeset::RequestId;
use base_ha_core::ids::Seq;
use std::collections::BTreeMap;

/// What a request's client knows.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Attempts without an answer.
    open: u32,
    /// Some attempt may have been done.
    unknown: bool,
    done: Option<Seq>,
}

/// What was asked for and answered.
#[derive(Debug, Default)]
pub struct Outcomes {
    known: BTreeMap<RequestId, Known>,
    applied: BTreeMap<RequestId, Seq>,
}

impl Outcomes {
    /// A client asks for something, for the first time or again.
    pub fn asked(&mut self, request: RequestId) {
        self.known.entry(request).or_default().open += 1;
    }

    /// "Certainly not done", of one attempt.
    ///
    /// # Errors
    /// If it was done, and no other attempt explains it.
    pub fn refused(&mut self, request: RequestId) -> Verdict {
        let known = self.known.entry(request).or_default();
        known.open = known.open.saturating_sub(1);
        if let Some(at) =
            self.applied.get(&request).filter(|_| !known.unknown && known.open == 0 && known.done.is_none())
        {
            return Err(format!("{request:?} is said to be certainly not done, it is applied at {at}"));
        }
        Ok(())
    }

    /// "Not known", of one attempt; or there was no answer at all.
    pub fn unknown(&mut self, request: RequestId) {
        let known = self.known.entry(request).or_default();
        known.open = known.open.saturating_sub(1);
        known.unknown = true;
    }

    /// "Done", as the entry at `at`.
    ///
    /// # Errors
    /// If it was done elsewhere.
    pub fn done(&mut self, request: RequestId, at: Seq) -> Verdict {
        let known = self.known.entry(request).or_default();
        known.open = known.open.saturating_sub(1);
        known.done = Some(at);
        match self.applied.get(&request) {
            Some(place) if *place != at => Err(format!("{request:?} is answered as {at}, it is applied at {place}")),
            Some(_) | None => Ok(()),
        }
    }

    /// A node applies a request.
    ///
    /// # Errors
    /// If nobody asks for it any more, or it was answered as done elsewhere.
    pub fn applied(&mut self, request: RequestId, at: Seq) -> Verdict {
        self.applied.entry(request).or_insert(at);
        let known = self.known.get(&request).copied().unwrap_or_default();
        match known.done {
            Some(place) if place != at => Err(format!("{request:?} is applied at {at}, it was answered as {place}")),
            Some(_) => Ok(()),
            None if known.unknown || known.open > 0 => Ok(()),
            None => Err(format!("{request:?} is applied at {at}, its client was told that it is certainly not done")),
        }
    }

    /// Where a request was applied, if it was.
    pub fn place(&self, request: RequestId) -> Option<Seq> {
        self.applied.get(&request).copied()
    }

    /// All is still and everybody has applied everything: what was answered as
    /// done is there.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn settled(&self) -> Verdict {
        for (request, known) in &self.known {
            if let Some(at) = known.done.filter(|at| self.applied.get(request) != Some(at)) {
                return Err(format!("{request:?} was answered as {at} and is in nobody's data"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RequestId = RequestId(1);

    fn asked() -> Outcomes {
        let mut oracle = Outcomes::default();
        oracle.asked(A);
        oracle
    }

    #[test]
    fn what_was_certainly_not_done_and_appears_is_rejected() {
        let mut oracle = asked();
        assert!(oracle.refused(A).is_ok());
        assert!(oracle.applied(A, Seq(3)).is_err());
        let mut oracle = asked();
        assert!(oracle.applied(A, Seq(3)).is_ok());
        assert!(oracle.refused(A).is_err());
    }

    #[test]
    fn an_earlier_attempt_without_an_answer_explains_it() {
        let mut oracle = asked();
        oracle.unknown(A);
        oracle.asked(A);
        assert!(oracle.refused(A).is_ok());
        assert!(oracle.applied(A, Seq(3)).is_ok());
    }

    #[test]
    fn done_elsewhere_or_nowhere_is_rejected() {
        let mut oracle = asked();
        assert!(oracle.done(A, Seq(3)).is_ok());
        assert!(oracle.settled().is_err(), "nobody has it");
        assert!(oracle.applied(A, Seq(4)).is_err());
        let mut oracle = asked();
        assert!(oracle.done(A, Seq(3)).is_ok());
        assert!(oracle.applied(A, Seq(3)).is_ok());
        assert!(oracle.settled().is_ok());
        assert!(oracle.done(A, Seq(4)).is_err());
    }
}
