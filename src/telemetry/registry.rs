//! Who is connected right now, and where to ask for the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU64, Ordering, Ordering::Relaxed,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::{WorkerStats, WorkerSums};
use crate::topology::{NodeId, ShardId};

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            fn from_u8(n: u8) -> Self {
                Self::ALL.iter().copied().find(|s| *s as u8 == n).unwrap_or(Self::ALL[0])
            }
        }
    };
}

states! {
    /// What a client is doing.
    ClientState {
        Idle = "idle",
        /// A statement runs.
        Active = "active",
        /// For a server connection.
        Waiting = "waiting",
        /// By a gate.
        Held = "held",
        /// Open, with no statement running.
        InTransaction = "in-transaction",
    }
}

states! {
    /// What a server connection is doing.
    ServerState {
        Idle = "idle",
        Active = "active",
        /// Logging in.
        New = "new",
        /// Given to a client, which sends nothing at the moment.
        Used = "used",
    }
}

/// No node, no shard: no catalog row has this id.
const NONE: i64 = i64::MIN;

/// Where a client comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientAddr {
    Tcp(SocketAddr),
    /// This machine, through the Unix socket.
    Unix,
}

impl ClientAddr {
    /// As PgBouncer shows it.
    pub fn host(&self) -> String {
        match self {
            Self::Tcp(addr) => addr.ip().to_string(),
            Self::Unix => "unix".to_owned(),
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What is known of a client when it has logged in.
#[derive(Debug, Clone)]
pub struct NewClient {
    pub user: String,
    pub database: String,
    pub application_name: String,
    pub addr: ClientAddr,
    pub tls: bool,
    pub worker: usize,
}

/// A client connection. The worker that serves it updates the entry; anybody may read it.
#[derive(Debug)]
pub struct ClientInfo {
    /// The id of SHOW CLIENTS, and of a gate's blockers.
    pub id: u64,
    pub user: String,
    pub database: String,
    pub addr: ClientAddr,
    pub tls: bool,
    pub worker: usize,
    pub connected_at: SystemTime,
    application_name: Mutex<String>,
    state: AtomicU8,
    /// Microseconds after `born` at which the present wait or hold began.
    since_us: AtomicU64,
    born: Instant,
    node: AtomicI64,
    shard: AtomicI64,
    prepared: AtomicU64,
    pin: Mutex<Option<&'static str>>,
}

impl ClientInfo {
    pub fn state(&self) -> ClientState {
        ClientState::from_u8(self.state.load(Relaxed))
    }

    #[inline]
    pub fn set_state(&self, state: ClientState) {
        self.state.store(state as u8, Relaxed);
    }

    /// Enters a state that SHOW CLIENTS tells the length of: waiting or held.
    pub fn set_state_since(&self, state: ClientState, now: Instant) {
        let us = now.saturating_duration_since(self.born).as_micros();
        self.since_us.store(u64::try_from(us).unwrap_or(u64::MAX), Relaxed);
        self.set_state(state);
    }

    /// How long the client has been waiting or held; zero when it is neither.
    pub fn waited(&self, now: Instant) -> Duration {
        match self.state() {
            ClientState::Waiting | ClientState::Held => now
                .saturating_duration_since(self.born)
                .saturating_sub(Duration::from_micros(self.since_us.load(Relaxed))),
            ClientState::Idle | ClientState::Active | ClientState::InTransaction => Duration::ZERO,
        }
    }

    pub fn node(&self) -> Option<NodeId> {
        id_of(&self.node).map(NodeId)
    }

    #[inline]
    pub fn set_node(&self, node: Option<NodeId>) {
        self.node.store(node.map_or(NONE, |n| n.0.into()), Relaxed);
    }

    pub fn shard(&self) -> Option<ShardId> {
        id_of(&self.shard).map(ShardId)
    }

    #[inline]
    pub fn set_shard(&self, shard: Option<ShardId>) {
        self.shard.store(shard.map_or(NONE, |s| s.0.into()), Relaxed);
    }

    pub fn prepared(&self) -> u64 {
        self.prepared.load(Relaxed)
    }

    pub fn set_prepared(&self, count: u64) {
        self.prepared.store(count, Relaxed);
    }

    pub fn application_name(&self) -> String {
        lock(&self.application_name).clone()
    }

    pub fn set_application_name(&self, name: &str) {
        *lock(&self.application_name) = name.to_owned();
    }

    /// Why the session keeps its server connection until it ends.
    pub fn pin(&self) -> Option<&'static str> {
        *lock(&self.pin)
    }

    pub fn set_pin(&self, reason: Option<&'static str>) {
        *lock(&self.pin) = reason;
    }
}

/// What is known of a server connection when it is opened.
#[derive(Debug, Clone)]
pub struct NewServer {
    pub node: NodeId,
    pub user: String,
    pub database: String,
    pub tls: bool,
    pub worker: usize,
}

/// A connection of the pool to a node.
#[derive(Debug)]
pub struct ServerInfo {
    pub id: u64,
    pub node: NodeId,
    pub user: String,
    pub database: String,
    pub tls: bool,
    pub worker: usize,
    pub connected_at: SystemTime,
    state: AtomicU8,
    backend_pid: AtomicI32,
    prepared: AtomicU64,
    /// The client it serves; 0: none.
    client: AtomicU64,
}

impl ServerInfo {
    pub fn state(&self) -> ServerState {
        ServerState::from_u8(self.state.load(Relaxed))
    }

    #[inline]
    pub fn set_state(&self, state: ServerState) {
        self.state.store(state as u8, Relaxed);
    }

    pub fn backend_pid(&self) -> i32 {
        self.backend_pid.load(Relaxed)
    }

    pub fn set_backend_pid(&self, pid: i32) {
        self.backend_pid.store(pid, Relaxed);
    }

    pub fn prepared(&self) -> u64 {
        self.prepared.load(Relaxed)
    }

    pub fn set_prepared(&self, count: u64) {
        self.prepared.store(count, Relaxed);
    }

    pub fn client(&self) -> Option<u64> {
        Some(self.client.load(Relaxed)).filter(|&c| c != 0)
    }

    #[inline]
    pub fn set_client(&self, client: Option<u64>) {
        self.client.store(client.unwrap_or(0), Relaxed);
    }
}

/// A pool's figures at one moment: one worker's share of a node, database and role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFigures {
    pub node: NodeId,
    pub database: String,
    pub user: String,
    /// Clients with a server connection, and clients in the queue for one.
    pub clients_active: usize,
    pub clients_waiting: usize,
    pub servers_active: usize,
    pub servers_idle: usize,
    pub servers_opening: usize,
    /// The most server connections this pool may have.
    pub size: usize,
    /// How long the first in the queue has waited.
    pub longest_wait: Duration,
}

impl PoolFigures {
    /// Adds another worker's share of the same pool.
    pub fn merge(&mut self, other: &Self) {
        self.clients_active += other.clients_active;
        self.clients_waiting += other.clients_waiting;
        self.servers_active += other.servers_active;
        self.servers_idle += other.servers_idle;
        self.servers_opening += other.servers_opening;
        self.size = self.size.max(other.size);
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }
}

/// A running move's figures.
#[derive(Debug, Clone, PartialEq)]
pub struct MoveFigures {
    pub id: i64,
    pub shard: ShardId,
    pub source: NodeId,
    pub target: NodeId,
    pub state: String,
    pub bytes_total: u64,
    pub bytes_copied: u64,
    pub lag_bytes: u64,
    pub attempts: u64,
}

/// An entry that lives as long as this guard.
#[derive(Debug)]
pub struct Live<T: Entry> {
    entry: Arc<T>,
    entries: Arc<Mutex<BTreeMap<u64, Arc<T>>>>,
}

/// What can be registered.
pub trait Entry {
    fn id(&self) -> u64;
}
impl Entry for ClientInfo {
    fn id(&self) -> u64 {
        self.id
    }
}
impl Entry for ServerInfo {
    fn id(&self) -> u64 {
        self.id
    }
}

impl<T: Entry> Live<T> {
    fn register(entries: &Arc<Mutex<BTreeMap<u64, Arc<T>>>>, entry: T) -> Self {
        let entry = Arc::new(entry);
        lock(entries).insert(entry.id(), entry.clone());
        Self { entry, entries: entries.clone() }
    }

