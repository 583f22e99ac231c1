//! REPEATABLE READ transactions: one snapshot of all nodes from the first statement to the end.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::IsolationLevel;

use super::instant::transfers;
use super::*;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";

/// Money goes between the nodes and back until what is given is done; what it has given.
async fn beside_transfers<T>(b: &Bank, done: impl Future<Output = T>) -> T {
    let over = Arc::<AtomicBool>::default();
    let mut writers = Vec::new();
    for _ in 0..3 {
        let client = b.p.client().await;
        writers.push(tokio::spawn(transfers(client, [b.near, b.far], over.clone())));
    }
    let given = done.await;
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    given
}

/// The two accounts, each read on its own node.
async fn both(client: &Client, b: &Bank) -> [i64; 2] {
    let mut found = [0; 2];
    for (found, account) in found.iter_mut().zip([b.near, b.far]) {
        *found = value(client, &format!("SELECT v::int8 FROM accounts WHERE t = {account}")).await;
    }
    found
}

#[tokio::test]
async fn every_statement_of_one_sees_the_same_instant_of_all_nodes() {
    let b = Bank::open().await;
    let mut client = b.p.client().await;
    let levels = [
        BEGIN,
        "BEGIN; SET transaction_isolation = 'repeatable read'",
        "BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "START TRANSACTION READ WRITE, ISOLATION LEVEL REPEATABLE READ",
    ];
    beside_transfers(&b, async {
        for n in 0..60 {
            let first = levels[n % levels.len()];
            run(&client, &first.split("; ").collect::<Vec<_>>()).await;
            let seen = both(&client, &b).await;
            assert_eq!(seen.iter().sum::<i64>(), 200, "by two nodes, {first}");
            let total = "SELECT sum(v)::int8 FROM accounts";
            assert_eq!(value::<i64>(&client, total).await, TOTAL, "by all nodes, {first}");
            assert_eq!(both(&client, &b).await, seen, "again, {first}");
            run(&client, &["COMMIT"]).await;
        }
        for _ in 0..20 {
            // As drivers begin it, and by the extended protocol.
            let level = IsolationLevel::RepeatableRead;
            let block = client.build_transaction().isolation_level(level).start().await.unwrap();
            let sql = "SELECT v::int8 FROM accounts WHERE t = $1";
            let mut seen = Vec::new();
            for account in [b.far, b.near, b.far] {
                seen.push(block.query_one(sql, &[&account]).await.unwrap().get::<_, i64>(0));
            }
            assert_eq!((seen[0] + seen[1], seen[0]), (200, seen[2]));
            let rows = block.query("SELECT v::int8 FROM accounts", &[]).await.unwrap();
            assert_eq!(rows.iter().map(|r| r.get::<_, i64>(0)).sum::<i64>(), TOTAL);
            block.commit().await.unwrap();
        }
    })
    .await;
    assert_eq!(b.audit().await, (TOTAL, 0));
}

#[tokio::test]
async fn it_writes_on_several_nodes_and_conflicts_are_postgresqls() {
    let b = Bank::open().await;
    let (client, other) = (b.p.client().await, b.p.client().await);
    let (take, give) = (adds(b.near, -30), adds(b.far, 30));
    run(&client, &[BEGIN, &take, &give]).await;
    assert_eq!(both(&client, &b).await, [70, 130], "its own writes");
    assert_eq!(both(&other, &b).await, [100, 100]);
    run(&client, &["SAVEPOINT s", &take, &give, "ROLLBACK TO s", "COMMIT"]).await;
    assert_eq!(both(&other, &b).await, [70, 130]);

    // What others have changed since, on whatever node, it may not change.
    for changed in [b.near, b.far] {
        run(&client, &[BEGIN, "SELECT 1"]).await;
        run(&other, &[&adds(changed, 1), &adds(changed, -1)]).await;
        assert_eq!(both(&client, &b).await, [70, 130]);
        assert_eq!(fails(&client, &adds(changed, 5)).await, "40001");
        assert_eq!(fails(&client, "SELECT 1").await, "25P02");
        run(&client, &["ROLLBACK"]).await;
    }
    run(&client, &[BEGIN, "UPDATE accounts SET v = v + 1", "ROLLBACK"]).await;
    assert_eq!(b.audit().await, (TOTAL, 0));
}

#[tokio::test]
async fn without_one_of_the_nodes_it_stays_on_its_own() {
    let mut b = Bank::open().await;
    let client = b.p.client().await;
    // Without the other node it stays on its own, whichever that is.
    b.p.nodes.nodes[1].kill().unwrap();
    run(&client, &[BEGIN, &adds(b.near, 0)]).await;
    assert_eq!(fails(&client, "SELECT sum(v) FROM accounts").await, "0A000");
    run(&client, &["ROLLBACK", BEGIN]).await;
    assert_eq!(fails(&client, &adds(b.far, 0)).await, "08006");
    run(&client, &["ROLLBACK"]).await;
    b.p.nodes.nodes[1].restart().unwrap();
    wait_for("the node to be back", async || {
        let sum = client.batch_execute("SELECT sum(v) FROM accounts").await;
        sum.is_ok().then_some(())
    })
    .await;
    run(&client, &[BEGIN, &adds(b.near, -1), &adds(b.far, 1), "COMMIT"]).await;
    assert_eq!(both(&client, &b).await, [99, 101]);
}

