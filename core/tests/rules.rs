//! Behaviour as short stories: the pin, membership, reads, bad frames.

mod world;

use base_ha_core::config::Config;
use base_ha_core::ids::*;
use base_ha_core::io::*;
use base_ha_core::member::Role;
use base_ha_core::message::{Append, AppendResult, Appended, Envelope, Message, Ping, Refused};
use base_ha_core::position::Position;
use base_ha_core::time::MonoTime;
use std::time::Duration;
use world::*;

fn heir(w: &World) -> usize {
    w.writable().expect("a writer")
}

#[test]
fn a_transfer_refuses_nothing_and_is_quick() {
    let mut w = World::born(3);
    w.write(0, "before");
    let call = w.admin(0, AdminCommand::Transfer { to: Some(id(2)) });
    let took = w.until("the new writer", |w| w.writable() == Some(2));
    assert!(took < 100, "took {took} ms");
    w.until("the answer", |w| w.done(0, call).is_some());
    assert_eq!(w.done(0, call), Some(AdminOutcome::Done));
    assert!(w.holds(2, "before"));
    // The lowest id asks for it back, after the tenure and not before.
    let took = w.until("the pin back", |w| w.writable() == Some(0));
    assert!((4_500..7_000).contains(&took), "took {took} ms");
    // Handed over soon after: the next tenure is longer.
    w.run(1_000);
    w.admin(0, AdminCommand::Transfer { to: Some(id(2)) });
    w.until("the new writer", |w| w.writable() == Some(2));
    let took = w.until("the pin back", |w| w.writable() == Some(0));
    assert!(took > 9_000, "took {took} ms");
}

/// R6: of two that ask, the most preferred one gets the pin, whoever asked
/// first: else the pin moves twice (simulator, seed 122860745 of its day).
#[test]
fn the_pin_goes_back_to_the_lowest_in_one_step() {
    // Node 1 asks before node 0 does, and after it.
    for ahead in [0, 50, 150, 250, 350, 450] {
        let mut w = World::born(3);
        w.run(ahead);
        let term = w.status(0).pin.term;
        w.admin(0, AdminCommand::Transfer { to: Some(id(2)) });
        w.until("the other writes", |w| w.writable() == Some(2));
        w.until("the pin back", |w| w.writable().is_some_and(|n| n < 2));
        assert_eq!(w.writable(), Some(0), "{ahead} ms later:\n{}", w.describe());
        assert_eq!(w.status(0).pin.term.0, term.0 + 2);
    }
}

#[test]
fn a_transfer_that_nobody_takes_ends_the_term() {
    let mut w = World::born(3);
    w.drop = Some(|e| matches!(e.message, Message::TimeoutNow));
    let term = w.status(0).pin.term;
    let call = w.admin(0, AdminCommand::Transfer { to: Some(id(1)) });
    w.run(100);
    assert!(w.done(0, call).is_none(), "not yet");
    assert_eq!(w.writable(), None, "it took no lease again");
    w.until("a writer", |w| w.writable().is_some());
    assert_eq!(w.done(0, call), Some(AdminOutcome::TimedOut));
    assert!(w.saw(0, |e| matches!(e, Event::SteppedDown { reason: StepDownReason::TransferUntaken, .. })));
    assert!(w.status(heir(&w)).pin.term > term);
}

#[test]
fn a_graceful_stop_hands_over() {
    let mut w = World::born(3);
    w.at(0, Input::Shutdown);
    let took = w.until("the stop", |w| w.hosts[0].outputs.contains(&Output::Stopped));
    assert!(took < 100, "took {took} ms");
    w.until("the new writer", |w| w.writable() == Some(1));
    let mut w = World::born(1);
    w.at(0, Input::Shutdown);
    w.until("the stop", |w| w.hosts[0].outputs.contains(&Output::Stopped));
}

#[test]
fn a_full_disk_hands_over_and_reads_go_on() {
    let mut w = World::born(3);
    w.at(0, Input::Health(StoreHealth::Full));
    w.until("the new writer", |w| w.writable() == Some(1));
    w.run(20_000);
    assert_eq!(w.writable(), Some(1), "it does not ask while its disk is full");
    w.at(0, Input::Health(StoreHealth::Well));
    w.until("the pin back", |w| w.writable() == Some(0));
}

#[test]
fn a_step_down_leaves_open_proposals_unknown() {
    let mut w = World::born(3);
    w.cut.extend([(1, 0), (2, 0)]);
    let open = w.write(0, "x");
    assert!(matches!(w.outcome(0, open), Some(Output::Proposed { .. })));
    w.until("its fate", |w| matches!(w.outcome(0, open), Some(Output::ProposalUnknown { .. })));
    assert!(w.saw(0, |e| matches!(e, Event::SteppedDown { .. })));
    // It did arrive, and a later writer commits it: unknown was the truth.
    w.until("a writer", |w| w.writable().is_some());
    w.until("the row", |w| w.holds(1, "x") && w.holds(2, "x"));
}

