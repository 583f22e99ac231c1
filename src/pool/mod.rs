//! Pools of server connections, one per node, database and role, shared by all workers.
//!
//! [`state::State`] decides; here its effects are carried out. A pool sits behind a mutex that is
//! held for the length of one decision, some tens of nanoseconds, and never across an await: that
//! buys an exact limit and one fair line for all workers. A connection is preferably used by the
//! worker that opened it; a lent one keeps its registration with the lender's reactor.

mod asking;
mod doors;
mod leased;
mod opening;
pub mod state;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Sleep;

use crate::backend::login::{self, Credentials, LoginError, Target};
use crate::backend::server::{Given, ServerConn};
use crate::config;
use crate::net::Stream;
use crate::net::tls::ClientTls;
use crate::session::{Behind, Followed};
use crate::telemetry::{NewServer, PoolFigures, Registry};
use crate::topology::{Node, NodeId};
use crate::wire::frame;
pub use doors::Doors;
pub use leased::Leased;
pub use opening::OpenRequest;
use state::{ConnId, Effect, State, Terms, WaiterId, Worker};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub node: NodeId,
    pub database: Arc<str>,
    pub user: Arc<str>,
}

impl From<&config::Pool> for Terms {
    fn from(c: &config::Pool) -> Self {
        Self {
            limit: c.size,
            least: c.min_size,
            idle_timeout: c.idle_timeout,
            round_robin: c.server_round_robin,
        }
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum PoolError {
    #[error("no server connection to node {node} became free within {after:?}")]
    QueueTimeout { node: String, after: Duration },
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("pgshunt is shutting down")]
    Shutdown,
    /// A pause has begun: to be asked for again behind the door.
    #[error("the database is paused")]
    Paused,
}

type Grant = Result<Box<ServerConn>, PoolError>;

#[derive(Debug)]
struct Shared {
    state: State,
    idle: HashMap<ConnId, Box<ServerConn>>,
    waiters: HashMap<WaiterId, oneshot::Sender<Grant>>,
}

/// What all pools share.
pub struct Pools {
    pub doors: Doors,
    config: ArcSwap<config::Pool>,
    tls: ArcSwap<ClientTls>,
    next_id: AtomicU64,
    registry: Arc<Registry>,
    openers: Vec<mpsc::UnboundedSender<OpenRequest>>,
    pools: Mutex<HashMap<PoolKey, Arc<Pool>>>,
    asking: asking::Asking,
}

impl Pools {
    /// `openers` are the workers, by index; each carries out its [`OpenRequest`]s.
    pub fn new(
        config: config::Pool,
        tls: ClientTls,
        openers: Vec<mpsc::UnboundedSender<OpenRequest>>,
        registry: Arc<Registry>,
    ) -> Arc<Self> {
        Arc::new(Self {
            doors: Doors::default(),
            registry,
            config: ArcSwap::from_pointee(config),
            tls: ArcSwap::from_pointee(tls),
            next_id: AtomicU64::new(1),
            openers,
            pools: Mutex::default(),
            asking: asking::Asking::default(),
        })
    }

    /// Puts another configuration in force. Connections are closed only where there are more than
    /// the new size allows; those under way end as they began.
    pub fn reconfigure(&self, config: &config::Pool, tls: ClientTls) {
        self.tls.store(Arc::new(tls));
        self.put_in_force(config.clone());
    }

    /// A successor takes our clients over and opens connections of its own for them: from now on none
    /// idles here.
    pub fn wind_down(&self) {
        let now = config::Pool::clone(&self.config.load());
        self.put_in_force(config::Pool { min_size: 0, idle_timeout: Duration::ZERO, ..now });
        self.tick();
    }

    fn put_in_force(&self, config: config::Pool) {
        let config = Arc::new(config);
        self.config.store(config.clone());
        for pool in self.all() {
            let mut fx = Vec::new();
            let mut shared = pool.lock();
            shared.bury_dead();
            shared.state.change((&*config).into(), &mut fx);
            pool.act(shared, fx, None);
        }
    }

    /// The pool of this key, made `with` these credentials when it is not there yet.
    pub fn pool(self: &Arc<Self>, key: PoolKey, node: &Arc<Node>, with: &Credentials) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(|e| e.into_inner());
        let config = self.config.load();
        let pool = pools.entry(key.clone()).or_insert_with(|| {
            Arc::new(Pool {
                home: self.clone(),
                node: node.clone(),
                credentials: Mutex::new(with.clone()),
                followed: self.asking.followed(&key),
                behind: Behind::of_pool(),
                fresh_from: AtomicU64::new(0),
                served: AtomicBool::new(false),
                shared: Mutex::new(Shared {
                    state: State::new((&**config).into()),
                    idle: HashMap::new(),
                    waiters: HashMap::new(),
                }),
                key,
            })
        });
        pool.clone()
    }

