//! DDL of what is on all nodes, within the client's transaction: each node carries it out as a participant.
//!
//! ```text
//!   statement ─► Need::Stay (no shard of its tables moves any more) ─► spread over all nodes
//!   COMMIT    ─► over all nodes (crate::commit) ─► Need::Publish: the routing table is read anew ─► ReadyForQuery
//! ```
//!
//! PostgreSQL on each node judges the statement, with the client's role, settings and locks, and undoes it
//! with the transaction. Others go by the routing table that was, until the commit; the transaction itself by
//! one in which its tables are what the home node has told behind each statement (`pgshunt.settle`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::link::Done;
use super::making::{Making, Next};
use super::places::PutIn;
use super::request::Request;
use super::spread::{How, Spread};
use super::told::{self, Told};
use super::{Env, Io, Need, Session};
use crate::router::Planner;
use crate::router::plan::{Control, Ddl, Effect, Kind, OnEach, Outcome, Plan, Shards};
use crate::topology::{ChangedTable, GroupId, NewTable, NodeId, RoutingTable, TableId};
use crate::wire::backend::{Report, Status};

/// Stands between the texts that a node is sent at once.
const BETWEEN: &str = "\n; ";

type Tables = BTreeMap<TableId, Option<ChangedTable>>;

fn dropped(outcome: &Outcome) -> &[TableId] {
    match outcome {
        Outcome::Dropped(tables) => tables,
        _ => &[],
    }
}

/// What the open transaction has done to what is on all nodes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Its statement, outside of a block, is about to begin.
    starts: bool,
    /// Something is held for it: other DDL of pgshunt's waits for its end.
    held: bool,
    /// The groups whose shards do not move until its end.
    stay: Vec<GroupId>,
    /// Tables that it may have dropped.
    drops: Vec<TableId>,
    /// Why they cannot be kept, for the message that has asked for it.
    refused: Option<Report>,
    tables: Tables,
    /// What they were at the savepoints that the transaction can go back to.
    savepoints: Vec<(String, Tables)>,
    /// The routing table with them, and the one that it was made of.
    routes: Option<(Arc<RoutingTable>, Arc<RoutingTable>)>,
    /// Makes plans from that one.
    planner: Option<Planner>,
    /// ReadyForQuery waits for [`Session::published`].
    keeps_ready: bool,
}

impl Session {
    /// Why DDL that the home node has carried out fails on another one, if that lacks what only home has:
    /// functions, types and sequences.
    pub(super) fn only_at_home(&self, error: &[u8]) -> Option<Report> {
        let spread = self.spread.as_ref().filter(|s| s.making.is_some() && s.heard_some())?;
        let report = Report::from_node(error);
        let lacks = matches!(&*report.sqlstate, "42883" | "42704" | "42P01" | "3F000");
        (lacks && spread.effect > Effect::Locks).then(|| {
            let message = report.message;
            Report::error(
                "0A000",
                format!("it would not be the same on every node: {message}"),
            )
            .hint(
                "Schemas, enums and extensions that are made through pgshunt are on every node; functions, \
                 sequences and other types are on the home node only.",
            )
        })
    }

