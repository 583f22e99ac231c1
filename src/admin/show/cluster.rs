//! The cluster: nodes, tables, shards, placements, moves.

use std::time::Duration;

use super::super::ConsoleContext;
use super::super::command::Target;
use super::super::reply::Value;
use super::{Row, ShowError, node_name, on_control, row, yes_no};
use crate::catalog::CatalogError;
use crate::moves::Progress;
use crate::topology::RoutingTable;

fn is_paused(ctx: &ConsoleContext, target: &Target) -> bool {
    ctx.lock_paused().contains_key(target)
}

pub fn nodes(ctx: &ConsoleContext) -> Vec<Row> {
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

pub fn tables(routes: &RoutingTable) -> Vec<Row> {
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

pub fn shards(ctx: &ConsoleContext) -> Vec<Row> {
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
pub async fn placements(ctx: &ConsoleContext) -> Result<Vec<Row>, ShowError> {
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

pub async fn moves(ctx: &ConsoleContext) -> Result<Vec<Row>, ShowError> {
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
        p.longest_hold.map(milliseconds),
        p.attempts,
        p.blocker.clone(),
        p.error.clone(),
        Some(steps.join(", ")).filter(|s| !s.is_empty())
    ]
}
