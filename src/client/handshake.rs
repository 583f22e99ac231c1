//! The first packets: SSLRequest and GSSENCRequest in either order, each once; then a
//! CancelRequest or a StartupMessage.
//!
//! Nothing is read beyond a request that is answered before the next one may be sent: bytes that
//! came in clear behind an SSLRequest would otherwise pass for encrypted ones (CVE-2021-23214).

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::net::Stream;
use crate::net::tls::ServerTls;
use crate::wire::backend::Report;
use crate::wire::startup::{self, First, Startup};

pub enum Opening {
    Cancel { pid: i32, secret: Vec<u8> },
    Startup { stream: Stream, startup: Startup, input: BytesMut },
}

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Startup(#[from] startup::StartupError),
    #[error("an encryption request came twice")]
    Repeated,
    #[error("TLS: {0}")]
    Tls(String),
    #[error("clear text followed the request for encryption")]
    Stuffed,
    #[error("the client did not use TLS")]
    TlsRequired,
}

/// `required`: a session without TLS is refused.
pub async fn read(
    tcp: TcpStream,
    tls: Option<&ServerTls>,
    required: bool,
) -> Result<Opening, HandshakeError> {
    let mut stream = Stream::Plain(tcp);
    let (mut tried_ssl, mut tried_gss) = (false, false);
    loop {
        let packet = match packet(&mut stream).await {
            Ok(packet) => packet,
            Err(HandshakeError::Startup(e)) => return Err(tell(&mut stream, e).await),
            Err(e) => return Err(e),
        };
        match startup::first(&packet) {
            Ok(First::Ssl) => {
                if std::mem::replace(&mut tried_ssl, true) || stream.is_tls() {
                    return Err(HandshakeError::Repeated);
                }
                stream = match (stream, tls) {
                    (Stream::Plain(mut tcp), Some(tls)) => {
                        answer(&mut tcp, b'S').await?;
                        tls.accept(tcp, false)
                            .await
                            .map_err(|e| HandshakeError::Tls(e.to_string()))?
                    }
                    (Stream::Plain(mut tcp), None) => {
                        answer(&mut tcp, b'N').await?;
                        Stream::Plain(tcp)
                    }
                    (other, _) => other,
                };
            }
            Ok(First::GssEnc) => {
                if std::mem::replace(&mut tried_gss, true) {
                    return Err(HandshakeError::Repeated);
                }
                if let Stream::Plain(tcp) = &mut stream {
                    answer(tcp, b'N').await?;
                }
            }
            Ok(First::Cancel { pid, secret }) => return Ok(Opening::Cancel { pid, secret }),
            Ok(First::Startup(startup)) => {
                if !stream.is_tls() && required {
                    let report = Report::fatal("28000", "this server accepts TLS connections only");
                    super::refuse(&mut stream, &report).await;
                    return Err(HandshakeError::TlsRequired);
                }
                return Ok(Opening::Startup { stream, startup, input: BytesMut::new() });
            }
            Err(e) => return Err(tell(&mut stream, e).await),
        }
    }
}

async fn tell(stream: &mut Stream, e: startup::StartupError) -> HandshakeError {
    let report = Report::fatal(e.sqlstate(), e.to_string());
    super::refuse(stream, &report).await;
    e.into()
}

/// Reads one first packet and not a byte more.
async fn packet(stream: &mut Stream) -> Result<Vec<u8>, HandshakeError> {
    let mut packet = vec![0; 4];
    stream.read_exact(&mut packet).await?;
    let len = startup::packet_len(&packet).map_err(startup::StartupError::from)?;
    packet.resize(len.unwrap_or(4), 0);
    stream.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

/// Answers an encryption request, if nothing was sent behind it.
async fn answer(tcp: &mut TcpStream, byte: u8) -> Result<(), HandshakeError> {
    let mut stuffed = [0; 1];
    match tcp.try_read(&mut stuffed) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
        Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Ok(_) => return Err(HandshakeError::Stuffed),
        Err(e) => return Err(e.into()),
    }
    tcp.write_all(&[byte]).await?;
    Ok(())
}
