//! A plan from the cache is the plan that its own text would have got.
//!
//! Without servers: one planner sees texts of the same shape with other literals, a new one sees the
//! last alone. Place, spans and controls must be the same.

use pgshunt::hash::KeyType;
use pgshunt::router::place::{Place, place};
use pgshunt::router::plan::Control;
use pgshunt::router::{Function, Functions, Planner, Speech};
use pgshunt::topology::{
    ColumnRow, Epoch, GroupId, GroupRow, Node, NodeId, PlacementRole, PlacementRow, PlacementState,
    RoutingTable, Rows, ShardId, ShardRow, TableId, TableRow,
};

use super::generator::Generator;

const SHARDS: i32 = 16;

fn routes() -> RoutingTable {
    let nodes = (1..=3)
        .map(|id| Node {
            id: NodeId(id),
            name: format!("node{id}"),
            host: "127.0.0.1".into(),
            port: 1,
            is_home: id == 1,
        })
        .collect();
    let groups: Vec<GroupRow> = [
        KeyType::Int4,
        KeyType::Int8,
        KeyType::Int2,
        KeyType::Text,
        KeyType::Varchar,
        KeyType::Uuid,
    ]
    .into_iter()
    .zip(1..)
    .map(|(ty, id)| GroupRow { id: GroupId(id), key_types: vec![ty], shard_count: SHARDS as u32 })
    .collect();
    let wide: &[(&str, u32)] =
        &[("k", 0), ("v", 23), ("n", 1700), ("f", 701), ("s", 25), ("d", 1082)];
    let tables = [("i4", 1), ("i4b", 1), ("i8", 2), ("i2", 3), ("tx", 4), ("vc", 5), ("uu", 6)]
        .into_iter()
        .zip(1..)
        .map(|((name, group), id)| TableRow {
            id: TableId(id),
            group: GroupId(group),
            schema: "public".into(),
            name: name.into(),
            key_columns: vec!["k".into()],
            columns: wide
                .iter()
                .map(|(n, t)| ColumnRow { name: (*n).into(), type_oid: *t })
                .collect(),
        })
        .collect();
    let shards: Vec<ShardRow> = groups
        .iter()
        .flat_map(|g| (0..SHARDS).map(move |r| (g.id, r)))
        .map(|(group, r)| ShardRow {
            id: ShardId(group.0 * 100 + r),
            group,
            modulus: SHARDS as u32,
            remainder: r as u32,
        })
        .collect();
    let placements = shards
        .iter()
        .map(|s| PlacementRow {
            shard: s.id,
            node: NodeId(1 + s.remainder as i32 % 3),
            role: PlacementRole::Primary,
            state: PlacementState::Active,
            since: Epoch(1),
        })
        .collect();
    let rows = Rows {
        epoch: 1,
        nodes,
        groups,
        tables,
        shards,
        placements,
        around: Default::default(),
        hidden: Default::default(),
    };
    RoutingTable::build(&rows).unwrap()
}

fn functions() -> Functions {
    let all = [("count", true), ("max", true), ("length", false), ("lower", false)];
    let each = all.map(|(name, aggregate)| Function {
        name: name.into(),
        stable: true,
        aggregate,
        set: false,
    });
    Functions::new(each)
}

/// Where the text runs; what each of its statements does to the session, and where it stands.
type Told = (Result<Place, String>, Vec<(Control, (usize, usize))>);

fn told(planner: &mut Planner, sql: &str, routes: &RoutingTable) -> Told {
    let planned = planner.plan(sql.as_bytes(), routes, Speech::default());
    let place = place(&planned.plan.kind, &planned.literals, routes).map_err(|r| r.message);
    let statements = planned.plan.statements.iter().enumerate();
    (place, statements.map(|(n, s)| (s.control.clone(), planned.span(n))).collect())
}

#[test]
fn a_shape_says_for_every_text_what_the_text_alone_would() {
    let routes = routes();
    let mut warm = Planner::new(functions());
    let mut generator = Generator::new(7);
    let (mut compared, mut texts) = (0, fixed());
    for _ in 0..1_500 {
        texts.push(generator.query(2).0);
    }
    for text in &texts {
        let _ = told(&mut warm, text, &routes);
        for _ in 0..6 {
            let other = generator.other_literals(text);
            let parsed = warm.parsed;
            let cached = told(&mut warm, &other, &routes);
            if warm.parsed == parsed {
                compared += 1;
            }
            let mut cold = Planner::new(functions());
            assert_eq!(cached, told(&mut cold, &other, &routes), "{other}\n after {text}");
        }
    }
    assert!(compared > 2_000, "the cache was asked {compared} times only");
}

/// Shapes in which a literal is more than a value.
fn fixed() -> Vec<String> {
    [
        "SELECT * FROM i4 WHERE k = 5 ORDER BY 1 LIMIT 2 OFFSET 1",
        "SELECT * FROM i4 WHERE k = - 5",
        "SELECT * FROM i4 WHERE k = -(5) AND v = 6",
        "SELECT * FROM i4 WHERE k =  /* 7 */ 5",
        "SELECT * FROM i4 WHERE k = '5'::int AND d > date '2024-01-01' - interval '3 days'",
        "SELECT '2'::varchar(3), k FROM tx WHERE k = 'key1'",
        "SELECT 5 AS \"1\" FROM i4 WHERE 7 = k",
        "SELECT * FROM i4 WHERE k = 5 UNION ALL SELECT * FROM i4b WHERE k = 5",
        "INSERT INTO i4 (v, k) VALUES (1, 2), (3, 2)",
        "INSERT INTO tx VALUES ('key1', 2)",
        "UPDATE i4 SET v = 1, n = 2.5 WHERE k = 3",
        "DELETE FROM tx WHERE 'key1' = k AND v = 3",
        "SET statement_timeout = 1",
        "SET search_path = '1'",
        "SELECT set_config('search_path', '1', false)",
        "SELECT set_config('key1', '1', true)",
        "SELECT count(*) FROM i4 WHERE v = 5",
        "SELECT CASE WHEN v = 1 THEN 2 ELSE 3 END FROM i8 WHERE k = 4 GROUP BY 1",
        "SELECT * FROM i2 WHERE k = 00005",
        "SELECT * FROM i8 WHERE k = 5 -- 6",
        "SELECT * FROM i4 WHERE k = 5;",
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        "SELECT 1",
    ]
    .map(str::to_owned)
    .to_vec()
}
