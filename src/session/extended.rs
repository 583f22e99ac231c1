//! The extended query protocol: Parse, Bind, Describe, Execute, Close, Flush, Sync.
//!
//! Statements belong to the client by name and to a server connection by content. A named one is
//! prepared on a connection when first needed there, under a name made from its content, so that
//! clients with the same statement share it; the unnamed one is sent as it came. The answers the
//! client is owed come in the order of its messages, whoever gives them.

use std::rc::Rc;
use std::sync::Arc;

use super::link::{Expect, Fate, Reply, statement_id};
use super::{Env, Flow, Gather, Io, Job, MAX_PENDING, Need, Pending, Session, Statement};
use crate::router::place::{BindValues, NoValues, Place};
use crate::router::plan::{Control, Kind, Merge};
use crate::topology::RoutingTable;
use crate::wire::ProtocolError;
use crate::wire::backend::{self, Report, Status};
use crate::wire::frontend::{self, Named};

/// Why a message was not taken: it must wait, or it is refused.
pub(super) enum Stop {
    Wait(Need),
    Refuse(Box<Report>),
}

impl From<Report> for Stop {
    fn from(r: Report) -> Self {
        Self::Refuse(Box::new(r))
    }
}

impl Session {
    pub(super) fn extended(
        &mut self,
        tag: u8,
        body: &[u8],
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Flow, ProtocolError> {
        let outcome = match tag {
            b'P' => self.parse(frontend::parse(body)?, env, io),
            b'B' => self.bind(frontend::bind(body)?, env, io),
            b'D' => self.describe(frontend::named(body)?, env, io),
            b'E' => {
                let (portal, limit) = frontend::execute(body)?;
                self.execute(portal, limit, io)
            }
            b'C' => self.close(frontend::named(body)?, io),
            b'H' => self.flush(env, io),
            _ => self.sync(env, io),
        };
        Ok(match outcome {
            Ok(()) => Flow::Done,
            Err(Stop::Wait(need)) => Flow::Wait(need),
            Err(Stop::Refuse(report)) => {
                self.refuse_message(tag, *report, io);
                Flow::Done
            }
        })
    }

    pub(super) fn refuse_message(&mut self, tag: u8, report: Report, io: &mut Io<'_>) {
        self.refuse_extended(report, io);
        if tag == b'S' {
            // Sync itself always answers.
            self.finish_sync(io);
        }
    }

    /// Answers with an error of ours, behind what is outstanding, and skips to Sync.
    fn refuse_extended(&mut self, report: Report, io: &mut Io<'_>) {
        self.counters.refused += 1;
        self.skipping = true;
        match &mut self.link {
            Some(link) if link.started => {
                // The server must fail too, or it would commit what came before in this segment.
                frontend::put_parse(io.server, b"", super::FAILING, b"");
                let mut e = Expect::new(Reply::Parse, Fate::Refuse(Box::new(report)));
                e.creates = None;
                link.unnamed = None;
                link.expects.push_back(e);
            }
            _ => {
                for p in std::mem::take(&mut self.pending) {
                    match p {
                        Pending::Parse { .. } => backend::put_bare(io.client, b'1'),
                        Pending::Bind { .. } => backend::put_bare(io.client, b'2'),
                        Pending::Ours(bytes) => io.client.extend_from_slice(&bytes),
                        // Their answers can no longer be had; an error ends the segment anyway.
                        Pending::DescribeStatement { .. }
                        | Pending::DescribePortal { .. }
                        | Pending::Execute { .. } => {}
                    }
                }
                self.pending_bytes = 0;
                report.put(io.client);
                if self.status == Status::Transaction {
                    self.status = Status::Failed;
                }
            }
        }
    }

    fn parse(
        &mut self,
        p: frontend::Parse<'_>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        let aborted = self.status == Status::Failed && self.link.is_none();
        if !p.name.is_empty() && self.statements.contains_key(p.name) {
            let name = String::from_utf8_lossy(p.name);
            return Err(Report::error(
                "42P05",
                format!("prepared statement \"{name}\" already exists"),
            )
            .into());
        }
        let path = self.settings.search_path();
        let plan = env.planner.plan_text(p.text, env.routes, path, self.pinned.is_some());
        if aborted && !matches!(plan.single(), Some(Control::Commit | Control::Rollback)) {
            return Err(Self::aborted().into());
        }
        if let Kind::Refused(report) = &plan.kind {
            return Err((**report).clone().into());
        }
        if plan.statements.len() > 1 {
            return Err(Report::error(
                "42601",
                "cannot insert multiple commands into a prepared statement",
            )
            .into());
        }
        let home = env.routes.home().id;
        if plan.kind == Kind::Home && self.is_under_way() && self.node() != Some(home) {
            // The node would say that the table does not exist, and it does.
            return Err(self.other_node(env, home).into());
        }
        let statement = Rc::new(Statement {
            id: statement_id(p.text, p.oids),
            text: p.text.to_vec(),
            oids: p.oids.to_vec(),
            plan,
        });
        if p.name.is_empty() {
            self.unnamed = Some(statement.clone());
        } else {
            self.statements.insert(p.name.to_vec(), statement.clone());
        }
        if self.is_under_way() {
            self.emit_parse(p.name, &statement, env, io);
        } else {
            let bytes = p.text.len() + p.oids.len();
            self.wait(Pending::Parse { name: p.name.to_vec(), statement }, bytes)?;
        }
        Ok(())
    }

    /// The segment, or the transaction it belongs to, has its node. What comes first in a segment
    /// behind others that are not answered yet waits as if there were no link: whether it still
    /// belongs to their node shows with Bind, or when they are answered.
    fn is_under_way(&self) -> bool {
        self.pending.is_empty()
            && self.link.as_ref().is_some_and(|l| {
                let behind = l.expects.back().map(|e| &e.reply);
                !matches!(behind, Some(Reply::Sync | Reply::Query))
            })
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
        let found = if name.is_empty() { self.unnamed.as_ref() } else { self.statements.get(name) };
        found.cloned().ok_or_else(|| {
            let text = if name.is_empty() {
                "unnamed prepared statement does not exist".to_owned()
            } else {
                format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
            };
            Report::error("26000", text).into()
        })
    }

    fn bind(
        &mut self,
        b: frontend::Bind<'_>,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        let statement = self.statement(b.statement)?;
        let unnamed = b.statement.is_empty();
        let ends = matches!(statement.plan.single(), Some(Control::Commit | Control::Rollback));
        if self.status == Status::Failed && self.link.is_none() && !ends {
            return Err(Self::aborted().into());
        }
        let plan = self.fresh_plan(&statement, env);
        let values = BindValues { bind: &b, oids: &statement.oids };
        let place = crate::router::place::place(&plan.kind, &values, env.routes)?;

        let job = matches!(place, Place::Every { .. }) || plan.kind == Kind::Ddl;
        let virtual_control = self.link.is_none()
            && matches!(
                (plan.single(), self.status),
                (Some(Control::Begin), Status::Idle)
                    | (
                        Some(Control::Commit | Control::Rollback),
                        Status::Transaction | Status::Failed
                    )
            );
        self.begins_alone(&plan)?;
        if job || virtual_control {
            if job {
                self.before_job(&plan.kind, &place, env)?;
            }
            self.remember_portal(b.portal, &statement);
            let bytes = b.rest.len();
            return self.wait(
                Pending::Bind {
                    portal: b.portal.to_vec(),
                    statement,
                    unnamed,
                    rest: b.rest.to_vec(),
                },
                bytes,
            );
        }
        self.reach(&place, env, io)?;
        self.count(&plan.kind);
        self.retry.forget();
        self.remember_portal(b.portal, &statement);
        self.emit_bind(b.portal, &statement, unnamed, b.rest, env, io);
        Ok(())
    }

    /// BEGIN behind what is under way waits until that has ended: the new transaction may have
    /// another node.
    pub(super) fn begins_alone(&self, plan: &crate::router::plan::Plan) -> Result<(), Stop> {
        let begins = matches!(plan.single(), Some(Control::Begin)) && self.pinned.is_none();
        let behind = self.link.as_ref().and_then(|l| l.expects.back()).map(|e| &e.reply);
        if begins && matches!(behind, Some(Reply::Sync | Reply::Query)) {
            return Err(Stop::Wait(Need::Quiet));
        }
        Ok(())
    }

    /// The statement's plan under the routing table in force now.
    fn fresh_plan(
        &self,
        statement: &Statement,
        env: &mut Env<'_>,
    ) -> Arc<crate::router::plan::Plan> {
        let path = self.settings.search_path();
        env.planner.plan_text(&statement.text, env.routes, path, self.pinned.is_some())
    }

    /// A job stands alone in its segment, and the connection must be free for it.
    fn before_job(&mut self, kind: &Kind, place: &Place, env: &mut Env<'_>) -> Result<(), Stop> {
        let busy = self.pending.iter().any(|p| matches!(p, Pending::Bind { .. }));
        let mixed = self.link.as_ref().is_some_and(|l| !l.is_quiet()) || busy;
        if mixed && self.link.as_ref().is_none_or(|l| l.is_quiet()) {
            return Err(Report::error(
                "0A000",
                "a statement that goes to every node must be alone between two Syncs",
            )
            .hint("Send Sync before and after it (leave pipeline mode).")
            .into());
        }
        let job = self.job(kind, place, Vec::new(), env, false);
        match self.job_allowed(&job, env)? {
            None => Ok(()),
            Some(need) => Err(Stop::Wait(need)),
        }
    }

    fn job(
        &self,
        kind: &Kind,
        place: &Place,
        request: Vec<u8>,
        env: &Env<'_>,
        described: bool,
    ) -> Job {
        match (kind, place) {
            (_, Place::Every { group, nodes, merge }) => Job::Gather(Gather {
                group: *group,
                nodes: nodes.clone(),
                merge: merge.clone(),
                request,
                epoch: env.routes.epoch,
                hide_parse: false,
                hide_describe: false,
                limit: 0,
                settings: self.settings.current().clone(),
            }),
            _ => Job::Ddl {
                sql: String::from_utf8_lossy(&request).into_owned(),
                extended: true,
                described,
            },
        }
    }

    fn remember_portal(&mut self, name: &[u8], statement: &Rc<Statement>) {
        match self.portals.iter_mut().find(|(n, _)| n == name) {
            Some((_, s)) => s.clone_from(statement),
            None => self.portals.push((name.to_vec(), statement.clone())),
        }
    }

    /// Gets the session linked to the place, its transaction begun and what was pending sent.
    fn reach(&mut self, place: &Place, env: &mut Env<'_>, io: &mut Io<'_>) -> Result<(), Stop> {
        if let Some(need) = self.ensure(place, env)? {
            return Err(Stop::Wait(need));
        }
        if self.settings_need_quiet(io) {
            return Err(Stop::Wait(Need::Quiet));
        }
        self.begin_on_link(io);
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
                let statement = self.statement(name)?;
                let unnamed = name.is_empty();
                if self.is_under_way() {
                    self.emit_describe_statement(&statement, unnamed, env, io);
                    Ok(())
                } else {
                    self.wait(Pending::DescribeStatement { statement, unnamed }, 0)
                }
            }
            Named::Portal(portal) => match &mut self.link {
                Some(link) if self.pending.is_empty() => {
                    frontend::put_named(io.server, b'D', b'P', portal);
                    link.expects.push_back(Expect::forward(Reply::Describe));
                    Ok(())
                }
                _ => self.wait(Pending::DescribePortal { portal: portal.to_vec() }, portal.len()),
            },
        }
    }

    fn execute(&mut self, portal: &[u8], limit: i32, io: &mut Io<'_>) -> Result<(), Stop> {
        if self.link.is_some() && self.pending.is_empty() {
            self.emit_execute(portal, limit, io);
            return Ok(());
        }
        if !self.portals.iter().any(|(n, _)| n == portal) {
            let name = String::from_utf8_lossy(portal);
            return Err(Report::error("34000", format!("portal \"{name}\" does not exist")).into());
        }
        self.wait(Pending::Execute { portal: portal.to_vec(), limit }, portal.len())
    }

    fn close(&mut self, named: Named<'_>, io: &mut Io<'_>) -> Result<(), Stop> {
        match named {
            Named::Statement(name) => {
                self.forget_statement(name);
                let mut done = Vec::new();
                backend::put_bare(&mut done, b'3');
                self.ours(done, io)
            }
            Named::Portal(portal) => match &mut self.link {
                Some(link) if self.pending.is_empty() => {
                    frontend::put_named(io.server, b'C', b'P', portal);
                    link.expects.push_back(Expect::forward(Reply::Close));
                    Ok(())
                }
                _ => {
                    self.portals.retain(|(n, _)| n != portal);
                    let mut done = Vec::new();
                    backend::put_bare(&mut done, b'3');
                    self.ours(done, io)
                }
            },
        }
    }

    /// An answer of ours, in its turn.
    pub(super) fn ours(&mut self, bytes: Vec<u8>, io: &mut Io<'_>) -> Result<(), Stop> {
        match &mut self.link {
            _ if !self.pending.is_empty() => self.wait(Pending::Ours(bytes), 5),
            Some(link) if !link.expects.is_empty() => {
                link.expects.push_back(Expect::forward(Reply::Ours(bytes)));
                Ok(())
            }
            _ => {
                io.client.extend_from_slice(&bytes);
                Ok(())
            }
        }
    }

    fn flush(&mut self, env: &mut Env<'_>, io: &mut Io<'_>) -> Result<(), Stop> {
        let behind = self.link.as_ref().is_some_and(|l| !l.is_quiet());
        if behind && !self.pending.is_empty() && !self.is_under_way() {
            return Err(Stop::Wait(Need::Quiet));
        }
        if self.prepares_outside() {
            if let Some(link) = &mut self.link {
                link.outside = true;
            }
            if let Some(need) = self.flush_pending(env, io)? {
                return Err(Stop::Wait(need));
            }
            // Ended here and now: the client's Sync belongs to what it does with the statement.
            frontend::put_empty(io.server, b'S');
            if let Some(link) = &mut self.link {
                link.expects.push_back(Expect::new(Reply::Sync, Fate::Swallow));
            }
            return Ok(());
        }
        if let Some(need) = self.flush_pending(env, io)? {
            return Err(Stop::Wait(need));
        }
        if self.link.is_some() {
            frontend::put_empty(io.server, b'H');
        }
        Ok(())
    }

    /// Sends what is pending to a node that can answer it.
    pub(super) fn flush_pending(
        &mut self,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let holds_job = self.pending.iter().any(|p| match p {
            Pending::Bind { statement, .. } => {
                matches!(statement.plan.kind, Kind::Every { .. } | Kind::Ddl)
            }
            _ => false,
        });
        if holds_job {
            return Err(Report::error(
                "0A000",
                "a statement that goes to every node must be ended by Sync",
            )
            .hint("Use Sync instead of Flush."));
        }
        let place = self.pending_place(env.routes);
        match self.reach(&place, env, io) {
            Ok(()) => Ok(None),
            Err(Stop::Wait(need)) => Ok(Some(need)),
            Err(Stop::Refuse(report)) => Err(*report),
        }
    }

    /// A place that knows the tables of what is pending: any node of the group does, since the
    /// parents exist everywhere. No shard is read, so no shard is touched.
    fn pending_place(&self, routes: &RoutingTable) -> Place {
        let group = self.pending.iter().find_map(|p| match p {
            Pending::Parse { statement, .. }
            | Pending::DescribeStatement { statement, .. }
            | Pending::Bind { statement, .. } => match &statement.plan.kind {
                Kind::Keys { group, .. } | Kind::Every { group, .. } => Some(*group),
                Kind::Leaf(shard) => routes.shard(*shard).map(|s| s.group),
                Kind::Home | Kind::Any | Kind::Ddl | Kind::Refused(_) => None,
            },
            _ => None,
        });
        let node = self
            .node()
            .or_else(|| group.and_then(|g| routes.nodes_of(g).first().copied()))
            .unwrap_or(routes.home().id);
        Place::Node { node, touches: Vec::new() }
    }

    fn sync(&mut self, env: &mut Env<'_>, io: &mut Io<'_>) -> Result<(), Stop> {
        if !self.skipping && !self.pending.is_empty() {
            if self.link.is_none() && self.answer_virtual(io) {
                self.finish_sync(io);
                return Ok(());
            }
            if let Some(job) = self.pending_job(env)? {
                return match self.job_allowed(&job, env)? {
                    Some(need) => Err(Stop::Wait(need)),
                    None => Err(Stop::Wait(Need::Job(Box::new(job)))),
                };
            }
            let outside = !self.begin.is_empty() && self.prepares_outside();
            if let Some(link) = &mut self.link {
                link.outside = outside;
            }
            if let Some(need) = self.flush_pending(env, io)? {
                return Err(Stop::Wait(need));
            }
        }
        self.finish_sync(io);
        Ok(())
    }

    /// A transaction, or a segment, that has no node yet does not get one by preparing a statement,
    /// whose keys may be anywhere: that is done on some node that knows the tables, outside of the
    /// transaction. Drivers ask for the types with Flush first and bind then (asyncpg).
    fn prepares_outside(&self) -> bool {
        let prepares = |p: &Pending| {
            matches!(
                p,
                Pending::Parse { .. } | Pending::DescribeStatement { .. } | Pending::Ours(_)
            )
        };
        let holds = self.pending.iter().any(|p| !matches!(p, Pending::Ours(_)));
        holds && !self.has_started() && self.pending.iter().all(prepares)
    }

    fn finish_sync(&mut self, io: &mut Io<'_>) {
        self.skipping = false;
        match &mut self.link {
            Some(link) if link.started => {
                frontend::put_empty(io.server, b'S');
                link.expects.push_back(Expect::forward(Reply::Sync));
            }
            _ => {
                self.release |= self.link.is_some() && self.pinned.is_none();
                backend::put_ready(io.client, self.status);
            }
        }
        self.pending.clear();
        self.pending_bytes = 0;
    }

    /// Answers a segment of nothing but BEGIN, COMMIT or ROLLBACK without a node.
    fn answer_virtual(&mut self, io: &mut Io<'_>) -> bool {
        let only_control = self.pending.iter().all(|p| match p {
            Pending::Parse { statement, .. }
            | Pending::Bind { statement, .. }
            | Pending::DescribeStatement { statement, .. } => matches!(
                statement.plan.single(),
                Some(Control::Begin | Control::Commit | Control::Rollback)
            ),
            Pending::DescribePortal { .. } | Pending::Execute { .. } | Pending::Ours(_) => true,
        });
        let executes = self.pending.iter().any(|p| matches!(p, Pending::Execute { .. }));
        if !only_control || !executes {
            return false;
        }
        for p in std::mem::take(&mut self.pending) {
            match p {
                Pending::Parse { .. } => backend::put_bare(io.client, b'1'),
                Pending::Bind { .. } => backend::put_bare(io.client, b'2'),
                Pending::DescribeStatement { .. } => {
                    crate::wire::frame::put(io.client, b't', |b| b.extend_from_slice(&[0, 0]));
                    backend::put_bare(io.client, b'n');
                }
                Pending::DescribePortal { .. } => backend::put_bare(io.client, b'n'),
                Pending::Execute { portal, .. } => {
                    let statement =
                        self.portals.iter().find(|(n, _)| *n == portal).map(|(_, s)| s.clone());
                    let tag = statement.and_then(|s| {
                        s.plan.single().and_then(|c| self.virtual_control(c, &s.text))
                    });
                    backend::put_command_complete(io.client, tag.unwrap_or("COMMIT"));
                }
                Pending::Ours(bytes) => io.client.extend_from_slice(&bytes),
            }
        }
        true
    }

    /// The job that is pending, with its request written as one segment with the unnamed statement.
    fn pending_job(&mut self, env: &mut Env<'_>) -> Result<Option<Job>, Stop> {
        let bind = self.pending.iter().find_map(|p| match p {
            Pending::Bind { statement, .. }
                if matches!(statement.plan.kind, Kind::Every { .. } | Kind::Ddl) =>
            {
                Some(statement.clone())
            }
            _ => None,
        });
        let Some(statement) = bind else { return Ok(None) };
        let plan = self.fresh_plan(&statement, env);
        let place = crate::router::place::place(&plan.kind, &NoValues, env.routes)?;
        let (mut described, mut hide_describe, mut rows) = (false, false, 0);
        let mut request = Vec::new();
        let mut parsed = false;
        let binds = self.pending.iter().filter(|p| matches!(p, Pending::Bind { .. })).count();
        if binds > 1 {
            return Err(Report::error(
                "0A000",
                "a statement that goes to every node must be alone between two Syncs",
            )
            .into());
        }
        for p in &self.pending {
            match p {
                Pending::Parse { statement: s, .. } if s.id == statement.id => {
                    parsed = true;
                    frontend::put_parse(&mut request, b"", &s.text, &s.oids);
                }
                Pending::DescribeStatement { statement: s, .. }
                    if s.id == statement.id && plan.kind != Kind::Ddl =>
                {
                    frontend::put_named(&mut request, b'D', b'S', b"");
                }
                Pending::Parse { .. } | Pending::DescribeStatement { .. } | Pending::Ours(_) => {
                    return Err(Report::error(
                        "0A000",
                        "a statement that goes to every node must be alone between two Syncs",
                    )
                    .into());
                }
                Pending::Bind { rest, .. } => frontend::put_bind(&mut request, b"", b"", rest),
                Pending::DescribePortal { .. } => {
                    described = true;
                    frontend::put_named(&mut request, b'D', b'P', b"");
                }
                Pending::Execute { limit, .. } => {
                    // Folding needs the columns' types, whether the client asks for them or not.
                    if !described && matches!(plan.kind, Kind::Every { merge: Merge::Fold(_), .. })
                    {
                        hide_describe = true;
                        frontend::put_named(&mut request, b'D', b'P', b"");
                    }
                    rows = u64::try_from(*limit).unwrap_or(0);
                    crate::wire::frame::put(&mut request, b'E', |b| b.extend_from_slice(&[0; 5]));
                }
            }
        }
        if plan.kind == Kind::Ddl {
            return Ok(Some(Job::Ddl {
                sql: String::from_utf8_lossy(&statement.text).into_owned(),
                extended: true,
                described,
            }));
        }
        if !parsed {
            // Prepared earlier: each node learns it now; its ParseComplete is not the client's.
            let mut whole = Vec::new();
            frontend::put_parse(&mut whole, b"", &statement.text, &statement.oids);
            whole.extend_from_slice(&request);
            request = whole;
        }
        frontend::put_empty(&mut request, b'S');
        let mut job = self.job(&plan.kind, &place, request, env, described);
        if let Job::Gather(g) = &mut job {
            g.hide_parse = !parsed;
            g.hide_describe = hide_describe;
            g.limit = rows;
        }
        Ok(Some(job))
    }
}
