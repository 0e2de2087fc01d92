//! `base-ha status`: what every member of a cluster says of itself, joined
//! into one picture.
//!
//! Decides how `GET /_ha/status` is read and shown. What it means is the
//! node's business.

use super::client::Client;
use super::table;
use crate::config::Secret;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// What one node says, as far as a person wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name.
    pub id: String,
    /// Where it is reached.
    pub url: String,
    /// The cluster's name; empty before birth.
    pub cluster: String,
    /// Its part: `writer`, `follower`, ...
    pub part: String,
    /// The highest term it knows.
    pub term: u64,
    /// Who writes, as it sees it.
    pub writer: Option<String>,
    /// What its data contains.
    pub applied: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// Why it may not serve at all; nothing if it may.
    pub unfit: Option<String>,
    /// Why it is not ready, the weightiest reason first.
    pub reasons: Vec<String>,
    /// Writes that it keeps and that were never committed.
    pub conflicts: u64,
    /// The members it knows, in membership order.
    pub members: Vec<MemberView>,
}

/// One member, as another sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberView {
    /// Its name; nothing until it was heard once.
    pub id: Option<String>,
    /// Where it is reached.
    pub url: String,
    /// `voter`, `learner` or `witness`.
    pub role: String,
    /// Heard within the lease.
    pub up: bool,
}

impl NodeView {
    /// Reads the answer of `GET /_ha/status`.
    pub fn read(body: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_string);
        Some(Self {
            id: text(&body["node_id"])?,
            url: text(&body["url"]).unwrap_or_default(),
            // Before birth its number is zero.
            cluster: text(&body["cluster"]).filter(|id| id.bytes().any(|b| b != b'0')).unwrap_or_default(),
            part: text(&body["role"])?,
            term: body["term"].as_u64().unwrap_or_default(),
            writer: text(&body["writer"]["node_id"]),
            applied: body["applied"].as_u64().unwrap_or_default(),
            commit: body["commit"].as_u64().unwrap_or_default(),
            unfit: text(&body["unfit"]),
            reasons: body["reasons"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|reason| text(&reason["message"]))
                .collect(),
            conflicts: body["conflicts"].as_u64().unwrap_or_default(),
            members: body["members"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|member| MemberView {
                    id: text(&member["node_id"]),
                    url: text(&member["url"]).unwrap_or_default(),
                    role: text(&member["role"]).unwrap_or_default(),
                    up: member["up"].as_bool().unwrap_or_default(),
                })
                .collect(),
        })
    }

    /// The writer, if it was heard within the lease.
    fn live_writer(&self) -> Option<&str> {
        let writer = self.writer.as_deref()?;
        let silent = |member: &MemberView| member.id.as_deref() == Some(writer) && !member.up;
        (!self.members.iter().any(silent)).then_some(writer)
    }

    /// Asks a node.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub fn ask(client: &Client) -> Result<(Self, Value), String> {
        let answer = client.get("/_ha/status").map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(super::error_text(&answer));
        }
        let body = answer.json();
        let view = Self::read(&body).ok_or_else(|| "this is not the status of a base-ha node".to_string())?;
        Ok((view, body))
    }
}

/// One line of the picture.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) url: String,
    /// What it said, or why it did not.
    pub(super) view: Result<NodeView, String>,
}

/// The columns of the picture.
pub(super) const HEADER: [&str; 7] = ["NODE", "ROLE", "TERM", "POSITION", "LAG", "STATE", "URL"];

/// The cells of the picture, one row a node.
pub(super) fn cells(rows: &[Row]) -> Vec<Vec<String>> {
    let committed = rows.iter().filter_map(|row| row.view.as_ref().ok()).map(|view| view.commit).max().unwrap_or(0);
    rows.iter()
        .map(|row| match &row.view {
            Ok(view) => {
                let witness = view.part == "witness";
                let number = |n: u64| if witness { "-".to_string() } else { n.to_string() };
                vec![
                    row.name.clone(),
                    view.part.clone(),
                    view.term.to_string(),
                    number(view.applied),
                    number(committed.saturating_sub(view.applied)),
                    state(view),
                    row.url.clone(),
                ]
            }
            Err(why) => {
                let dash = || "-".to_string();
                vec![row.name.clone(), dash(), dash(), dash(), dash(), why.clone(), row.url.clone()]
            }
        })
        .collect()
}

fn state(view: &NodeView) -> String {
    match view.reasons.first() {
        Some(why) => why.clone(),
        None => "ready".into(),
    }
}

