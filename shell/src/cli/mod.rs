//! The command line: what a person types, and what a person is told.
//!
//! Decides commands, exit codes and texts. A node's own work begins in
//! [`crate::run`].

pub mod client;
mod cluster;
mod dev;
pub mod logging;
mod recover;
pub mod serve;
mod sql;
pub mod status;
mod table;
pub mod trust;

use crate::config::Secret;
use clap::{Args, Parser, Subcommand};
use client::{Answer, Client};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use trust::Trust;

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Parser)]
#[command(
    name = "base-ha",
    version,
    about = "One binary that turns SQLite into a highly available back-end",
    after_help = "Start here:\n  base-ha dev                 three nodes on this machine, to try it out\n  base-ha serve --help        one node, and every setting\n  base-ha status              what a cluster is doing",
    max_term_width = 110
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node until it is told to stop
    #[command(
        long_about = "Run one node until it is told to stop.\n\nEvery setting is a flag, a variable and a line of the settings file; a flag beats a variable, a variable beats the file.",
        after_help = "Examples:\n  base-ha serve --dir ./data\n  BASE_CLUSTER_SECRET_FILE=secret BASE_TOKEN_FILE=token \\\n    base-ha serve --http 10.0.0.1:8090 --node-id base-0 --dir ./data \\\n      --peers http://10.0.0.1:8090,http://10.0.0.2:8090,http://10.0.0.3:8090"
    )]
    Serve(serve::ServeArgs),
    /// Run a cluster on this machine, to try it out
    #[command(after_help = "Examples:\n  base-ha dev\n  base-ha dev --nodes 5 --port 9000 --dir /tmp/five --fresh")]
    Dev(dev::DevArgs),
    /// Show what a cluster is doing
    #[command(after_help = "Examples:\n  base-ha status\n  base-ha status --url http://10.0.0.2:8090 --json")]
    Status(StatusArgs),
    /// Run SQL: given statements, or lines from standard input
    #[command(
        after_help = "Examples:\n  base-ha sql \"SELECT * FROM notes\"\n  base-ha sql --url http://127.0.0.1:8091 < script.sql"
    )]
    Sql(SqlArgs),
    /// Manage the members of a cluster
    Cluster(cluster::ClusterArgs),
    /// Found a new cluster on the data of a stopped node, when a majority is lost for good
    #[command(
        long_about = recover::LONG_ABOUT,
        after_help = "Example:\n  base-ha recover --new-cluster --dir ./data"
    )]
    Recover(recover::RecoverArgs),
    /// Print the version
    Version,
}

/// Where to ask, and as whom.
#[derive(Args, Debug, Clone)]
pub(crate) struct Target {
    /// The node to talk to; any node of the cluster will do
    #[arg(long, global = true, env = "BASE_URL", default_value = "http://127.0.0.1:8090")]
    url: String,
    /// The bearer token
    #[arg(long, global = true, env = "BASE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Read the bearer token from this file
    #[arg(long, global = true, env = "BASE_TOKEN_FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// For https:// URLs: believe certificates that a CA of this PEM file signed, instead of those
    /// that this machine trusts
    #[arg(long, global = true, env = "BASE_TLS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// For https:// URLs: believe any certificate. Whoever is on the way can then read and change
    /// everything, the token included
    #[arg(long, global = true)]
    insecure: bool,
}

impl Target {
    fn client(&self) -> Result<Client, String> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) if !token.is_empty() => Some(token.clone()),
            (_, Some(file)) => Some(
                std::fs::read_to_string(file)
                    .map_err(|error| format!("{} can't be read: {error}", file.display()))?
                    .trim_end()
                    .to_string(),
            ),
            _ => None,
        };
        let trust = match (&self.ca, self.insecure) {
            (_, true) => Trust::Anybody,
            (Some(file), false) if !file.as_os_str().is_empty() => Trust::File(file.clone()),
            _ => Trust::Machine,
        };
        let client = Client::new(&self.url).map_err(|e| e.to_string())?;
        Ok(client.with_token(token.map(Secret::new)).with_trust(trust))
    }
}

#[derive(Args)]
struct StatusArgs {
    #[command(flatten)]
    target: Target,
    /// Print what each node says, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct SqlArgs {
    #[command(flatten)]
    target: Target,
    /// How results look
    #[arg(long, value_enum, default_value = "table")]
    mode: sql::Mode,
    /// Statements to run instead of reading standard input
    sql: Vec<String>,
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let with_client = |target: &Target, command: &dyn Fn(&Client) -> ExitCode| match target.client() {
        Ok(client) => command(&client),
        Err(problem) => fail(&problem),
    };
    match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Dev(args) => dev::run(&args),
        Command::Status(args) => with_client(&args.target, &|client| status::run(client, args.json)),
        Command::Sql(args) => with_client(&args.target, &|client| sql::run(client, args.mode, &args.sql)),
        Command::Cluster(args) => with_client(&args.target, &|client| cluster::run(client, &args.order)),
        Command::Recover(args) => recover::run(&args),
        Command::Version => {
            say(&format!("base-ha {VERSION} (SQLite {})", rusqlite::version()));
            ExitCode::SUCCESS
        }
    }
}

/// Prints a line to standard output; a reader that has gone is no error.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line to standard error.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says why this command failed.
fn fail(problem: &str) -> ExitCode {
    complain(&format!("base-ha: {problem}"));
    ExitCode::FAILURE
}

/// What an answer that is not a success says, for a person.
fn error_text(answer: &Answer) -> String {
    let body = answer.json();
    let code = body["code"].as_str().unwrap_or("no code");
    // What the node says of a header is of no use to who types flags.
    let mend = match answer.status {
        401 => "\n    mend: name the cluster's token by --token-file, --token, BASE_TOKEN_FILE or BASE_TOKEN",
        _ => "",
    };
    match body["message"].as_str() {
        Some(message) => format!("{message} ({code}, HTTP {}){mend}", answer.status),
        None => format!("HTTP {}: {}", answer.status, answer.text().trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_the_table_are_read() {
        let cli = Cli::try_parse_from(["base-ha", "serve", "--http", "127.0.0.1:1", "--witness", "--admit", "manual"]);
        let Ok(Cli { command: Command::Serve(args) }) = cli else { panic!("these flags are legal") };
        let flag = |name: &str| args.flags.iter().find(|(n, _)| *n == name).map(|(_, text)| text.as_str());
        assert_eq!((flag("http"), flag("witness"), flag("admit")), (Some("127.0.0.1:1"), Some("true"), Some("manual")));
        assert_eq!(flag("lease"), None);
        // The URL that an order is about is not that of the node that is told.
        for order in [&["add", "http://new:1"][..], &["promote", "http://new:1"], &["set-url", "b", "http://new:1"]] {
            let words = ["base-ha", "cluster"].iter().chain(order).chain(&["--url", "http://old:1"]);
            let Ok(Cli { command: Command::Cluster(args) }) = Cli::try_parse_from(words) else {
                panic!("{order:?} is legal");
            };
            assert_eq!(args.target.url, "http://old:1");
            assert!(matches!(
                args.order,
                cluster::Order::Add { url, .. } | cluster::Order::Promote { url } | cluster::Order::SetUrl { url, .. }
                    if url == "http://new:1"
            ));
        }
        assert!(Cli::try_parse_from(["base-ha", "serve", "--no-such-flag"]).is_err());
    }
}
