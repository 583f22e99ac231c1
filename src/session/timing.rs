//! The time of a transaction that has several participants.
//!
//! Each node begins its part of the transaction at a time of its own, and `now()` would differ from node to
//! node. The transaction's time is that of the participant that began first, the *clock*: where a statement
//! that tells the time goes to another node, or to several, the clock is asked, once in a transaction, and
//! the nodes are sent constants in place of the calls ([`crate::router::times`]).
//!
//! A statement on several nodes asks as its own first step ([`super::spread`]). One that goes to another
//! node than the clock asks before it is sent.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use super::clock::Clock;
use super::link::{Expect, Fate, Reply};
use super::request::Request;
use super::spread::{How, Later, Spread};
use super::{Io, Need, Session, Statement};
use crate::router::place::Place;
use crate::router::plan::{Plan, TimesTold};
use crate::router::times::{self, Times};
use crate::topology::NodeId;
use crate::wire::backend::{self, Report, Status};
use crate::wire::{frame, frontend};

/// What the clock is asked. In JSON a time does not depend on the session's DateStyle.
const QUESTION: &str = "\
SELECT pg_catalog.to_json(pg_catalog.now())::pg_catalog.text, \
pg_catalog.to_json(pg_catalog.statement_timestamp())::pg_catalog.text";

/// The answer to [`QUESTION`].
fn answer(row: &[u8]) -> Option<Times> {
    let row = backend::data_row(row)?;
    let time = |at: usize| {
        let json = std::str::from_utf8(row.get(at).copied()??).ok()?;
        let time = json.strip_prefix('"')?.strip_suffix('"')?;
        // It is to stand in a text.
        (!time.contains(['\'', '\\'])).then(|| time.to_owned())
    };
    Some(Times { transaction: time(0)?, statement: Some(time(1)?) })
}

/// The calls that tell the time in a statement that goes to several nodes, or to another than the clock; and
/// its text, in which the defaults are written that tell it.
///
/// # Errors
/// They are not found in the text.
pub(super) fn found<'a>(
    plan: &Plan,
    text: &'a [u8],
) -> Result<(Option<TimesTold>, Cow<'a, [u8]>), Report> {
    let Some(told) = &plan.times else { return Ok((None, Cow::Borrowed(text))) };
    let whole = match &told.defaults {
        _ if times::count(text) != told.calls => None,
        Some(defaults) => defaults.put(text).map(Cow::Owned),
        None => Some(Cow::Borrowed(text)),
    };
    let unfound = || {
        Report::error("0A000", "cannot tell where this statement uses the transaction's time")
            .hint("Write it as now() or CURRENT_TIMESTAMP, or pass it as a parameter.")
    };
    Ok((Some(told.clone()), whole.ok_or_else(unfound)?))
}

impl Spread {
    /// What it says of the transaction's time is the clock's, which may have to be asked.
    pub fn takes_time(&mut self, clock: &Clock) {
        let Some(told) = &self.times else { return };
        match &clock.time {
            Some(time) if !told.of_statement => {
                self.time = Some(Times { transaction: time.clone(), statement: None });
            }
            _ => {
                let first = self.nodes.first().copied();
                clock.node.or(first).into_iter().for_each(|node| self.asks(node));
            }
        }
    }

    /// The clock is asked first.
    fn asks(&mut self, clock: NodeId) {
        let (plan, text) = (Arc::new(Plan::nothing()), QUESTION.into());
        let request = Request::Text { plan, text, controls: None };
        let later = Later {
            nodes: std::mem::replace(&mut self.nodes, vec![clock]),
            request: std::mem::replace(&mut self.request, request),
            how: std::mem::replace(&mut self.how, How::Nothing),
        };
        self.how = How::Timed(later.into());
    }

    /// The clock has answered with this row.
    pub fn is_told(&mut self, row: &[u8]) {
        self.time = answer(row);
    }

