//! What is counted, and how a scrape reads it.
//!
//! Decides names, units and buckets. Every party counts into plain atomics of
//! one [`Stats`] that its node owns, so that several nodes of one process
//! (the simulator's) never mix; the Prometheus text is made at scrape time.
//!
//! How to count: `stats.store.groups.observe(len)`, `stats.log.bytes.set(n)`,
//! `stats.peer.frames_refused.add(1)`. Each is one relaxed atomic operation.

use crate::api::View;
use crate::http::Route;
use crate::log::LogStats;
use crate::store::read::ReadStats;
use base_ha_core::ids::Seq;
use base_ha_core::io::Part;
use base_ha_core::time::Now;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `by`.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// Sets it.
    pub fn set(&self, to: u64) {
        self.0.store(to, Relaxed);
    }

    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// One less; call it once for each [`Level::up`].
    pub fn down(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How often values fell into which range: powers of four from `first` on.
#[derive(Debug)]
pub struct Spread {
    first: u64,
    buckets: [AtomicU64; Self::BUCKETS],
    sum: AtomicU64,
}

impl Spread {
    const BUCKETS: usize = 12;

    /// Ranges that end at `first`, 4 x `first`, 16 x `first`...; the last has
    /// no end.
    pub const fn from(first: u64) -> Self {
        Self { first, buckets: [const { AtomicU64::new(0) }; Self::BUCKETS], sum: AtomicU64::new(0) }
    }

    /// Counts one value.
    pub fn observe(&self, value: u64) {
        let mut end = self.first;
        let mut at = 0;
        while value > end && at < Self::BUCKETS - 1 {
            end = end.saturating_mul(4);
            at += 1;
        }
        self.buckets[at].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Counts a duration, in microseconds.
    pub fn observe_time(&self, took: Duration) {
        self.observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// (sum, count, buckets by their end), `per` of which make a unit.
    fn read(&self, per: f64) -> (f64, u64, Vec<(f64, u64)>) {
        let mut end = self.first;
        let mut buckets = Vec::with_capacity(Self::BUCKETS);
        for (at, bucket) in self.buckets.iter().enumerate() {
            let last = at == Self::BUCKETS - 1;
            buckets.push((if last { f64::INFINITY } else { end as f64 / per }, bucket.load(Relaxed)));
            end = end.saturating_mul(4);
        }
        let count = buckets.iter().map(|(_, n)| n).sum();
        (self.sum.load(Relaxed) as f64 / per, count, buckets)
    }
}

/// Everything that is counted in one node.
#[derive(Debug, Default)]
pub struct Stats {
    /// Counted by HTTP tasks.
    pub http: HttpStats,
    /// Counted by the store worker.
    pub store: Arc<StoreStats>,
    /// Counted by the pool of readers.
    pub reads: Arc<ReadStats>,
    /// Counted by the log worker.
    pub log: Arc<LogStats>,
    /// Counted by the node loop and the bus.
    pub peer: PeerStats,
    /// Counted by who accepts connections, where they are encrypted.
    pub tls: TlsStats,
}

/// What is counted of TLS.
#[derive(Debug, Default)]
pub struct TlsStats {
    /// When the first certificate expires, in seconds since 1970; 0 without TLS.
    pub expires: Level,
    /// Connections refused in their handshake.
    pub refused: Count,
    /// Times that replaced files were taken into use.
    pub renewed: Count,
}

/// Status classes: 1xx to 5xx.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What HTTP tasks count.
#[derive(Debug)]
pub struct HttpStats {
    /// Answers, by route and status class.
    requests: [[Count; CLASSES.len()]; Route::ALL.len()],
    /// Time from a request's head to its answer's head, by route.
    seconds: [Spread; Route::ALL.len()],
    /// Open connections.
    pub connections: Level,
    /// Connections turned away because there were too many.
    pub connections_shed: Count,
    /// Connections closed because a header, or the reading of an answer, took
    /// too long.
    pub connections_slow: Count,
    /// Requests passed on to the writer.
    pub forwarded: Count,
    /// Answers 504: the outcome of a write is unknown.
    pub unknown: Count,
    /// Writes handed to the store and not answered yet.
    pub writes_waiting: Level,
    /// Reads that wait for their session's position.
    pub reads_waiting: Level,
    /// Requests without the right credentials.
    pub unauthorized: Count,
    /// Requests that a page of another origin made a browser send.
    pub foreign: Count,
    /// Open change feeds.
    pub feeds: Level,
    /// Transactions told by change feeds.
    pub feed_transactions: Count,
}

impl Default for HttpStats {
    fn default() -> Self {
        Self {
            requests: Default::default(),
            seconds: std::array::from_fn(|_| Spread::from(100)),
            connections: Level::default(),
            connections_shed: Count::default(),
            connections_slow: Count::default(),
            forwarded: Count::default(),
            unknown: Count::default(),
            writes_waiting: Level::default(),
            reads_waiting: Level::default(),
            unauthorized: Count::default(),
            foreign: Count::default(),
            feeds: Level::default(),
            feed_transactions: Count::default(),
        }
    }
}

impl HttpStats {
    /// Counts one answer.
    pub fn answered(&self, route: Route, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[route as usize][class].add(1);
        self.seconds[route as usize].observe_time(took);
    }
}

/// What the store worker counts.
#[derive(Debug)]
pub struct StoreStats {
    /// Requests in a group, at each COMMIT.
    pub group_requests: Spread,
    /// Bytes of change-sets in a group, at each COMMIT.
    pub group_bytes: Spread,
    /// Groups rolled back after they were proposed: their entries may be in
    /// the log, and may be committed by another node.
    pub groups_rolled_back: Count,
    /// Entries brought into `data.db` from the log, as a replica does.
    pub applied_entries: Count,
    /// Entries of those in one transaction.
    pub apply_entries: Spread,
    /// Requests and committed entries that wait for the write connection.
    pub queue: Level,
    /// Bytes of `data.db` and its write-ahead log.
    pub bytes: Level,
}

impl Default for StoreStats {
    fn default() -> Self {
        Self {
            group_requests: Spread::from(1),
            group_bytes: Spread::from(256),
            groups_rolled_back: Count::default(),
            applied_entries: Count::default(),
            apply_entries: Spread::from(1),
            queue: Level::default(),
            bytes: Level::default(),
        }
    }
}

/// What the node loop and the bus count.
#[derive(Debug, Default)]
pub struct PeerStats {
    /// Frames that came in.
    pub frames_received: Count,
    /// Frames that went out.
    pub frames_sent: Count,
    /// Frames dropped because they were malformed, forged, of another cluster
    /// or out of date.
    pub frames_refused: Count,
    /// Frames dropped because a window was full.
    pub frames_dropped: Count,
    /// Times this node was elected.
    pub elections_won: Count,
    /// Times this node stepped down.
    pub stepped_down: Count,
    /// Snapshots sent.
    pub snapshots_sent: Count,
    /// Snapshots installed.
    pub snapshots_installed: Count,
    /// Snapshots refused or broken off.
    pub snapshots_failed: Count,
    /// Content hashes found to differ.
    pub divergences: Count,
}

/// The state of the moment that a scrape shows beside the counts.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The view of the node.
    pub view: Arc<View>,
    /// What `data.db` contains.
    pub applied: Seq,
    /// Both clocks.
    pub now: Now,
}

/// The Prometheus text of a node.
///
/// # Errors
/// [`fmt::Error`] if a name or value cannot be written, which none here can't.
pub fn scrape(stats: &Arc<Stats>, moment: Moment) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("base_ha");
    registry.register_collector(Box::new(Scrape { stats: stats.clone(), moment }));
    let mut text = String::with_capacity(16 << 10);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    stats: Arc<Stats>,
    moment: Moment,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        self.http(&mut out)?;
        self.tls(&mut out)?;
        self.reads(&mut out)?;
        self.data(&mut out)?;
        self.node(&mut out)
    }
}

