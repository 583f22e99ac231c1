//! The rows of every SHOW.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::command::{Show, Target};
use super::reply::Value;
use super::{COMPATIBLE, ConsoleContext, config};
use crate::catalog::CatalogError;
use crate::moves::{MoveError, Progress};
use crate::telemetry::{
    Blame, ClientAddr, ClientState, HistogramSum, PlanKind, ServerState, WorkerSums,
};
use crate::topology::{NodeId, RoutingTable};

type Row = Vec<Value>;

macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$(Value::from($value)),*] };
}

#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Moves(#[from] MoveError),
    #[error("the control runtime has stopped")]
    Stopped,
}

pub async fn rows(ctx: &ConsoleContext, show: Show) -> Result<Vec<Row>, ShowError> {
    Ok(match show {
        Show::Nodes => nodes(ctx),
        Show::Tables => tables(&ctx.store.routes().load()),
        Show::Shards => shards(ctx),
        Show::Placements => placements(ctx).await?,
        Show::Moves => moves(ctx).await?,
        Show::Clients => clients(ctx),
        Show::Servers => servers(ctx),
        Show::Pools => pools(ctx),
        Show::Stats => vec![stats(ctx)],
        Show::StatsTotals => {
            let mut row = row![ctx.config.load().cluster.database.as_str()];
            row.extend(totals(&ctx.registry.sums()).map(Value::from));
            vec![row]
        }
        Show::Databases => databases(ctx),
        Show::Lists => lists(ctx),
        Show::State => state(ctx),
        Show::Config => configuration(ctx).await?,
        Show::Version => {
            let ours = env!("CARGO_PKG_VERSION");
            vec![row![format!("PgBouncer {COMPATIBLE} (pgshunt {ours})")]]
        }
        Show::Help => Vec::new(),
    })
}

fn yes_no(b: bool) -> &'static str {
    if b { "yes" } else { "no" }
}

fn node_name(routes: &RoutingTable, id: NodeId) -> String {
    routes.node(id).map_or_else(|| format!("({id})"), |n| n.name.clone())
}

fn is_paused(ctx: &ConsoleContext, target: &Target) -> bool {
    ctx.lock_paused().contains_key(target)
}

fn nodes(ctx: &ConsoleContext) -> Vec<Row> {
    let routes = ctx.store.routes().load();
    let servers = ctx.registry.servers();
    routes
        .nodes()
        .map(|n| {
            let shards = routes.groups().flat_map(|g| &g.shards).filter(|s| s.node == n.id).count();
            let servers = servers.iter().filter(|s| s.node == n.id).count();
            let paused = is_paused(ctx, &Target::Node(n.name.clone()));
            row![
                n.id.0,
                n.name.as_str(),
                n.host.as_str(),
                n.port,
                yes_no(n.is_home),
                shards,
                servers,
                yes_no(paused)
            ]
        })
        .collect()
}

fn tables(routes: &RoutingTable) -> Vec<Row> {
    routes
        .tables()
        .map(|t| {
            let group = routes.group(t.group);
            let types =
                group.map(|g| g.key_types.iter().map(|k| k.name()).collect::<Vec<_>>().join(", "));
            let columns: Vec<&str> = t.columns.iter().map(|c| c.name.as_str()).collect();
            row![
                t.id.0,
                t.schema.as_str(),
                t.name.as_str(),
                t.key_columns.join(", "),
                types,
                t.group.0,
                group.map(|g| g.shards.len()),
                columns.join(", ")
            ]
        })
        .collect()
}

fn shards(ctx: &ConsoleContext) -> Vec<Row> {
    let routes = ctx.store.routes().load();
    let mut rows = Vec::new();
    for group in routes.groups() {
        let tables: Vec<&str> = routes.tables_of(group.id).map(|t| t.name.as_str()).collect();
        for s in &group.shards {
            rows.push(row![
                s.id.0,
                group.id.0,
                s.modulus,
                s.remainder,
                node_name(&routes, s.node),
                tables.join(", "),
                s.since.0,
                yes_no(is_paused(ctx, &Target::Shard(s.id)))
            ]);
        }
    }
    rows
}