    /// The clock has been heard: gives the transaction's time, and goes on with the statement.
    pub fn goes_on_in_time(&mut self) -> Option<String> {
        let How::Timed(later) = std::mem::replace(&mut self.how, How::Nothing) else { return None };
        let Later { nodes, request, how } = *later;
        if self.time.is_none() {
            self.how = How::Refused(crate::merge::malformed());
            return None;
        }
        self.earlier.append(&mut self.nodes);
        (self.nodes, self.request, self.how) = (nodes, request, how);
        (self.said, self.heard) = (0, 0);
        self.time.as_ref().map(|times| times.transaction.clone())
    }
}

impl Session {
    /// Asks for the transaction's time, if a statement that tells it goes to another node than the clock.
    ///
    /// # Errors
    /// What tells the time is not found in the text.
    pub(super) fn ask_clock(
        &mut self,
        plan: &Plan,
        place: &Place,
        text: &[u8],
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        if self.clock.failed.is_some() && self.is_waiting_for_link() {
            return Ok(Some(Need::Quiet));
        }
        if let Some(report) = self.clock.failed.take() {
            self.computing.insists = true;
            return Err(report);
        }
        let Some(clock) = self.other_clock(plan, place) else { return Ok(None) };
        let _ = found(plan, text)?;
        if self.clock.time.is_some() {
            return Ok(None);
        }
        let Some(link) = &mut self.link else { return Ok(None) };
        if link.node != clock {
            return Ok(Some(self.rest_for(clock, io)));
        }
        if !link.is_quiet() {
            return Ok(Some(Need::Quiet));
        }
        self.retry.disarm();
        frontend::put_parse(io.server, b"", QUESTION.as_bytes(), b"");
        let mut parse = Expect::new(Reply::Parse, Fate::Asked);
        parse.undo.unnamed = Some(link.unnamed.take());
        link.push(parse);
        frontend::put_bind(io.server, b"", b"", &[0; 6]);
        link.push(Expect::new(Reply::Bind, Fate::Asked));
        frame::put(io.server, b'E', |b| b.extend_from_slice(&[0; 5]));
        link.push(Expect::new(Reply::Answer, Fate::Asked));
        self.end_segment(io);
        Ok(Some(Need::Quiet))
    }

    /// The clock, if the statement tells the time and goes to another node.
    fn other_clock(&self, plan: &Plan, place: &Place) -> Option<NodeId> {
        plan.times.as_ref().filter(|_| self.status == Status::Transaction)?;
        let clock = self.clock.node.filter(|node| self.holds(*node))?;
        let there = match place {
            Place::Node { node, .. } => *node == clock,
            // It goes to the participant in hand.
            Place::Any => self.node() == Some(clock),
            Place::Every { .. } => true,
        };
        (!there).then_some(clock)
    }

    /// A row of the clock's answer.
    pub(super) fn clock_tells(&mut self, row: &[u8]) {
        match answer(row) {
            Some(times) => self.clock.time = Some(times.transaction),
            None => self.broken = Some("the node has not told its time".into()),
        }
    }

    /// The clock could not be asked.
    pub(super) fn clock_fails(&mut self, error: &[u8]) {
        self.clock.failed = Some(Report::from_node(error));
        self.skip_segment();
    }

    /// The text as it is sent to the node in hand: with the transaction's time, if that has another clock.
    pub(super) fn in_time(&self, plan: &Plan, place: &Place, text: &[u8]) -> Option<Vec<u8>> {
        self.other_clock(plan, place)?;
        let times = Times { transaction: self.clock.time.clone()?, statement: None };
        let (told, whole) = found(plan, text).ok()?;
        Some(times::put(&whole, &times, told?.named))
    }

    /// The statement as it is prepared there for this one execution.
    pub(super) fn statement_in_time(
        &self,
        s: &Rc<Statement>,
        place: &Place,
    ) -> Option<Rc<Statement>> {
        let text = self.in_time(&s.plan, place, &s.text)?;
        Some(Rc::new(Statement::instead_of(s, &text, &s.types(), s.plan.clone())))
    }
}
