//! pgbench, its accounts in hash partitions as it declares them itself.

use std::process::Stdio;

use crate::support::*;

/// What pgbench says; it must succeed.
async fn pgbench(p: &Proxy, arguments: &str) -> String {
    let ours = pgshunt::local::Binaries::find().unwrap().program("pgbench");
    let program = if ours.exists() { ours } else { "pgbench".into() };
    let output = tokio::process::Command::new(program)
        .args(["-h", "127.0.0.1", "-p", &p.port().to_string(), "-U", SUPERUSER])
        .args(arguments.split(' '))
        .arg(DATABASE)
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "pgbench {arguments}: {said}");
    said
}

async fn refused(client: &tokio_postgres::Client, sql: &str) -> (String, String) {
    let e = client.batch_execute(sql).await.expect_err(sql);
    let e = e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}"));
    (e.code().code().to_owned(), e.message().to_owned())
}

#[tokio::test]
async fn pgbench_runs_all_its_scripts_over_the_hash_partitions_it_declares() {
    let p = Proxy::start(2, 2).await;
    let client = p.client().await;
    let partitions = "--partitions=16 --partition-method=hash";
    // Twice: what was declared goes with the table.
    pgbench(&p, &format!("-i -q -I dtp {partitions}")).await;
    pgbench(&p, &format!("-i -q {partitions}")).await;
    for node in &p.nodes.nodes {
        let here: i64 =
            value(&connect(node.port()).await, "SELECT count(*) FROM pgbench_accounts").await;
        assert!((20_000..80_000).contains(&here), "{here} of 100000 rows on {}", node.port());
    }
    assert_eq!(value::<i64>(&client, "SELECT count(*) FROM pgbench_accounts").await, 100_000);
    for mode in ["simple", "extended", "prepared"] {
        for script in ["tpcb-like", "simple-update", "select-only"] {
            let said = pgbench(&p, &format!("-n -c 2 -t 25 -M {mode} -b {script}")).await;
            assert!(said.contains("processed: 50/50"), "{mode} {script}: {said}");
        }
    }
    let sum = async |sql: &str| value::<i64>(&client, sql).await;
    let accounts = sum("SELECT sum(abalance) FROM pgbench_accounts").await;
    assert_eq!(accounts, sum("SELECT sum(delta) FROM pgbench_history").await);
    assert_eq!(sum("SELECT count(*) FROM pgbench_history").await, 2 * 3 * 50);
    let tellers = sum("SELECT sum(tbalance) FROM pgbench_tellers").await;
    assert_eq!(tellers, sum("SELECT sum(bbalance) FROM pgbench_branches").await);
}

