//! The tables of the transactions, and the rows they begin with.

use super::super::pair::Pair;
use super::super::schema::{SHARDS, distribute};
use crate::support::PATIENCE;

/// Distributed by hash: name, columns, key.
const DISTRIBUTED: &[(&str, &str, &str)] = &[
    (
        "acc",
        "k int4, id int4, v int CHECK (v < 90), s text NOT NULL DEFAULT 'd', r int REFERENCES ref (id), \
         PRIMARY KEY (k, id)",
        "k",
    ),
    ("ord", "k int4 PRIMARY KEY, v int DEFAULT 7, s text, n numeric(8, 2)", "k"),
    ("heap", "v int, k int4, s text", "k"),
    ("words", "k text PRIMARY KEY, v int NOT NULL, s text", "k"),
    ("late", "k int4, u int, UNIQUE (k, u) DEFERRABLE INITIALLY DEFERRED", "k"),
];

/// A table that every node has in full; on the plain server one like any other.
const REFERENCE: &str = "CREATE TABLE ref (id int PRIMARY KEY, v int CHECK (v > -50), name text@)";
const MARK: &str = ", CONSTRAINT pgshunt_reference CHECK (true)";
const LOCAL: &str = "CREATE TABLE near (id int PRIMARY KEY, v int, s text)";

pub fn create(pair: &mut Pair) {
    pair.shunt.does(&REFERENCE.replace('@', MARK));
    pair.plain.does(&REFERENCE.replace('@', ""));
    pair.both(LOCAL);
    pair.shunt.does(&format!("SET pgshunt.shard_count = {SHARDS}"));
    for (table, columns, key) in DISTRIBUTED {
        distribute(pair, table, columns, key);
    }
    pair.shunt.does("RESET pgshunt.shard_count");
}

/// The tables' first rows, on both sides.
pub fn fill(pair: &mut Pair) {
    let distributed: Vec<_> = DISTRIBUTED.iter().map(|t| t.0).collect();
    let all = format!("TRUNCATE {}, ref", distributed.join(", "));
    pair.plain.does(&format!("{all}, near"));
    for (n, node) in pair.nodes.iter_mut().enumerate() {
        // Directly on the nodes: quicker, and not what is tested here.
        node.does(&if n == 0 { format!("{all}, near") } else { all.clone() });
    }
    let rows = |of: std::ops::Range<i32>, row: &dyn Fn(i32) -> String| {
        of.map(|n| format!("({})", row(n))).collect::<Vec<_>>().join(", ")
    };
    pair.reconnect();
    for sql in [
        rows(1..6, &|n| format!("{n}, {}, 'r{n}'", n * 2)),
        rows(1..6, &|n| format!("{n}, {}, 'n{n}'", n % 3)),
        rows(0..18, &|n| format!("{}, {}, {}, 's{}', {}", n / 2, n % 2, n % 7, n % 3, 1 + n % 4)),
        rows(0..10, &|n| format!("{n}, {}, 'o{}', {n}.5", n % 4, n % 3)),
        rows(0..16, &|n| format!("{}, {}, 'h{}'", n % 5, n % 9, n % 2)),
        rows(0..8, &|n| format!("'w{n}', {n}, 'x{}'", n % 2)),
        rows(0..6, &|n| format!("{n}, {}", n % 2)),
    ]
    .iter()
    .zip(["ref", "near", "acc", "ord", "heap", "words", "late"])
    .map(|(rows, table)| format!("INSERT INTO {table} VALUES {rows}"))
    {
        pair.both(&sql);
    }
}

/// Waits until no server has an open transaction of a session that has gone.
pub fn settle(pair: &mut Pair) {
    const OPEN: &str = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
         AND pid <> pg_backend_pid() AND (backend_xid IS NOT NULL OR state LIKE 'idle in transaction%')) \
         + (SELECT count(*) FROM pg_prepared_xacts)";
    let start = std::time::Instant::now();
    let mut servers: Vec<_> = pair.nodes.iter_mut().chain([&mut pair.plain]).collect();
    while servers.iter_mut().any(|s| s.does(OPEN)[0].rows[0][0].as_deref() != Some(b"0".as_slice()))
    {
        assert!(start.elapsed() < PATIENCE, "a transaction of a session that has gone stays open");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// The first table whose rows are not the same on both sides.
pub fn differ(pair: &mut Pair) -> Option<String> {
    let names = DISTRIBUTED.iter().map(|t| (t.0, true)).chain([("ref", false), ("near", false)]);
    for (name, distributed) in names {
        let sql = format!("SELECT * FROM {name}");
        let theirs = sorted(pair.plain.does(&sql));
        let ours: Vec<Vec<_>> = match (distributed, name) {
            (true, _) => {
                let all = pair.nodes.iter_mut().flat_map(|n| n.does(&sql));
                vec![sorted(all.collect())]
            }
            (false, "near") => vec![sorted(pair.nodes[0].does(&sql))],
            (false, _) => pair.nodes.iter_mut().map(|n| sorted(n.does(&sql))).collect(),
        };
        if let Some(other) = ours.iter().find(|rows| **rows != theirs) {
            let only = |a: &[String], b: &[String]| {
                a.iter().filter(|r| !b.contains(r)).cloned().collect::<Vec<_>>()
            };
            return Some(format!(
                "table {name}: {} rows in pgshunt, {} in PostgreSQL; only here {:?}; only there {:?}",
                other.len(),
                theirs.len(),
                only(other, &theirs),
                only(&theirs, other)
            ));
        }
    }
    None
}

fn sorted(answers: Vec<super::super::wire::Answer>) -> Vec<String> {
    let rows = answers.into_iter().flat_map(|a| a.rows);
    let mut rows: Vec<_> = rows.map(|r| super::super::pair::show_row(&r)).collect();
    rows.sort_unstable();
    rows
}
