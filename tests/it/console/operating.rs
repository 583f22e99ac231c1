//! What operators do with PgBouncer's commands, while clients are at work.

use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::support::*;

async fn paused(console: &Console, name: &str) -> bool {
    let lines = console.lines("SHOW DATABASES").await;
    let line = lines.iter().find(|l| l[0].1.as_deref() == Some(name)).expect(name);
    line.iter().any(|(n, v)| n == "paused" && v.as_deref() == Some("1"))
}

/// How many sessions of the pool the node itself has.
async fn backends(p: &Proxy, database: &str) -> i64 {
    let node = connect(p.nodes.nodes[0].port()).await;
    let pids: Vec<String> = p
        .server
        .shared
        .registry
        .servers()
        .iter()
        .filter(|s| s.database == database)
        .map(|s| s.backend_pid().to_string())
        .collect();
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ('{{{}}}'::int[])",
        pids.join(",")
    );
    value(&node, &sql).await
}

#[tokio::test]
async fn a_paused_database_has_no_server_connection_and_its_clients_wait() {
    let p = Proxy::start(2, 2).await;
    let (console, looking) = (p.console().await, p.console().await);
    let client = p.client().await;
    client.batch_execute("CREATE TABLE t (id int) PARTITION BY HASH (id)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();

    let mut pausing = tokio::spawn(async move {
        console.does("PAUSE app").await;
        console
    });
    wait_for("the pause to begin", async || paused(&looking, DATABASE).await.then_some(())).await;
    // What is open goes on; PAUSE waits for it.
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert!(!pausing.is_finished());
    client.batch_execute("COMMIT").await.unwrap();
    let mut console = (&mut pausing).await.unwrap();
    assert_eq!(backends(&p, DATABASE).await, 0);
    assert!(looking.column("SHOW SERVERS", "type").await.is_empty());
    assert_eq!(console.refused("PAUSE app").await.code().code(), "55000");
    assert_eq!(console.refused("RESUME nosuch").await.code().code(), "3D000");

    // One statement waits and one over all nodes; another database goes on.
    let reads = p.client().await;
    let other = connect_as(p.port(), "postgres", SUPERUSER, PASSWORD).await.unwrap();
    console.does("SET pool.queue_timeout = '50ms'").await;
    let insert =
        tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (2)").await });
    let count = tokio::spawn(async move { value::<i64>(&reads, "SELECT count(*) FROM t").await });
    wait_for("both to wait", async || {
        let states = looking.column("SHOW CLIENTS", "activity").await;
        (states.iter().filter(|s| *s == "held").count() == 2).then_some(())
    })
    .await;
    let lines = looking.lines("SHOW POOLS").await;
    let line = lines.iter().find(|l| l[0].1.as_deref() == Some(DATABASE)).unwrap();
    assert_eq!(line[3], ("cl_waiting".to_owned(), Some("2".to_owned())));
    other.batch_execute("SELECT 1").await.unwrap();
    // Their patience is not measured: both wait longer than a place in a line is kept.
    wait_for("both to have waited", async || {
        let waited = looking.column("SHOW CLIENTS", "wait_us").await;
        (waited.iter().filter(|us| us.parse::<u32>().unwrap() > 100_000).count() == 2).then_some(())
    })
    .await;
    assert!(!insert.is_finished() && !count.is_finished());
    console.does("SET pool.queue_timeout = '30s'").await;
    console.does("RESUME app").await;
    insert.await.unwrap().unwrap();
    assert!(count.await.unwrap() >= 2);
    assert_eq!(console.refused("RESUME app").await.code().code(), "55000");
    assert!(console.told().is_empty());
}

#[tokio::test]
async fn a_pinned_session_keeps_a_pause_waiting_and_giving_up_resumes() {
    let p = Proxy::start(1, 1).await;
    let mut console = p.console().await;
    let looking = p.console().await;
    let client = p.client().await;
    client.batch_execute("CREATE TEMP TABLE mine (v int)").await.unwrap();
    let token = console.client.cancel_token();
    let pausing = tokio::spawn(async move {
        let refused = console.refused("PAUSE").await;
        (refused, console.told())
    });
    wait_for("the pause to begin", async || {
        (looking.column("SHOW STATE", "value").await[1] == "yes").then_some(())
    })
    .await;
    client.batch_execute("INSERT INTO mine VALUES (1)").await.unwrap();
    let waits = p.client();
    let waits = waits.await;
    let held = tokio::spawn(async move { waits.batch_execute("SELECT 1").await });
    wait_for("the other one to wait", async || {
        looking.column("SHOW CLIENTS", "activity").await.contains(&"held".into()).then_some(())
    })
    .await;
    assert!(!pausing.is_finished());
    token.cancel_query(NoTls).await.unwrap();
    let (refused, _) = pausing.await.unwrap();
    assert_eq!(refused.code().code(), "57014");
    held.await.unwrap().unwrap();
    assert_eq!(looking.column("SHOW STATE", "value").await, ["yes", "no", "no"]);
}

#[tokio::test]
async fn a_disabled_database_takes_no_new_clients() {
    let p = Proxy::start(1, 1).await;
    let console = p.console().await;
    let client = p.client().await;
    console.does("DISABLE app").await;
    assert_eq!(console.column("SHOW DATABASES", "disabled").await, ["1", "0"]);
    let e = connect_as(p.port(), DATABASE, SUPERUSER, PASSWORD).await.unwrap_err();
    assert_eq!(e.as_db_error().unwrap().message(), "database \"app\" is disabled");
    client.batch_execute("SELECT 1").await.unwrap();
    console.does("ENABLE app").await;
    p.client().await.batch_execute("SELECT 1").await.unwrap();
    for sql in ["DISABLE nosuch", "ENABLE nosuch", "KILL nosuch", "RECONNECT nosuch"] {
        assert_eq!(console.refused(sql).await.message(), "no such database: nosuch", "{sql}");
    }
    assert_eq!(console.refused("DISABLE pgbouncer").await.code().code(), "55000");
    // One that the home node has may be named before anybody uses it.
    console.does("DISABLE postgres").await;
    assert!(connect_as(p.port(), "postgres", SUPERUSER, PASSWORD).await.is_err());
}

#[tokio::test]
async fn reconnect_replaces_connections_as_they_come_back() {
    let p = Proxy::start_with(1, 1, |c| c.pool.size = 2).await;
    let (console, looking) = (p.console().await, p.console().await);
    let (busy, idle) = (p.client().await, p.client().await);
    busy.batch_execute("BEGIN").await.unwrap();
    let old: i32 = value(&busy, "SELECT pg_backend_pid()").await;
    let other: i32 = value(&idle, "SELECT pg_backend_pid()").await;
    assert_ne!(old, other);
    console.does("RECONNECT app").await;
    assert_eq!(looking.column("SHOW SERVERS", "close_needed").await, ["1"], "the idle one is gone");
    let waiting = tokio::spawn(async move {
        console.does("WAIT_CLOSE app").await;
    });
    let new: i32 = value(&idle, "SELECT pg_backend_pid()").await;
    assert!(new != other && new != old);
    assert!(!waiting.is_finished());
    assert_eq!(
        value::<i32>(&busy, "SELECT pg_backend_pid()").await,
        old,
        "its transaction is open"
    );
    busy.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap();
    let pids = looking.column("SHOW SERVERS", "remote_pid").await;
    assert!(!pids.contains(&old.to_string()), "{pids:?}");
}

#[tokio::test]
async fn clients_are_killed_one_by_one_and_by_database() {
    let p = Proxy::start(1, 1).await;
    let console = p.console().await;
    let (sleeps, idle) = (p.client().await, p.client().await);
    idle.batch_execute("SELECT 1").await.unwrap();
    let elsewhere = connect_as(p.port(), "postgres", SUPERUSER, PASSWORD).await.unwrap();
    elsewhere.batch_execute("SELECT 1").await.unwrap();
    let sleeping = tokio::spawn(async move { sleeps.batch_execute("SELECT pg_sleep(60)").await });
    let id = wait_for("the sleeper to be at it", async || {
        let lines = console.lines("SHOW CLIENTS").await;
        let of = |l: &Vec<(String, Option<String>)>, name: &str| {
            l.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone()).unwrap()
        };
        let line =
            lines.iter().find(|l| of(l, "database") == DATABASE && of(l, "activity") == "active");
        line.map(|l| of(l, "id"))
    })
    .await;
    console.does(&format!("KILL_CLIENT {id}")).await;
    let e = sleeping.await.unwrap().unwrap_err();
    assert_eq!(e.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{e:?}");
    assert_eq!(console.refused("KILL_CLIENT 999999").await.code().code(), "42704");
    idle.batch_execute("SELECT 1").await.unwrap();

    console.does("KILL app").await;
    // It had nothing to wait for, so it was told at once.
    assert!(idle.batch_execute("SELECT 1").await.unwrap_err().is_closed());
    assert!(paused(&console, DATABASE).await);
    assert_eq!(backends(&p, DATABASE).await, 0);
    elsewhere.batch_execute("SELECT 1").await.unwrap();
    console.does("RESUME app").await;
    p.client().await.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn who_may_look_may_do_nothing() {
    let p = Proxy::start_with(1, 1, |c| c.auth.stats_users = vec!["watcher".into()]).await;
    let node = connect(p.nodes.nodes[0].port()).await;
    node.batch_execute("CREATE ROLE watcher LOGIN PASSWORD 'w'").await.unwrap();
    let watcher = connect_as(p.port(), "pgbouncer", "watcher", "w").await.unwrap();
    for sql in [
        "SHOW STATS",
        "SHOW CLIENTS",
        "SHOW CONFIG",
        "SELECT 1",
        "BEGIN",
        "SET application_name = 'x'",
    ] {
        watcher.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    for sql in [
        "PAUSE",
        "RESUME",
        "RELOAD",
        "SHUTDOWN",
        "KILL app",
        "KILL_CLIENT 1",
        "DISABLE app",
        "ENABLE app",
        "RECONNECT",
        "WAIT_CLOSE",
        "SET pool_size = 3",
        "SET shard_count = 4",
        "MOVE SHARD 1 TO node1",
        "ADD NODE n 'h:1'",
        "ROLLBACK MOVE",
        "CANCEL MOVE",
        "FINISH MOVE",
    ] {
        let e = watcher.simple_query(sql).await.unwrap_err();
        assert_eq!(e.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}");
    }
}

#[tokio::test]
async fn a_key_of_the_configuration_is_changed_while_serving() {
    let p = Proxy::start(1, 1).await;
    let console = p.console().await;
    let value_of = async |key: &str| {
        let lines = console.lines("SHOW CONFIG").await;
        lines.iter().find(|l| l[0].1.as_deref() == Some(key)).unwrap()[1].1.clone().unwrap()
    };
    console.does("SET default_pool_size = 1").await;
    assert_eq!(
        (value_of("pool.size").await, value_of("default_pool_size").await),
        ("1".into(), "1".into())
    );
    console.does("SET query_wait_timeout TO '1'").await;
    assert_eq!(value_of("pool.queue_timeout").await, "1s");
    let (first, second) = (p.client().await, p.client().await);
    first.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let e = second.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(e.code(), Some(&SqlState::TOO_MANY_CONNECTIONS), "one connection, one second");
    first.batch_execute("COMMIT").await.unwrap();
    for (sql, code) in [
        ("SET pool.size = 0", "22023"),
        ("SET server.workers = 4", "55P02"),
        ("SET default_pol_size = 4", "42704"),
    ] {
        assert_eq!(console.refused(sql).await.code().code(), code, "{sql}");
    }
    console.does("SET max_client_conn = 2").await;
    let e = connect_as(p.port(), DATABASE, SUPERUSER, PASSWORD).await.unwrap_err();
    assert_eq!(e.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
}

#[tokio::test]
async fn a_shutdown_waits_for_what_it_says() {
    let p = Proxy::start(1, 1).await;
    let console = p.console().await;
    let client = p.client().await;
    client.batch_execute("SELECT 1").await.unwrap();
    console.does("SHUTDOWN WAIT_FOR_CLIENTS").await;
    let e = wait_for("new clients to be turned away", async || {
        // The order is carried out by the process, a moment later.
        let told = p.server.told_to_stop();
        let soon = tokio::time::timeout(std::time::Duration::from_millis(5), told).await;
        assert!(soon.is_err(), "a client is there");
        connect_as(p.port(), DATABASE, SUPERUSER, PASSWORD).await.err()
    })
    .await;
    assert_eq!(e.code(), Some(&SqlState::CANNOT_CONNECT_NOW));
    client.batch_execute("SELECT 1").await.unwrap();
    p.console().await.does("SHOW CLIENTS").await;
    drop(client);
    tokio::time::timeout(PATIENCE, p.server.told_to_stop())
        .await
        .expect("the last client has left");
}

#[tokio::test]
async fn a_shutdown_at_once_waits_for_nothing() {
    let p = Proxy::start(1, 1).await;
    let console = p.console().await;
    let client = p.client().await;
    client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    console.does("SHUTDOWN").await;
    let started = std::time::Instant::now();
    p.server.told_to_stop().await;
    p.server.shutdown().await;
    assert!(started.elapsed() < std::time::Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(client.batch_execute("SELECT 1").await.is_err());
}
