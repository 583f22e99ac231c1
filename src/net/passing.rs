//! Messages with file descriptors between two processes of one machine, over a Unix socket.
//!
//! A message is its length (four bytes, big-endian), with which the descriptors travel
//! (`SCM_RIGHTS`, unix(7)), and then that many bytes of JSON.

#![expect(unsafe_code, reason = "descriptors come by number")]

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use sendfd::{RecvWithFd, SendWithFd};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Descriptors of one message (`SCM_MAX_FD` in Linux is 253).
pub const MOST: usize = 250;
/// A longer message is none of ours.
const LONGEST: usize = 1 << 30;

/// One end; it blocks.
#[derive(Debug)]
pub struct Line(UnixStream);

impl Line {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self(stream))
    }

    /// A second handle on the same end, so that one thread reads and another writes.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    pub fn send(&self, message: &impl Serialize, with: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        if with.len() > MOST || body.len() > LONGEST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = (body.len() as u32).to_be_bytes();
        let fds: Vec<RawFd> = with.iter().map(AsRawFd::as_raw_fd).collect();
        // The descriptors go with the first byte, so there is nothing to send again.
        let sent = if fds.is_empty() { 0 } else { self.0.send_with_fd(&length, &fds)? };
        (&self.0).write_all(&length[sent..])?;
        (&self.0).write_all(&body)
    }

    /// The next message; `None`: the other end is closed.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut length = [0; 4];
        let mut raw = [-1; MOST];
        let (got, count) = self.0.recv_with_fd(&mut length, &mut raw)?;
        // SAFETY: the kernel has just made these descriptors for us.
        let fds = raw[..count].iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let fds: Vec<OwnedFd> = fds.collect();
        if got == 0 {
            return Ok(None);
        }
        (&self.0).read_exact(&mut length[got..])?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = Vec::new();
        (&self.0).take(length as u64).read_to_end(&mut body)?;
        if body.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A copy is closed when the process executes another program.
        let fds = fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok(Some((serde_json::from_slice(&body)?, fds)))
    }

    /// Wakes whoever reads at either end: it finds the line closed.
    pub fn hang_up(&self) {
        // It may be closed at the other end.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_listening_socket_changes_hands() {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Line::new(here).unwrap(), Line::new(there).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut waiting = TcpStream::connect(addr).unwrap();
        let long = "x".repeat(1 << 20);
        let sender = std::thread::spawn(move || {
            here.send(&"a socket", &[listener.as_fd()]).unwrap();
            drop(listener);
            here.send(&long, &[]).unwrap();
        });
        let (message, mut fds) = there.receive::<String>().unwrap().unwrap();
        assert_eq!((message.as_str(), fds.len()), ("a socket", 1));
        let listener = TcpListener::from(fds.remove(0));
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        waiting.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello", "who waited at the old owner's door is let in by the new one");
        let (message, fds) = there.receive::<String>().unwrap().unwrap();
        assert_eq!((message.len(), fds.len()), (1 << 20, 0));
        sender.join().unwrap();
        assert!(there.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn rubbish_is_an_error() {
        for bytes in [&b"\0\0\0\x02{]"[..], b"\xff\xff\xff\xff", b"\0\0", b"\0\0\0\x09\"short\""] {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(bytes).unwrap();
            drop(here);
            assert!(Line::new(there).unwrap().receive::<String>().is_err(), "{bytes:?}");
        }
    }
}
