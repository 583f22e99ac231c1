//! The cluster of the scripts: two nodes, and two tables of four shards that lie alike.

use pgshunt::hash::KeyType;
use pgshunt::topology::{
    ColumnRow, Epoch, GroupId, GroupRow, Node, NodeId, PlacementRole, PlacementRow, PlacementState,
    Rows, ShardId, ShardRow, TableId, TableRow,
};

pub const GROUP: GroupId = GroupId(1);

pub fn rows() -> Rows {
    let node = |id: i32| Node {
        id: NodeId(id),
        name: format!("n{id}"),
        host: "h".into(),
        port: 1,
        is_home: id == 1,
    };
    let table = |id, name: &str| TableRow {
        id: TableId(id),
        group: GROUP,
        schema: "public".into(),
        name: name.into(),
        key_columns: vec!["id".into()],
        columns: vec![
            ColumnRow { name: "id".into(), type_oid: 23 },
            ColumnRow { name: "v".into(), type_oid: 25 },
        ],
    };
    Rows {
        hidden: Default::default(),
        around: Default::default(),
        epoch: 1,
        nodes: vec![node(1), node(2)],
        groups: vec![GroupRow { id: GROUP, key_types: vec![KeyType::Int4], shard_count: 4 }],
        tables: vec![table(1, "t"), table(2, "u")],
        shards: (0..4)
            .map(|r| ShardRow { id: ShardId(r as i32 + 1), group: GROUP, modulus: 4, remainder: r })
            .collect(),
        placements: (0..4)
            .map(|r| PlacementRow {
                shard: ShardId(r + 1),
                node: NodeId(r % 2 + 1),
                role: PlacementRole::Primary,
                state: PlacementState::Active,
                since: Epoch(1),
            })
            .collect(),
    }
}
