//! FROM items and conditions: which table references there are, and which equalities hold between them.

use std::ops::Range;

use pg_raw_parse::list::NodeList;
use pg_raw_parse::raw::{A_Expr_Kind, BoolExprType, JoinType, SubLinkType};
use pg_raw_parse::{Node, nodes};

use super::settle::{Equalities, Equality, Member};
use super::{Gives, Goal, MAX_DEPTH, Outcome, Prover, refuse};
use crate::router::constant::constant;
use crate::router::scope::{Column, Level, Named, TableRef, columns_of};
use crate::sql::tree::{Recurse, walk};

impl<'a> Prover<'a> {
    pub(super) fn table(&mut self, rv: &nodes::RangeVar, level: &mut Level<'_>) -> Outcome<()> {
        let name = rv.relname().unwrap_or_default();
        let cte = || self.ctes.iter().rev().find(|(cte, _)| cte == name);
        if let (None, Some((_, gives))) = (rv.schemaname(), cte()) {
            self.push_query(gives.clone(), name, rv.alias(), level);
            return Ok(());
        }
        match self.names.look_up(rv) {
            Named::Distributed(table) => {
                if self.found.group.is_some_and(|g| g != table.group) {
                    return refuse(
                        "the statement uses distributed tables of different colocation groups",
                        "Distribute the tables by the same key types and shard count, or query them separately.",
                    );
                }
                self.found.group = Some(table.group);
                self.found.references += 1;
                let alias = rv.alias();
                level.tables.push(TableRef {
                    name: alias.and_then(|a| a.aliasname()).unwrap_or(&table.name).to_owned(),
                    aliased: alias.is_some(),
                    renamed: alias.is_some_and(|a| !a.colnames().is_empty()),
                    hidden: false,
                    nullable: false,
                    table,
                });
            }
            // Every node has the same rows of it.
            Named::Reference(table) => {
                let columns = table.columns.iter().map(|c| c.name.clone()).collect();
                self.push_query(Gives::Constant(Some(columns)), name, rv.alias(), level);
            }
            Named::Leaf(_) | Named::Local => {
                self.found.local.get_or_insert_with(|| name.to_owned());
                level.opaque = true;
            }
            Named::Unclear(name) => {
                return refuse(
                    &format!("cannot tell which table \"{name}\" means"),
                    "The session has its own search_path or temporary tables: write the schema before the table's name.",
                );
            }
        }
        Ok(())
    }

    /// One item of FROM, with what is joined in it.
    pub(super) fn table_item(
        &mut self,
        item: Node<'a>,
        level: &mut Level<'_>,
        equalities: &mut Equalities,
        depth: usize,
    ) -> Outcome<()> {
        if depth > MAX_DEPTH {
            return refuse("the statement is nested too deeply", "Split it.");
        }
        match item {
            Node::RangeVar(rv) => self.table(rv, level),
            Node::JoinExpr(j) => {
                if j.alias().is_some() || j.is_natural {
                    // An alias hides the tables inside; NATURAL merges columns we do not follow.
                    level.opaque = true;
                }
                let start = level.tables.len();
                self.table_item(j.larg(), level, equalities, depth + 1)?;
                let middle = level.tables.len();
                self.table_item(j.rarg(), level, equalities, depth + 1)?;
                let end = level.tables.len();
                let (proves, nullable) = match j.jointype {
                    JoinType::JOIN_INNER => (Some(None), start..start),
                    JoinType::JOIN_LEFT => (Some(Some(middle..end)), middle..end),
                    JoinType::JOIN_RIGHT => (Some(Some(start..middle)), start..middle),
                    // Of a FULL JOIN neither side is filtered by the condition.
                    _ => (None, start..end),
                };
                level.tables[nullable].iter_mut().for_each(|t| t.nullable = true);
                if let Some(proves) = proves {
                    self.using(j, start..middle, middle..end, level, equalities, proves.clone());
                    self.conjuncts(j.quals(), level, &(start..end), equalities, proves, depth + 1);
                }
                if j.alias().is_some() {
                    level.tables[start..end].iter_mut().for_each(|t| t.hidden = true);
                }
                Ok(())
            }
            Node::RangeFunction(f) => {
                match columns_of(f, self.functions) {
                    Some(other) => level.others.push(other),
                    None => level.opaque = true,
                }
                Ok(())
            }
            Node::RangeSubselect(r) => match r.subquery() {
                Node::SelectStmt(s)
                    if self.goal == Goal::Rows && level.outer.is_none() && !r.lateral =>
                {
                    let gives = self.derived(s, depth + 1)?;
                    self.push_query(gives, "", r.alias(), level);
                    Ok(())
                }
                _ => {
                    level.opaque = true;
                    Ok(())
                }
            },
            Node::RangeTableFunc(_) => {
                level.opaque = true;
                Ok(())
            }
            _ => {
                level.opaque = true;
                let mut table = false;
                walk::<()>(item, |n| {
                    table |= matches!(n, Node::RangeVar(_));
                    Recurse::yes()
                });
                if table {
                    self.found.unproven.get_or_insert_with(|| "a sampled table".to_owned());
                    self.found.local.get_or_insert_with(|| "a sampled table".to_owned());
                }
                Ok(())
            }
        }
    }

