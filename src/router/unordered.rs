//! What may take other rows of a reference table on one node than on another: they have the same rows, and each
//! in an order of its own.

use std::collections::{HashMap, HashSet};

use pg_raw_parse::raw::SubLinkType;
use pg_raw_parse::{Node, nodes};

use super::context::Context;
use super::facts::Relation;
use super::functions::name_of;
use super::scope::Named;
use crate::sql::tree::{Recurse, walk};

/// What in a statement may take other rows of a reference table on one node than on another.
pub fn unordered(cx: Context<'_>) -> Option<&'static str> {
    let root = cx.facts.query?;
    let kinds: HashMap<*const nodes::RangeVar, bool> = cx
        .facts
        .relations
        .iter()
        .map(|r| (std::ptr::from_ref(r.node), matches!(r.named, Named::Distributed(_))))
        .collect();
    let is_read = |r: &&Relation<'_>| matches!(r.named, Named::Reference(_)) && !r.is_target;
    cx.facts.relations.iter().find(is_read)?;
    let mut exists = HashSet::new();
    let mut selects = Vec::new();
    walk::<()>(root, |n| {
        match n {
            Node::SubLink(l) if l.sub_link_type == SubLinkType::EXISTS_SUBLINK => {
                if let Node::SelectStmt(s) = l.subselect() {
                    exists.insert(std::ptr::from_ref(s));
                }
            }
            Node::SelectStmt(s) => selects.push(s),
            _ => {}
        }
        Recurse::yes()
    });
    selects.into_iter().find_map(|s| {
        let (mut distributed, mut reference) = (false, false);
        walk::<()>(s.into(), |n| {
            if let Node::RangeVar(rv) = n {
                match kinds.get(&std::ptr::from_ref(rv)) {
                    Some(true) => distributed = true,
                    // A WITH query's name may stand for a reference table.
                    Some(false) | None => reference = true,
                }
            }
            Recurse::yes()
        });
        // Rows that a distributed table takes part in are on one node.
        if distributed || !reference {
            return None;
        }
        picks(s, exists.contains(&std::ptr::from_ref(s)), cx)
    })
}

/// What of a SELECT's own sees its rows in an order.
fn picks(s: &nodes::SelectStmt, in_exists: bool, cx: Context<'_>) -> Option<&'static str> {
    /// Aggregates that give the same in whatever order rows come.
    const ORDER_FREE: [&str; 11] = [
        "count", "sum", "avg", "min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or",
        "bit_xor",
    ];
    let limits = !matches!((s.limit_count(), s.limit_offset()), (Node::None, Node::None));
    if limits && !in_exists {
        return Some("LIMIT or OFFSET on a reference table");
    }
    if matches!(s.distinct_clause().get(0), Some(n) if !matches!(n, Node::None)) {
        return Some("DISTINCT ON of a reference table");
    }
    let mut found = None;
    walk::<()>(s.into(), |n| {
        if let Node::FuncCall(f) = n {
            let name = name_of(f).map_or("", |(_, name)| name);
            let aggregate = cx.functions.is_aggregate(name) && !ORDER_FREE.contains(&name);
            if f.over().is_some() {
                found = Some("a window function on a reference table");
            } else if aggregate {
                found = Some("an aggregate that depends on the order of a reference table's rows");
            }
        }
        Recurse::yes()
    });
    found
}
