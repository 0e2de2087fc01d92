//! Random operations against a model that is a vector.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Append {
        count: u64,
        size: usize,
    },
    /// Several records that queue up together.
    Burst(Vec<u64>),
    NewTerm,
    Truncate {
        back: u64,
        count: u64,
    },
    Vote,
    Trim {
        part: u64,
    },
    Install {
        ahead: u64,
    },
    Reseed {
        back: u64,
    },
    Pass {
        seconds: u64,
    },
    Crash,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..20u64, 0..3000usize).prop_map(|(count, size)| Op::Append { count, size }),
        3 => prop::collection::vec(0..5u64, 1..6).prop_map(Op::Burst),
        2 => Just(Op::NewTerm),
        2 => (0..12u64, 0..5u64).prop_map(|(back, count)| Op::Truncate { back, count }),
        2 => Just(Op::Vote),
        2 => (0..=4u64).prop_map(|part| Op::Trim { part }),
        1 => (1..40u64).prop_map(|ahead| Op::Install { ahead }),
        1 => (0..10u64).prop_map(|back| Op::Reseed { back }),
        2 => (0..3u64).prop_map(|seconds| Op::Pass { seconds }),
        2 => Just(Op::Crash),
        1 => Just(Op::Restart),
    ]
}

/// What must be on disk.
struct Model {
    base: Position,
    entries: Vec<Entry>,
    term: u64,
    hard: HardState,
    applied: Position,
    orphans: usize,
}

impl Model {
    fn end(&self) -> Position {
        self.entries.last().map_or(self.base, Entry::position)
    }

    fn at(&self, seq: u64) -> Position {
        if seq == self.base.seq.0 { self.base } else { self.entries[(seq - self.base.seq.0) as usize - 1].position() }
    }

    fn terms(&self) -> Vec<(Seq, Term)> {
        let mut out: Vec<(Seq, Term)> = Vec::new();
        for e in &self.entries {
            if out.last().is_none_or(|(_, term)| *term != e.term) {
                out.push((e.seq, e.term));
            }
        }
        out
    }

    fn check(&self, found: &Recovered) {
        assert!(!found.amnesia);
        assert_eq!(found.log_base, self.base);
        assert_eq!(found.tail, positions(&self.entries));
        assert_eq!(found.terms, self.terms());
        assert_eq!(HardState { high_water: Position::START, ..found.hard.clone() }, self.hard);
        assert!(found.hard.high_water.seq <= self.end().seq);
    }
}

const SMALL: LogLimits = LogLimits { bytes_max: 60_000, age_max: Duration::from_secs(3600) };

