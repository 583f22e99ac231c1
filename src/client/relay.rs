//! A client's session between its two sockets.
//!
//! One loop: let the session take what the client has sent; meet the need it names; then move
//! bytes until something new has arrived. The sockets push back: while the client does not read,
//! nothing is read from the node, and the other way round, so memory per client is bounded by the
//! two buffers and the largest statement.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use tokio::sync::futures::OwnedNotified;

use super::desk::{Desk, OwnPools, Who};
use super::ending::{End, Leaving};
use super::idling::Idling;
use super::listeners::{Lost, Subscription};
use super::login::Parts;
use super::worker::Worker;
use crate::backend::login::LoginError;
use crate::catalog::ddl::Stay;
use crate::net::{Out, Stream};
use crate::pool::{Leased, PoolError};
use crate::session::{Flow, Io, Moved, Need, Onto};
use crate::telemetry::{Blame, ClientState, PlanKind};
use crate::wire::backend::{Report, Status};
use crate::wire::frame;

/// Unsent bytes for the client above which the node is not read.
pub(super) const CLIENT_HIGH: usize = 64 << 10;
/// Unsent bytes for the node above which the client's messages are not taken.
pub(super) const SERVER_HIGH: usize = 64 << 10;
/// Bytes of the client read ahead while its messages cannot be taken.
pub(super) const READ_AHEAD: usize = 64 << 10;

pub struct Client {
    pub(super) worker: Rc<Worker>,
    pub(super) stream: Stream,
    pub(super) input: BytesMut,
    pub(super) out: Out,
    pub(super) parts: Parts,
    /// The server connection in hand, and the others that the session holds, in its order.
    pub(super) server: Option<Leased>,
    pub(super) resting: Vec<Leased>,
    /// Its statement is cancelled to end a deadlock over several nodes.
    pub(super) chosen: Arc<AtomicBool>,
    /// It was noted that it holds several connections.
    pub(super) several: bool,
    /// Requests to be given to the session again before anything new.
    pub(super) again: VecDeque<Vec<u8>>,
    pub(super) copying: Copying,
    /// The client's part of the COPY has been passed on whole.
    pub(super) copied: bool,
    pub(super) leaving: Leaving,
    /// The client is gone and has asked for what is under way to be carried out: nobody reads it.
    muted: bool,
    /// Something was sent to the node since it was last asked to flush its answers.
    pub(super) unflushed: bool,
    /// When the request under way was sent.
    pub(super) sent_at: Option<Instant>,
    pub(super) idling: Idling,
    /// When the transaction asked for its connection.
    pub(super) linked_at: Option<Instant>,
    /// What the client was told of the server's parameters, when they were last looked at.
    told: u64,
    pub(super) pools: OwnPools,
    /// Of another database than the cluster's: nothing is distributed there.
    plain: bool,
    /// What it hears of notifications, once it has listened.
    pub(super) hears: Option<Subscription>,
    /// What is held for its transaction, which changes tables on all nodes.
    pub(super) stay: Option<Stay>,
    /// Woken when the process drains; and whether it knows whom to wake.
    drain: Pin<Box<OwnedNotified>>,
    minds_drain: bool,
    /// Why the session keeps its connection, as SHOW CLIENTS was told.
    pin: Option<&'static str>,
}

/// A message of COPY data that is half read.
#[derive(Debug)]
pub(super) struct Copying {
    /// Bytes that are still to come from the client.
    pub left: usize,
    pub onto: Onto,
}

impl Default for Copying {
    fn default() -> Self {
        Self { left: 0, onto: Onto::Nobody }
    }
}

/// What arrived.
pub(super) enum Event {
    Progress,
    ServerGone(Option<io::Error>),
    ClientGone,
    Draining,
    /// Notifications may have been missed.
    Deaf(Lost),
}

