//! Every point, one after the other: crashes, errors, flipped bits.
//!
//! Decides which points there are and what is done at each. What must hold
//! after a crash is the diary's business.

use super::diary::{Diary, Expect};
use super::print;
use super::report::{Failure, Report, Rest};
use super::rig::{Rig, Stopped, dir};
use super::script::{SCENARIOS, Scenario, unique};
use crate::prng::Prng;
use crate::vfs::{Fate, Fault, Harm, Image, Op, VirtualDisk};
use base_ha::store::{data_file, recount};
use base_ha_core::position::Position;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct Options {
    /// One point in so many; 1 for all.
    pub every: u64,
    /// Which of so many.
    pub offset: u64,
    /// Only the scenario of that name.
    pub only: Option<String>,
    /// Only the point before this operation.
    pub at: Option<u64>,
    /// Threads; what is found does not depend on them.
    pub threads: u64,
    /// A mistake to be found out.
    pub mutant: Option<Mutant>,
}

impl Default for Options {
    fn default() -> Self {
        Self { every: 1, offset: 0, only: None, at: None, threads: 2, mutant: None }
    }
}

/// A planted mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutant {
    /// The disk's syncs do nothing.
    NoSync,
    /// Entries are committed before the log has synced them.
    CommitFirst,
}

/// A scenario that ran through, to be stopped at every point.
struct Lived {
    scenario: Scenario,
    begin: Image,
    trace: Vec<Op>,
    reads: u64,
    diary: Diary,
    end: Image,
}

/// Tries everything that `options` ask for.
///
/// # Panics
/// If there is no such scenario.
pub fn run(options: &Options) -> Report {
    let scenarios: Vec<&Scenario> =
        SCENARIOS.iter().filter(|s| options.only.as_deref().is_none_or(|name| name == s.name)).collect();
    assert!(!scenarios.is_empty(), "scenarios are {:?}", SCENARIOS.iter().map(|s| s.name).collect::<Vec<_>>());
    let report = Mutex::new(Report::default());
    for scenario in scenarios {
        let lived = match live_through(scenario, options.mutant) {
            Ok(lived) => lived,
            Err(why) => {
                let failure = Failure { scenario: scenario.name, what: "an undisturbed run".into(), at: 0, why };
                report.lock().unwrap_or_else(PoisonError::into_inner).failures.push(failure);
                continue;
            }
        };
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..options.threads.max(1) {
                scope.spawn(|| {
                    let mut own = Report::default();
                    share(&lived, options, &next, &mut own);
                    report.lock().unwrap_or_else(PoisonError::into_inner).add(own);
                });
            }
        });
    }
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// One thread's share of a scenario's points.
fn share(lived: &Lived, options: &Options, next: &AtomicU64, report: &mut Report) {
    let points = lived.trace.len() as u64;
    let mut image = lived.begin.clone();
    let mut done = 0;
    loop {
        let k = next.fetch_add(1, Ordering::Relaxed);
        if k > points {
            break;
        }
        for op in &lived.trace[done as usize..k as usize] {
            image.apply(op);
        }
        done = k;
        if options.at.is_some_and(|at| at != k) || !chosen(lived, k as usize, options) {
            continue;
        }
        crash_at(lived, k, &image, report);
        if let (Some(op), None) = (lived.trace.get(k as usize), options.mutant) {
            error_at(lived, k, op, image.growth(op) > 0, &image, report);
            if matches!(op, Op::Write { .. }) && k.is_multiple_of(3) {
                lie_at(lived, k, op, &image, report);
            }
        }
    }
    if options.mutant.is_some() || options.at.is_some() {
        return;
    }
    let step = (lived.reads / 60).max(1) * options.every;
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed) - points - 1;
        if n * step >= lived.reads {
            break;
        }
        let fault = Fault { at: n * step, harm: Harm::Io, lasting: false, reads: true };
        fail_with(lived, fault, "a failing read", false, report);
    }
    // Bits of what lies there at the end; each thread has numbers of its own.
    let flips = 240 / options.every;
    let base = points + 1 + lived.reads / step + 1 + options.threads.max(1);
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed).saturating_sub(base);
        if n >= flips {
            break;
        }
        flip(lived, n, report);
    }
}

