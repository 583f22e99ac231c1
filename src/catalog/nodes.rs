//! Nodes: what a PostgreSQL server needs to be one, and ADD NODE.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;

use super::ddl::{
    DdlError, Everywhere, Peer, Shape, Which, bring_access, bring_built_in, bring_database,
    bring_enums, bring_parameters, bring_reference, bring_roles, give_enums, make_parent,
    readiness, recover_node, sequence_stride,
};
use super::{Store, raise_epoch};
use crate::backend::control::ConnectError;
use crate::topology::{Node, NodeId};

/// Something about a node an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The node cannot be used like this; otherwise it is advice.
    pub is_lack: bool,
    pub what: String,
    pub hint: String,
}

impl Finding {
    pub fn lack(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { is_lack: true, what: what.into(), hint: hint.into() }
    }

    pub fn advice(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { is_lack: false, what: what.into(), hint: hint.into() }
    }
}

/// What was found on a node.
#[derive(Debug, Clone)]
pub struct Examined {
    /// `server_version`, as the node prints it.
    pub version: String,
    pub version_num: i32,
    pub findings: Vec<Finding>,
}

/// A clock further off than this is worth a word.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// Says in words what the server lacks to be a node.
pub async fn examine(client: &Client) -> Result<Examined, tokio_postgres::Error> {
    let before = SystemTime::now();
    let row = client.query_one(FACTS, &[]).await?;
    let after = SystemTime::now();
    let version_num: i32 = row.try_get(0)?;
    let version: String = row.try_get(1)?;
    let wal_level: String = row.try_get(2)?;
    let superuser: bool = row.try_get(3)?;
    let encoding: String = row.try_get(4)?;
    let clock_ms: i64 = row.try_get(5)?;
    let retry_ms: i32 = row.try_get(6)?;
    let user: String = row.try_get(7)?;
    let in_recovery: bool = row.try_get(8)?;

    let mut findings = Vec::new();
    if version_num < 140_000 {
        findings.push(Finding::lack(
            format!("PostgreSQL is {version}; 14 is the oldest that can be a node"),
            "Upgrade the server.",
        ));
    }
    if in_recovery {
        findings.push(Finding::lack("the server is a standby", "Name its primary instead."));
    }
    if !superuser {
        findings.push(Finding::lack(
            format!("role \"{user}\" is not a superuser"),
            format!("ALTER ROLE {user} SUPERUSER, or set another cluster.service_user."),
        ));
    }
    if encoding != "UTF8" {
        findings.push(Finding::lack(
            format!("the database's encoding is {encoding}; text keys are hashed as UTF8"),
            "Create the database with ENCODING 'UTF8'.",
        ));
    }
    if wal_level != "logical" {
        findings.push(Finding::lack(
            format!("wal_level is {wal_level}, so no shard can leave the node"),
            "Set wal_level = logical and restart the server.",
        ));
    }
    // The name, the least that works, and what leaves room for several moves at once.
    let counts = [
        ("max_prepared_transactions", 1, 20, "DDL and writes to several nodes need them"),
        ("max_replication_slots", 4, 10, "each move takes two, and more while it copies"),
        ("max_wal_senders", 4, 10, "each move takes two, and more while it copies"),
        ("max_logical_replication_workers", 2, 4, "each move takes one, and more while it copies"),
    ];
    for (i, (name, least, room, why)) in counts.into_iter().enumerate() {
        let has: i32 = row.try_get(9 + i)?;
        let what = format!("{name} is {has}: {why}");
        let hint = format!("Set {name} = {room} or more and restart the server.");
        if has < least {
            findings.push(Finding::lack(what, hint));
        } else if has < room {
            findings.push(Finding::advice(what, hint));
        }
    }
    if retry_ms > 500 {
        findings.push(Finding::advice(
            format!(
                "wal_retrieve_retry_interval is {retry_ms} ms; it delays the start of each copy"
            ),
            "Set wal_retrieve_retry_interval = 200ms and reload the server.",
        ));
    }
    if let Some(off) = clock_off(clock_ms, before, after) {
        findings.push(Finding::advice(
            format!("the server's clock is {:.1} s off from ours", off.as_secs_f64()),
            "Keep the clocks in step; times in logs and SHOW MOVES will not compare.",
        ));
    }
    Ok(Examined { version, version_num, findings })
}

