//! An INSERT of which something must be computed before its rows have a place: its distribution keys, or the rows
//! of its query.
//!
//! ```text
//!   begin ─► ask: one node carries out the question, as the client and within its transaction
//!         ─► answered: the client's message is taken as if its text had the values ─► taken
//! ```
//!
//! The node is the home node, or that of the query's own rows. Until the message is taken it is given to the
//! session again and again, and finds here how far it has come. An INSERT that is refused after all has drawn its
//! values from sequences none the less.

use std::rc::Rc;
use std::sync::Arc;

use super::link::{Expect, Fate, Reply};
use super::participants::effect_of;
use super::prepared::{StatementId, statement_id};
use super::stop::Stop;
use super::{Env, Io, Need, Session, Statement};
use crate::merge::{Column, columns};
use crate::router::place::{BindValues, NoValues, Place, Values};
use crate::router::plan::{Control, Effect, Kind, Plan};
use crate::router::{Answer, Value, Wanted, Written, parameters, place_of};
use crate::wire::backend::{self, Report, Status};
use crate::wire::frame;
use crate::wire::frontend::{self, Bind};

/// The most that the answer may take, in bytes.
const MOST_BYTES: usize = 16 << 20;
/// The number of `text`.
const TEXT: u32 = 25;

/// How far a message has come.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    ToAsk,
    Asked,
    Told,
    Failed(Report),
    /// The text with the values.
    Whole(Vec<u8>),
}

/// The message that waits for what is computed.
#[derive(Debug, Default)]
pub(super) struct Computing {
    of: Option<StatementId>,
    wanted: Option<Arc<Wanted>>,
    /// Why the message is refused as it is.
    refused: Option<Report>,
    stage: Stage,
    written: Written,
    columns: Vec<Column>,
    rows: Vec<Vec<Value>>,
    bytes: usize,
    /// The error that the client is told now has failed the transaction.
    pub insists: bool,
}

/// The parameters of a message of the extended protocol, and their types.
pub(super) struct Given<'a> {
    pub bind: &'a Bind<'a>,
    pub types: Vec<u8>,
}

impl Given<'_> {
    /// Types and values, the values as they stand behind a Bind's names, for a text that has not all of the
    /// parameters: of which type the others are PostgreSQL would not know.
    fn for_text(&self, text: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let left = parameters(text);
        let mut types = self.types.clone();
        for (n, ty) in types.chunks_exact_mut(4).enumerate() {
            if *ty == [0; 4] && !left.contains(&(n + 1)) {
                ty.copy_from_slice(&TEXT.to_be_bytes());
            }
        }
        (types, self.bind.with_only(|n| left.contains(&(n + 1))))
    }
}

/// What is carried out once in place of a statement of the client's.
pub(super) struct Instead {
    pub statement: Rc<Statement>,
    /// Its Bind behind the names.
    pub rest: Vec<u8>,
}

impl Computing {
    /// It is this message that waits.
    fn is_of(&self, text: &[u8], rest: &[u8]) -> bool {
        self.of.is_some_and(|of| of == statement_id(text, rest))
    }

    /// The values could not be computed, and the transaction has failed with that.
    pub fn has_failed(&self) -> bool {
        matches!(self.stage, Stage::Failed(_))
    }

    /// The message that the session was given last was taken: another one like it wants values of its own.
    pub fn is_taken(&mut self) {
        if self.of.is_some() {
            *self = Self::default();
        }
    }

    fn row(&mut self, body: &[u8]) -> Option<()> {
        self.bytes += body.len() + size_of::<Vec<Value>>();
        let row = backend::data_row(body)?;
        let value = |(column, value): (&Column, Option<&[u8]>)| {
            let text = value.map(|v| String::from_utf8(v.to_vec())).transpose().ok()?;
            Some((column.type_oid, text))
        };
        let row = self.columns.iter().zip(row).map(value).collect::<Option<_>>()?;
        self.rows.push(row);
        (self.bytes <= MOST_BYTES).then_some(())
    }
}

