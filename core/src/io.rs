//! What goes into a node and what comes out.
//!
//! Decides the vocabulary between the core and whoever drives it.

use crate::config::Config;
use crate::entry::Entry;
use crate::hlc::Hlc;
use crate::ids::{BootNonce, ClusterId, ConfigVersion, ContentHash, Incarnation, NodeId, Seq, StreamId, Term, Url};
use crate::member::{Membership, Role};
use crate::message::Envelope;
use crate::position::Position;
use crate::time::MonoTime;

use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

/// Where a frame came from or goes to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Route {
    /// A seat's or member's address, dialled by this node.
    Url(Url),
    /// Back along the connection that a frame came in on.
    Conn(u64),
}

/// Names a record that is being made durable.
pub type PersistId = u64;
/// Names a proposal, chosen by the driver.
pub type ProposalId = u64;
/// Names a request for entries from the log.
pub type LoadId = u64;
/// Names a request for a linearizable read, or an administrator's order.
pub type CallId = u64;

/// What the driver tells a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// [`crate::node::Node::deadline`] has passed.
    Deadline,
    /// A frame that passed the codec's checks and the transport's
    /// authentication.
    Received {
        /// Where an answer would go.
        route: Route,
        /// The frame.
        envelope: Envelope,
    },
    /// A record of [`Output::Persist`] is durable. Ids complete in the order
    /// in which they were given out; naming one confirms all before it.
    Persisted {
        /// The record.
        id: PersistId,
    },
    /// The writer's store ran a group and asks for its entries to be logged:
    /// one payload a request.
    Propose {
        /// Names the proposal.
        id: ProposalId,
        /// Encoded change-sets, in order. None asks whether this node holds
        /// the pin now: what a group that changed nothing saw is current then,
        /// and may be answered.
        payloads: Vec<Bytes>,
    },
    /// `data.db` durably-enough contains everything up to here (its own
    /// transaction committed; an fsynced checkpoint may come later).
    Applied {
        /// Up to here.
        position: Position,
        /// The content's hash there.
        content: ContentHash,
    },
    /// Entries that [`Output::LoadLog`] asked for.
    LogLoaded {
        /// The request.
        id: LoadId,
        /// The point before the first of them.
        prev: Position,
        /// Contiguous entries; empty if the range is gone or unreadable.
        entries: Vec<Entry>,
    },
    /// Everything below `first` was deleted from the log.
    LogTrimmed {
        /// The first entry still there.
        first: Seq,
        /// The point before it.
        base: Position,
    },
    /// A snapshot replaced `data.db`.
    SnapshotInstalled {
        /// What it contains.
        position: Position,
        /// The membership as of there.
        membership: Membership,
        /// Its content's hash.
        content: ContentHash,
        /// The highest stamp in it: a writer's own stamps rise above it.
        hlc: Hlc,
        /// True if the log now starts at `position`; false if it reached there
        /// already and was kept.
        log_reset: bool,
    },
    /// A snapshot could not be fetched or was refused; ask again later.
    SnapshotFailed,
    /// A client wants to read what is true now.
    ReadIndex {
        /// Names the call.
        id: CallId,
    },
    /// An administrator's order.
    Admin {
        /// Names the call.
        id: CallId,
        /// The order.
        command: AdminCommand,
    },
    /// The state of the disk or store changed.
    Health(StoreHealth),
    /// Stop gracefully: hand the pin over, then [`Output::Stopped`].
    Shutdown,
}

/// How the store fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum StoreHealth {
    /// There is room again. It does not end [`StoreHealth::ApplyHalted`] or
    /// [`StoreHealth::Quarantined`]: only an installed snapshot does.
    Well,
    /// The disk is full: reads go on, a writer hands over.
    Full,
    /// An entry could not be applied: apply has halted here.
    ApplyHalted {
        /// The entry.
        at: Seq,
    },
    /// The data was found to be unlike the log or the majority: reads stop,
    /// the node is last as candidate, a re-seed is due.
    Quarantined,
}

