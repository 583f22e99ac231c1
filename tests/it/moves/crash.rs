//! The crash matrix: pgshunt dies before and after every step of a move, under traffic, and the one
//! that is started in its place finishes the move or undoes it.

use std::time::{Duration, Instant};

use pgshunt::local::LocalCluster;
use pgshunt::moves::{HoldStep, State, Step};

use super::child::{Home, Served};
use super::scene::{Brake, assert_tidy, last_move, make_table, serves, until_move, until_state};
use super::traffic::{Load, Traffic};
use crate::support::{Console, PATIENCE, connect};

/// What dies half-way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// MOVE SHARD, and FINISH MOVE when it soaks.
    Move,
    /// ROLLBACK MOVE of a move that soaks.
    Rollback,
    /// MOVE SHARD, and CANCEL MOVE before its cutover.
    Cancel,
}

fn both(names: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    names
        .into_iter()
        .flat_map(|n| [format!("move.{n}.before"), format!("move.{n}.after")])
        .collect()
}

async fn console(served: &Served) -> Console {
    Console::open(served.port, "pgshunt").await
}

/// Asks for it; the answer may be the end of the process.
async fn ask(console: &Console, sql: &str) {
    if let Err(e) = console.client.batch_execute(sql).await {
        assert!(e.as_db_error().is_none(), "{sql}: {e:?}");
    }
}

/// Lets a move go as far as it goes until the process is gone.
async fn dies(served: &mut Served, home: &Home, console: &Console, point: &str) {
    let since = Instant::now();
    while !served.is_gone() {
        assert!(since.elapsed() < PATIENCE, "waited in vain for the process to die at {point}");
        if last_state(console).await.is_some_and(|s| s == State::Soaking.name()) {
            ask(console, "FINISH MOVE").await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let said = home.said();
    assert!(said.contains(&format!("failpoint {point}: aborting")), "it died of {said}");
}

/// `None` if nobody answers any more.
async fn last_state(console: &Console) -> Option<String> {
    let answer = console.client.simple_query("SHOW MOVES").await.ok()?;
    answer.iter().rev().find_map(|m| match m {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get("state").map(Into::into),
        _ => None,
    })
}

/// Lets the program crash at each point, starts it again, and looks at what is there.
async fn matrix(action: Action, points: Vec<String>) {
    let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(2)).await.unwrap().unwrap();
    let home = Home::new(&nodes.config);
    let mut served = Served::start(&home, None).await;
    make_table(&console(&served).await, &connect(served.port).await).await;
    let load =
        Load { writers: 4, pause: Duration::from_millis(5), bears_errors: true, ..Load::default() };
    let traffic = Traffic::start(served.port, load);
    traffic.flows("before").await;
    for point in points {
        let case = format!("{action:?} crashed at {point}");
        let started = Instant::now();
        let before = serves(&console(&served).await, 1).await;
        let (other, source) = if before == "node1" { ("node2", 0) } else { ("node1", 1) };
        let to_other = format!("MOVE SHARD 1 TO {other} NOWAIT");
        if action == Action::Rollback {
            let c = console(&served).await;
            c.does(&to_other).await;
            until_state(&c, State::Soaking).await;
        }
        drop(served);
        served = Served::start(&home, Some(&point)).await;
        traffic.go_to(served.port);
        let c = console(&served).await;
        match action {
            Action::Move => ask(&c, &to_other).await,
            Action::Rollback => ask(&c, "ROLLBACK MOVE NOWAIT").await,
            Action::Cancel => {
                let brake = Brake::pull(&nodes.nodes[source], 1).await;
                c.does(&to_other).await;
                until_move(&c, "blocker", |b| b.contains("pid ")).await;
                ask(&c, "CANCEL MOVE").await;
                brake.release().await;
            }
        }
        dies(&mut served, &home, &c, &point).await;

        served = Served::start(&home, None).await;
        traffic.go_to(served.port);
        let c = console(&served).await;
        let over = |s: &str| [State::Done, State::Failed].iter().any(|o| o.name() == s);
        let mut end = until_move(&c, "state", |s| over(s) || s == State::Soaking.name()).await;
        if end == State::Soaking.name() {
            c.does("FINISH MOVE").await;
            end = until_move(&c, "state", over).await;
        }
        // A rollback that crashed must end as one; a move is finished, save when it was cancelled.
        let (state, node) = match action {
            Action::Move => (State::Done, other.to_owned()),
            Action::Rollback => (State::Done, before),
            Action::Cancel => (State::Failed, before),
        };
        assert_eq!(end, state.name(), "{case}: {}", last_move(&c, "error").await);
        assert_eq!(serves(&c, 1).await, node, "{case}");
        traffic.flows(&case).await;
        traffic.compare(&nodes, &case).await;
        assert_tidy(&nodes, &case).await;
        eprintln!("{case}: {end} in {:?}", started.elapsed());
    }
    // Whoever was connected when it died lost the connection, and nobody saw anything else.
    let mut errors = traffic.end(&nodes, "at the end").await;
    errors.retain(|e| !e.starts_with("connection closed"));
    assert_eq!(errors, Vec::<String>::new());
}

/// What only a rollback or an undone move does.
const OTHERS: &[Step] = &[Step::Recheck, Step::Unfence, Step::DropObjects];

#[tokio::test]
async fn a_move_survives_a_crash_at_every_step() {
    let steps = Step::ALL.iter().filter(|s| !OTHERS.contains(s)).map(|s| s.name());
    matrix(Action::Move, both(steps)).await;
}

#[tokio::test]
async fn a_move_survives_a_crash_at_every_step_of_the_held_phase() {
    matrix(Action::Move, both(HoldStep::ALL.iter().map(|s| s.name()))).await;
}

#[tokio::test]
async fn a_rollback_survives_a_crash_at_every_step() {
    let steps = [
        Step::Recheck,
        Step::AwaitReady,
        Step::Settle,
        Step::DropReverse,
        Step::FinishDetach,
        Step::DropRetired,
        Step::DropScaffold,
    ];
    let names = steps.iter().map(|s| s.name()).chain(HoldStep::ALL.iter().map(|s| s.name()));
    matrix(Action::Rollback, both(names)).await;
}

#[tokio::test]
async fn undoing_survives_a_crash() {
    let steps = [Step::Unfence, Step::DropObjects];
    matrix(Action::Cancel, both(steps.iter().map(|s| s.name()))).await;
}