impl Session {
    /// The query's text as it is carried out: with the values that were computed for it. `None`: it is carried out
    /// as it is.
    ///
    /// # Errors
    /// They are to be waited for, or cannot be computed.
    pub(super) fn computed_text(
        &mut self,
        text: &[u8],
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Vec<u8>>, Stop> {
        if !self.computing.is_of(text, &[]) {
            return Ok(None);
        }
        if self.status == Status::Failed && matches!(self.computing.stage, Stage::ToAsk) {
            // What was under way when it came has failed the transaction.
            self.computing = Computing::default();
            return Ok(None);
        }
        self.compute(text, None, env, io).map(Some)
    }

    /// A message of which something must be computed waits for that from here on.
    pub(super) fn begin_computing(&mut self, plan: &Plan, text: &[u8], rest: &[u8]) -> bool {
        let (Some(wanted), Kind::Refused(report)) = (&plan.computed, &plan.kind) else {
            return false;
        };
        if self.status == Status::Failed {
            // It is refused as whatever else comes in a failed transaction.
            return false;
        }
        self.computing = Computing {
            of: Some(statement_id(text, rest)),
            wanted: Some(wanted.clone()),
            refused: Some((**report).clone()),
            ..Computing::default()
        };
        true
    }

    /// What is carried out in place of a statement that is bound, if something of it must be computed.
    pub(super) fn computed_statement(
        &mut self,
        s: &Statement,
        bind: &Bind<'_>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Instead>, Stop> {
        if !self.computing.is_of(&s.text, bind.rest) {
            if s.plan.computed.is_none() {
                return Ok(None);
            }
            let plan = self.fresh_plan(s, env)?;
            if !self.begin_computing(&plan, &s.text, bind.rest) {
                return Ok(None);
            }
        }
        let mut types = s.types();
        types.resize(types.len().max(bind.count() * 4), 0);
        let given = Given { bind, types };
        let whole = self.compute(&s.text, Some(&given), env, io)?;
        let plan = self.plan_text(&whole, env)?;
        if let Kind::Refused(report) = &plan.kind {
            return Err((**report).clone().into());
        }
        let (types, rest) = given.for_text(&whole);
        let statement = Rc::new(Statement::instead_of(s, &whole, &types, plan));
        Ok(Some(Instead { statement, rest }))
    }

    /// The text of the message that waits, with what is computed for it.
    fn compute(
        &mut self,
        text: &[u8],
        given: Option<&Given<'_>>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Vec<u8>, Stop> {
        if !matches!(self.computing.stage, Stage::ToAsk) && self.is_waiting_for_link() {
            return Err(Stop::Wait(Need::Quiet));
        }
        match &self.computing.stage {
            Stage::ToAsk => {
                self.ask_values(text, given, env, io)?;
                return Err(Stop::Wait(Need::Quiet));
            }
            Stage::Asked => return Err(Stop::Wait(Need::Quiet)),
            Stage::Whole(whole) => return Ok(whole.clone()),
            Stage::Told | Stage::Failed(_) => {}
        }
        let told = std::mem::take(&mut self.computing);
        if let Stage::Failed(report) = told.stage {
            self.computing.insists = true;
            return Err(report.into());
        }
        let types: Vec<u32> = told.columns.iter().map(|c| c.type_oid).collect();
        let declared = given.map_or(&[][..], |g| g.types.as_slice());
        let answer = Answer { types: &types, rows: &told.rows, written: told.written, declared };
        let whole = told.wanted.as_ref().and_then(|w| w.answered(text, &answer));
        let Some(whole) = whole else {
            return Err(told.refused.unwrap_or_else(unfound).into());
        };
        let (columns, rows) = Default::default();
        self.computing = Computing { stage: Stage::Whole(whole.clone()), columns, rows, ..told };
        Ok(whole)
    }

    fn ask_values(
        &mut self,
        text: &[u8],
        given: Option<&Given<'_>>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        if self.link.as_ref().is_some_and(|l| !l.is_quiet()) {
            // What is under way may fail the transaction.
            return Err(Stop::Wait(Need::Quiet));
        }
        let question = self.computing.wanted.as_ref().and_then(|w| w.question(text));
        let question = question.ok_or_else(unfound)?;
        let plan = env.planner.plan_text(question.as_bytes(), env.routes, self.speech());
        if let Kind::Refused(report) = &plan.kind {
            return Err((**report).clone().into());
        }
        if !matches!(plan.single(), Some(Control::None | Control::Pure)) || plan.copies_in {
            // It would change the session.
            return Err(self.computing.refused.take().unwrap_or_else(unfound).into());
        }
        let values = given.map(|g| BindValues { bind: g.bind, oids: &g.types });
        let values: &dyn Values = match &values {
            Some(values) => values,
            None => &NoValues,
        };
        let place = match place_of(&plan, values, env.routes)? {
            Place::Any => Place::Node { node: env.routes.home().id, touches: Vec::new() },
            Place::Every { .. } => return Err(of_several().into()),
            place => place,
        };
        if self.is_own_transaction() {
            // The question ends with a Sync, which must not end what the client has begun.
            return Err(Stop::Wait(self.make_own_block(io)));
        }
        let drawn = if plan.draws { Effect::Writes } else { Effect::Reads };
        if let Some(need) = self.ensure(&place, effect_of(&plan).max(drawn), env, io)? {
            return Err(Stop::Wait(need));
        }
        self.begin_on_link(io);
        if self.is_spoiling() {
            return Err(Stop::Wait(Need::Quiet));
        }
        self.retry.disarm();
        self.movable = false;
        self.before_sequences(&plan, io);
        self.uses_tables(&plan);
        self.put_question(&question, given, io);
        self.computing.stage = Stage::Asked;
        Ok(())
    }

