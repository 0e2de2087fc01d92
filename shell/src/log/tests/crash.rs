//! Crashes and power cuts: the WAL torn anywhere, tails that vanish.

use super::*;
use std::fs;

/// A WAL torn at any point leaves a prefix of what was appended, whole
/// transactions of it, and amnesia is found exactly when that prefix ends
/// below what the log certainly reached.
#[test]
fn a_torn_wal_leaves_a_prefix_and_amnesia_is_noticed() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let (mut all, mut groups) = (Vec::new(), vec![0usize]);
    for n in 0..60u64 {
        let prev = all.last().map_or(Position::START, Entry::position);
        let size = (n * 37 % 900) as usize;
        let more = chain_of(prev, 1 + n / 20, 1 + n % 7, |_| Bytes::from(vec![n as u8; size]));
        log.append(None, &more);
        all.extend(more);
        groups.push(all.len());
        if n == 39 {
            log.tick(Duration::from_secs(2));
        }
    }
    let copy = log.crash_copy();
    let marked = recover(&env, copy.path(), Position::START).hard.high_water.seq.0;
    assert!(marked > 100 && marked < all.len() as u64, "{marked}");
    let copy = log.crash_copy();
    let wal = fs::read(copy.path().join("log.db-wal")).expect("read");
    assert!(wal.len() > 100 * 4096, "the test has a WAL to tear: {}", wal.len());
    let mut cuts: Vec<usize> = (0..wal.len()).step_by(4096).collect();
    let mut random = 12345usize;
    for _ in 0..60 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        cuts.push((random >> 16) % wal.len());
    }
    cuts.push(wal.len());
    let (mut whole, mut amnesiac) = (0, 0);
    for cut in cuts {
        let torn = copy_of(copy.path());
        fs::write(torn.path().join("log.db-wal"), &wal[..cut]).expect("written");
        let found = recover(&env, torn.path(), Position::START);
        let kept = found.tail.len();
        assert!(groups.contains(&kept), "cut at {cut}: {kept} entries are no whole transactions");
        assert_eq!(found.tail, positions(&all[..kept]), "cut at {cut}");
        assert_eq!(found.amnesia, (kept as u64) < marked, "cut at {cut}: {kept} entries");
        if found.amnesia {
            amnesiac += 1
        } else {
            whole += 1
        }
        if kept > 10 {
            // The same tail against what data.db contains.
            let torn = copy_of(copy.path());
            fs::write(torn.path().join("log.db-wal"), &wal[..cut]).expect("written");
            let found = recover(&env, torn.path(), ends(&all));
            assert_eq!(found.amnesia, kept < all.len(), "cut at {cut}");
            assert_eq!(found.log_base.seq.0 + found.tail.len() as u64, all.len() as u64, "agrees with the store");
        }
    }
    assert!(whole > 10 && amnesiac > 10, "{whole} {amnesiac}");
}

/// A flipped bit in the WAL silently drops everything after it: found by the
/// mark.
#[test]
fn a_bit_flip_in_the_wal_is_amnesia_until_a_new_incarnation() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let mut all = Vec::new();
    for _ in 0..50 {
        let prev = all.last().map_or(Position::START, Entry::position);
        let more = chain(prev, 1, 1);
        log.append(None, &more);
        all.extend(more);
    }
    log.tick(Duration::from_secs(2));
    let copy = log.crash_copy();
    let path = copy.path().join("log.db-wal");
    let mut wal = fs::read(&path).expect("read");
    let middle = wal.len() / 2;
    wal[middle] ^= 1;
    fs::write(&path, wal).expect("written");

    let (mut log, found) = Log::start(&env, copy.path(), Position::START);
    assert!(found.amnesia);
    let kept = found.tail.len();
    assert!(kept > 5 && kept < 45, "{kept}");
    // A crash now, appends, time: none of them makes it forget.
    log.append(None, &all[kept..]);
    log.append(None, &chain(ends(&all), 1, 5));
    log.tick(Duration::from_secs(5));
    log.store(HardState { term: Term(6), ..found.hard.clone() });
    log.close();
    let (mut log, found) = Log::start(&env, copy.path(), Position::START);
    assert!(found.amnesia, "the log is long enough again, the votes are not");
    assert_eq!((found.hard.term, found.hard.high_water), (Term(6), ends(&all)), "the evidence stays");
    log.store(HardState { incarnation: Incarnation(1), ..HardState::default() });
    log.close();
    assert!(!recover(&env, copy.path(), Position::START).amnesia);
}

/// Another history at the applied position, or at the mark, is as bad as none.
#[test]
fn another_history_is_amnesia() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let all = chain(Position::START, 1, 20);
    log.append(None, &all);
    log.close();
    let other = chain(all[9].position(), 2, 5);
    let found = recover(&env, dir.path(), ends(&other));
    assert!(found.amnesia);
    assert_eq!((found.log_base, found.tail.len()), (ends(&other), 0), "the log follows the store");
    let (mut log, _) = Log::start(&env, dir.path(), ends(&other));
    let orphans = log.ask(|reply| LogJob::Orphans { after: 0, bytes_max: 1 << 20, reply }).expect("listed");
    assert_eq!(orphans.into_iter().map(|o| o.entry).collect::<Vec<_>>(), all[14..], "nothing is thrown away");
}

/// A disk that was rolled back to an older copy of the log.
#[test]
fn a_rolled_back_log_is_amnesia() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let all = chain(Position::START, 1, 20);
    log.append(None, &all[..10]);
    let old = log.crash_copy();
    log.append(None, &all[10..]);
    log.close();
    fs::copy(dir.path().join("hard_state"), old.path().join("hard_state")).expect("copied");
    assert!(recover(&env, old.path(), all[9].position()).amnesia);
}
