//! What a start finds on disk, opened, and brought to one story.
//!
//! Decides the order: first the log, which takes the directory's lock, then
//! `data.db`, then the log is held against it. Production, the simulator and the
//! enumeration of crash points call the same [`Disk::open`].

use crate::api::NodeEvent;
use crate::config::Limits;
use crate::env::Env;
use crate::env::files::make_dirs;
use crate::error::ApiError;
use crate::log::{self, LogLimits};
use crate::store::{self, backup};
use crate::token;
use base_ha_core::ids::ContentHash;
use base_ha_core::io::Recovered;
use std::path::{Path, PathBuf};

/// Where a node's data is, and what is asked of it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The data directory.
    pub dir: &'a Path,
    /// How much log is kept.
    pub log: LogLimits,
    /// Bounds of the store.
    pub store: &'a Limits,
    /// It has no `data.db`.
    pub witness: bool,
}

/// What was found on disk, opened.
pub struct Disk<E: Env> {
    /// The log.
    pub log: log::OpenedLog<E>,
    /// `data.db`; none at a witness.
    pub store: Option<store::Opened<E>>,
    /// What the core starts from.
    pub recovered: Recovered,
    /// The directory's own key (see [`token::own_key`]).
    pub own_key: [u8; 32],
    /// The place for unfinished copies, swept.
    pub tmp: PathBuf,
}

impl<E: Env> Disk<E> {
    /// Opens the data directory, making it if it is missing, and recovers what
    /// a crash left half done. `told` gets what log and store say later.
    ///
    /// # Errors
    /// Those of [`log::open`], [`log::OpenedLog::recovered`], [`store::open`];
    /// `data_dir_unwritable`. `data_corrupt` only if nothing could replace the
    /// data.
    pub fn open(
        env: &E,
        place: &Place<'_>,
        told: impl Fn(NodeEvent) + Clone + Send + Sync + 'static,
    ) -> Result<Self, ApiError> {
        let dir = place.dir;
        // First the log: it takes the directory's lock.
        let mut log = log::open(env.clone(), dir, place.log, told.clone())?;
        let tmp = prepare_tmp(env, dir)?;
        let store = match place.witness {
            true => None,
            false => Some(open_data(env, place, &log, told)?),
        };
        let recovered = match &store {
            Some(store) => log.recovered(store.position, store.content, store.membership.clone())?,
            None => log.recovered(log.base(), ContentHash::default(), None)?,
        };
        if let Some(store) = store.as_ref().filter(|store| store.position.seq < log.base().seq) {
            if log.replacement()?.is_none() {
                let text = format!(
                    "data.db ends at {} and the log begins at {}: what lies between is nowhere, for there is no other \
                     member with data",
                    store.position.seq,
                    log.base().seq.next()
                );
                return Err(ApiError::new(500, "data_corrupt", text));
            }
            tracing::warn!(
                data = %store.position.seq,
                log = %log.base().seq.next(),
                "data.db ends before the log begins: it needs a copy of another member's"
            );
        }
        let own_key = token::own_key(dir, env).map_err(|e| unusable(dir, &e))?;
        Ok(Self { log, store, recovered, own_key, tmp })
    }
}

/// Opens `data.db`. A damaged one is put aside for an empty one where it can be
/// had again: `data.db` is what the log amounts to, and the log is whole. The
/// core then has it built up from the log, or quarantined and seeded anew; log
/// and hard state stay, so that this node votes and acknowledges meanwhile.
fn open_data<E: Env>(
    env: &E,
    place: &Place<'_>,
    log: &log::OpenedLog<E>,
    told: impl Fn(NodeEvent) + Clone + Send + Sync + 'static,
) -> Result<store::Opened<E>, ApiError> {
    let open = || store::open(env.clone(), place.dir, place.store, told.clone());
    let damage = match open() {
        Err(error) if error.code == "data_corrupt" => error,
        other => return other,
    };
    let Some(from) = log.replacement()? else { return Err(damage) };
    let set_aside = log.set_data_aside()?;
    let from = match from {
        log::Replacement::Log => "this node's log",
        log::Replacement::Members => "another member",
    };
    tracing::error!(reason = %damage, ?set_aside, from, "data.db is damaged: it is made anew");
    open()
}

fn unusable(dir: &Path, error: &std::io::Error) -> ApiError {
    ApiError::new(500, "data_dir_unwritable", format!("the data directory {} can't be used: {error}", dir.display()))
}

/// The place for unfinished copies, emptied of what a crash left.
fn prepare_tmp<E: Env>(env: &E, dir: &Path) -> Result<PathBuf, ApiError> {
    let (files, tmp) = (env.files(), dir.join("tmp"));
    let swept = make_dirs(&*files, &tmp).and_then(|()| backup::sweep(&*files, &tmp)).map_err(|e| unusable(&tmp, &e))?;
    if swept > 0 {
        tracing::info!(files = swept, "removed unfinished copies of an earlier run");
    }
    Ok(tmp)
}
