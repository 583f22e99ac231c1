//! How a table becomes a reference table, with its rows, and on a new node; and with whose rights.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{everywhere, on_nodes, refused, shop};
use crate::support::*;

#[tokio::test]
async fn a_table_with_rows_becomes_one_and_a_new_node_gets_it() {
    let (p, c) = shop().await;
    for sql in [
        "CREATE ROLE keeper LOGIN PASSWORD 'p'",
        "GRANT CREATE ON SCHEMA public TO keeper",
        "CREATE TABLE things (id serial PRIMARY KEY, what text, d date, x float8, b bytea, twice int GENERATED ALWAYS AS (id * 2) STORED)",
        "INSERT INTO things (what, d, x, b) SELECT 'it''s \\ ' || n, date '2020-01-01' + n, n / 3.0, '\\x00ff' FROM generate_series(1, 350) n",
        "INSERT INTO things (what) VALUES (NULL)",
        "CREATE INDEX by_what ON things (what)",
        "ALTER TABLE things OWNER TO keeper",
        "GRANT SELECT ON things TO PUBLIC",
    ] {
        c.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let stranger = connect_as(p.port(), DATABASE, "keeper", "p").await.unwrap();
    let e =
        stranger.batch_execute("SELECT create_reference_table('countries2')").await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "42P01");
    assert_eq!(texts(&c, "SELECT create_reference_table('public.things')").await, [""]);
    let e = c.batch_execute("SELECT create_reference_table('things')").await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "42710");
    let sum = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) || count(*) FROM things t";
    let nodes = on_nodes(&p, 3, sum).await;
    assert!(nodes[0][0].ends_with("351") && nodes.iter().all(|n| *n == nodes[0]), "{nodes:?}");
    everywhere(&p, 3, "SELECT relowner::regrole || ' ' || (relacl IS NOT NULL) FROM pg_class WHERE relname = 'things'", &["keeper true"]).await;
    let console = p.console().await;
    console.does(&format!("ADD NODE node4 '127.0.0.1:{}'", p.nodes.nodes[3].port())).await;
    let nodes = on_nodes(&p, 4, sum).await;
    assert!(nodes.iter().all(|n| *n == nodes[0]), "{nodes:?}");
    everywhere(&p, 4, "SELECT count(*) FROM countries", &["3"]).await;
    stranger.batch_execute("UPDATE things SET what = 'new' WHERE id < 10").await.unwrap();
    everywhere(&p, 4, "SELECT count(*) FROM things WHERE what = 'new'", &["9"]).await;
    // Its DDL, TRUNCATE and end reach all nodes.
    for sql in [
        "ALTER TABLE things ADD COLUMN more int DEFAULT 7",
        "CREATE INDEX by_more ON things (more)",
        "ALTER TABLE things RENAME COLUMN what TO which",
        "BEGIN",
        "ALTER TABLE things ADD CONSTRAINT small CHECK (more < 100)",
        "UPDATE things SET more = 8 WHERE id = 1",
        "COMMIT",
    ] {
        stranger.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    everywhere(&p, 4, "SELECT sum(more) FROM things", &["2458"]).await;
    everywhere(&p, 4, "SELECT count(*) FROM pg_constraint WHERE conname = 'small'", &["1"]).await;
    stranger.batch_execute("TRUNCATE things").await.unwrap();
    everywhere(&p, 4, "SELECT count(*) FROM things", &["0"]).await;
    stranger.batch_execute("DROP TABLE things").await.unwrap();
    everywhere(&p, 4, "SELECT count(*) FROM pg_class WHERE relname = 'things'", &["0"]).await;
    c.batch_execute("CREATE TABLE things (a int)").await.unwrap();
    c.batch_execute("INSERT INTO things VALUES (1)").await.unwrap();
}

