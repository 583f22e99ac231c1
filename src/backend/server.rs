//! A server connection: what the pool keeps and a session borrows.
//!
//! It knows its socket, what is prepared on it and which session parameters are in force on it;
//! it does not know how to speak a transaction. That is the session's part.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use bytes::BytesMut;

use crate::net::{Out, Stream};
use crate::pool::state::ConnId;
use crate::session::Facts;
use crate::topology::NodeId;

/// What a CancelRequest to this connection needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelKey {
    pub host: String,
    pub port: u16,
    pub pid: i32,
    pub secret: [u8; 4],
}

/// Where a connection is cancelled, and the cancel requests on their way to it. Until they have
/// arrived it must not serve another client, or theirs would be cancelled.
#[derive(Debug)]
pub struct Cancel {
    pub key: CancelKey,
    pub pending: AtomicU32,
}

#[derive(Debug)]
pub struct ServerConn {
    pub id: ConnId,
    pub node: NodeId,
    pub stream: Stream,
    /// Read from the node and not passed on yet.
    pub input: BytesMut,
    pub output: Out,
    pub cancel: Arc<Cancel>,
    /// Taken by the session while it holds the connection.
    pub facts: Facts,
    /// ParameterStatus as last reported, in order of first appearance.
    pub status: Vec<(String, String)>,
    pub opened: Instant,
}

impl ServerConn {
    /// Whether the connection may go back to the pool as far as it knows itself.
    pub fn is_clean(&self) -> bool {
        self.input.is_empty()
            && self.output.is_empty()
            && self.cancel.pending.load(Ordering::Acquire) == 0
            && !self.facts.spent
    }

    /// Notes a ParameterStatus body; true when it told something new.
    pub fn note_status(&mut self, body: &[u8]) -> bool {
        let mut parts = body.split(|&b| b == 0);
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return false };
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            return false;
        };
        match self.status.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) if old == value => false,
            Some((_, old)) => {
                value.clone_into(old);
                true
            }
            None => {
                self.status.push((name.to_owned(), value.to_owned()));
                true
            }
        }
    }
}