#[tokio::test]
async fn a_partition_is_a_declaration_and_no_table_of_its_own() {
    let p = Proxy::start(2, 2).await;
    let root = p.client().await;
    for sql in [
        "SET pgshunt.shard_count = 4",
        "CREATE TABLE t (k int NOT NULL, v text) PARTITION BY HASH (k)",
        "CREATE TABLE t_0 PARTITION OF t FOR VALUES WITH (MODULUS 4, REMAINDER 0)",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES WITH (MODULUS 4, REMAINDER 1) WITH (fillfactor = 90)",
        "CREATE TABLE IF NOT EXISTS t_1 PARTITION OF t FOR VALUES WITH (MODULUS 4, REMAINDER 1)",
        // As a dump has it.
        "CREATE TABLE public.t_2 (v text, k int NOT NULL)",
        "ALTER TABLE ONLY public.t ATTACH PARTITION public.t_2 FOR VALUES WITH (modulus 4, remainder 2)",
        "CREATE TABLE full_one (k int NOT NULL, v text)",
        "INSERT INTO full_one VALUES (1, 'x')",
        "CREATE TABLE lacks (k int NOT NULL)",
        "CREATE TABLE nullable (k int, v text)",
        "INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 40) g",
        "CREATE ROLE other LOGIN PASSWORD 'o'",
    ] {
        root.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    assert_eq!(value::<i64>(&root, "SELECT count(*) FROM t").await, 40);
    let with = |m: i32, r: i32| format!("FOR VALUES WITH (MODULUS {m}, REMAINDER {r})");
    for (sql, code) in [
        (format!("CREATE TABLE t_1 PARTITION OF t {}", with(4, 3)), "42P07"),
        (format!("CREATE TABLE full_one PARTITION OF t {}", with(4, 3)), "42P07"),
        (format!("CREATE TABLE t_x PARTITION OF t {}", with(4, 0)), "42P17"),
        (format!("CREATE TABLE t_x PARTITION OF t {}", with(4, 4)), "42P16"),
        (format!("CREATE TABLE t_x PARTITION OF t {}", with(8, 4)), "0A000"),
        (format!("CREATE TABLE t_x PARTITION OF t (CHECK (k > 0)) {}", with(4, 3)), "0A000"),
        (format!("CREATE UNLOGGED TABLE t_x PARTITION OF t {}", with(4, 3)), "0A000"),
        (format!("CREATE TABLE t_x PARTITION OF t {} PARTITION BY HASH (k)", with(4, 3)), "0A000"),
        ("CREATE TABLE t_x PARTITION OF t DEFAULT".to_owned(), "42P16"),
        (format!("CREATE TABLE nowhere.t_x PARTITION OF t {}", with(4, 3)), "3F000"),
        (format!("ALTER TABLE t ATTACH PARTITION full_one {}", with(4, 3)), "0A000"),
        (format!("ALTER TABLE t ATTACH PARTITION lacks {}", with(4, 3)), "42804"),
        (format!("ALTER TABLE t ATTACH PARTITION nullable {}", with(4, 3)), "42804"),
        (format!("ALTER TABLE t ATTACH PARTITION none {}", with(4, 3)), "42P01"),
        (format!("BEGIN; CREATE TABLE t_x PARTITION OF t {}", with(4, 3)), "0A000"),
        // What has such a name is no relation; where the name is read, the reason is told.
        ("SELECT * FROM t_1".to_owned(), "0A000"),
        ("DROP TABLE t_1".to_owned(), "42P01"),
    ] {
        assert_eq!(refused(&root, &sql).await.0, code, "{sql}");
        root.batch_execute("ROLLBACK").await.unwrap();
    }
    let (_, message) = refused(&root, "SELECT count(*) FROM t_0").await;
    assert!(message.contains("leads to the distributed table \"t\""), "{message}");
    let other = connect_as(p.port(), DATABASE, "other", "o").await.unwrap();
    let sql = format!("CREATE TABLE t_x PARTITION OF t {}", with(4, 3));
    assert_eq!(refused(&other, &sql).await, ("42501".into(), "must be owner of table t".into()));
    // With the table its partitions are gone, by a statement alone or in a block.
    for drop in ["DROP TABLE t", "BEGIN; DROP TABLE t; COMMIT"] {
        root.batch_execute(drop).await.unwrap();
        let sql = "CREATE TABLE t (k int) PARTITION BY HASH (k)";
        root.batch_execute(sql).await.unwrap();
        let sql = format!("CREATE TABLE t_1 PARTITION OF t {}", with(4, 1));
        root.batch_execute(&sql).await.unwrap_or_else(|e| panic!("after {drop}: {e:?}"));
    }
}

#[tokio::test]
async fn tables_of_all_nodes_and_of_one_are_emptied_together() {
    let p = Proxy::start(2, 2).await;
    let client = p.client().await;
    for sql in [
        "CREATE TABLE t (k int) PARTITION BY HASH (k)",
        "CREATE TABLE near (k int)",
        "CREATE TABLE ref (k int, CONSTRAINT pgshunt_reference CHECK (true))",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    for (ends, left) in [("ROLLBACK", 5_i64), ("COMMIT", 0)] {
        for table in ["t", "near", "ref"] {
            let sql = format!("INSERT INTO {table} SELECT g FROM generate_series(1, 5) g");
            client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
        client.batch_execute("BEGIN; TRUNCATE near, t, ref RESTART IDENTITY").await.unwrap();
        client.batch_execute(ends).await.unwrap();
        for table in ["t", "near", "ref"] {
            let sql = format!("SELECT count(*) FROM {table}");
            assert_eq!(value::<i64>(&client, &sql).await, left, "{table} after {ends}");
        }
    }
    client.batch_execute("INSERT INTO t VALUES (1), (2), (3)").await.unwrap();
    client.batch_execute("TRUNCATE t, near").await.unwrap();
    assert_eq!(value::<i64>(&client, "SELECT count(*) FROM t").await, 0);
}
