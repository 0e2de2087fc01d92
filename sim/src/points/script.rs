//! What a node lives through while crashes and errors are enumerated.
//!
//! Decides the workload: one scenario for each thing that must survive being
//! interrupted. Each begins with a founded node that holds a few rows, but the
//! first, which begins with an empty disk.

use super::diary::Diary;
use super::rig::{Copy, KEEP_ALL, Rig, Step, Stopped};
use crate::vfs::{Fate, Image, VirtualDisk};
use base_ha::log::LogLimits;
use base_ha_core::entry::EntryKind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// One scenario.
#[derive(Clone, Copy)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// It begins with an empty disk.
    empty: bool,
    /// Its points are so many, or so dear, that one in so many is tried.
    pub(super) every: u64,
    run: fn(&mut Rig, &Prepared) -> Step,
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "birth", empty: true, every: 1, run: birth },
    Scenario { name: "writes", empty: false, every: 1, run: writes },
    Scenario { name: "schema", empty: false, every: 1, run: schema },
    Scenario { name: "checkpoint", empty: false, every: 1, run: checkpoint },
    Scenario { name: "log-checkpoint", empty: false, every: 4, run: log_checkpoint },
    Scenario { name: "terms", empty: false, every: 1, run: terms },
    Scenario { name: "deposed", empty: false, every: 1, run: deposed },
    Scenario { name: "install", empty: false, every: 1, run: install },
    Scenario { name: "restart", empty: false, every: 1, run: restart },
    Scenario { name: "full", empty: false, every: 1, run: full },
];

/// What scenarios begin with.
pub(super) struct Prepared {
    image: Image,
    diary: Diary,
    /// Another node's copy, some entries ahead.
    copy: Option<Copy>,
    /// Everything that the other node knows.
    ahead: Diary,
}

impl Scenario {
    /// The node on its disk, not started.
    pub(super) fn rig(&self) -> Rig {
        let prepared = prepared();
        if self.empty {
            return Rig::new(VirtualDisk::new(&unique()), Diary::default());
        }
        Rig::new(VirtualDisk::with_image(&unique(), prepared.image.clone()), prepared.diary.clone())
    }

    /// Lives through it.
    pub(super) fn run(&self, rig: &mut Rig) -> Step {
        rig.start()?;
        rig.catch_up()?;
        (self.run)(rig, prepared())
    }
}

/// A disk's name that nothing in this process has.
pub(super) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("points-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| prepare().unwrap_or_else(|stopped| panic!("nothing fails here: {stopped:?}")))
}

fn prepare() -> Result<Prepared, Stopped> {
    let nothing = Prepared { image: Image::new(), diary: Diary::default(), copy: None, ahead: Diary::default() };
    let mut rig = Rig::new(VirtualDisk::new(&unique()), Diary::default());
    rig.start()?;
    birth(&mut rig, &nothing)?;
    rig.crash(Fate::Kept);
    let (image, mut diary) = (rig.disk.image(), rig.diary.clone());
    // The other node goes on from here.
    let mut other = Rig::new(VirtualDisk::with_image(&unique(), image.clone()), diary.clone());
    other.start()?;
    other.catch_up()?;
    other.lead(9)?;
    for n in 0..6 {
        other.write(&[&[&format!("INSERT INTO t(a, b) VALUES ({}, 'elsewhere')", 900 + n)]])?;
    }
    let copy = other.copy()?;
    other.close()?;
    diary.rebase();
    Ok(Prepared { image, diary, copy: Some(copy), ahead: other.diary.clone() })
}

fn birth(rig: &mut Rig, _: &Prepared) -> Step {
    rig.vote(1)?;
    rig.append(EntryKind::Config)?;
    rig.append(EntryKind::Noop)?;
    rig.commit_all()?;
    rig.write(&[&["CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT UNIQUE ON CONFLICT IGNORE, c BLOB)"]])?;
    rig.write(&[
        &["CREATE TABLE sums(id INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER NOT NULL)"],
        &["INSERT INTO sums(n) VALUES (50), (50)"],
    ])?;
    rig.write(&[&["INSERT INTO t VALUES (1, 'one', x'01'), (2, 'two', NULL), (3, 'three', zeroblob(6000))"]])
}

/// Single writes, several in one group, a failing one among them.
fn writes(rig: &mut Rig, _: &Prepared) -> Step {
    rig.write(&[&["INSERT INTO t VALUES (10, 'ten', NULL)"]])?;
    rig.write(&[
        &["UPDATE sums SET n = n - 5 WHERE id = 1", "UPDATE sums SET n = n + 5 WHERE id = 2"],
        &["INSERT OR REPLACE INTO t VALUES (1, 'uno', x'ff')"],
        &["DELETE FROM t WHERE a = 2"],
    ])?;
    let answers = rig.try_write(&[&["INSERT INTO sums(n) VALUES (1)"], &["INSERT INTO sums(n) VALUES (NULL)"]])?;
    if rig.strict && !matches!(answers[..], [Some(Ok(_)), Some(Err(_))]) {
        return Err(Stopped::Wrong(format!("one was to succeed and one to fail: {answers:?}")));
    }
    rig.write(&[&["UPDATE t SET c = zeroblob(9000) WHERE a = 10"]])
}

