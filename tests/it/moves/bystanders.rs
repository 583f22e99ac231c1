//! Who is held by a move and who is not, and what becomes of open transactions.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgshunt::gate::Scope;
use pgshunt::moves::State;
use pgshunt::topology::ShardId;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::scene::{
    Brake, assert_tidy, last_move, proxy, proxy_with, serves, until_move, until_state,
};
use super::traffic::{Load, Traffic, ids_in};
use crate::support::{PATIENCE, Proxy, texts, value, wait_for};

/// How often a statement was held by a gate.
fn holds(p: &Proxy) -> u64 {
    p.server.shared.registry.sums().hold.count()
}

/// A row of the shard that none of the writers has.
async fn row_in(client: &Client, shard: i32) -> i32 {
    let id = ids_in(shard, 1_000_000).next().unwrap();
    let sql = format!("INSERT INTO accounts (id, owner) VALUES ({id}, -1)");
    client.batch_execute(&sql).await.unwrap();
    id
}

async fn add(client: &Client, id: i32) {
    let sql = format!("UPDATE accounts SET v = v + 1 WHERE id = {id}");
    let answer = client.simple_query(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    assert!(matches!(answer.as_slice(), [SimpleQueryMessage::CommandComplete(1)]), "{answer:?}");
}

async fn is(client: &Client, id: i32) -> i32 {
    let sql = format!("SELECT v FROM accounts WHERE id = {id}");
    let rows = texts(client, &sql).await;
    rows.first().unwrap_or_else(|| panic!("row {id} is not there")).parse().unwrap()
}

#[tokio::test]
async fn statements_of_other_shards_are_never_held() {
    let p = proxy().await;
    let console = p.console().await;
    p.client().await.batch_execute("CREATE TABLE plain (n int)").await.unwrap();
    let traffic = Traffic::start(
        p.port(),
        Load { writers: 4, shards: vec![2, 3, 4], gathers: false, ..Load::default() },
    );
    traffic.flows("before").await;
    // Beside the source, on the target, and on none of the shards' tables.
    let open = [p.client().await, p.client().await, p.client().await];
    let (beside, on_target) = (row_in(&open[0], 3).await, row_in(&open[1], 2).await);
    for (command, source, target) in
        [("MOVE SHARD 1 TO node2 NOWAIT", 0, "node2"), ("ROLLBACK MOVE NOWAIT", 1, "node1")]
    {
        let brake = Brake::pull(&p.nodes.nodes[source], 1).await;
        console.does(command).await;
        until_move(&console, "blocker", |b| b.contains("pid ")).await;
        for client in &open {
            client.batch_execute("BEGIN").await.unwrap();
        }
        add(&open[0], beside).await;
        add(&open[1], on_target).await;
        open[2].batch_execute("INSERT INTO plain VALUES (1)").await.unwrap();
        brake.release().await;
        wait_for("the shard to be served by its new node", async || {
            (serves(&console, 1).await == target).then_some(())
        })
        .await;
        add(&open[0], beside).await;
        add(&open[1], on_target).await;
        open[2].batch_execute("INSERT INTO plain VALUES (2)").await.unwrap();
        for client in &open {
            client.batch_execute("COMMIT").await.unwrap();
        }
        traffic.flows("after the cutover").await;
        let ends = if source == 0 { State::Soaking } else { State::Done };
        until_state(&console, ends).await;
    }
    assert_eq!(holds(&p), 0, "statements of other shards were held");
    assert_eq!((is(&open[0], beside).await, is(&open[1], on_target).await), (4, 4));
    assert_eq!(value::<i64>(&open[2], "SELECT count(*) FROM plain").await, 4);
    let seen = traffic.seen.clone();
    assert_eq!(traffic.end(&p.nodes, "at the end").await, Vec::<String>::new());
    assert!(seen.writes.load(Ordering::SeqCst) > 100, "too few to prove anything");
}

/// It has read the shard, so nobody but the gate knows of it. The cutover waits for it, and the others
/// do not: traffic is not held for an attempt that could only be in vain.
#[tokio::test]
async fn a_transaction_on_the_moving_shard_is_waited_for_and_nobody_is_held_meanwhile() {
    let p = proxy_with(2, |c| c.moves.cutover_drain_timeout = Duration::from_millis(50)).await;
    let console = p.console().await;
    let (reader, other) = (p.client().await, p.client().await);
    let id = row_in(&reader, 1).await;
    let traffic = Traffic::start(p.port(), Load { writers: 4, ..Load::default() });
    traffic.flows("before").await;
    let brake = Brake::pull(&p.nodes.nodes[0], 1).await;
    console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    until_move(&console, "blocker", |b| b.contains("pid ")).await;
    reader.batch_execute("BEGIN").await.unwrap();
    assert_eq!(is(&reader, id).await, 0);
    brake.release().await;
    let blocker = until_move(&console, "blocker", |b| b.starts_with("client ")).await;
    assert!(blocker.contains("transaction open for"), "{blocker}");
    // It was so young that one attempt could have waited for it.
    let (attempts, held) = (last_move(&console, "attempts").await, holds(&p));
    assert!(["0", "1"].contains(&&*attempts), "{attempts} attempts");
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        traffic.flows("while it is waited for").await;
    }
    assert_eq!(is(&reader, id).await, 0);
    add(&other, id).await;
    assert_eq!(is(&reader, id).await, 1, "READ COMMITTED, on the source still");
    assert_eq!(last_move(&console, "attempts").await, attempts);
    assert_eq!(holds(&p), held, "nobody was held for nothing");
    assert_eq!(serves(&console, 1).await, "node1");
    reader.batch_execute("COMMIT").await.unwrap();
    until_state(&console, State::Soaking).await;
    assert_eq!(is(&reader, id).await, 1);
    assert_eq!(traffic.end(&p.nodes, "at the end").await, Vec::<String>::new());
}

