//! A text of several statements that no node can be given as it is: its statements are carried out one
//! after the other, as PostgreSQL itself does it.
//!
//! ```text
//!   text ─► statement ─► answered ─► statement ─► answered ─► ... ─► end ─► ReadyForQuery
//! ```
//!
//! The message is not taken before its last statement is answered: it is given to the session again and
//! again, which each time goes on with the next statement, planned by what those before it have made. What
//! stands outside of the client's BEGIN and COMMIT is one transaction, in a block of pgshunt's own
//! ([`super::own_block`]), and the last statement's CommandComplete waits for its commit. An error ends
//! the text.

use std::collections::VecDeque;

use super::block::OwnBlock;
use super::link::Fate;
use super::request::Request;
use super::several::is_concerned;
use super::spread::{How, Spread};
use super::{Env, Flow, Io, Need, Session};
use crate::router::place::Place;
use crate::router::plan::{Control, Kind, Plan};
use crate::wire::backend::{self, Report, Severity, Status};
use crate::wire::blame::Blame;
use crate::wire::frame;

/// What a statement says to the transaction block, as far as it matters to a block of pgshunt's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Begin,
    End,
    /// What a transaction block must be there for, as PostgreSQL calls it when it says so.
    Within(&'static str),
    Nothing,
}

impl Says {
    fn of(control: &Control) -> Self {
        match control {
            Control::Begin => Self::Begin,
            Control::Commit | Control::Rollback | Control::PrepareTransaction => Self::End,
            Control::CommitAndChain => Self::Within("COMMIT AND CHAIN"),
            Control::RollbackAndChain => Self::Within("ROLLBACK AND CHAIN"),
            Control::Savepoint(_) => Self::Within("SAVEPOINT"),
            Control::Release(_) => Self::Within("RELEASE SAVEPOINT"),
            Control::RollbackTo(_) => Self::Within("ROLLBACK TO SAVEPOINT"),
            _ => Self::Nothing,
        }
    }
}

#[derive(Debug)]
struct Statement {
    /// Where it is in the text, in bytes.
    span: (usize, usize),
    says: Says,
}

/// How far the text has come.
#[derive(Debug)]
pub(super) struct Script {
    statements: Vec<Statement>,
    /// How many of them have begun.
    begun: usize,
    /// The characters of the text before the statement that has begun last, by which positions in its errors
    /// are counted.
    before: usize,
    /// The client has read an error.
    pub failed: bool,
    /// The statement under way is the last one, and what it has changed is not committed yet: what completes
    /// its answer is kept here.
    holds: bool,
    held: Vec<u8>,
}

impl Script {
    /// Where the end of an answer is kept, if it is.
    pub fn held(&mut self) -> Option<&mut Vec<u8>> {
        if self.holds { Some(&mut self.held) } else { None }
    }

    /// The characters of the client's text before the statement under way.
    pub fn before(&self) -> usize {
        self.before
    }
}

impl Session {
    /// Whether a text is carried out statement by statement.
    pub(super) fn goes_apart(&self, plan: &Plan, place: &Result<Place, Report>) -> bool {
        plan.statements.len() > 1
            && (plan.kind == Kind::Apart
                || matches!(plan.kind, Kind::Keys { .. }) && place.is_err()
                || plan.kind != Kind::Any && self.settings.path_is_open()
                || self.concerns_several(plan)
                || place.as_ref().is_ok_and(|place| self.has_cursors_elsewhere(plan, place))
                || self.leaves_open(plan, place))
    }

    /// The text ends the transaction, or sets something in it, and one of the transaction's nodes is not the one
    /// that the text goes to.
    fn leaves_open(&self, plan: &Plan, place: &Result<Place, Report>) -> bool {
        let Ok(Place::Node { node, .. }) = place else { return false };
        plan.statements.iter().any(is_concerned) && self.participants().iter().any(|p| p != node)
    }

