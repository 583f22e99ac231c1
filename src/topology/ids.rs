//! Identifiers of the catalog's rows. Each is the primary key of a table in schema `pgshunt`.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A PostgreSQL server that stores shards.
    NodeId(i32)
);
id!(
    /// A distributed table.
    TableId(i32)
);
id!(
    /// A colocation group: distributed tables whose shards live and move together.
    GroupId(i32)
);
id!(
    /// One (modulus, remainder) of a colocation group: the unit that is placed and moved.
    ShardId(i32)
);
id!(
    /// The journey of a shard from one node to another.
    MoveId(i64)
);
id!(
    /// The catalog's version; raised by every transaction that changes it.
    Epoch(i64)
);

/// What a statement may see: what a move of a shard must wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Touch {
    /// One shard, on the node that serves it.
    Shard { group: GroupId, shard: ShardId, node: NodeId },
    /// All shards of a group, on every node.
    Group(GroupId),
    /// A node, but no shard: a local table, a session's own statement.
    Node(NodeId),
}

/// `shard_7` is the schema of shard 7's leaves.
pub fn leaf_schema(schema: &str) -> Option<ShardId> {
    let digits = schema.strip_prefix("shard_")?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok().map(ShardId) } else { None }
}
