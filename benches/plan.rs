//! What a plan costs that is in no cache: the parser, and what the router makes of its tree.

#![expect(clippy::expect_used, reason = "a measurement that fails ends")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pgshunt::hash::KeyType;
use pgshunt::router::analysis::Order;
use pgshunt::router::{Function, Functions, Speech};
use pgshunt::topology::{
    ColumnRow, Epoch, GroupId, GroupRow, Node, NodeId, PlacementRole, PlacementRow, PlacementState,
    RoutingTable, Rows, ShardId, ShardRow, TableId, TableRow,
};

const STATEMENTS: [(&str, &str); 6] = [
    ("point select", "SELECT note FROM orders WHERE tenant = $1"),
    ("insert", "INSERT INTO orders (tenant, id, total, note) VALUES ($1, $2, $3, now())"),
    ("fold", "SELECT count(*), sum(total) FROM orders WHERE total > 10"),
    ("local", "SELECT c.name, count(*) FROM cities c JOIN notes n ON n.city = c.id GROUP BY 1"),
    (
        "join",
        "SELECT o.id, o.total, sum(i.n * i.price) AS items FROM orders o \
         JOIN items i ON i.tenant = o.tenant AND i.order_id = o.id \
         WHERE o.tenant = $1 AND o.note >= '2026' GROUP BY o.id, o.total ORDER BY 2 LIMIT 50",
    ),
    (
        "report",
        "WITH sold AS (SELECT order_id, sum(n) AS n, max(price) AS dearest FROM items \
         WHERE tenant = $1 AND lower(sku) LIKE 'a%' GROUP BY order_id) \
         SELECT upper(o.note), CASE WHEN s.n > 10 THEN 'many' ELSE 'few' END, \
           (SELECT count(*) FROM items i WHERE i.tenant = o.tenant AND i.order_id = o.id) \
         FROM orders o LEFT JOIN sold s ON s.order_id = o.id \
         WHERE o.tenant = $1 AND o.total BETWEEN 1 AND 100 AND o.note IS NOT NULL \
         ORDER BY 1 DESC LIMIT 20 OFFSET 40",
    ),
];

/// Two tables that are asked for among a hundred others.
fn routes() -> RoutingTable {
    let group = GroupId(1);
    let table = |id: i32, name: &str, columns: &[&str]| TableRow {
        id: TableId(id),
        group,
        schema: "public".into(),
        name: name.into(),
        key_columns: vec!["tenant".into()],
        columns: columns.iter().map(|c| ColumnRow { name: (*c).into(), type_oid: 23 }).collect(),
    };
    let mut tables = vec![
        table(1, "orders", &["tenant", "id", "total", "note"]),
        table(2, "items", &["tenant", "order_id", "sku", "n", "price"]),
    ];
    tables.extend((3..103).map(|n| table(n, &format!("t{n}"), &["tenant", "v"])));
    let node = |id: i32| Node {
        id: NodeId(id),
        name: format!("n{id}"),
        host: "h".into(),
        port: 1,
        is_home: id == 1,
    };
    let shard = |r: u32| ShardRow { id: ShardId(r as i32 + 1), group, modulus: 4, remainder: r };
    let placement = |r: i32| PlacementRow {
        shard: ShardId(r + 1),
        node: NodeId(r % 2 + 1),
        role: PlacementRole::Primary,
        state: PlacementState::Active,
        since: Epoch(1),
    };
    RoutingTable::build(&Rows {
        epoch: 1,
        nodes: vec![node(1), node(2)],
        groups: vec![GroupRow { id: group, key_types: vec![KeyType::Int4], shard_count: 4 }],
        tables,
        shards: (0..4).map(shard).collect(),
        placements: (0..4).map(placement).collect(),
        ..Rows::default()
    })
    .expect("the rows are valid")
}

fn plan(c: &mut Criterion) {
    let routes = Arc::new(routes());
    let builtin = ["now", "count", "sum", "max", "lower", "upper"].map(|name| Function {
        name: name.to_owned(),
        stable: true,
        aggregate: matches!(name, "count" | "sum" | "max"),
        set: false,
    });
    let functions = Functions::new(builtin);
    let mut group = c.benchmark_group("plan");
    for (name, sql) in STATEMENTS {
        group.bench_with_input(BenchmarkId::from_parameter(name), sql.as_bytes(), |b, sql| {
            b.iter(|| {
                Order::new(black_box(sql), &routes, &functions, Speech::default()).carry_out().plan
            });
        });
    }
    group.finish();
    let mut group = c.benchmark_group("of which the parser");
    for (name, sql) in STATEMENTS {
        group.bench_with_input(BenchmarkId::from_parameter(name), sql, |b, sql| {
            b.iter(|| pgshunt::sql::tree::parse(black_box(sql)).is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, plan);
criterion_main!(benches);
