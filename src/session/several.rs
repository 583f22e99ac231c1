//! Statements that concern several nodes: whether they may start now, and what each node is sent.
//!
//! By the simple protocol that is a text. By the extended one it is a batch: what the client sends of
//! the statement waits in `pending` until something comes that is none of it, and is then carried out
//! as a segment of its own.

use std::rc::Rc;
use std::sync::Arc;

use super::link::Done;
use super::participants::concerns_all;
use super::simple::controls;
use super::spread::{How, Request, Segment, Spread};
use super::stop::Stop;
use super::{Ddl, Env, Flow, Io, Need, Pending, Session, Statement};
use crate::commit::{Commit, Part};
use crate::merge::{Answer, Window};
use crate::router::place::{BindValues, Given, NoValues, Place, Values};
use crate::router::plan::{Control, Count, Effect, Kind, Merge, OnEach, Plan};
use crate::topology::{GroupId, NodeId};
use crate::wire::backend::{self, Report, Status};
use crate::wire::frontend;

impl Session {
    /// Carries out a query that concerns several nodes, or DDL; `None`: it is neither.
    pub(super) fn query_all(
        &mut self,
        plan: &Arc<Plan>,
        place: &Place,
        text: &[u8],
        controls: &Option<Vec<Done>>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Option<Flow> {
        let outcome = match (place, &plan.kind) {
            (Place::Every { group, nodes, merge }, _) => {
                window(merge, &NoValues).and_then(|window| {
                    let how = How::Merged(Answer::new(merge.clone(), 0, window, false).into());
                    let request = Request::Text {
                        plan: plan.clone(),
                        text: merge.text().map_or(text, str::as_bytes).to_vec(),
                        controls: controls.clone(),
                    };
                    let spread = Spread::new(nodes.clone(), request, how);
                    self.spread_over(Some(*group), spread, env, io)
                })
            }
            (_, Kind::Ddl(_)) => match self.within_block(plan) {
                Some(each) => self.ddl_over_all(each, plan, |_| {}, env, io),
                None => self.ddl_allowed(plan).map(|need| {
                    let ddl = || Need::Ddl(Box::new(ddl(text, Vec::new(), Vec::new())));
                    Some(need.unwrap_or_else(ddl))
                }),
            },
            _ => return None,
        };
        Some(match outcome {
            Ok(need) => {
                if matches!(need, None | Some(Need::Ddl(_))) {
                    self.count(plan);
                }
                need.map_or(Flow::Done, Flow::Wait)
            }
            Err(report) => self.refuse_text(plan, report, io),
        })
    }

    /// Carries out on all participants what concerns all of them; `None`: there is but one, or the
    /// text is none of the sort.
    pub(super) fn control_all(
        &mut self,
        plan: &Arc<Plan>,
        text: &[u8],
        controls: &Option<Vec<Done>>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Option<Flow> {
        if !self.concerns_several(plan) {
            return None;
        }
        let ends = plan.statements.first().is_some_and(|s| s.control.ends_block());
        if self.status == Status::Failed && !ends {
            // It fails where the transaction has failed.
            return None;
        }
        let outcome = match (self.refuses_over_nodes(plan), plan.single()) {
            (Some(report), _) => Err(report),
            (None, Some(control)) => {
                let spread = self.control_spread(control, plan, text, controls);
                self.spread_over(None, spread, env, io)
            }
            (None, None) => return None,
        };
        Some(match outcome {
            Ok(None) => {
                self.count(plan);
                Flow::Done
            }
            Ok(Some(need)) => Flow::Wait(need),
            Err(report) => self.refuse_text(plan, report, io),
        })
    }

    /// The text says something to the transaction itself, which has several participants.
    fn concerns_several(&self, plan: &Plan) -> bool {
        self.may_be_several()
            && self.participants().len() > 1
            && plan.statements.iter().any(is_concerned)
    }

    /// Why a text that concerns all participants of the transaction cannot be carried out on several,
    /// if so.
    pub(super) fn refuses_over_nodes(&self, plan: &Plan) -> Option<Report> {
        if !self.concerns_several(plan) {
            return None;
        }
        match plan.single() {
            Some(Control::PrepareTransaction) => {
                Some(not_over_nodes("PREPARE TRANSACTION is").hint("Use COMMIT."))
            }
            // What is prepared cannot be followed by another transaction at once.
            Some(Control::CommitAndChain) if self.status != Status::Failed => Some(
                not_over_nodes("AND CHAIN is").hint("End the transaction and begin another one."),
            ),
            Some(_) => None,
            None => Some(
                not_over_nodes(
                    "several statements in one text, of which one ends the transaction or sets \
                     something, are",
                )
                .hint("Send them one by one."),
            ),
        }
    }

    /// A statement that each participant carries out alike: the transaction's end, a savepoint, SET.
    fn control_spread(
        &self,
        control: &Control,
        plan: &Arc<Plan>,
        text: &[u8],
        controls: &Option<Vec<Done>>,
    ) -> Spread {
        let nodes = self.participants();
        let (plan, controls) = (plan.clone(), controls.clone());
        let failed = self.status == Status::Failed;
        let request = match control {
            Control::Commit if !failed => {
                let open = self.links().filter(|l| l.is_open());
                let parts = open.map(|l| Part { node: l.node, wrote: l.effect > Effect::Locks });
                Request::Ending { commit: Commit::new(parts.collect()), plan, controls }
            }
            // Those that have not failed would commit.
            Control::Commit => Request::Text { plan, text: b"ROLLBACK".to_vec(), controls },
            Control::CommitAndChain => {
                Request::Text { plan, text: b"ROLLBACK AND CHAIN".to_vec(), controls }
            }
            _ => Request::Text { plan, text: text.to_vec(), controls },
        };
        Spread::new(nodes, request, How::Same(Vec::new()))
    }

    /// Begins with DDL on all nodes within the open transaction. `answers`: adds what else the client reads.
    fn ddl_over_all(
        &mut self,
        each: &OnEach,
        plan: &Arc<Plan>,
        answers: impl FnOnce(&mut Spread),
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        let (group, mut spread) = match self.ddl_spread(each, plan, env) {
            Ok(spread) => spread,
            Err(first) => return first.map(Some),
        };
        answers(&mut spread);
        self.spread_over(group, spread, env, io)
    }

    /// Begins with a statement on several nodes when all of them are there.
    fn spread_over(
        &mut self,
        group: Option<GroupId>,
        spread: Spread,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        if group.is_some() && self.status == Status::Failed {
            return Err(aborted());
        }
        let nodes: Vec<NodeId> = spread.nodes().to_vec();
        if let Some(need) = self.ensure_all(group, &nodes, env, io)? {
            return Ok(Some(need));
        }
        self.begin_spread(spread, io);
        Ok(None)
    }

    /// Whether a statement of the extended protocol concerns several nodes.
    pub(super) fn is_batch(&self, plan: &Plan, place: &Place) -> bool {
        let counts = |c: &Control| self.status != Status::Failed || c.ends_block();
        let all = || {
            let concerned = plan.single().is_some_and(|c| concerns_all(c) && counts(c));
            self.may_be_several() && concerned && self.participants().len() > 1
        };
        matches!(place, Place::Every { .. })
            || matches!(plan.kind, Kind::Ddl(_)) && self.place_to_fail().is_none()
            || all()
    }

    /// The Bind of a statement on several nodes comes: what is under way must be answered, and what is
    /// pending must be of the statement.
    pub(super) fn before_batch(
        &mut self,
        plan: &Plan,
        place: &Place,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        if self.link.as_ref().is_some_and(|l| !l.is_quiet()) {
            return Err(Stop::Wait(Need::Quiet));
        }
        self.answer_virtual_head(io);
        if self.pending.iter().any(|p| matches!(p, Pending::Bind { .. })) {
            return Err(not_alone().into());
        }
        let need = match place {
            Place::Every { .. } if self.status == Status::Failed => Err(aborted()),
            Place::Every { group, nodes, .. } => self.ensure_all(Some(*group), nodes, env, io),
            _ if matches!(plan.kind, Kind::Ddl(_)) && self.within_block(plan).is_none() => {
                self.ddl_allowed(plan)
            }
            _ => Ok(None),
        };
        need?.map_or(Ok(()), |need| Err(Stop::Wait(need)))
    }

    /// Why a portal cannot be executed in another segment than the one that has bound it, if so: it is on
    /// one node, and its statement concerns several.
    pub(super) fn refuses_alone(&self, portal: &[u8]) -> Option<Report> {
        let plan = &self.portal(portal)?.statement.plan;
        let all = || plan.single().is_some_and(concerns_all) && self.participants().len() > 1;
        (matches!(plan.kind, Kind::Every { .. }) || all()).then(|| {
            Report::error("0A000", "a statement that goes to every node must be executed at once")
                .hint("Send Bind and Execute together, without a row limit (a fetch size).")
        })
    }

    /// Something comes that is not of the statement on several nodes which is pending, if one is: that
    /// is carried out first.
    pub(super) fn cut_batch(&mut self, env: &mut Env<'_>, io: &mut Io<'_>) -> Result<(), Stop> {
        match self.carry_out_batch(false, env, io)? {
            true => Err(Stop::Wait(Need::Quiet)),
            false => Ok(()),
        }
    }

    /// Sends what is pending where it belongs, before a Flush or a Query.
    pub(super) fn cut_pending(
        &mut self,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        match self.carry_out_batch(false, env, io) {
            Ok(true) => Ok(Some(Need::Quiet)),
            Ok(false) => self.flush_pending(env, io),
            Err(Stop::Wait(need)) => Ok(Some(need)),
            Err(Stop::Refuse(report)) => Err(*report),
        }
    }

    /// Begins to carry out what is pending, if that is a statement on several nodes which is executed.
    /// `ready`: by Sync.
    pub(super) fn carry_out_batch(
        &mut self,
        ready: bool,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<bool, Stop> {
        let bound = self.pending.iter().find_map(|p| match p {
            Pending::Bind { statement, .. } => Some(statement.clone()),
            _ => None,
        });
        let Some(statement) = bound else { return Ok(false) };
        let alone = !matches!(statement.plan.kind, Kind::Every { .. } | Kind::Ddl(_));
        if alone && !self.may_be_several() {
            return Ok(false);
        }
        let plan = self.fresh_plan(&statement, env)?;
        let place = match &plan.kind {
            Kind::Every { .. } | Kind::Ddl(_) => {
                crate::router::place::place(&plan.kind, &NoValues, env.routes)?
            }
            _ => Place::Any,
        };
        if !self.is_batch(&plan, &place) {
            return Ok(false);
        }
        let count = |what: fn(&Pending) -> bool| self.pending.iter().filter(|&p| what(p)).count();
        let binds = count(|p| matches!(p, Pending::Bind { .. }));
        let executes = count(|p| matches!(p, Pending::Execute { .. }));
        if executes == 0 && binds == 1 && !matches!(plan.kind, Kind::Ddl(_)) {
            // Only to be described, which any one node can do.
            return Ok(false);
        }
        if binds > 1 || executes != 1 {
            return Err(not_alone().into());
        }
        let mut batch = self.batch(&statement, &plan)?;
        if matches!(plan.kind, Kind::Ddl(_)) {
            return self.carry_out_ddl(&statement, &plan, batch, ready, env, io);
        }
        let spans = |n: usize| plan.statements.get(n).map_or((0, 0), |s| s.span);
        let done = controls(&plan, &statement.text, spans);
        let (group, mut spread) = match place {
            Place::Every { group, nodes, merge } => {
                let (window, binary) = batch.window(&statement, &merge)?;
                let request = batch.segment(&statement, merge.text()).request(done.map(Rc::from));
                let how = How::Merged(Answer::new(merge, batch.limit, window, binary).into());
                let mut spread = Spread::new(nodes, request, how);
                spread.hide_parse = !batch.parsed;
                spread.hide_describe = !batch.described;
                (Some(group), spread)
            }
            Place::Any | Place::Node { .. } => {
                let control = plan.single().unwrap_or(&Control::None);
                let mut spread = self.control_spread(control, &plan, &statement.text, &done);
                spread.answered = batch.messages.len().saturating_sub(1);
                spread.before = std::mem::take(&mut batch.before);
                (None, spread)
            }
        };
        spread.behind = batch.behind;
        spread.ready = ready;
        match self.spread_over(group, spread, env, io)? {
            Some(need) => Err(Stop::Wait(need)),
            None => {
                self.count(&plan);
                Ok(true)
            }
        }
    }

    /// The same of DDL: within the open transaction, or else by pgshunt.
    fn carry_out_ddl(
        &mut self,
        statement: &Statement,
        plan: &Arc<Plan>,
        batch: Batch,
        ready: bool,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<bool, Stop> {
        let Some(each) = self.within_block(plan) else {
            if !ready {
                return Err(Report::error(
                    "0A000",
                    "a statement that changes every node must be ended by Sync",
                )
                .hint("Use Sync instead of Flush.")
                .into());
            }
            return Err(Stop::Wait(match self.ddl_allowed(plan)? {
                Some(need) => need,
                None => Need::Ddl(Box::new(ddl(&statement.text, batch.before, batch.behind))),
            }));
        };
        let answers = |spread: &mut Spread| {
            spread.answered = batch.messages.len().saturating_sub(1);
            (spread.before, spread.behind, spread.ready) = (batch.before, batch.behind, ready);
        };
        match self.ddl_over_all(each, plan, answers, env, io)? {
            Some(need) => Err(Stop::Wait(need)),
            None => {
                self.count(plan);
                Ok(true)
            }
        }
    }

    /// What is pending of the statement, message by message.
    fn batch(&self, statement: &Statement, plan: &Plan) -> Result<Batch, Report> {
        let reads = matches!(plan.kind, Kind::Every { .. });
        let mut batch = Batch::default();
        let mut executed = false;
        for p in &self.pending {
            match p {
                Pending::Parse { statement: s, .. } if s.id == statement.id && !executed => {
                    batch.parsed = true;
                    backend::put_bare(&mut batch.before, b'1');
                    batch.messages.push(Message::Parse);
                }
                Pending::DescribeStatement { statement: s, .. }
                    if s.id == statement.id && !matches!(plan.kind, Kind::Ddl(_)) && !executed =>
                {
                    crate::wire::frame::put(&mut batch.before, b't', |b| {
                        b.extend_from_slice(&[0, 0])
                    });
                    backend::put_bare(&mut batch.before, b'n');
                    batch.messages.push(Message::Describe(b'S'));
                }
                Pending::ClosePortal { .. } | Pending::Ours { .. } if executed => {
                    batch.behind.extend_from_slice(&p.bytes());
                }
                // A portal of the request itself that is closed before cannot be executed any more.
                Pending::ClosePortal { .. } | Pending::Ours { .. } if p.bytes() == CLOSED => {
                    backend::put_bare(&mut batch.before, b'3');
                    batch.messages.push(Message::Close);
                }
                Pending::Parse { .. }
                | Pending::DescribeStatement { .. }
                | Pending::ClosePortal { .. }
                | Pending::Ours { .. } => return Err(not_alone()),
                Pending::Bind { rest, .. } => {
                    backend::put_bare(&mut batch.before, b'2');
                    batch.messages.push(Message::Bind(rest.clone()));
                }
                Pending::DescribePortal { .. } if executed => return Err(not_alone()),
                Pending::DescribePortal { .. } => {
                    batch.described = true;
                    backend::put_bare(&mut batch.before, b'n');
                    batch.messages.push(Message::Describe(b'P'));
                }
                Pending::Execute { limit, .. } => {
                    executed = true;
                    // Folding needs the columns' types, whether the client asks for them or not.
                    let folds = matches!(plan.kind, Kind::Every { merge: Merge::Fold(_), .. });
                    if reads && folds && !batch.described {
                        batch.messages.push(Message::Describe(b'P'));
                    }
                    batch.limit = u64::try_from(*limit).unwrap_or(0);
                    batch.messages.push(Message::Execute);
                }
            }
        }
        if reads && batch.limit > 0 && self.status != Status::Idle {
            return Err(Report::error(
                "0A000",
                "a statement that goes to every node cannot be executed row by row in a transaction",
            )
            .hint("Execute it without a row limit (a fetch size)."));
        }
        Ok(batch)
    }
}

/// A message of a batch.
enum Message {
    Parse,
    Bind(Vec<u8>),
    Describe(u8),
    Close,
    Execute,
}

#[derive(Default)]
struct Batch {
    messages: Vec<Message>,
    parsed: bool,
    described: bool,
    /// The row limit of Execute; 0: none.
    limit: u64,
    /// What answers the messages before Execute where no node does, and behind it.
    before: Vec<u8>,
    behind: Vec<u8>,
}

impl Batch {
    /// Which rows the client gets, and whether what they are sorted by comes in binary format: one column
    /// more than the client has asked for.
    fn window(&mut self, statement: &Statement, merge: &Merge) -> Result<(Window, bool), Stop> {
        let sorts = matches!(merge, Merge::Ordered(o) if !o.keys.is_empty());
        let bind = self.messages.iter_mut().find_map(|m| match m {
            Message::Bind(rest) => Some(rest),
            _ => None,
        });
        let Some(rest) = bind else { return Ok((Window::default(), false)) };
        let bind = frontend::bind_of(rest)?;
        let window = window(merge, &BindValues { bind: &bind, oids: &statement.oids })?;
        let (more, binary) = bind.with_one_more();
        if sorts {
            *rest = more;
        }
        Ok((window, binary))
    }

    /// As each node gets it: with the unnamed statement, which is prepared anew.
    fn segment(&self, statement: &Statement, text: Option<&str>) -> Segment {
        let text = text.map_or(&statement.text[..], str::as_bytes);
        let mut segment = Segment::new();
        if !self.parsed {
            segment.parse(text, &statement.types());
        }
        for message in &self.messages {
            match message {
                Message::Parse => segment.parse(text, &statement.types()),
                Message::Bind(rest) => segment.bind(rest),
                Message::Describe(what) => segment.describe(*what),
                Message::Close => segment.close_portal(NO_PORTAL),
                Message::Execute => segment.execute(0),
            }
        }
        segment
    }
}

/// Which rows of those that the nodes have the client gets.
fn window(merge: &Merge, values: &dyn Values) -> Result<Window, Report> {
    let Merge::Ordered(ordered) = merge else { return Ok(Window::default()) };
    let number = |count: &Option<Count>| match count {
        None => Ok(None),
        Some(Count::Number(n)) => Ok(Some(*n)),
        Some(Count::Param(index)) => match values.param(*index) {
            None | Some(Given::Null) => Ok(None),
            Some(given) => given.integer().map(Some).ok_or_else(|| {
                Report::error("0A000", "cannot read a parameter of LIMIT or OFFSET")
                    .hint("Send it as an integer.")
            }),
        },
    };
    let negative = |n: i64| u64::try_from(n).is_err();
    let (skip, most) = (number(&ordered.offset)?, number(&ordered.limit)?);
    if skip.is_some_and(negative) {
        return Err(Report::error("2201X", "OFFSET must not be negative"));
    }
    if most.is_some_and(negative) {
        return Err(Report::error("2201W", "LIMIT must not be negative"));
    }
    let count = |n: i64| u64::try_from(n).unwrap_or_default();
    Ok(Window { skip: skip.map_or(0, count), most: most.map(count), ties: ordered.ties })
}

/// CloseComplete
const CLOSED: &[u8] = b"3\0\0\0\x04";

/// A name that no portal bears on a node.
const NO_PORTAL: &[u8] = b"pgs_none";

fn ddl(text: &[u8], before: Vec<u8>, behind: Vec<u8>) -> Ddl {
    Ddl { sql: String::from_utf8_lossy(text).into_owned(), before, behind }
}

pub(super) fn not_alone() -> Report {
    Report::error("0A000", "a statement that goes to every node must be alone between two Syncs")
        .hint("Send Sync before and after it, and execute it once (leave pipeline mode).")
}

fn is_concerned(s: &crate::router::plan::Statement) -> bool {
    concerns_all(&s.control) || s.control == Control::PrepareTransaction
}

fn not_over_nodes(what: &str) -> Report {
    Report::error("0A000", format!("{what} not supported in a transaction of several nodes"))
}

pub(super) fn aborted() -> Report {
    Report::error(
        "25P02",
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}
