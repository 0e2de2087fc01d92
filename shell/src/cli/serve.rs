//! `base-ha serve`: one node, until it is told to stop.
//!
//! Decides what happens before the node's own loop takes over: settings,
//! directory, name, log lines.

use super::logging;
use crate::config::settings::{SETTINGS, Setting};
use crate::config::sources::{Fault, Given, Origin, Sources};
use crate::config::validate::{Settled, settle};
use crate::config::{Config, identity};
use crate::env::files::{RealFiles, make_dirs};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// The command line of a node: one flag a row of the settings table.
#[derive(Debug, Clone, Default)]
pub struct ServeArgs {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The flags that were given.
    pub flags: Vec<(&'static str, String)>,
    /// `--parent`: end with this process.
    pub parent: Option<i32>,
}

impl clap::Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("Read settings from this TOML file, one `key = \"value\"` a line [env: BASE_CONFIG]");
        let parent =
            Arg::new("parent").long("parent").value_name("PID").hide(true).value_parser(clap::value_parser!(i32));
        SETTINGS.iter().fold(command.arg(file).arg(parent), |command, s| command.arg(flag_of(s)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag_of(s: &'static Setting) -> Arg {
    let help = format!("{} [env: {}] [default: {}]", s.help.trim_end_matches('.'), s.env(), s.shown_default());
    let arg = Arg::new(s.name).long(s.name).value_name(s.value).help(help).action(ArgAction::Set);
    if s.is_switch() { arg.num_args(0..=1).require_equals(true).default_missing_value("true") } else { arg }
}

impl clap::FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<String>("config").map(PathBuf::from);
        self.parent = matches.get_one::<i32>("parent").copied();
        let text = |s: &Setting| matches.get_one::<String>(s.name).cloned();
        self.flags = SETTINGS.iter().filter_map(|s| Some((s.name, text(s)?))).collect();
        Ok(())
    }
}

/// Finds the settings of this process and checks them.
///
/// # Errors
/// Every fault found.
pub fn load(args: ServeArgs) -> Result<Settled, Vec<Fault>> {
    let mut environment = Vec::new();
    for (name, text) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("BASE_")) else { continue };
        match text.into_string() {
            Ok(text) => environment.push((name.to_string(), text)),
            Err(_) => {
                return Err(vec![Fault {
                    setting: name.into(),
                    origin: Origin::Environment,
                    value: None,
                    problem: "its value is not UTF-8".into(),
                    mend: "write it in UTF-8".into(),
                }]);
            }
        }
    }
    environment.sort();
    let by_flag = args.file.is_some();
    let named = environment.iter().find(|(n, t)| n == "BASE_CONFIG" && !t.is_empty()).map(|(_, t)| PathBuf::from(t));
    let file = match args.file.or(named) {
        None => None,
        Some(path) => match fs::read_to_string(&path) {
            Ok(text) => Some((path, text)),
            Err(error) => {
                return Err(vec![Fault {
                    setting: if by_flag { "--config".into() } else { "BASE_CONFIG".into() },
                    origin: if by_flag { Origin::Flag } else { Origin::Environment },
                    value: Some(path.display().to_string()),
                    problem: format!("this file can't be read: {error}"),
                    mend: "name a readable TOML file".into(),
                }]);
            }
        },
    };
    settle(&Sources::gather(Given { flags: args.flags, environment, file })?)
}

/// Runs a node until it stops.
pub(super) fn run(args: ServeArgs) -> ExitCode {
    if let Some(parent) = args.parent
        && let Err(error) = end_with(parent)
    {
        return super::fail(&format!("this process can't be tied to its parent {parent}: {error}"));
    }
    let settled = match load(args) {
        Ok(settled) => settled,
        Err(faults) => {
            for fault in faults {
                super::complain(&format!("base-ha: {fault}"));
            }
            return ExitCode::from(2);
        }
    };
    let config = settled.config;
    logging::start(&config.logging, &config.core.id);
    if let Err(error) = prepare(&config) {
        let place = config.dir.display();
        return super::fail(&format!(
            "the data directory {place} can't be used: {error}\n    mend: make it writable for this user, or choose another by --dir"
        ));
    }
    for note in settled.notes {
        tracing::info!("{note}");
    }
    for warning in settled.warnings {
        tracing::warn!("{warning}");
    }
    let dir = config.dir.clone();
    match crate::run::run_blocking(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.code {
            "log_damaged" | "data_corrupt" => super::fail(&format!(
                "{error}\n    mend: if other members live, move the whole directory {} away and start again: the node joins anew; if this was the only one, restore a backup",
                dir.display()
            )),
            _ => super::fail(&error.to_string()),
        },
    }
}

/// Makes the directory, for its owner only, and keeps the node's name there.
fn prepare(config: &Config) -> io::Result<()> {
    make_dirs(&RealFiles, &config.dir)?;
    identity::keep(&RealFiles, &config.dir, &config.core.id)
}

/// Has the kernel stop this process when its parent ends.
fn end_with(parent: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    // It may have ended before the line above: then nobody would tell us.
    match rustix::process::getppid() {
        Some(pid) if pid.as_raw_nonzero().get() == parent => Ok(()),
        _ => Err(io::Error::other("it has ended already")),
    }
}
