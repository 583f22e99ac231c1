//! What a session has made of itself, with two clients that must share server connections: neither
//! may see the other's, and each must find its own again. One file per kind of state.

mod notify;
mod pins;
mod prepared;
mod replication;
mod restarts;
mod search_path;
mod settings;

use pgshunt::config::Config;
use tokio_postgres::Client;

use crate::support::*;

/// pgshunt over one node, with so few server connections that clients must share them.
async fn shared(size: usize) -> Proxy {
    Proxy::start_with(1, 1, |c: &mut Config| {
        c.pool.size = size;
        // One thread: what is let go of is taken by the next at once.
        c.server.workers = 1;
    })
    .await
}

/// Two clients on one server connection.
async fn two_on_one() -> (Proxy, Client, Client) {
    let proxy = shared(1).await;
    let (a, b) = (proxy.client().await, proxy.client().await);
    let pids = (pid(&a).await, pid(&b).await);
    assert_eq!(pids.0, pids.1, "they must share one server connection");
    (proxy, a, b)
}

/// The server connection that serves the client now.
async fn pid(client: &Client) -> i32 {
    value(client, "SELECT pg_backend_pid()").await
}

async fn does(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
}

async fn show(client: &Client, parameter: &str) -> String {
    let sql = format!("SELECT coalesce(pg_catalog.current_setting('{parameter}', true), '')");
    value(client, &sql).await
}

/// The SQLSTATE a statement fails with.
async fn fails(client: &Client, sql: &str) -> String {
    let e = client.batch_execute(sql).await.expect_err(sql);
    e.code().unwrap_or_else(|| panic!("{sql}: {e:?}")).code().to_owned()
}

/// What SHOW CLIENTS says binds each client of the database, in the order of their logins.
async fn pinned_by(proxy: &Proxy) -> Vec<String> {
    let console = proxy.console().await;
    let (of, why) = (
        console.column("SHOW CLIENTS", "database").await,
        console.column("SHOW CLIENTS", "pinned_by").await,
    );
    of.into_iter().zip(why).filter(|(of, _)| of == DATABASE).map(|(_, why)| why).collect()
}
