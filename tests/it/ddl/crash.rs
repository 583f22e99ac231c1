//! A process that dies, and nodes that die, at every step of the commit of a transaction with DDL.

use pgshunt::local::LocalCluster;
use tokio_postgres::{Client, Error};

use crate::moves::child::{Home, Served};
use crate::support::*;

/// Where the decision has been made, and where not.
const STEPS: [(&str, bool); 4] = [
    ("commit:ask", false),
    ("commit:prepare", false),
    ("commit:decide", false),
    ("commit:commit_prepared", true),
];

async fn start() -> (LocalCluster, Home) {
    let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(2)).await.unwrap().unwrap();
    let mut config = nodes.config.clone();
    config.auth.method = pgshunt::config::AuthMethod::Trust;
    let home = Home::new(&config);
    let mut served = Served::start(&home, None).await;
    let client = connect(served.port).await;
    client.batch_execute("CREATE TABLE t (k int, v int) PARTITION BY HASH (k)").await.unwrap();
    for k in 0..10 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({k}, 0)")).await.unwrap();
    }
    served.end().await;
    (nodes, home)
}

/// Adds a column of this name and an index of it, sets it, and makes a table of its own.
async fn migrate(client: &Client, name: &str) -> Result<(), Error> {
    for text in [
        "BEGIN",
        &format!("ALTER TABLE t ADD COLUMN {name} int DEFAULT 1"),
        &format!("CREATE INDEX i_{name} ON t ({name})"),
        &format!("UPDATE t SET {name} = 2 WHERE k = 3"),
        &format!("CREATE TABLE m_{name} (k int PRIMARY KEY) PARTITION BY HASH (k)"),
        &format!("INSERT INTO m_{name} VALUES (1)"),
        "COMMIT",
    ] {
        client.batch_execute(text).await?;
    }
    Ok(())
}

/// How many nodes have the column, with its index on all leaves, and the table, when nothing stands prepared any more.
async fn migrated(nodes: &LocalCluster, name: &str) -> usize {
    wait_for("prepared transactions to end", async || {
        let mut with = 0;
        for node in &nodes.nodes {
            let client = connect(node.port()).await;
            if value::<i64>(&client, "SELECT count(*) FROM pg_prepared_xacts").await > 0 {
                return None;
            }
            let column = format!(
                "SELECT count(*) FROM pg_attribute WHERE attrelid = 'public.t'::regclass AND attname = '{name}'"
            );
            let index = format!(
                "SELECT count(*) = 1 + (SELECT count(*) FROM pg_inherits WHERE inhparent = 'public.t'::regclass) \
                 FROM pg_class JOIN pg_index ON indexrelid = oid WHERE relname = 'i_{name}' AND indisvalid"
            );
            let has = value::<i64>(&client, &column).await == 1;
            let table = format!("SELECT to_regclass('public.m_{name}') IS NOT NULL");
            assert_eq!(value::<bool>(&client, &table).await, has);
            assert_eq!(value::<bool>(&client, &index).await, has);
            with += usize::from(has);
        }
        Some(with)
    })
    .await
}

#[tokio::test]
async fn a_process_that_dies_amid_a_commit_with_ddl_leaves_all_of_it_or_nothing() {
    let (nodes, home) = start().await;
    for (n, (step, decided)) in STEPS.into_iter().enumerate() {
        let (name, next) = (format!("c{n}"), format!("d{n}"));
        let mut served = Served::start(&home, Some(step)).await;
        let client = connect(served.port).await;
        migrate(&client, &name).await.expect_err("the process dies");
        served.dies().await;
        let mut served = Served::start(&home, None).await;
        assert_eq!(migrated(&nodes, &name).await, if decided { 2 } else { 0 }, "{step}");
        // Nothing is locked any more, and what is there is known.
        let client = connect(served.port).await;
        migrate(&client, &next).await.unwrap();
        let table = format!("SELECT count(*) FROM m_{name}");
        match client.query_one(&table, &[]).await {
            Ok(row) => assert!(decided && row.get::<_, i64>(0) == 1, "{step}"),
            Err(e) => assert!(!decided && e.code().unwrap().code() == "42P01", "{step}: {e:?}"),
        }
        let lost = "SELECT count(*) FROM pgshunt.tables WHERE to_regclass('public.' || table_name) IS NULL";
        let home_node = connect(nodes.nodes[0].port()).await;
        wait_for("entries to go", async || {
            (value::<i64>(&home_node, lost).await == 0).then_some(())
        })
        .await;
        let rows = format!("SELECT count(*) FROM t WHERE {next} > 0");
        assert_eq!(value::<i64>(&client, &rows).await, 10);
        served.end().await;
    }
}

#[tokio::test]
async fn a_node_that_dies_amid_a_commit_with_ddl_does_not_halve_it() {
    let (mut nodes, home) = start().await;
    for dead in [0, 1] {
        for (n, (step, decided)) in STEPS.into_iter().enumerate() {
            let name = format!("c{dead}{n}");
            let mut served = Served::start(&home, Some(&format!("{step}=stop"))).await;
            let client = connect(served.port).await;
            let wanted = name.clone();
            let migration = tokio::spawn(async move { migrate(&client, &wanted).await });
            served.stopped().await;
            nodes.nodes[dead].kill().unwrap();
            served.go_on();
            let told = migration.await.unwrap();
            nodes.nodes[dead].restart().unwrap();
            let with = migrated(&nodes, &name).await;
            assert!(with == 0 || with == 2, "{step}, node {dead}: half of it");
            assert!(told.is_err() || with == 2, "{step}, node {dead}: acknowledged and lost");
            assert!(!decided || with == 2, "{step}, node {dead}: {told:?}");
            served.end().await;
        }
    }
}
