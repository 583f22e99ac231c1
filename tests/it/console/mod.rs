//! The console, over the wire, in front of real nodes.

mod operating;
mod pgbouncer;

use std::time::Duration;

use pgshunt::admin::Show;
use pgshunt::config::AuthMethod;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Column, NoTls, Row};

use crate::support::*;

#[tokio::test]
async fn every_show_answers_alike_in_both_protocols() {
    let p = Proxy::start(1, 1).await;
    let client = p.client().await;
    client.batch_execute("CREATE TABLE t (id int) PARTITION BY HASH (id)").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let mut console = Console::open(p.port(), "pgbouncer").await;
    for show in Show::ALL {
        let sql = format!("SHOW {};", show.word());
        // Some figures change by themselves between two questions.
        wait_for(&format!("two answers alike to {sql}"), async || {
            let simple = console.lines(&sql).await;
            let rows = console.client.query(&sql, &[]).await;
            alike(&simple, &rows.unwrap_or_else(|e| panic!("{sql}: {e:?}"))).then_some(())
        })
        .await;
    }
    let help: Vec<String> = console.told();
    assert!(help.len() >= 2 && help.iter().all(|h| h == "Console usage"), "{help:?}");
    assert_eq!(console.column("SHOW SHARDS", "tables").await, vec!["t"; 16]);
    assert_eq!(console.column("SHOW TABLES", "key_types").await, ["integer"]);
    let clients = console.column("SHOW CLIENTS", "database").await;
    assert!(
        clients.contains(&DATABASE.into()) && clients.contains(&"pgbouncer".into()),
        "{clients:?}"
    );
    // A statement is counted when its connection is given back: behind what is asked unseen.
    wait_for("the INSERT to be counted", async || {
        let counted = console.column("SHOW STATS_TOTALS", "query_count").await;
        (counted[0] != "0").then_some(())
    })
    .await;
    let keys = console.column("SHOW CONFIG", "key").await;
    assert!(keys.is_sorted() && keys.contains(&"pool.size".into()), "{keys:?}");
    assert!(keys.contains(&"shard_count".into()), "the cluster's settings are there too");
    assert!(!keys.iter().any(|k| k.contains("password")), "{keys:?}");
}

/// Whether an answer in the simple protocol and one in the extended say the same.
fn alike(simple: &Lines, rows: &[Row]) -> bool {
    let is_alike = |text: &Option<String>, row: &Row, column: &Column| match column.type_().name() {
        // The console's own session has other figures whenever it asks.
        _ if matches!(column.name(), "prepared_statements" | "request_time") => true,
        "text" => row.get::<_, Option<String>>(column.name()) == *text,
        "int4" => row.get::<_, Option<i32>>(column.name()).map(|n| n.to_string()) == *text,
        "int8" => row.get::<_, Option<i64>>(column.name()).map(|n| n.to_string()) == *text,
        other => other == "numeric",
    };
    simple.len() == rows.len()
        && simple.iter().zip(rows).all(|(simple, row)| {
            simple.len() == row.len()
                && simple.iter().zip(row.columns()).all(|((name, text), column)| {
                    name == column.name() && is_alike(text, row, column)
                })
        })
}

