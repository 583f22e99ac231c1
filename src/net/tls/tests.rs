use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SignatureAlgorithm};
use sha2::{Digest, Sha256, Sha384};
use tokio::io::DuplexStream;

use super::*;

struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority_signing_with(algorithm: &'static SignatureAlgorithm) -> Authority {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap().der().clone();
    Authority { certificate, issuer: Issuer::new(params, key) }
}

fn authority() -> Authority {
    authority_signing_with(&rcgen::PKCS_ECDSA_P256_SHA256)
}

impl Authority {
    fn server(&self, name: &str) -> (ServerTls, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (ServerTls::new(vec![leaf.clone()], key, None).unwrap(), leaf)
    }
}

/// A node that answers the SSLRequest with `answer`, then does TLS and echoes five bytes.
async fn node(mut io: DuplexStream, tls: Option<ServerTls>, answer: &'static [u8]) {
    let mut request = [0; 8];
    io.read_exact(&mut request).await.unwrap();
    assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
    io.write_all(answer).await.unwrap();
    let Some(tls) = tls else { return };
    if let Ok(mut stream) = tls.handshake(io, false).await {
        let mut said = [0; 5];
        if stream.read_exact(&mut said).await.is_ok() {
            stream.write_all(&said).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    }
}

async fn dial(
    client: &ClientTls,
    host: &str,
    tls: Option<ServerTls>,
    answer: &'static [u8],
) -> Result<(&'static str, Option<Vec<u8>>), TlsError> {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let exchange = async {
        match client.negotiate(ours, host).await? {
            Negotiated::Plain(_) => Ok(("plain", None)),
            Negotiated::Tls(mut stream, binding) => {
                stream.write_all(b"hello").await.unwrap();
                let mut said = [0; 5];
                stream.read_exact(&mut said).await.unwrap();
                assert_eq!(&said, b"hello");
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN));
                Ok(("tls", binding))
            }
        }
    };
    let both = async { tokio::join!(exchange, node(theirs, tls, answer)).0 };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("the handshake ends")
}

fn client(mode: NodeTls, roots: Option<&Authority>) -> ClientTls {
    ClientTls::new(mode, roots.map(|ca| vec![ca.certificate.clone()])).unwrap()
}

#[tokio::test]
async fn require_takes_any_certificate_and_binds_to_it() {
    let (server, leaf) = authority().server("elsewhere.example");
    assert_eq!(server.binding(), Some(&Sha256::digest(&leaf)[..]));
    let answer =
        dial(&client(NodeTls::Require, None), "localhost", Some(server.clone()), b"S").await;
    let (how, binding) = answer.unwrap();
    assert_eq!(how, "tls");
    assert_eq!(binding.as_deref(), server.binding(), "both sides bind to the same");
}

#[tokio::test]
async fn verify_full_checks_authority_and_name() {
    let ca = authority();
    let (server, _) = ca.server("node1.example");
    let trusting = client(NodeTls::VerifyFull, Some(&ca));
    assert!(dial(&trusting, "node1.example", Some(server.clone()), b"S").await.is_ok());
    let wrong_name = dial(&trusting, "node2.example", Some(server.clone()), b"S").await;
    assert!(matches!(wrong_name, Err(TlsError::Handshake(_))), "{wrong_name:?}");
    let stranger = client(NodeTls::VerifyFull, Some(&authority()));
    let unknown = dial(&stranger, "node1.example", Some(server), b"S").await;
    assert!(matches!(unknown, Err(TlsError::Handshake(_))), "{unknown:?}");
    // Addresses can be in a certificate as well.
    let (server, _) = ca.server("127.0.0.1");
    assert!(dial(&trusting, "127.0.0.1", Some(server.clone()), b"S").await.is_ok());
    assert!(dial(&trusting, "127.0.0.2", Some(server), b"S").await.is_err());
}

