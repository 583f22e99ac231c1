//! What a server process keeps that no SET has put there: parameters that the catalog's own views and
//! functions set, and what no parameter shows.

use super::*;

#[tokio::test]
async fn a_parameter_set_by_whatever_way_is_the_sessions_own() {
    let (proxy, a, b) = two_on_one().await;
    let setup = "CREATE VIEW views AS SELECT * FROM pg_settings; \
        CREATE FUNCTION by_update(v text) RETURNS void LANGUAGE plpgsql AS \
          $$ BEGIN UPDATE pg_settings SET setting = v WHERE name = 'work_mem'; END $$";
    a.batch_execute(setup).await.unwrap();
    let mem = async |c: &Client| texts(c, "SHOW work_mem").await.remove(0);
    for (n, sql) in [
        "UPDATE pg_settings SET setting = '{v}' WHERE name = 'work_mem'",
        "UPDATE pg_catalog.pg_settings s SET setting = '{v}' WHERE s.name = 'work_mem'",
        "UPDATE views SET setting = '{v}' WHERE name = 'work_mem'",
        "EXPLAIN ANALYZE UPDATE pg_settings SET setting = '{v}' WHERE name = 'work_mem'",
        "SELECT by_update('{v}')",
        "SELECT query_to_xml('SELECT set_config(''work_mem'', ''{v}'', false)', true, false, '')",
        "SELECT set_config(name, '{v}', false) FROM pg_settings WHERE name = 'work_mem'",
        "SELECT {db}.pg_catalog.set_config('work_mem', '{v}', false)",
        "SELECT {db}.public.by_update('{v}')",
        "EXPLAIN ANALYZE CREATE TABLE made AS SELECT set_config('work_mem', '{v}', false)",
    ]
    .into_iter()
    .enumerate()
    {
        let value = format!("{}MB", 5 + n);
        let sql = sql.replace("{v}", &value).replace("{db}", DATABASE);
        // By either protocol.
        if n % 2 == 0 {
            a.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        } else {
            a.query(&sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
        assert_eq!(mem(&b).await, "4MB", "{sql}");
        assert_eq!(mem(&a).await, value, "{sql}");
    }
    a.batch_execute("UPDATE pg_settings SET setting = 'LATIN1' WHERE name = 'client_encoding'")
        .await
        .unwrap();
    assert_eq!(value::<i32>(&b, "SELECT length('ü')").await, 1);
    assert_eq!(texts(&a, "SHOW client_encoding").await, ["LATIN1"]);
    drop(proxy);
}

#[tokio::test]
async fn a_temporary_table_binds_whatever_statement_made_it() {
    for sql in [
        "SELECT 1 AS n INTO TEMP made UNION SELECT 2",
        "EXPLAIN ANALYZE CREATE TEMP TABLE made AS SELECT 1 AS n",
    ] {
        let (proxy, a, _b) = two_on_one().await;
        does(&a, sql).await;
        assert!(texts(&a, "SELECT n::text FROM made").await.contains(&"1".to_owned()), "{sql}");
        assert_eq!(pinned_by(&proxy).await, ["a temporary table", ""], "{sql}");
    }
}

#[tokio::test]
async fn set_config_of_what_texts_are_read_by_does_what_set_does() {
    let (_proxy, a, b) = two_on_one().await;
    for sql in [
        "SELECT set_config('client_encoding', 'UTF8', false)",
        "SELECT set_config('standard_conforming_strings', 'on', false)",
        "SELECT pg_catalog.set_config('client_encoding', 'UTF8', true)",
    ] {
        a.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let given = "SELECT set_config($1, $2, $3)";
    for (name, value, local) in
        [("client_encoding", "utf-8", false), ("standard_conforming_strings", "on", true)]
    {
        a.query(given, &[&name, &value, &local]).await.unwrap();
        // Which one it was is not followed: the session keeps its connection until it asks to forget.
        a.batch_execute("DISCARD ALL").await.unwrap();
    }
    let by_value = "SELECT set_config('client_encoding', $1, false)";
    a.query(by_value, &[&"LATIN1"]).await.unwrap();
    assert_eq!(texts(&a, "SHOW client_encoding").await, ["LATIN1"]);
    assert_eq!(texts(&b, "SHOW client_encoding").await, ["UTF8"]);
    b.batch_execute("CREATE TABLE d (t int PRIMARY KEY) PARTITION BY HASH (t)").await.unwrap();
    let dump = "SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings \
                WHERE name = 'restrict_nonsystem_relation_kind'";
    b.batch_execute(dump).await.unwrap();
    for (sql, wanted) in [
        ("SELECT set_config('client_encoding', 'UTF8', false)", None),
        ("SELECT set_config('client_encoding', 'UTF8', true)", None),
        ("SELECT set_config('client_encoding', 'SJIS', true)", Some("0A000")),
        ("SELECT set_config('session_replication_role', 'replica', false)", Some("0A000")),
        ("UPDATE pg_settings SET setting = '1' WHERE name = 'work_mem'", Some("0A000")),
        ("SELECT set_config(name, '1', false) FROM pg_settings WHERE name > 'x'", Some("0A000")),
        ("SELECT count(*) FROM d", None),
        // Texts are not read as they are meant any more: no distributed table can be told apart.
        ("SELECT set_config('client_encoding', 'SJIS', false)", None),
        ("SELECT count(*) FROM d", Some("0A000")),
    ] {
        let code = b.batch_execute(sql).await.err().map(|e| e.code().unwrap().code().to_owned());
        assert_eq!(code.as_deref(), wanted, "{sql}");
    }
}

#[tokio::test]
async fn a_seed_is_the_sessions_own() {
    let proxy = shared(2).await;
    let direct = connect(proxy.nodes.nodes[0].port()).await;
    let draw = async |c: &Client| value::<f64>(c, "SELECT random()").await;
    let setup = "CREATE FUNCTION sow() RETURNS void LANGUAGE plpgsql AS \
          $$ BEGIN PERFORM setseed(0.5); END $$; \
        CREATE FUNCTION sows() RETURNS void LANGUAGE sql AS $$ SELECT sow() $$; \
        CREATE TABLE sown (n int, s text DEFAULT setseed(0.5)::text)";
    let b = proxy.client().await;
    b.batch_execute(setup).await.unwrap();
    direct.batch_execute("SELECT setseed(0.5)").await.unwrap();
    let mut sequence = Vec::new();
    for _ in 0..40 {
        sequence.push(draw(&direct).await);
    }
    for (sql, goes_on) in [
        ("SELECT setseed(0.5)", true),
        ("SELECT pg_catalog.setseed(0.5)", true),
        ("BEGIN; SELECT setseed(0.5); ROLLBACK", true),
        ("SET seed = 0.5", true),
        ("BEGIN; SET LOCAL seed = 0.5; COMMIT", true),
        ("SELECT set_config('seed', '0.5', true)", true),
        ("DO $$ BEGIN PERFORM setseed(0.5); END $$", true),
        ("SELECT sow()", true),
        // Found out afterwards: it is nobody's.
        ("SELECT sows()", false),
        ("SELECT setseed(0.5), 1 / (random() * 0)::int", false),
        ("INSERT INTO sown VALUES (1)", false),
    ] {
        let a = proxy.client().await;
        let done = a.batch_execute(sql).await;
        assert!(done.is_ok() || sql.contains('/'), "{sql}: {done:?}");
        for _ in 0..3 {
            assert!(!sequence.contains(&draw(&b).await), "{sql}");
        }
        if goes_on {
            assert_eq!([draw(&a).await, draw(&a).await], sequence[..2], "{sql}");
        }
        drop(a);
        for _ in 0..3 {
            assert!(!sequence.contains(&draw(&b).await), "{sql}");
        }
    }
}