    fn using(
        &self,
        j: &nodes::JoinExpr,
        left: Range<usize>,
        right: Range<usize>,
        level: &mut Level<'_>,
        equalities: &mut Equalities,
        proves: Option<Range<usize>>,
    ) {
        for column in j.using_clause().iter().filter_map(|s| s.sval()) {
            let key = |range: &Range<usize>| {
                let mut having = range.clone().filter(|&at| {
                    let t = &level.tables[at];
                    !t.renamed && t.table.columns.iter().any(|c| c.name == column)
                });
                let at = having.next()?;
                let key = level.tables[at].table.key_columns.iter().position(|k| k == column)?;
                // Merged with one before, it is that one.
                let one = having.next().is_none() || level.merged.iter().any(|m| m == column);
                one.then_some((0, at, key))
            };
            if let (Some(a), Some(b)) = (key(&left), key(&right)) {
                equalities.all.push((Equality::Same(a, b), proves.clone()));
                // Of an outer join it is the left one's, unless that is the nullable side.
                if proves.as_ref().is_none_or(|p| p.start >= right.start) {
                    level.merged.push(column.to_owned());
                }
            }
        }
    }

    /// Collects the equalities among the conjuncts of a condition.
    pub(super) fn conjuncts(
        &self,
        condition: Node<'a>,
        level: &Level<'_>,
        sees: &Range<usize>,
        equalities: &mut Equalities,
        proves: Option<Range<usize>>,
        depth: usize,
    ) {
        if depth > MAX_DEPTH {
            return;
        }
        match condition {
            Node::BoolExpr(b) if b.boolop == BoolExprType::AND_EXPR => {
                for arg in b.args().iter() {
                    self.conjuncts(arg, level, sees, equalities, proves.clone(), depth + 1);
                }
            }
            Node::A_Expr(e) if e.kind == A_Expr_Kind::AEXPR_OP && is_equals(e) => {
                let column = |n: Node<'_>| match n {
                    Node::ColumnRef(c) => level.key_column(c, sees),
                    _ => None,
                };
                match (column(e.lexpr()), column(e.rexpr())) {
                    (Some(a), Some(b)) => equalities.all.push((Equality::Same(a, b), proves)),
                    (Some(c), None) => {
                        self.constant_equality(c, e.rexpr(), level, equalities, proves)
                    }
                    (None, Some(c)) => {
                        self.constant_equality(c, e.lexpr(), level, equalities, proves)
                    }
                    (None, None) => {}
                }
            }
            Node::SubLink(l) if l.sub_link_type == SubLinkType::ANY_SUBLINK => {
                is_in(l, level, sees, equalities);
            }
            _ => {}
        }
    }

    fn constant_equality(
        &self,
        column: Column,
        value: Node<'a>,
        level: &Level<'_>,
        equalities: &mut Equalities,
        proves: Option<Range<usize>>,
    ) {
        let (0, at, key) = column else { return };
        let table = &level.tables[at].table;
        let Some(types) = self.names.schema.key_types(table.group) else { return };
        let Some(&ty) = types.get(key) else { return };
        if let Node::ParamRef(p) = value {
            equalities.compared.push((p.number, p.location, ty));
        }
        if let Some(source) = constant(value, ty, self.text, self.literals) {
            equalities.all.push((Equality::Is(column, source), proves));
        }
    }
}

/// `x IN (SELECT y ...)`: of the sub-select only rows whose y is x matter.
fn is_in(l: &nodes::SubLink, level: &Level<'_>, sees: &Range<usize>, equalities: &mut Equalities) {
    let Node::SelectStmt(s) = l.subselect() else { return };
    if !l.oper_name().is_empty() && !is_named_equals(l.oper_name()) {
        return;
    }
    let mut add = |target: usize, tested: Node<'_>| {
        if let Node::ColumnRef(c) = tested
            && let Some(column) = level.key_column(c, sees)
        {
            equalities.members.push((s, Member { column, target }));
        }
    };
    match l.testexpr() {
        Node::RowExpr(r) => r.args().iter().enumerate().for_each(|(at, n)| add(at, n)),
        tested => add(0, tested),
    }
}

fn is_equals(e: &nodes::A_Expr) -> bool {
    is_named_equals(e.name())
}

fn is_named_equals(name: &NodeList) -> bool {
    let last = name.iter().next_back().and_then(|n| n.as_str());
    let schema = if name.len() > 1 { name.iter().next().and_then(|n| n.as_str()) } else { None };
    last == Some("=") && schema.is_none_or(|s| s == "pg_catalog")
}
