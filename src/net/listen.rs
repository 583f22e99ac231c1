//! Listening sockets, as values: bound here or given by another process, handed to the workers, taken
//! up by each on its own runtime.
//!
//! On TCP each worker has a socket of its own on the same address (SO_REUSEPORT), so the kernel
//! spreads clients over workers and no accept is handed from thread to thread. A path can be bound
//! only once: for the Unix socket the workers have copies of one descriptor, and whoever is awake
//! first takes the client.

#![expect(unsafe_code, reason = "a file is locked by the C library")]

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket as Raw, Type};

use super::socket::{Socket, path_in};
use crate::telemetry::ClientAddr;

const BACKLOG: i32 = 1024;

/// A socket that listens, not yet known to any runtime.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// On TCP. Port 0 lets the kernel choose; bind the others to what it chose.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Raw::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Listener {
    /// Bound already, by systemd or by another process of ours.
    pub fn given(fd: OwnedFd) -> io::Result<Self> {
        let socket = Raw::from(fd);
        socket.set_nonblocking(true)?;
        match socket.local_addr()? {
            addr if addr.is_unix() => Ok(Self::Unix(socket.into())),
            addr if addr.as_socket().is_some() => Ok(Self::Tcp(socket.into())),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither TCP nor a Unix socket")),
        }
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Where clients find it in the network.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(s) => s.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(s) => s.try_clone().map(Self::Tcp),
            Self::Unix(s) => s.try_clone().map(Self::Unix),
        }
    }

    /// Makes it known to the current runtime.
    pub fn register(self) -> io::Result<Accepting> {
        match self {
            Self::Tcp(s) => tokio::net::TcpListener::from_std(s).map(Accepting::Tcp),
            Self::Unix(s) => tokio::net::UnixListener::from_std(s).map(Accepting::Unix),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        }
    }
}

/// What a worker accepts clients from.
#[derive(Debug)]
pub enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Accepting {
    pub async fn accept(&self) -> io::Result<(Socket, ClientAddr)> {
        match self {
            Self::Tcp(s) => {
                let (stream, addr) = s.accept().await?;
                Ok((Socket::Tcp(stream), ClientAddr::Tcp(addr)))
            }
            Self::Unix(s) => Ok((Socket::Unix(s.accept().await?.0), ClientAddr::Unix)),
        }
    }
}

/// The name of a Unix socket, and the lock that makes it ours.
///
/// The lock file is called as PostgreSQL calls it and holds our process id, so a PostgreSQL server
/// does not take the name from us; that we take none from a living server is tried by connecting.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Goes after the socket.
    lock: Lock,
}

#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
    /// It is another process's now.
    left: bool,
}

impl SocketFile {
    /// Binds the socket that clients of this port look for in this directory. `mode`, the bits of
    /// chmod, says who may connect.
    pub fn bind(directory: &Path, port: u16, mode: u32) -> io::Result<(Listener, Self)> {
        let path = path_in(directory, port);
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        Self::bind_at(&path, mode).map_err(named)
    }

    fn bind_at(path: &Path, mode: u32) -> io::Result<(Listener, Self)> {
        let lock = Lock::take(lock_of(path))?;
        remove_stale(path)?;
        let socket = Raw::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = Self { path: path.to_owned(), lock };
        // Before anybody can connect.
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        Ok((Listener::Unix(socket.into()), file))
    }

    /// Takes over what [`SocketFile::lock`] was in another process, with the socket it is of.
    pub fn inherit(socket: &Listener, lock: OwnedFd) -> io::Result<Self> {
        let Listener::Unix(socket) = socket else { return Err(io::ErrorKind::InvalidInput.into()) };
        let addr = socket.local_addr()?;
        let path = addr.as_pathname().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let mut lock = Lock { path: lock_of(&path), file: File::from(lock), left: false };
        lock.sign()?;
        Ok(Self { path, lock })
    }

    /// What makes the name ours, for a process that takes over.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.file.as_fd()
    }

    /// Another process has taken over: nothing is removed.
    pub fn leave(mut self) {
        self.lock.left = true;
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.lock.left {
            remove(&self.path);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.left {
            remove(&self.path);
        }
    }
}

fn lock_of(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot be removed");
    }
}

impl Lock {
    /// The file is made if it is not there.
    fn take(path: PathBuf) -> io::Result<Self> {
        let in_use = || io::Error::new(io::ErrorKind::AddrInUse, "another pgshunt listens there");
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            // In a directory of everybody's, somebody's link would lead us to a file of his choice.
            options.custom_flags(libc::O_NOFOLLOW);
            let file = options.open(&path)?;
            // SAFETY: the descriptor is open for as long as `file` lives.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
                let error = io::Error::last_os_error();
                return Err(if error.kind() == io::ErrorKind::WouldBlock {
                    in_use()
                } else {
                    error
                });
            }
            // Its last owner may have removed it between our two steps.
            let ours = file.metadata()?.ino();
            if std::fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                let mut lock = Self { path, file, left: false };
                lock.sign()?;
                return Ok(lock);
            }
        }
    }

    fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(there) if there.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "not a socket")),
    }
    let probe = Raw::new(Domain::UNIX, Type::STREAM, None)?;
    // A server too busy to accept must not keep us waiting: it is alive.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(()) | Err(_) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pgshunt-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_socket_is_taken_from_the_dead_and_never_from_the_living() {
        let dir = Directory::new("listen");
        let path = path_in(&dir.0, 5432);
        let bind = |mode| SocketFile::bind(&dir.0, 5432, mode);
        let (socket, file) = bind(0o770).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o770);
        UnixStream::connect(&path).unwrap();
        assert_eq!(bind(0o777).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        let lock = dir.0.join(".s.PGSQL.5432.lock");
        let pid = std::fs::read_to_string(&lock).unwrap();
        assert_eq!(pid.trim(), std::process::id().to_string());

        // A successor has copies of both, and it stays locked when we leave.
        let theirs = Listener::given(socket.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let lock_too = file.lock().try_clone_to_owned().unwrap();
        let their_file = SocketFile::inherit(&theirs, lock_too).unwrap();
        assert_eq!(their_file.path(), path);
        drop(socket);
        file.leave();
        UnixStream::connect(&path).unwrap();
        assert_eq!(bind(0o777).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read_to_string(&lock).unwrap(), pid);
        drop(their_file);
        assert!(!path.exists() && !lock.exists());

        // Killed, it leaves both behind.
        drop(UnixListener::bind(&path).unwrap());
        std::fs::write(&lock, "12345\nmore\n").unwrap();
        assert!(path.exists());
        let (_socket, file) = bind(0o777).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(file);

        // Alive, and no friend of locks.
        let other = UnixListener::bind(&path).unwrap();
        assert_eq!(bind(0o777).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(!lock.exists() && path.exists(), "what is not ours stays");
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind(0o777).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
