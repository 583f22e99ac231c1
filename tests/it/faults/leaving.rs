//! Clients that leave: with a goodbye, without one, in the middle of something.

use super::wire::{TERMINATE, Wire, message, query};
use super::*;

#[tokio::test]
async fn what_was_sent_before_a_goodbye_is_carried_out() {
    let p = narrow().await;
    let mut wire = Wire::login(p.port()).await;
    wire.ask("CREATE TABLE t (a int)").await;
    let mut batch = Vec::new();
    for n in 0..50 {
        batch.extend(query(&format!("SELECT pg_sleep(0.01); INSERT INTO t VALUES ({n})")));
    }
    batch.extend_from_slice(TERMINATE);
    wire.send(&batch).await;
    // Closed with answers unread, which resets the connection: nothing can be sent to it any more.
    drop(wire);
    wait_for("all of the batch", async || (rows(&p).await == 50).then_some(())).await;
    // The connection is fit for others.
    let mut next = Wire::login(p.port()).await;
    assert_eq!(next.ask("SELECT count(*) FROM t").await, "TDCZ");
}

#[tokio::test]
async fn who_only_closes_its_own_side_still_gets_its_answers() {
    let p = narrow().await;
    let mut wire = Wire::login(p.port()).await;
    wire.send(&query("SELECT pg_sleep(0.2)")).await;
    wire.send(&query("SELECT 1")).await;
    // Without Sync: the node answers when it is asked to, and nothing is committed.
    wire.send(&message(b'P', b"\0CREATE TABLE no (a int)\0\0\0")).await;
    wire.send(&message(b'B', b"\0\0\0\0\0\0\0\0")).await;
    wire.send(&message(b'E', b"\0\0\0\0\0")).await;
    wire.tcp.shutdown().await;
    assert_eq!(wire.ready().await, "TDCZ");
    assert_eq!(wire.ready().await, "TDCZ");
    assert_eq!(wire.ready().await, "12C");
    let mut next = Wire::login(p.port()).await;
    assert_eq!(next.ask("SELECT * FROM no").await, "E42P01Z");
}

#[tokio::test]
async fn a_client_killed_in_a_transaction_or_a_copy_leaves_nothing_behind() {
    let p = narrow().await;
    let mut wire = Wire::login(p.port()).await;
    wire.ask("CREATE TABLE t (a int)").await;
    for extended in [false, true] {
        let mut victim = Wire::login(p.port()).await;
        assert_eq!(victim.ask("BEGIN; INSERT INTO t VALUES (1)").await, "CCZ");
        // Those of the victim before it may be on their way out.
        let before = wait_for("the victim's connection alone", async || {
            let served = served(&p).await;
            (served.len() == 1).then_some(served)
        })
        .await;
        assert_eq!(before[0].1, "idle in transaction");
        drop(victim);
        wait_for("the transaction to end", async || {
            served(&p).await.iter().all(|s| s.0 != before[0].0).then_some(())
        })
        .await;

        let mut victim = Wire::login(p.port()).await;
        if extended {
            victim.send(&message(b'P', b"\0COPY t FROM STDIN\0\0\0")).await;
            victim.send(&message(b'B', b"\0\0\0\0\0\0\0\0")).await;
            victim.send(&message(b'E', b"\0\0\0\0\0")).await;
            victim.send(&message(b'S', b"")).await;
        } else {
            victim.send(&query("COPY t FROM STDIN")).await;
        }
        while victim.next().await.expect("a CopyInResponse").0 != b'G' {}
        victim.send(&message(b'd', b"1\n2\n")).await;
        // And half of a message.
        victim.send(b"d\0\0\0\x10half").await;
        drop(victim);
        assert_eq!(wire.ask("SELECT count(*) FROM t").await, "TDCZ");
        wait_for("the copy to end", async || {
            served(&p).await.iter().all(|s| s.1 != "active").then_some(())
        })
        .await;
        assert_eq!(rows(&p).await, 0);
    }
}

#[tokio::test]
async fn who_leaves_while_it_waits_gives_its_place_up_at_once() {
    let p = narrow().await;
    let mut holder = Wire::login(p.port()).await;
    holder.ask("CREATE TABLE t (a int)").await;
    let mut leaves = Wire::login(p.port()).await;
    let mut means_it = Wire::login(p.port()).await;
    let mut talks = Wire::login(p.port()).await;
    holder.ask("BEGIN; SELECT 1").await;

    leaves.send(&query("INSERT INTO t VALUES (1)")).await;
    wait_for_line(&p, 1).await;
    drop(leaves);
    wait_for_line(&p, 0).await;
    // One that said goodbye meant its statement to be carried out.
    let mut last = query("INSERT INTO t VALUES (2)");
    last.extend_from_slice(TERMINATE);
    means_it.send(&last).await;
    drop(means_it);
    wait_for_line(&p, 1).await;
    // What a waiting client sends on is read, and does not make it deaf.
    talks.send(&query("INSERT INTO t VALUES (3)")).await;
    wait_for_line(&p, 2).await;
    talks.send(&query("INSERT INTO t VALUES (4)")).await;
    talks.send(&query("INSERT INTO t VALUES (5)")).await;
    drop(talks);
    wait_for_line(&p, 1).await;

    assert_eq!(holder.ask("COMMIT").await, "CZ");
    wait_for("the statement that was meant", async || (rows(&p).await == 1).then_some(())).await;
    assert_eq!(value::<i32>(&node(&p).await, "SELECT a FROM t").await, 2);
}

#[tokio::test]
async fn who_leaves_while_it_is_held_is_not_held_any_more() {
    let p = narrow().await;
    let mut wire = Wire::login(p.port()).await;
    wire.ask("CREATE TABLE t (a int)").await;
    let console = p.console().await;
    console.does("PAUSE").await;
    let mut held = Wire::login(p.port()).await;
    held.send(&query("INSERT INTO t VALUES (1)")).await;
    let states = async || console.column("SHOW CLIENTS", "activity").await;
    let held_now = async || states().await.iter().filter(|s| *s == "held").count();
    wait_for("the insert to be held", async || (held_now().await == 1).then_some(())).await;
    drop(held);
    wait_for("it to be let go", async || (held_now().await == 0).then_some(())).await;
    console.does("RESUME").await;
    assert_eq!(wire.ask("SELECT count(*) FROM t").await, "TDCZ");
    assert_eq!(rows(&p).await, 0);
}

#[tokio::test]
async fn what_a_killed_client_left_running_ends_though_its_first_cancel_is_swallowed() {
    let p = narrow().await;
    let mut wire = Wire::login(p.port()).await;
    let swallows = "DO $$ BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN \
                    PERFORM pg_sleep(600); END $$";
    wire.send(&query(swallows)).await;
    wait_for("the statement", async || {
        served(&p).await.iter().any(|s| s.1 == "active").then_some(())
    })
    .await;
    let console = p.console().await;
    let id = console.column("SHOW CLIENTS", "id").await.remove(0);
    console.does(&format!("KILL_CLIENT {id}")).await;
    wait_for("its end", async || served(&p).await.is_empty().then_some(())).await;
    let mut next = Wire::login(p.port()).await;
    assert_eq!(next.ask("SELECT 1").await, "TDCZ");
}
