//! Statements that write on several nodes: as one PostgreSQL would carry them out, whole or not at all.

mod inserts;
mod keys;
mod selects;
mod times;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::support::*;

/// Rows 1 to 20 of table `t` (k, g, v, at) over two nodes; v is unique with k.
async fn rows() -> Proxy {
    let p = Proxy::start(2, 2).await;
    let client = p.client().await;
    client
        .batch_execute(
            "CREATE TABLE t (k int PRIMARY KEY, g int, v text, CHECK (g < 1000)) PARTITION BY HASH (k)",
        )
        .await
        .unwrap();
    for k in 1..=20 {
        let insert = format!("INSERT INTO t VALUES ({k}, {}, 'v{k}')", k % 4);
        client.batch_execute(&insert).await.unwrap();
    }
    p
}

/// The tag's count, and the rows as text.
async fn run(client: &Client, sql: &str) -> Result<(u64, Vec<String>), String> {
    let messages = client
        .simple_query(sql)
        .await
        .map_err(|e| e.code().map_or_else(|| e.to_string(), |c| c.code().to_owned()))?;
    let (mut count, mut rows) = (0, Vec::new());
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                let columns = (0..row.len()).map(|n| row.get(n).unwrap_or("NULL"));
                rows.push(columns.collect::<Vec<_>>().join("|"));
            }
            SimpleQueryMessage::CommandComplete(n) => count = n,
            _ => {}
        }
    }
    rows.sort();
    Ok((count, rows))
}