#[tokio::test]
async fn a_node_without_tls_is_taken_or_left() {
    let answer = |mode| async move { dial(&client(mode, None), "localhost", None, b"N").await };
    assert_eq!(answer(NodeTls::Prefer).await.unwrap().0, "plain");
    assert!(matches!(answer(NodeTls::Require).await, Err(TlsError::Refused)));
    let error = dial(&client(NodeTls::Prefer, None), "localhost", None, b"E").await;
    assert!(matches!(error, Err(TlsError::NotPostgres(b'E'))), "{error:?}");
}

#[tokio::test]
async fn disable_does_not_even_ask() {
    let (ours, mut theirs) = tokio::io::duplex(64);
    let plain = client(NodeTls::Disable, None).negotiate(ours, "localhost").await.unwrap();
    assert!(matches!(plain, Negotiated::Plain(_)));
    drop(plain);
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn clear_bytes_behind_the_answer_are_not_taken_for_the_node() {
    // A man in the middle appends an answer of his own to the `S`.
    let (server, _) = authority().server("localhost");
    let injected = b"SE\0\0\0\x08Mx\0\0";
    let refused = dial(&client(NodeTls::Require, None), "localhost", Some(server), injected).await;
    assert!(matches!(refused, Err(TlsError::Handshake(_))), "{refused:?}");
}

#[tokio::test]
async fn direct_tls_must_name_the_protocol() {
    let (server, _) = authority().server("localhost");
    for (protocols, direct, accepted) in [
        (&[][..], false, true),
        (&[], true, false),
        (&["postgresql"], true, true),
        (&["h2", "postgresql"], true, true),
        (&["h2"], false, false),
    ] {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider())))
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        let (_client, accept) =
            tokio::join!(connector.connect(name, ours), server.handshake(theirs, direct));
        assert_eq!(accept.is_ok(), accepted, "{protocols:?} direct: {direct}");
    }
}

#[test]
fn the_binding_follows_the_certificates_signature() {
    let ca = authority_signing_with(&rcgen::PKCS_ECDSA_P384_SHA384);
    let (server, leaf) = ca.server("localhost");
    assert_eq!(server.binding(), Some(&Sha384::digest(&leaf)[..]));
    let (server, _) = authority_signing_with(&rcgen::PKCS_ED25519).server("localhost");
    assert_eq!(server.binding(), None, "not defined: it must not be offered");
}

#[test]
fn files_are_checked_when_they_are_loaded() {
    let dir = std::env::temp_dir().join(format!("pgshunt-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let pair = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (cert, key) = pair("a");
    let (cert, key) = (write("cert.pem", &cert), write("key.pem", &key));
    let other_key = write("other.pem", &pair("b").1);
    let empty = write("empty.pem", "nothing\n");
    let missing = dir.join("missing.pem");

    assert!(ServerTls::from_files(&cert, &key, None).is_ok());
    for (cert, key, says) in [
        (&cert, &missing, "missing.pem"),
        (&missing, &key, "missing.pem"),
        (&empty, &key, "empty.pem: no certificate"),
        (&cert, &empty, "empty.pem"),
        (&cert, &other_key, "keys"),
    ] {
        let error = ServerTls::from_files(cert, key, None).unwrap_err().to_string();
        assert!(error.to_lowercase().contains(says), "{error}");
    }

    let tls = config::Tls::default();
    assert!(ServerTls::load(&tls).unwrap().is_none());
    let incomplete = config::Tls { clients: config::ClientTls::Allow, ..tls.clone() };
    assert!(ServerTls::load(&incomplete).unwrap_err().to_string().contains("tls.cert"));
    let complete = config::Tls { cert: Some(cert.clone()), key: Some(key.clone()), ..incomplete };
    assert!(!ServerTls::load(&complete).unwrap().unwrap().is_required());
    let required = config::Tls { clients: config::ClientTls::Require, ..complete };
    assert!(ServerTls::load(&required).unwrap().unwrap().is_required());
    let rootless = config::Tls { nodes: NodeTls::VerifyFull, ..tls.clone() };
    assert!(ClientTls::load(&rootless).unwrap_err().to_string().contains("tls.node_roots"));
    let rooted = config::Tls { node_roots: Some(cert), ..rootless };
    assert!(ClientTls::load(&rooted).is_ok());
    std::fs::remove_dir_all(&dir).unwrap();
}
