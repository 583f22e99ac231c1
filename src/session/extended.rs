//! The extended query protocol: Parse, Bind, Describe, Execute, Close, Flush, Sync.
//!
//! Statements belong to the client by name and to a server connection by content. A named one is
//! prepared on a connection when first needed there, under a name made from its content, so that
//! clients with the same statement share it; the unnamed one is sent as it came. The answers the
//! client is owed come in the order of its messages, whoever gives them.

use std::rc::Rc;

use super::link::{Expect, Fate, Reply, Undo};
use super::participants::effect_of;
use super::simple::may_move;
use super::stop::Stop;
use super::{Env, Flow, Io, MAX_PENDING, Need, Pending, Session, Statement, route};
use crate::router::analysis::{Under, is_long};
use crate::router::place::{BindValues, NoValues, Place};
use crate::router::plan::{Control, Effect, Kind, Plan};
use crate::wire::backend::{self, Report, Status};
use crate::wire::frontend::{self, Named};

impl Session {
    pub(super) fn extended(
        &mut self,
        tag: u8,
        body: &[u8],
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Flow {
        match self.take_extended(tag, body, env, io) {
            Ok(()) => {
                self.counters.parses += u64::from(tag == b'P');
                self.counters.binds += u64::from(tag == b'B');
                Flow::Done
            }
            Err(Stop::Wait(need)) => Flow::Wait(need),
            Err(Stop::Refuse(report)) => {
                // What the client asked before that comes first.
                let asked = |p: &Pending| {
                    matches!(
                        p,
                        Pending::Parse { .. }
                            | Pending::DescribeStatement { .. }
                            | Pending::DescribePortal { .. }
                            | Pending::Execute { .. }
                    )
                };
                if self.pending.iter().any(asked)
                    && !self.has_batch()
                    && !(self.link.is_none() && self.answer_virtual(io))
                    && let Ok(Some(need)) = self.flush_pending(env, io)
                {
                    return Flow::Wait(need);
                }
                let named = matches!(&*report.sqlstate, "26000" | "34000" | "08P01");
                let fails = self.link.is_none() && self.status == Status::Failed;
                if fails && !named && !self.unspoilable {
                    // That the transaction has failed comes first.
                    let home = env.routes.home().id;
                    let place = Place::Node { node: home, touches: Vec::new() };
                    if let Err(Stop::Wait(need)) = self.reach(&place, Effect::Reads, env, io) {
                        return Flow::Wait(need);
                    }
                }
                self.refuse_message(tag, *report, io);
                Flow::Done
            }
        }
    }

    fn take_extended(
        &mut self,
        tag: u8,
        body: &[u8],
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        match tag {
            b'P' => self.parse(frontend::parse(body)?, env, io),
            b'B' => match frontend::bind(body) {
                Ok(bind) => self.bind(bind, env, io),
                Err(malformed) => {
                    // The statement is looked for before the rest is read.
                    let (_, statement) = frontend::bind_names(body)?;
                    self.statement(statement)?;
                    Err(malformed.into())
                }
            },
            b'D' => self.describe(frontend::named(body)?, env, io),
            b'E' => {
                let (portal, limit) = frontend::execute(body)?;
                self.execute(portal, limit, env, io)
            }
            b'C' => {
                let named = frontend::named(body)?;
                if let Named::Portal(portal) = named {
                    self.turn_to_portal(portal, env, io)?;
                }
                self.close(named, io)
            }
            b'H' => {
                frontend::empty(body)?;
                self.flush(env, io)
            }
            _ => {
                frontend::empty(body)?;
                self.sync(env, io)
            }
        }
    }

    fn parse(
        &mut self,
        p: frontend::Parse<'_>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        if self.meaning_is_open() || !p.name.is_empty() && self.is_name_open(p.name) {
            return Err(Stop::Wait(Need::Quiet));
        }
        self.cut_batch(env, io)?;
        let plan = route::told(&self.plan_text(p.text, env)?, &NoValues, env.routes);
        if let (Kind::Refused(report), None) = (&plan.kind, &plan.computed) {
            return Err((**report).clone().into());
        }
        if let Some(report) = self.refuses_execute(&plan) {
            return Err(report.into());
        }
        if self.statements.has(p.name) && !self.retry.is_replaying() {
            return self.parse_taken(&p, &plan.kind, env, io);
        }
        let bytes = p.name.len() + p.text.len() + p.oids.len();
        if !p.name.is_empty()
            && let Some(report) = self.is_full(bytes, env)
        {
            return Err(report.into());
        }
        let home = env.routes.home().id;
        if plan.kind == Kind::Home && self.in_segment() && self.node() != Some(home) {
            // The node would say that the table does not exist, and it does.
            return Err(Stop::Wait(self.enlist(home, env, io)?));
        }
        let several = plan.statements.len() > 1;
        if several && !self.in_segment() {
            // No node takes that, and any of them says so, in its own words.
            let node = self.node().unwrap_or(home);
            self.reach(&Place::Node { node, touches: Vec::new() }, Effect::Reads, env, io)?;
        }
        let meant = env.moments.parsed_by(self.settings.search_path());
        let mut statement = Statement::new(p.text, p.oids, plan, meant);
        statement.planned_under = is_long(p.text).then(|| Under::new(env.routes, self.speech()));
        let statement = Rc::new(statement);
        let before = if p.name.is_empty() {
            self.unnamed.replace(statement.clone())
        } else {
            self.statements.insert(p.name, statement.clone())
        };
        if several || self.in_segment() {
            self.emit_parse(p.name, &statement, before, env, io);
        } else {
            let bytes = p.text.len() + p.oids.len();
            self.wait(Pending::Parse { name: p.name.to_vec(), statement, before }, bytes)?;
        }
        Ok(())
    }

