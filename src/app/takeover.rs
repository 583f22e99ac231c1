//! A new process takes over from a running one: its listening sockets, then its clients, one by one
//! as each comes to rest. No connection is refused and no transaction broken.
//!
//! ```text
//!   successor                                  predecessor
//!   Hello ───────────────────────────────────► gives up the right to change the catalog,
//!                                              lets go of its moves
//!   reads the catalog      ◄────────── Sockets (listening sockets)
//!   accepts clients
//!   Serving ─────────────────────────────────► stops accepting; drains
//!   serves it              ◄─────── Parcel: a client (its sockets), as each comes to rest
//!   Cancel ──────────────────────────────────► of a client that is still there
//!   claims the catalog,    ◄──────────── (closes: its last client is gone)
//!   carries the moves on                       passes bytes on for clients under TLS
//! ```
//!
//! Until Serving the predecessor can go on as if nothing had been; if it dies later, its successor
//! finds what it left as after any crash. They meet at a Unix socket, `server.takeover_socket`, and
//! only processes of the same user are listened to.

#![expect(unsafe_code, reason = "the process asks for its own user")]

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::client::{Elsewhere, Parcel};
use crate::net::listen::{Listener, SocketFile};
use crate::net::passing::Line;
use crate::net::socket;

/// The form of what is said here, sessions and all. Only processes of one form understand each other:
/// another number whenever what was written before would be read wrongly.
const FORM: u32 = 3;

/// How long the other side may take for one step: reading the catalog is the longest.
const STEP: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
enum ToSuccessor {
    /// Come with the sockets that clients connect to, and behind them the one for metrics and the
    /// lock on the Unix socket's name.
    Sockets {
        metrics: bool,
        lock: bool,
        /// New clients' pids begin here: none is a handed over client's.
        next_pid: i32,
    },
    /// It cannot be now.
    Refused(String),
    Parcel(Parcel),
}

#[derive(Serialize, Deserialize)]
enum ToPredecessor {
    Hello {
        version: String,
        form: u32,
    },
    Serving,
    /// Come with the connection it came on: it stays open until it has been carried out.
    Cancel {
        pid: i32,
        secret: Vec<u8>,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    #[error("server.takeover_socket is not configured")]
    NoSocket,
    #[error("no pgshunt answers at {path}: {error}")]
    Nobody { path: PathBuf, error: io::Error },
    #[error("the running pgshunt cannot be taken over from now: {0}")]
    Refused(String),
    #[error("who answers at server.takeover_socket runs as another user ({0})")]
    Stranger(u32),
    #[error("the running pgshunt broke the talk off")]
    HungUp,
    #[error("taking over: {0}")]
    Io(#[from] io::Error),
}

fn unexpected(what: &str) -> TakeoverError {
    TakeoverError::Io(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, TakeoverError> + Send + 'static,
) -> Result<T, TakeoverError> {
    match tokio::time::timeout(STEP, tokio::task::spawn_blocking(f)).await {
        Ok(Ok(result)) => result,
        Ok(Err(panicked)) => Err(io::Error::other(panicked).into()),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

/// The sockets a predecessor has handed over.
pub struct Inheritance {
    pub clients: Vec<Listener>,
    pub metrics: Option<TcpListener>,
    /// The name of the Unix socket, unless that is systemd's.
    pub unix: Option<SocketFile>,
    pub next_pid: i32,
}

/// The process before this one.
pub struct Predecessor {
    line: Line,
}

impl Predecessor {
    /// Asks the running process for its sockets. From its answer on neither it nor we may change
    /// the catalog, until it is gone.
    pub async fn meet(path: &Path) -> Result<(Self, Inheritance), TakeoverError> {
        let path = path.to_owned();
        blocking(move || {
            let stream = std::os::unix::net::UnixStream::connect(&path)
                .map_err(|error| TakeoverError::Nobody { path, error })?;
            // Another user's process would get our clients, or give us sockets of its own.
            let theirs = socket::peer_uid(&stream)?;
            // SAFETY: reads a number of this process.
            if theirs != unsafe { libc::geteuid() } && theirs != 0 {
                return Err(TakeoverError::Stranger(theirs));
            }
            let line = Line::new(stream)?;
            let version = env!("CARGO_PKG_VERSION").to_owned();
            line.send(&ToPredecessor::Hello { version, form: FORM }, &[])?;
            let (answer, mut fds) = line.receive()?.ok_or(TakeoverError::HungUp)?;
            let (metrics, lock, next_pid) = match answer {
                ToSuccessor::Sockets { metrics, lock, next_pid } => (metrics, lock, next_pid),
                ToSuccessor::Refused(why) => return Err(TakeoverError::Refused(why)),
                ToSuccessor::Parcel(_) => return Err(unexpected("a client before its time")),
            };
            let lock = if lock { fds.pop() } else { None };
            let metrics = if metrics { fds.pop().map(TcpListener::from) } else { None };
            let clients = fds.into_iter().map(Listener::given).collect::<io::Result<Vec<_>>>()?;
            if clients.is_empty() {
                return Err(unexpected("no listening socket"));
            }
            let unix = match (lock, clients.iter().find(|s| s.is_unix())) {
                (Some(lock), Some(socket)) => Some(SocketFile::inherit(socket, lock)?),
                _ => None,
            };
            Ok((Self { line }, Inheritance { clients, metrics, unix, next_pid }))
        })
        .await
    }

    /// We are about to serve: it may let go.
    pub fn serving(&self) -> Result<(), TakeoverError> {
        Ok(self.line.send(&ToPredecessor::Serving, &[])?)
    }

    /// Its clients come to `adopt` until it is gone, which ends this.
    pub async fn relieve(
        &self,
        mut adopt: impl FnMut(Parcel, Vec<OwnedFd>) + Send + 'static,
    ) -> Result<(), TakeoverError> {
        let line = self.line.try_clone()?;
        let received = tokio::task::spawn_blocking(move || {
            let mut count = 0;
            while let Some((message, fds)) = line.receive()? {
                let ToSuccessor::Parcel(parcel) = message else {
                    return Err(unexpected("something else than a client"));
                };
                count += usize::from(parcel.is_client());
                adopt(parcel, fds);
            }
            tracing::info!(clients = count, "the predecessor is gone");
            Ok(())
        });
        received.await.map_err(io::Error::other)?
    }

    /// Passes cancels of its clients on; after [`Predecessor::serving`].
    pub fn canceller(&self) -> Result<Elsewhere, TakeoverError> {
        let line = self.line.try_clone()?;
        Ok(Box::new(move |pid, secret, sender| {
            let message = ToPredecessor::Cancel { pid, secret: secret.to_vec() };
            // When it is gone, so are its clients.
            let _ = line.send(&message, sender.as_slice());
        }))
    }
}

/// Where successors knock.
pub struct Door {
    listener: UnixListener,
}

impl Door {
    /// Replaces what an earlier process left there.
    pub fn open(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::other("there is a file that is no socket")),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener })
    }

    /// The next process that wants to take over.
    pub async fn knock(&self) -> Result<Line, TakeoverError> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            // SAFETY: reads a number of this process.
            let ours = unsafe { libc::geteuid() };
            let theirs = stream.peer_cred()?.uid();
            if theirs != ours && theirs != 0 {
                tracing::warn!(uid = theirs, "another user wanted to take over");
                continue;
            }
            let line = Line::new(stream.into_std()?)?;
            let heard = blocking(move || Ok((line.receive::<ToPredecessor>()?, line))).await;
            match heard {
                Ok((Some((ToPredecessor::Hello { version, form }, _)), line)) if form != FORM => {
                    tracing::warn!(version, form, "a pgshunt of another kind wanted to take over");
                    refuse(&line, "it hands sessions over in another form: restart it");
                }
                Ok((Some((ToPredecessor::Hello { version, .. }, _)), line)) => {
                    tracing::info!(version, "another pgshunt takes over");
                    return Ok(line);
                }
                Ok(_) => tracing::warn!("a stranger at the takeover socket"),
                Err(error) => tracing::warn!(%error, "at the takeover socket"),
            }
        }
    }
}

