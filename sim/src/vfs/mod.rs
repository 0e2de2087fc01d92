//! A simulated disk under the real shell and the real SQLite.
//!
//! ```text
//!   shell ──Files──▶ files ──┐
//!                            ├──▶ disk ──▶ image
//!   SQLite ──VFS──▶ sqlite ──┘     │
//!                    └──locks──────┘
//! ```
//!
//! One [`VirtualDisk`] a machine. Its files appear below [`VirtualDisk::root`],
//! a path that the real machine does not have; SQLite finds them because this
//! VFS is the process's default from the first disk on, the shell because its
//! `Env` answers [`VirtualDisk::files`]. A crash is [`VirtualDisk::crash`] before
//! whatever tears the process down, and [`VirtualDisk::start`] before the next
//! one.
//!
//! | file | its noun |
//! |---|---|
//! | `image` | bytes and names; what a crash leaves of them |
//! | `disk` | operations, their numbers, their faults; dead handles |
//! | `locks` | locks between connections, and their shared memory |
//! | `sqlite` | SQLite's VFS |
//! | `thread` | SQLite's clock, chance and disks, as one thread has them |
//! | `files` | the shell's own files |

mod disk;
mod files;
mod image;
mod locks;
mod sqlite;
mod thread;

pub use disk::{Fault, Harm, MOUNT, Request, Trouble, VirtualDisk};
pub use files::SimFiles;
pub use image::{Fate, FileId, Image, Op};
pub use sqlite::register;
pub use thread::{ThreadOfRun, set_wall_clock};
