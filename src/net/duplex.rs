//! Bytes passed through between two streams, both ways at once, unread.
//!
//! What was read and not written yet is bounded by one read each way, and can be taken along when
//! somebody else goes on with the two streams. Nothing is kept for a connection that is silent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::Stream;

#[derive(Debug)]
pub struct Duplex {
    pub near: Stream,
    pub far: Stream,
    up: Way,
    down: Way,
}

/// From one stream to the other.
#[derive(Debug, Default)]
struct Way {
    /// Read and not written yet.
    under_way: BytesMut,
    /// There is no more to be read.
    ends: bool,
    /// The other side has been told.
    ended: bool,
}

impl Duplex {
    /// `up` has been read from near to far already, `down` from far to near.
    pub fn new(near: Stream, far: Stream, up: BytesMut, down: BytesMut) -> Self {
        let way = |under_way| Way { under_way, ..Way::default() };
        Self { near, far, up: way(up), down: way(down) }
    }

    /// What has been read and not written yet, up and down.
    pub fn under_way(&self) -> (&[u8], &[u8]) {
        (&self.up.under_way, &self.down.under_way)
    }

    /// Near to far: ready when near has ended and far has been told.
    pub fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.up.poll(cx, &mut self.near, &mut self.far)
    }

    /// Far to near: ready when far has ended and near has been told.
    pub fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.down.poll(cx, &mut self.far, &mut self.near)
    }

    /// Tells far that nothing more comes, however near has ended.
    pub fn hang_up(&self) {
        // It may be closed at the other end.
        let _ = socket2::SockRef::from(self.far.socket()).shutdown(std::net::Shutdown::Write);
    }

    /// Until both have ended.
    pub async fn run(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            let up = self.poll_up(cx)?;
            let down = self.poll_down(cx)?;
            match up.is_ready() && down.is_ready() {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            }
        })
        .await
    }
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while !self.ended {
            while !self.under_way.is_empty() {
                match ready!(Pin::new(&mut *to).poll_write(cx, &self.under_way))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    n => self.under_way.advance(n),
                }
            }
            if self.ends {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.ended = true;
                break;
            }
            ready!(Pin::new(&mut *to).poll_flush(cx))?;
            // A buffer for the length of this read: nothing is kept for a silent connection.
            let mut read = BytesMut::new();
            match ready!(from.poll_fill(cx, &mut read))? {
                0 => self.ends = true,
                _ => self.under_way = read,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::net::Socket;

    fn pair() -> (UnixStream, Stream) {
        let (a, b) = UnixStream::pair().unwrap();
        (a, Stream::Plain(Socket::Unix(b)))
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
        let ((mut client, near), (mut server, far)) = (pair(), pair());
        let mut duplex = Duplex::new(near, far, BytesMut::from("early "), BytesMut::new());
        let runs = tokio::spawn(async move { duplex.run().await });
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        server.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "early question");
        let answer = vec![7; 1 << 20];
        let (wrote, read) = tokio::join!(
            async {
                server.write_all(&answer).await.unwrap();
                server.shutdown().await
            },
            async {
                let mut heard = Vec::new();
                client.read_to_end(&mut heard).await.map(|_| heard)
            }
        );
        wrote.unwrap();
        assert!(read.unwrap() == answer, "the way back is open for as long as it is used");
        runs.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_does_not_read_holds_the_other_up_and_what_is_under_way_is_kept() {
        let ((client, near), (mut server, far)) = (pair(), pair());
        let mut duplex = Duplex::new(near, far, BytesMut::new(), BytesMut::new());
        let mut written = 0;
        // Until the buffers of both sockets are full and one read is held here.
        loop {
            match client.try_write(&[1; 4096]) {
                Ok(n) => written += n,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
            let before = duplex.up.under_way.len();
            let polled = std::future::poll_fn(|cx| Poll::Ready(duplex.poll_up(cx))).await;
            assert!(polled.is_pending());
            tokio::task::yield_now().await;
            if before > 0 && duplex.up.under_way.len() == before {
                break;
            }
        }
        assert!(duplex.up.under_way.len() <= super::super::stream::READ_SIZE);
        drop(client);
        let (up, down) = duplex.under_way();
        assert!(down.is_empty());
        let up = up.len();
        let Duplex { mut near, far, .. } = duplex;
        let mut rest = Vec::new();
        let (_, read) = tokio::join!(
            async {
                near.read_to_end(&mut rest).await.unwrap();
                drop(far);
            },
            async {
                let mut heard = Vec::new();
                server.read_to_end(&mut heard).await.unwrap();
                heard.len()
            }
        );
        assert_eq!(read + up + rest.len(), written, "nothing is lost, nothing doubled");
    }
}
