//! A server connection: what the pool keeps and a session borrows.
//!
//! It knows its socket, what is prepared on it and which session parameters are in force on it;
//! it does not know how to speak a transaction. That is the session's part.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use bytes::BytesMut;

use crate::net::tls::ClientTls;
use crate::net::{Out, Stream};
use crate::pool::state::ConnId;
use crate::session::Facts;
use crate::telemetry::{Live, ServerInfo, ServerState};
use crate::topology::NodeId;

/// What a CancelRequest to this connection needs.
#[derive(Debug, Clone)]
pub struct CancelKey {
    pub host: String,
    pub port: u16,
    pub pid: i32,
    /// Four bytes up to protocol 3.0, up to 256 since.
    pub secret: Vec<u8>,
    /// The key is as secret as the connection it belongs to.
    pub tls: ClientTls,
}

/// Where a connection is cancelled, and the cancel requests on their way to it. Until they have
/// arrived it must not serve another client, or theirs would be cancelled.
#[derive(Debug)]
pub struct Cancel {
    pub key: CancelKey,
    pub pending: Arc<AtomicU32>,
}

#[derive(Debug)]
pub struct ServerConn {
    pub id: ConnId,
    /// Its line in SHOW SERVERS.
    pub info: Live<ServerInfo>,
    pub node: NodeId,
    pub stream: Stream,
    /// Read from the node and not passed on yet.
    pub input: BytesMut,
    pub output: Out,
    pub cancel: Arc<Cancel>,
    /// What it carries from session to session. Taken by the session while it holds the connection.
    pub facts: Facts,
    pub opened: Instant,
}

impl ServerConn {
    /// Reads what has come; 0 is the end of the stream.
    pub async fn fill(&mut self) -> std::io::Result<usize> {
        self.stream.fill(&mut self.input).await
    }

    /// It serves this client now.
    pub fn serves(&self, client: u64) {
        self.info.set_client(Some(client));
        self.info.set_state(ServerState::Active);
    }

    /// It serves nobody.
    pub fn rests(&self) {
        self.info.set_client(None);
        self.info.set_state(ServerState::Idle);
        self.info.set_prepared(self.facts.prepared.len() as u64);
    }

    /// Whether the connection may go back to the pool as far as it knows itself.
    pub fn is_clean(&self) -> bool {
        self.input.is_empty()
            && self.output.is_empty()
            && self.cancel.pending.load(Ordering::Acquire) == 0
            && !self.facts.spent
    }
}
