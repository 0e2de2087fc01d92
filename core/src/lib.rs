//! The sans-I/O core of base-ha.
//!
//! This crate decides: who may write, when an entry is committed, who is a
//! member, which entries a peer lacks, what a change-set says. It owns no
//! clock, file, socket, thread, random source or hash map, and being
//! `no_std` it cannot. All of that belongs to the shell that drives it.
//!
//! # The run loop
//!
//! A driver owns one [`node::Node`] and repeats, forever:
//!
//! 1. Sample both clocks once: `let now = Now { mono, wall };`
//! 2. Take the next thing that happened as an [`io::Input`]: a frame from a peer,
//!    a finished write to disk, a proposal, an administrator's order, or
//!    [`io::Input::Deadline`] when [`node::Node::deadline`] has passed.
//! 3. Call [`node::Node::step`]. It never fails, blocks or panics on input; it
//!    appends what is to be done to the caller's [`io::Outbox`].
//! 4. Carry out every [`io::Output`] in order: persist, send, apply, answer. A
//!    message that depends on a record being on disk is not among them: the
//!    node holds it back itself until [`io::Input::Persisted`] names that record.
//! 5. Sleep until the next input or [`node::Node::deadline`], whichever is first.
//!
//! Nothing else is asked of the driver. It may reorder completions of
//! different records, lose frames, repeat them, or die at any point.
//!
//! # Where things are
//!
//! | file | its noun |
//! |---|---|
//! | `ids`, `time` | names and clocks |
//! | `entry`, `member`, `position` | a log entry, the membership, points in the log |
//! | `message`, `io` | what nodes say to each other; what goes in and out of a node |
//! | `changeset` | row changes as data |
//! | `merge` | what rows are when several nodes wrote them: laws and definitions, used by no mode that this version has |
//! | `wire` | bytes: frames, log records, memberships, change-sets |
//! | `token` | what a session has seen, as bytes |
//! | `log` | the log as far as it is in memory |
//! | `quorum`, `lease`, `pin`, `prng` | counting, lease arithmetic, order of candidates, random numbers |
//! | `node` | the node itself; its header lists the files below it |
//! | `mutant` | rules broken on purpose, in builds that try the simulator |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod changeset;
pub mod config;
pub mod entry;
pub mod hlc;
pub mod ids;
pub mod io;
pub mod lease;
pub mod log;
pub mod member;
pub mod merge;
pub mod message;
pub mod mutant;
pub mod node;
pub mod pin;
pub mod position;
pub mod prng;
pub mod quorum;
pub mod time;
pub mod token;
pub mod wire;
