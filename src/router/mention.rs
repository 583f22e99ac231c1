//! Which columns of its tables a query can read, by the names that are written in it.
//!
//! A column is read only if its name stands somewhere, or through a star, a whole row, NATURAL, or names
//! given to all columns in their order. So what is found here may be more than what is read, and is never
//! less: a column that is left out has no name in the text that could have meant it.

use hashbrown::{HashMap, HashSet};
use pg_raw_parse::{Node, nodes};

use super::facts::{Facts, Relation};
use crate::sql::tree::{Recurse, walk};

/// What a query names.
#[derive(Default)]
pub struct Mentions<'a> {
    /// Names without a table's, which may be a column of any.
    bare: HashSet<&'a str>,
    /// Names behind a table's.
    of: HashMap<&'a str, HashSet<&'a str>>,
    /// Tables of which all columns are read, by the name they go by.
    whole: HashSet<&'a str>,
    /// The same, by where they stand.
    starred: HashSet<*const nodes::RangeVar>,
    /// All columns of all tables.
    all: bool,
}

/// A column that is named with its table's schema, or the rows of `TABLE t`: what keeps the table from
/// being something else in the same text.
pub enum Tied {
    Schema(String),
    Command,
}

impl<'a> Mentions<'a> {
    /// What a query names, whose facts these are.
    ///
    /// # Errors
    /// It names something in words that mean a table only.
    pub fn of(query: Node<'a>, facts: &Facts<'a>) -> Result<Self, Tied> {
        let mut found = Self::default();
        let mut joins = HashSet::new();
        let mut see = |n: Node<'a>| match n {
            Node::JoinExpr(j) => {
                found.all |= j.is_natural;
                found.bare.extend(j.using_clause().iter().filter_map(|s| s.sval()));
                if let Some(alias) = j.alias() {
                    joins.extend(alias.aliasname());
                    found.all |= !alias.colnames().is_empty();
                }
            }
            Node::SelectStmt(s) if s.target_list().iter().any(|t| is_bare_star(t.val())) => {
                s.from_clause().iter().for_each(|item| found.star(item));
            }
            _ => {}
        };
        see(query);
        walk::<()>(query, |n| {
            see(n);
            Recurse::yes()
        });
        let tables = facts.relations.iter().map(name_of).collect();
        for column in &facts.columns {
            found.column(column, &joins, &tables)?;
        }
        Ok(found)
    }

    /// `*` stands for the columns of this item of FROM.
    fn star(&mut self, item: Node<'a>) {
        let mut items = vec![item];
        while let Some(item) = items.pop() {
            match item {
                Node::RangeVar(rv) => {
                    self.starred.insert(rv);
                }
                Node::JoinExpr(j) => items.extend([j.larg(), j.rarg()]),
                _ => {}
            }
        }
    }

    fn column(
        &mut self,
        c: &'a nodes::ColumnRef,
        joins: &HashSet<&str>,
        tables: &HashSet<&str>,
    ) -> Result<(), Tied> {
        let fields = c.fields();
        let name = |at: usize| fields.get(at).and_then(Node::as_str);
        match (fields.len(), name(0), name(1)) {
            // Its table is known by where the star stands.
            (1, None, _) if c.location < 0 => return Err(Tied::Command),
            (1, None, _) => {}
            (1, Some(one), _) => {
                self.bare.insert(one);
                if tables.contains(one) {
                    self.whole.insert(one);
                }
                self.all |= joins.contains(one);
            }
            (2, Some(table), None) => {
                self.whole.insert(table);
                self.all |= joins.contains(table);
            }
            (2, Some(table), Some(one)) => {
                self.of.entry(table).or_default().insert(one);
                // Of a join under another name it may be a column of any table in it.
                if joins.contains(table) {
                    self.bare.insert(one);
                }
            }
            _ => return Err(Tied::Schema(name(fields.len() - 2).unwrap_or_default().to_owned())),
        }
        Ok(())
    }

    /// Whether a column of a table may be read through this reference to it.
    pub fn has(&self, reference: &Relation<'_>, column: &str) -> bool {
        let name = name_of(reference);
        let renames = reference.node.alias().is_some_and(|a| !a.colnames().is_empty());
        self.all
            || renames
            || self.whole.contains(name)
            || self.starred.contains(&std::ptr::from_ref(reference.node))
            || self.bare.contains(column)
            || self.of.get(name).is_some_and(|columns| columns.contains(column))
    }
}

/// What a table goes by in the query.
pub fn name_of<'r>(reference: &Relation<'r>) -> &'r str {
    let alias = reference.node.alias().and_then(|a| a.aliasname());
    alias.or(reference.node.relname()).unwrap_or_default()
}

fn is_bare_star(n: Node<'_>) -> bool {
    matches!(n, Node::ColumnRef(c)
        if c.fields().len() == 1 && matches!(c.fields().get(0), Some(Node::A_Star(_))))
}
