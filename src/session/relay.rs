//! The server's answers on their way to the client.
//!
//! Whatever needs no look is passed on in runs, not message by message, and a message larger than
//! the buffer is passed on in pieces. Looked at are: errors (to know what they end, and whether the
//! request may be tried again), command tags (what the session must remember) and ReadyForQuery.

use bytes::{Buf, BytesMut};

use super::link::{Fate, Link, Reply};
use super::{Env, Io, Session};
use crate::router::plan::Control;
use crate::topology::Epoch;
use crate::wire::backend::{self, Status, report_field};
use crate::wire::frame::{self, Header};
use crate::wire::{FENCED, ProtocolError};

/// An inspected message is held whole; none that a server sends is near this.
const MAX_INSPECTED: usize = 1 << 20;

/// The request that opened the transaction, kept until its answer begins: if the shard turns out
/// to have moved it is routed anew, unseen by the client.
#[derive(Debug, Default)]
pub struct Retry {
    frame: Option<Vec<u8>>,
    epoch: Option<Epoch>,
    /// The failed answer is being discarded up to ReadyForQuery.
    discarding: bool,
    pub(super) again: bool,
    attempts: u32,
}

/// A shard moves rarely; a request that meets moved shards this often meets something else.
const MAX_ATTEMPTS: u32 = 5;

/// Requests larger than this are not kept; their error is the client's.
const MAX_KEPT: usize = 64 << 10;

impl Retry {
    pub fn keep(&mut self, text: &[u8], epoch: Epoch) {
        self.forget();
        if text.len() <= MAX_KEPT {
            let kept = self.frame.get_or_insert_default();
            kept.clear();
            crate::wire::frontend::put_query(kept, text);
            self.epoch = Some(epoch);
        }
    }

    pub fn forget(&mut self) {
        if !self.again {
            self.frame = None;
            self.discarding = false;
        }
    }

    fn is_armed(&self) -> bool {
        self.frame.is_some() && self.attempts < MAX_ATTEMPTS
    }
}

/// The errors that say a shard is not, or no longer, where the routing table said.
fn says_moved(sqlstate: &[u8]) -> bool {
    sqlstate == FENCED.as_bytes() || sqlstate == b"23514" || sqlstate == b"42501"
}

impl Session {
    /// Takes as many of the server's bytes as are understood.
    ///
    /// # Errors
    /// The server does not speak the protocol; the link must be closed.
    pub fn server(
        &mut self,
        input: &mut BytesMut,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), ProtocolError> {
        // Bytes of `input` that are the client's and have not been copied yet.
        let mut run = 0;
        while let Some(link) = &mut self.link {
            if link.passing > 0 {
                let n = link.passing.min(input.len() - run);
                link.passing -= n;
                if link.passing_on {
                    run += n;
                } else {
                    pass(input, &mut run, io);
                    input.advance(n);
                }
                if run == input.len() {
                    break;
                }
            }
            let Some(h) = frame::header(&input[run..])? else { break };
            if !is_inspected(h.tag) || (h.len > MAX_INSPECTED && h.tag == b'E') {
                let front = link.expects.front();
                link.passing_on =
                    front.is_none_or(|e| e.fate == Fate::Forward) && !self.retry.discarding;
                link.passing = h.len;
                if link.passing_on {
                    self.retry.frame = None;
                }
                continue;
            }
            if h.len > MAX_INSPECTED {
                return Err(ProtocolError("oversized message from the node"));
            }
            if input.len() - run < h.len {
                break;
            }
            let keep = self.inspect(h, &input[run + frame::HEADER..run + h.len], env);
            match keep {
                Keep::Forward => run += h.len,
                Keep::Drop => {
                    pass(input, &mut run, io);
                    input.advance(h.len);
                }
                Keep::Replace(report) => {
                    pass(input, &mut run, io);
                    input.advance(h.len);
                    report.put(io.client);
                }
                Keep::Ready(status) => {
                    pass(input, &mut run, io);
                    input.advance(h.len);
                    backend::put_ready(io.client, status);
                }
            }
            // What pgshunt answers itself stands in line behind what the server had to answer.
            while let Some(link) = &mut self.link {
                let Some(Reply::Ours(_)) = link.expects.front().map(|e| &e.reply) else { break };
                pass(input, &mut run, io);
                if let Some(Reply::Ours(bytes)) = link.expects.pop_front().map(|e| e.reply) {
                    io.client.extend_from_slice(&bytes);
                }
            }
        }
        pass(input, &mut run, io);
        if self.pinned.is_some() && self.is_idle() {
            self.renew_ticket(env);
        }
        Ok(())
    }

