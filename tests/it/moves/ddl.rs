//! DDL of a table whose shards move: it waits, and ends the soaking; nobody's move is ended by a role that has
//! nothing to say about the tables.

use std::time::{Duration, Instant};

use pgshunt::moves::State;

use super::scene::{Brake, assert_tidy, last_move, proxy_with, until_move, until_state};
use crate::support::{Console, connect_as, value};

#[tokio::test]
async fn ddl_waits_for_a_move_and_ends_its_soaking() {
    let p = proxy_with(2, |_| {}).await;
    let c = p.console().await;
    let mut client = Console::open(p.port(), crate::support::DATABASE).await;
    c.does("MOVE SHARD 1 TO node2").await;
    until_state(&c, State::Soaking).await;

    client.does("CREATE ROLE stranger LOGIN PASSWORD 'stranger'").await;
    let stranger =
        connect_as(p.port(), crate::support::DATABASE, "stranger", "stranger").await.unwrap();
    for sql in ["TRUNCATE accounts", "DROP TABLE accounts"] {
        assert!(stranger.batch_execute(sql).await.is_err(), "{sql}");
    }
    assert_eq!(last_move(&c, "state").await, State::Soaking.name(), "it is not the stranger's");

    client.does("TRUNCATE accounts").await;
    let told = client.told();
    assert!(told.iter().any(|n| n.contains("move 1") && n.contains("rolled back")), "{told:?}");
    assert_eq!(last_move(&c, "state").await, State::Done.name());

    let brake = Brake::pull(&p.nodes.nodes[1], 1).await;
    c.does("MOVE SHARD 1 TO node1 NOWAIT").await;
    until_move(&c, "blocker", |b| b.contains("pid ")).await;
    let waits = tokio::spawn(async move {
        client.does("ALTER TABLE accounts ADD COLUMN extra int").await;
        client
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waits.is_finished(), "a move is under way");
    brake.release().await;
    let client = waits.await.unwrap();
    let columns: i64 = value(&client.client, "SELECT count(extra) FROM accounts").await;
    assert_eq!(columns, 0);
    assert_eq!(last_move(&c, "state").await, State::Done.name());
    assert_tidy(&p.nodes, "at the end").await;
}

#[tokio::test]
async fn ddl_that_may_not_end_a_soaking_is_refused_in_time() {
    let p = proxy_with(2, |c| {
        c.moves.ddl_ends_soaking = false;
        c.moves.ddl_patience = Duration::from_millis(300);
    })
    .await;
    let c = p.console().await;
    let client = Console::open(p.port(), crate::support::DATABASE).await;
    let brake = Brake::pull(&p.nodes.nodes[0], 1).await;
    c.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    until_move(&c, "blocker", |b| b.contains("pid ")).await;
    let since = Instant::now();
    let e = client.refused("TRUNCATE accounts").await;
    assert!(since.elapsed() >= Duration::from_millis(300), "it has waited");
    assert_eq!((e.code().code(), e.hint()), ("55006", Some("Wait for its end, or CANCEL MOVE 1.")));
    brake.release().await;
    until_state(&c, State::Soaking).await;
    let e = client.refused("TRUNCATE accounts").await;
    assert_eq!(e.code().code(), "55006");
    assert!(e.hint().is_some_and(|h| h.starts_with("FINISH MOVE 1 ")), "{e:?}");
    assert_eq!(last_move(&c, "state").await, State::Soaking.name());
}
