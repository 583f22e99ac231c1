//! Reads of all nodes wherever a statement may stand.

use futures_util::future::join_all;

use super::*;
use crate::faults::wire::{Wire, message, query};

#[tokio::test]
async fn a_transaction_reads_from_all_nodes_what_it_has_written() {
    let b = Bank::open().await;
    let mut client = b.p.client().await;
    let total = client.prepare("SELECT count(*), sum(v) FROM accounts").await.unwrap();
    let rows = client.prepare("SELECT t, v FROM accounts WHERE v > $1").await.unwrap();
    for commits in [false, true] {
        let tx = client.transaction().await.unwrap();
        let row = tx.query_one(&total, &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (i64::from(ACCOUNTS), TOTAL));
        for account in [b.near, b.far] {
            tx.execute("UPDATE accounts SET v = v + $1 WHERE t = $2", &[&7_i32, &account])
                .await
                .unwrap();
        }
        let row = tx.query_one(&total, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(1), TOTAL + 14, "its own writes");
        let mut rich: Vec<i32> =
            tx.query(&rows, &[&100_i32]).await.unwrap().iter().map(|r| r.get(0)).collect();
        rich.sort_unstable();
        let mut wanted = [b.near, b.far];
        wanted.sort_unstable();
        assert_eq!(rich, wanted);
        if commits {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
    }
    assert_eq!(b.audit().await, (TOTAL + 14, 0));
}

#[tokio::test]
async fn pipelined_each_answer_is_in_its_place() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    let one = client.prepare("SELECT v FROM accounts WHERE t = $1").await.unwrap();
    let all = client.prepare("SELECT sum(v) FROM accounts").await.unwrap();
    for block in [false, true] {
        if block {
            client.batch_execute("BEGIN").await.unwrap();
        }
        let accounts = [b.near, b.far];
        let of_one = |n: usize| {
            let (client, one, account) = (&client, &one, &accounts[n % 2]);
            async move { client.query_one(one, &[account]).await.map(|r| i64::from(r.get::<_, i32>(0))) }
        };
        let of_all = || async { client.query_one(&all, &[]).await.map(|r| r.get::<_, i64>(0)) };
        let (some, whole) =
            tokio::join!(join_all((0..12).map(of_one)), async { (of_all().await, of_all().await) });
        assert_eq!(some.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [100; 12]);
        assert_eq!((whole.0.unwrap(), whole.1.unwrap()), (TOTAL, TOTAL));
        if block {
            client.batch_execute("COMMIT").await.unwrap();
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn statement(sql: &str) -> Vec<u8> {
    [
        message(b'P', &[b"\0", &text(sql)[..], &[0, 0]].concat()),
        message(b'B', &[0; 8]),
        message(b'E', &[0; 5]),
    ]
    .concat()
}

#[tokio::test]
async fn one_segment_may_hold_several_of_them() {
    let b = Bank::open_with(|c| c.auth.method = pgshunt::config::AuthMethod::Trust).await;
    let mut wire = Wire::login(b.p.port()).await;
    let (far, near) = (b.far, b.near);
    let read = "SELECT count(*) FROM accounts";
    let one = |t: i32| format!("SELECT v FROM accounts WHERE t = {t}");
    let all = [statement(read), statement(&one(far)), statement(read), statement(&one(near))];
    wire.send(&[all.concat(), message(b'S', b"")].concat()).await;
    assert_eq!(wire.ready().await, "12DC12DC12DC12DCZ");
    // As JDBC begins: BEGIN and the first statement in one segment.
    let begun = [statement("BEGIN"), statement(read), message(b'S', b"")].concat();
    wire.send(&begun).await;
    assert_eq!(wire.ready().await, "12C12DCZ");
    let written = [statement(&adds(far, 1)), statement(read), statement(&adds(near, 1))].concat();
    wire.send(&[written, statement("COMMIT"), message(b'S', b"")].concat()).await;
    assert_eq!(wire.ready().await, "12C12DC12C12CZ");
    assert_eq!(b.audit().await, (TOTAL + 2, 0));
    // An error in the middle ends the segment and the transaction.
    wire.send(&query("BEGIN")).await;
    assert_eq!(wire.ready().await, "CZ");
    let failing = [statement(&adds(far, 1)), statement("SELECT 1 / 0 FROM accounts")].concat();
    wire.send(&[failing, statement(read), message(b'S', b"")].concat()).await;
    assert_eq!(wire.ready().await, "12C1E22012Z");
    assert_eq!(wire.ask(read).await, "E25P02Z");
    assert_eq!(wire.ask("COMMIT").await, "CZ");
    assert_eq!(b.audit().await, (TOTAL + 2, 0));
}

#[tokio::test]
async fn a_portal_is_where_it_was_bound() {
    let b = Bank::open().await;
    let mut client = b.p.client().await;
    let tx = client.transaction().await.unwrap();
    let three = |from: i32, account: i32| {
        let to = from + 2;
        format!("SELECT generate_series({from}, {to}), v FROM accounts WHERE t = {account}")
    };
    let near = tx.bind(&three(1, b.near), &[]).await.unwrap();
    let far = tx.bind(&three(4, b.far), &[]).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        for portal in [&near, &far] {
            let rows = tx.query_portal(portal, 1).await.unwrap();
            seen.extend(rows.iter().map(|r| r.get::<_, i32>(0)));
            assert_eq!(tx.query("SELECT t FROM accounts", &[]).await.unwrap().len(), 20);
        }
    }
    assert_eq!(seen, [1, 4, 2, 5, 3, 6]);
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_session_that_keeps_a_connection_uses_others_beside_it() {
    let b = Bank::open().await;
    let client = b.p.client().await;
    run(&client, &["SELECT pg_advisory_lock(7)"]).await;
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7";
    for _ in 0..3 {
        let count: i64 = value(&client, "SELECT count(*) FROM accounts").await;
        assert_eq!(count, i64::from(ACCOUNTS));
        run(&client, &[&adds(b.far, 1), &adds(b.near, 1)]).await;
        run(&client, &["BEGIN", &adds(b.far, 1), &adds(b.near, 1), "COMMIT"]).await;
        let held: i64 = value(&connect(b.p.nodes.nodes[0].port()).await, locks).await;
        assert_eq!(held, 1, "it is still there");
    }
    // What it is kept for is found there, whatever node the transaction has used last.
    run(&client, &["PREPARE p AS SELECT 1", "BEGIN", &adds(b.far, 0), "EXECUTE p"]).await;
    run(&client, &["SELECT pg_advisory_unlock(7)", "COMMIT", "DEALLOCATE p"]).await;
    assert_eq!(value::<i64>(&connect(b.p.nodes.nodes[0].port()).await, locks).await, 0);
    assert_eq!(b.audit().await, (TOTAL + 12, 0));
}
