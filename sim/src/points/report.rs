//! What an enumeration came to.

use std::collections::BTreeMap;
use std::fmt;

/// Figures and failures.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Points at which the power went.
    pub points: u64,
    /// Recoveries that held, over all fates.
    pub recoveries: u64,
    /// Crashes in the middle of a recovery.
    pub nested: u64,
    /// Errors at which the process ended.
    pub errors_ended: u64,
    /// Errors with which it went on.
    pub errors_survived: u64,
    /// What became of damage that no call reported, by its kind.
    pub rot: BTreeMap<(&'static str, &'static str), u64>,
    /// What must not be.
    pub failures: Vec<Failure>,
}

/// A point at which something did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Where.
    pub scenario: &'static str,
    /// What was done.
    pub what: String,
    /// At which operation.
    pub at: u64,
    /// What did not hold.
    pub why: String,
}

/// What silent damage came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Everything is as it was.
    Harmless,
    /// The start is refused, or the process ends.
    Refused,
    /// Amnesia: the node learns again.
    Amnesia,
    /// `data.db` is set aside and made anew, from the log or a member.
    MadeAnew,
    /// Rows differ, and the scrub sees it.
    Scrubbed,
    /// Rows are right; SQLite's own check sees damage.
    Structure,
    /// The log ends earlier, before its high-water mark was noted.
    TailLost,
    /// Something is wrong and nothing sees it.
    Silent(String),
}

impl Rest {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Harmless => "harmless",
            Self::Refused => "refused",
            Self::Amnesia => "amnesia",
            Self::MadeAnew => "data.db made anew",
            Self::Scrubbed => "seen by the scrub",
            Self::Structure => "seen by integrity_check only",
            Self::TailLost => "log tail beyond its mark lost",
            Self::Silent(_) => "SILENT",
        }
    }
}

impl Report {
    pub(super) fn note_rot(&mut self, kind: &'static str, rest: &Rest) {
        *self.rot.entry((kind, rest.name())).or_default() += 1;
    }

    /// Adds another's figures.
    pub(super) fn add(&mut self, other: Self) {
        self.points += other.points;
        self.recoveries += other.recoveries;
        self.nested += other.nested;
        self.errors_ended += other.errors_ended;
        self.errors_survived += other.errors_survived;
        for (name, count) in other.rot {
            *self.rot.entry(name).or_default() += count;
        }
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in self.failures.iter().take(20) {
            writeln!(f, "FAILED: {}, {} (operation {}): {}", failure.scenario, failure.what, failure.at, failure.why)?;
            writeln!(
                f,
                "repeat: cargo run -p base-ha-sim -- --crash-points --only {} --at {}",
                failure.scenario, failure.at
            )?;
        }
        writeln!(
            f,
            "{} crash points, {} recoveries held, {} crashes during a recovery; errors: {} ended the process, {} did not",
            self.points, self.recoveries, self.nested, self.errors_ended, self.errors_survived
        )?;
        let mut kind = "";
        for ((of, name), count) in &self.rot {
            let (begin, end) = if *of == kind { (", ", "") } else { ("", ": ") };
            if !end.is_empty() && !kind.is_empty() {
                writeln!(f)?;
            }
            write!(f, "{begin}{}{end}{count} {name}", if end.is_empty() { "" } else { of })?;
            kind = of;
        }
        if !kind.is_empty() {
            writeln!(f)?;
        }
        write!(f, "{} failures", self.failures.len())
    }
}