/// What an administrator may order.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum AdminCommand {
    /// Add a member, or change what a member is to become.
    AddMember {
        /// Where it is reached.
        url: Url,
        /// What it is to become once caught up.
        role: Role,
    },
    /// Remove a member, heard or not.
    RemoveMember {
        /// Its name or its URL's seat.
        member: MemberRef,
    },
    /// A member moved.
    SetUrl {
        /// Who.
        id: NodeId,
        /// Where it is now.
        url: Url,
    },
    /// Hand the pin to this member, or to the best one.
    Transfer {
        /// To whom.
        to: Option<NodeId>,
    },
    /// Give up the pin and do not take it back for one lease.
    StepDown,
}

/// Names a member.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum MemberRef {
    /// By name.
    Id(NodeId),
    /// By address.
    Url(Url),
}

/// How an order ended.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum AdminOutcome {
    /// Done, and committed where it changes the membership.
    Done,
    /// Only the writer carries this out.
    NotWriter(Refusal),
    /// Another change is under way.
    Busy,
    /// No such member.
    UnknownMember,
    /// It is so already.
    NothingToDo,
    /// The target cannot take the pin: behind, silent, a witness or a learner.
    NotEligible,
    /// It would leave no voter that stores data.
    LastVoter,
    /// Too few voters of the membership that would result were heard within
    /// the lease: mend or remove the silent ones first.
    NoQuorum,
    /// It was not done in time; it may still be.
    TimedOut,
}

/// What is on disk for this node, read before it starts.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The hard state; default for a new directory.
    pub hard: HardState,
    /// The point before the log's first entry.
    pub log_base: Position,
    /// Every entry's position from `log_base` on that may matter: at least
    /// all above `applied`, in order, and at most [`Recovered::TAIL_MAX`] below.
    pub tail: Vec<Position>,
    /// Where the term changes in the log, as (first seq, term), over the whole
    /// log: finding a common point needs no reading.
    pub terms: Vec<(Seq, Term)>,
    /// What `data.db` contains.
    pub applied: Position,
    /// Its content's hash.
    pub content: ContentHash,
    /// The memberships in the log and snapshot, each with the entry that made
    /// it, oldest first: the last committed one and all after it.
    pub memberships: Vec<(Seq, Membership)>,
    /// The highest stamp in the log.
    pub hlc: Hlc,
    /// The disk contradicts itself (the log ends below the applied position or
    /// the high-water mark): take a new incarnation, never vote for the old.
    pub amnesia: bool,
}

impl Recovered {
    /// Positions below `applied` that are worth loading.
    pub const TAIL_MAX: usize = 4096;
}

/// What must be durable before a node speaks of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct HardState {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// This disk.
    pub incarnation: Incarnation,
    /// The highest term heard of.
    pub term: Term,
    /// Whom it voted for in that term.
    pub voted_for: Option<(NodeId, Incarnation)>,
    /// A lazily updated point that the log certainly reached.
    pub high_water: Position,
}

/// Something to make durable.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Record {
    /// Replace the hard state (its high-water mark is the driver's to keep
    /// current with the log).
    HardState(HardState),
    /// Change the log: first forget everything after `keep`, if given (the
    /// forgotten entries go to the local orphan file), then append.
    Append {
        /// The last entry to keep.
        keep: Option<Seq>,
        /// What follows.
        entries: Vec<Entry>,
    },
}