/// Whether point `k` is tried. Of many operations of one kind on one file in a
/// row, as in a checkpoint of a large log, the ends and a sample are.
fn chosen(lived: &Lived, k: usize, options: &Options) -> bool {
    let (trace, every) = (&lived.trace, options.every * lived.scenario.every);
    let same = |a: &Op, b: &Op| match (a, b) {
        (Op::Write { file: a, .. }, Op::Write { file: b, .. }) => a == b,
        _ => false,
    };
    // What was asked for by its number, and the very end, are always tried.
    let Some(op) = trace.get(k).filter(|_| options.at.is_none()) else { return true };
    let before = trace[..k].iter().rev().take(40).take_while(|o| same(o, op)).count();
    let after = trace[k..].iter().take(40).take_while(|o| same(o, op)).count();
    let inside = before >= 12 && after >= 12;
    (!inside || k.is_multiple_of(41)) && k as u64 % every == options.offset % every
}

fn live_through(scenario: &Scenario, mutant: Option<Mutant>) -> Result<Lived, String> {
    let mut rig = scenario.rig();
    rig.hasty = mutant == Some(Mutant::CommitFirst);
    let begin = rig.disk.image();
    rig.disk.record();
    rig.disk.lie_about_syncs(mutant == Some(Mutant::NoSync));
    scenario.run(&mut rig).map_err(|stopped| format!("{stopped:?}"))?;
    let (reads, end) = (rig.disk.reads(), rig.disk.image());
    Ok(Lived { scenario: *scenario, begin, trace: rig.disk.take_trace(), reads, diary: rig.diary.clone(), end })
}

/// Stops before operation `k`, in each way in which that can end.
fn crash_at(lived: &Lived, k: u64, image: &Image, report: &mut Report) {
    report.points += 1;
    let all = [Fate::Lost, Fate::Kept, Fate::Torn(k), Fate::Random(k), Fate::Random(k + (1 << 32))];
    let fates = if image.is_settled() { &all[..1] } else { &all[..] };
    for (n, fate) in fates.iter().enumerate() {
        let mut crashed = image.clone();
        crashed.crash(*fate);
        // A crash in the middle of the recovery, here and there.
        let nested = (k + n as u64) % 16 == 3;
        match caught(|| inspect(crashed, &lived.diary, k, nested)) {
            Ok(second) => {
                report.recoveries += 1;
                report.nested += second;
            }
            Err(why) => report.failures.push(Failure {
                scenario: lived.scenario.name,
                what: format!("a crash before {}, {fate:?}", describe(lived.trace.get(k as usize), image)),
                at: k,
                why,
            }),
        }
    }
}

fn describe(op: Option<&Op>, image: &Image) -> String {
    match op {
        None => "the end".to_owned(),
        Some(op) => {
            let path = match op {
                Op::Write { file, .. } | Op::Cut { file, .. } | Op::Sync { file } | Op::FailSync { file } => {
                    image.path_of(*file).unwrap_or("a nameless file")
                }
                Op::Create { path } | Op::MakeDir { path } | Op::SyncDir { path } | Op::Remove { path } => path,
                Op::Rename { to, .. } => to,
                Op::Nothing => "",
            };
            format!("{} {path}", op.kind())
        }
    }
}

/// Starts on what a crash left, holds it against the diary as of operation `k`,
/// and lets life go on; says how often the recovery itself was crashed.
fn inspect(image: Image, diary: &Diary, k: u64, nested: bool) -> Result<u64, String> {
    let expect = diary.before(k);
    let mut rig = look(image.clone(), diary, &expect, nested)?;
    let mut crashes = 0;
    if nested {
        let trace = rig.disk.take_trace();
        let mut rolling = image;
        let step = (trace.len() / 5).max(1);
        for (j, op) in trace.iter().enumerate() {
            if j % step == step - 1 {
                let mut crashed = rolling.clone();
                crashed.crash(if j % 2 == 0 { Fate::Lost } else { Fate::Random(j as u64) });
                look(crashed, diary, &expect, false)
                    .map_err(|why| format!("after a second crash, {j} operations into the recovery: {why}"))?;
                crashes += 1;
            }
            rolling.apply(op);
        }
    }
    // What a start has found the node goes by: the power may go right after.
    let promised = rig.diary.before(u64::MAX);
    rig.crash(Fate::Lost);
    go(rig.start())?;
    held(&mut rig, diary, &promised).map_err(|why| format!("what a start had found was lost with the power: {why}"))?;
    go(rig.live())?;
    go(rig.close())?;
    Ok(crashes)
}

