//! EXPLAIN (ROUTE): by what way a statement would go to the nodes, in which words, and why by no cheaper
//! one. Nothing is carried out.

use pg_raw_parse::{Node, nodes};

use super::context::{Context, refused};
use super::plan::{Control, Key, KeySource, Kind, Merge, NODES};
use super::query::{self, why_collected, why_not_as_it_is};
use super::{computed, cursor};
use crate::sql::wanted::Wanted;

/// What EXPLAIN with the option ROUTE is; `None`: it has no such option.
pub fn explained(e: &nodes::ExplainStmt, cx: Context<'_>) -> Option<(Kind, Control)> {
    if !is_asked(e) {
        return None;
    }
    if e.options().len() > 1 {
        let kind = refused("EXPLAIN (ROUTE) takes no other options", "Leave them out.");
        return Some((kind, Control::None));
    }
    let (query, of) = match e.query() {
        Node::DeclareCursorStmt(d) => (d.query(), cursor::place(d, cx)),
        query => (query, query::place(query, cx)),
    };
    let mut lines = lines(query, &of, cx);
    if !matches!(of, Kind::Any | Kind::Apart | Kind::Refused(_)) {
        lines.insert(1, format!("  Nodes: {NODES}"));
    }
    Some((Kind::Any, Control::Route { sql: rows_of(&lines), of: of.into() }))
}

pub fn is_asked(e: &nodes::ExplainStmt) -> bool {
    e.options().iter().any(|o| o.defname() == Some("route"))
}

/// A line that tells how much may be moved to one node.
const LIMIT: &str =
    "  The rows go there as parameters, as many bytes of them at most as this says: ";

/// A query whose rows these are.
fn rows_of(lines: &[String]) -> String {
    let quoted = |line: &String| {
        let text = line.replace('\\', "\\\\").replace('\'', "''").replace('$', "\\044");
        let own = "pg_catalog.current_setting('pgshunt.collect_limit', true)";
        match line == LIMIT {
            true => format!(
                "(E'{text}'::text OPERATOR(pg_catalog.||) COALESCE('pgshunt.collect_limit = '::text \
                 OPERATOR(pg_catalog.||) NULLIF({own}, ''), 'read.collect_limit'))"
            ),
            false => format!("(E'{text}'::text)"),
        }
    };
    let rows: Vec<_> = lines.iter().map(quoted).collect();
    format!("SELECT * FROM (VALUES {}) AS route (\"QUERY PLAN\")", rows.join(", "))
}

fn lines(query: Node<'_>, of: &Kind, cx: Context<'_>) -> Vec<String> {
    let as_it_is = || "  Each node: the statement as it is".to_owned();
    match of {
        Kind::Keys { keys, .. } => {
            let keys: Vec<_> = keys.iter().map(key).collect();
            vec![format!("One node, by the distribution column: {}", keys.join(", "))]
        }
        Kind::Leaf(shard) => vec![format!("The node of shard {shard}")],
        Kind::Home => vec!["The home node".to_owned()],
        Kind::Any | Kind::Apart => vec!["Any node".to_owned()],
        Kind::Ddl(_) => vec!["Every node, as DDL".to_owned()],
        Kind::Refused(report) => {
            if let Some(wanted) = computed::of(query, cx) {
                let what = match wanted {
                    Wanted::Keys(_) => "its distribution columns have",
                    Wanted::Rows(_) => "the rows of its query have",
                };
                let when = format!("when {what} been computed on one");
                return vec![format!("Each node gets its own of the rows, {when}")];
            }
            let hint = report.hint.iter().map(|hint| format!("  Hint: {hint}"));
            std::iter::once(format!("Refused: {}", report.message)).chain(hint).collect()
        }
        Kind::Every { merge, .. } => {
            let why = why_not_as_it_is(query, cx);
            let not = |rung: &str| format!("{rung} (not Concat: {why})");
            match merge {
                Merge::Concat => vec!["Concat".to_owned(), as_it_is()],
                Merge::Rows(_) => vec!["Each node gets its own of the rows".to_owned()],
                Merge::CopyIn(_) => vec!["Each node gets its own of the rows".to_owned()],
                Merge::CopyOut(_) | Merge::CopyRows(_) => {
                    vec!["The data of every node".to_owned()]
                }
                Merge::Changes { .. } => vec!["Every node changes its rows".to_owned(), as_it_is()],
                Merge::Alike(_) => {
                    vec!["Every node, which has the whole table".to_owned(), as_it_is()]
                }
                Merge::Fold(_) => vec![not("Fold"), as_it_is()],
                Merge::Ordered(o) => {
                    let each = o.text.as_ref();
                    let each = each.map_or_else(as_it_is, |text| format!("  Each node: {text}"));
                    vec![not("Ordered"), each]
                }
                Merge::Collect(c) => {
                    let one = if c.at_home { "The home node" } else { "One node" };
                    vec![
                        format!("Collect (not Concat: {})", why_collected(query, cx)),
                        format!("  Each node: {}", c.partial),
                        format!("  {one}: {}", c.statement()),
                        LIMIT.to_owned(),
                    ]
                }
                Merge::Combine(c) => {
                    let declare = c.cursor.as_ref().map_or("", |cursor| &cursor.head);
                    vec![
                        not("Combine"),
                        format!("  Each node: {}", c.partial),
                        format!("  One node: {declare}{}", c.last),
                        LIMIT.to_owned(),
                    ]
                }
            }
        }
    }
}

fn key(key: &Key) -> String {
    let part = |source: &KeySource| match source {
        KeySource::Param { index, .. } => format!("${}", index + 1),
        KeySource::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        KeySource::Integer { negative, digits } => {
            format!("{}{}", if *negative { "-" } else { "" }, String::from_utf8_lossy(digits))
        }
        KeySource::Literal { .. } => "a constant".to_owned(),
        KeySource::Null => "NULL".to_owned(),
    };
    key.iter().map(part).collect::<Vec<_>>().join(", ")
}