/// Replicas and copies are no part of the routing table: the catalog is asked.
async fn placements(ctx: &ConsoleContext) -> Result<Vec<Row>, ShowError> {
    let store = ctx.store.clone();
    on_control(ctx, async move {
        let client = store.home_client().await?;
        let client = client.lock().await;
        let rows = client
            .query(
                "SELECT p.shard_id, n.name, p.role, p.state, p.since FROM pgshunt.placements p \
                 JOIN pgshunt.nodes n USING (node_id) ORDER BY p.shard_id, p.node_id",
                &[],
            )
            .await
            .map_err(CatalogError::from)?;
        rows.iter()
            .map(|r| {
                Ok(row![
                    r.try_get::<_, i32>(0)?,
                    r.try_get::<_, String>(1)?,
                    r.try_get::<_, String>(2)?,
                    r.try_get::<_, String>(3)?,
                    r.try_get::<_, i64>(4)?
                ])
            })
            .collect::<Result<Vec<Row>, tokio_postgres::Error>>()
            .map_err(|e| ShowError::Catalog(e.into()))
    })
    .await
}

async fn moves(ctx: &ConsoleContext) -> Result<Vec<Row>, ShowError> {
    let mover = ctx.mover.clone();
    let all = on_control(ctx, async move { Ok(mover.list().await?) }).await?;
    let routes = ctx.store.routes().load();
    Ok(all.iter().map(|p| move_row(p, &routes)).collect())
}

pub fn milliseconds(d: Duration) -> String {
    format!("{:.1}", d.as_secs_f64() * 1e3)
}

fn move_row(p: &Progress, routes: &RoutingTable) -> Row {
    let steps: Vec<String> = p
        .hold
        .iter()
        .map(|(step, took)| format!("{} {}", step.name(), milliseconds(took)))
        .collect();
    row![
        p.move_id.0,
        p.shard.0,
        node_name(routes, p.source),
        node_name(routes, p.target),
        p.state.name(),
        p.step,
        p.rollback_of.map(|m| m.0),
        p.bytes_done,
        p.bytes_total,
        p.rows,
        p.lag_bytes,
        p.eta.map(|d| d.as_secs()),
        p.held.map(milliseconds),
        p.attempts,
        p.blocker.clone(),
        p.error.clone(),
        Some(steps.join(", ")).filter(|s| !s.is_empty())
    ]
}

fn clients(ctx: &ConsoleContext) -> Vec<Row> {
    let routes = ctx.store.routes().load();
    let now = Instant::now();
    let listen = ctx.config.load().server.listen;
    ctx.registry
        .clients()
        .iter()
        .map(|c| {
            let waited = c.waited(now);
            let state = match c.state() {
                ClientState::Idle => "idle",
                ClientState::Active | ClientState::InTransaction => "active",
                ClientState::Waiting | ClientState::Held => "waiting",
            };
            row![
                "C",
                c.user.as_str(),
                c.database.as_str(),
                "none",
                state,
                c.addr.host(),
                match c.addr {
                    ClientAddr::Tcp(addr) => addr.port(),
                    ClientAddr::Unix => listen.port(),
                },
                listen.ip().to_string(),
                listen.port(),
                timestamp(c.connected_at),
                timestamp(c.connected_at),
                waited.as_secs(),
                waited.subsec_micros(),
                0,
                pointer(c.id),
                "",
                0,
                if c.tls { "TLS" } else { "" },
                c.application_name(),
                c.prepared(),
                c.id,
                c.worker,
                c.node().map(|n| node_name(&routes, n)),
                c.shard().map(|s| s.0),
                c.state().name(),
                c.pin()
            ]
        })
        .collect()
}

fn servers(ctx: &ConsoleContext) -> Vec<Row> {
    let routes = ctx.store.routes().load();
    ctx.registry
        .servers()
        .iter()
        .map(|s| {
            let node = routes.node(s.node);
            row![
                "S",
                s.user.as_str(),
                s.database.as_str(),
                "none",
                match s.state() {
                    ServerState::Idle => "idle",
                    ServerState::Active | ServerState::Used => "active",
                    ServerState::New => "new",
                },
                node.map(|n| n.host.clone()),
                node.map(|n| n.port),
                "",
                0,
                timestamp(s.connected_at),
                timestamp(s.connected_at),
                0,
                0,
                0,
                pointer(s.id),
                s.client().map(pointer).unwrap_or_default(),
                s.backend_pid(),
                if s.tls { "TLS" } else { "" },
                "",
                s.prepared(),
                s.id,
                s.worker,
                node_name(&routes, s.node),
                Value::Null,
                s.state().name(),
                Value::Null
            ]
        })
        .collect()
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
    longest: Duration,
    by_node: BTreeMap<NodeId, usize>,
}

