//! SCRAM and TLS against the real other side: PostgreSQL for the leg to the nodes, libpq for the
//! leg to the clients.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use bytes::BytesMut;
use pgshunt::auth::{
    Account, AuthError, ClientKeys, ClientSecret, MockSecret, Nonce, ScramClient, ScramServer,
    Verifier,
};
use pgshunt::config::{self, NodeTls};
use pgshunt::net::tls::{ClientTls, ServerTls};
use pgshunt::net::{Out, Stream};
use pgshunt::wire::backend::report_field;
use pgshunt::wire::{frame, startup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// Why a login to a node failed.
#[derive(Debug, PartialEq)]
enum Failed {
    /// The node said so, with this SQLSTATE.
    Node(String),
    /// Our side of the exchange did.
    Scram(AuthError),
}

async fn read_frame(stream: &mut Stream, input: &mut BytesMut) -> (u8, BytesMut) {
    loop {
        if let Some(header) = frame::header(input).unwrap()
            && input.len() >= header.len
        {
            let mut whole = input.split_to(header.len);
            return (header.tag, whole.split_off(frame::HEADER));
        }
        assert!(stream.fill(input).await.unwrap() > 0, "the peer hung up");
    }
}

async fn send(stream: &mut Stream, out: &mut Out) {
    stream.drain(out).await.unwrap();
}

/// Logs in to a node; gives the mechanism that was used.
async fn login(
    node: &LocalNode,
    tls: &ClientTls,
    user: &str,
    secret: ClientSecret,
) -> Result<&'static str, Failed> {
    let tcp = TcpStream::connect(("127.0.0.1", node.port())).await.unwrap();
    let (mut stream, trust) = tls.wrap(tcp.into(), "127.0.0.1").await.unwrap();
    let binding = trust.binding;
    let mut out = Out::default();
    startup::put_startup(out.buf(), [("user", user), ("database", DATABASE)].into_iter());
    send(&mut stream, &mut out).await;
    let mut input = BytesMut::new();
    let mut scram = None;
    loop {
        let (tag, body) = read_frame(&mut stream, &mut input).await;
        if tag == b'E' {
            let code = report_field(&body, b'C').unwrap();
            return Err(Failed::Node(String::from_utf8(code.to_vec()).unwrap()));
        }
        assert_eq!(tag, b'R');
        let (code, payload) = body.split_at(4);
        let answer = match (code, &mut scram) {
            ([0, 0, 0, 10], None) => {
                let client =
                    ScramClient::new(secret.clone(), payload, binding.clone(), Nonce::random());
                let (mechanism, first) = scram.insert((client.unwrap(), "")).0.initial();
                scram.as_mut().unwrap().1 = mechanism;
                let mut answer = [mechanism.as_bytes(), b"\0"].concat();
                answer.extend(u32::try_from(first.len()).unwrap().to_be_bytes());
                answer.extend(first);
                answer
            }
            ([0, 0, 0, 11], Some((client, _))) => {
                client.on_continue(payload).map_err(Failed::Scram)?
            }
            ([0, 0, 0, 12], Some((client, _))) => {
                client.on_final(payload).map_err(Failed::Scram)?;
                continue;
            }
            ([0, 0, 0, 0], Some((_, mechanism))) => return Ok(mechanism),
            other => panic!("unexpected authentication request {other:?}"),
        };
        frame::put(out.buf(), b'p', |b| b.extend_from_slice(&answer));
        send(&mut stream, &mut out).await;
    }
}

fn nodes_tls(mode: NodeTls, roots: Option<&Path>) -> ClientTls {
    let tls = config::Tls {
        nodes: mode,
        node_roots: roots.map(Path::to_owned),
        ..config::Tls::default()
    };
    ClientTls::load(&tls).unwrap()
}

fn password(text: &str) -> ClientSecret {
    ClientSecret::Password(text.as_bytes().to_vec())
}

/// What pgshunt learns of a client that logs in to it.
fn keys_of_a_client(verifier: &Verifier, text: &str) -> ClientKeys {
    let mut server = ScramServer::new(Account::Known(verifier), Nonce::random(), None);
    let mut client =
        ScramClient::new(password(text), b"SCRAM-SHA-256\0\0", None, Nonce::random()).unwrap();
    let (mechanism, first) = client.initial();
    let challenge = server.on_initial(mechanism.as_bytes(), &first).unwrap();
    server.on_final(&client.on_continue(&challenge).unwrap()).unwrap().keys
}

async fn stored_verifier(node: &LocalNode, role: &str) -> Verifier {
    let client = connect(node.port()).await;
    let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
    value::<String>(&client, &sql).await.parse().unwrap()
}

