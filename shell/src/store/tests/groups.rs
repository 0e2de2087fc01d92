//! Groups: who shares a transaction, and what becomes of it.

use super::*;
use base_ha_core::io::Refusal;

fn answer(reply: &mut Reply) -> Option<Result<WriteAnswer, WriteError>> {
    reply.try_recv().ok()
}

fn count(store: &Store, sql: &str) -> i64 {
    let conn = rusqlite::Connection::open(store.file()).expect("opens");
    conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    conn.query_row(sql, [], |row| row.get(0)).expect("counted")
}

#[test]
fn a_group_is_one_transaction_and_answers_at_its_commit() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a UNIQUE)");
    let requests = (0..256).map(|n| vec![text(&format!("INSERT INTO t VALUES({n})"))]).collect();
    let mut answers = pair.send_all(requests);
    assert_eq!(pair.writer.proposals.len(), 1);
    assert_eq!(pair.writer.proposals[0].1.len(), 256, "256 requests make one group");
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 0, "visible before it was committed");
    assert!(answers.iter_mut().all(|a| answer(a).is_none()), "answered before COMMIT");
    // Others arrive meanwhile: they wait and form the next group.
    let mut duplicate = pair.send(vec![text("INSERT INTO t VALUES(1)")]);
    let mut read = pair.send(vec![text("SELECT count(*) FROM t")]);
    assert_eq!(pair.writer.proposals.len(), 1);
    pair.settle();
    let positions: Vec<_> = answers.iter_mut().map(|a| answer(a).expect("answered").expect("done").position).collect();
    assert!(positions.windows(2).all(|w| w[1].seq == w[0].seq.next()), "one entry each, in order");
    assert_eq!(told(&mut duplicate).expect_err("there already").code, "constraint_unique");
    assert!(told(&mut read).expect("counted").contains("[[256]]"));
    pair.check();
}

#[test]
fn a_group_whose_time_is_over_leaves_the_rest_to_the_next() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    pair.writer.worker.inner.group_time = Duration::ZERO;
    let answers = pair.send_all((0..3).map(|n| vec![text(&format!("INSERT INTO t VALUES({n})"))]).collect());
    assert_eq!(pair.writer.proposals.len(), 1);
    assert_eq!(pair.writer.proposals[0].1.len(), 1, "one runs, whatever the time");
    pair.settle();
    assert!(answers.into_iter().all(|mut answer| told(&mut answer).is_ok()));
    pair.check();
}

#[test]
fn errors_and_empty_results_wait_for_the_commit_too() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a UNIQUE)");
    let mut answers = pair.send_all(vec![
        vec![text("INSERT INTO t VALUES(1)")],
        vec![text("INSERT INTO t VALUES(1)")],
        vec![text("SELECT count(*) FROM t")],
    ]);
    assert!(answers.iter_mut().all(|a| answer(a).is_none()));
    pair.settle();
    answer(&mut answers[0]).expect("answered").expect("done");
    assert_eq!(told(&mut answers[1]).expect_err("twice").code, "constraint_unique");
    let read = answer(&mut answers[2]).expect("answered").expect("done");
    assert_eq!(read.position, pair.last(), "it saw the row, so it is at the row's position");
}

/// Who was just answered is likely to come again: the next group is for them as
/// well, and costs every node the same.
#[test]
fn a_group_waits_for_the_clients_of_the_last_one() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    // The pause lasts a moment, which a busy machine may miss.
    for n in 0..100 {
        let insert = || vec![text("INSERT INTO t VALUES(1)")];
        let _first = pair.send_all(vec![insert(), insert()]);
        let _early = pair.send(insert());
        std::thread::sleep(Duration::from_millis(4));
        let (id, entries) = pair.place();
        let (first, last) = (entries[0].seq, entries[1].position());
        let done = [StoreJob::Proposed { id, first, last }, StoreJob::Apply { entries: entries.clone() }];
        pair.writer.worker.run(&mut VecDeque::from(done));
        let patience = pair.writer.worker.patience();
        let _back = pair.send_all(vec![insert(), insert()]);
        pair.replica.apply(&entries);
        let sizes: Vec<_> = pair.writer.proposals.iter().map(|(_, payloads)| payloads.len()).collect();
        pair.settle();
        if sizes == [3] {
            assert_eq!(patience.jobs, 2, "it is woken when both are back");
            pair.check();
            return;
        }
        assert_eq!(sizes, [1], "try {n}: without a pause the early one goes alone");
    }
    panic!("no group ever waited");
}

