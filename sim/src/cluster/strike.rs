//! What strikes a process at a moment of its life: between turns, in the middle
//! of one, or when a record is durable and it has not been told.
//!
//! Decides when an armed strike is due. What a crash leaves on the disk is
//! `disk`'s business.

use super::Cluster;
use crate::plan::{Moment, Target};
use crate::report::Failure;
use base_ha_core::io::Output;

/// What happens to a process when its moment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// It dies, or its machine does.
    Crash { power: bool, down_ms: u64 },
    /// It stands still.
    Pause { ms: u64 },
    /// An fsync fails, and it ends over that.
    SyncError { down_ms: u64 },
}

/// A strike that waits for its moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Armed {
    strike: Strike,
    at: Moment,
}

impl Cluster {
    /// Lets something strike a running process at a moment.
    pub(super) fn arm(&mut self, target: Target, at: Moment, strike: Strike) {
        let Some(host) = self.resolve_running(target) else {
            return;
        };
        match at {
            Moment::Now => self.strike(host, strike),
            Moment::Requested(_) | Moment::Durable(_) => self.hosts[host].armed = Some(Armed { strike, at }),
        }
    }

    fn strike(&mut self, host: usize, strike: Strike) {
        if self.has_logged_group(host) {
            self.counts.add(match strike {
                Strike::Pause { .. } => "pause_between_append_and_commit",
                Strike::Crash { .. } | Strike::SyncError { .. } => "crash_between_append_and_commit",
            });
        }
        match strike {
            Strike::Crash { power, down_ms } => self.crash(host, power, down_ms),
            Strike::Pause { ms } => self.pause(host, ms),
            Strike::SyncError { down_ms } => {
                self.counts.add("fsync_failed");
                self.crash(host, false, down_ms);
            }
        }
    }

    /// A record was just handed to the disk.
    pub(super) fn record_requested(&mut self, host: usize) {
        let due = self.due(host, |at| match at {
            Moment::Requested(left) => Some(left),
            Moment::Now | Moment::Durable(_) => None,
        });
        if let Some(strike) = due {
            self.counts.add(if matches!(strike, Strike::Pause { .. }) {
                "pause_mid_turn"
            } else {
                "crash_mid_persist"
            });
            self.strike(host, strike);
        }
    }

    /// A record is about to be durable: says whether the disk refuses it, and
    /// the process is gone.
    pub(super) fn sync_fails(&mut self, host: usize) -> bool {
        let fails = (self.hosts[host].armed)
            .is_some_and(|a| matches!(a.strike, Strike::SyncError { .. }) && a.at == Moment::Durable(0));
        if fails && let Some(armed) = self.hosts[host].armed.take() {
            self.strike(host, armed.strike);
        }
        fails
    }

    /// A record is durable, and nobody knows it yet. Afterwards the process may
    /// be gone, or stand still.
    pub(super) fn record_durable(&mut self, host: usize) {
        let due = self.due(host, |at| match at {
            Moment::Durable(left) => Some(left),
            Moment::Now | Moment::Requested(_) => None,
        });
        if let Some(strike) = due {
            self.counts.add(match strike {
                Strike::Pause { .. } => "pause_with_fsync_unheard",
                Strike::Crash { .. } | Strike::SyncError { .. } => "crash_with_fsync_unheard",
            });
            self.strike(host, strike);
        }
    }

    /// Counts down; gives the strike whose turn it is.
    fn due(&mut self, host: usize, left: impl Fn(&mut Moment) -> Option<&mut u32>) -> Option<Strike> {
        let left = left(&mut self.hosts[host].armed.as_mut()?.at)?;
        if *left > 0 {
            *left -= 1;
            return None;
        }
        self.hosts[host].armed.take().map(|armed| armed.strike)
    }

    /// A writer's group is in its log and not yet committed.
    fn has_logged_group(&self, host: usize) -> bool {
        self.hosts[host].process.as_ref().is_some_and(|p| p.group.as_ref().is_some_and(|g| g.logged.is_some()))
    }

    /// The process stands still from now on.
    fn pause(&mut self, host: usize, ms: u64) {
        let beyond = ms > self.plan.lease_ms();
        let Some(process) = self.hosts[host].process.as_mut().filter(|p| !p.paused) else {
            return;
        };
        process.paused = true;
        let (boot, writable) = (process.boot, process.pin.writable);
        if beyond {
            self.counts.add("pause_beyond_lease");
            if writable {
                self.counts.add("pause_writer_beyond_lease");
            }
        }
        self.record(|at, line| line.note(at, Some(host), "pause", format!("stands still for {ms} ms")));
        self.at(self.now.plus_ms(ms), super::Event::Resume { host, boot });
    }

    /// Carries out what a turn said, until the process is gone or stands still:
    /// what is left then never leaves, or leaves when it goes on.
    pub(super) fn carry_out(&mut self, host: usize, boot: u64, out: &mut Vec<Output>) -> Result<(), Failure> {
        let mut outputs = out.drain(..);
        for output in outputs.by_ref() {
            self.trace.line(self.now, &self.hosts[host].id, format_args!("-> {output:?}"));
            self.output(host, output)?;
            if self.process_of(host, boot).is_none_or(|p| p.paused) {
                break;
            }
        }
        if let Some(process) = self.hosts[host].process.as_mut().filter(|p| p.boot == boot && p.paused) {
            process.held.extend(outputs);
        }
        Ok(())
    }
}
