//! A client goes from one pgshunt process to its successor, socket and session, and notices nothing.
//!
//! Only at rest: what it has been answered it has been sent, and what it sends next the successor
//! reads. Who is under TLS, holds a server connection between transactions (`pinned_by` in SHOW
//! CLIENTS), or has a transaction open past the deadline is told that the server shuts down, as ever.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpStream, UnixStream};

use super::ending::Leaving;
use super::login::Parts;
use super::relay::Client;
use super::worker::Worker;
use crate::backend::login::Credentials;
use crate::net::{Socket, Stream};
use crate::session::{Luggage, Session};
use crate::telemetry::{ClientAddr, NewClient};

/// All that is known of a client but its socket.
#[derive(Serialize, Deserialize)]
pub struct Handed {
    user: String,
    database: String,
    credentials: Credentials,
    application_name: String,
    addr: ClientAddr,
    /// Its cancel key.
    pid: i32,
    secret: Vec<u8>,
    session: Luggage,
    /// What of its next message was read already.
    input: Vec<u8>,
}

/// To the successor.
pub type Successor = Sender<(Box<Handed>, OwnedFd)>;

impl Client {
    /// Hands the client to the successor, if there is one and the client is at rest. True: it is
    /// gone from here.
    pub(super) fn hand_over(&mut self) -> bool {
        let Some(successor) = self.worker.shared.successor() else { return false };
        let Stream::Plain(socket) = &self.stream else { return false };
        let rests = self.server.is_none()
            && self.again.is_empty()
            && self.out.is_empty()
            && self.leaving == Leaving::No
            && !self.is_copying();
        let session = if rests { self.parts.session.pack() } else { None };
        let (Some(session), Ok(socket)) = (session, socket.as_fd().try_clone_to_owned()) else {
            return false;
        };
        let (pid, secret) = self.parts.cancel.key();
        let handed = Handed {
            user: self.parts.user.to_string(),
            database: self.parts.database.to_string(),
            credentials: self.parts.credentials.clone(),
            application_name: self.parts.info.application_name(),
            addr: self.parts.info.addr,
            pid,
            secret,
            session,
            input: self.input.to_vec(),
        };
        successor.send((Box::new(handed), socket)).is_ok()
    }
}

/// Serves a client that a predecessor has handed over.
pub async fn adopt(worker: Rc<Worker>, handed: Handed, socket: OwnedFd) {
    let addr = handed.addr;
    match unpack(&worker, handed, socket) {
        Ok((stream, parts)) => Box::new(Client::new(&worker, stream, parts)).run().await,
        Err(error) => tracing::warn!(%addr, %error, "a client was handed over and is lost"),
    }
}

fn unpack(
    worker: &Rc<Worker>,
    handed: Handed,
    socket: OwnedFd,
) -> std::io::Result<(Stream, Parts)> {
    let shared = &worker.shared;
    let socket = match handed.addr {
        ClientAddr::Tcp(_) => Socket::Tcp(TcpStream::from_std(socket.into())?),
        ClientAddr::Unix => Socket::Unix(UnixStream::from_std(socket.into())?),
    };
    let cancel = shared.cancels.adopt(handed.pid, &handed.secret).ok_or_else(|| {
        std::io::Error::other(format!("another client has its process id {}", handed.pid))
    })?;
    let info = shared.registry.add_client(NewClient {
        user: handed.user.clone(),
        database: handed.database.clone(),
        application_name: handed.application_name,
        addr: handed.addr,
        local: socket.ends().map(|(_, ours)| ours),
        remote_pid: socket.peer_pid(),
        tls: false,
        worker: worker.index,
    });
    let plain = handed.database != shared.config.load().cluster.database;
    let session = worker.with_env(|env| {
        if plain {
            env.routes = env.routes.plain();
        }
        Session::unpack(info.id, handed.session, env)
    });
    let stats = shared.registry.database(worker.index, &handed.database);
    let user: Arc<str> = handed.user.into();
    shared.pools.renew(&user, &handed.credentials);
    let parts = Parts {
        user,
        database: handed.database.into(),
        credentials: handed.credentials,
        session,
        cancel,
        info,
        stats,
        admission: shared.admit_known(),
        input: BytesMut::from(&handed.input[..]),
    };
    Ok((Stream::Plain(socket), parts))
}
