//! Fsyncs that fail, and the order of fsyncs and confirmations.
//!
//! SQLite's own VFS is wrapped: files of a watched directory count their
//! fsyncs and can be made to fail them. All other files pass untouched.

use super::*;
use rusqlite::ffi;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

/// One directory's fsyncs.
#[derive(Default)]
struct Syncs {
    wal: AtomicU64,
    main: AtomicU64,
    fail_wal: AtomicBool,
    fail_main: AtomicBool,
}

#[derive(Default)]
struct Watch {
    dirs: BTreeMap<PathBuf, Arc<Syncs>>,
    /// Open files by address: whose they are, and whether they are a WAL.
    files: BTreeMap<usize, (Arc<Syncs>, bool)>,
}

static WATCH: Mutex<Option<Watch>> = Mutex::new(None);
static REAL: OnceLock<Real> = OnceLock::new();

struct Real {
    vfs: *mut ffi::sqlite3_vfs,
    /// The call that was replaced and the table it was replaced in: one for
    /// the database, which has locks, and one for the WAL, which has none.
    methods: [OnceLock<(usize, ffi::sqlite3_io_methods)>; 2],
}

// SAFETY: the VFS found at start lives as long as the process and is only
// called through, as SQLite itself does from any thread.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

/// Counts, and fails when told to, the fsyncs of `log.db` in `dir`.
fn watch(dir: &Path) -> Arc<Syncs> {
    REAL.get_or_init(|| {
        // SAFETY: the default VFS always exists; the copy is leaked, as
        // sqlite3_vfs_register demands; only its open call differs.
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
            let mut copy = *vfs;
            copy.zName = c"watched".as_ptr();
            copy.pNext = std::ptr::null_mut();
            copy.xOpen = Some(open_watched);
            assert_eq!(ffi::sqlite3_vfs_register(Box::into_raw(Box::new(copy)), 1), ffi::SQLITE_OK);
            Real { vfs, methods: [const { OnceLock::new() }; 2] }
        }
    });
    let dir = dir.canonicalize().expect("there");
    let syncs = Arc::new(Syncs::default());
    let mut watch = WATCH.lock().expect("not poisoned");
    watch.get_or_insert_default().dirs.insert(dir, syncs.clone());
    syncs
}

unsafe extern "C" fn open_watched(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let real = REAL.get().expect("set before it was registered");
    // SAFETY: the arguments are SQLite's own, passed on; `file` has the size
    // that the copied VFS asks for, which is the real one's.
    unsafe {
        let code = ((*real.vfs).xOpen.expect("every VFS opens"))(real.vfs, name, file, flags, out);
        if code != ffi::SQLITE_OK || name.is_null() {
            return code;
        }
        let path = PathBuf::from(CStr::from_ptr(name).to_string_lossy().into_owned());
        let mut watch = WATCH.lock().expect("not poisoned");
        let watch = watch.get_or_insert_default();
        let syncs = path.parent().and_then(|dir| watch.dirs.get(dir)).cloned();
        if let (Some(syncs), true) = (syncs, flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_DB) != 0) {
            let wal = flags & ffi::SQLITE_OPEN_WAL != 0;
            watch.files.insert(file as usize, (syncs, wal));
            let (_, methods) = real.methods[usize::from(wal)].get_or_init(|| {
                let mut methods = *(*file).pMethods;
                let sync = methods.xSync.expect("every file syncs");
                methods.xSync = Some(sync_watched);
                (sync as usize, methods)
            });
            (*file).pMethods = methods;
        }
        code
    }
}