/// DDL, triggers, a full-text index.
fn schema(rig: &mut Rig, _: &Prepared) -> Step {
    rig.write(&[&["ALTER TABLE t ADD COLUMN d DEFAULT 7", "CREATE INDEX t_b ON t(b, d)"]])?;
    rig.write(&[&["CREATE TRIGGER t_ai AFTER INSERT ON t BEGIN UPDATE sums SET n = n + 1 WHERE id = 1; END"]])?;
    rig.write(&[&["CREATE VIRTUAL TABLE docs USING fts5(body)"]])?;
    rig.write(&[
        &["INSERT INTO docs(body) VALUES ('a word'), ('no such'), ('the word again')"],
        &["INSERT INTO t(a, b) VALUES (20, 'twenty')"],
    ])?;
    rig.write(&[&["DELETE FROM docs WHERE body = 'a word'", "DROP INDEX t_b"]])
}

/// `data.db` is made durable, then the log is trimmed and goes on.
fn checkpoint(rig: &mut Rig, _: &Prepared) -> Step {
    rig.limits = LogLimits { bytes_max: 0, ..KEEP_ALL };
    rig.crash(Fate::Kept);
    rig.start()?;
    rig.catch_up()?;
    rig.write(&[&["INSERT INTO t(b) VALUES ('before')"]])?;
    rig.checkpoint_and_trim()?;
    rig.write(&[&["INSERT INTO t(b) VALUES ('after')"]])?;
    rig.write(&[&["DELETE FROM t WHERE b = 'before'"]])?;
    rig.checkpoint_and_trim()?;
    rig.settle()?;
    rig.write(&[&["INSERT INTO t(b) VALUES ('last')"]])
}

/// The log's own write-ahead log grows until it is moved into the file, entries
/// are noted beyond the mark, and large ones are cut off again.
fn log_checkpoint(rig: &mut Rig, _: &Prepared) -> Step {
    rig.append_foreign(None, 3, 1_500_000)?;
    rig.settle()?;
    rig.hear_term(4)?;
    rig.append_foreign(Some(rig.committed()), 1, 10)?;
    rig.settle()
}

/// Votes and terms between appends.
fn terms(rig: &mut Rig, _: &Prepared) -> Step {
    for term in [2, 10, 20] {
        rig.lead(term)?;
        rig.write(&[&[&format!("INSERT INTO t(b) VALUES ('term {term}')")]])?;
        rig.hear_term(term + 1)?;
        rig.settle()?;
        rig.hear_term(term + 2)?;
    }
    Ok(())
}

/// A writer loses its term: a logged group is rolled back and its entry cut off,
/// before and after the mark covers it.
fn deposed(rig: &mut Rig, _: &Prepared) -> Step {
    rig.depose(&["INSERT INTO t(b) VALUES ('never')"], 3)?;
    rig.lead(4)?;
    rig.write(&[&["INSERT INTO t(b) VALUES ('for ever')"]])?;
    rig.append_foreign(None, 5, 3000)?;
    rig.settle()?;
    rig.hear_term(6)?;
    rig.append_foreign(Some(rig.committed()), 2, 100)?;
    rig.settle()
}

/// Another node's copy takes the place of `data.db`, and of a log that lacks
/// what the copy contains.
fn install(rig: &mut Rig, prepared: &Prepared) -> Step {
    let copy = prepared.copy.as_ref().expect("made before");
    rig.diary.learn(&prepared.ahead);
    rig.append_foreign(None, 2, 500)?;
    rig.settle()?;
    rig.hear_term(9)?;
    rig.install(copy)?;
    rig.lead(12)?;
    rig.write(&[&["INSERT INTO t(b) VALUES ('after the copy')"]])
}

/// Stops in order and starts, twice.
fn restart(rig: &mut Rig, _: &Prepared) -> Step {
    rig.write(&[&["INSERT INTO t(b) VALUES ('before the stop')"]])?;
    rig.close()?;
    rig.start()?;
    rig.catch_up()?;
    rig.write(&[&["INSERT INTO t(b) VALUES ('after the start')"]])?;
    rig.crash(Fate::Kept);
    rig.start()?;
    rig.catch_up()?;
    rig.write(&[&["INSERT INTO t(b) VALUES ('after the second')"]])?;
    rig.close()
}

/// The disk fills up, and has room again.
fn full(rig: &mut Rig, _: &Prepared) -> Step {
    rig.write(&[&["INSERT INTO t(b) VALUES ('there is room')"]])?;
    rig.disk.set_quota(Some(rig.disk.used() + 30_000));
    for n in 0..4 {
        // Refused, unanswered, or done: all is allowed, and none may be a lie.
        let _ = rig.try_write(&[&[&format!("INSERT INTO t(b, c) VALUES ('large {n}', zeroblob(9000))")]])?;
    }
    if rig.strict && !rig.says_full() {
        return Err(Stopped::Wrong("a full disk was not noticed".into()));
    }
    rig.check_live().map_err(Stopped::Wrong)?;
    rig.disk.set_quota(None);
    rig.settle()?;
    if rig.strict && rig.says_full() {
        return Err(Stopped::Wrong("that there is room again was not noticed".into()));
    }
    rig.write(&[&["INSERT INTO t(b) VALUES ('there is room again')"]])
}