async fn does(client: &Client, sql: &str) -> (u64, Vec<String>) {
    run(client, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

async fn total(client: &Client, what: &str) -> i64 {
    does(client, &format!("SELECT {what} FROM t")).await.1[0].parse().unwrap()
}

/// How many transactions stand prepared on the nodes, or are open there; not those in which pgshunt reads its
/// catalog every two seconds.
async fn left(p: &Proxy) -> i64 {
    let mut left = 0;
    for node in &p.nodes.nodes {
        let client = connect(node.port()).await;
        left += value::<i64>(
            &client,
            "SELECT (SELECT count(*) FROM pg_prepared_xacts) + (SELECT count(*) FROM pg_stat_activity \
             WHERE state LIKE 'idle in transaction%' AND application_name <> 'pgshunt control')",
        )
        .await;
    }
    left
}

#[tokio::test]
async fn update_and_delete_reach_the_rows_of_all_nodes() {
    let p = rows().await;
    let client = p.client().await;
    assert_eq!(does(&client, "UPDATE t SET g = g + 10").await, (20, vec![]));
    assert_eq!(total(&client, "sum(g)").await, 30 + 200);
    for (sql, count) in [
        ("UPDATE t SET v = 'x' WHERE k IN (1, 2, 3)", 3),
        ("UPDATE t SET v = 'y' WHERE k = ANY ('{4,5}')", 2),
        ("UPDATE t SET v = 'z' WHERE k = 6 OR k = 7", 2),
        ("UPDATE t SET v = 'r' WHERE (k, g) = (8, 10)", 1),
        ("UPDATE t SET v = 'b' WHERE k BETWEEN 9 AND 12", 4),
        ("UPDATE t SET v = 'o' WHERE v LIKE 'v1%'", 7),
        ("UPDATE t SET v = 'k', k = k WHERE g = 12", 5),
        ("UPDATE t SET v = d.v FROM (VALUES (1, 'd1'), (2, 'd2')) d (k, v) WHERE t.k = d.k", 2),
        ("UPDATE t SET v = u.v FROM t u WHERE u.k = t.k AND u.g > 11", 10),
        ("UPDATE t SET v = (SELECT u.v FROM t u WHERE u.k = t.k)", 20),
        ("UPDATE t SET v = 'w' WHERE EXISTS (SELECT FROM t u WHERE u.k = t.k AND u.g = 12)", 5),
        ("UPDATE t SET v = 'w' WHERE k IN (SELECT k FROM t WHERE g = 12)", 5),
        ("UPDATE t SET v = 'n' WHERE false", 0),
        ("DELETE FROM t WHERE g = 13", 5),
        ("WITH w AS (SELECT 11 AS g) DELETE FROM t USING w WHERE t.g = w.g", 5),
    ] {
        assert_eq!(does(&client, sql).await.0, count, "{sql}");
    }
    let (count, rows) = does(&client, "UPDATE t SET v = 'w' WHERE g = 12 RETURNING k").await;
    assert_eq!((count, rows), (5, ["10", "14", "18", "2", "6"].map(str::to_owned).to_vec()));
    assert_eq!(does(&client, "DELETE FROM t").await.0, 10);
    assert_eq!(left(&p).await, 0);
}

#[tokio::test]
async fn what_fails_on_one_node_has_changed_nothing() {
    let p = rows().await;
    let client = p.client().await;
    for k in 1..=20 {
        let fails = format!("UPDATE t SET g = CASE WHEN k = {k} THEN 1000 ELSE 500 END");
        assert_eq!(run(&client, &fails).await, Err("23514".into()), "{k}");
    }
    assert_eq!(total(&client, "sum(g)").await, 30);
    // By the other protocol.
    let error = client.execute("UPDATE t SET g = 100 / ($1 - k)", &[&7]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "22012");
    assert_eq!(total(&client, "sum(g)").await, 30);
    wait_for("all to be rolled back", async || (left(&p).await == 0).then_some(())).await;
    // Nothing is locked.
    assert_eq!(client.execute("UPDATE t SET g = 7 WHERE k <> $1", &[&7]).await.unwrap(), 19);
    let rows = client.query("DELETE FROM t WHERE g = $1 RETURNING k, v", &[&7]).await.unwrap();
    assert_eq!(rows.len(), 19);
    assert_eq!(total(&client, "count(*)").await, 1);
    assert_eq!(left(&p).await, 0);
}

#[tokio::test]
async fn in_a_block_of_the_clients_its_commit_counts() {
    let p = rows().await;
    let (client, other) = (p.client().await, p.client().await);
    does(&client, "BEGIN").await;
    does(&client, "UPDATE t SET g = 1 WHERE k = 1").await;
    assert_eq!(does(&client, "UPDATE t SET g = 100").await.0, 20);
    assert_eq!(total(&client, "sum(g)").await, 2000);
    assert_eq!(total(&other, "sum(g)").await, 30);
    does(&client, "SAVEPOINT s").await;
    assert_eq!(run(&client, "UPDATE t SET g = g * k").await, Err("23514".into()));
    does(&client, "ROLLBACK TO s").await;
    does(&client, "DELETE FROM t WHERE k > 10").await;
    does(&client, "COMMIT").await;
    assert_eq!((total(&other, "sum(g)").await, left(&p).await), (1000, 0));
    does(&client, "BEGIN").await;
    does(&client, "DELETE FROM t").await;
    does(&client, "ROLLBACK").await;
    assert_eq!((total(&other, "sum(g)").await, left(&p).await), (1000, 0));
}

#[tokio::test]
async fn what_the_nodes_would_not_agree_on_is_refused() {
    let p = rows().await;
    let client = p.client().await;
    client.batch_execute("CREATE TABLE near (a int); INSERT INTO near VALUES (1)").await.unwrap();
    for sql in [
        "UPDATE t SET k = k + 1",
        "UPDATE t SET k = 1 WHERE g = 1",
        "UPDATE t SET v = (SELECT random()::text)",
        "UPDATE t SET g = a FROM near",
        "UPDATE t SET g = (SELECT count(*) FROM near)",
        "UPDATE t SET g = (SELECT max(g) FROM t u)",
        "DELETE FROM t WHERE k IN (SELECT k FROM t ORDER BY g LIMIT 3)",
        "SELECT k FROM t FOR UPDATE LIMIT 1",
        "DELETE FROM t USING t u WHERE u.g = t.k",
        "DELETE FROM t WHERE ctid = '(0,1)'",
        "UPDATE t SET g = nextval('s')",
        "UPDATE near SET a = 2 FROM t WHERE t.g = 2",
        "WITH w AS (DELETE FROM t RETURNING k) SELECT * FROM w",
    ] {
        assert_eq!(run(&client, sql).await, Err("0A000".into()), "{sql}");
    }
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let set = format!("SET default_transaction_isolation = '{level}'");
        does(&client, &set).await;
        assert_eq!(run(&client, "UPDATE t SET g = 2").await, Err("0A000".into()), "{level}");
    }
    assert_eq!(total(&p.client().await, "sum(g)").await, 30);
    // A row limit would end the portal amid its rows.
    let mut other = p.client().await;
    let block = other.transaction().await.unwrap();
    let portal = block.bind("UPDATE t SET g = 2 RETURNING k", &[]).await.unwrap();
    let error = block.query_portal(&portal, 2).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "0A000");
}

