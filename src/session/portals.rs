//! The client's portals, and what becomes of them when its transaction gets another node.
//!
//! A portal is the server's. One is known here by its statement, for what executing it does to the
//! session. A transaction that has no node yet, or gets another one, has had portals that its node
//! has not: that of a BEGIN which was answered here is there again when BEGIN has been sent; of the
//! others nothing can be had any more.

use std::collections::VecDeque;
use std::rc::Rc;

use super::names::Costs;
use super::stop::Stop;
use super::{Env, Io, Session, Statement};
use crate::router::place::Place;
use crate::router::plan::{Control, Plan};
use crate::topology::NodeId;
use crate::wire::backend::{self, Report, Status};

#[derive(Debug, Clone)]
pub(super) struct Portal {
    pub statement: Rc<Statement>,
    /// The node that has it; `None`: none has it yet.
    pub node: Option<NodeId>,
    /// It was bound as a statement over several nodes, which none of them has.
    pub over_nodes: bool,
    /// The transaction has left the node that has it.
    pub left_behind: bool,
    /// Of a statement over several nodes: what is still to be fetched.
    pub held: Option<Held>,
}

/// Rows of several nodes that are kept for a portal, each as it is sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    pub rows: VecDeque<Vec<u8>>,
    /// The first word of the command tag.
    pub verb: String,
}

impl Held {
    /// The answer to an Execute with this limit; 0: none.
    fn fetch(&mut self, limit: i32) -> Vec<u8> {
        let limit = usize::try_from(limit).unwrap_or(0);
        let most = if limit == 0 { self.rows.len() } else { limit.min(self.rows.len()) };
        let mut answer = Vec::new();
        self.rows.drain(..most).for_each(|row| answer.extend(row));
        if limit > 0 && most == limit {
            backend::put_bare(&mut answer, b's');
        } else {
            backend::put_command_complete(&mut answer, &format!("{} {most}", self.verb));
        }
        answer
    }
}

impl Costs for Portal {
    fn bytes(&self) -> usize {
        self.statement.bytes()
    }
}

impl Session {
    pub(super) fn portal(&self, name: &[u8]) -> Option<&Portal> {
        self.portals.get(name)
    }

    /// Gives what the portal was before.
    pub(super) fn remember_portal(
        &mut self,
        name: &[u8],
        s: &Rc<Statement>,
        over_nodes: bool,
    ) -> Option<Portal> {
        let node = self.node().filter(|_| self.pending.is_empty());
        let statement = s.clone();
        self.portals
            .insert(name, Portal { statement, node, over_nodes, left_behind: false, held: None })
    }

    /// Something is said of a portal: its node's connection must be in hand.
    pub(super) fn turn_to_portal(
        &mut self,
        name: &[u8],
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        if self.resting.is_empty() {
            return Ok(());
        }
        let Some(node) = self.cursor_node(name) else { return Ok(()) };
        if self.node() == Some(node) || !self.holds(node) {
            return Ok(());
        }
        if let Some(need) = self.cut_pending(env, io)? {
            return Err(Stop::Wait(need));
        }
        Err(Stop::Wait(self.rest_for(node, io)))
    }

    /// Why a portal of this name cannot be bound on the node, if so: another one has it, or a cursor that the
    /// statement names.
    pub(super) fn refuses_name(&self, name: &[u8], plan: &Plan, place: &Place) -> Option<Report> {
        if let Some(report) = self.refuses_cursors(plan, place) {
            return Some(report);
        }
        // What is under way may end the transaction, and the portal with it.
        let quiet = self.link.as_ref().is_some_and(|l| l.is_quiet());
        let known = self.portal(name).filter(|p| quiet && !name.is_empty() && !p.left_behind);
        let there = known?;
        let other = match place {
            Place::Node { node, .. } => there.node != Some(*node),
            Place::Any => false,
            Place::Every { .. } => true,
        };
        let name = String::from_utf8_lossy(name);
        let report = || Report::error("42P03", format!("cursor \"{name}\" already exists"));
        (other && there.node.is_some_and(|n| self.holds(n))).then(report)
    }

    /// A statement over several nodes has left rows for a portal.
    pub(super) fn hold_rows(&mut self, portal: &[u8], (rows, verb): (Vec<Vec<u8>>, String)) {
        if let Some(portal) = self.portals.get_mut(portal) {
            portal.held = Some(Held { rows: rows.into(), verb });
        }
    }

    /// The answer to an Execute of a portal whose rows are kept here.
    pub(super) fn fetch_held(&mut self, portal: &[u8], limit: i32) -> Option<Vec<u8>> {
        Some(self.portals.get_mut(portal)?.held.as_mut()?.fetch(limit))
    }

    /// Rows are kept that cannot travel.
    pub(super) fn holds_rows(&self) -> bool {
        self.portals.by_age().iter().any(|(_, p)| p.held.is_some())
    }

    /// Gives what it was.
    pub(super) fn forget_portal(&mut self, name: &[u8]) -> Option<Portal> {
        self.portals.remove(name)
    }

    /// Why a portal cannot be used, if so.
    pub(super) fn refuses_portal(&self, name: &[u8]) -> Option<Report> {
        self.portal(name).filter(|p| p.left_behind).map(|_| {
            let name = String::from_utf8_lossy(name);
            Report::error("0A000", format!("portal \"{name}\" is on another node"))
                .detail("The transaction has gone to the node of a later statement.")
                .hint(
                    "Bind it again, or begin the transaction with the statement that has a table.",
                )
        })
    }

    /// A transaction has ended, and its portals: not those of requests that were sent behind its end.
    pub(super) fn end_portals(&mut self) {
        let outstanding = self.link.iter().flat_map(|l| &l.expects);
        let bound = outstanding.filter_map(|e| e.undo.portal.as_ref().map(|(name, _)| name));
        let later: Vec<_> = bound
            .filter_map(|name| Some((name.clone(), self.portals.get(name)?.clone())))
            .collect();
        self.portals.clear();
        for (name, portal) in later {
            self.portals.insert(&name, portal);
        }
    }

    /// The session loses its connection to `node`.
    pub(super) fn leave_portals(&mut self, node: NodeId) {
        if self.status == Status::Idle {
            self.portals.clear();
        }
        let begins = self.portal(b"").is_some_and(Portal::begins);
        for p in self.portals.values_mut().filter(|p| p.node.is_none_or(|n| n == node)) {
            p.left_behind = true;
        }
        if begins && let Some(p) = self.portals.get_mut(b"") {
            p.left_behind = false;
        }
    }

    /// The unnamed portal has begun the transaction, and is there still.
    pub(super) fn keeps_portal_of_begin(&self) -> bool {
        self.portal(b"").is_some_and(|p| p.begins() && !p.left_behind)
    }
}

impl Portal {
    fn begins(&self) -> bool {
        self.statement.plan.single() == Some(&Control::Begin)
    }
}
