//! SQLite as the store needs it: statements that own themselves, and the hooks.
//!
//! The only unsafe code of the store. Decides how SQLite's callbacks reach
//! [`Hooks`] and how its values are borrowed; what is done with either it does
//! not know. rusqlite opens and configures connections; it is bypassed where it
//! has no word (pre-update hook, deferred foreign keys) or swallows panics
//! (its hook wrappers drop them, and a capture that lost a row silently is the
//! one thing that must not happen).

use base_ha_core::wire::ValueRef;
use rusqlite::{Connection, OpenFlags, ffi};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::rc::Rc;

/// What SQLite said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The extended result code.
    pub(super) code: i32,
    /// Its message.
    pub(super) message: String,
}

impl Failure {
    /// The primary result code.
    pub(super) fn primary(&self) -> i32 {
        self.code & 0xff
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (SQLite {})", self.message, self.code)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error().map_or(ffi::SQLITE_ERROR, |e| e.extended_code);
        Self { code, message: error.to_string() }
    }
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowOp {
    /// It appears.
    Insert,
    /// It changes.
    Update,
    /// It goes away.
    Delete,
}

/// A row change that is about to happen, seen from inside the pre-update hook.
pub(super) struct RowEvent<'a> {
    db: *mut ffi::sqlite3,
    /// What.
    pub(super) op: RowOp,
    /// To which table.
    pub(super) table: &'a str,
    /// The rowid before; 0 for `WITHOUT ROWID`.
    pub(super) old_rowid: i64,
    /// The rowid after.
    pub(super) new_rowid: i64,
    borrow: PhantomData<&'a ()>,
}

impl RowEvent<'_> {
    /// A column's value before, by its declared place.
    ///
    /// # Errors
    /// SQLite's code: out of memory, or a virtual generated column.
    pub(super) fn before(&self, column: usize) -> Result<ValueRef<'_>, i32> {
        let mut value = ptr::null_mut();
        // SAFETY: the event exists only while SQLite runs the hook of `db`;
        // SQLite checks the index and the kind of event itself.
        let code = unsafe { ffi::sqlite3_preupdate_old(self.db, column as c_int, &mut value) };
        if code != ffi::SQLITE_OK || value.is_null() {
            return Err(code);
        }
        // SAFETY: SQLite keeps the value until the hook returns.
        Ok(unsafe { borrow_value(value) })
    }

    /// A column's value after, by its declared place.
    ///
    /// # Errors
    /// As [`RowEvent::before`].
    pub(super) fn after(&self, column: usize) -> Result<ValueRef<'_>, i32> {
        let mut value = ptr::null_mut();
        // SAFETY: as in `before`.
        let code = unsafe { ffi::sqlite3_preupdate_new(self.db, column as c_int, &mut value) };
        if code != ffi::SQLITE_OK || value.is_null() {
            return Err(code);
        }
        // SAFETY: as in `before`.
        Ok(unsafe { borrow_value(value) })
    }
}

/// Reads a value without copying it.
///
/// # Safety
/// `value` is live for `'a`, and nobody converts it meanwhile.
unsafe fn borrow_value<'a>(value: *mut ffi::sqlite3_value) -> ValueRef<'a> {
    // SAFETY: by this function's contract. The pointer is asked for before
    // the length, as SQLite prescribes.
    unsafe {
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_value_double(value)),
            ffi::SQLITE_TEXT => {
                let data = ffi::sqlite3_value_text(value);
                ValueRef::Text(slice(data, ffi::sqlite3_value_bytes(value)))
            }
            ffi::SQLITE_BLOB => {
                let data = ffi::sqlite3_value_blob(value);
                ValueRef::Blob(slice(data.cast(), ffi::sqlite3_value_bytes(value)))
            }
            _ => ValueRef::Null,
        }
    }
}

/// # Safety
/// `data` points to `len` bytes that live for `'a`, or is null.
unsafe fn slice<'a>(data: *const u8, len: c_int) -> &'a [u8] {
    match usize::try_from(len) {
        // SAFETY: by this function's contract.
        Ok(len) if len > 0 && !data.is_null() => unsafe { std::slice::from_raw_parts(data, len) },
        _ => &[],
    }
}

