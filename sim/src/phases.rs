//! A run from start to end: chaos, heal, converge, serve, scan.
//!
//! Decides how long a healed cluster may take, and says what it waits for when
//! it takes longer (L1).

use crate::clock::TrueTime;
use crate::cluster::Cluster;
use crate::plan::Plan;
use crate::report::{Failure, Report};
use crate::timeline::Timeline;
use crate::trace::TraceMode;
use base_ha_core::ids::{NodeId, join};
use base_ha_core::io::{Burden, Part};
use base_ha_core::member::Role;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

/// How long a healed cluster may take to settle, in milliseconds beside what
/// follows from its lease.
const CONVERGE_MS: u64 = 20_000;

/// How many requests must be acknowledged after that, in [`SERVE_MS`].
const SERVE_ACKS: u64 = 20;
const SERVE_MS: u64 = 20_000;

/// How many requests a majority must acknowledge while the others are cut off.
const CORE_ACKS: u64 = 5;

/// How soon an idle cluster must have let go of everything.
const REST_MS: u64 = 2000;

/// Runs a plan.
///
/// # Errors
/// The first property that does not hold.
///
/// # Panics
/// Where the core asserts.
pub fn run(plan: &Plan, mode: TraceMode) -> Result<Report, Failure> {
    follow(plan, mode, None)
}

/// Runs a plan and keeps what happens, for somebody to look at; also where it
/// ends with a panic.
///
/// # Errors
/// The first property that does not hold.
///
/// # Panics
/// Where the core asserts.
pub fn follow(plan: &Plan, mode: TraceMode, timeline: Option<Arc<Mutex<Timeline>>>) -> Result<Report, Failure> {
    let mut cluster = Cluster::new(plan.clone(), mode);
    cluster.timeline = timeline;
    cluster.record(|_, line| line.hosts = cluster.hosts.iter().map(|h| h.id.as_str().to_owned()).collect());
    through(&mut cluster, plan).inspect_err(|failure| {
        cluster.record(|at, line| line.note(at, None, "failed", failure.to_string()));
    })
}

fn through(cluster: &mut Cluster, plan: &Plan) -> Result<Report, Failure> {
    cluster.run_until(TrueTime::from_ms(plan.chaos_ms))?;
    cluster.calm_clients();
    let patience_ms = CONVERGE_MS + plan.lease_ms() * 30;
    if let Some(core) = cluster.heal_core()? {
        let acks = cluster.oracles.survival.acks();
        let limit = cluster.in_ms(patience_ms);
        wait(cluster, "L1 a healed majority goes on", limit, |c| {
            let more = c.oracles.survival.acks() - acks;
            // Who was heard just before the cut may be made a voter after it:
            // then the majority is a larger one (seed 330000094 of its day).
            let outgrown = c.membership_under_way().iter().any(|m| m.quorum() > core);
            (more < CORE_ACKS && !outgrown).then(|| format!("{more} requests were acknowledged"))
        })?;
    }
    cluster.heal()?;
    // What was lost on the way before may still end a lease.
    let heard = cluster.in_ms(plan.lease_ms() * 2);
    cluster.run_until(heard)?;
    // The pin moves to the lowest id only after the longest tenure.
    let limit = cluster.in_ms(patience_ms);
    wait(cluster, "L1 a healed cluster converges", limit, unsettled)?;
    let acks = cluster.oracles.survival.acks();
    let terms = cluster.oracles.writer.terms();
    // What went bad before may be noticed only now, and an fsync that began on
    // a slow disk still be under way.
    let late = ["rot_found_at_read", "damage_noticed", "disk_slow_noticed", "slow_writer_stepped_down"];
    let noticed = |c: &Cluster| late.iter().map(|what| c.counts.get(what)).sum::<u64>();
    let before = noticed(cluster);
    // Who found its disk slow takes the pin back when its time is over.
    let slow = cluster.hosts.iter().filter(|host| host.found_slow()).count() as u64;
    let limit = cluster.in_ms(SERVE_MS);
    wait(cluster, "L1 a healed cluster serves", limit, |c| {
        let more = c.oracles.survival.acks() - acks;
        (more < SERVE_ACKS).then(|| format!("{more} requests were acknowledged"))
    })?;
    cluster.stop_clients();
    let limit = cluster.in_ms(SERVE_MS);
    wait(cluster, "L3 everybody catches up", limit, |c| unsettled(c).or_else(|| behind(c)))?;
    let more = (cluster.oracles.writer.terms() - terms) as u64;
    // Each such thing takes the pin away, and may bring it back; who found its
    // disk slow takes it once.
    let reasons = (noticed(cluster) - before) * 2 + slow;
    if more > reasons {
        return Err(cluster.failure("L2 terms come to rest", format!("{more} more after the cluster had settled")));
    }
    let limit = cluster.in_ms(REST_MS);
    wait(cluster, "L4 nothing is held back at rest", limit, burdened)?;
    cluster.check_histories()?;
    Ok(Report {
        counts: cluster.counts.clone(),
        simulated: cluster.now,
        steps: cluster.steps,
        trace: cluster.trace.hash(),
    })
}

