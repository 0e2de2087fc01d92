//! Random faults against the same nodes: crashes, cuts, pauses, stalled disks,
//! lost, late, repeated and reordered frames, clocks within their rate bound.
//! The world checks its promises at every step; afterwards everything heals,
//! and all nodes must hold the same rows, every acknowledged one among them.

mod world;

use base_ha_core::config::Config;
use base_ha_core::ids::ClusterId;
use base_ha_core::io::*;
use base_ha_core::member::Role;
use base_ha_core::prng::Prng;
use world::*;

struct Tally {
    acked: usize,
    terms: u64,
    crashes: u64,
    snapshots: usize,
    truncations: usize,
    wiped: u64,
    admitted: usize,
    sent: u64,
}

fn born(w: &World) -> bool {
    w.hosts.iter().any(|h| h.disk.hard.cluster != ClusterId::NONE)
}

fn hammer(seed: u64) -> Tally {
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut prng = Prng::new(bytes);
    let mut dice = move |n: u64| prng.next_u64() % n;
    let seats = [1, 2, 3, 3, 3, 4, 5][dice(7) as usize];
    let mut w = World::new(seats);
    let witness = seats == 3 && dice(3) == 0;
    if witness {
        w.hosts[dice(3) as usize].config.witness = true;
    }
    for n in 0..seats {
        w.hosts[n].ppm = dice(20_000) as i64 - 10_000;
    }
    // A node that is no seat: only an order makes it more than a learner.
    let churn = seats > 1 && dice(2) == 0;
    if churn {
        w.add(Config::new(id(seats), url(seats), (0..=seats).map(url).collect()));
    }
    let total = seats + usize::from(churn);
    bytes[9] = 1;
    w.chaos = Some(Prng::new(bytes));
    (0..seats).for_each(|n| w.start(n));
    let wipes = seats >= 3 && !churn && dice(2) == 0;
    let mut tally =
        Tally { acked: 0, terms: 0, crashes: 0, snapshots: 0, truncations: 0, wiped: 0, admitted: 0, sent: 0 };
    for _ in 0..120 {
        w.run(dice(700));
        if let Some(n) = w.writable() {
            for _ in 0..dice(4) {
                let text = format!("row {}", w.nonces + 1);
                w.write(n, &text);
            }
        }
        let n = dice(total as u64) as usize;
        let up = w.hosts[n].node.is_some();
        match dice(16) {
            0 | 1 if up => {
                w.crash(n);
                tally.crashes += 1;
            }
            // Before birth a list that differs would rightly hold it up.
            2..6 if !up && (n < seats || born(&w)) => w.start(n),
            6 => w.isolate(n),
            7 => {
                let m = dice(seats as u64) as usize;
                w.cut.insert((n, m));
            }
            8 | 9 => w.heal(),
            10 if up && !w.hosts[n].paused => w.pause(n),
            11 if up => w.resume(n),
            12 if up => w.hosts[n].disk_stalled = true,
            13 if up => w.unstall(n),
            14 if up && churn && dice(2) == 0 => {
                let Some(writer) = w.writable() else { continue };
                let command = match dice(3) {
                    0 => AdminCommand::RemoveMember { member: MemberRef::Id(id(n)) },
                    1 => AdminCommand::AddMember { url: url(n), role: Role::Voter },
                    _ => AdminCommand::AddMember { url: url(n), role: Role::Learner },
                };
                w.admin(writer, command);
            }
            14 if up => match dice(5) {
                0 => w.at(n, Input::Shutdown),
                1 => drop(w.admin(n, AdminCommand::Transfer { to: None })),
                2 => drop(w.admin(n, AdminCommand::StepDown)),
                3 => w.at(n, Input::ReadIndex { id: 7 }),
                _ => {
                    // Retention: as far as the node itself allows.
                    let to = w.status(n).trimmable;
                    if to > w.hosts[n].disk.base.seq && !w.hosts[n].config.witness {
                        w.trim(n, to);
                    }
                }
            },
            // One disk at a time is lost, and only when all are up and well:
            // more would be beyond the promise.
            15 if wipes && up => {
                let well =
                    (0..seats).all(|m| w.hosts[m].node.is_some() && !w.hosts[m].paused && !w.hosts[m].disk_stalled);
                let last = w.hosts.iter().map(|h| h.disk.log.last().map_or(h.disk.base.seq, |e| e.seq)).max();
                let level = well
                    && (0..seats).all(|m| {
                        Some(w.status(m).commit) == last && matches!(w.status(m).part, Part::Follower | Part::Writer)
                    });
                if level {
                    w.crash(n);
                    w.hosts[n].disk = Image::default();
                    w.start(n);
                    tally.wiped += 1;
                }
            }
            _ => {}
        }
    }
    // All is well again.
    w.heal();
    w.chaos = None;
    for n in 0..total {
        if w.hosts[n].node.is_some() {
            if w.hosts[n].paused {
                w.resume(n);
            }
            w.unstall(n);
        }
        if w.hosts[n].node.is_none() && (n < seats || born(&w)) {
            w.start(n);
        }
    }
    // Whoever was told to stop has stopped by now, and is started again.
    w.run(5_000);
    for n in 0..total {
        if w.hosts[n].outputs.contains(&Output::Stopped) {
            w.crash(n);
            w.start(n);
        }
    }
    let took = w.until("a writer", |w| w.writable().is_some());
    assert!(took < 40_000, "seed {seed}: a writer only after {took} ms");
    w.run(2_000);
    w.until("a writer still", |w| w.writable().is_some());
    let n = w.writable().expect("a writer");
    let text = format!("row {}", w.nonces + 1);
    w.write(n, &text);
    let members = w.status(n).membership;
    let data: Vec<usize> = (0..total)
        .filter(|n| w.hosts[*n].node.is_some() && !w.hosts[*n].config.witness && members.get(&id(*n)).is_some())
        .collect();
    w.until("the last row everywhere", |w| data.iter().all(|n| w.holds(*n, &text)));
    for n in &data {
        assert_eq!(w.hosts[*n].disk.data, w.hosts[data[0]].disk.data, "seed {seed}: rows differ");
    }
    for row in &w.acked {
        assert!(w.holds(data[0], row), "seed {seed}: {row} was acknowledged and is lost");
    }
    // Then nothing moves any more.
    w.run(70_000);
    let term = w.status(data[0]).pin.term;
    w.run(20_000);
    assert_eq!(w.status(data[0]).pin.term, term, "seed {seed}: terms run on");
    tally.acked = w.acked.len();
    tally.terms = term.0;
    tally.sent = w.sent;
    for host in &w.hosts {
        tally.snapshots += host.outputs.iter().filter(|o| matches!(o, Output::FetchSnapshot { .. })).count();
        tally.truncations += host.events.iter().filter(|(_, e)| matches!(e, Event::LogTruncated { .. })).count();
    }
    tally.admitted = w.status(data[0]).membership.version.0 as usize - 1;
    tally
}

