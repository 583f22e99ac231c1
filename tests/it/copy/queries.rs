//! COPY TO STDOUT of queries that several nodes answer together: byte for byte as one server writes it.

use futures_util::TryStreamExt;
use tokio_postgres::Client;

use crate::support::*;

/// A table `t` over two nodes, and a local one with the same rows.
async fn tables() -> Proxy {
    let p = Proxy::start(2, 2).await;
    p.console().await.does("SET shard_count = 4").await;
    let client = p.client().await;
    let columns = "k int, n int, s text, x numeric(8, 2), f float8, a int[], at timestamptz";
    for sql in [
        &format!("CREATE TABLE t ({columns}) PARTITION BY HASH (k)"),
        &format!("CREATE TABLE plain ({columns})"),
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    let texts = [
        "NULL",
        "''",
        "E'a\\tb\\\\c\\nd'",
        "'say \"x\", y'",
        "'\\.'",
        "'NULL'",
        "'É|;'",
        "E'\\x08\\x01\\r'",
    ];
    for k in 0..24usize {
        let row = format!(
            "({k}, {}, {}, {}, {}, {}, '2024-01-{:02} 12:00+02')",
            k % 5,
            texts[k % 8],
            if k % 7 == 3 { "NULL".to_owned() } else { format!("{k}.5") },
            k as f64 / 3.0,
            ["NULL", "'{1,NULL}'", "'{}'"][k % 3],
            1 + k
        );
        for table in ["t", "plain"] {
            let sql = format!("INSERT INTO {table} VALUES {row}");
            client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
    }
    p
}

/// The data, message by message; or the SQLSTATE.
async fn messages(client: &Client, sql: &str) -> Result<Vec<bytes::Bytes>, String> {
    let code = |e: tokio_postgres::Error| {
        let db = e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}"));
        db.code().code().to_owned()
    };
    let data = client.copy_out(sql).await.map_err(code)?;
    data.try_collect().await.map_err(code)
}

async fn copied(client: &Client, sql: &str) -> Result<Vec<u8>, String> {
    messages(client, sql).await.map(|chunks| chunks.concat())
}

const QUERIES: [&str; 8] = [
    "SELECT * FROM t ORDER BY k",
    "SELECT s FROM t ORDER BY k DESC LIMIT 9",
    "SELECT n, count(*), sum(x), array_agg(k ORDER BY k) FROM t GROUP BY n ORDER BY n",
    "SELECT a.s, b.s, a.f FROM t a JOIN t b ON a.n = b.k ORDER BY a.k, b.k",
    "SELECT count(*) FROM t",
    "SELECT s AS \"odd \"\"name\", k FROM t WHERE n IN (SELECT n FROM t WHERE k < 3) ORDER BY k -- (",
    "SELECT k, x, at, a FROM t WHERE k > 100 ORDER BY k",
    "SELECT DISTINCT s, n FROM t ORDER BY n, s COLLATE \"C\"",
];

const OPTIONS: [&str; 9] = [
    "",
    " WITH (FORMAT binary)",
    " WITH (FORMAT csv)",
    " WITH (FORMAT csv, HEADER, FORCE_QUOTE *)",
    " (FORMAT csv, DELIMITER ';', QUOTE '''', ESCAPE E'\\\\', NULL 'NULL')",
    " (DELIMITER '|', NULL 'nil')",
    " CSV HEADER",
    " (FORMAT csv, FORCE_QUOTE (k))",
    " (FORMAT text, DELIMITER E'\\t')",
];

#[tokio::test]
async fn queries_over_nodes_are_written_as_one_server_writes_them() {
    let p = tables().await;
    let client = p.client().await;
    for query in QUERIES {
        for options in OPTIONS {
            let sql = format!("COPY ({query}\n) TO STDOUT{options}");
            let plain = sql.replace("FROM t", "FROM plain").replace("JOIN t", "JOIN plain");
            let (here, there) = (copied(&client, &sql).await, copied(&client, &plain).await);
            if options.contains("(k)") && !query.contains("k, x") && there.is_err() {
                assert_eq!(here, there, "{sql}");
                continue;
            }
            let text = |data: &Result<Vec<u8>, String>| {
                data.as_ref().map(|d| String::from_utf8_lossy(d).into_owned()).map_err(Clone::clone)
            };
            assert_eq!(text(&here), text(&there), "{sql}");
            // Clients count on a message for each row.
            let (here, there) = (messages(&client, &sql).await, messages(&client, &plain).await);
            assert_eq!(here, there, "{sql}");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_and_the_session_goes_on() {
    let p = tables().await;
    let client = p.client().await;
    let order = "SELECT k FROM t ORDER BY k";
    for (sql, code) in [
        (format!("COPY ({order}) TO STDOUT (DELIMITER 'ab')"), "0A000"),
        (format!("COPY ({order}) TO STDOUT (FORMAT csv, FORCE_QUOTE (nothing))"), "42703"),
        (format!("COPY ({order}) TO STDOUT (QUOTE 'x')"), "0A000"),
        ("COPY (SELECT nothing FROM t ORDER BY 1) TO STDOUT".to_owned(), "42703"),
        ("COPY (SELECT 1 / (n - n) FROM t ORDER BY k) TO STDOUT".to_owned(), "22012"),
        (format!("COPY ({order} FOR UPDATE) TO STDOUT"), "0A000"),
        (format!("COPY ({order}) TO '/tmp/x'"), "0A000"),
    ] {
        let got = copied(&client, &sql).await.map(|_| ());
        assert_eq!(got, Err(code.to_owned()), "{sql}");
        assert_eq!(
            copied(&client, "COPY (SELECT count(*) FROM t) TO STDOUT").await.unwrap(),
            b"24\n"
        );
    }
    client.batch_execute("BEGIN; INSERT INTO t (k) VALUES (100), (101)").await.unwrap();
    assert_eq!(copied(&client, "COPY (SELECT max(k) FROM t) TO STDOUT").await.unwrap(), b"101\n");
    let times = "COPY (SELECT count(DISTINCT now()) FROM t) TO STDOUT";
    assert_eq!(copied(&client, times).await.unwrap(), b"1\n");
    client.batch_execute("ROLLBACK").await.unwrap();
    for sql in [
        "CREATE ROLE reader LOGIN PASSWORD 'r'",
        "GRANT SELECT (k, n) ON t TO reader",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY even ON t USING (k % 2 = 0)",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    let reader = connect_as(p.port(), DATABASE, "reader", "r").await.unwrap();
    assert_eq!(copied(&reader, "COPY (SELECT count(*) FROM t) TO STDOUT").await.unwrap(), b"12\n");
    let secret = "COPY (SELECT s FROM t ORDER BY k) TO STDOUT";
    assert_eq!(copied(&reader, secret).await, Err("42501".to_owned()));
}
