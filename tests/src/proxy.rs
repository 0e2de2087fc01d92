//! Links that can be cut or made narrow: a TCP proxy in front of each node.
//!
//! Decides whose bytes pass, and how fast. A cut is silent, as a broken cable is:
//! nothing is closed, bytes wait until the link is mended.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A connection of nobody's is closed after so many looks.
const OWNER_LOOKS: u32 = 200;

/// Which links are cut, and which process is which node.
pub struct Links {
    cut: Mutex<BTreeSet<(usize, usize)>>,
    pids: Mutex<Vec<Option<u32>>>,
    held_back: AtomicU64,
    /// Bytes a second that each connection carries each way; 0 for any number.
    rate: AtomicU64,
    slowed: AtomicU64,
}

impl Links {
    /// All links are whole.
    pub fn new(size: usize) -> Self {
        Self {
            cut: Mutex::new(BTreeSet::new()),
            pids: Mutex::new(vec![None; size]),
            held_back: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            slowed: AtomicU64::new(0),
        }
    }

    /// Node `n` is this process now.
    pub fn is_process(&self, n: usize, pid: u32) {
        lock(&self.pids)[n] = Some(pid);
    }

    /// Cuts all links of a node, both ways.
    pub fn isolate(&self, n: usize) {
        let size = lock(&self.pids).len();
        let mut cut = lock(&self.cut);
        for other in (0..size).filter(|other| *other != n) {
            cut.insert((n, other));
            cut.insert((other, n));
        }
    }

    /// Mends all links.
    pub fn heal(&self) {
        lock(&self.cut).clear();
    }

    /// From now on each connection carries so many bytes a second each way.
    pub fn narrow(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// How many bytes passed over narrow links so far.
    pub fn slowed(&self) -> u64 {
        self.slowed.load(Ordering::Relaxed)
    }

    /// How many bytes a cut held back so far: a test that cuts proves by it
    /// that there was something to cut.
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        lock(&self.cut).contains(&(from, to))
    }

    /// As [`Links::owner`], of a connection that was just made: the test may
    /// not have told yet which process its node is.
    fn owner_of_new(&self, peer: SocketAddr) -> Option<usize> {
        (0..OWNER_LOOKS).find_map(|n| {
            if n > 0 {
                std::thread::sleep(LOOK_EVERY);
            }
            self.owner(peer)
        })
    }

    /// Which node's process owns the other end of a connection: by the
    /// socket's number, as the kernel lists it.
    fn owner(&self, peer: SocketAddr) -> Option<usize> {
        let inode = inode_of(peer)?;
        let link = format!("socket:[{inode}]");
        let pids = lock(&self.pids).clone();
        pids.iter().position(|pid| {
            let Some(pid) = pid else { return false };
            let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
            files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))
        })
    }
}

/// The socket number of the local end `address`, from `/proc/net/tcp`.
fn inode_of(address: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(v4) = address else { return None };
    let wanted = format!("{:08X}:{:04X}", u32::from_le_bytes(v4.ip().octets()), v4.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns.get(1) == Some(&wanted.as_str())).then(|| columns.get(9)?.parse().ok())?
    })
}

/// A proxy in front of one node. It lives as long as the test.
pub struct Proxy {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens in front of node `to`, which listens at `target`.
    ///
    /// # Panics
    /// If it can't listen.
    pub fn start(to: usize, target: u16, links: Arc<Links>) -> Self {
        let port = crate::node::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let ended = Arc::new(AtomicBool::new(false));
        let over = ended.clone();
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        let (links, over) = (links.clone(), over.clone());
                        std::thread::spawn(move || connect(stream, peer, to, target, &links, &over));
                    }
                    Err(_) => std::thread::sleep(LOOK_EVERY),
                }
            }
        });
        Self { port, ended }
    }

    /// Where others reach the node.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn connect(inward: TcpStream, peer: SocketAddr, to: usize, target: u16, links: &Arc<Links>, over: &Arc<AtomicBool>) {
    let Some(from) = links.owner_of_new(peer) else {
        // Its links could not be cut: a node dials again.
        let _ = inward.shutdown(Shutdown::Both);
        return;
    };
    while links.is_cut(from, to) && !over.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_EVERY);
    }
    let Ok(outward) = TcpStream::connect(("127.0.0.1", target)) else {
        let _ = inward.shutdown(Shutdown::Both);
        return;
    };
    let (Ok(inward2), Ok(outward2)) = (inward.try_clone(), outward.try_clone()) else { return };
    let (links2, over2) = (links.clone(), over.clone());
    let back = std::thread::spawn(move || {
        relay(outward2, inward2, &links2, &over2, |links| links.is_cut(to, from));
    });
    relay(inward, outward, links, over, |links| links.is_cut(from, to));
    let _ = back.join();
}

fn relay(mut from: TcpStream, mut to: TcpStream, links: &Links, over: &AtomicBool, is_cut: impl Fn(&Links) -> bool) {
    let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
    let _ = (from.set_nodelay(true), to.set_nodelay(true), from.set_nonblocking(false));
    // Small, so that what passes a narrow link trickles.
    let mut bytes = [0u8; 16 << 10];
    while !over.load(Ordering::Relaxed) {
        let n = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        if is_cut(links) {
            links.held_back.fetch_add(n as u64, Ordering::Relaxed);
            while is_cut(links) && !over.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        let rate = links.rate.load(Ordering::Relaxed);
        if let Some(nanos) = (n as u64 * 1_000_000_000).checked_div(rate) {
            links.slowed.fetch_add(n as u64, Ordering::Relaxed);
            std::thread::sleep(Duration::from_nanos(nanos));
        }
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Read);
    let _ = to.shutdown(Shutdown::Write);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