pub fn refuse(line: &Line, why: &str) {
    // Who is gone needs no answer.
    let _ = line.send(&ToSuccessor::Refused(why.to_owned()), &[]);
}

/// Hands the sockets over; returns when the successor serves.
pub async fn hand_sockets_over(
    line: &Line,
    clients: &[Listener],
    metrics: Option<&TcpListener>,
    unix: Option<&SocketFile>,
    next_pid: i32,
) -> Result<(), TakeoverError> {
    let mut all: Vec<_> = clients.iter().map(|s| s.as_fd()).collect();
    all.extend(metrics.map(|s| s.as_fd()));
    all.extend(unix.map(SocketFile::lock));
    let (metrics, lock) = (metrics.is_some(), unix.is_some());
    line.send(&ToSuccessor::Sockets { metrics, lock, next_pid }, &all)?;
    let line = line.try_clone()?;
    match blocking(move || Ok(line.receive::<ToPredecessor>()?)).await? {
        Some((ToPredecessor::Serving, _)) => Ok(()),
        Some(_) => Err(unexpected("something else than Serving")),
        None => Err(TakeoverError::HungUp),
    }
}

/// Takes clients, and passes them on; ends when `clients` has no sender any more.
pub fn hand_clients_over(line: Line, clients: &mpsc::Receiver<(Parcel, Vec<OwnedFd>)>) -> usize {
    let mut count = 0;
    for (parcel, fds) in clients {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        count += usize::from(parcel.is_client());
        if let Err(error) = line.send(&ToSuccessor::Parcel(parcel), &fds) {
            tracing::error!(%error, "the successor is gone, and a client with it");
        }
    }
    line.hang_up();
    count
}

/// Hears which clients that are still here are to be cancelled; ends with the line.
pub fn hear_cancels(line: &Line, mut cancel: impl FnMut(i32, Vec<u8>, Vec<OwnedFd>)) {
    while let Ok(Some((message, sender))) = line.receive() {
        if let ToPredecessor::Cancel { pid, secret } = message {
            cancel(pid, secret, sender);
        }
    }
}
