//! The hard state's own file: two slots, each checksummed.
//!
//! Decides their layout and the order of writes and fsyncs. Knows nothing of
//! what a term or a vote is for.
//!
//! Both slots carry the same term and vote whenever no write is under way: a
//! bit that rots in one of them is then no lost vote. Slot A is always written
//! first, so a torn write leaves the old state in B, whole. High-water notes go
//! to A alone and are not fsynced, which costs no append any time: losing one
//! loses a hint, and B still has the term and the vote.

use crate::env::files::{File, Files, Mode};
use crate::error::ApiError;
use base_ha_core::ids::{ClusterId, Hash, Incarnation, NodeId, Seq, Term};
use base_ha_core::io::HardState;
use base_ha_core::position::Position;
use std::io;
use std::path::Path;

/// The open file and what it says.
#[derive(Debug)]
pub(super) struct HardStateFile {
    file: Box<dyn File>,
    generation: u64,
    state: HardState,
}

/// A slot as read.
#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Valid(u64, HardState),
    Newer(u32),
    Invalid,
}

const MAGIC: [u8; 8] = *b"bhaHard\n";
const VERSION: u32 = 1;
/// Where a slot begins. They lie in different pages and different sectors of
/// any disk: a write to one cannot tear the other.
const SLOTS: [u64; 2] = [0, 4096];
/// A slot's whole length, padding included: one sector.
const SLOT_BYTES: usize = 512;
const HEAD: usize = 8 + 4 + 8 + 2;

impl HardStateFile {
    /// Writes a new file beside the name, then gives it the name: it either
    /// exists whole or not at all. The caller fsyncs the directory.
    pub(super) fn create(files: &dyn Files, path: &Path, state: HardState) -> io::Result<Self> {
        let new = path.with_extension("new");
        let file = files.open(&new, Mode::Empty)?;
        let mut this = Self { file, generation: 0, state: HardState::default() };
        this.store(state)?;
        this.file.sync_all()?;
        files.rename(&new, path)?;
        Ok(this)
    }

    /// Reads the newest valid slot and mends the other one.
    ///
    /// # Errors
    /// `hard_state_damaged` if neither can be read: votes are not guessed.
    pub(super) fn open(files: &dyn Files, path: &Path) -> Result<Self, ApiError> {
        let failed = |error: io::Error| {
            ApiError::new(500, "hard_state_failed", format!("{} cannot be read or written: {error}", path.display()))
        };
        let file = files.open(path, Mode::Write).map_err(failed)?;
        let slots = SLOTS.map(|at| read_slot(&*file, at));
        let mut newest: Option<(u64, HardState)> = None;
        for slot in &slots {
            match slot {
                Ok(Slot::Valid(generation, state)) => {
                    if newest.as_ref().is_none_or(|(best, _)| generation > best) {
                        newest = Some((*generation, state.clone()));
                    }
                }
                Ok(Slot::Newer(version)) => {
                    return Err(ApiError::new(
                        500,
                        "data_dir_newer",
                        format!("{} has version {version}, this program knows up to {VERSION}", path.display()),
                    ));
                }
                Ok(Slot::Invalid) => {}
                Err(error) => return Err(failed(io::Error::new(error.kind(), error.to_string()))),
            }
        }
        let Some((generation, state)) = newest else {
            return Err(ApiError::new(
                500,
                "hard_state_damaged",
                format!(
                    "neither copy in {} can be read, so this node no longer knows for whom it voted; nothing was \
                     changed. If other members live, move the whole data directory away and start again: the node \
                     joins as a new one. If this was the only one, restore the directory from a backup",
                    path.display()
                ),
            ));
        };
        let mut this = Self { file, generation, state };
        let same_vote = |slot: &io::Result<Slot>| match slot {
            Ok(Slot::Valid(_, state)) => votes_equal(state, &this.state),
            Ok(Slot::Newer(_) | Slot::Invalid) | Err(_) => false,
        };
        if !slots.iter().all(same_vote) {
            tracing::warn!(path = %path.display(), "one copy of the hard state was torn or stale; mended from the other");
            // A crash came between the two writes, or one rotted. The bad one
            // is written first: the good one stays until that is durable.
            let bad = usize::from(same_vote(&slots[0]));
            this.generation += 1;
            let bytes = encode_slot(this.generation, &this.state);
            let mend = |n: usize| this.file.write_all_at(&bytes, SLOTS[n]).and_then(|()| this.file.sync_data());
            mend(bad).and_then(|()| mend(1 - bad)).map_err(failed)?;
        }
        Ok(this)
    }

    /// What it says.
    pub(super) fn state(&self) -> &HardState {
        &self.state
    }

    /// Replaces the state; durable in both slots when this returns.
    ///
    /// # Errors
    /// What the system says. It must not be tried again (R11).
    pub(super) fn store(&mut self, state: HardState) -> io::Result<()> {
        self.generation += 1;
        let bytes = encode_slot(self.generation, &state);
        for at in SLOTS {
            self.file.write_all_at(&bytes, at)?;
            self.file.sync_data()?;
        }
        self.state = state;
        Ok(())
    }

