//! The demo's traffic and ledger against one plain PostgreSQL node: the judge must be right before
//! it judges pgshunt.

use std::time::Duration;

use pgshunt::demo::latency::Part;
use pgshunt::demo::ledger::{Verdict, audit};
use pgshunt::demo::scene;
use pgshunt::demo::traffic::{Outcome, Progress, TABLE, Worker};

use crate::support::*;

const SHARDS: u64 = 4;
const ROWS: i32 = 2000;
const WORKERS: i32 = 3;

/// A node with the table in four plain partitions, loaded.
async fn plain_node() -> (LocalNode, tokio_postgres::Client) {
    let node = LocalNode::start(NodeOptions::new("node1")).unwrap();
    let client = connect(node.port()).await;
    scene::create_table(&client).await.unwrap();
    for r in 0..SHARDS {
        let sql = format!(
            "CREATE TABLE p{r} PARTITION OF {TABLE} FOR VALUES WITH (MODULUS {SHARDS}, REMAINDER {r})"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    scene::load(&client, ROWS, SHARDS, |_| {}).await.unwrap();
    (node, client)
}

/// Runs the traffic until the table has grown by some rows.
async fn traffic(node: &LocalNode, client: &tokio_postgres::Client) -> Vec<Outcome> {
    let progress = Progress::new(ROWS.into());
    let workers: Vec<_> = (0..WORKERS)
        .map(|n| {
            let rows = (0..ROWS).filter(move |id| id % WORKERS == n);
            let config = scene::address(node.port(), DATABASE);
            let worker = Worker::new(config, progress.clone(), n, WORKERS, ROWS, rows, SHARDS);
            tokio::spawn(worker.run())
        })
        .collect();
    progress.enter(Part::Moving);
    wait_for("the traffic to insert 60 rows", async || {
        let rows: i64 = value(client, &format!("SELECT count(*) FROM {TABLE}")).await;
        (rows > i64::from(ROWS) + 60).then_some(())
    })
    .await;
    progress.stop();
    let mut outcomes = Vec::new();
    for worker in workers {
        outcomes.push(worker.await.unwrap());
    }
    outcomes
}

async fn judge(node: LocalNode, outcomes: Vec<Outcome>) -> Verdict {
    let ledgers: Vec<_> = outcomes.into_iter().map(|o| o.ledger).collect();
    audit(&ledgers, scene::all_rows(&[node]).await.unwrap())
}

#[tokio::test]
async fn a_plain_node_keeps_every_promise() {
    let (node, client) = plain_node().await;
    let mut outcomes = traffic(&node, &client).await;
    for outcome in &mut outcomes {
        assert_eq!(outcome.errors, 0, "{:?}", outcome.messages);
        let summary = outcome.latencies.summary(Part::Moving);
        assert!(summary.p50 > Some(Duration::ZERO) && summary.p50 <= summary.longest);
    }
    let verdict = judge(node, outcomes).await;
    assert_eq!(verdict, Verdict::default());
}

#[tokio::test]
async fn a_lost_row_a_repeated_update_and_a_strange_row_are_found() {
    let (node, client) = plain_node().await;
    let outcomes = traffic(&node, &client).await;
    // A row nobody updates, so that the figures are known: updates touch a row at most a few times.
    let untouched = format!("SELECT id FROM {TABLE} WHERE payload = 0 ORDER BY id LIMIT 2");
    let rows = client.query(&untouched, &[]).await.unwrap();
    let (gone, repeated): (i32, i32) = (rows[0].get(0), rows[1].get(0));
    let spoil = format!(
        "DELETE FROM {TABLE} WHERE id = {gone};
         UPDATE {TABLE} SET payload = payload + 2 WHERE id = {repeated};
         INSERT INTO {TABLE} VALUES (-1, 0)"
    );
    client.batch_execute(&spoil).await.unwrap();
    let verdict = judge(node, outcomes).await;
    assert_eq!((verdict.lost, verdict.doubled, verdict.unknown), (1, 2, 1), "{verdict:?}");
}

#[tokio::test]
async fn an_error_a_client_sees_is_counted_and_the_ledger_stays_right() {
    let (node, client) = plain_node().await;
    // Some inserts fail at the server; the rest goes on.
    client
        .batch_execute(&format!("ALTER TABLE {TABLE} ADD CHECK (id % 10 <> 7 OR id < {ROWS})"))
        .await
        .unwrap();
    let outcomes = traffic(&node, &client).await;
    let errors: u64 = outcomes.iter().map(|o| o.errors).sum();
    assert!(errors > 0);
    assert!(outcomes.iter().flat_map(|o| &o.messages).all(|m| m.ends_with("(23514)")));
    assert_eq!(judge(node, outcomes).await, Verdict::default());
}

#[tokio::test]
async fn rows_are_shown_by_node_and_shard() {
    let (node, _client) = plain_node().await;
    let placement = scene::placement(&[node]).await.unwrap();
    assert_eq!(placement.len(), SHARDS as usize);
    assert_eq!(placement.values().sum::<i64>(), i64::from(ROWS));
}
