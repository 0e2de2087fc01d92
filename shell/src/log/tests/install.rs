//! Snapshots: what the log does before and after `data.db` is replaced, and
//! what a crash in between is completed to (G14).

use super::*;

fn begin(log: &mut Log, position: Position) {
    log.ask(|reply| LogJob::BeginInstall { position, keep_log: false, reply }).expect("noted");
}

fn finish(log: &mut Log, position: Position) -> Result<bool, ApiError> {
    log.ask(|reply| LogJob::FinishInstall { position, membership: membership(3), reply })
}

/// An install that failed and changed nothing leaves no intent: much later the
/// node may come to be at that very position, by another way.
#[test]
fn an_intent_is_forgotten_with_its_install() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let own = chain(Position::START, 1, 20);
    let ahead = chain(own[4].position(), 2, 100);
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    log.append(None, &own);
    begin(&mut log, ends(&ahead));
    let noted = log.crash_copy();
    log.run([LogJob::ForgetInstall]);
    let forgotten = log.crash_copy();
    // As if `data.db` had been replaced: only with the intent is that no amnesia.
    let membership = Some((ends(&ahead).seq, membership(3)));
    let amnesia = |copy: &Path| {
        let (mut log, _) = opened(&env, copy).expect("opens");
        log.recovered(ends(&ahead), ContentHash(1), membership.clone()).expect("recovers").amnesia
    };
    assert!(!amnesia(noted.path()));
    assert!(amnesia(forgotten.path()));
}

/// Where a lost data.db comes from.
#[test]
fn what_is_lost_is_had_again_from_the_log_or_from_members() {
    use crate::log::Replacement;
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let from = |dir: &Path| opened(&env, dir).expect("opens").0.replacement().expect("readable");
    let own = chain(Position::START, 1, 20);
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    assert_eq!(from(log.crash_copy().path()), None, "nothing was ever written");
    log.append(None, &own);
    assert_eq!(from(log.crash_copy().path()), Some(Replacement::Log));
    let later = chain(ends(&own), 2, 30);
    begin(&mut log, ends(&later));
    finish(&mut log, ends(&later)).expect("finished");
    assert_eq!(from(log.crash_copy().path()), Some(Replacement::Members));
}

#[test]
fn snapshot_install_crash_points() {
    let env = Still::new();
    let own = chain(Position::START, 1, 20);
    let behind = chain(own[4].position(), 2, 100);
    let applied = own[9].position();
    // (what the snapshot contains, whether the log must restart there)
    let cases = [
        (ends(&behind), true, "the log is behind"),
        (behind[9].position(), true, "the log went another way"),
        (own[14].position(), false, "the log has it"),
        (ends(&own), false, "the log ends there"),
    ];
    for (snapshot, restarts, name) in cases {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut log, _) = Log::start(&env, dir.path(), Position::START);
        log.append(None, &own);
        log.run([LogJob::Trim { below: Seq(11) }]);
        log.tick(Duration::from_secs(2));
        let untouched = log.crash_copy();
        begin(&mut log, snapshot);
        let noted = log.crash_copy();
        let replaced = log.crash_copy();
        assert_eq!(finish(&mut log, snapshot).expect("finished"), restarts, "{name}");
        let finished = log.crash_copy();
        let kept = if restarts { Vec::new() } else { positions(&own) };
        let base = if restarts { snapshot } else { Position::START };

        // Crashes while data.db is still the old one: nothing happened.
        for copy in [&untouched, &noted] {
            let found = recover(&env, copy.path(), applied);
            assert!(!found.amnesia, "{name}");
            assert_eq!((found.log_base, found.tail), (Position::START, positions(&own)), "{name}");
            // The intent is gone with it: a later start does not see it.
            assert!(!recover(&env, copy.path(), applied).amnesia, "{name}");
        }
        // A crash after data.db was replaced, before the log was told.
        for _ in 0..2 {
            let (mut log, _) = opened(&env, replaced.path()).expect("opens");
            let found = log.recovered(snapshot, ContentHash(1), Some((snapshot.seq, membership(3)))).expect("recovers");
            assert!(!found.amnesia, "{name}: a snapshot is no amnesia");
            assert_eq!((found.log_base, &found.tail), (base, &kept), "{name}");
            assert_eq!(found.memberships.last(), Some(&(snapshot.seq, membership(3))), "{name}");
        }
        // A crash after everything.
        let found = recover(&env, finished.path(), snapshot);
        assert!(!found.amnesia, "{name}");
        assert_eq!((found.log_base, &found.tail), (base, &kept), "{name}");
        // The log goes on from there, and a witness knows the membership.
        if restarts {
            let orphans = log.ask(|reply| LogJob::Orphans { after: 0, bytes_max: 1 << 20, reply }).expect("listed");
            let entries: Vec<Entry> = orphans.into_iter().map(|o| o.entry).collect();
            assert_eq!(entries, own[10..], "{name}: what data.db did not durably hold is kept");
            assert_eq!(found.memberships, [(snapshot.seq, membership(3))], "{name}");
            let more = chain(snapshot, 3, 3);
            log.append(None, &more);
            assert_eq!(log.load(snapshot.seq.0 + 1, snapshot.seq.0 + 9, 1 << 20), (snapshot, more), "{name}");
        } else {
            log.append(None, &chain(ends(&own), 3, 3));
        }
        log.close();
        assert!(!recover(&env, dir.path(), snapshot).amnesia, "{name}");
    }
}

/// An install that was begun does not excuse a log that lost its tail.
#[test]
fn an_intent_for_another_snapshot_excuses_nothing() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let own = chain(Position::START, 1, 20);
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    log.append(None, &own[..10]);
    begin(&mut log, ends(&chain(Position::START, 9, 50)));
    log.close();
    assert!(recover(&env, dir.path(), ends(&own)).amnesia);
}

/// What lies between an old snapshot and the log's base would be nowhere.
#[test]
fn a_snapshot_older_than_the_log_is_refused() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let limits = LogLimits { bytes_max: 1, ..LIMITS };
    let (mut log, _) = Log::start_with(&env, dir.path(), Position::START, None, limits);
    let own = chain(Position::START, 1, 20);
    log.append(None, &own);
    log.run([LogJob::Trim { below: Seq(11) }]);
    // What was trimmed after the install began is noticed at its end.
    assert_eq!(finish(&mut log, own[4].position()).expect_err("refused").code, "snapshot_too_old");
    assert_eq!(log.load(11, 20, 1 << 20).1, own[10..], "nothing was lost");
    assert!(!finish(&mut log, own[9].position()).expect("the base itself will do"));
}

/// What does not fit is refused before `data.db` is replaced: afterwards the
/// only way on would be the end of the process.
#[test]
fn a_snapshot_that_does_not_fit_the_log_is_refused_at_first() {
    let env = Still::new();
    let own = chain(Position::START, 1, 20);
    let ahead = chain(ends(&own), 1, 5);
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    log.append(None, &own);
    let mut ask = |position, keep_log| log.ask(|reply| LogJob::BeginInstall { position, keep_log, reply });
    assert_eq!(ask(ends(&ahead), true).expect_err("the log does not hold it").code, "snapshot_ahead");
    ask(own[9].position(), true).expect("the log holds it");
    ask(ends(&ahead), false).expect("the log may start anew");
    finish(&mut log, ends(&ahead)).expect("finished");
    let older = log.ask(|reply| LogJob::BeginInstall { position: own[9].position(), keep_log: false, reply });
    assert_eq!(older.expect_err("the log begins later").code, "snapshot_too_old");
}
