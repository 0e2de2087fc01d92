//! `base-ha recover --new-cluster`: when a majority is lost for good.
//!
//! Decides what a person must say before it happens, and what they are told.
//! How it is done is the log's business.

use std::path::PathBuf;
use std::process::ExitCode;

/// The long help.
pub(super) const LONG_ABOUT: &str = "\
Found a new cluster on the data of a stopped node, when a majority is lost for good.

The node in DIR becomes the only member of a NEW cluster with everything that its own log holds. \
What only the lost nodes had acknowledged together is not in it: choose the surviving node with the highest position \
(`base-ha status` of each). Nodes of the old cluster are strangers to the new one: give them empty directories before \
they join. Never do this while a majority of the old cluster may still come back.";

/// What it is told.
#[derive(clap::Args)]
pub(super) struct RecoverArgs {
    /// Say that a new cluster is meant
    #[arg(long, required = true)]
    new_cluster: bool,
    /// The data directory of the stopped node
    #[arg(long, env = "BASE_DIR")]
    dir: PathBuf,
}

pub(super) fn run(args: &RecoverArgs) -> ExitCode {
    if !args.dir.join(crate::config::identity::FILE).exists() {
        return super::fail(&format!("{} is not the data directory of a node", args.dir.display()));
    }
    match crate::log::refound(&args.dir) {
        Ok(done) => {
            super::say(&done.to_string());
            ExitCode::SUCCESS
        }
        Err(error) => super::fail(&format!("no new cluster was founded: {error}")),
    }
}
