//! Statements that one node carries out over the rows of all: what comes of rights, of the client's own
//! transaction, of types and texts that are not carried as they are, and of bounds and ends.

use tokio_postgres::Client;

use crate::faults::wire::{Wire, query};
use crate::support::*;

/// Tables `o` and `i` over two nodes, and a local table `places`.
async fn tables() -> Proxy {
    tables_with(|_| {}).await
}

/// The same, for clients that are not asked for a password.
async fn tables_for_all() -> Proxy {
    tables_with(|c| c.auth.method = pgshunt::config::AuthMethod::Trust).await
}

async fn tables_with(change: impl FnOnce(&mut pgshunt::config::Config)) -> Proxy {
    let p = Proxy::start_with(2, 2, change).await;
    p.console().await.does("SET shard_count = 4").await;
    let client = p.client().await;
    for sql in [
        "CREATE TABLE o (k int, n int, c char(4), t text COLLATE \"C\", secret text) PARTITION BY HASH (k)",
        "CREATE TABLE i (k int, n int, t text) PARTITION BY HASH (k)",
        "CREATE TABLE places (n int, name text)",
        "INSERT INTO places SELECT n, 'p' || n FROM generate_series(0, 4) n",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let row = |k: i32| format!("({k}, {}, 'c{}', 't{}', 's')", k % 5, k % 3, k % 4);
    let rows: Vec<_> = (1..=20).map(row).collect();
    does(&client, &format!("INSERT INTO o VALUES {}", rows.join(", "))).await;
    let row = |k: i32| format!("({}, {}, 'T{}')", k + 7, k % 4, k % 4);
    let rows: Vec<_> = (1..=12).map(row).collect();
    does(&client, &format!("INSERT INTO i VALUES {}", rows.join(", "))).await;
    p
}

async fn does(client: &Client, sql: &str) -> Vec<String> {
    answer(client, sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

/// The SQLSTATE, message, detail and hint.
async fn fails(client: &Client, sql: &str) -> [String; 4] {
    let e = answer(client, sql).await.expect_err(sql);
    let text = |t: Option<&str>| t.unwrap_or_default().to_owned();
    [e.code().code().to_owned(), e.message().to_owned(), text(e.detail()), text(e.hint())]
}

const JOIN: &str = "SELECT count(*), sum(o.n) FROM o JOIN i ON o.n = i.n";

#[tokio::test]
async fn a_role_sees_what_it_may_see_and_no_more() {
    let p = tables().await;
    let root = p.client().await;
    for sql in [
        "CREATE ROLE reader LOGIN PASSWORD 'r'",
        "GRANT SELECT (k, n, t) ON o TO reader",
        "GRANT SELECT ON i TO reader",
    ] {
        does(&root, sql).await;
    }
    let reader = connect_as(p.port(), DATABASE, "reader", "r").await.unwrap();
    let all = does(&root, JOIN).await;
    assert_eq!(does(&reader, JOIN).await, all, "columns that it may read");
    let star = "SELECT count(*) FROM (SELECT o.* FROM o JOIN i ON o.n = i.n) q";
    for sql in [
        "SELECT o.secret FROM o JOIN i ON o.n = i.n",
        star,
        "SELECT o.n FROM o JOIN places p USING (n)",
    ] {
        assert_eq!(fails(&reader, sql).await[0], "42501", "{sql}");
    }
    // Rows that a policy hides are hidden from the last step, too.
    for sql in
        ["ALTER TABLE o ENABLE ROW LEVEL SECURITY", "CREATE POLICY even ON o USING (k % 2 = 0)"]
    {
        does(&root, sql).await;
    }
    let even = does(&root, &format!("{JOIN} WHERE o.k % 2 = 0")).await;
    assert_eq!(does(&reader, JOIN).await, even);
    assert_ne!(even, all);
    does(&root, "REVOKE SELECT ON i FROM reader").await;
    assert_eq!(fails(&reader, JOIN).await[0], "42501");
    assert_eq!(does(&root, JOIN).await, all);
}

#[tokio::test]
async fn a_transaction_sees_its_own_rows_of_all_nodes_and_of_local_tables() {
    let p = tables().await;
    let mut client = p.client().await;
    let sql = "SELECT count(*) FROM o JOIN places p ON p.n = o.n WHERE o.k > $1 AND p.name LIKE $2";
    let statement = client.prepare(sql).await.unwrap();
    let mut wanted = 20;
    for commits in [false, true] {
        let tx = client.transaction().await.unwrap();
        for k in 100..110 {
            tx.execute(&format!("INSERT INTO o VALUES ({k}, 77)"), &[]).await.unwrap();
        }
        tx.execute("INSERT INTO places VALUES (77, 'p77')", &[]).await.unwrap();
        let row = tx.query_one(&statement, &[&0, &"p%"]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 30);
        let row = tx.query_one(&statement, &[&104, &"p7%"]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 5);
        if commits {
            tx.commit().await.unwrap();
            wanted = 30;
        } else {
            tx.rollback().await.unwrap();
        }
        let row = client.query_one(&statement, &[&0, &"p%"]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), wanted, "commits: {commits}");
    }
}

#[tokio::test]
async fn what_is_not_the_same_over_rows_that_have_left_their_table() {
    let p = tables().await;
    let client = p.client().await;
    // Blanks of char(n), and the column's own collation: upper case first, as "C" has it.
    let sql = "SELECT DISTINCT o.c || '.', octet_length(o.c), o.c = 'c1' FROM o JOIN i ON o.n = i.n ORDER BY 1";
    assert_eq!(does(&client, sql).await, ["c0.|4|f", "c1.|4|t", "c2.|4|f"]);
    does(&client, "INSERT INTO o (k, n, t) VALUES (50, 1, 'Z'), (51, 1, 'a'), (52, 1, 'É')").await;
    let sql = "SELECT t FROM o WHERE k >= 50 AND n IN (SELECT n FROM i) ORDER BY t";
    assert_eq!(does(&client, sql).await, ["Z", "a", "É"]);
    // Columns that the primary key implies.
    does(&client, "CREATE TABLE pk (k int PRIMARY KEY, n int) PARTITION BY HASH (k)").await;
    does(&client, "INSERT INTO pk VALUES (1, 1), (2, 2), (3, 2)").await;
    let sql = "SELECT pk.n, count(*) FROM pk JOIN i ON pk.n = i.n GROUP BY pk.k";
    let [code, _, _, hint] = fails(&client, sql).await;
    assert_eq!((code.as_str(), hint.is_empty()), ("0A000", false));
    assert_eq!(does(&client, &sql.replace("pk.k", "pk.k, pk.n")).await.len(), 3);
    // One time for the whole statement.
    let sql = "SELECT count(DISTINCT now()), count(DISTINCT clock_timestamp()) > 0 FROM o JOIN i ON o.n = i.n";
    assert_eq!(does(&client, sql).await, ["1|t"]);
    // Names that need quotes, and one that looks like SQL.
    does(
        &client,
        "CREATE TABLE \"we\"\"ird; --\" (k int, \"c\"\"; DROP TABLE o; --\" text, \"Ü\" int) PARTITION BY HASH (k)",
    )
    .await;
    does(&client, "INSERT INTO \"we\"\"ird; --\" VALUES (1, 'x', 2), (9, 'y', 3)").await;
    let sql = "SELECT \"c\"\"; DROP TABLE o; --\", \"Ü\" FROM \"we\"\"ird; --\" JOIN i ON i.n = \"Ü\" \
               GROUP BY 1, 2 ORDER BY 2";
    assert_eq!(does(&client, sql).await, ["x|2", "y|3"]);
    // What is wrong is said as of the client's own text.
    let [code, message, ..] = fails(&client, "SELECT o.nothing FROM o JOIN i ON o.n = i.n").await;
    assert_eq!((code.as_str(), message.as_str()), ("42703", "column o.nothing does not exist"));
    assert_eq!(
        fails(&client, "SELECT 1 / (o.n - o.n) FROM o JOIN i ON o.n = i.n").await[0],
        "22012"
    );
}

#[tokio::test]
async fn rows_beyond_the_bound_are_refused_and_the_largest_table_is_named() {
    let p = tables().await;
    let client = p.client().await;
    does(&client, "CREATE TABLE big (k int, n int, t text) PARTITION BY HASH (k)").await;
    for k in 0..20 {
        does(&client, &format!("INSERT INTO big VALUES ({k}, {}, repeat('x', 1000000))", k % 5))
            .await;
    }
    let sql = "SELECT count(big.t) FROM big JOIN i ON big.n = i.n";
    let [code, _, detail, hint] = fails(&client, sql).await;
    assert_eq!(code, "54000");
    assert!(detail.contains("of table \"big\""), "{detail}");
    assert!(hint.contains("\"big\""), "{hint}");
    // Without the column, or with a condition that each node can know, it is little.
    assert_eq!(does(&client, "SELECT count(*) FROM big JOIN i ON big.n = i.n").await, ["48"]);
    assert_eq!(does(&client, &format!("{sql} WHERE big.k < 5")).await, ["12"]);
    does(&client, "BEGIN").await;
    assert_eq!(fails(&client, sql).await[0], "54000");
    assert_eq!(fails(&client, "SELECT 1").await[0], "25P02");
    does(&client, "ROLLBACK").await;
    assert_eq!(does(&client, JOIN).await.len(), 1);
}

#[tokio::test]
async fn the_bound_is_the_operators_and_a_session_may_lower_it() {
    let p = tables_with(|c| c.read.collect_limit = 1 << 20).await;
    let client = p.client().await;
    does(&client, "CREATE TABLE big (k int, n int, t text) PARTITION BY HASH (k)").await;
    for k in 0..10 {
        does(&client, &format!("INSERT INTO big VALUES ({k}, {}, repeat('x', 50000))", k % 5))
            .await;
    }
    let collected = "SELECT count(big.t) FROM big JOIN i ON big.n = i.n";
    let combined = "SELECT k, t FROM big ORDER BY t, k";
    let cursor = "DECLARE c CURSOR WITH HOLD FOR SELECT t FROM big";
    let limit =
        async |value: &str| does(&client, &format!("SET pgshunt.collect_limit = {value}")).await;
    for allows in ["'1MB'", "'600 kB'", "600000", "'64MB'", "'who knows'"] {
        limit(allows).await;
        assert_eq!(does(&client, collected).await, ["24"], "{allows}");
    }
    limit("'200kB'").await;
    for sql in [collected, combined, cursor] {
        let [code, _, detail, hint] = fails(&client, sql).await;
        assert_eq!(code, "54000", "{sql}");
        assert!(detail.contains("200 kB") && detail.contains("big"), "{detail}");
        assert!(hint.contains("collect_limit"), "{hint}");
    }
    let told =
        "SELECT count(*) FROM (SELECT set_config('pgshunt.collect_limit', '100kB', false)) q";
    does(&client, told).await;
    assert!(fails(&client, collected).await[2].contains("100 kB"));
    let route = does(&client, &format!("EXPLAIN (ROUTE) {collected}")).await;
    assert!(route.last().unwrap().ends_with("pgshunt.collect_limit = 100kB"), "{route:?}");
    does(&client, "RESET pgshunt.collect_limit").await;
    let route = does(&client, &format!("EXPLAIN (ROUTE) {collected}")).await;
    assert!(route.last().unwrap().ends_with("read.collect_limit"), "{route:?}");
    // What the operator allows is not raised by a session.
    limit("'64MB'").await;
    for k in 10..30 {
        does(&client, &format!("INSERT INTO big VALUES ({k}, 1, repeat('x', 50000))")).await;
    }
    let [code, _, detail, _] = fails(&client, collected).await;
    assert!(code == "54000" && detail.contains("1 MB"), "{code} {detail}");
    p.console().await.does("SET read.collect_limit = '2MB'").await;
    wait_for("the console's limit", async || answer(&client, collected).await.ok()).await;
}

#[tokio::test]
async fn explain_tells_the_way_the_nodes_and_the_texts() {
    let p = tables().await;
    let client = p.client().await;
    let names = p.console().await.column("SHOW NODES", "name").await;
    let all = format!("  Nodes: {}", names.join(", "));
    for (sql, way, several) in [
        ("SELECT * FROM o WHERE k = 3", "One node, by the distribution column", false),
        ("SELECT * FROM places", "The home node", false),
        ("SELECT * FROM o", "Concat", true),
        ("SELECT k FROM o ORDER BY k", "Ordered (not Concat: ORDER BY)", true),
        ("SELECT count(*) FROM o", "Fold (not Concat: ", true),
        ("SELECT n, count(*) FROM o GROUP BY n", "Combine (not Concat: GROUP BY", true),
        ("SELECT o.k FROM o JOIN i ON o.n = i.n", "Collect (not Concat: ", true),
        ("DECLARE c CURSOR FOR SELECT k FROM o ORDER BY k", "Combine (not Concat: ORDER BY)", true),
        ("DECLARE c CURSOR FOR SELECT k FROM o WHERE k = 3", "One node, by", false),
    ] {
        let told = does(&client, &format!("EXPLAIN (ROUTE) {sql}")).await;
        assert!(told[0].starts_with(way), "{sql}: {told:?}");
        let one = |name: &String| told[1] == format!("  Nodes: {name}");
        assert!(if several { told[1] == all } else { names.iter().any(one) }, "{sql}: {told:?}");
        assert!(!several || told[2].starts_with("  Each node: "), "{sql}: {told:?}");
        let moves = way.starts_with("Co") && way != "Concat";
        let limit = told.last().unwrap().ends_with("read.collect_limit");
        assert_eq!(limit, moves, "{sql}: {told:?}");
        let statement = client.prepare(&format!("EXPLAIN (ROUTE) {sql}")).await.unwrap();
        let rows = client.query(&statement, &[]).await.unwrap();
        let rows: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
        // A key is told as it is where the text is not one of many alike.
        assert_eq!(rows.get(1..), told.get(1..), "{sql}");
    }
    let told = does(&client, "EXPLAIN (ROUTE) SELECT o.ctid FROM o").await;
    assert!(told[0].starts_with("Refused: "), "{told:?}");
}

#[tokio::test]
async fn how_collected_rows_are_joined_is_no_setting_of_what_follows() {
    let p = tables().await;
    let client = p.client().await;
    let sql = "SELECT count(*) FROM o JOIN i ON o.n = i.n";
    let shown = "SHOW enable_nestloop";
    let rows = does(&client, sql).await;
    assert_eq!(does(&client, shown).await, ["on"]);
    // In a block, with savepoints and errors beside it, by both protocols.
    does(&client, "BEGIN").await;
    does(&client, "SAVEPOINT a").await;
    assert_eq!(does(&client, sql).await, rows);
    assert_eq!(does(&client, shown).await, ["on"]);
    client.query_one(sql, &[]).await.unwrap();
    assert_eq!(does(&client, shown).await, ["on"]);
    let wrong = "SELECT 1 / (o.n - o.n) FROM o JOIN i ON o.n = i.n";
    assert_eq!(fails(&client, wrong).await[0], "22012");
    does(&client, "ROLLBACK TO a").await;
    assert_eq!(does(&client, shown).await, ["on"]);
    does(&client, "SET LOCAL enable_nestloop = off").await;
    assert_eq!(does(&client, sql).await, rows);
    assert_eq!(does(&client, shown).await, ["off"]);
    does(&client, "COMMIT").await;
    assert_eq!(does(&client, shown).await, ["on"]);
}

/// Runs for ever, in its last step.
const LONG: &str = "SELECT count(*) FROM o, places, generate_series(1, 100000) a, \
    generate_series(1, 100000) b WHERE o.n > places.n";

/// How many last steps run on the home node.
async fn running(p: &Proxy) -> i64 {
    let home = connect(p.nodes.nodes[0].port()).await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%unnest($1%' \
               AND pid <> pg_backend_pid()";
    value(&home, sql).await
}

#[tokio::test]
async fn its_last_step_ends_when_it_is_cancelled_or_its_client_is_gone() {
    let p = tables_for_all().await;
    let mut wire = Wire::login(p.port()).await;
    wire.send(&query(LONG)).await;
    wait_for("the last step", async || (running(&p).await == 1).then_some(())).await;
    wait_for("its end", async || {
        // A server that plans the step, or reads the next message of it, takes no notice.
        wire.cancel(p.port()).await;
        (running(&p).await == 0).then_some(())
    })
    .await;
    assert_eq!(wire.ready().await, "TE57014Z");
    assert_eq!(wire.ask(JOIN).await, "TDCZ");
    wire.send(&query(LONG)).await;
    wait_for("the last step", async || (running(&p).await == 1).then_some(())).await;
    drop(wire);
    wait_for("its end", async || (running(&p).await == 0).then_some(())).await;
}

#[tokio::test]
async fn a_node_that_dies_amid_its_last_step_is_told_of() {
    let mut p = tables_for_all().await;
    let mut wire = Wire::login(p.port()).await;
    wire.send(&query(LONG)).await;
    wait_for("the last step", async || (running(&p).await == 1).then_some(())).await;
    p.nodes.nodes[0].kill().unwrap();
    let answer = wire.ready().await;
    let told = ["E08006Z", "E57P01Z", "E57P02Z"].iter().any(|e| answer.ends_with(e));
    assert!(told, "{answer}");
    p.nodes.nodes[0].restart().unwrap();
    assert_eq!(wire.ask(JOIN).await, "TDCZ");
}
