//! Envelopes and messages as bytes, inside a frame.
//!
//! Decides each message's tag and the order of its fields. A new message
//! takes the next tag, a new field goes at the end of its message.

use super::buffer::{Reader, Writer};
use super::entry::{ENTRY_MIN, read_entry, write_entry};
use super::error::DecodeError;
use super::frame::BODY_MAX;
use super::membership::{MEMBERSHIP_MAX, decode_membership, encode_membership};
use crate::entry::Entry;
use crate::ids::{BootNonce, ClusterId, ConfigVersion, ContentHash, Incarnation, NodeId, Seq, Term, Url};
use crate::message::{Append, AppendResult, Appended, Envelope, Message, Part, Ping, Refused};
use crate::position::Position;
use crate::time::MonoTime;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The most content hashes in one ping.
const CONTENTS_MAX: usize = 1024;

pub(super) fn write_envelope(out: &mut Writer, envelope: &Envelope) {
    out.u128(envelope.cluster.0);
    out.u128(envelope.seats);
    node_id(out, &envelope.from);
    out.u128(envelope.incarnation.0);
    out.varint(envelope.nonce.0);
    out.varint(envelope.term.0);
    out.varint(envelope.config.0);
    write_message(out, &envelope.message);
}

pub(super) fn read_envelope(input: &mut Reader) -> Result<Envelope, DecodeError> {
    Ok(Envelope {
        cluster: ClusterId(input.u128()?),
        seats: input.u128()?,
        from: input.node_id()?,
        incarnation: Incarnation(input.u128()?),
        nonce: BootNonce(input.varint()?),
        term: Term(input.varint()?),
        config: ConfigVersion(input.varint()?),
        message: read_message(input)?,
    })
}

fn write_message(out: &mut Writer, message: &Message) {
    match message {
        Message::Ping(ping) => {
            out.u8(0);
            write_ping(out, ping);
        }
        Message::Pong { echo, standing } => {
            out.u8(1);
            out.varint(echo.0);
            write_ping(out, standing);
        }
        Message::Append(append) => {
            out.u8(2);
            write_append(out, append);
        }
        Message::Appended(appended) => {
            out.u8(3);
            write_appended(out, appended);
        }
        Message::PreVote { last, term } => {
            out.u8(4);
            position(out, last);
            out.varint(term.0);
        }
        Message::PreVoted { term, granted } => {
            out.u8(5);
            out.varint(term.0);
            out.bool(*granted);
        }
        Message::Vote { last, transfer } => {
            out.u8(6);
            position(out, last);
            out.bool(*transfer);
        }
        Message::Voted { granted } => {
            out.u8(7);
            out.bool(*granted);
        }
        Message::AskTransfer => out.u8(8),
        Message::TimeoutNow => out.u8(9),
        Message::NeedSnapshot { at_least, from } => {
            out.u8(10);
            position(out, at_least);
            url(out, from);
        }
        Message::Refused(refused) => {
            out.u8(11);
            write_refused(out, refused);
        }
    }
}

fn read_message(input: &mut Reader) -> Result<Message, DecodeError> {
    Ok(match input.u8()? {
        0 => Message::Ping(read_ping(input)?),
        1 => Message::Pong { echo: MonoTime(input.varint()?), standing: read_ping(input)? },
        2 => Message::Append(read_append(input)?),
        3 => Message::Appended(read_appended(input)?),
        4 => Message::PreVote { last: read_position(input)?, term: Term(input.varint()?) },
        5 => Message::PreVoted { term: Term(input.varint()?), granted: input.bool("granted")? },
        6 => Message::Vote { last: read_position(input)?, transfer: input.bool("transfer")? },
        7 => Message::Voted { granted: input.bool("granted")? },
        8 => Message::AskTransfer,
        9 => Message::TimeoutNow,
        10 => Message::NeedSnapshot { at_least: read_position(input)?, from: input.url()? },
        11 => Message::Refused(read_refused(input)?),
        got => {
            return Err(DecodeError::BadTag { what: "message", got });
        }
    })
}

fn write_ping(out: &mut Writer, ping: &Ping) {
    out.varint(ping.sent.0);
    url(out, &ping.url);
    position(out, &ping.last);
    out.varint(ping.commit.0);
    out.varint(ping.applied.0);
    out.bool(ping.eligible);
    match &ping.writer {
        None => out.u8(0),
        Some(writer) => {
            out.u8(1);
            node_id(out, writer);
        }
    }
    out.bool(ping.witness);
    out.count(ping.contents.len());
    for (seq, content) in &ping.contents {
        out.varint(seq.0);
        out.u128(content.0);
    }
    out.varint(ping.wall_ms);
}

fn read_ping(input: &mut Reader) -> Result<Ping, DecodeError> {
    Ok(Ping {
        sent: MonoTime(input.varint()?),
        url: input.url()?,
        last: read_position(input)?,
        commit: Seq(input.varint()?),
        applied: Seq(input.varint()?),
        eligible: input.bool("eligible")?,
        writer: if input.bool("writer")? { Some(input.node_id()?) } else { None },
        witness: input.bool("witness")?,
        contents: {
            let count = input.count("content hashes", 17, CONTENTS_MAX)?;
            let mut contents = Vec::with_capacity(count);
            for _ in 0..count {
                contents.push((Seq(input.varint()?), ContentHash(input.u128()?)));
            }
            contents
        },
        wall_ms: input.varint()?,
    })
}

