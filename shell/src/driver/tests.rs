//! The loop with a log that confirms everything and no peers.
#![allow(clippy::result_large_err, reason = "a worker that has ended gives the job back")]

use super::{Driver, Ended, FetchOrder, Parts, PauseApply, StoreSide};
use crate::api::{LogJob, NodeEvent, Organ, StoreJob, View};
use crate::app::NodeHandle;
use crate::bus::Bus;
use crate::config::Config;
use crate::env::WorkerHandle;
use crate::env::real::RealEnv;
use crate::metrics::Stats;
use base_ha_core::ids::{BootNonce, ClusterId, ContentHash, NodeId, Seq, Url};
use base_ha_core::io::{Boot, Input, Record, Recovered, Refusal, Route, Status};
use base_ha_core::message::Envelope;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Nobody(Arc<Mutex<Vec<ClusterId>>>);

impl Bus for Nobody {
    fn send(&self, _: &Route, _: &Envelope) {}

    fn joined(&self, cluster: ClusterId) {
        self.0.lock().expect("fine").push(cluster);
    }

    fn close(&self) {}
}

struct Alone {
    node: NodeHandle,
    view: watch::Receiver<Arc<View>>,
    task: JoinHandle<Ended>,
    log_alive: Arc<AtomicBool>,
    interrupted: Arc<AtomicU64>,
    pins: Arc<Mutex<Vec<bool>>>,
    bus: Nobody,
    pause: PauseApply,
    stats: Arc<Stats>,
}

/// A sole voter whose log and store say yes to everything, at once.
fn alone() -> Alone {
    let url = Url::new("http://127.0.0.1:1");
    let id = NodeId::new("alone").expect("legal");
    let mut config = Config::new(id, url, Vec::new(), String::new(), "unused".into());
    config.core.heartbeat = Duration::from_millis(50);
    config.core.lease = Duration::from_millis(200);
    let (sender, inbox) = mpsc::unbounded_channel();
    let node = NodeHandle::new(sender);
    let log_alive = Arc::new(AtomicBool::new(true));
    let log = {
        let (node, alive) = (node.clone(), log_alive.clone());
        WorkerHandle::new(move |job| {
            if !alive.load(Ordering::Relaxed) {
                return Err(job);
            }
            if let LogJob::Persist { id, record } = job {
                match record {
                    Record::HardState(_) | Record::Append { .. } => {}
                }
                let _ = node.tell(NodeEvent::Persisted(id));
            }
            Ok(())
        })
    };
    let pins: Arc<Mutex<Vec<bool>>> = Arc::default();
    let worker = {
        let (node, pins) = (node.clone(), pins.clone());
        WorkerHandle::new(move |job| {
            match job {
                StoreJob::Apply { entries } => {
                    let position = entries.last().expect("never empty").position();
                    let _ = node.tell(NodeEvent::Applied { position, content: ContentHash(0) });
                }
                StoreJob::Pin(pin) => pins.lock().expect("fine").push(pin.writable),
                _ => {}
            }
            Ok(())
        })
    };
    let interrupted = Arc::new(AtomicU64::new(0));
    let count = interrupted.clone();
    let interrupt = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let (view_sender, view) = watch::channel(Arc::new(View::default()));
    let bus = Nobody::default();
    let stats: Arc<Stats> = Arc::default();
    let driver = Driver::new(Parts {
        env: RealEnv,
        boot: Boot { config: config.core.clone(), seed: [3; 32], nonce: BootNonce(1), recovered: Recovered::default() },
        config: Arc::new(config),
        bus: bus.clone(),
        inbox,
        log,
        store: Some(StoreSide { worker, interrupt }),
        view: view_sender,
        fetch: Box::new(|_: FetchOrder| panic!("nobody to fetch from")),
        stats: stats.clone(),
    });
    let pause = PauseApply(driver.task_sender.clone());
    Alone { node, view, task: tokio::spawn(driver.run()), log_alive, interrupted, pins, bus, pause, stats }
}

impl Alone {
    async fn writable(&mut self) {
        let wait = self.view.wait_for(|view| view.pin.writable);
        timeout(PATIENCE, wait).await.expect("in time").expect("alive");
    }

    /// As a turn that begins after this call leaves it.
    async fn status(&self) -> Arc<Status> {
        self.node.renew().await.expect("alive");
        self.view.borrow().status.clone().expect("published")
    }

    async fn ended(self) -> Ended {
        timeout(PATIENCE, self.task).await.expect("in time").expect("no panic")
    }
}

