//! Who answers at a node's address may be somebody else: what he is told, and what he can make pgshunt do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgshunt::auth::{Account, Nonce, ScramServer, Verifier};
use pgshunt::backend::control::Connector;
use pgshunt::backend::login::{self, Credentials, Target};
use pgshunt::config::{Config, PasswordMethod};
use pgshunt::net::tls::ClientTls;
use pgshunt::pool::state::ConnId;
use pgshunt::telemetry::Registry;
use pgshunt::topology::{Node, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::faults::wire::message;

const SECRET: &str = "correct horse battery staple";

/// What is answered to a startup packet, whoever sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    AsksInClear,
    AsksByMd5,
    /// SCRAM of so many iterations.
    Iterations(u32),
    /// SCRAM whose end is left out.
    WithoutProof,
    /// A login whose messages do not end.
    Chatters,
    /// A message of two gigabytes, in the login or behind it.
    Giant {
        logged_in: bool,
    },
    /// Rows without end.
    Rows,
}

/// A server that speaks the protocol and is no node of ours. It has no TLS.
struct Liar {
    port: u16,
    /// All that it was told behind its request.
    told: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn request(code: u32, payload: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), payload].concat())
}

fn let_in() -> Vec<u8> {
    let key = message(b'K', &[0; 8]);
    [request(0, b""), key, message(b'Z', b"I")].concat()
}

impl Liar {
    async fn listen(lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let told: Arc<Mutex<Vec<u8>>> = Arc::default();
        let heard = told.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let heard = heard.clone();
                tokio::spawn(async move {
                    // The other side may leave at any time.
                    let _ = Self::speak(tcp, lie, heard).await;
                });
            }
        });
        Self { port, told, task }
    }

    async fn speak(
        mut tcp: TcpStream,
        lie: Lie,
        heard: Arc<Mutex<Vec<u8>>>,
    ) -> std::io::Result<()> {
        loop {
            let len = tcp.read_u32().await?;
            let mut packet = vec![0; len as usize - 4];
            tcp.read_exact(&mut packet).await?;
            if len != 8 {
                break;
            }
            tcp.write_all(b"N").await?;
        }
        let scram = |name: &str| request(10, format!("{name}\0\0").as_bytes());
        match lie {
            Lie::AsksInClear => tcp.write_all(&request(3, b"")).await?,
            Lie::AsksByMd5 => tcp.write_all(&request(5, b"salt")).await?,
            Lie::Iterations(_) | Lie::WithoutProof => {
                tcp.write_all(&scram("SCRAM-SHA-256")).await?
            }
            Lie::Chatters => loop {
                tcp.write_all(&message(b'S', &[b'x'; 50_000])).await?;
            },
            Lie::Giant { logged_in } => {
                let before = if logged_in { let_in() } else { Vec::new() };
                tcp.write_all(&[&before[..], b"D", &0x7fff_ffff_u32.to_be_bytes()].concat())
                    .await?;
                loop {
                    tcp.write_all(&[0; 1 << 16]).await?;
                }
            }
            Lie::Rows => {
                tcp.write_all(&let_in()).await?;
                Self::hear(&mut tcp, &heard).await?;
                let column = [b"\0\x01a\0" as &[u8], &[0; 18]].concat();
                tcp.write_all(&message(b'T', &column)).await?;
                let row =
                    message(b'D', &[b"\0\x01\0\x0f\0\0" as &[u8], &[b'x'; 15 << 16]].concat());
                loop {
                    tcp.write_all(&row).await?;
                }
            }
        }
        let said = Self::hear(&mut tcp, &heard).await?;
        let verifier = Verifier::from_password(b"something else", b"0123456789abcdef", 4096);
        let mut server = ScramServer::new(Account::Known(&verifier), Nonce::random(), None);
        match lie {
            Lie::Iterations(n) => {
                // mechanism, length, "n,,n=,r=..."
                let nonce = said.rsplit(|b| *b == b'=').next().unwrap_or_default();
                let nonce = String::from_utf8_lossy(nonce).into_owned();
                let first = format!("r={nonce}more,s=MDEyMzQ1Njc4OWFiY2RlZg==,i={n}");
                tcp.write_all(&request(11, first.as_bytes())).await?;
            }
            Lie::WithoutProof => {
                let data = said.splitn(2, |b| *b == 0).nth(1).unwrap_or_default();
                let first = server.on_initial(b"SCRAM-SHA-256", &data[4..]).unwrap();
                tcp.write_all(&request(11, &first)).await?;
                Self::hear(&mut tcp, &heard).await?;
                tcp.write_all(&let_in()).await?;
            }
            _ => tcp.write_all(&let_in()).await?,
        }
        loop {
            Self::hear(&mut tcp, &heard).await?;
        }
    }

    /// One message.
    async fn hear(tcp: &mut TcpStream, heard: &Mutex<Vec<u8>>) -> std::io::Result<Vec<u8>> {
        tcp.read_u8().await?;
        let len = tcp.read_u32().await?;
        let mut body = vec![0; len as usize - 4];
        tcp.read_exact(&mut body).await?;
        heard.lock().unwrap().extend_from_slice(&body);
        Ok(body)
    }

    fn was_told(&self, what: &str) -> bool {
        let told = self.told.lock().unwrap();
        told.windows(what.len()).any(|w| w == what.as_bytes())
    }

    fn node(&self) -> Node {
        let (id, name) = (NodeId(1), "node1".into());
        Node { id, name, host: "127.0.0.1".into(), port: self.port, is_home: true }
    }

    fn config(&self) -> Config {
        let text = format!(
            "[cluster]\ndatabase = \"app\"\nservice_user = \"root\"\nservice_password = \"{SECRET}\"\n\
             [[cluster.nodes]]\nname = \"node1\"\nhost = \"127.0.0.1\"\nport = {}",
            self.port
        );
        Config::parse(&text, "pgshunt.toml".as_ref(), None).unwrap()
    }

    /// What a control connection, and a client's, makes of it.
    async fn both(&self, change: impl Fn(&mut Config)) -> [String; 2] {
        let mut config = self.config();
        change(&mut config);
        let control = match Connector::new(&config).connect(&self.node()).await {
            Ok(_) => "let in".to_owned(),
            Err(e) => e.to_string(),
        };
        let tls = ClientTls::load(&config.tls).unwrap();
        let target = Target {
            node: &self.node(),
            database: "app",
            user: "ann",
            parameters: &[],
            credentials: &Credentials::Password(SECRET.into()),
            tls: &tls,
            registry: &Registry::new(1),
            worker: 0,
        };
        let client = match login::connect(target, ConnId(1), Duration::from_secs(5)).await {
            Ok(_) => "let in".to_owned(),
            Err(e) => e.to_string(),
        };
        [control, client]
    }
}

