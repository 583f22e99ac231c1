//! How long a move holds traffic, step by step: `cargo bench --bench moves [-- MOVES WRITERS ROWS]`.
//!
//! Two local nodes, direct writers that keep a ledger, a shard that goes back and forth. At the end
//! the rows are compared with the ledger, so that a fast hold that loses something does not count.

#[path = "../tests/it/support.rs"]
mod support;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/it/moves/world.rs"]
mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgshunt::moves::HoldStep;
use pgshunt::topology::NodeId;
use world::{World, move_and_finish};

fn main() {
    let numbers: Vec<i32> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let given = |i: usize, default| numbers.get(i).copied().unwrap_or(default);
    let (moves, writers, rows) = (given(0, 30), given(1, 4), given(2, 100_000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run(moves, writers, rows));
}

async fn run(moves: i32, writers: i32, rows: i32) {
    let world = World::accounts(2).await;
    // A quarter of them falls to each shard.
    world.fill(rows * world::SHARDS).await;
    let mover = world.mover();
    // On a thread of their own, as pgshunt's clients are.
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let clients = clients.expect("a runtime");
    let load = {
        let _there = clients.enter();
        world.writers(writers, Duration::from_millis(1))
    };
    std::thread::spawn(move || clients.block_on(std::future::pending::<()>()));
    let mut held = Vec::new();
    let mut steps: Vec<(HoldStep, Vec<Duration>)> =
        HoldStep::ALL.iter().map(|s| (*s, Vec::new())).collect();
    for n in 0..moves {
        let p = move_and_finish(&mover, 1, NodeId(2 - n % 2)).await;
        held.extend(p.held);
        for (step, times) in &mut steps {
            times.extend(p.hold.of(*step));
        }
    }
    let writes = load.writes.load(Ordering::Relaxed);
    let retries = load.retries.load(Ordering::Relaxed);
    load.end(&world, "after all moves").await;
    world.assert_tidy("after all moves").await;

    println!(
        "{moves} moves of about {rows} rows under {writers} writers ({writes} writes, {retries} retried)"
    );
    println!("{:<10} {:>9} {:>9} {:>9} {:>9}", "ms", "min", "median", "p95", "max");
    line("held", held);
    for (step, times) in steps {
        if !times.is_empty() {
            line(step.name(), times);
        }
    }
}

fn line(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |q: f64| {
        let i = ((times.len().saturating_sub(1)) as f64 * q).round() as usize;
        times.get(i).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
    };
    println!("{name:<10} {:>9.2} {:>9.2} {:>9.2} {:>9.2}", at(0.0), at(0.5), at(0.95), at(1.0));
}