/// What the authorizer is asked, at each prepare and re-prepare.
#[derive(Clone, Copy, Debug)]
pub(super) struct Action<'a> {
    /// `SQLITE_READ`, `SQLITE_INSERT`, ...
    pub(super) code: i32,
    /// Its first particular, by code; often a table.
    pub(super) first: &'a str,
    /// Its second particular.
    pub(super) second: &'a str,
    /// There is a second, if an empty one.
    pub(super) second_given: bool,
    /// `main`, `temp`, ...
    pub(super) database: &'a str,
}

/// The authorizer's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may.
    Allow,
    /// The statement fails.
    Deny,
    /// The statement goes on without it.
    LeaveOut,
}

/// What SQLite calls back.
pub(super) trait Hooks: 'static {
    /// A row of `main` is about to change.
    fn row(&self, event: &RowEvent<'_>);
    /// A transaction is about to commit: may it?
    fn may_commit(&self) -> bool;
    /// A statement is being prepared that would do this: may it?
    fn judge(&self, action: Action<'_>) -> Verdict;
    /// Asked every few thousand steps of a statement: should it end?
    fn should_stop(&self) -> bool;
    /// A callback panicked: nothing that this connection captured is to be
    /// believed any more.
    fn poison(&self, why: &str);
}

/// A connection with its hooks.
pub(super) struct Conn<H: Hooks> {
    inner: Connection,
    hooks: Rc<H>,
}

/// Steps of SQLite's machine between two calls of [`Hooks::should_stop`].
const STEPS_BETWEEN_CHECKS: c_int = 2_000;

impl<H: Hooks> Conn<H> {
    /// Opens the file for reading and writing, creating it if it is missing,
    /// and installs the hooks.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn open(path: &Path, hooks: Rc<H>) -> Result<Self, Failure> {
        // One thread at a time uses the worker and all its statements: SQLite's
        // own mutex would only cost time.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let inner = Connection::open_with_flags(path, flags)?;
        let context = Rc::as_ptr(&hooks).cast_mut().cast::<c_void>();
        // SAFETY: `context` is kept alive by `hooks`, and `Drop` takes the
        // callbacks out before it goes.
        unsafe {
            let db = inner.handle();
            ffi::sqlite3_preupdate_hook(db, Some(on_row::<H>), context);
            ffi::sqlite3_commit_hook(db, Some(on_commit::<H>), context);
            ffi::sqlite3_set_authorizer(db, Some(on_action::<H>), context);
            ffi::sqlite3_progress_handler(db, STEPS_BETWEEN_CHECKS, Some(on_progress::<H>), context);
        }
        Ok(Self { inner, hooks })
    }

    /// The same, to be set up.
    pub(super) fn sql_mut(&mut self) -> &mut Connection {
        &mut self.inner
    }

    /// rusqlite's view of it.
    pub(super) fn sql(&self) -> &Connection {
        &self.inner
    }

    /// What it calls back.
    pub(super) fn hooks(&self) -> &H {
        &self.hooks
    }

    fn db(&self) -> *mut ffi::sqlite3 {
        // SAFETY: the handle is only used in this file and never closed.
        unsafe { self.inner.handle() }
    }

    /// Prepares the first statement of `sql`; `None` if there is none, only
    /// blanks and comments. Also says how many bytes it took.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn prepare(&self, sql: &str) -> Result<(Option<Stmt>, usize), Failure> {
        let too_long = || Failure { code: ffi::SQLITE_TOOBIG, message: "the SQL text is too long".into() };
        let len = c_int::try_from(sql.len()).map_err(|_| too_long())?;
        let mut raw = ptr::null_mut();
        let mut tail: *const c_char = ptr::null();
        let start = sql.as_ptr().cast::<c_char>();
        // SAFETY: `start` has `len` bytes; SQLite stops at a NUL or at `len`.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(self.db(), start, len, ffi::SQLITE_PREPARE_PERSISTENT, &mut raw, &mut tail)
        };
        if code != ffi::SQLITE_OK {
            return Err(self.failure(code));
        }
        let consumed = if tail.is_null() { sql.len() } else { tail as usize - start as usize };
        // A tail that is not at a character's border would be SQLite's fault;
        // it ends statements at ASCII only.
        assert!(sql.is_char_boundary(consumed), "a statement ends within a character");
        Ok((NonNull::new(raw).map(|raw| Stmt { raw }), consumed))
    }

    /// Where in the text the last prepare failed, in bytes, if SQLite can tell.
    pub(super) fn error_offset(&self) -> Option<usize> {
        // SAFETY: the handle is open.
        let offset = unsafe { ffi::sqlite3_error_offset(self.db()) };
        usize::try_from(offset).ok()
    }

    /// Prepares a statement of the store's own.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn prepare_one(&self, sql: &str) -> Result<Stmt, Failure> {
        let none = || Failure { code: ffi::SQLITE_MISUSE, message: format!("no statement in {sql:?}") };
        self.prepare(sql)?.0.ok_or_else(none)
    }

    /// The last call's failure.
    fn failure(&self, code: i32) -> Failure {
        failure(self.db(), code)
    }

    /// Whether a transaction is open.
    pub(super) fn in_transaction(&self) -> bool {
        // SAFETY: a live handle.
        unsafe { ffi::sqlite3_get_autocommit(self.db()) == 0 }
    }

    /// Whether deferred foreign keys are violated at this moment.
    pub(super) fn deferred_violation(&self) -> bool {
        let (mut now, mut peak) = (0, 0);
        // SAFETY: a live handle and two places to write to.
        let code =
            unsafe { ffi::sqlite3_db_status(self.db(), ffi::SQLITE_DBSTATUS_DEFERRED_FKS, &mut now, &mut peak, 0) };
        code != ffi::SQLITE_OK || now != 0
    }

    /// Rows changed by the last INSERT, UPDATE or DELETE itself.
    pub(super) fn changes(&self) -> u64 {
        // SAFETY: a live handle.
        u64::try_from(unsafe { ffi::sqlite3_changes64(self.db()) }).unwrap_or(0)
    }

    /// The last inserted rowid.
    pub(super) fn last_insert_rowid(&self) -> i64 {
        // SAFETY: a live handle.
        unsafe { ffi::sqlite3_last_insert_rowid(self.db()) }
    }

    /// Makes the next request not see the last one's rowid.
    pub(super) fn reset_last_insert_rowid(&self) {
        // SAFETY: a live handle.
        unsafe { ffi::sqlite3_set_last_insert_rowid(self.db(), 0) };
    }
}

