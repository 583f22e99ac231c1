//! There, back again, and not at all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgshunt::moves::{HoldStep, MoveError, State};
use pgshunt::topology::{NodeId, ShardId};

use super::world::{ACCOUNTS, ENTRIES, World, move_and_finish, until};
use crate::support::{self, wait_for};

#[tokio::test]
async fn a_shard_moves_under_writers_and_nothing_is_lost_or_doubled() {
    let world = World::accounts(2).await;
    world.fill(20_000).await;
    let mover = world.mover();
    let writers = world.writers(4, Duration::ZERO);
    wait_for("writers", || async { (writers.writes.load(Ordering::Relaxed) > 500).then_some(()) })
        .await;

    let p = move_and_finish(&mover, 1, NodeId(2)).await;
    // How many rows are copied is what the target's statistics say, which come late.
    assert!(p.held.is_some() && p.bytes_total > 0, "{p:?}");
    for step in HoldStep::ALL {
        assert!(step == HoldStep::Open || p.hold.of(step).is_some(), "{step:?}: {:?}", p.hold);
    }
    eprintln!("held {:?}: {:?}", p.held, p.hold);
    assert_eq!(world.serves(1), NodeId(2));
    writers.compare(&world, "after the move").await;
    world.assert_tidy("after the move").await;

    for (shard, to) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
        let p = move_and_finish(&mover, shard, NodeId(to)).await;
        eprintln!("held {:?}: {:?}", p.held, p.hold);
        writers.compare(&world, "on the way").await;
    }
    assert!(writers.retries.load(Ordering::Relaxed) > 0, "a fence that nobody met proves nothing");
    writers.end(&world, "at the end").await;
    world.assert_tidy("at the end").await;
}

#[tokio::test]
async fn a_rollback_brings_back_what_was_written_meanwhile() {
    let world = World::accounts(2).await;
    world.fill(2_000).await;
    let mover = world.mover();
    let writers = world.writers(3, Duration::from_millis(1));
    let id = mover.start(ShardId(1), NodeId(2)).await.unwrap();
    let p = until(&mover, id, &[State::Soaking]).await;
    assert_eq!(p.state, State::Soaking, "{p:?}");
    let before = writers.writes.load(Ordering::Relaxed);
    wait_for("writes on the new node", || async {
        (writers.writes.load(Ordering::Relaxed) > before + 200).then_some(())
    })
    .await;

    let back = mover.rollback(None).await.unwrap();
    let p = until(&mover, back, &[]).await;
    assert_eq!((p.state, p.rollback_of), (State::Done, Some(id)), "{p:?}");
    eprintln!("rollback held {:?}: {:?}", p.held, p.hold);
    assert_eq!(world.serves(1), NodeId(1));
    writers.compare(&world, "after the rollback").await;
    world.assert_tidy("after the rollback").await;
    let all = mover.list().await.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].error.as_deref(), Some(&*format!("rolled back by move {back}")));
    assert!(matches!(mover.rollback(None).await, Err(MoveError::NoneThat(_))));

    // And once more, to see that nothing of it stays in the way.
    move_and_finish(&mover, 1, NodeId(2)).await;
    writers.end(&world, "after another move").await;
    world.assert_tidy("after another move").await;
}

#[tokio::test]
async fn a_cancelled_move_leaves_nothing_in_whatever_state_it_was() {
    let world = World::accounts(2).await;
    world.fill(50_000).await;
    let mover = world.mover();
    let writers = world.writers(2, Duration::from_millis(1));
    let states =
        [State::Planned, State::Preparing, State::Copying, State::CatchingUp, State::Ready];
    for state in states {
        let id = mover.start(ShardId(1), NodeId(2)).await.unwrap();
        until(&mover, id, &[state]).await;
        let case = format!("cancelled when {state}");
        match mover.cancel(Some(id)).await {
            Ok(_) => {
                let p = until(&mover, id, &[State::Soaking]).await;
                if p.state == State::Soaking {
                    // It was quicker than we.
                    mover.rollback(Some(id)).await.unwrap();
                    let back = mover.list().await.unwrap().last().unwrap().move_id;
                    assert_eq!(until(&mover, back, &[]).await.state, State::Done);
                } else {
                    assert_eq!(p.error.as_deref(), Some("cancelled by CANCEL MOVE"), "{case}");
                }
            }
            Err(e) => panic!("{case}: {e}"),
        }
        assert_eq!(world.serves(1), NodeId(1), "{case}");
        writers.compare(&world, &case).await;
        world.assert_tidy(&case).await;
    }
    let id = mover.start(ShardId(1), NodeId(2)).await.unwrap();
    until(&mover, id, &[State::Soaking]).await;
    let late = mover.cancel(Some(id)).await;
    assert!(
        matches!(late, Err(MoveError::WrongState { state: State::Soaking, .. })),
        "only ROLLBACK MOVE takes back what has switched: {late:?}"
    );
    let again = mover.start(ShardId(1), NodeId(1)).await;
    assert!(matches!(again, Err(MoveError::Soaking { .. })), "{again:?}");
    writers.end(&world, "at the end").await;
}