#[test]
fn reads_need_a_proof_and_followers_refuse() {
    let mut w = World::born(3);
    w.at(0, Input::ReadIndex { id: 1 });
    assert!(w.hosts[0].outputs.iter().any(|o| matches!(o, Output::ReadReady { id: 1, .. })));
    w.at(1, Input::ReadIndex { id: 2 });
    assert!(
        w.hosts[1]
            .outputs
            .iter()
            .any(|o| matches!(o, Output::ReadRefused { id: 2, refusal: Refusal::NotWriter { writer: Some(_), .. } }))
    );
    // Without the lease, a quorum has to answer something sent later.
    w.isolate(0);
    w.run(1_400);
    assert!(!w.may_write(0));
    w.at(0, Input::ReadIndex { id: 3 });
    assert!(!w.hosts[0].outputs.iter().any(|o| matches!(o, Output::ReadReady { id: 3, .. })));
    w.until("the refusal", |w| w.hosts[0].outputs.iter().any(|o| matches!(o, Output::ReadRefused { id: 3, .. })));
}

#[test]
fn a_two_node_cluster_with_a_witness_survives_either() {
    let mut w = World::new(2);
    let mut config = Config::new(id(2), url(2), (0..3).map(url).collect());
    config.witness = true;
    w.add(config);
    for n in 0..2 {
        w.hosts[n].config.seats = (0..3).map(url).collect();
    }
    (0..3).for_each(|n| w.start(n));
    w.until("a writer", |w| w.writable() == Some(0));
    w.run(200);
    assert_eq!(w.status(2).part, Part::Witness);
    // The witness alone holds what the writer committed last.
    w.isolate(1);
    w.write(0, "kept");
    w.run(50);
    assert!(w.holds(0, "kept"));
    w.crash(0);
    w.heal();
    w.until("the other data node", |w| w.writable() == Some(1));
    assert!(w.holds(1, "kept"));
    assert!(w.saw(2, |e| matches!(e, Event::BecameWriter { .. })), "as a caretaker");
    assert!(w.hosts[2].disk.data.is_empty());
    assert!(!w.hosts[2].outputs.iter().any(|o| match o {
        Output::Pin(pin) => pin.writable || pin.writer.as_ref().is_some_and(|(i, _)| *i == id(2)),
        Output::Apply { .. } => true,
        _ => false,
    }));
}

#[test]
fn members_are_added_as_learners_promoted_and_removed() {
    let mut w = World::born(3);
    let n = w.add(Config::new(id(3), url(3), (0..4).map(url).collect()));
    let call = w.admin(0, AdminCommand::AddMember { url: url(3), role: Role::Voter });
    w.until("the answer", |w| w.done(0, call).is_some());
    assert_eq!(w.done(0, call), Some(AdminOutcome::Done));
    w.start(n);
    w.write(0, "x");
    w.until("a voter", |w| w.status(3).part == Part::Follower);
    w.until("the row", |w| w.holds(3, "x"));
    assert_eq!(w.status(0).membership.quorum(), 3);
    w.run(100);
    let call = w.admin(0, AdminCommand::RemoveMember { member: MemberRef::Id(id(3)) });
    let again = w.admin(0, AdminCommand::RemoveMember { member: MemberRef::Id(id(1)) });
    assert_eq!(w.done(0, again), Some(AdminOutcome::Busy), "one change at a time");
    w.until("the answer", |w| w.done(0, call) == Some(AdminOutcome::Done));
    // It runs on, and neither comes back by itself nor disturbs anybody.
    let term = w.status(0).pin.term;
    w.run(20_000);
    assert!(w.status(0).membership.get(&id(3)).is_none());
    assert_eq!(w.status(0).pin.term, term);
    assert_eq!(w.status(3).unfit, Some(Unfit::NotAMember));
    let call = w.admin(0, AdminCommand::RemoveMember { member: MemberRef::Id(id(0)) });
    w.until("the answer", |w| w.done(0, call).is_some());
    w.until("another writer", |w| w.writable() == Some(1));
    assert!(w.saw(0, |e| matches!(e, Event::SteppedDown { reason: StepDownReason::HandedOver, .. })));
    let call = w.admin(1, AdminCommand::RemoveMember { member: MemberRef::Id(id(9)) });
    assert_eq!(w.done(1, call), Some(AdminOutcome::UnknownMember));
}

#[test]
fn a_stranger_with_the_secret_becomes_a_learner_unless_told_not_to() {
    let mut w = World::born(3);
    let n = w.add(Config::new(id(3), url(3), (0..4).map(url).collect()));
    w.write(0, "x");
    w.start(n);
    w.until("the row", |w| w.holds(3, "x"));
    assert_eq!(w.status(3).part, Part::Learner);
    assert_eq!(w.status(0).membership.quorum(), 2);
    let mut w = World::new(3);
    (0..3).for_each(|n| w.hosts[n].config.admit_auto = false);
    (0..3).for_each(|n| w.start(n));
    w.until("a writer", |w| w.writable().is_some());
    let n = w.add(Config::new(id(3), url(3), (0..4).map(url).collect()));
    w.start(n);
    w.until("the refusal", |w| w.status(3).unfit == Some(Unfit::NotAMember));
}

#[test]
fn a_member_that_moved_is_found_again() {
    let mut w = World::born(3);
    w.crash(2);
    w.hosts[2].config.url = url(7);
    w.hosts[2].config.seats = vec![url(0), url(1), url(7)];
    w.start(2);
    w.until("the new address", |w| w.status(0).membership.get(&id(2)).is_some_and(|m| m.url == url(7)));
    w.write(0, "x");
    w.until("the row", |w| w.holds(2, "x"));
}

