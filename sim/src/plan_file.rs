//! A plan as a file: what it found, and in which format it is written.
//!
//! Decides which files are read. A plan means the same run only as long as its
//! fields do, so a file of another format is refused instead of being run as
//! something else.

use crate::plan::Plan;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// The present format. It rises whenever a plan's fields are added, removed or
/// come to mean something else.
pub const FORMAT: u64 = 3;

/// A file's contents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// [`FORMAT`], when it was written.
    pub format: u64,
    /// What the plan found, in a sentence.
    pub found: String,
    /// The plan.
    pub plan: Plan,
}

/// Why a file is not read.
#[derive(Debug)]
pub enum PlanError {
    /// It could not be opened.
    File(std::io::Error),
    /// It is of another format, or of none.
    Format(Option<u64>),
    /// It is not what its format says.
    Contents(serde_json::Error),
}

impl PlanFile {
    /// A file of this plan.
    pub fn new(plan: &Plan, found: impl Into<String>) -> Self {
        Self { format: FORMAT, found: found.into(), plan: plan.clone() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`PlanError`] says what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        Self::parse(&std::fs::read_to_string(path).map_err(PlanError::File)?)
    }

    fn parse(text: &str) -> Result<Self, PlanError> {
        let data: serde_json::Value = serde_json::from_str(text).map_err(PlanError::Contents)?;
        match data.get("format").and_then(serde_json::Value::as_u64) {
            Some(FORMAT) => serde_json::from_value(data).map_err(PlanError::Contents),
            other => Err(PlanError::Format(other)),
        }
    }

    /// Writes a file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, format!("{}\n", self.text()))
    }

    /// The file's text.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan is plain data")
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Format(None) => write!(f, "not a plan's file: it does not say its format"),
            Self::Format(Some(format)) => write!(
                f,
                "a plan of format {format}, this simulator reads format {FORMAT}: run it at its own commit, or make it again from its seed"
            ),
            Self::Contents(error) => write!(f, "not a plan of format {FORMAT}: {error}"),
        }
    }
}

impl std::error::Error for PlanError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_being_written_down() {
        for seed in 0..50 {
            let file = PlanFile::new(&Plan::from_seed(seed), "nothing");
            assert_eq!(PlanFile::parse(&file.text()).expect("what was written"), file);
        }
    }

    #[test]
    fn another_format_or_field_is_refused_with_the_reason() {
        let good = PlanFile::new(&Plan::from_seed(1), "nothing").text();
        let error = |text: &str| PlanFile::parse(text).expect_err("a bad file").to_string();
        let old = good.replacen(&format!("\"format\": {FORMAT}"), "\"format\": 1", 1);
        assert!(error(&old).contains("format 1, this simulator reads"), "{}", error(&old));
        let plain = serde_json::to_string(&Plan::from_seed(1)).expect("plain data");
        assert!(error(&plain).contains("does not say its format"));
        let more = good.replacen("\"seats\"", "\"stools\": 3, \"seats\"", 1);
        assert!(error(&more).contains("stools"), "{}", error(&more));
        assert!(error("{").contains("not a plan"));
    }
}
