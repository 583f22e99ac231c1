//! Where a session gets a connection that idles, while it decides: no wait, no second offer of its
//! message. One that is to be waited for is asked for later ([`super::aside`]).

use std::sync::Arc;

use crate::backend::login::Credentials;
use crate::pool::{Leased, Pool, PoolKey, Pools};
use crate::session::{Facts, Lender};
use crate::topology::{Epoch, NodeId, RoutingTable};

/// A client's pools, one for each node it has used: looked up by name once per routing table.
#[derive(Default)]
pub(super) struct OwnPools {
    /// Of the table by which they were looked up.
    epoch: Option<Epoch>,
    pools: Vec<Arc<Pool>>,
}

/// In whose name its connections are opened.
pub(super) struct Who<'a> {
    pub database: &'a Arc<str>,
    pub user: &'a Arc<str>,
    pub credentials: &'a Credentials,
}

impl OwnPools {
    /// The pool of a node; `None`: the node is no more.
    pub fn of(
        &mut self,
        node: NodeId,
        who: &Who<'_>,
        routes: &RoutingTable,
        all: &Arc<Pools>,
    ) -> Option<&Arc<Pool>> {
        if self.epoch != Some(routes.epoch) {
            *self = Self { epoch: Some(routes.epoch), pools: Vec::new() };
        }
        let at = match self.pools.iter().position(|p| p.key().node == node) {
            Some(at) => at,
            None => {
                let (database, user) = (who.database.clone(), who.user.clone());
                let key = PoolKey { node, database, user };
                self.pools.push(all.pool(key, routes.node(node)?, who.credentials));
                self.pools.len() - 1
            }
        };
        self.pools.get(at)
    }
}

/// What stands by a session while it takes a message.
pub(super) struct Desk<'a> {
    pub all: &'a Arc<Pools>,
    /// The client's own among them.
    pub pools: &'a mut OwnPools,
    /// Of the client's thread.
    pub worker: usize,
    pub who: Who<'a>,
    /// What the session has been lent.
    pub lent: Option<Leased>,
}

impl Lender for Desk<'_> {
    fn lend(&mut self, node: NodeId, routes: &RoutingTable) -> Option<Box<Facts>> {
        if self.all.doors.is_closed(self.who.database) {
            return None;
        }
        let pool = self.pools.of(node, &self.who, routes, self.all)?;
        let mut conn = pool.lease_idle(self.worker)?;
        let facts = conn.facts.take();
        self.lent = Some(conn);
        facts
    }
}

/// Nobody is lent anything: no message is taken.
pub(super) struct Nothing;

impl Lender for Nothing {
    fn lend(&mut self, _: NodeId, _: &RoutingTable) -> Option<Box<Facts>> {
        None
    }
}
