//! How a session ends: by its client, by its node, or by us, and who is told what.

use std::io;
use std::task::{Context, Waker};
use std::time::Duration;

use super::aside::says_goodbye;
use super::relay::Client;
use super::worker::Worker;
use crate::pool::Leased;
use crate::wire::backend::Report;
use crate::wire::frame;

/// How long a client may take to read why its session ends.
const FAREWELL: Duration = Duration::from_secs(10);

/// How long is waited for a server to hang up before it is cancelled once more: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long an abandoned statement is cancelled before its connection is closed regardless.
const ABANDONED: Duration = Duration::from_secs(30);

/// Why a session ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client said goodbye, or its socket closed.
    Client,
    /// The client is told and the connection closed.
    Fatal(Box<Report>),
    /// The node has said why, and the client has been told in its words.
    Told,
    /// Another process serves the client from here on.
    HandedOver,
}

impl From<Report> for End {
    fn from(r: Report) -> Self {
        Self::Fatal(Box::new(r))
    }
}

/// Whether more is to be expected of the client. What it has sent before it leaves is carried out,
/// as PostgreSQL does: it reads one message after the other and the goodbye last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// It has closed its side of the connection.
    HungUp,
    /// It has said Terminate.
    Goodbye,
}

impl Client {
    /// Whether a client that is leaving has had all it asked for.
    pub(super) fn is_finished(&self) -> bool {
        let input = match frame::header(&self.input) {
            Ok(Some(h)) => self.input.len() >= h.len,
            Ok(None) | Err(_) => false,
        };
        let session = &self.parts.session;
        // The rest of a COPY will not come, so its answer will not either.
        let stuck = session.copies_in() && !self.copied;
        !input
            && self.again.is_empty()
            && self.out.is_empty()
            && (stuck || !session.is_waiting_for_server())
    }

    /// A read of several nodes is for nobody: it has not said that what it sent is to be carried out.
    pub(super) fn has_left_a_read(&self) -> bool {
        self.leaving == Leaving::HungUp
            && self.parts.session.reads_from_several()
            && !says_goodbye(&self.input)
    }

    /// Without Sync the node keeps its answers to itself, and no Sync will come.
    pub(super) fn ask_for_answers(&mut self) {
        if let (true, Some(conn)) = (self.unflushed, &mut self.server) {
            frame::put(conn.output.buf(), b'H', |_| {});
            self.unflushed = false;
        }
    }

    /// The server connection broke off. A session that has nothing on it goes on without.
    pub(super) fn server_gone(&mut self, error: Option<io::Error>) -> Result<(), End> {
        let told = self.parts.session.broken() == Some("the node has closed the connection");
        let report = |make: fn(&'static str, &'static str) -> Report| {
            let report = make("08006", "the node closed the connection unexpectedly");
            match &error {
                Some(e) => report.detail(e.to_string()),
                None => report,
            }
        };
        if self.loses_part(&report(|code, text| Report::error(code, text))) {
            return Ok(());
        }
        let idle = self.parts.session.is_idle() && !self.parts.session.is_bound();
        self.unlink();
        if idle {
            return Ok(());
        }
        if told {
            return Err(End::Told);
        }
        Err(report(|code, text| Report::fatal(code, text)).into())
    }

    /// The console has asked for it.
    pub(super) fn killed(&self) -> End {
        if self.parts.session.is_amid_message() {
            // Half of a message is with the client: what would follow is no message to it.
            return End::Client;
        }
        Report::fatal("57P01", "terminating connection due to administrator command").into()
    }

    /// The client is gone: what it left running is cancelled, and its transaction ends.
    pub(super) async fn abandon_server(&mut self) {
        let left = self.take_servers();
        let timeout = self.worker.shared.config.load().pool.connect_timeout;
        futures_util::future::join_all(left.into_iter().map(|conn| abandon(conn, timeout))).await;
    }

    /// Takes its connections from the session: those on which a statement is under way. Closing the
    /// others ends the transaction, whatever state it was in.
    fn take_servers(&mut self) -> Vec<Leased> {
        let committing = self.parts.session.is_committing();
        let mut left = Vec::new();
        while self.parts.session.is_linked() {
            let waiting = self.parts.session.is_waiting_for_link();
            if let (Some(conn), true) = (self.unlink(), waiting) {
                left.push(conn);
            }
        }
        if committing {
            self.worker.shared.store.leftovers().notify_one();
        }
        left.extend(self.server.take());
        left.append(&mut self.resting);
        left
    }

    /// Sends what is left to be said, the reason last, and closes.
    pub(super) async fn farewell(&mut self) {
        let tell = self.stream.drain(&mut self.out);
        if let Ok(Ok(())) = tokio::time::timeout(FAREWELL, tell).await {
            let mut cx = Context::from_waker(Waker::noop());
            let silent = self.input.is_empty()
                && self.stream.poll_fill(&mut cx, &mut self.input).is_pending();
            if silent {
                self.stream.shutdown().await;
            } else {
                self.stream.shutdown_heard().await;
            }
        }
    }
}

/// However its task ends, by a panic too: what it has touched must not keep a gate closed for ever, and
/// what it has asked for must not run on.
impl Drop for Client {
    fn drop(&mut self) {
        for conn in self.take_servers() {
            abandon_aside(conn, &self.worker);
        }
    }
}

/// Ends what runs on a connection, of whose answer nobody wants to know any more, and closes it. Only
/// then is its place in the pool free.
///
/// PostgreSQL takes no notice of a cancel that reaches it while it plans or between two messages, so
/// one is sent again and again until it has hung up.
async fn abandon(mut conn: Leased, timeout: Duration) {
    let key = conn.cancel.key.clone();
    let ends = async {
        conn.stream.shutdown().await;
        let mut pause = PAUSES.0;
        loop {
            if let Err(e) = crate::backend::login::cancel(&key, timeout).await {
                tracing::debug!(error = %e, "cancel of an abandoned statement");
                return;
            }
            if tokio::time::timeout(pause, conn.stream.discard(usize::MAX)).await.is_ok() {
                return;
            }
            pause = PAUSES.1.min(pause * 2);
        }
    };
    if tokio::time::timeout(ABANDONED, ends).await.is_err() {
        tracing::warn!(host = %key.host, port = key.port, pid = key.pid, "takes no cancel");
    }
}

/// Does so in a task of its own, for who cannot wait because it is being dropped.
pub(super) fn abandon_aside(conn: Leased, worker: &Worker) {
    let timeout = worker.shared.config.load().pool.connect_timeout;
    // Without a runtime the process is ending, and closing the connection must do.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(abandon(conn, timeout));
    }
}
