//! Jobs: statements that concern several nodes.
//!
//! A gather sends one request to each node that holds the group and merges what comes back. Every
//! node works at once; their rows are passed on node by node, while the sockets of those whose turn
//! has not come push back. A connection is borrowed per node, in the order of node ids, so that two
//! gathers can never each wait for what the other holds.
//!
//! What a gather holds is one value, [`Held`]. However it ends, dropping that gives everything back.

use std::rc::Rc;
use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::cancel::Lent;
use super::ending::{End, abandon_aside};
use super::relay::Client;
use super::worker::Worker;
use crate::failpoint;
use crate::gate::machine::{Entry, Ticket, Touch};
use crate::merge::{self, Column};
use crate::pool::Leased;
use crate::router::plan::Merge;
use crate::session::{Gather, are_in_force, reset_sql};
use crate::telemetry::{ClientState, PlanKind};
use crate::wire::backend::{self, Report, Status};
use crate::wire::{frame, frontend};

/// Unsent bytes for the client above which no further rows are read.
const HIGH: usize = 256 << 10;
/// A message that is looked at is held whole.
const MAX_INSPECTED: usize = 16 << 20;

/// What a gather holds: its place in the gate, a connection per node, and the right to be cancelled
/// there. Dropped, by its end, a KILL or a panic, it leaves the gate; connections that have answered
/// whole go back to their pools, on the others the statement is cancelled and they are closed.
struct Held {
    worker: Rc<Worker>,
    parts: Vec<Part>,
    ticket: Option<Ticket>,
    cancels: Option<Lent>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // First, or a cancel that comes now would meet the connection's next client.
        self.cancels = None;
        self.ticket = None;
        for part in self.parts.drain(..) {
            let idle = part.turn != Turn::Asked && part.conn.input.is_empty();
            match idle {
                true => part.conn.give(self.worker.index),
                false => abandon_aside(part.conn, &self.worker),
            }
        }
    }
}

/// How far a node's part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nothing was sent.
    Fresh,
    /// The request was sent, and its answer is not complete.
    Asked,
    Answered,
}

/// One node's part of a gather.
struct Part {
    conn: Leased,
    turn: Turn,
    /// ReadyForQuery of the session parameters is still to come.
    preparing: bool,
    hide_parse: bool,
    /// The statement's parameters were described, so its columns come next, in formats unknown yet.
    statement: bool,
}

/// What the nodes have answered so far.
#[derive(Default)]
struct Answer {
    columns: Option<Vec<Column>>,
    /// The columns as the statement describes them.
    statement: Option<Vec<Column>>,
    folded: Option<Vec<Option<Vec<u8>>>>,
    rows: u64,
    tag: String,
    /// Answers to the client's messages that it has: ParseComplete, BindComplete and the like.
    answered: usize,
}

enum Step {
    /// One node's answer is complete.
    Done,
    /// The whole statement has failed; its error is for the client.
    Failed(Box<Report>),
}

impl Client {
    /// Runs a read on several nodes and writes its merged answer.
    pub(super) async fn gather(&mut self, job: Gather) -> Result<(), End> {
        let worker = self.worker.clone();
        let mut held = Held { worker, parts: Vec::new(), ticket: None, cancels: None };
        for &node in &job.nodes {
            match self.borrow(node).await? {
                Ok(conn) => held.parts.push(Part {
                    conn,
                    turn: Turn::Fresh,
                    preparing: false,
                    hide_parse: job.hide_parse,
                    statement: false,
                }),
                Err(refused) => {
                    if let Some(report) = refused {
                        self.refuse_front(report);
                    }
                    return Ok(());
                }
            }
        }
        held.ticket = self.enter_gate(&job);
        if held.ticket.is_none() {
            // Held, or the placements have changed since: decided anew.
            return Ok(());
        }
        let begun = Instant::now();
        self.parts.info.set_state(ClientState::Active);
        self.parts.stats.statements(PlanKind::EveryNode).inc();
        self.parts.stats.server_assignments.add(held.parts.len() as u64);
        let targets = held.parts.iter().map(|p| p.conn.cancel.clone());
        held.cancels = Some(self.parts.cancel.lend(targets));
        let mut answer = Answer::default();
        let outcome = self.run_parts(&job, &mut held.parts, &mut answer).await?;
        drop(held);
        self.count_job(begun);
        match outcome {
            None => {
                self.consume_front();
                self.parts.session.job_done();
                backend::put_ready(self.out.buf(), Status::Idle);
            }
            Some(report) => self.fail_front(answer.answered, *report),
        }
        Ok(())
    }

