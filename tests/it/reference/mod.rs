//! Reference tables: the same rows on every node, whatever is done to them and whoever else is at work.

use futures_util::SinkExt;
use tokio_postgres::Client;

use crate::support::*;

mod becoming;
mod random;

/// Three nodes, a distributed table of orders by tenant, and countries on all of them.
async fn shop() -> (Proxy, Client) {
    let p = Proxy::start(4, 3).await;
    let c = p.client().await;
    for sql in [
        "CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL, tax numeric DEFAULT 0.2, \
           CONSTRAINT pgshunt_reference CHECK (true))",
        "CREATE TABLE orders (tenant int, id int, country text, price int, PRIMARY KEY (tenant, id)) \
           PARTITION BY HASH (tenant)",
        "INSERT INTO countries (code, name) VALUES ('at', 'Austria'), ('be', 'Belgium'), ('ch', 'Switzerland')",
    ] {
        c.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    for tenant in 0..12 {
        let country = ["at", "be", "ch", "xx"][tenant % 4];
        c.batch_execute(&format!("INSERT INTO orders VALUES ({tenant}, 1, '{country}', {tenant})"))
            .await
            .unwrap();
    }
    (p, c)
}

/// What each node in use has of a table.
async fn on_nodes(p: &Proxy, nodes: usize, sql: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for node in &p.nodes.nodes[..nodes] {
        all.push(texts(&connect(node.port()).await, sql).await);
    }
    all
}

/// All nodes have these rows.
async fn everywhere(p: &Proxy, nodes: usize, sql: &str, rows: &[&str]) {
    for (n, found) in on_nodes(p, nodes, sql).await.into_iter().enumerate() {
        assert_eq!(found, rows, "node{}: {sql}", n + 1);
    }
}

async fn refused(c: &Client, sql: &str) -> String {
    let e = c.batch_execute(sql).await.expect_err(sql);
    let e = e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}"));
    assert_eq!(e.code().code(), "0A000", "{sql}: {e:?}");
    e.message().to_owned()
}

#[tokio::test]
async fn writes_reach_all_nodes_in_and_outside_of_transactions() {
    let (p, c) = shop().await;
    let all = "SELECT concat_ws(' ', code, name, tax) FROM countries ORDER BY code";
    everywhere(&p, 3, all, &["at Austria 0.2", "be Belgium 0.2", "ch Switzerland 0.2"]).await;
    assert_eq!(
        texts(&c, "UPDATE countries SET tax = 0.1 WHERE code < 'c' RETURNING code").await,
        ["at", "be"]
    );
    let insert = c
        .prepare("INSERT INTO countries VALUES ($1, $2, $3::text::numeric) RETURNING name")
        .await
        .unwrap();
    let rows = c.query(&insert, &[&"de", &"Germany", &"0.19"]).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get::<_, String>(0), "Germany");
    let delete = c.prepare("DELETE FROM countries WHERE code = $1").await.unwrap();
    assert_eq!(c.execute(&delete, &[&"ch"]).await.unwrap(), 1);
    everywhere(&p, 3, all, &["at Austria 0.1", "be Belgium 0.1", "de Germany 0.19"]).await;
    let upsert = "INSERT INTO countries (code, name) VALUES ('at', 'x'), ('fr', 'France') \
        ON CONFLICT (code) DO UPDATE SET name = upper(EXCLUDED.name) RETURNING name";
    assert_eq!(texts(&c, upsert).await, ["X", "France"]);
    everywhere(&p, 3, "SELECT name FROM countries WHERE code = 'at'", &["X"]).await;
    // A transaction sees what it has done, whichever node it is on, and nobody else does.
    c.batch_execute("BEGIN; DELETE FROM countries WHERE code = 'fr'; ROLLBACK").await.unwrap();
    c.batch_execute("BEGIN").await.unwrap();
    c.batch_execute("DELETE FROM countries WHERE code = 'fr'").await.unwrap();
    c.batch_execute("SAVEPOINT s").await.unwrap();
    c.batch_execute("UPDATE countries SET name = 'lost'").await.unwrap();
    for tenant in 0..4 {
        let sql = format!(
            "SELECT count(*) FROM orders, countries WHERE tenant = {tenant} AND name = 'lost'"
        );
        assert_eq!(texts(&c, &sql).await, ["3"]);
    }
    c.batch_execute("ROLLBACK TO s").await.unwrap();
    assert_eq!(texts(&c, "SELECT count(*) FROM countries").await, ["3"]);
    let other = p.client().await;
    assert_eq!(texts(&other, "SELECT count(*) FROM countries").await, ["4"]);
    c.batch_execute("COMMIT").await.unwrap();
    everywhere(&p, 3, "SELECT string_agg(code, ' ' ORDER BY code) FROM countries", &["at be de"])
        .await;
    // An error on all of them is one error, and leaves nothing.
    let twice =
        c.batch_execute("INSERT INTO countries (code, name) VALUES ('es', 'Spain'), ('at', 'x')");
    assert_eq!(twice.await.unwrap_err().code().unwrap().code(), "23505");
    everywhere(&p, 3, "SELECT string_agg(code, ' ' ORDER BY code) FROM countries", &["at be de"])
        .await;
    assert_eq!(texts(&c, "SELECT count(*) FROM pg_prepared_xacts").await, ["0"]);
}

