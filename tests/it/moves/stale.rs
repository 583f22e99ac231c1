//! Whoever decided before a cutover where to go, and goes after it: a right answer, or an error that
//! says to try again. Never a wrong answer, never a write that is lost.

use std::sync::Arc;
use std::time::Duration;

use pgshunt::app::{Server, StartError};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::child::{Home, Served};
use super::scene::{make_table, proxy, proxy_with, serves};
use super::traffic::ids_in;
use crate::support::{Console, LocalCluster, Proxy, connect, value, wait_for};

/// What a simple query affected, or the error it gave.
async fn simple(client: &Client, sql: &str) -> Result<u64, tokio_postgres::Error> {
    let answer = client.simple_query(sql).await?;
    let done = answer.iter().find_map(|m| match m {
        SimpleQueryMessage::CommandComplete(n) => Some(*n),
        _ => None,
    });
    Ok(done.unwrap_or(0))
}

/// Rows of the shard with v = 0.
async fn rows_in(client: &Client, shard: i32, count: usize) -> Vec<i32> {
    let ids: Vec<i32> = ids_in(shard, 1).take(count).collect();
    for id in &ids {
        let sql = format!("INSERT INTO accounts (id, owner) VALUES ({id}, 0)");
        assert_eq!(simple(client, &sql).await.unwrap(), 1);
    }
    ids
}

fn add(id: i32) -> String {
    format!("UPDATE accounts SET v = v + 1 WHERE id = {id}")
}

/// MOVE SHARD 1 TO node2, until node2 serves it; what follows may wait for open transactions.
async fn move_away(console: &Console) {
    console.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    wait_for("node2 to serve the shard", async || {
        (serves(console, 1).await == "node2").then_some(())
    })
    .await;
}

async fn until_waiting(console: &Console, count: usize, activity: &str) {
    wait_for(&format!("{count} clients {activity}"), async || {
        let all = console.column("SHOW CLIENTS", "activity").await;
        (all.iter().filter(|a| *a == activity).count() == count).then_some(())
    })
    .await;
}

/// All rows as the nodes have them, through the parents.
async fn sum_on(p: &Proxy, node: usize) -> i64 {
    let c = connect(p.nodes.nodes[node].port()).await;
    value(&c, "SELECT coalesce(sum(v), 0) FROM public.accounts").await
}

/// They decided for node1 and wait in its pool's line while the shard leaves it.
#[tokio::test]
async fn who_waits_for_a_connection_during_the_cutover_is_routed_anew() {
    let p = proxy_with(2, |c| c.pool.size = 1).await;
    let console = p.console().await;
    let holder = p.client().await;
    let ids = rows_in(&holder, 1, 3).await;
    let three = rows_in(&holder, 3, 1).await[0];
    let (by_text, by_parameter, reader) =
        (p.client().await, Arc::new(p.client().await), p.client().await);
    let prepared = by_parameter.prepare("UPDATE accounts SET v = v + 1 WHERE id = $1");
    let prepared = prepared.await.unwrap();
    simple(&holder, "BEGIN").await.unwrap();
    simple(&holder, &format!("SELECT v FROM accounts WHERE id = {three}")).await.unwrap();

    let (a, b, c) = (ids[0], ids[1], ids[2]);
    let first = tokio::spawn(async move { simple(&by_text, &add(a)).await });
    let client = by_parameter.clone();
    let second = tokio::spawn(async move { client.execute(&prepared, &[&b]).await });
    let third = tokio::spawn(async move {
        value::<i64>(&reader, &format!("SELECT count(*) FROM accounts WHERE id = {c}")).await
    });
    until_waiting(&console, 3, "waiting").await;
    move_away(&console).await;
    simple(&holder, "COMMIT").await.unwrap();
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(second.await.unwrap().unwrap(), 1);
    assert_eq!(third.await.unwrap(), 1);
    assert_eq!((sum_on(&p, 0).await, sum_on(&p, 1).await), (0, 2));
}

