//! pgshunt with the writers' table, and what makes a move wait where a test wants it.

use std::collections::BTreeMap;

use pgshunt::config::Config;
use pgshunt::moves::State;
use tokio_postgres::Client;

use super::traffic::TABLE;
use crate::support::{Console, LocalCluster, LocalNode, Proxy, connect, value, wait_for};

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
        Self::pull_on(node, shard, "accounts").await
    }

    pub async fn pull_on(node: &LocalNode, shard: i32, table: &str) -> Self {
        let client = connect(node.port()).await;
        let sql = format!("BEGIN; LOCK TABLE shard_{shard}.{table} IN ROW EXCLUSIVE MODE");
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

/// Exactly one node serves each shard, the catalog says the same, and nothing is left over.
pub async fn assert_tidy(nodes: &LocalCluster, case: &str) {
    let home = connect(nodes.nodes[0].port()).await;
    let records: i64 = value(&home, "SELECT count(*) FROM pgshunt.cleanup_records").await;
    assert_eq!(records, 0, "{case}: cleanup records are left");
    let rows = home
        .query("SELECT shard_id, node_id, state FROM pgshunt.placements ORDER BY shard_id", &[])
        .await
        .unwrap();
    let mut placed = BTreeMap::<i32, Vec<i32>>::new();
    for r in rows {
        assert_eq!(r.get::<_, &str>(2), "active", "{case}");
        placed.entry(r.get(0)).or_default().push(r.get(1));
    }
    assert!(placed.values().all(|on| on.len() == 1), "{case}: {placed:?}");
    let mut attached = BTreeMap::<i32, Vec<i32>>::new();
    for (n, node) in (1..).zip(&nodes.nodes) {
        let c = connect(node.port()).await;
        if value::<bool>(&c, "SELECT to_regclass('pgshunt.fences') IS NOT NULL").await {
            let left = pgshunt::moves::leftovers(&c).await.unwrap();
            assert_eq!(left, Vec::<String>::new(), "{case}: left over on {}", node.name());
        }
        let prepared: i64 = value(&c, "SELECT count(*) FROM pg_prepared_xacts").await;
        assert_eq!(prepared, 0, "{case}: prepared transactions on {}", node.name());
        let leaves = c
            .query(
                "SELECT DISTINCT substr(n.nspname, 7)::int FROM pg_inherits i
                 JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE NOT inhdetachpending AND n.nspname ~ '^shard_[0-9]+$' AND c.relkind = 'r'",
                &[],
            )
            .await
            .unwrap();
        for l in leaves {
            attached.entry(l.get(0)).or_default().push(n);
        }
    }
    assert_eq!(attached, placed, "{case}: nodes that serve each shard, and what the catalog says");
}
