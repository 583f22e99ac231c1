//! TLS on both sides of a whole pgshunt.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::sync::{Arc, Mutex};

use pgshunt::config::{self, ClientTls as Clients, NodeTls};
use pgshunt::net::Stream;
use pgshunt::net::tls::ClientTls;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::wire::{SSL_REQUEST, Wire, query};
use super::*;
use crate::login::Certificates;

fn rustls(mode: NodeTls, roots: Option<&Path>) -> ClientTls {
    let roots = roots.map(Path::to_owned);
    ClientTls::load(&config::Tls { nodes: mode, node_roots: roots, ..config::Tls::default() })
        .unwrap()
}

#[tokio::test]
async fn clients_come_by_tls_asked_for_or_direct_and_are_turned_away_without() {
    let files = Certificates::new("faults-tls");
    let p = Proxy::start_with(1, 1, |c| {
        c.tls.clients = Clients::Require;
        c.tls.cert = Some(files.dir.join("server.crt"));
        c.tls.key = Some(files.dir.join("server.key"));
    })
    .await;
    // libpq, with the login bound to the certificate.
    let roots = files.dir.join("ca.crt");
    let binaries = pgshunt::local::Binaries::find().unwrap();
    let psql = async |settings: &str| {
        let port = p.port();
        let conninfo = format!("host=127.0.0.1 port={port} user={SUPERUSER} dbname=app {settings}");
        tokio::process::Command::new(binaries.program("psql"))
            .args(["-X", "-A", "-t", "-c", "SELECT 'through'", &conninfo])
            .env("PGPASSWORD", PASSWORD)
            .kill_on_drop(true)
            .output()
            .await
            .unwrap()
    };
    let roots_say = format!("sslrootcert={}", roots.display());
    let output = psql(&format!("sslmode=verify-full channel_binding=require {roots_say}")).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through\n", "{output:?}");
    let output = psql("sslmode=disable").await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("this server accepts TLS connections only"), "{said}");

    // TLS from the first byte; the request for it once inside is one too many.
    let tls = rustls(NodeTls::VerifyFull, Some(&roots));
    let direct = async || {
        let tcp = TcpStream::connect(("127.0.0.1", p.port())).await.unwrap();
        Wire::over(Stream::Tls(tls.handshake(tcp.into(), "127.0.0.1").await.unwrap().0))
    };
    let mut wire = direct().await;
    wire.send(&super::wire::startup(DATABASE)).await;
    let (tag, offer) = wire.next().await.expect("an offer");
    assert_eq!(tag, b'R');
    assert!(offer.windows(18).any(|w| w == b"SCRAM-SHA-256-PLUS"), "bound to this handshake");
    let mut twice = direct().await;
    twice.send(SSL_REQUEST).await;
    assert_eq!(twice.last_words().await.0, "0A000");
    // What was sent in clear behind the request is not taken for something said under TLS.
    let mut stuffed = Wire::dial(p.port()).await;
    stuffed.send(&[SSL_REQUEST, &super::wire::startup(DATABASE)].concat()).await;
    assert_eq!(stuffed.last_words().await.0, "08P01");
    let mut broken = Wire::dial(p.port()).await;
    broken.send(&[0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]).await;
    while broken.byte().await.is_some() {}
    assert_eq!(String::from_utf8_lossy(&psql("sslmode=require").await.stdout), "through\n");
}

/// The first bytes of every connection that passes through it to a node.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Vec<u8>>>>);

impl Seen {
    /// Listens in front of the node's port.
    async fn in_front_of(port: u16) -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = listener.local_addr().unwrap().port();
        let seen = Self::default();
        let noted = seen.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let noted = noted.clone();
                tokio::spawn(async move {
                    let mut first = vec![0; 8];
                    if client.read_exact(&mut first).await.is_err() {
                        return;
                    }
                    noted.0.lock().unwrap().push(first.clone());
                    let mut node = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    node.write_all(&first).await.unwrap();
                    // Either side may hang up as it likes.
                    let _ = copy_bidirectional(&mut client, &mut node).await;
                });
            }
        });
        (seen, front)
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[tokio::test]
async fn everything_that_goes_to_a_node_is_encrypted() {
    let mut nodes = LocalCluster::start(1).unwrap();
    let home = &mut nodes.nodes[0];
    let data = home.data_dir();
    Certificates::write_to(&data);
    let owner = std::fs::metadata(&data).unwrap();
    for name in ["ca.crt", "server.crt", "server.key"] {
        chown(data.join(name), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    connect(home.port()).await.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    std::fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 scram-sha-256\n")
        .unwrap();
    home.restart().unwrap();
    let clear = connect_as(home.port(), DATABASE, SUPERUSER, PASSWORD).await.unwrap_err();
    assert_eq!(clear.code().map(|c| c.code()), Some("28000"), "{clear:?}");

    let (seen, front) = Seen::in_front_of(home.port()).await;
    let mut config = nodes.config.clone();
    trusting(&mut config);
    config.cluster.nodes[0].port = front;
    config.tls.nodes = NodeTls::VerifyFull;
    config.tls.node_roots = Some(data.join("ca.crt"));
    let server = pgshunt::app::Server::start(config).await.unwrap();
    let p = Proxy { nodes, server };
    let mut wire = Wire::login(p.port()).await;
    assert_eq!(wire.ask("CREATE TABLE t (id int) PARTITION BY HASH (id)").await, "CZ");
    assert_eq!(wire.ask("INSERT INTO t VALUES (1), (2)").await, "CZ");
    let before = seen.count();
    wire.send(&query("SELECT pg_sleep(1000)")).await;
    let mut witness = Wire::login(p.port()).await;
    let running = "SELECT 1 / count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' \
                   AND state = 'active'";
    let deadline = std::time::Instant::now() + PATIENCE;
    while witness.ask(running).await != "TDCZ" {
        assert!(std::time::Instant::now() < deadline, "the query does not run");
    }
    wire.cancel(p.port()).await;
    assert_eq!(wire.ready().await, "TE57014Z");
    assert!(seen.count() > before, "the cancel went this way too");
    for first in seen.0.lock().unwrap().iter() {
        assert_eq!(first, SSL_REQUEST);
    }
}
