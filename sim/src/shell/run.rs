//! A run of whole nodes from start to end: chaos, heal, converge, serve, stop,
//! scan.
//!
//! Decides how long a healed cluster may take, and says what it waits for when
//! it takes longer (L1-L3).

use super::env::lock;
use super::mutant::Mutant;
use super::oracle::{CHECKS, LINEAR, Ledger, replay};
use super::plan::ShellPlan;
use super::world::World;
use crate::clock::TrueTime;
use crate::report::{Failure, Report};
use crate::trace::TraceMode;
use base_ha::store::data_file;
use serde_json::Value;
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// How long a healed cluster may take to settle, beside what follows from its
/// lease.
const CONVERGE_MS: u64 = 30_000;
/// How many writes must be acknowledged after that, and how soon.
const SERVE_ACKS: usize = 10;
const SERVE_MS: u64 = 20_000;
/// How long clients may take to end what they have begun.
const CLIENTS_MS: u64 = 70_000;
/// How long a graceful stop of all nodes may take.
const STOP_MS: u64 = 60_000;

/// Runs a plan.
///
/// # Errors
/// The first property that does not hold.
///
/// # Panics
/// Where a node asserts.
pub fn run(plan: &ShellPlan, mode: TraceMode, mutant: Option<Mutant>) -> Result<Report, Failure> {
    let mut world = World::new(plan.clone(), mode, mutant);
    let chaos = TrueTime::from_ms(plan.chaos_ms);
    while world.now < chaos {
        world.step()?;
    }
    world.heal();
    let leases = plan.lease_ms() * 30;
    let settled = "L1 a healed cluster converges";
    converge(&mut world, settled, CONVERGE_MS + leases, unsettled)?;
    let acks = acked(&world);
    wait(&mut world, "L1 a healed cluster serves", SERVE_MS, |world| {
        let more = acked(world) - acks;
        (more < SERVE_ACKS).then(|| format!("{more} writes were acknowledged"))
    })?;
    world.shared.stop.store(true, Ordering::Relaxed);
    let clients = plan.workload.clients;
    wait(&mut world, "L1 every request is answered", CLIENTS_MS, |world| {
        let ended = world.shared.ended.load(Ordering::Relaxed);
        (ended < clients).then(|| format!("{ended} of {clients} clients have ended"))
    })?;
    let silent = world.now;
    // An administrator's order may still have been on its way when all had
    // settled (seed 530000460: a member was removed after that).
    converge(&mut world, "L3 everybody catches up", CONVERGE_MS, |world| {
        unsettled(world).or_else(|| behind(world, silent))
    })?;
    world.stop_all();
    wait(&mut world, "L1 every node stops when told", STOP_MS, |world| {
        (!world.all_down()).then(|| "some still run".to_owned())
    })?;
    world.count_troubles();
    world.open_disks();
    scan(&world)?;
    if world.board().standings.terms() > 1 {
        world.recorder.count("failover");
    }
    let history = lock(&world.shared.history);
    Ok(Report {
        counts: world.recorder.counts(),
        simulated: world.now,
        steps: (history.ops.len() + history.reads.len()) as u64,
        trace: world.recorder.hash(),
    })
}

fn acked(world: &World) -> usize {
    let history = lock(&world.shared.history);
    history.ops.iter().filter(|op| matches!(op.outcome, super::history::Outcome::Acked { .. })).count()
}

/// Lets time pass until `pending` gives no reason any more.
fn wait(
    world: &mut World,
    property: &'static str,
    ms: u64,
    mut pending: impl FnMut(&mut World) -> Option<String>,
) -> Result<(), Failure> {
    let limit = world.now.plus_ms(ms);
    loop {
        let Some(reason) = pending(world) else {
            return Ok(());
        };
        if world.now >= limit {
            return Err(world.failure(property, format!("{reason}{}", standings(world))));
        }
        for _ in 0..5 {
            world.step()?;
        }
    }
}

/// Waits for rest; what an administrator took away is given back on the way.
fn converge(
    world: &mut World,
    property: &'static str,
    ms: u64,
    pending: impl Fn(&World) -> Option<String>,
) -> Result<(), Failure> {
    let mut ordered = TrueTime(0);
    wait(world, property, ms, move |world| {
        let reason = pending(world)?;
        if world.now >= ordered.plus_ms(3000)
            && let Some(node) = demoted(world)
        {
            ordered = world.now;
            world.promote(node);
        }
        Some(reason)
    })
}

/// A member that is a learner, or none, and was made to be more.
fn demoted(world: &World) -> Option<usize> {
    let board = world.board();
    let writer = board.writer()?;
    let members = board.status[writer].as_ref()?["members"].as_array()?.clone();
    (0..board.status.len()).find(|node| {
        let id = format!("node-{node}");
        members.iter().find(|m| m["node_id"] == id.as_str()).is_none_or(|m| m["role"] == "learner")
    })
}

