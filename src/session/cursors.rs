//! The client's cursors of SQL: which node each is on, so that FETCH, MOVE and CLOSE find it.
//!
//! A cursor is the server's. It ends with its transaction, or with the part of it that is rolled back to a
//! savepoint, unless it was declared WITH HOLD and that has committed. That it was closed is not undone.

use serde::{Deserialize, Serialize};

use super::Session;
use crate::commit::Part;
use crate::router::place::Place;
use crate::router::plan::{Control, Effect, Plan};
use crate::topology::NodeId;
use crate::wire::backend::{Report, Status};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Cursors {
    open: Vec<Cursor>,
    /// Each savepoint of the transaction, and how many cursors had been declared before it.
    savepoints: Vec<(String, u64)>,
    declared: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cursor {
    name: String,
    node: NodeId,
    /// How many were declared before it.
    number: u64,
    life: Life,
}

/// How long a cursor is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Life {
    Transaction,
    /// WITH HOLD, of the open transaction.
    ToBeHeld,
    Held,
}

impl Cursors {
    pub fn declare(&mut self, name: &str, node: NodeId, holds: bool) {
        self.close(name);
        let life = if holds { Life::ToBeHeld } else { Life::Transaction };
        self.open.push(Cursor { name: name.to_owned(), node, number: self.declared, life });
        self.declared += 1;
    }

    pub fn close(&mut self, name: &str) {
        self.open.retain(|c| c.name != name);
    }

    /// All of them that are on this node are closed.
    pub fn leave(&mut self, node: NodeId) {
        self.open.retain(|c| c.node != node);
    }

    pub fn node_of(&self, name: &str) -> Option<NodeId> {
        self.open.iter().find(|c| c.name == name).map(|c| c.node)
    }

    /// Nodes that have any, each once.
    fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<_> = self.open.iter().map(|c| c.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// What their names take.
    pub fn bytes(&self) -> usize {
        const EACH: usize = 256;
        EACH * (self.open.len() + self.savepoints.len())
    }

    pub fn savepoint(&mut self, name: &str) {
        self.savepoints.push((name.to_owned(), self.declared));
    }

    pub fn release(&mut self, name: &str) {
        if let Some(at) = self.savepoints.iter().rposition(|(n, _)| n == name) {
            self.savepoints.truncate(at);
        }
    }

    pub fn rollback_to(&mut self, name: &str) {
        let Some(at) = self.savepoints.iter().rposition(|(n, _)| n == name) else { return };
        let Some((_, before)) = self.savepoints.get(at) else { return };
        let before = *before;
        self.open.retain(|c| c.number < before || c.life == Life::Held);
        self.savepoints.truncate(at + 1);
    }

    pub fn commit(&mut self) {
        self.open.retain(|c| c.life != Life::Transaction);
        self.open.iter_mut().for_each(|c| c.life = Life::Held);
        self.savepoints.clear();
    }

    pub fn rollback(&mut self) {
        self.open.retain(|c| c.life == Life::Held);
        self.savepoints.clear();
    }

    /// COMMIT of the node's transaction computes all rows of a cursor.
    fn is_filled_by_commit(&self, node: NodeId) -> bool {
        self.open.iter().any(|c| c.node == node && c.life == Life::ToBeHeld)
    }
}

impl Session {
    /// A cursor that the text names is on another node than the one that the text goes to.
    pub(super) fn has_cursors_elsewhere(&self, plan: &Plan, place: &Place) -> bool {
        let mut nodes = self.cursor_nodes(plan);
        let here = match place {
            Place::Node { node, .. } => Some(*node),
            Place::Any => nodes.next(),
            Place::Every { .. } => None,
        };
        nodes.any(|node| Some(node) != here)
    }

    /// The nodes of the cursors that the text names, as far as they are known.
    pub(super) fn cursor_nodes(&self, plan: &Plan) -> impl Iterator<Item = NodeId> {
        plan.statements.iter().filter_map(|s| match &s.control {
            Control::Fetch(name) | Control::Close(Some(name)) => self.cursor_node(name.as_bytes()),
            Control::Close(None) => self.cursors.nodes().first().copied(),
            // Where the name is taken the server says so.
            Control::Leaves(t) => self.cursor_node(t.declares.as_deref()?.as_bytes()),
            _ => None,
        })
    }

    /// The node of a cursor or a portal: the server knows both by one name.
    pub(super) fn cursor_node(&self, name: &[u8]) -> Option<NodeId> {
        let of_sql = || std::str::from_utf8(name).ok().and_then(|n| self.cursors.node_of(n));
        let node = self.portal(name).and_then(|p| p.node).or_else(of_sql);
        node.filter(|node| self.holds(*node))
    }