impl Client {
    pub fn new(worker: &Rc<Worker>, stream: Stream, mut parts: Parts) -> Self {
        parts.session.known_as(parts.cancel.pid());
        let told = parts.session.told_print();
        let plain = *parts.database != *worker.shared.config.load().cluster.database;
        Self {
            worker: worker.clone(),
            stream,
            input: std::mem::take(&mut parts.input),
            out: Out::default(),
            parts,
            server: None,
            resting: Vec::new(),
            chosen: Arc::default(),
            several: false,
            again: VecDeque::new(),
            copying: Copying::default(),
            copied: false,
            leaving: Leaving::No,
            muted: false,
            unflushed: false,
            sent_at: None,
            idling: Idling::default(),
            linked_at: None,
            told,
            pools: OwnPools::default(),
            plain,
            hears: None,
            stay: None,
            drain: Box::pin(worker.drain.clone().notified_owned()),
            minds_drain: false,
            pin: None,
        }
    }

    /// Boxed: it lives for as long as the client, and a future keeps what it was given beside what it
    /// has made of it.
    pub async fn run(mut self: Box<Self>) {
        let info = self.parts.info.info().clone();
        let end = {
            let mut killed = pin!(info.killed());
            let mut drive = pin!(self.drive());
            // Who is to be woken by a kill does not change: that is told once.
            let mut told = false;
            poll_fn(|cx| {
                if let Poll::Ready(end) = drive.as_mut().poll(cx) {
                    return Poll::Ready(Some(end));
                }
                let look = info.is_killed() || !std::mem::replace(&mut told, true);
                match look && killed.as_mut().poll(cx).is_ready() {
                    true => Poll::Ready(None),
                    false => Poll::Pending,
                }
            })
            .await
        };
        let end = end.unwrap_or_else(|| self.killed());
        let told = match end {
            End::Fatal(report) => {
                self.parts.stats.errors(Blame::of_ours(&report.sqlstate)).inc();
                report.put(self.out.buf());
                true
            }
            End::Told => true,
            End::Client | End::HandedOver => false,
        };
        self.parts.session.ends();
        self.give_back();
        self.abandon_server().await;
        if told {
            self.farewell().await;
        }
        self.count();
    }

    async fn drive(&mut self) -> End {
        loop {
            // A transaction that has ended gives its connection up before what was pipelined behind
            // it is looked at: that may need another node.
            self.follow();
            let need = match self.take_messages() {
                Ok(need) => need,
                Err(end) => return end,
            };
            let released = self.follow();
            self.stop_listening();
            if let Some(table) = self.parts.session.announces() {
                if let Err(end) = Box::pin(self.announce(table)).await {
                    return end;
                }
                continue;
            }
            let met = match need {
                Some(Need::Lease(_) | Need::Ddl(_)) if self.is_shut_out() => {
                    self.wait_at_the_door().await.map(|()| true)
                }
                Some(Need::Lease(node)) => self.lease(node).await.map(|()| true),
                Some(Need::Turn(node)) => {
                    self.turn(node);
                    Ok(true)
                }
                Some(Need::Gate) => self.hold().await.map(|()| true),
                Some(Need::Sight(held)) => self.take_turns(&held).await.map(|()| true),
                None | Some(Need::Quiet) if self.parts.session.awaits().is_some() => {
                    Box::pin(self.see()).await.map(|()| true)
                }
                // Boxed, so that who never has one does not carry its size.
                Some(Need::Ddl(ddl)) => Box::pin(self.ddl(*ddl)).await.map(|()| true),
                Some(Need::Stay(groups, drops)) => {
                    Box::pin(self.stay(groups, drops)).await.map(|()| true)
                }
                Some(Need::Publish) => Box::pin(self.publish()).await.map(|()| true),
                None if self.parts.session.publishes() => {
                    Box::pin(self.publish()).await.map(|()| true)
                }
                Some(Need::Listen(channels)) => {
                    Box::pin(self.listen(channels)).await.map(|()| true)
                }
                Some(Need::Analysis(order)) => Box::pin(self.analyse(*order)).await.map(|()| true),
                Some(Need::Fence) => Box::pin(self.fence()).await.map(|()| true),
                None if self.parts.session.waits_for_fence() => {
                    Box::pin(self.fence()).await.map(|()| true)
                }
                // Without a connection there is nothing left to wait for.
                Some(Need::Quiet) => Ok(released),
                None => Ok(self.tries_again()),
            };
            match met {
                Ok(true) => continue,
                Ok(false) => {}
                Err(end) => return end,
            }
            if self.leaving != Leaving::No {
                if self.is_finished() {
                    return End::Client;
                }
                if self.has_left_a_read() {
                    return Report::fatal("57014", "the client left while its statement ran")
                        .into();
                }
                self.ask_for_answers();
            }
            self.note_state();
            if let Err(end) = self.wait().await {
                return end;
            }
        }
    }

