//! What a start finds: directories, versions, locks, memberships, damage.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn empty_disk_same_name() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("a/b");
    let (log, _) = opened(&env, &path).expect("opens");
    assert!(log.fresh());
    let first = log.hard_state().clone();
    assert_ne!(first.incarnation, Incarnation(0));
    assert_eq!((first.term, &first.voted_for), (Term(0), &None));
    drop(log);
    let (again, _) = opened(&env, &path).expect("opens");
    assert!(!again.fresh());
    assert_eq!(again.hard_state(), &first);
    drop(again);
    fs::remove_dir_all(&path).expect("removed");
    let (new, _) = opened(&env, &path).expect("opens");
    assert!(new.fresh());
    assert_ne!(new.hard_state().incarnation, first.incarnation, "an empty disk is a stranger");
}

#[test]
fn what_was_appended_is_there_again() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, found) = Log::start(&env, dir.path(), Position::START);
    assert!(!found.amnesia && found.tail.is_empty() && found.memberships.is_empty());
    let first = chain(Position::START, 1, 10);
    let conf = config(ends(&first), 2, &membership(1));
    let last = chain(conf.position(), 4, 5);
    log.append(None, &first);
    log.append(None, &[std::slice::from_ref(&conf), &last[..]].concat());
    let vote = (NodeId::new("base-1").expect("legal"), Incarnation(5));
    let hard = HardState { term: Term(4), voted_for: Some(vote), cluster: ClusterId(7), ..found.hard };
    log.store(hard.clone());
    log.close();

    let (mut log, found) = Log::start(&env, dir.path(), first[4].position());
    let all = [&first[..], std::slice::from_ref(&conf), &last[..]].concat();
    assert_eq!(found.hard, HardState { high_water: ends(&last), ..hard });
    assert_eq!(found.log_base, Position::START);
    assert_eq!(found.tail, positions(&all));
    assert_eq!(found.terms, [(Seq(1), Term(1)), (Seq(11), Term(2)), (Seq(12), Term(4))]);
    assert_eq!(found.memberships, [(Seq(11), membership(1))]);
    assert_eq!(found.hlc, last[4].hlc);
    assert_eq!((found.applied, found.content), (first[4].position(), ContentHash(1)));
    assert!(!found.amnesia);
    assert_eq!(log.load(1, 16, 1 << 20), (Position::START, all.clone()));
    assert_eq!(log.load(3, 5, 1 << 20), (all[1].position(), all[2..5].to_vec()));
    assert_eq!(log.load(3, 99, 1 << 20).1.len(), 14, "as far as there is");
    assert_eq!(log.load(3, 9, 0).1, all[2..3], "at least one");
    assert_eq!(log.load(17, 18, 1 << 20).1, []);
    let read = log.ask(|reply| LogJob::LoadForApply { from: Seq(16), through: Seq(16), bytes_max: 1, reply });
    assert_eq!(read.expect("read"), all[15..]);
    let gone = log.ask(|reply| LogJob::LoadForApply { from: Seq(17), through: Seq(17), bytes_max: 1, reply });
    assert_eq!(gone.expect_err("not there").code, "log_range_gone");
}

/// A store's own membership is the last committed one; only what the log
/// holds after it is added.
#[test]
fn memberships_come_from_the_store_and_the_log_after_it() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let one = config(Position::START, 1, &membership(1));
    let two = config(one.position(), 1, &membership(2));
    let three = config(two.position(), 1, &membership(3));
    log.append(None, &[one, two.clone(), three]);
    log.close();
    let (mut log, _) = opened(&env, dir.path()).expect("opens");
    let found = log.recovered(two.position(), ContentHash(1), Some((Seq(2), membership(2)))).expect("recovers");
    assert_eq!(found.memberships, [(Seq(2), membership(2)), (Seq(3), membership(3))]);
}

/// Positions below the applied one are bounded, those above are all there.
#[test]
fn the_tail_is_bounded_below_the_applied_position() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let all = chain(Position::START, 1, Recovered::TAIL_MAX as u64 + 1000);
    log.append(None, &all);
    log.close();
    let found = recover(&env, dir.path(), all[Recovered::TAIL_MAX + 500 - 1].position());
    assert_eq!(found.tail, positions(&all[500..]));
}

