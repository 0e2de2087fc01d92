//! One node under test: its process, directory, port and log.
//!
//! Decides how it is started, stopped, killed, paused and asked.

use crate::binary;
use crate::wait::{eventually, holds, within};
use base_ha::cli::client::{Answer, Client, ClientError};
use base_ha::cli::status::NodeView;
use base_ha::cli::trust::Trust;
use base_ha::config::Secret;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The token of tests that set one.
pub const TOKEN: &str = "test-token-test-token";
/// The secret of every cluster, unless a test says otherwise.
pub const SECRET: &str = "test-secret-test-secret";

/// A node, running or not.
pub struct Node {
    /// `BASE_NODE_ID`.
    pub name: String,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// Its data directory.
    pub dir: PathBuf,
    /// Where its log lines go, over all its starts.
    pub log: PathBuf,
    /// Its whole environment, `BASE_*` only.
    pub env: BTreeMap<String, String>,
    process: Option<Child>,
}

/// A port that nothing listens on. Ports are dealt from below the range that
/// the kernel deals from, each once a process, so that tests in parallel do
/// not take each other's.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97) % 20_000;
    for _ in 0..20_000 {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 11_000 + ((first + n) % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

impl Node {
    /// A node that was not started yet.
    pub fn new(name: &str, port: u16, dir: PathBuf) -> Self {
        let log = dir.with_extension("log");
        let env = BTreeMap::from([
            ("BASE_HTTP".to_string(), format!("127.0.0.1:{port}")),
            ("BASE_DIR".to_string(), dir.display().to_string()),
            ("BASE_NODE_ID".to_string(), name.to_string()),
            ("BASE_HEARTBEAT".to_string(), "100ms".to_string()),
            ("BASE_LOG_LEVEL".to_string(), "base_ha=debug,info".to_string()),
        ]);
        Self { name: name.into(), port, dir, log, env, process: None }
    }

    /// Sets a variable for its next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.into(), value.into());
    }

    /// Has it show this certificate (and its key) from its next start on.
    pub fn use_certificate(&mut self, (cert, key): &(PathBuf, PathBuf)) {
        self.set("BASE_TLS_CERT", &cert.display().to_string());
        self.set("BASE_TLS_KEY", &key.display().to_string());
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        match self.env.get("BASE_LOCAL_TARGET") {
            // Its certificate is made for the host of this one.
            Some(target) if self.env.contains_key("BASE_TLS_CERT") => target.clone(),
            _ if self.env.contains_key("BASE_TLS_CERT") => format!("https://127.0.0.1:{}", self.port),
            _ => format!("http://127.0.0.1:{}", self.port),
        }
    }

    /// Starts it, without waiting for anything.
    ///
    /// # Panics
    /// If it runs already, or can't be started.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = Command::new(binary::path());
        command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BASE_") {
                command.env_remove(name);
            }
        }
        command.envs(&self.env);
        self.process = Some(command.spawn().expect("the binary can be started"));
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// If it ends instead.
    pub fn start_up(&mut self) {
        self.start();
        self.wait_alive();
    }

    /// Waits until it answers `/healthz`.
    ///
    /// # Panics
    /// If it ends instead.
    pub fn wait_alive(&mut self) {
        let name = self.name.clone();
        eventually(&format!("{name} answers"), || {
            if let Some(status) = self.try_wait() {
                panic!("{name} ended: {status}\n{}", self.log_tail(30));
            }
            let answer = self.client().get("/healthz").map_err(|error| error.to_string())?;
            holds(answer.status == 200, format!("{}", answer.status))
        });
    }

    /// Waits until it knows a writer and is caught up.
    pub fn wait_ready(&self) {
        eventually(&format!("{} is ready", self.name), || {
            let answer = self.client().get("/readyz").map_err(|error| error.to_string())?;
            holds(answer.status == 200, answer.text())
        });
    }

    /// Starts it and waits until it ends by itself.
    ///
    /// # Panics
    /// If it does not.
    pub fn start_to_end(&mut self) -> ExitStatus {
        self.start();
        let name = self.name.clone();
        eventually(&format!("{name} refuses to start"), || self.try_wait().ok_or_else(|| "it runs".to_string()))
    }

    /// Its process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Whether its process was started and not ended by this harness.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// How it ended, if it did by itself.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().expect("a child of this process")?;
        self.process = None;
        Some(status)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _gone_already = process.kill();
            let _ = process.wait();
        }
    }

    /// SIGTERM, and waits.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let name = self.name.clone();
        within(Duration::from_secs(15), &format!("{name} stops"), || {
            self.try_wait().ok_or_else(|| "it still runs".to_string())
        })
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid as i32)).expect("it runs");
        kill_process(pid, signal).expect("a child of this process");
    }

    /// A client with the token that this node expects, if any.
    pub fn client(&self) -> Client {
        let token = self.env.get("BASE_TOKEN").map(Secret::new);
        let url = self.url();
        let client = Client::new(&url).expect("a legal URL").with_token(token).with_timeout(Duration::from_secs(20));
        match self.env.get("BASE_TLS_CA") {
            Some(ca) => client.with_trust(Trust::File(ca.into())),
            None => client,
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn status(&self) -> Result<NodeView, String> {
        NodeView::ask(&self.client().with_timeout(Duration::from_secs(2))).map(|(view, _)| view)
    }

    /// POSTs SQL.
    ///
    /// # Errors
    /// [`ClientError`] if there is no answer.
    pub fn post(&self, body: &Value) -> Result<Answer, ClientError> {
        self.client().post("/query", body)
    }

    /// Runs SQL that must succeed; the answer's body.
    ///
    /// # Panics
    /// If it does not succeed.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> Value {
        let answer = self.post(&json!({ "sql": sql })).unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.name));
        assert!(answer.status == 200, "{}: {sql}: HTTP {}: {}", self.name, answer.status, answer.text());
        answer.json()
    }

    /// The rows of a query that must succeed, read at this node without
    /// waiting for anything.
    ///
    /// # Errors
    /// What went wrong: a replica may not have the table yet.
    pub fn local_rows(&self, sql: &str) -> Result<Value, String> {
        let answer = self
            .client()
            .post("/query?local=true", &json!({ "sql": sql }))
            .map_err(|error| format!("{}: {error}", self.name))?;
        match answer.status {
            200 => Ok(answer.json()["rows"].clone()),
            status => Err(format!("{}: HTTP {status}: {}", self.name, answer.text())),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log_text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// All that it ever logged.
    pub fn log_text(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Deletes its data.
    ///
    /// # Panics
    /// If it runs.
    pub fn wipe(&self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        fs::remove_dir_all(&self.dir).expect("a data directory");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} ({}):\n{}", self.name, self.url(), self.log_tail(40));
        }
    }
}
