//! Transactions that use several nodes: all of one counts, or nothing of it.

mod crash;
mod instant;
mod portals;
mod reads;
mod repeatable;

use tokio_postgres::Client;

use crate::support::*;

/// Accounts on two nodes, each with 100; and one of each node.
struct Bank {
    p: Proxy,
    near: i32,
    far: i32,
}

const ACCOUNTS: i32 = 20;

impl Bank {
    async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    async fn open_with(change: impl FnOnce(&mut pgshunt::config::Config)) -> Self {
        let p = Proxy::start_with(2, 2, change).await;
        p.console().await.does("SET shard_count = 2").await;
        fill(&p.client().await).await;
        let own = "SELECT min(t) FROM accounts";
        let near = value(&connect(p.nodes.nodes[0].port()).await, own).await;
        let far = value(&connect(p.nodes.nodes[1].port()).await, own).await;
        Self { p, near, far }
    }

    /// The sum of all accounts, and how many transactions stand prepared.
    async fn audit(&self) -> (i64, i64) {
        let (mut sum, mut prepared) = (0, 0);
        for node in &self.p.nodes.nodes {
            let client = connect(node.port()).await;
            sum += value::<i64>(&client, "SELECT coalesce(sum(v), 0)::int8 FROM accounts").await;
            prepared += value::<i64>(&client, "SELECT count(*) FROM pg_prepared_xacts").await;
        }
        (sum, prepared)
    }

    async fn of(&self, account: i32) -> i64 {
        value(&self.p.client().await, &format!("SELECT v::int8 FROM accounts WHERE t = {account}"))
            .await
    }
}

async fn fill(client: &Client) {
    client
        .batch_execute("CREATE TABLE accounts (t int PRIMARY KEY, v int) PARTITION BY HASH (t)")
        .await
        .unwrap();
    for t in 0..ACCOUNTS {
        let insert = format!("INSERT INTO accounts VALUES ({t}, 100)");
        client.batch_execute(&insert).await.unwrap();
    }
}

fn adds(account: i32, amount: i32) -> String {
    format!("UPDATE accounts SET v = v + {amount} WHERE t = {account}")
}

async fn run(client: &Client, texts: &[&str]) {
    for text in texts {
        client.batch_execute(text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"));
    }
}

async fn fails(client: &Client, text: &str) -> String {
    let error = client.batch_execute(text).await.expect_err(text);
    error.code().expect(text).code().to_owned()
}

const TOTAL: i64 = 100 * ACCOUNTS as i64;

#[tokio::test]
async fn what_was_done_on_both_nodes_counts_on_both_or_on_neither() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    let (take, give) = (adds(b.near, -30), adds(b.far, 30));
    run(&client, &["BEGIN", &take, &give, "COMMIT"]).await;
    assert_eq!((b.of(b.near).await, b.of(b.far).await), (70, 130));
    run(&client, &["BEGIN", &take, &give, "ROLLBACK"]).await;
    assert_eq!((b.of(b.near).await, b.of(b.far).await), (70, 130));
    // A failed one is rolled back by COMMIT too.
    run(&client, &["BEGIN", &take, &give]).await;
    let taken = format!("INSERT INTO accounts VALUES ({}, 0)", b.far);
    assert_eq!(fails(&client, &taken).await, "23505");
    assert_eq!(fails(&client, &take).await, "25P02", "also on the other node");
    run(&client, &["COMMIT"]).await;
    assert_eq!((b.of(b.near).await, b.of(b.far).await), (70, 130));
    assert_eq!(b.audit().await, (TOTAL, 0));
}

#[tokio::test]
async fn a_savepoint_brings_all_of_them_back() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    let (take, give) = (adds(b.near, -30), adds(b.far, 30));
    let taken = format!("INSERT INTO accounts VALUES ({}, 0)", b.near);
    // The node that takes part later knows the savepoint, too.
    run(&client, &["BEGIN", &take, "SAVEPOINT a", &take, &give]).await;
    assert_eq!(fails(&client, &taken).await, "23505");
    run(&client, &["ROLLBACK TO a", &give, "SAVEPOINT a", &give, "RELEASE a", "COMMIT"]).await;
    assert_eq!((b.of(b.near).await, b.of(b.far).await), (70, 160));
    assert_eq!(b.audit().await, (TOTAL + 30, 0));
}

