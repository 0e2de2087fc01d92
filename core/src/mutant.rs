//! Rules broken on purpose, one at a time, to try the simulator.
//!
//! Decides nothing in a build without `--cfg base_ha_mutants`: there the enum
//! does not exist and [`planted!`](crate::planted) is the constant `false`. The
//! shell refuses to compile under that cfg, so no node can contain them. With it
//! one build holds all of them, and the simulator chooses one a run through
//! `Config::mutant`. Some break the driver's word instead of the core's: those
//! are carried out by the simulated driver.

/// Whether this rule is broken in this run: `planted!(config, Name)`. Constant
/// `false`, its arguments unused, without `--cfg base_ha_mutants`.
#[cfg(base_ha_mutants)]
#[macro_export]
macro_rules! planted {
    ($config:expr, $name:ident) => {
        $config.mutant == Some($crate::mutant::Mutant::$name)
    };
}

/// Whether this rule is broken in this run: `planted!(config, Name)`. Constant
/// `false`, its arguments unused, without `--cfg base_ha_mutants`.
#[cfg(not(base_ha_mutants))]
#[macro_export]
macro_rules! planted {
    ($config:expr, $name:ident) => {
        false
    };
}

#[cfg(base_ha_mutants)]
macro_rules! mutants {
    ($($name:ident: $what:literal,)*) => {
        /// A rule that does not hold in this run.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Mutant {
            $(#[doc = $what] $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What is broken, in words.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$name => $what,)*
                }
            }

            /// The one of that name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|mutant| alloc::format!("{mutant:?}") == name)
            }
        }
    };
}

#[cfg(base_ha_mutants)]
mutants! {
    QuorumMinusOne: "quorum minus one, for votes, commits and leases",
    QuorumOfListed: "half of the voters make a quorum when they are even in number",
    LearnerCounted: "a learner counts in the quorum of a commit",
    StrangerCounted: "a member's vote and log count whatever disk it has now (R8)",
    AckBeforeFsync: "entries are acknowledged before their fsync",
    HeartbeatAcksUnsynced: "a bare heartbeat acknowledges entries that are not durable",
    WriterCountsUnsynced: "the writer counts itself before its own fsync",
    VoteBeforeFsync: "a vote is said before it is durable",
    OwnVoteBeforeFsync: "a candidate counts its own vote before it is durable",
    VoteInRamOnly: "the vote is not made durable",
    TermInRamOnly: "the term is not made durable (B5)",
    FsyncDoesNothing: "fsync returns at once and syncs later (driver)",
    VoteWithoutLogCheck: "a vote for a candidate with less log",
    SecondVote: "a second vote in one term",
    LowestAlwaysGetsVote: "the lowest id always gets the vote (forge)",
    StaleGrantCounts: "a vote granted in an older term counts (forge)",
    NoPreVote: "candidacy without a pre-vote majority",
    PromiseForgotten: "a vote in spite of the promise to another",
    PromiseOverridden: "every candidacy claims to be a hand-over",
    NoSilence: "no silence after a restart",
    LeaseTooLong: "a lease 20 % too long",
    LeaseFromReceipt: "a lease counted from receipt of the answer",
    LeaseFromAnyAnswer: "a lease that the writer renews by itself",
    LeaseAfterHandover: "a lease after TimeoutNow",
    HeartbeatUnanswered: "no heartbeat asks for an answer",
    UnansweredRenewsLease: "an append that wants no answer renews the lease when it is sent",
    PingsRenewLease: "a ping counts as an answer to the writer (B6)",
    PauseNotNoticed: "a pause is not noticed (B2)",
    QuorumLossIgnored: "a writer without a quorum does not step down",
    LowerTermAccepted: "entries of a lower term's writer are taken",
    PingsCountAsAcks: "the log end that a ping tells of counts as acknowledged",
    PrevNotChecked: "the point before new entries is not compared",
    TruncatesWithoutConflict: "an append that is late cuts off what follows it",
    CommitBeyondMatched: "the commit index is adopted beyond the matched prefix",
    CommitToLogEnd: "a follower commits to the end of its log (forge)",
    CommitOldTerm: "an entry of an older term is committed by counting",
    StallAfterLeaderChange: "a new writer never commits what an older one left (forge)",
    ApplyBeforeDurable: "what is applied need not be in the own durable log",
    EntrySkipped: "an entry is skipped when applied",
    EntryAppliedTwice: "an entry is ordered to be applied twice (forge)",
    RecoveryAppliesAll: "recovery applies the whole log",
    ReadWithoutProof: "a linearizable read without a quorum's proof",
    ReadBeforeOwnEntry: "a linearizable read before the writer's own entry is committed",
    ReadAtOldIndex: "a linearizable read one entry behind the commit index",
    UnknownCalledRefused: "an unknown outcome is reported as certainly not done",
    AnswerBeforeCommit: "a client is answered when its entry is in the writer's log (driver)",
    HandoverWithoutMatch: "a hand-over that does not wait for the successor",
    WritesWhileUnfit: "a node writes although its store is unfit",
    ElectsItselfAtBirth: "every node founds a cluster by itself at a cold start (B1)",
    SameDiskName: "a new disk has the incarnation of the old one (B4, R8)",
    DuplicateIgnored: "a node whose name runs twice goes on voting",
    ChangesOverlap: "a membership change before the one before it is committed",
    ChangeBeforeOwnEntry: "a membership change before the writer's own entry is committed",
    StampsFall: "stamps follow the wall clock back",
    NoPreference: "the lowest id never asks for the pin",
    SnapshotWithoutPosition: "a snapshot is installed without its position (driver)",
    RequestRunsTwice: "a repeated request runs again (driver)",
    SessionNotAwaited: "a session's read does not wait for its token (driver)",
}
