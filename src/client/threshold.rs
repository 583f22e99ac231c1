//! Connections that have not proven who they are: how many there may be.
//!
//! Whoever can reach the port can open connections and say nothing. Such a connection costs a file
//! descriptor until `limits.login_timeout`, so there are at most `limits.max_logins` of them in all
//! and `limits.max_logins_per_address` from one address. One more sends away the one that has been
//! waiting the longest, which is hardly ever a client: a login takes milliseconds. Files that clients
//! may not use up are left for the nodes' connections and for the console ([`Threshold::is_full`]).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::config::Config;
use crate::net::{Socket, files};
use crate::telemetry::ClientAddr;

/// All that stand there, on all workers.
#[derive(Debug, Default)]
pub struct Threshold(Arc<Mutex<Standing>>);

#[derive(Debug, Default)]
struct Standing {
    next: u64,
    /// In the order in which they came.
    all: BTreeMap<u64, Newcomer>,
    from: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Newcomer {
    from: Option<IpAddr>,
    sent_away: Arc<Notify>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Standee {
    number: u64,
    sent_away: Arc<Notify>,
    all: Arc<Mutex<Standing>>,
}

/// Who is one neighbour: a host, or with IPv6 the network that one host usually has to itself.
fn neighbour(addr: ClientAddr) -> Option<IpAddr> {
    let ClientAddr::Tcp(addr) = addr else { return None };
    Some(match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
    })
}

/// The share of the files that newcomers may have, and that is left for what is not a client.
const SHARE: usize = 4;

impl Threshold {
    /// Another one has come.
    pub fn enter(&self, addr: ClientAddr, config: &Config) -> Standee {
        let most = config.limits.max_logins.min(files::limit() / SHARE).max(1);
        let from = neighbour(addr);
        let mut standing = lock(&self.0);
        if let Some(ip) = from
            && standing.from.get(&ip).is_some_and(|n| *n >= config.limits.max_logins_per_address)
        {
            standing.send_away_first(|n| n.from == Some(ip));
        }
        if standing.all.len() >= most {
            standing.send_away_first(|_| true);
        }
        let number = standing.next;
        standing.next += 1;
        let sent_away = Arc::<Notify>::default();
        standing.all.insert(number, Newcomer { from, sent_away: sent_away.clone() });
        if let Some(ip) = from {
            *standing.from.entry(ip).or_default() += 1;
        }
        Standee { number, sent_away, all: self.0.clone() }
    }

    /// Whether a client on this socket would take what is left for the nodes and the console. The system
    /// gives the lowest number that is free, so a high one says that the lower ones are taken.
    pub fn is_full(socket: &Socket, config: &Config) -> bool {
        let limit = files::limit();
        let newcomers = config.limits.max_logins.min(limit / SHARE);
        let nodes = (config.pool.size * config.cluster.nodes.len()).min(limit / SHARE);
        let number = usize::try_from(socket.as_fd().as_raw_fd()).unwrap_or(0);
        number >= limit - newcomers - nodes
    }
}

impl Standing {
    fn send_away_first(&mut self, which: impl Fn(&Newcomer) -> bool) {
        let first = self.all.iter().find(|(_, n)| which(n)).map(|(number, _)| *number);
        if let Some(newcomer) = first.and_then(|number| self.remove(number)) {
            newcomer.sent_away.notify_one();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Newcomer> {
        let newcomer = self.all.remove(&number)?;
        if let Some(ip) = newcomer.from
            && let Some(n) = self.from.get_mut(&ip)
        {
            *n -= 1;
            if *n == 0 {
                self.from.remove(&ip);
            }
        }
        Some(newcomer)
    }
}

impl Standee {
    /// Until another one has come in its place; never, when it has been let in.
    pub fn sent_away(&self) -> Arc<Notify> {
        self.sent_away.clone()
    }
}

impl Drop for Standee {
    fn drop(&mut self) {
        lock(&self.all).remove(self.number);
    }
}

fn lock(all: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    all.lock().unwrap_or_else(|e| e.into_inner())
}