    /// Notes a higher high-water mark, without an fsync.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn note_high_water(&mut self, high_water: Position) -> io::Result<()> {
        assert!(
            high_water.seq >= self.state.high_water.seq,
            "a high-water mark is lowered durably, before the log is cut"
        );
        self.state.high_water = high_water;
        self.generation += 1;
        self.file.write_all_at(&encode_slot(self.generation, &self.state), SLOTS[0])
    }
}

fn votes_equal(a: &HardState, b: &HardState) -> bool {
    (a.cluster, a.incarnation, a.term, &a.voted_for) == (b.cluster, b.incarnation, b.term, &b.voted_for)
}

fn read_slot(file: &dyn File, at: u64) -> io::Result<Slot> {
    let mut bytes = [0u8; SLOT_BYTES];
    let mut read = 0;
    while read < SLOT_BYTES {
        match file.read_at(&mut bytes[read..], at + read as u64)? {
            0 => break,
            n => read += n,
        }
    }
    Ok(decode_slot(&bytes[..read]))
}

/// Writes the state's own bytes, without a slot's head; read by
/// [`decode_state`].
pub(super) fn encode_state(state: &HardState) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&state.cluster.0.to_le_bytes());
    out.extend_from_slice(&state.incarnation.0.to_le_bytes());
    out.extend_from_slice(&state.term.0.to_le_bytes());
    out.extend_from_slice(&encode_position(&state.high_water));
    if let Some((id, incarnation)) = &state.voted_for {
        out.extend_from_slice(&incarnation.0.to_le_bytes());
        out.extend_from_slice(id.as_str().as_bytes());
    }
    out
}

/// Reads what [`encode_state`] wrote.
pub(super) fn decode_state(bytes: &[u8]) -> Option<HardState> {
    let (cluster, rest) = bytes.split_first_chunk()?;
    let (incarnation, rest) = rest.split_first_chunk()?;
    let (term, rest) = rest.split_first_chunk()?;
    let (high_water, rest) = rest.split_first_chunk::<48>()?;
    let voted_for = match rest.split_first_chunk() {
        None if rest.is_empty() => None,
        None => return None,
        Some((incarnation, id)) => {
            let id = NodeId::new(std::str::from_utf8(id).ok()?).ok()?;
            Some((id, Incarnation(u128::from_le_bytes(*incarnation))))
        }
    };
    Some(HardState {
        cluster: ClusterId(u128::from_le_bytes(*cluster)),
        incarnation: Incarnation(u128::from_le_bytes(*incarnation)),
        term: Term(u64::from_le_bytes(*term)),
        voted_for,
        high_water: decode_position(high_water)?,
    })
}

/// A position in 48 bytes.
pub(super) fn encode_position(position: &Position) -> [u8; 48] {
    let mut out = [0; 48];
    out[..8].copy_from_slice(&position.seq.0.to_le_bytes());
    out[8..16].copy_from_slice(&position.term.0.to_le_bytes());
    out[16..].copy_from_slice(&position.hash.0);
    out
}

/// Reads what [`encode_position`] wrote.
pub(super) fn decode_position(bytes: &[u8]) -> Option<Position> {
    let bytes: &[u8; 48] = bytes.try_into().ok()?;
    let (seq, rest) = bytes.split_first_chunk()?;
    let (term, hash) = rest.split_first_chunk()?;
    Some(Position {
        seq: Seq(u64::from_le_bytes(*seq)),
        term: Term(u64::from_le_bytes(*term)),
        hash: Hash(hash.try_into().ok()?),
    })
}

fn encode_slot(generation: u64, state: &HardState) -> [u8; SLOT_BYTES] {
    let payload = encode_state(state);
    let length = u16::try_from(payload.len()).expect("a node id has at most 64 bytes");
    let mut out = Vec::with_capacity(SLOT_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&payload);
    let digest = blake3::hash(&out);
    out.extend_from_slice(digest.as_bytes());
    out.resize(SLOT_BYTES, 0);
    out.try_into().expect("head, 168 bytes of state at most and a digest fit into a sector")
}

