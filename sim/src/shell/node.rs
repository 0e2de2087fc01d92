//! A machine with a node on it: its settings, its directory, its process.
//!
//! Decides how a process is started, stopped and replaced, and what remains of
//! it. The process itself is the shell's `run`, the one that `main` calls.

use super::env::{Machine, SimEnv, lock};
use base_ha::config::Config;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// A machine and what runs on it. Clones share it.
#[derive(Clone)]
pub struct NodeHost(Arc<Inner>);

struct Inner {
    machine: Arc<Machine>,
    config: Config,
    process: Mutex<Process>,
}

#[derive(Default)]
struct Process {
    /// Asks it to stop.
    stop: Option<oneshot::Sender<()>>,
    /// How it ended by itself.
    ended: Option<Result<(), String>>,
}

impl NodeHost {
    /// A node that will run with `config` on `machine`.
    pub fn new(machine: Arc<Machine>, config: Config) -> Self {
        Self(Arc::new(Inner { machine, config, process: Mutex::default() }))
    }

    /// The machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.0.machine
    }

    /// Its data directory.
    pub fn dir(&self) -> PathBuf {
        self.0.machine.disk().root().join("data")
    }

    /// A process's life.
    pub async fn process(self) -> turmoil::Result {
        let (stop, stopped) = oneshot::channel();
        *lock(&self.0.process) = Process { stop: Some(stop), ended: None };
        self.0.machine.set_dead(false);
        let asked = async {
            // A sender that is gone asks for nothing.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut config = self.0.config.clone();
        config.dir = self.dir();
        let ended = base_ha::run::run(SimEnv::new(self.0.machine.clone()), config, asked).await;
        // What other tasks of the process still do reaches nobody.
        self.0.machine.set_dead(true);
        self.0.machine.connections().close();
        lock(&self.0.process).ended = Some(ended.map_err(|error| error.to_string()));
        Ok(())
    }

    /// Asks the process to stop.
    pub fn stop(&self) {
        if let Some(stop) = lock(&self.0.process).stop.take() {
            // It may have ended meanwhile.
            let _ = stop.send(());
        }
    }

    /// How the process ended by itself, told once.
    pub fn take_ended(&self) -> Option<Result<(), String>> {
        lock(&self.0.process).ended.take()
    }
}
