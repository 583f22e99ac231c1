//! A process that dies, and nodes that die, at every step of a commit.

use pgshunt::local::LocalCluster;

use super::*;
use crate::moves::child::{Home, Served};

struct Crash {
    nodes: LocalCluster,
    home: Home,
}

impl Crash {
    async fn new() -> Self {
        let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(2)).await.unwrap().unwrap();
        let mut config = nodes.config.clone();
        config.auth.method = pgshunt::config::AuthMethod::Trust;
        let home = Home::new(&config);
        Self { nodes, home }
    }

    /// An account of each node.
    async fn accounts(&self) -> (i32, i32) {
        let own = "SELECT min(t) FROM accounts";
        let of = async |n: usize| value(&connect(self.nodes.nodes[n].port()).await, own).await;
        (of(0).await, of(1).await)
    }

    /// Each node's sum, and how many transactions stand prepared.
    async fn audit(&self) -> ([i64; 2], i64) {
        let (mut sums, mut prepared) = ([0; 2], 0);
        for (node, sum) in self.nodes.nodes.iter().zip(&mut sums) {
            let client = connect(node.port()).await;
            prepared += value::<i64>(&client, "SELECT count(*) FROM pg_prepared_xacts").await;
            *sum = value(&client, "SELECT coalesce(sum(v), 0)::int8 FROM accounts").await;
        }
        (sums, prepared)
    }

    async fn settled(&self) -> [i64; 2] {
        wait_for("prepared transactions to end", async || {
            let (sums, prepared) = self.audit().await;
            (prepared == 0).then_some(sums)
        })
        .await
    }
}

async fn transfers(client: &Client, (near, far): (i32, i32)) -> Result<(), tokio_postgres::Error> {
    for text in ["BEGIN", &adds(near, -30), &adds(far, 30), "COMMIT"] {
        client.batch_execute(text).await?;
    }
    Ok(())
}

/// Where the decision has been made, and where not.
const STEPS: [(&str, bool); 4] = [
    ("commit:ask", false),
    ("commit:prepare", false),
    ("commit:decide", false),
    ("commit:commit_prepared", true),
];

#[tokio::test]
async fn a_process_that_dies_amid_a_commit_leaves_all_of_it_or_nothing() {
    let c = Crash::new().await;
    let mut served = Served::start(&c.home, None).await;
    Console::open(served.port, "pgshunt").await.does("SET shard_count = 2").await;
    fill(&connect(served.port).await).await;
    let accounts = c.accounts().await;
    let (mut before, _) = c.audit().await;
    served.end().await;
    for (step, decided) in STEPS {
        let mut served = Served::start(&c.home, Some(step)).await;
        let client = connect(served.port).await;
        transfers(&client, accounts).await.expect_err("the process dies");
        served.dies().await;
        let served = Served::start(&c.home, None).await;
        let after = c.settled().await;
        let moved = if decided { 30 } else { 0 };
        assert_eq!(after, [before[0] - moved, before[1] + moved], "{step}");
        // Nothing is locked any more.
        transfers(&connect(served.port).await, accounts).await.unwrap();
        before = [after[0] - 30, after[1] + 30];
    }
}

#[tokio::test]
async fn a_node_that_dies_amid_a_commit_does_not_halve_it() {
    let mut c = Crash::new().await;
    let mut served = Served::start(&c.home, None).await;
    Console::open(served.port, "pgshunt").await.does("SET shard_count = 2").await;
    fill(&connect(served.port).await).await;
    let accounts = c.accounts().await;
    let (mut before, _) = c.audit().await;
    served.end().await;
    for dead in [0, 1] {
        for (step, decided) in STEPS {
            let served = Served::start(&c.home, Some(&format!("{step}=stop"))).await;
            let client = connect(served.port).await;
            let transfer = tokio::spawn(async move { transfers(&client, accounts).await });
            served.stopped().await;
            c.nodes.nodes[dead].kill().unwrap();
            served.go_on();
            let told = transfer.await.unwrap();
            c.nodes.nodes[dead].restart().unwrap();
            let after = c.settled().await;
            let moved = before[0] - after[0];
            assert_eq!(after[1] - before[1], moved, "{step}, node {dead}: half of it");
            assert!(moved == 0 || moved == 30, "{step}, node {dead}");
            assert!(told.is_err() || moved == 30, "{step}, node {dead}: acknowledged and lost");
            if decided {
                assert_eq!(moved, 30, "{step}, node {dead}: {told:?}");
            }
            before = after;
        }
    }
}