    /// A Parse under a name that another statement bears: that the text is wrong comes first.
    fn parse_taken(
        &mut self,
        p: &frontend::Parse<'_>,
        kind: &Kind,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        let place = self.parsing_place(env.routes, || std::iter::once(kind));
        self.reach(&place, Effect::Reads, env, io)?;
        frontend::put_parse(io.server, b"", p.text, p.oids);
        let mut e = Expect::new(Reply::Parse, Fate::Swallow);
        if let Some(link) = &mut self.link {
            e.undo.unnamed = Some(link.unnamed.take());
            link.push(e);
        }
        let name = String::from_utf8_lossy(p.name);
        let report = format!("prepared statement \"{name}\" already exists");
        Err(Report::error("42P05", report).into())
    }

    /// An earlier segment may yet turn out not to have given this name, or not to have taken it.
    fn is_name_open(&self, name: &[u8]) -> bool {
        self.link.as_ref().is_some_and(|l| l.is_name_open(name))
    }

    /// The same of a name that the text deallocates.
    pub(super) fn deallocates_open(&self, plan: &crate::router::plan::Plan) -> bool {
        plan.statements.iter().any(|s| match &s.control {
            Control::Deallocate(Some(name)) => self.is_name_open(name.as_bytes()),
            _ => false,
        })
    }

    /// The server has begun with this segment; before that it waits until its place is known.
    fn in_segment(&self) -> bool {
        self.pending.is_empty() && self.link.as_ref().is_some_and(|l| l.in_segment)
    }

