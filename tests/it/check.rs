//! `pgshunt check`: says in words what is missing.

use pgshunt::app::Server;
use pgshunt::check;
use pgshunt::config::ClusterNode;

use crate::support::*;

#[tokio::test]
async fn good_nodes_are_good() {
    let c = LocalCluster::start(2).unwrap();
    let report = check::run(&c.config).await;
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.exit_code(), 0);
    let text = report.to_string();
    assert!(
        text.contains("node node1 (127.0.0.1:") && text.contains("home): ok, PostgreSQL"),
        "{text}"
    );
    assert!(text.ends_with("All is ready."), "{text}");
    assert!(!text.contains("lacks:"), "{text}");
}

#[tokio::test]
async fn each_lack_is_named_with_what_to_do() {
    let mut options = ClusterOptions::new(1);
    for (name, value) in [
        ("wal_level", "replica"),
        ("max_prepared_transactions", "0"),
        ("max_wal_senders", "0"),
        ("max_replication_slots", "5"),
        ("max_logical_replication_workers", "1"),
        ("wal_retrieve_retry_interval", "5s"),
    ] {
        options.settings.push((name.into(), value.into()));
    }
    let mut c = LocalCluster::start_with(&options).unwrap();
    let client = connect(c.nodes[0].port()).await;
    for sql in [
        "CREATE ROLE plain LOGIN PASSWORD 'p'",
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    c.config.cluster.service_user = "plain".into();
    c.config.cluster.service_password = Some("p".into());
    c.config.cluster.database = "latin".into();
    c.config.cluster.nodes.push(ClusterNode { name: "node1".into(), ..c.nodes[0].config_node() });
    let text = check::run(&c.config).await.to_string();
    for says in [
        "lacks: wal_level is replica",
        "Set wal_level = logical",
        "lacks: max_prepared_transactions is 0",
        "lacks: max_wal_senders is 0",
        "lacks: max_logical_replication_workers is 1",
        "advice: max_replication_slots is 5",
        "advice: wal_retrieve_retry_interval is 5000 ms",
        "lacks: role \"plain\" is not a superuser",
        "lacks: the database's encoding is LATIN1",
        "lacks: two nodes are named \"node1\"",
        "lacks: two nodes are at 127.0.0.1",
    ] {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
    assert!(text.ends_with("Not ready yet."), "{text}");
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_told_from_a_wrong_password() {
    let mut c = LocalCluster::start(2).unwrap();
    c.nodes[1].kill().unwrap();
    c.config.cluster.service_password = Some("wrong".into());
    let report = check::run(&c.config).await;
    assert_eq!(report.exit_code(), 1);
    let why = |i: usize| report.sections[i].findings[0].what.clone();
    assert!(why(1).contains("password authentication failed"), "{}", why(1));
    assert!(why(2).contains("refused"), "{}", why(2));
}

/// The configuration is newer than the catalog: where a server has moved to is followed at the next start,
/// and a server that is none of the cluster's is told from one that is.
#[tokio::test]
async fn another_address_of_a_node_is_followed_if_it_is_that_node() {
    let options = ClusterOptions { in_use: 2, ..ClusterOptions::new(3) };
    let mut c = LocalCluster::start_with(&options).unwrap();
    let server = Server::start(c.config.clone()).await.unwrap();
    let client = connect(server.addr.port()).await;
    client
        .batch_execute("CREATE TABLE d (t int PRIMARY KEY, v int) PARTITION BY HASH (t)")
        .await
        .unwrap();
    client.batch_execute("INSERT INTO d VALUES (1, 1)").await.unwrap();
    server.shutdown().await;
    assert!(check::run(&c.config).await.is_ok());

    // A server that never was a node, where node2 is said to be.
    let right = c.config.cluster.nodes.clone();
    c.config.cluster.nodes[1].port = c.nodes[2].port();
    let text = check::run(&c.config).await.to_string();
    assert!(
        text.contains("it is not the cluster's node of this name: it has no schema shard_"),
        "{text}"
    );
    assert!(text.ends_with("Not ready yet."), "{text}");
    let server = Server::start(c.config.clone()).await.unwrap();
    let places = async |server: &Server| {
        let console = Console::open(server.addr.port(), "pgshunt").await;
        console.column("SHOW NODES", "port").await
    };
    let ports =
        |nodes: &[ClusterNode]| nodes.iter().map(|n| n.port.to_string()).collect::<Vec<_>>();
    assert_eq!(places(&server).await, ports(&right), "it is not used");
    server.shutdown().await;

    // The servers themselves under other addresses.
    for node in &mut c.config.cluster.nodes {
        node.host = "localhost".into();
    }
    c.config.cluster.nodes[1].port = right[1].port;
    c.config.cluster.nodes.push(ClusterNode { name: "node9".into(), ..right[1].clone() });
    c.config.cluster.nodes[2].host = "127.0.0.1".into();
    let report = check::run(&c.config).await;
    let text = report.to_string();
    assert!(report.is_ok() && text.contains("advice: the cluster has it at 127.0.0.1:"), "{text}");
    assert!(text.contains("advice: it is no node of the cluster that is there"), "{text}");
    let server = Server::start(c.config.clone()).await.unwrap();
    let console = Console::open(server.addr.port(), "pgshunt").await;
    assert_eq!(console.column("SHOW NODES", "host").await, ["localhost", "localhost"]);
    let client = connect(server.addr.port()).await;
    assert_eq!(value::<i64>(&client, "SELECT count(*) FROM d").await, 1);
}
