//! What a session has made of itself, with two clients that must share server connections: neither
//! may see the other's, and each must find its own again. One file per kind of state.

mod behind;
mod left;
mod notify;
mod patience;
mod pins;
mod prepared;
mod replication;
mod restarts;
mod rotation;
mod search_path;
mod sequences;
mod settings;
mod two_phase;

use pgshunt::config::Config;
use tokio_postgres::Client;

use crate::support::*;

/// pgshunt over one node, with so few server connections that clients must share them. All of them are
/// there, and take turns.
async fn shared(size: usize) -> Proxy {
    Proxy::start_with(1, 1, |c: &mut Config| {
        c.pool.size = size;
        c.pool.min_size = size;
        c.pool.server_round_robin = true;
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

/// Two clients on three server connections, and no transaction on that of the one before.
async fn two_on_three() -> (Proxy, Client, Client) {
    let proxy = shared(3).await;
    let (a, b) = (proxy.client().await, proxy.client().await);
    rotating(&a, 3).await;
    (proxy, a, b)
}

/// The two ways to share: everything is on one server connection, or nothing on that of the transaction
/// before.
async fn worlds() -> [(Proxy, Client, Client); 2] {
    [two_on_one().await, two_on_three().await]
}

/// Waits until the client's transactions have so many server connections, in turn.
async fn rotating(client: &Client, of: usize) -> Vec<i32> {
    wait_for("the pool to be filled", async || {
        let mut turn = Vec::new();
        for _ in 0..of {
            turn.push(simply_pid(client).await);
        }
        let distinct: std::collections::BTreeSet<_> = turn.iter().collect();
        (distinct.len() == of).then_some(turn)
    })
    .await
}

/// The server connection that serves the client now.
async fn pid(client: &Client) -> i32 {
    value(client, "SELECT pg_backend_pid()").await
}

/// The same, in one transaction and not in one each for Parse and Execute.
async fn simply_pid(client: &Client) -> i32 {
    texts(client, "SELECT pg_backend_pid()").await[0].parse().unwrap()
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
