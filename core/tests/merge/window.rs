//! When a stamp may be forgotten: a model of nodes that forget.

use base_ha_core::hlc::Hlc;
use base_ha_core::ids::StreamId;
use base_ha_core::merge::Window;
use proptest::prelude::*;

const NODES: usize = 3;

/// One register for all, as stamps: the later one wins. A node that forgot the
/// stamp of what it shows takes whatever comes for news.
#[derive(Clone)]
struct Node {
    shows: Hlc,
    remembers: bool,
    /// What it has heard of each stream.
    heard: [usize; NODES],
    window: Window,
    clock: u64,
    stream: Vec<Said>,
}

#[derive(Clone, Copy)]
enum Said {
    Wrote(Hlc),
    /// A heartbeat: nothing at or below this any more.
    Promised(Hlc),
}

#[derive(Clone, Copy, PartialEq)]
enum Forget {
    /// When every member's promise is past it.
    AtTheCut,
    /// When every member holds the entry.
    WhenAllHoldIt,
}

#[derive(Clone, Debug)]
enum Act {
    Write(usize),
    Promise(usize),
    Hear { by: usize, of: usize },
    Forget(usize),
}

impl Node {
    fn take(&mut self, stamp: Hlc) {
        if !self.remembers || stamp > self.shows {
            (self.shows, self.remembers) = (stamp, true);
        }
        self.clock = self.clock.max(stamp.0);
    }
}

fn run(acts: &[Act], rule: Forget) -> Vec<Hlc> {
    let window = Window::new((0..NODES).map(|n| StreamId(n as u128)));
    let node = |n: usize| Node {
        shows: Hlc(0),
        remembers: true,
        heard: [0; NODES],
        window: window.clone(),
        // Clocks that are not alike: a slow one makes old stamps late.
        clock: n as u64 * 10,
        stream: Vec::new(),
    };
    let mut nodes: Vec<Node> = (0..NODES).map(node).collect();
    // Stamps are unique: the node is in the last digit.
    let next = |node: &mut Node, n: usize| {
        node.clock += 1;
        Hlc(node.clock * 10 + n as u64)
    };
    for act in acts {
        match *act {
            Act::Write(n) => {
                let stamp = next(&mut nodes[n], n);
                nodes[n].clock = stamp.0;
                nodes[n].take(stamp);
                nodes[n].stream.push(Said::Wrote(stamp));
                nodes[n].window.promise(StreamId(n as u128), stamp);
            }
            Act::Promise(n) => {
                let promise = Hlc(nodes[n].clock);
                nodes[n].stream.push(Said::Promised(promise));
                nodes[n].window.promise(StreamId(n as u128), promise);
            }
            Act::Hear { by, of } => hear(&mut nodes, by, of),
            Act::Forget(n) => {
                let shows = nodes[n].shows;
                let may = match rule {
                    Forget::AtTheCut => nodes[n].window.cut() >= shows,
                    Forget::WhenAllHoldIt => nodes.iter().all(|node| node.shows >= shows),
                };
                if may {
                    nodes[n].remembers = false;
                }
            }
        }
    }
    // Everybody hears everything in the end.
    for by in 0..NODES {
        for of in 0..NODES {
            while by != of && nodes[by].heard[of] < nodes[of].stream.len() {
                hear(&mut nodes, by, of);
            }
        }
    }
    nodes.iter().map(|node| node.shows).collect()
}

fn hear(nodes: &mut [Node], by: usize, of: usize) {
    let at = nodes[by].heard[of];
    let Some(said) = nodes[of].stream.get(at).copied().filter(|_| by != of) else { return };
    let node = &mut nodes[by];
    node.heard[of] += 1;
    let promise = match said {
        Said::Wrote(stamp) => {
            node.take(stamp);
            stamp
        }
        Said::Promised(promise) => promise,
    };
    node.window.promise(StreamId(of as u128), promise);
}

/// An index entry dropped because all members hold the entry: a late older one
/// then wins on one node only.
#[test]
fn that_everybody_holds_it_is_no_reason_to_forget() {
    // 0 writes an old stamp that only 1 hears; 2 writes a later one that
    // everybody hears; 2 forgets its stamp, and then hears the old one.
    let acts = [
        Act::Write(0),
        Act::Hear { by: 1, of: 0 },
        Act::Write(2),
        Act::Hear { by: 0, of: 2 },
        Act::Hear { by: 1, of: 2 },
        Act::Forget(2),
    ];
    let diverged = run(&acts, Forget::WhenAllHoldIt);
    assert!(diverged.iter().any(|shows| *shows != diverged[0]), "the shortcut diverges: {diverged:?}");
    let right = run(&acts, Forget::AtTheCut);
    assert!(right.iter().all(|shows| *shows == right[0]), "{right:?}");
}

#[test]
fn a_silent_member_holds_the_cut_until_it_is_evicted() {
    let [a, b, c] = [StreamId(1), StreamId(2), StreamId(3)];
    let mut window = Window::new([a, b, c]);
    window.promise(a, Hlc(50));
    window.promise(b, Hlc(40));
    assert_eq!((window.cut(), window.slowest()), (Hlc(0), Some(c)));
    window.promise(b, Hlc(30));
    window.evict(c);
    assert_eq!((window.cut(), window.slowest()), (Hlc(40), Some(b)), "a promise is not taken back");
    // Who was evicted, or never was a member, moves nothing.
    window.promise(c, Hlc(90));
    window.admit(StreamId(4), Hlc(45));
    assert_eq!(window.cut(), Hlc(40));
    assert_eq!(Window::default().cut(), Hlc(0));
}

proptest! {
    /// Whatever is written, promised, heard and forgotten in whatever order:
    /// who forgets at the cut ends like everybody else.
    #[test]
    fn forgetting_at_the_cut_changes_nothing(acts in prop::collection::vec(
        prop_oneof![
            2 => (0..NODES).prop_map(Act::Write),
            2 => (0..NODES).prop_map(Act::Promise),
            6 => (0..NODES, 0..NODES).prop_map(|(by, of)| Act::Hear { by, of }),
            3 => (0..NODES).prop_map(Act::Forget),
        ],
        0..60,
    )) {
        let shows = run(&acts, Forget::AtTheCut);
        prop_assert!(shows.iter().all(|one| *one == shows[0]), "{:?}", shows);
    }
}