    /// Begins with a text that is carried out statement by statement. `spans`: where they are in it.
    pub(super) fn begin_script(
        &mut self,
        plan: &Plan,
        spans: impl Fn(usize) -> (usize, usize),
        io: &mut Io<'_>,
    ) -> Option<Flow> {
        if plan.copies_in {
            let report = Report::error(
                "0A000",
                "COPY FROM STDIN cannot be one of several statements of a text",
            )
            .hint("Send it as a query of its own.");
            return Some(self.refuse_text(plan, report, io));
        }
        if let Some(link) = &self.link {
            if !link.is_quiet() {
                return Some(Flow::Wait(Need::Quiet));
            }
            if link.in_segment {
                let report = Report::error(
                    "0A000",
                    "a text of several statements for several nodes cannot follow messages without Sync",
                )
                .hint("Send Sync first.");
                return Some(self.refuse_text(plan, report, io));
            }
        }
        let statement = |(n, s): (usize, &crate::router::plan::Statement)| Statement {
            span: spans(n),
            says: Says::of(&s.control),
        };
        self.script = Some(Box::new(Script {
            statements: plan.statements.iter().enumerate().map(statement).collect(),
            begun: 0,
            before: 0,
            failed: false,
            holds: false,
            held: Vec::new(),
        }));
        self.retry.disarm();
        None
    }

