//! TLS to clients and to nodes, by rustls with the ring provider.
//!
//! PostgreSQL negotiates in clear first: SSLRequest, and one byte `S` or `N` as the answer. Nothing
//! read before the handshake may be taken for something said under it, on either side: here the
//! answer is read as exactly one byte; whoever calls [`ServerTls::accept`] must have read exactly
//! the SSLRequest and drop a client that sent more with it.
//!
//! Sessions are not resumed, as with PostgreSQL itself: pooled connections live long.

mod end_point;
mod subject;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgwire::messages::startup::SslRequest;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Socket, Stream};
use crate::auth::NodeTrust;
use crate::config::{self, NodeTls, PasswordMethod};
use crate::wire::message;

pub use end_point::end_point_hash;
pub use subject::common_name;

/// The ALPN name of PostgreSQL's protocol.
const ALPN: &[u8] = b"postgresql";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {problem}", path.display())]
    Pem { path: PathBuf, problem: String },
    #[error("{0}")]
    Config(&'static str),
    #[error("TLS certificate and key: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("TLS handshake: {0}")]
    Handshake(io::Error),
    #[error("direct TLS needs the ALPN protocol \"postgresql\"")]
    NoAlpn,
    #[error("the node does not accept TLS; set ssl = on there, or tls.nodes = \"prefer\" here")]
    Refused,
    #[error("the node answered the TLS request with byte {0:#04x}")]
    NotPostgres(u8),
    #[error("asking the node for TLS: {0}")]
    Io(io::Error),
    #[error("{0:?} is no host name a certificate can be checked against")]
    HostName(String),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |problem: String| TlsError::Pem { path: path.to_owned(), problem };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if found.is_empty() { Err(bad("no certificate in it".into())) } else { Ok(found) }
}

/// TLS towards clients: one certificate.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    required: bool,
    binding: Option<Vec<u8>>,
}

impl ServerTls {
    /// What the configuration asks for; `None` when clients get no TLS.
    pub fn load(tls: &config::Tls) -> Result<Option<Self>, TlsError> {
        match (tls.clients, &tls.cert, &tls.key) {
            (config::ClientTls::Disable, _, _) => Ok(None),
            (config::ClientTls::Allow | config::ClientTls::Require, Some(cert), Some(key)) => {
                let required = tls.clients == config::ClientTls::Require;
                let authorities = tls.client_ca.as_deref().map(certificates).transpose()?;
                Ok(Some(Self { required, ..Self::from_files(cert, key, authorities)? }))
            }
            (config::ClientTls::Allow | config::ClientTls::Require, _, _) => Err(TlsError::Config(
                "tls.clients needs tls.cert and tls.key, the PEM files of a certificate and its key",
            )),
        }
    }

    /// A certificate chain and its key, from PEM files. TLS is offered, not required. With
    /// authorities clients are asked for a certificate, which they need not have.
    pub fn from_files(
        cert: &Path,
        key: &Path,
        authorities: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<Self, TlsError> {
        let chain = certificates(cert)?;
        let key_der = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|e| TlsError::Pem { path: key.to_owned(), problem: e.to_string() })?;
        Self::new(chain, key_der, authorities)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        authorities: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<Self, TlsError> {
        let binding = chain.first().and_then(|leaf| end_point_hash(leaf));
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let builder = match authorities {
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in authorities {
                    roots.add(authority)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                        .allow_unauthenticated()
                        .build()
                        .map_err(|_| TlsError::Config("tls.client_ca has no usable authority"))?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key)?;
        // A client that offers other protocols only is no client of ours; one that offers none is
        // an older libpq.
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), required: false, binding })
    }

    /// What SCRAM-SHA-256-PLUS binds to, where that is defined for our certificate.
    pub fn binding(&self) -> Option<&[u8]> {
        self.binding.as_deref()
    }

    /// Whether clients in clear are to be turned away.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// The handshake with a client that asked for TLS and was answered `S`; or, `direct`, with one
    /// that began with it without asking (libpq's `sslnegotiation=direct`, whose first byte is
    /// 0x16, still unread): that one must name the protocol.
    pub async fn accept(&self, socket: Socket, direct: bool) -> Result<Stream, TlsError> {
        Ok(Stream::Tls(Box::new(self.handshake(socket, direct).await?)))
    }

    async fn handshake<IO>(&self, io: IO, direct: bool) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.acceptor.accept(io).await.map_err(TlsError::Handshake)?;
        if direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(TlsError::NoAlpn);
        }
        Ok(stream.into())
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// TLS towards nodes.
#[derive(Clone)]
pub struct ClientTls {
    mode: NodeTls,
    /// The least safe way in which a node may ask for a password that has shown no certificate of ours.
    weakest: PasswordMethod,
    connector: TlsConnector,
}