#[test]
fn two_processes_can_not_share_a_directory() {
    const CHILD: &str = "BASE_HA_TEST_LOCK_CHILD";
    if let Ok(path) = std::env::var(CHILD) {
        let error = opened(&Still::new(), Path::new(&path)).err().expect("refused");
        println!("child: {} {}", error.code, error.message);
        return;
    }
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (log, _) = opened(&env, dir.path()).expect("opens");
    let name = "log::tests::start::two_processes_can_not_share_a_directory";
    let child = std::process::Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, dir.path())
        .output()
        .expect("child ran");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}");
    assert!(said.contains("child: data_dir_locked"), "{said}");
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    drop(log);
    assert!(opened(&env, dir.path()).is_ok(), "free again");
}

#[test]
fn a_newer_directory_is_refused_and_untouched() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    drop(opened(&env, dir.path()).expect("opens"));
    fs::write(dir.path().join("FORMAT"), "base-ha 2\n").expect("written");
    let before = fs::read(dir.path().join("hard_state")).expect("read");
    assert_eq!(opened(&env, dir.path()).err().expect("refused").code, "data_dir_newer");
    assert_eq!(fs::read(dir.path().join("hard_state")).expect("read"), before);
    for (text, code) in [("base-ha x", "data_dir_unknown"), ("", "data_dir_unknown"), ("base-ha 0", "data_dir_unknown")]
    {
        fs::write(dir.path().join("FORMAT"), text).expect("written");
        assert_eq!(opened(&env, dir.path()).err().expect("refused").code, code);
    }
    fs::remove_file(dir.path().join("FORMAT")).expect("removed");
    assert_eq!(opened(&env, dir.path()).err().expect("refused").code, "data_dir_unknown");
}

#[test]
fn an_unusable_directory_is_named_with_the_mend() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    for path in [file.join("below"), file] {
        let error = opened(&env, &path).err().expect("refused");
        assert_eq!(error.code, "data_dir_unwritable");
        assert!(error.message.contains(&path.display().to_string()), "{}", error.message);
        assert!(error.message.contains("--dir"), "{}", error.message);
    }
}

#[test]
fn files_are_for_their_owner_only() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("data");
    let (mut log, _) = Log::start(&env, &path, Position::START);
    log.append(None, &chain(Position::START, 1, 3));
    let mode = |p: &Path| fs::metadata(p).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let mut seen = 0;
    for file in fs::read_dir(&path).expect("listed") {
        let file = file.expect("listed").path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        seen += 1;
    }
    assert!(seen >= 5, "FORMAT, lock, hard_state, log.db and its WAL");
}

#[test]
fn a_lost_hard_state_is_refused_once_there_are_entries() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (log, _) = Log::start(&env, dir.path(), Position::START);
    log.close();
    fs::remove_file(dir.path().join("hard_state")).expect("removed");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    log.append(None, &chain(Position::START, 1, 3));
    log.close();
    fs::remove_file(dir.path().join("hard_state")).expect("removed");
    assert_eq!(opened(&env, dir.path()).err().expect("refused").code, "hard_state_missing");
    assert!(!dir.path().join("hard_state").exists());
}

