//! `base-ha dev`: a cluster of real processes on this machine.
//!
//! Decides what is started, watched, started again and stopped. What the
//! nodes do among themselves is theirs.

mod child;
mod home;
mod screen;

use super::client::Client;
use super::status::{NodeView, Row};
use crate::config::units;
use child::Child;
use home::Home;
use screen::Screen;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a child that ended stays down, so that a person sees it.
const RESTART_AFTER: Duration = Duration::from_secs(3);
/// How long children may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How often the picture is drawn.
const TURN: Duration = Duration::from_millis(200);
/// How long the first writer may take before this says what to look at.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `base-ha dev` is told.
#[derive(clap::Args, Debug)]
pub(super) struct DevArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=15))]
    nodes: u16,
    /// The first node's port; the others follow
    #[arg(long, default_value_t = 8090, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    port: u16,
    /// Where the nodes' data, logs and secrets live
    #[arg(long, default_value = "./base_data/dev")]
    dir: PathBuf,
    /// Keep the data of earlier runs (this is the default)
    #[arg(long, conflicts_with = "fresh")]
    keep: bool,
    /// Delete the data of earlier runs first
    #[arg(long)]
    fresh: bool,
    /// Leave a node that ended down instead of starting it again after 3 s
    #[arg(long)]
    no_restart: bool,
    /// How often a writer is heard, e.g. 100ms
    #[arg(long, default_value = "500ms", value_parser = units::duration)]
    heartbeat: Duration,
}

/// What the nodes last said, filled by one thread a node.
type Views = Arc<Mutex<Vec<Result<NodeView, String>>>>;

pub(super) fn run(args: &DevArgs) -> ExitCode {
    match cluster(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => super::fail(&problem),
    }
}

fn cluster(args: &DevArgs) -> Result<(), String> {
    let home = Home::open(&args.dir, args.nodes, args.port, args.fresh)?;
    for node in home.nodes() {
        free_port(node.port)?;
    }
    let stop = stop_on_signal()?;
    let mut children = Vec::new();
    for node in home.nodes() {
        children.push(Child::start(&home, node, args.heartbeat)?);
    }
    let views: Views = Arc::new(Mutex::new(vec![Err("starting".to_string()); children.len()]));
    for (n, child) in children.iter().enumerate() {
        watch(n, &child.url(), views.clone(), stop.clone())?;
    }
    let mut screen = Screen::new(&home);
    let outcome = tend(args, &mut children, &views, &mut screen, &stop);
    stop.store(true, Ordering::Release);
    screen.note("stopping");
    stop_all(&mut children, &mut screen);
    outcome
}

/// Watches the children until a signal comes.
fn tend(
    args: &DevArgs,
    children: &mut [Child],
    views: &Views,
    screen: &mut Screen,
    stop: &AtomicBool,
) -> Result<(), String> {
    let started = Instant::now();
    let mut born = false;
    let mut warned = false;
    while !stop.load(Ordering::Acquire) {
        for child in children.iter_mut() {
            let Some(ended) = child.poll() else { continue };
            if !born {
                let tail = child.log_tail();
                return Err(format!("{} ended before there was a cluster: {ended}\n{tail}", child.name()));
            }
            screen.note(&format!("{} ended: {ended}", child.name()));
            if args.no_restart {
                screen.note(&format!("to start it again: {}", child.command_line()));
            }
        }
        for child in children.iter_mut().filter(|child| child.down_for().is_some_and(|d| d >= RESTART_AFTER)) {
            if !args.no_restart {
                child.restart()?;
                screen.note(&format!("{} was started again, pid {}", child.name(), child.pid()));
            }
        }
        let rows = rows(children, views, args.no_restart);
        if !born && rows.iter().any(|row| row.view.as_ref().is_ok_and(|view| view.writer.is_some())) {
            born = true;
            screen.note(&format!("a writer after {:.1} s", started.elapsed().as_secs_f64()));
        }
        if !born && !warned && started.elapsed() > PATIENCE {
            warned = true;
            screen.note("there is still no writer: the logs in the data directory say why");
        }
        let writer = rows.iter().find_map(|row| row.view.as_ref().ok()?.writer.clone());
        let writer = children.iter().position(|child| Some(child.name()) == writer.as_deref());
        screen.draw(&rows, children, writer, born);
        std::thread::sleep(TURN);
    }
    Ok(())
}

/// The picture's rows: what a node said, or that its process is gone.
fn rows(children: &[Child], views: &Views, stays_down: bool) -> Vec<Row> {
    let said = views.lock().unwrap_or_else(PoisonError::into_inner);
    let row = |child: &Child, said: &Result<NodeView, String>| {
        let view = match child.down_for() {
            None => said.clone(),
            Some(_) if stays_down => Err("down".into()),
            Some(down) => Err(format!("down, starts again in {} s", RESTART_AFTER.saturating_sub(down).as_secs() + 1)),
        };
        Row { name: child.name().to_string(), url: child.url(), view }
    };
    children.iter().zip(said.iter()).map(|(child, said)| row(child, said)).collect()
}

/// Asks a node for its status again and again, in a thread of its own: a node
/// that hangs delays nobody else's line.
fn watch(n: usize, url: &str, views: Views, stop: Arc<AtomicBool>) -> Result<(), String> {
    let client = Client::new(url).map_err(|error| error.to_string())?.with_timeout(Duration::from_secs(1));
    let body = move || {
        let mut heard = false;
        while !stop.load(Ordering::Acquire) {
            let view = match NodeView::ask(&client) {
                Ok((view, _)) => {
                    heard = true;
                    Ok(view)
                }
                Err(_) if !heard => Err("starting".into()),
                Err(_) => Err("no answer".into()),
            };
            if let Some(slot) = views.lock().unwrap_or_else(PoisonError::into_inner).get_mut(n) {
                *slot = view;
            }
            std::thread::sleep(TURN);
        }
    };
    std::thread::Builder::new().name("watch".into()).spawn(body).map(|_| ()).map_err(|error| error.to_string())
}

/// Asks every child to stop, waits, and ends those that don't.
fn stop_all(children: &mut [Child], screen: &mut Screen) {
    for child in children.iter() {
        child.terminate();
    }
    let until = Instant::now() + STOP_WITHIN;
    while Instant::now() < until && children.iter_mut().any(|child| child.is_running()) {
        std::thread::sleep(Duration::from_millis(20));
    }
    for child in children.iter_mut() {
        if child.is_running() {
            screen.note(&format!("{} did not stop within {} s and is ended", child.name(), STOP_WITHIN.as_secs()));
            child.kill();
        }
    }
    screen.note("all nodes have stopped; the data stays");
}

/// A flag that is raised by SIGINT, SIGTERM or SIGHUP.
fn stop_on_signal() -> Result<Arc<AtomicBool>, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(AtomicBool::new(false));
    let raised = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    // The handlers are installed before any child is started: a signal in
    // between must not leave one behind.
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut signals = {
        let _inside = runtime.enter();
        kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?
    };
    let body = move || {
        runtime.block_on(async {
            let [interrupt, terminate, hangup] = &mut signals[..] else { return };
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => (), _ = hangup.recv() => () }
        });
        raised.store(true, Ordering::Release);
    };
    std::thread::Builder::new().name("signals".into()).spawn(body).map_err(|error| error.to_string())?;
    Ok(stop)
}

fn free_port(port: u16) -> Result<(), String> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "port {port} can't be listened on: {error}\n    mend: stop what uses it, or choose other ports by --port"
        )),
    }
}