/// Under load the next group waits already when one ends.
#[test]
fn a_checkpoint_gets_its_turn_under_load() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let _first = pair.send(vec![text("INSERT INTO t VALUES(1)")]);
    let _second = pair.send(vec![text("INSERT INTO t VALUES(2)")]);
    let (reply, mut done) = oneshot::channel();
    pair.writer.jobs([StoreJob::Checkpoint { reply }]);
    assert!(done.try_recv().is_err(), "a transaction is open");
    let (id, entries) = pair.place();
    let (first, last) = (entries[0].seq, entries[0].position());
    pair.writer.jobs([StoreJob::Proposed { id, first, last }, StoreJob::Apply { entries: entries.clone() }]);
    assert_eq!(pair.writer.proposals.len(), 1, "the second group runs");
    assert_eq!(done.try_recv().expect("answered").expect("done"), last);
    pair.replica.apply(&entries);
    pair.settle();
    pair.check();
}

/// SQLite's own checkpoints swallow a failed fsync: the store makes them.
#[test]
fn the_write_ahead_log_stays_bounded_without_sqlites_own_checkpoints() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    for _ in 0..24 {
        pair.write("INSERT INTO t VALUES(zeroblob(2000000))");
        pair.write("DELETE FROM t");
    }
    for store in [&pair.writer, &pair.replica] {
        let wal = store.dir.path().join("data.db-wal");
        let bytes = std::fs::metadata(wal).expect("there is one").len();
        assert!((1 << 20..30 << 20).contains(&bytes), "{bytes}");
    }
    pair.check();
}

/// A writer that slept through its lease runs a DELETE of a row that the next
/// writer has inserted meanwhile: "0 rows" would be an answer from the past.
#[test]
fn what_changed_nothing_is_answered_only_under_the_pin() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a UNIQUE)");
    pair.write("INSERT INTO t VALUES(1)");
    for sql in [
        "DELETE FROM t WHERE a = 2",
        "INSERT INTO t VALUES(1)",
        "INSERT OR ROLLBACK INTO t VALUES(1)",
        "SELECT count(*) FROM t",
    ] {
        let mut asked = pair.send(vec![text(sql)]);
        assert!(answer(&mut asked).is_none(), "{sql}: nobody has said that this node still writes");
        let (id, entries) = pair.place();
        assert!(entries.is_empty(), "{sql}");
        pair.writer.jobs([StoreJob::Refused { id, refusal: Refusal::LeaseExpired }]);
        assert!(matches!(answer(&mut asked), Some(Err(WriteError::Refused(Refusal::LeaseExpired, _)))), "{sql}");
        let mut asked = pair.send(vec![text(sql)]);
        pair.settle();
        assert!(
            !matches!(answer(&mut asked), None | Some(Err(WriteError::Refused(..) | WriteError::Unknown))),
            "{sql}"
        );
    }
    pair.write("INSERT INTO t VALUES(2)");
    pair.check();
}

#[test]
fn unknown_is_rolled_back_and_later_applied_exactly_once() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let mut answers = pair.send_all(vec![
        vec![text("INSERT INTO t VALUES(1)")],
        vec![text("SELECT 1")],
        vec![text("INSERT INTO t VALUES(2)")],
    ]);
    let (id, entries) = pair.place();
    pair.writer.jobs([
        StoreJob::Proposed { id, first: entries[0].seq, last: entries[1].position() },
        StoreJob::Unknown { id },
    ]);
    assert!(matches!(answer(&mut answers[0]), Some(Err(WriteError::Unknown))));
    assert!(matches!(answer(&mut answers[1]), Some(Err(WriteError::Refused(Refusal::NotReady, _)))));
    assert!(matches!(answer(&mut answers[2]), Some(Err(WriteError::Unknown))));
    assert_eq!(pair.writer.stats.groups_rolled_back.get(), 1);
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 0);
    pair.writer.pin(2, false);
    // Another writer committed them after all.
    pair.writer.apply(&entries);
    pair.writer.apply(&entries);
    pair.replica.apply(&entries);
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 2);
    pair.check();
}

