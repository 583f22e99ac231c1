//! A client of the database, with its session.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

use super::super::desk::Nothing;
use super::super::ending::{End, Leaving};
use super::super::listeners::Subscription;
use super::super::login::Parts;
use super::super::relay::Client;
use super::super::worker::Worker;
use super::{Parcel, Successor, Who, socket_from, socket_of};
use crate::backend::login::Credentials;
use crate::backend::server::Given;
use crate::net::Stream;
use crate::session::{Luggage, Session as Machine};
use crate::topology::NodeId;
use crate::wire::base64;

/// How long the successor may take to listen for a client.
const LISTENS: Duration = Duration::from_secs(20);

/// Who has sent more of a message first sends the rest of it here.
const MOST_INPUT: usize = 64 << 20;

/// All that is known of a client but its socket.
#[derive(Serialize, Deserialize)]
pub struct Session {
    who: Who,
    credentials: Credentials,
    session: Luggage,
    /// What of its next message was read already.
    #[serde(with = "base64")]
    input: Vec<u8>,
    /// What comes behind it the client hears from the successor.
    mark: Option<String>,
    /// The server connection it holds; its socket comes second.
    server: Option<Server>,
}

#[derive(Serialize, Deserialize)]
struct Server {
    node: NodeId,
    given: Given,
}

impl Client {
    /// Whether it can be handed over now.
    pub(in super::super) fn rests(&self) -> bool {
        self.server.as_ref().is_none_or(|conn| conn.output.is_empty())
            && self.again.is_empty()
            && self.out.is_empty()
            && self.leaving == Leaving::No
            && !self.is_copying()
            && self.input.len() <= MOST_INPUT
            && self.parts.session.travels()
    }

    /// Hands the client to the successor, if there is one and the client is at rest. True: it is
    /// gone from here.
    pub(in super::super) async fn hand_over(&mut self) -> Result<bool, End> {
        let Some(successor) = self.worker.shared.successor() else { return Ok(false) };
        if !self.rests() {
            return Ok(false);
        }
        let mark = match self.listens_there(&successor).await? {
            Listens::Nothing => None,
            Listens::Behind(mark) => Some(mark),
            Listens::NotThere => return Ok(false),
        };
        let (parcel, sockets) = match self.wrap(mark) {
            Ok(Some(parcel)) => parcel,
            Ok(None) => return Ok(false),
            Err(error) => {
                tracing::warn!(%error, "a client cannot be handed over");
                return Ok(false);
            }
        };
        Ok(successor.send((parcel, sockets)).is_ok())
    }

    fn wrap(&mut self, mark: Option<String>) -> std::io::Result<Option<(Parcel, Vec<OwnedFd>)>> {
        let worker = self.worker.clone();
        let pumps = &worker.shared.pumps;
        pumps.clear(&mut self.stream)?;
        let mut sockets = vec![socket_of(&self.stream)?];
        let mut server = None;
        if let Some(conn) = self.server.as_deref_mut() {
            pumps.clear(&mut conn.stream)?;
            sockets.push(socket_of(&conn.stream)?);
            server = Some(Server { node: conn.node, given: conn.given() });
        }
        let Some(session) = worker.with_env(&mut Nothing, |env| self.parts.session.pack(env))
        else {
            return Ok(None);
        };
        let handed = Session {
            who: Who::of(self.parts.info.info(), &self.parts.cancel),
            credentials: self.parts.credentials.clone(),
            session,
            input: self.input.to_vec(),
            mark,
            server,
        };
        Ok(Some((Parcel::Session(Box::new(handed)), sockets)))
    }

    /// Has the successor listen for the client, and waits until it does. All that was sent before is
    /// with the session then.
    async fn listens_there(&mut self, successor: &Successor) -> Result<Listens, End> {
        let channels = self.parts.session.listens_to().to_vec();
        let Some(hears) = self.hears.as_ref().filter(|_| !channels.is_empty()) else {
            return Ok(Listens::Nothing);
        };
        let mark = format!("pgshunt {:032x}", rand::random::<u128>());
        let database = self.parts.database.to_string();
        let changes = async {
            if hears.until(&mark).await.is_err() {
                return Ok(false);
            }
            let parcel = Parcel::Listens { database, channels, mark: mark.clone() };
            if successor.send((parcel, Vec::new())).is_err() {
                return Ok(false);
            }
            poll_fn(|cx| hears.mailbox.poll_over(cx.waker())).await.map(|()| true)
        };
        match tokio::time::timeout(LISTENS, changes).await {
            Ok(Ok(true)) => {}
            Ok(Err(lost)) => return Err(lost.report().into()),
            Ok(Ok(false)) | Err(_) => return Ok(Listens::NotThere),
        }
        self.take_mail(Waker::noop()).map_err(|lost| End::from(lost.report()))?;
        Ok(Listens::Behind(mark))
    }
}

enum Listens {
    /// It listens to nothing.
    Nothing,
    Behind(String),
    NotThere,
}

impl Session {
    pub(super) fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }

    pub(super) fn unpack(
        self,
        worker: &Rc<Worker>,
        sockets: Vec<OwnedFd>,
        hears: Option<Subscription>,
    ) -> std::io::Result<Box<Client>> {
        let shared = &worker.shared;
        let mut sockets = sockets.into_iter();
        let socket = socket_from(&mut sockets)?;
        let cancel = self.who.cancel(shared)?;
        let info = shared.registry.add_client(self.who.entry(worker.index, &socket));
        let plain = self.who.database != shared.config.load().cluster.database;
        let session = worker.with_env(&mut Nothing, |env| {
            if plain {
                env.routes = env.routes.plain();
            }
            Machine::unpack(info.id, self.session, env)
        });
        let stats = shared.registry.database(worker.index, &self.who.database);
        let user: Arc<str> = self.who.user.into();
        shared.pools.renew(&user, &self.credentials);
        let parts = Parts {
            user,
            database: self.who.database.into(),
            credentials: self.credentials,
            session,
            cancel,
            info,
            stats,
            admission: shared.admit_known(),
            input: BytesMut::from(&self.input[..]),
        };
        let mut client = Box::new(Client::new(worker, Stream::Plain(socket), parts));
        client.hears = hears;
        if let Some(Server { node, given }) = self.server {
            let stream = Stream::Plain(socket_from(&mut sockets)?);
            let pool = client.pool(node).ok_or_else(|| std::io::Error::other("no such node"))?;
            client.holds(pool.adopt(given, stream, worker.index));
        }
        Ok(client)
    }
}
