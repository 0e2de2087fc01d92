//! What SQLite takes for the world on one thread: its clock, its chance, and
//! the disks that paths lead to.
//!
//! Decides that a run, which lives on one thread from start to end, depends on
//! nothing that another thread does. SQLite has one generator of random numbers
//! a process; a thread that has a seed makes it ask for a new seed before each
//! draw, and answers with numbers of its own. Knows nothing of files.

use super::sqlite::before;
use crate::prng::Prng;
use rusqlite::ffi;
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int};
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

thread_local! {
    /// Milliseconds since 1970, on threads that simulate.
    static WALL: Cell<Option<u64>> = const { Cell::new(None) };
    /// Where SQLite's random numbers come from, on threads that run a seed.
    static RANDOM: RefCell<Option<Prng>> = const { RefCell::new(None) };
    /// Which disks are meant by a path; 0 for those that all threads share.
    static SPACE: Cell<u64> = const { Cell::new(0) };
    /// SQLite's generator is being emptied by this thread, which holds its mutex.
    static EMPTYING: Cell<bool> = const { Cell::new(false) };
}

/// A run has this thread's SQLite for itself, until this is dropped: random
/// numbers follow from its seed, and its disks' names are its own.
#[derive(Debug)]
pub struct ThreadOfRun(PhantomData<*const ()>);

impl ThreadOfRun {
    /// The run with this seed begins on this thread.
    ///
    /// # Panics
    /// If another run is on it, or SQLite was not prepared before `main`.
    pub fn enter(seed: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        assert!(WRAPPED.load(Ordering::Relaxed), "SQLite's mutexes are wrapped before anything uses them");
        let before = RANDOM.replace(Some(Prng::named(seed, "sqlite")));
        assert!(before.is_none(), "a thread runs one seed at a time");
        SPACE.set(NEXT.fetch_add(1, Ordering::Relaxed));
        Self(PhantomData)
    }
}

impl Drop for ThreadOfRun {
    fn drop(&mut self) {
        RANDOM.set(None);
        SPACE.set(0);
        WALL.set(None);
    }
}

/// What SQLite's `'now'` is on this thread from now on, in milliseconds since
/// 1970; with a clock, SQLite's sleeps take no time on it. `None` gives the real
/// clock back.
pub fn set_wall_clock(millis: Option<u64>) {
    WALL.set(millis);
}

/// Whose disks this thread's paths lead to.
pub(super) fn space() -> u64 {
    SPACE.get()
}

/// SQLite's own mutexes, and the one that guards its random numbers.
struct Plain {
    methods: ffi::sqlite3_mutex_methods,
    random: *mut ffi::sqlite3_mutex,
}

// SAFETY: functions, and the address of a static mutex, which are valid on any
// thread for as long as the process.
unsafe impl Send for Plain {}
// SAFETY: as above.
unsafe impl Sync for Plain {}

static PLAIN: OnceLock<Plain> = OnceLock::new();
static WRAPPED: AtomicBool = AtomicBool::new(false);

/// Called by the loader: mutexes can only be configured while nothing is open.
#[used]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static BEFORE_MAIN: extern "C" fn() = wrap_mutexes;

/// Puts [`enter`] and [`leave`] before SQLite's own.
extern "C" fn wrap_mutexes() {
    // SAFETY: no other thread exists yet, so nothing is open while SQLite is shut
    // down, which it must be to be configured; its methods are known only after
    // it was up. They stay valid, and it copies what it is given.
    unsafe {
        let mut methods: ffi::sqlite3_mutex_methods = std::mem::zeroed();
        let told = ffi::sqlite3_initialize() == ffi::SQLITE_OK
            && ffi::sqlite3_shutdown() == ffi::SQLITE_OK
            && ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMUTEX, &raw mut methods) == ffi::SQLITE_OK;
        let Some(alloc) = methods.xMutexAlloc.filter(|_| told) else { return };
        let random = alloc(ffi::SQLITE_MUTEX_STATIC_PRNG);
        // Before they can be called; nobody else sets it.
        let _ = PLAIN.set(Plain { methods, random });
        methods.xMutexEnter = Some(enter);
        methods.xMutexLeave = Some(leave);
        WRAPPED.store(
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_MUTEX, &raw mut methods) == ffi::SQLITE_OK,
            Ordering::Relaxed,
        );
    }
}

fn plain() -> &'static Plain {
    PLAIN.get().expect("set before SQLite calls")
}

unsafe extern "C" fn enter(mutex: *mut ffi::sqlite3_mutex) {
    let plain = plain();
    let is_random = mutex == plain.random;
    if is_random && EMPTYING.get() {
        return;
    }
    // SAFETY: SQLite's own argument, given to its own function. The call of
    // `sqlite3_randomness` enters this mutex again, which is skipped above: it
    // is held.
    unsafe {
        (plain.methods.xMutexEnter.expect("every mutex can be entered"))(mutex);
        if is_random && RANDOM.with_borrow(Option::is_some) {
            EMPTYING.set(true);
            ffi::sqlite3_randomness(0, std::ptr::null_mut());
            EMPTYING.set(false);
        }
    }
}

