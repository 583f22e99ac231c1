//! Somebody who ends TLS between a client and pgshunt, with a certificate of its own: what it may pass on, and
//! what it may not pretend.

use std::path::Path;
use std::sync::Arc;

use pgshunt::auth::{ClientSecret, Nonce, ScramClient};
use pgshunt::config::{self, Auth, ClientTls as Clients, NodeTls};
use pgshunt::net::Stream;
use pgshunt::net::tls::{ClientTls, ServerTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::faults::wire::{SSL_REQUEST, Wire, field, message, startup};
use crate::login::Certificates;

/// How the relay reaches pgshunt.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Onwards {
    Tls,
    Clear,
}

fn towards_pgshunt() -> ClientTls {
    let tls = config::Tls { nodes: NodeTls::Require, ..config::Tls::default() };
    ClientTls::load(&tls).unwrap()
}

/// Listens with a certificate of its own, and passes on in TLS of its own, or in clear, what it is told.
async fn relay(certificates: &Certificates, port: u16, onwards: Onwards) -> u16 {
    let file = |name: &str| certificates.dir.join(name);
    let ours = ServerTls::from_files(&file("server.crt"), &file("server.key"), None).unwrap();
    let ours = Arc::new(ours);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let ours = ours.clone();
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await.ok()?;
                assert_eq!(request, SSL_REQUEST);
                client.write_all(b"S").await.ok()?;
                let mut client = ours.accept(client.into(), false).await.ok()?;
                let server = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
                let mut server = match onwards {
                    Onwards::Clear => Stream::Plain(server.into()),
                    Onwards::Tls => {
                        towards_pgshunt().wrap(server.into(), "127.0.0.1").await.ok()?.0
                    }
                };
                // Either side may hang up as it likes.
                copy_bidirectional(&mut client, &mut server).await.ok()
            });
        }
    });
    front
}

/// pgshunt under TLS, and a role `ann` whose password is p.
async fn proxy(files: &Certificates, auth: Auth) -> Proxy {
    let p = Proxy::start_with(1, 1, |c| {
        c.tls.clients = Clients::Allow;
        c.tls.cert = Some(files.dir.join("server.crt"));
        c.tls.key = Some(files.dir.join("server.key"));
        c.tls.client_ca = Some(files.dir.join("ca.crt"));
        c.auth = auth;
    })
    .await;
    let home = connect(p.nodes.nodes[0].port()).await;
    home.batch_execute("CREATE ROLE ann LOGIN PASSWORD 'p'").await.unwrap();
    p
}

#[tokio::test]
async fn who_insists_on_channel_binding_is_not_let_in_through_anothers_certificate() {
    let (files, strangers) = (Certificates::new("bound"), Certificates::new("bound-relay"));
    let p = proxy(&files, Auth::default()).await;
    let required = "sslmode=require channel_binding=require";
    assert_eq!(psql(p.port(), "ann", required).await, "ann");
    let through_tls = relay(&strangers, p.port(), Onwards::Tls).await;
    // The client binds to the certificate it saw, which is not pgshunt's.
    for settings in [required, "sslmode=require channel_binding=prefer"] {
        let refused = psql(through_tls, "ann", settings).await;
        assert!(refused.contains("SCRAM channel binding check failed"), "{settings}: {refused}");
    }
    // It goes on as the one who ends TLS lets it, when it does not mind.
    let careless = "sslmode=require channel_binding=disable";
    assert_eq!(psql(through_tls, "ann", careless).await, "ann");
    // In clear there is nothing to bind to, and the client itself refuses.
    let in_clear = relay(&strangers, p.port(), Onwards::Clear).await;
    let refused = psql(in_clear, "ann", required).await;
    assert!(refused.contains("channel binding is required"), "{refused}");
    assert_eq!(psql(in_clear, "ann", careless).await, "ann");
}

