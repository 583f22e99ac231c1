//! The client's portals, and what becomes of them when its transaction gets another node.
//!
//! A portal is the server's. One is known here by its statement, for what executing it does to the
//! session. A transaction that has no node yet, or gets another one, has had portals that its node
//! has not: that of a BEGIN which was answered here is there again when BEGIN has been sent; of the
//! others nothing can be had any more.

use std::rc::Rc;

use super::names::Costs;
use super::{Session, Statement};
use crate::router::plan::Control;
use crate::wire::backend::{Report, Status};

#[derive(Debug, Clone)]
pub(super) struct Portal {
    pub statement: Rc<Statement>,
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
        self.portals.insert(name, Portal { statement: s.clone(), left_behind: false })
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

    /// The session loses its server connection.
    pub(super) fn leave_portals(&mut self) {
        if self.status == Status::Idle {
            self.portals.clear();
        }
        let begins = self.portal(b"").is_some_and(Portal::begins);
        for p in self.portals.values_mut() {
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
