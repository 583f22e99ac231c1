//! The simple query protocol: one text, one or several statements, one ReadyForQuery.

use std::sync::Arc;

use super::clock::Clock;
use super::link::{Done, Expect, Fate, Reply};
use super::listening::sent;
use super::participants::effect_of;
use super::prelude::is_repeatable;
use super::stop::Stop;
use super::{Env, Flow, Io, Need, Session, route};
use crate::router::analysis::is_long;
use crate::router::place::Place;
use crate::router::plan::{Control, Kind, Plan};
use crate::router::{Planned, first_word, place_of};
use crate::topology::NodeId;
use crate::wire::backend::{self, Report, Status};
use crate::wire::{ProtocolError, frontend};

impl Session {
    pub(super) fn query(
        &mut self,
        text: Result<&[u8], ProtocolError>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Flow {
        if !self.pending.is_empty() {
            // Parse without Sync and then a Query: the server must see both in their order.
            match self.cut_pending(env, io) {
                Ok(None) => {}
                Ok(Some(need)) => return Flow::Wait(need),
                Err(report) => {
                    self.refuse_query(report, Fate::Refuse, io);
                    return Flow::Done;
                }
            }
        }
        let text = match text {
            Ok(text) => text,
            Err(e) => {
                self.refuse_query(e.into(), Fate::Insist, io);
                return Flow::Done;
            }
        };
        match self.script {
            Some(_) => self.go_on_with_script(text, env, io),
            None => self.query_text(text, env, io),
        }
    }

    /// Carries out a text, or the statement of one that is under way.
    pub(super) fn query_text(&mut self, text: &[u8], env: &mut Env<'_>, io: &mut Io<'_>) -> Flow {
        if self.meaning_is_open() {
            return Flow::Wait(Need::Quiet);
        }
        let computed = match self.computed_text(text, env, io) {
            Ok(computed) => computed,
            Err(Stop::Wait(need)) => return Flow::Wait(need),
            Err(Stop::Refuse(report)) => {
                self.refuse_query(*report, Fate::Insist, io);
                return Flow::Done;
            }
        };
        let text = computed.as_deref().unwrap_or(text);
        let planned = if is_long(text) {
            match self.long_plan(text, env) {
                Ok(plan) => Planned::alone(plan, text),
                Err(need) => return Flow::Wait(need),
            }
        } else {
            env.planner.plan(text, env.routes, self.speech())
        };
        let plan = route::told(&planned.plan, &planned.literals, env.routes);
        // Two statements of one text may be the same, and want values of their own.
        if computed.is_none()
            && self.script.is_none()
            && self.place_to_fail().is_none()
            && self.begin_computing(&plan, text, &[])
        {
            return self.query_text(text, env, io);
        }
        let place = place_of(&plan, &planned.literals, env.routes);
        if self.goes_apart(&plan, &place) {
            return match self.begin_script(&plan, |n| planned.span(n), io) {
                Some(flow) => flow,
                None => self.go_on_with_script(text, env, io),
            };
        }
        let mut place = place.map(|place| self.at_pin(&plan, place));
        let mut fails = false;
        if let Some(failed) = self.place_to_fail() {
            // Nothing behind the first statement is come to if that fails.
            let first = plan.statements.first().map(|s| &s.control);
            let in_vain = first.is_some_and(|c| match c {
                Control::RollbackTo(name) => !self.settings.has_savepoint(name),
                c => !c.ends_block(),
            });
            if in_vain {
                (place, fails) = (Ok(failed), true);
            } else if let Ok(Place::Node { node, .. }) = &place
                && self.ends_elsewhere(&plan, *node, io)
            {
                return Flow::Wait(Need::Quiet);
            }
        }
        let controls = controls(&plan, text, |n| planned.span(n));
        if self.begins_behind(&plan) || self.deallocates_open(&plan) {
            return Flow::Wait(Need::Quiet);
        }
        let refused = self.refuses_names(&plan, place.as_ref().unwrap_or(&Place::Any));
        if let Some(report) = refused.or_else(|| self.fills(&plan, text.len(), env)) {
            return self.refuse_text(&plan, report, io);
        }
        let busy = self.link.as_ref().is_some_and(|l| !l.is_quiet());
        if busy && self.names_own(&plan) {
            // The server skips what is in front of a Query with it, and only that.
            return Flow::Wait(Need::Quiet);
        }
        if self.answer_control(&plan, text, io) {
            self.counters.statements += 1;
            return Flow::Done;
        }
        if let Some(flow) = self.control_all(&plan, text, &controls, env, io) {
            return flow;
        }
        match place {
            Ok(place) => self.send_text(&plan, place, fails, (text, controls), env, io),
            Err(report) => self.refuse_text(&plan, report, io),
        }
    }

    /// Gets a text to where it is carried out. `fails`: it is to be refused by a failed transaction's node.
    fn send_text(
        &mut self,
        plan: &Arc<Plan>,
        place: Place,
        fails: bool,
        (text, controls): (&[u8], Option<Vec<Done>>),
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Flow {
        let busy = self.link.as_ref().is_some_and(|l| !l.is_quiet());
        match self.listen_first(plan) {
            Ok(None) => {}
            Ok(Some(need)) => return Flow::Wait(need),
            Err(report) => return self.refuse_text(plan, report, io),
        }
        if !fails && let Some(flow) = self.query_all(plan, &place, text, &controls, env, io) {
            return flow;
        }
        self.looks_for_drawn(plan, env);
        match self.refuses_to_prepare(plan, &place, env) {
            Ok(None) => {}
            Ok(Some(report)) => {
                self.refuse_and_roll_back(report, io);
                return Flow::Done;
            }
            Err(need) => return Flow::Wait(need),
        }
        let first = match self.take_snapshot_for(plan, env, io) {
            Ok(None) => self.ask_clock(plan, &place, text, io),
            first => first,
        };
        match first {
            Ok(None) => {}
            Ok(Some(need)) => return Flow::Wait(need),
            Err(report) => {
                self.computing.insists = false;
                self.refuse_query(report, Fate::Insist, io);
                return Flow::Done;
            }
        }
        if let Some(need) = self.commits_now(plan, env) {
            return Flow::Wait(need);
        }
        match self.ensure(&place, effect_of(plan), env, io) {
            Ok(None) => {}
            Ok(Some(need)) => return Flow::Wait(need),
            Err(report) => return self.refuse_text(plan, report, io),
        }
        if busy && self.must_forget(plan) {
            return Flow::Wait(Need::Quiet);
        }
        if let Some(need) = self.fence_first(plan) {
            return Flow::Wait(need);
        }
        self.count(plan);
        self.begin_on_link(io);
        if self.is_spoiling() {
            return Flow::Wait(Need::Quiet);
        }
        self.retry.sent_under(env.routes.epoch);
        self.movable &= may_move(plan);
        let in_time = self.in_time(plan, &place, text);
        let text = in_time.as_deref().unwrap_or(text);
        self.put_text(plan, text, controls, self.fate_of_text(), io);
        Flow::Done
    }

    /// Answers with an error of ours what PostgreSQL would carry out: a text that ends a failed
    /// transaction is not told that it has failed.
    pub(super) fn refuse_text(&mut self, plan: &Plan, report: Report, io: &mut Io<'_>) -> Flow {
        let ends = plan.statements.first().is_some_and(|s| s.control.ends_block());
        let fate = if ends { Fate::Insist } else { Fate::Refuse };
        self.refuse_query(report, fate, io);
        Flow::Done
    }

    /// A text that ends the failed transaction and goes on at another node: nothing of it is left
    /// here, and to fail and to end it is as good there. True: it is on its way.
    fn ends_elsewhere(&mut self, plan: &Plan, node: NodeId, io: &mut Io<'_>) -> bool {
        let first = plan.statements.first().map(|s| &s.control);
        let ends = matches!(first, Some(Control::Commit | Control::Rollback));
        if !ends || self.node() == Some(node) || self.is_bound() {
            return false;
        }
        self.begin_elsewhere(io);
        true
    }

    /// Writes the client's text, with what a RESET in it needs behind it.
    pub(super) fn put_text(
        &mut self,
        plan: &Plan,
        text: &[u8],
        controls: Option<Vec<Done>>,
        fate: Fate,
        io: &mut Io<'_>,
    ) {
        for done in controls.iter().flatten() {
            self.put_deallocated(&done.control, io);
        }
        let mut expect = Expect::new(Reply::Query, fate);
        // A part may be carried out for a message of the extended protocol, which leaves it.
        let of_client = expect.fate != Fate::Part;
        if of_client {
            expect.undo.client = Some((Vec::new(), self.unnamed.take()));
        }
        if !plan.statements.is_empty() {
            self.forget_portal(b"");
        }
        let prefaced = self.names_own(plan) || self.must_forget(plan);
        self.before_sequences(plan, io);
        self.uses_tables(plan);
        self.put_own_names(plan, io);
        expect.copies = plan.copies_in;
        let Some(link) = &mut self.link else { return };
        link.prefaced = prefaced;
        expect.undo.unnamed = Some(link.unnamed.take());
        let restores = controls.iter().flatten().map(|d| self.settings.restores(&d.control));
        let restores: Vec<_> = restores.collect();
        if restores.iter().all(Vec::is_empty) {
            frontend::put_query(io.server, &sent(plan, text));
            expect.controls = controls.map(Into::into);
            link.push(expect);
        } else if plan.single() == Some(&Control::DiscardAll) {
            // It must be alone in its text.
            frontend::put_query(io.server, text);
            expect.controls = controls.map(Into::into);
            expect.fate = Fate::Before;
            link.push(expect);
            frontend::put_query(io.server, restores.concat().join("; ").as_bytes());
            link.push(Expect::new(Reply::Query, Fate::After));
        } else {
            let mut whole = Vec::new();
            let mut all = Vec::new();
            for (done, after) in controls.into_iter().flatten().zip(restores) {
                whole.push(done.sql.clone());
                all.push(done);
                for sql in after {
                    whole.push(sql.clone());
                    all.push(Done { control: Control::None, sql, ours: true });
                }
            }
            // Behind a comment to the end of its line only a new line begins something new.
            let comments = whole.iter().any(|s| s.contains("--"));
            let whole = whole.join(if comments { "\n; " } else { "; " });
            frontend::put_query(io.server, whole.as_bytes());
            expect.controls = Some(all.into());
            link.push(expect);
        }
    }

    /// Answers what needs no node: BEGIN before the first statement, and its end without one, and
    /// DEALLOCATE of a statement whose name the server does not know.
    fn answer_control(&mut self, plan: &Plan, text: &[u8], io: &mut Io<'_>) -> bool {
        let Some(control) = plan.single().filter(|_| self.link.is_none()) else { return false };
        let Some(tag) = self.virtual_control(control, text) else { return false };
        self.forget_portal(b"");
        backend::put_command_complete(io.client, tag);
        self.put_ready(io);
        true
    }

    /// Carries out, without a node, what can be: gives the command tag, or `None`.
    pub(super) fn virtual_control(
        &mut self,
        control: &Control,
        text: &[u8],
    ) -> Option<&'static str> {
        self.unspoilable &= !control.ends_block();
        match (control, self.status) {
            // A node is sent it at once, rather than that it is kept.
            (Control::Begin, Status::Idle) if text.len() > MAX_BEGIN => None,
            (Control::Begin, Status::Idle) => {
                self.begin.clear();
                self.begin.extend_from_slice(text);
                self.prelude.clear();
                self.clock = Clock::default();
                self.status = Status::Transaction;
                Some(if is_start(text) { "START TRANSACTION" } else { "BEGIN" })
            }
            (Control::Commit | Control::Rollback, Status::Transaction | Status::Failed) => {
                self.begin.clear();
                self.begin_text.clear();
                self.opened.clear();
                self.prelude.clear();
                self.portals.clear();
                let failed = self.status == Status::Failed;
                self.status = Status::Idle;
                self.settings.rollback();
                Some(if *control == Control::Commit && !failed { "COMMIT" } else { "ROLLBACK" })
            }
            (Control::PrepareTransaction, Status::Failed) => {
                self.virtual_control(&Control::Rollback, text)
            }
            // The next one is begun as this one was, and has nothing to end.
            (Control::CommitAndChain, Status::Transaction) => {
                self.portals.clear();
                Some("COMMIT")
            }
            (Control::RollbackAndChain, Status::Transaction)
            | (Control::CommitAndChain | Control::RollbackAndChain, Status::Failed) => {
                self.status = Status::Transaction;
                self.portals.clear();
                Some("ROLLBACK")
            }
            (Control::Deallocate(name), Status::Idle | Status::Transaction) => {
                let gone = match name {
                    None => {
                        self.statements.clear();
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
}

/// The longest BEGIN, with its comments, that is kept until the transaction has a node.
const MAX_BEGIN: usize = 16 << 10;

/// `START TRANSACTION` has a tag of its own.
fn is_start(text: &[u8]) -> bool {
    let word = text.get(first_word(text, 0)..).unwrap_or_default();
    word.get(..5).is_some_and(|w| w.eq_ignore_ascii_case(b"start"))
}

/// What the statements of a text do to the session when they complete; `None`: nothing. `span`
/// tells where the n-th one is.
pub(super) fn controls(
    plan: &Plan,
    text: &[u8],
    span: impl Fn(usize) -> (usize, usize),
) -> Option<Vec<Done>> {
    if plan.statements.iter().all(|s| matches!(s.control, Control::None | Control::Pure)) {
        return None;
    }
    let all = plan.statements.iter().enumerate().map(|(n, s)| {
        let (start, end) = span(n);
        let sql = String::from_utf8_lossy(text.get(start..end).unwrap_or(text));
        let mut sql = sql.trim().trim_end_matches(';').to_owned();
        if let Control::Listen { at, .. } = s.control {
            // As it is sent.
            let word = text.get(at..end).unwrap_or_default();
            sql = format!("UN{}", String::from_utf8_lossy(word).trim());
        }
        Done { control: s.control.clone(), sql, ours: false }
    });
    Some(all.collect())
}

/// After this the transaction may still begin anew on another node.
pub(super) fn may_move(plan: &Plan) -> bool {
    let harmless =
        |c: &Control| is_repeatable(c) || matches!(c, Control::Pure | Control::Deallocate(_));
    plan.kind == Kind::Any && plan.single().is_some_and(harmless)
}
