//! INSERT of rows that lie on several nodes.

use tokio_postgres::types::ToSql;

use super::*;

/// Numbers 101 to 100 + n, which lie on both nodes.
fn values(n: i32) -> String {
    let row = |k: i32| format!("({}, {}, 'n{k}')", 100 + k, k % 3);
    (1..=n).map(row).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn rows_of_one_insert_go_to_their_nodes() {
    let p = rows().await;
    let client = p.client().await;
    let insert = format!("INSERT INTO t VALUES {}", values(30));
    assert_eq!(does(&client, &insert).await, (30, vec![]));
    assert_eq!((total(&client, "count(*)").await, total(&client, "sum(g)").await), (50, 60));
    let mut on_nodes = Vec::new();
    for node in &p.nodes.nodes {
        let sql = "SELECT count(*) FROM t WHERE k > 100";
        on_nodes.push(value::<i64>(&connect(node.port()).await, sql).await);
    }
    assert!(on_nodes.iter().all(|n| *n > 0) && on_nodes.iter().sum::<i64>() == 30, "{on_nodes:?}");
    // One that is there already: none is inserted.
    let taken =
        "INSERT INTO t (v, k) VALUES ('a', 201), ('b', 202), ('c', 203), ('d', 130), ('e', 204)";
    assert_eq!(run(&client, taken).await, Err("23505".into()));
    assert_eq!(total(&client, "count(*)").await, 50);
    let skips = format!("{taken} ON CONFLICT DO NOTHING RETURNING k");
    assert_eq!(does(&client, &skips).await.1, ["201", "202", "203", "204"]);
    let upsert = "INSERT INTO t (k, v) VALUES (201, 'x'), (202, 'y'), (205, 'z') \
                  ON CONFLICT (k) DO UPDATE SET k = excluded.k, v = excluded.v || t.v";
    assert_eq!(does(&client, upsert).await.0, 3);
    let sql = "SELECT v FROM t WHERE k IN (201, 202, 205)";
    assert_eq!(does(&client, sql).await.1, ["xa", "yb", "z"]);
    let random =
        "INSERT INTO t (k, v) VALUES (301, random()), (302, random()), (303, gen_random_uuid())";
    assert_eq!(does(&client, random).await.0, 3);
    let moments = (401..420).map(|k| format!("({k}, now())")).collect::<Vec<_>>().join(", ");
    let moments = format!("INSERT INTO t (k, v) VALUES {moments}");
    assert_eq!(does(&client, &moments).await.0, 19);
    let times = "SELECT count(DISTINCT v) FROM t WHERE k BETWEEN 401 AND 419";
    assert_eq!(does(&client, times).await.1, ["1"], "one time for all");
    // PostgreSQL takes these of one row only.
    let sets = moments.replace("now()", "generate_series(1, 2)");
    assert_eq!(run(&client, &sets).await, Err("0A000".into()));
    let uneven = moments.replace("(402, now())", "(402)").replace("now()", "'x'");
    assert_eq!(run(&client, &uneven).await, Err("0A000".into()));
    assert_eq!(left(&p).await, 0);
}

/// Drivers take the n-th row for that of the n-th row they have sent.
#[tokio::test]
async fn what_is_returned_comes_in_the_order_of_the_rows() {
    let p = rows().await;
    let client = p.client().await;
    let insert = format!("INSERT INTO t VALUES {} RETURNING k", values(200));
    let messages = client.simple_query(&insert).await.unwrap();
    let told: Vec<i32> = messages
        .iter()
        .filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        })
        .collect();
    assert_eq!(told, (101..=300).collect::<Vec<_>>());
    // By the other protocol, with a parameter for each value.
    let keys: Vec<i32> = (500..600).collect();
    let texts: Vec<String> = keys.iter().map(|k| format!("p{k}")).collect();
    let mut params: Vec<&(dyn ToSql + Sync)> = Vec::new();
    let mut row = Vec::new();
    for (k, text) in keys.iter().zip(&texts) {
        row.push(format!("(${}, 1, ${})", params.len() + 1, params.len() + 2));
        params.extend([k as &(dyn ToSql + Sync), text]);
    }
    let sql = format!("INSERT INTO t (k, g, v) VALUES {} RETURNING k, v", row.join(", "));
    let statement = client.prepare(&sql).await.unwrap();
    let told = client.query(&statement, &params).await.unwrap();
    let told: Vec<(i32, String)> = told.iter().map(|r| (r.get(0), r.get(1))).collect();
    assert_eq!(told, keys.iter().copied().zip(texts.clone()).collect::<Vec<_>>());
    let error = client.query(&statement, &params).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23505");
    assert_eq!((total(&client, "count(*)").await, left(&p).await), (320, 0));
}

#[tokio::test]
async fn in_a_block_they_count_with_it() {
    let p = rows().await;
    let client = p.client().await;
    does(&client, "BEGIN").await;
    does(&client, &format!("INSERT INTO t VALUES {}", values(10))).await;
    does(&client, "SAVEPOINT a").await;
    let taken = "INSERT INTO t (k) VALUES (201), (202), (203), (101), (110)";
    assert_eq!(run(&client, taken).await, Err("23505".into()));
    does(&client, "ROLLBACK TO a").await;
    assert_eq!(total(&client, "count(*)").await, 30);
    does(&client, "ROLLBACK").await;
    assert_eq!((total(&client, "count(*)").await, left(&p).await), (20, 0));
}
