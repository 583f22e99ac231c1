//! A connection's bytes, in clear or under TLS, polled by hand.

#![expect(unsafe_code, reason = "a buffer is read into before it is filled")]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::Socket;

/// An empty buffer of this size, in bytes, is kept for the next answer.
const KEPT: usize = 2 << 10;

/// How much one read takes at the most, in bytes.
pub const READ_SIZE: usize = 16 << 10;

#[derive(Debug)]
pub enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(s) => s,
            Self::Tls(s) => s.get_ref().0,
        }
    }

    /// The certificate the peer has shown under TLS, in DER; it has been checked.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let Self::Tls(stream) = self else { return None };
        Some(stream.get_ref().1.peer_certificates()?.first()?)
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Appends what can be read now to `buf`; `Ready(0)` is the end of the stream.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        if buf.capacity() - buf.len() < READ_SIZE / 4 {
            buf.reserve(READ_SIZE);
        }
        let spare = buf.spare_capacity_mut();
        let room = spare.len().min(64 << 10);
        let mut read = ReadBuf::uninit(&mut spare[..room]);
        ready!(match self {
            Self::Plain(s) => Pin::new(s).poll_read(cx, &mut read),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, &mut read),
        })?;
        let n = read.filled().len();
        // SAFETY: `ReadBuf` has initialised the first `n` bytes of the spare capacity.
        unsafe { buf.set_len(buf.len() + n) };
        Poll::Ready(Ok(n))
    }

    /// Writes as much of `out` as the socket takes. Ready when `out` is empty and flushed.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, out: &mut Out) -> Poll<io::Result<()>> {
        while !out.is_empty() {
            let n = ready!(match self {
                Self::Plain(s) => Pin::new(s).poll_write(cx, out.unsent()),
                Self::Tls(s) => Pin::new(s.as_mut()).poll_write(cx, out.unsent()),
            })?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.sent(n);
        }
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_flush(cx),
        }
    }

    pub async fn fill(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, buf)).await
    }

    pub async fn drain(&mut self, out: &mut Out) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_drain(cx, out)).await
    }

    /// Says goodbye (TLS close_notify, FIN); errors do not matter any more.
    pub async fn shutdown(&mut self) {
        let _ = match self {
            Self::Plain(s) => tokio::io::AsyncWriteExt::shutdown(s).await,
            Self::Tls(s) => tokio::io::AsyncWriteExt::shutdown(s.as_mut()).await,
        };
    }
}

/// How long, and for how much, a peer is listened to after the last word.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 16 << 20);

impl Stream {
    /// Shuts down, and waits a little for the peer to have read it: closing with its bytes unread
    /// would reset the connection, and the last word would be lost with it.
    pub async fn shutdown_heard(&mut self) {
        self.shutdown().await;
        // A peer that neither reads nor leaves gets no more of our time.
        let _ = tokio::time::timeout(LINGER.0, self.discard(LINGER.1)).await;
    }

    /// Reads for nobody until the peer has hung up, or more than `limit` bytes have come.
    pub async fn discard(&mut self, limit: usize) {
        let mut sink = BytesMut::new();
        let mut left = limit;
        while let Ok(n @ 1..) = self.fill(&mut sink).await {
            sink.clear();
            left = left.saturating_sub(n);
            if left == 0 {
                return;
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Bytes on their way out: appended at the back, taken by the socket from the front.
#[derive(Debug, Default)]
pub struct Out {
    buf: Vec<u8>,
    at: usize,
}

impl Out {
    pub fn is_empty(&self) -> bool {
        self.at == self.buf.len()
    }

    /// Bytes not taken yet.
    pub fn len(&self) -> usize {
        self.buf.len() - self.at
    }

    pub fn unsent(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    /// Where writers append.
    pub fn buf(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    pub fn sent(&mut self, n: usize) {
        self.at += n;
        if self.at == self.buf.len() {
            self.at = 0;
            self.buf.clear();
            // A burst's buffer is not kept by an idle connection.
            if self.buf.capacity() > KEPT {
                self.buf = Vec::new();
            }
        } else if self.at > self.buf.len() / 2 && self.at > READ_SIZE {
            // A slow reader never empties it: what was taken must not stay.
            self.buf.drain(..self.at);
            self.at = 0;
        }
    }
}