#[tokio::test]
async fn a_password_is_not_told_to_whoever_asks_for_it() {
    for (lie, says) in [(Lie::AsksInClear, "in clear"), (Lie::AsksByMd5, "by md5")] {
        let liar = Liar::listen(lie).await;
        for e in liar.both(|_| {}).await {
            assert!(e.contains(says) && e.contains("has not shown that it is the node"), "{e}");
        }
        assert_eq!(*liar.told.lock().unwrap(), b"", "{lie:?}");
        // Allowed, it is told: the control connection then finds out that it is no PostgreSQL.
        let weakest =
            if lie == Lie::AsksByMd5 { PasswordMethod::Md5 } else { PasswordMethod::Password };
        let allowed = |c: &mut Config| {
            c.tls.node_auth = weakest;
            c.pool.connect_timeout = Duration::from_secs(1);
        };
        assert_eq!(liar.both(allowed).await[1], "let in");
        assert_eq!(liar.was_told(SECRET), lie == Lie::AsksInClear);
        assert_eq!(liar.was_told("md5"), lie == Lie::AsksByMd5);
    }
    // Clear is not allowed by allowing md5.
    let liar = Liar::listen(Lie::AsksInClear).await;
    liar.both(|c| c.tls.node_auth = PasswordMethod::Md5).await;
    assert!(!liar.was_told(SECRET));
}

#[tokio::test]
async fn a_node_must_show_that_it_knows_the_secret_and_does_not_choose_our_work() {
    let liar = Liar::listen(Lie::WithoutProof).await;
    let [control, client] = liar.both(|_| {}).await;
    assert!(control.contains("unexpected message"), "{control}");
    assert!(client.contains("did not show that it knows the role's secret"), "{client}");

    let liar = Liar::listen(Lie::Iterations(4_000_000_000)).await;
    let begun = std::time::Instant::now();
    for e in liar.both(|_| {}).await {
        assert!(e.contains("100000"), "{e}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn no_message_of_a_node_is_read_without_bound() {
    for lie in [Lie::Chatters, Lie::Giant { logged_in: false }] {
        let liar = Liar::listen(lie).await;
        for e in liar.both(|_| {}).await {
            assert!(!e.contains("let in") && !e.contains("no answer within"), "{lie:?}: {e}");
        }
    }
    // Behind the login a control connection reads whole messages; the clients' are passed on in pieces.
    for (lie, says) in
        [(Lie::Giant { logged_in: true }, "too long"), (Lie::Rows, "longer than 256 MB")]
    {
        let liar = Liar::listen(lie).await;
        let e = liar.both(|_| {}).await[0].clone();
        assert!(e.contains(says), "{lie:?}: {e}");
    }
}
