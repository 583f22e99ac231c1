//! COPY FROM STDIN, as the server reads it.
//!
//! From the moment it waits for data the server takes data and their end, passes over Flush and Sync,
//! and ends the connection at anything else. After an error it goes on as ever: passes over late data,
//! and answers Sync. Where the error came among the client's messages is not told, so that it is not
//! known how many Syncs have been passed over, nor whether a message met the COPY or what is behind
//! it. That is asked: a Sync, a Close and a Sync of pgshunt's own, of which the Close ends the
//! connection if the COPY still runs, and else its answer stands behind all that the client has asked.

use super::link::{Expect, Fate, Link, Reply};
use super::relay::Keep;
use super::{Env, Io, Session};
use crate::wire::backend::{Status, report_field_at};
use crate::wire::frontend;

/// No statement is prepared by this name.
const NOBODY: &[u8] = b"pgs_nobody";

/// How the server words the Close that it did not expect.
const CLOSE: &[u8] = b"0x43";

/// A COPY has failed, or may have, and it is not known what became of the Syncs within it.
#[derive(Debug, Default)]
pub struct Doubt {
    /// So many Syncs are answered or were passed over.
    open: usize,
    /// So many the client has had the answers of.
    answered: usize,
    /// It was executed by the extended protocol: after its error the server passes over all but Sync.
    extended: bool,
    asked: bool,
    /// The first ReadyForQuery behind the question, one of which is pgshunt's.
    held: bool,
    /// A message of this kind came within the COPY, if that still ran.
    unexpected: Option<u8>,
}

impl Session {
    /// The node waits for COPY data.
    pub fn copies_in(&self) -> bool {
        self.link.as_ref().is_some_and(|l| l.copy_in)
    }

    /// COPY data may be passed on as it comes, without waiting for whole messages.
    pub fn streams_copy(&self) -> bool {
        self.link.as_ref().is_some_and(|l| l.doubt.is_none() && (l.copy_in || !l.is_quiet()))
    }

    /// Whether a message must wait, because of a COPY that it would meet or not meet.
    pub(super) fn is_held_by_copy(&mut self, tag: u8, io: &mut Io<'_>) -> bool {
        let Some(link) = &mut self.link else { return false };
        if matches!(tag, b'd' | b'c' | b'f' | b'X') {
            return false;
        }
        if link.doubt.is_some() {
            link.ask_after_copy(io);
            return true;
        }
        if matches!(tag, b'H' | b'S') {
            return false;
        }
        if link.copy_in {
            link.doubt = Some(Doubt { unexpected: Some(tag), ..Doubt::default() });
            link.ask_after_copy(io);
            return true;
        }
        // Whether it runs is not known yet.
        link.order.copies(link.expects.len())
    }

    /// Data of a COPY, or their end.
    pub(super) fn copy_data(&mut self, tag: u8, body: &[u8], io: &mut Io<'_>) {
        // Late data of a COPY that has failed meanwhile is discarded, as PostgreSQL does.
        if !self.streams_copy() {
            return;
        }
        let Some(link) = &mut self.link else { return };
        crate::wire::frame::put(io.server, tag, |b| b.extend_from_slice(body));
        if tag != b'd' {
            link.copy_in = false;
            link.push(Expect::forward(Reply::Copied));
        }
    }

    /// The request in front has failed and is taken out. True: what is behind it is in doubt.
    pub(super) fn copy_failed(&mut self, extended: bool, io: &mut Io<'_>) -> bool {
        let Some(link) = &mut self.link else { return false };
        let open = std::mem::take(&mut link.eaten);
        if open == 0 && link.doubt.is_none() {
            return false;
        }
        let doubt = link.doubt.get_or_insert_default();
        (doubt.open, doubt.extended) = (open, extended);
        if !doubt.asked {
            // Nothing else may stand behind a COPY that has not been answered.
            let synced = link.expects.iter().any(|e| e.reply == Reply::Sync);
            link.order.taken_out(link.expects.len());
            link.expects.clear();
            if synced {
                // No data comes any more, and so none is half passed on.
                link.ask_after_copy(io);
            }
        }
        link.in_segment = true;
        true
    }

