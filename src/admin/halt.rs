//! Stopping traffic and letting it go on: PAUSE, RESUME, DISABLE, KILL, RECONNECT, WAIT_CLOSE.
//!
//! PAUSE of a database, or of all, closes its door (`pool::Doors`) and waits until every server
//! connection is closed, for as long as that takes: a transaction ends it by its end, a session that
//! is pinned to its connection by leaving. PAUSE SHARD and PAUSE NODE hold the gates instead, as a
//! cutover does, and leave the connections alone.

use std::collections::btree_map::Entry;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::act::{Out, tell, unknown_node};
use super::command::Target;
use super::{ADMIN, ConsoleContext, DATABASES, show};
use crate::catalog::CatalogError;
use crate::gate::{Closed, Scope};
use crate::moves::MoveError;
use crate::wire::backend::Report;

/// How long PAUSE of a shard or a node waits for open transactions: they hold up the gate's others.
const GATE_PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what is left.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How often who waits is told for whom.
const TELL_AGAIN: Duration = Duration::from_secs(5);

type Done = Result<String, Report>;

pub async fn pause(ctx: &ConsoleContext, target: Target, out: &Out) -> Done {
    let scope = match &target {
        Target::All => return pause_database(ctx, None, out).await,
        Target::Database(name) => return pause_database(ctx, Some(name), out).await,
        Target::Shard(id) => {
            let routes = ctx.store.routes().load();
            let shard = routes.shard(*id).ok_or(MoveError::UnknownShard(*id))?;
            Scope::Shard { group: shard.group, shard: shard.id }
        }
        Target::Node(name) => {
            let routes = ctx.store.routes().load();
            let node = routes.node_by_name(name).ok_or_else(|| unknown_node(ctx, name))?;
            Scope::Node(node.id)
        }
    };
    match ctx.lock_paused().entry(target.clone()) {
        Entry::Occupied(_) => return Err(already_paused(&target)),
        Entry::Vacant(slot) => drop(slot.insert(None)),
    }
    let closing = ctx.gates.close(scope, GATE_PATIENCE, None);
    let closed = tokio::select! {
        closed = closing => closed,
        () = out.closed() => {
            ctx.lock_paused().remove(&target);
            return Err(given_up());
        }
    };
    match closed {
        Ok(closed) => match ctx.lock_paused().get_mut(&target) {
            Some(slot) => {
                *slot = Some(closed);
                Ok("PAUSE".into())
            }
            None => Err(resumed_meanwhile(&target)),
        },
        Err(blocked) => {
            ctx.lock_paused().remove(&target);
            let clients: Vec<String> = blocked
                .blockers
                .iter()
                .map(|b| {
                    format!("client {} (open for {:.1} s)", b.client, b.open_for.as_secs_f64())
                })
                .collect();
            Err(Report::error("55006", blocked.to_string())
                .detail(clients.join(", "))
                .hint("Everything goes on. SHOW CLIENTS tells who they are."))
        }
    }
}

fn target_of(database: Option<&str>) -> Target {
    database.map_or(Target::All, |name| Target::Database(name.to_owned()))
}

fn already_paused(target: &Target) -> Report {
    Report::error("55000", format!("{target} is already paused")).hint("RESUME ends the pause.")
}

fn resumed_meanwhile(target: &Target) -> Report {
    Report::error("55000", format!("{target} was resumed meanwhile"))
}

fn given_up() -> Report {
    Report::error("57014", "the pause was given up").hint("Everything goes on.")
}

async fn pause_database(ctx: &ConsoleContext, database: Option<&str>, out: &Out) -> Done {
    if let Some(name) = database {
        must_exist(ctx, name).await?;
    }
    let doors = &ctx.pools.doors;
    if !doors.pause(database) {
        return Err(already_paused(&target_of(database)));
    }
    tokio::select! {
        emptied = empty(ctx, database, out) => emptied?,
        () = out.closed() => {
            doors.resume(database);
            return Err(given_up());
        }
    }
    Ok("PAUSE".into())
}

