//! The simple query protocol: one text, one or several statements, one ReadyForQuery.

use std::rc::Rc;

use super::extended::Stop;
use super::link::{Expect, Reply};
use super::{Env, Flow, Gather, Io, Job, Need, Session};
use crate::router::place::{Place, place};
use crate::router::plan::{Control, Kind, Plan};
use crate::wire::backend::{self, Report, Status};
use crate::wire::frontend;

impl Session {
    pub(super) fn query(&mut self, text: &[u8], env: &mut Env<'_>, io: &mut Io<'_>) -> Flow {
        if !self.pending.is_empty() {
            // Parse without Sync and then a Query: the server must see both in their order.
            match self.flush_pending(env, io) {
                Ok(None) => {}
                Ok(Some(need)) => return Flow::Wait(need),
                Err(report) => {
                    self.refuse_query(report, io);
                    return Flow::Done;
                }
            }
        }
        if self.status == Status::Failed && self.link.is_none() {
            return self.query_in_failed_begin(text, env, io);
        }
        match self.unsettled() {
            Ok(None) => {}
            Ok(Some(need)) => return Flow::Wait(need),
            Err(report) => {
                self.refuse_query(report, io);
                return Flow::Done;
            }
        }
        let planned = env.planner.plan(text, env.routes, self.speech());
        let plan = planned.plan;
        if let Err(Stop::Wait(need)) = self.begins_alone(&plan) {
            return Flow::Wait(need);
        }
        let place = place(&plan.kind, &planned.literals, env.routes);
        if self.link.is_none() && self.answer_control(&plan, text, io) {
            self.counters.statements += 1;
            return Flow::Done;
        }
        let place = match place {
            Ok(place) => place,
            Err(report) => {
                self.refuse_query(report, io);
                return Flow::Done;
            }
        };
        if let Some(job) = self.query_job(&plan, &place, text, env) {
            return match job {
                Ok(flow) => flow,
                Err(report) => {
                    self.refuse_query(report, io);
                    Flow::Done
                }
            };
        }
        match self.ensure(&place, env) {
            Ok(None) => {}
            Ok(Some(need)) => return Flow::Wait(need),
            Err(report) => {
                self.refuse_query(report, io);
                return Flow::Done;
            }
        }
        if self.settings_need_quiet(io) {
            return Flow::Wait(Need::Quiet);
        }
        let first = self.link.as_ref().is_some_and(|l| !l.started);
        self.count(&plan.kind);
        let explicit = !self.begin.is_empty();
        self.begin_on_link(io);
        frontend::put_query(io.server, text);
        let mut expect = Expect::forward(Reply::Query);
        expect.controls = controls(&plan, text);
        if first && !explicit && expect.controls.is_none() && matches!(plan.kind, Kind::Keys { .. })
        {
            self.retry.keep(text, env.routes.epoch);
        } else {
            self.retry.forget();
        }
        self.unnamed = None;
        if let Some(link) = &mut self.link {
            link.unnamed = None;
            link.expects.push_back(expect);
        }
        Flow::Done
    }

    /// Answers what needs no node: BEGIN before the first statement, and its end without one.
    fn answer_control(&mut self, plan: &Plan, text: &[u8], io: &mut Io<'_>) -> bool {
        let Some(control) = plan.single() else { return false };
        let Some(tag) = self.virtual_control(control, text) else { return false };
        backend::put_command_complete(io.client, tag);
        backend::put_ready(io.client, self.status);
        true
    }