fn pools(ctx: &ConsoleContext) -> Vec<Row> {
    let routes = ctx.store.routes().load();
    let mut lines: BTreeMap<(String, String), PoolLine> = BTreeMap::new();
    for c in ctx.registry.clients() {
        lines.entry((c.database.clone(), c.user.clone())).or_default().clients += 1;
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
    lines.entry(("pgbouncer".into(), "pgbouncer".into())).or_default();
    lines
        .into_iter()
        .map(|((database, user), l)| {
            let by_node = l.by_node.iter().map(|(n, k)| format!("{} {k}", node_name(&routes, *n)));
            let is_console = super::DATABASES.contains(&database.as_str());
            row![
                database,
                user,
                l.clients.saturating_sub(l.waiting),
                l.waiting,
                0,
                0,
                l.active,
                0,
                0,
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

fn totals(s: &WorkerSums) -> impl Iterator<Item = u64> {
    [
        s.server_assignments,
        s.transactions,
        s.all_statements(),
        s.bytes_from_clients,
        s.bytes_to_clients,
        s.transaction.sum_us,
        s.query.sum_us,
        s.wait.sum_us,
        s.client_parses,
        s.server_parses,
        s.binds,
        s.logins,
    ]
    .into_iter()
}

fn stats(ctx: &ConsoleContext) -> Row {
    let s = ctx.registry.sums();
    let seconds = ctx.registry.uptime().as_secs().max(1);
    let mut row = row![ctx.config.load().cluster.database.as_str()];
    row.extend(totals(&s).map(Value::from));
    // Times are per transaction and per statement, everything else per second.
    row.extend(totals(&s).enumerate().map(|(i, total)| {
        Value::from(match i {
            5 => total / s.transactions.max(1),
            6 => total / s.all_statements().max(1),
            _ => total / seconds,
        })
    }));
    row.extend(PlanKind::ALL.map(|k| Value::from(s.statements(k))));
    row.extend(Blame::ALL.map(|b| Value::from(s.errors(b))));
    let quantile = |h: &HistogramSum, share| Value::from(h.quantile(share).map(|d| d.as_micros()));
    row.extend([
        Value::from(s.retries),
        Value::from(s.hold.count()),
        quantile(&s.hold, 0.5),
        quantile(&s.hold, 0.99),
        quantile(&s.wait, 0.99),
        quantile(&s.route, 0.99),
        quantile(&s.query, 0.5),
        quantile(&s.query, 0.99),
    ]);
    row
}

fn databases(ctx: &ConsoleContext) -> Vec<Row> {
    let routes = ctx.store.routes().load();
    let home = routes.home();
    let config = ctx.config.load();
    let name = config.cluster.database.as_str();
    let servers = ctx.registry.servers().iter().filter(|s| s.database == name).count();
    let clients = ctx.registry.clients();
    let of = |db: &str| clients.iter().filter(|c| c.database == db).count();
    let console: usize = super::DATABASES.iter().map(|db| of(db)).sum();
    let lifetime = ctx.config.load().pool.server_lifetime.as_secs();
    let max = ctx.config.load().limits.max_clients;
    let paused = i32::from(is_paused(ctx, &Target::All));
    let none = Value::Null;
    vec![
        row![
            name,
            home.host.as_str(),
            home.port,
            name,
            none.clone(),
            ctx.config.load().pool.size,
            0,
            0,
            lifetime,
            "transaction",
            none.clone(),
            0,
            servers,
            max,
            of(name),
            paused,
            0
        ],
        row![
            "pgbouncer",
            none.clone(),
            ctx.config.load().server.listen.port(),
            "pgbouncer",
            "pgbouncer",
            2,
            0,
            0,
            lifetime,
            "statement",
            none,
            0,
            0,
            max,
            console,
            0,
            0
        ],
    ]
}

fn lists(ctx: &ConsoleContext) -> Vec<Row> {
    let clients = ctx.registry.clients();
    let servers = ctx.registry.servers();
    let users: BTreeSet<&str> = clients.iter().map(|c| c.user.as_str()).collect();
    let idle = servers.iter().filter(|s| s.state() == ServerState::Idle).count();
    [
        ("databases", 2),
        ("users", users.len()),
        ("peers", 0),
        ("pools", pools(ctx).len()),
        ("peer_pools", 0),
        ("free_clients", ctx.config.load().limits.max_clients.saturating_sub(clients.len())),
        ("used_clients", clients.len()),
        ("login_clients", 0),
        ("free_servers", idle),
        ("used_servers", servers.len() - idle),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ]
    .map(|(list, items)| row![list, items])
    .into()
}

fn state(ctx: &ConsoleContext) -> Vec<Row> {
    let paused = is_paused(ctx, &Target::All);
    vec![
        row!["active", yes_no(!paused && ctx.registry.is_ready())],
        row!["paused", yes_no(paused)],
        row!["suspended", "no"],
    ]
}

async fn configuration(ctx: &ConsoleContext) -> Result<Vec<Row>, ShowError> {
    let store = ctx.store.clone();
    let settings = on_control(ctx, async move {
        let client = store.home_client().await?;
        let client = client.lock().await;
        let rows = client
            .query("SELECT name, value FROM pgshunt.settings ORDER BY name", &[])
            .await
            .map_err(CatalogError::from)?;
        rows.iter()
            .map(|r| Ok((r.try_get(0)?, r.try_get(1)?)))
            .collect::<Result<Vec<(String, String)>, tokio_postgres::Error>>()
            .map_err(|e| ShowError::Catalog(e.into()))
    })
    .await?;
    let file = config::rows(&ctx.config.load())
        .into_iter()
        .map(|(key, value, default)| (key.clone(), row![key, value, default, "no"]));
    let settings = settings.into_iter().map(|(name, value)| {
        let known = super::act::SETTINGS.iter().find(|s| s.name == name);
        let row = row![
            name.as_str(),
            value,
            known.map(|s| s.default),
            yes_no(known.is_some_and(|s| s.changeable))
        ];
        (name, row)
    });
    let mut rows: Vec<(String, Row)> = file.chain(settings).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// Runs something that asks a node on the control runtime.
async fn on_control<T: Send + 'static>(
    ctx: &ConsoleContext,
    job: impl Future<Output = Result<T, ShowError>> + Send + 'static,
) -> Result<T, ShowError> {
    ctx.control.spawn(job).await.unwrap_or(Err(ShowError::Stopped))
}

/// As PgBouncer writes it: `2026-11-21 09:05:00 UTC`.
fn timestamp(at: SystemTime) -> String {
    let s = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil((s / 86_400) as i64);
    let (h, m, s) = (s / 3_600 % 24, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02} UTC")
}

/// The date of a day counted from 1970-01-01. Years begin in March here, so that a leap day is a
/// year's last, and 400 of them always have as many days.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    let days = days + 719_468; // From 0000-03-01.
    let era = days.div_euclid(DAYS_IN_400_YEARS);
    let day = days.rem_euclid(DAYS_IN_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::columns;

    #[test]
    fn dates() {
        let at = |s| timestamp(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(at(1_795_262_705), "2026-11-21 12:05:05 UTC");
        assert_eq!(at(4_107_542_399), "2100-02-28 23:59:59 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn every_total_has_its_average() {
        let stats = columns::of(Show::Stats);
        let count = totals(&WorkerSums::default()).count();
        assert_eq!(columns::of(Show::StatsTotals).len(), count + 1);
        for (total, average) in stats[1..=count].iter().zip(&stats[count + 1..]) {
            let total = total.name.strip_prefix("total_").unwrap();
            let average = average.name.strip_prefix("avg_").unwrap();
            assert!(
                total == average || (total, average) == ("received", "recv"),
                "{total} {average}"
            );
        }
    }
}
