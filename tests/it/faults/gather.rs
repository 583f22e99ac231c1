//! Statements on all nodes, when one of those concerned goes wrong.

use super::wire::{Wire, query};
use super::*;

/// Two nodes with rows on both; a statement on all of them takes for ever.
async fn two_nodes() -> (Proxy, Wire) {
    let p = Proxy::start_with(2, 2, trusting).await;
    p.console().await.does("SET shard_count = 2").await;
    let mut wire = Wire::login(p.port()).await;
    wire.ask("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;
    for id in 0..20 {
        assert_eq!(wire.ask(&format!("INSERT INTO t VALUES ({id})")).await, "CZ");
    }
    (p, wire)
}

const READ: &str = "SELECT id FROM t";

/// Keeps readers of `t` waiting on a node, until dropped.
async fn lock(node: &LocalNode) -> Client {
    let locker = connect(node.port()).await;
    locker.batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    locker
}

/// How many statements wait for that on each node.
async fn running(p: &Proxy) -> Vec<i64> {
    let mut counts = Vec::new();
    for node in &p.nodes.nodes {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        counts.push(value(&connect(node.port()).await, sql).await);
    }
    counts
}

async fn wait_for_running(p: &Proxy, counts: [i64; 2]) {
    wait_for(&format!("{counts:?} statements to wait"), async || {
        (running(p).await == counts).then_some(())
    })
    .await;
}

#[tokio::test]
async fn it_is_cancelled_on_all_of_them() {
    let (p, mut wire) = two_nodes().await;
    for _ in 0..3 {
        let locks = (lock(&p.nodes.nodes[0]).await, lock(&p.nodes.nodes[1]).await);
        wire.send(&query(READ)).await;
        wait_for_running(&p, [1, 1]).await;
        wire.cancel(p.port()).await;
        let answer = wire.ready().await;
        assert!(answer.ends_with("E57014Z"), "{answer}");
        wait_for_running(&p, [0, 0]).await;
        drop(locks);
        assert_eq!(wire.ask("SELECT count(*) FROM t").await, "TDCZ");
    }
}

#[tokio::test]
async fn it_ends_everywhere_when_its_client_is_killed() {
    let (p, mut witness) = two_nodes().await;
    let mut wire = Wire::login(p.port()).await;
    wire.send(&query("SELECT id, repeat('x', 100000000) FROM t")).await;
    // It has begun to answer: the client's end shows when more is sent to it.
    let (tag, body) = wire.next().await.expect("a description");
    assert_eq!(tag, b'T', "{}", String::from_utf8_lossy(&body));
    assert_eq!(wire.next().await.expect("a row").0, b'D');
    drop(wire);
    wait_for("the statement to end on both nodes", async || {
        for node in &p.nodes.nodes {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT id, repeat%' \
                       AND state = 'active'";
            if value::<i64>(&connect(node.port()).await, sql).await > 0 {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert_eq!(witness.ask("SELECT count(*) FROM t").await, "TDCZ");
}

#[tokio::test]
async fn a_node_that_dies_is_told_of_and_the_session_goes_on() {
    let (mut p, mut wire) = two_nodes().await;
    for dead in [0, 1] {
        let locks = [lock(&p.nodes.nodes[0]).await, lock(&p.nodes.nodes[1]).await];
        wire.send(&query(READ)).await;
        wait_for_running(&p, [1, 1]).await;
        p.nodes.nodes[dead].kill().unwrap();
        // The other one answers.
        drop(locks);
        let answer = wire.ready().await;
        let told = ["E08006Z", "E57P01Z", "E57P02Z"].iter().any(|e| answer.ends_with(e));
        assert!(told, "{answer}");
        p.nodes.nodes[dead].restart().unwrap();
        assert_eq!(wire.ask("SELECT count(*) FROM t").await, "TDCZ");
        wait_for_running(&p, [0, 0]).await;
    }
}
