//! `base-ha dev`, end to end, as a new user meets it.

use base_ha::cli::client::Client;
use base_ha::cli::status::NodeView;
use base_ha_tests::wait::{eventually, holds};
use base_ha_tests::{binary, node};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Dev {
    process: Child,
    out: std::path::PathBuf,
    port: u16,
}

/// Three ports in a row that nothing listens on.
fn free_ports() -> u16 {
    eventually("three free ports in a row", || {
        let port = node::free_port();
        let free = (port..port + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        holds(free, "taken").map(|()| port)
    })
}

impl Dev {
    fn start(home: &Path, port: u16, more: &[&str]) -> Self {
        let out = home.join("out.txt");
        let file = File::create(&out).expect("a file");
        let mut command = Command::new(binary::path());
        command
            .args(["dev", "--heartbeat", "100ms", "--port", &port.to_string(), "--dir"])
            .arg(home.join("dev"))
            .args(more);
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file")).stderr(file);
        Self { process: command.spawn().expect("the binary can be started"), out, port }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    fn client(&self, n: u16) -> Client {
        Client::new(&format!("http://127.0.0.1:{}", self.port + n)).expect("a legal URL")
    }

    fn wait_for(&mut self, text: &str) {
        eventually(&format!("dev says {text:?}"), || {
            let ended = self.process.try_wait().expect("a child of this process");
            assert!(ended.is_none() || self.text().contains(text), "dev ended: {ended:?}\n{}", self.text());
            holds(self.text().contains(text), self.text())
        });
    }

    /// What Ctrl-C does.
    fn stop(mut self) {
        let pid = Pid::from_raw(self.process.id() as i32).expect("it runs");
        kill_process(pid, Signal::INT).expect("a child of this process");
        let status = eventually("dev stops", || {
            self.process.try_wait().expect("a child of this process").ok_or_else(|| self.text())
        });
        assert!(status.success(), "{status}\n{}", self.text());
        assert!(self.text().contains("all nodes have stopped"), "{}", self.text());
        for n in 0..3 {
            assert!(self.client(n).get("/healthz").is_err(), "nothing is left running");
        }
    }

    fn sql(&self, n: u16, sql: &str) -> Result<Value, String> {
        let answer = self.client(n).post("/query", &json!({ "sql": sql })).map_err(|error| error.to_string())?;
        holds(answer.status == 200, answer.text()).map(|()| answer.json())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn dev_end_to_end() {
    let home = tempfile::tempdir().expect("a directory");
    let port = free_ports();
    let mut dev = Dev::start(home.path(), port, &[]);
    dev.wait_for("kill the writer kill -9 ");
    let text = dev.text();
    for line in ["write           curl http://127.0.0.1:", "read elsewhere  curl http://127.0.0.1:"] {
        assert!(text.contains(line), "{line:?} is missing in:\n{text}");
    }
    // The three lines, as they stand there.
    run_line(&text, "write ");
    let read = run_line(&text, "read elsewhere ");
    assert!(read.contains("\"rows\":[[\"20"), "{read}");
    run_line(&text, "kill the writer ");
    eventually("the killed node is back", || {
        holds(dev.text().contains("was started again"), dev.text())?;
        let (view, _) = NodeView::ask(&dev.client(0))?;
        holds(view.writer.is_some() && view.members.iter().all(|m| m.up), format!("{view:?}"))
    });
    dev.sql(1, "INSERT INTO notes VALUES('two')").expect("it writes");
    eventually("the next writer's process is told", || {
        let text = dev.text();
        let kills: BTreeSet<&str> = text.lines().filter(|line| line.starts_with("kill the writer ")).collect();
        holds(kills.len() > 1, text.clone())
    });
    dev.stop();
    // Run again: the data is there.
    let mut dev = Dev::start(home.path(), port, &["--keep"]);
    dev.wait_for("kill the writer kill -9 ");
    let rows = dev.sql(2, "SELECT count(*) FROM notes").expect("it reads");
    assert_eq!(rows["rows"], json!([[2]]));
    dev.stop();
    let mut dev = Dev::start(home.path(), port, &["--fresh"]);
    dev.wait_for("kill the writer kill -9 ");
    assert!(dev.sql(2, "SELECT count(*) FROM notes").is_err(), "fresh is fresh");
    dev.stop();
}

/// Runs one of the lines to copy in a shell, without its label.
fn run_line(text: &str, label: &str) -> String {
    let line =
        text.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("no line {label:?} in:\n{text}"));
    let command = line.trim_start_matches(label).trim();
    if command.starts_with("curl") && Command::new("curl").arg("--version").output().is_err() {
        // The line is for people with curl; what it asks for is not.
        return ask_like_curl(command);
    }
    let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ask_like_curl(command: &str) -> String {
    let url = command.split_whitespace().nth(1).expect("a URL").trim_end_matches("/query");
    let body = command.split('\'').nth(1).expect("a body");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let answer = Client::new(url).expect("a URL").request("POST", "/query", &form, body.as_bytes()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

#[test]
fn dev_says_which_port_is_taken() {
    let home = tempfile::tempdir().expect("a directory");
    let port = free_ports();
    let _taken = TcpListener::bind(("127.0.0.1", port + 1)).expect("a free port");
    let mut dev = Dev::start(home.path(), port, &[]);
    let status = eventually("dev ends", || dev.process.try_wait().expect("a child").ok_or_else(|| dev.text()));
    assert!(!status.success());
    assert!(dev.text().contains(&format!("port {} can't be listened on", port + 1)), "{}", dev.text());
}