/// Lets time pass until `pending` gives no reason any more.
fn wait(
    cluster: &mut Cluster,
    property: &'static str,
    limit: TrueTime,
    pending: impl Fn(&Cluster) -> Option<String>,
) -> Result<(), Failure> {
    loop {
        let Some(reason) = pending(cluster) else {
            return Ok(());
        };
        if cluster.now >= limit {
            return Err(cluster.failure(property, format!("{reason}{}", standings(cluster))));
        }
        let next = cluster.in_ms(100);
        cluster.run_until(next)?;
    }
}

/// What every node thinks, a line each.
fn standings(cluster: &Cluster) -> String {
    let mut text = String::new();
    for machine in &cluster.hosts {
        let _ = write!(text, "\n  {}: ", machine.id);
        let Some(process) = &machine.process else {
            text.push_str("down");
            continue;
        };
        let status = process.node.status(machine.clock.now(cluster.now));
        let members = status.membership.members.iter().map(|m| {
            let who = m.id().map_or(m.url.as_str(), |id| id.as_str());
            let known = (m.identity.as_ref())
                .is_none_or(|(id, n)| cluster.hosts.iter().any(|h| h.id == *id && h.disk.hard.incarnation == *n));
            format!("{who}={:?}{}", m.role, if known { "" } else { " (old disk)" })
        });
        let _ = write!(
            text,
            "{:?} of term {}, log {} of term {}, commit {}, applied {}, membership {} [{}], disk {:?}, unfit {:?}",
            status.part,
            status.pin.term,
            status.last.seq,
            status.last.term,
            status.commit,
            status.applied,
            status.membership.version,
            join(members, ", "),
            process.incarnation,
            status.unfit
        );
    }
    text
}

/// What a settled cluster still lacks: a writer, the one that belongs there,
/// members that are all heard, fit and what they are to become.
fn unsettled(cluster: &Cluster) -> Option<String> {
    let Some(writer) = cluster.writer() else {
        return Some("nobody may write".into());
    };
    let machine = &cluster.hosts[writer];
    let Some(process) = &machine.process else {
        return Some("the writer is down".into());
    };
    let status = process.node.status(machine.clock.now(cluster.now));
    if status.part != Part::Writer {
        return Some(format!("{} may write and is {:?}", machine.id, status.part));
    }
    if process.node.burden().handovers > 0 {
        // One ordered in the last moment of chaos may end after the healing.
        return Some(format!("{} hands over", machine.id));
    }
    for member in &status.membership.members {
        let Some((id, incarnation)) = &member.identity else {
            return Some(format!("the seat {} was never heard", member.url));
        };
        let Some(other) = cluster.host_named(id, *incarnation).map(|host| &cluster.hosts[host]) else {
            return Some(format!("member {id} has no machine"));
        };
        if member.url != other.url {
            return Some(format!("{id} is said to be at {}, it is at {}", member.url, other.url));
        }
        let Some(theirs) = &other.process else {
            return Some(format!("{id} is down"));
        };
        if theirs.incarnation != *incarnation {
            return Some(format!("{id} is not admitted with its new disk"));
        }
        if member.target.is_some_and(|target| target != member.role) {
            return Some(format!("{id} is not yet {:?}", member.target));
        }
        let standing = theirs.node.status(other.clock.now(cluster.now));
        if let Some(unfit) = standing.unfit {
            return Some(format!("{id} is unfit: {unfit}"));
        }
        if standing.pin.term != status.pin.term {
            return Some(format!("{id} is in term {}", standing.pin.term));
        }
    }
    // Who found its own disk slow asks for the pin only after many tenures.
    let found_slow = |id: &NodeId, incarnation| {
        cluster.host_named(id, incarnation).is_some_and(|host| cluster.hosts[host].found_slow())
    };
    let voters = status.membership.members.iter().filter(|m| m.role == Role::Voter);
    let asking = voters.filter_map(|m| m.identity.as_ref()).filter(|(id, incarnation)| !found_slow(id, *incarnation));
    let lowest = asking.map(|(id, _)| id).min();
    if lowest != Some(&machine.id) && !process.found_slow {
        return Some(format!("{} writes, {lowest:?} is to", machine.id));
    }
    None
}