    /// Goes on with the text, as far as nothing has to be waited for.
    pub(super) fn go_on_with_script(
        &mut self,
        text: &[u8],
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Flow {
        loop {
            if self.spread.is_some() || self.link.as_ref().is_some_and(|l| !l.is_quiet()) {
                return Flow::Wait(Need::Quiet);
            }
            if self.changes.is_some() && self.publishes() {
                return Flow::Wait(Need::Publish);
            }
            if self.waits_for_fence() {
                return Flow::Wait(Need::Fence);
            }
            let Some(script) = &self.script else { return Flow::Done };
            if script.failed || script.begun == script.statements.len() {
                self.end_script(io);
                return Flow::Done;
            }
            self.retry.disarm();
            match self.next_statement(text, env, io) {
                Flow::Done => {}
                flow => return flow,
            }
        }
    }

    /// Begins with the next statement of the text.
    fn next_statement(&mut self, text: &[u8], env: &mut Env<'_>, io: &mut Io<'_>) -> Flow {
        let Some(script) = &mut self.script else { return Flow::Done };
        let Some(next) = script.statements.get(script.begun) else { return Flow::Done };
        let ((start, end), says) = (next.span, next.says);
        let from = script.begun.checked_sub(1).and_then(|n| script.statements.get(n));
        let from = from.map_or(0, |s| s.span.0);
        let own = text.get(start..end).unwrap_or_default();
        let before = script.before + characters(text.get(from..start).unwrap_or_default());
        script.holds = false;
        self.open_own_block();
        if self.own_block == OwnBlock::Open
            && let Some(outcome) = self.says_to_block(says, own, io)
        {
            if let Err(report) = outcome {
                self.refuse_query(report, Fate::Refuse, io);
            }
            self.has_begun(before);
            return Flow::Done;
        }
        let own_block = self.own_block == OwnBlock::Open;
        if let Some(script) = &mut self.script {
            script.holds = own_block && script.begun + 1 == script.statements.len();
        }
        match self.query_text(own, env, io) {
            Flow::Done => {
                self.has_begun(before);
                Flow::Done
            }
            flow => flow,
        }
    }

    fn has_begun(&mut self, before: usize) {
        if let Some(script) = &mut self.script {
            script.begun += 1;
            script.before = before;
        }
    }

    /// What is said to a block that the client has not begun. `None`: it is carried out as any statement.
    fn says_to_block(
        &mut self,
        says: Says,
        own: &[u8],
        io: &mut Io<'_>,
    ) -> Option<Result<(), Report>> {
        match says {
            Says::Nothing => None,
            Says::Within(what) => Some(Err(Report::error(
                "25P01",
                format!("{what} can only be used in transaction blocks"),
            ))),
            Says::End => {
                // It ends what the text has done so far.
                self.own_block = OwnBlock::No;
                let report = Report::error("25P01", "there is no transaction in progress");
                Report { severity: Severity::Warning, ..report }.put(io.client);
                None
            }
            Says::Begin if self.participants().is_empty() && self.prelude.steps().len() == 0 => {
                self.own_block = OwnBlock::No;
                self.begin.clear();
                self.status = Status::Idle;
                None
            }
            Says::Begin => Some(self.takes_block_over(own, io)),
        }
    }

    /// BEGIN: what the text has done so far becomes part of the client's own block.
    fn takes_block_over(&mut self, own: &[u8], io: &mut Io<'_>) -> Result<(), Report> {
        let own = String::from_utf8_lossy(own).to_ascii_lowercase();
        let words: Vec<&str> =
            own.split([';', ' ', '\t', '\r', '\n']).filter(|w| !w.is_empty()).collect();
        let tag = match words.as_slice() {
            ["begin"] | ["begin", "work" | "transaction"] => "BEGIN",
            ["start", "transaction"] => "START TRANSACTION",
            _ => {
                return Err(Report::error(
                    "0A000",
                    "BEGIN with options cannot follow other statements of its text",
                )
                .hint("Begin the text with it."));
            }
        };
        self.own_block = OwnBlock::No;
        backend::put_command_complete(io.client, tag);
        Ok(())
    }

    /// Nothing of the text is left to be carried out.
    fn end_script(&mut self, io: &mut Io<'_>) {
        let Some(script) = self.script.take() else { return };
        self.retry.give_up(b'Q');
        if self.own_block == OwnBlock::No {
            if self.status == Status::Idle {
                self.hand_over_mail(io);
            }
            self.links_mut().filter(|l| !l.started).for_each(|l| l.let_go = true);
            backend::put_ready(io.client, self.status);
            return;
        }
        let nothing = Request::Each(VecDeque::new());
        let mut end = Spread::new(Vec::new(), nothing, How::Nothing);
        end.failed = script.failed;
        end.behind = script.held;
        self.end_own_block_by(end, io);
    }

    /// The statement that is next, or under way, cannot be carried out, and its message is gone.
    pub(super) fn refuse_script(&mut self, report: Report, io: &mut Io<'_>) {
        self.script = None;
        if self.own_block == OwnBlock::No {
            return self.refuse_query(report, Fate::Refuse, io);
        }
        self.counters.refused += 1;
        self.tell(&report, io);
        self.links_mut().filter(|l| !l.started).for_each(|l| l.let_go = true);
        self.status = Status::Failed;
        self.own_block = OwnBlock::Over;
        self.end_own_block(io);
    }

    /// The client reads an error.
    pub(super) fn note_error(&mut self, blame: Blame) {
        self.counters.errors.count(blame);
        if let Some(script) = &mut self.script {
            script.failed = true;
        }
    }

    /// The answer to a Query is complete, unless that is but a statement of a text.
    pub(super) fn put_ready(&self, io: &mut Io<'_>) {
        if self.script.is_none() {
            backend::put_ready(io.client, self.status);
        }
    }

    /// Keeps the end of the last statement's answer until what the text has changed is committed. `told`: the
    /// tag that the client reads in place of the server's.
    pub(super) fn holds_end(&mut self, tag: u8, told: Option<&str>, body: &[u8]) -> bool {
        let Some(held) = self.script.as_mut().and_then(|s| s.held()) else { return false };
        match told {
            Some(told) => backend::put_command_complete(held, told),
            None => frame::put(held, tag, |b| b.extend_from_slice(body)),
        }
        true
    }

    /// What becomes of the answer to a text that one node carries out.
    pub(super) fn fate_of_text(&self) -> Fate {
        if self.script.is_some() { Fate::Statement } else { Fate::Forward }
    }
}

/// The characters of a text, as PostgreSQL counts positions in it.
pub(super) fn characters(text: &[u8]) -> usize {
    text.iter().filter(|b| **b & 0xC0 != 0x80).count()
}