#[tokio::test]
async fn joins_run_where_the_distributed_table_is() {
    let (_p, c) = shop().await;
    for (sql, rows) in [
        ("SELECT name FROM countries WHERE code = 'be'", &["Belgium"][..]),
        ("SELECT name FROM orders JOIN countries ON country = code WHERE tenant = 1", &["Belgium"]),
        ("SELECT count(*) FROM orders JOIN countries ON country = code", &["9"]),
        (
            "SELECT count(*) FROM orders o LEFT JOIN countries c ON o.country = c.code WHERE c.code IS NULL",
            &["3"],
        ),
        (
            "SELECT c.name FROM orders o, countries AS c (k, name) WHERE o.country = c.k AND price > 7 ORDER BY price",
            &["Austria", "Belgium", "Switzerland"],
        ),
        (
            "SELECT name || sum(price) FROM orders JOIN countries ON country = code GROUP BY name ORDER BY 1",
            &["Austria12", "Belgium15", "Switzerland18"],
        ),
        (
            "SELECT count(*) FROM orders WHERE country IN (SELECT code FROM countries WHERE name > 'B')",
            &["6"],
        ),
        (
            "SELECT count(*) FROM orders WHERE NOT EXISTS (SELECT 1 FROM countries WHERE code = country LIMIT 1)",
            &["3"],
        ),
        (
            "WITH c AS (SELECT * FROM countries) SELECT count(*) FROM orders JOIN c ON country = code",
            &["9"],
        ),
        (
            "SELECT (SELECT max(name) FROM countries), tenant FROM orders WHERE tenant = 3",
            &["Switzerland"],
        ),
        (
            "UPDATE orders SET price = 100 FROM countries WHERE country = code AND name = 'Austria' RETURNING price",
            &["100", "100", "100"],
        ),
        (
            "DELETE FROM orders USING countries WHERE country = code AND name = 'Belgium' RETURNING 1",
            &["1", "1", "1"],
        ),
    ] {
        assert_eq!(texts(&c, sql).await, rows, "{sql}");
    }
    // What one node answers for all.
    for (sql, why) in [
        // The row of a country without orders would come from every node.
        ("SELECT count(*) FROM countries LEFT JOIN orders ON country = code", "no equality"),
        // Each node may take another one.
        ("SELECT count(*) FROM orders, (SELECT * FROM countries LIMIT 1) c", "LIMIT"),
        ("SELECT (SELECT name FROM countries LIMIT 1) FROM orders", "LIMIT"),
        (
            "WITH c AS (SELECT * FROM countries) SELECT count(*) FROM orders, (SELECT * FROM c LIMIT 1) x",
            "LIMIT",
        ),
        ("SELECT (SELECT string_agg(name, ',') FROM countries) FROM orders", "order"),
        (
            "SELECT count(*) FROM orders JOIN (SELECT code, row_number() OVER () FROM countries) c ON code = country",
            "window",
        ),
    ] {
        let route = texts(&c, &format!("EXPLAIN (ROUTE) {sql}")).await;
        assert!(route[0].starts_with("Collect (") && route[0].contains(why), "{sql}: {route:?}");
        assert!(!texts(&c, sql).await.is_empty(), "{sql}");
    }
    let locks = "SELECT * FROM orders JOIN countries ON country = code FOR UPDATE";
    assert!(refused(&c, locks).await.contains("row lock"));
}

