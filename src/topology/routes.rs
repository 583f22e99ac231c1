//! The routing table in force, which all workers read.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::RoutingTable;

/// The one current routing table of the process, swapped whole.
#[derive(Debug)]
pub struct Routes(ArcSwap<RoutingTable>);

impl Routes {
    pub fn new(table: RoutingTable) -> Self {
        Self(ArcSwap::from_pointee(table))
    }

    /// The current table; the caller keeps this truth for as long as it holds the `Arc`.
    pub fn load(&self) -> Arc<RoutingTable> {
        self.0.load_full()
    }

    /// For per-worker `arc_swap::Cache`s: a cheaper load on the way of a query.
    pub fn swap_cell(&self) -> &ArcSwap<RoutingTable> {
        &self.0
    }

    /// Puts a newer table in force. An older epoch never replaces a newer one. If only placements have
    /// changed the schema is the one before, so that plans hold.
    pub fn publish(&self, table: RoutingTable) {
        self.0.rcu(|now| {
            if now.epoch > table.epoch { now.clone() } else { Arc::new(table.clone().behind(now)) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Epoch, Node, NodeId, Rows};

    fn table(epoch: i64) -> RoutingTable {
        let home = Node {
            id: NodeId(1),
            name: "node1".into(),
            host: "127.0.0.1".into(),
            port: 5432,
            is_home: true,
        };
        RoutingTable::build(&Rows { epoch, nodes: vec![home], ..Rows::default() }).unwrap()
    }

    #[test]
    fn an_older_epoch_never_replaces_a_newer_one() {
        let routes = Routes::new(table(2));
        routes.publish(table(1));
        assert_eq!(routes.load().epoch, Epoch(2));
    }
}
