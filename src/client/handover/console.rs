//! A client of the console. What its session is only the console knows.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::super::cancel::Registration;
use super::super::login::Guest;
use super::super::shared::Visitor;
use super::super::worker::Worker;
use super::{Parcel, Who, socket_from, socket_of};
use crate::net::Stream;
use crate::telemetry::ClientAddr;
use crate::wire::backend::Report;

#[derive(Serialize, Deserialize)]
pub struct Console {
    who: Who,
    session: String,
}

/// Serves somebody who has logged in to the console.
pub async fn welcome(worker: &Rc<Worker>, stream: Stream, guest: Guest, addr: ClientAddr) {
    let cancel = worker.shared.cancels.register(guest.protocol);
    let who = Who {
        user: guest.user,
        database: String::new(),
        application_name: guest.application_name,
        addr,
        local: stream.socket().ends().map(|(_, ours)| ours),
        tls: stream.is_tls(),
        since: (SystemTime::now(), SystemTime::now()),
        pid: cancel.pid(),
        secret: cancel.secret().to_vec(),
    };
    serve(worker, stream, who, cancel, None).await;
}

/// Until the client leaves, or goes on with a successor.
async fn serve(
    worker: &Rc<Worker>,
    stream: Stream,
    who: Who,
    cancel: Registration,
    session: Option<String>,
) {
    let shared = worker.shared.clone();
    let entry = who.entry(worker.index, stream.socket());
    let visitor = Visitor {
        entry,
        cancel,
        draining: shared.draining.clone(),
        goes_on: Box::new(move || shared.successor().is_some()),
        session,
    };
    let Some((mut stream, session)) = (worker.shared.console)(stream, visitor).await else {
        return;
    };
    if let Err(error) = hand_over(worker, &mut stream, Console { who, session }) {
        tracing::warn!(%error, "a client of the console cannot be handed over");
        let why = Report::fatal("57P01", "terminating connection due to administrator command");
        super::super::refuse(&mut stream, &why).await;
    }
}

fn hand_over(worker: &Worker, stream: &mut Stream, console: Console) -> std::io::Result<()> {
    worker.shared.pumps.clear(stream)?;
    let parcel = (Parcel::Console(Box::new(console)), vec![socket_of(stream)?]);
    let sent = worker.shared.successor().map(|successor| successor.send(parcel).is_ok());
    match sent {
        Some(true) => Ok(()),
        _ => Err(std::io::ErrorKind::NotConnected.into()),
    }
}

impl Console {
    /// Serves it here.
    pub(super) async fn go_on(
        self,
        worker: &Rc<Worker>,
        sockets: Vec<OwnedFd>,
    ) -> std::io::Result<()> {
        let socket = socket_from(&mut sockets.into_iter())?;
        let cancel = self.who.cancel(&worker.shared)?;
        serve(worker, Stream::Plain(socket), self.who, cancel, Some(self.session)).await;
        Ok(())
    }
}
