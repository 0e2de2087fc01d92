//! Several nodes that know each other.
//!
//! Decides their names, addresses and common settings, and what "converged"
//! means.

use crate::node::{Node, SECRET, free_port};
use crate::proxy::{Links, Proxy};
use crate::wait::{eventually, holds};
use std::ops::{Index, IndexMut};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// Nodes `node-1` to `node-N` in one temporary directory.
pub struct Cluster {
    nodes: Vec<Node>,
    proxies: Vec<Proxy>,
    links: Arc<Links>,
    // Last: the directories go when the processes are gone.
    home: TempDir,
}

impl Cluster {
    /// Nodes that were not started yet.
    ///
    /// # Panics
    /// If there is no temporary directory.
    pub fn new(size: usize) -> Self {
        Self::make(size, false)
    }

    /// Nodes that were not started yet and whose links can be cut: each is
    /// reached by the others through a proxy.
    ///
    /// # Panics
    /// As [`Cluster::new`].
    pub fn cuttable(size: usize) -> Self {
        Self::make(size, true)
    }

    /// Nodes that run and have a writer.
    ///
    /// # Panics
    /// If they don't get that far.
    pub fn started(size: usize) -> Self {
        let mut cluster = Self::new(size);
        cluster.start_all();
        cluster
    }

    fn make(size: usize, cuttable: bool) -> Self {
        let home = tempfile::Builder::new().prefix("base-ha-test-").tempdir().expect("a temporary directory");
        let links = Arc::new(Links::new(size));
        let mut nodes: Vec<Node> = (1..=size)
            .map(|n| Node::new(&format!("node-{n}"), free_port(), home.path().join(format!("node-{n}"))))
            .collect();
        let proxies: Vec<Proxy> = match cuttable {
            true => nodes.iter().enumerate().map(|(n, node)| Proxy::start(n, node.port, links.clone())).collect(),
            false => Vec::new(),
        };
        let url = |n: usize, node: &Node| proxies.get(n).map_or_else(|| node.url(), Proxy::url);
        let urls: Vec<String> = nodes.iter().enumerate().map(|(n, node)| url(n, node)).collect();
        for (node, url) in nodes.iter_mut().zip(&urls) {
            node.set("BASE_LOCAL_TARGET", url);
            node.set("BASE_PEERS", &urls.join(","));
            node.set("BASE_CLUSTER_SECRET", SECRET);
        }
        Self { nodes, proxies, links, home }
    }

    /// Sets a variable for every node's next start.
    pub fn set(&mut self, name: &str, value: &str) {
        for node in &mut self.nodes {
            node.set(name, value);
        }
    }

