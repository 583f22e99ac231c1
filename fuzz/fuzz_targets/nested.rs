#![no_main]
//! Statements nested and widened by the grammar's rules: none ends the process, and none has more levels
//! than its size promises.

use libfuzzer_sys::fuzz_target;
use pg_raw_parse::Node;
use pgshunt::router::{Planner, Speech};
use pgshunt::sql::size;
use pgshunt::sql::tree::{self, Recurse, walk};
use pgshunt::topology::{Node as Server, NodeId, RoutingTable, Rows};

/// What is put in front of and behind what there is so far.
const RULES: &[(&str, &str)] = &[
    ("", "+1"),
    ("- ", ""),
    ("+", ""),
    ("NOT ", ""),
    ("(", ")"),
    ("", "::int"),
    ("", " || 'a'"),
    ("", " AND true"),
    ("true OR (", ")"),
    ("", " IS NULL"),
    ("", " COLLATE \"C\""),
    ("(", ").a"),
    ("", "[1]"),
    ("f(", ", 1)"),
    ("ARRAY[", ", 2]"),
    ("ROW(", ")"),
    ("CASE WHEN ", " THEN 1 ELSE E'\\'' END"),
    ("(SELECT ", ")"),
    ("(SELECT 1 UNION SELECT ", ")"),
    ("EXISTS (SELECT * FROM a CROSS JOIN b WHERE ", ")"),
    ("1 IN (2, ", ")"),
    ("(WITH w AS (SELECT ", ") SELECT 1)"),
    ("", ", $1"),
    ("", " /* , ( */"),
    ("", " -- ) '\n"),
    ("$$ ( $$ || ", ""),
    ("'", "'"),
    ("", "; SELECT 1"),
    ("", " FROM t JOIN u USING (a)"),
    ("", " UNION ALL SELECT 1, 2"),
    ("INSERT INTO t VALUES (", ")"),
    ("UPDATE t SET a = ", ""),
    ("CREATE FUNCTION f() RETURNS TABLE (a int(", ")) LANGUAGE sql AS ''"),
    ("CREATE TABLE t (a int CHECK (", "))"),
    ("EXPLAIN ", ""),
    ("SELECT ", ""),
];

/// Each pair of bytes is a rule and how often it is applied, up to 64 times the second one.
fn text(data: &[u8]) -> String {
    let mut text = "a".to_owned();
    for pair in data.chunks_exact(2) {
        let (open, close) = RULES[usize::from(pair[0]) % RULES.len()];
        let times = usize::from(pair[1] & 63) * if pair[1] > 191 { 64 } else { 1 } + 1;
        if (open.len() + close.len()) * times + text.len() > 100_000 {
            break;
        }
        text = format!("{}{text}{}", open.repeat(times), close.repeat(times));
    }
    text
}

fn levels(root: Node<'_>) -> usize {
    // Level by level, each node's children by a walk that goes no further.
    let (mut at, mut deepest) = (vec![root], 0);
    while !at.is_empty() {
        let mut below = Vec::new();
        for node in at {
            walk::<()>(node, |n| {
                below.push(n);
                Recurse::no()
            });
        }
        deepest += usize::from(!below.is_empty());
        at = below;
    }
    deepest
}

fuzz_target!(|data: &[u8]| {
    let text = text(data);
    let size = size::of(text.as_bytes());
    if let Ok(tree) = tree::parse(&text) {
        for statement in tree.stmts() {
            let dml = matches!(
                statement,
                Node::SelectStmt(_) | Node::InsertStmt(_) | Node::UpdateStmt(_)
            );
            if dml {
                // A token makes at most so many levels: a sub-select has a list, a target and a link.
                let levels = levels(statement);
                assert!(levels <= 6 * size.depth + 6, "{levels} levels, {size:?}");
            }
        }
    }
    let home = Server {
        id: NodeId(1),
        name: "node1".into(),
        host: "127.0.0.1".into(),
        port: 5432,
        is_home: true,
    };
    let routes = RoutingTable::build(&Rows { nodes: vec![home], ..Rows::default() }).unwrap();
    let mut planner = Planner::default();
    planner.plan(text.as_bytes(), &routes, Speech::default());
    planner.plan_text(text.as_bytes(), &routes, Speech::default());
});
