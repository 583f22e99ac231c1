//! What the router makes of statements on distributed tables: the answer of one PostgreSQL, or a refusal
//! that says what cannot be done.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::support::*;

/// Tenants 0 to 5 on two nodes, each with one row.
async fn tenants() -> (Proxy, Client) {
    let p = Proxy::start(2, 2).await;
    let c = p.client().await;
    c.batch_execute(
        "CREATE TABLE d (t bigint, id int, v int, PRIMARY KEY (t, id)) PARTITION BY HASH (t)",
    )
    .await
    .unwrap();
    c.batch_execute("CREATE TABLE u (u uuid PRIMARY KEY) PARTITION BY HASH (u)").await.unwrap();
    c.batch_execute("CREATE TABLE l (a int PRIMARY KEY)").await.unwrap();
    for t in 0..6 {
        c.batch_execute(&format!("INSERT INTO d VALUES ({t}, 1, 1)")).await.unwrap();
    }
    (p, c)
}

/// The code and message of the error.
async fn refused(c: &Client, sql: &str) -> (String, String) {
    let e = c.batch_execute(sql).await.expect_err(sql);
    let e = e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}"));
    (e.code().code().to_owned(), e.message().to_owned())
}

#[tokio::test]
async fn what_a_parent_or_one_node_would_answer_for_all_is_refused() {
    let (_p, c) = tenants().await;
    for sql in [
        "SELECT count(*) FROM ONLY d",
        "SELECT * FROM ONLY d WHERE t = 3",
        "TABLE ONLY d",
        "UPDATE ONLY d SET v = 2 WHERE t = 3",
        "DELETE FROM ONLY d WHERE t = 3",
        "DELETE FROM d USING ONLY d b WHERE d.t = 3 AND b.t = 3",
        "WITH w AS (SELECT * FROM ONLY d WHERE t = 3) SELECT * FROM w",
        "SELECT 1 FROM d WHERE t = 3 AND EXISTS (SELECT 1 FROM ONLY d b WHERE b.t = 3)",
        "COPY (SELECT * FROM ONLY d WHERE t = 3) TO STDOUT",
        "TRUNCATE ONLY d",
    ] {
        let (code, message) = refused(&c, sql).await;
        assert_eq!(code, "0A000", "{sql}");
        assert!(message.starts_with("ONLY of"), "{sql}: {message}");
    }
    c.batch_execute("SELECT * FROM ONLY l").await.unwrap();
}