#[tokio::test]
async fn what_is_set_holds_on_every_node_of_the_transaction() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    let shows = async |account: i32| -> String {
        let sql = format!(
            "SELECT current_setting('work_mem') || current_setting('application_name') \
             FROM accounts WHERE t = {account}"
        );
        value(&client, &sql).await
    };
    run(&client, &["BEGIN", "SET LOCAL work_mem = '1MB'", &adds(b.near, 1)]).await;
    assert_eq!(shows(b.far).await, "1MB");
    run(&client, &["SET application_name = 'bank'", "SET LOCAL work_mem = '2MB'"]).await;
    assert_eq!((shows(b.near).await, shows(b.far).await), ("2MBbank".into(), "2MBbank".into()));
    run(&client, &["COMMIT"]).await;
    assert_eq!((shows(b.near).await, shows(b.far).await), ("4MBbank".into(), "4MBbank".into()));
    // What a function sets is not seen: the transaction stays where it is known.
    run(&client, &["BEGIN", "DO $$ BEGIN PERFORM set_config('a.b', 'c', true); END $$"]).await;
    let error = client.batch_execute(&adds(b.far, 1)).await.expect_err("not known there");
    assert_eq!(error.code().unwrap().code(), "0A000");
}

/// PostgreSQL prepares no transaction that has notified, or used what is temporary.
#[tokio::test]
async fn what_cannot_be_prepared_is_undone_everywhere() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    let (take, give) = (adds(b.near, -30), adds(b.far, 30));
    run(&client, &["BEGIN", &take, "NOTIFY paid", &give]).await;
    assert_eq!(fails(&client, "COMMIT").await, "0A000");
    run(&client, &["BEGIN", &give, "CREATE TEMP TABLE slip (t int)"]).await;
    assert_eq!(fails(&client, "COMMIT").await, "0A000");
    assert_eq!(b.audit().await, (TOTAL, 0));
    // With one writer nothing is prepared.
    let read = format!("SELECT v FROM accounts WHERE t = {}", b.far);
    run(&client, &["BEGIN", &take, "NOTIFY paid", &read, "COMMIT"]).await;
    assert_eq!((b.of(b.near).await, b.audit().await.1), (70, 0));
}

#[tokio::test]
async fn a_deferred_check_that_fails_at_the_end_undoes_all() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    client
        .batch_execute("CREATE TABLE local (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        .await
        .unwrap();
    let twice = "INSERT INTO local VALUES (1), (1)";
    for texts in [[&adds(b.far, 30), twice], [twice, &adds(b.far, 30)]] {
        run(&client, &["BEGIN", texts[0], texts[1]]).await;
        assert_eq!(fails(&client, "COMMIT").await, "23505");
    }
    assert_eq!(b.audit().await, (TOTAL, 0));
    run(&client, &["BEGIN", "INSERT INTO local VALUES (1)", &adds(b.far, 30), "COMMIT"]).await;
    assert_eq!(b.audit().await, (TOTAL + 30, 0));
}

#[tokio::test]
async fn what_would_not_be_exact_is_refused() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    let (take, give) = (adds(b.near, -30), adds(b.far, 30));
    run(&client, &["BEGIN ISOLATION LEVEL SERIALIZABLE", &take]).await;
    assert_eq!(fails(&client, &give).await, "0A000");
    run(&client, &["ROLLBACK"]).await;
    for end in ["PREPARE TRANSACTION 'x'", "COMMIT AND CHAIN"] {
        run(&client, &["BEGIN", &take, &give]).await;
        assert_eq!(fails(&client, end).await, "0A000", "{end}");
        run(&client, &["ROLLBACK"]).await;
    }
    assert_eq!(b.audit().await, (TOTAL, 0));
}

#[tokio::test]
async fn options_of_a_begin_within_a_block_count_on_all_nodes() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    let (take, give) = (adds(b.near, -30), adds(b.far, 30));
    for account in [&take, &give] {
        run(&client, &["BEGIN", &take, &give, "START TRANSACTION READ ONLY"]).await;
        assert_eq!(fails(&client, account).await, "25006", "{account}");
        run(&client, &["ROLLBACK", "BEGIN", &take, &give]).await;
        client.execute("BEGIN READ ONLY", &[]).await.unwrap();
        assert_eq!(fails(&client, account).await, "25006", "{account}, prepared");
        run(&client, &["ROLLBACK"]).await;
        // Who takes part later is told too.
        run(&client, &["BEGIN", &take, "START TRANSACTION READ ONLY"]).await;
        assert_eq!(fails(&client, account).await, "25006", "{account}, later");
        run(&client, &["ROLLBACK"]).await;
    }
    run(&client, &["BEGIN", &take, &give, "BEGIN", "COMMIT"]).await;
    assert_eq!((b.of(b.near).await, b.of(b.far).await), (70, 130));
}

