//! VACUUM and its kin on all nodes: each is sent the client's text, outside of a transaction block unless PostgreSQL
//! allows it in one, and nothing is decided between them.

use std::sync::Arc;

use super::request::Request;
use super::spread::{How, Spread};
use super::{Env, Io, Need, Session};
use crate::router::plan::{Effect, Maintain, Plan};
use crate::topology::NodeId;
use crate::wire::backend::{Report, Status};

impl Session {
    /// Begins with it when all nodes are there. `answers`: adds what else the client reads.
    pub(super) fn maintain(
        &mut self,
        maintain: &Maintain,
        plan: &Arc<Plan>,
        answers: impl FnOnce(&mut Spread),
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        match (self.status, maintain.alone) {
            (Status::Failed, _) => return Err(super::block::aborted()),
            (Status::Transaction, Some(what)) => {
                let message = format!("{what} cannot run inside a transaction block");
                return Err(Report::error("25001", message));
            }
            (Status::Transaction, None) | (Status::Idle, _) => {}
        }
        let text = maintain.text.clone().into_bytes();
        let request = Request::Text { plan: plan.clone(), text, controls: None };
        let mut nodes: Vec<NodeId> = env.routes.nodes().map(|n| n.id).collect();
        // What all would refuse is told by the home node.
        nodes.sort_by_key(|n| *n != env.routes.home().id);
        let mut spread = Spread::new(nodes, request, How::Same(Vec::new()));
        // Statistics that are not kept are no loss: nobody is prepared for them.
        spread.effect = Effect::Locks;
        answers(&mut spread);
        self.spread_over(&[], spread, env, io)
    }
}