impl<H: Hooks> Drop for Conn<H> {
    fn drop(&mut self) {
        let db = self.db();
        // SAFETY: a live handle. A statement that outlives this connection
        // keeps SQLite's handle open (sqlite3_close refuses then), so the
        // callbacks must not be left behind.
        unsafe {
            ffi::sqlite3_preupdate_hook(db, None, ptr::null_mut());
            ffi::sqlite3_commit_hook(db, None, ptr::null_mut());
            ffi::sqlite3_set_authorizer(db, None, ptr::null_mut());
            ffi::sqlite3_progress_handler(db, 0, None, ptr::null_mut());
        }
    }
}

fn failure(db: *mut ffi::sqlite3, code: i32) -> Failure {
    // SAFETY: a live handle; the message is copied before any other call.
    let message = unsafe { text(ffi::sqlite3_errmsg(db)) }.to_owned();
    Failure { code, message }
}

/// # Safety
/// `data` is null or NUL-terminated and lives for `'a`.
unsafe fn text<'a>(data: *const c_char) -> &'a str {
    if data.is_null() {
        return "";
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(data) }.to_str().unwrap_or("\u{fffd}")
}

/// A prepared statement. It finalizes itself.
pub(super) struct Stmt {
    raw: NonNull<ffi::sqlite3_stmt>,
}

impl Drop for Stmt {
    fn drop(&mut self) {
        // SAFETY: prepared in this file and finalized once. Its connection is
        // alive: SQLite does not close one that has statements.
        unsafe { ffi::sqlite3_finalize(self.raw.as_ptr()) };
    }
}

impl Stmt {
    fn raw(&self) -> *mut ffi::sqlite3_stmt {
        self.raw.as_ptr()
    }

    fn check(&self, code: i32) -> Result<(), Failure> {
        match code {
            ffi::SQLITE_OK => Ok(()),
            // SAFETY: a live statement has a live connection.
            code => Err(failure(unsafe { ffi::sqlite3_db_handle(self.raw()) }, code)),
        }
    }