    /// Carries out, without a node, what can be: gives the command tag, or `None`.
    pub(super) fn virtual_control(
        &mut self,
        control: &Control,
        text: &[u8],
    ) -> Option<&'static str> {
        match (control, self.status) {
            (Control::Begin, Status::Idle) => {
                self.begin.clear();
                self.begin.extend_from_slice(text);
                self.status = Status::Transaction;
                Some(if is_start(text) { "START TRANSACTION" } else { "BEGIN" })
            }
            (Control::Commit | Control::Rollback, Status::Transaction | Status::Failed) => {
                self.begin.clear();
                let failed = self.status == Status::Failed;
                self.status = Status::Idle;
                self.settings.rollback();
                Some(if *control == Control::Commit && !failed { "COMMIT" } else { "ROLLBACK" })
            }
            (Control::Deallocate(name), _) => {
                let gone = match name {
                    None => {
                        self.statements.clear();
                        self.unnamed = None;
                        return Some("DEALLOCATE ALL");
                    }
                    Some(n) => self.statements.remove(n.as_bytes()).is_some(),
                };
                // An unknown name is the server's error to word.
                gone.then_some("DEALLOCATE")
            }
            _ => None,
        }
    }

    /// In a transaction that failed before it had a node only its end is understood.
    fn query_in_failed_begin(&mut self, text: &[u8], env: &mut Env<'_>, io: &mut Io<'_>) -> Flow {
        let plan = env.planner.plan(text, env.routes, self.speech()).plan;
        let ends = matches!(plan.single(), Some(Control::Commit | Control::Rollback));
        if !(ends && self.answer_control(&plan, text, io)) {
            Self::aborted().put(io.client);
            backend::put_ready(io.client, self.status);
        }
        Flow::Done
    }

    /// The job a query is, if it concerns several nodes.
    fn query_job(
        &mut self,
        plan: &Plan,
        place: &Place,
        text: &[u8],
        env: &mut Env<'_>,
    ) -> Option<Result<Flow, Report>> {
        let job = match (place, &plan.kind) {
            (Place::Every { group, nodes, merge }, _) => {
                let mut request = Vec::with_capacity(text.len() + 6);
                frontend::put_query(&mut request, text);
                Job::Gather(Gather {
                    group: *group,
                    nodes: nodes.clone(),
                    merge: merge.clone(),
                    request,
                    epoch: env.routes.epoch,
                    hide_parse: false,
                    hide_describe: false,
                    limit: 0,
                    settings: self.settings.current().clone(),
                })
            }
            (_, Kind::Ddl) => Job::Ddl {
                sql: String::from_utf8_lossy(text).into_owned(),
                extended: false,
                described: false,
            },
            _ => return None,
        };
        Some(self.job_allowed(&job, env).map(|need| match need {
            Some(need) => Flow::Wait(need),
            None => {
                self.count(&plan.kind);
                Flow::Wait(Need::Job(Box::new(job)))
            }
        }))
    }

    /// Whether the session is in a state in which work on several nodes may start.
    pub(super) fn job_allowed(
        &mut self,
        job: &Job,
        env: &mut Env<'_>,
    ) -> Result<Option<Need>, Report> {
        if let Some(link) = &self.link {
            if !link.is_quiet() {
                return Ok(Some(Need::Quiet));
            }
            if !link.started && self.pinned.is_none() {
                self.release = true;
            }
        }
        if self.status != Status::Idle {
            return Err(in_transaction(job));
        }
        if let (Some(why), Job::Gather(_)) = (self.pinned, job) {
            return Err(Report::error(
                "0A000",
                format!("this session is bound to one node by {why} and cannot read from all"),
            )
            .hint("Use another connection for this statement."));
        }
        if let Job::Gather(g) = job
            && env.gate.would_hold(crate::gate::machine::Touch::Group(g.group))
        {
            return Ok(Some(Need::Gate));
        }
        Ok(None)
    }
}

/// The refusal of a job inside a transaction block.
pub(super) fn in_transaction(job: &Job) -> Report {
    match job {
        Job::Gather(_) => Report::error(
            "0A000",
            "a statement that goes to every node cannot run inside a transaction block",
        )
        .hint("Run it outside of the transaction, or add an equality on the distribution column."),
        Job::Ddl { .. } => Report::error(
            "25001",
            "DDL of a distributed table cannot run inside a transaction block",
        )
        .hint("Run it outside of the transaction; it is atomic over all nodes by itself."),
    }
}

/// `START TRANSACTION` has a tag of its own.
fn is_start(text: &[u8]) -> bool {
    let word = text.trim_ascii_start();
    word.len() >= 5 && word[..5].eq_ignore_ascii_case(b"start")
}

/// What the statements of a text do to the session when they complete; `None`: nothing.
pub(super) fn controls(plan: &Plan, text: &[u8]) -> Option<Rc<[(Control, String)]>> {
    if plan.statements.iter().all(|s| s.control == Control::None) {
        return None;
    }
    let all = plan.statements.iter().map(|s| {
        let sql = text.get(s.span.0..s.span.1).unwrap_or(text);
        (s.control.clone(), String::from_utf8_lossy(sql).trim().trim_end_matches(';').to_owned())
    });
    Some(all.collect())
}