/// Its address in the membership answers nobody, and after a partition nobody
/// has heard it for long either: it is pinged where its own pings come from.
#[test]
fn a_member_that_moved_is_found_again_after_a_partition() {
    let mut w = World::born(3);
    for host in &mut w.hosts {
        host.config.admit_auto = false;
    }
    for n in 0..3 {
        w.crash(n);
        if n == 2 {
            w.hosts[2].config.url = url(7);
            w.hosts[2].config.seats = vec![url(0), url(1), url(7)];
        }
        w.start(n);
    }
    let up = |w: &World| w.status(0).peers.iter().any(|p| p.id == Some(id(2)) && p.up);
    w.until("a writer", |w| w.writable() == Some(0));
    w.until("the moved one", up);
    w.isolate(2);
    w.run(5_000);
    assert!(!up(&w));
    w.heal();
    w.until("the moved one again", up);
    assert!(w.status(0).membership.get(&id(2)).is_some_and(|m| m.url == url(2)), "nobody set its address");
    w.write(0, "x");
    w.until("the row", |w| w.holds(2, "x"));
}

/// A ping that was held up for long is answered by a process that came later:
/// its echo proves less than a late echo of the process before it. The one that
/// lives is asked again, though its own address answers nobody.
#[test]
fn late_echoes_do_not_silence_a_moved_process() {
    let mut w = World::born(3);
    w.isolate(0);
    w.run(5_000);
    let sent = |w: &World, nth: usize| {
        let pings = w.hosts[2].outputs.iter().rev().filter_map(|o| match o {
            Output::Send { envelope: Envelope { message: Message::Ping(ping), .. }, .. } => Some(ping.sent),
            _ => None,
        });
        let mut stamps: Vec<_> = pings.take(60).collect();
        stamps.dedup();
        stamps[nth]
    };
    let cluster = w.status(2).cluster;
    let standing = w.hosts[2].outputs.iter().find_map(|o| match o {
        Output::Send { envelope: Envelope { message: Message::Ping(ping), .. }, .. } => Some(ping.clone()),
        _ => None,
    });
    let standing = Ping { url: url(9), ..standing.expect("it pings") };
    let pong = |w: &World, nonce, echo| {
        let message = Message::Pong { echo, standing: standing.clone() };
        with_nonce(frame(w, 0, cluster, w.status(2).pin.term.0, message), nonce)
    };
    let (older, newer) = (sent(&w, 4), sent(&w, 1));
    let input = pong(&w, BootNonce(71), newer);
    w.at(2, input);
    let input = pong(&w, BootNonce(72), older);
    w.at(2, input);
    w.run(1_000);
    let before = w.hosts[2].outputs.len();
    let message = Message::Ping(Ping { sent: MonoTime(1), ..standing.clone() });
    let input = with_nonce(frame(&w, 0, cluster, w.status(2).pin.term.0, message), BootNonce(72));
    w.at(2, input);
    let refused = |o: &Output| matches!(o, Output::Event(Event::FrameRefused { reason: FrameRefusal::OldProcess, .. }));
    let asked = |o: &Output| {
        matches!(o, Output::Send { route: Route::Url(to), envelope } if *to == url(0)
            && matches!(envelope.message, Message::Ping(_)))
    };
    assert!(w.hosts[2].outputs[before..].iter().any(refused));
    assert!(w.hosts[2].outputs[before..].iter().any(asked), "{:?}", &w.hosts[2].outputs[before..]);
}

fn with_nonce(mut input: Input, nonce: BootNonce) -> Input {
    if let Input::Received { envelope, .. } = &mut input {
        envelope.nonce = nonce;
    }
    input
}

/// Told twice, or late, that it forgot what it acknowledged, a node takes one
/// new incarnation, not one each time.
#[test]
fn amnesia_told_twice_is_one() {
    let mut w = World::born(3);
    w.write(0, "x");
    w.run(50);
    let old = w.hosts[2].disk.clone();
    let incarnation = old.hard.incarnation;
    w.write(0, "y");
    w.run(50);
    w.crash(2);
    w.hosts[2].disk = old;
    w.start(2);
    w.until("amnesia", |w| w.saw(2, |e| matches!(e, Event::Amnesia { .. })));
    let (cluster, term) = (w.status(0).cluster, w.status(0).pin.term.0);
    let told = Message::Refused(Refused::Amnesia { incarnation, acknowledged: w.status(0).commit });
    let again = frame(&w, 0, cluster, term, told);
    w.at(2, again);
    let forgot = w.hosts[2].events.iter().filter(|(_, e)| matches!(e, Event::Amnesia { .. })).count();
    assert_eq!(forgot, 1);
    w.until("admission", |w| w.status(2).part == Part::Follower);
}

