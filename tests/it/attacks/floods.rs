//! Somebody takes all there is: file descriptors before a login, the memory of plans behind it. The others go
//! on.

use std::cell::RefCell;
use std::net::TcpStream;
use std::process::Command;

use tokio_postgres::Client;

use super::*;
use crate::faults::binary::{Binary, configuration};
use crate::faults::wire::{Wire, message, query};
use crate::program::Program;

/// How many files the program may open.
const FILES: usize = 128;

fn open_files(program: &Program) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", program.child.id())).unwrap().count()
}

async fn log_in(port: u16) -> Result<Client, String> {
    let client = connect_as(port, DATABASE, SUPERUSER, PASSWORD).await;
    client.map_err(|e| e.code().map_or_else(|| format!("{e:?}"), |c| c.code().to_owned()))
}

#[tokio::test]
async fn with_all_files_taken_clients_console_and_nodes_go_on() {
    let nodes = LocalCluster::start(2).unwrap();
    let dir = nodes.nodes[0].data_dir();
    let file = dir.parent().unwrap().join("few-files.toml");
    std::fs::write(&file, configuration(&nodes, "[pool]\nsize = 4\n")).unwrap();
    let mut shell = Command::new("sh");
    let serve = format!("ulimit -n {FILES}; exec \"$0\" serve --config \"$1\"");
    shell.args(["-c", &serve, env!("CARGO_BIN_EXE_pgshunt")]).arg(&file).env_remove("RUST_LOG");
    let mut program = Program::spawn(shell);
    let line = program.says("pgshunt listens on 127.0.0.1:");
    let port = line.rsplit(':').next().unwrap().parse().unwrap();

    let mut clients = vec![log_in(port).await.unwrap()];
    let make = "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY HASH (id)";
    clients[0].batch_execute(make).await.unwrap();
    for id in 0..20 {
        clients[0].execute("INSERT INTO t VALUES ($1, 0)", &[&id]).await.unwrap();
    }
    let works = async |client: &Client, case: &str| {
        for id in 0..20 {
            let sql = "UPDATE t SET v = v + 1 WHERE id = $1";
            let done = client.execute(sql, &[&id]).await;
            assert_eq!(done.unwrap_or_else(|e| panic!("{case}: {e:?}")), 1, "{case}");
        }
        let all = client.query_one("SELECT count(*) FROM t", &[]).await;
        assert_eq!(all.unwrap_or_else(|e| panic!("{case}: {e:?}")).get::<_, i64>(0), 20, "{case}");
    };
    // Four hundred open a connection and say nothing.
    let strangers: Vec<_> =
        (0..400).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    works(&clients[0], "among strangers").await;
    let console = Console::open(port, "pgshunt").await;
    assert!(!console.column("SHOW CLIENTS", "database").await.is_empty());
    // Clients come in until there would be no room left for the nodes.
    let refused = loop {
        match log_in(port).await {
            Ok(client) => clients.push(client),
            Err(code) => break code,
        }
        assert!(clients.len() < FILES, "all of them came in");
    };
    assert_eq!(refused, "53300");
    assert!(clients.len() > 10, "{} clients came in", clients.len());
    for client in &clients {
        works(client, "with all taken").await;
    }
    // Connections of pgshunt's own to both nodes, and another console.
    clients[0].batch_execute("CREATE INDEX by_v ON t (v)").await.unwrap();
    let second = Console::open(port, "pgshunt").await;
    assert_eq!(second.column("SHOW NODES", "name").await, ["node1", "node2"]);
    assert!(open_files(&program) < FILES, "{}", open_files(&program));

    drop(strangers);
    works(&clients[0], "the strangers are gone").await;
    clients.truncate(1);
    let again = RefCell::new(Vec::new());
    wait_for("ten clients to be let in again", async || {
        let client = log_in(port).await.ok()?;
        again.borrow_mut().push(client);
        (again.borrow().len() == 10).then_some(())
    })
    .await;
    let again = again.into_inner();
    for client in again.iter().chain(&clients) {
        works(client, "afterwards").await;
    }
    program.signal(libc::SIGTERM);
    drop((again, clients, console, second));
    assert!(program.end().await.success());
}