#[test]
fn what_waits_is_counted() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let commits = pair.writer.stats.group_requests.count();
    pair.send_all(vec![vec![text("INSERT INTO t VALUES(1)")]]);
    assert_eq!(pair.writer.stats.queue.get(), 0, "it runs");
    let (second, _later) = request(700, vec![text("INSERT INTO t VALUES(2)")]);
    pair.writer.jobs([StoreJob::Write(second)]);
    assert_eq!(pair.writer.stats.queue.get(), 1, "the connection is taken");
    assert_eq!(pair.writer.stats.group_requests.count(), commits, "nothing was committed meanwhile");
}

#[test]
fn only_a_prefix_was_committed() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let mut answers = pair.send_all(vec![vec![text("INSERT INTO t VALUES(1)")], vec![text("INSERT INTO t VALUES(2)")]]);
    let (id, entries) = pair.place();
    pair.writer.jobs([
        StoreJob::Proposed { id, first: entries[0].seq, last: entries[1].position() },
        StoreJob::Apply { entries: entries[..1].to_vec() },
    ]);
    assert!(answers.iter_mut().all(|a| answer(a).is_none()), "half a group is no group");
    pair.writer.jobs([StoreJob::Unknown { id }]);
    assert!(matches!(answer(&mut answers[1]), Some(Err(WriteError::Unknown))));
    assert_eq!(count(&pair.writer, "SELECT sum(a) FROM t"), 1);
    // A new writer put something else in the second place.
    pair.log.pop();
    let other = pair.entry(EntryKind::Noop, Bytes::new());
    pair.log.push(other.clone());
    pair.writer.apply(std::slice::from_ref(&other));
    pair.replica.apply(&[entries[0].clone(), other]);
    pair.check();
}

#[test]
fn entries_of_another_writer_take_the_groups_place() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let mut mine = pair.send(vec![text("INSERT INTO t VALUES('mine')")]);
    let (id, entries) = pair.place();
    pair.log.pop();
    let other = pair.entry(EntryKind::Noop, Bytes::new());
    pair.log.push(other.clone());
    let last = entries[0].position();
    pair.writer
        .jobs([StoreJob::Proposed { id, first: last.seq, last }, StoreJob::Apply { entries: vec![other.clone()] }]);
    assert!(matches!(answer(&mut mine), Some(Err(WriteError::Unknown))));
    pair.replica.apply(&[other]);
    pair.check();
}

#[test]
fn a_refused_group_comes_back_whole() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let mut answers =
        pair.send_all(vec![vec![text("INSERT INTO t VALUES(1)")], vec![text("INSERT INTO nowhere VALUES(1)")]]);
    let (id, _) = pair.writer.proposals.pop_front().expect("proposed");
    pair.writer.jobs([StoreJob::Refused { id, refusal: Refusal::HandingOver }]);
    for reply in &mut answers {
        match answer(reply) {
            Some(Err(WriteError::Refused(Refusal::HandingOver, rejected))) => assert_eq!(rejected.statements.len(), 1),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 0);
    pair.write("INSERT INTO t VALUES(1)");
    pair.check();
}

#[test]
fn follower_write_refused() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let (request, mut reply) = request(77, vec![text("INSERT INTO t VALUES(1)")]);
    pair.replica.jobs([StoreJob::Write(request)]);
    assert!(matches!(answer(&mut reply), Some(Err(WriteError::Refused(Refusal::NotWriter { .. }, _)))));
    pair.check();
}

#[test]
fn whoever_ends_the_transaction_runs_alone() {
    let mut pair = Pair::new();
    pair.write(
        "CREATE TABLE t(a UNIQUE);
         CREATE TRIGGER r BEFORE INSERT ON t WHEN new.a = 'raise' BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
    );
    pair.write("INSERT INTO t VALUES('x')");
    let mut answers = pair.send_all(vec![
        vec![text("INSERT INTO t VALUES(1)")],
        vec![text("INSERT OR ROLLBACK INTO t VALUES('x')")],
        vec![text("INSERT INTO t VALUES(2)")],
        vec![text("INSERT INTO t VALUES('raise')")],
        vec![text("INSERT INTO t VALUES(3); INSERT OR ROLLBACK INTO t VALUES('y')")],
        vec![text("INSERT OR ROLLBACK INTO t VALUES(3)")],
        vec![text("INSERT INTO t VALUES(4)")],
    ]);
    pair.settle();
    let codes: Vec<_> = answers.iter_mut().map(|a| told(a).map_or_else(|e| e.code, |_| "ok")).collect();
    assert_eq!(codes, ["ok", "constraint_unique", "ok", "constraint_trigger", "ok", "constraint_unique", "ok"]);
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 6);
    pair.check();
}