    pub fn info(&self) -> &Arc<T> {
        &self.entry
    }
}

impl<T: Entry> std::ops::Deref for Live<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.entry
    }
}

impl<T: Entry> Drop for Live<T> {
    fn drop(&mut self) {
        lock(&self.entries).remove(&self.entry.id());
    }
}

type Offer<T> = Box<dyn Fn() -> Vec<T> + Send + Sync>;

/// All workers' figures and all live connections. One per process, shared by `Arc`.
pub struct Registry {
    started: Instant,
    workers: Vec<Arc<WorkerStats>>,
    next_id: AtomicU64,
    clients: Arc<Mutex<BTreeMap<u64, Arc<ClientInfo>>>>,
    servers: Arc<Mutex<BTreeMap<u64, Arc<ServerInfo>>>>,
    pools: Mutex<Vec<Offer<PoolFigures>>>,
    moves: Mutex<Option<Offer<MoveFigures>>>,
    ready: AtomicBool,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

impl Registry {
    pub fn new(workers: usize) -> Self {
        Self {
            started: Instant::now(),
            workers: (0..workers).map(|_| Arc::default()).collect(),
            next_id: AtomicU64::new(1),
            clients: Arc::default(),
            servers: Arc::default(),
            pools: Mutex::default(),
            moves: Mutex::default(),
            ready: AtomicBool::new(false),
        }
    }

