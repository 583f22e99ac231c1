//! Statements on all nodes, when one of those concerned goes wrong.

use super::wire::{Wire, query};
use super::*;
use crate::moves::child::{Home, Served};

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

/// How a client, or its task, may end while its statement runs on both nodes.
#[derive(Debug)]
enum Ends {
    Killed,
    Leaves,
    LeavesAmidRows,
}

/// The id of the database's client that is active.
async fn active(console: &Console) -> String {
    let of = |line: &[(String, Option<String>)], name| {
        line.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.clone())
    };
    let clients = console.lines("SHOW CLIENTS").await;
    let found = clients.iter().find(|c| {
        of(c, "activity").as_deref() == Some("active")
            && of(c, "database").as_deref() == Some(DATABASE)
    });
    of(found.expect("an active client"), "id").expect("its id")
}

#[tokio::test]
async fn whose_client_ends_runs_on_nowhere_and_holds_no_gate() {
    let (p, mut witness) = two_nodes().await;
    let console = p.console().await;
    for end in [Ends::Killed, Ends::Leaves, Ends::LeavesAmidRows] {
        let first = matches!(end, Ends::LeavesAmidRows);
        let locks = match first {
            // The home node's rows are on their way when the other one is waited for.
            true => vec![lock(&p.nodes.nodes[1]).await],
            false => vec![lock(&p.nodes.nodes[0]).await, lock(&p.nodes.nodes[1]).await],
        };
        let mut victim = Wire::login(p.port()).await;
        victim.send(&query(READ)).await;
        wait_for_running(&p, [i64::from(!first), 1]).await;
        match end {
            Ends::Killed => {
                let id = active(&console).await;
                console.does(&format!("KILL_CLIENT {id}")).await;
                assert_eq!(victim.ready().await, "E57P01");
            }
            Ends::Leaves | Ends::LeavesAmidRows => drop(victim),
        }
        // The locks are still there: the statements did not end by themselves.
        wait_for_running(&p, [0, 0]).await;
        for shard in [1, 2] {
            console.does(&format!("PAUSE SHARD {shard}")).await;
            console.does(&format!("RESUME SHARD {shard}")).await;
        }
        drop(locks);
        assert_eq!(witness.ask("SELECT count(*) FROM t").await, "TDCZ", "{end:?}");
    }
}

#[tokio::test]
async fn an_error_of_one_node_ends_it_on_the_others() {
    let (p, mut wire) = two_nodes().await;
    // The other node has bound the statement, and waits for the lock of a row when it executes it.
    let holder = connect(p.nodes.nodes[1].port()).await;
    holder.batch_execute("BEGIN; UPDATE t SET id = id").await.unwrap();
    // It fails where the row is, which is not where the lock is.
    let on_home = "SELECT min(id) FROM t WHERE tableoid::regclass::text LIKE 'shard_%'";
    let id: i32 = value(&connect(p.nodes.nodes[0].port()).await, on_home).await;
    assert_eq!(wire.ask(&format!("SELECT 1 / (id - {id}) FROM t FOR UPDATE")).await, "TE22012Z");
    wait_for_running(&p, [0, 0]).await;
    drop(holder);
    assert_eq!(wire.ask("SELECT count(*) FROM t").await, "TDCZ");
}

#[tokio::test]
async fn a_panic_amid_it_leaves_nothing_behind() {
    let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(2)).await.unwrap().unwrap();
    let mut config = nodes.config.clone();
    trusting(&mut config);
    let home = Home::new(&config);
    let served = Served::start(&home, Some("spread:said=panic")).await;
    let client = connect(served.port).await;
    let console = Console::open(served.port, "pgshunt").await;
    console.does("SET shard_count = 2").await;
    client.batch_execute("CREATE TABLE t (id int) PARTITION BY HASH (id)").await.unwrap();
    let locks = [lock(&nodes.nodes[0]).await, lock(&nodes.nodes[1]).await];
    let error = client.simple_query(READ).await.expect_err("its task has ended");
    assert!(error.is_closed(), "{error:?}");
    assert!(home.said().contains("failpoint spread:said: panic"), "{}", home.said());
    wait_for("the statements to end", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        for node in &nodes.nodes {
            if value::<i64>(&connect(node.port()).await, sql).await > 0 {
                return None;
            }
        }
        Some(())
    })
    .await;
    for shard in [1, 2] {
        console.does(&format!("PAUSE SHARD {shard}")).await;
        console.does(&format!("RESUME SHARD {shard}")).await;
    }
    drop(locks);
    let client = connect(served.port).await;
    assert_eq!(client.simple_query("SELECT count(*) FROM t").await.unwrap().len(), 3);
}
