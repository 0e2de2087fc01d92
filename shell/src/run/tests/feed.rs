//! `GET /_ha/changes` of real nodes.

use super::*;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};

type Feed = Lines<BufReader<TcpStream>>;

/// Opens a feed: the status, and the lines of its body. By HTTP/1.0, whose body
/// ends with the connection and is not cut into chunks.
async fn open(address: &str, query: &str) -> (u16, Feed) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!("GET /_ha/changes?{query} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut lines = BufReader::new(stream).lines();
    let first = next(&mut lines).await.expect("a status line");
    while next(&mut lines).await.is_some_and(|line| !line.is_empty()) {}
    (first.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), lines)
}

async fn next(lines: &mut Feed) -> Option<String> {
    timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("a connection")
}

/// The next line, which is JSON.
async fn line(lines: &mut Feed) -> Value {
    serde_json::from_str(&next(lines).await.expect("a line")).expect("JSON")
}

/// All there is now.
async fn all(address: &str, query: &str) -> Vec<Value> {
    let (status, mut lines) = open(address, &format!("follow=false&{query}")).await;
    let mut told = Vec::new();
    while let Some(line) = next(&mut lines).await {
        told.push(serde_json::from_str(&line).expect("JSON"));
    }
    assert_eq!(status, 200, "{told:?}");
    told
}

fn position(line: &Value) -> &str {
    line["position"].as_str().expect("each line has one")
}

