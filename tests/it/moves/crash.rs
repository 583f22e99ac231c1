//! The crash matrix: a process dies before and after every step of a move, another takes over.
//!
//! The move runs in a child: this very test binary, told by the environment to carry out
//! [`crash_child`] and where to abort.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pgshunt::backend::control::Connector;
use pgshunt::catalog::Store;
use pgshunt::config::Config;
use pgshunt::gate::Gates;
use pgshunt::moves::{HoldStep, Mover, State, Step};
use pgshunt::topology::{NodeId, ShardId};

use super::world::{ACCOUNTS, ENTRIES, World, until};
use crate::support::PATIENCE;

const CLUSTER: &str = "PGSHUNT_TEST_CLUSTER";
const ACTION: &str = "PGSHUNT_TEST_ACTION";

/// What the child does with shard 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// MOVE SHARD, and FINISH MOVE when it soaks.
    Move,
    /// ROLLBACK MOVE of the move that soaks.
    Rollback,
    /// MOVE SHARD, and CANCEL MOVE when it copies.
    Cancel,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Move => "move",
            Self::Rollback => "rollback",
            Self::Cancel => "cancel",
        }
    }
}

/// Only does something as a child of the matrix.
#[tokio::test]
#[ignore = "the crash matrix starts it in a process of its own"]
async fn crash_child() {
    let (Ok(cluster), Ok(action)) = (std::env::var(CLUSTER), std::env::var(ACTION)) else {
        return;
    };
    let config: Config = toml::from_str(&cluster).unwrap();
    let connector = Arc::new(Connector::new(&config));
    let store = Arc::new(Store::open(connector, &config.cluster.nodes).await.unwrap());
    let mover = Mover::new(store.clone(), Gates::new(vec![]), config.moves);
    let at = store.routes().load().shard(ShardId(1)).unwrap().node;
    let to = NodeId(3 - at.0);
    match action.as_str() {
        "move" => {
            let id = mover.start(ShardId(1), to).await.unwrap();
            until(&mover, id, &[State::Soaking]).await;
            mover.finish(Some(id)).await.unwrap();
            until(&mover, id, &[]).await;
        }
        "rollback" => {
            mover.resume_all(PATIENCE).await.unwrap();
            let id = mover.rollback(None).await.unwrap();
            until(&mover, id, &[]).await;
        }
        "cancel" => {
            let id = mover.start(ShardId(1), to).await.unwrap();
            until(&mover, id, &[State::Copying]).await;
            mover.cancel(Some(id)).await.unwrap();
            until(&mover, id, &[]).await;
        }
        other => panic!("no such action: {other}"),
    }
    panic!("{action} went through: the failpoint was not met");
}

fn both(names: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    names
        .into_iter()
        .flat_map(|n| [format!("move.{n}.before"), format!("move.{n}.after")])
        .collect()
}

async fn crash(world: &World, action: Action, failpoint: &str) {
    let (cluster, failpoint) = (world.toml(), failpoint.to_owned());
    let output = tokio::task::spawn_blocking(move || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "moves::crash::crash_child", "--ignored", "--nocapture"])
            .env(CLUSTER, cluster)
            .env(ACTION, action.name())
            .env("PGSHUNT_FAILPOINT", failpoint)
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("aborting"), "{action:?}: the child did not crash: {said}");
}

/// Lets a process crash at each point, resumes, and looks at what is there.
async fn matrix(tables: &[(&str, &str)], action: Action, points: Vec<String>) {
    let world = World::new(2, tables).await;
    world.fill(500).await;
    let writers = world.writers(2, Duration::from_millis(3));
    for point in points {
        let case = format!("{} crashed at {point}", action.name());
        let started = std::time::Instant::now();
        world.store.reload().await.unwrap();
        let before = world.serves(1);
        let other = NodeId(3 - before.0);
        if action == Action::Rollback {
            let mover = world.mover();
            let id = mover.start(ShardId(1), other).await.unwrap();
            assert_eq!(until(&mover, id, &[State::Soaking]).await.state, State::Soaking);
            mover.release().await;
        }
        crash(&world, action, &point).await;

        let mover = world.mover();
        mover.resume_all(PATIENCE).await.unwrap();
        let last = mover.list().await.unwrap().pop().unwrap();
        let end = if last.state.is_over() {
            last
        } else {
            let p = until(&mover, last.move_id, &[State::Soaking]).await;
            match p.state {
                State::Soaking => {
                    mover.finish(None).await.unwrap();
                    until(&mover, last.move_id, &[]).await
                }
                _ => p,
            }
        };
        // A rollback that crashed must end as one; a move is finished, save when it was cancelled.
        let (state, serves) = match action {
            Action::Move => (State::Done, other),
            Action::Rollback => (State::Done, before),
            Action::Cancel => (State::Failed, before),
        };
        assert_eq!(end.state, state, "{case}: {end:?}");
        assert_eq!(world.serves(1), serves, "{case}");
        writers.compare(&world, &case).await;
        world.assert_tidy(&case).await;
        mover.release().await;
        eprintln!("{case}: {} in {:?}", end.state, started.elapsed());
    }
    writers.end(&world, "at the end").await;
}

const SLOW: &[Step] = &[Step::Recheck, Step::Unfence, Step::DropObjects];

#[tokio::test]
async fn a_move_survives_a_crash_at_every_step() {
    let steps = Step::ALL.iter().filter(|s| !SLOW.contains(s)).map(|s| s.name());
    matrix(&[("accounts", ACCOUNTS)], Action::Move, both(steps)).await;
}

#[tokio::test]
async fn a_move_survives_a_crash_at_every_step_of_the_held_phase() {
    let tables = [("accounts", ACCOUNTS), ("entries", ENTRIES)];
    matrix(&tables, Action::Move, both(HoldStep::ALL.iter().map(|s| s.name()))).await;
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
    matrix(&[("accounts", ACCOUNTS)], Action::Rollback, both(names)).await;
}

#[tokio::test]
async fn undoing_survives_a_crash() {
    let steps = [Step::Unfence, Step::DropObjects];
    matrix(&[("accounts", ACCOUNTS)], Action::Cancel, both(steps.iter().map(|s| s.name()))).await;
}
