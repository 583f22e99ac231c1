//! The server's answers on their way to the client.
//!
//! Whatever needs no look is passed on in runs, not message by message, and a message larger than
//! the buffer is passed on in pieces. Looked at are: errors (to know what they end, and whether the
//! request may be tried again), command tags (what the session must remember) and ReadyForQuery.

use bytes::{Buf, BytesMut};

use super::block::OwnBlock;
use super::link::{Fate, Link, Reply};
use super::moments::may_change_tables;
use super::{Env, Io, Session, retry};
use crate::merge;
use crate::router::plan::Control;
use crate::wire::backend::{self, Report, Status, report_field};
use crate::wire::blame::Blame;
use crate::wire::frame::{self, Header};
use crate::wire::{FENCED, ProtocolError, frontend};

/// An inspected message is held whole, an error up to here: behind its head, which has all that the
/// session decides by, an error may quote a value of any length.
const MAX_INSPECTED: usize = 1 << 20;
/// A ParameterStatus is held whole up to here: its value may be as long as what the client has set.
const MAX_STATUS: usize = 64 << 20;
/// Ends an error whose rest is left out: its last field, and the list of fields.
const CUT: &[u8] = b"\0\0";

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
            let front = link.expects.front();
            let part = self.spread.as_mut().filter(|_| front.is_some_and(|e| e.fate == Fate::Part));
            let asked = h.tag == b'D'
                && (front.is_some_and(|e| e.is_question())
                    || part.as_ref().is_some_and(|p| p.folds()))
                || h.tag == b'N'
                    && h.len <= MAX_INSPECTED
                    && part.as_ref().is_some_and(|p| p.splits());
            if !(is_inspected(h.tag) || asked) {
                let copied = h.tag == b'd' && part.as_ref().is_some_and(|p| p.copies_out());
                if copied {
                    match self.takes_copied(h, input, &mut run, io) {
                        true => continue,
                        false => break,
                    }
                }
                link.passing_on = match part {
                    Some(part) => part.passes(h.tag),
                    None => front.is_none_or(|e| e.passes()),
                };
                link.passing = h.len;
                // Notices and the like can be said twice, rows cannot.
                if link.passing_on && h.tag != b'N' && h.tag != b'A' {
                    self.retry.disarm();
                }
                continue;
            }
            let most = match h.tag {
                b'S' => MAX_STATUS,
                b'D' => merge::MOST,
                _ => MAX_INSPECTED,
            };
            let seen = h.len.min(most);
            if seen < h.len && h.tag != b'E' {
                return Err(ProtocolError("oversized message from the node"));
            }
            if input.len() - run < seen {
                break;
            }
            if matches!(h.tag, b'E' | b'Z' | b'S') || self.spread.is_some() {
                // What is written for these comes behind what has been passed on.
                pass(input, &mut run, io);
            }
            let body = input.get(run + frame::HEADER..run + seen).unwrap_or_default();
            let keep = self.inspect(h, body, env, io);
            let forwards = matches!(keep, Keep::Forward);
            if forwards {
                run += seen;
            } else {
                pass(input, &mut run, io);
                input.advance(seen);
            }
            let unseen = h.len - seen;
            if let Some(link) = self.link.as_mut().filter(|_| unseen > 0) {
                (link.passing, link.passing_on) = (unseen, forwards);
            }
            match keep {
                Keep::Forward | Keep::Drop => {}
                Keep::Replace(report) => report.put(io.client),
                Keep::Reword(body) => {
                    frame::put(io.client, b'E', |b| {
                        b.extend_from_slice(&body);
                        if unseen > 0 {
                            b.extend_from_slice(CUT);
                        }
                    });
                }
                Keep::Tag(tag) => backend::put_command_complete(io.client, tag),
                Keep::Ready(status) => backend::put_ready(io.client, status),
            }
            if self.link.as_ref().is_some_and(Link::has_due) {
                pass(input, &mut run, io);
                self.give_due(io);
            }
        }
        pass(input, &mut run, io);
        self.tidy_link(io);
        if self.pinned().is_some() && self.is_idle() {
            self.renew_ticket(env);
        }
        Ok(())
    }

    /// What pgshunt answers itself stands in line behind what the server had to answer.
    fn give_due(&mut self, io: &mut Io<'_>) {
        while let Some(link) = self.link.as_mut().filter(|l| l.has_due()) {
            let Some(e) = link.expects.pop_front() else { return };
            if let (Reply::Ours(bytes), true) = (&e.reply, e.passes()) {
                io.client.extend_from_slice(bytes);
                self.retry.count_answer();
            }
        }
    }

    /// Looks at one whole message.
    fn inspect(&mut self, h: Header, body: &[u8], env: &Env<'_>, io: &mut Io<'_>) -> Keep {
        let Some(link) = &mut self.link else { return Keep::Drop };
        match h.tag {
            b'S' => {
                link.facts.reported.note(body);
                if link.expects.is_empty() {
                    // A change that nobody asked for (SIGHUP) is the client's too.
                    link.facts.reported.tell(&mut self.told, io.client);
                }
                return Keep::Drop;
            }
            b'E' => return self.error(body, env, io),
            b'D' => {
                match link.expects.front().map(|e| &e.reply) {
                    Some(Reply::Behind) => self.is_behind(body),
                    Some(Reply::Check) => self.is_left(body),
                    Some(Reply::Answer) => self.answer_row(body),
                    _ => self.hears_part(h.tag, body, io),
                }
                return Keep::Drop;
            }
            b'N' => {
                let told = self.in_clients_lines(body);
                let told = told.as_deref().unwrap_or(body);
                frame::put(io.client, h.tag, |b| b.extend_from_slice(told));
                return Keep::Drop;
            }
            b'G' | b'W' => {
                self.retry.disarm();
                link.copy_begins(h.tag == b'G');
                if link.expects.front().is_some_and(|e| e.fate == Fate::Part) {
                    self.part_copies(body, io);
                    return Keep::Drop;
                }
                return if link.expects.front().is_some_and(|e| e.passes()) {
                    Keep::Forward
                } else {
                    Keep::Drop
                };
            }
            b'Z' if link.may_be_in_doubt() => return self.ready_in_doubt(body, env, io),
            b'3' if link.expects.front().is_some_and(|e| e.fate == Fate::Doubt) => {
                link.expects.pop_front();
                self.settle_copy();
                return Keep::Drop;
            }
            _ => {}
        }
        let Some(front) = link.expects.front_mut() else {
            // The protocol has no unasked message of these kinds.
            self.broken = Some(format!("unexpected message {:?} from the node", h.tag as char));
            return Keep::Drop;
        };
        let completes = match (&front.reply, h.tag) {
            (Reply::Query | Reply::Sync, b'Z')
            | (Reply::Parse, b'1')
            | (Reply::Bind, b'2')
            | (Reply::Close, b'3')
            | (Reply::Describe, b'T' | b'n')
            | (Reply::Own { closed: false }, b'C' | b'I')
            | (Reply::Own { closed: true }, b'3')
            | (Reply::Check | Reply::Behind | Reply::Answer, b'C')
            | (Reply::Execute, b'C' | b'I' | b's') => true,
            (Reply::Query | Reply::Own { .. }, _) | (Reply::Describe, b't') => false,
            _ => {
                self.broken =
                    Some(format!("message {:?} from the node out of turn", h.tag as char));
                return Keep::Drop;
            }
        };
        if front.fate == Fate::Asked && h.tag == b'T' {
            link.expects.pop_front();
            self.answer_described(body);
            return Keep::Drop;
        }
        let passes = front.passes();
        // What pgshunt has put into the text of a part is not the client's either.
        let part = front.fate == Fate::Part && !front.is_ours_now();
        let first = part && self.spread.as_ref().is_some_and(|s| s.is_first());
        if front.fate == Fate::Columns && completes {
            if let Some(s) = link.expects.pop_front().and_then(|e| e.statement) {
                link.compare_columns(&s, body);
            }
            return Keep::Drop;
        }
        let compares = front.fate == Fate::Columns;
        if h.tag == b't'
            && !compares
            && let Some(s) = front.statement.clone()
        {
            link.settle_types(&s, body.get(2..).unwrap_or_default());
            if part {
                self.hears_part(h.tag, body, io);
            }
            return if passes { Keep::Forward } else { Keep::Drop };
        }
        let mut done = None;
        let mut ends_statement = false;
        if matches!(h.tag, b'C' | b'I') {
            ends_statement = true;
            link.changes_tables |= h.tag == b'C' && may_change_tables(body);
            if let Some(controls) = front.controls.clone() {
                done = controls.get(front.completed).cloned();
                front.completed += 1;
            }
            if h.tag == b'C' && body.starts_with(b"ROLLBACK\0") {
                // COMMIT and PREPARE TRANSACTION of a failed transaction answer ROLLBACK.
                match done.as_mut().map(|d| &mut d.control) {
                    Some(c @ (Control::Commit | Control::PrepareTransaction)) => {
                        *c = Control::Rollback;
                    }
                    Some(c @ Control::CommitAndChain) => *c = Control::RollbackAndChain,
                    _ => {}
                }
            }
        }
        if ends_statement {
            link.copy_ends();
        }
        if h.tag == b'Z' {
            return self.ready(body, env, io);
        }
        if completes {
            let e = link.expects.pop_front();
            if let Some(e) = e.as_ref().filter(|e| e.is_question()) {
                self.own_answer_ends(&e.reply);
                return Keep::Drop;
            }
            let told = passes || first;
            if let (true, Some(s)) = (told, e.as_ref().and_then(|e| e.statement.as_ref())) {
                s.described.set(s.described.get() || matches!(h.tag, b'T' | b'n'));
                if h.tag == b'T' {
                    link.settle_columns(s, body);
                }
            }
            if e.is_some_and(|e| matches!(e.reply, Reply::Own { .. })) {
                let more = |e: &super::Expect| matches!(e.reply, Reply::Own { .. });
                link.opening = link.opening && link.expects.front().is_some_and(more);
            } else if passes && matches!(h.tag, b'1' | b'2' | b'3' | b'T' | b'n') {
                self.retry.count_answer();
            }
        }
        // The server has carried out something else.
        let tag = match done.as_ref().map(|d| &d.control).filter(|_| h.tag == b'C') {
            Some(Control::Listen { .. }) => Some("LISTEN"),
            Some(Control::Route { .. }) => Some("EXPLAIN"),
            _ => None,
        };
        let counts = !part || self.spread.as_ref().is_some_and(|s| s.is_last());
        if let Some(done) = done.filter(|d| !d.ours && counts) {
            self.apply(&done);
        }
        if part {
            self.hears_part(h.tag, body, io);
            self.part_bound(io);
            return Keep::Drop;
        }
        if passes && !matches!(h.tag, b'1' | b'2' | b'3' | b't' | b'T' | b'n') {
            self.retry.disarm();
        }
        if passes && ends_statement && self.holds_end(h.tag, tag, body) {
            return Keep::Drop;
        }
        match tag {
            Some(tag) if passes => Keep::Tag(tag),
            _ if passes => Keep::Forward,
            _ => Keep::Drop,
        }
    }

    pub(super) fn ready(&mut self, body: &[u8], env: &Env<'_>, io: &mut Io<'_>) -> Keep {
        let Some(link) = &mut self.link else { return Keep::Drop };
        let Some(status) = body.first().copied().and_then(Status::from_byte) else {
            self.broken = Some("malformed ReadyForQuery from the node".into());
            return Keep::Drop;
        };
        let Some(front) = link.expects.pop_front() else { return Keep::Drop };
        link.copy_in = false;
        link.begun = false;
        link.status = status;
        if front.reply == Reply::Query && link.failed {
            self.copy_failed(false, io);
        }
        let Some(link) = &mut self.link else { return Keep::Drop };
        link.eaten = 0;
        if link.changes_tables {
            // COMMIT AND CHAIN has ended a transaction too.
            env.moments.tables_may_have_changed();
            link.changes_tables = status != Status::Idle;
        }
        if matches!(front.fate, Fate::Before) {
            // Nothing has ended for the client yet.
            return Keep::Drop;
        }
        let failed = std::mem::take(&mut link.failed);
        if front.fate == Fate::Spoil {
            if status != Status::Failed {
                self.broken = Some("a failed transaction is not failed on its node".into());
            }
            return Keep::Drop;
        }
        if front.fate == Fate::Outside {
            // The client's transaction has not begun yet.
            link.facts.reported.tell(&mut self.told, io.client);
            return Keep::Ready(self.status);
        }
        if front.fate == Fate::Part {
            self.part_ready(status, io);
            return Keep::Drop;
        }
        if link.ending || front.fate == Fate::Tidy {
            if link.is_quiet() {
                // One that is kept serves its session on.
                link.ending &= link.residue.why_kept().is_none();
                self.retry.tidied();
            }
            return Keep::Drop;
        }
        link.facts.reported.tell(&mut self.told, io.client);
        self.settings.learn_date_style(|| link.facts.reported.get("DateStyle"));
        if status == Status::Idle {
            let undone = std::mem::take(&mut link.discarded) && failed;
            link.forget_effect();
            self.block_ended(failed);
            if let Some(link) = &mut self.link {
                link.facts.applied = (!undone).then(|| self.settings.current().clone());
            }
        }
        self.status = self.of_all(status);
        let goes_on = self.script.is_some() && matches!(front.fate, Fate::Statement | Fate::After);
        if goes_on || front.fate == Fate::Rest {
            if status == Status::Idle {
                self.transaction_ended();
                let _ = goes_on && self.keeps_ready();
            }
            return Keep::Drop;
        }
        if self.link.as_ref().is_some_and(|l| l.expects.is_empty()) {
            self.retry.settle();
        }
        if status == Status::Idle {
            self.transaction_ended();
            if self.keeps_ready() | self.keeps_for_schema() {
                return Keep::Drop;
            }
            self.hand_over_mail(io);
        }
        if self.status == status { Keep::Forward } else { Keep::Ready(self.status) }
    }

    fn error(&mut self, body: &[u8], env: &Env<'_>, io: &mut Io<'_>) -> Keep {
        let keep = self.hears_error(body, env, io);
        if self.spread.as_ref().is_some_and(|s| s.failed && s.splits()) {
            // By the extended protocol it waits for Sync, and its turn may be now.
            self.feed(io);
        }
        let blame = match &keep {
            Keep::Drop => return keep,
            Keep::Replace(report) => Blame::of_ours(&report.sqlstate),
            _ => Blame::of_node(report_field(body, b'C').unwrap_or_default()),
        };
        self.note_error(blame);
        keep
    }

    fn hears_error(&mut self, body: &[u8], env: &Env<'_>, io: &mut Io<'_>) -> Keep {
        let Some(link) = &mut self.link else { return Keep::Drop };
        (link.copy_in, link.takes_data) = (false, false);
        let sqlstate = report_field(body, b'C').unwrap_or_default();
        let severity = report_field(body, b'V').or_else(|| report_field(body, b'S'));
        if severity.is_some_and(|s| s == b"FATAL" || s == b"PANIC") {
            self.broken = Some("the node has closed the connection".into());
            if self.may_lose_part() {
                let report = Report::from_node(body);
                return if self.part_fails() { Keep::Replace(report.into()) } else { Keep::Drop };
            }
            return Keep::Forward;
        }
        self.movable = false;
        let twice = std::mem::replace(&mut link.failed, true);
        let Some(front) = link.expects.front_mut() else { return Keep::Forward };
        if link.opening && matches!(front.reply, Reply::Own { .. }) {
            self.opening_failed(body, io);
            return Keep::Drop;
        }
        if front.fate == Fate::Check {
            self.cannot_know_what_is_left();
            self.cannot_know_what_is_behind();
            return Keep::Drop;
        }
        if front.fate == Fate::Asked {
            self.answer_fails(body);
            return Keep::Drop;
        }
        let simple = matches!(front.reply, Reply::Query | Reply::Sync);
        let parses = front.reply == Reply::Parse;
        // Or about how a part of it is planned.
        let of_part = matches!(front.reply, Reply::Own { .. })
            && self.spread.as_ref().is_some_and(|s| s.without_loops);
        let part = front.fate == Fate::Part || of_part;
        let silent = part && (self.snapshot_fails(|| Report::from_node(body)) | !self.part_fails());
        let Some(front) = self.link.as_mut().and_then(|l| l.expects.front_mut()) else {
            return Keep::Forward;
        };
        let keep = match &front.fate {
            Fate::Part if silent => Keep::Drop,
            Fate::Tidy | Fate::Rest | Fate::Doubt => {
                let why = String::from_utf8_lossy(report_field(body, b'M').unwrap_or_default());
                self.broken = Some(format!("could not tidy up the server connection: {why}"));
                return Keep::Drop;
            }
            Fate::Spoil => {
                self.skip_segment();
                return Keep::Drop;
            }
            Fate::After if twice => return Keep::Drop,
            // The transaction had failed before: that is what the client reads, unless PostgreSQL
            // looks for the name first.
            Fate::Refuse(report)
                if sqlstate == b"25P02"
                    && !matches!(&*report.sqlstate, "26000" | "34000" | "42P05" | "08P01") =>
            {
                Keep::Forward
            }
            Fate::Refuse(report) | Fate::Insist(report) => Keep::Replace(report.clone()),
            Fate::Forward
            | Fate::Statement
            | Fate::Swallow
            | Fate::Outside
            | Fate::Before
            | Fate::After
            | Fate::Columns
            | Fate::Part
            | Fate::Check
            | Fate::Asked => {
                if self.spread.is_none() && self.tries_again(body, env.routes.epoch, io) {
                    return Keep::Drop;
                }
                if let Some(told) = self.of_gathered(parses, body) {
                    told.map_or_else(|report| Keep::Replace(Box::new(report)), Keep::Reword)
                } else if let Some(body) = self.as_client_reads(body) {
                    Keep::Reword(body)
                } else if let Some(report) =
                    self.unknown_value(body).or_else(|| self.only_at_home(body))
                {
                    Keep::Replace(Box::new(report))
                } else if sqlstate == b"57014" && std::mem::take(&mut self.deadlocked) {
                    Keep::Replace(Box::new(retry::deadlock()))
                } else if sqlstate == FENCED.as_bytes() {
                    Keep::Replace(Box::new(retry::moved()))
                } else {
                    Keep::Forward
                }
            }
        };
        self.retry.disarm();
        let Some(link) = &mut self.link else { return keep };
        let Some(front) = link.expects.front_mut() else { return keep };
        if simple {
            if let Some(left) = front.controls.take() {
                let behind = left.get(front.completed..).and_then(|l| l.first());
                let behind = behind.map(|d| vec![d.clone()]).unwrap_or_default();
                self.failed_half_way(&behind);
            }
            let fate = self.fate_of_text();
            let Some(front) = self.link.as_mut().and_then(|l| l.expects.front_mut()) else {
                return keep;
            };
            if let Fate::Refuse(_) | Fate::Insist(_) = front.fate {
                // The ReadyForQuery behind it is the client's.
                front.fate = fate;
            }
            return keep;
        }
        let in_front = matches!(front.fate, Fate::Swallow | Fate::Columns | Fate::Refuse(_));
        let stale = report_field(body, b'R') == Some(b"RevalidateCachedQuery");
        self.stale = front.statement.clone().filter(|_| stale).map(|s| link.prepared_as(&s));
        // What was put in front of a Query has failed, and the server skips that too.
        let query = in_front && {
            let ends = |e: &&super::Expect| matches!(e.reply, Reply::Query | Reply::Sync);
            link.expects.iter().find(ends).is_some_and(|e| e.reply == Reply::Query)
        };
        self.skip_segment();
        if self.copy_failed(true, io) {
            return keep;
        }
        let Some(link) = &mut self.link else { return keep };
        if query {
            frontend::put_empty(io.server, b'S');
            link.push(super::Expect::forward(Reply::Sync));
            return keep;
        }
        if link.outside && self.status == Status::Transaction {
            self.status = Status::Failed;
        }
        // A Sync of ours ends the segment for the server; the client's is still to come.
        let ours = |e: &super::Expect| matches!(e.fate, Fate::Tidy | Fate::Rest);
        let unbound = self.spread.as_ref().is_some_and(|s| s.ready && s.has_failed_to_bind());
        let synced = unbound || link.expects.front().is_some_and(|e| !ours(e));
        let ends = !link.expects.is_empty();
        self.skipping |= !synced && self.own_block != OwnBlock::Over;
        if let Some(id) = self.stale.take_if(|_| ends) {
            self.close_stale(id, io);
        }
        keep
    }
}

pub(super) enum Keep {
    Forward,
    Drop,
    Replace(Box<backend::Report>),
    /// The error with this body.
    Reword(Vec<u8>),
    /// CommandComplete with another tag.
    Tag(&'static str),
    /// ReadyForQuery, of the client's transaction and not the server's.
    Ready(Status),
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
pub(super) fn pass(input: &mut BytesMut, run: &mut usize, io: &mut Io<'_>) {
    if *run > 0 {
        io.client.extend_from_slice(&input[..*run]);
        input.advance(*run);
        *run = 0;
    }
}
