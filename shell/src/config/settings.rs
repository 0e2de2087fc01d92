//! The table of settings: one row a setting, from which flags, environment
//! variables, file keys, help texts, the README's table and the names in
//! error messages all come.
//!
//! Decides names, defaults and texts. What a value means is `validate`'s
//! business.

use std::fmt::Write;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The name in lower case with dashes, e.g. `node-id`; flag, variable and
    /// file key are derived from it.
    pub name: &'static str,
    /// What a value looks like, e.g. `HOST:PORT`.
    pub value: &'static str,
    /// The value used when nothing was set; empty for "none".
    pub default: &'static str,
    /// What happens when nothing was set and there is no fixed default.
    pub otherwise: &'static str,
    /// What it does, in a sentence or two.
    pub help: &'static str,
    /// Its value is never printed.
    pub secret: bool,
}

impl Setting {
    /// The flag, e.g. `--node-id`.
    pub fn flag(&self) -> String {
        format!("--{}", self.name)
    }

    /// The environment variable, e.g. `BASE_NODE_ID`.
    pub fn env(&self) -> String {
        format!("BASE_{}", self.name.replace('-', "_").to_ascii_uppercase())
    }

    /// The key in the file, e.g. `node_id`.
    pub fn key(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Whether the flag may stand without a value, meaning `true`.
    pub fn is_switch(&self) -> bool {
        self.value == SWITCH
    }

    /// The default as shown to people.
    pub fn shown_default(&self) -> &'static str {
        if self.default.is_empty() { self.otherwise } else { self.default }
    }
}

const SWITCH: &str = "true|false";

const fn setting(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    otherwise: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, value, default, otherwise, help, secret: false }
}

const fn secret(name: &'static str, value: &'static str, help: &'static str) -> Setting {
    Setting { name, value, default: "", otherwise: "none", help, secret: true }
}

/// Every setting of a node.
pub const SETTINGS: &[Setting] = &[
    setting("http", "HOST:PORT", "127.0.0.1:8090", "", "Where to listen, for clients and peers alike."),
    setting("dir", "DIR", "./base_data", "", "Where the data lives: data.db, log.db and the hard state."),
    setting(
        "node-id",
        "NAME",
        "",
        "made from the URL at the first start, then kept in the directory",
        "This node's name, 1-64 of [A-Za-z0-9._-]. The lowest name is preferred as writer.",
    ),
    setting(
        "local-target",
        "URL",
        "",
        "http://, with TLS https://, and the address listened on",
        "Where peers and redirected clients reach this node, http://host:port or https://host:port.",
    ),
    setting(
        "peers",
        "URL,...",
        "",
        "none: a cluster of one",
        "The seats of the cluster, separated by commas; this node's own URL may be among them. The same set on every node.",
    ),
    secret(
        "cluster-secret",
        "TEXT",
        "What peers prove to each other, at least 16 bytes. Two, separated by a comma, during a rotation: the first signs, both are accepted.",
    ),
    setting("cluster-secret-file", "FILE", "", "none", "Read the cluster secret from this file instead."),
    secret(
        "token",
        "TEXT",
        "The bearer token of clients and administrators, at least 16 bytes. Needed once the node listens beyond loopback.",
    ),
    setting("token-file", "FILE", "", "none", "Read the token from this file instead."),
    setting(
        "tls-cert",
        "FILE",
        "",
        "none: plain HTTP",
        "This node's certificate (PEM), the ones between it and its CA after it. Clients and peers are then spoken to by TLS only, and every URL begins with https://. A replaced file is used within a minute, or on SIGHUP.",
    ),
    setting("tls-key", "FILE", "", "none", "The private key of the certificate (PEM)."),
    setting(
        "tls-ca",
        "FILE",
        "",
        "none",
        "The cluster's CA (PEM; two during a rotation). Peers must show certificates that it signed, each made for the host of its node's URL; then the cluster secret may be left out. Needed where there are peers. Clients may show none.",
    ),
    setting("consensus", "quasar", "quasar", "", "How a writer is chosen. `pubsub` is not in this version."),
    setting(
        "quorum",
        "majority",
        "majority",
        "",
        "When a write is committed; fixed when the cluster is founded. `none` is not in this version.",
    ),
    setting("writers", "pinned", "pinned", "", "Who may write: one node at a time. `any` is not in this version."),
    setting(
        "ack",
        "local|majority|all",
        "majority",
        "",
        "When a write is answered, unless the request says otherwise by X-Base-Ack. It never changes when a write is committed.",
    ),
    setting("heartbeat", "DURATION", "500ms", "", "How often a writer is heard, 10ms to 60s. The same on every node."),
    setting(
        "lease",
        "DURATION",
        "",
        "3 x heartbeat",
        "After so much silence a writer is replaced; at least two heartbeats. The same on every node.",
    ),
    setting(
        "forward",
        "proxy|redirect",
        "proxy",
        "",
        "What a node that is not the writer does with a write: pass it on, or answer 307.",
    ),
    setting("static-writer", "URL", "", "none", "Only the member at this URL ever campaigns."),
    setting(
        "witness",
        SWITCH,
        "false",
        "",
        "This node stores the log and votes, but holds no data, serves no SQL and never writes.",
    ),
    setting(
        "admit",
        "auto|manual",
        "auto",
        "",
        "Whether a seat with a new disk or address, or a stranger with the secret, is admitted without an order.",
    ),
    setting(
        "bootstrap",
        SWITCH,
        "false",
        "",
        "Found a cluster alone, whatever the other seats say. For the first start of one node only.",
    ),
    setting("max-body", "SIZE", "10MiB", "", "Largest body of a request. A compressed one is refused (415)."),
    setting("max-answer", "SIZE", "64MiB", "", "Largest answer."),
    setting("max-statements", "COUNT", "1000", "", "Statements in one request."),
    setting("max-rows", "COUNT", "100000", "", "Rows of one result."),
    setting("statement-timeout", "DURATION", "30s", "", "How long the SQL of one request may run."),
    setting(
        "wait-timeout",
        "DURATION",
        "5s",
        "",
        "How long a write waits for a writer during an election, or for its turn at a busy one, and a read for its session's position.",
    ),
    setting(
        "ack-timeout",
        "DURATION",
        "15s",
        "",
        "How long a write waits for its acknowledgement, beyond the time that its SQL may run: a write is answered within statement-timeout and this of its arrival; with ack=all, within this once more.",
    ),
    setting(
        "allowed-hosts",
        "HOST,...",
        "",
        "none: loopback, this node's and the members' addresses",
        "More names under which clients reach this node, e.g. that of a load balancer; with a port, only at that port. Requests for any other Host are refused.",
    ),
    setting("max-connections", "COUNT", "4096", "", "Open client connections."),
    setting("max-queue", "COUNT", "8192", "", "Writes that wait for the store."),
    setting("header-timeout", "DURATION", "10s", "", "How long a request's header may take to arrive."),
    setting(
        "max-read-age",
        "DURATION",
        "60s",
        "",
        "The oldest read transaction, so that the write-ahead log can shrink.",
    ),
    setting("log-max-bytes", "SIZE", "1GiB", "", "How much log is kept for peers that lag."),
    setting("log-max-age", "DURATION", "72h", "", "How long log is kept for peers that lag."),
    setting("log-level", "FILTER", "info", "", "error, warn, info, debug or trace; or target=level,... directives."),
    setting("log-format", "text|json", "text", "", "How log lines are written to standard error."),
    setting(
        "superuser-email",
        "EMAIL",
        "",
        "none",
        "Refused: this version has no user administration. It is never ignored silently.",
    ),
    secret(
        "superuser-password",
        "TEXT",
        "Refused: this version has no user administration. It is never ignored silently.",
    ),
];

