//! What a running request changes, caught as it happens.
//!
//! Decides how SQLite's callbacks become a change-set and a content hash, and
//! when the connection may not be believed or not commit. One [`Ctx`] belongs
//! to one connection at a time. Knows nothing of requests or of who asked.

use super::guard::{Caller, Ddl, Info, judge};
use super::hash::{self, Sums};
use super::schema::{Schema, Table, has_prefix, same};
use super::schema_sql::is_own;
use super::sys::{Action, Hooks, RowEvent, RowOp, Verdict};
use base_ha_core::entry::Entry;
use base_ha_core::time::MonoTime;
use base_ha_core::wire::{ChangeSetWriter, ValueRef};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What becomes of row events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Logged and hashed: a client's request runs.
    Log,
    /// Hashed only: entries are being applied.
    Hash,
    /// Neither: a virtual table is being made or dropped. Every node's own
    /// statement does that again, and the tables are hashed afterwards.
    Ignore,
}

/// What capture keeps from event to event.
pub(super) struct Capture {
    /// The tables.
    pub(super) schema: Schema,
    /// The hash.
    pub(super) sums: Sums,
    /// The running request's change-set.
    pub(super) set: ChangeSetWriter,
    /// What becomes of row events.
    pub(super) rows: Rows,
    /// The last request's change-set is closed: no row may change any more.
    pub(super) cut: bool,
    /// Tables whose rows in `sqlite_sequence` the statement wrote itself.
    pub(super) counters: Vec<String>,
    last: Option<Rc<Table>>,
    scratch: Vec<u8>,
}

/// One connection's callbacks.
pub(super) struct Ctx {
    /// Borrowed by the hook while SQLite steps, by the store in between.
    pub(super) capture: RefCell<Capture>,
    /// On whose behalf statements are prepared now.
    pub(super) caller: Cell<Caller>,
    /// What the authorizer heard since it was last taken.
    pub(super) info: RefCell<Info>,
    /// The store ordered the COMMIT that is running.
    pub(super) commit_ordered: Cell<bool>,
    poisoned: RefCell<Option<String>>,
    /// Until when the client's statement may run; `None` for the store's own.
    pub(super) deadline: Cell<Option<MonoTime>>,
    /// Why the running statement was stopped.
    pub(super) stopped: Cell<Option<Stop>>,
    interrupt: Arc<AtomicBool>,
    clock: Box<dyn Fn() -> MonoTime>,
}

/// Why a statement was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Its time was over.
    Deadline,
    /// The node loop said so: the pin is going elsewhere.
    Interrupt,
    /// Its changes would not fit into an entry.
    TooLarge,
}

impl Ctx {
    /// Callbacks for a connection that is about to be opened.
    pub(super) fn new(interrupt: Arc<AtomicBool>, clock: Box<dyn Fn() -> MonoTime>) -> Self {
        Self {
            capture: RefCell::new(Capture {
                schema: Schema::default(),
                sums: Sums::default(),
                set: ChangeSetWriter::new(),
                rows: Rows::Hash,
                cut: false,
                counters: Vec::new(),
                last: None,
                scratch: Vec::with_capacity(256),
            }),
            caller: Cell::new(Caller::Store),
            info: RefCell::new(Info::default()),
            commit_ordered: Cell::new(false),
            poisoned: RefCell::new(None),
            deadline: Cell::new(None),
            stopped: Cell::new(None),
            interrupt,
            clock,
        }
    }

    /// Why nothing captured since the last call is to be believed, if so.
    pub(super) fn take_poison(&self) -> Option<String> {
        self.poisoned.borrow_mut().take()
    }

    /// Whether the node loop wants the write connection back.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Acquire)
    }
}

impl Capture {
    /// Whether a schema statement is carried out by a virtual table's module,
    /// which then does the same by itself on every node.
    pub(super) fn is_by_module(&self, kind: &Ddl) -> bool {
        match kind {
            Ddl::CreateVirtual | Ddl::DropVirtual => true,
            Ddl::AlterTable(name) => self.schema.is_virtual(name),
            Ddl::CreateTable(_)
            | Ddl::CreateView(_)
            | Ddl::CreateTrigger(_)
            | Ddl::Analyze
            | Ddl::Reindex
            | Ddl::Other => false,
        }
    }

    /// Forgets which table the last event was about: its shape may change.
    pub(super) fn forget_last(&mut self) {
        self.last = None;
    }

    #[inline]
    fn table(&mut self, name: &str) -> Option<Rc<Table>> {
        if let Some(last) = &self.last
            && last.shape.name == name
        {
            return Some(last.clone());
        }
        let table = self.schema.table(name)?.clone();
        self.last = Some(table.clone());
        Some(table)
    }

