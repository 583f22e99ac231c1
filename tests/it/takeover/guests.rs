//! Clients that hold a server connection go along with it: bound to it, amid a transaction, or for
//! replication. And those of the console, which hold nothing.

use std::os::unix::fs::{MetadataExt, chown};

use tokio::io::AsyncBufReadExt;

use super::*;

/// Leaves all that PostgreSQL keeps for a connection.
async fn settle(client: &Client) -> String {
    client
        .batch_execute(
            "CREATE TEMP TABLE mine (a int); INSERT INTO mine VALUES (1), (2);
             DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 9)",
        )
        .await
        .unwrap();
    client.batch_execute("PREPARE total AS SELECT sum(a) FROM mine").await.unwrap();
    assert_eq!(texts(client, "FETCH 2 FROM c").await, ["1", "2"]);
    client.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    client.batch_execute("SET work_mem = '77MB'").await.unwrap();
    texts(client, "SELECT pg_backend_pid()").await.remove(0)
}

/// It is all there still, on the same server process.
async fn is_settled(client: &Client, pid: &str, cursor: &str) {
    assert_eq!(texts(client, "SELECT pg_backend_pid()").await, [pid]);
    assert_eq!(texts(client, "EXECUTE total").await, ["3"]);
    assert_eq!(texts(client, "FETCH 1 FROM c").await, [cursor]);
    assert_eq!(texts(client, "SHOW work_mem").await, ["77MB"]);
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = ";
    assert_eq!(texts(client, &format!("{locks} pg_backend_pid()")).await, ["1"]);
}

#[tokio::test]
async fn who_keeps_a_server_connection_takes_it_along() {
    let mut place = Place::new("takeover-pinned");
    let (plain, secure) =
        (Guest::open(place.port, false).await, Guest::open(place.port, true).await);
    let (plain, secure) = (plain.client, secure.client);
    let at = settle(&plain).await;
    secure.batch_execute("CREATE TEMP TABLE own (a int)").await.unwrap();
    let statement = plain.prepare("SELECT count(*) FROM mine WHERE a > $1").await.unwrap();
    let mut olds = Vec::new();
    for cursor in ["3", "4"] {
        olds.push(place.take_over());
        is_settled(&plain, &at, cursor).await;
        let count = plain.query_one(&statement, &[&1]).await.unwrap();
        assert_eq!(count.get::<_, i64>(0), 1);
        secure.batch_execute("INSERT INTO own VALUES (1)").await.unwrap();
    }
    assert!(olds[1].end().await.success(), "nobody's keys are there");
    assert_eq!(texts(&secure, "SELECT count(*) FROM own").await, ["2"]);
    let console = Console::open(place.port, "pgshunt").await;
    let pins = console.column("SHOW CLIENTS", "pinned_by").await;
    assert!(pins.iter().any(|p| p == "a temporary table"), "{pins:?}");
    let servers = console.column("SHOW SERVERS", "remote_pid").await;
    assert!(servers.contains(&at), "{servers:?}");

    // What bound it is gone. Whether its role is still what it was when it logged in, this process cannot
    // tell: it serves nobody else.
    plain.batch_execute("DISCARD ALL").await.unwrap();
    assert_eq!(texts(&plain, "SHOW work_mem").await, ["4MB"]);
    wait_for("the connection to be closed", async || {
        let servers = console.column("SHOW SERVERS", "remote_pid").await;
        (!servers.contains(&at)).then_some(())
    })
    .await;
    assert!(plain.batch_execute("SELECT * FROM mine").await.is_err());
}

/// The new process needs their places: a node has only so many.
#[tokio::test]
async fn the_old_process_keeps_no_server_connection_that_nobody_uses() {
    let mut place = Place::new("takeover-idle");
    let busy = Arc::new(connect(place.port).await);
    let sleeps = place.sleeps(&busy).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let client = connect(place.port).await;
        client.batch_execute("BEGIN; SELECT 1").await.unwrap();
        clients.push(client);
    }
    let mut lent = Vec::new();
    for client in &clients {
        lent.extend(texts(client, "SELECT pg_backend_pid()").await);
        client.batch_execute("COMMIT").await.unwrap();
    }
    let mut old = place.take_over();
    let home = connect(place.cluster.nodes[0].port()).await;
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE pid IN ({})", lent.join(", "));
    wait_for("the idle connections to be closed", async || {
        (value::<i64>(&home, &left).await == 0).then_some(())
    })
    .await;
    assert!(old.child.try_wait().unwrap().is_none(), "a statement is under way");
    busy.cancel_token().cancel_query(NoTls).await.unwrap();
    assert!(sleeps.await.unwrap().is_err());
    assert!(old.end().await.success());
    for client in &clients {
        assert_eq!(value::<i32>(client, "SELECT 1").await, 1);
    }
}