/// A second machine with a copy of the disk said less than was acknowledged.
/// The one that is left has it all, and is fed again (simulator, faults `Copy`
/// and `TailLoss`: it denied to have forgotten anything, and got nothing more).
#[test]
fn a_false_word_of_forgetting_is_taken_back() {
    let mut w = World::born(3);
    w.write(0, "x");
    w.run(1_000);
    let sent = w.hosts[0].outputs.iter().rev().find_map(|output| match output {
        Output::Send { route: Route::Url(to), envelope } if *to == url(2) => match &envelope.message {
            Message::Append(append) => append.sent,
            _ => None,
        },
        _ => None,
    });
    let said = Message::Appended(Appended {
        echo: sent.expect("a heartbeat"),
        result: AppendResult::Mismatch { hint: Position::START, last: Seq(0) },
        applied: Seq(0),
    });
    let (cluster, term) = (w.status(0).cluster, w.status(0).pin.term.0);
    let said = frame(&w, 2, cluster, term, said);
    w.at(0, said);
    let accused = |w: &World| {
        let told = w.hosts[0].outputs.iter();
        told.filter(|o| matches!(o, Output::Send { envelope, .. } if matches!(envelope.message, Message::Refused(Refused::Amnesia { .. })))).count()
    };
    assert_eq!(accused(&w), 1);
    w.run(1_000);
    w.write(0, "y");
    w.until("the row", |w| w.holds(2, "y"));
    assert!(!w.saw(2, |e| matches!(e, Event::Amnesia { .. })), "it forgot nothing");
    let before = accused(&w);
    w.run(5_000);
    assert_eq!(accused(&w), before);
}

/// The lease goes on while the disk stands still, and nothing is committed:
/// where a quorum of others could, the writer makes room.
#[test]
fn a_writer_with_a_stalled_disk_makes_room() {
    let mut w = World::born(3);
    w.hosts[0].disk_stalled = true;
    w.write(0, "x");
    let took = w.until("another writer", |w| w.writable() == Some(1));
    assert!((1_500..6_000).contains(&took), "took {took} ms");
    assert!(w.saw(0, |e| matches!(e, Event::SteppedDown { reason: StepDownReason::SlowDisk, .. })));
    w.until("the row", |w| w.holds(1, "x") && w.holds(2, "x"));
    w.run(20_000);
    assert_eq!(w.writable(), Some(1), "it does not ask while its disk stands still");
    w.unstall(0);
    w.run(60_000);
    assert_eq!(w.writable(), Some(1), "a disk that stalls again and again costs an election each time");
    w.run(600_000);
    assert_eq!(w.writable(), Some(0));
    // Where nobody else is faster, it stays.
    let mut w = World::born(3);
    (0..3).for_each(|n| w.hosts[n].disk_stalled = true);
    w.write(0, "x");
    w.run(10_000);
    assert!(w.may_write(0));
}

/// The writer's data is damaged, a follower lies beyond the log, the third is
/// well: the follower gets its copy from the third, and the two are a majority.
#[test]
fn a_damaged_writer_is_not_the_only_source() {
    let mut w = World::born(3);
    w.isolate(2);
    w.hosts[0].rot = 1;
    w.write(0, "x");
    w.run(50);
    w.hosts[0].rot = 0;
    w.run(5_000);
    assert!(w.saw(0, |e| matches!(e, Event::DivergedWithoutMajority { .. })));
    w.hosts[0].spoiled = true;
    w.trim(0, w.status(0).trimmable);
    w.trim(1, w.status(1).trimmable);
    w.heal();
    w.until("the rows", |w| w.holds(2, "x"));
    assert_eq!(w.hosts[2].disk.content, w.hosts[1].disk.content);
    w.until("the damage", |w| w.saw(0, |e| matches!(e, Event::Diverged { node, .. } if *node == id(0))));
    w.until("healing", |w| w.hosts[0].disk.content == w.hosts[1].disk.content);
}

/// G6: two processes of one name: both refuse, and it passes when one goes.
#[test]
fn duplicate_node_name_refused() {
    let mut w = World::born(3);
    let twin = w.add(Config::new(id(0), url(9), vec![url(0), url(1), url(2), url(9)]));
    w.hosts[twin].disk = w.hosts[0].disk.clone();
    w.start(twin);
    w.until("both to notice", |w| {
        w.status(0).unfit == Some(Unfit::DuplicateId) && w.status(twin).unfit == Some(Unfit::DuplicateId)
    });
    w.until("a writer with another name", |w| w.writable().is_some_and(|n| n == 1 || n == 2));
    w.run(5_000);
    assert!(!w.may_write(0) && !w.may_write(twin));
    w.crash(twin);
    w.until("the name to be free", |w| w.status(0).unfit.is_none());
}

/// An accusation is of one process: told late, it says nothing of the one that
/// came after it, nor of a name's new disk.
#[test]
fn a_late_accusation_does_not_stop_a_restarted_node() {
    let mut w = World::born(3);
    let cluster = w.status(1).cluster;
    let late = accusation(&w, 1);
    w.crash(1);
    w.start(1);
    w.until("it is back", |w| w.status(1).unfit.is_none());
    let input = frame(&w, 0, cluster, 1, late);
    w.at(1, input);
    assert_eq!(w.status(1).unfit, None);
    assert!(w.saw(1, |e| matches!(e, Event::FrameRefused { reason: FrameRefusal::OldProcess, .. })));
    let Message::Refused(Refused::DuplicateId { nonce, other, .. }) = accusation(&w, 1) else { unreachable!() };
    let of_another_disk = Message::Refused(Refused::DuplicateId { nonce, incarnation: Incarnation(7), other });
    let input = frame(&w, 0, cluster, 1, of_another_disk);
    w.at(1, input);
    assert_eq!(w.status(1).unfit, None);
    // Its own it takes to heart.
    let input = frame(&w, 0, cluster, 1, accusation(&w, 1));
    w.at(1, input);
    assert_eq!(w.status(1).unfit, Some(Unfit::DuplicateId));
}

