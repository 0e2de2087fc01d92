//! What nodes say to each other.
//!
//! Decides which facts travel. Their bytes are `wire`'s business, who
//! acts on them is [`crate::node`]'s.

use crate::entry::Entry;
use crate::ids::{BootNonce, ClusterId, ConfigVersion, ContentHash, Hash, Incarnation, NodeId, Seq, Term, Url};
use crate::member::Membership;
use crate::position::Position;
use crate::time::MonoTime;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bytes::Bytes;

/// One frame: who says it, from what standing, and what.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Envelope {
    /// The sender's cluster; [`ClusterId::NONE`] before birth.
    pub cluster: ClusterId,
    /// Before birth: BLAKE3 of the sorted seat list, first 16 bytes. Seats
    /// that were given different lists do not found a cluster together.
    pub seats: u128,
    /// Who.
    pub from: NodeId,
    /// Which disk of that name.
    pub incarnation: Incarnation,
    /// Which process.
    pub nonce: BootNonce,
    /// The sender's term.
    pub term: Term,
    /// The membership it acts on.
    pub config: ConfigVersion,
    /// What it says.
    pub message: Message,
}

/// What is said.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Message {
    /// "I exist": sent to every seat until its cluster is known, and by every
    /// member to every other once a heartbeat. Carries what liveness, lag,
    /// clock sync, birth and the preference of the lowest id need.
    Ping(Ping),
    /// Answers [`Message::Ping`]; the echo proves that this very process is
    /// alive now.
    Pong {
        /// The ping's `sent`, unchanged.
        echo: MonoTime,
        /// The answerer's own standing.
        standing: Ping,
    },
    /// Entries from the writer of `term`, or none: then it renews the lease
    /// and moves the commit index.
    Append(Append),
    /// The answer to a [`Message::Append`] that wants one, sent once what it says
    /// is durable.
    Appended(Appended),
    /// Asks whether a vote would be granted, changing nothing (Raft 9.6).
    PreVote {
        /// The candidate's last entry.
        last: Position,
        /// The term it would campaign in.
        term: Term,
    },
    /// The answer to [`Message::PreVote`].
    PreVoted {
        /// The term asked about.
        term: Term,
        /// Whether a vote would be granted.
        granted: bool,
    },
    /// Asks for a vote in the envelope's term.
    Vote {
        /// The candidate's last entry.
        last: Position,
        /// The writer itself asked for this election ([`Message::TimeoutNow`]):
        /// the lease promised to it does not stand in the way.
        transfer: bool,
    },
    /// The answer to [`Message::Vote`], sent once the vote is durable.
    Voted {
        /// Whether it was granted.
        granted: bool,
    },
    /// A caught-up, lower id asks the writer to hand over (R6).
    AskTransfer,
    /// The writer tells one voter to campaign at once; it takes no lease again
    /// in this term (Raft 3.10).
    TimeoutNow,
    /// The writer no longer has the entries that the receiver lacks: fetch a
    /// snapshot that reaches at least here.
    NeedSnapshot {
        /// The oldest position the snapshot must contain.
        at_least: Position,
        /// Who serves it.
        from: Url,
    },
    /// What the sender thinks is wrong with the receiver.
    Refused(Refused),
}

/// A node's standing, once a heartbeat.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Ping {
    /// The sender's clock, to be echoed.
    pub sent: MonoTime,
    /// Where the sender wants to be reached.
    pub url: Url,
    /// The end of its durable log.
    pub last: Position,
    /// What it knows to be committed.
    pub commit: Seq,
    /// What its data contains.
    pub applied: Seq,
    /// Whether it may be handed the pin: not a witness, not quarantined, not
    /// shutting down, disk neither full nor slow.
    pub eligible: bool,
    /// Whom it believes to be writer in the envelope's term.
    pub writer: Option<NodeId>,
    /// It is a witness by configuration.
    pub witness: bool,
    /// Content hashes at recent positions, for comparison (DESIGN 5).
    pub contents: Vec<(Seq, ContentHash)>,
    /// Wall clock, for skew alarms, in milliseconds since 1970.
    pub wall_ms: u64,
}

/// The writer's entries and what it knows.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Append {
    /// The sender's clock when it sent this, echoed in the answer: the lease
    /// counts from it (R1). `None`: no answer is wanted, the commit index is
    /// all the news there is. Never `Some` of zero.
    pub sent: Option<MonoTime>,
    /// The point after which `entries` come.
    pub prev: Position,
    /// Contiguous entries.
    pub entries: Vec<Entry>,
    /// Everything up to here is committed.
    pub commit: Seq,
    /// False after [`Message::TimeoutNow`] and while draining for good: the
    /// receiver renews no promise.
    pub renews: bool,
    /// Instead of entries: a piece of the next one, which is too large to
    /// travel in one frame.
    pub part: Option<Box<Part>>,
}

/// A piece of one entry's payload. What it is a piece of is told with each, so
/// that one that comes alone, or late, is known for what it is.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Part {
    /// The entry, its payload left out. Its hash is that of the whole.
    pub head: Entry,
    /// How long the whole payload is, in bytes: at most
    /// [`Entry::PAYLOAD_MAX`].
    pub length: usize,
    /// Where this piece begins.
    pub offset: usize,
    /// The piece. Empty at the end of the payload, it asks what became of the
    /// others.
    pub bytes: Bytes,
}

/// What a follower has.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Appended {
    /// The append's `sent`, unchanged.
    pub echo: MonoTime,
    /// How it went.
    pub result: AppendResult,
    /// What its data contains.
    pub applied: Seq,
}

/// How an append went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum AppendResult {
    /// Log matching held; durable in the follower's log up to here.
    Durable {
        /// The last durable entry known to match the writer's.
        matched: Seq,
    },
    /// The point before the entries is not in the follower's log.
    Mismatch {
        /// Try from here: the follower's last entry, or the last one of a term
        /// not above the refused point's.
        hint: Position,
        /// The end of its durable log.
        last: Seq,
    },
    /// Log matching held; of an entry that comes in pieces so much is in
    /// memory. It says nothing of the disk.
    Partial {
        /// The entry.
        seq: Seq,
        /// So many bytes of its payload, from the first on.
        bytes: usize,
    },
}

/// Why a node is turned away.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Refused {
    /// The receiver of this belongs to another cluster than the sender.
    OtherCluster {
        /// The sender's cluster.
        cluster: ClusterId,
    },
    /// Born already: join this cluster as a learner.
    Born {
        /// The membership to join.
        membership: Membership,
    },
    /// The receiver's term is old.
    StaleTerm,
    /// Two live processes claim the receiver's id. It is said of one of them:
    /// told late, it must not speak against a process that came after it.
    DuplicateId {
        /// The process it is said of.
        nonce: BootNonce,
        /// That one's disk.
        incarnation: Incarnation,
        /// The other one's incarnation.
        other: Incarnation,
    },
    /// The receiver reports less log than it once acknowledged: it must take a
    /// new incarnation.
    Amnesia {
        /// Whose word that was.
        incarnation: Incarnation,
        /// What it had acknowledged.
        acknowledged: Seq,
    },
    /// The receiver is not in the membership, and is not admitted unasked.
    NotAMember,
    /// The receiver's data differs from the majority's at this position: stop
    /// reads and re-seed.
    Diverged {
        /// Where the hashes were compared.
        at: Seq,
        /// What the majority has.
        expected: ContentHash,
        /// The committed entry there, so that old news is recognised.
        hash: Hash,
    },
}
