//! One end of a connection: TCP, or a Unix socket in a directory.
//!
//! As in libpq, a host that begins with a slash is the directory of the socket `.s.PGSQL.<port>`.

#![expect(unsafe_code, reason = "the C library tells the user at the other end")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Whether a node's host is a directory on this machine.
pub fn is_directory(host: &str) -> bool {
    host.starts_with('/')
}

/// Where PostgreSQL, and whoever speaks like it, listens in a directory.
pub fn path_in(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

/// The user that the process at the other end of a Unix socket ran as.
pub fn peer_uid(stream: &std::os::unix::net::UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the struct is as long as is said.
    let failed = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(stream),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &mut len,
        )
    };
    if failed == 0 { Ok(peer.uid) } else { Err(io::Error::last_os_error()) }
}

/// The system's name for a user. It may have to ask a directory server: this blocks.
pub fn user_name(uid: u32) -> Option<String> {
    // SAFETY: all zeroes are valid for this struct of numbers and pointers.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut buffer: Vec<libc::c_char> = vec![0; 16 << 10];
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the length is the buffer's.
    let failed =
        unsafe { libc::getpwuid_r(uid, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found) };
    if failed != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the entry was found, so its name points to a C string within the buffer.
    let name = unsafe { std::ffi::CStr::from_ptr(entry.pw_name) };
    name.to_str().ok().map(str::to_owned)
}

impl Socket {
    /// Connects to a node.
    pub async fn connect(host: &str, port: u16) -> io::Result<Self> {
        let socket = if is_directory(host) {
            Self::Unix(UnixStream::connect(path_in(Path::new(host), port)).await?)
        } else {
            Self::Tcp(TcpStream::connect((host, port)).await?)
        };
        socket.tune()?;
        Ok(socket)
    }

    /// Connected already, by another process of ours.
    pub fn given(fd: OwnedFd) -> io::Result<Self> {
        let socket = socket2::Socket::from(fd);
        socket.set_nonblocking(true)?;
        match socket.domain()? {
            socket2::Domain::UNIX => Ok(Self::Unix(UnixStream::from_std(socket.into())?)),
            _ => Ok(Self::Tcp(TcpStream::from_std(socket.into())?)),
        }
    }

    /// No Nagle delay; keepalive, so that a peer that vanished is noticed.
    pub fn tune(&self) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(10))
            .with_retries(6);
        SockRef::from(stream).set_tcp_keepalive(&keepalive)
    }

    /// The other end of a TCP connection, and ours.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Self::Tcp(s) => Some((s.peer_addr().ok()?, s.local_addr().ok()?)),
            Self::Unix(_) => None,
        }
    }

    /// The process on the other side of a Unix socket; 0: not known.
    pub fn peer_pid(&self) -> i32 {
        match self {
            Self::Tcp(_) => 0,
            Self::Unix(s) => s.peer_cred().ok().and_then(|c| c.pid()).unwrap_or(0),
        }
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// What is there to be read now; an error of kind `WouldBlock` when it is nothing.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.try_read(buf),
            Self::Unix(s) => s.try_read(buf),
        }
    }

    /// Whether nothing is there to be read now. Asked of the system: what the runtime knows is older.
    pub fn is_empty(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        !matches!(SockRef::from(self).peek(&mut byte), Ok(n) if n > 0)
    }

    /// The user the process on the other side of a Unix socket ran as when it connected.
    pub fn peer_uid(&self) -> io::Result<u32> {
        match self {
            Self::Tcp(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Unix(s) => Ok(s.peer_cred()?.uid()),
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