fn play(ops: Vec<Op>) {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let (mut log, found) = Log::start_with(&env, dir.path(), Position::START, None, SMALL);
    let mut model = Model {
        base: Position::START,
        entries: Vec::new(),
        term: 1,
        hard: found.hard,
        applied: Position::START,
        orphans: 0,
    };
    for op in ops {
        match op {
            Op::Append { count, size } => {
                let more = chain_of(model.end(), model.term, count, |n| Bytes::from(vec![n as u8; size]));
                log.append(None, &more);
                model.entries.extend(more);
            }
            Op::Burst(counts) => {
                let mut jobs = Vec::new();
                for (n, count) in counts.into_iter().enumerate() {
                    let more = chain(model.end(), model.term, count);
                    model.entries.extend(more.clone());
                    jobs.push(log.persist(Record::Append { keep: None, entries: more }));
                    if n == 2 {
                        model.hard.term = Term(model.hard.term.0 + 1);
                        jobs.push(log.persist(Record::HardState(model.hard.clone())));
                    }
                }
                log.run(jobs);
                assert_eq!(log.persisted(), Some(log.id));
            }
            Op::NewTerm => model.term += 1,
            Op::Truncate { back, count } => {
                // Never below what is applied: that is committed.
                let keep = (model.end().seq.0.saturating_sub(back)).max(model.applied.seq.0);
                model.term += 1;
                let more = chain(model.at(keep), model.term, count);
                log.append(Some(keep), &more);
                let kept = (keep - model.base.seq.0) as usize;
                model.orphans += model.entries.len() - kept;
                model.entries.truncate(kept);
                model.entries.extend(more);
            }
            Op::Vote => {
                model.hard.term = Term(model.hard.term.0 + 1);
                model.hard.voted_for = Some((NodeId::new("n").expect("legal"), Incarnation(3)));
                log.store(model.hard.clone());
            }
            Op::Trim { part } => {
                let (base, end) = (model.base.seq.0, model.end().seq.0);
                model.applied = model.at((base + (end - base) * part / 4).max(model.applied.seq.0));
                log.run([LogJob::Trim { below: model.applied.seq.next() }]);
            }
            Op::Install { ahead } => {
                let snapshot = ends(&chain(model.end(), model.term, ahead));
                log.ask(|reply| LogJob::BeginInstall { position: snapshot, keep_log: false, reply }).expect("noted");
                let restarted = log
                    .ask(|reply| LogJob::FinishInstall { position: snapshot, membership: membership(1), reply })
                    .expect("finished");
                assert!(restarted);
                let stats = log.worker.stats();
                assert!(stats.orphans() >= model.orphans as u64);
                model.orphans = stats.orphans() as usize;
                (model.base, model.applied, model.entries) = (snapshot, snapshot, Vec::new());
            }
            Op::Reseed { back } => {
                let at = model.end().seq.0.saturating_sub(back).max(model.applied.seq.0);
                let snapshot = model.at(at);
                log.ask(|reply| LogJob::BeginInstall { position: snapshot, keep_log: false, reply }).expect("noted");
                let restarted = log
                    .ask(|reply| LogJob::FinishInstall { position: snapshot, membership: membership(1), reply })
                    .expect("finished");
                assert!(!restarted, "the log has it");
                model.applied = snapshot;
            }
            Op::Pass { seconds } => log.tick(Duration::from_secs(seconds)),
            Op::Crash => {
                let copy = log.crash_copy();
                let before = log.events.lock().expect("not poisoned").len();
                let (mut again, found) = Log::start_with(&env, copy.path(), model.applied, None, SMALL);
                sync_base(&log, &mut model, before);
                model.check(&found);
                let (_, read) = again.load(model.base.seq.0 + 1, u64::MAX >> 20, usize::MAX);
                assert_eq!(read, model.entries);
            }
            Op::Restart => {
                let id = log.id;
                log.close();
                let (new, found) = Log::start_with(&env, dir.path(), model.applied, None, SMALL);
                log = new;
                log.id = id;
                model.check(&found);
                assert_eq!(found.hard.high_water, model.end(), "a clean close leaves an exact mark");
            }
        }
        sync_base(&log, &mut model, 0);
        assert_eq!(log.worker.stats().orphans(), model.orphans as u64);
        assert_eq!(log.fatal(), None);
    }
}

/// Follows what was trimmed, which the worker alone decides; checks that it
/// stayed within its bound.
fn sync_base(log: &Log, model: &mut Model, skip: usize) {
    for event in log.events.lock().expect("not poisoned").iter().skip(skip) {
        if let NodeEvent::Trimmed { first, base } = event {
            if base.seq <= model.base.seq {
                continue;
            }
            assert!(base.seq <= model.applied.seq, "{} is not in data.db yet", base.seq);
            assert_eq!((model.at(base.seq.0), base.seq.next()), (*base, *first));
            model.entries.drain(..(base.seq.0 - model.base.seq.0) as usize);
            model.base = *base;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_operations_leaves_what_the_model_has(ops in prop::collection::vec(op(), 1..40)) {
        play(ops);
    }
}

/// The generator reaches what it is for.
#[test]
fn the_model_is_not_blind() {
    play(vec![
        Op::Append { count: 19, size: 2999 },
        Op::Append { count: 19, size: 2999 },
        Op::Trim { part: 4 },
        Op::Crash,
        Op::Append { count: 5, size: 10 },
        Op::Pass { seconds: 2 },
        Op::Truncate { back: 3, count: 2 },
        Op::Crash,
        Op::Install { ahead: 5 },
        Op::Crash,
        Op::Append { count: 9, size: 10 },
        Op::Reseed { back: 4 },
        Op::Restart,
    ]);
}
