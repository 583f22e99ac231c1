//! VACUUM, ANALYZE, REINDEX and CLUSTER of distributed tables, and of everything, on all nodes.

use tokio_postgres::Client;

use crate::support::*;

/// A cluster with a table `t` of alice's, her, and a client of each node.
async fn cluster() -> (Proxy, Client, Vec<Client>) {
    let p = Proxy::start(2, 2).await;
    p.console().await.does("SET shard_count = 4").await;
    let admin = p.client().await;
    admin.batch_execute("CREATE ROLE alice LOGIN PASSWORD 'secret'").await.unwrap();
    admin.batch_execute("GRANT CREATE ON SCHEMA public TO alice").await.unwrap();
    let alice = connect_as(p.port(), DATABASE, "alice", "secret").await.unwrap();
    for sql in [
        "CREATE TABLE t (k int PRIMARY KEY, a text) PARTITION BY HASH (k)",
        "CREATE INDEX t_a ON t (a)",
        "CREATE TABLE l (a int)",
    ] {
        alice.batch_execute(sql).await.unwrap();
    }
    for k in 0..20 {
        alice.batch_execute(&format!("INSERT INTO t VALUES ({k}, 'a{k}')")).await.unwrap();
    }
    let mut nodes = Vec::new();
    for node in &p.nodes.nodes {
        let client = connect(node.port()).await;
        client.batch_execute("SET search_path = public").await.unwrap();
        nodes.push(client);
    }
    (p, alice, nodes)
}

/// Whether the look says on every node something else than before.
async fn changes(nodes: &[Client], look: &str, alice: &Client, sql: &str) {
    let mut before = Vec::new();
    for node in nodes {
        before.push(value::<String>(node, look).await);
    }
    alice.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    for (node, before) in nodes.iter().zip(before) {
        wait_for(sql, async || (value::<String>(node, look).await != before).then_some(())).await;
    }
}

const LEAVES: &str = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname LIKE 'shard%' AND";

#[tokio::test]
async fn storage_is_looked_after_on_all_nodes() {
    let (_p, alice, nodes) = cluster().await;
    let count = |column: &str| {
        format!(
            "SELECT string_agg(concat(relname, {column}), ' ' ORDER BY relid) FROM pg_stat_all_tables \
             WHERE schemaname LIKE 'shard%'"
        )
    };
    let (vacuumed, analyzed) = (count("vacuum_count"), count("analyze_count"));
    changes(&nodes, &vacuumed, &alice, "VACUUM t").await;
    changes(&nodes, &vacuumed, &alice, "VACUUM (FREEZE, ANALYZE) public.t (a)").await;
    changes(&nodes, &analyzed, &alice, "ANALYZE t (k, a)").await;
    changes(&nodes, &analyzed, &alice, "BEGIN; ANALYZE t; COMMIT").await;
    // Of all that is the role's.
    changes(&nodes, &vacuumed, &alice, "VACUUM").await;
    changes(&nodes, &analyzed, &alice, "ANALYZE").await;

    let of_tables =
        format!("SELECT string_agg(relfilenode::text, ' ' ORDER BY c.oid) {LEAVES} relkind = 'r'");
    let of_indexes =
        format!("SELECT string_agg(relfilenode::text, ' ' ORDER BY c.oid) {LEAVES} relkind = 'i'");
    changes(&nodes, &of_tables, &alice, "VACUUM FULL t").await;
    changes(&nodes, &of_indexes, &alice, "REINDEX TABLE t").await;
    changes(&nodes, &of_indexes, &alice, "REINDEX INDEX t_a").await;
    if value::<i32>(&nodes[0], "SELECT current_setting('server_version_num')::int").await >= 150_000
    {
        changes(&nodes, &of_tables, &alice, "CLUSTER t USING t_a").await;
    }
    let statement = alice.prepare("VACUUM t").await.unwrap();
    alice.execute(&statement, &[]).await.unwrap();
    assert_eq!(value::<i64>(&alice, "SELECT count(*) FROM t").await, 20);
}

#[tokio::test]
async fn it_is_refused_in_postgresqls_words() {
    let (p, alice, nodes) = cluster().await;
    let admin = p.client().await;
    admin.batch_execute("CREATE ROLE bob LOGIN PASSWORD 'secret'").await.unwrap();
    let bob = connect_as(p.port(), DATABASE, "bob", "secret").await.unwrap();
    let code = async |client: &Client, sql: &str| {
        let error = client.batch_execute(sql).await.expect_err(sql);
        let error = error.as_db_error().unwrap();
        (error.code().code().to_owned(), error.message().to_owned())
    };
    for (sql, words) in [
        ("VACUUM t", "VACUUM cannot run inside a transaction block"),
        ("VACUUM", "VACUUM cannot run inside a transaction block"),
        ("REINDEX TABLE t", "REINDEX TABLE cannot run inside a transaction block"),
        ("REINDEX INDEX t_a", "REINDEX INDEX cannot run inside a transaction block"),
        ("CLUSTER", "CLUSTER cannot run inside a transaction block"),
    ] {
        alice.batch_execute("BEGIN").await.unwrap();
        assert_eq!(code(&alice, sql).await, ("25001".into(), words.into()), "{sql}");
        alice.batch_execute("ROLLBACK").await.unwrap();
        let text = format!("INSERT INTO l VALUES (1); {sql}");
        assert_eq!(code(&alice, &text).await, ("25001".into(), words.into()), "{text}");
    }
    assert_eq!(value::<i64>(&alice, "SELECT count(*) FROM l").await, 0);
    assert_eq!(code(&alice, "ANALYZE t (nonsense)").await.0, "42703");
    assert_eq!(code(&alice, "VACUUM (nonsense) t").await.0, "42601");
    assert_eq!(code(&bob, "REINDEX TABLE t").await.0, "42501");
    assert_eq!(code(&bob, "REINDEX DATABASE app").await.0, "42501");
    // Who may not is passed over, with a warning.
    let looked = "SELECT coalesce(sum(vacuum_count), 0)::text FROM pg_stat_all_tables WHERE schemaname LIKE 'shard%'";
    bob.batch_execute("VACUUM t").await.unwrap();
    for node in &nodes {
        assert_eq!(value::<String>(node, looked).await, "0");
    }
    admin.batch_execute("REINDEX DATABASE app").await.unwrap();
}