#[tokio::test]
async fn a_client_is_passed_through_to_postgres_without_its_password() {
    let node = LocalNode::start(NodeOptions::new("login")).unwrap();
    let client = connect(node.port()).await;
    client
        .batch_execute(
            "CREATE ROLE app LOGIN PASSWORD 'Grüße, \u{a0}Welt';
             CREATE ROLE other LOGIN PASSWORD 'Grüße, \u{a0}Welt'",
        )
        .await
        .unwrap();
    let tls = nodes_tls(NodeTls::Prefer, None);
    let pass = "Grüße, \u{a0}Welt";
    assert_eq!(login(&node, &tls, "app", password(pass)).await, Ok("SCRAM-SHA-256"));
    assert_eq!(
        login(&node, &tls, "app", password("wrong")).await,
        Err(Failed::Node("28P01".into()))
    );

    let keys = keys_of_a_client(&stored_verifier(&node, "app").await, pass);
    let keys = ClientSecret::Keys(keys);
    assert_eq!(login(&node, &tls, "app", keys.clone()).await, Ok("SCRAM-SHA-256"));
    // The same password under another salt: said to be so, instead of a puzzling 28P01.
    assert_eq!(
        login(&node, &tls, "other", keys.clone()).await,
        Err(Failed::Scram(AuthError::VerifierDiffers))
    );
    // Copied to another role (or node) as it is, the verifier takes the keys.
    client
        .batch_execute(
            "DO $$BEGIN EXECUTE format('ALTER ROLE other PASSWORD %L',
                (SELECT rolpassword FROM pg_authid WHERE rolname = 'app')); END$$",
        )
        .await
        .unwrap();
    assert_eq!(login(&node, &tls, "other", keys).await, Ok("SCRAM-SHA-256"));
}

/// Certificates in a directory of their own, for as long as they are needed.
pub struct Certificates {
    pub dir: std::path::PathBuf,
}

impl Certificates {
    /// An authority and a certificate for 127.0.0.1, as `ca.crt`, `server.crt` and `server.key`, and
    /// one for a client whose name is `ann`.
    pub fn write_to(dir: &Path) {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        // Else both have the default name, and OpenSSL takes the leaf for self-signed.
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned()];
        let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let client_key = rcgen::KeyPair::generate().unwrap();
        let mut ann = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ann.distinguished_name = rcgen::DistinguishedName::new();
        ann.distinguished_name.push(rcgen::DnType::CommonName, "ann");
        let ann = ann.signed_by(&client_key, &issuer).unwrap();
        for (name, pem) in [
            ("ca.crt", ca.pem()),
            ("server.crt", leaf.pem()),
            ("server.key", key.serialize_pem()),
            ("ann.crt", ann.pem()),
            ("ann.key", client_key.serialize_pem()),
        ] {
            let path = dir.join(name);
            std::fs::write(&path, pem).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pgshunt-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self::write_to(&dir);
        Self { dir }
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test]
async fn tls_to_a_node_binds_the_login_to_its_certificate() {
    use std::os::unix::fs::{MetadataExt, chown};

    let node = LocalNode::start(NodeOptions::new("tls")).unwrap();
    let required = nodes_tls(NodeTls::Require, None);
    let tcp = TcpStream::connect(("127.0.0.1", node.port())).await.unwrap();
    let refused = required.wrap(tcp.into(), "127.0.0.1").await.unwrap_err().to_string();
    assert!(refused.contains("does not accept TLS"), "{refused}");

    let data = node.data_dir();
    Certificates::write_to(&data);
    let owner = std::fs::metadata(&data).unwrap();
    for name in ["ca.crt", "server.crt", "server.key"] {
        chown(data.join(name), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let client = connect(node.port()).await;
    client.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    wait_for("ssl to be on", || async {
        let client = connect(node.port()).await;
        (value::<String>(&client, "SHOW ssl").await == "on").then_some(())
    })
    .await;

    let plus = Ok("SCRAM-SHA-256-PLUS");
    for tls in [
        nodes_tls(NodeTls::Prefer, None),
        required,
        nodes_tls(NodeTls::VerifyFull, Some(&data.join("ca.crt"))),
    ] {
        assert_eq!(login(&node, &tls, SUPERUSER, password(PASSWORD)).await, plus, "{tls:?}");
    }
    let keys = keys_of_a_client(&stored_verifier(&node, SUPERUSER).await, PASSWORD);
    let tls = nodes_tls(NodeTls::Require, None);
    assert_eq!(login(&node, &tls, SUPERUSER, ClientSecret::Keys(keys)).await, plus);
    let clear = nodes_tls(NodeTls::Disable, None);
    let answer = login(&node, &clear, SUPERUSER, password(PASSWORD)).await;
    assert_eq!(answer, Ok("SCRAM-SHA-256"));
}

/// A server that takes one client's login and answers its first query with nothing.
async fn serve_one(
    listener: &TcpListener,
    tls: Option<&ServerTls>,
    account: Account<'_>,
) -> Result<String, AuthError> {
    let (mut tcp, _) = listener.accept().await.unwrap();
    let mut stream = match tls {
        Some(tls) => {
            let mut request = [0; 8];
            tcp.read_exact(&mut request).await.unwrap();
            assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47], "an SSLRequest");
            tcp.write_all(b"S").await.unwrap();
            tls.accept(tcp.into(), false).await.unwrap()
        }
        None => Stream::Plain(tcp.into()),
    };
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.unwrap();
    let mut startup = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap() - 4];
    stream.read_exact(&mut startup).await.unwrap();

