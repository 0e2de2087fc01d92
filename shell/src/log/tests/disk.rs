//! Durability, a full disk, failing writes, trimming, forgetting.

use super::*;
use base_ha_core::io::StoreHealth;

/// At the moment at which a record is confirmed, a crash no longer loses it
/// (B8: what is answered as accepted is on disk).
#[test]
fn a_confirmed_record_is_durable() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().to_owned();
    let seen: Arc<Mutex<Vec<(PersistId, Recovered)>>> = Arc::default();
    let (sink, of, world) = (seen.clone(), path.clone(), env.clone());
    let mut log = open(env.clone(), &path, LIMITS, move |event| {
        if let NodeEvent::Persisted(id) = event {
            let copy = copy_of(&of);
            sink.lock().expect("not poisoned").push((id, recover(&world, copy.path(), Position::START)));
        }
    })
    .expect("opens");
    let found = log.recovered(Position::START, ContentHash(1), None).expect("recovers");
    let mut worker = log.into_worker().expect("starts");
    let all = chain(Position::START, 2, 30);
    let vote = HardState { term: Term(7), ..found.hard };
    let append = |from: usize, to: usize| Record::Append { keep: None, entries: all[from..to].to_vec() };
    let records = [append(0, 10), append(10, 20), Record::HardState(vote), append(20, 25), append(25, 30)];
    let mut jobs: VecDeque<LogJob> =
        records.into_iter().zip(1..).map(|(record, id)| LogJob::Persist { id, record }).collect();
    worker.run(&mut jobs);
    let seen = seen.lock().expect("not poisoned");
    let ids: Vec<PersistId> = seen.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [2, 3, 5], "one fsync for neighbours, the vote in its place");
    assert_eq!(seen[0].1.tail, positions(&all[..20]));
    assert_eq!(seen[0].1.hard.term, Term(0));
    assert_eq!(seen[1].1.hard.term, Term(7));
    assert_eq!(seen[2].1.tail, positions(&all));
    assert!(seen.iter().all(|(_, r)| !r.amnesia));
    assert_eq!(worker.stats().syncs(), 2);
    assert_eq!(worker.stats().entries_appended(), 30);
}

/// The connection that appends waits for the disk at every commit.
#[test]
fn every_commit_is_synced() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("log.db");
    super::super::entries::Entries::create(&crate::env::files::RealFiles, &path, None).expect("made");
    let mut log = super::super::entries::Entries::open(&path).expect("opens");
    let pragma = |log: &super::super::entries::Entries, name: &str| -> String {
        log.connection()
            .query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|v| format!("{v:?}"))
            .expect("read")
    };
    for _ in 0..2 {
        assert_eq!(pragma(&log, "synchronous"), "Integer(2)");
        assert_eq!(pragma(&log, "journal_mode"), "Text(\"wal\")");
        assert_eq!(pragma(&log, "locking_mode"), "Text(\"exclusive\")");
        // A trim relaxes it and must put it back.
        let more = chain(log.end(), 1, 4);
        log.append(&[super::super::entries::Change { keep: None, entries: &more }], WallTime(0)).expect("appended");
        log.trim(more[1].seq).expect("trimmed");
    }
}

fn set_max_pages(log: &Log, pages: i64) {
    let conn = log.worker.connection().expect("open");
    conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).expect("set");
}

#[test]
fn a_full_disk_confirms_nothing_and_is_survived() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, found) = Log::start(&env, dir.path(), Position::START);
    let first = chain(Position::START, 1, 10);
    log.append(None, &first);
    set_max_pages(&log, 1);
    let large = chain_of(ends(&first), 1, 4, |_| Bytes::from(vec![7; 100_000]));
    let (a, b) = (
        log.persist(Record::Append { keep: None, entries: large.clone() }),
        log.persist(Record::HardState(HardState { term: Term(3), ..found.hard })),
    );
    let confirmed = log.persisted();
    log.run([a, b]);
    assert_eq!(log.persisted(), confirmed, "neither the record nor the one behind it");
    let healths = |log: &Log| -> Vec<StoreHealth> {
        let events = log.events.lock().expect("not poisoned");
        events
            .iter()
            .filter_map(|e| if let NodeEvent::Health(crate::api::Organ::Log, h) = e { Some(*h) } else { None })
            .collect()
    };
    assert_eq!(healths(&log), [StoreHealth::Full]);
    for _ in 0..3 {
        log.tick(Duration::from_secs(10));
    }
    assert_eq!(healths(&log), [StoreHealth::Full], "said once");
    assert_eq!(log.load(5, 20, 1 << 20).1, first[4..], "reads go on, of what is certain");
    let copy = log.crash_copy();
    let read = recover(&env, copy.path(), Position::START);
    assert_eq!((read.tail, read.hard.term), (positions(&first), Term(0)), "nothing of it is on disk");
    let refused = log.ask(|reply| LogJob::BeginInstall { position: ends(&large), keep_log: false, reply });
    assert_eq!(refused.expect_err("in order, behind the record").code, "disk_full");

    set_max_pages(&log, 1 << 20);
    log.run([LogJob::Tick]);
    assert_eq!(log.persisted(), confirmed, "backs off");
    log.tick(Duration::from_secs(10));
    assert_eq!(log.persisted(), Some(log.id));
    assert_eq!(healths(&log), [StoreHealth::Full, StoreHealth::Well]);
    assert_eq!(log.load(11, 20, 1 << 20).1, large);
    assert_eq!(log.fatal(), None);
}

