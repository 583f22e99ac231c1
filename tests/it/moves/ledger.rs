//! The main job: applications go on as if nothing happened while a shard moves under them.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::traffic::{Load, TABLE, Traffic};
use crate::support::{Proxy, wait_for};

/// pgshunt over two nodes with the writers' table in four shards: 1 and 3 on node1, 2 and 4 on node2.
pub async fn proxy() -> Proxy {
    proxy_with(2, |_| {}).await
}

pub async fn proxy_with(nodes: usize, change: impl FnOnce(&mut pgshunt::config::Config)) -> Proxy {
    let p = Proxy::start_with(nodes, nodes.min(2), change).await;
    p.console().await.does("SET shard_count = 4").await;
    p.client().await.batch_execute(TABLE).await.unwrap();
    p
}

const ROUNDS: usize = 10;

#[tokio::test]
async fn eight_writers_see_nothing_of_twenty_moves_back_and_forth() {
    let p = proxy().await;
    let console = p.console().await;
    let traffic = Traffic::start(p.port(), Load::default());
    traffic.flows("before the first move").await;
    for round in 0..ROUNDS {
        let since = Instant::now();
        for command in ["MOVE SHARD 1 TO node2", "ROLLBACK MOVE"] {
            let before = traffic.statements();
            console.does(command).await;
            assert_eq!(traffic.errors(), Vec::<String>::new(), "{command}, round {round}");
            assert!(traffic.statements() > before, "{command}, round {round}: traffic stood still");
        }
        wait_for("the rollback to be over", async || {
            let states = console.column("SHOW MOVES", "state").await;
            (states.last()? == "done").then_some(())
        })
        .await;
        eprintln!("round {round}: {:?}", since.elapsed());
    }
    let held = console.column("SHOW MOVES", "held_ms").await;
    eprintln!("held: {held:?}");
    assert_eq!(held.len(), 2 * ROUNDS);
    let seen = traffic.seen.clone();
    let errors = traffic.end(&p.nodes, "after twenty moves").await;
    assert_eq!(errors, Vec::<String>::new());
    let (writes, gathers) =
        (seen.writes.load(Ordering::SeqCst), seen.gathers.load(Ordering::SeqCst));
    eprintln!("{writes} acknowledged writes, {gathers} gathers");
    assert!(writes > 1000 && gathers > 100, "too few to prove anything");
}

#[tokio::test]
async fn dbg_pipe() {
    let p = proxy().await;
    let c = p.client().await;
    let add = c.prepare("UPDATE accounts SET v = v + 1 WHERE id = $1").await.unwrap();
    for (n, id) in [1i32, 2, 1, 2].iter().enumerate() {
        let all = async { futures_util::future::join4(
            c.batch_execute("BEGIN"),
            c.execute(&add, &[id]),
            c.execute(&add, &[id]),
            c.batch_execute("COMMIT"),
        ).await };
        let r = tokio::time::timeout(std::time::Duration::from_secs(2), all).await;
        eprintln!("DBG {n} {r:?}");
        let all = async { futures_util::future::join3(
            c.execute(&add, &[id]),
            c.execute(&add, &[&3]),
            c.execute(&add, &[id]),
        ).await };
        let r = tokio::time::timeout(std::time::Duration::from_secs(2), all).await;
        eprintln!("DBG {n} {r:?}");
    }
}
