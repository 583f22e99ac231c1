//! Schemas, enums and extensions: what tables may use is made on all nodes.

use tokio_postgres::Client;

use crate::support::*;

/// A cluster of two of three nodes, a client of a role that may do no more than a migration needs, and of each node.
async fn cluster() -> (Proxy, Client, Vec<Client>) {
    let p = Proxy::start(3, 2).await;
    p.console().await.does("SET shard_count = 4").await;
    let admin = p.client().await;
    for sql in [
        "CREATE ROLE alice LOGIN PASSWORD 'secret'",
        "GRANT CREATE ON SCHEMA public TO alice",
        "GRANT CREATE ON DATABASE app TO alice",
    ] {
        admin.batch_execute(sql).await.unwrap();
    }
    let alice = connect_as(p.port(), DATABASE, "alice", "secret").await.unwrap();
    let mut nodes = Vec::new();
    for node in &p.nodes.nodes {
        let client = connect(node.port()).await;
        client.batch_execute("SET search_path = public").await.unwrap();
        nodes.push(client);
    }
    (p, alice, nodes)
}

/// What the nodes in use say; all say the same.
async fn both_say(nodes: &[Client], sql: &str) -> String {
    let said: [String; 2] = [value(&nodes[0], sql).await, value(&nodes[1], sql).await];
    assert_eq!(said[0], said[1], "{sql}");
    said[0].clone()
}

