//! `pgshunt demo`: the whole promise in under a minute, on PostgreSQL servers started for it.
//!
//! Three local nodes, two of them in use; a hash-partitioned table created through the proxy; clients
//! that write, read and count without pause and write down every acknowledgement ([`ledger`]). A
//! third node is added, a shard moves there and back under that traffic, and at the end all rows of
//! all nodes are compared with what the clients were promised. The exit code is 1 when anything was
//! lost, doubled or refused.

#![expect(clippy::print_stdout, reason = "the demo is there to be read")]

pub mod journey;
pub mod latency;
pub mod ledger;
pub mod playground;
mod proxy;
pub mod report;
pub mod scene;
pub mod traffic;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::app;
use crate::local::{ClusterOptions, DATABASE, LocalCluster, LocalError, PASSWORD, SUPERUSER};
use journey::Console;
use latency::{Latencies, Part};
use ledger::audit;
use proxy::Proxy;
use report::Report;
use traffic::{Outcome, Progress, Worker};

/// The database name that leads to the console.
const CONSOLE: &str = "pgshunt";
const SHARDS: u64 = 4;

#[derive(Debug, Clone, Copy)]
pub struct DemoOptions {
    /// Leave everything running until Ctrl-C or SIGTERM.
    pub keep: bool,
    /// How long the clients run besides the moves.
    pub seconds: u64,
    pub connections: u16,
    /// Rows the table begins with.
    pub rows: i32,
}

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error("{0}: {1}")]
    Sql(String, String),
    #[error("{0}")]
    Move(String),
    #[error("pgshunt did not start: {0}")]
    Proxy(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Runs the demo. True when no client saw an error and every acknowledged write is there once.
pub fn run(options: &DemoOptions) -> Result<bool, DemoError> {
    let start = Instant::now();
    let cluster = LocalCluster::start_with(&ClusterOptions {
        in_use: 2,
        durable: true,
        ..ClusterOptions::new(3)
    })?;
    println!("Three PostgreSQL nodes on this machine ({:.1} s)", start.elapsed().as_secs_f64());
    let proxy = Proxy::start(cluster.config.clone())?;
    let port = proxy.addr.port();
    println!("pgshunt on port {port}, two of the nodes in use");

    let runtime = Builder::new_current_thread().enable_all().build()?;
    let clean = runtime.block_on(async {
        let clean = play(options, &cluster, port).await?;
        if options.keep {
            say_how_to_connect(port);
            app::Signals::new()?.wait().await;
        }
        Ok::<_, DemoError>(clean)
    })?;
    drop(runtime);
    proxy.stop();
    Ok(clean)
}

async fn play(options: &DemoOptions, cluster: &LocalCluster, port: u16) -> Result<bool, DemoError> {
    let application = scene::connect(&scene::address(port, DATABASE)).await?;
    let console = Console::open(port).await?;
    scene::execute(&application, &format!("SET pgshunt.shard_count = {SHARDS}")).await?;
    scene::create_table(&application).await?;
    let start = Instant::now();
    scene::load(&application, options.rows, SHARDS, |_| {}).await?;
    println!(
        "Table {} in {SHARDS} shards, {} rows ({:.1} s)",
        traffic::TABLE,
        options.rows,
        start.elapsed().as_secs_f64()
    );
    let mut placements = vec![("before", scene::placement(&cluster.nodes).await?)];

    let progress = Progress::new(options.rows.into());
    let mut clients = start_clients(options, port, &progress);
    println!("{} clients insert, update, read and count", options.connections);
    let part = Duration::from_millis(options.seconds * 1000 / 3);
    let journey = async {
        progress.enter(Part::Before);
        tokio::time::sleep(part).await;
        if let Some(third) = cluster.nodes.last() {
            console.add_node(third).await?;
            println!("Node {} added", third.name());
        }
        progress.enter(Part::Moving);
        let there = console.watch("MOVE SHARD 1 TO node3", "MOVE SHARD 1 TO node3").await?;
        progress.enter(Part::After);
        placements.push(("moved", scene::placement(&cluster.nodes).await?));
        tokio::time::sleep(part).await;
        progress.enter(Part::Moving);
        let back = format!("ROLLBACK MOVE {}", there.move_id);
        let home = console.watch("ROLLBACK MOVE", &back).await?;
        progress.enter(Part::After);
        tokio::time::sleep(part).await;
        Ok::<_, DemoError>([
            ("MOVE SHARD 1".to_owned(), there.held),
            ("ROLLBACK MOVE".into(), home.held),
        ])
    }
    .await;

    // Whatever became of the moves, the clients have something to say.
    progress.stop();
    let mut outcomes = Vec::new();
    while let Some(outcome) = clients.join_next().await {
        outcomes.push(outcome.map_err(|e| DemoError::Move(format!("a client died: {e}")))?);
    }
    let (held, failure) = match journey {
        Ok(held) => (held.to_vec(), None),
        Err(e) => (Vec::new(), Some(e)),
    };
    placements.push(("after", scene::placement(&cluster.nodes).await?));
    let found = scene::all_rows(&cluster.nodes).await?;
    let mut report = summarise(outcomes, found);
    report.held = held;
    report.placements = placements;
    println!("\n{}", report.text());
    match failure {
        Some(e) => Err(e),
        None => Ok(report.is_clean()),
    }
}

fn start_clients(options: &DemoOptions, port: u16, progress: &Arc<Progress>) -> JoinSet<Outcome> {
    let count = i32::from(options.connections);
    let all = options.rows;
    let mut clients = JoinSet::new();
    for number in 0..count {
        let rows = (number..all).step_by(usize::from(options.connections));
        let address = scene::address(port, DATABASE);
        let progress = Arc::clone(progress);
        clients.spawn(Worker::new(address, progress, number, count, all, rows, SHARDS).run());
    }
    clients
}

fn summarise(outcomes: Vec<Outcome>, found: Vec<(i32, f32)>) -> Report {
    let mut latencies = Latencies::default();
    let (mut statements, mut errors, mut acknowledged) = (0, 0, 0);
    let (mut messages, mut ledgers) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        latencies.merge(&outcome.latencies);
        statements += outcome.statements;
        errors += outcome.errors;
        acknowledged += outcome.ledger.acknowledged();
        messages.extend(outcome.messages);
        ledgers.push(outcome.ledger);
    }
    messages.truncate(10);
    let verdict = audit(&ledgers, found);
    Report {
        statements,
        errors,
        messages,
        acknowledged,
        verdict,
        latencies,
        held: Vec::new(),
        placements: Vec::new(),
    }
}

/// How to reach a database at a local port, as psql and the drivers take it.
fn url(port: u16, database: &str) -> String {
    format!("postgres://{SUPERUSER}:{PASSWORD}@127.0.0.1:{port}/{database}")
}

fn say_how_to_connect(port: u16) {
    println!("Everything is left running. The database, through pgshunt:");
    println!("  psql '{}'", url(port, DATABASE));
    println!("The console (SHOW HELP, SHOW MOVES, MOVE SHARD 1 TO node3):");
    println!("  psql '{}'", url(port, CONSOLE));
    println!("Ctrl-C ends it and removes the nodes.");
}
