//! The start of a transaction on a connection: the session's parameters, the BEGIN that was kept.
//!
//! Both are written together with the first request, as statements of the extended protocol without
//! a Sync. If one of them fails the server skips whatever follows, so a statement is never carried
//! out under other parameters than its session's or outside of its transaction; it gets the error,
//! and the connection is tidied up and given back.
//!
//! A transaction that has done nothing but set its own stage (SET LOCAL, SAVEPOINT, a constant) is
//! not bound to its node yet: it is rolled back and begun on the node that the first statement with
//! a place names.

use super::clock::Clock;
use super::link::{Expect, Fate, Link, Reply};
use super::settings::{are_in_force, steps};
use super::{Io, Session};
use crate::wire::backend::{Status, report_field};
use crate::wire::blame::Blame;
use crate::wire::{frame, frontend};

/// No formats, no parameters.
const NO_VALUES: &[u8] = &[0; 6];

/// The portal of what is slipped in between the client's own.
pub(super) const PORTAL: &[u8] = b"pgs_own";

impl Session {
    /// Starts the transaction on a fresh link: session parameters, then the BEGIN that was kept.
    pub(super) fn begin_on_link(&mut self, io: &mut Io<'_>) {
        let keeps_begin = self.keeps_portal_of_begin();
        let Some(link) = &mut self.link else { return };
        // One that was kept, and joins the block that is open.
        let joins = || self.status == Status::Transaction && link.is_free();
        if link.started && !joins() {
            return;
        }
        link.started = true;
        let wanted = self.settings.current();
        let mut opening = Vec::new();
        if !are_in_force(link.facts.applied.as_ref(), wanted) {
            opening.push("BEGIN".to_owned());
            opening.extend(steps(link.facts.applied.as_ref(), wanted));
            opening.push("COMMIT".to_owned());
            // Told by its error if not.
            link.facts.applied = Some(wanted.clone());
        }
        // Of a participant that comes later BEGIN was sent to another one.
        let later = self.status == Status::Transaction && self.begin.is_empty();
        let begin = if later { &self.begin_text } else { &self.begin };
        let begins = !begin.is_empty() && !link.outside;
        // The client's first Execute must not find a portal that it has not bound.
        let closes = !(begins && keeps_begin);
        let last = if begins { None } else { opening.len().checked_sub(1) };
        for (step, sql) in opening.iter().enumerate() {
            link.put_own(b"", sql.as_bytes(), last == Some(step), io);
        }
        let mut spoils = false;
        link.begun = begins;
        if begins {
            let portal = if closes { b"" } else { PORTAL };
            let steps = self.prelude.steps().len();
            link.put_own(b"", begin, closes && steps == 0, io);
            for (n, sql) in self.prelude.steps().enumerate() {
                let closed = !closes || n + 1 == steps;
                link.put_own(portal, sql.as_bytes(), closed, io);
            }
            spoils = self.status == Status::Failed;
            if !later {
                let alone = self.spread.is_none() && self.resting.is_empty();
                self.movable = link.residue.pinned.is_none() && !spoils && alone;
                self.clock = Clock::of(link.node);
                self.opened.clone_from(&self.begin);
                self.begin_text.clone_from(&self.begin);
                self.begin.clear();
            }
        }
        link.opening = begins || !opening.is_empty();
        link.opening_full = false;
        if spoils {
            frontend::put_parse(io.server, b"", super::FAILING, b"");
            link.push(Expect::new(Reply::Parse, Fate::Spoil));
            frontend::put_empty(io.server, b'S');
            link.push(Expect::new(Reply::Sync, Fate::Spoil));
        }
    }

    /// The transaction is being made to fail on its node, as it has for the client: what is said in
    /// it from then on the server answers, in its own words.
    pub(super) fn is_spoiling(&self) -> bool {
        let last = self.link.as_ref().and_then(|l| l.expects.back());
        last.is_some_and(|e| e.fate == Fate::Spoil)
    }

