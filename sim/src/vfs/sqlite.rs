//! SQLite on a simulated disk: a VFS.
//!
//! Decides how SQLite's calls become the disk's operations. It becomes the
//! process's default VFS, so that the shell opens its databases as always: paths
//! below the disks' mount point come here, all others go on to the VFS that was
//! the default before.
//!
//! It does what SQLite's unix VFS does where durability is concerned: a new
//! journal's or WAL's directory is synced with the first sync of the file, a
//! deletion's when SQLite asks for it, a new database's never.
//!
//! Time, sleep and randomness have no file and so no disk: they are those of the
//! thread that calls, and in `thread`.

use super::disk::{Boot, MOUNT, OpenId, Trouble, VirtualDisk};
use super::image::{FileId, Op};
use super::locks::{Level, Shared};
use super::thread::{current_time, current_time_int64, randomness, sleep};
use rusqlite::ffi;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

/// An open file as SQLite carries it: the table of calls, then ours.
#[repr(C)]
struct Opened {
    base: ffi::sqlite3_file,
    handle: *mut Handle,
}

/// What we know of an open file.
struct Handle {
    disk: VirtualDisk,
    boot: Boot,
    file: FileId,
    id: OpenId,
    path: String,
    level: Level,
    /// A journal or WAL that was just made: its name is not durable yet.
    sync_dir: bool,
    delete_on_close: bool,
    shared: Option<Arc<Shared>>,
}

/// The VFS that was the default before.
struct Before(*mut ffi::sqlite3_vfs);

// SAFETY: a registered VFS lives as long as the process, and SQLite itself
// calls it from any thread.
unsafe impl Send for Before {}
// SAFETY: as above.
unsafe impl Sync for Before {}

static BEFORE: OnceLock<Before> = OnceLock::new();

/// Makes this VFS the process's default; once.
pub fn register() {
    BEFORE.get_or_init(|| {
        // SAFETY: the default VFS always exists and is copied, field by field;
        // the copy is leaked, as `sqlite3_vfs_register` demands. Version 2 hides
        // the system calls of the original, which would not be ours to replace.
        unsafe {
            let before = ffi::sqlite3_vfs_find(std::ptr::null());
            assert!(!before.is_null(), "SQLite has a default VFS");
            let mut vfs = *before;
            vfs.iVersion = 2;
            vfs.szOsFile = vfs.szOsFile.max(size_of::<Opened>() as c_int);
            vfs.zName = c"base-ha-simulated".as_ptr();
            vfs.pNext = std::ptr::null_mut();
            vfs.xOpen = Some(open);
            vfs.xDelete = Some(delete);
            vfs.xAccess = Some(access);
            vfs.xFullPathname = Some(full_pathname);
            vfs.xRandomness = Some(randomness);
            vfs.xSleep = Some(sleep);
            vfs.xCurrentTime = Some(current_time);
            vfs.xCurrentTimeInt64 = Some(current_time_int64);
            let code = ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 1);
            assert_eq!(code, ffi::SQLITE_OK, "SQLite takes the VFS");
            Before(before)
        }
    });
}

/// The calls of an open file. Version 2: shared memory, no memory mapping.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(raise),
    xUnlock: Some(lower),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Runs a callback's body. A panic must not unwind into C: the call fails
/// instead, and the panic's own message has been printed.
fn guarded(body: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(ffi::SQLITE_IOERR)
}

/// The code for a trouble; `io` is the one that says which call failed.
fn code(trouble: Trouble, io: c_int) -> c_int {
    match trouble {
        Trouble::Dead | Trouble::Io => io,
        Trouble::Full => ffi::SQLITE_FULL,
        Trouble::Missing | Trouble::Exists => ffi::SQLITE_CANTOPEN,
    }
}

fn done(result: Result<FileId, Trouble>, io: c_int) -> c_int {
    result.map_or_else(|trouble| code(trouble, io), |_| ffi::SQLITE_OK)
}

/// The handle of an open file.
///
/// # Safety
/// `file` was opened by [`open`] on a simulated disk and not closed since;
/// SQLite makes one call at a time on it.
unsafe fn handle<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Handle {
    // SAFETY: by this function's contract; `Opened` begins with the base.
    unsafe { &mut *(*file.cast::<Opened>()).handle }
}

