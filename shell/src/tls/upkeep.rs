//! Files that were replaced, and certificates that expire.
//!
//! Decides when the files are read again and when a coming expiry is said
//! aloud (RELIABILITY 6.1). What the files must hold is `material`'s business.

use super::{Reloaded, Tls};
use crate::env::Env;
use crate::http::date_time;
use crate::metrics::Stats;
use base_ha_core::time::WallTime;
use std::sync::Arc;
use std::time::Duration;

/// How often files and expiry are looked at. Small files, and nobody renews a
/// certificate more often than once in hours.
const EVERY: Duration = Duration::from_secs(60);
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// How near the first expiry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Far,
    Within30Days,
    Within7Days,
    Within1Day,
    Over,
}

impl Stage {
    fn of(now: WallTime, expires: WallTime) -> Self {
        match expires.0.saturating_sub(now.0) {
            0 => Self::Over,
            left if left <= DAY_MS => Self::Within1Day,
            left if left <= 7 * DAY_MS => Self::Within7Days,
            left if left <= 30 * DAY_MS => Self::Within30Days,
            _ => Self::Far,
        }
    }
}

/// Looks after the files each minute, and at once when told to; never ends.
pub(crate) async fn run<E: Env>(env: E, tls: Tls, stats: Arc<Stats>) {
    let mut stage = Stage::Far;
    let mut refused = None;
    loop {
        stage = look(&env, &tls, &stats, stage);
        let told = tokio::select! {
            () = tokio::time::sleep(EVERY) => false,
            () = env.told_to_reload() => true,
        };
        let again = tls.clone();
        match env.blocking(move || again.reload()).await {
            Reloaded::Same if told && refused.is_none() => tracing::info!("the TLS files are what they were"),
            Reloaded::Same => {}
            Reloaded::Renewed => {
                refused = None;
                stats.tls.renewed.add(1);
                tracing::info!("the TLS files changed: new connections use what they hold now");
            }
            Reloaded::Unfit(reason) => {
                // Once for each reason: this comes every minute.
                if told || refused.as_ref() != Some(&reason) {
                    tracing::warn!(reason, "the TLS files changed and are not fit: what they held before stays in use");
                }
                refused = Some(reason);
            }
        }
    }
}

fn look<E: Env>(env: &E, tls: &Tls, stats: &Stats, before: Stage) -> Stage {
    let (now, expires) = (env.now().wall, tls.identity().expires);
    stats.tls.expires.set(expires.0 / 1_000);
    let stage = Stage::of(now, expires);
    if stage != before {
        let (date, days) = (date_time(expires), expires.0.saturating_sub(now.0) / DAY_MS);
        match stage {
            Stage::Far => {}
            Stage::Over => {
                tracing::error!(expired = date, "a TLS certificate has expired: peers and clients refuse this node");
            }
            _ => tracing::warn!(
                expires = date,
                days,
                "a TLS certificate expires soon: replace the files, no restart is needed"
            ),
        }
    }
    stage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_said_at_30_7_and_1_days() {
        let now = WallTime(1_700_000_000_000);
        let stage = |days: u64, ms: u64| Stage::of(now, WallTime(now.0 + days * DAY_MS + ms));
        assert_eq!(stage(31, 0), Stage::Far);
        assert_eq!((stage(30, 1), stage(30, 0)), (Stage::Far, Stage::Within30Days));
        assert_eq!((stage(7, 1), stage(7, 0)), (Stage::Within30Days, Stage::Within7Days));
        assert_eq!((stage(1, 1), stage(1, 0)), (Stage::Within7Days, Stage::Within1Day));
        assert_eq!((stage(0, 1), stage(0, 0)), (Stage::Within1Day, Stage::Over));
    }
}