#[test]
fn seats_that_differ_found_nothing() {
    let mut w = World::new(3);
    w.hosts[2].config.seats = vec![url(0), url(1), url(2), url(5)];
    (0..3).for_each(|n| w.start(n));
    w.run(10_000);
    assert!(w.writable().is_none());
    assert!(w.saw(0, |e| matches!(e, Event::SeatsDiffer { .. })));
    assert_eq!(w.status(0).unfit, Some(Unfit::SeatsDiffer));
}

#[test]
fn bootstrap_founds_alone_and_the_others_join() {
    let mut w = World::new(3);
    w.hosts[1].config.bootstrap = true;
    w.start(1);
    w.until("a writer", |w| w.writable() == Some(1));
    w.write(1, "x");
    w.start(0);
    w.start(2);
    w.until("the rows", |w| w.holds(0, "x") && w.holds(2, "x"));
}

fn frame(w: &World, from: usize, cluster: ClusterId, term: u64, message: Message) -> Input {
    let status = w.status(from);
    Input::Received {
        route: Route::Url(url(from)),
        envelope: Envelope {
            cluster,
            seats: 0,
            from: id(from),
            incarnation: status.incarnation,
            nonce: status.nonce,
            term: Term(term),
            config: status.membership.version,
            message,
        },
    }
}

/// That another live process has this one's name.
fn accusation(w: &World, of: usize) -> Message {
    let Status { nonce, incarnation, .. } = w.status(of);
    Message::Refused(Refused::DuplicateId { nonce, incarnation, other: Incarnation(1) })
}

fn append(prev: Position) -> Message {
    Message::Append(Append {
        sent: Some(MonoTime(1)),
        prev,
        entries: vec![],
        commit: Seq(u64::MAX),
        renews: true,
        part: None,
    })
}

/// B6: frames of others change nothing.
#[test]
fn frames_of_another_cluster_change_nothing() {
    let mut w = World::born(3);
    let before = w.status(1);
    let forged = frame(&w, 0, ClusterId(666), 99, append(before.last));
    w.at(1, forged);
    let vote = Message::Vote { last: before.last, transfer: true };
    let forged = frame(&w, 0, ClusterId(666), 99, vote);
    w.at(1, forged);
    assert_eq!(w.status(1).pin, before.pin);
    assert!(w.saw(1, |e| matches!(e, Event::FrameRefused { reason: FrameRefusal::OtherCluster, .. })));
    // Nor does a stranger to the membership raise the term.
    let mut input = frame(&w, 0, before.cluster, 99, Message::Vote { last: before.last, transfer: true });
    if let Input::Received { envelope, .. } = &mut input {
        envelope.incarnation = Incarnation(1);
    }
    w.at(1, input);
    assert_eq!(w.status(1).pin, before.pin);
    // A leased follower ignores a candidate, its term included.
    let vote = Message::Vote { last: before.last, transfer: false };
    let input = frame(&w, 2, before.cluster, 99, vote);
    w.at(1, input);
    assert_eq!(w.status(1).pin, before.pin);
}

/// Nothing below the commit index is ever dropped, whoever says so.
#[test]
fn a_contradiction_below_the_commit_index_is_refused() {
    let mut w = World::born(3);
    w.write(0, "x");
    w.run(100);
    let before = w.status(1);
    let prev = Position { seq: Seq(1), term: Term(77), hash: Hash([9; 32]) };
    let input = frame(&w, 0, before.cluster, before.pin.term.0, append(prev));
    w.at(1, input);
    assert!(w.saw(1, |e| matches!(e, Event::FrameRefused { reason: FrameRefusal::Contradiction, .. })));
    assert_eq!(w.status(1).last, before.last);
}

#[test]
fn differing_content_is_quarantined_and_reseeded() {
    let mut w = World::born(3);
    w.hosts[2].rot = 1;
    w.write(0, "x");
    w.run(50);
    w.hosts[2].rot = 0;
    w.until("quarantine", |w| w.saw(2, |e| matches!(e, Event::Diverged { .. })));
    assert!(w.hosts[2].outputs.iter().any(|o| matches!(o, Output::FetchSnapshot { reseed: true, .. })));
    w.until("healing", |w| w.status(2).unfit.is_none());
    assert_eq!(w.hosts[2].disk.content, w.hosts[0].disk.content);
    // A minority writer hands over.
    w.hosts[0].rot = 1;
    w.write(0, "y");
    w.run(50);
    w.hosts[0].rot = 0;
    w.until("another writer", |w| w.writable().is_some_and(|n| n != 0));
    w.until("healing", |w| w.hosts[2].disk.content == w.hosts[0].disk.content);
    // Two that differ have no majority: alarm only.
    let mut w = World::born(2);
    w.hosts[1].rot = 1;
    w.write(0, "x");
    w.run(3_000);
    assert!(w.saw(0, |e| matches!(e, Event::DivergedWithoutMajority { .. })));
    assert!(w.hosts.iter().all(|h| { !h.outputs.iter().any(|o| matches!(o, Output::FetchSnapshot { .. })) }));
}