/// A write that failed for any other reason ends the process and is never
/// tried again (R11).
#[test]
fn a_failed_write_is_fatal_and_never_repeated() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let all = chain(Position::START, 1, 10);
    log.append(None, &all[..5]);
    let forbid = "CREATE TEMP TRIGGER no BEFORE INSERT ON main.entries BEGIN SELECT RAISE(ABORT, 'no'); END";
    log.worker.connection().expect("open").execute_batch(forbid).expect("forbidden");
    let job = log.persist(Record::Append { keep: None, entries: all[5..].to_vec() });
    log.run([job]);
    assert_eq!(log.persisted(), Some(1));
    assert!(log.fatal().is_some());
    log.worker.connection().expect("open").execute_batch("DROP TRIGGER no").expect("allowed");
    log.tick(Duration::from_secs(60));
    assert_eq!(log.persisted(), Some(1), "not even when it would succeed");
    drop(log);
    assert_eq!(recover(&env, dir.path(), Position::START).tail, positions(&all[..5]));
}

#[test]
fn a_forgotten_suffix_is_kept_as_orphans() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let old = chain(Position::START, 1, 10);
    let noop = Entry::following(&ends(&old), StreamId::SHARED, Term(1), Hlc::new(9, 9), EntryKind::Noop, Bytes::new());
    log.append(None, &[&old[..], &[noop]].concat());
    log.tick(Duration::from_secs(2));
    let new = chain(old[6].position(), 2, 2);
    log.append(Some(7), &new);
    let now = [&old[..7], &new[..]].concat();
    assert_eq!(log.load(1, 99, 1 << 20).1, now);
    let list =
        |log: &mut Log, after| log.ask(|reply| LogJob::Orphans { after, bytes_max: 1 << 20, reply }).expect("listed");
    let orphans = list(&mut log, 0);
    let kept: Vec<Entry> = orphans.iter().map(|o| o.entry.clone()).collect();
    assert_eq!(kept, old[7..], "all but the no-op, as they were");
    assert!(orphans.iter().all(|o| o.forgotten == env.now().wall));
    let bytes: u64 = kept.iter().map(|e| e.payload.len() as u64).sum();
    assert_eq!((log.worker.stats().orphans(), log.worker.stats().orphan_bytes()), (3, bytes));
    log.close();

    let (mut log, found) = Log::start(&env, dir.path(), old[2].position());
    assert!(!found.amnesia, "the mark went down before the log did");
    assert_eq!(found.tail, positions(&now));
    assert_eq!(found.terms, [(Seq(1), Term(1)), (Seq(8), Term(2))]);
    assert_eq!(log.worker.stats().orphans(), 3);
    assert_eq!(list(&mut log, orphans[0].id), orphans[1..]);
    assert!(log.ask(|reply| LogJob::ReleaseOrphan { id: orphans[1].id, reply }).expect("released"));
    assert!(!log.ask(|reply| LogJob::ReleaseOrphan { id: orphans[1].id, reply }).expect("there is none"));
    assert_eq!(list(&mut log, 0), [orphans[0].clone(), orphans[2].clone()]);
    assert_eq!(log.worker.stats().orphans(), 2);
}

/// A crash between lowering the mark and cutting the log, and one after it,
/// both look healthy.
#[test]
fn cutting_the_log_is_no_amnesia_at_any_crash_point() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let old = chain(Position::START, 1, 10);
    log.append(None, &old);
    log.tick(Duration::from_secs(2));
    let before = log.crash_copy();
    assert_eq!(recover(&env, before.path(), old[2].position()).hard.high_water, ends(&old), "noted");
    log.append(Some(4), &chain(old[3].position(), 2, 1));
    let after = log.crash_copy();
    // Old log, new mark: what a crash between the two leaves.
    std::fs::copy(after.path().join("hard_state"), before.path().join("hard_state")).expect("copied");
    for (copy, end) in [(&before, 10), (&after, 5)] {
        let found = recover(&env, copy.path(), old[2].position());
        assert!(!found.amnesia);
        assert_eq!(found.tail.len(), end);
    }
}