#[tokio::test]
async fn what_drivers_ask_and_what_nobody_can_answer() {
    let p = Proxy::start(1, 1).await;
    let console = p.console().await;
    assert_eq!(console.client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    let version = console.column("SELECT version()", "version").await;
    assert!(version[0].starts_with("PgBouncer 1.25.2 (pgshunt "), "{version:?}");
    for sql in
        ["", ";", "BEGIN", "COMMIT", "SET application_name = 'x'", "SET extra_float_digits = 3"]
    {
        console.does(sql).await;
    }
    for (sql, code, hint) in [
        ("SHOW NODE", "42601", "Did you mean SHOW NODES?"),
        ("SELECT relname FROM pg_class", "0A000", "Connect to your database for SQL."),
        ("MOVE SHARD 99 TO node1", "42704", "SHOW SHARDS lists them."),
        ("MOVE SHARD 1 TO nowhere", "42704", "There are node1."),
        ("ROLLBACK MOVE", "42704", "SHOW MOVES lists them."),
        ("CANCEL MOVE 7", "42704", "SHOW MOVES lists them."),
        ("RESUME", "55000", "SHOW DATABASES, NODES, SHARDS and STATE tell what is."),
        ("PAUSE NODE nowhere", "42704", "There are node1."),
        ("SET shard_cout = 3", "42704", "Did you mean shard_count?"),
        ("SET shard_count = 0", "22023", "It is a number from 1 to 4096"),
        ("SET sequence_stride = 3", "55P02", "It is fixed once sequences are made."),
        ("ADD NODE node1 'localhost:1'", "42710", "SHOW NODES lists them."),
    ] {
        let e = console.refused(sql).await;
        assert_eq!(e.code().code(), code, "{sql}: {e:?}");
        assert!(e.hint().unwrap_or_default().starts_with(hint), "{sql}: {e:?}");
        let prepared = console.client.query(sql, &[]).await.unwrap_err();
        assert_eq!(prepared.code().map(|c| c.code()), Some(code), "{sql}");
    }
    console.does("RELOAD").await;
    console.does("SET shard_count = 3").await;
    p.client().await.batch_execute("CREATE TABLE t (id int) PARTITION BY HASH (id)").await.unwrap();
    assert_eq!(console.lines("SHOW SHARDS").await.len(), 3);
    assert_eq!(console.lines("SHOW PLACEMENTS").await.len(), 3);
}

#[tokio::test]
async fn server_connections_are_listed_with_whom_they_serve() {
    let p = Proxy::start_with(1, 1, |c| c.pool.size = 1).await;
    let console = p.console().await;
    let client = p.client().await;
    client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let pid: i32 = value(&client, "SELECT pg_backend_pid()").await;
    let line = &console.lines("SHOW SERVERS").await[0];
    let of = |name: &str| {
        let found = line.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}"));
        found.1.clone().unwrap_or_default()
    };
    assert_eq!((of("state").as_str(), of("remote_pid")), ("active", pid.to_string()));
    assert_ne!(of("link"), "", "the client it serves");
    assert_eq!(console.column("SHOW NODES", "server_connections").await, ["1"]);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(console.column("SHOW SERVERS", "state").await, ["idle"]);
    assert_eq!(console.column("SHOW SERVERS", "link").await, [""]);
}

/// A figure that nobody counts is worse than none.
#[tokio::test]
async fn what_is_done_shows_in_the_metrics() {
    let p = Proxy::start(2, 2).await;
    let client = p.client().await;
    client.batch_execute("CREATE TABLE t (id int, v int) PARTITION BY HASH (id)").await.unwrap();
    for id in 0..10 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({id}, 1)")).await.unwrap();
        client.query("SELECT v FROM t WHERE id = $1", &[&id]).await.unwrap();
    }
    client.batch_execute("SELECT count(*) FROM t").await.unwrap();
    client.batch_execute("SELECT v, count(*) FROM t GROUP BY v").await.unwrap();
    let shared = &p.server.shared;
    let page = pgshunt::telemetry::render(&shared.registry, &shared.store.routes().load());
    let figure = |name: &str| -> f64 {
        let mut values = page
            .lines()
            .filter_map(|l| l.split_once(' '))
            .filter(|(n, _)| n.split('{').next() == Some(name) && !n.contains("+Inf"));
        values.by_ref().map(|(_, v)| v.parse::<f64>().unwrap()).sum()
    };
    for (name, least) in [
        ("pgshunt_route_seconds_count", 20.0),
        ("pgshunt_query_seconds_count", 20.0),
        ("pgshunt_transaction_seconds_count", 20.0),
        ("pgshunt_transactions_total", 20.0),
        ("pgshunt_plan_cache_hits_total", 9.0),
        ("pgshunt_plan_cache_misses_total", 3.0),
        ("pgshunt_client_parses_total", 10.0),
        ("pgshunt_server_parses_total", 1.0),
        ("pgshunt_binds_total", 10.0),
        ("pgshunt_gathered_statements_total", 1.0),
        ("pgshunt_gathered_bytes_total", 10.0),
        ("pgshunt_server_connections_opened_total", 2.0),
        ("pgshunt_server_assignments_total", 20.0),
    ] {
        assert!(figure(name) >= least, "{name}: {}\n{page}", figure(name));
    }
    let sent = page.lines().find(|l| l.contains("side=\"client\"") && l.contains("sent"));
    assert!(sent.is_some_and(|l| !l.ends_with(" 0")), "{sent:?}\n{page}");
}

