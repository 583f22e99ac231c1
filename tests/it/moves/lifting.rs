//! An attempt that fails behind the fence: the source takes writes again at once, whoever reads the
//! shard directly on its node and whoever is away meanwhile.

use pgshunt::local::LocalCluster;
use pgshunt::moves::State;
use tokio_postgres::Client;

use super::child::{Home, Served};
use super::scene::{assert_tidy, last_move, make_table, serves, until_move, until_state};
use super::traffic::{Load, Traffic};
use crate::support::{Console, connect, value, wait_for};

const HOME: usize = 0;
const SOURCE: usize = 1;
const TARGET: usize = 2;

/// Shard 2 is about to move from node2 to node3; the fence stands, pgshunt is stopped, and the
/// marker cannot come to the target.
struct Stuck {
    nodes: LocalCluster,
    home: Home,
    served: Served,
    console: Console,
    traffic: Traffic,
    /// Holds the marker table on the target.
    apply: Client,
}

impl Stuck {
    async fn behind_the_fence() -> Self {
        let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(3)).await.unwrap().unwrap();
        let home = Home::new(&nodes.config);
        let served = Served::start(&home, Some("move.fence.after=stop")).await;
        let console = Console::open(served.port, "pgshunt").await;
        make_table(&console, &connect(served.port).await).await;
        assert_eq!(serves(&console, 2).await, "node2");
        let load = Load { writers: 4, shards: vec![2], gathers: false, ..Load::default() };
        let traffic = Traffic::start(served.port, load);
        traffic.flows("before").await;
        let apply = connect(nodes.nodes[TARGET].port()).await;
        console.does("MOVE SHARD 2 TO node3 NOWAIT").await;
        served.stopped().await;
        apply
            .batch_execute("BEGIN; LOCK TABLE pgshunt.marker_1 IN ACCESS EXCLUSIVE MODE")
            .await
            .unwrap();
        Self { nodes, home, served, console, traffic, apply }
    }

    async fn fences(&self) -> i64 {
        let source = connect(self.nodes.nodes[SOURCE].port()).await;
        value(&source, "SELECT count(*) FROM pgshunt.fences").await
    }

    async fn unfenced(&self) {
        wait_for("the source to be unfenced", async || (self.fences().await == 0).then_some(()))
            .await;
    }

    /// The next attempts stop behind their fence too.
    async fn arrives(&self) {
        self.apply.batch_execute("ROLLBACK").await.unwrap();
        wait_for("the move to have switched", async || {
            if self.served.is_stopped() {
                self.served.go_on();
            }
            let source = connect(self.nodes.nodes[SOURCE].port()).await;
            let attached = "SELECT count(*) FROM pg_inherits WHERE NOT inhdetachpending
                AND inhrelid = to_regclass('shard_2.accounts')";
            (value::<i64>(&source, attached).await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn lifting_the_fence_does_not_wait_for_who_reads_the_shard() {
    let s = Stuck::behind_the_fence().await;
    let reader = connect(s.nodes.nodes[SOURCE].port()).await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM shard_2.accounts").await.unwrap();
    assert_eq!(s.fences().await, 1);
    s.served.go_on();
    s.unfenced().await;
    s.traffic.flows("while somebody reads").await;
    s.console.does("CANCEL MOVE").await;
    // The triggers go when the reader does; until then they do nothing.
    until_move(&s.console, "state", |state| state == State::Undoing.name()).await;
    s.traffic.flows("while it is undone").await;
    reader.batch_execute("COMMIT").await.unwrap();
    s.apply.batch_execute("ROLLBACK").await.unwrap();
    until_state(&s.console, State::Failed).await;
    assert_eq!(last_move(&s.console, "error").await, "cancelled by CANCEL MOVE");
    assert_tidy(&s.nodes, "after the attempt").await;
    assert_eq!(s.traffic.end(&s.nodes, "at the end").await, Vec::<String>::new());
}

#[tokio::test]
async fn lifting_the_fence_needs_the_source_only() {
    let mut s = Stuck::behind_the_fence().await;
    s.nodes.nodes[HOME].kill().unwrap();
    s.served.go_on();
    s.unfenced().await;
    s.traffic.flows("while home is dead").await;
    s.nodes.nodes[HOME].restart().unwrap();
    s.arrives().await;
    until_state(&s.console, State::Soaking).await;
    s.console.does("FINISH MOVE").await;
    until_state(&s.console, State::Done).await;
    assert_tidy(&s.nodes, "after home came back").await;
    let said = s.home.said();
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(s.traffic.end(&s.nodes, "at the end").await, Vec::<String>::new());
}