/// A path that leads to a simulated disk.
///
/// # Safety
/// `name` is null or NUL-terminated.
unsafe fn simulated(name: *const c_char) -> Option<String> {
    if name.is_null() {
        return None;
    }
    // SAFETY: by this function's contract.
    let path = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
    path.strip_prefix(MOUNT)?.starts_with('/').then(|| path.to_owned())
}

/// The VFS that was the default before; set when this one is.
pub(super) fn before() -> *mut ffi::sqlite3_vfs {
    BEFORE.get().expect("set before SQLite calls").0
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's own arguments. `file` has `szOsFile` bytes, which is
    // enough for either VFS's structure.
    unsafe {
        let Some(path) = simulated(name) else {
            let vfs = before();
            return (*vfs).xOpen.expect("every VFS opens")(vfs, name, file, flags, out);
        };
        (*file).pMethods = std::ptr::null();
        guarded(|| {
            let Some((disk, path)) = VirtualDisk::find(&path) else { return ffi::SQLITE_CANTOPEN };
            let make = flags & ffi::SQLITE_OPEN_CREATE != 0;
            let opened = disk.boot().and_then(|boot| Ok((boot, disk.open(boot, &path, make)?)));
            let (boot, (id_of_file, id, made)) = match opened {
                Ok(opened) => opened,
                Err(Trouble::Full) => return ffi::SQLITE_FULL,
                Err(_) => return ffi::SQLITE_CANTOPEN,
            };
            let journal = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
            let opened = Handle {
                disk,
                boot,
                file: id_of_file,
                id,
                path,
                level: Level::None,
                sync_dir: made && flags & journal != 0,
                delete_on_close: flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0,
                shared: None,
            };
            let place = file.cast::<Opened>();
            (*place).handle = Box::into_raw(Box::new(opened));
            (*place).base.pMethods = &METHODS;
            if !out.is_null() {
                *out = flags;
            }
            ffi::SQLITE_OK
        })
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: an open file; the box was made by `open` and is taken back once,
    // for SQLite closes a file once.
    let handle = unsafe {
        let place = file.cast::<Opened>();
        (*place).base.pMethods = std::ptr::null();
        Box::from_raw((*place).handle)
    };
    guarded(|| {
        if let Some(shared) = &handle.shared {
            shared.forget(handle.id);
        }
        if handle.delete_on_close {
            // A file that nobody else knows: that it stays on a failing disk
            // harms nobody.
            let _ = handle.disk.change(handle.boot, Op::Remove { path: handle.path.clone() });
        }
        handle.disk.close(handle.boot, handle.file, handle.id);
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, into: *mut c_void, amount: c_int, at: i64) -> c_int {
    // SAFETY: an open file, and a buffer of `amount` bytes.
    let (handle, into) =
        unsafe { (handle(file), std::slice::from_raw_parts_mut(into.cast::<u8>(), amount.max(0) as usize)) };
    guarded(|| {
        let state = match handle.disk.read(handle.boot) {
            Ok(state) => state,
            Err(trouble) => return code(trouble, ffi::SQLITE_IOERR_READ),
        };
        let bytes = state.image.bytes(handle.file).unwrap_or_default();
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let n = into.len().min(bytes.len() - from);
        into[..n].copy_from_slice(&bytes[from..from + n]);
        into[n..].fill(0);
        if n == into.len() { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_SHORT_READ }
    })
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, amount: c_int, at: i64) -> c_int {
    // SAFETY: an open file, and a buffer of `amount` bytes.
    let (handle, from) =
        unsafe { (handle(file), std::slice::from_raw_parts(from.cast::<u8>(), amount.max(0) as usize)) };
    guarded(|| {
        let op = Op::Write { file: handle.file, at: at.max(0) as u64, bytes: from.into() };
        done(handle.disk.change(handle.boot, op), ffi::SQLITE_IOERR_WRITE)
    })
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    guarded(|| {
        let op = Op::Cut { file: handle.file, len: size.max(0) as u64 };
        done(handle.disk.change(handle.boot, op), ffi::SQLITE_IOERR_TRUNCATE)
    })
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    guarded(|| {
        let synced = done(handle.disk.change(handle.boot, Op::Sync { file: handle.file }), ffi::SQLITE_IOERR_FSYNC);
        if synced != ffi::SQLITE_OK || !handle.sync_dir {
            return synced;
        }
        handle.sync_dir = false;
        let op = Op::SyncDir { path: super::image::dir_of(&handle.path).to_owned() };
        done(handle.disk.change(handle.boot, op), ffi::SQLITE_IOERR_DIR_FSYNC)
    })
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: an open file and a place for the answer.
    let (handle, out) = unsafe { (handle(file), &mut *out) };
    guarded(|| match handle.disk.read(handle.boot) {
        Ok(state) => {
            *out = state.image.bytes(handle.file).unwrap_or_default().len() as i64;
            ffi::SQLITE_OK
        }
        Err(trouble) => code(trouble, ffi::SQLITE_IOERR_FSTAT),
    })
}

fn level(number: c_int) -> Level {
    match number {
        ffi::SQLITE_LOCK_NONE => Level::None,
        ffi::SQLITE_LOCK_SHARED => Level::Shared,
        ffi::SQLITE_LOCK_RESERVED => Level::Reserved,
        ffi::SQLITE_LOCK_PENDING => Level::Pending,
        _ => Level::Exclusive,
    }
}

unsafe extern "C" fn raise(file: *mut ffi::sqlite3_file, to: c_int) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    guarded(|| {
        // A dead process gets no lock: that is also what keeps its connections
        // from a last checkpoint when they are closed.
        if !matches!(handle.disk.boot(), Ok(boot) if boot == handle.boot) {
            return ffi::SQLITE_IOERR_LOCK;
        }
        let mut state = handle.disk.state();
        let locks = state.locks.entry(handle.file).or_default();
        let (reached, got) = locks.raise(handle.id, handle.level, level(to));
        handle.level = reached;
        if got { ffi::SQLITE_OK } else { ffi::SQLITE_BUSY }
    })
}

unsafe extern "C" fn lower(file: *mut ffi::sqlite3_file, to: c_int) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    guarded(|| {
        if handle.level > level(to) {
            handle.level = level(to);
            if let Some(locks) = handle.disk.state().locks.get_mut(&handle.file) {
                locks.lower(handle.id, level(to));
            }
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn check_reserved(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: an open file and a place for the answer.
    let (handle, out) = unsafe { (handle(file), &mut *out) };
    guarded(|| {
        *out = handle.disk.state().locks.get(&handle.file).is_some_and(|locks| locks.reserved()).into();
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    // What the unix VFS claims of every disk.
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE | ffi::SQLITE_IOCAP_SUBPAGE_READ
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    number: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: an open file and a place for the answer.
    let (handle, out) = unsafe { (handle(file), &mut *out) };
    guarded(|| {
        *out = std::ptr::null_mut();
        if !matches!(handle.disk.boot(), Ok(boot) if boot == handle.boot) {
            return ffi::SQLITE_IOERR_SHMMAP;
        }
        let shared =
            handle.shared.get_or_insert_with(|| handle.disk.state().shared.entry(handle.file).or_default().clone());
        if let Some(region) = shared.region(number.max(0) as usize, bytes.max(0) as usize, extend != 0) {
            *out = region.as_ptr().cast();
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: an open file.
    let handle = unsafe { handle(file) };
    guarded(|| {
        let Some(shared) = &handle.shared else { return ffi::SQLITE_IOERR_SHMLOCK };
        let slots = offset.max(0) as usize..(offset + n).max(0) as usize;
        if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
            shared.give(handle.id, slots);
            return ffi::SQLITE_OK;
        }
        if !matches!(handle.disk.boot(), Ok(boot) if boot == handle.boot) {
            return ffi::SQLITE_IOERR_SHMLOCK;
        }
        let exclusive = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
        if shared.take(handle.id, slots, exclusive) { ffi::SQLITE_OK } else { ffi::SQLITE_BUSY }
    })
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: an open file; SQLite uses none of the regions any more.
    let handle = unsafe { handle(file) };
    guarded(|| {
        if let Some(shared) = handle.shared.take() {
            shared.forget(handle.id);
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        let Some(path) = simulated(name) else {
            let vfs = before();
            return (*vfs).xDelete.expect("every VFS deletes")(vfs, name, sync_dir);
        };
        guarded(|| {
            let Some((disk, path)) = VirtualDisk::find(&path) else { return ffi::SQLITE_IOERR_DELETE_NOENT };
            let Ok(boot) = disk.boot() else { return ffi::SQLITE_IOERR_DELETE };
            let dir = super::image::dir_of(&path).to_owned();
            match disk.change(boot, Op::Remove { path }) {
                Ok(_) if sync_dir != 0 => {
                    done(disk.change(boot, Op::SyncDir { path: dir }), ffi::SQLITE_IOERR_DIR_FSYNC)
                }
                Ok(_) => ffi::SQLITE_OK,
                Err(Trouble::Missing) => ffi::SQLITE_IOERR_DELETE_NOENT,
                Err(_) => ffi::SQLITE_IOERR_DELETE,
            }
        })
    }
}

unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, name: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        let Some(path) = simulated(name) else {
            let vfs = before();
            return (*vfs).xAccess.expect("every VFS looks")(vfs, name, flags, out);
        };
        guarded(|| {
            *out = 0;
            let Some((disk, path)) = VirtualDisk::find(&path) else { return ffi::SQLITE_OK };
            let looked = disk.boot().and_then(|boot| disk.read(boot));
            let Ok(state) = looked else { return ffi::SQLITE_IOERR_ACCESS };
            let size = state.image.file(&path).and_then(|file| state.image.bytes(file)).map(<[u8]>::len);
            // As in the unix VFS: an empty file does not count as existing.
            let there = match flags {
                ffi::SQLITE_ACCESS_EXISTS => size.is_some_and(|size| size > 0) || state.image.is_dir(&path),
                _ => size.is_some() || state.image.is_dir(&path),
            };
            *out = there.into();
            ffi::SQLITE_OK
        })
    }
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite's own arguments; `out` has `room` bytes.
    unsafe {
        let Some(path) = simulated(name) else {
            let vfs = before();
            return (*vfs).xFullPathname.expect("every VFS names")(vfs, name, room, out);
        };
        if path.len() >= room.max(0) as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        std::ptr::copy_nonoverlapping(name, out, path.len() + 1);
        ffi::SQLITE_OK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{Fate, Fault, Harm};
    use rusqlite::Connection;

    fn open(disk: &VirtualDisk) -> Connection {
        let conn = Connection::open(disk.root().join("x.db")).expect("opens");
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL").expect("set");
        conn
    }

    fn count(conn: &Connection) -> i64 {
        conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("counted")
    }

    #[test]
    fn what_sqlite_committed_with_a_sync_survives_and_the_rest_need_not() {
        let disk = VirtualDisk::new("sqlite-survives");
        let conn = open(&disk);
        conn.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").expect("written");
        disk.files();
        base_ha::env::files::Files::sync_dir(&disk.files(), &disk.root()).expect("synced");
        conn.execute_batch("PRAGMA synchronous = NORMAL; INSERT INTO t VALUES (2)").expect("written");
        disk.crash(Fate::Lost);
        assert!(conn.execute_batch("INSERT INTO t VALUES (3)").is_err(), "a dead process writes nothing");
        disk.start();
        drop(conn);
        let conn = open(&disk);
        assert_eq!(count(&conn), 1);
    }

    /// Writes rows one by one and says before which operation each was begun and
    /// after which it was promised.
    fn five_rows(disk: &VirtualDisk, setup: &str) -> Vec<(u64, u64)> {
        let conn = Connection::open(disk.root().join("x.db")).expect("opens");
        conn.execute_batch(setup).expect("set");
        conn.execute_batch("CREATE TABLE IF NOT EXISTS t(a, b)").expect("made");
        base_ha::env::files::Files::sync_dir(&disk.files(), &disk.root()).expect("synced");
        let mut spans = Vec::new();
        for n in 0..5 {
            let begun = disk.ops();
            if conn.execute("INSERT INTO t VALUES (?1, zeroblob(3000))", [n]).is_ok() {
                spans.push((begun, disk.ops()));
            }
        }
        spans
    }

    fn rows_after(image: crate::vfs::Image) -> usize {
        let disk = VirtualDisk::with_image(&unique(), image);
        let conn = Connection::open(disk.root().join("x.db")).expect("opens");
        let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
        assert_eq!(sound, "ok");
        let there: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).expect("read");
        if there == 0 { 0 } else { count(&conn) as usize }
    }

    fn unique() -> String {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        format!("sqlite-{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    /// SQLite itself, in each of its ways: what it promised it keeps, whatever a
    /// crash leaves. If this fails, the disk is wrong and not SQLite.
    #[test]
    fn plain_sqlite_keeps_its_word_at_every_crash_point() {
        for setup in [
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
            "PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA",
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL",
        ] {
            let disk = VirtualDisk::new(&unique());
            let mut image = disk.image();
            disk.record();
            let spans = five_rows(&disk, setup);
            assert_eq!(spans.len(), 5);
            let trace = disk.take_trace();
            for k in 0..=trace.len() as u64 {
                let promised = spans.iter().filter(|(_, done)| *done <= k).count();
                let begun = spans.iter().filter(|(begun, _)| *begun < k).count();
                for fate in [Fate::Lost, Fate::Kept, Fate::Torn(k), Fate::Random(k), Fate::Random(!k)] {
                    let mut crashed = image.clone();
                    crashed.crash(fate);
                    let rows = rows_after(crashed);
                    assert!((promised..=begun).contains(&rows), "{setup}: {rows} rows before {k}, {fate:?}");
                }
                if let Some(op) = trace.get(k as usize) {
                    image.apply(op);
                }
            }
        }
    }

    /// The same with each operation failing once: a row that was promised after
    /// the failure is there as well.
    #[test]
    fn plain_sqlite_keeps_its_word_after_an_error() {
        let setup = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL";
        let (mut struck, mut promised_after) = (0, 0);
        for at in 0..40 {
            let disk = VirtualDisk::new(&unique());
            drop(Connection::open(disk.root().join("x.db")).and_then(|c| c.execute_batch("CREATE TABLE t(a, b)")));
            disk.inject(Fault { at: disk.ops() + 1 + at, harm: Harm::Io, lasting: false, reads: false });
            let before = disk.ops() + at;
            let spans = five_rows(&disk, setup);
            struck += disk.hits();
            promised_after += spans.iter().filter(|(begun, _)| *begun > before).count();
            let mut crashed = disk.image();
            crashed.crash(Fate::Lost);
            let rows = rows_after(crashed);
            assert!(rows >= spans.len(), "{rows} rows of {} that were promised; operation {at} failed", spans.len());
        }
        assert!(struck > 30 && promised_after > 30, "{struck} {promised_after}");
    }

    #[test]
    fn connections_share_an_index_and_see_each_others_commits() {
        let disk = VirtualDisk::new("sqlite-shares");
        let (one, two) = (open(&disk), open(&disk));
        one.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").expect("written");
        assert_eq!(count(&two), 1);
        two.execute_batch("BEGIN; SELECT * FROM t").expect("reads");
        one.execute_batch("INSERT INTO t VALUES (2)").expect("written");
        assert_eq!((count(&one), count(&two)), (2, 1), "a reader keeps its snapshot");
        one.execute_batch("BEGIN IMMEDIATE").expect("begun");
        two.execute_batch("COMMIT").expect("ended");
        two.busy_timeout(std::time::Duration::ZERO).expect("set");
        assert!(two.execute_batch("BEGIN IMMEDIATE").is_err(), "one writer at a time");
    }

    #[test]
    fn errors_and_a_full_disk_reach_sqlite_as_what_they_are() {
        let disk = VirtualDisk::new("sqlite-errors");
        let conn = open(&disk);
        conn.execute_batch("CREATE TABLE t(a)").expect("written");
        let code = |result: rusqlite::Result<()>| result.expect_err("failed").sqlite_error_code();
        disk.set_quota(Some(disk.used()));
        let full = code(conn.execute_batch("INSERT INTO t VALUES (zeroblob(100000))"));
        assert_eq!(full, Some(rusqlite::ErrorCode::DiskFull));
        disk.set_quota(None);
        conn.execute_batch("INSERT INTO t VALUES (1)").expect("there is room again");
        disk.inject(Fault { at: disk.ops(), harm: Harm::Io, lasting: true, reads: false });
        let io = code(conn.execute_batch("INSERT INTO t VALUES (2)"));
        assert_eq!(io, Some(rusqlite::ErrorCode::SystemIoFailure));
    }

    #[test]
    fn files_of_the_real_machine_stay_there() {
        register();
        let dir = std::env::temp_dir().join(format!("base-ha-sim-vfs-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        let path = dir.join("real.db");
        let conn = Connection::open(&path).expect("opens");
        conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(a)").expect("written");
        assert!(std::fs::metadata(&path).expect("there").len() > 0);
        drop(conn);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