    /// Slips a statement in behind what the client has sent in this segment.
    pub(super) fn put_own_behind(&mut self, sql: &str, io: &mut Io<'_>) {
        if let Some(link) = &mut self.link {
            link.put_own(PORTAL, sql.as_bytes(), true, io);
        }
    }

    /// The start of the transaction failed: its error is the error of the client's request, which
    /// the server skips. `error` is the server's message, body only.
    pub(super) fn opening_failed(&mut self, error: &[u8], io: &mut Io<'_>) {
        if self.spread.is_some() {
            return self.part_cannot_begin(error, io);
        }
        let spoiling = self.is_spoiling();
        let Some(link) = &mut self.link else { return };
        link.opening = false;
        link.facts.applied = None;
        if self.status != Status::Idle && self.begin.is_empty() {
            self.begin.clone_from(&self.opened);
        }
        if spoiling {
            // The client's request is still to be answered.
            self.unspoilable = true;
            link.take_skipped();
            self.tidy_sync(io);
            self.roll_back(io);
            return;
        }
        let skipped = link.take_skipped();
        let query = skipped.iter().any(|e| e.reply == Reply::Query);
        for e in &skipped {
            self.undo(&e.undo);
        }
        let code = report_field(error, b'C').unwrap_or_default();
        self.note_error(Blame::of_node(code));
        frame::put(io.client, b'E', |b| b.extend_from_slice(error));
        if self.status == Status::Transaction {
            self.status = Status::Failed;
        }
        let synced = self.tidy_sync(io);
        if query || synced {
            self.put_ready(io);
        } else {
            self.skipping = true;
        }
        self.roll_back(io);
    }

    /// Makes the Sync that ends a failed segment pgshunt's own, or sends one. True: it was there.
    pub(super) fn tidy_sync(&mut self, io: &mut Io<'_>) -> bool {
        let Some(link) = &mut self.link else { return false };
        if let Some(sync) = link.expects.front_mut() {
            return std::mem::replace(&mut sync.fate, Fate::Tidy) != Fate::Tidy;
        }
        frontend::put_empty(io.server, b'S');
        link.push(Expect::new(Reply::Sync, Fate::Tidy));
        false
    }

    /// Ends what is open on the link, which then goes back to the pool.
    pub(super) fn roll_back(&mut self, io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        frontend::put_query(io.server, b"ROLLBACK");
        link.push(Expect::new(Reply::Query, Fate::Tidy));
        link.ending = true;
        // What was drawn on it is known there still, if it comes back.
        link.residue.kept = false;
        self.movable = false;
    }

    /// Whether the open transaction could as well have begun on another node.
    pub(super) fn can_move(&self) -> bool {
        self.movable
            && !self.opened.is_empty()
            && self.status == Status::Transaction
            && self.link.as_ref().is_some_and(|l| !l.in_segment && l.status == Status::Transaction)
    }

    /// Leaves the transaction's node: it begins again on another one.
    pub(super) fn begin_elsewhere(&mut self, io: &mut Io<'_>) {
        self.begin.clone_from(&self.opened);
        if self.begin.is_empty() {
            // It was begun in the midst of a text, and has failed since.
            self.begin.extend_from_slice(b"BEGIN");
        }
        self.roll_back(io);
    }
}

impl Link {
    /// Writes a statement of pgshunt's own, the last of whose messages closes its portal if `closed`.
    pub(super) fn put_own(&mut self, portal: &[u8], sql: &[u8], closed: bool, io: &mut Io<'_>) {
        frontend::put_parse(io.server, b"", sql, b"");
        frontend::put_bind(io.server, portal, b"", NO_VALUES);
        frame::put(io.server, b'E', |b| {
            b.extend_from_slice(portal);
            b.extend_from_slice(&[0; 5]);
        });
        if closed {
            frontend::put_named(io.server, b'C', b'P', portal);
        }
        let mut e = Expect::new(Reply::Own { closed }, Fate::Swallow);
        e.undo.unnamed = Some(self.unnamed.take());
        self.push(e);
    }
}