    /// Why a text cannot be carried out for what it names in the session, if so.
    pub(super) fn refuses_names(&self, plan: &Plan, place: &Place) -> Option<Report> {
        self.refuses_execute(plan).or_else(|| self.refuses_cursors(plan, place))
    }

    /// Why a text about cursors cannot be carried out, if so, at the place that it goes to.
    pub(super) fn refuses_cursors(&self, plan: &Plan, place: &Place) -> Option<Report> {
        plan.statements.iter().find_map(|s| match &s.control {
            Control::Leaves(traces) => {
                // What is under way may close it.
                let name = traces.declares.as_deref().filter(|_| !self.is_waiting_for_link())?;
                let there = self.cursor_node(name.as_bytes())?;
                let elsewhere = match place {
                    Place::Node { node, .. } => *node != there,
                    Place::Every { .. } => true,
                    Place::Any => false,
                };
                elsewhere
                    .then(|| Report::error("42P03", format!("cursor \"{name}\" already exists")))
            }
            Control::Fetch(name) => {
                let kept = self.portal(name.as_bytes()).is_some_and(|p| p.held.is_some());
                kept.then(|| {
                    let what = format!("FETCH from the portal \"{name}\" over several nodes");
                    Report::error("0A000", format!("{what} is not supported"))
                        .hint("Execute it by the protocol, or DECLARE a cursor.")
                })
            }
            Control::Close(None) | Control::DiscardAll => {
                let several = self.status == Status::Idle && self.cursors.nodes().len() > 1;
                several.then(|| {
                    let what = "this would close the cursors WITH HOLD of one node only";
                    Report::error("0A000", what).hint("CLOSE each of them by its name.")
                })
            }
            _ => None,
        })
    }

    /// A statement has completed that declares a cursor, on the node in hand.
    pub(super) fn has_declared(&mut self, name: &str, holds: bool) {
        if let Some(node) = self.node() {
            self.cursors.declare(name, node, holds);
        }
    }

    /// A cursor was closed, or all of them were.
    pub(super) fn has_closed(&mut self, name: Option<&str>) {
        match name {
            Some(name) => self.cursors.close(name),
            None => self.cursors.open.clear(),
        }
    }

    /// Why the open transaction cannot be committed, if so: PostgreSQL does not prepare one that is to fill a
    /// cursor, and it is not the only one to be decided.
    pub(super) fn refuses_to_fill(&self) -> Option<Report> {
        let parts = self.parts();
        let mut wrote = parts.iter().filter(|p| p.wrote);
        let fills = parts.iter().any(|p| self.cursors.is_filled_by_commit(p.node));
        (self.status != Status::Failed && fills && wrote.nth(1).is_some()).then(|| {
            let what = "COMMIT cannot fill a cursor WITH HOLD and decide about other nodes";
            Report::error("0A000", what)
                .detail("The transaction has changed rows, or has another such cursor, on another node.")
                .hint("Declare it in a transaction of its own, or without HOLD.")
        })
    }

    /// The participants of the open transaction, as its COMMIT must know them. What WITH HOLD keeps is
    /// computed by COMMIT and may fail, so it must not come behind the decision.
    pub(super) fn parts(&self) -> Vec<Part> {
        let wrote =
            |l: &super::Link| l.effect > Effect::Locks || self.cursors.is_filled_by_commit(l.node);
        let open = self.links().filter(|l| l.is_open() && !l.ending);
        open.map(|l| Part { node: l.node, wrote: wrote(l) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn names(cursors: &Cursors) -> Vec<&str> {
        cursors.open.iter().map(|c| c.name.as_str()).collect()
    }

    #[test]
    fn they_end_with_their_transaction_unless_they_are_held() {
        let mut c = Cursors::default();
        c.declare("a", A, false);
        c.declare("h", B, true);
        assert_eq!((c.node_of("a"), c.node_of("h"), c.node_of("x")), (Some(A), Some(B), None));
        assert!(c.is_filled_by_commit(B) && !c.is_filled_by_commit(A));
        c.commit();
        assert_eq!(names(&c), ["h"]);
        assert!(!c.is_filled_by_commit(B));
        c.declare("i", B, true);
        c.rollback();
        assert_eq!(names(&c), ["h"]);
        c.leave(B);
        assert!(c.nodes().is_empty());
    }

    #[test]
    fn savepoints_undo_what_was_declared_and_not_what_was_closed() {
        let mut c = Cursors::default();
        c.declare("a", A, false);
        c.savepoint("s");
        c.declare("b", A, false);
        c.savepoint("t");
        c.declare("c", B, false);
        c.close("a");
        c.rollback_to("t");
        assert_eq!(names(&c), ["b"]);
        c.release("t");
        c.rollback_to("s");
        assert_eq!(names(&c), [""; 0]);
        c.declare("d", B, false);
        c.rollback_to("s");
        assert_eq!(names(&c), [""; 0], "the savepoint is still there");
    }
}