    /// A connection to `node` outside of all pools, with these parameters in its startup packet.
    pub async fn connect_alone(
        &self,
        node: &Node,
        database: &str,
        user: &str,
        with: &Credentials,
        parameters: &[(String, String)],
        worker: Worker,
    ) -> Result<Box<ServerConn>, LoginError> {
        let timeout = self.config.load().connect_timeout;
        let id = ConnId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let tls = self.tls.load_full();
        let target = Target {
            node,
            database,
            user,
            parameters,
            credentials: with,
            tls: &tls,
            registry: &self.registry,
            worker,
        };
        login::connect(target, id, timeout).await
    }

    /// A connection that another process has opened, outside of all pools.
    pub fn given(
        &self,
        key: &PoolKey,
        given: Given,
        stream: Stream,
        worker: Worker,
    ) -> Box<ServerConn> {
        let id = ConnId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let info = self.registry.add_server(NewServer {
            node: key.node,
            user: key.user.to_string(),
            database: key.database.to_string(),
            tls: given.tls,
            worker,
        });
        given.connection(id, key.node, stream, info, ClientTls::clone(&self.tls.load()))
    }

    /// A role has logged in: its latest proof is the one that fits its present password.
    pub fn renew(&self, user: &str, credentials: &Credentials) {
        // Who came in without one has proven nothing that is worth more.
        if matches!(credentials, Credentials::None) {
            return;
        }
        for pool in self.all() {
            if &*pool.key.user == user {
                *pool.credentials.lock().unwrap_or_else(|e| e.into_inner()) = credentials.clone();
            }
        }
    }

    /// What clients of this role have left.
    pub fn credentials_of(&self, user: &str) -> Option<Credentials> {
        let all = self.all();
        let mut of_role = all.iter().filter(|p| &*p.key.user == user).map(|p| p.credentials());
        of_role.find(|c| !matches!(c, Credentials::None))
    }

    pub fn figures(&self) -> Vec<PoolFigures> {
        self.all().iter().map(|p| p.figures()).collect()
    }

    /// Replaces the server connections of these databases and roles: idle ones are closed at once, the
    /// others when they come back.
    pub fn retire(&self, of: impl Fn(&str, &str) -> bool) {
        let next = self.next_id.fetch_add(1, Ordering::AcqRel);
        let pools = self.all().into_iter().filter(|p| of(&p.key.database, &p.key.user));
        let pools: Vec<_> = pools.collect();
        for pool in &pools {
            pool.fresh_from.store(next, Ordering::Release);
        }
        for server in self.registry.servers().iter().filter(|s| of(&s.database, &s.user)) {
            server.retire();
        }
        for pool in &pools {
            pool.tick(Instant::now());
        }
    }

    /// Nobody will ask for a connection any more: those that idle are closed.
    pub fn close(&self) {
        self.pools.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }

    /// Sends whoever waits in a line of a database, or of all, back to its door.
    pub fn turn_away(&self, database: Option<&str>) {
        for pool in self.all() {
            if database.is_none_or(|d| d == &*pool.key.database) {
                let mut shared = pool.lock();
                for waiter in shared.state.turn_away() {
                    shared.fail(waiter, PoolError::Paused);
                }
            }
        }
    }

    /// How many server connections of a database, or of all, there are or are asked for.
    pub fn demand(&self, database: Option<&str>) -> usize {
        let named = |p: &Arc<Pool>| database.is_none_or(|d| d == &*p.key.database);
        self.all().iter().filter(|p| named(p)).map(|p| p.lock().state.demand()).sum()
    }

    /// Expires what idled too long, and finds idle connections that died. Once a second. A pool that
    /// nobody uses and that has never had a connection is forgotten: anybody could choose its name.
    pub fn tick(&self) {
        for pool in self.all() {
            pool.tick(Instant::now());
        }
        let mut pools = self.pools.lock().unwrap_or_else(|e| e.into_inner());
        pools.retain(|_, p| p.served.load(Ordering::Relaxed) || Arc::strong_count(p) > 1);
    }

    fn all(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().unwrap_or_else(|e| e.into_inner()).values().cloned().collect()
    }
}

/// The connections of one role to one database on one node.
pub struct Pool {
    home: Arc<Pools>,
    key: PoolKey,
    node: Arc<Node>,
    credentials: Mutex<Credentials>,
    followed: Followed,
    behind: Behind,
    /// What began to be opened before is retired when it is open.
    fresh_from: AtomicU64,
    /// A connection of it was opened once, or came from another process.
    served: AtomicBool,
    shared: Mutex<Shared>,
}

