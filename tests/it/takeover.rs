//! A running pgshunt is replaced by another one under traffic: the real program, twice and more.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;

use crate::program::{Program, reference};
use crate::support::*;

/// A cluster, a configuration with a takeover socket, and the first process that serves it.
struct Place {
    cluster: LocalCluster,
    file: PathBuf,
    socket: PathBuf,
    port: u16,
    serve: Program,
}

impl Place {
    fn new(name: &str) -> Self {
        let cluster = LocalCluster::start(2).unwrap();
        let file = reference(&cluster, name);
        let socket = file.with_extension("sock");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace(
            "# takeover_socket = \"/run/pgshunt/takeover.sock\"",
            &format!("takeover_socket = \"{}\"", socket.display()),
        );
        assert!(text.contains("\ntakeover_socket"));
        std::fs::write(&file, text.replace("workers = 0", "workers = 2")).unwrap();
        let mut serve = Program::start(&["serve", "--config", file.to_str().unwrap()]);
        let line = serve.says("pgshunt listens on 127.0.0.1:");
        let port = line.rsplit(':').next().unwrap().parse().unwrap();
        Self { cluster, file, socket, port, serve }
    }

    fn successor(&self) -> Program {
        Program::start(&["serve", "--takeover", "--config", self.file.to_str().unwrap()])
    }

    /// A new process serves; gives the old one, which may still have clients.
    fn take_over(&mut self) -> Program {
        let mut new = self.successor();
        let line = new.says("pgshunt listens on 127.0.0.1:");
        assert!(line.ends_with(&format!(":{}", self.port)), "{line}");
        std::mem::replace(&mut self.serve, new)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for file in [&self.file, &self.socket] {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// What goes on until it is told to stop, and what went wrong.
struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result<(), String>>>,
}

impl Traffic {
    /// Clients with settings and prepared statements of their own that write in transactions, and
    /// others that connect anew all the time.
    async fn start(port: u16) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut tasks = Vec::new();
        for writer in 0..6 {
            let (stop, done) = (stop.clone(), done.clone());
            let mut client = connect(port).await;
            tasks.push(tokio::spawn(async move {
                let failed = |e: tokio_postgres::Error| format!("writer {writer}: {e:?}");
                let name = format!("writer-{writer}");
                client
                    .batch_execute(&format!("SET application_name = '{name}'"))
                    .await
                    .map_err(failed)?;
                let insert =
                    client.prepare("INSERT INTO t VALUES ($1, $2)").await.map_err(failed)?;
                let mut n = 0;
                while !stop.load(Ordering::Acquire) {
                    n += 1;
                    let key = writer * 1_000_000 + n;
                    let transaction = client.transaction().await.map_err(failed)?;
                    transaction.execute(&insert, &[&key, &0i64]).await.map_err(failed)?;
                    transaction
                        .execute("UPDATE t SET n = n + 1 WHERE id = $1", &[&key])
                        .await
                        .map_err(failed)?;
                    transaction.commit().await.map_err(failed)?;
                    done.fetch_add(1, Ordering::AcqRel);
                    let now =
                        client.query_one("SHOW application_name", &[]).await.map_err(failed)?;
                    if now.get::<_, String>(0) != name {
                        return Err(format!("{name} has become {now:?}"));
                    }
                }
                Ok(())
            }));
        }
        for _ in 0..2 {
            let stop = stop.clone();
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    let client = connect_as(port, DATABASE, SUPERUSER, PASSWORD)
                        .await
                        .map_err(|e| format!("a new connection: {e:?}"))?;
                    client
                        .query_one("SELECT 1", &[])
                        .await
                        .map_err(|e| format!("the first statement: {e:?}"))?;
                }
                Ok(())
            }));
        }
        Self { stop, done, tasks }
    }

    /// Until so many more transactions are committed.
    async fn goes_on(&self, more: u64) {
        let until = self.done.load(Ordering::Acquire) + more;
        wait_for("traffic", async || {
            let broken = self.tasks.iter().any(JoinHandle::is_finished);
            (broken || self.done.load(Ordering::Acquire) >= until).then_some(())
        })
        .await;
    }

    /// The number of committed transactions.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        let mut wrong = Vec::new();
        for t in self.tasks {
            wrong.extend(t.await.unwrap().err());
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        self.done.load(Ordering::Acquire)
    }
}