    /// ReadyForQuery that may be for a Sync within a COPY.
    pub(super) fn ready_in_doubt(&mut self, body: &[u8], env: &Env<'_>, io: &mut Io<'_>) -> Keep {
        let Some(link) = &mut self.link else { return Keep::Drop };
        let Some(doubt) = &mut link.doubt else {
            // The last one of the question.
            link.expects.pop_front();
            link.status = body.first().copied().and_then(Status::from_byte).unwrap_or(link.status);
            return Keep::Drop;
        };
        let last = !link.expects.is_empty() && !std::mem::replace(&mut doubt.held, true);
        if last {
            return Keep::Drop;
        }
        doubt.answered += 1;
        let settled = !doubt.asked && doubt.answered == doubt.open;
        link.expects.push_front(Expect::forward(Reply::Sync));
        if settled {
            self.settle_copy();
        }
        self.ready(body, env, io)
    }

    /// All that was sent before is answered.
    pub(super) fn settle_copy(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some(doubt) = link.doubt.take() else { return };
        // For the client the segment goes on up to its next Sync.
        self.skipping = doubt.extended && doubt.answered == 0;
        link.in_segment = self.skipping;
    }

    /// The server's words about the Close within a COPY, of the message of the client's that it stands
    /// for.
    pub(super) fn unexpected_in_copy(&self, error: &[u8]) -> Option<Vec<u8>> {
        let tag = self.link.as_ref()?.doubt.as_ref()?.unexpected?;
        let message = report_field_at(error, b'M')?;
        let at = message.start + memchr::memmem::find(error.get(message)?, CLOSE)?;
        let (before, rest) = error.split_at_checked(at)?;
        Some([before, format!("0x{tag:02X}").as_bytes(), rest.get(CLOSE.len()..)?].concat())
    }
}

impl Link {
    /// The client is through with its part of the COPY in front, or waits with it.
    pub fn copy_begins(&mut self, takes_data: bool) {
        self.copy_in = true;
        if !takes_data {
            return;
        }
        self.takes_data = true;
        let ended = self.expects.iter().position(|e| e.reply == Reply::Copied);
        self.copy_in = ended.is_none();
        let until = ended.unwrap_or(self.expects.len());
        let mut at = 0;
        let before = self.expects.len();
        self.expects.retain(|e| {
            at += 1;
            at > until || e.reply != Reply::Sync
        });
        self.eaten = before - self.expects.len();
        self.order.taken_out(self.eaten);
        // The Sync behind the COPY ends the segment.
        let query = self.expects.front().is_some_and(|e| e.reply == Reply::Query);
        let synced = query || self.expects.iter().any(|e| e.reply == Reply::Sync);
        self.in_segment |= self.eaten > 0 && !synced;
    }

    /// The statement in front is complete, and if it was a COPY it has had its data.
    pub fn copy_ends(&mut self) {
        self.copy_in = false;
        self.eaten = 0;
        let took_data = std::mem::take(&mut self.takes_data);
        let query = self.expects.front().is_some_and(|e| e.reply == Reply::Query);
        // Of several in one text each has an end of its own.
        if took_data
            && query
            && let Some(at) = self.expects.iter().position(|e| e.reply == Reply::Copied)
        {
            self.expects.remove(at);
            self.order.taken_out(1);
        }
    }

    /// Whether a ReadyForQuery that comes now may be for a Sync within a COPY, or is pgshunt's.
    pub fn may_be_in_doubt(&self) -> bool {
        match self.expects.front() {
            Some(e) => e.fate == Fate::Doubt,
            None => self.doubt.is_some(),
        }
    }

    fn ask_after_copy(&mut self, io: &mut Io<'_>) {
        let Some(doubt) = self.doubt.as_mut().filter(|d| !d.asked) else { return };
        doubt.asked = true;
        frontend::put_empty(io.server, b'S');
        frontend::put_named(io.server, b'C', b'S', NOBODY);
        frontend::put_empty(io.server, b'S');
        self.push(Expect::new(Reply::Sync, Fate::Doubt));
        self.push(Expect::new(Reply::Sync, Fate::Doubt));
        (self.in_segment, self.flushed) = (true, true);
    }
}
