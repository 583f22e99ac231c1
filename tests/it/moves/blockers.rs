//! Whoever is in the way is named, and the move tries again.

use std::time::Duration;

use pgshunt::moves::{MoveError, State};
use pgshunt::topology::{NodeId, ShardId};

use super::world::{World, until};
use crate::support::{DATABASE, PATIENCE, connect_as};

/// Runs a move against an open transaction and returns the blocker it named.
async fn named(world: &World, open: &[&str], close: &str) -> String {
    let client = connect_as(world.cluster.nodes[0].port(), DATABASE, "app", "app").await.unwrap();
    let mover = world.mover_with(|c| c.cutover_drain_timeout = Duration::from_millis(100));
    let id = mover.start(ShardId(1), NodeId(2)).await.unwrap();
    // The blocker arrives when the slots are made, or it would hold them up instead.
    until(&mover, id, &[State::CatchingUp, State::Ready]).await;
    let mut seen = mover.subscribe(id).unwrap();
    for sql in open {
        client.batch_execute(sql).await.unwrap();
    }
    let named = |p: &pgshunt::moves::Progress| {
        p.blocker.as_ref().is_some_and(|b| b.contains("of app")) || p.state.is_over()
    };
    let heard =
        tokio::time::timeout(PATIENCE, seen.wait_for(named)).await.map(|p| p.unwrap().clone());
    let p = heard.unwrap_or_else(|_| {
        panic!("nobody was named: {:?}", *mover.subscribe(id).unwrap().borrow())
    });
    let blocker = p.blocker.clone().unwrap_or_else(|| panic!("nobody was named: {p:?}"));
    assert_eq!(world.serves(1), NodeId(1), "and the source serves");
    // Writers other than the blocker go on.
    let other = connect_as(world.cluster.nodes[0].port(), DATABASE, "app", "app").await.unwrap();
    other
        .batch_execute(
            "SET lock_timeout = '5s'; UPDATE public.accounts SET v = v WHERE id = 1000001",
        )
        .await
        .unwrap();
    client.batch_execute(close).await.unwrap();
    let p = until(&mover, id, &[State::Soaking]).await;
    assert_eq!(p.state, State::Soaking, "{p:?}");
    mover.finish(Some(id)).await.unwrap();
    until(&mover, id, &[]).await;
    world.assert_tidy("after the blocker left").await;
    blocker
}

const WRITE: &str = "UPDATE public.accounts SET v = v + 1 \
     WHERE id = (SELECT max(id) FROM shard_1.accounts)";

#[tokio::test]
async fn an_open_transaction_is_named_and_outlasted() {
    let world = World::accounts(2).await;
    world.fill(1000).await;
    let who = named(&world, &["BEGIN", WRITE], "COMMIT").await;
    assert!(who.contains("pid ") && who.contains("idle in transaction"), "{who}");
}

#[tokio::test]
async fn a_prepared_transaction_is_named_and_outlasted() {
    let world = World::accounts(2).await;
    world.fill(1000).await;
    let open = ["BEGIN", WRITE, "PREPARE TRANSACTION 'in the way'"];
    let who = named(&world, &open, "COMMIT PREPARED 'in the way'").await;
    assert!(who.contains("prepared transaction 'in the way'"), "{who}");
}

#[tokio::test]
async fn what_cannot_move_is_refused_in_words_and_leaves_nothing() {
    let world = World::accounts(2).await;
    let mover = world.mover();
    assert!(matches!(mover.start(ShardId(9), NodeId(2)).await, Err(MoveError::UnknownShard(_))));
    assert!(matches!(mover.start(ShardId(1), NodeId(9)).await, Err(MoveError::UnknownNode(_))));
    assert!(matches!(
        mover.start(ShardId(1), NodeId(1)).await,
        Err(MoveError::AlreadyThere { .. })
    ));

    let source = world.node(NodeId(1)).await;
    let target = world.node(NodeId(2)).await;
    for (node, breaks, mends, words) in [
        (
            &source,
            "ALTER TABLE shard_1.accounts SET UNLOGGED",
            "ALTER TABLE shard_1.accounts SET LOGGED",
            "is unlogged",
        ),
        (
            &target,
            "ALTER TABLE public.accounts ADD extra int",
            "ALTER TABLE public.accounts DROP extra",
            "only node2 has: column 4: extra integer",
        ),
        (
            &target,
            "CREATE SCHEMA shard_1",
            "DROP SCHEMA shard_1",
            "node2 already has this shard's schema",
        ),
    ] {
        node.batch_execute(breaks).await.unwrap();
        let id = mover.start(ShardId(1), NodeId(2)).await.unwrap();
        let p = until(&mover, id, &[]).await;
        assert_eq!(p.state, State::Failed);
        assert!(p.error.as_ref().is_some_and(|e| e.contains(words)), "{words}: {p:?}");
        node.batch_execute(mends).await.unwrap();
        world.assert_tidy(words).await;
    }

    // Two moves of one group would find each other's DETACH in their way.
    let id = mover.start(ShardId(1), NodeId(2)).await.unwrap();
    let other = mover.start(ShardId(3), NodeId(2)).await;
    assert!(matches!(other, Err(MoveError::Busy(b)) if b == id), "{other:?}");
    assert_eq!(until(&mover, id, &[State::Soaking]).await.state, State::Soaking);
}