#[test]
fn the_log_is_trimmed_by_size_and_age_and_never_beyond_the_bound() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let limits = LogLimits { bytes_max: 200_000, age_max: Duration::from_secs(3600) };
    let (mut log, _) = Log::start_with(&env, dir.path(), Position::START, None, limits);
    let conf = config(Position::START, 1, &membership(1));
    let conf2 = config(conf.position(), 1, &membership(2));
    let mut all = vec![conf, conf2];
    all.extend(chain_of(ends(&all), 2, 98, |_| Bytes::from(vec![7; 10_000])));
    all.extend(chain_of(ends(&all), 3, 10, |_| Bytes::from(vec![7; 10_000])));
    log.append(None, &all);
    log.run([LogJob::Trim { below: Seq(31) }]);
    let trimmed = |log: &Log| -> Vec<(Seq, Position)> {
        let events = log.events.lock().expect("not poisoned");
        let one = |e: &NodeEvent| match e {
            NodeEvent::Trimmed { first, base } => Some((*first, *base)),
            _ => None,
        };
        events.iter().filter_map(one).collect()
    };
    assert_eq!(trimmed(&log), [(Seq(31), all[29].position())], "no further than it may");
    assert_eq!(log.load(30, 40, 1 << 20).1, [], "gone");
    assert_eq!(log.load(31, 31, 1 << 20), (all[29].position(), vec![all[30].clone()]));
    log.run([LogJob::Trim { below: Seq(106) }]);
    let (first, base) = *trimmed(&log).last().expect("trimmed");
    assert!(first > Seq(80) && first < Seq(100), "only as far as the size asks for: {first}");
    assert_eq!(log.worker.stats().first(), first);
    assert!(log.worker.stats().bytes() < 250_000);
    let known = trimmed(&log).len();
    log.tick(Duration::from_secs(1));
    assert_eq!(trimmed(&log).len(), known, "small enough");
    let copy = log.crash_copy();
    log.close();
    for path in [dir.path(), copy.path()] {
        let found = recover(&env, path, ends(&all));
        assert!(!found.amnesia);
        assert_eq!(found.log_base, base);
        assert_eq!(found.tail, positions(&all[base.seq.0 as usize..]));
        assert_eq!(found.terms, [(first, Term(2)), (Seq(101), Term(3))]);
        assert_eq!(found.memberships, [(Seq(2), membership(2))], "kept with the base: a witness has no other");
    }
    // Age takes the rest, whatever the size.
    env.pass(Duration::from_secs(7200));
    let (mut log, _) = Log::start_with(&env, dir.path(), ends(&all), None, limits);
    log.run([LogJob::Trim { below: Seq(111) }]);
    assert_eq!(trimmed(&log), [(Seq(111), ends(&all))]);
    log.append(None, &chain(ends(&all), 3, 1));
    log.close();
    let found = recover(&env, dir.path(), ends(&all));
    assert_eq!((found.terms, found.tail.len()), (vec![(Seq(111), Term(3))], 1));
    assert!(found.hlc >= all[109].hlc);
}

/// A long trim is many short transactions; appends go in between.
#[test]
fn trimming_yields_to_appends() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let limits = LogLimits { bytes_max: 1, age_max: Duration::from_secs(3600) };
    let (mut log, _) = Log::start_with(&env, dir.path(), Position::START, None, limits);
    let all = chain(Position::START, 1, 5000);
    log.append(None, &all);
    log.run([LogJob::Trim { below: Seq(4801) }]);
    assert_eq!(log.worker.stats().first(), Seq(2049), "one chunk");
    log.append(None, &chain(ends(&all), 1, 1));
    log.tick(Duration::ZERO);
    assert_eq!(log.worker.stats().first(), Seq(4801));
}

/// A reader that needs what was trimmed is told so; it never gets a later
/// entry in its place (G5).
#[test]
fn retention_gap_detected() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let limits = LogLimits { bytes_max: 1, age_max: Duration::from_secs(3600) };
    let (mut log, _) = Log::start_with(&env, dir.path(), Position::START, None, limits);
    let all = chain(Position::START, 1, 20);
    log.append(None, &all);
    log.run([LogJob::Trim { below: Seq(11) }]);
    assert_eq!(log.load(5, 20, 1 << 20), (all[9].position(), Vec::new()));
    let gone = log.ask(|reply| LogJob::LoadForApply { from: Seq(10), through: Seq(20), bytes_max: 1, reply });
    assert_eq!(gone.expect_err("gone").code, "log_range_gone");
    log.close();
    // A `data.db` that is older than the log: nothing is pretended.
    let found = recover(&env, dir.path(), all[3].position());
    assert_eq!((found.applied, found.log_base), (all[3].position(), all[9].position()));
    assert!(!found.amnesia, "the log itself is whole");
    assert_eq!(found.tail, positions(&all[10..]));
}