/// What a node tells its driver to do.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Output {
    /// Make this durable, in the order given, then say [`Input::Persisted`].
    Persist {
        /// Names the record.
        id: PersistId,
        /// The record.
        record: Record,
    },
    /// Send a frame; it may be lost.
    Send {
        /// To where.
        route: Route,
        /// The frame.
        envelope: Envelope,
    },
    /// Everything from `from` to `through` is committed: bring it into
    /// `data.db`, in order, and say [`Input::Applied`]. A writer's own open
    /// group that lies within is COMMITted.
    Apply {
        /// The first entry not ordered before.
        from: Seq,
        /// The last.
        through: Seq,
        /// Those of them that are in memory: a contiguous run that ends at
        /// `through`, or none. What is missing is read from the log.
        entries: Vec<Entry>,
    },
    /// Read entries from the log, at most about `bytes_max`, then
    /// [`Input::LogLoaded`].
    LoadLog {
        /// Names the request.
        id: LoadId,
        /// The first wanted.
        from: Seq,
        /// The last wanted.
        through: Seq,
        /// Stop after so many bytes of payload, but give at least one entry.
        bytes_max: usize,
    },
    /// Fetch a snapshot that contains at least `at_least`, install it, then say
    /// [`Input::SnapshotInstalled`] or [`Input::SnapshotFailed`]. Until then this
    /// node takes no entries, for the log may be about to start anew; except
    /// for a re-seed, which keeps the log: one whose position the log does not
    /// contain is a failure.
    FetchSnapshot {
        /// From whom.
        from: Url,
        /// What it must contain.
        at_least: Position,
        /// True if `data.db` is to be replaced although the log is whole.
        reseed: bool,
    },
    /// A proposal's entries were given these places.
    Proposed {
        /// The proposal.
        id: ProposalId,
        /// Its first entry.
        first: Seq,
        /// Its last entry.
        last: Position,
    },
    /// A proposal was refused: nothing was logged, its requests may go
    /// elsewhere.
    ProposalRefused {
        /// The proposal.
        id: ProposalId,
        /// Why.
        refusal: Refusal,
    },
    /// A logged proposal's fate will not be learned here: roll back, answer
    /// "outcome unknown".
    ProposalUnknown {
        /// The proposal.
        id: ProposalId,
    },
    /// How far the writer's log has come.
    Progress {
        /// Durable on this node.
        durable: Seq,
        /// Committed.
        committed: Seq,
        /// Durable on every voter.
        all: Seq,
    },
    /// A linearizable read may run once `at` is applied here.
    ReadReady {
        /// The call.
        id: CallId,
        /// The position to wait for.
        at: Seq,
    },
    /// It may not run here.
    ReadRefused {
        /// The call.
        id: CallId,
        /// Why.
        refusal: Refusal,
    },
    /// An order ended.
    AdminDone {
        /// The call.
        id: CallId,
        /// How.
        outcome: AdminOutcome,
    },
    /// Who writes changed, or whether this node may: sent on each change.
    Pin(Pin),
    /// Something worth a log line or a counter.
    Event(Event),
    /// The graceful stop is done: nothing is lost by exiting now.
    Stopped,
}

/// Who writes, as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct Pin {
    /// The term.
    pub term: Term,
    /// The highest term that is on this node's disk: below `term` as long as
    /// that is on its way. After a crash a node is in no lower term than this,
    /// so this is what it may be asked for; requests go by `term`, for a node
    /// whose disk is full has heard of a writer all the same.
    pub durable: Term,
    /// The writer, once known.
    pub writer: Option<(NodeId, Url)>,
    /// This node is that writer, its no-op is committed and everything before
    /// it is applied: the store may run groups.
    pub writable: bool,
}

/// A permit to run one group, checked again when it is proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct WritePermit {
    /// The term in which it holds.
    pub term: Term,
    /// When the lease ends unless renewed.
    pub until: MonoTime,
}

/// Why a node will not write, or read linearizably; says what to do next.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Refusal {
    /// Another node writes: go there.
    NotWriter {
        /// Who, and where.
        writer: Option<(NodeId, Url)>,
        /// In which term.
        term: Term,
    },
    /// This node was elected and is not yet ready: its no-op is not committed,
    /// or not everything is applied. Wait.
    NotReady,
    /// The pin is being handed over. Wait.
    HandingOver,
    /// A majority has not been heard from within the lease.
    LeaseExpired,
    /// No cluster yet: a majority of the seats has not been heard.
    Unborn,
    /// This node may not write or read: see its health.
    Unfit,
    /// This node is stopping.
    Stopping,
}

