//! Replication connections: a client of its own connection to the home node, as its own role, from
//! login to the end. Everything is passed through in both directions at once and nothing is looked
//! at, so all that a walsender says and understands is there; nothing of it is pooled.

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::sync::watch;

use super::cancel::Registration;
use super::shared::Admission;
use crate::backend::server::ServerConn;
use crate::net::{Out, Stream};
use crate::telemetry::{ClientInfo, Live};
use crate::wire::backend::Report;

/// A client that has logged in, and its connection.
pub struct Through {
    pub server: Box<ServerConn>,
    #[expect(dead_code, reason = "held for its Drop")]
    pub cancel: Registration,
    #[expect(dead_code, reason = "held for its Drop")]
    pub info: Live<ClientInfo>,
    #[expect(dead_code, reason = "held for its Drop")]
    pub admission: Admission,
    /// What the client has sent already.
    pub input: BytesMut,
}

impl Through {
    pub async fn run(mut self, mut client: Stream, mut draining: watch::Receiver<bool>) {
        let node = &mut self.server.stream;
        let early = async {
            node.write_all(&self.input).await?;
            client.write_all(&self.server.input).await
        };
        if let Err(error) = early.await {
            tracing::debug!(%error, "a replication connection ended at once");
            return;
        }
        let ended = tokio::select! {
            ended = copy_bidirectional(&mut client, node) => Some(ended),
            _ = draining.wait_for(|draining| *draining) => None,
        };
        match ended {
            Some(Ok((up, down))) => tracing::debug!(up, down, "a replication connection ended"),
            Some(Err(error)) => tracing::debug!(%error, "a replication connection broke off"),
            None => {
                let mut out = Out::default();
                Report::fatal("57P01", "terminating connection due to administrator command")
                    .put(out.buf());
                // A client that has left does not need to be told.
                let _ = client.drain(&mut out).await;
            }
        }
    }
}
