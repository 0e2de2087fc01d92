//! HTTP over a real `data.db`.

use super::rig::{Node, node_with, position};
use crate::env::real::RealEnv;
use crate::http::{LocalData, Sql};
use crate::store::read::{ReadStats, Reads};
use crate::store::schema_sql;
use rusqlite::{Connection, params};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// `data.db` at position 4 of term 2, with three rows.
pub(super) fn data(dir: &Path) -> Option<Arc<dyn Sql>> {
    let path = dir.join("data.db");
    let connection = Connection::open(&path).unwrap();
    let rows = "PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t(x) VALUES (1), (2.5), ('\u{e9}')";
    connection.execute_batch(&format!("{rows};{}", schema_sql::CREATE)).unwrap();
    let (stream, hash, content) = ([0_u8; 16], [0_u8; 32], [0_u8; 16]);
    let insert = "INSERT INTO _ha_position(stream, seq, term, hash, content) VALUES (?, 4, 2, ?, ?)";
    connection.execute(insert, params![stream, hash, content]).unwrap();
    let reads = Reads::open(RealEnv, &path, 2, Arc::new(ReadStats::default())).unwrap();
    Some(Arc::new(LocalData::new(RealEnv, reads, path)))
}

async fn real() -> Node {
    let a = node_with("a", |_| (), data).await;
    a.applied.send_replace(position(4, 2));
    a.believes(Some(&a), 2, &[&a]);
    a
}

#[tokio::test]
async fn rows_come_with_their_position() {
    let a = real().await;
    let reply = a.query("/query", "select x from t order by id", &[]).await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "columns": ["x"], "rows": [[1], [2.5], ["\u{e9}"]] })));
    assert_eq!(reply.seq(&a), 4);
    // Two results in one body, from one snapshot.
    let body = r#"[{"sql":"select count(*) from t"},{"sql":"select x from t where id = ?","params":[2]}]"#;
    let results = a.ask("POST", "/", &[], body).await.json();
    assert_eq!(results["results"].as_array().unwrap().len(), 2);
    assert_eq!(results["results"][1]["rows"], json!([[2.5]]));
    assert!(a.writes().is_empty());
}

#[tokio::test]
async fn what_sqlite_takes_for_a_write_goes_to_the_store() {
    let a = real().await;
    for sql in ["delete from t", "/* select */ insert into t values (9, 9)", "with y as (select 1) delete from t"] {
        assert_eq!(a.query("/query", sql, &[]).await.bytes()[..3], *b"[1,", "{sql}");
    }
    assert_eq!(a.writes().len(), 3);
    // The writer's store says what is wrong with what can't be compiled.
    assert_eq!(a.query("/query", "select * from missing", &[]).await.status, 200);
    assert_eq!(a.writes().len(), 4);
    for sql in ["selec 1", "select * from _ha_meta", "attach 'x' as y"] {
        let reply = a.query("/query", sql, &[]).await;
        assert!((400..500).contains(&reply.status), "{sql}: {reply:?}");
    }
    assert_eq!(a.writes().len(), 4);
}

#[tokio::test]
async fn a_copy_is_a_database() {
    let a = real().await;
    let reply = a.get("/download").await;
    assert_eq!((reply.status, reply.header("x-sequence")), (200, "4"));
    let path = a.dir.path().join("downloaded.db");
    std::fs::write(&path, reply.bytes()).unwrap();
    let count = |path: &Path, sql: &str| -> i64 {
        Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count(&path, "select count(*) from t"), 3);
    assert_eq!(count(&path, "select count(*) from sqlite_schema where name glob '_ha_*'"), 0);
    let reply = a.ask("POST", "/_ha/snapshot", &[], "").await;
    let json = reply.json();
    assert_eq!((reply.status, &json["sequence"]), (200, &json!(4)));
    let path = a.dir.path().join(json["file"].as_str().unwrap());
    assert_eq!(count(&path, "select seq from _ha_position"), 4);

    // The newest that is kept, as CONTRACTS 2 names it.
    for uri in ["/snapshot", "/databases/data.db/snapshot"] {
        let reply = a.get(uri).await;
        assert_eq!((reply.status, reply.header("x-sequence")), (200, "4"), "{uri}");
        assert!(reply.bytes() == std::fs::read(&path).unwrap(), "{uri}");
        let name = reply.header("content-disposition");
        assert!(name.starts_with("attachment; filename=2") && name.ends_with("_ha_snapshot_4.db"), "{name}");
        assert_eq!(name.matches(':').count(), 2, "{name}");
    }
    let kept = || std::fs::read_dir(a.dir.path().join("snapshots")).unwrap().count();
    assert_eq!(kept(), 1, "nothing was made for it");
    let reply = a.ask("POST", "/snapshot", &[], "").await;
    assert_eq!((reply.status, reply.header("x-sequence")), (200, "4"));
}

#[tokio::test]
async fn the_one_database_has_a_name() {
    let a = real().await;
    assert_eq!(a.get("/databases").await.json(), json!({"databases": ["data.db"]}));
    let sql = r#"{"sql":"select count(*) from t"}"#;
    let reply = a.ask("POST", "/databases/data.db", &[], sql).await;
    assert_eq!((reply.status, &reply.json()["rows"]), (200, &json!([[3]])));
    let reply = a.get("/databases/data.db").await;
    assert_eq!((reply.status, reply.header("x-sequence")), (200, "4"));
    assert!(reply.header("content-disposition").ends_with("_ha.db"));
    let outcome = |status, code: &str| (status, code.to_owned());
    assert_eq!(a.ask("POST", "/databases/other", &[], sql).await.outcome(), outcome(404, "unknown_database"));
    assert_eq!(a.ask("POST", "/databases", &[], "{}").await.outcome(), outcome(501, "not_supported"));
    assert_eq!(a.ask("DELETE", "/databases/data.db", &[], "").await.outcome(), outcome(501, "not_supported"));
    assert_eq!(a.get("/databases/data.db/history/1").await.outcome(), outcome(501, "not_supported"));
    assert_eq!(a.ask("PUT", "/databases/data.db", &[], "").await.outcome(), outcome(405, "method_not_allowed"));
    // The first one is made for who asks for the newest.
    let reply = a.get("/snapshot").await;
    assert_eq!((reply.status, reply.header("x-sequence")), (200, "4"));
}
