//! With server_round_robin, transactions go round all server connections of a pool.

use pgshunt::config::AuthMethod;
use pgshunt::wire::{frame, frontend};

use super::*;
use crate::faults::wire::Wire;

#[tokio::test]
async fn the_connection_that_has_been_idle_the_longest_is_lent_first() {
    let proxy = Proxy::start_with(1, 1, |c: &mut Config| {
        c.pool.min_size = 3;
        c.pool.server_round_robin = true;
        // Who is served by which thread does not matter.
        c.server.workers = 2;
    })
    .await;
    let (a, b) = (proxy.client().await, proxy.client().await);
    rotating(&a, 3).await;
    let turn = rotating(&a, 3).await;
    for wanted in turn.iter().cycle().take(9) {
        assert_eq!(simply_pid(&a).await, *wanted);
    }
    // The other one is on the other thread, and has the same.
    let mut others = rotating(&b, 3).await;
    others.sort_unstable();
    let mut all = turn.clone();
    all.sort_unstable();
    assert_eq!(others, all);
    // Each transaction has one, and not each statement.
    does(&a, "BEGIN").await;
    let held = simply_pid(&a).await;
    assert_eq!(simply_pid(&a).await, held);
    assert!(!rotating(&b, 2).await.contains(&held));
    does(&a, "COMMIT").await;

    // Changed while serving, it is the one that was used last.
    let console = proxy.console().await;
    console.does("SET server_round_robin = 0").await;
    let first = simply_pid(&a).await;
    assert_eq!([simply_pid(&a).await, simply_pid(&a).await], [first; 2]);
    console.does("SET pool.server_round_robin = on").await;
    rotating(&a, 3).await;
    let shown = console.lines("SHOW CONFIG").await;
    let of = |key: &str| {
        let line = shown.iter().find(|l| l[0].1.as_deref() == Some(key));
        line.unwrap_or_else(|| panic!("no {key}"))[1].1.clone().unwrap_or_default()
    };
    assert_eq!(
        (of("server_round_robin"), of("pool.server_round_robin")),
        ("1".into(), "true".into())
    );
    assert_eq!((of("min_pool_size"), of("pool.min_size")), ("3".into(), "3".into()));
}

/// What a dead connection leaves is made up for, unseen.
#[tokio::test]
async fn a_pool_in_use_is_filled_again() {
    let proxy = shared(3).await;
    let a = proxy.client().await;
    let turn = rotating(&a, 3).await;
    let node = connect(proxy.nodes.nodes[0].port()).await;
    for pid in &turn[1..] {
        let gone: bool = value(&node, &format!("SELECT pg_terminate_backend({pid}, 30000)")).await;
        assert!(gone);
    }
    let fresh = rotating(&a, 3).await;
    assert!(fresh.contains(&turn[0]), "{turn:?} {fresh:?}");
    assert!(!turn[1..].iter().any(|pid| fresh.contains(pid)), "{turn:?} {fresh:?}");
}

/// A driver reads results by the columns that it was told. On a connection that prepares the statement
/// when the table has changed already, nobody but the proxy can tell.
#[tokio::test]
async fn a_described_statement_whose_columns_have_changed_fails_on_every_connection() {
    let proxy = shared(3).await;
    let (a, b) = (proxy.client().await, proxy.client().await);
    does(&b, "CREATE TABLE t (id int, v text); INSERT INTO t VALUES (1, 'one')").await;
    rotating(&a, 3).await;
    let all = a.prepare("SELECT * FROM t WHERE id = $1").await.unwrap();
    for _ in 0..4 {
        assert_eq!(a.query_one(&all, &[&1]).await.unwrap().get::<_, &str>(1), "one");
    }
    does(&b, "ALTER TABLE t ALTER v TYPE bytea USING v::bytea").await;
    let fails = async || {
        let e = a.query_one(&all, &[&1]).await.expect_err("another type");
        let e = e.as_db_error().unwrap_or_else(|| panic!("{e:?}"));
        assert_eq!(e.message(), "cached plan must not change result type");
        assert_eq!((e.code().code(), e.routine()), ("0A000", Some("RevalidateCachedQuery")));
    };
    for _ in 0..6 {
        fails().await;
    }
    // It is the transaction's error, too.
    for _ in 0..3 {
        does(&a, "BEGIN; INSERT INTO t VALUES (2, 'two')").await;
        fails().await;
        assert_eq!(self::fails(&a, "SELECT 1").await, "25P02");
        does(&a, "COMMIT").await;
    }
    assert_eq!(value::<i64>(&a, "SELECT count(*) FROM t").await, 1);
    // Described anew it is good on all of them, while the old one is not.
    let anew = a.prepare("SELECT * FROM t WHERE id = $1").await.unwrap();
    for _ in 0..4 {
        assert_eq!(a.query_one(&anew, &[&1]).await.unwrap().get::<_, &[u8]>(1), b"one");
        fails().await;
    }
    does(&b, "ALTER TABLE t ALTER v TYPE text USING convert_from(v, 'UTF8')").await;
    for _ in 0..4 {
        assert_eq!(a.query_one(&all, &[&1]).await.unwrap().get::<_, &str>(1), "one");
    }
}

