//! The transaction's time in statements over several nodes: one time for all of them.

use super::*;

/// Rows 1 to 20 on two nodes, with the columns of times that applications have.
async fn stamped() -> Proxy {
    let p = Proxy::start(2, 2).await;
    let client = p.client().await;
    client
        .batch_execute(
            "CREATE TABLE s (k int PRIMARY KEY, at timestamptz, day date, local timestamp, who text, \
             made timestamptz DEFAULT now(), until date DEFAULT (CURRENT_DATE + 7)) PARTITION BY HASH (k)",
        )
        .await
        .unwrap();
    let rows = (1..=20).map(|k| format!("({k})")).collect::<Vec<_>>().join(", ");
    client.batch_execute(&format!("INSERT INTO s (k) VALUES {rows}")).await.unwrap();
    p
}

/// The only value of an expression over all rows, on the nodes themselves.
async fn only(p: &Proxy, what: &str) -> String {
    let mut all = Vec::new();
    for node in &p.nodes.nodes {
        let client = connect(node.port()).await;
        all.extend(texts(&client, &format!("SELECT DISTINCT ({what})::text FROM s")).await);
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 1, "{what}: {all:?}");
    all.remove(0)
}

#[tokio::test]
async fn all_rows_get_one_time() {
    let p = stamped().await;
    let client = p.client().await;
    for (sql, what) in [
        ("UPDATE s SET at = now(), day = CURRENT_DATE", "ROW(at, day)"),
        ("UPDATE s SET at = CURRENT_TIMESTAMP(3) - interval '1 day'", "at"),
        (
            "UPDATE s SET at = pg_catalog.transaction_timestamp(), local = LOCALTIMESTAMP",
            "ROW(at, local)",
        ),
        ("UPDATE s SET at = statement_timestamp()", "at"),
        ("UPDATE s SET local = now() AT TIME ZONE 'utc', who = CURRENT_USER", "ROW(local, who)"),
        ("UPDATE s SET who = to_char(now(), 'YYYY-MM-DD HH24:MI:SS.US')", "who"),
    ] {
        assert_eq!(does(&client, sql).await.0, 20, "{sql}");
        only(&p, what).await;
        // By the other protocol.
        assert_eq!(client.execute(sql, &[]).await.unwrap(), 20, "{sql}");
        only(&p, what).await;
    }
    let (_, rows) = does(&client, "UPDATE s SET at = now() RETURNING now() = at, now()").await;
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|r| *r == rows[0] && r.starts_with("t|")), "{rows:?}");
    let rows = (101..=130).map(|k| format!("({k}, now(), CURRENT_DATE)")).collect::<Vec<_>>();
    let insert = format!("INSERT INTO s (k, at, day) VALUES {}", rows.join(", "));
    assert_eq!(does(&client, "DELETE FROM s WHERE at <= now()").await.0, 20);
    assert_eq!(does(&client, &insert).await.0, 30);
    only(&p, "ROW(at, day)").await;
    let upsert = format!("{insert} ON CONFLICT (k) DO UPDATE SET at = now(), who = excluded.at");
    assert_eq!(does(&client, &upsert).await.0, 30);
    only(&p, "ROW(at, day)").await;
    let recent = "SELECT count(*) FROM s WHERE at > now() - interval '1 day'";
    assert_eq!(does(&client, recent).await.1, ["30"]);
    assert_eq!(left(&p).await, 0);
}

/// A time that DateStyle or the session's zone would write otherwise is the same time.
#[tokio::test]
async fn the_sessions_zone_and_date_style_count() {
    let p = stamped().await;
    let client = p.client().await;
    client.batch_execute("SET TIME ZONE 'Asia/Kolkata'; SET DateStyle = 'SQL, DMY'").await.unwrap();
    let set =
        "UPDATE s SET at = now(), local = LOCALTIMESTAMP, day = CURRENT_DATE, who = now()::text";
    assert_eq!(does(&client, set).await.0, 20);
    only(&p, "ROW(at, local, day, who)").await;
    let alike = "SELECT DISTINCT local = at AT TIME ZONE 'Asia/Kolkata' AND day = local::date AND \
                 who = at::text AND at > now() - interval '1 hour' FROM s";
    assert_eq!(does(&client, alike).await.1, ["t"]);
}

#[tokio::test]
async fn reads_of_several_nodes_tell_one_time() {
    let p = stamped().await;
    let client = p.client().await;
    for sql in [
        "SELECT now() FROM s",
        "SELECT CURRENT_TIMESTAMP FROM s ORDER BY k LIMIT 15",
        "SELECT LOCALTIMESTAMP, CURRENT_USER, current_database() FROM s",
        "SELECT now() AS t, count(*) FROM s GROUP BY now()",
        "SELECT max(made - now()) - min(made - now()), now() FROM s",
    ] {
        let (_, rows) = does(&client, sql).await;
        assert!(!rows.is_empty() && rows.iter().all(|r| *r == rows[0]), "{sql}: {rows:?}");
    }
    // The columns are called as PostgreSQL calls them.
    let sql = "SELECT now(), CURRENT_DATE, now()::date, k, CASE WHEN k > 1 THEN NULL ELSE LOCALTIME END FROM s";
    let statement = client.prepare(sql).await.unwrap();
    let names = |columns: &[tokio_postgres::Column]| {
        columns.iter().map(|c| c.name().to_owned()).collect::<Vec<_>>()
    };
    let wanted = ["now", "current_date", "now", "k", "localtime"];
    assert_eq!(names(statement.columns()), wanted);
    assert_eq!(client.query(&statement, &[]).await.unwrap().len(), 20);
    let told = client.simple_query(sql).await.unwrap().into_iter().find_map(|m| match m {
        SimpleQueryMessage::Row(row) => {
            Some(row.columns().iter().map(|c| c.name().to_owned()).collect::<Vec<_>>())
        }
        _ => None,
    });
    assert_eq!(told.unwrap(), wanted);
    assert_eq!(run(&client, "SELECT a FROM s, now() a").await, Err("0A000".into()));
    let strange = "SELECT k current_date, now() FROM s";
    assert_eq!(run(&client, strange).await, Err("0A000".into()), "it is not found in the text");
}

