//! Every family of `/metrics` can move: most of them here, on three nodes at
//! work; the others where the party that counts them is tested.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// Families that this test does not move: the text of a file of tests, the
/// test that moves them there, and what it asks for.
const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    ("divergences", EVENT, "what_an_operator_must_look_at_is_counted", "divergences"),
    ("frames_refused", BUS, "a_wrong_secret_is_refused", "frames_refused"),
    ("groups_rolled_back", GROUPS, "unknown_is_rolled_back_and_later_applied_exactly_once", "groups_rolled_back"),
    (
        "http_connections_shed",
        CONNECTIONS,
        "too_many_connections_are_told_so_and_peers_still_get_in",
        "connections_shed",
    ),
    ("http_outcomes_unknown", WRITES, "timeout_is_unknown", "http.unknown"),
    ("http_unauthorized", AUTHORIZE, "authz_matrix", "unauthorized"),
    ("lag_entries", METRICS, "a_scrape_shows_what_was_counted", "base_ha_lag_entries"),
    ("orphans", LOG, "a_forgotten_suffix_is_kept_as_orphans", "orphans()"),
    ("orphans_bytes", LOG, "a_forgotten_suffix_is_kept_as_orphans", "orphan_bytes()"),
    ("reads_shed", READS, "too_many_long_reads_are_refused_and_the_rest_get_their_turn", "s.shed"),
    ("reads_timed_out", READS, "a_long_read_leaves_the_runtime_and_is_stopped_at_its_deadline", "s.timed_out"),
    ("reads_waiting", SESSIONS, "ryw_across_nodes", "reads_waiting"),
    ("snapshots_failed", DRIVER, "a_failed_snapshot_is_counted", "snapshots_failed"),
    (
        "snapshots_installed",
        RUN,
        "an_empty_disk_under_an_old_name_gets_a_snapshot_where_the_log_is_gone",
        "snapshots_installed",
    ),
    ("snapshots_sent", RUN, "an_empty_disk_under_an_old_name_gets_a_snapshot_where_the_log_is_gone", "snapshots_sent"),
    ("store_queue", GROUPS, "what_waits_is_counted", "queue"),
    ("writes_waiting", WRITES, "writes_that_wait_are_bounded_also_when_their_clients_leave", "writes_waiting"),
];

const AUTHORIZE: &str = include_str!("../../http/tests/authorize.rs");
const BUS: &str = include_str!("../../bus/tests.rs");
const CONNECTIONS: &str = include_str!("../../http/tests/connections.rs");
const DRIVER: &str = include_str!("../../driver/tests.rs");
const EVENT: &str = include_str!("../../driver/event.rs");
const GROUPS: &str = include_str!("../../store/tests/groups.rs");
const LOG: &str = include_str!("../../log/tests/disk.rs");
const METRICS: &str = include_str!("../../metrics.rs");
const READS: &str = include_str!("../../store/read/tests.rs");
const RUN: &str = include_str!("../tests.rs");
const SESSIONS: &str = include_str!("../../http/tests/sessions.rs");
const WRITES: &str = include_str!("../../http/tests/writes.rs");

/// The lines of each family.
async fn families(address: &str) -> Option<BTreeMap<String, String>> {
    let (status, text) = request(address, "GET", "/metrics", "").await?;
    if status != 200 {
        return None;
    }
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(named) = line.strip_prefix("# TYPE ") {
            family = named.split(' ').next().unwrap_or_default().to_owned();
            families.entry(family.clone()).or_default();
        } else if !line.starts_with('#') && !family.is_empty() {
            let lines = families.entry(family.clone()).or_default();
            lines.push_str(line);
            lines.push('\n');
        }
    }
    Some(families)
}

/// What was seen of each node.
#[derive(Default)]
struct Watch {
    last: BTreeMap<String, BTreeMap<String, String>>,
    all: BTreeSet<String>,
    moved: BTreeSet<String>,
}

