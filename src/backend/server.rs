//! A server connection: what the pool keeps and a session borrows.
//!
//! It knows its socket, what is prepared on it and which session parameters are in force on it;
//! it does not know how to speak a transaction. That is the session's part.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};

use crate::net::tls::ClientTls;
use crate::net::{Out, Stream};
use crate::pool::state::ConnId;
use crate::session::Facts;
use crate::telemetry::{Live, ServerInfo, ServerState};
use crate::topology::NodeId;
use crate::wire::base64;

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
    /// What it carries from session to session; `None` while a session holds it.
    pub facts: Option<Box<Facts>>,
    pub opened: Instant,
}

/// All that is known of a connection but its socket and what it carries: for another process.
#[derive(Clone, Serialize, Deserialize)]
pub struct Given {
    pub tls: bool,
    host: String,
    port: u16,
    pid: i32,
    secret: Vec<u8>,
    /// The node's end and ours.
    ends: Option<(SocketAddr, SocketAddr)>,
    /// Read from the node and not passed on yet.
    #[serde(with = "base64")]
    input: Vec<u8>,
}

impl Given {
    /// The same, with something else read.
    pub fn having_read(&self, input: &[u8]) -> Self {
        Self { input: input.to_vec(), ..self.clone() }
    }

    /// The connection, in this process.
    pub fn connection(
        self,
        id: ConnId,
        node: NodeId,
        stream: Stream,
        info: Live<ServerInfo>,
        tls: ClientTls,
    ) -> Box<ServerConn> {
        info.set_backend_pid(self.pid);
        if let Some((node, ours)) = self.ends {
            info.set_ends(node, ours);
        }
        let pending = info.cancels().clone();
        let Self { host, port, pid, secret, .. } = self;
        let key = CancelKey { host, port, pid, secret, tls };
        Box::new(ServerConn {
            id,
            info,
            node,
            stream,
            input: BytesMut::from(&self.input[..]),
            output: Out::default(),
            cancel: Arc::new(Cancel { key, pending }),
            facts: Some(Box::default()),
            opened: Instant::now(),
        })
    }
}

impl ServerConn {
    /// What another process must know of it.
    pub fn given(&self) -> Given {
        let key = &self.cancel.key;
        Given {
            tls: self.info.tls,
            host: key.host.clone(),
            port: key.port,
            pid: key.pid,
            secret: key.secret.clone(),
            ends: self.info.ends(),
            input: self.input.to_vec(),
        }
    }

    /// What it carries, while no session holds it.
    pub fn facts(&mut self) -> &mut Facts {
        self.facts.get_or_insert_default()
    }

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
        self.info.set_prepared(self.facts.as_ref().map_or(0, |f| f.prepared.len() as u64));
    }

    /// Whether the connection may go back to the pool as far as it knows itself.
    pub fn is_clean(&self) -> bool {
        self.input.is_empty()
            && self.output.is_empty()
            && self.cancel.pending.load(Ordering::Acquire) == 0
            && self.facts.as_ref().is_some_and(|f| !f.spent)
    }
}
