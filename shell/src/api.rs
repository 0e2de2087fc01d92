//! The nouns that HTTP tasks, node loop, store and log say to each other.
//!
//! Decides their shape only. Every channel that carries them is bounded by
//! its owner.

use crate::error::ApiError;
use base_ha_core::changeset::{RequestId, Value};
use base_ha_core::entry::Entry;
use base_ha_core::ids::{ContentHash, NodeId, Seq, Term, Url};
use base_ha_core::io::{
    AdminCommand, AdminOutcome, Input, LoadId, PersistId, Pin, ProposalId, Record, Refusal, Route, Status, StoreHealth,
};
use base_ha_core::message::Envelope;
use base_ha_core::position::Position;
use base_ha_core::time::MonoTime;
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::sync::oneshot;

/// One statement of a request, with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text; it may hold several statements, which share the parameters
    /// (see `store::bind`).
    pub sql: String,
    /// What is bound.
    pub params: Params,
}

/// What is bound to a statement.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Params {
    /// Nothing.
    #[default]
    None,
    /// By place: `?`, `?1`, and `$1..$n` of the contract.
    Positional(Vec<Value>),
    /// By name: `:x`, `@x`, `$x`, `?1` or bare `x`.
    Named(Vec<(String, Value)>),
}

/// When a write is answered (`BASE_ACK`, `X-Base-Ack`). It moves the answer,
/// never the COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ack {
    /// After this node's own fsync; visible at COMMIT.
    Local,
    /// After COMMIT: a majority has fsynced.
    #[default]
    Majority,
    /// After every voter has fsynced.
    All,
}

/// Bounds on one request's work in SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlLimits {
    /// Statements in one request.
    pub statements_max: usize,
    /// Rows in one result.
    pub rows_max: usize,
    /// Bytes in one answer.
    pub answer_bytes_max: usize,
    /// Until when it may run; then it is interrupted.
    pub deadline: MonoTime,
}

/// A request that may change data, for the store worker.
#[derive(Debug)]
pub struct WriteRequest {
    /// Its name, for deduplication.
    pub id: RequestId,
    /// The client's `Idempotency-Key`, if it sent one.
    pub idempotency_key: Option<String>,
    /// BLAKE3 of the body, first 16 bytes; only with a key, which must not come
    /// back with another body.
    pub body_digest: [u8; 16],
    /// What to run, as one transaction.
    pub statements: Vec<Statement>,
    /// The body was an array: answer `{"results":[..]}`.
    pub many: bool,
    /// When to answer.
    pub ack: Ack,
    /// Its bounds.
    pub limits: SqlLimits,
    /// Whether it waits still.
    pub turn: Arc<Turn>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<WriteAnswer, WriteError>>,
}

/// Whose a write is while it waits for the write connection: whoever asks first,
/// the store to run it or the HTTP task to give it up, has it for good. So a
/// request that is given up was certainly not run.
#[derive(Debug, Default)]
pub struct Turn(AtomicU8);

impl Turn {
    const WAITS: u8 = 0;
    const TAKEN: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// The store is about to run it: false if it was given up.
    pub fn take(&self) -> bool {
        self.claim(Self::TAKEN)
    }

    /// Nothing of it was done, and it waits again.
    pub fn give_back(&self) {
        self.0.store(Self::WAITS, Ordering::Release);
    }

    /// Nobody waits for it any more: false if it is being run.
    pub fn give_up(&self) -> bool {
        self.claim(Self::GIVEN_UP)
    }

