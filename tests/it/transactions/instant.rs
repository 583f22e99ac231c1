//! Reads of several nodes see all of them at one instant, whatever is committed meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

/// What the readers have seen.
#[derive(Debug, Default)]
struct Seen {
    reads: AtomicU64,
    /// One half of a transfer without the other.
    torn: AtomicU64,
    /// An effect without its cause.
    out_of_order: AtomicU64,
}

/// Carries money between the nodes, there and back, a transaction each time.
pub async fn transfers(client: Client, [one, other]: [i32; 2], over: Arc<AtomicBool>) {
    let mut amount = 1;
    while !over.load(Ordering::Relaxed) {
        amount = -amount;
        run(&client, &["BEGIN", &adds(one, amount), &adds(other, -amount), "COMMIT"]).await;
    }
}

/// Writes a number on one node and, once that has been answered, the same on the other one.
async fn follows(client: Client, table: &str, [cause, effect]: [i32; 2], over: Arc<AtomicBool>) {
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        for t in [cause, effect] {
            run(&client, &[&format!("UPDATE {table} SET v = {number} WHERE t = {t}")]).await;
        }
    }
}

/// The sum of all accounts, by one of several ways.
async fn total(client: &Client, way: u64) -> i64 {
    match way % 5 {
        0 => texts(client, "SELECT sum(v) FROM accounts").await[0].parse().unwrap(),
        1 => {
            let sql = "SELECT sum(v)::int8 FROM accounts WHERE v > $1";
            client.query_one(sql, &[&-1_000_000]).await.unwrap().get(0)
        }
        2 => {
            let rows = texts(client, "SELECT v FROM accounts ORDER BY v").await;
            rows.iter().map(|v| v.parse::<i64>().unwrap()).sum()
        }
        // What one node computes of all nodes' rows.
        3 => {
            let sql = "SELECT v FROM accounts INTERSECT ALL SELECT v FROM accounts";
            let rows = texts(client, sql).await;
            rows.iter().map(|v| v.parse::<i64>().unwrap()).sum()
        }
        // A row for each value, which one node makes of all nodes' rows.
        _ => {
            let sql = "SELECT v, count(*) FROM accounts GROUP BY v";
            let rows = client.query(sql, &[]).await.unwrap();
            rows.iter().map(|r| i64::from(r.get::<_, i32>(0)) * r.get::<_, i64>(1)).sum()
        }
    }
}

async fn reads(client: Client, most: u64, in_block: bool, seen: Arc<Seen>) {
    loop {
        let n = seen.reads.fetch_add(1, Ordering::Relaxed);
        if n >= most {
            return;
        }
        if in_block {
            run(&client, &["BEGIN"]).await;
        }
        seen.torn.fetch_add(u64::from(total(&client, n).await != TOTAL), Ordering::Relaxed);
        for (table, later) in [("one", "DESC"), ("two", "ASC")] {
            let sql = format!("SELECT v FROM {table} ORDER BY far {later}");
            let marks = texts(&client, &sql).await;
            let marks: Vec<i64> = marks.iter().map(|v| v.parse().unwrap()).collect();
            let early = u64::from(marks[0] > marks[1]);
            seen.out_of_order.fetch_add(early, Ordering::Relaxed);
        }
        if in_block {
            run(&client, &["COMMIT"]).await;
        }
    }
}

async fn beside_writers(bank: &Bank, most: u64) -> Arc<Seen> {
    let seen = Arc::<Seen>::default();
    let over = Arc::<AtomicBool>::default();
    let there = [bank.near, bank.far];
    let mut back = there;
    back.reverse();
    let client = bank.p.client().await;
    for table in ["one", "two"] {
        let sql = format!(
            "CREATE TABLE {table} (t int PRIMARY KEY, v int, far bool) PARTITION BY HASH (t)"
        );
        run(&client, &[&sql]).await;
        for (t, far) in [(bank.near, false), (bank.far, true)] {
            run(&client, &[&format!("INSERT INTO {table} VALUES ({t}, 0, {far})")]).await;
        }
    }
    let mut writers = Vec::new();
    for _ in 0..3 {
        writers.push(tokio::spawn(transfers(bank.p.client().await, there, over.clone())));
    }
    for (table, order) in [("one", there), ("two", back)] {
        writers.push(tokio::spawn(follows(bank.p.client().await, table, order, over.clone())));
    }
    let mut readers = Vec::new();
    for in_block in [false, true, false] {
        readers.push(tokio::spawn(reads(bank.p.client().await, most, in_block, seen.clone())));
    }
    for reader in readers {
        reader.await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    println!("{seen:?}");
    seen
}

#[tokio::test]
async fn nothing_is_seen_in_part_and_no_effect_without_its_cause() {
    let b = Bank::open().await;
    let seen = beside_writers(&b, reads_wanted()).await;
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    assert_eq!((of(&seen.torn), of(&seen.out_of_order)), (0, 0), "{seen:?}");
    assert_eq!(b.audit().await, (TOTAL, 0));
}

/// `INSTANT_READS`: how many, for a long run by hand.
fn reads_wanted() -> u64 {
    std::env::var("INSTANT_READS").map_or(1500, |n| n.parse().expect("INSTANT_READS is a number"))
}

/// The test above can fail: without the setting its readers see what it forbids.
#[tokio::test]
async fn without_the_setting_each_node_has_its_own_instant() {
    let b = Bank::open_with(|c| c.read.one_instant = false).await;
    let seen = beside_writers(&b, reads_wanted()).await;
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    assert!(of(&seen.torn) > 0, "{seen:?}");
}

#[tokio::test]
async fn a_lock_that_a_commit_would_release_is_waited_for() {
    let b = Bank::open().await;
    let (holder, reader) = (b.p.client().await, b.p.client().await);
    let node = connect(b.p.nodes.nodes[0].port()).await;
    run(&holder, &["BEGIN", "ALTER TABLE accounts ADD COLUMN w int"]).await;
    let read = tokio::spawn(async move { total(&reader, 1).await });
    wait_for("the read to wait for the lock", async || {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        (value::<i64>(&node, waits).await > 0).then_some(())
    })
    .await;
    // Its COMMIT waits for the read's look, which waits for the lock.
    run(&holder, &["COMMIT"]).await;
    assert_eq!(read.await.unwrap(), TOTAL);
}
