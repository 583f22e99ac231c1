//! Which nodes a statement on every node needs: of a list of distribution keys only those that have their shards.
//!
//! `key IN (..)`, or the like by OR, as a conjunct of the WHERE of a statement on one table: no row of another key counts,
//! and on a node without them there is none. What is not plainly so narrows nothing.

use pg_raw_parse::raw::{A_Expr_Kind, BoolExprType, SetOperation};
use pg_raw_parse::{Node, nodes};

use super::constant::constant;
use super::context::Context;
use super::place::{Given, Place, Values, shard_of};
use super::plan::{Among, Key, KeySource, Kind, Merge, Plan};
use super::scope::Named;
use crate::hash::KeyType;
use crate::topology::{DistributedTable, NodeId, RoutingTable};

/// A list of more keys is not looked at.
const MOST: usize = 1000;

/// The keys that a statement which goes to every node names, if it does.
pub fn of(node: Node<'_>, kind: &Kind, cx: Context<'_>) -> Option<Among> {
    let Kind::Every { group, merge } = kind else { return None };
    let rows_as_they_are = matches!(
        merge,
        Merge::Concat
            | Merge::Ordered(_)
            | Merge::Fold(_)
            | Merge::Changes { .. }
            | Merge::Combine(_)
    );
    let (target, condition) = one_table(node)?;
    let [relation] = cx.facts.relations.as_slice() else { return None };
    let Named::Distributed(table) = &relation.named else { return None };
    let aliased = target.alias().is_some_and(|a| !a.colnames().is_empty());
    if !rows_as_they_are || aliased || table.group != *group {
        return None;
    }
    let [column] = table.key_columns.as_slice() else { return None };
    let [ty] = cx.names.schema.key_types(*group)? else { return None };
    let name = target.alias().and_then(|a| a.aliasname()).unwrap_or(&table.name);
    let is_key = |n: Node<'_>| is_column(n, name, column, table);
    let keys = conjunct(condition, &is_key, *ty, cx)?;
    Some(Among { group: *group, keys: keys.into() })
}

/// The table of a statement that has but one, and its WHERE.
fn one_table(node: Node<'_>) -> Option<(&nodes::RangeVar, Node<'_>)> {
    match node {
        Node::SelectStmt(s) if s.op == SetOperation::SETOP_NONE && s.with_clause().is_none() => {
            let mut items = s.from_clause().iter();
            match (items.next(), items.next()) {
                (Some(Node::RangeVar(rv)), None) => Some((rv, s.where_clause())),
                _ => None,
            }
        }
        Node::UpdateStmt(u) if u.from_clause().is_empty() && u.with_clause().is_none() => {
            Some((u.relation()?, u.where_clause()))
        }
        Node::DeleteStmt(d) if d.using_clause().is_empty() && d.with_clause().is_none() => {
            Some((d.relation()?, d.where_clause()))
        }
        _ => None,
    }
}

fn is_column(n: Node<'_>, table: &str, column: &str, of: &DistributedTable) -> bool {
    let Node::ColumnRef(c) = n else { return false };
    let fields: Option<Vec<&str>> = c.fields().iter().map(Node::as_str).collect();
    match fields.as_deref() {
        Some([name]) => *name == column,
        Some([qualifier, name]) => *qualifier == table && *name == column,
        Some([schema, qualifier, name]) => {
            *schema == of.schema && *qualifier == of.name && *name == column
        }
        _ => false,
    }
}

/// The keys that a conjunct of the condition lists.
fn conjunct(
    condition: Node<'_>,
    is_key: &dyn Fn(Node<'_>) -> bool,
    ty: KeyType,
    cx: Context<'_>,
) -> Option<Vec<Key>> {
    // A condition that is nested deeper than this is not gone into: nothing recurses over a tree.
    let arguments: Vec<Node<'_>> = match condition {
        Node::BoolExpr(b) if b.boolop == BoolExprType::AND_EXPR => b.args().iter().collect(),
        condition => vec![condition],
    };
    arguments.into_iter().find_map(|n| listed(n, is_key, ty, cx))
}

fn listed(
    n: Node<'_>,
    is_key: &dyn Fn(Node<'_>) -> bool,
    ty: KeyType,
    cx: Context<'_>,
) -> Option<Vec<Key>> {
    let equals = |e: &nodes::A_Expr| {
        let mut name = e.name().iter().map(|n| n.as_str());
        (name.next(), name.next()) == (Some(Some("=")), None)
    };
    let key = |value: Node<'_>| -> Option<Key> {
        Some([constant(value, ty, cx.text, cx.literals)?].into())
    };
    match n {
        Node::A_Expr(e) if e.kind == A_Expr_Kind::AEXPR_IN && equals(e) && is_key(e.lexpr()) => {
            let Node::NodeList(list) = e.rexpr() else { return None };
            (list.len() <= MOST).then(|| list.iter().map(key).collect())?
        }
        Node::BoolExpr(b) if b.boolop == BoolExprType::OR_EXPR && b.args().len() <= MOST => {
            let one = |n: Node<'_>| match n {
                Node::A_Expr(e) if e.kind == A_Expr_Kind::AEXPR_OP && equals(e) => {
                    match (is_key(e.lexpr()), is_key(e.rexpr())) {
                        (true, false) => key(e.rexpr()),
                        (false, true) => key(e.lexpr()),
                        _ => None,
                    }
                }
                _ => None,
            };
            b.args().iter().map(one).collect()
        }
        _ => None,
    }
}

/// The place of a statement on every node, without the nodes that have none of its keys; as it is, if that is not
/// certain.
pub fn narrowed(place: Place, plan: &Plan, values: &dyn Values, routes: &RoutingTable) -> Place {
    let Place::Every { group, nodes, merge } = place else { return place };
    let found = plan.among.as_ref().and_then(|among| found(among, values, routes));
    let counts = |n: &NodeId| found.as_ref().is_none_or(|found| found.contains(n));
    Place::Every { group, nodes: nodes.into_iter().filter(counts).collect(), merge }
}

/// The nodes of the keys, one at least; `None`: a key cannot be told.
fn found(among: &Among, values: &dyn Values, routes: &RoutingTable) -> Option<Vec<NodeId>> {
    let group = routes.group(among.group)?;
    let mut nodes = Vec::new();
    for key in &among.keys {
        is_plain(key, &group.key_types, values)?;
        let Some(shard) = shard_of(group, key, values).ok()? else { continue };
        if !nodes.contains(&shard.node) {
            nodes.push(shard.node);
        }
    }
    (!nodes.is_empty()).then_some(nodes)
}

/// Of a list PostgreSQL compares all values as one type: a parameter of another one could make that another than the
/// column's.
fn is_plain(key: &Key, types: &[KeyType], values: &dyn Values) -> Option<()> {
    let [KeySource::Param { index, .. }] = &**key else { return Some(()) };
    let declared = match values.param(*index)? {
        Given::Param { declared, .. } => declared,
        _ => 0,
    };
    let fits = match types {
        [ty] if ty.is_integer() => matches!(declared, 0 | 20 | 21 | 23),
        [KeyType::Text | KeyType::Varchar] => matches!(declared, 0 | 25 | 1043),
        [KeyType::Uuid] => matches!(declared, 0 | 2950),
        _ => declared == 0,
    };
    fits.then_some(())
}
