//! A replication connection: both its sockets, and what is under way between them.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

use super::super::replication::{Granted, Through};
use super::super::worker::Worker;
use super::{Parcel, Who, socket_from, socket_of};
use crate::backend::server::Given;
use crate::net::Stream;
use crate::pool::PoolKey;
use crate::topology::NodeId;
use crate::wire::base64;

#[derive(Serialize, Deserialize)]
pub struct Replication {
    who: Who,
    node: NodeId,
    server: Given,
    /// What of the client's the node has not had yet.
    #[serde(with = "base64")]
    input: Vec<u8>,
}

impl Through {
    /// Hands it to the successor, if there is one; true: it is gone from here.
    pub(in super::super) fn hand_over(&mut self, worker: &Worker) -> bool {
        let Some(successor) = worker.shared.successor() else { return false };
        let clear = |stream: &mut Stream| {
            worker.shared.pumps.clear(stream)?;
            socket_of(stream)
        };
        let sockets = match (clear(&mut self.duplex.near), clear(&mut self.duplex.far)) {
            (Ok(near), Ok(far)) => vec![near, far],
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "a replication connection cannot be handed over");
                return false;
            }
        };
        let (up, down) = self.duplex.under_way();
        let handed = Replication {
            who: Who::of(self.info.info(), &self.cancel),
            node: self.node,
            server: self.given.having_read(down),
            input: up.to_vec(),
        };
        successor.send((Parcel::Replication(Box::new(handed)), sockets)).is_ok()
    }
}

impl Replication {
    pub(super) fn unpack(
        self,
        worker: &Rc<Worker>,
        sockets: Vec<OwnedFd>,
    ) -> std::io::Result<Through> {
        let shared = &worker.shared;
        let mut sockets = sockets.into_iter();
        let (near, far) = (socket_from(&mut sockets)?, socket_from(&mut sockets)?);
        let cancel = self.who.cancel(shared)?;
        let info = shared.registry.add_client(self.who.entry(worker.index, &near));
        let key = PoolKey {
            node: self.node,
            database: self.who.database.into(),
            user: self.who.user.into(),
        };
        let server = shared.pools.given(&key, self.server, Stream::Plain(far), worker.index);
        let input = BytesMut::from(&self.input[..]);
        let granted = Granted { server, cancel, info, admission: shared.admit_known(), input };
        Ok(Through::new(Stream::Plain(near), granted))
    }
}
