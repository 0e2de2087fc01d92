//! Who is let in.

use super::rig::{Node, node};
use crate::config::{Config, Secret};

fn with_token(config: &mut Config) {
    config.token = Some(Secret::new("sesame"));
}

async fn alone(set: fn(&mut Config)) -> Node {
    let a = node("a", set).await;
    a.believes(Some(&a), 1, &[&a]);
    a
}

/// Every route with a method that it answers.
const ROUTES: [(&str, &str, &str); 28] = [
    ("GET", "/healthz", ""),
    ("GET", "/readyz", ""),
    ("GET", "/_ha/leader", ""),
    ("GET", "/_ha/peer", ""),
    ("GET", "/_ha/snapshot", ""),
    ("GET", "/", ""),
    ("POST", "/", r#"{"sql":"select 1"}"#),
    ("POST", "/query", r#"{"sql":"insert into t values (1)"}"#),
    ("GET", "/download", ""),
    ("GET", "/snapshot", ""),
    ("POST", "/snapshot", ""),
    ("GET", "/databases", ""),
    ("POST", "/databases/data.db", r#"{"sql":"select 1"}"#),
    ("GET", "/databases/data.db", ""),
    ("POST", "/databases/data.db/snapshot", ""),
    ("GET", "/metrics", ""),
    ("GET", "/_ha/peers", ""),
    ("GET", "/_ha/status", ""),
    ("GET", "/_ha/members", ""),
    ("POST", "/_ha/members", r#"{"url":"http://127.0.0.1:9"}"#),
    ("POST", "/_ha/members/remove", r#"{"node_id":"b"}"#),
    ("DELETE", "/_ha/members/b", ""),
    ("POST", "/_ha/members/b/url", r#"{"url":"http://127.0.0.1:9"}"#),
    ("POST", "/_ha/transfer", "{}"),
    ("POST", "/_ha/stepdown", ""),
    ("POST", "/_ha/snapshot", ""),
    ("POST", "/_ha/heartbeat", r#"{"node_id":"b","target":"http://127.0.0.1:9"}"#),
    ("GET", "/anything/else", ""),
];
/// The first three are open; the next two are for peers, who prove themselves
/// to their own endpoint.
const WITHOUT_TOKEN: usize = 5;

/// G16: what is open is open by decision, and nothing else is.
#[tokio::test]
async fn authz_matrix() {
    let (closed, open) = (alone(with_token).await, alone(|_| ()).await);
    type Shown = &'static [(&'static str, &'static str)];
    let shown: [(&str, Shown, bool); 11] = [
        ("nothing", &[], false),
        ("an empty token", &[("authorization", "")], false),
        ("an empty bearer", &[("authorization", "Bearer ")], false),
        ("a wrong token", &[("authorization", "Bearer sesam")], false),
        ("a longer token", &[("authorization", "Bearer sesame1")], false),
        ("another case", &[("authorization", "Bearer Sesame")], false),
        ("basic", &[("authorization", "Basic sesame")], false),
        ("the cluster's secret", &[("authorization", "Bearer the cluster's secret")], false),
        ("the token as a cookie", &[("cookie", "authorization=sesame")], false),
        ("the token", &[("authorization", "Bearer sesame")], true),
        ("the raw token", &[("authorization", "sesame")], true),
    ];
    for (at, (method, uri, body)) in ROUTES.into_iter().enumerate() {
        for (what, headers, right) in &shown {
            let reply = closed.ask(method, uri, headers, body).await;
            let let_in = *right || at < WITHOUT_TOKEN;
            assert_eq!(reply.status != 401, let_in, "{method} {uri} with {what}: {}", reply.status);
            if !let_in {
                assert_eq!(reply.code(), "unauthorized");
                assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"base-ha\"");
            }
        }
        assert_ne!(open.ask(method, uri, &[], body).await.status, 401, "{method} {uri}");
    }
    assert!(closed.app.stats.http.unauthorized.get() > 100);
    // Refused means untouched.
    assert_eq!(closed.writes().len(), 2);
    assert_eq!(closed.orders.lock().unwrap().len(), 6 * 2);
}

/// B15: the change feed and change injection of the original.
#[tokio::test]
async fn ha_endpoints_need_auth() {
    let a = alone(with_token).await;
    for (method, uri) in [
        ("POST", "/_ha/replicate"),
        ("GET", "/_ha/replicate/log?since=0"),
        ("POST", "/_ha/heartbeat"),
        ("GET", "/_ha/peers"),
        ("GET", "/_ha/members"),
        ("GET", "/_ha/status"),
        ("POST", "/_ha/transfer"),
        ("POST", "/_ha/snapshot"),
    ] {
        let reply = a.ask(method, uri, &[], "{}").await;
        assert_eq!(reply.outcome(), (401, "unauthorized".to_owned()), "{method} {uri}");
    }
    let auth = [("authorization", "Bearer sesame")];
    for (method, uri) in [("POST", "/_ha/replicate"), ("GET", "/_ha/replicate/log?since=0")] {
        let reply = a.ask(method, uri, &auth, "").await;
        assert_eq!(reply.outcome(), (501, "not_supported".to_owned()));
    }
    assert!(a.orders.lock().unwrap().is_empty());
}

/// DESIGN 7: what a page of another origin makes a browser send to a loopback
/// node is refused, token or none.
#[tokio::test]
async fn foreign_pages_are_refused() {
    let a = alone(|_| ()).await;
    let own = a.address().to_owned();
    let port = own.split(':').next_back().unwrap().to_owned();
    let same = format!("http://{own}");
    let localhost = format!("localhost:{port}");
    let other_port = "http://127.0.0.1:1";
    let named = format!("http://{localhost}");
    let insert = r#"{"sql":"insert into t values (1)"}"#;
    let mut written = 0;
    for (headers, code) in [
        (vec![], ""),
        (vec![("origin", same.as_str())], ""),
        (vec![("host", &localhost), ("origin", &named)], ""),
        (vec![("host", "127.0.0.1")], ""),
        (vec![("host", "[::1]:99")], ""),
        (vec![("sec-fetch-site", "same-origin")], ""),
        (vec![("origin", "http://evil.example")], "foreign_origin"),
        (vec![("origin", "null")], "foreign_origin"),
        (vec![("origin", other_port)], "foreign_origin"),
        (vec![("origin", &same), ("origin", "http://evil.example")], "foreign_origin"),
        (vec![("sec-fetch-site", "cross-site")], "foreign_origin"),
        (vec![("host", "evil.example")], "foreign_host"),
        (vec![("host", "evil.example:8090")], "foreign_host"),
        (vec![("host", "127.0.0.1.evil.example")], "foreign_host"),
        (vec![("host", "192.0.2.1")], "foreign_host"),
        (vec![("host", "")], "foreign_host"),
    ] {
        let reply = a.ask("POST", "/query", &headers, insert).await;
        if code.is_empty() {
            assert_eq!(reply.status, 200, "{headers:?}");
            written += 1;
        } else {
            assert_eq!(reply.outcome(), (403, code.to_owned()), "{headers:?}");
        }
        assert_eq!(a.writes().len(), written);
    }
    // No preflight is ever granted.
    let asks = [("origin", "http://evil.example"), ("access-control-request-method", "POST")];
    assert_eq!(a.ask("OPTIONS", "/query", &asks, "").await.status, 403);
    let reply = a.ask("OPTIONS", "/query", &[], "").await;
    assert_eq!((reply.status, reply.header("allow")), (204, "POST, OPTIONS"));
    assert_eq!(reply.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn members_addresses_are_known_hosts() {
    let (a, b) =
        (alone(|c| c.core.url = base_ha_core::ids::Url::new("http://base-0.lan:8090")).await, node("b", |_| ()).await);
    a.believes(Some(&a), 1, &[&a, &b]);
    for (host, status) in [("base-0.lan:8090", 200), ("base-0.lan", 200), ("base-1.lan:8090", 403)] {
        assert_eq!(a.ask("GET", "/_ha/status", &[("host", host)], "").await.status, status, "{host}");
    }
    // A node that listens everywhere can be asked for by any number, and still
    // by no strange name.
    let a = alone(|config| config.http = "0.0.0.0:8090".to_owned()).await;
    for (host, status) in [("192.0.2.1:8090", 200), ("evil.example:8090", 403), ("0.0.0.0:8090", 200)] {
        assert_eq!(a.ask("GET", "/_ha/status", &[("host", host)], "").await.status, status, "{host}");
    }
}

#[tokio::test]
async fn names_that_the_settings_allow_are_known_hosts() {
    let a = alone(|config| config.allowed_hosts = vec!["db.example".into(), "lb.example:8443".into()]).await;
    for (host, status) in [
        ("db.example", 200),
        ("DB.Example:443", 200),
        ("lb.example:8443", 200),
        ("lb.example:8444", 403),
        ("lb.example", 403),
        ("x.db.example", 403),
        ("db.example.evil.example", 403),
    ] {
        assert_eq!(a.ask("GET", "/_ha/status", &[("host", host)], "").await.status, status, "{host}");
    }
    // Its pages are this node's own, and no others are.
    for (origin, status) in [("https://db.example", 200), ("https://evil.example", 403)] {
        let headers = [("host", "db.example"), ("origin", origin)];
        assert_eq!(a.ask("GET", "/_ha/status", &headers, "").await.status, status, "{origin}");
    }
}
