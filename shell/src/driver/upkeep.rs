//! What is due now and then: checkpoints of `data.db`, trimming of the log,
//! and a scrub of the content.
//!
//! Decides when. An entry may leave the log only after an fsynced checkpoint of
//! `data.db` contains it and every live peer has it; how much is kept beyond
//! that is the log's business.

use crate::env::Env;
use crate::error::ApiError;
use base_ha_core::ids::{ContentHash, NodeId, Seq};
use base_ha_core::position::Position;
use base_ha_core::time::MonoTime;
use std::time::Duration;

/// How often it is looked whether something is due.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes applied after which `data.db` is checkpointed: its write-ahead log is
/// about that large then.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// `data.db` is checkpointed after so long if it changed at all.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(60);
/// How often the content is recomputed; up to half of it later, so that not all
/// nodes of a cluster are busy at once.
const SCRUB_EVERY: Duration = Duration::from_secs(3600);

/// Something that is due.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Chore {
    /// Checkpoint `data.db`, then trim the log.
    Checkpoint,
    /// Trim the log; there is no `data.db`.
    Trim,
    /// Recompute the content's hash.
    Scrub,
}

/// The calendar.
#[derive(Debug)]
pub struct Upkeep {
    due: MonoTime,
    /// False for a witness.
    stores: bool,
    /// What `data.db` contains.
    applied: Seq,
    /// What is safe in `data.db` without the log.
    safe: Seq,
    safe_bytes: u64,
    safe_at: MonoTime,
    checkpointing: bool,
    /// What the log was last told.
    trimmed: Seq,
    scrub_at: MonoTime,
    scrubbing: bool,
}

impl Upkeep {
    /// A calendar that begins now. Nothing is known to be safe yet: what was
    /// safe before the start is found by the first checkpoint.
    pub fn new(env: &impl Env, now: MonoTime, applied: Position, stores: bool) -> Self {
        let mut random = [0; 4];
        env.entropy(&mut random);
        let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
        Self {
            due: now.after(LOOK),
            stores,
            applied: applied.seq,
            safe: Seq(0),
            safe_bytes: 0,
            safe_at: now,
            checkpointing: false,
            trimmed: Seq(0),
            scrub_at: now.after(SCRUB_EVERY + (SCRUB_EVERY / 2).mul_f64(share)),
            scrubbing: false,
        }
    }

    /// When to look next.
    pub fn due(&self) -> MonoTime {
        self.due
    }

    /// `data.db` contains everything up to here.
    pub fn applied(&mut self, position: Position) {
        self.applied = position.seq;
    }

    /// What is due, one thing at a time. `bytes` were applied since the start.
    pub fn tick(&mut self, now: MonoTime, bytes: u64) -> Option<Chore> {
        if now < self.due {
            return None;
        }
        self.due = now.after(LOOK);
        if !self.stores {
            return Some(Chore::Trim);
        }
        let changed = self.applied > self.safe;
        let much = bytes - self.safe_bytes >= CHECKPOINT_BYTES;
        let long = now.since(self.safe_at) >= CHECKPOINT_AFTER;
        if !self.checkpointing && changed && (much || long) {
            self.checkpointing = true;
            self.safe_bytes = bytes;
            self.safe_at = now;
            return Some(Chore::Checkpoint);
        }
        if !self.scrubbing && now >= self.scrub_at {
            self.scrubbing = true;
            self.scrub_at = now.after(SCRUB_EVERY);
            return Some(Chore::Scrub);
        }
        None
    }

    /// A checkpoint ended. Returns the first entry that must stay in the log,
    /// if the log may be trimmed further than before.
    pub fn checkpointed(&mut self, result: Result<Position, ApiError>, trimmable: Seq) -> Option<Seq> {
        self.checkpointing = false;
        match result {
            Ok(position) => self.safe = self.safe.max(position.seq),
            Err(error) => {
                // Nothing is lost: the log keeps what is not safe.
                tracing::warn!(%error, "the database could not be checkpointed; the log is kept meanwhile");
                return None;
            }
        }
        self.trim(trimmable.min(self.safe))
    }