const FACTS: &str = "\
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
  current_setting('wal_level'),
  (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
  current_setting('server_encoding'),
  (extract(epoch FROM clock_timestamp()) * 1000)::int8,
  (SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'wal_retrieve_retry_interval'),
  current_user::text, pg_is_in_recovery(),
  current_setting('max_prepared_transactions')::int, current_setting('max_replication_slots')::int,
  current_setting('max_wal_senders')::int, current_setting('max_logical_replication_workers')::int";

/// How far the node's clock, read between two looks at ours, lies outside of them.
fn clock_off(node_ms: i64, before: SystemTime, after: SystemTime) -> Option<Duration> {
    let node = UNIX_EPOCH + Duration::from_millis(u64::try_from(node_ms).ok()?);
    let off = before.duration_since(node).or_else(|_| node.duration_since(after)).ok()?;
    (off > CLOCK_TOLERANCE).then_some(off)
}

/// ADD NODE: a server becomes a node, with all parents and no shard. Returns its id, and advice.
///
/// # Errors
/// Nothing has changed, neither there nor in the catalog.
pub async fn add(
    store: &Store,
    name: &str,
    host: &str,
    port: u16,
) -> Result<(NodeId, Vec<Finding>), DdlError> {
    if name.is_empty() || host.is_empty() || port == 0 {
        return Err(DdlError::new("22023", "a node needs a name, a host and a port")
            .hint("ADD NODE name 'host:port'"));
    }
    let mut all = Everywhere::begin(store).await?;
    for n in all.routes.nodes() {
        if n.name == name {
            return Err(DdlError::new("42710", format!("node \"{name}\" is there already"))
                .hint("SHOW NODES lists them."));
        }
        if n.host == host && n.port == port {
            let message = format!("{host}:{port} is node \"{}\" already", n.name);
            return Err(DdlError::new("42710", message));
        }
    }
    let id = all.routes.nodes().map(|n| n.id.0).max().unwrap_or(0) + 1;
    let node = Node { id: NodeId(id), name: name.into(), host: host.into(), port, is_home: false };
    let node = Arc::new(node);

    let probe = store.connector().connect(&node).await.map_err(|e| unreachable(&e))?;
    let examined = examine(&probe).await.map_err(|e| DdlError::from(e).on_node(name))?;
    let (lacks, advice): (Vec<_>, Vec<_>) = examined.findings.into_iter().partition(|f| f.is_lack);
    if !lacks.is_empty() {
        let say = |f: fn(&Finding) -> &String| {
            lacks.iter().map(|l| f(l).as_str()).collect::<Vec<_>>().join("\n")
        };
        return Err(DdlError::new("55000", format!("{host}:{port} cannot be a node yet"))
            .detail(say(|f| &f.what))
            .hint(say(|f| &f.hint)));
    }
    is_fresh(&probe, &all, name).await?;
    // An ADD NODE that crashed may have left its prepared transaction there.
    recover_node(store, &all.home, &node).await?;

    all.join(store, node.clone()).await?;
    let stride = sequence_stride(&all.home.client).await?;
    if let Some(peer) = all.others.last() {
        let (home, new) = (&*all.home.client, &*peer.client);
        bring_common(home, new).await.map_err(|e| e.on_node(name))?;
        bring_tables(&all, peer, stride).await?;
        give_enums(home, new).await.map_err(|e| e.on_node(name))?;
    }
    all.home
        .client
        .execute(
            "INSERT INTO pgshunt.nodes (node_id, name, host, port) VALUES ($1, $2, $3, $4)",
            &[&id, &name, &host, &i32::from(port)],
        )
        .await?;
    raise_epoch(&*all.home.client).await?;
    all.commit().await?;
    store.reload().await?;
    Ok((NodeId(id), advice))
}

/// Makes all tables on a new node, with their grants: reference tables with their rows.
async fn bring_tables(all: &Everywhere, peer: &Peer, stride: i64) -> Result<(), DdlError> {
    let (home, new) = (&*all.home.client, &*peer.client);
    let references = all.routes.tables().any(|t| t.is_reference());
    if references {
        peer.run(&readiness().1).await?;
    }
    // Before those whose foreign keys refer to them.
    for table in all.routes.tables().filter(|t| t.is_reference()) {
        bring_reference(&all.home, peer, (&table.schema, &table.name)).await?;
        let done = bring_access(home, new, &table.schema, &table.name);
        done.await.map_err(|e| e.on_node(&peer.node.name))?;
    }
    for table in all.routes.tables().filter(|t| !t.is_reference()) {
        let oid: u32 = home
            .query_one(
                "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname::text = $1 AND c.relname::text = $2",
                &[&table.schema, &table.name],
            )
            .await?
            .try_get(0)?;
        let shape = Shape::read(home, oid).await?;
        let declared: Vec<_> =
            shape.sequences.iter().map(|s| s.out_of_slot(all.home.node.id.0, stride)).collect();
        make_parent(home, peer, &shape, &declared, stride).await?;
        let done = bring_access(home, new, &table.schema, &table.name);
        done.await.map_err(|e| e.on_node(&peer.node.name))?;
    }
    Ok(())
}

/// Gives a new node what tables need besides themselves.
async fn bring_common(home: &Client, new: &Client) -> Result<(), DdlError> {
    bring_roles(home, new).await?;
    bring_database(home, new, Which::All).await?;
    bring_parameters(home, new).await?;
    bring_built_in(home, new, Which::All).await?;
    bring_enums(home, new).await
}

/// Why there was no connection to a server that is to be a node: what it answered, or what we could not do.
fn unreachable(e: &ConnectError) -> DdlError {
    DdlError::new(e.sqlstate().unwrap_or("08001"), e.to_string()).hint(
        "pgshunt logs in there as cluster.service_user with its password, to cluster.database. Do the server, \
         its pg_hba.conf and this role fit?",
    )
}

/// Refuses a server that is a node already under another address, or that holds another cluster.
async fn is_fresh(probe: &Client, all: &Everywhere, name: &str) -> Result<(), DdlError> {
    const WHICH_SERVER: &str = "\
        SELECT concat_ws(' ', (SELECT system_identifier FROM pg_control_system()), \
          current_setting('data_directory'), current_setting('port'), pg_postmaster_start_time())";
    let on_new = |e: tokio_postgres::Error| DdlError::from(e).on_node(name);
    let this: String =
        probe.query_one(WHICH_SERVER, &[]).await.and_then(|r| r.try_get(0)).map_err(on_new)?;
    for peer in all.peers() {
        let blame = |e| Peer::blame(peer, e);
        let that: String = peer
            .client
            .query_one(WHICH_SERVER, &[])
            .await
            .and_then(|r| r.try_get(0))
            .map_err(blame)?;
        if this == that {
            return Err(DdlError::new(
                "42710",
                format!("the server is node \"{}\" already, under another address", peer.node.name),
            ));
        }
    }
    let tables: Vec<(String, String)> =
        all.routes.tables().map(|t| (t.schema.clone(), t.name.clone())).collect();
    let left = left_behind(probe, &tables).await.map_err(on_new)?;
    if left.is_empty() {
        return Ok(());
    }
    let message = "the server holds what a cluster has left there, or has still";
    Err(DdlError::new("55000", message).detail(format!("There are {}.", left.join(", "))).hint(
        "If it is no node of another cluster, drop them there, the subscriptions and slots first; or give \
         it an empty database.",
    ))
}

/// What stands in the way of a server's becoming a node: what it was given when it was one, and tables of
/// the names of distributed ones.
async fn left_behind(
    probe: &Client,
    tables: &[(String, String)],
) -> Result<Vec<String>, tokio_postgres::Error> {
    const LEFT: &str = "\
        SELECT 'schema ' || quote_ident(nspname) FROM pg_catalog.pg_namespace \
          WHERE nspname ~ '^shard_[0-9]+$' OR nspname = 'pgshunt' \
        UNION ALL SELECT 'subscription ' || quote_ident(subname) FROM pg_catalog.pg_subscription \
          WHERE subname LIKE 'pgshunt%' AND subdbid = (SELECT oid FROM pg_catalog.pg_database \
            WHERE datname = current_database()) \
        UNION ALL SELECT 'publication ' || quote_ident(pubname) FROM pg_catalog.pg_publication \
          WHERE pubname LIKE 'pgshunt%' \
        UNION ALL SELECT 'replication slot ' || slot_name FROM pg_catalog.pg_replication_slots \
          WHERE slot_name LIKE 'pgshunt%' AND database = current_database() \
        UNION ALL SELECT 'relation ' || c.oid::regclass::text FROM pg_catalog.pg_class c \
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
          JOIN unnest($1::text[], $2::text[]) AS d(s, t) ON n.nspname = d.s AND c.relname = d.t";
    let (schemas, names): (Vec<_>, Vec<_>) = tables.iter().cloned().unzip();
    let rows = probe.query(LEFT, &[&schemas, &names]).await?;
    rows.iter().map(|r| r.try_get(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_outside_of_both_looks_is_off() {
        let at = |s: u64| UNIX_EPOCH + Duration::from_secs(s);
        assert_eq!(clock_off(100_000, at(99), at(101)), None);
        assert_eq!(clock_off(100_000, at(102), at(103)), None, "within the tolerance");
        assert_eq!(clock_off(100_000, at(110), at(111)), Some(Duration::from_secs(10)));
        assert_eq!(clock_off(100_000, at(88), at(90)), Some(Duration::from_secs(10)));
        assert_eq!(clock_off(-1, at(88), at(90)), None);
    }
}
