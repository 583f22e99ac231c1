//! Replication connections: a client of its own connection to the home node, as its own role, from
//! login to the end. Everything is passed through in both directions at once and nothing is looked
//! at, so all that a walsender says and understands is there; nothing of it is pooled. So nothing needs
//! to be at rest for a successor to go on with it.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::cancel::Registration;
use super::shared::Admission;
use super::worker::Worker;
use crate::backend::server::{Cancel, Given, ServerConn};
use crate::net::duplex::Duplex;
use crate::net::{Out, Stream};
use crate::telemetry::{ClientInfo, Live, ServerInfo};
use crate::topology::NodeId;
use crate::wire::backend::Report;

/// A client that has logged in, and its connection to the node.
pub struct Granted {
    pub server: Box<ServerConn>,
    pub cancel: Registration,
    pub info: Live<ClientInfo>,
    pub admission: Admission,
    /// What the client has sent already.
    pub input: BytesMut,
}

/// The two, connected.
pub struct Through {
    /// The client is near, the node is far.
    pub duplex: Duplex,
    pub node: NodeId,
    /// What a successor must know of the connection to the node.
    pub given: Given,
    pub cancel: Registration,
    pub info: Live<ClientInfo>,
    /// Held for their Drop.
    _held: (Live<ServerInfo>, Arc<Cancel>, Admission),
}

impl Through {
    pub fn new(client: Stream, granted: Granted) -> Self {
        let Granted { server, cancel, info, admission, input } = granted;
        info.set_pin(Some("replication"));
        server.serves(info.id);
        cancel.linked([server.cancel.clone()]);
        let given = server.given();
        let ServerConn { node, info: line, stream, input: down, cancel: target, .. } = *server;
        let duplex = Duplex::new(client, stream, input, down);
        Self { duplex, node, given, cancel, info, _held: (line, target, admission) }
    }

    pub async fn run(mut self, worker: &Rc<Worker>) {
        let mut draining = worker.shared.draining.clone();
        let ended = tokio::select! {
            ended = self.duplex.run() => Some(ended),
            _ = draining.wait_for(|draining| *draining) => None,
        };
        match ended {
            Some(Ok(())) => tracing::debug!("a replication connection ended"),
            Some(Err(error)) => tracing::debug!(%error, "a replication connection broke off"),
            None if self.hand_over(worker) => {}
            None => {
                let mut out = Out::default();
                Report::fatal("57P01", "terminating connection due to administrator command")
                    .put(out.buf());
                // A client that has left does not need to be told.
                let _ = self.duplex.near.drain(&mut out).await;
            }
        }
    }
}