fn write_append(out: &mut Writer, append: &Append) {
    // No clock reads zero. A node of a version that knows no unanswered append
    // echoes the zero, which its writer takes for an answer to an older one.
    out.varint(append.sent.map_or(0, |sent| sent.0));
    position(out, &append.prev);
    out.varint(append.commit.0);
    out.bool(append.renews);
    out.count(append.entries.len());
    for entry in &append.entries {
        write_entry(out, entry);
    }
    out.bool(append.part.is_some());
    if let Some(part) = &append.part {
        write_entry(out, &part.head);
        out.varint(part.length as u64);
        out.varint(part.offset as u64);
        out.bytes(&part.bytes);
    }
}

fn read_append(input: &mut Reader) -> Result<Append, DecodeError> {
    let sent = Some(MonoTime(input.varint()?)).filter(|sent| *sent > MonoTime(0));
    let prev = read_position(input)?;
    let commit = Seq(input.varint()?);
    let renews = input.bool("renews")?;
    let count = input.count("entries", ENTRY_MIN, BODY_MAX)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(read_entry(input)?);
    }
    let part = if input.bool("part")? { Some(Box::new(read_part(input)?)) } else { None };
    Ok(Append { sent, prev, entries, commit, renews, part })
}

fn read_part(input: &mut Reader) -> Result<Part, DecodeError> {
    let head = read_entry(input)?;
    let whole = head.payload.len();
    if whole > 0 {
        return Err(DecodeError::Bound { what: "payload of a part's head", got: whole as u64, max: 0 });
    }
    let length = read_size(input, "length of a payload", Entry::PAYLOAD_MAX)?;
    let offset = read_size(input, "offset of a part", length)?;
    let bytes = input.bytes("part", length - offset)?;
    Ok(Part { head, length, offset, bytes })
}

fn read_size(input: &mut Reader, what: &'static str, max: usize) -> Result<usize, DecodeError> {
    let got = input.varint()?;
    usize::try_from(got).ok().filter(|n| *n <= max).ok_or(DecodeError::Bound { what, got, max: max as u64 })
}

fn write_appended(out: &mut Writer, appended: &Appended) {
    out.varint(appended.echo.0);
    match &appended.result {
        AppendResult::Durable { matched } => {
            out.u8(0);
            out.varint(matched.0);
        }
        AppendResult::Mismatch { hint, last } => {
            out.u8(1);
            position(out, hint);
            out.varint(last.0);
        }
        AppendResult::Partial { seq, bytes } => {
            out.u8(2);
            out.varint(seq.0);
            out.varint(*bytes as u64);
        }
    }
    out.varint(appended.applied.0);
}

fn read_appended(input: &mut Reader) -> Result<Appended, DecodeError> {
    Ok(Appended {
        echo: MonoTime(input.varint()?),
        result: match input.u8()? {
            0 => AppendResult::Durable { matched: Seq(input.varint()?) },
            1 => AppendResult::Mismatch { hint: read_position(input)?, last: Seq(input.varint()?) },
            2 => AppendResult::Partial {
                seq: Seq(input.varint()?),
                bytes: read_size(input, "bytes of a payload", Entry::PAYLOAD_MAX)?,
            },
            got => {
                return Err(DecodeError::BadTag { what: "append result", got });
            }
        },
        applied: Seq(input.varint()?),
    })
}

fn write_refused(out: &mut Writer, refused: &Refused) {
    match refused {
        Refused::OtherCluster { cluster } => {
            out.u8(0);
            out.u128(cluster.0);
        }
        Refused::Born { membership } => {
            out.u8(1);
            out.bytes(&encode_membership(membership));
        }
        Refused::StaleTerm => out.u8(2),
        Refused::DuplicateId { nonce, incarnation, other } => {
            out.u8(3);
            out.varint(nonce.0);
            out.u128(incarnation.0);
            out.u128(other.0);
        }
        Refused::Amnesia { incarnation, acknowledged } => {
            out.u8(4);
            out.u128(incarnation.0);
            out.varint(acknowledged.0);
        }
        Refused::NotAMember => out.u8(5),
        Refused::Diverged { at, expected, hash } => {
            out.u8(6);
            out.varint(at.0);
            out.u128(expected.0);
            out.hash(hash);
        }
    }
}

fn read_refused(input: &mut Reader) -> Result<Refused, DecodeError> {
    Ok(match input.u8()? {
        0 => Refused::OtherCluster { cluster: ClusterId(input.u128()?) },
        1 => Refused::Born { membership: decode_membership(input.bytes("membership", MEMBERSHIP_MAX)?)? },
        2 => Refused::StaleTerm,
        3 => Refused::DuplicateId {
            nonce: BootNonce(input.varint()?),
            incarnation: Incarnation(input.u128()?),
            other: Incarnation(input.u128()?),
        },
        4 => Refused::Amnesia { incarnation: Incarnation(input.u128()?), acknowledged: Seq(input.varint()?) },
        5 => Refused::NotAMember,
        6 => Refused::Diverged { at: Seq(input.varint()?), expected: ContentHash(input.u128()?), hash: input.hash()? },
        got => {
            return Err(DecodeError::BadTag { what: "refusal", got });
        }
    })
}

fn position(out: &mut Writer, at: &Position) {
    out.varint(at.seq.0);
    out.varint(at.term.0);
    out.hash(&at.hash);
}

fn read_position(input: &mut Reader) -> Result<Position, DecodeError> {
    Ok(Position { seq: Seq(input.varint()?), term: Term(input.varint()?), hash: input.hash()? })
}

fn node_id(out: &mut Writer, id: &NodeId) {
    out.bytes(id.as_str().as_bytes());
}

fn url(out: &mut Writer, url: &Url) {
    out.bytes(url.as_str().as_bytes());
}