/// A connection to a node after the negotiation.
enum Negotiated<IO> {
    Plain(IO),
    Tls(Box<TlsStream<IO>>, Option<Vec<u8>>),
}

impl ClientTls {
    pub fn load(tls: &config::Tls) -> Result<Self, TlsError> {
        let roots = match (tls.nodes, &tls.node_roots) {
            (NodeTls::VerifyFull, Some(path)) => Some(certificates(path)?),
            (NodeTls::VerifyFull, None) => {
                return Err(TlsError::Config(
                    "tls.nodes = \"verify-full\" needs tls.node_roots, a PEM file of certificate \
                     authorities",
                ));
            }
            (NodeTls::Disable | NodeTls::Prefer | NodeTls::Require, _) => None,
        };
        Ok(Self { weakest: tls.node_auth, ..Self::new(tls.nodes, roots)? })
    }

    fn new(mode: NodeTls, roots: Option<Vec<CertificateDer<'static>>>) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let mut config = match roots {
            Some(certificates) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates {
                    roots.add(certificate)?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(provider()))),
        }
        .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let weakest = PasswordMethod::ScramSha256;
        Ok(Self { mode, weakest, connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Negotiates TLS on a fresh connection to a node, as far as the configuration wants it; never
    /// on a Unix socket, as with libpq. Also says what is known of the node by then.
    pub async fn wrap(&self, socket: Socket, host: &str) -> Result<(Stream, NodeTrust), TlsError> {
        let unknown = NodeTrust { binding: None, must_bind: false, weakest: self.weakest };
        if socket.is_unix() {
            return Ok((Stream::Plain(socket), unknown));
        }
        Ok(match self.negotiate(socket, host).await? {
            Negotiated::Plain(socket) => (Stream::Plain(socket), unknown),
            Negotiated::Tls(stream, binding) => (Stream::Tls(stream), self.trust(binding)),
        })
    }

    /// What is known of a node behind the handshake.
    fn trust(&self, binding: Option<Vec<u8>>) -> NodeTrust {
        let (must_bind, weakest) = match self.mode {
            NodeTls::VerifyFull => (false, PasswordMethod::Password),
            NodeTls::Require => (binding.is_some(), self.weakest),
            // Whoever is in the way could have said that there is no TLS.
            NodeTls::Prefer | NodeTls::Disable => (false, self.weakest),
        };
        NodeTrust { binding, must_bind, weakest }
    }

    async fn negotiate<IO>(&self, mut io: IO, host: &str) -> Result<Negotiated<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        if self.mode == NodeTls::Disable {
            return Ok(Negotiated::Plain(io));
        }
        let mut request = Vec::with_capacity(8);
        message::put(&mut request, &SslRequest::new());
        io.write_all(&request).await.map_err(TlsError::Io)?;
        io.flush().await.map_err(TlsError::Io)?;
        match (io.read_u8().await.map_err(TlsError::Io)?, self.mode) {
            (b'S', _) => {}
            (b'N', NodeTls::Prefer) => return Ok(Negotiated::Plain(io)),
            (b'N', _) => return Err(TlsError::Refused),
            (other, _) => return Err(TlsError::NotPostgres(other)),
        }
        let (stream, binding) = self.handshake(io, host).await?;
        Ok(Negotiated::Tls(stream, binding))
    }

    /// The handshake itself, with a node that has agreed to it. Also gives what
    /// SCRAM-SHA-256-PLUS binds to.
    pub async fn handshake<IO>(
        &self,
        io: IO,
        host: &str,
    ) -> Result<(Box<TlsStream<IO>>, Option<Vec<u8>>), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TlsError::HostName(host.to_owned()))?;
        let stream = self.connector.connect(name, io).await.map_err(TlsError::Handshake)?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let binding = leaf.and_then(|leaf| end_point_hash(leaf));
        Ok((Box::new(stream.into()), binding))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Takes any certificate, as libpq does below `verify-ca`: the connection is private against those
/// who listen, not against those who interfere. The peer must still hold the certificate's key, so
/// that SCRAM's channel binding means something.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
