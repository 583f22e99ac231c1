//! Cursors of SQL over rows of several nodes, and cursors on one of several: which node FETCH, MOVE and CLOSE
//! find, what becomes of them with their transaction, and whose rights their rows are read with.

use tokio_postgres::Client;

use crate::support::*;

/// A table `t` of 40 rows over two nodes, and a local one.
async fn tables() -> Proxy {
    let p = Proxy::start_with(2, 2, |_| {}).await;
    p.console().await.does("SET shard_count = 4").await;
    let client = p.client().await;
    for sql in [
        "CREATE TABLE t (k int, n int, s varchar(9), secret text) PARTITION BY HASH (k)",
        "CREATE TABLE places (n int, name text)",
        "INSERT INTO places SELECT n, 'p' || n FROM generate_series(0, 4) n",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let rows: Vec<_> = (1..=40).map(|k| format!("({k}, {}, 's{k}', 'x')", k % 5)).collect();
    does(&client, &format!("INSERT INTO t VALUES {}", rows.join(", "))).await;
    p
}

async fn does(client: &Client, sql: &str) -> Vec<String> {
    answer(client, sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

async fn fails(client: &Client, sql: &str) -> String {
    answer(client, sql).await.expect_err(sql).code().code().to_owned()
}

/// Two keys whose rows are on different nodes.
async fn keys_apart(p: &Proxy) -> [i32; 2] {
    let here = connect(p.nodes.nodes[0].port()).await;
    let there = connect(p.nodes.nodes[1].port()).await;
    [value(&here, "SELECT min(k) FROM t").await, value(&there, "SELECT min(k) FROM t").await]
}

#[tokio::test]
async fn a_cursor_goes_about_in_the_rows_of_all_nodes() {
    let p = tables().await;
    let client = p.client().await;
    for query in [
        "SELECT k FROM t ORDER BY k",
        "SELECT t.k FROM t JOIN places p USING (n) ORDER BY 1",
        "SELECT DISTINCT k FROM t ORDER BY k",
    ] {
        does(&client, "BEGIN").await;
        does(&client, &format!("DECLARE c SCROLL CURSOR FOR {query}")).await;
        assert_eq!(does(&client, "FETCH 2 FROM c").await, ["1", "2"], "{query}");
        assert_eq!(does(&client, "FETCH PRIOR FROM c").await, ["1"]);
        assert_eq!(does(&client, "FETCH ABSOLUTE 20 FROM c").await, ["20"]);
        does(&client, "MOVE FORWARD 18 IN c").await;
        assert_eq!(does(&client, "FETCH ALL FROM c").await, ["39", "40"]);
        assert_eq!(does(&client, "FETCH BACKWARD 2 FROM c").await, ["40", "39"]);
        // Between reads of whichever node.
        assert_eq!(does(&client, "SELECT count(*) FROM t").await, ["40"]);
        assert_eq!(does(&client, "FETCH NEXT FROM c").await, ["40"]);
        does(&client, "CLOSE c").await;
        assert_eq!(fails(&client, "FETCH NEXT FROM c").await, "34000");
        does(&client, "ROLLBACK").await;
    }
    // Outside of a block there is none.
    assert_eq!(fails(&client, "DECLARE c CURSOR FOR SELECT k FROM t").await, "25P01");
    // A text is one transaction.
    let text = "DECLARE c CURSOR FOR SELECT k FROM t ORDER BY k; FETCH 1 FROM c; FETCH 2 FROM c";
    assert_eq!(does(&client, text).await, ["1", "2", "3"]);
    assert_eq!(fails(&client, "FETCH NEXT FROM c").await, "34000");
}

#[tokio::test]
async fn its_rows_are_those_of_the_moment_and_of_the_transaction() {
    let p = tables().await;
    let (client, other) = (p.client().await, p.client().await);
    does(&client, "BEGIN").await;
    does(&client, "INSERT INTO t VALUES (0, 0), (41, 1)").await;
    does(&client, "DECLARE c CURSOR FOR SELECT k FROM t ORDER BY k").await;
    does(&client, "DECLARE d CURSOR FOR SELECT count(*), sum(k) FROM t").await;
    does(&other, "DELETE FROM t WHERE k > 38 AND k < 41").await;
    does(&client, "DELETE FROM t WHERE k < 39").await;
    does(&client, "INSERT INTO t VALUES (50)").await;
    let wanted: Vec<_> = (0..=41).map(|k| k.to_string()).collect();
    assert_eq!(does(&client, "FETCH ALL FROM c").await, wanted);
    assert_eq!(does(&client, "FETCH ALL FROM d").await, ["42|861"]);
    assert_eq!(does(&client, "SELECT k FROM t ORDER BY k").await, ["41", "50"]);
    does(&client, "COMMIT").await;
    assert_eq!(does(&other, "SELECT k FROM t ORDER BY k").await, ["41", "50"]);
}

#[tokio::test]
async fn a_cursor_of_a_repeatable_read_transaction_sees_its_snapshot() {
    let p = tables().await;
    let (client, other) = (p.client().await, p.client().await);
    does(&client, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    assert_eq!(does(&client, "SELECT count(*) FROM t").await, ["40"]);
    does(&other, "DELETE FROM t WHERE k > 10").await;
    for query in ["SELECT k FROM t", "SELECT k FROM t JOIN places USING (n)"] {
        does(&client, &format!("DECLARE c CURSOR FOR {query}")).await;
        assert_eq!(does(&client, "FETCH ALL FROM c").await.len(), 40, "{query}");
        does(&client, "CLOSE c").await;
    }
    does(&client, "COMMIT").await;
    assert_eq!(does(&client, "SELECT count(*) FROM t").await, ["10"]);
}

#[tokio::test]
async fn cursors_on_several_nodes_are_found_each_on_its_own() {
    let p = tables().await;
    let client = p.client().await;
    let [a, b] = keys_apart(&p).await;
    does(&client, "BEGIN").await;
    for (name, key) in [("a", a), ("b", b)] {
        does(&client, &format!("DECLARE {name} CURSOR FOR SELECT k FROM t WHERE k = {key}")).await;
    }
    does(&client, "DECLARE c CURSOR FOR SELECT n FROM places ORDER BY n").await;
    does(&client, "DECLARE d CURSOR FOR SELECT k FROM t ORDER BY k DESC").await;
    assert_eq!(fails_softly(&client, "DECLARE a CURSOR FOR SELECT k FROM t").await, "42P03");
    let other = format!("DECLARE a CURSOR FOR SELECT k FROM t WHERE k = {b}");
    assert_eq!(fails_softly(&client, &other).await, "42P03");
    assert_eq!(does(&client, "FETCH a").await, [a.to_string()]);
    assert_eq!(does(&client, "FETCH c").await, ["0"]);
    assert_eq!(does(&client, "FETCH b").await, [b.to_string()]);
    let text = "FETCH c; FETCH d; MOVE d; FETCH a; FETCH 2 FROM d";
    assert_eq!(does(&client, text).await, ["1", "40", "38", "37"]);
    // What was declared behind a savepoint goes with it; what was closed stays so.
    does(&client, "SAVEPOINT s").await;
    does(&client, &format!("DECLARE e CURSOR FOR SELECT k FROM t WHERE k = {b}")).await;
    does(&client, "CLOSE a").await;
    does(&client, "ROLLBACK TO s").await;
    for name in ["e", "a"] {
        assert_eq!(fails_softly(&client, &format!("FETCH {name}")).await, "34000", "{name}");
    }
    does(&client, &format!("DECLARE e CURSOR FOR SELECT k FROM t WHERE k = {a}")).await;
    assert_eq!(does(&client, "FETCH e").await, [a.to_string()]);
    assert_eq!(does(&client, "FETCH c").await, ["2"]);
    does(&client, "CLOSE ALL").await;
    for name in ["b", "c", "d", "e"] {
        assert_eq!(fails_softly(&client, &format!("FETCH {name}")).await, "34000", "{name}");
    }
    does(&client, "COMMIT").await;
}

/// The SQLSTATE of what fails behind a savepoint of its own.
async fn fails_softly(client: &Client, sql: &str) -> String {
    does(client, "SAVEPOINT soft").await;
    let code = fails(client, sql).await;
    does(client, "ROLLBACK TO soft").await;
    does(client, "RELEASE soft").await;
    code
}

#[tokio::test]
async fn what_is_held_outlives_its_transaction() {
    let p = tables().await;
    let client = p.client().await;
    let [a, b] = keys_apart(&p).await;
    // By itself, as Django and psycopg2 declare it outside of transactions.
    does(&client, "DECLARE h SCROLL CURSOR WITH HOLD FOR SELECT k FROM t ORDER BY k").await;
    does(&client, "DELETE FROM t WHERE k > 10").await;
    assert_eq!(does(&client, "FETCH 2 FROM h").await, ["1", "2"]);
    // Another one, on another node perhaps.
    does(&client, "BEGIN").await;
    does(&client, &format!("DECLARE i CURSOR WITH HOLD FOR SELECT k FROM t WHERE k = {b}")).await;
    assert_eq!(does(&client, "SELECT count(*) FROM t").await, ["10"]);
    assert_eq!(does(&client, "FETCH h").await, ["3"]);
    does(&client, "COMMIT").await;
    for key in [a, b] {
        does(&client, &format!("UPDATE t SET n = 9 WHERE k = {key}")).await;
    }
    assert_eq!(does(&client, "FETCH i").await, [b.to_string()]);
    assert_eq!(does(&client, "FETCH LAST FROM h").await, ["40"]);
    // One that is rolled back is not.
    does(&client, "BEGIN").await;
    does(&client, "DECLARE j CURSOR WITH HOLD FOR SELECT k FROM t").await;
    does(&client, "ROLLBACK").await;
    assert_eq!(fails(&client, "FETCH j").await, "34000");
    for name in ["h", "i"] {
        does(&client, &format!("CLOSE {name}")).await;
        assert_eq!(fails(&client, &format!("FETCH {name}")).await, "34000");
    }
    // Nothing keeps the session any more.
    let console = p.console().await;
    wait_for("the connections to be free", async || {
        let pinned = console.column("SHOW CLIENTS", "pinned_by").await;
        pinned.iter().all(String::is_empty).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_fills_a_cursor_decides_or_is_refused() {
    let p = tables().await;
    let client = p.client().await;
    // Its rows are computed by COMMIT, which fails with them.
    does(&client, "BEGIN").await;
    does(
        &client,
        "DECLARE h CURSOR WITH HOLD FOR SELECT 10 / (k - 7) FROM t JOIN places USING (n)",
    )
    .await;
    assert_eq!(fails(&client, "COMMIT").await, "22012");
    assert_eq!(does(&client, "SELECT 1").await, ["1"]);
    does(&client, "BEGIN").await;
    does(&client, "UPDATE t SET n = 0").await;
    does(&client, "DECLARE h CURSOR WITH HOLD FOR SELECT k FROM t").await;
    assert_eq!(fails(&client, "COMMIT").await, "0A000");
    does(&client, "ROLLBACK").await;
    assert_eq!(does(&client, "SELECT count(*) FROM t WHERE n <> 0").await, ["32"]);
    assert_eq!(fails(&client, "FETCH h").await, "34000");
}

#[tokio::test]
async fn its_rows_are_read_with_the_clients_rights() {
    let p = tables().await;
    let root = p.client().await;
    for sql in [
        "CREATE ROLE reader LOGIN PASSWORD 'r'",
        "GRANT SELECT (k, n, s) ON t TO reader",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY even ON t USING (k % 2 = 0)",
    ] {
        does(&root, sql).await;
    }
    let reader = connect_as(p.port(), DATABASE, "reader", "r").await.unwrap();
    does(&reader, "BEGIN").await;
    for sql in
        ["SELECT secret FROM t", "SELECT secret FROM t ORDER BY k, n", "SELECT max(secret) FROM t"]
    {
        let declare = format!("DECLARE c CURSOR FOR {sql}");
        assert_eq!(fails_softly(&reader, &declare).await, "42501", "{sql}");
    }
    does(&reader, "DECLARE c CURSOR FOR SELECT k FROM t ORDER BY k").await;
    assert_eq!(does(&reader, "FETCH 2 FROM c").await, ["2", "4"]);
    does(&reader, "COMMIT").await;
}

#[tokio::test]
async fn what_a_cursor_over_nodes_cannot_do_is_refused() {
    let p = tables().await;
    let client = p.client().await;
    does(&client, "BEGIN").await;
    does(&client, "DECLARE c CURSOR FOR SELECT k FROM t").await;
    does(&client, "FETCH c").await;
    for sql in [
        "UPDATE t SET n = 1 WHERE CURRENT OF c",
        "DELETE FROM t WHERE CURRENT OF c",
        "DECLARE d CURSOR FOR SELECT k FROM t FOR UPDATE",
        "DECLARE d CURSOR FOR SELECT ctid FROM t",
    ] {
        assert_eq!(fails_softly(&client, sql).await, "0A000", "{sql}");
    }
    does(&client, "COMMIT").await;
}

#[tokio::test]
async fn the_extended_protocol_declares_and_fetches_too() {
    let p = tables().await;
    let mut client = p.client().await;
    let tx = client.transaction().await.unwrap();
    let declare =
        "DECLARE c SCROLL CURSOR FOR SELECT k, s FROM t WHERE k > $1 AND n < $2 ORDER BY k";
    tx.execute(declare, &[&20, &3]).await.unwrap();
    let fetch = tx.prepare("FETCH FORWARD 2 FROM c").await.unwrap();
    assert_eq!(fetch.columns().len(), 2);
    let keys = async || {
        let rows = tx.query(&fetch, &[]).await.unwrap();
        rows.iter().map(|r| r.get::<_, i32>(0)).collect::<Vec<_>>()
    };
    assert_eq!(keys().await, [21, 22]);
    tx.query("SELECT count(*) FROM t WHERE k = $1", &[&3]).await.unwrap();
    assert_eq!(keys().await, [25, 26]);
    tx.execute("MOVE ABSOLUTE 0 IN c", &[]).await.unwrap();
    assert_eq!(keys().await, [21, 22]);
    tx.execute("CLOSE c", &[]).await.unwrap();
    tx.commit().await.unwrap();
}