/// A text of several statements ends a transaction on all its nodes, or is one.
#[tokio::test]
async fn a_text_over_nodes_counts_on_both_or_on_neither() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    let (take, give) = (adds(b.near, -30), adds(b.far, 30));
    run(&client, &["BEGIN", &take, &give, "SELECT 1; COMMIT"]).await;
    assert_eq!((b.of(b.near).await, b.of(b.far).await), (70, 130));
    run(&client, &[&format!("{take}; {give}")]).await;
    assert_eq!((b.of(b.near).await, b.of(b.far).await), (40, 160));
    assert_eq!(fails(&client, &format!("{take}; {give}; SELECT 1/0")).await, "22012");
    // The transaction is at one node when a text ends it and goes on at the other.
    run(&client, &["BEGIN", &take, &format!("COMMIT; {give}")]).await;
    assert_eq!((b.of(b.near).await, b.of(b.far).await), (10, 190));
    assert_eq!(b.audit().await, (TOTAL, 0));
}

/// More clients than a pool has connections, each with a transaction on both nodes in either order.
#[tokio::test]
async fn who_holds_a_connection_does_not_wait_for_another_pool() {
    let b = Bank::open_with(|c| c.pool.size = 2).await;
    let mut tasks = Vec::new();
    for n in 0..8 {
        let client = b.p.client().await;
        // They only read: connections are all that they contend for.
        let (near, far) = (b.near, b.far);
        tasks.push(tokio::spawn(async move {
            for round in 0..10 {
                let first = if (n + round) % 2 == 0 { near } else { far };
                let second = near + far - first;
                let reads = |t: i32| format!("SELECT v FROM accounts WHERE t = {t}");
                run(&client, &["BEGIN", &reads(first), &reads(second), "COMMIT"]).await;
            }
        }));
    }
    for task in tasks {
        tokio::time::timeout(PATIENCE, task).await.expect("nobody waits for ever").unwrap();
    }
}

#[tokio::test]
async fn a_circle_of_waiting_transactions_over_two_nodes_is_ended() {
    let b = Bank::open().await;
    let (one, other) = (b.p.client().await, b.p.client().await);
    let (take, give) = (adds(b.near, -30), adds(b.far, 30));
    run(&one, &["BEGIN", &take]).await;
    run(&other, &["BEGIN", &give]).await;
    // A client of one node only, which waits for one of them, is in nobody's way.
    let third = b.p.client().await;
    let waits = third.batch_execute(&take);
    let circle = async {
        let (a, b) = tokio::join!(one.batch_execute(&give), other.batch_execute(&take));
        let code = |e: tokio_postgres::Error| e.code().map(|c| c.code().to_owned());
        match (a, b) {
            (Ok(()), Err(e)) => (&one, &other, code(e)),
            (Err(e), Ok(())) => (&other, &one, code(e)),
            both => panic!("one of them goes on: {both:?}"),
        }
    };
    let ends = async {
        // The loser's locks are held until it rolls back, as in PostgreSQL.
        let loser = async {
            let (winner, loser, code) = circle.await;
            assert_eq!(code.as_deref(), Some("40P01"));
            run(loser, &["ROLLBACK"]).await;
            winner
        };
        run(loser.await, &["COMMIT"]).await;
    };
    let both = async { tokio::join!(ends, waits) };
    let ((), waited) = tokio::time::timeout(PATIENCE, both).await.expect("nobody waits for ever");
    waited.unwrap();
    assert_eq!(b.audit().await, (TOTAL - 30, 0));
}

/// Transfers between any two accounts while shards move and server connections are killed.
#[tokio::test]
async fn money_is_neither_made_nor_lost() {
    let b = Bank::open().await;
    let mut tasks = Vec::new();
    for n in 0..4 {
        let port = b.p.port();
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            let mut client = connect(port).await;
            for round in 0..40 {
                // Each has accounts of its own, so that they do not wait for each other in a circle.
                let mine: Vec<i32> = (0..ACCOUNTS).filter(|t| t % 4 == n).collect();
                let (from, to) = (mine[round % 5], mine[(round * 3 + 1) % 5]);
                let texts = ["BEGIN", &adds(from, -1), &adds(to, 1), "COMMIT"];
                let mut failed = false;
                for text in texts {
                    if client.batch_execute(text).await.is_err() {
                        failed = true;
                        break;
                    }
                }
                if failed {
                    client = connect(port).await;
                } else {
                    done += 1;
                }
            }
            done
        }));
    }
    let console = b.p.console().await;
    let node = connect(b.p.nodes.nodes[1].port()).await;
    for round in 0..6 {
        let target = ["node2", "node1"][round % 2];
        let sql = format!("MOVE SHARD 1 TO {target}");
        // It may be refused while the one before it soaks.
        let _ = console.client.simple_query(&sql).await;
        node.batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE query LIKE 'UPDATE accounts SET v%' LIMIT 1",
        )
        .await
        .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    assert!(done > 40, "{done} transfers");
    wait_for("what was left prepared to end", async || (b.audit().await.1 == 0).then_some(()))
        .await;
    assert_eq!(value::<i64>(&b.p.client().await, "SELECT sum(v) FROM accounts").await, TOTAL);
}
