//! The model of a cluster: nodes, distributed tables, shards, placements, and the immutable
//! [`RoutingTable`] that ties them together.
//!
//! Nothing here does IO. A routing table is built whole from the catalog's rows, or refused; it
//! is then swapped whole (see [`Routes`]), so a reader holds one consistent truth for as long as it
//! likes and nobody edits it under them.

mod around;
mod changed;
pub mod hidden;
mod ids;
mod routes;
mod routing_table;
mod schema;

/// What the fence of a moving shard raises (`pgshunt.fence()` on the nodes): the statement wrote to
/// a leaf that serves no more, or not at this moment. Plan it again on a fresh routing table.
pub const FENCE_SQLSTATE: &str = "PS001";

pub use around::{Around, ColumnDefault};
pub use changed::{ChangedTable, NewTable};
pub use ids::{Epoch, GroupId, MoveId, NodeId, ShardId, TableId, Touch, leaf_schema};
pub use routes::Routes;
pub use routing_table::{
    BuildError, Group, GroupRow, Node, PlacementRole, PlacementRow, PlacementState, RoutingTable,
    Rows, Shard, ShardRow, TableRow,
};
pub use schema::{ColumnRow, DistributedTable, Schema, SchemaEpoch};