#[test]
fn a_statement_that_takes_too_long_harms_nobody_else() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let forever = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let (mut slow, mut timeout) = request(900, vec![text(forever)]);
    slow.limits.deadline = RealEnv.now().mono.after(Duration::from_millis(50));
    let (before, mut first) = request(901, vec![text("INSERT INTO t VALUES('before')")]);
    let (after, mut second) = request(902, vec![text("INSERT INTO t VALUES('after')")]);
    pair.writer.jobs([StoreJob::Write(before), StoreJob::Write(slow), StoreJob::Write(after)]);
    pair.settle();
    assert_eq!(told(&mut timeout).expect_err("stopped").code, "statement_timeout");
    told(&mut first).expect("ran again");
    told(&mut second).expect("ran");
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 2);
    let (mut late, mut refused) = request(903, vec![text("INSERT INTO t VALUES('late')")]);
    late.limits.deadline = RealEnv.now().mono;
    pair.writer.jobs([StoreJob::Write(late)]);
    assert_eq!(told(&mut refused).expect_err("too late").status, 503);
    pair.check();
}

#[test]
fn the_node_loop_gets_the_connection_back_at_once() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let forever = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let interrupt = pair.writer.interrupt.clone();
    let raise = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        interrupt.raise();
    });
    let mut answers = pair.send_all(vec![vec![text("INSERT INTO t VALUES(1)")], vec![text(forever)]]);
    raise.join().expect("raised");
    assert!(pair.writer.proposals.is_empty());
    pair.writer.pin(2, false);
    for reply in &mut answers {
        assert!(matches!(answer(reply), Some(Err(WriteError::Refused(Refusal::NotWriter { .. }, _)))));
    }
    pair.writer.pin(3, true);
    pair.write("INSERT INTO t VALUES(2)");
    pair.check();
}

#[test]
fn too_much_for_one_entry_is_refused_before_the_append() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let entries = pair.log.len();
    let huge = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 80) \
                SELECT zeroblob(1000000) FROM n";
    assert_eq!(pair.fails(huge), "transaction_too_large");
    assert_eq!(pair.log.len(), entries);
    pair.write("INSERT INTO t VALUES(1)");
    pair.check();
}

#[test]
fn acknowledgements() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let (mut local, mut early) = request(500, vec![text("INSERT INTO t VALUES(1)")]);
    local.ack = Ack::Local;
    let (mut all, mut late) = request(501, vec![text("INSERT INTO t VALUES(2)")]);
    all.ack = Ack::All;
    pair.writer.jobs([StoreJob::Write(local), StoreJob::Write(all)]);
    let (id, entries) = pair.place();
    let (first, last) = (entries[0].seq, entries[1].position());
    pair.writer.jobs([StoreJob::Proposed { id, first, last }]);
    assert!(answer(&mut early).is_none(), "answered before the own fsync");
    pair.writer.jobs([StoreJob::Progress { durable: first, all: Seq(0) }]);
    let answered = answer(&mut early).expect("answered").expect("done");
    assert_eq!(answered.position, last);
    assert!(answer(&mut late).is_none());
    pair.writer.jobs([StoreJob::Apply { entries: entries.clone() }]);
    let mut done = answer(&mut late).expect("answered").expect("done").all.expect("waits for all");
    assert!(done.try_recv().is_err());
    pair.writer.jobs([StoreJob::Progress { durable: last.seq, all: last.seq }]);
    assert!(done.try_recv().is_ok());
    pair.replica.apply(&entries);
    pair.check();
}