    /// The figures of worker `n`; only that worker may write them.
    pub fn worker(&self, n: usize) -> Arc<WorkerStats> {
        self.workers[n].clone()
    }

    /// All workers' figures, added up.
    pub fn sums(&self) -> WorkerSums {
        let mut sums = WorkerSums::default();
        self.workers.iter().for_each(|w| sums.add(w));
        sums
    }

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether new clients are served: true once the catalog is read, false while draining.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub fn add_client(&self, new: NewClient) -> Live<ClientInfo> {
        let entry = ClientInfo {
            id: self.next_id.fetch_add(1, Relaxed),
            user: new.user,
            database: new.database,
            addr: new.addr,
            tls: new.tls,
            worker: new.worker,
            connected_at: SystemTime::now(),
            application_name: Mutex::new(new.application_name),
            state: AtomicU8::new(ClientState::Idle as u8),
            since_us: AtomicU64::new(0),
            born: Instant::now(),
            node: AtomicI64::new(NONE),
            shard: AtomicI64::new(NONE),
            prepared: AtomicU64::new(0),
            pin: Mutex::new(None),
        };
        Live::register(&self.clients, entry)
    }

    pub fn add_server(&self, new: NewServer) -> Live<ServerInfo> {
        let entry = ServerInfo {
            id: self.next_id.fetch_add(1, Relaxed),
            node: new.node,
            user: new.user,
            database: new.database,
            tls: new.tls,
            worker: new.worker,
            connected_at: SystemTime::now(),
            state: AtomicU8::new(ServerState::New as u8),
            backend_pid: AtomicI32::new(0),
            prepared: AtomicU64::new(0),
            client: AtomicU64::new(0),
        };
        Live::register(&self.servers, entry)
    }

    /// The clients connected now, by id.
    pub fn clients(&self) -> Vec<Arc<ClientInfo>> {
        lock(&self.clients).values().cloned().collect()
    }

    pub fn client_count(&self) -> usize {
        lock(&self.clients).len()
    }

    /// The server connections open now, by id.
    pub fn servers(&self) -> Vec<Arc<ServerInfo>> {
        lock(&self.servers).values().cloned().collect()
    }