#[tokio::test]
async fn nobody_notices_that_the_process_changes() {
    let mut place = Place::new("takeover");
    let port = place.port;
    let client = connect(port).await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, n bigint) PARTITION BY HASH (id)")
        .await
        .unwrap();
    client.batch_execute("SET work_mem = '77MB'").await.unwrap();
    let shown = client.prepare("SELECT current_setting('work_mem'), $1::int").await.unwrap();
    let traffic = Traffic::start(port).await;
    for round in 0..4 {
        traffic.goes_on(50).await;
        // One is within a transaction and stays with the old process until it ends.
        let slow = connect(port).await;
        slow.batch_execute("BEGIN; INSERT INTO t VALUES (-1, 0)").await.unwrap();
        let mut old = place.take_over();
        traffic.goes_on(50).await;
        slow.batch_execute("UPDATE t SET n = 1 WHERE id = -1").await.unwrap();
        assert!(old.child.try_wait().unwrap().is_none(), "its transaction is open");
        slow.batch_execute("COMMIT").await.unwrap();
        assert!(old.end().await.success());
        slow.batch_execute("DELETE FROM t WHERE id = -1").await.unwrap();
        let row = client.query_one(&shown, &[&round]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), ("77MB", round), "the session came along");
    }
    let console = Console::open(port, "pgshunt").await;
    let before: Vec<String> = console.column("SHOW SHARDS", "node").await;
    console.does(&format!("MOVE SHARD 1 TO {}", other(&before[0]))).await;
    traffic.goes_on(50).await;
    let done = traffic.end().await;
    let answer = client.simple_query("SELECT sum(n) FROM t").await.unwrap();
    let sum = answer.iter().find_map(|m| match m {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    assert_eq!(sum, Some(done), "what was acknowledged is there, once");
}

fn other(node: &str) -> &'static str {
    if node == "node1" { "node2" } else { "node1" }
}

#[tokio::test]
async fn a_statement_that_began_before_can_be_cancelled_after() {
    let mut place = Place::new("takeover-cancel");
    let client = Arc::new(connect(place.port).await);
    let sleeper = client.clone();
    let sleeps = tokio::spawn(async move { sleeper.batch_execute("SELECT pg_sleep(600)").await });
    let console = Console::open(place.port, "pgshunt").await;
    wait_for("the statement", async || {
        let doing = console.column("SHOW CLIENTS", "activity").await;
        // The console that asks is at work too.
        (doing.iter().filter(|d| *d == "active").count() == 2).then_some(())
    })
    .await;
    let mut old = place.take_over();
    client.cancel_token().cancel_query(tokio_postgres::NoTls).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, sleeps).await.expect("the cancel arrives");
    let e = ended.unwrap().unwrap_err();
    assert_eq!(e.code(), Some(&SqlState::QUERY_CANCELED), "{e:?}");
    assert!(old.end().await.success());
    assert_eq!(value::<i32>(&client, "SELECT 1").await, 1, "it goes on with the new process");
    // And its key is good there, too.
    let sleeper = client.clone();
    let sleeps = tokio::spawn(async move { sleeper.batch_execute("SELECT pg_sleep(600)").await });
    let canceller = client.cancel_token();
    wait_for("the end of the statement", async || {
        canceller.cancel_query(tokio_postgres::NoTls).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        sleeps.is_finished().then_some(())
    })
    .await;
    assert_eq!(sleeps.await.unwrap().unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
}

#[tokio::test]
async fn who_keeps_a_server_connection_is_told_and_the_old_one_goes_on_if_the_new_one_fails() {
    let mut place = Place::new("takeover-pinned");
    let pinned = connect(place.port).await;
    pinned.batch_execute("CREATE TEMP TABLE mine (a int)").await.unwrap();
    let console = Console::open(place.port, "pgshunt").await;
    console.does("PAUSE NODE node1").await;
    let mut refused = place.successor();
    assert!(!refused.end().await.success(), "a paused one is not taken over from");
    console.does("RESUME NODE node1").await;

    // One that cannot read its catalog: the nodes of its configuration are not there.
    let text = std::fs::read_to_string(&place.file).unwrap();
    let wrong = text.replace(&format!("port = {}", place.cluster.nodes[0].port()), "port = 1");
    std::fs::write(&place.file, wrong).unwrap();
    let mut broken = place.successor();
    assert!(!broken.end().await.success());
    std::fs::write(&place.file, text).unwrap();
    pinned.batch_execute("INSERT INTO mine VALUES (1)").await.unwrap();
    // DDL shows that the catalog can be changed again.
    let client = connect(place.port).await;
    client.batch_execute("CREATE TABLE t (id int) PARTITION BY HASH (id)").await.unwrap();

    let mut old = place.take_over();
    assert!(old.end().await.success());
    let e = pinned.batch_execute("SELECT * FROM mine").await.unwrap_err();
    assert!(e.is_closed() || e.code() == Some(&SqlState::ADMIN_SHUTDOWN), "{e:?}");
    client.batch_execute("DROP TABLE t").await.unwrap();
}

#[tokio::test]
async fn an_old_process_that_still_waits_can_be_ended() {
    let mut place = Place::new("takeover-ended");
    let open = connect(place.port).await;
    open.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let client = connect(place.port).await;
    let mut old = place.take_over();
    // The console of the moment may be the old process's, which ends it.
    wait_for("the client that is at rest to have changed over", async || {
        let console = connect_as(place.port, "pgshunt", SUPERUSER, PASSWORD).await.ok()?;
        let rows = console.simple_query("SHOW CLIENTS").await.ok()?;
        let row = |m: &&_| matches!(m, tokio_postgres::SimpleQueryMessage::Row(_));
        (rows.iter().filter(row).count() == 2).then_some(())
    })
    .await;
    old.signal(libc::SIGTERM);
    assert!(old.end().await.success());
    assert!(open.batch_execute("COMMIT").await.is_err());
    assert_eq!(value::<i32>(&client, "SELECT 1").await, 1);
}

