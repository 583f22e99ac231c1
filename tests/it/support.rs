//! What the tests share: local nodes, connections, and waiting for a condition.
//!
//! A test starts its own nodes and owns them; nothing is shared between tests.

#![allow(dead_code, unused_imports, reason = "each test takes what it needs")]

use std::future::Future;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

pub use pgshunt::local::{
    ClusterOptions, DATABASE, LocalCluster, LocalNode, NodeOptions, PASSWORD, SUPERUSER, StopMode,
};

/// Long enough for a loaded machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the cluster's database at a port, as the superuser: to a node or to pgshunt.
pub async fn connect(port: u16) -> Client {
    connect_as(port, DATABASE, SUPERUSER, PASSWORD)
        .await
        .unwrap_or_else(|e| panic!("connecting to port {port}: {e}"))
}

pub async fn connect_as(
    port: u16,
    database: &str,
    user: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).dbname(database).user(user).password(password);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // How it ends shows in the client's next call.
        let _ = connection.await;
    });
    Ok(client)
}

/// Waits until `look` finds something, and fails with `what` when it does not in time.
pub async fn wait_for<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The single value of a query's single row.
pub async fn value<T>(client: &Client, sql: &str) -> T
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    let row = client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    row.try_get(0).unwrap_or_else(|e| panic!("{sql}: {e}"))
}
