//! What was set where: flags over environment over file over default.
//!
//! Decides precedence, and how a fault names its setting and where the value
//! came from. What a value means is `validate`'s business.

use super::file;
use super::settings::{OTHER_VARIABLES, SETTINGS, Setting, nearest, setting_named};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Environment,
    /// A line of the settings file.
    File {
        /// Which file.
        path: String,
        /// Which line, from 1.
        line: usize,
    },
    /// Nothing was set.
    Default,
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// The text.
    pub text: String,
    /// Where it stands.
    pub origin: Origin,
}

/// What is wrong with a setting, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting as it was written: `--lease`, `BASE_LEASE` or `lease`.
    pub setting: String,
    /// Where it was written.
    pub origin: Origin,
    /// What was written; `***` for secrets; nothing if nothing was.
    pub value: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub mend: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.setting)?;
        if let Some(value) = &self.value {
            write!(f, " = {value:?}")?;
        }
        match &self.origin {
            Origin::Flag => f.write_str(" (flag)")?,
            Origin::Environment => f.write_str(" (environment)")?,
            Origin::File { path, line } => write!(f, " ({path} line {line})")?,
            Origin::Default if self.value.is_none() => f.write_str(" (not set)")?,
            Origin::Default => f.write_str(" (default)")?,
        }
        write!(f, ": {}\n    mend: {}", self.problem, self.mend)
    }
}

impl std::error::Error for Fault {}

/// Everything that was set.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    values: BTreeMap<&'static str, Raw>,
    /// Variables that look like settings and are none: worth a warning.
    pub warnings: Vec<String>,
}

/// What a process was given, before anything is interpreted.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// `(name, text)` of each flag.
    pub flags: Vec<(&'static str, String)>,
    /// The environment; variables that do not begin with `BASE_` are ignored.
    pub environment: Vec<(String, String)>,
    /// The settings file's name and text, once read.
    pub file: Option<(PathBuf, String)>,
}

impl Sources {
    /// Joins what was given by precedence.
    ///
    /// # Errors
    /// Every [`Fault`] of the file, and variables of parts that this version
    /// does not have.
    pub fn gather(given: Given) -> Result<Self, Vec<Fault>> {
        let mut values = match &given.file {
            Some((path, text)) => file::parse(path, text)?,
            None => BTreeMap::new(),
        };
        let mut warnings = Vec::new();
        let mut faults = Vec::new();
        for (variable, text) in given.environment {
            if !variable.starts_with("BASE_") || OTHER_VARIABLES.contains(&variable.as_str()) {
                continue;
            }
            // A variable that is set to nothing is how compose files say "unset".
            if text.is_empty() {
                continue;
            }
            if variable.starts_with("BASE_PUBSUB") {
                faults.push(Fault {
                    setting: variable,
                    origin: Origin::Environment,
                    value: None,
                    problem: "campaigning through a broker is not in this version".into(),
                    mend: "unset it; peers talk to each other directly, without a broker".into(),
                });
            } else if let Some(setting) = SETTINGS.iter().find(|s| s.env() == variable) {
                values.insert(setting.name, Raw { text, origin: Origin::Environment });
            } else if !variable.starts_with("BASE_HA_") {
                let near = nearest(&variable, SETTINGS.iter().map(Setting::env));
                let hint = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
                warnings.push(format!("{variable} is set and is not a setting of base-ha{hint}"));
            }
        }
        for (name, text) in given.flags {
            values.insert(setting_named(name).name, Raw { text, origin: Origin::Flag });
        }
        if faults.is_empty() { Ok(Self { values, warnings }) } else { Err(faults) }
    }

    /// What holds for a setting: what was set, else its default; `None` if it
    /// was not set and has no default.
    pub fn get(&self, name: &'static str) -> Option<Raw> {
        let setting = setting_named(name);
        match self.values.get(name) {
            Some(raw) => Some(raw.clone()),
            None if setting.default.is_empty() => None,
            None => Some(Raw { text: setting.default.into(), origin: Origin::Default }),
        }
    }

    /// Whether it was set anywhere.
    pub fn is_set(&self, name: &'static str) -> bool {
        self.values.contains_key(name)
    }

    /// A fault of a setting, named the way it was written.
    pub fn fault(&self, name: &'static str, problem: impl Into<String>, mend: impl Into<String>) -> Fault {
        let setting = setting_named(name);
        let raw = self.get(name);
        let origin = raw.as_ref().map_or(Origin::Default, |raw| raw.origin.clone());
        let written = match &origin {
            Origin::Flag => setting.flag(),
            Origin::Environment => setting.env(),
            Origin::File { .. } => setting.key(),
            Origin::Default => format!("{} / {}", setting.flag(), setting.env()),
        };
        let value = raw.map(|raw| if setting.secret { "***".into() } else { raw.text });
        Fault { setting: written, origin, value, problem: problem.into(), mend: mend.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(flags: &[(&'static str, &str)], environment: &[(&str, &str)], file: &str) -> Given {
        Given {
            flags: flags.iter().map(|(n, t)| (*n, t.to_string())).collect(),
            environment: environment.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect(),
            file: Some(("base.toml".into(), file.to_string())),
        }
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let file = "http = \"f:1\"\nack = \"all\"\nlease = \"9s\"\n";
        let sources = Sources::gather(given(&[("http", "c:1")], &[("BASE_HTTP", "e:1"), ("BASE_ACK", "local")], file))
            .expect("legal");
        assert_eq!(sources.get("http"), Some(Raw { text: "c:1".into(), origin: Origin::Flag }));
        assert_eq!(sources.get("ack").map(|r| (r.text, r.origin)), Some(("local".into(), Origin::Environment)));
        assert_eq!(sources.get("lease").map(|r| r.text), Some("9s".into()));
        assert_eq!(sources.get("heartbeat").map(|r| (r.text, r.origin)), Some(("500ms".into(), Origin::Default)));
        assert_eq!(sources.get("peers"), None);
    }

    #[test]
    fn unknown_variables_warn_with_the_nearest_name() {
        let environment =
            [("BASE_PEER", "x"), ("BASE_URL", "x"), ("HOME", "x"), ("BASE_TOKEN", ""), ("BASE_ZZZZZZZZZ", "x")];
        let sources = Sources::gather(given(&[], &environment, "")).expect("legal");
        assert_eq!(sources.warnings.len(), 2, "{:?}", sources.warnings);
        assert!(sources.warnings[0].ends_with("did you mean BASE_PEERS?"), "{:?}", sources.warnings);
        assert!(!sources.is_set("token"), "an empty variable is an unset one");
    }

    #[test]
    fn broker_variables_are_refused_and_not_ignored() {
        let faults = Sources::gather(given(&[], &[("BASE_PUBSUB_URL", "nats://x")], "")).expect_err("no broker");
        assert!(faults[0].to_string().contains("BASE_PUBSUB_URL (environment): campaigning through a broker"));
    }

    #[test]
    fn faults_mask_secrets_and_name_the_place() {
        let sources = Sources::gather(given(&[("token", "hunter2")], &[], "lease = \"1ms\"\n")).expect("legal");
        let text = sources.fault("token", "it is too short", "make it longer").to_string();
        assert_eq!(text, "--token = \"***\" (flag): it is too short\n    mend: make it longer");
        let text = sources.fault("lease", "p", "m").to_string();
        assert!(text.starts_with("lease = \"1ms\" (base.toml line 1): p"), "{text}");
    }
}
