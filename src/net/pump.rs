//! Connections under TLS that another process has taken over.
//!
//! The keys of a TLS session cannot leave their process. So this one goes on to encrypt and decrypt
//! and does nothing else any more: the other process has one end of a socket pair in the place of the
//! connection, and between the other end and the peer bytes are passed through here, until one of
//! both leaves.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::duplex::Duplex;
use super::{Socket, Stream};

/// Those of this process, counted.
#[derive(Debug, Clone)]
pub struct Pumps {
    count: Arc<watch::Sender<usize>>,
}

impl Default for Pumps {
    fn default() -> Self {
        Self { count: Arc::new(watch::Sender::new(0)) }
    }
}

impl Pumps {
    /// Makes a stream one in clear, which another process can be given: under TLS it becomes one end
    /// of a socket pair. To be called on a runtime that runs until [`Pumps::ended`].
    pub fn clear(&self, stream: &mut Stream) -> io::Result<()> {
        if !stream.is_tls() {
            return Ok(());
        }
        let (near, far) = UnixStream::pair()?;
        let peer = std::mem::replace(stream, Stream::Plain(Socket::Unix(far)));
        self.count.send_modify(|n| *n += 1);
        let counted = Counted(self.clone());
        tokio::spawn(async move {
            let _counted = counted;
            pump(peer, near).await;
        });
        Ok(())
    }

    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Until the last one has ended.
    pub async fn ended(&self) {
        // The sender lives as long as this.
        let _ = self.count.subscribe().wait_for(|n| *n == 0).await;
    }
}

/// One of them, however its task ends.
struct Counted(Pumps);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.send_modify(|n| *n -= 1);
    }
}

/// Until the other process has let go of its end, or the peer takes nothing any more.
async fn pump(peer: Stream, end: UnixStream) {
    let end = Stream::Plain(Socket::Unix(end));
    let mut duplex = Duplex::new(peer, end, BytesMut::new(), BytesMut::new());
    let mut hears = true;
    let ended = poll_fn(|cx| {
        // A peer that is gone, or another process that does not read any more, may still have
        // something said to it.
        if hears && let Poll::Ready(heard) = duplex.poll_up(cx) {
            hears = false;
            if let Err(error) = heard {
                tracing::debug!(%error, "hearing a connection under TLS");
                duplex.hang_up();
            }
        }
        duplex.poll_down(cx)
    })
    .await;
    match ended {
        // It may still be speaking: closing would then take our last words from it.
        Ok(()) => duplex.near.shutdown_heard().await,
        Err(error) => tracing::debug!(%error, "a connection under TLS broke off"),
    }
}
