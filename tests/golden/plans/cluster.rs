//! The cluster that the scripts of plans are about: its tables, what leads to them under other names, and
//! the functions the server came with.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgshunt::hash::KeyType;
use pgshunt::router::{Function, Functions};
use pgshunt::topology::hidden::{Hidden, Object, Routine, Use, Uses};
use pgshunt::topology::{
    Around, ColumnRow, Epoch, GroupId, GroupRow, Node, NodeId, PlacementRole, PlacementRow,
    PlacementState, RoutingTable, Rows, ShardId, ShardRow, TableId, TableRow,
};

type Columns = &'static [(&'static str, u32)];

/// The distributed tables: group, schema and name, columns with their types' OIDs; the first ones are
/// the distribution columns.
const TABLES: [(i32, &str, Columns); 10] = [
    (1, "public.orders", &[("tenant", 23), ("id", 20), ("total", 1700), ("note", 25)]),
    (1, "public.items", &[("tenant", 23), ("order_id", 20), ("sku", 25), ("n", 23)]),
    (2, "public.people", &[("email", 25), ("name", 25), ("born", 1082)]),
    (3, "public.docs", &[("id", 2950), ("body", 25)]),
    (4, "public.events", &[("tenant", 20), ("kind", 25), ("at", 1184), ("n", 23)]),
    (5, "app.visits", &[("id", 23), ("page", 25)]),
    (6, "public.tags", &[("tag", 1043), ("mood", 16_500)]),
    (7, "public.small", &[("id", 21), ("v", 25)]),
    (7, "app.small", &[("id", 21), ("v", 25)]),
    (8, "public.countries", &[("code", 25), ("name", 25), ("tax", 1700), ("added", 1184)]),
];

/// The colocation groups: key types and number of shards.
const GROUPS: [(i32, &[KeyType], u32); 8] = [
    (1, &[KeyType::Int4], 4),
    (2, &[KeyType::Text], 4),
    (3, &[KeyType::Uuid], 4),
    (4, &[KeyType::Int8, KeyType::Text], 4),
    (5, &[KeyType::Int4], 3),
    (6, &[KeyType::Varchar], 4),
    (7, &[KeyType::Int2], 2),
    (8, &[], 0),
];

/// Functions the server came with: immutable or stable ones that are plain, ...
const STEADY: &[&str] = &[
    "abs",
    "lower",
    "upper",
    "length",
    "date_trunc",
    "to_char",
    "jsonb_build_object",
    "row_to_json",
    "to_jsonb",
    "concat",
    "format",
    "md5",
    "now",
    "version",
    "current_setting",
    "pg_typeof",
    "domain_in",
    "pg_input_is_valid",
    "pg_get_viewdef",
    "has_table_privilege",
    "obj_description",
    "table_to_xml",
    "timezone",
    "extract",
    "current_schema",
];
/// ... aggregates, ...
const AGGREGATES: &[&str] =
    &["count", "sum", "min", "max", "avg", "array_agg", "string_agg", "jsonb_agg", "stddev"];
/// ... window functions and functions that return sets, ...
const SETS: &[&str] = &[
    "row_number",
    "rank",
    "generate_series",
    "unnest",
    "jsonb_array_elements",
    "regexp_split_to_table",
    "generate_subscripts",
    "pg_listening_channels",
    "pg_prepared_statement",
    "pg_cursor",
];
/// ... and volatile ones.
const VOLATILE: &[&str] = &[
    "random",
    "clock_timestamp",
    "pg_sleep",
    "set_config",
    "setseed",
    "nextval",
    "setval",
    "currval",
    "lastval",
    "pg_advisory_lock",
    "pg_advisory_xact_lock",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_try_advisory_lock",
    "pg_notify",
    "pg_backend_pid",
    "pg_terminate_backend",
    "pg_cancel_backend",
    "lo_create",
    "query_to_xml",
    "ts_rewrite",
    "txid_current",
    "gen_random_uuid",
    "pg_create_logical_replication_slot",
    "pg_backup_start",
    "dblink_connect",
];

/// What a script's statements are planned in.
#[derive(Clone, Copy)]
pub enum Database {
    /// Three nodes and the tables above.
    Cluster,
    /// The same, and somebody has made an operator.
    Operators,
    /// Three nodes, nothing distributed yet.
    Empty,
    /// One node, nothing distributed.
    Lone,
    /// Another database of the cluster's home node.
    Other,
}

fn node(id: i32) -> Node {
    Node { id: NodeId(id), name: format!("n{id}"), host: "h".into(), port: 1, is_home: id == 1 }
}