    /// Has the pools of one worker answer [`Registry::pools`] from now on.
    pub fn offer_pools(&self, offer: impl Fn() -> Vec<PoolFigures> + Send + Sync + 'static) {
        lock(&self.pools).push(Box::new(offer));
    }

    /// All pools, the workers' shares of each added up.
    pub fn pools(&self) -> Vec<PoolFigures> {
        let mut merged: BTreeMap<(NodeId, String, String), PoolFigures> = BTreeMap::new();
        for share in lock(&self.pools).iter().flat_map(|offer| offer()) {
            let key = (share.node, share.database.clone(), share.user.clone());
            match merged.entry(key) {
                std::collections::btree_map::Entry::Occupied(mut e) => e.get_mut().merge(&share),
                std::collections::btree_map::Entry::Vacant(e) => {
                    e.insert(share);
                }
            }
        }
        merged.into_values().collect()
    }

    /// Has the mover answer [`Registry::moves`] from now on.
    pub fn offer_moves(&self, offer: impl Fn() -> Vec<MoveFigures> + Send + Sync + 'static) {
        *lock(&self.moves) = Some(Box::new(offer));
    }

    pub fn moves(&self) -> Vec<MoveFigures> {
        lock(&self.moves).as_ref().map(|offer| offer()).unwrap_or_default()
    }
}

/// A panic elsewhere leaves these maps whole: every change is a single insert or remove.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn id_of(cell: &AtomicI64) -> Option<i32> {
    i32::try_from(cell.load(Relaxed)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_client() -> NewClient {
        NewClient {
            user: "ann".into(),
            database: "app".into(),
            application_name: "psql".into(),
            addr: ClientAddr::Tcp(([127, 0, 0, 1], 4000).into()),
            tls: false,
            worker: 0,
        }
    }

    #[test]
    fn an_entry_lives_as_long_as_its_guard() {
        let r = Registry::new(1);
        let a = r.add_client(new_client());
        let b = r.add_client(new_client());
        assert_ne!(a.id, b.id);
        drop(a);
        assert_eq!(r.clients().iter().map(|c| c.id).collect::<Vec<_>>(), [b.id]);
        drop(b);
        assert_eq!(r.client_count(), 0);
    }

    #[test]
    fn a_clients_state_is_seen_by_others() {
        let r = Registry::new(1);
        let c = r.add_client(new_client());
        let seen = r.clients().remove(0);
        assert_eq!((seen.state(), seen.node(), seen.shard()), (ClientState::Idle, None, None));
        let t = Instant::now();
        c.set_state_since(ClientState::Held, t);
        c.set_node(Some(NodeId(3)));
        c.set_shard(Some(ShardId(0)));
        c.set_pin(Some("temporary table"));
        assert_eq!(seen.waited(t + Duration::from_millis(7)).as_millis(), 7);
        assert_eq!((seen.node(), seen.shard()), (Some(NodeId(3)), Some(ShardId(0))));
        assert_eq!(seen.pin(), Some("temporary table"));
        c.set_state(ClientState::Active);
        assert_eq!(seen.waited(t + Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn shares_of_one_pool_are_added_up() {
        let r = Registry::new(2);
        let share = |waiting, ms| PoolFigures {
            node: NodeId(1),
            database: "app".into(),
            user: "ann".into(),
            clients_active: 1,
            clients_waiting: waiting,
            servers_active: 1,
            servers_idle: 2,
            servers_opening: 0,
            size: 20,
            longest_wait: Duration::from_millis(ms),
        };
        r.offer_pools(move || vec![share(0, 0)]);
        r.offer_pools(move || vec![share(3, 9)]);
        let pools = r.pools();
        assert_eq!(pools.len(), 1);
        assert_eq!((pools[0].clients_waiting, pools[0].servers_idle, pools[0].size), (3, 4, 20));
        assert_eq!(pools[0].longest_wait.as_millis(), 9);
    }
}