/// A panic is a failure like any other: production dies of it.
fn caught<T>(body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!("panicked: {}", text.unwrap_or_else(|| "without a text".to_owned())))
    })
}

fn go(step: Result<(), Stopped>) -> Result<(), String> {
    step.map_err(|stopped| format!("{stopped:?}"))
}

fn look(image: Image, diary: &Diary, expect: &Expect, record: bool) -> Result<Rig, String> {
    let disk = VirtualDisk::with_image(&unique(), image);
    if record {
        disk.record();
    }
    let mut rig = Rig::new(disk, diary.fork(expect));
    go(rig.start())?;
    held(&mut rig, diary, expect)?;
    Ok(rig)
}

fn held(rig: &mut Rig, diary: &Diary, expect: &Expect) -> Result<(), String> {
    let found = rig.found().cloned().ok_or("nothing was found")?;
    expect.check(diary, &found)?;
    let file = data_file(&dir(&rig.disk));
    print::integrity(&file)?;
    match recount(&file) {
        Ok((counted, stored)) if counted == stored => Ok(()),
        other => Err(format!("data.db does not have its own content hash: {other:?}")),
    }
}

/// Fails operation `k`, lets the script go on as far as it goes, then crashes.
fn error_at(lived: &Lived, k: u64, op: &Op, grows: bool, image: &Image, report: &mut Report) {
    let fault = |harm| Fault { at: k, harm, lasting: false, reads: false };
    let synced = match op {
        Op::Sync { file } => image.path_of(*file).unwrap_or_default(),
        _ => "",
    };
    // The files by which the node answers for something.
    let name = synced.rsplit('/').next().unwrap_or_default();
    let must_end = matches!(name, "hard_state" | "log.db" | "log.db-wal" | "data.db" | "data.db-wal");
    fail_with(lived, fault(Harm::Io), &format!("EIO at {}", describe(Some(op), image)), must_end, report);
    if grows {
        fail_with(lived, fault(Harm::Full), &format!("ENOSPC at {}", describe(Some(op), image)), false, report);
    }
}

fn fail_with(lived: &Lived, fault: Fault, what: &str, must_end: bool, report: &mut Report) {
    let mut failed = |why: String| {
        report.failures.push(Failure { scenario: lived.scenario.name, what: what.to_owned(), at: fault.at, why });
    };
    let mut rig = lived.scenario.rig();
    rig.strict = false;
    rig.disk.inject(fault);
    let ended = match caught(|| Ok(lived.scenario.run(&mut rig))) {
        Ok(Ok(())) => false,
        Ok(Err(Stopped::Ended(_))) => true,
        Ok(Err(Stopped::Wrong(why))) | Err(why) => return failed(why),
    };
    if rig.disk.hits() != 1 {
        return failed(format!("the fault struck {} times", rig.disk.hits()));
    }
    rig.disk.forgive();
    rig.disk.set_quota(None);
    if must_end && !ended && !rig.failed_closing {
        return failed("the process went on after a failed sync (R11)".to_owned());
    }
    if !ended
        && rig.is_running()
        && let Err(why) = rig.check_live()
    {
        return failed(format!("alive, and serves wrong rows: {why}"));
    }
    // By turns: the machine goes with it, or does not.
    let fate = if fault.at.is_multiple_of(2) { Fate::Kept } else { Fate::Lost };
    let mut crashed = rig.disk.image();
    crashed.crash(fate);
    if let Err(why) = caught(|| inspect(crashed, &rig.diary, u64::MAX, false)) {
        return failed(format!("then {fate:?}: {why}"));
    }
    match ended {
        true => report.errors_ended += 1,
        false => report.errors_survived += 1,
    }
}