#[test]
fn nothing_acknowledged_is_lost_under_random_faults() {
    let (first, count) = match std::env::var("HAMMER_SEED") {
        Ok(seed) => (seed.parse().unwrap(), 1),
        Err(_) => (0, std::env::var("HAMMER_COUNT").map_or(200, |c| c.parse().unwrap())),
    };
    let mut sum =
        Tally { acked: 0, terms: 0, crashes: 0, snapshots: 0, truncations: 0, wiped: 0, admitted: 0, sent: 0 };
    for seed in first..first + count {
        let tally = std::panic::catch_unwind(|| hammer(seed)).unwrap_or_else(|cause| {
            eprintln!("replay with HAMMER_SEED={seed} cargo test -p base-ha-core --test hammer");
            std::panic::resume_unwind(cause)
        });
        sum.acked += tally.acked;
        sum.terms += tally.terms;
        sum.crashes += tally.crashes;
        sum.snapshots += tally.snapshots;
        sum.truncations += tally.truncations;
        sum.wiped += tally.wiped;
        sum.admitted += tally.admitted;
        sum.sent += tally.sent;
    }
    println!(
        "acked {} terms {} crashes {} snapshots {} truncations {} wiped {} changes {} frames {}",
        sum.acked, sum.terms, sum.crashes, sum.snapshots, sum.truncations, sum.wiped, sum.admitted, sum.sent
    );
    if count >= 200 {
        // The faults hit what they were meant to hit.
        assert!(sum.acked > 500 && sum.crashes > 100 && sum.truncations > 5 && sum.admitted > 5);
    }
}