#[test]
fn a_repeated_key_is_told_what_the_first_was_told() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let keyed = |id, digest: u8| {
        let (mut request, reply) = request(id, vec![text("INSERT INTO t VALUES(1) RETURNING a, rowid")]);
        request.idempotency_key = Some("key".into());
        request.body_digest = [digest; 16];
        (request, reply)
    };
    let (one, mut first) = keyed(1000, 1);
    let (two, mut second) = keyed(1000, 1);
    // Even in the same group.
    pair.writer.jobs([StoreJob::Write(one), StoreJob::Write(two)]);
    pair.settle();
    let first = answer(&mut first).expect("answered").expect("done");
    let second = answer(&mut second).expect("answered").expect("done");
    assert!(!first.replayed && second.replayed);
    assert_eq!((&first.body, first.position), (&second.body, second.position));
    let (other, mut refused) = keyed(1000, 2);
    pair.writer.jobs([StoreJob::Write(other)]);
    assert_eq!(told(&mut refused).expect_err("another body").code, "idempotency_key_reused");
    // The next writer knows it from the entry.
    let Pair { writer, replica, .. } = &mut pair;
    std::mem::swap(writer, replica);
    pair.writer.pin(2, true);
    let (again, mut third) = keyed(1000, 1);
    pair.writer.jobs([StoreJob::Write(again)]);
    let third = answer(&mut third).expect("answered").expect("done");
    assert_eq!((third.replayed, third.body, third.position), (true, first.body, first.position));
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 1);
    // A minted id is known by its position.
    let (plain, mut once) = request(2000, vec![text("INSERT INTO t VALUES(2)")]);
    let (repeat, mut twice) = request(2000, vec![text("INSERT INTO t VALUES(2)")]);
    pair.writer.jobs([StoreJob::Write(plain), StoreJob::Write(repeat)]);
    pair.settle();
    let once = answer(&mut once).expect("answered").expect("done");
    let twice = answer(&mut twice).expect("answered").expect("done");
    assert_eq!((twice.replayed, twice.position), (true, once.position));
    // Its client learns it with an unknown outcome, and sends it as a key.
    let (mut told_again, mut thrice) = request(2000, vec![text("INSERT INTO t VALUES(2)")]);
    told_again.idempotency_key = Some(format!("{:032x}", 2000));
    pair.writer.jobs([StoreJob::Write(told_again)]);
    pair.settle();
    let thrice = answer(&mut thrice).expect("answered").expect("done");
    assert_eq!((thrice.replayed, thrice.position), (true, once.position));
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 2);
    pair.check();
}

/// That nothing changed is an answer like any other: under a key it is logged,
/// and the next writer gives the same one. An error did nothing and is not.
#[test]
fn a_keyed_request_that_changed_nothing_is_remembered_and_an_error_is_not() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a UNIQUE)");
    let update = "UPDATE t SET a = 2 WHERE a = 1 RETURNING a";
    let send = |pair: &mut Pair, id: u128, key: &str, sql: &str| {
        let (mut request, mut reply) = request(id, vec![text(sql)]);
        request.idempotency_key = Some(key.into());
        pair.writer.jobs([StoreJob::Write(request)]);
        pair.settle();
        answer(&mut reply).expect("answered")
    };
    let before = pair.last();
    let first = send(&mut pair, 1, "nothing", update).expect("done");
    assert!(!first.replayed && pair.last().seq == before.seq.next(), "it is logged");
    pair.check();
    pair.write("INSERT INTO t VALUES(1)");
    let again = send(&mut pair, 1, "nothing", update).expect("done");
    assert_eq!((again.replayed, again.body, again.position), (true, first.body.clone(), first.position));
    let refused = "INSERT INTO t VALUES(1)";
    assert!(matches!(send(&mut pair, 2, "error", refused), Err(WriteError::Sql(error)) if error.status == 409));
    pair.write("DELETE FROM t");
    assert!(!send(&mut pair, 2, "error", refused).expect("done").replayed, "nothing stood in its way any more");
    let Pair { writer, replica, .. } = &mut pair;
    std::mem::swap(writer, replica);
    pair.writer.pin(2, true);
    let third = send(&mut pair, 1, "nothing", update).expect("done");
    assert_eq!((third.replayed, third.body), (true, first.body));
    // Without a key there is nothing to log.
    let before = pair.last();
    pair.write("UPDATE t SET a = 2 WHERE a = 7");
    assert_eq!(pair.last(), before);
    pair.check();
}

