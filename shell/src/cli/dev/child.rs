//! One node's process.
//!
//! Decides how it is started, ended and asked to stop. It ends with this
//! process, whatever happens: the kernel sees to that.

use super::home::{Home, Place};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A node's process, running or ended.
pub(super) struct Child {
    place: Place,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    process: std::process::Child,
    ended: Option<Instant>,
}

impl Child {
    /// Starts a node. To be called from the main thread: the kernel ends a
    /// child with the thread that made it.
    ///
    /// # Errors
    /// In words.
    pub(super) fn start(home: &Home, place: &Place, heartbeat: Duration) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("this program can't be found: {error}"))?;
        let peers: Vec<String> = home.nodes().iter().map(Place::url).collect();
        let shown = |path: PathBuf| path.display().to_string();
        let arguments = vec![
            "serve".into(),
            format!("--parent={}", std::process::id()),
            format!("--http=127.0.0.1:{}", place.port),
            format!("--dir={}", shown(home.data_dir(place))),
            format!("--node-id={}", place.name),
            format!("--peers={}", peers.join(",")),
            format!("--cluster-secret-file={}", shown(home.secret_file())),
            format!("--heartbeat={}ms", heartbeat.as_millis()),
        ];
        let log = home.log_file(place);
        let process = spawn(&program, &arguments, &log, true)?;
        Ok(Self { place: place.clone(), program, arguments, log, process, ended: None })
    }

    /// Starts it again.
    ///
    /// # Errors
    /// In words.
    pub(super) fn restart(&mut self) -> Result<(), String> {
        self.process = spawn(&self.program, &self.arguments, &self.log, false)?;
        self.ended = None;
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        &self.place.name
    }

    pub(super) fn url(&self) -> String {
        self.place.url()
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How a person starts it in another terminal.
    pub(super) fn command_line(&self) -> String {
        // Tied to nobody: it is then that person's process.
        let own = self.arguments.iter().filter(|argument| !argument.starts_with("--parent"));
        std::iter::once(self.program.display().to_string()).chain(own.cloned()).collect::<Vec<_>>().join(" ")
    }

    /// How it ended, told once.
    pub(super) fn poll(&mut self) -> Option<String> {
        if self.ended.is_some() {
            return None;
        }
        let status = self.process.try_wait().ok().flatten()?;
        self.ended = Some(Instant::now());
        Some(describe(status))
    }

    /// How long it has been down; nothing while it runs.
    pub(super) fn down_for(&self) -> Option<Duration> {
        self.ended.map(|at| at.elapsed())
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.poll();
        self.ended.is_none()
    }

    /// Asks it to stop.
    pub(super) fn terminate(&self) {
        // A process that was waited for has given its id back.
        if self.ended.is_none()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
        {
            let _gone_already = kill_process(pid, Signal::TERM);
        }
    }

    /// Ends it.
    pub(super) fn kill(&mut self) {
        let _gone_already = self.process.kill();
        let _ = self.process.wait();
        self.ended.get_or_insert_with(Instant::now);
    }

    /// The last lines that it logged.
    pub(super) fn log_tail(&self) -> String {
        let text =
            std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(8)..].join("\n    ");
        format!("    {tail}\n    (from {})", self.log.display())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
        }
    }
}

fn spawn(
    program: &PathBuf,
    arguments: &[String],
    log: &PathBuf,
    fresh_log: bool,
) -> Result<std::process::Child, String> {
    let explain = |error: std::io::Error| format!("a node can't be started ({}): {error}", log.display());
    let out = File::options().create(true).append(true).open(log).map_err(explain)?;
    if fresh_log {
        out.set_len(0).map_err(explain)?;
    }
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(out.try_clone().map_err(explain)?).stderr(out);
    // A group of its own: Ctrl-C reaches this process only, which then stops
    // the nodes in good order.
    command.process_group(0);
    // What the person exported for a node of their own is not meant for these;
    // log settings are.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("BASE_") && !name.starts_with("BASE_LOG_") {
            command.env_remove(name);
        }
    }
    command.spawn().map_err(explain)
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "stopped".into(),
        (Some(code), _) => format!("failed with code {code}"),
        (None, Some(9)) => "killed".into(),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}