#[tokio::test]
async fn a_server_connection_under_tls_goes_along_and_ends_with_its_client() {
    let mut place = Place::new("takeover-pinned-tls");
    let home = &mut place.cluster.nodes[0];
    let data = home.data_dir();
    Certificates::write_to(&data);
    let owner = std::fs::metadata(&data).unwrap();
    for name in ["server.crt", "server.key"] {
        chown(data.join(name), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    connect(home.port()).await.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    home.restart().unwrap();
    let client = connect(place.port).await;
    let at = settle(&client).await;
    let under_tls = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(texts(&client, under_tls).await, ["t"]);
    let mut first = place.take_over();
    is_settled(&client, &at, "3").await;
    let mut second = place.take_over();
    is_settled(&client, &at, "4").await;
    assert!(second.end().await.success());
    assert!(first.child.try_wait().unwrap().is_none(), "it has the keys");
    // With what binds the client goes the connection, and with it the process.
    client.batch_execute("DISCARD ALL").await.unwrap();
    assert!(first.end().await.success());
    assert_ne!(texts(&client, "SELECT pg_backend_pid()").await, [at]);
}

#[tokio::test]
async fn an_open_transaction_goes_on_where_it_was() {
    let mut place = Place::new("takeover-open");
    let port = place.port;
    let setup = connect(port).await;
    setup
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY HASH (id)")
        .await
        .unwrap();
    // Refused without a node: it is at rest as if nothing had been asked.
    setup.batch_execute("UPDATE t SET id = 2").await.unwrap_err();
    let writes = connect(port).await;
    let insert = writes.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
    writes.batch_execute("SET application_name = 'committed'; BEGIN").await.unwrap();
    writes.execute(&insert, &[&1, &1]).await.unwrap();
    writes.batch_execute("SET application_name = 'open'; SAVEPOINT s").await.unwrap();
    writes.batch_execute("SET application_name = 'undone'").await.unwrap();
    writes.execute("UPDATE t SET n = 2 WHERE id = 1", &[]).await.unwrap();

    let begun = connect(port).await;
    begun.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE").await.unwrap();
    let failed = connect(port).await;
    failed.batch_execute("BEGIN; SELECT 1").await.unwrap();
    failed.batch_execute("SELECT 1/0").await.unwrap_err();

    let mut fetches = connect(port).await;
    let transaction = fetches.transaction().await.unwrap();
    let portal = transaction.bind("SELECT generate_series(1, 5)", &[]).await.unwrap();
    let some = async |n| {
        let rows = transaction.query_portal(&portal, n).await.unwrap();
        rows.iter().map(|r| r.get::<_, i32>(0)).collect::<Vec<_>>()
    };
    assert_eq!(some(2).await, [1, 2]);

    let mut listens = Guest::open(port, false).await;
    let node = connect(place.cluster.nodes[0].port()).await;
    listens.does("LISTEN news").await;
    listens.does("BEGIN; LISTEN more; NOTIFY more, 'own'").await;
    node.batch_execute("NOTIFY news, 'one'").await.unwrap();

    let mut old = place.take_over();
    assert!(old.end().await.success(), "nobody is left there");

    node.batch_execute("NOTIFY news, 'two'").await.unwrap();
    listens.does("SELECT 1").await;
    assert!(listens.heard.try_recv().is_err(), "not within the transaction");
    listens.does("COMMIT").await;
    listens.does("NOTIFY more, 'three'").await;
    for said in ["one", "two", "own", "three"] {
        assert_eq!(listens.hears().await, said);
    }
    assert_eq!(some(2).await, [3, 4]);
    assert_eq!(some(2).await, [5]);
    transaction.commit().await.unwrap();
    let code = async |sql| failed.batch_execute(sql).await.unwrap_err().code().cloned();
    assert_eq!(code("SELECT 1").await, Some(SqlState::IN_FAILED_SQL_TRANSACTION));
    failed.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(texts(&failed, "SELECT 1").await, ["1"]);
    assert_eq!(texts(&begun, "SHOW transaction_isolation").await, ["serializable"]);
    begun.batch_execute("COMMIT").await.unwrap();
    assert_eq!(texts(&begun, "SHOW transaction_isolation").await, ["read committed"]);

    writes.batch_execute("ROLLBACK TO s").await.unwrap();
    assert_eq!(texts(&writes, "SELECT n FROM t WHERE id = 1").await, ["1"]);
    assert_eq!(texts(&writes, "SHOW application_name").await, ["open"]);
    writes.batch_execute("COMMIT").await.unwrap();
    assert_eq!(texts(&writes, "SHOW application_name").await, ["open"]);
    assert_eq!(texts(&setup, "SELECT n FROM t WHERE id = 1").await, ["1"]);
}

/// What the program says, line by line.
fn lines_of(out: tokio::process::ChildStdout) -> UnboundedReceiver<String> {
    let (tell, heard) = unbounded_channel();
    tokio::spawn(async move {
        let mut lines = tokio::io::BufReader::new(out).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let _ = tell.send(line);
        }
    });
    heard
}

#[tokio::test]
async fn a_replication_connection_streams_on() {
    let mut place = Place::new("takeover-replication");
    let node = connect(place.cluster.nodes[0].port()).await;
    node.batch_execute("CREATE TABLE watched (n int)").await.unwrap();
    let recvlogical = pgshunt::local::Binaries::find().unwrap().program("pg_recvlogical");
    let recv = |sslmode: &str, slot: &str, args: &[&str]| {
        let mut command = tokio::process::Command::new(&recvlogical);
        let conninfo =
            format!("host=127.0.0.1 port={} dbname={DATABASE} sslmode={sslmode}", place.port);
        command.args(["-d", &conninfo, "-U", SUPERUSER, "--slot", slot, "--no-loop"]).args(args);
        command.env("PGPASSWORD", PASSWORD).kill_on_drop(true).stdout(std::process::Stdio::piped());
        command
    };
    let mut streams = Vec::new();
    for (sslmode, slot) in [("disable", "plain"), ("require", "secure")] {
        let created = recv(sslmode, slot, &["--create-slot", "--plugin", "test_decoding"]).status();
        assert!(created.await.unwrap().success());
        // It tells the node every second how far it is: both ways are used.
        let args = ["--start", "-f", "-", "-F", "1", "-s", "1"];
        let mut child = recv(sslmode, slot, &args).spawn().unwrap();
        let heard = lines_of(child.stdout.take().unwrap());
        streams.push((child, heard));
    }
    let mut olds = Vec::new();
    for n in 0..3 {
        node.execute("INSERT INTO watched VALUES ($1)", &[&n]).await.unwrap();
        for (_, heard) in &mut streams {
            loop {
                let line = tokio::time::timeout(PATIENCE, heard.recv()).await.expect("in time");
                let line = line.expect("the stream goes on");
                if line.contains(&format!("INSERT: n[integer]:{n}")) {
                    break;
                }
                assert!(!line.contains("INSERT"), "{line}");
            }
        }
        if n < 2 {
            olds.push(place.take_over());
        }
    }
    let console = Console::open(place.port, "pgshunt").await;
    let pins = console.column("SHOW CLIENTS", "pinned_by").await;
    assert_eq!(pins.iter().filter(|p| *p == "replication").count(), 2, "{pins:?}");
    assert!(olds[1].end().await.success());
    assert!(olds[0].child.try_wait().unwrap().is_none(), "one stream is under TLS");
    drop(streams);
    assert!(olds[0].end().await.success());
}

#[tokio::test]
async fn the_console_goes_on_with_the_new_process() {
    let mut place = Place::new("takeover-console");
    let console = Console::open(place.port, "pgshunt").await;
    let prepared = console.client.prepare("SHOW NODES").await.unwrap();
    for _ in 0..2 {
        let mut old = place.take_over();
        assert!(old.end().await.success());
        assert_eq!(console.client.query(&prepared, &[]).await.unwrap().len(), 2);
        let clients = console.column("SHOW CLIENTS", "application_name").await;
        assert_eq!(clients.len(), 1);
    }
    // What it asks for is done by the process of now.
    console.does("SHUTDOWN").await;
    assert!(place.serve.end().await.success());
}

/// What began before is no less in the way of a cutover than what begins now.
#[tokio::test]
async fn a_move_waits_for_a_transaction_that_began_with_the_old_process() {
    let mut place = Place::new("takeover-open-move");
    let client = connect(place.port).await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY HASH (id)")
        .await
        .unwrap();
    client.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    let open = connect(place.port).await;
    open.batch_execute("BEGIN; UPDATE t SET n = 2 WHERE id = 1").await.unwrap();
    let mut old = place.take_over();
    assert!(old.end().await.success());

    let console = Console::open(place.port, "pgshunt").await;
    let shard = wait_for("the transaction's shard", async || {
        let used = console.column("SHOW CLIENTS", "shard_id").await;
        used.into_iter().find(|s| !s.is_empty())
    })
    .await;
    let all = console.column("SHOW SHARDS", "shard_id").await;
    let at = all.iter().position(|s| *s == shard).unwrap();
    let from = console.column("SHOW SHARDS", "node").await.remove(at);
    let statement = format!("MOVE SHARD {shard} TO {}", other(&from));
    let moves = tokio::spawn(async move { console.does(&statement).await });
    let watches = Console::open(place.port, "pgshunt").await;
    wait_for("the transaction to be what the move waits for", async || {
        let blockers = watches.column("SHOW MOVES", "blocker").await;
        (blockers.iter().any(|b| !b.is_empty()) || moves.is_finished()).then_some(())
    })
    .await;
    assert!(!moves.is_finished(), "the transaction is open");
    open.batch_execute("UPDATE t SET n = n + 1 WHERE id = 1; COMMIT").await.unwrap();
    tokio::time::timeout(PATIENCE, moves).await.expect("the move goes on").unwrap();
    assert_eq!(texts(&client, "SELECT n FROM t WHERE id = 1").await, ["3"]);
}