/// Data that ends before the log begins can't be brought up by entries: a
/// data.db that was lost, or put back from an old copy, is seeded anew.
#[test]
fn data_below_its_log_is_reseeded() {
    let mut w = World::born(3);
    w.write(0, "x");
    w.run(2_000);
    let through = w.status(2).trimmable;
    assert!(through > Seq(1), "nothing to trim: {through}");
    w.trim(2, through);
    w.crash(2);
    let disk = &mut w.hosts[2].disk;
    (disk.applied, disk.content, disk.membership, disk.data) = (Position::START, 0, None, vec![]);
    w.start(2);
    assert_eq!(w.status(2).unfit, Some(Unfit::Quarantined), "what it lacks is not served");
    w.until("the rows", |w| w.holds(2, "x") && w.status(2).unfit.is_none());
    assert!(!w.saw(2, |e| matches!(e, Event::Amnesia { .. })), "its log is whole");
}

/// R8: a disk that was rolled back counts as another disk.
#[test]
fn a_rolled_back_disk_takes_a_new_incarnation() {
    let mut w = World::born(3);
    w.write(0, "x");
    w.run(50);
    let old = w.hosts[2].disk.clone();
    w.write(0, "y");
    w.run(50);
    let before = w.status(2).incarnation;
    w.crash(2);
    w.hosts[2].disk = old;
    w.start(2);
    w.until("amnesia", |w| w.saw(2, |e| matches!(e, Event::Amnesia { .. })));
    assert_ne!(w.status(2).incarnation, before);
    w.until("admission", |w| w.status(2).part == Part::Follower);
    assert!(w.holds(2, "y"));
}

/// B5: a term that was heard of and is not on the disk is gone after a crash.
/// Whoever goes by it knows which of the two it is.
#[test]
fn a_pin_says_which_term_a_crash_leaves() {
    let mut w = World::born(3);
    let before = w.status(2).pin;
    assert_eq!(before.durable, before.term);
    w.hosts[2].disk_stalled = true;
    w.admin(0, AdminCommand::Transfer { to: Some(id(1)) });
    w.until("word of the writer", |w| w.status(2).pin.writer == Some((id(1), url(1))));
    let heard = w.status(2).pin;
    assert!(heard.term > before.term, "requests can be passed on");
    assert_eq!(heard.durable, before.term);
    w.isolate(2);
    w.crash(2);
    w.start(2);
    let back = w.status(2).pin;
    assert_eq!((back.term, back.durable), (before.term, before.term));
    w.heal();
    w.until("the term", |w| w.status(2).pin.durable == heard.term);
    // The same without a crash: told when the record is there.
    w.hosts[2].disk_stalled = true;
    w.admin(1, AdminCommand::Transfer { to: Some(id(0)) });
    w.until("word of the writer", |w| w.status(2).pin.writer == Some((id(0), url(0))));
    w.unstall(2);
    let told = w.hosts[2].outputs.iter().rev().find_map(|o| match o {
        Output::Pin(pin) => Some(pin.clone()),
        _ => None,
    });
    let pin = w.status(2).pin;
    assert_eq!((pin.durable, told), (pin.term, Some(pin)));
}

/// A slow disk delays acknowledgements, not the lease.
#[test]
fn a_stalled_disk_acknowledges_nothing() {
    let mut w = World::born(3);
    w.hosts[1].disk_stalled = true;
    w.hosts[2].disk_stalled = true;
    let progress = w.status(0).commit;
    w.write(0, "x");
    w.run(5_000);
    assert_eq!(w.status(0).commit, progress, "nothing is committed");
    assert!(w.may_write(0), "the lease went on");
    w.unstall(1);
    w.until("the row", |w| w.holds(0, "x"));
}

/// A candidacy whose record was under way for longer than it lasted asks for no
/// votes any more: they would be lost to who still stands (simulator, seed
/// 219042297 of its day).
#[test]
fn a_candidacy_that_was_given_up_asks_for_nothing() {
    let mut w = World::born(3);
    w.hosts[1].disk_stalled = true;
    w.crash(0);
    w.until("a candidacy", |w| w.status(1).part == Part::Candidate);
    let term = w.status(1).pin.term;
    w.until("its end", |w| w.status(1).part != Part::Candidate);
    assert_eq!(w.status(1).pin.term, term, "no other has begun");
    w.hosts[1].outputs.clear();
    w.unstall(1);
    let asked =
        |o: &Output| matches!(o, Output::Send { envelope, .. } if matches!(envelope.message, Message::Vote { .. }));
    assert!(!w.hosts[1].outputs.iter().any(asked), "{:?}", w.hosts[1].outputs);
    w.until("a writer", |w| w.writable().is_some());
}