/// Who still keeps something that an idle node has no use for.
fn burdened(cluster: &Cluster) -> Option<String> {
    cluster.hosts.iter().find_map(|machine| {
        let burden = machine.process.as_ref()?.node.burden();
        let idle = Burden { peers: burden.peers, pings: burden.pings, ..Burden::default() };
        (burden != idle).then(|| format!("{} keeps {burden:?}", machine.id))
    })
}

/// Who has not applied everything, with clients silent.
fn behind(cluster: &Cluster) -> Option<String> {
    let writer = &cluster.hosts[cluster.writer()?];
    let process = writer.process.as_ref()?;
    let status = process.node.status(writer.clock.now(cluster.now));
    if process.group.is_some() {
        return Some("a group is still open".into());
    }
    if status.last.seq != status.commit || status.commit != writer.disk.data.applied.seq {
        return Some(format!(
            "the log ends at {}, {} is committed, {} applied",
            status.last.seq, status.commit, writer.disk.data.applied.seq
        ));
    }
    for member in &status.membership.members {
        let (id, incarnation) = member.identity.as_ref()?;
        let other = &cluster.hosts[cluster.host_named(id, *incarnation)?];
        if other.disk.log.last() != writer.disk.log.last() {
            return Some(format!("the log of {id} ends at {}", other.disk.log.last().seq));
        }
        let data = &other.disk.data;
        if member.role != Role::Witness
            && !other.config.witness
            && (data.applied, data.content) != (writer.disk.data.applied, writer.disk.data.content)
        {
            return Some(format!("{id} has applied {}", data.applied.seq));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Fault, FaultAt, NetPlan, Target};

    /// L3: of three disks the writer's becomes slow, and somebody else writes, without
    /// an election that anybody had to wait for.
    #[test]
    fn a_writer_with_a_slow_disk_hands_over() {
        let mut plan = Plan::calm(1);
        (plan.seats, plan.spares, plan.witness) = (3, 0, None);
        plan.clocks = vec![plan.clocks[0].clone(); 3];
        plan.net = NetPlan::default();
        (plan.disk.stall_pm, plan.disk.sync_us_max) = (0, 2_000);
        (plan.heartbeat_ms, plan.chaos_ms) = (100, 20_000);
        plan.workload.every_us = 20_000;
        let fault = Fault::SlowDisk { target: Target::Writer, ms: 15_000, sync_us: 60_000 };
        plan.faults = vec![FaultAt { at_ms: 3_000, fault }];
        // Up to the healing only: that cuts off a minority, which may be the writer.
        let mut cluster = Cluster::new(plan.clone(), TraceMode::Off);
        cluster.run_until(TrueTime::from_ms(plan.chaos_ms)).expect("nothing is wrong");
        let counts =
            ["disk_slow_noticed", "transfer_started", "handed_over", "transfer_failed", "lease_lost", "stepped_down"];
        assert_eq!(counts.map(|what| cluster.counts.get(what)), [1, 1, 1, 0, 0, 0]);
        run(&plan, TraceMode::Off).expect("it heals as well");
    }
}