    /// Looks at one whole message.
    fn inspect(&mut self, h: Header, body: &[u8], env: &Env<'_>) -> Keep {
        let Some(link) = &mut self.link else { return Keep::Drop };
        match h.tag {
            b'S' => {
                link.facts.note_status(body);
                // A change that nobody asked for (SIGHUP) is the client's too.
                return match link.expects.front() {
                    Some(e) if e.fate == Fate::Swallow => Keep::Drop,
                    _ => Keep::Forward,
                };
            }
            b'E' => return self.error(body, env),
            b'G' | b'W' => {
                link.copy_in = true;
                return forward_if(link);
            }
            _ => {}
        }
        let Some(front) = link.expects.front_mut() else {
            // The protocol has no unasked message of these kinds.
            self.broken = Some(format!("unexpected message {:?} from the node", h.tag as char));
            return Keep::Drop;
        };
        let forwards = front.fate == Fate::Forward && !self.retry.discarding;
        let completes = match (&front.reply, h.tag) {
            (Reply::Query | Reply::Sync, b'Z')
            | (Reply::Parse, b'1')
            | (Reply::Bind, b'2')
            | (Reply::Close, b'3')
            | (Reply::Describe, b'T' | b'n')
            | (Reply::Execute, b'C' | b'I' | b's') => true,
            (Reply::Query, _) | (Reply::Describe, b't') => false,
            _ => {
                self.broken =
                    Some(format!("message {:?} from the node out of turn", h.tag as char));
                return Keep::Drop;
            }
        };
        if forwards && h.tag != b'Z' && !(h.tag == b'1' || h.tag == b'2') {
            self.retry.frame = None;
        }
        let mut control = None;
        if matches!(h.tag, b'C' | b'I') {
            link.copy_in = false;
            if let Some(controls) = front.controls.clone() {
                control = controls.get(front.completed).cloned();
                front.completed += 1;
            }
            if h.tag == b'C' && body.starts_with(b"ROLLBACK\0") {
                // COMMIT of a failed transaction answers ROLLBACK.
                if let Some((c @ Control::Commit, _)) = &mut control {
                    *c = Control::Rollback;
                }
            }
        }
        if completes {
            link.expects.pop_front();
        }
        if let Some((control, sql)) = control {
            self.apply(&control, &sql);
        }
        if h.tag == b'Z' {
            return self.ready(body, forwards);
        }
        if forwards { Keep::Forward } else { Keep::Drop }
    }

    fn ready(&mut self, body: &[u8], forwards: bool) -> Keep {
        let Some(link) = &mut self.link else { return Keep::Drop };
        link.copy_in = false;
        let Some(status) = body.first().copied().and_then(Status::from_byte) else {
            self.broken = Some("malformed ReadyForQuery from the node".into());
            return Keep::Drop;
        };
        link.status = status;
        if std::mem::take(&mut self.retry.discarding) {
            self.retry.again = true;
            self.release = true;
            return Keep::Drop;
        }
        if link.outside && link.expects.is_empty() {
            self.release = true;
            self.epoch = None;
            return if forwards { Keep::Ready(self.status) } else { Keep::Drop };
        }
        if status == Status::Idle && forwards {
            // An implicit transaction has ended, or an explicit one by COMMIT or ROLLBACK, which
            // has been applied already: nothing pending is left then.
            self.settings.commit();
            self.portals.clear();
            self.epoch = None;
        }
        link.facts.applied = match (status, self.settings.is_pending()) {
            (Status::Idle, false) => Some(self.settings.current().clone()),
            _ => link.facts.applied.take(),
        };
        if forwards {
            self.status = status;
            self.retry.attempts = 0;
        }
        if status == Status::Idle && link.expects.is_empty() && self.begin.is_empty() {
            if self.pinned.is_none() {
                self.release = forwards;
            }
            self.retry.forget();
        }
        if forwards { Keep::Forward } else { Keep::Drop }
    }

