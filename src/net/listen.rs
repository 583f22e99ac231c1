//! Listening sockets, as values: bound here, given to the workers, taken up by each on its own
//! runtime.
//!
//! On TCP each worker has a socket of its own on the same address (SO_REUSEPORT), so the kernel
//! spreads clients over workers and no accept is handed from thread to thread. A path can be bound
//! only once: for the Unix socket the workers have copies of one descriptor, and whoever is awake
//! first takes the client.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket as Raw, Type};

use super::socket::{Socket, path_in};
use crate::telemetry::ClientAddr;

const BACKLOG: i32 = 1024;

/// Where to listen on a Unix socket, and who may connect: the bits of chmod.
#[derive(Debug, Clone, Copy)]
pub struct UnixPlace<'a> {
    pub directory: &'a Path,
    pub mode: u32,
}

/// All that pgshunt listens on.
#[derive(Debug)]
pub struct Bound {
    /// The port is known even if the kernel was to choose it.
    pub addr: SocketAddr,
    /// One for each worker.
    pub listeners: Vec<Listener>,
    /// Removed when this is dropped.
    pub unix: Option<SocketFile>,
}

/// What one worker accepts clients from, not yet known to any runtime.
#[derive(Debug)]
pub struct Listener {
    pub tcp: std::net::TcpListener,
    pub unix: Option<std::os::unix::net::UnixListener>,
}

/// Binds for so many workers. The Unix socket's name has the TCP port in it.
pub fn bind(addr: SocketAddr, unix: Option<UnixPlace<'_>>, workers: usize) -> io::Result<Bound> {
    let first = bind_tcp(addr)?;
    let addr = first.local_addr()?;
    let mut tcp = vec![first];
    for _ in 1..workers {
        tcp.push(bind_tcp(addr)?);
    }
    let (socket, file) = match unix {
        Some(place) => {
            let path = path_in(place.directory, addr.port());
            let at_path =
                |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
            let (socket, file) = SocketFile::bind(&path, place.mode).map_err(at_path)?;
            (Some(socket), Some(file))
        }
        None => (None, None),
    };
    let mut listeners = Vec::new();
    for tcp in tcp {
        let unix = socket.as_ref().map(|s| s.try_clone()).transpose()?;
        listeners.push(Listener { tcp, unix });
    }
    Ok(Bound { addr, listeners, unix: file })
}

fn bind_tcp(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Raw::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The name of a Unix socket, and the lock that makes it ours.
///
/// The lock file is called as PostgreSQL calls it and holds our process id, so a PostgreSQL server
/// does not take the name from us; that we take none from a living server is tried by connecting.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    #[expect(dead_code, reason = "held for its Drop: it goes after the socket")]
    lock: Lock,
}

#[derive(Debug)]
struct Lock {
    path: PathBuf,
    #[expect(dead_code, reason = "held for the lock on it")]
    file: File,
}

impl SocketFile {
    fn bind(path: &Path, mode: u32) -> io::Result<(std::os::unix::net::UnixListener, Self)> {
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = Lock::take(PathBuf::from(lock))?;
        remove_stale(path)?;
        let socket = Raw::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = Self { path: path.to_owned(), lock };
        // Before anybody can connect.
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        Ok((socket.into(), file))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        remove(&self.path);
    }
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
            let mut file = options.open(&path)?;
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
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                return Ok(Self { path, file });
            }
        }
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

/// What a worker accepts clients from.
#[derive(Debug)]
pub struct Accepting {
    tcp: tokio::net::TcpListener,
    unix: Option<tokio::net::UnixListener>,
}

impl Listener {
    /// Makes the sockets known to the current runtime.
    pub fn register(self) -> io::Result<Accepting> {
        Ok(Accepting {
            tcp: tokio::net::TcpListener::from_std(self.tcp)?,
            unix: self.unix.map(tokio::net::UnixListener::from_std).transpose()?,
        })
    }
}

impl Accepting {
    pub async fn accept(&self) -> io::Result<(Socket, ClientAddr)> {
        let tcp = async {
            let (stream, addr) = self.tcp.accept().await?;
            Ok((Socket::Tcp(stream), ClientAddr::Tcp(addr)))
        };
        let Some(unix) = &self.unix else { return tcp.await };
        tokio::select! {
            accepted = tcp => accepted,
            accepted = unix.accept() => Ok((Socket::Unix(accepted?.0), ClientAddr::Unix)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

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
        let bind = |mode| SocketFile::bind(&path, mode);
        let (_socket, file) = bind(0o770).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o770);
        UnixStream::connect(&path).unwrap();
        assert_eq!(bind(0o777).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        let lock = dir.0.join(".s.PGSQL.5432.lock");
        let pid = std::fs::read_to_string(&lock).unwrap();
        assert_eq!(pid.trim(), std::process::id().to_string());
        drop(file);
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
