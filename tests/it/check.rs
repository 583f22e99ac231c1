//! `pgshunt check`: says in words what is missing.

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