    fn wait(&mut self, message: Pending, bytes: usize) -> Result<(), Stop> {
        self.pending_bytes += bytes + 64;
        self.pending.push(message);
        if self.pending_bytes > MAX_PENDING {
            return Err(Report::error("54000", "too many messages before the first Bind or Sync")
                .hint("Send Sync more often.")
                .into());
        }
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<Rc<Statement>, Stop> {
        if self.is_name_open(name) {
            return Err(Stop::Wait(Need::Quiet));
        }
        let found = if name.is_empty() { self.unnamed.as_ref() } else { self.statements.get(name) };
        found.cloned().ok_or_else(|| Report::no_statement(name).into())
    }

    fn bind(
        &mut self,
        b: frontend::Bind<'_>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        if self.meaning_is_open() {
            return Err(Stop::Wait(Need::Quiet));
        }
        self.cut_batch(env, io)?;
        let mut statement = self.statement(b.statement)?;
        let fails = self.place_to_fail().is_some() && !self.computing.has_failed();
        let instead = match fails {
            true => None,
            false => self.computed_statement(&statement, &b, env, io)?,
        };
        let mut b = b;
        if let Some(instead) = &instead {
            statement = instead.statement.clone();
            let portal = std::mem::replace(&mut b, frontend::bind_of(&instead.rest)?).portal;
            b.portal = portal;
        }
        let plan = self.fresh_plan(&statement, env)?;
        if self.begins_behind(&plan) || self.deallocates_open(&plan) {
            return Err(Stop::Wait(Need::Quiet));
        }
        let refused = self.refuses_execute(&plan).or_else(|| self.refuses_over_nodes(&plan));
        let refused = refused.or_else(|| self.begins_late(&plan, &statement.text));
        if let Some(report) = refused {
            return Err(report.into());
        }
        let bytes = statement.text.len() + b.rest.len();
        let full = match b.portal {
            b"" => self.fills(&plan, bytes, env),
            _ => self.is_full(b.portal.len() + bytes, env),
        };
        if let Some(report) = full {
            return Err(report.into());
        }
        let values = BindValues { bind: &b, oids: &statement.oids };
        let place = match self.place_to_fail() {
            Some(place) => place,
            None => self.at_pin(&plan, crate::router::place_of(&plan, &values, env.routes)?),
        };
        let batch = self.is_batch(&plan, &place);
        let virtual_control = self.link.is_none()
            && b.portal.is_empty()
            && matches!(
                (plan.single(), self.status),
                (Some(Control::Begin), Status::Idle)
                    | (
                        Some(
                            Control::Commit
                                | Control::Rollback
                                | Control::CommitAndChain
                                | Control::RollbackAndChain
                        ),
                        Status::Transaction | Status::Failed
                    )
            );
        if let Some(report) = self.refuses_name(b.portal, &plan, &place) {
            return Err(report.into());
        }
        if batch || virtual_control {
            if batch {
                self.before_batch(&plan, &place, env, io)?;
            }
            self.remember_portal(b.portal, &statement, matches!(plan.kind, Kind::Every { .. }));
            let bytes = b.rest.len();
            return self.wait(
                Pending::Bind {
                    portal: b.portal.to_vec(),
                    statement,
                    name: b.statement.to_vec(),
                    rest: b.rest.to_vec(),
                },
                bytes,
            );
        }
        if let Some(need) = self.listen_first(&plan)? {
            return Err(Stop::Wait(need));
        }
        self.looks_for_drawn(&plan, env);
        if let Some(report) = self.refuses_to_prepare(&plan, &place, env)? {
            let here = self.node().unwrap_or(env.routes.home().id);
            self.reach(&Place::Node { node: here, touches: Vec::new() }, Effect::Reads, env, io)?;
            self.put_own_behind("ROLLBACK", io);
            return Err(report.into());
        }
        if let Some(need) = self.commits_now(&plan, env) {
            return Err(Stop::Wait(need));
        }
        let effect = effect_of(&plan);
        if let Some(need) = self.take_snapshot_for(&plan, env, io)? {
            return Err(Stop::Wait(need));
        }
        if let Some(need) = self.ask_clock(&plan, &place, &statement.text, io)? {
            return Err(Stop::Wait(need));
        }
        if let Some(need) = self.ensure(&place, effect, env, io)? {
            return Err(Stop::Wait(need));
        }
        if let Some(need) = self.fence_first(&plan) {
            return Err(Stop::Wait(need));
        }
        self.reach(&place, effect, env, io)?;
        self.compare_columns(&statement, b.statement.is_empty(), env, io)?;
        self.count(&plan);
        self.movable &= may_move(&plan) && b.param(0).is_none();
        match self.statement_in_time(&statement, &place) {
            Some(timed) => self.emit_bind(b.portal, &timed, b"", b.rest, env, io),
            None => self.emit_bind(b.portal, &statement, b.statement, b.rest, env, io),
        }
        Ok(())
    }