#[tokio::test]
async fn no_client_is_told_a_number_that_is_another_one_elsewhere() {
    let (_p, c) = tenants().await;
    for sql in [
        "SELECT a FROM d a WHERE t = 3 AND id = 1",
        "SELECT d FROM d WHERE t = 3",
        "SELECT public.d FROM d WHERE t = 3",
        "SELECT array_agg(d) FROM d WHERE t = 3",
        "SELECT array_agg(d.*) FROM d WHERE t = 3",
        "SELECT ARRAY[a.*] FROM d a WHERE t = 3",
        "SELECT (SELECT a) FROM d a WHERE t = 3",
        "SELECT max(a.v), min(a.t) FROM d a WHERE t = 3 GROUP BY a",
        "UPDATE d SET v = 2 WHERE t = 3 RETURNING d",
        "INSERT INTO d VALUES (3, 2, 2) RETURNING d",
        "DELETE FROM d WHERE t = 3 AND id = 7 RETURNING d.*::text, d",
        "SELECT tableoid FROM d WHERE t = 3",
        "SELECT d.tableoid::regclass FROM d WHERE t = 3",
    ] {
        let (code, message) = refused(&c, sql).await;
        assert_eq!(code, "0A000", "{sql}: {message}");
    }
    for t in 0..6 {
        for sql in [
            "SELECT a.*, v FROM d a WHERE t = $",
            "SELECT row_to_json(a), count(a), to_jsonb(a.*) FROM d a WHERE t = $ GROUP BY a.t, a.id",
            "SELECT (a).v, a::text, a IS NULL, ROW(a.*) FROM d a WHERE t = $",
            "INSERT INTO d VALUES ($, 2, 2) ON CONFLICT (t, id) DO UPDATE SET v = 3 RETURNING d.*",
            "SELECT ctid, xmin FROM d WHERE t = $",
        ] {
            let sql = sql.replace('$', &t.to_string());
            let statement = c.prepare(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            assert!(statement.columns().iter().all(|c| c.type_().oid() < 16384), "{sql}");
            assert!(!c.query(&statement, &[]).await.unwrap().is_empty(), "{sql}");
        }
    }
}

#[tokio::test]
async fn a_value_that_is_no_key_is_told_by_postgres() {
    let (_p, c) = tenants().await;
    for (sql, code) in [
        ("SELECT * FROM u WHERE u = 'zz'", "22P02"),
        ("SELECT * FROM d WHERE t = 'abc'", "22P02"),
        ("SELECT * FROM d WHERE t = '3.0'", "22P02"),
        ("INSERT INTO d VALUES ('', 1, 1)", "22P02"),
        ("INSERT INTO d VALUES (0, 9, 9), (99999999999999999999, 9, 9)", "22003"),
        ("INSERT INTO d VALUES (99999999999999999999, 9, 9), (3, 9, 9)", "22003"),
        ("INSERT INTO u VALUES ('x'), ('10111213-1415-1617-1819-1a1b1c1d1e1f')", "22P02"),
    ] {
        assert_eq!(refused(&c, sql).await.0, code, "{sql}");
    }
    assert_eq!(texts(&c, "SELECT t FROM d WHERE t = '+3'").await, ["3"]);
    for t in 0..6 {
        let f = c.prepare_typed("SELECT v FROM d WHERE t = $1", &[Type::FLOAT8]).await.unwrap();
        assert_eq!(c.query(&f, &[&f64::from(t)]).await.unwrap().len(), 1, "{t} as double");
        assert!(c.query(&f, &[&0.5]).await.is_err(), "no whole number");
        assert_eq!(c.query(&f, &[&f64::NAN]).await.unwrap().len(), 0, "no integer equals it");
        assert_eq!(c.query(&f, &[&1e300]).await.unwrap().len(), 0, "no integer equals it");
    }
    // Both equal the double 9007199254740992, so they have no one shard by it.
    c.batch_execute("INSERT INTO d VALUES (9007199254740992, 1, 1)").await.unwrap();
    c.batch_execute("INSERT INTO d VALUES (9007199254740993, 1, 1)").await.unwrap();
    let f = c.prepare_typed("SELECT v FROM d WHERE t = $1", &[Type::FLOAT8]).await.unwrap();
    let both = c.query(&f, &[&9_007_199_254_740_992f64]).await.unwrap_err();
    assert_eq!(both.code().unwrap().code(), "0A000");
    let insert = "INSERT INTO d VALUES ($1, 7, 7)";
    let f = c.prepare_typed(insert, &[Type::FLOAT8]).await.unwrap();
    assert_eq!(c.execute(&f, &[&1e300]).await.unwrap_err().code().unwrap().code(), "22003");
    for text in [Type::TEXT, Type::VARCHAR] {
        let e = c.prepare_typed("SELECT v FROM d WHERE t = $1", &[text]).await.unwrap_err();
        assert_eq!(e.code().unwrap().code(), "42883");
    }
}

#[tokio::test]
async fn keys_are_found_beside_functions_and_on_several_levels() {
    let (_p, c) = tenants().await;
    let sql = "WITH w AS (SELECT v FROM d WHERE t = $1) SELECT w.v, d.v FROM d, w WHERE d.t = $1";
    let both = c.prepare(sql).await.unwrap();
    assert_eq!(*both.params(), [Type::INT8]);
    for t in 0..6i64 {
        assert_eq!(c.query(&both, &[&t]).await.unwrap().len(), 1, "{t}");
        for sql in [
            "SELECT id FROM d, generate_series(1, 2) WHERE t = $",
            "SELECT id, n FROM d, generate_series(1, 2) AS g (n) WHERE t = $ ORDER BY n",
            "SELECT n FROM d CROSS JOIN LATERAL generate_series(1, id + 1) n WHERE t = $",
        ] {
            let sql = sql.replace('$', &t.to_string());
            assert_eq!(texts(&c, &sql).await.len(), 2, "{sql}");
        }
    }
    // A column of the function's by the name of the key.
    let hides = "SELECT 1 FROM d, generate_series(1, 2) AS g (t) WHERE t = 3";
    assert_ne!(refused(&c, hides).await.0, "00000");
    let (code, message) = refused(&c, "SELECT max(pg_backend_pid()) FROM d").await;
    assert_eq!(code, "0A000", "{message}");
}

#[tokio::test]
async fn a_row_goes_by_the_key_that_is_stored() {
    let (_p, c) = tenants().await;
    c.batch_execute(
        "CREATE TABLE g (k bigint GENERATED BY DEFAULT AS IDENTITY, v int) PARTITION BY HASH (k)",
    )
    .await
    .unwrap();
    let (code, message) = refused(&c, "INSERT INTO g OVERRIDING USER VALUE VALUES (30, 1)").await;
    assert_eq!(code, "0A000", "{message}");
    c.batch_execute("INSERT INTO g VALUES (DEFAULT, 1)").await.unwrap();
    for k in 30..36 {
        c.batch_execute(&format!("INSERT INTO g OVERRIDING SYSTEM VALUE VALUES ({k}, 1)"))
            .await
            .unwrap();
        assert_eq!(texts(&c, &format!("SELECT v FROM g WHERE k = {k}")).await, ["1"]);
    }
}

/// What is made past pgshunt is known once the catalogs have been looked at.
async fn comes_to_be_refused(c: &Client, sql: &str) -> String {
    wait_for(sql, async || match c.batch_execute(sql).await {
        Err(e) => {
            e.as_db_error().filter(|e| e.code().code() == "0A000").map(|e| e.message().to_owned())
        }
        Ok(()) => None,
    })
    .await
}

#[tokio::test]
async fn what_leads_to_a_distributed_table_is_refused_whoever_made_it() {
    let (p, c) = tenants().await;
    for sql in [
        "CREATE VIEW lv AS SELECT * FROM l",
        "CREATE FUNCTION lf() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM l'",
    ] {
        c.batch_execute(sql).await.unwrap();
    }
    let home = connect(p.nodes.nodes[0].port()).await;
    home.batch_execute(
        "CREATE VIEW v AS SELECT * FROM d; CREATE VIEW vv AS SELECT count(*) FROM v;
         CREATE MATERIALIZED VIEW mv AS SELECT * FROM d;
         CREATE FUNCTION sf() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM d';
         CREATE FUNCTION pf() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN sf(); END';
         CREATE FUNCTION df(r text) RETURNS bigint LANGUAGE plpgsql
           AS 'DECLARE n bigint; BEGIN EXECUTE format(''SELECT count(*) FROM %I'', r) INTO n; RETURN n; END';
         CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM df(''l''); RETURN new; END';
         CREATE TABLE lt (a int); CREATE TRIGGER t BEFORE INSERT ON lt FOR EACH ROW EXECUTE FUNCTION tf();
         CREATE TABLE lp (a bigint); CREATE POLICY p ON lp USING (a IN (SELECT t FROM d));",
    )
    .await
    .unwrap();
    comes_to_be_refused(&c, "SELECT count(*) FROM v").await;
    for sql in [
        "SELECT count(*) FROM v",
        "SELECT * FROM vv",
        "SELECT * FROM mv",
        "REFRESH MATERIALIZED VIEW mv",
        "COPY v TO STDOUT",
        "COPY (SELECT * FROM vv) TO STDOUT",
        "SELECT 1 FROM l WHERE a IN (SELECT id FROM v)",
        "WITH w AS (SELECT * FROM v) SELECT 1 FROM w",
        "EXPLAIN SELECT * FROM v",
        "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM v",
        "PREPARE x AS SELECT * FROM v",
        "CREATE VIEW vvv AS SELECT * FROM v",
        "ALTER VIEW v RENAME TO w",
        "ALTER FUNCTION sf() RENAME TO g",
        "CREATE TABLE x AS SELECT * FROM vv",
        "INSERT INTO l SELECT id FROM v",
        "SELECT * FROM lp",
        "SELECT sf()",
        &format!("SELECT {DATABASE}.public.sf()"),
        "SELECT * FROM l WHERE a = pf()",
        "SELECT df('d')",
        "INSERT INTO lt VALUES (1)",
        "COPY lt FROM STDIN",
        "DO $$ BEGIN EXECUTE 'DELETE FROM ' || chr(100); END $$",
        "DO $$ BEGIN PERFORM df('d'); END $$",
        "CREATE FUNCTION x() RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE chr(100); END'",
    ] {
        let (code, message) = refused(&c, sql).await;
        assert_eq!(code, "0A000", "{sql}: {message}");
    }
    for sql in
        ["SELECT * FROM lv", "SELECT lf()", "SELECT * FROM lt", "DO $$ BEGIN PERFORM lf(); END $$"]
    {
        c.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    // Who knows that it is about local tables says so; what is known to reach one stays refused.
    c.batch_execute("SET pgshunt.dynamic_sql = 'local'").await.unwrap();
    assert_eq!(texts(&c, "SELECT df('l')").await, ["0"]);
    c.batch_execute("INSERT INTO lt VALUES (1)").await.unwrap();
    c.batch_execute("DO $$ BEGIN EXECUTE 'SELECT 1'; END $$").await.unwrap();
    assert_eq!(refused(&c, "SELECT * FROM v").await.0, "0A000");
    c.batch_execute("RESET pgshunt.dynamic_sql").await.unwrap();
    assert_eq!(refused(&c, "SELECT df('l')").await.0, "0A000");
    home.batch_execute("ALTER VIEW v RENAME TO w").await.unwrap();
    comes_to_be_refused(&c, "SELECT count(*) FROM w").await;
}
