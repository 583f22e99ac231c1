//! Prepared transactions: the home node's, or refused.

use pgshunt::config::AuthMethod;

use super::*;
use crate::faults::wire::{Wire, message, query};

/// One segment that executes the text, without its Sync.
fn execute(sql: &str) -> Vec<u8> {
    let mut segment = message(b'P', format!("\0{sql}\0\0\0").as_bytes());
    segment.extend(message(b'B', b"\0\0\0\0\0\0\0\0"));
    segment.extend(message(b'E', b"\0\0\0\0\0"));
    segment
}

const SYNC: &[u8] = b"S\0\0\0\x04";

#[tokio::test]
async fn a_transaction_is_prepared_at_home_or_rolled_back() {
    let p = Proxy::start_with(2, 2, |c| c.auth.method = AuthMethod::Trust).await;
    p.console().await.does("SET shard_count = 2").await;
    let mut a = Wire::login(p.port()).await;
    let mut b = Wire::login(p.port()).await;
    a.ask("CREATE TABLE d (t int PRIMARY KEY, v int) PARTITION BY HASH (t)").await;
    a.ask("CREATE TABLE l (a int)").await;
    for t in 0..20 {
        a.ask(&format!("INSERT INTO d VALUES ({t}, 0)")).await;
    }
    let node = async |n: usize| connect(p.nodes.nodes[n].port()).await;
    let (home, other) = (node(0).await, node(1).await);
    let some = "SELECT min(t) FROM d";
    let (near, far): (i32, i32) = (value(&home, some).await, value(&other, some).await);
    let prepared = async |n: usize| {
        value::<i64>(&node(n).await, "SELECT count(*) FROM pg_prepared_xacts").await
    };

    // What is at home is prepared there, and ended by any session.
    for (local, end, rows) in [
        ("INSERT INTO l VALUES (1)".to_owned(), "COMMIT PREPARED 'x'", 1),
        (format!("UPDATE d SET v = 1 WHERE t = {near}"), "COMMIT PREPARED 'x'", 1),
        ("INSERT INTO l VALUES (2)".to_owned(), "ROLLBACK PREPARED 'x'", 1),
    ] {
        assert_eq!(a.ask("BEGIN").await, "CZ");
        assert_eq!(a.ask(&local).await, "CZ");
        assert_eq!(a.ask("PREPARE TRANSACTION 'x'").await, "CZ");
        assert_eq!((prepared(0).await, prepared(1).await), (1, 0), "{local}");
        assert_eq!(b.ask(end).await, "CZ");
        assert_eq!(prepared(0).await, 0, "{local}");
        assert_eq!(value::<i64>(&home, "SELECT count(*) FROM l").await, rows);
    }
    assert_eq!(value::<i64>(&home, "SELECT count(*) FROM d WHERE v = 1").await, 1);
    assert_eq!(a.ask("BEGIN").await, "CZ");
    assert_eq!(a.ask("PREPARE TRANSACTION 'empty'").await, "CZ");
    a.send(&[&execute("COMMIT PREPARED 'empty'")[..], SYNC].concat()).await;
    assert_eq!(a.ready().await, "12CZ");

    // Elsewhere it is refused, and the session is outside of a transaction.
    let update = format!("UPDATE d SET v = 2 WHERE t = {far}");
    let prepare = "PREPARE TRANSACTION 'y'";
    let refused: [&dyn Fn() -> Vec<u8>; 4] = [
        &|| [query("BEGIN"), query(&update), query(prepare)].concat(),
        &|| query(&format!("BEGIN; {update}; {prepare}")),
        &|| [&execute("BEGIN")[..], &execute(&update), SYNC, &execute(prepare), SYNC].concat(),
        &|| [&execute("BEGIN")[..], &execute(&update), &execute(prepare), SYNC].concat(),
    ];
    for (answers, say) in
        ["CZCZE0A000Z", "E0A000Z", "12C12CZ1E0A000Z", "12C12C1E0A000Z"].into_iter().zip(refused)
    {
        a.send(&say()).await;
        let mut said = String::new();
        while said.matches('Z').count() < answers.matches('Z').count() {
            said += &a.ready().await;
        }
        assert_eq!(said, answers);
        assert_eq!((prepared(0).await, prepared(1).await), (0, 0));
        // Were it still in the transaction, or in a failed one, this would be told.
        assert_eq!(a.ask("VACUUM l").await, "CZ", "{answers}");
        assert_eq!(value::<i64>(&other, "SELECT count(*) FROM d WHERE v = 2").await, 0);
    }
    // One that has failed is rolled back, wherever it is.
    assert_eq!(a.ask("BEGIN").await, "CZ");
    assert_eq!(a.ask(&update).await, "CZ");
    assert_eq!(a.ask("SELECT 1 / 0").await, "E22012Z");
    assert_eq!(a.ask(prepare).await, "CZ");
    assert_eq!(b.ask(&update).await, "CZ", "the row is free");
}

#[tokio::test]
async fn without_distributed_tables_transactions_are_prepared_as_in_postgresql() {
    let p = Proxy::start_with(1, 1, |c| c.auth.method = AuthMethod::Trust).await;
    let mut wire = Wire::login(p.port()).await;
    wire.ask("CREATE TABLE l (a int)").await;
    let text = "BEGIN; INSERT INTO l VALUES (1); PREPARE TRANSACTION 'x'; SELECT 1";
    assert_eq!(wire.ask(text).await, "CCCTDCZ");
    assert_eq!(wire.ask("BEGIN; SET search_path = a; PREPARE TRANSACTION 'x'").await, "CCE42710Z");
    assert_eq!(wire.ask("SELECT count(*) FROM l").await, "TDCZ");
    assert_eq!(wire.ask("BEGIN; COMMIT PREPARED 'x'").await, "CE25001Z");
    assert_eq!(wire.ask("PREPARE TRANSACTION 'x'").await, "CZ", "it is rolled back");
    assert_eq!(wire.ask("COMMIT PREPARED 'x'").await, "CZ");
    assert_eq!(wire.ask("COMMIT PREPARED 'x'").await, "E42704Z");
    assert_eq!(wire.ask("BEGIN; SELECT 1/0").await, "CE22012Z");
    assert_eq!(wire.ask("PREPARE TRANSACTION 'x'").await, "CZ");
    assert_eq!(wire.ask("ROLLBACK PREPARED 'x'").await, "E42704Z");
    // A setting of the transaction stays, as at COMMIT.
    assert_eq!(wire.ask("BEGIN; SET work_mem = '5MB'; PREPARE TRANSACTION 's'").await, "CCCZ");
    let told = "SELECT 1 / (current_setting('work_mem') = '5MB')::int";
    assert_eq!(wire.ask(told).await, "TDCZ");
}
