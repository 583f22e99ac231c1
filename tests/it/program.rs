//! The program as the README has people run it: `check`, `serve`, `demo --keep` and `local`, with
//! the files of `config/`, until a signal ends it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use crate::support::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgshunt"));
    command.args(arguments).current_dir(ROOT).env_remove("RUST_LOG");
    command.env("PGSHUNT_SERVICE_PASSWORD", PASSWORD);
    command
}

/// A running program and the lines it prints.
pub struct Program {
    pub child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Program {
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(command(arguments))
    }

    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|l| tell.send(l))
        });
        Self { child, lines, said: Vec::new() }
    }

    /// Waits for a line that has `part` in it.
    pub fn says(&mut self, part: &str) -> String {
        let deadline = Instant::now() + 3 * PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => panic!("ended: {:#?}", self.said),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("waited in vain for {part:?}: {:#?}", self.said)
                }
            }
        }
    }

    pub fn signal(&self, number: i32) {
        // SAFETY: sends a signal to a child that has not been waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), number) };
    }

    pub async fn end(&mut self) -> ExitStatus {
        wait_for("the program to end", || {
            let ended = self.child.try_wait().unwrap();
            async move { ended }
        })
        .await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // What the watchdogs of its nodes need as a sign to clean up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address within a line: `  psql 'postgres://...'`.
fn address(line: &str) -> &str {
    let rest =
        &line[line.find("postgres://").unwrap_or_else(|| panic!("no address in {line:?}"))..];
    rest.split(['\'', ' ']).next().unwrap()
}

async fn ask(address: &str, sql: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(address, tokio_postgres::NoTls)
        .await
        .unwrap_or_else(|e| panic!("{address}: {e:?}"));
    tokio::spawn(connection);
    texts(&client, sql).await
}

/// Directories of nodes that the process `pid` has made and that are still there.
fn left_behind(pid: u32) -> Vec<PathBuf> {
    let bases = ["/dev/shm", "/tmp", "/var/tmp"].map(PathBuf::from);
    let bases = bases.into_iter().chain([std::env::temp_dir()]);
    let list = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let ours =
        bases.flat_map(list).filter(|e| e.file_name().to_string_lossy().starts_with("pgshunt-"));
    ours.flat_map(|e| list(e.path()))
        .map(|e| e.path())
        .filter(|p| p.to_string_lossy().contains(&format!("/node-{pid}-")))
        .collect()
}

#[tokio::test]
async fn the_demo_keeps_its_word_about_the_lines_it_prints() {
    let small = ["--seconds", "1", "--connections", "2", "--rows", "1000"];
    let mut demo = Program::start(&[&["demo", "--keep"][..], &small].concat());
    demo.says("statements");
    let errors = demo.says("errors");
    let (lost, doubled) = (demo.says("lost"), demo.says("doubled"));
    for line in [errors, lost, doubled] {
        assert!(line.ends_with(" 0"), "{:#?}", demo.said);
    }
    demo.says("The database, through pgshunt");
    let (database, console) = (demo.says("psql"), demo.says("psql"));
    demo.says("Ctrl-C ends it");
    let count = ask(address(&database), "SELECT count(*) FROM part_hash_test").await;
    assert!(count[0].parse::<i64>().unwrap() >= 1000, "{count:?}");
    let nodes = ask(address(&console), "SHOW NODES").await;
    assert_eq!(nodes.len(), 3);
    let pid = demo.child.id();
    assert!(!left_behind(pid).is_empty(), "the nodes are somewhere else");
    demo.signal(libc::SIGINT);
    assert!(demo.end().await.success());
    assert_eq!(left_behind(pid), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn local_nodes_to_play_with_go_when_told() {
    let mut local = Program::start(&["local", "--nodes", "2", "--in-use", "1"]);
    let (database, console) = (local.says("pgshunt  "), local.says("console"));
    let (first, second) = (local.says("node1"), local.says("node2"));
    assert!(second.ends_with("not in use") && !first.ends_with("not in use"));
    local.says("Ready");
    assert_eq!(ask(address(&database), "SELECT 1").await, ["1"]);
    assert_eq!(ask(address(&console), "SHOW NODES").await.len(), 1);
    assert_eq!(
        ask(address(&second), "SELECT count(*) FROM pg_class WHERE relname = 'nodes'").await,
        ["0"]
    );
    let pid = local.child.id();
    local.signal(libc::SIGTERM);
    assert!(local.end().await.success());
    assert_eq!(left_behind(pid), Vec::<PathBuf>::new());
    assert!(tokio_postgres::connect(address(&second), tokio_postgres::NoTls).await.is_err());
}

/// `config/pgshunt.toml` with the nodes of a cluster, and any port for clients.
pub fn reference(cluster: &LocalCluster, name: &str) -> PathBuf {
    let text = std::fs::read_to_string(format!("{ROOT}/config/pgshunt.toml")).unwrap();
    let port = |i: usize| format!("port = {}", cluster.nodes[i].port());
    let text = text
        .replace("127.0.0.1:6432", "127.0.0.1:0")
        .replace("service_user = \"pgshunt\"", &format!("service_user = \"{SUPERUSER}\""))
        .replace("port = 5432", &port(0))
        .replace("port = 5433", &port(1));
    let file = std::env::temp_dir().join(format!("pgshunt-{name}-{}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    file
}

fn text(output: &Output) -> String {
    let bytes = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn the_reference_configuration_is_checked_and_served() {
    let cluster = LocalCluster::start(2).unwrap();
    let file = reference(&cluster, "reference");
    let path = file.to_str().unwrap();
    let checked = command(&["check", "--config", path]).output().unwrap();
    assert!(checked.status.success(), "{}", text(&checked));
    assert!(text(&checked).contains("All is ready."), "{}", text(&checked));

    let mut serve = Program::start(&["serve", "--config", path]);
    let line = serve.says("pgshunt listens on 127.0.0.1:");
    let port: u16 = line.rsplit(':').next().unwrap().parse().unwrap();
    let client = connect(port).await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id); ")
        .await
        .unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    serve.signal(libc::SIGTERM);
    // No new client, while the open transaction may end.
    wait_for("the port to be closed", async || {
        connect_as(port, DATABASE, SUPERUSER, PASSWORD).await.is_err().then_some(())
    })
    .await;
    client.batch_execute("COMMIT").await.unwrap();
    assert!(serve.end().await.success());

    // What was written is there for the next one.
    let mut serve = Program::start(&["serve", "--config", path]);
    let line = serve.says("pgshunt listens on 127.0.0.1:");
    let client = connect(line.rsplit(':').next().unwrap().parse().unwrap()).await;
    assert_eq!(value::<i64>(&client, "SELECT count(*) FROM t").await, 1);
    drop(client);
    serve.signal(libc::SIGINT);
    assert!(serve.end().await.success());
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn check_says_in_words_why_a_node_will_not_do() {
    let mut options = ClusterOptions::new(2);
    options.settings =
        [("wal_level", "replica"), ("max_wal_senders", "0"), ("max_replication_slots", "0")]
            .map(|(k, v)| (k.into(), v.into()))
            .to_vec();
    let mut cluster = LocalCluster::start_with(&options).unwrap();
    cluster.nodes[1].stop(StopMode::Fast).unwrap();
    let file = reference(&cluster, "lacking");
    let checked = command(&["check", "--config", file.to_str().unwrap()]).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let said = text(&checked);
    assert_eq!(checked.status.code(), Some(1), "{said}");
    for part in [
        "lacks: wal_level is replica",
        "lacks: max_replication_slots is 0",
        "lacks: max_wal_senders is 0",
        "node node2 (127.0.0.1:",
        "refused",
        "Not ready yet.",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}

#[test]
fn the_configuration_of_the_containers_is_right_and_its_nodes_are_elsewhere() {
    let checked = command(&["check", "--config", "config/docker.toml"]).output().unwrap();
    let said = text(&checked);
    assert_eq!(checked.status.code(), Some(1), "there is no node1 here: {said}");
    assert!(said.contains("configuration: ok"), "{said}");
    for node in ["node1", "node2", "node3"] {
        let line = format!("node {node} ({node}:5432");
        assert!(said.contains(&line), "{line} is not in\n{said}");
    }
    assert!(said.contains("lookup") || said.contains("resolve"), "{said}");
}
