//! The client's portals, and what becomes of them when its transaction gets another node.
//!
//! A portal is the server's. One is known here by its statement, for what executing it does to the
//! session. A transaction that has no node yet, or gets another one, has had portals that its node
//! has not: that of a BEGIN which was answered here is there again when BEGIN has been sent; of the
//! others nothing can be had any more.

use std::rc::Rc;

use super::names::Costs;
use super::stop::Stop;
use super::{Env, Io, Session, Statement};
use crate::router::place::Place;
use crate::router::plan::Control;
use crate::topology::NodeId;
use crate::wire::backend::{Report, Status};

#[derive(Debug, Clone)]
pub(super) struct Portal {
    pub statement: Rc<Statement>,
    /// The node that has it; `None`: none has it yet.
    pub node: Option<NodeId>,
    /// The transaction has left the node that has it.
    pub left_behind: bool,
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
    pub(super) fn remember_portal(&mut self, name: &[u8], s: &Rc<Statement>) -> Option<Portal> {
        let node = self.node().filter(|_| self.pending.is_empty());
        self.portals.insert(name, Portal { statement: s.clone(), node, left_behind: false })
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
        let Some(node) = self.portal(name).and_then(|p| p.node) else { return Ok(()) };
        if self.node() == Some(node) || !self.holds(node) {
            return Ok(());
        }
        if let Some(need) = self.cut_pending(env, io)? {
            return Err(Stop::Wait(need));
        }
        Err(Stop::Wait(self.rest_for(node, io)))
    }

    /// Why a portal of this name cannot be bound on the node, if so: another one has it.
    pub(super) fn refuses_name(&self, name: &[u8], place: &Place) -> Option<Report> {
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
