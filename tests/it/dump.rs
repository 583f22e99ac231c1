//! What tools see of a database with distributed tables: psql's lists, drivers' questions, pg_dump.

use std::io::Write;
use std::process::{Command, Stdio};

use pgshunt::local::Binaries;
use tokio_postgres::Client;

use crate::support::*;

/// A client program's output, and whether it ended well.
fn runs(program: &str, port: u16, arguments: &[&str], input: &str) -> (String, bool) {
    // The server programs of another version come without the clients'.
    let ours = Binaries::find().unwrap().program(program);
    let path = if ours.exists() { ours } else { program.into() };
    let conninfo = format!("host=127.0.0.1 port={port} user={SUPERUSER} dbname={DATABASE}");
    let mut child = Command::new(path)
        .args(arguments)
        .arg(format!("--dbname={conninfo}"))
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&said).into_owned(), output.status.success())
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

const TABLES: [&str; 5] = [
    "CREATE TABLE orders (tenant int, id int, note text DEFAULT 'x', PRIMARY KEY (tenant, id)) \
     PARTITION BY HASH (tenant)",
    "CREATE TABLE names (name text PRIMARY KEY, n int CHECK (n > 0)) PARTITION BY HASH (name)",
    "CREATE INDEX orders_note ON orders (note)",
    "CREATE TABLE local (a int PRIMARY KEY, b text)",
    "CREATE VIEW seen AS SELECT a FROM local",
];

async fn fill(client: &Client) {
    for tenant in 0..30 {
        let order = format!("INSERT INTO orders VALUES ({tenant}, 1, DEFAULT), ({tenant}, 2, 'ä')");
        client.batch_execute(&order).await.unwrap();
        let name = format!("INSERT INTO names VALUES ('n{tenant}', {tenant} + 1)");
        client.batch_execute(&name).await.unwrap();
    }
    client.batch_execute("INSERT INTO local VALUES (1, 'one')").await.unwrap();
}

/// All rows of all tables.
async fn rows(client: &Client) -> Vec<String> {
    let mut all = Vec::new();
    for sql in [
        "SELECT tenant || ' ' || id || ' ' || note FROM orders",
        "SELECT name || ' ' || n FROM names",
        "SELECT a || ' ' || b FROM local",
    ] {
        let mut rows = texts(client, sql).await;
        rows.sort();
        all.extend(rows);
    }
    all
}

#[tokio::test]
async fn shards_do_not_show() {
    let p = Proxy::start(3, 2).await;
    let (ours, plain) = (p.client().await, connect(p.nodes.nodes[2].port()).await);
    for table in TABLES {
        ours.batch_execute(table).await.unwrap();
        plain.batch_execute(table).await.unwrap();
    }
    let (port, beside) = (p.port(), p.nodes.nodes[2].port());
    let lists = [
        "\\dn",
        "\\d",
        "\\dt",
        "\\di",
        "\\ds",
        "\\dv",
        "\\df",
        "\\dT",
        "\\d orders",
        "\\d+ names",
        "\\d orders_note",
        "\\dp",
        "\\dP",
        "\\d *",
    ];
    aside(move || {
        for list in lists {
            let told = |port| runs("psql", port, &["-X", "-c", list], "").0;
            assert_eq!(told(port), told(beside), "{list}");
        }
    })
    .await;
    for question in [
        "SELECT table_schema || '.' || table_name || ' ' || table_type FROM information_schema.tables \
         WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
        "SELECT table_name || '.' || column_name FROM information_schema.columns c \
         WHERE c.table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name !~ '_temp_' ORDER BY 1",
        "SELECT constraint_name FROM information_schema.table_constraints \
         WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND constraint_type <> 'CHECK' ORDER BY 1",
        "SELECT tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information)' ORDER BY 1",
        "SELECT indexname FROM pg_indexes WHERE schemaname !~ '^(pg_|information)' ORDER BY 1",
        "SELECT pg_class.relname FROM pg_class JOIN pg_catalog.pg_namespace AS n ON n.oid = relnamespace \
         WHERE nspname !~ '^(pg_|information)' AND relkind IN ('r', 'p') ORDER BY pg_class.relname",
        "SELECT \"pg_class\".\"relname\" FROM \"pg_catalog\".\"pg_class\" WHERE relname LIKE 'order%' ORDER BY 1",
        "SELECT pg_catalog.pg_class.relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace \
         ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace \
         WHERE pg_catalog.pg_namespace.nspname = 'public' ORDER BY pg_catalog.pg_class.relname",
        "WITH pg_class AS (SELECT 'mine' AS relname) SELECT relname FROM pg_class",
        "SELECT count(*) || '' FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE relname = 'orders'",
        "SELECT t.typname FROM pg_type t WHERE typname IN ('orders', '_orders') ORDER BY 1",
        "SELECT nspname FROM pg_namespace WHERE tableoid = 'pg_namespace'::regclass \
         AND nspname !~ '_temp_' ORDER BY 1",
    ] {
        assert_eq!(texts(&ours, question).await, texts(&plain, question).await, "{question}");
    }
    // The same by the extended protocol, and whoever wants to see them does.
    let shards = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE $1";
    let count = async |client: &Client| -> i64 {
        client.query_one(shards, &[&"shard%"]).await.unwrap().get(0)
    };
    assert_eq!(count(&ours).await, 0);
    ours.batch_execute("SET pgshunt.show_shards = on").await.unwrap();
    assert!(count(&ours).await > 0);
    ours.batch_execute("RESET pgshunt.show_shards").await.unwrap();
    assert_eq!(count(&ours).await, 0);
}

#[tokio::test]
async fn a_dump_has_the_rows_of_all_nodes() {
    let p = Proxy::start(3, 2).await;
    let ours = p.client().await;
    for table in TABLES {
        ours.batch_execute(table).await.unwrap();
    }
    fill(&ours).await;
    let (port, beside) = (p.port(), p.nodes.nodes[2].port());
    let restored = aside(move || {
        let (dump, well) = runs("pg_dump", port, &[], "");
        assert!(well, "{dump}");
        assert!(!dump.contains("shard_"), "{dump}");
        let (said, well) = runs("psql", beside, &["-X", "-v", "ON_ERROR_STOP=1"], &dump);
        assert!(well, "{said}");
        dump
    })
    .await;
    let plain = connect(beside).await;
    assert_eq!(rows(&plain).await, rows(&ours).await);
    assert!(!restored.contains("PARTITION BY"), "what is restored are plain tables");

    // Into another cluster, whose tables are distributed already.
    let other = Proxy::start(2, 2).await;
    let theirs = other.client().await;
    for table in TABLES {
        theirs.batch_execute(table).await.unwrap();
    }
    let into = other.port();
    aside(move || {
        let (dump, well) = runs("pg_dump", port, &["--data-only"], "");
        assert!(well, "{dump}");
        let (said, well) = runs("psql", into, &["-X", "-v", "ON_ERROR_STOP=1"], &dump);
        assert!(well, "{said}");
        for arguments in [&["--schema-only"][..], &["-t", "local"], &["-n", "public"]] {
            let (dump, well) = runs("pg_dump", port, arguments, "");
            assert!(well, "{arguments:?}: {dump}");
        }
        // By a cursor over ONLY the table.
        let (said, well) = runs("pg_dump", port, &["-t", "orders", "--inserts"], "");
        assert!(!well && said.contains("ONLY of the distributed table"), "{said}");
    })
    .await;
    assert_eq!(rows(&theirs).await, rows(&ours).await);
}
