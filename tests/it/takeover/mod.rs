//! A running pgshunt is replaced by another one under traffic: the real program, twice and more.

mod guests;
mod listeners;
mod strangers;
mod systemd;
mod tls;
mod traffic;

use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgshunt::config::{NodeTls, Tls};
use pgshunt::net::Socket;
use pgshunt::net::tls::ClientTls;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::login::Certificates;
use crate::program::{Program, reference};
use crate::support::*;

/// A cluster, a configuration with a takeover socket, and the first process that serves it.
struct Place {
    cluster: LocalCluster,
    file: PathBuf,
    socket: PathBuf,
    /// Clients may come under TLS.
    _certificates: Certificates,
    port: u16,
    serve: Program,
}

impl Place {
    fn new(name: &str) -> Self {
        Self::with(name, |text| text)
    }

    /// `change`: of the configuration file.
    fn with(name: &str, change: impl FnOnce(String) -> String) -> Self {
        let certificates = Certificates::new(name);
        let cluster = LocalCluster::start(2).unwrap();
        let file = reference(&cluster, name);
        let socket = file.with_extension("sock");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace(
            "# takeover_socket = \"/run/pgshunt/takeover.sock\"",
            &format!("takeover_socket = \"{}\"", socket.display()),
        );
        assert!(text.contains("\ntakeover_socket"));
        let dir = certificates.dir.display();
        let allowed =
            format!("clients = \"allow\"\ncert = \"{dir}/server.crt\"\nkey = \"{dir}/server.key\"");
        let text = text.replace("clients = \"disable\"", &allowed);
        let text = change(text.replace("workers = 0", "workers = 2"));
        std::fs::write(&file, text).unwrap();
        let mut serve = Program::start(&["serve", "--config", file.to_str().unwrap()]);
        let line = serve.says("pgshunt listens on 127.0.0.1:");
        let port = line.rsplit(':').next().unwrap().parse().unwrap();
        Self { cluster, file, socket, _certificates: certificates, port, serve }
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

/// A statement that nothing but its end by others ends.
const SLEEP: &str = "SELECT pg_sleep(600)";

impl Place {
    /// Begins one for the client; a node is at it when this returns.
    async fn sleeps(&self, client: &Arc<Client>) -> JoinHandle<Result<(), tokio_postgres::Error>> {
        let client = client.clone();
        let sleeps = tokio::spawn(async move { client.batch_execute(SLEEP).await });
        self.until_one_sleeps().await;
        sleeps
    }

    async fn until_one_sleeps(&self) {
        let mut nodes = Vec::new();
        for node in &self.cluster.nodes {
            nodes.push(connect(node.port()).await);
        }
        wait_for("a statement to sleep", async || {
            let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            for node in &nodes {
                if value::<i64>(node, asleep).await > 0 {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
}

/// A client, and what it hears of notifications.
struct Guest {
    client: Client,
    heard: UnboundedReceiver<String>,
}

impl Guest {
    async fn open(port: u16, under_tls: bool) -> Self {
        let nodes = if under_tls { NodeTls::Require } else { NodeTls::Disable };
        let tls = ClientTls::load(&Tls { nodes, ..Tls::default() }).unwrap();
        let socket = Socket::connect("127.0.0.1", port).await.unwrap();
        let (stream, _) = tls.wrap(socket, "127.0.0.1").await.unwrap();
        let mut config = tokio_postgres::Config::new();
        config.dbname(DATABASE).user(SUPERUSER).password(PASSWORD);
        let (client, mut connection) = config.connect_raw(stream, NoTls).await.unwrap();
        let (tell, heard) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(n) = message {
                    let _ = tell.send(n.payload().to_owned());
                }
            }
        });
        Self { client, heard }
    }

    async fn hears(&mut self) -> String {
        let next = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
        next.expect("a notification in time").expect("a connection")
    }

    async fn does(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }
}

fn other(node: &str) -> &'static str {
    if node == "node1" { "node2" } else { "node1" }
}

impl Drop for Place {
    fn drop(&mut self) {
        for file in [&self.file, &self.socket] {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[tokio::test]
async fn a_statement_that_began_before_can_be_cancelled_after() {
    let mut place = Place::new("takeover-cancel");
    let client = Arc::new(connect(place.port).await);
    let sleeps = place.sleeps(&client).await;
    let mut old = place.take_over();
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, sleeps).await.expect("the cancel arrives");
    let e = ended.unwrap().unwrap_err();
    assert_eq!(e.code(), Some(&SqlState::QUERY_CANCELED), "{e:?}");
    assert!(old.end().await.success());
    assert_eq!(value::<i32>(&client, "SELECT 1").await, 1, "it goes on with the new process");
    // And its key is good there, too.
    let sleeps = place.sleeps(&client).await;
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, sleeps).await.expect("the cancel arrives");
    assert_eq!(ended.unwrap().unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
}

#[tokio::test]
async fn the_old_one_goes_on_if_the_new_one_fails() {
    let mut place = Place::new("takeover-failed");
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
    assert_eq!(value::<i64>(&pinned, "SELECT count(*) FROM mine").await, 1);
    client.batch_execute("DROP TABLE t").await.unwrap();
}

/// Sessions travel as data of a numbered form.
#[tokio::test]
async fn a_process_that_would_read_sessions_wrongly_is_refused() {
    let place = Place::new("takeover-form");
    let stream = std::os::unix::net::UnixStream::connect(&place.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let line = pgshunt::net::passing::Line::new(stream).unwrap();
    let hello = serde_json::json!({ "Hello": { "version": "99.0", "form": 0 } });
    line.send(&hello, &[]).unwrap();
    let (answer, sockets) = line.receive::<serde_json::Value>().unwrap().expect("an answer");
    assert!(answer["Refused"].as_str().is_some_and(|why| why.contains("restart")), "{answer}");
    assert!(sockets.is_empty());
    assert_eq!(value::<i32>(&connect(place.port).await, "SELECT 1").await, 1, "it goes on");
}

/// A reload comes between the connection of who takes over and its first word.
#[tokio::test]
async fn a_reload_does_not_send_away_who_takes_over() {
    let place = Place::new("takeover-reload");
    let console = Console::open(place.port, "pgshunt").await;
    let stream = std::os::unix::net::UnixStream::connect(&place.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let line = pgshunt::net::passing::Line::new(stream).unwrap();
    let text = std::fs::read_to_string(&place.file).unwrap();
    let other = text.replace("stats_period = \"1min\"", "stats_period = \"77s\"");
    assert_ne!(other, text);
    std::fs::write(&place.file, other).unwrap();
    place.serve.signal(libc::SIGHUP);
    wait_for("the reload", async || {
        let values = console.column("SHOW CONFIG", "value").await;
        values.contains(&"77".to_owned()).then_some(())
    })
    .await;
    let hello = serde_json::json!({ "Hello": { "version": "99.0", "form": 0 } });
    line.send(&hello, &[]).unwrap();
    let answer = line.receive::<serde_json::Value>().unwrap();
    assert!(answer.is_some_and(|(a, _)| a["Refused"].is_string()), "it is heard");
}

#[tokio::test]
async fn an_old_process_that_still_waits_can_be_ended() {
    let mut place = Place::new("takeover-ended");
    let busy = Arc::new(connect(place.port).await);
    let sleeps = place.sleeps(&busy).await;
    let client = connect(place.port).await;
    let mut old = place.take_over();
    assert_eq!(value::<i32>(&client, "SELECT 1").await, 1);
    assert!(old.child.try_wait().unwrap().is_none(), "a statement is under way");
    old.signal(libc::SIGTERM);
    assert!(old.end().await.success());
    assert!(sleeps.await.unwrap().is_err());
    assert_eq!(value::<i32>(&client, "SELECT 1").await, 1);
}

#[tokio::test]
async fn the_unix_socket_changes_hands_too() {
    let dir = crate::logins::unix::Directory::new("takeover-unix");
    let mut place = Place::with("takeover-unix", |text| {
        let unix = format!("unix_socket_dir = \"{}\"\n", dir.0.display());
        let text = text.replace("# unix_socket_dir = \"/run/pgshunt\"\n", &unix);
        assert!(text.contains(&unix));
        text
    });
    let socket = dir.0.join(format!(".s.PGSQL.{}", place.port));
    let port = place.port;
    let open = async || crate::logins::unix::through(&dir.0, port).await;
    let old = open().await;
    old.batch_execute("SET application_name = 'through and through'").await.unwrap();
    let mut first = place.take_over();
    assert!(first.end().await.success());
    assert!(socket.exists(), "it is not the old process's any more");
    assert_eq!(value::<String>(&old, "SHOW application_name").await, "through and through");
    assert_eq!(value::<i32>(&open().await, "SELECT 1").await, 1);
    drop(old);
    place.serve.signal(libc::SIGTERM);
    assert!(place.serve.end().await.success());
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0, "nothing is left behind");
}