/// What an INSERT leaves to each node is computed once, on the home node, for all of them.
#[tokio::test]
async fn defaults_are_computed_once_for_all_nodes() {
    let (p, c) = shop().await;
    for sql in [
        "CREATE TABLE log (id serial, at timestamptz DEFAULT now(), day date DEFAULT CURRENT_DATE, u uuid DEFAULT \
           gen_random_uuid(), x float8 DEFAULT random(), what text, n int GENERATED BY DEFAULT AS IDENTITY, \
           PRIMARY KEY (id), CONSTRAINT pgshunt_reference CHECK (true))",
        "CREATE TABLE always (n int GENERATED ALWAYS AS IDENTITY, what text, CONSTRAINT pgshunt_reference CHECK (true))",
        "CREATE SEQUENCE other",
        "CREATE ROLE writer LOGIN PASSWORD 'w'",
        "GRANT SELECT, INSERT ON log TO writer",
    ] {
        c.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    for sql in [
        "INSERT INTO log (what) VALUES ('a')",
        "INSERT INTO log (what) VALUES ('b'), ('c'), ('d')",
        "INSERT INTO log (id, at, what) VALUES (DEFAULT, now(), 'e'), (DEFAULT, now(), 'f')",
        "INSERT INTO log (id, what) VALUES (nextval('other') + 100, upper('g'))",
        "INSERT INTO log VALUES (77)",
        "INSERT INTO log (what) VALUES ('h') ON CONFLICT (id) DO UPDATE SET what = excluded.what",
        "BEGIN",
        "INSERT INTO log (what) VALUES ('i')",
        "INSERT INTO log (x) VALUES (random())",
        "COMMIT",
    ] {
        c.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let returned = texts(&c, "INSERT INTO log (what) VALUES ('j') RETURNING id").await;
    let statement = "INSERT INTO log (what, x) VALUES ($1, $2 + random()) RETURNING id";
    let prepared = c.prepare(statement).await.unwrap();
    for n in 0..3 {
        let row = c.query_one(&prepared, &[&format!("p{n}"), &f64::from(n)]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 11 + n);
    }
    assert_eq!(returned, ["10"]);
    let all = "SELECT md5(string_agg(l::text, ',' ORDER BY id)) || ' ' || count(*) || ' ' || count(DISTINCT u) || ' ' || \
        count(DISTINCT n) FROM log l";
    let nodes = on_nodes(&p, 3, all).await;
    assert!(nodes[0][0].ends_with(" 15 15 15"), "{nodes:?}");
    assert!(nodes.iter().all(|n| *n == nodes[0]), "{nodes:?}");
    // Undone, and with the client's rights: who may not draw does not.
    for sql in ["BEGIN", "INSERT INTO log (what) VALUES ('z')", "ROLLBACK"] {
        c.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let writer = connect_as(p.port(), DATABASE, "writer", "w").await.unwrap();
    let e = writer.batch_execute("INSERT INTO log (what) VALUES ('w')").await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "42501");
    refused(&c, "INSERT INTO always (what) VALUES ('x')").await;
    let nodes = on_nodes(&p, 3, all).await;
    assert!(
        nodes[0][0].ends_with(" 15 15 15") && nodes.iter().all(|n| *n == nodes[0]),
        "{nodes:?}"
    );
}

#[tokio::test]
async fn what_each_node_would_compute_for_itself_is_refused() {
    let (p, c) = shop().await;
    c.batch_execute(
        "CREATE TABLE log (id serial, at timestamptz DEFAULT now(), n int DEFAULT 1, what text, \
           CONSTRAINT pgshunt_reference CHECK (true))",
    )
    .await
    .unwrap();
    c.batch_execute("CREATE TABLE mine (a int)").await.unwrap();
    for sql in [
        "INSERT INTO log DEFAULT VALUES",
        "INSERT INTO log VALUES (1, 'now', 1, 'x')",
        "INSERT INTO log (n, id, at) VALUES (random() * 10, 1, '2024-01-01'), (1.5, 2, '2024-01-01')",
        "INSERT INTO log (id, at) SELECT 1, now()",
        "UPDATE log SET at = DEFAULT",
        "UPDATE log SET at = current_timestamp",
        "UPDATE log SET what = ctid::text",
        "UPDATE log SET what = name FROM countries",
        "INSERT INTO log (id, at, what) SELECT 1, '2024-01-01', code FROM countries LIMIT 1",
        "INSERT INTO log (id, at, what) SELECT tenant, '2024-01-01', 'x' FROM orders",
        "DELETE FROM log USING mine WHERE id = a",
        "WITH w AS (DELETE FROM log RETURNING 1) SELECT * FROM w",
        "WITH w AS (DELETE FROM log RETURNING id) INSERT INTO countries (code, name) SELECT 'x', 'y' FROM w",
        "MERGE INTO countries USING mine ON code = a::text WHEN MATCHED THEN DELETE",
    ] {
        refused(&c, sql).await;
    }
    c.batch_execute("INSERT INTO log (id, at, what) VALUES (1, '2024-01-01 00:00+00', 'x')")
        .await
        .unwrap();
    let sql =
        "INSERT INTO log (id, at, what) SELECT length(code), '2024-01-01', code FROM countries";
    c.batch_execute(sql).await.unwrap();
    everywhere(&p, 3, "SELECT count(*) || ' ' || sum(id) || ' ' || sum(n) FROM log", &["4 7 4"])
        .await;
    let at = c
        .prepare_typed(
            "INSERT INTO log (id, at) VALUES (2, $1)",
            &[tokio_postgres::types::Type::UNKNOWN],
        )
        .await;
    if let Ok(at) = at {
        assert!(c.execute(&at, &[&"Now"]).await.is_err(), "each node's own moment");
    }
    everywhere(&p, 3, "SELECT count(*) FROM log", &["4"]).await;
}

#[tokio::test]
async fn foreign_keys_to_it_are_checked_on_every_node_and_move() {
    let (p, c) = shop().await;
    let fails = async |sql: &str, code: &str| {
        let e = c.batch_execute(sql).await.expect_err(sql);
        assert_eq!(e.code().unwrap().code(), code, "{sql}: {e:?}");
    };
    c.batch_execute(
        "CREATE TABLE parcels (tenant int, id int, country text REFERENCES countries, \
           PRIMARY KEY (tenant, id)) PARTITION BY HASH (tenant)",
    )
    .await
    .unwrap();
    for tenant in 0..12 {
        fails(&format!("INSERT INTO parcels VALUES ({tenant}, 1, 'xx')"), "23503").await;
        c.batch_execute(&format!("INSERT INTO parcels VALUES ({tenant}, 1, 'at')")).await.unwrap();
    }
    fails("DELETE FROM countries WHERE code = 'at'", "23503").await;
    everywhere(&p, 3, "SELECT count(*) FROM countries", &["3"]).await;
    let add =
        "ALTER TABLE orders ADD CONSTRAINT to_country FOREIGN KEY (country) REFERENCES countries";
    fails(add, "23503").await;
    c.batch_execute("BEGIN").await.unwrap();
    c.batch_execute("UPDATE orders SET country = 'at' WHERE country = 'xx'").await.unwrap();
    c.batch_execute(add).await.unwrap();
    c.batch_execute("COMMIT").await.unwrap();
    for tenant in 0..12 {
        fails(&format!("UPDATE orders SET country = 'xx' WHERE tenant = {tenant}"), "23503").await;
    }
    for sql in [
        "ALTER TABLE parcels ADD FOREIGN KEY (tenant, id) REFERENCES orders (tenant, id)",
        "CREATE TABLE x (a int, c text REFERENCES countries ON DELETE CASCADE) PARTITION BY HASH (a)",
        "CREATE TABLE x (a int REFERENCES orders) PARTITION BY HASH (a)",
        "CREATE TABLE x (a int) INHERITS (countries)",
    ] {
        refused(&c, sql).await;
    }
    // A local table is where the whole reference table is, too.
    c.batch_execute("CREATE TABLE mine (c text REFERENCES countries ON DELETE CASCADE)")
        .await
        .unwrap();
    c.batch_execute("INSERT INTO countries (code, name) VALUES ('zz', 'Nowhere')").await.unwrap();
    fails("INSERT INTO mine VALUES ('yy')", "23503").await;
    c.batch_execute("INSERT INTO mine VALUES ('zz')").await.unwrap();
    c.batch_execute("DELETE FROM countries WHERE code = 'zz'").await.unwrap();
    assert_eq!(texts(&c, "SELECT count(*) FROM mine").await, ["0"]);
    // A shard takes them along, to a node that was added since.
    let console = p.console().await;
    console.does(&format!("ADD NODE node4 '127.0.0.1:{}'", p.nodes.nodes[3].port())).await;
    console.does("MOVE SHARD 1 TO node4").await;
    let state = async |wanted: &str| {
        wait_for(wanted, || async {
            let states = console.column("SHOW MOVES", "state").await;
            let errors = console.column("SHOW MOVES", "error").await;
            assert!(!states.contains(&"failed".to_owned()), "{errors:?}");
            states.iter().any(|s| s == wanted).then_some(())
        })
        .await;
    };
    state("soaking").await;
    let count = "SELECT count(*) || ' ' || (SELECT count(*) FROM pg_constraint WHERE contype = 'f' \
        AND convalidated AND conrelid IN (SELECT relid FROM pg_partition_tree('orders') WHERE isleaf)) FROM orders";
    let there = on_nodes(&p, 4, count).await;
    assert!(there[3][0].ends_with(" 1"), "{there:?}");
    for tenant in 0..12 {
        fails(&format!("UPDATE orders SET country = 'xx' WHERE tenant = {tenant}"), "23503").await;
        c.batch_execute(&format!("UPDATE orders SET country = 'ch' WHERE tenant = {tenant}"))
            .await
            .unwrap();
    }
    fails("DELETE FROM countries WHERE code = 'ch'", "23503").await;
    c.batch_execute("UPDATE orders SET country = 'be'").await.unwrap();
    // The copy that is kept for the way back may be a moment behind.
    wait_for("no order refers to it", || async {
        c.batch_execute("DELETE FROM countries WHERE code = 'ch'").await.ok()
    })
    .await;
    everywhere(&p, 4, "SELECT count(*) FROM countries", &["2"]).await;
    console.does("ROLLBACK MOVE").await;
    state("done").await;
    assert_eq!(texts(&c, "SELECT count(*) FROM orders WHERE country = 'be'").await, ["12"]);
    for tenant in 0..12 {
        fails(&format!("UPDATE orders SET country = 'xx' WHERE tenant = {tenant}"), "23503").await;
    }
}

#[tokio::test]
async fn copy_into_it_writes_on_every_node() {
    let (p, c) = shop().await;
    for (how, data) in [
        ("", "de\tGermany\t0.19\nfr\tFrance\t\\N\n"),
        ("(FORMAT csv, HEADER)", "code,name,tax\nes,Spain,0.21\n"),
    ] {
        let sink = c
            .copy_in::<_, bytes::Bytes>(&format!("COPY countries FROM STDIN {how}"))
            .await
            .unwrap();
        let mut sink = std::pin::pin!(sink);
        sink.send(bytes::Bytes::copy_from_slice(data.as_bytes())).await.unwrap();
        assert_eq!(
            sink.finish().await.unwrap(),
            data.lines().filter(|l| !l.starts_with("code")).count() as u64
        );
    }
    // By the extended protocol it is committed at the Sync, which this waits for.
    texts(&c, "SELECT 1").await;
    everywhere(
        &p,
        3,
        "SELECT string_agg(code, ' ' ORDER BY code) FROM countries",
        &["at be ch de es fr"],
    )
    .await;
    let sink = c.copy_in::<_, bytes::Bytes>("COPY countries FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    sink.send(bytes::Bytes::from_static(b"it\tItaly\t0.2\nat\tagain\t0\n")).await.unwrap();
    let e = sink.finish().await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "23505");
    everywhere(&p, 3, "SELECT count(*) FROM countries", &["6"]).await;
}

#[tokio::test]
async fn writers_at_once_leave_the_same_rows_everywhere() {
    let (p, c) = shop().await;
    c.batch_execute(
        "CREATE TABLE counted (n int, by int, CONSTRAINT pgshunt_reference CHECK (true))",
    )
    .await
    .unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..6 {
        let w = p.client().await;
        writers.spawn(async move {
            for round in 0..15 {
                // What each statement does depends on what the others have done.
                let sql = match round % 3 {
                    0 => format!("INSERT INTO counted SELECT count(*) + 1, {writer} FROM counted"),
                    1 => format!("UPDATE counted SET by = {writer} WHERE n % 7 = {writer}"),
                    _ => "DELETE FROM counted WHERE n IN (SELECT max(n) FROM counted)".to_owned(),
                };
                w.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let sum =
        "SELECT coalesce(string_agg(n || ':' || by, ' ' ORDER BY n, by), 'none') FROM counted";
    let nodes = on_nodes(&p, 3, sum).await;
    assert!(nodes.iter().all(|n| *n == nodes[0]), "{nodes:?}");
    // A difference that somebody has made past pgshunt is not made larger.
    connect(p.nodes.nodes[1].port())
        .await
        .batch_execute("DELETE FROM countries WHERE code = 'be'")
        .await
        .unwrap();
    let e = c.batch_execute("UPDATE countries SET tax = 0.3").await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "XX001");
    everywhere(&p, 3, "SELECT count(*) FROM countries WHERE tax = 0.3", &["0"]).await;
}
