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
use super::spread::{How, Request, Spread};
use super::told::{self, Told};
use super::{Env, Io, Need, Session};
use crate::router::Planner;
use crate::router::plan::{Control, Ddl, Effect, Kind, OnEach, Plan, Shards};
use crate::topology::{ChangedTable, GroupId, NodeId, RoutingTable, TableId};
use crate::wire::backend::{self, Report, Status};

type Tables = BTreeMap<TableId, ChangedTable>;

/// What the open transaction has done to what is on all nodes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The groups whose shards do not move until its end.
    stay: Vec<GroupId>,
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
    /// How the statement is carried out within the open transaction, if it is DDL and there is one.
    pub(super) fn within_block<'p>(&self, plan: &'p Plan) -> Option<&'p OnEach> {
        match &plan.kind {
            Kind::Ddl(ddl) if self.status == Status::Transaction => ddl.each(),
            _ => None,
        }
    }

    /// Whether DDL that pgshunt carries out alone may start.
    pub(super) fn ddl_allowed(&mut self, plan: &Plan) -> Result<Option<Need>, Report> {
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
                Kind::Ddl(Ddl::Each(_)) => Err(Report::error(
                    "0A000",
                    "this statement on a distributed table must be in a transaction block",
                )
                .hint("Send BEGIN before it, and COMMIT behind it.")),
                _ => Ok(None),
            },
            Status::Failed => Err(super::several::aborted()),
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
            Shards::Used(group) => Some(*group),
            Shards::Stay(groups) => {
                let changes = self.changes.get_or_insert_default();
                if let Some(report) = changes.refused.take() {
                    return Err(Err(report));
                }
                if self.link.as_ref().is_some_and(|l| !l.is_quiet()) {
                    return Err(Ok(Need::Quiet));
                }
                let known = |g: &GroupId| env.routes.group(*g).is_some();
                if !groups.iter().all(|g| changes.stay.contains(g) || !known(g)) {
                    return Err(Ok(Need::Stay(groups.to_vec())));
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
        let text = each.texts.join("\n; ").into_bytes();
        let request = Request::Text { plan: plan.clone(), text, controls };
        let mut nodes: Vec<NodeId> = env.routes.nodes().map(|n| n.id).collect();
        // What all would refuse is told by the home node.
        nodes.sort_by_key(|n| *n != env.routes.home().id);
        let mut spread = Spread::new(nodes, request, How::Same(Vec::new()));
        spread.effect = if group.is_some() { Effect::Locks } else { Effect::Unknown };
        spread.settles = each.settles;
        spread.first_alone = true;
        Ok((group, spread))
    }

    /// No shard of these groups moves from here to the transaction's end.
    pub fn stays(&mut self, groups: Vec<GroupId>) {
        self.changes.get_or_insert_default().stay.extend(groups);
    }

    /// The shards cannot be kept where they are; the message that has asked for it is given again.
    pub fn cannot_stay(&mut self, report: Report) {
        self.changes.get_or_insert_default().refused = Some(report);
    }

    /// A table is now what the home node has told of it.
    pub(super) fn settled(&mut self, (table, group): (TableId, GroupId), told: &[Told]) {
        let changes = self.changes.get_or_insert_default();
        if let Some(changed) = told::table(group, told) {
            changes.tables.insert(table, changed);
            changes.routes = None;
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
        self.changes.is_some() && self.status == Status::Idle && self.spread.is_none()
    }

    /// What it has changed is what everybody goes by.
    pub fn published(&mut self, io: &mut Io<'_>) {
        let keeps_ready = self.changes.take().is_some_and(|c| c.keeps_ready);
        if keeps_ready && !self.waits_for_fence() {
            self.hand_over_mail(io);
            backend::put_ready(io.client, self.status);
        }
    }
}