#[tokio::test]
async fn colocated_tables_and_their_foreign_key_move_together() {
    let world = World::new(2, &[("accounts", ACCOUNTS), ("entries", ENTRIES)]).await;
    world.fill(5_000).await;
    let c = world.node(NodeId(1)).await;
    c.batch_execute("INSERT INTO shard_1.entries SELECT id, 1 FROM shard_1.accounts")
        .await
        .unwrap();
    let rows: i64 = support::value(&c, "SELECT count(*) FROM shard_1.entries").await;
    let mover = world.mover();
    let id = mover.start(ShardId(1), NodeId(2)).await.unwrap();
    let p = until(&mover, id, &[State::Soaking]).await;
    assert_eq!(p.state, State::Soaking, "{p:?}");

    let t = world.node(NodeId(2)).await;
    assert_eq!(support::value::<i64>(&t, "SELECT count(*) FROM shard_1.entries").await, rows);
    let orphan = t
        .execute(
            "INSERT INTO public.entries SELECT k, 1 FROM generate_series(2000000, 2001000) k \
         WHERE satisfies_hash_partition('public.accounts'::regclass, 4, 0, k) LIMIT 1",
            &[],
        )
        .await;
    assert_eq!(
        orphan.unwrap_err().code().map(|c| c.code()),
        Some("23503"),
        "the foreign key is in force on the new node"
    );
    let indexes = "SELECT string_agg(indexdef, ';' ORDER BY indexdef) FROM pg_indexes WHERE schemaname = 'shard_1'";
    assert_eq!(
        support::value::<String>(&t, indexes).await,
        support::value::<String>(&c, indexes).await,
        "the same indexes by the same names"
    );
    let owner =
        "SELECT string_agg(relname || relowner::regrole || relacl::text, ';' ORDER BY relname)
         FROM pg_class WHERE relnamespace = 'shard_1'::regnamespace AND relkind = 'r'";
    assert_eq!(
        support::value::<String>(&t, owner).await,
        support::value::<String>(&c, owner).await,
        "owners and grants"
    );
    // A write there reaches the retired leaves; the application's roles do not.
    t.batch_execute(
        "UPDATE public.accounts SET v = 77 WHERE id = (SELECT min(id) FROM shard_1.accounts)",
    )
    .await
    .unwrap();
    wait_for("the retired leaf to follow", || async {
        let n: i64 = support::value(&c, "SELECT count(*) FROM shard_1.accounts WHERE v = 77").await;
        (n == 1).then_some(())
    })
    .await;
    let usage = "SELECT has_schema_privilege('app', 'shard_1', 'USAGE')";
    assert!(!support::value::<bool>(&c, usage).await);
    assert!(support::value::<bool>(&t, usage).await);

    let back = mover.rollback(Some(id)).await.unwrap();
    assert_eq!(until(&mover, back, &[]).await.state, State::Done);
    assert!(support::value::<bool>(&c, usage).await, "given back with the fence");
    assert_eq!(
        support::value::<i64>(&c, "SELECT count(*) FROM public.accounts WHERE v = 77").await,
        1
    );
    world.assert_tidy("after the rollback").await;
}

#[tokio::test]
async fn a_table_without_a_key_moves_with_a_notice_and_keeps_no_replica_identity() {
    let bare = "CREATE TABLE public.accounts (id int NOT NULL, v bigint) PARTITION BY HASH (id)";
    let world = World::new(2, &[("accounts", bare)]).await;
    let c = world.node(NodeId(1)).await;
    c.batch_execute(
        "INSERT INTO shard_1.accounts SELECT k, 1 FROM generate_series(1, 100) k \
        WHERE satisfies_hash_partition('public.accounts'::regclass, 4, 0, k)",
    )
    .await
    .unwrap();
    let mover = world.mover();
    let id = mover.start(ShardId(1), NodeId(2)).await.unwrap();
    let p = until(&mover, id, &[State::Soaking]).await;
    assert_eq!(p.state, State::Soaking, "{p:?}");
    assert!(p.notices.iter().any(|n| n.contains("REPLICA IDENTITY FULL")), "{:?}", p.notices);
    let t = world.node(NodeId(2)).await;
    let changed = t.execute("UPDATE public.accounts SET v = 2", &[]).await.unwrap();
    assert!(changed > 0, "UPDATE works where it is published in reverse");
    mover.finish(None).await.unwrap();
    assert_eq!(until(&mover, id, &[]).await.state, State::Done);
    let identity: String = support::value(
        &t,
        "SELECT relreplident::text FROM pg_class WHERE oid = 'shard_1.accounts'::regclass",
    )
    .await;
    assert_eq!(identity, "d");
    world.assert_tidy("at the end").await;
}
