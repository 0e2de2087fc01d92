//! What a node is told before it starts.
//!
//! Decides which settings fit together. Where they come from (flags,
//! environment, file) is the shell's business.

use crate::ids::{NodeId, Url};
use crate::member::QuorumMode;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// The core's settings.
#[derive(Clone, Debug, Hash)]
pub struct Config {
    /// `BASE_NODE_ID`.
    pub id: NodeId,
    /// `BASE_LOCAL_TARGET`: where peers reach this node.
    pub url: Url,
    /// `BASE_PEERS` and [`Config::url`], sorted, without repetition: the seats
    /// at birth, and where to look for the cluster later.
    pub seats: Vec<Url>,
    /// `BASE_QUORUM`.
    pub mode: QuorumMode,
    /// This node is a witness (`BASE_WITNESS`).
    pub witness: bool,
    /// `BASE_HEARTBEAT`, 500 ms by default.
    pub heartbeat: Duration,
    /// `BASE_LEASE`, 3 x heartbeat by default.
    pub lease: Duration,
    /// `BASE_STATIC_WRITER`: only this member ever campaigns.
    pub static_writer: Option<Url>,
    /// `BASE_ADMIT=auto`: known seats with a new disk or URL and strangers with
    /// the secret are admitted (as learners first) without an order.
    pub admit_auto: bool,
    /// `--bootstrap`: found a cluster alone, whatever the other seats say.
    pub bootstrap: bool,
    /// The bound on the rate error of monotonic clocks, in parts per million
    /// (R1's rho); 10,000 = 1 %.
    pub clock_rate_ppm: u32,
    /// How far ahead of the local wall clock a remote stamp may lie.
    pub skew_max: Duration,
    /// The shortest tenure before the pin is handed to a lower id; doubles up
    /// to [`Config::tenure_max`] against flapping.
    pub tenure_min: Duration,
    /// The longest such tenure.
    pub tenure_max: Duration,
    /// How much travels, and stays in memory, at once.
    pub sizes: Sizes,
    /// Chance adds to waits, so that candidates part ways. Off for a model
    /// checker only, which tries every order of events anyhow.
    pub jitter: bool,
    /// The rule that is broken in this run.
    #[cfg(base_ha_mutants)]
    pub mutant: Option<crate::mutant::Mutant>,
}

/// How many bytes of entries travel, and stay in memory, at once. The same on all
/// nodes of a cluster or not: nobody relies on what another one sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Sizes {
    /// A longer payload travels in pieces of this size. That much may always be
    /// under way to a follower: a line of 1 Mbit/s carries it in half a second.
    pub piece: usize,
    /// One append carries at most about this much.
    pub append_max: usize,
    /// No more is ever under way to a follower: more than a fast line needs.
    pub window_max: usize,
    /// Committed entries stay in memory up to this much payload and
    /// bookkeeping: as much as may be under way to one follower. Whoever is
    /// further behind is fed from the log on disk.
    pub memory_max: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { piece: 64 << 10, append_max: 1 << 20, window_max: 4 << 20, memory_max: 4 << 20 }
    }
}

impl Sizes {
    /// One part in `by` of each: what a simulator reaches with small rows takes
    /// the same ways as large rows do.
    ///
    /// # Panics
    /// If `by` is 0.
    pub fn scaled_down(self, by: usize) -> Self {
        Self {
            piece: (self.piece / by).max(1),
            append_max: (self.append_max / by).max(1),
            window_max: (self.window_max / by).max(1),
            memory_max: (self.memory_max / by).max(1),
        }
    }
}

/// Two settings that do not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// The heartbeat is shorter than 10 ms or longer than 60 s.
    Heartbeat,
    /// The lease is shorter than two heartbeats: one lost frame would end it.
    LeaseTooShort,
    /// Own URL is not among the seats.
    UrlNotASeat,
    /// More than 64 seats.
    TooManySeats,
    /// The static writer is not a seat.
    StaticWriterUnknown,
    /// A witness cannot be the static writer, nor found a cluster alone.
    WitnessCannotWrite,
    /// `BASE_QUORUM=none` needs merging, which this version does not have.
    ModeNone,
}

impl Config {
    /// Settings for one seat among `seats`, all else at its default.
    pub fn new(id: NodeId, url: Url, mut seats: Vec<Url>) -> Self {
        seats.push(url.clone());
        seats.sort();
        seats.dedup();
        let heartbeat = Duration::from_millis(500);
        Self {
            id,
            url,
            seats,
            mode: QuorumMode::Majority,
            witness: false,
            heartbeat,
            lease: heartbeat * 3,
            static_writer: None,
            admit_auto: true,
            bootstrap: false,
            clock_rate_ppm: 10_000,
            skew_max: Duration::from_millis(500),
            tenure_min: Duration::from_secs(5),
            tenure_max: Duration::from_secs(30),
            sizes: Sizes::default(),
            jitter: true,
            #[cfg(base_ha_mutants)]
            mutant: None,
        }
    }

    /// Checks that the settings fit together.
    ///
    /// # Errors
    /// The first [`ConfigError`] found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.heartbeat < Duration::from_millis(10) || self.heartbeat > Duration::from_secs(60) {
            return Err(ConfigError::Heartbeat);
        }
        if self.lease < self.heartbeat * 2 {
            return Err(ConfigError::LeaseTooShort);
        }
        if !self.seats.contains(&self.url) {
            return Err(ConfigError::UrlNotASeat);
        }
        if self.seats.len() > crate::member::Membership::MEMBERS_MAX {
            return Err(ConfigError::TooManySeats);
        }
        if let Some(url) = &self.static_writer {
            if !self.seats.contains(url) {
                return Err(ConfigError::StaticWriterUnknown);
            }
            if self.witness && *url == self.url {
                return Err(ConfigError::WitnessCannotWrite);
            }
        }
        if self.witness && (self.bootstrap || self.seats.len() == 1) {
            return Err(ConfigError::WitnessCannotWrite);
        }
        match self.mode {
            QuorumMode::Majority => Ok(()),
            QuorumMode::None => Err(ConfigError::ModeNone),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Heartbeat => "the heartbeat must lie between 10 ms and 60 s",
            Self::LeaseTooShort => "the lease must be at least two heartbeats, or one lost frame ends it",
            Self::UrlNotASeat => "this node's own URL must be among the seats",
            Self::TooManySeats => "a cluster has at most 64 members",
            Self::StaticWriterUnknown => "the static writer must be one of the seats",
            Self::WitnessCannotWrite => {
                "a witness stores no data: it can neither be the static writer nor found a cluster alone"
            }
            Self::ModeNone => "quorum mode `none` needs merging, which this version does not have yet: use `majority`",
        })
    }
}

impl core::error::Error for ConfigError {}
