//! Which tables a statement names, by PostgreSQL's scoping of WITH queries.
//!
//! A WITH query hides a table of its name only in the statement it belongs to, and there not in the
//! WITH queries before it (nor in itself, unless RECURSIVE). The target of INSERT, UPDATE, DELETE and
//! MERGE is never a WITH query.

use crate::sql::tree::{Recurse, walk};
use pg_raw_parse::{Node, nodes};

use super::plan::Kind;
use super::scope::{Named, Names};
use crate::topology::ShardId;

/// WITH within WITH, deeper than this, is not followed.
const MAX_DEPTH: usize = 64;

/// What tables a statement names.
#[derive(Debug, Default)]
pub struct Tables {
    pub distributed: bool,
    /// References to distributed tables.
    pub references: usize,
    pub local: bool,
    pub leaf: Option<ShardId>,
    pub several_leaves: bool,
    pub unclear: Option<String>,
    /// A distributed table that is asked for without its shards (ONLY).
    pub only: Option<String>,
    /// A relation leads to a distributed table.
    pub hidden: Option<Kind>,
    pub too_deep: bool,
}

pub fn tables<'a>(node: Node<'a>, names: Names<'_>) -> Tables {
    let mut search = Search { names, ctes: Vec::new(), depth: 0, found: Tables::default() };
    search.statement(node);
    search.found
}

/// The WITH clause of a statement.
pub fn with_of<'a>(node: Node<'a>) -> Option<&'a nodes::WithClause> {
    match node {
        Node::SelectStmt(s) => s.with_clause(),
        Node::InsertStmt(s) => s.with_clause(),
        Node::UpdateStmt(s) => s.with_clause(),
        Node::DeleteStmt(s) => s.with_clause(),
        Node::MergeStmt(s) => s.with_clause(),
        _ => None,
    }
}

/// The names of the tables and views that a statement reads or changes, whatever they are, and as
/// often as it names them.
pub fn used(node: Node<'_>, found: &mut Vec<String>) {
    let mut add = |rv: &nodes::RangeVar| {
        if let Some(name) = rv.relname() {
            found.push(name.to_owned());
        }
    };
    match node {
        Node::CopyStmt(c) if c.relation().is_some() => c.relation().into_iter().for_each(add),
        Node::CopyStmt(c) => used(c.query(), found),
        Node::ExplainStmt(e) => used(e.query(), found),
        Node::DeclareCursorStmt(d) => used(d.query(), found),
        Node::CreateTableAsStmt(c) => used(c.query(), found),
        // The walker does not know the node.
        Node::TruncateStmt(t) => t.relations().iter().for_each(|n| {
            if let Node::RangeVar(rv) = n {
                add(rv);
            }
        }),
        Node::RefreshMatViewStmt(r) => r.relation().into_iter().for_each(add),
        Node::SelectStmt(_)
        | Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_) => {
            target_of(node).into_iter().for_each(&mut add);
            walk::<()>(node, |n| {
                if let Node::RangeVar(rv) = n {
                    add(rv);
                }
                Recurse::yes()
            });
        }
        _ => {}
    }
}

fn target_of<'a>(node: Node<'a>) -> Option<&'a nodes::RangeVar> {
    match node {
        Node::InsertStmt(s) => s.relation(),
        Node::UpdateStmt(s) => s.relation(),
        Node::DeleteStmt(s) => s.relation(),
        Node::MergeStmt(s) => s.relation(),
        _ => None,
    }
}

struct Search<'a, 'n> {
    names: Names<'n>,
    ctes: Vec<&'a str>,
    depth: usize,
    found: Tables,
}

impl<'a> Search<'a, '_> {
    fn statement(&mut self, node: Node<'a>) {
        if self.depth > MAX_DEPTH {
            self.found.too_deep = true;
            return;
        }
        self.depth += 1;
        let outside = self.ctes.len();
        if let Some(with) = with_of(node) {
            if with.recursive {
                self.ctes.extend(with.ctes().iter().filter_map(|c| c.ctename()));
            }
            for cte in with.ctes().iter() {
                self.statement(cte.ctequery());
                if !with.recursive {
                    self.ctes.extend(cte.ctename());
                }
            }
        }
        let target = target_of(node);
        if let Some(rv) = target {
            self.table(rv, true);
        }
        let mut inner = Vec::new();
        let mut named = Vec::new();
        walk::<()>(node, |n| match n {
            // FOR UPDATE OF t names what FROM has named already.
            Node::LockingClause(_) | Node::WithClause(_) => Recurse::no(),
            // A query without WITH adds nothing to the scope it stands in.
            Node::SelectStmt(s) if s.with_clause().is_none() => Recurse::yes(),
            Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => {
                inner.push(n);
                Recurse::no()
            }
            Node::RangeVar(rv) => {
                if !target.is_some_and(|t| std::ptr::eq(t, rv)) {
                    named.push(rv);
                }
                Recurse::yes()
            }
            _ => Recurse::yes(),
        });
        for rv in named {
            self.table(rv, false);
        }
        for n in inner {
            self.statement(n);
        }
        self.ctes.truncate(outside);
        self.depth -= 1;
    }

    fn table(&mut self, rv: &nodes::RangeVar, is_target: bool) {
        let is_cte = !is_target
            && rv.schemaname().is_none()
            && rv.relname().is_some_and(|name| self.ctes.contains(&name));
        if is_cte {
            return;
        }
        let t = &mut self.found;
        match self.names.look_up(rv) {
            Named::Distributed(table) => {
                if !rv.inh {
                    t.only = Some(table.name.clone());
                }
                t.distributed = true;
                t.references += 1;
            }
            Named::Leaf(shard) => {
                t.several_leaves |= t.leaf.is_some_and(|s| s != shard);
                t.leaf = Some(shard);
            }
            Named::Local => {
                t.local = true;
                let name = rv.relname().unwrap_or_default();
                if t.hidden.is_none() {
                    t.hidden = super::hidden::relation(name, is_target, self.names);
                }
            }
            Named::Unclear(name) => t.unclear = Some(name),
        }
    }
}