/// Something worth a log line or a counter.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Event {
    /// A cluster was founded or joined.
    Joined {
        /// Its name.
        cluster: ClusterId,
    },
    /// This node changed its part.
    BecameFollower {
        /// In which term.
        term: Term,
    },
    /// This node asks whether it would be elected.
    BecamePreCandidate {
        /// For which term.
        term: Term,
    },
    /// This node campaigns.
    BecameCandidate {
        /// In which term.
        term: Term,
    },
    /// This node was elected.
    BecameWriter {
        /// In which term.
        term: Term,
    },
    /// A writer steps down.
    SteppedDown {
        /// Its term.
        term: Term,
        /// Why.
        reason: StepDownReason,
    },
    /// A hand-over began.
    TransferStarted {
        /// To whom.
        to: NodeId,
    },
    /// A hand-over was not taken up.
    TransferFailed {
        /// By whom.
        to: NodeId,
    },
    /// The membership changed (on append, before commit).
    MembershipChanged {
        /// Its version.
        version: ConfigVersion,
    },
    /// Entries that were never committed were dropped from the log.
    LogTruncated {
        /// The last entry kept.
        keep: Seq,
        /// How many went.
        dropped: u64,
    },
    /// A frame was dropped.
    FrameRefused {
        /// Who sent it.
        from: NodeId,
        /// Why.
        reason: FrameRefusal,
    },
    /// Two live processes claim one id; if it is this node's, it refuses to
    /// vote, write and serve.
    DuplicateId {
        /// The id.
        id: NodeId,
    },
    /// This node forgot what it had acknowledged; it has a new incarnation.
    Amnesia {
        /// The new one.
        incarnation: Incarnation,
    },
    /// Content hashes differ.
    Diverged {
        /// Whose differs.
        node: NodeId,
        /// Where.
        at: Seq,
    },
    /// Content hashes differ and no majority says who is right.
    DivergedWithoutMajority {
        /// Where.
        at: Seq,
    },
    /// A peer was heard again, or fell silent.
    PeerUp {
        /// Who.
        id: NodeId,
        /// Whether it is up.
        up: bool,
    },
    /// A peer's wall clock is far off.
    ClockSkew {
        /// Whose.
        id: NodeId,
        /// By how much, in milliseconds.
        ms: u64,
    },
    /// A follower lags beyond the log: it gets a snapshot.
    SnapshotNeeded {
        /// Who.
        id: NodeId,
    },
    /// This writer's disk makes every write slow: the pin goes elsewhere.
    SlowDisk {
        /// Its quickest append within a lease, in milliseconds.
        ms: u64,
        /// Another node's, the way there and back included.
        best_ms: u64,
    },
    /// The seats were given different lists: nothing is founded.
    SeatsDiffer {
        /// With whom.
        id: NodeId,
    },
}

/// Why a writer stepped down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum StepDownReason {
    /// A higher term was heard of.
    HigherTerm,
    /// A majority was silent for a whole lease.
    QuorumLost,
    /// The pin was handed over.
    HandedOver,
    /// A hand-over was not taken up.
    TransferUntaken,
    /// An administrator said so.
    Ordered,
    /// It is no longer a voter.
    Removed,
    /// Its store cannot go on.
    Unfit,
    /// Its disk held up for a whole lease what a quorum of the others has made
    /// durable.
    SlowDisk,
    /// It is stopping.
    Stopping,
}

/// Why a frame was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FrameRefusal {
    /// It belongs to another cluster.
    OtherCluster,
    /// Its sender is not a member.
    NotAMember,
    /// Its sender's incarnation is not the one in the membership.
    OtherIncarnation,
    /// Its term is past.
    StaleTerm,
    /// It contradicts the log below the commit index.
    Contradiction,
    /// A late frame of a process that has been succeeded.
    OldProcess,
    /// It says it comes from this very node.
    OwnId,
}

/// A snapshot of everything a person or a metric wants to know; a pure query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Where it is reached.
    pub url: Url,
    /// Its disk.
    pub incarnation: Incarnation,
    /// Its process.
    pub nonce: BootNonce,
    /// Its cluster, [`ClusterId::NONE`] before birth.
    pub cluster: ClusterId,
    /// The stream of the positions below.
    pub stream: StreamId,
    /// Its part.
    pub part: Part,
    /// Who writes.
    pub pin: Pin,
    /// When the writer's lease ends, if this node is the writer.
    pub lease_until: Option<MonoTime>,
    /// The first entry in the log.
    pub log_first: Seq,
    /// The last entry in the log.
    pub last: Position,
    /// What is known to be committed.
    pub commit: Seq,
    /// What the data contains.
    pub applied: Seq,
    /// The membership in force.
    pub membership: Membership,
    /// What is known of each member, this node included, in membership order.
    pub peers: Vec<PeerStatus>,
    /// Why the node is not fit, if it is not.
    pub unfit: Option<Unfit>,
    /// Entries up to here may be deleted from the log as far as peers are
    /// concerned that are alive; the driver adds its own bounds.
    pub trimmable: Seq,
}

