//! Waiting for what others hold: a place in a pool's line, a gate to open, a pause to end.
//!
//! Meanwhile the client is still listened to: what it was owed is sent, what it sends is read ahead,
//! a cancel ends the wait, and a client that has left gives up its place at once.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;

use super::desk::Who;
use super::ending::{End, Leaving};
use super::login::Parts;
use super::relay::{Client, Event, report_of};
use crate::pool::{Lease, Leased, Pool, PoolError, Waiting};
use crate::telemetry::ClientState;
use crate::topology::NodeId;
use crate::wire::backend::Report;
use crate::wire::frame;

/// How a wait ended. Both may be: the cancel came with what was waited for.
pub(super) struct Aside<T> {
    pub(super) arrived: Option<T>,
    cancelled: bool,
}

impl<T> Aside<T> {
    pub(super) fn unless_cancelled(self) -> Option<T> {
        self.arrived.filter(|_| !self.cancelled)
    }
}

impl Client {
    /// A connection to `node` from its pool: at once, or in turn. `Err(None)`: a pause has begun, and
    /// it is to be asked for again.
    pub(super) async fn borrow(
        &mut self,
        node: NodeId,
    ) -> Result<Result<Leased, Option<Report>>, End> {
        let Some(pool) = self.pool(node) else {
            return Ok(Err(Some(Report::error("40001", "the node has just been removed"))));
        };
        // Two such could each wait for the connection that the other has.
        let holds = self.server.is_some();
        let drawn = self.parts.session.wants_drawn().and_then(|m| pool.lease_where_drawn(m));
        let granted = match drawn.map_or_else(|| pool.lease(self.worker.index, holds), Lease::Now) {
            Lease::Now(conn) => Ok(conn),
            Lease::Later(waiting) => {
                let since = Instant::now();
                self.parts.info.set_state_since(ClientState::Waiting, since);
                let granted = self.wait_in_line(waiting).await?;
                self.parts.stats.wait.record(since.elapsed());
                granted
            }
        };
        if let Ok(conn) = &granted {
            conn.serves(self.parts.info.id);
        }
        Ok(granted.map_err(|e| match e {
            Some(PoolError::Paused) => None,
            Some(e) => Some(report_of(&e)),
            None => Some(cancelled()),
        }))
    }

    /// The client's pool of a node.
    pub(super) fn pool(&mut self, node: NodeId) -> Option<Arc<Pool>> {
        let routes = self.worker.shared.store.routes().load();
        let Parts { database, user, credentials, .. } = &self.parts;
        let who = Who { database, user, credentials };
        self.pools.of(node, &who, &routes, &self.worker.shared.pools).cloned()
    }

    /// Waits for a connection; `Err(None)`: the wait was cancelled.
    async fn wait_in_line(
        &mut self,
        mut waiting: Waiting,
    ) -> Result<Result<Leased, Option<PoolError>>, End> {
        let aside = self.wait_aside(|cx| waiting.poll(cx)).await?;
        Ok(match (aside.arrived, aside.cancelled) {
            (Some(Ok(conn)), true) => {
                conn.give(self.worker.index, Instant::now());
                Err(None)
            }
            (Some(granted), false) => granted.map_err(Some),
            (Some(Err(_)), true) | (None, _) => Err(None),
        })
    }

    /// Waits until a gate opens.
    pub(super) async fn hold(&mut self) -> Result<(), End> {
        let since = Instant::now();
        self.parts.info.set_state_since(ClientState::Held, since);
        let worker = self.worker.clone();
        let woken = worker.woken.notified();
        let mut woken = std::pin::pin!(woken);
        let aside = self.wait_aside(|cx| woken.as_mut().poll(cx)).await;
        self.parts.stats.hold.record(since.elapsed());
        if aside?.cancelled {
            self.refuse_front(cancelled());
        }
        Ok(())
    }

    /// Whether its database is paused for a client that holds no connection.
    pub(super) fn is_shut_out(&self) -> bool {
        self.server.is_none() && self.worker.shared.pools.doors.is_closed(&self.parts.database)
    }

    /// Waits until a pause has ended.
    pub(super) async fn wait_at_the_door(&mut self) -> Result<(), End> {
        let since = Instant::now();
        self.parts.info.set_state_since(ClientState::Held, since);
        let (shared, database) = (self.worker.shared.clone(), self.parts.database.clone());
        let mut passed = std::pin::pin!(shared.pools.doors.pass(&database));
        let aside = self.wait_aside(|cx| passed.as_mut().poll(cx)).await;
        self.parts.stats.hold.record(since.elapsed());
        if aside?.cancelled {
            self.refuse_front(cancelled());
        }
        Ok(())
    }

    pub(super) async fn wait_aside<T>(
        &mut self,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<Aside<T>, End> {
        std::future::poll_fn(|cx| {
            if self.parts.cancel.poll_cancelled(cx.waker()) {
                return Poll::Ready(Ok(Aside { arrived: None, cancelled: true }));
            }
            if let Poll::Ready(arrived) = poll(cx) {
                let cancelled = self.parts.cancel.end_wait();
                return Poll::Ready(Ok(Aside { arrived: Some(arrived), cancelled }));
            }
            self.poll_left(cx).map(Err)
        })
        .await
    }

    /// Sends the client what it was answered and reads what it sends. Ready when it has left, without
    /// having said that what it sent is to be carried out all the same.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // What was answered before is not kept back.
        if !self.poll_send(cx) {
            return Poll::Ready(End::Client);
        }
        // Until it is pending: else nothing wakes this task when the client leaves.
        while let Poll::Ready(event) = self.poll_client(cx) {
            if matches!(event, Event::ClientGone) {
                return Poll::Ready(End::Client);
            }
        }
        if self.leaving == Leaving::HungUp && !says_goodbye(&self.input) {
            let report = Report::fatal("57014", "the client left while its statement waited");
            return Poll::Ready(report.into());
        }
        // What is waited for was sent before any cancel of it.
        self.parts.cancel.rests(cx.waker(), || true);
        Poll::Pending
    }
}

pub(super) fn cancelled() -> Report {
    Report::error("57014", "canceling statement due to user request")
}

/// Whether Terminate stands behind the requests: the client meant to leave them to us.
pub(super) fn says_goodbye(input: &BytesMut) -> bool {
    let mut rest = &input[..];
    while let Ok(Some(h)) = frame::header(rest) {
        if h.tag == b'X' {
            return true;
        }
        match rest.get(h.len..) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    false
}
