//! The normaliser of the plan cache, beside the parser it saves.

#![expect(clippy::disallowed_methods, reason = "the parser itself is measured")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pgshunt::sql::lexer::{Comments, Lexer};

const STATEMENTS: [(&str, &str); 6] = [
    ("select literal", "SELECT abalance FROM pgbench_accounts WHERE aid = 421337"),
    ("select param", "SELECT abalance FROM pgbench_accounts WHERE aid = $1"),
    (
        "update",
        "UPDATE pgbench_accounts SET abalance = abalance + -1234 WHERE aid = 421337 AND bid = 7",
    ),
    (
        "insert",
        "INSERT INTO orders (tenant_id, id, customer, total, note) \
         VALUES (42, 100001, 'Müller & Söhne', 99.95, 'it''s urgent')",
    ),
    (
        "join",
        "SELECT o.id, o.total, sum(i.quantity * i.price) AS items FROM orders o \
         JOIN order_items i ON i.tenant_id = o.tenant_id AND i.order_id = o.id \
         WHERE o.tenant_id = 42 AND o.created_at >= '2026-01-01' GROUP BY o.id, o.total LIMIT 50",
    ),
    (
        "commented",
        "/* controller='orders',action='show' */ SELECT * FROM orders WHERE tenant_id = 42",
    ),
];

fn lexer(c: &mut Criterion) {
    let mut group = c.benchmark_group("normalise");
    let mut lexer = Lexer::new();
    for (name, sql) in STATEMENTS {
        group.throughput(Throughput::Bytes(sql.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), sql.as_bytes(), |b, sql| {
            b.iter(|| {
                let done = lexer.normalise(black_box(sql), Comments::Strip);
                (done, lexer.text().len(), lexer.literals().len())
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("postgres parser");
    for (name, sql) in STATEMENTS {
        group.bench_with_input(BenchmarkId::from_parameter(name), sql, |b, sql| {
            b.iter(|| pg_raw_parse::parse(black_box(sql)).is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, lexer);
criterion_main!(benches);
