//! The stream under a control connection: it looks at each message of the node before tokio-postgres
//! does, which would answer any request for a password, compute any number of iterations and read a
//! message of any length.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{self, ChannelBinding, TlsConnect};

use crate::auth::{NodeTrust, Unsafe, check_server_first};
use crate::net::Stream;
use crate::wire::frame::HEADER;

/// A message of the login, in bytes.
const MAX_LOGIN_FRAME: usize = 64 << 10;
/// All messages of the login.
const MAX_LOGIN: usize = 1 << 20;
/// A message after it. The longest are rows of the catalogs: a table's definition, a statistic.
const MAX_FRAME: usize = 64 << 20;
/// The rows of one answer, which is read whole. A catalog of a million shards has a quarter of it.
const MAX_ANSWER: usize = 256 << 20;

/// Why nothing more is read from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    #[error(transparent)]
    Password(#[from] Unsafe),
    #[error("it sent a message that is too long, or none at all: is it PostgreSQL?")]
    Length,
    #[error("its answer is longer than 256 MB")]
    Answer,
}

/// A connection to a node that is not believed everything.
#[derive(Debug)]
pub struct Guarded {
    stream: Stream,
    frames: Frames,
}

impl Guarded {
    pub fn new(stream: Stream, trust: NodeTrust) -> Self {
        Self { stream, frames: Frames::new(trust) }
    }
}

/// What the node's messages are, as their bytes come by.
#[derive(Debug)]
struct Frames {
    trust: NodeTrust,
    /// The next message's tag and length, as far as they are here.
    header: [u8; HEADER],
    have: usize,
    /// Bytes of the message that are still to come.
    left: usize,
    /// The body of an authentication request.
    body: Vec<u8>,
    /// Bytes since the login began; `None` behind it.
    login: Option<usize>,
    /// Bytes of rows since the last ReadyForQuery.
    rows: usize,
}

impl Frames {
    fn new(trust: NodeTrust) -> Self {
        Self {
            trust,
            header: [0; HEADER],
            have: 0,
            left: 0,
            body: Vec::new(),
            login: Some(0),
            rows: 0,
        }
    }

    fn see(&mut self, mut bytes: &[u8]) -> Result<(), Objection> {
        while !bytes.is_empty() {
            if self.have < HEADER {
                let n = bytes.len().min(HEADER - self.have);
                self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
                self.have += n;
                bytes = &bytes[n..];
                if self.have == HEADER {
                    self.begins()?;
                }
            } else {
                let (now, later) = bytes.split_at(bytes.len().min(self.left));
                if self.is_request() {
                    self.body.extend_from_slice(now);
                }
                self.left -= now.len();
                bytes = later;
            }
            if self.have == HEADER && self.left == 0 {
                self.ends()?;
            }
        }
        Ok(())
    }

    fn is_request(&self) -> bool {
        self.login.is_some() && self.header[0] == b'R'
    }

    /// The header is here.
    fn begins(&mut self) -> Result<(), Objection> {
        let [tag, length @ ..] = self.header;
        let whole = u32::from_be_bytes(length) as usize;
        let limit = if self.login.is_some() { MAX_LOGIN_FRAME } else { MAX_FRAME };
        if !(4..=limit).contains(&whole) {
            return Err(Objection::Length);
        }
        self.left = whole - 4;
        if let Some(seen) = &mut self.login {
            *seen += whole;
            if *seen > MAX_LOGIN {
                return Err(Objection::Length);
            }
        }
        if tag == b'D' {
            self.rows += whole;
            if self.rows > MAX_ANSWER {
                return Err(Objection::Answer);
            }
        }
        Ok(())
    }

    /// The message is here.
    fn ends(&mut self) -> Result<(), Objection> {
        self.have = 0;
        if self.is_request() {
            let body = std::mem::take(&mut self.body);
            let (code, payload) = body.split_first_chunk().ok_or(Objection::Length)?;
            let code = i32::from_be_bytes(*code);
            self.trust.check(code, payload)?;
            if code == 11 {
                check_server_first(payload)?;
            }
        }
        if self.header[0] == b'Z' {
            (self.login, self.rows) = (None, 0);
        }
        Ok(())
    }
}

/// What tokio-postgres is to ask for, where the handshake is done already: nothing.
pub struct Handed;

impl TlsConnect<Guarded> for Handed {
    type Stream = Guarded;
    type Error = io::Error;
    type Future = Ready<io::Result<Guarded>>;

    fn connect(self, stream: Guarded) -> Self::Future {
        ready(Ok(stream))
    }
}

impl tls::TlsStream for Guarded {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.frames.trust.binding {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.clone()),
            None => ChannelBinding::none(),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        Poll::Ready(
            this.frames.see(read).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
        )
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PasswordMethod;

    fn frames() -> Frames {
        let weakest = PasswordMethod::ScramSha256;
        Frames::new(NodeTrust { binding: None, must_bind: false, weakest })
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    /// However the bytes come.
    fn seen(bytes: &[u8]) -> Result<(), Objection> {
        let whole = frames().see(bytes);
        let mut by_one = frames();
        let pieces = bytes.iter().try_for_each(|b| by_one.see(&[*b]));
        assert_eq!(whole, pieces);
        whole
    }

    fn logged_in() -> Vec<u8> {
        [message(b'R', &[0; 4]), message(b'S', b"a\0b\0"), message(b'Z', b"I")].concat()
    }

    #[test]
    fn requests_for_a_password_are_looked_at_before_they_are_answered() {
        assert_eq!(seen(&message(b'R', &[0, 0, 0, 3])), Err(Unsafe::Clear.into()));
        assert_eq!(seen(&message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4])), Err(Unsafe::Md5.into()));
        assert_eq!(seen(&message(b'R', &[0, 0])), Err(Objection::Length));
        let asks = |n: u32| {
            let first = format!("r=abc,s=c2FsdA==,i={n}");
            message(b'R', &[&[0, 0, 0, 11], first.as_bytes()].concat())
        };
        assert_eq!(seen(&asks(4096)), Ok(()));
        assert_eq!(seen(&asks(u32::MAX)), Err(Unsafe::Iterations.into()));
        assert_eq!(seen(&logged_in()), Ok(()));
    }

    #[test]
    fn no_message_and_no_answer_is_longer_than_what_may_be_kept() {
        let long = |tag, n: usize| [&[tag], &(n as u32).to_be_bytes()[..]].concat();
        assert_eq!(seen(&long(b'E', MAX_LOGIN_FRAME + 1)), Err(Objection::Length));
        assert_eq!(seen(&long(b'N', 3)), Err(Objection::Length));
        let notices = message(b'N', &[b'x'; 60_000]).repeat(20);
        assert_eq!(frames().see(&notices), Err(Objection::Length), "a login of any length");
        let after = |bytes: &[u8]| {
            let mut frames = frames();
            frames.see(&logged_in())?;
            frames.see(bytes)
        };
        assert_eq!(after(&long(b'D', MAX_FRAME)), Ok(()));
        assert_eq!(after(&long(b'D', MAX_FRAME + 1)), Err(Objection::Length));
        assert_eq!(after(&long(b'D', 0x7fff_ffff)), Err(Objection::Length));
        let row = message(b'D', &vec![0; 16 << 20]);
        let mut talking = frames();
        talking.see(&logged_in()).unwrap();
        for _ in 0..3 {
            for _ in 0..15 {
                talking.see(&row).unwrap();
            }
            talking.see(&message(b'Z', b"I")).unwrap();
        }
        let endless = (0..17).try_for_each(|_| talking.see(&row));
        assert_eq!(endless, Err(Objection::Answer));
    }
}