#[tokio::test]
async fn in_a_block_every_node_tells_the_time_of_the_first() {
    let p = stamped().await;
    let mut client = p.client().await;
    let one = |k: i32| format!("UPDATE s SET at = now(), local = LOCALTIMESTAMP WHERE k = {k}");
    let ask = "SELECT now()::text";
    for begin in ["SELECT 1", ask, "SELECT k FROM s WHERE k = 3", "SELECT count(*) FROM s"] {
        does(&client, "BEGIN").await;
        does(&client, begin).await;
        for k in 1..=10 {
            does(&client, &one(k)).await;
        }
        does(&client, "SAVEPOINT a").await;
        assert_eq!(run(&client, "UPDATE s SET at = now(), k = 1 / 0").await, Err("0A000".into()));
        does(&client, "ROLLBACK TO a").await;
        let told = does(&client, ask).await.1;
        does(&client, "UPDATE s SET at = now(), local = LOCALTIMESTAMP WHERE k > 10").await;
        assert_eq!(does(&client, ask).await.1, told);
        for k in 1..=4 {
            let sql = format!("SELECT now()::text FROM s WHERE k = {k}");
            assert_eq!(does(&client, &sql).await.1, told, "{begin}");
        }
        does(&client, "COMMIT").await;
        assert_eq!(only(&p, "at").await, told[0], "{begin}");
        only(&p, "local").await;
    }
    // The same by named statements, which each node has prepared as they are.
    let by_key =
        client.prepare("UPDATE s SET at = now() WHERE k = $1 RETURNING now()::text").await.unwrap();
    let all = client.prepare("SELECT now()::text FROM s WHERE at = now()").await.unwrap();
    for round in 0..3 {
        let block = client.transaction().await.unwrap();
        let mut told = Vec::new();
        for k in 1..=20 {
            let row = block.query_one(&by_key, &[&k]).await.unwrap();
            told.push(row.get::<_, String>(0));
        }
        let rows = block.query(&all, &[]).await.unwrap();
        assert_eq!(rows.len(), 20, "{round}");
        told.extend(rows.iter().map(|r| r.get::<_, String>(0)));
        told.dedup();
        assert_eq!(told.len(), 1, "{round}: {told:?}");
        block.commit().await.unwrap();
        assert_eq!(only(&p, "at").await, told[0]);
    }
    // Another transaction has another time.
    does(&client, "BEGIN").await;
    does(&client, &one(1)).await;
    does(&client, &one(2)).await;
    let first = does(&client, ask).await.1;
    does(&client, "ROLLBACK AND CHAIN").await;
    for k in 1..=20 {
        does(&client, &one(k)).await;
    }
    let second = does(&client, ask).await.1;
    does(&client, "COMMIT").await;
    assert_ne!(first, second);
    assert_eq!(only(&p, "at").await, second[0]);
    assert_eq!(left(&p).await, 0);
}

/// Every row of an INSERT gets the same default, and every INSERT of a block.
#[tokio::test]
async fn defaults_that_tell_the_time_tell_one() {
    let p = stamped().await;
    let client = p.client().await;
    let values = |row: &str| {
        (1..=20).map(|k| row.replace('K', &k.to_string())).collect::<Vec<_>>().join(", ")
    };
    for (insert, row) in [
        ("INSERT INTO s (k) VALUES", "(K)"),
        ("INSERT INTO s (k, made, at) VALUES", "(K, DEFAULT, now())"),
        ("INSERT INTO public.s AS x (until, k) VALUES", "(DEFAULT, K)"),
        ("INSERT INTO s VALUES", "(K, NULL, NULL)"),
        ("INSERT INTO s VALUES", "(K, DEFAULT, NULL, NULL, ',)(', DEFAULT)"),
    ] {
        does(&client, "DELETE FROM s").await;
        let all = format!("{insert} {} RETURNING made, until", values(row));
        let (_, rows) = does(&client, &all).await;
        assert!(rows.len() == 20 && rows.iter().all(|r| *r == rows[0]), "{all}: {rows:?}");
        only(&p, "ROW(made, until)").await;
        assert_eq!(only(&p, "until - made::date").await, "7", "{all}");
        does(&client, "BEGIN").await;
        does(&client, "DELETE FROM s").await;
        for k in 1..=20 {
            does(&client, &format!("{insert} {}", row.replace('K', &k.to_string()))).await;
        }
        let told = does(&client, "SELECT now()").await.1;
        assert_eq!(does(&client, "SELECT DISTINCT made FROM s").await.1, told, "{insert} {row}");
        does(&client, "COMMIT").await;
        only(&p, "ROW(made, until)").await;
    }
    let sql = "INSERT INTO s (k, who) VALUES ($1, $2), ($3, $4), ($5, $6), ($7, $8), ($9, $10)";
    does(&client, "DELETE FROM s").await;
    let rows =
        client.execute(sql, &[&1, &"a", &2, &"b", &3, &"c", &4, &"d", &5, &"e"]).await.unwrap();
    assert_eq!(rows, 5);
    only(&p, "made").await;
}
