//! Unix sockets, towards clients and towards nodes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pgshunt::app::Server;
use pgshunt::config::{AuthMethod, ClientTls, NodeTls};
use pgshunt::net::Stream;
use tokio::net::UnixStream;

use super::*;
use crate::faults::wire::SSL_REQUEST;
use crate::login::Certificates;

/// A directory that goes with the test.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pgs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self, p: &Proxy) -> PathBuf {
        self.0.join(format!(".s.PGSQL.{}", p.port()))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn wire_at(path: &Path) -> Wire {
    Wire::over(Stream::Plain(UnixStream::connect(path).await.unwrap().into()))
}

pub async fn through(dir: &Path, port: u16) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(dir).port(port).dbname(DATABASE).user(SUPERUSER).password(PASSWORD);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn clients_come_by_a_unix_socket_too() {
    let dir = Directory::new("unix");
    let files = Certificates::new("unix-tls");
    let p = Proxy::start_with(1, 1, |c| {
        c.server.unix_socket_dir = Some(dir.0.clone());
        c.server.unix_socket_mode = 0o750;
        c.server.workers = 3;
        // For those who come over the network.
        c.tls.clients = ClientTls::Require;
        c.tls.cert = Some(files.dir.join("server.crt"));
        c.tls.key = Some(files.dir.join("server.key"));
    })
    .await;
    let path = dir.socket(&p);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o750);
    let mut clients = Vec::new();
    for n in 0..20 {
        let client = through(&dir.0, p.port()).await;
        assert_eq!(value::<i32>(&client, &format!("SELECT {n}")).await, n);
        clients.push(client);
    }
    let mut config = tokio_postgres::Config::new();
    config.host_path(&dir.0).port(p.port()).dbname("pgshunt").user(SUPERUSER).password(PASSWORD);
    let (console, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let shown = console.simple_query("SHOW CLIENTS").await.unwrap();
    let seen: Vec<_> = shown
        .iter()
        .filter_map(|m| match m {
            tokio_postgres::SimpleQueryMessage::Row(r) => {
                Some((r.get("addr").unwrap(), r.get("tls").unwrap()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(seen, vec![("unix", ""); 21]);

    // Cancel goes the same way.
    let busy = clients.pop().unwrap();
    let token = busy.cancel_token();
    let running = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(1000)").await });
    let home = connect(p.nodes.nodes[0].port()).await;
    wait_for("the statement to run", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)' \
                   AND state = 'active'";
        (value::<i64>(&home, sql).await == 1).then_some(())
    })
    .await;
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    assert_eq!(running.await.unwrap().unwrap_err().code().unwrap().code(), "57014");

    // libpq; and what it would say if it wanted TLS there.
    let psql = pgshunt::local::Binaries::find().unwrap().program("psql");
    let output = tokio::process::Command::new(psql)
        .args(["-XAtc", "SELECT 'through'", "-U", SUPERUSER, "-d", DATABASE, "-h"])
        .args([dir.0.as_os_str(), "-p".as_ref(), p.port().to_string().as_ref()])
        .env("PGPASSWORD", PASSWORD)
        .env("PGSSLMODE", "require")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through\n", "{output:?}");
    let mut wire = wire_at(&path).await;
    wire.send(SSL_REQUEST).await;
    assert_eq!(wire.byte().await, Some(b'N'));
    let mut direct = wire_at(&path).await;
    direct.send(&[0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]).await;
    assert_eq!(direct.byte().await, None, "there is no TLS, and as a packet it has no length");

    // A second one there is refused, and leaves the first as it was.
    let mut second = p.nodes.config.clone();
    second.server.listen = p.server.addr;
    let nodes = LocalCluster::start(1).unwrap();
    second.cluster.nodes = nodes.config.cluster.nodes.clone();
    let Err(refused) = Server::start(second).await else { panic!("two at one place") };
    assert!(refused.to_string().contains("another pgshunt listens there"), "{refused}");
    through(&dir.0, p.port()).await;

    drop(wire);
    p.server.shutdown().await;
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn nodes_are_reached_by_unix_sockets() {
    let options = ClusterOptions {
        settings: vec![("listen_addresses".into(), String::new())],
        ..ClusterOptions::new(2)
    };
    let mut nodes = LocalCluster::start_with(&options).unwrap();
    for (configured, node) in nodes.config.cluster.nodes.iter_mut().zip(&nodes.nodes) {
        configured.host = node.data_dir().parent().unwrap().to_str().unwrap().to_owned();
    }
    let mut config = nodes.config.clone();
    config.auth.method = AuthMethod::Trust;
    // Means those at a network address.
    config.tls.nodes = NodeTls::Require;
    let report = pgshunt::check::run(&config).await;
    assert!(report.is_ok(), "{report}");
    let server = Server::start(config).await.unwrap();
    let p = Proxy { nodes, server };
    let console = p.console().await;
    console.does("SET shard_count = 2").await;
    let client = p.client().await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id)")
        .await
        .unwrap();
    for id in 0..10 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await.unwrap();
    }
    assert_eq!(value::<i64>(&client, "SELECT count(*) FROM t").await, 10);
    // The nodes reach each other the same way.
    console.does("MOVE SHARD 1 TO node2").await;
    assert_eq!(console.column("SHOW MOVES", "error").await, [""]);
    assert_eq!(value::<i64>(&client, "SELECT count(*) FROM t").await, 10);

    let mut wire = Wire::login(p.port()).await;
    wire.send(&query("SELECT pg_sleep(1000)")).await;
    wait_for("the statement to run", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)' \
                   AND state = 'active'";
        (value::<i64>(&client, sql).await == 1).then_some(())
    })
    .await;
    wire.cancel(p.port()).await;
    assert_eq!(wire.ready().await, "TE57014Z");
}
