//! The server connections that a client's session holds: lent, taken in hand in turn, given back.
//!
//! The session decides about its links, and this does the same with the connections: the one in hand
//! is [`Client::server`], the others stand in the session's order.

use std::task::Context;
use std::time::Instant;

use super::desk::Nothing;
use super::ending::{End, abandon_aside};
use super::relay::{Client, SERVER_HIGH};
use crate::pool::Leased;
use crate::session::{Io, Onto};
use crate::topology::NodeId;
use crate::wire::backend::Report;

impl Client {
    /// Gives back, cancels and takes in hand what the session says. True if a connection was given back.
    pub(super) fn follow(&mut self) -> bool {
        let mut released = false;
        if self.parts.session.take_left_prepared() {
            self.worker.shared.store.leftovers().notify_one();
        }
        loop {
            self.drop_abandoned();
            if self.release() {
                released = true;
                continue;
            }
            match self.parts.session.wanted_turn() {
                Some(node) if self.turn(node) => {}
                _ => return released,
            }
        }
    }

    /// The session has ended: gives back what it lets go of.
    pub(super) fn give_back(&mut self) {
        while self.release() {}
    }

    /// Takes the session's connection to `node` in hand; false: it is there already, or gone.
    pub(super) fn turn(&mut self, node: NodeId) -> bool {
        let Some(at) = self.parts.session.turn_to(node) else { return false };
        if let Some(server) = &mut self.server {
            std::mem::swap(server, &mut self.resting[at]);
        }
        self.turned();
        true
    }

    /// Another connection is in hand: the session goes on with it.
    fn turned(&mut self) {
        if let Some(conn) = &mut self.server {
            let mut io = Io { client: self.out.buf(), server: conn.output.buf() };
            self.parts.session.turned(&mut io);
        }
    }

    /// Sends the connections that rest what the session has written to them. True: room was made for
    /// messages that waited for it.
    pub(super) fn send_to_resting(&mut self, cx: &mut Context<'_>) -> bool {
        let mut room = false;
        for conn in self.resting.iter_mut().map(|conn| &mut **conn) {
            let before = conn.output.len();
            if before > 0 {
                // Whether it is gone shows when it is heard.
                let _ = conn.stream.poll_drain(cx, &mut conn.output);
                self.parts.stats.bytes_to_nodes.add((before - conn.output.len()) as u64);
                room |= before > SERVER_HIGH && conn.output.len() <= SERVER_HIGH;
            }
        }
        room
    }

    /// Cancels what nobody waits for any more.
    fn drop_abandoned(&mut self) {
        while let Some(at) = self.parts.session.take_abandoned() {
            let conn = self.resting.remove(at);
            self.note_held();
            abandon_aside(conn, &self.worker);
        }
    }

    /// What a cancel of the client means from here on.
    fn note_held(&mut self) {
        let several = !self.resting.is_empty();
        if several || self.several {
            self.several = several;
            let held = self.server.iter().chain(&self.resting);
            let nodes = self.parts.session.nodes();
            let processes = nodes.zip(held.map(|conn| conn.cancel.key.pid)).collect();
            self.worker.shared.deadlocks.note(self.parts.info.id, processes, &self.chosen);
        }
        let held = self.server.iter().chain(&self.resting).map(|conn| conn.cancel.clone());
        match self.server {
            Some(_) => self.parts.cancel.linked(held),
            None => self.parts.cancel.idle(),
        }
    }

    /// Takes the connection in hand from the session, whatever is under way on it.
    pub(super) fn unlink(&mut self) -> Option<Leased> {
        let worker = self.worker.clone();
        worker.with_env(&mut Nothing, |env| self.parts.session.unlink(env));
        let gone = self.server.take();
        self.server = self.resting.pop();
        self.note_held();
        gone
    }

    /// The connection in hand has broken off amid a statement on several nodes. True: the session goes
    /// on without it.
    pub(super) fn loses_part(&mut self, report: &Report) -> bool {
        let Some(conn) = &mut self.server else { return false };
        let mut io = Io { client: self.out.buf(), server: conn.output.buf() };
        if !self.parts.session.part_lost(report, &mut io) {
            return false;
        }
        self.drop_abandoned();
        self.server = self.resting.pop();
        self.note_held();
        let mut none = Vec::new();
        let to_server = match &mut self.server {
            Some(conn) => conn.output.buf(),
            None => &mut none,
        };
        self.parts.session.lose_part(&mut Io { client: self.out.buf(), server: to_server });
        true
    }

    /// Gives the connection in hand back when the session lets go of it; true if it did.
    fn release(&mut self) -> bool {
        if !self.parts.session.lets_go() {
            return false;
        }
        let again = self.parts.session.take_retry();
        let worker = self.worker.clone();
        let session = &mut self.parts.session;
        let (released, now) =
            worker.with_env(&mut Nothing, |env| (session.take_released(env), env.now));
        let gone = released.is_some();
        if let Some(facts) = released {
            let conn = self.server.take();
            self.server = self.resting.pop();
            self.note_held();
            if let Some(mut conn) = conn {
                conn.facts = Some(facts);
                if self.copying.left > 0 && self.copying.onto == Onto::Node {
                    // The COPY failed while a message of its data was half passed on. The node
                    // would take what the next client says for the other half.
                    conn.facts().spent = true;
                    self.copying.onto = Onto::Nobody;
                }
                conn.info.set_requested(self.parts.info.requested_at());
                conn.give(self.worker.index, now);
            }
            match self.server {
                Some(_) => self.turned(),
                None => {
                    if let Some(at) = self.linked_at.take() {
                        self.parts.stats.transaction.record(now.saturating_duration_since(at));
                    }
                    self.parts.stats.transactions.inc();
                    self.count();
                }
            }
        }
        self.again.extend(again);
        gone
    }

    /// Gets a connection to `node` and links the session to it.
    pub(super) async fn lease(&mut self, node: NodeId) -> Result<(), End> {
        self.linked_at.get_or_insert_with(Instant::now);
        let mut conn = match self.borrow(node).await? {
            Ok(conn) => conn,
            Err(refused) => {
                let away = |r: &Report| r.sqlstate.starts_with("08");
                if refused.as_ref().is_some_and(away) && self.parts.session.forgoes_snapshot() {
                    return Ok(());
                }
                if let Some(report) = refused {
                    self.refuse_front(report);
                }
                return Ok(());
            }
        };
        self.parts.stats.server_assignments.inc();
        let facts = conn.facts.take().unwrap_or_default();
        let worker = self.worker.clone();
        worker.with_env(&mut Nothing, |env| self.parts.session.linked(node, facts, env));
        self.resting.extend(self.server.replace(conn));
        self.note_held();
        Ok(())
    }

    /// The session was lent this connection while it took a message, and has written `ahead` to it.
    pub(super) fn is_lent(&mut self, mut conn: Leased, ahead: &mut Vec<u8>, now: Instant) {
        self.linked_at.get_or_insert(now);
        conn.serves(self.parts.info.id);
        self.parts.stats.server_assignments.inc();
        conn.output.buf().append(ahead);
        self.server = Some(conn);
        self.note_held();
    }

    /// The session is linked to this connection already: it has brought it along.
    pub(super) fn holds(&mut self, mut conn: Leased) {
        conn.serves(self.parts.info.id);
        self.parts.session.shares(conn.facts());
        self.parts.cancel.linked([conn.cancel.clone()]);
        self.linked_at = Some(Instant::now());
        self.server = Some(conn);
    }
}
