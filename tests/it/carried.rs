//! Values of all types go from node to node as they are: arrays, enums, rows, domains, whatever numbers their
//! types have on each node; and nothing of those types' owners runs with other rights than the client's.

use tokio_postgres::Client;

use crate::support::*;

async fn does(client: &Client, sql: &str) -> Vec<String> {
    answer(client, sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

/// A table `ty` over two nodes; the types that are made have other numbers on each node.
async fn own_types() -> Proxy {
    let p = Proxy::start_with(2, 2, |_| {}).await;
    p.console().await.does("SET shard_count = 4").await;
    let other = connect(p.nodes.nodes[1].port()).await;
    // So many numbers are taken there.
    for n in 0..7 {
        does(&other, &format!("CREATE TYPE taken{n} AS ENUM ('x')")).await;
    }
    let client = p.client().await;
    does(&client, "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')").await;
    for node in &p.nodes.nodes {
        let node = connect(node.port()).await;
        for sql in [
            "CREATE TYPE pair AS (a int, m mood, t text[])",
            "CREATE DOMAIN small AS int CHECK (VALUE < 100)",
        ] {
            does(&node, sql).await;
        }
    }
    does(
        &client,
        "CREATE TABLE ty (k int, n int, a int[], t varchar(5)[], m mood, ms mood[], p pair, d small, s text) \
         PARTITION BY HASH (k)",
    )
    .await;
    for k in 1..=12 {
        let mood = ["sad", "ok", "happy"][k % 3];
        let arrays = match k % 4 {
            0 => "NULL, NULL, NULL, NULL, NULL".to_owned(),
            1 => format!(
                "'[0:1]={{{k},NULL}}', '{{a,\"b,\"}}', '{mood}', '{{{mood},sad}}', '({k},{mood},\"{{x}}\")'"
            ),
            2 => format!("'{{{{1,2}},{{3,{k}}}}}', '{{}}', '{mood}', '{{}}', '(,,)'"),
            _ => format!("'{{{k}}}', '{{NULL}}', '{mood}', '{{NULL}}', '({k},ok,)'"),
        };
        let sql =
            format!("INSERT INTO ty VALUES ({k}, {}, {arrays}, {}, 's{}')", k % 5, k * 3, k % 3);
        does(&client, &sql).await;
    }
    p
}

const OF_TYPES: [&str; 16] = [
    "SELECT a, t, m, ms, p, d FROM ty",
    "SELECT ty.a, ty.t, ty.m, ty.ms, ty.p, ty.d FROM ty WHERE n IN (SELECT n FROM ty z WHERE z.k < 9)",
    "SELECT * FROM ty ORDER BY s, k",
    "SELECT * FROM ty ORDER BY a, m, p, ms, k LIMIT 5",
    "SELECT m, count(*), min(m), max(m) FROM ty GROUP BY m",
    "SELECT a, count(*) FROM ty GROUP BY a ORDER BY a",
    "SELECT DISTINCT ms, t FROM ty",
    "SELECT DISTINCT p FROM ty",
    "SELECT array_agg(m ORDER BY m, k), array_agg(DISTINCT d::int ORDER BY d::int) FROM ty",
    "SELECT (x.p).m, x.t[1], x.a[0:1], unnest(x.ms) FROM ty x JOIN ty y ON x.n = y.n",
    "SELECT x.m, y.m FROM ty x JOIN ty y ON x.m < y.m AND x.a = y.a",
    "SELECT m FROM ty WHERE m > 'sad' AND n IN (SELECT n FROM i) ORDER BY m DESC, k",
    "SELECT array_length(a, 1), array_ndims(a), t::text FROM ty ORDER BY s, k",
    "SELECT a FROM ty WHERE k > 100 AND n IN (SELECT n FROM i)",
    "SELECT m, lag(a) OVER (ORDER BY n, k) FROM ty",
    "SELECT d, sum(d) OVER (PARTITION BY m) FROM ty",
];

#[tokio::test]
async fn arrays_rows_and_types_that_are_made_are_carried_as_they_are() {
    let p = own_types().await;
    let client = p.client().await;
    // One server with the same rows.
    does(
        &client,
        "CREATE TABLE plain (k int, n int, a int[], t varchar(5)[], m mood, ms mood[], p pair, d small, s text)",
    )
    .await;
    let rows = does(&client, "SELECT * FROM ty").await;
    assert_eq!(rows.len(), 12);
    let copy = "SELECT k, n, a::text, t::text, m::text, ms::text, p::text, d, s FROM ty";
    for row in client.query(copy, &[]).await.unwrap() {
        let text = |at: usize| row.get::<_, Option<String>>(at);
        let (k, n, d): (i32, i32, Option<i32>) = (row.get(0), row.get(1), row.get(7));
        let sql = "INSERT INTO plain VALUES ($1, $2, $3::text::int[], $4::text::varchar(5)[], $5::text::mood, \
                   $6::text::mood[], $7::text::pair, $8::int, $9)";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 9] =
            [&k, &n, &text(2), &text(3), &text(4), &text(5), &text(6), &d, &text(8)];
        client.execute(sql, &values).await.unwrap();
    }
    let sorted = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    for sql in OF_TYPES {
        let plain = sql
            .replace("ty.", "plain.")
            .replace("ty ", "plain ")
            .replace("FROM ty", "FROM plain")
            .replace(" i)", " plain WHERE n < 4)");
        let sql = sql.replace(" i)", " ty q WHERE q.n < 4)");
        let (here, there) = (does(&client, &sql).await, does(&client, &plain).await);
        assert_eq!(sorted(here), sorted(there), "{sql}");
        does(&client, "BEGIN").await;
        does(&client, &format!("DECLARE c CURSOR FOR {sql}")).await;
        let here = does(&client, "FETCH ALL FROM c").await;
        assert_eq!(sorted(here), sorted(does(&client, &plain).await), "a cursor: {sql}");
        does(&client, "COMMIT").await;
    }
    // An array of a domain is another type than that of the domain's own.
    let refused = answer(&client, "SELECT array_agg(d) FROM ty").await.unwrap_err();
    assert_eq!(refused.code().code(), "0A000");
    // In binary format, too, as far as one node gives the rows.
    let sql = "SELECT a, count(*) FROM ty WHERE array_ndims(a) = 1 AND array_lower(a, 1) = 1 GROUP BY a ORDER BY a";
    let rows = client.query(sql, &[]).await.unwrap();
    let arrays: Vec<Vec<Option<i32>>> = rows.iter().map(|r| r.get(0)).collect();
    assert_eq!(arrays, [[Some(3)], [Some(7)], [Some(11)]].map(Vec::from));
}

#[tokio::test]
async fn nothing_of_a_types_owner_runs_with_other_rights_than_the_clients() {
    let p = own_types().await;
    let root = p.client().await;
    for node in &p.nodes.nodes {
        let node = connect(node.port()).await;
        for sql in [
            "CREATE TABLE IF NOT EXISTS seen (who text)",
            "GRANT INSERT ON seen TO PUBLIC",
            "CREATE FUNCTION says(int) RETURNS boolean LANGUAGE plpgsql AS \
             'BEGIN INSERT INTO public.seen VALUES (current_user); RETURN true; END'",
            "ALTER DOMAIN small ADD CONSTRAINT says CHECK (says(VALUE)) NOT VALID",
        ] {
            does(&node, sql).await;
        }
    }
    does(&root, "CREATE ROLE reader LOGIN PASSWORD 'r'").await;
    does(&root, "GRANT SELECT ON ty TO reader").await;
    let reader = connect_as(p.port(), DATABASE, "reader", "r").await.unwrap();
    for sql in OF_TYPES {
        does(&reader, &sql.replace(" i)", " ty q)")).await;
    }
    for node in &p.nodes.nodes {
        let node = connect(node.port()).await;
        assert_eq!(
            does(&node, "SELECT DISTINCT who FROM seen WHERE who <> 'reader'").await,
            [""; 0]
        );
    }
}
