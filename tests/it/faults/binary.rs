//! The program itself, as a process: what it does on signals, and how much memory it takes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::wire::{Wire, message, query};
use super::*;

/// `pgshunt serve` over nodes of its own.
pub struct Binary {
    pub nodes: LocalCluster,
    pub port: u16,
    pub file: PathBuf,
    child: Child,
}

impl Binary {
    /// `more` is put into the configuration file: whole sections other than cluster and server.
    pub fn start(nodes: usize, more: &str) -> Self {
        let nodes = LocalCluster::start(nodes).unwrap();
        let dir = nodes.nodes[0].data_dir();
        let file = dir.parent().unwrap_or(&dir).join("pgshunt.toml");
        std::fs::write(&file, configuration(&nodes, more)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_pgshunt"))
            .args(["serve", "--config"])
            .arg(&file)
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let (_, port) = line.trim().rsplit_once(':').unwrap_or_else(|| panic!("{line:?}"));
        Self { nodes, port: port.parse().unwrap(), file, child }
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: the child has not been waited for, so the pid is its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Resident memory, in MB.
    pub fn memory(&self) -> u64 {
        self.kilobytes() / 1024
    }

    fn kilobytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    async fn ended(&mut self) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.child);
        wait_for("the process to end", async || child.borrow_mut().try_wait().unwrap()).await
    }
}

/// The file's text.
pub fn configuration(nodes: &LocalCluster, more: &str) -> String {
    let mut text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\nshutdown_timeout = \"5s\"\n\
         [auth]\nmethod = \"trust\"\nadmins = []\n\
         [cluster]\ndatabase = \"{DATABASE}\"\nservice_user = \"{SUPERUSER}\"\n\
         service_password = \"{PASSWORD}\"\n"
    );
    for n in &nodes.config.cluster.nodes {
        let (name, host, port) = (&n.name, &n.host, n.port);
        text +=
            &format!("[[cluster.nodes]]\nname = \"{name}\"\nhost = \"{host}\"\nport = {port}\n");
    }
    text + more
}

impl Drop for Binary {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Waits until so many backends of the first node are stopped by a full socket, that is, by their
/// client.
pub async fn wait_for_back_pressure(b: &Binary, backends: i64) {
    let home = connect(b.nodes.nodes[0].port()).await;
    wait_for("the node to wait for its client", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'";
        (value::<i64>(&home, sql).await >= backends).then_some(())
    })
    .await;
}

