//! The table, its first rows, and a look at all nodes behind the proxy's back.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Config as PgConfig, NoTls};

use super::DemoError;
use super::traffic::{TABLE, shard_of, words};
use crate::local::{DATABASE, LocalNode, PASSWORD, SUPERUSER};

/// Rows a statement loads at once.
const BATCH: usize = 1000;

/// How to reach `database` at a local port, node or proxy.
pub fn address(port: u16, database: &str) -> PgConfig {
    let mut config = PgConfig::new();
    config
        .host("127.0.0.1")
        .port(port)
        .dbname(database)
        .user(SUPERUSER)
        .password(PASSWORD)
        .application_name("pgshunt demo");
    config
}

pub async fn connect(config: &PgConfig) -> Result<Client, DemoError> {
    #[expect(clippy::disallowed_methods, reason = "a client's connection, to pgshunt")]
    let (client, connection) =
        config.connect(NoTls).await.map_err(|e| DemoError::Sql("connecting".into(), words(&e)))?;
    tokio::spawn(async move {
        // How it ends shows in the client's next call.
        let _ = connection.await;
    });
    Ok(client)
}

pub async fn execute(client: &Client, sql: &str) -> Result<(), DemoError> {
    let failed = |e| DemoError::Sql(sql.chars().take(100).collect(), words(&e));
    client.batch_execute(sql).await.map_err(failed)
}

/// Creates the table through the proxy, as an application would.
pub async fn create_table(client: &Client) -> Result<(), DemoError> {
    let sql = format!(
        "CREATE TABLE {TABLE} (id int NOT NULL PRIMARY KEY, payload real) PARTITION BY HASH (id)"
    );
    execute(client, &sql).await
}

/// Loads rows 0 to `rows` with payload 0. The rows of one statement are of one shard, since an
/// INSERT over several nodes is refused.
pub async fn load(
    client: &Client,
    rows: i32,
    shards: u64,
    mut loaded: impl FnMut(u64),
) -> Result<(), DemoError> {
    let mut batches: BTreeMap<u64, Vec<i32>> = BTreeMap::new();
    for id in 0..rows {
        batches.entry(shard_of(id, shards)).or_default().push(id);
    }
    for ids in batches.values().flat_map(|ids| ids.chunks(BATCH)) {
        let values: Vec<String> = ids.iter().map(|id| format!("({id}, 0)")).collect();
        let sql = format!("INSERT INTO {TABLE} (id, payload) VALUES {}", values.join(", "));
        execute(client, &sql).await?;
        loaded(ids.len() as u64);
    }
    Ok(())
}

/// Rows by node and leaf, as each node itself serves them.
pub type Placement = BTreeMap<(String, String), i64>;

pub async fn placement(nodes: &[LocalNode]) -> Result<Placement, DemoError> {
    let mut found = Placement::new();
    for node in nodes {
        let client = connect(&address(node.port(), DATABASE)).await?;
        if !has_table(&client).await? {
            continue;
        }
        let sql =
            format!("SELECT tableoid::regclass::text, count(*) FROM {TABLE} GROUP BY 1 ORDER BY 1");
        for row in query(&client, &sql).await? {
            let (leaf, count): (String, i64) = (get(&row, 0)?, get(&row, 1)?);
            let shard = leaf.split('.').next().unwrap_or(&leaf).replace("shard_", "shard ");
            found.insert((node.name().to_owned(), shard), count);
        }
    }
    Ok(found)
}

/// All rows of all nodes; a row that two nodes serve is there twice.
pub async fn all_rows(nodes: &[LocalNode]) -> Result<Vec<(i32, f32)>, DemoError> {
    let mut found = Vec::new();
    for node in nodes {
        let client = connect(&address(node.port(), DATABASE)).await?;
        if has_table(&client).await? {
            for row in query(&client, &format!("SELECT id, payload FROM {TABLE}")).await? {
                found.push((get(&row, 0)?, get(&row, 1)?));
            }
        }
    }
    Ok(found)
}

async fn has_table(client: &Client) -> Result<bool, DemoError> {
    let rows = query(client, &format!("SELECT to_regclass('{TABLE}') IS NOT NULL")).await?;
    rows.first().map_or(Ok(false), |row| get(row, 0))
}

async fn query(client: &Client, sql: &str) -> Result<Vec<tokio_postgres::Row>, DemoError> {
    client.query(sql, &[]).await.map_err(|e| DemoError::Sql(sql.to_owned(), words(&e)))
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a tokio_postgres::Row,
    column: usize,
) -> Result<T, DemoError> {
    row.try_get(column).map_err(|e| DemoError::Sql("reading a row".into(), words(&e)))
}
