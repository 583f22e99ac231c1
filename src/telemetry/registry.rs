//! Who is connected right now, and where to ask for the rest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{ClientInfo, NewClient, NewServer, Period, ServerInfo, WorkerStats, WorkerSums, lock};
use crate::topology::{NodeId, ShardId};

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
    /// What clients of a database do, by worker.
    databases: Mutex<BTreeMap<String, Vec<Arc<WorkerStats>>>>,
    period: Mutex<Period>,
    next_id: AtomicU64,
    clients: Arc<Mutex<BTreeMap<u64, Arc<ClientInfo>>>>,
    servers: Arc<Mutex<BTreeMap<u64, Arc<ServerInfo>>>>,
    pools: Mutex<Vec<Offer<PoolFigures>>>,
    moves: Mutex<Option<Offer<MoveFigures>>>,
    ready: AtomicBool,
    home_answers: AtomicBool,
    logging_in: AtomicUsize,
}

/// A connection that has not logged in yet, counted for as long as this lives.
pub struct LoggingIn(Arc<Registry>);

impl Drop for LoggingIn {
    fn drop(&mut self) {
        self.0.logging_in.fetch_sub(1, Relaxed);
    }
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
            databases: Mutex::default(),
            period: Mutex::default(),
            next_id: AtomicU64::new(1),
            clients: Arc::default(),
            servers: Arc::default(),
            pools: Mutex::default(),
            moves: Mutex::default(),
            ready: AtomicBool::new(false),
            home_answers: AtomicBool::new(true),
            logging_in: AtomicUsize::new(0),
        }
    }

    /// The figures of worker `n`; only that worker may write them.
    pub fn worker(&self, n: usize) -> Arc<WorkerStats> {
        self.workers[n].clone()
    }

    /// The figures of what clients of `database` do on worker `n`; only that worker may write them.
    pub fn database(&self, n: usize, database: &str) -> Arc<WorkerStats> {
        let mut databases = lock(&self.databases);
        let of = || self.workers.iter().map(|_| Arc::default()).collect();
        let stats = databases.entry(database.to_owned()).or_insert_with(of);
        stats[n].clone()
    }

    /// All figures, added up.
    pub fn sums(&self) -> WorkerSums {
        let mut sums = WorkerSums::default();
        self.workers.iter().for_each(|w| sums.add(w));
        lock(&self.databases).values().flatten().for_each(|w| sums.add(w));
        sums
    }

    /// The figures of each database, added up.
    pub fn sums_by_database(&self) -> BTreeMap<String, WorkerSums> {
        let databases = lock(&self.databases);
        let sums = databases.iter().map(|(name, stats)| {
            let mut sums = WorkerSums::default();
            stats.iter().for_each(|w| sums.add(w));
            (name.clone(), sums)
        });
        sums.collect()
    }

    /// Ends a period of the averages and begins the next one.
    pub fn end_period(&self) {
        let sums = self.sums_by_database();
        lock(&self.period).end(Instant::now(), sums);
    }

    /// How long the last period was, and the figures at its beginning and its end. In the first one:
    /// since the start.
    pub fn last_period(&self, database: &str) -> (Duration, WorkerSums, WorkerSums) {
        if let Some(period) = lock(&self.period).last(database) {
            return period;
        }
        let now = self.sums_by_database().remove(database).unwrap_or_default();
        (self.uptime(), WorkerSums::default(), now)
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

    /// Whether the home node was reached when it was last asked. Without it nobody can log in.
    pub fn set_home_answers(&self, answers: bool) {
        self.home_answers.store(answers, Ordering::Release);
    }

    pub fn can_log_in(&self) -> bool {
        self.is_ready() && self.home_answers.load(Ordering::Acquire)
    }

    pub fn begin_login(self: &Arc<Self>) -> LoggingIn {
        self.logging_in.fetch_add(1, Relaxed);
        LoggingIn(self.clone())
    }

    /// How many connections have not logged in yet.
    pub fn logging_in(&self) -> usize {
        self.logging_in.load(Relaxed)
    }

    pub fn add_client(&self, new: NewClient) -> Live<ClientInfo> {
        let entry = ClientInfo::new(self.next_id.fetch_add(1, Relaxed), new);
        Live::register(&self.clients, entry)
    }

    pub fn add_server(&self, new: NewServer) -> Live<ServerInfo> {
        let entry = ServerInfo::new(self.next_id.fetch_add(1, Relaxed), new);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{ClientAddr, ClientState};

    fn new_client() -> NewClient {
        NewClient {
            user: "ann".into(),
            database: "app".into(),
            application_name: "psql".into(),
            addr: ClientAddr::Tcp(([127, 0, 0, 1], 4000).into()),
            local: None,
            remote_pid: 0,
            tls: false,
            worker: 0,
            since: None,
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