    /// Binds a copy of `value` to the parameter at `index`, from 1.
    ///
    /// # Errors
    /// What SQLite says: no such parameter, too big.
    pub(super) fn bind(&mut self, index: usize, value: ValueRef<'_>) -> Result<(), Failure> {
        let raw = self.raw();
        let index = index as c_int;
        let copy = ffi::SQLITE_TRANSIENT();
        // SAFETY: a live statement; lengths are those of the slices, and
        // SQLite copies them (SQLITE_TRANSIENT) before it returns.
        let code = unsafe {
            match value {
                ValueRef::Null => ffi::sqlite3_bind_null(raw, index),
                ValueRef::Integer(number) => ffi::sqlite3_bind_int64(raw, index, number),
                ValueRef::Real(number) => ffi::sqlite3_bind_double(raw, index, number),
                ValueRef::Text(bytes) => ffi::sqlite3_bind_text64(
                    raw,
                    index,
                    bytes.as_ptr().cast(),
                    bytes.len() as u64,
                    copy,
                    ffi::SQLITE_UTF8 as u8,
                ),
                ValueRef::Blob([]) => ffi::sqlite3_bind_zeroblob(raw, index, 0),
                ValueRef::Blob(bytes) => {
                    ffi::sqlite3_bind_blob64(raw, index, bytes.as_ptr().cast(), bytes.len() as u64, copy)
                }
            }
        };
        self.check(code)
    }

    /// Runs on to the next row; false at the end.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn step(&mut self) -> Result<bool, Failure> {
        // SAFETY: a live statement.
        match unsafe { ffi::sqlite3_step(self.raw()) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            code => {
                self.check(code)?;
                Ok(false)
            }
        }
    }

    /// Ends the run; bound values stay.
    pub(super) fn reset(&mut self) {
        // SAFETY: a live statement. The code repeats what `step` said.
        unsafe { ffi::sqlite3_reset(self.raw()) };
    }

    /// Forgets bound values.
    pub(super) fn clear(&mut self) {
        // SAFETY: a live statement.
        unsafe { ffi::sqlite3_clear_bindings(self.raw()) };
    }

    /// Runs to the end, ignoring rows, and resets.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn run(&mut self) -> Result<(), Failure> {
        let result = loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        self.reset();
        result
    }

    /// Binds by place, runs to the end, resets.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn run_with(&mut self, values: &[ValueRef<'_>]) -> Result<(), Failure> {
        for (n, value) in values.iter().enumerate() {
            self.bind(n + 1, *value)?;
        }
        self.run()
    }

    /// The integer in the first column of the first row, if there is a row.
    ///
    /// # Errors
    /// What SQLite says.
    pub(super) fn integer(&mut self) -> Result<Option<i64>, Failure> {
        let result = self.step().map(|row| match row {
            true => match self.column(0) {
                ValueRef::Integer(number) => Some(number),
                ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => None,
            },
            false => None,
        });
        self.reset();
        result
    }

    /// How many columns its rows have; 0 if it gives none.
    pub(super) fn column_count(&self) -> usize {
        // SAFETY: a live statement.
        unsafe { ffi::sqlite3_column_count(self.raw()) as usize }
    }

    /// A column's name.
    pub(super) fn column_name(&self, index: usize) -> &str {
        // SAFETY: a live statement; the name lives until it is prepared again,
        // which needs `&mut self`.
        unsafe { text(ffi::sqlite3_column_name(self.raw(), index as c_int)) }
    }

    /// A value of the row that [`Stmt::step`] is at.
    pub(super) fn column(&self, index: usize) -> ValueRef<'_> {
        let (raw, index) = (self.raw(), index as c_int);
        // SAFETY: a live statement; the value lives until the next step or
        // reset, which need `&mut self`. Out of range gives NULL.
        unsafe {
            match ffi::sqlite3_column_type(raw, index) {
                ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_column_int64(raw, index)),
                ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_column_double(raw, index)),
                ffi::SQLITE_TEXT => {
                    let data = ffi::sqlite3_column_text(raw, index);
                    ValueRef::Text(slice(data, ffi::sqlite3_column_bytes(raw, index)))
                }
                ffi::SQLITE_BLOB => {
                    let data = ffi::sqlite3_column_blob(raw, index);
                    ValueRef::Blob(slice(data.cast(), ffi::sqlite3_column_bytes(raw, index)))
                }
                _ => ValueRef::Null,
            }
        }
    }

    /// How many parameters it has.
    pub(super) fn parameter_count(&self) -> usize {
        // SAFETY: a live statement.
        unsafe { ffi::sqlite3_bind_parameter_count(self.raw()) as usize }
    }

    /// The name of the parameter at `index`, from 1, with its `:`, `@`, `$` or
    /// `?`; `None` for a bare `?`.
    pub(super) fn parameter_name(&self, index: usize) -> Option<&str> {
        // SAFETY: a live statement; the name lives as long.
        let name = unsafe { ffi::sqlite3_bind_parameter_name(self.raw(), index as c_int) };
        // SAFETY: NUL-terminated by SQLite.
        (!name.is_null()).then(|| unsafe { text(name) })
    }

    /// Its own text, without what follows it.
    pub(super) fn text(&self) -> &str {
        // SAFETY: a live statement; the text lives as long.
        unsafe { text(ffi::sqlite3_sql(self.raw())) }
    }

    /// Whether it is an EXPLAIN.
    pub(super) fn is_explain(&self) -> bool {
        // SAFETY: a live statement.
        unsafe { ffi::sqlite3_stmt_isexplain(self.raw()) != 0 }
    }
}