unsafe extern "C" fn leave(mutex: *mut ffi::sqlite3_mutex) {
    let plain = plain();
    if mutex == plain.random && EMPTYING.get() {
        return;
    }
    // SAFETY: SQLite's own argument, given to its own function.
    unsafe { (plain.methods.xMutexLeave.expect("every mutex can be left"))(mutex) }
}

/// The VFS's randomness: what SQLite seeds its generator with.
pub(super) unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, amount: c_int, out: *mut c_char) -> c_int {
    let drawn = RANDOM.with_borrow_mut(|random| {
        let Some(random) = random else { return false };
        // SAFETY: SQLite's own arguments: a buffer of `amount` bytes.
        let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), amount.max(0) as usize) };
        for chunk in out.chunks_mut(8) {
            let bits = random.bits().to_le_bytes();
            chunk.copy_from_slice(&bits[..chunk.len()]);
        }
        true
    });
    if drawn {
        return amount;
    }
    // SAFETY: the VFS before is asked as SQLite would.
    unsafe {
        let vfs = before();
        (*vfs).xRandomness.expect("every VFS is random")(vfs, amount, out)
    }
}

/// The VFS's sleep.
pub(super) unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
    if WALL.get().is_some() {
        return micros;
    }
    // SAFETY: the VFS before is asked as SQLite would.
    unsafe {
        let vfs = before();
        (*vfs).xSleep.expect("every VFS sleeps")(vfs, micros)
    }
}

/// Milliseconds from the beginning of the Julian calendar to 1970.
const JULIAN_1970: i64 = 210_866_760_000_000;

/// The VFS's clock.
pub(super) unsafe extern "C" fn current_time_int64(_: *mut ffi::sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: a place for the answer; the VFS before is asked as SQLite would.
    unsafe {
        match WALL.get() {
            Some(millis) => {
                *out = i64::try_from(millis).unwrap_or(i64::MAX - JULIAN_1970) + JULIAN_1970;
                ffi::SQLITE_OK
            }
            None => {
                let vfs = before();
                (*vfs).xCurrentTimeInt64.expect("SQLite's own has it")(vfs, out)
            }
        }
    }
}

/// The VFS's clock, for who wants days.
pub(super) unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    let mut millis = 0;
    // SAFETY: two places for answers.
    unsafe {
        let code = current_time_int64(vfs, &mut millis);
        *out = millis as f64 / 86_400_000.0;
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{VirtualDisk, register};
    use rusqlite::Connection;

    #[test]
    fn a_threads_clock_is_sqlites() {
        register();
        let conn = Connection::open_in_memory().expect("opens");
        set_wall_clock(Some(86_400_000));
        let now: String = conn.query_row("SELECT datetime('now')", [], |row| row.get(0)).expect("told");
        set_wall_clock(None);
        assert_eq!(now, "1970-01-02 00:00:00");
    }

    fn drawn(draws: usize) -> Vec<i64> {
        register();
        let conn = Connection::open_in_memory().expect("opens");
        (0..draws).map(|_| conn.query_row("SELECT random()", [], |row| row.get(0)).expect("drawn")).collect()
    }

    #[test]
    fn a_seeds_random_numbers_do_not_depend_on_other_threads() {
        let of = |seed: u64| {
            let _run = ThreadOfRun::enter(seed);
            drawn(2000)
        };
        let alone = of(1);
        let (beside, other) = std::thread::scope(|scope| {
            let threads = (scope.spawn(|| of(1)), scope.spawn(|| of(2)), scope.spawn(|| drawn(2000)));
            (threads.0.join().expect("ended"), threads.1.join().expect("ended"))
        });
        assert_eq!(alone, beside);
        assert_ne!(alone, other);
        let distinct: std::collections::BTreeSet<i64> = alone.iter().copied().collect();
        assert_eq!(distinct.len(), alone.len());
        assert_ne!(drawn(10), drawn(10), "without a seed nothing repeats");
    }

    #[test]
    fn runs_may_call_their_disks_alike() {
        let write = |n: i64| {
            let _run = ThreadOfRun::enter(0);
            let disk = VirtualDisk::new("alike");
            let conn = Connection::open(disk.root().join("x.db")).expect("opens");
            conn.execute_batch(&format!("CREATE TABLE t(a); INSERT INTO t VALUES ({n})")).expect("written");
            conn.query_row("SELECT sum(a) FROM t", [], |row| row.get::<_, i64>(0)).expect("read")
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || write(n))).collect();
            for (n, thread) in threads.into_iter().enumerate() {
                assert_eq!(thread.join().expect("ended"), n as i64);
            }
        });
    }
}