    /// What is to be tried again waits for nobody.
    fn tries_again(&self) -> bool {
        !self.again.is_empty() && self.server.is_none()
    }

    /// Gives the session the client's messages, as many as it takes.
    fn take_messages(&mut self) -> Result<Option<Need>, End> {
        if self.out.len() > CLIENT_HIGH {
            return Ok(None);
        }
        while let Some(frame) = self.again.pop_front() {
            let (flow, _) = self.give(&frame)?;
            if let Some(need) = flow {
                self.again.push_front(frame);
                return Ok(Some(need));
            }
        }
        loop {
            // Who does not read its answers gets no more of them.
            if self.out.len() > CLIENT_HIGH || self.is_full() {
                return Ok(None);
            }
            if self.copying.left > 0 {
                self.take_copy_data();
            }
            let header =
                frame::header(&self.input).map_err(|e| Report::fatal("08P01", e.to_string()))?;
            let Some(h) = header else { return Ok(None) };
            if h.tag == b'd' {
                match self.begin_copy_data(h.len)? {
                    None => continue,
                    need => return Ok(need),
                }
            }
            let most = self.worker.max_message();
            if h.len > most {
                return Err(Report::fatal("54000", "message is too large to be routed")
                    .detail(format!("{} bytes; limits.max_message allows {}.", h.len, most))
                    .into());
            }
            if self.input.len() < h.len {
                return Ok(None);
            }
            let message = self.input.split_to(h.len);
            let (flow, terminate) = self.give(&message)?;
            if terminate {
                self.leaving = Leaving::Goodbye;
                self.input.clear();
                return Ok(None);
            }
            if let Some(need) = flow {
                // Not taken: back to the front, where it came from.
                let rest = std::mem::replace(&mut self.input, message);
                self.input.unsplit(rest);
                return Ok(Some(need));
            }
            drop(message);
            self.taken(h.len);
        }
    }

    pub(super) fn give(&mut self, message: &[u8]) -> Result<(Option<Need>, bool), End> {
        self.idling.ends();
        let Self { worker, parts, out, server, unflushed, copied, plain, sent_at, pools, .. } =
            self;
        let Parts { session, database, user, credentials, info, stats, .. } = parts;
        let header = frame::Header { tag: message[0], len: message.len() };
        let who = Who { database, user, credentials };
        let all = &worker.shared.pools;
        let mut desk = Desk { all, pools, worker: worker.index, who, lent: None };
        // What goes to a connection that the session is lent meanwhile.
        let mut ahead = worker.take_room();
        *unflushed = true;
        let to_server = match server {
            Some(conn) => conn.output.buf(),
            None => &mut ahead,
        };
        match header.tag {
            b'c' | b'f' => *copied = true,
            b'Q' | b'E' => *copied = false,
            _ => {}
        }
        let (flow, begun) = worker.with_env(&mut desk, |env| {
            if *plain {
                env.routes = env.routes.plain();
            }
            let mut io = Io { client: out.buf(), server: to_server };
            (session.client(header, &message[frame::HEADER..], env, &mut io), env.now)
        });
        info.set_requested(begun);
        if let Some(database) = session.take_vacated() {
            all.retire(|of, _| of == database);
        }
        if matches!((header.tag, &flow), (b'Q' | b'P' | b'B', Ok(Flow::Done))) {
            stats.route.record(begun.elapsed());
        }
        if sent_at.is_none() && session.is_waiting_for_server() {
            *sent_at = Some(begun);
        }
        let lent = desk.lent;
        match lent {
            Some(conn) => self.is_lent(conn, &mut ahead, begun),
            None => debug_assert!(ahead.is_empty(), "nothing is sent without a link"),
        }
        self.worker.give_room(ahead);
        match flow {
            Ok(Flow::Done) => Ok((None, false)),
            Ok(Flow::Wait(need)) => Ok((Some(need), false)),
            Ok(Flow::Terminate) => Ok((None, true)),
            Err(e) => Err(Report::fatal("08P01", e.to_string()).into()),
        }
    }