/// Whoever writes to the leaf beside pgshunt is met by the fence, in the held phase.
#[tokio::test]
async fn an_attempt_that_would_exceed_max_pause_is_given_up_unnoticed() {
    let p = proxy_with(2, |c| {
        // Nobody is old enough to be noticed before the cutover.
        c.moves.cutover_drain_timeout = Duration::from_secs(60);
        c.moves.max_pause = Duration::from_millis(120);
    })
    .await;
    let console = p.console().await;
    let traffic = Traffic::start(p.port(), Load { writers: 4, ..Load::default() });
    traffic.flows("before").await;
    let brake = Brake::pull(&p.nodes.nodes[0], 1).await;
    console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    until_move(&console, "attempts", |n| n.parse::<u32>().is_ok_and(|n| n >= 3)).await;
    until_move(&console, "blocker", |b| b.contains("pid ")).await;
    assert_eq!(serves(&console, 1).await, "node1");
    traffic.flows("between attempts").await;
    brake.release().await;
    until_state(&console, State::Soaking).await;
    traffic.flows("after the move").await;
    let ms = async |column| last_move(&console, column).await.parse::<f64>().unwrap();
    let (all, longest) = (ms("held_ms").await, ms("longest_hold_ms").await);
    assert!(longest > 80.0 && all > 3.0 * 80.0, "all attempts count: {all} ms, {longest} at once");
    assert_eq!(traffic.end(&p.nodes, "at the end").await, Vec::<String>::new());
}

/// Nobody is left to open the gate: each worker does it by itself.
#[tokio::test]
async fn a_gate_whose_coordinator_hangs_opens_at_its_deadline() {
    let p = proxy().await;
    let client = p.client().await;
    let id = row_in(&client, 1).await;
    let group = p.server.shared.store.routes().load().shard(ShardId(1)).unwrap().group;
    let scope = Scope::Shard { group, shard: ShardId(1) };
    let pause = Duration::from_millis(300);
    let closed = p.server.gates.close(scope, pause, Some(pause)).await.unwrap();
    std::mem::forget(closed);
    let since = Instant::now();
    add(&client, id).await;
    assert_eq!(holds(&p), 1, "it was held");
    assert!(since.elapsed() < PATIENCE);
    add(&client, id).await;
    assert_eq!(holds(&p), 1, "and nobody any more");
}

/// When the target cannot follow, the shard's writers are held for moments, which nobody notices as
/// anything but slowness; and a move that never gets ready can be cancelled.
#[tokio::test]
async fn writers_are_slowed_when_the_target_cannot_follow() {
    let p = proxy_with(2, |c| c.moves.ready_round_trip = Duration::ZERO).await;
    let console = p.console().await;
    let traffic = Traffic::start(p.port(), Load { writers: 4, ..Load::default() });
    console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    until_move(&console, "blocker", |b| b.starts_with("a marker takes ")).await;
    assert_eq!(holds(&p), 0, "at first it is given time");
    wait_for("the writers to be slowed", async || (holds(&p) > 5).then_some(())).await;
    traffic.flows("while it is slowed").await;
    assert_eq!(last_move(&console, "attempts").await, "0");
    console.does("CANCEL MOVE").await;
    until_state(&console, State::Failed).await;
    let after = holds(&p);
    traffic.flows("after the move").await;
    assert_eq!(holds(&p), after, "nobody is held any more");
    assert_eq!(traffic.end(&p.nodes, "at the end").await, Vec::<String>::new());
    assert_tidy(&p.nodes, "at the end").await;
}