/// The answer to [`Pool::lease`].
pub enum Lease {
    Now(Leased),
    Later(Waiting),
}

impl Pool {
    pub fn key(&self) -> &PoolKey {
        &self.key
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic between two decisions leaves no half decision behind.
        self.shared.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn credentials(&self) -> Credentials {
        self.credentials.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// A connection for one transaction, if one idles that it is this caller's turn to have.
    pub fn lease_idle(self: &Arc<Self>, worker: Worker) -> Option<Leased> {
        self.idle_one(&mut self.lock(), worker)
    }

    fn idle_one(self: &Arc<Self>, shared: &mut Shared, worker: Worker) -> Option<Leased> {
        while let Some(id) = shared.state.take_now(worker) {
            match shared.idle.remove(&id) {
                Some(mut conn) => {
                    if still_alive(&mut conn) {
                        return Some(Leased::new(conn, self.clone()));
                    }
                    shared.state.lost(&mut Vec::new());
                }
                None => debug_assert!(false, "the state knows an idle connection the pool lacks"),
            }
        }
        None
    }

    /// A connection for one transaction: at once, or when it is this caller's turn.
    pub fn lease(self: &Arc<Self>, worker: Worker, holds: bool) -> Lease {
        let mut shared = self.lock();
        if let Some(conn) = self.idle_one(&mut shared, worker) {
            return Lease::Now(conn);
        }
        let id = WaiterId(self.home.next_id.fetch_add(1, Ordering::Relaxed));
        let (tx, rx) = oneshot::channel();
        shared.bury_dead();
        shared.waiters.insert(id, tx);
        let mut fx = Vec::new();
        let (now, patience) = (Instant::now(), self.home.config.load().queue_timeout);
        shared.state.take(worker, id, now, patience, holds, &mut fx);
        self.act(shared, fx, None);
        let deadline = Box::pin(tokio::time::sleep_until((now + patience).into()));
        Lease::Later(Waiting { pool: self.clone(), worker, id, rx, deadline, expired: false })
    }

    /// A connection that a client has brought along from another process, leased to it here.
    pub fn adopt(self: &Arc<Self>, given: Given, stream: Stream, worker: Worker) -> Leased {
        let mut conn = self.home.given(&self.key, given, stream, worker);
        self.share(conn.facts());
        if conn.info.tls {
            // It goes through the process that has its keys, and is not to keep that one for others.
            conn.info.retire();
        }
        self.served.store(true, Ordering::Relaxed);
        self.lock().state.adopted();
        Leased::new(conn, self.clone())
    }

    /// Gives a connection back after its transaction; a used-up one is closed instead.
    fn give(self: &Arc<Self>, mut conn: Box<ServerConn>, worker: Worker, now: Instant) {
        let mut fx = Vec::new();
        let young =
            now.saturating_duration_since(conn.opened) < self.home.config.load().server_lifetime;
        let mut shared = self.lock();
        shared.bury_dead_for_line();
        // An idle one is looked at when it is lent; one that goes to somebody in line is looked at here.
        let waited = shared.state.waiting() > 0;
        let fit = young && conn.is_clean() && !conn.info.is_retired();
        if fit && (!waited || still_alive(&mut conn)) {
            conn.rests();
            let id = conn.id;
            shared.idle.insert(id, conn);
            shared.state.give(now, id, worker, &mut fx);
        } else {
            shared.state.lost(&mut fx);
        }
        self.act(shared, fx, None);
    }

    /// A connection that was leased is gone.
    fn lost(self: &Arc<Self>) {
        let mut fx = Vec::new();
        let mut shared = self.lock();
        shared.bury_dead_for_line();
        shared.state.lost(&mut fx);
        self.act(shared, fx, None);
    }

    pub fn figures(&self) -> PoolFigures {
        let shared = self.lock();
        PoolFigures {
            node: self.node.id,
            database: self.key.database.to_string(),
            user: self.key.user.to_string(),
            clients_active: shared.state.busy(),
            clients_waiting: shared.state.waiting(),
            servers_active: shared.state.busy(),
            servers_idle: shared.state.idle(),
            servers_opening: shared.state.opening(),
            size: self.home.config.load().size,
            longest_wait: shared.state.longest_wait(Instant::now()),
        }
    }

    fn tick(self: &Arc<Self>, now: Instant) {
        let mut fx = Vec::new();
        let lifetime = self.home.config.load().server_lifetime;
        let mut shared = self.lock();
        shared.bury(|conn| {
            now.saturating_duration_since(conn.opened) < lifetime && still_alive(conn)
        });
        shared.state.tick(now, &mut fx);
        self.act(shared, fx, None);
    }

    fn act(
        self: &Arc<Self>,
        mut shared: MutexGuard<'_, Shared>,
        fx: Vec<Effect>,
        why: Option<LoginError>,
    ) {
        let mut again = Vec::new();
        for effect in fx {
            match effect {
                Effect::Grant { waiter, conn } => {
                    let Some(conn) = shared.idle.remove(&conn) else { continue };
                    let Some(tx) = shared.waiters.remove(&waiter) else { continue };
                    if let Err(Ok(conn)) = tx.send(Ok(conn)) {
                        // The waiter left between its grant and now.
                        again.push(conn);
                    }
                }
                Effect::Open { worker } => {
                    let request = OpenRequest { pool: self.clone(), worker };
                    if self.home.openers[worker].send(request).is_err() {
                        tracing::debug!("a worker is gone: nothing is opened on it");
                    }
                }
                Effect::Expire { waiter } => {
                    let after = self.home.config.load().queue_timeout;
                    let node = self.node.name.clone();
                    shared.fail(waiter, PoolError::QueueTimeout { node, after });
                }
                Effect::Fail { waiter } => {
                    let error = why.clone().map_or(PoolError::Shutdown, PoolError::Login);
                    shared.fail(waiter, error);
                }
                Effect::Close { conn } => {
                    shared.idle.remove(&conn);
                }
            }
        }
        drop(shared);
        for conn in again {
            self.give(conn, 0, Instant::now());
        }
    }
}

impl Shared {
    /// Forgets the idle connections their node has closed, so that the next decision hands out none
    /// of them.
    fn bury_dead(&mut self) {
        self.bury(still_alive);
    }

    /// Closes the idle connections that are not to be kept.
    fn bury(&mut self, mut keep: impl FnMut(&mut ServerConn) -> bool) {
        let Self { idle, state, .. } = self;
        idle.retain(|id, conn| {
            let kept = keep(conn);
            if !kept {
                state.idle_died(*id);
            }
            kept
        });
    }

    /// The same, where idle connections are looked at only if somebody waits.
    fn bury_dead_for_line(&mut self) {
        if self.state.waiting() > 0 {
            self.bury_dead();
        }
    }

    fn fail(&mut self, waiter: WaiterId, error: PoolError) {
        if let Some(tx) = self.waiters.remove(&waiter) {
            // A waiter that left does not need to be told.
            let _ = tx.send(Err(error));
        }
    }
}

/// A place in the line. Dropping it leaves the line.
pub struct Waiting {
    pool: Arc<Pool>,
    worker: Worker,
    id: WaiterId,
    rx: oneshot::Receiver<Grant>,
    deadline: Pin<Box<Sleep>>,
    expired: bool,
}

impl Waiting {
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Leased, PoolError>> {
        if !self.expired && self.deadline.as_mut().poll(cx).is_ready() {
            self.expired = true;
            // The machine decides; it may have granted a connection meanwhile.
            self.pool.tick(Instant::now());
        }
        let granted = ready!(Pin::new(&mut self.rx).poll(cx)).unwrap_or(Err(PoolError::Shutdown));
        Poll::Ready(granted.map(|conn| Leased::new(conn, self.pool.clone())))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        {
            let mut shared = self.pool.lock();
            shared.state.forget(self.id);
            shared.waiters.remove(&self.id);
        }
        if let Ok(Ok(conn)) = self.rx.try_recv() {
            self.pool.give(conn, self.worker, Instant::now());
        }
    }
}

/// Reads what an idle connection has received without waiting. Parameter changes and notices are
/// fine; an error or the end of the stream means the node has closed it. A retired one is as good as
/// dead.
fn still_alive(conn: &mut ServerConn) -> bool {
    if conn.info.is_retired() {
        return false;
    }
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match conn.stream.poll_fill(&mut cx, &mut conn.input) {
            Poll::Pending => break,
            Poll::Ready(Ok(0) | Err(_)) => return false,
            Poll::Ready(Ok(_)) => {}
        }
        while let Ok(Some(h)) = frame::header(&conn.input) {
            if conn.input.len() < h.len {
                break;
            }
            let message = conn.input.split_to(h.len);
            match h.tag {
                b'S' => conn.facts().reported.note(&message[frame::HEADER..]),
                b'N' | b'A' => {}
                _ => return false,
            }
        }
    }
    conn.input.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_may_travel_between_workers() {
        fn travels<T: Send>() {}
        travels::<Box<ServerConn>>();
        travels::<OpenRequest>();
    }
}