    fn enter_gate(&mut self, job: &Gather) -> Option<Ticket> {
        let client = self.parts.info.id;
        self.worker.with_env(|env| {
            if env.routes.epoch != job.epoch {
                return None;
            }
            let ticket = env.gate.ticket(env.now, client);
            let entry = env.gate.enter(&ticket, Touch::Group(job.group));
            (entry == Entry::Entered).then_some(ticket)
        })
    }

    /// Sends the request to all nodes and merges the answers. `Ok(Some)`: the statement failed.
    async fn run_parts(
        &mut self,
        job: &Gather,
        parts: &mut [Part],
        answer: &mut Answer,
    ) -> Result<Option<Box<Report>>, End> {
        for part in parts.iter_mut() {
            part.turn = Turn::Asked;
            let facts = &mut part.conn.facts;
            if !are_in_force(facts.applied.as_ref(), &job.settings) {
                let sql = reset_sql(facts.applied.as_ref(), &job.settings);
                facts.applied = Some(job.settings.clone());
                frontend::put_query(part.conn.output.buf(), sql.as_bytes());
                part.preparing = true;
            }
            part.conn.output.buf().extend_from_slice(&job.request);
        }
        for part in parts.iter_mut() {
            let conn = &mut *part.conn;
            let sent = self.beside(|cx| conn.stream.poll_drain(cx, &mut conn.output)).await?;
            if let Err(e) = sent {
                return Ok(Some(lost(&e)));
            }
        }
        failpoint::hit("gather:sent");
        // A fold sends nothing before the last node has answered, so an error finds a clean slate.
        for (turn, part) in parts.iter_mut().enumerate() {
            match self.run_part(job, part, turn, answer).await? {
                Step::Done => {}
                Step::Failed(report) => return Ok(Some(report)),
            }
        }
        if let Some(row) = &answer.folded {
            backend::put_data_row(self.out.buf(), row.iter().map(|v| v.as_deref()));
            answer.rows = 1;
        }
        if job.limit > 0 && answer.rows >= job.limit {
            backend::put_bare(self.out.buf(), b's');
        } else if !answer.tag.is_empty() {
            let tag = format!("{} {}", answer.tag, answer.rows);
            backend::put_command_complete(self.out.buf(), &tag);
        }
        self.out.buf().extend_from_slice(&job.behind);
        Ok(None)
    }

    async fn run_part(
        &mut self,
        job: &Gather,
        part: &mut Part,
        turn: usize,
        answer: &mut Answer,
    ) -> Result<Step, End> {
        loop {
            while let Some(h) = frame::header(&part.conn.input)
                .map_err(|e| Report::fatal("08P01", e.to_string()))?
            {
                if h.tag == b'D' && !part.preparing && job.merge == Merge::Concat {
                    // Rows are passed on as they come, in pieces if they are large.
                    let wanted = job.limit == 0 || answer.rows < job.limit;
                    answer.rows += u64::from(wanted);
                    self.pass_row(part, h.len, wanted).await?;
                    continue;
                }
                let seen = h.len.min(MAX_INSPECTED);
                if seen < h.len && h.tag != b'E' {
                    let report = Report::error("54000", "a value is too large to be merged");
                    return Ok(Step::Failed(Box::new(report)));
                }
                if part.conn.input.len() < seen {
                    break;
                }
                // Of an error the beginning will do: it ends the gather.
                let mut message = part.conn.input.split_to(seen);
                if seen < h.len {
                    message.extend_from_slice(b"\0\0");
                }
                match self.take(job, part, turn, answer, h.tag, &message) {
                    Ok(false) => {}
                    Ok(true) => return Ok(Step::Done),
                    Err(report) => return Ok(Step::Failed(report)),
                }
            }
            self.push_out().await?;
            match self.fill(part).await? {
                Ok(0) => return Ok(Step::Failed(lost(&std::io::ErrorKind::UnexpectedEof.into()))),
                Ok(_) => {}
                Err(e) => return Ok(Step::Failed(lost(&e))),
            }
        }
    }

