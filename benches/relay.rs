//! What a statement costs inside pgshunt, without sockets: looking up its plan, and a whole
//! transaction through the session; then how fast rows pass through.

#![expect(clippy::expect_used, clippy::panic, reason = "a measurement that fails ends")]

mod world;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pgshunt::router::{Planner, Speech, place};

use world::{World, answer, completed, execute, parse, prepared, routes, simple};

fn plan(c: &mut Criterion) {
    let routes = routes();
    let mut planner = Planner::default();
    let mut group = c.benchmark_group("plan and place, from the cache");
    for (name, sql) in [
        ("point read", "SELECT payload FROM t WHERE id = 421337"),
        ("update", "UPDATE t SET payload = 'some longer text' WHERE id = 421337 AND payload <> ''"),
        ("insert", "INSERT INTO t (id, payload) VALUES (421337, 'it''s urgent')"),
        ("every node", "SELECT count(*) FROM t"),
    ] {
        group.bench_with_input(BenchmarkId::from_parameter(name), sql.as_bytes(), |b, sql| {
            b.iter(|| {
                let planned = planner.plan(black_box(sql), &routes, Speech::default());
                place::place(&planned.plan.kind, &planned.literals, &routes).is_ok()
            });
        });
    }
    group.finish();
}

fn relay(c: &mut Criterion) {
    let query = simple();
    let mut group = c.benchmark_group("transaction through the session");
    for (name, rows, width) in [("1 row", 1, 20), ("1,000 rows", 1_000, 100), ("1 MB", 16, 65_536)]
    {
        let mut world = World::new(answer(rows, width));
        group.throughput(Throughput::Bytes(world.transaction(&query) as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| world.transaction(&query));
        });
    }
    group.finish();
}

/// A statement as libpq sends it: described by its portal, prepared for this once or by a name.
fn extended(c: &mut Criterion) {
    let mut group = c.benchmark_group("extended transaction through the session");
    let unnamed = [parse(b""), execute(b"")].concat();
    let mut world = World::new(completed(true));
    group.bench_function("parsed for it", |b| b.iter(|| world.transaction(&unnamed)));

    let (mut world, named) = prepared();
    group.bench_function("prepared before", |b| b.iter(|| world.transaction(&named)));
    group.finish();
}

criterion_group!(benches, plan, relay, extended);
criterion_main!(benches);