/// What a settled cluster still lacks.
fn unsettled(world: &World) -> Option<String> {
    let board = world.board();
    let Some(writer) = board.writer() else {
        return Some("nobody may write".to_owned());
    };
    // Who found its own disk slow asks for the pin only after many tenures.
    let lowest = world.data_nodes().find(|node| !world.found_slow(*node)).unwrap_or(writer);
    if writer != lowest && !world.found_slow(writer) {
        return Some(format!("node-{writer} writes, node-{lowest} is to"));
    }
    let mut term = None;
    for (node, status) in board.status.iter().enumerate() {
        let Some(status) = status else {
            return Some(format!("node-{node} does not answer"));
        };
        if status["state"] != "ready" {
            return Some(format!("node-{node} is not ready: {}", status["reasons"]));
        }
        if *term.get_or_insert(status["term"].clone()) != status["term"] {
            return Some(format!("node-{node} is in term {}", status["term"]));
        }
        let members = status["members"].as_array().map_or(0, Vec::len);
        let voters = status["members"].as_array().map_or(0, |m| m.iter().filter(|m| m["role"] != "learner").count());
        if members != board.status.len() || voters != members {
            return Some(format!("node-{node} knows {members} members, {voters} of which vote"));
        }
    }
    if world.shared.set_up.load(Ordering::Relaxed) { None } else { Some("the tables are not there".to_owned()) }
}

/// Who has not applied everything, with clients silent since `silent`. Statuses
/// from before that may agree with each other, and lack the last write.
fn behind(world: &World, silent: TrueTime) -> Option<String> {
    let board = world.board();
    if !board.is_fresh(silent) {
        return Some("not every node was asked since the clients fell silent".to_owned());
    }
    let commit = |status: &Value| status["commit"].as_u64();
    let highest = board.status.iter().flatten().filter_map(commit).max();
    for (node, status) in board.status.iter().enumerate() {
        let Some(status) = status else {
            return Some(format!("node-{node} does not answer"));
        };
        let last = status["log"]["last"].as_u64();
        if last != highest || commit(status) != highest {
            return Some(format!("the log of node-{node} ends at {last:?}, {highest:?} is committed"));
        }
        if world.plan().witness != Some(node) && status["applied"].as_u64() != highest {
            return Some(format!("node-{node} has applied {} of {highest:?}", status["applied"]));
        }
    }
    None
}

/// What every node says, a line each.
fn standings(world: &World) -> String {
    let mut text = String::new();
    for (node, status) in world.board().status.iter().enumerate() {
        let _ = match status {
            None => write!(text, "\n  node-{node}: silent"),
            Some(s) => write!(
                text,
                "\n  node-{node}: {} of term {}, writable {}, log {}, commit {}, applied {}, state {} {}, membership {} {}",
                s["role"],
                s["term"],
                s["writable"],
                s["log"],
                s["commit"],
                s["applied"],
                s["state"],
                s["reasons"],
                s["membership_version"],
                s["members"].as_array().map_or(String::new(), |m| {
                    m.iter().map(|m| format!("{}={}", m["node_id"], m["role"])).collect::<Vec<_>>().join(", ")
                })
            ),
        };
    }
    text
}

/// Looks at what is on the disks, and at everything that clients were told.
fn scan(world: &World) -> Result<(), Failure> {
    let fail = |property: &'static str| move |detail: String| world.failure(property, detail);
    let mut first: Option<(Ledger, String)> = None;
    let history = lock(&world.shared.history);
    for node in world.data_nodes() {
        let who = format!("node-{node}");
        let named = |detail: String| format!("{who}: {detail}");
        let data = replay::open(&data_file(&world.dir(node))).map_err(named).map_err(fail("data can be opened"))?;
        replay::sound(&data).map_err(named).map_err(fail("L4 data is sound"))?;
        let ledger = replay::ledger(&data).map_err(named).map_err(fail("O9 all or nothing"))?;
        let dump = replay::dump(&data).map_err(named).map_err(fail("data can be read"))?;
        let (_, expected) = match &mut first {
            Some(known) => known,
            None => {
                for (property, check) in CHECKS {
                    // Reads under a lease are promised for clocks in bound only.
                    if *property == LINEAR && !world.plan().rates_in_bound() {
                        continue;
                    }
                    check(&history, &ledger).map_err(fail(property))?;
                }
                let reference = replay::reference(&history, &ledger).map_err(fail("O9 all or nothing"))?;
                let expected = replay::dump(&reference).map_err(fail("data can be read"))?;
                first.insert((ledger, expected))
            }
        };
        replay::equal(&who, &dump, expected).map_err(fail("O6 equal positions, equal data"))?;
    }
    Ok(())
}
