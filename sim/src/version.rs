//! The next version of the frames, as a program of the next release would
//! write it: a field more at the end, and the version one higher.
//!
//! Decides nothing about frames of this version, which are the core's. The core
//! refuses the next one whole; a machine with the newer program takes the field
//! off again and hands the rest to the core.

use base_ha_core::wire::FRAME_HEAD;
use bytes::Bytes;

/// What the next version adds to each frame's body.
const FIELD: [u8; 3] = *b"new";

/// Rewrites a frame of this version as one of the next.
pub fn raise(frame: &Bytes) -> Bytes {
    let mut bytes = frame.to_vec();
    bytes[4] += 1;
    bytes.extend(FIELD);
    seal(&mut bytes);
    Bytes::from(bytes)
}

/// Rewrites a frame of the next version as one of this; any other bytes, and
/// damaged ones, are left as they are for the core to judge.
pub fn lower(frame: &Bytes, current: u8) -> Option<Bytes> {
    if frame.len() < FRAME_HEAD + FIELD.len() || frame[4] != current + 1 || !frame.ends_with(&FIELD) {
        return None;
    }
    let mut sealed = frame.to_vec();
    seal(&mut sealed);
    if sealed[..] != frame[..] {
        return None;
    }
    sealed.truncate(frame.len() - FIELD.len());
    sealed[4] = current;
    seal(&mut sealed);
    Some(Bytes::from(sealed))
}

/// Sets the length and the checksum in the head.
fn seal(bytes: &mut [u8]) {
    let length = u32::try_from(bytes.len() - FRAME_HEAD).unwrap_or(u32::MAX);
    bytes[5..9].copy_from_slice(&length.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[4..9]);
    hasher.update(&bytes[FRAME_HEAD..]);
    let sum = hasher.finalize();
    bytes[9..FRAME_HEAD].copy_from_slice(&sum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_ha_core::ids::{BootNonce, ClusterId, ConfigVersion, Incarnation, NodeId, Term};
    use base_ha_core::message::{Envelope, Message};
    use base_ha_core::wire::{DecodeError, decode_frame, encode_frame};

    fn frame() -> Bytes {
        encode_frame(&Envelope {
            cluster: ClusterId(1),
            seats: 0,
            from: NodeId::new("a").expect("legal"),
            incarnation: Incarnation(2),
            nonce: BootNonce(3),
            term: Term(4),
            config: ConfigVersion(5),
            message: Message::AskTransfer,
        })
    }

    #[test]
    fn the_core_refuses_the_next_version_and_the_next_program_reads_both() {
        let (old, version) = (frame(), frame()[4]);
        let new = raise(&old);
        let refused = decode_frame(new.clone());
        assert_eq!(refused, Err(DecodeError::UnknownVersion { got: version + 1, supported: version }));
        assert_eq!(lower(&new, version), Some(old.clone()));
        assert_eq!(lower(&old, version), None);
        let mut damaged = new.to_vec();
        damaged[FRAME_HEAD + 1] ^= 1;
        assert_eq!(lower(&Bytes::from(damaged), version), None);
    }
}