/// The program as systemd starts it: sockets from descriptor 3 on, and somebody to report to.
fn under_systemd(place: &Place, sockets: &[&TcpListener], notify: &Path) -> Program {
    let fds: Vec<_> = sockets.iter().map(|s| s.as_raw_fd()).collect();
    // LISTEN_PID is the process's own id, which only it can know.
    let script = "export LISTEN_PID=$$; exec \"$0\" serve --config \"$1\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_pgshunt"), place.file.to_str().unwrap()]);
    command.env("PGSHUNT_SERVICE_PASSWORD", PASSWORD).env("NOTIFY_SOCKET", notify);
    command.env("LISTEN_FDS", fds.len().to_string()).env("LISTEN_FDNAMES", "clients:metrics");
    // SAFETY: dup2 may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for (at, &fd) in fds.iter().enumerate() {
                if libc::dup2(fd, 3 + at as i32) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    Program::spawn(command)
}

#[tokio::test]
async fn systemd_opens_the_sockets_and_is_told() {
    let mut place = Place::new("systemd");
    place.serve.signal(libc::SIGTERM);
    assert!(place.serve.end().await.success());
    let path = place.file.with_extension("notify");
    let told = UnixDatagram::bind(&path).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = |what: &str| {
        let mut buffer = [0; 512];
        let n = told.recv(&mut buffer).unwrap_or_else(|e| panic!("waiting for {what}: {e}"));
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        assert!(text.contains(what), "{text}");
        text
    };
    // High descriptors, so that they are not in the way of 3 and 4.
    let high = |socket: TcpListener| {
        // SAFETY: makes a copy of a descriptor that is open.
        let fd = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100) };
        // SAFETY: it was made for us in the line above.
        TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let (clients, metrics) = (
        high(TcpListener::bind("127.0.0.1:0").unwrap()),
        high(TcpListener::bind("127.0.0.1:0").unwrap()),
    );
    let port = clients.local_addr().unwrap().port();
    for _ in 0..2 {
        // Nobody runs yet: the connection waits.
        let early = tokio::spawn(async move { connect(port).await });
        let mut serve = under_systemd(&place, &[&clients, &metrics], &path);
        assert_eq!(value::<i32>(&early.await.unwrap(), "SELECT 1").await, 1);
        let ready = hear("READY=1");
        assert!(ready.contains(&format!("MAINPID={}", serve.child.id())), "{ready}");
        let at = metrics.local_addr().unwrap();
        let page = tokio::task::spawn_blocking(move || {
            let mut tcp = TcpStream::connect(at).unwrap();
            tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .unwrap();
            let mut page = String::new();
            tcp.read_to_string(&mut page).unwrap();
            page
        });
        assert!(page.await.unwrap().contains("pgshunt_"));
        serve.signal(libc::SIGHUP);
        hear("RELOADING=1");
        hear("READY=1");
        serve.signal(libc::SIGTERM);
        hear("STOPPING=1");
        assert!(serve.end().await.success());
    }
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn the_unix_socket_changes_hands_too() {
    let dir = crate::logins::unix::Directory::new("takeover-unix");
    let mut place = Place::new("takeover-unix");
    let text = std::fs::read_to_string(&place.file).unwrap();
    let unix = format!("unix_socket_dir = \"{}\"\n", dir.0.display());
    let text = text.replace("# unix_socket_dir = \"/run/pgshunt\"\n", &unix);
    assert!(text.contains(&unix));
    std::fs::write(&place.file, text).unwrap();
    // The port is the kernel's choice, so it is another one now.
    place.serve.signal(libc::SIGTERM);
    place.serve.end().await;
    place.serve = Program::start(&["serve", "--config", place.file.to_str().unwrap()]);
    let line = place.serve.says("pgshunt listens on 127.0.0.1:");
    place.port = line.rsplit(':').next().unwrap().parse().unwrap();

    let socket = dir.0.join(format!(".s.PGSQL.{}", place.port));
    let open = async || crate::logins::unix::through(&dir.0, place.port).await;
    let old = open().await;
    old.batch_execute("SET application_name = 'through and through'").await.unwrap();
    let mut first = {
        let mut new = place.successor();
        new.says("pgshunt listens on 127.0.0.1:");
        std::mem::replace(&mut place.serve, new)
    };
    assert!(first.end().await.success());
    assert!(socket.exists(), "it is not the old process's any more");
    assert_eq!(value::<String>(&old, "SHOW application_name").await, "through and through");
    assert_eq!(value::<i32>(&open().await, "SELECT 1").await, 1);
    drop(old);
    place.serve.signal(libc::SIGTERM);
    assert!(place.serve.end().await.success());
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0, "nothing is left behind");
}