    fn error(&mut self, body: &[u8], env: &Env<'_>) -> Keep {
        let Some(link) = &mut self.link else { return Keep::Drop };
        link.copy_in = false;
        let sqlstate = report_field(body, b'C').unwrap_or_default();
        let severity = report_field(body, b'V').or_else(|| report_field(body, b'S'));
        if severity.is_some_and(|s| s == b"FATAL" || s == b"PANIC") {
            self.broken = Some("the node has closed the connection".into());
            return Keep::Forward;
        }
        let Some(front) = link.expects.front_mut() else { return Keep::Forward };
        let keep = match std::mem::replace(&mut front.fate, Fate::Swallow) {
            Fate::Forward => {
                front.fate = Fate::Forward;
                let may = front.reply == Reply::Query && self.retry.is_armed();
                // 23514 and 42501 are ordinary errors too: tried again only when the routing
                // table has changed since, so the second answer is final.
                let fenced = sqlstate == FENCED.as_bytes();
                let newer = self.retry.epoch != Some(env.routes.epoch);
                if may && says_moved(sqlstate) && (fenced || newer) {
                    self.retry.discarding = true;
                    Keep::Drop
                } else {
                    Keep::Forward
                }
            }
            // A statement that was fine when the client prepared it no longer is.
            Fate::Swallow if front.reply == Reply::Parse => {
                front.fate = Fate::Forward;
                Keep::Forward
            }
            Fate::Swallow => {
                let why = report_field(body, b'M').unwrap_or_default();
                let why = String::from_utf8_lossy(why);
                self.broken = Some(format!("could not prepare the server connection: {why}"));
                Keep::Drop
            }
            Fate::Refuse(report) => {
                // The ReadyForQuery behind it is the client's.
                front.fate = Fate::Forward;
                Keep::Replace(report)
            }
        };
        front.controls = None;
        let in_query = front.reply == Reply::Query;
        if link.outside {
            if self.status == Status::Transaction {
                self.status = Status::Failed;
            }
            // Ended by a Sync of ours: the client's is still to come.
            self.skipping = link.expects.back().is_some_and(|e| e.fate == Fate::Swallow);
        }
        self.settings_after_error();
        if !in_query {
            let Some(link) = &mut self.link else { return keep };
            for name in link.fail_segment() {
                self.forget_statement(&name);
            }
        }
        keep
    }

    fn settings_after_error(&mut self) {
        if self.settings.is_pending() {
            self.settings.rollback();
            if let Some(link) = &mut self.link {
                link.facts.applied = None;
            }
        }
    }

    /// The frames to be given to [`Session::client`] again on a fresh link, if a retry is due.
    /// The caller passes them before anything new of the client.
    pub fn take_retry(&mut self) -> Vec<Vec<u8>> {
        if !std::mem::take(&mut self.retry.again) {
            return Vec::new();
        }
        self.counters.retries += 1;
        self.retry.attempts += 1;
        self.retry.frame.take().into_iter().collect()
    }
}

enum Keep {
    Forward,
    Drop,
    Replace(Box<backend::Report>),
    /// ReadyForQuery, of the client's transaction and not the server's.
    Ready(Status),
}

fn forward_if(link: &Link) -> Keep {
    match link.expects.front() {
        Some(e) if e.fate == Fate::Swallow => Keep::Drop,
        _ => Keep::Forward,
    }
}

fn is_inspected(tag: u8) -> bool {
    matches!(
        tag,
        b'Z' | b'C'
            | b'E'
            | b'1'
            | b'2'
            | b'3'
            | b'I'
            | b's'
            | b'T'
            | b't'
            | b'n'
            | b'S'
            | b'G'
            | b'W'
    )
}

/// Copies the run of the client's bytes at the front of `input` and removes it.
fn pass(input: &mut BytesMut, run: &mut usize, io: &mut Io<'_>) {
    if *run > 0 {
        io.client.extend_from_slice(&input[..*run]);
        input.advance(*run);
        *run = 0;
    }
}