    /// How each node carries the statement out, if it is DDL within a transaction, or can be nothing else.
    pub(super) fn within_block<'p>(&self, plan: &'p Plan) -> Option<&'p OnEach> {
        match &plan.kind {
            Kind::Ddl(ddl) if self.status == Status::Transaction => ddl.each(),
            // In a block of pgshunt's own.
            Kind::Ddl(Ddl::Each(each)) if self.status == Status::Idle => {
                matches!(each.shards, Shards::Stay(_)).then_some(each)
            }
            _ => None,
        }
    }

    /// Whether DDL that pgshunt carries out alone may start.
    pub(super) fn ddl_allowed(&mut self, plan: &Plan) -> Result<Option<Need>, Report> {
        if matches!(plan.kind, Kind::Ddl(Ddl::Maintain(_))) {
            return Ok(None);
        }
        if let Some(link) = &mut self.link {
            if !link.is_quiet() {
                return Ok(Some(Need::Quiet));
            }
            link.let_go |= !link.started;
            if link.in_segment {
                return Err(super::several::not_alone());
            }
        }
        match self.status {
            Status::Idle => match &plan.kind {
                Kind::Ddl(Ddl::Each(each)) if matches!(each.shards, Shards::Used(_)) => {
                    let message = "LOCK TABLE can only be used in transaction blocks";
                    Err(Report::error("25P01", message))
                }
                _ => Ok(None),
            },
            Status::Failed => Err(super::block::aborted()),
            Status::Transaction => Err(Report::error(
                "0A000",
                "this statement, which changes every node, cannot run inside a transaction block",
            )
            .hint("Run it outside of the transaction; it is atomic over all nodes by itself.")),
        }
    }

    /// What carries the statement out on all nodes. `Err(Ok(_))`: what must come first.
    pub(super) fn ddl_spread(
        &mut self,
        each: &OnEach,
        plan: &Arc<Plan>,
        env: &Env<'_>,
    ) -> Result<(Option<GroupId>, Spread), Result<Need, Report>> {
        let group = match &each.shards {
            Shards::Used(group) => {
                // A dump that is not known as one would be without the rows.
                if let Some(report) = self.refuses_snapshot() {
                    return Err(Err(report));
                }
                Some(*group)
            }
            Shards::Stay(groups) => {
                let changes = self.changes.get_or_insert_default();
                if let Some(report) = changes.refused.take() {
                    return Err(Err(report));
                }
                if self.link.as_ref().is_some_and(|l| !l.is_quiet()) {
                    return Err(Ok(Need::Quiet));
                }
                let known = |g: &GroupId| env.routes.group(*g).is_some();
                let held = changes.held
                    && groups.iter().all(|g| changes.stay.contains(g) || !known(g))
                    && dropped(&each.outcome).iter().all(|t| changes.drops.contains(t));
                if !held {
                    let drops = dropped(&each.outcome).to_vec();
                    return Err(Ok(Need::Stay(groups.to_vec(), drops)));
                }
                None
            }
        };
        let ours = |sql: &String| Done { control: Control::None, sql: sql.clone(), ours: true };
        let mut all: Vec<Done> = each.texts.iter().map(ours).collect();
        if let Some(own) = all.get_mut(each.own) {
            own.ours = false;
        }
        let controls = (all.len() > 1).then_some(all);
        let text = each.texts.join(BETWEEN).into_bytes();
        let request = Request::Text { plan: plan.clone(), text, controls };
        let mut nodes: Vec<NodeId> = env.routes.nodes().map(|n| n.id).collect();
        // What all would refuse is told by the home node.
        nodes.sort_by_key(|n| *n != env.routes.home().id);
        let later = matches!(each.outcome, Outcome::Made { .. }) || each.others.is_some();
        let others = if later { nodes.split_off(1) } else { Vec::new() };
        let mut spread = Spread::new(nodes, request, How::Same(Vec::new()));
        spread.effect = if group.is_some() { Effect::Locks } else { Effect::Unknown };
        spread.making = Some(Box::new(Making::new(each, PutIn::of(each, BETWEEN), others)));
        spread.first_alone = true;
        Ok((group, spread))
    }

    /// No shard of these groups moves from here to the transaction's end.
    pub fn stays(&mut self, groups: Vec<GroupId>, drops: Vec<TableId>) {
        let changes = self.changes.get_or_insert_default();
        changes.held = true;
        changes.starts = self.status == Status::Idle;
        changes.stay.extend(groups);
        changes.drops.extend(drops);
    }

    /// The shards cannot be kept where they are; the message that has asked for it is given again.
    pub fn cannot_stay(&mut self, report: Report) {
        let changes = self.changes.get_or_insert_default();
        changes.refused = Some(report);
        changes.starts = self.status == Status::Idle;
    }

    /// The statement has been carried out: what its tables are now, by what the home node has told.
    pub(super) fn settled(&mut self, outcome: &Outcome, told: &[Told]) {
        let changes = self.changes.get_or_insert_default();
        match outcome {
            Outcome::Changed(table, group) => {
                let Some(changed) = told::table(*group, told) else { return };
                changes.tables.insert(*table, Some(changed));
            }
            Outcome::Dropped(tables) => {
                changes.tables.extend(tables.iter().map(|t| (*t, None)));
            }
            Outcome::Same | Outcome::Made { .. } => return,
        }
        changes.routes = None;
    }

    /// A table that has been made on the home node, and waits for [`Session::announced`].
    pub fn announces(&self) -> Option<NewTable> {
        self.changes.as_ref()?;
        self.spread.as_ref()?.making.as_ref()?.announces()
    }

    /// The table has an entry in the catalog, and its shards are known to all nodes; `None`: it is none
    /// that is new.
    pub fn announced(
        &mut self,
        outcome: Result<Option<(TableId, GroupId)>, Report>,
        io: &mut Io<'_>,
    ) {
        let Some(spread) = &mut self.spread else { return };
        match outcome {
            Ok(Some(table)) => {
                spread.announced(table);
                self.stays(vec![table.1], Vec::new());
                self.carry_on(io);
            }
            Ok(None) => self.conclude(io),
            Err(report) => {
                self.tell(&report, io);
                if let Some(spread) = &mut self.spread {
                    spread.failed = true;
                }
                self.conclude(io);
            }
        }
    }

    /// A savepoint was made, released or gone back to.
    pub(super) fn changes_at_savepoint(&mut self, control: &Control) {
        let Some(changes) = &mut self.changes else { return };
        let at = |name: &String| changes.savepoints.iter().rposition(|(n, _)| n == name);
        match control {
            Control::Savepoint(name) => {
                changes.savepoints.push((name.clone(), changes.tables.clone()));
            }
            Control::Release(name) => {
                let at = at(name).unwrap_or(0);
                changes.savepoints.truncate(at);
            }
            Control::RollbackTo(name) => {
                let at = at(name);
                changes.savepoints.truncate(at.map_or(0, |at| at + 1));
                // One that is older than all changes.
                changes.tables = at
                    .and_then(|at| changes.savepoints.get(at))
                    .map_or_else(Tables::new, |(_, tables)| tables.clone());
                changes.routes = None;
            }
            _ => {}
        }
    }

    /// A message is taken: whether it is the one that a transaction of its own starts with.
    pub(super) fn takes_start(&mut self) -> bool {
        self.changes.as_mut().is_some_and(|c| std::mem::take(&mut c.starts))
    }

    /// It has to wait once more, or is carried out, or refused.
    pub(super) fn started(&mut self, waits: bool) {
        let waits = waits && self.status == Status::Idle && self.spread.is_none();
        if let Some(changes) = &mut self.changes {
            changes.starts = waits;
        }
    }

    /// What the transaction goes by, in place of what is the same for all: to be given back.
    pub(super) fn take_changed(&mut self, env: &Env<'_>) -> Option<(Arc<RoutingTable>, Planner)> {
        let changes = self.changes.as_mut().filter(|c| !c.tables.is_empty())?;
        let made = changes.routes.take().filter(|(of, _)| Arc::ptr_eq(of, env.routes));
        let (of, routes) = made.unwrap_or_else(|| {
            (env.routes.clone(), Arc::new(env.routes.with_changed(&changes.tables)))
        });
        changes.routes = Some((of, routes.clone()));
        let planner = changes.planner.take().unwrap_or_else(|| env.planner.beside());
        Some((routes, planner))
    }

    pub(super) fn give_planner(&mut self, planner: Planner) {
        if let Some(changes) = &mut self.changes {
            changes.planner = Some(planner);
        }
    }

    /// The transaction has ended: ReadyForQuery waits until the routing table is read anew. True: it does.
    pub(super) fn keeps_for_schema(&mut self) -> bool {
        let Some(changes) = &mut self.changes else { return false };
        changes.keeps_ready = true;
        true
    }

    /// A transaction that has changed what is on all nodes has ended, and it is not published yet.
    pub fn publishes(&self) -> bool {
        let starts = self.changes.as_ref().is_none_or(|c| c.starts);
        !starts && self.status == Status::Idle && self.spread.is_none()
    }

    /// What it has changed is what everybody goes by.
    pub fn published(&mut self, io: &mut Io<'_>) {
        let keeps_ready = self.changes.take().is_some_and(|c| c.keeps_ready);
        if keeps_ready && !self.waits_for_fence() {
            self.hand_over_mail(io);
            self.put_ready(io);
        }
    }
}

impl Spread {
    /// All have carried it out: whether there is more to come. Then it is prepared.
    pub(super) fn makes_on(&mut self) -> bool {
        let failed = self.failed;
        match self.making.as_mut().filter(|_| !failed).map_or(Next::Nothing, |m| m.next()) {
            Next::Nothing => false,
            Next::Waits => true,
            Next::Runs(nodes, sql) => {
                if let Request::Text { text, controls, .. } = &mut self.request {
                    *text = sql.clone().into_bytes();
                    *controls = Some(vec![Done { control: Control::None, sql, ours: true }]);
                }
                self.starts_over(nodes);
                true
            }
        }
    }

    /// The table that it has made is announced: the others make it too.
    fn announced(&mut self, table: (TableId, GroupId)) {
        let first = self.nodes().to_vec();
        let Some(making) = &mut self.making else { return };
        let others = making.announced(table, &first);
        self.starts_over(others);
    }
}