/// Whatever is wrong with `log.db`, the start says so by amnesia, keeps the
/// file, and goes on from what `data.db` contains.
#[test]
fn a_damaged_log_is_set_aside_and_is_amnesia() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    // Payloads fill pages of their own, so that a flipped byte hits one.
    let all = chain_of(Position::START, 1, 40, |n| Bytes::from(vec![n as u8; 6000]));
    log.append(None, &all);
    log.close();
    let store = all[19].position();
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 6] = [
        ("gone", |p| fs::remove_file(p).expect("removed")),
        ("gone but for a WAL", |p| {
            fs::remove_file(p).expect("removed");
            fs::write(p.with_file_name("log.db-wal"), "whatever").expect("written");
        }),
        ("empty", |p| fs::write(p, "").expect("written")),
        ("not a database", |p| fs::write(p, vec![b'x'; 50_000]).expect("written")),
        ("cut", |p| fs::write(p, &fs::read(p).expect("read")[..30_000]).expect("written")),
        ("flipped", |p| {
            let mut bytes = fs::read(p).expect("read");
            let run = [30u8; 64];
            let at = bytes.windows(64).position(|w| w == run).expect("entry 30's payload");
            bytes[at + 10] ^= 4;
            fs::write(p, bytes).expect("written");
        }),
    ];
    for (name, harm) in harms {
        let copy = copy_of(dir.path());
        harm(&copy.path().join("log.db"));
        let (mut log, found) = Log::start(&env, copy.path(), store);
        assert!(found.amnesia, "{name}");
        assert_eq!((found.log_base, found.tail.len()), (store, 0), "{name}");
        let aside = fs::read_dir(copy.path())
            .expect("listed")
            .filter(|f| f.as_ref().expect("listed").file_name().to_string_lossy().starts_with("log.db.damaged-"))
            .count();
        assert!(aside > 0 || name == "gone", "{name}");
        // It learns again; the fact stays until the incarnation changes.
        log.append(None, &all[20..25]);
        log.tick(Duration::from_secs(5));
        log.store(HardState { term: Term(9), ..found.hard.clone() });
        log.close();
        let (mut log, found) = Log::start(&env, copy.path(), store);
        assert!(found.amnesia, "{name}");
        assert_eq!(found.tail, positions(&all[20..25]), "{name}");
        log.store(HardState { incarnation: Incarnation(4711), ..found.hard });
        log.close();
        let found = recover(&env, copy.path(), store);
        assert!(!found.amnesia, "{name}");
        assert_eq!(found.hard.high_water, all[24].position(), "{name}");
    }
}

/// Damage below what the start reads back shows when it is read: the process
/// ends, and the next start is an amnesiac's.
#[test]
fn a_corrupt_middle_is_never_cut_out() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let all = chain_of(Position::START, 1, 40, |n| Bytes::from(vec![n as u8; 6000]));
    log.append(None, &all);
    log.close();
    let path = dir.path().join("log.db");
    let mut bytes = fs::read(&path).expect("read");
    let at = bytes.windows(64).position(|w| w == [10u8; 64]).expect("entry 10's payload");
    bytes[at + 10] ^= 4;
    fs::write(&path, bytes).expect("written");

    let (mut log, found) = Log::start(&env, dir.path(), ends(&all));
    assert!(!found.amnesia, "not seen yet");
    assert_eq!(log.load(11, 20, 1 << 20).1, all[10..20]);
    log.run([LogJob::Load { id: 1, from: Seq(5), through: Seq(15), bytes_max: 1 << 20 }]);
    assert!(log.fatal().expect("the process must end").contains("entry 10"));
    let more = chain(ends(&all), 1, 1);
    let job = log.persist(Record::Append { keep: None, entries: more });
    let before = log.persisted();
    log.run([job]);
    assert_eq!(log.persisted(), before, "nothing is confirmed any more");
    drop(log);
    let found = recover(&env, dir.path(), ends(&all));
    assert!(found.amnesia);
}

/// Damage below what `data.db` durably contains costs a lagging peer its
/// shortcut and nobody anything else.
#[test]
fn damage_below_the_checkpoint_shortens_the_log() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let all = chain_of(Position::START, 1, 40, |n| Bytes::from(vec![n as u8; 6000]));
    log.append(None, &all);
    log.close();
    let path = dir.path().join("log.db");
    let mut bytes = fs::read(&path).expect("read");
    for entry in [10u8, 30] {
        let at = bytes.windows(64).position(|w| w == [entry; 64]).expect("the entry's payload");
        bytes[at + 10] ^= 4;
    }
    fs::write(&path, bytes).expect("written");

    let (mut log, found) = Log::start(&env, dir.path(), ends(&all));
    assert!(!found.amnesia);
    log.run([LogJob::Trim { below: Seq(21) }]);
    assert_eq!(log.load(5, 15, 1 << 20), (all[19].position(), Vec::new()), "gone, as after a trim");
    assert_eq!(log.worker.stats().first(), Seq(21));
    assert_eq!(log.fatal(), None);
    assert_eq!(log.load(21, 25, 1 << 20).1, all[20..25]);
    // Above it there is nothing to give up.
    log.run([LogJob::Load { id: 1, from: Seq(25), through: Seq(35), bytes_max: 1 << 20 }]);
    assert!(log.fatal().expect("the process must end").contains("entry 30"));
    assert_eq!(log.worker.stats().first(), Seq(21));
}

