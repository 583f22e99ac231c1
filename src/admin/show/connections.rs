//! Who is connected: clients, server connections, pools, users.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::reply::Value;
use super::super::{ADMIN, ConsoleContext};
use super::timestamp::timestamp;
use super::{Row, node_name, row};
use crate::telemetry::{ClientAddr, ClientInfo, ClientState, ServerInfo, ServerState};
use crate::topology::{NodeId, RoutingTable};

/// Columns of SHOW CLIENTS and SHOW SERVERS before those of SHOW SOCKETS about buffers, and those.
const BEFORE_BUFFERS: usize = 19;
const BUFFERS: usize = 7;

pub fn clients(ctx: &ConsoleContext) -> Vec<Row> {
    let routes = ctx.store.routes().load();
    let servers = ctx.registry.servers();
    let links: HashMap<u64, u64> =
        servers.iter().filter_map(|s| Some((s.client()?, s.id))).collect();
    let now = Instant::now();
    let clients = ctx.registry.clients();
    let listen = ctx.config.load().server.listen.port();
    clients.iter().map(|c| client(c, links.get(&c.id).copied(), now, listen, &routes)).collect()
}

/// PgBouncer's states. A client that is linked and silent is active to it too.
fn client_state(c: &ClientInfo, linked: bool) -> &'static str {
    match c.state() {
        ClientState::Idle if !linked => "idle",
        ClientState::Idle | ClientState::Active | ClientState::InTransaction => "active",
        ClientState::Waiting | ClientState::Held => "waiting",
    }
}

fn client(
    c: &ClientInfo,
    link: Option<u64>,
    now: Instant,
    listen: u16,
    routes: &RoutingTable,
) -> Row {
    let waited = c.waited(now);
    let (addr, port) = match c.addr {
        ClientAddr::Tcp(addr) => place(Some(addr), listen),
        ClientAddr::Unix => place(None, listen),
    };
    let (local_addr, local_port) = place(c.local, listen);
    row![
        "C",
        c.user.as_str(),
        c.database.as_str(),
        "none",
        client_state(c, link.is_some()),
        addr,
        port,
        local_addr,
        local_port,
        timestamp(c.connected_at),
        timestamp(c.requested_at()),
        waited.as_secs(),
        waited.subsec_micros(),
        0,
        pointer(c.id),
        link.map(pointer).unwrap_or_default(),
        c.remote_pid,
        if c.tls { "TLS" } else { "" },
        c.application_name(),
        c.prepared(),
        c.id,
        c.worker,
        c.node().map(|n| node_name(routes, n)),
        c.shard().map(|s| s.0),
        c.state().name(),
        c.pin()
    ]
}

pub fn servers(ctx: &ConsoleContext) -> Vec<Row> {
    let routes = ctx.store.routes().load();
    let clients = ctx.registry.clients();
    let clients: HashMap<u64, &ClientInfo> = clients.iter().map(|c| (c.id, &**c)).collect();
    let servers = ctx.registry.servers();
    servers
        .iter()
        .map(|s| server(s, s.client().and_then(|c| clients.get(&c)).copied(), &routes))
        .collect()
}

fn cancels(s: &ServerInfo) -> usize {
    s.cancels().load(Ordering::Acquire) as usize
}

fn server(s: &ServerInfo, client: Option<&ClientInfo>, routes: &RoutingTable) -> Row {
    let listens = routes.node(s.node).map_or(0, |n| n.port);
    let (addr, port) = place(s.ends().map(|(node, _)| node), listens);
    let (local_addr, local_port) = place(s.ends().map(|(_, ours)| ours), listens);
    // Whom it serves knows of the last request; who let go of it has left word.
    let requested = client.map(ClientInfo::requested_at).or_else(|| s.requested_at());
    row![
        "S",
        s.user.as_str(),
        s.database.as_str(),
        "none",
        match s.state() {
            ServerState::Idle if cancels(s) > 0 => "being_canceled",
            ServerState::Idle => "idle",
            ServerState::Active | ServerState::Used => "active",
            ServerState::New => "new",
        },
        addr,
        port,
        local_addr,
        local_port,
        timestamp(s.connected_at),
        timestamp(requested.unwrap_or(s.connected_at)),
        0,
        0,
        i32::from(s.is_retired()),
        pointer(s.id),
        s.client().map(pointer).unwrap_or_default(),
        s.backend_pid(),
        if s.tls { "TLS" } else { "" },
        client.map(ClientInfo::application_name).unwrap_or_default(),
        s.prepared(),
        s.id,
        s.worker,
        node_name(routes, s.node),
        Value::Null,
        s.state().name(),
        Value::Null
    ]
}

