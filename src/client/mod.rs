//! Client connections: one task per client, on the worker that accepted it.
//!
//! [`handshake`] reads what comes before the first frame, [`login`] finds out who it is and what
//! its parameters are, [`relay`] then drives the [`crate::session::Session`] between the two
//! sockets; [`aside`] is where it waits, [`ending`] how it
//! ends, [`handover`] how it goes to another process. [`replication`] is passed through whole. [`gather`] carries out statements that go to
//! every node. [`listeners`] listens for all clients, [`mail`] brings them what was heard. A
//! [`worker::Worker`] is what
//! the clients of one thread share without locks; [`shared::Shared`] what all threads share.

mod analysis;
mod aside;
mod authenticate;
mod cancel;
mod copying;
mod ddl;
pub mod deadlocks;
mod desk;
mod ending;
mod front;
mod handover;
mod handshake;
mod idling;
mod linking;
mod listeners;
mod login;
mod mail;
mod overtaken;
mod relay;
mod replication;
mod reported;
mod roles;
pub mod shared;
mod sight;
mod threshold;
pub mod worker;

use std::os::fd::AsFd;
use std::rc::Rc;

use crate::config::ClientTls;
use crate::net::{Out, Socket, Stream};
use crate::telemetry::{Blame, ClientAddr};
use crate::wire::backend::Report;

pub use cancel::{Cancels, Elsewhere};
pub use handover::{Arrival, Arrivals, Parcel, Successor, adopt};
use handshake::Opening;
use threshold::Standee;
use worker::Worker;

/// Serves one client from its first byte to its last.
pub async fn serve(worker: Rc<Worker>, socket: Socket, addr: ClientAddr) {
    if let Err(e) = socket.tune() {
        tracing::debug!(%addr, error = %e, "client socket");
        return;
    }
    let config = worker.shared.config.load_full();
    let limit = config.limits.login_timeout;
    let logging_in = worker.shared.registry.begin_login();
    let standee = worker.shared.threshold.enter(addr, &config);
    let sent_away = standee.sent_away();
    // Boxed: what a login needs, the client does not carry for as long as it lives.
    let opened = tokio::time::timeout(limit, Box::pin(open(&worker, socket, addr, standee)));
    let opening = tokio::select! {
        opening = opened => opening,
        () = sent_away.notified() => {
            worker.stats.clients_refused.inc();
            tracing::debug!(%addr, "sent away: too many connections have not logged in");
            return;
        }
    };
    let client = match opening {
        Ok(Some(client)) => client,
        Ok(None) => return,
        Err(_) => {
            worker.stats.logins_failed.inc();
            tracing::debug!(%addr, "login timed out");
            return;
        }
    };
    drop(logging_in);
    match client {
        Opened::Cancel { stream, pid, secret } => {
            let sender = stream.socket().as_fd();
            worker.shared.cancels.deliver(pid, &secret, Some(sender)).await;
        }
        Opened::Session(client) => client.run().await,
        Opened::Replication(through) => through.run(&worker).await,
        Opened::Console { stream, guest } => {
            handover::welcome(&worker, stream, guest, addr).await;
        }
    }
}

enum Opened {
    Cancel { stream: Stream, pid: i32, secret: Vec<u8> },
    Session(Box<relay::Client>),
    Replication(Box<replication::Through>),
    Console { stream: Stream, guest: login::Guest },
}

/// Handshake and login. `None`: the connection is over, and the client knows why.
async fn open(
    worker: &Rc<Worker>,
    socket: Socket,
    addr: ClientAddr,
    standee: Standee,
) -> Option<Opened> {
    let required = worker.shared.config.load().tls.clients == ClientTls::Require;
    // A reload in between changes the certificate for later ones, not under this one.
    let tls = worker.shared.tls.load_full();
    let opening = match handshake::read(socket, tls.as_deref(), required).await {
        Ok(opening) => opening,
        Err(e) => {
            tracing::debug!(%addr, error = %e, "handshake");
            return None;
        }
    };
    match opening {
        Opening::Cancel { stream, pid, secret } => Some(Opened::Cancel { stream, pid, secret }),
        Opening::Startup { mut stream, startup, input } => {
            let binding = tls.filter(|_| stream.is_tls()).and_then(|t| t.binding().map(Vec::from));
            match login::run(worker, &mut stream, startup, input, addr, binding, standee).await {
                Ok(login::Outcome::Session(parts)) => {
                    Some(Opened::Session(Box::new(relay::Client::new(worker, stream, *parts))))
                }
                Ok(login::Outcome::Replication(granted)) => {
                    let through = replication::Through::new(stream, *granted);
                    Some(Opened::Replication(Box::new(through)))
                }
                Ok(login::Outcome::Console(guest)) => Some(Opened::Console { stream, guest }),
                Err(login::Failure::Gone) => None,
                Err(login::Failure::Refused(report)) => {
                    worker.stats.logins_failed.inc();
                    worker.stats.errors(Blame::of_ours(&report.sqlstate)).inc();
                    refuse(&mut stream, &report).await;
                    None
                }
            }
        }
    }
}

async fn refuse(stream: &mut Stream, report: &Report) {
    let mut out = Out::default();
    report.put(out.buf());
    // The client may be gone already; then nobody misses the message.
    if stream.drain(&mut out).await.is_ok() {
        stream.shutdown_heard().await;
    }
}