    fn claim(&self, by: u8) -> bool {
        self.0.compare_exchange(Self::WAITS, by, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// What a write came to.
#[derive(Debug)]
pub struct WriteAnswer {
    /// The JSON body (see `sqljson`).
    pub body: Bytes,
    /// Its entry; the position at which it read, if it changed nothing. Of a
    /// repetition whose id is all that was kept, the hash is not known: zero.
    pub position: Position,
    /// It was a repetition of an earlier request with the same key.
    pub replayed: bool,
    /// With [`Ack::All`]: resolves when every voter has it.
    pub all: Option<oneshot::Receiver<()>>,
}

/// Why a write was not, or not certainly, done.
#[derive(Debug)]
pub enum WriteError {
    /// Certainly not done, and not because of this node: bad SQL, a
    /// constraint, a limit.
    Sql(ApiError),
    /// Certainly not done: this node does not write. It may be sent elsewhere;
    /// the request comes back whole.
    Refused(Refusal, Box<Rejected>),
    /// It was logged and its fate is not known here: 504 `outcome_unknown`.
    Unknown,
}

/// A request that was not touched.
#[derive(Debug)]
pub struct Rejected {
    /// What was to be run.
    pub statements: Vec<Statement>,
}

/// What the store worker is told.
#[derive(Debug)]
pub enum StoreJob {
    /// A client's request.
    Write(WriteRequest),
    /// Who writes changed.
    Pin(Pin),
    /// [`base_ha_core::io::Output::Proposed`].
    Proposed {
        /// The proposal.
        id: ProposalId,
        /// Its first entry.
        first: Seq,
        /// Its last.
        last: Position,
    },
    /// [`base_ha_core::io::Output::ProposalRefused`].
    Refused {
        /// The proposal.
        id: ProposalId,
        /// Why.
        refusal: Refusal,
    },
    /// [`base_ha_core::io::Output::ProposalUnknown`].
    Unknown {
        /// The proposal.
        id: ProposalId,
    },
    /// [`base_ha_core::io::Output::Apply`], with what was not in memory read
    /// from the log already.
    Apply {
        /// Contiguous, committed entries.
        entries: Vec<Entry>,
    },
    /// [`base_ha_core::io::Output::Progress`].
    Progress {
        /// Durable on this node.
        durable: Seq,
        /// Durable on every voter.
        all: Seq,
    },
    /// Truncate the write-ahead log into the database file and fsync it; the
    /// answer is the position that is now safe without the log.
    Checkpoint {
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Position, ApiError>>,
    },
    /// Replace `data.db` by this verified file.
    Install {
        /// The file; it is moved.
        file: PathBuf,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Installed, ApiError>>,
    },
    /// Nothing new, only time: see whether a full disk has room again. Without
    /// it a replica whose disk was full would wait for entries that nobody
    /// sends it before it has taken those it holds.
    Tick,
    /// Recompute the content hash from the rows and compare.
    Scrub {
        /// Where the answer goes: the recomputed and the running hash.
        reply: oneshot::Sender<Result<(ContentHash, ContentHash), ApiError>>,
    },
    /// Finish what is under way and close.
    Close {
        /// Told when closed.
        reply: oneshot::Sender<()>,
    },
}

/// What a snapshot brought.
#[derive(Debug, Clone)]
pub struct Installed {
    /// What it contains.
    pub position: Position,
    /// The membership it was taken under.
    pub membership: base_ha_core::member::Membership,
    /// Its content's hash.
    pub content: ContentHash,
    /// The highest stamp in it.
    pub hlc: base_ha_core::hlc::Hlc,
}

/// What the log worker is told.
#[derive(Debug)]
pub enum LogJob {
    /// Make this durable, then [`NodeEvent::Persisted`].
    Persist {
        /// Names the record.
        id: PersistId,
        /// The record.
        record: Record,
    },
    /// Read entries, then [`NodeEvent::Loaded`].
    Load {
        /// Names the request.
        id: LoadId,
        /// The first wanted.
        from: Seq,
        /// The last wanted.
        through: Seq,
        /// Stop after so many bytes, but give at least one.
        bytes_max: usize,
    },
    /// Read entries for the store: committed, not in memory.
    LoadForApply {
        /// The first wanted.
        from: Seq,
        /// The last wanted.
        through: Seq,
        /// Stop after so many bytes, but give at least one.
        bytes_max: usize,
        /// Where they go.
        reply: oneshot::Sender<Result<Vec<Entry>, ApiError>>,
    },
    /// Delete entries below `below` as far as size and age ask for it.
    Trim {
        /// Never delete from here on.
        below: Seq,
    },
    /// A snapshot of `position` is about to replace `data.db`: note the intent
    /// durably, so that a crash in between is not mistaken for amnesia.
    BeginInstall {
        /// What the snapshot contains.
        position: Position,
        /// Refuse one that the log does not contain: the core goes on giving
        /// this log entries, which would not follow one that started anew.
        keep_log: bool,
        /// Told when durable.
        reply: oneshot::Sender<Result<(), ApiError>>,
    },
    /// `data.db` was replaced: if the log does not contain `position`, restart
    /// it there. Answers whether it was restarted.
    FinishInstall {
        /// What the snapshot contains.
        position: Position,
        /// The membership as of there.
        membership: base_ha_core::member::Membership,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<bool, ApiError>>,
    },
    /// The snapshot of the last [`LogJob::BeginInstall`] was not installed, and
    /// `data.db` is as it was: the intent is forgotten.
    ForgetInstall,
    /// Time has passed: go on with what a full disk or a long trim left over.
    /// Worth sending about once a second; any other job does the same.
    Tick,
    /// List forgotten entries (R7), oldest first.
    Orphans {
        /// Those with a number above this.
        after: u64,
        /// Stop after so many bytes, but give at least one.
        bytes_max: usize,
        /// Where they go.
        reply: oneshot::Sender<Result<Vec<crate::log::Orphan>, ApiError>>,
    },
    /// Delete a forgotten entry: an operator has it.
    ReleaseOrphan {
        /// Its number.
        id: u64,
        /// Told when durable; false if there is none of that number.
        reply: oneshot::Sender<Result<bool, ApiError>>,
    },
    /// Close.
    Close {
        /// Told when closed.
        reply: oneshot::Sender<()>,
    },
}

/// Who tells how it fares. Both may be out of space, and one may find room
/// before the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Organ {
    /// The log worker.
    Log,
    /// The store worker.
    Store,
}

/// What the node loop is told.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "frames are most of what comes in: a box would cost each an allocation")]
pub enum NodeEvent {
    /// A frame came in.
    Frame {
        /// Where an answer would go.
        route: Route,
        /// The frame.
        envelope: Envelope,
        /// Its share of what may have come in on one connection without having
        /// been taken; given back when the event is dropped.
        room: Option<tokio::sync::OwnedSemaphorePermit>,
    },
    /// A record is durable.
    Persisted(PersistId),
    /// Entries were read.
    Loaded {
        /// The request.
        id: LoadId,
        /// The point before the first.
        prev: Position,
        /// The entries; empty if the range is gone.
        entries: Vec<Entry>,
    },
    /// The log was trimmed.
    Trimmed {
        /// The first entry still there.
        first: Seq,
        /// The point before it.
        base: Position,
    },
    /// The store ran a group.
    Propose {
        /// Names it.
        id: ProposalId,
        /// One payload a request; none if the group changed nothing and only
        /// asks whether it may be answered.
        payloads: Vec<Bytes>,
    },
    /// The store committed or applied.
    Applied {
        /// Up to here.
        position: Position,
        /// The content's hash there.
        content: ContentHash,
    },
    /// The state of the store or the log changed.
    Health(Organ, StoreHealth),
    /// A linearizable read wants to know from where on it may run.
    ReadIndex {
        /// The answer: the position to wait for.
        reply: oneshot::Sender<Result<Seq, Refusal>>,
    },
    /// An administrator's order.
    Admin {
        /// The order.
        command: AdminCommand,
        /// How it ended.
        reply: oneshot::Sender<AdminOutcome>,
    },
    /// Publish the whole view anew.
    Renew {
        /// Told once it is published.
        reply: oneshot::Sender<()>,
    },
    /// A snapshot was installed, or not: passed to the core as it is.
    Core(Box<Input>),
    /// A durable write failed: the process must end (R11).
    Fatal(String),
    /// Stop gracefully.
    Shutdown,
}

/// What every HTTP task sees of the node, published by the node loop whenever
/// it changes; cheap to read.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Who writes.
    pub pin: Pin,
    /// What is known to be committed.
    pub commit: Seq,
    /// The whole status, refreshed at least once a heartbeat.
    pub status: Option<Arc<Status>>,
    /// When `status` was taken.
    pub taken: MonoTime,
    /// A graceful stop is under way.
    pub stopping: bool,
}

impl View {
    /// The term and its writer, as they are told to whoever asks: a term that
    /// is not on the disk yet would be taken back by a crash (B5), and its
    /// writer belongs to no other term.
    pub fn shown(&self) -> (Term, Option<&(NodeId, Url)>) {
        let pin = &self.pin;
        if pin.durable < pin.term { (pin.durable, None) } else { (pin.term, pin.writer.as_ref()) }
    }
}