/// A client that was told "unknown" and an id asks by that id, at this writer
/// after a restart or at the next one, and nothing is done twice.
#[test]
fn an_id_that_was_given_out_is_known_after_a_restart_and_at_the_next_writer() {
    const ID: u128 = 0xabcd << 64;
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    pair.write("INSERT INTO t VALUES('before')");
    let send = |pair: &mut Pair, key: Option<String>| {
        let (mut request, mut reply) = request(ID, vec![text("INSERT INTO t VALUES('once')")]);
        request.idempotency_key = key;
        pair.writer.jobs([StoreJob::Write(request)]);
        pair.settle();
        answer(&mut reply).expect("answered").expect("done")
    };
    let first = send(&mut pair, None);
    let others: Vec<_> = (0..5).map(|n| vec![with("INSERT INTO t VALUES(?1)", vec![Value::Integer(n)])]).collect();
    pair.send_all(others);
    pair.settle();
    let place = |answer: &WriteAnswer| (answer.position.seq, answer.position.term);
    for round in 0..4 {
        match round {
            0 => {}
            1 => {
                let Pair { writer, replica, log, requests } = pair;
                pair = Pair { writer: writer.reopen(), replica: replica.reopen(), log, requests };
                pair.writer.pin(1, true);
            }
            _ => {
                let Pair { writer, replica, .. } = &mut pair;
                std::mem::swap(writer, replica);
                pair.writer.pin(round, true);
            }
        }
        // Sent again by a node, and asked for by the client.
        for key in [None, Some(format!("{ID:032x}"))] {
            let again = send(&mut pair, key.clone());
            assert!(again.replayed, "round {round}, key {key:?}");
            assert_eq!(place(&again), place(&first), "round {round}, key {key:?}");
        }
        assert_eq!(count(&pair.writer, "SELECT count(*) FROM t WHERE a = 'once'"), 1);
        pair.check();
    }
}

#[test]
fn only_so_many_ids_are_kept() {
    let pair = Pair::new();
    let mut store = pair.writer;
    let engine = store.worker.inner.engine.as_mut().expect("open");
    let position = |seq| Position { seq: Seq(seq), ..Position::START };
    engine.begin().expect("begun");
    for first in (1..400_000).step_by(1000) {
        let done: Vec<_> = (first..first + 1000).map(|n| (position(n), RequestId(u128::from(n)))).collect();
        engine.write_recent(&done).expect("written");
    }
    let held = |engine: &mut super::super::open::Engine| {
        let sql = "SELECT min(first), max(first), sum(length(ids)) / 16 FROM _ha_recent";
        engine.conn.sql().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("read")
    };
    let (min, max, ids): (i64, i64, i64) = held(engine);
    assert_eq!(max, 399_001);
    assert!((262_144..264_000).contains(&ids) && min == max + 1000 - ids, "{min} {max} {ids}");
    engine.rollback();
}

/// G2: the writer never hears that its entry was acknowledged. It rolls back and
/// says "unknown"; the entry is committed all the same by the next writer, and
/// then this node has it like every other: no phantom, and nothing twice.
#[test]
fn puback_lost_outcome_unknown() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let (first, mut reply) = request(1000, vec![text("INSERT INTO t VALUES(1)")]);
    pair.writer.jobs([StoreJob::Write(first)]);
    let (id, entries) = pair.place();
    let place = StoreJob::Proposed { id, first: entries[0].seq, last: entries[0].position() };
    pair.writer.jobs([place, StoreJob::Unknown { id }]);
    assert!(matches!(answer(&mut reply), Some(Err(WriteError::Unknown))));
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 0, "it was rolled back");
    pair.replica.apply(&entries);
    pair.writer.apply(&entries);
    pair.check();
    // The client asks by the id that it was given.
    let (mut again, mut reply) = request(1000, vec![text("INSERT INTO t VALUES(1)")]);
    again.idempotency_key = Some(format!("{:032x}", 1000));
    pair.writer.jobs([StoreJob::Write(again)]);
    pair.settle();
    assert!(answer(&mut reply).expect("answered").expect("done").replayed);
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 1);
    pair.check();
}

/// G10: the log is the outbox. Rows, position, and what makes a repetition known
/// are in one transaction: whenever the process dies, they agree.
#[test]
fn outbox_same_tx() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let agree = |store: &Store, rows: i64| {
        assert_eq!(count(store, "SELECT count(*) FROM t"), rows);
        assert_eq!(count(store, "SELECT seq FROM _ha_position"), rows + 1);
        assert_eq!(count(store, "SELECT sum(length(ids)) / 16 FROM _ha_recent"), rows + 1);
        assert_eq!(count(store, "SELECT count(*) FROM _ha_requests"), rows);
    };
    for n in 0..6 {
        let (mut keyed, _reply) = request(2000 + n, vec![text("INSERT INTO t VALUES(1)")]);
        keyed.idempotency_key = Some(format!("key {n}"));
        pair.writer.jobs([StoreJob::Write(keyed)]);
        let (id, entries) = pair.place();
        let rows = n as i64;
        agree(&pair.writer, rows);
        if n % 2 == 0 {
            // It dies with the entry logged and nothing committed.
            let Pair { writer, replica, log, requests } = pair;
            pair = Pair { writer: writer.reopen(), replica, log, requests };
            agree(&pair.writer, rows);
            pair.writer.apply(&entries);
            pair.writer.pin(1, true);
        } else {
            let place = StoreJob::Proposed { id, first: entries[0].seq, last: entries[0].position() };
            pair.writer.jobs([place, StoreJob::Apply { entries: entries.clone() }]);
        }
        pair.replica.apply(&entries);
        agree(&pair.writer, rows + 1);
        agree(&pair.replica, rows + 1);
    }
    pair.check();
}

