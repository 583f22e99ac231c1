//! Enums are their owner's, and so are the casts of an enum: what a cast calls must not run as pgshunt's role.

use tokio_postgres::Client;

use crate::support::*;

/// Says who runs it, if that is a superuser.
const SPY: &str = "\
CREATE FUNCTION spy(mood) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    RAISE EXCEPTION 'caught as %', current_user;
  END IF;
  RETURN 'ok';
END $$";

const CAST: &str = "CREATE CAST (mood AS text) WITH FUNCTION spy(mood) AS ASSIGNMENT";

/// Whatever becomes of it, it is not carried out with pgshunt's rights.
async fn tries(client: &Client, text: &str) -> bool {
    match client.batch_execute(text).await {
        Ok(()) => true,
        Err(e) => {
            let words = format!("{:?}", e.as_db_error());
            assert!(!words.contains("caught"), "{text}: {words}");
            false
        }
    }
}

#[tokio::test]
async fn a_cast_of_an_enum_does_not_run_with_pgshunts_rights() {
    let p = Proxy::start(2, 2).await;
    p.console().await.does("SET shard_count = 2").await;
    let admin = p.client().await;
    admin.batch_execute("CREATE ROLE alice LOGIN PASSWORD 'secret'").await.unwrap();
    admin.batch_execute("GRANT CREATE ON SCHEMA public TO alice").await.unwrap();
    let alice = connect_as(p.port(), DATABASE, "alice", "secret").await.unwrap();
    for text in [
        "CREATE TYPE mood AS ENUM ('ok', 'bad')",
        "CREATE TABLE t (k int PRIMARY KEY, m mood) PARTITION BY HASH (k)",
        "INSERT INTO t VALUES (1, 'ok'), (2, 'ok'), (3, 'ok')",
    ] {
        alice.batch_execute(text).await.unwrap();
    }
    // Planted past pgshunt, behind what is begun and before pgshunt goes on with it.
    for (n, node) in p.nodes.nodes.iter().enumerate() {
        let own = connect_as(node.port(), DATABASE, "alice", "secret").await.unwrap();
        own.batch_execute(SPY).await.unwrap();
        own.batch_execute("BEGIN").await.unwrap();
        let index = "CREATE INDEX planted ON ONLY t ((m::text)) WHERE 'ok'::mood::text = 'ok'";
        // That it is immutable only its owner says; without the cast PostgreSQL does not believe it.
        let begun = tries(&own, index).await;
        own.batch_execute("ROLLBACK; BEGIN").await.unwrap();
        own.batch_execute(CAST).await.unwrap();
        let begun = tries(&own, index).await || begun;
        let settled = begun && tries(&own, "SELECT pgshunt.settle('t')").await;
        assert!(!settled, "node {n}: an index of a plain role's function");
        own.batch_execute("ROLLBACK").await.unwrap();
        own.batch_execute(CAST).await.unwrap();
    }
    for text in [
        "ALTER TABLE t ADD COLUMN a text DEFAULT 'ok'::mood::text",
        "ALTER TABLE t ADD COLUMN a timestamptz DEFAULT now()",
        "ALTER TABLE t ADD CHECK ('ok'::mood::text = 'ok')",
        "ALTER TABLE t ADD CHECK (m::text <> 'x')",
        "CREATE INDEX ON t ((m::text))",
        "CREATE INDEX ON t (k) WHERE 'ok'::mood::text = 'ok'",
        "CREATE INDEX ON t (k)",
        "ALTER TABLE t ADD UNIQUE (k, m)",
        "ALTER TABLE t ALTER COLUMN m TYPE text",
        "CREATE TABLE u (k int, a text DEFAULT 'ok'::mood::text) PARTITION BY HASH (k)",
        "CREATE TABLE u (k int, m mood, CHECK (m::text <> 'x')) PARTITION BY HASH (k)",
        "CREATE TABLE u (k int, a text GENERATED ALWAYS AS ('ok'::mood::text) STORED) PARTITION BY HASH (k)",
        "VACUUM FULL t",
        "ANALYZE t",
    ] {
        tries(&alice, text).await;
        for block in ["BEGIN", "ROLLBACK"] {
            alice.batch_execute(block).await.unwrap();
            if block == "BEGIN" {
                tries(&alice, text).await;
            }
        }
    }
    let console = p.console().await;
    if let Err(e) = console.client.batch_execute("MOVE SHARD 1 TO node2").await {
        assert!(!format!("{e:?}").contains("caught"), "{e:?}");
    }
}

#[tokio::test]
async fn a_cast_of_an_enum_does_not_run_when_a_reference_tables_rows_are_brought() {
    let p = Proxy::start(3, 2).await;
    let admin = p.client().await;
    admin.batch_execute("CREATE ROLE alice LOGIN PASSWORD 'secret'").await.unwrap();
    admin.batch_execute("GRANT CREATE ON SCHEMA public TO alice").await.unwrap();
    let alice = connect_as(p.port(), DATABASE, "alice", "secret").await.unwrap();
    // A superuser's table may have a plain role's type.
    alice.batch_execute("CREATE TYPE mood AS ENUM ('ok', 'bad')").await.unwrap();
    for text in [
        "CREATE TABLE early (k int, m mood)",
        "INSERT INTO early VALUES (1, 'bad'), (2, NULL)",
        "SELECT create_reference_table('early')",
        "CREATE TABLE late (k int, m mood)",
        "INSERT INTO late VALUES (1, 'bad'), (2, NULL)",
    ] {
        admin.batch_execute(text).await.unwrap_or_else(|e| panic!("{text}: {e:?}"));
    }
    for node in &p.nodes.nodes[..2] {
        let own = connect_as(node.port(), DATABASE, "alice", "secret").await.unwrap();
        own.batch_execute(SPY).await.unwrap();
        own.batch_execute(CAST).await.unwrap();
    }
    // It is sprung by who has the rights of a superuser.
    let sprung = connect(p.nodes.nodes[0].port()).await;
    let e = sprung.batch_execute("SELECT m::text FROM early").await.unwrap_err();
    assert!(format!("{e:?}").contains("caught"), "{e:?}");
    admin.batch_execute("SELECT create_reference_table('late')").await.unwrap();
    let console = p.console().await;
    console.does(&format!("ADD NODE node3 '127.0.0.1:{}'", p.nodes.nodes[2].port())).await;
    for (n, node) in p.nodes.nodes.iter().enumerate() {
        let direct = connect(node.port()).await;
        for table in ["early", "late"] {
            let sql = format!("SELECT format('%s %s', k, m) FROM {table} ORDER BY k");
            assert_eq!(texts(&direct, &sql).await, ["1 bad", "2 "], "{table} of node {}", n + 1);
        }
    }
}