/// Waits until a paused database has no server connection left.
async fn empty(ctx: &ConsoleContext, database: Option<&str>, out: &Out) -> Result<(), Report> {
    // Who had passed the door stands in a line by then, or has its connection.
    ctx.gates.settle().await;
    let mut told = Instant::now() - TELL_AGAIN + Duration::from_secs(1);
    loop {
        ctx.pools.turn_away(database);
        ctx.pools.retire(|of, _| database.is_none_or(|d| d == of));
        if ctx.pools.demand(database) == 0 {
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        if !ctx.pools.doors.is_paused(database) {
            return Err(resumed_meanwhile(&target_of(database)));
        }
        if told.elapsed() >= TELL_AGAIN {
            told = Instant::now();
            if let Some(holders) = holders(ctx, database) {
                tell(out, format!("waiting for {holders}; ^C gives up")).await;
            }
        }
    }
}

/// Who keeps server connections of a database.
fn holders(ctx: &ConsoleContext, database: Option<&str>) -> Option<String> {
    const NAMED: usize = 10;
    let clients = ctx.registry.clients();
    let servers = ctx.registry.servers();
    let servers = servers.iter().filter(|s| database.is_none_or(|d| d == s.database));
    let mut holders: Vec<String> = servers
        .filter_map(|s| clients.iter().find(|c| Some(c.id) == s.client()))
        .map(|c| match c.pin() {
            Some(pin) => format!("client {} (pinned by {pin})", c.id),
            None => format!("client {} ({})", c.id, c.state().name()),
        })
        .collect();
    let more = holders.len().saturating_sub(NAMED);
    holders.truncate(NAMED);
    if more > 0 {
        holders.push(format!("{more} more"));
    }
    (!holders.is_empty()).then(|| holders.join(", "))
}

pub async fn resume(ctx: &ConsoleContext, target: &Target) -> Done {
    // Opening is what dropping a closed gate does.
    let (opened, gates): (bool, Vec<Option<Closed>>) = match target {
        Target::All => {
            let gates = std::mem::take(&mut *ctx.lock_paused());
            (ctx.pools.doors.resume(None), gates.into_values().collect())
        }
        Target::Database(name) => {
            must_exist(ctx, name).await?;
            (ctx.pools.doors.resume(Some(name)), Vec::new())
        }
        Target::Shard(_) | Target::Node(_) => {
            (false, ctx.lock_paused().remove(target).into_iter().collect())
        }
    };
    if !opened && gates.is_empty() {
        let all = matches!(target, Target::Database(_)) && ctx.pools.doors.is_paused(None);
        return Err(Report::error("55000", format!("{target} is not paused")).hint(if all {
            "All databases are paused together: RESUME ends that."
        } else {
            "SHOW DATABASES, NODES, SHARDS and STATE tell what is."
        }));
    }
    Ok("RESUME".into())
}

pub async fn disable(ctx: &ConsoleContext, database: &str, disabled: bool) -> Done {
    must_exist(ctx, database).await?;
    ctx.pools.doors.set_disabled(database, disabled);
    Ok(if disabled { "DISABLE" } else { "ENABLE" }.into())
}

pub async fn reconnect(ctx: &ConsoleContext, database: Option<&str>) -> Done {
    if let Some(name) = database {
        must_exist(ctx, name).await?;
    }
    ctx.pools.retire(|of, _| database.is_none_or(|d| d == of));
    Ok("RECONNECT".into())
}

/// Until the connections that RECONNECT or a pause has retired are closed.
pub async fn wait_close(ctx: &ConsoleContext, database: Option<&str>, out: &Out) -> Done {
    if let Some(name) = database {
        must_exist(ctx, name).await?;
    }
    let left = || {
        let servers = ctx.registry.servers();
        let mut named = servers.iter().filter(|s| database.is_none_or(|d| d == s.database));
        named.any(|s| s.is_retired())
    };
    while left() {
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = out.closed() => return Err(Report::error("57014", "no longer waited for")),
        }
    }
    Ok("WAIT_CLOSE".into())
}

/// Pauses a database and ends its clients and server connections, whatever they are at.
pub async fn kill(ctx: &ConsoleContext, database: Option<&str>, out: &Out) -> Done {
    if let Some(name) = database {
        must_exist(ctx, name).await?;
    }
    // One that is paused already is killed all the same.
    ctx.pools.doors.pause(database);
    ctx.gates.settle().await;
    let named = |d: &str| if let Some(name) = database { d == name } else { d != ADMIN };
    let ended = async {
        loop {
            let clients = ctx.registry.clients();
            let clients: Vec<_> = clients.iter().filter(|c| named(&c.database)).collect();
            clients.iter().for_each(|c| c.kill());
            if clients.is_empty() {
                return empty(ctx, database, out).await;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::select! {
        ended = ended => ended?,
        () = out.closed() => return Err(Report::error("57014", "no longer waited for")),
    }
    Ok("KILL".into())
}

pub async fn kill_client(ctx: &ConsoleContext, id: u64) -> Done {
    match ctx.registry.clients().iter().find(|c| c.id == id) {
        Some(client) => {
            client.kill();
            Ok("KILL_CLIENT".into())
        }
        None => Err(Report::error("42704", format!("client {id} does not exist"))
            .hint("SHOW CLIENTS has their ids.")),
    }
}

/// A database is known if it is in use, or if the home node has it.
async fn must_exist(ctx: &ConsoleContext, name: &str) -> Result<(), Report> {
    if DATABASES.contains(&name) {
        return Err(Report::error("55000", format!("database \"{name}\" is the console"))
            .hint("It is there as long as pgshunt is."));
    }
    if show::databases(ctx).contains(name) {
        return Ok(());
    }
    let client = ctx.store.home_client().await?;
    let client = client.lock().await;
    let found = client
        .query_opt("SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1", &[&name])
        .await
        .map_err(CatalogError::from)?;
    match found {
        Some(_) => Ok(()),
        None => Err(Report::error("3D000", format!("no such database: {name}"))
            .hint("SHOW DATABASES lists those in use.")),
    }
}

impl ConsoleContext {
    /// Whether anything is paused or disabled.
    pub fn is_paused(&self) -> bool {
        self.pools.doors.is_any_closed() || !self.lock_paused().is_empty()
    }

    pub(super) fn lock_paused(
        &self,
    ) -> MutexGuard<'_, std::collections::BTreeMap<Target, Option<Closed>>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