/// Both in one. What is in which buffer is known to the worker whose they are, and to nobody else.
pub fn sockets(ctx: &ConsoleContext, active: bool) -> Vec<Row> {
    let prefixed = |rows: Vec<Row>, prefix: &str| {
        rows.into_iter()
            .filter_map(|mut row| {
                let state = row.get_mut(4)?;
                let Value::Text(name) = state else { return None };
                if active && name == "idle" {
                    return None;
                }
                *name = format!("{prefix}_{name}");
                row.splice(BEFORE_BUFFERS..BEFORE_BUFFERS, vec![Value::Null; BUFFERS]);
                Some(row)
            })
            .collect::<Vec<_>>()
    };
    let mut rows = prefixed(clients(ctx), "cl");
    rows.extend(prefixed(servers(ctx), "sv"));
    rows
}

/// One end of a connection. Both ends of a Unix socket go by its port, as PgBouncer has it.
fn place(at: Option<SocketAddr>, unix: u16) -> (Value, Value) {
    match at {
        Some(at) => (at.ip().to_string().into(), at.port().into()),
        None => ("unix".into(), unix.into()),
    }
}

fn pointer(id: u64) -> String {
    format!("{id:#x}")
}

#[derive(Default)]
struct PoolLine {
    clients: usize,
    waiting: usize,
    active: usize,
    idle: usize,
    opening: usize,
    cancels: usize,
    being_canceled: usize,
    longest: Duration,
    by_node: BTreeMap<NodeId, usize>,
}

pub fn pools(ctx: &ConsoleContext) -> Vec<Row> {
    let routes = ctx.store.routes().load();
    let now = Instant::now();
    let mut lines: BTreeMap<(String, String), PoolLine> = BTreeMap::new();
    lines.entry((ADMIN.into(), ADMIN.into())).or_default();
    for c in ctx.registry.clients() {
        let user = if c.database == ADMIN { ADMIN } else { &c.user };
        let line = lines.entry((c.database.clone(), user.to_owned())).or_default();
        line.clients += 1;
        // Who waits for a connection is counted by its pool, with those that are logging in.
        line.waiting += usize::from(c.state() == ClientState::Held);
        line.longest = line.longest.max(c.waited(now));
    }
    for p in ctx.registry.pools() {
        let line = lines.entry((p.database, p.user)).or_default();
        line.waiting += p.clients_waiting;
        line.active += p.servers_active;
        line.idle += p.servers_idle;
        line.opening += p.servers_opening;
        line.longest = line.longest.max(p.longest_wait);
        *line.by_node.entry(p.node).or_default() +=
            p.servers_active + p.servers_idle + p.servers_opening;
    }
    for s in ctx.registry.servers() {
        let line = lines.entry((s.database.clone(), s.user.clone())).or_default();
        line.cancels += cancels(&s);
        line.being_canceled += usize::from(cancels(&s) > 0);
    }
    lines
        .into_iter()
        .map(|((database, user), l)| {
            let by_node = l.by_node.iter().map(|(n, k)| format!("{} {k}", node_name(&routes, *n)));
            let is_console = database == ADMIN;
            row![
                database,
                user,
                l.clients.saturating_sub(l.waiting),
                l.waiting,
                l.cancels,
                0,
                l.active,
                l.cancels,
                l.being_canceled,
                l.idle,
                0,
                0,
                l.opening,
                l.longest.as_secs(),
                l.longest.subsec_micros(),
                if is_console { "statement" } else { "transaction" },
                Value::Null,
                l.by_node.len(),
                if is_console { 0 } else { ctx.config.load().pool.size },
                by_node.collect::<Vec<_>>().join(", ")
            ]
        })
        .collect()
}

/// The roles that are connected. Their limits are those of every role: none but the pool's size.
pub fn users(ctx: &ConsoleContext) -> Vec<Row> {
    let mut users: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for s in ctx.registry.servers() {
        users.entry(s.user.clone()).or_default().0 += 1;
    }
    for c in ctx.registry.clients() {
        users.entry(c.user.clone()).or_default().1 += 1;
    }
    users
        .into_iter()
        .map(|(name, (servers, clients))| row![name, "", "", Value::Null, 0, servers, 0, clients])
        .collect()
}