/// Variables that begin with `BASE_` and are not settings of a node: the file
/// itself, and what the client commands read.
pub const OTHER_VARIABLES: &[&str] = &["BASE_CONFIG", "BASE_URL"];

/// The row of that name.
///
/// # Panics
/// If there is none: the name is misspelt in this crate.
pub fn setting_named(name: &str) -> &'static Setting {
    SETTINGS.iter().find(|s| s.name == name).expect("a name from the table of settings")
}

/// The candidate that is nearest to `text`, if one is near enough to be meant.
pub fn nearest(text: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    let limit = (text.len() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (edits(text, &candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many single-byte edits lead from `a` to `b`.
fn edits(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The table as Markdown, as it stands in the README.
pub fn markdown() -> String {
    let mut out = String::from("| Flag | Variable | File key | Default | What it does |\n|---|---|---|---|---|\n");
    for s in SETTINGS {
        let default = if s.default.is_empty() { s.otherwise.to_string() } else { format!("`{}`", s.default) };
        let _ = writeln!(
            out,
            "| `{}` | `{}` | `{}` | {} | {} |",
            s.flag(),
            s.env(),
            s.key(),
            default,
            s.help.replace('|', "\\|")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_well_formed() {
        let names: BTreeSet<&str> = SETTINGS.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), SETTINGS.len());
        for s in SETTINGS {
            assert!(s.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", s.name);
            assert!(!s.help.is_empty() && s.help.ends_with('.'), "{}", s.name);
            assert!(!s.shown_default().is_empty(), "{} shows no default", s.name);
        }
        let node_id = setting_named("node-id");
        assert_eq!(
            (node_id.flag(), node_id.env(), node_id.key()),
            ("--node-id".into(), "BASE_NODE_ID".into(), "node_id".into())
        );
    }

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let names = || SETTINGS.iter().map(Setting::env);
        assert_eq!(nearest("BASE_PEER", names()), Some("BASE_PEERS".into()));
        assert_eq!(nearest("BASE_HEARBEAT", names()), Some("BASE_HEARTBEAT".into()));
        assert_eq!(nearest("BASE_SOMETHING_ELSE_ENTIRELY", names()), None);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
    }

    /// The README's table is this table: run with `UPDATE_README=1` to write it.
    #[test]
    fn the_readme_shows_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(path).expect("README.md");
        let (begin, end) = ("<!-- settings: begin -->\n", "<!-- settings: end -->");
        let (before, rest) = readme.split_once(begin).expect("the mark of the table's begin");
        let (table, after) = rest.split_once(end).expect("the mark of the table's end");
        if std::env::var_os("UPDATE_README").is_some() {
            std::fs::write(path, format!("{before}{begin}{}{end}{after}", markdown())).expect("README.md");
            return;
        }
        assert!(
            table == markdown(),
            "the README's settings table differs: run UPDATE_README=1 cargo test -p base-ha readme"
        );
    }
}