    /// A message of COPY data is half read.
    pub(super) fn is_copying(&self) -> bool {
        self.copying.left > 0
    }

    /// Moves bytes until something has arrived that the session should see.
    async fn wait(&mut self) -> Result<(), End> {
        let limit = self.idle_limit();
        let event = poll_fn(|cx| self.poll_io(cx));
        let event = match limit {
            None => event.await,
            Some((left, end)) => match tokio::time::timeout(left, event).await {
                Ok(event) => event,
                Err(_) => return Err(end.into()),
            },
        };
        match event {
            Event::Progress => Ok(()),
            Event::ClientGone => Err(End::Client),
            Event::Deaf(lost) => Err(lost.report().into()),
            Event::Draining if Box::pin(self.hand_over()).await? => Err(End::HandedOver),
            Event::Draining => {
                Err(Report::fatal("57P01", "terminating connection due to administrator command")
                    .into())
            }
            Event::ServerGone(error) => self.server_gone(error),
        }
    }

    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Err(lost) = self.fetch_mail(cx.waker()) {
            return Poll::Ready(Event::Deaf(lost));
        }
        let before = self.out.len();
        if !self.poll_send(cx) {
            return Poll::Ready(Event::ClientGone);
        }
        // Room was made for messages that waited for it, or a client that leaves has its answers.
        let mut progress = before > CLIENT_HIGH && self.out.len() <= CLIENT_HIGH;
        progress |= self.leaving != Leaving::No && before > 0 && self.out.is_empty();
        if let Some(conn) = self.server.as_deref_mut() {
            let before = conn.output.len();
            if let Poll::Ready(Err(e)) = conn.stream.poll_drain(cx, &mut conn.output) {
                return Poll::Ready(Event::ServerGone(Some(e)));
            }
            let sent = before - conn.output.len();
            self.parts.stats.bytes_to_nodes.add(sent as u64);
            // Room was made for messages that waited for it.
            progress |= before > SERVER_HIGH && conn.output.len() <= SERVER_HIGH;
            if self.out.len() < CLIENT_HIGH
                && let Poll::Ready(filled) = conn.stream.poll_fill(cx, &mut conn.input)
            {
                if let Some(gone) = self.hear(filled) {
                    return Poll::Ready(gone);
                }
                progress = true;
            }
        }
        progress |= self.send_to_resting(cx);
        if let Some(event) = self.hear_resting(cx) {
            return Poll::Ready(event);
        }
        if progress {
            return Poll::Ready(Event::Progress);
        }
        if !self.parts.session.is_waiting_for_server() && self.out.is_empty() {
            let drains = self.worker.drains();
            if drains || !std::mem::replace(&mut self.minds_drain, true) {
                while self.drain.as_mut().poll(cx).is_ready() {
                    // Once more: after those that are idle come those that are not.
                    self.drain.set(self.worker.drain.clone().notified_owned());
                }
            }
            if drains && self.is_to_go() {
                return Poll::Ready(Event::Draining);
            }
        }
        let arrived = self.poll_client(cx);
        if arrived.is_pending() {
            let socket = self.stream.socket();
            self.parts.cancel.rests(cx.waker(), || socket.is_empty());
        }
        arrived
    }

    /// The process drains, and the client has nothing left to wait for here.
    fn is_to_go(&self) -> bool {
        self.worker.ending.get()
            || self.worker.drains()
                && match self.worker.shared.successor() {
                    Some(_) => self.rests(),
                    None => self.parts.session.is_idle(),
                }
    }

    /// Sends to the client what it takes; false when it is gone.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.out.len();
        let drained = (!self.muted).then(|| self.stream.poll_drain(cx, &mut self.out));
        self.parts.stats.bytes_to_clients.add((before - self.out.len()) as u64);
        if matches!(drained, Some(Poll::Ready(Err(_)))) {
            if self.leaving != Leaving::Goodbye {
                return false;
            }
            self.muted = true;
        }
        if self.muted {
            self.out = Out::default();
        }
        true
    }

    /// Reads from the client, up to the read-ahead limit.
    pub(super) fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let wanted = match frame::header(&self.input) {
            Ok(Some(h)) if h.tag != b'd' => h.len.max(READ_AHEAD),
            _ => READ_AHEAD,
        };
        if self.is_full() || self.input.len() >= wanted || self.leaving != Leaving::No {
            return Poll::Pending;
        }
        if self.input.capacity() == 0 {
            self.input = self.worker.take_buffer();
        }
        match self.stream.poll_fill(cx, &mut self.input) {
            Poll::Ready(Err(_)) => Poll::Ready(Event::ClientGone),
            Poll::Ready(Ok(0)) => {
                self.leaving = Leaving::HungUp;
                Poll::Ready(Event::Progress)
            }
            Poll::Ready(Ok(n)) => {
                self.parts.stats.bytes_from_clients.add(n as u64);
                Poll::Ready(Event::Progress)
            }
            Poll::Pending => {
                if self.input.is_empty() {
                    self.worker.give_buffer(std::mem::take(&mut self.input));
                }
                Poll::Pending
            }
        }
    }

    fn note_state(&mut self) {
        let session = &self.parts.session;
        let state = match (session.is_waiting_for_server(), session.status()) {
            (true, _) => ClientState::Active,
            (false, Status::Idle) => ClientState::Idle,
            (false, Status::Transaction | Status::Failed) => ClientState::InTransaction,
        };
        let info = &self.parts.info;
        info.set_state(state);
        info.set_node(session.node());
        info.set_shard(session.shard());
        info.set_prepared(session.prepared_count() as u64);
        if self.told != session.told_print() {
            self.told = session.told_print();
            info.set_application_name(session.application_name());
        }
        if self.pin != session.pinned() {
            self.pin = session.pinned();
            info.set_pin(self.pin);
        }
    }

    /// Moves the session's counters to the worker's.
    pub(super) fn count(&mut self) {
        let c = std::mem::take(&mut self.parts.session.counters);
        let s = &self.parts.stats;
        s.statements(PlanKind::SingleShard).add(c.shard);
        s.statements(PlanKind::SingleNode).add(c.home);
        s.statements(PlanKind::EveryNode).add(c.every);
        s.statements(PlanKind::Refused).add(c.refused);
        c.errors.each().for_each(|(blame, n)| s.errors(blame).add(n));
        s.retries.add(c.retries);
        s.client_parses.add(c.parses);
        s.server_parses.add(c.server_parses);
        s.binds.add(c.binds);
        s.gathered.add(c.gathered);
        s.gathered_bytes.add(c.gathered_bytes);
        if let Some(Moved { bytes, tables }) = self.parts.session.take_moved() {
            tracing::info!(bytes, tables, "a statement has had many rows moved to one node");
        }
        self.worker.count_plans();
    }
}

/// A pool's refusal, as an error of the statement.
pub(super) fn report_of(e: &PoolError) -> Report {
    match e {
        PoolError::QueueTimeout { .. } => Report::error("53300", e.to_string())
            .hint("Raise pool.size, or find out what holds the connections (SHOW CLIENTS)."),
        PoolError::Login(LoginError::Refused { body, .. }) => Report::from_node(body),
        PoolError::Login(LoginError::NoSecret { hint, .. }) => {
            Report::error("28000", e.to_string()).hint(*hint)
        }
        PoolError::Login(LoginError::Unsafe { what, .. }) => {
            Report::error("28000", e.to_string()).hint(what.hint())
        }
        PoolError::Login(_) => Report::error("08006", e.to_string()),
        PoolError::Shutdown | PoolError::Paused => Report::error("57P01", e.to_string()),
    }
}