#[test]
fn the_static_writer_alone_campaigns() {
    let mut w = World::new(3);
    (0..3).for_each(|n| w.hosts[n].config.static_writer = Some(url(1)));
    (0..3).for_each(|n| w.start(n));
    w.until("a writer", |w| w.writable() == Some(1));
    w.run(10_000);
    assert_eq!(w.writable(), Some(1));
    w.crash(1);
    w.run(10_000);
    assert_eq!(w.writable(), None);
    w.start(1);
    w.until("a writer", |w| w.writable() == Some(1));
}

/// Under one-way links no term runs away, and the writer stays.
#[test]
fn a_deaf_node_disturbs_nobody() {
    let mut w = World::born(3);
    let term = w.status(0).pin.term;
    w.cut.extend([(0, 2), (1, 2)]);
    w.run(30_000);
    assert_eq!(w.writable(), Some(0));
    w.heal();
    w.run(5_000);
    assert_eq!(w.writable(), Some(0));
    assert_eq!(w.status(0).pin.term, term);
    assert!(w.status(2).applied == w.status(0).applied);
}

#[test]
fn nothing_bad_said_of_a_node_panics_it() {
    let mut w = World::born(3);
    let cluster = w.status(0).cluster;
    let membership = w.status(0).membership;
    let said = [
        Message::TimeoutNow,
        Message::AskTransfer,
        Message::Voted { granted: true },
        Message::PreVoted { term: Term(9), granted: true },
        Message::Refused(Refused::Amnesia { incarnation: w.hosts[1].disk.hard.incarnation, acknowledged: Seq(9_999) }),
        Message::Refused(Refused::Born { membership }),
        Message::Refused(Refused::NotAMember),
        Message::Refused(Refused::StaleTerm),
        accusation(&w, 0),
        accusation(&w, 1),
        Message::NeedSnapshot { at_least: Position::START, from: url(1) },
        append(Position { seq: Seq(u64::MAX), term: Term(1), hash: Hash::ZERO }),
    ];
    for message in said {
        for term in [0, 1, 2, 50] {
            for (from, to) in [(0, 1), (1, 0), (2, 0), (0, 2)] {
                let input = frame(&w, from, cluster, term, message.clone());
                w.at(to, input);
            }
        }
    }
    w.at(0, Input::Persisted { id: u64::MAX });
    w.at(0, Input::LogTrimmed { first: Seq(900), base: Position::START });
    w.at(0, Input::SnapshotFailed);
    w.run(Duration::from_secs(20).as_millis() as u64);
    w.until("a writer", |w| w.writable().is_some());
}

/// Raft 5.4.2: an entry of an older term is never committed by counting.
#[test]
fn old_term_entries_are_not_committed_by_counting() {
    let mut w = World::born(3);
    w.crash(2);
    let before = w.status(0).commit;
    w.cut.insert((1, 0));
    w.write(0, "old");
    w.run(20);
    assert_eq!(w.status(1).last.seq, Seq(before.0 + 1));
    w.crash(0);
    w.crash(1);
    w.heal();
    // Both hold the old entry; the new term's own entry reaches nobody.
    w.drop = Some(|e| matches!(&e.message, Message::Append(a) if !a.entries.is_empty()));
    w.start(0);
    w.start(1);
    w.until("a writer elect", |w| (0..2).any(|n| w.status(n).part == Part::Writer));
    for id in 0..10 {
        // A read makes it send bare appends, whose answers say what is there.
        let n = usize::from(w.status(1).part == Part::Writer);
        w.at(n, Input::ReadIndex { id });
        w.run(100);
    }
    assert!((0..2).any(|n| w.status(n).part == Part::Writer));
    assert!((0..2).all(|n| w.status(n).commit == before), "counted an old term");
    assert_eq!(w.writable(), None);
    w.drop = None;
    w.until("the old row", |w| w.holds(0, "old") && w.holds(1, "old"));
}

/// A log that ends below its data has forgotten what it acknowledged.
#[test]
fn a_log_behind_its_data_is_amnesia() {
    let mut w = World::born(3);
    for n in 0..5 {
        w.write(0, &format!("row {n}"));
        w.run(20);
    }
    let before = w.status(2).incarnation;
    w.crash(2);
    let keep = w.hosts[2].disk.log.len() - 3;
    w.hosts[2].disk.log.truncate(keep);
    w.start(2);
    assert_ne!(w.status(2).incarnation, before);
    assert_eq!(w.status(2).part, Part::Learner);
    w.until("admission", |w| w.status(2).part == Part::Follower);
    w.write(0, "after");
    w.until("the row", |w| w.holds(2, "after"));
    assert_eq!(w.hosts[2].disk.data, w.hosts[0].disk.data);
}

#[test]
fn an_ordered_step_down_is_not_taken_back_at_once() {
    let mut w = World::born(3);
    let call = w.admin(0, AdminCommand::StepDown);
    assert_eq!(w.done(0, call), Some(AdminOutcome::Done));
    w.until("a writer", |w| w.writable().is_some());
    assert_ne!(w.writable(), Some(0));
    let call = w.admin(0, AdminCommand::StepDown);
    assert!(matches!(w.done(0, call), Some(AdminOutcome::NotWriter(_))));
}

