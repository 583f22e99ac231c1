//! pgshunt with the writers' table, and what makes a move wait where a test wants it.

use pgshunt::config::Config;
use pgshunt::moves::State;
use tokio_postgres::Client;

use super::traffic::TABLE;
use crate::support::{Console, LocalNode, Proxy, connect, wait_for};

/// pgshunt over two nodes with the writers' table in four shards: 1 and 3 on node1, 2 and 4 on node2.
pub async fn proxy() -> Proxy {
    proxy_with(2, |_| {}).await
}

pub async fn proxy_with(nodes: usize, change: impl FnOnce(&mut Config)) -> Proxy {
    let p = Proxy::start_with(nodes, nodes, change).await;
    make_table(&p.console().await, &p.client().await).await;
    p
}

pub async fn make_table(console: &Console, client: &Client) {
    console.does("SET shard_count = 4").await;
    client.batch_execute(TABLE).await.unwrap();
}

/// Holds a move up right before its cutover: a lock on the leaf that no writer minds and the fence
/// cannot have. It has no transaction number, so making a slot does not wait for it.
pub struct Brake(Client);

impl Brake {
    pub async fn pull(node: &LocalNode, shard: i32) -> Self {
        let client = connect(node.port()).await;
        let sql = format!("BEGIN; LOCK TABLE shard_{shard}.accounts IN ROW EXCLUSIVE MODE");
        client.batch_execute(&sql).await.unwrap();
        Self(client)
    }

    pub async fn release(self) {
        self.0.batch_execute("ROLLBACK").await.unwrap();
    }
}

/// The last move's value in this column of SHOW MOVES.
pub async fn last_move(console: &Console, column: &str) -> String {
    console.column("SHOW MOVES", column).await.pop().unwrap_or_default()
}

/// Waits until SHOW MOVES says this of the last move.
pub async fn until_move(console: &Console, column: &str, says: impl Fn(&str) -> bool) -> String {
    wait_for(&format!("SHOW MOVES to say it ({column})"), async || {
        let now = last_move(console, column).await;
        says(&now).then_some(now)
    })
    .await
}

pub async fn until_state(console: &Console, state: State) {
    until_move(console, "state", |now| now == state.name()).await;
}

/// The node that serves a shard, by its name.
pub async fn serves(console: &Console, shard: usize) -> String {
    console.column("SHOW SHARDS", "node").await[shard - 1].clone()
}
