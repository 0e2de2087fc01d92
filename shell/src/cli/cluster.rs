//! `base-ha cluster`: an administrator's orders to a running cluster.
//!
//! Decides how an order is said over HTTP and what its end looks like. Any
//! node takes it and passes it on to the writer.

use super::client::{Client, ClientError};
use super::table;
use crate::config::validate::member_url;
use base_ha_core::ids::NodeId;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::process::ExitCode;

/// What `base-ha cluster` is told.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  base-ha cluster members\n  base-ha cluster add http://10.0.0.4:8090\n  base-ha cluster add http://10.0.0.5:8090 --as witness\n  base-ha cluster transfer --to base-1"
)]
pub(super) struct ClusterArgs {
    #[command(flatten)]
    pub(super) target: super::Target,
    #[command(subcommand)]
    pub(super) order: Order,
}

/// An order.
#[derive(Subcommand)]
pub(super) enum Order {
    /// List the members
    Members,
    /// Add a member; it is a learner until it has caught up
    Add {
        /// Where the new node is reached, http://host:port or https://host:port
        // An id of its own: `url` is the flag that names the node to talk to.
        #[arg(id = "member_url", value_name = "URL")]
        url: String,
        /// What it is to become once it has caught up
        #[arg(long = "as", value_enum, default_value = "voter")]
        role: NewRole,
    },
    /// Remove a member, whether it answers or not
    Remove {
        /// Its name or its URL
        member: String,
    },
    /// Make a learner a voter once it has caught up
    Promote {
        /// Its URL
        #[arg(id = "member_url", value_name = "URL")]
        url: String,
    },
    /// Hand the writer's part to another node; nothing is refused meanwhile
    Transfer {
        /// To whom; the best one if not given
        #[arg(long)]
        to: Option<String>,
    },
    /// Have the writer step down and not come back for one lease
    Stepdown,
    /// Tell the cluster that a member moved
    SetUrl {
        /// The member's name
        member: String,
        /// Where it is now
        #[arg(id = "member_url", value_name = "URL")]
        url: String,
    },
}

/// What a member is to become.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum NewRole {
    /// Stores everything, votes, may write
    Voter,
    /// Stores everything, does not vote
    Learner,
    /// Stores the log and votes
    Witness,
}

/// A request: method, path, body.
type Said = (&'static str, String, Value);

/// How an order is said over HTTP.
fn said(order: &Order) -> Result<Said, String> {
    let url =
        |text: &str| member_url(text).map(|url| url.to_string()).map_err(|problem| format!("{text:?}: {problem}"));
    let id = |text: &str| NodeId::new(text).map(|id| id.to_string()).map_err(|bad| format!("{text:?}: {bad}"));
    Ok(match order {
        // The status says of each member whether it is up; the bare membership can't.
        Order::Members => ("GET", "/_ha/status".into(), Value::Null),
        Order::Add { url: at, role } => {
            let role = match role {
                NewRole::Voter => "voter",
                NewRole::Learner => "learner",
                NewRole::Witness => "witness",
            };
            ("POST", "/_ha/members".into(), json!({"url": url(at)?, "role": role}))
        }
        Order::Promote { url: at } => ("POST", "/_ha/members".into(), json!({"url": url(at)?, "role": "voter"})),
        Order::Remove { member } if member.contains("://") => {
            ("POST", "/_ha/members/remove".into(), json!({"url": url(member)?}))
        }
        Order::Remove { member } => ("DELETE", format!("/_ha/members/{}", id(member)?), Value::Null),
        Order::Transfer { to: None } => ("POST", "/_ha/transfer".into(), json!({})),
        Order::Transfer { to: Some(to) } => ("POST", "/_ha/transfer".into(), json!({"to": id(to)?})),
        Order::Stepdown => ("POST", "/_ha/stepdown".into(), json!({})),
        Order::SetUrl { member, url: at } => {
            ("POST", format!("/_ha/members/{}/url", id(member)?), json!({"url": url(at)?}))
        }
    })
}

pub(super) fn run(client: &Client, order: &Order) -> ExitCode {
    let (method, path, body) = match said(order) {
        Ok(said) => said,
        Err(problem) => return super::fail(&problem),
    };
    let bytes = if body.is_null() { String::new() } else { body.to_string() };
    let answer = match client.request(method, &path, &[("Content-Type", "application/json")], bytes.as_bytes()) {
        Ok(answer) => answer,
        Err(error @ ClientError::Broken(..)) => {
            return super::fail(&format!(
                "{error}; the order may have been carried out: look at `base-ha cluster members`"
            ));
        }
        Err(error) => return super::fail(&error.to_string()),
    };
    if !(200..300).contains(&answer.status) {
        return super::fail(&super::error_text(&answer));
    }
    match order {
        Order::Members => {
            let body = answer.json();
            let rows: Vec<_> = body["members"].as_array().into_iter().flatten().map(row).collect();
            for line in table::lines(&["NODE", "ROLE", "UP", "URL"], &rows) {
                super::say(&line);
            }
        }
        _ => super::say(answer.json()["message"].as_str().unwrap_or("done")),
    }
    ExitCode::SUCCESS
}

fn row(member: &Value) -> Vec<String> {
    let text = |value: &Value, otherwise: &str| value.as_str().unwrap_or(otherwise).to_string();
    let up = match member["up"].as_bool() {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    vec![text(&member["node_id"], "(not heard yet)"), text(&member["role"], "-"), up.into(), text(&member["url"], "-")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_said_as_the_nodes_understand_them() {
        let add = said(&Order::Add { url: "http://h:1/".into(), role: NewRole::Witness }).expect("legal");
        assert_eq!(add, ("POST", "/_ha/members".into(), json!({"url": "http://h:1", "role": "witness"})));
        let remove = said(&Order::Remove { member: "base-1".into() }).expect("legal");
        assert_eq!(remove, ("DELETE", "/_ha/members/base-1".into(), Value::Null));
        let remove = said(&Order::Remove { member: "http://h:1".into() }).expect("legal");
        assert_eq!(remove.1, "/_ha/members/remove");
        assert!(said(&Order::Remove { member: "a/../b".into() }).is_err(), "a name never leaves its part of the path");
        assert!(said(&Order::Add { url: "h:1".into(), role: NewRole::Voter }).is_err());
    }
}
