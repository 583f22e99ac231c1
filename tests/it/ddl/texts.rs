//! Texts of several statements with DDL among them, as migration tools send whole files.

use crate::support::*;

/// Two statements on as many nodes, a table made, filled and changed by one text.
#[tokio::test]
async fn a_file_of_migrations_is_one_transaction() {
    let p = Proxy::start(2, 2).await;
    p.console().await.does("SET shard_count = 4").await;
    let client = p.client().await;
    let file = "\
        -- a comment; with a semicolon\n\
        CREATE TABLE history (version text);\n\
        CREATE TABLE orders (tenant int, id int, note text, PRIMARY KEY (tenant, id)) PARTITION BY HASH (tenant);\n\
        CREATE TABLE items (tenant int, n int) PARTITION BY HASH (tenant);\n\
        CREATE INDEX ON items (n);\n\
        INSERT INTO orders VALUES (1, 1, 'a;b'), (2, 1, $$c;d$$), (3, 1, 'e'), (4, 1, 'f');\n\
        INSERT INTO items VALUES (1, 2);\n\
        ALTER TABLE orders ADD COLUMN price int NOT NULL DEFAULT 3;\n\
        UPDATE orders SET price = 4 WHERE tenant = 2;\n\
        INSERT INTO history VALUES ('1');\n";
    let entries = "SELECT count(*) FROM pgshunt.tables";
    let home = connect(p.nodes.nodes[0].port()).await;
    for end in ["SELECT 1/0", "SELECT nonsense", "ALTER TABLE orders ADD COLUMN price int"] {
        client.batch_execute(&format!("{file};{end}")).await.expect_err(end);
        let error = client.batch_execute("SELECT FROM history").await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42P01", "{end}");
        assert_eq!(value::<i64>(&home, entries).await, 0, "{end}");
    }
    client.batch_execute(file).await.unwrap();
    let other = p.client().await;
    assert_eq!(value::<i64>(&other, "SELECT sum(price) FROM orders").await, 13);
    assert_eq!(value::<i64>(&other, "SELECT count(*) FROM items").await, 1);
    assert_eq!(value::<String>(&other, "SELECT version FROM history").await, "1");
    client.batch_execute("DROP TABLE history; DROP TABLE items, orders").await.unwrap();
    assert_eq!(value::<i64>(&home, entries).await, 0);
}

/// The place of an error is one of the client's own text, whatever stands in the node's.
#[tokio::test]
async fn errors_point_into_the_clients_text() {
    let p = Proxy::start(3, 2).await;
    let (ours, plain) = (p.client().await, connect(p.nodes.nodes[2].port()).await);
    for client in [&ours, &plain] {
        let table = "CREATE TABLE t (k int, a text) PARTITION BY HASH (k)";
        client.batch_execute(table).await.unwrap();
    }
    for text in [
        "CREATE INDEX ON t (k, nonsense)",
        "CREATE INDEX \u{e4} ON t (k) WHERE lower(a, 1) = 'x'",
        "CREATE INDEX i ON t (a, (a || nonsense))",
        "ALTER TABLE t ADD UNIQUE (k, nonsense)",
        "ALTER TABLE t ADD PRIMARY KEY (k, nonsense)",
        "ALTER TABLE t ADD CHECK (k > nonsense)",
        "ALTER TABLE t ADD COLUMN b nonsense",
        "SELECT '\u{e4}\u{f6}'; ALTER TABLE t ADD CHECK (k > nonsense)",
        "SELECT '\u{e4}\u{f6}'; CREATE INDEX ON t (k, (a || nonsense)); SELECT 1",
        "SELECT 1; SELECT nonsense FROM t WHERE k = 1; SELECT count(*) FROM t",
        "SELECT count(*) FROM t; SELECT nonsense",
        "SELECT count(*) FROM t; SELECT k, nonsense FROM t",
    ] {
        for block in [false, true] {
            if block && text.contains(';') {
                continue;
            }
            let mut told = Vec::new();
            for client in [&ours, &plain] {
                if block {
                    client.batch_execute("BEGIN").await.unwrap();
                }
                let error = client.batch_execute(text).await.expect_err(text);
                let error = error.as_db_error().unwrap();
                told.push((error.message().to_owned(), error.position().cloned()));
                if block {
                    client.batch_execute("ROLLBACK").await.unwrap();
                }
            }
            assert_eq!(told[0], told[1], "{text}, in a block: {block}");
        }
    }
}

/// What only pgshunt carries out alone stays refused among others, and nothing of the text is left.
#[tokio::test]
async fn what_cannot_be_in_a_block_cannot_be_in_a_text() {
    let p = Proxy::start(2, 2).await;
    let client = p.client().await;
    client.batch_execute("CREATE TABLE t (k int) PARTITION BY HASH (k)").await.unwrap();
    for (text, code) in [
        ("CREATE TABLE l (a int); ALTER TABLE t ADD COLUMN b int REFERENCES t", "0A000"),
        ("CREATE TABLE l (a int); ALTER TABLE t ADD a int; CREATE ROLE somebody", "0A000"),
        ("CREATE TABLE l (a int); ALTER TABLE t ADD a int; COPY t FROM STDIN", "0A000"),
        (
            "CREATE TABLE l (a int); ALTER TABLE t ADD a int; BEGIN ISOLATION LEVEL SERIALIZABLE",
            "0A000",
        ),
    ] {
        let error = client.batch_execute(text).await.expect_err(text);
        assert_eq!(error.code().unwrap().code(), code, "{text}: {error:?}");
        for left in ["SELECT FROM l", "SELECT a FROM t"] {
            let error = client.batch_execute(left).await.expect_err(text);
            assert!(matches!(error.code().unwrap().code(), "42P01" | "42703"), "{text}: {left}");
        }
    }
}
