//! Nodes that die and come back.

use pgshunt::app::Server;

use super::wire::{Wire, query};
use super::*;

/// What a client is told when its node has died under it, whichever way.
fn tells_of_a_lost_node(answer: &str) -> bool {
    ["E08006", "E57P01", "E57P02"].iter().any(|code| answer.contains(code))
}

#[tokio::test]
async fn a_node_killed_under_a_query_is_used_again_when_it_is_back() {
    let mut p = Proxy::start_with(2, 2, trusting).await;
    let mut witness = Wire::login(p.port()).await;
    for immediate in [true, false] {
        let mut running = Wire::login(p.port()).await;
        let mut in_transaction = Wire::login(p.port()).await;
        // Idle connections that will die with the node, of both workers.
        let mut idle = Vec::new();
        for _ in 0..8 {
            idle.push(Wire::login(p.port()).await);
        }
        for wire in &mut idle {
            wire.send(&query("SELECT pg_sleep(0.1)")).await;
        }
        for wire in &mut idle {
            assert_eq!(wire.ready().await, "TDCZ");
        }
        assert_eq!(in_transaction.ask("BEGIN; SELECT 1").await, "CTDCZ");
        running.send(&query("SELECT pg_sleep(1000)")).await;
        wait_for("the query to run", async || {
            served(&p).await.iter().any(|s| s.1 == "active").then_some(())
        })
        .await;
        let home = &mut p.nodes.nodes[0];
        if immediate {
            home.stop(StopMode::Immediate).unwrap();
        } else {
            home.kill().unwrap();
        }
        let answer = running.ready().await;
        assert!(tells_of_a_lost_node(&answer), "{answer}");
        // A killed node's backends end one by one; a statement may still reach one that is about to.
        wait_for("the idle connections to end", async || {
            let pools = p.server.shared.pools.figures();
            pools.iter().all(|f| f.servers_idle == 0).then_some(())
        })
        .await;
        // What is asked meanwhile fails and is not left hanging; the sessions live on.
        let answer = idle[0].ask("SELECT 1").await;
        assert!(answer == "E08006Z" || answer == "E57P03Z", "{answer}");
        p.nodes.nodes[0].restart().unwrap();
        for wire in &mut idle {
            assert_eq!(wire.ask("SELECT 1").await, "TDCZ");
        }
        assert_eq!(witness.ask("SELECT 1").await, "TDCZ");
        let answer = in_transaction.ask("SELECT 1").await;
        assert!(tells_of_a_lost_node(&answer), "{answer}");
    }
}

/// The connections die while a full line waits for them.
#[tokio::test]
async fn the_line_survives_its_node() {
    let mut p = narrow().await;
    let mut holder = Wire::login(p.port()).await;
    let mut line = Vec::new();
    for _ in 0..5 {
        line.push(Wire::login(p.port()).await);
    }
    holder.ask("BEGIN; SELECT 1").await;
    for wire in &mut line {
        wire.send(&query("SELECT 1")).await;
    }
    wait_for_line(&p, 5).await;
    p.nodes.nodes[0].stop(StopMode::Immediate).unwrap();
    for wire in &mut line {
        let answer = wire.ready().await;
        assert!(["E08006Z", "E57P03Z"].contains(&answer.as_str()), "{answer}");
    }
    p.nodes.nodes[0].restart().unwrap();
    for wire in &mut line {
        assert_eq!(wire.ask("SELECT 1").await, "TDCZ");
    }
}

/// One node of two: who does not need it does not notice.
#[tokio::test]
async fn the_other_node_serves_on() {
    let mut p = Proxy::start_with(2, 2, trusting).await;
    p.console().await.does("SET shard_count = 2").await;
    let mut wire = Wire::login(p.port()).await;
    wire.ask("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;
    p.nodes.nodes[1].kill().unwrap();
    let (mut there, mut away) = (0, 0);
    for id in 0..20 {
        match wire.ask(&format!("INSERT INTO t VALUES ({id})")).await.as_str() {
            "CZ" => there += 1,
            "E08006Z" => away += 1,
            other => panic!("{other}"),
        }
    }
    assert!(there > 0 && away > 0, "{there} {away}");
    p.nodes.nodes[1].restart().unwrap();
    assert_eq!(wire.ask("SELECT count(*) FROM t").await, "TDCZ");
    let counted: i64 = value(&p.client().await, "SELECT count(*) FROM t").await;
    assert_eq!(counted, there);
}

/// The configuration may have nodes change places, and never two in one.
#[tokio::test]
async fn nodes_change_places_where_the_configuration_says_so() {
    let p = Proxy::start(3, 3).await;
    let mut config = p.nodes.config.clone();
    p.server.shutdown().await;
    let ports = |config: &Config| config.cluster.nodes.iter().map(|n| n.port).collect::<Vec<_>>();
    let was = ports(&config);
    config.cluster.nodes[1].port = was[2];
    config.cluster.nodes[2].port = was[1];
    let server = Server::start(config.clone()).await.unwrap();
    let now = Console::open(server.addr.port(), "pgshunt").await.column("SHOW NODES", "port").await;
    assert_eq!(now, [was[0], was[2], was[1]].map(|port| port.to_string()));
    server.shutdown().await;
    config.cluster.nodes[1].port = was[1];
    let server = Server::start(config).await.unwrap();
    let now = Console::open(server.addr.port(), "pgshunt").await.column("SHOW NODES", "port").await;
    assert_eq!(now, [was[0], was[2], was[1]].map(|port| port.to_string()), "another one is there");
    server.shutdown().await;
}
