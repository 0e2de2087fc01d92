//! Waiting for what must come.
//!
//! Decides how often to look and when to give up.

use std::time::{Duration, Instant};

/// How long anything may take on a loaded machine before it counts as never.
pub const DEADLINE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` answers `Ok`.
///
/// # Panics
/// After [`DEADLINE`], with what the last look said.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    within(DEADLINE, what, look)
}

/// As [`eventually`], with a deadline of its own.
///
/// # Panics
/// After `limit`, with what the last look said.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if Instant::now() >= until => {
                panic!("not within {} s: {what}; the last look said: {last}", limit.as_secs())
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// `Ok` if it holds, else `what` it should be.
///
/// # Errors
/// `what`, if it does not hold.
pub fn holds(condition: bool, what: impl Into<String>) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what.into()) }
}