    fn event(&mut self, event: &RowEvent<'_>) -> Result<(), String> {
        if is_own(event.table) || has_prefix(event.table, "sqlite_stat") {
            return Ok(());
        }
        if self.rows == Rows::Ignore {
            return Ok(());
        }
        if self.cut {
            return Err(format!("a row of {} changed after its request was closed", event.table));
        }
        if event.table == "sqlite_sequence" {
            return self.counter(event).map_err(|code| format!("a counter could not be read (SQLite {code})"));
        }
        let table = self.table(event.table).ok_or_else(|| format!("a row of an unknown table: {}", event.table))?;
        self.hash(&table, event)
            .and_then(|()| if self.rows == Rows::Log { self.log(&table, event) } else { Ok(()) })
            .map_err(|code| format!("a row of {} could not be read (SQLite {code})", event.table))
    }

    /// A client wrote `sqlite_sequence` itself: the counter is read back at
    /// the request's end like any other.
    fn counter(&mut self, event: &RowEvent<'_>) -> Result<(), i32> {
        let mut note = |value: ValueRef<'_>| {
            if let ValueRef::Text(bytes) = value {
                let name = String::from_utf8_lossy(bytes).into_owned();
                if !self.counters.contains(&name) {
                    self.counters.push(name);
                }
            }
        };
        if event.op != RowOp::Insert {
            note(event.before(0)?);
        }
        if event.op != RowOp::Delete {
            note(event.after(0)?);
        }
        Ok(())
    }

    fn hash(&mut self, table: &Table, event: &RowEvent<'_>) -> Result<(), i32> {
        let at = |place: usize| table.columns[place].declared;
        if event.op != RowOp::Insert {
            let old = hash::row(table, event.old_rowid, &mut self.scratch, |n| event.before(at(n)))?;
            self.sums.add(table.sum, old.wrapping_neg());
        }
        if event.op != RowOp::Delete {
            let new = hash::row(table, event.new_rowid, &mut self.scratch, |n| event.after(at(n)))?;
            self.sums.add(table.sum, new);
        }
        Ok(())
    }

    fn log(&mut self, table: &Table, event: &RowEvent<'_>) -> Result<(), i32> {
        // An iterator cannot fail half-way: the first error is kept and the
        // event poisoned afterwards.
        let failed = Cell::new(None);
        let old = |n: usize| {
            let column = &table.columns[n];
            event.before(column.declared).map(|v| column.exact(v)).unwrap_or_else(|code| {
                failed.set(Some(code));
                ValueRef::Null
            })
        };
        let new = |n: usize| {
            let column = &table.columns[n];
            event.after(column.declared).map(|v| column.exact(v)).unwrap_or_else(|code| {
                failed.set(Some(code));
                ValueRef::Null
            })
        };
        let places = 0..table.columns.len();
        let index = self.set.table(table.id, &table.shape);
        let has_rowid = table.shape.has_rowid;
        let (old_rowid, new_rowid) = if has_rowid { (event.old_rowid, event.new_rowid) } else { (0, 0) };
        match event.op {
            RowOp::Insert => self.set.push_insert(index, new_rowid, places.map(new)),
            RowOp::Delete => self.set.push_delete(index, old_rowid, places.map(old)),
            RowOp::Update => {
                let changed = places.clone().map(|n| {
                    let new = new(n);
                    (!same(old(n), new)).then_some(new)
                });
                self.set.push_update(index, old_rowid, new_rowid, places.map(old), changed);
            }
        }
        failed.get().map_or(Ok(()), Err)
    }
}

impl Hooks for Ctx {
    fn row(&self, event: &RowEvent<'_>) {
        match self.capture.try_borrow_mut() {
            Ok(mut capture) => {
                if let Err(why) = capture.event(event) {
                    self.poison(&why);
                }
            }
            Err(_) => self.poison("a row changed while the store held the capture"),
        }
    }

    fn may_commit(&self) -> bool {
        // A statement cannot commit on its own here, but RAISE, conflicts and
        // errors have ways of ending a transaction: only the store ends one.
        self.commit_ordered.get() && self.poisoned.borrow().is_none()
    }

    fn judge(&self, action: Action<'_>) -> Verdict {
        match self.info.try_borrow_mut() {
            Ok(mut info) => judge(self.caller.get(), &mut info, action),
            Err(_) => Verdict::Deny,
        }
    }

    fn should_stop(&self) -> bool {
        let Some(deadline) = self.deadline.get() else {
            return false;
        };
        let large = self.capture.try_borrow().is_ok_and(|c| c.set.size() > Entry::PAYLOAD_MAX);
        let stop = if self.is_interrupted() {
            Stop::Interrupt
        } else if large {
            Stop::TooLarge
        } else if (self.clock)() >= deadline {
            Stop::Deadline
        } else {
            return false;
        };
        self.stopped.set(Some(stop));
        true
    }

    fn poison(&self, why: &str) {
        tracing::error!(why, "the capture of changes failed; nothing of it will be committed");
        self.poisoned.borrow_mut().get_or_insert_with(|| why.to_owned());
    }
}