#[tokio::test]
async fn a_lock_of_rows_on_all_nodes_holds_to_the_end() {
    let p = rows().await;
    let (client, other) = (p.client().await, p.client().await);
    does(&client, "BEGIN").await;
    let locks = "SELECT k FROM t WHERE g = 1 FOR UPDATE";
    assert_eq!(does(&client, locks).await.0, 5);
    assert_eq!(does(&client, "SELECT k FROM t WHERE g = 1 ORDER BY k FOR UPDATE").await.0, 5);
    let skips = "SELECT k FROM t WHERE g IN (1, 2) FOR UPDATE SKIP LOCKED";
    assert_eq!(does(&other, skips).await.0, 5);
    let nowait = "SELECT k FROM t FOR UPDATE NOWAIT";
    assert_eq!(run(&other, nowait).await, Err("55P03".into()));
    does(&client, "COMMIT").await;
    assert_eq!(does(&other, nowait).await.0, 20);
}

/// The connections that a session keeps take part as others do.
#[tokio::test]
async fn a_session_that_is_bound_to_a_node_writes_on_all() {
    let p = rows().await;
    let client = p.client().await;
    does(&client, "SELECT pg_advisory_lock(7)").await;
    assert_eq!(does(&client, "UPDATE t SET g = 5").await.0, 20);
    let fails = "UPDATE t SET g = 100 / (k - 20)";
    assert_eq!(run(&client, fails).await, Err("22012".into()));
    assert_eq!(total(&client, "sum(g)").await, 100);
    does(&client, "BEGIN").await;
    does(&client, "UPDATE t SET g = 6").await;
    does(&client, "COMMIT").await;
    assert_eq!(total(&client, "sum(g)").await, 120);
    assert_eq!(does(&client, "SELECT pg_advisory_unlock(7)").await.1, ["t"]);
}

/// Every row is changed by each statement, while shards move and connections are killed.
#[tokio::test]
async fn writes_go_on_while_shards_move() {
    let p = rows().await;
    let console = p.console().await;
    let port = p.port();
    let writer = tokio::spawn(async move {
        let (mut client, mut done, mut unsure) = (connect(port).await, 0, 0);
        for _ in 0..60 {
            match client.batch_execute("UPDATE t SET g = g + 1").await {
                Ok(()) => done += 1,
                Err(e) if e.as_db_error().is_some_and(|e| e.code().code() != "08006") => {}
                // Whether it was committed is not known.
                Err(_) => {
                    unsure += 1;
                    client = connect(port).await;
                }
            }
        }
        (done, unsure)
    });
    let node = connect(p.nodes.nodes[1].port()).await;
    for round in 0..5 {
        let sql = format!("MOVE SHARD 1 TO {}", ["node2", "node1"][round % 2]);
        // It may be refused while the one before it soaks.
        let _ = console.client.simple_query(&sql).await;
        node.batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'UPDATE t SET%' LIMIT 1",
        )
        .await
        .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    let (done, unsure) = writer.await.unwrap();
    wait_for("what was left to end", async || (left(&p).await == 0).then_some(())).await;
    let client = p.client().await;
    let (least, most) =
        (total(&client, "min(g - k % 4)").await, total(&client, "max(g - k % 4)").await);
    assert_eq!(least, most, "all rows or none");
    assert!(
        (done..=done + unsure).contains(&least),
        "{done} done, {unsure} unsure, {least} counted"
    );
    assert!(done > 20, "{done} done");
}
