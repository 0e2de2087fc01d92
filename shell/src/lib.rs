//! The shell of base-ha: everything that touches the world.
//!
//! It holds no decision that could live in [`base_ha_core`]. Four parties
//! share a process and talk by messages only:
//!
//! ```text
//!  HTTP tasks ──WriteRequest──▶ store worker ──Propose──▶ node loop ──▶ peers
//!      │  ▲                      (data.db)   ◀─Apply────     │  ▲
//!      │  └──── answer ─────────────┘                        ▼  │ Persisted
//!      └── reads: pool of read-only connections           log worker (log.db)
//! ```
//!
//! * The **node loop** (`driver`) owns the core's `Node`, samples the clocks
//!   once a turn and carries out its outputs.
//! * The **store worker** (`store`) owns the one write connection of
//!   `data.db`. It runs groups of requests, holds the transaction open while
//!   the group is being replicated, and commits when told to.
//! * The **log worker** (`log`) owns `log.db` and the hard state, and fsyncs.
//! * **HTTP tasks** (`http`) parse, authorise, read, forward and answer.
//!
//! Only [`env::Env`] and `bus::Bus` know whether the world is real.

pub mod api;
pub mod app;
pub mod bus;
pub mod cli;
pub mod config;
pub mod driver;
pub mod env;
pub mod error;
pub mod http;
pub mod log;
pub mod metrics;
pub mod run;
pub mod snapshot;
pub mod sqljson;
pub mod store;
pub mod tls;
pub mod token;
mod wal;