/// What a node keeps for the moment: each is bounded, and at rest all but the
/// last two are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Burden {
    /// Records on their way to the disk.
    pub records: usize,
    /// Messages that wait for them.
    pub held: usize,
    /// Appends under way, to all followers.
    pub flights: usize,
    /// Requests for entries from the log.
    pub loads: usize,
    /// Proposals that are not committed.
    pub proposals: usize,
    /// Linearizable reads that wait for a proof.
    pub reads: usize,
    /// Administrators' orders under way.
    pub orders: usize,
    /// Hand-overs under way.
    pub handovers: usize,
    /// Ids that are remembered.
    pub peers: usize,
    /// Pings whose echo would prove something.
    pub pings: usize,
}

/// What part a node plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// No cluster yet.
    Unborn,
    /// Follows, and counts in no quorum.
    Learner,
    /// Follows.
    Follower,
    /// Follows, storing only the log.
    Witness,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Campaigns.
    Candidate,
    /// Was elected. A witness may be, for as long as it takes to pass on its
    /// entries and hand over; it is never the writer.
    Writer,
}

/// Why a node does not serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// Another live process has this id.
    DuplicateId,
    /// Its data differs from the majority's; a re-seed is under way.
    Quarantined,
    /// An entry could not be applied.
    ApplyHalted {
        /// The entry.
        at: Seq,
    },
    /// The disk is full; reads go on.
    DiskFull,
    /// Another cluster lives at the seats.
    OtherCluster {
        /// Its name.
        cluster: ClusterId,
    },
    /// The seats were given different lists.
    SeatsDiffer,
    /// Not admitted to the cluster.
    NotAMember,
}

/// What is known of one member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Its name, once heard.
    pub id: Option<NodeId>,
    /// Where it is reached.
    pub url: Url,
    /// What it may do.
    pub role: Role,
    /// Heard within the lease.
    pub up: bool,
    /// When it was last heard, by this node's clock.
    pub heard: Option<MonoTime>,
    /// The end of its log, as last heard.
    pub last: Seq,
    /// What its data contains, as last heard.
    pub applied: Seq,
}

/// The caller's list of things to do.
pub type Outbox = Vec<Output>;

/// What a node is made from.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Its settings.
    pub config: Config,
    /// Its random seed: jitter, a new incarnation, a founded cluster's name.
    pub seed: [u8; 32],
    /// Drawn for this process.
    pub nonce: BootNonce,
    /// What its disk says.
    pub recovered: Recovered,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWriter { writer: Some((id, url)), term } => {
                write!(f, "the writer of term {term} is {id} at {url}")
            }
            Self::NotWriter { writer: None, term } => {
                write!(f, "no writer is known in term {term}")
            }
            Self::NotReady => f.write_str("this node was just elected and is not ready yet"),
            Self::HandingOver => f.write_str("the pin is being handed over"),
            Self::LeaseExpired => f.write_str("a majority has not been heard from within the lease"),
            Self::Unborn => f.write_str("there is no cluster yet: a majority of the seats has not been heard from"),
            Self::Unfit => f.write_str("this node may not serve: see its health"),
            Self::Stopping => f.write_str("this node is stopping"),
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateId => f.write_str("another live process has this node's id"),
            Self::Quarantined => f.write_str("its data differs from the majority's; it is being re-seeded"),
            Self::ApplyHalted { at } => write!(f, "entry {at} could not be applied"),
            Self::DiskFull => f.write_str("its disk is full"),
            Self::OtherCluster { cluster } => {
                write!(f, "its seats belong to another cluster, {cluster}")
            }
            Self::SeatsDiffer => f.write_str("the seats were given different lists of peers"),
            Self::NotAMember => f.write_str("it is not a member of the cluster: `base-ha cluster add` makes it one"),
        }
    }
}
