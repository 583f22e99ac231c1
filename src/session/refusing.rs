//! Errors of pgshunt's own, in place of an answer.
//!
//! Where the server has begun with the transaction or the segment it must fail too, or it would carry
//! on, and commit, what the client takes for failed: it is sent a statement that cannot succeed, and
//! the client reads our error for the server's.

use super::block::aborted;
use super::link::{Expect, Fate, Reply};
use super::prepared::server_name;
use super::{Io, Pending, Session};
use crate::wire::backend::{Report, Status, report_field_at};
use crate::wire::frontend;

/// A statement that fails in any PostgreSQL when it is parsed, whatever the session's state; in a
/// failed transaction with that one's error. No function can be of this name in that schema.
pub(super) const FAILING: &[u8] = b"SELECT pg_catalog.\"this statement was refused by pgshunt\"()";

impl Session {
    /// The message in front could not be carried out: it is answered with an error.
    pub fn refuse(&mut self, tag: u8, report: Report, io: &mut Io<'_>) {
        self.retry.give_up(tag);
        match tag {
            b'Q' if self.script.is_some() => self.refuse_script(report, io),
            b'Q' | b'F' => self.refuse_query(report, Fate::Refuse, io),
            _ => self.refuse_message(tag, report, io),
        }
    }

    /// Answers with an error of ours, in the simple protocol.
    pub(super) fn refuse_query(
        &mut self,
        report: Report,
        fate: fn(Box<Report>) -> Fate,
        io: &mut Io<'_>,
    ) {
        self.counters.refused += 1;
        let fate = self.in_failed(fate(Box::new(report)));
        match &mut self.link {
            Some(link) if link.started && !link.is_free() => {
                // The server must see a failing statement too, or its transaction would go on.
                frontend::put_query(io.server, FAILING);
                let mut e = Expect::new(Reply::Query, fate);
                e.undo.client = Some((Vec::new(), self.unnamed.take()));
                e.undo.unnamed = Some(link.unnamed.take());
                link.push(e);
            }
            _ => {
                self.tell_refused(fate, io);
                if self.status == Status::Transaction {
                    self.status = Status::Failed;
                }
                self.put_ready(io);
                self.links_mut().filter(|l| !l.started).for_each(|l| l.let_go = true);
            }
        }
    }

    fn tell_refused(&mut self, fate: Fate, io: &mut Io<'_>) {
        if let Fate::Refuse(report) | Fate::Insist(report) = fate {
            self.tell(&report, io);
        }
    }

    /// In a failed transaction, unless what is under way may end it, whatever is refused is told that it has
    /// failed, whichever node is in hand.
    fn in_failed(&self, fate: Fate) -> Fate {
        let quiet = self.link.as_ref().is_none_or(|l| l.is_quiet());
        let bound = self.pending.iter().any(|p| matches!(p, Pending::Bind { .. }));
        let failed = self.status == Status::Failed && quiet && !bound;
        match fate {
            Fate::Refuse(report) if failed && report.sqlstate == "0A000" => {
                Fate::Refuse(Box::new(aborted()))
            }
            fate => fate,
        }
    }

    pub(super) fn refuse_message(&mut self, tag: u8, report: Report, io: &mut Io<'_>) {
        self.refuse_extended(report, io);
        if tag == b'S' {
            // Sync itself always answers.
            self.finish_sync(io);
        }
    }

    /// Answers with an error of ours, behind what is outstanding, and skips to Sync.
    fn refuse_extended(&mut self, report: Report, io: &mut Io<'_>) {
        self.counters.refused += 1;
        let fate = match std::mem::take(&mut self.computing.insists) {
            true => Fate::Insist(Box::new(report)),
            false => self.in_failed(Fate::Refuse(Box::new(report))),
        };
        self.skipping = true;
        // Behind what only a node could have answered nothing is answered any more.
        let asked = |p: &Pending| {
            matches!(
                p,
                Pending::DescribeStatement { .. }
                    | Pending::DescribePortal { .. }
                    | Pending::Execute { .. }
            )
        };
        if let Some(at) = self.pending.iter().position(asked) {
            let kept = self.pending.drain(..at).collect();
            self.forget_pending(0);
            self.pending = kept;
        }
        match &mut self.link {
            Some(link) if link.started && !link.is_free() => {
                for p in std::mem::take(&mut self.pending) {
                    let (bytes, undo) = p.answered();
                    // What is under way is answered first; nothing is pending any more.
                    let _ = self.ours(bytes, undo, io);
                }
                self.pending_bytes = 0;
                let Some(link) = &mut self.link else { return };
                // The server must fail too, or it would commit what came before in this segment.
                frontend::put_parse(io.server, b"", super::FAILING, b"");
                let mut e = Expect::new(Reply::Parse, fate);
                e.undo.unnamed = Some(link.unnamed.take());
                link.push(e);
            }
            _ => {
                let muted = self.retry.muted();
                for p in std::mem::take(&mut self.pending).into_iter().skip(muted) {
                    io.client.extend_from_slice(&p.answered().0);
                }
                self.pending_bytes = 0;
                self.tell_refused(fate, io);
                if self.status == Status::Transaction {
                    self.status = Status::Failed;
                }
            }
        }
    }
}

impl Session {
    /// The error with the name that the client has given to the statement in front, if the server
    /// has named it.
    pub(super) fn in_clients_words(&self, error: &[u8]) -> Option<Vec<u8>> {
        let front = self.link.as_ref()?.expects.front()?;
        front.statement.as_ref()?;
        let message = report_field_at(error, b'M')?;
        let at = message.start + memchr::memmem::find(error.get(message)?, b"\"pgs_")? + 1;
        let (before, rest) = error.split_at_checked(at)?;
        let (name, after) = rest.split_at_checked(server_name(&[0; 16]).len())?;
        let ours = name[4..].iter().all(u8::is_ascii_hexdigit) && after.starts_with(b"\"");
        ours.then(|| [before, &front.name, after].concat())
    }
}