    fn put_question(&mut self, question: &str, given: Option<&Given<'_>>, io: &mut Io<'_>) {
        // How it writes the values, and then the values.
        self.put_asked(STYLE.as_bytes(), &[], &[0; 6], io);
        let (types, rest) = match given {
            Some(given) => given.for_text(question.as_bytes()),
            None => (Vec::new(), vec![0; 6]),
        };
        let plain = frontend::bind_of(&rest).map(|b| b.with_more(std::iter::empty(), &[]));
        self.put_asked(question.as_bytes(), &types, &plain.unwrap_or(rest), io);
        self.end_segment(io);
    }

    fn put_asked(&mut self, sql: &[u8], types: &[u8], rest: &[u8], io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        frontend::put_parse(io.server, b"", sql, types);
        let mut parse = Expect::new(Reply::Parse, Fate::Asked);
        parse.undo.unnamed = Some(link.unnamed.take());
        link.push(parse);
        frontend::put_bind(io.server, b"", b"", rest);
        link.push(Expect::new(Reply::Bind, Fate::Asked));
        frontend::put_named(io.server, b'D', b'P', b"");
        link.push(Expect::new(Reply::Describe, Fate::Asked));
        frame::put(io.server, b'E', |b| b.extend_from_slice(&[0; 5]));
        link.push(Expect::new(Reply::Answer, Fate::Asked));
    }

    /// The columns of the answer that was asked for.
    pub(super) fn answer_described(&mut self, body: &[u8]) {
        // What was told before is how the node writes.
        let told = std::mem::take(&mut self.computing.rows);
        if let Some([(_, Some(style)), (_, Some(digits))]) = told.first().map(Vec::as_slice) {
            let iso = style.starts_with("ISO");
            let exact = digits.parse::<i32>().is_ok_and(|d| d > 0);
            self.computing.written = Written { iso, exact };
        }
        self.computing.columns = columns(body).unwrap_or_default();
    }

    /// A row of it.
    pub(super) fn answer_row(&mut self, body: &[u8]) {
        if self.computing.of.is_none() {
            return self.clock_tells(body);
        }
        if self.computing.row(body).is_none() {
            let report =
                Report::error("54000", "the rows of this INSERT are too many, or too long")
                    .hint("Insert fewer rows at a time, or use COPY.");
            self.computing.stage = Stage::Failed(report);
            self.computing.rows.clear();
        }
    }

    /// The answer to a question of pgshunt's own is complete.
    pub(super) fn own_answer_ends(&mut self, reply: &Reply) {
        match reply {
            Reply::Check => self.know_what_is_left(),
            Reply::Behind => self.know_what_is_behind(),
            _ if matches!(self.computing.stage, Stage::Asked) && !self.is_answer_to_come() => {
                self.computing.stage = Stage::Told;
            }
            _ => {}
        }
    }

    /// Another part of the answer that was asked for comes behind this one.
    fn is_answer_to_come(&self) -> bool {
        let mut left = self.link.iter().flat_map(|l| &l.expects);
        left.any(|e| e.reply == Reply::Answer)
    }

    /// The node has answered with an error.
    pub(super) fn answer_fails(&mut self, error: &[u8]) {
        if self.computing.of.is_none() {
            return self.clock_fails(error);
        }
        self.computing.stage = Stage::Failed(Report::from_node(error));
        self.skip_segment();
    }
}

/// How the session's values are written.
const STYLE: &str = "SELECT pg_catalog.current_setting('DateStyle'), pg_catalog.current_setting('extra_float_digits')";

fn unfound() -> Report {
    Report::error("0A000", "INSERT computes the value of a distribution column")
        .hint("Give it as a constant or parameter.")
}

fn of_several() -> Report {
    Report::error("0A000", "INSERT ... SELECT of rows of several nodes is not supported").hint(
        "Read the rows first and insert them then, or add an equality on the distribution column.",
    )
}
