//! A node dies, or hangs, in the middle of a cutover: the source, the target, or home. pgshunt is stopped at a
//! step of the held phase meanwhile, so that the moment is exact; then it goes on and the node comes
//! back.

use std::time::{Duration, Instant};

use pgshunt::local::LocalCluster;
use pgshunt::moves::State;

use super::child::{Home, Served};
use super::scene::{assert_tidy, make_table, serves, until_state};
use super::traffic::{Load, Traffic};
use crate::support::{Console, connect};

/// Which node dies, by its place in the cluster: shard 2 moves from node2 to node3.
const HOME: usize = 0;
const SOURCE: usize = 1;
const TARGET: usize = 2;

const POINTS: &[&str] = &[
    "move.fence.before",
    "move.fence.after",
    "move.catch_up.after",
    "move.attach.after",
    "move.detach.after",
    "move.catalog.before",
    "move.open.before",
];

async fn dies(victim: usize) {
    let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(3)).await.unwrap();
    let mut nodes = nodes.unwrap();
    let home = Home::new(&nodes.config);
    let mut served = Served::start(&home, None).await;
    let c = Console::open(served.port, "pgshunt").await;
    make_table(&c, &connect(served.port).await).await;
    assert_eq!(serves(&c, 2).await, "node2");
    let load =
        Load { writers: 4, pause: Duration::from_millis(5), bears_errors: true, ..Load::default() };
    let traffic = Traffic::start(served.port, load);
    for point in POINTS {
        let case = format!("{} killed at {point}", nodes.nodes[victim].name());
        let started = Instant::now();
        drop(served);
        served = Served::start(&home, Some(&format!("{point}=stop"))).await;
        traffic.go_to(served.port);
        traffic.flows(&case).await;
        let c = Console::open(served.port, "pgshunt").await;
        c.does("MOVE SHARD 2 TO node3 NOWAIT").await;
        served.stopped().await;
        let node = &mut nodes.nodes[victim];
        node.kill().unwrap();
        served.go_on();
        // It comes back on its own or the operator starts it; either way after pgshunt has noticed.
        let said = home.said().len();
        crate::support::wait_for("pgshunt to notice", async || {
            let log = home.said();
            (log.len() > said).then_some(())
        })
        .await;
        let node = &mut nodes.nodes[victim];
        node.restart().unwrap();
        until_state(&c, State::Soaking).await;
        assert_eq!(serves(&c, 2).await, "node3", "{case}");
        traffic.flows(&case).await;
        traffic.compare(&nodes, &case).await;
        c.does("ROLLBACK MOVE NOWAIT").await;
        until_state(&c, State::Done).await;
        assert_eq!(serves(&c, 2).await, "node2", "{case}");
        traffic.compare(&nodes, &case).await;
        assert_tidy(&nodes, &case).await;
        eprintln!("{case}: {:?}", started.elapsed());
    }
    // Those who needed the node, or were on it, were told so; nobody was told anything else.
    let mut errors = traffic.end(&nodes, "at the end").await;
    errors.retain(|e| !TOLD.iter().any(|t| e.contains(t)));
    assert_eq!(errors, Vec::<String>::new());
}

const TOLD: &[&str] = &["connection closed", "(08006)", "(57P02)", "(57P03)"];

#[tokio::test]
async fn the_source_is_killed_in_the_cutover() {
    dies(SOURCE).await;
}

#[tokio::test]
async fn the_target_is_killed_in_the_cutover() {
    dies(TARGET).await;
}

#[tokio::test]
async fn home_is_killed_in_the_cutover() {
    dies(HOME).await;
}

/// It answers nothing and its connections do not break. The source is unfenced without it, and traffic
/// goes on there until it can be tried again.
#[tokio::test]
async fn a_target_that_hangs_in_the_held_phase_is_given_up_unnoticed() {
    let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(3)).await.unwrap().unwrap();
    let home = Home::new(&nodes.config);
    let served = Served::start(&home, Some("move.fence.after=stop")).await;
    let c = Console::open(served.port, "pgshunt").await;
    make_table(&c, &connect(served.port).await).await;
    let shards = c.column("SHOW SHARDS", "node").await;
    let here = (1..).zip(&shards).filter(|(_, n)| *n != "node3").map(|(s, _)| s).collect();
    let load = Load { writers: 4, shards: here, gathers: false, ..Load::default() };
    let traffic = Traffic::start(served.port, load);
    traffic.flows("before").await;
    c.does("MOVE SHARD 2 TO node3 NOWAIT").await;
    served.stopped().await;
    nodes.nodes[TARGET].freeze();
    served.go_on();
    traffic.flows("while the target hangs").await;
    assert_eq!(serves(&c, 2).await, "node2");
    nodes.nodes[TARGET].thaw();
    until_state(&c, State::Soaking).await;
    assert_eq!(serves(&c, 2).await, "node3");
    traffic.flows("after the move").await;
    assert_eq!(traffic.end(&nodes, "at the end").await, Vec::<String>::new());
}
