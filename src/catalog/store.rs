//! Reading the catalog into a routing table, and the few writes every other module shares.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify};
use tokio_postgres::{Client, GenericClient, IsolationLevel};

use super::addresses::follow;
use super::around;
use super::hidden;
use super::repair;
use super::reserved::must_be_ours;
use super::steward::{GivenUp, Permit, Steward};
use crate::backend::control::{ConnectError, Connector, words};
use crate::config::ClusterNode;
use crate::hash::KeyType;
use crate::sight::Sights;
use crate::topology::hidden::Hidden;
use crate::topology::{
    BuildError, ColumnRow, Epoch, GroupId, GroupRow, Node, NodeId, PlacementRole, PlacementRow,
    PlacementState, Routes, RoutingTable, Rows, ShardId, ShardRow, TableId, TableRow,
};

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("catalog: {}", words(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("the catalog contradicts itself: {0}")]
    Build(#[from] BuildError),
    #[error("the catalog holds {0:?}, which this version does not know")]
    Unknown(String),
    #[error("the configuration names no node")]
    NoNodes,
    #[error(transparent)]
    GivenUp(#[from] GivenUp),
}

/// The catalog of one cluster: a connection to the home node, kept and renewed.
pub struct Store {
    connector: Arc<Connector>,
    home: Node,
    client: Mutex<Option<Arc<Mutex<Client>>>>,
    routes: Arc<Routes>,
    steward: Steward,
    leftovers: Notify,
    sights: Arc<Sights>,
}

impl Store {
    /// Connects to the home node (the first of `nodes`), creates the catalog if it is not there
    /// yet, and reads it.
    pub async fn open(
        connector: Arc<Connector>,
        nodes: &[ClusterNode],
    ) -> Result<Self, CatalogError> {
        let first = nodes.first().ok_or(CatalogError::NoNodes)?;
        let home = Node {
            id: NodeId(0),
            name: first.name.clone(),
            host: first.host.clone(),
            port: first.port,
            is_home: true,
        };
        let mut client = connector.connect(&home).await?;
        create_if_missing(&mut client, nodes).await?;
        let table = loop {
            let rows = read(&mut client).await?;
            if follow(&connector, &mut client, &rows, nodes).await? {
                continue;
            }
            match repair::build(&connector, &mut client, &rows).await? {
                repair::Built::Table(table) => break table,
                repair::Built::Mended => {}
            }
        };
        let home = table.home().as_ref().clone();
        let sights = Arc::<Sights>::default();
        sights.starts(table.nodes().map(|n| n.id));
        Ok(Self {
            connector,
            home,
            client: Mutex::new(Some(Arc::new(Mutex::new(client)))),
            routes: Arc::new(Routes::new(table)),
            steward: Steward::default(),
            leftovers: Notify::new(),
            sights,
        })
    }

    /// Told when a client's transaction may have been left prepared on a node.
    pub fn leftovers(&self) -> &Notify {
        &self.leftovers
    }

    /// Who reads several nodes, and who is to commit on them.
    pub fn sights(&self) -> &Arc<Sights> {
        &self.sights
    }

    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    pub fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    pub fn steward(&self) -> &Steward {
        &self.steward
    }

    /// For one change of the catalog or of the tables on all nodes.
    pub async fn permit(&self) -> Result<Permit, CatalogError> {
        Ok(self.steward.permit().await?)
    }

    /// The shared connection to the home node, renewed when it was lost. Hold its guard only for
    /// one transaction.
    pub async fn home_client(&self) -> Result<Arc<Mutex<Client>>, CatalogError> {
        let mut slot = self.client.lock().await;
        if let Some(shared) = slot.as_ref() {
            // A held lock means somebody is using it, so it was alive a moment ago.
            let alive = shared.try_lock().map(|c| !c.is_closed()).unwrap_or(true);
            if alive {
                return Ok(shared.clone());
            }
        }
        let fresh = Arc::new(Mutex::new(self.connector.connect(&self.home).await?));
        *slot = Some(fresh.clone());
        Ok(fresh)
    }

    /// The catalog's epoch now.
    pub async fn epoch(&self) -> Result<Epoch, CatalogError> {
        let client = self.home_client().await?;
        let row = client.lock().await.query_one("SELECT epoch FROM pgshunt.meta", &[]).await?;
        Ok(Epoch(row.get(0)))
    }

    /// Changes when something may lead to a distributed table under another name; `None`: there is none.
    pub async fn hidden_print(&self) -> Result<Option<String>, CatalogError> {
        if self.routes.load().tables().next().is_none() {
            return Ok(None);
        }
        let client = self.home_client().await?;
        let print = hidden::print(&*client.lock().await).await?;
        Ok(Some(print))
    }

    /// Reads all rows in one snapshot and publishes the routing table they make.
    pub async fn reload(&self) -> Result<Arc<RoutingTable>, CatalogError> {
        let client = self.home_client().await?;
        let rows = read(&mut *client.lock().await).await?;
        self.routes.publish(RoutingTable::build(&rows)?);
        Ok(self.routes.load())
    }
}

/// The columns are read where PostgreSQL keeps them: a client's transaction changes them there. A table that
/// is not there is none: a transaction that has made it, or dropped it, is not over, or has just ended.
const TABLES: &str = "\
SELECT t.table_id, t.group_id, t.schema_name, t.table_name, coalesce(k.names, t.key_columns),
  coalesce(a.names, t.column_names), coalesce(a.types, t.column_types)
FROM pgshunt.tables t JOIN pgshunt.colocation_groups g ON g.group_id = t.group_id
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
    AND c.relkind = CASE g.shard_count WHEN 0 THEN 'r' ELSE 'p' END
  LEFT JOIN LATERAL (SELECT array_agg(attname::text ORDER BY attnum) AS names,
      array_agg(atttypid ORDER BY attnum) AS types FROM pg_catalog.pg_attribute
    WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a ON true
  LEFT JOIN LATERAL (SELECT array_agg(ka.attname::text ORDER BY p.nth) AS names
    FROM pg_catalog.pg_partitioned_table pt, unnest(pt.partattrs::int2[]) WITH ORDINALITY p (attnum, nth)
      JOIN pg_catalog.pg_attribute ka ON ka.attnum = p.attnum
    WHERE pt.partrelid = c.oid AND ka.attrelid = c.oid) k ON true";

/// Raises the epoch within a catalog transaction and tells all listeners at its commit. Takes a
/// `Client` too, whose transaction was begun by hand.
pub async fn raise_epoch<C: GenericClient + Sync>(tx: &C) -> Result<Epoch, tokio_postgres::Error> {
    let row =
        tx.query_one("UPDATE pgshunt.meta SET epoch = epoch + 1 RETURNING epoch", &[]).await?;
    let epoch: i64 = row.get(0);
    tx.execute("SELECT pg_notify('pgshunt_epoch', $1::bigint::text)", &[&epoch]).await?;
    Ok(Epoch(epoch))
}

/// `catalog::asking`'s table, for a catalog that was made before it was.
const ASKING: &str = "\
CREATE TABLE pgshunt.asking (
    database_name text NOT NULL, role_name text NOT NULL, PRIMARY KEY (database_name, role_name))";

/// Names of declared partitions (`catalog::ddl`), for a catalog that was made before there were any.
const PARTITIONS: &str = "\
CREATE TABLE pgshunt.partitions (
    table_id int NOT NULL REFERENCES pgshunt.tables ON DELETE CASCADE, schema_name text NOT NULL,
    partition_name text NOT NULL, remainder int NOT NULL, PRIMARY KEY (schema_name, partition_name),
    UNIQUE (table_id, remainder))";

/// A catalog that was made before there were reference tables wants one shard of each group.
const SHARDS_OR_NONE: &str = "\
ALTER TABLE pgshunt.colocation_groups DROP CONSTRAINT IF EXISTS colocation_groups_shard_count_check,
  ADD CONSTRAINT shards_or_none CHECK (shard_count >= 0)";

async fn create_if_missing(client: &mut Client, nodes: &[ClusterNode]) -> Result<(), CatalogError> {
    let tx = client.transaction().await?;
    // Two proxies starting at once: one creates, the other waits and finds it there.
    tx.execute("SELECT pg_advisory_xact_lock(hashtextextended('pgshunt.catalog', 0))", &[]).await?;
    let there: bool =
        tx.query_one("SELECT to_regclass('pgshunt.meta') IS NOT NULL", &[]).await?.get(0);
    if !there {
        tx.batch_execute(include_str!("schema.sql")).await?;
    }
    // Also a catalog that was found there: its rows say where pgshunt connects to as a superuser.
    tx.batch_execute(&must_be_ours(&["pgshunt".into()])).await?;
    if !there {
        for (i, n) in nodes.iter().enumerate() {
            tx.execute(
                "INSERT INTO pgshunt.nodes (name, host, port, is_home) VALUES ($1, $2, $3, $4)",
                &[&n.name, &n.host, &i32::from(n.port), &(i == 0)],
            )
            .await?;
        }
    }
    // A catalog made before this column was: asked first, for ALTER TABLE locks the table all the same.
    let holds = "SELECT FROM pg_catalog.pg_attribute
         WHERE attrelid = 'pgshunt.moves'::regclass AND attname = 'longest_us'";
    if tx.query_opt(holds, &[]).await?.is_none() {
        tx.batch_execute("ALTER TABLE pgshunt.moves ADD COLUMN longest_us bigint").await?;
    }
    let at_least_one = "SELECT FROM pg_catalog.pg_constraint
         WHERE conrelid = 'pgshunt.colocation_groups'::regclass AND conname = 'shards_or_none'";
    if tx.query_opt(at_least_one, &[]).await?.is_none() {
        tx.batch_execute(SHARDS_OR_NONE).await?;
    }
    for (table, made) in [("pgshunt.asking", ASKING), ("pgshunt.partitions", PARTITIONS)] {
        let there = tx.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await?;
        if !there.get::<_, bool>(0) {
            tx.batch_execute(made).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// The rows of the catalog that a home node holds; `None`: it holds none.
pub async fn read_there(client: &mut Client) -> Result<Option<Rows>, CatalogError> {
    let there = client.query_one("SELECT to_regclass('pgshunt.meta') IS NOT NULL", &[]).await?;
    if there.get(0) { read(client).await.map(Some) } else { Ok(None) }
}

async fn read(client: &mut Client) -> Result<Rows, CatalogError> {
    let tx = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let epoch: i64 = tx.query_one("SELECT epoch FROM pgshunt.meta", &[]).await?.get(0);
    let nodes = tx
        .query("SELECT node_id, name, host, port, is_home FROM pgshunt.nodes ORDER BY node_id", &[])
        .await?
        .iter()
        .map(|r| Node {
            id: NodeId(r.get(0)),
            name: r.get(1),
            host: r.get(2),
            port: r.get::<_, i32>(3) as u16,
            is_home: r.get(4),
        })
        .collect();
    let groups = tx
        .query("SELECT group_id, key_types, shard_count FROM pgshunt.colocation_groups", &[])
        .await?
        .iter()
        .map(|r| {
            let key_types = r
                .get::<_, Vec<String>>(1)
                .into_iter()
                .map(|t| KeyType::from_name(&t).ok_or(CatalogError::Unknown(t)))
                .collect::<Result<_, _>>()?;
            Ok(GroupRow {
                id: GroupId(r.get(0)),
                key_types,
                shard_count: r.get::<_, i32>(2) as u32,
            })
        })
        .collect::<Result<_, CatalogError>>()?;
    let tables = tx
        .query(TABLES, &[])
        .await?
        .iter()
        .map(|r| TableRow {
            id: TableId(r.get(0)),
            group: GroupId(r.get(1)),
            schema: r.get(2),
            name: r.get(3),
            key_columns: r.get(4),
            columns: r
                .get::<_, Vec<String>>(5)
                .into_iter()
                .zip(r.get::<_, Vec<u32>>(6))
                .map(|(name, type_oid)| ColumnRow { name, type_oid })
                .collect(),
        })
        .collect();
    let around = around::read(&tx).await?;
    let shards = tx
        .query("SELECT shard_id, group_id, modulus, remainder FROM pgshunt.shards", &[])
        .await?
        .iter()
        .map(|r| ShardRow {
            id: ShardId(r.get(0)),
            group: GroupId(r.get(1)),
            modulus: r.get::<_, i32>(2) as u32,
            remainder: r.get::<_, i32>(3) as u32,
        })
        .collect();
    let placements = tx
        .query("SELECT shard_id, node_id, role, state, since FROM pgshunt.placements", &[])
        .await?
        .iter()
        .map(|r| {
            Ok(PlacementRow {
                shard: ShardId(r.get(0)),
                node: NodeId(r.get(1)),
                role: match r.get(2) {
                    "primary" => PlacementRole::Primary,
                    "replica" => PlacementRole::Replica,
                    other => return Err(CatalogError::Unknown(other.into())),
                },
                state: match r.get(3) {
                    "active" => PlacementState::Active,
                    "copying" => PlacementState::Copying,
                    "inactive" => PlacementState::Inactive,
                    "retired" => PlacementState::Retired,
                    other => return Err(CatalogError::Unknown(other.into())),
                },
                since: Epoch(r.get(4)),
            })
        })
        .collect::<Result<_, CatalogError>>()?;
    let tables: Vec<TableRow> = tables;
    let hidden = if tables.is_empty() { Hidden::default() } else { hidden::read(&tx).await? };
    tx.commit().await?;
    Ok(Rows { epoch, nodes, groups, tables, shards, placements, around, hidden })
}