fn around() -> Around {
    let pair = |s: &str| {
        let (schema, name) = s.split_once('.').expect("schema.name");
        (schema.to_owned(), name.to_owned())
    };
    let pairs = |all: &[&str]| all.iter().map(|s| pair(s)).collect::<Vec<_>>().into();
    Around {
        sequences: pairs(&["public.orders_id_seq"]),
        indexes: pairs(&["public.orders_pkey", "app.visits_pkey"]),
        namesakes: pairs(&["old.people"]),
        roles_schemas: vec!["alice".to_owned()].into(),
        needs_others: true,
        with_policies: pairs(&["public.docs"]),
        defaults: [("tax", "0.2"), ("added", "now()")]
            .map(|(column, default)| {
                ("public".into(), "countries".into(), column.into(), default.into())
            })
            .into(),
        generated: vec![("public".into(), "docs".into(), "body".into())].into(),
        with_statement_triggers: pairs(&["app.visits"]),
        key_defaults: [].into(),
        timed_defaults: [].into(),
        own_operators: false,
    }
}

/// `totals` is a view of orders, `count_orders()` names them, `runs_text()` puts its SQL together; the
/// trigger of `audited` calls count_orders().
fn hidden() -> Hidden {
    let routine = |oid, name: &str, language: &str, source: &str| Routine {
        oid,
        name: name.into(),
        language: language.into(),
        source: source.into(),
    };
    let uses = |user, name: &str, used, by_change| Use { user, name: name.into(), used, by_change };
    Hidden::find(&Uses {
        tables: BTreeMap::from([(1, "orders".into())]),
        routines: vec![
            routine(10, "count_orders", "sql", "SELECT count(*) FROM orders"),
            routine(11, "runs_text", "plpgsql", "BEGIN EXECUTE x; END"),
            routine(12, "harmless", "sql", "SELECT 1"),
        ],
        uses: vec![
            uses(Object::Relation(20), "totals", Object::Relation(1), false),
            uses(Object::Relation(21), "audited", Object::Function(10), true),
        ],
    })
}

fn rows() -> Rows {
    let mut shards = Vec::new();
    for (group, _, count) in GROUPS {
        for remainder in 0..count {
            let id = ShardId(group * 10 + remainder as i32);
            shards.push(ShardRow { id, group: GroupId(group), modulus: count, remainder });
        }
    }
    let placements = shards.iter().map(|s| PlacementRow {
        shard: s.id,
        node: NodeId(s.remainder as i32 % 3 + 1),
        role: PlacementRole::Primary,
        state: PlacementState::Active,
        since: Epoch(1),
    });
    let keys = |group| GROUPS.iter().find(|g| g.0 == group).expect("a group").1.len();
    Rows {
        hidden: hidden(),
        around: around(),
        epoch: 1,
        nodes: vec![node(1), node(2), node(3)],
        groups: GROUPS
            .map(|(id, types, shard_count)| GroupRow {
                id: GroupId(id),
                key_types: types.to_vec(),
                shard_count,
            })
            .to_vec(),
        tables: (1..)
            .zip(TABLES)
            .map(|(id, (group, name, columns))| {
                let (schema, name) = name.split_once('.').expect("schema.name");
                let column = |(name, type_oid): &(&str, u32)| ColumnRow {
                    name: (*name).into(),
                    type_oid: *type_oid,
                };
                TableRow {
                    id: TableId(id),
                    group: GroupId(group),
                    schema: schema.into(),
                    name: name.into(),
                    key_columns: columns[..keys(group)].iter().map(|c| c.0.into()).collect(),
                    columns: columns.iter().map(column).collect(),
                }
            })
            .collect(),
        placements: placements.collect(),
        shards,
    }
}

pub fn routes(database: Database) -> RoutingTable {
    let build = |rows: &Rows| RoutingTable::build(rows).expect("the rows are valid");
    let bare = |nodes: Vec<Node>| Rows { epoch: 1, nodes, ..Rows::default() };
    match database {
        Database::Cluster => build(&rows()),
        Database::Operators => {
            build(&Rows { around: Around { own_operators: true, ..around() }, ..rows() })
        }
        Database::Empty => build(&bare(vec![node(1), node(2), node(3)])),
        Database::Lone => build(&bare(vec![node(1)])),
        Database::Other => (**Arc::new(build(&rows())).plain()).clone(),
    }
}

pub fn functions() -> Functions {
    let all = [
        (STEADY, true, false),
        (AGGREGATES, true, true),
        (SETS, true, false),
        (VOLATILE, false, false),
    ];
    let each = all.iter().flat_map(|(names, stable, aggregate)| {
        names.iter().map(|name| Function {
            name: (*name).to_owned(),
            stable: *stable,
            aggregate: *aggregate,
            set: false,
        })
    });
    Functions::new(each)
}