    /// BEGIN behind what is under way waits until that has ended: the new transaction may have
    /// another node.
    pub(super) fn begins_behind(&self, plan: &Plan) -> bool {
        let begins = plan.single() == Some(&Control::Begin) && !self.is_bound();
        begins && self.link.as_ref().is_some_and(|l| !l.in_segment && !l.is_quiet())
    }

    /// Gets the session linked to the place, its transaction begun and what was pending sent.
    pub(super) fn reach(
        &mut self,
        place: &Place,
        effect: Effect,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        if let Some(need) = self.ensure(place, effect, env, io)? {
            return Err(Stop::Wait(need));
        }
        self.begin_on_link(io);
        if self.is_spoiling() {
            return Err(Stop::Wait(Need::Quiet));
        }
        self.retry.sent_under(env.routes.epoch);
        self.emit_pending(env, io);
        Ok(())
    }

    fn describe(
        &mut self,
        named: Named<'_>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        match named {
            Named::Statement(name) => {
                if self.meaning_is_open() {
                    return Err(Stop::Wait(Need::Quiet));
                }
                let statement = self.statement(name)?;
                if self.lacks_in_vain(&statement, name.is_empty())
                    && let Some(answer) = statement.described_by_text()
                {
                    statement.described.set(true);
                    return self.ours(answer, Undo::default(), io);
                }
                if self.in_segment() {
                    self.emit_describe_statement(&statement, name, env, io);
                    Ok(())
                } else {
                    let name = name.to_vec();
                    self.wait(Pending::DescribeStatement { statement, name }, 0)
                }
            }
            Named::Portal(portal) => {
                if let Some(report) = self.refuses_portal(portal) {
                    return Err(report.into());
                }
                self.turn_to_portal(portal, env, io)?;
                if self.asks_link_at_once() {
                    self.emit_describe_portal(portal, io);
                    return Ok(());
                }
                self.wait(Pending::DescribePortal { portal: portal.to_vec() }, portal.len())
            }
            Named::Other(kind) => Err(no_kind("DESCRIBE", kind).into()),
        }
    }

    /// The statement cannot be prepared on the link, as the transaction has failed or is about to.
    fn lacks_in_vain(&mut self, s: &Statement, unnamed: bool) -> bool {
        let Some(link) = &mut self.link else { return self.status == Status::Failed };
        if link.status != Status::Failed && link.is_quiet() {
            return false;
        }
        let there = match unnamed {
            true => link.has_unnamed(s.content()),
            false => link.find_prepared(&s.content()).is_some(),
        };
        !there
    }

    /// What is said of a portal goes where it is, if anywhere: there is a link, and nothing waits to
    /// be sent before it.
    fn asks_link_at_once(&mut self) -> bool {
        let at_once = self.link.is_some() && self.pending.is_empty();
        if at_once {
            self.begins_segment();
        }
        at_once
    }

    fn execute(
        &mut self,
        portal: &[u8],
        limit: i32,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        if let Some(report) = self.refuses_portal(portal) {
            return Err(report.into());
        }
        if self.pending.is_empty()
            && let Some(answer) = self.fetch_held(portal, limit)
        {
            return self.ours(answer, Undo::default(), io);
        }
        self.turn_to_portal(portal, env, io)?;
        if self.pending.is_empty()
            && let Some(report) = self.refuses_alone(portal)
        {
            return Err(report.into());
        }
        if self.asks_link_at_once() {
            self.emit_execute(portal, limit, io);
            return Ok(());
        }
        if self.portal(portal).is_none() {
            return Err(no_portal(portal).into());
        }
        self.wait(Pending::Execute { portal: portal.to_vec(), limit }, portal.len())
    }

    fn close(&mut self, named: Named<'_>, io: &mut Io<'_>) -> Result<(), Stop> {
        match named {
            Named::Statement(name) => {
                if self.meaning_is_open() || !name.is_empty() && self.is_name_open(name) {
                    return Err(Stop::Wait(Need::Quiet));
                }
                let undo = Undo {
                    client: self.forget_statement(name).map(|s| (name.to_vec(), Some(s))),
                    ..Undo::default()
                };
                let mut done = Vec::new();
                backend::put_bare(&mut done, b'3');
                self.ours(done, undo, io)
            }
            Named::Portal(portal) if self.asks_link_at_once() => {
                self.emit_close_portal(portal, io);
                Ok(())
            }
            Named::Portal(portal) => {
                self.forget_portal(portal);
                if !self.pending.is_empty() {
                    let portal = portal.to_vec();
                    let bytes = portal.len();
                    return self.wait(Pending::ClosePortal { portal }, bytes);
                }
                let mut done = Vec::new();
                backend::put_bare(&mut done, b'3');
                self.ours(done, Undo::default(), io)
            }
            Named::Other(kind) => Err(no_kind("CLOSE", kind).into()),
        }
    }

    /// An answer of ours, in its turn.
    pub(super) fn ours(&mut self, bytes: Vec<u8>, undo: Undo, io: &mut Io<'_>) -> Result<(), Stop> {
        if !self.pending.is_empty() {
            return self.wait(Pending::Ours { bytes, undo }, 5);
        }
        match &mut self.link {
            Some(link) if !link.expects.is_empty() => {
                let mut e = Expect::forward(Reply::Ours(bytes));
                e.undo = undo;
                self.push(e);
                Ok(())
            }
            _ => {
                if !self.retry.mutes() {
                    io.client.extend_from_slice(&bytes);
                    self.retry.count_answer();
                }
                Ok(())
            }
        }
    }

    fn flush(&mut self, env: &mut Env<'_>, io: &mut Io<'_>) -> Result<(), Stop> {
        if self.prepares_outside() {
            self.prepare_outside(env, io)?;
            self.retry.end_with_flush();
            // Ended here and now: the client's Sync belongs to what it does with the statement.
            frontend::put_empty(io.server, b'S');
            if let Some(link) = &mut self.link {
                link.push(Expect::new(Reply::Sync, Fate::Tidy));
                link.ending = true;
            }
            return Ok(());
        }
        if let Some(need) = self.cut_pending(env, io)? {
            return Err(Stop::Wait(need));
        }
        if let Some(link) = &mut self.link {
            frontend::put_empty(io.server, b'H');
            link.flushed = true;
        }
        Ok(())
    }

    fn sync(&mut self, env: &mut Env<'_>, io: &mut Io<'_>) -> Result<(), Stop> {
        if let Some(need) = self.commits_segment(env) {
            return Err(Stop::Wait(need));
        }
        if !self.skipping && !self.pending.is_empty() {
            if self.link.is_none() && self.answer_virtual(io) {
                self.finish_sync(io);
                return Ok(());
            }
            let outside = self.prepares_outside();
            if self.carry_out_batch(true, env, io)? {
                return Ok(());
            }
            if self.status != Status::Idle && outside {
                self.prepare_outside(env, io)?;
                frontend::put_empty(io.server, b'S');
                if let Some(link) = &mut self.link {
                    link.push(Expect::new(Reply::Sync, Fate::Outside));
                    link.ending = true;
                }
                return Ok(());
            }
            if let Some(need) = self.flush_pending(env, io)? {
                return Err(Stop::Wait(need));
            }
        }
        self.finish_sync(io);
        Ok(())
    }

    pub(super) fn finish_sync(&mut self, io: &mut Io<'_>) {
        self.skipping = false;
        if self.own_block_is_over(io) {
            return;
        }
        match &mut self.link {
            // The segment has failed at its start and is being tidied up already.
            Some(link) if link.started && !link.ending => {
                frontend::put_empty(io.server, b'S');
                link.push(Expect::forward(Reply::Sync));
                if let Some(id) = self.stale.take() {
                    self.close_stale(id, io);
                }
            }
            _ => {
                self.links_mut().filter(|l| !l.started).for_each(|l| l.let_go = true);
                backend::put_ready(io.client, self.status);
            }
        }
        self.pending.clear();
        self.pending_bytes = 0;
    }
}

fn no_kind(message: &str, kind: u8) -> Report {
    Report::error("08P01", format!("invalid {message} message subtype {kind}"))
}

fn no_portal(name: &[u8]) -> Report {
    Report::error("34000", format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)))
}