/// Two statements on a table, one with a parameter, to be prepared and to be carried out in one go.
fn puts_and_gets() -> (Vec<u8>, Vec<u8>) {
    let mut prepare = Vec::new();
    frontend::put_parse(&mut prepare, b"put", b"INSERT INTO t VALUES (1, $1)", b"");
    frontend::put_parse(&mut prepare, b"get", b"SELECT * FROM t", b"");
    frontend::put_empty(&mut prepare, b'S');
    let mut execute = Vec::new();
    for (name, values) in [("put", &b"\0\0\0\x01\0\0\0\x03007\0\0"[..]), ("get", &[0; 6])] {
        frontend::put_bind(&mut execute, b"", name.as_bytes(), values);
        frame::put(&mut execute, b'E', |b| b.extend_from_slice(&[0; 5]));
    }
    frontend::put_empty(&mut execute, b'S');
    (prepare, execute)
}

/// A Parse means the tables of its moment, wherever the statement is carried out later: not the types
/// that its parameters had for somebody else before, and not the columns.
#[tokio::test]
async fn a_statement_that_was_not_described_means_the_tables_of_its_parse_on_every_connection() {
    let proxy = Proxy::start_with(1, 1, |c: &mut Config| {
        c.auth.method = AuthMethod::Trust;
        c.pool.size = 2;
        c.pool.min_size = 2;
        c.pool.server_round_robin = true;
        c.server.workers = 1;
    })
    .await;
    let a = proxy.client().await;
    does(&a, "CREATE TABLE t (id int, v int)").await;
    rotating(&a, 2).await;

    let (prepare, execute) = puts_and_gets();
    let carried_out = async |client: &mut Wire| {
        client.send(&execute).await;
        let answer = client.ready().await;
        assert!(answer.starts_with("2C2D") && answer.ends_with("CZ"), "{answer}");
    };

    let mut old = Wire::login(proxy.port()).await;
    old.send(&prepare).await;
    assert_eq!(old.ready().await, "11Z");
    for _ in 0..4 {
        carried_out(&mut old).await;
    }
    for change in [
        "TRUNCATE t; ALTER TABLE t ALTER v TYPE text, ADD w int",
        "DROP TABLE t; CREATE TABLE t (v int, id text)",
        "DO 'BEGIN DROP TABLE t; CREATE TABLE t (id int, v text); END'",
    ] {
        does(&a, change).await;
        let mut new = Wire::login(proxy.port()).await;
        new.send(&prepare).await;
        assert_eq!(new.ready().await, "11Z", "{change}");
        // Behind the first statement of a transaction nothing can be tried again unseen.
        for _ in 0..4 {
            assert_eq!(new.ask("BEGIN").await, "CZ");
            assert_eq!(new.ask("SELECT 1").await, "TDCZ");
            carried_out(&mut new).await;
            assert_eq!(new.ask("COMMIT").await, "CZ");
        }
        let wrong = "SELECT count(*) FROM t WHERE to_jsonb(t)::text NOT LIKE '%\"007\"%'";
        assert_eq!(value::<i64>(&a, wrong).await, 0, "{change}");
    }
}

/// A text means the tables of the search_path it was parsed by, not of whoever had it prepared there.
#[tokio::test]
async fn a_statement_that_was_not_described_means_the_tables_of_its_search_path() {
    let proxy = Proxy::start_with(1, 1, |c: &mut Config| {
        c.auth.method = AuthMethod::Trust;
        c.pool.size = 1;
    })
    .await;
    let a = proxy.client().await;
    does(
        &a,
        "CREATE SCHEMA acme; CREATE TABLE acme.t (id int, v int);
         CREATE SCHEMA bolt; CREATE TABLE bolt.t (id int, v text)",
    )
    .await;
    let (prepare, execute) = puts_and_gets();
    let mut clients = Vec::new();
    for tenant in ["acme", "bolt"] {
        let mut client = Wire::login(proxy.port()).await;
        client.ask(&format!("SET search_path = {tenant}")).await;
        client.send(&prepare).await;
        assert_eq!(client.ready().await, "11Z");
        clients.push(client);
    }
    for n in 0..6 {
        let client = &mut clients[n % 2];
        assert_eq!(client.ask("BEGIN").await, "CZ");
        assert_eq!(client.ask("SELECT 1").await, "TDCZ");
        client.send(&execute).await;
        let answer = client.ready().await;
        assert!(answer.starts_with("2C2D") && answer.ends_with("CZ"), "{answer}");
        assert_eq!(client.ask("COMMIT").await, "CZ");
    }
    assert_eq!(texts(&a, "SELECT DISTINCT v FROM acme.t").await, ["7"]);
    assert_eq!(texts(&a, "SELECT DISTINCT v FROM bolt.t").await, ["007"]);
}
