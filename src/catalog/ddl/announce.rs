//! A distributed table that a client's transaction makes: its entry in the catalog, and what each node is to
//! know to make its shards (`pgshunt.make_shards`).
//!
//! Both are committed before the table is: an entry without a table on the home node is none
//! (`catalog::store`), and is taken out when the transaction has come to nothing (`stay`).

use futures_util::future::try_join_all;
use tokio_postgres::{Client, GenericClient};

use super::change::is_not_ours;
use super::create::{find_group, insert, make_group, placed, shard_count, stands_alone, stride};
use super::objects::bring_schema;
use super::roles::copy_all;
use super::{DdlError, Notice, Stay};
use crate::catalog::{Store, raise_epoch};
use crate::hash::KeyType;
use crate::topology::{GroupId, NewTable, Node, NodeId, TableId};

/// Since when the shards of a new group are where they are. The transaction that makes it may be older than
/// the catalog's epoch now, and sees them all the same.
const NEVER_MOVED: i64 = 0;

/// A table's entry.
pub struct Entry {
    pub table: TableId,
    pub group: GroupId,
    pub warning: Option<Notice>,
}

/// Gives the table its entry, in a group that may be new; `None`: it has one.
pub async fn enter(
    store: &Store,
    held: &Stay,
    new: &NewTable,
    login: &str,
) -> Result<Option<Entry>, DdlError> {
    is_not_ours(&new.schema)?;
    let key_types = key_types(new)?;
    let client = store.home_client().await?;
    let mut client = client.lock().await;
    const THERE: &str = "\
        SELECT t.table_id FROM pgshunt.tables t \
          JOIN pg_namespace n ON n.nspname = t.schema_name \
          JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name \
        WHERE t.schema_name = $1 AND t.table_name = $2";
    if let Some(row) = client.query_opt(THERE, &[&new.schema, &new.name]).await? {
        if !held.has_noted(TableId(row.try_get(0)?)) {
            return Ok(None);
        }
        return Err(DdlError::unsupported(format!(
            "table \"{}\" cannot be dropped and made again in one transaction",
            new.name
        ))
        .hint("COMMIT first."));
    }
    let warning = stands_alone(&client, login, (&new.schema, &new.name)).await?;
    // A reference table has no shards.
    let shard_count = match key_types.is_empty() {
        true => 0,
        false => shard_count(&client, new.shard_count.as_deref()).await?,
    };
    let routes = store.routes().load();
    let tx = client.transaction().await?;
    // Of a table that has gone: its name was free.
    let gone = "DELETE FROM pgshunt.tables WHERE schema_name = $1 AND table_name = $2";
    tx.execute(gone, &[&new.schema, &new.name]).await?;
    raise_epoch(&tx).await?;
    let group = match find_group(GenericClient::client(&tx), &key_types, shard_count, &new.name)
        .await?
    {
        Some(group) => group,
        None => {
            make_group(GenericClient::client(&tx), &key_types, shard_count, &routes, NEVER_MOVED)
                .await?
        }
    };
    let table = insert(GenericClient::client(&tx), group, new).await?;
    tx.commit().await?;
    drop(client);
    held.note(&[table]);
    store.reload().await?;
    Ok(Some(Entry { table, group, warning }))
}

fn key_types(new: &NewTable) -> Result<Vec<KeyType>, DdlError> {
    if new.is_granted {
        return Err(DdlError::unsupported(
            "a distributed table with default privileges cannot be created in a transaction block",
        )
        .hint("Create it outside of the transaction; that is atomic over all nodes by itself."));
    }
    let of = |key: &String| {
        let column = new.columns.iter().find(|c| c.name == *key);
        column.and_then(|c| KeyType::from_oid(c.type_oid)).ok_or_else(|| {
            DdlError::unsupported(format!("column \"{key}\" cannot be a distribution column"))
                .hint(KeyType::HINT)
        })
    };
    new.key_columns.iter().map(of).collect()
}

/// Lets every node know which shards of the table it serves. They do not move meanwhile.
pub async fn tell(
    store: &Store,
    held: &Stay,
    new: &NewTable,
    group: GroupId,
) -> Result<(), DdlError> {
    let (placed, stride) = {
        let client = store.home_client().await?;
        let client = client.lock().await;
        (placed(&client, group).await?, stride(&client).await?)
    };
    let routes = store.routes().load();
    let home = store.connector().connect(routes.home()).await?;
    try_join_all(routes.nodes().map(|node| async {
        let client = store.connector().connect(node).await?;
        let of_node = async {
            if !node.is_home {
                copy_all(&home, &client).await?;
                match bring_schema(&home, &client, &new.schema).await {
                    // The client's transaction has made it, on all nodes.
                    Err(e) if e.sqlstate == "3F000" => {}
                    brought => brought?,
                }
            }
            let own: Vec<_> = placed.iter().filter(|p| p.node == node.id).collect();
            let ids: Vec<i32> = own.iter().map(|p| p.id).collect();
            let remainders: Vec<i32> = own.iter().map(|p| p.remainder as i32).collect();
            let modulus = placed.first().map_or(1, |p| p.modulus as i32);
            announce(&client, node, new, (&ids, modulus, &remainders), stride).await
        };
        of_node.await.map_err(|e| e.on_node(&node.name))
    }))
    .await?;
    held.announced(new);
    Ok(())
}

async fn announce(
    client: &Client,
    node: &Node,
    new: &NewTable,
    (ids, modulus, remainders): (&[i32], i32, &[i32]),
    stride: i64,
) -> Result<(), DdlError> {
    let NodeId(slot) = node.id;
    client
        .execute(
            "INSERT INTO pgshunt.announced \
             (schema_name, table_name, owner, shards, modulus, remainders, slot, stride) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (schema_name, table_name) DO UPDATE SET \
             owner = EXCLUDED.owner, shards = EXCLUDED.shards, modulus = EXCLUDED.modulus, \
             remainders = EXCLUDED.remainders, slot = EXCLUDED.slot, stride = EXCLUDED.stride",
            &[&new.schema, &new.name, &new.owner, &ids, &modulus, &remainders, &slot, &stride],
        )
        .await?;
    Ok(())
}
