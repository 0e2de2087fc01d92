//! Connections: limits, deadlines, the end.

use super::rig::{PATIENCE, Script, node};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Sends bytes and returns all that comes back until the other side closes.
async fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_slow_head_is_cut_off() {
    let a = node("a", |config| config.limits.header_timeout = Duration::from_millis(200)).await;
    for trickle in [false, true] {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(a.address()).await.unwrap();
        let mut byte = [0];
        loop {
            if trickle {
                let _ = stream.write_all(if begun.elapsed().as_millis() < 20 { b"GET / HT" } else { b"x" }).await;
            }
            match timeout(Duration::from_millis(20), stream.read(&mut byte)).await {
                Err(_) => assert!(begun.elapsed() < PATIENCE, "still open"),
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => panic!("an answer to half a request"),
            }
        }
        assert!(begun.elapsed() >= Duration::from_millis(150));
    }
    assert_eq!(a.app.stats.http.connections_slow.get(), 2);
    // Who waits for a slow answer is not slow.
    a.believes(Some(&a), 1, &[&a]);
    a.script(Script::Keep);
    assert_eq!(a.query("/query", "insert into t values (1)", &[]).await.status, 504);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let a = node("a", |config| config.limits.body_bytes_max = 1000).await;
    a.believes(Some(&a), 1, &[&a]);
    let too_large = (413, "body_too_large".to_owned());
    assert_eq!(a.ask("POST", "/query", &[], vec![b' '; 1001]).await.outcome(), too_large);
    // Announced and never sent: refused at once.
    let head = format!("POST /query HTTP/1.1\r\nHost: {}\r\nContent-Length: 99999999999\r\n\r\n", a.address());
    assert!(raw(a.address(), head.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    // Not announced.
    let mut chunked = format!("POST /query HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", a.address());
    for _ in 0..3 {
        chunked.push_str(&format!("190\r\n{}\r\n", " ".repeat(400)));
    }
    assert!(raw(a.address(), chunked.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    // What could inflate is not inflated.
    for encoding in ["gzip", "zstd", "br"] {
        let reply = a.ask("POST", "/query", &[("content-encoding", encoding)], r#"{"sql":"select 1"}"#).await;
        assert_eq!(reply.outcome(), (415, "unsupported_encoding".to_owned()));
    }
    assert_eq!(a.ask("POST", "/query", &[("content-encoding", "identity")], r#"{"sql":"select 1"}"#).await.status, 200);
}

#[tokio::test]
async fn heads_are_bounded_and_malformed_ones_refused() {
    let a = node("a", |_| ()).await;
    let host = a.address();
    let large = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nX-Long: {}\r\n\r\n", "x".repeat(17 << 10));
    assert!(raw(host, large.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let many = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n{many}\r\n");
    assert!(raw(host, many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    for malformed in ["GARBAGE\r\n\r\n", "GET /healthz HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\r\n\r\n"] {
        let answer = raw(host, malformed.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let nameless = raw(host, b"GET /_ha/leader HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(nameless.starts_with("HTTP/1.1 400 ") && nameless.contains("bad_host"), "{nameless}");
    let smuggled = format!("POST /query HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert!(raw(host, smuggled.as_bytes()).await.starts_with("HTTP/1.1 400 "));
    assert_eq!(a.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn too_many_connections_are_told_so_and_peers_still_get_in() {
    let a = node("a", |config| config.limits.connections_max = 2).await;
    a.believes(Some(&a), 1, &[&a]);
    let held = [TcpStream::connect(a.address()).await.unwrap(), TcpStream::connect(a.address()).await.unwrap()];
    sleep(Duration::from_millis(50)).await;
    let reply = a.query("/query", "select 1", &[]).await;
    assert_eq!(reply.outcome(), (503, "overloaded".to_owned()));
    assert_eq!(reply.header("retry-after"), "1");
    assert!(a.app.stats.http.connections_shed.get() >= 1);
    assert_eq!(a.get("/_ha/peer").await.bytes(), b"peer");
    assert_eq!(a.get("/healthz").await.status, 200);
    drop(held);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(a.query("/query", "select 1", &[]).await.status, 200);
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_takes_no_more() {
    let a = node("a", |config| config.limits.ack_timeout = Duration::from_secs(5)).await;
    a.believes(None, 1, &[&a]);
    let mut idle = TcpStream::connect(a.address()).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    let (reply, ()) = tokio::join!(a.query("/query", "insert into t values (1)", &[]), async {
        sleep(Duration::from_millis(100)).await;
        a.shutdown.send_replace(true);
        sleep(Duration::from_millis(100)).await;
        assert!(TcpStream::connect(a.address()).await.is_err(), "still listening");
        a.believes(Some(&a), 2, &[&a]);
    });
    assert_eq!(reply.status, 200);
    assert_eq!(timeout(PATIENCE, idle.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    timeout(PATIENCE, a.served).await.expect("the server ends").unwrap();
}

/// A request that meets the stop on an idle connection is answered: its sender
/// could not tell a closed connection from a lost answer.
#[tokio::test]
async fn a_request_that_meets_the_stop_is_answered() {
    let a = node("a", |_| ()).await;
    a.believes(Some(&a), 1, &[&a]);
    let mut kept = TcpStream::connect(a.address()).await.unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", a.address());
    sleep(Duration::from_millis(50)).await;
    a.shutdown.send_replace(true);
    sleep(Duration::from_millis(50)).await;
    kept.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, kept.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let a = node("a", |_| ()).await;
    a.believes(Some(&a), 1, &[&a]);
    let body = r#"{"sql":"select 1"}"#;
    let one = format!("POST /query HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}", a.address(), body.len());
    let last = one.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let answer = raw(a.address(), format!("{one}{one}{one}{last}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 4);
    assert_eq!(answer.matches(r#"{"columns":["x"],"rows":[[1]]}"#).count(), 4);
}
