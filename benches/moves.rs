//! How long a move holds traffic, step by step, and what clients notice of it:
//! `cargo bench --bench moves [-- MOVES WRITERS ROWS]`.
//!
//! A whole pgshunt over two local nodes, writers that keep a ledger, a shard that goes back and forth.
//! At the end the rows are compared with the ledger, so that a fast hold that loses something does not
//! count.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that fails ends"
)]
#![expect(clippy::print_stdout, reason = "the result is printed")]
#![expect(clippy::disallowed_methods, reason = "it has clients of its own")]

#[path = "../tests/it/moves/promises.rs"]
mod promises;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/it/moves/scene.rs"]
mod scene;
#[path = "../tests/it/support.rs"]
mod support;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/it/moves/traffic.rs"]
mod traffic;

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgshunt::moves::{HoldStep, State};
use support::connect;
use traffic::{Load, SHARDS, Traffic};

fn main() {
    let numbers: Vec<i32> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let given = |i: usize, default| numbers.get(i).copied().unwrap_or(default);
    let (moves, writers, rows) = (given(0, 30), given(1, 8), given(2, 100_000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run(moves, writers, rows));
}

async fn run(moves: i32, writers: i32, rows: i32) {
    let p = scene::proxy().await;
    let source = connect(p.nodes.nodes[0].port()).await;
    source
        .batch_execute(&format!(
            "INSERT INTO public.accounts (id, owner, note)
             SELECT k, -1, repeat('x', 20) FROM generate_series(100000000, 100000000 + {SHARDS} * {rows}) k
             WHERE satisfies_hash_partition('public.accounts'::regclass, {SHARDS}, 0, k)"
        ))
        .await
        .expect("rows");
    let console = p.console().await;
    let traffic = Traffic::start(p.port(), Load { writers, ..Load::default() });
    traffic.flows("before").await;
    traffic.take_times();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let quiet = traffic.take_times();

    let (mut held, mut longest) = (Vec::new(), Vec::new());
    let mut steps: Vec<(HoldStep, Vec<Duration>)> =
        HoldStep::ALL.iter().map(|s| (*s, Vec::new())).collect();
    let mut attempts = 0;
    for n in 0..moves {
        let to = if n % 2 == 0 { "node2" } else { "node1" };
        console.does(&format!("MOVE SHARD 1 TO {to}")).await;
        let id = scene::last_move(&console, "move_id").await.parse().expect("a number");
        let progress = p.server.mover.subscribe(pgshunt::topology::MoveId(id)).expect("it runs");
        {
            let now = progress.borrow();
            held.extend(now.held);
            longest.extend(now.longest_hold);
            attempts += now.attempts;
            for (step, times) in &mut steps {
                times.extend(now.hold.of(*step));
            }
        }
        scene::until_state(&console, State::Soaking).await;
        console.does("FINISH MOVE").await;
        scene::until_state(&console, State::Done).await;
    }
    let moving = traffic.take_times();
    let sums = p.server.shared.registry.sums();
    let writes = traffic.seen.writes.load(Ordering::SeqCst);
    let errors = traffic.end(&p.nodes, "after all moves").await;
    scene::assert_tidy(&p.nodes, "after all moves").await;

    println!(
        "{moves} moves of about {rows} rows under {writers} clients: {writes} acknowledged writes, \
         {} errors, {attempts} attempts, nothing lost or doubled",
        errors.len()
    );
    println!("{:<22} {:>9} {:>9} {:>9} {:>9}", "ms", "min", "median", "p95", "max");
    line("held in all", held);
    line("longest hold", longest);
    for (step, times) in steps {
        if !times.is_empty() {
            line(&format!("  {}", step.name()), times);
        }
    }
    let times =
        |all: Vec<u32>| all.into_iter().map(|us| Duration::from_micros(us.into())).collect();
    line("operation, no move", times(quiet));
    line("operation, moves", times(moving));
    println!("statements held by a gate: {}", sums.hold.count());
    println!("{:>12} {:>9}", "held up to", "so many");
    let mut before = 0;
    for (us, up_to) in sums.hold.cumulative() {
        if up_to > before {
            println!("{:>9.2} ms {:>9}", us as f64 / 1000.0, up_to - before);
        }
        before = up_to;
    }
}

fn line(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |q: f64| {
        let i = ((times.len().saturating_sub(1)) as f64 * q).round() as usize;
        times.get(i).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
    };
    println!("{name:<22} {:>9.2} {:>9.2} {:>9.2} {:>9.2}", at(0.0), at(0.5), at(0.95), at(1.0));
}