async fn runs(client: &Client, texts: &[&str]) {
    for text in texts {
        client.batch_execute(text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"));
    }
}

async fn fails(client: &Client, text: &str) -> String {
    let error = client.batch_execute(text).await.expect_err(text);
    error.code().expect(text).code().to_owned()
}

const LABELS: &str = "SELECT coalesce(string_agg(concat(t.typname, ' ', e.enumlabel, ' ', pg_get_userbyid(typowner)), ', ' \
    ORDER BY t.typname, enumsortorder), '') FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid";

#[tokio::test]
async fn an_enum_and_the_tables_that_use_it_come_with_one_migration() {
    let (p, alice, nodes) = cluster().await;
    let migration = "\
        CREATE TYPE mood AS ENUM ('sad', 'ok'); \
        CREATE TABLE t (k int PRIMARY KEY, m mood NOT NULL DEFAULT 'ok', ms mood[] DEFAULT '{sad}', \
            CHECK (m >= 'sad')) PARTITION BY HASH (k); \
        CREATE INDEX ON t (m); \
        INSERT INTO t (k) VALUES (1), (2), (3), (4), (5), (6), (7), (8)";
    assert_eq!(fails(&alice, &format!("{migration}; SELECT 1/0")).await, "22012");
    runs(&alice, &["SELECT 1"]).await;
    assert_eq!(both_say(&nodes, LABELS).await, "");
    runs(&alice, &[migration]).await;
    assert_eq!(both_say(&nodes, LABELS).await, "mood sad alice, mood ok alice");
    runs(
        &alice,
        &[
            "ALTER TYPE mood ADD VALUE 'happy'",
            "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'happy'",
            "ALTER TYPE mood ADD VALUE 'low' BEFORE 'ok'",
            "UPDATE t SET m = 'happy', ms = '{low,ok}' WHERE k > 2",
            "BEGIN; ALTER TYPE mood RENAME VALUE 'low' TO 'down'; ALTER TYPE mood RENAME TO humour; ROLLBACK",
            "ALTER TYPE mood RENAME VALUE 'low' TO 'down'",
            "ALTER TYPE mood RENAME TO humour",
            // Outside of a block, a column, a key and an index.
            "ALTER TABLE t ADD COLUMN n humour",
            "ALTER TABLE t ADD UNIQUE (k, n)",
            "CREATE INDEX t_mn ON t (m, n) WHERE m <> 'sad'",
            "ALTER TABLE t RENAME COLUMN n TO o",
            "CREATE TABLE u (k int, m humour) PARTITION BY HASH (k)",
            "INSERT INTO u VALUES (1, 'down'), (2, 'ok'), (3, 'ok'), (4, 'ok')",
        ],
    )
    .await;
    assert_eq!(
        both_say(&nodes, LABELS).await,
        "humour sad alice, humour down alice, humour ok alice, humour happy alice"
    );
    let found =
        texts(&alice, "SELECT m || ' ' || ms::text FROM t WHERE k IN (1, 5) ORDER BY k").await;
    assert_eq!(found, ["ok {sad}", "happy {down,ok}"]);
    assert_eq!(fails(&alice, "DROP TYPE humour").await, "2BP01");
    assert_eq!(fails(&alice, "INSERT INTO t (k, m) VALUES (9, 'low')").await, "22P02");

    // A shard with it moves, and a node that comes later has it.
    let console = p.console().await;
    let shard = "SELECT min(shard_id) FROM pgshunt.placements WHERE node_id = 1";
    let shard: i32 = value(&nodes[0], shard).await;
    console.does(&format!("MOVE SHARD {shard} TO node2")).await;
    let home = &nodes[0];
    wait_for("the move", async || {
        let state = "SELECT string_agg(state, ' ') FROM pgshunt.moves";
        (value::<String>(home, state).await == "soaking").then_some(())
    })
    .await;
    console.does(&format!("ADD NODE node3 '127.0.0.1:{}'", p.nodes.nodes[2].port())).await;
    assert_eq!(value::<String>(&nodes[2], LABELS).await, both_say(&nodes, LABELS).await);
    runs(&alice, &["ALTER TYPE humour ADD VALUE 'glad'", "DROP TABLE t, u", "DROP TYPE humour"])
        .await;
    assert_eq!(both_say(&nodes, LABELS).await, "");
    assert_eq!(value::<String>(&nodes[2], LABELS).await, "");
}

/// What is the home node's own stays its own.
#[tokio::test]
async fn other_types_stay_at_home() {
    let (_p, alice, nodes) = cluster().await;
    nodes[0]
        .batch_execute("CREATE TYPE older AS ENUM ('a'); ALTER TYPE older OWNER TO alice")
        .await
        .unwrap();
    runs(
        &alice,
        &[
            "CREATE TABLE l (a int)",
            "CREATE TYPE pair AS (a int, b l)",
            "CREATE DOMAIN small AS int CHECK (VALUE < 10)",
            "ALTER TYPE pair RENAME TO couple",
            "ALTER TYPE older ADD VALUE 'b'",
            "ALTER TYPE older RENAME TO old",
            "DROP TYPE couple, old",
            "DROP TYPE small CASCADE",
            "DROP TYPE IF EXISTS nothing",
            "CREATE TEMP TABLE mine (a int)",
            "CREATE TYPE pg_temp.own AS ENUM ('a')",
        ],
    )
    .await;
    assert_eq!(fails(&alice, "DROP TYPE nothing").await, "42704");
    assert_eq!(fails(&alice, "ALTER TYPE nothing ADD VALUE 'x'").await, "42704");
    assert_eq!(fails(&alice, "CREATE TYPE pgshunt.x AS ENUM ('a')").await, "42501");
}

#[tokio::test]
async fn schemas_and_extensions_are_on_all_nodes() {
    let (p, alice, nodes) = cluster().await;
    runs(
        &alice,
        &[
            "CREATE SCHEMA app; SET search_path = app; CREATE TYPE mood AS ENUM ('x'); \
             CREATE TABLE t (k int, m mood) PARTITION BY HASH (k); RESET search_path",
            "INSERT INTO app.t VALUES (1, 'x'), (2, 'x'), (3, 'x')",
            "CREATE SCHEMA IF NOT EXISTS app",
            "CREATE SCHEMA own AUTHORIZATION alice",
            "ALTER SCHEMA own RENAME TO owned",
        ],
    )
    .await;
    let schemas = "SELECT string_agg(concat(nspname, ' ', pg_get_userbyid(nspowner)), ', ' ORDER BY nspname) \
        FROM pg_namespace WHERE nspname IN ('app', 'own', 'owned')";
    assert_eq!(both_say(&nodes, schemas).await, "app alice, owned alice");
    assert_eq!(fails(&alice, "CREATE SCHEMA app").await, "42P06");
    assert_eq!(fails(&alice, "DROP SCHEMA app CASCADE").await, "0A000");
    runs(&alice, &["DROP TABLE app.t", "DROP TYPE app.mood", "DROP SCHEMA IF EXISTS app, owned"])
        .await;
    let left = format!("SELECT coalesce(({schemas}), '')");
    assert_eq!(both_say(&nodes, &left).await, "");

    let extensions =
        "SELECT coalesce(string_agg(extname, ' '), '') FROM pg_extension WHERE extname = 'citext'";
    let known = "SELECT count(*) FROM pg_available_extensions WHERE name = 'citext'";
    if value::<i64>(&nodes[0], known).await == 0 {
        return;
    }
    nodes[0].batch_execute("CREATE EXTENSION citext").await.unwrap();
    let admin = p.client().await;
    assert_eq!(fails(&admin, "CREATE EXTENSION citext").await, "42710");
    runs(
        &admin,
        &[
            "CREATE EXTENSION IF NOT EXISTS citext",
            "CREATE TABLE caseless (k int, v citext) PARTITION BY HASH (k)",
            "INSERT INTO caseless VALUES (1, 'A'), (2, 'a'), (3, 'b')",
            "ALTER EXTENSION citext UPDATE",
        ],
    )
    .await;
    assert_eq!(both_say(&nodes, extensions).await, "citext");
    assert_eq!(value::<i64>(&admin, "SELECT count(*) FROM caseless WHERE v = 'A'").await, 2);
    assert_eq!(fails(&admin, "DROP EXTENSION citext").await, "2BP01");
    runs(&admin, &["DROP TABLE caseless", "DROP EXTENSION citext"]).await;
    assert_eq!(both_say(&nodes, extensions).await, "");
}
