//! PREPARE TRANSACTION: a transaction that outlives its connection lives on the home node only.
//!
//! COMMIT PREPARED and ROLLBACK PREPARED have nothing but the transaction's name, and may come from
//! any session: they go to the home node. So a transaction of another node is not prepared, but
//! refused and rolled back, as PostgreSQL rolls back what it fails to prepare.

use super::link::{Done, Expect, Fate, Link, Reply};
use super::{Env, FAILING, Io, Need, Session};
use crate::router::place::Place;
use crate::router::plan::{Control, Plan};
use crate::wire::backend::{Report, Status};
use crate::wire::frontend;

impl Session {
    /// Why the transaction that the text prepares cannot be prepared where it is, if so. `Err`: what
    /// is under way must tell first whether it has failed.
    pub(super) fn refuses_to_prepare(
        &self,
        plan: &Plan,
        place: &Place,
        env: &Env<'_>,
    ) -> Result<Option<Report>, Need> {
        let prepares = |c: &Control| *c == Control::PrepareTransaction;
        if !plan.statements.iter().any(|s| prepares(&s.control)) {
            return Ok(None);
        }
        let node = match place {
            Place::Node { node, .. } => Some(*node),
            Place::Any | Place::Every { .. } => self.node(),
        };
        let away = node.filter(|n| *n != env.routes.home().id);
        let begun = self.link.as_ref().is_some_and(|l| !l.is_free());
        let (Some(node), true) = (away, begun || plan.single().is_none()) else { return Ok(None) };
        if self.link.as_ref().is_some_and(|l| !l.is_quiet()) {
            return Err(Need::Quiet);
        }
        if self.link.as_ref().is_some_and(|l| l.status == Status::Failed) {
            // It is rolled back, wherever it is.
            return Ok(None);
        }
        let name = env.routes.node(node).map_or("?", |n| &n.name);
        let report = Report::error(
            "0A000",
            format!("cannot prepare a transaction of node {name}, which is not the home node"),
        );
        Ok(Some(
            report
                .detail("COMMIT PREPARED goes to the home node. The transaction is rolled back.")
                .hint("Use COMMIT, or prepare transactions that use rows of the home node only."),
        ))
    }

    /// Answers a text that prepares the transaction with an error, and rolls the transaction back.
    pub(super) fn refuse_and_roll_back(&mut self, report: Report, io: &mut Io<'_>) {
        let begun = |l: &&mut Link| l.started && !l.is_free();
        let Some(link) = self.link.as_mut().filter(begun) else {
            return self.refuse_query(report, Fate::Insist, io);
        };
        self.counters.refused += 1;
        let text = [b"ROLLBACK; ", FAILING].concat();
        frontend::put_query(io.server, &text);
        let mut e = Expect::new(Reply::Query, Fate::Insist(Box::new(report)));
        let rolls_back = Done { control: Control::None, sql: "ROLLBACK".into(), ours: true };
        e.controls = Some([rolls_back].into());
        e.undo.client = Some((Vec::new(), self.unnamed.take()));
        e.undo.unnamed = Some(link.unnamed.take());
        link.push(e);
    }
}