/// R8: what a new disk under a known name acknowledges commits nothing before
/// a logged change admits it.
#[test]
fn a_new_disks_acknowledgement_commits_nothing() {
    let mut w = World::born(3);
    w.run(1_000);
    w.crash(1);
    w.crash(2);
    w.hosts[2].disk = Image::default();
    w.start(2);
    let before = w.status(0).commit;
    let open = w.write(0, "x");
    assert!(matches!(w.outcome(0, open), Some(Output::Proposed { .. })));
    let last = w.status(0).last;
    w.until("the new disk to hold it", |w| w.status(2).last == last);
    w.run(10);
    assert_eq!(w.status(0).commit, before);
    w.until("its fate", |w| matches!(w.outcome(0, open), Some(Output::ProposalUnknown { .. })));
}

/// What an old writer's uncommitted suffix says of its log's end says nothing
/// of what was committed in its place meanwhile: the witness keeps that.
#[test]
fn a_witness_keeps_what_a_deposed_writer_lacks() {
    let mut w = World::new(2);
    let mut config = Config::new(id(2), url(2), (0..3).map(url).collect());
    config.witness = true;
    w.add(config);
    for n in 0..2 {
        w.hosts[n].config.seats = (0..3).map(url).collect();
    }
    (0..3).for_each(|n| w.start(n));
    w.until("a writer", |w| w.writable() == Some(0));
    w.run(200);
    let common = w.status(0).commit;
    // Its entries reach nobody, its pings do.
    w.drop = Some(|e| e.from == id(0) && matches!(e.message, Message::Append(_)));
    for _ in 0..20 {
        w.write(0, "lost");
    }
    w.run(700);
    w.isolate(0);
    w.until("the other data node", |w| w.writable() == Some(1));
    for _ in 0..5 {
        w.write(1, "kept");
    }
    w.run(3_000);
    let witness = w.status(2);
    assert!(witness.commit > common && w.status(0).last.seq > witness.commit);
    assert_eq!(witness.trimmable, common, "node 0 lacks what comes after");
}

/// A founding writer whose founding entry is not committed hears of a cluster
/// that the others founded without it.
#[test]
fn a_founder_that_came_too_late_joins() {
    let mut w = World::new(3);
    w.drop = Some(|e| matches!(e.message, Message::Appended(_)));
    (0..2).for_each(|n| w.start(n));
    w.until("a founder", |w| w.saw(0, |e| matches!(e, Event::BecameWriter { .. })));
    let mut other = World::born(3).status(1).membership;
    other.cluster = ClusterId(77);
    let frame = Envelope {
        cluster: other.cluster,
        seats: 0,
        from: id(2),
        incarnation: Incarnation(5),
        nonce: BootNonce(99),
        term: Term(9),
        config: other.version,
        message: Message::Refused(Refused::Born { membership: other }),
    };
    let route = Route::Url(url(2));
    w.at(0, Input::Received { route, envelope: frame });
    let status = w.status(0);
    assert_eq!(status.cluster, ClusterId(77));
    assert_eq!(status.last.seq, Seq(0));
    assert_ne!(status.part, Part::Writer);
}

/// A group that changed nothing is answered only by a node that holds the pin.
#[test]
fn an_empty_proposal_asks_for_the_pin() {
    let mut w = World::born(3);
    let ask = |id| Input::Propose { id, payloads: vec![] };
    let last = w.status(0).last;
    w.at(0, ask(900));
    assert!(matches!(
        w.outcome(0, 900),
        Some(Output::Proposed { last: at, .. }) if at == last
    ));
    assert_eq!(w.status(0).last, last, "nothing was logged");
    w.at(1, ask(901));
    assert!(matches!(w.outcome(1, 901), Some(Output::ProposalRefused { .. })));
    w.isolate(0);
    w.run(1_400);
    w.at(0, ask(902));
    assert!(matches!(
        w.outcome(0, 902),
        Some(Output::ProposalRefused { refusal: Refusal::LeaseExpired | Refusal::NotWriter { .. }, .. })
    ));
}

/// Data that ends before the log begins, as after an old copy of the data was
/// put back: nothing is skipped, and the node does not stand for ever.
#[test]
fn data_behind_the_log_is_replaced() {
    let mut w = World::born(3);
    w.write(0, "early");
    w.run(100);
    let old = w.hosts[2].disk.clone();
    for _ in 0..5 {
        w.write(0, "later");
    }
    w.run(1_000);
    let through = w.status(2).applied;
    w.trim(2, through);
    w.crash(2);
    let disk = &mut w.hosts[2].disk;
    disk.applied = old.applied;
    disk.data = old.data;
    disk.content = old.content;
    w.start(2);
    assert_eq!(w.status(2).unfit, Some(Unfit::Quarantined));
    w.until("a new copy", |w| w.status(2).unfit.is_none() && w.holds(2, "later"));
}

/// The log's room coming back says nothing of an entry that cannot be applied.
#[test]
fn room_does_not_mend_a_halted_replica() {
    let mut w = World::born(3);
    w.at(1, Input::Health(StoreHealth::ApplyHalted { at: Seq(9) }));
    w.at(1, Input::Health(StoreHealth::Full));
    w.at(1, Input::Health(StoreHealth::Well));
    assert_eq!(w.status(1).unfit, Some(Unfit::ApplyHalted { at: Seq(9) }));
}