    /// Entries up to `through` are not needed. Returns the first entry that
    /// must stay in the log, if that is new.
    pub fn trim(&mut self, through: Seq) -> Option<Seq> {
        if through <= self.trimmed {
            return None;
        }
        self.trimmed = through;
        Some(through.next())
    }

    /// A scrub ended; true if the content is not what it should be.
    pub fn scrubbed(&mut self, result: Result<(ContentHash, ContentHash), ApiError>, id: &NodeId) -> bool {
        self.scrubbing = false;
        match result {
            Ok((rows, kept)) if rows != kept => {
                tracing::error!(node = %id, %rows, %kept, "the rows are not what was written: the file was damaged or changed");
                true
            }
            Ok((rows, _)) => {
                tracing::info!(node = %id, content = %rows, "scrub: all rows are as written");
                false
            }
            Err(error) => {
                tracing::warn!(node = %id, %error, "the scrub was not finished");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::RealEnv;

    fn at(seconds: u64) -> MonoTime {
        MonoTime(0).after(Duration::from_secs(seconds))
    }

    fn position(seq: u64) -> Position {
        Position { seq: Seq(seq), ..Position::START }
    }

    #[test]
    fn the_log_is_trimmed_below_what_is_safe_and_not_wanted() {
        let mut upkeep = Upkeep::new(&RealEnv, at(0), position(10), true);
        assert_eq!(upkeep.tick(at(1), 0), None);
        assert_eq!(upkeep.tick(at(61), 0), Some(Chore::Checkpoint));
        assert_eq!(upkeep.tick(at(200), 0), None, "one at a time");
        assert_eq!(upkeep.checkpointed(Ok(position(10)), Seq(7)), Some(Seq(8)), "a peer wants 8");
        assert_eq!(upkeep.tick(at(300), 0), None, "nothing changed since");
        upkeep.applied(position(20));
        assert_eq!(upkeep.tick(at(400), 0), Some(Chore::Checkpoint));
        assert_eq!(upkeep.checkpointed(Ok(position(15)), Seq(20)), Some(Seq(16)), "16 is not safe");
    }

    #[test]
    fn a_failed_checkpoint_trims_nothing() {
        let mut upkeep = Upkeep::new(&RealEnv, at(0), position(10), true);
        assert_eq!(upkeep.tick(at(61), 0), Some(Chore::Checkpoint));
        assert_eq!(upkeep.checkpointed(Err(ApiError::new(507, "full", "full")), Seq(10)), None);
    }

    #[test]
    fn much_work_brings_the_checkpoint_forward() {
        let mut upkeep = Upkeep::new(&RealEnv, at(0), position(0), true);
        upkeep.applied(position(10));
        assert_eq!(upkeep.tick(at(6), CHECKPOINT_BYTES - 1), None);
        assert_eq!(upkeep.tick(at(12), CHECKPOINT_BYTES), Some(Chore::Checkpoint));
    }

    #[test]
    fn a_witness_only_trims() {
        let mut upkeep = Upkeep::new(&RealEnv, at(0), position(0), false);
        assert_eq!(upkeep.tick(at(6), 0), Some(Chore::Trim));
        assert_eq!(upkeep.trim(Seq(5)), Some(Seq(6)));
        assert_eq!(upkeep.trim(Seq(5)), None, "said already");
    }

    #[test]
    fn a_scrub_tells_damage_from_health() {
        let mut upkeep = Upkeep::new(&RealEnv, at(0), position(0), true);
        assert_eq!(upkeep.tick(at(6000), 0), Some(Chore::Scrub));
        let id = NodeId::new("n").expect("legal");
        assert!(!upkeep.scrubbed(Ok((ContentHash(1), ContentHash(1))), &id));
        assert!(upkeep.scrubbed(Ok((ContentHash(1), ContentHash(2))), &id));
    }
}