fn decode_slot(bytes: &[u8]) -> Slot {
    let parse = || -> Option<Slot> {
        let head = bytes.get(..HEAD)?;
        let version = u32::from_le_bytes(head[8..12].try_into().ok()?);
        let generation = u64::from_le_bytes(head[12..20].try_into().ok()?);
        let length = usize::from(u16::from_le_bytes(head[20..22].try_into().ok()?));
        let digest = bytes.get(HEAD + length..HEAD + length + 32)?;
        if head[..8] != MAGIC || blake3::hash(&bytes[..HEAD + length]).as_bytes() != digest {
            return None;
        }
        if version > VERSION {
            return Some(Slot::Newer(version));
        }
        Some(Slot::Valid(generation, decode_state(&bytes[HEAD..HEAD + length])?))
    };
    parse().unwrap_or(Slot::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::files::RealFiles;
    use std::fs;

    fn state(term: u64) -> HardState {
        HardState {
            cluster: ClusterId(7),
            incarnation: Incarnation(9),
            term: Term(term),
            voted_for: Some((NodeId::new(&"n".repeat(64)).expect("legal"), Incarnation(u128::MAX))),
            high_water: Position { seq: Seq(term * 10), term: Term(term), hash: Hash([3; 32]) },
        }
    }

    /// A crash may stop the two writes of `store` at every byte: what is read
    /// afterwards is the old state or the new one, and once the first fsync
    /// could have returned it is the new one.
    #[test]
    fn a_write_torn_at_any_byte_leaves_the_old_state_or_the_new() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("hard_state");
        let mut file = HardStateFile::create(&RealFiles, &path, state(1)).expect("create");
        let old = fs::read(&path).expect("read");
        file.store(state(2)).expect("store");
        let new = fs::read(&path).expect("read");
        let (mut olds, mut news) = (0, 0);
        for (slot, start) in SLOTS.into_iter().enumerate() {
            for cut in 0..=SLOT_BYTES {
                for garbage in [None, Some(0xA5)] {
                    let mut torn = old.clone();
                    if slot == 1 {
                        torn[..SLOT_BYTES].copy_from_slice(&new[..SLOT_BYTES]);
                    }
                    let at = start as usize;
                    torn[at..at + cut].copy_from_slice(&new[at..at + cut]);
                    if let (Some(byte), true) = (garbage, cut < SLOT_BYTES) {
                        torn[at + cut..at + SLOT_BYTES].fill(byte);
                    }
                    let copy = dir.path().join("torn");
                    fs::write(&copy, &torn).expect("write");
                    let read = HardStateFile::open(&RealFiles, &copy).expect("one slot is whole").state;
                    assert!(read == state(1) || read == state(2));
                    assert!(slot == 0 || read == state(2), "slot A was durable already");
                    if read == state(1) {
                        olds += 1
                    } else {
                        news += 1
                    }
                    // The mended file has the state in both slots.
                    for lost in SLOTS.into_iter().filter(|_| cut % 64 < 2) {
                        let mut mended = fs::read(&copy).expect("read");
                        mended[lost as usize..lost as usize + SLOT_BYTES].fill(0xFF);
                        let other = dir.path().join("other");
                        fs::write(&other, &mended).expect("write");
                        assert_eq!(HardStateFile::open(&RealFiles, &other).expect("mended").state, read);
                    }
                }
            }
        }
        assert!(olds > 100 && news > 100, "{olds} {news}");
    }

    #[test]
    fn any_flipped_byte_of_one_slot_is_survived() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("hard_state");
        HardStateFile::create(&RealFiles, &path, state(5)).expect("create");
        let whole = fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).expect("write");
            assert_eq!(HardStateFile::open(&RealFiles, &path).expect("the other slot is whole").state, state(5));
        }
    }

    #[test]
    fn two_bad_slots_are_an_error_and_not_a_new_node() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("hard_state");
        HardStateFile::create(&RealFiles, &path, state(5)).expect("create");
        let mut bytes = fs::read(&path).expect("read");
        bytes[30] ^= 1;
        bytes[4096 + 30] ^= 1;
        for bad in [bytes, Vec::new(), vec![0; 8192]] {
            fs::write(&path, &bad).expect("write");
            assert_eq!(HardStateFile::open(&RealFiles, &path).expect_err("refused").code, "hard_state_damaged");
            assert_eq!(fs::read(&path).expect("read"), bad, "nothing was changed");
        }
    }

    #[test]
    fn a_newer_version_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("hard_state");
        HardStateFile::create(&RealFiles, &path, state(5)).expect("create");
        let mut bytes = fs::read(&path).expect("read");
        let payload = encode_state(&state(5));
        bytes[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
        let end = HEAD + payload.len();
        let digest = *blake3::hash(&bytes[..end]).as_bytes();
        bytes[end..end + 32].copy_from_slice(&digest);
        fs::write(&path, &bytes).expect("write");
        assert_eq!(HardStateFile::open(&RealFiles, &path).expect_err("refused").code, "data_dir_newer");
    }

    /// Notes are not fsynced: whatever becomes of slot A, the vote stays.
    #[test]
    fn a_lost_high_water_note_loses_no_vote() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("hard_state");
        let mut file = HardStateFile::create(&RealFiles, &path, state(5)).expect("create");
        let mark = Position { seq: Seq(999), ..state(5).high_water };
        file.note_high_water(mark).expect("note");
        assert_eq!(HardStateFile::open(&RealFiles, &path).expect("open").state.high_water, mark);
        let mut bytes = fs::read(&path).expect("read");
        bytes[..SLOT_BYTES].fill(0x5A);
        fs::write(&path, &bytes).expect("write");
        assert_eq!(HardStateFile::open(&RealFiles, &path).expect("open").state, state(5));
    }
}
