//! The local nodes themselves: they start, crash, come back, and leave nothing behind.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::*;

#[tokio::test]
async fn a_node_is_ready_for_moves_and_asks_for_the_password() {
    let node = LocalNode::start(NodeOptions::new("node1").set("work_mem", "5MB")).unwrap();
    let client = connect(node.port()).await;
    assert_eq!(value::<String>(&client, "SHOW wal_level").await, "logical");
    assert_eq!(value::<String>(&client, "SHOW max_prepared_transactions").await, "50");
    assert_eq!(value::<String>(&client, "SHOW work_mem").await, "5MB");
    assert_eq!(value::<String>(&client, "SELECT current_database()::text").await, DATABASE);
    let refused = connect_as(node.port(), DATABASE, SUPERUSER, "wrong").await.unwrap_err();
    assert_eq!(refused.code().map(|c| c.code()), Some("28P01"));
}

#[tokio::test]
async fn a_killed_node_comes_back_on_its_port_with_what_was_committed() {
    let mut node = LocalNode::start(NodeOptions::new("node1")).unwrap();
    let port = node.port();
    let client = connect(port).await;
    client.batch_execute("CREATE TABLE t AS SELECT 42 AS x").await.unwrap();
    node.kill().unwrap();
    assert!(!node.is_running());
    assert!(client.query_one("SELECT 1", &[]).await.is_err(), "the connection died with it");
    node.restart().unwrap();
    assert_eq!(node.port(), port);
    assert_eq!(value::<i32>(&connect(port).await, "SELECT x FROM t").await, 42);
}

#[tokio::test]
async fn a_frozen_node_answers_once_it_is_thawed() {
    let node = LocalNode::start(NodeOptions::new("node1")).unwrap();
    let client = connect(node.port()).await;
    node.freeze();
    let asked = tokio::spawn(async move { value::<i32>(&client, "SELECT 1").await });
    tokio::task::yield_now().await;
    assert!(!asked.is_finished());
    node.thaw();
    assert_eq!(asked.await.unwrap(), 1);
}

#[test]
fn a_dropped_node_leaves_no_directory() {
    let node = LocalNode::start(NodeOptions::new("node1")).unwrap();
    let dir = node.data_dir();
    assert!(dir.exists());
    drop(node);
    assert!(!dir.exists() && !dir.parent().unwrap().exists());
}

#[tokio::test]
async fn a_cluster_names_only_the_nodes_in_use() {
    let cluster =
        LocalCluster::start_with(&ClusterOptions { in_use: 2, ..ClusterOptions::new(3) }).unwrap();
    let named: Vec<&str> = cluster.config.cluster.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(named, ["node1", "node2"]);
    let mut ids = Vec::new();
    for node in &cluster.nodes {
        let client = connect(node.port()).await;
        client.batch_execute("CREATE TABLE t (x int)").await.unwrap();
        ids.push(value::<u32>(&client, "SELECT 't'::regclass::oid").await);
    }
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "ids taken from the wrong node show: {ids:?}");
}

const ROLE: &str = "PGSHUNT_TEST_ABORTS_WITH_A_NODE";

/// Run by the next test in a process of its own: starts a node, says where, and is killed.
#[test]
fn helper_that_aborts_with_a_node() {
    if std::env::var_os(ROLE).is_some() {
        let node = LocalNode::start(NodeOptions::new("node1")).unwrap();
        println!("DIR={}", node.data_dir().display());
        std::process::abort();
    }
}

#[tokio::test]
async fn a_process_that_aborts_leaves_no_server() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "local::helper_that_aborts_with_a_node", "--nocapture"])
        .env(ROLE, "1")
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success(), "the helper aborts");
    let text = String::from_utf8(output.stdout).unwrap();
    let dir = text
        .lines()
        .find_map(|l| l.split_once("DIR=").map(|(_, dir)| Path::new(dir).to_owned()))
        .unwrap_or_else(|| panic!("the helper says where its node is: {text}"));
    wait_for("the watchdog to stop the server and remove its directory", async || {
        (!dir.exists()).then_some(())
    })
    .await;
    let left = Command::new("ps").args(["-eo", "args"]).output().unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.contains(&*dir.to_string_lossy()), "a server is left: {left}");
}

/// Not a benchmark: only notices when a start becomes so slow that tests would be written around it.
#[test]
fn nodes_start_fast() {
    drop(LocalNode::start(NodeOptions::new("warm-up")).unwrap());
    let start = Instant::now();
    let node = LocalNode::start(NodeOptions::new("node1")).unwrap();
    let took = start.elapsed();
    drop(node);
    println!("a node took {took:?}");
    assert!(took < PATIENCE / 3, "a node took {took:?}");
}