pub(super) fn run(client: &Client, raw: bool) -> ExitCode {
    let (first, body) = match NodeView::ask(client) {
        Ok(found) => found,
        Err(why) => {
            // Whoever answers, but not as it should, is there.
            let hint = match client.is_heard() {
                true => String::new(),
                false => format!("\n    is a node running at {}? --url names another", client.url()),
            };
            return super::fail(&format!("{why}{hint}"));
        }
    };
    let mut bodies = vec![body];
    let mut rows = Vec::new();
    for member in &first.members {
        let asked = if member.id.as_ref() == Some(&first.id) {
            Ok(first.clone())
        } else {
            other(client, &member.url).map(|(view, body)| {
                bodies.push(body);
                view
            })
        };
        let name = member.id.clone().unwrap_or_else(|| "(not heard yet)".into());
        rows.push(Row { name, url: member.url.clone(), view: asked });
    }
    // Before birth, or when it was removed, it is in no list; it was asked.
    if !first.members.iter().any(|member| member.id.as_ref() == Some(&first.id)) {
        rows.push(Row { name: first.id.clone(), url: first.url.clone(), view: Ok(first.clone()) });
    }
    if raw {
        super::say(&format!("{:#}", json!({ "nodes": bodies })));
    } else {
        super::say(&summary(&first));
        super::say("");
        for line in table::lines(&HEADER, &cells(&rows)) {
            super::say(&line);
        }
        forgotten(&rows).iter().for_each(|line| super::say(line));
    }
    if first.live_writer().is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A line for each node that keeps writes which are in nobody's data.
fn forgotten(rows: &[Row]) -> Vec<String> {
    let kept = rows.iter().filter_map(|row| Some((row, row.view.as_ref().ok()?.conflicts))).filter(|(_, n)| *n > 0);
    kept.map(|(row, n)| {
        let writes = if n == 1 { "1 write that was" } else { &format!("{n} writes that were") };
        format!("{} keeps {writes} never committed: GET {}/_ha/conflicts", row.name, row.url)
    })
    .collect()
}

fn other(client: &Client, url: &str) -> Result<(NodeView, Value), String> {
    let client = client.beside(url).map_err(|error| error.to_string())?.with_timeout(Duration::from_secs(2));
    // Why a connection failed would make the line long; that it failed is the news.
    if client.get("/healthz").is_err() {
        return Err("down".into());
    }
    NodeView::ask(&client)
}

/// The cluster in one line.
fn summary(view: &NodeView) -> String {
    if view.cluster.is_empty() {
        return format!("no cluster yet: a majority of the seats must be up for the first time (asked {})", view.id);
    }
    let voters = view.members.iter().filter(|m| m.role != "learner").count();
    let up = view.members.iter().filter(|m| m.role != "learner" && m.up).count();
    let quorum = voters / 2 + 1;
    let writer = match (view.live_writer(), &view.writer) {
        (Some(writer), _) => format!("{writer} writes in term {}", view.term),
        (None, Some(silent)) => format!("NO WRITER in term {}: {silent} was it, and is silent", view.term),
        (None, None) => format!("NO WRITER in term {}", view.term),
    };
    let short = view.cluster.get(..8).unwrap_or(&view.cluster);
    let health = match up {
        _ if up < quorum => format!("NO QUORUM: {up} of {voters} voters are up, {quorum} are needed"),
        _ if voters == 1 => "the only voter is up".to_owned(),
        _ if up == voters => format!("all {voters} voters are up"),
        _ => format!("{up} of {voters} voters are up, {} more may fail", up - quorum),
    };
    format!("cluster {short}: {writer}; {health}")
}

impl Client {
    /// A client of another node, with the same token.
    fn beside(&self, url: &str) -> Result<Self, super::client::ClientError> {
        let client = Self::new(url)?.with_token(self.token().map(Secret::new));
        Ok(match self.trust() {
            Some(trust) => client.with_trust(trust.clone()),
            None => client,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(commit: u64, applied: u64) -> NodeView {
        let member =
            |id: &str, up| MemberView { id: Some(id.into()), url: format!("http://{id}:1"), role: "voter".into(), up };
        NodeView {
            id: "a".into(),
            cluster: "0123456789abcdef".into(),
            part: "writer".into(),
            term: 4,
            writer: Some("a".into()),
            applied,
            commit,
            members: vec![member("a", true), member("b", true), member("c", false)],
            ..NodeView::default()
        }
    }

    #[test]
    fn the_summary_says_who_writes_and_what_may_still_fail() {
        let mut v = view(9, 9);
        assert_eq!(summary(&v), "cluster 01234567: a writes in term 4; 2 of 3 voters are up, 0 more may fail");
        v.writer = Some("c".into());
        assert!(summary(&v).contains("NO WRITER in term 4: c was it, and is silent; 2 of 3"), "{}", summary(&v));
        v.members[1].up = false;
        v.writer = None;
        assert!(summary(&v).contains("NO WRITER") && summary(&v).contains("NO QUORUM"), "{}", summary(&v));
        v.cluster.clear();
        assert!(summary(&v).starts_with("no cluster yet"));
    }

    #[test]
    fn forgotten_writes_are_mentioned_where_there_are_any() {
        let row = |name: &str, conflicts| {
            let view = NodeView { conflicts, ..view(9, 9) };
            Row { name: name.into(), url: format!("http://{name}:1"), view: Ok(view) }
        };
        let rows = [row("a", 0), row("b", 1), row("c", 3)];
        assert_eq!(
            forgotten(&rows),
            [
                "b keeps 1 write that was never committed: GET http://b:1/_ha/conflicts",
                "c keeps 3 writes that were never committed: GET http://c:1/_ha/conflicts",
            ]
        );
    }

    #[test]
    fn lag_is_counted_from_the_farthest_commit() {
        let row = |name: &str, view| Row { name: name.into(), url: String::new(), view };
        let rows = [row("a", Ok(view(9, 9))), row("b", Ok(view(7, 6))), row("c", Err("down".into()))];
        let cells = cells(&rows);
        assert_eq!((cells[0][4].as_str(), cells[1][4].as_str(), cells[2][4].as_str()), ("0", "3", "-"));
        assert_eq!(cells[2][5], "down");
    }
}