/// What two workers' plans may take ([limits] has the sessions'), and what an allocator keeps of it, in MB.
const PLANS: u64 = 2 * 32 + 80;

/// Statements that nobody has said before, by every way there is, and no answer is missing.
#[tokio::test]
async fn statements_without_end_cost_a_bounded_amount_and_nobody_else_its_answers() {
    const TEXTS: usize = 12_000;
    let b = Binary::start(2, "");
    let mut wire = Wire::login(b.port).await;
    assert_eq!(wire.ask("CREATE TABLE t (id int, v int) PARTITION BY HASH (id)").await, "CZ");
    assert_eq!(wire.ask("INSERT INTO t VALUES (1, 10)").await, "CZ");
    let other = log_in(b.port).await.unwrap();
    let prepared = other.prepare("SELECT v FROM t WHERE id = $1").await.unwrap();
    let before = b.memory();
    let mut most = 0;
    let padding = "x".repeat(8000);
    for n in (0..TEXTS).step_by(100) {
        let mut batch = Vec::new();
        for n in n..n + 100 {
            // Of other shapes, long and short; as simple texts, and as prepared ones.
            let padding = &padding[..n % 80 * 100];
            let sql = format!("SELECT v AS a{n}_{padding} FROM t WHERE id = 1");
            batch.extend(match n % 2 {
                0 => query(&sql),
                _ => {
                    let parse = [b"\0", sql.as_bytes(), b"\0\0\0"].concat();
                    let bind = message(b'B', b"\0\0\0\0\0\0\0\0");
                    let execute = message(b'E', b"\0\0\0\0\0");
                    [message(b'P', &parse), bind, execute, message(b'S', b"")].concat()
                }
            });
        }
        wire.send(&batch).await;
        for n in n..n + 100 {
            // PostgreSQL says of a long name that it cuts it.
            let answer = wire.ready().await.replace('N', "");
            assert_eq!(answer, if n % 2 == 0 { "TDCZ" } else { "12DCZ" }, "{n}");
        }
        most = most.max(b.memory());
        let rows = other.query(&prepared, &[&1]).await.unwrap();
        assert_eq!(rows[0].get::<_, i32>(0), 10, "{n}");
    }
    assert!(most < before + PLANS, "{before} MB, then {most} MB");
    assert_eq!(value::<i32>(&other, "SELECT v FROM t WHERE id = 1").await, 10);
}

/// Names of prepared statements cost their session, and end with it.
#[tokio::test]
async fn prepared_names_without_end_are_refused_and_end_with_their_session() {
    const NAMES: usize = 50_000;
    let b = Binary::start(1, "[limits]\nmax_session = \"8MB\"\n");
    let before = b.memory();
    let other = log_in(b.port).await.unwrap();
    let mut most = 0;
    for _ in 0..3 {
        let mut wire = Wire::login(b.port).await;
        let (mut made, mut refused) = (0, 0);
        for n in (0..NAMES).step_by(500) {
            let parse = |n: usize| {
                let body = format!("name{n}\0SELECT {n}, repeat('x', {n})\0\0\0");
                [message(b'P', body.as_bytes()), message(b'S', b"")].concat()
            };
            wire.send(&(n..n + 500).flat_map(parse).collect::<Vec<_>>()).await;
            for n in n..n + 500 {
                match wire.ready().await.as_str() {
                    "1Z" => made += 1,
                    "E54000Z" => refused += 1,
                    other => panic!("{n}: {other}"),
                }
            }
            most = most.max(b.memory());
        }
        assert!(made > 1000 && refused > 1000, "{made} made, {refused} refused");
        // What it has is good still.
        wire.send(&message(b'B', b"\0name7\0\0\0\0\0\0\0")).await;
        wire.send(&[message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat()).await;
        assert_eq!(wire.ready().await, "2DCZ");
        assert_eq!(value::<i32>(&other, "SELECT 1").await, 1);
    }
    assert!(most < before + PLANS + 8, "{before} MB, then {most} MB");
}
