//! Whole nodes on turmoil: the shell's own `run`, real SQLite, real HTTP.
//!
//! A seed makes a [`plan::ShellPlan`], the plan makes the run. Nodes, clients
//! and an observer are hosts of turmoil; the network, both clocks, entropy and
//! the time that disks take are simulated. The node is the one that `main`
//! runs: it takes [`env::SimEnv`] where production takes `RealEnv`.
//!
//! | file | its noun |
//! |---|---|
//! | `plan` | a run as data |
//! | `env`, `stream`, `links` | the world as one process sees it; connections; who reaches whom |
//! | `node`, `world` | a machine with a node; all of it, with what goes wrong |
//! | `schema`, `client`, `history` | what clients do, and the record of it |
//! | `watch`, `log`, `record` | the observer, the nodes' log lines, counts and trace |
//! | `oracle`, `mutant` | what must hold; what is broken to see that it is noticed |
//! | `run`, `batch` | a run from start to end; many of them |

pub mod batch;
pub mod client;
pub mod env;
pub mod history;
pub mod links;
pub mod log;
pub mod mutant;
pub mod node;
pub mod oracle;
pub mod plan;
pub mod record;
pub mod run;
pub mod schema;
pub mod stream;
pub mod watch;
pub mod world;
