//! Moves that would never end by themselves: they begin anew, go on with less, or say why they do not.

use pgshunt::local::LocalCluster;
use pgshunt::moves::State;

use super::child::{Home, Served};
use super::scene::{assert_tidy, last_move, make_table, serves, until_state};
use super::traffic::{Load, Traffic, ids_in};
use crate::support::{ClusterOptions, Console, Proxy, connect, value, wait_for};

/// A row is in the copy's way; the log of the target says so again and again.
#[tokio::test]
async fn a_copy_that_only_fails_is_begun_anew() {
    let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(2)).await.unwrap().unwrap();
    let home = Home::new(&nodes.config);
    let served = Served::start(&home, Some("move.subscribe.before=stop")).await;
    let c = Console::open(served.port, "pgshunt").await;
    make_table(&c, &connect(served.port).await).await;
    let client = connect(served.port).await;
    let id = ids_in(1, 900_000_000).next().unwrap();
    let insert = format!("INSERT INTO accounts (id, owner) VALUES ({id}, -1)");
    client.batch_execute(&insert).await.unwrap();
    let traffic = Traffic::start(served.port, Load { writers: 2, ..Load::default() });
    c.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    served.stopped().await;
    let target = connect(nodes.nodes[1].port()).await;
    let twin = format!("INSERT INTO shard_1.accounts (id, owner) VALUES ({id}, -2)");
    target.batch_execute(&twin).await.unwrap();
    served.go_on();
    let version = "SELECT current_setting('server_version_num')::int";
    if value::<i32>(&target, version).await < 150_000 {
        // It does not count failures, so that it is for the operator to see.
        until_state(&c, State::Copying).await;
        c.does("CANCEL MOVE").await;
        until_state(&c, State::Failed).await;
        assert_eq!(serves(&c, 1).await, "node1");
        assert_tidy(&nodes, "at the end").await;
        assert_eq!(traffic.end(&nodes, "at the end").await, Vec::<String>::new());
        return;
    }
    until_state(&c, State::Soaking).await;
    assert_eq!(serves(&c, 1).await, "node2");
    assert!(home.said().contains("without progress"), "{}", home.said());
    let owner: i32 =
        value(&target, &format!("SELECT owner FROM shard_1.accounts WHERE id = {id}")).await;
    assert_eq!(owner, -1, "the leaf is a new one");
    c.does("FINISH MOVE").await;
    until_state(&c, State::Done).await;
    assert_tidy(&nodes, "at the end").await;
    assert_eq!(traffic.end(&nodes, "at the end").await, Vec::<String>::new());
}

/// More tables than the nodes have connections for.
#[tokio::test]
async fn a_group_of_many_tables_moves_with_few_connections() {
    const TABLES: usize = 30;
    let settings = vec![("max_connections".to_owned(), "24".to_owned())];
    let options = ClusterOptions { settings, ..ClusterOptions::new(2) };
    let mut nodes = tokio::task::spawn_blocking(move || LocalCluster::start_with(&options))
        .await
        .unwrap()
        .unwrap();
    nodes.config.pool.size = 2;
    let server = pgshunt::app::Server::start(nodes.config.clone()).await.unwrap();
    let p = Proxy { nodes, server };
    let (c, client) = (p.console().await, p.client().await);
    c.does("SET shard_count = 2").await;
    for n in 0..TABLES {
        let table = format!("CREATE TABLE t{n} (id int PRIMARY KEY) PARTITION BY HASH (id)");
        client.batch_execute(&table).await.unwrap();
        client.batch_execute(&format!("INSERT INTO t{n} VALUES (1), (2), (3), (4)")).await.ok();
    }
    // A snapshot that every DETACH waits for in its second phase.
    let source = connect(p.nodes.nodes[0].port()).await;
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgshunt.meta";
    c.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    wait_for("the copy to be over", async || {
        let state = last_move(&c, "state").await;
        assert_ne!(state, "failed", "{}", last_move(&c, "error").await);
        (["catching up", "ready"].contains(&&*state)).then_some(())
    })
    .await;
    source.batch_execute(snapshot).await.unwrap();
    wait_for("the shard to be served by its new node", async || {
        (serves(&c, 1).await == "node2").then_some(())
    })
    .await;
    wait_for("a DETACH that waits for the snapshot", async || {
        let state = last_move(&c, "state").await;
        assert_ne!(state, "soaking", "the snapshot was not waited for");
        (state == "switched").then_some(())
    })
    .await;
    source.batch_execute("COMMIT").await.unwrap();
    until_state(&c, State::Soaking).await;
    c.does("FINISH MOVE").await;
    until_state(&c, State::Done).await;
    assert_tidy(&p.nodes, "at the end").await;
}

/// What a database's owner has set for its sessions is not for those that replicate.
#[tokio::test]
async fn what_the_databases_owner_has_set_ends_no_move() {
    let p = super::scene::proxy().await;
    let (c, source) = (p.console().await, connect(p.nodes.nodes[0].port()).await);
    let rows = "INSERT INTO shard_1.accounts SELECT k, 0 FROM generate_series(1, 100000) k \
         WHERE satisfies_hash_partition('public.accounts'::regclass, 4, 0, k)";
    source.batch_execute(rows).await.unwrap();
    for node in &p.nodes.nodes {
        let root = connect(node.port()).await;
        for set in ["statement_timeout = 1", "exit_on_error = on", "wal_sender_timeout = 1"] {
            let sql = format!("ALTER DATABASE {} SET {set}", crate::support::DATABASE);
            root.batch_execute(&sql).await.unwrap();
        }
    }
    c.does("MOVE SHARD 1 TO node2 NOWAIT").await;
    wait_for("the move to be over", async || {
        let state = last_move(&c, "state").await;
        assert_ne!(state, "failed", "{}", last_move(&c, "error").await);
        (state == State::Soaking.name()).then_some(())
    })
    .await;
    // The way back is made alike.
    c.does("ROLLBACK MOVE").await;
    assert_eq!(serves(&c, 1).await, "node1");
}
