//! The connections that idle in the world of the scripts.

use std::collections::BTreeMap;

use pgshunt::session::{Facts, Lender};
use pgshunt::topology::{NodeId, RoutingTable};

/// As many connections to each node as are asked for.
pub struct Idle<'a> {
    pub all: &'a mut BTreeMap<NodeId, Vec<Facts>>,
    pub lent: Option<NodeId>,
}

impl Lender for Idle<'_> {
    fn lend(&mut self, node: NodeId, _: &RoutingTable) -> Option<Box<Facts>> {
        self.lent = Some(node);
        Some(Box::new(self.all.entry(node).or_default().pop().unwrap_or_default()))
    }
}