/// Reads a whole result without keeping it: its bytes in DataRows, and the most memory meanwhile.
async fn drain(wire: &mut Wire, b: &Binary) -> (u64, u64) {
    let (mut bytes, mut most, mut looked) = (0, 0, 0);
    loop {
        let (tag, len) = wire.skip().await.expect("a message");
        if bytes >= looked {
            most = most.max(b.memory());
            looked = bytes + (1 << 20);
        }
        match tag {
            b'D' => bytes += len,
            b'Z' => return (bytes, most),
            b'E' => panic!("an error"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn results_are_streamed_whatever_their_size_and_whoever_reads_them_late() {
    // glibc gives freed memory back from 64 MB on only.
    const ROOM: u64 = 80;
    let b = Binary::start(2, "");
    let mut wire = Wire::login(b.port).await;
    assert_eq!(wire.ask("CREATE TABLE t (id int) PARTITION BY HASH (id)").await, "CZ");
    for id in 0..50 {
        assert_eq!(wire.ask(&format!("INSERT INTO t VALUES ({id})")).await, "CZ");
    }
    let before = b.memory();
    for (sql, size) in [
        // From one node, from all nodes, and as one value.
        ("SELECT repeat('x', 1000) FROM generate_series(1, 300000)", 300_000 * 1000),
        ("SELECT repeat('x', 4000000) FROM t", 50 * 4_000_000),
        ("SELECT repeat('x', 200000000)", 200_000_000),
    ] {
        wire.send(&query(sql)).await;
        wait_for_back_pressure(&b, 1).await;
        let unread = b.memory();
        assert!(unread < before + ROOM, "{sql}: {before} MB, then {unread} MB");
        let (bytes, most) = drain(&mut wire, &b).await;
        assert!((size..size + size / 10).contains(&bytes), "{sql}: {bytes}");
        assert!(most < before + ROOM, "{sql}: {before} MB, then {most} MB");
    }
    // A value that large comes in by COPY.
    assert_eq!(wire.ask("CREATE TABLE large (v text)").await, "CZ");
    wire.send(&query("COPY large FROM STDIN")).await;
    assert_eq!(wire.next().await.expect("a CopyInResponse").0, b'G');
    let chunk = message(b'd', &[b'y'; 1 << 20]);
    let mut most = 0;
    for _ in 0..200 {
        wire.send(&chunk).await;
        most = most.max(b.memory());
    }
    wire.send(&message(b'd', b"\n")).await;
    // And in one message.
    let mut huge = message(b'd', &vec![b'z'; 100 << 20]);
    huge.pop();
    huge.push(b'\n');
    wire.send(&huge).await;
    wire.send(&message(b'c', b"")).await;
    assert_eq!(wire.ready().await, "CZ");
    most = most.max(b.memory());
    assert!(most < before + ROOM, "{before} MB, then {most} MB");
    let home = connect(b.nodes.nodes[0].port()).await;
    let lengths: Vec<i32> =
        value(&home, "SELECT array_agg(length(v) ORDER BY length(v)) FROM large").await;
    assert_eq!(lengths, [(100 << 20) - 1, 200 << 20]);
}

/// Statements that pgshunt answers itself, from a client that sends and sends and never reads.
#[tokio::test]
async fn a_client_that_never_reads_is_not_answered_into_memory() {
    let b = Binary::start(1, "");
    let mut wire = Wire::login(b.port).await;
    assert_eq!(wire.ask("BEGIN").await, "CZ");
    let before = b.memory();
    // Each is refused with some hundred bytes.
    let many = query("PREPARE TRANSACTION 'x'").repeat(10_000);
    let mut sent = 0;
    // It is stopped long before it is through.
    while tokio::time::timeout(Duration::from_secs(2), wire.send(&many)).await.is_ok() {
        sent += 1;
        let now = b.memory();
        // What is in use stays below one; glibc gives freed memory back from 64 MB on only.
        assert!(now < before + 80, "{before} MB, then {now} MB for {sent} batches");
        assert!(sent < 400, "never stopped");
    }
}

#[tokio::test]
async fn sigterm_lets_transactions_end_and_sends_the_others_away() {
    let mut b = Binary::start(1, "");
    let mut idle = Wire::login(b.port).await;
    let mut busy = Wire::login(b.port).await;
    let mut running = Wire::login(b.port).await;
    assert_eq!(busy.ask("CREATE TABLE t (a int)").await, "CZ");
    assert_eq!(busy.ask("BEGIN; INSERT INTO t VALUES (1)").await, "CCZ");
    running.send(&query("INSERT INTO t SELECT 2 FROM pg_sleep(2)")).await;
    let home = connect(b.nodes.nodes[0].port()).await;
    wait_for("the statement to run", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        (value::<i64>(&home, sql).await == 1).then_some(())
    })
    .await;
    b.signal(libc::SIGTERM);
    assert_eq!(idle.last_words().await.0, "57P01");
    // Nobody new is let in.
    wait_for("the door to be closed", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", b.port)).await.is_err().then_some(())
    })
    .await;
    assert_eq!(running.ready().await, "CZ");
    assert_eq!(running.last_words().await.0, "57P01");
    assert_eq!(busy.ask("INSERT INTO t VALUES (3)").await, "CZ");
    assert_eq!(busy.ask("COMMIT").await, "CZ");
    assert_eq!(busy.last_words().await.0, "57P01");
    assert!(b.ended().await.success());
    assert_eq!(value::<i64>(&home, "SELECT sum(a) FROM t").await, 6);
}

#[tokio::test]
async fn sigterm_does_not_wait_for_ever() {
    let mut b = Binary::start(1, "[pool]\nsize = 3\n");
    let mut endless = Wire::login(b.port).await;
    let mut running = Wire::login(b.port).await;
    let mut held = Wire::login(b.port).await;
    let mut waits = Wire::login(b.port).await;
    assert_eq!(endless.ask("CREATE TABLE t (a int)").await, "CZ");
    assert_eq!(endless.ask("BEGIN; INSERT INTO t VALUES (1)").await, "CCZ");
    assert_eq!(held.ask("BEGIN; SELECT 1").await, "CTDCZ");
    running.send(&query("INSERT INTO t SELECT 2 FROM pg_sleep(1000)")).await;
    held.send(&query("LOCK TABLE t; INSERT INTO t VALUES (4)")).await;
    let home = connect(b.nodes.nodes[0].port()).await;
    let count = async |which: &str| {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {which}");
        value::<i64>(&home, &sql).await
    };
    wait_for("the statements to run", async || {
        let which = "wait_event = 'PgSleep' OR wait_event_type = 'Lock'";
        (count(which).await == 2).then_some(())
    })
    .await;
    // No connection is left for this one.
    waits.send(&query("INSERT INTO t VALUES (3)")).await;
    let console = Console::open(b.port, "pgshunt").await;
    wait_for("it to stand in line", async || {
        let states = console.column("SHOW CLIENTS", "activity").await;
        states.contains(&"waiting".into()).then_some(())
    })
    .await;
    b.signal(libc::SIGTERM);
    // When time is up each is told how far it came: the statement first, then the session.
    assert_eq!(endless.last_words().await.0, "57P01");
    assert_eq!(running.ready().await, "E57014Z");
    assert_eq!(running.last_words().await.0, "57P01");
    // Unless its turn came just then.
    let answer = waits.ready().await;
    assert!(["E57014Z", "CZ"].contains(&answer.as_str()), "{answer}");
    assert_eq!(waits.last_words().await.0, "57P01");
    assert_eq!(held.last_words().await.0, "57P01");
    assert!(b.ended().await.success());
    let which = "state = 'idle in transaction' OR wait_event = 'PgSleep'";
    wait_for("the transactions to be rolled back", async || {
        (count(which).await == 0).then_some(())
    })
    .await;
    let inserted: i64 = value(&home, "SELECT count(*) FROM t").await;
    assert_eq!(inserted, i64::from(answer == "CZ"));
}

/// What a client costs that is logged in and says nothing: there are thousands of them.
#[tokio::test]
async fn idle_clients_cost_little_memory() {
    const CLIENTS: usize = 2000;
    raise_file_limit();
    let b = Binary::start(1, "");
    let mut clients = vec![Wire::login(b.port).await];
    assert_eq!(clients[0].ask("SELECT 1").await, "TDCZ");
    let before = b.kilobytes();
    for _ in 1..CLIENTS {
        clients.push(Wire::login(b.port).await);
    }
    let fresh = (b.kilobytes() - before) / CLIENTS as u64;
    for client in &mut clients {
        assert_eq!(client.ask("SELECT 1").await, "TDCZ");
    }
    let used = (b.kilobytes() - before) / CLIENTS as u64;
    // So that ten thousand take less than 100 MB.
    assert!(fresh < 10 && used < 10, "{fresh} kB before their first statement, {used} kB after");
}

/// To what this process may open at the most, its children too.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads and writes one struct of ours.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

/// A server connection that one worker has opened and lent to a client of another: the first worker
/// has no client left when the process drains, and must not take the connection with it.
#[tokio::test]
async fn a_lent_connection_outlives_its_workers_last_client() {
    let mut b = Binary::start(1, "[pool]\nsize = 1\n");
    let console = Console::open(b.port, "pgshunt").await;
    let mut of_worker: [Option<Wire>; 2] = [None, None];
    let mut first = None;
    while of_worker.iter().any(Option::is_none) {
        let wire = Wire::login(b.port).await;
        let lines = console.lines("SHOW CLIENTS").await;
        let cell = |line: &[(String, Option<String>)], name: &str| -> usize {
            let found = line.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref());
            found.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no {name}: {line:?}"))
        };
        let newest = lines.iter().max_by_key(|line| cell(line, "id")).expect("a client");
        let worker = cell(newest, "worker");
        // Its login has opened the only connection.
        first.get_or_insert(worker);
        of_worker[worker].get_or_insert(wire);
    }
    if first == Some(1) {
        of_worker.reverse();
    }
    let [Some(mut opens), Some(mut borrows)] = of_worker else { unreachable!("both are there") };
    for _ in 0..2 {
        assert_eq!(opens.ask("SELECT 1").await, "TDCZ");
        assert_eq!(borrows.ask("SELECT 1").await, "TDCZ");
    }
    assert_eq!(borrows.ask("BEGIN; SELECT 1").await, "CTDCZ");
    b.signal(libc::SIGTERM);
    assert_eq!(opens.last_words().await.0, "57P01");
    assert_eq!(borrows.ask("SELECT 1").await, "TDCZ");
    assert_eq!(borrows.ask("COMMIT").await, "CZ");
    assert_eq!(borrows.last_words().await.0, "57P01");
    assert!(b.ended().await.success());
}
