//! `base-ha recover --new-cluster`: when a majority is lost for good.
//!
//! Decides what a person must say before it happens, and what they are told.
//! How it is done is the log's business.

use crate::config::validate::member_url;
use crate::config::{Limits, identity};
use crate::env::files::RealFiles;
use crate::env::real::RealEnv;
use crate::log::{self, LogLimits, RefoundSummary};
use crate::store;
use base_ha_core::ids::{NodeId, Url, join};
use base_ha_core::member::Membership;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The long help.
pub(super) const LONG_ABOUT: &str = "\
Found a new cluster on the data of a stopped node, when a majority is lost for good.

The node in DIR becomes the only member of a NEW cluster with everything that its own log holds. \
What only the lost nodes held is not in it: choose the surviving node with the highest position \
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
    /// Where the node is reached from now on, if not where it was
    #[arg(long, env = "BASE_LOCAL_TARGET", value_name = "URL")]
    local_target: Option<String>,
}

pub(super) fn run(args: &RecoverArgs) -> ExitCode {
    match recover(&args.dir, args.local_target.as_deref()) {
        Ok(summary) => {
            tell(&summary);
            ExitCode::SUCCESS
        }
        Err(problem) => super::fail(&format!("no new cluster was founded: {problem}")),
    }
}

fn recover(dir: &Path, url: Option<&str>) -> Result<RefoundSummary, String> {
    let shown = dir.display();
    // Opening makes what is missing; a mistyped path must not.
    let id = match identity::kept(&RealFiles, dir) {
        Ok(Some(id)) => id,
        Ok(None) => return Err(format!("{shown} is not the data directory of a node")),
        Err(error) => return Err(format!("{shown} can't be read: {error}")),
    };
    if !store::data_file(dir).exists() {
        return Err(format!("{shown} holds no data.db: a witness can't found a cluster alone"));
    }
    let env = RealEnv;
    // The log comes first: it holds the directory's lock, so that no node runs.
    let limits = LogLimits { bytes_max: u64::MAX, age_max: Duration::MAX };
    let log = log::open(env, dir, limits, |_| ()).map_err(|error| error.to_string())?;
    let data = store::open(env, dir, &Limits::default(), |_| ()).map_err(|error| error.to_string())?;
    let url = match url {
        Some(text) => member_url(text).map_err(|problem| format!("--local-target {text:?}: {problem}"))?,
        None => known_url(&id, data.membership.as_ref().map(|(_, membership)| membership))
            .ok_or("the data does not say where this node is reached: give --local-target")?,
    };
    log.refound(&id, &url, data.position, data.membership).map_err(|error| error.to_string())
}

fn known_url(id: &NodeId, membership: Option<&Membership>) -> Option<Url> {
    Some(membership?.get(id)?.url.clone())
}

fn tell(summary: &RefoundSummary) {
    super::say(&format!(
        "cluster {} goes on as cluster {} with everything up to entry {}",
        summary.old_cluster, summary.new_cluster, summary.kept.seq
    ));
    super::say("this node is its only member: start it, then add others with empty directories");
    if !summary.left_behind.is_empty() {
        super::say(&format!(
            "left behind, and never to be started with their old data again: {}",
            join(summary.left_behind.iter().map(|member| &member.url), ", ")
        ));
    }
}