#[tokio::test]
async fn what_was_begun_or_prepared_before_the_cutover_finds_the_shard_after_it() {
    // With it on, a REPEATABLE READ transaction would keep the shard where it is.
    let p = proxy_with(2, |c| c.read.one_instant = false).await;
    let console = p.console().await;
    let c = p.client().await;
    let ids = rows_in(&c, 1, 2).await;
    let two = rows_in(&c, 2, 1).await[0];
    // BEGIN without a statement has no node yet, and neither has a prepared statement.
    let lazy = p.client().await;
    simple(&lazy, "BEGIN").await.unwrap();
    let prepared = c.prepare("UPDATE accounts SET v = v + 1 WHERE id = $1").await.unwrap();
    assert_eq!(c.execute(&prepared, &[&ids[0]]).await.unwrap(), 1);
    let gather = c.prepare("SELECT sum(v) FROM accounts").await.unwrap();
    // On the target since before the cutover: the snapshot may be older than the shard's last change.
    let old = p.client().await;
    simple(&old, "BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    assert_eq!(simple(&old, &format!("SELECT v FROM accounts WHERE id = {two}")).await.unwrap(), 1);
    // Bound to the source by a temporary table.
    let bound = p.client().await;
    simple(&bound, "CREATE TEMP TABLE mine (n int)").await.unwrap();
    let on_source = value::<i64>(&bound, "SELECT count(*) FROM mine").await == 0;
    assert!(on_source);

    move_away(&console).await;
    assert_eq!(simple(&lazy, &add(ids[0])).await.unwrap(), 1);
    assert_eq!(simple(&lazy, &add(ids[1])).await.unwrap(), 1);
    simple(&lazy, "COMMIT").await.unwrap();
    assert_eq!(c.execute(&prepared, &[&ids[1]]).await.unwrap(), 1);
    assert_eq!(c.query_one(&gather, &[]).await.unwrap().get::<_, i64>(0), 4);

    let e = simple(&old, &add(ids[0])).await.unwrap_err();
    let e = e.as_db_error().unwrap();
    assert_eq!((e.code().code(), e.hint().is_some()), ("40001", true), "{e:?}");
    simple(&old, "ROLLBACK").await.unwrap();
    assert_eq!(simple(&old, &add(ids[0])).await.unwrap(), 1, "the retry");

    let e = simple(&bound, &add(ids[0])).await.unwrap_err();
    let e = e.as_db_error().unwrap();
    assert_eq!((e.code().code(), e.hint().is_some()), ("0A000", true), "{e:?}");
    assert_eq!((sum_on(&p, 0).await, sum_on(&p, 1).await), (0, 5));
}

/// A second pgshunt would send its clients where the shard was.
#[tokio::test]
async fn a_second_pgshunt_on_the_same_catalog_does_not_start() {
    let p = proxy().await;
    match Server::start(p.nodes.config.clone()).await {
        Err(StartError::Owner(e)) => {
            let words = e.to_string();
            assert!(words.starts_with("another pgshunt serves this cluster: process "), "{words}");
            assert!(words.contains("127.0.0.1, since 20"), "{words}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it serves beside the first"),
    }
    let Proxy { nodes, server } = p;
    server.shutdown().await;
    let server = Server::start(nodes.config.clone()).await.unwrap();
    let c = connect(server.addr.port()).await;
    assert_eq!(value::<i64>(&c, "SELECT count(*) FROM accounts").await, 0);
}

/// Its session on home is gone and another was quicker: nothing may be served from what it knows.
#[tokio::test]
async fn whoever_lost_the_catalog_serves_nothing_until_it_has_it_back() {
    let p = proxy().await;
    let console = p.console().await;
    let c = p.client().await;
    let id = rows_in(&c, 2, 1).await[0];
    let home = connect(p.nodes.nodes[0].port()).await;
    let (class, number) = (0x7067_7368_i32, 0_i32);
    let other = connect(p.nodes.nodes[0].port()).await;
    let taken = tokio::spawn(async move {
        other.execute("SELECT pg_advisory_lock($1, $2)", &[&class, &number]).await.map(|_| other)
    });
    wait_for("another to stand in line for the catalog", async || {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        (value::<i64>(&home, sql).await == 1).then_some(())
    })
    .await;
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE application_name = 'pgshunt owner'";
    assert_eq!(value::<i64>(&home, ended).await, 1);
    let other = taken.await.unwrap().unwrap();
    wait_for("pgshunt to notice", async || {
        // A busy machine is slow too.
        let slow = tokio::time::timeout(Duration::from_millis(50), simple(&c, &add(id))).await;
        let held = slow.is_err()
            && console.column("SHOW CLIENTS", "activity").await.contains(&"held".to_owned());
        held.then_some(())
    })
    .await;
    drop(other);
    wait_for("the catalog to be ours again", async || {
        let all = console.column("SHOW CLIENTS", "activity").await;
        (!all.contains(&"held".to_owned())).then_some(())
    })
    .await;
    assert!(simple(&c, &format!("SELECT v FROM accounts WHERE id = {id}")).await.is_ok());
}

/// The session that has the lock does not answer, is given up, and still has it when home goes on.
#[tokio::test]
async fn a_home_that_hangs_costs_nobody_the_catalog() {
    let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(2)).await.unwrap().unwrap();
    let home = Home::new(&nodes.config);
    let served = Served::start(&home, None).await;
    let console = Console::open(served.port, "pgshunt").await;
    let c = connect(served.port).await;
    make_table(&console, &c).await;
    let id = rows_in(&c, 2, 1).await[0];
    nodes.nodes[0].freeze();
    let says = async |what: &str| {
        wait_for(what, async || home.said().contains(what).then_some(())).await;
    };
    says("the session that holds the catalog is lost").await;
    assert_eq!(simple(&c, &add(id)).await.unwrap(), 1, "node2 is served meanwhile");
    nodes.nodes[0].thaw();
    says("the catalog is ours again").await;
    assert!(!home.said().contains("nothing is served here"), "{}", home.said());
    assert_eq!(simple(&c, &add(id)).await.unwrap(), 1);
}

/// A predecessor's machine vanished: its session on home stays, and with it the lock of its move.
#[tokio::test]
async fn a_move_is_taken_from_a_session_that_only_seems_alive() {
    let p = proxy().await;
    let console = p.console().await;
    let ghost = connect(p.nodes.nodes[0].port()).await;
    ghost.execute("SELECT pg_advisory_lock(1885827944, 1)", &[]).await.unwrap();
    console.does("MOVE SHARD 1 TO node2").await;
    assert_eq!(serves(&console, 1).await, "node2");
    assert!(ghost.batch_execute("").await.is_err(), "it was ended");
}