/// Logs in by SCRAM as ann in a session that is open: `offered` is what the client believes the server offers,
/// `binding` what it would bind to. Gives the error.
async fn scram(
    wire: &mut Wire,
    offered: &[u8],
    binding: Option<Vec<u8>>,
) -> Option<(String, String)> {
    let secret = ClientSecret::Password(b"p".to_vec());
    let mut scram = ScramClient::new(secret, offered, binding, Nonce::random()).unwrap();
    let (mechanism, first) = scram.initial();
    let mut initial = [mechanism.as_bytes(), b"\0"].concat();
    initial.extend_from_slice(&(first.len() as u32).to_be_bytes());
    initial.extend_from_slice(&first);
    wire.send(&message(b'p', &initial)).await;
    loop {
        let (tag, body) = wire.next().await.expect("an answer");
        match (tag, body.get(..4)) {
            (b'E', _) => return Some((field(&body, b'C'), field(&body, b'M'))),
            (b'R', Some([0, 0, 0, 11])) => {
                let proof = scram.on_continue(&body[4..]).unwrap();
                wire.send(&message(b'p', &proof)).await;
            }
            (b'R', Some([0, 0, 0, 12])) => scram.on_final(&body[4..]).unwrap(),
            (b'R', Some([0, 0, 0, 0])) => return None,
            other => panic!("{other:?}"),
        }
    }
}

/// Opens a session under TLS and reads the offer; gives the certificate's hash, too.
async fn offered(port: u16) -> (Wire, Vec<u8>, Vec<u8>) {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (stream, trust) = towards_pgshunt().wrap(tcp.into(), "127.0.0.1").await.unwrap();
    let mut wire = Wire::over(stream);
    let as_ann = String::from_utf8(startup(DATABASE)).unwrap().replacen(SUPERUSER, "ann", 1);
    let mut packet = as_ann.into_bytes();
    let length = packet.len() as u32;
    packet[..4].copy_from_slice(&length.to_be_bytes());
    wire.send(&packet).await;
    let (tag, body) = wire.next().await.expect("an offer");
    assert_eq!((tag, &body[..4]), (b'R', &[0, 0, 0, 10][..]));
    (wire, body[4..].to_vec(), trust.binding.expect("a hash"))
}

#[tokio::test]
async fn an_offer_that_was_taken_away_is_noticed() {
    const PLAIN: &[u8] = b"SCRAM-SHA-256\0\0";
    let files = Certificates::new("downgraded");
    let p = proxy(&files, Auth::default()).await;
    let (mut wire, offer, hash) = offered(p.port()).await;
    assert_eq!(offer, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    assert_eq!(scram(&mut wire, &offer, Some(hash)).await, None);
    // Somebody between has left SCRAM-SHA-256 only: the client says that it could have bound ("y").
    let (mut wire, _, hash) = offered(p.port()).await;
    let (code, words) = scram(&mut wire, PLAIN, Some(hash)).await.expect("a refusal");
    assert_eq!(code, "28000", "{words}");
    // Bound to another certificate.
    let (mut wire, offer, hash) = offered(p.port()).await;
    let other = hash.iter().map(|b| !b).collect();
    let (code, words) = scram(&mut wire, &offer, Some(other)).await.expect("a refusal");
    assert_eq!((code.as_str(), words.as_str()), ("28000", "SCRAM channel binding check failed"));
    // Who cannot bind says so ("n"), and is let in, as by PostgreSQL.
    let (mut wire, offer, _) = offered(p.port()).await;
    assert_eq!(scram(&mut wire, &offer, None).await, None);
}

#[tokio::test]
async fn a_certificate_that_was_shown_to_another_is_none() {
    let (files, strangers) = (Certificates::new("shown"), Certificates::new("shown-relay"));
    let rules = r#"
        rules = [
          { type = "hostssl", user = "ann", method = "cert" },
          { type = "host", user = "ann", address = "127.0.0.0/8", method = "reject" },
          { type = "host", method = "scram-sha-256" },
        ]
    "#;
    let mut auth: Auth = toml::from_str(rules).unwrap();
    auth.users = pgshunt::config::Users::parse("\"ann\" \"p\"\n").unwrap();
    let p = proxy(&files, auth).await;
    let shows = |dir: &Path| {
        let (cert, key) = (dir.join("ann.crt"), dir.join("ann.key"));
        format!("sslmode=require sslcert={} sslkey={}", cert.display(), key.display())
    };
    let anns = shows(&files.dir);
    assert_eq!(psql(p.port(), "ann", &anns).await, "ann");
    // The relay has seen ann's certificate and has none to show.
    let through_tls = relay(&strangers, p.port(), Onwards::Tls).await;
    let refused = psql(through_tls, "ann", &anns).await;
    assert!(refused.contains("connection requires a valid client certificate"), "{refused}");
    let in_clear = relay(&strangers, p.port(), Onwards::Clear).await;
    let refused = psql(in_clear, "ann", &anns).await;
    assert!(refused.contains("pg_hba.conf rejects connection"), "{refused}");
}