#[tokio::test]
async fn what_has_not_its_snapshot_of_all_nodes_stays_on_one() {
    let b = Bank::open().await;
    let (client, other) = (b.p.client().await, b.p.client().await);
    // AND CHAIN begins another transaction, each node's part of it at its own first statement.
    run(&client, &[BEGIN]).await;
    assert_eq!(both(&client, &b).await, [100, 100]);
    run(&client, &["ROLLBACK AND CHAIN", &format!("SELECT v FROM accounts WHERE t = {}", b.near)])
        .await;
    run(&other, &["BEGIN", &adds(b.near, -30), &adds(b.far, 30), "COMMIT"]).await;
    let far = format!("SELECT v FROM accounts WHERE t = {}", b.far);
    assert_eq!(fails(&client, &far).await, "0A000");
    run(&client, &["ROLLBACK"]).await;

    // One that was given up while it was to be taken.
    let lock = connect(b.p.nodes.nodes[1].port()).await;
    run(&lock, &["BEGIN; LOCK TABLE accounts"]).await;
    run(&client, &[BEGIN, "SAVEPOINT s", "SET LOCAL statement_timeout = '1ms'"]).await;
    let _ = client.batch_execute("SELECT sum(v) FROM accounts").await;
    run(&client, &["ROLLBACK TO s"]).await;
    run(&lock, &["ROLLBACK"]).await;
    let near = format!("SELECT v::int8 FROM accounts WHERE t = {}", b.near);
    let seen: i64 = value(&client, &near).await;
    run(&other, &["BEGIN", &adds(b.near, -30), &adds(b.far, 30), "COMMIT"]).await;
    if let Ok(row) = client.query_one(&far.replace("v ", "v::int8 "), &[]).await {
        assert_eq!(seen + row.get::<_, i64>(0), 200, "of one instant, or refused");
    }
    run(&client, &["ROLLBACK"]).await;
}

#[tokio::test]
async fn a_shard_that_moves_is_seen_where_it_was() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    run(&client, &[BEGIN, "SELECT 1"]).await;
    let console = b.p.console().await;
    let shard = console.column("SHOW SHARDS", "shard_id").await.remove(0);
    let on = console.column("SHOW SHARDS", "node").await.remove(0);
    let to = if on == "node1" { "node2" } else { "node1" };
    let mover = b.p.console().await;
    let moves = tokio::spawn(async move {
        mover.client.batch_execute(&format!("MOVE SHARD {shard} TO {to}")).await
    });
    wait_for("the move to wait for the transaction", async || {
        let state = console.column("SHOW MOVES", "state").await;
        state.iter().any(|s| s != "done").then_some(())
    })
    .await;
    assert_eq!(both(&client, &b).await, [100, 100]);
    assert_eq!(value::<i64>(&client, "SELECT sum(v)::int8 FROM accounts").await, TOTAL);
    run(&client, &["COMMIT"]).await;
    moves.await.unwrap().unwrap();
    run(&client, &[BEGIN]).await;
    assert_eq!(value::<i64>(&client, "SELECT sum(v)::int8 FROM accounts").await, TOTAL);
    run(&client, &["COMMIT"]).await;
}

#[tokio::test]
async fn a_dump_is_of_one_instant() {
    let b = Bank::open().await;
    let port = b.p.port();
    let dumps = async {
        for n in 0..4 {
            let dump = tokio::task::spawn_blocking(move || {
                Command::new("pg_dump")
                    .args(["--data-only", "-t", "accounts", "-d"])
                    .arg(format!("host=127.0.0.1 port={port} user={SUPERUSER} dbname={DATABASE}"))
                    .env("PGPASSWORD", PASSWORD)
                    .output()
                    .unwrap()
            });
            let dump = dump.await.unwrap();
            let said = String::from_utf8_lossy(&dump.stderr);
            assert!(dump.status.success(), "{said}");
            let rows = String::from_utf8(dump.stdout).unwrap();
            let of = |row: &str| row.split_once('\t')?.1.parse::<i64>().ok();
            assert_eq!(rows.lines().filter_map(of).sum::<i64>(), TOTAL, "dump {n}");
        }
    };
    beside_transfers(&b, dumps).await;
}

/// Each waits for its connections in the same order, so nobody waits for who waits for it.
#[tokio::test]
async fn many_of_them_share_one_connection_of_each_node() {
    let b = Bank::open_with(|c| c.pool.size = 1).await;
    let mut all = tokio::task::JoinSet::new();
    for n in 0..6 {
        let (client, first, second) = (b.p.client().await, b.near, b.far);
        let accounts = if n % 2 == 0 { [first, second] } else { [second, first] };
        all.spawn(async move {
            for _ in 0..10 {
                run(&client, &[BEGIN]).await;
                for account in accounts {
                    let sql = format!("SELECT v FROM accounts WHERE t = {account}");
                    run(&client, &[&sql]).await;
                }
                run(&client, &["COMMIT"]).await;
            }
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}