    /// Takes one message; true when the node has answered whole.
    fn take(
        &mut self,
        job: &Gather,
        part: &mut Part,
        turn: usize,
        answer: &mut Answer,
        tag: u8,
        message: &BytesMut,
    ) -> Result<bool, Box<Report>> {
        let body = &message[frame::HEADER..];
        if part.preparing {
            match tag {
                b'Z' => part.preparing = false,
                b'E' => return Err(Box::new(Report::from_node(body))),
                b'S' => {
                    part.conn.facts.reported.note(body);
                }
                _ => {}
            }
            return Ok(false);
        }
        let first = turn == 0;
        match tag {
            b't' => {
                part.statement = true;
                if first {
                    self.out.buf().extend_from_slice(message);
                }
            }
            b'T' if std::mem::take(&mut part.statement) => {
                let columns = merge::columns(body).ok_or_else(malformed)?;
                if *answer.statement.get_or_insert_with(|| columns.clone()) != columns {
                    return Err(differ());
                }
                self.show(first, answer, message);
            }
            b'T' => {
                let columns = merge::columns(body).ok_or_else(malformed)?;
                match &answer.columns {
                    None => {
                        if let Merge::Fold(folds) = &job.merge {
                            check_folds(folds, &columns)?;
                        }
                        answer.columns = Some(columns);
                    }
                    Some(known) if *known == columns => {}
                    Some(_) => return Err(differ()),
                }
                if first && !job.hide_describe {
                    answer.answered += 1;
                    self.out.buf().extend_from_slice(message);
                }
            }
            b'1' if std::mem::take(&mut part.hide_parse) => {}
            b'1' | b'2' | b'3' | b'n' => self.show(first, answer, message),
            b'D' => fold_row(job, answer, body)?,
            b'C' => {
                let text = body.strip_suffix(b"\0").unwrap_or(body);
                let text = String::from_utf8_lossy(text);
                answer.tag = text.split(' ').next().unwrap_or_default().to_owned();
            }
            b'E' => return Err(Box::new(Report::from_node(body))),
            b'N' => self.out.buf().extend_from_slice(message),
            b'S' => {
                part.conn.facts.reported.note(body);
            }
            b'Z' => {
                part.turn = Turn::Answered;
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }

    /// Passes on what answers one message of the client, of the first node only.
    fn show(&mut self, first: bool, answer: &mut Answer, message: &[u8]) {
        if first {
            answer.answered += 1;
            self.out.buf().extend_from_slice(message);
        }
    }

    /// Passes one DataRow on, however large, or drops it.
    async fn pass_row(&mut self, part: &mut Part, len: usize, wanted: bool) -> Result<(), End> {
        let mut left = len;
        loop {
            let n = left.min(part.conn.input.len());
            if wanted {
                self.out.buf().extend_from_slice(&part.conn.input[..n]);
            }
            part.conn.input.advance(n);
            left -= n;
            self.amid_row = wanted && left > 0;
            if self.out.len() > HIGH {
                self.push_out().await?;
            }
            if left == 0 {
                return Ok(());
            }
            match self.fill(part).await {
                Ok(Ok(n)) if n > 0 => {}
                // Half a row is out already: no error message can follow it.
                _ => return Err(End::Client),
            }
        }
    }

    /// Reads from a node, while the client is listened to.
    async fn fill(&mut self, part: &mut Part) -> Result<std::io::Result<usize>, End> {
        let conn = &mut *part.conn;
        self.beside(|cx| conn.stream.poll_fill(cx, &mut conn.input)).await
    }

    async fn push_out(&mut self) -> Result<(), End> {
        let sent = self.out.len() as u64;
        self.stream.drain(&mut self.out).await.map_err(|_| End::Client)?;
        self.parts.stats.bytes_to_clients.add(sent);
        Ok(())
    }
}

fn check_folds(folds: &[crate::router::plan::Fold], columns: &[Column]) -> Result<(), Box<Report>> {
    if folds.len() != columns.len() {
        return Err(malformed());
    }
    for (&how, &column) in folds.iter().zip(columns) {
        // Folding nothing with nothing tells whether the type can be folded at all.
        merge::fold(how, column, None, None).map_err(refused)?;
    }
    Ok(())
}

fn fold_row(job: &Gather, answer: &mut Answer, body: &[u8]) -> Result<(), Box<Report>> {
    let Merge::Fold(folds) = &job.merge else { return Err(malformed()) };
    let columns = answer.columns.as_ref().ok_or_else(malformed)?;
    let row = backend::data_row(body).filter(|r| r.len() == folds.len()).ok_or_else(malformed)?;
    let before = answer.folded.take().unwrap_or_else(|| vec![None; folds.len()]);
    let merged = before
        .into_iter()
        .zip(row)
        .zip(folds.iter().zip(columns))
        .map(|((a, b), (&how, &column))| merge::fold(how, column, a, b).map_err(refused))
        .collect::<Result<Vec<_>, _>>()?;
    answer.folded = Some(merged);
    Ok(())
}

fn refused(e: merge::MergeError) -> Box<Report> {
    Box::new(
        Report::error(e.sqlstate(), e.to_string())
            .hint("Add an equality on the distribution column, or cast to another type."),
    )
}

fn differ() -> Box<Report> {
    Box::new(
        Report::error("0A000", "the nodes answer with different column types").hint(
            "Types made by CREATE TYPE have another identity on each node; cast them to text.",
        ),
    )
}

fn malformed() -> Box<Report> {
    Box::new(Report::error("08P01", "a node's answer is malformed"))
}

fn lost(e: &std::io::Error) -> Box<Report> {
    Box::new(Report::error("08006", format!("a node's connection broke off: {e}")))
}
