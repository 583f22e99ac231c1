//! One line of SHOW CLIENTS, and one of SHOW SERVERS: what is known of a connection while it lives.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed,
};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::lock;
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
    /// Our end of its connection.
    pub local: Option<SocketAddr>,
    /// The process on the other side of a Unix socket; else 0.
    pub remote_pid: i32,
    pub tls: bool,
    pub worker: usize,
    /// When it connected, and when its last request came, if that was with another process.
    pub since: Option<(SystemTime, SystemTime)>,
}

/// A client connection. The worker that serves it updates the entry; anybody may read it.
#[derive(Debug)]
pub struct ClientInfo {
    /// The id of SHOW CLIENTS, and of a gate's blockers.
    pub id: u64,
    pub user: String,
    pub database: String,
    pub addr: ClientAddr,
    pub local: Option<SocketAddr>,
    /// The process on the other side of a Unix socket; else 0.
    pub remote_pid: i32,
    pub tls: bool,
    pub worker: usize,
    pub connected_at: SystemTime,
    application_name: Mutex<String>,
    state: AtomicU8,
    /// Microseconds after `born` at which the present wait or hold began.
    since_us: AtomicU64,
    /// Microseconds after `born` at which its last request came.
    request_us: AtomicU64,
    kill: Notify,
    killed: AtomicBool,
    born: Instant,
    node: AtomicI64,
    shard: AtomicI64,
    prepared: AtomicU64,
    pin: Mutex<Option<&'static str>>,
}

impl ClientInfo {
    pub(super) fn new(id: u64, new: NewClient) -> Self {
        let (now, born) = (SystemTime::now(), Instant::now());
        let (connected_at, requested_at) = new.since.unwrap_or((now, now));
        let between = |a: SystemTime, b: SystemTime| b.duration_since(a).unwrap_or_default();
        Self {
            id,
            user: new.user,
            database: new.database,
            addr: new.addr,
            local: new.local,
            remote_pid: new.remote_pid,
            tls: new.tls,
            worker: new.worker,
            connected_at,
            application_name: Mutex::new(new.application_name),
            state: AtomicU8::new(ClientState::Idle as u8),
            since_us: AtomicU64::new(0),
            request_us: AtomicU64::new(micros(between(connected_at, requested_at))),
            kill: Notify::new(),
            killed: AtomicBool::new(false),
            born: born.checked_sub(between(connected_at, now)).unwrap_or(born),
            node: AtomicI64::new(NONE),
            shard: AtomicI64::new(NONE),
            prepared: AtomicU64::new(0),
            pin: Mutex::new(None),
        }
    }

    pub fn state(&self) -> ClientState {
        ClientState::from_u8(self.state.load(Relaxed))
    }

    #[inline]
    pub fn set_state(&self, state: ClientState) {
        self.state.store(state as u8, Relaxed);
    }

    /// Enters a state that SHOW CLIENTS tells the length of: waiting or held.
    pub fn set_state_since(&self, state: ClientState, now: Instant) {
        self.since_us.store(micros(now.saturating_duration_since(self.born)), Relaxed);
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

    /// A request has come.
    #[inline]
    pub fn set_requested(&self, now: Instant) {
        self.request_us.store(micros(now.saturating_duration_since(self.born)), Relaxed);
    }

    /// When the last request came; before the first one, when it connected.
    pub fn requested_at(&self) -> SystemTime {
        self.connected_at + Duration::from_micros(self.request_us.load(Relaxed))
    }

    /// Has its task end the connection.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.kill.notify_one();
    }

    /// Somebody has killed it.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Until somebody kills it; also if that was before.
    pub async fn killed(&self) {
        self.kill.notified().await;
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
    /// To be closed as soon as nobody uses it.
    retired: AtomicBool,
    /// Cancel requests on their way to it.
    cancels: Arc<AtomicU32>,
    /// When its last request was sent, as far as the client that sent it has let go.
    requested: Mutex<Option<SystemTime>>,
    /// Its node's end of the connection, and ours.
    ends: OnceLock<(SocketAddr, SocketAddr)>,
}

impl ServerInfo {
    pub(super) fn new(id: u64, new: NewServer) -> Self {
        Self {
            id,
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
            retired: AtomicBool::new(false),
            cancels: Arc::default(),
            requested: Mutex::default(),
            ends: OnceLock::new(),
        }
    }

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

    /// Has the pool close it when it comes back.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub fn cancels(&self) -> &Arc<AtomicU32> {
        &self.cancels
    }

    pub fn set_requested(&self, at: SystemTime) {
        *lock(&self.requested) = Some(at);
    }

    pub fn requested_at(&self) -> Option<SystemTime> {
        *lock(&self.requested)
    }

    pub fn set_ends(&self, node: SocketAddr, ours: SocketAddr) {
        let _ = self.ends.set((node, ours));
    }

    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.ends.get().copied()
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

fn id_of(cell: &AtomicI64) -> Option<i32> {
    i32::try_from(cell.load(Relaxed)).ok()
}
