//! The main job: applications go on as if nothing happened while a shard moves under them.

use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::future;

use super::scene::proxy;
use super::traffic::{Load, Traffic, ids_in};
use crate::support::{PATIENCE, value, wait_for};

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
    let times = traffic.take_times();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    eprintln!("clients waited {} ms (median), {} (99 %), {} (longest)", at(0.5), at(0.99), at(1.0));
    let seen = traffic.seen.clone();
    let errors = traffic.end(&p.nodes, "after twenty moves").await;
    assert_eq!(errors, Vec::<String>::new());
    let (writes, gathers) =
        (seen.writes.load(Ordering::SeqCst), seen.gathers.load(Ordering::SeqCst));
    eprintln!("{writes} acknowledged writes, {gathers} gathers");
    assert!(writes > 1000 && gathers > 100, "too few to prove anything");
}

/// What is pipelined behind a transaction may need another node than the transaction had.
#[tokio::test]
async fn what_is_pipelined_to_several_nodes_is_answered_in_turn() {
    let p = proxy().await;
    let c = p.client().await;
    let insert = c.prepare("INSERT INTO accounts (id, owner) VALUES ($1, 0)").await.unwrap();
    let (here, there) = (ids_in(1, 1).next().unwrap(), ids_in(2, 1).next().unwrap());
    let add = c.prepare("UPDATE accounts SET v = v + 1 WHERE id = $1").await.unwrap();
    for id in [here, there] {
        c.execute(&insert, &[&id]).await.unwrap();
    }
    let sum = c.prepare("SELECT sum(v) FROM accounts").await.unwrap();
    let pipelined = async {
        future::join5(
            c.execute(&add, &[&here]),
            c.execute(&add, &[&there]),
            c.query_one(&sum, &[]),
            c.execute(&add, &[&here]),
            c.execute(&add, &[&there]),
        )
        .await
    };
    let all = tokio::time::timeout(PATIENCE, pipelined).await.expect("all are answered");
    assert_eq!([all.0.unwrap(), all.1.unwrap(), all.3.unwrap(), all.4.unwrap()], [1; 4]);
    assert_eq!(all.2.unwrap().get::<_, i64>(0), 2);
    let sum: i64 = value(&c, "SELECT sum(v) FROM accounts").await;
    assert_eq!(sum, 4);
}
