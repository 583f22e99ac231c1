//! The limit of a pool and the line in front of it.

use std::time::{Duration, Instant};

use super::wire::{Wire, query};
use super::*;

#[tokio::test]
async fn who_waits_too_long_is_told_in_time_and_others_go_on() {
    let p = Proxy::start_with(2, 2, |c| {
        trusting(c);
        c.pool.size = 1;
        c.pool.queue_timeout = Duration::from_millis(300);
    })
    .await;
    let mut holder = Wire::login(p.port()).await;
    let mut waits = Wire::login(p.port()).await;
    p.console().await.does("SET shard_count = 2").await;
    waits.ask("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;
    holder.ask("BEGIN; SELECT 1").await;
    let mut took = Vec::new();
    for _ in 0..4 {
        let started = Instant::now();
        assert_eq!(waits.ask("SELECT 1").await, "E53300Z");
        took.push(started.elapsed());
    }
    // Each by its own clock, not by one that ticks for all: the machine may be slow, but not always.
    let (shortest, second) = (took.iter().min().unwrap(), took[1..].iter().min().unwrap());
    assert!(*shortest >= Duration::from_millis(300), "{took:?}");
    assert!(*second < Duration::from_millis(700), "{took:?}");
    // The other node's pool is another one.
    let mut inserted = 0;
    for id in 0..10 {
        let answer = waits.ask(&format!("INSERT INTO t VALUES ({id})")).await;
        assert!(["CZ", "E53300Z"].contains(&answer.as_str()), "{answer}");
        inserted += i64::from(answer == "CZ");
    }
    assert!((1..10).contains(&inserted), "{inserted}");
    assert_eq!(holder.ask("COMMIT").await, "CZ");
    assert_eq!(waits.ask("SELECT 1").await, "TDCZ", "the session goes on");
    assert_eq!(value::<i64>(&p.client().await, "SELECT count(*) FROM t").await, inserted);
}

#[tokio::test]
async fn the_line_is_served_in_its_order_by_all_workers() {
    let p = narrow().await;
    let mut holder = Wire::login(p.port()).await;
    holder.ask("CREATE TABLE t (a int, n serial)").await;
    let mut line = Vec::new();
    for _ in 0..12 {
        line.push(Wire::login(p.port()).await);
    }
    holder.ask("BEGIN; SELECT 1").await;
    for (i, wire) in line.iter_mut().enumerate() {
        wire.send(&query(&format!("INSERT INTO t VALUES ({i})"))).await;
        wait_for_line(&p, i + 1).await;
    }
    assert_eq!(holder.ask("COMMIT").await, "CZ");
    // A newcomer with statement after statement does not keep the others from their turn.
    for _ in 0..3 {
        holder.ask("SELECT 1").await;
    }
    for wire in &mut line {
        assert_eq!(wire.ready().await, "CZ");
    }
    let order: Vec<i32> = value(&node(&p).await, "SELECT array_agg(a ORDER BY n) FROM t").await;
    assert_eq!(order, (0..12).collect::<Vec<_>>());
    assert_eq!(served(&p).await.len(), 1, "never more connections than allowed");
}