/// The planner sees an index's name only, and it must not go on one node alone.
#[tokio::test]
async fn an_index_dropped_through_the_proxy_is_dropped_everywhere() {
    let p = Proxy::start(2, 2).await;
    let client = p.client().await;
    for sql in [
        "CREATE TABLE t (id int, a int) PARTITION BY HASH (id)",
        "CREATE INDEX by_a ON t (a)",
        "CREATE TABLE local (a int)",
        "CREATE INDEX local_a ON local (a)",
        "DROP INDEX by_a",
        "DROP INDEX local_a",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
    for node in &p.nodes.nodes {
        let left: i64 = value(
            &connect(node.port()).await,
            "SELECT count(*) FROM pg_indexes WHERE indexname IN ('by_a', 'local_a')",
        )
        .await;
        assert_eq!(left, 0, "{}", node.name());
    }
}

#[tokio::test]
async fn only_admins_are_let_in() {
    let p = Proxy::start_with(1, 1, |c| c.auth.admins = vec!["ann".into()]).await;
    let node = connect(p.nodes.nodes[0].port()).await;
    node.batch_execute("CREATE ROLE ann LOGIN PASSWORD 'a'; CREATE ROLE bob LOGIN PASSWORD 'b'")
        .await
        .unwrap();
    let ann = connect_as(p.port(), "pgshunt", "ann", "a").await.unwrap();
    ann.simple_query("SHOW NODES").await.unwrap();
    let bob = connect_as(p.port(), "pgshunt", "bob", "b").await.unwrap_err();
    assert_eq!(bob.code().map(|c| c.code()), Some("42501"));
}

#[tokio::test]
async fn a_node_is_added_and_a_shard_goes_there_and_back() {
    let p = Proxy::start(3, 2).await;
    let mut console = p.console().await;
    console.does("SET shard_count = 4").await;
    let client = p.client().await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY HASH (id)")
        .await
        .unwrap();
    for id in 0..200 {
        client.execute("INSERT INTO t VALUES ($1, 'x')", &[&id]).await.unwrap();
    }
    let third = p.nodes.nodes[2].port();
    let add = format!("ADD NODE node3 '127.0.0.1:{third}'");
    // A server that was a node before says what to drop; so does one that cannot be logged in to.
    let direct = connect(third).await;
    let left = ["SCHEMA shard_7", "SCHEMA pgshunt", "TABLE t (id int)"];
    for what in left {
        direct.batch_execute(&format!("CREATE {what}")).await.unwrap();
    }
    let e = console.refused(&add).await;
    assert_eq!(e.code().code(), "55000");
    for what in ["schema shard_7", "schema pgshunt", "relation public.t"] {
        assert!(e.detail().unwrap().contains(what), "{e:?}");
    }
    direct.batch_execute("DROP SCHEMA shard_7, pgshunt; DROP TABLE t").await.unwrap();
    let sql = format!("ALTER ROLE {SUPERUSER} PASSWORD ");
    direct.batch_execute(&format!("{sql} 'another'")).await.unwrap();
    let e = console.refused(&add).await;
    assert_eq!(e.code().code(), "28P01", "{e:?}");
    assert!(e.message().contains("password authentication failed"), "{e:?}");
    assert!(e.hint().unwrap().contains("cluster.service_user"), "{e:?}");
    direct.batch_execute(&format!("{sql} '{PASSWORD}'")).await.unwrap();
    console.does(&add).await;
    assert_eq!(console.column("SHOW NODES", "shards").await, ["2", "2", "0"]);

    console.told();
    console.does("MOVE SHARD 1 TO node3").await;
    let told = console.told();
    assert!(told.iter().any(|l| l.contains("copying")), "{told:?}");
    let last = told.last().unwrap();
    assert!(
        last.starts_with("move 1: shard 1 is served by node3, held ") && last.ends_with(" ms"),
        "{told:?}"
    );
    assert_eq!(console.column("SHOW SHARDS", "node").await, ["node3", "node2", "node1", "node2"]);
    assert_eq!(console.column("SHOW MOVES", "state").await, ["soaking"]);
    let e = console.refused("MOVE SHARD 1 TO node2").await;
    assert_eq!(e.code().code(), "55006");
    let count: i64 = value(&client, "SELECT count(*) FROM t").await;
    assert_eq!(count, 200);

    console.does("ROLLBACK MOVE").await;
    assert_eq!(console.column("SHOW SHARDS", "node").await, ["node1", "node2", "node1", "node2"]);
    let count: i64 = value(&client, "SELECT count(*) FROM t").await;
    assert_eq!(count, 200);
    // Its cleaning is still a change of the group.
    wait_for("the rollback to be over", async || {
        let states = console.column("SHOW MOVES", "state").await;
        (states.last()? == "done").then_some(())
    })
    .await;
    console.does("MOVE SHARD 2 TO node3 NOWAIT").await;
    wait_for("the move to soak", async || {
        let states = console.column("SHOW MOVES", "state").await;
        (states.last()? == "soaking").then_some(())
    })
    .await;
    console.does("FINISH MOVE").await;
    wait_for("the move to be cleaned up", async || {
        let states = console.column("SHOW MOVES", "state").await;
        (states.last()? == "done").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pause_holds_what_it_names_until_resume() {
    let p = Proxy::start(2, 2).await;
    let console = p.console().await;
    console.does("SET shard_count = 2").await;
    let client = p.client().await;
    client.batch_execute("CREATE TABLE t (id int) PARTITION BY HASH (id)").await.unwrap();
    let shard_of = async |id: i32| {
        let sql = format!("SELECT satisfies_hash_partition('public.t'::regclass, 2, 0, {id})");
        let first: bool = value(&connect(p.nodes.nodes[0].port()).await, &sql).await;
        if first { 1 } else { 2 }
    };
    let id = 7;
    let (mine, other) = if shard_of(id).await == 1 { (1, 2) } else { (2, 1) };
    let mut elsewhere = 0;
    while shard_of(elsewhere).await != other {
        elsewhere += 1;
    }
    console.does(&format!("PAUSE SHARD {mine}")).await;
    assert_eq!(console.refused(&format!("PAUSE SHARD {mine}")).await.code().code(), "55000");
    let paused = console.column("SHOW SHARDS", "paused").await;
    assert_eq!(paused.iter().filter(|p| *p == "yes").count(), 1);

    let held = tokio::spawn(async move {
        client.execute(&format!("INSERT INTO t VALUES ({id})"), &[]).await.map(|_| client)
    });
    wait_for("the insert to be held", async || {
        let states = console.column("SHOW CLIENTS", "activity").await;
        states.contains(&"held".into()).then_some(())
    })
    .await;
    let free = p.client().await;
    free.execute(&format!("INSERT INTO t VALUES ({elsewhere})"), &[]).await.unwrap();
    assert!(!held.is_finished());
    console.does("RESUME").await;
    held.await.unwrap().unwrap();

    // An open transaction keeps a pause waiting; giving up leaves nothing paused.
    free.batch_execute(&format!("BEGIN; INSERT INTO t VALUES ({id})")).await.unwrap();
    let token = console.client.cancel_token();
    let other = p.console().await;
    let pause = tokio::spawn(async move { console.refused("PAUSE").await });
    wait_for("the pause to begin", async || {
        (other.column("SHOW STATE", "value").await[1] == "yes").then_some(())
    })
    .await;
    token.cancel_query(NoTls).await.unwrap();
    assert_eq!(pause.await.unwrap().code().code(), "57014");
    free.batch_execute("COMMIT").await.unwrap();
    wait_for("the pause to be given up", async || {
        (other.column("SHOW STATE", "value").await[1] == "no").then_some(())
    })
    .await;
    free.batch_execute("SELECT count(*) FROM t").await.unwrap();
}

/// A console session spoken by hand.
struct Raw(TcpStream);

impl Raw {
    async fn open(port: u16) -> Self {
        let mut raw = Self(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        let mut startup = vec![0, 0, 0, 0, 0, 3, 0, 0];
        startup.extend_from_slice(format!("user\0{SUPERUSER}\0database\0pgshunt\0\0").as_bytes());
        let len = startup.len() as u32;
        startup[..4].copy_from_slice(&len.to_be_bytes());
        raw.0.write_all(&startup).await.unwrap();
        assert!(raw.until_ready().await.starts_with('R'));
        raw
    }

    async fn send(&mut self, messages: &[(u8, &[u8])]) {
        let mut bytes = Vec::new();
        for (tag, body) in messages {
            bytes.push(*tag);
            bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            bytes.extend_from_slice(body);
        }
        self.0.write_all(&bytes).await.unwrap();
    }

    /// The tags of what comes up to and with ReadyForQuery, or the end.
    async fn until_ready(&mut self) -> String {
        let read = async {
            let mut tags = String::new();
            loop {
                let Ok(tag) = self.0.read_u8().await else { return tags };
                let len = self.0.read_u32().await.unwrap() as usize - 4;
                let mut body = vec![0; len];
                self.0.read_exact(&mut body).await.unwrap();
                tags.push(tag as char);
                if tag == b'Z' {
                    return tags;
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an answer within the deadline")
    }
}

#[tokio::test]
async fn the_protocol_by_hand() {
    let p = Proxy::start_with(1, 1, |c| c.auth.method = AuthMethod::Trust).await;
    let mut raw = Raw::open(p.port()).await;
    let parse: &[u8] = b"s\0SHOW LISTS\0\0\0";
    let bind: &[u8] = b"\0s\0\0\0\0\0\0\0";
    // A limit suspends the portal, and it goes on where it was.
    raw.send(&[(b'P', parse), (b'B', bind), (b'D', b"P\0"), (b'E', b"\0\0\0\0\x0a")]).await;
    raw.send(&[(b'E', b"\0\0\0\0\0"), (b'S', b"")]).await;
    assert_eq!(raw.until_ready().await, format!("12T{}s{}CZ", "D".repeat(10), "D".repeat(4)));
    // An error skips everything up to Sync, and no further.
    raw.send(&[(b'P', b"\0nonsense\0\0\0"), (b'B', bind), (b'E', b"\0\0\0\0\0"), (b'S', b"")])
        .await;
    raw.send(&[(b'D', b"Ss\0"), (b'C', b"Ss\0"), (b'B', bind), (b'S', b"")]).await;
    assert_eq!(raw.until_ready().await, "EZ");
    assert_eq!(raw.until_ready().await, "tT3EZ");
    raw.send(&[
        (b'P', b"\0\0\0\0"),
        (b'B', b"\0\0\0\0\0\0\0\0"),
        (b'E', b"\0\0\0\0\0"),
        (b'S', b""),
    ])
    .await;
    assert_eq!(raw.until_ready().await, "12IZ");
    raw.send(&[(b'Q', b"SHOW STATE; nonsense\0"), (b'Q', b"\xff\0"), (b'F', b"")]).await;
    assert_eq!(raw.until_ready().await, "EZ");
    assert_eq!(raw.until_ready().await, "EZ");
    assert_eq!(raw.until_ready().await, "EZ");
    raw.send(&[(b'Q', b"SHOW VERSION; SHOW STATE\0")]).await;
    assert_eq!(raw.until_ready().await, "TDCTDDDCZ");

    // What is too long, or no message at all, ends the session with a word.
    raw.0.write_all(&[b'Q', 0x10, 0, 0, 0]).await.unwrap();
    assert_eq!(raw.until_ready().await, "E");
    for garbage in [&b"\x00\x00\x00\x00\x04"[..], b"Q\0\0\0\x03", b"Q\0\0\0\x05x", b"B\0\0\0\x06xx"]
    {
        let mut raw = Raw::open(p.port()).await;
        raw.0.write_all(garbage).await.unwrap();
        assert_eq!(raw.until_ready().await, "E", "{garbage:?}");
    }
}

#[tokio::test]
async fn a_shutdown_sends_the_console_away() {
    let p = Proxy::start(1, 1).await;
    let console = p.console().await;
    let started = std::time::Instant::now();
    p.server.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(console.client.simple_query("SHOW NODES").await.is_err());
}
