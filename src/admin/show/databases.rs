//! The databases clients may name, and what holds for all of them.

use std::collections::BTreeSet;

use super::super::reply::Value;
use super::super::{ADMIN, ConsoleContext, act, config};
use super::{Row, ShowError, on_control, row, yes_no};
use crate::catalog::CatalogError;
use crate::telemetry::ServerState;

/// The cluster's database, and those that are used, paused or disabled.
pub fn names(ctx: &ConsoleContext) -> BTreeSet<String> {
    let mut names = ctx.pools.doors.named();
    names.insert(ctx.config.load().cluster.database.clone());
    names.extend(ctx.registry.clients().iter().map(|c| c.database.clone()));
    names.extend(ctx.registry.pools().into_iter().map(|p| p.database));
    names.remove(ADMIN);
    names
}

pub fn databases(ctx: &ConsoleContext) -> Vec<Row> {
    let routes = ctx.store.routes().load();
    let home = routes.home();
    let config = ctx.config.load();
    let (clients, servers) = (ctx.registry.clients(), ctx.registry.servers());
    let clients = |name: &str| clients.iter().filter(|c| c.database == name).count();
    let servers = |name: &str| servers.iter().filter(|s| s.database == name).count();
    let lifetime = config.pool.server_lifetime.as_secs();
    let max = config.limits.max_clients;
    let doors = &ctx.pools.doors;
    let none = Value::Null;
    let mut rows: Vec<Row> = names(ctx)
        .iter()
        .map(|name| {
            row![
                name.as_str(),
                home.host.as_str(),
                home.port,
                name.as_str(),
                none.clone(),
                config.pool.size,
                config.pool.min_size,
                0,
                lifetime,
                "transaction",
                none.clone(),
                0,
                servers(name),
                max,
                clients(name),
                i32::from(doors.is_closed(name)),
                i32::from(doors.is_disabled(name)),
                0
            ]
        })
        .collect();
    rows.push(row![
        ADMIN,
        none.clone(),
        config.server.listen.port(),
        ADMIN,
        ADMIN,
        0,
        0,
        0,
        lifetime,
        "statement",
        none,
        0,
        0,
        max,
        clients(ADMIN),
        0,
        0,
        0
    ]);
    rows
}

pub fn lists(ctx: &ConsoleContext) -> Vec<Row> {
    let clients = ctx.registry.clients();
    let servers = ctx.registry.servers();
    let idle = servers.iter().filter(|s| s.state() == ServerState::Idle).count();
    let opening: usize = ctx.registry.pools().iter().map(|p| p.servers_opening).sum();
    [
        ("databases", names(ctx).len() + 1),
        ("users", super::connections::users(ctx).len()),
        ("peers", 0),
        ("pools", super::connections::pools(ctx).len()),
        ("peer_pools", 0),
        ("free_clients", ctx.config.load().limits.max_clients.saturating_sub(clients.len())),
        ("used_clients", clients.len()),
        ("login_clients", ctx.registry.logging_in()),
        ("free_servers", idle),
        ("used_servers", servers.len() - idle + opening),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ]
    .map(|(list, items)| row![list, items])
    .into()
}

pub fn state(ctx: &ConsoleContext) -> Vec<Row> {
    let paused = ctx.pools.doors.is_paused(None);
    vec![
        row!["active", yes_no(!paused && ctx.registry.is_ready())],
        row!["paused", yes_no(paused)],
        row!["suspended", "no"],
    ]
}

/// The process as the kernel counts it, in pages. There are no caches of objects to tell of.
pub fn memory() -> Vec<Row> {
    let Ok(text) = std::fs::read_to_string("/proc/self/status") else { return Vec::new() };
    let of = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|l| l.strip_prefix(key))?;
        line.trim_start_matches(':').trim().strip_suffix(" kB")?.trim().parse().ok()
    };
    let row = |(name, key)| {
        let kilobytes: u64 = of(key)?;
        Some(row![name, 1024, kilobytes, 0, kilobytes * 1024])
    };
    [("resident", "VmRSS"), ("resident_peak", "VmHWM"), ("data", "VmData")]
        .into_iter()
        .filter_map(row)
        .collect()
}

pub async fn configuration(ctx: &ConsoleContext) -> Result<Vec<Row>, ShowError> {
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
    let file =
        config::rows(&ctx.config.load()).into_iter().map(|(key, value, default, changeable)| {
            (key.clone(), row![key, value, default, yes_no(changeable)])
        });
    let settings = settings.into_iter().map(|(name, value)| {
        let known = act::SETTINGS.iter().find(|s| s.name == name);
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
