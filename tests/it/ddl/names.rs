//! What a statement names decides where it runs, whatever else is called like a distributed table.

use super::*;

async fn code(client: &Client, sql: &str) -> String {
    match client.batch_execute(sql).await {
        Ok(()) => "done".into(),
        Err(e) => e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}")).code().code().into(),
    }
}

/// A role's tables have names that others' statements are full of.
#[tokio::test]
async fn names_of_one_roles_tables_stop_nobody_elses_statements() {
    let p = Proxy::start(2, 2).await;
    let root = p.client().await;
    root.batch_execute(
        "CREATE ROLE mallory LOGIN PASSWORD 'm'; CREATE SCHEMA hers AUTHORIZATION mallory",
    )
    .await
    .unwrap_err();
    for sql in [
        "CREATE ROLE mallory LOGIN PASSWORD 'm'",
        "CREATE SCHEMA hers AUTHORIZATION mallory",
        "CREATE TABLE public.d (id int PRIMARY KEY, v int) PARTITION BY HASH (id)",
    ] {
        root.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let mallory = connect_as(p.port(), DATABASE, "mallory", "m").await.unwrap();
    let odd = ["q\"", "id", "table", "create", "orders", "a b", "x'y", "\u{fc}", "%I", "\\"];
    for name in odd {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        for sql in [
            format!(
                "CREATE TABLE hers.{quoted} (id int, s bigint GENERATED ALWAYS AS IDENTITY, w serial) PARTITION BY HASH (id)"
            ),
            format!("CREATE INDEX {quoted} ON hers.{quoted} (id)"),
            format!("ALTER TABLE hers.{quoted} ADD COLUMN \"c {} int DEFAULT 1", &quoted[1..]),
        ] {
            // An index is in the table's schema, and has another name.
            let sql = sql.replace(
                &format!("INDEX {quoted}"),
                &format!("INDEX \"i {}\"", &quoted[1..quoted.len() - 1]),
            );
            mallory.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
    }
    for sql in [
        "CREATE TABLE local (id int PRIMARY KEY, orders text DEFAULT '\"')",
        "CREATE VIEW view_of AS SELECT id, orders AS \"table\" FROM local",
        "COMMENT ON TABLE local IS 'create table \"q\"\"\" orders id'",
        "CREATE FUNCTION f(id int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE orders int; BEGIN \
           SELECT l.id INTO orders FROM local l WHERE l.id = f.id; RETURN orders; END $$",
        "DO $$ DECLARE id int; BEGIN id := 1; INSERT INTO local (id) VALUES (id); END $$",
        "CREATE FUNCTION g(d int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN d + 1; END $$",
        "CREATE FUNCTION h() RETURNS text LANGUAGE sql AS $$ SELECT l.orders FROM local l, hers_not.d $$",
        "CREATE TYPE id AS ENUM ('orders')",
        "CREATE SEQUENCE own",
        "ALTER TABLE local ADD COLUMN d int",
        "ALTER TABLE local RENAME COLUMN d TO v",
        "CREATE INDEX local_i ON local (v)",
        "DROP INDEX CONCURRENTLY local_i",
        "DROP INDEX IF EXISTS nosuch",
        "DROP INDEX CONCURRENTLY IF EXISTS nosuch",
        "BEGIN; CREATE INDEX local_i ON local (v); DROP INDEX local_i; COMMIT",
        "VACUUM local",
        "DROP VIEW view_of",
        "DROP FUNCTION f(int)",
        "DROP TYPE id CASCADE",
        "DROP TABLE local",
        "CREATE TABLE orders (id int)",
        "INSERT INTO public.orders VALUES (1)",
        "INSERT INTO orders VALUES (2)",
        "CREATE TABLE IF NOT EXISTS public.d (id int)",
    ] {
        let sql = sql.replace(", hers_not.d", "");
        root.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    assert_eq!(code(&root, "CREATE TABLE public.d (id int)").await, "42P07");
    let rows: i64 = value(&root, "SELECT count(*) FROM orders").await;
    assert_eq!(rows, 2, "hers.orders is not on the path");
    // With both on the path, nobody is given the wrong one.
    root.batch_execute("SET search_path = public, hers").await.unwrap();
    assert_eq!(code(&root, "SELECT count(*) FROM orders").await, "0A000");
    root.batch_execute("RESET search_path").await.unwrap();
    // Her own statements go on, to the end.
    for name in odd {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        for sql in [
            format!("INSERT INTO hers.{quoted} (id) VALUES (1), (1)"),
            format!("TRUNCATE hers.{quoted}"),
            format!("DROP TABLE hers.{quoted}"),
        ] {
            mallory.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
    }
}

#[tokio::test]
async fn what_reaches_distributed_tables_is_carried_out_everywhere_or_not_at_all() {
    let p = Proxy::start(2, 2).await;
    let root = p.client().await;
    root.batch_execute(
        "CREATE TABLE d (t bigint, id int, v int, PRIMARY KEY (t, id)) PARTITION BY HASH (t)",
    )
    .await
    .unwrap();
    root.batch_execute("CREATE TABLE l (a int PRIMARY KEY)").await.unwrap();
    for t in 0..8 {
        root.batch_execute(&format!("INSERT INTO d VALUES ({t}, 1, 1)")).await.unwrap();
    }
    for sql in [
        "CREATE PUBLICATION p FOR ALL TABLES",
        "CREATE PUBLICATION p FOR TABLES IN SCHEMA public",
        "CREATE PUBLICATION p FOR TABLE d",
        "CREATE PUBLICATION p FOR TABLE l, d WHERE (v > 1)",
        "CREATE STATISTICS s ON v, id FROM d",
        "CREATE RULE r AS ON INSERT TO d DO ALSO NOTHING",
        "CREATE RULE r AS ON INSERT TO l DO ALSO DELETE FROM d",
        "CREATE VIEW w AS SELECT * FROM d",
        "CREATE MATERIALIZED VIEW w AS SELECT * FROM d",
        "CREATE TABLE x AS SELECT * FROM d",
        "CREATE TABLE x (LIKE d)",
        "CREATE TABLE x (a bigint) INHERITS (d)",
        "CREATE TABLE x PARTITION OF d FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE x (a bigint, b int, FOREIGN KEY (a, b) REFERENCES d)",
        "ALTER TABLE l ADD FOREIGN KEY (a, a) REFERENCES d (t, id)",
        "CREATE TRIGGER x AFTER INSERT ON d EXECUTE FUNCTION f()",
        "CREATE FUNCTION x() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM d'",
        "DO $$ BEGIN DELETE FROM public.d; END $$",
        "PREPARE x AS SELECT count(*) FROM d",
        "ALTER INDEX d_pkey RENAME TO x",
        "ALTER TABLE d RENAME TO x",
        "ALTER TABLE d SET SCHEMA pg_catalog",
        "ALTER TABLE l RENAME TO d",
        "CREATE VIEW pg_catalog.d AS SELECT 1",
        "REINDEX SCHEMA public",
        "VACUUM l, d",
        "REINDEX TABLE CONCURRENTLY d",
        "REINDEX INDEX CONCURRENTLY d_pkey",
        "REINDEX DATABASE CONCURRENTLY app",
        "VACUUM shard_1.d",
        "DROP TABLE shard_1.d",
        "TRUNCATE shard_1.d",
        "ALTER TABLE shard_1.d ADD COLUMN x int",
        "ALTER TABLE shard_1.d DROP COLUMN v",
        "ALTER TABLE shard_1.d RENAME TO x",
        "ALTER TABLE d DETACH PARTITION shard_1.d",
        "CREATE TABLE shard_1.x (a int)",
        "CREATE INDEX x ON shard_1.d (v)",
        "DROP INDEX shard_1.d_pkey",
        "REINDEX TABLE shard_1.d",
        "CREATE TRIGGER x AFTER INSERT ON shard_1.d EXECUTE FUNCTION f()",
        "ALTER TABLE l SET SCHEMA shard_1",
        "DROP SCHEMA shard_1",
        "DROP SCHEMA shard_1 CASCADE",
        "ALTER SCHEMA shard_1 RENAME TO x",
        "DROP SCHEMA public CASCADE",
        "DROP SCHEMA pgshunt CASCADE",
        "DROP TABLE pgshunt.shards",
        "SELECT setval('d', 1)",
    ] {
        if sql.starts_with("SELECT") {
            continue;
        }
        let e = root.batch_execute(sql).await.expect_err(sql);
        let e = e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}")).clone();
        assert_eq!(e.code().code(), "0A000", "{sql}: {e:?}");
        let hint = e.hint().unwrap_or_default();
        assert!(!hint.is_empty(), "{sql}: {e:?}");
        assert!(!hint.contains("directly"), "{sql}: {hint}");
    }
    root.batch_execute("SET search_path = shard_1, public").await.unwrap();
    for sql in [
        "DROP TABLE d",
        "TRUNCATE d",
        "SELECT count(*) FROM d",
        "CREATE TABLE d (a int)",
        "CREATE TABLE e (a int)",
    ] {
        assert_eq!(code(&root, sql).await, "0A000", "{sql}");
    }
    root.batch_execute("RESET search_path").await.unwrap();
    assert_eq!(code(&root, "LOCK TABLE d").await, "25P01");
    let rows: i64 = value(&root, "SELECT count(*) FROM d").await;
    assert_eq!(rows, 8);
    // What concerns the home node's own goes there, and PostgreSQL's words come back.
    for sql in [
        "CREATE PUBLICATION p FOR TABLE l",
        "DROP PUBLICATION p",
        "COMMENT ON TABLE l IS 'd'",
        "COMMENT ON TABLE d IS 'x'",
        "COMMENT ON COLUMN d.v IS 'x'",
        "COMMENT ON INDEX d_pkey IS 'x'",
        "ANALYZE l",
        "LOCK TABLE l",
        "REINDEX TABLE l",
    ] {
        let want = if sql.starts_with("LOCK") { "25P01" } else { "done" };
        assert_eq!(code(&root, sql).await, want, "{sql}");
    }

    // In a block.
    root.batch_execute("BEGIN").await.unwrap();
    assert_eq!(code(&root, "ALTER TABLE d ADD x int REFERENCES l").await, "0A000");
    assert_eq!(code(&root, "ALTER TABLE d ADD x int").await, "25P02");
    root.batch_execute("ROLLBACK").await.unwrap();
}

/// A superuser's function in a distributed table: what would take it away with CASCADE is refused.
#[tokio::test]
async fn a_cascade_does_not_reach_distributed_tables_on_one_node() {
    let p = Proxy::start(2, 2).await;
    let root = p.client().await;
    for node in &p.nodes.nodes {
        connect(node.port())
            .await
            .batch_execute(
                "CREATE FUNCTION public.one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; \
                 CREATE TYPE public.mood AS ENUM ('ok')",
            )
            .await
            .unwrap();
    }
    root.batch_execute("CREATE TYPE other AS (a int)").await.unwrap();
    root.batch_execute("DROP TYPE other CASCADE").await.unwrap();
    root.batch_execute(
        "CREATE TABLE d (id int, m public.mood, n int DEFAULT public.one()) PARTITION BY HASH (id)",
    )
    .await
    .unwrap();
    for sql in ["DROP FUNCTION one() CASCADE", "DROP TYPE mood CASCADE", "DROP SCHEMA x CASCADE"] {
        assert_eq!(code(&root, sql).await, "0A000", "{sql}");
    }
    assert_eq!(code(&root, "DROP FUNCTION one()").await, "2BP01");
    root.batch_execute("DROP TABLE d").await.unwrap();
    root.batch_execute("DROP TYPE mood CASCADE").await.unwrap();
}

/// What only the session sees is changed where it is.
#[tokio::test]
async fn temporary_objects_are_changed_on_the_sessions_own_connection() {
    let p = Proxy::start(2, 2).await;
    let plain = LocalCluster::start(1).unwrap();
    let (ours, theirs) = (p.client().await, connect(plain.nodes[0].port()).await);
    ours.batch_execute("CREATE TABLE d (id int PRIMARY KEY, v int) PARTITION BY HASH (id)")
        .await
        .unwrap();
    theirs.batch_execute("CREATE TABLE d (id int PRIMARY KEY, v int)").await.unwrap();
    for sql in [
        "CREATE TEMP TABLE foo (f1 int)",
        "CREATE INDEX fooi ON foo (f1)",
        "DROP INDEX IF EXISTS fooi",
        "DROP INDEX fooi",
        "CREATE INDEX fooi ON foo (f1)",
        "ALTER INDEX fooi RENAME TO bari",
        "DROP INDEX IF EXISTS pg_temp.bari, nosuch",
        "CREATE UNIQUE INDEX ON foo (f1)",
        "DROP INDEX CONCURRENTLY foo_f1_idx",
        "ALTER TABLE foo ADD COLUMN f2 int DEFAULT 5",
        "ALTER TABLE IF EXISTS foo RENAME COLUMN f2 TO f3",
        "INSERT INTO foo VALUES (1)",
        "COMMENT ON TABLE foo IS 'x'",
        "VACUUM foo",
        "ANALYZE foo",
        "TRUNCATE foo",
        "ALTER TABLE foo RENAME TO bar",
        "DROP TABLE IF EXISTS foo",
        "SELECT f1, f3 FROM bar",
        "REINDEX TABLE bar",
        "CREATE TEMP SEQUENCE s",
        "ALTER SEQUENCE s RESTART 7",
        "DROP TABLE pg_temp.bar",
        "DROP TABLE bar",
    ] {
        assert_eq!(code(&ours, sql).await, code(&theirs, sql).await, "{sql}");
    }
    let left = "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()";
    assert_eq!(value::<i64>(&ours, left).await, value::<i64>(&theirs, left).await);
}