    /// Adds a node that was not started yet. It knows all seats; the others
    /// don't know of it.
    ///
    /// # Panics
    /// If the cluster's links can be cut: the new node's could not.
    pub fn add(&mut self, name: &str) -> usize {
        assert!(self.proxies.is_empty(), "nodes are added to clusters without proxies");
        let mut node = Node::new(name, free_port(), self.home.path().join(name));
        let peers = format!("{},{}", self.nodes[0].env["BASE_PEERS"], node.url());
        node.set("BASE_PEERS", &peers);
        node.set("BASE_LOCAL_TARGET", &node.url());
        node.set("BASE_CLUSTER_SECRET", &self.nodes[0].env["BASE_CLUSTER_SECRET"].clone());
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Gives a stopped node another address, which it tells the others from its
    /// next start on; says which.
    ///
    /// # Panics
    /// If it runs.
    pub fn moves(&mut self, n: usize) -> String {
        assert!(!self.nodes[n].is_started(), "a node moves while it is stopped");
        let port = free_port();
        let (old, url) = (self.nodes[n].url(), format!("http://127.0.0.1:{port}"));
        let node = &mut self.nodes[n];
        node.port = port;
        node.set("BASE_HTTP", &format!("127.0.0.1:{port}"));
        node.set("BASE_LOCAL_TARGET", &url);
        node.set("BASE_PEERS", &node.env["BASE_PEERS"].replace(&old, &url));
        url
    }

    /// As [`Cluster::add`], to a cluster over mutual TLS, reached at `host` by
    /// its certificate.
    pub fn add_tls(&mut self, name: &str, host: &str, files: &(PathBuf, PathBuf)) -> usize {
        let mut node = Node::new(name, free_port(), self.home.path().join(name));
        let url = format!("https://{host}:{}", node.port);
        let first = &self.nodes[0];
        node.set("BASE_PEERS", &format!("{},{url}", first.env["BASE_PEERS"]));
        node.set("BASE_LOCAL_TARGET", &url);
        node.set("BASE_TLS_CA", &first.env["BASE_TLS_CA"].clone());
        node.use_certificate(files);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Starts every node and waits for a writer.
    ///
    /// # Panics
    /// If there is none in time.
    pub fn start_all(&mut self) {
        // Who a process is is known before it connects to anybody: a link is
        // cut by whose it is.
        for n in 0..self.nodes.len() {
            self.nodes[n].start();
            self.note_pid(n);
        }
        for node in &mut self.nodes {
            node.wait_alive();
        }
        for node in &self.nodes {
            node.wait_ready();
        }
    }

    /// Kills a node and starts it again, waiting until it answers.
    pub fn restart(&mut self, n: usize) {
        self.nodes[n].kill();
        self.start(n);
    }

    /// Starts a node and waits until it answers.
    pub fn start(&mut self, n: usize) {
        self.nodes[n].start();
        self.note_pid(n);
        self.nodes[n].wait_alive();
    }

    fn note_pid(&self, n: usize) {
        if n < self.proxies.len()
            && let Some(pid) = self.nodes[n].pid()
        {
            self.links.is_process(n, pid);
        }
    }

    /// Every node.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Every node.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Cuts a node off from all others, both ways, without a word: bytes wait
    /// as they would for a retransmission. Clients still reach it.
    pub fn isolate(&self, n: usize) {
        self.links.isolate(n);
    }

    /// Mends all links.
    pub fn heal(&self) {
        self.links.heal();
    }

    /// Makes every connection between nodes carry so many bytes a second only.
    pub fn narrow(&self, bytes_per_second: u64) {
        self.links.narrow(bytes_per_second);
    }

    /// How many bytes passed over narrow links so far.
    pub fn slowed(&self) -> u64 {
        self.links.slowed()
    }

    /// How many bytes were held back by cuts so far.
    pub fn held_back(&self) -> u64 {
        self.links.held_back()
    }

    /// The writer that says so itself, once there is exactly one such node and
    /// no started node names another.
    pub fn wait_writer(&self) -> usize {
        self.wait_writer_among(&(0..self.nodes.len()).collect::<Vec<_>>())
    }

    /// As [`Cluster::wait_writer`], asking these nodes only.
    pub fn wait_writer_among(&self, among: &[usize]) -> usize {
        eventually("one writer that all agree on", || {
            let mut writers = Vec::new();
            let mut named = Vec::new();
            for n in among.iter().copied().filter(|n| self.nodes[*n].is_started()) {
                let view = self.nodes[n].status()?;
                if view.part == "writer" {
                    writers.push(n);
                }
                named.push(view.writer);
            }
            match writers[..] {
                [n] if named.iter().all(|name| name.as_ref() == Some(&self.nodes[n].name)) => Ok(n),
                _ => Err(format!("writers {writers:?}, named {named:?}")),
            }
        })
    }

    /// Waits until every started node answers `sql` by the same rows, read
    /// locally, and has applied all that any of them knows to be committed;
    /// answers the rows.
    pub fn converged(&self, sql: &str) -> serde_json::Value {
        eventually(&format!("all nodes answer {sql:?} alike"), || {
            let mut first = None;
            let mut positions = Vec::new();
            for node in self.nodes.iter().filter(|node| node.is_started()) {
                let view = node.status()?;
                positions.push((view.applied, view.commit));
                let rows = node.local_rows(sql)?;
                match &first {
                    None => first = Some(rows),
                    Some(expected) => holds(*expected == rows, format!("{}: {rows} is not {expected}", node.name))?,
                }
            }
            let commit = positions.iter().map(|(_, commit)| *commit).max().unwrap_or_default();
            holds(positions.iter().all(|(applied, _)| *applied == commit), format!("positions {positions:?}"))?;
            first.ok_or_else(|| "no node runs".to_string())
        })
    }
}

impl Index<usize> for Cluster {
    type Output = Node;

    fn index(&self, n: usize) -> &Node {
        &self.nodes[n]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, n: usize) -> &mut Node {
        &mut self.nodes[n]
    }
}