impl Watch {
    async fn look(&mut self, addresses: &[String]) {
        for address in addresses {
            let Some(now) = families(address).await else { continue };
            self.all.extend(now.keys().cloned());
            let before = self.last.entry(address.clone()).or_default();
            for (family, lines) in &now {
                let zero = lines.lines().all(|line| line.ends_with(" 0"));
                if before.get(family).map_or(!zero, |old| old != lines) {
                    self.moved.insert(family.clone());
                }
            }
            *before = now;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_moves() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(3).await;
    let quick = |n: usize| {
        let mut config = config(n, &addresses, dir.path());
        config.limits.header_timeout = Duration::from_millis(300);
        config
    };
    let mut nodes: Vec<Option<Running>> = (0..3).map(|n| Some(start(quick(n)))).collect();
    let mut watch = Watch::default();
    watch.look(&addresses).await;
    for address in &addresses {
        ready(address).await;
    }
    watch.look(&addresses).await;

    assert_eq!(sql(&addresses[0], "/query", "CREATE TABLE t(a INTEGER PRIMARY KEY, b)").await.0, 200);
    for n in 0..9usize {
        let insert = format!("INSERT INTO t VALUES ({n}, randomblob(100000))");
        assert_eq!(sql(&addresses[n % 3], "/query", &insert).await.0, 200);
    }
    let count = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300000) SELECT sum(n) FROM c";
    for address in &addresses {
        assert_eq!(sql(address, "/query?level=local", "SELECT count(*) FROM t").await.0, 200);
        assert_eq!(sql(address, "/query?level=local", count).await.0, 200);
    }
    // Somebody who follows what is committed.
    let mut feed = TcpStream::connect(&addresses[0]).await.expect("open");
    let head = format!("GET /_ha/changes?since=0 HTTP/1.0\r\nHost: {}\r\n\r\n", addresses[0]);
    feed.write_all(head.as_bytes()).await.expect("sent");
    let mut told = vec![0; 1 << 20];
    feed.read_exact(&mut told).await.expect("1 MB of 1.2");
    watch.look(&addresses).await;
    drop(feed);
    // A page of another origin.
    let mut stream = TcpStream::connect(&addresses[0]).await.expect("open");
    let foreign = format!(
        "GET /_ha/status HTTP/1.1\r\nHost: {}\r\nOrigin: http://elsewhere\r\nConnection: close\r\n\r\n",
        addresses[0]
    );
    stream.write_all(foreign.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    // Somebody who never ends a header.
    let mut slow = TcpStream::connect(&addresses[0]).await.expect("open");
    slow.write_all(b"GET / HT").await.expect("sent");
    watch.look(&addresses).await;
    // However it is closed, it is.
    let _ = timeout(PATIENCE, slow.read_to_string(&mut answer)).await.expect("it is closed");
    // Sizes are looked at about once a second.
    sleep(Duration::from_millis(1200)).await;
    watch.look(&addresses).await;

    // A writer that leaves: another is elected, and frames to it are dropped.
    let (_, leader) = request(&addresses[0], "GET", "/_ha/leader", "").await.expect("an answer");
    let leader: Value = serde_json::from_str(&leader).expect("JSON");
    let writer = (0..3).find(|n| leader["node_id"] == format!("node-{n}")).expect("a writer");
    let (status, answer) = request(&addresses[writer], "POST", "/_ha/stepdown", "").await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    watch.look(&addresses).await;
    nodes[writer].take().expect("running").stop().await;
    let left: Vec<String> = addresses.iter().filter(|a| **a != addresses[writer]).cloned().collect();
    // Longer than the lease: its silence has been noticed.
    sleep(Duration::from_millis(1500)).await;
    for address in &left {
        ready(address).await;
    }
    watch.look(&left).await;

    let still: BTreeSet<&str> = watch.all.iter().filter(|f| !watch.moved.contains(*f)).map(String::as_str).collect();
    let still: BTreeSet<&str> = still.iter().map(|f| f.strip_prefix("base_ha_").expect("the prefix")).collect();
    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().map(|(family, ..)| *family).collect();
    let missing: Vec<_> = still.difference(&elsewhere).collect();
    assert!(missing.is_empty(), "these never moved: {missing:?}");
    let unknown: Vec<_> = elsewhere.iter().filter(|f| !watch.all.contains(&format!("base_ha_{f}"))).collect();
    assert!(unknown.is_empty(), "these are no families: {unknown:?}");
    for node in nodes.into_iter().flatten() {
        node.stop().await;
    }
}

/// The tests that [`ELSEWHERE`] names exist and ask for the counter.
#[test]
fn what_is_moved_elsewhere_is_moved_there() {
    for (family, file, test, asks) in ELSEWHERE {
        let body = file.split_once(&format!("fn {test}(")).unwrap_or_else(|| panic!("{family}: no test {test}")).1;
        let end = body.find("\n}\n").or_else(|| body.find("\n    }\n")).unwrap_or(body.len());
        assert!(body[..end].contains(asks), "{family}: {test} does not ask for {asks}");
    }
}