impl Scrape {
    fn http(&self, out: &mut Out<'_>) -> fmt::Result {
        let http = &self.stats.http;
        let mut family = out.0.encode_descriptor(
            "http_requests",
            "Answers, by route and status class",
            None,
            MetricType::Counter,
        )?;
        for (route, classes) in Route::ALL.iter().zip(&http.requests) {
            for (class, count) in CLASSES.iter().zip(classes) {
                if count.get() > 0 {
                    let labels = [("route", route.name()), ("status", *class)];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count.get(), None)?;
                }
            }
        }
        let mut family = out.0.encode_descriptor(
            "http_request_duration",
            "From a request's head to its answer's head, by route",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (route, spread) in Route::ALL.iter().zip(&http.seconds) {
            if spread.count() > 0 {
                let (sum, count, buckets) = spread.read(1e6);
                let labels = [("route", route.name())];
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        out.level("http_connections", "Open connections", http.connections.get())?;
        out.count("http_connections_shed", "Connections turned away", http.connections_shed.get())?;
        out.count("http_connections_slow", "Connections closed for slowness", http.connections_slow.get())?;
        out.count("http_forwarded", "Requests passed on to the writer", http.forwarded.get())?;
        out.count("http_outcomes_unknown", "Writes answered with an unknown outcome", http.unknown.get())?;
        out.count("http_unauthorized", "Requests without the right credentials", http.unauthorized.get())?;
        out.count("http_foreign", "Requests refused as of another origin", http.foreign.get())?;
        out.level("feeds", "Open change feeds", http.feeds.get())?;
        out.count("feed_transactions", "Transactions told by change feeds", http.feed_transactions.get())?;
        out.level("writes_waiting", "Writes handed to the store and not answered", http.writes_waiting.get())?;
        out.level("reads_waiting", "Reads that wait for a position", http.reads_waiting.get())
    }

    fn tls(&self, out: &mut Out<'_>) -> fmt::Result {
        let tls = &self.stats.tls;
        if tls.expires.get() == 0 {
            return Ok(());
        }
        let (name, help) = ("tls_expires_timestamp", "When the first TLS certificate expires, since 1970");
        let mut metric = out.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        metric.encode_gauge(&tls.expires.get())?;
        out.count("tls_refused", "Connections refused in their TLS handshake", tls.refused.get())?;
        out.count("tls_renewed", "Times that replaced TLS files were taken into use", tls.renewed.get())
    }

    fn reads(&self, out: &mut Out<'_>) -> fmt::Result {
        let reads = &self.stats.reads;
        out.count("reads_fast", "Reads answered on the thread they came in on", reads.fast.load(Relaxed))?;
        out.count("reads_slow", "Reads answered elsewhere", reads.slow.load(Relaxed))?;
        out.count("reads_moved", "Reads that began on their thread and were moved", reads.moved.load(Relaxed))?;
        out.count("reads_timed_out", "Reads stopped at their deadline", reads.timed_out.load(Relaxed))?;
        out.count("reads_shed", "Reads refused because too many waited", reads.shed.load(Relaxed))?;
        out.count("read_connections_opened", "Read connections opened", reads.opened.load(Relaxed))
    }

    fn data(&self, out: &mut Out<'_>) -> fmt::Result {
        let (store, log) = (&self.stats.store, &self.stats.log);
        out.spread("group_requests", "Requests in a group commit", None, 1.0, &store.group_requests)?;
        out.spread("group", "Change-sets in a group commit", Some(Unit::Bytes), 1.0, &store.group_bytes)?;
        out.count("groups_rolled_back", "Groups rolled back after logging", store.groups_rolled_back.get())?;
        out.count("applied_entries", "Entries applied from the log", store.applied_entries.get())?;
        out.spread("apply_entries", "Entries applied in one transaction", None, 1.0, &store.apply_entries)?;
        out.level("store_queue", "Requests and entries waiting for the store", store.queue.get())?;
        out.bytes("data", "Size of the database and its write-ahead log", store.bytes.get())?;
        out.bytes("log", "Size of the log", log.bytes())?;
        out.spread("log_fsync", "Time of one fsync of the log", Some(Unit::Seconds), 1e6, &log.fsync_seconds)?;
        out.spread("log_fsync_entries", "Entries made durable by one fsync", None, 1.0, &log.fsync_entries)?;
        out.level("orphans", "Entries dropped from the log uncommitted and kept aside", log.orphans())?;
        out.bytes("orphans", "Payloads of those", log.orphan_bytes())
    }

    fn node(&self, out: &mut Out<'_>) -> fmt::Result {
        let (peer, view) = (&self.stats.peer, &self.moment.view);
        out.count("frames_received", "Frames from peers", peer.frames_received.get())?;
        out.count("frames_sent", "Frames to peers", peer.frames_sent.get())?;
        out.count("frames_refused", "Frames refused", peer.frames_refused.get())?;
        out.count("frames_dropped", "Frames dropped at a full window", peer.frames_dropped.get())?;
        out.count("elections_won", "Times this node was elected", peer.elections_won.get())?;
        out.count("stepped_down", "Times this node stepped down", peer.stepped_down.get())?;
        out.count("snapshots_sent", "Snapshots sent", peer.snapshots_sent.get())?;
        out.count("snapshots_installed", "Snapshots installed", peer.snapshots_installed.get())?;
        out.count("snapshots_failed", "Snapshots refused or broken off", peer.snapshots_failed.get())?;
        out.count("divergences", "Content hashes found to differ", peer.divergences.get())?;
        let applied = self.moment.applied.0;
        out.level("term", "The term this node is in", view.shown().0.0)?;
        out.level("applied", "The last entry in the database", applied)?;
        out.level("commit", "The last entry known to be committed", view.commit.0)?;
        out.level("lag_entries", "Committed entries not yet applied", view.commit.0.saturating_sub(applied))?;
        out.level("is_writer", "1 if this node may write", u64::from(view.pin.writable))?;
        if let Some(status) = &view.status {
            out.level("fit", "1 if this node may serve", u64::from(status.unfit.is_none()))?;
            out.level("members", "Members of the cluster", status.membership.members.len() as u64)?;
            let up = status.peers.iter().filter(|peer| peer.up).count();
            out.level("peers_up", "Members heard within the lease, this one included", up as u64)?;
            out.level("log_first", "The first entry in the log", status.log_first.0)?;
            out.level("log_last", "The last entry in the log", status.last.seq.0)?;
            out.level("has_cluster", "1 once a cluster exists", u64::from(status.part != Part::Unborn))?;
        }
        out.bytes("process_resident_memory", "Resident memory of the process", resident_bytes())
    }
}

/// The process's resident memory in bytes; 0 where the system doesn't say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0);
    kibibytes.saturating_mul(1024)
}

/// Short forms of the encoder's calls.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn count(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn level(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn bytes(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?.encode_gauge(&value)
    }

    fn spread(&mut self, name: &str, help: &str, unit: Option<Unit>, per: f64, spread: &Spread) -> fmt::Result {
        let (sum, count, buckets) = spread.read(per);
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_shows_what_was_counted() {
        let stats = Arc::new(Stats::default());
        stats.http.answered(Route::Query, 200, Duration::from_micros(150));
        stats.http.answered(Route::Query, 503, Duration::from_micros(50));
        stats.store.group_requests.observe(3);
        stats.log.fsync_entries.observe(2);
        let view = Arc::new(View { commit: Seq(6), ..View::default() });
        let moment = Moment { view, applied: Seq(4), now: Now::default() };
        let text = scrape(&stats, moment).unwrap();
        for line in [
            r#"base_ha_http_requests_total{route="query",status="2xx"} 1"#,
            r#"base_ha_http_requests_total{route="query",status="5xx"} 1"#,
            r#"base_ha_http_request_duration_seconds_bucket{le="0.0001",route="query"} 1"#,
            r#"base_ha_http_request_duration_seconds_count{route="query"} 2"#,
            r#"base_ha_group_requests_bucket{le="4.0"} 1"#,
            r#"base_ha_group_requests_bucket{le="+Inf"} 1"#,
            "base_ha_log_fsync_entries_count 1",
            "base_ha_applied 4",
            "base_ha_lag_entries 2",
            "base_ha_is_writer 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn values_fall_into_ranges_that_quadruple() {
        let spread = Spread::from(1);
        for value in [0, 1, 2, 4, 5, u64::MAX] {
            spread.observe(value);
        }
        let (_, count, buckets) = spread.read(1.0);
        assert_eq!(count, 6);
        assert_eq!(buckets[0], (1.0, 2));
        assert_eq!(buckets[1], (4.0, 2));
        assert_eq!(buckets[2], (16.0, 1));
        assert_eq!(buckets[Spread::BUCKETS - 1], (f64::INFINITY, 1));
    }
}