#[test]
fn refounding_makes_this_node_the_only_voter() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, found) = Log::start(&env, dir.path(), Position::START);
    let conf = config(Position::START, 3, &membership(4));
    let data = chain(conf.position(), 5, 9);
    log.append(None, &[&[conf], &data[..]].concat());
    log.store(HardState { term: Term(8), cluster: ClusterId(7), ..found.hard.clone() });
    let held = opened(&env, dir.path()).err().expect("the node still runs");
    assert_eq!(held.code, "data_dir_locked");
    log.close();

    let node = NodeId::new("base-1").expect("legal");
    let url = Url::new("http://10.0.0.9:8090");
    let applied = data[3].position();
    let (log, _) = opened(&env, dir.path()).expect("opens");
    let done = log.refound(&node, &url, applied, None).expect("refounds");
    assert_eq!((done.old_cluster, done.kept, done.applied), (ClusterId(7), ends(&data), applied));
    assert_eq!((done.term, done.lineage), (Term(9), Lineage(2)));
    assert_ne!(done.new_cluster, ClusterId(7));
    assert_eq!(done.left_behind.len(), 2);

    let found = recover(&env, dir.path(), applied);
    assert!(!found.amnesia);
    assert_eq!(found.hard.cluster, done.new_cluster);
    assert_eq!(found.hard.incarnation, done.incarnation);
    assert_eq!(found.hard.high_water, done.founded);
    assert_eq!(found.tail.last(), Some(&done.founded));
    let (_, now) = found.memberships.last().expect("founded");
    assert_eq!((now.cluster, now.version, now.quorum()), (done.new_cluster, ConfigVersion(5), 1));
    assert!(now.is_voter(&node, done.incarnation));
}

/// The log's transaction is the whole of it: a crash before the hard state's
/// file was written is completed at the next start.
#[test]
fn refounding_survives_a_crash_before_the_hard_state() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    log.append(None, &[config(Position::START, 3, &membership(4))]);
    log.close();
    let old_hard = fs::read(dir.path().join("hard_state")).expect("read");
    let (log, _) = opened(&env, dir.path()).expect("opens");
    let node = NodeId::new("base-0").expect("legal");
    let done = log.refound(&node, &Url::new("http://127.0.0.1:1"), Position::START, None).expect("refounds");
    // As it was between the transaction and the file.
    let mark = {
        let found = recover(&env, dir.path(), Position::START);
        super::super::hard_state::encode_state(&found.hard)
    };
    fs::write(dir.path().join("hard_state"), old_hard).expect("written");
    let raw = rusqlite::Connection::open(dir.path().join("log.db")).expect("opens");
    raw.execute("INSERT INTO meta VALUES ('refound', ?1)", [mark]).expect("noted");
    drop(raw);
    let found = recover(&env, dir.path(), Position::START);
    assert_eq!((found.hard.cluster, found.hard.incarnation), (done.new_cluster, done.incarnation));
    assert!(!found.amnesia);
    let raw = rusqlite::Connection::open(dir.path().join("log.db")).expect("opens");
    let left: i64 = raw.query_row("SELECT count(*) FROM meta", [], |r| r.get(0)).expect("counted");
    assert_eq!(left, 0);
}

#[test]
fn a_directory_without_a_cluster_can_not_be_refounded() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (log, _) = opened(&env, dir.path()).expect("opens");
    let node = NodeId::new("base-0").expect("legal");
    let error = log.refound(&node, &Url::new("http://127.0.0.1:1"), Position::START, None).expect_err("refused");
    assert_eq!(error.code, "nothing_to_refound");
}
