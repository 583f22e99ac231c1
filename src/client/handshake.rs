//! The first packets: SSLRequest and GSSENCRequest in either order, each once; then a
//! CancelRequest or a StartupMessage.
//!
//! Nothing is read beyond a request that is answered before the next one may be sent: bytes that
//! came in clear behind an SSLRequest would otherwise pass for encrypted ones (CVE-2021-23214).

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::tls::ServerTls;
use crate::net::{Socket, Stream};
use crate::wire::backend::Report;
use crate::wire::startup::{self, First, Startup};

pub enum Opening {
    /// Its sender waits until the connection is closed: then it has been carried out.
    Cancel {
        stream: Stream,
        pid: i32,
        secret: Vec<u8>,
    },
    Startup {
        stream: Stream,
        startup: Startup,
        input: BytesMut,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Startup(#[from] startup::StartupError),
    /// PostgreSQL takes a second one for a protocol version, and so words it.
    #[error("unsupported frontend protocol 1234.{0}: server supports 3.0 to 3.2")]
    Repeated(u16),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("received unencrypted data after {0} request")]
    Stuffed(&'static str),
    #[error("the client did not use TLS")]
    TlsRequired,
}

/// Reads what comes before the session. A client that does it wrong is told before it is left; what is
/// no client is not.
pub async fn read(
    socket: Socket,
    tls: Option<&ServerTls>,
    required: bool,
) -> Result<Opening, HandshakeError> {
    let mut stream = match (starts_with_tls(&socket).await?, tls) {
        (true, Some(tls)) => {
            tls.accept(socket, true).await.map_err(|e| HandshakeError::Tls(e.to_string()))?
        }
        // There is no telling it: it would not understand a word in clear.
        (true, None) => return Err(HandshakeError::Tls("the client began with it unasked".into())),
        (false, _) => Stream::Plain(socket),
    };
    let (mut tried_ssl, mut tried_gss) = (stream.is_tls(), stream.is_tls());
    loop {
        let packet = match packet(&mut stream).await {
            Ok(packet) => packet,
            Err(HandshakeError::Startup(e)) => return Err(tell_startup(&mut stream, e).await),
            Err(e) => return Err(e),
        };
        match startup::first(&packet) {
            Ok(First::Ssl) => {
                if std::mem::replace(&mut tried_ssl, true) {
                    return Err(tell(&mut stream, HandshakeError::Repeated(5679)).await);
                }
                if is_stuffed(stream.socket())? {
                    return Err(tell(&mut stream, HandshakeError::Stuffed("SSL")).await);
                }
                stream = match (stream, tls) {
                    // PostgreSQL, too, has no TLS on a Unix socket.
                    (Stream::Plain(mut socket), Some(tls)) if !socket.is_unix() => {
                        socket.write_all(b"S").await?;
                        tls.accept(socket, false)
                            .await
                            .map_err(|e| HandshakeError::Tls(e.to_string()))?
                    }
                    (mut clear, _) => {
                        clear.write_all(b"N").await?;
                        clear
                    }
                };
                tried_gss |= stream.is_tls();
            }
            Ok(First::GssEnc) => {
                if std::mem::replace(&mut tried_gss, true) {
                    return Err(tell(&mut stream, HandshakeError::Repeated(5680)).await);
                }
                if is_stuffed(stream.socket())? {
                    return Err(tell(&mut stream, HandshakeError::Stuffed("GSS")).await);
                }
                stream.write_all(b"N").await?;
                stream.flush().await?;
            }
            Ok(First::Cancel { pid, secret }) => {
                return Ok(Opening::Cancel { stream, pid, secret });
            }
            Ok(First::Startup(startup)) => {
                if required && !stream.is_tls() && !stream.socket().is_unix() {
                    return Err(tell(&mut stream, HandshakeError::TlsRequired).await);
                }
                return Ok(Opening::Startup { stream, startup, input: BytesMut::new() });
            }
            Err(e) => return Err(tell_startup(&mut stream, e).await),
        }
    }
}

/// Whether the client begins with TLS itself (libpq's `sslnegotiation=direct`). No packet does: its
/// length would be beyond all bounds.
async fn starts_with_tls(socket: &Socket) -> io::Result<bool> {
    const HANDSHAKE_RECORD: u8 = 0x16;
    let Socket::Tcp(tcp) = socket else { return Ok(false) };
    let mut byte = [0; 1];
    Ok(tcp.peek(&mut byte).await? == 1 && byte == [HANDSHAKE_RECORD])
}

async fn tell(stream: &mut Stream, e: HandshakeError) -> HandshakeError {
    let report = match &e {
        HandshakeError::Repeated(_) => Report::fatal("0A000", e.to_string()),
        HandshakeError::Stuffed(_) => Report::fatal("08P01", e.to_string()).detail(
            "This could be either a client-software bug or evidence of an attempted \
             man-in-the-middle attack.",
        ),
        HandshakeError::TlsRequired => {
            Report::fatal("28000", "this server accepts TLS connections only")
        }
        HandshakeError::Io(_) | HandshakeError::Startup(_) | HandshakeError::Tls(_) => return e,
    };
    super::refuse(stream, &report).await;
    e
}

async fn tell_startup(stream: &mut Stream, e: startup::StartupError) -> HandshakeError {
    if e == startup::StartupError::Length {
        return e.into();
    }
    let mut report = Report::fatal(e.sqlstate(), e.to_string());
    report.hint = e.hint().map(str::to_owned);
    super::refuse(stream, &report).await;
    e.into()
}

/// Reads one first packet and not a byte more.
async fn packet(stream: &mut Stream) -> Result<Vec<u8>, HandshakeError> {
    let mut packet = vec![0; 4];
    stream.read_exact(&mut packet).await?;
    let len = startup::packet_len(&packet)?;
    packet.resize(len.unwrap_or(4), 0);
    stream.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

/// Whether something came in clear behind an encryption request.
fn is_stuffed(socket: &Socket) -> io::Result<bool> {
    match socket.try_read(&mut [0; 1]) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(true),
        Err(e) => Err(e),
    }
}