/// What a line tells: `op table new-or-old`, row by row.
fn rows(line: &Value) -> Vec<String> {
    let row = |change: &Value| {
        let row = [&change["new"], &change["old"]].into_iter().find(|row| !row.is_null()).cloned().unwrap_or_default();
        format!("{} {} {row}", change["op"].as_str().unwrap_or(""), change["table"].as_str().unwrap_or(""))
    };
    line["changes"].as_array().map(|changes| changes.iter().map(row).collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_tells_each_transaction_once_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(1).await;
    let mut node = start(config(0, &addresses, dir.path()));
    node.ready().await;
    let at = &addresses[0];
    for text in [
        "CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
        "CREATE TABLE other(x)",
        "INSERT INTO t VALUES (1, x'00ff'), (2, 9223372036854775807)",
        "UPDATE t SET b = 'new' WHERE a = 1; DELETE FROM t WHERE a = 2; INSERT INTO other VALUES (0.5)",
        "UPDATE t SET b = b",
        "INSERT INTO other VALUES (NULL)",
    ] {
        assert_eq!(sql(at, "/query", text).await.0, 200, "{text}");
    }
    let told = all(at, "since=0").await;
    let expected: [&[&str]; 6] = [
        &["schema  null"],
        &["schema  null"],
        &["insert t {\"a\":1,\"b\":{\"$blob\":\"AP8=\"}}", "insert t {\"a\":2,\"b\":9223372036854775807}"],
        &[
            "update t {\"a\":1,\"b\":\"new\"}",
            "delete t {\"a\":2,\"b\":9223372036854775807}",
            "insert other {\"x\":0.5}",
        ],
        // SQLite calls it an update, and so does whoever counts them.
        &["update t {\"a\":1,\"b\":\"new\"}"],
        &["insert other {\"x\":null}"],
    ];
    let (end, transactions) = told.split_last().expect("lines");
    assert_eq!(transactions.iter().map(rows).collect::<Vec<_>>(), expected);
    assert!(end["changes"].is_null() && position(end) == position(transactions.last().expect("one")), "{end}");

    for (n, line) in transactions.iter().enumerate() {
        let rest = all(at, &format!("since={}", position(line))).await;
        assert_eq!(rest, told[n + 1..], "after {line}");
        let bare = all(at, &format!("since={}", line["seq"])).await;
        let seqs = |lines: &[Value]| lines.iter().map(|line| line["seq"].clone()).collect::<Vec<_>>();
        assert_eq!(seqs(&bare), seqs(&rest), "a bare number means the same");
    }
    let other = all(at, "since=0&table=OTHER").await;
    let inserts: Vec<String> = other.iter().flat_map(rows).filter(|row| !row.starts_with("schema")).collect();
    assert_eq!(inserts, ["insert other {\"x\":0.5}", "insert other {\"x\":null}"]);
    let debezium = all(at, "since=0&envelope=debezium&table=t").await;
    let ops: Vec<_> = debezium.iter().filter_map(|line| line["payload"]["op"].as_str()).collect();
    assert_eq!(ops, ["c", "c", "u", "d", "u"]);
    // Whoever stops in the middle of a transaction is told all of it again.
    let again = all(at, &format!("envelope=debezium&table=t&since={}", position(&debezium[0]))).await;
    assert_eq!(again, debezium);
    // Nothing is told that was there before, unless it is asked for.
    let (_, mut lines) = open(at, "").await;
    assert_eq!(sql(at, "/query", "INSERT INTO t VALUES (3, 3)").await.0, 200);
    assert_eq!(rows(&line(&mut lines).await), ["insert t {\"a\":3,\"b\":3}"]);
    node.stop().await;
    let end = line(&mut lines).await;
    assert_eq!(end["end"]["code"], "stopping", "{end}");
    assert_eq!(next(&mut lines).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_taken_up_at_another_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(3).await;
    let mut nodes: Vec<Option<Running>> = (0..3).map(|n| Some(start(config(n, &addresses, dir.path())))).collect();
    for address in &addresses {
        ready(address).await;
    }
    assert_eq!(sql(&addresses[0], "/query", "CREATE TABLE t(a INTEGER PRIMARY KEY)").await.0, 200);
    let (status, mut lines) = open(&addresses[1], "since=0&table=t").await;
    assert_eq!(status, 200);
    let mut told = Vec::new();
    let mut at = String::new();
    for n in 0..40 {
        if n == 20 {
            // The node that sends the feed stops; so may the reader, at any line.
            nodes[1].take().expect("running").stop().await;
            while let Some(text) = next(&mut lines).await {
                let line: Value = serde_json::from_str(&text).expect("JSON");
                at = position(&line).to_owned();
                told.extend(rows(&line));
            }
            lines = open(&addresses[2], &format!("since={at}&table=t")).await.1;
        }
        assert_eq!(sql(&addresses[0], "/query", &format!("INSERT INTO t VALUES ({n})")).await.0, 200);
        if n % 3 == 0 && n != 18 {
            let line = line(&mut lines).await;
            at = position(&line).to_owned();
            told.extend(rows(&line));
        }
    }
    while told.len() < 41 {
        told.extend(rows(&line(&mut lines).await));
    }
    let inserts: Vec<String> = (0..40).map(|n| format!("insert t {{\"a\":{n}}}")).collect();
    assert_eq!((told[0].as_str(), &told[1..]), ("schema  null", &inserts[..]));
    for node in nodes.into_iter().flatten() {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_feed_cannot_tell_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let addresses = addresses(1).await;
    let mut small = config(0, &addresses, dir.path());
    small.log_bytes_max = 1 << 20;
    small.limits.wait_timeout = Duration::from_secs(2);
    let mut node = start(small);
    node.ready().await;
    let at = &addresses[0];
    assert_eq!(sql(at, "/query", "CREATE TABLE t(a INTEGER PRIMARY KEY, b)").await.0, 200);
    // Nobody takes what this one is told: it waits in the log, not in memory.
    let (_, slow) = open(at, "since=0").await;
    for n in 0..24 {
        let (status, answer) = sql(at, "/query", &format!("INSERT INTO t VALUES ({n}, zeroblob(1000000))")).await;
        assert_eq!(status, 200, "{answer}");
    }
    let metric = async |name: &str| {
        let (_, text) = request(at, "GET", "/metrics", "").await.expect("an answer");
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).expect("it is told")
    };
    let told = metric("base_ha_feed_transactions_total ").await;
    assert!(told < 20, "{told} of 24 MB went to a reader that reads nothing");
    assert_eq!(metric("base_ha_feeds ").await, 1);
    drop(slow);

    let refused = async |query: &str| {
        let (status, mut lines) = open(at, query).await;
        let mut body = String::new();
        while let Some(line) = next(&mut lines).await {
            body.push_str(&line);
        }
        let body: Value = serde_json::from_str(&body).expect("JSON");
        (status, body["code"].as_str().expect("a code").to_owned(), body)
    };
    let trimmed = async {
        loop {
            let (status, mut lines) = open(at, "since=0&follow=false").await;
            if status == 410 {
                return;
            }
            while next(&mut lines).await.is_some() {}
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, trimmed).await.expect("the log is trimmed");
    let (status, code, body) = refused("since=0").await;
    assert_eq!((status, code.as_str()), (410, "changes_gone"));
    let first = body["data"]["first"].as_u64().expect("a number");
    assert!(first > 1, "{body}");
    let kept = all(at, &format!("since={}", first.saturating_sub(1))).await;
    assert!(kept.len() > 1, "from there on all is told");

    assert_eq!(refused("since=999999").await.1, "token_ahead");
    assert_eq!(refused("since=nonsense").await.1, "bad_token");
    assert_eq!(refused("sinc=1").await.1, "bad_option");
    node.stop().await;
}