/// Flips one bit of what lies on the disk, and sees what the next start makes
/// of it.
fn flip(lived: &Lived, n: u64, report: &mut Report) {
    let mut dice = Prng::named(n, lived.scenario.name);
    let mut image = lived.end.clone();
    image.crash(Fate::Kept);
    let paths: Vec<String> = image
        .paths()
        .filter(|path| image.file(path).and_then(|file| image.bytes(file)).is_some_and(|bytes| !bytes.is_empty()))
        .map(str::to_owned)
        .collect();
    let path = &paths[dice.index(paths.len())];
    let len = image.file(path).and_then(|file| image.bytes(file)).map_or(0, <[u8]>::len) as u64;
    let bit = dice.below(len * 8);
    image.flip(path, bit);
    let rest = caught(|| Ok(rest_of(image, &lived.diary))).unwrap_or_else(Rest::Silent);
    if let Rest::Silent(why) = &rest {
        report.failures.push(Failure {
            scenario: lived.scenario.name,
            what: format!("bit {bit} of {path} flipped (flip {n})"),
            at: lived.trace.len() as u64,
            why: why.clone(),
        });
    }
    report.note_rot("flipped bits", &rest);
}

/// A write is said to have been done and was not, or went elsewhere; the script
/// goes on, then comes a crash.
fn lie_at(lived: &Lived, k: u64, op: &Op, image: &Image, report: &mut Report) {
    for (kind, harm) in [("lost writes", Harm::Lie), ("misdirected writes", Harm::Misdirect)] {
        let mut rig = lived.scenario.rig();
        rig.strict = false;
        rig.disk.inject(Fault { at: k, harm, lasting: false, reads: false });
        let rest = match caught(|| Ok(lived.scenario.run(&mut rig))) {
            Ok(Ok(())) => {
                let mut crashed = rig.disk.image();
                crashed.crash(Fate::Kept);
                let diary = rig.diary.clone();
                caught(|| Ok(rest_of(crashed, &diary))).unwrap_or_else(Rest::Silent)
            }
            Ok(Err(Stopped::Ended(_))) => Rest::Refused,
            Ok(Err(Stopped::Wrong(why))) | Err(why) => Rest::Silent(why),
        };
        if let Rest::Silent(why) = &rest {
            report.failures.push(Failure {
                scenario: lived.scenario.name,
                what: format!("{kind}: {}", describe(Some(op), image)),
                at: k,
                why: why.clone(),
            });
        }
        report.note_rot(kind, &rest);
    }
}

fn rest_of(image: Image, diary: &Diary) -> Rest {
    let expect = diary.before(u64::MAX);
    let mut rig = Rig::new(VirtualDisk::with_image(&unique(), image), diary.fork(&expect));
    rig.strict = false;
    if rig.start().is_err() {
        return Rest::Refused;
    }
    let Some(found) = rig.found().cloned() else { return Rest::Refused };
    let file = data_file(&dir(&rig.disk));
    // Rows first: whatever else is noticed, wrong ones must not be served
    // without the scrub's seeing it.
    if !diary.knows_rows(&found.print) {
        return match (recount(&file), print::integrity(&file)) {
            (Err(_), _) => Rest::Scrubbed,
            (Ok((counted, stored)), _) if counted != stored => Rest::Scrubbed,
            (Ok(_), Err(_)) => Rest::Structure,
            (Ok(_), Ok(())) => {
                let why = diary.check_print(found.store, &found.print).err().unwrap_or_default();
                Rest::Silent(format!("nothing notices: {why}"))
            }
        };
    }
    if found.amnesia {
        return Rest::Amnesia;
    }
    if found.store == Position::START && !expect.is_new() {
        return Rest::MadeAnew;
    }
    if let Err(why) = diary.check_print(found.store, &found.print) {
        return Rest::Silent(why);
    }
    match expect.check(diary, &found) {
        Ok(()) if print::integrity(&file).is_err() => Rest::Structure,
        Ok(()) => Rest::Harmless,
        // A write-ahead log ends before the flipped bit. What it held beyond the
        // high-water mark is gone without a trace; RELIABILITY R8 has no more.
        Err(_) if found.log.iter().all(|(p, _)| diary.known.contains_key(&p.hash.0)) => Rest::TailLost,
        Err(why) => Rest::Silent(why),
    }
}
