//! A client goes from one pgshunt process to its successor, socket and session, and notices nothing.
//!
//! Only at rest: what it has been answered it has been sent, and what it sends next the successor
//! reads. Who does not come to rest before the deadline is told that the server shuts down, as ever.
//!
//! The keys of a TLS session stay: who is under TLS goes with one end of a socket pair, behind which
//! this process goes on to encrypt and decrypt ([`crate::net::pump`]).

mod console;
mod replication;
mod session;

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::cancel::Registration;
use super::listeners::Subscription;
use super::shared::Shared;
use super::worker::Worker;
use crate::net::{Socket, Stream};
use crate::telemetry::{ClientAddr, ClientInfo, NewClient};
use console::Console;
use replication::Replication;
use session::Session;

pub use console::welcome;

/// What one process gives the other; sockets go with it.
#[derive(Serialize, Deserialize)]
pub enum Parcel {
    /// A client is about to come that listens. It hears there what comes behind the mark.
    Listens {
        database: String,
        channels: Vec<String>,
        mark: String,
    },
    Session(Box<Session>),
    Replication(Box<Replication>),
    Console(Box<Console>),
}

impl Parcel {
    pub fn is_client(&self) -> bool {
        !matches!(self, Self::Listens { .. })
    }
}

/// To the successor.
pub type Successor = Sender<(Parcel, Vec<OwnedFd>)>;

/// Who a client is.
#[derive(Serialize, Deserialize)]
struct Who {
    user: String,
    database: String,
    application_name: String,
    addr: ClientAddr,
    /// Our end of its connection.
    local: Option<SocketAddr>,
    tls: bool,
    /// When it connected, and when its last request came.
    since: (SystemTime, SystemTime),
    /// Its cancel key.
    pid: i32,
    secret: Vec<u8>,
}

impl Who {
    fn of(info: &ClientInfo, cancel: &Registration) -> Self {
        Self {
            user: info.user.clone(),
            database: info.database.clone(),
            application_name: info.application_name(),
            addr: info.addr,
            local: info.local,
            tls: info.tls,
            since: (info.connected_at, info.requested_at()),
            pid: cancel.pid(),
            secret: cancel.secret().to_vec(),
        }
    }

    fn cancel(&self, shared: &Shared) -> std::io::Result<Registration> {
        shared.cancels.adopt(self.pid, &self.secret).ok_or_else(|| {
            std::io::Error::other(format!("another client has its process id {}", self.pid))
        })
    }

    /// Its line in SHOW CLIENTS.
    fn entry(&self, worker: usize, socket: &Socket) -> NewClient {
        NewClient {
            user: self.user.clone(),
            database: self.database.clone(),
            application_name: self.application_name.clone(),
            addr: self.addr,
            local: self.local,
            remote_pid: match self.addr {
                ClientAddr::Tcp(_) => 0,
                ClientAddr::Unix => socket.peer_pid(),
            },
            tls: self.tls,
            worker,
            since: Some(self.since),
        }
    }
}

/// The socket of a stream in clear, for another process.
fn socket_of(stream: &Stream) -> std::io::Result<OwnedFd> {
    stream.socket().as_fd().try_clone_to_owned()
}

/// The next socket that has come with a parcel.
fn socket_from(sockets: &mut impl Iterator<Item = OwnedFd>) -> std::io::Result<Socket> {
    Socket::given(sockets.next().ok_or(std::io::ErrorKind::InvalidData)?)
}

/// What comes from a predecessor, as it comes.
pub struct Arrivals {
    shared: Arc<Shared>,
    /// By mark: for clients that are yet to come.
    listening: HashMap<String, Subscription>,
}

/// Who is to be served by one of our workers.
pub struct Arrival {
    parcel: Parcel,
    sockets: Vec<OwnedFd>,
    hears: Option<Subscription>,
}

impl Arrivals {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, listening: HashMap::new() }
    }

    pub fn take(&mut self, parcel: Parcel, sockets: Vec<OwnedFd>) -> Option<Arrival> {
        let mark = match &parcel {
            Parcel::Listens { database, channels, mark } => {
                let routes = self.shared.store.routes().load();
                let hears = self.shared.listeners.resume(
                    routes.home(),
                    &Arc::from(database.as_str()),
                    channels.clone(),
                    mark.clone(),
                );
                self.listening.insert(mark.clone(), hears);
                return None;
            }
            Parcel::Session(session) => session.mark(),
            Parcel::Replication(_) | Parcel::Console(_) => None,
        };
        let hears = mark.and_then(|mark| {
            let hears = self.listening.remove(mark)?;
            hears.unlisten(mark.to_owned());
            Some(hears)
        });
        Some(Arrival { parcel, sockets, hears })
    }
}

/// Serves a client that a predecessor has handed over.
pub async fn adopt(worker: Rc<Worker>, arrival: Arrival) {
    let Arrival { parcel, sockets, hears } = arrival;
    let lost = match parcel {
        Parcel::Session(session) => match session.unpack(&worker, sockets, hears) {
            Ok(client) => return client.run().await,
            Err(error) => error,
        },
        Parcel::Replication(through) => match through.unpack(&worker, sockets) {
            Ok(through) => return through.run(&worker).await,
            Err(error) => error,
        },
        Parcel::Console(console) => match console.go_on(&worker, sockets).await {
            Ok(()) => return,
            Err(error) => error,
        },
        Parcel::Listens { .. } => return,
    };
    tracing::warn!(error = %lost, "a client was handed over and is lost");
}
