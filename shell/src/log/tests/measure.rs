//! Measurements, run by hand: `cargo test -p base-ha --  --ignored --nocapture measure_`.

use super::*;
use std::collections::BTreeMap;

/// Wall time is what is measured here; nothing is decided by it.
fn stopwatch() -> impl Fn() -> Duration {
    let start = std::time::Instant::now();
    move || start.elapsed()
}

#[test]
#[ignore = "a measurement"]
fn measure_append_throughput() {
    for group in [1u64, 16, 64, 256] {
        let env = Still::new();
        let dir = tempfile::tempdir_in(".").expect("temp dir");
        let (mut log, _) = Log::start(&env, dir.path(), Position::START);
        let mut prev = Position::START;
        let groups: Vec<Vec<Entry>> = (0..(120_000 / group).clamp(500, 10_000))
            .map(|_| {
                let more = chain_of(prev, 1, group, |_| Bytes::from_static(&[7; 250]));
                prev = ends(&more);
                more
            })
            .collect();
        let mut laps = Vec::new();
        let total = stopwatch();
        for entries in &groups {
            let job = log.persist(Record::Append { keep: None, entries: entries.clone() });
            let lap = stopwatch();
            log.run([job]);
            laps.push(lap());
        }
        let total = total();
        laps.sort();
        println!(
            "groups of {group}: {:.0} entries/s, {:.0} fsyncs/s, p50 {:?}, p99 {:?}, max {:?}",
            (groups.len() as u64 * group) as f64 / total.as_secs_f64(),
            groups.len() as f64 / total.as_secs_f64(),
            laps[laps.len() / 2],
            laps[laps.len() * 99 / 100],
            laps[laps.len() - 1],
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn measure_start_of_a_large_log() {
    let env = Still::new();
    let dir = tempfile::tempdir_in(".").expect("temp dir");
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let mut prev = Position::START;
    let mut applied = BTreeMap::new();
    for n in 0..500u64 {
        let more = chain_of(prev, 1 + n / 5, 4000, |_| Bytes::from_static(&[7; 150]));
        prev = ends(&more);
        log.append(None, &more);
        applied.insert(n, prev);
    }
    log.close();
    for (n, position) in [(499, applied[&499]), (490, applied[&490])] {
        let watch = stopwatch();
        let found = recover(&env, dir.path(), position);
        println!("2,000,000 entries, applied at group {n}: {:?}, tail {}", watch(), found.tail.len());
    }
}
