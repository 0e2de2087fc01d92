//! Large entries and slow lines: whatever is under way, a heartbeat passes.

mod world;

use base_ha_core::entry::Entry;
use base_ha_core::ids::*;
use base_ha_core::io::*;
use bytes::Bytes;
use world::*;

/// 100 Mbit/s, in bytes per ms.
const FAST: u64 = 12_500;
/// 1 Mbit/s.
const SLOW: u64 = 125;

fn large(length: usize, fill: u8) -> Bytes {
    Bytes::from(vec![fill; length])
}

fn has(w: &World, n: usize, payload: &Bytes) -> bool {
    w.hosts[n].disk.data.contains(payload)
}

/// Runs until `done`, and sees at every step that node 0 may write; says how
/// many ms it took.
fn while_writable(w: &mut World, what: &str, done: impl Fn(&World) -> bool) -> u64 {
    let begin = w.now;
    while !done(w) {
        w.run(10);
        assert!(w.may_write(0), "no permit after {} ms, before {what}:\n{}", (w.now - begin) / MS, w.describe());
        assert!(w.now < begin + 120_000 * MS, "two minutes passed without {what}:\n{}", w.describe());
    }
    (w.now - begin) / MS
}

#[test]
fn the_largest_entry_costs_no_writer_its_lease() {
    let mut w = World::born(3);
    let term = w.status(0).pin.term;
    w.bandwidth = Some(FAST);
    let payload = large(Entry::PAYLOAD_MAX, 7);
    w.write_bytes(0, payload.clone());
    w.write(0, "behind it");
    let took = while_writable(&mut w, "the entry everywhere", |w| (0..3).all(|n| has(w, n, &payload)));
    let alone = (Entry::PAYLOAD_MAX as u64) / FAST;
    assert!(took >= alone, "{took} ms: the line was no bound");
    assert!(took < alone * 5 / 4, "{took} ms where the line alone takes {alone}");
    while_writable(&mut w, "what came behind it", |w| (0..3).all(|n| w.holds(n, "behind it")));
    assert_eq!(w.status(0).pin.term, term);
}

#[test]
fn a_slow_line_full_of_entries_costs_no_writer_its_lease() {
    for size in [300, 20_000, 200_000, 1_000_000] {
        let mut w = World::born(3);
        let term = w.status(0).pin.term;
        w.bandwidth = Some(SLOW);
        // An idle line has answered quickly for a long while.
        w.run(20_000);
        for n in 0..1_500_000 / size {
            w.write_bytes(0, large(size, n as u8));
        }
        w.write(0, "last");
        while_writable(&mut w, "all of it everywhere", |w| (0..3).all(|n| w.holds(n, "last")));
        assert_eq!(w.status(0).pin.term, term, "entries of {size} bytes");
    }
}

#[test]
fn a_fast_line_is_used_to_the_full() {
    let mut w = World::born(3);
    w.bandwidth = Some(FAST);
    for n in 0..2_000 {
        w.write_bytes(0, large(10_000, n as u8));
    }
    w.write(0, "last");
    let took = while_writable(&mut w, "all of it everywhere", |w| (0..3).all(|n| w.holds(n, "last")));
    let alone = 2_000 * 10_000 / FAST;
    assert!(took < alone * 5 / 4, "{took} ms where the line alone takes {alone}");
}

#[test]
fn a_process_that_starts_anew_is_sent_the_entry_anew() {
    let mut w = World::born(3);
    w.bandwidth = Some(FAST);
    let payload = large(8 << 20, 7);
    w.write_bytes(0, payload.clone());
    w.run(300);
    assert!((1..3).all(|n| w.status(n).last.seq < w.status(0).last.seq), "it is still under way");
    w.crash(2);
    w.start(2);
    while_writable(&mut w, "the entry everywhere", |w| (0..3).all(|n| has(w, n, &payload)));
}

#[test]
fn a_cut_in_the_middle_costs_only_what_was_under_way() {
    let mut w = World::born(3);
    w.bandwidth = Some(FAST);
    let payload = large(8 << 20, 7);
    w.write_bytes(0, payload.clone());
    w.run(300);
    w.cut.insert((0, 2));
    w.run(100);
    w.heal();
    let took = while_writable(&mut w, "the entry everywhere", |w| (0..3).all(|n| has(w, n, &payload)));
    // It goes on where it was, two heartbeats after it was lost: from the
    // start it would take twice as long.
    assert!(took < 1_800, "took {took} ms");
}

#[test]
fn large_entries_that_left_the_memory_are_read_and_sent_in_pieces() {
    let mut w = World::born(3);
    w.crash(2);
    let payloads: Vec<Bytes> = (0..12).map(|n| large(3 << 20, n)).collect();
    for payload in &payloads {
        w.write_bytes(0, payload.clone());
        w.run(20);
    }
    let held = w.status(0).last.seq.0;
    assert!(held >= 12);
    w.bandwidth = Some(FAST);
    w.start(2);
    while_writable(&mut w, "all of it at the third", |w| payloads.iter().all(|p| has(w, 2, p)));
    assert!(w.hosts[0].outputs.iter().any(|o| matches!(o, Output::LoadLog { .. })), "all was in memory");
    assert_eq!(w.status(2).last.seq, w.status(0).last.seq);
}

/// A writer that dies while a follower has half of its entry: what comes at the
/// same place from the next one is another entry, and takes its place.
#[test]
fn half_an_entry_of_a_dead_writer_is_dropped() {
    let mut w = World::born(3);
    w.bandwidth = Some(FAST);
    let lost = large(8 << 20, 7);
    w.write_bytes(0, lost.clone());
    w.run(300);
    w.crash(0);
    w.until("another writer", |w| w.writable().is_some());
    let next = w.writable().unwrap();
    let other = large(8 << 20, 8);
    w.write_bytes(next, other.clone());
    w.until("the other entry", |w| (1..3).all(|n| has(w, n, &other)));
    assert!((1..3).all(|n| !has(&w, n, &lost)));
    w.start(0);
    w.until("one history", |w| has(w, 0, &other) && w.status(0).applied == w.status(next).applied);
    assert!(!has(&w, 0, &lost));
    assert_eq!(w.status(0).last.term, Term(w.status(next).pin.term.0));
}
