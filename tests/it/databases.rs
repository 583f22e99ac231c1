//! Databases of the home node beside the cluster's own: pooled, and nothing in them is distributed.

use super::support::{PASSWORD, Proxy, SUPERUSER, connect_as, value, wait_for};

/// Both clients are on one worker, so they share a cache of plans.
#[tokio::test]
async fn the_same_names_in_another_database_are_other_tables() {
    let p = Proxy::start_with(2, 2, |c| c.server.workers = 1).await;
    let app = p.client().await;
    app.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY HASH (id)")
        .await
        .unwrap();
    let other = connect_as(p.port(), "postgres", SUPERUSER, PASSWORD).await.unwrap();
    for sql in [
        "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY HASH (id)",
        "CREATE TABLE t_0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        "INSERT INTO t SELECT n, 'other' FROM generate_series(1, 100) n",
        "SET session_replication_role = replica",
        "RESET session_replication_role",
        "CREATE TABLE u AS SELECT * FROM t",
    ] {
        other.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    for id in 1..=20 {
        let text = format!("INSERT INTO t VALUES ({id}, 'app')");
        app.batch_execute(&text).await.unwrap();
        let v: String = value(&app, &format!("SELECT v FROM t WHERE id = {id}")).await;
        assert_eq!(v, "app");
        let v: String = value(&other, &format!("SELECT v FROM t WHERE id = {id}")).await;
        assert_eq!(v, "other");
    }
    assert_eq!(value::<i64>(&app, "SELECT count(*) FROM t").await, 20);
    assert_eq!(value::<i64>(&other, "SELECT count(*) FROM t").await, 100);
    // What one PostgreSQL can do, and a cluster refuses.
    let joined: i64 = value(&other, "SELECT count(*) FROM t JOIN u USING (id, v)").await;
    assert_eq!(joined, 100);
    other.batch_execute("DROP TABLE t, u").await.unwrap();
    assert_eq!(value::<i64>(&app, "SELECT count(*) FROM t").await, 20);
}

/// Trap 47: PostgreSQL drops, renames and copies a database only when nobody is connected to it. An
/// idle server connection of the pool is nobody.
#[tokio::test]
async fn idle_server_connections_do_not_keep_a_database_from_being_dropped() {
    let p = Proxy::start(1, 1).await;
    let app = p.client().await;
    let used = async |name: &str| {
        let client = connect_as(p.port(), name, SUPERUSER, PASSWORD).await.unwrap();
        assert_eq!(value::<i32>(&client, "SELECT 1").await, 1);
        client
    };
    app.batch_execute("CREATE DATABASE one").await.unwrap();
    // The client stays connected to us, and holds no server connection.
    let stays = used("one").await;
    for sql in [
        "CREATE DATABASE two TEMPLATE one",
        "CREATE DATABASE three WITH TEMPLATE = 'one'",
        "ALTER DATABASE one RENAME TO four",
        "DROP DATABASE IF EXISTS two",
        "DROP DATABASE three WITH (FORCE)",
    ] {
        app.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        if sql.starts_with("CREATE") {
            assert_eq!(value::<i32>(&stays, "SELECT 1").await, 1);
            drop(used("two").await);
        }
    }
    // Of what is not said PostgreSQL takes template1.
    for sql in ["CREATE DATABASE six", "CREATE DATABASE seven TEMPLATE DEFAULT"] {
        drop(used("template1").await);
        app.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    // By the extended protocol too.
    drop(used("four").await);
    app.execute("DROP DATABASE four", &[]).await.unwrap();
    // Who uses it keeps it.
    app.batch_execute("CREATE DATABASE five").await.unwrap();
    let busy = used("five").await;
    busy.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let e = app.batch_execute("DROP DATABASE five").await.unwrap_err();
    assert_eq!(e.code().unwrap().code(), "55006");
    busy.batch_execute("COMMIT").await.unwrap();
    app.batch_execute("DROP DATABASE five").await.unwrap();
}

#[tokio::test]
async fn names_that_only_failed_logins_have_given_are_forgotten() {
    let p = Proxy::start(1, 1).await;
    for n in 0..20 {
        let name = format!("nosuch{n}");
        let e = connect_as(p.port(), &name, SUPERUSER, PASSWORD).await.err().unwrap();
        assert_eq!(e.code().unwrap().code(), "3D000");
    }
    let console = p.console().await;
    for (sql, column) in [("SHOW POOLS", "database"), ("SHOW DATABASES", "name")] {
        wait_for("the names to be forgotten", async || {
            let names = console.column(sql, column).await;
            (!names.iter().any(|n| n.starts_with("nosuch"))).then_some(())
        })
        .await;
    }
    assert_eq!(
        console
            .column("SHOW STATS", "database")
            .await
            .iter()
            .filter(|n| n.starts_with("nosuch"))
            .count(),
        0
    );
}