#[tokio::test]
async fn a_sole_voter_founds_its_cluster_and_answers() {
    let mut alone = alone();
    alone.writable().await;
    let at = alone.node.read_index().await.expect("a writer");
    let status = alone.status().await;
    assert!(status.commit >= at && at > Seq(0));
    assert_eq!(alone.bus.0.lock().expect("fine").last(), Some(&status.cluster), "the bus knows the cluster");
    assert_ne!(status.cluster, ClusterId::NONE);
    let taken = alone.view.borrow_and_update().taken;
    let renewed = alone.view.wait_for(|view| view.taken > taken);
    timeout(PATIENCE, renewed).await.expect("the status is renewed although nothing happens").expect("alive");
}

#[tokio::test]
async fn it_runs_on_one_thread_and_a_flood_does_not_starve_its_timers() {
    let mut alone = alone();
    let node = alone.node.clone();
    let flood = tokio::spawn(async move {
        loop {
            // More than one turn takes, without end.
            for _ in 0..2_000 {
                if node.tell(NodeEvent::Propose { id: 1, payloads: Vec::new() }).is_err() {
                    return;
                }
            }
            tokio::task::yield_now().await;
        }
    });
    alone.writable().await;
    flood.abort();
}

#[tokio::test]
async fn a_fatal_event_ends_the_loop_at_once() {
    let mut alone = alone();
    alone.writable().await;
    alone.node.tell(NodeEvent::Fatal("the disk is gone".to_owned())).expect("alive");
    let (reply, answer) = tokio::sync::oneshot::channel();
    let _ = alone.node.tell(NodeEvent::ReadIndex { reply });
    assert_eq!(alone.ended().await, Ended::Fatal("the disk is gone".to_owned()));
    assert!(answer.await.is_err(), "nothing is answered after it");
}

#[tokio::test]
async fn a_failed_snapshot_is_counted() {
    let mut alone = alone();
    alone.writable().await;
    alone.node.tell(NodeEvent::Core(Box::new(Input::SnapshotFailed))).expect("alive");
    alone.status().await;
    assert_eq!(alone.stats.peer.snapshots_failed.get(), 1);
}

#[tokio::test]
async fn apply_goes_on_after_a_pause_that_came_to_nothing() {
    let mut alone = alone();
    alone.writable().await;
    alone.pause.pause().await.expect("alive");
    let before = alone.status().await.applied;
    let payloads = vec![bytes::Bytes::from_static(b"x")];
    alone.node.tell(NodeEvent::Propose { id: 1, payloads }).expect("alive");
    let committed = alone.view.wait_for(|view| view.commit > before);
    timeout(PATIENCE, committed).await.expect("in time").expect("alive");
    assert_eq!(alone.status().await.applied, before, "paused");
    alone.pause.resume();
    let applied = async {
        while alone.status().await.applied == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, applied).await.expect("it goes on");
}

#[tokio::test]
async fn a_worker_that_has_ended_is_fatal() {
    let mut alone = alone();
    alone.writable().await;
    alone.log_alive.store(false, Ordering::Relaxed);
    assert_eq!(alone.ended().await, Ended::Fatal("the log worker has ended".to_owned()));
}

#[tokio::test]
async fn a_stop_is_graceful_and_takes_the_pin_from_the_store() {
    let mut alone = alone();
    alone.writable().await;
    alone.node.tell(NodeEvent::Shutdown).expect("alive");
    let (pins, interrupted, mut view) = (alone.pins.clone(), alone.interrupted.clone(), alone.view.clone());
    let node = alone.node.clone();
    assert_eq!(alone.ended().await, Ended::Stopped);
    assert!(view.borrow_and_update().stopping);
    assert_eq!(pins.lock().expect("fine").last(), Some(&false));
    assert_eq!(interrupted.load(Ordering::Relaxed), 1);
    assert_eq!(node.read_index().await, Err(Refusal::Stopping));
}

/// Room in the log says nothing of room for the store, and the reverse.
#[tokio::test]
async fn a_disk_is_full_until_both_have_room() {
    use base_ha_core::io::{StoreHealth, Unfit};
    let mut alone = alone();
    alone.writable().await;
    let unfit = async |alone: &Alone| alone.status().await.unfit.clone();
    let tell = |alone: &Alone, event| alone.node.tell(event).expect("alive");
    tell(&alone, NodeEvent::Health(Organ::Store, StoreHealth::Full));
    tell(&alone, NodeEvent::Health(Organ::Log, StoreHealth::Full));
    assert_eq!(unfit(&alone).await, Some(Unfit::DiskFull));
    tell(&alone, NodeEvent::Health(Organ::Log, StoreHealth::Well));
    assert_eq!(unfit(&alone).await, Some(Unfit::DiskFull), "the store has none");
    tell(&alone, NodeEvent::Health(Organ::Log, StoreHealth::Full));
    tell(&alone, NodeEvent::Health(Organ::Store, StoreHealth::Well));
    assert_eq!(unfit(&alone).await, Some(Unfit::DiskFull), "the log has none");
    tell(&alone, NodeEvent::Health(Organ::Log, StoreHealth::Well));
    assert_eq!(unfit(&alone).await, None);
}