/// A value that moves between threads as a whole.
pub(super) struct Whole<T>(T);

// SAFETY: by the contract of `Whole::new`, nothing inside is reachable from
// another thread.
unsafe impl<T> Send for Whole<T> {}

impl<T> Whole<T> {
    /// Wraps it.
    ///
    /// # Safety
    /// `value` holds every statement of its connections and every clone of its
    /// `Rc`s, and never gives one out beyond a borrow of itself.
    pub(super) unsafe fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> std::ops::Deref for Whole<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> std::ops::DerefMut for Whole<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Whether the name is as SQLite needs it: no NUL within.
pub(super) fn is_name(name: &str) -> bool {
    CString::new(name).is_ok()
}

/// Runs a callback's body; a panic must not cross into C and must not be lost.
fn guarded<H: Hooks, R>(hooks: &H, otherwise: R, body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        hooks.poison("a callback of SQLite panicked");
        otherwise
    })
}

unsafe extern "C" fn on_row<H: Hooks>(
    context: *mut c_void,
    db: *mut ffi::sqlite3,
    op: c_int,
    database: *const c_char,
    table: *const c_char,
    old_rowid: i64,
    new_rowid: i64,
) {
    // SAFETY: `context` is what `Conn::open` gave, alive until `Conn` drops;
    // both texts live until this returns.
    let (hooks, database, table) = unsafe { (&*context.cast::<H>(), text(database), text(table)) };
    guarded(hooks, (), || {
        // Temporary tables are refused and nothing can be attached; VACUUM's
        // scratch database is not `main` either.
        if database != "main" {
            return;
        }
        let op = match op {
            ffi::SQLITE_INSERT => RowOp::Insert,
            ffi::SQLITE_UPDATE => RowOp::Update,
            _ => RowOp::Delete,
        };
        // SAFETY: SQLite runs the hook of `db` now.
        if unsafe { ffi::sqlite3_preupdate_blobwrite(db) } >= 0 {
            // The value after is not given; no blob handle is ever opened here.
            hooks.poison("an incremental blob write was seen");
            return;
        }
        hooks.row(&RowEvent { db, op, table, old_rowid, new_rowid, borrow: PhantomData });
    });
}

unsafe extern "C" fn on_commit<H: Hooks>(context: *mut c_void) -> c_int {
    // SAFETY: as in `on_row`.
    let hooks = unsafe { &*context.cast::<H>() };
    c_int::from(!guarded(hooks, false, || hooks.may_commit()))
}

unsafe extern "C" fn on_progress<H: Hooks>(context: *mut c_void) -> c_int {
    // SAFETY: as in `on_row`.
    let hooks = unsafe { &*context.cast::<H>() };
    c_int::from(guarded(hooks, true, || hooks.should_stop()))
}

unsafe extern "C" fn on_action<H: Hooks>(
    context: *mut c_void,
    code: c_int,
    first: *const c_char,
    second: *const c_char,
    database: *const c_char,
    _inner: *const c_char,
) -> c_int {
    // SAFETY: as in `on_row`.
    let hooks = unsafe { &*context.cast::<H>() };
    // SAFETY: the texts are null or live until this returns.
    let action = unsafe {
        Action {
            code,
            first: text(first),
            second: text(second),
            second_given: !second.is_null(),
            database: text(database),
        }
    };
    match guarded(hooks, Verdict::Deny, || hooks.judge(action)) {
        Verdict::Allow => ffi::SQLITE_OK,
        Verdict::Deny => ffi::SQLITE_DENY,
        Verdict::LeaveOut => ffi::SQLITE_IGNORE,
    }
}
