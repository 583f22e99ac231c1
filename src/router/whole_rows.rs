//! Values whose type or number is another one on each node.
//!
//! A table's row type has its number on each node, and a client that is told one looks it up at home.
//! So a row of a distributed table as one value is passed on only where it becomes something else first.

use hashbrown::{HashMap, HashSet};
use pg_raw_parse::{Node, nodes};

use super::analyze::{Context, refused};
use super::node_bound::name_of;
use super::plan::Kind;
use super::scope::Named;
use crate::sql::tree::{Recurse, walk};

/// Built-in functions that make of a row what has no type of its own.
const CONVERTING: [&str; 14] = [
    "count",
    "row_to_json",
    "to_json",
    "to_jsonb",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "json_build_array",
    "jsonb_build_array",
    "json_build_object",
    "jsonb_build_object",
    "concat",
    "format",
];

/// Why a statement on distributed tables cannot be carried out for such a value in it.
pub fn refused_in(node: Node<'_>, cx: Context<'_>) -> Option<Kind> {
    let mut rows = Rows::default();
    rows.look(node, cx);
    walk::<()>(node, |n| {
        rows.look(n, cx);
        Recurse::yes()
    });
    rows.columns.iter().find_map(|c| rows.judge(c))
}

#[derive(Default)]
struct Rows<'a> {
    /// The distributed tables by the names they go by, and the schemas of those without an alias.
    tables: HashMap<String, Option<String>>,
    /// The columns of all of them.
    names: HashSet<String>,
    columns: Vec<&'a nodes::ColumnRef>,
    /// Where a row becomes something else.
    converted: HashSet<*const nodes::ColumnRef>,
    /// Where `t.*` stands for the columns one by one.
    expanded: HashSet<*const nodes::ColumnRef>,
}

impl<'a> Rows<'a> {
    fn look(&mut self, node: Node<'a>, cx: Context<'_>) {
        let convert = |rows: &mut Self, n: Node<'a>| {
            if let Node::ColumnRef(c) = n {
                rows.converted.insert(c);
            }
        };
        let expand = |rows: &mut Self, n: Node<'a>| {
            if let Node::ColumnRef(c) = n {
                rows.expanded.insert(c);
            }
        };
        match node {
            Node::RangeVar(rv) => {
                if let Named::Distributed(table) = cx.names.look_up(rv) {
                    self.names.extend(table.columns.iter().map(|c| c.name.clone()));
                    match rv.alias() {
                        Some(alias) => {
                            let columns = alias.colnames().iter();
                            self.names
                                .extend(columns.filter_map(|c| c.as_str().map(str::to_owned)));
                            let name = alias.aliasname().unwrap_or_default();
                            self.tables.insert(name.to_owned(), None);
                        }
                        None => {
                            self.tables.insert(table.name.clone(), Some(table.schema.clone()));
                        }
                    }
                }
            }
            Node::ColumnRef(c) => self.columns.push(c),
            Node::ResTarget(t) => expand(self, t.val()),
            Node::RowExpr(r) => r.args().iter().for_each(|n| expand(self, n)),
            Node::NullTest(t) => convert(self, t.arg()),
            Node::A_Indirection(i) => convert(self, i.arg()),
            Node::TypeCast(t) => {
                let name = t.type_name().and_then(|t| t.names().iter().next_back()?.sval());
                if matches!(name, Some("text" | "varchar")) {
                    convert(self, t.arg());
                }
            }
            Node::FuncCall(f) => {
                let known =
                    |name: &str| CONVERTING.contains(&name) && cx.functions.is_builtin(name);
                if name_of(f).is_some_and(|(_, name)| known(name)) {
                    f.args().iter().for_each(|n| convert(self, n));
                }
            }
            _ => {}
        }
    }

    fn judge(&self, c: &'a nodes::ColumnRef) -> Option<Kind> {
        let parts: Vec<Node<'a>> = c.fields().iter().collect();
        let is_table = |n: &Node<'a>| n.as_str().filter(|name| self.tables.contains_key(*name));
        if parts.last().and_then(|n| n.as_str()) == Some("tableoid") {
            return Some(refused(
                "system column tableoid of a distributed table is not supported",
                "It is another number on each node.",
            ));
        }
        let at: *const nodes::ColumnRef = c;
        let row = match parts.as_slice() {
            [name] => is_table(name).filter(|name| !self.names.contains(*name)),
            [.., table, Node::A_Star(_)] if !self.expanded.contains(&at) => is_table(table),
            [schema, table] => is_table(table).filter(|t| {
                let schema = schema.as_str();
                schema.is_some() && self.tables.get(*t).is_some_and(|s| s.as_deref() == schema)
            }),
            _ => None,
        };
        row.filter(|_| !self.converted.contains(&at)).map(|name| {
            refused(
                format!("a row of the distributed table \"{name}\" as one value is not supported"),
                "Its type has another number on each node. Name the columns, or use row_to_json().",
            )
        })
    }
}