/// Of a request that was given up while it waited nothing is done; one that is
/// being run can't be given up.
#[test]
fn a_request_that_was_given_up_is_never_run() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let (gone, mut reply) = request(1000, vec![text("INSERT INTO t VALUES('gone')")]);
    let (kept, mut other) = request(1001, vec![text("INSERT INTO t VALUES('kept')")]);
    let turns = [gone.turn.clone(), kept.turn.clone()];
    assert!(turns[0].give_up());
    pair.writer.jobs([StoreJob::Write(gone), StoreJob::Write(kept)]);
    assert!(!turns[1].give_up(), "it runs");
    pair.settle();
    assert!(reply.try_recv().is_err(), "nobody waits for an answer");
    told(&mut other).expect("done");
    assert_eq!(count(&pair.writer, "SELECT group_concat(a) = 'kept' FROM t"), 1);
    pair.check();
}

#[test]
fn a_key_is_forgotten_after_a_day_of_the_logs_time() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let send = |pair: &mut Pair| {
        let (mut request, mut reply) = request(1, vec![text("INSERT INTO t VALUES(1)")]);
        request.idempotency_key = Some("k".into());
        pair.writer.jobs([StoreJob::Write(request)]);
        pair.settle();
        answer(&mut reply).expect("answered").expect("done").replayed
    };
    assert!(!send(&mut pair));
    assert!(send(&mut pair));
    let hlc = Hlc::new(1_700_000_000_000 + 25 * 3600 * 1000, 0);
    let later = Entry::following(&pair.last(), StreamId::SHARED, Term(1), hlc, EntryKind::Noop, Bytes::new());
    pair.log.push(later.clone());
    pair.writer.apply(std::slice::from_ref(&later));
    pair.replica.apply(&[later]);
    assert!(!send(&mut pair));
    pair.check();
}

#[test]
fn a_row_that_changes_after_the_cut_vetoes_the_commit() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let mut reply = pair.send(vec![text("INSERT INTO t VALUES(1)")]);
    let engine = pair.writer.worker.inner.engine.as_mut().expect("open");
    engine.conn.sql().execute_batch("INSERT INTO t VALUES('out of nowhere')").expect("inserted");
    pair.settle();
    // Its entry is committed all the same, and is applied as it is.
    assert!(matches!(answer(&mut reply), Some(Err(WriteError::Unknown))));
    pair.check();
    pair.write("INSERT INTO t VALUES(2)");
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 2);
    pair.check();
}

#[test]
fn nobody_but_the_store_commits() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    let engine = pair.writer.worker.inner.engine.as_mut().expect("open");
    assert!(engine.conn.sql().execute_batch("INSERT INTO t VALUES(1)").is_err(), "a commit that nobody ordered");
    assert_eq!(count(&pair.writer, "SELECT count(*) FROM t"), 0);
}

#[test]
fn a_panic_in_the_capture_loses_the_request_and_nothing_else() {
    let mut pair = Pair::new();
    pair.write("CREATE TABLE t(a)");
    // The hook finds the capture borrowed: the same path as a panic's.
    let engine = pair.writer.worker.inner.engine.as_mut().expect("open");
    use super::super::sys::Hooks;
    let ctx = engine.ctx.clone();
    engine.begin().expect("begun");
    {
        let _held = ctx.capture.borrow_mut();
        engine.conn.sql().execute_batch("INSERT INTO t VALUES(1)").expect("inserted");
    }
    assert!(!ctx.may_commit());
    ctx.commit_ordered.set(true);
    assert!(!ctx.may_commit(), "a row was lost and the COMMIT was let through");
    ctx.commit_ordered.set(false);
    engine.rollback();
    drop(ctx);
    pair.write("INSERT INTO t VALUES(2)");
    pair.check();
}
