//! INSERT of a query's rows.

use super::*;

/// Table `t` with rows 1 to 20, `c` beside it in its group, and a local table.
async fn sources() -> Proxy {
    let p = rows().await;
    let client = p.client().await;
    for sql in [
        "CREATE TABLE c (id int, k int, v text, price numeric(8, 2), at timestamptz, PRIMARY KEY (k, id)) \
         PARTITION BY HASH (k)",
        "CREATE TABLE near (a int, b text)",
        "INSERT INTO near SELECT n, 'b' || n FROM generate_series(101, 140) n",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    p
}

#[tokio::test]
async fn rows_of_one_node_are_dealt_to_all() {
    let p = sources().await;
    let client = p.client().await;
    for (insert, count) in [
        ("INSERT INTO c (id, k, v) SELECT 1, n, 'it''s \\' || n FROM generate_series(1, 30) n", 30),
        (
            "INSERT INTO c (id, k, price) SELECT 2, x, y FROM unnest(ARRAY[1, 2, 3], ARRAY[1.5, 2.345, NULL]) u (x, y)",
            3,
        ),
        ("INSERT INTO c SELECT 3, a, b FROM near", 40),
        (
            "INSERT INTO c AS z (id, k, v) (SELECT 4, a, b FROM near WHERE a > 135) ON CONFLICT DO NOTHING",
            5,
        ),
        (
            "INSERT INTO c (id, k, v) SELECT 4, a, 'again' FROM near ON CONFLICT (k, id) DO UPDATE SET v = excluded.v",
            40,
        ),
        ("INSERT INTO c (id, k, at) SELECT 5, a, now() FROM near", 40),
        ("INSERT INTO c (k, id, v) SELECT k, 6, v FROM t WHERE k = 7", 1),
        (
            "INSERT INTO c (id, k) SELECT 7, (j ->> 'k')::int FROM json_array_elements('[{\"k\": 1}, {\"k\": 2}]') j",
            2,
        ),
        (
            "INSERT INTO c (id, k, v) SELECT p0, p1, p2 FROM (VALUES (8, 1, 'x', 0), (8, 2, 'y', 1)) AS imp (p0, p1, p2, n) ORDER BY n",
            2,
        ),
        ("INSERT INTO c (id, k, v) SELECT 9, 1, '2' UNION ALL SELECT 9, 2, NULL", 2),
        ("INSERT INTO c (id, k, at, v) SELECT 10, 1, '2024-01-01', 5 WHERE true", 1),
        ("INSERT INTO c (id, k) SELECT 11, a FROM near WHERE a < 0", 0),
        ("INSERT INTO c (id, k) TABLE near LIMIT 0", 0),
        ("INSERT INTO c (id, k) WITH w AS (SELECT 12 AS a) SELECT a, a FROM w", 1),
    ] {
        let returning = format!("{insert} RETURNING id, k");
        let told = run(&client, &returning).await;
        assert_eq!(
            told.as_ref().map(|t| (t.0, t.1.len() as u64)),
            Ok((count, count)),
            "{insert}: {told:?}"
        );
        let (_, rows) = told.unwrap();
        if !rows.is_empty() {
            let ids = format!(
                "DELETE FROM c WHERE (id, k) IN (({}))",
                rows.join("), (").replace('|', ", ")
            );
            assert_eq!(does(&client, &ids).await.0, count, "{ids}");
            assert_eq!(does(&client, insert).await.0, count, "{insert}");
        }
    }
    let sum = "SELECT sum(price), count(DISTINCT at) FILTER (WHERE id = 5) FROM c";
    assert_eq!(does(&client, sum).await.1, ["3.85|1"]);
    assert_eq!(does(&client, "SELECT v FROM c WHERE k = 3 AND id = 1").await.1, ["it's \\3"]);
    assert_eq!(left(&p).await, 0);
}

/// As drivers do that insert many rows at once and want their keys in the order of the rows.
#[tokio::test]
async fn what_is_returned_comes_in_the_querys_order() {
    let p = sources().await;
    let mut client = p.client().await;
    let keys: Vec<i32> = (1..=200).rev().collect();
    let texts: Vec<String> = keys.iter().map(|k| format!("v{k}")).collect();
    let sql = "INSERT INTO c (id, k, v) SELECT 1, x, y FROM unnest($1::int[], $2::text[]) \
               WITH ORDINALITY u (x, y, n) ORDER BY n RETURNING k, v, $3::text";
    let statement = client.prepare(sql).await.unwrap();
    let rows = client.query(&statement, &[&keys, &texts, &"z"]).await.unwrap();
    let told: Vec<(i32, String)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    assert_eq!(told, keys.iter().copied().zip(texts.clone()).collect::<Vec<_>>());
    let error = client.query(&statement, &[&keys, &texts, &"z"]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23505");
    let block = client.transaction().await.unwrap();
    block.execute("INSERT INTO c (id, k) SELECT 2, k FROM t WHERE k = $1", &[&3]).await.unwrap();
    let sql = "INSERT INTO c (id, k, v) SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM near WHERE a = $1)";
    assert_eq!(block.execute(sql, &[&3, &4, &"x"]).await.unwrap(), 1);
    assert_eq!(block.execute(sql, &[&101, &4, &"x"]).await.unwrap(), 0);
    block.rollback().await.unwrap();
    assert_eq!(does(&client, "SELECT count(*) FROM c").await.1, ["200"]);
    // More than fits into a short text.
    let many: Vec<i32> = (1001..6000).collect();
    let many_texts: Vec<String> = many.iter().map(|k| format!("many {k}")).collect();
    assert_eq!(client.query(&statement, &[&many, &many_texts, &"z"]).await.unwrap().len(), 4999);
    let sql =
        "INSERT INTO c (id, k, v) SELECT 2, n, repeat('y', 20) FROM generate_series(1, 5000) n";
    assert_eq!(does(&client, sql).await.0, 5000);
    assert_eq!(does(&client, "SELECT count(*) FROM c").await.1, ["10199"]);
    assert_eq!(left(&p).await, 0);
}

/// Rows that are where they are to be inserted stay on their nodes.
#[tokio::test]
async fn rows_of_the_same_key_are_inserted_by_each_node() {
    let p = sources().await;
    let client = p.client().await;
    for (insert, count) in [
        ("INSERT INTO c (id, k, v) SELECT g, k, v FROM t", 20),
        ("INSERT INTO c (k, id, v) SELECT k, 100 + count(*), max(v) FROM c GROUP BY k", 20),
        ("INSERT INTO c (k, id) SELECT t.k, 200 FROM t JOIN c ON c.k = t.k AND c.id < 2", 10),
        (
            "INSERT INTO c SELECT id, k, 'w' FROM c ON CONFLICT (k, id) DO UPDATE SET v = excluded.v",
            50,
        ),
    ] {
        assert_eq!(does(&client, insert).await, (count, vec![]), "{insert}");
    }
    let all = "SELECT count(*) FROM c JOIN t ON t.k = c.k WHERE c.v = 'w'";
    assert_eq!(does(&client, all).await.1, ["50"]);
    let returns = "INSERT INTO c (k, id) SELECT k, 300 FROM t WHERE g = 1 RETURNING k";
    assert_eq!(does(&client, returns).await.1, ["1", "13", "17", "5", "9"]);
    for sql in [
        "INSERT INTO c (k, id) SELECT g, k FROM t",
        "INSERT INTO c (k, id) SELECT k + 1, 400 FROM t",
        "INSERT INTO c (k, id) SELECT k, 400 FROM t LIMIT 3",
        "INSERT INTO c (k, id) SELECT max(k), 400 FROM t",
        "INSERT INTO near SELECT k FROM t",
        "WITH w AS (SELECT 1) INSERT INTO c (k, id) SELECT k, 400 FROM t",
    ] {
        assert_eq!(run(&client, sql).await, Err("0A000".into()), "{sql}");
    }
    let fails = "INSERT INTO c (k, id) SELECT k, 100000 / (k - 7) FROM t";
    assert_eq!(run(&client, fails).await, Err("22012".into()));
    assert_eq!(does(&client, "SELECT count(*) FROM c").await.1, ["55"]);
    wait_for("all to be rolled back", async || (left(&p).await == 0).then_some(())).await;
}

/// What would not be in its column what it was in the query is refused.
#[tokio::test]
async fn what_cannot_be_carried_exactly_is_refused() {
    let p = sources().await;
    let client = p.client().await;
    let dates = "INSERT INTO c (id, k, at) SELECT 1, n, now() FROM generate_series(1, 5) n";
    does(&client, "SET DateStyle = 'SQL, DMY'").await;
    assert_eq!(run(&client, dates).await, Err("0A000".into()));
    does(&client, "SET DateStyle = 'ISO, DMY'").await;
    assert_eq!(does(&client, dates).await.0, 5);
    let floats =
        "INSERT INTO c (id, k, price) SELECT 2, n, n::float8 / 3 FROM generate_series(1, 5) n";
    does(&client, "SET extra_float_digits = 0").await;
    assert_eq!(run(&client, floats).await, Err("0A000".into()));
    does(&client, "RESET extra_float_digits").await;
    assert_eq!(does(&client, floats).await.0, 5);
    let large =
        "INSERT INTO c (id, k, v) SELECT 3, n, repeat('x', 1000000) FROM generate_series(1, 40) n";
    assert_eq!(run(&client, large).await, Err("54000".into()));
    let error = "INSERT INTO c (id, k) SELECT 4, 1 / (n - 3) FROM generate_series(1, 5) n";
    assert_eq!(run(&client, error).await, Err("22012".into()));
    let type_error = "INSERT INTO c (id, k, v) SELECT 5, 'x'::text, 'y'";
    assert!(run(&client, type_error).await.is_err());
    assert_eq!(does(&client, "SELECT count(*) FROM c").await.1, ["10"]);
}
