//! TLS of the control connections: tokio-postgres negotiates, our rustls does the handshake.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{self, ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::TlsStream;

use crate::config::NodeTls;
use crate::net::tls::{ClientTls, TlsError};

/// What tokio-postgres is to ask the node for.
pub fn ssl_mode(mode: NodeTls) -> SslMode {
    match mode {
        NodeTls::Disable => SslMode::Disable,
        NodeTls::Prefer => SslMode::Prefer,
        // Whether the certificate is checked is a matter of the handshake.
        NodeTls::Require | NodeTls::VerifyFull => SslMode::Require,
    }
}

#[derive(Debug, Clone)]
pub struct ControlTls(pub ClientTls);

/// The handshake with one host.
pub struct Handshake {
    tls: ClientTls,
    host: String,
}

#[derive(Debug)]
pub struct ControlStream {
    inner: Box<TlsStream<Socket>>,
    binding: Option<Vec<u8>>,
}

impl MakeTlsConnect<Socket> for ControlTls {
    type Stream = ControlStream;
    type TlsConnect = Handshake;
    type Error = TlsError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, TlsError> {
        Ok(Handshake { tls: self.0.clone(), host: host.to_owned() })
    }
}

impl TlsConnect<Socket> for Handshake {
    type Stream = ControlStream;
    type Error = TlsError;
    type Future = Pin<Box<dyn Future<Output = Result<ControlStream, TlsError>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let (inner, binding) = self.tls.handshake(socket, &self.host).await?;
            Ok(ControlStream { inner, binding })
        })
    }
}

impl tls::TlsStream for ControlStream {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.binding {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.clone()),
            None => ChannelBinding::none(),
        }
    }
}

impl AsyncRead for ControlStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner.as_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for ControlStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().inner.as_mut()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner.as_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().inner.as_mut()).poll_shutdown(cx)
    }
}