    let binding = tls.and_then(|tls| tls.binding()).map(<[u8]>::to_vec);
    let mut server = ScramServer::new(account, Nonce::random(), binding);
    let mut out = Out::default();
    let mut input = BytesMut::new();
    let authentication = |out: &mut Out, code: u32, payload: &[u8]| {
        frame::put(out.buf(), b'R', |b| {
            b.extend_from_slice(&code.to_be_bytes());
            b.extend_from_slice(payload);
        });
    };
    let offer: Vec<u8> = server
        .mechanisms()
        .iter()
        .flat_map(|m| [m.as_bytes(), b"\0"].concat())
        .chain([0])
        .collect();
    authentication(&mut out, 10, &offer);
    send(&mut stream, &mut out).await;
    let (_, body) = read_frame(&mut stream, &mut input).await;
    let end = body.iter().position(|b| *b == 0).unwrap();
    let mechanism = String::from_utf8(body[..end].to_vec()).unwrap();
    let challenge = server.on_initial(&body[..end], &body[end + 5..])?;
    authentication(&mut out, 11, &challenge);
    send(&mut stream, &mut out).await;
    let (_, body) = read_frame(&mut stream, &mut input).await;
    match server.on_final(&body) {
        Ok(success) => authentication(&mut out, 12, &success.server_final),
        Err(e) => {
            frame::put(out.buf(), b'E', |b| {
                b.extend_from_slice(b"SFATAL\0C28P01\0Mpassword authentication failed\0\0");
            });
            send(&mut stream, &mut out).await;
            return Err(e);
        }
    }
    authentication(&mut out, 0, b"");
    frame::put(out.buf(), b'Z', |b| b.push(b'I'));
    send(&mut stream, &mut out).await;
    let (tag, _) = read_frame(&mut stream, &mut input).await;
    assert_eq!(tag, b'Q');
    frame::put(out.buf(), b'C', |b| b.extend_from_slice(b"SELECT 0\0"));
    frame::put(out.buf(), b'Z', |b| b.push(b'I'));
    send(&mut stream, &mut out).await;
    Ok(mechanism)
}

async fn psql(listener: &TcpListener, settings: &str) -> Output {
    let binaries = pgshunt::local::Binaries::find().unwrap();
    let port = listener.local_addr().unwrap().port();
    let conninfo = format!("host=127.0.0.1 port={port} user=app dbname=app {settings}");
    tokio::process::Command::new(binaries.program("psql"))
        .args(["-X", "-c", "SELECT 1", &conninfo])
        .env("PGPASSWORD", "pencil ü")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

/// Lets psql log in to us; gives what either side says.
async fn psql_logs_in(
    tls: Option<&ServerTls>,
    account: Account<'_>,
    settings: &str,
) -> (Result<String, AuthError>, Output) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let both =
        async { tokio::join!(serve_one(&listener, tls, account), psql(&listener, settings)) };
    tokio::time::timeout(PATIENCE, both).await.expect("the login ends")
}

#[tokio::test]
async fn psql_logs_in_to_us_in_clear_and_bound_to_our_certificate() {
    let verifier = Verifier::from_password("pencil ü".as_bytes(), b"sixteen bytes ok", 4096);
    let known = Account::Known(&verifier);
    let (ours, theirs) = psql_logs_in(None, known, "sslmode=disable gssencmode=disable").await;
    assert_eq!(ours, Ok("SCRAM-SHA-256".into()));
    assert!(theirs.status.success(), "{theirs:?}");

    let files = Certificates::new("psql");
    let tls =
        ServerTls::from_files(&files.dir.join("server.crt"), &files.dir.join("server.key"), None)
            .unwrap();
    let settings = format!(
        "sslmode=verify-full gssencmode=disable channel_binding=require sslrootcert={}",
        files.dir.join("ca.crt").display()
    );
    let (ours, theirs) = psql_logs_in(Some(&tls), known, &settings).await;
    assert_eq!(ours, Ok("SCRAM-SHA-256-PLUS".into()));
    assert!(theirs.status.success(), "{theirs:?}");
}

#[tokio::test]
async fn psql_is_turned_away_with_a_wrong_password_or_name() {
    let settings = "sslmode=disable gssencmode=disable";
    let verifier = Verifier::from_password(b"another", b"sixteen bytes ok", 4096);
    let secret = MockSecret::random(4096);
    for account in [Account::Known(&verifier), Account::Unknown { user: b"app", secret: &secret }] {
        let (ours, theirs) = psql_logs_in(None, account, settings).await;
        assert_eq!(ours, Err(AuthError::WrongPassword));
        let says = String::from_utf8_lossy(&theirs.stderr).into_owned();
        assert!(!theirs.status.success() && says.contains("authentication failed"), "{says}");
    }
}