unsafe extern "C" fn sync_watched(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    let known = WATCH.lock().expect("not poisoned").as_ref().and_then(|w| w.files.get(&(file as usize)).cloned());
    let (syncs, wal) = known.expect("only watched files have this call");
    let tables = &REAL.get().expect("set before it was called").methods;
    let (real, _) = tables[usize::from(wal)].get().expect("set when the file was opened");
    let (count, fail) = if wal { (&syncs.wal, &syncs.fail_wal) } else { (&syncs.main, &syncs.fail_main) };
    count.fetch_add(1, Ordering::SeqCst);
    if fail.load(Ordering::SeqCst) {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    // SAFETY: it is the address of the call that was replaced, with its type.
    unsafe {
        let sync: unsafe extern "C" fn(*mut ffi::sqlite3_file, c_int) -> c_int = std::mem::transmute(*real);
        sync(file, flags)
    }
}

/// No confirmation without an fsync of its own before it.
#[test]
fn persisted_is_said_after_the_fsync() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let syncs = watch(dir.path());
    let at_confirmation: Arc<Mutex<Vec<u64>>> = Arc::default();
    let (sink, counter) = (at_confirmation.clone(), syncs.clone());
    let log = open(env, dir.path(), LIMITS, move |event| {
        if let NodeEvent::Persisted(_) = event {
            sink.lock().expect("not poisoned").push(counter.wal.load(Ordering::SeqCst));
        }
    });
    let mut log = log.expect("opens");
    log.recovered(Position::START, ContentHash(1), None).expect("recovers");
    let mut worker = log.into_worker().expect("starts");
    let mut prev = Position::START;
    let mut before = Vec::new();
    for id in 1..=20 {
        let entries = chain(prev, 1, 3);
        prev = ends(&entries);
        before.push(syncs.wal.load(Ordering::SeqCst));
        worker.run(&mut [LogJob::Persist { id, record: Record::Append { keep: None, entries } }].into());
    }
    let after = at_confirmation.lock().expect("not poisoned");
    assert_eq!(after.len(), 20);
    assert!(before.iter().zip(after.iter()).all(|(before, after)| after > before), "{before:?} {after:?}");
}

/// The second fsync after a failed one may succeed and mean nothing: there is
/// no second one (R11).
#[test]
fn a_failed_fsync_is_fatal_and_never_repeated() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let syncs = watch(dir.path());
    let (mut log, found) = Log::start(&env, dir.path(), Position::START);
    let all = chain(Position::START, 1, 20);
    log.append(None, &all[..10]);
    syncs.fail_wal.store(true, Ordering::SeqCst);
    let jobs = [
        log.persist(Record::Append { keep: None, entries: all[10..].to_vec() }),
        log.persist(Record::HardState(HardState { term: Term(9), ..found.hard })),
    ];
    log.run(jobs);
    assert!(log.fatal().is_some());
    assert_eq!(log.persisted(), Some(1), "neither the record nor the one behind it");
    syncs.fail_wal.store(false, Ordering::SeqCst);
    let count = || (syncs.wal.load(Ordering::SeqCst), syncs.main.load(Ordering::SeqCst));
    let known = count();
    log.tick(Duration::from_secs(60));
    log.run([LogJob::Trim { below: Seq(5) }]);
    assert!(log.ask(|reply| LogJob::BeginInstall { position: ends(&all), keep_log: false, reply }).is_err());
    assert_eq!(log.persisted(), Some(1));
    drop(log);
    assert_eq!(count(), known, "not even to close it");
    let found = recover(&env, dir.path(), all[4].position());
    assert!(!found.amnesia);
    assert_eq!(found.tail[..10], positions(&all[..10]));
}

/// A checkpoint's fsync counts as well: SQLite's automatic one would swallow
/// its failure.
#[test]
fn a_failed_checkpoint_is_fatal() {
    let env = Still::new();
    let dir = tempfile::tempdir().expect("temp dir");
    let syncs = watch(dir.path());
    let (mut log, _) = Log::start(&env, dir.path(), Position::START);
    let known = syncs.main.load(Ordering::SeqCst);
    syncs.fail_main.store(true, Ordering::SeqCst);
    let all = chain_of(Position::START, 1, 600, |_| Bytes::from(vec![1; 9000]));
    for some in all.chunks(100) {
        if log.fatal().is_none() {
            let entries = some.to_vec();
            let job = log.persist(Record::Append { keep: None, entries });
            log.run([job]);
        }
    }
    assert!(log.fatal().is_some());
    syncs.fail_main.store(false, Ordering::SeqCst);
    log.tick(Duration::from_secs(60));
    let confirmed = log.id;
    assert_eq!(log.persisted(), Some(confirmed), "what was fsynced into the WAL is durable");
    drop(log);
    assert_eq!(syncs.main.load(Ordering::SeqCst), known + 1, "not tried again, not even to close it");
    let kept = recover(&env, dir.path(), Position::START).tail;
    assert_eq!(kept, positions(&all[..kept.len()]));
    assert_eq!(kept.len(), confirmed as usize * 100);
}