#[tokio::test]
async fn it_survives_a_dump_and_is_made_in_a_transaction() {
    let (p, c) = shop().await;
    for sql in [
        // As pg_dump writes it.
        "CREATE TABLE public.kinds (id integer NOT NULL, name character varying(20) DEFAULT 'x'::character varying, \
           CONSTRAINT pgshunt_reference CHECK (true))",
        "ALTER TABLE public.kinds OWNER TO pgshunt",
        "INSERT INTO public.kinds VALUES (1, 'a'), (2, 'b')",
        "ALTER TABLE ONLY public.kinds ADD CONSTRAINT kinds_pkey PRIMARY KEY (id)",
        "CREATE INDEX kinds_name ON public.kinds USING btree (name)",
    ] {
        let sql = sql.replace("OWNER TO pgshunt", &format!("OWNER TO {SUPERUSER}"));
        c.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    everywhere(&p, 3, "SELECT count(*) || ' ' || (SELECT count(*) FROM pg_index WHERE indrelid = 'kinds'::regclass) FROM kinds", &["2 2"]).await;
    let told =
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'pgshunt_reference'";
    assert!(texts(&c, told).await.iter().all(|t| t == "CHECK (true)"));
    for sql in [
        "BEGIN",
        "CREATE TABLE later (a int, b text DEFAULT 'x', CONSTRAINT pgshunt_reference CHECK (true))",
        "INSERT INTO later VALUES (1, 'y')",
        "INSERT INTO orders VALUES (20, 1, 'at', 1)",
    ] {
        c.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    // What its defaults are is not known yet.
    refused(&c, "INSERT INTO later VALUES (2)").await;
    c.batch_execute("ROLLBACK").await.unwrap();
    everywhere(&p, 3, "SELECT count(*) FROM pg_class WHERE relname = 'later'", &["0"]).await;
    c.batch_execute("BEGIN").await.unwrap();
    c.batch_execute(
        "CREATE TABLE later (a int, b text DEFAULT 'x', CONSTRAINT pgshunt_reference CHECK (true))",
    )
    .await
    .unwrap();
    c.batch_execute("INSERT INTO later VALUES (1, 'y')").await.unwrap();
    assert_eq!(texts(&c, "SELECT b FROM later").await, ["y"]);
    c.batch_execute("COMMIT").await.unwrap();
    c.batch_execute("INSERT INTO later VALUES (2)").await.unwrap();
    everywhere(&p, 3, "SELECT b FROM later ORDER BY a", &["y", "x"]).await;
    for sql in [
        "ALTER TABLE later DROP CONSTRAINT pgshunt_reference",
        "ALTER TABLE later RENAME CONSTRAINT pgshunt_reference TO other",
        "CREATE TRIGGER t BEFORE INSERT ON later FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE VIEW v AS SELECT * FROM later",
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'DELETE FROM later; SELECT 1::bigint'",
        "ALTER TABLE later RENAME TO sooner",
    ] {
        refused(&c, sql).await;
    }
    c.batch_execute("CREATE TABLE plain (a int)").await.unwrap();
    refused(&c, "ALTER TABLE plain ADD CONSTRAINT pgshunt_reference CHECK (true)").await;
}

#[tokio::test]
async fn a_node_that_is_added_misses_no_row() {
    let (p, c) = shop().await;
    c.batch_execute("CREATE TABLE seen (n int, CONSTRAINT pgshunt_reference CHECK (true))")
        .await
        .unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut writers = tokio::task::JoinSet::new();
    let written = Arc::<AtomicU32>::default();
    for writer in 0..4 {
        let (w, stopped, written) = (p.client().await, stopped.clone(), written.clone());
        writers.spawn(async move {
            let mut n = writer * 100_000;
            while !*stopped.borrow() {
                n += 1;
                match w.batch_execute(&format!("INSERT INTO seen VALUES ({n})")).await {
                    Ok(()) => {
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(e) => assert_eq!(e.code().unwrap().code(), "40001", "{e:?}"),
                }
            }
        });
    }
    let console = p.console().await;
    console.does(&format!("ADD NODE node4 '127.0.0.1:{}'", p.nodes.nodes[3].port())).await;
    let before = written.load(Ordering::Relaxed);
    wait_for("writes on the node that has come", async || {
        (written.load(Ordering::Relaxed) > before + 40).then_some(())
    })
    .await;
    stop.send(true).unwrap();
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let nodes = on_nodes(&p, 4, "SELECT count(*) || ' ' || sum(n) FROM seen").await;
    assert!(nodes.iter().all(|n| *n == nodes[0]), "{nodes:?}");
}

#[tokio::test]
async fn only_who_may_change_a_table_keeps_others_from_it() {
    let (p, c) = shop().await;
    for sql in [
        "CREATE ROLE reader LOGIN PASSWORD 'p'",
        "CREATE ROLE writer LOGIN PASSWORD 'p'",
        "GRANT SELECT ON countries TO reader",
        "GRANT INSERT ON countries TO writer",
        "CREATE TABLE plain (a int)",
        "GRANT INSERT ON plain TO writer",
    ] {
        c.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    for (role, table, held) in
        [("reader", "countries", "0"), ("writer", "countries", "1"), ("writer", "plain", "0")]
    {
        let direct = connect_as(p.nodes.nodes[0].port(), DATABASE, role, "p").await.unwrap();
        direct.batch_execute(&format!("BEGIN; SELECT pgshunt.hold('{table}', 3)")).await.unwrap();
        let locks = format!(
            "SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND mode LIKE 'ShareRow%'"
        );
        assert_eq!(texts(&direct, &locks).await, [held], "{role} of {table}");
        direct.batch_execute("ROLLBACK").await.unwrap();
    }
    let reader = connect_as(p.port(), DATABASE, "reader", "p").await.unwrap();
    let e = reader.batch_execute("DELETE FROM countries").await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "42501");
    let writer = connect_as(p.port(), DATABASE, "writer", "p").await.unwrap();
    writer
        .batch_execute("INSERT INTO countries (code, name) VALUES ('dk', 'Denmark')")
        .await
        .unwrap();
    everywhere(&p, 3, "SELECT count(*) FROM countries", &["4"]).await;
}

#[tokio::test]
async fn nothing_of_an_owners_runs_as_the_service_role_when_a_table_becomes_another_kind() {
    let (p, c) = shop().await;
    for sql in [
        "CREATE ROLE mallory LOGIN PASSWORD 'p'",
        "GRANT CREATE ON SCHEMA public TO mallory",
        "CREATE TABLE ran (who text, node text)",
        "GRANT ALL ON ran TO PUBLIC",
    ] {
        c.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    // The same trap on every node, as if she had got there before.
    for node in &p.nodes.nodes[..4] {
        let direct = connect(node.port()).await;
        direct
            .batch_execute(
                "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mallory') THEN \
                   CREATE ROLE mallory LOGIN PASSWORD 'p'; END IF; END $$; \
                 GRANT CREATE ON SCHEMA public TO mallory; CREATE TABLE IF NOT EXISTS ran (who text, node text); \
                 GRANT ALL ON ran TO PUBLIC; SET SESSION AUTHORIZATION mallory; \
                 CREATE FUNCTION spring() RETURNS void LANGUAGE plpgsql AS $$ BEGIN \
                   INSERT INTO public.ran VALUES (current_user, 'trap'); END $$; \
                 CREATE FUNCTION trap(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN \
                   PERFORM public.spring(); RETURN true; END $$; \
                 CREATE FUNCTION trapped() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                   INSERT INTO public.ran VALUES (current_user, 'trigger'); RETURN NEW; END $$",
            )
            .await
            .unwrap();
    }
    let m = connect_as(p.port(), DATABASE, "mallory", "p").await.unwrap();
    for (n, (columns, more)) in [
        ("a int CHECK (trap(a))", ""),
        ("a int, g boolean GENERATED ALWAYS AS (trap(a)) STORED", ""),
        ("a int", "CREATE INDEX ON t1 (trap(a))"),
        ("a int DEFAULT (trap(1))::int", ""),
        ("a int", "CREATE TRIGGER t BEFORE INSERT ON t1 FOR EACH ROW EXECUTE FUNCTION trapped()"),
        ("a int", "CREATE RULE r AS ON INSERT TO t1 DO ALSO INSERT INTO ran VALUES (current_user, 'rule')"),
        // PostgreSQL's own function that runs a text.
        ("a int CHECK (query_to_xml('SELECT current_user', true, true, '')::text !~ 'postgres|pgshunt')", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let direct = connect_as(p.nodes.nodes[0].port(), DATABASE, "mallory", "p").await.unwrap();
        direct.batch_execute(&format!("CREATE TABLE t1 ({columns}); {more}; INSERT INTO t1 (a) VALUES (1)")).await.unwrap();
        let calls = ["create_reference_table('t1')", "create_distributed_table('t1', 'a')"];
        for (who, call) in [&c, &m].into_iter().flat_map(|who| calls.map(|call| (who, call))) {
            let made = who.batch_execute(&format!("SELECT {call}")).await;
            if n == 6 {
                made.unwrap_or_else(|e| panic!("rows come as the owner: {e:?}"));
                who.batch_execute("SELECT undistribute_table('t1')").await.unwrap();
                c.batch_execute("DROP TABLE t1").await.unwrap();
                direct.batch_execute(&format!("CREATE TABLE t1 ({columns}); INSERT INTO t1 (a) VALUES (1)")).await.unwrap();
            } else {
                assert_eq!(made.expect_err(columns).code().unwrap().code(), "0A000", "{columns} {more} {call}");
            }
        }
        direct.batch_execute("DROP TABLE t1").await.unwrap();
    }
    for ran in on_nodes(&p, 4, "SELECT who FROM ran").await {
        assert!(ran.iter().all(|who| who == "mallory"), "{ran:?}");
    }
}
