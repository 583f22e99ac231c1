//! Databases of the home node beside the cluster's own: pooled, and nothing in them is distributed.

use super::support::{PASSWORD, Proxy, SUPERUSER, connect_as, value};

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
